//! The way to the coordinator of any group, here or elsewhere.

mod replay;
mod task;
mod topic;

pub(crate) use task::task;

use crate::control::ControlHandle;
use crate::endpoints::Endpoints;
use crate::peer::{PeerClient, PeerError};
use bytes::Bytes;
use pubsub_core::control::image::{Image, TopicConfig};
use pubsub_core::control::{Command, Refusal};
use pubsub_core::group::coordinator::{Groups, partition_of};
use pubsub_core::group::{GroupError, GroupReply, GroupRequest, Reader};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicId};
use pubsub_core::limits::GROUP_PARTITIONS;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use topic::{groups_topic, groups_topic_name, led_by};

type Answer = Result<GroupReply, GroupError>;

/// How long a request looks for its coordinator before it is told to come back.
const FIND_COORDINATOR: Duration = Duration::from_secs(4);
/// How long before its caller gives up a request stops looking, to say so.
const LAST_WORD: Duration = Duration::from_millis(150);
/// How long one try at a coordinator may take; a commit waits for the slowest in-sync replica.
const ONE_TRY: Duration = Duration::from_secs(6);

enum ToGroups {
    Request { partition: u32, request: GroupRequest, reply: oneshot::Sender<Answer> },
    Loaded { partition: u32, leader_epoch: LeaderEpoch, groups: Box<Groups> },
    LoadFailed { partition: u32, leader_epoch: LeaderEpoch },
    Settled { partition: u32, leader_epoch: LeaderEpoch, sure: bool, snapshot_at: Option<Offset> },
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
    pub(crate) async fn ask(&self, request: GroupRequest, until: Instant) -> Answer {
        if request == GroupRequest::List {
            return self.list().await;
        }
        let partition = partition_of(&reader_of(&request));
        self.ask_partition(partition, request, until).await
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

    async fn ask_partition(&self, partition: u32, request: GroupRequest, until: Instant) -> Answer {
        let deadline = (Instant::now() + FIND_COORDINATOR).min(until - LAST_WORD);
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
        GroupRequest::Commit { .. }
        | GroupRequest::Delete { .. }
        | GroupRequest::Leave { .. }
        | GroupRequest::Reset { .. } => GroupError::Unknown,
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
        | GroupRequest::Delete { group }
        | GroupRequest::Reset { group, .. } => Reader::Group(group.clone()),
        GroupRequest::List => Reader::Anonymous,
    }
}
