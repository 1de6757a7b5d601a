//! Published records: from request bodies to frames. Values stay the JSON text that they are.

use super::error::{ApiError, ApiResult};
use base64::Engine;
use pubsub_core::limits::{JSON_DEPTH_MAX, RECORD_BYTES_MAX};
use pubsub_core::record::{Batch, ValueKind};
use pubsub_core::wire::error::ErrorCode;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// One record to be appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewRecord<'a> {
    /// Its key.
    pub(crate) key: Option<Cow<'a, [u8]>>,
    /// Empty, or the text of a JSON object.
    pub(crate) headers: Cow<'a, [u8]>,
    /// How the value is to be read.
    pub(crate) kind: ValueKind,
    /// Its value.
    pub(crate) value: Cow<'a, [u8]>,
}

impl NewRecord<'_> {
    /// Returns the bytes of key, headers and value together, as limits count them.
    pub(crate) fn size(&self) -> usize {
        self.key.as_ref().map_or(0, |key| key.len()) + self.headers.len() + self.value.len()
    }
}

/// What a JSON body holds.
#[derive(Debug)]
pub(crate) enum JsonBody<'a> {
    /// `{"key", "value", "headers"}`.
    One(NewRecord<'a>),
    /// `{"records": […]}`.
    Many(Vec<NewRecord<'a>>),
}

/// Reads a JSON body.
///
/// # Errors
/// 422 with the place of the fault, 413 for a record that is too large.
pub(crate) fn read_json(body: &[u8]) -> ApiResult<JsonBody<'_>> {
    let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| json_fault(&error, &["body"]))?;
    let Some(records) = fields.records else { return Ok(JsonBody::One(fields.record(&["body"])?)) };
    if records.is_empty() {
        return Err(ApiError::field("too_short", &["body", "records"], "give at least one record"));
    }
    let records = records.into_iter().enumerate().map(|(index, fields)| {
        if fields.records.is_some() {
            return Err(ApiError::field("value_error", &["body", "records"], "records can't be nested"));
        }
        fields.record(&["body", "records", &index.to_string()])
    });
    Ok(JsonBody::Many(records.collect::<ApiResult<_>>()?))
}

/// Reads one record a line; empty lines are passed over.
///
/// # Errors
/// As [`read_json`], with the number of the line, from 1. Nothing of the body counts as published.
pub(crate) fn read_lines(body: &[u8]) -> ApiResult<Vec<NewRecord<'_>>> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    let records = lines.map(|(index, line)| {
        let number = (index + 1).to_string();
        let fields: Fields<'_> =
            serde_json::from_slice(line).map_err(|error| json_fault(&error, &["body", &number]))?;
        fields.record(&["body", &number])
    });
    let records: Vec<_> = records.collect::<ApiResult<_>>()?;
    if records.is_empty() {
        return Err(ApiError::field("too_short", &["body"], "give at least one record, one a line"));
    }
    Ok(records)
}

/// Checks that everything in a client's own batch can be given to readers that ask for JSON.
///
/// # Errors
/// 422 for text that is not JSON, 413 for a record that is too large.
pub(crate) fn check_batch(batch: &Batch) -> ApiResult<()> {
    for (index, record) in batch.records().enumerate() {
        let number = index.to_string();
        let fault =
            |field: &str, msg: String| Err(ApiError::field("value_error", &["body", &number, field], msg));
        if record.kind == ValueKind::Json
            && let Err(msg) = check_foreign(record.value)
        {
            return fault("value", msg);
        }
        if !record.headers.is_empty() {
            if record.headers[0] != b'{' {
                return fault("headers", "headers are one JSON object".to_owned());
            }
            if let Err(msg) = check_foreign(record.headers) {
                return fault("headers", msg);
            }
        }
        let key_bytes = record.key.map_or(0, <[u8]>::len);
        check_size(key_bytes + record.headers.len() + record.value.len(), &number)?;
    }
    Ok(())
}

fn check_foreign(text: &[u8]) -> Result<(), String> {
    let raw: &RawValue = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if raw.get().len() != text.len() {
        return Err("the text has white space around its value".to_owned());
    }
    check_text(text).map_err(str::to_owned)
}

fn check_size(bytes: usize, which: &str) -> ApiResult<()> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "record {which} has {bytes} bytes of key, headers and value; at most {RECORD_BYTES_MAX} are taken"
    );
    Err(ApiError::new(ErrorCode::RecordTooLarge, detail).ambiguous(false))
}

/// The fields of a record, or of several; not yet checked.
#[derive(Default)]
struct Fields<'a> {
    key: Option<&'a RawValue>,
    value: Option<&'a RawValue>,
    headers: Option<&'a RawValue>,
    value_encoding: Option<&'a RawValue>,
    records: Option<Vec<Fields<'a>>>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with key, value and headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let slot = match name.as_ref() {
                "key" => &mut fields.key,
                "value" => &mut fields.value,
                "headers" => &mut fields.headers,
                "value_encoding" => &mut fields.value_encoding,
                "records" => {
                    if fields.records.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field("records"));
                    }
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
        }
        Ok(fields)
    }
}

impl<'a> Fields<'a> {
    fn record(self, at: &[&str]) -> ApiResult<NewRecord<'a>> {
        let fault = |kind: &str, field: &str, msg: &str| {
            let loc: Vec<&str> = at.iter().copied().chain([field]).collect();
            ApiError::field(kind, &loc, msg)
        };
        let Some(value) = self.value else {
            return Err(fault("missing", "value", "add a value; null is one"));
        };
        let key = read_key(self.key).map_err(|msg| fault("string_type", "key", msg))?;
        let headers = read_headers(self.headers).map_err(|msg| fault("dict_type", "headers", msg))?;
        let (kind, value) = match self.value_encoding.map(RawValue::get) {
            None | Some("null") => {
                check_text(value.get().as_bytes()).map_err(|msg| fault("value_error", "value", msg))?;
                let kind = if value.get() == "null" { ValueKind::None } else { ValueKind::Json };
                let text = if kind == ValueKind::None { "" } else { value.get() };
                (kind, Cow::Borrowed(text.as_bytes()))
            }
            Some("\"base64\"") => {
                let text: Cow<'_, str> = serde_json::from_str(value.get())
                    .map_err(|_| fault("string_type", "value", "with value_encoding, value is a string"))?;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text.as_bytes())
                    .map_err(|_| fault("value_error", "value", "not standard base64 with padding"))?;
                (ValueKind::Bytes, Cow::Owned(bytes))
            }
            Some(_) => return Err(fault("enum", "value_encoding", "use \"base64\", or leave it out")),
        };
        let size = key.as_ref().map_or(0, |key| key.len()) + headers.len() + value.len();
        check_size(size, at.get(1..).and_then(<[&str]>::last).copied().unwrap_or("0"))?;
        Ok(NewRecord { key, headers: Cow::Borrowed(headers), kind, value })
    }
}

fn read_key(raw: Option<&RawValue>) -> Result<Option<Cow<'_, [u8]>>, &'static str> {
    let Some(text) = raw.map(RawValue::get).filter(|text| *text != "null") else { return Ok(None) };
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err("a key is a string or null");
    };
    if !inner.contains('\\') {
        return Ok(Some(Cow::Borrowed(inner.as_bytes())));
    }
    let text: String =
        serde_json::from_str(text).map_err(|_| "a key is valid Unicode: no lone surrogates")?;
    Ok(Some(Cow::Owned(text.into_bytes())))
}

fn read_headers(raw: Option<&RawValue>) -> Result<&[u8], &'static str> {
    match raw.map(RawValue::get) {
        None | Some("null" | "{}") => Ok(b""),
        Some(text) if text.starts_with('{') => {
            check_text(text.as_bytes())?;
            Ok(text.as_bytes())
        }
        Some(_) => Err("headers are a JSON object"),
    }
}

/// Checks what JSON's grammar allows but readers choke on, so that one record can't stop its consumers: numbers beyond a
/// double's range, lone surrogates (RFC 7493 §2.1, §2.2) and nesting deeper than parsers follow. `text` is grammatical JSON.
fn check_text(text: &[u8]) -> Result<(), &'static str> {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = check_string(text, at + 1)?;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err("nested too deep; at most 100 levels are taken");
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                at = check_number(text, at)?;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Returns the index behind the closing quote of the string that starts at `at`.
fn check_string(text: &[u8], mut at: usize) -> Result<usize, &'static str> {
    const LONE: &str = "a string holds a lone surrogate, which is no Unicode character";
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if text.get(at + 1) == Some(&b'u') => {
                let high = unit(text, at).ok_or(LONE)?;
                at += 6;
                if (0xdc00..=0xdfff).contains(&high) {
                    return Err(LONE);
                }
                if (0xd800..=0xdbff).contains(&high) {
                    let low = unit(text, at).ok_or(LONE)?;
                    if !(0xdc00..=0xdfff).contains(&low) {
                        return Err(LONE);
                    }
                    at += 6;
                }
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// Returns the code unit of the `\uXXXX` at `at`.
fn unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the index behind the number at `at`.
fn check_number(text: &[u8], at: usize) -> Result<usize, &'static str> {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text[at..].iter().take_while(|byte| part(byte)).count();
    let number = &text[at..at + length];
    // Only an exponent or hundreds of digits leave the range, so plain numbers are not parsed.
    if length > 300 || number.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        let value: Option<f64> = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        if !value.is_some_and(f64::is_finite) {
            return Err("a number is beyond the range of a double");
        }
    }
    Ok(at + length)
}

/// Turns serde_json's error into a fault with its place.
pub(crate) fn json_fault(error: &serde_json::Error, at: &[&str]) -> ApiError {
    let text = error.to_string();
    if error.is_syntax() || error.is_eof() {
        return ApiError::field("json_invalid", at, format!("JSON decode error: {text}"));
    }
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match missing {
        Some(field) => {
            let loc: Vec<&str> = at.iter().copied().chain([field]).collect();
            ApiError::field("missing", &loc, "this field is required")
        }
        None => ApiError::field("value_error", at, text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::wire::error::Detail;

    fn one(body: &str) -> NewRecord<'_> {
        match read_json(body.as_bytes()).unwrap() {
            JsonBody::One(record) => record,
            JsonBody::Many(_) => panic!("one record"),
        }
    }

    fn refused(body: &[u8]) -> (String, Vec<String>) {
        let error = read_json(body).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ValidationFailed);
        let Detail::Fields(fields) = error.0.detail.clone() else { panic!("a list") };
        (fields[0].kind.clone(), fields[0].loc.clone())
    }

    #[test]
    fn values_stay_the_text_that_they_are() {
        for value in
            ["9007199254740993", "1.10", "-0", "1E5", "\"\\u00e9\"", "[1, 2]", "{\"a\":  1}", "1e308", "true"]
        {
            let body = format!("{{\"value\": {value} }}");
            let record = one(&body);
            assert_eq!((record.value.as_ref(), record.kind), (value.as_bytes(), ValueKind::Json));
        }
    }

    #[test]
    fn null_is_no_value() {
        assert_eq!((one("{\"value\":null}").kind, one("{\"value\":null}").value.len()), (ValueKind::None, 0));
    }

    #[test]
    fn what_would_stop_consumers_is_refused() {
        let deep = format!("{{\"value\":{}{}}}", "[".repeat(101), "]".repeat(101));
        let long = format!("{{\"value\":{}}}", "9".repeat(400));
        let texts = [
            "{\"value\":NaN}",
            "{\"value\":Infinity}",
            "{\"value\":-Infinity}",
            "{\"value\":1e400}",
            "{\"value\":[{\"a\":-1e999}]}",
            "{\"value\":\"\\ud800\"}",
            "{\"value\":\"\\ud800\\u0041\"}",
            "{\"value\":\"\\udc00\"}",
            "{\"key\":\"\\ud800\",\"value\":1}",
            "{\"value\":1,\"headers\":{\"a\":\"\\ud800\"}}",
            &deep,
            &long,
        ];
        for text in texts {
            refused(text.as_bytes());
        }
        refused(b"{\"value\":\"\xff\"}");
    }

    #[test]
    fn faults_name_their_place() {
        assert_eq!(refused(b"{\"key\":\"a\"}"), ("missing".into(), vec!["body".into(), "value".into()]));
        assert_eq!(refused(b"{\"key\":1,\"value\":1}").1, ["body", "key"]);
        assert_eq!(refused(b"{\"value\":1,\"headers\":[]}").1, ["body", "headers"]);
        assert_eq!(refused(b"{\"records\":[{\"value\":1},{}]}").1, ["body", "records", "1", "value"]);
        assert_eq!(refused(b"{\"value\":1").0, "json_invalid");
        assert_eq!(refused(b"").0, "json_invalid");
        assert_eq!(refused(b"[\"key\",1]").1, ["body"]);
        assert_eq!(refused(b"{\"records\":[]}").0, "too_short");
    }

    #[test]
    fn keys_are_text_with_their_escapes_undone() {
        assert_eq!(one("{\"key\":\"a\\u00e9\\n\",\"value\":1}").key.unwrap().as_ref(), "aé\n".as_bytes());
        assert_eq!(one("{\"key\":\"\",\"value\":1}").key.unwrap().as_ref(), b"");
        assert_eq!(one("{\"key\":null,\"value\":1}").key, None);
        assert_eq!(one("{\"key\":\"\\ud83d\\ude00\",\"value\":1}").key.unwrap().as_ref(), "😀".as_bytes());
    }

    #[test]
    fn base64_values_are_bytes() {
        let record = one("{\"value\":\"AP8=\",\"value_encoding\":\"base64\"}");
        assert_eq!((record.kind, record.value.as_ref()), (ValueKind::Bytes, &[0_u8, 255][..]));
        assert_eq!(refused(b"{\"value\":\"?\",\"value_encoding\":\"base64\"}").1, ["body", "value"]);
    }

    #[test]
    fn a_record_past_the_limit_is_too_large() {
        let body = format!("{{\"value\":\"{}\"}}", "x".repeat(RECORD_BYTES_MAX));
        assert_eq!(read_json(body.as_bytes()).unwrap_err().code(), ErrorCode::RecordTooLarge);
    }

    #[test]
    fn lines_are_counted_from_one_and_empty_ones_passed_over() {
        let records = read_lines(b"{\"value\":1}\n\r\n{\"value\":2}\r\n").unwrap();
        assert_eq!(records.len(), 2);
        let error = read_lines(b"{\"value\":1}\n\n{}").unwrap_err();
        let Detail::Fields(fields) = error.0.detail else { panic!("a list") };
        assert_eq!(fields[0].loc, ["body", "3", "value"]);
    }
}
