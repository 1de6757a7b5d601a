//! Telling brokers what changed: one task a broker, so that a broker that hangs holds up nobody else.

use crate::metrics::Metrics;
use anyhow::Context;
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret, UNSIGNED};
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::discovery::DiscoveryMap;
use rand::RngExt;
use reqwest::Url;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Path of a push on a broker's peer listener.
pub const UPDATE_PATH: &str = "/internal/discovery/update";

/// One attempt at one broker.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts at one broker for one change; after them it learns the map when it registers next.
const ATTEMPTS_MAX: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What all pushes share.
#[derive(Clone)]
pub struct Pusher {
    client: reqwest::Client,
    secret: Option<PeerSecret>,
    metrics: Arc<Metrics>,
}

impl Pusher {
    /// Makes a pusher; with a secret, pushes are signed.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(secret: Option<PeerSecret>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        // Fails when another part of the process has chosen a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Brokers are reached directly: a proxy of the environment is meant for the outside world. The list of
        // authorities is given (empty), because looking for the system's fails in images that have none.
        let client = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .context("build the HTTP client")?;
        Ok(Self { client, secret, metrics })
    }

    /// Sends the present map and then every later one to the broker at `peer_url`. Maps that appear while one is under way
    /// are skipped but for the newest. Ends when `maps` is closed.
    ///
    /// # Cancel safety
    /// May be dropped at any time; a request under way may or may not have arrived.
    pub async fn keep_told(
        self,
        broker: BrokerId,
        peer_url: String,
        mut maps: watch::Receiver<Arc<DiscoveryMap>>,
    ) {
        let url = match Url::parse(&format!("{peer_url}{UPDATE_PATH}")) {
            Ok(url) => url,
            Err(error) => return tracing::warn!(%broker, peer_url, %error, "peer address could not be used"),
        };
        maps.mark_changed();
        while maps.changed().await.is_ok() {
            self.deliver(broker, &url, &mut maps).await;
        }
    }

    async fn deliver(&self, broker: BrokerId, url: &Url, maps: &mut watch::Receiver<Arc<DiscoveryMap>>) {
        let mut backoff = BACKOFF_MIN;
        for attempt in 1..=ATTEMPTS_MAX {
            let map = Arc::clone(&maps.borrow_and_update());
            match self.attempt(url, &map).await {
                Ok(()) => return self.metrics.pushed(),
                Err(error) if attempt == ATTEMPTS_MAX => {
                    self.metrics.push_failed();
                    tracing::warn!(%broker, %url, error = format!("{error:#}"), "broker was not told");
                }
                Err(error) => {
                    tracing::debug!(%broker, %url, attempt, error = format!("{error:#}"), "push failed");
                    let wait = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
                    tokio::time::sleep(wait).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn attempt(&self, url: &Url, map: &DiscoveryMap) -> anyhow::Result<()> {
        let body = serde_json::to_vec(map).context("encode the map")?;
        let signature = self.secret.as_ref().map(|secret| secret.sign("POST", url.path(), &body));
        let request = self.client.post(url.clone()).header("content-type", "application/json");
        let request = request.header(PEER_AUTH_HEADER, signature.as_deref().unwrap_or(UNSIGNED));
        let response = request.body(body).send().await.context("send the map")?;
        let status = response.status();
        anyhow::ensure!(status.is_success(), "the broker answered {status}");
        Ok(())
    }
}
