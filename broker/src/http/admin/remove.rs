//! Topics that are deleted; only empty ones, if so asked.

use super::change::{Ended, answer, change_looked_at};
use super::{changeable, deadline};
use crate::http::error::{ApiError, ApiResult, topic_not_found, unavailable};
use crate::http::forward::Hop;
use crate::http::look::describe_partition;
use crate::http::query::Query;
use crate::http::{App, Call, Segments};
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, Method};
use pubsub_core::control::Command;
use pubsub_core::control::image::{Image, TopicEntry};
use pubsub_core::ids::{BrokerId, LeaderEpoch, TopicId, TopicName, TopicPartition};
use pubsub_core::wire::admin::{PartitionDescription, TopicDeleted, TopicDescription};
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a leader may take to say what it holds.
const LOOK_WAIT: Duration = Duration::from_millis(1_000);

/// Deletes a topic and its records.
///
/// With `if_empty` only one whose leaders all say, each in the term in which it leads when the deletion is committed, that
/// they hold no record. What is published between a leader's word and the commit is deleted with the topic.
#[utoipa::path(
    delete, path = "/admin/topics/{name}", tag = "admin",
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("if_empty" = Option<bool>, Query, description = "Only if no partition holds a record"),
        ("owner_uid" = Option<String>, Query, description = "Only if the topic's owner has this `uid`, or there is none"),
    ),
    responses(
        (status = 200, description = "Committed by a majority", body = TopicDeleted),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "TOPIC_OWNED by another, TOPIC_NOT_EMPTY", body = Problem),
        (status = 503, description = "Definite, nothing was changed: UNAVAILABLE, also while a leader can't say whether it is empty", body = Problem),
    )
)]
pub(crate) async fn remove(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    let if_empty = query.flag("if_empty");
    let owner_uid = query.text("owner_uid").map(str::to_owned);
    query.finish()?;
    let name = changeable(name, "path")?;
    let looked = (app.clone(), name.clone());
    let command = |image: Arc<Image>| {
        let ((app, name), owner_uid) = (looked.clone(), owner_uid.clone());
        async move {
            let empty = if if_empty { Some(empty(&app, &image, &name).await?) } else { None };
            Ok(Command::DeleteTopic { name, owner_uid, empty })
        }
    };
    match change_looked_at(&app, &whole, deadline, command).await? {
        Ended::Here((outcome, _)) => {
            let deleted =
                TopicDeleted { status: "ok".to_owned(), topic: name.to_string(), id: outcome.topic };
            Ok(answer(outcome.at, deleted))
        }
        Ended::There(answer) => Ok(answer),
    }
}

/// Asks the leader of every partition whether it holds no record, and returns who said so in which term.
async fn empty(app: &App, image: &Image, name: &TopicName) -> ApiResult<Vec<(BrokerId, LeaderEpoch)>> {
    let (id, entry) = image.topic_by_name(name).ok_or_else(|| topic_not_found(name.as_str()))?;
    let leaders: BTreeMap<_, _> =
        entry.partitions.iter().filter_map(|partition| Some((partition.leader?, ()))).collect();
    let asked = leaders.into_keys().map(async |leader| (leader, said(app, leader, id, entry).await));
    let said: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
    let whole = (0..).zip(&entry.partitions).map(|(index, partition)| {
        let silent = || {
            unavailable(format!(
                "the leader of partition {index} of {name} can't say now whether it is empty; nothing was deleted"
            ))
        };
        let leader = partition.leader.ok_or_else(silent)?;
        let found = said.get(&leader).and_then(|list| list.iter().find(|found| found.id == index));
        let found = found.filter(|found| found.leads_in == Some(partition.leader_epoch)).ok_or_else(silent)?;
        match (found.log_start, found.log_end) {
            (Some(start), Some(end)) if start == end => Ok((leader, partition.leader_epoch)),
            (Some(start), Some(end)) => Err(not_empty(name, index, end.saturating_sub(start))),
            _ => Err(silent()),
        }
    });
    whole.collect()
}

fn not_empty(name: &TopicName, partition: u32, records: u64) -> ApiError {
    let detail = format!(
        "partition {partition} of {name} holds {records} record(s) and nothing was deleted; delete without if_empty to lose them"
    );
    ApiError::new(ErrorCode::TopicNotEmpty, detail).partition(partition).ambiguous(false)
}

/// Returns what a broker says of the partitions of a topic; nothing if it does not answer.
async fn said(app: &App, broker: BrokerId, topic: TopicId, entry: &TopicEntry) -> Vec<PartitionDescription> {
    if broker == app.id {
        let partitions = (0..).zip(&entry.partitions);
        return partitions
            .map(|(partition, entry)| describe_partition(app, TopicPartition { topic, partition }, entry))
            .collect();
    }
    let Some(api_base) = app.api_base(broker) else { return Vec::new() };
    let path = format!("/admin/topics/{}", entry.name);
    let hop = Hop {
        api_base: &api_base,
        method: Method::GET,
        path: &path,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        within: LOOK_WAIT,
    };
    let answer = app.forwarder.call(hop).await.ok();
    let described: Option<TopicDescription> =
        answer.and_then(|answer| serde_json::from_slice(answer.body()).ok());
    described
        .filter(|described| described.id == topic)
        .map(|described| described.partitions)
        .unwrap_or_default()
}
