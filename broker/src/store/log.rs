//! How one replica's change becomes rows, and how rows become batches again.

use super::schema::{OFFSET_BITS, OFFSET_END, PART_END};
use super::seal::Sealer;
use super::{StoreError, producers};
use bytes::Bytes;
use pubsub_core::ids::{LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::{ProducerBatch, ReplicaWrite};
use pubsub_core::record::Batch;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, BTreeSet};

/// Columns that [`batch_of`] reads, in its order.
pub(crate) const BATCH_COLUMNS: &str = "id, count, leader_epoch, base_ts, max_ts, crc, seal, data";

/// What the writer knows of one stored replica; the same as its row in `part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: i64,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) bytes: i64,
}

/// All replicas and what is still to be cleared away. A transaction works on a copy of what it touches, see [`Change`].
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) live: BTreeMap<TopicPartition, Part>,
    /// Rows whose batches may go, all of them.
    pub(crate) dropped: BTreeSet<i64>,
    /// Replicas with whole batches below their log start.
    pub(crate) trimmed: BTreeSet<TopicPartition>,
    /// No row has had this number or a higher one while its batches are still there.
    pub(crate) next_id: i64,
}

/// What one transaction changes in [`Parts`]; taken over only once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Change {
    touched: BTreeMap<TopicPartition, Option<Part>>,
    dropped: Vec<i64>,
    trimmed: Vec<TopicPartition>,
    next_id: i64,
}

/// One batch as it goes into its row: sealed (or not) before it reaches the writer.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    batch: Batch,
    stored: Bytes,
    seal: Option<i64>,
}

/// A [`ReplicaWrite`] whose batches are sealed.
#[derive(Debug)]
pub(crate) struct SealedWrite {
    pub(crate) write: ReplicaWrite,
    pub(crate) batches: Vec<SealedBatch>,
}

impl SealedWrite {
    pub(crate) fn new(mut write: ReplicaWrite, sealer: &Sealer) -> Self {
        let seal = |batch: Batch| {
            let (stored, seal) = sealer.seal(write.partition, &batch);
            SealedBatch { batch, stored, seal }
        };
        let batches = std::mem::take(&mut write.batches).into_iter().map(seal).collect();
        Self { write, batches }
    }

    /// Returns the stored bytes of the batches.
    pub(crate) fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.stored.len()).sum()
    }

    /// Returns the number of batches and of records.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.batches.iter().fold((0, 0), |(batches, records), sealed| {
            (batches + 1, records + u64::from(sealed.batch.count()))
        })
    }
}

/// Returns an offset or another count as SQLite stores it.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).expect("offsets are checked against their 40 bits")
}

/// Returns the first id of a row's batches at and above `offset`. Also the end of the ids below it.
pub(crate) fn batch_id(part: i64, offset: Offset) -> i64 {
    (part << OFFSET_BITS) | integer(offset)
}

fn base_offset(id: i64) -> Offset {
    u64::try_from(id & integer(OFFSET_END - 1)).expect("masked to 40 bits")
}

/// Returns when a batch's records were stamped first; the header's field has no accessor, because only storage needs it.
fn base_timestamp_ms(batch: &Batch) -> i64 {
    i64::from_le_bytes(batch.bytes()[20..28].try_into().expect("a batch has a header"))
}

impl Change {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self { next_id: parts.next_id, ..Self::default() }
    }

    fn part(&self, parts: &Parts, partition: TopicPartition) -> Option<Part> {
        match self.touched.get(&partition) {
            Some(part) => *part,
            None => parts.live.get(&partition).copied(),
        }
    }

    /// Takes the change over, after its transaction was committed.
    pub(crate) fn settle(self, parts: &mut Parts) {
        for (partition, part) in self.touched {
            match part {
                Some(part) => parts.live.insert(partition, part),
                None => parts.live.remove(&partition),
            };
        }
        parts.dropped.extend(self.dropped);
        parts.trimmed.extend(self.trimmed);
        parts.next_id = self.next_id;
    }

    /// Does one replica's change within the open transaction of `connection`.
    ///
    /// # Errors
    /// [`StoreError::Misfit`] when it contradicts what is stored, or SQLite's own; the transaction must be rolled back.
    pub(crate) fn apply(
        &mut self,
        connection: &Connection,
        parts: &Parts,
        sealed: &SealedWrite,
    ) -> Result<(), StoreError> {
        let write = &sealed.write;
        let partition = write.partition;
        let stored = self.part(parts, partition);
        if write.delete {
            if let Some(part) = stored {
                self.drop_rows(connection, partition, part)?;
                self.touched.insert(partition, None);
                forget_topic(connection, partition)?;
            }
            return if sealed.batches.is_empty() {
                Ok(())
            } else {
                misfit(partition, "batches in a deletion")
            };
        }
        if let Some(end) = [write.log_end, write.log_start].into_iter().find(|end| *end >= OFFSET_END) {
            return misfit(
                partition,
                &format!("offset {end} is past the {OFFSET_END} that a file can number"),
            );
        }
        if let Some(part) = stored
            && write.leader_epoch < part.leader_epoch
        {
            let text = format!("leader epoch {} after {} was adopted", write.leader_epoch, part.leader_epoch);
            return misfit(partition, &text);
        }
        let mut part = match stored {
            Some(part) => part,
            None => self.found(partition)?,
        };
        if let Some(end) = write.truncate_to {
            truncate(connection, partition, &mut part, end)?;
        }
        if let Some(start) = write.reset_to {
            if stored.is_some() {
                self.drop_rows(connection, partition, part)?;
                part = self.found(partition)?;
            }
            (part.log_start, part.log_end) = (start, start);
        }
        enter_epochs(connection, part.id, &write.epoch_starts)?;
        for batch in &sealed.batches {
            append(connection, partition, &mut part, batch)?;
        }
        producers::forget(connection, part.id, &write.forgotten)?;
        if part.log_end != write.log_end {
            return misfit(partition, &format!("the log ends at {}, not at {}", part.log_end, write.log_end));
        }
        if write.log_start < part.log_start || write.log_start > part.log_end {
            let Part { log_start, log_end, .. } = part;
            return misfit(
                partition,
                &format!("log start {} outside [{log_start}, {log_end}]", write.log_start),
            );
        }
        if write.log_start > part.log_start {
            self.trimmed.push(partition);
        }
        part.leader_epoch = write.leader_epoch;
        part.log_start = write.log_start;
        part.high_watermark = write.high_watermark;
        save(connection, partition, &part)?;
        self.touched.insert(partition, Some(part));
        Ok(())
    }

    /// Returns a new, empty replica under a row number of its own.
    fn found(&mut self, partition: TopicPartition) -> Result<Part, StoreError> {
        let id = self.next_id;
        if id >= PART_END {
            return misfit(
                partition,
                "the file has no partition numbers left; VACUUM INTO does not help, start a new volume",
            );
        }
        self.next_id += 1;
        Ok(Part { id, leader_epoch: LeaderEpoch(0), log_start: 0, log_end: 0, high_watermark: 0, bytes: 0 })
    }

    /// Forgets a replica's rows but for its batches, which are cleared away bit by bit: no reader finds them any more.
    fn drop_rows(
        &mut self,
        connection: &Connection,
        partition: TopicPartition,
        part: Part,
    ) -> Result<(), StoreError> {
        connection
            .prepare_cached("DELETE FROM part WHERE topic_id = ?1 AND no = ?2")?
            .execute(params![partition.topic.0.as_bytes(), partition.partition])?;
        connection.prepare_cached("DELETE FROM epoch WHERE part = ?1")?.execute([part.id])?;
        producers::drop_all(connection, part.id)?;
        connection.prepare_cached("INSERT OR IGNORE INTO dropped(part) VALUES (?1)")?.execute([part.id])?;
        self.dropped.push(part.id);
        Ok(())
    }
}

fn misfit<T>(partition: TopicPartition, detail: &str) -> Result<T, StoreError> {
    Err(StoreError::Misfit { partition, detail: detail.to_owned() })
}

fn forget_topic(connection: &Connection, partition: TopicPartition) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM topic_name WHERE topic_id = ?1 AND NOT EXISTS(SELECT 1 FROM part WHERE topic_id = ?1)",
        )?
        .execute([partition.topic.0.as_bytes()])?;
    Ok(())
}

/// Drops batches and epoch starts at and above `end`, which must lie between two batches: half a batch can't be kept.
fn truncate(
    connection: &Connection,
    partition: TopicPartition,
    part: &mut Part,
    end: Offset,
) -> Result<(), StoreError> {
    if end >= part.log_end {
        return drop_epochs(connection, part.id, end);
    }
    if end < part.log_start {
        return misfit(partition, &format!("truncation to {end} below the log start {}", part.log_start));
    }
    if let Some((base, count)) = last_before(connection, part.id, end)?
        && base + u64::from(count) > end
    {
        return misfit(partition, &format!("truncation to {end} inside the batch at {base}"));
    }
    let (low, high) = (batch_id(part.id, end), batch_id(part.id + 1, 0));
    let freed: i64 = connection
        .prepare_cached("SELECT coalesce(sum(length(data)), 0) FROM batch WHERE id >= ?1 AND id < ?2")?
        .query_row([low, high], |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM batch WHERE id >= ?1 AND id < ?2")?.execute([low, high])?;
    part.log_end = end;
    part.bytes -= freed;
    producers::truncate(connection, part.id, end)?;
    drop_epochs(connection, part.id, end)
}

fn enter_epochs(
    connection: &Connection,
    part: i64,
    starts: &[(LeaderEpoch, Offset)],
) -> rusqlite::Result<()> {
    for (epoch, start) in starts {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO epoch(part, leader_epoch, start_offset) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![part, epoch.0, integer((*start).min(OFFSET_END))])?;
    }
    Ok(())
}

fn drop_epochs(connection: &Connection, part: i64, end: Offset) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM epoch WHERE part = ?1 AND start_offset >= ?2")?
        .execute([part, integer(end.min(OFFSET_END))])?;
    Ok(())
}

/// Returns base offset and count of the last batch that begins below `end`.
pub(crate) fn last_before(
    connection: &Connection,
    part: i64,
    end: Offset,
) -> rusqlite::Result<Option<(Offset, u32)>> {
    connection
        .prepare_cached("SELECT id, count FROM batch WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT 1")?
        .query_row([batch_id(part, 0), batch_id(part, end)], |row| {
            Ok((base_offset(row.get(0)?), row.get(1)?))
        })
        .optional()
}

fn append(
    connection: &Connection,
    partition: TopicPartition,
    part: &mut Part,
    sealed: &SealedBatch,
) -> Result<(), StoreError> {
    let batch = &sealed.batch;
    if batch.base_offset() != part.log_end || batch.end_offset() >= OFFSET_END {
        return misfit(partition, &format!("{batch:?} does not follow the log end {}", part.log_end));
    }
    let producer = batch.producer_id();
    connection
        .prepare_cached(
            "INSERT INTO batch(id, count, leader_epoch, base_ts, max_ts, producer, crc, flags, seal, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9)",
        )?
        .execute(params![
            batch_id(part.id, batch.base_offset()),
            batch.count(),
            batch.leader_epoch().0,
            base_timestamp_ms(batch),
            batch.max_timestamp_ms(),
            (!producer.is_nil()).then(|| producer.into_bytes()),
            batch.checksum(),
            sealed.seal,
            &sealed.stored[..],
        ])?;
    if let Some(remembered) = ProducerBatch::of(batch) {
        producers::remember(connection, part.id, &remembered)?;
    }
    part.log_end = batch.end_offset();
    part.bytes += i64::try_from(sealed.stored.len()).expect("batches are bounded by limits");
    Ok(())
}

/// Writes the replica's row.
pub(crate) fn save(connection: &Connection, partition: TopicPartition, part: &Part) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO part(id, topic_id, no, leader_epoch, log_start, log_end, hw, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT(id) DO UPDATE SET leader_epoch = excluded.leader_epoch, log_start = excluded.log_start,
                 log_end = excluded.log_end, hw = excluded.hw, bytes = excluded.bytes",
        )?
        .execute(params![
            part.id,
            partition.topic.0.as_bytes(),
            partition.partition,
            part.leader_epoch.0,
            integer(part.log_start),
            integer(part.log_end),
            integer(part.high_watermark.min(OFFSET_END)),
            part.bytes,
        ])?;
    Ok(())
}

/// Makes the batch of a row with [`BATCH_COLUMNS`], after checking every byte of it: the checksum covers the frames, the
/// columns cover the header.
///
/// # Errors
/// [`StoreError::Corrupt`], or SQLite's own.
pub(crate) fn batch_of(
    row: &Row<'_>,
    partition: TopicPartition,
    sealer: &Sealer,
) -> Result<Batch, StoreError> {
    let base_offset = base_offset(row.get(0)?);
    let corrupt = |detail: String| StoreError::Corrupt { partition, base_offset, detail };
    let count: u32 = row.get(1)?;
    let data = row.get_ref(7)?.as_blob().map_err(|_| corrupt("not a blob".to_owned()))?;
    let (bytes, length) = match row.get::<_, Option<i64>>(6)? {
        None => (Bytes::copy_from_slice(data), data.len()),
        Some(seal) => {
            let opened = sealer
                .open_batch(partition, base_offset, count, seal, data)
                .map_err(|_| corrupt("its seal is broken".to_owned()))?;
            let length = opened.len();
            (opened, length)
        }
    };
    let batch = Batch::decode(bytes).map_err(|error| corrupt(error.to_string()))?;
    let agrees = batch.base_offset() == base_offset
        && batch.count() == count
        && batch.bytes().len() == length
        && batch.leader_epoch().0 == row.get::<_, u32>(2)?
        && base_timestamp_ms(&batch) == row.get::<_, i64>(3)?
        && batch.max_timestamp_ms() == row.get::<_, i64>(4)?
        && batch.checksum() == row.get::<_, u32>(5)?;
    if agrees { Ok(batch) } else { Err(corrupt("its header does not agree with its row".to_owned())) }
}
