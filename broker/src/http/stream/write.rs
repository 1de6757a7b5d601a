//! Events as text.

use super::super::error::ApiError;
use super::super::pages::{Cursor, Page};
use super::super::records_out::{Layout, write_record};
use pubsub_core::group::stream::{Change, Stream};
use pubsub_core::ids::Offset;
use pubsub_core::wire::client::{Position, StreamPartition, StreamRebalance, StreamStanding};
use pubsub_core::wire::error::ErrorCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// When a client comes back after its connection broke, milliseconds.
const RETRY_MS: u32 = 500;
/// The same for one whose name another one has: two clients of one name would take turns all the time.
const RETRY_FENCED_MS: u32 = 5_000;

/// Writes an event.
fn event(kind: &str, stream: &Stream, data: &impl Serialize) -> Vec<u8> {
    let data = serde_json::to_string(data).expect("plain data");
    format!("event: {kind}\n{}data: {data}\n\n", id_line(stream)).into_bytes()
}

fn id_line(stream: &Stream) -> String {
    let mut id = String::new();
    stream.write_id(&mut id);
    // An empty id would take the client's back.
    if id.is_empty() { id } else { format!("id: {id}\n") }
}

/// Tells a client where it is without an event, and when to come back: one whose connection breaks before the first
/// record misses nothing.
pub(super) fn place_mark(stream: &Stream) -> Vec<u8> {
    format!("retry: {RETRY_MS}\n{}\n", id_line(stream)).into_bytes()
}

/// Tells a client to come back at once: this broker stops.
pub(super) fn come_back() -> Vec<u8> {
    format!("retry: {RETRY_MS}\n\n").into_bytes()
}

/// Tells a client why its stream ends, and when to come back.
pub(super) fn failed(error: &ApiError) -> Vec<u8> {
    let problem = serde_json::to_string(&error.0).expect("a problem has only string keys");
    let retry = if error.code() == ErrorCode::MemberFenced { RETRY_FENCED_MS } else { RETRY_MS };
    format!("retry: {retry}\nevent: error\ndata: {problem}\n\n").into_bytes()
}

/// Tells a member which partitions it reads.
pub(super) fn rebalance(topic: &str, stream: &Stream, change: Change) -> Vec<u8> {
    let partitions = stream.cursors().into_iter();
    let data = StreamRebalance {
        topic: topic.to_owned(),
        member_epoch: stream.member_epoch().unwrap_or_default(),
        partitions: partitions
            .map(|(partition, next_offset, committed)| StreamPartition { partition, next_offset, committed })
            .collect(),
        gained: change.gained,
        lost: change.lost,
    };
    event("rebalance", stream, &data)
}

/// Tells a client how far it is.
pub(super) fn control(topic: &str, stream: &Stream, high_watermarks: &BTreeMap<u32, Offset>) -> Vec<u8> {
    let partitions = stream.cursors().into_iter().map(|(partition, next_offset, committed)| {
        let high_watermark = high_watermarks.get(&partition).copied().unwrap_or(next_offset);
        let lag = high_watermark.saturating_sub(next_offset);
        Position { partition, next_offset, committed, high_watermark, lag }
    });
    let partitions: Vec<Position> = partitions.collect();
    let data = StreamStanding {
        topic: topic.to_owned(),
        member_epoch: stream.member_epoch().unwrap_or_default(),
        lag: partitions.iter().map(|position| position.lag).sum(),
        partitions,
    };
    event("control", stream, &data)
}

/// Writes the records of pages, at most so many and about so many bytes but one at least, and notes them in the stream.
pub(super) fn records(
    stream: &mut Stream,
    pages: &[(Cursor, Page)],
    (records_max, bytes_max): (u32, usize),
) -> Vec<u8> {
    let (mut out, mut count) = (vec![], 0);
    let mut id = String::new();
    for (_, page) in pages {
        stream.skipped_to(page.partition, page.from);
        stream.readable(page.partition, page.high_watermark);
        for record in page.records() {
            let size = record.key.map_or(0, <[u8]>::len) + record.headers.len() + record.value.len();
            if count >= records_max || (count > 0 && out.len() + size > bytes_max) {
                return out;
            }
            stream.sent(page.partition, record.offset);
            id.clear();
            stream.write_id(&mut id);
            write!(out, "event: record\nid: {id}\ndata: ").expect("text can be written to memory");
            write_record(&mut out, page.partition, &record, Layout::Line);
            out.extend_from_slice(b"\n\n");
            count += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::group::stream::{Commits, Standing};
    use pubsub_core::ids::{BrokerId, LeaderEpoch};
    use pubsub_core::record::{BatchBuilder, ValueKind};

    fn stream(partitions: u32) -> Stream {
        let mut stream = Stream::new(Commits::Auto, BTreeMap::new());
        let at = |partition| Standing { partition, committed: 9, by_other: false };
        stream.joined(3, &(0..partitions).map(at).collect::<Vec<_>>());
        stream
    }

    fn page(partition: u32, count: u32, high_watermark: Offset) -> (Cursor, Page) {
        let mut builder = BatchBuilder::new();
        for number in 0..count {
            builder.push(None, b"", ValueKind::Json, format!("\n{number}\r").as_bytes());
        }
        let batches = vec![builder.build(8, LeaderEpoch(3), 5).unwrap()];
        let (leader_epoch, replica) = (LeaderEpoch(3), BrokerId(1));
        let page = Page { partition, from: 10, batches, high_watermark, log_end: 99, leader_epoch, replica };
        (Cursor { partition, from: 10, committed: 9 }, page)
    }

    #[test]
    fn every_record_has_the_id_to_go_on_behind_it_and_is_one_line() {
        let mut stream = stream(2);
        let text = String::from_utf8(records(&mut stream, &[page(1, 9, 12)], (10, 1_000))).unwrap();
        let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids, ["0:9,1:10", "0:9,1:11"]);
        assert_eq!(text.lines().count(), 8, "{text:?}");
        assert_eq!(stream.cursors(), [(0, 10, 9), (1, 12, 9)]);
    }

    #[test]
    fn a_piece_is_bounded_and_the_rest_comes_with_the_next_one() {
        let mut stream = stream(2);
        records(&mut stream, &[page(0, 9, 99), page(1, 9, 99)], (3, 1_000_000));
        assert_eq!(stream.cursors(), [(0, 13, 9), (1, 10, 9)]);
        records(&mut stream, &[page(1, 9, 99)], (100, 1));
        assert_eq!(stream.cursors()[1].1, 11, "one record always fits");
    }

    #[test]
    fn a_standing_adds_the_lag_of_all_partitions() {
        let text = String::from_utf8(control("t", &stream(2), &BTreeMap::from([(0, 14), (1, 10)]))).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let standing: StreamStanding = serde_json::from_str(data).unwrap();
        assert_eq!((standing.lag, standing.partitions[0].high_watermark), (4, 14));
        assert!(text.starts_with("event: control\nid: 0:9,1:9\n"), "{text}");
    }
}
