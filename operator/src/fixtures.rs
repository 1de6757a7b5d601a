//! What unit tests of several rooms start from.

use crate::owner::{KIND, Owner};
use crate::plan::Observed;
use pubsub_core::control::image::TopicConfig;
use pubsub_core::ids::{BrokerId, LeaderEpoch, TopicId};
use pubsub_core::wire::admin::{BrokerDescription, BrokerStanding, PartitionDescription, TopicDescription};
use serde_json::json;
use std::collections::BTreeMap;

/// An object of namespace `n`, created at a second of the epoch.
pub(crate) fn owner(name: &str, second: i64, generation: i64) -> Owner {
    Owner {
        kind: KIND.to_owned(),
        namespace: "n".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        generation,
        created: jiff::Timestamp::from_second(second).expect("a small number").to_string(),
    }
}

/// A broker that is up.
pub(crate) fn broker(id: u32) -> BrokerDescription {
    serde_json::from_value(json!({
        "broker_id": id, "api_base": format!("http://b{id}"), "state": "active", "voter": true, "controller": id == 1,
        "zone": null, "leads": 0, "holds": 0,
    }))
    .map(|broker: BrokerDescription| BrokerDescription { state: BrokerStanding::Active, ..broker })
    .expect("a description")
}

/// A cluster of three brokers.
pub(crate) fn observed(topic: Option<TopicDescription>) -> Observed {
    Observed {
        topic,
        brokers: vec![broker(1), broker(2), broker(3)],
        controller: true,
        cluster_id: Some("cluster-1".to_owned()),
    }
}

/// One partition with all replicas in sync.
pub(crate) fn partition(id: u32, replicas: &[u32]) -> PartitionDescription {
    let ids: Vec<BrokerId> = replicas.iter().copied().map(BrokerId).collect();
    PartitionDescription {
        id,
        leader: ids.first().copied(),
        leader_epoch: LeaderEpoch(4),
        replicas: ids.clone(),
        isr: ids,
        adding: Vec::new(),
        removing: Vec::new(),
        leads_in: None,
        log_start: Some(0),
        high_watermark: Some(7),
        log_end: Some(7),
        lag: BTreeMap::new(),
    }
}

/// A topic that is well and that nobody owns.
pub(crate) fn topic(partitions: u32, replication_factor: u32) -> TopicDescription {
    let replicas: Vec<u32> = (1..=replication_factor).collect();
    let ids: Vec<BrokerId> = replicas.iter().copied().map(BrokerId).collect();
    let config = json!({"replication_factor": replication_factor, "min_isr": if replication_factor >= 3 { 2 } else { 1 }});
    let config: TopicConfig = serde_json::from_value(config).expect("a configuration");
    TopicDescription {
        topic: "orders".to_owned(),
        name: "orders".to_owned(),
        id: TopicId(uuid::Uuid::from_u128(1)),
        owner: Some(BrokerId(1)),
        leader: Some(BrokerId(1)),
        followers: ids.iter().copied().skip(1).collect(),
        replicas: ids.clone(),
        isr: ids.clone(),
        replica_count: ids.len(),
        alive_brokers: vec![BrokerId(1), BrokerId(2), BrokerId(3)],
        partition_count: usize::try_from(partitions).expect("a small number"),
        replication_factor,
        config,
        partitions: (0..partitions).map(|id| partition(id, &replicas)).collect(),
    }
}
