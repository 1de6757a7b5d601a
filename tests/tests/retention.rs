//! Retention with real processes and files: logs start later, on every replica, and files stay small.
//!
//! `RETENTION_MIB` is the bound of the topic that is published ten times as much to; 1 unless set.

#![allow(clippy::unwrap_used)]

use anyhow::ensure;
use pubsub_core::record::{BatchBuilder, ValueKind};
use pubsub_core::wire::client::BATCH_MEDIA_TYPE;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::Shared;
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::{Content, Http};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

static CLUSTER: Shared = Shared::new(Settings::default);
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A batch of about 100 KiB: 100 records of 1,000 bytes.
fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for _ in 0..100 {
        builder.push(None, b"", ValueKind::Bytes, &[b'x'; 1_000]);
    }
    builder.build(0, Default::default(), 0).unwrap().bytes().to_vec()
}

async fn fill(topic: &Topic, via: u32, bytes: u64) {
    let batch = batch();
    for _ in 0..bytes / u64::try_from(batch.len()).unwrap() {
        let content = Content::of(BATCH_MEDIA_TYPE, batch.clone());
        topic.post(via, "", content).await.unwrap().expect(200);
    }
}

/// Returns where the log of partition 0 starts and ends on a broker.
async fn bounds(topic: &Topic, id: u32) -> anyhow::Result<(u64, u64)> {
    let seen = topic.replicas(id).await?;
    let of = |name: &str| seen["partitions"][0][name].as_u64();
    let (start, end) = (of("log_start"), of("log_end"));
    start.zip(end).ok_or_else(|| anyhow::anyhow!("no bounds in {seen}"))
}

fn file_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_bounded_in_bytes_keeps_the_newest_and_files_stay_small() {
    let bound = MIB * std::env::var("RETENTION_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "bounded", &format!("rf=3&retention_bytes={bound}")).await;
    fill(&topic, 1, 10 * bound + bound / 4).await;
    let size = u64::try_from(batch().len()).unwrap();
    let bytes = |start: u64, end: u64| (end - start) / 100 * size;
    for id in [1, 2, 3] {
        let (start, end) = eventually("the log starts later", PATIENCE, async || {
            let (start, end) = bounds(&topic, id).await?;
            ensure!(bytes(start, end) <= bound, "{start}..{end} are kept");
            Ok((start, end))
        })
        .await;
        // What is kept is the newest, as much as fits up to a batch.
        assert!(bytes(start, end) + size > bound, "{start}..{end} on broker {id}");
    }
    let first = topic.poll(2, "from_offset=0&max_records=1&timeout_ms=2000").await.unwrap().expect(200);
    let start = first["records"][0]["offset"].as_u64().unwrap();
    assert!(start > 0, "reading from the beginning begins at the log start: {first}");
    for id in [1, 2, 3] {
        let data = cluster.place(id).data;
        let (file, wal) =
            (file_size(&data.join("pubsub.sqlite")), file_size(&data.join("pubsub.sqlite-wal")));
        eprintln!(
            "broker {id}: {} MiB published, file {} MiB, write-ahead log {} MiB",
            10 * bound / MIB,
            file / MIB,
            wal / MIB
        );
        assert!(file <= 3 * bound.max(8 * MIB), "{file} bytes on broker {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_once_they_are_too_old_and_offsets_go_on() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, &unique("aged"), "rf=3&retention_ms=1500").await;
    for value in 0..5 {
        topic.publish(1, value).await;
    }
    for id in [1, 2, 3] {
        eventually("everything is too old", PATIENCE, async || {
            let bounds = bounds(&topic, id).await?;
            ensure!(bounds == (5, 5), "{bounds:?} on broker {id}");
            Ok(())
        })
        .await;
    }
    assert_eq!(topic.publish(2, "later").await, 5);
    let url = format!("{}/admin/topics/{}", cluster.url(1), topic.name);
    let kept = Content::json(json!({"retention_ms": null}).to_string());
    Http::new().send("PATCH", &url, kept).await.unwrap().expect(200);
    let offset = topic.publish(3, "for ever").await;
    assert_eq!(offset, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_for_longer_than_records_are_kept_starts_over() {
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "away", &format!("rf=3&min_isr=2&retention_bytes={MIB}")).await;
    fill(&topic, 1, MIB / 2).await;
    let leader = topic.leader().await;
    let away = [1, 2, 3].into_iter().find(|id| *id != leader && *id != 3).unwrap_or(1);
    let others: Vec<u32> = cluster.others(away);
    let (_, before) = bounds(&topic, away).await.unwrap();
    cluster.kill9(away);
    topic.wait_isr(others[0], &others).await;
    fill(&topic, others[0], 4 * MIB).await;
    eventually("all that the replica had is deleted", PATIENCE, async || {
        let (start, _) = bounds(&topic, topic.leader_among(&others).await).await?;
        ensure!(start > before, "the log starts at {start}, it had {before}");
        Ok(())
    })
    .await;
    cluster.start_broker(away);
    topic.wait_isr(others[0], &[1, 2, 3]).await;
    eventually("it has what the others have", PATIENCE, async || {
        let (theirs, mine) = (bounds(&topic, others[0]).await?, bounds(&topic, away).await?);
        ensure!(theirs == mine, "{mine:?}, the others {theirs:?}");
        let (records, _) = topic.local(away, mine.0).await?;
        ensure!(u64::try_from(records.len())? == mine.1 - mine.0, "{} records", records.len());
        Ok(())
    })
    .await;
}
