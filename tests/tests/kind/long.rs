//! What takes minutes: brokers that are replaced one after the other, and clusters that grow, shrink and go away.

use super::{figure, judge, pods, release, topic};
use pubsub_tests::brokers::Brokers;
use pubsub_tests::cluster::topic::unique;
use pubsub_tests::kind::release::ROLL_DEADLINE;
use pubsub_tests::kind::topics::{TopicObject, object};
use pubsub_tests::kind::witness::Witness;
use pubsub_tests::workload::load::Load;
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest time without any acknowledgement while brokers come and go.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The same when brokers go in order, and hand over first.
const ORDERLY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// For how long `Ready` may go on after the last broker answered: a minute, and what a busy machine adds to it.
const STALE_MAX: Duration = Duration::from_secs(80);

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
async fn without_brokers_ready_is_unknown_after_a_minute_and_comes_back_with_them() {
    let held = release().await;
    let (release, namespace) = (&held.release, &held.release.namespace);
    let (name, topic) = topic(release, "outage").await;
    let kept = topic.publish(1, "kept").await;
    let (known, late) = (TopicObject::named(namespace, &name), unique("late"));
    known.wait_cell("ISR", "3/3").await;
    let witness = Witness::of(release, &name);
    let began = Instant::now();
    namespace.call(["scale", "statefulset/pubsub-broker", "--replicas=0"]).run().await.unwrap();
    namespace.apply(&object(&late, &json!({}))).await.unwrap();
    known.wait_condition("Ready", "Unknown", "BrokersUnreachable").await;
    figure("Ready is Unknown after brokers were told to stop", began.elapsed());
    let late = TopicObject::named(namespace, &late);
    late.wait_condition("Ready", "Unknown", "BrokersUnreachable").await;
    assert_eq!(known.row().await.unwrap().cell("READY"), "Unknown");
    let began = Instant::now();
    namespace.call(["scale", "statefulset/pubsub-broker", "--replicas=3"]).run().await.unwrap();
    known.wait_condition("Ready", "True", "").await;
    late.wait_condition("Ready", "True", "").await;
    figure("Ready is True after brokers were started", began.elapsed());
    release.wait_ready().await;
    let log = topic.equal_log(&release.ids()).await;
    assert_eq!((log.len(), log[0].offset), (1, kept), "{log:?}");
    let seen = witness.testify().await;
    figure("Ready beside the brokers, an outage", seen);
    assert!(seen.stale < STALE_MAX, "Ready was kept: {seen:?}");
}
