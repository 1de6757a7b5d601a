//! The internal topic that holds the groups: where it is, and what is written to it.

use pubsub_core::control::image::{Image, TopicEntry};
use pubsub_core::group::records::Record;
use pubsub_core::ids::{BrokerId, LeaderEpoch, TopicId, TopicName};
use pubsub_core::limits::{GROUP_RECORD_BYTES_MAX, GROUPS_TOPIC};
use pubsub_core::record::{Batch, BatchBuilder, ValueKind};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Records of one batch of the internal topic; even with the longest names they stay below a batch's bytes.
const BATCH_RECORDS: usize = 1_000;
/// Keys and values of one batch, unless it is one record; what frames them fits as well.
const BATCH_BYTES: usize = 2 * GROUP_RECORD_BYTES_MAX;

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

/// Puts records into as few batches as their number and size allow.
pub(super) fn batches_of(records: &[Record]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut batch, mut count, mut bytes) = (BatchBuilder::new(), 0, 0);
    let built = |batch: BatchBuilder| batch.build(0, LeaderEpoch(0), 0).expect("it stays below the limits");
    for (key, value) in records {
        let kind = if value.is_some() { ValueKind::Bytes } else { ValueKind::None };
        let value = value.as_deref().unwrap_or_default();
        if count >= BATCH_RECORDS || bytes + key.len() + value.len() > BATCH_BYTES {
            batches.push(built(std::mem::take(&mut batch)));
            (count, bytes) = (0, 0);
        }
        batch.push(Some(key), b"", kind, value);
        count += 1;
        bytes += key.len() + value.len();
    }
    if count > 0 {
        batches.push(built(batch));
    }
    batches
}
