//! Reading the groups of a partition back from its log, before its new leader coordinates them.

use crate::replicas::ReplicasHandle;
use crate::store::Store;
use pubsub_core::group::coordinator::Groups;
use pubsub_core::ids::{LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::{ReplicaView, Role};
use pubsub_core::record::{Batch, ValueKind};
use std::time::Duration;

/// Replays a partition once all that its leader found in the log is committed; `None` when leadership moved meanwhile.
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
    let found = view.wait_for(leads).await.ok()?.log_end;
    let settled = |view: &ReplicaView| view.high_watermark >= found || view.leader_epoch != leader_epoch;
    let settled = view.wait_for(settled).await.ok()?.clone();
    if settled.leader_epoch != leader_epoch {
        return None;
    }
    let (mut at, end) = (settled.log_start, settled.high_watermark);
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
