//! What the cluster looks like: topics, replicas, brokers, the controller. Read from this broker's image and views.

use super::error::{ApiResult, topic_not_found};
use super::query::Query;
use super::topics::{Topic, alive};
use super::{App, Call, Segments};
use axum::Json;
use axum::extract::State;
use pubsub_core::control::image::{BrokerEntry, BrokerState, Image, PartitionEntry, TopicEntry};
use pubsub_core::ids::{BrokerId, TopicId, TopicPartition};
use pubsub_core::partition::Role;
use pubsub_core::wire::admin::{
    BrokerDescription, BrokerList, BrokerStanding, ControllerDescription, IsrOverview, Metadata,
    PartitionDescription, ReplicaDescription, TopicDescription, TopicIsr, TopicList, TopicReplicas,
};
use pubsub_core::wire::error::Problem;
use std::collections::BTreeMap;

/// Returns brokers that are alive and up to date.
fn alive_brokers(image: &Image) -> Vec<BrokerId> {
    image.brokers.keys().copied().filter(|id| alive(image, *id)).collect()
}

fn followers(entry: &PartitionEntry) -> Vec<BrokerId> {
    entry.replicas.iter().copied().filter(|id| Some(*id) != entry.leader).collect()
}

/// Describes a topic.
pub(crate) fn describe(app: &App, image: &Image, id: TopicId, entry: &TopicEntry) -> TopicDescription {
    let first = entry.partitions.first();
    TopicDescription {
        topic: entry.name.to_string(),
        name: entry.name.to_string(),
        id,
        owner: first.and_then(|first| first.leader),
        leader: first.and_then(|first| first.leader),
        followers: first.map(followers).unwrap_or_default(),
        replicas: first.map(|first| first.replicas.clone()).unwrap_or_default(),
        isr: first.map(|first| first.isr.clone()).unwrap_or_default(),
        replica_count: first.map_or(0, |first| first.replicas.len()),
        alive_brokers: alive_brokers(image),
        partition_count: entry.partitions.len(),
        replication_factor: entry.config.replication_factor,
        config: entry.config.clone(),
        partitions: describe_partitions(app, id, entry),
    }
}

fn describe_partitions(app: &App, topic: TopicId, entry: &TopicEntry) -> Vec<PartitionDescription> {
    let partitions = (0..).zip(&entry.partitions);
    partitions
        .map(|(id, partition)| describe_partition(app, TopicPartition { topic, partition: id }, partition))
        .collect()
}

pub(crate) fn describe_partition(
    app: &App,
    tp: TopicPartition,
    entry: &PartitionEntry,
) -> PartitionDescription {
    let view =
        app.broker.view(tp).map(|view| view.borrow().clone()).filter(|view| view.role != Role::Offline);
    let lag = view.iter().filter(|view| view.role == Role::Leader).flat_map(|view| {
        let end = view.log_end;
        view.followers.iter().map(move |(id, matched)| (*id, end.saturating_sub(matched.unwrap_or(0))))
    });
    PartitionDescription {
        id: tp.partition,
        leader: entry.leader,
        leader_epoch: entry.leader_epoch,
        replicas: entry.replicas.clone(),
        isr: entry.isr.clone(),
        adding: entry.adding.clone(),
        removing: entry.removing.clone(),
        lag: lag.collect(),
        leads_in: view.as_ref().filter(|view| view.role == Role::Leader).map(|view| view.leader_epoch),
        log_start: view.as_ref().map(|view| view.log_start),
        high_watermark: view.as_ref().map(|view| view.high_watermark),
        log_end: view.as_ref().map(|view| view.log_end),
    }
}

/// Lists topics with their placement, ISR and settings.
#[utoipa::path(
    get, path = "/admin/topics", tag = "admin",
    params(("internal" = Option<bool>, Query, description = "Also topics of the brokers themselves")),
    responses((status = 200, description = "In order of name", body = TopicList))
)]
pub(crate) async fn topics(State(app): State<App>, call: Call) -> ApiResult<Json<TopicList>> {
    let mut query = Query::parse(call.query());
    let internal = query.flag("internal");
    query.finish()?;
    let image = app.image().await?;
    let shown = image.topics.iter().filter(|(_, entry)| internal || !entry.name.is_internal());
    let mut topics: Vec<_> = shown.map(|(id, entry)| describe(&app, &image, *id, entry)).collect();
    topics.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(TopicList { topics }))
}

/// Describes one topic.
#[utoipa::path(
    get, path = "/admin/topics/{name}", tag = "admin",
    params(("name" = String, Path, description = "The topic's name")),
    responses((status = 200, description = "The topic", body = TopicDescription), (status = 404, description = "TOPIC_NOT_FOUND", body = Problem))
)]
pub(crate) async fn topic(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Json<TopicDescription>> {
    let topic = app.topic(&name, call.forwarded()).await?;
    let image = app.image().await?;
    let entry = image.topics.get(&topic.id).ok_or_else(|| topic_not_found(&name))?;
    Ok(Json(describe(&app, &image, topic.id, entry)))
}

/// Shows who holds a topic.
#[utoipa::path(
    get, path = "/replicas/{topic}", tag = "read",
    params(("topic" = String, Path, description = "The topic's name")),
    responses((status = 200, description = "Partition 0 at the top, every partition below", body = TopicReplicas), (status = 404, description = "TOPIC_NOT_FOUND", body = Problem))
)]
pub(crate) async fn replicas(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Json<TopicReplicas>> {
    let Topic { name, id, entry } = app.topic(&name, call.forwarded()).await?;
    let first = entry.partitions.first();
    let replicas = first.map(|first| {
        let describe = |broker: &BrokerId| ReplicaDescription {
            broker_id: *broker,
            api_base: app.api_base(*broker).unwrap_or_default(),
            is_owner: first.leader == Some(*broker),
            in_isr: first.isr.contains(broker),
        };
        first.replicas.iter().map(describe).collect()
    });
    Ok(Json(TopicReplicas {
        topic: name.to_string(),
        owner: first.and_then(|first| first.leader),
        isr: first.map(|first| first.isr.clone()).unwrap_or_default(),
        replicas: replicas.unwrap_or_default(),
        partitions: describe_partitions(&app, id, &entry),
    }))
}

/// Says which broker is controller.
#[utoipa::path(get, path = "/admin/leader", tag = "admin", responses((status = 200, description = "As this broker sees it", body = ControllerDescription)))]
pub(crate) async fn controller(State(app): State<App>) -> Json<ControllerDescription> {
    let status = app.broker.status();
    Json(ControllerDescription {
        broker_id: app.id,
        this_broker_is_leader: status.leading,
        leader_id: status.controller,
        controller_epoch: status.epoch,
    })
}

/// Shows the in-sync replicas of every topic.
#[utoipa::path(get, path = "/admin/isr", tag = "admin", responses((status = 200, description = "By topic", body = IsrOverview)))]
pub(crate) async fn isr(State(app): State<App>) -> ApiResult<Json<IsrOverview>> {
    let image = app.image().await?;
    let visible = image.topics.iter().filter(|(_, entry)| !entry.name.is_internal());
    let topics = visible.map(|(id, entry)| {
        let first = entry.partitions.first();
        let replicas = first.map(|first| first.replicas.as_slice()).unwrap_or_default();
        let shown = TopicIsr {
            owner: first.and_then(|first| first.leader),
            followers: first.map(followers).unwrap_or_default(),
            isr: first.map(|first| first.isr.clone()).unwrap_or_default(),
            alive: replicas.iter().map(|broker| (*broker, alive(&image, *broker))).collect(),
            min_sync_followers: entry.config.min_isr.saturating_sub(1),
            min_isr: entry.config.min_isr,
            partitions: describe_partitions(&app, *id, entry),
        };
        (entry.name.to_string(), shown)
    });
    Ok(Json(IsrOverview { leader_id: app.broker.status().controller, topics: topics.collect() }))
}

/// Lists the brokers.
#[utoipa::path(get, path = "/admin/brokers", tag = "admin", responses((status = 200, description = "In order of id", body = BrokerList)))]
pub(crate) async fn brokers(State(app): State<App>) -> ApiResult<Json<BrokerList>> {
    let image = app.image().await?;
    let controller = app.broker.status().controller;
    let (mut leads, mut holds) = (BTreeMap::<BrokerId, usize>::new(), BTreeMap::<BrokerId, usize>::new());
    for partition in image.topics.values().flat_map(|entry| &entry.partitions) {
        if let Some(leader) = partition.leader {
            *leads.entry(leader).or_default() += 1;
        }
        for replica in &partition.replicas {
            *holds.entry(*replica).or_default() += 1;
        }
    }
    let count = |of: &BTreeMap<BrokerId, usize>, id| of.get(id).copied().unwrap_or_default();
    let brokers = image.brokers.iter().map(|(id, entry)| {
        described(&image, controller, (*id, entry), (count(&leads, id), count(&holds, id)))
    });
    Ok(Json(BrokerList { leader_id: controller, brokers: brokers.collect() }))
}

/// Describes one broker; `None` if it is not registered.
pub(crate) fn describe_broker(app: &App, image: &Image, id: BrokerId) -> Option<BrokerDescription> {
    let entry = image.brokers.get(&id)?;
    let count = |of: fn(&PartitionEntry, BrokerId) -> bool| {
        image.partitions().filter(|(_, _, partition)| of(partition, id)).count()
    };
    let leads = count(|partition, id| partition.leader == Some(id));
    let holds = count(|partition, id| partition.replicas.contains(&id));
    Some(described(image, app.broker.status().controller, (id, entry), (leads, holds)))
}

fn described(
    image: &Image,
    controller: Option<BrokerId>,
    (id, entry): (BrokerId, &BrokerEntry),
    (leads, holds): (usize, usize),
) -> BrokerDescription {
    let state = match entry.state {
        _ if entry.draining && holds == 0 => BrokerStanding::Drained,
        BrokerState::Active => BrokerStanding::Active,
        BrokerState::Fenced => BrokerStanding::Fenced,
        BrokerState::Draining => BrokerStanding::Draining,
    };
    BrokerDescription {
        broker_id: id,
        api_base: entry.api_base.clone(),
        state,
        draining: entry.draining,
        voter: image.is_voter(id, entry.storage_id),
        controller: controller == Some(id),
        zone: entry.zone.clone(),
        sealed: entry.sealed,
        leads,
        holds,
    }
}

/// Shows the placement of every topic in short.
#[utoipa::path(get, path = "/metadata", tag = "admin", responses((status = 200, description = "By topic", body = Metadata)))]
pub(crate) async fn metadata(State(app): State<App>) -> ApiResult<Json<Metadata>> {
    let image = app.image().await?;
    let firsts = || {
        let visible = image.topics.values().filter(|entry| !entry.name.is_internal());
        visible.filter_map(|entry| Some((entry.name.to_string(), entry.partitions.first()?)))
    };
    let placed = |(name, first): (String, &PartitionEntry)| {
        let placed = first.leader.into_iter().chain(followers(first)).collect();
        (name, placed)
    };
    Ok(Json(Metadata {
        leader_id: app.broker.status().controller,
        cluster_id: Some(image.cluster_id),
        version: image.at.version,
        controller_epoch: image.at.epoch,
        topics: firsts().map(placed).collect(),
        isr: firsts().map(|(name, first)| (name, first.isr.clone())).collect(),
    }))
}
