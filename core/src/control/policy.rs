//! What the controller decides, as pure functions over the image: placement, leaders, in-sync replicas, registrations.
//!
//! Everything returns operations and changes nothing itself. Registration follows KIP-903 (wiped replicas leave their
//! ISRs), the ISR floor is the simplified form of KIP-966: a dead member stays in the ISR, and blocks, rather than
//! leave fewer than `min_isr` complete replicas on record.

use super::image::{BrokerEntry, BrokerState, Image, Op, PartitionEntry, TopicEntry};
use super::placement::{Load, groups_topic};
use super::{Command, Refusal, drain, elect, moves, topics};
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartEpoch, TopicId, TopicName, TopicPartition};
use crate::wire::internal::{AlterIsr, Registration};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Leaderships moved back in one commit: each move interrupts its partition's writers for a moment.
const LEADERS_MOVED_MAX: usize = 10;

/// Rules that tests switch off; all of them hold by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lapses {
    /// A wiped replica stays in its ISRs.
    pub(crate) wiped_stays: bool,
    /// A restarted leader keeps its leader epoch.
    pub(crate) epoch_resumed: bool,
    /// ISR requests are not bound to registrations.
    pub(crate) any_registration: bool,
    /// The ISR may shrink below `min_isr`.
    pub(crate) no_floor: bool,
    /// A replica outside the ISR may lead.
    pub(crate) unclean: bool,
    /// A move ends at once, as if the added replicas held everything.
    pub(crate) moves_at_once: bool,
    /// What leaves a draining broker counts as in sync at its new place at once.
    pub(crate) drains_at_once: bool,
    /// An older copy of a volume is taken for the volume.
    pub(crate) old_copies: bool,
    /// Programs are admitted that can't read the image.
    pub(crate) any_level: bool,
}

/// Operations that do an admin request; none if there is nothing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The topic concerned.
    pub(crate) topic: TopicId,
    /// What to do.
    pub(crate) ops: Vec<Op>,
}

/// Returns what an admin request comes to. `load` is what brokers carry on this image, if that was counted already; it is
/// kept up to date where that is cheap, so that a thousand new topics don't count all partitions a thousand times.
pub(crate) fn command_after(
    image: &Image,
    command: &Command,
    load: &mut Option<Load>,
) -> Result<Change, Refusal> {
    if !matches!(command, Command::CreateTopic { .. }) {
        *load = None;
    }
    match command {
        Command::CreateTopic { name, id, partitions, config, leader, take_ownership } => {
            let new = topics::NewTopic { name, id: *id, partitions: *partitions, config, leader: *leader };
            topics::create(image, new, *take_ownership, load)
        }
        Command::DeleteTopic { name, owner_uid, empty } => {
            topics::delete(image, name, owner_uid.as_deref(), empty.as_deref())
        }
        Command::AlterTopic { name, change, owner_uid, take_ownership } => {
            topics::alter(image, name, change, owner_uid.as_deref(), *take_ownership)
        }
        Command::AddReplica { name, broker } => moves::add_replica(image, name, *broker),
        Command::RemoveReplica { name, broker } => moves::remove_replica(image, name, *broker),
        Command::Reassign { name, moves } => moves::reassign(image, name, moves),
        Command::CancelMoves { name } => moves::cancel_moves(image, name),
        Command::Drain { broker } => drain::begin(image, *broker),
        Command::CancelDrain { broker } => drain::cancel(image, *broker),
        Command::Elect { name, partition, broker, unclean } => {
            elect::elect(image, name, *partition, *broker, *unclean)
        }
    }
}

/// Returns a topic that users may change.
pub(super) fn ours<'a>(
    image: &'a Image,
    name: &TopicName,
) -> Result<(TopicId, &'a Arc<TopicEntry>), Refusal> {
    not_internal(name)?;
    image.topic_by_name(name).ok_or_else(|| Refusal::TopicNotFound { name: name.clone() })
}

pub(super) fn not_internal(name: &TopicName) -> Result<(), Refusal> {
    if name.is_internal() {
        return Err(Refusal::Invalid {
            detail: format!("topic {name} is internal: Pubsub manages it itself"),
        });
    }
    Ok(())
}

pub(super) fn invalid(detail: String) -> Refusal {
    Refusal::Invalid { detail }
}

pub(super) fn conflict(detail: String) -> Refusal {
    Refusal::Conflict { detail }
}

pub(super) fn size(count: u32) -> usize {
    usize::try_from(count).expect("a count of at most some thousands fits")
}

/// Returns the operation that makes `next` of `entry`, if they differ.
pub(super) fn changed(
    partition: TopicPartition,
    entry: &PartitionEntry,
    mut next: PartitionEntry,
) -> Option<Op> {
    if next == *entry {
        return None;
    }
    next.part_epoch = PartEpoch(entry.part_epoch.0 + 1);
    Some(Op::SetPartition { partition, entry: next })
}

/// Returns the replica that should lead: the first one that is in sync and alive.
pub(super) fn candidate(
    image: &Image,
    entry: &PartitionEntry,
    without: &BTreeSet<BrokerId>,
    lapses: Lapses,
) -> Option<BrokerId> {
    let fit = |id: &&BrokerId| image.is_active(**id) && !without.contains(id);
    entry.replicas.iter().filter(fit).find(|id| lapses.unclean || entry.isr.contains(id)).copied()
}

/// Gives a partition another leader, or none, in the next leader epoch (R4).
pub(super) fn lead(entry: &mut PartitionEntry, leader: Option<BrokerId>) {
    entry.leader = leader;
    entry.leader_epoch = LeaderEpoch(entry.leader_epoch.0 + 1);
    if let Some(outsider) = leader.filter(|id| !entry.isr.contains(id)) {
        entry.isr = vec![outsider];
    }
}

/// Returns the operations that take everything from brokers that are silent or leaving: one commit moves it all.
///
/// Members leave an ISR only down to its floor, and only while a live member remains to lead: a set of dead members is
/// kept whole, since whichever returns first holds every committed record.
pub(crate) fn fence(image: &Image, gone: &BTreeSet<BrokerId>, lapses: Lapses) -> Vec<Op> {
    let mut ops = Vec::new();
    for id in gone {
        if let Some(entry) = image.brokers.get(id).filter(|entry| entry.state != BrokerState::Fenced) {
            ops.push(Op::SetBroker {
                id: *id,
                entry: BrokerEntry { state: BrokerState::Fenced, ..entry.clone() },
            });
        }
    }
    for (partition, topic, entry) in image.partitions() {
        if !entry.replicas.iter().any(|id| gone.contains(id)) {
            continue;
        }
        let mut next = entry.clone();
        if entry.leader.is_some_and(|id| gone.contains(&id)) {
            lead(&mut next, candidate(image, entry, gone, lapses));
        }
        let floor = if lapses.no_floor { 1 } else { size(topic.config.min_isr).max(1) };
        for id in gone {
            let may_leave = next.isr.len() > floor && (next.leader.is_some() || lapses.no_floor);
            if may_leave && next.leader != Some(*id) {
                next.isr.retain(|member| member != id);
            }
        }
        ops.extend(changed(partition, entry, next));
    }
    ops
}

/// Returns the operations that move leaderships off brokers that can't write, where anyone else can lead.
pub(crate) fn evacuate(image: &Image, from: &BTreeSet<BrokerId>, lapses: Lapses) -> Vec<Op> {
    let led = image.partitions().filter(|(_, _, entry)| entry.leader.is_some_and(|id| from.contains(&id)));
    led.filter_map(|(partition, _, entry)| {
        let successor = candidate(image, entry, from, lapses)?;
        let mut next = entry.clone();
        lead(&mut next, Some(successor));
        changed(partition, entry, next)
    })
    .collect()
}

/// Returns whether a process runs on the volume that its id was registered with, and that volume was not rolled back.
pub(crate) fn keeps_its_data(known: &BrokerEntry, registration: &Registration) -> bool {
    known.storage_id == registration.storage_id && registration.start().follows(known.start())
}

/// Returns the operations that admit a process, fenced until it has caught up (R1).
///
/// On the known volume it stays in its ISRs, but never resumes a leader epoch that it held (R2). On another or a rolled
/// back one it leaves every ISR, below the floor if need be (R3): what it held is gone. A rolled back one has forgotten
/// promises too, and never votes again.
pub(crate) fn register(image: &Image, registration: &Registration, version: u64, lapses: Lapses) -> Vec<Op> {
    let id = registration.id;
    let known = image.brokers.get(&id);
    let same_volume = known.filter(|known| known.storage_id == registration.storage_id);
    let keeps = known.is_some_and(|known| keeps_its_data(known, registration))
        || (lapses.old_copies && same_volume.is_some());
    let entry = BrokerEntry {
        storage_id: registration.storage_id,
        boot: registration.boot,
        run_id: registration.run_id,
        broker_epoch: BrokerEpoch(version),
        api_base: registration.api_base.clone(),
        peer_base: registration.peer_base.clone(),
        zone: registration.zone.clone(),
        versions: registration.versions,
        sealed: registration.sealed,
        state: BrokerState::Fenced,
        draining: known.is_some_and(|known| known.draining),
        rolled_back: same_volume.is_some_and(|known| known.rolled_back || !keeps),
    };
    let mut ops = vec![Op::SetBroker { id, entry }];
    let alone = BTreeSet::from([id]);
    for (partition, _, entry) in image.partitions() {
        let mut next = entry.clone();
        if !keeps && !lapses.wiped_stays {
            next.isr.retain(|member| *member != id);
        }
        if entry.leader == Some(id) && !(lapses.epoch_resumed && keeps) {
            let successor = candidate(image, &next, &alone, Lapses { unclean: false, ..lapses });
            lead(&mut next, successor);
        }
        ops.extend(changed(partition, entry, next));
    }
    ops
}

/// Returns the operation that lets a fenced broker take part again.
pub(crate) fn unfence(image: &Image, id: BrokerId) -> Option<Op> {
    let entry = image.brokers.get(&id).filter(|entry| entry.state == BrokerState::Fenced)?;
    let state = if entry.draining { BrokerState::Draining } else { BrokerState::Active };
    Some(Op::SetBroker { id, entry: BrokerEntry { state, ..entry.clone() } })
}

/// Returns the operation that does a leader's request; `None` if anything in it does not match the image.
pub(crate) fn alter_isr(image: &Image, request: &AlterIsr, lapses: Lapses) -> Option<Op> {
    let entry = image.partition(request.partition)?;
    let floor = image.topics.get(&request.partition.topic)?.config.min_isr;
    let epoch_of = |id: BrokerId| image.brokers.get(&id).map(|broker| broker.broker_epoch);
    let known = |id: BrokerId, epoch| lapses.any_registration || epoch_of(id) == Some(epoch);
    let token = entry.leader_epoch == request.leader_epoch && entry.part_epoch == request.part_epoch;
    if entry.leader != Some(request.leader) || !token || !known(request.leader, request.broker_epoch) {
        return None;
    }
    let wanted: BTreeSet<_> = request.isr.iter().map(|(id, _)| *id).collect();
    let fit = request.isr.iter().all(|(id, epoch)| {
        let member = entry.isr.contains(id);
        // A dead member that the floor keeps in the ISR must not keep live ones from joining.
        entry.replicas.contains(id) && known(*id, *epoch) && (member || image.is_alive(*id))
    });
    let shrinks = entry.isr.iter().any(|id| !wanted.contains(id));
    if !fit
        || !wanted.contains(&request.leader)
        || (shrinks && !lapses.no_floor && wanted.len() < size(floor))
    {
        return None;
    }
    let isr = entry.replicas.iter().filter(|id| wanted.contains(id)).copied().collect();
    // The same members again are a change too: it uses the token up. That is how a leader withdraws a wish for a member
    // that fell silent, which a delayed copy could otherwise fulfil after the leader stopped counting that member.
    let part_epoch = PartEpoch(entry.part_epoch.0 + 1);
    Some(Op::SetPartition {
        partition: request.partition,
        entry: PartitionEntry { isr, part_epoch, ..entry.clone() },
    })
}

/// Returns what should be changed though nobody asked: leaders for leaderless partitions, and the internal topic.
/// That one is created only once the cluster has `settled`, so that it begins on all brokers of a cold start.
pub(crate) fn reconcile(image: &Image, avoid: &BTreeSet<BrokerId>, settled: bool, lapses: Lapses) -> Vec<Op> {
    let none = BTreeSet::new();
    let mut ops = Vec::new();
    for (partition, _, entry) in image.partitions() {
        let fenced = |id| image.brokers.get(&id).is_none_or(|broker| broker.state == BrokerState::Fenced);
        if entry.leader.is_some_and(|id| !fenced(id) || lapses.epoch_resumed) {
            continue;
        }
        // A broker that is to be emptied leads rather than nobody.
        let draining =
            || entry.replicas.iter().find(|id| image.is_alive(**id) && entry.isr.contains(id)).copied();
        let successor = candidate(image, entry, avoid, lapses)
            .or_else(|| candidate(image, entry, &none, lapses))
            .or_else(draining);
        if successor != entry.leader {
            let mut next = entry.clone();
            lead(&mut next, successor);
            ops.extend(changed(partition, entry, next));
        }
    }
    if ops.is_empty() { groups_topic(image, settled) } else { ops }
}

/// Returns operations that move some leaderships back to the replicas that were meant to lead, so that restarts one
/// after the other don't leave everything on one broker. `stable` brokers have been back for a while.
pub(crate) fn prefer(image: &Image, stable: &BTreeSet<BrokerId>) -> Vec<Op> {
    let away = image.partitions().filter_map(|(partition, _, entry)| {
        let preferred = *entry.replicas.first()?;
        let fit = stable.contains(&preferred) && image.is_active(preferred) && entry.isr.contains(&preferred);
        if !fit || entry.leader.is_none() || entry.leader == Some(preferred) {
            return None;
        }
        let mut next = entry.clone();
        lead(&mut next, Some(preferred));
        changed(partition, entry, next)
    });
    away.take(LEADERS_MOVED_MAX).collect()
}

/// Returns what one admin request comes to.
#[cfg(test)]
pub(crate) fn command(image: &Image, command: &Command) -> Result<Change, Refusal> {
    command_after(image, command, &mut None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture;
    use crate::control::fixture::{b, done};
    use crate::ids::{RunId, StorageId};
    use proptest::prelude::*;
    use uuid::Uuid;

    const NO: Lapses = Lapses {
        wiped_stays: false,
        epoch_resumed: false,
        any_registration: false,
        no_floor: false,
        unclean: false,
        moves_at_once: false,
        drains_at_once: false,
        old_copies: false,
        any_level: false,
    };

    fn ids(list: &[u32]) -> BTreeSet<BrokerId> {
        list.iter().map(|id| b(*id)).collect()
    }

    fn with_topic(brokers: u32, min_isr: u32, replicas: &[u32]) -> Image {
        let image = fixture::image(brokers);
        done(&image, &[fixture::add_topic("a", min_isr, replicas)])
    }

    fn only(image: &Image) -> (TopicPartition, PartitionEntry) {
        let (partition, _, entry) = image.partitions().next().unwrap();
        (partition, entry.clone())
    }

    fn registration(id: u32, storage: StorageId, boot: u64) -> Registration {
        Registration {
            id: b(id),
            storage_id: storage,
            boot,
            run_id: RunId(Uuid::from_u128(77)),
            api_base: String::new(),
            peer_base: String::new(),
            zone: None,
            versions: (1, 1),
            sealed: None,
        }
    }

    fn request(image: &Image, isr: &[u32]) -> AlterIsr {
        let (partition, entry) = only(image);
        let epoch = |id: BrokerId| image.brokers[&id].broker_epoch;
        AlterIsr {
            partition,
            leader: entry.leader.unwrap(),
            broker_epoch: epoch(entry.leader.unwrap()),
            leader_epoch: entry.leader_epoch,
            part_epoch: entry.part_epoch,
            isr: isr.iter().map(|id| (b(*id), epoch(b(*id)))).collect(),
        }
    }

    #[test]
    fn a_dead_leader_is_replaced_by_the_first_live_member_in_the_next_leader_epoch() {
        let image = with_topic(3, 2, &[1, 2, 3]);
        let after = done(&image, &fence(&image, &ids(&[1]), NO));
        let (_, entry) = only(&after);
        assert_eq!((entry.leader, entry.leader_epoch), (Some(b(2)), LeaderEpoch(2)));
        assert_eq!(entry.isr, vec![b(2), b(3)]);
        assert!(!after.is_active(b(1)));
    }

    #[test]
    fn dead_members_stay_in_the_isr_rather_than_go_below_its_floor() {
        let image = with_topic(3, 2, &[1, 2, 3]);
        let after = done(&image, &fence(&image, &ids(&[1, 2]), NO));
        let (_, entry) = only(&after);
        assert_eq!(entry.leader, Some(b(3)));
        assert_eq!(entry.isr.len(), 2, "{:?}", entry.isr);
    }

    #[test]
    fn a_replica_outside_the_isr_never_leads() {
        let image = with_topic(2, 1, &[1, 2]);
        let image = done(&image, &[alter_isr(&image, &request(&image, &[1]), NO).unwrap()]);
        let after = done(&image, &fence(&image, &ids(&[1]), NO));
        assert_eq!(only(&after).1.leader, None);
        assert_eq!(only(&after).1.isr, vec![b(1)]);
        assert_eq!(reconcile(&after, &BTreeSet::new(), false, NO), vec![]);
        let back = done(&after, &[unfence(&after, b(1)).unwrap()]);
        let healed = done(&back, &reconcile(&back, &BTreeSet::new(), false, NO));
        assert_eq!(only(&healed).1.leader, Some(b(1)));
        assert_eq!(only(&healed).1.leader_epoch, LeaderEpoch(3));
    }

    #[test]
    fn a_wiped_or_rolled_back_volume_leaves_every_isr_even_below_the_floor() {
        let image = with_topic(3, 2, &[1, 2]);
        let other = StorageId(Uuid::from_u128(5));
        for wish in [registration(1, other, 9), registration(1, fixture::storage(1), 1)] {
            let (_, entry) = only(&done(&image, &register(&image, &wish, 7, NO)));
            assert_eq!((entry.isr, entry.leader), (vec![b(2)], Some(b(2))));
        }
        let alone = with_topic(3, 1, &[1]);
        let (_, entry) = only(&done(&alone, &register(&alone, &registration(1, other, 9), 7, NO)));
        assert_eq!((entry.isr, entry.leader), (vec![], None), "what was lost is not led silently");
    }

    #[test]
    fn a_restarted_process_keeps_its_isrs_and_gives_up_its_leader_epochs() {
        let image = with_topic(1, 1, &[1]);
        let after = done(&image, &register(&image, &registration(1, fixture::storage(1), 2), 7, NO));
        let (_, entry) = only(&after);
        assert_eq!((entry.isr, entry.leader, entry.leader_epoch), (vec![b(1)], None, LeaderEpoch(2)));
        assert_eq!(after.brokers[&b(1)].broker_epoch, BrokerEpoch(7));
        assert!(!after.is_active(b(1)));
    }

    #[test]
    fn an_isr_request_is_refused_unless_everything_in_it_matches() {
        let image = with_topic(3, 2, &[1, 2, 3]);
        let good = request(&image, &[1, 2]);
        assert!(alter_isr(&image, &good, NO).is_some());
        let bad = [
            AlterIsr { leader: b(2), ..good.clone() },
            AlterIsr { broker_epoch: BrokerEpoch(9), ..good.clone() },
            AlterIsr { leader_epoch: LeaderEpoch(0), ..good.clone() },
            AlterIsr { part_epoch: PartEpoch(0), ..good.clone() },
            AlterIsr { isr: vec![(b(1), BrokerEpoch(1)), (b(2), BrokerEpoch(9))], ..good.clone() },
            request(&image, &[1]),
            request(&image, &[2, 3]),
        ];
        for request in bad {
            assert_eq!(alter_isr(&image, &request, NO), None, "{request:?}");
        }
    }

    #[test]
    fn a_fenced_broker_does_not_join_an_isr() {
        let image = with_topic(3, 1, &[1, 2, 3]);
        let image = done(&image, &fence(&image, &ids(&[3]), NO));
        assert_eq!(alter_isr(&image, &request(&image, &[1, 2, 3]), NO), None);
        let image = done(&image, &[unfence(&image, b(3)).unwrap()]);
        assert!(alter_isr(&image, &request(&image, &[1, 2, 3]), NO).is_some());
    }

    #[test]
    fn leaderships_return_to_the_preferred_replica_once_it_is_in_sync_and_stable() {
        let image = with_topic(2, 1, &[1, 2]);
        let image = done(&image, &fence(&image, &ids(&[1]), NO));
        let image = done(&image, &[unfence(&image, b(1)).unwrap()]);
        assert_eq!(prefer(&image, &ids(&[1, 2])), vec![], "1 is not in sync");
        let image = done(&image, &[alter_isr(&image, &request(&image, &[1, 2]), NO).unwrap()]);
        assert_eq!(prefer(&image, &ids(&[2])), vec![], "1 has not been back for long");
        let image = done(&image, &prefer(&image, &ids(&[1, 2])));
        assert_eq!(only(&image).1.leader, Some(b(1)));
    }

    fn create(
        image: &Image,
        partitions: u32,
        factor: u32,
        leader: Option<BrokerId>,
    ) -> Result<Change, Refusal> {
        let name = TopicName::try_from("new").unwrap();
        let (id, config) = (TopicId(Uuid::from_u128(9)), fixture::config(factor, 1));
        let take_ownership = false;
        command(image, &Command::CreateTopic { name, id, partitions, config, leader, take_ownership })
    }

    #[test]
    fn the_wanted_leader_gets_the_first_partition_and_must_be_alive() {
        let image = fixture::image(3);
        let made = done(&image, &create(&image, 3, 2, Some(b(3))).unwrap().ops);
        assert_eq!(only(&made).1.leader, Some(b(3)));
        assert_eq!(create(&image, 1, 1, Some(b(9))), Err(Refusal::BrokerNotFound { broker: b(9) }));
        let dead = done(&image, &fence(&image, &ids(&[3]), NO));
        assert!(matches!(create(&dead, 1, 1, Some(b(3))), Err(Refusal::Conflict { .. })));
    }

    #[test]
    fn a_replica_is_removed_only_above_the_floor_and_never_the_leader() {
        let image = with_topic(3, 2, &[1, 2]);
        let name = TopicName::try_from("a").unwrap();
        let remove =
            |image: &Image, id| command(image, &Command::RemoveReplica { name: name.clone(), broker: b(id) });
        assert!(matches!(remove(&image, 1), Err(Refusal::Conflict { .. })));
        assert!(matches!(remove(&image, 2), Err(Refusal::Conflict { .. })));
        let add = Command::AddReplica { name: name.clone(), broker: b(3) };
        let grown = done(&image, &command(&image, &add).unwrap().ops);
        assert_eq!(only(&grown).1.replicas.len(), 3);
        assert_eq!(only(&grown).1.isr.len(), 2, "it joins once it has caught up");
        assert!(command(&grown, &add).unwrap().ops.is_empty());
        assert!(remove(&grown, 3).is_ok());
    }

    #[test]
    fn the_internal_topic_follows_the_number_of_brokers_up_to_three() {
        let alone = fixture::image(1);
        let image = done(&alone, &reconcile(&alone, &BTreeSet::new(), true, NO));
        assert_eq!(image.topics.len(), 1);
        assert_eq!(image.topics.values().next().unwrap().config.min_isr, 1);
        let mut grown = image.clone();
        for id in [2, 3] {
            grown.brokers.insert(b(id), fixture::broker(id));
        }
        let grown = done(&grown, &reconcile(&grown, &BTreeSet::new(), true, NO));
        assert!(grown.partitions().all(|(_, _, entry)| entry.replicas.len() == 3));
        assert_eq!(
            reconcile(&grown, &BTreeSet::new(), true, NO),
            vec![],
            "the floor waits for the new replicas"
        );
        let joined: Vec<_> = grown
            .partitions()
            .map(|(partition, _, entry)| Op::SetPartition {
                partition,
                entry: PartitionEntry { isr: entry.replicas.clone(), ..entry.clone() },
            })
            .collect();
        let joined = done(&grown, &joined);
        let last = done(&joined, &reconcile(&joined, &BTreeSet::new(), true, NO));
        assert_eq!(last.topics.values().next().unwrap().config.min_isr, 2);
        assert_eq!(reconcile(&last, &BTreeSet::new(), true, NO), vec![]);
    }

    proptest! {
        #[test]
        fn placement_is_even_and_without_repetition(brokers in 1u32..8, partitions in 1u32..40, factor in 1u32..4) {
            let image = fixture::image(brokers);
            prop_assume!(factor <= brokers);
            let made = done(&image, &create(&image, partitions, factor, None).unwrap().ops);
            let mut held = std::collections::BTreeMap::<_, u32>::new();
            let mut led = std::collections::BTreeMap::<_, u32>::new();
            for (_, _, entry) in made.partitions() {
                let distinct: BTreeSet<_> = entry.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), size(factor));
                prop_assert_eq!(entry.leader, entry.replicas.first().copied());
                entry.replicas.iter().for_each(|id| *held.entry(*id).or_default() += 1);
                *led.entry(entry.leader).or_default() += 1;
            }
            let most = held.values().max().unwrap();
            prop_assert!(most - held.values().min().unwrap() <= 1 || partitions * factor < brokers);
            prop_assert!(*led.values().max().unwrap() <= partitions.div_ceil(brokers) + 1);
        }

        #[test]
        fn the_isr_keeps_its_floor_and_epochs_only_grow(deaths in proptest::collection::vec(1u32..6, 1..12)) {
            let mut image = with_topic(5, 2, &[1, 2, 3, 4, 5]);
            for id in deaths {
                let before = only(&image).1;
                let ops = if image.is_active(b(id)) { fence(&image, &ids(&[id]), NO) } else {
                    vec![unfence(&image, b(id)).unwrap()]
                };
                image = done(&image, &ops);
                image = done(&image, &reconcile(&image, &BTreeSet::new(), false, NO));
                let after = only(&image).1;
                prop_assert!(after.isr.len() >= 2);
                prop_assert!(after.leader.is_none_or(|leader| after.isr.contains(&leader) && image.is_active(leader)));
                prop_assert!(after.leader == before.leader || after.leader_epoch > before.leader_epoch);
                prop_assert!(after == before || after.part_epoch > before.part_epoch);
            }
        }
    }
}
