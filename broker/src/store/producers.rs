//! What is remembered of idempotent producers: rows beside a log, changed in the transactions that change the log.

use super::log::integer;
use pubsub_core::ids::Offset;
use pubsub_core::partition::ProducerBatch;
use pubsub_core::record::Producer;
use rusqlite::{Connection, params};
use uuid::Uuid;

/// Remembers a batch that is appended.
pub(super) fn remember(connection: &Connection, part: i64, batch: &ProducerBatch) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO producer_batch(part, pid, base_offset, pepoch, first_seq, count, ts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            part,
            batch.producer.id.as_bytes(),
            integer(batch.base_offset),
            batch.producer.epoch,
            batch.producer.first_sequence,
            batch.count,
            batch.timestamp_ms,
        ])?;
    Ok(())
}

/// Forgets what begins at and above a log's new end.
pub(super) fn truncate(connection: &Connection, part: i64, end: Offset) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM producer_batch WHERE part = ?1 AND base_offset >= ?2")?
        .execute(params![part, integer(end)])?;
    Ok(())
}

/// Forgets of each producer what lies below its offset.
pub(super) fn forget(
    connection: &Connection,
    part: i64,
    forgotten: &[(Uuid, Offset)],
) -> rusqlite::Result<()> {
    for (producer, below) in forgotten {
        connection
            .prepare_cached("DELETE FROM producer_batch WHERE part = ?1 AND pid = ?2 AND base_offset < ?3")?
            .execute(params![part, producer.as_bytes(), i64::try_from(*below).unwrap_or(i64::MAX)])?;
    }
    Ok(())
}

/// Forgets everything of a log that is dropped.
pub(super) fn drop_all(connection: &Connection, part: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM producer_batch WHERE part = ?1")?.execute([part])?;
    Ok(())
}

/// Reads back what is remembered, in the order of the log.
pub(super) fn stored(connection: &Connection, part: i64) -> rusqlite::Result<Vec<ProducerBatch>> {
    let mut statement = connection.prepare_cached(
        "SELECT pid, pepoch, first_seq, count, base_offset, ts FROM producer_batch WHERE part = ?1 ORDER BY base_offset",
    )?;
    let rows = statement.query_map([part], |row| {
        let base: i64 = row.get(4)?;
        let base_offset =
            u64::try_from(base).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(4, base))?;
        let producer =
            Producer { id: Uuid::from_bytes(row.get(0)?), epoch: row.get(1)?, first_sequence: row.get(2)? };
        Ok(ProducerBatch { producer, count: row.get(3)?, base_offset, timestamp_ms: row.get(5)? })
    })?;
    rows.collect()
}
