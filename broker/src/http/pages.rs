//! Committed records of one partition, read here or from a replica that is alive.

use super::App;
use super::error::{ApiError, ApiResult, topic_not_found, unavailable, unreadable};
use super::forward::{ForwardError, Hop, named, problem};
use super::topics::{Topic, alive, entry_of};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pubsub_core::control::image::{Image, PartitionEntry};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::Role;
use pubsub_core::record::{Batch, HEADER_BYTES, Record};
use pubsub_core::wire::client::{
    BATCH_MEDIA_TYPE, HIGH_WATERMARK_HEADER, LEADER_EPOCH_HEADER, LOG_END_HEADER,
};
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait before it is looked anew who can serve: bounds what a hung replica costs.
const SLICE: Duration = Duration::from_millis(2_000);
/// How long a reader looks for a replica that serves it.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1_000);
/// What the network may add to another broker's wait.
const NETWORK_GRACE: Duration = Duration::from_millis(1_000);
/// A wait shorter than this is over: asking another broker again would take as long.
const ALMOST: Duration = Duration::from_millis(20);
/// Pause before replicas are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where one partition is read from next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The partition.
    pub(crate) partition: u32,
    /// The first record wanted.
    pub(crate) from: Offset,
    /// What the reader has finished (−1: none).
    pub(crate) committed: i64,
}

/// Committed records of one partition, maybe none.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The partition.
    pub(crate) partition: u32,
    /// As asked for, or the log's start if that is later.
    pub(crate) from: Offset,
    /// Whole batches; the ends may have to be trimmed.
    pub(crate) batches: Vec<Batch>,
    /// Records below it are committed.
    pub(crate) high_watermark: Offset,
    /// Next offset to be appended.
    pub(crate) log_end: Offset,
    /// The leader's epoch.
    pub(crate) leader_epoch: LeaderEpoch,
    /// Who served it.
    pub(crate) replica: BrokerId,
}

impl Page {
    /// Iterates over the committed records from `from` on.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let wanted = self.from..self.high_watermark;
        self.batches.iter().flat_map(Batch::records).filter(move |record| wanted.contains(&record.offset))
    }

    /// Returns whether there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.records().next().is_none()
    }

    /// Returns the headers that describe the partition.
    pub(crate) fn headers(&self) -> [(&'static str, HeaderValue); 3] {
        [
            (HIGH_WATERMARK_HEADER, HeaderValue::from(self.high_watermark)),
            (LOG_END_HEADER, HeaderValue::from(self.log_end)),
            (LEADER_EPOCH_HEADER, HeaderValue::from(self.leader_epoch.0)),
        ]
    }
}

/// How pages are to be read for one request.
pub(crate) struct Reading<'a> {
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
    /// Whether the request was passed on already.
    pub(crate) forwarded: bool,
    /// Most records of one page.
    pub(crate) records_max: u32,
    /// About so many bytes in one page, but one batch at least.
    pub(crate) bytes_max: usize,
    /// How long replicas are looked for, even past the wait for records.
    pub(crate) patience: Duration,
}

impl Reading<'_> {
    /// Returns a page: at once if anything is readable, else when something is, or an empty one at `until` or when this
    /// broker stops: its reader then goes on elsewhere.
    ///
    /// # Errors
    /// 503 if no replica serves it, after a moment of trying; 404 if the topic is gone.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub(crate) async fn page(&self, cursor: Cursor, until: Instant) -> ApiResult<Page> {
        let tp = TopicPartition { topic: self.topic.id, partition: cursor.partition };
        let give_up = until.max(Instant::now() + self.patience);
        loop {
            let image = self.app.image().await?;
            let entry = entry_of(&image, tp).ok_or_else(|| topic_not_found(self.topic.name.as_str()))?;
            let slice = until.min(Instant::now() + SLICE);
            let mut refused = nobody(cursor.partition);
            let mut empty = None;
            for replica in self.candidates(&image, entry) {
                let tried = if replica == self.app.id {
                    self.page_here(tp, cursor, slice).await
                } else {
                    self.page_there(replica, cursor, slice).await.map(Some)
                };
                match tried {
                    Ok(Some(page)) if page.is_empty() => {
                        empty = Some(page);
                        break;
                    }
                    Ok(Some(page)) => return Ok(page),
                    Ok(None) => {}
                    Err(error) => refused = error,
                }
            }
            let now = Instant::now();
            match empty {
                Some(page) if now + ALMOST >= until || self.app.broker.is_stopping() => return Ok(page),
                Some(_) => {}
                None if now + RETRY_PAUSE >= give_up => return Err(refused),
                None => {
                    self.app.image_where(now + RETRY_PAUSE, |found| found.at > image.at).await;
                }
            }
        }
    }

    /// Returns who may serve, the best first: the preferred one, this broker, the others by turns of readers.
    fn candidates(&self, image: &Image, entry: &PartitionEntry) -> Vec<BrokerId> {
        let me = self.app.id;
        if self.forwarded {
            return vec![me];
        }
        candidates(image, entry, me, self.prefer, self.sticky)
    }

    /// Reads from this broker's own replica; `None` if it holds none that may serve.
    async fn page_here(&self, tp: TopicPartition, cursor: Cursor, until: Instant) -> ApiResult<Option<Page>> {
        let Some(mut view) = self.app.broker.view(tp) else { return Ok(None) };
        loop {
            let mut page = {
                let seen = view.borrow_and_update();
                if seen.role == Role::Offline {
                    return Ok(None);
                }
                Page {
                    partition: tp.partition,
                    from: cursor.from.max(seen.log_start),
                    batches: vec![],
                    high_watermark: seen.high_watermark,
                    log_end: seen.log_end,
                    leader_epoch: seen.leader_epoch,
                    replica: self.app.id,
                }
            };
            if page.high_watermark > page.from {
                // Offsets count records, so that no more batches are read than an answer can hold.
                let end = page.from.saturating_add(u64::from(self.records_max)).min(page.high_watermark);
                let read = self.app.broker.read(tp, page.from, end, self.bytes_max).await;
                page.batches = read.map_err(|error| unreadable(&error))?;
                let read_end = page.batches.last().map_or(page.from, |batch| batch.end_offset().min(end));
                self.app.broker.count_read(read_end.saturating_sub(page.from));
                return Ok(Some(page));
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return Ok(None) },
                () = tokio::time::sleep_until(until) => return Ok(Some(page)),
                () = self.app.broker.stopping() => return Ok(Some(page)),
            }
        }
    }

    /// Reads from another broker's replica.
    async fn page_there(&self, replica: BrokerId, cursor: Cursor, until: Instant) -> ApiResult<Page> {
        let unknown = || unavailable(format!("the address of broker {replica} is not known yet"));
        let api_base = self.app.api_base(replica).ok_or_else(unknown)?;
        let wait = until.saturating_duration_since(Instant::now());
        let path = format!(
            "/topics/{}/records?partition={}&from={}&max_records={}&max_bytes={}&wait_ms={}",
            self.topic.name,
            cursor.partition,
            cursor.from,
            self.records_max,
            self.bytes_max,
            wait.as_millis()
        );
        let mut headers = named(self.headers);
        headers.insert(header::ACCEPT, HeaderValue::from_static(BATCH_MEDIA_TYPE));
        let within = wait + NETWORK_GRACE;
        let hop = Hop {
            api_base: &api_base,
            method: Method::GET,
            path: &path,
            headers,
            body: Bytes::new(),
            within,
        };
        let answer = self.app.forwarder.call(hop).await.map_err(|error| error.of_read())?;
        if answer.status() != StatusCode::OK {
            return Err(problem(&answer).unwrap_or_else(|| ForwardError::NoAnswer(api_base).of_read()));
        }
        let damaged = || unavailable(format!("broker {replica} answered with something that is no page"));
        let number = |name| answer.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
        let high_watermark = number(HIGH_WATERMARK_HEADER).ok_or_else(damaged)?;
        let epoch = number(LEADER_EPOCH_HEADER).and_then(|epoch| u32::try_from(epoch).ok());
        let batches = split_batches(answer.body().clone()).ok_or_else(damaged)?;
        let first = batches.first().map_or(cursor.from, Batch::base_offset);
        Ok(Page {
            partition: cursor.partition,
            from: cursor.from.max(first),
            batches,
            high_watermark,
            log_end: number(LOG_END_HEADER).unwrap_or(high_watermark),
            leader_epoch: LeaderEpoch(epoch.unwrap_or_default()),
            replica,
        })
    }
}

/// See [`Reading::candidates`].
pub(crate) fn candidates(
    image: &Image,
    entry: &PartitionEntry,
    me: BrokerId,
    prefer: Option<BrokerId>,
    sticky: u32,
) -> Vec<BrokerId> {
    let mut chosen = Vec::with_capacity(entry.replicas.len());
    chosen.extend(prefer.filter(|id| entry.replicas.contains(id) && (*id == me || alive(image, *id))));
    // A replica that is still catching up would make its readers wait for records that others have.
    chosen.extend(entry.isr.contains(&me).then_some(me));
    let mut others: Vec<BrokerId> =
        entry.isr.iter().copied().filter(|id| *id != me && alive(image, *id)).collect();
    if !others.is_empty() {
        let turns = usize::try_from(sticky).unwrap_or_default() % others.len();
        others.rotate_left(turns);
    }
    chosen.extend(others);
    let mut seen = Vec::with_capacity(chosen.len());
    chosen.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    chosen
}

/// Splits batches that stand one behind the other; `None` if they are damaged.
fn split_batches(mut bytes: Bytes) -> Option<Vec<Batch>> {
    let mut batches = vec![];
    while bytes.len() >= HEADER_BYTES {
        let batch = Batch::decode(bytes.clone()).ok()?;
        bytes = bytes.split_off(batch.bytes().len());
        batches.push(batch);
    }
    bytes.is_empty().then_some(batches)
}

/// Returns an error for a page that nobody serves.
pub(crate) fn nobody(partition: u32) -> ApiError {
    unavailable("no replica of the partition serves readers right now").partition(partition)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::control::image::{BrokerEntry, BrokerState, ImageHash};
    use pubsub_core::ids::{At, BrokerEpoch, ClusterId, PartEpoch, RunId, StorageId};
    use pubsub_core::record::{BatchBuilder, ValueKind};
    use std::collections::BTreeMap;
    use uuid::Uuid;

    const B: fn(u32) -> BrokerId = BrokerId;

    fn cluster(states: &[(u32, BrokerState)]) -> Image {
        let broker = |state| BrokerEntry {
            storage_id: StorageId(Uuid::nil()),
            boot: 1,
            run_id: RunId(Uuid::nil()),
            broker_epoch: BrokerEpoch(1),
            api_base: String::new(),
            peer_base: String::new(),
            zone: None,
            versions: (1, 1),
            sealed: None,
            state,
            draining: false,
            rolled_back: false,
        };
        Image {
            cluster_id: ClusterId(Uuid::nil()),
            at: At::default(),
            hash: ImageHash::default(),
            feature_level: 1,
            voters: BTreeMap::new(),
            brokers: states.iter().map(|(id, state)| (BrokerId(*id), broker(*state))).collect(),
            topics: BTreeMap::new(),
            tombstones: BTreeMap::new(),
        }
    }

    fn partition(replicas: &[u32], isr: &[u32]) -> PartitionEntry {
        let ids = |ids: &[u32]| ids.iter().copied().map(BrokerId).collect();
        PartitionEntry {
            replicas: ids(replicas),
            adding: vec![],
            removing: vec![],
            isr: ids(isr),
            leader: None,
            leader_epoch: LeaderEpoch(1),
            part_epoch: PartEpoch(1),
        }
    }

    #[test]
    fn readers_are_served_here_if_in_sync_else_by_live_replicas_in_turns() {
        use BrokerState::{Active, Fenced};
        let image = cluster(&[(1, Active), (2, Active), (3, Active), (4, Fenced)]);
        let entry = partition(&[1, 2, 3, 4], &[1, 2, 4]);
        assert_eq!(candidates(&image, &entry, B(1), None, 0), [B(1), B(2)]);
        assert_eq!(candidates(&image, &entry, B(3), None, 0), [B(1), B(2)]);
        assert_eq!(candidates(&image, &entry, B(3), None, 1), [B(2), B(1)]);
        assert_eq!(candidates(&image, &entry, B(1), Some(B(2)), 0), [B(2), B(1)]);
        assert_eq!(
            candidates(&image, &entry, B(1), Some(B(4)), 0),
            [B(1), B(2)],
            "a dead replica is not preferred"
        );
        assert_eq!(
            candidates(&image, &entry, B(1), Some(B(9)), 0),
            [B(1), B(2)],
            "nor is a broker that holds nothing"
        );
    }

    #[test]
    fn batches_that_stand_in_a_row_are_split_and_damage_is_noticed() {
        let batch = |base| {
            let mut builder = BatchBuilder::new();
            builder.push(None, b"", ValueKind::Json, b"1");
            builder.build(base, LeaderEpoch(1), 1).unwrap()
        };
        let row = [batch(4).bytes().as_ref(), batch(5).bytes().as_ref()].concat();
        let split = split_batches(Bytes::from(row.clone())).unwrap();
        assert_eq!(split.iter().map(Batch::base_offset).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(split_batches(Bytes::new()), Some(vec![]));
        assert_eq!(split_batches(Bytes::from(row[..row.len() - 1].to_vec())), None);
        let mut damaged = row;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(split_batches(Bytes::from(damaged)), None);
    }
}
