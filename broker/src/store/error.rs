//! Why a volume could not be opened, and why an open one could not do something.

use super::seal::KeyIds;
use pubsub_core::ids::{BrokerId, Offset, TopicPartition};
use std::path::{Path, PathBuf};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own error. From a write it is fatal: the process must stop, and nothing of the write may be answered for.
    #[error("sqlite failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored batch is not what was written: it is never served. Another replica holds it.
    #[error("the batch at {base_offset} of {partition} is damaged: {detail}")]
    Corrupt {
        /// Where.
        partition: TopicPartition,
        /// Its first offset.
        base_offset: Offset,
        /// What does not fit.
        detail: String,
    },
    /// No such replica is stored here.
    #[error("no replica of {partition} is stored here")]
    UnknownPartition {
        /// As asked for.
        partition: TopicPartition,
    },
    /// A write contradicts what is stored. Nothing of it was done; fatal, because memory and disk disagree.
    #[error("a write of {partition} does not fit what is stored: {detail}")]
    Misfit {
        /// Where.
        partition: TopicPartition,
        /// What does not fit.
        detail: String,
    },
    /// The disk stayed full for longer than the store waits. Fatal; nothing of the write was done.
    #[error("the disk is full")]
    DiskFull,
    /// A promise would be taken back (E2): the machine and the disk disagree. Nothing was written; fatal.
    #[error("a promise would be taken back: {detail}")]
    Regress {
        /// Which.
        detail: String,
    },
    /// An image could not be turned into bytes. Nothing was written.
    #[error("the metadata image could not be encoded")]
    Image(#[source] serde_json::Error),
    /// The writer's thread panicked; its message is on standard error. Fatal.
    #[error("the store's writer panicked")]
    Panicked,
    /// The writer did not end in time. What was answered for is on disk.
    #[error("the store did not close in time")]
    Timeout,
    /// The store was closed, or its writer stopped because of an earlier error.
    #[error("the store is closed")]
    Closed,
}

/// Why a volume could not be opened. Nothing that was on it is changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system's own error.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its error.
        #[source]
        source: std::io::Error,
    },
    /// SQLite's own error.
    #[error("open {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Its error.
        #[source]
        source: rusqlite::Error,
    },
    /// Another process has the volume.
    #[error(
        "{path} is locked by another running broker: stop that one, or give this one a data directory of its own"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// SQLite's locks and syncs can't be trusted there.
    #[error(
        "{path} is on a network file system ({kind}), where SQLite can lose records: use a local or block volume"
    )]
    NetworkFileSystem {
        /// The data directory.
        path: PathBuf,
        /// Its file system.
        kind: &'static str,
    },
    /// The volume is another broker's.
    #[error(
        "{path} belongs to broker {found}, this is broker {expected}: check the data directory and the broker id"
    )]
    ForeignBroker {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: BrokerId,
        /// Who asked.
        expected: BrokerId,
    },
    /// The file is not a Pubsub file.
    #[error("{path} was not made by this program: move it away, or use another data directory")]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{path} has schema {found}, this program knows up to {known}: run the newer program again")]
    Newer {
        /// The file.
        path: PathBuf,
        /// As stored.
        found: i64,
        /// As known here.
        known: usize,
    },
    /// One of the volume's two files is missing or from another volume: its broker would be taken for a replica that it is not.
    #[error(
        "{meta} and {records} are not of the same volume: put the missing file back, or move both away to join as an \
         empty broker"
    )]
    Torn {
        /// `meta.sqlite`.
        meta: PathBuf,
        /// `pubsub.sqlite`.
        records: PathBuf,
    },
    /// The linked SQLite is known to lose data.
    #[error("SQLite {found} can lose committed records, 3.51.3 or newer is needed")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// Stored batches need a key that was not given.
    #[error("records in {path} are sealed with storage key {found}, given: {given}; add the missing key")]
    KeyUnknown {
        /// The file.
        path: PathBuf,
        /// Id of the key that is needed.
        found: String,
        /// Ids of the keys at hand.
        given: KeyIds,
    },
    /// What is stored contradicts itself.
    #[error("{path} is damaged at {partition}: {detail}; move the volume away to join as an empty broker")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The partition.
        partition: TopicPartition,
        /// What does not fit.
        detail: String,
    },
    /// The stored metadata image, or another promise, can't be read.
    #[error("{path} is damaged: {detail}; move the volume away to join as an empty broker")]
    Meta {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
}

impl OpenError {
    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite { path: path.to_owned(), source }
    }
}
