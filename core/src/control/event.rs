//! What there is to tell of a broker's control plane: its own elections, and what changes from image to image.

use super::image::{BrokerEntry, BrokerState, Image, PartitionEntry, TopicConfig, TopicEntry};
use crate::ids::{BrokerId, ControllerEpoch, LeaderEpoch, TopicId, TopicName};
use crate::limits::EVENTS_PER_IMAGE_MAX;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something to log, count and show; never acted on. Each broker tells what it saw itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An election round began here.
    ElectionStarted,
    /// A broker is controller: this one, which committed its barrier, or another one that this one follows.
    ControllerElected {
        /// Who.
        broker: BrokerId,
        /// Its epoch.
        epoch: ControllerEpoch,
    },
    /// This broker stopped being controller.
    ControllerResigned {
        /// This broker.
        broker: BrokerId,
        /// Its epoch.
        epoch: ControllerEpoch,
        /// Why.
        reason: String,
    },
    /// The controller here heard nothing of a broker for too long.
    BrokerSilent {
        /// Who.
        broker: BrokerId,
    },
    /// A broker's process was admitted; it is fenced until it has caught up.
    BrokerRegistered {
        /// Who.
        broker: BrokerId,
        /// Whether it came with another volume than it had: it left every ISR.
        volume_replaced: bool,
    },
    /// A broker runs on an older copy of its volume: it left every ISR, and votes no more.
    BrokerRolledBack {
        /// Who.
        broker: BrokerId,
    },
    /// A broker is taken for silent, or leaves.
    BrokerFenced {
        /// Who.
        broker: BrokerId,
    },
    /// A broker is alive and up to date.
    BrokerActive {
        /// Who.
        broker: BrokerId,
    },
    /// A broker is being emptied.
    BrokerDraining {
        /// Who.
        broker: BrokerId,
    },
    /// A topic was created.
    TopicCreated {
        /// Its name.
        topic: TopicName,
        /// Its identity.
        topic_id: TopicId,
        /// Number of partitions.
        partitions: usize,
        /// Copies of each record.
        replication_factor: u32,
    },
    /// A topic's settings were changed, or partitions were added.
    TopicAltered {
        /// Its name.
        topic: TopicName,
        /// Its identity.
        topic_id: TopicId,
        /// Names of the settings that are others now.
        changed: Vec<String>,
    },
    /// A topic was deleted.
    TopicDeleted {
        /// Its name.
        topic: TopicName,
        /// Its identity.
        topic_id: TopicId,
    },
    /// A partition's leadership moved.
    LeaderChanged {
        /// The topic.
        topic: TopicName,
        /// Which partition.
        partition: u32,
        /// Who leads it now.
        leader: Option<BrokerId>,
        /// Who did before.
        before: Option<BrokerId>,
        /// In which term.
        leader_epoch: LeaderEpoch,
    },
    /// A partition's in-sync replicas changed.
    IsrChanged {
        /// The topic.
        topic: TopicName,
        /// Which partition.
        partition: u32,
        /// The members now.
        isr: Vec<BrokerId>,
        /// Who came.
        joined: Vec<BrokerId>,
        /// Who went.
        left: Vec<BrokerId>,
        /// Why the last of these went, or came if none did.
        cause: IsrCause,
    },
    /// A partition's replicas changed, or are about to.
    ReplicasChanged {
        /// The topic.
        topic: TopicName,
        /// Which partition.
        partition: u32,
        /// Who holds it.
        replicas: Vec<BrokerId>,
        /// Who is being added.
        adding: Vec<BrokerId>,
        /// Who will be dropped.
        removing: Vec<BrokerId>,
    },
    /// An image changed more than is told one by one.
    MoreChanged {
        /// How many events are left out.
        count: usize,
    },
}

/// Why in-sync replicas changed, as two images tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsrCause {
    /// A replica caught up with the leader.
    CaughtUp,
    /// A replica's broker is fenced: silent, leaving, or just started again.
    Fenced,
    /// A replica did not keep up with the leader, though its broker is alive.
    Lagged,
    /// A replica's broker came back without what it held.
    VolumeReplaced,
    /// A replica was moved away.
    Moved,
    /// A replica outside of the ISR leads; what it lacks is lost.
    UncleanElection,
}

/// Returns what changed from one image to a later one, a bounded number of events.
pub(super) fn differences(old: &Image, new: &Image) -> Vec<Event> {
    let mut events = Vec::new();
    for (id, entry) in &new.brokers {
        broker_events(*id, old.brokers.get(id), entry, &mut events);
    }
    for (id, entry) in &new.topics {
        match old.topics.get(id) {
            None => events.push(Event::TopicCreated {
                topic: entry.name.clone(),
                topic_id: *id,
                partitions: entry.partitions.len(),
                replication_factor: entry.config.replication_factor,
            }),
            // Topics that no operation touched are shared by both images.
            Some(before) if Arc::ptr_eq(before, entry) || before == entry => {}
            Some(before) => topic_events((old, new), *id, (before, entry), &mut events),
        }
    }
    let deleted = old.topics.iter().filter(|(id, _)| !new.topics.contains_key(id));
    events
        .extend(deleted.map(|(id, entry)| Event::TopicDeleted { topic: entry.name.clone(), topic_id: *id }));
    if events.len() > EVENTS_PER_IMAGE_MAX {
        let count = events.len() - (EVENTS_PER_IMAGE_MAX - 1);
        events.truncate(EVENTS_PER_IMAGE_MAX - 1);
        events.push(Event::MoreChanged { count });
    }
    events
}

fn broker_events(
    broker: BrokerId,
    before: Option<&BrokerEntry>,
    entry: &BrokerEntry,
    events: &mut Vec<Event>,
) {
    let registered = before.is_none_or(|before| before.broker_epoch != entry.broker_epoch);
    if registered {
        let volume_replaced = before.is_some_and(|before| before.storage_id != entry.storage_id);
        events.push(Event::BrokerRegistered { broker, volume_replaced });
    }
    let known = before.is_some_and(|before| before.rolled_back && before.storage_id == entry.storage_id);
    if entry.rolled_back && !known {
        events.push(Event::BrokerRolledBack { broker });
    }
    if before.is_some_and(|before| before.state == entry.state) {
        return;
    }
    match entry.state {
        // Being fenced at first belongs to being registered.
        BrokerState::Fenced if registered => {}
        BrokerState::Fenced => events.push(Event::BrokerFenced { broker }),
        BrokerState::Active => events.push(Event::BrokerActive { broker }),
        BrokerState::Draining => events.push(Event::BrokerDraining { broker }),
    }
}

fn topic_events(
    images: (&Image, &Image),
    topic_id: TopicId,
    (before, entry): (&TopicEntry, &TopicEntry),
    events: &mut Vec<Event>,
) {
    let mut changed = changed_settings(&before.config, &entry.config);
    if entry.partitions.len() != before.partitions.len() {
        changed.push("partitions".to_owned());
    }
    if !changed.is_empty() {
        events.push(Event::TopicAltered { topic: entry.name.clone(), topic_id, changed });
    }
    for (partition, (before, now)) in (0..).zip(before.partitions.iter().zip(&entry.partitions)) {
        partition_events(images, (&entry.name, partition), (before, now), events);
    }
}

/// Returns the names of settings that differ, as they are called in the API.
fn changed_settings(old: &TopicConfig, new: &TopicConfig) -> Vec<String> {
    let named = [
        ("replication_factor", old.replication_factor != new.replication_factor),
        ("min_isr", old.min_isr != new.min_isr),
        ("retention_ms", old.retention_ms != new.retention_ms),
        ("retention_bytes", old.retention_bytes != new.retention_bytes),
        ("compact", old.compact != new.compact),
        ("max_record_bytes", old.max_record_bytes != new.max_record_bytes),
        ("unclean_election", old.unclean_election != new.unclean_election),
        ("owner", old.owner != new.owner),
    ];
    named.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

fn partition_events(
    (old, new): (&Image, &Image),
    (topic, partition): (&TopicName, u32),
    (before, now): (&PartitionEntry, &PartitionEntry),
    events: &mut Vec<Event>,
) {
    let topic = || topic.clone();
    let lists = |entry: &PartitionEntry| [&entry.replicas, &entry.adding, &entry.removing].map(Clone::clone);
    if lists(before) != lists(now) {
        let [replicas, adding, removing] = lists(now);
        events.push(Event::ReplicasChanged { topic: topic(), partition, replicas, adding, removing });
    }
    if before.isr != now.isr {
        let without = |some: &[BrokerId], others: &[BrokerId]| -> Vec<_> {
            some.iter().copied().filter(|id| !others.contains(id)).collect()
        };
        let (joined, left) = (without(&now.isr, &before.isr), without(&before.isr, &now.isr));
        let cause = isr_cause((old, new), before, now, left.last().copied());
        let isr = now.isr.clone();
        events.push(Event::IsrChanged { topic: topic(), partition, isr, joined, left, cause });
    }
    if (before.leader, before.leader_epoch) != (now.leader, now.leader_epoch) {
        events.push(Event::LeaderChanged {
            topic: topic(),
            partition,
            leader: now.leader,
            before: before.leader,
            leader_epoch: now.leader_epoch,
        });
    }
}

fn isr_cause(
    (old, new): (&Image, &Image),
    before: &PartitionEntry,
    now: &PartitionEntry,
    left: Option<BrokerId>,
) -> IsrCause {
    let changed_leader = now.leader_epoch != before.leader_epoch;
    if now.leader.is_some_and(|leader| changed_leader && !before.isr.contains(&leader)) {
        return IsrCause::UncleanElection;
    }
    let Some(left) = left else { return IsrCause::CaughtUp };
    let volume = |image: &Image| image.brokers.get(&left).map(|entry| entry.storage_id);
    let rolled_back = |image: &Image| image.brokers.get(&left).is_some_and(|entry| entry.rolled_back);
    if volume(old) != volume(new) || rolled_back(new) && !rolled_back(old) {
        IsrCause::VolumeReplaced
    } else if !now.replicas.contains(&left) {
        IsrCause::Moved
    } else if new.is_alive(left) {
        IsrCause::Lagged
    } else {
        IsrCause::Fenced
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture;
    use crate::control::fixture::{b, done};
    use crate::control::image::Op;
    use crate::control::policy::{self, Lapses};
    use crate::ids::StorageId;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    fn with_topic() -> Image {
        done(&fixture::image(3), &[fixture::add_topic("a", 1, &[1, 2])])
    }

    fn set(image: &Image, change: impl Fn(&mut PartitionEntry)) -> Image {
        let (partition, _, entry) = image.partitions().next().unwrap();
        let mut entry = entry.clone();
        change(&mut entry);
        done(image, &[Op::SetPartition { partition, entry }])
    }

    fn kinds(events: &[Event]) -> Vec<String> {
        let kind = |event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        events.iter().map(kind).collect()
    }

    fn causes(events: &[Event]) -> Vec<IsrCause> {
        let cause = |event: &Event| match event {
            Event::IsrChanged { cause, .. } => Some(*cause),
            _ => None,
        };
        events.iter().filter_map(cause).collect()
    }

    #[test]
    fn a_topics_life_is_told() {
        let none = fixture::image(3);
        let made = with_topic();
        assert_eq!(kinds(&differences(&none, &made)), ["topic_created"]);
        let id = *made.topics.keys().next().unwrap();
        let config = TopicConfig { retention_ms: Some(1), ..fixture::config(2, 1) };
        let altered = done(&made, &[Op::SetTopicConfig { id, config }]);
        let told = differences(&made, &altered);
        let changed = |event: &Event| matches!(event, Event::TopicAltered { changed, .. } if changed == &["retention_ms"]);
        assert!(told.len() == 1 && changed(&told[0]), "{told:?}");
        let gone = done(&altered, &[Op::DeleteTopic { id }]);
        assert_eq!(kinds(&differences(&altered, &gone)), ["topic_deleted"]);
        assert_eq!(differences(&gone, &gone), []);
    }

    #[test]
    fn what_a_lost_broker_leads_to_is_told_with_its_cause() {
        let image = with_topic();
        let fenced = done(&image, &policy::fence(&image, &BTreeSet::from([b(1)]), Lapses::default()));
        let told = differences(&image, &fenced);
        assert_eq!(kinds(&told), ["broker_fenced", "isr_changed", "leader_changed"]);
        assert_eq!(causes(&told), [IsrCause::Fenced]);
        let back = done(&fenced, &[policy::unfence(&fenced, b(1)).unwrap()]);
        assert_eq!(kinds(&differences(&fenced, &back)), ["broker_active"]);
        let synced = set(&back, |entry| entry.isr = vec![b(1), b(2)]);
        assert_eq!(causes(&differences(&back, &synced)), [IsrCause::CaughtUp]);
    }

    #[test]
    fn causes_of_leaving_the_isr_are_told_apart() {
        let image = with_topic();
        let lagged = set(&image, |entry| entry.isr = vec![b(1)]);
        assert_eq!(causes(&differences(&image, &lagged)), [IsrCause::Lagged]);
        let moved = set(&image, |entry| (entry.isr, entry.replicas) = (vec![b(1)], vec![b(1)]));
        assert_eq!(causes(&differences(&image, &moved)), [IsrCause::Moved]);
        let mut wiped = lagged.clone();
        wiped.brokers.get_mut(&b(2)).unwrap().storage_id = StorageId(Uuid::from_u128(5));
        assert_eq!(causes(&differences(&image, &wiped)), [IsrCause::VolumeReplaced]);
        let unclean = set(&lagged, |entry| policy::lead(entry, Some(b(2))));
        assert_eq!(causes(&differences(&lagged, &unclean)), [IsrCause::UncleanElection]);
    }

    #[test]
    fn the_events_of_one_image_are_bounded_and_what_is_left_out_is_counted() {
        let none = fixture::image(1);
        let many: Vec<_> = (0..EVENTS_PER_IMAGE_MAX + 5)
            .map(|number| {
                let Op::AddTopic { entry, .. } = fixture::add_topic("a", 1, &[1]) else { panic!("a topic") };
                let name = TopicName::try_from(format!("t{number}").as_str()).unwrap();
                let id = TopicId(Uuid::from_u128(number.try_into().unwrap()));
                Op::AddTopic { id, entry: Arc::new(TopicEntry { name, ..TopicEntry::clone(&entry) }) }
            })
            .collect();
        let told = differences(&none, &done(&none, &many));
        assert_eq!((told.len(), told.last()), (EVENTS_PER_IMAGE_MAX, Some(&Event::MoreChanged { count: 6 })));
    }

    #[test]
    fn events_survive_being_stored() {
        for event in differences(&fixture::image(3), &with_topic()) {
            let text = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        }
    }
}
