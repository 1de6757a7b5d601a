//! Three brokers, their disks, a network that delivers when told to, and a controller that is one atomic register.

use super::super::*;
use crate::control::image::*;
use crate::ids::*;
use crate::record::{BatchBuilder, ValueKind};
use crate::wire::internal::*;
use std::collections::VecDeque;
use uuid::Uuid;

pub(super) const TOPIC: TopicId = TopicId(Uuid::from_u128(0x70));

pub(super) fn part(partition: u32) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition }
}

pub(super) fn records(count: u32, value: &str) -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..count {
        builder.push(None, b"", ValueKind::Bytes, value.as_bytes());
    }
    builder.build(0, LeaderEpoch(0), 0).unwrap()
}

/// One replica on disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) log_start: Offset,
    pub(super) high_watermark: Offset,
    pub(super) epochs: Vec<(LeaderEpoch, Offset)>,
    pub(super) batches: Vec<Batch>,
    pub(super) producers: Vec<ProducerBatch>,
}

impl Disk {
    pub(super) fn log_end(&self) -> Offset {
        self.batches.last().map_or(self.log_start, Batch::end_offset)
    }

    fn apply(&mut self, write: &ReplicaWrite) {
        write.remember(&mut self.producers);
        if let Some(to) = write.truncate_to {
            assert!(self.batches.iter().all(|batch| batch.end_offset() <= to || batch.base_offset() >= to));
            self.batches.retain(|batch| batch.end_offset() <= to);
            self.epochs.retain(|start| start.1 < to);
        }
        if let Some(to) = write.reset_to {
            let producers = std::mem::take(&mut self.producers);
            *self = Self { log_start: to, producers, ..Self::default() };
        }
        self.epochs.extend(&write.epoch_starts);
        for batch in &write.batches {
            let end = self.log_end();
            assert!(batch.base_offset() == end || self.batches.is_empty(), "{batch:?} at {end}");
            self.batches.push(batch.clone());
        }
        self.batches.retain(|batch| batch.end_offset() > write.log_start);
        self.leader_epoch = write.leader_epoch;
        self.log_start = write.log_start;
        self.high_watermark = write.high_watermark;
        assert_eq!(self.log_end(), write.log_end, "{write:?}");
        assert!(write.high_watermark <= write.log_end);
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Vec<Batch> {
        let mut bytes = 0;
        let mut found: Vec<Batch> = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.end_offset() > from) {
            bytes += batch.bytes().len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(batch.clone());
        }
        found
    }
}

pub(super) struct Node {
    pub(super) machine: Option<Replicas>,
    pub(super) run: RunId,
    pub(super) volume: u128,
    pub(super) disk: BTreeMap<TopicPartition, Disk>,
    pub(super) unsynced: VecDeque<(WriteId, Vec<ReplicaWrite>)>,
    pub(super) confirmed: BTreeMap<u64, bool>,
    pub(super) acked: BTreeMap<u64, Result<Appended, AppendError>>,
    pub(super) views: BTreeMap<TopicPartition, ReplicaView>,
    pub(super) loads: VecDeque<(BrokerId, TopicPartition, Offset, usize)>,
    asked_by: BTreeMap<u64, (u32, RunId)>,
    requests: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Request { from: u32, run: RunId, to: u32, request: ReplicateRequest },
    Reply { from: u32, to: u32, run: RunId, reply: Option<ReplicateReply> },
    Alter(AlterIsr),
}

pub(super) struct World {
    pub(super) now: Mono,
    pub(super) image: Arc<Image>,
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) packets: Vec<Packet>,
    pub(super) alarms: Vec<Invariant>,
    pub(super) cut: BTreeSet<(u32, u32)>,
    pub(super) committed: BTreeMap<TopicPartition, Vec<Batch>>,
    pub(super) weakened: Vec<Weakening>,
    pub(super) pushes: u64,
    tickets: u64,
    runs: u128,
}

use crate::invariants::Invariant;

impl World {
    /// Makes brokers 1..=3 with `partitions` partitions led by 1 in epoch 1, all in sync, `min_isr` 2.
    pub(super) fn new(partitions: usize) -> Self {
        Self::with(partitions, &[1, 2, 3], Vec::new())
    }

    pub(super) fn with(partitions: usize, isr: &[u32], weakened: Vec<Weakening>) -> Self {
        let ids = |ids: &[u32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let entry = PartitionEntry {
            replicas: ids(&[1, 2, 3]),
            adding: vec![],
            removing: vec![],
            isr: ids(isr),
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(1),
            part_epoch: PartEpoch(0),
        };
        let topic = TopicEntry {
            name: TopicName::try_from("t").unwrap(),
            config: TopicConfig::with_copies(3, 2),
            partitions: vec![entry; partitions],
        };
        let image = Image {
            cluster_id: ClusterId(Uuid::from_u128(1)),
            at: At { epoch: ControllerEpoch(1), version: 1 },
            hash: ImageHash::default(),
            feature_level: 1,
            voters: BTreeMap::new(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::from([(TOPIC, Arc::new(topic))]),
            tombstones: BTreeMap::new(),
        };
        let mut world = Self {
            now: 1_000,
            image: Arc::new(image),
            nodes: BTreeMap::new(),
            packets: Vec::new(),
            alarms: Vec::new(),
            cut: BTreeSet::new(),
            committed: BTreeMap::new(),
            weakened,
            pushes: 0,
            tickets: 0,
            runs: 0,
        };
        for id in 1..=3 {
            let node = Node {
                machine: None,
                run: RunId(Uuid::nil()),
                volume: u128::from(id),
                disk: BTreeMap::new(),
                unsynced: VecDeque::new(),
                confirmed: BTreeMap::new(),
                acked: BTreeMap::new(),
                views: BTreeMap::new(),
                loads: VecDeque::new(),
                asked_by: BTreeMap::new(),
                requests: 0,
            };
            world.nodes.insert(id, node);
            world.start(id);
            world.edit(|image| register(image, id, RunId(Uuid::from_u128(u128::from(id))), u128::from(id)));
        }
        world
    }

    pub(super) fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    /// Starts a process on what its disk holds.
    pub(super) fn start(&mut self, id: u32) {
        self.runs += 1;
        let (now, run, weakened) = (self.now, RunId(Uuid::from_u128(self.runs)), self.weakened.clone());
        let node = self.node(id);
        let stored = node.disk.iter().map(|(partition, disk)| StoredReplica {
            partition: *partition,
            leader_epoch: disk.leader_epoch,
            log_start: disk.log_start,
            log_end: disk.log_end(),
            high_watermark: disk.high_watermark,
            epochs: disk.epochs.clone(),
            producers: disk.producers.clone(),
        });
        let config = ReplicasConfig { me: BrokerId(id), run_id: run, timeout_scale: 1, weakened };
        let machine = Replicas::new(now, config, stored.collect());
        node.machine = Some(machine);
        node.run = run;
    }

    /// Ends a process; unsynced writes are lost.
    pub(super) fn crash(&mut self, id: u32) {
        let node = self.node(id);
        node.machine = None;
        node.unsynced.clear();
        node.loads.clear();
        // Whoever waits for an answer learns that the connection broke.
        let waiting = std::mem::take(&mut node.asked_by);
        node.views.clear();
        for (to, run) in waiting.into_values() {
            self.packets.push(Packet::Reply { from: id, to, run, reply: None });
        }
    }

    /// Replaces a broker's volume by an empty one.
    pub(super) fn wipe(&mut self, id: u32) {
        self.crash(id);
        self.runs += 1;
        let volume = 1_000 + self.runs;
        let node = self.node(id);
        node.disk.clear();
        node.volume = volume;
    }

    /// Registers the present process of a broker with the controller, by the rules R1 to R3.
    pub(super) fn register(&mut self, id: u32) {
        let (run, volume) = (self.nodes[&id].run, self.nodes[&id].volume);
        self.edit(|image| register(image, id, run, volume));
    }

    /// Commits a new image; nobody hears of it yet.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Image)) {
        let mut image = (*self.image).clone();
        image.at.version += 1;
        change(&mut image);
        self.image = Arc::new(image);
    }

    pub(super) fn edit_part(&mut self, index: usize, change: impl Fn(&mut PartitionEntry)) {
        self.edit(|image| edit_part(image, index, change));
    }

    /// Moves the leadership as the controller does.
    pub(super) fn elect(&mut self, leader: u32) {
        self.edit_part(0, |entry| {
            entry.leader = Some(BrokerId(leader));
            entry.leader_epoch.0 += 1;
            entry.part_epoch.0 += 1;
        });
    }

    pub(super) fn fence(&mut self, id: u32) {
        self.edit(|image| image.brokers.get_mut(&BrokerId(id)).unwrap().state = BrokerState::Fenced);
    }

    pub(super) fn entry(&self) -> &PartitionEntry {
        &self.image.topics[&TOPIC].partitions[0]
    }

    pub(super) fn isr(&self) -> Vec<u32> {
        let mut isr: Vec<u32> = self.entry().isr.iter().map(|id| id.0).collect();
        isr.sort_unstable();
        isr
    }

    pub(super) fn step(&mut self, id: u32, input: Input) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(machine) = node.machine.as_mut() else { return };
        for action in machine.step(now, input) {
            match action {
                Action::Write { id, writes } => node.unsynced.push_back((id, writes)),
                Action::Push { to, request } => {
                    self.pushes += 1;
                    self.packets.push(Packet::Request { from: id, run: node.run, to: to.0, request });
                }
                Action::Load { to, partition, from, bytes_max } => {
                    node.loads.push_back((to, partition, from, bytes_max));
                }
                Action::Answer { id: request, reply } => {
                    let (to, run) = node.asked_by.remove(&request.0).unwrap();
                    self.packets.push(Packet::Reply { from: id, to, run, reply: Some(reply) });
                }
                Action::Acked { ticket, result } => {
                    assert!(node.acked.insert(ticket.0, result).is_none(), "answered twice");
                }
                Action::Confirmed { ticket, leads } => {
                    assert!(node.confirmed.insert(ticket.0, leads).is_none(), "answered twice");
                }
                Action::Visible { partition, view } => match view {
                    Some(view) => {
                        node.views.insert(partition, view);
                    }
                    None => {
                        node.views.remove(&partition);
                    }
                },
                Action::AlterIsr(alter) => self.packets.push(Packet::Alter(alter)),
                Action::Alarm { id, .. } => self.alarms.push(id),
            }
        }
        self.check(id);
    }

    /// R2 and R3 after every step: what a leader commits extends what was committed, what a replica shows is part of it.
    fn check(&mut self, id: u32) {
        let node = &self.nodes[&id];
        for (partition, view) in &node.views {
            let Some(disk) = node.disk.get(partition) else { continue };
            let chain = self.committed.entry(*partition).or_default();
            let shown = disk.batches.iter().filter(|batch| batch.end_offset() <= view.high_watermark);
            for batch in shown {
                match chain.iter().find(|known| known.end_offset() > batch.base_offset()) {
                    Some(known) => {
                        assert_eq!(known, batch, "broker {id} shows other records than were committed")
                    }
                    None => {
                        assert_eq!(
                            view.role,
                            Role::Leader,
                            "broker {id} shows {batch:?}, which no leader committed"
                        );
                        chain.push(batch.clone());
                    }
                }
            }
        }
    }

    pub(super) fn learn(&mut self, id: u32) {
        let image = Arc::clone(&self.image);
        self.step(id, Input::Image(image));
    }

    pub(super) fn learn_all(&mut self) {
        (1..=3).for_each(|id| self.learn(id));
    }

    /// Appends and flushes; returns the ticket.
    pub(super) fn publish(&mut self, id: u32, batch: Batch, acks: Acks) -> u64 {
        let ticket = self.append(id, part(0), batch, acks);
        self.step(id, Input::Flush { now_ms: 5 });
        ticket
    }

    pub(super) fn append(&mut self, id: u32, partition: TopicPartition, batch: Batch, acks: Acks) -> u64 {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.step(id, Input::Append { ticket, partition, batch, acks, expected_offset: None });
        self.tickets
    }

    pub(super) fn sync(&mut self, id: u32) {
        let node = self.node(id);
        let Some((write, writes)) = node.unsynced.pop_front() else { return };
        for write in writes {
            if write.delete {
                node.disk.remove(&write.partition);
            } else {
                node.disk.entry(write.partition).or_default().apply(&write);
            }
        }
        self.step(id, Input::Written { id: write });
    }

    pub(super) fn load(&mut self, id: u32) {
        let node = self.node(id);
        let Some((to, partition, from, bytes_max)) = node.loads.pop_front() else { return };
        let batches = node.disk.get(&partition).map(|disk| disk.read(from, bytes_max)).unwrap_or_default();
        self.step(id, Input::Loaded { to, partition, from, batches });
    }

    /// Delivers one packet; a cut link or a dead receiver fails it.
    pub(super) fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Request { from, run, to, request } => {
                let dead = self.nodes[&to].machine.is_none();
                if dead || self.cut.contains(&(from, to)) {
                    self.packets.push(Packet::Reply { from: to, to: from, run, reply: None });
                    return;
                }
                let node = self.node(to);
                node.requests += 1;
                let id = RequestId(node.requests);
                node.asked_by.insert(id.0, (from, run));
                self.step(to, Input::Request { id, from: BrokerId(from), request });
            }
            Packet::Reply { from, to, run, reply } => {
                if self.nodes[&to].run == run {
                    let reply = reply.filter(|_| !self.cut.contains(&(from, to)));
                    self.step(to, Input::Reply { from: BrokerId(from), reply });
                }
            }
            Packet::Alter(alter) => self.alter(&alter),
        }
    }

    /// The controller's rule for ISR changes.
    pub(super) fn alter(&mut self, alter: &AlterIsr) {
        let image = Arc::clone(&self.image);
        let index = usize::try_from(alter.partition.partition).unwrap();
        let entry = &image.topics[&TOPIC].partitions[index];
        let known = |(id, epoch): &(BrokerId, BrokerEpoch)| {
            let broker = &image.brokers[id];
            let same = broker.broker_epoch == *epoch || self.weakened.contains(&Weakening::NoBrokerEpoch);
            same && (broker.state == BrokerState::Active || entry.isr.contains(id))
        };
        let fits = entry.leader == Some(alter.leader)
            && entry.leader_epoch == alter.leader_epoch
            && entry.part_epoch == alter.part_epoch
            && alter.isr.iter().all(known);
        if fits {
            self.edit_part(index, |entry| {
                entry.isr = alter.isr.iter().map(|(id, _)| *id).collect();
                entry.part_epoch.0 += 1;
            });
        }
    }

    /// Delivers, syncs and reads until nothing is under way.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let packets = std::mem::take(&mut self.packets);
            let mut idle = packets.is_empty();
            packets.into_iter().for_each(|packet| self.deliver(packet));
            for id in 1..=3 {
                while !self.nodes[&id].unsynced.is_empty() {
                    self.sync(id);
                    idle = false;
                }
                while !self.nodes[&id].loads.is_empty() {
                    self.load(id);
                    idle = false;
                }
            }
            if idle {
                return;
            }
        }
        panic!("the brokers never come to rest");
    }

    /// Lets time pass in steps of 50 ms, everything being delivered and every image learned.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 50;
            for id in 1..=3 {
                self.step(id, Input::Tick);
            }
            self.settle();
            self.learn_all();
            self.settle();
        }
    }

    pub(super) fn view(&self, id: u32) -> ReplicaView {
        self.nodes[&id].machine.as_ref().unwrap().view(part(0)).unwrap()
    }

    /// Returns offset and epoch of all batches of partition 0 on a broker's disk.
    pub(super) fn log(&self, id: u32) -> Vec<(Offset, u32)> {
        let disk = self.nodes[&id].disk.get(&part(0));
        disk.into_iter()
            .flat_map(|disk| &disk.batches)
            .map(|at| (at.base_offset(), at.leader_epoch().0))
            .collect()
    }
}

pub(super) fn edit_part(image: &mut Image, index: usize, change: impl Fn(&mut PartitionEntry)) {
    let mut topic = (*image.topics[&TOPIC]).clone();
    change(&mut topic.partitions[index]);
    image.topics.insert(TOPIC, Arc::new(topic));
}

/// R1 to R3 of a registration, and the unfencing at once.
fn register(image: &mut Image, id: u32, run: RunId, volume: u128) {
    let broker_epoch = BrokerEpoch(image.at.version);
    let storage_id = StorageId(Uuid::from_u128(volume));
    let entry = BrokerEntry {
        storage_id,
        boot: broker_epoch.0,
        run_id: run,
        broker_epoch,
        api_base: String::new(),
        peer_base: String::new(),
        zone: None,
        versions: (1, 1),
        rolled_back: false,
        sealed: None,
        state: BrokerState::Active,
        draining: false,
    };
    let old = image.brokers.insert(BrokerId(id), entry);
    let Some(old) = old else { return };
    let wiped = old.storage_id != storage_id;
    for index in 0..image.topics[&TOPIC].partitions.len() {
        edit_part(image, index, |entry| {
            let led = entry.leader == Some(BrokerId(id));
            if wiped && entry.isr.contains(&BrokerId(id)) {
                entry.isr.retain(|member| member.0 != id);
                entry.part_epoch.0 += 1;
            }
            if led {
                let heir = entry.replicas.iter().find(|member| entry.isr.contains(member) && member.0 != id);
                let own = entry.isr.contains(&BrokerId(id)).then_some(BrokerId(id));
                entry.leader = heir.copied().or(own);
                entry.leader_epoch.0 += 1;
                entry.part_epoch.0 += 1;
            }
        });
    }
}

impl World {
    /// Returns whether a broker's present process is the registered one, and not fenced.
    pub(super) fn is_registered(&self, id: u32) -> bool {
        let entry = &self.image.brokers[&BrokerId(id)];
        entry.run_id == self.nodes[&id].run && entry.state != BrokerState::Fenced
    }
}
