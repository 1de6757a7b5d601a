//! Publishers, readers, members of groups and administrators at work on a cluster, each noting what it was told.
//!
//! Each worker is a task that owns its part of the history and returns it when it is told to stop. Workers ask brokers
//! past the proxies: a client is not cut off by what separates brokers.

pub mod admin;
pub mod group;
pub mod load;
pub mod publisher;
pub mod reader;
pub mod watch;

use crate::brokers::Brokers;
use crate::history::{History, Ms, Outcome, Span};
use crate::sim::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Pause after a request that failed, so that a broker that is gone doesn't make a busy loop.
const PACE: Duration = Duration::from_millis(20);

/// The time since a run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time since the start.
    pub fn now(self) -> Ms {
        Ms::try_from(self.0.elapsed().as_millis()).unwrap_or(Ms::MAX)
    }

    /// Returns the span from `began` to now.
    pub fn since(self, began: Ms) -> Span {
        Span { began, ended: self.now() }
    }
}

/// What all workers of a run share.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Arc<dyn Brokers>,
    /// Its clock.
    pub clock: Clock,
    progress: Arc<Vec<AtomicUsize>>,
}

impl Stage {
    /// Sets the stage for so many publishers.
    pub fn new(cluster: &Arc<impl Brokers + 'static>, publishers: usize) -> Self {
        let progress = (0..publishers).map(|_| AtomicUsize::new(0)).collect();
        let cluster: Arc<dyn Brokers> = cluster.clone();
        Self { cluster, clock: Clock::start(), progress: Arc::new(progress) }
    }

    /// Returns how many records each publisher got acknowledged so far.
    pub fn acked(&self) -> Vec<usize> {
        self.progress.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    fn note_acked(&self, publisher: usize, records: usize) {
        self.progress[publisher].fetch_add(records, Ordering::Relaxed);
    }
}

/// Tells some workers to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells them.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether they were told.
    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Workers that stop together.
#[derive(Debug, Default)]
pub struct Crew {
    /// Tells them to stop.
    pub stop: Stop,
    workers: JoinSet<History>,
}

impl Crew {
    /// Sets one more to work.
    pub fn add(&mut self, worker: impl Future<Output = History> + Send + 'static) {
        self.workers.spawn(worker);
    }

    /// Stops all and adds what they saw to `history`.
    ///
    /// # Panics
    /// When one of them panicked.
    pub async fn finish(mut self, history: &mut History) {
        self.stop.stop();
        while let Some(seen) = self.workers.join_next().await {
            history.merge(seen.expect("workers don't panic"));
        }
    }
}

/// Returns what a request for a change came to that got no answer: only what never reached a broker was surely not done.
fn unanswered<T>(error: &reqwest::Error) -> Outcome<T> {
    let why = format!("{error:?}");
    if error.is_connect() { Outcome::Refused(why) } else { Outcome::Unknown(why) }
}

/// Which broker to ask: the same one while it answers, another one after a failure, and each of them now and then.
#[derive(Debug)]
struct Route {
    broker: u32,
    answered: u32,
    rng: Rng,
}

/// Answers in a row after which another broker is asked, so that all of them serve everybody.
const TURN: u32 = 64;

impl Route {
    fn new(cluster: &Arc<dyn Brokers>, seed: u64) -> Self {
        let mut route = Self { broker: 0, answered: 0, rng: Rng::new(seed) };
        route.broker = route.rng.pick(&cluster.ids()).unwrap_or_default();
        route
    }

    fn answered(&mut self, cluster: &Arc<dyn Brokers>) {
        self.answered += 1;
        if self.answered.is_multiple_of(TURN) {
            self.next(cluster);
        }
    }

    /// Goes on to the next broker after a failure, and takes a breath.
    async fn failed(&mut self, cluster: &Arc<dyn Brokers>) {
        self.next(cluster);
        tokio::time::sleep(PACE).await;
    }

    /// Goes on to the next broker in a ring, as a client does that tries each once.
    fn next(&mut self, cluster: &Arc<dyn Brokers>) {
        let ids = cluster.ids();
        self.broker =
            ids.iter().copied().find(|id| *id > self.broker).or(ids.first().copied()).unwrap_or_default();
    }
}
