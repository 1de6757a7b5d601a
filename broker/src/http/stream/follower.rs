//! The loop of one stream: renew, commit, read, write, one piece at a time, as fast as the client takes them.

use super::super::App;
use super::super::error::{ApiError, ApiResult, topic_not_found};
use super::super::pages::{Cursor, Page};
use super::super::poll::STANDBY_PAUSE;
use super::super::polling::{Polling, sticky};
use super::super::start::Start;
use super::super::topics::Topic;
use super::{Wanted, write};
use futures::future::join_all;
use http::HeaderMap;
use pubsub_core::group::Reader;
use pubsub_core::group::stream::{Change, Stream};
use pubsub_core::ids::Offset;
use pubsub_core::limits::{GROUP_SESSION_MS, PUBLISH_TIMEOUT_MS_DEFAULT};
use pubsub_core::wire::error::ErrorCode;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How often a client is told how far it is.
const CONTROL_EVERY: Duration = Duration::from_millis(5_000);
/// The same when records wait for a later event to count as finished.
const CONTROL_SOON: Duration = Duration::from_millis(1_000);
const SESSION: Duration = Duration::from_millis(GROUP_SESSION_MS);
/// How often a membership is renewed, and partitions that were added are noticed.
const RENEW_EVERY: Duration = Duration::from_millis(GROUP_SESSION_MS / 3);
/// How long the first join may take: a coordinator that was lost is replaced within it.
const OPEN_WAIT: Duration = Duration::from_millis(PUBLISH_TIMEOUT_MS_DEFAULT);
/// Pause before partitions that nobody serves, or whose start nobody says, are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One stream.
pub(super) struct Follower {
    pub(super) app: App,
    pub(super) topic: Topic,
    pub(super) wanted: Wanted,
    pub(super) stream: Stream,
    headers: HeaderMap,
    /// How many partitions the topic had when the stream began.
    partitions: u32,
    high_watermarks: BTreeMap<u32, Offset>,
    /// What comes before anything else.
    greeting: Option<Vec<u8>>,
    renew_at: Instant,
    session_ends: Instant,
    /// When the last piece was written, and when the client was told last how far it is.
    written_at: Instant,
    told_at: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// Joins, and finds out where to begin.
    ///
    /// # Errors
    /// 409, 404 or 503: see [`Self::ask`].
    pub(super) async fn open(
        app: App,
        topic: Topic,
        mut wanted: Wanted,
        headers: HeaderMap,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<Self> {
        let now = Instant::now();
        let stream = Stream::new(wanted.commits, std::mem::take(&mut wanted.resumed));
        let mut follower = Self {
            partitions: topic.partitions(),
            app,
            topic,
            wanted,
            stream,
            headers,
            high_watermarks: BTreeMap::new(),
            greeting: None,
            renew_at: now,
            session_ends: now + OPEN_WAIT,
            written_at: now,
            told_at: now,
            over: false,
            _place: place,
        };
        let change = follower.join().await?;
        follower.begin().await;
        let mut greeting = write::place_mark(&follower.stream);
        if follower.is_member() {
            greeting.extend(write::rebalance(follower.topic.name.as_str(), &follower.stream, change));
        }
        follower.greeting = Some(greeting);
        Ok(follower)
    }

    fn is_member(&self) -> bool {
        matches!(self.wanted.reader, Reader::Group(_))
    }

    /// Returns the next piece; `None` when the stream is over.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        if self.over {
            return None;
        }
        self.stream.taken();
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        let piece = match self.piece().await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                self.over = true;
                write::come_back()
            }
            Err(error) => {
                self.over = true;
                write::failed(&error)
            }
        };
        self.written_at = Instant::now();
        Some(piece)
    }

    /// Returns the next events, as soon as there are any; `None` when the broker stops.
    async fn piece(&mut self) -> ApiResult<Option<Vec<u8>>> {
        loop {
            if self.app.broker.is_stopping() {
                return Ok(None);
            }
            if Instant::now() >= self.renew_at || self.stream.is_giving_up() {
                let kept = self.commit().await?;
                self.note(kept);
                let change = self.join().await?;
                self.begin().await;
                if self.is_member() && change != Change::default() {
                    return Ok(Some(write::rebalance(self.topic.name.as_str(), &self.stream, change)));
                }
            }
            self.begin().await;
            if Instant::now() >= self.tell_at() {
                self.told_at = Instant::now();
                let name = self.topic.name.as_str();
                return Ok(Some(write::control(name, &self.stream, &self.high_watermarks)));
            }
            // A record is on its way while those before it are committed.
            let (pages, kept) = tokio::join!(self.read(), self.commit());
            self.note(kept?);
            let pages = pages?;
            self.high_watermarks.extend(pages.iter().map(|(_, page)| (page.partition, page.high_watermark)));
            let piece = write::records(&mut self.stream, &pages, self.wanted.limits);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    fn tell_at(&self) -> Instant {
        let regular = self.told_at + CONTROL_EVERY;
        if self.stream.is_waiting_to_finish() { regular.min(self.written_at + CONTROL_SOON) } else { regular }
    }

    fn note(&mut self, kept: Vec<(u32, i64)>) {
        kept.into_iter().for_each(|(partition, offset)| self.stream.committed(partition, offset));
    }

    /// Takes or renews the membership, on the topic as it is now.
    async fn join(&mut self) -> ApiResult<Change> {
        let asked = Instant::now();
        let image = self.app.image().await?;
        let found = Topic::of(&image, &self.topic.name).filter(|found| found.id == self.topic.id);
        self.topic = found.ok_or_else(|| topic_not_found(self.topic.name.as_str()))?;
        let held = self.stream.held();
        let (member_epoch, mut standings) = self.ask(held, self.session_ends).await?;
        standings.retain(|standing| self.wanted.only.is_none_or(|only| only == standing.partition));
        self.renew_at = asked + if standings.is_empty() { STANDBY_PAUSE } else { RENEW_EVERY };
        self.session_ends = asked + SESSION;
        Ok(self.stream.joined(member_epoch, &standings))
    }

    /// Finds out where to begin in partitions of which nothing was finished. What nobody says now is asked again later.
    async fn begin(&mut self) {
        let (app, topic, headers) = (&self.app, &self.topic, &self.headers);
        let found = join_all(self.stream.unplaced().into_iter().map(async |partition| {
            // Whatever is in a partition that was added since is newer than the stream.
            let start = if partition < self.partitions { self.wanted.start } else { Start::Earliest };
            let found = match start {
                Start::Earliest => Ok(0),
                Start::Latest | Start::Offset(_) | Start::Timestamp(_) => {
                    start.find(app, topic, partition, headers).await
                }
            };
            (partition, found, start != Start::Earliest)
        }));
        for (partition, found, keep) in found.await {
            match found {
                Ok(from) => self.stream.begin(partition, from, keep),
                Err(error) => tracing::debug!(%error, "the start of a stream is not known yet"),
            }
        }
    }

    /// Reads what there is, or waits for it until there is something else to do.
    async fn read(&self) -> ApiResult<Vec<(Cursor, Page)>> {
        let mut until = self.renew_at.min(self.tell_at());
        if !self.stream.unplaced().is_empty() {
            until = until.min(Instant::now() + RETRY_PAUSE);
        }
        let cursor = |(partition, from, committed)| Cursor { partition, from, committed };
        let cursors: Vec<Cursor> = self.stream.cursors().into_iter().map(cursor).collect();
        if cursors.is_empty() {
            self.pause(until).await;
            return Ok(vec![]);
        }
        let polling = Polling {
            app: &self.app,
            topic: &self.topic,
            prefer: None,
            sticky: sticky(&self.wanted.reader, self.wanted.consumer.as_ref()),
            headers: &self.headers,
            records_max: self.wanted.limits.0,
            bytes_max: self.wanted.limits.1,
        };
        match polling.pages(cursors, until).await {
            Err(error) if passes(&error) => {
                self.pause(until.min(Instant::now() + RETRY_PAUSE)).await;
                Ok(vec![])
            }
            read => read,
        }
    }

    async fn pause(&self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = self.app.broker.stopping() => {}
        }
    }
}

/// Whether a stream goes on in spite of an error: a partition gets another leader, a broker comes back.
fn passes(error: &ApiError) -> bool {
    [ErrorCode::Unavailable, ErrorCode::BrokerUnreachable, ErrorCode::NotLeader].contains(&error.code())
}
