//! What a start finds on disk, and the cheap checks that it is whole.

use super::log::{BATCH_COLUMNS, Part, Parts, batch_id, batch_of, last_before};
use super::seal::Sealer;
use super::{OpenError, StoreError, producers};
use pubsub_core::ids::{LeaderEpoch, Offset, TopicId, TopicPartition};
use pubsub_core::partition::StoredReplica;
use rusqlite::{Connection, OptionalExtension};
use std::path::Path;
use uuid::Uuid;

/// Reads back all replicas. Checks that each log's last batch opens and ends at the log end, and that a batch holds the
/// log start; batches between are checked when they are read.
///
/// # Errors
/// [`OpenError::Damaged`] naming the replica, or SQLite's own.
pub(crate) fn recover(
    connection: &Connection,
    path: &Path,
    sealer: &Sealer,
) -> Result<(Parts, Vec<StoredReplica>), OpenError> {
    let failed = |source| OpenError::sqlite(path, source);
    let mut parts = stored_parts(connection).map_err(failed)?;
    let mut replicas = Vec::with_capacity(parts.live.len());
    for (partition, part) in &parts.live {
        check_log(connection, *partition, part, sealer).map_err(|error| match error {
            StoreError::Sqlite(source) => OpenError::sqlite(path, source),
            other => {
                OpenError::Damaged { path: path.to_owned(), partition: *partition, detail: other.to_string() }
            }
        })?;
        replicas.push(StoredReplica {
            partition: *partition,
            leader_epoch: part.leader_epoch,
            log_start: part.log_start,
            log_end: part.log_end,
            high_watermark: part.high_watermark,
            epochs: epochs(connection, part.id).map_err(failed)?,
            producers: producers::stored(connection, part.id).map_err(failed)?,
        });
        if has_leftovers(connection, part).map_err(failed)? {
            parts.trimmed.insert(*partition);
        }
    }
    Ok((parts, replicas))
}

fn stored_parts(connection: &Connection) -> rusqlite::Result<Parts> {
    let mut parts = Parts::default();
    let mut statement = connection
        .prepare("SELECT topic_id, no, id, leader_epoch, log_start, log_end, hw, bytes FROM part")?;
    let rows = statement.query_map([], |row| {
        let topic = TopicId(Uuid::from_bytes(row.get(0)?));
        let offset = |index: usize| -> rusqlite::Result<Offset> {
            let value: i64 = row.get(index)?;
            u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
        };
        let part = Part {
            id: row.get(2)?,
            leader_epoch: LeaderEpoch(row.get(3)?),
            log_start: offset(4)?,
            log_end: offset(5)?,
            high_watermark: offset(6)?,
            bytes: row.get(7)?,
        };
        Ok((TopicPartition { topic, partition: row.get(1)? }, part))
    })?;
    parts.live = rows.collect::<rusqlite::Result<_>>()?;
    let mut statement = connection.prepare("SELECT part FROM dropped")?;
    parts.dropped = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    parts.next_id = connection.query_row(
        "SELECT 1 + max(coalesce((SELECT max(id) FROM part), 0), coalesce((SELECT max(part) FROM dropped), 0),
             coalesce((SELECT max(id) >> 40 FROM batch), 0))",
        [],
        |row| row.get(0),
    )?;
    Ok(parts)
}

fn epochs(connection: &Connection, part: i64) -> rusqlite::Result<Vec<(LeaderEpoch, Offset)>> {
    let mut statement = connection.prepare_cached(
        "SELECT leader_epoch, start_offset FROM epoch WHERE part = ?1 ORDER BY leader_epoch",
    )?;
    let rows = statement.query_map([part], |row| {
        let start: i64 = row.get(1)?;
        let start = u64::try_from(start).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, start))?;
        Ok((LeaderEpoch(row.get(0)?), start))
    })?;
    rows.collect()
}

/// Returns whether the log's first batch lies below the log start: a trim that was not finished.
fn has_leftovers(connection: &Connection, part: &Part) -> rusqlite::Result<bool> {
    let ids = [batch_id(part.id, 0), batch_id(part.id, part.log_start)];
    connection
        .prepare_cached(
            "SELECT EXISTS(SELECT 1 FROM (SELECT id + count AS end FROM batch WHERE id >= ?1 AND id < ?2
                 ORDER BY id LIMIT 1) WHERE end <= ?2)",
        )?
        .query_row(ids, |row| row.get(0))
}

fn check_log(
    connection: &Connection,
    partition: TopicPartition,
    part: &Part,
    sealer: &Sealer,
) -> Result<(), StoreError> {
    let misfit = |detail: String| Err(StoreError::Misfit { partition, detail });
    let sql =
        format!("SELECT {BATCH_COLUMNS} FROM batch WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT 1");
    let range = [batch_id(part.id, 0), batch_id(part.id + 1, 0)];
    let last = connection
        .prepare_cached(&sql)?
        .query_row(range, |row| Ok(batch_of(row, partition, sealer)))
        .optional()?
        .transpose()?;
    // Batches below the log start may not be cleared away yet; they say nothing about an empty log.
    let end = last.map_or(part.log_start, |batch| batch.end_offset().max(part.log_start));
    if end != part.log_end || part.log_start > part.log_end {
        return misfit(format!("its last batch ends at {end}, the log should end at {}", part.log_end));
    }
    if part.log_start < part.log_end {
        let first = last_before(connection, part.id, part.log_start + 1)?;
        if first.is_none_or(|(base, count)| base + u64::from(count) <= part.log_start) {
            return misfit(format!("no batch holds the log start {}", part.log_start));
        }
    }
    Ok(())
}
