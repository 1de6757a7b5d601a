//! What makes a producer idempotent: its id, and for each partition the sequence that comes next.
//!
//! One request a partition is under way at a time. It is sent again under its sequence until its outcome is known; if that
//! never comes, the lane begins anew with a higher epoch, which also fences what may still be under way.

use pubsub_core::record::Producer as Sequence;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// One partition as the producer sees it.
#[derive(Debug)]
pub(super) struct Lane {
    next: Sequence,
    /// A request was sent and nothing is known of it.
    uncertain: bool,
}

impl Lane {
    fn new(id: Uuid) -> Self {
        Self { next: Sequence { id, epoch: 0, first_sequence: 0 }, uncertain: false }
    }

    /// Returns the sequence for the next `count` records, which are about to be sent.
    pub(super) fn begin(&mut self, count: u32) -> Sequence {
        let used_up = self.next.first_sequence.checked_add(count).is_none();
        if self.uncertain || used_up {
            self.next = match self.next.epoch.checked_add(1) {
                Some(epoch) => Sequence { epoch, first_sequence: 0, ..self.next },
                None => Sequence { id: Uuid::new_v4(), epoch: 0, first_sequence: 0 },
            };
        }
        // Until the outcome is told: a caller that goes away in between never tells it.
        self.uncertain = true;
        self.next
    }

    /// Takes note that the records were stored.
    pub(super) fn stored(&mut self, count: u32) {
        self.next.first_sequence += count;
        self.uncertain = false;
    }

    /// Takes note that they certainly were not.
    pub(super) fn refused(&mut self) {
        self.uncertain = false;
    }
}

/// All partitions of one producer and topic.
#[derive(Debug)]
pub(super) struct Lanes {
    id: Uuid,
    by_partition: Mutex<BTreeMap<u32, Arc<tokio::sync::Mutex<Lane>>>>,
    /// How many partitions the topic has; 0 until it was asked for.
    partitions: AtomicU32,
    turn: AtomicU32,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            id: Uuid::new_v4(),
            by_partition: Mutex::default(),
            partitions: AtomicU32::new(0),
            turn: AtomicU32::new(rand::random()),
        }
    }

    /// Returns a partition's lane once nobody else uses it.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn lane(&self, partition: u32) -> OwnedMutexGuard<Lane> {
        let lane = {
            let mut lanes = self.by_partition.lock().expect("no code panics while it holds the lanes");
            let fresh = || Arc::new(tokio::sync::Mutex::new(Lane::new(self.id)));
            Arc::clone(lanes.entry(partition).or_insert_with(fresh))
        };
        lane.lock_owned().await
    }

    /// Returns how many partitions the topic has, if that was learned.
    pub(super) fn partitions(&self) -> Option<u32> {
        Some(self.partitions.load(Ordering::Relaxed)).filter(|count| *count > 0)
    }

    /// Learns how many partitions the topic has; 0 forgets it.
    pub(super) fn learn(&self, partitions: u32) {
        self.partitions.store(partitions, Ordering::Relaxed);
    }

    /// Returns the partition whose turn it is for records without a key.
    pub(super) fn turn(&self, partitions: u32) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) % partitions.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_after_what_was_stored_and_stay_after_what_was_refused() {
        let mut lane = Lane::new(Uuid::from_u128(1));
        assert_eq!(lane.begin(3).first_sequence, 0);
        lane.stored(3);
        assert_eq!(lane.begin(2).first_sequence, 3);
        lane.refused();
        assert_eq!((lane.begin(1).first_sequence, lane.next.epoch), (3, 0));
    }

    #[test]
    fn an_outcome_that_never_came_begins_a_new_epoch() {
        let mut lane = Lane::new(Uuid::from_u128(1));
        lane.begin(3);
        assert_eq!(lane.begin(1), Sequence { id: Uuid::from_u128(1), epoch: 1, first_sequence: 0 });
    }

    #[test]
    fn used_up_sequences_begin_a_new_epoch_and_used_up_epochs_a_new_id() {
        let mut lane = Lane::new(Uuid::from_u128(1));
        lane.next.first_sequence = u32::MAX - 1;
        assert_eq!((lane.begin(2).epoch, lane.next.first_sequence), (1, 0));
        lane.next.epoch = u16::MAX;
        let next = lane.begin(1);
        assert_ne!(next.id, Uuid::from_u128(1));
        assert_eq!((next.epoch, next.first_sequence), (0, 0));
    }
}
