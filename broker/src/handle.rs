//! The broker as its HTTP handlers see it: one cheap handle onto the tasks that own the state.

use crate::control::ControlHandle;
use crate::endpoints::Endpoints;
use crate::groups::GroupsHandle;
use crate::metrics::{Metrics, PartitionLabel};
use crate::replicas::{OnlyIf, ReplicasHandle};
use crate::store::{EventLog, Expired, Kept, Store, StoreError};
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Outcome, Refusal, Status};
use pubsub_core::group::{GroupError, GroupReply, GroupRequest};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::{Acks, AppendError, Appended, ReplicaView, Role};
use pubsub_core::record::Batch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where a broker can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Base URL of its client listener.
    pub api_base: String,
    /// Base URL of its peer listener.
    pub peer_base: String,
}

/// A handle onto a running broker; cloning is cheap.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: BrokerId,
    pub(crate) control: ControlHandle,
    pub(crate) replicas: ReplicasHandle,
    pub(crate) groups: GroupsHandle,
    pub(crate) store: Store,
    pub(crate) events: EventLog,
    pub(crate) endpoints: Endpoints,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: CancellationToken,
    pub(crate) started: Instant,
}

impl Broker {
    /// Returns this broker's id.
    pub fn id(&self) -> BrokerId {
        self.inner.id
    }

    /// Returns the newest committed image that this broker acts on; `None` until it has joined a cluster.
    pub fn image(&self) -> Option<Arc<Image>> {
        self.inner.control.images.borrow().clone()
    }

    /// Returns a watch on [`Broker::image`].
    pub fn images(&self) -> watch::Receiver<Option<Arc<Image>>> {
        self.inner.control.images.clone()
    }

    /// Returns what the control plane shows.
    pub fn status(&self) -> Status {
        self.inner.control.status.borrow().clone()
    }

    /// Returns every endpoint known from the image, discovery, configuration and gossip (in that order of trust).
    pub fn endpoints(&self) -> BTreeMap<BrokerId, Endpoint> {
        self.inner.endpoints.all()
    }

    /// Returns one broker's endpoint.
    pub fn endpoint(&self, id: BrokerId) -> Option<Endpoint> {
        self.inner.endpoints.get(id)
    }

    /// Asks the controller machine of this broker. Not forwarded: `Refusal::NotController` names who may.
    ///
    /// # Errors
    /// See [`Refusal`]; all but `Unknown` are definite.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the request.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Refusal> {
        self.inner.control.propose(command).await
    }

    /// Asks the controller machine of this broker for several changes, committed together. Answers in order.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the requests.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Vec<Result<Outcome, Refusal>> {
        self.inner.control.propose_all(commands).await
    }

    /// Appends records to a partition led here and waits as `acks` says, at most `timeout`.
    ///
    /// # Errors
    /// See [`AppendError`], which says whether the outcome is definite.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the append.
    pub async fn append(
        &self,
        partition: TopicPartition,
        batch: Batch,
        acks: Acks,
        expected_offset: Option<Offset>,
        timeout: Duration,
    ) -> Result<Appended, AppendError> {
        let (begun, records) = (Instant::now(), u64::from(batch.count()));
        let only_if = OnlyIf { log_end: expected_offset, leader_epoch: None };
        let result = self.inner.replicas.append(partition, batch, acks, only_if, timeout).await;
        let outcome = match &result {
            Ok(_) => "acked",
            Err(AppendError::Unknown | AppendError::TimedOut) => "ambiguous",
            Err(
                AppendError::NotLeader { .. }
                | AppendError::NotEnoughReplicas { .. }
                | AppendError::UnexpectedEnd { .. }
                | AppendError::OutOfOrder { .. }
                | AppendError::ProducerFenced { .. }
                | AppendError::Duplicate
                | AppendError::StorageFull
                | AppendError::Overloaded,
            ) => "refused",
        };
        self.inner.metrics.publish(outcome, records, begun.elapsed().as_secs_f64());
        result
    }

    /// Looks for what of a log is more, or older, than is to be kept; `None` if it can't be read now.
    pub(crate) async fn expired(&self, partition: TopicPartition, kept: Kept) -> Option<Expired> {
        let found = self.inner.store.expired(partition, kept).await;
        found
            .inspect_err(|error| tracing::debug!(%partition, %error, "retention could not look at a log"))
            .ok()
    }

    /// Has a log that is led here in this term start at `to`.
    pub(crate) async fn trim(&self, partition: TopicPartition, leader_epoch: LeaderEpoch, to: Offset) {
        self.inner.replicas.trim(partition, leader_epoch, to).await;
    }

    /// Returns a watch on one replica held here; `None` if there is none.
    pub fn view(&self, partition: TopicPartition) -> Option<watch::Receiver<ReplicaView>> {
        self.inner.replicas.view(partition)
    }

    /// Returns whether at least so many readers wait for a partition.
    #[cfg(test)]
    pub(crate) fn is_watched(&self, partition: TopicPartition, readers: usize) -> bool {
        self.inner.replicas.watchers(partition) >= readers
    }

    /// Returns whole batches that hold records of `[from, end)`, oldest first; the first may begin before `from` and the
    /// last may end after `end`: the caller trims. Stops after about `bytes_max`, but never before one batch.
    ///
    /// # Errors
    /// When the store can't be read or a batch is damaged.
    pub async fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Batch>, StoreError> {
        self.inner.store.read(partition, from, end, bytes_max).await
    }

    /// Asks the coordinator of a group, wherever it is. Looks for it until shortly before `until`; whoever waits no longer
    /// than that can tell a coordinator that was not found from one that did not answer.
    ///
    /// # Errors
    /// See [`GroupError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the request.
    pub async fn group(&self, request: GroupRequest, until: Instant) -> Result<GroupReply, GroupError> {
        self.inner.groups.ask(request, until).await
    }

    /// Returns what reads this broker's recent events.
    pub fn events(&self) -> &EventLog {
        &self.inner.events
    }

    /// Returns a watch that changes whenever events were kept.
    pub fn events_kept(&self) -> watch::Receiver<u64> {
        self.inner.control.events.clone()
    }

    /// Counts records read for consumers.
    pub(crate) fn count_read(&self, records: u64) {
        self.inner.metrics.records_read.inc_by(records);
    }

    /// Returns what gossip says of each broker, one JSON object each; hints, for people to look at.
    pub fn gossip(&self) -> Vec<serde_json::Value> {
        self.inner.control.gossip.borrow().clone()
    }

    /// Returns counters of gossip, replication and storage for people.
    pub fn stats(&self) -> serde_json::Value {
        let views = self.inner.replicas.views();
        let led = views.values().filter(|view| view.role == Role::Leader).count();
        let metrics = &self.inner.metrics;
        serde_json::json!({
            "uptime_ms": u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "gossip": { "known": self.inner.control.gossip.borrow().len() },
            "replication": {
                "replicas": views.len(),
                "leading": led,
                "metrics": {
                    "push_attempts": metrics.pushes.get(),
                    "push_success": metrics.pushes.get().saturating_sub(metrics.pushes_failed.get()),
                    "push_failed": metrics.pushes_failed.get(),
                    "bytes_pushed": metrics.bytes_pushed.get(),
                },
            },
            "storage": self.inner.store.stats(),
        })
    }

    /// Returns what is held here of every partition.
    pub fn views(&self) -> BTreeMap<TopicPartition, ReplicaView> {
        self.inner.replicas.views()
    }

    /// Returns whether this broker can serve clients; if not, why.
    ///
    /// # Errors
    /// A sentence for people: what is waited for.
    pub fn ready(&self) -> Result<(), String> {
        if self.inner.stopping.is_cancelled() {
            return Err("the broker is stopping".to_owned());
        }
        let status = self.status();
        if !status.registered {
            return Err(match status.controller {
                Some(controller) => {
                    format!("waiting to be registered by the controller, broker {controller}")
                }
                None => "waiting for a controller: a majority of the voters must be up".to_owned(),
            });
        }
        Ok(())
    }

    /// Returns whether the broker has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.is_cancelled()
    }

    /// Completes when the broker begins to stop: whoever waits for records should answer now.
    pub async fn stopping(&self) {
        self.inner.stopping.cancelled().await;
    }

    /// Returns all metrics in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        self.observe();
        self.inner.metrics.text()
    }

    /// Sets the gauges that are read from state.
    fn observe(&self) {
        let (metrics, status) = (&self.inner.metrics, self.status());
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.controller_epoch.set(signed(status.epoch.0));
        metrics.is_controller.set(i64::from(status.leading));
        metrics.registered.set(i64::from(status.registered));
        let views = self.inner.replicas.views();
        metrics.partitions_held.set(count(views.len()));
        let Some(image) = self.image() else { return };
        let mut below = 0;
        for family in [&metrics.high_watermark, &metrics.log_end, &metrics.isr_size] {
            family.clear();
        }
        for (at, view) in &views {
            let Some(topic) = image.topics.get(&at.topic) else { continue };
            let label = PartitionLabel { topic: topic.name.to_string(), partition: at.partition };
            metrics.high_watermark.get_or_create(&label).set(signed(view.high_watermark));
            metrics.log_end.get_or_create(&label).set(signed(view.log_end));
            let entry = usize::try_from(at.partition).ok().and_then(|no| topic.partitions.get(no));
            if let (Role::Leader, Some(entry)) = (view.role, entry) {
                metrics.isr_size.get_or_create(&label).set(count(entry.isr.len()));
                below += i64::from(entry.isr.len() < topic.config.min_isr as usize);
            }
        }
        metrics.partitions_below_min_isr.set(below);
        let store = self.inner.store.stats();
        metrics.store_free_bytes.set(signed(store.free_bytes));
        metrics.store_wal_bytes.set(signed(store.wal_bytes));
        metrics.store_commits.set(signed(store.commits));
    }
}
