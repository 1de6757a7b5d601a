//! What each request does to the groups of one coordinator.

use super::super::membership::{Joining, Membership};
use super::super::records::{Finished, Position};
use super::super::{GroupDescription, GroupError, GroupMember, GroupReply, GroupRequest, Reader};
use super::Groups;
use crate::Mono;
use crate::control::Weakening;
use crate::ids::{ConsumerId, GroupId, TopicId};
use crate::limits::{GROUP_SESSION_MS, PARTITIONS_MAX};
use std::collections::BTreeMap;

impl Groups {
    pub(super) fn request(&mut self, now: Mono, request: GroupRequest) -> Result<GroupReply, GroupError> {
        match request {
            GroupRequest::Join {
                reader: Reader::Group(group),
                consumer,
                topic,
                partitions,
                standby,
                held,
                anew,
            } => {
                let (consumer, held) = (&consumer.ok_or(GroupError::ConsumerRequired)?, held.as_ref());
                self.join(now, group, &Joining { consumer, topic, partitions, standby, held, anew })
            }
            GroupRequest::Join { reader, consumer, topic, partitions, .. } => {
                let all = (0..partitions.min(PARTITIONS_MAX)).collect();
                Ok(self.joined(0, &reader, (topic, consumer.as_ref()), all))
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
                let finished = Finished { offset, member_epoch: epoch, by: consumer };
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
            GroupRequest::Reset { group, positions } => self.reset(now, &group, positions),
        }
    }

    /// Returns the answer to who joined: where it stands in the partitions that it may read.
    fn joined(
        &self,
        member_epoch: u64,
        reader: &Reader,
        (topic, consumer): (TopicId, Option<&ConsumerId>),
        given: Vec<u32>,
    ) -> GroupReply {
        let other = |no: &u32| self.positions.is_by_other(reader, topic, *no, consumer);
        let by_others = given.iter().copied().filter(other).collect();
        let partitions = given.into_iter().map(|no| (no, self.positions.get(reader, topic, no))).collect();
        GroupReply::Joined { member_epoch, partitions, by_others, session_timeout_ms: GROUP_SESSION_MS }
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
        let of = (joining.topic, Some(joining.consumer));
        Ok(self.joined(member_epoch, &Reader::Group(group), of, joined?))
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
        if self.without(Weakening::FencedCommits) {
            return Ok(self.groups.get(group).map_or(0, |membership| membership.epoch));
        }
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

    fn reset(
        &mut self,
        now: Mono,
        group: &GroupId,
        positions: Vec<(TopicId, u32, i64)>,
    ) -> Result<GroupReply, GroupError> {
        let reads = |(topic, ..): &(TopicId, u32, i64), membership: &Membership| {
            membership.topics.contains_key(topic)
        };
        let live = self.expired(now, group).map(|(membership, _)| &*membership);
        let is_read = live.is_some_and(|membership| positions.iter().any(|place| reads(place, membership)));
        let exists = live.is_some_and(|membership| !membership.is_empty());
        self.note_change(group);
        if is_read {
            return Err(GroupError::NotEmpty);
        }
        if !exists && self.positions.of(group).is_empty() {
            return Err(GroupError::NotFound);
        }
        for (topic, partition, offset) in positions {
            let position = Position(Reader::Group(group.clone()), topic, partition);
            let record = self.positions.set(position, Finished { offset, member_epoch: 0, by: None });
            self.next.records.push(record);
        }
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
