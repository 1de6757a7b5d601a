//! A request as handlers take it: its head at once, its body when they ask for it.

use super::error::{ApiError, ApiResult};
use super::records_in::json_fault;
use axum::body::Body;
use axum::body::HttpBody as _;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use http_body_util::BodyExt;
use pubsub_core::limits::{BODY_BYTES_MAX, BODY_DISCARDED_MAX, BODY_TIMEOUT_MS};
use pubsub_core::wire::client::FORWARDED_HEADER;
use pubsub_core::wire::error::ErrorCode;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::time::Duration;

/// The named parts of a request's path.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(head, state).await {
            Ok(Path(parts)) => Ok(Self(parts)),
            Err(refused) => Err(ApiError::field("value_error", &["path"], refused.body_text())),
        }
    }
}

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
        let broken = |msg: &str| ApiError::field("body_incomplete", &["body"], msg);
        let body =
            match tokio::time::timeout(Duration::from_millis(BODY_TIMEOUT_MS), collect(self.body)).await {
                Ok(Ok(Some(body))) => body,
                Ok(Ok(None)) => return Err(body_too_large()),
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
        if self.body.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| *byte != b'{') {
            return Err(ApiError::field("json_invalid", &["body"], "send a JSON object"));
        }
        serde_json::from_slice(&self.body).map_err(|error| json_fault(&error, &["body"]))
    }
}

/// Collects a body; `None` if it is too large. Some of what is too much is read all the same: a sender that is cut off
/// while it still writes would see a broken connection instead of the answer.
async fn collect(mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut whole = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length > BODY_BYTES_MAX + BODY_DISCARDED_MAX {
            return Ok(None);
        }
        if length > BODY_BYTES_MAX {
            whole = BytesMut::new();
        } else if body.is_end_stream() && whole.is_empty() {
            return Ok(Some(data));
        } else {
            whole.extend_from_slice(&data);
        }
    }
    Ok((length <= BODY_BYTES_MAX).then(|| whole.freeze()))
}

fn body_too_large() -> ApiError {
    let detail = format!("a body has at most {BODY_BYTES_MAX} bytes; send several requests");
    ApiError::new(ErrorCode::BodyTooLarge, detail).ambiguous(false)
}
