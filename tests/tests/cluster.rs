//! A cluster of real processes in ordinary and administrative life: start, use, restart, refusal of what must not be.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use base64::Engine;
use pubsub_tests::cluster::await_condition::{eventually, scaled};
use pubsub_tests::cluster::process::{Process, log_tail};
use pubsub_tests::cluster::shared::{Shared, alone};
use pubsub_tests::cluster::topic::{Topic, records_of, unique};
use pubsub_tests::cluster::{Cluster, Place, Settings, ids_of, ports};
use pubsub_tests::http::{Content, Http};
use pubsub_tests::workload::load::Load;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

static CLUSTER: Shared = Shared::new(Settings::default);

fn storage_key(byte: u8) -> String {
    base64::engine::general_purpose::URL_SAFE.encode([byte; 32])
}

/// A place for a broker that is not one of the cluster's own.
fn stranger(cluster: &Cluster, id: u32, data: &Path) -> Place {
    let (http, peer) = (ports::free(), ports::free());
    Place {
        id,
        http,
        peer,
        api_base: format!("http://{http}"),
        peer_base: format!("http://{peer}"),
        data: data.to_owned(),
        log: cluster.dir().join(unique("stranger")).with_extension("log"),
    }
}

async fn assert_refused(cluster: &Cluster, place: &Place, words: &[&str]) {
    let mut process: Process = cluster.start_process(place, &cluster.broker_environment(place));
    let status = process.wait_ended(scaled(Duration::from_secs(15))).await;
    let log = log_tail(&place.log, 0, 100);
    let status = status.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
    assert!(!status.success(), "it ended with {status}, as if all were well:\n{log}");
    let lower = log.to_lowercase();
    assert!(words.iter().any(|word| lower.contains(word)), "its log has none of {words:?}:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_and_discovery_become_one_cluster_with_the_highest_id_as_controller() {
    let _alone = alone().await;
    let start = Instant::now();
    let cluster = Cluster::ready(Settings::default()).await;
    eprintln!("ready after {:?}", start.elapsed());
    assert_eq!(cluster.controller().await.0, 3, "the highest live id wins a Bully election");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_through_any_broker_takes_records_through_every_other_at_once() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    for creator in cluster.ids() {
        let topic = Topic::create(&cluster, creator, "visible", "rf=3").await;
        for (expected, id) in cluster.others(creator).into_iter().chain([creator]).enumerate() {
            let offset = topic.publish(id, format!("through {id}")).await;
            assert_eq!(offset, u64::try_from(expected).unwrap(), "created on {creator}, published on {id}");
            // Read your writes: the very broker that acknowledged shows the record.
            let query = format!("from_offset={offset}&timeout_ms=2000");
            let read = topic.poll(id, &query).await.unwrap().expect(200);
            assert_eq!(read["records"][0]["value"], format!("through {id}"), "broker {id} answered {read}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_records_come_back_in_order_from_every_broker() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "bulk", "rf=3").await;
    let start = Instant::now();
    for chunk in 0..20_u64 {
        let via = u32::try_from(chunk % 3).unwrap() + 1;
        let first = topic.publish_many(via, (chunk * 5_000..(chunk + 1) * 5_000).map(Value::from)).await;
        assert_eq!(first, chunk * 5_000);
    }
    eprintln!("100000 records published in {:?}", start.elapsed());
    for id in cluster.ids() {
        let (mut next, start) = (0_u64, Instant::now());
        while next < 100_000 {
            let query = format!("from_offset={next}&max_records=1000&timeout_ms=5000");
            let answer = topic.poll(id, &query).await.unwrap().expect(200);
            let records = records_of(&answer).unwrap();
            assert!(!records.is_empty(), "broker {id} has nothing from {next}");
            for record in records {
                assert_eq!((record.offset, record.value), (next, json!(next)), "broker {id}");
                next += 1;
            }
            assert_eq!(answer["next_offset"], next);
        }
        eprintln!("broker {id} gave 100000 records in {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_on_one_broker_wakes_up_when_another_takes_a_record() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "wake", "rf=3").await;
    let leader = topic.leader().await;
    for id in cluster.ids() {
        let offset = topic.publish(leader, "before").await;
        let poller = topic.clone();
        let query = format!("from_offset={}&timeout_ms=20000", offset + 1);
        let poll = tokio::spawn(async move { (poller.poll(id, &query).await, Instant::now()) });
        let empty = topic.poll(id, &format!("from_offset={}&timeout_ms=100", offset + 1)).await.unwrap();
        assert_eq!(empty.expect(200)["records"], json!([]), "an empty poll ends at its timeout");
        topic.publish(leader, "wake up").await;
        let published = Instant::now();
        let (answer, woken) = poll.await.unwrap();
        let answer = answer.unwrap().expect(200);
        assert_eq!(answer["records"][0]["value"], "wake up", "broker {id}");
        let late = woken.saturating_duration_since(published);
        assert!(late < scaled(Duration::from_secs(2)), "broker {id} woke up {late:?} after the publish");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_brokers_restarted_continue_with_their_data() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 2, "kept", "rf=3").await;
    topic.publish_many(1, (0..500).map(Value::from)).await;
    let group = unique("group");
    topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    topic.commit(1, &group, "c", 123).await.unwrap().expect(200);
    let epoch = cluster.controller().await.1;
    for id in cluster.ids() {
        cluster.sigterm(id).await.unwrap();
    }
    for id in cluster.ids() {
        cluster.start_broker(id);
    }
    cluster.wait_ready().await;
    assert!(cluster.controller().await.1 > epoch, "a new controller has a new epoch");
    let log = topic.equal_log(&cluster.ids()).await;
    assert_eq!(log.len(), 500);
    assert_eq!(topic.publish(3, "next").await, 500);
    let answer = topic.subscribe(2, &group, "c").await.unwrap().expect(200);
    assert_eq!((&answer["committed"], &answer["start_offset"]), (&json!(123), &json!(124)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_needs_no_discovery_and_brokers_with_a_peer_list_rejoin_without_it() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings { static_peers: true, ..Settings::default() }).await);
    let topic = Topic::create(&cluster, 1, "undiscovered", "rf=3").await;
    cluster.kill_discovery();
    assert_eq!(topic.publish(2, "without discovery").await, 0);
    let second = Topic::create(&cluster, 2, "undiscovered", "rf=3").await;
    assert_eq!(second.publish(3, "and a new topic").await, 0);
    for id in cluster.ids() {
        cluster.restart(id);
        cluster.wait_broker_ready(id).await;
    }
    let (_, epoch) = cluster.controller().await;
    assert!(epoch > 0);
    assert_eq!(topic.publish(1, "after restarts").await, 1);
    assert_eq!(topic.equal_log(&cluster.ids()).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_service_that_forgot_everything_is_filled_again_by_the_brokers() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let http = Http::new();
    let list = format!("{}/brokers", cluster.discovery_url());
    let expected: Vec<(u32, String)> =
        cluster.ids().into_iter().map(|id| (id, cluster.place(id).api_base)).collect();
    let filled = async || {
        let answer = http.get(&list).await?.expect(200);
        let brokers = answer["brokers"].as_array().cloned().unwrap_or_default();
        let mut known: Vec<(u32, String)> = Vec::new();
        for broker in &brokers {
            let id = u32::try_from(broker["broker_id"].as_u64().unwrap_or_default())?;
            known.push((id, broker["api_base"].as_str().unwrap_or_default().to_owned()));
        }
        known.sort();
        if known == expected { Ok(()) } else { bail!("it knows {answer}") }
    };
    eventually("discovery knows every broker", Duration::from_secs(20), filled).await;
    let before = cluster.controller().await;
    cluster.kill_discovery();
    cluster.start_discovery();
    eventually("a restarted discovery knows every broker", Duration::from_secs(30), filled).await;
    assert_eq!(cluster.controller().await, before, "an empty map from discovery changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_directory_is_refused() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let place = stranger(&cluster, 2, &cluster.place(2).data);
    assert_refused(&cluster, &place, &["in use", "another process", "lock"]).await;
    cluster.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_another_id_is_refused_on_a_foreign_volume() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    cluster.kill9(2);
    let place = stranger(&cluster, 7, &cluster.place(2).data);
    assert_refused(&cluster, &place, &["belongs to broker 2", "broker 2", "broker_id"]).await;
    cluster.start_broker(2);
    cluster.wait_broker_ready(2).await;
}

fn holds_text(directory: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(directory).unwrap().flatten().filter(|entry| entry.path().is_file());
    files.into_iter().any(|entry| {
        let bytes = std::fs::read(entry.path()).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_storage_key_no_payload_reaches_the_disk_and_without_it_the_broker_refuses_to_start() {
    let _alone = alone().await;
    let key = storage_key(7);
    let environment = vec![("PUBSUB_STORAGE_KEY".to_owned(), key.clone())];
    let cluster = Arc::new(Cluster::ready(Settings { environment, ..Settings::default() }).await);
    let topic = Topic::create(&cluster, 1, "sealed", "rf=3").await;
    let secret = "a-payload-that-must-not-be-readable";
    let body =
        json!({"key": "key-of-the-payload", "value": secret, "headers": {"h": "header-of-the-payload"}});
    topic.post(2, "", Content::json(body.to_string())).await.unwrap().expect(200);
    topic.publish_many(2, (0..200).map(|n| json!(format!("{secret} {n}")))).await;
    assert_eq!(topic.equal_log(&cluster.ids()).await.len(), 201);
    cluster.sigterm(2).await.unwrap();
    for text in [secret, "key-of-the-payload", "header-of-the-payload"] {
        assert!(!holds_text(&cluster.place(2).data, text), "{text:?} lies in plain text on the disk");
        assert!(!cluster.log(2).contains(text), "{text:?} stands in the log");
    }
    for wrong in [storage_key(9), String::new()] {
        cluster.set_environment(2, &[("PUBSUB_STORAGE_KEY", &wrong)]);
        cluster.start_broker(2);
        let ended = cluster.wait_ended(2).await;
        let log = cluster.log(2);
        assert!(ended.is_ok_and(|status| !status.success()), "it runs with the key {wrong:?}:\n{log}");
        assert!(log.to_lowercase().contains("key"), "its log does not speak of the key:\n{log}");
        assert!(!log.contains(&key), "the key stands in the log");
    }
    cluster.set_environment(2, &[]);
    cluster.start_broker(2);
    cluster.wait_broker_ready(2).await;
    assert_eq!(topic.equal_log(&cluster.ids()).await[0].value, secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_and_no_record_is_lost() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "handed-over", "rf=3").await;
    let leader = topic.leader().await;
    let load = Load::start(&cluster, &topic, 4, 1);
    load.progress(100).await;
    let start = Instant::now();
    let status = cluster.sigterm(leader).await.unwrap();
    eprintln!("broker {leader} stopped in {:?} with {status}", start.elapsed());
    assert!(status.success(), "an orderly stop ends with 0, not {status}");
    load.progress(100).await;
    let history = load.stop().await;
    history.report("SIGTERM of the leader");
    assert!(history.longest_pause() < scaled(Duration::from_secs(5)), "{:?}", history.longest_pause());
    cluster.start_broker(leader);
    cluster.wait_broker_ready(leader).await;
    history.check(&topic.equal_log(&cluster.ids()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_all_restart_without_discovery_know_each_other_by_what_they_remember() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "remembered", "rf=3").await;
    topic.publish(1, "before").await;
    cluster.kill_discovery();
    for id in cluster.ids() {
        cluster.kill9(id);
    }
    for id in cluster.ids() {
        cluster.start_broker(id);
    }
    cluster.wait_ready().await;
    topic.publish(1, "after").await;
    assert_eq!(topic.equal_log(&cluster.ids()).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_comes_back_through_another_broker_continues_after_its_last_commit() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "continued", "rf=3").await;
    topic.publish_many(1, (0..100).map(Value::from)).await;
    topic.settle().await;
    let group = unique("group");
    let mut next = 0_u64;
    for via in [1, 2, 3, 1] {
        let answer = topic.subscribe(via, &group, "reader").await.unwrap().expect(200);
        assert_eq!(answer["start_offset"], next, "through broker {via}: {answer}");
        let query = format!("group_id={group}&consumer_id=reader&max_records=10&timeout_ms=3000");
        let answer = topic.poll(via, &query).await.unwrap().expect(200);
        let records = records_of(&answer).unwrap();
        assert_eq!((records.len(), records[0].offset), (10, next), "through broker {via}: {answer}");
        // Only the first seven are finished when the subscriber goes away.
        next += 7;
        let committed = i64::try_from(next).unwrap() - 1;
        let answer = topic.commit(via, &group, "reader", committed).await.unwrap().expect(200);
        assert_eq!(answer["committed"], committed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_broker_joins_a_running_cluster_and_can_hold_replicas() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let before = cluster.controller_among(&[1, 2, 3]).await;
    cluster.add_broker(4);
    cluster.wait_broker_ready(4).await;
    let after = cluster.controller().await;
    assert_eq!(after, before, "an observer does not take over");
    let topic = Topic::create(&cluster, 4, "four", "rf=4").await;
    assert_eq!(topic.publish(2, "on four").await, 0);
    topic.wait_isr(1, &[1, 2, 3, 4]).await;
    assert_eq!(ids_of(&topic.replicas(4).await.unwrap()["isr"]), [1, 2, 3, 4]);
    assert_eq!(topic.equal_log(&[1, 2, 3, 4]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_volume_comes_back_empty_and_is_filled_again() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "refilled", "rf=3").await;
    topic.publish_many(1, (0..3_000).map(Value::from)).await;
    let leader = topic.leader().await;
    cluster.kill9(leader);
    cluster.wipe(leader);
    cluster.start_broker(leader);
    cluster.wait_broker_ready(leader).await;
    let log = topic.equal_log(&cluster.ids()).await;
    assert_eq!(log.len(), 3_000, "an empty replica must not lead, and must not empty the others");
    assert_eq!(topic.publish(leader, "next").await, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broker_alone_is_a_cluster() {
    let _alone = alone().await;
    let settings = Settings { brokers: 1, voters: vec![1], discovery: false, ..Settings::default() };
    let cluster = Arc::new(Cluster::ready(settings).await);
    let topic = Topic::create(&cluster, 1, "alone", "rf=1").await;
    assert_eq!(topic.publish(1, "one").await, 0);
    cluster.restart(1);
    cluster.wait_ready().await;
    assert_eq!(topic.publish(1, "two").await, 1);
    assert_eq!(topic.equal_log(&[1]).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_without_a_list_of_founders_never_found_a_cluster() {
    let _alone = alone().await;
    let settings =
        Settings { brokers: 2, voters: vec![], discovery: false, static_peers: true, ..Settings::default() };
    let cluster = Cluster::start(settings);
    let http = Http::new();
    for id in cluster.ids() {
        let url = cluster.url(id);
        eventually("the broker answers", Duration::from_secs(15), async || {
            let answer = http.get(&format!("{url}/livez")).await?;
            if answer.status == 200 { Ok(()) } else { bail!("{answer}") }
        })
        .await;
    }
    pubsub_tests::cluster::await_condition::fault_lasts(Duration::from_secs(3)).await;
    for id in cluster.ids() {
        let answer = http.get(&format!("{}/readyz", cluster.url(id))).await.unwrap();
        assert_eq!(answer.status, 503, "it must wait for its founders: {answer}");
        let answer = http.post(&format!("{}/admin/topics?name=early", cluster.url(id))).await.unwrap();
        assert_eq!(answer.status, 503, "{answer}");
    }
}
