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
mod server;
mod shutdown;
pub mod store;

use anyhow::Context;
use clap::Parser;
use config::{Args, Config};
use control::{ControlParts, ToControl};
use endpoints::Endpoints;
use handle::{Broker, Inner};
use pubsub_core::control::{Control, ControlConfig, Input};
use pubsub_core::ids::RunId;
use pubsub_core::partition::{Replicas, ReplicasConfig};
use pubsub_core::wire::discovery::DiscoveryEndpoint;
use replicas::ReplicasParts;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Milliseconds since 1970 by the wall clock: for records' timestamps only.
pub(crate) fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs the program: parses arguments, serves until told to stop, and hands over before it ends. Blocks.
///
/// # Errors
/// Whatever keeps the broker from starting or going on, as a sentence for people.
pub fn cli_main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let args = Args::parse_from(args);
    let log = tracing_subscriber::EnvFilter::try_new(&args.log).context("PUBSUB_LOG")?;
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
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

/// Opens the volume, binds both listeners and starts all tasks.
///
/// # Errors
/// A volume that can't or must not be opened, a port in use, a wrong key: each as a sentence for people.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let client = bind(config.http_addr, "BROKER_HTTP_PORT").await?;
    let peer = bind(config.peer_addr, "ELECTION_PORT").await?;
    let (client_addr, peer_addr) = (client.local_addr()?, peer.local_addr()?);
    let api_base = config.api_base.clone().unwrap_or_else(|| format!("http://{client_addr}"));
    let peer_base = config.peer_base.clone().unwrap_or_else(|| format!("http://{peer_addr}"));
    if config.secret.is_none() {
        tracing::warn!(
            "no PUBSUB_CLUSTER_SECRET: peers are not authenticated, and only loopback is served to them"
        );
    }
    let opened = store::open(config.store_config()).context("open the volume")?;
    let run_id = RunId(uuid::Uuid::new_v4());
    let (fatal, stopping) = (CancellationToken::new(), CancellationToken::new());
    let (started, metrics) = (Instant::now(), Arc::new(metrics::Metrics::new()));
    let endpoints = Endpoints::new(config.peers.clone());
    let secret = config.secret.clone().map(Arc::new);
    let peers = peer::PeerClient::new(secret.clone());
    let (me, scale) = (config.broker_id, config.timeout_scale);
    let machine_config = ControlConfig {
        run_id,
        api_base: api_base.clone(),
        peer_base: peer_base.clone(),
        zone: config.zone.clone(),
        genesis: config.voters.clone(),
        timeout_scale: scale,
        seed: rand::random(),
        weakened: vec![],
    };
    let registration = announcement(&opened.hard, run_id, api_base, &peer_base, peer_addr);
    let (control, control_handle) = control::task(ControlParts {
        machine: Control::new(0, opened.hard.clone(), machine_config),
        meta: opened.meta,
        hard: opened.hard,
        endpoints: endpoints.clone(),
        peers: peer::PeerClient::new(secret.clone()),
        fatal: fatal.clone(),
        started,
        timeout_scale: scale,
    });
    let configured = config.peers.keys().copied().collect();
    control_handle
        .inbox
        .send(ToControl::Input(Input::Peers(configured)))
        .await
        .context("start the control task")?;
    let replicas_config = ReplicasConfig { me, run_id, timeout_scale: scale, weakened: vec![] };
    let (replicas, replicas_handle) = replicas::task(ReplicasParts {
        machine: Replicas::new(0, replicas_config, opened.replicas),
        store: opened.store.clone(),
        images: control_handle.images.clone(),
        control: control_handle.inbox.clone(),
        cluster: control_handle.cluster.clone(),
        endpoints: endpoints.clone(),
        peers: peers.clone(),
        metrics: metrics.clone(),
        me,
        started,
        timeout_scale: scale,
    });
    let (groups, groups_handle) = groups::task(
        me,
        control_handle.clone(),
        replicas_handle.clone(),
        opened.store.clone(),
        endpoints.clone(),
        peers.clone(),
    );
    let discovery = discovery::DiscoveryHandle::new(endpoints.clone(), control_handle.inbox.clone());
    let broker = Broker {
        inner: Arc::new(Inner {
            id: me,
            control: control_handle.clone(),
            replicas: replicas_handle.clone(),
            groups: groups_handle.clone(),
            store: opened.store.clone(),
            endpoints,
            metrics,
            stopping: stopping.clone(),
            started,
        }),
    };
    let mut tasks = shutdown::Tasks::new(fatal, stopping, opened.store);
    let served = election_port::Peers {
        me,
        secret,
        control: control_handle,
        replicas: replicas_handle,
        groups: groups_handle,
        discovery: discovery.clone(),
    };
    tasks.control_thread(control, peer, election_port::router(served))?;
    tasks.spawn("replicas", |cancel| replicas.run(cancel));
    tasks.spawn("groups", |cancel| groups.run(cancel));
    tasks.spawn("topic names", |cancel| server::name_topics(broker.clone(), cancel));
    tasks.spawn("space", |cancel| server::watch_space(broker.clone(), cancel));
    if let Some(url) = config.discovery_url.clone() {
        let register = move |cancel| async move {
            discovery::register(discovery, peers, url, registration, cancel).await;
            Ok(())
        };
        tasks.spawn("discovery", register);
    }
    let http_config =
        http::HttpConfig { cors_origins: config.cors_origins.clone(), ..http::HttpConfig::default() };
    let router = http::router(broker.clone(), http_config);
    tasks.client_server(client, router);
    tracing::info!(broker = %me, client = %client_addr, peer = %peer_addr, "serving");
    Ok(Running { broker, client_addr, peer_addr, tasks })
}

fn announcement(
    hard: &pubsub_core::control::Hard,
    run_id: RunId,
    api_base: String,
    peer_base: &str,
    peer_addr: SocketAddr,
) -> DiscoveryEndpoint {
    DiscoveryEndpoint {
        broker_id: hard.broker_id,
        api_base,
        election_host: peer_addr.ip().to_string(),
        election_port: peer_addr.port(),
        peer_base: Some(peer_base.to_owned()),
        storage_id: Some(hard.storage_id),
        run_id: Some(run_id),
        boot: Some(hard.boot),
    }
}
