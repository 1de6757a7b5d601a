//! Whose a topic is. The brokers keep this with each topic, so that two operators never take turns in changing one. Pure.

use crate::crd::Topic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Kind that the owner of a topic has.
pub const KIND: &str = "Topic";

/// The object that a topic belongs to, as the brokers keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Always [`KIND`].
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The object's identity.
    pub uid: String,
    /// Generation of the spec that was written last.
    pub generation: i64,
    /// When the object was created, RFC 3339.
    pub created: String,
}

impl Owner {
    /// Returns the owner that an object is; `None` for one that no API server has stored yet.
    pub fn of(topic: &Topic) -> Option<Self> {
        let metadata = &topic.metadata;
        Some(Self {
            kind: KIND.to_owned(),
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            generation: metadata.generation?,
            created: metadata.creation_timestamp.as_ref()?.0.to_string(),
        })
    }

    /// Reads what a broker keeps; `None` if something else than a `Topic` owns the topic.
    pub fn read(stored: &Value) -> Option<Self> {
        serde_json::from_value(stored.clone()).ok().filter(|owner: &Self| owner.kind == KIND)
    }

    /// Returns what a broker is to keep.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("plain fields always serialise")
    }

    /// Returns whether this object goes before another one that wants the same topic: the older one does.
    pub fn goes_before(&self, other: &Self) -> bool {
        let place = |owner: &Self| (owner.created.parse::<jiff::Timestamp>().ok(), owner.uid.clone());
        match (place(self), place(other)) {
            // An owner without a readable time of creation can't claim to be the older one.
            ((None, _), (Some(_), _)) => false,
            ((Some(_), _), (None, _)) => true,
            (one, other) => one < other,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn owner(created: &str, uid: &str) -> Owner {
        Owner {
            kind: KIND.to_owned(),
            namespace: "n".to_owned(),
            name: "t".to_owned(),
            uid: uid.to_owned(),
            generation: 1,
            created: created.to_owned(),
        }
    }

    #[test]
    fn the_older_object_goes_first_and_of_two_of_one_second_the_lower_uid() {
        let cases = [
            ("2026-01-01T00:00:00Z", "b", "2026-01-01T00:00:01Z", "a", true),
            ("2026-01-01T00:00:01Z", "a", "2026-01-01T00:00:00Z", "b", false),
            ("2026-01-01T00:00:00Z", "a", "2026-01-01T00:00:00Z", "b", true),
            ("2026-01-01T00:00:00.5Z", "a", "2026-01-01T00:00:00Z", "b", false),
            ("?", "a", "2026-01-01T00:00:00Z", "b", false),
            ("2026-01-01T00:00:00Z", "b", "?", "a", true),
        ];
        for (one, uid, other, other_uid, first) in cases {
            let (one, other) = (owner(one, uid), owner(other, other_uid));
            assert_eq!(one.goes_before(&other), first, "{one:?} {other:?}");
            assert_eq!(other.goes_before(&one), !first, "exactly one of two goes first");
        }
        assert!(!owner("?", "a").goes_before(&owner("?", "a")), "nobody goes before itself");
    }

    #[test]
    fn what_a_broker_keeps_is_read_back() {
        let owner = owner("2026-01-01T00:00:00Z", "u");
        assert_eq!(Owner::read(&owner.to_value()), Some(owner));
        assert_eq!(Owner::read(&json!("someone")), None);
        assert_eq!(
            Owner::read(
                &json!({"kind": "Stream", "namespace": "n", "name": "t", "uid": "u", "generation": 1, "created": "x"})
            ),
            None
        );
    }
}
