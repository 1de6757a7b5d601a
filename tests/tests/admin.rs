//! What programs that manage topics rely on: owners, conditions, settings, events, many topics at once.

#![allow(clippy::unwrap_used)]

use anyhow::Context;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::{Common, Shared};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Settings, ids_of};
use pubsub_tests::http::{Answer, Content, Http};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

static CLUSTER: Shared = Shared::new(Settings::default);

/// Longest wait for what should come at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request about the topic called `name` through broker `via`.
async fn ask(cluster: &Common, via: u32, method: &str, name: &str, query: &str, body: &Value) -> Answer {
    let content = if body.is_null() { Content::default() } else { Content::json(body.to_string()) };
    let url = format!("{}/admin/topics{name}?{query}", cluster.url(via));
    Http::new().send(method, &url, content).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_one_owner_is_kept_from_another_through_every_broker() {
    let cluster = CLUSTER.get().await;
    let name = unique("owned");
    let path = format!("/{name}");
    let of = |uid: &str| json!({"name": name, "rf": 2, "owner": {"uid": uid, "name": "shop/orders"}});
    let created = ask(&cluster, 1, "POST", "", "", &of("one")).await.expect(200);
    assert_eq!((&created["created"], &created["owner"]["uid"]), (&json!(true), &json!("one")));
    for via in cluster.ids() {
        let again = ask(&cluster, via, "POST", "", "", &of("one")).await.expect(200);
        assert_eq!(again["created"], false);
        let other = ask(&cluster, via, "POST", "", "", &of("two")).await.expect_problem(409, "TOPIC_OWNED");
        assert_eq!(other["owner"], json!({"uid": "one", "name": "shop/orders"}));
        let change = json!({"retention_ms": 60_000});
        ask(&cluster, via, "PATCH", &path, "owner_uid=two", &change).await.expect_problem(409, "TOPIC_OWNED");
        ask(&cluster, via, "PATCH", &path, "owner_uid=one", &change).await.expect(200);
        let person = ask(&cluster, via, "PATCH", &path, "", &json!({"retention_ms": null})).await.expect(200);
        assert_eq!(person["config"]["owner"]["uid"], "one", "who names no owner leaves it");
        let claim = json!({"owner": {"uid": "two"}});
        ask(&cluster, via, "PATCH", &path, "", &claim).await.expect_problem(409, "TOPIC_OWNED");
        ask(&cluster, via, "DELETE", &path, "owner_uid=two", &Value::Null)
            .await
            .expect_problem(409, "TOPIC_OWNED");
    }
    let taken = ask(&cluster, 2, "POST", "", "take_ownership=true", &of("two")).await.expect(200);
    assert_eq!((&taken["created"], &taken["owner"]["uid"]), (&json!(false), &json!("two")));
    ask(&cluster, 3, "PATCH", &path, "owner_uid=two", &json!({"owner": null})).await.expect(200);
    ask(&cluster, 1, "DELETE", &path, "owner_uid=anyone", &Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_different_settings_at_once_do_not_undo_each_other() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "at-once", "rf=2").await;
    let path = format!("/{}", topic.name);
    for round in 1..=10 {
        let (one, two) = (json!({"retention_ms": 1_000 + round}), json!({"retention_bytes": 2_000 + round}));
        let both = tokio::join!(
            ask(&cluster, 1, "PATCH", &path, "", &one),
            ask(&cluster, 2, "PATCH", &path, "", &two)
        );
        both.0.expect(200);
        both.1.expect(200);
        let config = ask(&cluster, 3, "GET", &path, "", &Value::Null).await.expect(200)["config"].clone();
        let found = (&config["retention_ms"], &config["retention_bytes"]);
        assert_eq!(found, (&json!(1_000 + round), &json!(2_000 + round)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_deleted_as_empty_only_without_records_whoever_leads_it() {
    let cluster = CLUSTER.get().await;
    for leader in cluster.ids() {
        let query = format!("rf=2&partitions=3&owner_id={leader}&wait=ready");
        let topic = Topic::create(&cluster, 1, "empty", &query).await;
        let path = format!("/{}", topic.name);
        let body = Content::json(json!({"value": 1}).to_string());
        topic.post(1, "?partition=0", body).await.unwrap().expect(200);
        for via in cluster.ids() {
            let refused = ask(&cluster, via, "DELETE", &path, "if_empty=true", &Value::Null).await;
            let problem = refused.expect_problem(409, "TOPIC_NOT_EMPTY");
            assert_eq!((&problem["partition"], &problem["ambiguous"]), (&json!(0), &json!(false)));
        }
        ask(&cluster, 2, "DELETE", &path, "", &Value::Null).await.expect(200);
        let fresh = Topic::create(&cluster, 2, "fresh", &query).await;
        let path = format!("/{}", fresh.name);
        let deleted = ask(&cluster, leader, "DELETE", &path, "if_empty=true", &Value::Null).await;
        assert_eq!(deleted.expect(200)["topic"], fresh.name);
        ask(&cluster, leader, "GET", &path, "", &Value::Null).await.expect_problem(404, "TOPIC_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_refuses_records_larger_than_it_takes_through_every_broker() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "small", "rf=2&max_record_bytes=100").await;
    let path = format!("/{}", topic.name);
    let value = |bytes: usize| Content::json(json!({"value": "x".repeat(bytes)}).to_string());
    for via in cluster.ids() {
        topic.post(via, "", value(98)).await.unwrap().expect(200);
        let refused = topic.post(via, "", value(99)).await.unwrap().expect_problem(413, "RECORD_TOO_LARGE");
        assert!(refused["detail"].as_str().unwrap().contains("at most 100"), "{refused}");
        assert_eq!(refused["ambiguous"], false);
    }
    for wrong in [json!(0), json!((1 << 20) + 1)] {
        let change = json!({"max_record_bytes": wrong});
        ask(&cluster, 2, "PATCH", &path, "", &change).await.expect_problem(422, "VALIDATION_FAILED");
    }
    let change = json!({"max_record_bytes": null, "unclean_election": true});
    let altered = ask(&cluster, 2, "PATCH", &path, "", &change).await.expect(200);
    let config = (&altered["config"]["max_record_bytes"], &altered["config"]["unclean_election"]);
    assert_eq!(config, (&json!(null), &json!(true)));
    topic.post(2, "", value(99)).await.unwrap().expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_name_their_cluster_and_whether_they_seal_what_they_store() {
    let cluster = CLUSTER.get().await;
    let mut clusters = std::collections::BTreeSet::new();
    for via in cluster.ids() {
        let http = Http::new();
        let metadata = http.get(&format!("{}/metadata", cluster.url(via))).await.unwrap().expect(200);
        clusters.insert(metadata["cluster_id"].as_str().unwrap().to_owned());
        let brokers = http.get(&format!("{}/admin/brokers", cluster.url(via))).await.unwrap().expect(200);
        for broker in brokers["brokers"].as_array().unwrap() {
            assert_eq!(broker["sealed"], false, "no key is set: {broker}");
        }
    }
    assert_eq!(clusters.len(), 1, "{clusters:?}");
}

/// Returns a broker's events behind `after`, or its newest.
async fn list(cluster: &Common, via: u32, query: &str) -> Value {
    let content = Content::default().with("accept", "application/json");
    let url = format!("{}/admin/events?{query}", cluster.url(via));
    Http::new().send("GET", &url, content).await.unwrap().expect(200)
}

/// Waits until a broker has told this of a topic.
async fn told(cluster: &Common, via: u32, kind: &str, topic: &str) -> Value {
    eventually(&format!("broker {via} tells {kind} of {topic}"), PATIENCE, async || {
        let mut found = None;
        let mut after = "0".to_owned();
        loop {
            let page = list(cluster, via, &format!("after={after}&limit=1000")).await;
            let events = page["events"].as_array().unwrap();
            let about = events.iter().rfind(|event| event["event"] == kind && event["topic"] == topic);
            found = about.cloned().or(found);
            if events.is_empty() {
                return found.context("no such event");
            }
            page["last_id"].as_str().unwrap().clone_into(&mut after);
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broker_tells_what_becomes_of_a_topic() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "told", "rf=2&partitions=2&owner_id=1&wait=ready").await;
    let path = format!("/{}", topic.name);
    ask(&cluster, 2, "PATCH", &path, "", &json!({"retention_ms": 7, "partitions": 3})).await.expect(200);
    let elect = format!("{}/admin/topics{path}/elect?partition=0&broker_id=", cluster.url(3));
    let other = ids_of(&topic.replicas(1).await.unwrap()["isr"]).into_iter().find(|id| *id != 1).unwrap();
    Http::new().post(&format!("{elect}{other}")).await.unwrap().expect(200);
    ask(&cluster, 3, "DELETE", &path, "", &Value::Null).await.expect(200);
    for via in cluster.ids() {
        told(&cluster, via, "topic_deleted", &topic.name).await;
        let created = told(&cluster, via, "topic_created", &topic.name).await;
        assert_eq!((&created["partitions"], &created["replication_factor"]), (&json!(2), &json!(2)));
        assert!(created["at_ms"].is_i64() && created["id"].is_string(), "{created}");
        let altered = told(&cluster, via, "topic_altered", &topic.name).await;
        assert_eq!(altered["changed"], json!(["retention_ms", "partitions"]));
        let led = told(&cluster, via, "leader_changed", &topic.name).await;
        let found = (&led["partition"], &led["before"], &led["leader"], &led["leader_epoch"]);
        assert_eq!(found, (&json!(0), &json!(1), &json!(other), &json!(2)));
        let controller = list(&cluster, via, "after=0&limit=1000").await;
        let elected = controller["events"].as_array().unwrap().iter();
        assert!(elected.clone().any(|event| event["event"] == "controller_elected"), "{controller}");
        assert!(elected.clone().any(|event| event["event"] == "broker_active"), "{controller}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_events_goes_on_where_it_was_and_says_when_it_can_not() {
    let cluster = CLUSTER.get().await;
    let start = list(&cluster, 1, "limit=1").await;
    assert_eq!((&start["broker_id"], &start["reset"]), (&json!(1), &json!(false)));
    let last = start["last_id"].as_str().unwrap();
    let topic = Topic::create(&cluster, 2, "listed", "rf=1").await;
    let created = told(&cluster, 1, "topic_created", &topic.name).await;
    let behind = list(&cluster, 1, &format!("after={last}&limit=1000")).await;
    assert!(behind["events"].as_array().unwrap().contains(&created), "{behind}");
    let id = created["id"].as_str().unwrap();
    let none = list(&cluster, 1, &format!("after={id}&limit=1000")).await;
    assert!(!none["events"].as_array().unwrap().contains(&created), "{none}");
    let later = format!("{id}999");
    let later = later.as_str();
    for (via, after) in [(2, id), (1, "1-00000000-1"), (1, "nonsense"), (1, later)] {
        let reset = list(&cluster, via, &format!("after={after}")).await;
        assert_eq!((&reset["reset"], &reset["events"]), (&json!(true), &json!([])), "{after}");
        assert!(reset["last_id"].as_str().unwrap().starts_with(&format!("{via}-")), "{reset}");
    }
}

/// Reads a stream of events until its text holds all of these.
async fn read_until(response: &mut reqwest::Response, text: &mut String, wanted: &[&str]) {
    let read = async {
        while !wanted.iter().all(|wanted| text.contains(wanted)) {
            let chunk = response.chunk().await.unwrap();
            text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
        }
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    assert!(read.is_ok(), "{wanted:?} did not come: {text}");
}

async fn open(cluster: &Common, via: u32, last_event_id: &str) -> reqwest::Response {
    let content = Content::default().with("last-event-id", last_event_id);
    Http::new().stream(&format!("{}/admin/events", cluster.url(via)), content).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_goes_on_with_its_last_id_and_tells_when_it_can_not() {
    let cluster = CLUSTER.get().await;
    let mut live = open(&cluster, 1, "").await;
    assert_eq!(live.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    read_until(&mut live, &mut text, &["id: 1-"]).await;
    let last = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let topic = Topic::create(&cluster, 3, "live", "rf=1").await;
    read_until(&mut live, &mut text, &["event: topic_created", &topic.name]).await;
    drop(live);
    let (mut again, mut seen) = (open(&cluster, 1, &last).await, String::new());
    read_until(&mut again, &mut seen, &["event: topic_created", &topic.name]).await;
    assert!(!seen.contains("event: reset"), "{seen}");
    let (mut elsewhere, mut other) = (open(&cluster, 2, &last).await, String::new());
    read_until(&mut elsewhere, &mut other, &["event: reset", "id: 2-", ": keep-alive"]).await;
    assert!(!other.contains(&topic.name), "it begins now: {other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_one_request_are_created_or_refused_each_by_itself() {
    let cluster = CLUSTER.get().await;
    let (one, two, held) = (unique("batch"), unique("batch"), unique("batch"));
    let of = |uid: &str| json!({"name": held, "rf": 1, "owner": {"uid": uid}});
    ask(&cluster, 1, "POST", "", "", &of("one")).await.expect(200);
    let body = json!({"topics": [
        {"name": one, "rf": 2, "partitions": 3},
        {"name": "no/name"},
        {"name": two, "rf": 9},
        of("two"),
        of("one"),
        {"name": one, "rf": 2, "partitions": 3},
        {"name": two, "rf": 3, "owner": {"uid": "x"}},
    ]});
    for via in cluster.ids() {
        let answer = ask(&cluster, via, "POST", ":batch", "", &body).await.expect(200);
        let results = answer["results"].as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [200, 422, 409, 409, 200, 200, 200], "{answer}");
        assert_eq!(results[0]["done"]["created"], via == 1, "{answer}");
        assert_eq!(results[5]["done"]["created"], false, "it comes twice: {answer}");
        assert_eq!(results[0]["done"]["id"], results[5]["done"]["id"]);
        assert_eq!(results[2]["problem"]["code"], if via == 1 { "TOO_FEW_BROKERS" } else { "TOPIC_EXISTS" });
        assert_eq!(results[3]["problem"]["owner"]["uid"], "one", "{answer}");
        assert_eq!(results[6]["done"]["owner"]["uid"], "x", "{answer}");
    }
    let none = json!({"topics": []});
    ask(&cluster, 1, "POST", ":batch", "", &none).await.expect_problem(422, "VALIDATION_FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_topics_of_one_request_take_few_images() {
    let cluster = CLUSTER.get().await;
    let version = async || {
        let url = format!("{}/metadata", cluster.url(2));
        Http::new().get(&url).await.unwrap().expect(200)["version"].as_u64().unwrap()
    };
    let prefix = unique("k");
    let topics: Vec<_> = (0..1_000).map(|n| json!({"name": format!("{prefix}-{n}"), "rf": 3})).collect();
    let before = version().await;
    let begun = Instant::now();
    let answer = ask(&cluster, 2, "POST", ":batch", "timeout_ms=60000", &json!({"topics": topics})).await;
    let took = begun.elapsed();
    let answer = answer.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert!(results.len() == 1_000 && results.iter().all(|result| result["done"]["created"] == true));
    // Other tests change things at the same time.
    let images = version().await - before;
    eprintln!("1,000 topics of one request: {took:?}, {images} images");
    assert!(images < 100, "{images} images");
    let last = Topic::named(&cluster, &format!("{prefix}-999"));
    last.publish(3, "it works").await;
}
