//! A reader that is sent records as a stream: what it reads, from where, and what counts as finished.
//!
//! Events go out in pieces, and the connection asks for the next piece once it has taken the one before. Nobody says
//! when the client itself has an event, except by the id that it comes back with. So with automatic commits a record
//! counts as finished once a piece *behind* its own was taken: the connection was alive after the record was sent. A
//! client that comes back gets whatever is behind its last event, however far the commits were, unless somebody else
//! set the position meanwhile: then that counts, for others have gone on from there.
//!
//! A partition that is to go to another member is read no more at once. It is given up, with the next request to the
//! coordinator, when the client was told and what it was sent is committed.

use super::Held;
use crate::ids::Offset;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Who says what is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// The stream, for what the client was sent.
    Auto,
    /// The client, with requests of its own.
    Manual,
    /// Nobody: the reader has no position.
    Never,
}

/// Where a reader stands in a partition that it may read, as the coordinator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The partition.
    pub partition: u32,
    /// The last record that was finished (−1: none).
    pub committed: i64,
    /// Whether somebody else set that.
    pub by_other: bool,
}

/// What an answer of the coordinator changed for the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Partitions that it is sent from now on.
    pub gained: Vec<u32>,
    /// Partitions that it is sent no more.
    pub lost: Vec<u32>,
}

/// One partition of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The record to be sent next; `None` until its start is found.
    next: Option<Offset>,
    committed: i64,
    /// Whether its start is to be committed although nothing was finished.
    keep: bool,
    /// What the client came back with, until it is known that there is such a record.
    claimed: Option<i64>,
    /// The last record that counts as finished, maybe not committed yet.
    finished: i64,
    /// The last record of the piece that the connection took last, and of the piece that is being written.
    taken: i64,
    written: i64,
    /// Of a partition that is to go to another member: whether the client has been told.
    leaving: Option<bool>,
}

/// What a stream reads and how far it is.
#[derive(Clone, Debug)]
pub struct Stream {
    commits: Commits,
    /// The last event of each partition that the client has and that does not count yet, as it came back.
    resumed: BTreeMap<u32, i64>,
    member_epoch: Option<u64>,
    places: BTreeMap<u32, Place>,
}

/// Reads a vector of `partition:offset` as [`Stream::write_id`] writes it (−1: none); `None` if it is none.
pub fn parse_id(text: &str) -> Option<BTreeMap<u32, i64>> {
    let place = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        let offset: i64 = offset.parse().ok().filter(|offset| (-1..i64::MAX).contains(offset))?;
        Some((partition.parse().ok()?, offset))
    };
    text.split(',').map(place).collect()
}

/// Returns the offset behind one.
fn behind(offset: i64) -> Offset {
    u64::try_from(offset.saturating_add(1)).unwrap_or_default()
}

/// Returns the offset before one (−1: none).
fn before(offset: Offset) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX) - 1
}

impl Stream {
    /// Makes a stream for a client whose last events were `resumed`; empty for one that comes for the first time.
    pub fn new(commits: Commits, resumed: BTreeMap<u32, i64>) -> Self {
        Self { commits, resumed, member_epoch: None, places: BTreeMap::new() }
    }

    /// Returns the epoch that the coordinator told last.
    pub fn member_epoch(&self) -> Option<u64> {
        self.member_epoch
    }

    /// Returns what to say to the coordinator, `None` for the first time: the member then begins anew. Partitions that
    /// are to go elsewhere, and whose end the client was told of, are given up with it.
    pub fn held(&mut self) -> Option<Held> {
        self.places.retain(|_, place| place.leaving != Some(true));
        let owned = self.places.keys().copied().collect();
        self.member_epoch.map(|member_epoch| Held { member_epoch, owned: Some(owned) })
    }

    /// Whether somebody waits for what this stream is done with, so that [`Self::held`] is to be said at once. Where
    /// clients commit themselves they get until the next renewal to do so.
    pub fn is_giving_up(&self) -> bool {
        self.commits != Commits::Manual && self.places.values().any(|place| place.leaving == Some(true))
    }

    /// Takes the coordinator's answer.
    pub fn joined(&mut self, member_epoch: u64, standings: &[Standing]) -> Change {
        self.member_epoch = Some(member_epoch);
        let mut change = Change::default();
        for (partition, place) in &mut self.places {
            let stays = standings.iter().any(|standing| standing.partition == *partition);
            if !stays && place.leaving.is_none() {
                place.leaving = Some(false);
                change.lost.push(*partition);
            }
        }
        for standing in standings {
            let place = self.places.get_mut(&standing.partition);
            match place {
                Some(place) => {
                    if place.leaving.take().is_some() {
                        change.gained.push(standing.partition);
                    }
                    place.committed = place.committed.max(standing.committed);
                }
                None => {
                    let place = self.begin_place(standing);
                    self.places.insert(standing.partition, place);
                    change.gained.push(standing.partition);
                }
            }
        }
        change
    }

    fn begin_place(&mut self, standing: &Standing) -> Place {
        let committed = standing.committed;
        let has = self.resumed.remove(&standing.partition).filter(|_| !standing.by_other);
        let is_set = committed >= 0 || standing.by_other;
        let next = has.map(behind).or(is_set.then(|| behind(committed)));
        let claimed = has.filter(|_| self.commits == Commits::Auto);
        let finished = committed;
        Place { next, committed, keep: false, claimed, finished, taken: -1, written: -1, leaving: None }
    }

    /// Returns the partitions whose start nobody has said: nothing was finished there.
    pub fn unplaced(&self) -> Vec<u32> {
        let missing = self.places.iter().filter(|(_, place)| place.next.is_none() && place.leaving.is_none());
        missing.map(|(partition, _)| *partition).collect()
    }

    /// Begins to read a partition of [`Self::unplaced`]. With `keep` everything before counts as finished: a start that
    /// means something else later on must be the same one for a member that takes over before anything was finished.
    pub fn begin(&mut self, partition: u32, from: Offset, keep: bool) {
        if let Some(place) = self.places.get_mut(&partition) {
            place.next = Some(from);
            if keep {
                place.keep = true;
                place.finished = place.finished.max(before(from));
            }
        }
    }

    /// Returns what to read: partition, next offset, and the last record that was finished.
    pub fn cursors(&self) -> Vec<(u32, Offset, i64)> {
        let read = self.places.iter().filter(|(_, place)| place.leaving.is_none());
        read.filter_map(|(partition, place)| Some((*partition, place.next?, place.committed))).collect()
    }

    /// Notes that records below `end` can be read: what the client came back with counts as finished once it is among
    /// them. Before, committing it could make the group miss what is published there later.
    pub fn readable(&mut self, partition: u32, end: Offset) {
        if let Some(place) = self.places.get_mut(&partition)
            && let Some(offset) = place.claimed.filter(|offset| behind(*offset) <= end)
        {
            place.claimed = None;
            place.finished = place.finished.max(offset);
        }
    }

    /// Notes a record that goes into the piece that is being written.
    pub fn sent(&mut self, partition: u32, offset: Offset) {
        if let Some(place) = self.places.get_mut(&partition) {
            place.next = Some(offset + 1);
            place.written = before(offset + 1);
        }
    }

    /// Notes that a partition has no records before `from` any more.
    pub fn skipped_to(&mut self, partition: u32, from: Offset) {
        if let Some(place) = self.places.get_mut(&partition) {
            place.next = place.next.max(Some(from));
        }
    }

    /// Notes that the connection has taken the last piece and asks for another one: what was sent before it counts as
    /// finished, and what it said of partitions that are to go elsewhere was told.
    pub fn taken(&mut self) {
        for place in self.places.values_mut() {
            if self.commits == Commits::Auto {
                place.finished = place.finished.max(place.taken);
            }
            place.taken = std::mem::replace(&mut place.written, -1).max(place.taken);
            if let Some(told) = &mut place.leaving {
                *told = true;
            }
        }
    }

    /// Returns what is finished and not committed: partition and offset.
    pub fn due(&self) -> Vec<(u32, i64)> {
        if self.commits == Commits::Never {
            return vec![];
        }
        let due = self.places.iter().filter(|(_, place)| place.keep || place.finished > place.committed);
        due.map(|(partition, place)| (*partition, place.finished)).collect()
    }

    /// Whether records were sent that will count as finished once a further piece is taken.
    pub fn is_waiting_to_finish(&self) -> bool {
        let open = |place: &Place| place.taken.max(place.written) > place.finished;
        self.commits == Commits::Auto && self.places.values().any(open)
    }

    /// Notes that a commit is kept.
    pub fn committed(&mut self, partition: u32, offset: i64) {
        if let Some(place) = self.places.get_mut(&partition) {
            place.committed = place.committed.max(offset);
            place.keep = false;
        }
    }

    /// Writes the last event of every partition as the client has it with the next event: `partition:offset,…`. Nothing
    /// if there is no partition.
    pub fn write_id(&self, out: &mut String) {
        let mut all = self.resumed.clone();
        let read = self.places.iter().filter(|(_, place)| place.leaving.is_none());
        all.extend(read.filter_map(|(partition, place)| Some((*partition, before(place.next?)))));
        for (index, (partition, offset)) in all.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{partition}:{offset}").expect("text can be written to memory");
        }
    }
}

#[cfg(test)]
mod tests;
