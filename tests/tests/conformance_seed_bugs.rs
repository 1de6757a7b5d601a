//! One test for each fault found in the system that this one replaces, besides those that need a fault injected
//! (`faults.rs`): each fails on that system's behaviour.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use pubsub_tests::cluster::await_condition::{eventually, scaled};
use pubsub_tests::cluster::process::log_tail;
use pubsub_tests::cluster::shared::{Common, Shared, alone};
use pubsub_tests::cluster::topic::{Topic, records_of, unique};
use pubsub_tests::cluster::{Cluster, Settings, ids_of, leader_answer, ports};
use pubsub_tests::http::{Content, Http};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

static CLUSTER: Shared = Shared::new(Settings::default);

async fn topic(name: &str, query: &str) -> (Common, Topic) {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, name, query).await;
    (cluster, topic)
}

/// A broker without a replica of a topic of two.
async fn stranger_to(cluster: &Cluster, topic: &Topic) -> u32 {
    topic.leader().await;
    let replicas = topic.replicas(1).await.unwrap();
    let held: Vec<u64> = replicas["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|replica| replica["broker_id"].as_u64())
        .collect();
    cluster
        .ids()
        .into_iter()
        .find(|id| !held.contains(&u64::from(*id)))
        .expect("a topic of two leaves one out")
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_07_a_key_with_half_a_surrogate_is_refused_and_writes_go_on() {
    let (cluster, topic) = topic("surrogate", "rf=3").await;
    for id in cluster.ids() {
        for body in [
            r#"{"key":"\ud800","value":1}"#,
            r#"{"value":"\ud800"}"#,
            r#"{"value":1,"headers":{"h":"\udfff"}}"#,
        ] {
            let answer = topic.post(id, "", Content::json(body)).await.unwrap();
            assert!([400, 422].contains(&answer.status), "{body}: {answer}");
            answer.problem();
        }
    }
    for (offset, id) in cluster.ids().into_iter().enumerate() {
        assert_eq!(topic.publish(id, "good").await, u64::try_from(offset).unwrap());
    }
    assert_eq!(topic.equal_log(&cluster.ids()).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_08_numbers_that_json_does_not_have_are_refused_and_polls_go_on() {
    let (cluster, topic) = topic("nan", "rf=3").await;
    topic.publish(1, "before").await;
    for id in cluster.ids() {
        for number in ["NaN", "Infinity", "-Infinity"] {
            for body in [format!(r#"{{"value":{number}}}"#), format!(r#"{{"value":[{{"n":{number}}}]}}"#)] {
                let answer = topic.post(id, "", Content::json(body)).await.unwrap();
                answer.expect_problem(422, "");
            }
        }
        // A number too large for a float is JSON: it is refused, or it survives.
        let answer = topic.post(id, "", Content::json(r#"{"value":1e400}"#)).await.unwrap();
        assert!([200, 400, 422].contains(&answer.status), "{answer}");
    }
    topic.publish(2, "after").await;
    topic.settle().await;
    for id in cluster.ids() {
        let url = topic.url(id, "records?partition=0&from=0&max_records=100");
        let answer = Http::new().get(&url).await.unwrap();
        let text = answer.text();
        assert!(answer.status == 200 && text.contains("before") && text.contains("after"), "{answer}");
        assert!(!text.contains("NaN") && !text.contains("Infinity"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_13_forty_topics_do_not_slow_the_cluster_and_are_known_everywhere() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let (controller, epoch) = cluster.controller().await;
    let mut topics = Vec::new();
    for n in 0..40 {
        topics.push(Topic::create(&cluster, n % 3 + 1, "forty", "rf=3").await);
    }
    for (n, topic) in topics.iter().enumerate() {
        let via = u32::try_from((n + 1) % 3).unwrap() + 1;
        assert_eq!(topic.publish(via, "known").await, 0);
    }
    let http = Http::new();
    for id in cluster.ids() {
        for _ in 0..20 {
            let start = Instant::now();
            leader_answer(&http, &cluster.url(id)).await.unwrap();
            let took = start.elapsed();
            assert!(took < scaled(Duration::from_secs(1)), "/admin/leader of broker {id} took {took:?}");
        }
    }
    assert_eq!(cluster.controller().await, (controller, epoch), "nobody was thought dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_14_a_group_has_one_consumer_through_all_brokers() {
    let (cluster, topic) = topic("singleton", "rf=2").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    topic.settle().await;
    let outside = stranger_to(&cluster, &topic).await;
    let group = unique("group");
    let poll = |consumer: &str| format!("group_id={group}&consumer_id={consumer}&timeout_ms=0");
    let first = topic.poll(outside, &poll("a")).await.unwrap().expect(200);
    assert_eq!(records_of(&first).unwrap().len(), 10);
    for id in cluster.ids() {
        for consumer in ["b", "c"] {
            topic.poll(id, &poll(consumer)).await.unwrap().expect_problem(409, "GROUP_BUSY");
            topic.subscribe(id, &group, consumer).await.unwrap().expect_problem(409, "GROUP_BUSY");
        }
        topic.poll(id, &poll("a")).await.unwrap().expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_15_a_commit_by_a_stranger_takes_nothing_from_the_member() {
    let (cluster, topic) = topic("stranger", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let group = unique("group");
    topic.subscribe(1, &group, "member").await.unwrap().expect(200);
    for id in cluster.ids() {
        topic.commit(id, &group, "stranger", 5).await.unwrap().expect_problem(409, "MEMBER_FENCED");
    }
    topic.commit(2, &group, "member", 3).await.unwrap().expect(200);
    let query = format!("group_id={group}&consumer_id=member&timeout_ms=3000");
    let body = topic.poll(3, &query).await.unwrap().expect(200);
    assert_eq!((&body["committed"], &body["records"][0]["offset"]), (&json!(3), &json!(4)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_16_a_commit_beyond_the_end_is_refused_and_moves_nothing() {
    let (cluster, topic) = topic("beyond", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let group = unique("group");
    topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    topic.commit(1, &group, "c", 9).await.unwrap().expect(200);
    topic.commit(1, &group, "c", 2).await.unwrap().expect(200);
    let http = Http::new();
    for id in cluster.ids() {
        for offset in ["10", "999999", "-2", "9223372036854775807", "1180591620717411303424", "1.5", "\"x\""]
        {
            let identity = format!(r#""topic":"{}","group_id":"{group}","consumer_id":"c""#, topic.name);
            let body = Content::json(format!(r#"{{{identity},"offset":{offset}}}"#));
            let answer = http.send("POST", &format!("{}/commit", cluster.url(id)), body).await.unwrap();
            assert!([400, 422].contains(&answer.status), "offset {offset}: {answer}");
            answer.problem();
        }
        let query = format!("group_id={group}&consumer_id=c&timeout_ms=3000");
        let body = topic.poll(id, &query).await.unwrap().expect(200);
        assert_eq!((&body["committed"], &body["records"][0]["offset"]), (&json!(2), &json!(3)), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_17_positions_of_similar_names_do_not_mix() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    let suffix = unique("x").replace('-', "");
    let names: Vec<String> =
        ["a_b", "axb", "A_B", "a-b", "a.b"].iter().map(|name| format!("{name}{suffix}")).collect();
    let group = unique("gr_up");
    for (n, name) in names.iter().enumerate() {
        http.post(&format!("{}/admin/topics?name={name}&rf=3", cluster.url(1))).await.unwrap().expect(200);
        let topic = Topic::named(&cluster, name);
        topic.publish_many(2, (0..10).map(Value::from)).await;
        topic.subscribe(1, &group, "c").await.unwrap().expect(200);
        topic.commit(2, &group, "c", i64::try_from(n).unwrap() + 1).await.unwrap().expect(200);
    }
    for (n, name) in names.iter().enumerate() {
        for id in cluster.ids() {
            let answer = Topic::named(&cluster, name).subscribe(id, &group, "c").await.unwrap().expect(200);
            assert_eq!(answer["committed"], n + 1, "{name} through broker {id}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_18_a_broker_started_while_discovery_is_down_joins_when_it_is_back() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let before = cluster.controller().await;
    cluster.kill_discovery();
    cluster.add_broker(4);
    let http = Http::new();
    let url = cluster.url(4);
    eventually("the new broker answers", Duration::from_secs(15), async || {
        let answer = http.get(&format!("{url}/livez")).await?;
        if answer.status == 200 { Ok(()) } else { bail!("{answer}") }
    })
    .await;
    let (_, _, alone_leader) = leader_answer(&http, &url).await.unwrap();
    assert!(!alone_leader, "a broker that knows nobody must not lead a cluster of its own");
    cluster.start_discovery();
    cluster.wait_broker_ready(4).await;
    assert_eq!(cluster.controller().await, before);
    let topic = Topic::create(&cluster, 4, "joined", "rf=4").await;
    assert_eq!(topic.publish(2, "on all four").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_19_two_processes_same_id_never_both_serve() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "twins", "rf=3&owner_id=2").await;
    topic.publish_many(1, (0..20).map(Value::from)).await;
    let mut twin = cluster.place(2);
    (twin.http, twin.peer) = (ports::free(), ports::free());
    (twin.api_base, twin.peer_base) = (format!("http://{}", twin.http), format!("http://{}", twin.peer));
    twin.data = cluster.dir().join("twin");
    twin.log = cluster.dir().join("twin.log");
    let process = cluster.start_process(&twin, &cluster.broker_environment(&twin));
    let http = Http::new();
    let ready = async |base: &str| {
        let url = format!("{base}/readyz");
        let answer = http.try_send("GET", &url, Content::default(), Duration::from_secs(2)).await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let (old, new) = (cluster.url(2), twin.api_base.clone());
    let start = Instant::now();
    let mut both_since = None;
    while start.elapsed() < scaled(Duration::from_secs(8)) {
        let both = ready(&old).await && ready(&new).await;
        let since = *both_since.get_or_insert_with(Instant::now);
        if !both {
            both_since = None;
        } else {
            let long = since.elapsed();
            assert!(
                long < scaled(Duration::from_secs(3)),
                "two brokers 2 serve at the same time for {long:?}"
            );
        }
        let outcome = topic.post(1, "?timeout_ms=1000", Content::json(r#"{"value":"meanwhile"}"#)).await;
        drop(outcome);
    }
    eprintln!("the end of the twin's log:\n{}", log_tail(&twin.log, 0, 5));
    process.kill();
    cluster.restart(2);
    cluster.wait_ready().await;
    let log = topic.equal_log(&cluster.ids()).await;
    assert!(log.iter().zip(0..20).all(|(record, n)| record.value == n), "the first records changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_20_a_changed_key_is_noticed_at_the_start_and_the_old_one_still_reads_everything() {
    let _alone = alone().await;
    let environment =
        vec![("PUBSUB_STORAGE_KEY".to_owned(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned())];
    let settings =
        Settings { brokers: 1, voters: vec![1], discovery: false, environment, ..Settings::default() };
    let cluster = Arc::new(Cluster::ready(settings).await);
    let topic = Topic::create(&cluster, 1, "keyed", "rf=1").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    cluster.kill9(1);
    for wrong in ["CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "", "no key at all"] {
        cluster.set_environment(1, &[("PUBSUB_STORAGE_KEY", wrong)]);
        cluster.start_broker(1);
        let ended = cluster.wait_ended(1).await;
        let log = cluster.log(1);
        assert!(ended.is_ok_and(|status| !status.success()), "it runs with the key {wrong:?}:\n{log}");
    }
    cluster.set_environment(1, &[]);
    cluster.start_broker(1);
    cluster.wait_ready().await;
    assert_eq!(topic.publish(1, 10).await, 10);
    assert!(topic.equal_log(&[1]).await.iter().enumerate().all(|(n, record)| record.value == n));
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_21_a_killed_broker_is_shown_as_dead_by_all_and_nothing_is_placed_on_it() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "mourned", "rf=3").await;
    topic.wait_isr(1, &[1, 2, 3]).await;
    let http = Http::new();
    for id in [1, 3] {
        let base = cluster.url(id);
        eventually(&format!("broker {id} knows broker 2 by gossip"), Duration::from_secs(15), async || {
            let stats = http.get(&format!("{base}/stats")).await?.expect(200);
            let status = &stats["gossip"]["members"]["2"]["status"];
            if status == "alive" { Ok(()) } else { bail!("gossip: {status}") }
        })
        .await;
    }
    cluster.kill9(2);
    for id in [1, 3] {
        let base = cluster.url(id);
        eventually(&format!("broker {id} shows broker 2 as gone"), Duration::from_secs(40), async || {
            let isr = http.get(&format!("{base}/admin/isr")).await?.expect(200);
            let stats = http.get(&format!("{base}/stats")).await?.expect(200);
            let alive = &isr["topics"][&topic.name]["alive"]["2"];
            let status = &stats["gossip"]["members"]["2"]["status"];
            if *alive == false && status == "dead" {
                Ok(())
            } else {
                bail!("alive: {alive}, gossip: {status}")
            }
        })
        .await;
    }
    for _ in 0..4 {
        let topic = Topic::create(&cluster, 1, "not-on-two", "rf=2").await;
        let replicas = topic.replicas(1).await.unwrap();
        assert_eq!(ids_of(&replicas["isr"]), [1, 3], "{replicas}");
    }
    cluster.start_broker(2);
    cluster.wait_ready().await;
    let base = cluster.url(1);
    eventually("it is alive again", Duration::from_secs(15), async || {
        let stats = http.get(&format!("{base}/stats")).await?.expect(200);
        let status = &stats["gossip"]["members"]["2"]["status"];
        if status == "alive" { Ok(()) } else { bail!("gossip: {status}") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_22_nobody_becomes_controller_by_a_line_to_a_port() {
    let (cluster, topic) = topic("shouted", "rf=3").await;
    let before = cluster.controller().await;
    let http = Http::new();
    for id in cluster.ids() {
        for line in [
            "{\"type\":\"COORDINATOR\",\"leader\":1,\"from\":1}\n",
            "{\"type\":\"ELECTION\",\"from\":99}\n",
            "{\"type\":\"HEARTBEAT\",\"from\":1}\n",
        ] {
            let mut stream = TcpStream::connect(cluster.place(id).peer).unwrap();
            // The listener may close before the line is through.
            let _ = stream.write_all(line.as_bytes());
        }
        let message = json!({"header": {"cluster_id": null, "from": 1, "from_storage": uuid::Uuid::nil(), "to": id, "proto": 1},
            "messages": [{"type": "coordinator", "epoch": 1_000_000, "committed": {"epoch": 1_000_000, "version": 1}}]});
        let url = format!("http://{}/internal/messages", cluster.place(id).peer);
        assert_eq!(http.post_json(&url, &message).await.unwrap().status, 401);
        let url = format!("{}/internal/discovery/update", cluster.url(id));
        assert_eq!(http.post_json(&url, &json!({"brokers": []})).await.unwrap().status, 404);
    }
    assert_eq!(cluster.controller().await, before);
    topic.publish(2, "as before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_23_every_broker_shows_the_same_isr_with_the_leader_in_it() {
    let (cluster, topic) = topic("same-isr", "rf=3").await;
    topic.wait_isr(1, &[1, 2, 3]).await;
    for id in cluster.ids() {
        topic.wait_isr(id, &[1, 2, 3]).await;
        let replicas = topic.replicas(id).await.unwrap();
        for replica in replicas["replicas"].as_array().unwrap() {
            assert_eq!(replica["in_isr"], true, "broker {id}: {replicas}");
        }
        let isr = Http::new().get(&format!("{}/admin/isr", cluster.url(id))).await.unwrap().expect(200);
        assert_eq!(ids_of(&isr["topics"][&topic.name]["isr"]), [1, 2, 3], "broker {id}: {isr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_24_next_offset_is_one_past_the_last_record_wherever_a_poll_starts() {
    let (cluster, topic) = topic("next", "rf=3").await;
    for size in [1_u64, 7, 50, 3] {
        topic.publish_many(1, (0..size).map(Value::from)).await;
    }
    topic.settle().await;
    for id in cluster.ids() {
        for (from, most) in [(0, 1), (3, 10), (7, 100), (60, 1_000), (0, 1_000), (61, 5)] {
            let query = format!("from_offset={from}&max_records={most}&timeout_ms=3000");
            let body = topic.poll(id, &query).await.unwrap().expect(200);
            let records = records_of(&body).unwrap();
            let expected = most.min(61 - from);
            assert_eq!(
                u64::try_from(records.len()).unwrap(),
                expected.max(u64::from(from < 61)).min(expected)
            );
            assert!(records.first().is_none_or(|record| record.offset == from), "{body}");
            assert_eq!(body["next_offset"], from + expected, "broker {id} from {from}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_25_a_record_has_one_timestamp_on_all_replicas() {
    let (cluster, topic) = topic("stamped", "rf=3").await;
    for id in cluster.ids() {
        topic.publish(id, id).await;
    }
    let log = topic.equal_log(&cluster.ids()).await;
    assert!(log.iter().all(|record| record.ts_ms > 1_600_000_000_000), "{log:?}");
    assert!(log.windows(2).all(|pair| pair[0].ts_ms <= pair[1].ts_ms), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_26_a_name_that_no_route_can_reach_is_refused() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    let long = "n".repeat(250);
    for name in ["", "a%2Fb", "..", ".", "a%20b", "%00", "a%0Ab", "%C3%BC", "a%5Cb", "*", long.as_str()] {
        let url = format!("{}/admin/topics?name={name}&rf=3", cluster.url(2));
        let answer = http.post(&url).await.unwrap();
        assert_eq!(answer.status, 422, "name {name:?}: {answer}");
        answer.problem();
    }
    let longest = format!("{}{}", unique("n"), "n".repeat(249 - 10));
    let url = format!("{}/admin/topics?name={longest}&rf=3", cluster.url(2));
    http.post(&url).await.unwrap().expect(200);
    assert_eq!(Topic::named(&cluster, &longest).publish(1, "reachable").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_27_a_body_of_32_mib_is_refused() {
    let (cluster, topic) = topic("thirty-two", "rf=3").await;
    for id in cluster.ids() {
        let body = format!(r#"{{"value":"{}"}}"#, "x".repeat(32 << 20));
        let answer = topic.post(id, "", Content::json(body)).await.unwrap();
        answer.expect_problem(413, "");
    }
    assert_eq!(topic.publish(1, "small").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_28_an_error_reads_the_same_through_every_broker() {
    let (cluster, topic) = topic("nested", "rf=2").await;
    let outside = stranger_to(&cluster, &topic).await;
    let leader = topic.leader().await;
    let mut problems = Vec::new();
    for id in [leader, outside] {
        let expected = Content::json(r#"{"value":1}"#).with("Pubsub-Expected-Offset", "77");
        problems.push(topic.post(id, "", expected).await.unwrap().expect_problem(412, ""));
    }
    for member in ["type", "title", "status", "detail", "code"] {
        assert_eq!(problems[0][member], problems[1][member], "{member} differs: {problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_28_a_long_poll_on_a_follower_is_woken_by_a_replicated_record() {
    let (cluster, topic) = topic("followed", "rf=3").await;
    let leader = topic.leader().await;
    let follower = cluster.others(leader)[0];
    let poller = topic.clone();
    let query = format!("from_offset=0&timeout_ms=20000&prefer_replica={follower}");
    let poll = tokio::spawn(async move { poller.poll(follower, &query).await });
    let start = Instant::now();
    topic.publish(leader, "wake up").await;
    let body = poll.await.unwrap().unwrap().expect(200);
    assert_eq!((&body["records"][0]["value"], &body["replica_id"]), (&json!("wake up"), &json!(follower)));
    assert!(start.elapsed() < scaled(Duration::from_secs(5)), "it took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_29_a_broker_whose_election_port_is_taken_does_not_start() {
    let _alone = alone().await;
    let cluster = CLUSTER.get().await;
    for taken in ["ELECTION_PORT", "BROKER_HTTP_PORT"] {
        let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = holder.local_addr().unwrap().port().to_string();
        let mut place = cluster.place(1);
        place.id = 9;
        (place.http, place.peer) = (ports::free(), ports::free());
        place.data = cluster.dir().join(unique("taken"));
        place.log = cluster.dir().join(unique("taken")).with_extension("log");
        let mut variables = cluster.broker_environment(&place);
        variables.push((taken.to_owned(), port.clone()));
        let mut process = cluster.start_process(&place, &variables);
        let status = process.wait_ended(scaled(Duration::from_secs(10))).await;
        let log = log_tail(&place.log, 0, 50);
        assert!(status.is_ok_and(|status| !status.success()), "it runs without its port {taken}:\n{log}");
        assert!(log.contains(&port), "the log does not name port {port}:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_29_the_leader_of_an_empty_topic_is_replaced_by_a_live_replica() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "empty", "rf=3&owner_id=2").await;
    assert_eq!(topic.leader().await, 2);
    cluster.kill9(2);
    let leader = topic.leader_among(&[1, 3]).await;
    assert!([1, 3].contains(&leader));
    assert_eq!(topic.publish(1, "first").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_bug_29_a_commit_without_a_consumer_changes_no_group_that_has_members() {
    let (cluster, topic) = topic("memberless", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let group = unique("group");
    let http = Http::new();
    topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    let body = json!({"topic": topic.name, "group_id": group, "offset": 5});
    for id in cluster.ids() {
        let answer = http.post_json(&format!("{}/commit", cluster.url(id)), &body).await.unwrap();
        assert!([400, 409].contains(&answer.status), "{answer}");
        answer.problem();
    }
    let answer = topic.subscribe(2, &group, "c").await.unwrap().expect(200);
    assert_eq!(answer["committed"], -1, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_as_many_replicas_as_were_asked_for_or_is_not_created() {
    let (cluster, topic) = topic("exact", "rf=1").await;
    let one = topic.replicas(1).await.unwrap();
    assert_eq!(one["replicas"].as_array().unwrap().len(), 1, "{one}");
    let http = Http::new();
    let name = unique("too-many");
    let answer = http.post(&format!("{}/admin/topics?name={name}&rf=4", cluster.url(1))).await.unwrap();
    assert!([409, 422, 503].contains(&answer.status), "{answer}");
    answer.problem();
    http.get(&format!("{}/admin/topics/{name}", cluster.url(1))).await.unwrap().expect_problem(404, "");
}
