//! The task that owns the control machine: it translates messages, time and disk for it, and decides nothing.
//!
//! It runs on a thread of its own, with the peer listener, so that heartbeats never queue behind client load. Promises
//! are synced on that thread before anything that depends on them is sent (E2).

use crate::endpoints::Endpoints;
use crate::peer::{PeerClient, PeerError};
use crate::store::{MetaStore, StoreError};
use bytes::Bytes;
use futures::future::join_all;
use pubsub_core::Mono;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Action, Command, Control, Event, Hard, Input, Outcome, Refusal, Status, Ticket};
use pubsub_core::ids::{BrokerId, ClusterId, StorageId};
use pubsub_core::limits::{INBOX_MAX, MESSAGES_MAX, PROTO};
use pubsub_core::wire::internal::{Message, MessageBundle, PeerHeader};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Silence after which gossip shows a broker as suspect: several rounds.
const GOSSIP_SUSPECT: Duration = Duration::from_secs(5);
/// Silence after which gossip shows a broker as dead.
const GOSSIP_DEAD: Duration = Duration::from_secs(15);

/// What other tasks send to the control task.
pub(crate) enum ToControl {
    /// Straight to the machine.
    Input(Input),
    /// An admin request with the place for its outcome.
    Propose(Command, oneshot::Sender<Result<Outcome, Refusal>>),
    /// Several, to be committed together.
    ProposeAll(Vec<(Command, oneshot::Sender<Result<Outcome, Refusal>>)>),
    /// Hand over and stop; answered when done.
    Stop(oneshot::Sender<()>),
}

/// A handle onto the control task.
#[derive(Clone)]
pub(crate) struct ControlHandle {
    pub(crate) inbox: mpsc::Sender<ToControl>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) images: watch::Receiver<Option<Arc<Image>>>,
    pub(crate) cluster: watch::Receiver<Option<ClusterId>>,
    /// What gossip knows, for people; renewed each second.
    pub(crate) gossip: watch::Receiver<Vec<serde_json::Value>>,
    /// Number of the newest event kept by this process.
    pub(crate) events: watch::Receiver<u64>,
}

impl ControlHandle {
    /// Hands an admin request to the machine of this broker.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, Refusal> {
        let (reply, outcome) = oneshot::channel();
        if self.inbox.send(ToControl::Propose(command, reply)).await.is_err() {
            return Err(Refusal::NotController { controller: None });
        }
        outcome.await.unwrap_or(Err(Refusal::Unknown))
    }

    /// Hands several over at once, and returns their outcomes in order.
    pub(crate) async fn propose_all(&self, commands: Vec<Command>) -> Vec<Result<Outcome, Refusal>> {
        let (mut all, mut outcomes) = (Vec::new(), Vec::new());
        for command in commands {
            let (reply, outcome) = oneshot::channel();
            all.push((command, reply));
            outcomes.push(outcome);
        }
        // A task that ended drops the places for the replies, which says the same as an answer that never comes.
        let sent = self.inbox.send(ToControl::ProposeAll(all)).await.is_ok();
        let lost =
            move |_| Err(if sent { Refusal::Unknown } else { Refusal::NotController { controller: None } });
        let outcomes = join_all(outcomes).await.into_iter();
        outcomes.map(|outcome| outcome.unwrap_or_else(lost)).collect()
    }
}

/// Everything that the control task is made of.
pub(crate) struct ControlTask {
    machine: Control,
    meta: MetaStore,
    me: BrokerId,
    storage_id: StorageId,
    inbox: mpsc::Receiver<ToControl>,
    to_self: mpsc::Sender<ToControl>,
    status: watch::Sender<Status>,
    images: watch::Sender<Option<Arc<Image>>>,
    cluster: watch::Sender<Option<ClusterId>>,
    gossip: watch::Sender<Vec<serde_json::Value>>,
    events: watch::Sender<u64>,
    news: Vec<Event>,
    gossip_due: Instant,
    heard: BTreeMap<BrokerId, (u64, Instant)>,
    replies: BTreeMap<Ticket, oneshot::Sender<Result<Outcome, Refusal>>>,
    stopping: Option<oneshot::Sender<()>>,
    next_ticket: u64,
    outboxes: BTreeMap<BrokerId, mpsc::Sender<Message>>,
    endpoints: Endpoints,
    peers: PeerClient,
    fatal: CancellationToken,
    started: Instant,
    timeout_scale: u32,
}

/// What [`task`] needs.
pub(crate) struct ControlParts {
    pub(crate) machine: Control,
    pub(crate) meta: MetaStore,
    pub(crate) hard: Hard,
    pub(crate) endpoints: Endpoints,
    pub(crate) peers: PeerClient,
    pub(crate) fatal: CancellationToken,
    pub(crate) started: Instant,
    pub(crate) timeout_scale: u32,
}

/// Makes the task and the handle onto it; the task must be run on the control thread.
pub(crate) fn task(parts: ControlParts) -> (ControlTask, ControlHandle) {
    let (to_self, inbox) = mpsc::channel(INBOX_MAX);
    let (status, status_seen) = watch::channel(parts.machine.status(0));
    let (images, images_seen) = watch::channel(None);
    let (cluster, cluster_seen) = watch::channel(parts.hard.cluster_id);
    let (gossip, gossip_seen) = watch::channel(vec![]);
    let (events, events_seen) = watch::channel(0);
    let handle = ControlHandle {
        inbox: to_self.clone(),
        status: status_seen,
        images: images_seen,
        cluster: cluster_seen,
        gossip: gossip_seen,
        events: events_seen,
    };
    let task = ControlTask {
        machine: parts.machine,
        meta: parts.meta,
        me: parts.hard.broker_id,
        storage_id: parts.hard.storage_id,
        inbox,
        to_self,
        status,
        images,
        cluster,
        gossip,
        events,
        news: Vec::new(),
        gossip_due: parts.started,
        heard: BTreeMap::new(),
        replies: BTreeMap::new(),
        stopping: None,
        next_ticket: 0,
        outboxes: BTreeMap::new(),
        endpoints: parts.endpoints,
        peers: parts.peers,
        fatal: parts.fatal,
        started: parts.started,
        timeout_scale: parts.timeout_scale,
    };
    (task, handle)
}

impl ControlTask {
    /// Runs until cancelled, or until the machine or the disk says that the process must end.
    ///
    /// # Errors
    /// Says why the process must end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut arrived = Vec::new();
        loop {
            let due = self.started + Duration::from_millis(self.machine.deadline());
            // The inbox goes first: a process that was paused must see what arrived before its timers fire.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                _ = self.inbox.recv_many(&mut arrived, 64) => {}
                () = tokio::time::sleep_until(due) => {}
            }
            for item in arrived.drain(..) {
                self.take(item)?;
            }
            if Instant::now() >= due {
                self.step(Input::Tick)?;
            }
            self.publish();
        }
    }

    fn now(&self) -> Mono {
        u64::try_from(self.started.elapsed().as_millis()).expect("milliseconds since the start fit 64 bits")
    }

    fn take(&mut self, item: ToControl) -> anyhow::Result<()> {
        match item {
            ToControl::Input(input) => {
                if matches!(input, Input::Storage { healthy: true }) {
                    self.meta.room_again();
                }
                self.step(input)
            }
            ToControl::Propose(command, reply) => {
                let ticket = self.ticket(reply);
                self.step(Input::Propose { ticket, command })
            }
            ToControl::ProposeAll(all) => {
                let all = all.into_iter().map(|(command, reply)| (self.ticket(reply), command)).collect();
                self.step(Input::ProposeAll(all))
            }
            ToControl::Stop(done) => {
                self.stopping = Some(done);
                self.step(Input::Stop)
            }
        }
    }

    fn ticket(&mut self, reply: oneshot::Sender<Result<Outcome, Refusal>>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.replies.insert(ticket, reply);
        ticket
    }

    fn step(&mut self, input: Input) -> anyhow::Result<()> {
        for action in self.machine.step(self.now(), input) {
            self.perform(action)?;
        }
        self.keep_news();
        Ok(())
    }

    fn perform(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Persist(hard) => {
                self.meta.persist(&hard).map_err(|error| {
                    anyhow::Error::new(error)
                        .context("a promise could not be synced; the process must not go on")
                })?;
                self.cluster
                    .send_if_modified(|known| std::mem::replace(known, hard.cluster_id) != hard.cluster_id);
            }
            Action::Send { to, message } => self.send(to, message),
            Action::Apply(image) => {
                self.endpoints.learn_image(&image);
                self.images.send_replace(Some(image));
            }
            Action::Reply { ticket, result } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    // A caller that went away needs no answer; the change stands.
                    let _ = reply.send(result);
                }
            }
            Action::Event(event) => self.note(event),
            Action::Stopped => {
                if let Some(done) = self.stopping.take() {
                    // Whoever waited for it gave up: the process ends either way.
                    let _ = done.send(());
                }
            }
            Action::Halt { reason } => anyhow::bail!(reason),
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match &event {
            Event::ElectionStarted => tracing::debug!("election started"),
            Event::ControllerElected { broker, epoch } if *broker == self.me => {
                tracing::info!(%epoch, "became controller")
            }
            Event::ControllerElected { broker, epoch } => {
                tracing::info!(controller = %broker, %epoch, "followed a controller")
            }
            Event::ControllerResigned { epoch, reason, .. } => {
                tracing::info!(%epoch, reason, "resigned as controller")
            }
            Event::BrokerSilent { broker } => tracing::warn!(%broker, "fenced a broker"),
            Event::BrokerRegistered { broker, .. } => tracing::info!(%broker, "registered a broker"),
            Event::BrokerRolledBack { broker } => {
                tracing::error!(%broker, "a broker runs on an older copy of its volume and votes no more: give it an empty one")
            }
            Event::LeaderChanged { topic, partition, leader, .. } => {
                let leader = leader.map(|id| id.0);
                tracing::info!(%topic, partition, leader, "moved a partition's leadership");
            }
            Event::IsrChanged { topic, partition, isr, cause, .. } => {
                tracing::info!(%topic, partition, ?isr, ?cause, "changed in-sync replicas")
            }
            Event::BrokerFenced { .. }
            | Event::BrokerActive { .. }
            | Event::BrokerDraining { .. }
            | Event::TopicCreated { .. }
            | Event::TopicAltered { .. }
            | Event::TopicDeleted { .. }
            | Event::ReplicasChanged { .. }
            | Event::MoreChanged { .. } => tracing::debug!(?event, "the image changed"),
        }
        self.news.push(event);
    }

    /// Keeps what there is to tell, all of it at once: one image may change a thousand topics.
    fn keep_news(&mut self) {
        let news = std::mem::take(&mut self.news);
        if news.is_empty() {
            return;
        }
        match self.meta.append_events(crate::wall_ms(), &news) {
            Ok(newest) => drop(self.events.send_replace(newest)),
            Err(StoreError::DiskFull) => tracing::debug!("the disk is full: events were not stored"),
            Err(error) => tracing::warn!(%error, "events were not stored"),
        }
    }

    fn publish(&mut self) {
        let status = self.machine.status(self.now());
        self.status.send_if_modified(|known| std::mem::replace(known, status.clone()) != status);
        if Instant::now() >= self.gossip_due {
            self.gossip_due = Instant::now() + Duration::from_secs(1);
            self.endpoints.learn_gossip(self.machine.peers());
            let known = self.hearsay();
            self.gossip.send_replace(known);
        }
    }

    /// Returns what gossip knows, each broker with how fresh it is: people read it, nothing acts on it.
    fn hearsay(&mut self) -> Vec<serde_json::Value> {
        let now = Instant::now();
        let entries = self.machine.gossip();
        let known = entries.iter().map(|entry| {
            let (counter, heard) = self.heard.entry(entry.id).or_insert((entry.counter, now));
            if *counter != entry.counter {
                (*counter, *heard) = (entry.counter, now);
            }
            let silence = now.duration_since(*heard);
            let status = match silence {
                _ if entry.id == self.me || silence < GOSSIP_SUSPECT => "alive",
                _ if silence < GOSSIP_DEAD => "suspect",
                _ => "dead",
            };
            let mut value = serde_json::to_value(entry).expect("plain data");
            value["broker_id"] = entry.id.0.into();
            value["status"] = status.into();
            value["silent_ms"] = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX).into();
            value
        });
        known.collect()
    }

    fn send(&mut self, to: BrokerId, message: Message) {
        let outbox = self.outboxes.entry(to).or_insert_with(|| {
            let (outbox, messages) = mpsc::channel(MESSAGES_MAX);
            let sender = Sender {
                to,
                header: PeerHeader {
                    cluster_id: None,
                    from: self.me,
                    from_storage: self.storage_id,
                    to,
                    proto: PROTO,
                },
                cluster: self.cluster.subscribe(),
                endpoints: self.endpoints.clone(),
                peers: self.peers.clone(),
                control: self.to_self.clone(),
                timeout: Duration::from_millis(400) * self.timeout_scale,
            };
            tokio::spawn(sender.run(messages, self.fatal.clone()));
            outbox
        });
        // Full means that the peer hangs: the machine expects loss and sends again.
        let _ = outbox.try_send(message);
    }
}

/// Sends one peer's messages in order, as many at once as wait.
struct Sender {
    to: BrokerId,
    header: PeerHeader,
    cluster: watch::Receiver<Option<ClusterId>>,
    endpoints: Endpoints,
    peers: PeerClient,
    control: mpsc::Sender<ToControl>,
    timeout: Duration,
}

impl Sender {
    async fn run(self, mut messages: mpsc::Receiver<Message>, stop: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                count = messages.recv_many(&mut waiting, MESSAGES_MAX) => if count == 0 { return },
            }
            let Some(endpoint) = self.endpoints.get(self.to) else {
                waiting.clear();
                continue;
            };
            let header = PeerHeader { cluster_id: *self.cluster.borrow(), ..self.header.clone() };
            let bundle = MessageBundle { header, messages: std::mem::take(&mut waiting) };
            let body = Bytes::from(serde_json::to_vec(&bundle).expect("messages are plain data"));
            match self.peers.post(&endpoint.peer_base, "/internal/messages", body, self.timeout).await {
                Ok(answer) if answer.status.is_success() => {}
                Ok(answer) => {
                    tracing::debug!(peer = %self.to, status = %answer.status, "a peer refused messages");
                }
                Err(PeerError::Refused) => {
                    // Nothing listens there: its process is gone, which is worth more than silence.
                    let gone = Input::Unreachable { peer: self.to };
                    // A full inbox loses a hint only.
                    let _ = self.control.try_send(ToControl::Input(gone));
                }
                Err(error) => tracing::debug!(peer = %self.to, %error, "messages were not delivered"),
            }
        }
    }
}
