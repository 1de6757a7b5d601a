//! What is agreed: a register that holds the newest image, changed by one proposer per epoch.
//!
//! A winner adopts the freshest image that a majority had accepted and proposes it again, changed, under its own epoch
//! (the barrier); only then it is controller. An adopted image never counts as committed under its old tag. At most
//! one proposal is in flight; requests that arrive meanwhile are merged into the next. Source: CASPaxos, Viewstamped
//! Replication (view change with the freshest state).

use super::election::Role;
use super::image::{Draft, Image, Op};
use super::machine::Control;
use super::session::Session;
use super::{Action, Command, Event, Outcome, Refusal, Ticket, Weakening};
use crate::Mono;
use crate::ids::{At, BrokerId, ClusterId, ControllerEpoch, StorageId, TopicId, TopicPartition, Voter};
use crate::limits::IMAGE_DELTAS_MAX;
use crate::wire::internal::{AlterIsr, ImageBody, Message, Registration};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Deltas sent in a row to a lagging broker; one that lacks more gets the whole image.
const DELTAS_IN_A_ROW: usize = 32;

/// The controller's state for one epoch.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) epoch: ControllerEpoch,
    /// The barrier is committed.
    pub(super) ready: bool,
    /// The newest committed image of this epoch; the adopted one before the barrier.
    pub(super) current: Arc<Image>,
    pub(super) barrier: At,
    pub(super) inflight: Option<Proposal>,
    /// Admin requests for the next proposal.
    pub(super) commands: VecDeque<(Ticket, Command)>,
    /// Processes that want to be admitted.
    pub(super) registrations: BTreeMap<BrokerId, Registration>,
    /// ISR changes that leaders want.
    pub(super) alters: BTreeMap<TopicPartition, AlterIsr>,
    pub(super) sessions: BTreeMap<BrokerId, Session>,
    pub(super) next_heartbeat: Mono,
    /// Before it no (further) HANDOVER is sent.
    pub(super) next_handover: Mono,
    /// The image changed, or time passed, since it was last looked over.
    pub(super) review: bool,
    /// When leaderships are moved back next.
    pub(super) next_balance: Mono,
    /// When this epoch began here.
    pub(super) since: Mono,
    history: VecDeque<Link>,
    /// Where the voters' accepted images are, as far as known.
    accepted: BTreeMap<BrokerId, At>,
}

/// One proposed image.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) image: Arc<Image>,
    base: At,
    ops: Vec<Op>,
    accepted_by: BTreeMap<BrokerId, StorageId>,
    replies: Vec<(Ticket, TopicId, bool)>,
    events: Vec<Event>,
}

/// One committed change, kept for brokers that lag.
#[derive(Clone, Debug)]
struct Link {
    base: At,
    image: Arc<Image>,
    ops: Vec<Op>,
}

impl Leading {
    fn new(now: Mono, epoch: ControllerEpoch, current: Arc<Image>, accepted: BTreeMap<BrokerId, At>) -> Self {
        Self {
            epoch,
            ready: false,
            barrier: At { epoch, version: current.at.version + 1 },
            current,
            inflight: None,
            commands: VecDeque::new(),
            registrations: BTreeMap::new(),
            alters: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_heartbeat: now,
            next_handover: now,
            review: true,
            next_balance: now,
            since: now,
            history: VecDeque::new(),
            accepted,
        }
    }
}

impl Control {
    /// Founds a cluster: all founders have promised, and all were empty.
    pub(super) fn found(&mut self, now: Mono, voters: BTreeMap<BrokerId, StorageId>) {
        let cluster_id = ClusterId(self.unique());
        let image = Arc::new(Image::genesis(cluster_id, self.hard.epoch, voters.clone()));
        let adopted = Arc::new(Image { at: At::default(), ..Image::clone(&image) });
        let granted = voters.into_keys().map(|id| (id, At::default())).collect();
        self.enter_office(now, adopted, granted);
        self.hard.cluster_id = Some(cluster_id);
        self.send_proposal(now, image, Vec::new(), Vec::new(), Vec::new());
    }

    /// Takes office with the freshest image: proposes the barrier.
    pub(super) fn begin_leading(&mut self, now: Mono, best: Arc<Image>, granted: &BTreeMap<BrokerId, At>) {
        let predecessor =
            self.election.predecessor().filter(|id| *id != self.me && !granted.contains_key(id));
        self.enter_office(now, best.clone(), granted.clone());
        if self.weakened(Weakening::NoBarrier) {
            // The adopted image goes out again under its old tag, and will count as committed.
            return self.send_proposal(now, best, Vec::new(), Vec::new(), Vec::new());
        }
        let at = At { epoch: self.hard.epoch, version: best.at.version + 1 };
        let mut draft = Draft::new(best, at);
        if let Some(silent) = predecessor.filter(|id| draft.image().is_alive(*id)) {
            self.fence_all(&mut draft, &BTreeSet::from([silent]));
        }
        self.propose(now, draft, Vec::new(), Vec::new());
    }

    fn enter_office(&mut self, now: Mono, adopted: Arc<Image>, granted: BTreeMap<BrokerId, At>) {
        let mut leading = Leading::new(now, self.hard.epoch, adopted, granted.clone());
        for id in self.everybody() {
            let voted = granted.contains_key(&id);
            leading.sessions.insert(id, Session::new(now, voted));
        }
        self.election.controller = Some(self.me);
        self.election.role = Role::Leading(Box::new(leading));
    }

    /// Proposes what was drafted.
    pub(super) fn propose(
        &mut self,
        now: Mono,
        draft: Draft,
        replies: Vec<(Ticket, TopicId, bool)>,
        events: Vec<Event>,
    ) {
        let Role::Leading(leading) = &self.election.role else { return };
        let at = draft.at();
        let ops = draft.into_ops();
        let image =
            leading.current.apply(&ops, at).expect("drafted operations fit the image they were made from");
        self.send_proposal(now, Arc::new(image), ops, replies, events);
    }

    /// Accepts a proposal itself, then asks the other voters.
    fn send_proposal(
        &mut self,
        now: Mono,
        image: Arc<Image>,
        ops: Vec<Op>,
        replies: Vec<(Ticket, TopicId, bool)>,
        events: Vec<Event>,
    ) {
        let own = BTreeMap::from([(self.me, self.hard.storage_id)]);
        let Role::Leading(leading) = &mut self.election.role else { return };
        let base = leading.current.at;
        let voters: Vec<_> = image.voters.keys().copied().collect();
        leading.inflight =
            Some(Proposal { image: image.clone(), base, ops, accepted_by: own, replies, events });
        self.hard.accepted = Some(image.clone());
        self.persist();
        if self.weakened(Weakening::ApplyUncommitted) {
            self.apply(image);
        }
        for voter in voters {
            self.send_accept(voter, false);
        }
        self.try_commit(now);
    }

    fn send_accept(&mut self, to: BrokerId, full: bool) {
        let Role::Leading(leading) = &self.election.role else { return };
        let Some(proposal) = &leading.inflight else { return };
        let Some(expect_storage) = proposal.image.voters.get(&to).copied() else { return };
        if to == self.me || proposal.accepted_by.contains_key(&to) {
            return;
        }
        let holds_base = leading.accepted.get(&to).is_none_or(|at| *at == proposal.base);
        let founding = proposal.base == At::default() || proposal.image.at == proposal.base;
        let body = if full || founding || !holds_base {
            ImageBody::Full(proposal.image.clone())
        } else {
            ImageBody::Delta { base: proposal.base, ops: proposal.ops.clone() }
        };
        let (at, hash) = (proposal.image.at, proposal.image.hash);
        let expect_start = proposal.image.start_of(Voter { id: to, storage_id: expect_storage });
        self.send(
            to,
            Message::Accept { epoch: self.hard.epoch, at, hash, body, expect_storage, expect_start },
        );
    }

    /// Repeats the proposal to voters that have not accepted it yet.
    pub(super) fn resend_accepts(&mut self) {
        let Role::Leading(leading) = &self.election.role else { return };
        let Some(proposal) = &leading.inflight else { return };
        for voter in proposal.image.voters.keys().copied().collect::<Vec<_>>() {
            self.send_accept(voter, false);
        }
    }

    fn try_commit(&mut self, now: Mono) {
        let classic = self.weakened(Weakening::NoMajority);
        let Role::Leading(leading) = &self.election.role else { return };
        let Some(proposal) = &leading.inflight else { return };
        let votes = |(id, storage): &(&BrokerId, &StorageId)| self.votes_in(&proposal.image, **id, **storage);
        let accepted = proposal.accepted_by.iter().filter(votes).count();
        if accepted * 2 > proposal.image.voters.len() || classic {
            self.commit(now);
        }
    }

    fn commit(&mut self, now: Mono) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        let Some(proposal) = leading.inflight.take() else { return };
        let image = proposal.image.clone();
        leading.current = image.clone();
        leading.review = true;
        let first = !leading.ready;
        leading.ready = true;
        if proposal.base != At::default() && proposal.base != image.at {
            let link = Link { base: proposal.base, image: image.clone(), ops: proposal.ops };
            leading.history.push_back(link);
        }
        if leading.history.len() > IMAGE_DELTAS_MAX {
            leading.history.pop_front();
        }
        for (id, storage) in &proposal.accepted_by {
            if image.is_voter(*id, *storage) {
                leading.accepted.insert(*id, image.at);
            }
        }
        self.hard.committed = self.hard.committed.max(image.at);
        self.counters.images_committed += 1;
        self.apply(image.clone());
        if first {
            self.take_office(now, image.at);
        }
        for event in proposal.events {
            self.event(event);
        }
        for (ticket, topic, changed) in proposal.replies {
            let result = Ok(Outcome { at: image.at, topic, changed });
            self.act(Action::Reply { ticket, result });
        }
        self.announce_commit(now, &proposal.accepted_by, proposal.base);
    }

    fn take_office(&mut self, now: Mono, at: At) {
        let epoch = self.hard.epoch;
        self.counters.elections_won += 1;
        if let Some(began) = self.election.began.take() {
            self.counters.last_election_ms = now.saturating_sub(began);
        }
        self.election.remember(self.me, epoch);
        self.event(Event::ControllerElected { broker: self.me, epoch });
        for peer in self.everybody() {
            self.send(peer, Message::Coordinator { epoch, committed: at });
        }
    }

    /// Tells everybody of the new image; brokers that did not accept it themselves get the change along.
    fn announce_commit(&mut self, now: Mono, accepted_by: &BTreeMap<BrokerId, StorageId>, base: At) {
        let Role::Leading(leading) = &self.election.role else { return };
        let others = leading.sessions.iter().filter(|(id, _)| !accepted_by.contains_key(id));
        let follow: Vec<_> =
            others.filter(|(_, session)| session.applied == base).map(|(id, _)| *id).collect();
        for id in follow {
            self.send_committed(now, id);
        }
        self.send_heartbeats(now);
    }

    /// Brings a broker that applied less than what is committed up to date: by deltas if it lacks few, else wholly.
    pub(super) fn send_committed(&mut self, now: Mono, to: BrokerId) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        let Some(session) = leading.sessions.get_mut(&to) else { return };
        let newest = leading.current.clone();
        let lately =
            session.sent.is_some_and(|(at, when)| at == newest.at && now < when + self.timing.heartbeat);
        if !leading.ready || session.applied >= newest.at || lately {
            return;
        }
        session.sent = Some((newest.at, now));
        let first = leading.history.iter().position(|link| link.base == session.applied);
        let lacking: Vec<_> = match first {
            Some(first) if leading.history.len() - first <= DELTAS_IN_A_ROW => {
                leading.history.range(first..).cloned().collect()
            }
            _ => Vec::new(),
        };
        let epoch = leading.epoch;
        if lacking.is_empty() {
            let (at, hash) = (newest.at, newest.hash);
            self.send(to, Message::Committed { epoch, at, hash, body: ImageBody::Full(newest) });
        }
        for link in lacking {
            let (at, hash) = (link.image.at, link.image.hash);
            let body = ImageBody::Delta { base: link.base, ops: link.ops };
            self.send(to, Message::Committed { epoch, at, hash, body });
        }
    }

    /// Stops being controller. What was in flight may yet be committed by a successor.
    pub(super) fn resign(&mut self, reason: &str) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        let epoch = leading.epoch;
        let inflight = leading.inflight.take().map(|proposal| proposal.replies).unwrap_or_default();
        let queued = std::mem::take(&mut leading.commands);
        self.election.role = Role::Follower;
        self.election.controller = None;
        for (ticket, _, _) in inflight {
            self.act(Action::Reply { ticket, result: Err(Refusal::Unknown) });
        }
        for (ticket, _) in queued {
            self.act(Action::Reply { ticket, result: Err(Refusal::NotController { controller: None }) });
        }
        self.event(Event::ControllerResigned { broker: self.me, epoch, reason: reason.to_owned() });
    }

    pub(super) fn on_need_full(&mut self, from: BrokerId, epoch: ControllerEpoch, at: At) {
        let Role::Leading(leading) = &self.election.role else { return };
        let proposed = leading.inflight.as_ref().is_some_and(|proposal| proposal.image.at == at);
        if epoch == leading.epoch && proposed {
            self.send_accept(from, true);
        }
    }

    /// Somebody promised a higher epoch: this one is over.
    pub(super) fn on_fenced(&mut self, now: Mono, epoch: ControllerEpoch) {
        self.see_epoch(epoch);
        if epoch > self.hard.epoch && matches!(self.election.role, Role::Claiming(_) | Role::Leading(_)) {
            let wait = self.patience();
            self.withdraw(now, wait);
        }
    }

    /// Returns the image that a message means, if it can be had from what this broker holds.
    fn build(&self, place: Place, body: ImageBody) -> Option<Arc<Image>> {
        let image = match body {
            ImageBody::Full(image) => image,
            ImageBody::Delta { base, ops } => {
                let held = [&self.hard.accepted, &self.applied];
                let base = held.into_iter().flatten().find(|image| image.at == base)?;
                Arc::new(base.apply(&ops, place.0).ok()?)
            }
        };
        let ours = self.hard.cluster_id.is_none_or(|mine| mine == image.cluster_id);
        (ours && image.at == place.0 && image.hash == place.1 && self.reads(&image)).then_some(image)
    }

    pub(super) fn on_accept(
        &mut self,
        now: Mono,
        proposer: Voter,
        epoch: ControllerEpoch,
        place: Place,
        body: ImageBody,
    ) {
        let (at, from) = (place.0, proposer.id);
        if epoch < self.hard.epoch && !self.weakened(Weakening::NoEpochFence) {
            return self.send(from, Message::Fenced { epoch: self.hard.epoch });
        }
        if at.epoch != epoch && !self.weakened(Weakening::NoBarrier) {
            return;
        }
        // The controller of this epoch has been found: a candidacy in it is over, and the promise is bound (F1, F2).
        let claiming = matches!(self.election.role, Role::Claiming(_)) && epoch == self.hard.epoch;
        let mut news = false;
        if !(claiming && self.weakened(Weakening::CandidateSurvivesAccept)) {
            news = self.adopt_epoch(proposer, epoch);
            self.follow(now, from, epoch);
        }
        let held = self.accepted_at();
        if at > held {
            let Some(image) = self.build(place, body) else {
                if news {
                    self.persist();
                }
                return self.send(from, Message::NeedFull { epoch, at });
            };
            // One proposal is in flight at a time: a next one of the same epoch says that the last was committed.
            if held.epoch == epoch
                && let Some(before) = self.hard.accepted.clone()
            {
                self.apply(before);
            }
            self.accept(image);
        } else if news {
            self.persist();
        }
        let held = self.accepted_at();
        if at <= held && (held.epoch == epoch || self.weakened(Weakening::NoBarrier)) {
            let storage_id = self.hard.storage_id;
            self.send(from, Message::Accepted { epoch, at, storage_id });
        }
        if self.weakened(Weakening::ApplyUncommitted)
            && let Some(image) = self.hard.accepted.clone()
        {
            self.apply(image);
        }
    }

    /// Makes an image the accepted one, for good.
    fn accept(&mut self, image: Arc<Image>) {
        self.hard.cluster_id = Some(image.cluster_id);
        self.hard.accepted = Some(image);
        self.persist();
    }

    pub(super) fn on_accepted(
        &mut self,
        now: Mono,
        from: BrokerId,
        epoch: ControllerEpoch,
        at: At,
        storage: StorageId,
    ) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        if epoch != leading.epoch {
            return;
        }
        let newest = leading.accepted.entry(from).or_default();
        *newest = at.max(*newest);
        if let Some(proposal) = leading.inflight.as_mut().filter(|proposal| proposal.image.at == at) {
            proposal.accepted_by.insert(from, storage);
            self.try_commit(now);
        }
    }

    pub(super) fn on_committed(
        &mut self,
        now: Mono,
        controller: Voter,
        epoch: ControllerEpoch,
        place: Place,
        body: ImageBody,
    ) {
        let from = controller.id;
        if epoch < self.hard.epoch {
            return self.send(from, Message::Fenced { epoch: self.hard.epoch });
        }
        if place.0 <= self.applied_at() {
            return;
        }
        let Some(image) = self.build(place, body) else { return };
        let mine = image.brokers.get(&self.me).is_some_and(|entry| entry.storage_id == self.hard.storage_id)
            || image.is_voter(self.me, self.hard.storage_id);
        if self.hard.cluster_id.is_none() && !mine {
            return;
        }
        let news = self.adopt_epoch(controller, epoch);
        self.follow(now, from, epoch);
        if image.at > self.accepted_at() {
            self.hard.committed = self.hard.committed.max(image.at);
            self.accept(image.clone());
        } else if news {
            self.persist();
        }
        self.apply(image);
        self.acknowledge(now);
    }

    /// Obeys the accepted image if the controller's word shows that it is committed.
    pub(super) fn learn_committed(&mut self, committed: At) {
        let shown =
            |image: &&Arc<Image>| image.at.epoch == committed.epoch && image.at.version <= committed.version;
        if let Some(image) = self.hard.accepted.as_ref().filter(shown).cloned() {
            self.apply(image);
        }
    }
}

/// Where an image is, and the hash that it must have.
pub(super) type Place = (At, super::image::ImageHash);
