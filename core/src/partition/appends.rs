//! Publishers' records: refused at once, or gathered, placed and written in groups.

use super::leader::{Lag, Waiting};
use super::replica::Replica;
use super::{Acks, Action, AppendError, Appended, Replicas};
use crate::control::Ticket;
use crate::ids::{LeaderEpoch, Offset, TopicPartition};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, GATHER_BYTES_MAX, TAILS_BYTES_MAX};
use crate::record::{Batch, BatchBuilder, HEADER_BYTES};

/// What waits for the next flush in one partition.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) appends: Vec<Append>,
    /// Where the log will end.
    end: Offset,
    bytes: usize,
    /// Somebody does not wait for the followers.
    hasty: bool,
}

/// One publisher's records.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) ticket: Ticket,
    batch: Batch,
    acks: Acks,
}

impl Replicas {
    pub(super) fn gather(
        &mut self,
        append: (Ticket, Batch, Acks),
        partition: TopicPartition,
        expected_offset: Option<Offset>,
    ) {
        let (ticket, batch, acks) = append;
        match self.admit(partition, acks, expected_offset) {
            Ok(end) => {
                let empty = || Gathered { appends: Vec::new(), end, bytes: 0, hasty: false };
                let gathered = self.gathered.entry(partition).or_insert_with(empty);
                gathered.end = end + u64::from(batch.count());
                gathered.bytes += batch.bytes().len();
                gathered.hasty |= acks != Acks::All;
                gathered.appends.push(Append { ticket, batch, acks });
            }
            Err(error) => self.out.rest.push(Action::Acked { ticket, result: Err(error) }),
        }
    }

    /// Returns where the records will be placed, or why they may not be: all definite.
    fn admit(
        &self,
        partition: TopicPartition,
        acks: Acks,
        expected_offset: Option<Offset>,
    ) -> Result<Offset, AppendError> {
        let replica = self.replicas.get(&partition);
        let Some((replica, leading)) = replica.and_then(|mine| mine.leading().map(|leading| (mine, leading)))
        else {
            return Err(AppendError::NotLeader { leader: self.leader_by_image(partition) });
        };
        if !self.storage_healthy {
            return Err(AppendError::StorageFull);
        }
        let (alive, min_isr) = (leading.alive, leading.min_isr);
        if acks == Acks::All && alive < min_isr {
            return Err(AppendError::NotEnoughReplicas { alive, min_isr });
        }
        let log_end = self.gathered.get(&partition).map_or(replica.log.end, |gathered| gathered.end);
        match expected_offset {
            Some(expected) if expected != log_end => Err(AppendError::UnexpectedEnd { log_end }),
            Some(_) | None => Ok(log_end),
        }
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
            for group in groups(gathered.appends) {
                self.place(partition, group, now_ms);
            }
            self.note_appended(partition);
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
        let id = self.writes.id();
        let Some((log, leading)) = self.replicas.get_mut(&partition).and_then(Replica::led) else { return };
        let batch = merged(&group, log.end, log.leader_epoch, now_ms);
        let write = self.writes.stage(partition, log);
        let mut base_offset = log.end;
        if log.append(id, &batch) {
            write.epoch_starts.push((log.leader_epoch, batch.base_offset()));
        }
        write.batches.push(batch.clone());
        if !leading.followers.is_empty() {
            let before = leading.tail.bytes();
            leading.tail.push(batch);
            if self.tail_bytes - before + leading.tail.bytes() > TAILS_BYTES_MAX {
                leading.tail.clear();
            }
            self.tail_bytes = self.tail_bytes - before + leading.tail.bytes();
        }
        for append in group {
            let end = base_offset + u64::from(append.batch.count());
            let leader_epoch = log.leader_epoch;
            let appended = Appended { base_offset, timestamp_ms: now_ms, leader_epoch, isr: Vec::new() };
            base_offset = end;
            let waiting = Waiting { end, ticket: append.ticket, appended };
            if let Some(done) = leading.wait(append.acks, waiting) {
                let appended = Appended { isr: leading.isr.clone(), ..done.appended };
                self.out.rest.push(Action::Acked { ticket: done.ticket, result: Ok(appended) });
            }
        }
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
        self.touched.insert(partition);
    }
}

/// Splits publishers' batches into groups that each become one batch. A producer's batch stays alone: its sequence
/// numbers belong to exactly these records.
fn groups(appends: Vec<Append>) -> Vec<Vec<Append>> {
    let mut groups: Vec<Vec<Append>> = Vec::new();
    let (mut records, mut bytes, mut open) = (0, 0, false);
    for append in appends {
        let plain = append.batch.producer_id().is_nil();
        let count = usize::try_from(append.batch.count()).unwrap_or(usize::MAX);
        let frames = append.batch.bytes().len() - HEADER_BYTES;
        let fits = records + count <= BATCH_RECORDS_MAX && bytes + frames + HEADER_BYTES <= BATCH_BYTES_MAX;
        match groups.last_mut().filter(|_| open && plain && fits) {
            Some(group) => {
                group.push(append);
                (records, bytes) = (records + count, bytes + frames);
            }
            None => {
                groups.push(vec![append]);
                (records, bytes, open) = (count, frames, plain);
            }
        }
    }
    groups
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
