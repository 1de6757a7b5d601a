//! Runs of the `pubsub` program inside the cluster, where names of Services and pods mean something.

use super::objects::Namespace;
use super::version;
use crate::cluster::await_condition::eventually;
use crate::cluster::topic::unique;
use anyhow::bail;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a pod may take to start and end.
const DEADLINE: Duration = Duration::from_secs(90);

/// The image under test.
pub fn image() -> String {
    format!("pubsub:{}", version())
}

/// What a pod of ours may do: nothing.
fn restricted() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

/// Returns a pod that runs one of the image's programs once.
pub fn pod(name: &str, command: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let environment: Vec<Value> =
        environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "program", "image": image(), "imagePullPolicy": "Never",
                "command": [command], "args": arguments, "env": environment,
                "securityContext": restricted(),
            }],
        },
    })
}

/// Runs the `pubsub` program inside the cluster against the brokers at `urls` and returns what it printed.
///
/// # Panics
/// When it fails.
pub async fn pubsub(namespace: &Namespace, urls: &str, arguments: &[&str]) -> String {
    run(namespace, "/pubsub", arguments, &[("PUBSUB_BROKERS", urls)]).await
}

/// Runs one of the image's programs inside the cluster and returns what it printed.
///
/// # Panics
/// When it fails.
pub async fn run(
    namespace: &Namespace,
    command: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> String {
    let name = unique("run");
    namespace.apply(&pod(&name, command, arguments, environment)).await.expect("the pod is accepted");
    let object = format!("pod/{name}");
    let phase = eventually(&format!("{command} {arguments:?} ends"), DEADLINE, async || {
        let phase = namespace.get(&object).await?["status"]["phase"].clone();
        if phase == "Succeeded" || phase == "Failed" { Ok(phase) } else { bail!("it is {phase}") }
    })
    .await;
    let printed = namespace.call(["logs", &object]).run().await.expect("the pod has a log");
    assert_eq!(phase, "Succeeded", "{command} {arguments:?} with {environment:?} failed: {printed}");
    namespace.remove(&object).await;
    printed
}
