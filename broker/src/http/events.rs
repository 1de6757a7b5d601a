//! What happened in the cluster, as this broker saw it: a list, or a live stream of server-sent events.
//!
//! Events are numbered by the broker that keeps them, on its volume. An id names all three, so that a reader who goes on
//! at another broker is told that it missed something (`reset`), instead of silently being given other events.

use super::error::{ApiResult, internal};
use super::ops::accepts;
use super::query::Query;
use super::{App, Call};
use crate::store::{EventPage, StoredEvent};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use pubsub_core::limits::EVENTS_LIST_MAX;
use pubsub_core::wire::admin::{ClusterEvent, EventList};
use pubsub_core::wire::error::Problem;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// Events in one answer if not said otherwise, and in one piece of a stream.
const EVENTS_DEFAULT: u32 = 100;
/// How often a silent stream shows that it lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Life of one stream; its reader goes on with `Last-Event-ID`.
const LIFE: Duration = Duration::from_secs(600);

/// Where a reader wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoOn {
    /// Behind this event of this broker and volume.
    Behind(u64),
    /// With what comes now; it may have missed something.
    Unknown,
}

/// Shows what happened in the cluster, as this broker saw it.
///
/// A stream of server-sent events, or with `Accept: application/json` a list. Ids are this broker's own: a reader that
/// goes on with the id of another one gets an `event: reset` and then what happens from now on.
#[utoipa::path(
    get, path = "/admin/events", tag = "admin",
    params(
        ("after" = Option<String>, Query, description = "Go on behind the event of this id; `0`: with the oldest one kept. Without it a stream begins now, and a list holds the newest"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most events of a list; default 100"),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`, which it overrides: what browsers send when they connect again"),
    ),
    responses(
        (status = 200, description = "Events, oldest first", content(
            (EventList = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 503, description = "OVERLOADED: too many streams are open here", body = Problem),
    )
)]
pub(crate) async fn events(State(app): State<App>, call: Call) -> ApiResult<Response> {
    let mut query = Query::parse(call.query());
    let limit = query.number("limit", 1, EVENTS_LIST_MAX).unwrap_or(EVENTS_DEFAULT);
    let last = call.headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let after = last.filter(|id| !id.is_empty()).or(query.text("after"));
    let from = after.map(|id| app.event_place(id));
    query.finish()?;
    if accepts(&call.headers, "application/json") && !accepts(&call.headers, "text/event-stream") {
        return list(&app, from, limit).await;
    }
    stream(app, from).await
}

impl App {
    /// Returns the id of one of this broker's events.
    fn event_id(&self, number: u64) -> String {
        let volume = self.broker.events().volume().0.simple().to_string();
        format!("{}-{}-{number}", self.id, &volume[..8])
    }

    /// Returns what an id means here.
    fn event_place(&self, id: &str) -> GoOn {
        let number = id.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        match number {
            _ if id == "0" => GoOn::Behind(0),
            Some(number) if id == self.event_id(number) => GoOn::Behind(number),
            _ => GoOn::Unknown,
        }
    }

    fn event(&self, stored: StoredEvent) -> ClusterEvent {
        let mut fields = serde_json::to_value(stored.event).expect("an event is plain data");
        fields["id"] = self.event_id(stored.id).into();
        fields["at_ms"] = stored.at_ms.into();
        serde_json::from_value(fields).expect("an event has a kind, and fields of known types")
    }
}

/// Returns whether a reader that is behind event `after` has missed some, or never was there.
fn missed(page: &EventPage, after: u64) -> bool {
    after != 0 && (after > page.newest || after + 1 < page.oldest)
}

async fn list(app: &App, from: Option<GoOn>, limit: u32) -> ApiResult<Response> {
    let log = app.broker.events();
    let page = match from {
        Some(GoOn::Behind(number)) => log.after(number, limit).await,
        Some(GoOn::Unknown) => log.newest(0).await,
        None => log.newest(limit).await,
    };
    let mut page = page.map_err(|error| internal("read its events", &error))?;
    let reset = match from {
        Some(GoOn::Behind(number)) => missed(&page, number),
        Some(GoOn::Unknown) => true,
        None => false,
    };
    if reset {
        (page.events, page.end) = (Vec::new(), page.newest);
    }
    let last_id = app.event_id(page.end);
    let events = page.events.into_iter().map(|stored| app.event(stored)).collect();
    Ok(Json(EventList { broker_id: app.id, events, last_id, reset }).into_response())
}

/// What a stream needs to go on.
struct Follower {
    app: App,
    /// Behind which event it is.
    after: u64,
    kept: watch::Receiver<u64>,
    /// What comes before any event.
    greeting: Option<String>,
    ends: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

async fn stream(app: App, from: Option<GoOn>) -> ApiResult<Response> {
    let place = app.event_streams.enter()?;
    // Watched before the log is looked at, so that nothing falls in between.
    let kept = app.broker.events_kept();
    let now = app.broker.events().newest(0).await.map_err(|error| internal("read its events", &error))?;
    let (after, reset) = match from {
        Some(GoOn::Behind(number)) if !missed(&now, number) => (number, false),
        Some(_) => (now.newest, true),
        None => (now.newest, false),
    };
    let greeting = Some(if reset { reset_event(&app, after) } else { place_mark(&app, after) });
    let ends = Instant::now() + LIFE;
    let follower = Follower { app, after, kept, greeting, ends, over: false, _place: place };
    let pieces = futures::stream::unfold(follower, async |mut follower| {
        if follower.over {
            return None;
        }
        let piece = follower.next().await;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), follower))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Tells a reader that it may have missed events, and where it is now.
fn reset_event(app: &App, after: u64) -> String {
    let data = serde_json::json!({
        "broker_id": app.id,
        "reason": "the events behind the given id are not here: look at everything anew",
    });
    format!("event: reset\nid: {}\ndata: {data}\n\n", app.event_id(after))
}

/// Tells a reader where it is, without an event: if the connection breaks before the first one, it misses nothing.
fn place_mark(app: &App, after: u64) -> String {
    format!("id: {}\n\n", app.event_id(after))
}

impl Follower {
    /// Returns the next piece: events, a sign of life, or the end.
    async fn next(&mut self) -> String {
        if let Some(greeting) = self.greeting.take() {
            return greeting;
        }
        let quiet = Instant::now() + KEEP_ALIVE_EVERY;
        let mut piece = String::new();
        while piece.is_empty() {
            self.over |= Instant::now() >= self.ends || self.app.broker.is_stopping();
            if self.over {
                break;
            }
            self.kept.borrow_and_update();
            match self.app.broker.events().after(self.after, EVENTS_DEFAULT).await {
                Ok(page) => piece = self.written(page),
                Err(error) => {
                    tracing::warn!(%error, "a stream of events ended");
                    self.over = true;
                }
            }
            if piece.is_empty() && !self.over {
                tokio::select! {
                    changed = self.kept.changed() => self.over |= changed.is_err(),
                    () = tokio::time::sleep_until(quiet) => piece.push_str(": keep-alive\n\n"),
                    () = self.app.broker.stopping() => {}
                }
            }
        }
        if self.over {
            piece.push_str("retry: 500\n\n");
        }
        piece
    }

    fn written(&mut self, page: EventPage) -> String {
        if missed(&page, self.after) {
            self.after = page.newest;
            return reset_event(&self.app, self.after);
        }
        self.after = page.end;
        let mut piece = String::new();
        for stored in page.events {
            let event = self.app.event(stored);
            let data = serde_json::to_string(&event).expect("an event is plain data");
            write!(piece, "id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.event)
                .expect("text can be written to memory");
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_has_missed_events_that_are_no_longer_kept_or_never_were() {
        let page = EventPage { events: Vec::new(), end: 0, oldest: 11, newest: 20 };
        for (after, lost) in [(0, false), (9, true), (10, false), (20, false), (21, true)] {
            assert_eq!(missed(&page, after), lost, "{after}");
        }
        let empty = EventPage { events: Vec::new(), end: 0, oldest: 1, newest: 0 };
        assert!(missed(&empty, 5) && !missed(&empty, 0));
    }
}
