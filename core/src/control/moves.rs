//! Moves of replicas: to other brokers, to more or fewer of them.
//!
//! A move is part of the image and needs no memory of its own. Its target is committed first: `replicas` are then all
//! old and new holders, the target's in front, `adding` those that have to catch up, `removing` those that will go. The
//! added ones join the ISR as any follower does, by their leader's wish. Then one commit drops the others. At no time
//! does the ISR gain a member that has not proven what it holds, nor sink below its floor for the sake of a move.

use super::Refusal;
use super::image::{Image, Op, PartitionEntry, TopicConfig, TopicEntry};
use super::placement::Load;
use super::policy::{Change, Lapses, candidate, changed, conflict, invalid, lead, ours, size};
use crate::ids::{BrokerId, TopicId, TopicName, TopicPartition};
use crate::limits::REPLICATION_FACTOR_MAX;
use std::collections::BTreeSet;

/// Returns who holds a partition once the present move, if there is one, is over.
pub(super) fn target(entry: &PartitionEntry) -> Vec<BrokerId> {
    entry.replicas.iter().copied().filter(|id| !entry.removing.contains(id)).collect()
}

/// Returns the entry with another target. Its present move, if there is one, is given up: replicas that were being added
/// for it and are not in sync are dropped at once, since nothing depends on them.
pub(super) fn retarget(entry: &PartitionEntry, wanted: &[BrokerId]) -> PartitionEntry {
    let held = |id: &BrokerId| entry.replicas.contains(id) && !entry.adding.contains(id);
    let adding: Vec<_> = wanted.iter().copied().filter(|id| !held(id) && !entry.isr.contains(id)).collect();
    let removing: Vec<_> = entry
        .replicas
        .iter()
        .copied()
        .filter(|id| !wanted.contains(id) && (held(id) || entry.isr.contains(id)))
        .collect();
    let replicas = wanted.iter().chain(&removing).copied().collect();
    PartitionEntry { replicas, adding, removing, ..entry.clone() }
}

/// Returns the operations that end moves whose added replicas are in sync.
///
/// The removed ones are dropped in one commit, and the leader among them is replaced in the same one, in the next leader
/// epoch. That is safe for a leader that has not heard of it: it counts every member that it knows to be in sync, and
/// everyone whom it asked to add, so that the members which are left hold all that it can still commit. Enough of them
/// must be alive, lest a move stop a partition that works.
pub(crate) fn finish(image: &Image, avoid: &BTreeSet<BrokerId>, lapses: Lapses) -> Vec<Op> {
    let moving =
        image.partitions().filter(|(_, _, entry)| !entry.adding.is_empty() || !entry.removing.is_empty());
    moving
        .filter_map(|(partition, topic, entry)| {
            let next = finished(image, &topic.config, entry, avoid, lapses)?;
            changed(partition, entry, next)
        })
        .collect()
}

fn finished(
    image: &Image,
    config: &TopicConfig,
    entry: &PartitionEntry,
    avoid: &BTreeSet<BrokerId>,
    lapses: Lapses,
) -> Option<PartitionEntry> {
    let replicas = target(entry);
    let mut isr = entry.isr.clone();
    if lapses.moves_at_once {
        isr.clone_from(&replicas);
    }
    if !entry.adding.iter().all(|id| isr.contains(id)) {
        return None;
    }
    isr.retain(|id| replicas.contains(id));
    let floor = size(config.min_isr).min(replicas.len()).max(1);
    // Members that are to be emptied count: a move that waits for a drain would wait for ever, since the drain waits for it.
    let alive = isr.iter().filter(|id| image.is_alive(**id)).count();
    if !entry.removing.is_empty() && alive < floor {
        return None;
    }
    let mut next =
        PartitionEntry { replicas, isr, adding: Vec::new(), removing: Vec::new(), ..entry.clone() };
    if entry.leader.is_some_and(|leader| entry.removing.contains(&leader)) {
        let none = BTreeSet::new();
        let successor = candidate(image, &next, avoid, lapses)
            .or_else(|| candidate(image, &next, &none, lapses))
            .or_else(|| {
                next.replicas.iter().copied().find(|id| image.is_alive(*id) && next.isr.contains(id))
            })?;
        lead(&mut next, Some(successor));
    }
    Some(next)
}

/// Returns the operations that move partitions of a topic as asked for.
pub(super) fn reassign(
    image: &Image,
    name: &TopicName,
    moves: &[(u32, Vec<BrokerId>)],
) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    let mut ops = Vec::new();
    let mut seen = BTreeSet::new();
    for (partition, wanted) in moves {
        let present = entry.partitions.get(size(*partition)).ok_or_else(|| {
            invalid(format!(
                "{name} has no partition {partition}, its last is {}",
                entry.partitions.len() - 1
            ))
        })?;
        if !seen.insert(*partition) {
            return Err(invalid(format!("partition {partition} is named twice")));
        }
        check_target(image, &entry.config, present, *partition, wanted)?;
        let next = retarget(present, wanted);
        ops.extend(changed(TopicPartition { topic, partition: *partition }, present, next));
    }
    Ok(Change { topic, ops })
}

fn check_target(
    image: &Image,
    config: &TopicConfig,
    entry: &PartitionEntry,
    partition: u32,
    wanted: &[BrokerId],
) -> Result<(), Refusal> {
    let distinct: BTreeSet<_> = wanted.iter().collect();
    if distinct.len() < wanted.len() {
        return Err(invalid(format!("a broker is named twice for partition {partition}")));
    }
    if wanted.len() < size(config.min_isr).max(1) || wanted.len() > size(REPLICATION_FACTOR_MAX) {
        return Err(invalid(format!(
            "partition {partition} would get {} replicas, use {} (min_isr) to {REPLICATION_FACTOR_MAX}",
            wanted.len(),
            config.min_isr
        )));
    }
    for id in wanted {
        if !image.brokers.contains_key(id) {
            return Err(Refusal::BrokerNotFound { broker: *id });
        }
        if !entry.replicas.contains(id) && !image.is_active(*id) {
            return Err(conflict(format!("broker {id} takes no replicas now; wait until it is active")));
        }
    }
    Ok(())
}

/// Returns the operations that take back every move of a topic.
pub(super) fn cancel_moves(image: &Image, name: &TopicName) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    let ops = (0..).zip(&entry.partitions).filter_map(|(partition, entry)| {
        changed(TopicPartition { topic, partition }, entry, cancelled(entry))
    });
    Ok(Change { topic, ops: ops.collect() })
}

/// Returns the entry on its way back to where it was, but for the order of its replicas: the leader stays in front.
/// Added replicas that are in sync already are dropped as in any move, once the others are enough.
pub(super) fn cancelled(entry: &PartitionEntry) -> PartitionEntry {
    if entry.adding.is_empty() && entry.removing.is_empty() {
        return entry.clone();
    }
    let mut before: Vec<_> = entry.replicas.iter().copied().filter(|id| !entry.adding.contains(id)).collect();
    if before.is_empty() {
        // Those that held it before the move were removed by request meanwhile: there is nothing to go back to.
        return entry.clone();
    }
    if let Some(at) = before.iter().position(|id| entry.leader == Some(*id)) {
        before[..=at].rotate_right(1);
    }
    retarget(entry, &before)
}

/// Returns the operations that give every partition as many replicas as a new replication factor says.
pub(super) fn resize(
    image: &Image,
    id: TopicId,
    topic: &TopicEntry,
    wanted: &TopicConfig,
) -> Result<Vec<Op>, Refusal> {
    let mut load = Load::of(image);
    let count = size(wanted.replication_factor);
    let mut ops = Vec::new();
    for (partition, entry) in (0..).zip(&topic.partitions) {
        let mut replicas = target(entry);
        if replicas.len() < count {
            load.enough(wanted.replication_factor)?;
            // Whoever is about to be dropped has the records already.
            let leaving = entry.removing.iter().copied().filter(|id| image.is_active(*id));
            let ranked: Vec<_> = leaving.chain(load.ranking(partition, &entry.replicas)).collect();
            for broker in ranked.into_iter().take(count - replicas.len()) {
                replicas.push(broker);
                load.carry(broker, false);
            }
        }
        while let (true, Some(spare)) = (replicas.len() > count, spare_replica(entry, &replicas)) {
            replicas.retain(|broker| *broker != spare);
        }
        if replicas != target(entry) {
            ops.extend(changed(TopicPartition { topic: id, partition }, entry, retarget(entry, &replicas)));
        }
    }
    Ok(ops)
}

/// Returns the one of `replicas` that is missed least: the last one outside the ISR, else the last that does not lead.
fn spare_replica(entry: &PartitionEntry, replicas: &[BrokerId]) -> Option<BrokerId> {
    let follows = |id: &&BrokerId| entry.leader != Some(**id);
    let behind = replicas.iter().rev().filter(follows).find(|id| !entry.isr.contains(id));
    behind.or_else(|| replicas.iter().rev().find(follows)).copied()
}

/// Returns the operations that add a replica to every partition of a topic.
pub(super) fn add_replica(image: &Image, name: &TopicName, broker: BrokerId) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    if !image.brokers.contains_key(&broker) {
        return Err(Refusal::BrokerNotFound { broker });
    }
    if !image.is_active(broker) {
        return Err(conflict(format!("broker {broker} takes no replicas now; wait until it is active")));
    }
    let ops = (0..).zip(&entry.partitions).filter_map(|(partition, entry)| {
        let mut replicas = target(entry);
        if replicas.contains(&broker) {
            return None;
        }
        replicas.push(broker);
        changed(TopicPartition { topic, partition }, entry, retarget(entry, &replicas))
    });
    Ok(Change { topic, ops: ops.collect() })
}

/// Returns the operations that drop a replica from every partition of a topic at once.
pub(super) fn remove_replica(image: &Image, name: &TopicName, broker: BrokerId) -> Result<Change, Refusal> {
    let (topic, topic_entry) = ours(image, name)?;
    let mut ops = Vec::new();
    for (partition, entry) in (0..).zip(&topic_entry.partitions) {
        if !entry.replicas.contains(&broker) {
            continue;
        }
        if entry.leader == Some(broker) || target(entry) == [broker] {
            return Err(conflict(format!(
                "broker {broker} leads partition {partition} of {name} or holds its only replica; add another one first"
            )));
        }
        let floor = size(topic_entry.config.min_isr);
        let left = target(entry).into_iter().filter(|id| *id != broker).count();
        if left < floor && !entry.removing.contains(&broker) {
            return Err(conflict(format!(
                "without broker {broker} partition {partition} of {name} has {left} replica(s), fewer than min_isr \
                 {floor}: it would take no writes"
            )));
        }
        let mut next = entry.clone();
        for list in [&mut next.replicas, &mut next.isr, &mut next.adding, &mut next.removing] {
            list.retain(|id| *id != broker);
        }
        if next.isr.len() < entry.isr.len() && next.isr.len() < floor {
            return Err(conflict(format!(
                "without broker {broker} partition {partition} of {name} has fewer than min_isr in-sync replicas"
            )));
        }
        ops.extend(changed(TopicPartition { topic, partition }, entry, next));
    }
    Ok(Change { topic, ops })
}

#[cfg(test)]
mod tests;
