//! Where every broker can be reached, merged from all who know: image, discovery, configuration, gossip, and before any of
//! them says something, the image that this volume accepted last.
//!
//! The image wins, except over a newer start of the very same volume that discovery has seen (its new addresses can't be
//! in an image before it is registered). Nothing is ever forgotten because a source lacks it (D1).

use crate::handle::Endpoint;
use pubsub_core::control::image::{BrokerEntry, Image};
use pubsub_core::ids::{BrokerId, StorageId};
use pubsub_core::limits::{DISCOVERY_ADDRESS_BYTES_MAX, DISCOVERY_BROKERS_MAX};
use pubsub_core::wire::discovery::DiscoveryEndpoint;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// A shared directory of brokers.
#[derive(Clone, Default)]
pub(crate) struct Endpoints {
    sources: Arc<RwLock<Sources>>,
}

#[derive(Default)]
struct Sources {
    image: BTreeMap<BrokerId, (StorageId, u64, Endpoint)>,
    discovered: BTreeMap<BrokerId, DiscoveryEndpoint>,
    configured: BTreeMap<BrokerId, Endpoint>,
    gossiped: BTreeMap<BrokerId, Endpoint>,
    /// From before this process was started: brokers that all restart without discovery know each other by it alone.
    remembered: BTreeMap<BrokerId, Endpoint>,
}

impl Endpoints {
    pub(crate) fn new(configured: BTreeMap<BrokerId, Endpoint>) -> Self {
        let sources = Sources { configured, ..Sources::default() };
        Self { sources: Arc::new(RwLock::new(sources)) }
    }

    pub(crate) fn learn_image(&self, image: &Image) {
        let entry = |(id, entry): (&BrokerId, &BrokerEntry)| {
            (*id, (entry.storage_id, entry.boot, registered_at(entry)))
        };
        self.write().image = image.brokers.iter().map(entry).collect();
    }

    /// Takes addresses from an image that was accepted before this process was started, whether it is committed or not.
    pub(crate) fn remember(&self, image: &Image) {
        let entries = image.brokers.iter().map(|(id, entry)| (*id, registered_at(entry)));
        self.write().remembered = entries.collect();
    }

    /// Merges what discovery knows; of two entries of one volume the one of the later start stays. Takes no more and no
    /// longer ones than a discovery process keeps: its answers are not signed.
    pub(crate) fn learn_discovery(&self, brokers: &[DiscoveryEndpoint]) {
        let mut sources = self.write();
        for entry in brokers {
            let addresses = [Some(&entry.api_base), Some(&entry.election_host), entry.peer_base.as_ref()];
            if addresses.into_iter().flatten().any(|text| text.len() > DISCOVERY_ADDRESS_BYTES_MAX) {
                continue;
            }
            let known = sources.discovered.get(&entry.broker_id);
            if known.is_none() && sources.discovered.len() >= DISCOVERY_BROKERS_MAX {
                continue;
            }
            let older =
                known.is_some_and(|known| known.storage_id == entry.storage_id && known.boot > entry.boot);
            if !older {
                sources.discovered.insert(entry.broker_id, entry.clone());
            }
        }
    }

    pub(crate) fn learn_gossip(&self, peers: BTreeMap<BrokerId, (String, String)>) {
        let peers =
            peers.into_iter().map(|(id, (api_base, peer_base))| (id, Endpoint { api_base, peer_base }));
        self.write().gossiped.extend(peers);
    }

    /// Returns the brokers that discovery has named.
    pub(crate) fn discovered(&self) -> Vec<BrokerId> {
        self.read().discovered.keys().copied().collect()
    }

    pub(crate) fn get(&self, id: BrokerId) -> Option<Endpoint> {
        self.read().best(id)
    }

    pub(crate) fn all(&self) -> BTreeMap<BrokerId, Endpoint> {
        let sources = self.read();
        let mut ids: Vec<BrokerId> = sources.image.keys().chain(sources.discovered.keys()).copied().collect();
        ids.extend(sources.configured.keys().chain(sources.gossiped.keys()));
        ids.extend(sources.remembered.keys());
        ids.into_iter().filter_map(|id| Some((id, sources.best(id)?))).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Sources> {
        self.sources.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Sources> {
        self.sources.write().expect("no holder of this lock panics")
    }
}

impl Sources {
    fn best(&self, id: BrokerId) -> Option<Endpoint> {
        let discovered = self.discovered.get(&id);
        let of = |entry: &DiscoveryEndpoint| Endpoint {
            api_base: entry.api_base.clone(),
            peer_base: entry.peer_url(),
        };
        match (self.image.get(&id), discovered) {
            (Some((storage, boot, _)), Some(entry))
                if entry.storage_id == Some(*storage) && entry.boot > Some(*boot) =>
            {
                Some(of(entry))
            }
            (Some((_, _, endpoint)), _) => Some(endpoint.clone()),
            (None, Some(entry)) => Some(of(entry)),
            (None, None) => {
                let told = self.configured.get(&id).or_else(|| self.gossiped.get(&id));
                told.or_else(|| self.remembered.get(&id)).cloned()
            }
        }
    }
}

/// Returns where a broker is by its registration.
fn registered_at(entry: &BrokerEntry) -> Endpoint {
    Endpoint { api_base: entry.api_base.clone(), peer_base: entry.peer_base.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn seen(boot: u64, port: u16) -> DiscoveryEndpoint {
        DiscoveryEndpoint {
            broker_id: BrokerId(1),
            api_base: format!("http://h:{port}"),
            election_host: "h".to_owned(),
            election_port: port,
            peer_base: None,
            storage_id: Some(StorageId(Uuid::from_u128(5))),
            run_id: None,
            boot: Some(boot),
        }
    }

    #[test]
    fn an_empty_map_of_a_restarted_discovery_makes_nobody_disappear() {
        let endpoints = Endpoints::default();
        endpoints.learn_discovery(&[seen(1, 80)]);
        endpoints.learn_discovery(&[]);
        assert_eq!(endpoints.all().len(), 1);
    }

    #[test]
    fn an_address_that_is_remembered_serves_until_anybody_knows_better() {
        let endpoints = Endpoints::default();
        let at = |port: u16| Endpoint {
            api_base: format!("http://h:{port}"),
            peer_base: format!("http://p:{port}"),
        };
        endpoints.write().remembered.insert(BrokerId(1), at(70));
        assert_eq!(endpoints.get(BrokerId(1)), Some(at(70)));
        assert_eq!(endpoints.all().len(), 1);
        endpoints.learn_gossip(BTreeMap::from([(BrokerId(1), (at(71).api_base, at(71).peer_base))]));
        assert_eq!(endpoints.get(BrokerId(1)), Some(at(71)));
        endpoints.learn_discovery(&[seen(1, 80)]);
        assert_eq!(endpoints.get(BrokerId(1)).map(|at| at.api_base), Some("http://h:80".to_owned()));
    }

    #[test]
    fn an_older_start_of_a_volume_does_not_replace_a_newer_one() {
        let endpoints = Endpoints::default();
        endpoints.learn_discovery(&[seen(2, 82)]);
        endpoints.learn_discovery(&[seen(1, 81)]);
        assert_eq!(endpoints.get(BrokerId(1)).map(|at| at.api_base), Some("http://h:82".to_owned()));
    }

    #[test]
    fn a_map_without_end_does_not_fill_the_memory() {
        let endpoints = Endpoints::default();
        let count = u32::try_from(DISCOVERY_BROKERS_MAX).expect("small") + 9;
        let mut many: Vec<_> =
            (1..=count).map(|id| DiscoveryEndpoint { broker_id: BrokerId(id), ..seen(1, 80) }).collect();
        many[0].api_base = "x".repeat(DISCOVERY_ADDRESS_BYTES_MAX + 1);
        endpoints.learn_discovery(&many);
        assert_eq!(endpoints.discovered().len(), DISCOVERY_BROKERS_MAX);
        assert_eq!(endpoints.get(BrokerId(1)), None);
    }
}
