//! The discovery service: brokers register where they can be reached, and learn of each other.
//!
//! It holds no state on disk and no authority. A restarted, empty service is refilled by the brokers, which register again
//! every few seconds; brokers merge what they are told and never forget a peer because a map lacks it. Nothing that is
//! said here can change who votes, who leads or what is committed (invariant D1).

pub mod config;
pub mod http;
pub mod metrics;
pub mod push;
pub mod registry;
mod service;

use anyhow::Context;
use clap::Parser;
use config::{Arguments, Config};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long open requests may take once the service is told to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the program until SIGTERM, SIGINT or (if asked for) the end of standard input. `args` begins with the program's name.
///
/// It blocks, and builds a runtime of its own. Bad arguments and `--help` end the process, as usual for a command line.
///
/// # Errors
/// When the configuration can't be used, the address can't be bound, or the server fails.
pub fn cli_main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let arguments = Arguments::parse_from(args);
    start_log();
    let stop_on_stdin_eof = arguments.stop_on_stdin_eof;
    let config = Config::try_from(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async move {
        let stop = CancellationToken::new();
        if stop_on_stdin_eof {
            cancel_on_stdin_eof(stop.clone())?;
        }
        cancel_on_signal(stop.clone())?;
        let discovery = Discovery::start(config, stop).await?;
        discovery.stopped().await
    })
}

/// A running discovery service.
pub struct Discovery {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

impl Discovery {
    /// Binds the listener and starts to serve; the service ends soon after `stop` is cancelled.
    ///
    /// # Errors
    /// When the address can't be bound, or is reachable from outside while no secret is configured; nothing runs then.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done starts nothing.
    pub async fn start(config: Config, stop: CancellationToken) -> anyhow::Result<Self> {
        let listener = bind(&config).await?;
        let address = listener.local_addr().context("read the bound address")?;
        let (service, task) = service::spawn(config.secret.clone(), config.genesis_voters.clone())?;
        let router = http::router(http::State::new(service, config.secret, stop.clone()));
        let server = tokio::spawn(serve(listener, router, stop.clone(), task));
        tracing::info!(%address, "discovery started");
        Ok(Self { address, stop, server })
    }

    /// Returns the bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the service and waits for it.
    ///
    /// # Errors
    /// When the server failed before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.stopped().await
    }

    /// Waits until the service has ended.
    ///
    /// # Errors
    /// When it ended because it failed.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.server.await.context("the server task")?
    }
}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    let wanted = (config.host.as_str(), config.port);
    let addresses: Vec<_> = tokio::net::lookup_host(wanted)
        .await
        .with_context(|| format!("find the address of host {:?} (DISCOVERY_HOST)", config.host))?
        .collect();
    if config.secret.is_none() && !addresses.iter().all(|address| address.ip().is_loopback()) {
        anyhow::bail!(
            "host {} is reachable from other machines, and anyone could register brokers there: \
             set PUBSUB_CLUSTER_SECRET to the secret that your brokers use, or keep DISCOVERY_HOST on 127.0.0.1",
            config.host
        );
    }
    TcpListener::bind(addresses.as_slice()).await.map_err(|error| {
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let hint = if in_use {
            ": the port is in use, perhaps by another discovery service; stop that one or set DISCOVERY_PORT"
        } else {
            ""
        };
        anyhow::Error::new(error).context(format!("listen on {}:{}{hint}", config.host, config.port))
    })
}

async fn serve(
    listener: TcpListener,
    router: axum::Router,
    stop: CancellationToken,
    mut service: JoinHandle<()>,
) -> anyhow::Result<()> {
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    let result = tokio::select! {
        result = serving.into_future() => result.context("serve HTTP"),
        () = late => Ok(()),
        _ = &mut service => Err(anyhow::anyhow!("the task that keeps the registry ended")),
    };
    // The router is gone by now, and with it every sender to the service; pushes under way are only hints.
    service.abort();
    tracing::info!("discovery stopped");
    result
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PUBSUB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_target(false).with_ansi(colours);
    // A process that embeds the service may have set up its own log already; that one is used then.
    let _ = log.try_init();
}

fn cancel_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// A parent that dies closes our standard input, however it died; a thread of its own waits for that, because a read from a
/// terminal can't be interrupted and would hold up the end of the runtime.
fn cancel_on_stdin_eof(stop: CancellationToken) -> anyhow::Result<()> {
    let wait = move || {
        // Whether it ends or fails: there is no parent to serve any more.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.cancel();
    };
    std::thread::Builder::new().name("stdin-eof".to_owned()).spawn(wait).context("start the stdin thread")?;
    Ok(())
}
