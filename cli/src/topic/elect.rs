//! `pubsub topic elect`: leaders by request.

use super::{PATIENCE, checked, describe};
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::OutputArgs;
use clap::Args;
use pubsub_core::ids::BrokerId;

/// Arguments of `pubsub topic elect`.
#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// The topic's name
    name: String,
    /// One partition [default: all]
    #[arg(long)]
    partition: Option<u32>,
    /// Who shall lead [default: the preferred replica]
    #[arg(long, value_name = "ID")]
    broker_id: Option<u32>,
    /// Give partitions without a leader to a replica that is not in sync: records that were acknowledged are LOST
    #[arg(long, requires = "yes_lose_records")]
    unclean: bool,
    /// Confirm that records may be lost for good
    #[arg(long, requires = "unclean")]
    yes_lose_records: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Asks for the leaders.
pub(super) async fn run(args: ElectArgs) -> Result<(), Failure> {
    let client = args.connection.client(PATIENCE)?;
    let unclean = args.unclean && args.yes_lose_records;
    let broker = args.broker_id.map(BrokerId);
    let topic = client.admin().elect(&checked(&args.name)?, args.partition, broker, unclean).await?;
    args.output.print(&topic, describe);
    Ok(())
}
