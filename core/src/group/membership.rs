//! The members of one group: who reads which partition, since which epoch, and who is to read it next.
//!
//! Every change of members or partitions begins a new epoch with a new target. A partition goes to the member that it is
//! meant for only once the one that has it gave it up, or its session ended (G1). Source: KIP-848.

use super::assignor::assign;
use super::{GroupError, Held};
use crate::Mono;
use crate::ids::{ConsumerId, TopicId};
use crate::limits::{GROUP_RECORD_BYTES_MAX, GROUP_SESSION_MS, PARTITIONS_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A group that has members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    /// Grows with each change of members or partitions, and never begins again for a name.
    #[serde(rename = "group_epoch")]
    pub(super) epoch: u64,
    pub(super) topics: BTreeMap<TopicId, Sharing>,
    /// Whether the record of this group is older than this.
    #[serde(skip)]
    pub(super) changed: bool,
}

/// The members that share one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sharing {
    partitions: u32,
    pub(super) members: BTreeMap<ConsumerId, Member>,
    /// Who is to read each partition.
    target: BTreeMap<u32, ConsumerId>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// The group's epoch when it joined: earlier members come first.
    epoch: u64,
    /// What it may read, with the epoch since when.
    pub(super) assigned: BTreeMap<u32, u64>,
    /// When its session ends.
    #[serde(skip)]
    pub(super) expires: Mono,
}

/// Who asks to join, or to stay.
#[derive(Clone, Debug)]
pub(super) struct Joining<'a> {
    pub(super) consumer: &'a ConsumerId,
    pub(super) topic: TopicId,
    pub(super) partitions: u32,
    pub(super) standby: bool,
    pub(super) held: Option<&'a Held>,
    pub(super) anew: bool,
}

impl Membership {
    /// Whether nobody is left.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Gives every member a fresh session.
    pub(super) fn restart_sessions(&mut self, now: Mono) {
        let members = self.topics.values_mut().flat_map(|sharing| sharing.members.values_mut());
        members.for_each(|member| member.expires = now + GROUP_SESSION_MS);
    }

    /// Ends sessions that are over. `epochs` is the highest epoch of all groups of the coordinator.
    pub(super) fn expire(&mut self, now: Mono, epochs: &mut u64) {
        self.retain(epochs, |_, _, member| member.expires > now);
    }

    /// Takes a member off a topic, or off all; one that joined again after `member_epoch` stays.
    pub(super) fn leave(
        &mut self,
        (consumer, topic): (&ConsumerId, Option<TopicId>),
        member_epoch: Option<u64>,
        epochs: &mut u64,
    ) {
        self.retain(epochs, |of, name, member| {
            let meant = name == consumer && topic.is_none_or(|topic| topic == of);
            !meant || member_epoch.is_some_and(|epoch| epoch < member.epoch)
        });
    }

    /// Takes everybody off a topic that is deleted.
    pub(super) fn drop_topic(&mut self, topic: TopicId, epochs: &mut u64) {
        self.retain(epochs, |of, _, _| of != topic);
    }

    fn retain(&mut self, epochs: &mut u64, stays: impl Fn(TopicId, &ConsumerId, &Member) -> bool) {
        let mut gone = false;
        for (topic, sharing) in &mut self.topics {
            let before = sharing.members.len();
            sharing.members.retain(|name, member| stays(*topic, name, member));
            if sharing.members.len() != before {
                sharing.aim();
                gone = true;
            }
        }
        if gone {
            self.topics.retain(|_, sharing| !sharing.members.is_empty());
            self.begin_epoch(epochs);
        }
    }

    fn begin_epoch(&mut self, epochs: &mut u64) {
        *epochs += 1;
        self.epoch = *epochs;
        self.changed = true;
    }

    /// Lets a member join, or renews its session and moves it towards its target: it gives up what is meant for others and
    /// takes what is meant for it and free.
    ///
    /// # Errors
    /// [`GroupError::Fenced`] for a member that is not, or not any more, what it holds itself for; [`GroupError::Busy`] when
    /// no partition is left; [`GroupError::Full`]. Nothing changed.
    pub(super) fn join(
        &mut self,
        now: Mono,
        joining: &Joining<'_>,
        epochs: &mut u64,
    ) -> Result<Vec<u32>, GroupError> {
        let Joining { consumer, topic, standby, held, anew, .. } = *joining;
        let partitions = joining.partitions.min(PARTITIONS_MAX);
        let known = self.topics.get(&topic).and_then(|sharing| sharing.members.get(consumer));
        let valid = |epoch| known.is_some_and(|member| (member.epoch..=self.epoch).contains(&epoch));
        if held.is_some_and(|held| !valid(held.member_epoch)) {
            return Err(GroupError::Fenced);
        }
        if known.is_none() {
            let count = self.topics.get(&topic).map_or(0, |sharing| sharing.members.len());
            if !standby && usize::try_from(partitions).is_ok_and(|partitions| count >= partitions) {
                return Err(GroupError::Busy);
            }
            self.admit(consumer, topic, partitions, epochs)?;
        } else if anew {
            self.begin_epoch(epochs);
            self.topics.get_mut(&topic).expect("the member is in it").begin_again(consumer, self.epoch);
        }
        let sharing = self.topics.get_mut(&topic).expect("the member is in it");
        if sharing.partitions < partitions {
            sharing.partitions = partitions;
            sharing.aim();
            self.begin_epoch(epochs);
        }
        let sharing = self.topics.get_mut(&topic).expect("the member is in it");
        let (given, moved) = sharing.renew(now, consumer, held, self.epoch);
        self.changed |= moved;
        Ok(given)
    }

    fn admit(
        &mut self,
        consumer: &ConsumerId,
        topic: TopicId,
        partitions: u32,
        epochs: &mut u64,
    ) -> Result<(), GroupError> {
        let before = self.clone();
        self.begin_epoch(epochs);
        let sharing = self.topics.entry(topic).or_default();
        sharing.partitions = sharing.partitions.max(partitions);
        let member = Member { epoch: self.epoch, assigned: BTreeMap::new(), expires: 0 };
        sharing.members.insert(consumer.clone(), member);
        sharing.aim();
        // What it will be assigned takes as much again as the target at most.
        if serde_json::to_vec(self).expect("plain data").len() > GROUP_RECORD_BYTES_MAX / 2 {
            *self = before;
            return Err(GroupError::Full);
        }
        Ok(())
    }

    /// Returns whether a commit to a partition is its owner's, made since the partition became its own, and renews the
    /// session.
    pub(super) fn owns(
        &mut self,
        now: Mono,
        (consumer, member_epoch): (&ConsumerId, Option<u64>),
        topic: TopicId,
        partition: u32,
    ) -> bool {
        let sharing = self.topics.get_mut(&topic);
        let Some(member) = sharing.and_then(|sharing| sharing.members.get_mut(consumer)) else {
            return false;
        };
        let Some(since) = member.assigned.get(&partition) else { return false };
        let own = member_epoch.is_none_or(|epoch| (*since..=self.epoch).contains(&epoch));
        if own {
            member.expires = now + GROUP_SESSION_MS;
        }
        own
    }
}

impl Sharing {
    /// Sets the target anew. What has an owner is meant for it, else for whom it was meant before.
    fn aim(&mut self) {
        let mut members: Vec<(&ConsumerId, &Member)> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.epoch);
        let owned: BTreeMap<u32, &ConsumerId> = members
            .iter()
            .flat_map(|(name, member)| member.assigned.keys().map(|partition| (*partition, *name)))
            .collect();
        let names: Vec<&ConsumerId> = members.iter().map(|(name, _)| *name).collect();
        let holder = |partition| owned.get(&partition).copied().or_else(|| self.target.get(&partition));
        self.target = assign(self.partitions, &names, holder);
    }

    /// Dates a member and all that it is assigned to `epoch`, so that who had its name before is refused.
    fn begin_again(&mut self, consumer: &ConsumerId, epoch: u64) {
        let member = self.members.get_mut(consumer).expect("it is known");
        member.epoch = epoch;
        member.assigned.values_mut().for_each(|since| *since = epoch);
    }

    /// Returns what a member may read, and whether that changed anything that must be kept.
    fn renew(
        &mut self,
        now: Mono,
        consumer: &ConsumerId,
        held: Option<&Held>,
        epoch: u64,
    ) -> (Vec<u32>, bool) {
        let meant = |partition: u32| self.target.get(&partition) == Some(consumer);
        // A heartbeat tells the member nothing, so that it can neither be given anything nor have taken note.
        let heartbeat = held.is_some_and(|held| held.owned.is_none());
        let owned: Vec<u32> =
            self.members.values().flat_map(|member| member.assigned.keys().copied()).collect();
        let free = (0..self.partitions).filter(|no| meant(*no) && !owned.contains(no));
        let free: Vec<u32> = if heartbeat { vec![] } else { free.collect() };
        let member = self.members.get_mut(consumer).expect("it was admitted");
        member.expires = now + GROUP_SESSION_MS;
        let before = member.assigned.len();
        if !heartbeat {
            // Who does not say what it holds, holds nothing between its requests.
            let holds =
                |no: &u32| held.and_then(|held| held.owned.as_ref()).is_some_and(|all| all.contains(no));
            member.assigned.retain(|no, _| meant(*no) || holds(no));
        }
        let moved = member.assigned.len() != before || !free.is_empty();
        member.assigned.extend(free.into_iter().map(|no| (no, epoch)));
        let given = member.assigned.keys().copied().filter(|no| heartbeat || meant(*no));
        (given.collect(), moved)
    }
}

#[cfg(test)]
mod tests;
