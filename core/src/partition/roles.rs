//! Obeying images: who leads, who follows, what is kept and what may be deleted.

use super::leader::{self, Leading, Progress};
use super::replica::{Part, Replica};
use super::{Action, AppendError, Replicas};
use crate::control::Weakening;
use crate::control::image::{BrokerState, Image, PartitionEntry, TopicEntry};
use crate::ids::{BrokerId, LeaderEpoch, TopicId, TopicPartition};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Replicas {
    /// Obeys a committed image, if it is about this process.
    pub(super) fn obey(&mut self, image: Arc<Image>) {
        if self.image.as_ref().is_some_and(|known| known.at >= image.at) {
            return;
        }
        let mine = image.brokers.get(&self.config.me).filter(|entry| entry.run_id == self.config.run_id);
        let Some(mine) = mine.map(|entry| entry.broker_epoch) else {
            // Before registration there is nothing to do yet; afterwards a newer process has this id, and this one may
            // not serve any more.
            if self.registered.take().is_some() {
                let all: Vec<_> = self.replicas.keys().copied().collect();
                all.into_iter().for_each(|partition| self.go_offline(partition, None));
                self.image = Some(image);
            }
            return;
        };
        let first = self.registered.replace(mine).is_none();
        let before = self.image.replace(Arc::clone(&image));
        let before = before.filter(|_| !first);
        for (id, topic) in &image.topics {
            let same = before.as_ref().and_then(|before| before.topics.get(id));
            if !same.is_some_and(|same| Arc::ptr_eq(same, topic) || same == topic) {
                self.obey_topic(*id, topic, &image);
            }
        }
        self.forget_unknown_topics(before.as_deref(), &image);
        if before.is_none_or(|before| before.brokers != image.brokers) {
            self.obey_brokers(&image);
        }
    }

    fn obey_topic(&mut self, topic: TopicId, entry: &TopicEntry, image: &Image) {
        for (index, part) in (0_u32..).zip(&entry.partitions) {
            let partition = TopicPartition { topic, partition: index };
            self.obey_partition(partition, part, entry.config.min_isr, image);
        }
    }

    fn obey_partition(
        &mut self,
        partition: TopicPartition,
        entry: &PartitionEntry,
        min_isr: u32,
        image: &Image,
    ) {
        let me = self.config.me;
        if !placed(entry).contains(&me) {
            self.go_offline(partition, entry.leader);
            return;
        }
        let mine = self.replicas.entry(partition).or_default();
        let resumes = self.rules.without(Weakening::ResumeLeaderEpoch)
            && mine.leading().is_none()
            && entry.leader_epoch == mine.log.leader_epoch;
        let (known, leads) = (mine.log.leader_epoch, mine.leading().is_some());
        if entry.leader == Some(me) && (entry.leader_epoch > known || resumes) {
            self.lead(partition, entry, min_isr, image);
        } else if leads && entry.leader == Some(me) && entry.leader_epoch == known {
            self.learn(partition, entry, min_isr, image);
        } else {
            if leads || matches!(mine.part, Part::Offline) {
                self.set_part(partition, Part::Follower, entry.leader);
            }
            if entry.leader_epoch > known {
                self.adopt(partition, entry.leader_epoch);
            }
        }
    }

    /// Begins a term. R4: only ever with a leader epoch above all that were known before.
    fn lead(&mut self, partition: TopicPartition, entry: &PartitionEntry, min_isr: u32, image: &Image) {
        self.set_part(partition, Part::Follower, Some(self.config.me));
        self.adopt(partition, entry.leader_epoch);
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        replica.leader_seen = None;
        replica.part = Part::Leader(Box::new(Leading::new(&replica.log, entry, min_isr)));
        self.learn(partition, entry, min_isr, image);
    }

    /// Learns a partition's state in an image that leaves the term as it is.
    fn learn(&mut self, partition: TopicPartition, entry: &PartitionEntry, min_isr: u32, image: &Image) {
        let me = self.config.me;
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        leading.learn(entry, min_isr, image);
        let wanted: BTreeSet<BrokerId> = placed(entry).into_iter().filter(|id| *id != me).collect();
        let gone: Vec<_> = leading.followers.keys().filter(|id| !wanted.contains(id)).copied().collect();
        let mut fresh = Vec::new();
        for id in wanted {
            let found = leader::registration(image, id);
            let known = leading.followers.get_mut(&id);
            match known {
                // Another process, perhaps with another volume: nothing is known of its log.
                Some(progress) if progress.registration == found.map(|found| found.0) => {
                    let state = found.map(|found| found.1);
                    progress.fenced = state.is_none_or(|state| state == BrokerState::Fenced);
                    progress.active = !progress.fenced;
                }
                Some(_) | None => fresh.push((id, found, log.end)),
            }
        }
        for id in gone {
            self.drop_follower(partition, id);
        }
        for (id, found, end) in fresh {
            self.drop_follower(partition, id);
            let progress = Progress::new(found, end, self.keep_alive_after(self.now));
            self.add_follower(partition, id, progress);
        }
        self.watch_members(partition);
        self.touched.insert(partition);
        self.seen.insert(partition);
    }

    /// Looks at all led partitions again because brokers changed state or registration.
    fn obey_brokers(&mut self, image: &Image) {
        let led: Vec<_> =
            self.replicas.iter().filter(|(_, mine)| mine.leading().is_some()).map(|(id, _)| *id).collect();
        for partition in led {
            let Some(topic) = image.topics.get(&partition.topic) else { continue };
            let entry =
                usize::try_from(partition.partition).ok().and_then(|index| topic.partitions.get(index));
            let known = self.replicas.get(&partition).map(|mine| mine.log.leader_epoch);
            if let Some(entry) = entry.filter(|entry| Some(entry.leader_epoch) == known) {
                self.learn(partition, entry, topic.config.min_isr, image);
            }
        }
    }

    /// T1: only a tombstone licenses deletion; data of a topic that is merely missing is kept, out of use.
    fn forget_unknown_topics(&mut self, before: Option<&Image>, image: &Image) {
        let missing = |id: &TopicId| !image.topics.contains_key(id);
        let suspects: BTreeSet<TopicId> = match before {
            Some(before) => {
                let dead = image.tombstones.keys().filter(|id| !before.tombstones.contains_key(id));
                before.topics.keys().chain(dead).filter(|id| missing(id)).copied().collect()
            }
            None => self.replicas.keys().map(|id| id.topic).filter(missing).collect(),
        };
        for topic in suspects {
            let range =
                TopicPartition { topic, partition: 0 }..=TopicPartition { topic, partition: u32::MAX };
            let held: Vec<_> = self.replicas.range(range).map(|(partition, _)| *partition).collect();
            for partition in held {
                self.go_offline(partition, None);
                if image.tombstones.contains_key(&topic) {
                    self.replicas.remove(&partition);
                    self.moved.remove(&partition);
                    self.writes.stage_delete(partition);
                }
            }
        }
    }

    pub(super) fn go_offline(&mut self, partition: TopicPartition, leader: Option<BrokerId>) {
        if self.replicas.get(&partition).is_some_and(|mine| !matches!(mine.part, Part::Offline)) {
            self.set_part(partition, Part::Offline, leader);
        }
    }

    /// Changes what a replica does. Of a leader's publishers, those whose records are in the log can't be told whether
    /// they are kept; those whose records are not were definitely refused.
    pub(super) fn set_part(&mut self, partition: TopicPartition, part: Part, leader: Option<BrokerId>) {
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        let old = std::mem::replace(&mut replica.part, part);
        self.seen.insert(partition);
        let Part::Leader(old) = old else { return };
        self.tail_bytes -= old.tail.bytes();
        for waiting in old.waiting_all.into_iter().chain(old.waiting_leader) {
            self.out.rest.push(Action::Acked { ticket: waiting.ticket, result: Err(AppendError::Unknown) });
        }
        let asking = old.confirming.into_iter();
        self.out.rest.extend(asking.map(|who| Action::Confirmed { ticket: who.ticket, leads: false }));
        let gathered = self.gathered.remove(&partition).into_iter().flat_map(|gathered| gathered.appends);
        for append in gathered {
            let result = Err(AppendError::NotLeader { leader });
            self.out.rest.push(Action::Acked { ticket: append.ticket, result });
        }
        for (id, progress) in old.followers {
            self.behind.remove(&(partition, id));
            self.release_load(partition, id, &progress.load);
        }
    }

    /// Adopts a leader epoch: from now on items of older leaders are refused.
    pub(super) fn adopt(&mut self, partition: TopicPartition, epoch: LeaderEpoch) {
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        let write = self.writes.stage(partition, &mut replica.log);
        if self.rules.without(Weakening::TruncateToHighWatermark) {
            let high_watermark = replica.log.high_watermark;
            if high_watermark < replica.log.end {
                write.truncate_to = Some(high_watermark);
                replica.log.truncate(self.writes.id(), high_watermark);
            }
        }
        replica.log.leader_epoch = epoch;
        replica.alarmed = false;
        self.seen.insert(partition);
    }
}

/// Returns every broker that holds or is to hold the partition.
pub(super) fn placed(entry: &PartitionEntry) -> BTreeSet<BrokerId> {
    entry.replicas.iter().chain(&entry.adding).copied().collect()
}
