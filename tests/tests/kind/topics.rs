//! Topics as objects.

use super::{figure, release, topic};
use anyhow::bail;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::kind::release::at;
use pubsub_tests::kind::topics::{TopicObject, object};
use pubsub_tests::kind::{checkout, job};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn the_sample_topic_becomes_ready_and_its_columns_say_what_is() {
    let held = release().await;
    let namespace = &held.release.namespace;
    let began = Instant::now();
    namespace.call(["apply", "-f", &checkout("manifests/samples/topic.yaml")]).run().await.unwrap();
    namespace.wait("topic/orders", "condition=Ready", Duration::from_secs(60)).await;
    figure("the sample Topic is Ready after kubectl apply", began.elapsed());
    let orders = TopicObject::named(namespace, "orders");
    let (spec, described) = (orders.get().await.unwrap(), Topic::named(&held.release, "orders"));
    let leader = described.leader().await;
    orders.wait_cell("ISR", "3/3").await;
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
        assert_eq!(release.has_topic(&name).await.unwrap(), kept, "after {policy}");
    }
    let name = unique("full");
    let full = TopicObject::ready(namespace, &name, &json!({"deletionPolicy": "DeleteIfEmpty"})).await;
    Topic::named(release, &name).publish(1, "a record").await;
    namespace.remove(&full.object()).await;
    full.wait_condition("Ready", "False", "").await;
    assert!(release.has_topic(&name).await.unwrap(), "a topic with records is kept");
    let patch = r#"{"spec":{"deletionPolicy":"Delete"}}"#;
    namespace.call(["patch", &full.object(), "--type=merge", "-p", patch]).run().await.unwrap();
    namespace.wait_gone(&full.object(), Duration::from_secs(60)).await;
    assert!(!release.has_topic(&name).await.unwrap(), "after Delete");
}
