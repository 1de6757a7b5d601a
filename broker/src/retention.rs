//! Retention: looks at the logs that are led here, and has those trimmed that hold more, or older records, than their
//! topics keep. Followers start their logs where the leader's starts.

use crate::handle::Broker;
use crate::store::{Expired, Kept};
use pubsub_core::control::image::{Image, TopicConfig};
use pubsub_core::ids::{LeaderEpoch, Offset, TopicPartition};
use pubsub_core::partition::Role;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often logs that grew, or have something to lose by age, are looked at: within it a log may outgrow its bound.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A wall clock that moves further than this against the monotonic one is not believed, ms.
const JUMP_MS_MAX: u64 = 3_600_000;

/// What the last look at a log found.
struct Looked {
    leader_epoch: LeaderEpoch,
    log_end: Offset,
    config: (Option<u64>, Option<u64>),
    /// Nothing is too old before this, ms since 1970; `None`: it is not known.
    old_at_ms: Option<i64>,
}

/// The wall clock, as far as it can be believed: it deletes records.
struct Clock {
    wall_ms: i64,
    began: Instant,
    doubted: bool,
}

impl Clock {
    fn new() -> Self {
        Self { wall_ms: crate::wall_ms(), began: Instant::now(), doubted: false }
    }

    /// Returns the time, ms since 1970; `None` while the wall clock is more than an hour off from where it should be by
    /// now. A clock that was wrong from the start can't be told.
    fn now_ms(&mut self) -> Option<i64> {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (wall, expected) = (crate::wall_ms(), self.wall_ms.saturating_add(elapsed));
        let doubted = is_jump(wall, expected);
        if doubted != std::mem::replace(&mut self.doubted, doubted) {
            let off_minutes = (wall - expected) / 60_000;
            if doubted {
                tracing::warn!(
                    off_minutes,
                    "the wall clock jumped: no records are deleted by age until it is back or this broker is restarted"
                );
            } else {
                tracing::info!(off_minutes, "the wall clock is back: records are deleted by age again");
            }
        }
        (!doubted).then_some(wall)
    }
}

fn is_jump(wall_ms: i64, expected_ms: i64) -> bool {
    wall_ms.abs_diff(expected_ms) > JUMP_MS_MAX
}

/// Trims logs until cancelled.
///
/// # Errors
/// None; a log that can't be read now is looked at again.
pub(crate) async fn run(broker: Broker, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let mut looked = HashMap::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now_ms = clock.now_ms();
        let Some(image) = broker.image() else { continue };
        let bounded: BTreeMap<_, _> = bounded(&image, &broker).collect();
        looked.retain(|partition, _| bounded.contains_key(partition));
        for (partition, config) in bounded {
            look(&broker, partition, &config, now_ms, &mut looked).await;
        }
    }
}

/// Returns the partitions that are led here and may not keep everything.
fn bounded(image: &Image, broker: &Broker) -> impl Iterator<Item = (TopicPartition, TopicConfig)> {
    let me = broker.id();
    let topics = image
        .topics
        .iter()
        .filter(|(_, topic)| topic.config.retention_ms.is_some() || topic.config.retention_bytes.is_some());
    topics.flat_map(move |(id, topic)| {
        let led = (0..).zip(&topic.partitions).filter(move |(_, entry)| entry.leader == Some(me));
        led.map(move |(index, _)| (TopicPartition { topic: *id, partition: index }, topic.config.clone()))
    })
}

async fn look(
    broker: &Broker,
    partition: TopicPartition,
    config: &TopicConfig,
    now_ms: Option<i64>,
    looked: &mut HashMap<TopicPartition, Looked>,
) {
    let Some(view) = broker.view(partition).map(|view| view.borrow().clone()) else { return };
    if view.role != Role::Leader {
        return;
    }
    let bounds = (config.retention_ms, config.retention_bytes);
    let known = looked.get(&partition).filter(|known| {
        (known.leader_epoch, known.log_end, known.config) == (view.leader_epoch, view.log_end, bounds)
    });
    let old = |known: &Looked| match (now_ms, known.old_at_ms) {
        (Some(now), Some(at)) => now >= at,
        (None, _) => false,
        (Some(_), None) => view.log_start < view.log_end,
    };
    if known.is_some_and(|known| !old(known)) {
        return;
    }
    let age = config.retention_ms.map(|age| i64::try_from(age).unwrap_or(i64::MAX));
    let since_ms = age.zip(now_ms).map(|(age, now)| now.saturating_sub(age));
    let kept = Kept { bytes: config.retention_bytes, since_ms };
    let Some(found) = broker.expired(partition, kept).await else { return };
    let Expired { to, oldest_ms } = found;
    if let Some(to) = to {
        broker.trim(partition, view.leader_epoch, to).await;
    }
    // Without an age nothing ever gets too old; where the look did not reach, the next one goes on.
    let old_at_ms = match age {
        None => Some(i64::MAX),
        Some(age) => oldest_ms.map(|oldest| oldest.saturating_add(age).saturating_add(1)),
    };
    let (leader_epoch, log_end) = (view.leader_epoch, view.log_end);
    looked.insert(partition, Looked { leader_epoch, log_end, config: bounds, old_at_ms });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 37: small corrections are believed, jumps either way are not.
    #[test]
    fn wall_clock_jump_retention() {
        let hour = 3_600_000;
        assert!(!is_jump(1_000, 1_000 + hour) && !is_jump(1_000 + hour, 1_000));
        assert!(is_jump(1_000, 1_001 + hour) && is_jump(1_001 + hour, 1_000));
        assert!(is_jump(i64::MAX, i64::MIN));
    }
}
