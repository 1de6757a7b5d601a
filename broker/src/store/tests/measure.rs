//! Rates of the store alone, for a look by hand: `cargo test -p pubsub-broker --lib measure -- --ignored --nocapture`.
#![allow(clippy::print_stdout)]

use super::*;
use std::time::Instant;
use tokio::sync::Semaphore;

async fn rate(label: &str, config: StoreConfig, batches: u64, records: u64, in_flight: usize) {
    let opened = open(config).unwrap();
    let value = [b'x'; 100];
    let mut builder = BatchBuilder::new();
    (0..records).for_each(|_| {
        builder.push(None, b"", ValueKind::Bytes, &value);
    });
    let blank = builder.build(0, LeaderEpoch(1), 1).unwrap();
    let permits = Arc::new(Semaphore::new(in_flight));
    let started = Instant::now();
    for index in 0..batches {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let batch = blank.placed(index * records, LeaderEpoch(1), 1);
        let done = move |_| drop(permit);
        opened.store.write(WriteId(index), vec![append(A, 0, vec![batch])], done).await.unwrap();
    }
    let all = u32::try_from(in_flight).unwrap();
    drop(permits.acquire_many(all).await.unwrap());
    let took = started.elapsed().as_secs_f64();
    let stats = opened.store.stats();
    let commits = f64::from(u32::try_from(stats.commits).unwrap()) / took;
    let written = f64::from(u32::try_from(stats.records).unwrap()) / took;
    println!("{label}: {commits:.0} commits/s, {written:.0} records/s, wal {} KiB", stats.wal_bytes >> 10);
    close(opened).await;
}

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn measure_commits() {
    let fresh = || TempDir::new().unwrap();
    for round in 0..2 {
        let dirs = [fresh(), fresh(), fresh(), fresh()];
        println!("round {round}");
        rate("1 x 100 B, one in flight", config(dirs[0].path()), 4_000, 1, 1).await;
        rate("1 x 100 B, 64 in flight", config(dirs[1].path()), 60_000, 1, 64).await;
        rate("1000 x 100 B, one in flight", config(dirs[2].path()), 2_000, 1_000, 1).await;
        rate("1000 x 100 B, sealed", with_key(dirs[3].path(), KEY_1), 2_000, 1_000, 1).await;
    }
}
