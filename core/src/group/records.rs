//! The records of the internal topic: what they are called and what they hold.
//!
//! `g/<group>` holds a group's members and what they read, `o/<group>/<topic id>/<partition>` a position of a group,
//! `c/<consumer>/…` one of a consumer without a group, and `a/…` one of nobody in particular; `epochs` holds the highest
//! epoch that any group had, and `barrier` nothing. A record without a value
//! takes its key back. Members' sessions are not in it: a coordinator that takes over gives everybody a fresh one.

use super::Reader;
use super::membership::Membership;
use crate::ids::{ConsumerId, GroupId, TopicId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A record: its key, and its value unless it takes the key back.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

/// Whose position, of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position(pub(super) Reader, pub(super) TopicId, pub(super) u32);

/// The value of a position's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Offset of the last finished record.
    pub(super) offset: i64,
    /// The group's epoch at the commit (0: without a membership).
    #[serde(default)]
    pub(super) member_epoch: u64,
    /// Who committed it, if it said so: a stream of that consumer may go on behind what its client took last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<ConsumerId>,
}

/// What a key says that its record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Group(GroupId),
    Position(Position),
    /// The highest epoch of any group so far.
    Epochs,
    /// Says nothing.
    Barrier,
}

const EPOCHS: &str = "epochs";
const BARRIER: &str = "barrier";

impl Key {
    /// Reads a key; `None` for those of other versions.
    pub(super) fn parse(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        if text.starts_with('[') {
            // How positions were called before there were records of groups.
            return serde_json::from_str(text).ok().map(Self::Position);
        }
        match text {
            EPOCHS => return Some(Self::Epochs),
            BARRIER => return Some(Self::Barrier),
            _ => {}
        }
        let (kind, rest) = text.split_once('/')?;
        if kind == "g" {
            return GroupId::try_from(rest).ok().map(Self::Group);
        }
        // Names may contain slashes, what follows them can't.
        let (rest, partition) = rest.rsplit_once('/')?;
        let (name, topic) = rest.rsplit_once('/').unwrap_or(("", rest));
        let reader = match kind {
            "o" => Reader::Group(GroupId::try_from(name).ok()?),
            "c" => Reader::Consumer(ConsumerId::try_from(name).ok()?),
            "a" => Reader::Anonymous,
            _ => return None,
        };
        Some(Self::Position(Position(reader, TopicId(Uuid::try_parse(topic).ok()?), partition.parse().ok()?)))
    }
}

/// Returns the record of a group that has members, or the one that takes it back.
pub(super) fn of_group(group: &GroupId, membership: Option<&Membership>) -> Record {
    let value = membership.map(|membership| serde_json::to_vec(membership).expect("plain data"));
    (format!("g/{}", group.as_str()).into_bytes(), value)
}

/// Returns the record of a position, or the one that takes it back.
pub(super) fn of_position(position: &Position, finished: Option<&Finished>) -> Record {
    let Position(reader, topic, partition) = position;
    let key = match reader {
        Reader::Group(group) => format!("o/{}/{}/{partition}", group.as_str(), topic.0),
        Reader::Consumer(consumer) => format!("c/{}/{}/{partition}", consumer.as_str(), topic.0),
        Reader::Anonymous => format!("a/{}/{partition}", topic.0),
    };
    (key.into_bytes(), finished.map(|finished| serde_json::to_vec(finished).expect("plain data")))
}

/// Returns the record of the highest epoch of any group so far, also of those that are gone.
pub(super) fn of_epochs(epochs: u64) -> Record {
    (EPOCHS.as_bytes().to_vec(), Some(serde_json::to_vec(&epochs).expect("a number")))
}

/// Returns the record that a coordinator writes before it reads its log: once it is committed, so is all before it.
pub fn barrier() -> Record {
    (BARRIER.as_bytes().to_vec(), Some(b"{}".to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_read_back_whatever_the_names_are(name in "[a-z/\\[ ]{1,20}", topic: u128, partition: u32, kind in 0..3) {
            let reader = match kind {
                0 => Reader::Group(GroupId::try_from(name.clone()).unwrap()),
                1 => Reader::Consumer(ConsumerId::try_from(name.clone()).unwrap()),
                _ => Reader::Anonymous,
            };
            let position = Position(reader, TopicId(Uuid::from_u128(topic)), partition);
            prop_assert_eq!(Key::parse(&of_position(&position, None).0), Some(Key::Position(position)));
            let group = GroupId::try_from(name).unwrap();
            prop_assert_eq!(Key::parse(&of_group(&group, None).0), Some(Key::Group(group)));
        }
    }

    #[test]
    fn positions_of_the_first_form_are_still_read() {
        let position =
            Position(Reader::Group(GroupId::try_from("g").unwrap()), TopicId(Uuid::from_u128(7)), 3);
        let key = serde_json::to_vec(&position).unwrap();
        assert_eq!(Key::parse(&key), Some(Key::Position(position)));
        assert_eq!(serde_json::from_str::<Finished>(r#"{"offset":9}"#).unwrap().offset, 9);
    }

    #[test]
    fn a_barrier_is_about_nothing() {
        assert_eq!(Key::parse(&barrier().0), Some(Key::Barrier));
    }
}
