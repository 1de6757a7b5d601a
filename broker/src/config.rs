//! Flags and environment of `pubsub-broker`, checked once into real types.

use crate::handle::Endpoint;
use crate::store::{StorageKey, StoreConfig};
use anyhow::{Context, bail};
use clap::Parser;
use pubsub_client::peer_auth::PeerSecret;
use pubsub_core::ids::BrokerId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// One broker of a Pubsub cluster.
///
/// A broker keeps records in SQLite, replicates them to its peers and serves clients over HTTP. Brokers find each other
/// through discovery, through `--peers`, or through what they remember; who leads is decided among themselves.
///
/// Example: three brokers on one machine
///   pubsub-discovery &
///   BROKER_ID=1 BROKER_HTTP_PORT=8081 ELECTION_PORT=5001 pubsub-broker &
///   BROKER_ID=2 BROKER_HTTP_PORT=8082 ELECTION_PORT=5002 pubsub-broker &
///   BROKER_ID=3 BROKER_HTTP_PORT=8083 ELECTION_PORT=5003 pubsub-broker &
#[derive(Debug, Parser)]
#[command(name = "pubsub-broker", version, verbatim_doc_comment)]
pub struct Args {
    /// Id of this broker: 1 to 1000000, unique in the cluster. The highest live id becomes controller [default: 1].
    #[arg(long, env = "BROKER_ID")]
    broker_id: Option<u32>,
    /// Name of this broker's pod in a StatefulSet, e.g. pubsub-broker-0: the id is the number at its end, plus one.
    #[arg(long, env = "BROKER_NAME")]
    broker_name: Option<String>,
    /// Address that the client listener binds to.
    #[arg(long, env = "BROKER_HTTP_HOST", default_value = "127.0.0.1")]
    http_host: IpAddr,
    /// Port of the client listener [default: 8080 + id].
    #[arg(long, env = "BROKER_HTTP_PORT", alias = "port")]
    http_port: Option<u16>,
    /// URL under which clients and other brokers reach the client listener [default: http://HOST:PORT].
    #[arg(long, env = "BROKER_API_BASE")]
    api_base: Option<String>,
    /// Address that the peer listener binds to. Beyond loopback it needs a cluster secret.
    #[arg(long, env = "ELECTION_HOST", default_value = "127.0.0.1")]
    election_host: IpAddr,
    /// Port of the peer listener: election, heartbeats, replication, gossip [default: 5000 + id].
    #[arg(long, env = "ELECTION_PORT")]
    election_port: Option<u16>,
    /// URL under which other brokers reach the peer listener [default: http://ELECTION_HOST:ELECTION_PORT].
    #[arg(long, env = "PEER_BASE")]
    peer_base: Option<String>,
    /// Peer listeners of other brokers, e.g. "1=http://10.0.0.1:5001,2=http://10.0.0.2:5002".
    #[arg(long, env = "BROKER_PEERS", default_value = "")]
    peers: String,
    /// Client listeners of other brokers as JSON, e.g. {"1":"http://127.0.0.1:8081"}.
    #[arg(long, env = "BROKER_API_PEERS", default_value = "{}")]
    api_peers: String,
    /// URL of the discovery service; empty: none [default: http://127.0.0.1:9090].
    #[arg(long, env = "DISCOVERY_URL")]
    discovery_url: Option<String>,
    /// Founders of a new cluster, the same list on each of them, e.g. "1,2,3" [default: as discovery says].
    #[arg(long, env = "VOTERS", value_delimiter = ',')]
    voters: Vec<u32>,
    /// Directory of this broker's volume [default: data and the id, e.g. data1].
    #[arg(long, env = "PUBSUB_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Key that seals records at rest: 32 bytes in base64. Once used it is needed for ever.
    #[arg(long, env = "PUBSUB_STORAGE_KEY", hide_env_values = true)]
    storage_key: Option<String>,
    /// Older keys, comma-separated: still read, used for nothing new.
    #[arg(long, env = "PUBSUB_STORAGE_KEYS_OLD", hide_env_values = true, value_delimiter = ',')]
    storage_keys_old: Vec<String>,
    /// Refuse publishes below this many free bytes on the volume [default: 5 % of it, or 256 MiB].
    #[arg(long, env = "PUBSUB_MIN_FREE_BYTES")]
    min_free_bytes: Option<u64>,
    /// Before serving, rewrite the records file if a quarter of it or more is unused, to give that room back to the file
    /// system. Takes room for a second copy of what is stored, and about a second a gigabyte.
    #[arg(long, env = "PUBSUB_VACUUM")]
    vacuum: bool,
    /// Secret shared by all brokers and discovery, at least 16 bytes. Without it the peer listener serves loopback only.
    #[arg(long, env = "PUBSUB_CLUSTER_SECRET", hide_env_values = true)]
    cluster_secret: Option<String>,
    /// Failure domain of this broker.
    #[arg(long, env = "PUBSUB_ZONE")]
    zone: Option<String>,
    /// As controller, hand the role to a broker with a higher id once that has been back for 30 s.
    #[arg(long, env = "PUBSUB_PREEMPT")]
    preempt: bool,
    /// Multiplies every protocol timeout: 1 on a LAN, 3 on a starved machine.
    #[arg(long, env = "PUBSUB_TIMEOUT_SCALE", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100))]
    timeout_scale: u32,
    /// Origins that browsers may call from, comma-separated; "*": any.
    #[arg(long, env = "PUBSUB_CORS_ORIGINS", value_delimiter = ',')]
    cors_origins: Vec<String>,
    /// What to log, e.g. "info" or "pubsub_broker=debug".
    #[arg(long, env = "PUBSUB_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Stops when standard input ends: for supervisors.
    #[arg(long, hide = true)]
    pub(crate) stop_on_stdin_eof: bool,
}

/// A broker's settings, checked.
#[derive(Debug)]
pub struct Config {
    /// This broker.
    pub broker_id: BrokerId,
    /// Where the client listener binds.
    pub http_addr: (IpAddr, u16),
    /// Where the peer listener binds.
    pub peer_addr: (IpAddr, u16),
    /// URL of the client listener; `None`: made from the bound address.
    pub api_base: Option<String>,
    /// URL of the peer listener; `None`: made from the bound address.
    pub peer_base: Option<String>,
    /// Other brokers as configured.
    pub peers: BTreeMap<BrokerId, Endpoint>,
    /// URL of discovery.
    pub discovery_url: Option<String>,
    /// Founders of a new cluster.
    pub voters: Option<Vec<BrokerId>>,
    /// Directory of the volume.
    pub data_dir: PathBuf,
    /// Seals records at rest.
    pub storage_key: Option<StorageKey>,
    /// Keys that older records may be sealed with.
    pub storage_keys_old: Vec<StorageKey>,
    /// Publishes are refused below this many free bytes; `None`: below 5 % of the file system or 256 MiB.
    pub free_bytes_min: Option<u64>,
    /// Give unused room of the records file back before serving.
    pub vacuum: bool,
    /// Signs requests between brokers.
    pub secret: Option<PeerSecret>,
    /// Failure domain.
    pub zone: Option<String>,
    /// Hand the controller's role to higher ids that are back.
    pub preempt: bool,
    /// Multiplies every timeout.
    pub timeout_scale: u32,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
}

impl Args {
    /// Checks everything and fills defaults in.
    ///
    /// # Errors
    /// Names the setting that is wrong and what it may be.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let broker_id = broker_id(self.broker_id, self.broker_name.as_deref())?;
        let secret =
            self.cluster_secret.as_deref().filter(|text| !text.is_empty()).map(PeerSecret::new).transpose();
        let secret = secret.context("PUBSUB_CLUSTER_SECRET")?;
        if secret.is_none() && !self.election_host.is_loopback() {
            bail!(
                "ELECTION_HOST is {}, beyond loopback, and there is no cluster secret: set PUBSUB_CLUSTER_SECRET to the \
                 same text of at least 16 bytes on every broker and on discovery",
                self.election_host
            );
        }
        let key = self.storage_key.as_deref().filter(|text| !text.is_empty());
        let storage_key = key.map(StorageKey::try_from).transpose().context("PUBSUB_STORAGE_KEY")?;
        let keys_old = self.storage_keys_old.iter().filter(|text| !text.is_empty());
        let keys_old = keys_old.map(|text| StorageKey::try_from(text.as_str()));
        let storage_keys_old = keys_old.collect::<Result<_, _>>().context("PUBSUB_STORAGE_KEYS_OLD")?;
        let port_of = |base: u32, given: Option<u16>, name: &str| match given {
            Some(port) => Ok(port),
            None => u16::try_from(base + broker_id).with_context(|| format!("no default for {name}: set it")),
        };
        let discovery_url = self.discovery_url.or_else(|| std::env::var("DISCOVERY_SERVICE_URL").ok());
        let discovery_url = discovery_url.unwrap_or_else(|| "http://127.0.0.1:9090".to_owned());
        let mut voters: Vec<BrokerId> = self.voters.iter().copied().map(BrokerId).collect();
        voters.sort_unstable();
        voters.dedup();
        Ok(Config {
            broker_id: BrokerId(broker_id),
            http_addr: (self.http_host, port_of(8080, self.http_port, "BROKER_HTTP_PORT")?),
            peer_addr: (self.election_host, port_of(5000, self.election_port, "ELECTION_PORT")?),
            api_base: self.api_base.map(|url| trimmed(&url)).or_else(|| std::env::var("SELF_API_BASE").ok()),
            peer_base: self.peer_base.map(|url| trimmed(&url)),
            peers: peers(&self.peers, &self.api_peers)?,
            discovery_url: Some(trimmed(&discovery_url)).filter(|url| !url.is_empty()),
            voters: Some(voters).filter(|list| !list.is_empty()),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(format!("data{broker_id}"))),
            storage_key,
            storage_keys_old,
            free_bytes_min: self.min_free_bytes,
            vacuum: self.vacuum,
            secret,
            zone: self.zone.filter(|zone| !zone.is_empty()),
            preempt: self.preempt,
            timeout_scale: self.timeout_scale,
            cors_origins: self.cors_origins,
        })
    }
}

impl Config {
    /// Returns what the volume is opened with.
    pub(crate) fn store_config(&self) -> StoreConfig {
        StoreConfig {
            dir: self.data_dir.clone(),
            broker_id: self.broker_id,
            key: self.storage_key.clone(),
            keys_old: self.storage_keys_old.clone(),
            free_bytes_min: self.free_bytes_min,
            vacuum: self.vacuum,
        }
    }
}

/// Returns the id as given, or as it follows from the pod's name. Ordinals begin at zero, ids at one.
fn broker_id(given: Option<u32>, name: Option<&str>) -> anyhow::Result<u32> {
    let ordinal = |name: &str| name.rsplit_once('-').and_then(|(_, digits)| digits.parse::<u32>().ok());
    let named = match name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let ordinal = ordinal(name).with_context(|| {
                format!("BROKER_NAME is {name:?}: it must end in a number, as in pubsub-broker-0")
            })?;
            Some(ordinal.saturating_add(1))
        }
        None => None,
    };
    let id = match (given, named) {
        (Some(given), Some(named)) if given != named => {
            bail!("BROKER_ID is {given}, but BROKER_NAME makes it {named}: set only one of them")
        }
        (given, named) => given.or(named).unwrap_or(1),
    };
    if id == 0 || id > 1_000_000 {
        bail!("the broker's id is {id}: use 1 to 1000000");
    }
    Ok(id)
}

fn trimmed(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}

fn peers(peer_bases: &str, api_bases: &str) -> anyhow::Result<BTreeMap<BrokerId, Endpoint>> {
    let mut all: BTreeMap<BrokerId, Endpoint> = BTreeMap::new();
    let empty = || Endpoint { api_base: String::new(), peer_base: String::new() };
    for entry in peer_bases.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (id, url) =
            entry.split_once('=').with_context(|| format!("BROKER_PEERS: {entry:?} is not id=url"))?;
        let id =
            BrokerId(id.trim().parse().with_context(|| format!("BROKER_PEERS: {id:?} is not a broker id"))?);
        all.entry(id).or_insert_with(empty).peer_base = trimmed(url);
    }
    let listed: BTreeMap<u32, String> =
        serde_json::from_str(api_bases).context("BROKER_API_PEERS is not a JSON object of id to URL")?;
    for (id, url) in listed {
        all.entry(BrokerId(id)).or_insert_with(empty).api_base = trimmed(&url);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(args: &[&str]) -> anyhow::Result<Config> {
        Args::try_parse_from(std::iter::once(&"pubsub-broker").chain(args))?.into_config()
    }

    #[test]
    fn ports_and_directory_follow_from_the_id() {
        let config = parse(&["--broker-id", "3"]).unwrap();
        assert_eq!((config.http_addr.1, config.peer_addr.1), (8083, 5003));
        assert_eq!(config.data_dir, PathBuf::from("data3"));
    }

    #[test]
    fn the_id_follows_from_the_name_of_a_pod() {
        for (name, id) in [("pubsub-broker-0", 1), ("a-2-11", 12)] {
            assert_eq!(parse(&["--broker-name", name]).unwrap().broker_id, BrokerId(id), "{name}");
        }
        assert_eq!(broker_id(None, Some("x-999999")).unwrap(), 1_000_000);
        assert_eq!(parse(&[]).unwrap().broker_id, BrokerId(1));
        assert_eq!(parse(&["--broker-name", ""]).unwrap().broker_id, BrokerId(1));
    }

    #[test]
    fn a_name_without_a_number_and_an_id_that_contradicts_it_are_refused() {
        for name in ["broker", "broker-", "broker-x", "broker0", "x-1000000", "x-4294967295", "x-4294967296"]
        {
            assert!(broker_id(None, Some(name)).is_err(), "{name}");
        }
        assert!(parse(&["--broker-name", "b-2", "--broker-id", "3"]).is_ok());
        let refused = parse(&["--broker-name", "b-2", "--broker-id", "2"]).unwrap_err().to_string();
        assert!(refused.contains("BROKER_ID is 2, but BROKER_NAME makes it 3"), "{refused}");
    }

    #[test]
    fn a_peer_listener_beyond_loopback_needs_a_secret() {
        let refused = parse(&["--election-host", "0.0.0.0"]).unwrap_err().to_string();
        assert!(refused.contains("PUBSUB_CLUSTER_SECRET"), "{refused}");
        assert!(parse(&["--election-host", "0.0.0.0", "--cluster-secret", "0123456789abcdef"]).is_ok());
    }

    #[test]
    fn configured_peers_of_both_kinds_are_merged_by_id() {
        let config =
            parse(&["--peers", "2=http://h:5002/", "--api-peers", r#"{"2":"http://h:8082"}"#]).unwrap();
        let peer = &config.peers[&BrokerId(2)];
        assert_eq!((peer.peer_base.as_str(), peer.api_base.as_str()), ("http://h:5002", "http://h:8082"));
        assert!(parse(&["--peers", "http://h:5002"]).is_err());
    }
}
