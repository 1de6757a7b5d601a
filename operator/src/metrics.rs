//! Counters and gauges of the operator.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label: how a pass ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// Reason of `Programmed`.
    pub outcome: &'static str,
}

/// One label: who could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// `brokers` or `api_server`.
    pub source: &'static str,
}

/// One label: the status of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadyLabel {
    /// `True`, `False` or `Unknown`.
    pub ready: &'static str,
}

/// One label: why a Topic was let go while its topic was perhaps still there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// `cluster_gone` or `deadline`.
    pub cause: &'static str,
}

/// What the operator counts.
pub struct Metrics {
    registry: Registry,
    /// Passes over an object, by how they ended.
    pub reconciles: Family<OutcomeLabel, Counter>,
    /// Passes that could not be finished, by who failed.
    pub errors: Family<SourceLabel, Counter>,
    /// Objects that are due and wait for their turn.
    pub queue_depth: Gauge,
    /// From when a spec was first seen until it was ready.
    pub ready_seconds: Histogram,
    /// Objects, by their condition Ready.
    pub topics: Family<ReadyLabel, Gauge>,
    /// Topics of the brokers that no object owns.
    pub unmanaged: Gauge,
    /// Topics that were changed by others and put right.
    pub drifts: Counter,
    /// Objects that were let go without deleting their topic.
    pub released: Family<CauseLabel, Counter>,
    /// Whether this operator holds the Lease.
    pub leading: Gauge,
    /// Brokers whose event feed is heard.
    pub feeds_heard: Gauge,
    /// Status writes.
    pub status_writes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
        let mut metrics = Self {
            registry: Registry::with_prefix("pubsub_operator"),
            reconciles: Family::default(),
            errors: Family::default(),
            queue_depth: Gauge::default(),
            ready_seconds: Histogram::new(seconds),
            topics: Family::default(),
            unmanaged: Gauge::default(),
            drifts: Counter::default(),
            released: Family::default(),
            leading: Gauge::default(),
            feeds_heard: Gauge::default(),
            status_writes: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("reconciles", "Passes over a Topic, by how they ended", self.reconciles.clone());
        registry.register("errors", "Passes that could not be finished, by who failed", self.errors.clone());
        registry.register(
            "queue_depth",
            "Topics that are due and wait for their turn",
            self.queue_depth.clone(),
        );
        let help = "From when a spec was first seen until the topic was ready";
        registry.register("ready_seconds", help, self.ready_seconds.clone());
        registry.register("topics", "Topics, by their condition Ready", self.topics.clone());
        let help = "Topics of the brokers that no Topic owns; they are never touched";
        registry.register("topics_unmanaged", help, self.unmanaged.clone());
        registry.register(
            "drifts",
            "Topics that others had changed and that were put right",
            self.drifts.clone(),
        );
        let help = "Deleted Topics that were let go although their topic may still be there";
        registry.register("topics_released", help, self.released.clone());
        registry.register("leading", "Whether this operator holds the Lease", self.leading.clone());
        registry.register("feeds_heard", "Brokers whose event feed is heard", self.feeds_heard.clone());
        registry.register("status_writes", "Writes of a Topic's status", self.status_writes.clone());
    }

    /// Returns everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string can't fail");
        text
    }
}
