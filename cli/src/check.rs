//! `pubsub check`: reads every replica of a topic by itself and names the first difference.

mod compare;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, table};
use clap::Args;
use compare::{Difference, Finding, Replica};
use futures::future::join_all;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pubsub_client::Client;
use pubsub_core::ids::{BrokerId, Offset};
use pubsub_core::wire::admin::PartitionDescription;
use pubsub_core::wire::client::Polled;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(10);
/// A replica that holds less than another one is given this long to catch up.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Pause between two looks at such a replica.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(200);

/// Arguments of `pubsub check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The topic
    topic: String,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// What was found in one partition.
#[derive(Debug, Serialize)]
struct PartitionReport {
    partition: u32,
    replicas: Vec<BrokerId>,
    /// Records that every replica that was compared holds alike.
    compared: u64,
    /// Replicas outside the ISR may lag behind: no difference, but worth knowing.
    notes: Vec<String>,
    finding: Option<Finding>,
}

#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    consistent: bool,
    partitions: Vec<PartitionReport>,
}

/// Compares all replicas.
pub(crate) async fn run(args: CheckArgs) -> Result<(), Failure> {
    let client = args.connection.client(PATIENCE)?;
    let topic = client.admin().topic(&args.topic).await?;
    let brokers = client.admin().brokers().await?.brokers;
    let addresses: BTreeMap<BrokerId, String> =
        brokers.into_iter().map(|broker| (broker.broker_id, broker.api_base)).collect();
    let partitions: Vec<&PartitionDescription> = topic
        .partitions
        .iter()
        .filter(|part| args.partition.is_none_or(|wanted| wanted == part.id))
        .collect();
    if partitions.is_empty() {
        return Err(Failure::usage(format!("topic {} has {} partitions", args.topic, topic.partition_count)));
    }
    let bar = progress(args.quiet);
    let mut reports = Vec::new();
    for partition in partitions {
        bar.set_message(format!("partition {}", partition.id));
        let check = PartitionCheck {
            client: &client,
            topic: &args.topic,
            addresses: &addresses,
            partition,
            bar: &bar,
        };
        reports.push(check.run().await);
    }
    bar.finish_and_clear();
    let consistent = reports.iter().all(|report| report.finding.is_none());
    let report = Report { topic: args.topic, consistent, partitions: reports };
    args.output.print(&report, report_table);
    if consistent {
        Ok(())
    } else {
        Err(Failure::local("the replicas are not alike, or could not all be read"))
    }
}

fn progress(quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos} records compared, {per_sec}, {elapsed}");
    bar.set_style(style.expect("the template is constant and right"));
    bar
}

struct PartitionCheck<'a> {
    client: &'a Client,
    topic: &'a str,
    addresses: &'a BTreeMap<BrokerId, String>,
    partition: &'a PartitionDescription,
    bar: &'a ProgressBar,
}

impl PartitionCheck<'_> {
    async fn run(&self) -> PartitionReport {
        let mut report = PartitionReport {
            partition: self.partition.id,
            replicas: self.partition.replicas.clone(),
            compared: 0,
            notes: Vec::new(),
            finding: None,
        };
        let mut replicas: Vec<Replica> = self.partition.replicas.iter().map(|id| Replica::new(*id)).collect();
        report.finding = self.walk(&mut replicas, &mut report.compared, &mut report.notes).await.err();
        report
    }

    /// Goes through all replicas side by side; ends at the end of the longest, or at the first difference.
    async fn walk(
        &self,
        replicas: &mut Vec<Replica>,
        compared: &mut u64,
        notes: &mut Vec<String>,
    ) -> Result<(), Finding> {
        let mut behind_since: Option<Instant> = None;
        loop {
            self.fill(replicas).await?;
            let step = compare::step(replicas).map_err(Finding::Difference)?;
            *compared += step;
            self.bar.inc(step);
            if step > 0 {
                behind_since = None;
                continue;
            }
            let end = replicas.iter().map(Replica::end).max().unwrap_or(0);
            let short: Vec<&Replica> = replicas.iter().filter(|replica| replica.end() < end).collect();
            if short.is_empty() {
                return Ok(());
            }
            if behind_since.get_or_insert_with(Instant::now).elapsed() < CATCH_UP {
                tokio::time::sleep(CATCH_UP_PAUSE).await;
                continue;
            }
            let in_sync = |replica: &&Replica| self.partition.isr.contains(&replica.broker);
            if let Some(replica) = short.iter().copied().find(in_sync) {
                return Err(Finding::Difference(Difference::behind(replica.broker, replica.end(), end)));
            }
            notes.extend(short.iter().map(|replica| {
                format!(
                    "broker {} is not in sync and holds only offsets below {}",
                    replica.broker,
                    replica.end()
                )
            }));
            replicas.retain(|replica| replica.end() >= end);
            behind_since = None;
        }
    }

    /// Reads on in every replica that has nothing left to compare.
    async fn fill(&self, replicas: &mut [Replica]) -> Result<(), Finding> {
        let reads = replicas.iter_mut().filter(|replica| replica.needs_more()).map(|replica| async move {
            let page = self.read(replica.broker, replica.next()).await;
            (replica, page)
        });
        for (replica, page) in join_all(reads).await {
            match page {
                Ok(page) => replica.extend(page),
                Err(reason) => {
                    return Err(Finding::Unreadable {
                        broker: replica.broker,
                        offset: replica.next(),
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    async fn read(&self, broker: BrokerId, from: Offset) -> Result<Polled, String> {
        let Some(address) = self.addresses.get(&broker) else {
            return Err("its address is not known".to_owned());
        };
        let read = self.client.admin().local_records(address, self.topic, self.partition.id, from).await;
        let page = read.map_err(|error| error.to_string())?;
        if page.replica_id != broker {
            // Comparing another replica with itself would find nothing, whatever this one holds.
            return Err(format!("broker {} answered in its place", page.replica_id));
        }
        Ok(page)
    }
}

fn report_table(report: &Report) -> String {
    let mut rows = table(&["partition", "replicas", "compared", "result"]);
    for part in &report.partitions {
        let result = match &part.finding {
            Some(finding) => finding.to_string(),
            None if part.notes.is_empty() => "alike".to_owned(),
            None => format!("alike; {}", part.notes.join("; ")),
        };
        rows.add_row([
            part.partition.to_string(),
            crate::output::list(&part.replicas),
            part.compared.to_string(),
            result,
        ]);
    }
    format!("topic {}\n\n{rows}", report.topic)
}
