//! The HTTP surface: `GET /brokers`, `POST /register`, probes and metrics.

use crate::registry::{Listed, RegisterError};
use crate::service::{Service, Stopping};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret};
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::DISCOVERY_BODY_BYTES_MAX;
use pubsub_core::wire::discovery::{DiscoveryEndpoint, DiscoveryMap};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the handlers share.
#[derive(Clone)]
pub struct State {
    service: Service,
    secret: Option<PeerSecret>,
    stop: CancellationToken,
}

impl State {
    pub(crate) fn new(service: Service, secret: Option<PeerSecret>, stop: CancellationToken) -> Self {
        Self { service, secret, stop }
    }
}

pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route("/brokers", get(brokers))
        .route("/register", post(register))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(DISCOVERY_BODY_BYTES_MAX))
        .with_state(state)
}

/// A [`DiscoveryMap`] with what people want to know beside it; readers of the map skip the rest.
#[derive(Serialize)]
struct BrokersReply {
    instance: Uuid,
    seq: u64,
    brokers: Vec<BrokerReply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    genesis_voters: Option<Vec<BrokerId>>,
}

#[derive(Serialize)]
struct BrokerReply {
    #[serde(flatten)]
    endpoint: DiscoveryEndpoint,
    silent_ms: u64,
    stale: bool,
}

impl From<Listed> for BrokerReply {
    fn from(listed: Listed) -> Self {
        Self { endpoint: listed.endpoint, silent_ms: listed.silent_ms, stale: listed.stale }
    }
}

async fn brokers(Extract(state): Extract<State>) -> Result<Json<BrokersReply>, Problem> {
    let (map, listed) = state.service.list().await?;
    Ok(Json(BrokersReply {
        instance: map.instance,
        seq: map.seq,
        brokers: listed.into_iter().map(BrokerReply::from).collect(),
        genesis_voters: map.genesis_voters.clone(),
    }))
}

async fn register(
    Extract(state): Extract<State>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<DiscoveryMap>, Problem> {
    let result = register_signed(&state, &uri, &headers, body).await;
    if result.is_err() {
        state.service.metrics().refused();
    }
    result
}

async fn register_signed(
    state: &State,
    uri: &Uri,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<DiscoveryMap>, Problem> {
    let body = body.map_err(Problem::from)?;
    if let Some(secret) = &state.secret {
        let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
        let signature =
            headers.get(PEER_AUTH_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !secret.verify("POST", path, &body, signature) {
            return Err(Problem::unsigned());
        }
    }
    let endpoint: DiscoveryEndpoint = serde_json::from_slice(&body).map_err(Problem::from)?;
    let map = state.service.register(endpoint).await??;
    Ok(Json(DiscoveryMap::clone(&map)))
}

async fn readyz(Extract(state): Extract<State>) -> Result<&'static str, Problem> {
    if state.stop.is_cancelled() { Err(Stopping.into()) } else { Ok("ok\n") }
}

async fn metrics(Extract(state): Extract<State>) -> Result<impl IntoResponse, Problem> {
    let (_, listed) = state.service.list().await?;
    let text = state.service.metrics().render(&listed);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// An error answer as of RFC 9457.
struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    fn unsigned() -> Self {
        let detail = format!(
            "the request has no valid {PEER_AUTH_HEADER} header: \
             give the broker the same PUBSUB_CLUSTER_SECRET as the discovery service"
        );
        Self { status: StatusCode::UNAUTHORIZED, code: "UNAUTHENTICATED", detail }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        let (status, code) = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            _ => (StatusCode::BAD_REQUEST, "BODY_UNREADABLE"),
        };
        Self { status, code, detail: rejection.body_text() }
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        let detail = format!("the body is not a broker's endpoint: {error}");
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, code: "INVALID_BODY", detail }
    }
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let (status, code) = match &error {
            RegisterError::Field { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "INVALID_FIELD"),
            RegisterError::Full => (StatusCode::INSUFFICIENT_STORAGE, "TOO_MANY_BROKERS"),
        };
        Self { status, code, detail: error.to_string() }
    }
}

impl From<Stopping> for Problem {
    fn from(stopping: Stopping) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "STOPPING", detail: stopping.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = serde_json::json!({
            "type": "about:blank", "title": title, "status": self.status.as_u16(),
            "detail": self.detail, "code": self.code,
        });
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}
