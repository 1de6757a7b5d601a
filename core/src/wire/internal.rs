//! What brokers send each other on the peer listener. All of it is authenticated by the cluster secret.

use crate::control::image::{Image, ImageHash, Op};
use crate::ids::{
    At, BrokerEpoch, BrokerId, ClusterId, ControllerEpoch, LeaderEpoch, Offset, PartEpoch, RunId, Start,
    StorageId, TopicPartition,
};
use crate::record::Batch;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Header of every request between brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHeader {
    /// The sender's cluster, if it belongs to one already. Another one than the receiver's is refused with 421.
    pub cluster_id: Option<ClusterId>,
    /// The sender.
    pub from: BrokerId,
    /// The sender's volume.
    pub from_storage: StorageId,
    /// Whom the sender means to talk to: addresses may be reused by other brokers.
    pub to: BrokerId,
    /// Version of the messages ([`crate::limits::PROTO`]).
    pub proto: u16,
}

/// Why a request between brokers is not for the broker that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdirected {
    /// It was meant for another broker: addresses are used again.
    OtherBroker,
    /// Its sender is of another cluster.
    OtherCluster,
}

/// Returns why a request to broker `to` from a member of cluster `theirs` is not for broker `me` of cluster `mine`.
pub fn misdirected(
    me: BrokerId,
    mine: Option<ClusterId>,
    to: BrokerId,
    theirs: Option<ClusterId>,
) -> Option<Misdirected> {
    let foreign = mine.is_some() && theirs.is_some() && mine != theirs;
    if to != me { Some(Misdirected::OtherBroker) } else { foreign.then_some(Misdirected::OtherCluster) }
}

/// A request body of `POST /internal/messages`: control messages in order of sending. Delivery may fail, repeat or reorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageBundle {
    /// Who sends, and to whom.
    pub header: PeerHeader,
    /// The messages.
    pub messages: Vec<Message>,
}

/// Last controller that a voter heard, and how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The controller.
    pub id: BrokerId,
    /// Its epoch.
    pub epoch: ControllerEpoch,
}

/// New contents of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageBody {
    /// Operations on the image at `base`.
    Delta {
        /// The image that they apply to.
        base: At,
        /// In order.
        ops: Vec<Op>,
    },
    /// The whole image.
    Full(Arc<Image>),
}

/// Control messages. Names of the Bully algorithm are kept: ELECTION, OK, COORDINATOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// Candidate to all voters: who is there, and does anyone hear a controller? (Bully's ELECTION as a pre-vote.)
    Election {
        /// Echoed by the answer.
        round: u64,
        /// The sender's epoch.
        epoch: ControllerEpoch,
        /// The sender's accepted image.
        accepted: At,
    },
    /// Voter to candidate. From a higher id with `can_lead` it is Bully's "I take over".
    Ok {
        /// Of the ELECTION.
        round: u64,
        /// The voter's epoch.
        epoch: ControllerEpoch,
        /// The voter's accepted image.
        accepted: At,
        /// The controller that it hears freshly, if any.
        hears: Option<Heard>,
        /// Whether it could become controller itself.
        can_lead: bool,
        /// The cluster it belongs to; `None` on an empty volume. Genesis needs all of them empty.
        cluster_id: Option<ClusterId>,
        /// Its volume.
        storage_id: StorageId,
        /// Its process.
        start: Start,
        /// The voters that it was configured with.
        genesis: Option<Vec<BrokerId>>,
    },
    /// Candidate to voters: phase 1 of the register.
    Claim {
        /// The claimed epoch.
        epoch: ControllerEpoch,
        /// The candidate's accepted image.
        accepted: At,
        /// The candidate's process; an earlier start than known means a rolled-back volume.
        start: Start,
        /// The volume that the voter must have.
        expect_storage: StorageId,
        /// The voter's last known start; one that does not follow it means a rolled-back volume.
        expect_start: Option<Start>,
        /// The present controller asked for it: leases don't count.
        handover: bool,
        /// For the first epoch of a cluster: the full list of founders.
        genesis: Option<Vec<BrokerId>>,
    },
    /// Voter to candidate: answer to CLAIM, sent after the promise is synced (E2).
    Grant {
        /// The claimed epoch if granted, else the voter's.
        epoch: ControllerEpoch,
        /// Whether the voter promised.
        granted: bool,
        /// The voter's accepted image.
        accepted: At,
        /// The image itself, if it is fresher than the candidate's.
        image: Option<Arc<Image>>,
        /// The candidate's volume: the promise is not made to another one under its id.
        to_storage: StorageId,
        /// The voter's volume.
        storage_id: StorageId,
    },
    /// Controller to all brokers, once its barrier image is committed. A hint.
    Coordinator {
        /// Its epoch.
        epoch: ControllerEpoch,
        /// The barrier.
        committed: At,
    },
    /// Controller to voters: phase 2 of the register.
    Accept {
        /// The proposer's epoch.
        epoch: ControllerEpoch,
        /// Place of the proposed image; its epoch is the proposer's.
        at: At,
        /// Hash that the image must have.
        hash: ImageHash,
        /// The image.
        body: ImageBody,
        /// The volume that the voter must have.
        expect_storage: StorageId,
        /// The voter's last known start; one that does not follow it means a rolled-back volume.
        expect_start: Option<Start>,
    },
    /// Voter to controller: the image is synced.
    Accepted {
        /// Of the ACCEPT.
        epoch: ControllerEpoch,
        /// Of the ACCEPT.
        at: At,
        /// The voter's volume: a replaced one does not count.
        storage_id: StorageId,
    },
    /// Voter to controller: the delta's base is not what it holds.
    NeedFull {
        /// Of the ACCEPT.
        epoch: ControllerEpoch,
        /// Of the ACCEPT.
        at: At,
    },
    /// To a sender of a stale epoch.
    Fenced {
        /// The receiver's epoch.
        epoch: ControllerEpoch,
    },
    /// Controller to every broker each 250 ms: lease, session and announcement of what is committed.
    Heartbeat {
        /// The controller's epoch.
        epoch: ControllerEpoch,
        /// Echoed by the answer.
        sequence: u64,
        /// The newest committed image.
        committed: At,
    },
    /// Broker to controller: the broker's session.
    HeartbeatAck {
        /// Of the HEARTBEAT.
        epoch: ControllerEpoch,
        /// Of the HEARTBEAT.
        sequence: u64,
        /// Under which the process is registered; 0 before.
        broker_epoch: BrokerEpoch,
        /// The sender's process.
        run_id: RunId,
        /// The image that it acts on.
        applied: At,
        /// Whether it could become controller.
        can_lead: bool,
        /// It is shutting down and wants its leaderships moved.
        stopping: bool,
        /// Whether its storage takes writes.
        storage_ok: bool,
    },
    /// Controller to a broker that lags: a committed image.
    Committed {
        /// The controller's epoch.
        epoch: ControllerEpoch,
        /// Place of the image.
        at: At,
        /// Hash that it must have.
        hash: ImageHash,
        /// Its contents.
        body: ImageBody,
    },
    /// Present controller to the voter that shall follow it: claim now.
    Handover {
        /// The present controller's epoch.
        epoch: ControllerEpoch,
    },
    /// Broker to controller: admit this process.
    Register(Registration),
    /// Broker to broker's process whose id is in use by a newer one, or that runs on a rolled-back volume.
    RegisterRefused {
        /// The refused process.
        run_id: RunId,
        /// For its log and its exit message.
        reason: String,
    },
    /// Partition leader to controller: change the in-sync replicas.
    AlterIsr(AlterIsr),
    /// Anti-entropy of hints; see [`crate::control::gossip`].
    Gossip(crate::control::gossip::GossipMessage),
}

/// What a broker process says of itself to be admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its id.
    pub id: BrokerId,
    /// Its volume.
    pub storage_id: StorageId,
    /// Process-start counter of that volume.
    pub boot: u64,
    /// This process.
    pub run_id: RunId,
    /// Base URL of its client listener.
    pub api_base: String,
    /// Base URL of its peer listener.
    pub peer_base: String,
    /// Failure domain.
    pub zone: Option<String>,
    /// Feature levels that it reads.
    pub versions: (u16, u16),
    /// Whether it seals the records that it stores; `None`: a build that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<bool>,
}

impl Registration {
    /// Returns the start of the process.
    pub fn start(&self) -> Start {
        Start { boot: self.boot, run_id: self.run_id }
    }
}

/// A leader's request to change the in-sync replicas of one partition. Everything in it must match the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterIsr {
    /// Which partition.
    pub partition: TopicPartition,
    /// The asking leader.
    pub leader: BrokerId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Compare-and-set token.
    pub part_epoch: PartEpoch,
    /// The wanted members with the registration that the leader knows each of them by.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

/// Leader to follower: what to append, or (without batches) what is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateRequest {
    /// The sender's registration.
    pub from_epoch: BrokerEpoch,
    /// The receiver's registration, as the sender knows it: another one is refused.
    pub to_epoch: BrokerEpoch,
    /// One item a partition.
    pub items: Vec<ReplicateItem>,
}

/// One partition's part of a [`ReplicateRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateItem {
    /// Which partition.
    pub partition: TopicPartition,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Offset at which `batches` start; the follower's log must match up to here.
    pub from: Offset,
    /// Leader epoch of the record before `from` (0 when `from` is the log's start).
    pub prev_epoch: LeaderEpoch,
    /// Whole batches, contiguous from `from`.
    pub batches: Vec<Batch>,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The leader's first offset.
    pub log_start: Offset,
}

/// Follower to leader, one outcome an item in the request's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicateReply {
    /// The follower's registration.
    pub broker_epoch: BrokerEpoch,
    /// Outcomes.
    pub outcomes: Vec<ReplicateOutcome>,
}

/// What became of one [`ReplicateItem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicateOutcome {
    /// The follower's synced log equals the leader's below this offset: proven by this request, not its own log end.
    Matched {
        /// Exclusive end of the proof.
        match_end: Offset,
    },
    /// The logs differ before `from`: try again from where they may agree (KIP-101, KIP-279).
    Diverged {
        /// The follower's largest epoch not above the item's `prev_epoch`.
        epoch: LeaderEpoch,
        /// End offset of that epoch on the follower.
        end_offset: Offset,
    },
    /// The follower knows a newer leader.
    Fenced {
        /// Its epoch.
        leader_epoch: LeaderEpoch,
    },
    /// The follower's image has no such replica on it (yet), or the registration differs.
    Unknown,
    /// The follower's disk takes no more.
    Full,
}
