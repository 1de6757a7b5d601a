//! What an object's status says: a pure function of what was seen, of what came of this pass, and of the status before.
//!
//! `Ready` is never a guess. It is `True` only as observed, and `Unknown` once nothing was observed for
//! a minute. All conditions are there from the first write on, so that a waiting `kubectl` never meets an
//! absent list; a condition's time moves only when its status flips, while its message is always the newest.

mod conditions;
mod topic;

use crate::crd::{GroupsStatus, Topic, TopicStatus};
use crate::plan::{Objection, Observed, Obstacle};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::time::Duration;

/// The types of all conditions, in the order in which they are written.
pub const TYPES: [&str; 7] =
    ["Accepted", "Programmed", "Available", "Replicated", "Ready", "Reconciling", "Stalled"];

/// What came of one pass over an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The brokers have what is declared.
    Settled,
    /// Something was asked of the brokers, and they don't report it yet.
    Pending(String),
    /// The object is paused, and something would be to be done.
    Paused(String),
    /// The object can't have the topic.
    Refused(Objection, String),
    /// Nothing can be done for now.
    Waiting(Obstacle, String),
    /// The brokers refused a change.
    Rejected(String),
    /// Brokers answer, but none of them controls the cluster: changes wait.
    NoController(String),
    /// No broker answers.
    Unreachable(String),
    /// The object is being deleted, and its topic is still there.
    Deleting(String),
    /// The object is being deleted, but its topic holds records and the policy protects them.
    NotEmpty(String),
}

/// What a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The object; its status is the one before.
    pub topic: &'a Topic,
    /// What the brokers said last in this pass; `None` if no broker answered.
    pub observed: Option<&'a Observed>,
    /// What came of the pass.
    pub outcome: &'a Outcome,
    /// The groups that read the topic, if known.
    pub groups: Option<&'a GroupsStatus>,
    /// Time of the pass.
    pub now: Timestamp,
}

/// Returns the status that the object should have.
pub fn status(seen: &Seen<'_>) -> TopicStatus {
    let before = seen.topic.status.clone().unwrap_or_default();
    let generation = seen.topic.metadata.generation;
    let verdicts = conditions::judge(seen);
    let condition = |(type_, verdict): (&str, conditions::Verdict)| {
        let old = before.conditions.iter().find(|old| old.type_ == type_);
        let since =
            old.filter(|old| old.status == verdict.status).map(|old| old.last_transition_time.clone());
        Condition {
            type_: type_.to_owned(),
            status: verdict.status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
            observed_generation: generation,
            // Kubernetes keeps whole seconds; with more, each pass would find another time than is stored.
            last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(seen.now))),
        }
    };
    let conditions = TYPES.into_iter().zip(verdicts).map(condition).collect();
    let mut status = match (seen.observed, seen.outcome) {
        // The topic is another object's: its figures are not this one's.
        (_, Outcome::Refused(Objection::NameConflict | Objection::ExistsUnmanaged, _)) => {
            TopicStatus::default()
        }
        (Some(observed), _) => topic::described(observed),
        // What was seen last is better than nothing; the conditions say that it is old.
        (None, _) => before.clone(),
    };
    if status.topic_id.is_some() {
        status.groups = seen.groups.cloned().or(before.groups);
    }
    status.cluster_id = seen
        .observed
        .and_then(|observed| observed.cluster_id.clone())
        .or(status.cluster_id)
        .or(before.cluster_id);
    status.topic_name = Some(seen.topic.topic_name().to_owned());
    status.observed_generation = generation;
    status.conditions = conditions;
    status
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// How a status differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// In counters that move with every record; they are written now and then.
    Counters,
    /// In what somebody may be waiting for.
    Facts,
}

/// Compares two statuses.
pub fn compare(before: Option<&TopicStatus>, now: &TopicStatus) -> Change {
    let Some(before) = before else { return Change::Facts };
    if before == now {
        return Change::None;
    }
    if without_counters(before) == without_counters(now) { Change::Counters } else { Change::Facts }
}

fn without_counters(status: &TopicStatus) -> TopicStatus {
    let mut status = status.clone();
    status.groups = None;
    for partition in &mut status.partitions {
        partition.high_watermark = None;
    }
    status
}

/// Returns whether the status of an object still holds although no broker answers: it is about the present spec, and was
/// observed no longer ago than `age_max`.
pub fn still_holds(topic: &Topic, observed_ago: Option<Duration>, age_max: Duration) -> bool {
    let about = topic.status.as_ref().and_then(|status| status.observed_generation);
    about.is_some() && about == topic.metadata.generation && observed_ago.is_some_and(|ago| ago < age_max)
}

/// Returns the status of a condition, if it is there.
pub fn condition<'a>(status: &'a TopicStatus, type_: &str) -> Option<&'a str> {
    status.conditions.iter().find(|condition| condition.type_ == type_).map(|found| found.status.as_str())
}

#[cfg(test)]
mod tests;
