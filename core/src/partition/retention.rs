//! Retention: where a log starts is the leader's word, and never above what is committed (T1).

use super::Replicas;
use super::replica::Replica;
use crate::control::Weakening;
use crate::ids::{LeaderEpoch, Offset, TopicPartition};

impl Replicas {
    /// Moves the start of a log that is led in this term. Followers hear of it with the next request to them.
    pub(super) fn trim(&mut self, partition: TopicPartition, epoch: LeaderEpoch, to: Offset) {
        let unbounded = self.rules.without(Weakening::TrimUncommitted);
        let led = self.replicas.get_mut(&partition).and_then(Replica::led);
        let Some((log, _)) = led.filter(|(log, _)| log.leader_epoch == epoch) else { return };
        let to = if unbounded { to } else { to.min(log.high_watermark) };
        if to <= log.start {
            return;
        }
        log.start = to;
        log.epochs.forget_below(to);
        self.writes.stage(partition, log);
        self.seen.insert(partition);
    }
}
