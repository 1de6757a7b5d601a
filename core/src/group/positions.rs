//! How far each reader has come.

use super::Reader;
use super::records::{Finished, Position, Record, of_position};
use crate::ids::{ConsumerId, GroupId, TopicId};
use std::collections::{BTreeMap, BTreeSet};

/// All positions of one coordinator.
#[derive(Debug, Default)]
pub(super) struct Positions {
    finished: BTreeMap<Position, Finished>,
}

impl Positions {
    /// Returns the offset of the last finished record (−1: none).
    pub(super) fn get(&self, reader: &Reader, topic: TopicId, partition: u32) -> i64 {
        let position = Position(reader.clone(), topic, partition);
        self.finished.get(&position).map_or(-1, |finished| finished.offset)
    }

    /// Returns whether somebody else than `consumer` set a position last.
    pub(super) fn is_by_other(
        &self,
        reader: &Reader,
        topic: TopicId,
        partition: u32,
        consumer: Option<&ConsumerId>,
    ) -> bool {
        let position = Position(reader.clone(), topic, partition);
        self.finished.get(&position).is_some_and(|finished| finished.by.as_ref() != consumer)
    }

    /// Sets a position and returns its record.
    pub(super) fn set(&mut self, position: Position, finished: Finished) -> Record {
        let record = of_position(&position, Some(&finished));
        self.finished.insert(position, finished);
        record
    }

    /// Takes a position from the log; returns that it was understood.
    pub(super) fn replay(&mut self, position: Position, finished: Option<Finished>) -> bool {
        match finished {
            Some(finished) => drop(self.finished.insert(position, finished)),
            None => drop(self.finished.remove(&position)),
        }
        true
    }

    /// Returns the records of all positions.
    pub(super) fn all(&self) -> impl Iterator<Item = Record> {
        self.finished.iter().map(|(position, finished)| of_position(position, Some(finished)))
    }

    /// Returns a group's positions: topic, partition, offset.
    pub(super) fn of(&self, group: &GroupId) -> Vec<(TopicId, u32, i64)> {
        let reader = Reader::Group(group.clone());
        let from = Position(reader.clone(), TopicId(uuid::Uuid::nil()), 0);
        let own = self.finished.range(from..).take_while(|(position, _)| position.0 == reader);
        own.map(|(Position(_, topic, partition), finished)| (*topic, *partition, finished.offset)).collect()
    }

    /// Returns the groups that have positions.
    pub(super) fn groups(&self) -> BTreeSet<GroupId> {
        let named = self.finished.keys().filter_map(|position| match &position.0 {
            Reader::Group(group) => Some(group.clone()),
            Reader::Consumer(_) | Reader::Anonymous => None,
        });
        named.collect()
    }

    /// Forgets what matches, and returns the records that say so.
    pub(super) fn forget(&mut self, gone: impl Fn(&Reader, TopicId) -> bool) -> Vec<Record> {
        let mut records = Vec::new();
        self.finished.retain(|position, _| {
            let keep = !gone(&position.0, position.1);
            if !keep {
                records.push(of_position(position, None));
            }
            keep
        });
        records
    }
}
