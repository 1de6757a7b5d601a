//! Reading for one who may read several partitions: what is there, or what comes first.

use super::App;
use super::error::ApiResult;
use super::pages::{Cursor, PATIENCE, Page, Reading};
use super::topics::Topic;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use http::HeaderMap;
use pubsub_core::group::Reader;
use pubsub_core::ids::{BrokerId, ConsumerId};
use pubsub_core::limits::POLL_PARTITIONS_MAX;
use pubsub_core::wire::client::partition_of_key;
use std::time::Duration;
use tokio::time::Instant;

/// Turn of waiting when there are more partitions than are waited on at once.
const WINDOW_WAIT: Duration = Duration::from_millis(250);
/// Bytes of one partition's page at least, however many partitions share an answer.
const PAGE_BYTES_MIN: usize = 64 << 10;

/// How one reader is read for.
pub(crate) struct Polling<'a> {
    /// The broker.
    pub(crate) app: &'a App,
    /// What is read.
    pub(crate) topic: &'a Topic,
    /// Serve from there, if it is a live replica.
    pub(crate) prefer: Option<BrokerId>,
    /// Spreads readers over replicas, the same reader to the same one.
    pub(crate) sticky: u32,
    /// Of the request.
    pub(crate) headers: &'a HeaderMap,
    /// Most records of one partition.
    pub(crate) records_max: u32,
    /// About so many bytes together.
    pub(crate) bytes_max: usize,
}

/// Returns what spreads readers over replicas.
pub(crate) fn sticky(reader: &Reader, consumer: Option<&ConsumerId>) -> u32 {
    let name = match (consumer, reader) {
        (Some(consumer), _) | (None, Reader::Consumer(consumer)) => consumer.as_str(),
        (None, Reader::Group(group)) => group.as_str(),
        (None, Reader::Anonymous) => "",
    };
    partition_of_key(name.as_bytes(), u32::MAX)
}

impl Polling<'_> {
    /// Returns a page of every partition whose turn it is: at once if there is something in one, else when there is, or at
    /// `until`, or at the end of the turn if not all partitions are waited on.
    ///
    /// # Errors
    /// When no partition could be read.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub(crate) async fn pages(
        &self,
        mut cursors: Vec<Cursor>,
        mut until: Instant,
    ) -> ApiResult<Vec<(Cursor, Page)>> {
        if cursors.len() > POLL_PARTITIONS_MAX {
            until = until.min(Instant::now() + WINDOW_WAIT);
        }
        if cursors.len() > 1 {
            // Another one comes first each time.
            let turn = usize::try_from(self.app.turn()).unwrap_or_default() % cursors.len();
            cursors.rotate_left(turn);
            cursors.truncate(POLL_PARTITIONS_MAX);
        }
        let reading = Reading {
            app: self.app,
            topic: self.topic,
            prefer: self.prefer,
            sticky: self.sticky,
            headers: self.headers,
            forwarded: false,
            records_max: self.records_max,
            bytes_max: (self.bytes_max / cursors.len().max(1)).max(PAGE_BYTES_MIN).min(self.bytes_max),
            patience: PATIENCE,
        };
        if let [cursor] = cursors[..] {
            return Ok(vec![(cursor, reading.page(cursor, until).await?)]);
        }
        // A partition that nobody serves must not delay the others.
        first_pages(&Reading { patience: Duration::ZERO, ..reading }, &cursors, until).await
    }
}

/// Reads what is there; if that is nothing, waits until one partition has something.
async fn first_pages(
    reading: &Reading<'_>,
    cursors: &[Cursor],
    until: Instant,
) -> ApiResult<Vec<(Cursor, Page)>> {
    let now = Instant::now();
    let read = join_all(cursors.iter().map(async |cursor| (*cursor, reading.page(*cursor, now).await))).await;
    let mut pages = Vec::with_capacity(read.len());
    let mut failed = None;
    for (cursor, outcome) in read {
        match outcome {
            Ok(page) => pages.push((cursor, page)),
            Err(error) => failed = Some(error),
        }
    }
    // One partition without a leader must not keep the others from their readers.
    match failed {
        Some(error) if pages.is_empty() => return Err(error),
        _ if pages.iter().any(|(_, page)| !page.is_empty()) => return Ok(pages),
        _ => {}
    }
    let mut waits: FuturesUnordered<_> =
        cursors.iter().map(async |cursor| (cursor, reading.page(*cursor, until).await)).collect();
    while let Some((cursor, outcome)) = waits.next().await {
        if let Ok(page) = outcome {
            let found = !page.is_empty();
            match pages.iter_mut().find(|(at, _)| at == cursor) {
                Some(slot) => slot.1 = page,
                None => pages.push((*cursor, page)),
            }
            if found {
                break;
            }
        }
    }
    Ok(pages)
}
