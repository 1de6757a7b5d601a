//! Whatever bytes arrive: the decoder refuses them, or everything in them can be read. `PROPTEST_CASES` says how many are tried.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// A record's key, value and kind.
type Parts = (Option<Vec<u8>>, Vec<u8>, u8);

fn valid(records: &[Parts]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for (key, value, kind) in records {
        let kind = [ValueKind::None, ValueKind::Json, ValueKind::Bytes][usize::from(kind % 3)];
        builder.push(key.as_deref(), b"", kind, value);
    }
    builder.build(7, LeaderEpoch(1), 1_700_000_000_000).unwrap().bytes().to_vec()
}

/// One way in which bytes go wrong; places are taken modulo the length.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Truncate(usize),
    Splice(usize, Vec<u8>),
    Remove(usize, usize),
    Number(usize, u32),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(1 << 31), 0_u32..200, any::<u32>()];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<usize>().prop_map(Damage::Truncate),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(at, piece)| Damage::Splice(at, piece)),
        (any::<usize>(), 0_usize..40).prop_map(|(at, count)| Damage::Remove(at, count)),
        (any::<usize>(), number).prop_map(|(at, number)| Damage::Number(at, number)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages {
        let within = |at: usize| at % bytes.len().max(1);
        match damage {
            Damage::Flip(at, bits) => {
                let at = within(at);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bits);
            }
            Damage::Truncate(at) => bytes.truncate(at % (bytes.len() + 1)),
            Damage::Splice(at, piece) => {
                let at = at % (bytes.len() + 1);
                bytes.splice(at..at, piece);
            }
            Damage::Remove(at, count) => {
                let at = at % (bytes.len() + 1);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Damage::Number(at, number) => {
                let at = within(at);
                if let Some(four) = bytes.get_mut(at..at + 4) {
                    four.copy_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// Makes length and checksum fit again, so that what lies behind them is looked at too.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= HEADER_BYTES {
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = crc(&bytes[CRC_FROM..]);
        bytes[36..40].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Reads everything of a batch, and returns whether it was one.
fn read(bytes: Vec<u8>) -> bool {
    let given = bytes.len();
    let Ok(batch) = Batch::decode(Bytes::from(bytes)) else { return false };
    let length = batch.bytes().len();
    assert!(length <= given);
    let parts =
        |record: Record<'_>| record.key.map_or(0, <[u8]>::len) + record.headers.len() + record.value.len();
    let read: usize = batch.records().map(|record| parts(record) + FRAME_BYTES).sum();
    assert_eq!(read + HEADER_BYTES, length, "frames fill the batch");
    let placed = batch.placed(1_000, LeaderEpoch(9), 5);
    assert_eq!(Batch::decode(placed.bytes().clone()).unwrap(), placed);
    true
}

fn records() -> impl Strategy<Value = Vec<Parts>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..24);
    prop::collection::vec((prop::option::of(bytes()), bytes(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_read_whole(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(signed(bytes.clone()));
        read(bytes);
    }

    #[test]
    fn any_bytes_behind_a_good_header_are_refused_or_read_whole(
        bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES..300), count in 1_u32..4,
    ) {
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(MAGIC);
        bytes[40..42].fill(0);
        bytes[44..48].copy_from_slice(&count.to_le_bytes());
        read(signed(bytes));
    }

    #[test]
    fn damaged_batches_are_refused_or_read_whole(
        records in records(), damages in prop::collection::vec(damage(), 1..4),
    ) {
        let good = valid(&records);
        prop_assert!(read(good.clone()));
        let bad = damaged(good, damages);
        read(signed(bad.clone()));
        read(bad);
    }
}

#[test]
fn a_base_timestamp_that_a_client_made_up_can_be_read() {
    let mut bytes = valid(&[(None, b"1".to_vec(), 1)]);
    bytes[20..28].copy_from_slice(&i64::MAX.to_le_bytes());
    bytes[HEADER_BYTES + 8..HEADER_BYTES + 12].copy_from_slice(&1_u32.to_le_bytes());
    let batch = Batch::decode(Bytes::from(signed(bytes))).unwrap();
    assert_eq!(batch.records().map(|record| record.timestamp_ms).collect::<Vec<_>>(), [i64::MAX]);
}

#[test]
fn a_key_that_is_not_there_hides_no_bytes() {
    let mut bytes = valid(&[(Some(b"hidden".to_vec()), b"1".to_vec(), 1)]);
    bytes[HEADER_BYTES + 12] &= !KIND_HAS_KEY;
    let refused = Batch::decode(Bytes::from(signed(bytes)));
    assert!(matches!(refused, Err(BatchError::Frame { frame: 0 })), "{refused:?}");
}
