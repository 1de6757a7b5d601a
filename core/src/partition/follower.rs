//! The follower's rules: whom to obey, what to append, what to truncate, what to vouch for.

use super::log::Log;
use super::replica::Part;
use super::rules::Rules;
use super::{Action, Replicas, RequestId, WriteId};
use crate::control::Weakening;
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::invariants::Invariant;
use crate::record::Batch;
use crate::wire::internal::{ReplicateItem, ReplicateOutcome, ReplicateReply, ReplicateRequest};

/// What must be done to a log before an item's batches can be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Nothing,
    Truncate(Offset),
    Reset(Offset),
}

impl Replicas {
    /// Answers a leader's request, once everything that the answer vouches for is synced.
    pub(super) fn receive(&mut self, id: RequestId, from: BrokerId, request: &ReplicateRequest) {
        let current = self.is_current(from, request);
        let mut waits = None;
        let mut outcomes = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let outcome = if current { self.receive_item(from, item) } else { ReplicateOutcome::Unknown };
            if matches!(outcome, ReplicateOutcome::Matched { .. }) {
                let newest = self.replicas.get(&item.partition).and_then(|mine| mine.log.waits_for());
                waits = waits.max(newest);
            }
            outcomes.push(outcome);
        }
        let reply = ReplicateReply { broker_epoch: self.registered.unwrap_or(BrokerEpoch(0)), outcomes };
        match waits.filter(|waits: &WriteId| !self.writes.is_synced(*waits)) {
            Some(write) => self.writes.answer_after(write, id, reply),
            None => self.out.rest.push(Action::Answer { id, reply }),
        }
    }

    /// Both processes must be the registered ones: an older process of the sender may lead nothing any more, and what was
    /// meant for an older process of this broker was meant for another log.
    fn is_current(&self, from: BrokerId, request: &ReplicateRequest) -> bool {
        let Some(image) = self.image.as_ref().filter(|_| self.registered.is_some()) else { return false };
        let sender = image.brokers.get(&from).is_some_and(|entry| entry.broker_epoch <= request.from_epoch);
        let receiver = self.registered == Some(request.to_epoch);
        (sender && receiver) || self.rules.without(Weakening::NoBrokerEpoch)
    }

    fn receive_item(&mut self, from: BrokerId, item: &ReplicateItem) -> ReplicateOutcome {
        let in_isr = self.entry(item.partition).is_some_and(|entry| entry.isr.contains(&self.config.me));
        let rivals = self.entry(item.partition).is_some_and(|entry| {
            entry.leader_epoch == item.leader_epoch && entry.leader.is_some_and(|leader| leader != from)
        });
        let Some(replica) = self.replicas.get(&item.partition) else { return ReplicateOutcome::Unknown };
        let known = replica.log.leader_epoch;
        let leads = replica.leading().is_some();
        if matches!(replica.part, Part::Offline) || !is_contiguous(item) {
            return ReplicateOutcome::Unknown;
        }
        if item.leader_epoch < known && (leads || !self.rules.without(Weakening::IgnoreLeaderEpoch)) {
            return ReplicateOutcome::Fenced { leader_epoch: known };
        }
        if rivals || (leads && item.leader_epoch == known) {
            let detail =
                format!("{from} claims to lead epoch {}, which is another broker's", item.leader_epoch);
            self.alarm(Invariant::R4, item.partition, detail);
            return ReplicateOutcome::Unknown;
        }
        if item.leader_epoch > known {
            self.set_part(item.partition, Part::Follower, Some(from));
            self.adopt(item.partition, item.leader_epoch);
        }
        self.hear(item.partition);
        self.follow(item, in_isr)
    }

    /// Notes contact with the leader; shown at most once a second.
    fn hear(&mut self, partition: TopicPartition) {
        let (now, pause) = (self.now, self.ms(super::SHOW_CONTACT_MS));
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        replica.leader_seen = Some(now);
        if replica.leader_seen_shown.is_none_or(|shown| shown + pause <= now) {
            replica.leader_seen_shown = Some(now);
            self.seen.insert(partition);
        }
    }

    /// Appends what is new in an item of the present leader.
    fn follow(&mut self, item: &ReplicateItem, in_isr: bool) -> ReplicateOutcome {
        let rules = &self.rules;
        let Some(replica) = self.replicas.get(&item.partition) else { return ReplicateOutcome::Unknown };
        let log = &replica.log;
        // The leader has nothing older to compare: the log ends before its start, or holds other records there.
        let agreed = agrees(log, item, rules);
        let starts_over = !agreed && item.from <= item.log_start;
        if !agreed && !starts_over {
            return diverged(log, item, rules);
        }
        if starts_over && in_isr {
            // An in-sync replica holds everything committed, so its log can't end below the leader's start. By this
            // image it is in sync, hence the image is old, or something is very wrong: in both cases nothing is dropped.
            return ReplicateOutcome::Unknown;
        }
        let held = |batch: &&Batch| !starts_over && holds(log, batch, rules);
        let skipped = item.batches.iter().take_while(held).count();
        let new = &item.batches[skipped..];
        if !self.storage_healthy && (starts_over || !new.is_empty()) {
            return ReplicateOutcome::Full;
        }
        let cut = match new.first() {
            None | Some(_) if starts_over => Cut::Reset(item.from),
            None => Cut::Nothing,
            Some(first) => match cut_for(log, first) {
                Ok(cut) => cut,
                Err(offset) => {
                    let detail = format!(
                        "the leader of epoch {} has other records at {offset}, below the high watermark {}",
                        item.leader_epoch, log.high_watermark
                    );
                    self.alarm(Invariant::R5, item.partition, detail);
                    return ReplicateOutcome::Unknown;
                }
            },
        };
        self.append_from_leader(item.partition, cut, new);
        self.vouch(item)
    }

    fn append_from_leader(&mut self, partition: TopicPartition, cut: Cut, new: &[Batch]) {
        if cut != Cut::Nothing && self.writes.appends(partition) {
            self.seal();
        }
        if cut == Cut::Nothing && new.is_empty() {
            return;
        }
        let id = self.writes.id();
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        let log = &mut replica.log;
        let write = self.writes.stage(partition, log);
        match cut {
            Cut::Nothing => {}
            Cut::Truncate(to) => {
                log.truncate(id, to);
                write.truncate_to = Some(to);
            }
            Cut::Reset(at) => {
                log.reset(id, at);
                write.reset_to = Some(at);
            }
        }
        for batch in new {
            log.append(id, write, batch);
        }
    }

    /// Vouches for what the item proved, and learns what is committed and what may be deleted.
    fn vouch(&mut self, item: &ReplicateItem) -> ReplicateOutcome {
        let Some(replica) = self.replicas.get_mut(&item.partition) else { return ReplicateOutcome::Unknown };
        let log = &mut replica.log;
        let proven = item.batches.last().map_or(item.from, Batch::end_offset);
        // Not the own log end: behind what was proven there may be records of an older leader, never committed.
        let match_end = if self.rules.without(Weakening::AckOwnLogEnd) { log.end } else { proven };
        let committed = item.high_watermark.min(proven);
        if committed > log.high_watermark {
            log.high_watermark = committed;
            self.moved.insert(item.partition);
            self.seen.insert(item.partition);
        }
        let log_start = item.log_start.min(log.high_watermark);
        if log_start > log.start {
            log.start = log_start;
            log.epochs.forget_below(log_start);
            self.writes.stage(item.partition, log);
            self.seen.insert(item.partition);
        }
        ReplicateOutcome::Matched { match_end }
    }

    fn alarm(&mut self, id: Invariant, partition: TopicPartition, detail: String) {
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        if !std::mem::replace(&mut replica.alarmed, true) {
            self.out.rest.push(Action::Alarm { id, partition, detail });
        }
    }
}

fn is_contiguous(item: &ReplicateItem) -> bool {
    let mut end = item.from;
    item.batches.iter().all(|batch| std::mem::replace(&mut end, batch.end_offset()) == batch.base_offset())
}

/// Returns whether the log equals the leader's below the item's batches: equal epochs at one offset mean the same record,
/// and the same records before it. Below the own start, and the own high watermark, everything is committed, hence equal.
/// That the leader has deleted what lies below says nothing of what this log holds there.
fn agrees(log: &Log, item: &ReplicateItem, rules: &Rules) -> bool {
    if item.from > log.end {
        return false;
    }
    if item.from <= log.start || rules.without(Weakening::NoEpochSearch) {
        return true;
    }
    match item.prev_epoch {
        LeaderEpoch(0) => item.from <= log.high_watermark,
        known => log.epochs.epoch_at(item.from - 1) == Some(known),
    }
}

fn diverged(log: &Log, item: &ReplicateItem, rules: &Rules) -> ReplicateOutcome {
    if rules.without(Weakening::NoEpochSearch) {
        return ReplicateOutcome::Diverged { epoch: item.prev_epoch, end_offset: log.end };
    }
    let (epoch, end_offset) =
        log.epochs.newest_up_to(item.prev_epoch, log.end).unwrap_or((LeaderEpoch(0), log.start));
    ReplicateOutcome::Diverged { epoch, end_offset }
}

/// Returns whether the log holds the batch already. The first and the last record decide: an epoch has one writer, so
/// equal epochs at one offset mean the same record of the same, whole batch.
fn holds(log: &Log, batch: &Batch, rules: &Rules) -> bool {
    if batch.end_offset() > log.end {
        return false;
    }
    let same = |offset: Offset| log.epochs.epoch_at(offset) == Some(batch.leader_epoch());
    batch.end_offset() <= log.start
        || rules.without(Weakening::NoEpochSearch)
        || (same(batch.base_offset().max(log.start)) && same(batch.end_offset() - 1))
}

/// Returns what must go before the first new batch can be appended, or where that would break R5.
fn cut_for(log: &Log, first: &Batch) -> Result<Cut, Offset> {
    let base_offset = first.base_offset();
    if base_offset == log.end {
        return Ok(Cut::Nothing);
    }
    if log.is_empty() {
        // Nothing is held, so nothing is lost: the log starts at one of the leader's batches.
        return Ok(Cut::Reset(base_offset));
    }
    if base_offset < log.high_watermark {
        return Err(base_offset);
    }
    Ok(Cut::Truncate(base_offset))
}
