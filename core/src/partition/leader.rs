//! The leader's rules: what is committed, who is in sync, where a follower's log agrees.

use super::log::Log;
use super::rules::Rules;
use super::tail::Tail;
use super::{Acks, Appended};
use crate::Mono;
use crate::control::image::{BrokerState, Image, PartitionEntry};
use crate::control::{Ticket, Weakening};
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartEpoch};
use crate::record::Batch;
use std::collections::{BTreeMap, VecDeque};

/// The state of one term of leading a partition.
#[derive(Debug)]
pub(super) struct Leading {
    /// Log end when the term began.
    pub(super) epoch_start: Offset,
    /// Committed in-sync replicas.
    pub(super) isr: Vec<BrokerId>,
    pub(super) part_epoch: PartEpoch,
    pub(super) min_isr: u32,
    /// In-sync replicas that the image does not show as fenced.
    pub(super) alive: u32,
    pub(super) followers: BTreeMap<BrokerId, Progress>,
    pub(super) asked: Option<Asked>,
    /// Newest round of proof that was asked for; see [`super::Input::Prove`].
    pub(super) proving: u64,
    pub(super) tail: Tail,
    /// Waiting for the high watermark, in the order of the log.
    pub(super) waiting_all: VecDeque<Waiting>,
    /// Waiting for the own disk, in the order of the log.
    pub(super) waiting_leader: VecDeque<Waiting>,
}

/// A publisher to be answered once the log is safe up to `end`.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) end: Offset,
    pub(super) ticket: Ticket,
    pub(super) appended: Appended,
}

/// A wish for other in-sync replicas that is not answered by an image yet.
#[derive(Debug)]
pub(super) struct Asked {
    /// All wanted members, as registered when asked for.
    pub(super) isr: Vec<(BrokerId, BrokerEpoch)>,
    /// Everyone whom a wish at this `part_epoch` would add, the present wish or an earlier one that it replaces: any of
    /// them may still be granted, one at most.
    pub(super) adding: BTreeMap<BrokerId, BrokerEpoch>,
    /// The present wish would be refused.
    pub(super) hopeless: bool,
    pub(super) again_at: Mono,
}

/// How far one follower is, as the leader knows.
#[derive(Debug)]
pub(super) struct Progress {
    /// The process that `matched` is about.
    pub(super) registration: Option<BrokerEpoch>,
    /// Whether the image shows it as silent.
    pub(super) fenced: bool,
    /// Whether it may be added to the ISR.
    pub(super) active: bool,
    /// Its synced log is proven to equal the leader's below this.
    pub(super) matched: Option<Offset>,
    /// Where the next item starts: a batch boundary of the leader's log.
    pub(super) next: Offset,
    pub(super) load: Load,
    /// The high watermark that it last took.
    pub(super) high_watermark: Option<Offset>,
    pub(super) sent_at: Option<Mono>,
    /// When it last proved anything: who is silent does not join, however little there was to prove.
    pub(super) matched_at: Option<Mono>,
    /// Rounds of proof that had begun when it was sent something last, and those that it has agreed to.
    pub(super) rounds: super::proof::Rounds,
    /// The one keep-alive timer that counts.
    pub(super) keep_alive_at: Mono,
    /// Nothing is sent before.
    pub(super) hold_until: Mono,
    pub(super) lag: Option<Lag>,
}

/// Where the batches of the next item come from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Load {
    /// From memory, or there are none.
    #[default]
    No,
    /// From disk; asked for from this offset.
    Asked(Offset),
    /// From disk; here they are.
    Ready(VecDeque<Batch>),
}

/// How long a member has been behind, on a clock that stands still while the leader itself is the cause.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Lag {
    pub(super) before: u64,
    /// Since when it runs; `None` while paused.
    pub(super) since: Option<u64>,
}

impl Lag {
    pub(super) fn total(self, steady: u64) -> u64 {
        self.before + self.since.map_or(0, |since| steady - since)
    }

    pub(super) fn pause(&mut self, steady: u64) {
        *self = Self { before: self.total(steady), since: None };
    }

    pub(super) fn run(&mut self, steady: u64) {
        self.since.get_or_insert(steady);
    }
}

impl Progress {
    pub(super) fn new(
        registration: Option<(BrokerEpoch, BrokerState)>,
        next: Offset,
        keep_alive_at: Mono,
    ) -> Self {
        Self {
            registration: registration.map(|found| found.0),
            fenced: registration.is_none_or(|found| found.1 == BrokerState::Fenced),
            active: registration.is_some_and(|found| found.1 == BrokerState::Active),
            matched: None,
            next,
            load: Load::No,
            high_watermark: None,
            sent_at: None,
            matched_at: None,
            rounds: super::proof::Rounds::default(),
            keep_alive_at,
            hold_until: 0,
            lag: None,
        }
    }
}

/// Returns how the image registers a broker.
pub(super) fn registration(image: &Image, id: BrokerId) -> Option<(BrokerEpoch, BrokerState)> {
    image.brokers.get(&id).map(|entry| (entry.broker_epoch, entry.state))
}

impl Leading {
    /// Starts a term at the present log end.
    pub(super) fn new(log: &Log, entry: &PartitionEntry, min_isr: u32) -> Self {
        Self {
            epoch_start: log.end,
            isr: entry.isr.clone(),
            part_epoch: entry.part_epoch,
            min_isr,
            alive: 0,
            followers: BTreeMap::new(),
            asked: None,
            proving: 0,
            tail: Tail::default(),
            waiting_all: VecDeque::new(),
            waiting_leader: VecDeque::new(),
        }
    }

    pub(super) fn matches(&self) -> impl Iterator<Item = (BrokerId, Option<Offset>)> + '_ {
        self.followers.iter().map(|(id, progress)| (*id, progress.matched))
    }

    /// Returns the high watermark as it should be (R3: never below the present one).
    ///
    /// It is the minimum over the maximal ISR: whichever of the committed and the wished-for ISR the controller elects
    /// from, every member holds what is committed. With fewer than `min_isr` committed members it stands still, since
    /// losing `min_isr - 1` volumes must not lose a committed record (R1).
    pub(super) fn high_watermark(&self, log: &Log, me: BrokerId, rules: &Rules) -> Offset {
        let committed = u32::try_from(self.isr.len()).unwrap_or(u32::MAX);
        let needed = if rules.without(Weakening::CommitBelowMinIsr) { 1 } else { self.min_isr.max(1) };
        if committed < needed {
            return log.high_watermark;
        }
        let mut end = log.synced_end.min(log.end);
        for member in self.maximal_isr(rules).filter(|member| *member != me) {
            match self.followers.get(&member).and_then(|progress| progress.matched) {
                Some(matched) => end = end.min(matched),
                None => return log.high_watermark,
            }
        }
        end.max(log.high_watermark)
    }

    /// Returns everyone whom the controller may elect: the committed ISR, and those whom a wish may have added by now. Some
    /// may come twice.
    pub(super) fn maximal_isr(&self, rules: &Rules) -> impl Iterator<Item = BrokerId> + '_ {
        let adding = match &self.asked {
            Some(asked) if !rules.without(Weakening::PendingNotCounted) => Some(asked.adding.keys()),
            Some(_) | None => None,
        };
        self.isr.iter().chain(adding.into_iter().flatten()).copied()
    }

    /// Takes the publishers that may be answered now.
    pub(super) fn answerable(&mut self, log: &Log) -> Vec<(Ticket, Appended)> {
        let mut done = Vec::new();
        for (queue, end) in
            [(&mut self.waiting_all, log.high_watermark), (&mut self.waiting_leader, log.synced_end)]
        {
            while let Some(waiting) = queue.pop_front_if(|waiting| waiting.end <= end) {
                done.push((waiting.ticket, Appended { isr: self.isr.clone(), ..waiting.appended }));
            }
        }
        done
    }

    /// Remembers a publisher; one that wants no wait is given back to be answered.
    pub(super) fn wait(&mut self, acks: Acks, waiting: Waiting) -> Option<Waiting> {
        match acks {
            Acks::All => self.waiting_all.push_back(waiting),
            Acks::Leader => self.waiting_leader.push_back(waiting),
            Acks::None => return Some(waiting),
        }
        None
    }

    /// Returns whether a follower outside the ISR holds all that any committed record needs: what this leader has
    /// committed, and everything that earlier leaders may have (a fresh leader's high watermark lags behind theirs, but
    /// its log at the start of its term holds all of it).
    fn may_join(&self, id: BrokerId, log: &Log, heard_since: Mono, rules: &Rules) -> bool {
        let Some(progress) = self.followers.get(&id) else { return false };
        let floor = if rules.without(Weakening::JoinAtHighWatermark) {
            log.high_watermark
        } else {
            log.high_watermark.max(self.epoch_start)
        };
        let heard = progress.matched_at.is_some_and(|at| at >= heard_since);
        heard && progress.active && progress.matched.is_some_and(|matched| matched >= floor)
    }

    /// Returns the ISR to ask for, if it differs from the committed one.
    ///
    /// Only who proved something at or after `heard_since` joins. `lagging` are members to be dropped, the worst first. The rest must number `min_isr` (the ISR floor of KIP-966
    /// in its simplest form): dead members stay and block, rather than leave records with too few copies.
    pub(super) fn wanted(
        &self,
        log: &Log,
        me: BrokerId,
        lagging: &[BrokerId],
        heard_since: Mono,
        rules: &Rules,
    ) -> Option<Vec<BrokerId>> {
        let joining = self
            .followers
            .keys()
            .filter(|id| !self.isr.contains(id) && self.may_join(**id, log, heard_since, rules));
        let mut wanted: Vec<BrokerId> = self.isr.iter().chain(joining).copied().collect();
        let joins = wanted.len() > self.isr.len();
        let floor = if rules.without(Weakening::NoIsrFloor) { 1 } else { self.min_isr.max(1) };
        // A fenced member would have the whole wish refused, so it is let go where the floor allows.
        let fenced =
            self.followers.iter().filter(|(_, progress)| joins && progress.fenced).map(|(id, _)| *id);
        for leaving in lagging.iter().copied().chain(fenced) {
            let enough = u32::try_from(wanted.len()).unwrap_or(u32::MAX) > floor;
            if enough && leaving != me {
                wanted.retain(|member| *member != leaving);
            }
        }
        (wanted != self.isr).then_some(wanted)
    }

    /// Learns the outcome of a wish, or that it can never succeed.
    ///
    /// A wish is refused unless its `part_epoch` matches the image and everyone whom it adds is registered as it says, and
    /// active. It may be in the controller's inbox for any time, so an added member counts until there is proof. A new
    /// `part_epoch` is one. The other: at an unchanged `part_epoch` the image shows that member registered anew. No wish
    /// with it was done before this image; after it, none can be, because broker epochs never come back. That the image
    /// shows the member fenced is no proof: a controller may take it back under the same registration before it reads the
    /// wish. Then the wish is withdrawn instead: one for the committed ISR itself moves `part_epoch`, and all older ones
    /// are void.
    pub(super) fn learn(&mut self, entry: &PartitionEntry, min_isr: u32, image: &Image) {
        self.min_isr = min_isr;
        if entry.part_epoch != self.part_epoch {
            self.part_epoch = entry.part_epoch;
            self.isr.clone_from(&entry.isr);
            self.asked = None;
        }
        let usable = |(id, epoch): &(BrokerId, BrokerEpoch)| {
            registration(image, *id).is_some_and(|found| found.0 == *epoch && found.1 != BrokerState::Fenced)
        };
        if let Some(asked) = &mut self.asked {
            asked.adding.retain(|id, epoch| registration(image, *id).is_some_and(|found| found.0 == *epoch));
            asked.hopeless = !asked.isr.iter().all(usable);
        }
        let alive =
            |id: &&BrokerId| registration(image, **id).is_some_and(|found| found.1 != BrokerState::Fenced);
        self.alive = u32::try_from(self.isr.iter().filter(alive).count()).unwrap_or(u32::MAX);
    }

    /// Returns the members that have been behind for at least `patience` ms, the worst first.
    pub(super) fn lagging(&self, steady: u64, patience: u64) -> Vec<BrokerId> {
        let total = |progress: &Progress| progress.lag.map_or(0, |lag| lag.total(steady));
        let mut late: Vec<(u64, BrokerId)> =
            self.followers.iter().map(|(id, progress)| (total(progress), *id)).collect();
        late.retain(|(total, id)| *total >= patience && self.isr.contains(id));
        late.sort_unstable_by(|one, other| other.cmp(one));
        late.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns below which offset every follower has proven to hold the log.
    pub(super) fn held_by_all(&self) -> Option<Offset> {
        self.followers
            .values()
            .map(|progress| progress.matched)
            .try_fold(Offset::MAX, |least, matched| matched.map(|matched| least.min(matched)))
    }
}

/// Returns where a follower's log may agree with the leader's, given the follower's newest epoch not above the one it
/// was asked about and where that ends (KIP-101, KIP-279). Always a batch boundary of the leader's log:
///
/// - The leader has records of `epoch` too. One broker wrote them all, so both logs hold a prefix of the same records up
///   to the lower end. Batches are stored unchanged, so the follower's end is a batch boundary here as well.
/// - It has not. Then all of them are in conflict, and the search goes on from the end of the leader's next older epoch;
///   the follower's `end_offset` may be inside a batch here and is of no use.
pub(super) fn agreement(log: &Log, epoch: LeaderEpoch, end_offset: Offset) -> Offset {
    match log.epochs.newest_up_to(epoch, log.end) {
        Some((found, end)) if found == epoch => end.min(end_offset).max(log.start),
        Some((_, end)) => end.max(log.start),
        None => log.start,
    }
}
