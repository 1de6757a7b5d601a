//! One request to whichever broker answers: rotation, retries, time limits, request ids, and outcomes told apart.
//!
//! The order of things: a try goes to the broker that answered last. Brokers that can't be reached or can't serve now
//! are passed over at once; only after each was tried is there a wait ([`crate::retry`]). A try whose outcome is not
//! known (the connection broke after the request was sent, or a broker says so) is repeated only if the request is
//! [`Effect::Repeatable`].

mod open;
mod request;

pub use request::{Effect, Request, segment};

use crate::brokers::{BrokerBook, InvalidBroker, base_url};
use crate::retry::{Backoff, RetryPolicy};
use bytes::{Bytes, BytesMut};
use pubsub_core::wire::client::REQUEST_ID_HEADER;
use pubsub_core::wire::error::{ErrorCode, Problem};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Largest answer that is read, bytes: several times the largest poll answer as JSON.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Characters shown of an error answer that is no problem body.
const FOREIGN_TEXT_MAX: usize = 200;

/// How a client reaches its brokers.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Longest wait for a TCP (and TLS) connection.
    pub connect_timeout: Duration,
    /// Longest wait for one answer that is no long-poll, from the first byte sent to the last one received.
    pub answer_timeout: Duration,
    /// Between tries.
    pub retry: RetryPolicy,
    /// Certificates (PEM) of the authorities that `https://` brokers are checked against; no others are trusted.
    pub ca_pem: Vec<Vec<u8>>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(10),
            retry: RetryPolicy::default(),
            ca_pem: Vec::new(),
        }
    }
}

/// What a broker answered to a request that it accepted.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Address of the broker that was asked.
    pub broker: String,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// Body of the answer.
    pub body: Bytes,
    /// How many tries failed before this one.
    pub retries: u32,
    /// How many of them may have been carried out all the same.
    pub unknown_tries: u32,
}

impl Answer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`CallError::Malformed`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|source| CallError::Malformed {
            broker: self.broker.clone(),
            reason: source.to_string(),
        })
    }

    /// Returns a header's text, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why a request got no answer that the caller asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// A broker said no, and asking again would not help. Nothing was done.
    #[error("{} ({})", problem.detail, problem.code)]
    Refused {
        /// Address of the broker.
        broker: String,
        /// Its reasons.
        problem: Box<Problem>,
    },
    /// No broker took the request before the deadline. Nothing was done.
    #[error("no broker could take the request in {tries} tries within {:.1} s; last: {last}", waited.as_secs_f64())]
    Unavailable {
        /// How many tries were made.
        tries: u32,
        /// For how long.
        waited: Duration,
        /// What went wrong in the last one.
        last: String,
    },
    /// The request may or may not have been carried out.
    #[error("the outcome of the request is not known: {last} (request id {request_id})")]
    Unknown {
        /// What went wrong.
        last: String,
        /// Under which brokers' logs name it.
        request_id: String,
    },
    /// A broker's answer is not what this client understands; the request was carried out.
    #[error("the answer of {broker} can't be read: {reason}")]
    Malformed {
        /// Address of the broker.
        broker: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl CallError {
    /// Returns the problem if a broker refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            Self::Unavailable { .. } | Self::Unknown { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// See [`InvalidBroker`].
    #[error(transparent)]
    Broker(#[from] InvalidBroker),
    /// A certificate of an authority can't be read, or the HTTP client can't be set up.
    #[error("can't set up the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// What to do after one try that got no answer to keep.
#[derive(Debug)]
enum Verdict {
    /// Nothing was done; another broker may do it.
    Again {
        /// What the broker asked for.
        at_least: Duration,
    },
    /// Nothing was done; the same broker will do it later.
    SlowDown {
        /// What the broker asked for.
        at_least: Duration,
    },
    /// It may have been done.
    Unknown,
    /// Nothing was done and no try will change that.
    No(Box<Problem>),
}

struct Failure {
    verdict: Verdict,
    what: String,
}

/// Decides what an answer other than success means.
///
/// A broker says itself whether the outcome is known (`ambiguous`). Where it does not (another version, a proxy in
/// between), 5xx means not known, but for 503: it is answered before anything is done.
fn judge(status: StatusCode, problem: Problem) -> Verdict {
    let at_least = Duration::from_millis(problem.retry_after_ms.unwrap_or(0));
    match (status.as_u16(), problem.ambiguous) {
        (_, Some(true)) => Verdict::Unknown,
        (429, _) => Verdict::SlowDown { at_least },
        // A leader that was replaced and does not know it lacks what its successor took.
        (409, _) if problem.code == ErrorCode::OutOfOrder => Verdict::Again { at_least },
        (503 | 421 | 425, _) | (502 | 504, Some(false)) => Verdict::Again { at_least },
        (507, _) | (500.., Some(false)) => Verdict::No(Box::new(problem)),
        (500.., None) => Verdict::Unknown,
        _ => Verdict::No(Box::new(problem)),
    }
}

/// Sends requests to a set of brokers. Cloning is cheap, and clones share what they learn.
#[derive(Clone, Debug)]
pub struct Transport {
    http: reqwest::Client,
    book: Arc<Mutex<BrokerBook>>,
    config: Arc<TransportConfig>,
    ids: Arc<RequestIds>,
}

#[derive(Debug)]
struct RequestIds {
    prefix: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn next(&self) -> String {
        format!("{:016x}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Transport {
    /// Makes a transport to the brokers at `urls`; nothing is sent yet.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn new<S: AsRef<str>>(urls: &[S], config: TransportConfig) -> Result<Self, ConnectError> {
        let urls: Vec<String> = urls.iter().map(|url| base_url(url.as_ref())).collect::<Result<_, _>>()?;
        let book = BrokerBook::new(urls)?;
        Ok(Self {
            http: http_client(&config)?,
            book: Arc::new(Mutex::new(book)),
            config: Arc::new(config),
            ids: Arc::new(RequestIds { prefix: rand::random(), next: AtomicU64::new(1) }),
        })
    }

    /// Returns a transport that shares connections but picks and learns brokers on its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let book = self.with_book(|book| book.clone());
        Self { book: Arc::new(Mutex::new(book)), ..self.clone() }
    }

    /// Returns a transport that shares connections but asks only the broker at `url`.
    ///
    /// # Errors
    /// See [`InvalidBroker`].
    pub fn only(&self, url: &str) -> Result<Self, InvalidBroker> {
        let book = BrokerBook::new([base_url(url)?])?;
        Ok(Self { book: Arc::new(Mutex::new(book)), ..self.clone() })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &TransportConfig {
        &self.config
    }

    /// Returns the addresses known now, learned ones included.
    pub fn brokers(&self) -> Vec<String> {
        self.with_book(|book| book.urls())
    }

    /// Adds brokers that an answer named; addresses that are none are passed over.
    pub fn learn<S: AsRef<str>>(&self, urls: impl IntoIterator<Item = S>) {
        let urls: Vec<String> = urls.into_iter().filter_map(|url| base_url(url.as_ref()).ok()).collect();
        self.with_book(|book| book.learn(urls));
    }

    /// Asks the broker at `url` first from now on, if it is known.
    pub fn prefer(&self, url: &str) {
        self.with_book(|book| book.prefer(url));
    }

    /// Asks another broker than the one at `url` next.
    pub fn avoid(&self, url: &str) {
        self.with_book(|book| book.failed(url, Instant::now()));
    }

    /// Sends a request and reads the answer's body as JSON.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Cancel safety
    /// As [`Transport::send`].
    pub async fn json<T: DeserializeOwned>(&self, request: Request) -> Result<T, CallError> {
        self.send(request).await?.json()
    }

    /// Sends a request to one broker after the other until one answers.
    ///
    /// # Errors
    /// See [`CallError`]: each variant says whether anything was done.
    ///
    /// # Cancel safety
    /// Dropping the future does not take back a request that was sent: whether it was carried out is then not known.
    pub async fn send(&self, request: Request) -> Result<Answer, CallError> {
        let policy = self.config.retry;
        let mut backoff = Backoff::start(policy.within(request.deadline.unwrap_or(policy.deadline)));
        let request_id = self.ids.next();
        let (mut tries, mut unknown_tries, mut round) = (0_u32, 0_u32, 0_usize);
        loop {
            let broker = self.with_book(|book| book.pick(Instant::now()).to_owned());
            let failure = match self.attempt(&broker, &request, &request_id).await {
                Ok(answer) => {
                    self.with_book(|book| book.succeeded(&broker));
                    return Ok(Answer { retries: tries, unknown_tries, ..answer });
                }
                Err(failure) => failure,
            };
            tries = tries.saturating_add(1);
            tracing::debug!(%broker, %request_id, tries, what = %failure.what, "request was not answered");
            let mut at_least = Duration::ZERO;
            match failure.verdict {
                Verdict::No(problem) if unknown_tries == 0 => {
                    return Err(CallError::Refused { broker, problem });
                }
                Verdict::No(_) => return Err(CallError::Unknown { last: failure.what, request_id }),
                Verdict::Unknown if request.effect == Effect::Once => {
                    return Err(CallError::Unknown { last: failure.what, request_id });
                }
                Verdict::Unknown => unknown_tries = unknown_tries.saturating_add(1),
                Verdict::Again { at_least: asked } => at_least = asked.min(policy.cap),
                Verdict::SlowDown { at_least: asked } => {
                    at_least = asked;
                    round = usize::MAX - 1;
                }
            }
            round += 1;
            if round != usize::MAX {
                self.avoid(&broker);
                if round < self.with_book(|book| book.len()) && !backoff.left().is_zero() {
                    continue;
                }
            }
            round = 0;
            if !backoff.wait(at_least).await {
                return Err(if unknown_tries > 0 && request.method != Method::GET {
                    CallError::Unknown { last: failure.what, request_id }
                } else {
                    CallError::Unavailable { tries, waited: backoff.elapsed(), last: failure.what }
                });
            }
        }
    }

    async fn attempt(&self, broker: &str, request: &Request, request_id: &str) -> Result<Answer, Failure> {
        let response = self.build(broker, request, request_id).send().await.map_err(|e| lost(broker, &e))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let Some(body) = read_body(response).await.map_err(|e| lost(broker, &e))? else {
            let what = format!("{broker}: the answer is larger than {ANSWER_BYTES_MAX} bytes");
            return Err(Failure { verdict: Verdict::Unknown, what });
        };
        if status.is_success() {
            return Ok(Answer { broker: broker.to_owned(), headers, body, retries: 0, unknown_tries: 0 });
        }
        let problem = problem_of(status, &headers, &body);
        if problem.code == ErrorCode::NotLeader
            && let Some(leader) = problem.leader_api_base.as_deref().and_then(|base| base_url(base).ok())
        {
            self.with_book(|book| {
                book.learn([leader.clone()]);
                book.prefer(&leader);
            });
        }
        let what = format!("{broker}: {} ({} {})", problem.detail, status.as_u16(), problem.code);
        Err(Failure { verdict: judge(status, problem), what })
    }

    fn build(&self, broker: &str, request: &Request, request_id: &str) -> reqwest::RequestBuilder {
        let mut builder = self
            .http
            .request(request.method.clone(), format!("{broker}{}", request.path))
            .timeout(request.patience.unwrap_or(self.config.answer_timeout))
            .header(REQUEST_ID_HEADER, request_id);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some((media_type, bytes)) = &request.body {
            builder = builder.header(CONTENT_TYPE, media_type).body(bytes.clone());
        }
        builder
    }

    fn with_book<T>(&self, act: impl FnOnce(&mut BrokerBook) -> T) -> T {
        act(&mut self.book.lock().expect("no code panics while it holds the book"))
    }
}

fn http_client(config: &TransportConfig) -> Result<reqwest::Client, ConnectError> {
    // Fails only if a provider was installed before, and then that one serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut authorities = Vec::new();
    for pem in &config.ca_pem {
        authorities.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(ConnectError::Http)?);
    }
    // Trusting exactly the given authorities also works in images without any certificates of their own, where the
    // platform's store can't be opened.
    reqwest::Client::builder()
        .tls_certs_only(authorities)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.connect_timeout)
        .user_agent(concat!("pubsub-client/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(ConnectError::Http)
}

/// Reads an error answer; one that is no problem body comes from something between client and broker.
fn problem_of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Problem {
    let mut problem = serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).chars().take(FOREIGN_TEXT_MAX).collect();
        let detail = if text.trim().is_empty() { format!("status {status} without a reason") } else { text };
        Problem { status: status.as_u16(), ..Problem::new(ErrorCode::Other, detail) }
    });
    let seconds =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    problem.retry_after_ms =
        problem.retry_after_ms.or(seconds.map(|seconds: u64| seconds.saturating_mul(1000)));
    problem
}

/// What a try means that broke off on the way.
fn lost(broker: &str, error: &reqwest::Error) -> Failure {
    // Without a connection nothing was sent; everything later may have reached the broker.
    let verdict = if error.is_connect() || error.is_builder() {
        Verdict::Again { at_least: Duration::ZERO }
    } else {
        Verdict::Unknown
    };
    Failure { verdict, what: describe(broker, error) }
}

async fn read_body(mut response: reqwest::Response) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// Says in one line what went wrong on the way; the innermost cause is what helps.
fn describe(broker: &str, error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() {
        return format!("{broker}: no answer in time");
    }
    format!("{broker}: {cause}")
}
