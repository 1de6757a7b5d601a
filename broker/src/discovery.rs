//! This broker's side of discovery: it registers, again and again, and merges what it is told. Brokers run on without it.

use crate::control::ToControl;
use crate::endpoints::Endpoints;
use crate::peer::PeerClient;
use bytes::Bytes;
use pubsub_core::control::Input;
use pubsub_core::limits::DISCOVERY_BROKERS_MAX;
use pubsub_core::wire::discovery::{DiscoveryEndpoint, DiscoveryMap};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Takes what discovery says, whether asked for or pushed.
#[derive(Clone)]
pub(crate) struct DiscoveryHandle {
    endpoints: Endpoints,
    control: mpsc::Sender<ToControl>,
    instance: Arc<watch::Sender<Option<Uuid>>>,
    register: Arc<Notify>,
}

impl DiscoveryHandle {
    pub(crate) fn new(endpoints: Endpoints, control: mpsc::Sender<ToControl>) -> Self {
        Self {
            endpoints,
            control,
            instance: Arc::new(watch::channel(None).0),
            register: Arc::new(Notify::new()),
        }
    }

    /// Merges a map. One of an unknown discovery process makes this broker register again at once: that process may
    /// have started with an empty memory.
    pub(crate) async fn learn(&self, map: DiscoveryMap) {
        self.endpoints.learn_discovery(&map.brokers);
        let known = self.endpoints.discovered();
        // The control task ends only with the process.
        let _ = self.control.send(ToControl::Input(Input::Peers(known))).await;
        if let Some(founders) = map.genesis_voters.filter(|list| list.len() <= DISCOVERY_BROKERS_MAX) {
            // The control task ends only with the process.
            let _ = self.control.send(ToControl::Input(Input::Genesis(founders))).await;
        }
        if self.instance.send_replace(Some(map.instance)) != Some(map.instance) {
            self.register.notify_one();
        }
    }
}

/// Registers at `url` until cancelled: each ten seconds, sooner while nobody answers, at once when asked to.
///
/// # Errors
/// Never.
pub(crate) async fn register(
    handle: DiscoveryHandle,
    peers: PeerClient,
    url: String,
    me: DiscoveryEndpoint,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let body = Bytes::from(serde_json::to_vec(&me).expect("plain data"));
    let mut failures: u32 = 0;
    loop {
        let answer = peers.post(&url, "/register", body.clone(), Duration::from_secs(2)).await;
        let map = match answer {
            Ok(answer) if answer.status.is_success() => {
                serde_json::from_slice::<DiscoveryMap>(&answer.body).ok()
            }
            Ok(answer) => {
                tracing::warn!(status = %answer.status, url, "discovery refused the registration");
                None
            }
            Err(error) => {
                if failures == 0 {
                    tracing::info!(%error, url, "discovery is not there yet; trying again");
                }
                None
            }
        };
        failures = if map.is_some() { 0 } else { failures + 1 };
        if let Some(map) = map {
            handle.learn(map).await;
            // Asked by itself just now; the answer came from a process that knows this broker.
            tokio::select! { () = handle.register.notified() => {} () = std::future::ready(()) => {} }
        }
        let pause = if failures == 0 { 10_000 } else { 200 << failures.min(5) };
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = handle.register.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(pause).mul_f64(jitter)) => {}
        }
    }
}
