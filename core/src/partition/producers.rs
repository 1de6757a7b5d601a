//! Idempotent producers: which batches of each the log holds, so that a batch that is sent again is answered and not
//! appended again (P1).
//!
//! What is remembered follows from the log alone: every replica enters a batch as it appends it, so a new leader knows
//! what the old one knew of all that is committed. After KIP-98, but by count instead of by time: no clock decides.

use super::AppendError;
use crate::ids::Offset;
use crate::limits::{PRODUCER_BATCHES_MAX, PRODUCERS_MAX};
use crate::record::{Batch, Producer};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// One batch of an idempotent producer, as a replica remembers it beside its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Whose, in which of its terms, and the sequence of the first record.
    pub producer: Producer,
    /// Records, which number on from the first sequence.
    pub count: u32,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The records' timestamp, ms since 1970.
    pub timestamp_ms: i64,
}

impl ProducerBatch {
    /// Returns what is remembered of a batch; `None` if it is no idempotent producer's.
    pub fn of(batch: &Batch) -> Option<Self> {
        batch.producer().map(|producer| Self {
            producer,
            count: batch.count(),
            base_offset: batch.base_offset(),
            timestamp_ms: batch.max_timestamp_ms(),
        })
    }

    /// The sequence after the last record's. One more than the largest sequence if the term has used all.
    fn next_sequence(&self) -> u64 {
        u64::from(self.producer.first_sequence) + u64::from(self.count)
    }
}

/// What a leader should do with a producer's batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Append it.
    New,
    /// The log holds these very records, from this offset on, with this timestamp.
    Held { base_offset: Offset, timestamp_ms: i64 },
    /// Do not append it.
    Refused(AppendError),
}

/// All idempotent producers of one log.
#[derive(Debug, Default)]
pub(super) struct Producers {
    /// Batches of each, in the order of the log; never none.
    held: BTreeMap<Uuid, VecDeque<ProducerBatch>>,
    /// Each producer by the offset of its last batch: who was silent longest comes first.
    by_last: BTreeMap<Offset, Uuid>,
}

impl Producers {
    /// Takes what was stored, in the order of the log.
    pub(super) fn stored(batches: Vec<ProducerBatch>) -> Self {
        let mut producers = Self::default();
        for batch in batches {
            producers.push(batch);
        }
        producers
    }

    fn push(&mut self, batch: ProducerBatch) {
        let id = batch.producer.id;
        let held = self.held.entry(id).or_default();
        if let Some(last) = held.back() {
            self.by_last.remove(&last.base_offset);
        }
        held.push_back(batch);
        self.by_last.insert(batch.base_offset, id);
    }

    /// Enters a batch that is appended. Returns of whom everything below an offset is forgotten: batches that may still be
    /// cut off the log are kept, and [`PRODUCER_BATCHES_MAX`] below them, so that a cut uncovers what was known before.
    pub(super) fn enter(&mut self, batch: &Batch, high_watermark: Offset) -> Vec<(Uuid, Offset)> {
        let Some(batch) = ProducerBatch::of(batch) else { return Vec::new() };
        self.push(batch);
        let mut forgotten: Vec<_> = self.forget_old(batch.producer.id, high_watermark).into_iter().collect();
        while self.held.len() > PRODUCERS_MAX
            && let Some((last, id)) = self.by_last.first_key_value().map(|(last, id)| (*last, *id))
            && last < high_watermark
        {
            self.by_last.remove(&last);
            self.held.remove(&id);
            forgotten.push((id, Offset::MAX));
        }
        forgotten
    }

    fn forget_old(&mut self, id: Uuid, high_watermark: Offset) -> Option<(Uuid, Offset)> {
        let held = self.held.get_mut(&id)?;
        let committed = held.partition_point(|batch| batch.base_offset < high_watermark);
        let excess = committed.saturating_sub(PRODUCER_BATCHES_MAX);
        held.drain(..excess);
        let first = held.front().filter(|_| excess > 0)?;
        Some((id, first.base_offset))
    }

    /// Forgets batches at and above the log's new end.
    pub(super) fn truncate(&mut self, to: Offset) {
        for (_, id) in self.by_last.split_off(&to) {
            let Some(held) = self.held.get_mut(&id) else { continue };
            while held.pop_back_if(|batch| batch.base_offset >= to).is_some() {}
            match held.back() {
                Some(last) => {
                    self.by_last.insert(last.base_offset, id);
                }
                None => {
                    self.held.remove(&id);
                }
            }
        }
    }

    /// Judges a batch against what the log holds of its producer.
    ///
    /// A producer that is not known may begin anywhere: it is new, or was forgotten. A higher epoch begins anew too, and
    /// ends the lower ones.
    pub(super) fn judge(&self, producer: Producer, count: u32) -> Verdict {
        let Some(held) = self.held.get(&producer.id) else { return Verdict::New };
        let Some(last) = held.back() else { return Verdict::New };
        let epoch = last.producer.epoch;
        if producer.epoch > epoch {
            return Verdict::New;
        }
        if producer.epoch < epoch {
            return Verdict::Refused(AppendError::ProducerFenced { epoch });
        }
        let (first, next) = (u64::from(producer.first_sequence), last.next_sequence());
        let end = first + u64::from(count);
        if first == next {
            return Verdict::New;
        }
        if end > next {
            return Verdict::Refused(AppendError::OutOfOrder { expected: next });
        }
        let same_epoch = held.iter().rev().take_while(|batch| batch.producer.epoch == epoch);
        let mut holds = same_epoch.filter(|batch| {
            u64::from(batch.producer.first_sequence) <= first && end <= batch.next_sequence()
        });
        match holds.next() {
            Some(batch) => Verdict::Held {
                base_offset: batch.base_offset + (first - u64::from(batch.producer.first_sequence)),
                timestamp_ms: batch.timestamp_ms,
            },
            None => Verdict::Refused(AppendError::Duplicate),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::LeaderEpoch;
    use crate::record::{BatchBuilder, ValueKind};

    const ID: Uuid = Uuid::from_u128(7);

    fn producer(epoch: u16, first_sequence: u32) -> Producer {
        Producer { id: ID, epoch, first_sequence }
    }

    fn batch(producer: Producer, count: u32, base_offset: Offset) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.producer(producer);
        for _ in 0..count {
            builder.push(None, b"", ValueKind::Bytes, b"x");
        }
        builder.build(base_offset, LeaderEpoch(1), 1_000).unwrap()
    }

    fn held(base_offset: Offset) -> Verdict {
        Verdict::Held { base_offset, timestamp_ms: 1_000 }
    }

    #[test]
    fn the_next_sequence_is_appended_and_a_repeated_one_is_found() {
        let mut producers = Producers::default();
        assert_eq!(producers.judge(producer(0, 40), 2), Verdict::New, "an unknown producer begins anywhere");
        producers.enter(&batch(producer(0, 40), 2, 100), 0);
        producers.enter(&batch(producer(0, 42), 3, 107), 0);
        assert_eq!(producers.judge(producer(0, 45), 1), Verdict::New);
        assert_eq!(producers.judge(producer(0, 40), 2), held(100));
        assert_eq!(producers.judge(producer(0, 43), 2), held(108), "a part of a batch");
    }

    #[test]
    fn a_gap_and_a_batch_that_is_only_partly_there_are_refused() {
        let mut producers = Producers::default();
        producers.enter(&batch(producer(0, 0), 2, 0), 0);
        let refused = Verdict::Refused(AppendError::OutOfOrder { expected: 2 });
        assert_eq!(producers.judge(producer(0, 3), 1), refused);
        assert_eq!(producers.judge(producer(0, 1), 2), refused);
    }

    #[test]
    fn a_higher_epoch_begins_anew_and_fences_the_lower_one() {
        let mut producers = Producers::default();
        producers.enter(&batch(producer(3, 9), 1, 0), 0);
        assert_eq!(producers.judge(producer(4, 0), 1), Verdict::New);
        producers.enter(&batch(producer(4, 0), 1, 1), 0);
        let fenced = Verdict::Refused(AppendError::ProducerFenced { epoch: 4 });
        assert_eq!(producers.judge(producer(3, 9), 1), fenced);
        assert_eq!(producers.judge(producer(3, 10), 1), fenced);
        assert_eq!(producers.judge(producer(4, 0), 1), held(1));
    }

    #[test]
    fn all_sequences_of_an_epoch_can_be_used() {
        let mut producers = Producers::default();
        producers.enter(&batch(producer(0, u32::MAX - 1), 2, 0), 0);
        assert_eq!(producers.judge(producer(0, u32::MAX), 1), held(1));
        let refused = Verdict::Refused(AppendError::Duplicate);
        assert_eq!(producers.judge(producer(0, 0), 1), refused, "an epoch does not begin again");
    }

    #[test]
    fn a_cut_uncovers_what_was_known_before() {
        let mut producers = Producers::default();
        for sequence in 0..20 {
            // Nothing above offset 3 is committed, so nothing above it may be forgotten.
            assert_eq!(producers.enter(&batch(producer(0, sequence), 1, sequence.into()), 3), []);
        }
        producers.truncate(3);
        assert_eq!(producers.judge(producer(0, 3), 1), Verdict::New);
        assert_eq!(producers.judge(producer(0, 2), 1), held(2));
        producers.truncate(0);
        assert_eq!(producers.judge(producer(0, 77), 1), Verdict::New, "nothing is left of it");
    }

    #[test]
    fn committed_batches_are_forgotten_but_for_the_last_ones() {
        let mut producers = Producers::default();
        let mut forgotten = Vec::new();
        for sequence in 0..20 {
            let offset = Offset::from(sequence);
            forgotten.extend(producers.enter(&batch(producer(0, sequence), 1, offset), offset));
        }
        assert_eq!(forgotten.last(), Some(&(ID, 14)), "five committed ones and the new one are kept");
        assert_eq!(producers.judge(producer(0, 14), 1), held(14));
        assert_eq!(producers.judge(producer(0, 13), 1), Verdict::Refused(AppendError::Duplicate));
    }

    #[test]
    fn who_was_silent_longest_is_forgotten_first_but_never_before_the_commit() {
        let mut producers = Producers::default();
        let enter = |producers: &mut Producers, id: u64, high_watermark| {
            let producer = Producer { id: Uuid::from_u128(u128::from(id) + 1), epoch: 0, first_sequence: 0 };
            producers.enter(&batch(producer, 1, id), high_watermark)
        };
        let many = u64::try_from(PRODUCERS_MAX).unwrap();
        for id in 0..many {
            assert_eq!(enter(&mut producers, id, id), []);
        }
        assert_eq!(enter(&mut producers, many, 0), [], "nothing is committed");
        let both = [(Uuid::from_u128(1), Offset::MAX), (Uuid::from_u128(2), Offset::MAX)];
        assert_eq!(enter(&mut producers, many + 1, 2), both);
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let batches: Vec<_> = (0..3).map(|at| batch(producer(0, at), 1, at.into())).collect();
        let producers = Producers::stored(batches.iter().filter_map(ProducerBatch::of).collect());
        assert_eq!(producers.judge(producer(0, 3), 1), Verdict::New);
        assert_eq!(producers.judge(producer(0, 1), 1), held(1));
    }
}
