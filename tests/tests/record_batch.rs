//! The test vector of `docs/record-batch.md`: writers and readers of the format can check themselves against it.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use pubsub_core::ids::LeaderEpoch;
use pubsub_core::record::{
    Batch, BatchBuilder, BatchError, FRAME_BYTES, HEADER_BYTES, Producer, Record, ValueKind,
};
use uuid::Uuid;

const BASE_OFFSET: u64 = 42;
const LEADER_EPOCH: LeaderEpoch = LeaderEpoch(7);
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// Returns the bytes of the document's first block of hexadecimal digits; what follows two spaces and `;` is a remark.
fn documented() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/record-batch.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    let digits: String = block.lines().map(|line| line.split(';').next().unwrap()).collect();
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn built() -> Batch {
    let mut builder = BatchBuilder::new();
    builder.producer(Producer {
        id: Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00),
        epoch: 1,
        first_sequence: 5,
    });
    builder.push(Some(b"user-1"), br#"{"a":"b"}"#, ValueKind::Json, br#"{"n":1}"#);
    builder.push(None, b"", ValueKind::Bytes, b"\x00\xff");
    builder.push(Some(b""), b"", ValueKind::None, b"");
    builder.build(BASE_OFFSET, LEADER_EPOCH, TIMESTAMP_MS).unwrap()
}

#[test]
fn the_encoder_writes_the_documented_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(built().bytes()), hex(&documented()));
}

#[test]
fn the_decoder_reads_the_documented_records() {
    let batch = Batch::decode(Bytes::from(documented())).unwrap();
    assert_eq!((batch.base_offset(), batch.end_offset(), batch.leader_epoch()), (42, 45, LEADER_EPOCH));
    let record = |offset, key, headers, kind, value| Record {
        offset,
        timestamp_ms: TIMESTAMP_MS,
        key,
        headers,
        kind,
        value,
    };
    let expected = [
        record(42, Some(&b"user-1"[..]), &br#"{"a":"b"}"#[..], ValueKind::Json, &br#"{"n":1}"#[..]),
        record(43, None, b"", ValueKind::Bytes, b"\x00\xff"),
        record(44, Some(b""), b"", ValueKind::None, b""),
    ];
    assert_eq!(batch.records().collect::<Vec<_>>(), expected);
}

#[test]
fn placing_a_batch_changes_bytes_8_to_36_only() {
    let before = built();
    let after = before.placed(1_000, LeaderEpoch(9), TIMESTAMP_MS + 1);
    assert_eq!(after.bytes()[..8], before.bytes()[..8]);
    assert_ne!(after.bytes()[8..36], before.bytes()[8..36]);
    assert_eq!(after.bytes()[36..], before.bytes()[36..]);
    assert_eq!(Batch::decode(after.bytes().clone()).unwrap(), after);
}

#[test]
fn every_single_changed_bit_behind_the_placing_is_noticed() {
    let good = documented();
    for at in (0..8).chain(36..good.len()) {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let result = Batch::decode(Bytes::from(bad));
            assert!(result.is_err(), "bit {bit} of byte {at} was changed unnoticed");
        }
    }
}

#[test]
fn every_prefix_is_refused_as_short() {
    let good = documented();
    for length in 0..good.len() {
        let result = Batch::decode(Bytes::copy_from_slice(&good[..length]));
        assert!(matches!(result, Err(BatchError::Short { .. })), "{length} bytes were taken: {result:?}");
    }
}

#[test]
fn the_documented_sizes_are_those_of_the_code() {
    assert_eq!((HEADER_BYTES, FRAME_BYTES), (68, 21));
}
