//! `pubsub topic move`, and waiting for moves of replicas with progress on standard error.

use super::{PATIENCE, checked, describe};
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::OutputArgs;
use clap::Args;
use pubsub_client::Client;
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::admin::{PartitionDescription, PartitionMove, ReassignRequest, TopicDescription};
use std::time::Duration;

/// Between two looks at a move.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Arguments of `pubsub topic move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The topic's name
    name: String,
    /// The partition
    #[arg(long, default_value_t = 0)]
    partition: u32,
    /// Brokers that shall hold it, preferred leader first
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,…", required_unless_present = "cancel")]
    to: Vec<u32>,
    /// Take back every move of the topic that is under way
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
    /// Do not wait until the move is over
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Moves a partition, or takes moves back.
pub(super) async fn run(args: MoveArgs) -> Result<(), Failure> {
    let client = args.connection.client(PATIENCE)?;
    let name = checked(&args.name)?;
    let topic = if args.cancel {
        client.admin().cancel_moves(&name).await?
    } else {
        let replicas = args.to.into_iter().map(BrokerId).collect();
        let moves = vec![PartitionMove { partition: args.partition, replicas }];
        client.admin().reassign(&name, &ReassignRequest { moves }).await?
    };
    let topic = if args.no_wait { topic } else { until_over(&client, topic).await? };
    args.output.print(&topic, describe);
    Ok(())
}

fn moves(partition: &PartitionDescription) -> bool {
    !partition.adding.is_empty() || !partition.removing.is_empty()
}

/// Waits until no replica of a topic moves any more, and says how far it is whenever that changed.
pub(super) async fn until_over(
    client: &Client,
    mut topic: TopicDescription,
) -> Result<TopicDescription, Failure> {
    let mut said = String::new();
    while topic.partitions.iter().any(moves) {
        let progress = progress(&topic);
        if progress != said {
            eprintln!("{progress}");
            said = progress;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        topic = client.admin().topic(&topic.name).await?;
    }
    if !said.is_empty() {
        eprintln!("topic {}: every replica is in its place", topic.name);
    }
    Ok(topic)
}

fn progress(topic: &TopicDescription) -> String {
    let moving: Vec<_> = topic.partitions.iter().filter(|partition| moves(partition)).collect();
    let behind = |partition: &&PartitionDescription| {
        partition.adding.iter().filter(|id| !partition.isr.contains(id)).count()
    };
    let waits: usize = moving.iter().map(behind).sum();
    let what =
        if waits == 0 { "old ones are dropped".to_owned() } else { format!("{waits} new ones catch up") };
    format!(
        "topic {}: replicas of {} of {} partition(s) move, {what}",
        topic.name,
        moving.len(),
        topic.partition_count
    )
}

/// Returns what moves of a partition: `+4 -2`, or a dash.
pub(super) fn change(partition: &PartitionDescription) -> String {
    let signed =
        |sign: char, ids: &[BrokerId]| ids.iter().map(move |id| format!("{sign}{id}")).collect::<Vec<_>>();
    let both = [signed('+', &partition.adding), signed('-', &partition.removing)].concat();
    if both.is_empty() { "-".to_owned() } else { both.join(" ") }
}
