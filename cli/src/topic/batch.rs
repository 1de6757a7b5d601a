//! `pubsub topic create-all`: many topics from a file.

use super::PATIENCE;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, table};
use clap::Args;
use pubsub_client::admin::Guard;
use pubsub_core::wire::admin::{CreateTopicRequest, CreateTopicsRequest, TopicResult, TopicsCreated};
use serde::Deserialize;
use std::io::Read;
use std::path::PathBuf;

/// Arguments of `pubsub topic create-all`.
#[derive(Debug, Args)]
pub(crate) struct CreateAllArgs {
    /// A JSON list of topics, each with the fields of `POST /admin/topics`; `-` reads standard input
    file: PathBuf,
    /// Make the owners that are given the owners of topics that are there already, whoever that was
    #[arg(long)]
    take_ownership: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// What a file may hold: a list, or what the API takes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    List(Vec<CreateTopicRequest>),
    Body(CreateTopicsRequest),
}

fn wanted(text: &str) -> Result<CreateTopicsRequest, serde_json::Error> {
    Ok(match serde_json::from_str(text)? {
        Wanted::List(topics) => CreateTopicsRequest { topics },
        Wanted::Body(body) => body,
    })
}

/// Runs the command.
pub(super) async fn run(args: CreateAllArgs) -> Result<(), Failure> {
    let unread =
        |error: std::io::Error| Failure::usage(format!("can't read {}: {error}", args.file.display()));
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(unread)?;
    } else {
        text = std::fs::read_to_string(&args.file).map_err(unread)?;
    }
    let wanted = wanted(&text)
        .map_err(|error| Failure::usage(format!("{} is no list of topics: {error}", args.file.display())))?;
    let guard = Guard { take_ownership: args.take_ownership, ..Guard::default() };
    let created = args.connection.client(PATIENCE)?.admin().create_topics(&wanted, &guard).await?;
    args.output.print(&created, shown);
    let refused = created.results.iter().filter(|result| result.problem.is_some()).count();
    if refused == 0 { Ok(()) } else { Err(Failure::local(format!("{refused} topic(s) were not created"))) }
}

fn shown(created: &TopicsCreated) -> String {
    let mut rows = table(&["topic", "outcome"]);
    for result in &created.results {
        rows.add_row([result.topic.clone(), outcome(result)]);
    }
    rows.to_string()
}

fn outcome(result: &TopicResult) -> String {
    match (&result.done, &result.problem) {
        (Some(done), _) if done.created => "created".to_owned(),
        (Some(_), _) => "was there already".to_owned(),
        (None, Some(problem)) => problem.to_string(),
        (None, None) => format!("status {}", result.status),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_holds_a_list_or_a_body() {
        let list = wanted(r#"[{"name": "a", "rf": 2}]"#).unwrap();
        assert_eq!(list, wanted(r#"{"topics": [{"name": "a", "rf": 2}]}"#).unwrap());
        assert_eq!((list.topics[0].name.as_str(), list.topics[0].replication_factor), ("a", Some(2)));
        assert!(wanted("{}").is_err());
    }
}
