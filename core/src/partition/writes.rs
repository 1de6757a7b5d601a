//! Changes gathered during a step into one write, and what waits for writes.

use super::log::Log;
use super::{Action, ReplicaWrite, Replicas, RequestId, WriteId};
use crate::ids::TopicPartition;
use crate::wire::internal::ReplicateReply;
use std::collections::{BTreeMap, VecDeque};

/// Writes of the machine; they complete in order.
#[derive(Debug, Default)]
pub(super) struct Writes {
    sealed: u64,
    staged: BTreeMap<TopicPartition, ReplicaWrite>,
    outstanding: VecDeque<(WriteId, Vec<TopicPartition>)>,
    synced: Option<WriteId>,
    answers: BTreeMap<WriteId, Vec<(RequestId, ReplicateReply)>>,
}

impl Writes {
    /// Returns the write that what is staged now will be part of.
    pub(super) fn id(&self) -> WriteId {
        WriteId(self.sealed)
    }

    /// Returns the staged change of a partition, to be added to. The bounds are filled in when the write is issued.
    pub(super) fn stage(&mut self, partition: TopicPartition, log: &mut Log) -> &mut ReplicaWrite {
        log.touch(WriteId(self.sealed));
        self.staged.entry(partition).or_insert_with(|| blank(partition))
    }

    /// Stages that everything of a partition is dropped.
    pub(super) fn stage_delete(&mut self, partition: TopicPartition) {
        self.staged.insert(partition, ReplicaWrite { delete: true, ..blank(partition) });
    }

    /// Returns whether batches are staged, which a truncation in the same write would come before.
    pub(super) fn appends(&self, partition: TopicPartition) -> bool {
        self.staged.get(&partition).is_some_and(|write| !write.batches.is_empty())
    }

    /// Keeps an answer until the write is synced.
    pub(super) fn answer_after(&mut self, id: WriteId, request: RequestId, reply: ReplicateReply) {
        self.answers.entry(id).or_default().push((request, reply));
    }

    /// Returns whether a write is synced.
    pub(super) fn is_synced(&self, id: WriteId) -> bool {
        self.synced.is_some_and(|synced| id <= synced)
    }
}

pub(super) fn blank(partition: TopicPartition) -> ReplicaWrite {
    ReplicaWrite {
        partition,
        delete: false,
        truncate_to: None,
        reset_to: None,
        epoch_starts: Vec::new(),
        batches: Vec::new(),
        forgotten: Vec::new(),
        leader_epoch: crate::ids::LeaderEpoch::default(),
        log_start: 0,
        log_end: 0,
        high_watermark: 0,
    }
}

impl Replicas {
    /// Issues what is staged as one write.
    pub(super) fn seal(&mut self) {
        if self.writes.staged.is_empty() {
            return;
        }
        let id = self.writes.id();
        self.writes.sealed += 1;
        let mut staged = std::mem::take(&mut self.writes.staged);
        for (partition, write) in &mut staged {
            let Some(replica) = self.replicas.get_mut(partition).filter(|_| !write.delete) else { continue };
            let log = &mut replica.log;
            write.leader_epoch = log.leader_epoch;
            write.log_start = log.start;
            write.log_end = log.end;
            write.high_watermark = log.high_watermark;
            log.high_watermark_written = log.high_watermark;
            self.moved.remove(partition);
        }
        self.writes.outstanding.push_back((id, staged.keys().copied().collect()));
        self.out.writes.push(Action::Write { id, writes: staged.into_values().collect() });
    }

    /// Learns that a write, and all before it, is synced.
    pub(super) fn written(&mut self, id: WriteId) {
        self.writes.synced = self.writes.synced.max(Some(id));
        while let Some((done, partitions)) = self.writes.outstanding.pop_front_if(|(done, _)| *done <= id) {
            for partition in partitions {
                let Some(replica) = self.replicas.get_mut(&partition) else { continue };
                replica.log.written(done);
                self.seen.insert(partition);
                self.touched.insert(partition);
            }
        }
        while let Some(first) = self.writes.answers.first_entry().filter(|first| *first.key() <= id) {
            let answers = first.remove();
            self.out.rest.extend(answers.into_iter().map(|(id, reply)| Action::Answer { id, reply }));
        }
    }
}
