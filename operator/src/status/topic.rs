//! A topic as the brokers describe it, in the words of the status.

use crate::crd::{PartitionStatus, STATUS_PARTITIONS_MAX, TopicStatus};
use crate::plan::Observed;
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::admin::{PartitionDescription, TopicDescription};
use std::collections::BTreeSet;

/// Returns the part of a status that describes the topic; empty if there is none.
pub(super) fn described(observed: &Observed) -> TopicStatus {
    let Some(topic) = &observed.topic else { return TopicStatus::default() };
    let leaders: BTreeSet<u32> =
        topic.partitions.iter().filter_map(|partition| partition.leader).map(|leader| leader.0).collect();
    let leaders: Vec<String> = leaders.iter().map(u32::to_string).collect();
    TopicStatus {
        topic_id: Some(topic.id.to_string()),
        partition_count: u32::try_from(topic.partition_count).ok(),
        replication_factor: Some(topic.replication_factor),
        isr: worst(topic).map(|(isr, replicas)| format!("{isr}/{replicas}")),
        leaders: (!leaders.is_empty()).then(|| leaders.join(",")),
        max_leader_epoch: topic.partitions.iter().map(|partition| partition.leader_epoch.0).max(),
        partitions: topic.partitions.iter().take(STATUS_PARTITIONS_MAX).map(partition).collect(),
        truncated: topic.partitions.len() > STATUS_PARTITIONS_MAX,
        ..TopicStatus::default()
    }
}

/// Returns in-sync replicas and replicas of the partition that misses most of what was asked for.
pub(super) fn worst(topic: &TopicDescription) -> Option<(usize, usize)> {
    let wanted = usize::try_from(topic.replication_factor).unwrap_or(usize::MAX);
    let sizes = topic.partitions.iter().map(|partition| {
        let in_sync = in_sync(topic, partition).count();
        // Fewer replicas than asked for is as bad as replicas that are not in sync.
        (in_sync, partition.replicas.len().max(wanted))
    });
    sizes.min_by_key(|(isr, replicas)| (*isr, std::cmp::Reverse(*replicas)))
}

/// Returns the in-sync replicas of a partition whose brokers are up. The brokers never let the ISR fall below its minimum: a
/// member that is gone stays in it then, and writes wait for it.
pub(super) fn in_sync<'a>(
    topic: &'a TopicDescription,
    partition: &'a PartitionDescription,
) -> impl Iterator<Item = &'a BrokerId> {
    let counts = |id: &&BrokerId| partition.isr.contains(id) && topic.alive_brokers.contains(id);
    partition.replicas.iter().filter(counts)
}

fn partition(partition: &PartitionDescription) -> PartitionStatus {
    PartitionStatus {
        id: partition.id,
        leader: partition.leader.map(|leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        replicas: partition.replicas.iter().map(|id| id.0).collect(),
        isr: partition.isr.iter().map(|id| id.0).collect(),
        high_watermark: partition.high_watermark.and_then(|offset| i64::try_from(offset).ok()),
    }
}
