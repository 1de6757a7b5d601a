//! What a replica knows of its log without reading it.

use super::epochs::Epochs;
use super::producers::Producers;
use super::{ReplicaWrite, StoredReplica, WriteId};
use crate::ids::{LeaderEpoch, Offset};
use crate::record::Batch;
use std::collections::VecDeque;

/// Bounds of a log as it will be once every issued write is synced, and how much of it is.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Highest leader epoch adopted.
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) high_watermark: Offset,
    /// As last put into a write.
    pub(super) high_watermark_written: Offset,
    /// Everything below it is on disk in its final form.
    pub(super) synced_end: Offset,
    pub(super) epochs: Epochs,
    pub(super) producers: Producers,
    unsynced: VecDeque<(WriteId, Offset)>,
}

impl Log {
    pub(super) fn stored(stored: StoredReplica) -> Self {
        let high_watermark =
            stored.high_watermark.clamp(stored.log_start, stored.log_end.max(stored.log_start));
        let mut epochs = Epochs::new(stored.epochs);
        epochs.forget_below(stored.log_start);
        Self {
            leader_epoch: stored.leader_epoch,
            start: stored.log_start,
            end: stored.log_end,
            high_watermark,
            high_watermark_written: high_watermark,
            synced_end: stored.log_end,
            epochs,
            producers: Producers::stored(stored.producers),
            unsynced: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns the epoch of the record before `from`; 0 if there is none, or it is deleted and no longer known.
    pub(super) fn epoch_before(&self, from: Offset) -> LeaderEpoch {
        from.checked_sub(1).and_then(|before| self.epochs.epoch_at(before)).unwrap_or_default()
    }

    /// Appends a batch in the write `id`, which is `write` of this log.
    pub(super) fn append(&mut self, id: WriteId, write: &mut ReplicaWrite, batch: &Batch) {
        debug_assert_eq!(batch.base_offset(), self.end, "batches are contiguous");
        self.end = batch.end_offset();
        self.touch(id);
        if self.epochs.enter(batch.leader_epoch(), batch.base_offset()) {
            write.epoch_starts.push((batch.leader_epoch(), batch.base_offset()));
        }
        write.forgotten.extend(self.producers.enter(batch, self.high_watermark));
        write.batches.push(batch.clone());
    }

    /// Drops the log's end in the write `id`.
    pub(super) fn truncate(&mut self, id: WriteId, to: Offset) {
        self.forget_above(to);
        self.end = to;
        self.epochs.truncate(to);
        self.producers.truncate(to);
        self.touch(id);
    }

    /// Drops all and starts again at `at` in the write `id`. What lies below is committed: the leader deleted it.
    pub(super) fn reset(&mut self, id: WriteId, at: Offset) {
        self.forget_above(at);
        self.start = at;
        self.end = at;
        self.high_watermark = self.high_watermark.max(at);
        self.epochs = Epochs::default();
        self.producers = Producers::default();
        self.touch(id);
    }

    /// Records that the write `id` concerns this log.
    pub(super) fn touch(&mut self, id: WriteId) {
        match self.unsynced.back_mut() {
            Some(last) if last.0 == id => last.1 = self.end,
            _ => self.unsynced.push_back((id, self.end)),
        }
    }

    // A write still under way may sync records that a later one drops: they must never count as synced, or a leader
    // that follows would count its own unsynced replacement of them.
    fn forget_above(&mut self, offset: Offset) {
        self.synced_end = self.synced_end.min(offset);
        for (_, end) in &mut self.unsynced {
            *end = (*end).min(offset);
        }
    }

    /// Learns that all writes up to `id` are synced.
    pub(super) fn written(&mut self, id: WriteId) {
        while let Some((_, end)) = self.unsynced.pop_front_if(|(write, _)| *write <= id) {
            self.synced_end = end;
        }
    }

    /// Returns the newest write that is not synced yet.
    pub(super) fn waits_for(&self) -> Option<WriteId> {
        self.unsynced.back().map(|(id, _)| *id)
    }

    /// Returns below which offset readers find committed records on disk.
    pub(super) fn readable_end(&self) -> Offset {
        self.high_watermark.min(self.synced_end).max(self.start)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::{TopicId, TopicPartition};
    use crate::partition::writes::blank;
    use crate::record::{BatchBuilder, ValueKind};
    use uuid::Uuid;

    fn batch(base_offset: Offset, epoch: u32) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.push(None, b"", ValueKind::None, b"");
        builder.build(base_offset, LeaderEpoch(epoch), 0).unwrap()
    }

    #[test]
    fn records_dropped_by_a_later_write_never_count_as_synced() {
        let mut log = Log::default();
        let mut write = blank(TopicPartition { topic: TopicId(Uuid::nil()), partition: 0 });
        for offset in 0..3 {
            log.append(WriteId(1), &mut write, &batch(offset, 1));
        }
        log.truncate(WriteId(2), 1);
        log.append(WriteId(2), &mut write, &batch(1, 2));
        log.written(WriteId(1));
        assert_eq!(log.synced_end, 1);
        log.written(WriteId(2));
        assert_eq!(log.synced_end, 2);
        assert_eq!(log.waits_for(), None);
    }

    #[test]
    fn readers_see_only_synced_records_below_the_high_watermark() {
        let mut log = Log::default();
        let mut write = blank(TopicPartition { topic: TopicId(Uuid::nil()), partition: 0 });
        log.append(WriteId(1), &mut write, &batch(0, 1));
        log.high_watermark = 1;
        assert_eq!(log.readable_end(), 0);
        log.written(WriteId(1));
        assert_eq!(log.readable_end(), 1);
    }
}
