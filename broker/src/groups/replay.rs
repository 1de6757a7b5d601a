//! Reading the groups of a partition back from its log, before its new leader coordinates them.

use super::ONE_TRY;
use super::topic::batches_of;
use crate::replicas::{OnlyIf, ReplicasHandle};
use crate::store::Store;
use pubsub_core::group::coordinator::Groups;
use pubsub_core::group::records::barrier;
use pubsub_core::ids::{LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::{Acks, ReplicaView, Role};
use pubsub_core::record::{Batch, ValueKind};
use std::time::Duration;

/// Replays a partition; `None` when that failed, or leadership moved meanwhile.
///
/// A barrier goes into the log first. Once it is committed, so is everything that earlier terms left, and what this broker
/// itself may have appended before with an outcome that it does not know: no such record can follow the barrier.
pub(super) async fn load(
    replicas: ReplicasHandle,
    store: Store,
    partition: TopicPartition,
    leader_epoch: LeaderEpoch,
) -> Option<Groups> {
    let mut view = loop {
        match replicas.view(partition) {
            Some(view) => break view,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let leads = |view: &ReplicaView| {
        view.leader_epoch > leader_epoch || (view.role == Role::Leader && view.leader_epoch == leader_epoch)
    };
    let mut at = view.wait_for(leads).await.ok()?.log_start;
    let only_if = OnlyIf { log_end: None, leader_epoch: Some(leader_epoch) };
    let mut end = 0;
    for batch in batches_of(&[barrier()]) {
        end = replicas.append(partition, batch, Acks::All, only_if, ONE_TRY).await.ok()?.base_offset;
    }
    let mut groups = Groups::new();
    while at < end {
        let batches = store.read(partition, at, end, 1 << 20).await.ok()?;
        at = replay(&mut groups, &batches, at, end)?;
    }
    Some(groups)
}

fn replay(groups: &mut Groups, batches: &[Batch], from: Offset, end: Offset) -> Option<Offset> {
    for record in batches.iter().flat_map(Batch::records) {
        if record.offset >= from && record.offset < end {
            let value = (record.kind != ValueKind::None).then_some(record.value);
            groups.replay(record.key.unwrap_or_default(), value);
        }
    }
    batches.last().map(|batch| batch.end_offset().min(end))
}
