//! The task that owns the groups coordinated here.

use super::replay::load;
use super::topic::{batches_of, groups_topic, led_by};
use super::{Answer, GroupsHandle, ONE_TRY, ToGroups, refuse};
use crate::control::ControlHandle;
use crate::endpoints::Endpoints;
use crate::peer::PeerClient;
use crate::replicas::{OnlyIf, ReplicasHandle};
use crate::store::Store;
use pubsub_core::Mono;
use pubsub_core::control::Ticket;
use pubsub_core::control::image::Image;
use pubsub_core::group::GroupRequest;
use pubsub_core::group::coordinator::{Action, Groups, Input};
use pubsub_core::group::records::Record;
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use pubsub_core::limits::INBOX_MAX;
use pubsub_core::partition::Acks;
use pubsub_core::record::Batch;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Pause before a partition that could not be replayed is read again.
const LOAD_AGAIN: Duration = Duration::from_millis(100);
/// How long in-sync replicas may take to agree that this broker leads; one that is gone has left the ISR by then.
const CONFIRM_WAIT: Duration = Duration::from_secs(4);
/// Requests that wait for one partition to be replayed.
const WAITING_MAX: usize = INBOX_MAX;
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
                self.tell_deleted(partition);
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
            ToGroups::Settled { partition, leader_epoch, sure, snapshot_at } => {
                // What an earlier term waited for was answered when the term ended.
                if self.coordinated.get(&partition).map(Coordinated::leader_epoch) == Some(leader_epoch) {
                    self.step(partition, Input::Settled { sure, snapshot_at });
                }
            }
        }
    }

    /// Forgets a partition, and says to whoever waits that nothing is sure.
    fn drop_partition(&mut self, partition: u32) {
        match self.coordinated.remove(&partition) {
            Some(Coordinated::Loading { waiting, .. }) => {
                waiting.into_iter().for_each(|(_, reply)| refuse(reply));
            }
            Some(Coordinated::Ready { mut groups, .. }) => {
                let now = self.now();
                // The first ends what is under way, the second what waits for it.
                for _ in 0..2 {
                    let actions = groups.step(now, Input::Settled { sure: false, snapshot_at: None });
                    actions.into_iter().for_each(|action| self.answer(action));
                }
            }
            None => {}
        }
    }

    /// Passes an answer on; other actions are for [`Self::step`].
    fn answer(&mut self, action: Action) {
        if let Action::Reply { ticket, result } = action
            && let Some(reply) = self.replies.remove(&ticket)
        {
            // The caller went away.
            let _ = reply.send(result);
        }
    }

    fn loaded(&mut self, partition: u32, leader_epoch: LeaderEpoch, mut groups: Box<Groups>) {
        let now = self.now();
        let held = self.coordinated.get_mut(&partition).filter(|held| held.is_loading(leader_epoch));
        let Some(held) = held else { return };
        groups.begin(now);
        let was = std::mem::replace(held, Coordinated::Ready { leader_epoch, groups });
        self.tell_deleted(partition);
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
                Action::Reply { .. } => self.answer(action),
                Action::Append { records, snapshot } => {
                    self.append(partition, leader_epoch, &records, &snapshot);
                }
                Action::Trim { to } => self.trim(partition, leader_epoch, to),
                Action::Confirm => self.confirm(partition, leader_epoch),
                Action::Reload => {
                    self.drop_partition(partition);
                    self.images.mark_changed();
                }
            }
        }
    }

    /// Tells a machine which topics are gone.
    fn tell_deleted(&mut self, partition: u32) {
        let image = self.images.borrow().clone();
        let topics: BTreeSet<TopicId> =
            image.iter().flat_map(|image| image.tombstones.keys().copied()).collect();
        if !topics.is_empty() {
            self.step(partition, Input::Deleted { topics });
        }
    }

    fn topic_partition(&self, partition: u32) -> Option<TopicPartition> {
        let image = self.images.borrow().clone();
        let (topic, _) = image.as_deref().and_then(groups_topic)?;
        Some(TopicPartition { topic, partition })
    }

    fn append(&self, partition: u32, leader_epoch: LeaderEpoch, records: &[Record], snapshot: &[Record]) {
        let (before, behind) = (batches_of(records), batches_of(snapshot));
        let at = self.topic_partition(partition);
        let (replicas, to_self) = (self.replicas.clone(), self.to_self.clone());
        tokio::spawn(async move {
            let append = async |batches: Vec<Batch>| {
                let mut first = None;
                for batch in batches {
                    // A later term has replayed newer records, which these must not be written behind.
                    let only_if = OnlyIf { log_end: None, leader_epoch: Some(leader_epoch) };
                    let appended = replicas.append(at?, batch, Acks::All, only_if, ONE_TRY).await.ok()?;
                    first = first.or(Some(appended.base_offset));
                }
                Some(first)
            };
            let snapshot_at = match append(before).await {
                Some(_) => append(behind).await,
                None => None,
            };
            let sure = snapshot_at.is_some();
            let item =
                ToGroups::Settled { partition, leader_epoch, sure, snapshot_at: snapshot_at.flatten() };
            // The task ends only with the process.
            let _ = to_self.send(item).await;
        });
    }

    fn trim(&self, partition: u32, leader_epoch: LeaderEpoch, to: Offset) {
        let Some(at) = self.topic_partition(partition) else { return };
        let replicas = self.replicas.clone();
        tracing::debug!(partition, to, "the log of groups was cut");
        tokio::spawn(async move { replicas.trim(at, leader_epoch, to).await });
    }

    fn confirm(&self, partition: u32, leader_epoch: LeaderEpoch) {
        let at = self.topic_partition(partition);
        let (replicas, to_self) = (self.replicas.clone(), self.to_self.clone());
        tokio::spawn(async move {
            let sure = match at {
                Some(at) => replicas.confirm(at, leader_epoch, CONFIRM_WAIT).await,
                None => false,
            };
            // The task ends only with the process.
            let _ =
                to_self.send(ToGroups::Settled { partition, leader_epoch, sure, snapshot_at: None }).await;
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
