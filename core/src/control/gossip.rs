//! Anti-entropy of hints between brokers (push-pull, newest entry per broker wins). Decides nothing (D1).

use super::timing::Timing;
use crate::Mono;
use crate::ids::{At, BrokerId, RunId, StorageId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one broker process says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipEntry {
    /// Its id.
    pub id: BrokerId,
    /// Its volume.
    pub storage_id: StorageId,
    /// Process-start counter of that volume.
    pub boot: u64,
    /// Its process.
    pub run_id: RunId,
    /// Grows with every round; a process that meets a higher one under its own id jumps above it.
    pub counter: u64,
    /// Base URL of its client listener.
    pub api_base: String,
    /// Base URL of its peer listener.
    pub peer_base: String,
    /// The image that it acts on.
    pub applied: At,
}

/// One of the three messages of a round: open with a digest, answer with entries and a digest, close with entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipMessage {
    /// Whether the receiver shall answer with its own digest.
    pub open: bool,
    /// The newest counter that the sender knows of each broker's process; empty in the last message.
    pub digest: Vec<(BrokerId, RunId, u64)>,
    /// What the receiver may lack.
    pub entries: Vec<GossipEntry>,
}

/// What is known by gossip.
#[derive(Debug)]
pub(super) struct Gossip {
    own: GossipEntry,
    others: BTreeMap<BrokerId, (GossipEntry, Mono)>,
    pub(super) next_round: Mono,
}

impl Gossip {
    /// Begins with nothing but the own entry.
    pub(super) fn new(own: GossipEntry, now: Mono) -> Self {
        Self { own, others: BTreeMap::new(), next_round: now }
    }

    /// Returns all entries, the own one included, by id.
    pub(super) fn entries(&self) -> impl Iterator<Item = &GossipEntry> {
        std::iter::once(&self.own).chain(self.others.values().map(|(entry, _)| entry))
    }

    /// Returns the other brokers heard of.
    pub(super) fn others(&self) -> impl Iterator<Item = &GossipEntry> {
        self.others.values().map(|(entry, _)| entry)
    }

    /// Opens a round.
    pub(super) fn open(&mut self, now: Mono, applied: At, timing: &Timing) -> GossipMessage {
        self.own.counter += 1;
        self.own.applied = applied;
        self.others.retain(|_, (_, changed)| now < *changed + timing.forget);
        GossipMessage { open: true, digest: self.digest(), entries: vec![self.own.clone()] }
    }

    fn digest(&self) -> Vec<(BrokerId, RunId, u64)> {
        self.entries().map(|entry| (entry.id, entry.run_id, entry.counter)).collect()
    }

    /// Takes a message and returns the answer, if one is due.
    pub(super) fn receive(&mut self, now: Mono, message: GossipMessage) -> Option<GossipMessage> {
        for entry in message.entries {
            self.merge(now, entry);
        }
        if message.digest.is_empty() {
            return None;
        }
        let theirs: BTreeMap<_, _> =
            message.digest.into_iter().map(|(id, run, counter)| (id, (counter, run))).collect();
        let newer = |entry: &&GossipEntry| {
            theirs.get(&entry.id).is_none_or(|known| *known < (entry.counter, entry.run_id))
        };
        let entries: Vec<_> = self.entries().filter(newer).cloned().collect();
        if message.open {
            return Some(GossipMessage { open: false, digest: self.digest(), entries });
        }
        (!entries.is_empty()).then(|| GossipMessage { open: false, digest: Vec::new(), entries })
    }

    fn merge(&mut self, now: Mono, entry: GossipEntry) {
        if entry.id == self.own.id {
            if entry.run_id != self.own.run_id && entry.counter >= self.own.counter {
                self.own.counter = entry.counter + 1;
            }
            return;
        }
        let newest = self.others.get(&entry.id).map(|(known, _)| (known.counter, known.run_id));
        if newest.is_none_or(|known| known < (entry.counter, entry.run_id)) {
            self.others.insert(entry.id, (entry, now));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use uuid::Uuid;

    fn entry(id: u32, run: u128) -> GossipEntry {
        GossipEntry {
            id: BrokerId(id),
            storage_id: StorageId(Uuid::from_u128(1)),
            boot: 1,
            run_id: RunId(Uuid::from_u128(run)),
            counter: 0,
            api_base: format!("http://b{id}:8080"),
            peer_base: format!("http://b{id}:9090"),
            applied: At::default(),
        }
    }

    fn round(now: Mono, from: &mut Gossip, to: &mut Gossip) {
        let timing = Timing::scaled(1);
        let opening = from.open(now, At::default(), &timing);
        let answer = to.receive(now, opening).unwrap();
        if let Some(closing) = from.receive(now, answer) {
            assert!(to.receive(now, closing).is_none(), "a round has three messages");
        }
    }

    #[test]
    fn one_round_leaves_both_sides_with_all_that_either_knew() {
        let mut nodes: Vec<_> = (1..=4).map(|id| Gossip::new(entry(id, id.into()), 0)).collect();
        let [one, two, three, four] = &mut nodes[..] else { panic!("four nodes") };
        round(1, one, two);
        round(1, three, four);
        round(2, one, three);
        assert_eq!(one.entries().count(), 4);
        assert_eq!(three.entries().count(), 4);
    }

    #[test]
    fn a_restarted_process_replaces_its_predecessors_entry_although_its_counter_began_again() {
        let mut old = Gossip::new(entry(1, 1), 0);
        let mut peer = Gossip::new(entry(2, 2), 0);
        for now in 0..50 {
            round(now, &mut old, &mut peer);
        }
        let mut new = Gossip::new(entry(1, 9), 60);
        round(60, &mut new, &mut peer);
        round(61, &mut new, &mut peer);
        assert_eq!(peer.others().next().unwrap().run_id, RunId(Uuid::from_u128(9)));
    }

    #[test]
    fn entries_that_no_longer_change_are_forgotten() {
        let timing = Timing::scaled(1);
        let mut one = Gossip::new(entry(1, 1), 0);
        let mut two = Gossip::new(entry(2, 2), 0);
        round(0, &mut one, &mut two);
        two.open(timing.forget, At::default(), &timing);
        assert_eq!(two.others().count(), 0);
    }
}
