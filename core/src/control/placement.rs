//! Where replicas go, and the internal topic that grows with the cluster.

use super::Refusal;
use super::image::{Image, Op, PartitionEntry, TopicConfig, TopicEntry};
use super::policy::{changed, size};
use crate::ids::{BrokerId, LeaderEpoch, PartEpoch, TopicId, TopicName, TopicPartition};
use crate::limits::{GROUP_PARTITIONS, GROUPS_TOPIC};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Replicas of the internal topic once as many brokers are there.
const GROUPS_REPLICAS: usize = 3;

/// How much each live broker carries: `(replicas, leaderships)`.
pub(super) struct Load {
    carried: BTreeMap<BrokerId, (usize, usize)>,
}

impl Load {
    pub(super) fn of(image: &Image) -> Self {
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

    pub(super) fn enough(&self, wanted: u32) -> Result<(), Refusal> {
        if self.carried.len() >= size(wanted) {
            return Ok(());
        }
        let alive = u32::try_from(self.carried.len()).expect("a cluster has few brokers");
        Err(Refusal::TooFewBrokers { wanted, alive })
    }

    /// Returns live brokers that don't hold a partition yet, least loaded first; equal ones rotate with the index.
    pub(super) fn ranking(&self, index: u32, without: &[BrokerId]) -> Vec<BrokerId> {
        let ids: Vec<_> = self.carried.keys().copied().collect();
        let turn = if ids.is_empty() { 0 } else { size(index) % ids.len() };
        let mut ranked: Vec<_> = ids[turn..].iter().chain(&ids[..turn]).copied().collect();
        ranked.retain(|id| !without.contains(id));
        ranked.sort_by_key(|id| self.carried[id].0);
        ranked
    }

    pub(super) fn carry(&mut self, id: BrokerId, leads: bool) {
        if let Some(load) = self.carried.get_mut(&id) {
            load.0 += 1;
            load.1 += usize::from(leads);
        }
    }

    /// Places a new partition on as many brokers as the factor asks for; the caller has checked that there are enough.
    pub(super) fn place(
        &mut self,
        index: u32,
        config: &TopicConfig,
        leader: Option<BrokerId>,
    ) -> PartitionEntry {
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

/// Returns the settings of the internal topic with so many replicas, at most three.
pub(super) fn internal_settings(replicas: usize) -> TopicConfig {
    let replicas = replicas.min(GROUPS_REPLICAS);
    let replication_factor = u32::try_from(replicas).expect("at most three");
    let min_isr = if replicas >= GROUPS_REPLICAS { 2 } else { 1 };
    TopicConfig { compact: true, ..TopicConfig::with_copies(replication_factor, min_isr) }
}

/// Creates the internal topic of consumer groups and gives it more replicas as brokers join.
pub(super) fn groups_topic(image: &Image, settled: bool) -> Vec<Op> {
    let alive = image.live_brokers().count();
    let target = alive.min(GROUPS_REPLICAS);
    let id = groups_id(image);
    if target == 0 || !settled {
        return Vec::new();
    }
    let mut load = Load::of(image);
    let Some(topic) = image.topics.get(&id) else {
        let name = TopicName::try_from(GROUPS_TOPIC).expect("the internal topic's name is valid");
        let config = internal_settings(target);
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
    let config = internal_settings(fewest.min(target));
    let in_sync = topic.partitions.iter().all(|entry| entry.isr.len() >= size(config.min_isr));
    if ops.is_empty() && in_sync && config.replication_factor > topic.config.replication_factor {
        ops.push(Op::SetTopicConfig { id, config });
    }
    ops
}
