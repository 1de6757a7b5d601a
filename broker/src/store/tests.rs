//! The store against real files in a temporary directory.
#![allow(clippy::unwrap_used)]

mod measure;
mod model;
mod views;

use super::*;
use pubsub_core::ids::LeaderEpoch;
use pubsub_core::record::{BatchBuilder, ValueKind};
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
    let wrong: [fn(&mut ReplicaWrite); 5] = [
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
async fn a_volume_is_used_by_one_process_and_one_broker() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::Locked { .. })));
    close(opened).await;
    let foreign = open(StoreConfig { broker_id: BrokerId(2), ..config(dir.path()) });
    assert!(
        matches!(foreign, Err(OpenError::ForeignBroker { found: BrokerId(1), expected: BrokerId(2), .. })),
        "{foreign:?}"
    );
    close(open(config(dir.path())).unwrap()).await;
}

#[tokio::test]
async fn files_of_others_and_of_the_future_are_left_alone() {
    for sql in ["CREATE TABLE records(topic TEXT)", "PRAGMA application_id=5; PRAGMA user_version=1"] {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("pubsub.sqlite");
        Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(&file).unwrap();
        assert!(matches!(open(config(dir.path())), Err(OpenError::NotOurs { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("pubsub.sqlite"), b"certainly not a database, but a text of some length")
        .unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::NotOurs { .. })));

    let dir = TempDir::new().unwrap();
    close(open(config(dir.path())).unwrap()).await;
    Connection::open(dir.path().join("meta.sqlite"))
        .unwrap()
        .execute_batch("PRAGMA user_version=99")
        .unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::Newer { found: 99, .. })));
}

#[tokio::test]
async fn a_volume_that_lost_one_of_its_files_is_refused() {
    for name in ["pubsub.sqlite", "meta.sqlite"] {
        let dir = TempDir::new().unwrap();
        let opened = open(config(dir.path())).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 1, 1)])]).await.unwrap();
        close(opened).await;
        std::fs::remove_file(dir.path().join(name)).unwrap();
        for _ in 0..2 {
            assert!(matches!(open(config(dir.path())), Err(OpenError::Torn { .. })), "without {name}");
        }
    }
}

#[tokio::test]
async fn sealed_batches_open_only_with_their_key() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1)])]).await.unwrap();
    close(opened).await;

    let opened = open(with_key(dir.path(), KEY_1)).unwrap();
    assert!(opened.store.is_sealing());
    write(&opened.store, vec![append(A, 0, vec![batch(2, 2, 1), batch(4, 1, 1)])]).await.unwrap();
    assert_eq!(
        opened.store.read(A, 0, 9, usize::MAX).await.unwrap(),
        [batch(0, 2, 1), batch(2, 2, 1), batch(4, 1, 1)]
    );
    assert_eq!(opened.store.plaintext_batches().await.unwrap(), 1);
    close(opened).await;
    let file = std::fs::read(dir.path().join("pubsub.sqlite")).unwrap();
    let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(holds(b"{\"at\":1}") && !holds(b"{\"at\":2}"), "only what was written before the key is legible");

    let without = open(config(dir.path())).unwrap_err().to_string();
    assert!(without.contains(&key(KEY_1).id().to_string()) && without.contains("given: none"), "{without}");
    let wrong = open(with_key(dir.path(), KEY_2)).unwrap_err().to_string();
    assert!(
        wrong.contains(&key(KEY_1).id().to_string()) && wrong.contains(&key(KEY_2).id().to_string()),
        "{wrong}"
    );
    assert!(!wrong.contains(KEY_1) && !wrong.contains(KEY_2));

    let rotated = StoreConfig { keys_old: vec![key(KEY_1)], ..with_key(dir.path(), KEY_2) };
    let opened = open(rotated).unwrap();
    write(&opened.store, vec![append(A, 0, vec![batch(5, 1, 1)])]).await.unwrap();
    assert_eq!(
        spans(&opened.store.read(A, 0, 9, usize::MAX).await.unwrap()),
        [(0, 2), (2, 4), (4, 5), (5, 6)]
    );
    write(&opened.store, vec![bare(A, 5, 6)]).await.unwrap();
    close(opened).await;
    // Nothing needs the older key any more.
    close(open(with_key(dir.path(), KEY_2)).unwrap()).await;
}

#[tokio::test]
async fn a_flipped_byte_is_never_served() {
    for (seal, at) in [(false, 8), (false, 20), (false, 36), (false, 90), (true, 3), (true, 30), (true, 120)]
    {
        let dir = TempDir::new().unwrap();
        let config = if seal { with_key(dir.path(), KEY_1) } else { config(dir.path()) };
        let opened = open(config.clone()).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1), batch(2, 2, 1), batch(4, 2, 1)])])
            .await
            .unwrap();
        close(opened).await;
        flip(dir.path(), 2, at);
        let opened = open(config.clone()).unwrap();
        assert_eq!(spans(&opened.store.read(A, 0, 6, usize::MAX).await.unwrap()), [(0, 2)]);
        let damaged = opened.store.read(A, 2, 6, usize::MAX).await;
        let expected = matches!(&damaged, Err(StoreError::Corrupt { partition: A, base_offset: 2, .. }));
        assert!(expected, "byte {at}, sealed {seal}: {damaged:?}");
        assert_eq!(spans(&opened.store.read(A, 4, 6, usize::MAX).await.unwrap()), [(4, 6)]);
        close(opened).await;
        flip(dir.path(), 4, at);
        assert!(matches!(open(config), Err(OpenError::Damaged { partition: A, .. })));
    }
}

/// Flips a byte of the stored batch at `base` of the file's first log.
fn flip(dir: &Path, base: i64, at: usize) {
    let file = Connection::open(dir.join("pubsub.sqlite")).unwrap();
    let id = (1 << 40) | base;
    let mut data: Vec<u8> =
        file.query_row("SELECT data FROM batch WHERE id = ?1", [id], |row| row.get(0)).unwrap();
    data[at] ^= 1;
    file.execute("UPDATE batch SET data = ?1 WHERE id = ?2", rusqlite::params![data, id]).unwrap();
}

#[tokio::test]
async fn a_log_that_lost_its_end_or_its_start_is_refused() {
    for lost in [0, 2] {
        let dir = TempDir::new().unwrap();
        let opened = open(config(dir.path())).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1), batch(2, 2, 1)])]).await.unwrap();
        close(opened).await;
        let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
        file.execute("DELETE FROM batch WHERE id = ?1", [(1_i64 << 40) | lost]).unwrap();
        drop(file);
        let refused = open(config(dir.path())).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { partition: A, .. }), "{refused}");
        assert!(refused.to_string().contains("pubsub.sqlite"));
    }
}

#[tokio::test]
async fn room_is_judged_by_the_configured_threshold() {
    let dir = TempDir::new().unwrap();
    let opened = open(StoreConfig { free_bytes_min: Some(u64::MAX), ..config(dir.path()) }).unwrap();
    assert!(opened.store.storage_full());
    close(opened).await;
    let opened = open(config(dir.path())).unwrap();
    assert!(!opened.store.storage_full());
    close(opened).await;
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

mod promises {
    use super::*;
    use pubsub_core::control::Event;
    use pubsub_core::control::image::{Image, ImageHash};
    use pubsub_core::ids::ClusterId;
    use std::collections::BTreeMap;

    fn image(epoch: u64, version: u64) -> Arc<Image> {
        Arc::new(Image {
            cluster_id: ClusterId(Uuid::from_u128(9)),
            at: At { epoch: ControllerEpoch(epoch), version },
            hash: ImageHash([7; 32]),
            feature_level: 1,
            voters: BTreeMap::new(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            tombstones: BTreeMap::from([(TopicId(Uuid::from_u128(1)), 3)]),
        })
    }

    #[tokio::test]
    async fn a_promise_survives_a_crash_and_is_never_taken_back() {
        let dir = TempDir::new().unwrap();
        let mut opened = open(config(dir.path())).unwrap();
        let mut hard = opened.hard.clone();
        assert_eq!((hard.boot, hard.broker_id, hard.epoch), (1, BrokerId(1), ControllerEpoch(0)));
        hard.cluster_id = Some(ClusterId(Uuid::from_u128(9)));
        hard.epoch = ControllerEpoch(4);
        hard.voted_for = Some(BrokerId(3));
        hard.accepted = Some(image(4, 2));
        opened.meta.persist(&hard).unwrap();
        hard.committed = At { epoch: ControllerEpoch(4), version: 2 };
        opened.meta.persist(&hard).unwrap();

        let crashed = copy_of(dir.path());
        let again = open(config(crashed.path())).unwrap();
        assert_eq!(again.hard, Hard { boot: 2, ..hard.clone() });
        close(again).await;

        let backwards: [fn(&mut Hard); 6] = [
            |hard| hard.epoch = ControllerEpoch(3),
            |hard| hard.voted_for = Some(BrokerId(2)),
            |hard| hard.accepted = Some(image(4, 1)),
            |hard| hard.accepted = None,
            |hard| hard.committed = At::default(),
            |hard| hard.cluster_id = Some(ClusterId(Uuid::from_u128(8))),
        ];
        for spoil in backwards {
            let mut bad = hard.clone();
            spoil(&mut bad);
            assert!(matches!(opened.meta.persist(&bad), Err(StoreError::Regress { .. })), "{bad:?}");
        }
        assert_eq!(*opened.meta.hard(), hard);
        close(opened).await;
    }

    #[tokio::test]
    async fn a_damaged_image_is_refused() {
        let dir = TempDir::new().unwrap();
        let mut opened = open(config(dir.path())).unwrap();
        let hard = Hard { accepted: Some(image(1, 1)), ..opened.hard.clone() };
        opened.meta.persist(&hard).unwrap();
        close(opened).await;
        let file = Connection::open(dir.path().join("meta.sqlite")).unwrap();
        file.execute("UPDATE accepted SET image = CAST(replace(CAST(image AS TEXT), '3', '4') AS BLOB)", [])
            .unwrap();
        drop(file);
        assert!(matches!(open(config(dir.path())), Err(OpenError::Meta { .. })));
    }

    #[tokio::test]
    async fn the_newest_events_are_kept() {
        let dir = TempDir::new().unwrap();
        let mut opened = open(config(dir.path())).unwrap();
        for broker in 1..=1_010 {
            opened.meta.append_event(5, &Event::Fenced { broker: BrokerId(broker) }).unwrap();
        }
        let kept = opened.meta.events_since(0, 5_000).unwrap();
        assert_eq!((kept.len(), kept[0].id, kept[999].id), (1_000, 11, 1_010));
        assert_eq!(kept[0].event, Event::Fenced { broker: BrokerId(11) });
        assert_eq!(
            opened.meta.events_since(1_008, 1).unwrap().iter().map(|e| e.id).collect::<Vec<_>>(),
            [1_009]
        );
        let hard = Hard { epoch: ControllerEpoch(1), ..opened.hard.clone() };
        opened.meta.persist(&hard).unwrap();
        close(opened).await;
    }

    #[tokio::test]
    async fn the_ballast_lies_beside_the_promises() {
        let dir = TempDir::new().unwrap();
        close(open(config(dir.path())).unwrap()).await;
        assert_eq!(std::fs::metadata(dir.path().join("meta.ballast")).unwrap().len(), 1 << 20);
    }
}
