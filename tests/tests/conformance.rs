//! Every route of the contract in the request forms of the system that this one replaces, with its answer's fields.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, bail};
use pubsub_core::ids::LeaderEpoch;
use pubsub_core::record::{BatchBuilder, ValueKind};
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::{Common, Shared};
use pubsub_tests::cluster::topic::{Topic, records_of, unique};
use pubsub_tests::cluster::{Settings, ids_of};
use pubsub_tests::http::{Answer, Content, Http};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static CLUSTER: Shared = Shared::new(Settings::default);

async fn topic(name: &str, query: &str) -> (Common, Topic) {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, name, query).await;
    (cluster, topic)
}

fn publish_body(body: &Value) -> Content {
    Content::json(body.to_string())
}

async fn get(url: String) -> Answer {
    Http::new().get(&url).await.unwrap()
}

fn assert_who_answered(answer: &Answer) {
    let broker: u32 = answer.header("x-pubsub-broker").parse().unwrap_or_default();
    assert!((1..=3).contains(&broker), "x-pubsub-broker names no broker: {answer} {:?}", answer.headers);
    assert!(!answer.header("x-request-id").is_empty(), "no x-request-id: {answer}");
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_is_published_as_the_old_clients_do_and_the_answer_says_where_it_is() {
    let (cluster, topic) = topic("one", "rf=3").await;
    for id in cluster.ids() {
        let before = now_ms();
        let body = json!({"key": "k", "value": {"n": id}, "headers": {"h": "x"}, "an_extra_field": 1});
        let answer = topic.post(id, "", publish_body(&body)).await.unwrap();
        assert_who_answered(&answer);
        let body = answer.expect(200);
        assert_eq!((&body["topic"], &body["offset"]), (&json!(topic.name), &json!(id - 1)));
        assert_eq!((&body["partition"], ids_of(&body["isr"])), (&json!(0), cluster.ids()), "{body}");
        assert!(body["leader_epoch"].as_u64().is_some(), "{body}");
        let timestamp = body["timestamp_ms"].as_i64().unwrap();
        assert!((before - 1_000..=now_ms() + 1_000).contains(&timestamp), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_they_were_sent() {
    let (_cluster, topic) = topic("values", "rf=3").await;
    let values = [
        r#"null"#,
        r#"true"#,
        r#""text with \"quotes\", \u00fc, \ud83d\ude00 and \u0000""#,
        r#"9007199254740993"#,
        r#"-0.1"#,
        r#"12345678901234567890123"#,
        r#"[1,[2,{"three":[]}]]"#,
        r#"{}"#,
        r#""""#,
    ];
    for value in values {
        let body = Content::json(format!(r#"{{"value":{value}}}"#));
        topic.post(1, "", body).await.unwrap().expect(200);
    }
    topic.settle().await;
    for id in [1, 2, 3] {
        let answer = topic.poll(id, "from_offset=0&timeout_ms=3000").await.unwrap();
        let text = answer.text();
        let body = answer.expect(200);
        for (record, value) in body["records"].as_array().unwrap().iter().zip(values) {
            assert_eq!(record["value"], serde_json::from_str::<Value>(value).unwrap());
            assert_eq!(
                (&record["key"], &record["headers"]),
                (&Value::Null, &json!({})),
                "defaults of {record}"
            );
        }
        for number in ["9007199254740993", "12345678901234567890123"] {
            assert!(text.contains(number), "the digits {number} did not survive: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_of_one_request_get_contiguous_offsets() {
    let (_cluster, topic) = topic("many", "rf=3").await;
    let records: Vec<Value> = (0..100).map(|n| json!({"key": format!("k{n}"), "value": n})).collect();
    let answer = topic.post(2, "", publish_body(&json!({"records": records}))).await.unwrap().expect(200);
    assert_eq!(answer["topic"], topic.name);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 100);
    for (offset, result) in results.iter().enumerate() {
        assert_eq!((&result["partition"], &result["offset"]), (&json!(0), &json!(offset)));
    }
    topic.settle().await;
    let read = topic.poll(3, "from_offset=0&max_records=1000&timeout_ms=3000").await.unwrap().expect(200);
    let read = records_of(&read).unwrap();
    assert!(read.iter().enumerate().all(|(n, record)| record.value == n && record.key == format!("k{n}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_json_are_published_each_as_a_record() {
    let (_cluster, topic) = topic("lines", "rf=3").await;
    let lines: String = (0..250).map(|n| format!("{}\n", json!({"value": n}))).collect();
    let answer = topic.post(1, "", Content::of("application/x-ndjson", lines)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer}");
    topic.settle().await;
    let read = topic.poll(2, "from_offset=0&max_records=1000&timeout_ms=3000").await.unwrap().expect(200);
    let values: Vec<Value> = records_of(&read).unwrap().into_iter().map(|record| record.value).collect();
    assert_eq!(values, (0..250).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_body_is_the_value_and_headers_carry_the_rest() {
    let (_cluster, topic) = topic("raw", "rf=3").await;
    let bytes = [0_u8, 159, 146, 150, 255];
    let content = Content::of("application/octet-stream", bytes)
        .with("Pubsub-Key", "the-key")
        .with("Pubsub-Header-Colour", "blue");
    topic.post(1, "", content).await.unwrap().expect(200);
    topic.post(1, "", Content::of("text/plain", "plain text")).await.unwrap().expect(200);
    topic.settle().await;
    let read = topic.poll(3, "from_offset=0&timeout_ms=3000").await.unwrap().expect(200);
    let raw = &read["records"][0];
    assert_eq!((&raw["key"], &raw["value_encoding"]), (&json!("the-key"), &json!("base64")), "{read}");
    assert_eq!(raw["value"], "AJ+Slv8=", "{read}");
    let headers = raw["headers"].as_object().unwrap();
    let colour = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("colour"));
    assert_eq!(colour.map(|(_, value)| value), Some(&json!("blue")), "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_batch_is_stored_as_sent_and_a_damaged_one_is_refused() {
    let (_cluster, topic) = topic("batch", "rf=3").await;
    let mut builder = BatchBuilder::new();
    for n in 0..10 {
        builder.push(Some(b"k"), b"", ValueKind::Json, n.to_string().as_bytes());
    }
    let batch = builder.build(0, LeaderEpoch(0), 0).unwrap();
    let content = |bytes: Vec<u8>| Content::of("application/vnd.pubsub.batch", bytes);
    let answer = topic.post(2, "", content(batch.bytes().to_vec())).await.unwrap();
    assert_eq!(answer.status, 200, "{answer}");
    let mut damaged = batch.bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let answer = topic.post(2, "", content(damaged)).await.unwrap();
    assert!([400, 422].contains(&answer.status), "{answer}");
    answer.problem();
    topic.settle().await;
    let read = topic.poll(1, "from_offset=0&timeout_ms=3000").await.unwrap().expect(200);
    let values: Vec<Value> = records_of(&read).unwrap().into_iter().map(|record| record.value).collect();
    assert_eq!(values, (0..10).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_can_be_chosen() {
    let (_cluster, topic) = topic("acks", "rf=3").await;
    for acks in ["all", "leader"] {
        let answer =
            topic.post(1, &format!("?acks={acks}"), publish_body(&json!({"value": acks}))).await.unwrap();
        assert_eq!(answer.status, 200, "{answer}");
    }
    let answer = topic.post(1, "?acks=none", publish_body(&json!({"value": "none"}))).await.unwrap();
    assert!([200, 202].contains(&answer.status), "{answer}");
    let answer = topic.post(1, "?acks=some", publish_body(&json!({"value": 1}))).await.unwrap();
    answer.expect_problem(422, "");
    eventually("all three are readable", Duration::from_secs(10), async || {
        let read = topic.poll(2, "from_offset=0&timeout_ms=0").await?.expect(200);
        if read["records"].as_array().is_some_and(|records| records.len() == 3) {
            Ok(())
        } else {
            bail!("{read}")
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_may_say_which_offset_it_expects() {
    let (_cluster, topic) = topic("expected", "rf=3").await;
    let at = |offset: u64| {
        publish_body(&json!({"value": offset})).with("Pubsub-Expected-Offset", &offset.to_string())
    };
    topic.post(1, "", at(0)).await.unwrap().expect(200);
    topic.post(2, "", at(1)).await.unwrap().expect(200);
    topic.post(3, "", at(1)).await.unwrap().expect_problem(412, "");
    assert_eq!(topic.publish(1, "unconditional").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_producers_records_are_stored_once_and_in_order() {
    let (_cluster, topic) = topic("idempotent", "rf=3").await;
    let id = uuid::Uuid::new_v4().to_string();
    let content = |epoch: u32, sequence: u32| {
        publish_body(&json!({"value": sequence}))
            .with("Producer-Id", &id)
            .with("Producer-Epoch", &epoch.to_string())
            .with("Producer-Seq", &sequence.to_string())
    };
    let half = publish_body(&json!({"value": 1})).with("Producer-Id", &id);
    let answer = topic.post(1, "", half).await.unwrap();
    assert!([400, 422].contains(&answer.status), "all three headers or none: {answer}");
    let first = topic.post(1, "", content(0, 0)).await.unwrap();
    assert_eq!(first.expect(200)["offset"], 0);
    for sequence in 1..3 {
        let answer = topic.post(1, "", content(0, sequence)).await.unwrap().expect(200);
        assert_eq!(answer["offset"], sequence);
    }
    for (via, sequence) in [(2, 0), (3, 1), (1, 2)] {
        let again = topic.post(via, "", content(0, sequence)).await.unwrap().expect(200);
        assert_eq!((&again["offset"], &again["duplicate"]), (&json!(sequence), &json!(true)), "{again}");
    }
    let gap = topic.post(1, "", content(0, 9)).await.unwrap().expect_problem(409, "OUT_OF_ORDER");
    assert_eq!((&gap["next_sequence"], &gap["ambiguous"]), (&json!(3), &json!(false)));
    topic.post(1, "", content(1, 3)).await.unwrap().expect(200);
    topic.post(1, "", content(0, 4)).await.unwrap().expect_problem(403, "PRODUCER_FENCED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_answers_with_the_old_fields_and_the_new_ones() {
    let (_cluster, topic) = topic("polled", "rf=3").await;
    topic.publish_many(1, (0..30).map(Value::from)).await;
    topic.settle().await;
    for id in [1, 2, 3] {
        let answer = topic.poll(id, "from_offset=5&max_records=10&timeout_ms=3000").await.unwrap();
        assert_who_answered(&answer);
        let body = answer.expect(200);
        let records = records_of(&body).unwrap();
        assert_eq!(
            (records.len(), records[0].offset, body["topic"].as_str()),
            (10, 5, Some(topic.name.as_str()))
        );
        assert_eq!((&body["next_offset"], &body["committed"]), (&json!(15), &json!(-1)), "{body}");
        assert_eq!((&body["high_watermark"], &body["lag"]), (&json!(30), &json!(15)), "{body}");
        assert!((1..=3).contains(&body["replica_id"].as_u64().unwrap()), "{body}");
        assert_eq!(body["records"][0]["partition"], 0, "{body}");
    }
    let start = Instant::now();
    let body = topic.poll(1, "from_offset=30&timeout_ms=300").await.unwrap().expect(200);
    assert_eq!((&body["records"], &body["next_offset"]), (&json!([]), &json!(30)), "{body}");
    assert!(start.elapsed() >= Duration::from_millis(250), "an empty poll waits for its timeout");
    let body = topic.poll(1, "timeout_ms=0&prefer_replica=2").await.unwrap().expect(200);
    assert_eq!(body["replica_id"], 2, "a live replica is preferred: {body}");
    let body = topic.poll(1, "timeout_ms=0&prefer_replica=99").await.unwrap().expect(200);
    assert_eq!(records_of(&body).unwrap().len(), 30, "one that is none is not: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_consumer_and_an_anonymous_reader_have_their_own_positions() {
    let (_cluster, topic) = topic("readers", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let (http, base) = (Http::new(), CLUSTER.get().await);
    let commit = json!({"topic": topic.name, "consumer_id": "lonely", "offset": 4});
    let answer = http.post_json(&format!("{}/commit", base.url(2)), &commit).await.unwrap().expect(200);
    assert_eq!((&answer["topic"], &answer["committed"]), (&json!(topic.name), &json!(4)));
    assert!(answer["replica_id"].is_u64() && answer["partition"] == 0, "{answer}");
    for id in [1, 2, 3] {
        let body = topic.poll(id, "consumer_id=lonely&timeout_ms=3000").await.unwrap().expect(200);
        assert_eq!((&body["committed"], &body["records"][0]["offset"]), (&json!(4), &json!(5)), "{body}");
        let body = topic.poll(id, "timeout_ms=3000").await.unwrap().expect(200);
        assert_eq!((&body["committed"], &body["records"][0]["offset"]), (&json!(-1), &json!(0)), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_can_be_read_from_a_place_or_a_time_without_a_group() {
    let (_cluster, topic) = topic("records", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    topic.settle().await;
    let read = async |id: u32, query: &str| get(topic.url(id, &format!("records?partition=0&{query}"))).await;
    for id in [1, 2, 3] {
        let body = read(id, "from=3&max_records=4").await.expect(200);
        let offsets: Vec<u64> = records_of(&body).unwrap().iter().map(|record| record.offset).collect();
        assert_eq!((offsets, &body["next_offset"]), (vec![3, 4, 5, 6], &json!(7)), "broker {id}: {body}");
        let body = read(id, "from=earliest").await.expect(200);
        assert_eq!(records_of(&body).unwrap().len(), 10, "{body}");
        let body = read(id, "from=latest").await.expect(200);
        assert_eq!((&body["records"], &body["next_offset"]), (&json!([]), &json!(10)), "{body}");
    }
    let first = read(1, "from=0").await.expect(200)["records"][0]["ts_ms"].as_i64().unwrap();
    for (from, expected) in [(first, 10), (first + 60_000, 0), (0, 10)] {
        let body = read(2, &format!("from=timestamp:{from}")).await.expect(200);
        assert_eq!(records_of(&body).unwrap().len(), expected, "from {from}: {body}");
    }
    let waiting = topic.clone();
    let wait =
        tokio::spawn(async move { get(waiting.url(3, "records?partition=0&from=10&wait_ms=10000")).await });
    topic.publish(1, "late").await;
    let body = wait.await.unwrap().expect(200);
    assert_eq!(body["records"][0]["value"], "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_can_be_had_as_lines() {
    let (cluster, topic) = topic("as-lines", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    topic.settle().await;
    let url = topic.url(cluster.ids()[1], "records?partition=0&from=0");
    let content = Content::default().with("accept", "application/x-ndjson");
    let answer = Http::new().send("GET", &url, content).await.unwrap();
    assert!(answer.header("content-type").starts_with("application/x-ndjson"), "{answer}");
    let text = answer.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10, "{text}");
    assert!(lines.iter().enumerate().all(|(n, line)| line["offset"] == n && line["value"] == n), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_says_where_to_start_and_which_brokers_there_are() {
    let (cluster, topic) = topic("subscribed", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let group = unique("group");
    let answer = topic.subscribe(2, &group, "c").await.unwrap().expect(200);
    assert_eq!((&answer["topic"], &answer["start_offset"]), (&json!(topic.name), &json!(0)));
    assert_eq!(answer["committed"], -1);
    assert!(answer["replica_id"].is_u64(), "{answer}");
    assert!(answer["session_timeout_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "{answer}");
    let brokers = answer["brokers"].as_array().unwrap();
    let mut known: Vec<(u64, &str)> = brokers
        .iter()
        .map(|broker| (broker["broker_id"].as_u64().unwrap(), broker["api_base"].as_str().unwrap()))
        .collect();
    known.sort_unstable();
    let bases: Vec<String> = cluster.ids().into_iter().map(|id| cluster.place(id).api_base).collect();
    assert_eq!(known, [(1, bases[0].as_str()), (2, bases[1].as_str()), (3, bases[2].as_str())]);
    topic.commit(3, &group, "c", 6).await.unwrap().expect(200);
    let answer = topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    assert_eq!((&answer["start_offset"], &answer["committed"]), (&json!(7), &json!(6)));
    let body = json!({"topic": topic.name, "from_offset": 3});
    let url = format!("{}/subscribe", cluster.url(1));
    let answer = Http::new().post_json(&url, &body).await.unwrap().expect(200);
    assert_eq!(answer["start_offset"], 3, "an anonymous reader starts where it wants: {answer}");
    let body = json!({"topic": topic.name, "group_id": group});
    Http::new().post_json(&url, &body).await.unwrap().expect_problem(400, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_can_be_listed_described_and_deleted() {
    let (cluster, topic) = topic("grouped", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let group = unique("group");
    topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    topic.commit(2, &group, "c", 3).await.unwrap().expect(200);
    for id in cluster.ids() {
        let list = get(format!("{}/groups", cluster.url(id))).await.expect(200);
        assert!(list.to_string().contains(&group), "broker {id} lists {list}");
        let about = get(format!("{}/groups/{group}", cluster.url(id))).await.expect(200).to_string();
        assert!(about.contains("\"c\"") && about.contains(&topic.name), "broker {id}: {about}");
    }
    get(format!("{}/groups/{}", cluster.url(1), unique("none"))).await.expect_problem(404, "");
    let gone = format!("{}/groups/{group}", cluster.url(2));
    let answer = Http::new().delete(&gone).await.unwrap();
    assert_eq!(answer.status, 409, "a group with members is not deleted: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replicas_of_a_topic_are_the_same_for_every_broker() {
    let (cluster, topic) = topic("placed", "rf=3").await;
    let leader = topic.leader().await;
    topic.wait_isr(leader, &cluster.ids()).await;
    for id in cluster.ids() {
        let body = eventually("it names every replica in sync", Duration::from_secs(10), async || {
            let body = topic.replicas(id).await?;
            if ids_of(&body["isr"]) == cluster.ids() { Ok(body) } else { bail!("{body}") }
        })
        .await;
        assert_eq!((&body["topic"], &body["owner"]), (&json!(topic.name), &json!(leader)));
        let replicas = body["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 3, "{body}");
        for replica in replicas {
            let broker = u32::try_from(replica["broker_id"].as_u64().unwrap()).unwrap();
            assert_eq!(replica["api_base"], cluster.place(broker).api_base);
            assert_eq!(
                (&replica["is_owner"], &replica["in_isr"]),
                (&json!(broker == leader), &json!(true)),
                "{body}"
            );
        }
        let partition = &body["partitions"][0];
        assert_eq!((&partition["id"], &partition["leader"]), (&json!(0), &json!(leader)), "{body}");
        assert_eq!(
            (ids_of(&partition["replicas"]), ids_of(&partition["isr"])),
            (vec![1, 2, 3], vec![1, 2, 3])
        );
        assert!(partition["leader_epoch"].is_u64(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_listed_described_and_deleted_through_any_broker() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    for id in cluster.ids() {
        let name = unique("managed");
        let create = format!("{}/admin/topics?name={name}&rf=2", cluster.url(id));
        let body = http.post(&create).await.unwrap().expect(200);
        assert_eq!((&body["status"], &body["topic"]), (&json!("ok"), &json!(name)), "{body}");
        assert!(body["owner_id"].is_u64() && body["leader_id"].is_u64(), "{body}");
        http.post(&create).await.unwrap().expect(200);
        let other = format!("{}/admin/topics?name={name}&rf=3", cluster.url(id));
        http.post(&other).await.unwrap().expect_problem(409, "TOPIC_EXISTS");
        for reader in cluster.ids() {
            let base = format!("{}/admin/topics", cluster.url(reader));
            // A broker acts on what it has applied: a moment later than the one that was asked.
            eventually("the topic is listed", Duration::from_secs(5), async || {
                let list = http.get(&base).await?.expect(200).to_string();
                if list.contains(&name) { Ok(()) } else { bail!("{list}") }
            })
            .await;
            let about = http.get(&format!("{base}/{name}")).await.unwrap().expect(200);
            assert_eq!((&about["topic"], &about["replica_count"]), (&json!(name), &json!(2)), "{about}");
            assert!(about["owner"].is_u64() && about["followers"].is_array(), "{about}");
            assert!(about["isr"].is_array() && about["alive_brokers"].is_array(), "{about}");
        }
        let delete = format!("{}/admin/topics/{name}", cluster.url(id));
        let answer = http.delete(&delete).await.unwrap();
        assert!([200, 204].contains(&answer.status), "{answer}");
        for reader in cluster.ids() {
            eventually("the topic is gone", Duration::from_secs(5), async || {
                let answer = http.get(&format!("{}/admin/topics/{name}", cluster.url(reader))).await?;
                if answer.status == 404 { Ok(()) } else { bail!("{answer}") }
            })
            .await;
        }
        let topic = Topic::named(&cluster, &name);
        let answer = topic.post(id, "", publish_body(&json!({"value": 1}))).await.unwrap();
        answer.expect_problem(404, "TOPIC_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_under_its_name_is_empty() {
    let (cluster, topic) = topic("again", "rf=3").await;
    topic.publish_many(1, (0..10).map(Value::from)).await;
    let http = Http::new();
    http.delete(&format!("{}/admin/topics/{}", cluster.url(2), topic.name)).await.unwrap();
    let create = format!("{}/admin/topics?name={}&rf=3", cluster.url(3), topic.name);
    http.post(&create).await.unwrap().expect(200);
    assert_eq!(topic.publish(3, "anew").await, 0);
    let log = topic.equal_log(&cluster.ids()).await;
    assert_eq!((log.len(), &log[0].value), (1, &json!("anew")));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_added_and_removed_as_in_the_old_system() {
    let (cluster, topic) = topic("moved", "rf=2").await;
    let http = Http::new();
    let leader = topic.leader().await;
    let two = ids_of(&topic.replicas(1).await.unwrap()["isr"]);
    let added = cluster.ids().into_iter().find(|id| !two.contains(id)).unwrap();
    let base = format!("{}/admin/topics/{}/replicas", cluster.url(added), topic.name);
    let body = http.post(&format!("{base}?broker_id_to_add={added}")).await.unwrap().expect(200);
    assert_eq!(body["topic"], topic.name, "{body}");
    topic.wait_isr(1, &cluster.ids()).await;
    let removed = two.into_iter().find(|id| *id != leader).unwrap();
    http.delete(&format!("{base}/{removed}")).await.unwrap().expect(200);
    let rest: Vec<u32> = cluster.others(removed);
    topic.wait_isr(1, &rest).await;
    let answer = http.delete(&format!("{base}/{leader}")).await.unwrap();
    assert!([400, 409].contains(&answer.status), "the leader is not removed: {answer}");
    answer.problem();
    http.post(&format!("{base}?broker_id_to_add=99")).await.unwrap().problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_added_by_the_path_that_removes_it() {
    let (cluster, topic) = topic("path", "rf=2").await;
    topic.leader().await;
    let two = ids_of(&topic.replicas(1).await.unwrap()["isr"]);
    let added = cluster.ids().into_iter().find(|id| !two.contains(id)).unwrap();
    let url = format!("{}/admin/topics/{}/replicas/{added}", cluster.url(2), topic.name);
    Http::new().post(&url).await.unwrap().expect(200);
    topic.wait_isr(1, &cluster.ids()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_isr_metadata_and_brokers_are_shown_by_every_broker() {
    let (cluster, topic) = topic("shown", "rf=3").await;
    let (controller, epoch) = cluster.controller().await;
    topic.wait_isr(1, &cluster.ids()).await;
    for id in cluster.ids() {
        let base = cluster.url(id);
        let body = get(format!("{base}/admin/leader")).await.expect(200);
        assert_eq!((&body["broker_id"], &body["leader_id"]), (&json!(id), &json!(controller)), "{body}");
        assert_eq!(body["this_broker_is_leader"], id == controller, "{body}");
        assert_eq!(body["controller_epoch"], epoch, "{body}");
        topic.wait_isr(id, &cluster.ids()).await;
        let body = get(format!("{base}/admin/isr")).await.expect(200);
        let about = &body["topics"][&topic.name];
        assert_eq!(
            (&body["leader_id"], ids_of(&about["isr"])),
            (&json!(controller), cluster.ids()),
            "{body}"
        );
        assert_eq!(about["alive"], json!({"1": true, "2": true, "3": true}), "{body}");
        assert!(
            about["owner"].is_u64() && about["followers"].as_array().is_some_and(|f| f.len() == 2),
            "{body}"
        );
        let body = get(format!("{base}/metadata")).await.expect(200);
        assert_eq!(body["leader_id"], controller, "{body}");
        assert!(body["version"].is_u64(), "{body}");
        assert_eq!(ids_of(&body["topics"][&topic.name]), cluster.ids(), "{body}");
        let body = get(format!("{base}/admin/brokers")).await.expect(200);
        for other in cluster.ids() {
            assert!(body.to_string().contains(&cluster.place(other).api_base), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_have_the_old_fields() {
    let (cluster, topic) = topic("counted", "rf=3").await;
    topic.publish(1, "one").await;
    let (controller, _) = cluster.controller().await;
    for id in cluster.ids() {
        let body = get(format!("{}/stats", cluster.url(id))).await.expect(200);
        assert_eq!(body["broker_id"], id, "{body}");
        assert!(body["timestamp"].is_number(), "{body}");
        let election = &body["election"];
        assert_eq!(election["current_leader"], controller, "{election}");
        assert_eq!(
            (&election["is_leader"], &election["in_election"]),
            (&json!(id == controller), &json!(false))
        );
        for name in [
            "elections_started",
            "elections_won",
            "election_messages_sent",
            "election_messages_received",
            "heartbeats_sent",
            "heartbeats_received",
        ] {
            assert!(election["metrics"][name].is_number(), "no election metric {name}: {election}");
        }
        for name in ["total_members", "alive", "suspect", "dead"] {
            assert!(body["gossip"][name].is_number(), "no gossip figure {name}: {}", body["gossip"]);
        }
        assert!(body["gossip"]["members"].is_object(), "{}", body["gossip"]);
        assert!(body["replication"]["topics_count"].is_number(), "{}", body["replication"]);
        let replicated = &body["replication"]["topics"][&topic.name];
        assert!(replicated["owner"].is_u64() && replicated["is_owner"].is_boolean(), "{replicated}");
        assert!(replicated["isr_count"].is_u64() && replicated["replica_count"].is_u64(), "{replicated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_as_text_or_as_the_old_json_with_leases_owned_topics_and_gossip() {
    let (cluster, topic) = topic("measured", "rf=3").await;
    topic.publish(1, "one").await;
    let leader = topic.leader().await;
    let group = unique("group");
    topic.subscribe(1, &group, "c").await.unwrap().expect(200);
    let http = Http::new();
    for id in cluster.ids() {
        let url = format!("{}/metrics", cluster.url(id));
        let text = http.get(&url).await.unwrap();
        assert!(text.header("content-type").contains("text"), "{text}");
        assert!(text.text().lines().any(|line| line.starts_with("pubsub_")), "{text}");
        let accept = Content::default().with("accept", "application/json");
        let forms = [
            http.get(&format!("{url}?format=json")).await.unwrap(),
            http.send("GET", &url, accept).await.unwrap(),
        ];
        for body in forms.map(|answer| answer.expect(200)) {
            assert_eq!(body["broker_id"], id, "{body}");
            assert!(body["leases"].is_object() && !body["gossip"].is_null(), "{body}");
            let owned = body["owned_topics"].as_array().unwrap();
            assert_eq!(owned.contains(&json!(topic.name)), id == leader, "broker {leader} leads: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_openapi_and_the_canonical_prefix_are_served() {
    let (cluster, topic) = topic("prefixed", "rf=3").await;
    topic.publish(1, "one").await;
    for id in cluster.ids() {
        let base = cluster.url(id);
        for route in ["livez", "readyz"] {
            let answer = get(format!("{base}/{route}")).await;
            assert_eq!(answer.status, 200, "{answer}");
        }
        for route in ["openapi.json", "v1/openapi.json"] {
            let body = get(format!("{base}/{route}")).await.expect(200);
            assert!(body["openapi"].as_str().is_some_and(|version| version >= "3.1"), "{}", body["openapi"]);
            let paths = body["paths"].as_object().unwrap();
            for path in ["topics/{topic}/publish", "poll", "subscribe", "commit", "admin/topics"] {
                assert!(paths.keys().any(|known| known.ends_with(path)), "{path} is not described");
            }
            assert!(!paths.keys().any(|known| known.contains("internal")), "internal routes are described");
        }
        for route in [
            format!("poll?topic={}&timeout_ms=0", topic.name),
            format!("replicas/{}", topic.name),
            "admin/topics".to_owned(),
            "admin/leader".to_owned(),
            "metadata".to_owned(),
        ] {
            let (new, old) = (get(format!("{base}/v1/{route}")).await, get(format!("{base}/{route}")).await);
            assert_eq!((new.status, old.status), (200, 200), "{new} {old}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_kept_and_answers_name_epoch_and_high_watermark() {
    let (_cluster, topic) = topic("headed", "rf=3").await;
    let content = publish_body(&json!({"value": 1})).with("X-Request-Id", "my-request-7");
    let answer = topic.post(1, "", content).await.unwrap();
    assert_eq!(answer.header("x-request-id"), "my-request-7");
    assert!(answer.header("x-pubsub-leader-epoch").parse::<u64>().is_ok(), "{:?}", answer.headers);
    let answer = topic.poll(1, "from_offset=0&timeout_ms=3000").await.unwrap();
    assert_eq!(answer.header("x-pubsub-high-watermark"), "1", "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_partitions_keeps_a_key_in_one_of_them() {
    let (cluster, topic) = topic("partitioned", "rf=2&partitions=4").await;
    let mut places = std::collections::BTreeMap::new();
    for round in 0..3 {
        for key in 0..12 {
            let body = json!({"key": format!("k{key}"), "value": round});
            let via = u32::try_from(key % 3).unwrap() + 1;
            let answer = topic.post(via, "", publish_body(&body)).await.unwrap().expect(200);
            let partition = answer["partition"].as_u64().unwrap();
            assert_eq!(*places.entry(key).or_insert(partition), partition, "key {key} moved: {answer}");
        }
    }
    assert!(places.values().collect::<std::collections::BTreeSet<_>>().len() > 1, "{places:?}");
    eventually("the partitions together hold all records", Duration::from_secs(10), async || {
        let mut all = 0;
        for partition in 0..4 {
            let rest = format!("records?partition={partition}&from=earliest");
            all += records_of(&get(topic.url(cluster.ids()[2], &rest)).await.expect(200))?.len();
        }
        if all == 36 { Ok(()) } else { bail!("{all} of 36") }
    })
    .await;
    let answer = topic.post(1, "?partition=3", publish_body(&json!({"value": 1}))).await.unwrap().expect(200);
    assert_eq!(answer["partition"], 3);
    let answer = topic.post(1, "?partition=4", publish_body(&json!({"value": 1}))).await.unwrap();
    assert!([404, 422].contains(&answer.status), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_a_topic_live() {
    let (cluster, topic) = topic("streamed", "rf=3").await;
    topic.publish(1, "first").await;
    let url = topic.url(cluster.ids()[1], "records?partition=0&from=0");
    let mut response = Http::new().open(&url, "text/event-stream").await.unwrap();
    assert_eq!(response.status(), 200);
    let mut text = String::new();
    for expected in ["first", "second"] {
        eventually(&format!("the stream brings {expected}"), Duration::from_secs(10), async || {
            if text.contains(expected) {
                return Ok(());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(5), response.chunk()).await??;
            text.push_str(&String::from_utf8_lossy(&chunk.context("the stream ended")?));
            bail!("{text}")
        })
        .await;
        if expected == "first" {
            topic.publish(3, "second").await;
        }
    }
}
