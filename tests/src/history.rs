//! What everybody saw of a cluster under test, and what is there in the end. [`check`] judges the one by the other.
//!
//! Everything here is plain data. Times are milliseconds since the run began, by the clock of the process that ran the
//! workload, so that two operations can be put in order only if one ended before the other began.

pub mod check;
pub mod pauses;

use crate::cluster::topic::Stored;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds since the run began.
pub type Ms = u64;

/// When an operation was begun, and when its outcome was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// When it was sent first.
    pub began: Ms,
    /// When the answer came, or was given up on.
    pub ended: Ms,
}

impl Span {
    /// Returns whether this was over before `other` began.
    pub fn before(&self, other: &Self) -> bool {
        self.ended < other.began
    }
}

/// What somebody knows of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome<T> {
    /// Done, for certain.
    Acked(T),
    /// Not done, for certain; why.
    Refused(String),
    /// Perhaps done, perhaps not, perhaps later; why.
    Unknown(String),
}

impl<T> Outcome<T> {
    /// Returns `acked`, `refused` or `unknown`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Acked(_) => "acked",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Returns what was acknowledged.
    pub fn acked(&self) -> Option<&T> {
        match self {
            Self::Acked(value) => Some(value),
            Self::Refused(_) | Self::Unknown(_) => None,
        }
    }
}

/// A partition of a topic, by the topic's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

impl Place {
    /// Names a partition.
    pub fn of(topic: &str, partition: u32) -> Self {
        Self { topic: topic.to_owned(), partition }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One publish with `acks=all`: values that are stored all or none, one behind the other.
#[derive(Clone, Debug, Serialize)]
pub struct Publish {
    /// Which publisher; each waits for an outcome before it publishes again.
    pub publisher: usize,
    /// Where to.
    pub place: Place,
    /// The values, each unique in the whole run.
    pub values: Vec<String>,
    /// Through which broker the last try went.
    pub via: u32,
    /// From the first try on.
    pub span: Span,
    /// How often it was sent. More than once only under a producer's sequence number.
    pub tries: u32,
    /// Sequence number of the first value, if it was published under a producer id.
    pub sequence: Option<u64>,
    /// The offset of the first value.
    pub outcome: Outcome<u64>,
}

/// One answer with records, of a reader on its own or of a member of a group.
#[derive(Clone, Debug, Serialize)]
pub struct Read {
    /// Who read: one reader asks for what follows its last answer, in one partition.
    pub reader: String,
    /// Whether it read for a group, and then which.
    pub group: Option<String>,
    /// From where.
    pub place: Place,
    /// Through which broker.
    pub via: u32,
    /// The offset asked for, unless a group's position decided.
    pub from: Option<u64>,
    /// Offsets and values.
    pub records: Vec<(u64, String)>,
    /// When.
    pub span: Span,
}

/// One commit of a group's member.
#[derive(Clone, Debug, Serialize)]
pub struct Commit {
    /// The group.
    pub group: String,
    /// The member.
    pub member: String,
    /// Of which partition.
    pub place: Place,
    /// The last finished record.
    pub offset: i64,
    /// When.
    pub span: Span,
    /// What came of it.
    pub outcome: Outcome<()>,
}

/// A group's position as a broker told it to a member.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The group.
    pub group: String,
    /// Of which partition.
    pub place: Place,
    /// The last finished record, −1 for none.
    pub committed: i64,
    /// When.
    pub span: Span,
}

/// A change of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Change {
    /// Creates it.
    Create,
    /// Deletes it.
    Delete,
    /// Writes a number into its settings.
    Mark(u64),
    /// Adds a replica on a broker.
    AddReplica(u32),
    /// Drops the replica on a broker.
    RemoveReplica(u32),
}

/// One admin request. Requests about one topic are made one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct AdminChange {
    /// The topic.
    pub topic: String,
    /// What to change.
    pub change: Change,
    /// Through which broker.
    pub via: u32,
    /// When.
    pub span: Span,
    /// What came of it.
    pub outcome: Outcome<()>,
}

/// A fault that was injected.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// What, e.g. `kill -9 broker 2 (leader)`.
    pub what: String,
    /// When it began.
    pub at: Ms,
    /// What it is called among others of its kind, e.g. `kill -9 leader`, if its cost is to be counted.
    pub kind: Option<String>,
}

/// Everything seen during one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    /// Those of one publisher in its order.
    pub publishes: Vec<Publish>,
    /// Those of one reader in its order.
    pub reads: Vec<Read>,
    /// Those of one member in its order.
    pub commits: Vec<Commit>,
    /// Positions told.
    pub standings: Vec<Standing>,
    /// Those of one topic in their order.
    pub changes: Vec<AdminChange>,
    /// Brokers that were emptied and stayed so.
    pub drained: BTreeSet<u32>,
    /// Controller epochs, and who said to be controller in them.
    pub claims: BTreeSet<(u64, u32)>,
    /// In order of time.
    pub faults: Vec<Fault>,
    /// Broken rules that an observer noticed by itself.
    pub noticed: Vec<check::Violation>,
}

impl History {
    /// Takes over what another observer saw.
    pub fn merge(&mut self, other: Self) {
        self.publishes.extend(other.publishes);
        self.reads.extend(other.reads);
        self.commits.extend(other.commits);
        self.standings.extend(other.standings);
        self.changes.extend(other.changes);
        self.drained.extend(other.drained);
        self.claims.extend(other.claims);
        self.faults.extend(other.faults);
        self.noticed.extend(other.noticed);
    }

    /// Returns how many records were acknowledged.
    pub fn acked(&self) -> usize {
        let acked = self.publishes.iter().filter(|publish| publish.outcome.acked().is_some());
        acked.map(|publish| publish.values.len()).sum()
    }

    /// Takes values that the test published itself, and looked after itself, as perhaps stored.
    pub fn adopt(&mut self, place: &Place, values: &[&str]) {
        for value in values {
            self.publishes.push(Publish {
                publisher: usize::MAX,
                place: place.clone(),
                values: vec![(*value).to_owned()],
                via: 0,
                span: Span { began: 0, ended: 0 },
                tries: 1,
                sequence: None,
                outcome: Outcome::Unknown("published by the test".to_owned()),
            });
        }
    }
}

/// One partition in the end.
#[derive(Clone, Debug, Default)]
pub struct PartitionEnding {
    /// The committed log of each replica.
    pub logs: BTreeMap<u32, Vec<Stored>>,
}

impl PartitionEnding {
    /// Returns one of the logs; [`check`] has made sure that they are equal.
    pub fn log(&self) -> &[Stored] {
        self.logs.values().next().map(Vec::as_slice).unwrap_or_default()
    }
}

/// One topic in the end.
#[derive(Clone, Debug, Default)]
pub struct TopicEnding {
    /// The number that [`Change::Mark`] wrote.
    pub mark: Option<u64>,
    /// Who holds it.
    pub replicas: BTreeSet<u32>,
    /// Its partitions, if they were read.
    pub partitions: BTreeMap<u32, PartitionEnding>,
}

/// What is there once faults have ended and everything has settled.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// By name, everything that exists.
    pub topics: BTreeMap<String, TopicEnding>,
    /// Positions of groups that were drained: everything was read and finished.
    pub positions: BTreeMap<(String, Place), i64>,
}

impl Ending {
    /// Returns the end of a single partition of a single topic.
    pub fn of_log(place: &Place, log: &[Stored]) -> Self {
        let partition = PartitionEnding { logs: BTreeMap::from([(0, log.to_vec())]) };
        let topic = TopicEnding {
            partitions: BTreeMap::from([(place.partition, partition)]),
            ..TopicEnding::default()
        };
        Self { topics: BTreeMap::from([(place.topic.clone(), topic)]), ..Self::default() }
    }
}
