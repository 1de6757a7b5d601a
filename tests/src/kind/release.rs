//! A release of the chart: its installation, and its brokers as the tests reach them from outside of the cluster.

use super::objects::Namespace;
use super::{Call, checkout, job, kubectl, node};
use crate::brokers::Brokers;
use crate::cluster::await_condition::eventually;
use crate::cluster::leader_answer;
use crate::http::Http;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a release may take to be installed, upgraded or rolled.
pub const ROLL_DEADLINE: Duration = Duration::from_secs(300);
/// The resource definition that the chart brings.
pub const CRD: &str = "customresourcedefinition/topics.pubsub.dev";
/// What all objects of the release carry.
const RELEASE_SELECTOR: &str = "app.kubernetes.io/instance=pubsub";
/// Most brokers that a test scales to: each of them gets a door.
const BROKERS_MAX: u32 = 5;
/// How long brokers may take to agree on a controller.
const CONTROLLER_DEADLINE: Duration = Duration::from_secs(60);

/// A release called `pubsub`.
#[derive(Debug)]
pub struct Release {
    /// Where it is.
    pub namespace: Namespace,
    brokers: AtomicU32,
    doors: BTreeMap<u32, u16>,
    address: String,
    installed_in: Duration,
}

impl Brokers for Release {
    fn ids(&self) -> Vec<u32> {
        (1..=self.brokers.load(Ordering::Relaxed)).collect()
    }

    fn url(&self, id: u32) -> String {
        format!("http://{}:{}", self.address, self.doors[&id])
    }

    /// A pod's process is not known outside.
    fn run_of(&self, _: u32) -> Option<u32> {
        None
    }
}

impl Release {
    /// Installs the chart into a fresh namespace, with these further arguments of `helm`, and waits until all is ready.
    ///
    /// # Panics
    /// When it isn't installed, or not ready in time.
    pub async fn install(namespace: &str, arguments: &[&str]) -> Arc<Self> {
        let namespace = Namespace::fresh(namespace).await;
        let start = Instant::now();
        helm(&namespace, "install", arguments).run().await.expect("helm installs the chart");
        namespace.rolled_out("statefulset/pubsub-broker", ROLL_DEADLINE).await;
        for deployment in
            namespace.list("deployments", RELEASE_SELECTOR).await.expect("a list of Deployments")
        {
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
            namespace.rolled_out(&format!("deployment/{name}"), ROLL_DEADLINE).await;
        }
        let installed_in = start.elapsed();
        let doors = open_doors(&namespace).await;
        let address = node::control_plane_address().await.expect("the control plane has an address");
        let release = Self { namespace, brokers: AtomicU32::new(3), doors, address, installed_in };
        release.wait_ready().await;
        release.controller().await;
        Arc::new(release)
    }

    /// Returns how long it took until `kubectl` and `helm` called everything ready.
    pub fn installed_in(&self) -> Duration {
        self.installed_in
    }

    /// Returns the name of a broker's pod.
    pub fn pod(&self, id: u32) -> String {
        format!("pubsub-broker-{}", id.saturating_sub(1))
    }

    /// Returns the address of a broker inside the cluster, by its pod's name.
    pub fn inner_url(&self, id: u32) -> String {
        format!("http://{}.pubsub-broker.{}.svc.cluster.local:8080", self.pod(id), self.namespace.name)
    }

    /// Returns the address of the Service for clients inside the cluster.
    pub fn service_url(&self) -> String {
        format!("http://pubsub.{}.svc.cluster.local:8080", self.namespace.name)
    }

    /// Upgrades it, keeps its values, and waits until all is rolled out.
    ///
    /// # Panics
    /// When that fails.
    pub async fn upgrade(&self, arguments: &[&str]) {
        let arguments: Vec<&str> = ["--reuse-values"].iter().chain(arguments).copied().collect();
        helm(&self.namespace, "upgrade", &arguments).run().await.expect("helm upgrades the release");
        self.namespace.rolled_out("statefulset/pubsub-broker", ROLL_DEADLINE).await;
        self.wait_ready().await;
    }

    /// Upgrades it to so many brokers, and empties those before that go, as the chart's page tells people to.
    ///
    /// # Panics
    /// When that fails.
    pub async fn scale(&self, brokers: u32) {
        assert!(brokers <= BROKERS_MAX, "there are doors for {BROKERS_MAX} brokers");
        let before = self.brokers.load(Ordering::Relaxed);
        let leaving: Vec<u32> = (brokers + 1..=before).rev().collect();
        for id in &leaving {
            let drain = ["cluster", "drain", &id.to_string(), "--wait"];
            job::pubsub(&self.namespace, &self.service_url(), &drain).await;
        }
        // Those that go are not asked any more, and those that come not yet.
        self.brokers.fetch_min(brokers, Ordering::Relaxed);
        self.upgrade(&["--set", &format!("broker.replicaCount={brokers}")]).await;
        for id in &leaving {
            self.namespace.wait_gone(&format!("pod/{}", self.pod(*id)), ROLL_DEADLINE).await;
        }
        self.brokers.store(brokers, Ordering::Relaxed);
        self.wait_ready().await;
    }

    /// Removes the release, and leaves the namespace.
    ///
    /// # Panics
    /// When `helm` fails.
    pub async fn uninstall(&self) {
        let call = Call::of(
            "helm",
            ["uninstall", "pubsub", "-n", &self.namespace.name, "--wait", "--timeout", "2m"],
        );
        call.within(Duration::from_secs(150)).run().await.expect("helm uninstalls the release");
    }

    /// Deletes a pod as its node's failure would: without time to hand over.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn kill_pod(&self, id: u32) {
        let pod = self.pod(id);
        let call = self.namespace.call(["delete", "pod", &pod, "--grace-period=0", "--force"]);
        call.run().await.expect("the pod can be deleted");
    }

    /// Returns what tells a broker's pod from the one before it.
    ///
    /// # Errors
    /// When there is no pod, or the API server does not answer.
    pub async fn pod_uid(&self, id: u32) -> anyhow::Result<String> {
        let pod = self.namespace.get(&format!("pod/{}", self.pod(id))).await?;
        pod["metadata"]["uid"].as_str().map(str::to_owned).context("a pod without a uid")
    }

    /// Waits until another pod than this one is there for a broker, and ready.
    pub async fn wait_replaced(&self, id: u32, uid: &str) {
        eventually(&format!("broker {id} has another pod"), ROLL_DEADLINE, async || {
            if self.pod_uid(id).await? == uid { bail!("the old one is still there") } else { Ok(()) }
        })
        .await;
        self.namespace.wait(&format!("pod/{}", self.pod(id)), "condition=Ready", ROLL_DEADLINE).await;
    }

    /// Returns the node that a broker's pod is on.
    ///
    /// # Panics
    /// When it is on none.
    pub async fn node_of(&self, id: u32) -> String {
        let pod = self.namespace.get(&format!("pod/{}", self.pod(id))).await.expect("the pod is there");
        pod["spec"]["nodeName"].as_str().expect("the pod has a node").to_owned()
    }

    /// Returns how often the containers of this release were started again.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn restarts(&self) -> anyhow::Result<u64> {
        let pods = self.namespace.list("pods", RELEASE_SELECTOR).await?;
        let statuses = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
        Ok(statuses.filter_map(|status| status["restartCount"].as_u64()).sum())
    }

    /// Waits until every broker says that it is ready.
    pub async fn wait_ready(&self) {
        let http = Http::new();
        for id in self.ids() {
            let url = format!("{}/readyz", self.url(id));
            eventually(&format!("broker {id} is ready"), ROLL_DEADLINE, async || {
                let answer = http.try_send("GET", &url, Default::default(), Duration::from_secs(3)).await?;
                if answer.status == 200 { Ok(()) } else { bail!("{answer}") }
            })
            .await;
        }
    }

    /// Returns whether the brokers have a topic.
    ///
    /// # Errors
    /// When they don't say.
    pub async fn has_topic(&self, name: &str) -> anyhow::Result<bool> {
        let answer = Http::new().get(&format!("{}/admin/topics/{name}", self.url(1))).await?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => bail!("{answer}"),
        }
    }

    /// Returns the controller, once all brokers agree on it.
    pub async fn controller(&self) -> u32 {
        let http = Http::new();
        eventually("all brokers agree on one controller", CONTROLLER_DEADLINE, async || {
            let mut said = Vec::new();
            for id in self.ids() {
                let (leader, epoch, _) = leader_answer(&http, &self.url(id)).await?;
                said.push((leader.context("no controller")?, epoch));
            }
            if said.windows(2).all(|pair| pair[0] == pair[1]) {
                Ok(said[0].0)
            } else {
                bail!("they say {said:?}")
            }
        })
        .await
    }
}

fn helm(namespace: &Namespace, verb: &str, arguments: &[&str]) -> Call {
    let (chart, deadline) = (checkout("charts/pubsub"), format!("{}s", ROLL_DEADLINE.as_secs()));
    let fixed = [verb, "pubsub", &chart, "-n", &namespace.name, "--timeout", &deadline];
    Call::of("helm", fixed.into_iter().chain(arguments.iter().copied())).within(ROLL_DEADLINE)
}

/// Gives every broker a port on every node, which leads to it whether or not it is ready.
async fn open_doors(namespace: &Namespace) -> BTreeMap<u32, u16> {
    let mut doors = BTreeMap::new();
    for id in 1..=BROKERS_MAX {
        let (name, pod) = (format!("door-{id}"), format!("pubsub-broker-{}", id - 1));
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "type": "NodePort",
                "publishNotReadyAddresses": true,
                "selector": {"statefulset.kubernetes.io/pod-name": pod},
                "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
            },
        });
        namespace.apply(&service).await.expect("the Service is accepted");
        let service = namespace.get(&format!("service/{name}")).await.expect("the Service is there");
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        doors.insert(id, port.expect("the Service has a port on every node"));
    }
    doors
}

/// Removes whatever an earlier run has left, which may have been killed at any moment: the release, its namespace, and the
/// resource definition, which helm keeps.
///
/// # Panics
/// When something can't be removed.
pub async fn forget(namespace: &str) {
    let namespace = Namespace::named(namespace);
    let listed = Call::of("helm", ["list", "-n", &namespace.name, "-q", "-a"]).run().await;
    if listed.expect("helm lists releases").lines().any(|name| name == "pubsub") {
        // Half of it may be gone, so that its hooks would wait for what never comes.
        let uninstall =
            ["uninstall", "pubsub", "-n", &namespace.name, "--no-hooks", "--wait", "--timeout", "2m"];
        Call::of("helm", uninstall).within(Duration::from_secs(150)).run().await.expect("helm uninstalls it");
    }
    // Without the definition there are none.
    let topics = namespace.call(["get", "topics.pubsub.dev", "-o", "name"]).run().await.unwrap_or_default();
    for topic in topics.lines() {
        let free = r#"{"metadata":{"finalizers":null}}"#;
        let patch = namespace.call(["patch", topic, "--type=merge", "-p", free]).run().await;
        patch.expect("the finalizer can be taken off");
    }
    namespace.delete(Duration::from_secs(120)).await;
    let timeout = ["delete", CRD, "--ignore-not-found", "--wait", "--timeout", "60s"];
    kubectl(timeout).within(Duration::from_secs(70)).run().await.expect("the resource definition goes");
}

/// Returns the value of a field by its path, or `null`.
pub fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    object.pointer(path).unwrap_or(&Value::Null)
}
