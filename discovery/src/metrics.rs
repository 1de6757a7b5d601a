//! Counters of the discovery service, in Prometheus' text format.

use crate::registry::{Listed, Registered};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the process started.
#[derive(Debug, Default)]
pub struct Metrics {
    registrations_changed: AtomicU64,
    registrations_same: AtomicU64,
    registrations_outdated: AtomicU64,
    registrations_refused: AtomicU64,
    pushes_ok: AtomicU64,
    pushes_failed: AtomicU64,
}

impl Metrics {
    /// Counts a registration that was understood.
    pub fn registered(&self, outcome: &Registered) {
        let counter = match outcome {
            Registered::Added | Registered::Updated | Registered::TakenOver { .. } => {
                &self.registrations_changed
            }
            Registered::Same => &self.registrations_same,
            Registered::Outdated => &self.registrations_outdated,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a registration that was refused: bad, unsigned or too many.
    pub fn refused(&self) {
        self.registrations_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a broker that was told of a change.
    pub fn pushed(&self) {
        self.pushes_ok.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a broker that could not be told of a change.
    pub fn push_failed(&self) {
        self.pushes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns everything in Prometheus' text format.
    pub fn render(&self, brokers: &[Listed]) -> String {
        let stale = brokers.iter().filter(|broker| broker.stale).count();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let mut text = String::new();
        family(
            &mut text,
            ("pubsub_discovery_brokers", "gauge", "Brokers known, by whether they registered lately."),
            &[
                ("state=\"live\"", (brokers.len() - stale).to_string()),
                ("state=\"stale\"", stale.to_string()),
            ],
        );
        family(
            &mut text,
            ("pubsub_discovery_registrations_total", "counter", "Registrations, by what they did."),
            &[
                ("outcome=\"changed\"", count(&self.registrations_changed)),
                ("outcome=\"same\"", count(&self.registrations_same)),
                ("outcome=\"outdated\"", count(&self.registrations_outdated)),
                ("outcome=\"refused\"", count(&self.registrations_refused)),
            ],
        );
        family(
            &mut text,
            (
                "pubsub_discovery_pushes_total",
                "counter",
                "Maps sent to brokers; a failure counts after its last attempt.",
            ),
            &[("outcome=\"ok\"", count(&self.pushes_ok)), ("outcome=\"failed\"", count(&self.pushes_failed))],
        );
        text
    }
}

fn family(text: &mut String, (name, kind, help): (&str, &str, &str), samples: &[(&str, String)]) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string can't fail");
    for (labels, value) in samples {
        writeln!(text, "{name}{{{labels}}} {value}").expect("writing to a string can't fail");
    }
}
