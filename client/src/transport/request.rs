//! A request, before it is known which broker it will go to.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Serialize;
use std::time::Duration;

/// Whether a request may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Doing it twice is the same as doing it once, or the caller accepts that it may be done twice.
    Repeatable,
    /// A try whose outcome is not known ends the request with [`super::CallError::Unknown`].
    Once,
}

/// One request, without the broker that it will go to.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Option<(HeaderValue, Bytes)>,
    pub(super) effect: Effect,
    pub(super) patience: Option<Duration>,
    pub(super) deadline: Option<Duration>,
}

impl Request {
    /// Makes a request; `path` begins with a slash, its variable parts have gone through [`segment`].
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            effect: Effect::Repeatable,
            patience: None,
            deadline: None,
        }
    }

    /// Makes a GET request.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Adds a query parameter if there is a value.
    #[must_use]
    pub fn query_opt(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// Sets a body of the given media type.
    #[must_use]
    pub fn body(mut self, media_type: &'static str, bytes: Bytes) -> Self {
        self.body = Some((HeaderValue::from_static(media_type), bytes));
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("bodies have string keys only, so they always serialise");
        self.body("application/json", Bytes::from(bytes))
    }

    /// Says whether the request may be made twice; a new request is repeatable.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Sets the longest wait for one answer, instead of [`super::TransportConfig::answer_timeout`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Sets for how long tries may begin, instead of the transport's [`crate::retry::RetryPolicy::deadline`]; zero means one try.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// Escapes one segment of a path.
pub fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
