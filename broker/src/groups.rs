//! The task that owns the groups coordinated here, and the way to the coordinator of any group.

mod replay;
mod topic;

use crate::control::ControlHandle;
use crate::endpoints::Endpoints;
use crate::peer::{PeerClient, PeerError};
use crate::replicas::{OnlyIf, ReplicasHandle};
use crate::store::Store;
use bytes::Bytes;
use pubsub_core::Mono;
use pubsub_core::control::image::{Image, TopicConfig};
use pubsub_core::control::{Command, Refusal, Ticket};
use pubsub_core::group::coordinator::{Action, Groups, Input, partition_of};
use pubsub_core::group::{GroupError, GroupReply, GroupRequest, Reader};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use pubsub_core::limits::{GROUP_PARTITIONS, INBOX_MAX};
use pubsub_core::partition::Acks;
use pubsub_core::record::Batch;
use replay::load;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use topic::{batch_of, groups_topic, groups_topic_name, led_by};

type Answer = Result<GroupReply, GroupError>;

/// How long a request looks for its coordinator before it is told to come back.
const FIND_COORDINATOR: Duration = Duration::from_secs(4);
/// How long one try at a coordinator may take; a commit waits for the slowest in-sync replica.
const ONE_TRY: Duration = Duration::from_secs(6);
/// Pause before a partition that could not be replayed is read again.
const LOAD_AGAIN: Duration = Duration::from_millis(100);
/// Requests that wait for one partition to be replayed.
const WAITING_MAX: usize = INBOX_MAX;
/// Records of one batch of the internal topic; even with the longest names they stay below a batch's bytes.
const BATCH_POSITIONS_MAX: usize = 1_000;

enum ToGroups {
    Request { partition: u32, request: GroupRequest, reply: oneshot::Sender<Answer> },
    Loaded { partition: u32, leader_epoch: LeaderEpoch, groups: Box<Groups> },
    LoadFailed { partition: u32, leader_epoch: LeaderEpoch },
    Appended { partition: u32, leader_epoch: LeaderEpoch, ticket: Ticket, committed: Option<Offset> },
}

/// A way to ask the coordinator of a group, here or elsewhere.
#[derive(Clone)]
pub(crate) struct GroupsHandle {
    me: BrokerId,
    inbox: mpsc::Sender<ToGroups>,
    control: ControlHandle,
    endpoints: Endpoints,
    peers: PeerClient,
}

impl GroupsHandle {
    /// Asks the coordinator of a reader, wherever it is; looks for it again while leadership moves.
    pub(crate) async fn ask(&self, request: GroupRequest) -> Answer {
        if request == GroupRequest::List {
            return self.list().await;
        }
        let partition = partition_of(&reader_of(&request));
        self.ask_partition(partition, request).await
    }

    /// Answers as the coordinator of a partition led here.
    pub(crate) async fn here(&self, request: GroupRequest) -> Answer {
        if request == GroupRequest::List {
            return self.list_here().await;
        }
        self.ask_here(partition_of(&reader_of(&request)), request).await
    }

    async fn list_here(&self) -> Answer {
        let mut names = BTreeSet::new();
        let image = self.control.images.borrow().clone();
        let led = image.as_deref().map(|image| led_by(image, self.me)).unwrap_or_default();
        for (partition, _) in led {
            if let GroupReply::Listed { groups } = self.ask_here(partition, GroupRequest::List).await? {
                names.extend(groups);
            }
        }
        Ok(GroupReply::Listed { groups: names.into_iter().collect() })
    }

    async fn list(&self) -> Answer {
        let image = self.control.images.borrow().clone().ok_or(GroupError::Unavailable)?;
        let Some((_, topic)) = groups_topic(&image) else { return Ok(GroupReply::Listed { groups: vec![] }) };
        let leaders: BTreeSet<BrokerId> =
            topic.partitions.iter().filter_map(|partition| partition.leader).collect();
        let mut names = BTreeSet::new();
        for leader in leaders {
            let answer = if leader == self.me {
                self.list_here().await
            } else {
                self.remote(leader, &GroupRequest::List).await
            };
            if let GroupReply::Listed { groups } = answer? {
                names.extend(groups);
            }
        }
        Ok(GroupReply::Listed { groups: names.into_iter().collect() })
    }

    async fn ask_here(&self, partition: u32, request: GroupRequest) -> Answer {
        let lost = unanswered(&request);
        let (reply, answer) = oneshot::channel();
        let item = ToGroups::Request { partition, request, reply };
        self.inbox.send(item).await.map_err(|_| GroupError::Unavailable)?;
        // The task says so when it does nothing; silence means that it ended with the request under way.
        answer.await.unwrap_or(Err(lost))
    }

    async fn ask_partition(&self, partition: u32, request: GroupRequest) -> Answer {
        let deadline = Instant::now() + FIND_COORDINATOR;
        loop {
            let mut images = self.control.images.clone();
            let image = images.borrow_and_update().clone();
            let answer = match image.as_deref().map(groups_topic) {
                None => Err(GroupError::Unavailable),
                Some(None) => self.create_topic(image.as_deref()).await,
                Some(Some((_, topic))) => {
                    match topic.partitions.get(partition as usize).and_then(|entry| entry.leader) {
                        None => Err(GroupError::Unavailable),
                        Some(leader) if leader == self.me => self.ask_here(partition, request.clone()).await,
                        Some(leader) => self.remote(leader, &request).await,
                    }
                }
            };
            match answer {
                Err(GroupError::Unavailable) if Instant::now() < deadline => {
                    let pause = tokio::time::sleep(Duration::from_millis(50));
                    tokio::select! { _ = images.changed() => {} () = pause => {} }
                }
                settled => return settled,
            }
        }
    }

    async fn remote(&self, leader: BrokerId, request: &GroupRequest) -> Answer {
        let endpoint = self.endpoints.get(leader).ok_or(GroupError::Unavailable)?;
        let body = Bytes::from(serde_json::to_vec(request).expect("plain data"));
        match self.peers.post(&endpoint.peer_base, "/internal/group", body, ONE_TRY).await {
            Ok(answer) if answer.status.is_success() => {
                serde_json::from_slice(&answer.body).unwrap_or(Err(unanswered(request)))
            }
            // Any other status is given before the request reaches a coordinator.
            Ok(_) | Err(PeerError::Refused | PeerError::BadAddress) => Err(GroupError::Unavailable),
            Err(PeerError::TimedOut | PeerError::Broken) => Err(unanswered(request)),
        }
    }

    /// Creates the internal topic on first use; the controller adds replicas as brokers join.
    async fn create_topic(&self, image: Option<&Image>) -> Answer {
        let alive = image.map_or(1, |image| image.live_brokers().count());
        let replication_factor = u32::try_from(alive.clamp(1, 3)).expect("at most three");
        let command = Command::CreateTopic {
            name: groups_topic_name(),
            id: TopicId(uuid::Uuid::now_v7()),
            partitions: GROUP_PARTITIONS,
            config: TopicConfig {
                compact: true,
                ..TopicConfig::with_copies(replication_factor, if replication_factor >= 3 { 2 } else { 1 })
            },
            leader: None,
            take_ownership: false,
        };
        let refused = match self.control.propose(command.clone()).await {
            Err(Refusal::NotController { controller: Some(controller) }) => {
                self.command(controller, &command).await
            }
            Err(refusal) => Some(refusal),
            Ok(_) => None,
        };
        if let Some(refusal) = refused {
            tracing::debug!(%refusal, "the internal topic of groups was not created");
        }
        Err(GroupError::Unavailable)
    }

    async fn command(&self, controller: BrokerId, command: &Command) -> Option<Refusal> {
        let endpoint = self.endpoints.get(controller)?;
        let body = Bytes::from(serde_json::to_vec(command).expect("plain data"));
        let answer = self.peers.post(&endpoint.peer_base, "/internal/command", body, ONE_TRY).await.ok()?;
        let outcome: Result<pubsub_core::control::Outcome, Refusal> =
            serde_json::from_slice(&answer.body).ok()?;
        outcome.err()
    }
}

/// Returns what is known of a request whose answer was lost: a change may have been made, and only a commit may be made
/// again without harm, which is for the caller to decide. Anything else may simply be asked again.
fn unanswered(request: &GroupRequest) -> GroupError {
    match request {
        GroupRequest::Commit { .. } | GroupRequest::Delete { .. } | GroupRequest::Leave { .. } => {
            GroupError::Unknown
        }
        GroupRequest::Join { .. } | GroupRequest::Describe { .. } | GroupRequest::List => {
            GroupError::Unavailable
        }
    }
}

/// Says that nothing was done, because this broker does not coordinate (yet).
fn refuse(reply: oneshot::Sender<Answer>) {
    // The caller went away.
    let _ = reply.send(Err(GroupError::Unavailable));
}

fn reader_of(request: &GroupRequest) -> Reader {
    match request {
        GroupRequest::Join { reader, .. } | GroupRequest::Commit { reader, .. } => reader.clone(),
        GroupRequest::Leave { group, .. }
        | GroupRequest::Describe { group }
        | GroupRequest::Delete { group } => Reader::Group(group.clone()),
        GroupRequest::List => Reader::Anonymous,
    }
}

/// One coordinated partition: while it is loaded, requests wait for it.
enum Coordinated {
    Loading {
        leader_epoch: LeaderEpoch,
        waiting: Vec<(GroupRequest, oneshot::Sender<Answer>)>,
        /// Ends with this entry: nobody waits for what an earlier term replays.
        _load: AbortOnDropHandle<()>,
    },
    Ready {
        leader_epoch: LeaderEpoch,
        groups: Box<Groups>,
    },
}

/// The task around the machines of the partitions led here.
pub(crate) struct GroupsTask {
    me: BrokerId,
    inbox: mpsc::Receiver<ToGroups>,
    to_self: mpsc::Sender<ToGroups>,
    images: watch::Receiver<Option<Arc<Image>>>,
    replicas: ReplicasHandle,
    store: Store,
    coordinated: BTreeMap<u32, Coordinated>,
    replies: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: u64,
    started: Instant,
}

/// Makes the task and the handle onto it.
pub(crate) fn task(
    me: BrokerId,
    control: ControlHandle,
    replicas: ReplicasHandle,
    store: Store,
    endpoints: Endpoints,
    peers: PeerClient,
) -> (GroupsTask, GroupsHandle) {
    let (to_self, inbox) = mpsc::channel(INBOX_MAX);
    let handle = GroupsHandle { me, inbox: to_self.clone(), control: control.clone(), endpoints, peers };
    let task = GroupsTask {
        me,
        inbox,
        to_self,
        images: control.images,
        replicas,
        store,
        coordinated: BTreeMap::new(),
        replies: HashMap::new(),
        next_ticket: 0,
        started: Instant::now(),
    };
    (task, handle)
}

impl GroupsTask {
    /// Runs until cancelled.
    ///
    /// # Errors
    /// Says why the process must end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                changed = self.images.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the control task ended");
                    self.follow_image();
                }
                item = self.inbox.recv() => match item {
                    Some(item) => self.take(item),
                    None => return Ok(()),
                },
            }
        }
    }

    fn now(&self) -> Mono {
        u64::try_from(self.started.elapsed().as_millis()).expect("milliseconds fit 64 bits")
    }

    /// Drops what is led no more, under that epoch, and starts loading what is led now.
    fn follow_image(&mut self) {
        let Some(image) = self.images.borrow_and_update().clone() else { return };
        let led = led_by(&image, self.me);
        let ended = |no: &u32, held: &Coordinated| led.get(no) != Some(&held.leader_epoch());
        let ended: Vec<u32> =
            self.coordinated.iter().filter(|(no, held)| ended(no, held)).map(|(no, _)| *no).collect();
        for partition in ended {
            self.drop_partition(partition);
        }
        let Some((topic, _)) = groups_topic(&image) else { return };
        for (partition, leader_epoch) in led {
            if self.coordinated.contains_key(&partition) {
                continue;
            }
            let at = TopicPartition { topic, partition };
            let load = load(self.replicas.clone(), self.store.clone(), at, leader_epoch);
            let to_self = self.to_self.clone();
            let load = tokio::spawn(async move {
                let item = match load.await {
                    Some(groups) => ToGroups::Loaded { partition, leader_epoch, groups: Box::new(groups) },
                    None => {
                        tokio::time::sleep(LOAD_AGAIN).await;
                        ToGroups::LoadFailed { partition, leader_epoch }
                    }
                };
                // The task ends only with the process.
                let _ = to_self.send(item).await;
            });
            let load = AbortOnDropHandle::new(load);
            let loading = Coordinated::Loading { leader_epoch, waiting: vec![], _load: load };
            self.coordinated.insert(partition, loading);
        }
    }

    fn take(&mut self, item: ToGroups) {
        match item {
            ToGroups::Request { partition, request, reply } => match self.coordinated.get_mut(&partition) {
                None => refuse(reply),
                Some(Coordinated::Loading { waiting, .. }) => {
                    if waiting.len() >= WAITING_MAX {
                        waiting.retain(|(_, reply)| !reply.is_closed());
                    }
                    if waiting.len() < WAITING_MAX {
                        waiting.push((request, reply));
                    } else {
                        refuse(reply);
                    }
                }
                Some(Coordinated::Ready { .. }) => self.request(partition, request, reply),
            },
            ToGroups::Loaded { partition, leader_epoch, groups } => {
                self.loaded(partition, leader_epoch, groups)
            }
            ToGroups::LoadFailed { partition, leader_epoch } => {
                // A failure of an earlier term says nothing about the present one, which may be serving already.
                let held = self.coordinated.get(&partition);
                if held.is_some_and(|held| held.is_loading(leader_epoch)) {
                    self.drop_partition(partition);
                    self.images.mark_changed();
                }
            }
            ToGroups::Appended { partition, leader_epoch, ticket, committed } => {
                let held = self.coordinated.get(&partition).map(Coordinated::leader_epoch);
                if held == Some(leader_epoch) {
                    self.step(partition, Input::Appended { ticket, committed });
                } else if let Some(reply) = self.replies.remove(&ticket) {
                    // The caller went away.
                    let _ = reply.send(Err(GroupError::Unknown));
                }
            }
        }
    }

    /// Forgets a partition. Requests whose append is under way are answered when it ends.
    fn drop_partition(&mut self, partition: u32) {
        if let Some(Coordinated::Loading { waiting, .. }) = self.coordinated.remove(&partition) {
            waiting.into_iter().for_each(|(_, reply)| refuse(reply));
        }
    }

    fn loaded(&mut self, partition: u32, leader_epoch: LeaderEpoch, groups: Box<Groups>) {
        let held = self.coordinated.get_mut(&partition).filter(|held| held.is_loading(leader_epoch));
        let Some(held) = held else { return };
        let was = std::mem::replace(held, Coordinated::Ready { leader_epoch, groups });
        if let Coordinated::Loading { waiting, .. } = was {
            // Whoever gave up was told that nothing is known: what nobody waits for is not begun any more.
            for (request, reply) in waiting.into_iter().filter(|(_, reply)| !reply.is_closed()) {
                self.request(partition, request, reply);
            }
        }
    }

    fn request(&mut self, partition: u32, request: GroupRequest, reply: oneshot::Sender<Answer>) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.replies.insert(ticket, reply);
        self.step(partition, Input::Request { ticket, request });
    }

    fn step(&mut self, partition: u32, input: Input) {
        let now = self.now();
        let Some(Coordinated::Ready { leader_epoch, groups }) = self.coordinated.get_mut(&partition) else {
            return;
        };
        let leader_epoch = *leader_epoch;
        for action in groups.step(now, input) {
            match action {
                Action::Reply { ticket, result } => {
                    if let Some(reply) = self.replies.remove(&ticket) {
                        self.answer(partition, leader_epoch, result, reply);
                    }
                }
                Action::Append { ticket, records } => self.append(partition, leader_epoch, ticket, &records),
            }
        }
    }

    /// Answers. What is said from memory is true only while nobody has succeeded this coordinator, which must be proven
    /// first; what a record was committed for is proven by that.
    fn answer(
        &self,
        partition: u32,
        leader_epoch: LeaderEpoch,
        result: Answer,
        reply: oneshot::Sender<Answer>,
    ) {
        let proven = matches!(
            result,
            Ok(GroupReply::Committed { .. } | GroupReply::Done)
                | Err(GroupError::Unknown | GroupError::Unavailable)
        );
        if proven {
            // The caller went away.
            let _ = reply.send(result);
            return;
        }
        let Some(at) = self.place(partition) else { return refuse(reply) };
        let replicas = self.replicas.clone();
        tokio::spawn(async move {
            let leads = replicas.confirm(at, leader_epoch, ONE_TRY).await;
            // As above.
            let _ = reply.send(if leads { result } else { Err(GroupError::Unavailable) });
        });
    }

    fn place(&self, partition: u32) -> Option<TopicPartition> {
        let image = self.images.borrow().clone();
        let topic = image.as_deref().and_then(groups_topic).map(|(topic, _)| topic)?;
        Some(TopicPartition { topic, partition })
    }

    fn append(
        &self,
        partition: u32,
        leader_epoch: LeaderEpoch,
        ticket: Ticket,
        records: &[(Vec<u8>, Option<Vec<u8>>)],
    ) {
        let batches: Vec<Batch> = records.chunks(BATCH_POSITIONS_MAX).map(batch_of).collect();
        let at = self.place(partition);
        let (replicas, to_self) = (self.replicas.clone(), self.to_self.clone());
        tokio::spawn(async move {
            let mut committed = None;
            for batch in batches {
                let Some(at) = at else { break };
                // A later term has replayed newer positions, which this one must not be written behind.
                let only_if = OnlyIf { log_end: None, leader_epoch: Some(leader_epoch) };
                let appended = replicas.append(at, batch, Acks::All, only_if, ONE_TRY).await;
                committed = appended.ok().map(|appended| appended.base_offset);
                if committed.is_none() {
                    break;
                }
            }
            // The task ends only with the process.
            let _ = to_self.send(ToGroups::Appended { partition, leader_epoch, ticket, committed }).await;
        });
    }
}

impl Coordinated {
    fn is_loading(&self, term: LeaderEpoch) -> bool {
        matches!(self, Self::Loading { leader_epoch, .. } if *leader_epoch == term)
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        match self {
            Self::Loading { leader_epoch, .. } | Self::Ready { leader_epoch, .. } => *leader_epoch,
        }
    }
}
