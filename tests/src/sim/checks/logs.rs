//! R1 to R6 and T1: what is committed, who leads, what readers see and what is deleted.

use super::{Checked, ensure};
use crate::sim::clients::ticket_of;
use crate::sim::disk::{Disk, Log};
use pubsub_core::control::image::{Image, PartitionEntry};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, StorageId, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{ReplicaView, ReplicaWrite, Role};
use pubsub_core::record::Batch;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one partition.
#[derive(Debug, Default)]
struct Known {
    /// The committed records, as the first leader that committed them had them.
    committed: Vec<Batch>,
    /// Who led each epoch: broker and process.
    leaders: BTreeMap<LeaderEpoch, (BrokerId, u64)>,
    /// Where a leader's log started last: what lies below may be deleted.
    start: Offset,
    /// Copies that may be gone: brokers whose volume was lost while they held it.
    losses: u32,
    /// It was excused once: what is committed then is not looked at, and may be missing later.
    excused: bool,
}

impl Known {
    fn end(&self) -> Offset {
        self.committed.last().map_or(0, Batch::end_offset)
    }

    fn range(&self, from: Offset, end: Offset) -> &[Batch] {
        let first = self.committed.partition_point(|batch| batch.end_offset() <= from);
        let last = self.committed.partition_point(|batch| batch.base_offset() < end);
        &self.committed[first.min(last)..last]
    }
}

/// What one process showed of one replica last.
#[derive(Clone, Copy, Debug)]
struct Shown {
    process: u64,
    role: Role,
    epoch: LeaderEpoch,
    high_watermark: Offset,
    log_end: Offset,
    /// Its log was compared with the committed records up to here.
    verified: Offset,
}

/// What all partitions have been through.
#[derive(Debug, Default)]
pub struct LogChecks {
    partitions: BTreeMap<TopicPartition, Known>,
    shown: BTreeMap<(BrokerId, TopicPartition), Shown>,
    durable: BTreeMap<(BrokerId, StorageId, TopicPartition), Offset>,
    dead: BTreeSet<TopicPartition>,
}

/// Where a batch was committed, to be checked against what publishers were told.
pub struct Extended {
    /// The partition.
    pub partition: TopicPartition,
    /// Newly committed batches.
    pub batches: Vec<Batch>,
}

impl LogChecks {
    /// Returns the committed batches of a partition in `[from, end)`.
    pub fn committed(&self, partition: TopicPartition, from: Offset, end: Offset) -> &[Batch] {
        self.partitions.get(&partition).map_or(&[], |known| known.range(from, end))
    }

    /// Returns which publish is committed at an offset.
    pub fn publish_at(&self, partition: TopicPartition, offset: Offset) -> Option<u64> {
        let batch = self.committed(partition, offset, offset + 1).first()?;
        batch.records().find(|record| record.offset == offset).and_then(|record| ticket_of(record.value))
    }

    /// Returns below which offset records of a partition may be deleted.
    pub fn start(&self, partition: TopicPartition) -> Offset {
        self.partitions.get(&partition).map_or(0, |known| known.start)
    }

    /// Returns the end of the committed records of a partition.
    pub fn committed_end(&self, partition: TopicPartition) -> Offset {
        self.partitions.get(&partition).map_or(0, Known::end)
    }

    /// Returns the number of committed batches of all partitions.
    pub fn committed_batches(&self) -> u64 {
        let count: usize = self.partitions.values().map(|known| known.committed.len()).sum();
        u64::try_from(count).expect("a count fits 64 bits")
    }

    /// Returns whether more volumes were lost than the partition promises to survive, or its topic is gone.
    pub fn is_excused(&self, partition: TopicPartition, min_isr: u32) -> bool {
        self.dead.contains(&partition)
            || self
                .partitions
                .get(&partition)
                .is_some_and(|known| known.excused || known.losses >= min_isr.max(1))
    }

    /// Notes that a partition was excused when something became readable: `min_isr` may grow again, what was missed stays so.
    pub fn excuse(&mut self, partition: TopicPartition) {
        self.partitions.entry(partition).or_default().excused = true;
    }

    /// Notes that a topic was deleted: its partitions promise nothing any more.
    pub fn buried(&mut self, partition: TopicPartition) {
        self.dead.insert(partition);
    }

    /// Notes the loss of a broker's volume, with all that was or should have been on it.
    pub fn volume_lost(&mut self, broker: BrokerId, disk: &Disk, image: Option<&Image>) {
        let mut lost: BTreeSet<_> = disk.written.keys().chain(disk.durable.keys()).copied().collect();
        let placed =
            image.into_iter().flat_map(partitions).filter(|(_, _, entry)| entry.replicas.contains(&broker));
        lost.extend(placed.map(|(partition, _, _)| partition));
        for partition in lost {
            self.partitions.entry(partition).or_default().losses += 1;
        }
        self.process_gone(broker);
    }

    /// Notes that a volume is an older copy of itself now: what was seen on it is to be looked at again.
    pub fn rolled_back(&mut self, broker: BrokerId, storage: StorageId) {
        self.durable.retain(|(id, volume, _), _| (*id, *volume) != (broker, storage));
    }

    /// Notes that a process ended: nothing that it showed binds the next one.
    pub fn process_gone(&mut self, broker: BrokerId) {
        self.shown.retain(|(id, _), _| *id != broker);
    }

    /// Checks a write before it is applied: deletion, truncation and retention (T1, R5).
    ///
    /// # Errors
    /// T1 or R5.
    pub fn written(
        &mut self,
        broker: BrokerId,
        storage: StorageId,
        write: &ReplicaWrite,
        tombstoned: bool,
    ) -> Checked {
        let key = (broker, storage, write.partition);
        if write.delete {
            self.durable.remove(&key);
            return ensure(tombstoned, Invariant::T1, || {
                format!("broker {broker} deleted {} for nothing", write.partition)
            });
        }
        if write.reset_to.is_some() {
            self.durable.remove(&key);
        }
        ensure(
            write.log_start <= write.high_watermark && write.high_watermark <= write.log_end,
            Invariant::T1,
            || format!("broker {broker} wrote {write:?}: start <= watermark <= end does not hold"),
        )?;
        let Some(to) = write.truncate_to else { return Ok(()) };
        if let Some(verified) = self.durable.get_mut(&key) {
            *verified = to.min(*verified);
        }
        let Some(shown) = self.shown.get_mut(&(broker, write.partition)) else { return Ok(()) };
        shown.verified = to.min(shown.verified);
        ensure(to >= shown.high_watermark, Invariant::R5, || {
            format!(
                "broker {broker} truncates {} to {to}, below its {}",
                write.partition, shown.high_watermark
            )
        })
    }

    /// Checks what a process shows of a replica, and takes what a leader commits. Returns what is newly committed.
    ///
    /// # Errors
    /// R1 to R4, or R6.
    pub fn shows(
        &mut self,
        broker: BrokerId,
        process: u64,
        partition: TopicPartition,
        view: &ReplicaView,
        log: &Log,
    ) -> Result<Option<Extended>, super::Broken> {
        let known = self.partitions.entry(partition).or_default();
        let before = self.shown.get(&(broker, partition)).filter(|shown| shown.process == process).copied();
        let says = || format!("broker {broker} on {partition}: {view:?} after {before:?}");
        if let Some(before) = before.filter(|before| before.epoch == view.leader_epoch) {
            ensure(view.high_watermark >= before.high_watermark, Invariant::R3, says)?;
            let led = before.role == Role::Leader && view.role == Role::Leader;
            ensure(!led || view.log_end >= before.log_end, Invariant::R3, says)?;
        }
        let mut verified = before.map_or(0, |before| before.verified);
        if view.role == Role::Leader {
            known.start = known.start.max(view.log_start);
            let first = *known.leaders.entry(view.leader_epoch).or_insert((broker, process));
            ensure(first == (broker, process), Invariant::R4, || {
                format!("{}; led by broker {} before", says(), first.0)
            })?;
            let newest = known.leaders.last_key_value().is_some_and(|(epoch, _)| *epoch == view.leader_epoch);
            if newest
                && before
                    .is_none_or(|before| before.role != Role::Leader || before.epoch != view.leader_epoch)
            {
                matches(known, log, verified, known.end()).map_err(|why| {
                    (
                        Invariant::R1,
                        format!("the new leader {broker} of {partition} lacks committed records: {why}"),
                    )
                })?;
            }
        }
        let end = known.end();
        let reached = view.high_watermark.min(end);
        matches(known, log, verified, reached)
            .map_err(|why| (Invariant::R2, format!("{}: {why}", says())))?;
        verified = verified.max(reached);
        let mut extended = None;
        if view.high_watermark > end {
            ensure(view.role == Role::Leader, Invariant::R6, || format!("{}; committed end {end}", says()))?;
            let batches = log.range(end, view.high_watermark).to_vec();
            let complete = batches.last().map(Batch::end_offset) == Some(view.high_watermark)
                && batches.first().map(Batch::base_offset) == Some(end);
            ensure(complete, Invariant::R1, || format!("{}: commits what it has not written", says()))?;
            known.committed.extend(batches.iter().cloned());
            verified = view.high_watermark;
            extended = Some(Extended { partition, batches });
        }
        let now = Shown {
            process,
            role: view.role,
            epoch: view.leader_epoch,
            high_watermark: view.high_watermark,
            log_end: view.log_end,
            verified,
        };
        self.shown.insert((broker, partition), now);
        Ok(extended)
    }

    /// Forgets a replica that a process no longer shows.
    pub fn hidden(&mut self, broker: BrokerId, partition: TopicPartition) {
        self.shown.remove(&(broker, partition));
    }

    /// Checks that an in-sync replica holds every committed record on its disk (R1).
    ///
    /// # Errors
    /// R1.
    pub fn in_sync(
        &mut self,
        broker: BrokerId,
        storage: StorageId,
        partition: TopicPartition,
        disk: &Disk,
    ) -> Checked {
        let Some(known) = self.partitions.get(&partition) else { return Ok(()) };
        let verified = self.durable.entry((broker, storage, partition)).or_default();
        let end = known.end();
        if *verified >= end {
            return Ok(());
        }
        let empty = Log::default();
        let log = disk.durable.get(&partition).unwrap_or(&empty);
        matches(known, log, *verified, end).map_err(|why| {
            (
                Invariant::R1,
                format!("broker {broker} is in sync on {partition} without its committed records: {why}"),
            )
        })?;
        *verified = end;
        Ok(())
    }

    /// Returns the leader of the newest epoch of a partition: broker and process.
    pub fn newest_leader(&self, partition: TopicPartition) -> Option<(BrokerId, u64)> {
        self.partitions.get(&partition)?.leaders.last_key_value().map(|(_, leader)| *leader)
    }

    /// Checks that the newest leader has what was just committed (R1): an older one may still commit what it has.
    ///
    /// # Errors
    /// R1.
    pub fn leader_has(&self, partition: TopicPartition, batches: &[Batch], log: &Log) -> Checked {
        let held =
            batches.iter().all(|batch| log.range(batch.base_offset(), batch.end_offset()) == [batch.clone()]);
        ensure(held, Invariant::R1, || {
            format!("records committed on {partition} are not on its newest leader")
        })
    }

    /// Checks what a reader gets (R6).
    ///
    /// # Errors
    /// R6.
    pub fn read(&self, partition: TopicPartition, from: Offset, batches: &[Batch]) -> Checked {
        let Some(last) = batches.last() else { return Ok(()) };
        let committed = self.committed(partition, from, last.end_offset());
        ensure(committed == batches, Invariant::R6, || {
            format!("a reader of {partition} at {from} got {batches:?}, committed are {committed:?}")
        })
    }
}

/// Returns the partitions of an image with their topics' `min_isr`.
pub fn partitions(image: &Image) -> impl Iterator<Item = (TopicPartition, u32, &PartitionEntry)> {
    image.topics.iter().flat_map(|(topic, entry)| {
        entry.partitions.iter().zip(0_u32..).map(|(partition, index)| {
            (TopicPartition { topic: *topic, partition: index }, entry.config.min_isr, partition)
        })
    })
}

/// Compares a log with the committed records in `[from, end)`.
fn matches(known: &Known, log: &Log, from: Offset, end: Offset) -> Result<(), String> {
    let from = from.max(log.log_start);
    if from >= end {
        return Ok(());
    }
    let (mut wanted, mut found) = (known.range(from, end), log.range(from, end));
    // Retention may have cut the log inside the first batch's range; whole batches are compared.
    if wanted.len() > found.len() && log.log_start > 0 {
        wanted = &wanted[wanted.len() - found.len()..];
    } else if found.len() > wanted.len() {
        found = &found[..wanted.len()];
    }
    if wanted == found {
        return Ok(());
    }
    let at = wanted.iter().zip(found).find(|(wanted, found)| wanted != found);
    Err(format!(
        "in {from}..{end} {} batches are committed, {} are here, first difference {at:?}",
        wanted.len(),
        found.len()
    ))
}
