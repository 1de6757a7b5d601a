//! What a broker's shell does around the coordinator of groups, in the simulation. The internal topic has one partition here.

use super::checks::Checked;
use super::world::{Flow, Happening, World};
use pubsub_core::control::Ticket;
use pubsub_core::group::GroupRequest;
use pubsub_core::group::coordinator::{Action, Groups, Input};
use pubsub_core::group::records::{Record, barrier};
use pubsub_core::ids::{BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use pubsub_core::partition::{self, Acks, AppendError, Appended, Role};
use pubsub_core::record::{Batch, BatchBuilder, ValueKind};
use std::collections::BTreeMap;

/// Name of the topic that holds the groups. The real one can't be made with one partition.
const TOPIC: &str = "groups";
/// How long the shell waits for an append, and for a proof of leadership, ms.
const PATIENCE_MS: u64 = 6_000;
/// How much a log may hold besides twice what is true, bytes: little, so that it is cut often.
const SPARE_BYTES: usize = 4_000;
/// Pause before a log that could not be read is read again, ms.
const LOAD_AGAIN_MS: u64 = 100;

/// The groups that a process coordinates, in one term.
#[derive(Debug)]
pub struct Coordinated {
    leader_epoch: LeaderEpoch,
    /// `None` while the log is read.
    groups: Option<Box<Groups>>,
}

/// What reaches a process about groups.
#[derive(Debug)]
pub(crate) enum GroupInput {
    /// A client's request.
    Request { ticket: Ticket, request: GroupRequest },
    /// A batch is to be appended, in its term.
    Append { ticket: Ticket, batch: Batch },
    /// Nobody waits for an append or a proof any longer.
    TimedOut { ticket: Ticket },
    /// The log is to be read again, in its term.
    LoadAgain { leader_epoch: LeaderEpoch },
}

/// What a ticket that is under way is for.
#[derive(Debug)]
enum Purpose {
    /// The barrier before the log is read.
    Barrier,
    /// Records, and the snapshot that is to follow them.
    Records { snapshot: Vec<Record> },
    /// A snapshot.
    Snapshot,
    /// A proof of leadership.
    Proof,
}

#[derive(Debug)]
struct UnderWay {
    process: u64,
    leader_epoch: LeaderEpoch,
    purpose: Purpose,
}

/// The internal topic, and what its coordinators wait for.
#[derive(Debug, Default)]
pub struct Coordinators {
    topic: Option<TopicId>,
    under_way: BTreeMap<u64, UnderWay>,
    /// Logs that were cut.
    pub cuts: u64,
}

impl World {
    /// Creates the internal topic, and members that share the topic of orders.
    ///
    /// # Errors
    /// [`super::world::Stop`] if an invariant broke, or V1 if it could not be created.
    pub fn begin_groups(&mut self) -> Flow {
        self.coordinators.topic = Some(self.create_topic(TOPIC, 1, 3, 2)?);
        Ok(())
    }

    /// Whether the run has groups.
    pub fn has_groups(&self) -> bool {
        self.coordinators.topic.is_some()
    }

    /// Returns the partition that holds the groups.
    pub fn groups_partition(&self) -> Option<TopicPartition> {
        self.coordinators.topic.map(|topic| TopicPartition { topic, partition: 0 })
    }

    /// Whether it is the partition that holds the groups.
    pub(crate) fn is_groups(&self, partition: TopicPartition) -> bool {
        self.groups_partition() == Some(partition)
    }

    /// Brings a request to a broker after a while; whoever answers does so by its ticket. Returns whether the broker is up.
    pub(crate) fn ask_group(
        &mut self,
        id: BrokerId,
        after_ms: u64,
        ticket: Ticket,
        request: GroupRequest,
    ) -> bool {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
        let Some(process) = process.map(|process| process.serial) else { return false };
        let input = Box::new(GroupInput::Request { ticket, request });
        self.schedule(self.now + after_ms, id, Happening::Groups { process, input });
        true
    }

    /// Begins or ends coordinating, as the replica of the internal topic shows who leads.
    pub(crate) fn follow_groups(&mut self, id: BrokerId, partition: TopicPartition) -> Checked {
        if !self.is_groups(partition) {
            return Ok(());
        }
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
            return Ok(());
        };
        let view = process.views.get(&partition).filter(|view| view.role == Role::Leader);
        let led = view.map(|view| view.leader_epoch);
        if process.groups.as_ref().map(|held| held.leader_epoch) == led {
            return Ok(());
        }
        let was = process.groups.take();
        if let Some(leader_epoch) = led {
            process.groups = Some(Coordinated { leader_epoch, groups: None });
        }
        let local = process.clock.local(self.now);
        if let Some(mut groups) = was.and_then(|held| held.groups) {
            // The first ends what is under way, the second what waits for it.
            for _ in 0..2 {
                for action in groups.step(local, Input::Settled { sure: false, snapshot_at: None }) {
                    if let Action::Reply { ticket, result } = action {
                        self.member_answered(ticket, result)?;
                    }
                }
            }
        }
        if let Some(leader_epoch) = led {
            self.load_groups(id, leader_epoch);
        }
        Ok(())
    }

    fn load_groups(&mut self, id: BrokerId, leader_epoch: LeaderEpoch) {
        self.append_groups(id, leader_epoch, &[barrier()], Purpose::Barrier);
    }

    fn append_groups(
        &mut self,
        id: BrokerId,
        leader_epoch: LeaderEpoch,
        records: &[Record],
        purpose: Purpose,
    ) {
        let batch = batch_of(records);
        if let Some((process, ticket)) = self.begin_wait(id, leader_epoch, purpose) {
            let input = Box::new(GroupInput::Append { ticket, batch });
            self.schedule_inner(id, Happening::Groups { process, input });
        }
    }

    fn begin_wait(
        &mut self,
        id: BrokerId,
        leader_epoch: LeaderEpoch,
        purpose: Purpose,
    ) -> Option<(u64, Ticket)> {
        let process = self.nodes.get(&id)?.process.as_ref()?.serial;
        let ticket = self.clients.ticket();
        self.coordinators.under_way.insert(ticket.0, UnderWay { process, leader_epoch, purpose });
        let input = Box::new(GroupInput::TimedOut { ticket });
        self.schedule(self.now + PATIENCE_MS, id, Happening::Groups { process, input });
        Some((process, ticket))
    }

    pub(crate) fn groups_input(&mut self, id: BrokerId, input: GroupInput) -> Checked {
        self.note(id, "groups", 0, || format!("{input:?}"));
        self.steps += 1;
        match input {
            GroupInput::Request { ticket, request } => {
                self.step_groups(id, None, Input::Request { ticket, request })
            }
            GroupInput::Append { ticket, batch } => self.append_in_term(id, ticket, batch),
            GroupInput::TimedOut { ticket } => self.ended(id, ticket, None).map(drop),
            GroupInput::LoadAgain { leader_epoch } => {
                let held = self.nodes[&id].process.as_ref().and_then(|process| process.groups.as_ref());
                if held.is_some_and(|held| held.leader_epoch == leader_epoch && held.groups.is_none()) {
                    self.load_groups(id, leader_epoch);
                }
                Ok(())
            }
        }
    }

    /// A later term has replayed newer records, which these must not be written behind.
    fn append_in_term(&mut self, id: BrokerId, ticket: Ticket, batch: Batch) -> Checked {
        let (Some(partition), Some(waits)) =
            (self.groups_partition(), self.coordinators.under_way.get(&ticket.0))
        else {
            return Ok(());
        };
        let process = self.nodes[&id].process.as_ref();
        let view = process.and_then(|process| process.replicas.view(partition));
        if view.map(|view| view.leader_epoch) != Some(waits.leader_epoch) {
            return self.ended(id, ticket, None).map(drop);
        }
        let acks = Acks::All;
        self.replicas_input(
            id,
            partition::Input::Append { ticket, partition, batch, acks, expected_offset: None },
        )
    }

    /// Takes the answer to an append that may be a coordinator's; returns whether it was.
    ///
    /// # Errors
    /// What the answers to members that follow break.
    pub(crate) fn groups_appended(
        &mut self,
        id: BrokerId,
        serial: u64,
        ticket: Ticket,
        result: &Result<Appended, AppendError>,
    ) -> Result<bool, super::checks::Broken> {
        let ours = self.coordinators.under_way.get(&ticket.0).is_some_and(|waits| waits.process == serial);
        if ours {
            self.ended(id, ticket, result.as_ref().ok().map(|appended| appended.base_offset))?;
        }
        Ok(ours)
    }

    /// As [`Self::groups_appended`], of a proof of leadership.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn groups_confirmed(
        &mut self,
        id: BrokerId,
        serial: u64,
        ticket: Ticket,
        leads: bool,
    ) -> Result<bool, super::checks::Broken> {
        let ours = self.coordinators.under_way.get(&ticket.0).is_some_and(|waits| waits.process == serial);
        if ours {
            self.ended(id, ticket, leads.then_some(0))?;
        }
        Ok(ours)
    }

    /// Goes on after an append or a proof; `None`: nobody knows what became of it.
    fn ended(&mut self, id: BrokerId, ticket: Ticket, at: Option<Offset>) -> Checked {
        let Some(waits) = self.coordinators.under_way.remove(&ticket.0) else { return Ok(()) };
        let term = waits.leader_epoch;
        let sure = at.is_some();
        match waits.purpose {
            Purpose::Barrier => {
                match at {
                    Some(end) => self.read_groups(id, term, end),
                    None => {
                        let input = Box::new(GroupInput::LoadAgain { leader_epoch: term });
                        let happening = Happening::Groups { process: waits.process, input };
                        self.schedule(self.now + LOAD_AGAIN_MS, id, happening);
                    }
                }
                Ok(())
            }
            Purpose::Records { snapshot } if sure && !snapshot.is_empty() => {
                self.append_groups(id, term, &snapshot, Purpose::Snapshot);
                Ok(())
            }
            Purpose::Snapshot => self.step_groups(id, Some(term), Input::Settled { sure, snapshot_at: at }),
            Purpose::Records { .. } | Purpose::Proof => {
                self.step_groups(id, Some(term), Input::Settled { sure, snapshot_at: None })
            }
        }
    }

    /// Reads the log up to the barrier, and begins to coordinate.
    fn read_groups(&mut self, id: BrokerId, term: LeaderEpoch, end: Offset) {
        let Some(partition) = self.groups_partition() else { return };
        let weakened = self.setup.weakened.clone();
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = node.process.as_mut() else { return };
        let Some(held) = process.groups.as_mut().filter(|held| held.leader_epoch == term) else { return };
        let mut groups = Groups::with(SPARE_BYTES, weakened);
        if let Some(log) = node.disk.written.get(&partition) {
            for record in log.range(log.log_start, end).iter().flat_map(Batch::records) {
                if record.offset >= log.log_start && record.offset < end {
                    let value = (record.kind != ValueKind::None).then_some(record.value);
                    groups.replay(record.key.unwrap_or_default(), value);
                }
            }
        }
        groups.begin(process.clock.local(now));
        held.groups = Some(Box::new(groups));
    }

    fn step_groups(&mut self, id: BrokerId, term: Option<LeaderEpoch>, input: Input) -> Checked {
        let now = self.now;
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
            return Ok(());
        };
        let serial = process.serial;
        let local = process.clock.local(now);
        let held = process.groups.as_mut();
        let held = held.filter(|held| term.is_none_or(|term| held.leader_epoch == term));
        let Some(Coordinated { leader_epoch, groups: Some(groups) }) = held else {
            // Nobody coordinates here (yet); what is settled late was answered when its term ended.
            return match input {
                Input::Request { ticket, .. } => {
                    self.member_answered(ticket, Err(pubsub_core::group::GroupError::Unavailable))
                }
                Input::Settled { .. } | Input::Deleted { .. } => Ok(()),
            };
        };
        let leader_epoch = *leader_epoch;
        for action in groups.step(local, input) {
            self.perform_groups(id, serial, leader_epoch, action)?;
        }
        Ok(())
    }

    fn perform_groups(&mut self, id: BrokerId, serial: u64, term: LeaderEpoch, action: Action) -> Checked {
        self.note(id, "does", 3, || format!("{action:?}"));
        let Some(partition) = self.groups_partition() else { return Ok(()) };
        match action {
            Action::Reply { ticket, result } => self.member_answered(ticket, result)?,
            Action::Append { records, snapshot } if records.is_empty() => {
                self.append_groups(id, term, &snapshot, Purpose::Snapshot);
            }
            Action::Append { records, snapshot } => {
                self.append_groups(id, term, &records, Purpose::Records { snapshot });
            }
            Action::Confirm => {
                if let Some((process, ticket)) = self.begin_wait(id, term, Purpose::Proof) {
                    let input = Box::new(partition::Input::Confirm { ticket, partition, leader_epoch: term });
                    self.schedule_inner(id, Happening::Replicas { process, input });
                }
            }
            Action::Trim { to } => {
                self.coordinators.cuts += 1;
                let input = Box::new(partition::Input::Trim { partition, leader_epoch: term, to });
                self.schedule_inner(id, Happening::Replicas { process: serial, input });
            }
            Action::Reload => {
                let process = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut());
                if let Some(held) = process.and_then(|process| process.groups.as_mut()) {
                    held.groups = None;
                    self.load_groups(id, term);
                }
            }
        }
        Ok(())
    }
}

fn batch_of(records: &[Record]) -> Batch {
    let mut batch = BatchBuilder::new();
    for (key, value) in records {
        let kind = if value.is_some() { ValueKind::Bytes } else { ValueKind::None };
        batch.push(Some(key), b"", kind, value.as_deref().unwrap_or_default());
    }
    batch.build(0, LeaderEpoch(0), 0).expect("few groups fit a batch")
}
