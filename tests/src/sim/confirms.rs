//! Questions to leaders whether they still lead, as whoever answers from a leader's memory must ask first: a leader that
//! says yes holds everything that was committed when it was asked.

use super::checks::{Checked, ensure};
use super::world::{Happening, World};
use pubsub_core::control::Ticket;
use pubsub_core::ids::{BrokerId, Offset, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{self, Role};
use std::collections::BTreeMap;

/// Questions that are not answered.
#[derive(Debug, Default)]
pub struct Confirms {
    /// Which partition, and where its committed records ended then.
    open: BTreeMap<u64, (TopicPartition, Offset)>,
    /// Answers by now: no and yes.
    pub answered: [u64; 2],
}

impl World {
    /// Asks a random broker that thinks it leads.
    pub(crate) fn random_confirm(&mut self) {
        let ids = self.ids();
        let Some(asked) = self.rng.pick(&ids) else { return };
        let Some(process) = self.nodes[&asked].process.as_ref() else { return };
        let led: Vec<_> = process.views.iter().filter(|(_, view)| view.role == Role::Leader).collect();
        let led: Vec<TopicPartition> = led.into_iter().map(|(partition, _)| *partition).collect();
        if let Some(partition) = self.rng.pick(&led) {
            self.ask_to_confirm(asked, partition);
        }
    }

    /// Asks a broker whether it leads in the term that it shows.
    pub(crate) fn ask_to_confirm(&mut self, id: BrokerId, partition: TopicPartition) {
        let Some(process) = self.nodes.get(&id).and_then(|node| node.process.as_ref()) else { return };
        let Some(view) = process.views.get(&partition) else { return };
        let (process, leader_epoch) = (process.serial, view.leader_epoch);
        let ticket = self.clients.ticket();
        self.confirms.open.insert(ticket.0, (partition, self.logs.committed_end(partition)));
        let input = Box::new(partition::Input::Confirm { ticket, partition, leader_epoch });
        self.schedule(self.now, id, Happening::Replicas { process, input });
    }

    /// Checks an answer.
    ///
    /// # Errors
    /// R1: it leads, it says, but lacks what was committed before.
    pub(crate) fn confirmed(&mut self, id: BrokerId, ticket: Ticket, leads: bool) -> Checked {
        self.confirms.answered[usize::from(leads)] += 1;
        let Some((partition, committed)) = self.confirms.open.remove(&ticket.0) else { return Ok(()) };
        if !leads || self.logs.is_excused(partition, self.min_isr(partition)) {
            return Ok(());
        }
        let end = self.nodes[&id].disk.written.get(&partition).map_or(0, |log| log.log_end);
        ensure(end >= committed, Invariant::R1, || {
            format!(
                "broker {id} says that it leads {partition} with records up to {end}, {committed} are committed"
            )
        })
    }
}
