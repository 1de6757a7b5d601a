//! A topic followed live as server-sent events: `GET /topics/{topic}/stream`, and `/records` for who accepts events.
//!
//! A stream of a group is a member that polls: it joins, renews and commits as long-polling consumers do. Any broker
//! serves it, reading from wherever the replicas are, so that a client can go on at any other.

mod follower;
mod member;
mod write;

use super::error::{ApiError, ApiResult};
use super::poll::reader;
use super::query::Query;
use super::start::{STARTS, Start};
use super::topics::Topic;
use super::{App, Call, Segments};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use follower::Follower;
use http::{HeaderMap, HeaderValue, Method, header};
use pubsub_core::group::Reader;
use pubsub_core::group::stream::{Commits, parse_id};
use pubsub_core::ids::{ConsumerId, GroupId};
use pubsub_core::limits::STREAM_PIECE_BYTES;
use pubsub_core::wire::error::Problem;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Records of one piece.
const RECORDS: u32 = 500;

/// What is to be followed.
struct Wanted {
    reader: Reader,
    consumer: Option<ConsumerId>,
    /// The only partition; without it those that the reader may read.
    only: Option<u32>,
    start: Start,
    commits: Commits,
    /// The last event of each partition that the client has.
    resumed: BTreeMap<u32, i64>,
    /// Records of one piece, and about so many bytes.
    limits: (u32, usize),
}

/// Follows a topic live.
///
/// Server-sent events: `record` as in a poll; `control` with positions, high watermarks and lag, at least every 5 s;
/// `rebalance` with the partitions of a group's member, at the beginning and whenever they change; `error` with a problem,
/// before the stream ends. Ids are `partition:offset,…`: who comes back to any broker with `Last-Event-ID` goes on behind
/// it. With a group the client is a member as long as it reads; where no partition is left it waits for one.
#[utoipa::path(
    get, path = "/topics/{topic}/stream", tag = "read",
    params(
        ("topic" = String, Path, description = "The topic's name"),
        ("group_id" = Option<String>, Query, description = "Read on behalf of a group, which shares the partitions"),
        ("consumer_id" = Option<String>, Query, description = "Who reads; required with a group. Another stream of that name ends"),
        ("partition" = Option<u32>, Query, minimum = 0, description = "Read only this one; not with a group"),
        ("from" = Option<String>, Query, description = "Where to begin in a partition of which nothing was finished: `earliest` (default), `latest`, an offset, `timestamp:<ms since 1970>`, or a time as in RFC 3339"),
        ("commit" = Option<String>, Query, description = "`auto` (default): what was sent, once later events were sent too; `manual`: by `POST /commit`"),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event: what browsers send when they connect again"),
    ),
    responses(
        (status = 200, description = "Events", content((String = "text/event-stream"))),
        (status = 400, description = "CONSUMER_REQUIRED", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 409, description = "GROUP_BUSY: the group has as many members as fit", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
        (status = 503, description = "OVERLOADED: too many streams are open here; UNAVAILABLE", body = Problem),
    )
)]
pub(crate) async fn stream(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let wanted = wanted(&call)?;
    let topic = app.topic(&name, call.forwarded()).await?;
    if let Some(partition) = wanted.only {
        topic.partition(partition)?;
    }
    // A look at the headers must not fence the member whose stream is open.
    if call.method == Method::HEAD {
        return Ok(events(Body::empty()));
    }
    open(app, topic, wanted, call.headers).await
}

/// Follows one partition without a position.
///
/// # Errors
/// 422 for a `Last-Event-ID` that is none; 503 if too many streams are open.
pub(super) async fn follow(
    app: App,
    topic: Topic,
    partition: u32,
    start: Start,
    limits: (u32, usize),
    headers: HeaderMap,
) -> ApiResult<Response> {
    let mut resumed = resumed(&headers)?;
    resumed.retain(|of, _| *of == partition);
    let wanted = Wanted {
        reader: Reader::Anonymous,
        consumer: None,
        only: Some(partition),
        start,
        commits: Commits::Never,
        resumed,
        limits,
    };
    open(app, topic, wanted, headers).await
}

async fn open(app: App, topic: Topic, wanted: Wanted, headers: HeaderMap) -> ApiResult<Response> {
    let place = app.record_streams.enter()?;
    let follower = Follower::open(app, topic, wanted, headers, place).await?;
    let pieces = futures::stream::unfold(follower, async |mut follower| {
        let piece = follower.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), follower))
    });
    Ok(events(Body::from_stream(pieces)))
}

fn events(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that gather answers would hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// Reads `Last-Event-ID`.
///
/// # Errors
/// 422 if it is none of ours: a client that silently began elsewhere would miss records, or get them twice.
fn resumed(headers: &HeaderMap) -> ApiResult<BTreeMap<u32, i64>> {
    let Some(last) = headers.get("last-event-id").filter(|last| !last.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    last.to_str().ok().and_then(parse_id).ok_or_else(|| {
        let msg = "use the id of an event of this stream, partition:offset pairs with commas between, or leave it out";
        ApiError::field("value_error", &["header", "Last-Event-ID"], msg)
    })
}

fn wanted(call: &Call) -> ApiResult<Wanted> {
    let mut query = Query::parse(call.query());
    let group: Option<GroupId> = query.checked("group_id");
    let consumer: Option<ConsumerId> = query.checked("consumer_id");
    let only = query.number("partition", 0, u32::MAX);
    if only.is_some() && group.is_some() {
        query.fault("value_error", "partition", "leave it out: a group's members share the partitions");
    }
    let start = Start::parse(query.text("from").unwrap_or("earliest"));
    if start.is_none() {
        query.fault("value_error", "from", STARTS);
    }
    let has_position = group.is_some() || consumer.is_some();
    let commits = match query.text("commit") {
        None if has_position => Commits::Auto,
        Some("auto") if has_position => Commits::Auto,
        Some("auto") => {
            query.fault("value_error", "commit", "name the group_id or the consumer_id whose position it is");
            Commits::Never
        }
        None => Commits::Never,
        Some("manual") => Commits::Manual,
        Some(_) => {
            query.fault("value_error", "commit", "use auto or manual");
            Commits::Never
        }
    };
    query.finish()?;
    let reader = reader(group, consumer.as_ref())?;
    let resumed = resumed(&call.headers)?;
    let (start, limits) = (start.unwrap_or(Start::Earliest), (RECORDS, STREAM_PIECE_BYTES));
    Ok(Wanted { reader, consumer, only, start, commits, resumed, limits })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_last_event_id_is_a_vector_or_refused() {
        let with = |id: &'static str| {
            let name = header::HeaderName::from_static("last-event-id");
            resumed(&HeaderMap::from_iter([(name, HeaderValue::from_static(id))]))
        };
        assert_eq!(with("2:41,3:-1").unwrap(), BTreeMap::from([(2, 41), (3, -1)]));
        assert!(with("").unwrap().is_empty() && resumed(&HeaderMap::new()).unwrap().is_empty());
        for id in ["18446744073709551615", "0:18446744073709551615", "1-abc-7"] {
            assert_eq!(with(id).unwrap_err().0.status, 422, "{id}");
        }
    }
}
