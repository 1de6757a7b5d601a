//! Many topics that come to be at once, in as few images as possible.

use super::change::{Ended, Missed, answer, at_controller, known_here};
use super::create::{created, creation_command};
use super::{changeable, check_bounds, deadline};
use crate::http::error::{ApiError, ApiResult, refusal};
use crate::http::query::Query;
use crate::http::records_in::json_fault;
use crate::http::{App, Call};
use axum::extract::State;
use axum::response::Response;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Outcome, Refusal};
use pubsub_core::ids::{At, TopicId, TopicName};
use pubsub_core::limits::{BATCH_PARTITIONS_MAX, TOPICS_BATCH_MAX};
use pubsub_core::wire::admin::{CreateTopicRequest, CreateTopicsRequest, TopicResult, TopicsCreated};
use pubsub_core::wire::error::Problem;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

/// One topic of the request, understood.
struct Wanted {
    request: CreateTopicRequest,
    name: TopicName,
    /// Made once, so that a repeated proposal is about the same topic.
    id: TopicId,
}

/// One topic of the request, as it was given.
struct Item {
    given: String,
    wanted: ApiResult<Wanted>,
}

/// The body with its items unread: one that is wrong does not spoil the others.
#[derive(Deserialize)]
struct Items {
    topics: Vec<Value>,
}

/// Creates topics, each as if it came alone. Those that can be created are committed together, the others are refused.
#[utoipa::path(
    post, path = "/admin/topics:batch", tag = "admin", request_body = CreateTopicsRequest,
    params(
        ("take_ownership" = Option<bool>, Query, description = "As for one topic"),
        ("timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 60000, description = "Longest time to wait, milliseconds; default 10000"),
    ),
    responses(
        (status = 200, description = "One result for each topic, in order; look at each", body = TopicsCreated),
        (status = 422, description = "VALIDATION_FAILED: the request as a whole", body = Problem),
        (status = 503, description = "Definite, nothing was changed: UNAVAILABLE", body = Problem),
        (status = 504, description = "Ambiguous: OUTCOME_UNKNOWN", body = Problem),
    )
)]
pub(crate) async fn create_many(State(app): State<App>, call: Call) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    let take = query.flag("take_ownership");
    query.finish()?;
    let items = items(whole.json()?)?;
    let (app, items) = (&app, &items);
    let work = || async move { create_all(app, items, take, deadline).await };
    match at_controller(app, &whole, deadline, work).await? {
        Ended::Here((at, results)) => Ok(answer(at, TopicsCreated { results })),
        Ended::There(answer) => Ok(answer),
    }
}

fn items(body: Items) -> ApiResult<Vec<Item>> {
    let count = body.topics.len();
    if count == 0 || count > TOPICS_BATCH_MAX {
        let msg = format!("give 1 to {TOPICS_BATCH_MAX} topics, these are {count}");
        return Err(ApiError::field("value_error", &["body", "topics"], msg));
    }
    let items: Vec<_> = (0..).zip(body.topics).map(|(index, value)| item(index, value)).collect();
    let partitions =
        |item: &Item| item.wanted.as_ref().map_or(0, |wanted| wanted.request.partitions.unwrap_or(1));
    let partitions: u64 = items.iter().map(|item| u64::from(partitions(item))).sum();
    if partitions > BATCH_PARTITIONS_MAX {
        let msg =
            format!("at most {BATCH_PARTITIONS_MAX} partitions are created at once, these are {partitions}");
        return Err(ApiError::field("value_error", &["body", "topics"], msg));
    }
    Ok(items)
}

fn item(index: u32, value: Value) -> Item {
    let given = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let place = index.to_string();
    let read = || {
        let request: CreateTopicRequest =
            serde_json::from_value(value).map_err(|error| json_fault(&error, &["body", "topics", &place]))?;
        check_bounds(request.partitions, request.replication_factor, request.min_isr)?;
        let name = changeable(request.name.clone(), "body")?;
        Ok(Wanted { request, name, id: TopicId(uuid::Uuid::new_v4()) })
    };
    Item { given, wanted: read() }
}

/// Proposes every topic that can be proposed, at once, and waits until all are committed or refused.
async fn create_all(
    app: &App,
    items: &[Item],
    take: bool,
    deadline: Instant,
) -> Result<(At, Vec<TopicResult>), Missed> {
    let image = app.image().await?;
    let command = |item: &Item| -> ApiResult<Command> {
        let wanted = item.wanted.as_ref().map_err(Clone::clone)?;
        creation_command(&wanted.request, &wanted.name, wanted.id, take, &image)
    };
    let commands: Vec<_> = items.iter().map(command).collect();
    let proposed: Vec<_> = commands.iter().filter_map(|command| command.as_ref().ok().cloned()).collect();
    let outcomes = tokio::time::timeout_at(deadline, app.broker.propose_all(proposed)).await;
    let outcomes = outcomes.map_err(|_| Missed::refused(&Refusal::Unknown, true))?;
    // What a controller that is one no longer did not do, the next one is asked for: all of it, which does no harm.
    let passing = |refused: &&Refusal| matches!(refused, Refusal::Unknown | Refusal::NotController { .. });
    if let Some(refused) = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).find(passing) {
        return Err(Missed::refused(refused, true));
    }
    let newest = outcomes.iter().filter_map(|outcome| Some(outcome.as_ref().ok()?.at)).max();
    let image = match newest {
        Some(at) => known_here(app, at).await?,
        None => image,
    };
    let mut outcomes = outcomes.into_iter();
    let results = items.iter().zip(commands).map(|(item, command)| {
        let outcome = command.and_then(|_| {
            let outcome = outcomes.next().unwrap_or(Err(Refusal::Unknown));
            outcome.map_err(|refused| refusal(&refused))
        });
        result(app, &image, item, outcome)
    });
    let results = results.collect();
    Ok((newest.unwrap_or(image.at), results))
}

fn result(app: &App, image: &Image, item: &Item, outcome: ApiResult<Outcome>) -> TopicResult {
    let done = outcome.and_then(|outcome| {
        let wanted = item.wanted.as_ref().map_err(Clone::clone)?;
        created(app, image, &wanted.name, wanted.id, &outcome)
    });
    let topic = item.given.clone();
    match done {
        Ok(done) => TopicResult { topic, status: 200, done: Some(done), problem: None },
        Err(error) => TopicResult { topic, status: error.0.status, done: None, problem: Some(*error.0) },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn one_wrong_topic_does_not_spoil_the_others() {
        let topics =
            vec![json!({"name": "a"}), json!({"name": 7}), json!({"name": "b", "rf": 99}), json!({})];
        let items = items(Items { topics }).unwrap();
        let good: Vec<_> = items.iter().map(|item| item.wanted.is_ok()).collect();
        assert_eq!(good, [true, false, false, false]);
        assert_eq!(items[2].given, "b");
    }

    #[test]
    fn a_batch_is_bounded_in_topics_and_in_partitions() {
        let named = |count: usize, partitions: u32| {
            let topic = |n: usize| json!({"name": format!("t{n}"), "partitions": partitions});
            items(Items { topics: (0..count).map(topic).collect() }).is_ok()
        };
        assert!(named(TOPICS_BATCH_MAX, 1) && named(10, 1_000));
        assert!(!named(TOPICS_BATCH_MAX + 1, 1) && !named(0, 1) && !named(11, 1_000));
    }
}
