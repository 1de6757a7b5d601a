//! Bodies about brokers.

use crate::ids::BrokerId;
use serde::{Deserialize, Serialize};

/// Answer to `GET /admin/brokers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrokerList {
    /// The controller.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader_id: Option<BrokerId>,
    /// In order of id.
    pub brokers: Vec<BrokerDescription>,
}

/// What a broker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BrokerStanding {
    /// Alive and up to date.
    Active,
    /// Silent, or not up to date yet.
    Fenced,
    /// Being emptied: leads nothing new, nothing is placed on it.
    Draining,
    /// Emptied: it holds no replica, and may be taken away unless it votes.
    Drained,
}

/// One broker of a [`BrokerList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrokerDescription {
    /// The broker.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub broker_id: BrokerId,
    /// Base URL of its client listener.
    pub api_base: String,
    /// What it is doing, as the metadata has it.
    pub state: BrokerStanding,
    /// Whether it is to be emptied; stays so while it is fenced.
    #[serde(default)]
    pub draining: bool,
    /// Whether it votes on metadata.
    pub voter: bool,
    /// Whether it is the controller.
    pub controller: bool,
    /// Failure domain.
    pub zone: Option<String>,
    /// Whether it seals the records that it stores (encryption at rest); `null`: it did not say.
    #[serde(default)]
    pub sealed: Option<bool>,
    /// Partitions that it leads.
    pub leads: usize,
    /// Partitions that it holds.
    pub holds: usize,
}
