//! Which part of a log retention finds to be too much or too old.

use super::*;

fn stamped(base: Offset, count: u64, timestamp_ms: i64) -> Batch {
    batch(base, count, 1).placed(base, LeaderEpoch(1), timestamp_ms)
}

async fn expired(store: &Store, bytes: Option<u64>, since_ms: Option<i64>) -> (Option<Offset>, Option<i64>) {
    let found = store.expired(A, Kept { bytes, since_ms }).await.unwrap();
    (found.to, found.oldest_ms)
}

#[tokio::test]
async fn the_oldest_batches_go_until_the_rest_fits_and_the_newest_stays() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let batches: Vec<Batch> = (0..5).map(|at| stamped(at * 2, 2, 100)).collect();
    let size = u64::try_from(batches[0].bytes().len()).unwrap();
    write(&opened.store, vec![append(A, 0, batches)]).await.unwrap();
    assert_eq!(expired(&opened.store, Some(size * 5), None).await, (None, Some(100)));
    assert_eq!(expired(&opened.store, Some(size * 5 - 1), None).await, (Some(2), Some(100)));
    assert_eq!(expired(&opened.store, Some(size * 2), None).await, (Some(6), Some(100)));
    assert_eq!(expired(&opened.store, Some(1), None).await, (Some(8), Some(100)));
    assert_eq!(expired(&opened.store, None, None).await, (None, Some(100)));
    close(opened).await;
}

#[tokio::test]
async fn whole_batches_go_once_their_newest_record_is_too_old() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let batches = vec![stamped(0, 1, 100), stamped(1, 1, 200), stamped(2, 1, 150), stamped(3, 1, 300)];
    write(&opened.store, vec![append(A, 0, batches)]).await.unwrap();
    assert_eq!(expired(&opened.store, None, Some(100)).await, (None, Some(100)));
    assert_eq!(expired(&opened.store, None, Some(160)).await, (Some(1), Some(200)), "order before age");
    assert_eq!(expired(&opened.store, None, Some(250)).await, (Some(3), Some(300)));
    assert_eq!(expired(&opened.store, None, Some(301)).await, (Some(4), None));
    assert_eq!(opened.store.expired(B, Kept::default()).await.unwrap(), Expired::default());
    close(opened).await;
}

#[tokio::test]
async fn batches_that_still_wait_to_be_deleted_do_not_count() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    let batches: Vec<Batch> = (0..6).map(|at| stamped(at * 2, 2, 100)).collect();
    let last_three: usize = batches[3..].iter().map(|batch| batch.bytes().len()).sum();
    let last_three = u64::try_from(last_three).unwrap();
    write(&opened.store, vec![append(A, 0, batches)]).await.unwrap();
    let trim = ReplicaWrite { high_watermark: 12, ..bare(A, 6, 12) };
    write(&opened.store, vec![trim]).await.unwrap();
    // Whether they are gone by now or not.
    assert_eq!(expired(&opened.store, Some(last_three), None).await, (None, Some(100)));
    assert_eq!(expired(&opened.store, Some(last_three - 1), None).await, (Some(8), Some(100)));
    close(opened).await;
}
