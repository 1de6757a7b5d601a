//! The newest batches of a led partition, kept in memory so that followers that keep up never cost a read.

use crate::ids::Offset;
use crate::limits::TAIL_BYTES_MAX;
use crate::record::Batch;
use std::collections::VecDeque;

/// Contiguous batches up to the log end; empty when nobody needs them.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Tail {
    /// Adds the newest batch. Past the bound the oldest go; one batch larger than the bound is kept until the next.
    pub(super) fn push(&mut self, batch: Batch) {
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
        while self.bytes > TAIL_BYTES_MAX && self.batches.len() > 1 {
            self.pop();
        }
    }

    /// Drops batches that end at or below `offset`: every follower has them.
    pub(super) fn forget_below(&mut self, offset: Offset) {
        while self.batches.front().is_some_and(|batch| batch.end_offset() <= offset) {
            self.pop();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.bytes().len();
        }
    }

    /// Returns the batches from the one that contains `offset` on; `None` if that one is not in memory.
    pub(super) fn from(&self, offset: Offset) -> Option<impl Iterator<Item = &Batch>> {
        let skipped = self.batches.partition_point(|batch| batch.end_offset() <= offset);
        let first = self.batches.get(skipped)?;
        (first.base_offset() <= offset).then(|| self.batches.range(skipped..))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::LeaderEpoch;
    use crate::record::{BatchBuilder, ValueKind};

    fn batch(base_offset: Offset, records: u32, value_bytes: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        for _ in 0..records {
            builder.push(None, b"", ValueKind::Bytes, &vec![7; value_bytes]);
        }
        builder.build(base_offset, LeaderEpoch(1), 0).unwrap()
    }

    #[test]
    fn reading_starts_with_the_batch_that_contains_the_offset() {
        let mut tail = Tail::default();
        tail.push(batch(10, 3, 1));
        tail.push(batch(13, 2, 1));
        let starts =
            |offset| tail.from(offset).map(|found| found.map(Batch::base_offset).collect::<Vec<_>>());
        assert_eq!(starts(10), Some(vec![10, 13]));
        assert_eq!(starts(12), Some(vec![10, 13]));
        assert_eq!(starts(13), Some(vec![13]));
        assert_eq!(starts(9), None);
        assert_eq!(starts(15), None);
    }

    #[test]
    fn the_oldest_batches_go_when_the_bound_is_passed() {
        let mut tail = Tail::default();
        for base_offset in 0..8 {
            tail.push(batch(base_offset, 1, TAIL_BYTES_MAX / 4));
        }
        assert!(tail.bytes() <= TAIL_BYTES_MAX);
        assert!(tail.from(0).is_none());
        assert!(tail.from(7).is_some());
    }

    #[test]
    fn what_every_follower_has_is_forgotten() {
        let mut tail = Tail::default();
        tail.push(batch(0, 2, 8));
        tail.push(batch(2, 2, 8));
        tail.forget_below(2);
        assert!(tail.from(1).is_none());
        tail.forget_below(4);
        assert_eq!(tail.bytes(), 0);
    }
}
