//! Bodies of publishes: JSON, lines, raw bytes, batches.

use crate::http::error::{ApiError, ApiResult};
use crate::http::records_in::{JsonBody, NewRecord, check_batch, read_json, read_lines};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use pubsub_core::ids::TopicName;
use pubsub_core::limits::RECORD_BYTES_MAX;
use pubsub_core::record::{Batch, Producer, ValueKind};
use pubsub_core::wire::client::{
    BATCH_MEDIA_TYPE, KEY_HEADER, NDJSON, PRODUCER_EPOCH_HEADER, PRODUCER_ID_HEADER, PRODUCER_SEQ_HEADER,
    RECORD_HEADER_PREFIX,
};
use pubsub_core::wire::error::ErrorCode;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The records of one request.
pub(super) enum Body<'a> {
    /// One.
    One(NewRecord<'a>),
    /// Several, atomic per partition.
    Many(Vec<NewRecord<'a>>),
    /// Several, as a stream.
    Lines(Vec<NewRecord<'a>>),
    /// The client's own batch.
    Batch(Batch),
}

impl Body<'_> {
    /// Refuses records that are larger than their topic takes.
    ///
    /// # Errors
    /// 413 with the topic's limit; nothing was published.
    pub(super) fn check_sizes(&self, topic: &TopicName, most: u64) -> ApiResult<()> {
        let largest = match self {
            Self::One(record) => Some(record.size()),
            Self::Many(records) | Self::Lines(records) => records.iter().map(NewRecord::size).max(),
            Self::Batch(batch) => batch
                .records()
                .map(|record| record.key.map_or(0, <[u8]>::len) + record.headers.len() + record.value.len())
                .max(),
        };
        let largest = largest.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        if largest <= most {
            return Ok(());
        }
        let detail = format!(
            "a record has {largest} bytes of key, headers and value; topic {topic} takes at most {most} (max_record_bytes)"
        );
        Err(ApiError::new(ErrorCode::RecordTooLarge, detail).ambiguous(false))
    }
}

/// Reads what an idempotent producer says of its first record: all three headers, or none.
///
/// # Errors
/// 422 naming the header.
pub(super) fn producer(headers: &HeaderMap) -> ApiResult<Option<Producer>> {
    const NAMES: [&str; 3] = [PRODUCER_ID_HEADER, PRODUCER_EPOCH_HEADER, PRODUCER_SEQ_HEADER];
    let [id, epoch, sequence] = NAMES.map(|name| headers.get(name).map(|value| value.to_str().ok()));
    if [id, epoch, sequence].iter().all(Option::is_none) {
        return Ok(None);
    }
    let fault = |index: usize, msg: &str| ApiError::field("value_error", &["header", NAMES[index]], msg);
    let id = id.flatten().and_then(|text| Uuid::try_parse(text).ok()).filter(|id| !id.is_nil());
    let id =
        id.ok_or_else(|| fault(0, "a UUID that is not all zero, with Producer-Epoch and Producer-Seq"))?;
    let epoch = epoch.flatten().and_then(|text| text.parse().ok());
    let epoch = epoch.ok_or_else(|| fault(1, "the producer's epoch, 0 to 65535; begin with 0"))?;
    let first_sequence = sequence.flatten().and_then(|text| text.parse().ok());
    let first_sequence =
        first_sequence.ok_or_else(|| fault(2, "the first record's sequence, 0 to 4294967295"))?;
    Ok(Some(Producer { id, epoch, first_sequence }))
}

/// Reads a body by its media type.
///
/// # Errors
/// 415, 422 or 413; nothing was published.
pub(super) fn read<'a>(headers: &'a HeaderMap, body: &'a Bytes) -> ApiResult<Body<'a>> {
    let full = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        // The last one is what curl says of any body; nothing else could be meant by it here.
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(match read_json(body)? {
            JsonBody::One(record) => Body::One(record),
            JsonBody::Many(records) => Body::Many(records),
        }),
        NDJSON | "application/ndjson" | "application/jsonl" => Ok(Body::Lines(read_lines(body)?)),
        "application/octet-stream" => Ok(Body::One(raw(headers, ValueKind::Bytes, Cow::Borrowed(body))?)),
        BATCH_MEDIA_TYPE => Ok(Body::Batch(read_batch(body)?)),
        text if text.starts_with("text/") => {
            let text = std::str::from_utf8(body).map_err(|_| {
                ApiError::field("value_error", &["body"], "not UTF-8; send it as application/octet-stream")
            })?;
            let value = serde_json::to_vec(text).expect("a string is JSON");
            Ok(Body::One(raw(headers, ValueKind::Json, Cow::Owned(value))?))
        }
        json if json.ends_with("+json") => Ok(match read_json(body)? {
            JsonBody::One(record) => Body::One(record),
            JsonBody::Many(records) => Body::Many(records),
        }),
        other => {
            let detail = format!(
                "{other} is not read here; use application/json, {NDJSON}, application/octet-stream, text/plain or {BATCH_MEDIA_TYPE}"
            );
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail))
        }
    }
}

fn raw<'a>(headers: &'a HeaderMap, kind: ValueKind, value: Cow<'a, [u8]>) -> ApiResult<NewRecord<'a>> {
    let text = |name: &str, value: &'a HeaderValue| {
        let fault = || ApiError::field("value_error", &["header", name], "not UTF-8");
        std::str::from_utf8(value.as_bytes()).map_err(|_| fault())
    };
    let key = headers.get(KEY_HEADER).map(|value| text(KEY_HEADER, value)).transpose()?;
    let mut record_headers = BTreeMap::new();
    for (name, value) in headers {
        if let Some(short) = name.as_str().strip_prefix(RECORD_HEADER_PREFIX) {
            record_headers.insert(short, text(name.as_str(), value)?);
        }
    }
    let headers = if record_headers.is_empty() {
        vec![]
    } else {
        serde_json::to_vec(&record_headers).expect("a map of strings is JSON")
    };
    let size = key.map_or(0, str::len) + headers.len() + value.len();
    if size > RECORD_BYTES_MAX {
        let detail = format!(
            "the record has {size} bytes of key, headers and value; at most {RECORD_BYTES_MAX} are taken"
        );
        return Err(ApiError::new(ErrorCode::RecordTooLarge, detail).ambiguous(false));
    }
    let key = key.map(|key| Cow::Borrowed(key.as_bytes()));
    Ok(NewRecord { key, headers: Cow::Owned(headers), kind, value })
}

fn read_batch(body: &Bytes) -> ApiResult<Batch> {
    let batch = Batch::decode(body.clone())
        .map_err(|error| ApiError::field("value_error", &["body"], error.to_string()))?;
    if batch.bytes().len() != body.len() {
        return Err(ApiError::field("value_error", &["body"], "send one batch, with nothing behind it"));
    }
    let last = batch.producer().map(|producer| producer.first_sequence.checked_add(batch.count() - 1));
    if last == Some(None) {
        return Err(ApiError::field("value_error", &["body"], "the batch's sequences go past 4294967295"));
    }
    check_batch(&batch)?;
    Ok(batch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::record::BatchBuilder;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn refused(media: &'static str, body: &[u8]) -> ErrorCode {
        let (headers, body) = (headers(&[("content-type", media)]), Bytes::copy_from_slice(body));
        match read(&headers, &body) {
            Ok(_) => panic!("{media} was taken"),
            Err(error) => error.code(),
        }
    }

    #[test]
    fn raw_bodies_take_key_and_headers_from_the_request() {
        let headers = headers(&[
            ("content-type", "application/octet-stream"),
            ("pubsub-key", "k"),
            ("pubsub-header-trace", "7"),
        ]);
        let body = Bytes::from_static(&[0, 255]);
        let Body::One(record) = read(&headers, &body).unwrap() else { panic!("one record") };
        assert_eq!((record.kind, record.value.as_ref()), (ValueKind::Bytes, &[0_u8, 255][..]));
        assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(record.headers.as_ref(), b"{\"trace\":\"7\"}");
    }

    #[test]
    fn text_becomes_a_json_string() {
        let (headers, body) =
            (headers(&[("content-type", "text/plain; charset=utf-8")]), Bytes::from_static(b"a \"b\""));
        let Body::One(record) = read(&headers, &body).unwrap() else { panic!("one record") };
        assert_eq!((record.kind, record.value.as_ref()), (ValueKind::Json, &br#""a \"b\"""#[..]));
    }

    #[test]
    fn media_types_and_bodies_that_make_no_record_are_refused() {
        assert_eq!(refused("image/png", b"x"), ErrorCode::UnsupportedMediaType);
        assert_eq!(refused("text/plain", b"\xff"), ErrorCode::ValidationFailed);
        assert_eq!(refused(BATCH_MEDIA_TYPE, b"PSB1"), ErrorCode::ValidationFailed);
        assert_eq!(
            refused("application/octet-stream", &vec![0; RECORD_BYTES_MAX + 1]),
            ErrorCode::RecordTooLarge
        );
    }

    #[test]
    fn a_clients_batch_is_checked_like_any_other_record() {
        for (kind, headers, value) in [
            (ValueKind::Json, &b""[..], &b"{"[..]),
            (ValueKind::Json, b"", b"1 "),
            (ValueKind::Json, b"[]", b"1"),
            (ValueKind::Json, b"", b"\"\\ud800\""),
        ] {
            let mut builder = BatchBuilder::new();
            builder.push(None, headers, kind, value);
            let batch = builder.build(0, Default::default(), 0).unwrap();
            assert_eq!(refused(BATCH_MEDIA_TYPE, batch.bytes()), ErrorCode::ValidationFailed, "{value:?}");
        }
        let mut builder = BatchBuilder::new();
        builder.push(Some(&[0xff]), b"{\"a\":1}", ValueKind::Bytes, b"{");
        let batch = builder.build(0, Default::default(), 0).unwrap();
        assert_eq!(read_batch(batch.bytes()).unwrap(), batch);
    }

    #[test]
    fn a_topics_own_limit_counts_key_headers_and_value_in_every_form_of_body() {
        let topic = TopicName::try_from("a").unwrap();
        let mut builder = BatchBuilder::new();
        builder.push(Some(b"key"), b"", ValueKind::Bytes, b"12345");
        let batch = builder.build(0, Default::default(), 0).unwrap();
        for (media, body) in [
            ("application/json", &br#"{"key":"key","value":12345}"#[..]),
            ("application/json", br#"{"records":[{"value":1},{"key":"key","value":12345}]}"#),
            ("application/x-ndjson", b"{\"key\":\"key\",\"value\":12345}\n{\"value\":1}\n"),
            (BATCH_MEDIA_TYPE, batch.bytes()),
        ] {
            let (headers, body) = (headers(&[("content-type", media)]), Bytes::copy_from_slice(body));
            let body = read(&headers, &body).unwrap();
            assert!(body.check_sizes(&topic, 8).is_ok(), "{media}");
            let refused = body.check_sizes(&topic, 7).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::RecordTooLarge, "{media}");
            assert!(refused.to_string().contains("at most 7"), "{refused}");
        }
    }

    #[test]
    fn an_idempotent_producer_gives_three_headers_or_none() {
        let id = "0193d3a0-0000-7000-8000-000000000001";
        let all = [("producer-id", id), ("producer-epoch", "2"), ("producer-seq", "7")];
        let found = producer(&headers(&all)).unwrap().unwrap();
        assert_eq!((found.id.to_string().as_str(), found.epoch, found.first_sequence), (id, 2, 7));
        assert!(producer(&HeaderMap::new()).unwrap().is_none());
        for missing in 0..3 {
            let mut some = all.to_vec();
            some.remove(missing);
            assert_eq!(producer(&headers(&some)).unwrap_err().code(), ErrorCode::ValidationFailed);
        }
        for (at, bad) in [(0, "7"), (0, "00000000-0000-0000-0000-000000000000"), (1, "65536"), (2, "-1")] {
            let mut some = all.to_vec();
            some[at].1 = bad;
            assert_eq!(producer(&headers(&some)).unwrap_err().code(), ErrorCode::ValidationFailed, "{bad}");
        }
    }
}
