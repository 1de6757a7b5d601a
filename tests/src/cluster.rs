//! A cluster of real processes on loopback, with the means to break it.

pub mod await_condition;
pub mod life;
pub mod ports;
pub mod process;
pub mod shared;
pub mod topic;
pub mod volume;

use crate::brokers::Brokers;
use crate::http::Http;
use crate::proxy::Proxies;
use anyhow::{Context, bail};
use await_condition::eventually;
use process::{Process, Watchdog, binary, log_tail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use volume::Volume;

/// The secret that all processes of a test cluster share.
pub const SECRET: &str = "loopback-cluster-secret-for-tests-only";
/// How long a cluster may take to become ready, at a timeout scale of 1.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 60;

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Brokers have the ids 1 to this.
    pub brokers: u32,
    /// The founders.
    pub voters: Vec<u32>,
    /// Whether a discovery service runs. Without one, brokers are told the voters by `VOTERS`.
    pub discovery: bool,
    /// Whether brokers are given the list of their peers.
    pub static_peers: bool,
    /// Whether links between brokers lead through proxies.
    pub proxies: bool,
    /// Size of each broker's volume, if it is to be a file system of its own.
    pub volume_mib: Option<u64>,
    /// Environment of every broker, besides what the harness sets itself.
    pub environment: Vec<(String, String)>,
}

impl Default for Settings {
    /// Three brokers that find each other by discovery alone, as in the old system's three terminals.
    fn default() -> Self {
        Self {
            brokers: 3,
            voters: vec![1, 2, 3],
            discovery: true,
            static_peers: false,
            proxies: false,
            volume_mib: None,
            environment: Vec::new(),
        }
    }
}

impl Settings {
    /// Three brokers with proxies on every link between them.
    pub fn with_proxies() -> Self {
        Self { proxies: true, static_peers: true, ..Self::default() }
    }
}

/// The addresses and files of one broker; they stay the same over restarts.
#[derive(Clone, Debug)]
pub struct Place {
    /// The broker's id.
    pub id: u32,
    /// Its client listener.
    pub http: SocketAddr,
    /// Its peer listener.
    pub peer: SocketAddr,
    /// What it tells others of its client listener.
    pub api_base: String,
    /// What it tells others of its peer listener.
    pub peer_base: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

#[derive(Debug)]
struct Broker {
    place: Place,
    process: Option<Process>,
    volume: Option<Volume>,
    environment: Vec<(String, String)>,
    log_from: u64,
}

/// The running cluster; everything it started ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    brokers: Mutex<BTreeMap<u32, Broker>>,
    discovery: Mutex<Option<Process>>,
    discovery_at: SocketAddr,
    proxies: Option<Proxies>,
    watchdog: Arc<Watchdog>,
    dir: TempDir,
}

impl Cluster {
    /// Starts all processes and returns at once.
    ///
    /// # Panics
    /// When a process can't be started.
    pub fn start(settings: Settings) -> Self {
        let dir = TempDir::with_prefix("pubsub-cluster-").expect("a temporary directory");
        let watchdog = Watchdog::start(dir.path()).expect("the watchdog starts");
        let cluster = Self {
            proxies: settings.proxies.then(Proxies::new),
            discovery_at: ports::free(),
            brokers: Mutex::default(),
            discovery: Mutex::default(),
            settings,
            watchdog,
            dir,
        };
        for id in 1..=cluster.settings.brokers {
            cluster.add_place(id);
        }
        if cluster.settings.discovery {
            cluster.start_discovery();
        }
        for id in cluster.ids() {
            cluster.start_broker(id);
        }
        cluster
    }

    /// Starts all processes and waits until every broker is ready.
    pub async fn ready(settings: Settings) -> Self {
        let cluster = Self::start(settings);
        cluster.wait_ready().await;
        cluster
    }

    fn add_place(&self, id: u32) {
        let (http, peer) = (ports::free(), ports::free());
        let (mut api_base, mut peer_base) = (format!("http://{http}"), format!("http://{peer}"));
        if let Some(proxies) = &self.proxies {
            let (api_proxy, peer_proxy) = (ports::free(), ports::free());
            proxies.add(id, api_proxy, http).expect("a free port");
            proxies.add(id, peer_proxy, peer).expect("a free port");
            (api_base, peer_base) = (format!("http://{api_proxy}"), format!("http://{peer_proxy}"));
        }
        let data = self.dir.path().join(format!("data{id}"));
        let log = self.dir.path().join(format!("broker{id}.log"));
        let place = Place { id, http, peer, api_base, peer_base, data, log };
        let mounted = self.settings.volume_mib.map(|mib| Volume::mount(&place.data, mib));
        let volume = mounted.transpose().expect("a volume can be mounted, as was tried before");
        let broker = Broker { place, process: None, volume, environment: Vec::new(), log_from: 0 };
        self.lock().insert(id, broker);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Broker>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ids of all brokers, running or not.
    pub fn ids(&self) -> Vec<u32> {
        self.lock().keys().copied().collect()
    }

    /// Returns the ids of all brokers but one.
    pub fn others(&self, id: u32) -> Vec<u32> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// Returns where a broker is.
    ///
    /// # Panics
    /// When there is none of that id.
    pub fn place(&self, id: u32) -> Place {
        self.lock()[&id].place.clone()
    }

    /// Returns the base address of a broker's client listener, past any proxy.
    pub fn url(&self, id: u32) -> String {
        format!("http://{}", self.place(id).http)
    }

    /// Returns all of them in order of ids.
    pub fn urls(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.url(id)).collect()
    }

    /// Returns the base address of the discovery service.
    pub fn discovery_url(&self) -> String {
        format!("http://{}", self.discovery_at)
    }

    /// Returns the directory that holds everything of this cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the proxies.
    ///
    /// # Panics
    /// When the settings asked for none.
    pub fn proxies(&self) -> &Proxies {
        self.proxies.as_ref().expect("a cluster with proxies")
    }

    /// Starts the discovery service, with nothing remembered.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_discovery(&self) {
        let mut variables = environment(&[
            ("DISCOVERY_HOST", "127.0.0.1"),
            ("DISCOVERY_PORT", &self.discovery_at.port().to_string()),
            ("PUBSUB_CLUSTER_SECRET", SECRET),
        ]);
        if !self.settings.voters.is_empty() {
            variables.push(("GENESIS_VOTERS".to_owned(), list(&self.settings.voters)));
        }
        let log = self.dir.path().join("discovery.log");
        let process =
            Process::start("discovery", &binary("pubsub-discovery"), &variables, &log, &self.watchdog);
        *self.discovery.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(process.expect("discovery starts"));
    }

    /// Returns whether the discovery service was started and not killed.
    pub fn discovery_runs(&self) -> bool {
        self.discovery.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Kills the discovery service.
    pub fn kill_discovery(&self) {
        *self.discovery.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the environment that the harness gives a broker at `place`.
    pub fn broker_environment(&self, place: &Place) -> Vec<(String, String)> {
        let discovery = if self.settings.discovery { self.discovery_url() } else { String::new() };
        let mut variables = environment(&[
            ("BROKER_ID", &place.id.to_string()),
            ("BROKER_HTTP_HOST", "127.0.0.1"),
            ("BROKER_HTTP_PORT", &place.http.port().to_string()),
            ("BROKER_API_BASE", &place.api_base),
            ("ELECTION_HOST", "127.0.0.1"),
            ("ELECTION_PORT", &place.peer.port().to_string()),
            ("PEER_BASE", &place.peer_base),
            ("DISCOVERY_URL", &discovery),
            ("PUBSUB_DATA_DIR", &place.data.display().to_string()),
            ("PUBSUB_CLUSTER_SECRET", SECRET),
            ("PUBSUB_TIMEOUT_SCALE", &await_condition::timeout_scale().to_string()),
            ("PUBSUB_LOG", &std::env::var("PUBSUB_TEST_LOG").unwrap_or_else(|_| "info".to_owned())),
        ]);
        if self.settings.static_peers {
            let places: Vec<Place> = self.lock().values().map(|broker| broker.place.clone()).collect();
            let peers: Vec<_> = places.iter().map(|peer| format!("{}={}", peer.id, peer.peer_base)).collect();
            variables.push(("BROKER_PEERS".to_owned(), peers.join(",")));
        }
        if !self.settings.discovery && !self.settings.voters.is_empty() {
            variables.push(("VOTERS".to_owned(), list(&self.settings.voters)));
        }
        variables.extend(self.settings.environment.iter().cloned());
        variables
    }

    /// Sets or replaces variables of one broker's environment, from its next start on.
    pub fn set_environment(&self, id: u32, variables: &[(&str, &str)]) {
        if let Some(broker) = self.lock().get_mut(&id) {
            broker.environment = environment(variables);
        }
    }

    /// Starts a broker that does not run.
    ///
    /// # Panics
    /// When it runs, or can't be started.
    pub fn start_broker(&self, id: u32) {
        let place = self.place(id);
        let mut variables = self.broker_environment(&place);
        let mut brokers = self.lock();
        let broker = brokers.get_mut(&id).expect("a broker of this cluster");
        assert!(broker.process.is_none(), "broker {id} runs already");
        variables.extend(broker.environment.iter().cloned());
        let process = self.start_process(&place, &variables);
        if let Some(proxies) = &self.proxies {
            proxies.set_process(id, process.pid());
        }
        broker.process = Some(process);
    }

    /// Starts a broker's program at any place, outside of the cluster's own list.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_process(&self, place: &Place, variables: &[(String, String)]) -> Process {
        let name = format!("broker {}", place.id);
        let program = binary("pubsub-broker");
        Process::start(&name, &program, variables, &place.log, &self.watchdog).expect("the broker starts")
    }

    /// Adds a broker to the cluster and starts it.
    pub fn add_broker(&self, id: u32) {
        self.add_place(id);
        self.start_broker(id);
    }

    /// Returns the process id of a broker that runs.
    pub fn pid(&self, id: u32) -> Option<u32> {
        self.lock().get(&id).and_then(|broker| broker.process.as_ref()).map(Process::pid)
    }

    /// Returns whether a broker's process runs.
    pub fn is_running(&self, id: u32) -> bool {
        self.lock().get(&id).is_some_and(|broker| broker.process.is_some())
    }

    /// Deletes the data of a broker that does not run.
    ///
    /// # Panics
    /// When it runs.
    pub fn wipe(&self, id: u32) {
        assert!(!self.is_running(id), "a running broker is not wiped");
        std::fs::remove_dir_all(self.place(id).data).expect("the data directory can be removed");
    }

    /// Returns what a broker has logged in this test, its last lines at most.
    pub fn log(&self, id: u32) -> String {
        let (log, from) = {
            let brokers = self.lock();
            (brokers[&id].place.log.clone(), brokers[&id].log_from)
        };
        log_tail(&log, from, 2_000)
    }

    /// Returns everything that a broker has logged since the cluster was started.
    pub fn whole_log(&self, id: u32) -> String {
        log_tail(&self.place(id).log, 0, usize::MAX)
    }

    /// Makes [`Cluster::log`] and the report of a failure start here.
    pub fn mark_logs(&self) {
        for broker in self.lock().values_mut() {
            broker.log_from = std::fs::metadata(&broker.place.log).map_or(0, |metadata| metadata.len());
        }
    }

    /// Prints the ends of all logs.
    pub fn print_logs(&self) {
        for broker in self.lock().values() {
            let running = if broker.process.is_some() { "runs" } else { "does not run" };
            let tail = log_tail(&broker.place.log, broker.log_from, LOG_LINES);
            eprintln!("---- broker {} {running}, end of its log:\n{tail}", broker.place.id);
        }
        if self.settings.discovery {
            let tail = log_tail(&self.dir.path().join("discovery.log"), 0, LOG_LINES);
            eprintln!("---- discovery, end of its log:\n{tail}");
        }
    }

    /// Waits until every running broker is ready.
    pub async fn wait_ready(&self) {
        for id in self.ids().into_iter().filter(|id| self.is_running(*id)) {
            self.wait_broker_ready(id).await;
        }
    }

    /// Waits until one broker is ready.
    pub async fn wait_broker_ready(&self, id: u32) {
        let (http, url) = (Http::new(), format!("{}/readyz", self.url(id)));
        eventually(&format!("broker {id} is ready"), READY_DEADLINE, async || {
            self.check_alive(id)?;
            let answer = http.get(&url).await?;
            if answer.status == 200 { Ok(()) } else { bail!("{answer}") }
        })
        .await;
    }

    /// Returns the controller and its epoch, once all running brokers agree on it.
    pub async fn controller(&self) -> (u32, u64) {
        let ids: Vec<u32> = self.ids().into_iter().filter(|id| self.is_running(*id)).collect();
        self.controller_among(&ids).await
    }

    /// Returns the controller and its epoch, once the given brokers agree on it and it is one of them.
    pub async fn controller_among(&self, ids: &[u32]) -> (u32, u64) {
        let http = Http::new();
        eventually(&format!("brokers {ids:?} agree on one controller"), READY_DEADLINE, async || {
            let mut said = Vec::new();
            for id in ids {
                said.push(leader_answer(&http, &self.url(*id)).await?);
            }
            let agreed = said.iter().all(|(leader, epoch, _)| (leader, epoch) == (&said[0].0, &said[0].1));
            let (leader, epoch, _) = said[0];
            match leader {
                Some(leader) if agreed && ids.contains(&leader) => Ok((leader, epoch)),
                _ => bail!("they say {said:?}"),
            }
        })
        .await
    }
}

impl Brokers for Cluster {
    fn ids(&self) -> Vec<u32> {
        Self::ids(self)
    }

    fn url(&self, id: u32) -> String {
        Self::url(self, id)
    }

    fn run_of(&self, id: u32) -> Option<u32> {
        self.pid(id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

/// Asks one broker who is controller: the leader, the epoch, and whether the broker says that it is that itself.
///
/// # Errors
/// When it doesn't answer as it should.
pub async fn leader_answer(http: &Http, url: &str) -> anyhow::Result<(Option<u32>, u64, bool)> {
    let url = format!("{url}/admin/leader");
    let answer = http.try_send("GET", &url, Default::default(), Duration::from_secs(2)).await?;
    if answer.status != 200 {
        bail!("{answer}");
    }
    let body = answer.json();
    let leader = body["leader_id"].as_u64().map(u32::try_from).transpose()?;
    let epoch =
        body["controller_epoch"].as_u64().with_context(|| format!("no controller_epoch in {answer}"))?;
    let this = body["this_broker_is_leader"].as_bool();
    Ok((leader, epoch, this.with_context(|| format!("no this_broker_is_leader in {answer}"))?))
}

/// Returns ids from a JSON list, sorted.
pub fn ids_of(list: &Value) -> Vec<u32> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut ids: Vec<u32> =
        items.iter().filter_map(Value::as_u64).filter_map(|id| id.try_into().ok()).collect();
    ids.sort_unstable();
    ids
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
