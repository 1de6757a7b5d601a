//! The rules that a history must obey. Pure: the same history and ending give the same violations.
//!
//! "Perhaps" is taken for what it is: a publish, commit or change of unknown outcome may have been done, not done, or be
//! done later, and each of these is right. What was refused must not have been done, and what was acknowledged must.

mod changes;
mod groups;
mod records;
#[cfg(test)]
mod tests;

use super::{Ending, History, Ms, PartitionEnding, Place, Publish, Span};
use serde::Serialize;
use std::collections::BTreeMap;

/// What must hold. The ids in brackets are those of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Rule {
    /// An acknowledged record is at its offset, on every replica (R1).
    AcknowledgedIsKept,
    /// A refused record is nowhere.
    RefusedIsNotStored,
    /// Every stored record was published, to that very partition.
    NothingFromNowhere,
    /// A record that was published once, or under a sequence number, is stored once.
    StoredOnce,
    /// No two acknowledged records have one offset (R3).
    OffsetGivenOnce,
    /// Records of one publish to one partition are stored all or none, one behind the other.
    BatchIsWhole,
    /// Replicas hold the same record at the same offset (R2), from 0 on without gaps.
    ReplicasAreEqual,
    /// What was read is what is there in the end: only committed records are read (R6).
    ReadIsCommitted,
    /// A reader gets the offset that it asked for, and then each next one (R6).
    ReadInOrder,
    /// Records of one publisher are in the order in which it published them.
    PublisherOrder,
    /// A group's position does not fall behind an acknowledged commit.
    PositionIsKept,
    /// A group's position is one that a member committed, of a record that exists.
    PositionIsReal,
    /// Every record up to a group's position was given to one of its members (G2).
    GroupSkipsNothing,
    /// An acknowledged change of a topic is there until it is undone, a refused one is not (M2).
    ChangeIsKept,
    /// Records of a deleted topic do not come back with a new one of its name.
    DeletedIsGone,
    /// At most one broker says to be controller of an epoch (E1).
    OneController,
    /// The metadata that a process shows never goes back (M1).
    MetadataGoesForward,
    /// No broker counts a broken invariant or panics.
    NoAlarm,
    /// A process ends only when it is told to.
    ProcessesLive,
    /// Once faults have ended, there is a controller, every partition has a leader and all its replicas in sync (V1).
    Recovers,
}

/// A rule, and how it was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub what: String,
}

impl Violation {
    /// Says that a rule is broken.
    pub fn of(rule: Rule, what: impl Into<String>) -> Self {
        Self { rule, what: what.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Returns every broken rule.
pub fn check(history: &History, ending: &Ending) -> Vec<Violation> {
    let deletions = Deletions::of(history);
    let mut broken = history.noticed.clone();
    broken.extend(controllers(history));
    for (name, topic) in &ending.topics {
        for (partition, end) in &topic.partitions {
            let place = Place::of(name, *partition);
            broken.extend(replicas(&place, end));
            broken.extend(records::check(history, &deletions, &place, end.log()));
        }
    }
    broken.extend(vanished(history, ending, &deletions));
    broken.extend(groups::check(history, ending));
    broken.extend(changes::check(history, ending));
    broken
}

fn controllers(history: &History) -> Vec<Violation> {
    let mut of_epoch: BTreeMap<u64, u32> = BTreeMap::new();
    let mut broken = Vec::new();
    for (epoch, broker) in &history.claims {
        let first = *of_epoch.entry(*epoch).or_insert(*broker);
        if first != *broker {
            let what = format!("brokers {first} and {broker} both were controller of epoch {epoch}");
            broken.push(Violation::of(Rule::OneController, what));
        }
    }
    broken
}

/// Differences shown for one pair of replicas.
const SHOWN_MAX: usize = 5;

fn replicas(place: &Place, end: &PartitionEnding) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut say = |what: String| broken.push(Violation::of(Rule::ReplicasAreEqual, what));
    let Some((first, log)) = end.logs.first_key_value() else { return broken };
    for (broker, other) in &end.logs {
        let differing = log.iter().zip(other).filter(|(one, two)| one != two).take(SHOWN_MAX);
        for (one, two) in differing {
            say(format!("{place}: broker {first} holds {one:?}, broker {broker} holds {two:?}"));
        }
        if log.len() != other.len() {
            say(format!(
                "{place}: broker {first} holds {} records, broker {broker} {}",
                log.len(),
                other.len()
            ));
        }
    }
    let gap = (0_u64..).zip(log).find(|(offset, record)| record.offset != *offset);
    if let Some((offset, record)) = gap {
        say(format!("{place}: offset {} stands where {offset} should", record.offset));
    }
    broken
}

/// Finds acknowledged records of partitions that are not there in the end, and that nobody deleted.
fn vanished(history: &History, ending: &Ending, deletions: &Deletions<'_>) -> Vec<Violation> {
    let there = |place: &Place| {
        ending.topics.get(&place.topic).is_some_and(|topic| topic.partitions.contains_key(&place.partition))
    };
    let lost = |publish: &&Publish| {
        publish.outcome.acked().is_some() && deletions.fate(publish) == Fate::Kept && !there(&publish.place)
    };
    let mut counts: BTreeMap<&Place, usize> = BTreeMap::new();
    for publish in history.publishes.iter().filter(lost) {
        *counts.entry(&publish.place).or_default() += publish.values.len();
    }
    let say = |(place, count): (&Place, usize)| {
        let what = format!("{count} acknowledged records of {place}, which is not there in the end");
        Violation::of(Rule::AcknowledgedIsKept, what)
    };
    counts.into_iter().map(say).collect()
}

/// What must have become of an acknowledged record whose topic may have been deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody deleted the topic since.
    Kept,
    /// The topic was deleted since.
    Gone,
    /// Either is right.
    Open,
}

/// Deletions of topics, refused ones left out.
struct Deletions<'a> {
    of_topic: BTreeMap<&'a str, Vec<(Span, bool)>>,
}

impl<'a> Deletions<'a> {
    fn of(history: &'a History) -> Self {
        let mut of_topic: BTreeMap<&str, Vec<(Span, bool)>> = BTreeMap::new();
        for change in history.changes.iter().filter(|change| change.change == super::Change::Delete) {
            let (span, certain) = match &change.outcome {
                super::Outcome::Refused(_) => continue,
                super::Outcome::Acked(()) => (change.span, true),
                // It may be done at any time from then on.
                super::Outcome::Unknown(_) => (Span { began: change.span.began, ended: Ms::MAX }, false),
            };
            of_topic.entry(&change.topic).or_default().push((span, certain));
        }
        Self { of_topic }
    }

    /// Whether a topic of that name was ever deleted, or perhaps.
    fn any(&self, topic: &str) -> bool {
        self.of_topic.contains_key(topic)
    }

    fn fate(&self, publish: &Publish) -> Fate {
        let Some(deletions) = self.of_topic.get(publish.place.topic.as_str()) else { return Fate::Kept };
        if deletions.iter().all(|(span, certain)| *certain && span.before(&publish.span)) {
            Fate::Kept
        } else if deletions.iter().any(|(span, certain)| *certain && publish.span.before(span)) {
            Fate::Gone
        } else {
            Fate::Open
        }
    }
}
