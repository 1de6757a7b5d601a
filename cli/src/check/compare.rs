//! Replicas side by side: pure.

use pubsub_core::ids::{BrokerId, Offset};
use pubsub_core::wire::client::{Polled, ReadRecord};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;

/// Characters of a value that are shown.
const SHOWN_MAX: usize = 60;

/// One replica: what was read of it and not compared yet.
#[derive(Debug)]
pub(super) struct Replica {
    /// The broker that holds it.
    pub(super) broker: BrokerId,
    records: VecDeque<ReadRecord>,
    next: Offset,
    high_watermark: Offset,
    compared: bool,
}

impl Replica {
    /// Makes a replica of which nothing was read.
    pub(super) fn new(broker: BrokerId) -> Self {
        Self { broker, records: VecDeque::new(), next: 0, high_watermark: 0, compared: false }
    }

    /// Returns whether everything that was read has been compared.
    pub(super) fn needs_more(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the offset to read from.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Returns the offset behind the last record that consumers may read of it, as far as is known.
    pub(super) fn end(&self) -> Offset {
        self.next.max(self.high_watermark)
    }

    /// Adds what was read.
    pub(super) fn extend(&mut self, page: Polled) {
        self.high_watermark = self.high_watermark.max(page.high_watermark);
        let last = page.records.last().map_or(0, |record| record.offset + 1);
        self.next = self.next.max(page.next_offset).max(last);
        self.records.extend(page.records);
    }

    fn first(&self) -> Option<Offset> {
        self.records.front().map(|record| record.offset)
    }
}

/// Why a partition is not known to be alike everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Finding {
    /// Two replicas differ.
    Difference(Difference),
    /// A replica can't be read.
    Unreadable {
        /// The broker that holds it.
        broker: BrokerId,
        /// From here on.
        offset: Offset,
        /// As the broker, or the way to it, tells.
        reason: String,
    },
}

/// The first difference of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// Where.
    pub(super) offset: Offset,
    /// In what: `offset`, `timestamp`, `key`, `headers`, `value`.
    pub(super) field: &'static str,
    /// One replica.
    pub(super) left: BrokerId,
    /// What it holds.
    pub(super) left_holds: String,
    /// The other one.
    pub(super) right: BrokerId,
    /// What that one holds.
    pub(super) right_holds: String,
}

impl Difference {
    /// Says that an in-sync replica lacks records.
    pub(super) fn behind(broker: BrokerId, holds_below: Offset, end: Offset) -> Self {
        Self {
            offset: holds_below,
            field: "offset",
            left: broker,
            left_holds: format!("only offsets below {holds_below} though it counts as in sync"),
            right: broker,
            right_holds: format!("others hold all below {end}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Difference(found) if found.left == found.right => {
                write!(f, "broker {} holds {}; {}", found.left, found.left_holds, found.right_holds)
            }
            Self::Difference(found) => write!(
                f,
                "offset {}: {} differs: broker {} has {}, broker {} has {}",
                found.offset, found.field, found.left, found.left_holds, found.right, found.right_holds
            ),
            Self::Unreadable { broker, offset, reason } => {
                write!(f, "broker {broker} can't be read from offset {offset} on: {reason}")
            }
        }
    }
}

/// Compares records while every replica has some, and returns how many offsets were alike.
///
/// Replicas may begin at different offsets (each deletes old records on its own), so what lies before the highest begin
/// is passed over at the start.
pub(super) fn step(replicas: &mut [Replica]) -> Result<u64, Difference> {
    let mut alike = 0;
    loop {
        let Some(firsts) = replicas.iter().map(Replica::first).collect::<Option<Vec<Offset>>>() else {
            return Ok(alike);
        };
        let Some(highest) = firsts.iter().copied().max() else { return Ok(alike) };
        let beginning = replicas.iter().all(|replica| !replica.compared);
        if firsts.iter().any(|first| *first != highest) {
            if !beginning {
                return Err(missing(replicas, &firsts));
            }
            for replica in replicas.iter_mut() {
                while replica.first().is_some_and(|first| first < highest) {
                    replica.records.pop_front();
                }
            }
            continue;
        }
        let (left, others) = replicas.split_first().expect("there are records, so there are replicas");
        for right in others {
            if let Some(difference) = differ(left, right) {
                return Err(difference);
            }
        }
        for replica in replicas.iter_mut() {
            replica.records.pop_front();
            replica.compared = true;
        }
        alike += 1;
    }
}

fn missing(replicas: &[Replica], firsts: &[Offset]) -> Difference {
    let lowest = firsts.iter().copied().min().expect("there are replicas");
    let holder = replicas.iter().find(|replica| replica.first() == Some(lowest)).expect("one has the lowest");
    let lacking = replicas.iter().find(|replica| replica.first() != Some(lowest)).expect("not all have it");
    Difference {
        offset: lowest,
        field: "offset",
        left: holder.broker,
        left_holds: "a record".to_owned(),
        right: lacking.broker,
        right_holds: "none".to_owned(),
    }
}

fn differ(left: &Replica, right: &Replica) -> Option<Difference> {
    let (a, b) = (left.records.front()?, right.records.front()?);
    let fields = [
        ("timestamp", a.ts_ms.to_string(), b.ts_ms.to_string()),
        ("key", key(a), key(b)),
        ("headers", a.headers.get().to_owned(), b.headers.get().to_owned()),
        ("value", value(a), value(b)),
    ];
    let (field, left_holds, right_holds) = fields.into_iter().find(|(_, a, b)| a != b)?;
    let shown = |text: String| text.chars().take(SHOWN_MAX).collect();
    Some(Difference {
        offset: a.offset,
        field,
        left: left.broker,
        left_holds: shown(left_holds),
        right: right.broker,
        right_holds: shown(right_holds),
    })
}

fn key(record: &ReadRecord) -> String {
    let encoding = if record.key_encoding.is_some() { "bytes " } else { "" };
    record.key.as_ref().map_or("no key".to_owned(), |key| format!("{encoding}{key:?}"))
}

fn value(record: &ReadRecord) -> String {
    let encoding = if record.value_encoding.is_some() { "bytes " } else { "" };
    format!("{encoding}{}", record.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn replica(broker: u32, records: &[(Offset, &str)]) -> Replica {
        let records: Vec<ReadRecord> = records
            .iter()
            .map(|(offset, value)| {
                let json = format!(
                    r#"{{"partition":0,"offset":{offset},"ts_ms":1,"key":null,"value":{value:?},"headers":{{}}}}"#
                );
                serde_json::from_str(&json).unwrap()
            })
            .collect();
        let next = records.last().map_or(0, |record| record.offset + 1);
        let mut replica = Replica::new(BrokerId(broker));
        replica.next = next;
        replica.high_watermark = next;
        replica.records = records.into();
        replica
    }

    #[test]
    fn equal_replicas_are_alike_at_every_offset() {
        let mut replicas = [replica(1, &[(0, "a"), (1, "b")]), replica(2, &[(0, "a"), (1, "b")])];
        assert_eq!(step(&mut replicas), Ok(2));
        assert!(replicas.iter().all(Replica::needs_more));
    }

    #[test]
    fn the_first_difference_is_named_with_both_sides() {
        let mut replicas = [replica(1, &[(0, "a"), (1, "b")]), replica(2, &[(0, "a"), (1, "x")])];
        let found = step(&mut replicas).unwrap_err();
        assert_eq!((found.offset, found.field, found.left.0, found.right.0), (1, "value", 1, 2));
        assert_eq!((found.left_holds.as_str(), found.right_holds.as_str()), ("\"b\"", "\"x\""));
    }

    #[test]
    fn a_hole_is_a_difference_but_a_later_begin_is_not() {
        let mut holed = [replica(1, &[(0, "a"), (1, "b"), (2, "c")]), replica(2, &[(0, "a"), (2, "c")])];
        let found = step(&mut holed).unwrap_err();
        assert_eq!((found.offset, found.field, found.right), (1, "offset", BrokerId(2)));
        let mut trimmed = [replica(1, &[(0, "a"), (1, "b"), (2, "c")]), replica(2, &[(2, "c")])];
        assert_eq!(step(&mut trimmed), Ok(1));
    }

    #[test]
    fn a_replica_with_fewer_records_is_waited_for() {
        let mut replicas = [replica(1, &[(0, "a"), (1, "b")]), replica(2, &[(0, "a")])];
        assert_eq!(step(&mut replicas), Ok(1));
        assert!(!replicas[0].needs_more() && replicas[1].needs_more());
        assert_eq!((replicas[0].end(), replicas[1].end()), (2, 1));
    }
}
