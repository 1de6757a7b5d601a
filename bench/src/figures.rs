//! Counting what happened.

use std::collections::BTreeMap;
use std::time::Duration;

/// What one or more workers saw.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    records: u64,
    bytes: u64,
    failures: BTreeMap<u16, u64>,
    micros: Vec<u32>,
    /// Records of each worker that ended before this one was merged.
    each: Vec<u64>,
}

impl Figures {
    pub(crate) fn success(&mut self, records: u64, bytes: usize, took: Duration) {
        self.requests += 1;
        self.records += records;
        self.bytes += bytes as u64;
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn failure(&mut self, status: u16) {
        *self.failures.entry(status).or_default() += 1;
    }

    /// Counts records that came without a request of their own.
    pub(crate) fn arrived(&mut self, records: u64, bytes: usize) {
        self.records += records;
        self.bytes += bytes as u64;
    }

    /// Takes over the figures of one worker.
    pub(crate) fn merge(&mut self, other: Self) {
        self.each.push(other.records);
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
        self.micros.extend(other.micros);
        for (status, count) in other.failures {
            *self.failures.entry(status).or_default() += count;
        }
    }

    /// Returns the figures as one line of JSON: rates per second, latencies in milliseconds.
    pub(crate) fn line(&mut self, elapsed: Duration) -> String {
        self.micros.sort_unstable();
        let seconds = elapsed.as_secs_f64();
        let at = |part: usize| {
            let last = self.micros.len().saturating_sub(1);
            self.micros.get(last * part / 1_000).map_or(0.0, |micros| f64::from(*micros) / 1e3)
        };
        let rate = |count: u64| (f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds).round();
        serde_json::json!({
            "requests_per_s": rate(self.requests),
            "records_per_s": rate(self.records),
            "answer_mb_per_s": rate(self.bytes / 1_000_000),
            "p50_ms": at(500), "p99_ms": at(990), "p999_ms": at(999), "max_ms": at(1_000),
            "fewest_records_of_a_client": self.each.iter().min(), "most_records_of_a_client": self.each.iter().max(),
            "failures": self.failures,
        })
        .to_string()
    }
}
