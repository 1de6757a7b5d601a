//! Publishers, admins and consumers, and what they were told.

use super::checks::logs::Extended;
use super::checks::{Broken, Checked, ensure};
use pubsub_core::control::{Command, Outcome, Refusal, Ticket};
use pubsub_core::ids::{Offset, TopicId, TopicName, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{Acks, AppendError, Appended};
use pubsub_core::record::{Batch, BatchBuilder, ValueKind};
use std::collections::BTreeMap;

/// One publish and what became of it.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Where to.
    pub partition: TopicPartition,
    /// When it wanted to be answered.
    pub acks: Acks,
    /// The answer.
    pub outcome: Option<Result<Appended, AppendError>>,
    /// Where its record was committed.
    pub committed_at: Option<Offset>,
}

/// One admin request and what became of it.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The request.
    pub command: Command,
    /// The answer.
    pub outcome: Option<Result<Outcome, Refusal>>,
}

/// One consumer that polls whichever replica it meets.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// Next offset by partition.
    pub positions: BTreeMap<TopicPartition, Offset>,
    /// Records read.
    pub records: u64,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    next_ticket: u64,
    /// Publishes by ticket.
    pub publishes: BTreeMap<u64, Publish>,
    /// Admin requests by ticket.
    pub admins: BTreeMap<u64, Admin>,
    /// Consumers.
    pub consumers: Vec<Consumer>,
    /// Topics whose creation was acknowledged.
    pub topics: BTreeMap<TopicName, TopicId>,
    /// Publishes with `acks=all` that were acknowledged.
    pub acknowledged: u64,
}

impl Clients {
    /// Returns an unused ticket.
    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Makes a value that no other publish has.
    pub fn value(ticket: Ticket, filler: usize) -> Vec<u8> {
        let mut value = ticket.0.to_le_bytes().to_vec();
        value.resize(8 + filler, b'.');
        value
    }

    /// Makes a batch of one record that no other publish has.
    pub fn batch(ticket: Ticket, filler: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.push(None, b"", ValueKind::Bytes, &Self::value(ticket, filler));
        builder.build(0, pubsub_core::ids::LeaderEpoch(0), 0).expect("one small record is within the limits")
    }

    /// Notes the answer to a publish and checks it against what is committed.
    ///
    /// # Errors
    /// R1 or R3.
    pub fn published(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, AppendError>,
        committed: impl Fn(TopicPartition, Offset) -> Option<u64>,
        excused: bool,
    ) -> Checked {
        let Some(publish) = self.publishes.get_mut(&ticket.0) else { return Ok(()) };
        publish.outcome = Some(result.clone());
        if excused {
            return Ok(());
        }
        match result {
            Ok(appended) if publish.acks == Acks::All => {
                self.acknowledged += 1;
                let found = committed(publish.partition, appended.base_offset);
                ensure(found == Some(ticket.0), Invariant::R1, || {
                    format!(
                        "publish {ticket:?} was acknowledged at {appended:?}, committed there is {found:?}"
                    )
                })
            }
            Ok(_) | Err(AppendError::Unknown | AppendError::TimedOut) => Ok(()),
            Err(error) => ensure(publish.committed_at.is_none(), Invariant::R1, || {
                format!(
                    "publish {ticket:?} was refused ({error}) but is committed at {:?}",
                    publish.committed_at
                )
            }),
        }
    }

    /// Notes what was committed: each publish at most once, and none that was refused. Of a record that retention deleted
    /// (below `start`) nobody needs to know any more.
    ///
    /// # Errors
    /// R1 or R3.
    pub fn committed(&mut self, extended: &Extended, start: Offset) -> Checked {
        for record in extended.batches.iter().flat_map(Batch::records) {
            let Some(publish) = ticket_of(record.value).and_then(|ticket| self.publishes.get_mut(&ticket))
            else {
                continue;
            };
            let before = publish.committed_at.replace(record.offset);
            let once = before.is_none_or(|before| before < start);
            ensure(once && publish.partition == extended.partition, Invariant::R3, || {
                format!("{publish:?} was committed twice or elsewhere: {before:?}")
            })?;
            let refused = match &publish.outcome {
                Some(Err(AppendError::Unknown | AppendError::TimedOut) | Ok(_)) | None => None,
                Some(Err(error)) => Some(error),
            };
            ensure(refused.is_none(), Invariant::R1, || format!("{publish:?} was refused but is committed"))?;
        }
        Ok(())
    }

    /// Checks at the end of a run that every acknowledged record is still where it was committed.
    ///
    /// # Errors
    /// R1.
    pub fn all_kept(
        &self,
        committed: impl Fn(TopicPartition, Offset) -> Option<u64>,
        excused: impl Fn(TopicPartition) -> bool,
    ) -> Result<u64, Broken> {
        let mut kept = 0;
        for (ticket, publish) in &self.publishes {
            let Some(Ok(appended)) = &publish.outcome else { continue };
            if publish.acks != Acks::All || excused(publish.partition) {
                continue;
            }
            let found = committed(publish.partition, appended.base_offset);
            ensure(found == Some(*ticket), Invariant::R1, || {
                format!("publish {ticket} was acknowledged at {appended:?}, at the end {found:?} is there")
            })?;
            kept += 1;
        }
        Ok(kept)
    }
}

/// Returns which publish a record's value belongs to.
pub fn ticket_of(value: &[u8]) -> Option<u64> {
    value.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
}
