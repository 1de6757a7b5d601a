//! Publishers' records: refused at once, or gathered, placed and written in groups.

use super::leader::{Lag, Waiting};
use super::replica::Replica;
use super::{Acks, Action, AppendError, Appended, Replicas};
use crate::control::Ticket;
use crate::ids::{LeaderEpoch, Offset, TopicPartition};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, TAILS_BYTES_MAX};
use crate::record::{Batch, BatchBuilder, HEADER_BYTES};

/// What waits for the next flush in one partition.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) appends: Vec<Append>,
    /// Where the log will end.
    end: Offset,
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
                let gathered =
                    self.gathered.entry(partition).or_insert_with(|| Gathered { appends: Vec::new(), end });
                gathered.end = end + u64::from(batch.count());
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

    /// Places everything gathered, stages one write of it and wakes the links to the followers.
    pub(super) fn flush(&mut self, now_ms: i64) {
        for (partition, gathered) in std::mem::take(&mut self.gathered) {
            for group in groups(gathered.appends) {
                self.place(partition, group, now_ms);
            }
            self.note_appended(partition);
        }
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
