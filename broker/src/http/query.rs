//! Query parameters: read without a detour through maps, checked one by one, faults listed together.

use super::error::{ApiError, ApiResult};
use pubsub_core::wire::error::FieldError;
use std::borrow::Cow;
use std::str::FromStr;

/// The parameters of one request, and what was wrong with those looked at so far.
pub(crate) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    faults: Vec<FieldError>,
}

impl<'a> Query<'a> {
    /// Splits the part of a URI behind its question mark.
    pub(crate) fn parse(text: Option<&'a str>) -> Self {
        let pieces = text.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        let pairs = pieces
            .map(|piece| {
                let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { pairs, faults: vec![] }
    }

    /// Returns a parameter's text; an empty one counts as not given. The last of several wins.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().rev().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_ref()).filter(|value| !value.is_empty())
    }

    /// Notes a fault of a parameter.
    pub(crate) fn fault(&mut self, kind: &str, name: &str, msg: impl Into<String>) {
        let loc = vec!["query".to_owned(), name.to_owned()];
        self.faults.push(FieldError { kind: kind.to_owned(), loc, msg: msg.into() });
    }

    /// Returns a parameter's text, or notes that it is missing.
    pub(crate) fn required(&mut self, name: &str) -> &str {
        if self.text(name).is_none() {
            self.fault("missing", name, format!("add ?{name}=…"));
        }
        self.text(name).unwrap_or_default()
    }

    /// Returns a parameter made by its type's checked constructor.
    pub(crate) fn checked<T>(&mut self, name: &str) -> Option<T>
    where
        T: for<'t> TryFrom<&'t str, Error = pubsub_core::ids::InvalidName>,
    {
        match T::try_from(self.text(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault("value_error", name, error.to_string());
                None
            }
        }
    }

    /// Returns a whole number within `least..=most`.
    pub(crate) fn number<T>(&mut self, name: &str, least: T, most: T) -> Option<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let text = self.text(name)?;
        match text.parse::<T>() {
            Ok(value) if value >= least && value <= most => Some(value),
            _ => {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
                let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                let kind = match (whole, text.starts_with('-')) {
                    (false, _) => "int_parsing",
                    (true, true) => "greater_than_equal",
                    (true, false) if text.parse::<T>().is_ok_and(|value| value < least) => {
                        "greater_than_equal"
                    }
                    (true, false) => "less_than_equal",
                };
                self.fault(kind, name, format!("use a whole number from {least} to {most}"));
                None
            }
        }
    }

    /// Returns `true` for `true`, `1`, `yes` or `on`, `false` for their opposites or when it is missing.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let Some(text) = self.text(name) else { return false };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.fault("bool_parsing", name, "use true or false");
                false
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// 422 with every fault noted.
    pub(crate) fn finish(self) -> ApiResult<()> {
        if self.faults.is_empty() { Ok(()) } else { Err(ApiError::fields(self.faults)) }
    }
}

/// Undoes percent and plus encoding; bytes that make no UTF-8 are replaced, so that names with them are refused later.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes
            .get(at + 1..at + 3)
            .and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use pubsub_core::wire::error::Detail;

    #[test]
    fn faults_are_listed_together_and_never_panic() {
        let mut query =
            Query::parse(Some("max_records=0&timeout_ms=-5&from_offset=1180591620717411303424&partition=x"));
        assert_eq!(query.number::<u32>("max_records", 1, 1000), None);
        assert_eq!(query.number::<u64>("timeout_ms", 0, 60_000), None);
        assert_eq!(query.number::<u64>("from_offset", 0, u64::MAX), None);
        assert_eq!(query.number::<u32>("partition", 0, 999), None);
        query.required("topic");
        let Err(error) = query.finish() else { panic!("there are faults") };
        let Detail::Fields(fields) = error.0.detail else { panic!("a list") };
        let kinds: Vec<_> = fields.iter().map(|field| field.kind.as_str()).collect();
        assert_eq!(
            kinds,
            ["greater_than_equal", "greater_than_equal", "less_than_equal", "int_parsing", "missing"]
        );
    }

    #[test]
    fn an_empty_parameter_counts_as_not_given() {
        assert_eq!(Query::parse(Some("group_id=&topic=a+b%2Fc")).text("group_id"), None);
        assert_eq!(Query::parse(Some("group_id=&topic=a+b%2Fc")).text("topic"), Some("a b/c"));
    }

    proptest! {
        #[test]
        fn any_text_survives_percent_encoding(text in "\\PC{0,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), text);
        }

        #[test]
        fn decoding_takes_anything(text in ".{0,60}") {
            decode(&text);
        }
    }
}
