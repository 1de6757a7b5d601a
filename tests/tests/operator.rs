//! The operator against a real API server and real brokers: what a person who applies Topics can rely on.
//!
//! The tests need etcd and kube-apiserver (`tests/kind/control-plane.sh`), so they are left out unless asked for: `make operator`.
#![allow(clippy::unwrap_used)]

#[path = "operator/definition.rs"]
mod definition;
#[path = "operator/life.rs"]
mod life;
#[path = "operator/many.rs"]
mod many;
#[path = "operator/topics.rs"]
mod topics;

use pubsub_tests::apiserver::{ApiServer, Space};
use pubsub_tests::cluster::shared::Shared;
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::{Content, Http};
use serde_json::Value;

/// Brokers that no test breaks.
static CLUSTER: Shared = Shared::new(Settings::default);

/// Makes a namespace of the shared API server.
async fn space(name: &str) -> Space {
    ApiServer::shared().await.namespace(name).await
}

/// Sends a request to a cluster's first broker, which must succeed.
async fn ask(cluster: &Cluster, method: &str, path: &str, body: &Value) -> Value {
    let content = if body.is_null() { Content::default() } else { Content::json(body.to_string()) };
    let answer = Http::new().send(method, &format!("{}{path}", cluster.url(1)), content).await.unwrap();
    answer.expect(200)
}

/// Returns a topic as the brokers describe it, or `None`.
async fn described(cluster: &Cluster, topic: &str) -> Option<Value> {
    let answer = Http::new().get(&format!("{}/admin/topics/{topic}", cluster.url(1))).await.unwrap();
    (answer.status == 200).then(|| answer.json())
}
