//! What the model of the replication consists of.

use std::collections::BTreeSet;

/// Replicas of the partition.
pub const REPLICAS: usize = 3;

/// A record: the leader epoch that wrote it, and a number of its own.
pub type Record = (u8, u8);
/// A set of replicas, one bit each.
pub type Set = u8;

/// The partition's entry in the image, and which process of each broker is registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Entry {
    pub leader: Option<u8>,
    pub leader_epoch: u8,
    pub part_epoch: u8,
    pub isr: Set,
    pub registered: [u8; REPLICAS],
}

/// One term of leading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Leading {
    pub isr: Set,
    pub part_epoch: u8,
    /// Everyone whom an open wish would add.
    pub adding: Set,
    pub matched: [u8; REPLICAS],
    /// Log end when the term began.
    pub epoch_start: u8,
    pub registered: [u8; REPLICAS],
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Replica {
    pub log: Vec<Record>,
    /// Lost in a crash.
    pub high_watermark: u8,
    pub leader_epoch: u8,
    pub leading: Option<Leading>,
    /// Which process of the broker this is.
    pub process: u8,
    /// The volume was lost, and the controller has not been told yet.
    pub emptied: bool,
}

/// A message between brokers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Message {
    Replicate { leader_epoch: u8, from: u8, log: Vec<Record>, high_watermark: u8, to: [u8; REPLICAS] },
    Matched { leader_epoch: u8, from: u8, to: u8, end: u8, process: u8 },
    AlterIsr { leader_epoch: u8, part_epoch: u8, isr: Set, registered: [u8; REPLICAS] },
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct State {
    pub entry: Entry,
    pub replicas: Vec<Replica>,
    pub sent: BTreeSet<Message>,
    /// What any leader ever committed.
    pub committed: Vec<Record>,
    /// Two leaders committed different records at one offset.
    pub forked: bool,
    pub published: u8,
    pub losses: u8,
    pub crashes: u8,
    pub wishes: u8,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    Learn(u8),
    Publish(u8),
    Send(u8),
    Wish(u8, u8),
    Elect(u8),
    Crash(u8),
    Lose(u8),
    Register(u8),
    Deliver(Message, u8),
    Alter(Message),
}
