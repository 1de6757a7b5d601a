//! `POST /topics/{topic}/publish`: from a body to batches, one for each partition, and from there to their leaders.

mod body;

use super::error::{ApiError, ApiResult, append as append_error, unavailable};
use super::forward::{Hop, named, problem};
use super::query::Query;
use super::records_in::NewRecord;
use super::topics::{Topic, entry_of};
use super::{App, Call, Segments};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use body::{Body, producer, read};
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pubsub_core::ids::{BrokerId, Offset, TopicPartition};
use pubsub_core::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, PUBLISH_TIMEOUT_MS_DEFAULT, REQUEST_TIMEOUT_MS_MAX,
};
use pubsub_core::partition::{Acks, AppendError, Appended};
use pubsub_core::record::{Batch, BatchBuilder, FRAME_BYTES, HEADER_BYTES, Producer};
use pubsub_core::wire::client::{
    BATCH_MEDIA_TYPE, EXPECTED_OFFSET_HEADER, LEADER_EPOCH_HEADER, PRODUCER_ID_HEADER, PRODUCER_SEQ_HEADER,
    Placed, Published, PublishedBatch, PublishedMany, partition_of_key,
};
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a publish waits for replicas to come back before it is refused.
const REPLICAS_WAIT: Duration = Duration::from_millis(2_000);
/// How long a forwarded publish waits for an image that says who leads.
const FORWARDED_WAIT: Duration = Duration::from_millis(1_000);
/// Pause between two tries when no newer image comes.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a leader that was replaced may still answer what was sent to it.
const REPLACED_GRACE: Duration = Duration::from_millis(250);

/// What a publish asks for beside its records.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    acks: Acks,
    partition: Option<u32>,
    expected_offset: Option<Offset>,
    deadline: Instant,
}

/// Publishes one record, several, or a batch.
#[utoipa::path(
    post, path = "/topics/{topic}/publish", tag = "publish",
    params(
        ("topic" = String, Path, description = "The topic's name"),
        ("acks" = Option<String>, Query, description = "When to answer: `all` (default) in-sync replicas, the `leader`, or `none`"),
        ("partition" = Option<u32>, Query, minimum = 0, description = "Where to; else by the key's hash, or by turns without a key"),
        ("timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 60000, description = "Longest time to wait, milliseconds; default 10000"),
        ("Pubsub-Expected-Offset" = Option<u64>, Header, description = "Publish only if the log ends here, else 412"),
        ("Producer-Id" = Option<String>, Header, description = "Of an idempotent producer, with the two below: a UUID that it chose. All records must go to one partition"),
        ("Producer-Epoch" = Option<u16>, Header, description = "0 at first; a higher one begins anew and fences the lower ones"),
        ("Producer-Seq" = Option<u32>, Header, description = "Sequence of the first record in this partition. What is there already is answered with `duplicate`"),
        ("Pubsub-Key" = Option<String>, Header, description = "Key of a raw body; `Pubsub-Header-*` become its headers"),
    ),
    request_body(content(
        (pubsub_core::wire::client::PublishMany<'static> = "application/json"),
        (String = "application/x-ndjson"),
        (Vec<u8> = "application/octet-stream"),
        (Vec<u8> = "application/vnd.pubsub.batch"),
    )),
    responses(
        (status = 200, description = "Acknowledged", body = Published),
        (status = 403, description = "PRODUCER_FENCED", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 409, description = "OUT_OF_ORDER, DUPLICATE_SEQUENCE", body = Problem),
        (status = 412, description = "UNEXPECTED_END", body = Problem),
        (status = 413, description = "RECORD_TOO_LARGE, BODY_TOO_LARGE", body = Problem),
        (status = 415, description = "UNSUPPORTED_MEDIA_TYPE", body = Problem),
        (status = 422, description = "VALIDATION_FAILED, UNSUPPORTED", body = Problem),
        (status = 503, description = "Definite, nothing was written: NOT_ENOUGH_REPLICAS, NOT_LEADER, OVERLOADED, UNAVAILABLE, BROKER_UNREACHABLE", body = Problem),
        (status = 504, description = "Ambiguous: COMMIT_TIMEOUT, OUTCOME_UNKNOWN", body = Problem),
        (status = 507, description = "STORAGE_FULL", body = Problem),
    )
)]
pub(crate) async fn publish(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let wanted = wanted(&call)?;
    let producer = producer(&call.headers)?;
    let forwarded = call.forwarded();
    let bytes = call.body().await?;
    let topic = app.topic(&name, forwarded).await?;
    if topic.name.is_internal() {
        return Err(ApiError::new(
            ErrorCode::Unsupported,
            format!("topic {name} is internal to the brokers"),
        ));
    }
    if let Some(partition) = wanted.partition {
        topic.partition(partition)?;
    }
    let body = read(&bytes.headers, &bytes.body)?;
    if let Some(most) = topic.entry.config.max_record_bytes {
        body.check_sizes(&topic.name, most)?;
    }
    let at = Publish { app: &app, topic: &topic, wanted, producer, forwarded, headers: &bytes.headers };
    match body {
        Body::One(record) => at.one(record).await,
        Body::Many(records) => at.many(records).await,
        Body::Lines(records) => at.lines(records).await,
        Body::Batch(batch) => at.batch(batch).await,
    }
}

fn wanted(call: &Call) -> ApiResult<Wanted> {
    let mut query = Query::parse(call.query());
    let acks = match query.text("acks").unwrap_or("all") {
        "all" | "-1" => Acks::All,
        "leader" | "1" => Acks::Leader,
        "none" | "0" => Acks::None,
        _ => {
            query.fault("enum", "acks", "use all, leader or none");
            Acks::All
        }
    };
    let partition = query.number("partition", 0, u32::MAX);
    let timeout_ms =
        query.number("timeout_ms", 1, REQUEST_TIMEOUT_MS_MAX).unwrap_or(PUBLISH_TIMEOUT_MS_DEFAULT);
    query.finish()?;
    let expected_offset = call.headers.get(EXPECTED_OFFSET_HEADER).map(|value| {
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        let fault = || {
            ApiError::field("int_parsing", &["header", EXPECTED_OFFSET_HEADER], "use the log's end, from 0")
        };
        number.ok_or_else(fault)
    });
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    Ok(Wanted { acks, partition, expected_offset: expected_offset.transpose()?, deadline })
}

/// Records of one partition, with the place of each in the request.
#[derive(Default)]
struct Share {
    builder: BatchBuilder,
    indices: Vec<usize>,
}

/// Chooses a record's partition: the given one, the key's, or the one whose turn it is.
fn choose(given: Option<u32>, key: Option<&[u8]>, partitions: u32, turn: u32) -> u32 {
    match (given, key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => partition_of_key(key, partitions),
        (None, None) => turn % partitions.max(1),
    }
}

fn push(builder: &mut BatchBuilder, record: &NewRecord<'_>) {
    builder.push(record.key.as_deref(), &record.headers, record.kind, &record.value);
}

fn build(builder: BatchBuilder) -> ApiResult<Batch> {
    let (count, length) = (builder.count(), builder.len());
    builder.build(0, Default::default(), 0).map_err(|_| {
        let detail = format!(
            "{count} records in {length} bytes for one partition; at most {BATCH_RECORDS_MAX} and {BATCH_BYTES_MAX} are taken at once"
        );
        ApiError::new(ErrorCode::RecordTooLarge, detail).ambiguous(false)
    })
}

/// One publish on its way.
struct Publish<'a> {
    app: &'a App,
    topic: &'a Topic,
    wanted: Wanted,
    /// Of an idempotent producer: what it said of the first record.
    producer: Option<Producer>,
    forwarded: bool,
    headers: &'a HeaderMap,
}

impl Publish<'_> {
    async fn one(&self, record: NewRecord<'_>) -> ApiResult<Response> {
        self.check_place(self.producer.is_some(), record.key.is_some())?;
        let partition = self.choose(record.key.as_deref(), self.app.turn());
        let mut builder = BatchBuilder::new();
        push(&mut builder, &record);
        self.sign(&mut builder, 0)?;
        let appended = self.append(partition, build(builder)?).await?;
        let epoch = appended.leader_epoch;
        let published = Published {
            topic: self.topic.name.to_string(),
            partition,
            offset: appended.base_offset,
            timestamp_ms: appended.timestamp_ms,
            leader_epoch: epoch,
            isr: appended.isr,
            duplicate: appended.duplicate,
        };
        Ok(([(LEADER_EPOCH_HEADER, HeaderValue::from(epoch.0))], axum::Json(published)).into_response())
    }

    async fn batch(&self, batch: Batch) -> ApiResult<Response> {
        if self.producer.is_some() {
            let msg = "a batch names its producer itself: leave the header out";
            return Err(ApiError::field("value_error", &["header", PRODUCER_ID_HEADER], msg));
        }
        let count = batch.count();
        self.check_place(batch.producer().is_some(), false)?;
        let partition = self.choose(None, self.app.turn());
        let appended = self.append(partition, batch).await?;
        let epoch = appended.leader_epoch;
        let published = PublishedBatch {
            topic: self.topic.name.to_string(),
            partition,
            base_offset: appended.base_offset,
            count,
            timestamp_ms: appended.timestamp_ms,
            leader_epoch: epoch,
            isr: appended.isr,
            duplicate: appended.duplicate,
        };
        Ok(([(LEADER_EPOCH_HEADER, HeaderValue::from(epoch.0))], axum::Json(published)).into_response())
    }

    async fn many(&self, records: Vec<NewRecord<'_>>) -> ApiResult<Response> {
        let count = records.len();
        let mut results = vec![Placed { partition: 0, offset: 0 }; count];
        let duplicate = self.shares(&records, 0, &mut results).await?;
        let topic = self.topic.name.to_string();
        Ok(axum::Json(PublishedMany { topic, results, duplicate }).into_response())
    }

    /// Lines are a stream: more than fits a batch goes out as several, in order, and is not atomic.
    async fn lines(&self, records: Vec<NewRecord<'_>>) -> ApiResult<Response> {
        let mut results = vec![Placed { partition: 0, offset: 0 }; records.len()];
        let (mut done, mut duplicate) = (0, !records.is_empty());
        while done < records.len() {
            let end = done + batch_prefix(&records[done..]);
            let placed = self.shares(&records[done..end], done, &mut results).await;
            duplicate &= placed.map_err(|error| partly(error, done))?;
            done = end;
        }
        let topic = self.topic.name.to_string();
        Ok(axum::Json(PublishedMany { topic, results, duplicate }).into_response())
    }

    /// Publishes records as one batch a partition and notes their places in `results`, from `first` on. Returns whether all
    /// of them were there before.
    async fn shares(
        &self,
        records: &[NewRecord<'_>],
        first: usize,
        results: &mut [Placed],
    ) -> ApiResult<bool> {
        self.check_place(self.producer.is_some(), records.iter().all(|record| record.key.is_some()))?;
        let turn = self.app.turn();
        let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let share = shares.entry(self.choose(record.key.as_deref(), turn)).or_default();
            push(&mut share.builder, record);
            share.indices.push(first + index);
        }
        let only_one = match (self.wanted.expected_offset, self.producer) {
            (Some(_), _) => Some(EXPECTED_OFFSET_HEADER),
            (None, Some(_)) => Some(PRODUCER_SEQ_HEADER),
            (None, None) => None,
        };
        if let Some(header) = only_one.filter(|_| shares.len() > 1) {
            let msg = "the records belong to several partitions: name one with ?partition=";
            return Err(ApiError::field("value_error", &["header", header], msg));
        }
        let mut batches = Vec::with_capacity(shares.len());
        for (partition, mut share) in shares {
            self.sign(&mut share.builder, first)?;
            batches.push((partition, build(share.builder)?, share.indices));
        }
        let appends = batches.into_iter().map(async |(partition, batch, indices)| {
            self.append(partition, batch).await.map(|appended| (partition, appended, indices))
        });
        let mut failed = None;
        let (mut any, mut duplicate) = (false, true);
        for outcome in join_all(appends).await {
            match outcome {
                Ok((partition, appended, indices)) => {
                    any = true;
                    duplicate &= appended.duplicate;
                    for (offset, index) in (appended.base_offset..).zip(indices) {
                        results[index] = Placed { partition, offset };
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(any && duplicate),
            // Some partitions have their records and others don't: of the request as a whole that is "perhaps".
            Some(error) if any => Err(error.ambiguous(true)),
            Some(error) => Err(error),
        }
    }

    /// Refuses an idempotent producer's records that would go to another partition when they are sent again.
    fn check_place(&self, idempotent: bool, keyed: bool) -> ApiResult<()> {
        if !idempotent || keyed || self.wanted.partition.is_some() || self.topic.partitions() == 1 {
            return Ok(());
        }
        let msg = "sequences belong to a partition: name it with ?partition=, or give the record a key";
        Err(ApiError::field("value_error", &["header", PRODUCER_SEQ_HEADER], msg))
    }

    /// Marks a batch that starts with the request's record `index` as the producer's.
    fn sign(&self, builder: &mut BatchBuilder, index: usize) -> ApiResult<()> {
        let Some(producer) = self.producer else { return Ok(()) };
        let first = u32::try_from(index).ok().and_then(|index| producer.first_sequence.checked_add(index));
        let last = first.and_then(|first| first.checked_add(builder.count().saturating_sub(1)));
        let (Some(first_sequence), Some(_)) = (first, last) else {
            let msg = "no sequences are left in this epoch: begin again at 0 with a higher epoch";
            return Err(ApiError::field("value_error", &["header", PRODUCER_SEQ_HEADER], msg));
        };
        builder.producer(Producer { first_sequence, ..producer });
        Ok(())
    }

    fn choose(&self, key: Option<&[u8]>, turn: u32) -> u32 {
        choose(self.wanted.partition, key, self.topic.partitions(), turn)
    }

    /// Brings a batch to the partition's leader, wherever it is. What failed for certain is tried again until the
    /// deadline, so that a failover is a delay and not an error; what may have succeeded is not.
    async fn append(&self, partition: u32, batch: Batch) -> ApiResult<Appended> {
        let tp = self.topic.partition(partition)?;
        let started = Instant::now();
        let mut perhaps = false;
        loop {
            let image = self.app.image().await?;
            let leader = entry_of(&image, tp).and_then(|entry| entry.leader);
            let refused = match leader {
                None => append_error(&AppendError::NotLeader { leader: None }, partition),
                Some(leader) if leader == self.app.id => match self.append_here(tp, batch.clone()).await {
                    Ok(appended) => return Ok(appended),
                    Err(refused) => refused,
                },
                Some(leader) if self.forwarded => {
                    let refused = append_error(&AppendError::NotLeader { leader: Some(leader) }, partition);
                    refused.leader(Some(leader), self.app.api_base(leader))
                }
                Some(leader) => match self.append_there(leader, tp, &batch).await {
                    Ok(appended) => return Ok(appended),
                    Err(refused) => refused,
                },
            };
            // What one try may have stored, the refusal of a later one does not undo.
            perhaps |= refused.0.ambiguous == Some(true);
            let refused = if perhaps { refused.ambiguous(true) } else { refused };
            let patience = match (refused.code(), self.forwarded) {
                (ErrorCode::NotEnoughReplicas, _) => REPLICAS_WAIT,
                (_, true) => FORWARDED_WAIT,
                (_, false) => Duration::MAX,
            };
            let left = self.wanted.deadline.saturating_duration_since(Instant::now());
            let again = worth_retrying(&refused, batch.producer().is_some());
            if !again || left <= RETRY_PAUSE || started.elapsed() + RETRY_PAUSE > patience {
                return Err(refused);
            }
            let newer = Instant::now() + RETRY_PAUSE;
            self.app.image_where(newer, |found| found.at > image.at).await;
            if self.app.broker.image().is_some_and(|found| !found.topics.contains_key(&tp.topic)) {
                return Err(super::error::topic_not_found(self.topic.name.as_str()));
            }
        }
    }

    async fn append_here(&self, tp: TopicPartition, batch: Batch) -> ApiResult<Appended> {
        let left = self.wanted.deadline.saturating_duration_since(Instant::now());
        let appended =
            self.app.broker.append(tp, batch, self.wanted.acks, self.wanted.expected_offset, left).await;
        appended.map_err(|error| append_error(&error, tp.partition))
    }

    async fn append_there(&self, leader: BrokerId, tp: TopicPartition, batch: &Batch) -> ApiResult<Appended> {
        let Some(api_base) = self.app.api_base(leader) else {
            return Err(unavailable(format!("the address of broker {leader} is not known yet"))
                .partition(tp.partition));
        };
        let left = self.wanted.deadline.saturating_duration_since(Instant::now());
        // The leader gives up a little earlier, so that its own, more exact answer still arrives.
        let theirs = left.saturating_sub((left / 10).min(Duration::from_millis(100))).as_millis().max(1);
        let acks = match self.wanted.acks {
            Acks::All => "all",
            Acks::Leader => "leader",
            Acks::None => "none",
        };
        let path = format!(
            "/topics/{}/publish?partition={}&acks={acks}&timeout_ms={theirs}",
            self.topic.name, tp.partition
        );
        let mut headers = named(self.headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BATCH_MEDIA_TYPE));
        if let Some(offset) = self.wanted.expected_offset {
            headers.insert(EXPECTED_OFFSET_HEADER, HeaderValue::from(offset));
        }
        let body = batch.bytes().clone();
        let hop = Hop { api_base: &api_base, method: Method::POST, path: &path, headers, body, within: left };
        let answer = tokio::select! {
            answer = self.app.forwarder.call(hop) => answer.map_err(|error| error.of_change())?,
            () = self.replaced(tp, leader) => {
                let detail = format!("broker {leader} was replaced as leader before it answered; the records may or may not be kept");
                return Err(ApiError::new(ErrorCode::OutcomeUnknown, detail).ambiguous(true).partition(tp.partition));
            }
        };
        if answer.status() == StatusCode::OK {
            let placed: PublishedBatch = serde_json::from_slice(answer.body())
                .map_err(|_| super::forward::ForwardError::NoAnswer(api_base.clone()).of_change())?;
            return Ok(Appended {
                base_offset: placed.base_offset,
                timestamp_ms: placed.timestamp_ms,
                leader_epoch: placed.leader_epoch,
                isr: placed.isr,
                duplicate: placed.duplicate,
            });
        }
        Err(problem(&answer)
            .unwrap_or_else(|| super::forward::ForwardError::NoAnswer(api_base.clone()).of_change()))
    }

    /// Returns once the image has another leader and the old one had a moment to answer.
    ///
    /// # Cancel safety
    /// Safe.
    async fn replaced(&self, tp: TopicPartition, leader: BrokerId) {
        let moved = |image: &pubsub_core::control::image::Image| {
            entry_of(image, tp).is_none_or(|entry| entry.leader != Some(leader))
        };
        if self.app.image_where(self.wanted.deadline, moved).await.is_none() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(REPLACED_GRACE).await;
    }
}

/// Makes a failure after `done` lines were published one of the request as a whole: of it "nothing was written" is not true.
fn partly(mut error: ApiError, done: usize) -> ApiError {
    if done == 0 {
        return error;
    }
    if let pubsub_core::wire::error::Detail::Text(text) = &mut error.0.detail {
        text.push_str(&format!("; the first {done} lines were published"));
    }
    error.ambiguous(true)
}

/// Returns how many records from the first on surely fit one batch, wherever they go.
fn batch_prefix(records: &[NewRecord<'_>]) -> usize {
    let mut bytes = HEADER_BYTES;
    let fits = |record: &&NewRecord<'_>| {
        bytes += FRAME_BYTES
            + record.key.as_ref().map_or(0, |key| key.len())
            + record.headers.len()
            + record.value.len();
        bytes <= BATCH_BYTES_MAX
    };
    records.iter().take(BATCH_RECORDS_MAX).take_while(fits).count().max(1)
}

/// Whether a failure may pass by itself, and another try does no harm: it was definite, or the records are an idempotent
/// producer's.
fn worth_retrying(refused: &ApiError, idempotent: bool) -> bool {
    let passing = matches!(
        refused.code(),
        ErrorCode::NotLeader
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::Unavailable
            | ErrorCode::BrokerUnreachable
    );
    match refused.0.ambiguous {
        Some(false) => passing,
        Some(true) | None => idempotent && (passing || refused.code() == ErrorCode::OutcomeUnknown),
    }
}

impl App {
    /// Returns whose turn it is among partitions that are as good as each other.
    pub(crate) fn turn(&self) -> u32 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::record::ValueKind;
    use std::borrow::Cow;

    #[test]
    fn a_refusal_after_some_lines_were_published_is_not_definite() {
        let refused = || append_error(&AppendError::NotLeader { leader: None }, 0);
        assert_eq!(partly(refused(), 0).0.ambiguous, Some(false));
        assert_eq!(partly(refused(), 3).0.ambiguous, Some(true));
    }

    #[test]
    fn a_given_partition_wins_over_the_key_and_the_key_over_turns() {
        assert_eq!(choose(Some(5), Some(b"123456789"), 8, 1), 5);
        assert_eq!(choose(None, Some(b"123456789"), 8, 1), 4);
        assert_eq!([6, 7, 8, 9].map(|turn| choose(None, None, 8, turn)), [6, 7, 0, 1]);
    }

    #[test]
    fn lines_are_cut_where_a_batch_is_full_but_never_before_one() {
        let record = |size| NewRecord {
            key: None,
            headers: Cow::Borrowed(&b""[..]),
            kind: ValueKind::Bytes,
            value: Cow::Owned(vec![0; size]),
        };
        let big: Vec<_> = (0..6).map(|_| record(1 << 20)).collect();
        assert_eq!(batch_prefix(&big), 3);
        let small: Vec<_> = (0..BATCH_RECORDS_MAX + 1).map(|_| record(1)).collect();
        assert_eq!(batch_prefix(&small), BATCH_RECORDS_MAX);
        assert_eq!(batch_prefix(&[record(BATCH_BYTES_MAX)]), 1);
    }

    #[test]
    fn only_what_failed_for_certain_or_is_idempotent_is_tried_again() {
        let ask = |error: AppendError| worth_retrying(&append_error(&error, 0), false);
        assert!(ask(AppendError::NotLeader { leader: None }));
        assert!(ask(AppendError::NotEnoughReplicas { alive: 1, min_isr: 2 }));
        for error in
            [AppendError::Unknown, AppendError::TimedOut, AppendError::StorageFull, AppendError::Overloaded]
        {
            assert!(!ask(error));
        }
        let cut = super::super::forward::ForwardError::NoAnswer("x".into()).of_change();
        assert!(!worth_retrying(&cut, false));
        assert!(worth_retrying(&cut, true));
        assert!(!worth_retrying(&append_error(&AppendError::OutOfOrder { expected: 1 }, 0), true));
        let never_sent = super::super::forward::ForwardError::NotSent("x".into()).of_change();
        assert!(worth_retrying(&never_sent, false));
    }
}
