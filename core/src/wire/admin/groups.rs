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

/// Answer to `DELETE /groups/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupDeleted {
    /// `ok`.
    pub status: String,
    /// Its name.
    pub group_id: String,
}
