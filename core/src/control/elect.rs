//! Leaders by request: back to the preferred replica, or, at the price of records, any replica that is alive. The latter also
//! by a topic's own setting.

use super::Refusal;
use super::image::{Image, Op, PartitionEntry};
use super::policy::{Change, changed, conflict, invalid, lead, ours, size};
use crate::ids::{BrokerId, TopicName, TopicPartition};
use std::collections::BTreeSet;

/// Returns the operations that give partitions of a topic another leader.
///
/// Without `unclean` only members of the ISR lead: `broker` if it is named, else each partition's preferred replica where
/// that is in sync. With it, partitions without a leader, and only those, are given to a live replica that may lack
/// records that were acknowledged: those are lost, and it alone is in sync afterwards.
pub(super) fn elect(
    image: &Image,
    name: &TopicName,
    partition: Option<u32>,
    broker: Option<BrokerId>,
    unclean: bool,
) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    if partition.is_some_and(|partition| size(partition) >= entry.partitions.len()) {
        return Err(invalid(format!("{name} has {} partition(s), counted from 0", entry.partitions.len())));
    }
    let mut ops = Vec::new();
    for (index, entry) in (0..).zip(&entry.partitions) {
        if partition.is_some_and(|partition| partition != index) {
            continue;
        }
        let leader = if unclean {
            survivor(image, entry, index, broker)?
        } else {
            member(image, entry, index, broker)?
        };
        if let Some(leader) = leader {
            let mut next = entry.clone();
            lead(&mut next, Some(leader));
            ops.extend(changed(TopicPartition { topic, partition: index }, entry, next));
        }
    }
    Ok(Change { topic, ops })
}

/// Returns the in-sync replica that should lead instead of the present leader.
fn member(
    image: &Image,
    entry: &PartitionEntry,
    index: u32,
    broker: Option<BrokerId>,
) -> Result<Option<BrokerId>, Refusal> {
    let Some(wanted) = broker.or(entry.replicas.first().copied()).filter(|id| entry.leader != Some(*id))
    else {
        return Ok(None);
    };
    if image.is_active(wanted) && entry.isr.contains(&wanted) {
        return Ok(Some(wanted));
    }
    match broker {
        None => Ok(None),
        Some(broker) => Err(conflict(format!(
            "broker {broker} is not alive and in sync on partition {index}; choose one of {:?}",
            entry.isr.iter().map(|id| id.0).collect::<Vec<_>>()
        ))),
    }
}

/// Returns the operations that give partitions without a leader to a live replica, where their topics say so
/// (`unclean_election`) and no member of the ISR can be waited for: all of them are `lost`, that is, silent for long.
pub(super) fn by_setting(image: &Image, lost: &BTreeSet<BrokerId>) -> Vec<Op> {
    let abandoned = image.partitions().filter(|(_, topic, entry)| {
        topic.config.unclean_election
            && entry.leader.is_none()
            && entry.isr.iter().all(|id| !image.is_alive(*id) && lost.contains(id))
    });
    abandoned
        .filter_map(|(partition, _, entry)| {
            let leader = survivor(image, entry, partition.partition, None).ok()??;
            let mut next = entry.clone();
            lead(&mut next, Some(leader));
            changed(partition, entry, next)
        })
        .collect()
}

/// Returns the replica that should lead a partition without a leader, whatever it lacks.
fn survivor(
    image: &Image,
    entry: &PartitionEntry,
    index: u32,
    broker: Option<BrokerId>,
) -> Result<Option<BrokerId>, Refusal> {
    if entry.leader.is_some() {
        return Ok(None);
    }
    let fit = |id: &&BrokerId| image.is_active(**id) && broker.is_none_or(|broker| broker == **id);
    let in_sync = entry.replicas.iter().filter(fit).find(|id| entry.isr.contains(id));
    let found = in_sync.or_else(|| entry.replicas.iter().find(fit)).copied();
    let nobody = || match broker {
        Some(broker) => conflict(format!("broker {broker} holds no live replica of partition {index}")),
        None => conflict(format!("no replica of partition {index} is alive; start one of its brokers")),
    };
    found.map(Some).ok_or_else(nobody)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture::{b, done};
    use crate::control::image::TopicConfig;
    use crate::control::policy::{self, Lapses};
    use crate::control::{Command, fixture};
    use crate::ids::LeaderEpoch;

    fn asked(image: &Image, broker: Option<u32>, unclean: bool) -> Result<PartitionEntry, Refusal> {
        let name = TopicName::try_from("a").unwrap();
        let command = Command::Elect { name, partition: None, broker: broker.map(b), unclean };
        let ops = policy::command(image, &command)?.ops;
        Ok(done(image, &ops).partitions().next().unwrap().2.clone())
    }

    fn without(image: &Image, gone: &[u32]) -> Image {
        let gone: BTreeSet<_> = gone.iter().map(|id| b(*id)).collect();
        done(image, &policy::fence(image, &gone, Lapses::default()))
    }

    #[test]
    fn in_sync_replicas_lead_on_request_and_nobody_else() {
        let image = done(&fixture::image(3), &[fixture::add_topic("a", 1, &[1, 2])]);
        assert_eq!(
            asked(&image, None, false).unwrap().leader_epoch,
            LeaderEpoch(1),
            "the preferred one leads"
        );
        let moved = asked(&image, Some(2), false).unwrap();
        assert_eq!((moved.leader, moved.leader_epoch), (Some(b(2)), LeaderEpoch(2)));
        assert!(matches!(asked(&image, Some(3), false), Err(Refusal::Conflict { .. })));
    }

    #[test]
    fn a_partition_with_a_leader_is_never_given_away_at_the_price_of_records() {
        let image = without(&done(&fixture::image(3), &[fixture::add_topic("a", 1, &[1, 2])]), &[2]);
        let entry = asked(&image, None, true).unwrap();
        assert_eq!((entry.leader, entry.leader_epoch), (Some(b(1)), LeaderEpoch(1)));
    }

    #[test]
    fn a_partition_whose_in_sync_replicas_are_gone_is_given_to_a_survivor_by_that_request_alone() {
        let image = without(&done(&fixture::image(3), &[fixture::add_topic("a", 1, &[1, 2])]), &[2]);
        let image = without(&image, &[1]);
        assert!(matches!(asked(&image, None, true), Err(Refusal::Conflict { .. })), "nobody is alive");
        let image = done(&image, &[policy::unfence(&image, b(2)).unwrap()]);
        assert_eq!(asked(&image, None, false).unwrap().leader, None);
        assert!(matches!(asked(&image, Some(1), true), Err(Refusal::Conflict { .. })));
        let entry = asked(&image, None, true).unwrap();
        assert_eq!((entry.leader, entry.isr, entry.leader_epoch), (Some(b(2)), vec![b(2)], LeaderEpoch(3)));
    }

    #[test]
    fn a_topic_that_says_so_is_given_to_a_survivor_once_all_in_sync_replicas_are_lost() {
        let image = done(&fixture::image(3), &[fixture::add_topic("a", 1, &[1, 2])]);
        let image = without(&without(&image, &[2]), &[1]);
        let image = done(&image, &[policy::unfence(&image, b(2)).unwrap()]);
        let lost = BTreeSet::from([b(1)]);
        assert_eq!(by_setting(&image, &lost), vec![], "the topic does not say so");
        let (id, topic) = image.topics.first_key_value().unwrap();
        let config = TopicConfig { unclean_election: true, ..topic.config.clone() };
        let image = done(&image, &[Op::SetTopicConfig { id: *id, config }]);
        assert_eq!(by_setting(&image, &BTreeSet::new()), vec![], "it may come back");
        let led = done(&image, &by_setting(&image, &lost));
        let entry = led.partitions().next().unwrap().2.clone();
        assert_eq!((entry.leader, entry.isr, entry.leader_epoch), (Some(b(2)), vec![b(2)], LeaderEpoch(3)));
        assert_eq!(by_setting(&led, &lost), vec![]);
        let back = done(&image, &[policy::unfence(&image, b(1)).unwrap()]);
        assert_eq!(by_setting(&back, &lost), vec![], "whoever is in sync and alive comes first");
    }
}
