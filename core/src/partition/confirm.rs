//! Proof of leadership: what a leader says from memory is true only while nobody has succeeded it.
//!
//! The next leader is a member of the ISR (of the maximal one, since a wish may have been granted), and refuses its
//! predecessor from the moment it leads. So if every member takes a request that was sent after the question came, nobody
//! had succeeded this leader when the question came. No clock is read. (ReadIndex of Raft, for an ISR.)

use super::leader::Leading;
use super::replica::Replica;
use super::{Action, Replicas};
use crate::control::{Ticket, Weakening};
use crate::ids::{BrokerId, LeaderEpoch, TopicPartition};

/// Somebody who wants to know whether this broker still leads.
#[derive(Debug)]
pub(super) struct Confirming {
    /// Number of the last request that was sent before the question came.
    pub(super) after: u64,
    pub(super) ticket: Ticket,
}

impl Leading {
    /// Returns whether somebody waits for a member to take a request newer than those that it took.
    pub(super) fn needs_proof(&self, id: BrokerId) -> bool {
        let proved = self.followers.get(&id).map_or(0, |progress| progress.proved);
        self.confirming.back().is_some_and(|last| proved <= last.after) && self.may_lead_next(id)
    }

    fn may_lead_next(&self, id: BrokerId) -> bool {
        let adding = self.asked.as_ref().is_some_and(|asked| asked.adding.contains_key(&id));
        adding || self.isr.contains(&id)
    }

    /// Takes those to whom leadership is proven.
    pub(super) fn confirmed(&mut self, me: BrokerId) -> Vec<Ticket> {
        let adding = self.asked.iter().flat_map(|asked| asked.adding.keys());
        let members = self.isr.iter().chain(adding).filter(|member| **member != me);
        let proved = |member| self.followers.get(member).map_or(0, |progress| progress.proved);
        let least = members.map(proved).min().unwrap_or(u64::MAX);
        let mut done = Vec::new();
        while let Some(proven) = self.confirming.pop_front_if(|waiting| waiting.after < least) {
            done.push(proven.ticket);
        }
        done
    }
}

impl Replicas {
    /// Takes a question; answers at once if this broker does not lead in that term.
    pub(super) fn confirm(&mut self, ticket: Ticket, partition: TopicPartition, epoch: LeaderEpoch) {
        let after = self.pushed;
        let credulous = self.rules.without(Weakening::UnprovenLeadership);
        let led = self.replicas.get_mut(&partition).and_then(Replica::led);
        match led.filter(|(log, _)| log.leader_epoch == epoch) {
            None => self.out.rest.push(Action::Confirmed { ticket, leads: false }),
            Some(_) if credulous => self.out.rest.push(Action::Confirmed { ticket, leads: true }),
            Some((_, leading)) => {
                leading.confirming.push_back(Confirming { after, ticket });
                self.wake_followers(partition);
                self.touched.insert(partition);
            }
        }
    }

    /// Tells those to whom leadership is proven.
    pub(super) fn tell_confirmed(&mut self, partition: TopicPartition) {
        let me = self.config.me;
        let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let done = leading.confirmed(me).into_iter();
        self.out.rest.extend(done.map(|ticket| Action::Confirmed { ticket, leads: true }));
    }
}
