//! A producer that collects records into batches: as many as wait while the batch before is on its way.
//!
//! Records of one lane (a given partition, or all that leave the choice to the broker) are sent in order, one batch at a
//! time: a batch that overtook another would change the order of records, and a failed one could not be repeated in its
//! place.

use super::{Delivery, Producer, PublishError, check};
use crate::record::NewRecord;
use pubsub_core::limits::INBOX_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Most batches on their way at once, over all lanes.
const BATCHES_IN_FLIGHT_MAX: usize = 16;

/// Some partition, or the broker's choice.
type LaneId = Option<u32>;

struct Item {
    lane: LaneId,
    record: NewRecord,
    arrived: Instant,
    outcome: oneshot::Sender<Result<Delivery, PublishError>>,
    _room: OwnedSemaphorePermit,
}

/// Collects records into batches and publishes them in order. Needs a Tokio runtime.
///
/// Records that were accepted are delivered even if the producer is dropped, as long as the runtime lives;
/// [`BatchProducer::close`] waits for it.
#[derive(Debug)]
pub struct BatchProducer {
    inbox: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    buffer_bytes: u32,
    partition: LaneId,
    task: JoinHandle<()>,
}

/// The outcome of one record, to come: a future.
#[derive(Debug)]
pub struct Ticket {
    outcome: oneshot::Receiver<Result<Delivery, PublishError>>,
}

impl Future for Ticket {
    type Output = Result<Delivery, PublishError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(context).map(|outcome| outcome.unwrap_or(Err(PublishError::Closed)))
    }
}

impl BatchProducer {
    pub(crate) fn start(producer: Producer) -> Self {
        let (inbox, items) = mpsc::channel(INBOX_MAX);
        let (partition, buffer_bytes) =
            (producer.config().partition, producer.config().buffer_bytes_max.max(1));
        let room = Arc::new(Semaphore::new(usize::try_from(buffer_bytes).expect("32 bits fit a usize")));
        let task = tokio::spawn(Collector::new(producer).run(items));
        Self { inbox, room, buffer_bytes, partition, task }
    }

    /// Accepts a record for the configured partition, waiting while the buffer is full.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`] and [`PublishError::Closed`]; everything else is told by the ticket.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is done, the record was not accepted.
    pub async fn send(&self, record: NewRecord) -> Result<Ticket, PublishError> {
        self.send_to(self.partition, record).await
    }

    /// As [`BatchProducer::send`], for a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`BatchProducer::send`].
    ///
    /// # Cancel safety
    /// As [`BatchProducer::send`].
    pub async fn send_to(&self, partition: Option<u32>, record: NewRecord) -> Result<Ticket, PublishError> {
        check(&record)?;
        let bytes = u32::try_from(record.bytes()).unwrap_or(u32::MAX).clamp(1, self.buffer_bytes);
        let room =
            Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| PublishError::Closed)?;
        let (sender, outcome) = oneshot::channel();
        let item = Item { lane: partition, record, arrived: Instant::now(), outcome: sender, _room: room };
        self.inbox.send(item).await.map_err(|_| PublishError::Closed)?;
        Ok(Ticket { outcome })
    }

    /// Waits until every accepted record was delivered or has failed; the tickets tell which.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the delivery.
    pub async fn close(self) {
        drop(self.inbox);
        // The task ends by itself; if it panicked, the tickets say so.
        let _ = self.task.await;
    }
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Item>,
    busy: bool,
}

struct Collector {
    producer: Producer,
    lanes: BTreeMap<LaneId, Lane>,
    in_flight: JoinSet<(LaneId, bool)>,
    halted: bool,
    /// Of an idempotent producer: where records without a key go until the next batch leaves for there.
    keyless: LaneId,
}

impl Collector {
    fn new(producer: Producer) -> Self {
        Self { producer, lanes: BTreeMap::new(), in_flight: JoinSet::new(), halted: false, keyless: None }
    }

    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut open = true;
        while open || !self.lanes.is_empty() {
            let due = self.dispatch(!open);
            tokio::select! {
                item = items.recv(), if open => match item {
                    Some(item) if self.halted => refuse([item]),
                    Some(item) => self.take(item).await,
                    None => open = false,
                },
                Some(done) = self.in_flight.join_next() => {
                    let (lane, delivered) = done.expect("sending a batch does not panic");
                    self.finished(lane);
                    if !delivered && self.producer.config().halt_on_failure {
                        self.halt();
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Puts a record into its lane, which an idempotent producer must know; fails it if that can't be learned.
    async fn take(&mut self, item: Item) {
        let lane = match (item.lane, self.keyless) {
            (Some(lane), _) => Ok(Some(lane)),
            (None, Some(keyless)) if item.record.key_text().is_none() => Ok(Some(keyless)),
            (None, _) => self.producer.place(&item.record).await,
        };
        match lane {
            Ok(lane) => {
                if item.lane.is_none() && item.record.key_text().is_none() {
                    self.keyless = lane;
                }
                self.lanes.entry(lane).or_default().waiting.push_back(item);
            }
            Err(error) => {
                // Who dropped the ticket does not want to know.
                let _ = item.outcome.send(Err(error));
                if self.producer.config().halt_on_failure {
                    self.halt();
                }
            }
        }
    }

    fn finished(&mut self, id: LaneId) {
        let lane = self.lanes.get_mut(&id).expect("a lane outlives its batches");
        lane.busy = false;
        if lane.waiting.is_empty() {
            self.lanes.remove(&id);
        }
    }

    fn halt(&mut self) {
        self.halted = true;
        for lane in self.lanes.values_mut() {
            refuse(lane.waiting.drain(..));
        }
        self.lanes.retain(|_, lane| lane.busy);
    }

    /// Sends what is due and returns when the next batch will be.
    fn dispatch(&mut self, closing: bool) -> Option<Instant> {
        let config = self.producer.config().clone();
        let now = Instant::now();
        let mut next_due = None;
        for (id, lane) in &mut self.lanes {
            let Some(oldest) = lane.waiting.front() else { continue };
            if lane.busy || self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
                continue;
            }
            let due = oldest.arrived + config.linger;
            if !closing && due > now && lane.waiting.len() < config.batch_records_max {
                next_due = Some(next_due.map_or(due, |earliest: Instant| earliest.min(due)));
                continue;
            }
            if self.keyless == *id {
                self.keyless = None;
            }
            let batch = take(&mut lane.waiting, config.batch_records_max, config.batch_bytes_max);
            lane.busy = true;
            let (producer, id) = (self.producer.clone(), *id);
            self.in_flight.spawn(async move {
                let delivered = deliver(&producer, id, batch).await;
                (id, delivered)
            });
        }
        next_due
    }
}

/// Takes the oldest items up to both limits, but never none.
fn take(waiting: &mut VecDeque<Item>, records_max: usize, bytes_max: usize) -> Vec<Item> {
    let mut bytes = 0;
    let mut count = 0;
    for item in waiting.iter().take(records_max.max(1)) {
        bytes += item.record.bytes();
        if bytes > bytes_max && count > 0 {
            break;
        }
        count += 1;
    }
    waiting.drain(..count).collect()
}

/// Returns whether the batch was delivered.
async fn deliver(producer: &Producer, partition: LaneId, batch: Vec<Item>) -> bool {
    match producer.send_many(partition, batch.iter().map(|item| &item.record)).await {
        Ok(deliveries) => {
            for (item, delivery) in batch.into_iter().zip(deliveries) {
                // Who dropped the ticket does not want to know.
                let _ = item.outcome.send(Ok(delivery));
            }
            true
        }
        Err(error) => {
            for item in batch {
                // As above.
                let _ = item.outcome.send(Err(error.clone()));
            }
            false
        }
    }
}

fn refuse(items: impl IntoIterator<Item = Item>) {
    for item in items {
        // As above.
        let _ = item.outcome.send(Err(PublishError::Closed));
    }
}
