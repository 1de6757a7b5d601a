//! What must hold for consumer groups, by what is committed of them: one owner a partition, and positions that owners
//! alone move, forward (G1); no answer about a commit before it is one (G2).

use super::{Checked, ensure};
use crate::sim::checks::logs::Extended;
use pubsub_core::invariants::Invariant;
use pubsub_core::record::{Batch, ValueKind};
use serde_json::Value;
use std::collections::BTreeMap;

/// Who could commit a partition, at some place of the log.
#[derive(Clone, Debug)]
struct Owner {
    name: String,
    since: u64,
}

/// The one group of a run, as far as it is committed.
#[derive(Debug, Default)]
pub struct GroupChecks {
    epoch: u64,
    owners: BTreeMap<u64, Owner>,
    /// By partition.
    positions: BTreeMap<u64, i64>,
    /// By partition and offset: who owned the partition, in which epoch of the group, each time that it was committed.
    commits: BTreeMap<(u64, i64), Vec<(Owner, u64)>>,
}

impl GroupChecks {
    /// Takes newly committed records of the internal topic.
    ///
    /// # Errors
    /// G1.
    pub fn committed(&mut self, extended: &Extended) -> Checked {
        for record in extended.batches.iter().flat_map(Batch::records) {
            let Ok(key) = std::str::from_utf8(record.key.unwrap_or_default()) else { continue };
            let value = (record.kind != ValueKind::None).then(|| serde_json::from_slice(record.value).ok());
            if key.starts_with("g/") {
                self.members(value.flatten().unwrap_or_default())?;
            } else if let (true, Some(partition), Some(Some(value))) =
                (key.starts_with("o/"), key.rsplit('/').next().and_then(|last| last.parse().ok()), value)
            {
                self.position(partition, &value)?;
            }
        }
        Ok(())
    }

    fn members(&mut self, group: Value) -> Checked {
        self.owners.clear();
        if let Some(epoch) = group["group_epoch"].as_u64() {
            let before = std::mem::replace(&mut self.epoch, epoch);
            ensure(epoch >= before, Invariant::G1, || format!("the group's epoch {before} became {epoch}"))?;
        }
        let topics = group["topics"].as_object().into_iter().flat_map(|topics| topics.values());
        for (name, member) in topics.filter_map(|sharing| sharing["members"].as_object()).flatten() {
            for (partition, since) in member["assigned"].as_object().into_iter().flatten() {
                let owner = Owner { name: name.clone(), since: since.as_u64().unwrap_or_default() };
                let partition = partition.parse().unwrap_or(u64::MAX);
                let other = self.owners.insert(partition, owner);
                ensure(other.is_none(), Invariant::G1, || {
                    format!("{name} and {other:?} own partition {partition}: {group}")
                })?;
            }
        }
        Ok(())
    }

    fn position(&mut self, partition: u64, value: &Value) -> Checked {
        let offset = value["offset"].as_i64().unwrap_or(-1);
        let before = self.positions.insert(partition, offset).unwrap_or(-1);
        ensure(offset >= before, Invariant::G1, || {
            format!("position {before} of partition {partition} was set back to {offset}")
        })?;
        if let Some(owner) = self.owners.get(&partition) {
            let entry = self.commits.entry((partition, offset)).or_default();
            entry.push((owner.clone(), self.epoch));
        }
        Ok(())
    }

    /// Checks a commit that was taken from a member.
    ///
    /// # Errors
    /// G2 if it is not committed, G1 if the member had lost the partition.
    pub fn acknowledged(&self, name: &str, member_epoch: u64, partition: u32, offset: i64) -> Checked {
        let partition = u64::from(partition);
        let position = self.positions.get(&partition).copied().unwrap_or(-1);
        ensure(position >= offset, Invariant::G2, || {
            format!("{offset} of partition {partition} was acknowledged, {position} is committed")
        })?;
        let taken = self.commits.get(&(partition, offset)).into_iter().flatten();
        let own = taken
            .clone()
            .any(|(owner, epoch)| owner.name == name && (owner.since..=*epoch).contains(&member_epoch));
        ensure(own, Invariant::G1, || {
            let taken: Vec<_> = taken.collect();
            format!(
                "{offset} of partition {partition} was taken from {name} in {member_epoch}, owned by {taken:?}"
            )
        })
    }
}
