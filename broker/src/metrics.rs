//! Counters and gauges of one broker, with a registry of its own: several brokers may share a process.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use pubsub_core::invariants::Invariant;

/// One label: how a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: &'static str,
}

/// One label: a broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InvariantLabel {
    pub(crate) invariant: String,
}

/// One label: a partition of a topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartitionLabel {
    pub(crate) topic: String,
    pub(crate) partition: u32,
}

/// What a broker counts as it goes; what can be read from its state is added when metrics are asked for.
pub(crate) struct Metrics {
    registry: Registry,
    publishes: Family<OutcomeLabel, Counter>,
    pub(crate) records_published: Counter,
    pub(crate) records_read: Counter,
    pub(crate) pushes: Counter,
    pub(crate) pushes_failed: Counter,
    pub(crate) bytes_pushed: Counter,
    publish_seconds: Histogram,
    alarms: Family<InvariantLabel, Counter>,
    pub(crate) controller_epoch: Gauge,
    pub(crate) is_controller: Gauge,
    pub(crate) registered: Gauge,
    pub(crate) partitions_held: Gauge,
    pub(crate) partitions_below_min_isr: Gauge,
    pub(crate) high_watermark: Family<PartitionLabel, Gauge>,
    pub(crate) log_end: Family<PartitionLabel, Gauge>,
    pub(crate) isr_size: Family<PartitionLabel, Gauge>,
    pub(crate) store_free_bytes: Gauge,
    pub(crate) store_wal_bytes: Gauge,
    pub(crate) store_commits: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        let mut metrics = Self {
            registry: Registry::default(),
            publishes: Family::default(),
            records_published: Counter::default(),
            records_read: Counter::default(),
            pushes: Counter::default(),
            pushes_failed: Counter::default(),
            bytes_pushed: Counter::default(),
            publish_seconds: Histogram::new(seconds),
            alarms: Family::default(),
            controller_epoch: Gauge::default(),
            is_controller: Gauge::default(),
            registered: Gauge::default(),
            partitions_held: Gauge::default(),
            partitions_below_min_isr: Gauge::default(),
            high_watermark: Family::default(),
            log_end: Family::default(),
            isr_size: Family::default(),
            store_free_bytes: Gauge::default(),
            store_wal_bytes: Gauge::default(),
            store_commits: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("pubsub");
        registry.register(
            "publish_batches",
            "Batches handed to a leader here, by outcome",
            self.publishes.clone(),
        );
        registry.register("records_published", "Records acknowledged here", self.records_published.clone());
        registry.register("records_read", "Records read here for consumers", self.records_read.clone());
        registry.register("pushes", "Replication requests sent to followers", self.pushes.clone());
        registry.register(
            "pushes_failed",
            "Replication requests without a good answer",
            self.pushes_failed.clone(),
        );
        registry.register("pushed_bytes", "Bytes of replication requests", self.bytes_pushed.clone());
        registry.register(
            "publish_seconds",
            "Time from append to acknowledgement",
            self.publish_seconds.clone(),
        );
        registry.register(
            "alarms",
            "Broken invariants; anything above zero needs a person",
            self.alarms.clone(),
        );
        registry.register("controller_epoch", "Highest controller epoch seen", self.controller_epoch.clone());
        registry.register("is_controller", "1 on the controller", self.is_controller.clone());
        registry.register(
            "registered",
            "1 while the cluster counts this process as alive",
            self.registered.clone(),
        );
        registry.register("partitions_held", "Replicas held here", self.partitions_held.clone());
        registry.register(
            "partitions_below_min_isr",
            "Partitions led here with fewer in-sync replicas than their minimum",
            self.partitions_below_min_isr.clone(),
        );
        registry.register("high_watermark", "End of what consumers may read", self.high_watermark.clone());
        registry.register("log_end", "Next offset to be appended", self.log_end.clone());
        registry.register("isr_size", "In-sync replicas of a partition led here", self.isr_size.clone());
        registry.register("store_free_bytes", "Free bytes of the volume", self.store_free_bytes.clone());
        registry.register(
            "store_wal_bytes",
            "Bytes of SQLite's write-ahead log",
            self.store_wal_bytes.clone(),
        );
        registry.register("store_commits", "Transactions synced since the start", self.store_commits.clone());
    }

    pub(crate) fn publish(&self, outcome: &'static str, records: u64, seconds: f64) {
        self.publishes.get_or_create(&OutcomeLabel { outcome }).inc();
        if outcome == "acked" {
            self.records_published.inc_by(records);
            self.publish_seconds.observe(seconds);
        }
    }

    pub(crate) fn alarm(&self, id: Invariant) {
        self.alarms.get_or_create(&InvariantLabel { invariant: format!("{id:?}") }).inc();
    }

    /// Returns everything in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string works");
        text
    }
}
