//! Rules of one partition: what was published, what is stored, what was read.

use super::{Deletions, Fate, Rule, Violation};
use crate::cluster::topic::Stored;
use crate::history::{History, Outcome, Place, Publish, Read};
use std::collections::BTreeMap;

/// One partition's log and everything about it.
struct Partition<'a> {
    place: &'a Place,
    deletions: &'a Deletions<'a>,
    log: &'a [Stored],
    /// Offset of each value.
    offsets: BTreeMap<&'a str, u64>,
    publishes: Vec<&'a Publish>,
    broken: Vec<Violation>,
}

/// Returns the broken rules of one partition.
pub(super) fn check<'a>(
    history: &'a History,
    deletions: &'a Deletions<'a>,
    place: &'a Place,
    log: &'a [Stored],
) -> Vec<Violation> {
    let publishes = history.publishes.iter().filter(|publish| publish.place == *place).collect();
    let mut partition =
        Partition { place, deletions, log, offsets: BTreeMap::new(), publishes, broken: Vec::new() };
    partition.stored();
    partition.outcomes();
    partition.offsets_given();
    partition.order();
    partition.reads(history);
    partition.broken
}

impl<'a> Partition<'a> {
    fn say(&mut self, rule: Rule, what: String) {
        self.broken.push(Violation::of(rule, format!("{}: {what}", self.place)));
    }

    fn value_at(&self, offset: u64) -> Option<&'a str> {
        self.log.get(usize::try_from(offset).ok()?)?.value.as_str()
    }

    /// Everything stored was published here, and once.
    fn stored(&mut self) {
        let sent: BTreeMap<&str, &Publish> =
            self.publishes.iter().flat_map(|p| p.values.iter().map(|value| (value.as_str(), *p))).collect();
        for record in self.log {
            let value = record.value.as_str().unwrap_or_default();
            if !sent.contains_key(value) {
                let what =
                    format!("offset {} holds {}, which nobody published here", record.offset, record.value);
                self.say(Rule::NothingFromNowhere, what);
            }
            if let Some(before) = self.offsets.insert(value, record.offset) {
                self.say(
                    Rule::StoredOnce,
                    format!("{value:?} is stored at {before} and again at {}", record.offset),
                );
            }
        }
    }

    /// What is stored of each publish is what its outcome says.
    fn outcomes(&mut self) {
        for publish in self.publishes.clone() {
            match &publish.outcome {
                Outcome::Acked(first) => self.acked(publish, *first),
                Outcome::Refused(why) => {
                    for value in publish
                        .values
                        .iter()
                        .filter(|value| self.offsets.contains_key(value.as_str()))
                        .cloned()
                        .collect::<Vec<_>>()
                    {
                        self.say(
                            Rule::RefusedIsNotStored,
                            format!("{value:?} was refused ({why}), but is stored"),
                        );
                    }
                }
                Outcome::Unknown(_) => self.whole(publish),
            }
        }
    }

    fn acked(&mut self, publish: &Publish, first: u64) {
        let fate = self.deletions.fate(publish);
        for (offset, value) in (first..).zip(&publish.values) {
            let there = self.value_at(offset);
            match fate {
                Fate::Kept if there != Some(value) => {
                    let place = self.offsets.get(value.as_str());
                    let what = format!(
                        "{value:?} of publisher {} was acknowledged by broker {} at offset {offset}, {} to {} ms; there is \
                         {there:?}, and it is stored at {place:?}",
                        publish.publisher, publish.via, publish.span.began, publish.span.ended
                    );
                    self.say(Rule::AcknowledgedIsKept, what);
                }
                Fate::Gone if self.offsets.contains_key(value.as_str()) => {
                    let what =
                        format!("{value:?} was acknowledged before the topic was deleted, and is stored");
                    self.say(Rule::DeletedIsGone, what);
                }
                Fate::Kept | Fate::Gone | Fate::Open => {}
            }
        }
    }

    fn whole(&mut self, publish: &Publish) {
        let offsets: Vec<u64> =
            publish.values.iter().filter_map(|value| self.offsets.get(value.as_str()).copied()).collect();
        let together = offsets.windows(2).all(|pair| pair[1] == pair[0] + 1);
        if !offsets.is_empty() && (offsets.len() != publish.values.len() || !together) {
            let what = format!("of one publish {:?} only offsets {offsets:?} are stored", publish.values);
            self.say(Rule::BatchIsWhole, what);
        }
    }

    fn kept(&self) -> Vec<(&'a Publish, u64)> {
        let kept = self.publishes.iter().filter(|publish| self.deletions.fate(publish) == Fate::Kept);
        kept.filter_map(|publish| Some((*publish, *publish.outcome.acked()?))).collect()
    }

    fn offsets_given(&mut self) {
        let mut given: BTreeMap<u64, &str> = BTreeMap::new();
        for (publish, first) in self.kept() {
            for (offset, value) in (first..).zip(&publish.values) {
                if let Some(other) = given.insert(offset, value) {
                    self.say(
                        Rule::OffsetGivenOnce,
                        format!("offset {offset} was given to {other:?} and to {value:?}"),
                    );
                }
            }
        }
    }

    fn order(&mut self) {
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        for (publish, offset) in self.kept() {
            let before = last.insert(publish.publisher, offset);
            if let Some(before) = before.filter(|before| *before >= offset) {
                let what = format!(
                    "publisher {} got {offset} for {:?} after it got {before}",
                    publish.publisher, publish.values
                );
                self.say(Rule::PublisherOrder, what);
            }
        }
        // A sequence number orders what is stored, whatever the publisher was told.
        let mut stored: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for publish in self.publishes.clone() {
            let (Some(sequence), Some(offset)) =
                (publish.sequence, publish.values.first().and_then(|value| self.offsets.get(value.as_str())))
            else {
                continue;
            };
            let (before, at) = stored.insert(publish.publisher, (sequence, *offset)).unwrap_or((0, 0));
            if at > *offset && before < sequence {
                let what = format!(
                    "sequence {sequence} of publisher {} is at {offset}, before sequence {before} at {at}",
                    publish.publisher
                );
                self.say(Rule::PublisherOrder, what);
            }
        }
    }

    fn reads(&mut self, history: &'a History) {
        let deleted = self.deletions.any(&self.place.topic);
        let mut next: BTreeMap<&str, u64> = BTreeMap::new();
        for read in history.reads.iter().filter(|read| read.place == *self.place) {
            self.contiguous(read);
            if let (Some(from), false) = (read.from, deleted) {
                let expected = next.get(read.reader.as_str()).copied().unwrap_or(from);
                if from != expected {
                    let what = format!("reader {} asks from {from} after it read to {expected}", read.reader);
                    self.say(Rule::ReadInOrder, what);
                }
            }
            if let Some((offset, _)) = read.records.last() {
                next.insert(&read.reader, offset + 1);
            }
            let other = read.records.iter().find(|(offset, value)| self.value_at(*offset) != Some(value));
            if let Some((offset, value)) = other.filter(|_| !deleted) {
                let what = format!(
                    "broker {} gave {} {value:?} at offset {offset} at {} ms; in the end there is {:?}",
                    read.via,
                    read.reader,
                    read.span.ended,
                    self.value_at(*offset)
                );
                self.say(Rule::ReadIsCommitted, what);
            }
        }
    }

    fn contiguous(&mut self, read: &Read) {
        let Some((first, _)) = read.records.first() else { return };
        if let Some(from) = read.from.filter(|from| from != first) {
            let what = format!("broker {} gave {} offset {first} instead of {from}", read.via, read.reader);
            self.say(Rule::ReadInOrder, what);
        }
        let jump = read.records.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1);
        if let Some(pair) = jump {
            let what =
                format!("broker {} gave {} offset {} after {}", read.via, read.reader, pair[1].0, pair[0].0);
            self.say(Rule::ReadInOrder, what);
        }
    }
}
