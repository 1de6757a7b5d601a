//! Records and promises on disk: one volume per broker, two SQLite files, one writer thread, a few readers.
//!
//! [`open`] takes the volume. Records go through [`Store`], which any task may hold; promises through [`MetaStore`], which
//! the control task owns. An error of a write or of [`MetaStore::persist`] ends the process: a failed sync is never retried,
//! because nobody knows afterwards what is on disk.

mod error;
mod events;
mod log;
mod meta;
mod producers;
mod reader;
mod recover;
mod retention;
mod schema;
mod seal;
mod vacuum;
mod volume;
mod writer;

pub use error::{OpenError, StoreError};
pub use events::{EventLog, EventPage, StoredEvent};
pub use meta::MetaStore;
pub(crate) use retention::{Expired, Kept};
pub use seal::{InvalidKey, KeyId, KeyIds, StorageKey};

use log::SealedWrite;
use pubsub_core::control::Hard;
use pubsub_core::ids::{
    At, BrokerId, ControllerEpoch, Offset, StorageId, TopicId, TopicName, TopicPartition,
};
use pubsub_core::limits::STORE_QUEUE_MAX;
use pubsub_core::partition::{ReplicaWrite, StoredReplica, WriteId};
use pubsub_core::record::Batch;
use reader::Readers;
use rusqlite::{Connection, OptionalExtension};
use seal::Sealer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use volume::{Paths, Space};
use writer::{Counts, Job, Writer};

/// What a volume is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; made if it is missing.
    pub dir: PathBuf,
    /// Whose volume it must be.
    pub broker_id: BrokerId,
    /// Seals every batch written from now on; `None`: they are stored as they are.
    pub key: Option<StorageKey>,
    /// Keys that older batches may be sealed with.
    pub keys_old: Vec<StorageKey>,
    /// [`Store::storage_full`] below this many free bytes; `None`: below 5 % of the file system or 256 MiB.
    pub free_bytes_min: Option<u64>,
    /// Gives unused room of the records file back to the file system before anything else.
    pub vacuum: bool,
}

/// An opened volume.
#[derive(Debug)]
pub struct Opened {
    /// Promises.
    pub meta: MetaStore,
    /// Records.
    pub store: Store,
    /// Recent events.
    pub events: EventLog,
    /// The promises as found, `boot` raised and synced. On a new volume: a new storage id, everything else empty.
    pub hard: Hard,
    /// The replicas as found.
    pub replicas: Vec<StoredReplica>,
}

/// What the store tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Bytes of `pubsub.sqlite`.
    pub file_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Bytes that other files may take on the file system.
    pub free_bytes: u64,
    /// Transactions committed since the start.
    pub commits: u64,
    /// Batches written since the start.
    pub batches: u64,
    /// Records written since the start.
    pub records: u64,
    /// How long the last transaction took, sync included, µs.
    pub last_commit_us: u64,
    /// Writes waiting for the writer.
    pub waiting: u64,
}

/// The records of one volume; cloning is cheap. The writer ends once the last clone is gone, or after [`Store::close`].
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    ended: watch::Receiver<Option<Arc<StoreError>>>,
    readers: Readers,
    sealer: Arc<Sealer>,
    counts: Arc<Counts>,
    space: Arc<Space>,
    paths: Arc<Paths>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.paths.dir).finish_non_exhaustive()
    }
}

/// Takes the volume for this process, or founds it; checks it; raises and syncs `boot`. Blocks.
///
/// The lock is held until [`MetaStore`] is dropped and the writer has ended.
///
/// # Errors
/// See [`OpenError`]: each says what to do.
pub fn open(config: StoreConfig) -> Result<Opened, OpenError> {
    schema::check_sqlite()?;
    let paths = Paths::new(&config.dir);
    let lock = Arc::new(volume::take(&paths)?);
    let records = schema::open_writer(&paths.records, &schema::RECORDS)?;
    let meta = schema::open_writer(&paths.meta, &schema::META)?;
    let hard = identify(&paths, &records, &meta, config.broker_id)?;
    vacuum::remove_leftover(&paths);
    let records = if config.vacuum { vacuum::vacuum(&paths, records)? } else { records };
    let sealer = Sealer::open(&records, &paths.records, config.key.as_ref(), &config.keys_old)?;
    let (parts, replicas) = recover::recover(&records, &paths.records, &sealer)?;
    let sealer = Arc::new(sealer);
    let readers = Readers::open(&paths.records, Arc::clone(&sealer))?;
    let events = EventLog::open(&paths.meta, hard.storage_id)?;
    let meta = MetaStore::start(meta, paths.clone(), hard, Arc::clone(&lock))?;
    volume::sync_dir(&paths)?;

    let counts = Arc::new(Counts::default());
    let space = Arc::new(Space::new(&paths, config.free_bytes_min));
    let (jobs, queue) = mpsc::channel(STORE_QUEUE_MAX);
    let (end, ended) = watch::channel(None);
    let writer = Writer {
        connection: records,
        parts,
        counts: Arc::clone(&counts),
        space: Arc::clone(&space),
        _lock: lock,
    };
    let io = |source| OpenError::Io { action: "start the writer of", path: paths.records.clone(), source };
    let thread = std::thread::Builder::new().name("store-writer".to_owned());
    thread
        .spawn(move || {
            let error = writer.run(queue).err().unwrap_or(StoreError::Closed);
            if !matches!(error, StoreError::Closed) {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "the store's writer ended");
            }
            end.send_replace(Some(Arc::new(error)));
        })
        .map_err(io)?;
    let hard = meta.hard().clone();
    let store = Store { jobs, ended, readers, sealer, counts, space, paths: Arc::new(paths) };
    Ok(Opened { meta, store, events, hard, replicas })
}

/// Reads whose volume it is, founding a new one. Both files carry the storage id: a broker that kept its promises but lost
/// its records would be counted as a replica that it is not.
fn identify(
    paths: &Paths,
    records: &Connection,
    meta: &Connection,
    broker_id: BrokerId,
) -> Result<Hard, OpenError> {
    let failed = |source| OpenError::sqlite(&paths.records, source);
    let torn = || OpenError::Torn { meta: paths.meta.clone(), records: paths.records.clone() };
    let stored: Option<[u8; 16]> = records
        .query_row("SELECT storage_id FROM volume", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    if let Some(hard) = meta::read_hard(meta, &paths.meta)? {
        if hard.broker_id != broker_id {
            let found = hard.broker_id;
            return Err(OpenError::ForeignBroker { path: paths.dir.clone(), found, expected: broker_id });
        }
        return if stored == Some(hard.storage_id.0.into_bytes()) { Ok(hard) } else { Err(torn()) };
    }
    // A start that was cut off while it founded the volume leaves an empty records file, which may be taken over.
    let used: bool =
        records.query_row("SELECT EXISTS(SELECT 1 FROM part)", [], |row| row.get(0)).map_err(failed)?;
    if used {
        return Err(torn());
    }
    let storage_id = StorageId(Uuid::new_v4());
    records
        .execute("INSERT OR REPLACE INTO volume(one, storage_id) VALUES (1, ?1)", [storage_id.0.as_bytes()])
        .map_err(failed)?;
    Ok(Hard {
        cluster_id: None,
        broker_id,
        storage_id,
        boot: 0,
        epoch: ControllerEpoch(0),
        voted_for: None,
        accepted: None,
        committed: At::default(),
    })
}

impl Store {
    /// Queues a write; seals its batches first, on the caller's thread. All of it is done in one transaction, synced, and
    /// then `done` is called on the writer's thread, in the order of the writes; it must not block. Waits only while
    /// the queue is full. Writes that wait together share one sync.
    ///
    /// If the write fails, `done` is dropped uncalled and [`Store::failed`] says why.
    ///
    /// # Errors
    /// [`StoreError::Closed`]; nothing will be written.
    ///
    /// # Cancel safety
    /// A future dropped before it is ready has queued nothing; then the write must not be answered for.
    pub async fn write(
        &self,
        id: WriteId,
        writes: Vec<ReplicaWrite>,
        done: impl FnOnce(WriteId) + Send + 'static,
    ) -> Result<(), StoreError> {
        let writes = writes.into_iter().map(|write| SealedWrite::new(write, &self.sealer)).collect();
        let job = Job::Write { id, writes, done: Box::new(done) };
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)
    }

    /// Tells the views for people what topics are called. Queued like a write, answered by nothing; names already
    /// known cost nothing.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn name_topics(&self, names: Vec<(TopicId, TopicName)>) -> Result<(), StoreError> {
        self.jobs.send(Job::NameTopics(names)).await.map_err(|_| StoreError::Closed)
    }

    /// Returns whole batches that hold records of `[from, end)`, oldest first; the first may begin before `from` and the last
    /// may end after `end`: the caller trims. Stops before `bytes_max` is passed, but never before one batch. Sees every
    /// write whose `done` was called. Records below the log start are not found. A damaged batch ends the answer before
    /// it, and is an error if it is the first.
    ///
    /// # Errors
    /// [`StoreError::UnknownPartition`], [`StoreError::Corrupt`], [`StoreError::Closed`], or SQLite's own; the store goes on.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Batch>, StoreError> {
        self.readers.read(partition, from, end, bytes_max).await
    }

    /// Looks from a log's start on for what is more, or older, than is to be kept.
    ///
    /// # Errors
    /// As [`Store::read`].
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn expired(&self, partition: TopicPartition, kept: Kept) -> Result<Expired, StoreError> {
        self.readers.expired(partition, kept).await
    }

    /// Counts the stored batches that are not sealed. Interesting when a key is set: they are from before.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn plaintext_batches(&self) -> Result<u64, StoreError> {
        self.readers.plaintext_batches().await
    }

    /// Returns whether new batches are sealed.
    pub fn is_sealing(&self) -> bool {
        self.sealer.is_sealing()
    }

    /// Returns the bytes that other files may still take on the volume's file system. At most 250 ms old.
    pub fn free_bytes(&self) -> u64 {
        self.space.free_bytes()
    }

    /// Returns whether publishes are to be refused for lack of room. Writes that come all the same are done while there is
    /// any: deletions need some.
    pub fn storage_full(&self) -> bool {
        self.space.is_full()
    }

    /// Returns sizes and counts.
    pub fn stats(&self) -> StoreStats {
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
        StoreStats {
            file_bytes: length(&self.paths.records),
            wal_bytes: length(&self.paths.records_wal),
            free_bytes: self.free_bytes(),
            commits: self.counts.commits.load(Ordering::Relaxed),
            batches: self.counts.batches.load(Ordering::Relaxed),
            records: self.counts.records.load(Ordering::Relaxed),
            last_commit_us: self.counts.last_commit_us.load(Ordering::Relaxed),
            waiting: u64::try_from(self.jobs.max_capacity() - self.jobs.capacity()).unwrap_or(u64::MAX),
        }
    }

    /// Waits until the writer has ended and returns why. [`StoreError::Closed`] after [`Store::close`]; everything else means
    /// that the process must stop now, without answering for any write.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn failed(&self) -> Arc<StoreError> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(|| Arc::new(StoreError::Closed)),
            Err(_) => Arc::new(StoreError::Panicked),
        }
    }

    /// Does what is queued, then closes the files; later calls of any clone get [`StoreError::Closed`].
    ///
    /// # Errors
    /// Why the writer ended, if not because of this.
    pub async fn close(&self, timeout: Duration) -> Result<(), Arc<StoreError>> {
        self.readers.close();
        // If it is closed already, there is nothing to tell it.
        let _ = self.jobs.send(Job::Close).await;
        match tokio::time::timeout(timeout, self.failed()).await {
            Ok(error) if matches!(*error, StoreError::Closed) => Ok(()),
            Ok(error) => Err(error),
            Err(_) => Err(Arc::new(StoreError::Timeout)),
        }
    }
}

#[cfg(test)]
mod tests;
