//! Changes of topics. Whichever broker is asked, the controller decides, and the answer comes once it is committed and
//! known here.

pub(crate) mod batch;
pub(crate) mod brokers;
mod change;
pub(crate) mod create;
pub(crate) mod remove;
pub(crate) mod replicas;

use super::error::{ApiError, ApiResult, topic_not_found};
use super::query::Query;
use super::{App, Call, Segments};
use crate::http::call::Whole;
use axum::extract::State;
use axum::response::Response;
use change::{Ended, answer, change};
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Outcome};
use pubsub_core::ids::{BrokerId, TopicName};
use pubsub_core::limits::{
    PARTITIONS_MAX, PUBLISH_TIMEOUT_MS_DEFAULT, REPLICATION_FACTOR_MAX, REQUEST_TIMEOUT_MS_MAX,
};
use pubsub_core::wire::admin::{AlterTopicRequest, TopicDescription};
use pubsub_core::wire::error::{FieldError, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn deadline(query: &mut Query<'_>, call: &Whole) -> Instant {
    let ms = query.number("timeout_ms", 1, REQUEST_TIMEOUT_MS_MAX).unwrap_or(PUBLISH_TIMEOUT_MS_DEFAULT);
    // Whoever passed the request on waits as long; this broker's answer has to reach it before that.
    let ms = if call.forwarded() { ms - (ms / 10).min(200) } else { ms };
    Instant::now() + Duration::from_millis(ms)
}

/// Takes a request that has no parameters but its patience.
async fn bare(call: Call) -> ApiResult<(Whole, Instant)> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    query.finish()?;
    Ok((whole, deadline))
}

fn broker_in_path(text: &str) -> ApiResult<BrokerId> {
    let fault = |_| ApiError::field("int_parsing", &["path", "broker"], "use a broker's id");
    Ok(BrokerId(text.parse().map_err(fault)?))
}

fn changeable(name: String, place: &str) -> ApiResult<TopicName> {
    let name =
        TopicName::try_from(name).map_err(|error| super::error::invalid_name(&error, &[place, "name"]))?;
    if name.is_internal() {
        let msg = "names that start with __ belong to the brokers themselves";
        return Err(ApiError::field("value_error", &[place, "name"], msg));
    }
    Ok(name)
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

/// Changes a topic's settings, or adds partitions.
#[utoipa::path(
    patch, path = "/admin/topics/{name}", tag = "admin", request_body = AlterTopicRequest,
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("owner_uid" = Option<String>, Query, description = "Only if the topic's owner has this `uid`, or there is none"),
        ("take_ownership" = Option<bool>, Query, description = "Make the body's `owner` the owner, whoever that was"),
    ),
    responses(
        (status = 200, description = "Committed by a majority and known to this broker", body = TopicDescription),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: a broker that is needed takes no replicas now; TOPIC_OWNED by another, TOO_FEW_BROKERS", body = Problem),
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
    let owner_uid = query.text("owner_uid").map(str::to_owned);
    let take_ownership = query.flag("take_ownership");
    query.finish()?;
    let request: AlterTopicRequest = whole.json()?;
    check_bounds(request.partitions, request.replication_factor, request.min_isr)?;
    let name = changeable(name, "path")?;
    let command = |_: &Image| {
        let (name, change, owner_uid) = (name.clone(), request.clone(), owner_uid.clone());
        Ok(Command::AlterTopic { name, change, owner_uid, take_ownership })
    };
    described(&app, &name, change(&app, &whole, deadline, command).await?)
}

/// Answers with the topic as a change left it.
fn described(app: &App, name: &TopicName, ended: Ended<(Outcome, Arc<Image>)>) -> ApiResult<Response> {
    match ended {
        Ended::Here((outcome, image)) => {
            let entry = image.topics.get(&outcome.topic).ok_or_else(|| topic_not_found(name.as_str()))?;
            Ok(answer(outcome.at, super::look::describe(app, &image, outcome.topic, entry)))
        }
        Ended::There(answer) => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_could_never_be_published_to_are_refused() {
        for name in ["", "a/b", "..", "__groups"] {
            assert_eq!(changeable(name.to_owned(), "query").unwrap_err().0.status, 422, "{name:?}");
        }
    }
}
