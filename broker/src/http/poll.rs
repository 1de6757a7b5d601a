//! `GET /poll`: what a reader has not read yet, as soon as there is something.

use super::error::{ApiError, ApiResult, consumer_required, group as group_error, unavailable};
use super::pages::{Cursor, Page};
use super::polling::{Polling, sticky};
use super::query::Query;
use super::records_out::{Layout, write_number, write_record, write_signed, write_string};
use super::topics::Topic;
use super::{App, Call};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use pubsub_core::group::{GroupError, GroupReply, GroupRequest, Held, Reader};
use pubsub_core::ids::{BrokerId, ConsumerId, GroupId, Offset};
use pubsub_core::limits::{GROUP_SESSION_MS, POLL_BYTES_MAX, POLL_RECORDS_MAX, POLL_TIMEOUT_MS_MAX};
use pubsub_core::wire::client::Polled;
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const TIMEOUT_MS_DEFAULT: u64 = 15_000;
const RECORDS_DEFAULT: u32 = 100;
/// How often a standby asks whether a partition became free.
pub(crate) const STANDBY_PAUSE: Duration = Duration::from_millis(500);
/// How long the group's coordinator may be away before a reader is told.
pub(crate) const COORDINATOR_WAIT: Duration = Duration::from_millis(1_000);
/// How long a position that is only shown is waited for.
const POSITION_WAIT: Duration = Duration::from_millis(250);
/// Where a reader wants to start, instead of behind what it has finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct From {
    all: Option<Offset>,
    each: BTreeMap<u32, Offset>,
}

impl From {
    /// Reads `12` (every partition) or `0:12,3:7`.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(all) = text.parse() {
            return Some(Self { all: Some(all), each: BTreeMap::new() });
        }
        let pairs = text.split(',').map(|pair| {
            let (partition, offset) = pair.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        });
        Some(Self { all: None, each: pairs.collect::<Option<_>>()? })
    }

    fn of(&self, partition: u32) -> Option<Offset> {
        self.each.get(&partition).copied().or(self.all)
    }
}

/// The parameters of a poll.
struct Wanted {
    topic: String,
    partition: Option<u32>,
    reader: Reader,
    consumer: Option<ConsumerId>,
    member_epoch: Option<u64>,
    from: From,
    records_max: u32,
    bytes_max: usize,
    timeout: Duration,
    prefer: Option<BrokerId>,
}

/// Returns records that the reader has not finished; waits for some if there are none.
#[utoipa::path(
    get, path = "/poll", tag = "read",
    params(
        ("topic" = String, Query, description = "The topic's name"),
        ("partition" = Option<u32>, Query, minimum = 0, description = "Read only this one; else the assigned ones, or all"),
        ("group_id" = Option<String>, Query, description = "Read on behalf of a group, which shares the partitions"),
        ("consumer_id" = Option<String>, Query, description = "Who reads; required with a group"),
        ("member_epoch" = Option<u64>, Query, minimum = 0, description = "The epoch that the member was told last: it is fenced if its membership ended, and otherwise keeps what it has"),
        ("from_offset" = Option<String>, Query, description = "Start here instead of behind the committed offset: an offset, or `partition:offset,…`"),
        ("max_records" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most records; default 100"),
        ("max_bytes" = Option<u64>, Query, minimum = 1, description = "About so many bytes at most, but one record always fits"),
        ("timeout_ms" = Option<u64>, Query, minimum = 0, maximum = 60000, description = "How long to wait for a record, milliseconds; default 15000"),
        ("prefer_replica" = Option<i64>, Query, description = "Broker to read from, if it is a live replica; any other number is as none"),
    ),
    responses(
        (status = 200, description = "Committed records, maybe none", body = Polled),
        (status = 400, description = "CONSUMER_REQUIRED", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 409, description = "GROUP_BUSY, MEMBER_FENCED", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
        (status = 500, description = "CORRUPT_RECORD", body = Problem),
        (status = 503, description = "UNAVAILABLE", body = Problem),
        (status = 504, description = "OUTCOME_UNKNOWN: whether the member has joined", body = Problem),
    )
)]
pub(crate) async fn poll(State(app): State<App>, call: Call) -> ApiResult<Response> {
    let wanted = wanted(&call)?;
    let topic = app.topic(&wanted.topic, call.forwarded()).await?;
    if let Some(partition) = wanted.partition {
        topic.partition(partition)?;
    }
    Poll { app: &app, topic: &topic, wanted: &wanted, headers: &call.headers }.run().await
}

/// Reads `group_id` and `consumer_id`.
///
/// # Errors
/// 400 for a group without a consumer.
pub(crate) fn reader(group: Option<GroupId>, consumer: Option<&ConsumerId>) -> ApiResult<Reader> {
    match (group, consumer) {
        (Some(_), None) => Err(consumer_required()),
        (Some(group), Some(_)) => Ok(Reader::Group(group)),
        (None, Some(consumer)) => Ok(Reader::Consumer(consumer.clone())),
        (None, None) => Ok(Reader::Anonymous),
    }
}

fn wanted(call: &Call) -> ApiResult<Wanted> {
    let mut query = Query::parse(call.query());
    let topic = query.required("topic").to_owned();
    let partition = query.number("partition", 0, u32::MAX);
    let group: Option<GroupId> = query.checked("group_id");
    let consumer: Option<ConsumerId> = query.checked("consumer_id");
    let member_epoch = query.number("member_epoch", 0, u64::MAX);
    let from = query.text("from_offset").map(|text| From::parse(text).ok_or(text.starts_with('-')));
    let from = match from {
        None => From::default(),
        Some(Ok(from)) => from,
        Some(Err(negative)) => {
            let kind = if negative { "greater_than_equal" } else { "int_parsing" };
            query.fault(
                kind,
                "from_offset",
                "use an offset from 0, or partition:offset pairs with commas between",
            );
            From::default()
        }
    };
    let records_max = query.number("max_records", 1, POLL_RECORDS_MAX).unwrap_or(RECORDS_DEFAULT);
    let bytes_max = query
        .number("max_bytes", 1, u64::MAX)
        .map_or(POLL_BYTES_MAX, |bytes| usize::try_from(bytes).unwrap_or(POLL_BYTES_MAX).min(POLL_BYTES_MAX));
    let timeout_ms = query.number("timeout_ms", 0, POLL_TIMEOUT_MS_MAX).unwrap_or(TIMEOUT_MS_DEFAULT);
    let prefer = query.number::<i64>("prefer_replica", i64::MIN, i64::MAX);
    query.finish()?;
    let reader = reader(group, consumer.as_ref())?;
    let prefer = prefer.and_then(|id| u32::try_from(id).ok()).map(BrokerId);
    let timeout = Duration::from_millis(timeout_ms);
    Ok(Wanted {
        topic,
        partition,
        reader,
        consumer,
        member_epoch,
        from,
        records_max,
        bytes_max,
        timeout,
        prefer,
    })
}

/// One poll on its way.
struct Poll<'a> {
    app: &'a App,
    topic: &'a Topic,
    wanted: &'a Wanted,
    headers: &'a HeaderMap,
}

impl Poll<'_> {
    async fn run(&self) -> ApiResult<Response> {
        let deadline = Instant::now() + self.wanted.timeout;
        let group = matches!(self.wanted.reader, Reader::Group(_));
        loop {
            let cursors = self.cursors(deadline).await?;
            // A wait that outlasts the session would cost the reader its partitions.
            let renew = Instant::now() + Duration::from_millis(GROUP_SESSION_MS / 3);
            let mut until = if group { deadline.min(renew) } else { deadline };
            if cursors.is_empty() {
                until = until.min(Instant::now() + STANDBY_PAUSE);
                tokio::time::sleep_until(until).await;
                if Instant::now() >= deadline || self.app.broker.is_stopping() {
                    return Ok(respond(self.topic, self.app.id, &[], self.wanted));
                }
                continue;
            }
            let pages = self.polling().pages(cursors, until).await?;
            let over = Instant::now() >= deadline || self.app.broker.is_stopping();
            if over || pages.iter().any(|(_, page)| !page.is_empty()) {
                return Ok(respond(self.topic, self.app.id, &pages, self.wanted));
            }
        }
    }

    fn polling(&self) -> Polling<'_> {
        Polling {
            app: self.app,
            topic: self.topic,
            prefer: self.wanted.prefer,
            sticky: sticky(&self.wanted.reader, self.wanted.consumer.as_ref()),
            headers: self.headers,
            records_max: self.wanted.records_max,
            bytes_max: self.wanted.bytes_max,
        }
    }

    /// Returns where the reader stands, and takes or renews a group's membership on the way.
    async fn cursors(&self, deadline: Instant) -> ApiResult<Vec<Cursor>> {
        let join = GroupRequest::Join {
            reader: self.wanted.reader.clone(),
            consumer: self.wanted.consumer.clone(),
            topic: self.topic.id,
            partitions: self.topic.partitions(),
            standby: false,
            held: self.wanted.member_epoch.map(|member_epoch| Held { member_epoch, owned: None }),
            anew: false,
        };
        let patience = deadline.max(Instant::now() + COORDINATOR_WAIT);
        let given = self.wanted.from.all.is_some() && !matches!(self.wanted.reader, Reader::Group(_));
        let reply = if given {
            // Its position is only shown: without a coordinator it can be read all the same.
            let until = Instant::now() + POSITION_WAIT;
            let soon = tokio::time::timeout_at(until, self.app.broker.group(join, until)).await;
            soon.unwrap_or(Err(GroupError::Unavailable)).or_else(|error| match error {
                GroupError::Unavailable | GroupError::Unknown => Ok(self.nothing_finished()),
                other => Err(group_error(&other)),
            })?
        } else {
            self.app.group(join, patience).await?
        };
        let GroupReply::Joined { partitions, .. } = reply else { return Err(unexpected_reply()) };
        if let Some(wanted) = self.wanted.partition
            && !partitions.iter().any(|(partition, _)| *partition == wanted)
        {
            return Err(group_error(&GroupError::Fenced).partition(wanted));
        }
        let chosen =
            partitions.into_iter().filter(|(no, _)| self.wanted.partition.is_none_or(|wanted| wanted == *no));
        let cursor = |(partition, committed): (u32, i64)| {
            let behind = u64::try_from(committed.saturating_add(1)).unwrap_or_default();
            Cursor { partition, from: self.wanted.from.of(partition).unwrap_or(behind), committed }
        };
        Ok(chosen.map(cursor).collect())
    }

    fn nothing_finished(&self) -> GroupReply {
        let partitions = (0..self.topic.partitions()).map(|partition| (partition, -1)).collect();
        GroupReply::Joined {
            member_epoch: 0,
            partitions,
            by_others: vec![],
            session_timeout_ms: GROUP_SESSION_MS,
        }
    }
}

/// The coordinator answered something else than was asked.
pub(crate) fn unexpected_reply() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "the group's coordinator gave an answer that does not fit the question",
    )
}

impl App {
    /// Asks a coordinator; while there is none, again until `until`.
    ///
    /// # Errors
    /// What the coordinator says; a refusal that follows a try of unknown outcome says that it is ambiguous.
    pub(crate) async fn group(&self, request: GroupRequest, until: Instant) -> ApiResult<GroupReply> {
        let mut perhaps_done = false;
        loop {
            let asked = tokio::time::timeout_at(until, self.broker.group(request.clone(), until)).await;
            let error = match asked {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => error,
                Err(_) if !changes(&request) => {
                    return Err(unavailable("the group's coordinator did not answer in time"));
                }
                Err(_) => GroupError::Unknown,
            };
            perhaps_done |= error == GroupError::Unknown;
            // A position that may have been kept can be set again: it is the same one.
            let again = matches!(
                (&error, &request),
                (GroupError::Unavailable, _)
                    | (GroupError::Unknown, GroupRequest::Commit { .. } | GroupRequest::Reset { .. })
            );
            let pause = Duration::from_millis(100);
            if !again || Instant::now() + pause >= until {
                return Err(told(&error, perhaps_done));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Returns what a caller is told of the last try, if one of them may have been done: that one does not unmake another.
fn told(error: &GroupError, perhaps_done: bool) -> ApiError {
    let told = group_error(error);
    if perhaps_done { told.ambiguous(true) } else { told }
}

/// Whether a request changes what is stored, so that no answer means "perhaps".
fn changes(request: &GroupRequest) -> bool {
    match request {
        GroupRequest::Commit { .. }
        | GroupRequest::Delete { .. }
        | GroupRequest::Leave { .. }
        | GroupRequest::Reset { .. } => true,
        GroupRequest::Join { .. } | GroupRequest::Describe { .. } | GroupRequest::List => false,
    }
}

/// Writes the answer, straight from frames.
fn respond(topic: &Topic, me: BrokerId, pages: &[(Cursor, Page)], wanted: &Wanted) -> Response {
    let bytes: usize =
        pages.iter().flat_map(|(_, page)| &page.batches).map(|batch| batch.bytes().len()).sum();
    let mut out = Vec::with_capacity(256 + bytes.min(POLL_BYTES_MAX) * 5 / 4);
    let replica = pages.iter().map(|(_, page)| page.replica).find(|replica| *replica != me).unwrap_or(me);
    write_polled(&mut out, topic.name.as_str(), replica, pages, (wanted.records_max, wanted.bytes_max));
    let mut response =
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], out).into_response();
    if let [(_, page)] = pages {
        for (name, value) in page.headers() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Appends a [`Polled`] of at most so many records and about so many bytes, but one record at least.
pub(crate) fn write_polled(
    out: &mut Vec<u8>,
    topic: &str,
    replica: BrokerId,
    pages: &[(Cursor, Page)],
    (records_max, bytes_max): (u32, usize),
) {
    out.extend_from_slice(b"{\"topic\":");
    write_string(out, topic);
    out.extend_from_slice(b",\"records\":[");
    let (start, mut count) = (out.len(), 0);
    let mut next = BTreeMap::new();
    for (cursor, page) in pages {
        let mut next_offset = page.from;
        for record in page.records() {
            let size = record.key.map_or(0, <[u8]>::len) + record.headers.len() + record.value.len();
            if count >= records_max || (count > 0 && out.len() - start + size > bytes_max) {
                break;
            }
            if count > 0 {
                out.push(b',');
            }
            write_record(out, page.partition, &record, Layout::Document);
            next_offset = record.offset + 1;
            count += 1;
        }
        next.insert(page.partition, (next_offset, cursor.committed, page.high_watermark));
    }
    out.push(b']');
    let lowest = next.first_key_value().map_or((0, -1, 0), |(_, standing)| *standing);
    write_standing(out, lowest);
    out.extend_from_slice(b",\"replica_id\":");
    write_number(out, u64::from(replica.0));
    out.extend_from_slice(b",\"partitions\":[");
    for (index, (partition, standing)) in next.into_iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"partition\":" } else { b",{\"partition\":" });
        write_number(out, u64::from(partition));
        write_standing(out, standing);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

fn write_standing(out: &mut Vec<u8>, (next_offset, committed, high_watermark): (Offset, i64, Offset)) {
    out.extend_from_slice(b",\"next_offset\":");
    write_number(out, next_offset);
    out.extend_from_slice(b",\"committed\":");
    write_signed(out, committed);
    out.extend_from_slice(b",\"high_watermark\":");
    write_number(out, high_watermark);
    out.extend_from_slice(b",\"lag\":");
    write_number(out, high_watermark.saturating_sub(next_offset));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::ids::LeaderEpoch;
    use pubsub_core::record::{BatchBuilder, ValueKind};

    #[test]
    fn a_commit_refused_by_the_next_coordinator_may_have_been_kept_by_the_one_before() {
        for error in [GroupError::Fenced, GroupError::Unavailable, GroupError::Unknown] {
            assert_eq!(told(&error, true).0.ambiguous, Some(true), "{error}");
        }
        assert_eq!(told(&GroupError::Fenced, false).0.ambiguous, None);
        assert_eq!(told(&GroupError::Unavailable, false).0.ambiguous, Some(false));
    }

    fn page(
        partition: u32,
        from: Offset,
        base: Offset,
        count: u32,
        high_watermark: Offset,
    ) -> (Cursor, Page) {
        let mut builder = BatchBuilder::new();
        for number in 0..count {
            builder.push(None, b"", ValueKind::Json, number.to_string().as_bytes());
        }
        let batches = vec![builder.build(base, LeaderEpoch(3), 5).unwrap()];
        let leader_epoch = LeaderEpoch(3);
        let page = Page {
            partition,
            from,
            batches,
            high_watermark,
            log_end: 99,
            leader_epoch,
            replica: BrokerId(1),
        };
        (Cursor { partition, from, committed: -1 }, page)
    }

    fn polled(pages: &[(Cursor, Page)], limits: (u32, usize)) -> Polled {
        let mut out = vec![];
        write_polled(&mut out, "t", BrokerId(2), pages, limits);
        serde_json::from_slice(&out).unwrap()
    }

    fn offsets(polled: &Polled) -> Vec<(u32, Offset)> {
        polled.records.iter().map(|record| (record.partition, record.offset)).collect()
    }

    #[test]
    fn only_committed_records_from_the_cursor_on_are_written() {
        let polled = polled(&[page(0, 12, 10, 10, 15)], (100, POLL_BYTES_MAX));
        assert_eq!(offsets(&polled), [(0, 12), (0, 13), (0, 14)]);
        assert_eq!((polled.next_offset, polled.high_watermark, polled.lag), (15, 15, 0));
    }

    #[test]
    fn next_offset_is_behind_the_last_record_written() {
        let polled = polled(&[page(0, 10, 10, 10, 20)], (3, POLL_BYTES_MAX));
        assert_eq!((offsets(&polled).len(), polled.next_offset, polled.lag), (3, 13, 7));
    }

    #[test]
    fn one_record_always_fits() {
        assert_eq!(polled(&[page(0, 10, 10, 10, 20)], (100, 1)).next_offset, 11);
    }

    #[test]
    fn partitions_that_got_no_room_keep_their_place() {
        let polled = polled(&[page(1, 10, 10, 5, 15), page(0, 4, 4, 5, 9)], (5, POLL_BYTES_MAX));
        assert_eq!(offsets(&polled), [(1, 10), (1, 11), (1, 12), (1, 13), (1, 14)]);
        let next: Vec<_> =
            polled.partitions.iter().map(|at| (at.partition, at.next_offset, at.lag)).collect();
        assert_eq!(next, [(0, 4, 5), (1, 15, 0)]);
        assert_eq!((polled.next_offset, polled.lag), (4, 5));
    }

    #[test]
    fn nothing_to_read_is_an_answer_too() {
        let polled = polled(&[], (5, POLL_BYTES_MAX));
        assert_eq!((polled.records.len(), polled.committed, polled.next_offset), (0, -1, 0));
    }

    #[test]
    fn a_start_is_one_offset_or_one_for_each_partition() {
        assert_eq!(From::parse("12").unwrap().of(5), Some(12));
        let each = From::parse("0:12,3:7").unwrap();
        assert_eq!((each.of(0), each.of(3), each.of(1)), (Some(12), Some(7), None));
        for text in ["-1", "x", "0:", "1:2,", "1180591620717411303424"] {
            assert_eq!(From::parse(text), None, "{text}");
        }
    }
}
