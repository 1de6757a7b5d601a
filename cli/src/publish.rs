//! `pubsub publish`: lines of standard input or of a file become records, in order.

mod lines;
mod report;

use crate::connection::Connection;
use crate::exit::Failure;
use clap::{Args, ValueEnum};
use lines::Lines;
use pubsub_client::Client;
use pubsub_client::producer::{BatchProducer, ProducerConfig, PublishError, Ticket};
use pubsub_client::record::NewRecord;
use pubsub_core::partition::Acks;
use report::Report;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Outcomes that may wait to be looked at; enough for several batches.
const TICKETS_MAX: usize = 10_000;
/// A line of the terminal is given up sooner than a line of a pipe: somebody is waiting.
const INTERACTIVE_PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `pubsub publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The topic
    topic: String,
    /// Key of every record: records of one key stay in order
    #[arg(long)]
    key: Option<String>,
    /// Each line is a JSON value, not text
    #[arg(long)]
    json: bool,
    /// A header of every record; can be repeated
    #[arg(long = "header", visible_alias = "headers", value_name = "K=V", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Read lines from a file; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Publish at most this many records a second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// What to wait for before a record counts as published
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    /// Publish to this partition instead of the one that the key leads to
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Stop when an answer is lost, instead of sending the records again (with --acks all brokers store them once)
    #[arg(long)]
    at_most_once: bool,
    /// Go on trying for this many seconds when no broker takes a record
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_for: u64,
    /// Show neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What a publish waits for.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum AcksArg {
    /// Every in-sync replica has it on disk
    #[default]
    All,
    /// The leader has it on disk
    Leader,
    /// Nothing
    None,
}

impl From<AcksArg> for Acks {
    fn from(arg: AcksArg) -> Self {
        match arg {
            AcksArg::All => Self::All,
            AcksArg::Leader => Self::Leader,
            AcksArg::None => Self::None,
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is no header: write NAME=VALUE")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(_) | Err(_) => {
            Err(format!("{text:?} is no rate: write how many records a second, such as 100 or 0.5"))
        }
    }
}

/// Makes records of lines.
#[derive(Clone, Debug)]
struct Recipe {
    key: Option<String>,
    json: bool,
    headers: BTreeMap<String, serde_json::Value>,
}

impl Recipe {
    fn record(&self, line: &str) -> Result<NewRecord, String> {
        let record = if self.json {
            NewRecord::json_text(line).map_err(|error| format!("invalid JSON payload: {error}"))?
        } else {
            NewRecord::text(line)
        };
        let record = record.headers(&self.headers).map_err(|error| error.to_string())?;
        Ok(match &self.key {
            Some(key) => record.key(key),
            None => record,
        })
    }
}

/// Publishes everything, or line by line when a person types.
pub(crate) async fn run(args: PublishArgs) -> Result<(), Failure> {
    let headers = args.headers.iter().cloned().map(|(name, value)| (name, value.into())).collect();
    let recipe = Recipe { key: args.key.clone(), json: args.json, headers };
    let from_stdin = args.file.as_ref().is_none_or(|file| file.as_os_str() == "-");
    let typed = from_stdin && std::io::stdin().is_terminal();
    let patience = if typed { INTERACTIVE_PATIENCE } else { Duration::from_secs(args.retry_for) };
    let client = args.connection.client(patience)?;
    let config = ProducerConfig {
        acks: args.acks.into(),
        partition: args.partition,
        idempotent: !args.at_most_once,
        retry_unknown: !args.at_most_once,
        halt_on_failure: true,
        ..ProducerConfig::default()
    };
    if typed {
        return interactive(&client, &args.topic, config, &recipe).await;
    }
    let lines = Lines::open(if from_stdin { None } else { args.file.as_deref() })?;
    let report = Report::new(args.quiet);
    let producer = client.batch_producer(&args.topic, config);
    tokio::select! {
        outcome = stream(producer, lines, &recipe, args.rate, &report) => {
            report.finish();
            outcome
        }
        _ = tokio::signal::ctrl_c() => {
            report.finish();
            Err(Failure::interrupted("interrupted; records that were sent but not acknowledged may be published"))
        }
    }
}

async fn interactive(
    client: &Client,
    topic: &str,
    config: ProducerConfig,
    recipe: &Recipe,
) -> Result<(), Failure> {
    eprintln!("Type messages and press <enter> to publish. Use /quit or Ctrl-D to exit.");
    let producer = client.producer_with(topic, config);
    let mut lines = Lines::open(None)?;
    while let Some(line) = lines.next().await? {
        match line.trim() {
            "" => continue,
            "/quit" => break,
            _ => {}
        }
        let record = match recipe.record(&line) {
            Ok(record) => record,
            Err(reason) => {
                eprintln!("[ERROR] {reason}");
                continue;
            }
        };
        match producer.publish(&record).await {
            Ok(delivery) => {
                crate::output::line(&format!("-> published offset {}", delivery.placed.offset));
                if delivery.perhaps_twice {
                    eprintln!("[WARN] an answer was lost before, so the record may be there twice");
                }
            }
            Err(error) => eprintln!("[ERROR] publish failed: {error}"),
        }
    }
    Ok(())
}

async fn stream(
    producer: BatchProducer,
    mut lines: Lines,
    recipe: &Recipe,
    rate: Option<f64>,
    report: &Report,
) -> Result<(), Failure> {
    let (tickets, outcomes) = mpsc::channel(TICKETS_MAX);
    // A record that failed ends it at once; a line that can't be read only after the lines before it.
    let feeding = async { Ok(feed(&producer, &mut lines, recipe, rate, tickets).await) };
    let (fed, ()) = tokio::try_join!(feeding, count(outcomes, report))?;
    fed?;
    producer.close().await;
    Ok(())
}

async fn feed(
    producer: &BatchProducer,
    lines: &mut Lines,
    recipe: &Recipe,
    rate: Option<f64>,
    tickets: mpsc::Sender<Ticket>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut number: u64 = 0;
    while let Some(line) = lines.next().await? {
        number += 1;
        if recipe.json && line.trim().is_empty() {
            continue;
        }
        if let Some(rate) = rate {
            #[allow(
                clippy::cast_precision_loss,
                reason = "a line count far below 2^53, and a pace needs no precision"
            )]
            let due = Duration::try_from_secs_f64((number - 1) as f64 / rate).unwrap_or(Duration::MAX);
            tokio::time::sleep_until(started + due).await;
        }
        let at_line = |reason: String| Failure::local(format!("line {number}: {reason}"));
        let record = recipe.record(&line).map_err(at_line)?;
        let ticket = match producer.send(record).await {
            Ok(ticket) => ticket,
            // The batch that failed tells why.
            Err(PublishError::Closed) => return Ok(()),
            Err(error) => return Err(at_line(error.to_string())),
        };
        if tickets.send(ticket).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Counts what became of the records, in their order, up to the first that failed.
async fn count(mut outcomes: mpsc::Receiver<Ticket>, report: &Report) -> Result<(), Failure> {
    while let Some(ticket) = outcomes.recv().await {
        match ticket.await {
            Ok(delivery) => report.acked(&delivery),
            Err(PublishError::No(error) | PublishError::Unknown(error)) => return Err(error.into()),
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Closed)) => {
                return Err(Failure::local(error.to_string()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn recipe(json: bool) -> Recipe {
        Recipe { key: Some("k".to_owned()), json, headers: BTreeMap::new() }
    }

    #[test]
    fn a_line_is_a_string_unless_it_is_said_to_be_json() {
        let text = |json, line| serde_json::to_string(&recipe(json).record(line).unwrap().wire()).unwrap();
        assert_eq!(text(false, "17"), r#"{"key":"k","value":"17"}"#);
        assert_eq!(text(true, "17"), r#"{"key":"k","value":17}"#);
        assert_eq!(text(false, r#"say "hi""#), r#"{"key":"k","value":"say \"hi\""}"#);
        assert!(recipe(true).record("{").unwrap_err().contains("invalid JSON payload"));
    }

    #[test]
    fn headers_are_split_at_the_first_sign() {
        assert_eq!(header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(header("a").is_err() && header("=b").is_err());
    }

    #[test]
    fn a_rate_must_be_a_positive_number() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
