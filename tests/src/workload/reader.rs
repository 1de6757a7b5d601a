//! Readers without a group: one after the other record of each partition, from one broker's own replica or from any.

use super::{Route, Stage, Stop};
use crate::cluster::topic::Stored;
use crate::history::check::{Rule, Violation};
use crate::history::{History, Place, Read};
use crate::http::{Answer, Content, Http};
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a reader waits for an answer: longer than a broker waits for records.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a broker waits for a record.
const WAIT_MS: u64 = 200;
/// Time between two looks at the same partition of one replica: records come in handfuls, not one by one.
const BETWEEN: Duration = Duration::from_millis(40);

/// Whose replica a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Only what this broker's own replica shows.
    Own(u32),
    /// Whatever any broker answers.
    Any,
}

/// Returns the request's contents that makes a broker answer from its own replica, or not at all: brokers never pass on
/// what was passed on to them.
pub fn own_replica() -> Content {
    Content::default().with("x-pubsub-forwarded", "0")
}

/// Reads all `places` until it is told to stop.
pub async fn read(stage: Stage, places: Vec<Place>, from: From, seed: u64, stop: Stop) -> History {
    let name = match from {
        From::Own(broker) => format!("reader of broker {broker}"),
        From::Any => format!("reader {seed}"),
    };
    let (http, mut route) = (Http::new(), Route::new(&stage.cluster, seed));
    let mut next: BTreeMap<Place, u64> = BTreeMap::new();
    let mut history = History::default();
    while !stop.stopped() {
        for place in &places {
            let (broker, content) = match from {
                From::Own(broker) => (broker, own_replica()),
                From::Any => (route.broker, Content::default()),
            };
            let next = next.entry(place.clone()).or_default();
            let Place { topic, partition } = place;
            let url = format!(
                "{}/topics/{topic}/records?partition={partition}&from={next}&max_records=1000&wait_ms={WAIT_MS}",
                stage.cluster.url(broker)
            );
            let began = stage.clock.now();
            let answer = http.try_send("GET", &url, content, PATIENCE).await;
            let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
                route.failed(&stage.cluster).await;
                continue;
            };
            route.answered(&stage.cluster);
            match records(&answer, from) {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    let (group, via, from) = (None, broker, Some(*next));
                    *next = records.last().map_or(*next, |(offset, _)| offset + 1);
                    let (reader, place, span) = (name.clone(), place.clone(), stage.clock.since(began));
                    history.reads.push(Read { reader, group, place, via, from, records, span });
                }
                Err(error) => {
                    history
                        .noticed
                        .push(Violation::of(Rule::ReadInOrder, format!("{name}: {url}: {error:#}")));
                }
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
    history
}

/// Returns offsets and values of an answer; of another replica than the one asked for it is no answer.
fn records(answer: &Answer, from: From) -> anyhow::Result<Vec<(u64, String)>> {
    let body: Value = serde_json::from_slice(&answer.body).context("an answer that is no JSON")?;
    if let From::Own(broker) = from
        && body["replica_id"] != broker
    {
        bail!("the answer is of replica {}", body["replica_id"]);
    }
    values(&body["records"])
}

/// Returns offsets and values of a list of records.
///
/// # Errors
/// When one has no offset, or a value that is no text.
pub fn values(list: &Value) -> anyhow::Result<Vec<(u64, String)>> {
    let list = list.as_array().context("no records")?;
    let value = |record: &Value| -> anyhow::Result<(u64, String)> {
        let stored = Stored::of(record)?;
        let value = stored.value.as_str().with_context(|| format!("no text in {record}"))?;
        Ok((stored.offset, value.to_owned()))
    };
    list.iter().map(value).collect()
}
