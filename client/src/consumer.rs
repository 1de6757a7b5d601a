//! Consuming: subscribe, long-poll, commit, and go on with another broker when one fails.
//!
//! A [`Consumer`] keeps its own place in every partition and always asks for records from there, so that whichever
//! broker answers, records come in order of offset and none comes twice in one session. What is kept beyond a session is
//! only what was committed.

mod config;

pub use config::{ConsumerConfig, Start};

use crate::transport::{Answer, CallError, Request, Transport, segment};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pubsub_core::ids::{BrokerId, InvalidName, Offset};
use pubsub_core::wire::client::{
    CommitRequest, Committed, Polled, ReadRecord, SubscribeRequest, Subscribed, UnsubscribeRequest,
    Unsubscribed,
};
use pubsub_core::wire::error::ErrorCode;
use reqwest::Method;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How much longer than the long-poll itself an answer is waited for.
const ANSWER_SLACK: Duration = Duration::from_secs(3);
/// A member without partitions asks this often whether one has become free.
const STANDBY_PAUSE: Duration = Duration::from_secs(1);
/// Brokers that lag behind may not know a topic or an offset yet: so many refusals are taken for that.
const REFUSALS_MIN: usize = 3;

/// Why there are no records.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumeError {
    /// A group or consumer id that no broker takes.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Every partition has another consumer of the group.
    #[error("every partition of the topic already has a consumer in this group")]
    Busy,
    /// The membership ended, or another consumer took the partition over. Records may be read by others again.
    #[error("this consumer does not own partition {partition} any more")]
    Fenced {
        /// The partition.
        partition: u32,
    },
    /// A request failed; the consumer keeps its place, so the call can be made again.
    #[error(transparent)]
    Call(CallError),
}

impl From<CallError> for ConsumeError {
    fn from(error: CallError) -> Self {
        match error.problem().map(|problem| problem.code) {
            Some(ErrorCode::GroupBusy) => Self::Busy,
            _ => Self::Call(error),
        }
    }
}

/// What one poll brought.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Records of one partition, in order of offset; empty when none came in time.
    pub records: Vec<ReadRecord>,
    /// The partition that was asked for; `None` for a standby without any.
    pub partition: Option<u32>,
    /// Who answered.
    pub replica: Option<BrokerId>,
    /// Address of the broker that was asked.
    pub broker: String,
    /// Records of the partition that can be read but have not been yet.
    pub lag: u64,
    /// Offset that is read next.
    pub next_offset: Offset,
    /// Last record that the group has finished, as the broker knew it (−1: none).
    pub committed: i64,
    /// Tries that failed before one was answered.
    pub retries: u32,
}

/// A place in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    next: Offset,
    /// Last record that was handed out.
    finished: Option<Offset>,
    committed: i64,
}

struct Outcome {
    partition: u32,
    from: Offset,
    result: Result<Answer, CallError>,
}

/// Reads one topic. Made by [`crate::Client::consumer`].
pub struct Consumer {
    transport: Transport,
    config: ConsumerConfig,
    places: BTreeMap<u32, Place>,
    assigned: Vec<u32>,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
    asked: Vec<u32>,
    subscribed_at: Instant,
    session: Duration,
    /// As the coordinator told it last; `None` while this is no member.
    member_epoch: Option<u64>,
    /// Partitions are to be given up: the coordinator does not know yet that this has stopped reading them.
    releasing: bool,
    refusals: usize,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { config, places, assigned, .. } = self;
        f.debug_struct("Consumer")
            .field("config", config)
            .field("places", places)
            .field("assigned", assigned)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) async fn subscribe(
        transport: Transport,
        config: ConsumerConfig,
    ) -> Result<Self, ConsumeError> {
        let mut consumer = Self {
            transport,
            config,
            places: BTreeMap::new(),
            assigned: Vec::new(),
            in_flight: FuturesUnordered::new(),
            asked: Vec::new(),
            subscribed_at: Instant::now(),
            session: Duration::ZERO,
            member_epoch: None,
            releasing: false,
            refusals: 0,
        };
        consumer.join(true).await?;
        Ok(consumer)
    }

    /// Returns the partitions that this consumer may read now.
    pub fn partitions(&self) -> &[u32] {
        &self.assigned
    }

    /// Returns the brokers known now, those that answers named included.
    pub fn brokers(&self) -> Vec<String> {
        self.transport.brokers()
    }

    /// Waits for records of any partition, at most [`ConsumerConfig::wait`], and takes them as finished for
    /// [`Consumer::commit`].
    ///
    /// A broker that fails is replaced by another one without a gap and without a repeated record. A membership that
    /// ended is renewed; places of partitions that stay are kept. When partitions are to go to other members, an empty batch
    /// is returned first: what was finished in them can be committed until the next call, which gives them up.
    ///
    /// # Errors
    /// See [`ConsumeError`]. The place is kept: calling again goes on behind the last record that was returned.
    ///
    /// # Cancel safety
    /// Safe: answers that were on their way are returned by the next call.
    pub async fn poll(&mut self) -> Result<Batch, ConsumeError> {
        loop {
            if self.renewal_due() {
                self.join(false).await?;
                if self.releasing {
                    return Ok(Batch::default());
                }
            }
            if self.assigned.is_empty() {
                tokio::time::sleep(STANDBY_PAUSE).await;
                self.join(false).await?;
                if self.assigned.is_empty() {
                    return Ok(Batch::default());
                }
            }
            self.ask();
            let Some(Outcome { partition, from, result }) = self.in_flight.next().await else { continue };
            self.asked.retain(|asked| *asked != partition);
            let current = self.places.get(&partition).is_some_and(|place| place.next == from);
            if !current || !self.assigned.contains(&partition) {
                // The partition went elsewhere, or was sought, while the answer was on its way.
                continue;
            }
            match result {
                Ok(answer) => match answer.json::<Polled>() {
                    Ok(polled) => {
                        self.refusals = 0;
                        return Ok(self.take(partition, polled, &answer));
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(error) => self.refused(error).await?,
            }
        }
    }

    /// Commits the last record that [`Consumer::poll`] returned, in every partition where that is not done yet.
    ///
    /// # Errors
    /// [`ConsumeError::Fenced`] when the partition has another consumer by now; nothing was committed there.
    ///
    /// # Cancel safety
    /// Dropping the future may leave some partitions committed; the next call does the others, and repeats at most one.
    pub async fn commit(&mut self) -> Result<(), ConsumeError> {
        let due: Vec<(u32, Offset)> = self
            .places
            .iter()
            .filter_map(|(partition, place)| Some((*partition, place.finished?, place.committed)))
            .filter(|(_, finished, committed)| {
                i64::try_from(*finished).is_ok_and(|offset| offset > *committed)
            })
            .map(|(partition, finished, _)| (partition, finished))
            .collect();
        for (partition, offset) in due {
            self.commit_to(partition, offset).await?;
        }
        Ok(())
    }

    /// Commits `offset` as the last finished record of a partition.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether the commit was made; making it again is harmless.
    pub async fn commit_to(&mut self, partition: u32, offset: Offset) -> Result<(), ConsumeError> {
        let (group_id, consumer_id) = self.config.reader()?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let (topic, member_epoch) = (self.config.topic.clone(), self.member_epoch);
        let body = CommitRequest { topic, partition, offset, group_id, consumer_id, member_epoch };
        let sent = self.transport.json::<Committed>(Request::new(Method::POST, "/commit").json(&body)).await;
        match sent {
            Ok(committed) => {
                if let Some(place) = self.places.get_mut(&partition) {
                    place.committed = committed.committed.max(offset);
                }
                Ok(())
            }
            Err(error) if code_of(&error) == Some(ErrorCode::MemberFenced) => {
                Err(ConsumeError::Fenced { partition })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads on from `offset` in a partition; records before it may come again.
    pub fn seek(&mut self, partition: u32, offset: Offset) {
        let place = self.places.entry(partition).or_default();
        *place = Place { next: offset, finished: None, committed: place.committed };
    }

    fn renewal_due(&self) -> bool {
        self.releasing || (!self.session.is_zero() && self.subscribed_at.elapsed() > self.session / 3)
    }

    /// Leaves the group, so that others take its partitions over at once. What is not committed is read again by them.
    ///
    /// # Errors
    /// As [`Consumer::commit`]; the membership then ends with its session.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether the group was left.
    pub async fn leave(mut self) -> Result<(), ConsumeError> {
        self.in_flight.clear();
        let (Some(group_id), Some(consumer_id)) = self.config.reader()? else { return Ok(()) };
        let (topic, member_epoch) = (self.config.topic.clone(), self.member_epoch);
        let body = UnsubscribeRequest { topic, group_id, consumer_id, member_epoch };
        let request = Request::new(Method::POST, "/unsubscribe").json(&body);
        self.transport.json::<Unsubscribed>(request).await?;
        Ok(())
    }

    /// Asks for a membership or for its renewal. One that ended is begun anew, holding nothing.
    async fn subscribed(&mut self) -> Result<Subscribed, ConsumeError> {
        let (group_id, consumer_id) = self.config.reader()?;
        loop {
            let body = SubscribeRequest {
                topic: self.config.topic.clone(),
                group_id: group_id.clone(),
                consumer_id: consumer_id.clone(),
                from_offset: None,
                standby: self.config.standby,
                member_epoch: self.member_epoch,
                owned: self.member_epoch.map(|_| self.assigned.clone()),
            };
            let sent = self.transport.json(Request::new(Method::POST, "/subscribe").json(&body)).await;
            match sent {
                Err(error)
                    if self.member_epoch.is_some() && code_of(&error) == Some(ErrorCode::MemberFenced) =>
                {
                    self.forget_membership();
                }
                Err(error) => return Err(error.into()),
                Ok(subscribed) => return Ok(subscribed),
            }
        }
    }

    fn forget_membership(&mut self) {
        self.member_epoch = None;
        self.releasing = false;
        self.assigned.clear();
    }

    async fn join(&mut self, first: bool) -> Result<(), ConsumeError> {
        let grouped = self.config.group.is_some();
        let subscribed = self.subscribed().await?;
        self.transport.learn(subscribed.brokers.iter().map(|broker| &broker.api_base));
        self.subscribed_at = Instant::now();
        self.session =
            if grouped { Duration::from_millis(subscribed.session_timeout_ms) } else { Duration::ZERO };
        let mut partitions: Vec<(u32, Offset, i64)> = subscribed
            .partitions
            .iter()
            .map(|part| (part.partition, part.start_offset, part.committed))
            .collect();
        if partitions.is_empty() && !grouped {
            partitions.push((0, subscribed.start_offset, subscribed.committed));
        }
        let before = std::mem::take(&mut self.assigned);
        for (partition, start, committed) in &partitions {
            if !before.contains(partition) {
                let next = self.start_of(*partition, *start, *committed, first).await?;
                self.place(*partition, next, *committed);
            }
        }
        self.assigned = partitions.into_iter().map(|(partition, ..)| partition).collect();
        self.releasing = before.iter().any(|partition| !self.assigned.contains(partition));
        self.member_epoch = grouped.then_some(subscribed.member_epoch);
        Ok(())
    }

    /// Puts a partition that was just assigned at its start, but never before what this session has returned.
    fn place(&mut self, partition: u32, next: Offset, committed: i64) {
        let place = self.places.entry(partition).or_insert(Place { next, finished: None, committed });
        if next > place.next {
            // Another consumer had it in between and went further.
            *place = Place { next, finished: None, committed };
        }
    }

    async fn start_of(
        &self,
        partition: u32,
        start: Offset,
        committed: i64,
        first: bool,
    ) -> Result<Offset, CallError> {
        match self.config.start {
            Start::Committed => Ok(start),
            Start::Latest if first || committed < 0 => self.latest(partition).await,
            Start::Earliest if first => Ok(0),
            Start::Offset(offset) if first => Ok(offset),
            // The group went on from the configured start when it had the partition before.
            Start::Latest | Start::Earliest | Start::Offset(_) => Ok(start),
        }
    }

    async fn latest(&self, partition: u32) -> Result<Offset, CallError> {
        let request = Request::get(format!("/topics/{}/records", segment(&self.config.topic)))
            .query("partition", partition)
            .query("from", "latest")
            .query("max_records", 1)
            .query("wait_ms", 0);
        let polled: Polled = self.transport.json(request).await?;
        Ok(polled.high_watermark)
    }

    /// Starts a long-poll for every partition that has none on its way.
    fn ask(&mut self) {
        let wait =
            if self.session.is_zero() { self.config.wait } else { self.config.wait.min(self.session / 3) };
        for partition in self.assigned.iter().copied() {
            if self.asked.contains(&partition) {
                continue;
            }
            self.asked.push(partition);
            let from = self.places.get(&partition).map_or(0, |place| place.next);
            let request = Request::get("/poll")
                .query("topic", &self.config.topic)
                .query("partition", partition)
                .query("from_offset", from)
                .query("max_records", self.config.max_records)
                .query("timeout_ms", wait.as_millis())
                .query_opt("group_id", self.config.group.as_deref())
                .query_opt("consumer_id", self.config.consumer.as_deref())
                .query_opt("member_epoch", self.member_epoch)
                .query_opt("prefer_replica", self.config.prefer_replica)
                .patience(wait + ANSWER_SLACK);
            let transport = self.transport.clone();
            let poll = async move { Outcome { partition, from, result: transport.send(request).await } };
            self.in_flight.push(Box::pin(poll));
        }
    }

    fn take(&mut self, partition: u32, polled: Polled, answer: &Answer) -> Batch {
        let place = self.places.entry(partition).or_default();
        let mut records = polled.records;
        records.retain(|record| {
            let fresh = record.partition == partition && record.offset >= place.next;
            if fresh {
                place.next = record.offset + 1;
                place.finished = Some(record.offset);
            }
            fresh
        });
        // Compaction and retention leave offsets without records behind; the broker says where the next ones are.
        place.next = place.next.max(polled.next_offset);
        Batch {
            records,
            partition: Some(partition),
            replica: Some(polled.replica_id),
            broker: answer.broker.clone(),
            lag: polled.high_watermark.saturating_sub(place.next),
            next_offset: place.next,
            committed: polled.committed,
            retries: answer.retries,
        }
    }

    /// Decides what a poll's failure means: `Ok` is to go on.
    async fn refused(&mut self, error: CallError) -> Result<(), ConsumeError> {
        let CallError::Refused { broker, problem } = &error else { return Err(error.into()) };
        match problem.code {
            ErrorCode::MemberFenced | ErrorCode::GroupBusy if self.config.group.is_some() => {
                self.forget_membership();
                // A coordinator that is just taking over may fence and admit in turns.
                tokio::time::sleep(self.transport.config().retry.first).await;
                self.join(false).await
            }
            ErrorCode::TopicNotFound | ErrorCode::PartitionNotFound | ErrorCode::OffsetOutOfRange => {
                self.refusals += 1;
                if self.refusals >= REFUSALS_MIN.max(self.transport.brokers().len()) {
                    self.refusals = 0;
                    return Err(error.into());
                }
                self.transport.avoid(broker);
                tokio::time::sleep(self.transport.config().retry.first).await;
                Ok(())
            }
            _ => Err(error.into()),
        }
    }
}

fn code_of(error: &CallError) -> Option<ErrorCode> {
    error.problem().map(|problem| problem.code)
}
