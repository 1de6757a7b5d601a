//! Consumer groups with real consumers and brokers: members come, die, stop and wake up, and so do coordinators.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, bail, ensure};
use pubsub_core::group::Reader;
use pubsub_core::group::coordinator::partition_of;
use pubsub_core::ids::GroupId;
use pubsub_core::limits::{GROUP_SESSION_MS, GROUPS_TOPIC};
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::process::binary;
use pubsub_tests::cluster::shared::{Shared, alone};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::{Content, Http};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

static CLUSTER: Shared = Shared::new(Settings::default);

const SESSION: Duration = Duration::from_millis(GROUP_SESSION_MS);
/// Longest wait for what takes a session to end, and the next heartbeats after it.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Lines of a consumer that wait to be looked at: more than any test has it print.
const LINES_MAX: usize = 10_000;

/// A `pubsub subscribe` that reads for a group.
struct Consumer {
    child: Child,
    out: mpsc::Receiver<String>,
    err: mpsc::Receiver<String>,
    seen: Vec<String>,
    said: Vec<String>,
}

fn lines(from: impl AsyncRead + Unpin + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Consumer {
    fn start(cluster: &Cluster, topic: &Topic, group: &str, name: &str) -> Self {
        let arguments = ["subscribe", &topic.name, "--group-id", group, "--consumer-id", name, "--standby"];
        let mut child = Command::new(binary("pubsub"))
            .args(arguments)
            .args(["--format", "value"])
            .env_remove("BROKER_API")
            .env("PUBSUB_BROKERS", cluster.urls().join(","))
            .current_dir(cluster.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, err, seen: vec![], said: vec![] }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Returns every value printed so far.
    fn seen(&mut self) -> &[String] {
        while let Ok(line) = self.out.try_recv() {
            self.seen.push(line);
        }
        &self.seen
    }

    /// Returns everything said to the user so far.
    fn said(&mut self) -> String {
        while let Ok(line) = self.err.try_recv() {
            self.said.push(line);
        }
        self.said.join("\n")
    }
}

struct Group<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Group<'_> {
    async fn describe(&self, via: u32) -> anyhow::Result<Value> {
        let url = format!("{}/groups/{}", self.cluster.url(via), self.name);
        let answer = Http::new().try_send("GET", &url, Content::default(), Duration::from_secs(8)).await?;
        ensure!(answer.status == 200, "{answer}");
        Ok(answer.json())
    }

    /// Returns which partitions each member reads.
    async fn assigned(&self, via: u32) -> anyhow::Result<BTreeMap<String, BTreeSet<u64>>> {
        let described = self.describe(via).await?;
        let members = described["members"].as_array().context("members")?.iter().map(|member| {
            let assigned = member["assigned"].as_array().into_iter().flatten();
            let partitions = assigned.filter_map(|part| part["partition"].as_u64()).collect();
            (member["consumer_id"].as_str().unwrap_or_default().to_owned(), partitions)
        });
        Ok(members.collect())
    }

    async fn wait_shares(&self, via: u32, shares: &[(&str, usize)], deadline: Duration) {
        let wanted: BTreeMap<String, usize> =
            shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let what = format!("the members of {} read {wanted:?} partitions", self.name);
        eventually(&what, deadline, async || {
            let assigned = self.assigned(via).await?;
            let all: Vec<u64> = assigned.values().flatten().copied().collect();
            let once: BTreeSet<u64> = all.iter().copied().collect();
            assert_eq!(all.len(), once.len(), "a partition has two members: {assigned:?}");
            let found: BTreeMap<String, usize> =
                assigned.iter().map(|(name, partitions)| (name.clone(), partitions.len())).collect();
            if found == wanted { Ok(()) } else { bail!("they read {assigned:?}") }
        })
        .await;
    }

    /// Returns what is committed in each partition.
    async fn committed(&self, via: u32) -> anyhow::Result<BTreeMap<u64, i64>> {
        let described = self.describe(via).await?;
        let partitions = described["partitions"].as_array().context("partitions")?.iter();
        Ok(partitions
            .filter_map(|part| Some((part["partition"].as_u64()?, part["committed"].as_i64()?)))
            .collect())
    }
}

/// Publishes so many values to each partition; values are unique.
async fn publish(topic: &Topic, via: u32, partitions: u32, count: u32, mark: &str) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for partition in 0..partitions {
        let values: Vec<String> = (0..count).map(|no| format!("{mark}.{partition}.{no}")).collect();
        let records: Vec<Value> = values.iter().map(|value| json!({"value": value})).collect();
        let body = Content::json(json!({"records": records}).to_string());
        topic.post(via, &format!("?partition={partition}"), body).await.unwrap().expect(200);
        published.extend(values);
    }
    published
}

async fn wait_seen(consumers: &mut [&mut Consumer], values: &BTreeSet<String>) {
    eventually("every record is printed by a consumer", TAKEN_OVER, async || {
        let seen: BTreeSet<String> = consumers.iter_mut().flat_map(|one| one.seen().to_vec()).collect();
        let missing: Vec<_> = values.difference(&seen).take(3).collect();
        if missing.is_empty() { Ok(()) } else { bail!("{missing:?} and perhaps more are missing") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_consumer_takes_over_from_one_that_is_killed() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "shared", "rf=3&partitions=4").await;
    let group = Group { cluster: &cluster, name: unique("g") };
    let mut one = Consumer::start(&cluster, &topic, &group.name, "one");
    let mut two = Consumer::start(&cluster, &topic, &group.name, "two");
    group.wait_shares(1, &[("one", 2), ("two", 2)], TAKEN_OVER).await;
    let mut values = publish(&topic, 1, 4, 10, "a").await;
    wait_seen(&mut [&mut one, &mut two], &values).await;
    one.child.start_kill().unwrap();
    let killed = Instant::now();
    let mut three = Consumer::start(&cluster, &topic, &group.name, "three");
    values.extend(publish(&topic, 2, 4, 10, "b").await);
    group.wait_shares(3, &[("two", 2), ("three", 2)], TAKEN_OVER).await;
    eprintln!("taken over {:?} after the kill", killed.elapsed());
    wait_seen(&mut [&mut one, &mut two, &mut three], &values).await;
    eventually("everything is committed", TAKEN_OVER, async || {
        let committed = group.committed(2).await?;
        let all = committed.len() == 4 && committed.values().all(|offset| *offset == 19);
        if all { Ok(()) } else { bail!("{committed:?}") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_interrupted_leaves_its_group() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "left", "rf=3").await;
    let group = Group { cluster: &cluster, name: unique("g") };
    let mut one = Consumer::start(&cluster, &topic, &group.name, "one");
    group.wait_shares(1, &[("one", 1)], TAKEN_OVER).await;
    let _two = Consumer::start(&cluster, &topic, &group.name, "two");
    group.wait_shares(1, &[("one", 1), ("two", 0)], TAKEN_OVER).await;
    let asked = Instant::now();
    one.signal(Signal::INT);
    group.wait_shares(2, &[("two", 1)], TAKEN_OVER).await;
    let passed = asked.elapsed();
    assert!(passed < SESSION / 2, "the next consumer waited {passed:?}; {}", one.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_or_set_back_when_the_coordinator_is_killed() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "coordinated", "rf=3&partitions=2").await;
    let name = of_first_partition().next().unwrap();
    let group = Group { cluster: &cluster, name };
    let mut one = Consumer::start(&cluster, &topic, &group.name, "one");
    let mut two = Consumer::start(&cluster, &topic, &group.name, "two");
    group.wait_shares(1, &[("one", 1), ("two", 1)], TAKEN_OVER).await;
    let coordinator = Topic::named(&cluster, GROUPS_TOPIC).leader().await;
    let via = cluster.others(coordinator)[0];
    let mut values = publish(&topic, via, 2, 20, "a").await;
    wait_seen(&mut [&mut one, &mut two], &values).await;
    cluster.kill9(coordinator);
    let mut last: BTreeMap<u64, i64> = BTreeMap::new();
    for mark in ["b", "c", "d"] {
        let published = eventually("publishes go on", TAKEN_OVER, async || {
            let body = Content::json(json!({"value": format!("{mark}.x")}).to_string());
            let answer = topic.post(via, "?partition=0", body).await?;
            ensure!(answer.status == 200, "{answer}");
            Ok(format!("{mark}.x"))
        })
        .await;
        values.insert(published);
        values.extend(publish(&topic, via, 2, 10, mark).await);
        wait_seen(&mut [&mut one, &mut two], &values).await;
        let committed =
            eventually("positions are told", TAKEN_OVER, async || group.committed(via).await).await;
        for (partition, offset) in &last {
            assert!(committed[partition] >= *offset, "{last:?} became {committed:?}");
        }
        last = committed;
    }
    let assigned = group.assigned(via).await.unwrap();
    assert_eq!(assigned.len(), 2, "both are members of the next coordinator: {assigned:?}");
    for consumer in [&mut one, &mut two] {
        let twice = consumer.seen().len() - consumer.seen().iter().collect::<BTreeSet<_>>().len();
        assert_eq!(twice, 0, "a session goes on where it was: {}", consumer.said());
    }
    cluster.start_broker(coordinator);
    cluster.wait_broker_ready(coordinator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zombie_consumer_commit() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "zombie", "rf=3").await;
    let group = Group { cluster: &cluster, name: unique("g") };
    let mut one = Consumer::start(&cluster, &topic, &group.name, "one");
    group.wait_shares(1, &[("one", 1)], TAKEN_OVER).await;
    let first = publish(&topic, 1, 1, 5, "a").await;
    wait_seen(&mut [&mut one], &first).await;
    let epoch = group.describe(1).await.unwrap()["epoch"].clone();
    one.signal(Signal::STOP);
    let second = publish(&topic, 1, 1, 5, "b").await;
    let mut two = Consumer::start(&cluster, &topic, &group.name, "two");
    group.wait_shares(1, &[("two", 1)], TAKEN_OVER).await;
    let third = publish(&topic, 1, 1, 5, "c").await;
    wait_seen(&mut [&mut two], &second.union(&third).cloned().collect()).await;
    let committed = async |offset| {
        eventually("the new owner has committed", TAKEN_OVER, async || {
            let committed = group.committed(2).await?;
            if committed.get(&0) == Some(&offset) { Ok(()) } else { bail!("{committed:?}") }
        })
        .await;
    };
    committed(14).await;
    let late = async |member_epoch: &Value| {
        let url = format!("{}/commit", cluster.url(3));
        let body = json!({
            "topic": topic.name, "group_id": group.name, "consumer_id": "one", "offset": 9, "member_epoch": member_epoch,
        });
        Http::new().post_json(&url, &body).await.unwrap().expect_problem(409, "MEMBER_FENCED");
    };
    late(&epoch).await;
    one.signal(Signal::CONT);
    group.wait_shares(3, &[("one", 0), ("two", 1)], TAKEN_OVER).await;
    late(&epoch).await;
    two.signal(Signal::INT);
    group.wait_shares(2, &[("one", 1)], TAKEN_OVER).await;
    // It is the owner again, but not in the epoch that it had when it stopped.
    late(&epoch).await;
    committed(14).await;
    let again: Vec<String> = one.seen().iter().filter(|value| !first.contains(*value)).cloned().collect();
    assert!(again.iter().all(|value| second.contains(value)), "{again:?} is finished by another");
}

/// Returns the names of groups whose coordinator is the one that the harness finds: the leader of partition 0.
fn of_first_partition() -> impl Iterator<Item = String> {
    let first = |name: &String| partition_of(&Reader::Group(GroupId::try_from(name.clone()).unwrap())) == 0;
    std::iter::repeat_with(|| unique("g")).filter(first)
}

/// Commits offset after offset for a group without members, each until it is acknowledged.
async fn commit_up_to(urls: Vec<String>, topic: String, group: String, end: u32) {
    for offset in 0..end {
        let body = json!({"topic": topic, "group_id": group, "offset": offset});
        eventually("a commit is taken", TAKEN_OVER, async || {
            let mut last = None;
            for url in &urls {
                let answer = Http::new().post_json(&format!("{url}/commit"), &body).await;
                match answer {
                    Ok(answer) if answer.status == 200 => return Ok(()),
                    other => last = Some(format!("{other:?}")),
                }
            }
            bail!("{last:?}")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_groups_is_cut_and_gives_everything_back() {
    const COMMITS: u32 = 700;
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "often", "rf=3").await;
    publish(&topic, 1, 1, COMMITS, "a").await;
    let groups: Vec<Group<'_>> =
        of_first_partition().take(6).map(|name| Group { cluster: &cluster, name }).collect();
    let internal = Topic::named(&cluster, GROUPS_TOPIC);
    let start = async |via: u32| {
        let url = format!("{}/replicas/{GROUPS_TOPIC}", cluster.url(via));
        let answer = Http::new().try_send("GET", &url, Content::default(), Duration::from_secs(8)).await?;
        ensure!(answer.status == 200, "{answer}");
        let part = answer.json()["partitions"][0].clone();
        let offset = |name: &str| part[name].as_u64().with_context(|| format!("{name} in {part}"));
        Ok((offset("log_start")?, offset("log_end")?))
    };
    let work = LocalSet::new();
    for group in &groups {
        let (topic, group) = (topic.name.clone(), group.name.clone());
        work.spawn_local(commit_up_to(cluster.urls(), topic, group, COMMITS));
    }
    let loss = async {
        eventually("the log is cut", Duration::from_secs(60), async || {
            let (start, end) = start(2).await?;
            if start > 0 { Ok(()) } else { bail!("it ends at {end}") }
        })
        .await;
        let coordinator = internal.leader().await;
        cluster.kill9(coordinator);
        coordinator
    };
    let (coordinator, ()) = tokio::join!(loss, work);
    let via = cluster.others(coordinator)[0];
    let (start, end) = eventually("the internal topic is shown", TAKEN_OVER, async || start(via).await).await;
    assert!(end - start < 3_500, "of {end} records {} are kept", end - start);
    cluster.start_broker(coordinator);
    cluster.wait_broker_ready(coordinator).await;
    for group in &groups {
        let committed =
            eventually("positions are told", TAKEN_OVER, async || group.committed(coordinator).await).await;
        assert_eq!(committed, BTreeMap::from([(0, i64::from(COMMITS) - 1)]), "{}", group.name);
    }
}

async fn reset(cluster: &Cluster, via: u32, group: &str, body: &Value) -> pubsub_tests::http::Answer {
    let url = format!("{}/groups/{group}/reset", cluster.url(via));
    Http::new().post_json(&url, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_reads_for_begins_where_it_is_told_to() {
    let _alone = alone().await;
    let cluster = CLUSTER.exclusive().await;
    let topic = Topic::create(&cluster, 1, "reset", "rf=3&partitions=2").await;
    publish(&topic, 1, 2, 10, "a").await;
    topic.settle().await;
    let group = Group { cluster: &cluster, name: of_first_partition().next().unwrap() };
    topic.subscribe(1, &group.name, "c").await.unwrap().expect(200);
    topic.commit(2, &group.name, "c", 5).await.unwrap().expect(200);
    let earliest = json!({"topic": topic.name, "to": "earliest"});
    for id in cluster.ids() {
        let problem =
            reset(&cluster, id, &group.name, &earliest).await.expect_problem(409, "GROUP_NOT_EMPTY");
        assert!(problem["detail"].as_str().unwrap().contains("stop them"), "{problem}");
        let dry = json!({"to": "latest", "dry_run": true});
        reset(&cluster, id, &group.name, &dry).await.expect_problem(409, "GROUP_NOT_EMPTY");
    }
    let leave = json!({"topic": topic.name, "group_id": group.name, "consumer_id": "c"});
    let unsubscribe = format!("{}/unsubscribe", cluster.url(3));
    Http::new().post_json(&unsubscribe, &leave).await.unwrap().expect(200);
    let dry = json!({"topic": topic.name, "to": "latest", "dry_run": true});
    let shown = reset(&cluster, 2, &group.name, &dry).await.expect(200);
    assert_eq!(
        (&shown["partitions"][0]["before"], &shown["partitions"][1]["next_offset"]),
        (&json!(5), &json!(10))
    );
    assert_eq!(group.committed(1).await.unwrap(), BTreeMap::from([(0, 5)]), "nothing was changed");
    let stamp = topic.poll(1, "partition=1&from_offset=0&max_records=1").await.unwrap().expect(200);
    let stamp = stamp["records"][0]["ts_ms"].as_i64().unwrap();
    for (via, body, expected) in [
        (1, earliest.clone(), [-1, -1]),
        (2, json!({"to": "latest"}), [9, 9]),
        (3, json!({"topic": topic.name, "partitions": [1], "to": 4}), [9, 3]),
        (1, json!({"topic": topic.name, "partitions": [0], "to": "10"}), [9, 3]),
        (2, json!({"topic": topic.name, "to": format!("timestamp:{}", stamp + 60_000)}), [9, 9]),
        (3, json!({"topic": topic.name, "partitions": [1, 1], "to": format!("timestamp:{stamp}")}), [9, -1]),
    ] {
        let answer = reset(&cluster, via, &group.name, &body).await.expect(200);
        let expected = BTreeMap::from([(0, expected[0]), (1, expected[1])]);
        for id in cluster.ids() {
            assert_eq!(group.committed(id).await.unwrap(), expected, "broker {id} after {body}: {answer}");
        }
    }
    for (body, status, code) in [
        (json!({"topic": topic.name, "to": 11}), 422, "OFFSET_OUT_OF_RANGE"),
        (json!({"topic": topic.name, "to": "never"}), 422, "VALIDATION_FAILED"),
        (json!({"topic": topic.name, "to": -1}), 422, "VALIDATION_FAILED"),
        (json!({"topic": topic.name}), 422, "VALIDATION_FAILED"),
        (json!({"partitions": [0], "to": "latest"}), 422, "VALIDATION_FAILED"),
        (json!({"topic": topic.name, "partitions": [7], "to": "latest"}), 404, "PARTITION_NOT_FOUND"),
        (json!({"topic": unique("none"), "to": "latest"}), 404, "TOPIC_NOT_FOUND"),
    ] {
        reset(&cluster, 2, &group.name, &body).await.expect_problem(status, code);
    }
    reset(&cluster, 1, &unique("none"), &earliest).await.expect_problem(404, "GROUP_NOT_FOUND");
    let coordinator = Topic::named(&cluster, GROUPS_TOPIC).leader().await;
    let via = cluster.others(coordinator)[0];
    reset(&cluster, via, &group.name, &json!({"topic": topic.name, "to": 7})).await.expect(200);
    cluster.kill9(coordinator);
    let committed =
        eventually("the next coordinator tells", TAKEN_OVER, async || group.committed(via).await).await;
    assert_eq!(committed, BTreeMap::from([(0, 6), (1, 6)]), "what was answered is kept");
    let body = topic.poll(via, &format!("group_id={}&consumer_id=d&partition=1", group.name)).await.unwrap();
    assert_eq!(body.expect(200)["records"][0]["offset"], 7);
    cluster.start_broker(coordinator);
    cluster.wait_broker_ready(coordinator).await;
}
