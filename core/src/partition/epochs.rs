//! Where each leader epoch starts in a log: what KIP-101 and KIP-279 compare logs by.

use crate::ids::{LeaderEpoch, Offset};

/// Start offset of every epoch that has records in the log, in the order of the log.
///
/// An epoch is entered with its first batch, so the table is a function of the log's contents: equal logs have equal tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    pub(super) fn new(starts: Vec<(LeaderEpoch, Offset)>) -> Self {
        Self { starts }
    }

    /// Enters a batch that is appended; returns whether it starts an epoch.
    pub(super) fn enter(&mut self, epoch: LeaderEpoch, base_offset: Offset) -> bool {
        let starts = self.starts.last().is_none_or(|last| last.0 != epoch);
        if starts {
            self.starts.push((epoch, base_offset));
        }
        starts
    }

    /// Drops what starts at or above `to`.
    pub(super) fn truncate(&mut self, to: Offset) {
        let kept = self.starts.partition_point(|start| start.1 < to);
        self.starts.truncate(kept);
    }

    /// Drops epochs that end below `log_start`. That of the record before it is kept: whoever has that record can be
    /// compared with.
    pub(super) fn forget_below(&mut self, log_start: Offset) {
        let above = self.starts.partition_point(|start| start.1 < log_start);
        self.starts.drain(..above.saturating_sub(1));
    }

    /// Returns the epoch of the record at `offset`, which must be in the log.
    pub(super) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.starts.partition_point(|start| start.1 <= offset);
        above.checked_sub(1).map(|index| self.starts[index].0)
    }

    /// Returns the newest epoch not above `epoch`, and where it ends in a log that ends at `log_end`.
    pub(super) fn newest_up_to(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let index = self.starts.iter().rposition(|start| start.0 <= epoch)?;
        Some((self.starts[index].0, self.starts.get(index + 1).map_or(log_end, |next| next.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Epochs {
        Epochs::new(vec![(LeaderEpoch(1), 0), (LeaderEpoch(3), 5), (LeaderEpoch(4), 9)])
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_with_records_starts() {
        assert_eq!(table().newest_up_to(LeaderEpoch(3), 12), Some((LeaderEpoch(3), 9)));
        assert_eq!(table().newest_up_to(LeaderEpoch(2), 12), Some((LeaderEpoch(1), 5)));
        assert_eq!(table().newest_up_to(LeaderEpoch(9), 12), Some((LeaderEpoch(4), 12)));
        assert_eq!(table().newest_up_to(LeaderEpoch(0), 12), None);
    }

    #[test]
    fn every_record_has_the_epoch_of_the_last_start_at_or_below_it() {
        let epochs: Vec<_> =
            [0, 4, 5, 8, 9].map(|offset| table().epoch_at(offset)).into_iter().flatten().collect();
        assert_eq!(epochs, [1, 1, 3, 3, 4].map(LeaderEpoch));
    }

    #[test]
    fn truncation_forgets_epochs_that_lost_all_their_records() {
        let mut epochs = table();
        epochs.truncate(9);
        assert_eq!(epochs.newest_up_to(LeaderEpoch(9), 9), Some((LeaderEpoch(3), 9)));
        assert!(epochs.enter(LeaderEpoch(5), 9));
        assert!(!epochs.enter(LeaderEpoch(5), 10));
    }

    #[test]
    fn the_epochs_at_and_before_the_log_start_are_remembered_when_older_ones_are_deleted() {
        let mut epochs = table();
        epochs.forget_below(6);
        assert_eq!(epochs.epoch_at(6), Some(LeaderEpoch(3)));
        assert_eq!(epochs.newest_up_to(LeaderEpoch(2), 12), None);
        epochs.forget_below(9);
        assert_eq!([8, 9].map(|at| epochs.epoch_at(at)), [Some(LeaderEpoch(3)), Some(LeaderEpoch(4))]);
    }
}
