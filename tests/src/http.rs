//! A small HTTP client for tests: it keeps the whole answer, so that a failed assertion can show it.

use anyhow::Context;
use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;

/// Longest time that a test request may take; long polls are shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(70);

/// Everything that came back for one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What was asked, for messages.
    pub asked: String,
}

impl Answer {
    /// Returns the body as text, whatever it is.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{self} is not JSON: {error}"))
    }

    /// Returns one header as text, empty if it is absent.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    /// Returns the JSON body of an answer that must have the status `status`.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "wrong status: {self}");
        self.json()
    }

    /// Checks that this is a problem body (RFC 9457) of the given status and, unless empty, code; returns it.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "wrong status: {self}");
        let problem = self.problem();
        assert!(code.is_empty() || problem["code"] == code, "the code is not {code}: {self}");
        problem
    }

    /// Checks the form of a problem body and returns it.
    ///
    /// # Panics
    /// When the media type or a member is wrong.
    #[track_caller]
    pub fn problem(&self) -> Value {
        let media = self.header("content-type");
        assert!(media.starts_with("application/problem+json"), "media type {media:?}: {self}");
        let problem = self.json();
        for member in ["type", "title", "code"] {
            assert!(problem[member].is_string(), "the problem has no text {member:?}: {self}");
        }
        assert!(is_detail(&problem["detail"]), "the problem's detail is of no known form: {self}");
        assert_eq!(problem["status"], self.status, "the problem's status differs from the answer's: {self}");
        let code = problem["code"].as_str().unwrap_or_default();
        let stable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(!code.is_empty() && code.chars().all(stable), "{code:?} is not UPPER_SNAKE: {self}");
        problem
    }
}

/// A text that a person can act on, or one of the old system's two other forms: its list of validation errors, and its
/// object about a topic.
fn is_detail(detail: &Value) -> bool {
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    match detail {
        Value::Array(errors) => {
            let complete =
                |error: &Value| text(&error["type"]) && error["loc"].is_array() && text(&error["msg"]);
            !errors.is_empty() && errors.iter().all(complete)
        }
        Value::Object(about) => about.get("error").is_some_and(text),
        other => text(other),
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(600).collect();
        write!(f, "{} -> {} [{}] {text}", self.asked, self.status, self.header("content-type"))
    }
}

/// What a request holds besides method and address.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Headers, the media type among them.
    pub headers: Vec<(String, String)>,
    /// The body, if any.
    pub body: Option<Vec<u8>>,
}

impl Content {
    /// A body of the given media type.
    pub fn of(media: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { headers: vec![("content-type".to_owned(), media.to_owned())], body: Some(body.into()) }
    }

    /// A JSON body, sent as the very text given.
    pub fn json(text: impl Into<Vec<u8>>) -> Self {
        Self::of("application/json", text)
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The client. Belongs to one runtime; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// Makes a client with its own connections.
    ///
    /// # Panics
    /// When the platform refuses to make one.
    pub fn new() -> Self {
        // Losing the race to install the provider is fine: another test of this process did it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(Duration::from_secs(2))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without options that can fail");
        Self { client }
    }

    /// Sends a request; the error tells whether the connection was refused.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn try_send(
        &self,
        method: &str,
        url: &str,
        content: Content,
        timeout: Duration,
    ) -> Result<Answer, reqwest::Error> {
        let method: reqwest::Method = method.parse().expect("a method's name");
        let asked = format!("{method} {url}");
        let mut request = self.client.request(method, url).timeout(timeout);
        for (name, value) in &content.headers {
            request = request.header(name, value);
        }
        if let Some(body) = content.body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?;
        Ok(Answer { status, headers, body, asked })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send(&self, method: &str, url: &str, content: Content) -> anyhow::Result<Answer> {
        self.try_send(method, url, content, REQUEST_TIMEOUT)
            .await
            .with_context(|| format!("{method} {url} got no answer"))
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        self.send("GET", url, Content::default()).await
    }

    /// Sends a POST without a body.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn post(&self, url: &str) -> anyhow::Result<Answer> {
        self.send("POST", url, Content::default()).await
    }

    /// Sends a POST with a JSON body.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn post_json(&self, url: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("POST", url, Content::json(body.to_string())).await
    }

    /// Sends a DELETE.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn delete(&self, url: &str) -> anyhow::Result<Answer> {
        self.send("DELETE", url, Content::default()).await
    }

    /// Opens a response without reading its body, for streams.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn open(&self, url: &str, accept: &str) -> anyhow::Result<reqwest::Response> {
        self.stream(url, Content::default().with("accept", accept)).await
    }

    /// The same with any headers.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn stream(&self, url: &str, content: Content) -> anyhow::Result<reqwest::Response> {
        let mut request = self.client.get(url);
        for (name, value) in &content.headers {
            request = request.header(name, value);
        }
        request.send().await.with_context(|| format!("GET {url} got no answer"))
    }
}
