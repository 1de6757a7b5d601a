//! Any sequence of writes that a replica may issue leaves what a list of batches would hold, also after a crash.

use super::*;
use proptest::prelude::*;

/// A replica as it should be.
#[derive(Clone, Debug, Default)]
struct Model {
    stored: bool,
    log_start: Offset,
    log_end: Offset,
    leader_epoch: u32,
    batches: Vec<Batch>,
    epochs: Vec<(LeaderEpoch, Offset)>,
    producers: Vec<ProducerBatch>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Record counts of the batches.
    Append(Vec<u64>),
    /// Record counts of idempotent producers' batches, and one of whom all but what comes now is forgotten.
    Produce(Vec<u64>, u8),
    /// Cut off that many batches, then append one of a new epoch.
    Truncate(usize),
    /// Start again that much behind the log end.
    Reset(u64),
    /// Raise the log start by so many records.
    Trim(u64),
    Delete,
    /// Leave the process as it is, and go on with a copy of its files.
    Crash,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(1..5_u64, 1..4).prop_map(Step::Append),
        4 => (prop::collection::vec(1..3_u64, 1..4), 0..6_u8).prop_map(|(counts, who)| Step::Produce(counts, who)),
        3 => (0..4_usize).prop_map(Step::Truncate),
        1 => (0..9_u64).prop_map(Step::Reset),
        3 => (1..9_u64).prop_map(Step::Trim),
        1 => Just(Step::Delete),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

impl Model {
    /// Makes the write that does `step`, and does it here.
    fn plan(&mut self, partition: TopicPartition, step: &Step) -> ReplicaWrite {
        let mut write = bare(partition, 0, 0);
        match step {
            Step::Append(counts) => counts.iter().for_each(|count| self.append(&mut write, *count)),
            Step::Produce(counts, who) => {
                write.forgotten = vec![(uuid::Uuid::from_u128((*who).into()), self.log_end)];
                for count in counts {
                    self.take(&mut write, produced(self.log_end, *count, self.leader_epoch));
                }
            }
            Step::Truncate(cut) => {
                let kept = self.batches.len() - (*cut).min(self.batches.len());
                let end = self.batches.get(kept).map_or(self.log_end, Batch::base_offset).max(self.log_start);
                // The batch that holds the log start is kept unless the cut is at its very beginning.
                self.batches.retain(|batch| batch.base_offset() < end);
                let end = self.batches.last().map_or(end, |batch| batch.end_offset().max(end));
                self.epochs.retain(|(_, start)| *start < end);
                self.log_end = end;
                write.truncate_to = Some(end);
                self.leader_epoch += 1;
                self.epochs.push((LeaderEpoch(self.leader_epoch), end));
                write.epoch_starts = vec![(LeaderEpoch(self.leader_epoch), end)];
                self.append(&mut write, 2);
            }
            Step::Reset(ahead) => {
                let start = self.log_end + ahead;
                *self = Self {
                    log_start: start,
                    log_end: start,
                    leader_epoch: self.leader_epoch,
                    ..Self::default()
                };
                write.reset_to = Some(start);
                self.append(&mut write, 1);
            }
            Step::Trim(by) => {
                self.log_start = (self.log_start + by).min(self.log_end);
                self.batches.retain(|batch| batch.end_offset() > self.log_start);
            }
            Step::Delete => {
                *self = Self::default();
                write.delete = true;
                return write;
            }
            Step::Crash | Step::Close => {}
        }
        write.remember(&mut self.producers);
        self.stored = true;
        write.leader_epoch = LeaderEpoch(self.leader_epoch);
        write.log_start = self.log_start;
        write.log_end = self.log_end;
        write.high_watermark = self.log_start;
        write
    }

    fn append(&mut self, write: &mut ReplicaWrite, count: u64) {
        self.take(write, batch(self.log_end, count, self.leader_epoch));
    }

    fn take(&mut self, write: &mut ReplicaWrite, batch: Batch) {
        self.log_end = batch.end_offset();
        self.batches.push(batch.clone());
        write.batches.push(batch);
    }

    fn as_stored(&self, partition: TopicPartition) -> Option<StoredReplica> {
        self.stored.then(|| StoredReplica {
            partition,
            leader_epoch: LeaderEpoch(self.leader_epoch),
            log_start: self.log_start,
            log_end: self.log_end,
            high_watermark: self.log_start,
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
        })
    }
}

async fn compare(store: &Store, partition: TopicPartition, model: &Model, from: Offset) {
    let read = store.read(partition, from, u64::MAX, usize::MAX).await;
    if !model.stored {
        assert!(matches!(read, Err(StoreError::UnknownPartition { .. })));
        return;
    }
    let from = from.max(model.log_start);
    let expected: Vec<&Batch> = model.batches.iter().filter(|batch| batch.end_offset() > from).collect();
    assert_eq!(read.unwrap().iter().collect::<Vec<_>>(), expected);
}

async fn run(steps: Vec<(bool, Step)>, sealed: bool) {
    let config_of = |dir: &Path| if sealed { with_key(dir, KEY_1) } else { config(dir) };
    let mut dirs = vec![TempDir::new().unwrap()];
    let mut opened = open(config_of(dirs[0].path())).unwrap();
    let mut models = [(A, Model::default()), (B, Model::default())];
    for (second, step) in steps {
        if matches!(step, Step::Crash | Step::Close) {
            let before = opened;
            if matches!(step, Step::Crash) {
                dirs.push(copy_of(dirs[dirs.len() - 1].path()));
                drop(before);
            } else {
                close(before).await;
            }
            opened = open(config_of(dirs[dirs.len() - 1].path())).unwrap();
            let expected: Vec<_> =
                models.iter().filter_map(|(partition, model)| model.as_stored(*partition)).collect();
            assert_eq!(opened.replicas, expected);
        } else {
            let (partition, model) = &mut models[usize::from(second)];
            let planned = model.plan(*partition, &step);
            write(&opened.store, vec![planned]).await.unwrap();
        }
        for (partition, model) in &models {
            compare(&opened.store, *partition, model, 0).await;
            compare(&opened.store, *partition, model, (model.log_start + model.log_end) / 2).await;
        }
    }
    close(opened).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_holds_what_a_list_would(steps in prop::collection::vec((any::<bool>(), step()), 1..25), sealed: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps, sealed));
    }
}
