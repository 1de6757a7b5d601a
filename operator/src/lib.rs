//! The operator: it turns `Topic` resources of Kubernetes into topics of the brokers, and tells how they are.
//!
//! [`controller`] decides who is looked at when, [`mod@reconcile`] looks and acts, and what there is to do and to say is
//! decided by two pure functions, [`plan`] and [`status`]. Nothing flows back: the brokers never change an object's spec.

pub mod amount;
pub mod brokers;
pub mod config;
pub mod controller;
pub mod crd;
pub mod feed;
#[cfg(test)]
mod fixtures;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod owner;
pub mod plan;
pub mod queue;
pub mod reconcile;
mod release;
mod run;
pub mod status;

use anyhow::Context;
use clap::Parser;
use config::{Arguments, Command, Config, Place};
use std::ffi::OsString;
use std::io::Write;
use tokio_util::sync::CancellationToken;

/// Runs the program until it is done, or until SIGTERM or SIGINT. `args` begins with the program's name.
///
/// It blocks, and builds a runtime of its own. Bad arguments and `--help` end the process, as usual for a command line.
///
/// # Errors
/// When the configuration can't be used, the API server can't be found, or the listener can't be bound.
pub fn cli_main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    match Arguments::parse_from(args).command {
        Command::Crd => Ok(std::io::stdout().lock().write_all(crd::yaml()?.as_bytes())?),
        Command::Release(arguments) => {
            start_log("text");
            runtime()?.block_on(release::release(Place::try_from(arguments.place)?))
        }
        Command::Run(arguments) => {
            start_log(&arguments.log_format);
            let stop_on_stdin_eof = arguments.stop_on_stdin_eof;
            let config = Config::try_from(*arguments)?;
            runtime()?.block_on(async move {
                let stop = CancellationToken::new();
                if stop_on_stdin_eof {
                    cancel_on_stdin_eof(stop.clone())?;
                }
                cancel_on_signal(stop.clone())?;
                run::run(config, stop).await
            })
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("start the async runtime")
}

fn start_log(format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PUBSUB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A process that embeds the operator may have set up its own log already; that one is used then.
    let _ = if format == "json" {
        log.json().flatten_event(true).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        log.with_target(false).with_ansi(colours).try_init()
    };
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

/// Finds the API server: by the kubeconfig, or as a pod does.
async fn kubernetes() -> anyhow::Result<kube::Client> {
    // Fails only if a provider was installed before, and then that one serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kube::Client::try_default()
        .await
        .context("find the API server (KUBECONFIG, or the pod's service account)")
}
