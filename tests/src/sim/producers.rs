//! Idempotent producers: each has one batch a partition under way and sends it, also several times at once, until it is
//! acknowledged or given up. What is committed must then have every sequence at most once and in order (P1).

use super::checks::logs::Extended;
use super::checks::{Checked, ensure};
use super::clients::{Clients, Publish};
use super::drive::CONVERGE_MS;
use super::world::{Flow, Happening, World};
use pubsub_core::control::Ticket;
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{self, Acks, AppendError, Appended};
use pubsub_core::record::{Batch, BatchBuilder, Producer, ValueKind};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How many producers a run has.
const PRODUCERS: usize = 3;

/// One producer in one partition.
#[derive(Clone, Debug, Default)]
struct Lane {
    epoch: u16,
    next_sequence: u32,
    /// The batch under way, and the publishes that its records are.
    batch: Option<(Batch, Vec<u64>)>,
    /// Tries that are not answered.
    waiting: BTreeSet<u64>,
}

/// All idempotent producers and what is committed of them.
#[derive(Debug, Default)]
pub struct Producers {
    lanes: BTreeMap<(usize, TopicPartition), Lane>,
    tries: BTreeMap<u64, (usize, TopicPartition, Producer)>,
    /// Producer epoch, next sequence and end of the last batch by partition and producer, as committed.
    committed: BTreeMap<(TopicPartition, Uuid), (u16, u32, Offset)>,
    /// Tries that were answered as duplicates.
    pub duplicates: u64,
    /// The last refusal of a batch under way.
    pub last_error: Option<AppendError>,
}

fn id(which: usize) -> Uuid {
    Uuid::from_u128(0xf000 + u128::try_from(which).expect("few producers"))
}

impl Producers {
    /// Checks newly committed batches. Who has nothing left in the log, which starts at `start`, begins anew.
    ///
    /// # Errors
    /// P1.
    pub fn committed(&mut self, extended: &Extended, start: Offset) -> Checked {
        for batch in &extended.batches {
            let Some(producer) = batch.producer() else { continue };
            let key = (extended.partition, producer.id);
            let next = (producer.epoch, producer.first_sequence + batch.count(), batch.end_offset());
            let before = self.committed.insert(key, next);
            let follows = before.is_none_or(|(epoch, sequence, end)| {
                end <= start
                    || producer.epoch > epoch
                    || (producer.epoch == epoch && producer.first_sequence == sequence)
            });
            ensure(follows, Invariant::P1, || {
                format!("{batch:?} of {producer:?} is committed on {} after {before:?}", extended.partition)
            })?;
        }
        Ok(())
    }

    /// Takes the answer to a try; returns what became of which publishes.
    ///
    /// # Errors
    /// P1 or R1.
    fn answered(
        &mut self,
        ticket: u64,
        result: &Result<Appended, AppendError>,
        committed: impl Fn(TopicPartition, Offset) -> Option<u64>,
    ) -> Result<Vec<(u64, Appended)>, super::checks::Broken> {
        let Some((which, partition, producer)) = self.tries.remove(&ticket) else { return Ok(Vec::new()) };
        let Some(lane) = self.lanes.get_mut(&(which, partition)) else { return Ok(Vec::new()) };
        lane.waiting.remove(&ticket);
        let current = lane.batch.as_ref().is_some_and(|(batch, _)| batch.producer() == Some(producer));
        if !current {
            // A late answer about a batch that was settled or given up.
            return Ok(Vec::new());
        }
        let appended = match result {
            Ok(appended) => appended,
            Err(error) => {
                self.last_error = Some(error.clone());
                let wrong = matches!(error, AppendError::Duplicate | AppendError::ProducerFenced { .. });
                return ensure(!wrong, Invariant::P1, || format!("{producer:?} on {partition}: {error}"))
                    .map(|()| Vec::new());
            }
        };
        self.duplicates += u64::from(appended.duplicate);
        let (batch, publishes) = lane.batch.take().expect("checked above");
        lane.next_sequence += batch.count();
        let mut done = Vec::new();
        for (publish, offset) in publishes.into_iter().zip(appended.base_offset..) {
            let found = committed(partition, offset);
            ensure(found == Some(publish), Invariant::R1, || {
                format!("{producer:?} was told {appended:?}, at {offset} there is {found:?}, not {publish}")
            })?;
            done.push((publish, Appended { base_offset: offset, ..appended.clone() }));
        }
        Ok(done)
    }
}

impl World {
    /// A random producer sends what it has under way in a random partition, or something new.
    pub(crate) fn random_produce(&mut self) {
        let Some((asked, partition, leader)) = self.ask_for_a_leader() else { return };
        let which = usize::try_from(self.rng.below(3)).expect("a small number") % PRODUCERS;
        let Some(to) = (if self.rng.chance(50) { Some(asked) } else { leader }) else { return };
        let impatient = self.rng.chance(200);
        let gives_up = self.rng.chance(20);
        let lane = self.producers.lanes.entry((which, partition)).or_default();
        if lane.batch.is_some() && gives_up {
            // Whether it is there or will be is unknown, so its sequence can't go on.
            *lane = Lane { epoch: lane.epoch + 1, ..Lane::default() };
        }
        if lane.waiting.is_empty() || impatient {
            self.produce(to, which, partition);
        }
    }

    /// Sends what a producer has under way, or something new, to a broker.
    pub(crate) fn produce(&mut self, to: BrokerId, which: usize, partition: TopicPartition) {
        let fresh = self.producers.lanes.get(&(which, partition)).is_none_or(|lane| lane.batch.is_none());
        if fresh {
            let count = 1 + u32::try_from(self.rng.below(3)).expect("a small number");
            let publishes: Vec<u64> = (0..count).map(|_| self.clients.ticket().0).collect();
            let lane = self.producers.lanes.entry((which, partition)).or_default();
            let producer = Producer { id: id(which), epoch: lane.epoch, first_sequence: lane.next_sequence };
            lane.batch = Some((batch_of(producer, &publishes), publishes.clone()));
            for publish in publishes {
                let entry = Publish { partition, acks: Acks::All, outcome: None, committed_at: None };
                self.clients.publishes.insert(publish, entry);
            }
        }
        let Some(process) = self.nodes.get(&to).and_then(|node| node.process.as_ref()) else { return };
        let (serial, ticket) = (process.serial, self.clients.ticket());
        let Some(lane) = self.producers.lanes.get_mut(&(which, partition)) else { return };
        let Some((batch, _)) = lane.batch.clone() else { return };
        lane.waiting.insert(ticket.0);
        let producer = batch.producer().expect("made with one");
        self.producers.tries.insert(ticket.0, (which, partition, producer));
        let acks = Acks::All;
        let input =
            Box::new(partition::Input::Append { ticket, partition, batch, acks, expected_offset: None });
        self.schedule(self.now, to, Happening::Replicas { process: serial, input });
    }

    /// Has the answers to a producer's tries so far never arrive.
    pub(crate) fn lose_answers(&mut self, which: usize, partition: TopicPartition) {
        if let Some(lane) = self.producers.lanes.get_mut(&(which, partition)) {
            for ticket in std::mem::take(&mut lane.waiting) {
                self.producers.tries.remove(&ticket);
            }
        }
    }

    /// Returns whether a producer has a batch that is not acknowledged.
    pub(crate) fn has_under_way(&self, which: usize, partition: TopicPartition) -> bool {
        self.producers.lanes.get(&(which, partition)).is_some_and(|lane| lane.batch.is_some())
    }

    /// Takes an answer that may be a producer's; returns whether it was.
    ///
    /// # Errors
    /// P1 or R1.
    pub(crate) fn produced(
        &mut self,
        ticket: Ticket,
        result: &Result<Appended, AppendError>,
    ) -> Result<bool, super::checks::Broken> {
        let Some((_, partition, _)) = self.producers.tries.get(&ticket.0) else { return Ok(false) };
        if self.logs.is_excused(*partition, self.min_isr(*partition)) {
            self.producers.tries.remove(&ticket.0);
            return Ok(true);
        }
        let logs = &self.logs;
        let committed = |partition, offset| logs.publish_at(partition, offset);
        for (publish, appended) in self.producers.answered(ticket.0, result, committed)? {
            if let Some(publish) = self.clients.publishes.get_mut(&publish) {
                publish.outcome = Some(Ok(appended));
            }
            self.clients.acknowledged += 1;
        }
        Ok(true)
    }

    /// Sends what every producer has under way until it is acknowledged: who goes on trying ends with exactly one copy.
    ///
    /// # Errors
    /// [`super::world::Stop`] if an invariant broke, or V1 if one is not acknowledged in time.
    pub(crate) fn finish_producers(&mut self, living: &BTreeSet<TopicPartition>) -> Flow {
        let lanes: Vec<_> = self.producers.lanes.keys().copied().collect();
        for (which, partition) in lanes.into_iter().filter(|(_, partition)| living.contains(partition)) {
            // Tries that a crash swallowed are never answered.
            self.lose_answers(which, partition);
            let done = self.run_until(CONVERGE_MS, |world| {
                let idle = world.producers.lanes[&(which, partition)].waiting.is_empty();
                let leader = world.entry(partition).and_then(|entry| entry.leader);
                if let (true, true, Some(leader)) = (world.has_under_way(which, partition), idle, leader) {
                    world.produce(leader, which, partition);
                }
                !world.has_under_way(which, partition)
            })?;
            if !done {
                let lane = &self.producers.lanes[&(which, partition)];
                return self.fail(Invariant::V1, format!("producer {which} on {partition}: {lane:?}"));
            }
        }
        Ok(())
    }
}

fn batch_of(producer: Producer, publishes: &[u64]) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.producer(producer);
    for publish in publishes {
        builder.push(None, b"", ValueKind::Bytes, &Clients::value(Ticket(*publish), 0));
    }
    builder.build(0, LeaderEpoch(0), 0).expect("few small records are within the limits")
}
