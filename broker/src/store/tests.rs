//! The store against real files in a temporary directory.
#![allow(clippy::unwrap_used)]

mod measure;
mod model;
mod opening;
mod promises;
mod retention;
mod sealed;
mod vacuum;
mod views;

use super::*;
use pubsub_core::ids::LeaderEpoch;
use pubsub_core::partition::ProducerBatch;
use pubsub_core::record::{BatchBuilder, Producer, ValueKind};
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;

const A: TopicPartition = TopicPartition { topic: TopicId(Uuid::from_u128(0xa)), partition: 0 };
const B: TopicPartition = TopicPartition { topic: TopicId(Uuid::from_u128(0xb)), partition: 3 };
const KEY_1: &str = "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=";
const KEY_2: &str = "MjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjI=";
const PATIENCE: Duration = Duration::from_secs(20);

fn key(text: &str) -> StorageKey {
    StorageKey::try_from(text).unwrap()
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.to_owned(),
        broker_id: BrokerId(1),
        key: None,
        keys_old: Vec::new(),
        free_bytes_min: Some(0),
        vacuum: false,
    }
}

fn with_key(dir: &Path, new: &str) -> StoreConfig {
    StoreConfig { key: Some(key(new)), ..config(dir) }
}

/// A batch of `count` records at `base`, each value telling its offset.
fn batch(base: Offset, count: u64, epoch: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    for offset in base..base + count {
        builder.push(Some(b"k"), b"", ValueKind::Json, format!("{{\"at\":{offset}}}").as_bytes());
    }
    builder.build(base, LeaderEpoch(epoch), 1_700_000_000_000).unwrap()
}

/// The same, of one of three idempotent producers; sequences and offsets are alike.
fn produced(base: Offset, count: u64, epoch: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    let id = uuid::Uuid::from_u128(u128::from(base % 3) + 1);
    builder.producer(Producer { id, epoch: 5, first_sequence: u32::try_from(base).unwrap() });
    for offset in base..base + count {
        builder.push(None, b"", ValueKind::Json, format!("{{\"at\":{offset}}}").as_bytes());
    }
    builder.build(base, LeaderEpoch(epoch), 1_700_000_000_000).unwrap()
}

/// A write that appends to a log of one epoch and leaves its start where it was.
fn append(partition: TopicPartition, log_start: Offset, batches: Vec<Batch>) -> ReplicaWrite {
    let log_end = batches.last().unwrap().end_offset();
    ReplicaWrite {
        partition,
        delete: false,
        truncate_to: None,
        reset_to: None,
        epoch_starts: Vec::new(),
        batches,
        forgotten: Vec::new(),
        leader_epoch: LeaderEpoch(1),
        log_start,
        log_end,
        high_watermark: log_start,
    }
}

/// A write that appends nothing.
fn bare(partition: TopicPartition, log_start: Offset, log_end: Offset) -> ReplicaWrite {
    ReplicaWrite { log_end, ..append(partition, log_start, vec![batch(log_end, 1, 1)]) }.without_batches()
}

trait WithoutBatches {
    fn without_batches(self) -> Self;
}

impl WithoutBatches for ReplicaWrite {
    fn without_batches(self) -> Self {
        Self { batches: Vec::new(), ..self }
    }
}

/// Writes and waits for the sync; the error is why the writer ended.
async fn write(store: &Store, writes: Vec<ReplicaWrite>) -> Result<(), Arc<StoreError>> {
    let (tx, rx) = oneshot::channel();
    let done = move |id| tx.send(id).unwrap();
    store.write(WriteId(7), writes, done).await.map_err(Arc::new)?;
    match rx.await {
        Ok(id) => assert_eq!(id, WriteId(7)),
        Err(_) => return Err(store.failed().await),
    }
    Ok(())
}

async fn close(opened: Opened) {
    drop(opened.meta);
    opened.store.close(PATIENCE).await.unwrap();
}

fn spans(batches: &[Batch]) -> Vec<(Offset, Offset)> {
    batches.iter().map(|batch| (batch.base_offset(), batch.end_offset())).collect()
}

/// Copies the files as a crash would leave them.
fn copy_of(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in ["pubsub.sqlite", "pubsub.sqlite-wal", "meta.sqlite", "meta.sqlite-wal"] {
        if dir.join(name).exists() {
            std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn a_synced_write_survives_a_crash() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let first = ReplicaWrite {
        epoch_starts: vec![(LeaderEpoch(1), 0)],
        high_watermark: 2,
        ..append(A, 0, vec![batch(0, 3, 1), batch(3, 2, 1)])
    };
    write(&opened.store, vec![first, append(B, 0, vec![batch(0, 1, 1)])]).await.unwrap();

    let crashed = copy_of(dir.path());
    let again = open(config(crashed.path())).unwrap();
    let stored = |partition, log_end, high_watermark, epochs| StoredReplica {
        partition,
        leader_epoch: LeaderEpoch(1),
        log_start: 0,
        log_end,
        high_watermark,
        epochs,
        producers: vec![],
    };
    assert_eq!(again.replicas, [stored(A, 5, 2, vec![(LeaderEpoch(1), 0)]), stored(B, 1, 0, vec![])]);
    assert_eq!(again.hard.boot, 2);
    assert_eq!(again.hard.storage_id, opened.hard.storage_id);
    let read = again.store.read(A, 0, 5, usize::MAX).await.unwrap();
    assert_eq!(read, [batch(0, 3, 1), batch(3, 2, 1)]);
    close(again).await;
    close(opened).await;
}

#[tokio::test]
async fn reads_return_whole_batches_that_overlap_the_range() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let store = &opened.store;
    let batches = vec![batch(0, 3, 1), batch(3, 2, 1), batch(5, 4, 1)];
    let one = batches[1].bytes().len();
    write(store, vec![append(A, 0, batches)]).await.unwrap();
    let spans_of = async |from, end, bytes| spans(&store.read(A, from, end, bytes).await.unwrap());
    assert_eq!(spans_of(4, 6, usize::MAX).await, [(3, 5), (5, 9)]);
    assert_eq!(spans_of(3, 5, usize::MAX).await, [(3, 5)]);
    assert_eq!(spans_of(4, 9, 1).await, [(3, 5)]);
    assert_eq!(spans_of(4, 9, one).await, [(3, 5)]);
    assert_eq!(spans_of(9, 20, usize::MAX).await, []);
    assert_eq!(spans_of(u64::MAX, u64::MAX, 1).await, []);
    let unknown = store.read(B, 0, 1, 1).await;
    assert!(matches!(unknown, Err(StoreError::UnknownPartition { partition: B })));
    close(opened).await;
}

#[tokio::test]
async fn writes_that_wait_together_share_commits_and_are_answered_in_order() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (tx, rx) = oneshot::channel();
    let mut last = Some(tx);
    let before = opened.store.stats().commits;
    for id in 0..500 {
        let answered = Arc::clone(&answered);
        let tx = if id == 499 { last.take() } else { None };
        let done = move |id: WriteId| {
            answered.lock().unwrap().push(id.0);
            tx.into_iter().for_each(|tx| tx.send(()).unwrap());
        };
        opened.store.write(WriteId(id), vec![append(A, 0, vec![batch(id, 1, 1)])], done).await.unwrap();
    }
    rx.await.unwrap();
    assert_eq!(*answered.lock().unwrap(), (0..500).collect::<Vec<_>>());
    let stats = opened.store.stats();
    assert!(stats.commits - before < 500, "{stats:?}");
    assert_eq!((stats.batches, stats.records), (500, 500));
    close(opened).await;
}

#[tokio::test]
async fn a_truncated_log_goes_on_from_there() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let first = ReplicaWrite {
        epoch_starts: vec![(LeaderEpoch(1), 0), (LeaderEpoch(2), 3)],
        ..append(A, 0, vec![batch(0, 3, 1), batch(3, 2, 2), batch(5, 1, 2)])
    };
    write(&opened.store, vec![first]).await.unwrap();
    let second = ReplicaWrite {
        truncate_to: Some(3),
        epoch_starts: vec![(LeaderEpoch(4), 3)],
        leader_epoch: LeaderEpoch(4),
        ..append(A, 0, vec![batch(3, 1, 4)])
    };
    write(&opened.store, vec![second]).await.unwrap();
    close(opened).await;

    let again = open(config(dir.path())).unwrap();
    assert_eq!(again.replicas[0].epochs, [(LeaderEpoch(1), 0), (LeaderEpoch(4), 3)]);
    assert_eq!(again.replicas[0].log_end, 4);
    let read = again.store.read(A, 0, 9, usize::MAX).await.unwrap();
    assert_eq!(read, [batch(0, 3, 1), batch(3, 1, 4)]);
    close(again).await;
}

#[tokio::test]
async fn a_write_that_contradicts_the_disk_is_refused_whole_and_ends_the_writer() {
    let wrong: [fn(&mut ReplicaWrite); 6] = [
        |write| write.leader_epoch = LeaderEpoch(0),
        |write| write.truncate_to = Some(4),
        |write| write.batches = vec![batch(6, 1, 1)],
        |write| write.log_end = 6,
        |write| write.log_start = 6,
        |write| (write.delete, write.batches) = (true, vec![batch(5, 1, 1)]),
    ];
    for spoil in wrong {
        let dir = TempDir::new().unwrap();
        let opened = open(config(dir.path())).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 3, 1), batch(3, 2, 1)])]).await.unwrap();
        let mut bad = bare(A, 0, 5);
        spoil(&mut bad);
        let error = write(&opened.store, vec![append(B, 0, vec![batch(0, 1, 1)]), bad]).await.unwrap_err();
        assert!(matches!(*error, StoreError::Misfit { partition: A, .. }), "{error}");
        assert!(matches!(*opened.store.failed().await, StoreError::Misfit { .. }));
        let later = write(&opened.store, vec![bare(A, 0, 5)]).await.unwrap_err();
        assert!(matches!(*later, StoreError::Closed | StoreError::Misfit { .. }));
        drop(opened.meta);
        let again = open(config(dir.path())).unwrap();
        assert_eq!(again.replicas.iter().map(|r| (r.partition, r.log_end)).collect::<Vec<_>>(), [(A, 5)]);
        close(again).await;
    }
}

#[tokio::test]
async fn a_reset_log_starts_again_elsewhere_and_a_deleted_one_is_gone() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let many: Vec<Batch> = (0..30).map(|offset| batch(offset, 1, 1)).collect();
    write(&opened.store, vec![append(A, 0, many.clone()), append(B, 0, many)]).await.unwrap();
    let reset = ReplicaWrite { reset_to: Some(10), ..append(A, 10, vec![batch(10, 2, 3)]) };
    let delete = ReplicaWrite { delete: true, ..bare(B, 0, 0) };
    write(&opened.store, vec![reset, delete]).await.unwrap();
    assert_eq!(opened.store.read(A, 0, 99, usize::MAX).await.unwrap(), [batch(10, 2, 3)]);
    assert!(matches!(opened.store.read(B, 0, 9, 1).await, Err(StoreError::UnknownPartition { .. })));
    close(opened).await;

    let again = open(config(dir.path())).unwrap();
    assert_eq!(
        again.replicas.iter().map(|r| (r.partition, r.log_start, r.log_end)).collect::<Vec<_>>(),
        [(A, 10, 12)]
    );
    write(&again.store, vec![append(B, 0, vec![batch(0, 1, 9)])]).await.unwrap();
    assert_eq!(again.store.read(B, 0, 9, usize::MAX).await.unwrap(), [batch(0, 1, 9)]);
    close(again).await;
    let plain = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    let left: i64 = plain.query_row("SELECT count(*) FROM batch", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 2, "the batches of the reset and the deleted log were cleared away");
}

#[tokio::test]
async fn batches_wholly_below_the_log_start_are_deleted() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let batches: Vec<Batch> = (0..1500).map(|index| batch(index * 2, 2, 1)).collect();
    write(&opened.store, vec![append(A, 0, batches)]).await.unwrap();
    write(&opened.store, vec![bare(A, 2_501, 3_000)]).await.unwrap();
    assert_eq!(
        spans(&opened.store.read(A, 0, 2_503, usize::MAX).await.unwrap()),
        [(2_500, 2_502), (2_502, 2_504)]
    );
    let crashed = copy_of(dir.path());
    let again = open(config(crashed.path())).unwrap();
    assert_eq!((again.replicas[0].log_start, again.replicas[0].log_end), (2_501, 3_000));
    for opened in [opened, again] {
        // A piece is cleared away after every commit, and two pieces hold them all.
        for _ in 0..3 {
            write(&opened.store, vec![bare(A, 2_501, 3_000)]).await.unwrap();
        }
        close(opened).await;
    }
    for dir in [&dir, &crashed] {
        let plain = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
        let mut left =
            plain.prepare("SELECT count(*), sum(length(data)), (SELECT bytes FROM part) FROM batch").unwrap();
        let left: (i64, i64, i64) =
            left.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert_eq!(left, (250, left.1, left.1));
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let store = opened.store.clone();
    close(opened).await;
    assert!(matches!(*write(&store, vec![bare(A, 0, 0)]).await.unwrap_err(), StoreError::Closed));
    assert!(matches!(store.read(A, 0, 1, 1).await, Err(StoreError::Closed)));
}
