//! Serving a listener with HTTP/1.1 and HTTP/2, and other small tasks of a running broker.

use crate::control::ToControl;
use crate::handle::Broker;
use anyhow::Context;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use pubsub_core::control::Input;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a stopping server waits for requests that are under way.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts until cancelled, then lets open requests finish, bounded.
///
/// # Errors
/// When the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1_024);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: connections that end make room.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers must not wait for more bytes; a socket that refuses the option is only slower.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!("some requests were still open at the end");
    }
    Ok(())
}

/// Keeps the names of topics in the records' file, for people who look into it.
///
/// # Errors
/// When the store has ended.
pub(crate) async fn name_topics(broker: Broker, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut images = broker.images();
    let mut named = BTreeSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = images.changed() => if changed.is_err() { return Ok(()) },
        }
        let Some(image) = images.borrow_and_update().clone() else { continue };
        let fresh = image.topics.iter().filter(|(id, _)| !named.contains(*id));
        let fresh: Vec<_> = fresh.map(|(id, topic)| (*id, topic.name.clone())).collect();
        if !fresh.is_empty() {
            named.extend(fresh.iter().map(|(id, _)| *id));
            broker.inner.store.name_topics(fresh).await.context("name topics")?;
        }
    }
}

/// After this time the control task is told of the volume again though nothing changed: a disk that was full between two
/// looks is known to the promises alone, which then want to hear that there is room.
const SPACE_TOLD_AGAIN: Duration = Duration::from_secs(10);

/// Tells the control machine whether the volume takes writes, so that leadership moves away before it is full.
///
/// # Errors
/// Never.
pub(crate) async fn watch_space(broker: Broker, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut healthy = true;
    let mut told = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        let now_healthy = !broker.inner.store.storage_full();
        if now_healthy != healthy {
            healthy = now_healthy;
            tracing::warn!(
                healthy,
                free_bytes = broker.inner.store.free_bytes(),
                "the volume's free space changed"
            );
            broker.inner.replicas.storage(healthy).await;
        } else if told.elapsed() < SPACE_TOLD_AGAIN {
            continue;
        }
        told = Instant::now();
        // The control task ends only with the process.
        let _ = broker.inner.control.inbox.send(ToControl::Input(Input::Storage { healthy })).await;
    }
}
