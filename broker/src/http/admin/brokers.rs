//! Emptying brokers, and leaders by request.

use super::{Ended, answer, bare, broker_in_path, change, changeable, deadline, described};
use crate::http::error::{ApiResult, refusal};
use crate::http::look::describe_broker;
use crate::http::query::Query;
use crate::http::{App, Call, Segments};
use axum::extract::State;
use axum::response::Response;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Refusal};
use pubsub_core::ids::BrokerId;
use pubsub_core::limits::PARTITIONS_MAX;
use pubsub_core::wire::admin::{BrokerDescription, TopicDescription};
use pubsub_core::wire::error::Problem;

/// Empties a broker: leaderships first, then its replicas move to others, some at a time.
#[utoipa::path(
    post, path = "/admin/brokers/{broker}/drain", tag = "admin",
    params(("broker" = u32, Path, description = "The broker's id")),
    responses(
        (status = 200, description = "Committed; the broker's `state` is `drained` once it holds nothing", body = BrokerDescription),
        (status = 400, description = "UNKNOWN_BROKER", body = Problem),
        (status = 409, description = "CONFLICT: a topic's replicas would not fit on the other brokers", body = Problem),
    )
)]
pub(crate) async fn drain(
    State(app): State<App>,
    Segments(broker): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    set_draining(&app, &broker, call, |broker| Command::Drain { broker }).await
}

/// Lets a broker that was being emptied take part again; what has left it stays where it is.
#[utoipa::path(
    delete, path = "/admin/brokers/{broker}/drain", tag = "admin",
    params(("broker" = u32, Path, description = "The broker's id")),
    responses(
        (status = 200, description = "Committed", body = BrokerDescription),
        (status = 400, description = "UNKNOWN_BROKER", body = Problem),
    )
)]
pub(crate) async fn cancel_drain(
    State(app): State<App>,
    Segments(broker): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    set_draining(&app, &broker, call, |broker| Command::CancelDrain { broker }).await
}

async fn set_draining(
    app: &App,
    broker: &str,
    call: Call,
    wish: impl Fn(BrokerId) -> Command,
) -> ApiResult<Response> {
    let (whole, deadline) = bare(call).await?;
    let broker = broker_in_path(broker)?;
    match change(app, &whole, deadline, |_: &Image| Ok(wish(broker))).await? {
        Ended::Here((outcome, image)) => {
            let described = describe_broker(app, &image, broker);
            let described = described.ok_or_else(|| refusal(&Refusal::BrokerNotFound { broker }))?;
            Ok(answer(outcome.at, described))
        }
        Ended::There(answer) => Ok(answer),
    }
}

/// Gives partitions another leader: the preferred replica, if it is in sync, or the one that is named.
///
/// With `unclean`, partitions without a leader are given to a live replica that may lack acknowledged records. Those
/// records are lost.
#[utoipa::path(
    post, path = "/admin/topics/{name}/elect", tag = "admin",
    params(
        ("name" = String, Path, description = "The topic's name"),
        ("partition" = Option<u32>, Query, minimum = 0, maximum = 1000, description = "One partition; all if not given"),
        ("broker_id" = Option<u32>, Query, minimum = 0, description = "Who shall lead"),
        ("unclean" = Option<bool>, Query, description = "Give partitions without a leader to a replica that is not in sync: acknowledged records are LOST"),
    ),
    responses(
        (status = 200, description = "Committed", body = TopicDescription),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "CONFLICT: no such replica is alive (and in sync)", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn elect(
    State(app): State<App>,
    Segments(name): Segments<String>,
    call: Call,
) -> ApiResult<Response> {
    let whole = call.body().await?;
    let mut query = Query::parse(whole.uri.query());
    let deadline = deadline(&mut query, &whole);
    let partition = query.number("partition", 0, PARTITIONS_MAX);
    let broker = query.number("broker_id", 0, u32::MAX).map(BrokerId);
    let unclean = query.flag("unclean");
    query.finish()?;
    let name = changeable(name, "path")?;
    let command = |_: &Image| Ok(Command::Elect { name: name.clone(), partition, broker, unclean });
    described(&app, &name, change(&app, &whole, deadline, command).await?)
}
