//! The chart and the operator in a real cluster: one release without values, used as people use it and broken as clusters break.
//! `make kind-test` sets everything up; the tests run one after the other.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use pubsub_tests::brokers::Brokers;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::kind::objects::Namespace;
use pubsub_tests::kind::release::{CRD, ROLL_DEADLINE, Release, at, forget};
use pubsub_tests::kind::topics::{TopicObject, object};
use pubsub_tests::kind::{Call, checkout, job, kubectl, node};
use pubsub_tests::workload::load::Load;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// Longest time from `helm install` without values to a cluster that works, once the nodes have the image.
const INSTALL_MAX: Duration = Duration::from_secs(60);
/// Longest time that a namespace may take to end after its release was uninstalled with topics left.
const NAMESPACE_END_MAX: Duration = Duration::from_secs(60);
/// Longest time without any acknowledgement when a pod or node goes without a word.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The same when brokers go in order, and hand over first.
const ORDERLY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Topics that are made until one is led from where a test needs it.
const TOPICS_TRIED: usize = 8;

const NAMESPACE: &str = "pubsub-test";
const OTHER_NAMESPACE: &str = "pubsub-left";

/// The release of all tests that do not remove it, made by the first one that asks.
static RELEASE: Mutex<Option<Arc<Release>>> = Mutex::const_new(None);

/// The release, for one test at a time.
struct Held<'a> {
    _place: MutexGuard<'a, Option<Arc<Release>>>,
    release: Arc<Release>,
}

async fn release() -> Held<'static> {
    let mut place = RELEASE.lock().await;
    if place.is_none() {
        forget(OTHER_NAMESPACE).await;
        forget(NAMESPACE).await;
        *place = Some(Release::install(NAMESPACE, &[]).await);
    }
    let release = Arc::clone(place.as_ref().unwrap());
    release.wait_ready().await;
    Held { _place: place, release }
}

/// A topic on three brokers, by a Topic object, with the workload's way to it.
async fn topic(release: &Arc<Release>, name: &str) -> (String, Topic) {
    let name = unique(name);
    let spec = json!({"partitions": 1, "replicationFactor": 3, "minInSyncReplicas": 2});
    TopicObject::ready(&release.namespace, &name, &spec).await;
    let topic = Topic::named(release, &name);
    topic.wait_isr(1, &release.ids()).await;
    (name, topic)
}

/// Checks what was seen under load against all replicas, and prints it.
async fn judge(load: Load, topic: &Topic, replicas: &[u32], fault: &str, pause_max: Duration) {
    let loaded = load.stop().await;
    loaded.report(fault);
    loaded.check(&topic.equal_log(replicas).await);
    let pause = loaded.longest_pause();
    assert!(pause < pause_max, "{fault}: nothing was acknowledged for {pause:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn every_program_of_the_image_runs_where_pods_are_restricted() {
    let namespace = Namespace::fresh("pubsub-image").await;
    for (command, argument) in
        [("/pubsub", "cluster"), ("/pubsub-broker", "BROKER_ID"), ("/pubsub-discovery", "DISCOVERY_PORT")]
    {
        let help = job::run(&namespace, command, &["--help"], &[]).await;
        assert!(help.contains(argument), "{command}: {help}");
    }
    namespace.delete(NAMESPACE_END_MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn a_release_without_values_is_ready_within_a_minute() {
    let held = release().await;
    let took = held.release.installed_in();
    eprintln!("installed in {took:?}");
    assert!(took < INSTALL_MAX, "it took {took:?}");
    assert_eq!(held.release.restarts().await.unwrap(), 0, "containers were started again");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn the_sample_topic_becomes_ready_and_its_columns_say_what_is() {
    let held = release().await;
    let namespace = &held.release.namespace;
    namespace.call(["apply", "-f", &checkout("manifests/samples/topic.yaml")]).run().await.unwrap();
    let orders = TopicObject::named(namespace, "orders");
    namespace.call(["wait", "--for=condition=Ready", "topic/orders", "--timeout=60s"]).run().await.unwrap();
    let (spec, described) = (orders.get().await.unwrap(), Topic::named(&held.release, "orders"));
    let leader = described.leader().await;
    orders.wait_status("isr", &json!("3/3")).await;
    let row = orders.row().await.unwrap();
    assert_eq!(row.cell("READY"), "True", "{row:?}");
    assert_eq!(row.cell("PARTS"), at(&spec, "/spec/partitions").as_u64().unwrap_or(1).to_string(), "{row:?}");
    assert_eq!((row.cell("RF"), row.cell("ISR")), ("3", "3/3"), "{row:?}");
    let shown = orders.get().await.unwrap();
    assert_eq!(at(&shown, "/status/partitions/0/leader"), &json!(leader), "{shown}");
    assert_eq!(at(&shown, "/status/observedGeneration"), at(&shown, "/metadata/generation"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn records_go_in_by_the_service_and_come_out_of_every_pod_by_its_name() {
    let held = release().await;
    let (name, _) = topic(&held.release, "named").await;
    let namespace = &held.release.namespace;
    // The image holds one text of many lines.
    let text = std::fs::read_to_string(checkout("LICENSE")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let publish = ["publish", &name, "--file", "/LICENSE", "--partition", "0", "--quiet"];
    job::pubsub(namespace, &held.release.service_url(), &publish).await;
    let most = lines.len().to_string();
    let subscribe = [
        "subscribe",
        &name,
        "--from",
        "earliest",
        "--max",
        &most,
        "--no-commit",
        "--format",
        "value",
        "--quiet",
    ];
    for id in held.release.ids() {
        let printed = job::pubsub(namespace, &held.release.inner_url(id), &subscribe).await;
        assert_eq!(printed.lines().collect::<Vec<_>>(), lines, "through broker {id}");
    }
}

/// Publishes without a pause while a pod is lost without a word, and after its return.
async fn pod_lost_under_load(release: &Arc<Release>, fault: &str, victim: impl AsyncFnOnce(&Topic) -> u32) {
    let (name, topic) = topic(release, "pod-lost").await;
    let object = TopicObject::named(&release.namespace, &name);
    let victim = victim(&topic).await;
    let load = Load::start(release, &topic, 4, 1);
    load.progress(200).await;
    let pod = release.pod_uid(victim).await.unwrap();
    release.kill_pod(victim).await;
    load.progress(200).await;
    release.wait_replaced(victim, &pod).await;
    release.wait_ready().await;
    topic.wait_isr(victim, &release.ids()).await;
    load.progress(100).await;
    judge(load, &topic, &release.ids(), fault, PAUSE_MAX).await;
    object.wait_status("isr", &json!("3/3")).await;
    object.wait_condition("Ready", "True", "").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_the_controllers_pod_is_killed() {
    let held = release().await;
    let release = &held.release;
    pod_lost_under_load(release, "the controller's pod", async |_| release.controller().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_the_leaders_pod_is_killed() {
    let held = release().await;
    pod_lost_under_load(&held.release, "the leader's pod", async |topic| topic.leader().await).await;
}

/// A topic whose leader is on another node than the operator, with that leader: what stops with the node is not its witness too.
async fn topic_led_elsewhere(release: &Arc<Release>) -> (String, Topic, u32, String) {
    let operators = release.namespace.list("pods", "app.kubernetes.io/component=operator").await.unwrap();
    let taken: Vec<&str> = operators.iter().filter_map(|pod| at(pod, "/spec/nodeName").as_str()).collect();
    for _ in 0..TOPICS_TRIED {
        let (name, topic) = topic(release, "node-lost").await;
        let leader = topic.leader().await;
        let node = release.node_of(leader).await;
        if !taken.contains(&node.as_str()) {
            return (name, topic, leader, node);
        }
    }
    panic!("{TOPICS_TRIED} topics are all led from the operator's node")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_a_node_stops_and_the_topic_tells_the_truth_meanwhile() {
    let held = release().await;
    let release = &held.release;
    let (name, topic, victim, node_name) = topic_led_elsewhere(release).await;
    let object = TopicObject::named(&release.namespace, &name);
    object.wait_status("isr", &json!("3/3")).await;
    let load = Load::start(release, &topic, 4, 1);
    load.progress(200).await;
    node::stop(&node_name).await;
    load.progress(200).await;
    object.wait_status("isr", &json!("2/3")).await;
    assert_eq!(object.row().await.unwrap().cell("ISR"), "2/3");
    object.wait_condition("Replicated", "False", "").await;
    object.wait_condition("Ready", "True", "").await;
    node::start(&node_name).await;
    release.namespace.rolled_out("statefulset/pubsub-broker", ROLL_DEADLINE).await;
    release.wait_ready().await;
    topic.wait_isr(victim, &release.ids()).await;
    load.progress(100).await;
    judge(load, &topic, &release.ids(), "a node", PAUSE_MAX).await;
    object.wait_status("isr", &json!("3/3")).await;
    object.wait_condition("Replicated", "True", "").await;
    object.wait_condition("Ready", "True", "").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn publishing_goes_on_while_brokers_become_five_and_three_again() {
    let held = release().await;
    let release = &held.release;
    let (name, topic) = topic(release, "scaled").await;
    let three = release.ids();
    let load = Load::start(release, &topic, 2, 1);
    load.progress(100).await;
    let before = pods(release, &three).await;
    release.scale(5).await;
    load.progress(100).await;
    assert_eq!(pods(release, &three).await, before, "scaling restarted brokers");
    release.scale(3).await;
    load.progress(100).await;
    judge(load, &topic, &three, "3 to 5 to 3 brokers", PAUSE_MAX).await;
    TopicObject::named(&release.namespace, &name).wait_condition("Ready", "True", "").await;
}

/// Returns what tells brokers' pods from those before them.
async fn pods(release: &Release, ids: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    for id in ids {
        found.push(release.pod_uid(*id).await.unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn a_rolling_restart_under_load_loses_nothing_and_pauses_briefly() {
    let held = release().await;
    let release = &held.release;
    let (_, topic) = topic(release, "rolled").await;
    let load = Load::start(release, &topic, 4, 1);
    load.progress(100).await;
    let before = pods(release, &release.ids()).await;
    release.namespace.call(["rollout", "restart", "statefulset/pubsub-broker"]).run().await.unwrap();
    release.namespace.rolled_out("statefulset/pubsub-broker", ROLL_DEADLINE).await;
    release.wait_ready().await;
    let after = pods(release, &release.ids()).await;
    assert!(before.iter().all(|pod| !after.contains(pod)), "not every broker was restarted");
    load.progress(100).await;
    judge(load, &topic, &release.ids(), "a rolling restart", ORDERLY_PAUSE_MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn an_upgrade_under_load_loses_nothing_and_pauses_briefly() {
    let held = release().await;
    let release = &held.release;
    let (_, topic) = topic(release, "upgraded").await;
    let load = Load::start(release, &topic, 4, 1);
    load.progress(100).await;
    release.upgrade(&["--set-string", "broker.podAnnotations.upgraded=yes"]).await;
    load.progress(100).await;
    judge(load, &topic, &release.ids(), "helm upgrade", ORDERLY_PAUSE_MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn the_charts_own_test_passes() {
    let held = release().await;
    let test = ["test", "pubsub", "-n", &held.release.namespace.name, "--timeout", "3m"];
    Call::of("helm", test).within(Duration::from_secs(200)).run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn a_namespace_ends_within_a_minute_after_its_release_was_uninstalled_with_topics_left() {
    let _held = release().await;
    let release = Release::install(OTHER_NAMESPACE, &["--set", "crds.install=false"]).await;
    for policy in ["Delete", "DeleteIfEmpty", "Retain"] {
        let spec = json!({"deletionPolicy": policy});
        TopicObject::ready(&release.namespace, &format!("left-{}", policy.to_lowercase()), &spec).await;
    }
    release.uninstall().await;
    let took = release.namespace.delete(NAMESPACE_END_MAX).await;
    eprintln!("the namespace ended in {took:?}");
    assert!(kubectl(["get", CRD]).run().await.is_ok(), "the resource definition is kept");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn a_topic_that_somebody_deleted_behind_its_object_is_made_again() {
    let held = release().await;
    let (name, _) = topic(&held.release, "drifted").await;
    let object = TopicObject::named(&held.release.namespace, &name);
    let before = object.get().await.unwrap();
    job::pubsub(&held.release.namespace, &held.release.service_url(), &["topic", "delete", &name, "--yes"])
        .await;
    eventually("the topic is made again", Duration::from_secs(60), async || {
        let now = object.get().await?;
        let (id, ready) = (at(&now, "/status/topicId"), object.condition("Ready").await?);
        let anew = id != at(&before, "/status/topicId") && !id.is_null();
        if anew && ready["status"] == "True" { Ok(()) } else { bail!("{now}") }
    })
    .await;
    let selector = format!("involvedObject.name={name}");
    let events = held.release.namespace.call(["get", "events", "--field-selector", &selector, "-o", "json"]);
    let events = events.json().await.unwrap();
    assert!(!events["items"].as_array().unwrap().is_empty(), "nobody was told");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn of_two_objects_for_one_topic_the_older_owns_it_and_the_younger_follows_when_it_goes() {
    let held = release().await;
    let namespace = &held.release.namespace;
    let (first, second, shared) = (unique("first"), unique("second"), unique("shared"));
    let spec = json!({"topicName": shared, "deletionPolicy": "Retain"});
    let older = TopicObject::ready(namespace, &first, &spec).await;
    namespace.apply(&object(&second, &spec)).await.unwrap();
    let younger = TopicObject::named(namespace, &second);
    let refused = younger.wait_condition("Accepted", "False", "NameConflict").await;
    assert!(refused["message"].as_str().unwrap().contains(&first), "it does not name the other: {refused}");
    younger.wait_condition("Ready", "False", "").await;
    older.wait_condition("Ready", "True", "").await;
    namespace.remove(&older.object()).await;
    namespace.wait_gone(&older.object(), Duration::from_secs(60)).await;
    younger.wait_condition("Ready", "True", "").await;
}

/// Returns whether the brokers have a topic.
async fn exists(release: &Arc<Release>, name: &str) -> anyhow::Result<bool> {
    let url = format!("{}/admin/topics/{name}", release.url(1));
    let answer = pubsub_tests::http::Http::new().get(&url).await?;
    match answer.status {
        200 => Ok(true),
        404 => Ok(false),
        _ => bail!("{answer}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn a_deleted_object_takes_its_topic_along_or_not_as_its_policy_says() {
    let held = release().await;
    let (release, namespace) = (&held.release, &held.release.namespace);
    for (policy, kept) in [("Delete", false), ("Retain", true), ("DeleteIfEmpty", false)] {
        let name = unique("policy");
        let object = TopicObject::ready(namespace, &name, &json!({"deletionPolicy": policy})).await;
        namespace.remove(&object.object()).await;
        namespace.wait_gone(&object.object(), Duration::from_secs(60)).await;
        assert_eq!(exists(release, &name).await.unwrap(), kept, "after {policy}");
    }
    let name = unique("full");
    let full = TopicObject::ready(namespace, &name, &json!({"deletionPolicy": "DeleteIfEmpty"})).await;
    Topic::named(release, &name).publish(1, "a record").await;
    namespace.remove(&full.object()).await;
    full.wait_condition("Ready", "False", "").await;
    assert!(exists(release, &name).await.unwrap(), "a topic with records is kept");
    let patch = r#"{"spec":{"deletionPolicy":"Delete"}}"#;
    namespace.call(["patch", &full.object(), "--type=merge", "-p", patch]).run().await.unwrap();
    namespace.wait_gone(&full.object(), Duration::from_secs(60)).await;
    assert!(!exists(release, &name).await.unwrap(), "after Delete");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn what_changed_while_the_operator_was_down_is_done_when_it_is_back() {
    let held = release().await;
    let (release, namespace) = (&held.release, &held.release.namespace);
    let (grows, goes, comes) = (unique("grows"), unique("goes"), unique("comes"));
    let growing = TopicObject::ready(namespace, &grows, &json!({"partitions": 1})).await;
    let going = TopicObject::ready(namespace, &goes, &json!({})).await;
    scale_operator(namespace, 0).await;
    namespace.apply(&object(&grows, &json!({"partitions": 3}))).await.unwrap();
    namespace.apply(&object(&comes, &json!({}))).await.unwrap();
    namespace.remove(&going.object()).await;
    scale_operator(namespace, 1).await;
    growing.wait_status("partitionCount", &json!(3)).await;
    TopicObject::named(namespace, &comes).wait_ready().await;
    namespace.wait_gone(&going.object(), Duration::from_secs(60)).await;
    assert!(!exists(release, &goes).await.unwrap());
}

async fn scale_operator(namespace: &Namespace, pods: u32) {
    let replicas = format!("--replicas={pods}");
    namespace.call(["scale", "deployment/pubsub-operator", &replicas]).run().await.unwrap();
    namespace.rolled_out("deployment/pubsub-operator", ROLL_DEADLINE).await;
    eventually("the operator has so many pods", Duration::from_secs(60), async || {
        let there = namespace.list("pods", "app.kubernetes.io/component=operator").await?;
        if there.len() == usize::try_from(pods)? { Ok(()) } else { bail!("there are {}", there.len()) }
    })
    .await;
}
