//! `pubsub group`: list, describe, reset, delete.

mod reset;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, or_dash, table};
use clap::Subcommand;
use pubsub_core::wire::admin::{GroupDetail, GroupList};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Commands on consumer groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List consumer groups
    #[command(after_help = "Examples:\n  pubsub group list\n  pubsub group list -o json")]
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show who reads for a group, how far it has come and how much is left
    #[command(after_help = "Example:\n  pubsub group describe billing")]
    Describe {
        /// Its name
        group: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Have a group that nobody reads for begin somewhere else
    #[command(after_help = "Examples:\n  pubsub group reset billing --to earliest\n  \
                            pubsub group reset billing --topic events --partition 2 --to 1500\n  \
                            pubsub group reset billing --to 2026-05-01T00:00:00Z --dry-run")]
    Reset(reset::ResetArgs),
    /// Delete a group without members, and its positions
    #[command(after_help = "Example:\n  pubsub group delete billing")]
    Delete {
        /// Its name
        group: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(command: GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::List { output, connection } => {
            output.print(&connection.client(PATIENCE)?.admin().groups().await?, list);
        }
        GroupCommand::Describe { group, output, connection } => {
            output.print(&connection.client(PATIENCE)?.admin().group(&group).await?, describe);
        }
        GroupCommand::Reset(args) => reset::run(args).await?,
        GroupCommand::Delete { group, output, connection } => {
            let deleted = connection.client(PATIENCE)?.admin().delete_group(&group).await?;
            output.print(&deleted, |deleted| format!("deleted group {}", deleted.group_id));
        }
    }
    Ok(())
}

fn list(groups: &GroupList) -> String {
    if groups.groups.is_empty() {
        return "no groups; one begins with its first consumer: `pubsub subscribe TOPIC --group-id GROUP`"
            .to_owned();
    }
    let names: Vec<&str> = groups.groups.iter().map(|group| group.group_id.as_str()).collect();
    names.join("\n")
}

fn describe(group: &GroupDetail) -> String {
    let mut places =
        table(&["topic", "partition", "committed", "next", "high watermark", "lag", "consumer", ""]);
    for place in &group.partitions {
        places.add_row([
            place.topic.clone(),
            place.partition.to_string(),
            place.committed.to_string(),
            place.next_offset.to_string(),
            or_dash(place.high_watermark),
            or_dash(place.lag),
            or_dash(place.consumer_id.as_ref()),
            if place.stuck { "records wait, nobody reads them" } else { "" }.to_owned(),
        ]);
    }
    let mut members = table(&["consumer", "reads", "session ends in"]);
    for member in &group.members {
        let reads = member.assigned.iter().map(|part| format!("{}/{}", part.topic, part.partition));
        members.add_row([
            member.consumer_id.clone(),
            crate::output::list(reads),
            format!("{} ms", member.expires_in_ms),
        ]);
    }
    let members = if group.members.is_empty() { "no members".to_owned() } else { members.to_string() };
    format!("group {}, epoch {}\n\n{members}\n\n{places}", group.group_id, group.epoch)
}
