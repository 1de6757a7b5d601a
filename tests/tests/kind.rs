//! The chart and the operator in a real cluster: one release without values, used as people use it and broken as clusters break.
//! `make kind-test` sets everything up; the tests run one after the other. What is in `long` is left out by `tests/kind/test.sh --quick`.

#![allow(clippy::unwrap_used)]

#[path = "kind/install.rs"]
mod install;
#[path = "kind/long.rs"]
mod long;
#[path = "kind/lost.rs"]
mod lost;
#[path = "kind/operators.rs"]
mod operators;
#[path = "kind/topics.rs"]
mod topics;

use pubsub_tests::brokers::Brokers;
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::kind::node;
use pubsub_tests::kind::release::{Release, forget};
use pubsub_tests::kind::topics::TopicObject;
use pubsub_tests::workload::load::Load;
use serde_json::json;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// Longest time that a namespace may take to end after its release was uninstalled with topics left.
const NAMESPACE_END_MAX: Duration = Duration::from_secs(60);

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
    // A test that failed may have left one without power.
    node::start_all().await;
    if place.is_none() {
        forget(OTHER_NAMESPACE).await;
        forget(NAMESPACE).await;
        *place = Some(Release::install(NAMESPACE, &[]).await);
    }
    let release = Arc::clone(place.as_ref().unwrap());
    release.wait_ready().await;
    Held { _place: place, release }
}

/// Prints what was measured, so that it can be found in a long log.
fn figure(what: &str, value: impl Debug) {
    eprintln!("figure: {what}: {value:.1?}");
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
    figure(&format!("longest pause, {fault}"), pause);
    assert!(pause < pause_max, "{fault}: nothing was acknowledged for {pause:?}");
}

/// Returns what tells brokers' pods from those before them.
async fn pods(release: &Release, ids: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    for id in ids {
        found.push(release.pod_uid(*id).await.unwrap());
    }
    found
}
