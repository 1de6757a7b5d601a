//! The broker: SQLite storage, replication, the client API, and the tasks that own the core's machines.

pub mod config;
mod control;
mod discovery;
mod election_port;
mod endpoints;
mod groups;
pub mod handle;
pub mod http;
mod metrics;
mod peer;
mod replicas;
mod retention;
mod server;
mod shutdown;
pub mod store;

use anyhow::Context;
use clap::Parser;
use config::{Args, Config};
use control::{ControlHandle, ControlParts, ControlTask, ToControl};
use endpoints::Endpoints;
use handle::{Broker, Inner};
use peer::PeerClient;
use pubsub_client::peer_auth::PeerSecret;
use pubsub_core::control::{Control, ControlConfig, Hard, Input, VERSIONS};
use pubsub_core::ids::{BrokerId, RunId};
use pubsub_core::partition::{Replicas, ReplicasConfig, StoredReplica};
use pubsub_core::wire::discovery::DiscoveryEndpoint;
use replicas::{ReplicasHandle, ReplicasParts, ReplicasTask};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use store::{MetaStore, Store};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Makes this process's wall clock wrong by so many ms, to test what a wrong clock does. Not for use; it is warned of.
const WALL_OFFSET_VARIABLE: &str = "PUBSUB_TEST_WALL_OFFSET_MS";

static WALL_OFFSET_MS: LazyLock<i64> = LazyLock::new(|| {
    let offset = std::env::var(WALL_OFFSET_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if offset != 0 {
        tracing::warn!(
            offset_ms = offset,
            "{WALL_OFFSET_VARIABLE} makes the clock wrong: records get wrong timestamps"
        );
    }
    offset
});

/// Milliseconds since 1970 by the wall clock: for records' timestamps only.
pub(crate) fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(*WALL_OFFSET_MS)
}

/// Runs the program: parses arguments, serves until told to stop, and hands over before it ends. Blocks.
///
/// # Errors
/// Whatever keeps the broker from starting or going on, as a sentence for people.
pub fn cli_main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let args = Args::parse_from(args);
    let log = tracing_subscriber::EnvFilter::try_new(&args.log).context("PUBSUB_LOG")?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).with_ansi(colours).init();
    let stop_on_stdin_eof = args.stop_on_stdin_eof;
    let config = args.into_config()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("pubsub-broker").build()?;
    runtime.block_on(async {
        let running = start(config).await?;
        let signal = shutdown::signal(stop_on_stdin_eof);
        let ended = tokio::select! {
            reason = signal => {
                tracing::info!(reason, "stopping");
                Ok(())
            }
            error = running.failed() => Err(error),
        };
        running.stop().await;
        ended
    })
}

/// A broker with its listeners and tasks.
pub struct Running {
    /// The handle that the HTTP handlers use.
    pub broker: Broker,
    /// Where the client listener is bound.
    pub client_addr: SocketAddr,
    /// Where the peer listener is bound.
    pub peer_addr: SocketAddr,
    tasks: shutdown::Tasks,
}

impl Running {
    /// Waits until something ends that must not end, and says what.
    pub async fn failed(&self) -> anyhow::Error {
        self.tasks.failed().await
    }

    /// Hands over leadership, stops accepting, drains and closes. Takes at most about six seconds.
    pub async fn stop(self) {
        self.tasks.stop(&self.broker).await;
    }
}

async fn bind(addr: (std::net::IpAddr, u16), name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!(
            "{name}: cannot listen on {}:{} (is another program using the port? choose another one)",
            addr.0, addr.1
        )
    })
}

/// What every task of one broker shares.
struct Shared {
    me: BrokerId,
    run_id: RunId,
    timeout_scale: u32,
    started: Instant,
    endpoints: Endpoints,
    secret: Option<Arc<PeerSecret>>,
    peers: PeerClient,
    metrics: Arc<metrics::Metrics>,
    fatal: CancellationToken,
}

/// Both listeners, and the URLs under which others reach them.
struct Listeners {
    client: TcpListener,
    client_addr: SocketAddr,
    api_base: String,
    peer: TcpListener,
    peer_addr: SocketAddr,
    peer_base: String,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let client = bind(config.http_addr, "BROKER_HTTP_PORT").await?;
        let peer = bind(config.peer_addr, "ELECTION_PORT").await?;
        let (client_addr, peer_addr) = (client.local_addr()?, peer.local_addr()?);
        let api_base = config.api_base.clone().unwrap_or_else(|| format!("http://{client_addr}"));
        let peer_base = config.peer_base.clone().unwrap_or_else(|| format!("http://{peer_addr}"));
        Ok(Self { client, client_addr, api_base, peer, peer_addr, peer_base })
    }

    /// Returns what discovery is told of this process.
    fn announcement(&self, hard: &Hard, run_id: RunId) -> DiscoveryEndpoint {
        DiscoveryEndpoint {
            broker_id: hard.broker_id,
            api_base: self.api_base.clone(),
            election_host: self.peer_addr.ip().to_string(),
            election_port: self.peer_addr.port(),
            peer_base: Some(self.peer_base.clone()),
            storage_id: Some(hard.storage_id),
            run_id: Some(run_id),
            boot: Some(hard.boot),
        }
    }
}

impl Shared {
    fn new(config: &Config) -> Self {
        let secret = config.secret.clone().map(Arc::new);
        Self {
            me: config.broker_id,
            run_id: RunId(uuid::Uuid::new_v4()),
            timeout_scale: config.timeout_scale,
            started: Instant::now(),
            endpoints: Endpoints::new(config.peers.clone()),
            peers: PeerClient::new(secret.clone()),
            secret,
            metrics: Arc::new(metrics::Metrics::new()),
            fatal: CancellationToken::new(),
        }
    }

    async fn control(
        &self,
        config: &Config,
        listeners: &Listeners,
        meta: MetaStore,
        hard: Hard,
    ) -> anyhow::Result<(ControlTask, ControlHandle)> {
        let machine = ControlConfig {
            run_id: self.run_id,
            api_base: listeners.api_base.clone(),
            peer_base: listeners.peer_base.clone(),
            zone: config.zone.clone(),
            versions: VERSIONS,
            sealed: config.storage_key.is_some(),
            genesis: config.voters.clone(),
            preempt: config.preempt,
            timeout_scale: self.timeout_scale,
            seed: rand::random(),
            weakened: vec![],
        };
        let (task, handle) = control::task(ControlParts {
            machine: Control::new(0, hard.clone(), machine),
            meta,
            hard,
            endpoints: self.endpoints.clone(),
            // Connections belong to the runtime that made them, and the control thread has its own.
            peers: PeerClient::new(self.secret.clone()),
            fatal: self.fatal.clone(),
            started: self.started,
            timeout_scale: self.timeout_scale,
        });
        let configured = config.peers.keys().copied().collect();
        handle
            .inbox
            .send(ToControl::Input(Input::Peers(configured)))
            .await
            .context("start the control task")?;
        Ok((task, handle))
    }

    fn replicas(
        &self,
        control: &ControlHandle,
        store: &Store,
        stored: Vec<StoredReplica>,
    ) -> (ReplicasTask, ReplicasHandle) {
        let config = ReplicasConfig {
            me: self.me,
            run_id: self.run_id,
            timeout_scale: self.timeout_scale,
            weakened: vec![],
        };
        replicas::task(ReplicasParts {
            machine: Replicas::new(0, config, stored),
            store: store.clone(),
            images: control.images.clone(),
            control: control.inbox.clone(),
            cluster: control.cluster.clone(),
            endpoints: self.endpoints.clone(),
            peers: self.peers.clone(),
            metrics: self.metrics.clone(),
            me: self.me,
            started: self.started,
            timeout_scale: self.timeout_scale,
        })
    }
}

/// Opens the volume, binds both listeners and starts all tasks.
///
/// # Errors
/// A volume that can't or must not be opened, a port in use, a wrong key: each as a sentence for people.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let listeners = Listeners::bind(&config).await?;
    if config.secret.is_none() {
        tracing::warn!(
            "no PUBSUB_CLUSTER_SECRET: peers are not authenticated, and only loopback is served to them"
        );
    }
    let opened = store::open(config.store_config()).context("open the volume")?;
    let shared = Shared::new(&config);
    if let Some(image) = &opened.hard.accepted {
        shared.endpoints.remember(image);
    }
    let announcement = listeners.announcement(&opened.hard, shared.run_id);
    let (control_task, control) = shared.control(&config, &listeners, opened.meta, opened.hard).await?;
    let (replicas_task, replicas) = shared.replicas(&control, &opened.store, opened.replicas);
    let (me, endpoints, peers) = (shared.me, shared.endpoints.clone(), shared.peers.clone());
    let (groups_task, groups) =
        groups::task(me, control.clone(), replicas.clone(), opened.store.clone(), endpoints, peers);
    let discovery = discovery::DiscoveryHandle::new(shared.endpoints.clone(), control.inbox.clone());
    let stopping = CancellationToken::new();
    let broker = Broker {
        inner: Arc::new(Inner {
            id: me,
            control: control.clone(),
            replicas: replicas.clone(),
            groups: groups.clone(),
            store: opened.store.clone(),
            events: opened.events,
            endpoints: shared.endpoints.clone(),
            metrics: shared.metrics.clone(),
            stopping: stopping.clone(),
            started: shared.started,
        }),
    };
    let mut tasks = shutdown::Tasks::new(shared.fatal.clone(), stopping, opened.store);
    let secret = shared.secret.clone();
    let served = election_port::Peers { me, secret, control, replicas, groups, discovery: discovery.clone() };
    tasks.control_thread(control_task, listeners.peer, election_port::router(served))?;
    tasks.spawn("replicas", |cancel| replicas_task.run(cancel));
    tasks.spawn("groups", |cancel| groups_task.run(cancel));
    tasks.spawn("topic names", |cancel| server::name_topics(broker.clone(), cancel));
    tasks.spawn("retention", |cancel| retention::run(broker.clone(), cancel));
    tasks.spawn("space", |cancel| server::watch_space(broker.clone(), cancel));
    if let Some(url) = config.discovery_url {
        let register = |cancel| discovery::register(discovery, shared.peers, url, announcement, cancel);
        tasks.spawn("discovery", register);
    }
    let http = http::HttpConfig { cors_origins: config.cors_origins };
    tasks.client_server(listeners.client, http::router(broker.clone(), http));
    let (client_addr, peer_addr) = (listeners.client_addr, listeners.peer_addr);
    tracing::info!(broker = %me, client = %client_addr, peer = %peer_addr, "serving");
    Ok(Running { broker, client_addr, peer_addr, tasks })
}
