//! The nodes of the cluster: containers, which can be stopped.

use super::{Call, kubectl};
use crate::cluster::await_condition::eventually;
use anyhow::{Context, bail};
use std::time::Duration;

/// How long the cluster may take to see that a node is gone, or back.
const NOTICE_DEADLINE: Duration = Duration::from_secs(120);

/// Returns the address of the node that is never stopped.
///
/// # Errors
/// When the API server names none.
pub async fn control_plane_address() -> anyhow::Result<String> {
    let selector = "node-role.kubernetes.io/control-plane";
    let nodes = kubectl(["get", "nodes", "-l", selector, "-o", "json"]).json().await?;
    let addresses = nodes["items"][0]["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let address = internal.and_then(|address| address["address"].as_str());
    address.map(str::to_owned).with_context(|| format!("no address in {addresses:?}"))
}

/// Takes a node's power away.
///
/// # Panics
/// When it can't be stopped.
pub async fn cut(node: &str) {
    Call::of("docker", ["kill", node]).run().await.expect("the node can be stopped");
}

/// Waits until the cluster has noticed that a node does not answer.
pub async fn wait_lost(node: &str) {
    wait_ready(node, "Unknown").await;
}

/// Starts a stopped node and waits until the cluster has noticed.
///
/// # Panics
/// When it can't be started.
pub async fn start(node: &str) {
    Call::of("docker", ["start", node]).run().await.expect("the node can be started");
    wait_ready(node, "True").await;
}

/// Starts whatever nodes do not run.
///
/// # Panics
/// When one can't be started.
pub async fn start_all() {
    let names = kubectl(["get", "nodes", "-o", "name"]).run().await.expect("a list of nodes");
    for node in names.lines().map(|name| name.trim_start_matches("node/")) {
        let running = Call::of("docker", ["inspect", "-f", "{{.State.Running}}", node]).run().await;
        if running.expect("the node is a container").trim() != "true" {
            start(node).await;
        }
    }
}

async fn wait_ready(node: &str, wanted: &str) {
    let path = r#"-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    eventually(&format!("node {node} is ready: {wanted}"), NOTICE_DEADLINE, async || {
        let status = kubectl(["get", "node", node, path, "--request-timeout", "10s"]).run().await?;
        if status == wanted { Ok(()) } else { bail!("it is {status}") }
    })
    .await;
}
