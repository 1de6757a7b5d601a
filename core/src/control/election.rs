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
use crate::ids::{At, BrokerId, ControllerEpoch, StorageId};
use crate::wire::internal::{Heard, Message};
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
    until: Mono,
    answers: BTreeMap<BrokerId, Answer>,
    refused: BTreeSet<BrokerId>,
}

/// What an OK said.
#[derive(Clone, Debug)]
struct Answer {
    hears: bool,
    can_lead: bool,
    in_cluster: bool,
    storage_id: StorageId,
    boot: u64,
    genesis: Option<Vec<BrokerId>>,
}

/// One candidacy.
#[derive(Debug)]
pub(super) struct Claim {
    until: Mono,
    resend: Mono,
    handover: bool,
    /// For genesis: the volumes and boots of all other founders.
    founders: Option<BTreeMap<BrokerId, (StorageId, u64)>>,
    pub(super) grants: BTreeMap<BrokerId, StorageId>,
    /// Where the granters' accepted images are.
    pub(super) accepted: BTreeMap<BrokerId, At>,
    best: Option<Arc<Image>>,
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
    timer: Mono,
    wait: Mono,
    skip: BTreeMap<BrokerId, Mono>,
    round: u64,
    /// When the last probe ended, and whether a majority answered it.
    last_probe: Option<(Mono, bool)>,
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
    fn rivals(&self) -> Vec<BrokerId> {
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
            self.event(Event::FollowsController { id: from, epoch });
        }
    }

    /// Takes a higher epoch, or this epoch's only rightful controller, as promised to its sender. Returns whether
    /// that has to be persisted.
    pub(super) fn adopt_epoch(&mut self, from: BrokerId, epoch: ControllerEpoch) -> bool {
        self.see_epoch(epoch);
        let news = epoch > self.hard.epoch || (epoch == self.hard.epoch && self.hard.voted_for != Some(from));
        if news {
            self.hard.epoch = epoch;
            self.hard.voted_for = Some(from);
        }
        news
    }

    pub(super) fn unreachable(&mut self, now: Mono, peer: BrokerId) {
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

    fn probe(&mut self, now: Mono) {
        if self.election.began.is_none() {
            self.election.began = Some(now);
            self.event(Event::ElectionStarted);
        }
        self.counters.elections_started += 1;
        self.election.round += 1;
        self.election.skip.retain(|_, until| *until > now);
        let until = now + self.timing.ok;
        self.election.role =
            Role::Probing(Probe { until, answers: BTreeMap::new(), refused: BTreeSet::new() });
        let message = Message::Election {
            round: self.election.round,
            epoch: self.hard.epoch,
            accepted: self.accepted_at(),
        };
        for rival in self.rivals() {
            self.send(rival, message.clone());
        }
        self.end_probe(now);
    }

    /// Ends the probe once everybody answered or refused, or the wait is over.
    fn end_probe(&mut self, now: Mono) {
        let rivals = self.rivals();
        let Role::Probing(probe) = &self.election.role else { return };
        let done = rivals.iter().all(|id| probe.answers.contains_key(id) || probe.refused.contains(id));
        if !done && now < probe.until {
            return;
        }
        let answers = probe.answers.clone();
        let goes = match &self.hard.accepted {
            Some(image) => self.pre_vote(now, &image.clone(), &answers),
            None => self.all_found(&rivals, &answers),
        };
        if !goes {
            // Founders look for each other often: a cold start waits for the last of them only.
            let wait = if self.may_found() {
                let joined = answers.values().any(|answer| answer.in_cluster);
                let least = if joined { self.timing.elect } else { self.timing.rank * 2 / 3 };
                self.jitter(least, self.timing.rank * 2 / 3)
            } else {
                self.jitter(self.timing.rank * 4 / 3, self.timing.rank * 4 / 3)
            };
            return self.withdraw(now, wait);
        }
        let willing =
            |(id, answer): &(&BrokerId, &Answer)| **id > self.me && answer.can_lead && !answer.hears;
        let higher = answers.iter().filter(willing).map(|(id, _)| *id);
        let higher = higher.filter(|id| !self.election.skip.contains_key(id)).max();
        match higher {
            Some(to) => self.election.role = Role::Yielding { to, until: now + self.timing.coordinator },
            None => self.claim(now, false, &answers),
        }
    }

    /// Returns whether a majority hears no controller.
    fn pre_vote(&mut self, now: Mono, image: &Image, answers: &BTreeMap<BrokerId, Answer>) -> bool {
        let voters = answers.iter().filter(|(id, answer)| self.votes_in(image, **id, answer.storage_id));
        let (mut heard, mut quiet) = (1, 1);
        for (_, answer) in voters {
            heard += 1;
            quiet += usize::from(!answer.hears);
        }
        self.election.last_probe = Some((now, heard * 2 > image.voters.len()));
        quiet * 2 > image.voters.len() || self.weakened(Weakening::NoMajority)
    }

    /// Returns whether every founder answered, is empty and holds the same list.
    fn all_found(&self, rivals: &[BrokerId], answers: &BTreeMap<BrokerId, Answer>) -> bool {
        let agrees = |id: &&BrokerId| {
            let answer = answers.get(id);
            answer.is_some_and(|answer| !answer.in_cluster && answer.genesis == self.genesis)
        };
        let agreed = rivals.iter().filter(agrees).count();
        let enough = self.weakened(Weakening::GenesisByMajority) && (agreed + 1) * 2 > rivals.len() + 1;
        self.may_found() && (agreed == rivals.len() || enough)
    }

    /// Stands for the next epoch.
    fn claim(&mut self, now: Mono, handover: bool, answers: &BTreeMap<BrokerId, Answer>) {
        self.hard.epoch = ControllerEpoch(self.hard.epoch.max(self.seen_epoch).0 + 1);
        self.hard.voted_for = Some(self.me);
        self.see_epoch(self.hard.epoch);
        self.election.controller = None;
        self.election.began.get_or_insert(now);
        if !self.weakened(Weakening::PromiseNotPersisted) {
            self.persist();
        }
        let empty = |(id, answer): (&BrokerId, &Answer)| {
            (!answer.in_cluster).then_some((*id, (answer.storage_id, answer.boot)))
        };
        let founders = self.hard.accepted.is_none().then(|| answers.iter().filter_map(empty).collect());
        self.election.role = Role::Claiming(Claim {
            until: now + self.timing.claim,
            resend: now + self.timing.claim / 2,
            handover,
            founders,
            grants: BTreeMap::from([(self.me, self.hard.storage_id)]),
            accepted: BTreeMap::new(),
            best: self.hard.accepted.clone(),
        });
        self.send_claims();
        self.try_win(now);
    }

    /// Asks every voter that has not granted yet.
    fn send_claims(&mut self) {
        let Role::Claiming(claim) = &self.election.role else { return };
        let expected: Vec<_> = match (&claim.founders, &self.hard.accepted) {
            (Some(founders), _) => {
                founders.iter().map(|(id, (storage, boot))| (*id, *storage, *boot)).collect()
            }
            (None, Some(image)) => {
                let boot = |id: &BrokerId, storage: &StorageId| {
                    let known = image.brokers.get(id).filter(|entry| entry.storage_id == *storage);
                    known.map_or(0, |entry| entry.boot)
                };
                image.voters.iter().map(|(id, storage)| (*id, *storage, boot(id, storage))).collect()
            }
            (None, None) => Vec::new(),
        };
        let genesis = claim.founders.as_ref().and(self.genesis.clone());
        let (handover, granted) = (claim.handover, claim.grants.clone());
        for (voter, expect_storage, expect_boot) in expected {
            if !granted.contains_key(&voter) {
                let (epoch, accepted) = (self.hard.epoch, self.accepted_at());
                let genesis = genesis.clone();
                let claim =
                    Message::Claim { epoch, accepted, expect_storage, expect_boot, handover, genesis };
                self.send(voter, claim);
            }
        }
    }

    pub(super) fn accepted_at(&self) -> At {
        self.hard.accepted.as_ref().map_or_else(At::default, |image| image.at)
    }

    fn fresher(&self, one: At, other: At) -> bool {
        if self.weakened(Weakening::CompareVersionOnly) { one.version > other.version } else { one > other }
    }

    pub(super) fn receive_election(
        &mut self,
        now: Mono,
        from: BrokerId,
        storage: StorageId,
        message: Message,
    ) {
        match message {
            Message::Election { round, epoch, accepted: _ } => self.on_election(now, from, round, epoch),
            Message::Ok {
                round,
                epoch,
                hears,
                can_lead,
                cluster_id,
                storage_id,
                boot,
                genesis,
                accepted,
            } => {
                self.see_epoch(epoch);
                let foreign =
                    self.hard.cluster_id.is_some_and(|mine| cluster_id.is_some_and(|id| id != mine));
                let in_cluster = cluster_id.is_some() || accepted != At::default();
                let genesis = genesis.map(founders);
                let hears = hears.is_some();
                if let Role::Probing(probe) = &mut self.election.role
                    && round == self.election.round
                    && !foreign
                {
                    probe
                        .answers
                        .insert(from, Answer { hears, can_lead, in_cluster, storage_id, boot, genesis });
                    self.end_probe(now);
                }
            }
            Message::Claim { .. } => self.on_claim(now, from, message),
            Message::Grant { epoch, granted: false, .. } => {
                self.see_epoch(epoch);
                if epoch > self.hard.epoch && matches!(self.election.role, Role::Claiming(_)) {
                    let wait = self.jitter(self.timing.rank * 2 / 3, self.timing.rank * 4 / 3);
                    self.withdraw(now, wait);
                }
            }
            Message::Grant { epoch, accepted, image, storage_id, .. } => {
                if epoch == self.hard.epoch && storage == storage_id {
                    self.on_grant(now, from, accepted, image, storage_id);
                }
            }
            Message::Coordinator { epoch, .. } => {
                self.see_epoch(epoch);
                let stale = epoch < self.hard.epoch;
                if stale && self.weakened(Weakening::ObeyStaleCoordinator) {
                    self.follow(now, from, epoch);
                } else if !stale && matches!(self.election.role, Role::Probing(_) | Role::Yielding { .. }) {
                    // A hint: it postpones campaigns, but only HEARTBEAT and ACCEPT make a lease.
                    let wait = self.patience();
                    self.withdraw(now, wait);
                }
            }
            Message::Handover { epoch } => {
                let idle = !matches!(self.election.role, Role::Claiming(_) | Role::Leading(_));
                let rightful = epoch == self.hard.epoch && self.election.controller == Some(from);
                if rightful && idle && self.hard.accepted.is_some() && self.can_lead(now) {
                    self.claim(now, true, &BTreeMap::new());
                }
            }
            _ => unreachable!("only election messages come here"),
        }
    }

    fn on_election(&mut self, now: Mono, from: BrokerId, round: u64, epoch: ControllerEpoch) {
        self.see_epoch(epoch);
        let hears = self.hears_controller(now);
        let id = if matches!(self.election.role, Role::Leading(_)) {
            Some(self.me)
        } else {
            self.election.controller
        };
        let can_lead = self.can_lead(now);
        let answer = Message::Ok {
            round,
            epoch: self.hard.epoch,
            accepted: self.accepted_at(),
            hears: id.filter(|_| hears).map(|id| Heard { id, epoch: self.hard.epoch }),
            can_lead,
            cluster_id: self.hard.cluster_id,
            storage_id: self.hard.storage_id,
            boot: self.hard.boot,
            genesis: self.genesis.clone(),
        };
        self.send(from, answer);
        // Bully: a higher id that is asked takes over.
        if !hears && can_lead && self.me > from && matches!(self.election.role, Role::Follower) {
            self.probe(now);
        }
    }

    fn on_claim(&mut self, now: Mono, from: BrokerId, claim: Message) {
        let Message::Claim { epoch, accepted, expect_storage, expect_boot, handover, genesis } = claim else {
            return;
        };
        self.see_epoch(epoch);
        let volume = expect_storage == self.hard.storage_id || self.weakened(Weakening::AmnesiacVoter);
        let founding = genesis.is_none_or(|list| self.may_found() && Some(founders(list)) == self.genesis);
        let bound = !handover && self.hears_controller(now) && self.election.controller != Some(from);
        let free = self.hard.voted_for.is_none_or(|to| to == from) || self.weakened(Weakening::DoubleVote);
        let open = epoch > self.hard.epoch || (epoch == self.hard.epoch && free);
        let granted = volume && expect_boot <= self.hard.boot && founding && !bound && open;
        if granted && (epoch, Some(from)) != (self.hard.epoch, self.hard.voted_for) {
            let wait = self.patience();
            self.withdraw(now, wait);
            self.election.controller = None;
            self.hard.epoch = epoch;
            self.hard.voted_for = Some(from);
            if !self.weakened(Weakening::PromiseNotPersisted) {
                self.persist();
            }
        }
        let mine = self.accepted_at();
        let fresher = granted && self.fresher(mine, accepted);
        let grant = Message::Grant {
            epoch: if granted { epoch } else { self.hard.epoch },
            granted,
            accepted: mine,
            image: if fresher { self.hard.accepted.clone() } else { None },
            storage_id: self.hard.storage_id,
        };
        self.send(from, grant);
    }

    fn on_grant(&mut self, now: Mono, from: BrokerId, at: At, image: Option<Arc<Image>>, storage: StorageId) {
        let known = self.accepted_at();
        let fresher = self.fresher(at, known);
        let own_cluster = self.hard.cluster_id;
        let Role::Claiming(claim) = &mut self.election.role else { return };
        if claim.founders.is_some() && at != At::default() {
            return;
        }
        if fresher {
            // A promise counts only together with what its giver accepted before.
            let Some(image) = image.filter(|image| image.at == at) else { return };
            if own_cluster.is_some_and(|mine| mine != image.cluster_id) {
                return;
            }
            let best = claim.best.as_ref().map_or_else(At::default, |best| best.at);
            if self.fresher(image.at, best)
                && let Role::Claiming(claim) = &mut self.election.role
            {
                claim.best = Some(image);
            }
        }
        let Role::Claiming(claim) = &mut self.election.role else { return };
        claim.grants.insert(from, storage);
        claim.accepted.insert(from, at);
        self.try_win(now);
    }

    /// Becomes controller if the grants are a majority of the freshest image's voters; or, for genesis, of everybody.
    fn try_win(&mut self, now: Mono) {
        let Role::Claiming(claim) = &self.election.role else { return };
        let classic = self.weakened(Weakening::NoMajority);
        if let Some(expected) = &claim.founders {
            let all = expected.iter().all(|(id, (storage, _))| claim.grants.get(id) == Some(storage));
            if all {
                let voters = claim.grants.clone();
                self.found(now, voters);
            }
            return;
        }
        let best = if self.weakened(Weakening::KeepOwnImage) { &self.hard.accepted } else { &claim.best };
        let Some(best) = best.clone() else { return };
        let promised =
            claim.grants.iter().filter(|(id, storage)| self.votes_in(&best, **id, **storage)).count();
        let votes = self.votes_in(&best, self.me, self.hard.storage_id);
        if votes && (promised * 2 > best.voters.len() || classic) {
            let accepted = claim.accepted.clone();
            self.begin_leading(now, best, &accepted);
        }
    }
}
