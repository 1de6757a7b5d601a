//! Identifiers: newtypes whose constructors check once, at the edge, what everything behind relies on.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! unique {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One broker of the cluster (in Kubernetes: pod ordinal + 1). Higher ids win Bully elections.
    BrokerId(u32)
);
number!(
    /// A controller's term. At most one broker is ever controller in one epoch (invariant E1).
    ControllerEpoch(u64)
);
number!(
    /// A partition leader's term, carried by every batch it appends.
    LeaderEpoch(u32)
);
number!(
    /// Compare-and-set token of one partition's state in the image; grows with every change of it.
    PartEpoch(u32)
);
number!(
    /// Image version at which a broker process was registered; fences that id's older processes.
    BrokerEpoch(u64)
);

/// One start of a process on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Counts the starts on that volume, this one included.
    pub boot: u64,
    /// The process.
    pub run_id: RunId,
}

impl Start {
    /// Returns whether this start may follow a known one, or is it. If not, the volume is an older copy of itself.
    pub fn follows(&self, known: Self) -> bool {
        self.boot > known.boot || *self == known
    }
}

/// A broker on one volume: what votes, and what promises are made to. A replaced volume is another voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter {
    /// Its id.
    pub id: BrokerId,
    /// Its volume.
    pub storage_id: StorageId,
}

unique!(
    /// Identity of a topic's data. A topic deleted and created again under its old name gets a new one.
    TopicId
);
unique!(
    /// Made when a data directory is first initialised; a lost and replaced volume has another one.
    StorageId
);
unique!(
    /// Made once, by the genesis image; messages of another cluster are refused.
    ClusterId
);
unique!(
    /// Made anew at every start of a broker process.
    RunId
);

/// Position of a record in its partition. The first record is 0.
pub type Offset = u64;

/// Place of an image in history: ordered by controller epoch, then version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct At {
    /// Epoch of the controller that proposed the image.
    pub epoch: ControllerEpoch,
    /// Counts image changes; the genesis image has version 1, no image 0.
    pub version: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's identity (not its name).
    pub topic: TopicId,
    /// Index within the topic, from 0.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {given:?} is not valid: {reason}")]
pub struct InvalidName {
    /// What was named: `topic name`, `group id` or `consumer id`.
    pub kind: &'static str,
    /// The text as given, cut to 80 characters.
    pub given: String,
    /// What a valid name looks like.
    pub reason: &'static str,
}

fn refuse(kind: &'static str, given: &str, reason: &'static str) -> InvalidName {
    InvalidName { kind, given: given.chars().take(80).collect(), reason }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);
        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<&str> for $name {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                $check($kind, text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                $check($kind, &text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A topic's name: 1 to 249 characters of `[A-Za-z0-9._-]`, not `.` or `..`. Names starting with `__` are internal.
    TopicName, "topic name", check_topic_name
);
name!(
    /// A consumer group's name: 1 to 255 characters, no control characters.
    GroupId, "group id", check_free_name
);
name!(
    /// One consumer within a group: 1 to 255 characters, no control characters.
    ConsumerId, "consumer id", check_free_name
);

fn check_topic_name(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    let fits = !text.is_empty() && text.len() <= crate::limits::TOPIC_NAME_BYTES_MAX;
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits && plain && text != "." && text != ".." {
        return Ok(());
    }
    Err(refuse(kind, text, "use 1 to 249 letters, digits, '.', '_' or '-', and not '.' or '..' alone"))
}

fn check_free_name(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    let fits = !text.is_empty() && text.len() <= crate::limits::GROUP_NAME_BYTES_MAX;
    if fits && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(refuse(kind, text, "use 1 to 255 bytes without control characters"))
}

impl TopicName {
    /// Returns whether the topic is one of Pubsub's own, which clients can't publish to or delete.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_that_could_not_be_routed_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(250)] {
            assert!(TopicName::try_from(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "a_b", "demo-topic", "A.b", &"x".repeat(249)] {
            assert!(TopicName::try_from(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn images_are_ordered_by_epoch_before_version() {
        let older = At { epoch: ControllerEpoch(1), version: 9 };
        let newer = At { epoch: ControllerEpoch(2), version: 3 };
        assert!(newer > older);
    }
}
