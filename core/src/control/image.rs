//! The metadata image: everything the cluster has agreed on, and the operations that change it.
//!
//! Operations carry results, not requests, so applying them is plain assignment: two software versions can't compute
//! different images from the same operations. Images form one hash chain (invariant M1).

mod broker;

pub use broker::{BrokerEntry, BrokerState};

use crate::ids::{
    At, BrokerId, ClusterId, ControllerEpoch, LeaderEpoch, PartEpoch, RunId, Start, StorageId, TopicId,
    TopicName, TopicPartition, Voter,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// SHA-256 over the previous image's hash, the place of this one and the operations that led here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageHash(pub [u8; 32]);

impl std::fmt::Display for ImageHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<ImageHash> for String {
    fn from(hash: ImageHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for ImageHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err("an image hash is 64 hexadecimal digits");
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| "not hexadecimal")?;
        }
        Ok(Self(hash))
    }
}

/// What the cluster has agreed on at one point of its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The cluster that this image is of.
    pub cluster_id: ClusterId,
    /// Place in history.
    pub at: At,
    /// Hash of the whole history up to here.
    pub hash: ImageHash,
    /// Rises only by an explicit operation once every registered broker can read it.
    pub feature_level: u16,
    /// The brokers, with their volumes, whose majority commits images.
    #[serde(with = "by_broker")]
    pub voters: BTreeMap<BrokerId, StorageId>,
    /// Every broker that ever registered.
    #[serde(with = "by_broker")]
    pub brokers: BTreeMap<BrokerId, BrokerEntry>,
    /// Topics by identity.
    pub topics: BTreeMap<TopicId, Arc<TopicEntry>>,
    /// Deleted topics and the version that deleted them: the only licence to delete a replica's data (T1).
    pub tombstones: BTreeMap<TopicId, u64>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEntry {
    /// Its name; unique among living topics.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Its partitions by index.
    pub partitions: Vec<PartitionEntry>,
}

/// Settings of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// As asked for at creation; `partitions[].replicas` may differ while brokers are missing.
    pub replication_factor: u32,
    /// Fewest in-sync replicas with which a publish with `acks=all` is taken, and the ISR floor.
    pub min_isr: u32,
    /// Delete records older than this, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Delete oldest records past this size of a partition, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Keep only the newest record of each key.
    #[serde(default)]
    pub compact: bool,
    /// Refuse records larger than this, bytes; `None`: the limit of all topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<u64>,
    /// Once no member of the ISR is alive, a live replica outside of it leads, at the price of acknowledged records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unclean_election: bool,
    /// Opaque JSON kept for whoever manages the topic (the operator's owner reference).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<serde_json::Value>,
}

impl TopicConfig {
    /// Returns the settings of a topic for which nothing but its copies was asked for.
    pub fn with_copies(replication_factor: u32, min_isr: u32) -> Self {
        Self {
            replication_factor,
            min_isr,
            retention_ms: None,
            retention_bytes: None,
            compact: false,
            max_record_bytes: None,
            unclean_election: false,
            owner: None,
        }
    }
}

/// One partition's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// Brokers that hold it, preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Replicas being added by a reassignment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Replicas to be dropped once the added ones are in sync.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
    /// Replicas that hold every committed record.
    pub isr: Vec<BrokerId>,
    /// Who takes writes; `None` while no in-sync replica is alive, or when all were lost.
    pub leader: Option<BrokerId>,
    /// Grows with every change of leader, and whenever the leader's process restarts (R4).
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this entry.
    pub part_epoch: PartEpoch,
}

/// One change of an image; see the module's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Replaces one broker's entry.
    SetBroker {
        /// Whose.
        id: BrokerId,
        /// The new entry.
        entry: BrokerEntry,
    },
    /// Replaces one partition's entry.
    SetPartition {
        /// Which partition.
        partition: TopicPartition,
        /// The new entry.
        entry: PartitionEntry,
    },
    /// Adds a topic with all its partitions.
    AddTopic {
        /// Its identity, never used before.
        id: TopicId,
        /// Its contents.
        entry: Arc<TopicEntry>,
    },
    /// Replaces a topic's settings.
    SetTopicConfig {
        /// Which topic.
        id: TopicId,
        /// The new settings.
        config: TopicConfig,
    },
    /// Appends partitions to a topic.
    AddPartitions {
        /// Which topic.
        id: TopicId,
        /// The new partitions, behind the existing ones.
        partitions: Vec<PartitionEntry>,
    },
    /// Deletes a topic and leaves a tombstone.
    DeleteTopic {
        /// Which topic.
        id: TopicId,
    },
    /// Replaces the voters; at most one added or removed at a time.
    SetVoters {
        /// The new voters.
        #[serde(with = "by_broker")]
        voters: BTreeMap<BrokerId, StorageId>,
    },
    /// Raises the feature level.
    SetFeatureLevel {
        /// The new level.
        level: u16,
    },
}

/// Why operations could not be applied: they name something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation {index} does not fit the image at {at}")]
pub struct OpMisfit {
    /// Index of the operation.
    pub index: usize,
    /// The image's place.
    pub at: At,
}

/// Maps from broker ids survive tagged enums, whose decoding hands map keys over as text.
mod by_broker {
    use crate::ids::BrokerId;
    use serde::de::{self, Deserialize, Deserializer, Visitor};
    use serde::ser::{Serialize, Serializer};
    use std::collections::BTreeMap;

    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    struct Key(BrokerId);

    struct KeyVisitor;

    impl Visitor<'_> for KeyVisitor {
        type Value = Key;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a broker id")
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Key, E> {
            u32::try_from(number).map(|id| Key(BrokerId(id))).map_err(E::custom)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
            text.parse().map(|id| Key(BrokerId(id))).map_err(E::custom)
        }
    }

    impl<'de> Deserialize<'de> for Key {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_any(KeyVisitor)
        }
    }

    pub(super) fn serialize<V: Serialize, S: Serializer>(
        map: &BTreeMap<BrokerId, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        map.serialize(to)
    }

    pub(super) fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<BrokerId, V>, D::Error> {
        let map = BTreeMap::<Key, V>::deserialize(from)?;
        Ok(map.into_iter().map(|(key, value)| (key.0, value)).collect())
    }
}

impl Image {
    /// Makes the first image of a new cluster: its founders with their volumes, nothing else.
    pub fn genesis(
        cluster_id: ClusterId,
        epoch: ControllerEpoch,
        voters: BTreeMap<BrokerId, StorageId>,
    ) -> Self {
        let at = At { epoch, version: 1 };
        let founding =
            serde_json::to_vec(&(cluster_id, &voters)).expect("ids and maps of ids are valid JSON");
        Self {
            cluster_id,
            at,
            hash: chain(ImageHash::default(), at, &founding),
            feature_level: 1,
            voters,
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            tombstones: BTreeMap::new(),
        }
    }

    /// Returns the image that `ops` lead to, placed at `at`. Cheap: topics that aren't touched are shared.
    ///
    /// # Errors
    /// When an operation names something that is not there, or adds something that is.
    pub fn apply(&self, ops: &[Op], at: At) -> Result<Self, OpMisfit> {
        let mut next = self.clone();
        next.at = at;
        for (index, op) in ops.iter().enumerate() {
            next.assign(op).ok_or(OpMisfit { index, at: self.at })?;
        }
        let text = serde_json::to_vec(ops).expect("operations are valid JSON");
        next.hash = chain(self.hash, at, &text);
        Ok(next)
    }

    /// Does one operation; `None` if it does not fit.
    fn assign(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::SetBroker { id, entry } => {
                self.brokers.insert(*id, entry.clone());
            }
            Op::SetPartition { partition, entry } => {
                let topic = Arc::make_mut(self.topics.get_mut(&partition.topic)?);
                *topic.partitions.get_mut(usize::try_from(partition.partition).ok()?)? = entry.clone();
            }
            Op::AddTopic { id, entry } => {
                let used = self.topics.contains_key(id) || self.tombstones.contains_key(id);
                if used || self.topic_by_name(&entry.name).is_some() {
                    return None;
                }
                self.topics.insert(*id, entry.clone());
            }
            Op::SetTopicConfig { id, config } => {
                Arc::make_mut(self.topics.get_mut(id)?).config = config.clone();
            }
            Op::AddPartitions { id, partitions } => {
                Arc::make_mut(self.topics.get_mut(id)?).partitions.extend_from_slice(partitions);
            }
            Op::DeleteTopic { id } => {
                self.topics.remove(id)?;
                self.tombstones.insert(*id, self.at.version);
            }
            Op::SetVoters { voters } => {
                let gone = self.voters.iter().filter(|(id, volume)| voters.get(id) != Some(volume)).count();
                let come = voters.iter().filter(|(id, volume)| self.voters.get(id) != Some(volume)).count();
                if gone + come > 1 || voters.is_empty() {
                    return None;
                }
                self.voters.clone_from(voters);
            }
            Op::SetFeatureLevel { level } => {
                if *level < self.feature_level {
                    return None;
                }
                self.feature_level = *level;
            }
        }
        Some(())
    }

    /// Returns the living topic of that name. Looks through all topics: keep the identity where it is asked for often.
    pub fn topic_by_name(&self, name: &TopicName) -> Option<(TopicId, &Arc<TopicEntry>)> {
        self.topics.iter().find(|(_, topic)| topic.name == *name).map(|(id, topic)| (*id, topic))
    }

    /// Returns one partition's entry.
    pub fn partition(&self, partition: TopicPartition) -> Option<&PartitionEntry> {
        let index = usize::try_from(partition.partition).ok()?;
        self.topics.get(&partition.topic)?.partitions.get(index)
    }

    /// Returns every partition with its topic.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &TopicEntry, &PartitionEntry)> {
        self.topics.iter().flat_map(|(id, topic)| {
            (0..).zip(&topic.partitions).map(move |(partition, entry)| {
                (TopicPartition { topic: *id, partition }, topic.as_ref(), entry)
            })
        })
    }

    /// Returns the brokers that may be given leaderships and replicas, by id.
    pub fn live_brokers(&self) -> impl Iterator<Item = BrokerId> {
        self.brokers.iter().filter(|(_, entry)| entry.state == BrokerState::Active).map(|(id, _)| *id)
    }

    /// Returns whether a broker may be given leaderships and replicas.
    pub fn is_active(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|entry| entry.state == BrokerState::Active)
    }

    /// Returns whether a broker is alive and up to date, be it to be emptied or not.
    pub fn is_alive(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|entry| entry.state != BrokerState::Fenced)
    }

    /// Returns whether a broker was to be emptied and holds nothing any more.
    pub fn is_drained(&self, id: BrokerId) -> bool {
        let draining = self.brokers.get(&id).is_some_and(|entry| entry.draining);
        draining && !self.partitions().any(|(_, _, entry)| entry.replicas.contains(&id))
    }

    /// Returns whether the promises of a broker with that volume count.
    pub fn is_voter(&self, id: BrokerId, storage_id: StorageId) -> bool {
        self.voters.get(&id) == Some(&storage_id) && !self.is_rolled_back(id, storage_id)
    }

    /// Returns whether a broker's volume was found to be an older copy of itself.
    pub fn is_rolled_back(&self, id: BrokerId, storage_id: StorageId) -> bool {
        self.brokers.get(&id).is_some_and(|entry| entry.storage_id == storage_id && entry.rolled_back)
    }

    /// Returns the newest start on that volume of a broker that is known; `None` if it never registered with it.
    pub fn start_of(&self, broker: Voter) -> Option<Start> {
        let entry = self.brokers.get(&broker.id).filter(|entry| entry.storage_id == broker.storage_id)?;
        Some(entry.start())
    }

    /// Returns the entry of a broker if it is about this very process.
    pub fn registered(&self, id: BrokerId, run_id: RunId) -> Option<&BrokerEntry> {
        self.brokers.get(&id).filter(|entry| entry.run_id == run_id)
    }

    /// Returns whether a broker leads any partition.
    pub fn leads_any(&self, id: BrokerId) -> bool {
        self.partitions().any(|(_, _, entry)| entry.leader == Some(id))
    }
}

/// One link of the hash chain (M1).
fn chain(before: ImageHash, at: At, change: &[u8]) -> ImageHash {
    let mut sum = Sha256::new();
    sum.update(before.0);
    sum.update(at.epoch.0.to_be_bytes());
    sum.update(at.version.to_be_bytes());
    sum.update(change);
    ImageHash(sum.finalize().into())
}

/// An image under change: operations are tried one after the other, each on what the earlier ones led to.
#[derive(Debug)]
pub(crate) struct Draft {
    base: Arc<Image>,
    changed: Option<Image>,
    ops: Vec<Op>,
    at: At,
}

impl Draft {
    /// Begins at `base`; the result will be placed at `at`.
    pub(crate) fn new(base: Arc<Image>, at: At) -> Self {
        Self { base, changed: None, ops: Vec::new(), at }
    }

    /// Returns the image with everything pushed so far. Its place is `at` once anything was pushed.
    pub(crate) fn image(&self) -> &Image {
        self.changed.as_ref().unwrap_or(&self.base)
    }

    /// Returns where the result will be.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    /// Returns whether nothing was pushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds operations made from [`Draft::image`].
    pub(crate) fn extend(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        let at = self.at;
        let base = &self.base;
        let image = self.changed.get_or_insert_with(|| Image { at, ..Image::clone(base) });
        for op in ops {
            image.assign(&op).expect("an operation made from this image fits it");
            self.ops.push(op);
        }
    }

    /// Returns the operations.
    pub(crate) fn into_ops(self) -> Vec<Op> {
        self.ops
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture;
    use proptest::prelude::*;

    fn at(epoch: u64, version: u64) -> At {
        At { epoch: ControllerEpoch(epoch), version }
    }

    #[test]
    fn the_same_operations_lead_to_the_same_hash_and_other_ones_do_not() {
        let image = fixture::image(3);
        let ops = vec![fixture::add_topic("a", 1, &[1, 2])];
        let one = image.apply(&ops, at(1, 9)).unwrap();
        assert_eq!(one, image.apply(&ops, at(1, 9)).unwrap());
        assert_ne!(one.hash, image.apply(&ops, at(2, 9)).unwrap().hash);
        assert_ne!(one.hash, image.apply(&[], at(1, 9)).unwrap().hash);
    }

    #[test]
    fn a_deleted_topic_leaves_a_tombstone_and_its_identity_is_never_used_again() {
        let add = fixture::add_topic("a", 1, &[1]);
        let image = fixture::image(1).apply(std::slice::from_ref(&add), at(1, 5)).unwrap();
        let Op::AddTopic { id, .. } = add else { panic!("not an added topic") };
        let gone = image.apply(&[Op::DeleteTopic { id }], at(1, 6)).unwrap();
        assert_eq!(gone.tombstones.get(&id), Some(&6));
        assert_eq!(gone.apply(&[add], at(1, 7)), Err(OpMisfit { index: 0, at: at(1, 6) }));
    }

    #[test]
    fn operations_on_what_is_not_there_are_refused_with_their_index() {
        let image = fixture::image(1);
        let lost = TopicId(uuid::Uuid::from_u128(99));
        let ops = [fixture::add_topic("a", 1, &[1]), Op::DeleteTopic { id: lost }];
        assert_eq!(image.apply(&ops, at(1, 5)).unwrap_err().index, 1);
    }

    #[test]
    fn at_most_one_voter_changes_at_a_time() {
        let image = fixture::image(3);
        let mut swapped = image.voters.clone();
        swapped.insert(BrokerId(3), StorageId(uuid::Uuid::from_u128(333)));
        assert!(image.apply(&[Op::SetVoters { voters: swapped }], at(1, 9)).is_err());
        let mut fewer = image.voters.clone();
        fewer.remove(&BrokerId(3));
        assert!(image.apply(&[Op::SetVoters { voters: fewer }], at(1, 9)).is_ok());
    }

    #[test]
    fn what_is_not_set_is_not_written_so_that_older_builds_read_and_hash_the_same() {
        let image = fixture::image(1).apply(&[fixture::add_topic("a", 1, &[1])], at(1, 9)).unwrap();
        let text = serde_json::to_string(&image).unwrap();
        for name in ["max_record_bytes", "unclean_election", "owner", "sealed", "draining"] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        assert_eq!(serde_json::from_str::<Image>(&text).unwrap(), image);
    }

    #[test]
    fn an_image_survives_json_inside_a_message() {
        let image =
            Arc::new(fixture::image(3).apply(&[fixture::add_topic("a", 2, &[1, 2])], at(1, 9)).unwrap());
        let ops = vec![Op::SetVoters { voters: image.voters.clone() }];
        for body in [
            crate::wire::internal::ImageBody::Full(image.clone()),
            crate::wire::internal::ImageBody::Delta { base: image.at, ops },
        ] {
            let message = crate::wire::internal::Message::Committed {
                epoch: ControllerEpoch(1),
                at: image.at,
                hash: image.hash,
                body,
            };
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<crate::wire::internal::Message>(&text).unwrap(), message);
        }
    }

    proptest! {
        #[test]
        fn a_later_place_always_has_another_hash(steps in proptest::collection::vec(0u64..3, 1..20)) {
            let mut image = fixture::image(1);
            let mut seen = std::collections::BTreeSet::from([image.hash]);
            for step in steps {
                let next = At { epoch: ControllerEpoch(image.at.epoch.0 + step), version: image.at.version + 1 };
                prop_assert!(next > image.at);
                image = image.apply(&[], next).unwrap();
                prop_assert!(seen.insert(image.hash));
            }
        }
    }
}
