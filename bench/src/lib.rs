//! Closed-loop load: a number of connections, each sending its next request when the last one is answered.
//!
//! Figures of one run say little on a shared machine: compare runs made alternately in the same minutes, and report medians.

mod connection;
mod figures;
mod follow;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use connection::Connection;
use figures::Figures;
use pubsub_core::ids::LeaderEpoch;
use pubsub_core::record::{BatchBuilder, ValueKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measures a running cluster. Sends traffic to the brokers that you name and to nobody else.
///
/// Examples
///   pubsub-bench publish --brokers http://127.0.0.1:8081 --topic bench --clients 64
///   pubsub-bench bulk --brokers http://127.0.0.1:8081 --topic bench --clients 4 --records 1000
///   pubsub-bench poll --brokers http://127.0.0.1:8081 --topic bench --clients 8
///   pubsub-bench stream --brokers http://127.0.0.1:8081 --topic bench --clients 200 --seconds 60
#[derive(Debug, Parser)]
#[command(name = "pubsub-bench", version, verbatim_doc_comment)]
pub struct Args {
    /// What to do.
    #[arg(value_enum)]
    mode: Mode,
    /// Client URL of a broker, the first of a list; the leader of the topic is asked for and used, unless --spread.
    #[arg(long, env = "PUBSUB_BROKERS", default_value = "http://127.0.0.1:8081")]
    brokers: String,
    /// The topic; it must exist.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Streams in flight on each connection over HTTP/2; 0: HTTP/1.1.
    #[arg(long, default_value_t = 0)]
    streams: usize,
    /// Bytes of one record's value.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Records of one batch (bulk), or of one answer (poll).
    #[arg(long, default_value_t = 1000)]
    records: usize,
    /// How long to measure, seconds; at most 300.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Use the named broker, whoever leads.
    #[arg(long)]
    spread: bool,
}

/// Kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One record a request, JSON.
    Publish,
    /// A binary batch a request.
    Bulk,
    /// Whole answers from the start of the topic, again and again.
    Poll,
    /// Streams of server-sent events that follow the topic from its present end.
    Stream,
    /// Long polls that follow the topic from its present end.
    Wait,
}

/// What every request looks like.
struct Plan {
    path: String,
    method: &'static str,
    content_type: &'static str,
    body: Bytes,
    records: u64,
}

/// Runs one measurement and prints one line of JSON.
///
/// # Errors
/// When no broker answers, the topic does not exist, or nothing succeeded.
pub async fn run(args: Args) -> anyhow::Result<()> {
    ensure!(args.seconds <= 300 && args.clients <= 1_024, "at most 300 seconds and 1024 clients");
    let first = args.brokers.split(',').next().unwrap_or_default().trim().trim_end_matches('/');
    let base = if args.spread { first.to_owned() } else { leader(first, &args.topic).await? };
    let address =
        base.strip_prefix("http://").context("the broker's URL must start with http://")?.to_owned();
    let begun = Instant::now();
    let mut figures = Figures::default();
    for worker in employ(&args, &address).await? {
        figures.merge(worker.await??);
    }
    let line = figures.line(begun.elapsed());
    ensure!(figures.requests > 0, "no request succeeded: {line}");
    #[expect(clippy::print_stdout, reason = "the program's product")]
    {
        println!("{line}");
    }
    Ok(())
}

/// Opens all connections and sets workers to them, who end by themselves.
async fn employ(
    args: &Args,
    address: &str,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<anyhow::Result<Figures>>>> {
    let until = tokio::time::Instant::now() + Duration::from_secs(args.seconds);
    let plan = match args.mode {
        Mode::Publish | Mode::Bulk | Mode::Poll => Some(Arc::new(plan(args)?)),
        Mode::Stream | Mode::Wait => None,
    };
    let mut workers = Vec::new();
    for _ in 0..args.clients {
        let connection = Connection::open(address, args.streams > 0).await?;
        for _ in 0..args.streams.max(1) {
            let (connection, topic) = (connection.clone(), args.topic.clone());
            workers.push(match (&plan, args.mode) {
                (Some(plan), _) => tokio::spawn(work(connection, plan.clone(), until)),
                (None, Mode::Stream) => tokio::spawn(follow::stream(connection, topic, until)),
                (None, _) => tokio::spawn(follow::wait(connection, topic, until)),
            });
        }
    }
    Ok(workers)
}

async fn leader(broker: &str, topic: &str) -> anyhow::Result<String> {
    let address = broker.strip_prefix("http://").context("the broker's URL must start with http://")?;
    let connection = Connection::open(address, false).await?;
    let (status, body) =
        connection.send("GET", &format!("/replicas/{topic}"), "text/plain", Bytes::new()).await?;
    ensure!(status == 200, "{broker} answered {status}: does topic {topic:?} exist?");
    let replicas: serde_json::Value = serde_json::from_slice(&body)?;
    let owner = &replicas["owner"];
    let listed = replicas["replicas"].as_array().context("no replicas listed")?;
    let leader =
        listed.iter().find(|replica| &replica["broker_id"] == owner).context("the topic has no leader")?;
    Ok(leader["api_base"].as_str().context("the leader has no address")?.to_owned())
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let value = "x".repeat(args.bytes);
    let topic = &args.topic;
    let publish = format!("/topics/{topic}/publish");
    Ok(match args.mode {
        Mode::Publish => Plan {
            path: publish,
            method: "POST",
            content_type: "application/json",
            body: Bytes::from(serde_json::json!({ "value": value }).to_string()),
            records: 1,
        },
        Mode::Bulk => {
            let mut batch = BatchBuilder::new();
            for _ in 0..args.records {
                batch.push(None, b"", ValueKind::Bytes, value.as_bytes());
            }
            let batch = batch.build(0, LeaderEpoch(0), 0)?;
            Plan {
                path: format!("{publish}?partition=0"),
                method: "POST",
                content_type: "application/vnd.pubsub.batch",
                body: batch.bytes().clone(),
                records: u64::from(batch.count()),
            }
        }
        Mode::Poll => Plan {
            path: format!("/topics/{topic}/records?partition=0&from=0&max_records={}", args.records),
            method: "GET",
            content_type: "application/json",
            body: Bytes::new(),
            records: args.records as u64,
        },
        Mode::Stream | Mode::Wait => bail!("followers have no plan"),
    })
}

async fn work(
    connection: Connection,
    plan: Arc<Plan>,
    until: tokio::time::Instant,
) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    while tokio::time::Instant::now() < until {
        let begun = Instant::now();
        match connection.send(plan.method, &plan.path, plan.content_type, plan.body.clone()).await {
            Ok((200, body)) => figures.success(plan.records, body.len(), begun.elapsed()),
            Ok((status, _)) => figures.failure(status),
            Err(error) => return Err(error.context("the connection broke")),
        }
    }
    Ok(figures)
}
