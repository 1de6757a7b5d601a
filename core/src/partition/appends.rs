//! Publishers' records: refused at once, or gathered, placed and written in groups.

use super::leader::{Lag, Waiting};
use super::producers::Verdict;
use super::replica::Replica;
use super::{Acks, Action, AppendError, Appended, Replicas};
use crate::control::{Ticket, Weakening};
use crate::ids::{LeaderEpoch, Offset, TopicPartition};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, GATHER_BYTES_MAX, TAILS_BYTES_MAX};
use crate::record::{Batch, BatchBuilder, HEADER_BYTES};

/// What waits for the next flush in one partition.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) appends: Vec<Append>,
    bytes: usize,
    /// Somebody does not wait for the followers.
    hasty: bool,
}

/// One publisher's records.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) ticket: Ticket,
    pub(super) batch: Batch,
    pub(super) acks: Acks,
    /// Refuse unless the log ends here.
    pub(super) expected_offset: Option<Offset>,
}

/// What to do with one publisher's records when their turn has come.
enum Decision {
    Place,
    /// An idempotent producer sent them before: nothing is appended, the answer is where they are.
    Held {
        base_offset: Offset,
        timestamp_ms: i64,
    },
    Refuse(AppendError),
}

/// Publishers' records that become one batch. An idempotent producer's stay alone: its sequence belongs to exactly these.
#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    records: usize,
    bytes: usize,
    closed: bool,
}

impl Group {
    fn takes(&self, append: &Append) -> bool {
        let plain = append.batch.producer_id().is_nil() && !self.closed;
        let fits = self.records + count(append) <= BATCH_RECORDS_MAX
            && self.bytes + frames(append) + HEADER_BYTES <= BATCH_BYTES_MAX;
        self.appends.is_empty() || (plain && fits)
    }

    fn push(&mut self, append: Append) {
        self.records += count(&append);
        self.bytes += frames(&append);
        self.closed = !append.batch.producer_id().is_nil();
        self.appends.push(append);
    }
}

fn count(append: &Append) -> usize {
    usize::try_from(append.batch.count()).unwrap_or(usize::MAX)
}

fn frames(append: &Append) -> usize {
    append.batch.bytes().len() - HEADER_BYTES
}

impl Replicas {
    pub(super) fn gather(&mut self, partition: TopicPartition, append: Append) {
        if let Err(error) = self.admit(partition, append.acks) {
            self.out.rest.push(Action::Acked { ticket: append.ticket, result: Err(error) });
            return;
        }
        let gathered = self.gathered.entry(partition).or_default();
        gathered.bytes += append.batch.bytes().len();
        gathered.hasty |= append.acks != Acks::All;
        gathered.appends.push(append);
    }

    /// Refuses what can't be appended here and now, whatever the log holds: all definite.
    fn admit(&self, partition: TopicPartition, acks: Acks) -> Result<(), AppendError> {
        let Some(leading) = self.replicas.get(&partition).and_then(Replica::leading) else {
            return Err(AppendError::NotLeader { leader: self.leader_by_image(partition) });
        };
        if !self.storage_healthy {
            return Err(AppendError::StorageFull);
        }
        let (alive, min_isr) = (leading.alive, leading.min_isr);
        if acks == Acks::All && alive < min_isr {
            return Err(AppendError::NotEnoughReplicas { alive, min_isr });
        }
        Ok(())
    }

    /// Takes note that the inbox is drained: what was gathered may be placed.
    pub(super) fn flush(&mut self, now_ms: i64) {
        self.wall = now_ms.checked_sub_unsigned(self.now).unwrap_or(now_ms);
        self.flushed.extend(self.gathered.keys());
    }

    /// Places what was gathered in partitions that are not busy, stages one write of it and wakes the links to the
    /// followers. To be called after whatever may end that a partition is busy.
    pub(super) fn place_flushed(&mut self) {
        let ready: Vec<_> =
            self.flushed.iter().filter(|partition| !self.is_busy(**partition)).copied().collect();
        for partition in ready {
            self.flushed.remove(&partition);
            let Some(gathered) = self.gathered.remove(&partition) else { continue };
            let now_ms = self.wall.saturating_add_unsigned(self.now);
            let log_end = |machine: &Self| machine.replicas.get(&partition).map(|replica| replica.log.end);
            let before = log_end(self);
            self.place_all(partition, gathered.appends, now_ms);
            self.touched.insert(partition);
            if log_end(self) != before {
                self.note_appended(partition);
            }
        }
    }

    /// Decides on each publisher's records in their turn, since what the log holds depends on those before.
    fn place_all(&mut self, partition: TopicPartition, appends: Vec<Append>, now_ms: i64) {
        let mut group = Group::default();
        for append in appends {
            if !group.takes(&append) {
                self.place(partition, std::mem::take(&mut group).appends, now_ms);
            }
            match self.decide(partition, group.records, &append) {
                Decision::Place => group.push(append),
                Decision::Held { base_offset, timestamp_ms } => {
                    self.repeat(partition, &append, base_offset, timestamp_ms);
                }
                Decision::Refuse(error) => {
                    self.out.rest.push(Action::Acked { ticket: append.ticket, result: Err(error) });
                }
            }
        }
        self.place(partition, group.appends, now_ms);
    }

    /// Decides on records that `grouped` others go before, which are not in the log yet.
    fn decide(&self, partition: TopicPartition, grouped: usize, append: &Append) -> Decision {
        let Some(log) = self.replicas.get(&partition).map(|replica| &replica.log) else {
            return Decision::Refuse(AppendError::NotLeader { leader: None });
        };
        let producer = append.batch.producer().filter(|_| !self.rules.without(Weakening::NoSequenceCheck));
        match producer.map(|producer| log.producers.judge(producer, append.batch.count())) {
            Some(Verdict::Held { base_offset, timestamp_ms }) => {
                return Decision::Held { base_offset, timestamp_ms };
            }
            Some(Verdict::Refused(error)) => return Decision::Refuse(error),
            Some(Verdict::New) | None => {}
        }
        let log_end = log.end + u64::try_from(grouped).unwrap_or(u64::MAX);
        match append.expected_offset {
            Some(expected) if expected != log_end => Decision::Refuse(AppendError::UnexpectedEnd { log_end }),
            Some(_) | None => Decision::Place,
        }
    }

    /// Answers for records that the log holds already, once they are as safe as their publisher wants them.
    fn repeat(&mut self, partition: TopicPartition, append: &Append, base_offset: Offset, timestamp_ms: i64) {
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let leader_epoch = log.epochs.epoch_at(base_offset).unwrap_or(log.leader_epoch);
        let appended = Appended { base_offset, timestamp_ms, leader_epoch, isr: Vec::new(), duplicate: true };
        let end = base_offset + u64::from(append.batch.count());
        let done = leading.wait(append.acks, Waiting { end, ticket: append.ticket, appended });
        self.answer_now(partition, done);
    }

    fn answer_now(&mut self, partition: TopicPartition, done: impl IntoIterator<Item = Waiting>) {
        let Some(leading) = self.replicas.get(&partition).and_then(Replica::leading) else { return };
        for waiting in done {
            let appended = Appended { isr: leading.isr.clone(), ..waiting.appended };
            self.out.rest.push(Action::Acked { ticket: waiting.ticket, result: Ok(appended) });
        }
    }

    /// Returns whether what was gathered should wait for more: an in-sync follower has not answered for the last batch
    /// yet, so that the next one could not be sent to it in any case. Waiting makes one larger batch, and one commit on
    /// every replica, of what would be several.
    fn is_busy(&self, partition: TopicPartition) -> bool {
        let led =
            self.replicas.get(&partition).and_then(|mine| mine.leading().map(|leading| (mine, leading)));
        let (Some((replica, leading)), Some(gathered)) = (led, self.gathered.get(&partition)) else {
            return false;
        };
        if gathered.hasty || gathered.bytes >= GATHER_BYTES_MAX || leading.isr.len() < 2 {
            return false;
        }
        let under_way = |id| self.links.get(id).is_some_and(|link| link.carries(partition));
        replica.log.synced_end < replica.log.end || leading.isr.iter().any(under_way)
    }

    fn place(&mut self, partition: TopicPartition, group: Vec<Append>, now_ms: i64) {
        if group.is_empty() {
            return;
        }
        let id = self.writes.id();
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let batch = merged(&group, log.end, log.leader_epoch, now_ms);
        let mut base_offset = log.end;
        let leader_epoch = log.leader_epoch;
        let write = self.writes.stage(partition, log);
        log.append(id, write, &batch);
        if !leading.followers.is_empty() {
            let before = leading.tail.bytes();
            leading.tail.push(batch);
            if self.tail_bytes - before + leading.tail.bytes() > TAILS_BYTES_MAX {
                leading.tail.clear();
            }
            self.tail_bytes = self.tail_bytes - before + leading.tail.bytes();
        }
        let mut done = Vec::new();
        for append in group {
            let end = base_offset + u64::from(append.batch.count());
            let (timestamp_ms, isr) = (now_ms, Vec::new());
            let appended = Appended { base_offset, timestamp_ms, leader_epoch, isr, duplicate: false };
            base_offset = end;
            done.extend(leading.wait(append.acks, Waiting { end, ticket: append.ticket, appended }));
        }
        self.answer_now(partition, done);
    }

    /// Members of the ISR are behind from now on, until they prove otherwise.
    fn note_appended(&mut self, partition: TopicPartition) {
        let steady = self.steady;
        let Some((_, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        for (id, progress) in &mut leading.followers {
            if progress.lag.is_none() && leading.isr.contains(id) {
                progress.lag = Some(Lag { before: 0, since: Some(steady) });
                self.behind.insert((partition, *id));
            }
        }
        self.arm_lag();
        self.wake_followers(partition);
    }
}

fn merged(group: &[Append], base_offset: Offset, epoch: LeaderEpoch, now_ms: i64) -> Batch {
    if let [single] = group {
        return single.batch.placed(base_offset, epoch, now_ms);
    }
    let mut builder = BatchBuilder::new();
    for append in group {
        builder.append(&append.batch);
    }
    builder.build(base_offset, epoch, now_ms).expect("a group is made within the limits of a batch")
}
