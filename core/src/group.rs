//! Consumer groups: who reads which partition, and how far each group has come.
//!
//! The state of a group is a compacted log: the partition that the group's name hashes to (one of eight) of the internal topic `__groups`, whose
//! leader coordinates the group. A reply leaves only after the record behind it is committed.

mod assignor;
pub mod coordinator;
mod membership;
mod positions;
pub mod records;
pub mod stream;

use crate::ids::{ConsumerId, GroupId, TopicId};
use serde::{Deserialize, Serialize};

/// On whose behalf positions are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// Consumers that share a topic's partitions.
    Group(GroupId),
    /// One consumer without a group; it shares with nobody and needs no membership.
    Consumer(ConsumerId),
    /// Nobody in particular.
    Anonymous,
}

/// What a member knows of its membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The epoch that it was told last.
    pub member_epoch: u64,
    /// The partitions that it has not given up; without them this is a heartbeat, which leaves everything as it is.
    pub owned: Option<Vec<u32>>,
}

/// A request to the coordinator of a reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum GroupRequest {
    /// Takes or renews a membership of a group and says which partitions the member may read.
    /// For readers that are no group it only returns positions.
    Join {
        /// Who reads.
        reader: Reader,
        /// The member; required for groups.
        consumer: Option<ConsumerId>,
        /// What it reads.
        topic: TopicId,
        /// How many partitions the topic has.
        partitions: u32,
        /// Whether to wait as a standby instead of being refused when no partition is free.
        standby: bool,
        /// What the member holds. Without it the member is let in anew if need be, and holds nothing between requests.
        #[serde(default)]
        held: Option<Held>,
        /// Whether the member begins anew under its name: whoever had the name before is fenced, and what it was assigned
        /// stays with the name.
        #[serde(default)]
        anew: bool,
    },
    /// Gives a membership up.
    Leave {
        /// The group.
        group: GroupId,
        /// The member.
        consumer: ConsumerId,
        /// Only the membership that reads this topic.
        #[serde(default)]
        topic: Option<TopicId>,
        /// The epoch that the member was told last: who joined again since then stays.
        #[serde(default)]
        member_epoch: Option<u64>,
    },
    /// Stores the offset of the last finished record (−1: none).
    Commit {
        /// Whose position.
        reader: Reader,
        /// The member; without one a commit to a group is taken only while the group has no members.
        consumer: Option<ConsumerId>,
        /// Of which topic.
        topic: TopicId,
        /// Of which partition.
        partition: u32,
        /// The offset.
        offset: i64,
        /// The epoch that the member was told last: what became its own later is not committed.
        #[serde(default)]
        member_epoch: Option<u64>,
    },
    /// Returns everything about one group.
    Describe {
        /// Which.
        group: GroupId,
    },
    /// Returns the names of the groups that this coordinator has (one partition's share).
    List,
    /// Deletes a group without members, and its positions.
    Delete {
        /// Which.
        group: GroupId,
    },
    /// Sets positions of a group, all or none; refused while a member reads one of the topics.
    Reset {
        /// Which group.
        group: GroupId,
        /// Topic, partition, and offset of the last record that is to count as finished (−1: none).
        positions: Vec<(TopicId, u32, i64)>,
    },
}

/// A coordinator's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum GroupReply {
    /// To `Join`.
    Joined {
        /// Grows with each change of the group's members.
        member_epoch: u64,
        /// Partitions that the member may read, with the offset last finished in each (−1: none).
        partitions: Vec<(u32, i64)>,
        /// Those of them whose position somebody else than this consumer set.
        #[serde(default)]
        by_others: Vec<u32>,
        /// The membership ends unless renewed within this time.
        session_timeout_ms: u64,
    },
    /// To `Commit`: durable on all in-sync replicas.
    Committed {
        /// As stored.
        offset: i64,
    },
    /// To `Describe`.
    Described(GroupDescription),
    /// To `List`.
    Listed {
        /// Names.
        groups: Vec<GroupId>,
    },
    /// To `Leave`, `Delete` and `Reset`.
    Done,
}

/// Everything about one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// Grows with each change of the group's members; 0 without members.
    #[serde(default)]
    pub epoch: u64,
    /// Members: consumer, ms since it was last heard, and what it reads.
    pub members: Vec<GroupMember>,
    /// Positions: topic, partition, offset of the last finished record.
    pub committed: Vec<(TopicId, u32, i64)>,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its name.
    pub consumer: ConsumerId,
    /// What it may read.
    pub assigned: Vec<(TopicId, u32)>,
    /// Its session ends in this many ms.
    pub expires_in_ms: u64,
}

/// Why a coordinator did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum GroupError {
    /// Every partition has a consumer already.
    #[error("every partition of the topic already has a consumer in this group")]
    Busy,
    /// The group's record has no room for another member.
    #[error("the group has as many members as fit")]
    Full,
    /// The member does not own the partition (any more).
    #[error("the consumer does not own the partition in this group")]
    Fenced,
    /// No such group.
    #[error("the group does not exist")]
    NotFound,
    /// The group still has members.
    #[error("the group still has members")]
    NotEmpty,
    /// A group needs a consumer id.
    #[error("a consumer id is required with a group id")]
    ConsumerRequired,
    /// Another broker coordinates (or none yet): try again.
    #[error("the group's coordinator is not available yet")]
    Unavailable,
    /// The commit may or may not be kept.
    #[error("the coordinator changed before the commit was replicated; it may or may not be kept")]
    Unknown,
}
