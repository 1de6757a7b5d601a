//! One simulated broker: a volume, and while it is up a process made of the production machines and its own clock.

use super::coordinators::Coordinated;
use super::disk::Disk;
use pubsub_core::control::Control;
use pubsub_core::ids::{At, BrokerEpoch, BrokerId, RunId, TopicPartition};
use pubsub_core::partition::{ReplicaView, Replicas, RequestId};
use std::collections::BTreeMap;

/// A local monotonic clock: starts anywhere, runs a little fast or slow, and stands still while its machine is frozen.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: u64,
    started: u64,
    /// Milliseconds gained or lost each 1000.
    drift: i64,
    /// How long it stands still in all, the rest of the present freeze included.
    frozen: u64,
    /// When the present freeze ends, or the last one ended.
    frozen_until: u64,
}

impl Clock {
    /// Makes a clock that shows `base` at `now`.
    pub fn new(base: u64, now: u64, drift: i64) -> Self {
        Self { base, started: now, drift, frozen: 0, frozen_until: now }
    }

    /// Returns what the clock shows at `now`.
    pub fn local(&self, now: u64) -> u64 {
        let frozen = self.frozen - self.frozen_until.saturating_sub(now);
        let passed = now.saturating_sub(self.started).saturating_sub(frozen);
        self.base + passed.saturating_mul(self.rate()) / 1_000
    }

    /// Returns the first time at which the clock shows `local` or more.
    pub fn global(&self, local: u64) -> u64 {
        let passed = local.saturating_sub(self.base).saturating_mul(1_000).div_ceil(self.rate());
        self.started.saturating_add(passed).saturating_add(self.frozen)
    }

    /// Lets the time from `now` to `until` pass unseen. What an earlier freeze hides already is not hidden twice.
    pub fn freeze(&mut self, now: u64, until: u64) {
        self.frozen += until.saturating_sub(now.max(self.frozen_until));
        self.frozen_until = self.frozen_until.max(until);
    }

    /// Lets the clock go on at `now`, before its freeze would have ended.
    pub fn thaw(&mut self, now: u64) {
        self.frozen -= self.frozen_until.saturating_sub(now);
        self.frozen_until = self.frozen_until.min(now);
    }

    fn rate(&self) -> u64 {
        1_000_u64.saturating_add_signed(self.drift).max(1)
    }
}

/// A running process.
pub struct Process {
    /// Counts processes of the whole run; names this one in events.
    pub serial: u64,
    /// Its own name for itself.
    pub run_id: RunId,
    /// Its control plane.
    pub control: Control,
    /// Its replicas.
    pub replicas: Replicas,
    /// Its clock.
    pub clock: Clock,
    /// Place of the image that it obeys.
    pub applied: At,
    /// When its control plane's next tick is scheduled.
    pub control_tick: Option<u64>,
    /// When its replicas' next tick is scheduled.
    pub replicas_tick: Option<u64>,
    /// When the last inner message from one machine to the other arrives; they keep their order.
    pub inner_at: u64,
    /// Pushes that wait for their answer.
    pub outstanding: BTreeMap<BrokerId, u64>,
    /// Requests that wait for this process's answer: who asked, the asking process and its push.
    pub asked: BTreeMap<RequestId, (BrokerId, u64, u64)>,
    /// What it shows readers.
    pub views: BTreeMap<TopicPartition, ReplicaView>,
    /// The groups that it coordinates.
    pub groups: Option<Coordinated>,
    /// Under which registration it was seen last.
    pub broker_epoch: BrokerEpoch,
}

/// One broker.
pub struct Node {
    /// Its id.
    pub id: BrokerId,
    /// Its volume.
    pub disk: Disk,
    /// Its process, while it is up.
    pub process: Option<Process>,
    /// Nothing reaches the process before.
    pub paused_until: u64,
    /// Drift of its clock, per mille.
    pub drift: i64,
    /// Feature levels that its program reads.
    pub versions: (u16, u16),
    /// Its process was told to stop.
    pub stopping: bool,
    /// A copy of its volume, made earlier.
    pub copy: Option<Disk>,
    /// Its volume is such a copy, and no process on it was registered yet.
    pub old_copy: bool,
    /// Its promise file takes no more: whoever has to write there ends.
    pub promises_full: bool,
}

impl Node {
    /// Returns whether its process is up and is the one named.
    pub fn runs(&self, serial: u64) -> bool {
        self.process.as_ref().is_some_and(|process| process.serial == serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freezes_that_overlap_hide_their_time_once() {
        let mut clock = Clock::new(0, 0, 0);
        clock.freeze(1_000, 3_000);
        clock.freeze(2_000, 4_000);
        assert_eq!(clock.local(2_500), 1_000, "it stands still");
        assert_eq!(clock.local(4_500), 1_500);
        assert_eq!(clock.global(1_500), 4_500);
    }

    #[test]
    fn a_clock_that_is_let_go_runs_on_at_once() {
        let mut clock = Clock::new(0, 0, 0);
        clock.freeze(1_000, 9_000);
        clock.thaw(2_000);
        assert_eq!(clock.local(3_000), 2_000);
        clock.freeze(4_000, 5_000);
        assert_eq!(clock.local(6_000), 4_000);
    }
}
