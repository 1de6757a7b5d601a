//! The internal topic that holds the groups: where it is, and what is written to it.

use pubsub_core::control::image::{Image, TopicEntry};
use pubsub_core::ids::{BrokerId, LeaderEpoch, TopicId, TopicName};
use pubsub_core::limits::GROUPS_TOPIC;
use pubsub_core::record::{Batch, BatchBuilder, ValueKind};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(super) fn groups_topic_name() -> TopicName {
    TopicName::try_from(GROUPS_TOPIC).expect("a valid name")
}

pub(super) fn groups_topic(image: &Image) -> Option<(TopicId, &Arc<TopicEntry>)> {
    static NAME: LazyLock<TopicName> = LazyLock::new(groups_topic_name);
    image.topic_by_name(&NAME)
}

/// Returns the partitions of the internal topic that `me` leads, with their leader epochs.
pub(super) fn led_by(image: &Image, me: BrokerId) -> BTreeMap<u32, LeaderEpoch> {
    let Some((_, topic)) = groups_topic(image) else { return BTreeMap::new() };
    let led = (0..).zip(&topic.partitions).filter(|(_, entry)| entry.leader == Some(me));
    led.map(|(no, entry)| (no, entry.leader_epoch)).collect()
}

pub(super) fn batch_of(records: &[(Vec<u8>, Option<Vec<u8>>)]) -> Batch {
    let mut batch = BatchBuilder::new();
    for (key, value) in records {
        let kind = if value.is_some() { ValueKind::Bytes } else { ValueKind::None };
        batch.push(Some(key), b"", kind, value.as_deref().unwrap_or_default());
    }
    batch.build(0, LeaderEpoch(0), 0).expect("so many positions, each with two short names, fit a batch")
}
