//! Settling what a step moved: high watermarks, publishers' answers, and wishes for other in-sync replicas.

use super::leader::{Asked, Lag, Leading};
use super::replica::Replica;
use super::timers::Timer;
use super::{Action, Replicas};
use crate::Mono;
use crate::control::Weakening;
use crate::ids::{BrokerEpoch, BrokerId, TopicPartition};
use crate::wire::internal::AlterIsr;
use std::collections::BTreeSet;

impl Replicas {
    /// Settles a led partition in which something moved.
    pub(super) fn settle(&mut self, partition: TopicPartition) {
        let me = self.config.me;
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let high_watermark = leading.high_watermark(log, me, &self.rules);
        let moved = high_watermark > log.high_watermark;
        log.high_watermark = high_watermark;
        for (ticket, appended) in leading.answerable(log) {
            self.out.rest.push(Action::Acked { ticket, result: Ok(appended) });
        }
        let before = leading.tail.bytes();
        if let Some(held) = leading.held_by_all() {
            leading.tail.forget_below(held);
        }
        self.tail_bytes = self.tail_bytes - before + leading.tail.bytes();
        // A batch that is not in memory can be read for a follower only once it is synced.
        let readable = leading.followers.values().any(|progress| progress.next < log.synced_end);
        if moved {
            self.moved.insert(partition);
        }
        if moved || leading.proving > 0 {
            self.seen.insert(partition);
        }
        if moved || readable {
            self.wake_followers(partition);
        }
        // After the high watermark: a follower that is behind what can be committed without it would hold it back.
        self.ask(partition, false);
    }

    /// Asks the controller for the ISR that the rules want, if they want another. An open wish is replaced only when it
    /// is due `again`, or would be refused.
    fn ask(&mut self, partition: TopicPartition, again: bool) {
        let (me, steady, patience) = (self.config.me, self.steady, self.ms(super::LAG_MS));
        let again_at = self.now + self.ms(super::ASK_AGAIN_MS);
        let heard_since = self.now.saturating_sub(patience);
        let Some(own_epoch) = self.registered else { return };
        let early = self.rules.without(Weakening::ShrinkBeforeCommit);
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        if leading.asked.as_ref().is_some_and(|asked| !again && !asked.hopeless) {
            return;
        }
        let lagging = leading.lagging(steady, patience);
        let open = leading.asked.take();
        let wanted = leading.wanted(log, me, &lagging, heard_since, &self.rules);
        let mut adding = open.as_ref().map(|asked| asked.adding.clone()).unwrap_or_default();
        let isr = match (wanted.and_then(|wanted| registered_isr(leading, (me, own_epoch), &wanted)), open) {
            (Some(isr), _) => isr,
            // Nothing is wanted any more, but the wish may be granted yet: withdraw it if it would be refused now, and press
            // for an outcome in any case.
            (None, Some(asked)) if early || !adding.is_empty() => {
                let present = registered_isr(leading, (me, own_epoch), &leading.isr);
                present.filter(|_| asked.hopeless).unwrap_or(asked.isr)
            }
            (None, Some(_) | None) => return,
        };
        adding.extend(isr.iter().copied().filter(|(id, _)| !leading.isr.contains(id)));
        if early {
            leading.isr.retain(|member| isr.iter().any(|(id, _)| id == member));
        }
        leading.asked = Some(Asked { isr, adding, hopeless: false, again_at });
        self.timers.set(again_at, Timer::Ask(partition));
        self.send_ask(partition);
    }

    fn send_ask(&mut self, partition: TopicPartition) {
        let Some(replica) = self.replicas.get(&partition) else { return };
        let (Some(leading), Some(broker_epoch)) = (replica.leading(), self.registered) else { return };
        let Some(asked) = &leading.asked else { return };
        self.out.rest.push(Action::AlterIsr(AlterIsr {
            partition,
            leader: self.config.me,
            broker_epoch,
            leader_epoch: replica.log.leader_epoch,
            part_epoch: leading.part_epoch,
            isr: asked.isr.clone(),
        }));
    }

    /// Repeats a wish that is still open: it may have been lost on the way.
    pub(super) fn ask_due(&mut self, at: Mono, partition: TopicPartition) {
        let leading = self.replicas.get(&partition).and_then(Replica::leading);
        let asked = leading.and_then(|leading| leading.asked.as_ref());
        if asked.is_some_and(|asked| asked.again_at == at) {
            self.ask(partition, true);
            self.touched.insert(partition);
        }
    }

    /// Starts the clock of members that have proven nothing yet, and stops it for those that are none any more.
    pub(super) fn watch_members(&mut self, partition: TopicPartition) {
        let steady = self.steady;
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let Leading { isr, followers, .. } = leading;
        for (id, progress) in followers {
            let behind = isr.contains(id) && progress.matched.is_none_or(|matched| matched < log.end);
            if !behind {
                progress.lag = None;
                self.behind.remove(&(partition, *id));
            } else if progress.lag.is_none() {
                progress.lag = Some(Lag { before: 0, since: Some(steady) });
                self.behind.insert((partition, *id));
            }
        }
        self.arm_lag();
    }

    pub(super) fn arm_lag(&mut self) {
        if self.lag_at.is_none() && !self.behind.is_empty() {
            let at = self.now + self.ms(super::LAG_CHECK_MS);
            self.lag_at = Some(at);
            self.timers.set(at, Timer::Lag);
        }
    }

    /// Judges members that are behind.
    pub(super) fn lag_due(&mut self, at: Mono) {
        if self.lag_at != Some(at) {
            return;
        }
        self.lag_at = None;
        let judged: BTreeSet<TopicPartition> = self.behind.iter().map(|(partition, _)| *partition).collect();
        for partition in judged {
            self.ask(partition, false);
            self.touched.insert(partition);
        }
        self.arm_lag();
    }

    /// Writes high watermarks that moved, so that little is hidden after a restart.
    pub(super) fn persist_due(&mut self, at: Mono) {
        if self.persist_at != Some(at) {
            return;
        }
        self.persist_at = None;
        for partition in std::mem::take(&mut self.moved) {
            let replica = self.replicas.get_mut(&partition);
            let moved =
                |replica: &&mut Replica| replica.log.high_watermark > replica.log.high_watermark_written;
            if let Some(replica) = replica.filter(moved) {
                self.writes.stage(partition, &mut replica.log);
            }
        }
    }

    pub(super) fn arm_persist(&mut self) {
        if self.persist_at.is_none() && !self.moved.is_empty() {
            let at = self.now + self.ms(super::PERSIST_MS);
            self.persist_at = Some(at);
            self.timers.set(at, Timer::Persist);
        }
    }

    /// Returns who leads a partition by the image.
    pub(super) fn leader_by_image(&self, partition: TopicPartition) -> Option<BrokerId> {
        let leader = self.entry(partition)?.leader;
        leader.filter(|leader| *leader != self.config.me)
    }

    /// Returns the image's entry of a partition.
    pub(super) fn entry(&self, partition: TopicPartition) -> Option<&crate::control::image::PartitionEntry> {
        let topic = self.image.as_ref()?.topics.get(&partition.topic)?;
        topic.partitions.get(usize::try_from(partition.partition).ok()?)
    }
}

/// Returns the wanted members as they are registered; `None` if one is not.
fn registered_isr(
    leading: &Leading,
    own: (BrokerId, BrokerEpoch),
    wanted: &[BrokerId],
) -> Option<Vec<(BrokerId, BrokerEpoch)>> {
    let epoch_of = |id: &BrokerId| match leading.followers.get(id) {
        Some(progress) => progress.registration.map(|epoch| (*id, epoch)),
        None => (*id == own.0).then_some(own),
    };
    wanted.iter().map(epoch_of).collect()
}
