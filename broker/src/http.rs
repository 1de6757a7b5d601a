//! The client API: one router, mounted at the root and at `/v1`. Handlers check, choose and ask; tasks own the state.

mod admin;
#[cfg(test)]
mod any_input;
mod call;
mod error;
mod events;
mod forward;
mod groups;
mod look;
mod openapi;
mod ops;
mod pages;
mod places;
mod poll;
mod polling;
mod publish;
mod query;
mod records;
mod records_in;
mod records_out;
mod start;
mod stream;
mod topics;

use crate::handle::Broker;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};
pub(crate) use call::{Call, Segments};
use error::ApiError;
use http::{HeaderName, HeaderValue, Method, Uri};
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::{EVENT_STREAMS_MAX, STREAMS_MAX};
use pubsub_core::wire::client::{
    BROKER_HEADER, HIGH_WATERMARK_HEADER, LEADER_EPOCH_HEADER, LOG_END_HEADER, METADATA_HEADER,
    REQUEST_ID_HEADER,
};
use pubsub_core::wire::error::ErrorCode;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// Settings of the client API.
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// Origins whose pages may read answers; `*` is any, none switches CORS off.
    pub cors_origins: Vec<String>,
}

/// What every handler has at hand; cloning is cheap.
#[derive(Clone)]
pub(crate) struct App(Arc<AppState>);

/// See [`App`].
pub(crate) struct AppState {
    /// The broker behind the API.
    pub(crate) broker: Broker,
    /// Its id.
    pub(crate) id: BrokerId,
    /// The way to other brokers.
    pub(crate) forwarder: forward::Forwarder,
    /// Counts choices among partitions that are as good as each other.
    pub(crate) turns: AtomicU32,
    /// Counts requests.
    pub(crate) requests: ops::Requests,
    /// Streams of events that are open.
    pub(crate) event_streams: places::Places,
    /// Streams of records that are open.
    pub(crate) record_streams: places::Places,
}

impl Deref for App {
    type Target = AppState;
    fn deref(&self) -> &AppState {
        &self.0
    }
}

/// Returns the client API of a broker.
pub fn router(broker: Broker, config: HttpConfig) -> Router {
    let id = broker.id();
    let requests = ops::Requests::new();
    let state = AppState {
        broker,
        id,
        forwarder: forward::Forwarder::new(id),
        turns: AtomicU32::new(0),
        requests: requests.clone(),
        event_streams: places::Places::new(EVENT_STREAMS_MAX, "events"),
        record_streams: places::Places::new(STREAMS_MAX, "records"),
    };
    let app = App(Arc::new(state));
    wrap(Router::new().merge(routes()).nest("/v1", routes()).with_state(app), id, requests, &config)
}

fn routes() -> Router<App> {
    Router::new()
        .route("/topics/{topic}/publish", post(publish::publish))
        .route("/topics/{topic}/records", get(records::records))
        .route("/topics/{topic}/stream", get(stream::stream))
        .route("/poll", get(poll::poll))
        .route("/subscribe", post(groups::subscribe))
        .route("/unsubscribe", post(groups::unsubscribe))
        .route("/commit", post(groups::commit))
        .route("/groups", get(groups::list))
        .route("/groups/{group}", get(groups::describe).delete(groups::remove))
        .route("/groups/{group}/reset", post(groups::reset::reset))
        .route("/replicas/{topic}", get(look::replicas))
        .route("/metadata", get(look::metadata))
        .route("/admin/leader", get(look::controller))
        .route("/admin/isr", get(look::isr))
        .route("/admin/brokers", get(look::brokers))
        .route("/admin/events", get(events::events))
        .route("/admin/topics", get(look::topics).post(admin::create::create))
        .route("/admin/topics:batch", post(admin::batch::create_many))
        .route("/admin/topics/{name}", get(look::topic).patch(admin::alter).delete(admin::remove::remove))
        .route("/admin/topics/{name}/replicas", post(admin::replicas::add_replica))
        .route(
            "/admin/topics/{name}/replicas/{broker}",
            delete(admin::replicas::remove_replica).post(admin::replicas::add_replica_on),
        )
        .route(
            "/admin/topics/{name}/reassign",
            post(admin::replicas::reassign).delete(admin::replicas::cancel),
        )
        .route("/admin/topics/{name}/elect", post(admin::brokers::elect))
        .route(
            "/admin/brokers/{broker}/drain",
            post(admin::brokers::drain).delete(admin::brokers::cancel_drain),
        )
        .route("/stats", get(ops::stats))
        .route("/metrics", get(ops::metrics))
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/healthz/cluster", get(ops::cluster_health))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
}

/// Puts around routes what every answer has: who answered and to which request, and a problem instead of nothing.
fn wrap(routes: Router, id: BrokerId, requests: ops::Requests, config: &HttpConfig) -> Router {
    let ids = Arc::new(RequestIds::new());
    let stamp = Stamp { broker: HeaderValue::from(id.0), requests, ids };
    let router = routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(error::panicked));
    let router =
        if config.cors_origins.is_empty() { router } else { router.layer(cors(&config.cors_origins)) };
    router.layer(from_fn_with_state(stamp, stamp_answer))
}

fn cors(origins: &[String]) -> CorsLayer {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let shown = [
        "retry-after",
        BROKER_HEADER,
        LEADER_EPOCH_HEADER,
        HIGH_WATERMARK_HEADER,
        LOG_END_HEADER,
        METADATA_HEADER,
        REQUEST_ID_HEADER,
    ];
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(Any)
        .allow_headers(Any)
        .expose_headers(shown.map(HeaderName::from_static))
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        ErrorCode::RouteNotFound,
        format!("Not Found: there is no {method} {path}; /docs lists the routes"),
    )
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("Method Not Allowed: {path} takes no {method}; see /docs"),
    )
}

/// What every answer is stamped with.
#[derive(Clone)]
struct Stamp {
    broker: HeaderValue,
    requests: ops::Requests,
    ids: Arc<RequestIds>,
}

/// Makes request ids: a number of the process, drawn at its start, and one that counts. Drawing every id would ask the
/// kernel for chance with every request.
struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        Self { process: rand::random(), next: AtomicU64::new(0) }
    }

    fn make(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let made = format!("{:016x}{number:016x}", self.process);
        HeaderValue::try_from(made).expect("hexadecimal digits")
    }
}

async fn stamp_answer(State(stamp): State<Stamp>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request.headers().get(REQUEST_ID_HEADER).filter(|id| is_request_id(id)).cloned();
    let id = given.unwrap_or_else(|| stamp.ids.make());
    request.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    stamp.requests.note(
        &method,
        route.as_ref().map(MatchedPath::as_str),
        response.status(),
        started.elapsed(),
    );
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    // A passed-on answer names the broker that made it.
    headers.entry(HeaderName::from_static(BROKER_HEADER)).or_insert(stamp.broker);
    response
}

fn is_request_id(id: &HeaderValue) -> bool {
    id.len() <= 128 && !id.is_empty() && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::body::Body;
    use http::{StatusCode, header};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    fn wrapped() -> Router {
        async fn panics() {
            panic!("a bug");
        }
        async fn takes(call: Call) -> Result<String, ApiError> {
            Ok(call.body().await?.body.len().to_string())
        }
        let routes = || Router::new().route("/panics", get(panics)).route("/body", post(takes));
        let config = HttpConfig { cors_origins: vec!["*".into()] };
        wrap(Router::new().merge(routes()).nest("/v1", routes()), BrokerId(7), ops::Requests::new(), &config)
    }

    async fn answer(request: http::Request<Body>) -> (StatusCode, http::HeaderMap, serde_json::Value) {
        let response = wrapped().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn request(method: Method, path: &str) -> http::Request<Body> {
        http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems_under_both_prefixes() {
        for prefix in ["", "/v1"] {
            let (status, headers, body) = answer(request(Method::GET, &format!("{prefix}/nowhere"))).await;
            assert_eq!((status, body["code"].as_str()), (StatusCode::NOT_FOUND, Some("ROUTE_NOT_FOUND")));
            assert_eq!(headers[BROKER_HEADER], "7");
            let (status, headers, body) = answer(request(Method::GET, &format!("{prefix}/body"))).await;
            assert_eq!(
                (status, body["code"].as_str()),
                (StatusCode::METHOD_NOT_ALLOWED, Some("METHOD_NOT_ALLOWED"))
            );
            assert!(headers.contains_key(REQUEST_ID_HEADER));
        }
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_a_problem() {
        let (status, headers, body) = answer(request(Method::GET, "/v1/panics")).await;
        assert_eq!((status, body["code"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some("INTERNAL")));
        assert_eq!(headers[BROKER_HEADER], "7");
    }

    #[tokio::test]
    async fn a_request_id_is_taken_if_it_is_plain_and_made_if_not() {
        let mut given = request(Method::GET, "/panics");
        given.headers_mut().insert(REQUEST_ID_HEADER, HeaderValue::from_static("abc-1"));
        assert_eq!(answer(given).await.1[REQUEST_ID_HEADER], "abc-1");
        let mut odd = request(Method::GET, "/panics");
        odd.headers_mut().insert(REQUEST_ID_HEADER, HeaderValue::from_static("a b"));
        assert_eq!(answer(odd).await.1[REQUEST_ID_HEADER].len(), 32);
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_a_problem_and_not_a_cut_connection() {
        let big = vec![0_u8; pubsub_core::limits::BODY_BYTES_MAX + 1];
        let told =
            http::Request::builder().method(Method::POST).uri("/body").body(Body::from(big.clone())).unwrap();
        let stream = futures::stream::iter(
            big.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
        );
        let streamed = http::Request::builder()
            .method(Method::POST)
            .uri("/body")
            .body(Body::from_stream(stream))
            .unwrap();
        for request in [told, streamed] {
            let (status, _, body) = answer(request).await;
            assert_eq!(
                (status, body["code"].as_str()),
                (StatusCode::PAYLOAD_TOO_LARGE, Some("BODY_TOO_LARGE"))
            );
        }
    }

    #[tokio::test]
    async fn pages_of_any_origin_may_read_when_configured_so() {
        let mut asked = request(Method::GET, "/panics");
        asked.headers_mut().insert(header::ORIGIN, HeaderValue::from_static("http://page"));
        assert_eq!(answer(asked).await.1[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
