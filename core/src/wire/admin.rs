//! Bodies of the admin API: topics, brokers, groups.
//!
//! `owner`, `owner_id`, `leader_id` and `is_owner` are the words of the API that came before: the owner of a topic is the
//! leader of its partition 0, and `leader_id` is the controller.

mod batch;
mod brokers;
mod events;
mod groups;

pub use batch::{CreateTopicsRequest, TopicResult, TopicsCreated};
pub use brokers::{BrokerDescription, BrokerList, BrokerStanding};
pub use events::{ClusterEvent, EventList};
pub use groups::{
    AssignedPartition, GroupDeleted, GroupDetail, GroupList, GroupPartition, GroupReset, GroupSummary,
    MemberDetail, ResetGroupRequest, ResetPartition, ResetTo,
};

use crate::control::image::TopicConfig;
use crate::ids::{At, BrokerId, ClusterId, ControllerEpoch, LeaderEpoch, Offset, TopicId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of `POST /admin/topics`; each field may be a query parameter instead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateTopicRequest {
    /// Its name.
    pub name: String,
    /// Number of partitions; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Copies of each record, at most one a live broker; 3 (or the number of live brokers, if fewer) if not given.
    #[serde(default, alias = "rf", skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// Preferred leader of partition 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner_id: Option<BrokerId>,
    /// Fewest in-sync replicas with which a publish is taken; 2 from a replication factor of 3, else 1, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_isr: Option<u32>,
    /// Delete records older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Delete oldest records past this size of a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Keep only the newest record of each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact: Option<bool>,
    /// Refuse records larger than this; at most, and if not given, the limit of all topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<u64>,
    /// Once no in-sync replica is alive, let a live one lead that is not in sync: acknowledged records are LOST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclean_election: Option<bool>,
    /// Opaque JSON kept for whoever manages the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<serde_json::Value>,
}

/// Answer to `POST /admin/topics`: committed by a majority, and known to the answering broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicCreated {
    /// `ok`.
    pub status: String,
    /// The topic's name.
    pub topic: String,
    /// Leader of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner_id: Option<BrokerId>,
    /// The controller.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader_id: Option<BrokerId>,
    /// The topic's identity.
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: TopicId,
    /// False if a topic of this very shape was there already; its settings stay as they are.
    pub created: bool,
    /// Whose it is, as whoever manages it described itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<serde_json::Value>,
    /// Number of partitions.
    pub partitions: u32,
    /// Copies of each record.
    pub replication_factor: u32,
    /// With `wait=ready`: whether every partition got a leader and all its replicas in sync within the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// The image that holds it.
    #[cfg_attr(feature = "openapi", schema(value_type = ImagePlace))]
    pub at: At,
}

/// Place of a metadata image in history, for the OpenAPI document only.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes ids::At")]
pub struct ImagePlace {
    /// Epoch of the controller.
    epoch: u64,
    /// Counts changes.
    version: u64,
}

/// Body of `PATCH /admin/topics/{name}`; what is missing stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlterTopicRequest {
    /// New number of partitions, not below the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// New replication factor: replicas are added and catch up, or are dropped once enough others are in sync.
    #[serde(default, alias = "rf", skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// Fewest in-sync replicas with which a publish is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_isr: Option<u32>,
    /// Delete records older than this; `null` keeps them for ever.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retention_ms: Option<Option<u64>>,
    /// Delete oldest records past this size of a partition; `null` keeps them all.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retention_bytes: Option<Option<u64>>,
    /// Keep only the newest record of each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact: Option<bool>,
    /// Refuse records larger than this; `null`: the limit of all topics.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub max_record_bytes: Option<Option<u64>>,
    /// Once no in-sync replica is alive, let a live one lead that is not in sync: acknowledged records are LOST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclean_election: Option<bool>,
    /// Opaque JSON kept for whoever manages the topic; `null` removes it.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub owner: Option<Option<serde_json::Value>>,
}

/// Body of `POST /admin/topics/{name}/reassign`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReassignRequest {
    /// Partitions that shall be elsewhere; the others stay where they are.
    pub moves: Vec<PartitionMove>,
}

/// One partition of a [`ReassignRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionMove {
    /// Which.
    pub partition: u32,
    /// Brokers that shall hold it, preferred leader first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub replicas: Vec<BrokerId>,
}

/// Tells a field that is `null` from one that is missing.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(to)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<Option<T>>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Option::deserialize(from).map(Some)
    }
}

/// One topic: `GET /admin/topics/{name}`, and an element of [`TopicList`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicDescription {
    /// Its name.
    pub topic: String,
    /// Its name.
    pub name: String,
    /// Its identity; another one once it was deleted and made anew.
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: TopicId,
    /// Leader of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner: Option<BrokerId>,
    /// Leader of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader: Option<BrokerId>,
    /// Other replicas of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub followers: Vec<BrokerId>,
    /// Replicas of partition 0, preferred leader first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// How many replicas partition 0 has.
    pub replica_count: usize,
    /// Brokers that are alive and up to date.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub alive_brokers: Vec<BrokerId>,
    /// Number of partitions.
    pub partition_count: usize,
    /// Copies of each record, as asked for.
    pub replication_factor: u32,
    /// Its settings.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub config: TopicConfig,
    /// Every partition.
    pub partitions: Vec<PartitionDescription>,
}

/// One partition of a [`TopicDescription`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionDescription {
    /// Index within the topic.
    pub id: u32,
    /// Who takes writes.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader: Option<BrokerId>,
    /// Grows with every change of leader.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub leader_epoch: LeaderEpoch,
    /// Brokers that hold it, preferred leader first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub replicas: Vec<BrokerId>,
    /// Replicas that hold every committed record.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// Replicas being added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub adding: Vec<BrokerId>,
    /// Replicas to be dropped once the added ones are in sync.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub removing: Vec<BrokerId>,
    /// The term in which the answering broker itself leads the partition, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leads_in: Option<LeaderEpoch>,
    /// First offset held, if the answering broker holds the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<Offset>,
    /// Records below it are committed, if the answering broker holds the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_watermark: Option<Offset>,
    /// Next offset to be appended, if the answering broker holds the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_end: Option<Offset>,
    /// Records that each follower is not known to hold, if the answering broker leads the partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub lag: BTreeMap<BrokerId, u64>,
}

/// Answer to `GET /admin/topics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicList {
    /// In order of name; internal topics are left out unless asked for.
    pub topics: Vec<TopicDescription>,
}

/// Answer to a change of a topic's replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplicasChanged {
    /// `ok`.
    pub status: String,
    /// The topic.
    pub topic: String,
    /// Leader of partition 0.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner: Option<BrokerId>,
    /// Other replicas of partition 0; an added one belongs to them at once, and to the ISR once it has caught up.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub followers: Vec<BrokerId>,
    /// How many replicas partition 0 has.
    pub replica_count: usize,
}

/// Answer to `DELETE /admin/topics/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicDeleted {
    /// `ok`.
    pub status: String,
    /// The topic's name.
    pub topic: String,
    /// Its identity.
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: TopicId,
}

/// Answer to `GET /replicas/{topic}`. What is at the top is about partition 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicReplicas {
    /// The topic.
    pub topic: String,
    /// Its leader.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner: Option<BrokerId>,
    /// Its in-sync replicas, the leader among them.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// Its replicas.
    pub replicas: Vec<ReplicaDescription>,
    /// Every partition.
    #[serde(default)]
    pub partitions: Vec<PartitionDescription>,
}

/// One replica of [`TopicReplicas`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplicaDescription {
    /// The broker.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub broker_id: BrokerId,
    /// Base URL of its client listener.
    pub api_base: String,
    /// Whether it leads.
    pub is_owner: bool,
    /// Whether it holds every committed record.
    pub in_isr: bool,
}

/// Answer to `GET /admin/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ControllerDescription {
    /// The broker that answers.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub broker_id: BrokerId,
    /// Whether it is the controller.
    pub this_broker_is_leader: bool,
    /// The controller.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader_id: Option<BrokerId>,
    /// The controller's term.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub controller_epoch: ControllerEpoch,
}

/// Answer to `GET /metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Metadata {
    /// The controller.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader_id: Option<BrokerId>,
    /// The cluster; another one once its brokers began anew on empty volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<uuid::Uuid>))]
    pub cluster_id: Option<ClusterId>,
    /// Version of the image.
    pub version: u64,
    /// Epoch of the controller that proposed the image.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub controller_epoch: ControllerEpoch,
    /// Replicas of each topic's partition 0, its leader first.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Vec<u32>>))]
    pub topics: BTreeMap<String, Vec<BrokerId>>,
    /// In-sync replicas of each topic's partition 0.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Vec<u32>>))]
    pub isr: BTreeMap<String, Vec<BrokerId>>,
}

/// Answer to `GET /admin/isr`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IsrOverview {
    /// The controller.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader_id: Option<BrokerId>,
    /// By name.
    pub topics: BTreeMap<String, TopicIsr>,
}

/// One topic of [`IsrOverview`]; partition 0 unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicIsr {
    /// Its leader.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub owner: Option<BrokerId>,
    /// Its other replicas.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub followers: Vec<BrokerId>,
    /// Its in-sync replicas, the leader among them.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u32>))]
    pub isr: Vec<BrokerId>,
    /// Whether each replica's broker is alive.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, bool>))]
    pub alive: BTreeMap<BrokerId, bool>,
    /// Followers that must hold a record before it is acknowledged: `min_isr − 1`.
    pub min_sync_followers: u32,
    /// Fewest in-sync replicas with which a publish is taken.
    #[serde(default)]
    pub min_isr: u32,
    /// Every partition.
    #[serde(default)]
    pub partitions: Vec<PartitionDescription>,
}
