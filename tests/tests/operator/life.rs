//! Operators and brokers that come and go.

use super::{CLUSTER, ask, described, space};
use anyhow::bail;
use pubsub_tests::apiserver::{Operator, Space, TOPIC_DEADLINE};
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::unique;
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::Http;
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

/// Waits until somebody of that name holds the Lease.
async fn held_by(space: &Space, name: &str) {
    eventually(&format!("{name} holds the lease"), TOPIC_DEADLINE, async || {
        let holder = space.holder().await?;
        if holder == name { Ok(()) } else { bail!("{holder} holds it") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn without_brokers_ready_is_unknown_and_comes_back_with_them() {
    let space = space("outage").await;
    let cluster = Cluster::ready(Settings::default()).await;
    let _operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_OBSERVATION_SECONDS", "2")]);
    let topic = unique("outage");
    space.apply("t", &json!({"topicName": topic})).await.unwrap();
    space.ready("t").await;
    for id in cluster.ids() {
        cluster.kill9(id);
    }
    let down = space.until("t", "Ready", "Unknown", "BrokersUnreachable").await;
    assert!(down.status.unwrap().isr.is_some(), "what was seen last is still shown");
    space.apply("late", &json!({"topicName": unique("late")})).await.unwrap();
    space.until("late", "Ready", "Unknown", "BrokersUnreachable").await;
    for id in cluster.ids() {
        cluster.start_broker(id);
    }
    space.ready("t").await;
    space.ready("late").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn a_replica_that_is_down_shows_in_the_isr_at_once() {
    let space = space("replica").await;
    let cluster = Cluster::ready(Settings::default()).await;
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    space.apply("t", &json!({"topicName": unique("replica"), "replicationFactor": 3})).await.unwrap();
    space.until("t", "Replicated", "True", "Replicated").await;
    cluster.kill9(3);
    let reduced = space.until("t", "Replicated", "False", "ReplicaDown").await;
    assert_eq!(reduced.status.unwrap().isr.as_deref(), Some("2/3"));
    space.ready("t").await;
    cluster.start_broker(3);
    let whole = space.until("t", "Replicated", "True", "Replicated").await;
    assert_eq!(whole.status.unwrap().isr.as_deref(), Some("3/3"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn a_topic_is_let_go_once_its_cluster_is_gone_for_good() {
    let space = space("orphan").await;
    let cluster = Cluster::ready(Settings::default()).await;
    let mut operator =
        Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_DELETION_DEADLINE_SECONDS", "8")]);
    for name in ["late", "orphan"] {
        space.apply(name, &json!({"topicName": unique(name)})).await.unwrap();
        space.ready(name).await;
    }
    for id in cluster.ids() {
        cluster.kill9(id);
    }
    let began = Instant::now();
    space.delete("late").await.unwrap();
    space.gone("late").await;
    assert!(
        began.elapsed() >= Duration::from_secs(7),
        "brokers had time to come back: {:?}",
        began.elapsed()
    );
    assert!(space.event("late", "DeletionDeadline").await.contains("8 s"));
    operator.process().signal(Signal::TERM).unwrap();
    operator.process().wait_ended(Duration::from_secs(10)).await.unwrap();
    // No StatefulSet of that name is there, and the deadline is far away.
    let _operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_STATEFULSET", "pubsub-broker")]);
    space.delete("orphan").await.unwrap();
    space.gone("orphan").await;
    space.event("orphan", "Orphaned").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn what_happens_while_no_operator_runs_is_made_good_afterwards() {
    let (space, cluster) = (space("away").await, CLUSTER.get().await);
    let mut operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let (changed, deleted, drifted, fresh) =
        (unique("changed"), unique("deleted"), unique("drifted"), unique("fresh"));
    for (name, topic) in [("changed", &changed), ("deleted", &deleted), ("drifted", &drifted)] {
        space.apply(name, &json!({"topicName": topic})).await.unwrap();
        space.ready(name).await;
    }
    operator.process().signal(Signal::TERM).unwrap();
    let status = operator.process().wait_ended(Duration::from_secs(10)).await.unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(space.holder().await.unwrap(), "", "the lease was given back");
    space.apply("changed", &json!({"topicName": changed, "partitions": 3})).await.unwrap();
    space.apply("fresh", &json!({"topicName": fresh})).await.unwrap();
    space.delete("deleted").await.unwrap();
    ask(&cluster, "PATCH", &format!("/admin/topics/{drifted}"), &json!({"retention_ms": 9_000})).await;
    let _operator = Operator::of(&space, "operator-1", &cluster, &[]);
    space.gone("deleted").await;
    assert_eq!(described(&cluster, &deleted).await, None);
    assert_eq!(space.ready("changed").await.status.unwrap().partition_count, Some(3));
    space.ready("fresh").await;
    space.event("drifted", "DriftCorrected").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn of_two_operators_one_acts_and_the_other_takes_over() {
    let (space, cluster) = (space("lease").await, CLUSTER.get().await);
    let settings = [("PUBSUB_LEASE_SECONDS", "5")];
    let first = Operator::of(&space, "operator-a", &cluster, &settings);
    held_by(&space, "operator-a").await;
    let mut second = Operator::of(&space, "operator-b", &cluster, &settings);
    space.apply("one", &json!({"topicName": unique("one")})).await.unwrap();
    space.ready("one").await;
    eventually("the second one stands by", TOPIC_DEADLINE, async || {
        let http = Http::new();
        let ready = http.get(&format!("{}/readyz", second.url)).await?.status;
        let metrics = http.get(&format!("{}/metrics", second.url)).await?.text();
        if ready == 200 && metrics.contains("pubsub_operator_leading 0") {
            Ok(())
        } else {
            bail!("{ready} {metrics}")
        }
    })
    .await;
    assert!(!second.log().contains("lease taken"));
    first.kill();
    let killed = Instant::now();
    held_by(&space, "operator-b").await;
    let taken = killed.elapsed();
    assert!(taken >= Duration::from_secs(3), "a holder that may be alive is waited for: {taken:?}");
    space.apply("two", &json!({"topicName": unique("two")})).await.unwrap();
    space.ready("two").await;
    let third = Operator::of(&space, "operator-c", &cluster, &settings);
    second.process().signal(Signal::TERM).unwrap();
    second.process().wait_ended(Duration::from_secs(10)).await.unwrap();
    held_by(&space, "operator-c").await;
    space.apply("three", &json!({"topicName": unique("three")})).await.unwrap();
    space.ready("three").await;
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn an_operator_that_is_frozen_for_longer_than_its_lease_does_not_act_on() {
    let (space, cluster) = (space("frozen").await, CLUSTER.get().await);
    let settings = [("PUBSUB_LEASE_SECONDS", "4")];
    let mut first = Operator::of(&space, "operator-a", &cluster, &settings);
    held_by(&space, "operator-a").await;
    first.process().signal(Signal::STOP).unwrap();
    let _second = Operator::of(&space, "operator-b", &cluster, &settings);
    held_by(&space, "operator-b").await;
    first.process().signal(Signal::CONT).unwrap();
    eventually("the first one notices", TOPIC_DEADLINE, async || {
        let log = first.log();
        if log.contains("lease lost") { Ok(()) } else { bail!("{log}") }
    })
    .await;
    space.apply("t", &json!({"topicName": unique("frozen")})).await.unwrap();
    space.ready("t").await;
    assert_eq!(space.holder().await.unwrap(), "operator-b");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn release_takes_the_finalizers_off_while_an_operator_runs() {
    let (space, cluster) = (space("release").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let topic = unique("release");
    space.apply("t", &json!({"topicName": topic})).await.unwrap();
    space.ready("t").await;
    Operator::release(&space, "uninstall").await;
    assert_eq!(space.get("t").await.unwrap().metadata.finalizers, None);
    assert_eq!(space.holder().await.unwrap(), "uninstall-release");
    space.delete("t").await.unwrap();
    space.gone("t").await;
    assert!(described(&cluster, &topic).await.is_some(), "topics and records stay");
}
