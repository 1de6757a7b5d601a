//! The machine that composes election, register, sessions and gossip, and dispatches what happens to them.

use super::election::{Election, Role};
use super::gossip::{Gossip, GossipEntry};
use super::image::Image;
use super::timing::Timing;
use super::{Action, ControlConfig, Counters, Event, Hard, Input, Status, Weakening, event, policy};
use crate::Mono;
use crate::ids::{At, BrokerEpoch, BrokerId, ControllerEpoch, StorageId, Voter};
use crate::wire::internal::{Message, Registration};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Commits that one step may make in a row: a single voter commits by itself, and each commit may ask for the next.
const COMMITS_PER_STEP_MAX: usize = 16;
/// Peers that one announcement or gossip round goes to.
const ANNOUNCE_PEERS: usize = 5;
const GOSSIP_PEERS: usize = 2;

/// The wish of this process to stop.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) until: Mono,
    pub(super) done: bool,
}

/// The control plane of one broker.
pub struct Control {
    pub(super) me: BrokerId,
    pub(super) config: ControlConfig,
    pub(super) timing: Timing,
    pub(super) lapses: policy::Lapses,
    pub(super) hard: Hard,
    pub(super) applied: Option<Arc<Image>>,
    pub(super) genesis: Option<Vec<BrokerId>>,
    pub(super) election: Election,
    pub(super) gossip: Gossip,
    pub(super) counters: Counters,
    pub(super) healthy: bool,
    pub(super) stop: Option<Stop>,
    /// Highest epoch that anyone spoke of; not a promise.
    pub(super) seen_epoch: ControllerEpoch,
    /// The last HEARTBEAT that was answered.
    pub(super) last_sequence: u64,
    /// Under which this process was seen registered.
    pub(super) registered_as: Option<BrokerEpoch>,
    pub(super) next_announce: Mono,
    /// Brokers that exist as far as the shell, messages and gossip tell.
    known: BTreeSet<BrokerId>,
    started: bool,
    halted: bool,
    due: Mono,
    rng: StdRng,
    out: Vec<Action>,
}

impl Control {
    /// Makes the machine of a process that just started with `hard` as read back from disk (`boot` already raised and synced).
    pub fn new(now: Mono, hard: Hard, config: ControlConfig) -> Self {
        let timing = Timing::scaled(config.timeout_scale);
        let own = GossipEntry {
            id: hard.broker_id,
            storage_id: hard.storage_id,
            boot: hard.boot,
            run_id: config.run_id,
            counter: 0,
            api_base: config.api_base.clone(),
            peer_base: config.peer_base.clone(),
            applied: At::default(),
        };
        let committed = |image: &&Arc<Image>| {
            image.at.epoch == hard.committed.epoch && image.at.version <= hard.committed.version
        };
        let mut machine = Self {
            me: hard.broker_id,
            timing,
            lapses: policy::Lapses::default(),
            applied: hard.accepted.as_ref().filter(committed).cloned(),
            genesis: config.genesis.clone().map(founders),
            election: Election::new(now),
            gossip: Gossip::new(own, now),
            counters: Counters::default(),
            healthy: true,
            stop: None,
            seen_epoch: hard.epoch,
            last_sequence: 0,
            registered_as: None,
            next_announce: now,
            known: BTreeSet::new(),
            started: false,
            halted: false,
            due: now,
            rng: StdRng::seed_from_u64(config.seed),
            out: Vec::new(),
            hard,
            config,
        };
        machine.lapses = policy::Lapses {
            wiped_stays: machine.weakened(Weakening::WipedStaysInIsr),
            epoch_resumed: machine.weakened(Weakening::ResumeLeaderEpoch),
            any_registration: machine.weakened(Weakening::NoBrokerEpoch),
            no_floor: machine.weakened(Weakening::NoIsrFloor),
            unclean: machine.weakened(Weakening::UncleanElection),
            moves_at_once: machine.weakened(Weakening::MoveWithoutSync),
            drains_at_once: machine.weakened(Weakening::DrainWithoutSync),
            old_copies: machine.weakened(Weakening::OldCopyTrusted),
            any_level: machine.weakened(Weakening::AnyFeatureLevel),
        };
        machine.first_wait(now);
        machine.due = machine.deadline();
        machine
    }

    /// Takes one input and returns what must be done, in order.
    pub fn step(&mut self, now: Mono, input: Input) -> Vec<Action> {
        if self.halted {
            return Vec::new();
        }
        if !self.started {
            self.started = true;
            if let Some(level) = self.unreadable() {
                self.halt(too_new(level, self.config.versions));
                return std::mem::take(&mut self.out);
            }
            if let Some(image) = self.applied.take() {
                self.apply(image);
            }
        }
        match input {
            Input::Tick => self.tick(now),
            Input::Message { from, from_storage, message } => self.receive(now, from, from_storage, message),
            Input::Unreachable { peer } => self.unreachable(now, peer),
            Input::Genesis(list) => self.learn_founders(now, list),
            Input::Peers(peers) => self.known.extend(peers),
            Input::Propose { ticket, command } => self.propose_command(ticket, command),
            Input::ProposeAll(all) => {
                for (ticket, command) in all {
                    self.propose_command(ticket, command);
                }
            }
            Input::AlterIsr(request) => self.route_alter_isr(now, request),
            Input::Storage { healthy } => self.storage_changed(now, healthy),
            Input::Stop => self.stop_requested(now),
        }
        let mut commits = 0;
        while !self.halted && commits < COMMITS_PER_STEP_MAX && self.pump(now) {
            commits += 1;
        }
        self.progress_stop(now);
        self.due = self.deadline();
        std::mem::take(&mut self.out)
    }

    /// Returns when the next [`Input::Tick`] is due.
    pub fn deadline(&self) -> Mono {
        let mut due = self.election_deadline().min(self.gossip.next_round);
        if !self.is_registered() {
            due = due.min(self.next_announce);
        }
        if let Some(stop) = self.stop.as_ref().filter(|stop| !stop.done) {
            due = due.min(stop.until);
        }
        due
    }

    /// Returns what to show.
    pub fn status(&self, now: Mono) -> Status {
        let leading = matches!(&self.election.role, Role::Leading(leading) if leading.ready);
        let heard = self.election.controller.filter(|_| self.hears_controller(now));
        Status {
            controller: if leading { Some(self.me) } else { heard.filter(|id| *id != self.me) },
            epoch: self.hard.epoch.max(self.seen_epoch),
            leading,
            electing: !leading && !matches!(self.election.role, Role::Follower),
            registered: self.applied.as_ref().is_some_and(|image| {
                image.registered(self.me, self.config.run_id).is_some() && image.is_alive(self.me)
            }),
            applied: self.applied_at(),
            counters: self.counters,
        }
    }

    /// Returns the applied image.
    pub fn image(&self) -> Option<&Arc<Image>> {
        self.applied.as_ref()
    }

    /// Returns what gossip knows of every broker, this one included. Hints only.
    pub fn gossip(&self) -> Vec<GossipEntry> {
        self.gossip.entries().cloned().collect()
    }

    /// Returns the base URLs `(client, peer)` of other brokers, as learned by gossip. The image's are to be preferred.
    pub fn peers(&self) -> BTreeMap<BrokerId, (String, String)> {
        let bases = |entry: &GossipEntry| (entry.id, (entry.api_base.clone(), entry.peer_base.clone()));
        self.gossip.others().map(bases).collect()
    }

    /// Returns what must not be forgotten, as of the last [`Action::Persist`] or newer.
    pub fn hard(&self) -> &Hard {
        &self.hard
    }

    pub(super) fn weakened(&self, rule: Weakening) -> bool {
        cfg!(feature = "weakened") && self.config.weakened.contains(&rule)
    }

    /// Returns whether this program knows everything that an image may hold. What it does not know it would drop.
    pub(super) fn reads(&self, image: &Image) -> bool {
        let (oldest, newest) = self.config.versions;
        (oldest..=newest).contains(&image.feature_level) || self.weakened(Weakening::AnyFeatureLevel)
    }

    /// Returns the level of the accepted image, if this program can't read it.
    fn unreadable(&self) -> Option<u16> {
        let image = self.hard.accepted.as_ref()?;
        (!self.reads(image)).then_some(image.feature_level)
    }

    pub(super) fn send(&mut self, to: BrokerId, message: Message) {
        self.counters.election_messages_sent += u64::from(is_election(&message));
        self.counters.heartbeats_sent += u64::from(matches!(message, Message::Heartbeat { .. }));
        self.out.push(Action::Send { to, message });
    }

    pub(super) fn act(&mut self, action: Action) {
        self.out.push(action);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.out.push(Action::Event(event));
    }

    pub(super) fn persist(&mut self) {
        self.out.push(Action::Persist(Box::new(self.hard.clone())));
    }

    /// Returns a random wait in `[least, least + spread)`.
    pub(super) fn jitter(&mut self, least: Mono, spread: Mono) -> Mono {
        least + self.rng.random_range(0..spread.max(1))
    }

    /// Returns a random identity.
    pub(super) fn unique(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    pub(super) fn applied_at(&self) -> At {
        self.applied.as_ref().map_or_else(At::default, |image| image.at)
    }

    /// Obeys a committed image, if it is newer than the present one.
    pub(super) fn apply(&mut self, image: Arc<Image>) {
        if self.applied.as_ref().is_some_and(|present| present.at >= image.at) {
            return;
        }
        self.hard.committed = self.hard.committed.max(image.at);
        let before = self.applied.replace(image.clone());
        let mine = image.brokers.get(&self.me);
        if let Some(entry) = mine {
            if entry.run_id == self.config.run_id {
                self.registered_as = Some(entry.broker_epoch);
            } else if self.registered_as.is_some_and(|before| entry.broker_epoch > before) {
                // R1: only a process that is alive can be admitted, so this one was replaced for certain.
                self.halt(format!("another process was registered as broker {}", self.me));
                return;
            }
        }
        let told = before.map(|before| event::differences(&before, &image)).unwrap_or_default();
        self.out.push(Action::Apply(image));
        self.out.extend(told.into_iter().map(Action::Event));
    }

    pub(super) fn halt(&mut self, reason: String) {
        self.halted = true;
        self.out.push(Action::Halt { reason });
    }

    /// Returns whether the applied image holds this very process.
    pub(super) fn is_registered(&self) -> bool {
        self.applied.as_ref().is_some_and(|image| image.registered(self.me, self.config.run_id).is_some())
    }

    pub(super) fn registration(&self) -> Registration {
        Registration {
            id: self.me,
            storage_id: self.hard.storage_id,
            boot: self.hard.boot,
            run_id: self.config.run_id,
            api_base: self.config.api_base.clone(),
            peer_base: self.config.peer_base.clone(),
            zone: self.config.zone.clone(),
            versions: self.config.versions,
            sealed: Some(self.config.sealed),
        }
    }

    /// Returns every other broker that may exist.
    pub(super) fn everybody(&self) -> BTreeSet<BrokerId> {
        let mut all = self.known.clone();
        all.extend(self.gossip.others().map(|entry| entry.id));
        all.extend(self.genesis.iter().flatten());
        for image in self.applied.iter().chain(&self.hard.accepted) {
            all.extend(image.brokers.keys().chain(image.voters.keys()));
        }
        all.remove(&self.me);
        all
    }

    fn some_peers(&mut self, count: usize) -> Vec<BrokerId> {
        let mut peers: Vec<_> = self.everybody().into_iter().collect();
        let count = count.min(peers.len());
        for at in 0..count {
            let other = self.rng.random_range(at..peers.len());
            peers.swap(at, other);
        }
        peers.truncate(count);
        peers
    }

    fn tick(&mut self, now: Mono) {
        if now > self.due + self.timing.late {
            self.resumed_late(now);
        }
        if now >= self.gossip.next_round {
            self.gossip.next_round =
                now + self.jitter(self.timing.gossip * 4 / 5, self.timing.gossip * 2 / 5);
            let message = self.gossip.open(now, self.applied_at(), &self.timing);
            for peer in self.some_peers(GOSSIP_PEERS) {
                self.send(peer, Message::Gossip(message.clone()));
            }
        }
        if now >= self.next_announce {
            self.next_announce = now + self.jitter(self.timing.announce, self.timing.announce);
            // Whoever belongs to a known cluster is found by its controller's heartbeats; others have to ask around.
            if !self.is_registered() && !self.hears_controller(now) && !self.may_found() {
                for peer in self.some_peers(ANNOUNCE_PEERS) {
                    self.send(peer, Message::Register(self.registration()));
                }
            }
        }
        self.tick_role(now);
    }

    fn receive(&mut self, now: Mono, from: BrokerId, from_storage: StorageId, message: Message) {
        if from == self.me {
            return;
        }
        let sender = Voter { id: from, storage_id: from_storage };
        self.known.insert(from);
        self.counters.election_messages_received += u64::from(is_election(&message));
        match message {
            Message::Election { round, epoch, .. } => self.on_election(now, from, round, epoch),
            Message::Ok { .. } => self.on_ok(now, from, message),
            Message::Claim { .. } => self.on_claim(now, sender, message),
            Message::Grant { .. } => self.on_grant(now, from, from_storage, message),
            Message::Coordinator { epoch, .. } => self.on_coordinator(now, from, epoch),
            Message::Handover { epoch } => self.on_handover(now, from, epoch),
            Message::Accept { epoch, at, hash, body, expect_storage, expect_start } => {
                let volume =
                    expect_storage == self.hard.storage_id || self.weakened(Weakening::AmnesiacVoter);
                if volume && self.is_whole(expect_start) {
                    self.on_accept(now, sender, epoch, (at, hash), body);
                }
            }
            Message::Accepted { epoch, at, storage_id } => self.on_accepted(now, from, epoch, at, storage_id),
            Message::NeedFull { epoch, at } => self.on_need_full(from, epoch, at),
            Message::Fenced { epoch } => self.on_fenced(now, epoch),
            Message::Committed { epoch, at, hash, body } => {
                self.on_committed(now, sender, epoch, (at, hash), body);
            }
            Message::Heartbeat { epoch, sequence, committed } => {
                self.on_heartbeat(now, sender, epoch, sequence, committed);
            }
            Message::HeartbeatAck { .. } => self.on_ack(now, from, from_storage, &message),
            Message::Register(registration) => self.on_register(now, from, registration),
            Message::RegisterRefused { run_id, reason } => self.on_register_refused(run_id, reason),
            Message::AlterIsr(request) => {
                if request.leader == from {
                    self.queue_alter_isr(request);
                }
            }
            Message::Gossip(message) => {
                if let Some(answer) = self.gossip.receive(now, message) {
                    self.send(from, Message::Gossip(answer));
                }
            }
        }
    }
}

/// Says why a program can't take part in a cluster.
pub(super) fn too_new(level: u16, versions: (u16, u16)) -> String {
    let (oldest, newest) = versions;
    format!(
        "the cluster's metadata has feature level {level}, this program reads {oldest} to {newest}: start the version \
         that the other brokers run"
    )
}

fn is_election(message: &Message) -> bool {
    matches!(
        message,
        Message::Election { .. }
            | Message::Ok { .. }
            | Message::Claim { .. }
            | Message::Grant { .. }
            | Message::Coordinator { .. }
    )
}

/// Brings a list of founders into the one order that all of them compare.
pub(super) fn founders(mut list: Vec<BrokerId>) -> Vec<BrokerId> {
    list.sort_unstable();
    list.dedup();
    list
}
