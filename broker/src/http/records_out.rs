//! Records as JSON, written straight from frames: what was published goes out as it came in.

use base64::Engine;
use pubsub_core::record::{Record, ValueKind};

/// How line breaks between a value's tokens are treated; strings can't hold any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Left alone.
    Document,
    /// Turned into blanks, because a line is one record.
    Line,
}

/// Appends one record as a JSON object.
pub(crate) fn write_record(out: &mut Vec<u8>, partition: u32, record: &Record<'_>, layout: Layout) {
    out.extend_from_slice(b"{\"partition\":");
    write_number(out, u64::from(partition));
    out.extend_from_slice(b",\"offset\":");
    write_number(out, record.offset);
    out.extend_from_slice(b",\"ts_ms\":");
    write_signed(out, record.timestamp_ms);
    out.extend_from_slice(b",\"key\":");
    match record.key.map(std::str::from_utf8) {
        None => out.extend_from_slice(b"null"),
        Some(Ok(key)) => write_string(out, key),
        Some(Err(_)) => {
            write_base64(out, record.key.unwrap_or_default());
            out.extend_from_slice(b",\"key_encoding\":\"base64\"");
        }
    }
    out.extend_from_slice(b",\"value\":");
    match record.kind {
        ValueKind::None => out.extend_from_slice(b"null"),
        ValueKind::Json => write_text(out, record.value, layout),
        ValueKind::Bytes => {
            write_base64(out, record.value);
            out.extend_from_slice(b",\"value_encoding\":\"base64\"");
        }
    }
    out.extend_from_slice(b",\"headers\":");
    match record.headers {
        [] => out.extend_from_slice(b"{}"),
        text => write_text(out, text, layout),
    }
    out.push(b'}');
}

/// Appends a whole number.
pub(crate) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a whole number that may be negative.
pub(crate) fn write_signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    write_number(out, number.unsigned_abs());
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory can't fail");
}

fn write_text(out: &mut Vec<u8>, text: &[u8], layout: Layout) {
    let start = out.len();
    out.extend_from_slice(text);
    if layout == Layout::Line {
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("records are bounded by limits");
    out.resize(start + length, 0);
    base64::engine::general_purpose::STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("the room was just made");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::records_in::{JsonBody, read_json};
    use proptest::prelude::*;
    use pubsub_core::ids::LeaderEpoch;
    use pubsub_core::record::{Batch, BatchBuilder};
    use pubsub_core::wire::client::{Encoding, ReadRecord};

    fn stored(body: &str) -> Batch {
        let JsonBody::One(record) = read_json(body.as_bytes()).unwrap() else { panic!("one record") };
        let mut builder = BatchBuilder::new();
        builder.push(record.key.as_deref(), &record.headers, record.kind, &record.value);
        builder.build(7, LeaderEpoch(1), 1_700_000_000_000).unwrap()
    }

    fn written(batch: &Batch, layout: Layout) -> String {
        let mut out = vec![];
        write_record(&mut out, 2, &batch.records().next().unwrap(), layout);
        String::from_utf8(out).unwrap()
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_value_comes_back_as_the_same_text(value in any_json(), key in any::<Option<String>>()) {
            for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
                let key_text = serde_json::to_string(&key).unwrap();
                let batch = stored(&format!("{{\"key\":{key_text},\"value\":{text},\"headers\":{{\"h\":{text}}}}}"));
                let line = written(&batch, Layout::Document);
                let read: ReadRecord = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(read.value.get(), &text);
                prop_assert_eq!(read.key, key.clone());
                prop_assert_eq!(read.headers.get(), format!("{{\"h\":{text}}}"));
                prop_assert_eq!((read.partition, read.offset, read.ts_ms), (2, 7, 1_700_000_000_000));
                let line = written(&batch, Layout::Line);
                prop_assert!(!line.contains('\n'));
                let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                let plain: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&read["value"], &plain);
            }
        }

        #[test]
        fn numbers_are_written_as_the_standard_library_does(number in any::<i64>(), other in any::<u64>()) {
            let mut out = vec![];
            write_signed(&mut out, number);
            out.push(b' ');
            write_number(&mut out, other);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{number} {other}"));
        }
    }

    #[test]
    fn bytes_are_base64_and_say_so() {
        let mut builder = BatchBuilder::new();
        builder.push(Some(&[0xff]), b"", ValueKind::Bytes, &[0, 255, 1]);
        let batch = builder.build(0, LeaderEpoch(1), 0).unwrap();
        let read: ReadRecord = serde_json::from_str(&written(&batch, Layout::Document)).unwrap();
        assert_eq!((read.key.as_deref(), read.key_encoding), (Some("/w=="), Some(Encoding::Base64)));
        assert_eq!((read.value.get(), read.value_encoding), ("\"AP8B\"", Some(Encoding::Base64)));
    }
}
