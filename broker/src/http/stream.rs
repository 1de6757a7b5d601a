//! A partition followed live as server-sent events.

use super::App;
use super::pages::{Cursor, PATIENCE, Reading};
use super::records_out::{Layout, write_number, write_record};
use super::topics::Topic;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use pubsub_core::ids::Offset;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;

/// How often a silent stream shows that it lives, and how far it has come.
const CONTROL_EVERY: Duration = Duration::from_millis(5_000);
/// Life of one stream; its reader goes on with `Last-Event-ID`. Without an end a stopping broker would wait for it.
const LIFE: Duration = Duration::from_secs(600);

/// What a stream needs to go on.
struct Follower {
    app: App,
    topic: Topic,
    cursor: Cursor,
    headers: HeaderMap,
    limits: (u32, usize),
    ends: Instant,
    over: bool,
}

/// Returns the offset to go on with after a `Last-Event-ID` of `partition:offset`, if it is of this partition.
pub(crate) fn resumed(headers: &HeaderMap, partition: u32) -> Option<Offset> {
    let (of, offset) = headers.get("last-event-id")?.to_str().ok()?.split_once(':')?;
    let offset: Offset = offset.parse().ok()?;
    (of.parse() == Ok(partition)).then(|| offset.checked_add(1)).flatten()
}

/// Answers with a stream of records from the cursor on.
pub(crate) fn follow(
    app: App,
    topic: Topic,
    cursor: Cursor,
    headers: HeaderMap,
    limits: (u32, usize),
) -> Response {
    let follower = Follower { app, topic, cursor, headers, limits, ends: Instant::now() + LIFE, over: false };
    let events = futures::stream::unfold(follower, async |mut follower| {
        if follower.over {
            return None;
        }
        let chunk = follower.next().await;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), follower))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

impl Follower {
    /// Returns the next events: records, where the stream stands, or why it ends.
    async fn next(&mut self) -> Vec<u8> {
        let reading = Reading {
            app: &self.app,
            topic: &self.topic,
            prefer: None,
            sticky: 0,
            headers: &self.headers,
            forwarded: true,
            records_max: self.limits.0,
            bytes_max: self.limits.1,
            patience: PATIENCE,
        };
        let until = self.ends.min(Instant::now() + CONTROL_EVERY);
        let mut out = vec![];
        match reading.page(self.cursor, until).await {
            Ok(page) => {
                let mut next = page.from;
                for record in page.records() {
                    out.extend_from_slice(b"event: record\nid: ");
                    write_number(&mut out, u64::from(page.partition));
                    out.push(b':');
                    write_number(&mut out, record.offset);
                    out.extend_from_slice(b"\ndata: ");
                    write_record(&mut out, page.partition, &record, Layout::Line);
                    out.extend_from_slice(b"\n\n");
                    next = record.offset + 1;
                }
                self.cursor.from = next;
                if out.is_empty() {
                    let lag = page.high_watermark.saturating_sub(next);
                    let standing = serde_json::json!({
                        "partition": page.partition,
                        "next_offset": next,
                        "high_watermark": page.high_watermark,
                        "lag": lag,
                    });
                    out.extend_from_slice(format!("event: control\ndata: {standing}\n\n").as_bytes());
                }
            }
            Err(error) => {
                let problem = serde_json::to_string(&error.0).expect("a problem has only string keys");
                out.extend_from_slice(format!("event: error\ndata: {problem}\n\n").as_bytes());
                self.over = true;
            }
        }
        self.over |= Instant::now() >= self.ends || self.app.broker.is_stopping();
        if self.over {
            out.extend_from_slice(b"retry: 500\n\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_behind_the_last_event_of_its_partition() {
        let with = |id: &'static str| {
            HeaderMap::from_iter([(
                header::HeaderName::from_static("last-event-id"),
                HeaderValue::from_static(id),
            )])
        };
        assert_eq!(resumed(&with("2:41"), 2), Some(42));
        assert_eq!(resumed(&with("2:41"), 1), None);
        assert_eq!(resumed(&with("18446744073709551615"), 0), None);
        assert_eq!(resumed(&with("0:18446744073709551615"), 0), None);
        assert_eq!(resumed(&HeaderMap::new(), 0), None);
    }
}
