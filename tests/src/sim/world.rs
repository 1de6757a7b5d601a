//! The event loop of a run: one heap of happenings, one clock, one generator, and all brokers.

use super::checks::logs::LogChecks;
use super::checks::metadata::MetadataChecks;
use super::checks::{Broken, Checked};
use super::clients::Clients;
use super::confirms::Confirms;
use super::disk::Disk;
use super::network::{Network, Packet};
use super::node::{Clock, Node, Process};
use super::producers::Producers;
use super::rng::Rng;
use super::trace::Trace;
use pubsub_core::control::{self, Control, ControlConfig, VERSIONS, Weakening};
use pubsub_core::ids::{At, BrokerEpoch, BrokerId, RunId, StorageId};
use pubsub_core::partition::{self, Replicas, ReplicasConfig};
use pubsub_core::wire::internal::ReplicateReply;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A script ends early because an invariant broke; the world knows which.
#[derive(Debug)]
pub struct Stop;

/// The outcome of a script's step.
pub type Flow<T = ()> = Result<T, Stop>;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A packet arrives.
    Packet(Packet),
    /// A connection was refused.
    Refused { process: u64, peer: BrokerId },
    /// A push ends; `None` is its timeout.
    PushEnds { process: u64, from: BrokerId, push: u64, reply: Option<ReplicateReply> },
    /// A tick of the control plane is due.
    ControlTick { process: u64 },
    /// A tick of the replicas is due.
    ReplicasTick { process: u64 },
    /// The oldest queued write is on the disk.
    Synced { process: u64 },
    /// From the shell to the control plane.
    Control { process: u64, input: Box<control::Input> },
    /// From the shell to the replicas.
    Replicas { process: u64, input: Box<partition::Input> },
    /// Clients do something.
    Workload,
}

struct Due {
    at: u64,
    sequence: u64,
    node: BrokerId,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    // The heap gives the greatest first; the earliest has to come first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Seed of everything.
    pub seed: u64,
    /// Number of brokers, ids from 1.
    pub brokers: u32,
    /// How many of them, from id 1, found the cluster.
    pub voters: u32,
    /// Rules switched off.
    pub weakened: Vec<Weakening>,
    /// Keep the trace as text.
    pub verbose: bool,
    /// How many lines of it.
    pub trace_lines: usize,
    /// The only faults of a random mix that happen, by number; `None`: all.
    pub faults: Option<BTreeSet<u64>>,
}

/// A cluster under simulation.
pub struct World {
    pub(crate) now: u64,
    pub(crate) setup: Setup,
    pub(crate) nodes: BTreeMap<BrokerId, Node>,
    /// The network; scripts change it at will.
    pub network: Network,
    /// The run's generator; scripts draw from it too.
    pub rng: Rng,
    /// What clients asked and were told.
    pub clients: Clients,
    /// Idempotent producers.
    pub producers: Producers,
    /// Questions to leaders whether they lead.
    pub confirms: Confirms,
    pub(crate) metadata: MetadataChecks,
    pub(crate) logs: LogChecks,
    pub(crate) trace: Trace,
    pub(crate) broken: Option<Broken>,
    /// Chance of a crash at each boundary between two actions, in 100 000.
    pub crash_rate: u64,
    /// Controllers hand over to higher ids that have been back for a while.
    pub preempt: bool,
    /// Pause between two client actions, ms; `None` while clients rest.
    pub workload_every: Option<(u64, u64)>,
    pub(crate) steps: u64,
    pub(crate) serial: u64,
    pub(crate) pushes: u64,
    /// How many faults of a random mix have had their turn.
    pub(crate) faults: u64,
    pub(crate) volumes_lost: u32,
    /// Volumes that are gone, with their brokers.
    pub(crate) gone_volumes: Vec<(BrokerId, StorageId)>,
    heap: BinaryHeap<Due>,
    sequence: u64,
}

impl World {
    /// Makes a cluster of empty volumes and starts all its processes within the first 50 ms.
    pub fn new(setup: Setup) -> Self {
        let mut world = Self {
            now: 0,
            nodes: BTreeMap::new(),
            network: Network::default(),
            rng: Rng::new(setup.seed),
            clients: Clients::default(),
            producers: Producers::default(),
            confirms: Confirms::default(),
            metadata: MetadataChecks::default(),
            logs: LogChecks::default(),
            trace: Trace::new(setup.verbose, setup.trace_lines),
            broken: None,
            crash_rate: 0,
            preempt: setup.seed.is_multiple_of(4),
            workload_every: None,
            steps: 0,
            serial: 0,
            pushes: 0,
            faults: 0,
            volumes_lost: 0,
            gone_volumes: Vec::new(),
            heap: BinaryHeap::new(),
            sequence: 0,
            setup,
        };
        for id in world.ids() {
            let storage = StorageId(world.rng.uuid());
            let node = Node {
                id,
                disk: Disk::new(id, storage),
                process: None,
                paused_until: 0,
                drift: 0,
                versions: VERSIONS,
                stopping: false,
                copy: None,
                old_copy: false,
                promises_full: false,
            };
            world.nodes.insert(id, node);
            let known = world.ids().into_iter().collect();
            world.network.known.insert(id, known);
        }
        for id in world.ids() {
            world.start(id);
        }
        world
    }

    /// Returns the ids of all brokers.
    pub fn ids(&self) -> Vec<BrokerId> {
        (1..=self.setup.brokers).map(BrokerId).collect()
    }

    /// Lets the next fault of a random mix happen, unless this run leaves it out. It has dice of its own: what is left out
    /// changes nothing of what else happens, but for its consequences.
    pub(crate) fn fault(&mut self, happen: impl FnOnce(&mut Self)) {
        let number = self.faults;
        self.faults += 1;
        if self.setup.faults.as_ref().is_some_and(|only| !only.contains(&number)) {
            return;
        }
        // Generators of neighbouring seeds give the same numbers one step apart; these are far from each other.
        let dice = Rng::new(self.setup.seed ^ (number + 1).wrapping_mul(0xD1B5_4A32_D192_ED03));
        let others = std::mem::replace(&mut self.rng, dice);
        happen(self);
        self.rng = others;
    }

    /// Returns the simulated time, ms.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Starts a broker's process on its volume; nothing happens if it is up.
    pub fn start(&mut self, id: BrokerId) {
        let (run_id, base, seed) = (RunId(self.rng.uuid()), self.rng.below(1_000_000), self.rng.bits());
        self.serial += 1;
        let (serial, now) = (self.serial, self.now);
        let genesis = (1..=self.setup.voters).map(BrokerId).collect();
        let config = ControlConfig {
            run_id,
            api_base: format!("http://broker-{id}:8080"),
            peer_base: format!("http://broker-{id}:8081"),
            zone: None,
            versions: self.nodes[&id].versions,
            sealed: false,
            genesis: Some(genesis),
            preempt: self.preempt,
            timeout_scale: 1,
            seed,
            weakened: self.setup.weakened.clone(),
        };
        let weakened = self.setup.weakened.clone();
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        if node.process.is_some() {
            return;
        }
        node.paused_until = now;
        node.stopping = false;
        node.disk.hard.boot += 1;
        let clock = Clock::new(base, now, node.drift);
        let replicas = ReplicasConfig { me: id, run_id, timeout_scale: 1, weakened };
        node.process = Some(Process {
            serial,
            run_id,
            control: Control::new(base, node.disk.hard.clone(), config),
            replicas: Replicas::new(base, replicas, node.disk.stored()),
            clock,
            applied: At::default(),
            control_tick: None,
            replicas_tick: None,
            inner_at: now,
            outstanding: BTreeMap::new(),
            asked: BTreeMap::new(),
            views: BTreeMap::new(),
            broker_epoch: BrokerEpoch(0),
        });
        self.note(id, "start", serial, String::new);
        let peers = self.network.known[&id].iter().copied().filter(|peer| *peer != id).collect();
        self.schedule(
            now,
            id,
            Happening::Control { process: serial, input: Box::new(control::Input::Peers(peers)) },
        );
        self.schedule(now, id, Happening::Control { process: serial, input: Box::new(control::Input::Tick) });
        self.schedule(
            now,
            id,
            Happening::Replicas { process: serial, input: Box::new(partition::Input::Tick) },
        );
    }

    /// Ends a broker's process as `kill -9` does: queued writes are kept up to a random one.
    pub fn kill(&mut self, id: BrokerId) {
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        if node.process.take().is_none() {
            return;
        }
        let kept = self.rng.below(node.disk.queued() + 1);
        node.disk.crash(kept);
        self.logs.process_gone(id);
        self.note(id, "kill", kept, String::new);
        let refused: Vec<_> = self
            .nodes
            .values()
            .filter_map(|other| Some((other.id, other.process.as_ref()?.serial)))
            .collect();
        for (other, process) in refused {
            if other != id && self.network.open(id, other) {
                self.schedule(self.now + 1, other, Happening::Refused { process, peer: id });
            }
        }
    }

    /// Kills a broker and replaces its volume by an empty one.
    pub fn lose_volume(&mut self, id: BrokerId) {
        self.kill(id);
        let storage = StorageId(self.rng.uuid());
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        self.logs.volume_lost(id, &node.disk, self.metadata.newest().map(AsRef::as_ref));
        let gone = std::mem::replace(&mut node.disk, Disk::new(id, storage));
        self.metadata.volume_lost(id, gone.hard.storage_id);
        self.gone_volumes.push((id, gone.hard.storage_id));
        self.volumes_lost += 1;
        self.note(id, "volume-lost", 0, String::new);
    }

    /// Ends a broker's process, copies its volume as it is then, and starts it again.
    pub fn copy_volume(&mut self, id: BrokerId) {
        self.kill(id);
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        node.copy = Some(node.disk.clone());
        self.note(id, "volume-copied", 0, String::new);
        self.start(id);
    }

    /// Kills a broker and puts the older copy of its volume in place, if there is one. Counts as a lost volume.
    pub fn roll_volume_back(&mut self, id: BrokerId) {
        self.kill(id);
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        let Some(copy) = node.copy.take() else { return };
        self.logs.volume_lost(id, &node.disk, self.metadata.newest().map(AsRef::as_ref));
        node.disk = copy;
        node.old_copy = true;
        self.logs.rolled_back(id, node.disk.hard.storage_id);
        self.gone_volumes.push((id, node.disk.hard.storage_id));
        self.volumes_lost += 1;
        self.note(id, "volume-rolled-back", 0, String::new);
    }

    /// Stops a process for `ms` (SIGSTOP); a frozen one's clock stands still too, as in a paused virtual machine.
    pub fn pause(&mut self, id: BrokerId, ms: u64, frozen: bool) {
        let until = self.now + ms;
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        node.paused_until = node.paused_until.max(until);
        if let (true, Some(process)) = (frozen, node.process.as_mut()) {
            process.clock.freeze(ms);
            (process.control_tick, process.replicas_tick) = (None, None);
        }
        self.note(id, "pause", ms, String::new);
        self.reschedule(id);
    }

    /// Lets a stopped process go on.
    pub fn resume(&mut self, id: BrokerId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        node.paused_until = node.paused_until.min(now);
    }

    pub(crate) fn schedule(&mut self, at: u64, node: BrokerId, what: Happening) {
        self.sequence += 1;
        self.heap.push(Due { at: at.max(self.now), sequence: self.sequence, node, what });
    }

    /// Schedules something within a process, behind everything scheduled so before: its machines' inboxes keep order.
    pub(crate) fn schedule_inner(&mut self, id: BrokerId, what: Happening) {
        let lag = if self.rng.chance(100) { self.rng.below(15) } else { 0 };
        let earliest = self.now + lag;
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else { return };
        process.inner_at = process.inner_at.max(earliest);
        let at = process.inner_at;
        self.schedule(at, id, what);
    }

    /// Puts the next ticks of a broker's machines onto the heap.
    pub(crate) fn reschedule(&mut self, id: BrokerId) {
        let now = self.now;
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else { return };
        let serial = process.serial;
        let due = |deadline: u64| process.clock.global(deadline).clamp(now + 1, now + 60_000);
        let (control, replicas) = (due(process.control.deadline()), due(process.replicas.deadline()));
        let control = process.control_tick.is_none_or(|at| control < at).then_some(control);
        let replicas = process.replicas_tick.is_none_or(|at| replicas < at).then_some(replicas);
        process.control_tick = control.or(process.control_tick);
        process.replicas_tick = replicas.or(process.replicas_tick);
        if let Some(at) = control {
            self.schedule(at, id, Happening::ControlTick { process: serial });
        }
        if let Some(at) = replicas {
            self.schedule(at, id, Happening::ReplicasTick { process: serial });
        }
    }

    /// Runs for `ms`.
    ///
    /// # Errors
    /// [`Stop`] once an invariant is broken.
    pub fn run_for(&mut self, ms: u64) -> Flow {
        let end = self.now + ms;
        while self.broken.is_none() {
            match self.heap.peek() {
                Some(due) if due.at <= end => self.happen(),
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
        }
        Err(Stop)
    }

    /// Runs until `done`, asked every 10 ms, or until `ms` have passed. Returns whether it was done.
    ///
    /// # Errors
    /// [`Stop`] once an invariant is broken.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> Flow<bool> {
        let end = self.now + ms;
        loop {
            if done(self) {
                return Ok(true);
            }
            if self.now >= end {
                return Ok(false);
            }
            self.run_for(10)?;
        }
    }

    fn happen(&mut self) {
        let Some(due) = self.heap.pop() else { return };
        self.now = self.now.max(due.at);
        let Some(node) = self.nodes.get(&due.node) else { return };
        let holds = !matches!(due.what, Happening::Synced { .. } | Happening::Workload);
        if holds && node.process.is_some() && node.paused_until > self.now {
            let until = node.paused_until;
            return self.schedule(until, due.node, due.what);
        }
        let checked = self.act(due.node, due.at, due.what);
        self.judge(checked);
    }

    pub(crate) fn judge(&mut self, checked: Checked) {
        if let (Err(broken), None) = (checked, &self.broken) {
            self.broken = Some(broken);
        }
    }

    pub(crate) fn note(&mut self, node: BrokerId, kind: &str, number: u64, text: impl FnOnce() -> String) {
        self.trace.note(self.now, node, kind, number, text);
    }

    fn act(&mut self, id: BrokerId, _at: u64, what: Happening) -> Checked {
        let runs = |serial| self.nodes.get(&id).is_some_and(|node| node.runs(serial));
        match what {
            Happening::Packet(packet) => self.arrive(id, packet),
            Happening::Workload => self.workload(),
            Happening::Refused { process, peer } if runs(process) => {
                self.control_input(id, control::Input::Unreachable { peer })
            }
            Happening::PushEnds { process, from, push, reply } if runs(process) => {
                self.push_ends(id, from, push, reply)
            }
            Happening::ControlTick { process } if runs(process) => {
                if self.tick_is_due(id, true) {
                    self.control_input(id, control::Input::Tick)
                } else {
                    Ok(())
                }
            }
            Happening::ReplicasTick { process } if runs(process) => {
                if self.tick_is_due(id, false) {
                    self.replicas_input(id, partition::Input::Tick)
                } else {
                    Ok(())
                }
            }
            Happening::Synced { process } if runs(process) => self.synced(id),
            Happening::Control { process, input } if runs(process) => self.control_input(id, *input),
            Happening::Replicas { process, input } if runs(process) => self.replicas_input(id, *input),
            // For a process that ended meanwhile.
            Happening::Refused { .. }
            | Happening::PushEnds { .. }
            | Happening::ControlTick { .. }
            | Happening::ReplicasTick { .. }
            | Happening::Synced { .. }
            | Happening::Control { .. }
            | Happening::Replicas { .. } => Ok(()),
        }
    }

    /// Takes a scheduled tick; a stale one, which an earlier one replaced, is not due.
    fn tick_is_due(&mut self, id: BrokerId, control: bool) -> bool {
        let now = self.now;
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
            return false;
        };
        let slot = if control { &mut process.control_tick } else { &mut process.replicas_tick };
        let due = slot.is_some_and(|at| at <= now);
        if due {
            *slot = None;
        }
        due
    }
}
