//! `pubsub subscribe`: prints records as they come, and commits what was printed.

mod format;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::quit_if_unread;
use clap::Args;
use format::{Format, Printer};
use pubsub_client::Client;
use pubsub_client::consumer::{Batch, ConsumeError, Consumer, ConsumerConfig, Start};
use pubsub_client::transport::CallError;
use pubsub_core::ids::Offset;
use pubsub_core::limits::{POLL_RECORDS_MAX, POLL_TIMEOUT_MS_MAX};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// How long one round over the brokers lasts before the user is told that none answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after such a round, and between attempts to join a group that has no partition to give.
const PAUSE: Duration = Duration::from_secs(1);
/// While records stream, they are committed this often; each commit costs a round over the replicas.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// Arguments of `pubsub subscribe`.
#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// The topic
    topic: String,
    /// Group whose members share the topic's partitions; its position is kept
    #[arg(long, value_name = "GROUP")]
    group_id: Option<String>,
    /// Name of this consumer [default: made up, if there is a group]
    #[arg(long, value_name = "CONSUMER")]
    consumer_id: Option<String>,
    /// Where to begin: `earliest`, `latest` or an offset [default: behind the last committed record]
    #[arg(long, visible_alias = "from-offset", value_name = "WHERE", value_parser = start)]
    from: Option<Start>,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Do not commit
    #[arg(long)]
    no_commit: bool,
    /// Broker to read from, if it holds the partition
    #[arg(long, value_name = "ID")]
    prefer_replica: Option<u32>,
    /// Wait as a standby while the group has no partition to give
    #[arg(long)]
    standby: bool,
    /// How to print a record [default: `seed` at a terminal, else `value`]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Say when no records came
    #[arg(long)]
    show_idle: bool,
    /// Most records of one poll
    #[arg(long, value_name = "N", default_value_t = POLL_RECORDS_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(POLL_RECORDS_MAX)))]
    max_records: u32,
    /// Longest wait of one poll, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(0..=POLL_TIMEOUT_MS_MAX))]
    timeout: u64,
    /// Print only records
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        number => number
            .parse()
            .map(Start::Offset)
            .map_err(|_| format!("{text:?} is neither `earliest` nor `latest` nor an offset")),
    }
}

struct Session {
    consumer: Consumer,
    printer: Printer,
    /// What was printed and not committed: partition and last offset.
    uncommitted: BTreeMap<u32, Offset>,
    committed_at: Instant,
    commits: bool,
    left: u64,
    show_idle: bool,
    quiet: bool,
}

/// Prints records until the wanted number, or Ctrl-C.
pub(crate) async fn run(args: SubscribeArgs) -> Result<(), Failure> {
    if args.max == Some(0) {
        return Ok(());
    }
    let client = args.connection.client(PATIENCE)?;
    let config = config_of(&args);
    let commits = !args.no_commit && (config.group.is_some() || config.consumer.is_some());
    let default_format = if std::io::stdout().is_terminal() { Format::Seed } else { Format::Value };
    let printer = Printer::new(args.format.unwrap_or(default_format));
    let quiet = args.quiet;
    let stopped = async {
        // Without a handler Ctrl-C would end the process before the last records are committed.
        tokio::signal::ctrl_c().await.expect("signal handlers can be installed at the start");
    };
    tokio::pin!(stopped);
    let consumer = tokio::select! {
        consumer = join(&client, config, quiet) => consumer?,
        () = &mut stopped => return Ok(()),
    };
    let mut session = Session {
        consumer,
        printer,
        uncommitted: BTreeMap::new(),
        committed_at: Instant::now(),
        commits,
        left: args.max.unwrap_or(u64::MAX),
        show_idle: args.show_idle,
        quiet,
    };
    session.info(&format!("consuming topic={} partitions={:?}", args.topic, session.consumer.partitions()));
    let outcome = tokio::select! {
        outcome = session.run() => outcome,
        () = &mut stopped => Ok(()),
    };
    session.commit().await;
    if args.max.is_none() {
        session.info("stopping consumer");
    }
    session.leave().await;
    outcome
}

fn config_of(args: &SubscribeArgs) -> ConsumerConfig {
    let consumer = match (&args.consumer_id, &args.group_id) {
        (Some(consumer), _) => Some(consumer.clone()),
        (None, Some(group)) => {
            Some(format!("grp-{group}-{}-{:04x}", std::process::id(), rand::random::<u16>()))
        }
        (None, None) => None,
    };
    ConsumerConfig {
        group: args.group_id.clone(),
        consumer,
        start: args.from.unwrap_or_default(),
        prefer_replica: args.prefer_replica.filter(|id| *id != 0),
        max_records: args.max_records,
        wait: Duration::from_millis(args.timeout),
        standby: args.standby,
        ..ConsumerConfig::anonymous(&args.topic)
    }
}

/// Subscribes, waiting as long as it takes for a broker, and for the group to give a partition.
async fn join(client: &Client, config: ConsumerConfig, quiet: bool) -> Result<Consumer, Failure> {
    let mut told = false;
    loop {
        let reason = match client.consumer(config.clone()).await {
            Ok(consumer) => return Ok(consumer),
            Err(error) if passes(&error) => error.to_string(),
            Err(error) => return Err(failure_of(error)),
        };
        if !told && !quiet {
            eprintln!("[WARN] {reason}; trying on");
        }
        told = true;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether waiting may help. Joining a group twice is joining it once, so an answer that was lost is only a delay.
fn passes(error: &ConsumeError) -> bool {
    matches!(
        error,
        ConsumeError::Busy | ConsumeError::Call(CallError::Unavailable { .. } | CallError::Unknown { .. })
    )
}

fn failure_of(error: ConsumeError) -> Failure {
    match error {
        ConsumeError::Name(error) => Failure::usage(error.to_string()),
        ConsumeError::Call(error) => error.into(),
        ConsumeError::Busy | ConsumeError::Fenced { .. } => Failure::local(error.to_string()),
    }
}

impl Session {
    fn info(&self, text: &str) {
        if !self.quiet {
            eprintln!("[info] {text}");
        }
    }

    fn warn(&self, text: &str) {
        if !self.quiet {
            eprintln!("[WARN] {text}");
        }
    }

    /// Prints and commits until enough records were printed.
    async fn run(&mut self) -> Result<(), Failure> {
        while self.left > 0 {
            let batch = match self.consumer.poll().await {
                Ok(batch) => batch,
                Err(error) if passes(&error) => {
                    self.warn(&format!("poll failed: {error}; trying on"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(failure_of(error)),
            };
            if batch.retries > 0 {
                self.warn(&format!(
                    "poll failed {} time(s); reading from {} now",
                    batch.retries, batch.broker
                ));
            }
            self.print(&batch)?;
            let idle = batch.records.is_empty();
            if idle && self.show_idle {
                eprintln!(
                    "[idle] no records; committed={} next_offset={} replica={}",
                    batch.committed,
                    batch.next_offset,
                    crate::output::or_dash(batch.replica)
                );
            }
            if batch.lag == 0 || self.committed_at.elapsed() >= COMMIT_EVERY {
                self.commit().await;
            }
        }
        Ok(())
    }

    fn print(&mut self, batch: &Batch) -> Result<(), Failure> {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX);
        let records = &batch.records[..batch.records.len().min(take)];
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut write = || {
            for record in records {
                self.printer.print(&mut out, record, batch.replica)?;
            }
            out.flush()
        };
        if let Err(error) = write() {
            quit_if_unread(&error);
            return Err(Failure::local(format!("can't print: {error}")));
        }
        for record in records {
            self.uncommitted.insert(record.partition, record.offset);
        }
        self.left -= u64::try_from(records.len()).expect("a count fits 64 bits");
        Ok(())
    }

    /// Leaves the group: the next consumer need not wait for this one's session to end.
    async fn leave(self) {
        let quiet = self.quiet;
        if let Err(error) = self.consumer.leave().await
            && !quiet
        {
            eprintln!("[WARN] the group was not left, its others wait for the session to end: {error}");
        }
    }

    /// Commits what was printed. A commit that fails is told and made up for by the next one.
    async fn commit(&mut self) {
        if !self.commits {
            return;
        }
        self.committed_at = Instant::now();
        for (partition, offset) in self.uncommitted.clone() {
            match self.consumer.commit_to(partition, offset).await {
                Ok(()) => {
                    self.uncommitted.remove(&partition);
                }
                Err(ConsumeError::Fenced { .. }) => {
                    self.warn(&format!(
                        "partition {partition} has another consumer now, which reads on from its last commit"
                    ));
                    self.uncommitted.remove(&partition);
                }
                Err(error) => self.warn(&format!("commit failed: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_where_it_is_said() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("latest"), Ok(Start::Latest));
        assert_eq!(start("250"), Ok(Start::Offset(250)));
        assert!(start("-1").is_err() && start("").is_err());
    }

    #[test]
    fn an_answer_that_was_lost_does_not_end_reading() {
        let lost = CallError::Unknown { last: "no answer in time".to_owned(), request_id: "r-1".to_owned() };
        assert!(passes(&ConsumeError::Call(lost)));
        assert!(passes(&ConsumeError::Busy));
        assert!(!passes(&ConsumeError::Fenced { partition: 0 }));
    }
}
