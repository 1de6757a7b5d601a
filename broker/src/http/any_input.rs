//! Whatever a client sends is refused or taken, and never stops the broker. `PROPTEST_CASES` says how much is tried.

#![allow(clippy::unwrap_used)]

use super::query::Query;
use super::records_in::{JsonBody, NewRecord, read_json, read_lines};
use super::start::Start;
use proptest::prelude::*;
use pubsub_core::group::stream::parse_id;

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "d800",
    "\\ud83d\\ude00",
    "\"key\"",
    "\"value\"",
    "\"headers\"",
    "\"records\"",
    "\"value_encoding\"",
    "\"base64\"",
    "null",
    "true",
    "-",
    "0",
    "1e400",
    "1e",
    "9",
    "\n",
    "\r\n",
    " ",
    "{\"value\":1}",
    "{\"records\":[{\"value\":1}]}",
    "QQ==",
    "\u{feff}",
    "\u{0}",
    "é",
];

fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Holds a record to what readers rely on.
fn check(record: &NewRecord<'_>, given: usize) {
    assert!(record.size() <= given, "a record is no larger than what it came in");
    if record.kind == pubsub_core::record::ValueKind::Json {
        serde_json::from_slice::<serde_json::Value>(&record.value).unwrap();
    }
    if !record.headers.is_empty() {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&record.headers).unwrap();
    }
    assert!(record.key.as_ref().is_none_or(|key| std::str::from_utf8(key).is_ok()));
}

fn read_both(body: &[u8]) {
    match read_json(body) {
        Ok(JsonBody::One(record)) => check(&record, body.len()),
        Ok(JsonBody::Many(records)) => records.iter().for_each(|record| check(record, body.len())),
        Err(error) => assert!([413, 422].contains(&error.0.status), "{error}"),
    }
    match read_lines(body) {
        Ok(records) => records.iter().for_each(|record| check(record, body.len())),
        Err(error) => assert!([413, 422].contains(&error.0.status), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_body_is_refused_or_holds_records_that_can_be_read(
        body in prop_oneof![text(), prop::collection::vec(any::<u8>(), 0..80)],
    ) {
        read_both(&body);
    }

    #[test]
    fn any_value_in_a_good_frame_is_refused_or_can_be_read(value in text(), other in text()) {
        let body = [&b"{\"value\":"[..], &value, b",\"headers\":{\"a\":", &other, b"}}"].concat();
        read_both(&body);
    }

    #[test]
    fn any_query_is_refused_or_understood(
        query in "([a-z_]{0,4}|from|partition|[%+&=;]|%[0-9a-f]{0,2}|[-+]?[0-9]{0,21}|.){0,12}",
    ) {
        let mut parsed = Query::parse(Some(&query));
        parsed.number::<u32>("partition", 0, 999);
        parsed.number::<u64>("a", 1, u64::MAX);
        parsed.flag("b");
        parsed.required("c");
        parsed.checked::<pubsub_core::ids::GroupId>("from");
        let _ = parsed.text("from").map(Start::parse);
        if let Err(error) = parsed.finish() {
            prop_assert_eq!(error.0.status, 422);
        }
    }

    #[test]
    fn any_place_in_a_stream_is_refused_or_understood(
        id in "([0-9]{0,20}|[-+:,. ]|timestamp:|earliest|T|Z|.){0,12}",
    ) {
        for offset in parse_id(&id).unwrap_or_default().into_values() {
            prop_assert!(offset >= -1 && offset < i64::MAX);
        }
        let _ = Start::parse(&id);
    }
}
