//! What publishers, readers and an observer of the control plane saw, and the rules that it must obey.

use crate::cluster::leader_answer;
use crate::cluster::topic::{Stored, Topic, records_of};
use crate::http::{Content, Http};
use rand::RngExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long a publisher waits for an answer: longer than a broker takes to give up.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause after a failed request, so that a broker that is gone doesn't make a busy loop.
const PACE: Duration = Duration::from_millis(20);

/// What a publisher knows of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored at this offset.
    Acked(u64),
    /// Certainly not stored.
    Refused(String),
    /// Perhaps stored, perhaps not.
    Unknown(String),
}

/// One publish.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which publisher.
    pub publisher: usize,
    /// The value, unique.
    pub value: String,
    /// Through which broker's address.
    pub via: String,
    /// What came of it.
    pub outcome: Outcome,
    /// When the answer came.
    pub ended: Instant,
}

/// Everything seen during one load.
#[derive(Debug, Default)]
pub struct History {
    /// Attempts of each publisher in its order.
    pub attempts: Vec<Attempt>,
    /// Value that some reader saw at an offset.
    pub seen: BTreeMap<u64, Value>,
    /// Broken rules noticed while reading.
    pub broken: Vec<String>,
}

#[derive(Debug, Default)]
struct Control {
    stop: AtomicBool,
    acked: AtomicUsize,
}

/// Publishers and readers at work.
#[derive(Debug)]
pub struct Load {
    control: Arc<Control>,
    publishers: JoinSet<Vec<Attempt>>,
    readers: JoinSet<(BTreeMap<u64, Value>, Vec<String>)>,
}

impl Load {
    /// Starts publishers (`acks=all`, each value once) and readers, all through random brokers of `urls`.
    pub fn start(urls: &[String], topic: &Topic, publishers: usize, readers: usize) -> Self {
        let control = Arc::new(Control::default());
        let mut load =
            Self { control: Arc::clone(&control), publishers: JoinSet::new(), readers: JoinSet::new() };
        for publisher in 0..publishers {
            load.publishers.spawn(publish(
                publisher,
                urls.to_vec(),
                topic.name.clone(),
                Arc::clone(&control),
            ));
        }
        for _ in 0..readers {
            load.readers.spawn(read(urls.to_vec(), topic.name.clone(), Arc::clone(&control)));
        }
        load
    }

    /// Returns how many records were acknowledged so far.
    pub fn acked(&self) -> usize {
        self.control.acked.load(Ordering::Relaxed)
    }

    /// Waits until `more` records were acknowledged from now on.
    pub async fn progress(&self, more: usize) {
        let aim = self.acked() + more;
        let what = format!("publishers get {more} more records acknowledged");
        crate::cluster::await_condition::eventually(&what, Duration::from_secs(30), async || {
            let acked = self.acked();
            if acked >= aim { Ok(()) } else { anyhow::bail!("{acked} of {aim}") }
        })
        .await;
    }

    /// Stops everybody and returns what they saw.
    ///
    /// # Panics
    /// When a publisher or reader panicked.
    pub async fn stop(mut self) -> History {
        self.control.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        while let Some(attempts) = self.publishers.join_next().await {
            history.attempts.extend(attempts.expect("publishers don't panic"));
        }
        while let Some(read) = self.readers.join_next().await {
            let (seen, broken) = read.expect("readers don't panic");
            history.broken.extend(broken);
            for (offset, value) in seen {
                let before = history.seen.entry(offset).or_insert_with(|| value.clone());
                if *before != value {
                    history.broken.push(format!("offset {offset} was read as {before} and as {value}"));
                }
            }
        }
        history
    }
}

async fn publish(publisher: usize, urls: Vec<String>, topic: String, control: Arc<Control>) -> Vec<Attempt> {
    let http = Http::new();
    let mut attempts = Vec::new();
    while !control.stop.load(Ordering::Relaxed) {
        let via = urls[rand::rng().random_range(0..urls.len())].clone();
        let value = format!("publisher {publisher} record {}", attempts.len());
        let outcome = publish_once(&http, &via, &topic, &value).await;
        match &outcome {
            Outcome::Acked(_) => {
                control.acked.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => tokio::time::sleep(PACE).await,
        }
        attempts.push(Attempt { publisher, value, via, outcome, ended: Instant::now() });
    }
    attempts
}

/// Publishes one value with `acks=all` and sorts what came back.
pub async fn publish_once(http: &Http, via: &str, topic: &str, value: &str) -> Outcome {
    let url = format!("{via}/topics/{topic}/publish?acks=all");
    let content = Content::json(json!({"key": "k", "value": value}).to_string());
    let answer = match http.try_send("POST", &url, content, PUBLISH_TIMEOUT).await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Outcome::Refused(format!("{error:?}")),
        Err(error) => return Outcome::Unknown(format!("{error:?}")),
    };
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match (answer.status, body["offset"].as_u64(), body["ambiguous"].as_bool()) {
        (200, Some(offset), _) => Outcome::Acked(offset),
        (_, _, Some(false)) => Outcome::Refused(answer.to_string()),
        (400..500, _, None) => Outcome::Refused(answer.to_string()),
        (503, _, None) if body["code"] == "NOT_ENOUGH_REPLICAS" => Outcome::Refused(answer.to_string()),
        _ => Outcome::Unknown(answer.to_string()),
    }
}

async fn read(
    urls: Vec<String>,
    topic: String,
    control: Arc<Control>,
) -> (BTreeMap<u64, Value>, Vec<String>) {
    let (http, mut next) = (Http::new(), 0_u64);
    let (mut seen, mut broken) = (BTreeMap::new(), Vec::new());
    while !control.stop.load(Ordering::Relaxed) {
        let via = &urls[rand::rng().random_range(0..urls.len())];
        let url = format!("{via}/topics/{topic}/records?partition=0&from={next}&max_records=500&wait_ms=300");
        let answer = match http.try_send("GET", &url, Content::default(), PUBLISH_TIMEOUT).await {
            Ok(answer) if answer.status == 200 => answer.json(),
            Ok(_) | Err(_) => {
                tokio::time::sleep(PACE).await;
                continue;
            }
        };
        match records_of(&answer) {
            Ok(records) => {
                for record in records {
                    if record.offset != next {
                        broken.push(format!("{url} answered offset {} instead of {next}", record.offset));
                    }
                    next = record.offset + 1;
                    seen.insert(record.offset, record.value);
                }
            }
            Err(error) => broken.push(format!("{url}: {error:#}")),
        }
    }
    (seen, broken)
}

impl History {
    /// Takes values that the test published itself, and looked after itself, as perhaps stored.
    pub fn adopt(&mut self, values: &[&str]) {
        let publisher = usize::MAX;
        for value in values {
            self.attempts.push(Attempt {
                publisher,
                value: (*value).to_owned(),
                via: String::new(),
                outcome: Outcome::Unknown("published by the test".to_owned()),
                ended: Instant::now(),
            });
        }
    }

    /// Returns how many records were acknowledged.
    pub fn acked(&self) -> usize {
        self.attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Acked(_))).count()
    }

    /// Returns the longest time between two acknowledgements.
    pub fn longest_pause(&self) -> Duration {
        let acked = self.attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Acked(_)));
        let mut times: Vec<Instant> = acked.map(|attempt| attempt.ended).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Prints counts and the longest pause under the name of the fault.
    pub fn report(&self, fault: &str) {
        let unknown = self.attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Unknown(_)));
        let (acked, all, unknown) = (self.acked(), self.attempts.len(), unknown.count());
        let pause = self.longest_pause();
        eprintln!("{fault}: {acked} of {all} acknowledged, {unknown} unknown, longest pause {pause:?}");
    }

    /// Checks the rules against the log that all replicas hold.
    ///
    /// # Panics
    /// With every broken rule (ten at most).
    pub fn check(&self, log: &[Stored]) {
        let mut broken = self.broken.clone();
        broken.extend(self.broken_places(log));
        broken.extend(self.broken_acks(log));
        broken.extend(self.broken_orders());
        for (offset, value) in &self.seen {
            let now =
                usize::try_from(*offset).ok().and_then(|place| log.get(place)).map(|record| &record.value);
            if now != Some(value) {
                broken.push(format!("offset {offset} was read as {value}, and is {now:?} in the end"));
            }
        }
        let shown = broken.len().min(10);
        assert!(broken.is_empty(), "{} broken rules:\n  {}", broken.len(), broken[..shown].join("\n  "));
    }

    fn broken_places(&self, log: &[Stored]) -> Vec<String> {
        let expected = 0_u64..;
        let gap = log.iter().zip(expected).find(|(record, offset)| record.offset != *offset);
        let mut broken: Vec<String> = gap
            .map(|(record, offset)| format!("offset {} stands where {offset} should", record.offset))
            .into_iter()
            .collect();
        let mut places: BTreeMap<String, u64> = BTreeMap::new();
        let known: BTreeSet<&str> = self.attempts.iter().map(|attempt| attempt.value.as_str()).collect();
        for record in log {
            let value = record.value.as_str().unwrap_or_default().to_owned();
            if !known.contains(value.as_str()) {
                broken
                    .push(format!("offset {} holds {}, which nobody published", record.offset, record.value));
            }
            if let Some(before) = places.insert(value.clone(), record.offset) {
                broken.push(format!("{value:?} is stored at {before} and again at {}", record.offset));
            }
        }
        broken
    }

    fn broken_acks(&self, log: &[Stored]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut given: BTreeMap<u64, &str> = BTreeMap::new();
        let stored: BTreeSet<&str> = log.iter().filter_map(|record| record.value.as_str()).collect();
        for attempt in &self.attempts {
            match &attempt.outcome {
                Outcome::Acked(offset) => {
                    if let Some(other) = given.insert(*offset, &attempt.value) {
                        broken
                            .push(format!("offset {offset} was given to {other:?} and {:?}", attempt.value));
                    }
                    let place = usize::try_from(*offset).ok().and_then(|place| log.get(place));
                    if place.is_none_or(|record| record.value != attempt.value.as_str()) {
                        let there = place.map(|record| &record.value);
                        broken.push(format!("acknowledged {attempt:?} is lost: there is {there:?}"));
                    }
                }
                Outcome::Refused(why) if stored.contains(attempt.value.as_str()) => {
                    broken.push(format!("{:?} was refused ({why}), but is stored", attempt.value));
                }
                Outcome::Refused(_) | Outcome::Unknown(_) => {}
            }
        }
        broken
    }

    fn broken_orders(&self) -> Vec<String> {
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        let mut broken = Vec::new();
        for attempt in &self.attempts {
            if let Outcome::Acked(offset) = attempt.outcome {
                let before = last.insert(attempt.publisher, offset);
                if before.is_some_and(|before| before >= offset) {
                    broken
                        .push(format!("{:?} at {offset} follows {before:?} of its publisher", attempt.value));
                }
            }
        }
        broken
    }
}

/// Watches who claims to be controller.
#[derive(Debug)]
pub struct ControllerWatch {
    stop: Arc<AtomicBool>,
    watchers: JoinSet<BTreeSet<(u64, u32)>>,
}

impl ControllerWatch {
    /// Starts asking every broker all the time.
    pub fn start(brokers: Vec<(u32, String)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watchers = JoinSet::new();
        for (id, url) in brokers {
            let stop = Arc::clone(&stop);
            watchers.spawn(async move {
                let (http, mut claims) = (Http::new(), BTreeSet::new());
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, epoch, true)) = leader_answer(&http, &url).await {
                        claims.insert((epoch, id));
                    }
                    tokio::time::sleep(PACE).await;
                }
                claims
            });
        }
        Self { stop, watchers }
    }

    /// Stops, and checks that no epoch had two controllers; returns who had which.
    ///
    /// # Panics
    /// When one had.
    pub async fn stop(mut self) -> BTreeMap<u64, u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut controllers: BTreeMap<u64, u32> = BTreeMap::new();
        while let Some(claims) = self.watchers.join_next().await {
            for (epoch, id) in claims.expect("watchers don't panic") {
                let other = *controllers.entry(epoch).or_insert(id);
                assert_eq!(other, id, "brokers {other} and {id} both were controller of epoch {epoch}");
            }
        }
        controllers
    }
}

#[cfg(test)]
mod tests {
    //! A checker that can't find faults proves nothing.
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn attempt(publisher: usize, value: &str, outcome: Outcome) -> Attempt {
        Attempt { publisher, value: value.to_owned(), via: String::new(), outcome, ended: Instant::now() }
    }

    fn log(values: &[&str]) -> Vec<Stored> {
        let stored = |(offset, value): (usize, &&str)| Stored {
            offset: u64::try_from(offset).unwrap(),
            ts_ms: 0,
            key: Value::Null,
            value: json!(value),
            headers: json!({}),
        };
        values.iter().enumerate().map(stored).collect()
    }

    fn history() -> History {
        History {
            attempts: vec![
                attempt(0, "a", Outcome::Acked(0)),
                attempt(0, "b", Outcome::Unknown("timeout".to_owned())),
                attempt(0, "c", Outcome::Acked(2)),
                attempt(1, "d", Outcome::Refused("not enough".to_owned())),
                attempt(1, "e", Outcome::Acked(1)),
            ],
            seen: BTreeMap::from([(0, json!("a")), (1, json!("e"))]),
            broken: Vec::new(),
        }
    }

    fn found(history: &History, log: &[Stored]) -> String {
        let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history.check(log)));
        check.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap()).unwrap_or_default()
    }

    #[test]
    fn a_right_history_is_passed_whether_or_not_the_unknown_record_is_there() {
        assert_eq!(found(&history(), &log(&["a", "e", "c"])), "");
        assert_eq!(found(&history(), &log(&["a", "e", "c", "b"])), "");
    }

    #[test]
    fn every_kind_of_loss_is_found() {
        for (values, rule) in [
            (&["a", "e"][..], "is lost"),
            (&["a", "c", "e"], "is lost"),
            (&["a", "e", "c", "d"], "was refused"),
            (&["a", "e", "c", "a"], "stored at 0 and again"),
            (&["a", "e", "c", "stranger"], "nobody published"),
        ] {
            let found = found(&history(), &log(values));
            assert!(found.contains(rule), "{values:?}: {found:?} does not say {rule:?}");
        }
    }

    #[test]
    fn an_offset_given_twice_a_broken_order_and_a_changed_read_are_found() {
        let mut twice = history();
        twice.attempts.push(attempt(2, "f", Outcome::Acked(2)));
        assert!(found(&twice, &log(&["a", "e", "c"])).contains("was given to"));
        let mut order = history();
        order.attempts.push(attempt(0, "f", Outcome::Acked(1)));
        assert!(found(&order, &log(&["a", "e", "c"])).contains("of its publisher"));
        let mut read = history();
        read.seen.insert(2, json!("something else"));
        assert!(found(&read, &log(&["a", "e", "c"])).contains("was read as"));
    }
}
