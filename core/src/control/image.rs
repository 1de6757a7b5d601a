//! The metadata image: everything the cluster has agreed on, and the operations that change it.
//!
//! Operations carry results, not requests, so applying them is plain assignment: two software versions can't compute
//! different images from the same operations. Images form one hash chain (invariant M1).

use crate::ids::{
    At, BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, PartEpoch, RunId, StorageId, TopicId, TopicName,
    TopicPartition,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// SHA-256 over the previous image's hash, the place of this one and the operations that led here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageHash(pub [u8; 32]);

impl std::fmt::Display for ImageHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<ImageHash> for String {
    fn from(hash: ImageHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for ImageHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err("an image hash is 64 hexadecimal digits");
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| "not hexadecimal")?;
        }
        Ok(Self(hash))
    }
}

/// What the cluster has agreed on at one point of its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The cluster that this image is of.
    pub cluster_id: ClusterId,
    /// Place in history.
    pub at: At,
    /// Hash of the whole history up to here.
    pub hash: ImageHash,
    /// Rises only by an explicit operation once every registered broker can read it.
    pub feature_level: u16,
    /// The brokers, with their volumes, whose majority commits images.
    pub voters: BTreeMap<BrokerId, StorageId>,
    /// Every broker that ever registered.
    pub brokers: BTreeMap<BrokerId, BrokerEntry>,
    /// Topics by identity.
    pub topics: BTreeMap<TopicId, Arc<TopicEntry>>,
    /// Deleted topics and the version that deleted them: the only licence to delete a replica's data (T1).
    pub tombstones: BTreeMap<TopicId, u64>,
}

impl Image {
    /// Returns the living topic of that name.
    pub fn topic_by_name(&self, name: &TopicName) -> Option<(TopicId, &Arc<TopicEntry>)> {
        self.topics.iter().find(|(_, entry)| entry.name == *name).map(|(id, entry)| (*id, entry))
    }
}

/// One registered broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerEntry {
    /// Its volume.
    pub storage_id: StorageId,
    /// Persisted count of process starts on that volume.
    pub boot: u64,
    /// Its process.
    pub run_id: RunId,
    /// Version of the image that registered this process.
    pub broker_epoch: BrokerEpoch,
    /// Base URL of its client listener.
    pub api_base: String,
    /// Base URL of its peer listener.
    pub peer_base: String,
    /// Failure domain, if configured.
    pub zone: Option<String>,
    /// Oldest and newest feature level that it reads.
    pub versions: (u16, u16),
    /// What it may be given.
    pub state: BrokerState,
}

/// What a broker may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerState {
    /// Silent, or just registered and not yet up to date: leads nothing, joins no ISR.
    Fenced,
    /// Alive and up to date.
    Active,
    /// Alive, but to be emptied: leads nothing new, nothing is placed on it.
    Draining,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEntry {
    /// Its name; unique among living topics.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Its partitions by index.
    pub partitions: Vec<PartitionEntry>,
}

/// Settings of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// As asked for at creation; `partitions[].replicas` may differ while brokers are missing.
    pub replication_factor: u32,
    /// Fewest in-sync replicas with which a publish with `acks=all` is taken, and the ISR floor.
    pub min_isr: u32,
    /// Delete records older than this, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Delete oldest records past this size of a partition, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Keep only the newest record of each key.
    #[serde(default)]
    pub compact: bool,
    /// Opaque JSON kept for whoever manages the topic (the operator's owner reference).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<serde_json::Value>,
}

/// One partition's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// Brokers that hold it, preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Replicas being added by a reassignment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Replicas to be dropped once the added ones are in sync.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
    /// Replicas that hold every committed record.
    pub isr: Vec<BrokerId>,
    /// Who takes writes; `None` while no in-sync replica is alive, or when all were lost.
    pub leader: Option<BrokerId>,
    /// Grows with every change of leader, and whenever the leader's process restarts (R4).
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this entry.
    pub part_epoch: PartEpoch,
}

/// One change of an image; see the module's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Replaces one broker's entry.
    SetBroker {
        /// Whose.
        id: BrokerId,
        /// The new entry.
        entry: BrokerEntry,
    },
    /// Replaces one partition's entry.
    SetPartition {
        /// Which partition.
        partition: TopicPartition,
        /// The new entry.
        entry: PartitionEntry,
    },
    /// Adds a topic with all its partitions.
    AddTopic {
        /// Its identity, never used before.
        id: TopicId,
        /// Its contents.
        entry: Arc<TopicEntry>,
    },
    /// Replaces a topic's settings.
    SetTopicConfig {
        /// Which topic.
        id: TopicId,
        /// The new settings.
        config: TopicConfig,
    },
    /// Appends partitions to a topic.
    AddPartitions {
        /// Which topic.
        id: TopicId,
        /// The new partitions, behind the existing ones.
        partitions: Vec<PartitionEntry>,
    },
    /// Deletes a topic and leaves a tombstone.
    DeleteTopic {
        /// Which topic.
        id: TopicId,
    },
    /// Replaces the voters; at most one added or removed at a time.
    SetVoters {
        /// The new voters.
        voters: BTreeMap<BrokerId, StorageId>,
    },
    /// Raises the feature level.
    SetFeatureLevel {
        /// The new level.
        level: u16,
    },
}

/// Why operations could not be applied: they name something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation {index} does not fit the image at {at}")]
pub struct OpMisfit {
    /// Index of the operation.
    pub index: usize,
    /// The image's place.
    pub at: At,
}
