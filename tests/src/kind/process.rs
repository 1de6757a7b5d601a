//! The first process of a pod's container, reached past Kubernetes: on the node that it runs on.

use super::Call;
use super::objects::Namespace;
use anyhow::Context;

/// Sends a signal, e.g. `KILL`, to the first process of a pod's first container.
///
/// # Errors
/// When the pod does not run, or its node can't be asked.
pub async fn signal(namespace: &Namespace, pod: &str, signal: &str) -> anyhow::Result<()> {
    let object = namespace.get(&format!("pod/{pod}")).await?;
    let node = object["spec"]["nodeName"].as_str().context("the pod is on no node")?;
    let id = object["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id.and_then(|id| id.strip_prefix("containerd://")).context("no container of containerd")?;
    let tasks = Call::of("docker", ["exec", node, "ctr", "-n", "k8s.io", "tasks", "ls"]).run().await?;
    let words = tasks.lines().map(|line| line.split_whitespace());
    let task = words.map(Vec::from_iter).find(|words| words.first() == Some(&id));
    let process =
        task.and_then(|words| words.get(1).copied()).with_context(|| format!("no {id} in {tasks}"))?;
    Call::of("docker", ["exec", node, "kill", "-s", signal, process]).run().await.map(drop)
}
