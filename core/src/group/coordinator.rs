//! The machine that coordinates the groups of one partition of the internal topic.
//!
//! Members are sessions in memory; positions are records. A change of position is applied when its record is committed,
//! so nothing is ever told that a failover could take back (G2). A partition passes from one member to another only when
//! its owner has taken note, by its next join, or its session ended (G1).

use super::{GroupDescription, GroupError, GroupMember, GroupReply, GroupRequest, Reader};
use crate::Mono;
use crate::control::Ticket;
use crate::ids::{ConsumerId, GroupId, Offset, TopicId};
use crate::limits::{GROUP_PARTITIONS, GROUP_SESSION_MS, PARTITIONS_MAX};
use serde::{Deserialize, Serialize};
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
    /// An [`Action::Append`] ended: committed, or of unknown outcome.
    Appended {
        /// As given.
        ticket: Ticket,
        /// Where in the log its records begin, if they are committed; `None`: nobody knows.
        committed: Option<Offset>,
    },
}

/// What the shell must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append these records to the partition, with `acks=all`, as one batch.
    Append {
        /// For [`Input::Appended`].
        ticket: Ticket,
        /// Key and value; no value deletes the key.
        records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
    /// The answer to a request.
    Reply {
        /// As given.
        ticket: Ticket,
        /// The answer.
        result: Result<GroupReply, GroupError>,
    },
}

/// Whose position, of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Position(Reader, TopicId, u32);

/// The value of a position's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Finished {
    offset: i64,
}

/// A membership of one topic within a group.
#[derive(Clone, Debug)]
struct Member {
    /// Order of joining: earlier members get the odd partition.
    seniority: u64,
    expires: Mono,
    owned: BTreeSet<u32>,
}

/// The members that share one topic.
#[derive(Clone, Debug, Default)]
struct Sharing {
    epoch: u64,
    joined: u64,
    members: BTreeMap<ConsumerId, Member>,
}

/// What an append will mean once it is committed.
#[derive(Clone, Debug)]
enum Pending {
    Commit { position: Position, offset: i64 },
    Delete { group: GroupId },
}

/// The groups of one partition of the internal topic.
#[derive(Debug, Default)]
pub struct Groups {
    /// Offset of the last finished record, and the place in the log that says so (0 when replayed).
    finished: BTreeMap<Position, (i64, Offset)>,
    /// When sessions were last looked through for groups that nobody reads for any more.
    swept: Mono,
    sharing: BTreeMap<(GroupId, TopicId), Sharing>,
    pending: BTreeMap<Ticket, Pending>,
}

impl Groups {
    /// Makes the machine of a partition whose committed records are to be replayed next.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one committed record of the partition's log, oldest first. Records that are not understood are passed over:
    /// a later version may have written them.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok(position) = serde_json::from_slice::<Position>(key) else { return };
        match value.map(serde_json::from_slice::<Finished>) {
            Some(Ok(finished)) => drop(self.finished.insert(position, (finished.offset, 0))),
            Some(Err(_)) => {}
            None => drop(self.finished.remove(&position)),
        }
    }

    /// Takes one input and returns what must be done, in order.
    pub fn step(&mut self, now: Mono, input: Input) -> Vec<Action> {
        match input {
            Input::Request { ticket, request } => self.request(now, ticket, request),
            Input::Appended { ticket, committed } => self.appended(ticket, committed),
        }
    }

    /// Forgets groups without members now and then: their names come from clients, and may be new ones each time.
    fn sweep(&mut self, now: Mono) {
        if now >= self.swept + GROUP_SESSION_MS {
            self.swept = now;
            self.sharing.retain(|_, sharing| {
                sharing.expire(now);
                !sharing.members.is_empty()
            });
        }
    }

    fn request(&mut self, now: Mono, ticket: Ticket, request: GroupRequest) -> Vec<Action> {
        self.sweep(now);
        let result = match request {
            GroupRequest::Join { reader: Reader::Group(group), consumer, topic, partitions, standby } => {
                match consumer {
                    Some(consumer) => {
                        self.join(now, (group, topic), consumer, partitions.min(PARTITIONS_MAX), standby)
                    }
                    None => Err(GroupError::ConsumerRequired),
                }
            }
            GroupRequest::Join { reader, topic, partitions, .. } => {
                let all = (0..partitions.min(PARTITIONS_MAX))
                    .map(|no| (no, self.finished(&reader, topic, no)))
                    .collect();
                Ok(GroupReply::Joined {
                    member_epoch: 0,
                    partitions: all,
                    session_timeout_ms: GROUP_SESSION_MS,
                })
            }
            GroupRequest::Leave { group, consumer } => Ok(self.leave(&group, &consumer)),
            GroupRequest::Commit { reader, consumer, topic, partition, offset } => {
                match self.may_commit(now, &reader, consumer.as_ref(), topic, partition) {
                    Ok(()) => return self.commit(ticket, Position(reader, topic, partition), offset),
                    Err(refused) => Err(refused),
                }
            }
            GroupRequest::Describe { group } => self.describe(now, &group),
            GroupRequest::List => Ok(GroupReply::Listed { groups: self.names() }),
            GroupRequest::Delete { group } => match self.deletable(now, &group) {
                Ok(keys) => return self.delete(ticket, group, keys),
                Err(refused) => Err(refused),
            },
        };
        vec![Action::Reply { ticket, result }]
    }

    fn finished(&self, reader: &Reader, topic: TopicId, partition: u32) -> i64 {
        self.finished.get(&Position(reader.clone(), topic, partition)).map_or(-1, |(offset, _)| *offset)
    }

    fn join(
        &mut self,
        now: Mono,
        of: (GroupId, TopicId),
        consumer: ConsumerId,
        partitions: u32,
        standby: bool,
    ) -> Result<GroupReply, GroupError> {
        let sharing = self.sharing.entry(of.clone()).or_default();
        sharing.expire(now);
        if !sharing.members.contains_key(&consumer) {
            let room = usize::try_from(partitions).is_ok_and(|count| sharing.members.len() < count);
            if !room && !standby {
                return Err(GroupError::Busy);
            }
            sharing.admit(consumer.clone());
        }
        sharing.renew(&consumer, now, partitions);
        let owned: Vec<u32> = sharing.members[&consumer].owned.iter().copied().collect();
        let member_epoch = sharing.epoch;
        let reader = Reader::Group(of.0);
        let partitions = owned.into_iter().map(|no| (no, self.finished(&reader, of.1, no))).collect();
        Ok(GroupReply::Joined { member_epoch, partitions, session_timeout_ms: GROUP_SESSION_MS })
    }

    fn leave(&mut self, group: &GroupId, consumer: &ConsumerId) -> GroupReply {
        for ((name, _), sharing) in &mut self.sharing {
            if name == group && sharing.members.remove(consumer).is_some() {
                sharing.epoch += 1;
            }
        }
        GroupReply::Done
    }

    fn may_commit(
        &mut self,
        now: Mono,
        reader: &Reader,
        consumer: Option<&ConsumerId>,
        topic: TopicId,
        partition: u32,
    ) -> Result<(), GroupError> {
        let Reader::Group(group) = reader else { return Ok(()) };
        let Some(sharing) = self.sharing.get_mut(&(group.clone(), topic)) else { return Ok(()) };
        sharing.expire(now);
        if sharing.members.is_empty() {
            return Ok(());
        }
        let member =
            consumer.and_then(|consumer| sharing.members.get_mut(consumer)).ok_or(GroupError::Fenced)?;
        if !member.owned.contains(&partition) {
            return Err(GroupError::Fenced);
        }
        member.expires = now + GROUP_SESSION_MS;
        Ok(())
    }

    fn commit(&mut self, ticket: Ticket, position: Position, offset: i64) -> Vec<Action> {
        let key = serde_json::to_vec(&position).expect("plain data");
        let value = serde_json::to_vec(&Finished { offset }).expect("plain data");
        self.pending.insert(ticket, Pending::Commit { position, offset });
        vec![Action::Append { ticket, records: vec![(key, Some(value))] }]
    }

    fn deletable(&mut self, now: Mono, group: &GroupId) -> Result<Vec<Position>, GroupError> {
        for ((name, _), sharing) in &mut self.sharing {
            sharing.expire(now);
            if name == group && !sharing.members.is_empty() {
                return Err(GroupError::NotEmpty);
            }
        }
        let keys: Vec<_> = self.positions(group).map(|(position, _)| position.clone()).collect();
        if keys.is_empty() { Err(GroupError::NotFound) } else { Ok(keys) }
    }

    fn delete(&mut self, ticket: Ticket, group: GroupId, keys: Vec<Position>) -> Vec<Action> {
        self.pending.insert(ticket, Pending::Delete { group });
        let records = keys.iter().map(|key| (serde_json::to_vec(key).expect("plain data"), None)).collect();
        vec![Action::Append { ticket, records }]
    }

    fn appended(&mut self, ticket: Ticket, committed: Option<Offset>) -> Vec<Action> {
        let Some(pending) = self.pending.remove(&ticket) else { return vec![] };
        let result = match (pending, committed) {
            (_, None) => Err(GroupError::Unknown),
            (Pending::Commit { position, offset }, Some(at)) => {
                // Two commits of one position may be reported in either order; the log's order is what a failover keeps.
                let newest = self.finished.entry(position).or_insert((offset, at));
                if at >= newest.1 {
                    *newest = (offset, at);
                }
                Ok(GroupReply::Committed { offset })
            }
            (Pending::Delete { group }, Some(_)) => {
                self.finished.retain(|position, _| position.0 != Reader::Group(group.clone()));
                self.sharing.retain(|(name, _), _| *name != group);
                Ok(GroupReply::Done)
            }
        };
        vec![Action::Reply { ticket, result }]
    }

    fn positions(&self, group: &GroupId) -> impl Iterator<Item = (&Position, i64)> {
        let reader = Reader::Group(group.clone());
        self.finished
            .iter()
            .filter(move |(position, _)| position.0 == reader)
            .map(|(key, (offset, _))| (key, *offset))
    }

    fn names(&self) -> Vec<GroupId> {
        let stored = self.finished.keys().filter_map(|position| match &position.0 {
            Reader::Group(group) => Some(group.clone()),
            Reader::Consumer(_) | Reader::Anonymous => None,
        });
        let live = self.sharing.iter().filter(|(_, sharing)| !sharing.members.is_empty());
        let names: BTreeSet<_> = stored.chain(live.map(|((group, _), _)| group.clone())).collect();
        names.into_iter().collect()
    }

    fn describe(&mut self, now: Mono, group: &GroupId) -> Result<GroupReply, GroupError> {
        let mut members: BTreeMap<ConsumerId, GroupMember> = BTreeMap::new();
        for ((name, topic), sharing) in &mut self.sharing {
            sharing.expire(now);
            for (consumer, member) in sharing.members.iter().filter(|_| name == group) {
                let entry = members.entry(consumer.clone()).or_insert_with(|| GroupMember {
                    consumer: consumer.clone(),
                    assigned: vec![],
                    expires_in_ms: 0,
                });
                entry.assigned.extend(member.owned.iter().map(|partition| (*topic, *partition)));
                entry.expires_in_ms = entry.expires_in_ms.max(member.expires.saturating_sub(now));
            }
        }
        let committed: Vec<_> = self.positions(group).map(|(key, offset)| (key.1, key.2, offset)).collect();
        if members.is_empty() && committed.is_empty() {
            return Err(GroupError::NotFound);
        }
        Ok(GroupReply::Described(GroupDescription { members: members.into_values().collect(), committed }))
    }
}

impl Sharing {
    fn expire(&mut self, now: Mono) {
        let before = self.members.len();
        self.members.retain(|_, member| member.expires > now);
        self.epoch += u64::from(self.members.len() != before);
    }

    fn admit(&mut self, consumer: ConsumerId) {
        self.joined += 1;
        self.epoch += 1;
        let member = Member { seniority: self.joined, expires: 0, owned: BTreeSet::new() };
        self.members.insert(consumer, member);
    }

    /// Renews a session, and moves this member towards its fair share: it gives back what is too much and takes what is
    /// free. Nobody else's partitions are touched.
    fn renew(&mut self, consumer: &ConsumerId, now: Mono, partitions: u32) {
        let share = self.share(consumer, partitions);
        let taken: BTreeSet<u32> =
            self.members.values().flat_map(|member| member.owned.iter().copied()).collect();
        let member = self.members.get_mut(consumer).expect("admitted before");
        member.expires = now + GROUP_SESSION_MS;
        while member.owned.len() > share {
            member.owned.pop_last();
        }
        let free = (0..partitions).filter(|no| !taken.contains(no));
        let missing = share - member.owned.len();
        member.owned.extend(free.take(missing));
    }

    fn share(&self, consumer: &ConsumerId, partitions: u32) -> usize {
        let count = self.members.len();
        let total = usize::try_from(partitions).expect("partitions are few");
        let seniority = self.members[consumer].seniority;
        let seniors = self.members.values().filter(|member| member.seniority < seniority).count();
        total / count + usize::from(seniors < total % count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use uuid::Uuid;

    const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

    fn group() -> GroupId {
        GroupId::try_from("g").unwrap()
    }

    fn join(groups: &mut Groups, now: Mono, consumer: &str, partitions: u32) -> Result<Vec<u32>, GroupError> {
        let request = GroupRequest::Join {
            reader: Reader::Group(group()),
            consumer: Some(ConsumerId::try_from(consumer).unwrap()),
            topic: TOPIC,
            partitions,
            standby: false,
        };
        let mut actions = groups.step(now, Input::Request { ticket: Ticket(1), request });
        match actions.remove(0) {
            Action::Reply { result: Ok(GroupReply::Joined { partitions, .. }), .. } => {
                Ok(partitions.into_iter().map(|(no, _)| no).collect())
            }
            Action::Reply { result: Err(error), .. } => Err(error),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn commit(groups: &mut Groups, now: Mono, consumer: Option<&str>, offset: i64) -> Vec<Action> {
        let request = GroupRequest::Commit {
            reader: Reader::Group(group()),
            consumer: consumer.map(|name| ConsumerId::try_from(name).unwrap()),
            topic: TOPIC,
            partition: 0,
            offset,
        };
        groups.step(now, Input::Request { ticket: Ticket(2), request })
    }

    #[test]
    fn one_partition_has_one_consumer_until_its_session_ends() {
        let mut groups = Groups::new();
        assert_eq!(join(&mut groups, 0, "a", 1), Ok(vec![0]));
        assert_eq!(join(&mut groups, 5, "b", 1), Err(GroupError::Busy));
        assert_eq!(join(&mut groups, GROUP_SESSION_MS, "b", 1), Ok(vec![0]));
        assert_eq!(join(&mut groups, GROUP_SESSION_MS + 1, "a", 1), Err(GroupError::Busy));
    }

    #[test]
    fn a_partition_moves_only_after_its_owner_has_taken_note() {
        let mut groups = Groups::new();
        assert_eq!(join(&mut groups, 0, "a", 4), Ok(vec![0, 1, 2, 3]));
        assert_eq!(join(&mut groups, 1, "b", 4), Ok(vec![]));
        assert_eq!(join(&mut groups, 2, "a", 4), Ok(vec![0, 1]));
        assert_eq!(join(&mut groups, 3, "b", 4), Ok(vec![2, 3]));
    }

    #[test]
    fn a_commit_is_answered_and_seen_only_once_it_is_committed() {
        let mut groups = Groups::new();
        join(&mut groups, 0, "a", 1).unwrap();
        let appended = commit(&mut groups, 1, Some("a"), 41);
        assert!(matches!(&appended[..], [Action::Append { .. }]), "{appended:?}");
        assert_eq!(groups.finished(&Reader::Group(group()), TOPIC, 0), -1);
        let done = groups.step(2, Input::Appended { ticket: Ticket(2), committed: Some(0) });
        assert_eq!(
            done,
            vec![Action::Reply { ticket: Ticket(2), result: Ok(GroupReply::Committed { offset: 41 }) }]
        );
        assert_eq!(groups.finished(&Reader::Group(group()), TOPIC, 0), 41);
    }

    #[test]
    fn of_two_commits_the_later_one_in_the_log_stays_whichever_is_reported_first() {
        let mut groups = Groups::new();
        for (ticket, offset) in [(7, 41), (8, 50)] {
            let request = GroupRequest::Commit {
                reader: Reader::Group(group()),
                consumer: None,
                topic: TOPIC,
                partition: 0,
                offset,
            };
            groups.step(0, Input::Request { ticket: Ticket(ticket), request });
        }
        groups.step(1, Input::Appended { ticket: Ticket(8), committed: Some(11) });
        groups.step(1, Input::Appended { ticket: Ticket(7), committed: Some(10) });
        assert_eq!(groups.finished(&Reader::Group(group()), TOPIC, 0), 50);
    }

    #[test]
    fn groups_that_nobody_reads_for_any_more_take_no_memory() {
        let mut groups = Groups::new();
        join(&mut groups, 0, "a", 1).unwrap();
        assert_eq!(groups.sharing.len(), 1);
        commit(&mut groups, 2 * GROUP_SESSION_MS, Some("late"), 3);
        assert!(groups.sharing.is_empty());
    }

    /// 30: whoever does not own the partition (any more) can't commit.
    #[test]
    fn zombie_consumer_commit() {
        let mut groups = Groups::new();
        join(&mut groups, 0, "a", 1).unwrap();
        for stranger in [Some("b"), None] {
            let refused = commit(&mut groups, 1, stranger, 3);
            assert!(matches!(refused[0], Action::Reply { result: Err(GroupError::Fenced), .. }));
        }
    }

    #[test]
    fn a_replayed_log_gives_back_the_positions() {
        let mut groups = Groups::new();
        let [Action::Append { records, .. }] = &commit(&mut groups, 0, None, 9)[..] else {
            panic!("no append")
        };
        let mut next = Groups::new();
        next.replay(&records[0].0, records[0].1.as_deref());
        assert_eq!(next.finished(&Reader::Group(group()), TOPIC, 0), 9);
        next.replay(&records[0].0, None);
        assert_eq!(next.finished(&Reader::Group(group()), TOPIC, 0), -1);
    }
}
