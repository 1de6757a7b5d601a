//! A request as handlers take it: its head at once, its body when they ask for it.

use super::error::{ApiError, ApiResult};
use super::records_in::json_fault;
use axum::body::Body;
use axum::body::HttpBody as _;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use pubsub_core::limits::{BODY_BYTES_MAX, BODY_TIMEOUT_MS};
use pubsub_core::wire::client::FORWARDED_HEADER;
use pubsub_core::wire::error::ErrorCode;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::time::Duration;

/// One request.
pub(crate) struct Call {
    /// Its method.
    pub(crate) method: Method,
    /// Its target, as it came in.
    pub(crate) uri: Uri,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    body: Body,
}

/// A request whose body has arrived.
pub(crate) struct Whole {
    /// Its method.
    pub(crate) method: Method,
    /// Its target, as it came in.
    pub(crate) uri: Uri,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

impl<S: Sync> FromRequest<S> for Call {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let (head, body) = request.into_parts();
        // Below a nested router the target lacks its prefix; what is passed on needs none, the routes are the same.
        Ok(Self { method: head.method, uri: head.uri, headers: head.headers, body })
    }
}

impl Call {
    /// Returns what follows the question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// Returns whether another broker passed the request on.
    pub(crate) fn forwarded(&self) -> bool {
        self.headers.contains_key(FORWARDED_HEADER)
    }

    /// Waits for the body.
    ///
    /// # Errors
    /// 413 past the limit; 422 when it breaks off or takes too long.
    pub(crate) async fn body(self) -> ApiResult<Whole> {
        let told = self.body.size_hint().lower();
        if told > u64::try_from(BODY_BYTES_MAX).expect("fits") {
            return Err(body_too_large());
        }
        let arrive = Limited::new(self.body, BODY_BYTES_MAX).collect();
        let broken = |msg: &str| ApiError::field("body_incomplete", &["body"], msg);
        let body = match tokio::time::timeout(Duration::from_millis(BODY_TIMEOUT_MS), arrive).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(body_too_large()),
            Ok(Err(_)) => return Err(broken("the body broke off")),
            Err(_) => return Err(broken("the body took too long to arrive")),
        };
        Ok(Whole { method: self.method, uri: self.uri, headers: self.headers, body })
    }
}

impl Whole {
    /// Returns whether another broker passed the request on.
    pub(crate) fn forwarded(&self) -> bool {
        self.headers.contains_key(FORWARDED_HEADER)
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// 422 with the place of the fault.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> ApiResult<T> {
        if !self.body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte == b'{') {
            return Err(ApiError::field("json_invalid", &["body"], "send a JSON object"));
        }
        serde_json::from_slice(&self.body).map_err(|error| json_fault(&error, &["body"]))
    }
}

fn body_too_large() -> ApiError {
    let detail = format!("a body has at most {BODY_BYTES_MAX} bytes; send several requests");
    ApiError::new(ErrorCode::BodyTooLarge, detail).ambiguous(false)
}
