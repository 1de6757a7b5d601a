//! Publishing: one record, several at once, or a stream of them that is collected into batches.
//!
//! Every failure says whether the record may have been taken all the same ([`PublishError::Unknown`]) or certainly was
//! not ([`PublishError::No`]).

mod batch;

pub use batch::{BatchProducer, Ticket};

use crate::record::{NewRecord, RecordError};
use crate::transport::{CallError, Effect, Request, Transport, segment};
use pubsub_core::partition::Acks;
use pubsub_core::wire::client::{Placed, PublishMany, Published, PublishedMany};
use reqwest::Method;
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
    /// Publishes again when the outcome of a try is not known: no record is lost, but one may be there twice.
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
    /// Whether one of them may have taken it as well, so that it is there twice.
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
}

impl Producer {
    pub(crate) fn new(transport: Transport, topic: &str, config: ProducerConfig) -> Self {
        Self { transport, topic: topic.to_owned(), config }
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
        let answer = self.transport.send(self.request(self.config.partition).json(&record.wire())).await?;
        let published: Published = answer.json()?;
        Ok(Delivery {
            placed: Placed { partition: published.partition, offset: published.offset },
            retries: answer.retries,
            perhaps_twice: answer.unknown_tries > 0,
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
        self.send_many(self.config.partition, records.iter()).await
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
        let answer = self.transport.send(self.request(partition).json(&body)).await?;
        let published: PublishedMany = answer.json()?;
        if published.results.len() != count {
            let reason = format!("{count} records were sent, {} were answered for", published.results.len());
            return Err(PublishError::Unknown(CallError::Malformed { broker: answer.broker, reason }));
        }
        let (retries, perhaps_twice) = (answer.retries, answer.unknown_tries > 0);
        Ok(published.results.into_iter().map(|placed| Delivery { placed, retries, perhaps_twice }).collect())
    }

    fn request(&self, partition: Option<u32>) -> Request {
        let effect = if self.config.retry_unknown { Effect::Repeatable } else { Effect::Once };
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
