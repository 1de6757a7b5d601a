//! What brokers and the discovery service tell each other. All of it is a hint: it never feeds voters, liveness or placement (D1).

use crate::ids::{BrokerId, RunId, StorageId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where one broker can be reached: body of `POST /register`, and one entry of a [`DiscoveryMap`].
///
/// The first four fields are enough; programs of the system that came before Pubsub send no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryEndpoint {
    /// The broker.
    pub broker_id: BrokerId,
    /// Base URL of its client listener.
    pub api_base: String,
    /// Host of its peer listener.
    pub election_host: String,
    /// Port of its peer listener.
    pub election_port: u16,
    /// Base URL of its peer listener, when it is not `http://{election_host}:{election_port}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_base: Option<String>,
    /// Its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_id: Option<StorageId>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Process-start counter of its volume: of two entries of one volume the higher one is newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<u64>,
}

impl DiscoveryEndpoint {
    /// Returns the base URL of the broker's peer listener, without a slash at its end.
    pub fn peer_url(&self) -> String {
        match &self.peer_base {
            Some(base) => base.trim_end_matches('/').to_owned(),
            None => format!("http://{}:{}", self.election_host, self.election_port),
        }
    }
}

/// Everything that a discovery process knows: its answers, and what it pushes to brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryMap {
    /// Made anew at every start of the discovery process: an unknown one tells brokers to register again.
    pub instance: Uuid,
    /// Grows with every change within one `instance`.
    pub seq: u64,
    /// In order of id. A broker that is missing is not gone: receivers merge, they never forget.
    pub brokers: Vec<DiscoveryEndpoint>,
    /// Founders of a new cluster, for brokers that were not told any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis_voters: Option<Vec<BrokerId>>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn four_fields_make_an_endpoint_and_come_back_as_four() {
        let text = r#"{"broker_id":1,"api_base":"http://127.0.0.1:8081","election_host":"127.0.0.1","election_port":5001}"#;
        let endpoint: DiscoveryEndpoint = serde_json::from_str(text).unwrap();
        assert_eq!(endpoint.peer_url(), "http://127.0.0.1:5001");
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
    }

    #[test]
    fn a_peer_base_overrules_host_and_port() {
        let text = r#"{"broker_id":1,"api_base":"a","election_host":"h","election_port":1,"peer_base":"http://b-0:5001/"}"#;
        let endpoint: DiscoveryEndpoint = serde_json::from_str(text).unwrap();
        assert_eq!(endpoint.peer_url(), "http://b-0:5001");
    }
}
