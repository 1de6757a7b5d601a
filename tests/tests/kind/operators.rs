//! Operators that come and go.

use super::{figure, release};
use anyhow::{Context, bail};
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::unique;
use pubsub_tests::kind::objects::Namespace;
use pubsub_tests::kind::process;
use pubsub_tests::kind::release::ROLL_DEADLINE;
use pubsub_tests::kind::topics::{OPERATOR_DEADLINE, TopicObject, object};
use serde_json::json;
use std::time::{Duration, Instant};

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
    assert!(!release.has_topic(&goes).await.unwrap());
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

/// Waits until a running operator other than this one holds the Lease, and returns its pod's name.
async fn next_holder(namespace: &Namespace, before: &str) -> String {
    eventually(&format!("another operator than {before} holds the Lease"), OPERATOR_DEADLINE, async || {
        let lease = namespace.get("lease/pubsub-operator").await?;
        let holder = lease["spec"]["holderIdentity"].as_str().context("nobody holds it")?;
        let pods = namespace.list("pods", "app.kubernetes.io/component=operator").await?;
        let there = pods.iter().any(|pod| pod["metadata"]["name"] == holder);
        if there && holder != before { Ok(holder.to_owned()) } else { bail!("{holder} holds it") }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kind cluster: make kind-test"]
async fn of_two_operators_one_acts_and_the_other_takes_over() {
    let held = release().await;
    let namespace = &held.release.namespace;
    scale_operator(namespace, 2).await;
    let first = next_holder(namespace, "").await;

    process::signal(namespace, &first, "STOP").await.unwrap();
    let began = Instant::now();
    let second = next_holder(namespace, &first).await;
    figure("the Lease moves from an operator that is frozen", began.elapsed());
    TopicObject::ready(namespace, &unique("second"), &json!({})).await;
    process::signal(namespace, &first, "CONT").await.unwrap();
    eventually("the first operator notices", OPERATOR_DEADLINE, async || {
        let log = namespace.call(["logs", &first, "--tail=50"]).run().await?;
        if log.contains("lease lost") { Ok(()) } else { bail!("{log}") }
    })
    .await;
    assert_eq!(next_holder(namespace, "").await, second, "it does not take the Lease back");

    let began = Instant::now();
    namespace.remove(&format!("pod/{second}")).await;
    next_holder(namespace, &second).await;
    figure("the Lease moves from an operator that ends in order", began.elapsed());
    TopicObject::ready(namespace, &unique("third"), &json!({})).await;
    scale_operator(namespace, 1).await;
}
