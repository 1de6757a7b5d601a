//! Bodies about consumer groups.

use crate::ids::Offset;
use serde::{Deserialize, Serialize};

/// Answer to `GET /groups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupList {
    /// In order of name.
    pub groups: Vec<GroupSummary>,
}

/// One group of a [`GroupList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupSummary {
    /// Its name.
    pub group_id: String,
}

/// Answer to `GET /groups/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupDetail {
    /// Its name.
    pub group_id: String,
    /// Grows with each change of the group's members; 0 without members.
    #[serde(default)]
    pub epoch: u64,
    /// Who reads for it now.
    pub members: Vec<MemberDetail>,
    /// How far it has come.
    pub partitions: Vec<GroupPartition>,
}

/// One member of a [`GroupDetail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberDetail {
    /// Its name.
    pub consumer_id: String,
    /// What it may read.
    pub assigned: Vec<AssignedPartition>,
    /// Its session ends in this many ms unless renewed.
    pub expires_in_ms: u64,
}

/// A partition that a member may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AssignedPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

/// How far a group has come in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The last record that was finished (−1: none).
    pub committed: i64,
    /// Read next.
    pub next_offset: Offset,
    /// Records below it may be read; `None` if no reachable broker says.
    pub high_watermark: Option<Offset>,
    /// `high_watermark − next_offset`.
    pub lag: Option<u64>,
    /// The member that reads it.
    pub consumer_id: Option<String>,
    /// Whether records wait although nobody reads them.
    pub stuck: bool,
}

/// Body of `POST /groups/{id}/reset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetGroupRequest {
    /// Only in this topic; without it in all that the group has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Only in these partitions of the topic; without it in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<u32>>,
    /// Where to go on.
    pub to: ResetTo,
    /// Only show where the group would go on.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where a group is to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ResetTo {
    /// At this offset.
    Offset(Offset),
    /// `earliest`, `latest`, an offset, `timestamp:<ms since 1970>`, or a time as in RFC 3339.
    Text(String),
}

/// Answer to `POST /groups/{id}/reset`: durable on every in-sync replica, unless it was a dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupReset {
    /// Its name.
    pub group_id: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Where the group goes on.
    pub partitions: Vec<ResetPartition>,
}

/// Where a group goes on in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// What was committed before (−1: nothing).
    pub before: i64,
    /// What counts as finished now (−1: nothing).
    pub committed: i64,
    /// Read next.
    pub next_offset: Offset,
}

/// Answer to `DELETE /groups/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupDeleted {
    /// `ok`.
    pub status: String,
    /// Its name.
    pub group_id: String,
}
