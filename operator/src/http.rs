//! The operator's own listener: metrics and probes.

use crate::controller::Pulse;
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A loop that acts and has not turned for so long is stuck: it turns every second when nothing happens.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// Media type of metrics.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What probes are answered from.
#[derive(Clone)]
pub struct Probes {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The loop's pulse.
    pub pulse: Arc<Pulse>,
    last: Arc<Mutex<(u64, Instant)>>,
}

impl Probes {
    /// Makes what probes are answered from.
    pub fn new(metrics: Arc<Metrics>, pulse: Arc<Pulse>) -> Self {
        Self { metrics, pulse, last: Arc::new(Mutex::new((0, Instant::now()))) }
    }

    /// Returns whether the loop turns, or has no reason to.
    fn alive(&self, now: Instant) -> bool {
        let mut last = self.last.lock().expect("no code panics while it holds the pulse");
        let turns = self.pulse.turns();
        if last.0 != turns || self.metrics.leading.get() == 0 {
            *last = (turns, now);
        }
        now.saturating_duration_since(last.1) < STUCK_AFTER
    }

    /// Returns whether it does what is expected of it: it stands by, or knows all objects.
    fn ready(&self) -> bool {
        self.metrics.leading.get() == 0 || self.pulse.synced()
    }
}

/// Serves metrics and probes until `stop`.
///
/// # Errors
/// When the server fails.
pub async fn serve(listener: TcpListener, probes: Probes, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(probes);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], probes.metrics.render())
}

async fn livez(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    if probes.alive(Instant::now()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the loop has not turned for 30 s: restart the pod\n")
    }
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    if probes.ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "topics are not listed yet: is the definition installed, and may the operator list them?\n",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loop_that_should_turn_and_does_not_is_stuck() {
        let probes = Probes::new(Arc::default(), Arc::default());
        let began = Instant::now();
        assert!(
            probes.alive(began + 2 * STUCK_AFTER) && probes.ready(),
            "one that stands by has nothing to do"
        );
        probes.metrics.leading.set(1);
        assert!(probes.alive(began + 2 * STUCK_AFTER) && !probes.ready(), "it knows no objects yet");
        assert!(!probes.alive(began + 4 * STUCK_AFTER));
    }
}
