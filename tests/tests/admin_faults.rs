//! What managing programs rely on when brokers are gone.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use pubsub_tests::cluster::Settings;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::{Shared, alone};
use pubsub_tests::cluster::topic::Topic;
use pubsub_tests::http::{Content, Http};
use serde_json::json;
use std::time::Duration;

static CLUSTER: Shared = Shared::new(sealed);

/// Longest wait for a replica that takes over, at the price of records; the brokers wait 15 s for the others.
const TAKEN_OVER: Duration = Duration::from_secs(60);

fn sealed() -> Settings {
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned();
    Settings { environment: vec![("PUBSUB_STORAGE_KEY".to_owned(), key)], ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_led_at_the_price_of_records_only_if_it_says_so() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let query = "rf=2&min_isr=1&owner_id=1&wait=ready";
    let careful = Topic::create(&cluster, 3, "careful", query).await;
    let daring = Topic::create(&cluster, 3, "daring", &format!("{query}&unclean_election=true")).await;
    let topics = [&careful, &daring];
    let mut behind = None;
    for topic in topics {
        let replicas = topic.replicas(3).await.unwrap();
        let other = pubsub_tests::cluster::ids_of(&replicas["isr"]).into_iter().find(|id| *id != 1).unwrap();
        // Both go to the same two brokers, so that one loss hits both.
        if *behind.get_or_insert(other) != other {
            let moves = json!({"moves": [{"partition": 0, "replicas": [1, behind]}]});
            let url = format!("{}/admin/topics/{}/reassign", cluster.url(3), topic.name);
            Http::new().post_json(&url, &moves).await.unwrap().expect(200);
            topic.wait_isr(3, &[1, behind.unwrap()]).await;
        }
    }
    let behind = behind.unwrap();
    let watcher = 5 - behind;
    cluster.kill9(behind);
    for topic in topics {
        topic.wait_isr(watcher, &[1]).await;
        topic.publish(watcher, "only broker 1 has this").await;
    }
    cluster.kill9(1);
    cluster.start_broker(behind);
    cluster.wait_broker_ready(behind).await;
    eventually("the topic that says so is led", TAKEN_OVER, async || {
        let replicas = daring.replicas(watcher).await?;
        if replicas["owner"] == behind { Ok(()) } else { bail!("{replicas}") }
    })
    .await;
    let url = daring.url(watcher, "publish");
    let body = Content::json(json!({"value": "after"}).to_string());
    let published = Http::new().send("POST", &url, body).await.unwrap().expect(200);
    assert_eq!(published["offset"], 0, "what only broker 1 had is lost");
    assert_eq!(careful.replicas(watcher).await.unwrap()["owner"], json!(null), "the other one waits");
    cluster.start_broker(1);
    careful.leader().await;
    let kept = careful.equal_log(&[1, behind]).await;
    assert_eq!(kept.len(), 1, "and loses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_say_whether_they_seal_what_they_store_also_after_a_restart() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    cluster.restart(2);
    cluster.wait_ready().await;
    let url = format!("{}/admin/brokers", cluster.url(1));
    let brokers = Http::new().get(&url).await.unwrap().expect(200);
    for broker in brokers["brokers"].as_array().unwrap() {
        assert_eq!(broker["sealed"], true, "{broker}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_ends_its_streams_and_the_others_tell_what_that_led_to() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "left", "rf=3&owner_id=2&wait=ready").await;
    let stream = Http::new().open(&format!("{}/admin/events", cluster.url(2)), "text/event-stream").await;
    let stream = stream.unwrap();
    cluster.sigterm(2).await.unwrap();
    let text = tokio::time::timeout(TAKEN_OVER, stream.text()).await.unwrap().unwrap();
    assert!(text.ends_with("retry: 500\n\n"), "it did not end as it should: {text}");
    for via in [1, 3] {
        eventually(&format!("broker {via} tells of it"), TAKEN_OVER, async || {
            let content = Content::default().with("accept", "application/json");
            let url = format!("{}/admin/events?limit=1000", cluster.url(via));
            let list = Http::new().send("GET", &url, content).await?.expect(200);
            let events = list["events"].as_array().cloned().unwrap_or_default();
            let about = |event: &serde_json::Value| event["topic"] == topic.name.as_str();
            let fenced = |event: &serde_json::Value| {
                event["event"] == "isr_changed" && event["cause"] == "fenced" && event["left"] == json!([2])
            };
            let moved =
                |event: &serde_json::Value| event["event"] == "leader_changed" && event["before"] == 2;
            let gone = events.iter().any(|event| event["event"] == "broker_fenced" && event["broker"] == 2);
            let told = |kind: &dyn Fn(&serde_json::Value) -> bool| {
                events.iter().any(|event| about(event) && kind(event))
            };
            if gone && told(&fenced) && told(&moved) { Ok(()) } else { bail!("{list}") }
        })
        .await;
    }
}
