//! Whole clusters of control machines over a perfect network in virtual time.
#![allow(clippy::unwrap_used)]

mod faults;
mod scenarios;

use super::fixture::b;
use super::image::{BrokerState, Image, ImageHash, TopicConfig};
use super::{
    Action, Command, Control, ControlConfig, Event, Hard, Input, Outcome, Refusal, Ticket, Weakening, fixture,
};
use crate::Mono;
use crate::ids::{At, BrokerId, ControllerEpoch, RunId, StorageId, TopicId, TopicName};
use crate::wire::internal::Message;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

struct Node {
    machine: Control,
    disk: Hard,
    actions: Vec<Action>,
    persists: usize,
}

struct Cluster {
    now: Mono,
    founders: Option<Vec<BrokerId>>,
    preempt: bool,
    nodes: BTreeMap<BrokerId, Node>,
    disks: BTreeMap<BrokerId, Hard>,
    queue: BTreeMap<(Mono, u64), (BrokerId, Input)>,
    cut: BTreeSet<(BrokerId, BrokerId)>,
    sequence: u64,
    replies: BTreeMap<Ticket, Result<Outcome, Refusal>>,
    faults: Option<Faults>,
    /// Hash of the committed image of every version (M1).
    chain: BTreeMap<u64, ImageHash>,
    /// Who proposed in every epoch (E1).
    proposers: BTreeMap<ControllerEpoch, BrokerId>,
    newest: Option<Arc<Image>>,
    /// Who ever accepted an image.
    holders: BTreeMap<(ImageHash, At), BTreeSet<BrokerId>>,
    weakened: Vec<Weakening>,
}

/// What the network does to messages.
struct Faults {
    rng: StdRng,
    loss_percent: u32,
    delay_ms_max: Mono,
    /// Chance per thousand actions that the process dies right before one.
    crash_permille: u32,
}

impl Cluster {
    fn new(founders: &[u32]) -> Self {
        Self {
            now: 1_000,
            founders: Some(founders.iter().map(|id| b(*id)).collect()),
            preempt: false,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            queue: BTreeMap::new(),
            cut: BTreeSet::new(),
            sequence: 0,
            replies: BTreeMap::new(),
            faults: None,
            chain: BTreeMap::new(),
            proposers: BTreeMap::new(),
            newest: None,
            holders: BTreeMap::new(),
            weakened: Vec::new(),
        }
    }

    fn started(founders: &[u32]) -> Self {
        let mut cluster = Self::new(founders);
        for id in founders {
            cluster.start(*id);
        }
        cluster
    }

    fn ready(founders: &[u32]) -> Self {
        let mut cluster = Self::started(founders);
        let all: Vec<_> = founders.to_vec();
        cluster.until(5_000, |cluster| cluster.all_registered(&all));
        cluster.run(500);
        cluster
    }

    fn start(&mut self, id: u32) {
        self.sequence += 1;
        let fresh = Hard {
            cluster_id: None,
            broker_id: b(id),
            storage_id: StorageId(Uuid::from_u128(u128::from(self.sequence) << 32 | u128::from(id))),
            boot: 0,
            epoch: ControllerEpoch(0),
            voted_for: None,
            accepted: None,
            committed: At::default(),
        };
        let mut disk = self.disks.remove(&b(id)).unwrap_or(fresh);
        disk.boot += 1;
        let config = ControlConfig {
            versions: super::VERSIONS,
            run_id: RunId(Uuid::from_u128(u128::from(self.sequence))),
            api_base: format!("http://b{id}:8080"),
            peer_base: format!("http://b{id}:9090"),
            zone: None,
            sealed: false,
            genesis: self.founders.clone(),
            preempt: self.preempt,
            timeout_scale: 1,
            seed: self.sequence,
            weakened: self.weakened.clone(),
        };
        let machine = Control::new(self.now, disk.clone(), config);
        self.nodes.insert(b(id), Node { machine, disk, actions: Vec::new(), persists: 0 });
    }

    fn kill(&mut self, id: u32) {
        let node = self.nodes.remove(&b(id)).unwrap();
        self.disks.insert(b(id), node.disk);
        self.queue.retain(|_, (to, _)| *to != b(id));
    }

    fn give(&mut self, id: BrokerId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let actions = node.machine.step(self.now, input);
        for action in actions {
            if self
                .faults
                .as_mut()
                .is_some_and(|faults| faults.rng.random_ratio(faults.crash_permille, 1_000))
            {
                return self.kill(id.0);
            }
            let node = self.nodes.get_mut(&id).unwrap();
            if self.faults.is_none() {
                node.actions.push(action.clone());
            }
            match action {
                Action::Persist(hard) => {
                    assert!(hard.epoch >= node.disk.epoch, "a promise regressed");
                    node.disk = *hard;
                    node.persists += 1;
                    let accepted = node.disk.accepted.clone();
                    self.check_accepted(id, accepted);
                }
                Action::Send { to, message } => self.carry(id, to, message),
                Action::Reply { ticket, result } => {
                    self.replies.insert(ticket, result);
                }
                Action::Apply(image) => self.check_applied(id, image),
                Action::Halt { .. } => return self.kill(id.0),
                Action::Event(_) | Action::Stopped => {}
            }
        }
    }

    /// An image is chosen once a majority of its voters ever accepted it, whether or not anybody knows.
    fn check_accepted(&mut self, id: BrokerId, accepted: Option<Arc<Image>>) {
        let Some(image) = accepted else { return };
        let holders = self.holders.entry((image.hash, image.at)).or_default();
        holders.insert(id);
        if holders.len() * 2 > image.voters.len() {
            self.check_committed(id, &image);
        }
    }

    fn check_committed(&mut self, id: BrokerId, image: &Image) {
        let hash = *self.chain.entry(image.at.version).or_insert(image.hash);
        assert_eq!(
            hash, image.hash,
            "two committed images at version {} (M1), seen on {id}",
            image.at.version
        );
    }

    fn check_applied(&mut self, id: BrokerId, image: Arc<Image>) {
        let hash = *self.chain.entry(image.at.version).or_insert(image.hash);
        assert_eq!(
            hash, image.hash,
            "two committed images at version {} (M1), seen on {id}",
            image.at.version
        );
        if self.newest.as_ref().is_none_or(|newest| newest.at < image.at) {
            self.newest = Some(image);
        }
    }

    fn carry(&mut self, from: BrokerId, to: BrokerId, message: Message) {
        if let Message::Accept { epoch, .. } = &message {
            assert_eq!(
                *self.proposers.entry(*epoch).or_insert(from),
                from,
                "two controllers in {epoch} (E1)"
            );
        }
        if self.cut.contains(&(from, to)) {
            return;
        }
        self.sequence += 1;
        let mut when = (self.now + 1, self.sequence);
        if let Some(faults) = &mut self.faults {
            when.0 += faults.rng.random_range(0..faults.delay_ms_max);
            if faults.rng.random_ratio(faults.loss_percent, 100) {
                return;
            }
            if faults.rng.random_ratio(5, 100) && self.nodes.contains_key(&to) {
                self.sequence += 1;
                let again = (when.0 + faults.rng.random_range(0..2_000), self.sequence);
                let from_storage = self.nodes[&from].disk.storage_id;
                let message = message.clone();
                self.queue.insert(again, (to, Input::Message { from, from_storage, message }));
            }
        }
        if self.nodes.contains_key(&to) {
            let from_storage = self.nodes[&from].disk.storage_id;
            self.queue.insert(when, (to, Input::Message { from, from_storage, message }));
        } else {
            self.queue.insert(when, (from, Input::Unreachable { peer: to }));
        }
    }

    fn run(&mut self, ms: Mono) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 1;
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, input) = entry.remove();
                self.give(to, input);
            }
            let due = self.nodes.iter().filter(|(_, node)| node.machine.deadline() <= self.now);
            for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.give(id, Input::Tick);
            }
        }
    }

    /// Runs until `done`, and returns how long that took.
    fn until(&mut self, most: Mono, done: impl Fn(&Self) -> bool) -> Mono {
        let begun = self.now;
        while !done(self) {
            assert!(self.now < begun + most, "not done within {most} ms");
            self.run(1);
        }
        self.now - begun
    }

    fn controller(&self) -> Option<BrokerId> {
        self.nodes.iter().find(|(_, node)| node.machine.status(self.now).leading).map(|(id, _)| *id)
    }

    fn image(&self, id: u32) -> &Arc<Image> {
        self.nodes[&b(id)].machine.image().unwrap()
    }

    fn all_registered(&self, ids: &[u32]) -> bool {
        ids.iter().all(|id| self.nodes[&b(*id)].machine.status(self.now).registered)
    }

    fn propose(&mut self, to: u32, command: Command) -> Result<Outcome, Refusal> {
        self.sequence += 1;
        let ticket = Ticket(self.sequence);
        self.give(b(to), Input::Propose { ticket, command });
        self.until(3_000, |cluster| cluster.replies.contains_key(&ticket));
        self.replies.remove(&ticket).unwrap()
    }

    fn create(
        &mut self,
        to: u32,
        name: &str,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<Outcome, Refusal> {
        self.sequence += 1;
        let id = TopicId(Uuid::from_u128(u128::from(self.sequence)));
        let name = TopicName::try_from(name).unwrap();
        self.propose(
            to,
            Command::CreateTopic { name, id, partitions, config, leader: None, take_ownership: false },
        )
    }

    fn events(&self, id: u32) -> Vec<Event> {
        let events = self.nodes[&b(id)].actions.iter().filter_map(|action| match action {
            Action::Event(event) => Some(event.clone()),
            _ => None,
        });
        events.collect()
    }
}

fn leaders(image: &Image) -> BTreeSet<Option<BrokerId>> {
    image.partitions().map(|(_, _, entry)| entry.leader).collect()
}
