//! The client side of Pubsub, and what its processes need to talk to each other.
//!
//! A [`Client`] knows some brokers and learns the others. It hands out producers ([`producer`]), consumers
//! ([`consumer`]) and the admin calls ([`admin`]); all of them go on with another broker when one fails
//! ([`transport`]), within the bounds of one [`retry::RetryPolicy`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pubsub_client::Client;
//! use pubsub_client::consumer::ConsumerConfig;
//! use pubsub_client::record::NewRecord;
//!
//! let client = Client::new(&["http://127.0.0.1:8081", "http://127.0.0.1:8082"])?;
//! let published = client.producer("demo-topic").publish(&NewRecord::json(&"hello")?).await?;
//! println!("offset {}", published.placed.offset);
//!
//! let mut consumer = client.consumer(ConsumerConfig::group("demo-topic", "group-1", "consumer-1")).await?;
//! for record in consumer.poll().await?.records {
//!     println!("{} {}", record.offset, record.value);
//! }
//! consumer.commit().await?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
pub mod brokers;
pub mod consumer;
pub mod events;
pub mod peer_auth;
pub mod producer;
pub mod record;
pub mod retry;
pub mod transport;

use admin::Admin;
use brokers::InvalidBroker;
use consumer::{ConsumeError, Consumer, ConsumerConfig};
use producer::{BatchProducer, Producer, ProducerConfig};
use transport::{ConnectError, Transport, TransportConfig};

/// A connection pool to the brokers of one cluster; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// Makes a client of at least one broker's address, with the default time limits. Nothing is sent yet.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn new<S: AsRef<str>>(brokers: &[S]) -> Result<Self, ConnectError> {
        Self::with_config(brokers, TransportConfig::default())
    }

    /// As [`Client::new`], with other time limits or with certificates.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn with_config<S: AsRef<str>>(brokers: &[S], config: TransportConfig) -> Result<Self, ConnectError> {
        Ok(Self { transport: Transport::new(brokers, config)? })
    }

    /// Returns a client that shares connections but asks only the broker at this address.
    ///
    /// # Errors
    /// When it is no broker's address.
    pub fn only(&self, broker: &str) -> Result<Self, InvalidBroker> {
        Ok(Self { transport: self.transport.only(broker)? })
    }

    /// Returns what sends the requests.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Returns the calls that look at the cluster and manage it.
    pub fn admin(&self) -> Admin {
        Admin::new(self.transport.clone())
    }

    /// Returns a producer that publishes with the defaults of [`ProducerConfig`].
    pub fn producer(&self, topic: &str) -> Producer {
        Producer::new(self.transport.fork(), topic, ProducerConfig::default())
    }

    /// Returns a producer that publishes as `config` says.
    pub fn producer_with(&self, topic: &str, config: ProducerConfig) -> Producer {
        Producer::new(self.transport.fork(), topic, config)
    }

    /// Starts a producer that collects records into batches; call it within a Tokio runtime.
    pub fn batch_producer(&self, topic: &str, config: ProducerConfig) -> BatchProducer {
        BatchProducer::start(self.producer_with(topic, config))
    }

    /// Subscribes to a topic.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave a membership behind, which ends with its session.
    pub async fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, ConsumeError> {
        Consumer::subscribe(self.transport.fork(), config).await
    }
}
