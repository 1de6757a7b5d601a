//! `pubsub cluster drain`: empties a broker before it is taken away.

use super::PATIENCE;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::OutputArgs;
use clap::Args;
use pubsub_client::Client;
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::admin::{BrokerDescription, BrokerStanding};
use std::time::Duration;

/// Between two looks at the broker.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `pubsub cluster drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The broker's id
    id: u32,
    /// Wait until the broker holds nothing any more
    #[arg(long)]
    wait: bool,
    /// Let the broker take part again; what has left it stays where it is
    #[arg(long, conflicts_with = "wait")]
    cancel: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Begins or cancels the drain, and waits for its end if asked to.
pub(super) async fn run(args: DrainArgs) -> Result<(), Failure> {
    let client = args.connection.client(PATIENCE)?;
    let broker = BrokerId(args.id);
    let mut state = if args.cancel {
        client.admin().cancel_drain(broker).await?
    } else {
        client.admin().drain(broker).await?
    };
    if args.wait {
        state = until_drained(&client, state).await?;
    }
    args.output.print(&state, described);
    Ok(())
}

async fn until_drained(client: &Client, mut state: BrokerDescription) -> Result<BrokerDescription, Failure> {
    let mut said = String::new();
    while state.state != BrokerStanding::Drained {
        if !state.draining {
            return Err(Failure::local(format!("the drain of broker {} was cancelled", state.broker_id)));
        }
        let progress = described(&state);
        if progress != said {
            eprintln!("{progress}");
            said = progress;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let brokers = client.admin().brokers().await?.brokers;
        let found = brokers.into_iter().find(|broker| broker.broker_id == state.broker_id);
        state = found.ok_or_else(|| Failure::local("the broker is no longer listed"))?;
    }
    Ok(state)
}

fn described(broker: &BrokerDescription) -> String {
    let id = broker.broker_id;
    let vote = if broker.voter && broker.draining { "; it still votes on metadata" } else { "" };
    match broker.state {
        BrokerStanding::Drained => format!("broker {id} is drained: it holds nothing any more{vote}"),
        _ if broker.draining => format!(
            "broker {id} is draining: it leads {} and holds {} partition(s){vote}",
            broker.leads, broker.holds
        ),
        _ => format!(
            "broker {id} is not draining: it leads {} and holds {} partition(s)",
            broker.leads, broker.holds
        ),
    }
}
