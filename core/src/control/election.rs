//! Who becomes controller: the Bully algorithm, bounded by a majority's persisted promises.
//!
//! ELECTION doubles as a pre-vote: nobody claims an epoch while a majority still hears a controller. Two clocks are
//! never mixed: `lease` is set only by HEARTBEAT and ACCEPT and says whether a controller is heard; `timer` says when
//! to campaign next and is moved by anything that postpones it. One clock for both lets healthy voters tell each
//! other for ever that they hear a controller (KAFKA-17641). Source: Garcia-Molina 1982.

use super::image::Image;
use super::machine::{Control, founders};
use super::register::Leading;
use super::{Event, Weakening};
use crate::Mono;
use crate::ids::{At, BrokerId, ControllerEpoch, Start, StorageId, Voter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What this broker does about the controller's role.
#[derive(Debug)]
pub(super) enum Role {
    /// Follows a controller, or waits until it is time to look for one.
    Follower,
    /// Asks who is there.
    Probing(Probe),
    /// Lets a higher id stand.
    Yielding { to: BrokerId, until: Mono },
    /// Asks for promises.
    Claiming(Claim),
    /// Is controller, or will be once its barrier is committed.
    Leading(Box<Leading>),
}

/// One election round.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) until: Mono,
    pub(super) answers: BTreeMap<BrokerId, Answer>,
    pub(super) refused: BTreeSet<BrokerId>,
}

/// What an OK said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) hears: bool,
    pub(super) can_lead: bool,
    pub(super) in_cluster: bool,
    pub(super) storage_id: StorageId,
    pub(super) start: Start,
    pub(super) genesis: Option<Vec<BrokerId>>,
}

/// One candidacy.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) until: Mono,
    pub(super) resend: Mono,
    pub(super) handover: bool,
    /// For genesis: the volumes and processes of all other founders.
    pub(super) founders: Option<BTreeMap<BrokerId, (StorageId, Start)>>,
    pub(super) grants: BTreeMap<BrokerId, StorageId>,
    /// Where the granters' accepted images are.
    pub(super) accepted: BTreeMap<BrokerId, At>,
    pub(super) best: Option<Arc<Image>>,
}

/// The election's state.
#[derive(Debug)]
pub(super) struct Election {
    pub(super) role: Role,
    pub(super) controller: Option<BrokerId>,
    /// The controller's port refused a connection since its last HEARTBEAT.
    refused: bool,
    lease: Mono,
    poked: bool,
    pub(super) timer: Mono,
    pub(super) wait: Mono,
    pub(super) skip: BTreeMap<BrokerId, Mono>,
    pub(super) round: u64,
    /// When the last probe ended, and whether a majority answered it.
    pub(super) last_probe: Option<(Mono, bool)>,
    /// Since when there is a campaign here.
    pub(super) began: Option<Mono>,
    followed: Option<(BrokerId, ControllerEpoch)>,
}

impl Election {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            role: Role::Follower,
            controller: None,
            refused: false,
            lease: now,
            poked: true,
            timer: now,
            wait: 0,
            skip: BTreeMap::new(),
            round: 0,
            last_probe: None,
            began: None,
            followed: None,
        }
    }

    /// Returns who was controller before, as far as this process followed it.
    pub(super) fn predecessor(&self) -> Option<BrokerId> {
        self.followed.map(|(id, _)| id)
    }

    pub(super) fn remember(&mut self, controller: BrokerId, epoch: ControllerEpoch) {
        self.followed = Some((controller, epoch));
    }
}

impl Control {
    /// Returns whether this broker may found a cluster: it is empty and on its own list of founders.
    pub(super) fn may_found(&self) -> bool {
        let empty = self.hard.accepted.is_none() && self.hard.cluster_id.is_none();
        empty && self.genesis.as_ref().is_some_and(|list| list.contains(&self.me))
    }

    /// Returns whether this broker may claim an epoch at all.
    pub(super) fn may_stand(&self) -> bool {
        self.stop.is_none() && (self.is_voter() || self.may_found())
    }

    fn is_voter(&self) -> bool {
        self.hard.accepted.as_ref().is_some_and(|image| self.votes_in(image, self.me, self.hard.storage_id))
    }

    /// Returns whether a broker's promise counts by that image.
    pub(super) fn votes_in(&self, image: &Image, id: BrokerId, storage_id: StorageId) -> bool {
        image.is_voter(id, storage_id)
            || (self.weakened(Weakening::AmnesiacVoter) && image.voters.contains_key(&id))
    }

    pub(super) fn can_lead(&self, now: Mono) -> bool {
        let heard = |(at, heard): (Mono, bool)| heard || now > at + 2 * self.timing.elect;
        self.may_stand() && self.healthy && self.election.last_probe.is_none_or(heard)
    }

    /// Returns the other voters, or founders.
    pub(super) fn rivals(&self) -> Vec<BrokerId> {
        let ids: Vec<_> = match &self.hard.accepted {
            Some(image) => image.voters.keys().copied().collect(),
            None => self.genesis.clone().unwrap_or_default(),
        };
        ids.into_iter().filter(|id| *id != self.me).collect()
    }

    fn higher(&self) -> Mono {
        self.rivals().iter().filter(|id| **id > self.me).map(|_| 1).sum()
    }

    /// Returns how long silence of the controller is borne. Voters that can't write let the others go first.
    pub(super) fn patience(&self) -> Mono {
        let weak = if self.healthy { 0 } else { self.timing.elect };
        self.timing.elect + self.timing.rank * self.higher() + weak
    }

    /// Sets the wait of a fresh process: none for founders and single voters, short for others.
    pub(super) fn first_wait(&mut self, now: Mono) {
        self.election.timer = now;
        let alone = self.rivals().is_empty();
        self.election.wait =
            if alone || self.may_found() { 0 } else { self.timing.rank * (1 + self.higher()) };
    }

    /// Returns whether a controller is freshly heard; by its own sockets and clock, never by hearsay.
    pub(super) fn hears_controller(&self, now: Mono) -> bool {
        let heard = self.election.controller.is_some() && !self.election.refused;
        matches!(self.election.role, Role::Leading(_))
            || (heard && now < self.election.lease + self.timing.elect)
    }

    pub(super) fn see_epoch(&mut self, epoch: ControllerEpoch) {
        self.seen_epoch = self.seen_epoch.max(epoch);
    }

    pub(super) fn election_deadline(&self) -> Mono {
        match &self.election.role {
            Role::Follower => {
                let poke =
                    if self.election.poked { Mono::MAX } else { self.election.lease + self.timing.poke };
                let stand =
                    if self.may_stand() { self.election.timer + self.election.wait } else { Mono::MAX };
                poke.min(stand)
            }
            Role::Probing(probe) => probe.until,
            Role::Yielding { until, .. } => *until,
            Role::Claiming(claim) => claim.until.min(claim.resend),
            Role::Leading(leading) => self.leading_deadline(leading),
        }
    }

    pub(super) fn tick_role(&mut self, now: Mono) {
        match &mut self.election.role {
            Role::Follower => {
                if !self.election.poked && now >= self.election.lease + self.timing.poke {
                    self.election.poked = true;
                    self.acknowledge(now);
                }
                if self.may_stand() && now >= self.election.timer + self.election.wait {
                    self.probe(now);
                }
            }
            Role::Probing(_) => self.end_probe(now),
            Role::Yielding { to, until } if now >= *until => {
                // A higher id that answers but can't win must not block everybody.
                let to = *to;
                self.election.skip.insert(to, now + self.timing.skip);
                self.probe(now);
            }
            Role::Yielding { .. } => {}
            Role::Claiming(claim) if now >= claim.until => {
                let wait = self.jitter(self.timing.rank, 2 * self.timing.rank);
                self.withdraw(now, wait);
            }
            Role::Claiming(claim) if now >= claim.resend => {
                claim.resend = Mono::MAX;
                self.send_claims();
            }
            Role::Claiming(_) => {}
            Role::Leading(_) => self.tick_leading(now),
        }
    }

    /// A process that did not run must not take its own silence for the controller's.
    pub(super) fn resumed_late(&mut self, now: Mono) {
        match &mut self.election.role {
            Role::Follower => {
                self.election.timer = self.election.timer.max(now.saturating_sub(self.timing.grace));
                self.election.wait = self.patience();
            }
            Role::Leading(leading) => leading.bear_with_all(now, &self.timing),
            Role::Probing(probe) => probe.until = now + self.timing.grace,
            Role::Yielding { until, .. } => *until = now + self.timing.grace,
            Role::Claiming(claim) => claim.until = claim.until.max(now + self.timing.grace),
        }
    }

    /// Returns to following nobody in particular, for at least `wait`. Never touches the lease.
    pub(super) fn withdraw(&mut self, now: Mono, wait: Mono) {
        if matches!(self.election.role, Role::Leading(_)) {
            self.resign("another epoch began");
        }
        self.election.role = Role::Follower;
        self.election.timer = now;
        self.election.wait = wait;
    }

    /// Follows the controller that a HEARTBEAT or an image came from; its epoch was checked.
    pub(super) fn follow(&mut self, now: Mono, from: BrokerId, epoch: ControllerEpoch) {
        let wait = self.patience();
        self.withdraw(now, wait);
        self.election.controller = Some(from);
        self.election.refused = false;
        self.election.lease = now;
        self.election.poked = false;
        self.election.began = None;
        self.election.skip.remove(&from);
        if self.election.followed != Some((from, epoch)) {
            let other = self.election.followed.is_none_or(|(id, _)| id != from);
            self.counters.controller_changes += u64::from(other);
            self.election.followed = Some((from, epoch));
            self.event(Event::ControllerElected { broker: from, epoch });
        }
    }

    /// Returns this broker on its present volume.
    pub(super) fn voter(&self) -> Voter {
        Voter { id: self.me, storage_id: self.hard.storage_id }
    }

    /// Returns whether the present epoch is promised to nobody else.
    pub(super) fn promised_to(&self, candidate: Voter) -> bool {
        let any_volume = self.weakened(Weakening::PromiseNamesBroker);
        self.hard.voted_for.is_none_or(|to| to == candidate || (any_volume && to.id == candidate.id))
    }

    /// Returns the start of this process.
    pub(super) fn start(&self) -> Start {
        Start { boot: self.hard.boot, run_id: self.config.run_id }
    }

    /// Returns whether this volume is not older than what others know of it.
    pub(super) fn is_whole(&self, known: Option<Start>) -> bool {
        known.is_none_or(|known| self.start().follows(known)) || self.weakened(Weakening::OldCopyTrusted)
    }

    /// Returns whether another broker runs on an older copy of its volume, as far as is known here.
    pub(super) fn is_old_copy(&self, of: Voter, start: Start) -> bool {
        let known = self.hard.accepted.as_ref().and_then(|image| image.start_of(of));
        known.is_some_and(|known| !start.follows(known)) && !self.weakened(Weakening::OldCopyTrusted)
    }

    /// Takes a higher epoch, or this epoch's only rightful controller, as promised to its sender. Returns whether
    /// that has to be persisted.
    pub(super) fn adopt_epoch(&mut self, from: Voter, epoch: ControllerEpoch) -> bool {
        self.see_epoch(epoch);
        let news = epoch > self.hard.epoch || (epoch == self.hard.epoch && self.hard.voted_for != Some(from));
        if news {
            self.hard.epoch = epoch;
            self.hard.voted_for = Some(from);
        }
        news
    }

    pub(super) fn unreachable(&mut self, now: Mono, peer: BrokerId) {
        if peer == self.me {
            return;
        }
        if self.election.controller == Some(peer) && !self.election.refused {
            self.election.refused = true;
            if matches!(self.election.role, Role::Follower) {
                self.election.timer = now;
                self.election.wait = self.timing.rank / 3 * self.higher();
            }
        }
        match &mut self.election.role {
            Role::Probing(probe) => {
                probe.refused.insert(peer);
                self.end_probe(now);
            }
            Role::Yielding { to, .. } if *to == peer => {
                self.election.skip.insert(peer, now + self.timing.skip);
                self.probe(now);
            }
            Role::Leading(leading) => leading.refused(now, peer, &self.timing),
            Role::Follower | Role::Yielding { .. } | Role::Claiming(_) => {}
        }
    }

    pub(super) fn learn_founders(&mut self, now: Mono, list: Vec<BrokerId>) {
        if self.genesis.is_none() && !list.is_empty() {
            self.genesis = Some(founders(list));
            if matches!(self.election.role, Role::Follower) {
                self.first_wait(now);
            }
        }
    }
}
