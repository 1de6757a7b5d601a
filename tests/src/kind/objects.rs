//! A namespace and the objects in it.

use super::{Call, kubectl};
use crate::cluster::await_condition::eventually;
use anyhow::bail;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Names one without creating it.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Creates it, after the end of one of the same name. It refuses pods that are not restricted.
    ///
    /// # Panics
    /// When it isn't created.
    pub async fn fresh(name: &str) -> Self {
        let namespace = Self::named(name);
        namespace.delete(Duration::from_secs(120)).await;
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let create = kubectl(["create", "-f", "-"]).with_input(object.to_string());
        create.run().await.expect("the namespace is created");
        // A pod that comes sooner than its account is refused.
        eventually("the namespace has its account", Duration::from_secs(30), async || {
            namespace.call(["get", "serviceaccount", "default"]).run().await
        })
        .await;
        namespace
    }

    /// Names a call of `kubectl` in this namespace.
    pub fn call<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> Call {
        kubectl(["-n", &self.name].into_iter().chain(arguments))
    }

    /// Applies objects.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply(&self, objects: &Value) -> anyhow::Result<String> {
        self.call(["apply", "-f", "-"]).with_input(objects.to_string()).run().await
    }

    /// Returns an object, e.g. of `pod/x`.
    ///
    /// # Errors
    /// When there is none, or the API server does not answer.
    pub async fn get(&self, object: &str) -> anyhow::Result<Value> {
        self.call(["get", object, "-o", "json", "--request-timeout", "10s"]).json().await
    }

    /// Returns all objects of a kind that a selector matches.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn list(&self, kind: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let call = self.call(["get", kind, "-l", selector, "-o", "json", "--request-timeout", "10s"]);
        let mut list = call.json().await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Returns whether an object is there.
    pub async fn has(&self, object: &str) -> bool {
        self.call(["get", object, "--ignore-not-found", "-o", "name"])
            .run()
            .await
            .is_ok_and(|name| !name.trim().is_empty())
    }

    /// Waits as `kubectl wait` does.
    ///
    /// # Panics
    /// When it does not come true by the deadline.
    pub async fn wait(&self, object: &str, condition: &str, deadline: Duration) {
        let (start, condition) = (Instant::now(), format!("--for={condition}"));
        loop {
            let left = deadline.saturating_sub(start.elapsed()).max(Duration::from_secs(1));
            let timeout = format!("{}s", left.as_secs());
            let call = self.call(["wait", &condition, object, "--timeout", &timeout]);
            let Err(error) = call.within(left + Duration::from_secs(10)).run().await else { return };
            // It begins with a list that may be older than the object, and ends if the object is not in it.
            let too_early = format!("{error:#}").contains("(NotFound)") && self.has(object).await;
            assert!(too_early && start.elapsed() < deadline, "{object}: {condition}: {error:#}");
        }
    }

    /// Waits until a StatefulSet or Deployment is as it should be.
    ///
    /// # Panics
    /// When it is not by the deadline.
    pub async fn rolled_out(&self, object: &str, deadline: Duration) {
        let timeout = format!("{}s", deadline.as_secs());
        let call = self.call(["rollout", "status", object, "--timeout", &timeout]);
        call.within(deadline + Duration::from_secs(10)).run().await.expect("the rollout ends");
    }

    /// Deletes an object and does not wait for its end.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn remove(&self, object: &str) {
        let call = self.call(["delete", object, "--wait=false", "--ignore-not-found"]);
        call.run().await.expect("the object can be deleted");
    }

    /// Waits until an object is gone.
    pub async fn wait_gone(&self, object: &str, deadline: Duration) {
        eventually(&format!("{object} is gone"), deadline, async || {
            let left = self.call(["get", object, "--ignore-not-found", "-o", "name"]).run().await?;
            if left.trim().is_empty() { Ok(()) } else { bail!("it is still there") }
        })
        .await;
    }

    /// Deletes the namespace with all that is in it, waits for its end, and returns how long that took.
    ///
    /// # Panics
    /// When it is still there at the deadline.
    pub async fn delete(&self, deadline: Duration) -> Duration {
        let start = Instant::now();
        let timeout = format!("{}s", deadline.as_secs());
        kubectl(["delete", "namespace", &self.name, "--ignore-not-found", "--wait", "--timeout", &timeout])
            .within(deadline + Duration::from_secs(5))
            .run()
            .await
            .expect("the namespace ends");
        start.elapsed()
    }
}
