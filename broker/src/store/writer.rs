//! The one thread that writes records: it takes whatever waits, commits once with one sync, then answers in order.

use super::StoreError;
use super::log::{Change, Part, Parts, SealedWrite, batch_id, last_before, save};
use super::volume::{Space, VolumeLock};
use pubsub_core::ids::{TopicId, TopicName, TopicPartition};
use pubsub_core::limits::{
    STORE_CLEAR_BATCHES_MAX, STORE_CLEAR_BYTES_MAX, STORE_GROUP_BYTES_MAX, STORE_QUEUE_MAX,
};
use pubsub_core::partition::WriteId;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a full disk is waited for, so that retention or a person can make room before the process stops.
const DISK_FULL_WAIT: Duration = Duration::from_secs(30);
const DISK_FULL_PAUSE: Duration = Duration::from_millis(100);
/// Commits between two looks at the pages that can be reused.
const REUSABLE_EVERY: u64 = 64;

/// Called on the writer's thread once a write is synced. Must not block.
pub(crate) type Done = Box<dyn FnOnce(WriteId) + Send>;

/// What the writer is asked for, done in order.
pub(crate) enum Job {
    Write { id: WriteId, writes: Vec<SealedWrite>, done: Done },
    NameTopics(Vec<(TopicId, TopicName)>),
    Close,
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Write { writes, .. } => writes.iter().map(SealedWrite::bytes).sum(),
            Self::NameTopics(_) | Self::Close => 0,
        }
    }
}

/// What the writer counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) last_commit_us: AtomicU64,
}

/// Owns the write connection. The lock outlives the connection: fields are dropped in order.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) parts: Parts,
    pub(crate) counts: Arc<Counts>,
    pub(crate) space: Arc<Space>,
    pub(crate) _lock: Arc<VolumeLock>,
}

impl Writer {
    /// Works until [`Job::Close`] comes, all senders are gone, or something fails.
    ///
    /// # Errors
    /// The first failure. It is never tried again: after a failed sync nobody knows what is on disk.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<(), StoreError> {
        let mut waiting = VecDeque::new();
        let mut arrived = Vec::with_capacity(STORE_QUEUE_MAX);
        loop {
            if waiting.is_empty() {
                if self.has_leftovers() && jobs.is_empty() {
                    self.clear_some()?;
                    if !jobs.is_closed() {
                        continue;
                    }
                }
                if jobs.blocking_recv_many(&mut arrived, STORE_QUEUE_MAX) == 0 {
                    return Ok(());
                }
                waiting.extend(arrived.drain(..));
            }
            let group = take_group(&mut waiting);
            self.commit(&group)?;
            if finish(group) {
                return Ok(());
            }
            if self.has_leftovers() {
                self.clear_some()?;
            }
        }
    }

    fn commit(&mut self, group: &[Job]) -> Result<(), StoreError> {
        let started = Instant::now();
        let parts = &self.parts;
        let change = with_room(&mut self.connection, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut change = Change::new(parts);
            for job in group {
                match job {
                    Job::Write { writes, .. } => {
                        for write in writes {
                            change.apply(&transaction, parts, write)?;
                        }
                    }
                    Job::NameTopics(names) => name_topics(&transaction, names)?,
                    Job::Close => {}
                }
            }
            transaction.commit()?;
            Ok(change)
        })?;
        change.settle(&mut self.parts);
        self.count(group, started)
    }

    fn count(&self, group: &[Job], started: Instant) -> Result<(), StoreError> {
        let commits = self.counts.commits.fetch_add(1, Ordering::Relaxed);
        for job in group {
            if let Job::Write { writes, .. } = job {
                let (batches, records) =
                    writes.iter().map(SealedWrite::size).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                self.counts.batches.fetch_add(batches, Ordering::Relaxed);
                self.counts.records.fetch_add(records, Ordering::Relaxed);
            }
        }
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counts.last_commit_us.store(took, Ordering::Relaxed);
        if commits.is_multiple_of(REUSABLE_EVERY) { self.look_at_reusable() } else { Ok(()) }
    }

    fn look_at_reusable(&self) -> Result<(), StoreError> {
        let sql = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
        let bytes: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        self.space.set_reusable(u64::try_from(bytes).unwrap_or(0));
        Ok(())
    }

    fn has_leftovers(&self) -> bool {
        !self.parts.dropped.is_empty() || !self.parts.trimmed.is_empty()
    }

    /// Deletes some batches that no reader finds any more. In pieces, so that publishers never wait for a whole log.
    fn clear_some(&mut self) -> Result<(), StoreError> {
        if let Some(part) = self.parts.dropped.first().copied() {
            let done = with_room(&mut self.connection, |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let cleared = clear(&transaction, batch_id(part, 0), batch_id(part + 1, 0))?;
                if cleared.all {
                    transaction.execute("DELETE FROM dropped WHERE part = ?1", [part])?;
                }
                transaction.commit()?;
                Ok(cleared.all)
            })?;
            if done {
                self.parts.dropped.remove(&part);
            }
        } else if let Some(partition) = self.parts.trimmed.first().copied() {
            self.clear_trimmed(partition)?;
        }
        self.look_at_reusable()
    }

    fn clear_trimmed(&mut self, partition: TopicPartition) -> Result<(), StoreError> {
        let Some(part) = self.parts.live.get(&partition).copied() else {
            self.parts.trimmed.remove(&partition);
            return Ok(());
        };
        let (part, done) = with_room(&mut self.connection, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // The batch that holds the log start stays as it is; readers skip what lies before.
            let keep = match last_before(&transaction, part.id, part.log_start)? {
                Some((base, count)) if base + u64::from(count) > part.log_start => base,
                _ => part.log_start,
            };
            let cleared = clear(&transaction, batch_id(part.id, 0), batch_id(part.id, keep))?;
            let part = Part { bytes: part.bytes - cleared.bytes, ..part };
            save(&transaction, partition, &part)?;
            transaction.commit()?;
            Ok((part, cleared.all))
        })?;
        self.parts.live.insert(partition, part);
        if done {
            self.parts.trimmed.remove(&partition);
        }
        Ok(())
    }
}

/// Takes jobs off the front, at least one, until a transaction of them would grow the write-ahead log too much.
fn take_group(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let mut group = Vec::new();
    let mut bytes = 0;
    while let Some(job) = waiting.pop_front() {
        bytes += job.bytes();
        let last = matches!(job, Job::Close) || bytes >= STORE_GROUP_BYTES_MAX;
        group.push(job);
        if last {
            break;
        }
    }
    group
}

/// Answers a committed group in order. Returns whether the writer is to end.
fn finish(group: Vec<Job>) -> bool {
    let mut end = false;
    for job in group {
        match job {
            Job::Write { id, done, .. } => done(id),
            Job::NameTopics(_) => {}
            Job::Close => end = true,
        }
    }
    end
}

/// Runs a transaction, again after a pause while the disk is full: it was rolled back before anything was synced, so unlike
/// after a failed sync its outcome is known.
fn with_room<T>(
    connection: &mut Connection,
    mut work: impl FnMut(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let started = Instant::now();
    loop {
        match work(connection) {
            Err(StoreError::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                if started.elapsed() >= DISK_FULL_WAIT {
                    return Err(StoreError::DiskFull);
                }
                tracing::error!("the disk was full; the write waits for room");
                std::thread::sleep(DISK_FULL_PAUSE);
            }
            other => return other,
        }
    }
}

fn name_topics(connection: &Connection, names: &[(TopicId, TopicName)]) -> Result<(), StoreError> {
    for (topic, name) in names {
        connection
            .prepare_cached(
                "INSERT INTO topic_name(topic_id, name) VALUES (?1, ?2)
                 ON CONFLICT(topic_id) DO UPDATE SET name = excluded.name WHERE name <> excluded.name",
            )?
            .execute(rusqlite::params![topic.0.as_bytes(), name.as_str()])?;
    }
    Ok(())
}

struct Cleared {
    bytes: i64,
    all: bool,
}

/// Deletes the first batches with ids in `[low, high)`.
fn clear(connection: &Connection, low: i64, high: i64) -> Result<Cleared, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, length(data) FROM batch WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query([low, high, STORE_CLEAR_BATCHES_MAX])?;
    let mut bytes = 0;
    let mut count = 0;
    let mut end = low;
    while let Some(row) = rows.next()? {
        end = row.get::<_, i64>(0)? + 1;
        bytes += row.get::<_, i64>(1)?;
        count += 1;
        if bytes >= STORE_CLEAR_BYTES_MAX {
            break;
        }
    }
    drop(rows);
    connection.prepare_cached("DELETE FROM batch WHERE id >= ?1 AND id < ?2")?.execute([low, end])?;
    Ok(Cleared { bytes, all: count < STORE_CLEAR_BATCHES_MAX && bytes < STORE_CLEAR_BYTES_MAX })
}
