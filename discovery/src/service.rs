//! The task that owns the registry and one push task a broker.

use crate::metrics::Metrics;
use crate::push::Pusher;
use crate::registry::{Listed, RegisterError, Registered, Registry};
use pubsub_client::peer_auth::PeerSecret;
use pubsub_core::Mono;
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::INBOX_MAX;
use pubsub_core::wire::discovery::{DiscoveryEndpoint, DiscoveryMap};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

/// A handle onto the task; cloning is cheap.
#[derive(Clone)]
pub(crate) struct Service {
    inbox: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
}

/// What a registration is answered with.
pub(crate) type RegisterReply = Result<Arc<DiscoveryMap>, RegisterError>;

enum Request {
    Register { endpoint: Box<DiscoveryEndpoint>, reply: oneshot::Sender<RegisterReply> },
    List { reply: oneshot::Sender<(Arc<DiscoveryMap>, Vec<Listed>)> },
}

/// The task is gone: the process is about to end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the service is stopping")]
pub(crate) struct Stopping;

impl Service {
    /// Takes a broker's word and returns everything known.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the registration.
    pub(crate) async fn register(&self, endpoint: DiscoveryEndpoint) -> Result<RegisterReply, Stopping> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Register { endpoint: Box::new(endpoint), reply };
        self.inbox.send(request).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Returns everything known, and how long each broker has been silent.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub(crate) async fn list(&self) -> Result<(Arc<DiscoveryMap>, Vec<Listed>), Stopping> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Request::List { reply }).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// Starts the task, which ends when every handle is gone.
pub(crate) fn spawn(
    secret: Option<PeerSecret>,
    genesis_voters: Option<Vec<BrokerId>>,
) -> anyhow::Result<(Service, JoinHandle<()>)> {
    let metrics = Arc::new(Metrics::default());
    let pusher = Pusher::new(secret, Arc::clone(&metrics))?;
    let registry = Registry::new(Uuid::new_v4(), genesis_voters);
    let (inbox, requests) = mpsc::channel(INBOX_MAX);
    let task = Task {
        maps: watch::Sender::new(Arc::new(registry.map())),
        registry,
        pusher,
        metrics: Arc::clone(&metrics),
        told: BTreeMap::new(),
        pushes: JoinSet::new(),
        started: Instant::now(),
    };
    Ok((Service { inbox, metrics }, tokio::spawn(task.run(requests))))
}

struct Task {
    registry: Registry,
    maps: watch::Sender<Arc<DiscoveryMap>>,
    pusher: Pusher,
    metrics: Arc<Metrics>,
    told: BTreeMap<BrokerId, (String, AbortHandle)>,
    pushes: JoinSet<()>,
    started: Instant,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            // Replies whose asker has gone away are of no use to anybody.
            match request {
                Request::Register { endpoint, reply } => {
                    let _ = reply.send(self.register(*endpoint));
                }
                Request::List { reply } => {
                    let _ = reply.send((Arc::clone(&self.maps.borrow()), self.registry.list(self.now())));
                }
            }
        }
    }

    fn now(&self) -> Mono {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn register(&mut self, endpoint: DiscoveryEndpoint) -> RegisterReply {
        let (broker, peer_url) = (endpoint.broker_id, endpoint.peer_url());
        let api_base = endpoint.api_base.clone();
        let outcome = self.registry.register(self.now(), endpoint)?;
        self.metrics.registered(&outcome);
        match &outcome {
            Registered::Added => tracing::info!(%broker, api_base, peer_url, "broker registered"),
            Registered::Updated => tracing::info!(%broker, api_base, peer_url, "broker changed"),
            Registered::TakenOver { previous } => {
                tracing::warn!(%broker, api_base, before = previous.api_base, "broker id was taken over by another volume");
            }
            Registered::Same => {}
            Registered::Outdated => {
                tracing::info!(%broker, api_base, "late word of an older process was ignored")
            }
        }
        if outcome.changed() {
            self.maps.send_replace(Arc::new(self.registry.map()));
            self.keep_told(broker, peer_url);
        }
        Ok(Arc::clone(&self.maps.borrow()))
    }

    fn keep_told(&mut self, broker: BrokerId, peer_url: String) {
        while self.pushes.try_join_next().is_some() {}
        if let Some((known, push)) = self.told.get(&broker) {
            if *known == peer_url {
                return;
            }
            push.abort();
        }
        let push = self.pusher.clone().keep_told(broker, peer_url.clone(), self.maps.subscribe());
        self.told.insert(broker, (peer_url, self.pushes.spawn(push)));
    }
}
