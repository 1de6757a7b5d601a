//! Whether a Topic's `Ready` is true: what the brokers say of a topic beside what its object says, while a test breaks things.

use super::release::{Release, at};
use super::topics::TopicObject;
use crate::brokers::Brokers;
use crate::http::{Content, Http};
use crate::workload::Stop;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Longest wait for what a broker says.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One look at both.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Whether every partition has a leader and enough replicas in sync; `None` when no broker answered.
    whole: Option<bool>,
    ready: bool,
}

/// Somebody who looks until told to stop.
#[derive(Debug)]
pub struct Witness {
    stop: Stop,
    looks: JoinHandle<Vec<Look>>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Testimony {
    /// How long the brokers said, in all, that records are not taken.
    pub broken: Duration,
    /// For how long `Ready` was `True`, at most, after the brokers began to say that.
    pub lie: Duration,
    /// For how long `Ready` was `True`, at most, after the last broker answered.
    pub stale: Duration,
}

impl Witness {
    /// Begins to look at a topic and the object of the same name.
    pub fn of(release: &Arc<Release>, name: &str) -> Self {
        let stop = Stop::default();
        let looks = tokio::spawn(look(Arc::clone(release), name.to_owned(), stop.clone()));
        Self { stop, looks }
    }

    /// Ends and tells what was seen.
    ///
    /// # Panics
    /// When it ended by itself.
    pub async fn testify(self) -> Testimony {
        self.stop.stop();
        Testimony::of(&self.looks.await.expect("it looks until told to stop"))
    }
}

async fn look(release: Arc<Release>, name: String, stop: Stop) -> Vec<Look> {
    let object = TopicObject::named(&release.namespace, &name);
    let http = Http::new();
    let mut looks = Vec::new();
    while !stop.stopped() {
        let said = said(&release, &http, &name).await;
        // An API server that does not answer says nothing either way.
        if let Ok(condition) = object.condition("Ready").await {
            let whole = (!said.is_empty()).then(|| said.contains(&true));
            looks.push(Look { at: Instant::now(), whole, ready: condition["status"] == "True" });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    looks
}

/// Returns what each broker that answers says. One that lags may be wrong, so only what all say counts against the object.
async fn said(release: &Release, http: &Http, name: &str) -> Vec<bool> {
    let mut asked = JoinSet::new();
    for id in release.ids() {
        let (url, http) = (format!("{}/admin/topics/{name}", release.url(id)), http.clone());
        asked.spawn(async move {
            let answer = http.try_send("GET", &url, Content::default(), ANSWER_MAX).await.ok()?;
            (answer.status == 200).then(|| whole(&answer.json()))
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

/// Returns whether a topic, as a broker describes it, takes records.
fn whole(topic: &Value) -> bool {
    let least = at(topic, "/config/min_isr").as_u64().unwrap_or(1);
    let fine = |partition: &Value| {
        let in_sync = partition["isr"].as_array().map_or(0, Vec::len);
        partition["leader"].is_u64() && u64::try_from(in_sync).is_ok_and(|in_sync| in_sync >= least)
    };
    topic["partitions"].as_array().is_some_and(|partitions| partitions.iter().all(fine))
}

impl Testimony {
    fn of(looks: &[Look]) -> Self {
        let mut seen = Self::default();
        let mut began: Option<(Option<bool>, Instant)> = None;
        for look in looks {
            let since = match began {
                Some((whole, since)) if whole == look.whole => since,
                Some((Some(false), since)) => {
                    seen.broken += look.at - since;
                    look.at
                }
                Some(_) | None => look.at,
            };
            began = Some((look.whole, since));
            let lasted = if look.ready { look.at - since } else { Duration::ZERO };
            match look.whole {
                Some(true) => {}
                Some(false) => seen.lie = seen.lie.max(lasted),
                None => seen.stale = seen.stale.max(lasted),
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_that_outlasts_what_the_brokers_say_is_a_lie_and_one_that_outlasts_their_answers_is_stale() {
        let began = Instant::now();
        let looks = [
            (0, Some(true), true),
            (10, Some(false), true),
            (13, Some(false), true),
            (14, Some(false), false),
            (20, Some(true), true),
            (30, None, true),
            (36, None, true),
            (37, None, false),
        ];
        let looks =
            looks.map(|(at, whole, ready)| Look { at: began + Duration::from_secs(at), whole, ready });
        let [broken, lie, stale] = [10, 3, 6].map(Duration::from_secs);
        assert_eq!(Testimony::of(&looks), Testimony { broken, lie, stale });
    }

    #[test]
    fn a_topic_is_whole_if_each_partition_has_a_leader_and_enough_in_sync() {
        let topic =
            |partitions: Value| serde_json::json!({"config": {"min_isr": 2}, "partitions": partitions});
        assert!(whole(&topic(serde_json::json!([{"leader": 1, "isr": [1, 2]}]))));
        assert!(!whole(&topic(
            serde_json::json!([{"leader": 1, "isr": [1, 2]}, {"leader": null, "isr": [1, 2]}])
        )));
        assert!(!whole(&topic(serde_json::json!([{"leader": 1, "isr": [1]}]))));
    }
}
