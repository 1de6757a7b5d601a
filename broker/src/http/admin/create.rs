//! Topics that come to be.

use super::change::{Ended, answer, change};
use super::{changeable, check_bounds, deadline};
use crate::http::call::Whole;
use crate::http::error::{ApiError, ApiResult, topic_not_found};
use crate::http::query::Query;
use crate::http::records_in::json_fault;
use crate::http::{App, Call};
use axum::extract::State;
use axum::response::Response;
use pubsub_core::control::image::{BrokerState, Image, PartitionEntry, TopicConfig};
use pubsub_core::control::{Command, Outcome};
use pubsub_core::ids::{BrokerId, TopicId, TopicName};
use pubsub_core::limits::{PARTITIONS_MAX, RECORD_BYTES_MAX, REPLICATION_FACTOR_MAX};
use pubsub_core::wire::admin::{CreateTopicRequest, TopicCreated};
use pubsub_core::wire::error::Problem;
use tokio::time::Instant;

/// Replication factor of a topic that asks for none.
const REPLICATION_FACTOR_DEFAULT: u32 = 3;

/// Creates a topic. The same specification again is fine and changes nothing.
#[utoipa::path(
    post, path = "/admin/topics", tag = "admin",
    params(
        ("name" = Option<String>, Query, description = "The topic's name; may be in the body"),
        ("partitions" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Number of partitions; default 1"),
        ("rf" = Option<u32>, Query, minimum = 1, maximum = 9, description = "Replication factor; default 3, or the number of live brokers if fewer"),
        ("replication_factor" = Option<u32>, Query, minimum = 1, maximum = 9, description = "As `rf`"),
        ("owner_id" = Option<u32>, Query, minimum = 0, description = "Preferred leader of partition 0"),
        ("retention_ms" = Option<u64>, Query, minimum = 1, description = "Delete records older than this"),
        ("retention_bytes" = Option<u64>, Query, minimum = 1, description = "Delete the oldest records past this size of a partition"),
        ("compact" = Option<bool>, Query, description = "Keep only the newest record of each key"),
        ("max_record_bytes" = Option<u64>, Query, minimum = 1, maximum = 1048576, description = "Refuse records larger than this; default 1048576"),
        ("unclean_election" = Option<bool>, Query, description = "Once no in-sync replica is alive, let another one lead: acknowledged records are LOST"),
        ("min_isr" = Option<u32>, Query, minimum = 1, maximum = 9, description = "Fewest in-sync replicas that take a publish; default 2 from rf 3, else 1"),
        ("wait" = Option<String>, Query, description = "`ready`: answer once every partition has its leader and replicas in sync"),
        ("take_ownership" = Option<bool>, Query, description = "Make the body's `owner` the owner of a topic that is there already, whoever that was"),
        ("timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 60000, description = "Longest time to wait, milliseconds; default 10000"),
    ),
    request_body(content = Option<CreateTopicRequest>, description = "Instead of query parameters, or beside them"),
    responses(
        (status = 200, description = "Committed by a majority and known to this broker", body = TopicCreated),
        (status = 400, description = "UNKNOWN_BROKER", body = Problem),
        (status = 409, description = "TOPIC_EXISTS with another specification, TOPIC_OWNED by another, TOO_FEW_BROKERS, CONFLICT: the leader that is named is not alive", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
        (status = 503, description = "Definite, nothing was changed: UNAVAILABLE", body = Problem),
        (status = 504, description = "Ambiguous: OUTCOME_UNKNOWN", body = Problem),
    )
)]
pub(crate) async fn create(State(app): State<App>, call: Call) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    let ready = query.text("wait") == Some("ready");
    let take_ownership = query.flag("take_ownership");
    let request = creation(&whole, query)?;
    let name = changeable(request.name.clone(), "query")?;
    // Made once, so that a repeated proposal is about the same topic.
    let id = TopicId(uuid::Uuid::new_v4());
    let command = |image: &Image| creation_command(&request, &name, id, take_ownership, image);
    let (outcome, image) = match change(&app, &whole, deadline, command).await? {
        Ended::Here(done) => done,
        Ended::There(answer) => return Ok(answer),
    };
    let ready = if ready { Some(wait_ready(&app, outcome.topic, deadline).await) } else { None };
    let created = created(&app, &image, &name, id, &outcome)?;
    Ok(answer(outcome.at, TopicCreated { ready, ..created }))
}

/// Tells of a topic that was wanted under the identity `id`, and is there now.
pub(super) fn created(
    app: &App,
    image: &Image,
    name: &TopicName,
    id: TopicId,
    outcome: &Outcome,
) -> ApiResult<TopicCreated> {
    let entry = image.topics.get(&outcome.topic).ok_or_else(|| topic_not_found(name.as_str()))?;
    Ok(TopicCreated {
        status: "ok".to_owned(),
        topic: name.to_string(),
        owner_id: entry.partitions.first().and_then(|first| first.leader.or(first.replicas.first().copied())),
        leader_id: app.broker.status().controller,
        id: outcome.topic,
        created: outcome.topic == id,
        owner: entry.config.owner.clone(),
        partitions: u32::try_from(entry.partitions.len()).expect("bounded by limits"),
        replication_factor: entry.config.replication_factor,
        ready: None,
        at: outcome.at,
    })
}

/// Puts a creation together from the body and the query.
fn creation(whole: &Whole, mut query: Query<'_>) -> ApiResult<CreateTopicRequest> {
    let mut request = CreateTopicRequest::default();
    if !whole.body.iter().all(u8::is_ascii_whitespace) {
        // A name in the query is enough, and the body need not repeat it.
        let mut fields: serde_json::Map<String, serde_json::Value> = whole.json()?;
        let name = query.text("name").unwrap_or_default();
        if !name.is_empty() || !fields.contains_key("name") {
            fields.insert("name".to_owned(), name.into());
        }
        request = serde_json::from_value(fields.into()).map_err(|error| json_fault(&error, &["body"]))?;
    }
    match query.text("name") {
        Some(name) => request.name = name.to_owned(),
        None if request.name.is_empty() => drop(query.required("name")),
        None => {}
    }
    let rf = query.number("rf", 1, REPLICATION_FACTOR_MAX);
    let rf = rf.or_else(|| query.number("replication_factor", 1, REPLICATION_FACTOR_MAX));
    request.replication_factor = rf.or(request.replication_factor);
    request.partitions = query.number("partitions", 1, PARTITIONS_MAX).or(request.partitions);
    request.owner_id = query.number("owner_id", 0, u32::MAX).map(BrokerId).or(request.owner_id);
    request.min_isr = query.number("min_isr", 1, REPLICATION_FACTOR_MAX).or(request.min_isr);
    request.retention_ms = query.number("retention_ms", 1, u64::MAX).or(request.retention_ms);
    request.retention_bytes = query.number("retention_bytes", 1, u64::MAX).or(request.retention_bytes);
    let most = u64::try_from(RECORD_BYTES_MAX).expect("a number of bytes fits 64 bits");
    request.max_record_bytes = query.number("max_record_bytes", 1, most).or(request.max_record_bytes);
    for (name, field) in
        [("compact", &mut request.compact), ("unclean_election", &mut request.unclean_election)]
    {
        if query.text(name).is_some() {
            *field = Some(query.flag(name));
        }
    }
    query.finish()?;
    check_bounds(request.partitions, request.replication_factor, request.min_isr)?;
    Ok(request)
}

/// Fills in what a creation leaves open: from the topic itself if it is there already, else from the cluster.
pub(super) fn creation_command(
    request: &CreateTopicRequest,
    name: &TopicName,
    id: TopicId,
    take_ownership: bool,
    image: &Image,
) -> ApiResult<Command> {
    let existing = image.topic_by_name(name).map(|(_, entry)| entry);
    let active = image.brokers.values().filter(|entry| entry.state == BrokerState::Active).count();
    let most = u32::try_from(active).unwrap_or(u32::MAX).clamp(1, REPLICATION_FACTOR_DEFAULT);
    let rf =
        request.replication_factor.or(existing.map(|entry| entry.config.replication_factor)).unwrap_or(most);
    let usual = if rf >= 3 { 2 } else { 1 };
    let config = TopicConfig {
        replication_factor: rf,
        min_isr: request.min_isr.or(existing.map(|entry| entry.config.min_isr)).unwrap_or(usual),
        retention_ms: request.retention_ms.or(existing.and_then(|entry| entry.config.retention_ms)),
        retention_bytes: request.retention_bytes.or(existing.and_then(|entry| entry.config.retention_bytes)),
        compact: request.compact.or(existing.map(|entry| entry.config.compact)).unwrap_or(false),
        max_record_bytes: request
            .max_record_bytes
            .or(existing.and_then(|entry| entry.config.max_record_bytes)),
        unclean_election: request.unclean_election.unwrap_or(false),
        owner: request.owner.clone(),
    };
    check_min_isr(&config)?;
    let there = existing.and_then(|entry| u32::try_from(entry.partitions.len()).ok());
    let partitions = request.partitions.or(there).unwrap_or(1);
    let (name, leader) = (name.clone(), request.owner_id);
    Ok(Command::CreateTopic { name, id, partitions, config, leader, take_ownership })
}

fn check_min_isr(config: &TopicConfig) -> ApiResult<()> {
    if config.min_isr <= config.replication_factor {
        return Ok(());
    }
    let msg = format!(
        "min_isr {} is more than the replication factor {}",
        config.min_isr, config.replication_factor
    );
    Err(ApiError::field("value_error", &["body", "min_isr"], msg))
}

/// Waits until every partition of a topic has a leader and all its replicas in sync.
async fn wait_ready(app: &App, topic: TopicId, deadline: Instant) -> bool {
    let whole = |partition: &PartitionEntry| {
        partition.leader.is_some() && partition.replicas.iter().all(|id| partition.isr.contains(id))
    };
    let fits =
        |image: &Image| image.topics.get(&topic).is_some_and(|entry| entry.partitions.iter().all(whole));
    app.image_where(deadline, fits).await.is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use pubsub_core::wire::error::Detail;

    fn asked(uri: &str, body: &'static str) -> ApiResult<CreateTopicRequest> {
        let whole = Whole {
            method: Method::POST,
            uri: uri.parse().unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        creation(&whole, Query::parse(whole.uri.query()))
    }

    #[test]
    fn a_creation_comes_from_the_query_the_body_or_both() {
        let query = asked("/admin/topics?name=a&rf=2&partitions=4&owner_id=3", "").unwrap();
        let body = asked("/admin/topics", r#"{"name":"a","rf":2,"partitions":4,"owner_id":3}"#).unwrap();
        let both = asked("/admin/topics?name=a&rf=2", r#"{"partitions":4,"owner_id":3}"#).unwrap();
        assert_eq!((&query, &query), (&body, &both));
        assert_eq!(
            (query.replication_factor, query.partitions, query.owner_id),
            (Some(2), Some(4), Some(BrokerId(3)))
        );
    }

    #[test]
    fn a_creation_out_of_bounds_names_the_field() {
        for (uri, body, place) in [
            ("/admin/topics", "", "name"),
            ("/admin/topics", "{}", "name"),
            ("/admin/topics?name=a&rf=0", "", "rf"),
            ("/admin/topics?name=a&rf=-1", "", "rf"),
            ("/admin/topics?name=a", r#"{"partitions":0}"#, "partitions"),
            ("/admin/topics?name=a", r#"{"replication_factor":10}"#, "replication_factor"),
        ] {
            let Detail::Fields(fields) = asked(uri, body).unwrap_err().0.detail else { panic!("a list") };
            assert_eq!(fields[0].loc[1], place, "{uri} {body}");
        }
    }
}
