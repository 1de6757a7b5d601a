//! One candidacy, from the first question to the last promise: probe, claim, win.

use super::election::{Answer, Claim, Probe, Role};
use super::image::Image;
use super::machine::{Control, founders};
use super::{Event, Weakening};
use crate::Mono;
use crate::ids::{At, BrokerId, ControllerEpoch, StorageId, Voter};
use crate::wire::internal::{Heard, Message};
use std::collections::{BTreeMap, BTreeSet};

impl Control {
    pub(super) fn probe(&mut self, now: Mono) {
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
    pub(super) fn end_probe(&mut self, now: Mono) {
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
        self.hard.voted_for = Some(self.voter());
        self.see_epoch(self.hard.epoch);
        self.election.controller = None;
        self.election.began.get_or_insert(now);
        if !self.weakened(Weakening::PromiseNotPersisted) {
            self.persist();
        }
        let empty = |(id, answer): (&BrokerId, &Answer)| {
            (!answer.in_cluster).then_some((*id, (answer.storage_id, answer.start)))
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
    pub(super) fn send_claims(&mut self) {
        let Role::Claiming(claim) = &self.election.role else { return };
        let expected: Vec<_> = match (&claim.founders, &self.hard.accepted) {
            (Some(founders), _) => {
                founders.iter().map(|(id, (storage, start))| (*id, *storage, Some(*start))).collect()
            }
            (None, Some(image)) => {
                let known = |(id, storage): (&BrokerId, &StorageId)| {
                    (*id, *storage, image.start_of(Voter { id: *id, storage_id: *storage }))
                };
                image.voters.iter().map(known).collect()
            }
            (None, None) => Vec::new(),
        };
        let genesis = claim.founders.as_ref().and(self.genesis.clone());
        let (handover, granted) = (claim.handover, claim.grants.clone());
        for (voter, expect_storage, expect_start) in expected {
            if !granted.contains_key(&voter) {
                let (epoch, accepted) = (self.hard.epoch, self.accepted_at());
                let (genesis, start) = (genesis.clone(), self.start());
                let claim = Message::Claim {
                    epoch,
                    accepted,
                    start,
                    expect_storage,
                    expect_start,
                    handover,
                    genesis,
                };
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

    pub(super) fn on_ok(&mut self, now: Mono, from: BrokerId, message: Message) {
        let Message::Ok { round, epoch, hears, can_lead, cluster_id, storage_id, start, genesis, accepted } =
            message
        else {
            return;
        };
        self.see_epoch(epoch);
        let foreign = self.hard.cluster_id.is_some_and(|mine| cluster_id.is_some_and(|id| id != mine));
        let answer = Answer {
            hears: hears.is_some(),
            can_lead,
            in_cluster: cluster_id.is_some() || accepted != At::default(),
            storage_id,
            start,
            genesis: genesis.map(founders),
        };
        if let Role::Probing(probe) = &mut self.election.role
            && round == self.election.round
            && !foreign
        {
            probe.answers.insert(from, answer);
            self.end_probe(now);
        }
    }

    pub(super) fn on_coordinator(&mut self, now: Mono, from: BrokerId, epoch: ControllerEpoch) {
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

    pub(super) fn on_handover(&mut self, now: Mono, from: BrokerId, epoch: ControllerEpoch) {
        let idle = !matches!(self.election.role, Role::Claiming(_) | Role::Leading(_));
        let rightful = epoch == self.hard.epoch && self.election.controller == Some(from);
        if rightful && idle && self.hard.accepted.is_some() && self.can_lead(now) {
            self.claim(now, true, &BTreeMap::new());
        }
    }

    pub(super) fn on_election(&mut self, now: Mono, from: BrokerId, round: u64, epoch: ControllerEpoch) {
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
            start: self.start(),
            genesis: self.genesis.clone(),
        };
        self.send(from, answer);
        // Bully: a higher id that is asked takes over.
        if !hears && can_lead && self.me > from && matches!(self.election.role, Role::Follower) {
            self.probe(now);
        }
    }

    pub(super) fn on_claim(&mut self, now: Mono, candidate: Voter, claim: Message) {
        let Message::Claim { epoch, accepted, start, expect_storage, expect_start, handover, genesis } =
            claim
        else {
            return;
        };
        self.see_epoch(epoch);
        let from = candidate.id;
        let volume = expect_storage == self.hard.storage_id || self.weakened(Weakening::AmnesiacVoter);
        let whole = self.is_whole(expect_start) && !self.is_old_copy(candidate, start);
        let founding = genesis.is_none_or(|list| self.may_found() && Some(founders(list)) == self.genesis);
        let bound = !handover && self.hears_controller(now) && self.election.controller != Some(from);
        let free = self.promised_to(candidate) || self.weakened(Weakening::DoubleVote);
        let open = epoch > self.hard.epoch || (epoch == self.hard.epoch && free);
        let granted = volume && whole && founding && !bound && open;
        if granted && (epoch, Some(candidate)) != (self.hard.epoch, self.hard.voted_for) {
            let wait = self.patience();
            self.withdraw(now, wait);
            self.election.controller = None;
            self.hard.epoch = epoch;
            self.hard.voted_for = Some(candidate);
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
            to_storage: candidate.storage_id,
            storage_id: self.hard.storage_id,
        };
        self.send(from, grant);
    }

    pub(super) fn on_grant(&mut self, now: Mono, from: BrokerId, from_storage: StorageId, grant: Message) {
        let Message::Grant { epoch, granted, accepted: at, image, to_storage, storage_id: storage } = grant
        else {
            return;
        };
        if !granted {
            self.see_epoch(epoch);
            if epoch > self.hard.epoch && matches!(self.election.role, Role::Claiming(_)) {
                let wait = self.jitter(self.timing.rank * 2 / 3, self.timing.rank * 4 / 3);
                self.withdraw(now, wait);
            }
            return;
        }
        let meant = to_storage == self.hard.storage_id || self.weakened(Weakening::PromiseNamesBroker);
        if epoch != self.hard.epoch || storage != from_storage || !meant {
            return;
        }
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
