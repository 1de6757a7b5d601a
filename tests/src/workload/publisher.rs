//! Publishers: `acks=all`, one request after the other, each value unique.

use super::{Route, Stage, Stop, unanswered};
use crate::history::{History, Outcome, Place, Publish};
use crate::http::{Content, Http};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// What a publisher does after an answer that leaves open whether its records were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Takes it as perhaps stored and goes on with the next values.
    Never,
    /// Sends the very same again, under the same producer id, epoch and sequence number, until it knows.
    SameSequence,
}

/// How a publisher works.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which one it is.
    pub number: usize,
    /// Where it publishes to.
    pub place: Place,
    /// Records in one request.
    pub batch: usize,
    /// What it does with an unknown outcome.
    pub retry: Retry,
    /// Time between an acknowledgement and the next request.
    pub pause: Duration,
    /// How long it waits for one answer.
    pub patience: Duration,
    /// Seed of its choice of brokers.
    pub seed: u64,
}

impl Plan {
    /// Returns a publisher that sends one record after the other as fast as it can.
    pub fn eager(number: usize, place: Place, seed: u64) -> Self {
        let (pause, patience) = (Duration::ZERO, Duration::from_secs(8));
        Self { number, place, batch: 1, retry: Retry::Never, pause, patience, seed }
    }
}

/// A producer's identity and place in its sequence.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// Made by the client.
    pub producer: Uuid,
    /// Number of the request's first record.
    pub number: u64,
}

/// Publishes until it is told to stop.
pub async fn publish(stage: Stage, plan: Plan, stop: Stop) -> History {
    let (http, mut route) = (Http::new(), Route::new(&stage.cluster, plan.seed));
    let producer = Uuid::from_u64_pair(plan.seed, u64::try_from(plan.number).unwrap_or_default());
    let mut history = History::default();
    let (mut made, mut number) = (0_u64, 0_u64);
    while !stop.stopped() {
        let values: Vec<String> =
            (made..).take(plan.batch).map(|value| format!("p{}-{value}", plan.number)).collect();
        let count = values.len() as u64;
        let sequence = match plan.retry {
            Retry::Never => None,
            Retry::SameSequence => Some(Sequence { producer, number }),
        };
        let publish = one(&stage, &plan, &http, &mut route, values, sequence, &stop).await;
        made += count;
        // A number that was certainly not used is the next one still; values are never sent twice under another number.
        number += if matches!(publish.outcome, Outcome::Refused(_)) { 0 } else { count };
        let acked = publish.outcome.acked().is_some();
        if acked {
            stage.note_acked(plan.number, publish.values.len());
        }
        history.publishes.push(publish);
        if acked && !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause).await;
        }
    }
    history
}

async fn one(
    stage: &Stage,
    plan: &Plan,
    http: &Http,
    route: &mut Route,
    values: Vec<String>,
    sequence: Option<Sequence>,
    stop: &Stop,
) -> Publish {
    let (began, cluster) = (stage.clock.now(), &stage.cluster);
    let mut tries = 0;
    let mut perhaps = None;
    loop {
        let via = route.broker;
        let sent = Request { place: &plan.place, values: &values, sequence, patience: plan.patience };
        let outcome = sent.send(http, &cluster.url(via)).await;
        tries += 1;
        let repeat = sequence.is_some() && !stop.stopped();
        let outcome = match (outcome, &perhaps) {
            (Outcome::Unknown(why), _) if repeat => {
                perhaps = Some(why);
                route.failed(cluster).await;
                continue;
            }
            // An earlier try may have been stored: only an acknowledgement tells.
            (Outcome::Refused(_), Some(_)) if repeat => {
                route.failed(cluster).await;
                continue;
            }
            (Outcome::Refused(why), Some(earlier)) => Outcome::Unknown(format!("{earlier}; then {why}")),
            (outcome, _) => outcome,
        };
        match &outcome {
            Outcome::Acked(_) => route.answered(cluster),
            Outcome::Refused(_) | Outcome::Unknown(_) => route.failed(cluster).await,
        }
        let (number, sequence) = (plan.number, sequence.map(|sequence| sequence.number));
        let (place, span) = (plan.place.clone(), stage.clock.since(began));
        return Publish { publisher: number, place, values, via, span, tries, sequence, outcome };
    }
}

/// One request to publish.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where to.
    pub place: &'a Place,
    /// What.
    pub values: &'a [String],
    /// Under which sequence number, if any.
    pub sequence: Option<Sequence>,
    /// How long to wait for the answer.
    pub patience: Duration,
}

impl Request<'_> {
    /// Sends it to one broker and sorts what came back.
    pub async fn send(&self, http: &Http, url: &str) -> Outcome<u64> {
        // The broker gives up a little earlier, so that its own, more exact answer still arrives.
        let theirs = self.patience.saturating_sub(Duration::from_millis(300)).as_millis();
        let Place { topic, partition } = self.place;
        let url = format!("{url}/topics/{topic}/publish?acks=all&partition={partition}&timeout_ms={theirs}");
        match http.try_send("POST", &url, self.content(), self.patience).await {
            Ok(answer) => {
                let body = serde_json::from_slice(&answer.body).unwrap_or_default();
                sort(answer.status, &body, self.values.len(), &answer.to_string())
            }
            Err(error) => unanswered(&error),
        }
    }

    fn content(&self) -> Content {
        let record = |value: &String| json!({"key": "k", "value": value});
        let content = match self.values {
            [value] => Content::json(record(value).to_string()),
            values => {
                let records: Vec<Value> = values.iter().map(record).collect();
                Content::json(json!({"records": records}).to_string())
            }
        };
        match self.sequence {
            None => content,
            Some(Sequence { producer, number }) => content
                .with("producer-id", &producer.to_string())
                .with("producer-epoch", "0")
                .with("producer-seq", &number.to_string()),
        }
    }
}

/// Returns what an answer to a publish of `count` records means.
fn sort(status: u16, body: &Value, count: usize, shown: &str) -> Outcome<u64> {
    let offset = if count == 1 { &body["offset"] } else { &body["results"][0]["offset"] };
    match (status, offset.as_u64(), body["ambiguous"].as_bool()) {
        (200, Some(offset), _) => Outcome::Acked(offset),
        (_, _, Some(false)) => Outcome::Refused(shown.to_owned()),
        (400..500, _, None) => Outcome::Refused(shown.to_owned()),
        (503, _, None) if body["code"] == "NOT_ENOUGH_REPLICAS" => Outcome::Refused(shown.to_owned()),
        _ => Outcome::Unknown(shown.to_owned()),
    }
}

/// Publishes one value to partition 0 of a topic, with plenty of patience.
pub async fn publish_once(http: &Http, url: &str, topic: &str, value: &str) -> Outcome<u64> {
    let (place, values) = (Place::of(topic, 0), [value.to_owned()]);
    let patience = Duration::from_secs(8);
    Request { place: &place, values: &values, sequence: None, patience }.send(http, url).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_for_no_more_than_it_says() {
        let kind = |status, body: Value, count| sort(status, &body, count, "shown").kind();
        assert_eq!(sort(200, &json!({"offset": 7}), 1, ""), Outcome::Acked(7));
        assert_eq!(sort(200, &json!({"results": [{"offset": 7}, {"offset": 8}]}), 2, ""), Outcome::Acked(7));
        for (status, body) in [
            (404, json!({"code": "TOPIC_NOT_FOUND"})),
            (503, json!({"code": "NOT_LEADER", "ambiguous": false})),
            (503, json!({"code": "NOT_ENOUGH_REPLICAS"})),
            (507, json!({"code": "STORAGE_FULL", "ambiguous": false})),
        ] {
            assert_eq!(kind(status, body, 1), "refused", "{status}");
        }
        for (status, body) in [
            (200, json!({})),
            (404, json!({"ambiguous": true})),
            (503, json!({"ambiguous": true})),
            (503, Value::Null),
            (504, json!({"code": "COMMIT_TIMEOUT", "ambiguous": true})),
            (500, json!({"code": "INTERNAL"})),
        ] {
            assert_eq!(kind(status, body, 1), "unknown", "{status}");
        }
    }

    #[test]
    fn a_sequence_number_travels_in_three_headers() {
        let (place, values) = (Place::of("t", 0), ["v".to_owned()]);
        let sequence = Some(Sequence { producer: Uuid::from_u128(7), number: 3 });
        let request = Request { place: &place, values: &values, sequence, patience: Duration::from_secs(1) };
        let names: Vec<String> = request.content().headers.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["content-type", "producer-id", "producer-epoch", "producer-seq"]);
    }
}
