//! What the controller decides, as pure functions over the image: placement, leaders, in-sync replicas, registrations.
//!
//! Everything returns operations and changes nothing itself. Registration follows KIP-903 (wiped replicas leave their
//! ISRs), the ISR floor is the simplified form of KIP-966: a dead member stays in the ISR, and blocks, rather than
//! leave fewer than `min_isr` complete replicas on record.

use super::image::{BrokerEntry, BrokerState, Image, Op, PartitionEntry, TopicConfig, TopicEntry};
use super::{Command, Refusal};
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartEpoch, TopicId, TopicName, TopicPartition};
use crate::limits::{GROUP_PARTITIONS, GROUPS_TOPIC, PARTITIONS_MAX, REPLICATION_FACTOR_MAX};
use crate::wire::internal::{AlterIsr, Registration};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Replicas of the internal topic once as many brokers are there.
const GROUPS_REPLICAS: usize = 3;

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
}

/// Operations that do an admin request; none if there is nothing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The topic concerned.
    pub(crate) topic: TopicId,
    /// What to do.
    pub(crate) ops: Vec<Op>,
}

/// Returns what an admin request comes to.
pub(crate) fn command(image: &Image, command: &Command) -> Result<Change, Refusal> {
    match command {
        Command::CreateTopic { name, id, partitions, config, leader } => {
            create_topic(image, name, *id, *partitions, config, *leader)
        }
        Command::DeleteTopic { name } => {
            let (topic, _) = ours(image, name)?;
            Ok(Change { topic, ops: vec![Op::DeleteTopic { id: topic }] })
        }
        Command::AlterTopic { name, config, partitions } => {
            alter_topic(image, name, config.as_ref(), *partitions)
        }
        Command::AddReplica { name, broker } => add_replica(image, name, *broker),
        Command::RemoveReplica { name, broker } => remove_replica(image, name, *broker),
    }
}

/// Returns a topic that users may change.
fn ours<'a>(image: &'a Image, name: &TopicName) -> Result<(TopicId, &'a Arc<TopicEntry>), Refusal> {
    not_internal(name)?;
    image.topic_by_name(name).ok_or_else(|| Refusal::TopicNotFound { name: name.clone() })
}

fn not_internal(name: &TopicName) -> Result<(), Refusal> {
    if name.is_internal() {
        return Err(Refusal::Invalid {
            detail: format!("topic {name} is internal: Pubsub manages it itself"),
        });
    }
    Ok(())
}

fn check_config(config: &TopicConfig) -> Result<(), Refusal> {
    let (wanted, floor) = (config.replication_factor, config.min_isr);
    if !(1..=REPLICATION_FACTOR_MAX).contains(&wanted) {
        return Err(invalid(format!("replication_factor is {wanted}, use 1 to {REPLICATION_FACTOR_MAX}")));
    }
    if !(1..=wanted).contains(&floor) {
        return Err(invalid(format!("min_isr is {floor}, use 1 to the replication factor {wanted}")));
    }
    Ok(())
}

fn check_partitions(partitions: u32) -> Result<(), Refusal> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(invalid(format!("partitions is {partitions}, use 1 to {PARTITIONS_MAX}")))
}

fn invalid(detail: String) -> Refusal {
    Refusal::Invalid { detail }
}

fn conflict(detail: String) -> Refusal {
    Refusal::Conflict { detail }
}

fn create_topic(
    image: &Image,
    name: &TopicName,
    id: TopicId,
    partitions: u32,
    config: &TopicConfig,
    leader: Option<BrokerId>,
) -> Result<Change, Refusal> {
    not_internal(name)?;
    check_config(config)?;
    check_partitions(partitions)?;
    if let Some((topic, entry)) = image.topic_by_name(name) {
        let same = entry.partitions.len() == size(partitions)
            && entry.config.replication_factor == config.replication_factor;
        let exists = Refusal::TopicExists { name: name.clone() };
        return if same { Ok(Change { topic, ops: Vec::new() }) } else { Err(exists) };
    }
    if image.topics.contains_key(&id) || image.tombstones.contains_key(&id) {
        return Err(invalid(format!("topic id {id} was used before")));
    }
    let mut load = Load::of(image);
    load.enough(config.replication_factor)?;
    if let Some(wanted) = leader {
        if !image.brokers.contains_key(&wanted) {
            return Err(Refusal::BrokerNotFound { broker: wanted });
        }
        if !image.is_active(wanted) {
            return Err(conflict(format!("broker {wanted} is not alive and can't lead; choose another one")));
        }
    }
    let partitions =
        (0..partitions).map(|index| load.place(index, config, leader.filter(|_| index == 0))).collect();
    let entry = Arc::new(TopicEntry { name: name.clone(), config: config.clone(), partitions });
    Ok(Change { topic: id, ops: vec![Op::AddTopic { id, entry }] })
}

fn size(count: u32) -> usize {
    usize::try_from(count).expect("a count of at most some thousands fits")
}

/// How much each live broker carries: `(replicas, leaderships)`.
struct Load {
    carried: BTreeMap<BrokerId, (usize, usize)>,
}

impl Load {
    fn of(image: &Image) -> Self {
        let mut carried: BTreeMap<_, _> = image.live_brokers().map(|id| (id, (0, 0))).collect();
        for (_, _, entry) in image.partitions() {
            for id in &entry.replicas {
                if let Some(load) = carried.get_mut(id) {
                    load.0 += 1;
                }
            }
            if let Some(load) = entry.leader.and_then(|id| carried.get_mut(&id)) {
                load.1 += 1;
            }
        }
        Self { carried }
    }

    fn enough(&self, wanted: u32) -> Result<(), Refusal> {
        if self.carried.len() >= size(wanted) {
            return Ok(());
        }
        let alive = u32::try_from(self.carried.len()).expect("a cluster has few brokers");
        Err(Refusal::TooFewBrokers { wanted, alive })
    }

    /// Returns live brokers that don't hold a partition yet, least loaded first; equal ones rotate with the index.
    fn ranking(&self, index: u32, without: &[BrokerId]) -> Vec<BrokerId> {
        let ids: Vec<_> = self.carried.keys().copied().collect();
        let turn = if ids.is_empty() { 0 } else { size(index) % ids.len() };
        let mut ranked: Vec<_> = ids[turn..].iter().chain(&ids[..turn]).copied().collect();
        ranked.retain(|id| !without.contains(id));
        ranked.sort_by_key(|id| self.carried[id].0);
        ranked
    }

    fn carry(&mut self, id: BrokerId, leads: bool) {
        if let Some(load) = self.carried.get_mut(&id) {
            load.0 += 1;
            load.1 += usize::from(leads);
        }
    }

    /// Places a new partition on as many brokers as the factor asks for; the caller has checked that there are enough.
    fn place(&mut self, index: u32, config: &TopicConfig, leader: Option<BrokerId>) -> PartitionEntry {
        let mut chosen: Vec<_> = leader.into_iter().collect();
        for id in self.ranking(index, &chosen) {
            if chosen.len() < size(config.replication_factor) {
                chosen.push(id);
            }
        }
        if leader.is_none() {
            // The first replica leads: of those chosen it is the one that leads least so far.
            let least = (0..chosen.len()).min_by_key(|at| self.carried[&chosen[*at]].1).unwrap_or(0);
            chosen[..=least].rotate_right(1);
        }
        for (at, id) in chosen.iter().enumerate() {
            self.carry(*id, at == 0);
        }
        PartitionEntry {
            leader: chosen.first().copied(),
            isr: chosen.clone(),
            replicas: chosen,
            adding: Vec::new(),
            removing: Vec::new(),
            leader_epoch: LeaderEpoch(1),
            part_epoch: PartEpoch(1),
        }
    }
}

fn alter_topic(
    image: &Image,
    name: &TopicName,
    config: Option<&TopicConfig>,
    partitions: Option<u32>,
) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    let wanted = config.unwrap_or(&entry.config);
    let mut ops = Vec::new();
    if *wanted != entry.config {
        check_config(wanted)?;
        if wanted.replication_factor != entry.config.replication_factor {
            ops.extend(resize(image, topic, entry, wanted)?);
        }
        ops.push(Op::SetTopicConfig { id: topic, config: wanted.clone() });
    }
    if let Some(count) = partitions {
        check_partitions(count)?;
        let present = u32::try_from(entry.partitions.len()).expect("partitions are bounded");
        if count < present {
            return Err(invalid(format!(
                "partitions is {count}, but {name} has {present}: they can't be removed"
            )));
        }
        if count > present {
            let mut load = Load::of(image);
            load.enough(wanted.replication_factor)?;
            let partitions = (present..count).map(|index| load.place(index, wanted, None)).collect();
            ops.push(Op::AddPartitions { id: topic, partitions });
        }
    }
    Ok(Change { topic, ops })
}

/// Adds or drops replicas of every partition until it has as many as the new replication factor says.
fn resize(image: &Image, id: TopicId, topic: &TopicEntry, wanted: &TopicConfig) -> Result<Vec<Op>, Refusal> {
    let mut load = Load::of(image);
    let target = size(wanted.replication_factor);
    let mut ops = Vec::new();
    for (partition, entry) in (0..).zip(&topic.partitions) {
        let mut next = entry.clone();
        if entry.replicas.len() < target {
            load.enough(wanted.replication_factor)?;
            for broker in load.ranking(partition, &entry.replicas) {
                if next.replicas.len() < target {
                    next.replicas.push(broker);
                    load.carry(broker, false);
                }
            }
        }
        while next.replicas.len() > target {
            let spare = spare_replica(&next, wanted.min_isr).ok_or_else(|| {
                conflict(format!(
                    "partition {partition} has too few in-sync replicas to drop one; retry later"
                ))
            })?;
            next.replicas.retain(|broker| *broker != spare);
            next.isr.retain(|broker| *broker != spare);
        }
        ops.extend(changed(TopicPartition { topic: id, partition }, entry, next));
    }
    Ok(ops)
}

/// Returns the replica that is missed least: the last one outside the ISR, else the last that does not lead.
fn spare_replica(entry: &PartitionEntry, floor: u32) -> Option<BrokerId> {
    let behind = entry.replicas.iter().rev().find(|id| !entry.isr.contains(id) && entry.leader != Some(**id));
    let above_floor = entry.isr.len() > size(floor);
    let last = entry.replicas.iter().rev().find(|id| above_floor && entry.leader != Some(**id));
    behind.or(last).copied()
}

fn add_replica(image: &Image, name: &TopicName, broker: BrokerId) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    if !image.brokers.contains_key(&broker) {
        return Err(Refusal::BrokerNotFound { broker });
    }
    if !image.is_active(broker) {
        return Err(conflict(format!("broker {broker} is not alive; wait until it is back")));
    }
    let ops = (0..).zip(&entry.partitions).flat_map(|(partition, entry)| {
        let mut next = entry.clone();
        if !next.replicas.contains(&broker) {
            next.replicas.push(broker);
        }
        changed(TopicPartition { topic, partition }, entry, next)
    });
    Ok(Change { topic, ops: ops.collect() })
}

fn remove_replica(image: &Image, name: &TopicName, broker: BrokerId) -> Result<Change, Refusal> {
    let (topic, topic_entry) = ours(image, name)?;
    let mut ops = Vec::new();
    for (partition, entry) in (0..).zip(&topic_entry.partitions) {
        if !entry.replicas.contains(&broker) {
            continue;
        }
        if entry.leader == Some(broker) || entry.replicas.len() == 1 {
            return Err(conflict(format!(
                "broker {broker} leads partition {partition} of {name} or holds its only replica; add another one first"
            )));
        }
        let mut next = entry.clone();
        next.replicas.retain(|id| *id != broker);
        next.isr.retain(|id| *id != broker);
        if next.isr.len() < entry.isr.len() && next.isr.len() < size(topic_entry.config.min_isr) {
            return Err(conflict(format!(
                "without broker {broker} partition {partition} of {name} has fewer than min_isr in-sync replicas"
            )));
        }
        ops.extend(changed(TopicPartition { topic, partition }, entry, next));
    }
    Ok(Change { topic, ops })
}

/// Returns the operation that makes `next` of `entry`, if they differ.
fn changed(partition: TopicPartition, entry: &PartitionEntry, mut next: PartitionEntry) -> Option<Op> {
    if next == *entry {
        return None;
    }
    next.part_epoch = PartEpoch(entry.part_epoch.0 + 1);
    Some(Op::SetPartition { partition, entry: next })
}

/// Returns the replica that should lead: the first one that is in sync and alive.
fn candidate(
    image: &Image,
    entry: &PartitionEntry,
    without: &BTreeSet<BrokerId>,
    lapses: Lapses,
) -> Option<BrokerId> {
    let fit = |id: &&BrokerId| image.is_active(**id) && !without.contains(id);
    entry.replicas.iter().filter(fit).find(|id| lapses.unclean || entry.isr.contains(id)).copied()
}

/// Gives a partition another leader, or none, in the next leader epoch (R4).
fn lead(entry: &mut PartitionEntry, leader: Option<BrokerId>) {
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
    let same_run = registration.boot == known.boot && registration.run_id == known.run_id;
    known.storage_id == registration.storage_id && (registration.boot > known.boot || same_run)
}

/// Returns the operations that admit a process, fenced until it has caught up (R1).
///
/// On the known volume it stays in its ISRs, but never resumes a leader epoch that it held (R2). On another or a rolled
/// back one it leaves every ISR, below the floor if need be (R3): what it held is gone.
pub(crate) fn register(image: &Image, registration: &Registration, version: u64, lapses: Lapses) -> Vec<Op> {
    let id = registration.id;
    let keeps = image.brokers.get(&id).is_some_and(|known| keeps_its_data(known, registration));
    let entry = BrokerEntry {
        storage_id: registration.storage_id,
        boot: registration.boot,
        run_id: registration.run_id,
        broker_epoch: BrokerEpoch(version),
        api_base: registration.api_base.clone(),
        peer_base: registration.peer_base.clone(),
        zone: registration.zone.clone(),
        versions: registration.versions,
        state: BrokerState::Fenced,
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
    Some(Op::SetBroker { id, entry: BrokerEntry { state: BrokerState::Active, ..entry.clone() } })
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
        entry.replicas.contains(id) && known(*id, *epoch) && (member || image.is_active(*id))
    });
    let shrinks = entry.isr.iter().any(|id| !wanted.contains(id));
    if !fit
        || !wanted.contains(&request.leader)
        || (shrinks && !lapses.no_floor && wanted.len() < size(floor))
    {
        return None;
    }
    let isr = entry.replicas.iter().filter(|id| wanted.contains(id)).copied().collect();
    let same = entry.isr.iter().copied().collect::<BTreeSet<_>>() == wanted;
    if same { None } else { changed(request.partition, entry, PartitionEntry { isr, ..entry.clone() }) }
}

/// Returns what should be changed though nobody asked: leaders for leaderless partitions, and the internal topic.
/// That one is created only once the cluster has `settled`, so that it begins on all brokers of a cold start.
pub(crate) fn reconcile(image: &Image, avoid: &BTreeSet<BrokerId>, settled: bool, lapses: Lapses) -> Vec<Op> {
    let none = BTreeSet::new();
    let mut ops = Vec::new();
    for (partition, _, entry) in image.partitions() {
        if entry.leader.is_some_and(|id| image.is_active(id) || lapses.epoch_resumed) {
            continue;
        }
        let successor =
            candidate(image, entry, avoid, lapses).or_else(|| candidate(image, entry, &none, lapses));
        if successor != entry.leader {
            let mut next = entry.clone();
            lead(&mut next, successor);
            ops.extend(changed(partition, entry, next));
        }
    }
    if ops.is_empty() { groups_topic(image, settled) } else { ops }
}

/// Returns the identity of the internal topic: the same whoever creates it, and another in every cluster.
fn groups_id(image: &Image) -> TopicId {
    let mut sum = Sha256::new();
    sum.update(image.cluster_id.0.as_bytes());
    sum.update(GROUPS_TOPIC);
    let digest: [u8; 32] = sum.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    TopicId(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// Creates the internal topic of consumer groups and gives it more replicas as brokers join.
fn groups_topic(image: &Image, settled: bool) -> Vec<Op> {
    let alive = image.live_brokers().count();
    let target = alive.min(GROUPS_REPLICAS);
    let id = groups_id(image);
    if target == 0 || !settled {
        return Vec::new();
    }
    let settings = |replicas: usize| TopicConfig {
        replication_factor: u32::try_from(replicas).expect("at most three"),
        min_isr: if replicas >= GROUPS_REPLICAS { 2 } else { 1 },
        retention_ms: None,
        retention_bytes: None,
        compact: true,
        owner: None,
    };
    let mut load = Load::of(image);
    let Some(topic) = image.topics.get(&id) else {
        let name = TopicName::try_from(GROUPS_TOPIC).expect("the internal topic's name is valid");
        let config = settings(target);
        let partitions = (0..GROUP_PARTITIONS).map(|index| load.place(index, &config, None)).collect();
        return vec![Op::AddTopic { id, entry: Arc::new(TopicEntry { name, config, partitions }) }];
    };
    let mut ops = Vec::new();
    for (partition, entry) in (0..).zip(&topic.partitions) {
        let mut next = entry.clone();
        for broker in load.ranking(partition, &entry.replicas) {
            if next.replicas.len() < target {
                next.replicas.push(broker);
                load.carry(broker, false);
            }
        }
        ops.extend(changed(TopicPartition { topic: id, partition }, entry, next));
    }
    // The floor rises last, once it would not stop what works already.
    let fewest = topic.partitions.iter().map(|entry| entry.replicas.len()).min().unwrap_or(0);
    let config = settings(fewest.min(GROUPS_REPLICAS));
    let in_sync = topic.partitions.iter().all(|entry| entry.isr.len() >= size(config.min_isr));
    if ops.is_empty() && in_sync && config.replication_factor > topic.config.replication_factor {
        ops.push(Op::SetTopicConfig { id, config });
    }
    ops
}
