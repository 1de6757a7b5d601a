//! Adding replicas of a topic to brokers, and dropping them.

use super::{Ended, answer, bare, broker_in_path, change, changeable, deadline, described};
use crate::http::call::Whole;
use crate::http::error::{ApiError, ApiResult, refusal, topic_not_found};
use crate::http::query::Query;
use crate::http::topics::entry_of;
use crate::http::{App, Call, Segments};
use axum::extract::State;
use axum::response::Response;
use pubsub_core::control::image::{Image, PartitionEntry};
use pubsub_core::control::{Command, Outcome, Refusal};
use pubsub_core::ids::{BrokerId, TopicName, TopicPartition};
use pubsub_core::wire::admin::{ReassignRequest, ReplicasChanged, TopicDescription};
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::sync::Arc;
use tokio::time::Instant;

/// Adds a replica to every partition of a topic; it joins the ISR once it has caught up.
#[utoipa::path(
    post, path = "/admin/topics/{name}/replicas", tag = "admin",
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("broker_id_to_add" = u32, Query, minimum = 0, description = "The broker that shall hold a replica"),
    ),
    responses(
        (status = 200, description = "Committed; the replica is catching up", body = ReplicasChanged),
        (status = 400, description = "UNKNOWN_BROKER, INVALID_REPLICAS", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: the broker takes no replicas now", body = Problem),
    )
)]
pub(crate) async fn add_replica(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    query.required("broker_id_to_add");
    let broker = BrokerId(query.number("broker_id_to_add", 0, u32::MAX).unwrap_or_default());
    query.finish()?;
    add(&app, &whole, deadline, name, broker).await
}

/// Adds a replica to every partition of a topic.
#[utoipa::path(
    post, path = "/admin/topics/{name}/replicas/{broker}", tag = "admin",
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("broker" = u32, Path, description = "The broker that shall hold a replica"),
    ),
    responses(
        (status = 200, description = "Committed; the replica joins the ISR once it has caught up", body = ReplicasChanged),
        (status = 400, description = "UNKNOWN_BROKER, INVALID_REPLICAS", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: the broker takes no replicas now", body = Problem),
    )
)]
pub(crate) async fn add_replica_on(
    State(app): State<App>,
    Segments((name, broker)): Segments<(String, String)>,
    call: Call,
) -> ApiResult<Response> {
    let (whole, deadline) = bare(call).await?;
    let broker = broker_in_path(&broker)?;
    add(&app, &whole, deadline, name, broker).await
}

fn holds(partition: &PartitionEntry, broker: BrokerId) -> bool {
    partition.replicas.contains(&broker) && !partition.removing.contains(&broker)
}

async fn add(
    app: &App,
    whole: &Whole,
    deadline: Instant,
    name: String,
    broker: BrokerId,
) -> ApiResult<Response> {
    let name = changeable(name, "path")?;
    let command = |image: &Image| {
        let (_, entry) = image.topic_by_name(&name).ok_or_else(|| topic_not_found(name.as_str()))?;
        if !image.brokers.contains_key(&broker) {
            return Err(refusal(&Refusal::BrokerNotFound { broker }));
        }
        if entry.partitions.iter().all(|partition| holds(partition, broker)) {
            let owner = entry.partitions.first().is_some_and(|first| first.leader == Some(broker));
            let what = if owner { "already the owner" } else { "already a replica" };
            return Err(ApiError::new(
                ErrorCode::InvalidReplicas,
                format!("Broker {broker} is {what} of topic {name}"),
            ));
        }
        Ok(Command::AddReplica { name: name.clone(), broker })
    };
    replicas_changed(&name, change(app, whole, deadline, command).await?)
}

/// Drops a replica from every partition of a topic.
#[utoipa::path(
    delete, path = "/admin/topics/{name}/replicas/{broker}", tag = "admin",
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("broker" = u32, Path, description = "The broker that shall hold no replica any more"),
    ),
    responses(
        (status = 200, description = "Committed", body = ReplicasChanged),
        (status = 400, description = "INVALID_REPLICAS", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: too few would be left", body = Problem),
    )
)]
pub(crate) async fn remove_replica(
    State(app): State<App>,
    Segments((name, broker)): Segments<(String, String)>,
    call: Call,
) -> ApiResult<Response> {
    let (whole, deadline) = bare(call).await?;
    let broker = broker_in_path(&broker)?;
    let name = changeable(name, "path")?;
    let command = |image: &Image| {
        let (id, entry) = image.topic_by_name(&name).ok_or_else(|| topic_not_found(name.as_str()))?;
        let first = entry_of(image, TopicPartition { topic: id, partition: 0 });
        let refused = |text: String| Err(ApiError::new(ErrorCode::InvalidReplicas, text));
        if first.is_some_and(|first| first.leader == Some(broker)) {
            return refused("Cannot remove the owner. Reassign ownership first.".to_owned());
        }
        if !entry.partitions.iter().any(|partition| holds(partition, broker)) {
            return refused(format!("Broker {broker} is not a replica of topic {name}"));
        }
        Ok(Command::RemoveReplica { name: name.clone(), broker })
    };
    replicas_changed(&name, change(&app, &whole, deadline, command).await?)
}

/// Moves partitions of a topic to other brokers: the new replicas catch up and join the ISR, then the others are dropped.
#[utoipa::path(
    post, path = "/admin/topics/{name}/reassign", tag = "admin", request_body = ReassignRequest,
    params(("name" = String, Path, description = "The topic's name")),
    responses(
        (status = 200, description = "Committed; `adding` and `removing` of the partitions are empty once the move is over", body = TopicDescription),
        (status = 400, description = "UNKNOWN_BROKER", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: a broker takes no replicas now", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn reassign(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let (whole, deadline) = bare(call).await?;
    let request: ReassignRequest = whole.json()?;
    let name = changeable(name, "path")?;
    let moves: Vec<_> = request.moves.into_iter().map(|wish| (wish.partition, wish.replicas)).collect();
    let command = |_: &Image| Ok(Command::Reassign { name: name.clone(), moves: moves.clone() });
    described(&app, &name, change(&app, &whole, deadline, command).await?)
}

/// Takes back every move of a topic that is under way.
#[utoipa::path(
    delete, path = "/admin/topics/{name}/reassign", tag = "admin",
    params(("name" = String, Path, description = "The topic's name")),
    responses(
        (status = 200, description = "Committed; nothing is changed if nothing moves", body = TopicDescription),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let (whole, deadline) = bare(call).await?;
    let name = changeable(name, "path")?;
    let command = |_: &Image| Ok(Command::CancelMoves { name: name.clone() });
    described(&app, &name, change(&app, &whole, deadline, command).await?)
}

fn replicas_changed(name: &TopicName, ended: Ended<(Outcome, Arc<Image>)>) -> ApiResult<Response> {
    let (outcome, image) = match ended {
        Ended::Here((outcome, image)) => (outcome, image),
        Ended::There(answer) => return Ok(answer),
    };
    let first = entry_of(&image, TopicPartition { topic: outcome.topic, partition: 0 });
    let first = first.ok_or_else(|| topic_not_found(name.as_str()))?;
    let mut replicas = first.replicas.clone();
    replicas.extend(first.adding.iter().copied().filter(|id| !first.replicas.contains(id)));
    replicas.retain(|id| !first.removing.contains(id));
    let changed = ReplicasChanged {
        status: "ok".to_owned(),
        topic: name.to_string(),
        owner: first.leader,
        replica_count: replicas.len(),
        followers: replicas.into_iter().filter(|id| Some(*id) != first.leader).collect(),
    };
    Ok(answer(outcome.at, changed))
}
