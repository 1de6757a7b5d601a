//! Keeping the log of a coordinator short: once it holds much more than what is true, all that is true is written again at
//! its end, and once that is committed the log starts there.
//!
//! A coordinator that is lost before the log is cut leaves everything before the snapshot, and the snapshot says nothing
//! that was not true then; one that is lost after it leaves the snapshot, whole. So whoever reads the log finds the same.

use super::super::records::{self, Record};
use super::Groups;
use crate::limits::{GROUP_LOG_SPARE_BYTES, GROUP_RECORD_FRAME_BYTES};

/// How much the log of a partition holds, bytes.
#[derive(Debug)]
pub(super) struct LogSize {
    bytes: usize,
    /// How much it may hold besides twice what is true.
    spare: usize,
    /// With more than this it is written anew.
    bound: usize,
}

impl Default for LogSize {
    fn default() -> Self {
        Self::with(GROUP_LOG_SPARE_BYTES)
    }
}

impl LogSize {
    pub(super) fn with(spare: usize) -> Self {
        Self { bytes: 0, spare, bound: spare }
    }

    /// Notes a record of the log.
    pub(super) fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.bytes += size(key, value);
    }

    /// Whether the log holds so much more than what is true that writing that again costs little.
    pub(super) fn is_due(&self) -> bool {
        self.bytes > self.bound
    }

    /// Notes that the log was read, and what is true by it.
    pub(super) fn opened(&mut self, snapshot: &[Record]) {
        self.bound = self.spare + 2 * size_of_all(snapshot);
    }

    /// Notes that the log is to hold nothing but a snapshot.
    pub(super) fn rewritten(&mut self, snapshot: &[Record]) {
        self.bytes = size_of_all(snapshot);
        self.bound = self.spare + 2 * self.bytes;
    }
}

fn size(key: &[u8], value: Option<&[u8]>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len) + GROUP_RECORD_FRAME_BYTES
}

fn size_of_all(records: &[Record]) -> usize {
    records.iter().map(|(key, value)| size(key, value.as_deref())).sum()
}

impl Groups {
    /// Returns the records that give back everything that is known.
    pub(super) fn snapshot(&self) -> Vec<Record> {
        let mut all = vec![records::of_epochs(self.epochs)];
        // What is understood by now goes behind what was not then.
        all.extend(self.foreign.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        let groups = self.groups.iter().filter(|(_, membership)| !membership.is_empty());
        all.extend(groups.map(|(group, membership)| records::of_group(group, Some(membership))));
        all.extend(self.positions.all());
        all
    }
}
