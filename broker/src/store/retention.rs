//! What of a log is more, or older, than its topic keeps. Only row headers are read, never records.

use super::log::{batch_id, integer};
use pubsub_core::ids::{Offset, TopicPartition};
use rusqlite::{Connection, OptionalExtension, params};

/// Batches looked at in one go; the next look goes on behind them.
const LOOK_BATCHES_MAX: i64 = 10_000;

/// What a topic keeps of each partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Bytes as stored; the newest batch stays whatever its size.
    pub(crate) bytes: Option<u64>,
    /// Batches whose newest record is not older than this, ms since 1970.
    pub(crate) since_ms: Option<i64>,
}

/// What a look at a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    /// Where the log should start, if later than it does.
    pub(crate) to: Option<Offset>,
    /// Timestamp of the newest record of the oldest batch that stays, ms since 1970; `None` if none stays or the look ended
    /// before it.
    pub(crate) oldest_ms: Option<i64>,
}

/// Looks from the log start on for the first batch that stays.
pub(super) fn expired(
    connection: &Connection,
    partition: TopicPartition,
    kept: Kept,
) -> rusqlite::Result<Expired> {
    // One state of the file: the writer deletes meanwhile, and what is gone must not be counted as there.
    let transaction = connection.unchecked_transaction()?;
    look(&transaction, partition, kept)
}

fn look(connection: &Connection, partition: TopicPartition, kept: Kept) -> rusqlite::Result<Expired> {
    let part = connection
        .prepare_cached("SELECT id, log_start, bytes FROM part WHERE topic_id = ?1 AND no = ?2")?
        .query_row(params![partition.topic.0.as_bytes(), partition.partition], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((part, log_start, bytes)) = part else { return Ok(Expired::default()) };
    let first: i64 = connection
        .prepare_cached("SELECT coalesce(max(id), ?1) FROM batch WHERE id >= ?1 AND id <= ?2")?
        .query_row([batch_id(part, 0), batch_id(part, 0) | log_start], |row| row.get(0))?;
    // Batches before it are deleted bit by bit, and counted until then.
    let leftover: i64 = connection
        .prepare_cached("SELECT coalesce(sum(length(data)), 0) FROM batch WHERE id >= ?1 AND id < ?2")?
        .query_row([batch_id(part, 0), first], |row| row.get(0))?;
    walk(connection, (first, batch_id(part + 1, 0)), bytes - leftover, kept)
}

fn walk(
    connection: &Connection,
    (first, end): (i64, i64),
    mut bytes: i64,
    kept: Kept,
) -> rusqlite::Result<Expired> {
    let bytes_max = kept.bytes.map_or(i64::MAX, |bytes| integer(bytes.min(i64::MAX.unsigned_abs())));
    let since_ms = kept.since_ms.unwrap_or(i64::MIN);
    let mut statement = connection.prepare_cached(
        "SELECT (id & 1099511627775) + count, max_ts, length(data) FROM batch WHERE id >= ?1 AND id < ?2
         ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query([first, end, LOOK_BATCHES_MAX])?;
    let mut found = Expired::default();
    while let Some(row) = rows.next()? {
        let (batch_end, max_ts, length): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let newest = bytes <= length;
        let too_many = bytes > bytes_max && !newest;
        if !too_many && max_ts >= since_ms {
            found.oldest_ms = Some(max_ts);
            break;
        }
        bytes -= length;
        found.to = u64::try_from(batch_end).ok();
    }
    Ok(found)
}
