//! The record and the record batch: one format on the wire, in SQLite, in replication and in poll answers.
//!
//! Integers are little-endian. `docs/record-batch.md` specifies the bytes and gives test vectors.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `PSB1` |
//! | 4..8 | length | bytes of the whole batch, header included |
//! | 8..16 | base offset | set by the leader |
//! | 16..20 | leader epoch | set by the leader |
//! | 20..28 | base timestamp | ms since 1970, set by the leader |
//! | 28..36 | max timestamp | ms since 1970, set by the leader |
//! | 36..40 | crc | CRC-32C of bytes 40..length |
//! | 40..42 | flags | bits 0–2 compression (0 none); all others 0 |
//! | 42..44 | producer epoch | |
//! | 44..48 | count | records in the batch |
//! | 48..64 | producer id | all zero: none |
//! | 64..68 | first sequence | of the producer |
//! | 68.. | frames | |
//!
//! A frame is `length u32 · offset delta u32 · timestamp delta u32 · kind u8 · key length u32 · headers length u32 ·
//! key · headers · value`; length counts what follows it. `kind`: bits 0–1 value kind (0 none, 1 JSON text, 2 bytes),
//! bit 7 a key is present. `headers` is empty or the text of one JSON object.

use crate::ids::{LeaderEpoch, Offset};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 68;
/// Bytes of a frame before its key, length field included.
pub const FRAME_BYTES: usize = 21;
const MAGIC: &[u8; 4] = b"PSB1";
const CRC_FROM: usize = 40;
const KIND_HAS_KEY: u8 = 0x80;

/// How a record's value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// No value: a tombstone in a compacted topic.
    None,
    /// The text of one JSON value.
    Json,
    /// Any bytes.
    Bytes,
}

/// One record inside a batch, borrowing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Position in the partition.
    pub offset: Offset,
    /// When the leader took it, ms since 1970.
    pub timestamp_ms: i64,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Empty, or the text of one JSON object.
    pub headers: &'a [u8],
    /// How `value` is to be read.
    pub kind: ValueKind,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header says.
    #[error("the batch ends early: {have} of {want} bytes")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// Not a batch, or of an unknown version.
    #[error("the batch does not start with PSB1")]
    Magic,
    /// Checksum mismatch: the bytes changed after they were written.
    #[error("the batch's checksum is {found:08x}, its header says {expected:08x}")]
    Checksum {
        /// As computed.
        found: u32,
        /// As stored.
        expected: u32,
    },
    /// A frame reaches past the batch, or counts and deltas do not agree.
    #[error("frame {frame} of the batch is malformed")]
    Frame {
        /// Index of the frame, from 0.
        frame: u32,
    },
    /// More records or bytes than `limits` allow, or none at all.
    #[error("the batch holds {count} records in {length} bytes, outside the limits")]
    Limits {
        /// Records as counted.
        count: u32,
        /// Bytes of the batch.
        length: usize,
    },
    /// Flags of a newer version, or a compression that this build does not read.
    #[error("the batch has unknown flags {flags:#06x}")]
    Flags {
        /// As found.
        flags: u16,
    },
}

/// A checked record batch; cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch[{}..{} e{}]", self.base_offset(), self.end_offset(), self.leader_epoch())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn crc(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).expect("32 bits")
}

impl Batch {
    /// Checks header, checksum, limits and every frame of the batch at the start of `bytes`, and takes exactly its bytes.
    ///
    /// # Errors
    /// See [`BatchError`]; nothing is taken.
    pub fn decode(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::decode_header(bytes)?;
        let expected = u32_at(&batch.bytes, 36);
        let found = crc(&batch.bytes[CRC_FROM..]);
        if found != expected {
            return Err(BatchError::Checksum { found, expected });
        }
        batch.check_frames()?;
        Ok(batch)
    }

    /// As [`Batch::decode`], but trusts the checksum and the frames: for bytes that this process has checked before.
    ///
    /// # Errors
    /// See [`BatchError`]; only header and length are looked at.
    pub fn decode_header(mut bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Short { have: bytes.len(), want: HEADER_BYTES });
        }
        if &bytes[..4] != MAGIC {
            return Err(BatchError::Magic);
        }
        let length = u32_at(&bytes, 4) as usize;
        if length < HEADER_BYTES || bytes.len() < length {
            return Err(BatchError::Short { have: bytes.len(), want: length.max(HEADER_BYTES) });
        }
        bytes.truncate(length);
        let batch = Self { bytes };
        let flags = u16::from_le_bytes([batch.bytes[40], batch.bytes[41]]);
        if flags != 0 {
            return Err(BatchError::Flags { flags });
        }
        let count = batch.count();
        if count == 0
            || count as usize > crate::limits::BATCH_RECORDS_MAX
            || length > crate::limits::BATCH_BYTES_MAX
            || batch.base_offset().checked_add(u64::from(count)).is_none()
        {
            return Err(BatchError::Limits { count, length });
        }
        Ok(batch)
    }

    fn check_frames(&self) -> Result<(), BatchError> {
        let mut at = HEADER_BYTES;
        for frame in 0..self.count() {
            let end = frame_end(&self.bytes, at).ok_or(BatchError::Frame { frame })?;
            if u32_at(&self.bytes, at + 4) != frame {
                return Err(BatchError::Frame { frame });
            }
            at = end;
        }
        if at == self.bytes.len() { Ok(()) } else { Err(BatchError::Frame { frame: self.count() }) }
    }

    /// Returns the batch's bytes, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// Returns the offset of the first record.
    pub fn base_offset(&self) -> Offset {
        u64_at(&self.bytes, 8)
    }
    /// Returns the offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset() + u64::from(self.count())
    }
    /// Returns the number of records.
    pub fn count(&self) -> u32 {
        u32_at(&self.bytes, 44)
    }
    /// Returns the epoch of the leader that appended the batch.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(u32_at(&self.bytes, 16))
    }
    /// Returns the latest timestamp in the batch, ms since 1970.
    pub fn max_timestamp_ms(&self) -> i64 {
        u64_at(&self.bytes, 28).cast_signed()
    }
    /// Returns the stored checksum of everything behind it.
    pub fn checksum(&self) -> u32 {
        u32_at(&self.bytes, 36)
    }
    /// Returns the producer's id; all zero means none.
    pub fn producer_id(&self) -> uuid::Uuid {
        uuid::Uuid::from_slice(&self.bytes[48..64]).expect("sixteen bytes")
    }
    /// Returns what an idempotent producer said of the batch; `None` if it is not one's.
    pub fn producer(&self) -> Option<Producer> {
        let id = self.producer_id();
        let epoch = u16::from_le_bytes([self.bytes[42], self.bytes[43]]);
        (!id.is_nil()).then(|| Producer { id, epoch, first_sequence: u32_at(&self.bytes, 64) })
    }

    /// Returns the same records placed at `base_offset` under `epoch`, stamped `timestamp_ms`; frames are untouched.
    pub fn placed(&self, base_offset: Offset, epoch: LeaderEpoch, timestamp_ms: i64) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[8..16].copy_from_slice(&base_offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&epoch.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&timestamp_ms.to_le_bytes());
        bytes[28..36].copy_from_slice(&timestamp_ms.to_le_bytes());
        Self { bytes: bytes.freeze() }
    }

    /// Iterates over the records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = HEADER_BYTES;
        let base_timestamp = u64_at(&self.bytes, 20).cast_signed();
        (0..self.count()).map(move |_| {
            let record = self.record_at(at, base_timestamp);
            at += 4 + u32_at(&self.bytes, at) as usize;
            record
        })
    }

    fn record_at(&self, at: usize, base_timestamp: i64) -> Record<'_> {
        let end = at + 4 + u32_at(&self.bytes, at) as usize;
        let kind = self.bytes[at + 12];
        let key_end = at + FRAME_BYTES + u32_at(&self.bytes, at + 13) as usize;
        let headers_end = key_end + u32_at(&self.bytes, at + 17) as usize;
        Record {
            offset: self.base_offset() + u64::from(u32_at(&self.bytes, at + 4)),
            // Until the leader places the batch, its base timestamp is whatever a client sent.
            timestamp_ms: base_timestamp.saturating_add(i64::from(u32_at(&self.bytes, at + 8))),
            key: (kind & KIND_HAS_KEY != 0).then(|| &self.bytes[at + FRAME_BYTES..key_end]),
            headers: &self.bytes[key_end..headers_end],
            kind: match kind & 3 {
                0 => ValueKind::None,
                1 => ValueKind::Json,
                _ => ValueKind::Bytes,
            },
            value: &self.bytes[headers_end..end],
        }
    }
}

/// Returns where the frame at `at` ends if it lies within the bytes and its parts fit into it.
fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.len() < at.checked_add(FRAME_BYTES)? {
        return None;
    }
    let end = at.checked_add(4)?.checked_add(u32_at(bytes, at) as usize)?;
    let parts = u64::from(u32_at(bytes, at + 13)) + u64::from(u32_at(bytes, at + 17)) + FRAME_BYTES as u64;
    let kind = bytes[at + 12];
    let known = kind & !(KIND_HAS_KEY | 3) == 0 && kind & 3 != 3;
    (end <= bytes.len() && at as u64 + parts <= end as u64 && known).then_some(end)
}

/// Builds a batch from records; offsets and timestamps are left for the leader ([`Batch::placed`]).
#[derive(Debug, Default)]
pub struct BatchBuilder {
    frames: BytesMut,
    count: u32,
    producer: Option<Producer>,
}

/// What an idempotent producer says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Chosen by the producer; not all zero.
    pub id: uuid::Uuid,
    /// Grows when a producer of the same id takes over.
    pub epoch: u16,
    /// Sequence of the batch's first record.
    pub first_sequence: u32,
}

impl BatchBuilder {
    /// Makes an empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks the batch as an idempotent producer's.
    pub fn producer(&mut self, producer: Producer) -> &mut Self {
        self.producer = Some(producer);
        self
    }

    /// Adds one record. `headers` is empty or the text of a JSON object.
    pub fn push(&mut self, key: Option<&[u8]>, headers: &[u8], kind: ValueKind, value: &[u8]) -> &mut Self {
        let key_bytes = key.unwrap_or_default();
        let length = FRAME_BYTES - 4 + key_bytes.len() + headers.len() + value.len();
        let field = |length: usize| u32::try_from(length).expect("records are bounded by limits");
        self.frames.reserve(length + 4);
        self.frames.put_u32_le(field(length));
        self.frames.put_u32_le(self.count);
        self.frames.put_u32_le(0);
        let kind_bits = match kind {
            ValueKind::None => 0,
            ValueKind::Json => 1,
            ValueKind::Bytes => 2,
        };
        self.frames.put_u8(kind_bits | if key.is_some() { KIND_HAS_KEY } else { 0 });
        self.frames.put_u32_le(field(key_bytes.len()));
        self.frames.put_u32_le(field(headers.len()));
        self.frames.put_slice(key_bytes);
        self.frames.put_slice(headers);
        self.frames.put_slice(value);
        self.count += 1;
        self
    }

    /// Adds all records of `batch` behind those already here, so that single publishes share a commit.
    pub fn append(&mut self, batch: &Batch) -> &mut Self {
        let first = self.count;
        let start = self.frames.len();
        self.frames.put_slice(&batch.bytes[HEADER_BYTES..]);
        let mut at = start;
        for index in 0..batch.count() {
            self.frames[at + 4..at + 8].copy_from_slice(&(first + index).to_le_bytes());
            at += 4 + u32_at(&self.frames, at) as usize;
        }
        self.count += batch.count();
        self
    }

    /// Returns the number of records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the bytes that the finished batch will have.
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.frames.len()
    }

    /// Returns whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Finishes the batch under the given place; see [`Batch::placed`] for the arguments.
    ///
    /// # Errors
    /// [`BatchError::Limits`] when empty, or larger than `limits` allow.
    pub fn build(
        self,
        base_offset: Offset,
        epoch: LeaderEpoch,
        timestamp_ms: i64,
    ) -> Result<Batch, BatchError> {
        let length = self.len();
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(MAGIC);
        bytes
            .put_u32_le(u32::try_from(length).map_err(|_| BatchError::Limits { count: self.count, length })?);
        bytes.put_u64_le(base_offset);
        bytes.put_u32_le(epoch.0);
        bytes.put_i64_le(timestamp_ms);
        bytes.put_i64_le(timestamp_ms);
        bytes.put_u32_le(0);
        bytes.put_u16_le(0);
        bytes.put_u16_le(self.producer.map_or(0, |producer| producer.epoch));
        bytes.put_u32_le(self.count);
        bytes.put_slice(self.producer.map_or(uuid::Uuid::nil(), |producer| producer.id).as_bytes());
        bytes.put_u32_le(self.producer.map_or(0, |producer| producer.first_sequence));
        bytes.put_slice(&self.frames);
        let sum = crc(&bytes[CRC_FROM..]);
        bytes[36..40].copy_from_slice(&sum.to_le_bytes());
        Batch::decode_header(bytes.freeze())
    }
}

#[cfg(test)]
mod tests;
