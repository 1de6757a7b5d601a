//! Waiting for a condition with a deadline, the only way in which these tests wait.

use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Returns the factor on all timeouts of brokers and tests: `PUBSUB_TEST_TIMEOUT_SCALE`, 1 unless set.
pub fn timeout_scale() -> u32 {
    std::env::var("PUBSUB_TEST_TIMEOUT_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

/// Returns a duration under [`timeout_scale`].
pub fn scaled(duration: Duration) -> Duration {
    duration * timeout_scale()
}

/// Lets a fault last. Only for that: what a test waits for is awaited by [`eventually`].
pub async fn fault_lasts(duration: Duration) {
    tokio::time::sleep(scaled(duration)).await;
}

/// Looks until `look` succeeds and returns what it gave.
///
/// # Panics
/// With the last reason, when it still fails at the (scaled) deadline.
#[track_caller]
pub fn eventually<T, F>(what: &str, deadline: Duration, look: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> anyhow::Result<T>,
{
    let caller = std::panic::Location::caller();
    wait(what.to_owned(), scaled(deadline), look, caller)
}

async fn wait<T>(
    what: String,
    deadline: Duration,
    look: impl AsyncFnMut() -> anyhow::Result<T>,
    caller: &std::panic::Location<'static>,
) -> T {
    match within(&what, deadline, look).await {
        Ok(found) => found,
        Err(error) => panic!("{caller}: {error:#}"),
    }
}

/// Looks until `look` succeeds and returns what it gave. The deadline is taken as it is.
///
/// # Errors
/// With the last reason, when it still fails at the deadline.
pub async fn within<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let reason = match tokio::time::timeout(deadline, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "the look itself took too long".to_owned(),
        };
        if start.elapsed() >= deadline {
            anyhow::bail!("not within {deadline:?}: {what}; last: {reason}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
