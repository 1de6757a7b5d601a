//! The machine that coordinates the groups of one partition of the internal topic.
//!
//! What it decides it applies at once and writes down: one append is under way at a time, and what is asked meanwhile goes
//! into the next one. Answers leave only when the append that holds what they saw is committed, so that no failover takes
//! back what was said (G2). Answers that change nothing wait for a proof, begun after the question, that this broker still
//! leads the partition: a successor may have moved positions on. An append that fails leaves nobody knowing what the log
//! holds; the machine then asks to be replaced by one that reads the log again.

mod compaction;
mod requests;

use super::membership::Membership;
use super::positions::Positions;
use super::records::{self, Finished, Key, Record};
use super::{GroupError, GroupReply, GroupRequest, Reader};
use crate::Mono;
use crate::control::{Ticket, Weakening};
use crate::ids::{GroupId, Offset, TopicId};
use crate::limits::{GROUP_PARTITIONS, GROUP_SESSION_MS, INBOX_MAX};
use compaction::LogSize;
use std::collections::{BTreeMap, BTreeSet};

/// Returns the partition of the internal topic whose leader coordinates `reader`.
pub fn partition_of(reader: &Reader) -> u32 {
    let name = match reader {
        Reader::Group(group) => group.as_str(),
        Reader::Consumer(consumer) => consumer.as_str(),
        Reader::Anonymous => "",
    };
    crate::wire::client::partition_of_key(name.as_bytes(), GROUP_PARTITIONS)
}

/// What happens to the groups of one partition.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request; answered by one [`Action::Reply`] with the same ticket.
    Request {
        /// For the reply.
        ticket: Ticket,
        /// What is asked.
        request: GroupRequest,
    },
    /// The [`Action::Append`] or [`Action::Confirm`] under way ended.
    Settled {
        /// The records are committed, or the proof is there; `false`: nobody knows.
        sure: bool,
        /// Where the snapshot of the append begins, if it has one and is committed.
        snapshot_at: Option<Offset>,
    },
    /// Topics are deleted; nobody reads them any more.
    Deleted {
        /// Which.
        topics: BTreeSet<TopicId>,
    },
}

/// What the shell must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append these records to the partition, with `acks=all`, in order; then give [`Input::Settled`].
    Append {
        /// Key and value; no value takes the key back.
        records: Vec<Record>,
        /// To be appended behind `records`, in batches of their own: everything that is known. Mostly empty.
        snapshot: Vec<Record>,
    },
    /// Have the log start here: whatever is before is written again, or no longer true.
    Trim {
        /// Where the newest committed snapshot begins.
        to: Offset,
    },
    /// Prove that every in-sync replica still takes this broker for the leader; then give [`Input::Settled`].
    Confirm,
    /// The answer to a request.
    Reply {
        /// As given.
        ticket: Ticket,
        /// The answer.
        result: Result<GroupReply, GroupError>,
    },
    /// Drop this machine and read the log again: what is in memory may not be what is in the log.
    Reload,
}

/// An answer that waits to be certain.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    result: Result<GroupReply, GroupError>,
    /// Whether the request changed anything, so that a failure means "perhaps".
    changes: bool,
}

impl Waiting {
    fn answer(self, outcome: Result<(), GroupError>) -> Action {
        Action::Reply { ticket: self.ticket, result: outcome.and(self.result) }
    }
}

/// What is settled together.
#[derive(Debug, Default)]
struct Round {
    records: Vec<Record>,
    replies: Vec<Waiting>,
    /// Whether it is an append, and no mere proof.
    appends: bool,
}

/// The groups of one partition of the internal topic.
#[derive(Debug, Default)]
pub struct Groups {
    /// Highest epoch of any group so far, also of those that are gone: a name that comes back goes on above.
    epochs: u64,
    /// Groups that have members.
    groups: BTreeMap<GroupId, Membership>,
    positions: Positions,
    /// Records that are not understood, as they are: a later version wrote them, and will want them back.
    foreign: BTreeMap<Vec<u8>, Vec<u8>>,
    log: LogSize,
    deleted: BTreeSet<TopicId>,
    /// When sessions were last looked through for groups that nobody reads for any more.
    swept: Mono,
    under_way: Option<Round>,
    next: Round,
    weakened: Vec<Weakening>,
}

impl Groups {
    /// Makes the machine of a partition whose committed records are to be replayed next.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one that cuts its log with `spare_bytes` besides twice what is true, and does without some of its rules:
    /// for tests.
    pub fn with(spare_bytes: usize, weakened: Vec<Weakening>) -> Self {
        Self { log: LogSize::with(spare_bytes), weakened, ..Self::default() }
    }

    fn without(&self, rule: Weakening) -> bool {
        cfg!(feature = "weakened") && self.weakened.contains(&rule)
    }

    /// Takes one committed record of the partition's log, oldest first. Records that are not understood are only kept:
    /// a later version may have written them.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.log.add(key, value);
        self.foreign.remove(key);
        let understood = match Key::parse(key) {
            Some(Key::Barrier) => true,
            Some(Key::Epochs) => match value.map(serde_json::from_slice::<u64>) {
                Some(Ok(epochs)) => {
                    self.epochs = self.epochs.max(epochs);
                    true
                }
                Some(Err(_)) => false,
                None => true,
            },
            Some(Key::Group(group)) => self.replay_group(group, value),
            Some(Key::Position(position)) => match value.map(serde_json::from_slice::<Finished>) {
                Some(Ok(finished)) => self.positions.replay(position, Some(finished)),
                Some(Err(_)) => false,
                None => self.positions.replay(position, None),
            },
            None => key.is_empty(),
        };
        if let (false, Some(value)) = (understood, value) {
            self.foreign.insert(key.to_vec(), value.to_vec());
        }
    }

    fn replay_group(&mut self, group: GroupId, value: Option<&[u8]>) -> bool {
        match value.map(serde_json::from_slice::<Membership>) {
            Some(Ok(membership)) => {
                self.epochs = self.epochs.max(membership.epoch);
                self.groups.insert(group, membership);
                true
            }
            Some(Err(_)) => false,
            None => {
                self.groups.remove(&group);
                true
            }
        }
    }

    /// Begins to coordinate, once everything is replayed: every member gets a fresh session, for the coordinator before knew
    /// who was alive and this one does not.
    pub fn begin(&mut self, now: Mono) {
        self.swept = now;
        self.log.opened(&self.snapshot());
        if !self.without(Weakening::SessionsOfBefore) {
            self.groups.values_mut().for_each(|membership| membership.restart_sessions(now));
        }
    }

    /// Takes one input and returns what must be done, in order.
    pub fn step(&mut self, now: Mono, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Request { ticket, .. } if self.next.replies.len() >= INBOX_MAX => {
                actions.push(Action::Reply { ticket, result: Err(GroupError::Unavailable) });
            }
            Input::Request { ticket, request } => {
                self.sweep(now);
                let before = self.next.records.len();
                let result = self.request(now, request);
                let changes = self.next.records.len() > before;
                self.next.replies.push(Waiting { ticket, result, changes });
            }
            Input::Settled { sure, snapshot_at } => self.settled(sure, snapshot_at, &mut actions),
            Input::Deleted { topics } => self.drop_topics(topics),
        }
        self.start_round(&mut actions);
        actions
    }

    fn start_round(&mut self, actions: &mut Vec<Action>) {
        if self.under_way.is_some() || (self.next.records.is_empty() && self.next.replies.is_empty()) {
            return;
        }
        let mut round = std::mem::take(&mut self.next);
        let snapshot = if self.log.is_due() { self.snapshot() } else { vec![] };
        if self.without(Weakening::AnswerBeforeCommit) {
            let replies = std::mem::take(&mut round.replies).into_iter();
            actions.extend(replies.map(|waiting| waiting.answer(Ok(()))));
        }
        round.appends = !round.records.is_empty() || !snapshot.is_empty();
        actions.push(if round.appends {
            let records = std::mem::take(&mut round.records);
            records.iter().for_each(|(key, value)| self.log.add(key, value.as_deref()));
            if !snapshot.is_empty() {
                self.log.rewritten(&snapshot);
            }
            Action::Append { records, snapshot }
        } else {
            Action::Confirm
        });
        self.under_way = Some(round);
    }

    fn settled(&mut self, sure: bool, snapshot_at: Option<Offset>, actions: &mut Vec<Action>) {
        let Some(round) = self.under_way.take() else { return };
        if sure {
            actions.extend(round.replies.into_iter().map(|waiting| waiting.answer(Ok(()))));
            actions.extend(snapshot_at.map(|to| Action::Trim { to }));
            return;
        }
        actions.extend(round.replies.into_iter().map(|waiting| {
            let error = if waiting.changes { GroupError::Unknown } else { GroupError::Unavailable };
            waiting.answer(Err(error))
        }));
        if round.appends {
            // What was asked meanwhile was never handed out: it is not done, for certain.
            let next = std::mem::take(&mut self.next).replies.into_iter();
            actions.extend(next.map(|waiting| waiting.answer(Err(GroupError::Unavailable))));
            actions.push(Action::Reload);
        }
    }

    /// Ends the sessions of groups that nobody asks for now and then.
    fn sweep(&mut self, now: Mono) {
        if now >= self.swept + GROUP_SESSION_MS {
            self.swept = now;
            self.groups.values_mut().for_each(|membership| membership.expire(now, &mut self.epochs));
            self.note_changes();
        }
    }

    /// Writes down every group that changed, and forgets those without members.
    fn note_changes(&mut self) {
        let next = &mut self.next;
        self.groups.retain(|group, membership| {
            if std::mem::take(&mut membership.changed) {
                next.records
                    .push(records::of_group(group, Some(&*membership).filter(|some| !some.is_empty())));
            }
            !membership.is_empty()
        });
    }

    /// As [`Self::note_changes`], of one group.
    fn note_change(&mut self, group: &GroupId) {
        let Some(membership) = self.groups.get_mut(group) else { return };
        let live = !membership.is_empty();
        if std::mem::take(&mut membership.changed) {
            self.next.records.push(records::of_group(group, Some(&*membership).filter(|_| live)));
        }
        if !live {
            self.groups.remove(group);
        }
    }

    fn drop_topics(&mut self, topics: BTreeSet<TopicId>) {
        let new: BTreeSet<TopicId> = topics.difference(&self.deleted).copied().collect();
        if !new.is_empty() {
            self.next.records.extend(self.positions.forget(|_, topic| new.contains(&topic)));
            for membership in self.groups.values_mut() {
                new.iter().for_each(|topic| membership.drop_topic(*topic, &mut self.epochs));
            }
            self.note_changes();
        }
        self.deleted = topics;
    }
}

#[cfg(test)]
mod tests;
