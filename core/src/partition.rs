//! Replication of partitions: leader and follower rules, and all replicas of one broker composed into one machine.
//!
//! Push, AppendEntries-shaped, one path for steady state and catch-up. The commit point is the high watermark: the
//! minimum over the maximal ISR (committed members and those asked for), only while the committed ISR has `min_isr`.
//! Sources: KIP-101 and KIP-279 (truncation by leader epoch), KIP-497 and KIP-903 (ISR changes through the controller,
//! bound to registrations), KIP-966 (strict minimum ISR).

mod appends;
mod epochs;
mod follower;
mod isr;
mod leader;
mod link;
mod log;
mod proof;
mod replica;
mod roles;
mod rules;
mod tail;
#[cfg(test)]
mod tests;
mod timers;
mod writes;

use crate::Mono;
use crate::control::image::Image;
use crate::control::{Ticket, Weakening};
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, RunId, TopicPartition};
use crate::record::Batch;
use crate::wire::internal::{AlterIsr, ReplicateReply, ReplicateRequest};
use replica::Replica;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use timers::Timer;

/// A follower hears of each partition at least this often.
const KEEP_ALIVE_MS: u64 = 500;
/// Keep-alives fall due on multiples of this, so that those of many partitions share a request.
const KEEP_ALIVE_GRID_MS: u64 = 100;
/// First pause before a broker that did not answer is tried again; doubles up to the maximum.
const BACKOFF_MS: u64 = 50;
const BACKOFF_MS_MAX: u64 = 500;
/// Pause before an item that a follower could not take is sent again.
const RETRY_MS: u64 = 100;
/// A wish for other in-sync replicas is repeated after this.
const ASK_AGAIN_MS: u64 = 500;
/// A member this long behind is to leave the ISR.
const LAG_MS: u64 = 2_000;
const LAG_CHECK_MS: u64 = 500;
/// A step later than this was late by this broker's fault; the rest is not held against followers.
const STALL_MS: u64 = 1_000;
/// High watermarks of idle partitions are written this often.
const PERSIST_MS: u64 = 1_000;
/// Contact with a leader is shown this often.
const SHOW_CONTACT_MS: u64 = 1_000;
/// The longest time without a tick.
const IDLE_MS: u64 = 60_000;

/// What makes up the machine; see [`Replicas::new`].
#[derive(Clone, Debug)]
pub struct ReplicasConfig {
    /// This broker.
    pub me: BrokerId,
    /// This process: an image that holds another run is not about it.
    pub run_id: RunId,
    /// Multiplies every timeout.
    pub timeout_scale: u32,
    /// Rules switched off by tests; empty in production.
    pub weakened: Vec<Weakening>,
}

/// One replica as read back from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReplica {
    /// Which partition.
    pub partition: TopicPartition,
    /// Highest leader epoch adopted.
    pub leader_epoch: LeaderEpoch,
    /// First offset.
    pub log_start: Offset,
    /// Next offset.
    pub log_end: Offset,
    /// High watermark as last written: at most the true one.
    pub high_watermark: Offset,
    /// Start offset of each leader epoch in the log, ascending.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

/// When a publisher is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// Once every in-sync replica has synced the record.
    All,
    /// Once the leader has synced it.
    Leader,
    /// At once.
    None,
}

/// Names one [`Action::Write`] until its [`Input::Written`]. Grows by one a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Names one [`Input::Request`] until its [`Action::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What happens to the replicas.
#[derive(Clone, Debug)]
pub enum Input {
    /// A newer committed image is to be obeyed.
    Image(Arc<Image>),
    /// A publisher's records. Kept until [`Input::Flush`], then merged with others of the partition into one batch
    /// (unless it is an idempotent producer's).
    Append {
        /// For [`Action::Acked`].
        ticket: Ticket,
        /// Where to.
        partition: TopicPartition,
        /// The records; offsets and epoch not yet set.
        batch: Batch,
        /// When to answer.
        acks: Acks,
        /// Refuse unless the log ends here.
        expected_offset: Option<Offset>,
    },
    /// The inbox is drained: place, write and push what was appended. A partition whose last batch is still on its way to
    /// an in-sync follower keeps gathering until it is answered.
    Flush {
        /// Wall clock, ms since 1970, for the records' timestamps.
        now_ms: i64,
    },
    /// An [`Action::Write`] is synced. Writes complete in order.
    Written {
        /// Which.
        id: WriteId,
    },
    /// A leader's request arrived. Always answered by one [`Action::Answer`].
    Request {
        /// For the answer.
        id: RequestId,
        /// The sender, authenticated.
        from: BrokerId,
        /// The request.
        request: ReplicateRequest,
    },
    /// The outcome of an [`Action::Push`].
    Reply {
        /// The follower's broker.
        from: BrokerId,
        /// Its answer; `None` if none came (refused, cut, timed out).
        reply: Option<ReplicateReply>,
    },
    /// The answer to [`Action::Load`].
    Loaded {
        /// As asked for.
        to: BrokerId,
        /// As asked for.
        partition: TopicPartition,
        /// As asked for.
        from: Offset,
        /// Whole batches, contiguous, the first of which contains `from`; empty if the log could not be read.
        batches: Vec<Batch>,
    },
    /// Whether this broker's storage takes writes. Without them publishers and followers' appends are refused.
    Storage {
        /// It does.
        healthy: bool,
    },
    /// Somebody wants to know that no other broker leads the partition yet. [`ReplicaView::proven`] reaches `round` once
    /// every in-sync replica has agreed to something that was sent after this.
    Prove {
        /// Which.
        partition: TopicPartition,
        /// The term that is asked about; nothing happens in any other.
        leader_epoch: LeaderEpoch,
        /// Higher than any before in the term.
        round: u64,
    },
    /// Time passed.
    Tick,
}

/// What the shell must do, in order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write in one transaction, sync, then give [`Input::Written`]. Later writes may be issued before.
    /// If it fails for good, the process stops.
    Write {
        /// For the completion.
        id: WriteId,
        /// One entry a partition.
        writes: Vec<ReplicaWrite>,
    },
    /// Send to the follower's broker; one is outstanding for each broker at a time.
    Push {
        /// Whom to.
        to: BrokerId,
        /// What.
        request: ReplicateRequest,
    },
    /// Read batches of the own log for a follower that is behind the memory tail.
    Load {
        /// For whom.
        to: BrokerId,
        /// Which partition.
        partition: TopicPartition,
        /// Start with the batch that contains this offset; it is below the synced log end.
        from: Offset,
        /// Stop before this many bytes, but after one batch at least.
        bytes_max: usize,
    },
    /// The answer to a leader's request.
    Answer {
        /// Which request.
        id: RequestId,
        /// The answer.
        reply: ReplicateReply,
    },
    /// The outcome of an [`Input::Append`].
    Acked {
        /// As given.
        ticket: Ticket,
        /// Where the records are, or why they are not.
        result: Result<Appended, AppendError>,
    },
    /// What readers may see of a replica changed.
    Visible {
        /// Which.
        partition: TopicPartition,
        /// Everything about it; `None`: no longer here.
        view: Option<ReplicaView>,
    },
    /// To the controller.
    AlterIsr(AlterIsr),
    /// A broken invariant that loses no data by going on: count it, log it, show it.
    Alarm {
        /// Which invariant.
        id: crate::invariants::Invariant,
        /// Which replica.
        partition: TopicPartition,
        /// What was seen.
        detail: String,
    },
}

/// A change of one replica on disk, done in one transaction in the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaWrite {
    /// Which.
    pub partition: TopicPartition,
    /// Drop everything of it (only after a tombstone).
    pub delete: bool,
    /// Drop batches and epoch starts at and above this offset.
    pub truncate_to: Option<Offset>,
    /// Drop all and start again here (a follower that fell behind the leader's log start).
    pub reset_to: Option<Offset>,
    /// A leader epoch that starts in the log.
    pub epoch_starts: Vec<(LeaderEpoch, Offset)>,
    /// To append, contiguous with the log end.
    pub batches: Vec<Batch>,
    /// Afterwards.
    pub leader_epoch: LeaderEpoch,
    /// Afterwards; whole batches below it are deleted.
    pub log_start: Offset,
    /// Afterwards.
    pub log_end: Offset,
    /// Afterwards.
    pub high_watermark: Offset,
}

/// Where a publish ended up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Timestamp given to the records, ms since 1970.
    pub timestamp_ms: i64,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// In-sync replicas at the time.
    pub isr: Vec<BrokerId>,
}

/// Why a publish was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum AppendError {
    /// Another broker leads (or none). Definite: nothing was written.
    #[error("this broker does not lead the partition")]
    NotLeader {
        /// Who may.
        leader: Option<BrokerId>,
    },
    /// Fewer live in-sync replicas than `min_isr`. Definite: nothing was written.
    #[error("{alive} of at least {min_isr} in-sync replicas are alive")]
    NotEnoughReplicas {
        /// Live in-sync replicas.
        alive: u32,
        /// The topic's minimum.
        min_isr: u32,
    },
    /// The log does not end where the publisher expects. Definite.
    #[error("the log ends at {log_end}")]
    UnexpectedEnd {
        /// Where it ends.
        log_end: Offset,
    },
    /// The storage takes no more. Definite.
    #[error("the storage is full")]
    StorageFull,
    /// Leadership was lost after the append: the records may or may not be kept. Ambiguous.
    #[error("leadership was lost before the records were committed; they may or may not be kept")]
    Unknown,
    /// The commit took longer than the publisher wanted to wait. Ambiguous. (Given by the shell.)
    #[error("the records were not committed in time; they may yet be")]
    TimedOut,
    /// Too much is waiting; come back later. Definite. (Given by the shell.)
    #[error("too many records are waiting")]
    Overloaded,
}

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Copies the leader.
    Follower,
    /// On disk, but the image places nothing here (or this process is not registered yet).
    Offline,
}

/// What readers and `/replicas` may see of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its role.
    pub role: Role,
    /// Epoch of the leader that it knows.
    pub leader_epoch: LeaderEpoch,
    /// First offset held.
    pub log_start: Offset,
    /// Records below it are committed and may be read.
    pub high_watermark: Offset,
    /// Next offset to be appended (synced or not).
    pub log_end: Offset,
    /// On the leader: how far each other replica is proven to match.
    pub followers: BTreeMap<BrokerId, Option<Offset>>,
    /// On a follower: when the leader was last heard.
    pub leader_seen: Option<Mono>,
    /// On a leader: the newest [`Input::Prove`] that every in-sync replica agreed to.
    pub proven: u64,
}

/// All replicas of one broker.
pub struct Replicas {
    config: ReplicasConfig,
    rules: rules::Rules,
    now: Mono,
    /// Grows with time, but not while this process was stopped.
    steady: u64,
    image: Option<Arc<Image>>,
    /// Set while the image holds this process.
    registered: Option<BrokerEpoch>,
    storage_healthy: bool,
    replicas: BTreeMap<TopicPartition, Replica>,
    links: BTreeMap<BrokerId, link::Link>,
    gathered: BTreeMap<TopicPartition, appends::Gathered>,
    /// Partitions whose gathered records are to be placed once they are not busy.
    flushed: BTreeSet<TopicPartition>,
    /// Wall clock when `now` was 0, ms since 1970, as of the last flush.
    wall: i64,
    writes: writes::Writes,
    timers: timers::Timers,
    lag_at: Option<Mono>,
    persist_at: Option<Mono>,
    /// Members of ISRs whose time of being behind is counted.
    behind: BTreeSet<(TopicPartition, BrokerId)>,
    /// Partitions whose high watermark is ahead of the written one.
    moved: BTreeSet<TopicPartition>,
    /// Bytes of all tails.
    tail_bytes: usize,
    /// Led partitions to be settled in this step.
    touched: BTreeSet<TopicPartition>,
    /// Links to be looked at in this step.
    busy: BTreeSet<BrokerId>,
    /// Replicas to be shown in this step.
    seen: BTreeSet<TopicPartition>,
    out: Out,
}

/// Actions of one step. Pushes come first, so that followers sync while the leader does.
#[derive(Debug, Default)]
struct Out {
    pushes: Vec<Action>,
    writes: Vec<Action>,
    rest: Vec<Action>,
}

impl Replicas {
    /// Makes the machine with the replicas found on disk. All are offline until an image registers this run.
    pub fn new(now: Mono, config: ReplicasConfig, stored: Vec<StoredReplica>) -> Self {
        let replicas = stored
            .into_iter()
            .map(|stored| (stored.partition, Replica::new(log::Log::stored(stored))))
            .collect();
        Self {
            rules: rules::Rules::new(config.weakened.clone()),
            config,
            now,
            steady: 0,
            image: None,
            registered: None,
            storage_healthy: true,
            replicas,
            links: BTreeMap::new(),
            gathered: BTreeMap::new(),
            flushed: BTreeSet::new(),
            wall: 0,
            writes: writes::Writes::default(),
            timers: timers::Timers::default(),
            lag_at: None,
            persist_at: None,
            behind: BTreeSet::new(),
            moved: BTreeSet::new(),
            tail_bytes: 0,
            touched: BTreeSet::new(),
            busy: BTreeSet::new(),
            seen: BTreeSet::new(),
            out: Out::default(),
        }
    }

    /// Takes one input and returns what must be done, in order.
    pub fn step(&mut self, now: Mono, input: Input) -> Vec<Action> {
        let passed = now.saturating_sub(self.now);
        self.steady += passed.min(self.ms(STALL_MS));
        self.now += passed;
        match input {
            Input::Image(image) => {
                self.obey(image);
                self.place_flushed();
            }
            Input::Append { ticket, partition, batch, acks, expected_offset } => {
                self.gather((ticket, batch, acks), partition, expected_offset);
            }
            Input::Flush { now_ms } => {
                self.flush(now_ms);
                self.place_flushed();
            }
            Input::Written { id } => {
                self.written(id);
                self.place_flushed();
            }
            Input::Request { id, from, request } => self.receive(id, from, &request),
            Input::Reply { from, reply } => {
                self.replied(from, reply);
                self.place_flushed();
            }
            Input::Loaded { to, partition, from, batches } => self.loaded(to, partition, from, batches),
            Input::Storage { healthy } => self.storage_healthy = healthy,
            Input::Prove { partition, leader_epoch, round } => self.prove(partition, leader_epoch, round),
            Input::Tick => self.fire_timers(),
        }
        self.finish()
    }

    /// Returns when the next [`Input::Tick`] is due.
    pub fn deadline(&self) -> Mono {
        self.timers.first().unwrap_or(self.now + IDLE_MS)
    }

    /// Returns what there is to see of one replica.
    pub fn view(&self, partition: TopicPartition) -> Option<ReplicaView> {
        self.replicas.get(&partition).map(|replica| replica.view(self.config.me, &self.rules))
    }

    fn fire_timers(&mut self) {
        while let Some((at, timer)) = self.timers.due(self.now) {
            match timer {
                Timer::KeepAlive(id, partition) => self.keep_alive_due(at, id, partition),
                Timer::Retry(id, partition) => self.wake(partition, id),
                Timer::Link(id) => self.link_due(at, id),
                Timer::Lag => self.lag_due(at),
                Timer::Ask(partition) => self.ask_due(at, partition),
                Timer::Persist => self.persist_due(at),
            }
        }
    }

    /// Draws the consequences of a step, each partition and link once.
    fn finish(&mut self) -> Vec<Action> {
        while let Some(partition) = self.touched.pop_first() {
            self.settle(partition);
        }
        while let Some(id) = self.busy.pop_first() {
            self.pump(id);
        }
        self.seal();
        self.arm_persist();
        let mut actions = std::mem::take(&mut self.out.pushes);
        actions.append(&mut self.out.writes);
        actions.append(&mut self.out.rest);
        for partition in std::mem::take(&mut self.seen) {
            actions.push(Action::Visible { partition, view: self.view(partition) });
        }
        actions
    }

    /// Scales a timeout.
    fn ms(&self, ms: u64) -> u64 {
        ms * u64::from(self.config.timeout_scale.max(1))
    }
}
