//! Topics followed live: groups whose members are streams, and clients that go on at another broker.

#![allow(clippy::unwrap_used)]

use anyhow::{bail, ensure};
use pubsub_core::limits::STREAMS_MAX;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::{Shared, alone};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::{Content, Http};
use pubsub_tests::sse::{Event, EventStream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

static CLUSTER: Shared = Shared::new(Settings::default);
/// A cluster whose brokers are killed.
static BROKEN: Shared = Shared::new(Settings::default);
/// A broker whose streams no other test opens.
static ONE: Shared = Shared::new(|| Settings { brokers: 1, voters: vec![1], ..Settings::default() });

/// Longest wait for an event of a cluster that is whole.
const SOON: Duration = Duration::from_secs(10);
/// Longest wait for what takes a session to end, or a leader to be replaced.
const TAKEN_OVER: Duration = Duration::from_secs(25);

/// What a client has received: values by partition and offset.
#[derive(Default)]
struct Received(BTreeMap<(u64, u64), Vec<Value>>);

impl Received {
    fn take(&mut self, event: &Event) {
        let at = |name: &str| event.data[name].as_u64().unwrap();
        self.0.entry((at("partition"), at("offset"))).or_default().push(event.data["value"].clone());
    }

    fn values(&self) -> BTreeSet<String> {
        self.0.values().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    /// Checks that offsets of each partition are without gap and without repetition.
    fn assert_each_once(&self) {
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        for ((partition, offset), values) in &self.0 {
            assert_eq!(values.len(), 1, "{partition}/{offset} came {} times", values.len());
            let expected = next.entry(*partition).or_default();
            assert_eq!(offset, expected, "records of partition {partition} are missing");
            *expected += 1;
        }
    }
}

fn url(topic: &Topic, via: u32, query: &str) -> String {
    topic.url(via, &format!("stream?{query}"))
}

async fn open(topic: &Topic, via: u32, query: &str, last_id: &str) -> EventStream {
    EventStream::open(&url(topic, via, query), last_id).await.unwrap()
}

/// Publishes so many values to each partition; values are unique.
async fn publish(topic: &Topic, via: u32, partitions: u32, count: u32, mark: &str) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for partition in 0..partitions {
        let values: Vec<String> = (0..count).map(|no| format!("{mark}.{partition}.{no}")).collect();
        let records: Vec<Value> = values.iter().map(|value| json!({"value": value})).collect();
        let body = json!({"records": records}).to_string();
        eventually("a publish is taken", TAKEN_OVER, async || {
            let answer =
                topic.post(via, &format!("?partition={partition}"), Content::json(body.clone())).await?;
            ensure!(answer.status == 200, "{answer}");
            Ok(())
        })
        .await;
        published.extend(values);
    }
    published
}

/// Reads until every one of `values` was received.
async fn receive(stream: &mut EventStream, received: &mut Received, values: &BTreeSet<String>) {
    let all = async {
        while !values.is_subset(&received.values()) {
            received.take(&stream.next_of("record", TAKEN_OVER).await.unwrap());
        }
    };
    tokio::time::timeout(TAKEN_OVER, all).await.expect("every record is received");
}

async fn describe(cluster: &Cluster, via: u32, group: &str) -> anyhow::Result<Value> {
    let address = format!("{}/groups/{group}", cluster.url(via));
    let answer = Http::new().try_send("GET", &address, Content::default(), Duration::from_secs(8)).await?;
    ensure!(answer.status == 200, "{answer}");
    Ok(answer.json())
}

/// Waits until a group has finished this offset in each of so many partitions.
async fn wait_committed(cluster: &Cluster, via: u32, group: &str, partitions: usize, offset: i64) {
    eventually(&format!("{group} has finished {offset} everywhere"), TAKEN_OVER, async || {
        let described = describe(cluster, via, group).await?;
        let places = described["partitions"].as_array().unwrap();
        let all = places.len() == partitions && places.iter().all(|place| place["committed"] == offset);
        if all { Ok(()) } else { bail!("{described}") }
    })
    .await;
}

fn partitions_of(event: &Event) -> Vec<u64> {
    let partitions = event.data["partitions"].as_array().unwrap().iter();
    partitions.map(|place| place["partition"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_goes_on_at_another_broker_without_gap_or_duplicate() {
    let _alone = alone().await;
    let cluster = BROKEN.exclusive().await;
    let topic = Topic::create(&cluster, 1, "moved", "rf=3&partitions=3").await;
    let group = unique("g");
    let query = format!("group_id={group}&consumer_id=one");
    let mut received = Received::default();
    let mut stream = open(&topic, 1, &query, "").await;
    let first = publish(&topic, 2, 3, 200, "a").await;
    receive(&mut stream, &mut received, &first).await;
    let second = publish(&topic, 3, 3, 200, "b").await;
    // Some of it may have arrived, some may be on its way, and some may be committed already.
    received.take(&stream.next_of("record", SOON).await.unwrap());
    cluster.kill9(1);
    while let Ok(Some(event)) = stream.next(Duration::from_millis(200)).await {
        if event.kind == "record" {
            received.take(&event);
        }
    }
    let last_id = stream.last_id.clone();
    let mut stream = eventually("another broker goes on", TAKEN_OVER, async || {
        EventStream::open(&url(&topic, 2, &query), &last_id).await
    })
    .await;
    receive(&mut stream, &mut received, &second).await;
    let third = publish(&topic, 3, 3, 10, "c").await;
    receive(&mut stream, &mut received, &third).await;
    received.assert_each_once();
    assert_eq!(received.0.len(), 3 * 410);
    wait_committed(&cluster, 3, &group, 3, 409).await;
    cluster.start_broker(1);
    cluster.wait_broker_ready(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_group_share_partitions_and_a_standby_takes_over() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "shared", "rf=3&partitions=2").await;
    let group = unique("g");
    let query = |name: &str| format!("group_id={group}&consumer_id={name}");
    let mut one = open(&topic, 1, &query("one"), "").await;
    assert_eq!(partitions_of(&one.next_of("rebalance", SOON).await.unwrap()), [0, 1]);
    let mut two = open(&topic, 2, &query("two"), "").await;
    let told = one.next_of("rebalance", SOON).await.unwrap();
    assert_eq!((partitions_of(&told), &told.data["lost"]), (vec![0], &json!([1])), "{told:?}");
    let told = two.next_of("rebalance", SOON).await.unwrap();
    let told =
        if partitions_of(&told).is_empty() { two.next_of("rebalance", SOON).await.unwrap() } else { told };
    assert_eq!(partitions_of(&told), [1]);
    let mut three = open(&topic, 3, &query("three"), "").await;
    assert!(partitions_of(&three.next_of("rebalance", SOON).await.unwrap()).is_empty(), "it waits");
    publish(&topic, 1, 2, 20, "a").await;
    let (mut of_one, mut of_two) = (Received::default(), Received::default());
    for _ in 0..20 {
        of_one.take(&one.next_of("record", SOON).await.unwrap());
        of_two.take(&two.next_of("record", SOON).await.unwrap());
    }
    assert!(of_one.0.keys().all(|(partition, _)| *partition == 0));
    assert!(of_two.0.keys().all(|(partition, _)| *partition == 1));
    wait_committed(&cluster, 1, &group, 2, 19).await;
    drop(one);
    let told = three.next_of("rebalance", TAKEN_OVER).await.unwrap();
    assert_eq!((partitions_of(&told), &told.data["partitions"][0]["next_offset"]), (vec![0], &json!(20)));
    let values = publish(&topic, 2, 2, 20, "b").await;
    let (mut of_three, zero) = (Received::default(), values.iter().filter(|value| value.contains(".0.")));
    receive(&mut three, &mut of_three, &zero.cloned().collect()).await;
    assert_eq!(of_three.0.keys().next(), Some(&(0, 20)), "what was finished is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_manual_commits_only_the_client_says_what_is_finished() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "manual", "rf=3").await;
    let group = unique("g");
    let query = format!("group_id={group}&consumer_id=c&commit=manual");
    let mut stream = open(&topic, 1, &query, "").await;
    let epoch = stream.next_of("rebalance", SOON).await.unwrap().data["member_epoch"].clone();
    publish(&topic, 2, 1, 10, "a").await;
    for offset in 0..10 {
        assert_eq!(stream.next_of("record", SOON).await.unwrap().data["offset"], offset);
    }
    let control = stream.next_of("control", SOON).await.unwrap();
    assert_eq!(control.data["partitions"][0]["committed"], -1, "{control:?}");
    let body = json!({
        "topic": topic.name, "group_id": group, "consumer_id": "c", "offset": 4, "member_epoch": epoch,
    });
    Http::new().post_json(&format!("{}/commit", cluster.url(3)), &body).await.unwrap().expect(200);
    drop(stream);
    let mut stream = open(&topic, 2, &query, "").await;
    assert_eq!(
        stream.next_of("record", SOON).await.unwrap().data["offset"],
        5,
        "what is not finished comes again"
    );
    let last_id = "0:7";
    let mut stream = open(&topic, 3, &query, last_id).await;
    assert_eq!(stream.next_of("record", SOON).await.unwrap().data["offset"], 8, "but not to who has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_before_ends_when_a_consumer_opens_another() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "again", "rf=3").await;
    let query = format!("group_id={}&consumer_id=c", unique("g"));
    let mut first = open(&topic, 1, &query, "").await;
    first.next_of("rebalance", SOON).await.unwrap();
    let head = Http::new().send("HEAD", &url(&topic, 2, &query), Content::default()).await.unwrap();
    assert_eq!((head.status, head.header("content-type").as_str()), (200, "text/event-stream"));
    let mut second = open(&topic, 2, &query, "").await;
    assert_eq!(partitions_of(&second.next_of("rebalance", SOON).await.unwrap()), [0]);
    let error = first.next_of("error", SOON).await.unwrap();
    assert_eq!(error.data["code"], "MEMBER_FENCED", "{error:?}");
    assert_eq!(first.next(SOON).await.unwrap(), None, "the stream ends");
    assert!(first.retry_ms.unwrap() >= 1_000, "two clients of one name do not take turns all the time");
    publish(&topic, 3, 1, 1, "a").await;
    second.next_of("record", SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_a_group_follows_all_partitions_and_goes_on_anywhere() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "alone", "rf=2&partitions=3").await;
    let mut received = Received::default();
    let mut values = publish(&topic, 1, 3, 30, "a").await;
    let mut last_id = String::new();
    for round in 0..3 {
        for via in cluster.ids() {
            let mut stream = open(&topic, via, "", &last_id).await;
            for _ in 0..5 {
                received.take(&stream.next_of("record", SOON).await.unwrap());
            }
            last_id = stream.last_id;
        }
        values.extend(publish(&topic, 2, 3, 5, &format!("b{round}")).await);
    }
    let mut stream = open(&topic, 2, "", &last_id).await;
    receive(&mut stream, &mut received, &values).await;
    received.assert_each_once();
    let control = stream.next_of("control", SOON).await.unwrap();
    let standing = &control.data["partitions"][2];
    assert_eq!((&standing["high_watermark"], &control.data["lag"]), (&json!(45), &json!(0)), "{control:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_where_it_is_asked_to() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "begun", "rf=2&partitions=2").await;
    publish(&topic, 1, 2, 10, "a").await;
    topic.settle().await;
    for via in cluster.ids() {
        let mut stream = open(&topic, via, "from=7&partition=1", "").await;
        let first = stream.next_of("record", SOON).await.unwrap();
        assert_eq!((&first.data["partition"], &first.data["offset"]), (&json!(1), &json!(7)));
        let stamp = first.data["ts_ms"].as_i64().unwrap();
        let mut stream = open(&topic, via, &format!("from=timestamp:{stamp}&partition=1"), "").await;
        assert_eq!(stream.next_of("record", SOON).await.unwrap().data["ts_ms"], stamp);
    }
    let group = unique("g");
    let query = format!("group_id={group}&consumer_id=c&from=latest");
    let mut streams = vec![];
    for via in cluster.ids() {
        streams.push(open(&topic, via, "from=latest", "").await);
    }
    drop(open(&topic, 2, &query, "").await);
    let url = format!("{}/unsubscribe", cluster.url(1));
    let leave = json!({"topic": topic.name, "group_id": group, "consumer_id": "c"});
    Http::new().post_json(&url, &leave).await.unwrap().expect(200);
    publish(&topic, 1, 2, 1, "late").await;
    for stream in &mut streams {
        assert_eq!(stream.next_of("record", SOON).await.unwrap().data["offset"], 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_group_began_is_kept_before_anything_is_finished() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "kept", "rf=3").await;
    let group = unique("g");
    let query = |name: &str| format!("group_id={group}&consumer_id={name}&from=latest");
    let mut one = open(&topic, 1, &query("one"), "").await;
    // It commits before it tells how far it is.
    one.next_of("control", SOON).await.unwrap();
    drop(one);
    publish(&topic, 1, 1, 3, "meanwhile").await;
    let mut two = open(&topic, 3, &query("two"), "").await;
    assert_eq!(two.next_of("record", TAKEN_OVER).await.unwrap().data["offset"], 0, "none is left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reset_a_stream_goes_on_there_whatever_it_had_last() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "set", "rf=3").await;
    let group = unique("g");
    let query = format!("group_id={group}&consumer_id=c");
    let values = publish(&topic, 1, 1, 10, "a").await;
    let mut stream = open(&topic, 1, &query, "").await;
    receive(&mut stream, &mut Received::default(), &values).await;
    wait_committed(&cluster, 2, &group, 1, 9).await;
    let last_id = stream.last_id.clone();
    drop(stream);
    let leave = json!({"topic": topic.name, "group_id": group, "consumer_id": "c"});
    Http::new().post_json(&format!("{}/unsubscribe", cluster.url(2)), &leave).await.unwrap().expect(200);
    let reset = format!("{}/groups/{group}/reset", cluster.url(3));
    Http::new().post_json(&reset, &json!({"to": 3})).await.unwrap().expect(200);
    let mut stream = open(&topic, 2, &query, &last_id).await;
    assert_eq!(stream.next_of("record", SOON).await.unwrap().data["offset"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_event_that_is_not_there_is_waited_for_and_not_committed() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "beyond", "rf=3").await;
    publish(&topic, 1, 1, 3, "a").await;
    let query = format!("group_id={}&consumer_id=c", unique("g"));
    let mut stream = open(&topic, 1, &query, "0:41").await;
    let control = stream.next_of("control", SOON).await.unwrap();
    assert_eq!(control.data["partitions"][0]["committed"], -1, "{control:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_streams_that_can_not_be_are_refused() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "refused", "rf=2").await;
    let http = Http::new();
    for (query, status, code) in [
        ("group_id=g", 400, "CONSUMER_REQUIRED"),
        ("commit=sometimes&consumer_id=c", 422, "VALIDATION_FAILED"),
        ("commit=auto", 422, "VALIDATION_FAILED"),
        ("from=never", 422, "VALIDATION_FAILED"),
        ("partition=x", 422, "VALIDATION_FAILED"),
        ("partition=0&group_id=g&consumer_id=c", 422, "VALIDATION_FAILED"),
        ("partition=7", 404, "PARTITION_NOT_FOUND"),
    ] {
        for id in cluster.ids() {
            http.get(&url(&topic, id, query)).await.unwrap().expect_problem(status, code);
        }
    }
    let strange = Content::default().with("Last-Event-ID", "7-abcd-12");
    let problem = http.send("GET", &url(&topic, 1, ""), strange).await.unwrap();
    let problem = problem.expect_problem(422, "VALIDATION_FAILED");
    assert!(problem.to_string().contains("Last-Event-ID"), "{problem}");
    let unknown = Topic::named(&cluster, &unique("unknown"));
    http.get(&url(&unknown, 2, "")).await.unwrap().expect_problem(404, "TOPIC_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_a_bound_and_end_in_order_when_their_broker_stops() {
    let _alone = alone().await;
    let cluster = ONE.exclusive().await;
    let topic = Topic::create(&cluster, 1, "bounded", "rf=1").await;
    let address = url(&topic, 1, "");
    let opened = futures::future::join_all((0..STREAMS_MAX).map(|_| EventStream::open(&address, ""))).await;
    let mut streams: Vec<EventStream> = opened.into_iter().map(Result::unwrap).collect();
    let refused = Http::new().get(&address).await.unwrap();
    assert_eq!(refused.header("retry-after"), "5", "{refused}");
    refused.expect_problem(503, "OVERLOADED");
    topic.publish(1, "other requests are served").await;
    streams.truncate(3);
    let mut again =
        eventually("a place is free again", SOON, async || EventStream::open(&address, "").await).await;
    again.next_of("record", SOON).await.unwrap();
    streams.push(again);
    for stream in &mut streams[..3] {
        stream.next_of("record", SOON).await.unwrap();
    }
    cluster.sigterm(1).await.unwrap();
    for stream in &mut streams {
        while let Some(event) = stream.next(SOON).await.unwrap() {
            assert_eq!(event.kind, "control", "{event:?}");
        }
        assert_eq!((stream.last_id.as_str(), stream.retry_ms), ("0:0", Some(500)));
    }
    cluster.start_broker(1);
    cluster.wait_broker_ready(1).await;
}
