//! Room that deleted records left is given back on request, and nothing else changes.

use super::*;

fn vacuuming(dir: &Path) -> StoreConfig {
    StoreConfig { vacuum: true, ..config(dir) }
}

/// Fills two partitions in turns with about 24 MiB each and drops the first.
async fn half_empty(dir: &Path) {
    let opened = open(config(dir)).unwrap();
    let value = vec![b'x'; 1 << 20];
    for base in 0..24 {
        let mut builder = BatchBuilder::new();
        builder.push(None, b"", ValueKind::Bytes, &value);
        let batch = builder.build(base, LeaderEpoch(1), 1_700_000_000_000).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch.clone()]), append(B, 0, vec![batch])])
            .await
            .unwrap();
    }
    write(&opened.store, vec![ReplicaWrite { delete: true, ..bare(A, 0, 0) }]).await.unwrap();
    // The writer deletes a dropped partition piece by piece.
    tokio::time::timeout(PATIENCE, async {
        while unused(dir) < 20 << 20 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    close(opened).await;
}

fn unused(dir: &Path) -> i64 {
    let connection = Connection::open(dir.join("pubsub.sqlite")).unwrap();
    connection
        .query_row("SELECT freelist_count * 8192 FROM pragma_freelist_count", [], |row| row.get(0))
        .unwrap()
}

fn bytes(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("pubsub.sqlite")).unwrap().len()
}

async fn all_of_b(opened: &Opened) -> Vec<(Offset, Offset)> {
    spans(&opened.store.read(B, 0, 24, 1 << 30).await.unwrap())
}

#[tokio::test]
async fn a_start_on_request_gives_unused_room_back_and_keeps_the_rest() {
    let dir = TempDir::new().unwrap();
    half_empty(dir.path()).await;
    let before = bytes(dir.path());
    let kept = open(config(dir.path())).unwrap();
    let (replicas, storage, there) = (kept.replicas.clone(), kept.hard.storage_id, all_of_b(&kept).await);
    assert_eq!(there.len(), 24);
    close(kept).await;
    assert_eq!(bytes(dir.path()), before, "not without being asked");

    std::fs::write(dir.path().join("pubsub.sqlite.new"), b"cut off").unwrap();
    let opened = open(vacuuming(dir.path())).unwrap();
    assert!(bytes(dir.path()) < before * 6 / 10, "{} of {before}", bytes(dir.path()));
    assert_eq!((&opened.replicas, opened.hard.storage_id), (&replicas, storage));
    assert_eq!(all_of_b(&opened).await, there);
    write(&opened.store, vec![append(B, 0, vec![batch(24, 1, 1)])]).await.unwrap();
    close(opened).await;
    assert!(!dir.path().join("pubsub.sqlite.new").exists());

    let again = open(vacuuming(dir.path())).unwrap();
    assert_eq!(again.store.read(B, 0, 25, 1 << 30).await.unwrap().len(), 25);
    close(again).await;
}

#[tokio::test]
async fn a_file_that_another_program_reads_is_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    half_empty(dir.path()).await;
    let before = bytes(dir.path());
    let reader = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    let parts = "SELECT count(*) FROM part";
    assert_eq!(reader.query_row(parts, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    let opened = open(vacuuming(dir.path())).unwrap();
    assert_eq!(bytes(dir.path()), before);
    assert_eq!(all_of_b(&opened).await.len(), 24);
    assert!(!dir.path().join("pubsub.sqlite.new").exists());
    close(opened).await;
    assert_eq!(reader.query_row(parts, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}
