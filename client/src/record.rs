//! Records on their way to a topic.

use pubsub_core::limits::RECORD_BYTES_MAX;
use pubsub_core::wire::client::PublishRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Why something can't be a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or a value that JSON has no form for.
    #[error("the value is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// Larger than a broker takes.
    #[error("the record has {bytes} bytes, the limit is {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Bytes of key, headers and value.
        bytes: usize,
    },
}

/// A record to publish. Its value is kept as JSON text, so that numbers of any size survive unchanged.
#[derive(Clone, Debug)]
pub struct NewRecord {
    key: Option<String>,
    value: Box<RawValue>,
    headers: Option<Box<RawValue>>,
}

impl NewRecord {
    /// Makes a record of any value that can be written as JSON.
    ///
    /// # Errors
    /// [`RecordError::NotJson`] for maps whose keys are no text.
    pub fn json(value: &impl Serialize) -> Result<Self, RecordError> {
        let value = serde_json::value::to_raw_value(value).map_err(RecordError::NotJson)?;
        Ok(Self { key: None, value, headers: None })
    }

    /// Makes a record of JSON text, which is published as it is.
    ///
    /// # Errors
    /// [`RecordError::NotJson`].
    pub fn json_text(text: &str) -> Result<Self, RecordError> {
        let value = serde_json::from_str(text.trim()).map_err(RecordError::NotJson)?;
        Ok(Self { key: None, value, headers: None })
    }

    /// Makes a record whose value is a string.
    pub fn text(text: &str) -> Self {
        Self::json(&text).expect("text can always be written as JSON")
    }

    /// Sets the key: records of one key stay in order, in one partition.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Returns the key, if there is one.
    pub fn key_text(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Sets the headers.
    ///
    /// # Errors
    /// [`RecordError::NotJson`] if a value can't be written as JSON.
    pub fn headers(mut self, headers: &BTreeMap<String, serde_json::Value>) -> Result<Self, RecordError> {
        let text = serde_json::value::to_raw_value(headers).map_err(RecordError::NotJson)?;
        self.headers = (!headers.is_empty()).then_some(text);
        Ok(self)
    }

    /// Returns the bytes of key, headers and value.
    pub fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, String::len)
            + self.value.get().len()
            + self.headers.as_ref().map_or(0, |headers| headers.get().len())
    }

    /// Checks the size, so that one record that no broker takes does not fail the batch that it is in.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`].
    pub fn check(&self) -> Result<(), RecordError> {
        let bytes = self.bytes();
        if bytes > RECORD_BYTES_MAX { Err(RecordError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// Returns the record as it is sent.
    pub fn wire(&self) -> PublishRecord<'_> {
        PublishRecord {
            key: self.key.as_deref().map(Cow::Borrowed),
            value: &self.value,
            headers: self.headers.as_deref(),
            value_encoding: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_beyond_doubles_are_sent_as_they_were_written() {
        let record = NewRecord::json_text(" 9007199254740993 \n").unwrap().key("k");
        let body = serde_json::to_string(&record.wire()).unwrap();
        assert_eq!(body, r#"{"key":"k","value":9007199254740993}"#);
        assert!(NewRecord::json_text("NaN").is_err());
    }

    #[test]
    fn a_record_past_the_limit_is_refused_before_it_is_sent() {
        assert!(NewRecord::text("small").check().is_ok());
        let large = NewRecord::text(&"x".repeat(RECORD_BYTES_MAX));
        assert!(matches!(large.check(), Err(RecordError::TooLarge { .. })));
    }
}
