//! The chart as people install it, and as they remove it.

use super::{NAMESPACE_END_MAX, OTHER_NAMESPACE, figure, release, topic};
use pubsub_tests::brokers::Brokers;
use pubsub_tests::kind::objects::Namespace;
use pubsub_tests::kind::release::{CRD, Release};
use pubsub_tests::kind::topics::TopicObject;
use pubsub_tests::kind::{Call, checkout, job, kubectl};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest time from `helm install` without values to a cluster that works, once the nodes have the image.
const INSTALL_MAX: Duration = Duration::from_secs(60);

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
    figure("helm install without values until all is ready", took);
    assert!(took < INSTALL_MAX, "it took {took:?}");
    assert_eq!(held.release.restarts().await.unwrap(), 0, "containers were started again");
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
    let began = Instant::now();
    release.uninstall().await;
    let uninstalled = began.elapsed();
    let took = release.namespace.delete(NAMESPACE_END_MAX).await;
    figure("helm uninstall with Topics left, and the end of the namespace", [uninstalled, took]);
    assert!(kubectl(["get", CRD]).run().await.is_ok(), "the resource definition is kept");
}
