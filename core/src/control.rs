//! The control plane of one broker: election, register, registration, sessions, gossip, composed into one machine.

mod candidacy;
#[cfg(test)]
mod cluster;
mod controller;
mod drain;
mod elect;
mod election;
mod event;
#[cfg(test)]
mod fixture;
pub mod gossip;
pub mod image;
mod machine;
mod moves;
mod placement;
mod policy;
mod register;
#[cfg(test)]
mod rules;
mod session;
mod timing;
mod topics;
mod voters;

pub use event::{Event, IsrCause};
pub use machine::Control;

use crate::ids::{
    At, BrokerId, ClusterId, ControllerEpoch, LeaderEpoch, RunId, StorageId, TopicId, TopicName, Voter,
};
use crate::wire::admin::AlterTopicRequest;
use crate::wire::internal::{AlterIsr, Message};
use image::{Image, TopicConfig};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Feature levels that this program reads and writes, oldest and newest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// Names one admin request until its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a broker may never forget (E2): written whole, synced, before any later action runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hard {
    /// The cluster this volume belongs to, once it does.
    pub cluster_id: Option<ClusterId>,
    /// The broker this volume belongs to.
    pub broker_id: BrokerId,
    /// This volume.
    pub storage_id: StorageId,
    /// How many processes were started on it, this one included.
    pub boot: u64,
    /// Highest controller epoch promised or seen.
    pub epoch: ControllerEpoch,
    /// To whom `epoch` was promised; a broker that comes back on another volume is somebody else.
    pub voted_for: Option<Voter>,
    /// The newest accepted image.
    pub accepted: Option<Arc<Image>>,
    /// Newest place known to be committed.
    pub committed: At,
}

/// What makes up one control machine; see [`Control::new`].
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// This process.
    pub run_id: RunId,
    /// Base URL of the client listener, to be told to others.
    pub api_base: String,
    /// Base URL of the peer listener.
    pub peer_base: String,
    /// Failure domain.
    pub zone: Option<String>,
    /// Oldest and newest feature level that this program reads and writes; [`VERSIONS`] in production.
    pub versions: (u16, u16),
    /// Whether the shell seals the records that it stores.
    pub sealed: bool,
    /// Founders of a new cluster; `None`: never founds one. May become known later ([`Input::Genesis`]).
    pub genesis: Option<Vec<BrokerId>>,
    /// As controller, hand the role to a higher voter that has been back for a while (Bully's preemption, never by force).
    pub preempt: bool,
    /// Multiplies every timeout: 1 on a LAN, more on starved machines or a WAN.
    pub timeout_scale: u32,
    /// Seed of all randomness in the machine.
    pub seed: u64,
    /// Rules switched off to prove that the checks notice; empty in production.
    pub weakened: Vec<Weakening>,
}

/// A rule that tests switch off ("naive variants" of `docs/protocol.md`). Has no effect without the feature `weakened`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weakening {
    /// Classic Bully: win without a majority (1 `split_brain_classic_bully`).
    NoMajority,
    /// Take COORDINATOR and HEARTBEAT of any epoch (2 `late_coordinator_message`).
    ObeyStaleCoordinator,
    /// Answer before the promise is synced (3 `promise_forgotten_on_crash`).
    PromiseNotPersisted,
    /// Grant one epoch to several candidates (4 `double_vote_same_epoch`).
    DoubleVote,
    /// The winner keeps its own image (5 `winner_keeps_own_stale_image`).
    KeepOwnImage,
    /// The freshest image is the one with the highest version (6 `compare_version_without_epoch`).
    CompareVersionOnly,
    /// Take ACCEPTs of older epochs (7 `zombie_proposal_unfenced`).
    NoEpochFence,
    /// Count an adopted image as committed under its old tag (8 `figure8_old_tag`).
    NoBarrier,
    /// Apply images before they are committed (9 `act_before_commit`).
    ApplyUncommitted,
    /// A voter with a new volume keeps its vote (11 `amnesiac_voter`).
    AmnesiacVoter,
    /// A promise names a broker, whatever volume it runs on (`founder_replaced_while_founding`).
    PromiseNamesBroker,
    /// An older copy of a volume is taken for the volume (14 `pv_rollback`).
    OldCopyTrusted,
    /// A program takes images of feature levels that it does not know (40 `mixed_version_drops_field`).
    AnyFeatureLevel,
    /// Any majority of empty voters may found a cluster (12 `two_amnesiacs_found_a_cluster`).
    GenesisByMajority,
    /// An ACCEPT of its own epoch does not end a candidacy (45 `candidate_survives_same_epoch_accept`).
    CandidateSurvivesAccept,
    /// The leader drops members from its ISR before the change is committed (18 `isr_shrunk_before_commit`).
    ShrinkBeforeCommit,
    /// A requested ISR member does not count until the change is learned (19 `isr_expansion_not_counted`).
    PendingNotCounted,
    /// A follower joins at the high watermark, whatever the start of the leader's epoch (20 `join_against_hw_only`).
    JoinAtHighWatermark,
    /// Followers truncate to their high watermark on a new epoch (21 `truncate_to_hw`).
    TruncateToHighWatermark,
    /// Followers compare log ends only, not epochs (22 `fast_leader_change_divergence`).
    NoEpochSearch,
    /// Followers ack their own log end (23 `ack_counts_unverified_suffix`).
    AckOwnLogEnd,
    /// Followers take items of older leaders (24 `follower_ignores_leader_epoch`).
    IgnoreLeaderEpoch,
    /// A wiped replica stays in its ISRs (25 `wiped_replica_still_in_isr`).
    WipedStaysInIsr,
    /// Acks and ISR requests are not bound to a registration (26 `join_request_outlives_restart`).
    NoBrokerEpoch,
    /// The ISR may shrink below `min_isr` (27 `last_replica_standing`).
    NoIsrFloor,
    /// The high watermark moves with fewer than `min_isr` in-sync replicas.
    CommitBelowMinIsr,
    /// A dead leader's place may be taken by a replica outside the ISR.
    UncleanElection,
    /// A move of replicas ends before the added ones are in sync.
    MoveWithoutSync,
    /// What leaves a draining broker counts as in sync at its new place at once.
    DrainWithoutSync,
    /// A restarted leader keeps its leader epoch (28 `leader_resumes_same_epoch`).
    ResumeLeaderEpoch,
    /// Leaders append what an idempotent producer sends, whatever its sequence (32 `retry_after_ambiguous_timeout`).
    NoSequenceCheck,
    /// A leader says that it leads without proof (`replaced_leader_answers_from_memory`).
    UnprovenLeadership,
    /// Retention deletes records that are not committed.
    TrimUncommitted,
    /// A coordinator of groups takes commits of whoever sends them (30 `zombie_consumer_commit`).
    FencedCommits,
    /// A new coordinator of groups gives nobody a fresh session (31 `group_coordinator_failover_steals`).
    SessionsOfBefore,
    /// A coordinator of groups answers before what it says is committed.
    AnswerBeforeCommit,
    /// Discovery's map replaces the known peers (35 `discovery_restart_empty`).
    DiscoveryReplaces,
}

/// What happens to a control machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed. Due at [`Control::deadline`], and harmless more often.
    Tick,
    /// A message arrived. `from` is authenticated by the shell.
    Message {
        /// The sender.
        from: BrokerId,
        /// The sender's volume.
        from_storage: StorageId,
        /// The message.
        message: Message,
    },
    /// A connection to the peer listener was refused: its process is gone.
    Unreachable {
        /// Whose.
        peer: BrokerId,
    },
    /// Founders became known from discovery. Ignored once they are known, or the volume belongs to a cluster.
    Genesis(Vec<BrokerId>),
    /// Brokers that the shell has addresses of, from configuration or discovery. Hints: an unregistered process
    /// announces itself to them. Added to those known already.
    Peers(Vec<BrokerId>),
    /// An admin request that reached this broker. Answered by [`Action::Reply`] with the same ticket.
    Propose {
        /// For the reply.
        ticket: Ticket,
        /// What to do.
        command: Command,
    },
    /// Several admin requests, as if one after the other, but for the one image that they are committed in.
    ProposeAll(Vec<(Ticket, Command)>),
    /// A leader on this broker wants its ISR changed; sent on to the controller. Never answered: the image tells.
    AlterIsr(AlterIsr),
    /// Whether this broker's storage takes writes.
    Storage {
        /// It does.
        healthy: bool,
    },
    /// The process is about to stop: hand over what it leads. [`Action::Stopped`] says when that is done or given up.
    Stop,
}

/// What the shell must do, in order. A failed [`Action::Persist`] ends the process: nothing after it may happen.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write and sync.
    Persist(Box<Hard>),
    /// Send; loss is fine.
    Send {
        /// To whom.
        to: BrokerId,
        /// What.
        message: Message,
    },
    /// This image is committed, newer than any applied before, and to be obeyed.
    Apply(Arc<Image>),
    /// The outcome of [`Input::Propose`].
    Reply {
        /// As given.
        ticket: Ticket,
        /// What was committed, or why not.
        result: Result<Outcome, Refusal>,
    },
    /// Something to log, count and show.
    Event(Event),
    /// Leaderships and the controller's role are handed over, or that took too long.
    Stopped,
    /// This process may not go on, e.g. because a newer one has its id.
    Halt {
        /// For the exit message.
        reason: String,
    },
}

/// An admin request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Creates a topic. The same name with the same shape succeeds with `created: false`.
    CreateTopic {
        /// Name.
        name: TopicName,
        /// Identity to be given to it; made by the shell.
        id: TopicId,
        /// Number of partitions.
        partitions: u32,
        /// Settings; the replication factor among them.
        config: TopicConfig,
        /// Preferred leader of partition 0 (the seed's `owner_id`).
        leader: Option<BrokerId>,
        /// Replace the owner of a topic that is there already, whoever that is.
        #[serde(default)]
        take_ownership: bool,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Name.
        name: TopicName,
        /// Only if this is the owner's `uid`, or there is none.
        #[serde(default)]
        owner_uid: Option<String>,
        /// Only if these lead its partitions still: each said in its epoch that it holds no record.
        #[serde(default)]
        empty: Option<Vec<(BrokerId, LeaderEpoch)>>,
    },
    /// Changes a topic's settings, and grows its partitions if asked for.
    AlterTopic {
        /// Name.
        name: TopicName,
        /// What to change of what the image has when it is committed.
        change: AlterTopicRequest,
        /// Only if this is the owner's `uid`, or there is none.
        owner_uid: Option<String>,
        /// Replace the owner, whoever that is.
        take_ownership: bool,
    },
    /// Adds a replica to every partition of a topic; it joins the ISR once it has caught up.
    AddReplica {
        /// Topic.
        name: TopicName,
        /// Where.
        broker: BrokerId,
    },
    /// Drops a replica from every partition of a topic; refused for the leader or below the ISR floor.
    RemoveReplica {
        /// Topic.
        name: TopicName,
        /// Where.
        broker: BrokerId,
    },
    /// Moves partitions of a topic to other brokers: the new replicas catch up and join the ISR, then the others are
    /// dropped in one commit. Partitions that are there, or on their way there, already stay as they are.
    Reassign {
        /// Topic.
        name: TopicName,
        /// Partitions, and which brokers shall hold each, preferred leader first.
        moves: Vec<(u32, Vec<BrokerId>)>,
    },
    /// Takes back all moves of a topic that are under way: the added replicas are dropped, the others stay.
    CancelMoves {
        /// Topic.
        name: TopicName,
    },
    /// Empties a broker: its leaderships and then its replicas go to others, and nothing is placed on it any more. It
    /// keeps its vote, if it has one. The outcome names no topic.
    Drain {
        /// Which.
        broker: BrokerId,
    },
    /// Lets a broker that was being emptied take part again. The outcome names no topic.
    CancelDrain {
        /// Which.
        broker: BrokerId,
    },
    /// Gives partitions of a topic another leader.
    Elect {
        /// Topic.
        name: TopicName,
        /// One partition; all if not given.
        partition: Option<u32>,
        /// Who shall lead; the preferred replica, or without a clean choice any live one, if not given.
        broker: Option<BrokerId>,
        /// Give partitions without a leader to a replica that is not in sync: acknowledged records are lost.
        unclean: bool,
    },
}

/// What an admin request led to; committed when seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The image that holds the result.
    pub at: At,
    /// The topic concerned.
    pub topic: TopicId,
    /// Whether anything was changed.
    pub changed: bool,
}

/// Why an admin request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// Another broker is controller (or none is known). Definite: nothing was changed.
    #[error("this broker is not the controller")]
    NotController {
        /// Who may be.
        controller: Option<BrokerId>,
    },
    /// Leadership was lost while it was proposed. Ambiguous: it may yet be committed.
    #[error("the controller changed before the request was committed; it may or may not take effect")]
    Unknown,
    /// A topic of that name has another shape.
    #[error("topic {name} exists with another specification")]
    TopicExists {
        /// Its name.
        name: TopicName,
    },
    /// The topic belongs to somebody else.
    #[error("topic {name} has another owner")]
    TopicOwned {
        /// Its name.
        name: TopicName,
        /// Whose it is.
        owner: serde_json::Value,
    },
    /// Too many changes are waiting. Definite: nothing was changed.
    #[error("too many changes are waiting, and nothing was changed; come back in a second")]
    Overloaded,
    /// The topic's leaders are not those any more that were asked whether it is empty. Definite: nothing was changed.
    #[error("the leaders of topic {name} changed while it was looked at")]
    LeadersMoved {
        /// Its name.
        name: TopicName,
    },
    /// There is no such topic.
    #[error("topic {name} does not exist")]
    TopicNotFound {
        /// As asked for.
        name: TopicName,
    },
    /// There is no such broker.
    #[error("broker {broker} is not registered")]
    BrokerNotFound {
        /// As asked for.
        broker: BrokerId,
    },
    /// Fewer brokers are alive than replicas were asked for.
    #[error("replication factor {wanted} needs as many live brokers, there are {alive}")]
    TooFewBrokers {
        /// Replication factor.
        wanted: u32,
        /// Live brokers.
        alive: u32,
    },
    /// The request can't be done in the present state; the text says why and what to do.
    #[error("{detail}")]
    Conflict {
        /// Why, and what to do.
        detail: String,
    },
    /// The request itself is wrong.
    #[error("{detail}")]
    Invalid {
        /// Which field, and what it may be.
        detail: String,
    },
}

/// What a broker shows of its control plane (`/admin/leader`, `/stats`, readiness).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The controller, as far as freshly heard (itself included).
    pub controller: Option<BrokerId>,
    /// Highest epoch seen.
    pub epoch: ControllerEpoch,
    /// Whether this broker is controller with a committed barrier.
    pub leading: bool,
    /// Whether an election is going on here.
    pub electing: bool,
    /// Whether the applied image holds this very process, unfenced.
    pub registered: bool,
    /// The applied image.
    pub applied: At,
    /// Counters for `/stats`.
    pub counters: Counters,
}

/// Counts since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Probes begun.
    pub elections_started: u64,
    /// Barriers committed.
    pub elections_won: u64,
    /// ELECTION, OK, CLAIM, GRANT and COORDINATOR sent.
    pub election_messages_sent: u64,
    /// The same, received.
    pub election_messages_received: u64,
    /// HEARTBEATs sent.
    pub heartbeats_sent: u64,
    /// HEARTBEATs received.
    pub heartbeats_received: u64,
    /// Different controllers followed, one after the other.
    pub controller_changes: u64,
    /// Brokers fenced by the controller here.
    pub failures_detected: u64,
    /// How long the last won election took, from the first probe to the committed barrier, ms.
    pub last_election_ms: u64,
    /// Images committed by the controller here.
    pub images_committed: u64,
}
