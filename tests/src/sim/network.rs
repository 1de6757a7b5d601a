//! The simulated network: loss, delay, duplicates, reordering, one-way cuts, and packets that a script holds back.

use super::rng::Rng;
use pubsub_core::ids::{BrokerId, ClusterId, StorageId};
use pubsub_core::partition::{RequestId, Role};
use pubsub_core::wire::internal::{Message, ReplicateReply, ReplicateRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

/// What one broker sends another.
#[derive(Clone, Debug)]
pub enum Body {
    /// A control message.
    Control(Message),
    /// A replication request; `push` names it for its answer.
    Push {
        /// For the answer.
        push: u64,
        /// The sender's process.
        process: u64,
        /// The request.
        request: ReplicateRequest,
    },
    /// The answer to one.
    Answer {
        /// As asked.
        push: u64,
        /// The asking process.
        process: u64,
        /// Which request it was to the answering process.
        request: RequestId,
        /// The answer.
        reply: ReplicateReply,
    },
}

/// A body on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The sender.
    pub from: BrokerId,
    /// The sender's volume.
    pub from_storage: StorageId,
    /// The sender's cluster, if it belongs to one.
    pub cluster: Option<ClusterId>,
    /// The receiver.
    pub to: BrokerId,
    /// What is sent.
    pub body: Body,
}

/// What a script does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Pass,
    /// It is lost.
    Drop,
    /// It is kept until the script lets it go.
    Hold,
    /// It arrives, and a copy of it is kept until the script lets that go.
    Copy,
}

type Rule = Rc<dyn Fn(&Packet) -> Verdict>;

/// The network's present state.
pub struct Network {
    cuts: BTreeSet<(BrokerId, BrokerId)>,
    /// Packets lost, per mille.
    pub loss: u64,
    /// Packets delivered twice, per mille.
    pub duplicates: u64,
    /// Shortest and longest way, ms.
    pub delay: (u64, u64),
    rule: Option<Rule>,
    held: Vec<Packet>,
    /// Whom each broker knows an address of.
    pub known: BTreeMap<BrokerId, BTreeSet<BrokerId>>,
    /// Brokers whose address belongs to another one now.
    pub reused: BTreeMap<BrokerId, BrokerId>,
    /// Packets that arrived where they were not meant to.
    pub misdirected: u64,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuts {:?} loss {} delay {:?}", self.cuts, self.loss, self.delay)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cuts: BTreeSet::new(),
            loss: 0,
            duplicates: 0,
            delay: (1, 5),
            rule: None,
            held: Vec::new(),
            known: BTreeMap::new(),
            reused: BTreeMap::new(),
            misdirected: 0,
        }
    }
}

impl Network {
    /// Cuts the way from one broker to another; the other direction stays.
    pub fn cut(&mut self, from: BrokerId, to: BrokerId) {
        if from != to {
            self.cuts.insert((from, to));
        }
    }

    /// Mends the way from one broker to another.
    pub fn mend(&mut self, from: BrokerId, to: BrokerId) {
        self.cuts.remove(&(from, to));
    }

    /// Cuts both ways between `one` and each of `others`.
    pub fn isolate(&mut self, one: BrokerId, others: impl IntoIterator<Item = BrokerId>) {
        for other in others {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Returns who has the address of a broker.
    pub(crate) fn address(&self, of: BrokerId) -> BrokerId {
        self.reused.get(&of).copied().unwrap_or(of)
    }

    /// Mends everything; a script's rule and held packets stay.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.reused.clear();
        self.loss = 0;
        self.duplicates = 0;
        self.delay = (1, 5);
    }

    /// Returns whether packets go from one to the other.
    pub fn open(&self, from: BrokerId, to: BrokerId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// Makes `rule` decide about every packet from now on.
    pub fn rule(&mut self, rule: impl Fn(&Packet) -> Verdict + 'static) {
        self.rule = Some(Rc::new(rule));
    }

    /// Ends the script's rule. Held packets stay held.
    pub fn no_rule(&mut self) {
        self.rule = None;
    }

    /// Takes out the packets that a rule held back, oldest first.
    pub fn take_held(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.held)
    }

    /// Returns the packets that a rule holds back.
    pub fn held(&self) -> &[Packet] {
        &self.held
    }

    /// Asks the script's rule, and keeps the packet or a copy if it says so. Returns whether the packet goes on.
    pub(crate) fn judge(&mut self, packet: &Packet) -> bool {
        let verdict = self.rule.as_ref().map_or(Verdict::Pass, |rule| rule(packet));
        if matches!(verdict, Verdict::Hold | Verdict::Copy) {
            self.held.push(packet.clone());
        }
        matches!(verdict, Verdict::Pass | Verdict::Copy)
    }

    /// Returns after how many ms each copy of a packet arrives; none if it is lost.
    pub(crate) fn ways(&self, rng: &mut Rng) -> Vec<u64> {
        if rng.chance(self.loss) {
            return Vec::new();
        }
        let mut ways = vec![rng.between(self.delay)];
        if rng.chance(self.duplicates) {
            ways.push(rng.between((self.delay.0, self.delay.1 * 4)));
        }
        ways
    }
}

/// Returns a short name of what a packet carries, for traces and rules.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::Push { .. } => "push",
        Body::Answer { .. } => "answer",
        Body::Control(message) => match message {
            Message::Election { .. } => "election",
            Message::Ok { .. } => "ok",
            Message::Claim { .. } => "claim",
            Message::Grant { .. } => "grant",
            Message::Coordinator { .. } => "coordinator",
            Message::Accept { .. } => "accept",
            Message::Accepted { .. } => "accepted",
            Message::NeedFull { .. } => "need-full",
            Message::Fenced { .. } => "fenced",
            Message::Heartbeat { .. } => "heartbeat",
            Message::HeartbeatAck { .. } => "heartbeat-ack",
            Message::Committed { .. } => "committed",
            Message::Handover { .. } => "handover",
            Message::Register(_) => "register",
            Message::AlterIsr(_) => "alter-isr",
            Message::RegisterRefused { .. } => "register-refused",
            Message::Gossip(_) => "gossip",
        },
    }
}

/// Returns a short name of a role.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Offline => "offline",
    }
}
