//! Administrators: create topics, change them, delete some; each topic's changes one after the other.

use super::{Route, Stage, Stop, unanswered};
use crate::brokers::Brokers;
use crate::cluster::ids_of;
use crate::history::{AdminChange, Change, History, Outcome};
use crate::http::{Answer, Content, Http};
use crate::sim::rng::Rng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long an administrator waits for an answer: longer than a broker tries.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longest time that a broker tries.
const TIMEOUT_MS: u64 = 3_500;
/// Time between two changes.
const BETWEEN: Duration = Duration::from_millis(150);

/// Returns what the answer to a request that changes something means. A reason begins with the code.
pub(super) fn sort(answer: &Answer) -> Outcome<()> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let why = || format!("{} {answer}", body["code"].as_str().unwrap_or("?"));
    match (answer.status, body["ambiguous"].as_bool()) {
        (200, _) => Outcome::Acked(()),
        (_, Some(false)) | (400..500, None) => Outcome::Refused(why()),
        _ => Outcome::Unknown(why()),
    }
}

/// Sends one change through one broker.
pub async fn change(
    http: &Http,
    cluster: &Arc<dyn Brokers>,
    via: u32,
    topic: &str,
    change: &Change,
) -> Outcome<()> {
    let base = format!("{}/admin/topics", cluster.url(via));
    let (method, url, content) = match change {
        Change::Create => {
            ("POST", format!("{base}?name={topic}&timeout_ms={TIMEOUT_MS}"), Content::default())
        }
        Change::Delete => ("DELETE", format!("{base}/{topic}?timeout_ms={TIMEOUT_MS}"), Content::default()),
        Change::Mark(mark) => {
            let body = json!({"owner": {"mark": mark}}).to_string();
            ("PATCH", format!("{base}/{topic}?timeout_ms={TIMEOUT_MS}"), Content::json(body))
        }
        Change::AddReplica(broker) => {
            ("POST", format!("{base}/{topic}/replicas/{broker}?timeout_ms={TIMEOUT_MS}"), Content::default())
        }
        Change::RemoveReplica(broker) => (
            "DELETE",
            format!("{base}/{topic}/replicas/{broker}?timeout_ms={TIMEOUT_MS}"),
            Content::default(),
        ),
    };
    match http.try_send(method, &url, content, PATIENCE).await {
        Ok(answer) => sort(&answer),
        Err(error) => unanswered(&error),
    }
}

/// One administrator.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// Makes the names of its topics its own.
    pub name: String,
    /// Seed of what it does.
    pub seed: u64,
}

struct Work<'a> {
    stage: &'a Stage,
    http: Http,
    route: Route,
    rng: Rng,
    history: History,
    stop: Stop,
}

/// Makes, changes and deletes topics until it is told to stop.
pub async fn administrate(stage: Stage, administrator: Administrator, stop: Stop) -> History {
    let (route, rng) = (Route::new(&stage.cluster, administrator.seed), Rng::new(administrator.seed));
    let history = History::default();
    let mut work = Work { stage: &stage, http: Http::new(), route, rng, history, stop };
    for number in 0.. {
        if work.stop.stopped() {
            break;
        }
        // What becomes of a topic after a change of unknown outcome is not known: it is left alone from then on.
        let _left_alone = work.life(&format!("{}-{number}", administrator.name)).await;
    }
    work.history
}

impl Work<'_> {
    /// Leads one topic through its life; `None` when something was not acknowledged.
    async fn life(&mut self, topic: &str) -> Option<()> {
        self.change(topic, Change::Create).await?;
        self.change(topic, Change::Mark(1)).await?;
        if self.rng.chance(500) {
            let (holds, leader) = self.replicas(topic).await?;
            let followers: Vec<u32> = holds.iter().copied().filter(|id| Some(*id) != leader).collect();
            if let Some(removed) = self.rng.pick(&followers) {
                self.change(topic, Change::RemoveReplica(removed)).await?;
                // Back to as many as before, so that brokers that are to be emptied can be.
                let there = |id: &u32| *id != removed && holds.contains(id);
                let free: Vec<u32> = self.stage.cluster.ids().into_iter().filter(|id| !there(id)).collect();
                if let Some(added) = self.rng.pick(&free) {
                    self.change(topic, Change::AddReplica(added)).await?;
                }
            }
            self.change(topic, Change::Mark(2)).await?;
        }
        if self.rng.chance(600) {
            self.change(topic, Change::Delete).await?;
        }
        Some(())
    }

    async fn change(&mut self, topic: &str, change: Change) -> Option<()> {
        tokio::time::sleep(BETWEEN).await;
        if self.stop.stopped() {
            return None;
        }
        let (began, via) = (self.stage.clock.now(), self.route.broker);
        let outcome = self::change(&self.http, &self.stage.cluster, via, topic, &change).await;
        let acked = outcome.acked().copied();
        match acked {
            Some(()) => self.route.answered(&self.stage.cluster),
            None => self.route.failed(&self.stage.cluster).await,
        }
        let span = self.stage.clock.since(began);
        self.history.changes.push(AdminChange { topic: topic.to_owned(), change, via, span, outcome });
        acked
    }

    /// Returns who holds a topic and who leads it.
    async fn replicas(&self, topic: &str) -> Option<(Vec<u32>, Option<u32>)> {
        let url = format!("{}/admin/topics/{topic}", self.stage.cluster.url(self.route.broker));
        let answer = self.http.try_send("GET", &url, Content::default(), PATIENCE).await.ok()?;
        let body: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)?;
        Some((ids_of(&body["replicas"]), body["leader"].as_u64().and_then(|id| id.try_into().ok())))
    }
}
