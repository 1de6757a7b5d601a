//! R1: how many copies of what is committed there are, and what in-sync replicas hold.

use super::{Checked, ensure};
use crate::sim::world::World;
use pubsub_core::ids::{BrokerId, StorageId, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::record::Batch;

impl World {
    /// Checks every in-sync replica of the newest image, or of one partition of it (R1).
    pub(crate) fn check_in_sync(&mut self, only: Option<TopicPartition>) -> Checked {
        let Some(image) = self.metadata.newest().cloned() else { return Ok(()) };
        for node in self.nodes.values_mut() {
            let run_id = node.process.as_ref().map(|process| process.run_id);
            let registered = image.brokers.get(&node.id).is_some_and(|entry| Some(entry.run_id) == run_id);
            node.old_copy &= !registered;
        }
        if only.is_none() {
            for topic in image.tombstones.keys() {
                for partition in 0..8 {
                    self.logs.buried(TopicPartition { topic: *topic, partition });
                }
            }
        }
        for (partition, min_isr, entry) in super::logs::partitions(&image) {
            if only.is_some_and(|only| only != partition) || self.logs.is_excused(partition, min_isr) {
                continue;
            }
            for member in &entry.isr {
                let (Some(node), Some(broker)) = (self.nodes.get(member), image.brokers.get(member)) else {
                    continue;
                };
                // A lost volume stays in the ISR until its successor registers; that is what min_isr is for.
                let registered = node.process.as_ref().is_some_and(|process| process.run_id == broker.run_id);
                let known = node.disk.hard.storage_id == broker.storage_id && (registered || !node.old_copy);
                if known {
                    self.logs.in_sync(*member, broker.storage_id, partition, &node.disk)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that what a leader committed is on enough disks (R1). A copy counts until the leader's image tells of its loss:
    /// that is one of the losses that `min_isr` is for.
    pub(crate) fn check_copies(
        &self,
        leader: BrokerId,
        partition: TopicPartition,
        batches: &[Batch],
    ) -> Checked {
        let (Some(entry), Some(last)) = (self.entry(partition), batches.last()) else { return Ok(()) };
        let floor = self.min_isr(partition).min(u32::try_from(entry.replicas.len()).expect("few replicas"));
        let holds = |node: &&crate::sim::node::Node| {
            let log = node.disk.durable.get(&partition);
            log.is_some_and(|log| log.range(last.base_offset(), last.end_offset()) == [last.clone()])
        };
        let copies = self.nodes.values().filter(holds).count();
        let image = self.nodes[&leader].process.as_ref().and_then(|process| process.control.image());
        let believed = |(broker, storage): &&(BrokerId, StorageId)| {
            let entry = image.as_ref().and_then(|image| image.brokers.get(broker));
            entry.is_some_and(|entry| entry.storage_id == *storage)
        };
        let gone = self.gone_volumes.iter().filter(believed).count();
        let floor = usize::try_from(floor).expect("few replicas").saturating_sub(gone);
        ensure(copies >= floor, Invariant::R1, || {
            format!("{last:?} of {partition} is committed with {copies} copies")
        })
    }
}
