//! Rules of admin changes: each topic is in one of the states that its changes can have led to.

use super::{Rule, Violation};
use crate::history::{AdminChange, Change, Ending, History, Outcome, Span, TopicEnding};
use std::collections::{BTreeMap, BTreeSet};

/// A topic as far as changes tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    exists: bool,
    mark: Option<u64>,
    /// Brokers that were added or removed.
    replicas: BTreeMap<u32, bool>,
}

const ABSENT: State = State { exists: false, mark: None, replicas: BTreeMap::new() };

impl State {
    fn with(&self, change: &Change) -> Self {
        let mut next = self.clone();
        match change {
            Change::Create if next.exists => {}
            Change::Create => next.exists = true,
            Change::Delete => next = ABSENT,
            Change::Mark(_) | Change::AddReplica(_) | Change::RemoveReplica(_) if !next.exists => {}
            Change::Mark(mark) => next.mark = Some(*mark),
            Change::AddReplica(broker) => {
                next.replicas.insert(*broker, true);
            }
            Change::RemoveReplica(broker) => {
                next.replicas.insert(*broker, false);
            }
        }
        next
    }

    /// Brokers that were `drained` hold nothing; what they held is on others then, which may be any.
    fn fits(&self, found: Option<&TopicEnding>, drained: &BTreeSet<u32>) -> bool {
        let Some(found) = found else { return !self.exists };
        let there = |broker: &u32, wanted: bool| {
            let holds = found.replicas.contains(broker);
            holds == wanted || drained.contains(broker) || (holds && !drained.is_empty())
        };
        self.exists
            && self.mark == found.mark
            && found.replicas.is_disjoint(drained)
            && self.replicas.iter().all(|(broker, wanted)| there(broker, *wanted))
    }
}

/// Returns topics that are in no state that they can be in.
pub(super) fn check(history: &History, ending: &Ending) -> Vec<Violation> {
    let mut of_topic: BTreeMap<&str, Vec<&AdminChange>> = BTreeMap::new();
    for change in &history.changes {
        of_topic.entry(&change.topic).or_default().push(change);
    }
    let mut broken = Vec::new();
    for (topic, changes) in of_topic {
        broken.extend(denied(history, topic, &changes));
        let states = possible(&changes);
        let found = ending.topics.get(topic);
        if !states.iter().any(|state| state.fits(found, &history.drained)) {
            let shown: Vec<String> = changes
                .iter()
                .map(|change| format!("{:?} {}", change.change, change.outcome.kind()))
                .collect();
            let is = found.map(|found| (found.mark, &found.replicas));
            let what = format!("after {} topic {topic} is {is:?} (mark, replicas)", shown.join(", "));
            broken.push(Violation::of(Rule::ChangeIsKept, what));
        }
    }
    broken
}

/// Finds requests that were told that there is no such topic although its creation had been acknowledged, and nobody had
/// begun to delete it.
fn denied(history: &History, topic: &str, changes: &[&AdminChange]) -> Vec<Violation> {
    let made =
        changes.iter().find(|change| change.change == Change::Create && change.outcome.acked().is_some());
    let Some(made) = made.map(|made| made.span) else { return Vec::new() };
    let deleted =
        changes.iter().filter(|change| change.change == Change::Delete).map(|change| change.span.began).min();
    let exists = |span: Span| made.before(&span) && deleted.is_none_or(|deleted| span.ended < deleted);
    let told = |via: u32, span: Span, why: &str| {
        let denied = exists(span) && why.contains("TOPIC_NOT_FOUND");
        let what = || format!("topic {topic} exists, and broker {via} says at {} ms: {why}", span.ended);
        denied.then(|| Violation::of(Rule::ChangeIsKept, what()))
    };
    let later = changes.iter().filter_map(|change| match &change.outcome {
        Outcome::Refused(why) => told(change.via, change.span, why),
        Outcome::Acked(()) | Outcome::Unknown(_) => None,
    });
    let publishes = history.publishes.iter().filter(|publish| publish.place.topic == topic);
    let publishes = publishes.filter_map(|publish| match &publish.outcome {
        Outcome::Refused(why) => told(publish.via, publish.span, why),
        Outcome::Acked(_) | Outcome::Unknown(_) => None,
    });
    later.chain(publishes).collect()
}

fn possible(changes: &[&AdminChange]) -> BTreeSet<State> {
    let mut states = BTreeSet::from([ABSENT]);
    let mut pending: Vec<&Change> = Vec::new();
    for change in changes {
        match &change.outcome {
            Outcome::Acked(()) => states = states.iter().map(|state| state.with(&change.change)).collect(),
            Outcome::Refused(_) => {}
            Outcome::Unknown(_) => pending.push(&change.change),
        }
        // Each of them may be done now, later, or never; each at most once, which doing it again does not exceed.
        for late in &pending {
            let done: Vec<State> = states.iter().map(|state| state.with(late)).collect();
            states.extend(done);
        }
    }
    states
}
