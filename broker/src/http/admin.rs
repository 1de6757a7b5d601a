//! Changes of topics. Whichever broker is asked, the controller decides, and the answer comes once it is committed and
//! known here.

pub(crate) mod brokers;
pub(crate) mod replicas;

use super::error::{ApiError, ApiResult, refusal, topic_not_found, unavailable};
use super::forward::{Hop, carried};
use super::query::Query;
use super::{App, Call, Segments};
use crate::http::call::Whole;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use pubsub_core::control::image::{BrokerState, Image, PartitionEntry, TopicConfig};
use pubsub_core::control::{Command, Outcome, Refusal};
use pubsub_core::ids::{At, BrokerId, ControllerEpoch, TopicId, TopicName};
use pubsub_core::limits::{
    PARTITIONS_MAX, PUBLISH_TIMEOUT_MS_DEFAULT, REPLICATION_FACTOR_MAX, REQUEST_TIMEOUT_MS_MAX,
};
use pubsub_core::wire::admin::{
    AlterTopicRequest, CreateTopicRequest, TopicCreated, TopicDeleted, TopicDescription,
};
use pubsub_core::wire::client::METADATA_HEADER;
use pubsub_core::wire::error::{ErrorCode, FieldError, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Replication factor of a topic that asks for none.
const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// Pause before the controller is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a broker that was taken for the controller waits to become it.
const FORWARDED_WAIT: Duration = Duration::from_millis(1_000);

/// How a change ended on this broker.
enum Ended {
    /// Committed, and known here.
    Here(Outcome, Arc<Image>),
    /// Another broker answered, and what it changed is known here.
    There(Response),
}

/// Takes a change to the controller. `command` is made from the controller's own image.
async fn change(
    app: &App,
    call: &Whole,
    deadline: Instant,
    command: impl Fn(&Image) -> ApiResult<Command>,
) -> ApiResult<Ended> {
    let patience = if call.forwarded() { deadline.min(Instant::now() + FORWARDED_WAIT) } else { deadline };
    let mut perhaps = false;
    loop {
        let status = app.broker.status();
        let other = status.controller.filter(|id| *id != app.id && !status.leading && !call.forwarded());
        let failed = match other {
            Some(controller) => match there(app, call, controller, deadline).await {
                Ok(answer) => return Ok(Ended::There(answer)),
                Err(error) => error,
            },
            // Its image may be old: what it lacks may be there.
            None if !status.leading => unavailable("no controller is known right now"),
            None => {
                let command = command(&*app.image().await?)?;
                let proposed = tokio::time::timeout_at(deadline, app.broker.propose(command.clone())).await;
                match proposed.unwrap_or(Err(Refusal::Unknown)) {
                    Ok(outcome) => {
                        let behind = || {
                            unavailable("the change is committed, but this broker has not learned of it yet")
                                .ambiguous(true)
                        };
                        let image = app.caught_up(outcome.at).await.ok_or_else(behind)?;
                        return Ok(Ended::Here(outcome, image));
                    }
                    // Made again it changes nothing more, so that "perhaps" can be turned into "yes".
                    Err(Refusal::Unknown) if repeatable(&command) => {
                        perhaps = true;
                        unavailable("the controller is changing")
                    }
                    Err(refused) => refusal(&refused),
                }
            }
        };
        let definite = failed.0.ambiguous == Some(false);
        let passing = matches!(failed.code(), ErrorCode::Unavailable | ErrorCode::BrokerUnreachable);
        if !(definite && passing) || Instant::now() + RETRY_PAUSE >= patience {
            // What one try may have done, the refusal of a later one does not undo.
            return Err(if perhaps { failed.ambiguous(true) } else { failed });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn repeatable(command: &Command) -> bool {
    match command {
        Command::CreateTopic { .. } | Command::AlterTopic { .. } | Command::Reassign { .. } => true,
        Command::Drain { .. } | Command::CancelDrain { .. } => true,
        Command::DeleteTopic { .. }
        | Command::AddReplica { .. }
        | Command::RemoveReplica { .. }
        | Command::CancelMoves { .. }
        | Command::Elect { .. } => false,
    }
}

/// Passes a change on to the controller's broker, and waits until this one knows what became of it.
async fn there(app: &App, call: &Whole, controller: BrokerId, deadline: Instant) -> ApiResult<Response> {
    let unknown =
        || unavailable(format!("the address of the controller, broker {controller}, is not known yet"));
    let api_base = app.api_base(controller).ok_or_else(unknown)?;
    let within = deadline.saturating_duration_since(Instant::now());
    let path = call.uri.path_and_query().map_or("/", |path| path.as_str());
    let hop = Hop {
        api_base: &api_base,
        method: call.method.clone(),
        path,
        headers: carried(&call.headers),
        body: call.body.clone(),
        within,
    };
    let answer = app.forwarder.call(hop).await.map_err(|error| error.of_change())?;
    if let Some(at) = answer.headers().get(METADATA_HEADER).and_then(read_place) {
        app.caught_up(at).await;
    }
    if !answer.status().is_success()
        && let Some(error) = super::forward::problem(&answer)
        && error.code() == ErrorCode::Unavailable
    {
        return Err(error);
    }
    Ok(answer.map(Body::from))
}

fn write_place(at: At) -> HeaderValue {
    HeaderValue::from_str(&at.to_string()).expect("digits and a dot")
}

fn read_place(value: &HeaderValue) -> Option<At> {
    let (epoch, version) = value.to_str().ok()?.split_once('.')?;
    Some(At { epoch: ControllerEpoch(epoch.parse().ok()?), version: version.parse().ok()? })
}

fn answer<T: serde::Serialize>(at: At, body: T) -> Response {
    ([(METADATA_HEADER, write_place(at))], Json(body)).into_response()
}

fn deadline(query: &mut Query<'_>, call: &Whole) -> Instant {
    let ms = query.number("timeout_ms", 1, REQUEST_TIMEOUT_MS_MAX).unwrap_or(PUBLISH_TIMEOUT_MS_DEFAULT);
    // Whoever passed the request on waits as long; this broker's answer has to reach it before that.
    let ms = if call.forwarded() { ms - (ms / 10).min(200) } else { ms };
    Instant::now() + Duration::from_millis(ms)
}

fn changeable(name: String, place: &str) -> ApiResult<TopicName> {
    let name =
        TopicName::try_from(name).map_err(|error| super::error::invalid_name(&error, &[place, "name"]))?;
    if name.as_str().starts_with("__") {
        let msg = "names that start with __ belong to the brokers themselves";
        return Err(ApiError::field("value_error", &[place, "name"], msg));
    }
    Ok(name)
}

/// Creates a topic. The same specification again is fine and changes nothing.
#[utoipa::path(
    post, path = "/admin/topics", tag = "admin",
    params(
        ("name" = Option<String>, Query, description = "The topic's name; may be in the body"),
        ("partitions" = Option<u32>, Query, description = "Number of partitions; default 1"),
        ("rf" = Option<u32>, Query, description = "Replication factor; default 3, or the number of live brokers if fewer"),
        ("owner_id" = Option<u32>, Query, description = "Preferred leader of partition 0"),
        ("min_isr" = Option<u32>, Query, description = "Fewest in-sync replicas that take a publish; default 2 from rf 3, else 1"),
        ("wait" = Option<String>, Query, description = "`ready`: answer once every partition has its leader and replicas in sync"),
        ("timeout_ms" = Option<u64>, Query, description = "Longest time to wait, at most 60000; default 10000"),
    ),
    request_body(content = Option<CreateTopicRequest>, description = "Instead of query parameters, or beside them"),
    responses(
        (status = 200, description = "Committed by a majority and known to this broker", body = TopicCreated),
        (status = 400, description = "UNKNOWN_BROKER", body = Problem),
        (status = 409, description = "TOPIC_EXISTS with another specification, TOO_FEW_BROKERS", body = Problem),
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
    let request = creation(&whole, query)?;
    let name = changeable(request.name.clone(), "query")?;
    // Made once, so that a repeated proposal is about the same topic.
    let id = TopicId(uuid::Uuid::new_v4());
    let command = |image: &Image| creation_command(&request, &name, id, image);
    let (outcome, image) = match change(&app, &whole, deadline, command).await? {
        Ended::Here(outcome, image) => (outcome, image),
        Ended::There(answer) => return Ok(answer),
    };
    let entry = image.topics.get(&outcome.topic).ok_or_else(|| topic_not_found(name.as_str()))?;
    let ready = if ready { Some(wait_ready(&app, outcome.topic, deadline).await) } else { None };
    let created = TopicCreated {
        status: "ok".to_owned(),
        topic: name.to_string(),
        owner_id: entry.partitions.first().and_then(|first| first.leader.or(first.replicas.first().copied())),
        leader_id: app.broker.status().controller,
        id: outcome.topic,
        created: outcome.changed,
        partitions: u32::try_from(entry.partitions.len()).expect("bounded by limits"),
        replication_factor: entry.config.replication_factor,
        ready,
        at: outcome.at,
    };
    Ok(answer(outcome.at, created))
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
        request = serde_json::from_value(fields.into())
            .map_err(|error| super::records_in::json_fault(&error, &["body"]))?;
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
    if query.text("compact").is_some() {
        request.compact = Some(query.flag("compact"));
    }
    query.finish()?;
    check_bounds(request.partitions, request.replication_factor, request.min_isr)?;
    Ok(request)
}

fn check_bounds(partitions: Option<u32>, rf: Option<u32>, min_isr: Option<u32>) -> ApiResult<()> {
    let bounded = [
        ("partitions", partitions, PARTITIONS_MAX),
        ("replication_factor", rf, REPLICATION_FACTOR_MAX),
        ("min_isr", min_isr, REPLICATION_FACTOR_MAX),
    ];
    let faults: Vec<_> = bounded
        .into_iter()
        .filter(|(_, given, most)| given.is_some_and(|given| given < 1 || given > *most))
        .map(|(name, given, most)| FieldError {
            kind: if given == Some(0) { "greater_than_equal" } else { "less_than_equal" }.to_owned(),
            loc: vec!["body".to_owned(), name.to_owned()],
            msg: format!("use a whole number from 1 to {most}"),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(ApiError::fields(faults)) }
}

/// Fills in what a creation leaves open: from the topic itself if it is there already, else from the cluster.
fn creation_command(
    request: &CreateTopicRequest,
    name: &TopicName,
    id: TopicId,
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
        owner: request.owner.clone().or_else(|| existing.and_then(|entry| entry.config.owner.clone())),
    };
    check_min_isr(&config)?;
    let there = existing.and_then(|entry| u32::try_from(entry.partitions.len()).ok());
    let partitions = request.partitions.or(there).unwrap_or(1);
    Ok(Command::CreateTopic { name: name.clone(), id, partitions, config, leader: request.owner_id })
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

/// Changes a topic's settings, or adds partitions.
#[utoipa::path(
    patch, path = "/admin/topics/{name}", tag = "admin", request_body = AlterTopicRequest,
    params(("name" = String, Path, description = "The topic's name")),
    responses(
        (status = 200, description = "Committed by a majority and known to this broker", body = TopicDescription),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn alter(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    query.finish()?;
    let request: AlterTopicRequest = whole.json()?;
    check_bounds(request.partitions, request.replication_factor, request.min_isr)?;
    let name = changeable(name, "path")?;
    let command = |image: &Image| {
        let (_, entry) = image.topic_by_name(&name).ok_or_else(|| topic_not_found(name.as_str()))?;
        let old = &entry.config;
        let config = TopicConfig {
            replication_factor: request.replication_factor.unwrap_or(old.replication_factor),
            min_isr: request.min_isr.unwrap_or(old.min_isr),
            retention_ms: request.retention_ms.unwrap_or(old.retention_ms),
            retention_bytes: request.retention_bytes.unwrap_or(old.retention_bytes),
            compact: request.compact.unwrap_or(old.compact),
            owner: request.owner.clone().unwrap_or_else(|| old.owner.clone()),
        };
        check_min_isr(&config)?;
        let config = (config != *old).then_some(config);
        Ok(Command::AlterTopic { name: name.clone(), config, partitions: request.partitions })
    };
    described(&app, &name, change(&app, &whole, deadline, command).await?)
}

/// Answers with the topic as a change left it.
fn described(app: &App, name: &TopicName, ended: Ended) -> ApiResult<Response> {
    match ended {
        Ended::Here(outcome, image) => {
            let entry = image.topics.get(&outcome.topic).ok_or_else(|| topic_not_found(name.as_str()))?;
            Ok(answer(outcome.at, super::look::describe(app, &image, outcome.topic, entry)))
        }
        Ended::There(answer) => Ok(answer),
    }
}

/// Deletes a topic and its records.
#[utoipa::path(
    delete, path = "/admin/topics/{name}", tag = "admin",
    params(("name" = String, Path, description = "The topic's name")),
    responses((status = 200, description = "Committed by a majority", body = TopicDeleted), (status = 404, description = "TOPIC_NOT_FOUND", body = Problem))
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
    query.finish()?;
    if if_empty {
        // Looking first and deleting then would delete what was published in between.
        return Err(ApiError::new(
            ErrorCode::Unsupported,
            "if_empty is not supported yet; nothing was deleted",
        ));
    }
    let name = changeable(name, "path")?;
    let command = |_: &Image| Ok(Command::DeleteTopic { name: name.clone() });
    match change(&app, &whole, deadline, command).await? {
        Ended::Here(outcome, _) => {
            let deleted =
                TopicDeleted { status: "ok".to_owned(), topic: name.to_string(), id: outcome.topic };
            Ok(answer(outcome.at, deleted))
        }
        Ended::There(answer) => Ok(answer),
    }
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

    #[test]
    fn names_that_could_never_be_published_to_are_refused() {
        for name in ["", "a/b", "..", "__groups"] {
            assert_eq!(changeable(name.to_owned(), "query").unwrap_err().0.status, 422, "{name:?}");
        }
    }

    #[test]
    fn a_place_survives_its_header() {
        let at = At { epoch: ControllerEpoch(7), version: 42 };
        assert_eq!(read_place(&write_place(at)), Some(at));
    }
}
