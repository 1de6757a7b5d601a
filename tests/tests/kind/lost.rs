//! Processes, pods and nodes that are lost without a word.

use super::{figure, judge, release, topic};
use pubsub_tests::brokers::Brokers;
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::kind::release::{ROLL_DEADLINE, Release, at};
use pubsub_tests::kind::topics::TopicObject;
use pubsub_tests::kind::witness::Witness;
use pubsub_tests::kind::{node, process};
use pubsub_tests::workload::load::Load;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time without any acknowledgement.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Longest time for which `Ready` may lag behind the brokers.
const LAG_MAX: Duration = Duration::from_secs(15);
/// Topics that are made until one is led from where a test needs it.
const TOPICS_TRIED: usize = 8;

/// Publishes without a pause while a broker is lost by what `lose` does to it, and after its return.
async fn broker_lost_under_load(
    release: &Arc<Release>,
    fault: &str,
    victim: impl AsyncFnOnce(&Topic) -> u32,
    lose: impl AsyncFnOnce(u32),
) {
    let (name, topic) = topic(release, "lost").await;
    let object = TopicObject::named(&release.namespace, &name);
    let victim = victim(&topic).await;
    let (load, witness) = (Load::start(release, &topic, 4, 1), Witness::of(release, &name));
    load.progress(200).await;
    lose(victim).await;
    load.progress(200).await;
    release.namespace.wait(&format!("pod/{}", release.pod(victim)), "condition=Ready", ROLL_DEADLINE).await;
    release.wait_ready().await;
    topic.wait_isr(victim, &release.ids()).await;
    load.progress(100).await;
    judge(load, &topic, &release.ids(), fault, PAUSE_MAX).await;
    object.wait_cell("ISR", "3/3").await;
    object.wait_condition("Ready", "True", "").await;
    let seen = witness.testify().await;
    figure(&format!("Ready beside the brokers, {fault}"), seen);
    assert!(seen.lie < LAG_MAX, "Ready did not follow: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_the_controllers_process_is_killed() {
    let held = release().await;
    let release = &held.release;
    let controller = async |_: &Topic| release.controller().await;
    broker_lost_under_load(release, "the controller killed", controller, async |id| {
        process::signal(&release.namespace, &release.pod(id), "KILL").await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_the_leaders_process_is_killed() {
    let held = release().await;
    let release = &held.release;
    broker_lost_under_load(
        release,
        "the leader killed",
        async |topic| topic.leader().await,
        async |id| {
            process::signal(&release.namespace, &release.pod(id), "KILL").await.unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_the_leaders_pod_is_deleted_by_force() {
    let held = release().await;
    let release = &held.release;
    broker_lost_under_load(
        release,
        "the leader's pod deleted",
        async |topic| topic.leader().await,
        async |id| {
            let pod = release.pod_uid(id).await.unwrap();
            release.kill_pod(id).await;
            release.wait_replaced(id, &pod).await;
        },
    )
    .await;
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

/// A topic of three partitions, spread over three brokers with so many copies each, all of which it needs.
async fn spread(release: &Arc<Release>, copies: u32) -> String {
    let name = unique("copies");
    let spec = json!({"partitions": 3, "replicationFactor": copies, "minInSyncReplicas": copies});
    TopicObject::ready(&release.namespace, &name, &spec).await;
    name
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn nothing_acknowledged_is_lost_when_a_node_stops_and_topics_tell_the_truth_meanwhile() {
    let held = release().await;
    let release = &held.release;
    let namespace = &release.namespace;
    let (name, topic, victim, node_name) = topic_led_elsewhere(release).await;
    let names = [name, spread(release, 1).await, spread(release, 2).await];
    let [object, single, double] = [0, 1, 2].map(|index: usize| TopicObject::named(namespace, &names[index]));
    object.wait_cell("ISR", "3/3").await;
    let witnesses: Vec<Witness> = names.iter().map(|name| Witness::of(release, name)).collect();
    let load = Load::start(release, &topic, 4, 1);
    load.progress(200).await;

    let cut = Instant::now();
    node::cut(&node_name).await;
    object.wait_cell("ISR", "2/3").await;
    figure("the ISR column falls after a node stops", cut.elapsed());
    single.wait_condition("Ready", "False", "NoLeader").await;
    double.wait_condition("Ready", "False", "BelowMinISR").await;
    figure("Ready is False for topics that need that node", cut.elapsed());
    load.progress(200).await;
    object.wait_condition("Replicated", "False", "").await;
    object.wait_condition("Ready", "True", "").await;
    node::wait_lost(&node_name).await;

    node::start(&node_name).await;
    namespace.rolled_out("statefulset/pubsub-broker", ROLL_DEADLINE).await;
    release.wait_ready().await;
    let back = Instant::now();
    topic.wait_isr(victim, &release.ids()).await;
    object.wait_cell("ISR", "3/3").await;
    figure("the ISR column returns after the broker is ready", back.elapsed());
    load.progress(100).await;
    judge(load, &topic, &release.ids(), "a node stopped", PAUSE_MAX).await;
    for object in [object, single, double] {
        object.wait_condition("Replicated", "True", "").await;
        object.wait_condition("Ready", "True", "").await;
    }
    for witness in witnesses {
        let seen = witness.testify().await;
        figure("Ready beside the brokers, a node stopped", seen);
        assert!(seen.lie < LAG_MAX, "Ready did not follow: {seen:?}");
    }
}
