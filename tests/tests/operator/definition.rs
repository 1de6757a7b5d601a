//! What the API server itself refuses, by the rules in the definition.

use super::space;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn the_server_fills_in_defaults_and_leaves_open_what_the_brokers_decide() {
    let space = space("defaults").await;
    let topic = space.apply("plain", &json!({})).await.unwrap();
    let spec = serde_json::to_value(&topic.spec).unwrap();
    assert_eq!(
        spec,
        json!({
            "partitions": 1, "retention": {}, "cleanupPolicy": "Delete", "encryption": "Inherit", "uncleanElection": false,
            "adoptionPolicy": "AdoptIfMatching", "deletionPolicy": "Delete", "paused": false,
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn specs_that_could_never_work_are_refused_with_what_would_be_right() {
    let space = space("refused").await;
    let cases = [
        (json!({"minInSyncReplicas": 3, "replicationFactor": 2}), "minInSyncReplicas must not be more"),
        (json!({"partitions": 0}), "partitions"),
        (json!({"partitions": 257}), "partitions"),
        (json!({"replicationFactor": 10}), "replicationFactor"),
        (json!({"topicName": "_hidden"}), "topicName"),
        (json!({"topicName": ".."}), "must not be '.' or '..'"),
        (json!({"topicName": "a b"}), "topicName"),
        (json!({"topicName": "x".repeat(201)}), "topicName"),
        (json!({"retention": {"duration": "soon"}}), "duration"),
        (json!({"retention": {"bytesPerPartition": "1KB"}}), "bytesPerPartition"),
        (json!({"maxRecordBytes": "-1"}), "maxRecordBytes"),
        (json!({"cleanupPolicy": "Never"}), "cleanupPolicy"),
        (json!({"deletionPolicy": "delete"}), "deletionPolicy"),
    ];
    for (spec, expected) in cases {
        let refused = format!("{:#}", space.apply("bad", &spec).await.unwrap_err());
        assert!(refused.contains(expected), "{spec}: {refused}");
    }
    for good in [
        json!({"maxRecordBytes": 1024, "retention": {"duration": "1d12h", "bytesPerPartition": "10Gi"}}),
        json!({"topicName": "Some.Name_with-all", "encryption": "Disabled"}),
        json!({"minInSyncReplicas": 2}),
    ] {
        space.apply(&format!("good-{}", good.to_string().len()), &good).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn changes_that_would_lose_something_are_refused() {
    let space = space("changes").await;
    let cases: [(&str, Value, Value, Option<&str>); 9] = [
        ("grow", json!({"partitions": 2}), json!({"partitions": 3}), None),
        ("shrink", json!({"partitions": 3}), json!({"partitions": 2}), Some("can only grow")),
        ("unset", json!({"partitions": 3}), json!({}), Some("can only grow")),
        ("rename", json!({"topicName": "a"}), json!({"topicName": "b"}), Some("topicName can't be changed")),
        ("forget", json!({"topicName": "a"}), json!({}), Some("topicName can't be changed")),
        ("spell-out", json!({}), json!({"topicName": "spell-out"}), None),
        (
            "downgrade",
            json!({"encryption": "Required"}),
            json!({"encryption": "Disabled"}),
            Some("stays Required"),
        ),
        ("loosen", json!({"encryption": "Required"}), json!({}), Some("stays Required")),
        ("tighten", json!({"encryption": "Disabled"}), json!({"encryption": "Required"}), None),
    ];
    for (name, before, after, refused) in cases {
        space.apply(name, &before).await.unwrap();
        let changed = space.apply(name, &after).await;
        match refused {
            None => drop(changed.unwrap_or_else(|error| panic!("{name}: {error:#}"))),
            Some(expected) => {
                let text = format!("{:#}", changed.expect_err(name));
                assert!(text.contains(expected), "{name}: {text}");
            }
        }
    }
}
