//! The peer listener (the election port): what brokers and discovery tell this broker. Every request is signed with the
//! cluster secret; without one the listener is bound to loopback only.

use crate::control::{ControlHandle, ToControl};
use crate::discovery::DiscoveryHandle;
use crate::groups::GroupsHandle;
use crate::replicas::ReplicasHandle;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret};
use pubsub_core::control::{Command, Input};
use pubsub_core::group::GroupRequest;
use pubsub_core::ids::{BrokerId, ClusterId};
use pubsub_core::limits::{BODY_BYTES_MAX, PROTO};
use pubsub_core::wire::discovery::DiscoveryMap;
use pubsub_core::wire::internal::{MessageBundle, Misdirected, misdirected};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// What the listener hands requests to.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) me: BrokerId,
    pub(crate) secret: Option<Arc<PeerSecret>>,
    pub(crate) control: ControlHandle,
    pub(crate) replicas: ReplicasHandle,
    pub(crate) groups: GroupsHandle,
    pub(crate) discovery: DiscoveryHandle,
}

/// Builds the routes of the peer listener.
pub(crate) fn router(peers: Peers) -> Router {
    Router::new()
        .route("/internal/messages", post(messages))
        .route("/internal/replicate", post(replicate))
        .route("/internal/group", post(group))
        .route("/internal/command", post(command))
        .route("/internal/discovery/update", post(discovered))
        .layer(from_fn_with_state(peers.secret.clone(), authenticate))
        .layer(DefaultBodyLimit::disable())
        .with_state(peers)
}

fn refuse(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("refused");
    let body = serde_json::json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail,
    });
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}

/// Refuses what is not signed by the cluster's secret, before anything is parsed, and what names no signature before
/// anything is read. Without a secret the header must still be there: a page in a browser of this machine can reach a
/// loopback port, but can't add a header unless the server allows it first.
async fn authenticate(
    State(secret): State<Option<Arc<PeerSecret>>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let signature = parts.headers.get(PEER_AUTH_HEADER).and_then(|value| value.to_str().ok());
    let Some(signature) = signature else { return unauthenticated() };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
            "the body is larger than any peer sends",
        );
    };
    if let Some(secret) = &secret {
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        if !secret.verify(parts.method.as_str(), path, &body, signature) {
            return unauthenticated();
        }
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn unauthenticated() -> Response {
    refuse(
        StatusCode::UNAUTHORIZED,
        "UNAUTHENTICATED",
        "the request is not signed with this cluster's secret: set PUBSUB_CLUSTER_SECRET alike everywhere",
    )
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(body)
        .map_err(|error| Box::new(refuse(StatusCode::UNPROCESSABLE_ENTITY, "MALFORMED", &error.to_string())))
}

/// Returns why a sender is not to be listened to: it means another broker, or belongs to another cluster.
fn refusal(peers: &Peers, to: BrokerId, cluster: Option<ClusterId>) -> Option<Response> {
    let mine = *peers.control.cluster.borrow();
    let (code, detail) = match misdirected(peers.me, mine, to, cluster)? {
        Misdirected::OtherBroker => ("OTHER_BROKER", "another broker has this address now"),
        Misdirected::OtherCluster => {
            tracing::error!(theirs = ?cluster, ours = ?mine, "a broker of another cluster sent a request");
            ("OTHER_CLUSTER", "this broker is of another cluster")
        }
    };
    Some(refuse(StatusCode::MISDIRECTED_REQUEST, code, detail))
}

async fn messages(State(peers): State<Peers>, body: Bytes) -> Response {
    let bundle: MessageBundle = match parse(&body) {
        Ok(bundle) => bundle,
        Err(refusal) => return *refusal,
    };
    let header = bundle.header;
    if header.proto != PROTO {
        return refuse(
            StatusCode::UPGRADE_REQUIRED,
            "OTHER_PROTOCOL",
            "this build does not speak that version",
        );
    }
    if let Some(refusal) = refusal(&peers, header.to, header.cluster_id) {
        return refusal;
    }
    for message in bundle.messages {
        let input = Input::Message { from: header.from, from_storage: header.from_storage, message };
        if peers.control.inbox.send(ToControl::Input(input)).await.is_err() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "this broker is stopping");
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Deserialize)]
struct Link {
    from: u32,
    to: u32,
    cluster: Option<ClusterId>,
}

async fn replicate(State(peers): State<Peers>, Query(link): Query<Link>, body: Bytes) -> Response {
    if let Some(refusal) = refusal(&peers, BrokerId(link.to), link.cluster) {
        return refusal;
    }
    let request = match pubsub_core::wire::replicate::decode(body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, "MALFORMED", &error.to_string()),
    };
    match peers.replicas.replicate(BrokerId(link.from), request).await {
        Some(reply) => axum::Json(reply).into_response(),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "this broker is stopping"),
    }
}

async fn group(State(peers): State<Peers>, body: Bytes) -> Response {
    match parse::<GroupRequest>(&body) {
        Ok(request) => axum::Json(peers.groups.here(request).await).into_response(),
        Err(refusal) => *refusal,
    }
}

async fn command(State(peers): State<Peers>, body: Bytes) -> Response {
    match parse::<Command>(&body) {
        Ok(command) => axum::Json(peers.control.propose(command).await).into_response(),
        Err(refusal) => *refusal,
    }
}

async fn discovered(State(peers): State<Peers>, body: Bytes) -> Response {
    match parse::<DiscoveryMap>(&body) {
        Ok(map) => {
            peers.discovery.learn(map).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refusal) => *refusal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_client::peer_auth::UNSIGNED;
    use tower::ServiceExt;

    async fn status(secret: Option<&str>, header: Option<&str>) -> StatusCode {
        let secret = secret.map(|text| Arc::new(PeerSecret::new(text).unwrap()));
        let router = Router::new()
            .route("/internal/messages", post(async || StatusCode::NO_CONTENT))
            .layer(from_fn_with_state(secret, authenticate));
        let mut request = Request::post("/internal/messages");
        if let Some(header) = header {
            request = request.header(PEER_AUTH_HEADER, header);
        }
        router.oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn without_a_secret_a_page_in_a_browser_still_reaches_nothing() {
        assert_eq!(status(None, None).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(None, Some(UNSIGNED)).await, StatusCode::NO_CONTENT);
    }

    #[tokio::test]
    async fn with_a_secret_only_its_signature_opens() {
        let text = "correct horse battery staple";
        let signature = PeerSecret::new(text).unwrap().sign("POST", "/internal/messages", b"{}");
        assert_eq!(status(Some(text), Some(&signature)).await, StatusCode::NO_CONTENT);
        for other in [None, Some(UNSIGNED), Some("00")] {
            assert_eq!(status(Some(text), other).await, StatusCode::UNAUTHORIZED);
        }
    }
}
