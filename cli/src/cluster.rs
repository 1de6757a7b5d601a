//! `pubsub cluster`: what the brokers are, how they see each other, what happened, and emptying one.

mod drain;
mod events;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, or_dash, table};
use clap::Subcommand;
use futures::future::join_all;
use pubsub_client::Client;
use pubsub_client::transport::Request;
use pubsub_core::wire::admin::{BrokerList, ControllerDescription};
use serde::Serialize;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
/// A broker that does not answer a question about itself within this time is shown as silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands on the whole cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the brokers, whether each is ready, and whom each takes for the controller
    #[command(
        after_help = "Examples:\n  pubsub cluster status\n  pubsub cluster status -o json\n\nExit code 1 means that a broker is silent or not ready, or that they disagree."
    )]
    Status {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what happened in the cluster, as one broker saw it
    #[command(
        after_help = "Examples:\n  pubsub cluster events\n  pubsub cluster events --follow -o json\n\n\
                      Every broker keeps its own list: name one with --broker to ask always the same."
    )]
    Events(events::EventsArgs),
    /// Move everything off a broker, before it is taken away
    #[command(after_help = "Examples:\n  pubsub cluster drain 5 --wait\n  pubsub cluster drain 5 --cancel")]
    Drain(drain::DrainArgs),
}

#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    brokers: BrokerList,
    answers: Vec<BrokerAnswer>,
}

#[derive(Debug, Serialize)]
struct BrokerAnswer {
    broker_id: pubsub_core::ids::BrokerId,
    ready: bool,
    controller: Option<ControllerDescription>,
    problem: Option<String>,
}

/// Runs one of the commands.
pub(crate) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Drain(args) => drain::run(args).await,
        ClusterCommand::Events(args) => events::run(args).await,
        ClusterCommand::Status { output, connection } => status(output, &connection.client(PATIENCE)?).await,
    }
}

async fn status(output: OutputArgs, client: &Client) -> Result<(), Failure> {
    let brokers = client.admin().brokers().await?;
    let asked = brokers.brokers.iter().map(|broker| ask(client, broker.broker_id, &broker.api_base));
    let status = Status { answers: join_all(asked).await, brokers };
    output.print(&status, status_table);
    let problems = problems(&status);
    if problems.is_empty() { Ok(()) } else { Err(Failure::local(problems.join("; "))) }
}

async fn ask(client: &Client, broker_id: pubsub_core::ids::BrokerId, url: &str) -> BrokerAnswer {
    let mut answer = BrokerAnswer { broker_id, ready: false, controller: None, problem: None };
    let once = |path: &str| Request::get(path).deadline(Duration::ZERO).patience(ANSWER_TIMEOUT);
    match client.transport().only(url) {
        Ok(only) => {
            match only.send(once("/readyz")).await {
                Ok(_) => answer.ready = true,
                Err(error) => answer.problem = Some(error.to_string()),
            }
            answer.controller = only.json(once("/admin/leader")).await.ok();
        }
        Err(error) => answer.problem = Some(error.to_string()),
    }
    answer
}

fn problems(status: &Status) -> Vec<String> {
    let mut problems: Vec<String> = status
        .answers
        .iter()
        .filter(|answer| !answer.ready)
        .map(|answer| format!("broker {} is not ready", answer.broker_id))
        .collect();
    let mut seen: Vec<_> = status
        .answers
        .iter()
        .filter_map(|answer| answer.controller.as_ref())
        .map(|seen| seen.leader_id)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() > 1 {
        problems.push("the brokers do not agree on the controller (an election may be under way)".to_owned());
    }
    problems
}

fn status_table(status: &Status) -> String {
    let mut rows = table(&[
        "broker",
        "address",
        "state",
        "ready",
        "sees controller",
        "voter",
        "leads",
        "holds",
        "sealed",
        "zone",
    ]);
    for (broker, answer) in status.brokers.brokers.iter().zip(&status.answers) {
        let state = serde_json::to_value(broker.state).ok();
        rows.add_row([
            format!("{}{}", broker.broker_id, if broker.controller { " *" } else { "" }),
            broker.api_base.clone(),
            or_dash(state.as_ref().and_then(serde_json::Value::as_str)),
            if answer.ready { "yes" } else { "no" }.to_owned(),
            or_dash(answer.controller.as_ref().and_then(|seen| seen.leader_id)),
            if broker.voter { "yes" } else { "no" }.to_owned(),
            broker.leads.to_string(),
            broker.holds.to_string(),
            or_dash(broker.sealed.map(|sealed| if sealed { "yes" } else { "no" })),
            or_dash(broker.zone.as_ref()),
        ]);
    }
    format!("controller: broker {} (*)\n\n{rows}", or_dash(status.brokers.leader_id))
}
