//! Progress while records are published, and the summary at the end: both on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pubsub_client::producer::Delivery;
use std::cell::RefCell;
use std::time::Duration;
use tokio::time::Instant;

/// How often progress is drawn.
const REDRAW: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Counts {
    acked: u64,
    retried: u64,
    perhaps_twice: u64,
    longest_pause: Duration,
    last_ack: Instant,
    redrawn: Instant,
}

/// Counts and shows what happens to records.
#[derive(Debug)]
pub(super) struct Report {
    quiet: bool,
    bar: ProgressBar,
    started: Instant,
    counts: RefCell<Counts>,
}

impl Report {
    /// Starts the clock.
    pub(super) fn new(quiet: bool) -> Self {
        let now = Instant::now();
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(
            ProgressStyle::with_template("{spinner} {pos} acknowledged, {per_sec}, {elapsed}{msg}")
                .expect("the template is constant and right"),
        );
        let counts = Counts {
            acked: 0,
            retried: 0,
            perhaps_twice: 0,
            longest_pause: Duration::ZERO,
            last_ack: now,
            redrawn: now,
        };
        Self { quiet, bar, started: now, counts: RefCell::new(counts) }
    }

    /// Counts one acknowledged record.
    pub(super) fn acked(&self, delivery: &Delivery) {
        let mut counts = self.counts.borrow_mut();
        let now = Instant::now();
        counts.acked += 1;
        counts.retried += u64::from(delivery.retries > 0);
        counts.perhaps_twice += u64::from(delivery.perhaps_twice);
        counts.longest_pause = counts.longest_pause.max(now - counts.last_ack);
        counts.last_ack = now;
        if now - counts.redrawn >= REDRAW {
            counts.redrawn = now;
            self.bar.set_position(counts.acked);
            if counts.retried > 0 {
                self.bar.set_message(format!(", {} sent again", counts.retried));
            }
        }
    }

    /// Clears the progress and prints the summary.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
        if !self.quiet {
            eprintln!("{}", self.summary(self.started.elapsed()));
        }
    }

    fn summary(&self, elapsed: Duration) -> String {
        let counts = self.counts.borrow();
        let seconds = elapsed.as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = counts.acked as f64 / seconds;
        format!(
            "acked {} records in {seconds:.1} s ({rate:.0}/s), retried {}, perhaps twice {}, longest pause {} ms",
            counts.acked,
            counts.retried,
            counts.perhaps_twice,
            counts.longest_pause.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pubsub_core::wire::client::Placed;

    #[tokio::test(start_paused = true)]
    async fn the_summary_tells_retries_possible_duplicates_and_the_longest_pause() {
        let report = Report::new(true);
        let delivery = |retries, perhaps_twice| Delivery {
            placed: Placed { partition: 0, offset: 0 },
            retries,
            perhaps_twice,
        };
        tokio::time::advance(Duration::from_millis(10)).await;
        report.acked(&delivery(0, false));
        tokio::time::advance(Duration::from_millis(1990)).await;
        report.acked(&delivery(2, true));
        assert_eq!(
            report.summary(report.started.elapsed()),
            "acked 2 records in 2.0 s (1/s), retried 1, perhaps twice 1, longest pause 1990 ms"
        );
    }
}
