//! Images for tests of the control plane.

use super::image::{BrokerEntry, BrokerState, Image, Op, PartitionEntry, TopicConfig, TopicEntry};
use crate::ids::{
    At, BrokerEpoch, BrokerId, ClusterId, ControllerEpoch, LeaderEpoch, PartEpoch, RunId, StorageId, TopicId,
    TopicName, Voter,
};
use std::sync::Arc;
use uuid::Uuid;

pub(super) fn b(id: u32) -> BrokerId {
    BrokerId(id)
}

/// The image after these operations, which must fit it.
pub(super) fn done(image: &Image, ops: &[Op]) -> Image {
    image.apply(ops, At { version: image.at.version + 1, ..image.at }).expect("operations that fit")
}

pub(super) fn voter(id: u32) -> Voter {
    Voter { id: BrokerId(id), storage_id: storage(id) }
}

pub(super) fn storage(id: u32) -> StorageId {
    StorageId(Uuid::from_u128(1_000 + u128::from(id)))
}

pub(super) fn run(id: u32) -> RunId {
    RunId(Uuid::from_u128(2_000 + u128::from(id)))
}

pub(super) fn broker(id: u32) -> BrokerEntry {
    BrokerEntry {
        storage_id: storage(id),
        boot: 1,
        run_id: run(id),
        broker_epoch: BrokerEpoch(1),
        api_base: format!("http://b{id}:8080"),
        peer_base: format!("http://b{id}:9090"),
        zone: None,
        versions: (1, 1),
        sealed: None,
        state: BrokerState::Active,
        draining: false,
        rolled_back: false,
    }
}

/// An image with `count` active brokers, all of them voters, and no topics.
pub(super) fn image(count: u32) -> Image {
    let voters = (1..=count).map(|id| (BrokerId(id), storage(id))).collect();
    let mut image = Image::genesis(ClusterId(Uuid::from_u128(1)), ControllerEpoch(1), voters);
    image.brokers = (1..=count).map(|id| (BrokerId(id), broker(id))).collect();
    image
}

pub(super) fn config(replication_factor: u32, min_isr: u32) -> TopicConfig {
    TopicConfig::with_copies(replication_factor, min_isr)
}

/// A topic whose every partition has these replicas, all in sync, the first one leading.
pub(super) fn add_topic(name: &str, min_isr: u32, replicas: &[u32]) -> Op {
    let replicas: Vec<_> = replicas.iter().map(|id| BrokerId(*id)).collect();
    let partition = PartitionEntry {
        leader: Some(replicas[0]),
        isr: replicas.clone(),
        adding: Vec::new(),
        removing: Vec::new(),
        leader_epoch: LeaderEpoch(1),
        part_epoch: PartEpoch(1),
        replicas: replicas.clone(),
    };
    let factor = u32::try_from(replicas.len()).expect("few replicas");
    let entry = TopicEntry {
        name: TopicName::try_from(name).expect("a valid name"),
        config: config(factor, min_isr),
        partitions: vec![partition],
    };
    let id = TopicId(Uuid::from_u128(name.bytes().map(u128::from).sum()));
    Op::AddTopic { id, entry: Arc::new(entry) }
}
