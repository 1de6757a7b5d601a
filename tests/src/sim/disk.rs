//! The disk of one simulated broker: the promise file is synced at once, record writes complete later and in order,
//! and a crash keeps exactly a prefix of them that is not shorter than what was reported as synced.

use pubsub_core::control::Hard;
use pubsub_core::ids::{At, BrokerId, ControllerEpoch, LeaderEpoch, Offset, StorageId, TopicPartition};
use pubsub_core::partition::{ProducerBatch, ReplicaWrite, StoredReplica, WriteId};
use pubsub_core::record::Batch;
use std::collections::{BTreeMap, VecDeque};

/// One replica's log as bytes on a disk.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Highest leader epoch adopted.
    pub leader_epoch: LeaderEpoch,
    /// First offset.
    pub log_start: Offset,
    /// Next offset.
    pub log_end: Offset,
    /// High watermark as written.
    pub high_watermark: Offset,
    /// Start offset of each leader epoch, ascending.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Whole batches, contiguous.
    pub batches: Vec<Batch>,
    /// What is remembered of idempotent producers.
    pub producers: Vec<ProducerBatch>,
}

impl Log {
    /// Applies one change, in the order that its fields have.
    ///
    /// # Errors
    /// What does not fit: a torn batch, a gap, or a log end that the batches do not give. The log is then half changed.
    pub fn apply(&mut self, write: &ReplicaWrite) -> Result<(), String> {
        if let Some(to) = write.truncate_to {
            self.truncate(to)?;
        }
        if let Some(to) = write.reset_to {
            *self = Self { log_start: to, log_end: to, ..Self::default() };
        }
        write.remember(&mut self.producers);
        self.epochs.extend(&write.epoch_starts);
        if !self.epochs.is_sorted() {
            return Err(format!("epoch starts out of order: {:?}", self.epochs));
        }
        for batch in &write.batches {
            if batch.base_offset() != self.log_end {
                return Err(format!("{batch:?} does not follow the log end {}", self.log_end));
            }
            self.log_end = batch.end_offset();
            self.batches.push(batch.clone());
        }
        if write.log_end != self.log_end {
            return Err(format!("the log ends at {}, the write says {}", self.log_end, write.log_end));
        }
        self.leader_epoch = write.leader_epoch;
        self.log_start = write.log_start;
        self.high_watermark = write.high_watermark;
        self.batches.retain(|batch| batch.end_offset() > write.log_start);
        Ok(())
    }

    fn truncate(&mut self, to: Offset) -> Result<(), String> {
        if let Some(torn) =
            self.batches.iter().find(|batch| batch.base_offset() < to && batch.end_offset() > to)
        {
            return Err(format!("truncation to {to} tears {torn:?}"));
        }
        self.batches.retain(|batch| batch.base_offset() < to);
        self.epochs.retain(|(_, start)| *start < to);
        self.log_end = self.log_end.min(to);
        Ok(())
    }

    /// Returns the batches that overlap `[from, end)`.
    pub fn range(&self, from: Offset, end: Offset) -> &[Batch] {
        let first = self.batches.partition_point(|batch| batch.end_offset() <= from);
        let last = self.batches.partition_point(|batch| batch.base_offset() < end);
        &self.batches[first.min(last)..last]
    }

    /// Returns whole batches from the one that starts at `from`, at most `bytes_max` but at least one.
    pub fn load(&self, from: Offset, bytes_max: usize) -> Vec<Batch> {
        let mut bytes = 0;
        let mut found = Vec::new();
        for batch in self.range(from, self.log_end) {
            bytes += batch.bytes().len();
            if batch.base_offset() < from || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(batch.clone());
        }
        found
    }
}

/// One volume.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The promise file as synced.
    pub hard: Hard,
    /// What survives a crash.
    pub durable: BTreeMap<TopicPartition, Log>,
    /// What the process has written, synced or not.
    pub written: BTreeMap<TopicPartition, Log>,
    queue: VecDeque<(WriteId, Vec<ReplicaWrite>)>,
    /// How many of the queue's first writes the sync under way covers; 0 if there is none.
    pub syncing: u64,
    /// Shortest and longest time of one sync, ms.
    pub delay: (u64, u64),
}

impl Disk {
    /// Makes an empty volume.
    pub fn new(broker: BrokerId, storage: StorageId) -> Self {
        let hard = Hard {
            cluster_id: None,
            broker_id: broker,
            storage_id: storage,
            boot: 0,
            epoch: ControllerEpoch(0),
            voted_for: None,
            accepted: None,
            committed: At::default(),
        };
        Self {
            hard,
            durable: BTreeMap::new(),
            written: BTreeMap::new(),
            queue: VecDeque::new(),
            syncing: 0,
            delay: (1, 4),
        }
    }

    /// Takes a write into the queue.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn write(&mut self, id: WriteId, writes: Vec<ReplicaWrite>) -> Result<(), String> {
        apply(&mut self.written, &writes)?;
        self.queue.push_back((id, writes));
        Ok(())
    }

    /// Syncs the oldest write of the queue and returns its name.
    pub fn sync_one(&mut self) -> Option<WriteId> {
        let (id, writes) = self.queue.pop_front()?;
        apply(&mut self.durable, &writes).expect("the same write was applied to the same log before");
        Some(id)
    }

    /// Forgets all but the first `kept` queued writes.
    pub fn crash(&mut self, kept: u64) {
        for _ in 0..kept {
            self.sync_one();
        }
        self.queue.clear();
        self.written = self.durable.clone();
        self.syncing = 0;
    }

    /// Returns how many writes are not synced yet.
    pub fn queued(&self) -> u64 {
        u64::try_from(self.queue.len()).expect("a queue's length fits 64 bits")
    }

    /// Returns what a process that starts now reads back.
    pub fn stored(&self) -> Vec<StoredReplica> {
        self.durable
            .iter()
            .map(|(partition, log)| StoredReplica {
                partition: *partition,
                leader_epoch: log.leader_epoch,
                log_start: log.log_start,
                log_end: log.log_end,
                high_watermark: log.high_watermark,
                epochs: log.epochs.clone(),
                producers: log.producers.clone(),
            })
            .collect()
    }
}

fn apply(logs: &mut BTreeMap<TopicPartition, Log>, writes: &[ReplicaWrite]) -> Result<(), String> {
    for write in writes {
        if write.delete {
            logs.remove(&write.partition);
            continue;
        }
        logs.entry(write.partition)
            .or_default()
            .apply(write)
            .map_err(|why| format!("{}: {why}", write.partition))?;
    }
    Ok(())
}
