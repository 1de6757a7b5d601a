//! Members of a consumer group: subscribe, poll each assigned partition, commit what was given.

use super::{PACE, Route, Stage, Stop, unanswered};
use crate::history::check::{Rule, Violation};
use crate::history::{Commit, History, Place, Read, Standing};
use crate::http::{Answer, Content, Http};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a member waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a broker waits for a record.
const WAIT_MS: u64 = 100;

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// The topic that the group reads.
    pub topic: String,
    /// Seed of its choice of brokers.
    pub seed: u64,
}

struct Work<'a> {
    stage: &'a Stage,
    member: &'a Member,
    http: Http,
    route: Route,
    history: History,
}

/// Reads and commits until it is told to stop.
pub async fn consume(stage: Stage, member: Member, stop: Stop) -> History {
    let route = Route::new(&stage.cluster, member.seed);
    let mut work =
        Work { stage: &stage, member: &member, http: Http::new(), route, history: History::default() };
    while !stop.stopped() {
        match work.subscribe().await {
            Some(partitions) if partitions.is_empty() => tokio::time::sleep(5 * PACE).await,
            Some(partitions) => work.pass(&partitions).await,
            None => work.failed().await,
        }
    }
    work.history
}

impl Work<'_> {
    async fn failed(&mut self) {
        self.route.failed(&self.stage.cluster).await;
    }

    async fn send(&self, method: &str, path: &str, content: Content) -> Option<Answer> {
        let url = format!("{}{path}", self.stage.cluster.url(self.route.broker));
        self.http.try_send(method, &url, content, PATIENCE).await.ok()
    }

    fn place(&self, partition: u32) -> Place {
        Place::of(&self.member.topic, partition)
    }

    fn stood(&mut self, partition: u32, committed: i64, began: u64) {
        let (place, span) = (self.place(partition), self.stage.clock.since(began));
        self.history.standings.push(Standing { group: self.member.group.clone(), place, committed, span });
    }

    /// Joins, or renews the membership, and returns the assigned partitions.
    async fn subscribe(&mut self) -> Option<Vec<u32>> {
        let body = json!({
            "topic": self.member.topic, "group_id": self.member.group, "consumer_id": self.member.name, "standby": true,
        });
        let began = self.stage.clock.now();
        let answer = self.send("POST", "/subscribe", Content::json(body.to_string())).await?;
        let body: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)?;
        let mut partitions = Vec::new();
        for assigned in body["partitions"].as_array()? {
            let partition = u32::try_from(assigned["partition"].as_u64()?).ok()?;
            self.stood(partition, assigned["committed"].as_i64()?, began);
            partitions.push(partition);
        }
        Some(partitions)
    }

    async fn pass(&mut self, partitions: &[u32]) {
        for partition in partitions {
            match self.poll(*partition).await {
                Some(None) => self.route.answered(&self.stage.cluster),
                Some(Some(last)) => self.commit(*partition, last).await,
                None => return self.failed().await,
            }
        }
    }

    /// Polls one partition and returns the last offset that was given, if any; `None` if there was no good answer.
    async fn poll(&mut self, partition: u32) -> Option<Option<u64>> {
        let Member { group, name, topic, .. } = self.member;
        let path = format!(
            "/poll?topic={topic}&partition={partition}&group_id={group}&consumer_id={name}&max_records=200&timeout_ms={WAIT_MS}"
        );
        let began = self.stage.clock.now();
        let answer = self.send("GET", &path, Content::default()).await?;
        let body: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)?;
        let standing =
            body["partitions"].as_array()?.iter().find(|standing| standing["partition"] == partition)?;
        let committed = standing["committed"].as_i64()?;
        self.stood(partition, committed, began);
        let records = match super::reader::values(&body["records"]) {
            Ok(records) => records,
            Err(error) => {
                let what = format!("{} of group {}: {error:#}", self.member.name, self.member.group);
                self.history.noticed.push(Violation::of(Rule::ReadInOrder, what));
                return None;
            }
        };
        let last = records.last().map(|(offset, _)| *offset);
        let (Some(last), Some((first, _))) = (last, records.first()) else { return Some(None) };
        if i64::try_from(*first).ok() != Some(committed + 1) {
            let what = format!("{} was given offset {first} after position {committed}", self.member.name);
            self.history.noticed.push(Violation::of(Rule::GroupSkipsNothing, what));
        }
        let (reader, group) =
            (format!("{}.{}", self.member.group, self.member.name), self.member.group.clone());
        let (place, via, span) = (self.place(partition), self.route.broker, self.stage.clock.since(began));
        let read = Read { reader, group: Some(group), place, via, from: None, records, span };
        self.history.reads.push(read);
        Some(Some(last))
    }

    async fn commit(&mut self, partition: u32, last: u64) {
        let offset = i64::try_from(last).unwrap_or(i64::MAX);
        let body = json!({
            "topic": self.member.topic, "partition": partition, "group_id": self.member.group,
            "consumer_id": self.member.name, "offset": offset,
        });
        let began = self.stage.clock.now();
        let url = format!("{}/commit", self.stage.cluster.url(self.route.broker));
        let sent = self.http.try_send("POST", &url, Content::json(body.to_string()), PATIENCE).await;
        let outcome = match sent {
            Ok(answer) => super::admin::sort(&answer),
            Err(error) => unanswered(&error),
        };
        if outcome.acked().is_none() {
            self.failed().await;
        }
        let (group, member) = (self.member.group.clone(), self.member.name.clone());
        let (place, span) = (self.place(partition), self.stage.clock.since(began));
        self.history.commits.push(Commit { group, member, place, offset, span, outcome });
    }
}
