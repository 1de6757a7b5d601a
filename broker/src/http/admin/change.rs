//! The way of a change to the controller, wherever that is, and back.

use crate::http::App;
use crate::http::call::Whole;
use crate::http::error::{ApiError, ApiResult, refusal, unavailable};
use crate::http::forward::{Hop, carried, problem};
use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Outcome, Refusal};
use pubsub_core::ids::{At, BrokerId, ControllerEpoch};
use pubsub_core::wire::client::METADATA_HEADER;
use pubsub_core::wire::error::ErrorCode;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before the controller is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a broker that was taken for the controller waits to become it.
const FORWARDED_WAIT: Duration = Duration::from_millis(1_000);

/// How a change ended.
pub(super) enum Ended<T> {
    /// On this broker: committed, and known here.
    Here(T),
    /// Another broker answered, and what it changed is known here.
    There(Response),
}

/// Why a try at this broker, being the controller, came to nothing.
pub(super) struct Missed {
    error: ApiError,
    /// It may have been done all the same, and does no harm when it is done again.
    perhaps: bool,
}

impl From<ApiError> for Missed {
    fn from(error: ApiError) -> Self {
        Self { error, perhaps: false }
    }
}

impl Missed {
    /// Says what a refused command means for the request.
    pub(super) fn refused(refused: &Refusal, repeatable: bool) -> Self {
        match refused {
            // Made again it changes nothing more, so that "perhaps" can be turned into "yes".
            Refusal::Unknown if repeatable => {
                Self { error: unavailable("the controller is changing"), perhaps: true }
            }
            refused => refusal(refused).into(),
        }
    }
}

/// Takes a change to the controller. `command` is made from the controller's own image.
pub(super) async fn change(
    app: &App,
    call: &Whole,
    deadline: Instant,
    command: impl Fn(&Image) -> ApiResult<Command>,
) -> ApiResult<Ended<(Outcome, Arc<Image>)>> {
    change_looked_at(app, call, deadline, |image| ready(command(&image))).await
}

/// The same where making the command takes a look at other brokers.
pub(super) async fn change_looked_at<F: Future<Output = ApiResult<Command>>>(
    app: &App,
    call: &Whole,
    deadline: Instant,
    command: impl Fn(Arc<Image>) -> F,
) -> ApiResult<Ended<(Outcome, Arc<Image>)>> {
    let command = &command;
    let propose = || async move {
        let command = command(app.image().await?).await?;
        let proposed = tokio::time::timeout_at(deadline, app.broker.propose(command.clone())).await;
        match proposed.unwrap_or(Err(Refusal::Unknown)) {
            Ok(outcome) => {
                let image = known_here(app, outcome.at).await?;
                Ok((outcome, image))
            }
            Err(refused) => Err(Missed::refused(&refused, repeatable(&command))),
        }
    };
    at_controller(app, call, deadline, propose).await
}

/// Returns the image once this broker acts on what was committed at `at`.
pub(super) async fn known_here(app: &App, at: At) -> ApiResult<Arc<Image>> {
    app.caught_up(at).await.ok_or_else(|| {
        unavailable("the change is committed, but this broker has not learned of it yet").ambiguous(true)
    })
}

/// Does `work` if this broker is the controller, else passes the request on to it; again and again while nobody is.
pub(super) async fn at_controller<T, F: Future<Output = Result<T, Missed>>>(
    app: &App,
    call: &Whole,
    deadline: Instant,
    work: impl Fn() -> F,
) -> ApiResult<Ended<T>> {
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
            None => match work().await {
                Ok(done) => return Ok(Ended::Here(done)),
                Err(missed) => {
                    perhaps |= missed.perhaps;
                    missed.error
                }
            },
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
        && let Some(error) = problem(&answer)
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

pub(super) fn answer<T: serde::Serialize>(at: At, body: T) -> Response {
    ([(METADATA_HEADER, write_place(at))], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_header() {
        let at = At { epoch: ControllerEpoch(7), version: 42 };
        assert_eq!(read_place(&write_place(at)), Some(at));
    }
}
