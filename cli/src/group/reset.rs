//! `pubsub group reset`: have a group begin somewhere else.

use super::PATIENCE;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, table};
use clap::Args;
use pubsub_core::wire::admin::{GroupReset, ResetGroupRequest, ResetTo};

/// Where a group is to go on.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The group's name
    group: String,
    /// Where to go on: earliest, latest, an offset, timestamp:<ms since 1970>, or a time as in RFC 3339
    #[arg(long, value_name = "WHERE")]
    to: String,
    /// Only in this topic [default: all that the group has read]
    #[arg(long)]
    topic: Option<String>,
    /// Only in this partition; may be given more than once
    #[arg(long = "partition", value_name = "N", requires = "topic")]
    partitions: Vec<u32>,
    /// Only show where the group would go on
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Resets a group.
pub(super) async fn run(args: ResetArgs) -> Result<(), Failure> {
    let request = ResetGroupRequest {
        topic: args.topic,
        partitions: (!args.partitions.is_empty()).then_some(args.partitions),
        to: ResetTo::Text(args.to),
        dry_run: args.dry_run,
    };
    let admin = args.connection.client(PATIENCE)?.admin();
    args.output.print(&admin.reset_group(&args.group, &request).await?, shown);
    Ok(())
}

fn shown(reset: &GroupReset) -> String {
    if reset.partitions.is_empty() {
        return format!("group {} has read nothing that could be reset; name a --topic", reset.group_id);
    }
    let mut places = table(&["topic", "partition", "committed before", "next"]);
    for place in &reset.partitions {
        places.add_row([
            place.topic.clone(),
            place.partition.to_string(),
            place.before.to_string(),
            place.next_offset.to_string(),
        ]);
    }
    let would = if reset.dry_run { "would go" } else { "goes" };
    format!("group {} {would} on here:\n\n{places}", reset.group_id)
}
