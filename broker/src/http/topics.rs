//! From a topic's name to its entry, on a broker whose image may be a moment behind.

use super::App;
use super::error::{ApiResult, partition_not_found, topic_not_found, unavailable};
use super::forward::Hop;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use pubsub_core::control::image::{BrokerState, Image, PartitionEntry, TopicEntry};
use pubsub_core::ids::{At, BrokerId, TopicId, TopicName, TopicPartition};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a request waits for an image that is on its way.
const IMAGE_WAIT: Duration = Duration::from_millis(1_000);

/// A topic as the newest image has it.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// Its name.
    pub(crate) name: TopicName,
    /// Its identity.
    pub(crate) id: TopicId,
    /// Its entry.
    pub(crate) entry: Arc<TopicEntry>,
}

impl Topic {
    /// Finds a topic in an image.
    pub(crate) fn of(image: &Image, name: &TopicName) -> Option<Self> {
        let (id, entry) = image.topic_by_name(name)?;
        Some(Self { name: name.clone(), id, entry: Arc::clone(entry) })
    }

    /// Returns the number of partitions.
    pub(crate) fn partitions(&self) -> u32 {
        u32::try_from(self.entry.partitions.len()).expect("bounded by limits")
    }

    /// Returns one of its partitions.
    ///
    /// # Errors
    /// 404 if there is no such partition.
    pub(crate) fn partition(&self, partition: u32) -> ApiResult<TopicPartition> {
        if partition < self.partitions() {
            return Ok(TopicPartition { topic: self.id, partition });
        }
        Err(partition_not_found(self.name.as_str(), partition, self.entry.partitions.len()))
    }
}

/// Returns a partition's entry.
pub(crate) fn entry_of(image: &Image, partition: TopicPartition) -> Option<&PartitionEntry> {
    let index = usize::try_from(partition.partition).ok()?;
    image.topics.get(&partition.topic)?.partitions.get(index)
}

/// Returns whether a broker is alive as far as the image says.
pub(crate) fn alive(image: &Image, broker: BrokerId) -> bool {
    image.brokers.get(&broker).is_some_and(|entry| match entry.state {
        BrokerState::Active | BrokerState::Draining => true,
        BrokerState::Fenced => false,
    })
}

impl App {
    /// Returns the newest image; waits a moment for the first one.
    ///
    /// # Errors
    /// 503 while this broker belongs to no cluster.
    pub(crate) async fn image(&self) -> ApiResult<Arc<Image>> {
        if let Some(image) = self.broker.image() {
            return Ok(image);
        }
        let found = self.image_where(Instant::now() + IMAGE_WAIT, |_| true).await;
        found.ok_or_else(|| {
            unavailable("this broker has not joined the cluster yet; try again or ask another one")
        })
    }

    /// Waits for an image that fits; `None` when none came in time.
    pub(crate) async fn image_where(
        &self,
        until: Instant,
        fits: impl Fn(&Image) -> bool,
    ) -> Option<Arc<Image>> {
        let mut images = self.broker.images();
        let found = images.wait_for(|image| image.as_deref().is_some_and(&fits));
        match tokio::time::timeout_at(until, found).await {
            Ok(Ok(image)) => image.clone(),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Waits until this broker acts on the image at `at`, so that its next answers know of the change; a moment at most.
    pub(crate) async fn caught_up(&self, at: At) -> Option<Arc<Image>> {
        self.image_where(Instant::now() + 5 * IMAGE_WAIT, |image| image.at >= at).await
    }

    /// Returns a topic by name. A name that this broker does not know is looked for at the controller before a 404.
    ///
    /// # Errors
    /// 404 if there is none; 503 if that can't be confirmed now.
    pub(crate) async fn topic(&self, name: &str, forwarded: bool) -> ApiResult<Topic> {
        let Ok(name) = TopicName::try_from(name) else { return Err(topic_not_found(name)) };
        let image = self.image().await?;
        match Topic::of(&image, &name) {
            Some(topic) => Ok(topic),
            None => self.topic_elsewhere(name, forwarded).await,
        }
    }

    async fn topic_elsewhere(&self, name: TopicName, forwarded: bool) -> ApiResult<Topic> {
        let until = Instant::now() + IMAGE_WAIT;
        let status = self.broker.status();
        if status.leading {
            return Err(topic_not_found(name.as_str()));
        }
        if let Some(controller) = status.controller.filter(|id| *id != self.id && !forwarded)
            && let Some(api_base) = self.api_base(controller)
        {
            let path = format!("/admin/topics/{name}");
            let (headers, body) = (HeaderMap::new(), Bytes::new());
            let hop = Hop {
                api_base: &api_base,
                method: Method::GET,
                path: &path,
                headers,
                body,
                within: IMAGE_WAIT,
            };
            if let Ok(answer) = self.forwarder.call(hop).await
                && answer.status() == StatusCode::NOT_FOUND
            {
                return Err(topic_not_found(name.as_str()));
            }
        }
        let known = self.image_where(until, |image| image.topic_by_name(&name).is_some()).await;
        known.and_then(|image| Topic::of(&image, &name)).ok_or_else(|| {
            unavailable(format!(
                "topic {name} is not known to this broker, and the controller can't confirm it now"
            ))
        })
    }

    /// Returns the base URL of a broker's client listener.
    pub(crate) fn api_base(&self, broker: BrokerId) -> Option<String> {
        if let Some(image) = self.broker.image()
            && let Some(entry) = image.brokers.get(&broker)
        {
            return Some(entry.api_base.clone());
        }
        self.broker.endpoints().remove(&broker).map(|endpoint| endpoint.api_base)
    }
}
