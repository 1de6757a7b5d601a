//! What is wrong is refused with a reason, and the next good request works.

#![allow(clippy::unwrap_used)]

use pubsub_core::limits;
use pubsub_tests::cluster::Settings;
use pubsub_tests::cluster::shared::{Common, Shared};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::http::{Answer, Content, Http};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

static CLUSTER: Shared = Shared::new(Settings::default);

async fn topic(name: &str) -> (Common, Topic) {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, name, "rf=3").await;
    (cluster, topic)
}

#[track_caller]
fn assert_refused(answer: Answer, statuses: &[u16]) -> Value {
    assert!(statuses.contains(&answer.status), "expected one of {statuses:?}: {answer}");
    answer.problem()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_records_are_refused_and_store_nothing() {
    let (cluster, topic) = topic("malformed").await;
    let bodies = [
        "",
        "{",
        "not json",
        "[]",
        "{}",
        r#"{"key":"k"}"#,
        r#"{"key":5,"value":1}"#,
        r#"{"value":1,"headers":[]}"#,
        r#"{"value":1,"headers":"h"}"#,
        r#"{"records":5}"#,
        r#"{"records":[]}"#,
        r#"{"records":[{"value":1},{"key":"no value"}]}"#,
        r#"{"value":1}trailing"#,
        "\u{feff}",
    ];
    for body in bodies {
        for id in cluster.ids() {
            let answer = topic.post(id, "", Content::json(body)).await.unwrap();
            assert!([400, 422].contains(&answer.status), "body {body:?}: {answer}");
            answer.problem();
        }
    }
    let answer = topic.post(1, "", Content::json(vec![b'{', 0xff, 0xfe])).await.unwrap();
    assert_refused(answer, &[400, 422]);
    let lines = Content::of("application/x-ndjson", "{\"value\":1}\n{broken\n");
    assert_refused(topic.post(1, "", lines).await.unwrap(), &[400, 422]);
    let answer = topic.post(2, "", Content::of("application/vnd.pubsub.batch", "no batch")).await.unwrap();
    assert_refused(answer, &[400, 422]);
    assert_eq!(topic.publish(3, "good").await, 0, "nothing of the refused was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_error_names_the_field() {
    let (_cluster, topic) = topic("named-field").await;
    for (query, field) in [
        ("max_records=0", "max_records"),
        ("max_records=1001", "max_records"),
        ("max_records=many", "max_records"),
        ("timeout_ms=60001", "timeout_ms"),
        ("timeout_ms=-1", "timeout_ms"),
        ("from_offset=-5", "from_offset"),
        ("from_offset=1.5", "from_offset"),
        ("from_offset=1180591620717411303424", "from_offset"),
    ] {
        let problem = topic.poll(2, query).await.unwrap().expect_problem(422, "");
        assert!(problem.to_string().contains(field), "{query}: the problem does not name {field}: {problem}");
    }
    let answer = topic.post(1, "?acks=perhaps", Content::json(r#"{"value":1}"#)).await.unwrap();
    let problem = answer.expect_problem(422, "");
    assert!(problem.to_string().contains("acks"), "{problem}");
    let answer = Http::new().get(&format!("{}/poll", CLUSTER.get().await.url(1))).await.unwrap();
    let problem = answer.expect_problem(422, "");
    assert!(problem.to_string().contains("topic"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_not_found_on_every_route_of_every_broker() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::named(&cluster, &unique("unknown"));
    for id in cluster.ids() {
        let base = cluster.url(id);
        let name = &topic.name;
        let answers = [
            topic.post(id, "", Content::json(r#"{"value":1}"#)).await.unwrap(),
            topic.poll(id, "timeout_ms=5000").await.unwrap(),
            topic.subscribe(id, "g", "c").await.unwrap(),
            topic.commit(id, "g", "c", 1).await.unwrap(),
            Http::new().get(&format!("{base}/replicas/{name}")).await.unwrap(),
            Http::new().get(&format!("{base}/admin/topics/{name}")).await.unwrap(),
            Http::new().get(&topic.url(id, "records?partition=0&from=0")).await.unwrap(),
            Http::new().delete(&format!("{base}/admin/topics/{name}")).await.unwrap(),
        ];
        for answer in answers {
            let problem = answer.expect_problem(404, "TOPIC_NOT_FOUND");
            assert!(problem["detail"].as_str().unwrap().contains(name.as_str()), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods_that_do_not_exist_are_problems_too() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    for route in ["no/such/route", "v1/no/such/route", "v2/poll"] {
        http.get(&format!("{}/{route}", cluster.url(1))).await.unwrap().expect_problem(404, "");
    }
    http.delete(&format!("{}/poll", cluster.url(1))).await.unwrap().expect_problem(405, "");
    http.get(&format!("{}/subscribe", cluster.url(1))).await.unwrap().expect_problem(405, "");
    let wrong = Content::of("application/xml", "<value/>");
    let topic = Topic::create(&cluster, 1, "media", "rf=3").await;
    assert_refused(topic.post(1, "", wrong).await.unwrap(), &[400, 415, 422]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_and_partitions_outside_of_a_topic_are_refused_or_waited_for() {
    let (_cluster, topic) = topic("outside").await;
    topic.publish(1, "only").await;
    for id in [1, 2, 3] {
        // Beyond the end is not an error: a new leader may lag behind what was read before.
        let body = topic.poll(id, "from_offset=1000&timeout_ms=100").await.unwrap().expect(200);
        assert_eq!(body["records"], json!([]), "{body}");
        assert_refused(topic.poll(id, "partition=1&timeout_ms=0").await.unwrap(), &[404, 422]);
        let answer = Http::new().get(&topic.url(id, "records?partition=0&from=never")).await.unwrap();
        assert_refused(answer, &[422]);
        for bad in ["partition=-1", "partition=x"] {
            let answer = topic.post(id, &format!("?{bad}"), Content::json(r#"{"value":1}"#)).await.unwrap();
            assert_refused(answer, &[404, 422]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_bodies_past_their_limits_get_413_and_the_connection_lives() {
    let (cluster, topic) = topic("large").await;
    let http = Http::new();
    let json_of = |bytes: usize| Content::json(json!({"value": "x".repeat(bytes)}).to_string());
    for id in cluster.ids() {
        let url = topic.url(id, "publish");
        let answer = http.send("POST", &url, json_of(limits::RECORD_BYTES_MAX + 1)).await.unwrap();
        answer.expect_problem(413, "RECORD_TOO_LARGE");
        let answer = http.send("POST", &url, json_of(limits::BODY_BYTES_MAX + 1)).await.unwrap();
        answer.expect_problem(413, "");
        let records: Vec<Value> = (0..=limits::BATCH_RECORDS_MAX).map(|n| json!({"value": n})).collect();
        let answer =
            http.send("POST", &url, Content::json(json!({"records": records}).to_string())).await.unwrap();
        assert_refused(answer, &[413, 422]);
        http.send("POST", &url, json_of(100)).await.unwrap().expect(200);
    }
    let answer = http.send("POST", &topic.url(1, "publish"), json_of(limits::RECORD_BYTES_MAX - 1_000)).await;
    assert_eq!(answer.unwrap().expect(200)["offset"], 3, "a large record within the limit is taken");
    assert_eq!(topic.equal_log(&cluster.ids()).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_answer_stays_within_its_bytes_but_always_brings_one_record() {
    let (_cluster, topic) = topic("bytes").await;
    for _ in 0..4 {
        topic.publish(1, "x".repeat(100_000)).await;
    }
    topic.settle().await;
    let body = topic.poll(2, "from_offset=0&max_bytes=1000&timeout_ms=3000").await.unwrap().expect(200);
    assert_eq!((body["records"].as_array().unwrap().len(), &body["next_offset"]), (1, &json!(1)));
    let body = topic.poll(2, "from_offset=0&max_bytes=250000&timeout_ms=3000").await.unwrap().expect(200);
    let count = body["records"].as_array().unwrap().len();
    assert!((1..=3).contains(&count), "{count} records of 100000 bytes within 250000 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_that_can_not_be_are_refused() {
    let (cluster, topic) = topic("identities").await;
    let long = "g".repeat(limits::GROUP_NAME_BYTES_MAX + 1);
    for (group, consumer) in [(long.as_str(), "c"), ("g", long.as_str()), ("", "c"), ("g", "")] {
        assert_refused(topic.subscribe(2, group, consumer).await.unwrap(), &[400, 422]);
    }
    let http = Http::new();
    for body in [
        json!({"topic": topic.name, "group_id": 5, "consumer_id": "c"}),
        json!({"group_id": "g", "consumer_id": "c"}),
        json!({"topic": topic.name, "from_offset": "x"}),
    ] {
        let answer = http.post_json(&format!("{}/subscribe", cluster.url(1)), &body).await.unwrap();
        assert_refused(answer, &[400, 422]);
    }
    for query in ["group_id=g", "group_id=g&consumer_id="] {
        assert_refused(topic.poll(3, &format!("{query}&timeout_ms=0")).await.unwrap(), &[400, 422]);
    }
    topic.subscribe(2, "ordinary-group-of-this-test", "c").await.unwrap().expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_requests_with_bad_parameters_are_refused() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    let name = unique("bad-admin");
    for query in [
        "",
        "rf=3",
        &format!("name={name}&rf=0"),
        &format!("name={name}&rf=-1"),
        &format!("name={name}&rf=x"),
        &format!("name={name}&partitions=0"),
        &format!("name={name}&partitions={}", limits::PARTITIONS_MAX + 1),
        &format!("name={name}&owner_id=99"),
        &format!("name={name}&owner_id=x"),
    ] {
        let answer = http.post(&format!("{}/admin/topics?{query}", cluster.url(2))).await.unwrap();
        assert!([400, 404, 409, 422].contains(&answer.status), "{query}: {answer}");
        answer.problem();
    }
    http.get(&format!("{}/admin/topics/{name}", cluster.url(1))).await.unwrap().expect_problem(404, "");
    http.post(&format!("{}/admin/topics?name={name}&rf=3", cluster.url(2))).await.unwrap().expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_topics_are_not_for_clients() {
    let cluster = CLUSTER.get().await;
    let groups = Topic::named(&cluster, limits::GROUPS_TOPIC);
    let answer = groups.post(1, "", Content::json(r#"{"value":1}"#)).await.unwrap();
    assert_refused(answer, &[400, 403, 404, 409, 422]);
    let http = Http::new();
    let answer =
        http.delete(&format!("{}/admin/topics/{}", cluster.url(1), limits::GROUPS_TOPIC)).await.unwrap();
    assert_refused(answer, &[400, 403, 404, 409, 422]);
    let create = format!("{}/admin/topics?name={}", cluster.url(1), limits::GROUPS_TOPIC);
    assert_refused(http.post(&create).await.unwrap(), &[400, 403, 409, 422]);
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_routes_are_absent_from_the_client_port() {
    let cluster = CLUSTER.get().await;
    let http = Http::new();
    for id in cluster.ids() {
        for route in
            ["internal/messages", "internal/replicate", "v1/internal/messages", "internal/discovery/update"]
        {
            let url = format!("{}/{route}", cluster.url(id));
            let answer = http.post_json(&url, &json!({"brokers": []})).await.unwrap();
            answer.expect_problem(404, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_requests_on_the_peer_port_are_refused_with_401() {
    let (cluster, topic) = topic("unsigned").await;
    let before = cluster.controller().await;
    let http = Http::new();
    for id in cluster.ids() {
        let base = format!("http://{}", cluster.place(id).peer);
        for route in
            ["internal/messages", "internal/replicate", "internal/discovery/update", "internal/anything"]
        {
            let answer = http.post_json(&format!("{base}/{route}"), &json!({"brokers": []})).await.unwrap();
            assert_eq!(answer.status, 401, "{answer}");
            let wrong =
                Content::json("{}").with("authorization", "Bearer guessed").with("X-Pubsub-Signature", "00");
            let answer = http.send("POST", &format!("{base}/{route}"), wrong).await.unwrap();
            assert_eq!(answer.status, 401, "{answer}");
        }
    }
    assert_eq!(cluster.controller().await, before);
    topic.publish(1, "as before").await;
}

/// Sends bytes and returns what comes back until the other side closes, or two seconds have passed.
fn raw_exchange(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // The other side may close at the first strange byte.
    let _ = stream.write_all(bytes);
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    back
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_harm_neither_port() {
    let (cluster, topic) = topic("garbage").await;
    let headers: String = (0..20_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let huge = format!("GET /livez HTTP/1.1\r\n{headers}\r\n");
    for id in cluster.ids() {
        let place = cluster.place(id);
        for address in [place.http, place.peer] {
            for bytes in
                [&b"\x00\x01\x02\xff\xfe"[..], b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", huge.as_bytes()]
            {
                let bytes = bytes.to_vec();
                let back = tokio::task::spawn_blocking(move || raw_exchange(address, &bytes)).await.unwrap();
                let text = String::from_utf8_lossy(&back).into_owned();
                assert!(back.is_empty() || text.contains(" 4"), "broker {id} answered {text:?}");
            }
        }
        topic.publish(id, "as before").await;
    }
}
