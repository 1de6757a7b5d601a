//! The machine that coordinates the groups of one partition of the internal topic.
//!
//! What it decides it applies at once and writes down: one append is under way at a time, and what is asked meanwhile goes
//! into the next one. Answers leave only when the append that holds what they saw is committed, so that no failover takes
//! back what was said (G2). Answers that change nothing wait for a proof, begun after the question, that this broker still
//! leads the partition: a successor may have moved positions on. An append that fails leaves nobody knowing what the log
//! holds; the machine then asks to be replaced by one that reads the log again.

use super::membership::{Joining, Membership};
use super::positions::Positions;
use super::records::{self, Finished, Key, Position, Record};
use super::{GroupDescription, GroupError, GroupMember, GroupReply, GroupRequest, Reader};
use crate::Mono;
use crate::control::Ticket;
use crate::ids::{ConsumerId, GroupId, TopicId};
use crate::limits::{GROUP_PARTITIONS, GROUP_SESSION_MS, INBOX_MAX, PARTITIONS_MAX};
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

/// What is settled together.
#[derive(Debug, Default)]
struct Round {
    records: Vec<Record>,
    replies: Vec<Waiting>,
}

/// The groups of one partition of the internal topic.
#[derive(Debug, Default)]
pub struct Groups {
    /// Highest epoch of any group so far, also of those that are gone: a name that comes back goes on above.
    epochs: u64,
    /// Groups that have members.
    groups: BTreeMap<GroupId, Membership>,
    positions: Positions,
    deleted: BTreeSet<TopicId>,
    /// When sessions were last looked through for groups that nobody reads for any more.
    swept: Mono,
    under_way: Option<Round>,
    next: Round,
}

impl Groups {
    /// Makes the machine of a partition whose committed records are to be replayed next.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one committed record of the partition's log, oldest first. Records that are not understood are passed over:
    /// a later version may have written them.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        match Key::parse(key) {
            Some(Key::Group(group)) => match value.map(serde_json::from_slice::<Membership>) {
                Some(Ok(membership)) => {
                    self.epochs = self.epochs.max(membership.epoch);
                    self.groups.insert(group, membership);
                }
                Some(Err(_)) => {}
                None => drop(self.groups.remove(&group)),
            },
            Some(Key::Position(position)) => match value.map(serde_json::from_slice::<Finished>) {
                Some(Ok(finished)) => self.positions.replay(position, Some(finished)),
                Some(Err(_)) => {}
                None => self.positions.replay(position, None),
            },
            None => {}
        }
    }

    /// Begins to coordinate, once everything is replayed: every member gets a fresh session, for the coordinator before knew
    /// who was alive and this one does not.
    pub fn begin(&mut self, now: Mono) {
        self.swept = now;
        self.groups.values_mut().for_each(|membership| membership.restart_sessions(now));
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
            Input::Settled { sure } => self.settled(sure, &mut actions),
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
        let records = std::mem::take(&mut round.records);
        actions.push(if records.is_empty() {
            Action::Confirm
        } else {
            Action::Append { records: records.clone() }
        });
        self.under_way = Some(Round { records, ..round });
    }

    fn settled(&mut self, sure: bool, actions: &mut Vec<Action>) {
        let Some(round) = self.under_way.take() else { return };
        let reply = |waiting: Waiting, outcome: Result<(), GroupError>| Action::Reply {
            ticket: waiting.ticket,
            result: outcome.and(waiting.result),
        };
        if sure {
            actions.extend(round.replies.into_iter().map(|waiting| reply(waiting, Ok(()))));
            return;
        }
        let lost = !round.records.is_empty();
        actions.extend(round.replies.into_iter().map(|waiting| {
            let error = if waiting.changes { GroupError::Unknown } else { GroupError::Unavailable };
            reply(waiting, Err(error))
        }));
        if lost {
            // What was asked meanwhile was never handed out: it is not done, for certain.
            let next = std::mem::take(&mut self.next);
            actions
                .extend(next.replies.into_iter().map(|waiting| reply(waiting, Err(GroupError::Unavailable))));
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

    fn request(&mut self, now: Mono, request: GroupRequest) -> Result<GroupReply, GroupError> {
        match request {
            GroupRequest::Join {
                reader: Reader::Group(group),
                consumer,
                topic,
                partitions,
                standby,
                held,
            } => {
                let consumer = &consumer.ok_or(GroupError::ConsumerRequired)?;
                self.join(now, group, &Joining { consumer, topic, partitions, standby, held: held.as_ref() })
            }
            GroupRequest::Join { reader, topic, partitions, .. } => {
                let all = 0..partitions.min(PARTITIONS_MAX);
                let partitions = all.map(|no| (no, self.positions.get(&reader, topic, no))).collect();
                Ok(GroupReply::Joined { member_epoch: 0, partitions, session_timeout_ms: GROUP_SESSION_MS })
            }
            GroupRequest::Leave { group, consumer, topic, member_epoch } => {
                if let Some(membership) = self.expired(now, &group) {
                    membership.0.leave((&consumer, topic), member_epoch, membership.1);
                }
                self.note_change(&group);
                Ok(GroupReply::Done)
            }
            GroupRequest::Commit { reader, consumer, topic, partition, offset, member_epoch } => {
                let epoch =
                    self.may_commit(now, &reader, (consumer.as_ref(), member_epoch), topic, partition)?;
                let finished = Finished { offset, member_epoch: epoch };
                let record = self.positions.set(Position(reader, topic, partition), finished);
                self.next.records.push(record);
                Ok(GroupReply::Committed { offset })
            }
            GroupRequest::Describe { group } => self.describe(now, &group),
            GroupRequest::List => {
                let mut names = self.positions.groups();
                names.extend(self.groups.keys().cloned());
                Ok(GroupReply::Listed { groups: names.into_iter().collect() })
            }
            GroupRequest::Delete { group } => self.delete(now, &group),
        }
    }

    /// Returns a group after the sessions that are over have ended, with the count of epochs.
    fn expired(&mut self, now: Mono, group: &GroupId) -> Option<(&mut Membership, &mut u64)> {
        let membership = self.groups.get_mut(group)?;
        membership.expire(now, &mut self.epochs);
        Some((membership, &mut self.epochs))
    }

    fn join(&mut self, now: Mono, group: GroupId, joining: &Joining<'_>) -> Result<GroupReply, GroupError> {
        let membership = self.groups.entry(group.clone()).or_default();
        membership.expire(now, &mut self.epochs);
        let joined = membership.join(now, joining, &mut self.epochs);
        let member_epoch = membership.epoch;
        self.note_change(&group);
        let reader = Reader::Group(group);
        let place = |no| (no, self.positions.get(&reader, joining.topic, no));
        let partitions = joined?.into_iter().map(place).collect();
        Ok(GroupReply::Joined { member_epoch, partitions, session_timeout_ms: GROUP_SESSION_MS })
    }

    /// Returns the epoch that a commit is made in.
    fn may_commit(
        &mut self,
        now: Mono,
        reader: &Reader,
        (consumer, member_epoch): (Option<&ConsumerId>, Option<u64>),
        topic: TopicId,
        partition: u32,
    ) -> Result<u64, GroupError> {
        let Reader::Group(group) = reader else { return Ok(0) };
        let owns = self.expired(now, group).filter(|(membership, _)| !membership.is_empty()).map(|found| {
            let named = consumer.filter(|name| found.0.owns(now, (*name, member_epoch), topic, partition));
            named.map(|_| found.0.epoch)
        });
        self.note_change(group);
        match owns {
            Some(owner) => owner.ok_or(GroupError::Fenced),
            // Who knows an epoch had a membership, which ended.
            None if member_epoch.is_some() => Err(GroupError::Fenced),
            None => Ok(0),
        }
    }

    fn delete(&mut self, now: Mono, group: &GroupId) -> Result<GroupReply, GroupError> {
        let live = self.expired(now, group).is_some_and(|(membership, _)| !membership.is_empty());
        self.note_change(group);
        if live {
            return Err(GroupError::NotEmpty);
        }
        let of = Reader::Group(group.clone());
        let records = self.positions.forget(|reader, _| *reader == of);
        if records.is_empty() {
            return Err(GroupError::NotFound);
        }
        self.next.records.extend(records);
        Ok(GroupReply::Done)
    }

    fn describe(&mut self, now: Mono, group: &GroupId) -> Result<GroupReply, GroupError> {
        let mut members: BTreeMap<ConsumerId, GroupMember> = BTreeMap::new();
        let mut epoch = 0;
        if let Some((membership, _)) = self.expired(now, group) {
            epoch = membership.epoch;
            for (topic, sharing) in &membership.topics {
                for (consumer, member) in &sharing.members {
                    let entry = members.entry(consumer.clone()).or_insert_with(|| GroupMember {
                        consumer: consumer.clone(),
                        assigned: vec![],
                        expires_in_ms: 0,
                    });
                    entry.assigned.extend(member.assigned.keys().map(|partition| (*topic, *partition)));
                    entry.expires_in_ms = entry.expires_in_ms.max(member.expires.saturating_sub(now));
                }
            }
        }
        self.note_change(group);
        let committed = self.positions.of(group);
        if members.is_empty() && committed.is_empty() {
            return Err(GroupError::NotFound);
        }
        let members = members.into_values().collect();
        Ok(GroupReply::Described(GroupDescription { epoch, members, committed }))
    }
}

#[cfg(test)]
mod tests;
