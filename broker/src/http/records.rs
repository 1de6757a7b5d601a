//! `GET /topics/{topic}/records`: a partition by offset or time, without a reader's position. Brokers read pages here too.

use super::error::{ApiError, ApiResult};
use super::forward::{Hop, carried, pass};
use super::pages::{Cursor, PATIENCE, Page, Reading, candidates, nobody};
use super::poll::write_polled;
use super::query::Query;
use super::records_out::{Layout, write_record};
use super::start::{STARTS, Start};
use super::stream::follow;
use super::topics::{Topic, entry_of};
use super::{App, Call, Segments};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pubsub_core::ids::TopicPartition;
use pubsub_core::limits::{POLL_BYTES_MAX, POLL_RECORDS_MAX, POLL_TIMEOUT_MS_MAX};
use pubsub_core::partition::Role;
use pubsub_core::wire::client::{BATCH_MEDIA_TYPE, NDJSON, Polled};
use pubsub_core::wire::error::Problem;
use std::time::Duration;
use tokio::time::Instant;

const RECORDS_DEFAULT: u32 = 100;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Batches,
    Events,
}

fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains(BATCH_MEDIA_TYPE) {
        Form::Batches
    } else if accept.contains(NDJSON)
        || accept.contains("application/ndjson")
        || accept.contains("application/jsonl")
    {
        Form::Lines
    } else if accept.contains("text/event-stream") {
        Form::Events
    } else {
        Form::Json
    }
}

/// What is asked for.
struct Wanted {
    partition: Option<u32>,
    from: Start,
    records_max: u32,
    bytes_max: usize,
    until: Instant,
}

/// Returns committed records of one partition.
#[utoipa::path(
    get, path = "/topics/{topic}/records", tag = "read",
    params(
        ("topic" = String, Path, description = "The topic's name"),
        ("partition" = Option<u32>, Query, minimum = 0, description = "Which partition; required if the topic has several"),
        ("from" = Option<String>, Query, description = "`earliest` (default), `latest`, an offset, `timestamp:<ms since 1970>`, or a time as in RFC 3339"),
        ("max_records" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most records; default 100"),
        ("max_bytes" = Option<u64>, Query, minimum = 1, description = "About so many bytes at most, but one record always fits"),
        ("wait_ms" = Option<u64>, Query, minimum = 0, maximum = 60000, description = "How long to wait for a record, milliseconds; default 0"),
    ),
    responses(
        (status = 200, description = "Committed records, maybe none; as JSON, one a line, as stored batches, or followed live, by `Accept`",
         content((Polled = "application/json"), (String = "application/x-ndjson"), (Vec<u8> = "application/vnd.pubsub.batch"), (String = "text/event-stream"))),
        (status = 404, description = "TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
        (status = 500, description = "CORRUPT_RECORD", body = Problem),
        (status = 503, description = "UNAVAILABLE; OVERLOADED: too many streams are open here", body = Problem),
    )
)]
pub(crate) async fn records(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let wanted = wanted(&call)?;
    let forwarded = call.forwarded();
    let Call { uri, headers, .. } = &call;
    let query = uri.query().unwrap_or_default();
    let topic = app.topic(&name, forwarded).await?;
    let partition = match (wanted.partition, topic.partitions()) {
        (Some(partition), _) => partition,
        (None, 1) => 0,
        (None, count) => {
            let msg = format!("the topic has {count} partitions: name one");
            return Err(ApiError::field("missing", &["query", "partition"], msg));
        }
    };
    let tp = topic.partition(partition)?;
    if form(headers) == Form::Events {
        let (start, limits) = (wanted.from, (wanted.records_max, wanted.bytes_max));
        return follow(app, topic, partition, start, limits, call.headers).await;
    }
    if !forwarded && let Some(answer) = elsewhere(&app, &topic, tp, &wanted, (query, headers)).await? {
        return Ok(answer);
    }
    let from = wanted.from.here(&app, tp).await?;
    let reading = Reading {
        app: &app,
        topic: &topic,
        prefer: None,
        sticky: 0,
        headers: &call.headers,
        forwarded: true,
        records_max: wanted.records_max,
        bytes_max: wanted.bytes_max,
        patience: PATIENCE,
    };
    let cursor = Cursor { partition, from, committed: -1 };
    let page = reading.page(cursor, wanted.until).await?;
    Ok(respond(&topic, cursor, page, &wanted, form(&call.headers)))
}

fn wanted(call: &Call) -> ApiResult<Wanted> {
    let mut query = Query::parse(call.query());
    let partition = query.number("partition", 0, u32::MAX);
    let from = Start::parse(query.text("from").unwrap_or("earliest"));
    if from.is_none() {
        query.fault("value_error", "from", STARTS);
    }
    let records_max = query.number("max_records", 1, POLL_RECORDS_MAX).unwrap_or(RECORDS_DEFAULT);
    let bytes_max = query.number("max_bytes", 1, u64::MAX).and_then(|bytes| usize::try_from(bytes).ok());
    let wait_ms = query.number("wait_ms", 0, POLL_TIMEOUT_MS_MAX).unwrap_or(0);
    query.finish()?;
    let until = Instant::now() + Duration::from_millis(wait_ms);
    let bytes_max = bytes_max.unwrap_or(POLL_BYTES_MAX).min(POLL_BYTES_MAX);
    Ok(Wanted { partition, from: from.unwrap_or(Start::Earliest), records_max, bytes_max, until })
}

/// Passes the request on unless this broker's own replica is in sync.
async fn elsewhere(
    app: &App,
    topic: &Topic,
    tp: TopicPartition,
    wanted: &Wanted,
    (query, headers): (&str, &HeaderMap),
) -> ApiResult<Option<Response>> {
    let image = app.image().await?;
    let Some(entry) = entry_of(&image, tp) else {
        return Err(super::error::topic_not_found(topic.name.as_str()));
    };
    let held = app.broker.view(tp).is_some_and(|view| view.borrow().role != Role::Offline);
    let mut refused = nobody(tp.partition);
    for replica in candidates(&image, entry, app.id, None, app.turn()) {
        if replica == app.id {
            if held {
                return Ok(None);
            }
            continue;
        }
        let Some(api_base) = app.api_base(replica) else { continue };
        let path = format!("/topics/{}/records?{}", topic.name, query);
        let within = wanted.until.saturating_duration_since(Instant::now()) + Duration::from_millis(1_000);
        let (headers, body) = (carried(headers), Bytes::new());
        let hop = Hop { api_base: &api_base, method: Method::GET, path: &path, headers, body, within };
        match app.forwarder.send(hop).await {
            Ok(answer) => return Ok(Some(pass(answer))),
            Err(error) => refused = error.of_read(),
        }
    }
    Err(refused)
}

fn respond(topic: &Topic, cursor: Cursor, page: Page, wanted: &Wanted, form: Form) -> Response {
    let mut out = vec![];
    let headers = page.headers();
    let media = match form {
        Form::Batches => {
            for batch in &page.batches {
                out.extend_from_slice(batch.bytes());
            }
            BATCH_MEDIA_TYPE
        }
        Form::Lines => {
            for (index, record) in (0..wanted.records_max).zip(page.records()) {
                if index > 0 && out.len() + record.value.len() > wanted.bytes_max {
                    break;
                }
                write_record(&mut out, page.partition, &record, Layout::Line);
                out.push(b'\n');
            }
            NDJSON
        }
        // Streams are answered before a page is read.
        Form::Events | Form::Json => {
            let (replica, limits) = (page.replica, (wanted.records_max, wanted.bytes_max));
            write_polled(&mut out, topic.name.as_str(), replica, &[(cursor, page)], limits);
            "application/json"
        }
    };
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static(media))], out).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_form_follows_accept() {
        let with = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            form(&headers)
        };
        assert_eq!(with("*/*"), Form::Json);
        assert_eq!(with("application/x-ndjson"), Form::Lines);
        assert_eq!(with(BATCH_MEDIA_TYPE), Form::Batches);
        assert_eq!(form(&HeaderMap::new()), Form::Json);
    }
}
