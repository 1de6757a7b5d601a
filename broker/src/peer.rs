//! Requests to other brokers' peer listeners: signed, pooled, bounded in time.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret, UNSIGNED};
use pubsub_core::limits::BODY_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;

/// Why a peer did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// Nothing listens there: the request was certainly not seen.
    #[error("the peer's port refused the connection")]
    Refused,
    /// No answer in time; the request may have been seen.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The connection broke, or the answer was unusable; the request may have been seen.
    #[error("the connection to the peer broke")]
    Broken,
    /// The URL of the peer is not one.
    #[error("the peer's address is not a URL")]
    BadAddress,
}

/// A peer's answer.
#[derive(Debug)]
pub(crate) struct PeerAnswer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Body.
    pub(crate) body: Bytes,
}

/// Sends requests to peers; cloning shares the connections.
#[derive(Clone)]
pub(crate) struct PeerClient {
    client: Client<HttpConnector, Full<Bytes>>,
    secret: Option<Arc<PeerSecret>>,
}

impl PeerClient {
    /// Makes a client that signs with `secret`, if there is one.
    pub(crate) fn new(secret: Option<Arc<PeerSecret>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(1_000)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { client, secret }
    }

    /// Posts `body` to `base` + `path` and waits for the whole answer, at most `timeout`.
    ///
    /// # Errors
    /// See [`PeerError`]; only `Refused` and `BadAddress` are definite.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the peer saw the request.
    pub(crate) async fn post(
        &self,
        base: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<PeerAnswer, PeerError> {
        let uri: Uri = format!("{base}{path}").parse().map_err(|_| PeerError::BadAddress)?;
        let signature = self.secret.as_ref().map(|secret| secret.sign("POST", path, &body));
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(PEER_AUTH_HEADER, signature.as_deref().unwrap_or(UNSIGNED))
            .body(Full::new(body))
            .map_err(|_| PeerError::BadAddress)?;
        match tokio::time::timeout(timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::TimedOut),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<PeerAnswer, PeerError> {
        let answer = self.client.request(request).await.map_err(|error| {
            if error.is_connect() && is_refused(&error) { PeerError::Refused } else { PeerError::Broken }
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|_| PeerError::Broken)?.to_bytes();
        Ok(PeerAnswer { status, body })
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = error.source();
    }
    false
}
