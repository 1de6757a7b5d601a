//! One Topic: from `kubectl apply` to ready, and back.

use super::{CLUSTER, ask, described, space};
use anyhow::bail;
use pubsub_tests::apiserver::{Operator, TOPIC_DEADLINE};
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::unique;
use pubsub_tests::http::Http;
use serde_json::{Value, json};

/// Publishes one record to a topic.
async fn publish(cluster: &pubsub_tests::cluster::Cluster, topic: &str) {
    ask(cluster, "POST", &format!("/topics/{topic}/publish"), &json!({"value": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn a_topic_that_is_applied_becomes_ready_and_shows_what_the_brokers_have() {
    let (space, cluster) = (space("apply").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let topic_name = unique("orders");
    let spec = json!({"topicName": topic_name, "partitions": 3, "replicationFactor": 3, "retention": {"duration": "7d"}});
    space.apply("orders", &spec).await.unwrap();
    let topic = space.ready("orders").await;
    let status = topic.status.clone().unwrap();
    let at_brokers = described(&cluster, &topic_name).await.unwrap();
    assert_eq!(at_brokers["config"]["retention_ms"], 604_800_000);
    assert_eq!(at_brokers["config"]["min_isr"], 2);
    assert_eq!(at_brokers["config"]["owner"]["uid"], json!(topic.metadata.uid));
    assert_eq!(status.topic_id.map(Value::from), Some(at_brokers["id"].clone()));
    assert_eq!((status.partition_count, status.replication_factor), (Some(3), Some(3)));
    assert_eq!(topic.metadata.finalizers, Some(vec!["pubsub.dev/topic".to_owned()]));
    let full = space.until("orders", "Replicated", "True", "Replicated").await;
    assert_eq!(full.status.unwrap().isr.as_deref(), Some("3/3"));
    let shown = space.server.kubectl(&["-n", &space.name, "get", "pubsub", "-o", "wide"]).await.unwrap();
    for word in ["PARTS", "REASON", "EPOCH", "3/3", "True", &topic_name, "Delete"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(space.event("orders", "Created").await.contains(&topic_name));

    space
        .apply("orders", &json!({"topicName": topic_name, "partitions": 4, "replicationFactor": 3}))
        .await
        .unwrap();
    let changed = space.ready("orders").await;
    assert_eq!(changed.status.unwrap().partition_count, Some(4));
    let at_brokers = described(&cluster, &topic_name).await.unwrap();
    assert_eq!(at_brokers["config"]["retention_ms"], Value::Null, "what is not declared is the default");
    let told = space.event("orders", "Updated").await;
    assert!(told.contains("partitions: 3 instead of 4"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn what_becomes_of_a_topic_is_the_deletion_policys_choice() {
    let (space, cluster) = (space("deletion").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_RESYNC_SECONDS", "2")]);
    let (delete, keep, empty) = (unique("delete"), unique("keep"), unique("empty"));
    for (name, topic, policy) in
        [("delete", &delete, "Delete"), ("keep", &keep, "Retain"), ("empty", &empty, "DeleteIfEmpty")]
    {
        space.apply(name, &json!({"topicName": topic, "deletionPolicy": policy})).await.unwrap();
        space.ready(name).await;
        publish(&cluster, topic).await;
        space.delete(name).await.unwrap();
    }
    space.gone("delete").await;
    assert_eq!(described(&cluster, &delete).await, None);
    space.gone("keep").await;
    eventually("the topic that was kept has no owner", TOPIC_DEADLINE, async || {
        let topic = described(&cluster, &keep).await.expect("it is still there");
        if topic["config"]["owner"].is_null() { Ok(()) } else { bail!("{topic}") }
    })
    .await;
    let held = space.until("empty", "Ready", "False", "NotEmpty").await;
    assert!(held.metadata.deletion_timestamp.is_some());
    assert!(described(&cluster, &empty).await.is_some());
    space.event("empty", "NotEmpty").await;
    space.apply("empty", &json!({"topicName": empty, "deletionPolicy": "Delete"})).await.unwrap();
    space.gone("empty").await;
    assert_eq!(described(&cluster, &empty).await, None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn an_empty_topic_goes_with_delete_if_empty() {
    let (space, cluster) = (space("empty").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let topic = unique("empty");
    space.apply("t", &json!({"topicName": topic, "deletionPolicy": "DeleteIfEmpty"})).await.unwrap();
    space.ready("t").await;
    space.delete("t").await.unwrap();
    space.gone("t").await;
    assert_eq!(described(&cluster, &topic).await, None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn of_two_objects_the_older_one_has_the_topic_and_the_other_gets_it_afterwards() {
    let (space, cluster) = (space("conflict").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let topic = unique("contended");
    space.apply("first", &json!({"topicName": topic, "deletionPolicy": "Retain"})).await.unwrap();
    space.ready("first").await;
    publish(&cluster, &topic).await;
    // The API server keeps whole seconds; of two objects of one second the identity decides.
    pubsub_tests::cluster::await_condition::fault_lasts(std::time::Duration::from_millis(1_100)).await;
    space.apply("second", &json!({"topicName": topic, "partitions": 2})).await.unwrap();
    let loser = space.until("second", "Accepted", "False", "NameConflict").await;
    let message = loser.status.unwrap().conditions[0].message.clone();
    assert!(message.contains(&format!("{}/first", space.name)), "{message}");
    space.until("second", "Ready", "False", "NameConflict").await;
    assert_eq!(described(&cluster, &topic).await.unwrap()["partition_count"], 1, "the loser changes nothing");
    space.delete("first").await.unwrap();
    space.gone("first").await;
    let unmanaged = space.until("second", "Ready", "False", "ExistsUnmanaged").await;
    let message = unmanaged.status.unwrap().conditions[0].message.clone();
    assert!(message.contains("partitions: 1 instead of 2"), "{message}");
    space
        .apply("second", &json!({"topicName": topic, "partitions": 2, "adoptionPolicy": "Adopt"}))
        .await
        .unwrap();
    space.ready("second").await;
    let adopted = described(&cluster, &topic).await.unwrap();
    assert_eq!(
        (&adopted["partition_count"], &adopted["config"]["owner"]["name"]),
        (&json!(2), &json!("second"))
    );
    space.event("second", "Adopted").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn the_older_object_of_another_operator_has_the_topic_too() {
    let (old, young) = (space("old").await, space("young").await);
    let cluster = CLUSTER.get().await;
    let topic = unique("shared");
    old.apply("t", &json!({"topicName": topic})).await.unwrap();
    pubsub_tests::cluster::await_condition::fault_lasts(std::time::Duration::from_millis(1_100)).await;
    young.apply("t", &json!({"topicName": topic})).await.unwrap();
    let _second = Operator::of(&young, "young-0", &cluster, &[("PUBSUB_RESYNC_SECONDS", "2")]);
    young.ready("t").await;
    let _first = Operator::of(&old, "old-0", &cluster, &[]);
    old.ready("t").await;
    old.event("t", "TakenOver").await;
    young.until("t", "Ready", "False", "NameConflict").await;
    let owner = described(&cluster, &topic).await.unwrap()["config"]["owner"]["namespace"].clone();
    assert_eq!(owner, json!(old.name));
    young.delete("t").await.unwrap();
    young.gone("t").await;
    assert!(described(&cluster, &topic).await.is_some(), "the loser does not take the topic with it");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn what_others_change_or_delete_comes_back_with_an_event() {
    let (space, cluster) = (space("drift").await, CLUSTER.get().await);
    let operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_RESYNC_SECONDS", "3")]);
    let topic = unique("drift");
    space.apply("t", &json!({"topicName": topic, "retention": {"duration": "1h"}})).await.unwrap();
    space.ready("t").await;
    ask(&cluster, "PATCH", &format!("/admin/topics/{topic}"), &json!({"retention_ms": 5_000})).await;
    eventually("the retention is put right", TOPIC_DEADLINE, async || {
        let found = described(&cluster, &topic).await.unwrap()["config"]["retention_ms"].clone();
        if found == 3_600_000 { Ok(()) } else { bail!("{found}") }
    })
    .await;
    let note = space.event("t", "DriftCorrected").await;
    assert!(note.contains("retention.duration: 5000 instead of 3600000"), "{note}");
    let before = described(&cluster, &topic).await.unwrap()["id"].clone();
    ask(&cluster, "DELETE", &format!("/admin/topics/{topic}"), &Value::Null).await;
    eventually("the topic is there again", TOPIC_DEADLINE, async || {
        match described(&cluster, &topic).await {
            Some(found) if found["id"] != before => Ok(()),
            found => bail!("{found:?}"),
        }
    })
    .await;
    eventually("the status shows the new topic", TOPIC_DEADLINE, async || {
        let status = space.get("t").await?.status.unwrap_or_default();
        if status.topic_id.is_some_and(|id| before != json!(id)) {
            Ok(())
        } else {
            bail!("{:?}", status.conditions)
        }
    })
    .await;
    space.ready("t").await;
    let metrics = Http::new().get(&format!("{}/metrics", operator.url)).await.unwrap().text();
    assert!(metrics.contains("pubsub_operator_drifts_total 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn topics_that_no_object_owns_are_counted_and_left_alone() {
    let (space, cluster) = (space("unmanaged").await, CLUSTER.get().await);
    let operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_RESYNC_SECONDS", "1")]);
    let (own, by_hand, never) = (unique("own"), unique("by-hand"), unique("never"));
    for topic in [&by_hand, &never] {
        ask(&cluster, "POST", "/admin/topics", &json!({"name": topic, "retention_ms": 7_000})).await;
    }
    let before = described(&cluster, &by_hand).await.unwrap()["config"].clone();
    space.apply("own", &json!({"topicName": own})).await.unwrap();
    space.apply("never", &json!({"topicName": never, "adoptionPolicy": "Never"})).await.unwrap();
    space.ready("own").await;
    space.until("never", "Ready", "False", "ExistsUnmanaged").await;
    eventually("unmanaged topics are counted", TOPIC_DEADLINE, async || {
        let metrics = Http::new().get(&format!("{}/metrics", operator.url)).await?.text();
        let count = metrics.lines().find_map(|line| line.strip_prefix("pubsub_operator_topics_unmanaged "));
        // Others' tests have topics without objects too.
        if count.is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count >= 2)) {
            Ok(())
        } else {
            bail!("{metrics}")
        }
    })
    .await;
    assert_eq!(described(&cluster, &by_hand).await.unwrap()["config"], before);
    space.delete("never").await.unwrap();
    space.gone("never").await;
    assert!(described(&cluster, &never).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn what_this_cluster_can_not_do_is_a_condition_and_not_an_error() {
    let (space, cluster) = (space("limits").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let cases = [
        ("compact", json!({"cleanupPolicy": "Compact"}), "NotSupported"),
        ("sealed", json!({"encryption": "Required"}), "NotSupported"),
        ("wide", json!({"replicationFactor": 4}), "InsufficientBrokers"),
    ];
    for (name, mut spec, reason) in cases {
        let topic = unique(name);
        spec["topicName"] = json!(topic);
        space.apply(name, &spec).await.unwrap();
        space.until(name, "Ready", "False", reason).await;
        assert_eq!(described(&cluster, &topic).await, None);
        space.delete(name).await.unwrap();
        space.gone(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn a_paused_topic_is_watched_and_not_changed() {
    let (space, cluster) = (space("paused").await, CLUSTER.get().await);
    let _operator = Operator::of(&space, "operator-0", &cluster, &[]);
    let topic = unique("paused");
    space.apply("t", &json!({"topicName": topic})).await.unwrap();
    space.ready("t").await;
    space.apply("t", &json!({"topicName": topic, "paused": true, "partitions": 2})).await.unwrap();
    space.until("t", "Ready", "False", "Paused").await;
    assert_eq!(described(&cluster, &topic).await.unwrap()["partition_count"], 1);
    space.apply("t", &json!({"topicName": topic, "partitions": 2})).await.unwrap();
    space.ready("t").await;
    assert_eq!(described(&cluster, &topic).await.unwrap()["partition_count"], 2);
}
