//! The loop: who is looked at when. It watches objects, listens to the brokers' feed, lets every object be looked at again
//! after a while, and decides nothing about topics: that is [`crate::plan`].

pub mod objects;
mod survey;
mod watch;

use crate::crd::GroupsStatus;
use crate::feed::Heard;
use crate::metrics::ReadyLabel;
use crate::queue::{Queue, jittered};
use crate::reconcile::{Again, Context, Done, Job, reconcile};
use crate::status;
use objects::{Key, Objects};
use pubsub_client::retry::RetryPolicy;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use survey::Survey;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use watch::Watch;

/// How soon something that is under way is looked at again, if no event comes first.
const SOON: Duration = Duration::from_millis(500);
/// How much later than the first event all objects are looked at, at most: they spread out over it.
const SPREAD: Duration = Duration::from_secs(1);
/// How long passes that are under way may take once the operator is told to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Waits after failures in a row.
const BACK_OFF: RetryPolicy =
    RetryPolicy { first: Duration::from_secs(1), cap: Duration::from_secs(30), deadline: Duration::MAX };

/// What readiness and liveness are told of the loop.
#[derive(Debug, Default)]
pub struct Pulse {
    turns: AtomicU64,
    synced: std::sync::atomic::AtomicBool,
}

impl Pulse {
    /// Returns how often the loop has turned.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Returns whether all objects have been listed.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }
}

/// The loop's state; one task owns it.
pub struct Controller {
    context: Arc<Context>,
    objects: Objects,
    queue: Queue<Key>,
    passes: JoinSet<(Key, Done)>,
    groups: Arc<BTreeMap<String, GroupsStatus>>,
    pulse: Arc<Pulse>,
}

impl Controller {
    /// Makes a loop that knows nothing yet.
    pub fn new(context: Arc<Context>, pulse: Arc<Pulse>) -> Self {
        Self {
            context,
            objects: Objects::default(),
            queue: Queue::default(),
            passes: JoinSet::new(),
            groups: Arc::default(),
            pulse,
        }
    }

    /// Runs until `stop`, and then lets passes end that are under way; or until `lost`, and then cuts them off.
    pub async fn run(
        mut self,
        mut feed: mpsc::Receiver<Heard>,
        stop: CancellationToken,
        lost: CancellationToken,
    ) {
        let place = &self.context.config.place;
        let mut watch = Watch::start(&self.context.kube, &place.watched);
        let (survey, mut surveys) = mpsc::channel(1);
        let chores = survey::every(self.context.brokers.clone(), self.context.config.resync, survey);
        let chores = tokio::spawn(lost.clone().run_until_cancelled_owned(chores));
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        info!(watched = ?place.watched, "looking after topics");
        loop {
            self.pulse.turns.fetch_add(1, Ordering::Relaxed);
            self.begin_passes();
            let next = self.queue.next().filter(|_| self.may_begin());
            tokio::select! {
                biased;
                () = lost.cancelled() => break,
                () = stop.cancelled() => break,
                Some(ended) = self.passes.join_next() => self.end_pass(ended),
                seen = watch.next() => self.watched(seen),
                Some(heard) = feed.recv() => self.heard(heard),
                Some(survey) = surveys.recv() => self.surveyed(survey),
                () = sleep_until(next) => {}
                _ = beat.tick() => {}
            }
        }
        chores.abort();
        if !lost.is_cancelled() {
            let ended = async { while self.passes.join_next().await.is_some() {} };
            tokio::select! {
                () = lost.cancelled() => {}
                // A pass that takes longer is cut off; the next operator goes on with it.
                _ = tokio::time::timeout(DRAIN_TIME_MAX, ended) => {}
            }
        }
        self.passes.shutdown().await;
        self.pulse.synced.store(false, Ordering::Relaxed);
    }

    fn may_begin(&self) -> bool {
        // What is listed first would be judged without knowing who else wants the same topic.
        self.pulse.synced() && self.passes.len() < self.context.config.concurrency
    }

    fn begin_passes(&mut self) {
        let now = Instant::now();
        while self.may_begin() {
            let Some(key) = self.queue.take(now) else { break };
            let Some(entry) = self.objects.get(&key) else {
                self.queue.done(&key, false);
                continue;
            };
            let job = Job {
                topic: Arc::clone(&entry.topic),
                rival: self.objects.rival(&key),
                groups: self.groups.get(entry.topic.topic_name()).cloned(),
                observed_at: entry.observed_at,
                counters_at: entry.counters_at,
            };
            let context = Arc::clone(&self.context);
            self.passes.spawn(async move {
                let done = reconcile(&context, job).await;
                (key, done)
            });
        }
        let depth = i64::try_from(self.queue.depth(now)).unwrap_or(i64::MAX);
        self.context.metrics.queue_depth.set(depth);
    }

    fn end_pass(&mut self, ended: Result<(Key, Done), tokio::task::JoinError>) {
        let (key, done) = match ended {
            Ok(ended) => ended,
            Err(panic) => {
                // Its key is lost with it, so the object would never be looked at again.
                error!(%panic, "a pass panicked");
                std::process::abort();
            }
        };
        let now = Instant::now();
        self.queue.done(&key, done.again == Again::BackOff);
        let known = self.objects.get(&key).map(|entry| entry.topic.metadata.uid.clone());
        if let Some(topic) = done.topic.filter(|topic| known == Some(topic.metadata.uid.clone())) {
            // What this pass wrote is known; the watch tells it once more, and that changes nothing.
            self.objects.put(topic, now);
        }
        let Some(entry) = self.objects.get_mut(&key) else { return };
        entry.observed_at = done.observed_at;
        entry.counters_at = done.counters_at;
        let settled = entry.topic.status.as_ref().is_some_and(|status| {
            status.observed_generation == entry.topic.metadata.generation
                && status::condition(status, "Ready") == Some("True")
        });
        if settled && !entry.was_ready {
            entry.was_ready = true;
            let taken = now.saturating_duration_since(entry.generation_since);
            self.context.metrics.ready_seconds.observe(taken.as_secs_f64());
        }
        let wait = match done.again {
            Again::Resync => jittered(self.context.config.resync, rand::random()),
            Again::Soon => SOON,
            Again::BackOff => {
                let failures = self.queue.failures(&key);
                jittered(BACK_OFF.ceiling(failures.saturating_sub(1)), rand::random())
            }
            Again::Never => return,
        };
        self.queue.ask(key, now + wait);
    }

    fn watched(&mut self, seen: watch::Seen) {
        let now = Instant::now();
        match seen {
            watch::Seen::Object(topic) => {
                let key = Key::of(&topic);
                if self.objects.put(*topic, now) {
                    self.queue.ask(key, now);
                }
            }
            watch::Seen::Gone(key) => self.gone(&key),
            watch::Seen::Listed { keys, namespace, complete } => {
                let here = |key: &Key| namespace.as_ref().is_none_or(|name| *name == key.namespace);
                for key in self.objects.keys().into_iter().filter(|key| here(key) && !keys.contains(key)) {
                    self.gone(&key);
                }
                if complete && !self.pulse.synced.swap(true, Ordering::Relaxed) {
                    info!(topics = self.objects.keys().len(), "all topics listed");
                }
            }
        }
    }

    fn gone(&mut self, key: &Key) {
        self.queue.forget(key);
        let Some((topic, others)) = self.objects.remove(key) else { return };
        let now = Instant::now();
        for other in others {
            self.queue.ask(other, now);
        }
        // An object of that policy goes at once. Giving its topic up lets others see that nobody owns it.
        if topic.spec.deletion_policy == crate::crd::DeletionPolicy::Retain
            && let Some(uid) = topic.metadata.uid.clone()
        {
            let brokers = self.context.brokers.clone();
            let name = topic.topic_name().to_owned();
            tokio::spawn(async move {
                if let Err(error) = brokers.disown(&name, &uid).await {
                    tracing::debug!(topic = %name, %error, "a topic that was retained keeps its owner");
                }
            });
        }
    }

    fn heard(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Topic(name) => {
                for key in self.objects.wanting(&name) {
                    self.queue.ask(key, now);
                }
            }
            Heard::Anything => {
                for key in self.objects.keys() {
                    self.queue.ask(key, now + SPREAD.mul_f64(rand::random()));
                }
            }
        }
    }

    fn surveyed(&mut self, survey: Survey) {
        self.groups = Arc::new(survey.groups);
        let watched = &self.context.config.place.watched;
        let unmanaged = survey::unmanaged(&survey.owners, watched, &self.objects);
        let before = self.context.metrics.unmanaged.set(i64::try_from(unmanaged.len()).unwrap_or(i64::MAX));
        if usize::try_from(before) != Ok(unmanaged.len()) {
            let shown: Vec<_> = unmanaged.iter().take(20).collect();
            info!(count = unmanaged.len(), first = ?shown, "topics that no object owns are left alone");
        }
        let mut ready: BTreeMap<&'static str, i64> = [("True", 0), ("False", 0), ("Unknown", 0)].into();
        for entry in self.objects.entries() {
            let status = entry.topic.status.as_ref().and_then(|status| status::condition(status, "Ready"));
            let label = match status {
                Some("True") => "True",
                Some("False") => "False",
                Some(_) | None => "Unknown",
            };
            *ready.entry(label).or_default() += 1;
        }
        for (ready, count) in ready {
            self.context.metrics.topics.get_or_create(&ReadyLabel { ready }).set(count);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
