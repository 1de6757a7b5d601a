//! Waiting between tries: jittered exponential backoff with a cap and a deadline, the one helper for all retries.

use std::time::Duration;
use tokio::time::Instant;

/// How long to wait between tries, and for how long to go on trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper end of the first wait.
    pub first: Duration,
    /// Upper end of every later wait; the waits double until they reach it.
    pub cap: Duration,
    /// No try begins later than this after the first one.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// Begins at 50 ms, waits at most 1 s, gives up after 30 s: longer than an election and a session time-out together.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            cap: Duration::from_secs(1),
            deadline: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Returns the same policy with another deadline.
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Returns the upper end of the wait before retry number `retry`, counted from 0.
    pub fn ceiling(&self, retry: u32) -> Duration {
        let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.cap)
    }
}

/// The tries of one operation under a [`RetryPolicy`].
#[derive(Debug)]
pub struct Backoff {
    policy: RetryPolicy,
    started: Instant,
    retries: u32,
}

impl Backoff {
    /// Starts the clock of an operation.
    pub fn start(policy: RetryPolicy) -> Self {
        Self { policy, started: Instant::now(), retries: 0 }
    }

    /// Returns how many retries were granted so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Returns the time since the operation began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time that is left; zero once the deadline is over.
    pub fn left(&self) -> Duration {
        self.policy.deadline.saturating_sub(self.elapsed())
    }

    /// Begins a new round after progress: waits are short again and the deadline counts from now.
    pub fn reset(&mut self) {
        self.started = Instant::now();
        self.retries = 0;
    }

    /// Grants one more try and returns how long to wait before it, or `None` when it would begin after the deadline.
    ///
    /// The wait is random in the upper half of its range, so that many clients that lost the same broker do not come
    /// back together; `at_least` is what a broker asked for (`Retry-After`), and is honoured up to the deadline.
    pub fn next_wait(&mut self, at_least: Duration) -> Option<Duration> {
        let ceiling = self.policy.ceiling(self.retries);
        let wait = rand::random_range(ceiling / 2..=ceiling).max(at_least);
        if wait >= self.left() {
            return None;
        }
        self.retries = self.retries.saturating_add(1);
        Some(wait)
    }

    /// Waits before one more try; returns `false` without waiting when it would begin after the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future forfeits only the wait.
    pub async fn wait(&mut self, at_least: Duration) -> bool {
        match self.next_wait(at_least) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        first: Duration::from_millis(100),
        cap: Duration::from_secs(1),
        deadline: Duration::from_secs(10),
    };

    #[test]
    fn waits_double_up_to_the_cap() {
        let ceilings: Vec<u128> = (0..6).map(|retry| POLICY.ceiling(retry).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(POLICY.ceiling(u32::MAX), POLICY.cap, "a huge count must not overflow");
    }

    #[tokio::test(start_paused = true)]
    async fn every_wait_lies_in_the_upper_half_of_its_range() {
        let mut backoff = Backoff::start(POLICY);
        for retry in 0..8 {
            let wait = backoff.next_wait(Duration::ZERO).unwrap();
            let ceiling = POLICY.ceiling(retry);
            assert!(wait >= ceiling / 2 && wait <= ceiling, "retry {retry} waits {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_begins_after_the_deadline() {
        let mut backoff = Backoff::start(POLICY);
        while backoff.wait(Duration::ZERO).await {}
        assert!(backoff.elapsed() < POLICY.deadline);
        assert!(backoff.retries() >= 10, "only {} tries", backoff.retries());
        backoff.reset();
        assert!(backoff.wait(Duration::ZERO).await, "progress begins a new round");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_broker_asks_for_is_honoured_up_to_the_deadline() {
        let mut backoff = Backoff::start(POLICY);
        assert!(backoff.next_wait(Duration::from_secs(3)).unwrap() >= Duration::from_secs(3));
        assert_eq!(backoff.next_wait(Duration::from_secs(11)), None);
    }
}
