//! Links to the followers' brokers: one request under way for each broker, all partitions sharing it.

use super::leader::{self, Load, Progress};
use super::log::Log;
use super::replica::Replica;
use super::timers::Timer;
use super::{Action, Replicas};
use crate::Mono;
use crate::control::Weakening;
use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::limits::{LOAD_BYTES_MAX, LOADS_MAX, REPLICATE_BYTES_MAX, REPLICATE_ITEM_BYTES};
use crate::record::Batch;
use crate::wire::internal::{ReplicateItem, ReplicateOutcome, ReplicateReply, ReplicateRequest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The link to one broker.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Partitions that may have something to send, each once, in turn.
    queue: VecDeque<TopicPartition>,
    queued: BTreeSet<TopicPartition>,
    outstanding: Option<Outstanding>,
    /// Nothing is sent before; grows while the broker does not answer.
    ready_at: Mono,
    backoff_ms: u64,
    /// Batches on their way from disk or waiting to be sent, by the epoch they were asked for in.
    loads: BTreeMap<TopicPartition, LeaderEpoch>,
    /// Partitions that wait for room among the loads, each once.
    wait_for_load: VecDeque<TopicPartition>,
    waiting: BTreeSet<TopicPartition>,
}

#[derive(Debug)]
struct Outstanding {
    to_epoch: BrokerEpoch,
    items: Vec<Sent>,
    /// Partitions of which batches are under way.
    carried: BTreeSet<TopicPartition>,
}

/// What the leader must remember of an item to understand its outcome.
#[derive(Debug, Clone, Copy)]
struct Sent {
    partition: TopicPartition,
    leader_epoch: LeaderEpoch,
    from: Offset,
    /// End of what the item can prove.
    end: Offset,
    /// End of the leader's log when it was sent: who proves that much was not behind then.
    log_end: Offset,
    high_watermark: Offset,
}

/// What a partition has for a link.
enum Next {
    Nothing,
    /// More than fits into this request.
    NoRoom,
    Item(ReplicateItem),
    /// Batches must come from disk first.
    Load(Offset),
}

impl Link {
    pub(super) fn push(&mut self, partition: TopicPartition) {
        if self.queued.insert(partition) {
            self.queue.push_back(partition);
        }
    }

    /// Returns whether batches of a partition are under way and not answered for.
    pub(super) fn carries(&self, partition: TopicPartition) -> bool {
        self.outstanding.as_ref().is_some_and(|outstanding| outstanding.carried.contains(&partition))
    }

    fn pop(&mut self) -> Option<TopicPartition> {
        let first = self.queue.pop_front()?;
        self.queued.remove(&first);
        Some(first)
    }

    fn push_front(&mut self, partition: TopicPartition) {
        if self.queued.insert(partition) {
            self.queue.push_front(partition);
        }
    }

    fn release(&mut self, partition: TopicPartition) {
        self.loads.remove(&partition);
        if let Some(next) = self.wait_for_load.pop_front() {
            self.waiting.remove(&next);
            self.push(next);
        }
    }
}

impl Replicas {
    /// Queues a partition at one follower's link.
    pub(super) fn wake(&mut self, partition: TopicPartition, id: BrokerId) {
        self.links.entry(id).or_default().push(partition);
        self.busy.insert(id);
    }

    pub(super) fn wake_followers(&mut self, partition: TopicPartition) {
        let Some(leading) = self.replicas.get(&partition).and_then(Replica::leading) else { return };
        for id in leading.followers.keys() {
            self.links.entry(*id).or_default().push(partition);
            self.busy.insert(*id);
        }
    }

    pub(super) fn add_follower(&mut self, partition: TopicPartition, id: BrokerId, progress: Progress) {
        self.timers.set(progress.keep_alive_at, Timer::KeepAlive(id, partition));
        if let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) {
            leading.followers.insert(id, progress);
        }
        self.wake(partition, id);
    }

    pub(super) fn drop_follower(&mut self, partition: TopicPartition, id: BrokerId) {
        let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        self.behind.remove(&(partition, id));
        if let Some(progress) = leading.followers.remove(&id) {
            self.release_load(partition, id, &progress.load);
        }
    }

    /// Gives up loaded batches. One that is still being read keeps its place until it arrives: two reads of one partition
    /// could not be told apart.
    pub(super) fn release_load(&mut self, partition: TopicPartition, id: BrokerId, load: &Load) {
        if let (Load::Ready(_), Some(link)) = (load, self.links.get_mut(&id)) {
            link.release(partition);
            self.busy.insert(id);
        }
    }

    /// Sends what there is to send to a broker, unless a request to it is under way.
    pub(super) fn pump(&mut self, id: BrokerId) {
        let now = self.now;
        let Some(image) = self.image.as_ref().filter(|_| self.registered.is_some()) else { return };
        let Some(to_epoch) = leader::registration(image, id).map(|found| found.0) else { return };
        let Some(mut link) = self.links.remove(&id) else { return };
        if link.outstanding.is_none() && link.ready_at <= now {
            let items = self.gather_items(id, &mut link);
            if !items.is_empty() {
                let sent = items.iter().filter_map(|item| self.sent(item)).collect();
                let with_batches = items.iter().filter(|item| !item.batches.is_empty());
                let carried = with_batches.map(|item| item.partition).collect();
                link.outstanding = Some(Outstanding { to_epoch, items: sent, carried });
                let from_epoch = self.registered.unwrap_or(BrokerEpoch(0));
                let request = ReplicateRequest { from_epoch, to_epoch, items };
                self.out.pushes.push(Action::Push { to: id, request });
            }
        }
        self.links.insert(id, link);
    }

    fn sent(&self, item: &ReplicateItem) -> Option<Sent> {
        let log_end = self.replicas.get(&item.partition)?.log.end;
        Some(Sent {
            partition: item.partition,
            leader_epoch: item.leader_epoch,
            from: item.from,
            end: item.batches.last().map_or(item.from, Batch::end_offset),
            log_end,
            high_watermark: item.high_watermark,
        })
    }

    fn gather_items(&mut self, id: BrokerId, link: &mut Link) -> Vec<ReplicateItem> {
        let mut items = Vec::new();
        let mut room = REPLICATE_BYTES_MAX;
        while let Some(partition) = link.pop() {
            match self.next_item(partition, id, room, items.is_empty()) {
                Next::Nothing => {}
                Next::NoRoom => {
                    link.push_front(partition);
                    break;
                }
                Next::Item(item) => {
                    let bytes: usize = item.batches.iter().map(|batch| batch.bytes().len()).sum();
                    room = room.saturating_sub(bytes + REPLICATE_ITEM_BYTES);
                    items.push(item);
                }
                Next::Load(from) => self.load(partition, id, link, from),
            }
        }
        items
    }

    /// Asks for batches of the own log, unless enough of them are on their way for this broker.
    fn load(&mut self, partition: TopicPartition, id: BrokerId, link: &mut Link, from: Offset) {
        let steady = self.steady;
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let Some(progress) = leading.followers.get_mut(&id) else { return };
        if let Some(lag) = &mut progress.lag {
            lag.pause(steady);
        }
        if link.loads.len() >= LOADS_MAX || link.loads.contains_key(&partition) {
            if link.waiting.insert(partition) {
                link.wait_for_load.push_back(partition);
            }
            return;
        }
        progress.load = Load::Asked(from);
        link.loads.insert(partition, log.leader_epoch);
        self.out.rest.push(Action::Load { to: id, partition, from, bytes_max: LOAD_BYTES_MAX });
    }

    /// Makes the next item of a partition for a follower. `room` may be passed by the first item of a request only.
    fn next_item(&mut self, partition: TopicPartition, id: BrokerId, room: usize, first: bool) -> Next {
        let (now, pause) = (self.now, self.ms(super::KEEP_ALIVE_MS));
        let steady = self.steady;
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else {
            return Next::Nothing;
        };
        let Some(progress) = leading.followers.get_mut(&id) else { return Next::Nothing };
        if progress.hold_until > now || matches!(progress.load, Load::Asked(_)) {
            return Next::Nothing;
        }
        let due =
            progress.sent_at.is_none_or(|sent| sent + pause <= now) || progress.rounds.sent < leading.proving;
        let news = progress.next < log.end
            || progress.matched.is_none()
            || progress.high_watermark != Some(log.high_watermark);
        if !news && !due {
            return Next::Nothing;
        }
        if !first && room < REPLICATE_ITEM_BYTES {
            return Next::NoRoom;
        }
        let limit = if first { None } else { Some(room - REPLICATE_ITEM_BYTES) };
        let batches = match &progress.load {
            Load::Ready(loaded) => take(loaded.iter(), limit),
            Load::No | Load::Asked(_) if progress.next >= log.end => Vec::new(),
            Load::No | Load::Asked(_) => match leading.tail.from(progress.next) {
                Some(found) => take(found, limit),
                // Where the logs agree is found without reading; only then is it worth while.
                None if progress.matched.is_none() => Vec::new(),
                None if progress.next < log.synced_end => return Next::Load(progress.next),
                None => {
                    if let Some(lag) = &mut progress.lag {
                        lag.pause(steady);
                    }
                    return Next::Nothing;
                }
            },
        };
        if batches.is_empty() && limit.is_some() && progress.matched.is_some() && progress.next < log.end {
            return Next::NoRoom;
        }
        progress.sent_at = Some(now);
        progress.rounds.sent = leading.proving;
        if let Some(lag) = &mut progress.lag {
            lag.run(steady);
        }
        progress.next = batches.first().map_or(progress.next, Batch::base_offset);
        Next::Item(item(partition, log, progress.next, batches))
    }

    /// Takes the outcome of a request.
    pub(super) fn replied(&mut self, from: BrokerId, reply: Option<ReplicateReply>) {
        let bound = !self.rules.without(Weakening::NoBrokerEpoch);
        let Some(link) = self.links.get_mut(&from) else { return };
        let Some(outstanding) = link.outstanding.take() else { return };
        let fits = |reply: &ReplicateReply| {
            (reply.broker_epoch == outstanding.to_epoch || !bound)
                && reply.outcomes.len() == outstanding.items.len()
        };
        self.busy.insert(from);
        let Some(reply) = reply.filter(fits) else {
            self.unanswered(from, &outstanding.items);
            return;
        };
        link.backoff_ms = 0;
        for (sent, outcome) in outstanding.items.iter().zip(reply.outcomes) {
            self.learn_outcome(from, outstanding.to_epoch, *sent, outcome);
        }
    }

    /// Backs off from a broker that did not answer; what was sent to it goes again, whether it arrived or not.
    fn unanswered(&mut self, id: BrokerId, items: &[Sent]) {
        let (now, least, most) = (self.now, self.ms(super::BACKOFF_MS), self.ms(super::BACKOFF_MS_MAX));
        let Some(link) = self.links.get_mut(&id) else { return };
        link.backoff_ms = (link.backoff_ms * 2).clamp(least, most);
        link.ready_at = now + link.backoff_ms;
        self.timers.set(link.ready_at, Timer::Link(id));
        for sent in items {
            link.push(sent.partition);
            let led = self.replicas.get_mut(&sent.partition).and_then(Replica::led);
            if let Some(progress) = led.and_then(|(_, leading)| leading.followers.get_mut(&id)) {
                progress.high_watermark = None;
            }
        }
    }

    fn learn_outcome(&mut self, id: BrokerId, to_epoch: BrokerEpoch, sent: Sent, outcome: ReplicateOutcome) {
        let bound = !self.rules.without(Weakening::NoBrokerEpoch);
        let own_end = self.rules.without(Weakening::AckOwnLogEnd);
        let partition = sent.partition;
        let (now, steady, retry) = (self.now, self.steady, self.ms(super::RETRY_MS));
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        if log.leader_epoch != sent.leader_epoch {
            return;
        }
        let Some(progress) = leading.followers.get_mut(&id) else { return };
        // The answer of an earlier process says nothing about the log of the present one (KIP-903).
        if bound && progress.registration != Some(to_epoch) {
            return;
        }
        match outcome {
            ReplicateOutcome::Matched { match_end } => {
                let match_end = match_end.min(if own_end { log.end } else { sent.end });
                progress.matched = progress.matched.max(Some(match_end));
                progress.next = match_end;
                progress.matched_at = Some(now);
                progress.rounds.agreed = progress.rounds.sent;
                progress.high_watermark = Some(sent.high_watermark);
                progress.judge_lag(match_end >= sent.log_end, match_end >= log.end, steady);
                let used_up = progress.drop_loaded();
                if progress.lag.is_none() {
                    self.behind.remove(&(partition, id));
                }
                if used_up {
                    self.release_load(partition, id, &Load::Ready(VecDeque::new()));
                }
                self.seen.insert(partition);
                self.touched.insert(partition);
                self.wake(partition, id);
            }
            ReplicateOutcome::Diverged { epoch, end_offset } => {
                let next = leader::agreement(log, epoch, end_offset);
                let hold = if next < sent.from { 0 } else { now + retry };
                self.start_over(partition, id, next, hold);
            }
            ReplicateOutcome::Fenced { leader_epoch } if leader_epoch > log.leader_epoch => {
                // Not adopted: this broker may be the one that the image, once it arrives, gives that epoch to.
                self.set_part(partition, super::replica::Part::Follower, None);
            }
            ReplicateOutcome::Fenced { .. } | ReplicateOutcome::Unknown | ReplicateOutcome::Full => {
                let (next, hold) = (progress.next, now + retry);
                progress.hold_until = hold;
                let load = std::mem::take(&mut progress.load);
                progress.next = progress.matched.unwrap_or(next);
                self.release_load(partition, id, &load);
                self.timers.set(hold, Timer::Retry(id, partition));
            }
        }
    }

    /// Looks for agreement from `next` on; what was proven before does not count any more.
    fn start_over(&mut self, partition: TopicPartition, id: BrokerId, next: Offset, hold: Mono) {
        let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let Some(progress) = leading.followers.get_mut(&id) else { return };
        progress.matched = None;
        progress.next = next;
        progress.high_watermark = None;
        progress.hold_until = hold;
        let load = std::mem::take(&mut progress.load);
        self.release_load(partition, id, &load);
        self.seen.insert(partition);
        if hold > self.now {
            self.timers.set(hold, Timer::Retry(id, partition));
        }
        self.wake(partition, id);
    }

    /// Takes batches read from disk.
    pub(super) fn loaded(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        from: Offset,
        batches: Vec<Batch>,
    ) {
        let (now, retry) = (self.now, self.ms(super::RETRY_MS));
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(epoch) = link.loads.get(&partition).copied() else { return };
        self.busy.insert(id);
        let led = self.replicas.get_mut(&partition).and_then(Replica::led);
        let progress = led.and_then(|(log, leading)| {
            let progress = leading.followers.get_mut(&id)?;
            (log.leader_epoch == epoch && progress.load == Load::Asked(from)).then_some((log, progress))
        });
        let Some((log, progress)) = progress else {
            link.release(partition);
            link.push(partition);
            return;
        };
        if fits(log, from, &batches) {
            progress.load = Load::Ready(batches.into());
            link.push(partition);
        } else {
            progress.load = Load::No;
            progress.hold_until = now + retry;
            link.release(partition);
            self.timers.set(progress.hold_until, Timer::Retry(id, partition));
        }
    }

    /// Tries a broker again whose back-off ends.
    pub(super) fn link_due(&mut self, at: Mono, id: BrokerId) {
        if self.links.get(&id).is_some_and(|link| link.ready_at == at) {
            self.busy.insert(id);
        }
    }

    /// Lets a follower hear of a partition if it did not lately.
    pub(super) fn keep_alive_due(&mut self, at: Mono, id: BrokerId, partition: TopicPartition) {
        let (now, pause) = (self.now, self.ms(super::KEEP_ALIVE_MS));
        let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let Some(progress) = leading.followers.get_mut(&id) else { return };
        if progress.keep_alive_at != at {
            return;
        }
        let quiet_from = progress.sent_at.map_or(now, |sent| sent + pause);
        let due = quiet_from <= now;
        let next = self.keep_alive_after(if due { now } else { quiet_from - pause });
        let led = self.replicas.get_mut(&partition).and_then(Replica::led);
        if let Some(progress) = led.and_then(|(_, leading)| leading.followers.get_mut(&id)) {
            progress.keep_alive_at = next;
        }
        self.timers.set(next, Timer::KeepAlive(id, partition));
        if due {
            self.wake(partition, id);
        }
    }

    /// Returns when a partition last sent at `sent` must send again, on a grid so that many fall due together.
    pub(super) fn keep_alive_after(&self, sent: Mono) -> Mono {
        let grid = self.ms(super::KEEP_ALIVE_GRID_MS).max(1);
        (sent + self.ms(super::KEEP_ALIVE_MS)).next_multiple_of(grid)
    }
}

impl Progress {
    /// Drops loaded batches that the follower has; returns whether that used them up.
    fn drop_loaded(&mut self) -> bool {
        let Load::Ready(batches) = &mut self.load else { return false };
        while batches.front().is_some_and(|batch| batch.end_offset() <= self.next) {
            batches.pop_front();
        }
        let used_up = batches.is_empty();
        if used_up {
            self.load = Load::No;
        }
        used_up
    }

    /// Ends the time of being behind for a member that has all that was there when it was asked. If more has come since,
    /// a new time begins.
    fn judge_lag(&mut self, was_even: bool, is_even: bool, steady: u64) {
        if self.lag.is_some() && was_even {
            self.lag = (!is_even).then_some(leader::Lag { before: 0, since: Some(steady) });
        }
    }
}

/// Takes batches up to `limit` bytes; without a limit those that fit into a request, and always the first.
fn take<'a>(batches: impl Iterator<Item = &'a Batch>, limit: Option<usize>) -> Vec<Batch> {
    let most = limit.unwrap_or(REPLICATE_BYTES_MAX - REPLICATE_ITEM_BYTES);
    let mut taken = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        bytes += batch.bytes().len();
        if bytes > most && !(taken.is_empty() && limit.is_none()) {
            break;
        }
        taken.push(batch.clone());
    }
    taken
}

fn item(partition: TopicPartition, log: &Log, from: Offset, batches: Vec<Batch>) -> ReplicateItem {
    ReplicateItem {
        partition,
        leader_epoch: log.leader_epoch,
        from,
        prev_epoch: log.epoch_before(from),
        batches,
        high_watermark: log.high_watermark,
        log_start: log.start,
    }
}

/// Returns whether batches read from disk are the log's from the one that contains `from` on.
fn fits(log: &Log, from: Offset, batches: &[Batch]) -> bool {
    let Some(first) = batches.first() else { return false };
    let mut end = first.base_offset();
    let contiguous = batches.iter().all(|batch| {
        let follows = batch.base_offset() == end && batch.end_offset() <= log.end;
        end = batch.end_offset();
        follows && log.epochs.epoch_at(end - 1) == Some(batch.leader_epoch())
    });
    contiguous && first.base_offset() <= from && from < first.end_offset()
}
