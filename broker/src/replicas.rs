//! The task that owns all replicas of this broker: it gathers what arrives into one batch per partition, hands writes to
//! the store and requests to peers, and answers publishers. What is right it leaves to the machine.

use crate::control::ToControl;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::peer::PeerClient;
use crate::store::Store;
use anyhow::Context;
use bytes::Bytes;
use pubsub_core::Mono;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Input as ControlInput, Ticket};
use pubsub_core::ids::{BrokerId, ClusterId, LeaderEpoch, Offset, TopicPartition};
use pubsub_core::limits::{INBOX_MAX, INFLIGHT_BYTES_MAX};
use pubsub_core::partition::{
    Acks, Action, AppendError, Appended, Input, ReplicaView, Replicas, RequestId, Role, WriteId,
};
use pubsub_core::record::Batch;
use pubsub_core::wire::internal::{ReplicateReply, ReplicateRequest};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often publishers that gave up are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

type Outcome = Result<Appended, AppendError>;

/// What must hold when an append is taken; else it is refused, and nothing is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OnlyIf {
    /// The log ends here.
    pub(crate) log_end: Option<Offset>,
    /// The partition is led in this term: what was decided in one term must not enter the log of a later one.
    pub(crate) leader_epoch: Option<LeaderEpoch>,
}

/// What other tasks send to the replicas' task.
enum ToReplicas {
    /// A publisher's records; the permit counts their bytes until the answer.
    Append {
        partition: TopicPartition,
        batch: Batch,
        acks: Acks,
        only_if: OnlyIf,
        permit: OwnedSemaphorePermit,
        reply: oneshot::Sender<Outcome>,
    },
    /// A leader's request.
    Request { from: BrokerId, request: ReplicateRequest, reply: oneshot::Sender<ReplicateReply> },
    /// Straight to the machine.
    Input(Box<Input>),
}

/// Watches on all replicas held here.
#[derive(Clone, Default)]
struct Views {
    by_partition: Arc<RwLock<HashMap<TopicPartition, watch::Sender<ReplicaView>>>>,
}

/// A handle onto the replicas' task.
#[derive(Clone)]
pub(crate) struct ReplicasHandle {
    inbox: mpsc::Sender<ToReplicas>,
    store: Store,
    bytes: Arc<Semaphore>,
    views: Views,
}

impl ReplicasHandle {
    /// See [`crate::handle::Broker::append`].
    pub(crate) async fn append(
        &self,
        partition: TopicPartition,
        batch: Batch,
        acks: Acks,
        only_if: OnlyIf,
        timeout: Duration,
    ) -> Outcome {
        if self.store.storage_full() {
            return Err(AppendError::StorageFull);
        }
        let deadline = Instant::now() + timeout;
        let weight = u32::try_from(batch.bytes().len()).expect("batches are bounded by limits");
        let permit = tokio::time::timeout_at(deadline, self.bytes.clone().acquire_many_owned(weight)).await;
        let permit = permit.map_err(|_| AppendError::Overloaded)?.expect("the semaphore is never closed");
        let (reply, outcome) = oneshot::channel();
        let item = ToReplicas::Append { partition, batch, acks, only_if, permit, reply };
        match tokio::time::timeout_at(deadline, self.inbox.send(item)).await {
            Err(_) => return Err(AppendError::Overloaded),
            Ok(Err(_)) => return Err(AppendError::NotLeader { leader: None }),
            Ok(Ok(())) => {}
        }
        match tokio::time::timeout_at(deadline, outcome).await {
            Err(_) => Err(AppendError::TimedOut),
            Ok(Err(_)) => Err(AppendError::Unknown),
            Ok(Ok(outcome)) => outcome,
        }
    }

    /// Gives a leader's request to the follower here; `None` if this broker is stopping.
    pub(crate) async fn replicate(
        &self,
        from: BrokerId,
        request: ReplicateRequest,
    ) -> Option<ReplicateReply> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.send(ToReplicas::Request { from, request, reply }).await.ok()?;
        outcome.await.ok()
    }

    /// Tells the machine whether the volume takes writes.
    pub(crate) async fn storage(&self, healthy: bool) {
        // The task ends only with the process.
        let _ = self.inbox.send(ToReplicas::Input(Box::new(Input::Storage { healthy }))).await;
    }

    /// Returns whether every in-sync replica still takes this broker for the leader in that term, as of after this call.
    /// `round` is higher than in any call before.
    pub(crate) async fn prove(
        &self,
        partition: TopicPartition,
        leader_epoch: LeaderEpoch,
        round: u64,
        timeout: Duration,
    ) -> bool {
        let Some(mut view) = self.view(partition) else { return false };
        let leads = |view: &ReplicaView| view.role == Role::Leader && view.leader_epoch == leader_epoch;
        let proof = async {
            let input = Box::new(Input::Prove { partition, leader_epoch, round });
            self.inbox.send(ToReplicas::Input(input)).await.ok()?;
            let view = view.wait_for(|view| !leads(view) || view.proven >= round).await.ok()?;
            Some(leads(&view))
        };
        tokio::time::timeout(timeout, proof).await.ok().flatten().unwrap_or(false)
    }

    /// See [`crate::handle::Broker::view`].
    pub(crate) fn view(&self, partition: TopicPartition) -> Option<watch::Receiver<ReplicaView>> {
        self.views.read().get(&partition).map(watch::Sender::subscribe)
    }

    /// Returns how many readers watch a replica.
    #[cfg(test)]
    pub(crate) fn watchers(&self, partition: TopicPartition) -> usize {
        self.views.read().get(&partition).map_or(0, watch::Sender::receiver_count)
    }

    /// Returns what there is to see of every replica held here.
    pub(crate) fn views(&self) -> BTreeMap<TopicPartition, ReplicaView> {
        self.views.read().iter().map(|(partition, view)| (*partition, view.borrow().clone())).collect()
    }
}

impl Views {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TopicPartition, watch::Sender<ReplicaView>>> {
        self.by_partition.read().expect("no holder of this lock panics")
    }

    fn set(&self, partition: TopicPartition, view: Option<ReplicaView>) {
        let Some(view) = view else {
            self.by_partition.write().expect("no holder of this lock panics").remove(&partition);
            return;
        };
        if let Some(known) = self.read().get(&partition) {
            known.send_replace(view);
            return;
        }
        let (sender, _) = watch::channel(view);
        self.by_partition.write().expect("no holder of this lock panics").insert(partition, sender);
    }
}

/// What [`task`] needs.
pub(crate) struct ReplicasParts {
    pub(crate) machine: Replicas,
    pub(crate) store: Store,
    pub(crate) images: watch::Receiver<Option<Arc<Image>>>,
    pub(crate) control: mpsc::Sender<ToControl>,
    pub(crate) cluster: watch::Receiver<Option<ClusterId>>,
    pub(crate) endpoints: Endpoints,
    pub(crate) peers: PeerClient,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) me: BrokerId,
    pub(crate) started: Instant,
    pub(crate) timeout_scale: u32,
}

/// The task around the machine.
pub(crate) struct ReplicasTask {
    parts: ReplicasParts,
    inbox: mpsc::Receiver<ToReplicas>,
    to_self: mpsc::Sender<ToReplicas>,
    views: Views,
    written: watch::Receiver<Option<WriteId>>,
    written_tx: watch::Sender<Option<WriteId>>,
    next_written: u64,
    publishers: HashMap<Ticket, (oneshot::Sender<Outcome>, OwnedSemaphorePermit)>,
    requests: HashMap<RequestId, oneshot::Sender<ReplicateReply>>,
    links: BTreeMap<BrokerId, mpsc::Sender<ReplicateRequest>>,
    next_ticket: u64,
    sweep_at: Instant,
    /// Publishers up to this one were here at the last sweep.
    swept: Ticket,
}

/// Makes the task and the handle onto it.
pub(crate) fn task(parts: ReplicasParts) -> (ReplicasTask, ReplicasHandle) {
    let (to_self, inbox) = mpsc::channel(INBOX_MAX);
    let (written_tx, written) = watch::channel(None);
    let views = Views::default();
    let bytes = Arc::new(Semaphore::new(INFLIGHT_BYTES_MAX));
    let handle =
        ReplicasHandle { inbox: to_self.clone(), store: parts.store.clone(), bytes, views: views.clone() };
    let task = ReplicasTask {
        parts,
        inbox,
        to_self,
        views,
        written,
        written_tx,
        next_written: 0,
        publishers: HashMap::new(),
        requests: HashMap::new(),
        links: BTreeMap::new(),
        next_ticket: 0,
        sweep_at: Instant::now() + SWEEP_EVERY,
        swept: Ticket(0),
    };
    (task, handle)
}

impl ReplicasTask {
    /// Runs until cancelled.
    ///
    /// # Errors
    /// Says why the process must end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut arrived = Vec::new();
        loop {
            let due = self.parts.started + Duration::from_millis(self.parts.machine.deadline());
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                changed = self.parts.images.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the control task ended");
                    let image = self.parts.images.borrow_and_update().clone();
                    if let Some(image) = image {
                        self.step(Input::Image(image)).await?;
                    }
                }
                changed = self.written.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the store's writer ended");
                    self.take_written().await?;
                }
                _ = self.inbox.recv_many(&mut arrived, 1_024) => self.take(&mut arrived).await?,
                () = tokio::time::sleep_until(due.min(self.sweep_at)) => {}
            }
            if Instant::now() >= self.sweep_at {
                self.sweep();
            }
            // Checked apart from the select: a full inbox must not starve the timers.
            if Instant::now() >= due {
                self.step(Input::Tick).await?;
            }
        }
    }

    fn now(&self) -> Mono {
        u64::try_from(self.parts.started.elapsed().as_millis()).expect("milliseconds fit 64 bits")
    }

    /// Frees the bytes of publishers that gave up a while ago: a partition that can't commit must not use up what all
    /// others may take. Younger ones keep theirs, which bounds what waits for the store.
    fn sweep(&mut self) {
        let seen = self.swept;
        self.publishers.retain(|ticket, (reply, _)| *ticket > seen || !reply.is_closed());
        self.swept = Ticket(self.next_ticket);
        self.sweep_at = Instant::now() + SWEEP_EVERY;
    }

    /// Writes complete in order, so the newest id stands for all before it.
    async fn take_written(&mut self) -> anyhow::Result<()> {
        let newest = *self.written.borrow_and_update();
        while newest.is_some_and(|id| id.0 >= self.next_written) {
            let id = WriteId(self.next_written);
            self.next_written += 1;
            self.step(Input::Written { id }).await?;
        }
        Ok(())
    }

    async fn take(&mut self, arrived: &mut Vec<ToReplicas>) -> anyhow::Result<()> {
        let mut appended = false;
        for item in arrived.drain(..) {
            match item {
                ToReplicas::Append { partition, batch, acks, only_if, permit, reply } => {
                    let term = || self.parts.machine.view(partition).map(|view| view.leader_epoch);
                    if only_if.leader_epoch.is_some() && only_if.leader_epoch != term() {
                        // The publisher went away.
                        let _ = reply.send(Err(AppendError::NotLeader { leader: None }));
                        continue;
                    }
                    let expected_offset = only_if.log_end;
                    self.next_ticket += 1;
                    let ticket = Ticket(self.next_ticket);
                    self.publishers.insert(ticket, (reply, permit));
                    self.step(Input::Append { ticket, partition, batch, acks, expected_offset }).await?;
                    appended = true;
                }
                ToReplicas::Request { from, request, reply } => {
                    self.next_ticket += 1;
                    let id = RequestId(self.next_ticket);
                    self.requests.insert(id, reply);
                    self.step(Input::Request { id, from, request }).await?;
                }
                ToReplicas::Input(input) => self.step(*input).await?,
            }
        }
        if appended {
            self.step(Input::Flush { now_ms: crate::wall_ms() }).await?;
        }
        Ok(())
    }

    async fn step(&mut self, input: Input) -> anyhow::Result<()> {
        let now = self.now();
        for action in self.parts.machine.step(now, input) {
            self.perform(action).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Write { id, writes } => {
                let written = self.written_tx.clone();
                let done = move |id| {
                    written.send_replace(Some(id));
                };
                self.parts.store.write(id, writes, done).await.context("hand a write to the store")?;
            }
            Action::Push { to, request } => self.push(to, request),
            Action::Load { to, partition, from, bytes_max } => self.load(to, partition, from, bytes_max),
            Action::Answer { id, reply } => {
                if let Some(waiting) = self.requests.remove(&id) {
                    // The leader went away; it will ask again.
                    let _ = waiting.send(reply);
                }
            }
            Action::Acked { ticket, result } => {
                if let Some((reply, _permit)) = self.publishers.remove(&ticket) {
                    // The publisher went away; its records stay.
                    let _ = reply.send(result);
                }
            }
            Action::Visible { partition, view } => self.views.set(partition, view),
            Action::AlterIsr(change) => {
                // A full inbox loses the request; the machine asks again.
                let _ = self.parts.control.try_send(ToControl::Input(ControlInput::AlterIsr(change)));
            }
            Action::Alarm { id, partition, detail } => {
                self.parts.metrics.alarm(id);
                tracing::error!(invariant = ?id, %partition, detail, "an invariant was broken");
            }
        }
        Ok(())
    }

    fn push(&mut self, to: BrokerId, request: ReplicateRequest) {
        let link = self.links.entry(to).or_insert_with(|| {
            let (link, requests) = mpsc::channel(1);
            let task = Link {
                to,
                me: self.parts.me,
                cluster: self.parts.cluster.clone(),
                endpoints: self.parts.endpoints.clone(),
                peers: self.parts.peers.clone(),
                replicas: self.to_self.clone(),
                metrics: self.parts.metrics.clone(),
                timeout: Duration::from_secs(2) * self.parts.timeout_scale,
            };
            tokio::spawn(task.run(requests));
            link
        });
        if link.try_send(request).is_err() {
            debug_assert!(false, "the machine keeps one push outstanding for each broker");
            tracing::error!(peer = %to, "a push was dropped because another one is outstanding");
        }
    }

    fn load(&self, to: BrokerId, partition: TopicPartition, from: Offset, bytes_max: usize) {
        let store = self.parts.store.clone();
        let replicas = self.to_self.clone();
        tokio::spawn(async move {
            let batches = store.read(partition, from, Offset::MAX, bytes_max).await.unwrap_or_else(|error| {
                tracing::error!(%partition, from, %error, "the log could not be read for a follower");
                vec![]
            });
            // The task ends only with the process.
            let _ = replicas
                .send(ToReplicas::Input(Box::new(Input::Loaded { to, partition, from, batches })))
                .await;
        });
    }
}

/// Carries requests to one follower's broker, one at a time.
struct Link {
    to: BrokerId,
    me: BrokerId,
    cluster: watch::Receiver<Option<ClusterId>>,
    endpoints: Endpoints,
    peers: PeerClient,
    replicas: mpsc::Sender<ToReplicas>,
    metrics: Arc<Metrics>,
    timeout: Duration,
}

impl Link {
    async fn run(self, mut requests: mpsc::Receiver<ReplicateRequest>) {
        while let Some(request) = requests.recv().await {
            let cluster =
                self.cluster.borrow().map_or(String::new(), |cluster| format!("&cluster={cluster}"));
            let path = format!("/internal/replicate?from={}&to={}{cluster}", self.me, self.to);
            let reply = self.exchange(&path, request).await;
            self.metrics.pushes.inc();
            self.metrics.pushes_failed.inc_by(u64::from(reply.is_none()));
            let input = Box::new(Input::Reply { from: self.to, reply });
            if self.replicas.send(ToReplicas::Input(input)).await.is_err() {
                return;
            }
        }
    }

    async fn exchange(&self, path: &str, request: ReplicateRequest) -> Option<ReplicateReply> {
        let endpoint = self.endpoints.get(self.to)?;
        let body: Bytes = pubsub_core::wire::replicate::encode(&request);
        self.metrics.bytes_pushed.inc_by(u64::try_from(body.len()).unwrap_or(u64::MAX));
        match self.peers.post(&endpoint.peer_base, path, body, self.timeout).await {
            Ok(answer) if answer.status.is_success() => serde_json::from_slice(&answer.body).ok(),
            Ok(answer) => {
                tracing::debug!(peer = %self.to, status = %answer.status, "a peer refused to replicate");
                None
            }
            Err(error) => {
                tracing::debug!(peer = %self.to, %error, "a push was not answered");
                None
            }
        }
    }
}
