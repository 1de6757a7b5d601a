//! Deadlines of the machine: sorted, so that idle partitions cost nothing until their turn.

use crate::Mono;
use crate::ids::{BrokerId, TopicPartition};
use std::collections::BTreeSet;

/// What falls due. Entries are never removed early: the owner keeps the time that counts, and ignores other firings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A follower is to hear of a partition even without news.
    KeepAlive(BrokerId, TopicPartition),
    /// A follower that could not take an item is to be asked again.
    Retry(BrokerId, TopicPartition),
    /// A broker that did not answer is to be tried again.
    Link(BrokerId),
    /// Followers that are behind are to be judged.
    Lag,
    /// A wish for other in-sync replicas is to be repeated.
    Ask(TopicPartition),
    /// High watermarks that moved are to be written.
    Persist,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: BTreeSet<(Mono, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Mono, timer: Timer) {
        self.entries.insert((at, timer));
    }

    pub(super) fn first(&self) -> Option<Mono> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due, with its time.
    pub(super) fn due(&mut self, now: Mono) -> Option<(Mono, Timer)> {
        if self.first()? > now {
            return None;
        }
        self.entries.pop_first()
    }
}
