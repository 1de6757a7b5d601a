//! The operator's life: stand by, hold the Lease and act, and give it back.

use crate::brokers::Brokers;
use crate::config::Config;
use crate::controller::{Controller, Pulse};
use crate::feed;
use crate::http::{Probes, serve};
use crate::kubernetes;
use crate::lease::LeaseLock;
use crate::metrics::Metrics;
use crate::reconcile::Context;
use anyhow::Context as _;
use kube::runtime::events::{Recorder, Reporter};
use pubsub_client::Client;
use pubsub_client::retry::RetryPolicy;
use pubsub_client::transport::TransportConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// For how long a request to the brokers is tried again: the queue tries again after that, and has others to look after.
const BROKER_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for what a broker has, and for a connection to it: another one may know as well.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
const LOOK_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Events of the feed that wait for the loop.
const FEED_MAX: usize = 256;

/// Runs the operator until `stop`.
pub(crate) async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind((config.host.as_str(), config.port)).await.with_context(|| {
        format!("listen on {}:{} (OPERATOR_HOST, OPERATOR_PORT)", config.host, config.port)
    })?;
    let address = listener.local_addr().context("read the bound address")?;
    let (metrics, pulse) = (Arc::new(Metrics::default()), Arc::new(Pulse::default()));
    let probes = Probes::new(Arc::clone(&metrics), Arc::clone(&pulse));
    // Probes are answered until the very end: a pod that is ending is not a dead one.
    let served = CancellationToken::new();
    let server = tokio::spawn(serve(listener, probes, served.clone()));
    info!(%address, identity = %config.place.identity, brokers = ?config.brokers, "operator started");

    let config = Arc::new(config);
    let kube = kubernetes().await?;
    let client = Client::with_config(&config.brokers, transport(&config)).context("read PUBSUB_BROKERS")?;
    let looks = TransportConfig {
        answer_timeout: LOOK_TIMEOUT,
        connect_timeout: LOOK_CONNECT_TIMEOUT,
        ..transport(&config)
    };
    let looks = Client::with_config(&config.brokers, looks).context("read PUBSUB_BROKERS")?;
    let place = &config.place;
    let mut lease =
        LeaseLock::new(kube.clone(), &place.namespace, &place.lease, &place.identity, config.lease_duration);
    let reporter =
        Reporter { controller: "pubsub-operator".to_owned(), instance: Some(place.identity.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(kube.clone(), reporter),
        kube,
        brokers: Brokers::start(client.clone(), looks, served.clone()),
        metrics: Arc::clone(&metrics),
        config: Arc::clone(&config),
    });
    while !stop.is_cancelled() {
        tokio::select! {
            () = lease.acquire() => {}
            () = stop.cancelled() => break,
        }
        metrics.leading.set(1);
        act(&context, &pulse, &mut lease, &client, &stop).await;
        metrics.leading.set(0);
    }
    lease.release().await;
    served.cancel();
    server.await.context("the server task")??;
    info!("operator stopped");
    Ok(())
}

fn transport(config: &Config) -> TransportConfig {
    TransportConfig {
        retry: RetryPolicy::default().within(BROKER_DEADLINE),
        ca_pem: config.ca_pem.iter().cloned().collect(),
        ..TransportConfig::default()
    }
}

/// Acts for as long as the Lease is held. Everything that acts has ended when this returns.
async fn act(
    context: &Arc<Context>,
    pulse: &Arc<Pulse>,
    lease: &mut LeaseLock,
    client: &Client,
    stop: &CancellationToken,
) {
    let lost = CancellationToken::new();
    let (heard, feed) = mpsc::channel(FEED_MAX);
    let listener = feed::listen(client.clone(), Arc::clone(&context.metrics), heard);
    let listener = tokio::spawn(lost.clone().run_until_cancelled_owned(listener));
    let controller = Controller::new(Arc::clone(context), Arc::clone(pulse));
    let mut acting = std::pin::pin!(controller.run(feed, stop.clone(), lost.clone()));
    tokio::select! {
        () = &mut acting => {}
        why = lease.keep() => {
            warn!(why, "lease lost");
            lost.cancel();
            acting.await;
        }
    }
    lost.cancel();
    // It was told to end, and a listener that panicked has nothing to say either.
    let _ = listener.await;
    context.metrics.feeds_heard.set(0);
}
