//! Publishing: one record, several at once, or a stream of them that is collected into batches.
//!
//! Producers are idempotent unless told otherwise: a record whose answer was lost is sent again and stored once.
//! Every failure says whether the record may have been taken all the same ([`PublishError::Unknown`]) or certainly was
//! not ([`PublishError::No`]).

mod batch;
mod lanes;

pub use batch::{BatchProducer, Ticket};

use crate::record::{NewRecord, RecordError};
use crate::transport::{Answer, CallError, Effect, Request, Transport, segment};
use lanes::Lanes;
use pubsub_core::partition::Acks;
use pubsub_core::wire::client::{
    PRODUCER_EPOCH_HEADER, PRODUCER_ID_HEADER, PRODUCER_SEQ_HEADER, Placed, PublishMany, Published,
    PublishedMany, partition_of_key,
};
use pubsub_core::wire::error::ErrorCode;
use reqwest::Method;
use reqwest::header::HeaderValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How much longer than the broker's own limit an answer is waited for: its way, and one hop between brokers.
const ANSWER_SLACK: Duration = Duration::from_secs(2);

/// How records are published.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// What a broker waits for before it answers.
    pub acks: Acks,
    /// The partition; without one the broker chooses by key.
    pub partition: Option<u32>,
    /// How long the leader waits for its followers before it says that the outcome is not known.
    pub commit_timeout: Duration,
    /// Publishes again when the outcome of a try is not known, and has brokers store every record once all the same
    /// (KIP-98). Needs [`Acks::All`]: with others a leader may lose what it acknowledged, and this setting does nothing.
    /// The producer then chooses partitions itself and has one request a partition under way.
    pub idempotent: bool,
    /// The same without the help of brokers, for a producer that is not idempotent: no record is lost, but one may be there
    /// twice.
    pub retry_unknown: bool,
    /// Has a batch producer refuse every later record once a batch failed, so that none overtakes it.
    pub halt_on_failure: bool,
    /// For how long tries may begin; `None` is the transport's own deadline.
    pub deadline: Option<Duration>,
    /// How long the first record of a batch waits for company.
    pub linger: Duration,
    /// Most records of one batch.
    pub batch_records_max: usize,
    /// Most bytes of one batch; one record always fits.
    pub batch_bytes_max: usize,
    /// Bytes that were accepted and not yet delivered; past it sending waits.
    pub buffer_bytes_max: u32,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            partition: None,
            commit_timeout: Duration::from_secs(5),
            idempotent: true,
            retry_unknown: false,
            halt_on_failure: false,
            deadline: None,
            linger: Duration::from_millis(5),
            batch_records_max: 1_000,
            batch_bytes_max: 1 << 20,
            buffer_bytes_max: 8 << 20,
        }
    }
}

/// What became of a record that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where it is.
    pub placed: Placed,
    /// How many tries failed before.
    pub retries: u32,
    /// Whether one of them may have taken it as well, so that it is there twice. Never of an idempotent producer.
    pub perhaps_twice: bool,
}

/// Why a record is not known to be published.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// It certainly was not published.
    #[error("not published: {0}")]
    No(#[source] CallError),
    /// It may or may not have been published.
    #[error("perhaps published: {0}")]
    Unknown(#[source] CallError),
    /// It was not sent: larger than a broker takes.
    #[error("not published: the record has {bytes} bytes, more than a broker takes")]
    TooLarge {
        /// Bytes of key, headers and value.
        bytes: usize,
    },
    /// The batch producer ended before it sent the record.
    #[error("not published: the producer was closed")]
    Closed,
}

impl From<CallError> for PublishError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { .. } | CallError::Unavailable { .. } => Self::No(error),
            CallError::Unknown { .. } | CallError::Malformed { .. } => Self::Unknown(error),
        }
    }
}

/// Publishes to one topic. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Producer {
    transport: Transport,
    topic: String,
    config: ProducerConfig,
    /// Of an idempotent producer.
    lanes: Option<Arc<Lanes>>,
}

impl Producer {
    pub(crate) fn new(transport: Transport, topic: &str, config: ProducerConfig) -> Self {
        let lanes = (config.idempotent && config.acks == Acks::All).then(|| Arc::new(Lanes::new()));
        Self { transport, topic: topic.to_owned(), config, lanes }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ProducerConfig {
        &self.config
    }

    /// Publishes one record and waits as [`ProducerConfig::acks`] says.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    pub async fn publish(&self, record: &NewRecord) -> Result<Delivery, PublishError> {
        check(record)?;
        let partition = self.place(record).await?;
        let answer = self.send(partition, 1, |request| request.json(&record.wire())).await?;
        let published: Published = answer.json()?;
        Ok(Delivery {
            placed: Placed { partition: published.partition, offset: published.offset },
            retries: answer.retries,
            perhaps_twice: self.lanes.is_none() && answer.unknown_tries > 0,
        })
    }

    /// Publishes records in one request, all or none of those of one partition; the answer has their order.
    ///
    /// # Errors
    /// See [`PublishError`]. Records that go to several partitions may be published in part
    /// ([`PublishError::Unknown`]).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    pub async fn publish_many(&self, records: &[NewRecord]) -> Result<Vec<Delivery>, PublishError> {
        for record in records {
            check(record)?;
        }
        if self.lanes.is_none() || self.config.partition.is_some() {
            return self.send_many(self.config.partition, records.iter()).await;
        }
        let mut shares: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let keyless = self.turn().await?;
        for (index, record) in records.iter().enumerate() {
            let partition = self.place_of(record).await?.unwrap_or(keyless);
            shares.entry(partition).or_default().push(index);
        }
        let mut deliveries = vec![None; records.len()];
        for (done, (partition, indices)) in shares.into_iter().enumerate() {
            let share = indices.iter().map(|index| &records[*index]);
            let delivered = self.send_many(Some(partition), share).await.map_err(|error| match error {
                // Of the records as a whole, "not published" is not true.
                PublishError::No(error) if done > 0 => PublishError::Unknown(error),
                other => other,
            })?;
            for (index, delivery) in indices.into_iter().zip(delivered) {
                deliveries[index] = Some(delivery);
            }
        }
        Ok(deliveries.into_iter().flatten().collect())
    }

    /// Returns how many partitions the topic has.
    async fn partitions(&self, lanes: &Lanes) -> Result<u32, PublishError> {
        if let Some(known) = lanes.partitions() {
            return Ok(known);
        }
        let path = format!("/admin/topics/{}", segment(&self.topic));
        let topic: Partitions = self.transport.json(Request::get(path)).await.map_err(PublishError::No)?;
        lanes.learn(topic.partition_count);
        Ok(topic.partition_count)
    }

    /// Chooses a record's partition, if this producer is the one to choose: by key, or the one whose turn it is.
    async fn place(&self, record: &NewRecord) -> Result<Option<u32>, PublishError> {
        match self.place_of(record).await? {
            Some(partition) => Ok(Some(partition)),
            None if self.lanes.is_some() => self.turn().await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the partition that a record must go to, if this producer knows.
    async fn place_of(&self, record: &NewRecord) -> Result<Option<u32>, PublishError> {
        match (self.config.partition, &self.lanes, record.key_text()) {
            (Some(partition), _, _) => Ok(Some(partition)),
            (None, Some(lanes), Some(key)) => {
                let partitions = self.partitions(lanes).await?;
                Ok(Some(partition_of_key(key.as_bytes(), partitions)))
            }
            (None, _, _) => Ok(None),
        }
    }

    /// Returns the partition whose turn it is for records without a key.
    async fn turn(&self) -> Result<u32, PublishError> {
        match &self.lanes {
            Some(lanes) => Ok(lanes.turn(self.partitions(lanes).await?)),
            None => Ok(0),
        }
    }

    async fn send_many(
        &self,
        partition: Option<u32>,
        records: impl Iterator<Item = &NewRecord>,
    ) -> Result<Vec<Delivery>, PublishError> {
        let body = PublishMany { records: records.map(NewRecord::wire).collect() };
        let count = body.records.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let records = u32::try_from(count).unwrap_or(u32::MAX);
        let answer = self.send(partition, records, |request| request.json(&body)).await?;
        let published: PublishedMany = answer.json()?;
        if published.results.len() != count {
            let reason = format!("{count} records were sent, {} were answered for", published.results.len());
            return Err(PublishError::Unknown(CallError::Malformed { broker: answer.broker, reason }));
        }
        let (retries, perhaps_twice) = (answer.retries, self.lanes.is_none() && answer.unknown_tries > 0);
        Ok(published.results.into_iter().map(|placed| Delivery { placed, retries, perhaps_twice }).collect())
    }

    /// Sends records, those of an idempotent producer under the next sequence of their partition.
    async fn send(
        &self,
        partition: Option<u32>,
        count: u32,
        fill: impl FnOnce(Request) -> Request,
    ) -> Result<Answer, PublishError> {
        let request = fill(self.request(partition));
        let (Some(lanes), Some(partition)) = (&self.lanes, partition) else {
            return Ok(self.transport.send(request).await?);
        };
        let mut lane = lanes.lane(partition).await;
        let sequence = lane.begin(count);
        let request = request
            .header(
                PRODUCER_ID_HEADER,
                HeaderValue::try_from(sequence.id.to_string()).expect("a UUID is ASCII"),
            )
            .header(PRODUCER_EPOCH_HEADER, sequence.epoch.into())
            .header(PRODUCER_SEQ_HEADER, sequence.first_sequence.into());
        match self.transport.send(request).await {
            Ok(answer) => {
                lane.stored(count);
                Ok(answer)
            }
            Err(error) => {
                if matches!(
                    error.problem().map(|problem| problem.code),
                    Some(ErrorCode::PartitionNotFound | ErrorCode::TopicNotFound)
                ) {
                    lanes.learn(0);
                }
                let error = PublishError::from(error);
                if matches!(error, PublishError::No(_)) {
                    lane.refused();
                }
                Err(error)
            }
        }
    }

    fn request(&self, partition: Option<u32>) -> Request {
        let again = self.config.retry_unknown || self.lanes.is_some();
        let effect = if again { Effect::Repeatable } else { Effect::Once };
        let request = Request::new(Method::POST, format!("/topics/{}/publish", segment(&self.topic)))
            .query("acks", acks_text(self.config.acks))
            .query("timeout_ms", self.config.commit_timeout.as_millis())
            .query_opt("partition", partition)
            .effect(effect)
            .patience(self.config.commit_timeout + ANSWER_SLACK);
        match self.config.deadline {
            Some(deadline) => request.deadline(deadline),
            None => request,
        }
    }
}

/// The part of a topic's description that a producer needs.
#[derive(serde::Deserialize)]
struct Partitions {
    partition_count: u32,
}

fn acks_text(acks: Acks) -> &'static str {
    match acks {
        Acks::All => "all",
        Acks::Leader => "leader",
        Acks::None => "none",
    }
}

fn check(record: &NewRecord) -> Result<(), PublishError> {
    match record.check() {
        Err(RecordError::TooLarge { bytes }) => Err(PublishError::TooLarge { bytes }),
        Ok(()) | Err(RecordError::NotJson(_)) => Ok(()),
    }
}
