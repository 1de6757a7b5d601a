//! Bytes of a [`ReplicateRequest`], the body of `POST /internal/replicate`. The reply is JSON.
//!
//! Integers are little-endian. A request is `from epoch u64 · to epoch u64 · item count u32` and its items; an item is
//! `topic 16 bytes · partition u32 · leader epoch u32 · from u64 · previous epoch u32 · high watermark u64 ·
//! log start u64 · length of the batches u32 · batches`, each batch being stored as [`crate::record`] specifies.

use crate::ids::{BrokerEpoch, LeaderEpoch, TopicId, TopicPartition};
use crate::limits::{REPLICATE_BODY_BYTES_MAX, REPLICATE_ITEM_BYTES};
use crate::record::{Batch, BatchError};
use crate::wire::internal::{ReplicateItem, ReplicateRequest};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

const REQUEST_BYTES: usize = 20;
const ITEM_BYTES: usize = 56;
const _: () = assert!(ITEM_BYTES <= REPLICATE_ITEM_BYTES, "the bound of an item without batches must hold");

/// Why bytes are not a replication request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicateDecodeError {
    /// More bytes than any request has.
    #[error("the request has {length} bytes, more than the limit")]
    TooLong {
        /// Bytes at hand.
        length: usize,
    },
    /// The bytes end within the request, or go on behind it.
    #[error("the request's length does not fit its contents: {have} bytes where {want} belong")]
    Length {
        /// Bytes left.
        have: usize,
        /// Bytes that belong there.
        want: usize,
    },
    /// A batch is damaged.
    #[error("a batch of item {item} is damaged")]
    Batch {
        /// Index of the item, from 0.
        item: usize,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
    /// Batches are not contiguous from the item's start.
    #[error("the batches of item {item} are not contiguous")]
    Gap {
        /// Index of the item, from 0.
        item: usize,
    },
}

/// Returns the request's bytes. The batches are copied once, into the body.
pub fn encode(request: &ReplicateRequest) -> Bytes {
    let batches = |item: &ReplicateItem| item.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
    let length = request.items.iter().map(|item| ITEM_BYTES + batches(item)).sum::<usize>();
    let mut bytes = BytesMut::with_capacity(REQUEST_BYTES + length);
    let field = |length: usize| u32::try_from(length).expect("requests are bounded by limits");
    bytes.put_u64_le(request.from_epoch.0);
    bytes.put_u64_le(request.to_epoch.0);
    bytes.put_u32_le(field(request.items.len()));
    for item in &request.items {
        bytes.put_slice(item.partition.topic.0.as_bytes());
        bytes.put_u32_le(item.partition.partition);
        bytes.put_u32_le(item.leader_epoch.0);
        bytes.put_u64_le(item.from);
        bytes.put_u32_le(item.prev_epoch.0);
        bytes.put_u64_le(item.high_watermark);
        bytes.put_u64_le(item.log_start);
        bytes.put_u32_le(field(batches(item)));
        for batch in &item.batches {
            bytes.put_slice(batch.bytes());
        }
    }
    bytes.freeze()
}

/// Reads a request and checks every batch in it. The batches share the memory of `bytes`.
///
/// # Errors
/// See [`ReplicateDecodeError`]; nothing is taken.
pub fn decode(mut bytes: Bytes) -> Result<ReplicateRequest, ReplicateDecodeError> {
    if bytes.len() > REPLICATE_BODY_BYTES_MAX {
        return Err(ReplicateDecodeError::TooLong { length: bytes.len() });
    }
    need(&bytes, REQUEST_BYTES)?;
    let from_epoch = BrokerEpoch(bytes.get_u64_le());
    let to_epoch = BrokerEpoch(bytes.get_u64_le());
    let count = usize::try_from(bytes.get_u32_le()).unwrap_or(usize::MAX);
    // The count is checked against the bytes that are there before anything is reserved for it.
    need(&bytes, count.saturating_mul(ITEM_BYTES))?;
    let mut items = Vec::with_capacity(count);
    for index in 0..count {
        items.push(decode_item(&mut bytes, index)?);
    }
    if bytes.is_empty() {
        Ok(ReplicateRequest { from_epoch, to_epoch, items })
    } else {
        Err(ReplicateDecodeError::Length { have: bytes.len(), want: 0 })
    }
}

fn need(bytes: &Bytes, want: usize) -> Result<(), ReplicateDecodeError> {
    let have = bytes.len();
    if have < want { Err(ReplicateDecodeError::Length { have, want }) } else { Ok(()) }
}

fn decode_item(bytes: &mut Bytes, item: usize) -> Result<ReplicateItem, ReplicateDecodeError> {
    need(bytes, ITEM_BYTES)?;
    let mut topic = [0; 16];
    bytes.copy_to_slice(&mut topic);
    let partition = TopicPartition { topic: TopicId(Uuid::from_bytes(topic)), partition: bytes.get_u32_le() };
    let leader_epoch = LeaderEpoch(bytes.get_u32_le());
    let from = bytes.get_u64_le();
    let prev_epoch = LeaderEpoch(bytes.get_u32_le());
    let high_watermark = bytes.get_u64_le();
    let log_start = bytes.get_u64_le();
    let length = usize::try_from(bytes.get_u32_le()).unwrap_or(usize::MAX);
    need(bytes, length)?;
    let mut body = bytes.split_to(length);
    let mut batches: Vec<Batch> = Vec::new();
    let mut end = from;
    while !body.is_empty() {
        let batch =
            Batch::decode(body.clone()).map_err(|source| ReplicateDecodeError::Batch { item, source })?;
        if batch.base_offset() != end {
            return Err(ReplicateDecodeError::Gap { item });
        }
        end = batch.end_offset();
        body.advance(batch.bytes().len());
        batches.push(batch);
    }
    Ok(ReplicateItem { partition, leader_epoch, from, prev_epoch, batches, high_watermark, log_start })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::{BatchBuilder, ValueKind};
    use proptest::prelude::*;

    fn batch(base_offset: u64, records: u32, epoch: u32) -> Batch {
        let mut builder = BatchBuilder::new();
        for index in 0..records {
            builder.push(Some(b"k"), b"", ValueKind::Bytes, &index.to_le_bytes());
        }
        builder.build(base_offset, LeaderEpoch(epoch), 9).unwrap()
    }

    fn request(shape: &[(u128, u32, u32, u64, Vec<u32>)]) -> ReplicateRequest {
        let items = shape.iter().map(|(topic, partition, epoch, from, counts)| {
            let mut end = *from;
            let batches = counts.iter().map(|count| {
                let batch = batch(end, *count, *epoch);
                end = batch.end_offset();
                batch
            });
            ReplicateItem {
                partition: TopicPartition { topic: TopicId(Uuid::from_u128(*topic)), partition: *partition },
                leader_epoch: LeaderEpoch(*epoch),
                from: *from,
                prev_epoch: LeaderEpoch(epoch / 2),
                batches: batches.collect(),
                high_watermark: from / 2,
                log_start: from / 3,
            }
        });
        ReplicateRequest { from_epoch: BrokerEpoch(7), to_epoch: BrokerEpoch(8), items: items.collect() }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back_unchanged(shape in prop::collection::vec(
            (any::<u128>(), any::<u32>(), any::<u32>(), 0..u64::MAX / 2, prop::collection::vec(1_u32..4, 0..3)), 0..4)) {
            let request = request(&shape);
            prop_assert_eq!(decode(encode(&request)).unwrap(), request);
        }

        #[test]
        fn a_changed_or_missing_byte_never_panics(at in any::<prop::sample::Index>(), value: u8, cut: bool) {
            let whole = encode(&request(&[(1, 2, 3, 40, vec![2, 1])]));
            let at = at.index(whole.len());
            let mut bytes = BytesMut::from(&whole[..]);
            if cut {
                bytes.truncate(at);
                prop_assert!(decode(bytes.freeze()).is_err());
            } else {
                bytes[at] = value;
                // Any outcome is right: header fields have no checksum.
                let _ = decode(bytes.freeze());
            }
        }
    }

    #[test]
    fn a_batch_damaged_on_the_way_is_refused() {
        let mut bytes = BytesMut::from(&encode(&request(&[(1, 2, 3, 40, vec![2])]))[..]);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = decode(bytes.freeze()).unwrap_err();
        assert!(matches!(
            error,
            ReplicateDecodeError::Batch { item: 0, source: BatchError::Checksum { .. } }
        ));
    }

    #[test]
    fn batches_that_do_not_start_where_the_item_says_are_refused() {
        let mut wrong = request(&[(1, 2, 3, 40, vec![2, 1])]);
        wrong.items[0].from = 41;
        assert_eq!(decode(encode(&wrong)), Err(ReplicateDecodeError::Gap { item: 0 }));
    }

    #[test]
    fn an_invented_item_count_reserves_nothing() {
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(1);
        bytes.put_u64_le(1);
        bytes.put_u32_le(u32::MAX);
        assert!(matches!(decode(bytes.freeze()), Err(ReplicateDecodeError::Length { .. })));
    }
}
