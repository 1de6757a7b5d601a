//! Emptying a broker: its leaderships first, then its replicas, some at a time, each as a move.
//!
//! That a broker is to be emptied is part of its entry, and survives its restarts. What is left to do follows from the
//! image, so that any controller goes on where another one stopped.

use super::Refusal;
use super::image::{BrokerEntry, BrokerState, Image, Op, PartitionEntry, TopicEntry};
use super::moves;
use super::placement::{Load, internal_settings};
use super::policy::{Change, Lapses, candidate, changed, conflict, lead, size};
use crate::ids::{BrokerId, TopicId, TopicPartition};
use std::collections::BTreeSet;

/// Leaderships handed over in one commit: each one interrupts its partition's writers for a moment.
const LEADERS_MAX: usize = 10;
/// Partitions that leave draining brokers at the same time: each one copies a whole log.
const MOVES_MAX: usize = 8;

/// Returns the operations that begin to empty a broker; none if that was begun before.
pub(super) fn begin(image: &Image, broker: BrokerId) -> Result<Change, Refusal> {
    let entry = image.brokers.get(&broker).ok_or(Refusal::BrokerNotFound { broker })?;
    let mut ops = Vec::new();
    if !entry.draining {
        let rest = image.live_brokers().filter(|id| *id != broker).count();
        for (id, topic) in &image.topics {
            ops.extend(make_room(broker, *id, topic, rest)?);
        }
        ops.push(set(broker, entry, true));
    }
    Ok(Change { topic: nothing(), ops })
}

/// Checks that a topic fits on `rest` brokers; the internal one is made to fit.
fn make_room(broker: BrokerId, id: TopicId, topic: &TopicEntry, rest: usize) -> Result<Option<Op>, Refusal> {
    let held = topic.partitions.iter().filter(|entry| entry.replicas.contains(&broker));
    let Some(most) = held.map(|entry| moves::target(entry).len()).max() else { return Ok(None) };
    let needed = most.max(size(topic.config.replication_factor));
    if needed <= rest {
        return Ok(None);
    }
    if topic.name.is_internal() && rest > 0 {
        return Ok(Some(Op::SetTopicConfig { id, config: internal_settings(rest) }));
    }
    Err(conflict(format!(
        "topic {} has {needed} replicas, and without broker {broker} there are {rest} live brokers that take any; \
         lower its replication factor first, or add a broker",
        topic.name
    )))
}

/// Returns the operations that let a broker take part again as before. What has left it stays where it is.
pub(super) fn cancel(image: &Image, broker: BrokerId) -> Result<Change, Refusal> {
    let entry = image.brokers.get(&broker).ok_or(Refusal::BrokerNotFound { broker })?;
    let mut ops = Vec::new();
    if entry.draining {
        ops.push(set(broker, entry, false));
        // Its own moves are taken back where it still holds what would have left it.
        let leaving = image.partitions().filter(|(_, _, entry)| entry.removing.contains(&broker));
        ops.extend(
            leaving.filter_map(|(partition, _, entry)| changed(partition, entry, moves::cancelled(entry))),
        );
    }
    Ok(Change { topic: nothing(), ops })
}

/// The outcome of a change of a broker names no topic.
fn nothing() -> TopicId {
    TopicId(uuid::Uuid::nil())
}

fn set(id: BrokerId, entry: &BrokerEntry, draining: bool) -> Op {
    let state = match (entry.state, draining) {
        (BrokerState::Fenced, _) => BrokerState::Fenced,
        (_, true) => BrokerState::Draining,
        (_, false) => BrokerState::Active,
    };
    Op::SetBroker { id, entry: BrokerEntry { draining, state, ..entry.clone() } }
}

/// Returns the next operations of emptying brokers, none while enough is under way or nothing is left to do.
pub(crate) fn step(image: &Image, lapses: Lapses) -> Vec<Op> {
    let leaving: BTreeSet<_> =
        image.brokers.iter().filter(|(_, entry)| entry.draining).map(|(id, _)| *id).collect();
    if leaving.is_empty() {
        return Vec::new();
    }
    let led = hand_over(image, &leaving, lapses);
    if led.is_empty() { move_off(image, &leaving, lapses) } else { led }
}

fn hand_over(image: &Image, leaving: &BTreeSet<BrokerId>, lapses: Lapses) -> Vec<Op> {
    let led = image.partitions().filter(|(_, _, entry)| entry.leader.is_some_and(|id| leaving.contains(&id)));
    let ops = led.filter_map(|(partition, _, entry)| {
        let successor = candidate(image, entry, leaving, lapses).filter(|id| image.is_active(*id))?;
        let mut next = entry.clone();
        lead(&mut next, Some(successor));
        changed(partition, entry, next)
    });
    ops.take(LEADERS_MAX).collect()
}

fn move_off(image: &Image, leaving: &BTreeSet<BrokerId>, lapses: Lapses) -> Vec<Op> {
    let goes = |entry: &PartitionEntry| entry.removing.iter().any(|id| leaving.contains(id));
    let under_way = image.partitions().filter(|(_, _, entry)| goes(entry)).count();
    let mut load = Load::of(image);
    let mut ops = Vec::new();
    for (partition, topic, entry) in image.partitions() {
        if under_way + ops.len() >= MOVES_MAX {
            break;
        }
        let wanted = moves::target(entry);
        let holds = wanted.iter().any(|id| leaving.contains(id));
        // Another move is waited for, unless it brings records to a broker that is to be emptied.
        let free = entry.adding.is_empty() && entry.removing.is_empty();
        let brings = entry.adding.iter().any(|id| leaving.contains(id));
        if holds && (free || brings) {
            ops.extend(move_one(&mut load, leaving, (partition, topic, entry), lapses));
        }
    }
    ops
}

/// Replaces every leaving replica by one on the least loaded broker. The internal topic may shrink, down to one replica.
fn move_one(
    load: &mut Load,
    leaving: &BTreeSet<BrokerId>,
    (partition, topic, entry): (TopicPartition, &TopicEntry, &PartitionEntry),
    lapses: Lapses,
) -> Option<Op> {
    let mut wanted = moves::target(entry);
    let mut free = load.ranking(partition.partition, &wanted).into_iter();
    let mut placed = Vec::new();
    for place in &mut wanted {
        if leaving.contains(&*place)
            && let Some(other) = free.next()
        {
            *place = other;
            placed.push(other);
        }
    }
    if topic.name.is_internal() && wanted.iter().any(|id| !leaving.contains(id)) {
        wanted.retain(|id| !leaving.contains(id));
    }
    placed.iter().for_each(|id| load.carry(*id, false));
    let mut next = moves::retarget(entry, &wanted);
    if lapses.drains_at_once {
        next.isr.retain(|id| wanted.contains(id));
        next.isr.extend(placed.iter().filter(|id| !entry.isr.contains(id)));
        (next.replicas, next.adding, next.removing) = (wanted, Vec::new(), Vec::new());
        if next.leader.is_some_and(|id| leaving.contains(&id)) {
            let first = next.replicas.first().copied();
            lead(&mut next, first);
        }
    }
    changed(partition, entry, next)
}

#[cfg(test)]
mod tests;
