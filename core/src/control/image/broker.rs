//! Brokers as the image has them.

use crate::ids::{BrokerEpoch, RunId, Start, StorageId};
use serde::{Deserialize, Serialize};

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
    /// Whether it seals the records that it stores; `None`: it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<bool>,
    /// What it may be given.
    pub state: BrokerState,
    /// It is to be emptied: unless it is silent its state is [`BrokerState::Draining`], also after a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Its volume was found to be an older copy of itself. It has forgotten promises, so it never votes again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
}

impl BrokerEntry {
    /// Returns the start of its process.
    pub fn start(&self) -> Start {
        Start { boot: self.boot, run_id: self.run_id }
    }
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
