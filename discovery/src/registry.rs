//! The rules of the registry: what a registration changes. Pure: time is an argument.

use pubsub_core::Mono;
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::{DISCOVERY_ADDRESS_BYTES_MAX, DISCOVERY_BROKERS_MAX};
use pubsub_core::wire::discovery::{DiscoveryEndpoint, DiscoveryMap};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A broker that did not register for this long is shown as stale, milliseconds. Brokers register every ten seconds, so that
/// this is thirty of them missed; it is kept all the same, because being silent towards discovery says nothing about its health.
pub const STALE_AFTER_MS: Mono = 300_000;

/// Who is where, as far as brokers said.
#[derive(Debug)]
pub struct Registry {
    instance: Uuid,
    seq: u64,
    entries: BTreeMap<BrokerId, Entry>,
    genesis_voters: Option<Vec<BrokerId>>,
}

#[derive(Debug)]
struct Entry {
    endpoint: DiscoveryEndpoint,
    last_seen: Mono,
}

/// What a registration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The broker was not known before.
    Added,
    /// The broker's entry says something else now.
    Updated,
    /// Another volume took over the id: a replaced disk, or two brokers configured with one id.
    TakenOver {
        /// The entry that was replaced.
        previous: Box<DiscoveryEndpoint>,
    },
    /// Nothing new was said.
    Same,
    /// A process that started later has registered already; this word was late and is ignored.
    Outdated,
}

impl Registered {
    /// Returns whether the map changed.
    pub fn changed(&self) -> bool {
        match self {
            Self::Added | Self::Updated | Self::TakenOver { .. } => true,
            Self::Same | Self::Outdated => false,
        }
    }
}

/// Why a registration was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A field holds something that can't be an address.
    #[error("{field} must be {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// As many brokers are known as may be.
    #[error("{DISCOVERY_BROKERS_MAX} brokers are registered already, which is the most this service keeps")]
    Full,
}

/// One broker as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it said.
    pub endpoint: DiscoveryEndpoint,
    /// Milliseconds since it said so.
    pub silent_ms: Mono,
    /// Whether that is longer than [`STALE_AFTER_MS`].
    pub stale: bool,
}

impl Registry {
    /// Makes an empty registry; `instance` must be new for every process.
    pub fn new(instance: Uuid, genesis_voters: Option<Vec<BrokerId>>) -> Self {
        Self { instance, seq: 0, entries: BTreeMap::new(), genesis_voters }
    }

    /// Takes a broker's word. Of two words about the same volume the one with the higher start counter holds; otherwise
    /// the last one does.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&mut self, now: Mono, endpoint: DiscoveryEndpoint) -> Result<Registered, RegisterError> {
        check(&endpoint)?;
        let outcome = match self.entries.get(&endpoint.broker_id) {
            None if self.entries.len() >= DISCOVERY_BROKERS_MAX => return Err(RegisterError::Full),
            None => Registered::Added,
            Some(known) => compare(&known.endpoint, &endpoint),
        };
        if outcome == Registered::Outdated {
            return Ok(outcome);
        }
        if outcome.changed() {
            self.seq += 1;
        }
        self.entries.insert(endpoint.broker_id, Entry { endpoint, last_seen: now });
        Ok(outcome)
    }

    /// Returns everything known, as brokers are told it.
    pub fn map(&self) -> DiscoveryMap {
        DiscoveryMap {
            instance: self.instance,
            seq: self.seq,
            brokers: self.entries.values().map(|entry| entry.endpoint.clone()).collect(),
            genesis_voters: self.genesis_voters.clone(),
        }
    }

    /// Returns every broker in order of id, with how long it has been silent.
    pub fn list(&self, now: Mono) -> Vec<Listed> {
        let listed = |entry: &Entry| {
            let silent_ms = now.saturating_sub(entry.last_seen);
            Listed { endpoint: entry.endpoint.clone(), silent_ms, stale: silent_ms > STALE_AFTER_MS }
        };
        self.entries.values().map(listed).collect()
    }
}

fn compare(known: &DiscoveryEndpoint, told: &DiscoveryEndpoint) -> Registered {
    if known.storage_id != told.storage_id {
        return Registered::TakenOver { previous: Box::new(known.clone()) };
    }
    match (known.boot, told.boot) {
        (Some(known), Some(told)) if told < known => Registered::Outdated,
        _ if known == told => Registered::Same,
        _ => Registered::Updated,
    }
}

fn check(endpoint: &DiscoveryEndpoint) -> Result<(), RegisterError> {
    let url = "an http:// or https:// URL of at most 2048 bytes";
    if !is_url(&endpoint.api_base) {
        return Err(RegisterError::Field { field: "api_base", expected: url });
    }
    if endpoint.peer_base.as_deref().is_some_and(|base| !is_url(base)) {
        return Err(RegisterError::Field { field: "peer_base", expected: url });
    }
    if !is_host(&endpoint.election_host) {
        let expected = "a host name or address, with brackets around an IPv6 one";
        return Err(RegisterError::Field { field: "election_host", expected });
    }
    if endpoint.election_port == 0 {
        return Err(RegisterError::Field { field: "election_port", expected: "a port from 1 to 65535" });
    }
    Ok(())
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty())
        && text.len() <= DISCOVERY_ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#@".contains(&byte))
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= DISCOVERY_ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::ids::StorageId;

    fn endpoint(id: u32, storage: u128, boot: u64) -> DiscoveryEndpoint {
        DiscoveryEndpoint {
            broker_id: BrokerId(id),
            api_base: format!("http://127.0.0.1:{}", 8080 + id),
            election_host: "127.0.0.1".to_owned(),
            election_port: 5001,
            peer_base: None,
            storage_id: Some(StorageId(Uuid::from_u128(storage))),
            run_id: None,
            boot: Some(boot),
        }
    }

    fn registry() -> Registry {
        Registry::new(Uuid::nil(), None)
    }

    #[test]
    fn saying_the_same_again_does_not_change_the_map() {
        let mut registry = registry();
        assert_eq!(registry.register(0, endpoint(1, 7, 1)).unwrap(), Registered::Added);
        assert_eq!(registry.register(9, endpoint(1, 7, 1)).unwrap(), Registered::Same);
        assert_eq!(registry.map().seq, 1);
    }

    #[test]
    fn a_late_word_of_an_older_process_is_ignored() {
        let mut registry = registry();
        let newer = DiscoveryEndpoint { api_base: "http://new".to_owned(), ..endpoint(1, 7, 2) };
        registry.register(0, newer.clone()).unwrap();
        assert_eq!(registry.register(1, endpoint(1, 7, 1)).unwrap(), Registered::Outdated);
        assert_eq!(registry.map().brokers, [newer]);
    }

    #[test]
    fn another_volume_takes_an_id_over_and_the_outcome_names_the_previous_one() {
        let mut registry = registry();
        registry.register(0, endpoint(1, 7, 5)).unwrap();
        let outcome = registry.register(1, endpoint(1, 8, 1)).unwrap();
        assert_eq!(outcome, Registered::TakenOver { previous: Box::new(endpoint(1, 7, 5)) });
        assert_eq!(registry.map().brokers, [endpoint(1, 8, 1)]);
    }

    #[test]
    fn a_silent_broker_becomes_stale_and_stays_in_the_map() {
        let mut registry = registry();
        registry.register(0, endpoint(1, 7, 1)).unwrap();
        assert!(!registry.list(STALE_AFTER_MS)[0].stale);
        assert!(registry.list(STALE_AFTER_MS + 1)[0].stale);
        assert_eq!(registry.map().brokers.len(), 1);
        registry.register(STALE_AFTER_MS + 2, endpoint(1, 7, 1)).unwrap();
        assert!(!registry.list(STALE_AFTER_MS + 3)[0].stale);
    }

    #[test]
    fn words_that_are_no_addresses_are_refused_by_field() {
        let refused = |endpoint| match registry().register(0, endpoint) {
            Err(RegisterError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let good = || endpoint(1, 1, 1);
        for api_base in
            ["", "127.0.0.1:8081", "http://", "http:///x", "http://a b", "http://user@host", "ftp://a"]
        {
            assert_eq!(refused(DiscoveryEndpoint { api_base: api_base.to_owned(), ..good() }), "api_base");
        }
        assert_eq!(refused(DiscoveryEndpoint { peer_base: Some("x".to_owned()), ..good() }), "peer_base");
        assert_eq!(refused(DiscoveryEndpoint { election_host: "a/b".to_owned(), ..good() }), "election_host");
        assert_eq!(refused(DiscoveryEndpoint { election_port: 0, ..good() }), "election_port");
    }

    #[test]
    fn the_registry_is_bounded_but_still_updates_those_it_knows() {
        let mut registry = registry();
        let most = u32::try_from(DISCOVERY_BROKERS_MAX).unwrap();
        for id in 0..most {
            registry.register(0, endpoint(id, 1, 1)).unwrap();
        }
        assert_eq!(registry.register(0, endpoint(most, 1, 1)), Err(RegisterError::Full));
        assert_eq!(registry.register(0, endpoint(0, 1, 2)).unwrap(), Registered::Updated);
    }
}
