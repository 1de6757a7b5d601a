//! What a consumer reads, as whom, and from where.

use pubsub_core::ids::{ConsumerId, GroupId, InvalidName, Offset};
use pubsub_core::limits::POLL_RECORDS_MAX;
use std::time::Duration;

/// Where reading begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Behind the last committed record; at the first one if none was committed.
    #[default]
    Committed,
    /// At the oldest record that is kept.
    Earliest,
    /// At the next record to be published.
    Latest,
    /// At this offset, in every partition.
    Offset(Offset),
}

/// How a topic is consumed.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// The topic.
    pub topic: String,
    /// The group that shares its partitions; without one every partition is read.
    pub group: Option<String>,
    /// Who reads; required with a group.
    pub consumer: Option<String>,
    /// Where reading begins.
    pub start: Start,
    /// Broker that records should come from, if it holds the partition.
    pub prefer_replica: Option<u32>,
    /// Most records of one poll, at most [`POLL_RECORDS_MAX`].
    pub max_records: u32,
    /// Longest wait of one poll for records; shorter if a group's session asks for it.
    pub wait: Duration,
    /// Waits for a partition to become free instead of failing with [`super::ConsumeError::Busy`].
    pub standby: bool,
}

impl ConsumerConfig {
    /// Reads every partition from its start, on nobody's behalf.
    pub fn anonymous(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            group: None,
            consumer: None,
            start: Start::default(),
            prefer_replica: None,
            max_records: POLL_RECORDS_MAX,
            wait: Duration::from_secs(15),
            standby: false,
        }
    }

    /// Reads as a member of a group, behind what the group has committed.
    pub fn group(topic: &str, group: &str, consumer: &str) -> Self {
        let mut config = Self::anonymous(topic);
        config.group = Some(group.to_owned());
        config.consumer = Some(consumer.to_owned());
        config
    }

    /// Returns group and consumer as checked names.
    ///
    /// # Errors
    /// When one of them is no valid name.
    pub(super) fn reader(&self) -> Result<(Option<GroupId>, Option<ConsumerId>), InvalidName> {
        let group = self.group.as_deref().map(GroupId::try_from).transpose()?;
        let consumer = self.consumer.as_deref().map(ConsumerId::try_from).transpose()?;
        Ok((group, consumer))
    }
}
