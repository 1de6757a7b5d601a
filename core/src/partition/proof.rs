//! Proofs of leadership, for what a leader says from memory.
//!
//! Who leads next is a member of the ISR now. A member that matches what it was sent in this leader epoch has no newer one
//! yet. So once every member has matched something that was sent after a question came, no successor had begun before the
//! question, and what the leader knows is the newest there is (the read index of Raft, Ongaro 2014 §6.4, over an ISR).

use super::Replicas;
use super::leader::Leading;
use super::replica::Replica;
use super::rules::Rules;
use crate::ids::{BrokerId, LeaderEpoch, TopicPartition};

/// Where a follower is in the rounds of proof.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    /// The newest that had begun when something was sent to it last.
    pub(super) sent: u64,
    /// The newest that it agreed to.
    pub(super) agreed: u64,
}

impl Leading {
    /// Returns the newest round that every other member of the maximal ISR agreed to.
    pub(super) fn proven(&self, me: BrokerId, rules: &Rules) -> u64 {
        let others = self.maximal_isr(rules).filter(|member| *member != me);
        let agreed = others.map(|member| self.followers.get(&member).map_or(0, |of| of.rounds.agreed));
        agreed.min().unwrap_or(self.proving)
    }
}

impl Replicas {
    /// Begins a round of proof, if this broker leads in that term.
    pub(super) fn prove(&mut self, partition: TopicPartition, leader_epoch: LeaderEpoch, round: u64) {
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        if log.leader_epoch == leader_epoch {
            leading.proving = leading.proving.max(round);
            self.touched.insert(partition);
            self.wake_followers(partition);
        }
    }
}
