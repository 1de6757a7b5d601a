//! One hop to another broker, over pooled connections. Tells "it was not sent" from "who knows".

use super::error::{ApiError, unavailable};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::FORWARD_ANSWER_BYTES_MAX;
use pubsub_core::wire::client::{FORWARDED_HEADER, REQUEST_ID_HEADER};
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
const POOL_IDLE: Duration = Duration::from_secs(30);
const POOL_PER_HOST_MAX: usize = 64;

/// Sends requests to other brokers.
pub(crate) struct Forwarder {
    client: Client<HttpConnector, Full<Bytes>>,
    me: HeaderValue,
}

/// A request for another broker.
pub(crate) struct Hop<'a> {
    /// Base URL of its client listener.
    pub(crate) api_base: &'a str,
    /// Method.
    pub(crate) method: Method,
    /// Path and query, starting with a slash.
    pub(crate) path: &'a str,
    /// Headers beside those of the hop itself.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
    /// Time for the answer to begin.
    pub(crate) within: Duration,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// No connection, so nothing was sent. Definite.
    #[error("no connection to {0}")]
    NotSent(String),
    /// Sent, but no (whole) answer. Ambiguous.
    #[error("no answer from {0}")]
    NoAnswer(String),
}

impl ForwardError {
    /// Returns what a client is told of a request that would have changed something.
    pub(crate) fn of_change(&self) -> ApiError {
        match self {
            Self::NotSent(_) => {
                ApiError::new(ErrorCode::BrokerUnreachable, format!("{self}; nothing was changed"))
                    .ambiguous(false)
                    .retry_after_ms(500)
            }
            Self::NoAnswer(_) => ApiError::new(
                ErrorCode::OutcomeUnknown,
                format!("{self}; the request may or may not take effect"),
            )
            .ambiguous(true),
        }
    }

    /// Returns what a client is told of a request that only looks.
    pub(crate) fn of_read(&self) -> ApiError {
        unavailable(self.to_string())
    }
}

impl Forwarder {
    /// Makes a pool without connections.
    pub(crate) fn new(me: BrokerId) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client, me: HeaderValue::from(me.0) }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// See [`ForwardError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the request may take effect all the same.
    pub(crate) async fn send(&self, hop: Hop<'_>) -> Result<http::Response<Incoming>, ForwardError> {
        let not_sent = || ForwardError::NotSent(hop.api_base.to_owned());
        let base = hop.api_base.trim_end_matches('/');
        let uri: Uri = format!("{base}{}", hop.path).parse().map_err(|_| not_sent())?;
        let mut request = Request::new(Full::new(hop.body));
        *request.method_mut() = hop.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = hop.headers;
        request.headers_mut().insert(FORWARDED_HEADER, self.me.clone());
        match tokio::time::timeout(hop.within, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                tracing::debug!(to = base, %error, "broker not reached");
                Err(ForwardError::NotSent(base.to_owned()))
            }
            Ok(Err(error)) => {
                tracing::debug!(to = base, %error, "forwarded request broke off");
                Err(ForwardError::NoAnswer(base.to_owned()))
            }
            Err(_) => Err(ForwardError::NoAnswer(base.to_owned())),
        }
    }

    /// Sends a request and collects its whole answer.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub(crate) async fn call(&self, hop: Hop<'_>) -> Result<http::Response<Bytes>, ForwardError> {
        let (within, base) = (hop.within, hop.api_base);
        let started = tokio::time::Instant::now();
        let (head, body) = self.send(hop).await?.into_parts();
        let left = within.saturating_sub(started.elapsed());
        let whole = Limited::new(body, FORWARD_ANSWER_BYTES_MAX).collect();
        match tokio::time::timeout(left, whole).await {
            Ok(Ok(body)) => Ok(http::Response::from_parts(head, body.to_bytes())),
            Ok(Err(_)) | Err(_) => Err(ForwardError::NoAnswer(base.to_owned())),
        }
    }
}

/// Headers that belong to one connection, not to the message (RFC 9110 §7.6.1).
const HOP_HEADERS: &[header::HeaderName] = &[
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
];

/// Returns the headers that a passed-on request keeps.
pub(crate) fn carried(headers: &HeaderMap) -> HeaderMap {
    let mut carried = headers.clone();
    for name in HOP_HEADERS {
        carried.remove(name);
    }
    carried.remove("keep-alive");
    carried
}

/// Returns only the headers by which a request is followed from log to log.
pub(crate) fn named(headers: &HeaderMap) -> HeaderMap {
    let mut named = HeaderMap::new();
    for name in [REQUEST_ID_HEADER, "traceparent", "tracestate"] {
        if let Some(value) = headers.get(name) {
            named.insert(name, value.clone());
        }
    }
    named
}

/// Returns another broker's answer unchanged, as a stream.
pub(crate) fn pass(response: http::Response<Incoming>) -> Response {
    let (mut head, body) = response.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    Response::from_parts(head, Body::new(body))
}

/// Reads another broker's error answer; `None` if it is none of ours.
pub(crate) fn problem(response: &http::Response<Bytes>) -> Option<ApiError> {
    let problem: Problem = serde_json::from_slice(response.body()).ok()?;
    Some(ApiError(Box::new(problem)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::TcpListener;

    fn hop(api_base: &str) -> Hop<'_> {
        let within = Duration::from_millis(200);
        Hop {
            api_base,
            method: Method::POST,
            path: "/x",
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within,
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_definite() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Forwarder::new(BrokerId(1)).call(hop(&base)).await.unwrap_err();
        assert!(matches!(error, ForwardError::NotSent(_)), "{error}");
        assert_eq!(error.of_change().0.ambiguous, Some(false));
    }

    #[tokio::test]
    async fn a_silent_peer_is_ambiguous_and_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let error = Forwarder::new(BrokerId(1)).call(hop(&base)).await.unwrap_err();
        assert!(matches!(error, ForwardError::NoAnswer(_)), "{error}");
        assert_eq!(error.of_change().0.ambiguous, Some(true));
    }

    #[tokio::test]
    async fn a_connection_cut_after_sending_is_ambiguous() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let peer = tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 16];
            socket.read_exact(&mut bytes).await.unwrap();
        });
        let error = Forwarder::new(BrokerId(1)).call(hop(&base)).await.unwrap_err();
        peer.await.unwrap();
        assert!(matches!(error, ForwardError::NoAnswer(_)), "{error}");
    }

    #[test]
    fn an_upstream_problem_is_read_back_whole() {
        let problem_sent = Problem { leader: Some(BrokerId(2)), ..Problem::new(ErrorCode::NotLeader, "x") };
        let body = Bytes::from(serde_json::to_vec(&problem_sent).unwrap());
        assert_eq!(*problem(&http::Response::new(body)).unwrap().0, problem_sent);
        assert!(problem(&http::Response::new(Bytes::from_static(b"<html>"))).is_none());
    }
}
