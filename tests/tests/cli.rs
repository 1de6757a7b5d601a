//! The `pubsub` command line against real brokers, as a person uses it in a shell.

#![allow(clippy::unwrap_used)]

use pubsub_core::record::{Batch, BatchBuilder, ValueKind};
use pubsub_tests::cluster::process::binary;
use pubsub_tests::cluster::shared::{Shared, alone};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::Http;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

static CLUSTER: Shared = Shared::new(Settings::default);

/// Longest time that one command of these tests may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(90);

fn pubsub(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("pubsub"));
    command
        .args(arguments)
        .env_remove("BROKER_API")
        .env("PUBSUB_BROKERS", cluster.urls().join(","))
        .current_dir(cluster.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    let output = pubsub(cluster, arguments).output();
    tokio::time::timeout(COMMAND_DEADLINE, output).await.expect("the command ends").unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_success(output: &Output) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let start: String = out.chars().take(500).collect();
    assert!(output.status.success(), "{}\nstdout: {start}\nstderr: {err}", output.status);
}

async fn start_publish(cluster: &Cluster, topic: &str) -> Child {
    pubsub(cluster, &["publish", topic]).stdin(Stdio::piped()).spawn().unwrap()
}

async fn write_lines(child: &mut Child, lines: std::ops::RangeInclusive<u32>) {
    let numbers: String = lines.map(|n| format!("{n}\n")).collect();
    let stdin = child.stdin.as_mut().unwrap();
    tokio::time::timeout(COMMAND_DEADLINE, stdin.write_all(numbers.as_bytes()))
        .await
        .expect("it reads")
        .unwrap();
}

/// Returns how many records the publisher says may be there twice.
async fn end_publish(mut child: Child) -> usize {
    drop(child.stdin.take());
    let output =
        tokio::time::timeout(COMMAND_DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_success(&output);
    let summary = text(&output.stderr).lines().last().unwrap_or_default().to_owned();
    eprintln!("publish says: {summary}");
    let twice =
        summary.split_once("perhaps twice ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()));
    twice.and_then(|mut numbers| numbers.next()?.parse().ok()).unwrap_or_default()
}

fn subscribe(cluster: &Cluster, topic: &str, group: &str, most: &str) -> Command {
    let urls = cluster.urls().join(",");
    let arguments = [
        ["subscribe", topic],
        ["--group-id", group],
        ["--consumer-id", "c1"],
        ["--brokers", urls.as_str()],
        ["--from", "earliest"],
        ["--max", most],
    ];
    pubsub(cluster, &arguments.concat())
}

#[track_caller]
fn assert_numbers(lines: &[String], last: u32) {
    let wrong = lines.iter().zip(1_u32..).find(|(line, number)| **line != number.to_string());
    assert_eq!(wrong, None, "line and the number that it should be");
    assert_eq!(lines.len(), usize::try_from(last).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_lines_go_in_and_exactly_those_come_out() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = unique("demo-topic");
    assert_success(&run(&cluster, &["topic", "create", &topic, "--rf", "3"]).await);
    let start = Instant::now();
    let mut publish = start_publish(&cluster, &topic).await;
    write_lines(&mut publish, 1..=100_000).await;
    assert_eq!(end_publish(publish).await, 0, "nothing went wrong");
    eprintln!("published in {:?}", start.elapsed());
    let start = Instant::now();
    let output = subscribe(&cluster, &topic, "g1", "100000").output();
    let output = tokio::time::timeout(COMMAND_DEADLINE, output).await.expect("it ends").unwrap();
    assert_success(&output);
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_numbers(&lines, 100_000);
    eprintln!("subscribed in {:?}", start.elapsed());
}

async fn read_lines(from: &mut Lines<BufReader<ChildStdout>>, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let line =
            tokio::time::timeout(COMMAND_DEADLINE, from.next_line()).await.expect("it goes on").unwrap();
        lines.push(line.unwrap_or_else(|| panic!("it ended after {} lines", lines.len())));
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_come_out_in_order_while_brokers_are_killed_during_publishing_and_reading() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "demo-killed", "rf=3").await;
    topic.wait_isr(1, &cluster.ids()).await;
    let first = topic.leader().await;
    let mut publish = start_publish(&cluster, &topic.name).await;
    write_lines(&mut publish, 1..=50_000).await;
    cluster.kill9(first);
    write_lines(&mut publish, 50_001..=100_000).await;
    let twice = end_publish(publish).await;
    cluster.start_broker(first);
    cluster.wait_broker_ready(first).await;
    let log = topic.equal_log(&cluster.ids()).await;
    let stored: Vec<String> = log.iter().map(|record| record.value.as_str().unwrap().to_owned()).collect();
    let most = stored.len().to_string();
    let mut child = subscribe(&cluster, &topic.name, &unique("g"), &most).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = read_lines(&mut out, 30_000).await;
    let second = topic.leader().await;
    cluster.kill9(second);
    lines.extend(read_lines(&mut out, stored.len() - 30_000).await);
    assert_eq!(out.next_line().await.unwrap(), None, "more lines came out than were asked for");
    assert!(lines == stored, "what was read is not what is stored, record by record");
    // A record whose answer was lost is sent again; the publisher says of how many it can't know that they are there once.
    let mut seen = BTreeSet::new();
    let once: Vec<String> = lines.iter().filter(|line| seen.insert((*line).clone())).cloned().collect();
    assert_numbers(&once, 100_000);
    let repeated = lines.len() - once.len();
    assert!(repeated <= twice, "{repeated} lines came twice, the publisher spoke of {twice}");
    let output =
        tokio::time::timeout(COMMAND_DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_success(&output);
    cluster.start_broker(second);
    cluster.wait_broker_ready(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_subscriber_of_the_group_goes_on_behind_the_first() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "demo-continued", "rf=3").await;
    topic.publish_many(1, (1..=30).map(|n| Value::from(n.to_string()))).await;
    let group = unique("g");
    for (broker, first) in [(1, 1), (3, 11), (2, 21)] {
        let url = cluster.url(broker);
        let arguments =
            ["subscribe", &topic.name, "--group-id", &group, "--consumer-id", "c1", "--broker", &url];
        let output = run(&cluster, &[&arguments[..], &["--max", "10"]].concat()).await;
        assert_success(&output);
        let expected: String = (first..first + 10).map(|n| format!("{n}\n")).collect();
        assert_eq!(text(&output.stdout), expected, "through broker {broker}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_an_unknown_topic_or_no_broker_fails_with_a_reason() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let unknown = unique("unknown");
    for arguments in [&["topic", "describe", &unknown][..], &["publish", &unknown], &["check", &unknown]] {
        let mut command = pubsub(&cluster, arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A command that refuses at once doesn't read its input.
        let _ = command.stdin.take().unwrap().write_all(b"line\n").await;
        let output = command.wait_with_output();
        let output = tokio::time::timeout(COMMAND_DEADLINE, output).await.expect("it ends").unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded: {}", text(&output.stdout));
        assert!(text(&output.stderr).contains(&unknown), "{arguments:?} says {}", text(&output.stderr));
    }
    let output = run(&cluster, &["topic", "list", "--brokers", "http://127.0.0.1:9"]).await;
    assert_eq!(output.status.code(), Some(3), "no broker could be reached: {}", text(&output.stderr));
    let output = run(&cluster, &["no-such-command"]).await;
    assert_eq!(output.status.code(), Some(2), "wrong usage: {}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_groups_and_the_cluster_are_shown_as_json() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "demo-shown", "rf=3").await;
    topic.publish(1, "one").await;
    let group = unique("g");
    topic.subscribe(1, &group, "c1").await.unwrap().expect(200);
    for (arguments, expected) in [
        (&["topic", "list", "-o", "json"][..], topic.name.as_str()),
        (&["topic", "describe", &topic.name, "-o", "json"], topic.name.as_str()),
        (&["group", "list", "-o", "json"], group.as_str()),
        (&["group", "describe", &group, "-o", "json"], "c1"),
        (&["cluster", "status", "-o", "json"], "1"),
    ] {
        let output = run(&cluster, arguments).await;
        assert_success(&output);
        let shown = text(&output.stdout);
        serde_json::from_str::<Value>(&shown)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {shown}"));
        assert!(shown.contains(expected), "{arguments:?} does not show {expected}: {shown}");
    }
    let refused = run(&cluster, &["group", "reset", &group, "--to", "latest"]).await;
    assert!(text(&refused.stderr).contains("members"), "{}", text(&refused.stderr));
    let leave = json!({"topic": topic.name, "group_id": group, "consumer_id": "c1"});
    let unsubscribe = format!("{}/unsubscribe", cluster.url(2));
    Http::new().post_json(&unsubscribe, &leave).await.unwrap().expect(200);
    topic.commit(3, &group, "c1", -1).await.unwrap().expect(200);
    let reset = [
        "group",
        "reset",
        &group,
        "--topic",
        &topic.name,
        "--partition",
        "0",
        "--to",
        "latest",
        "-o",
        "json",
    ];
    let output = run(&cluster, &reset).await;
    assert_success(&output);
    let shown: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(shown["partitions"][0]["next_offset"], 1, "{shown}");
    assert_success(&run(&cluster, &["topic", "delete", &topic.name]).await);
    let output = run(&cluster, &["topic", "list", "-o", "json"]).await;
    assert!(!text(&output.stdout).contains(&topic.name));
}

/// Changes one stored value so that the batch stays valid: nothing but a comparison with other replicas can find it.
fn forge(data: &Path, value: &str, forged: &str) {
    let database = rusqlite::Connection::open(data.join("pubsub.sqlite")).unwrap();
    let mut found = Vec::new();
    {
        let mut select = database.prepare("SELECT id, data FROM batch").unwrap();
        let rows =
            select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
        for row in rows {
            let (id, data) = row.unwrap();
            let batch = Batch::decode(data.into()).unwrap();
            if batch.records().any(|record| record.value == value.as_bytes()) {
                found.push((id, batch));
            }
        }
    }
    let [(id, batch)] = found.as_slice() else { panic!("{value} is stored {} times", found.len()) };
    let mut builder = BatchBuilder::new();
    let mut timestamp = 0;
    for record in batch.records() {
        let value = if record.value == value.as_bytes() { forged.as_bytes() } else { record.value };
        assert_eq!(record.kind, ValueKind::Json);
        builder.push(record.key, record.headers, record.kind, value);
        timestamp = record.timestamp_ms;
    }
    let forged = builder.build(batch.base_offset(), batch.leader_epoch(), timestamp).unwrap();
    let (crc, bytes) = (i64::from(forged.checksum()), forged.bytes().to_vec());
    let changed = database
        .execute("UPDATE batch SET data = ?1, crc = ?2 WHERE id = ?3", rusqlite::params![bytes, crc, id]);
    assert_eq!(changed.unwrap(), 1);
}

/// Flips a bit of a stored value, as a bad disk does.
fn flip(data: &Path, value: &str) {
    let database = rusqlite::Connection::open(data.join("pubsub.sqlite")).unwrap();
    let mut select = database.prepare("SELECT id, data FROM batch").unwrap();
    let rows = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let mut flipped = 0;
    for row in rows {
        let (id, mut data) = row.unwrap();
        if let Some(at) = data.windows(value.len()).position(|window| window == value.as_bytes()) {
            data[at] ^= 1;
            flipped += database
                .execute("UPDATE batch SET data = ?1 WHERE id = ?2", rusqlite::params![data, id])
                .unwrap();
        }
    }
    assert_eq!(flipped, 1, "{value} is stored once");
}

async fn damaged_check(cluster: &Arc<Cluster>, topic: &Topic, damage: impl FnOnce(&Path)) -> Output {
    let leader = topic.leader().await;
    let victim = cluster.others(leader)[0];
    cluster.sigterm(victim).await.unwrap();
    damage(&cluster.place(victim).data);
    cluster.start_broker(victim);
    cluster.wait_broker_ready(victim).await;
    topic.wait_isr(leader, &cluster.ids()).await;
    run(cluster, &["check", &topic.name]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_replicas_equal_or_names_the_first_difference() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "checked", "rf=3").await;
    for n in 0..60 {
        topic.publish(1, format!("value-{n:03}")).await;
    }
    topic.equal_log(&cluster.ids()).await;
    let output = run(&cluster, &["check", &topic.name]).await;
    assert_success(&output);
    let forged = |data: &Path| forge(data, r#""value-037""#, r#""value-XXX""#);
    let output = damaged_check(&cluster, &topic, forged).await;
    let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "replicas differ: {shown}");
    assert!(shown.contains("37"), "the first difference, offset 37, is not named: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_flipped_bit_and_no_reader_is_given_it() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "flipped", "rf=3").await;
    for n in 0..60 {
        topic.publish(1, format!("value-{n:03}")).await;
    }
    topic.equal_log(&cluster.ids()).await;
    let output = damaged_check(&cluster, &topic, |data| flip(data, "value-037")).await;
    let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "a replica can't be read: {shown}");
    for id in cluster.ids() {
        let answer = topic.poll(id, "from_offset=0&max_records=1000&timeout_ms=1000").await.unwrap();
        assert!(!answer.text().contains("walue-037"), "broker {id} gave the damaged record: {answer}");
    }
}

async fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let output = run(cluster, &[arguments, &["-o", "json"]].concat()).await;
    assert_success(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_move_and_a_drained_broker_is_taken_away_without_losing_a_record() {
    let _alone = alone().await;
    let cluster = Arc::new(Cluster::ready(Settings::default()).await);
    cluster.add_broker(4);
    cluster.wait_broker_ready(4).await;
    let topic = Topic::create(&cluster, 1, "moved", "rf=2").await;
    topic.publish_many(1, (0..500).map(Value::from)).await;

    let grown = json(&cluster, &["topic", "alter", &topic.name, "--rf", "3"]).await;
    let partition = &grown["partitions"][0];
    assert_eq!(partition["isr"].as_array().unwrap().len(), 3, "{grown}");
    assert!(partition.get("adding").is_none() && partition.get("removing").is_none(), "{grown}");

    let moved = json(&cluster, &["topic", "move", &topic.name, "--to", "4,1,2"]).await;
    assert_eq!(moved["partitions"][0]["replicas"], serde_json::json!([4, 1, 2]));
    json(&cluster, &["topic", "elect", &topic.name, "--broker-id", "4"]).await;
    topic.publish_many(2, (500..600).map(Value::from)).await;

    let refused = run(&cluster, &["topic", "elect", &topic.name, "--unclean"]).await;
    assert_eq!(refused.status.code(), Some(2), "unclean without a confirmation: {}", text(&refused.stderr));
    let refused = run(&cluster, &["cluster", "drain", "9"]).await;
    assert!(text(&refused.stderr).contains("Unknown broker_id 9"), "{}", text(&refused.stderr));

    let drained = json(&cluster, &["cluster", "drain", "4", "--wait"]).await;
    assert_eq!((&drained["state"], &drained["holds"]), (&Value::from("drained"), &Value::from(0)));
    let refused = run(&cluster, &["cluster", "drain", "3"]).await;
    assert!(text(&refused.stderr).contains("has 3 replicas"), "{}", text(&refused.stderr));
    cluster.sigterm(4).await.unwrap();
    assert_eq!(topic.publish(1, "after").await, 600);
    assert_eq!(topic.equal_log(&[1, 2, 3]).await.len(), 601);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_file_are_created_guarded_and_followed_by_what_happens_to_them() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let (one, two) = (unique("one"), unique("two"));
    let mut follow = pubsub(&cluster, &["cluster", "events", "--follow", "--after", "0", "-o", "json"]);
    let mut follow = follow.spawn().unwrap();
    let mut events = BufReader::new(follow.stdout.take().unwrap()).lines();
    let file = cluster.dir().join("topics.json");
    let owned = serde_json::json!({"uid": "u1"});
    let list = serde_json::json!([{"name": one, "rf": 2, "owner": owned}, {"name": two, "partitions": 2}]);
    std::fs::write(&file, list.to_string()).unwrap();
    let file = file.to_str().unwrap();
    for outcome in ["created", "was there already"] {
        let output = run(&cluster, &["topic", "create-all", file]).await;
        assert_success(&output);
        assert_eq!(text(&output.stdout).matches(outcome).count(), 2, "{}", text(&output.stdout));
    }
    loop {
        let line = read_lines(&mut events, 1).await.remove(0);
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "topic_created" && event["topic"] == two.as_str() {
            assert_eq!(event["partitions"], 2, "{event}");
            break;
        }
    }
    follow.kill().await.unwrap();
    let shown = run(&cluster, &["cluster", "events", "--limit", "1000"]).await;
    assert_success(&shown);
    assert!(text(&shown.stdout).contains(&one), "{}", text(&shown.stdout));
    let other = ["topic", "alter", one.as_str(), "--owner-uid", "u2", "--max-record-bytes", "10"];
    let refused = run(&cluster, &other).await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("TOPIC_OWNED"), "{refused:?}");
    assert_success(&run(&cluster, &["topic", "alter", &one, "--max-record-bytes", "10"]).await);
    let described = run(&cluster, &["topic", "describe", &one]).await;
    assert!(text(&described.stdout).contains("10 bytes"), "{}", text(&described.stdout));
    let deletion = ["topic", "delete", one.as_str(), "--yes", "--if-empty", "--owner-uid", "u1"];
    assert_success(&run(&cluster, &deletion).await);
}

#[tokio::test]
async fn bench_measures_with_one_line_of_json() {
    let cluster = CLUSTER.get().await;
    let topic = unique("bench");
    assert_success(&run(&cluster, &["topic", "create", &topic, "--rf", "3"]).await);
    for mode in ["publish", "bulk", "poll"] {
        let output =
            run(&cluster, &["bench", mode, "--topic", &topic, "--clients", "2", "--seconds", "1"]).await;
        assert_success(&output);
        let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(figures.as_object().is_some_and(|members| !members.is_empty()), "{mode}: {figures}");
    }
    let missing = run(&cluster, &["bench", "publish", "--topic", "no-such-topic"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("does topic"), "{}", text(&missing.stderr));
}
