//! Bodies of the client API: publish, poll, subscribe, commit.

use crate::ids::{BrokerId, ConsumerId, GroupId, LeaderEpoch, Offset};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Media type of a [`crate::record::Batch`].
pub const BATCH_MEDIA_TYPE: &str = "application/vnd.pubsub.batch";
/// Media type of one JSON value a line.
pub const NDJSON: &str = "application/x-ndjson";
/// Answer header: the broker that answered.
pub const BROKER_HEADER: &str = "x-pubsub-broker";
/// Answer header: epoch of the partition's leader.
pub const LEADER_EPOCH_HEADER: &str = "x-pubsub-leader-epoch";
/// Answer header: records of the partition below it are committed.
pub const HIGH_WATERMARK_HEADER: &str = "x-pubsub-high-watermark";
/// Request header: the broker that passed the request on; such a request is never passed on again.
pub const FORWARDED_HEADER: &str = "x-pubsub-forwarded";
/// Header of requests and answers that names one request in every log.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Request header: publish only if the log ends at this offset.
pub const EXPECTED_OFFSET_HEADER: &str = "pubsub-expected-offset";
/// Request header: key of a raw body.
pub const KEY_HEADER: &str = "pubsub-key";
/// Prefix of request headers that become headers of a raw body's record.
pub const RECORD_HEADER_PREFIX: &str = "pubsub-header-";

/// Answer header: offset that the partition's next record gets, committed or not.
pub const LOG_END_HEADER: &str = "x-pubsub-log-end";
/// Answer header of changes of metadata: place of the image that holds the change, as `epoch.version`.
pub const METADATA_HEADER: &str = "x-pubsub-metadata";

/// Returns the partition that records with this key belong to: CRC-32C of the key, its bits mixed by the finaliser of
/// MurmurHash3, modulo the number of partitions. Unmixed, keys of a character or two would share a few partitions.
pub fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, key);
    let mut mixed = u32::try_from(sum).expect("a checksum of 32 bits");
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    (mixed ^ (mixed >> 16)) % partitions.max(1)
}

/// How bytes that are not text are written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Encoding {
    /// Standard base64 with padding, as a JSON string.
    Base64,
}

/// One record to publish: body of `POST /topics/{topic}/publish`, an element of [`PublishMany`], or a line of NDJSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishRecord<'a> {
    /// Records of one key go to one partition, in order.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// Any JSON value, stored as the text that it is. `null` means no value: a tombstone in a compacted topic.
    #[serde(borrow)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub value: &'a RawValue,
    /// A JSON object.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, serde_json::Value>>))]
    pub headers: Option<&'a RawValue>,
    /// With `base64`, `value` is a string, and its decoded bytes are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_encoding: Option<Encoding>,
}

/// Several records to publish; atomic per partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishMany<'a> {
    /// In order.
    #[serde(borrow)]
    pub records: Vec<PublishRecord<'a>>,
}

/// Header of an idempotent producer's request: its id, a UUID.
pub const PRODUCER_ID_HEADER: &str = "producer-id";
/// Header of an idempotent producer's request: its epoch, 0 to 65535.
pub const PRODUCER_EPOCH_HEADER: &str = "producer-epoch";
/// Header of an idempotent producer's request: the sequence of the first record, 0 to 4294967295.
pub const PRODUCER_SEQ_HEADER: &str = "producer-seq";

/// Answer to one published record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// The partition that took it.
    pub partition: u32,
    /// Its position.
    pub offset: Offset,
    /// Given by the leader, ms since 1970.
    pub timestamp_ms: i64,
    /// The leader's epoch.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub leader_epoch: LeaderEpoch,
    /// In-sync replicas, the leader among them.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// Whether an idempotent producer had sent these records before; then this is where they were put first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// Place of one record of a [`PublishMany`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Placed {
    /// The partition that took it.
    pub partition: u32,
    /// Its position.
    pub offset: Offset,
}

/// Answer to several published records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishedMany {
    /// The topic.
    pub topic: String,
    /// One entry a record, in the request's order.
    pub results: Vec<Placed>,
    /// Whether an idempotent producer had sent these records before; then this is where they were put first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// Answer to a published batch ([`BATCH_MEDIA_TYPE`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishedBatch {
    /// The topic.
    pub topic: String,
    /// The partition that took it.
    pub partition: u32,
    /// Position of the first record.
    pub base_offset: Offset,
    /// How many records.
    pub count: u32,
    /// Given by the leader, ms since 1970.
    pub timestamp_ms: i64,
    /// The leader's epoch.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub leader_epoch: LeaderEpoch,
    /// In-sync replicas, the leader among them.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// Whether an idempotent producer had sent these records before; then this is where they were put first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// One record as read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReadRecord {
    /// The partition that holds it.
    pub partition: u32,
    /// Its position there.
    pub offset: Offset,
    /// Given by the leader, ms since 1970; the same on every replica.
    pub ts_ms: i64,
    /// Its key.
    pub key: Option<String>,
    /// With `base64`, the key is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_encoding: Option<Encoding>,
    /// The JSON text as it was published.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub value: Box<RawValue>,
    /// With `base64`, the value is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_encoding: Option<Encoding>,
    /// A JSON object.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, serde_json::Value>))]
    pub headers: Box<RawValue>,
}

/// Where a reader stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// Read from here next.
    pub next_offset: Offset,
    /// The last record that the group has finished (−1: none).
    pub committed: i64,
    /// Records below it are committed and may be read.
    pub high_watermark: Offset,
    /// `high_watermark − next_offset`.
    pub lag: u64,
}

/// Answer to `GET /poll` and `GET /topics/{topic}/records`.
///
/// The numbers at the top are those of the partition that was read, or of the lowest one when there are several.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Polled {
    /// The topic.
    pub topic: String,
    /// In order of offset within each partition.
    pub records: Vec<ReadRecord>,
    /// Read from here next.
    pub next_offset: Offset,
    /// The last record that the group has finished (−1: none).
    pub committed: i64,
    /// Records below it are committed and may be read.
    pub high_watermark: Offset,
    /// `high_watermark − next_offset`.
    pub lag: u64,
    /// The broker that answered.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub replica_id: BrokerId,
    /// Every partition that was read.
    #[serde(default)]
    pub partitions: Vec<Position>,
}

/// `event: control` of a stream: how far its reader is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamStanding {
    /// The topic.
    pub topic: String,
    /// Of a group's member: as in [`Subscribed`]; else 0.
    pub member_epoch: u64,
    /// Records of all partitions that the reader was not sent yet.
    pub lag: u64,
    /// Every partition that it reads.
    pub partitions: Vec<Position>,
}

/// `event: rebalance` of a stream: which partitions a group's member reads from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamRebalance {
    /// The topic.
    pub topic: String,
    /// As in [`Subscribed`]: for `POST /commit`.
    pub member_epoch: u64,
    /// What it reads; empty for one that waits.
    pub partitions: Vec<StreamPartition>,
    /// Those of them that are new.
    pub gained: Vec<u32>,
    /// What it reads no more. With `commit=manual` it can be committed for about three seconds more.
    pub lost: Vec<u32>,
}

/// One partition of [`StreamRebalance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamPartition {
    /// The partition.
    pub partition: u32,
    /// Sent next.
    pub next_offset: Offset,
    /// The last record that the group has finished (−1: none).
    pub committed: i64,
}

/// Body of `POST /subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubscribeRequest {
    /// The topic.
    pub topic: String,
    /// The group that shares its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub group_id: Option<GroupId>,
    /// Who reads; required with a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub consumer_id: Option<ConsumerId>,
    /// Start here instead of behind the committed offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_offset: Option<Offset>,
    /// Wait as a standby instead of being refused when no partition is free.
    #[serde(default)]
    pub standby: bool,
    /// A member that goes on: the epoch that it was told last. It is fenced if its membership ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_epoch: Option<u64>,
    /// With `member_epoch`: the partitions that the member has not given up. Without it the member keeps them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<Vec<u32>>,
}

/// Body of `POST /unsubscribe`: a member leaves its group, and others take its partitions over at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnsubscribeRequest {
    /// The topic that it reads no more.
    pub topic: String,
    /// The group.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub group_id: GroupId,
    /// The member.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub consumer_id: ConsumerId,
    /// The epoch that it was told last: one of that name that joined again since then stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_epoch: Option<u64>,
}

/// Answer to `POST /unsubscribe`: the member has left, or was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unsubscribed {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group_id: String,
    /// The broker that answered.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub replica_id: BrokerId,
}

/// Answer to `POST /subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Subscribed {
    /// The topic.
    pub topic: String,
    /// Where the lowest of the reader's partitions is read from.
    pub start_offset: Offset,
    /// The last record that the group has finished there (−1: none).
    pub committed: i64,
    /// The broker that answered.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub replica_id: BrokerId,
    /// What the reader may read; empty for a standby.
    #[serde(default)]
    pub partitions: Vec<SubscribedPartition>,
    /// Grows with each change of the group's members.
    #[serde(default)]
    pub member_epoch: u64,
    /// The membership ends unless renewed (by a poll) within this time.
    #[serde(default)]
    pub session_timeout_ms: u64,
    /// Every broker of the cluster, to go on with when this one fails.
    #[serde(default)]
    pub brokers: Vec<BrokerAddress>,
}

/// One partition of [`Subscribed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubscribedPartition {
    /// The partition.
    pub partition: u32,
    /// Where it is read from.
    pub start_offset: Offset,
    /// The last record that the group has finished (−1: none).
    pub committed: i64,
    /// Who leads it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader: Option<BrokerId>,
}

/// Where a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrokerAddress {
    /// The broker.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub broker_id: BrokerId,
    /// Base URL of its client listener.
    pub api_base: String,
}

/// Body of `POST /commit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommitRequest {
    /// The topic.
    pub topic: String,
    /// Of which partition.
    #[serde(default)]
    pub partition: u32,
    /// Offset of the last record that was finished (−1: none).
    pub offset: i64,
    /// Whose position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub group_id: Option<GroupId>,
    /// The group's member, or the reader without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub consumer_id: Option<ConsumerId>,
    /// The epoch that the member was told last: a partition that became its own only later is not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_epoch: Option<u64>,
}

/// Answer to `POST /commit`: durable on every in-sync replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Committed {
    /// The topic.
    pub topic: String,
    /// Of which partition.
    #[serde(default)]
    pub partition: u32,
    /// As stored.
    pub committed: i64,
    /// The broker that answered.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub replica_id: BrokerId,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_keep_their_partition_from_release_to_release() {
        // The published check value of CRC-32C over these nine digits is 0xe3069283; mixed it is 0xac7081cc.
        assert_eq!(partition_of_key(b"123456789", u32::MAX), 0xac70_81cc);
        assert_eq!(partition_of_key(b"123456789", 8), 4);
        assert_eq!(partition_of_key(b"anything", 1), 0);
    }

    #[test]
    fn short_keys_use_every_partition() {
        for partitions in [2, 3, 4, 8] {
            let used: std::collections::BTreeSet<_> =
                (b'a'..=b'z').map(|key| partition_of_key(&[key], partitions)).collect();
            assert_eq!(used.len(), partitions as usize, "{partitions} partitions");
        }
    }

    #[test]
    fn a_value_is_written_and_read_as_the_text_that_it_is() {
        let text = r#"{"key":"k","value":9007199254740993,"headers":{"a":1e2}}"#;
        let record: PublishRecord<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(record.value.get(), "9007199254740993");
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}
