//! Reading: a few read-only connections on blocking threads. One statement an answer, so no reader keeps the log from resetting.

use super::log::batch_of;
use super::retention::{Expired, Kept};
use super::schema::{OFFSET_END, open_reader};
use super::seal::Sealer;
use super::{OpenError, StoreError};
use pubsub_core::ids::{Offset, TopicPartition};
use pubsub_core::limits::STORE_READERS;
use pubsub_core::record::Batch;
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// The batches that overlap `[from, end)`, oldest first. The last batch that begins at or below `from` is where to start.
const READ: &str = "SELECT b.id, b.count, b.leader_epoch, b.base_ts, b.max_ts, b.crc, b.seal, b.data
    FROM part p JOIN batch b ON b.id < (p.id << 40 | ?4) AND b.id >= coalesce(
        (SELECT max(id) FROM batch WHERE id >= p.id << 40 AND id <= (p.id << 40 | max(?3, p.log_start))), p.id << 40)
    WHERE p.topic_id = ?1 AND p.no = ?2 AND (b.id & 1099511627775) + b.count > max(?3, p.log_start) ORDER BY b.id";

/// The pool. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    sealer: Arc<Sealer>,
}

impl Readers {
    pub(crate) fn open(path: &Path, sealer: Arc<Sealer>) -> Result<Self, OpenError> {
        let idle = (0..STORE_READERS).map(|_| open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        let permits = Arc::new(Semaphore::new(STORE_READERS));
        Ok(Self { path: path.to_owned(), idle: Arc::new(Mutex::new(idle)), permits, sealer })
    }

    /// Ends all reading; connections in use are closed when their reader is done.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs `work` on a blocking thread with a connection of the pool.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let pool = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            // A reader that panicked took its connection with it.
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&pool.path).map_err(|_| StoreError::Closed)?,
            };
            let result = work(&connection);
            if !pool.permits.is_closed() {
                pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            drop(permit);
            result
        });
        reading.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(crate) async fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Batch>, StoreError> {
        let sealer = Arc::clone(&self.sealer);
        self.with(move |connection| read(connection, &sealer, partition, from, end, bytes_max)).await
    }

    pub(crate) async fn expired(&self, partition: TopicPartition, kept: Kept) -> Result<Expired, StoreError> {
        self.with(move |connection| Ok(super::retention::expired(connection, partition, kept)?)).await
    }

    /// Counts batches stored without a seal. They lie at the beginning of each log, so only they are looked at.
    pub(crate) async fn plaintext_batches(&self) -> Result<u64, StoreError> {
        let parts: Vec<i64> = self
            .with(|connection| {
                let mut statement = connection.prepare_cached("SELECT id FROM part")?;
                Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        let mut count = 0;
        for part in parts {
            count += self.with(move |connection| plaintext_of(connection, part)).await?;
        }
        Ok(count)
    }
}

fn plaintext_of(connection: &Connection, part: i64) -> Result<u64, StoreError> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM batch WHERE id >= ?1 << 40 AND id < coalesce((SELECT id FROM batch
                 WHERE id >= ?1 << 40 AND id < (?1 + 1) << 40 AND seal IS NOT NULL ORDER BY id LIMIT 1), (?1 + 1) << 40)",
        )?
        .query_row([part], |row| row.get(0))?;
    Ok(u64::try_from(count).expect("a count is not negative"))
}

fn read(
    connection: &Connection,
    sealer: &Sealer,
    partition: TopicPartition,
    from: Offset,
    end: Offset,
    bytes_max: usize,
) -> Result<Vec<Batch>, StoreError> {
    let clamp = |offset: Offset| i64::try_from(offset.min(OFFSET_END - 1)).expect("below 2^40");
    let topic = partition.topic.0.as_bytes();
    let mut statement = connection.prepare_cached(READ)?;
    let mut rows = statement.query(params![topic, partition.partition, clamp(from), clamp(end)])?;
    let mut batches = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        match batch_of(row, partition, sealer) {
            Ok(batch) => {
                let length = batch.bytes().len();
                if !batches.is_empty() && bytes + length > bytes_max {
                    break;
                }
                bytes += length;
                batches.push(batch);
            }
            // What lies before the damage is whole; the next read begins at the damage and says so.
            Err(StoreError::Corrupt { .. }) if !batches.is_empty() => break,
            Err(error) => return Err(error),
        }
        if bytes >= bytes_max {
            break;
        }
    }
    if batches.is_empty() && !is_stored(connection, partition)? {
        return Err(StoreError::UnknownPartition { partition });
    }
    Ok(batches)
}

fn is_stored(connection: &Connection, partition: TopicPartition) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS(SELECT 1 FROM part WHERE topic_id = ?1 AND no = ?2)")?
        .query_row(params![partition.topic.0.as_bytes(), partition.partition], |row| row.get(0))
}
