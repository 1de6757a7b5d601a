//! A real Kubernetes API (etcd and kube-apiserver, without nodes and controllers) for tests of the operator, and operators
//! that run against it.

use crate::cluster::await_condition::eventually;
use crate::cluster::process::{Process, Watchdog, binary};
use crate::cluster::{Cluster, ports};
use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use pubsub_operator::crd::{self, Topic, TopicSpec};
use pubsub_operator::status::condition;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// How long a Topic may take to become what a test waits for.
pub const TOPIC_DEADLINE: Duration = Duration::from_secs(45);
/// Variable that names another script to start the API with.
const SCRIPT: &str = "PUBSUB_TEST_CONTROL_PLANE";

/// The API server that all tests of a process share.
#[derive(Debug)]
pub struct ApiServer {
    kubeconfig: PathBuf,
    dir: PathBuf,
    /// Stops the server once this process is gone: it is in a static, which is never dropped.
    _end: Child,
}

fn script() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("kind/control-plane.sh");
    std::env::var_os(SCRIPT).map_or(own, PathBuf::from)
}

impl ApiServer {
    /// Returns the API server, which is started by whoever asks first.
    ///
    /// # Panics
    /// When it can't be started.
    pub async fn shared() -> &'static Self {
        static SERVER: OnceCell<ApiServer> = OnceCell::const_new();
        SERVER.get_or_init(|| async { Self::start().await.expect("an API server starts") }).await
    }

    async fn start() -> anyhow::Result<Self> {
        // Fails only if a provider was installed before, and then that one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = TempDir::with_prefix("pubsub-api-").context("a temporary directory")?.keep();
        let plane = dir.join("plane");
        let end = Command::new("sh")
            .args(["-c", r#"cat >/dev/null; "$1" down "$2" >/dev/null 2>&1; rm -rf "$3""#, "end"])
            .args([&script(), &plane, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start what ends the API server")?;
        let mut up = tokio::process::Command::new(script());
        let up = up.arg("up").arg(&plane).output().await.context("run control-plane.sh")?;
        if !up.status.success() {
            bail!("control-plane.sh: {}", String::from_utf8_lossy(&up.stderr));
        }
        let printed =
            String::from_utf8_lossy(&up.stdout).trim().lines().last().unwrap_or_default().to_owned();
        let server = Self { kubeconfig: PathBuf::from(printed), dir, _end: end };
        server.install().await?;
        Ok(server)
    }

    /// Installs the definition of the Topic resource and waits until it is served.
    async fn install(&self) -> anyhow::Result<()> {
        // As a person does it, from the file that is kept: readers of YAML differ.
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crd.yaml");
        self.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).await?;
        let topics: Api<Topic> = Api::all(self.client().await);
        eventually("topics are served", TOPIC_DEADLINE, async || {
            topics.list(&ListParams::default()).await.map(drop).context("list")
        })
        .await;
        // The list of what there is comes later than what there is, and kubectl keeps it for hours once it has asked for it.
        eventually("kubectl knows topics", TOPIC_DEADLINE, async || {
            let listed = self.kubectl(&["api-resources", "--categories=pubsub", "-o", "name"]).await?;
            if listed.contains("topics.pubsub.dev") { Ok(()) } else { bail!("{listed:?}") }
        })
        .await;
        Ok(())
    }

    /// Returns a new connection of an administrator. Each test has a runtime of its own, so none is shared.
    ///
    /// # Panics
    /// When the kubeconfig can't be read.
    pub async fn client(&self) -> kube::Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
        kube::Client::try_from(config).expect("a client")
    }

    /// Makes a namespace of its own for a test.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn namespace(&'static self, name: &str) -> Space {
        let client = self.client().await;
        let name = crate::cluster::topic::unique(name);
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let api: Api<Namespace> = Api::all(client.clone());
        let namespace = Namespace { metadata, ..Namespace::default() };
        api.create(&PostParams::default(), &namespace).await.expect("a namespace");
        Space { server: self, client, name }
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// With what it printed instead, when it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let home = std::env::var("HOME").unwrap_or_default();
        let cache = std::env::var("PUBSUB_K8S_CACHE").unwrap_or_else(|_| format!("{home}/.cache/pubsub/k8s"));
        let mut command = tokio::process::Command::new(format!("{cache}/bin/kubectl"));
        // Another server may have had this one's port before: what is remembered of that one must not be found.
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(self.dir.join("kubectl"));
        let ran = command.args(arguments).output().await;
        let ran = ran.context("run kubectl")?;
        if !ran.status.success() {
            bail!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    /// Returns the directory of logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A namespace of one test.
#[derive(Clone)]
pub struct Space {
    /// The API server.
    pub server: &'static ApiServer,
    /// The test's connection.
    pub client: kube::Client,
    /// The namespace.
    pub name: String,
}

impl Space {
    /// Returns the calls for Topics of this namespace.
    pub fn topics(&self) -> Api<Topic> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Makes a Topic as a user would: only what is given is in its spec.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, name: &str, spec: &Value) -> anyhow::Result<Topic> {
        let object = json!({
            "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION), "kind": "Topic",
            "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("tests").force();
        Ok(self.topics().patch(name, &params, &Patch::Apply(object)).await?)
    }

    /// Returns a Topic.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, name: &str) -> anyhow::Result<Topic> {
        Ok(self.topics().get(name).await?)
    }

    /// Deletes a Topic; it may stay until its finalizer is taken off.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.topics().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until a condition of a Topic has a status and a reason, for the present generation.
    pub async fn until(&self, name: &str, type_: &str, status: &str, reason: &str) -> Topic {
        let what = format!("{type_} of {name} is {status} because of {reason}");
        eventually(&what, 3 * TOPIC_DEADLINE, async || {
            let topic = self.get(name).await?;
            let found = topic
                .status
                .as_ref()
                .and_then(|status| status.conditions.iter().find(|condition| condition.type_ == type_));
            let fits = found.is_some_and(|found| {
                found.status == status
                    && found.reason == reason
                    && found.observed_generation == topic.metadata.generation
            });
            if fits { Ok(topic) } else { bail!("{:?}", topic.status.map(|status| status.conditions)) }
        })
        .await
    }

    /// Waits until a Topic is ready.
    pub async fn ready(&self, name: &str) -> Topic {
        self.until(name, "Ready", "True", "Ready").await
    }

    /// Waits until a Topic is gone.
    pub async fn gone(&self, name: &str) {
        eventually(&format!("{name} is gone"), TOPIC_DEADLINE, async || {
            match self.topics().get_opt(name).await? {
                None => Ok(()),
                Some(topic) => bail!("{:?}", topic.metadata),
            }
        })
        .await;
    }

    /// Waits for an Event about a Topic and returns its note.
    pub async fn event(&self, name: &str, reason: &str) -> String {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        eventually(&format!("event {reason} of {name}"), TOPIC_DEADLINE, async || {
            let events = api.list(&ListParams::default()).await?;
            let about = |event: &&Event| {
                event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name)
            };
            let found = events.iter().filter(about).find(|event| event.reason.as_deref() == Some(reason));
            let others: Vec<_> = events.iter().filter(about).map(|event| event.reason.clone()).collect();
            found.and_then(|event| event.note.clone()).with_context(|| format!("there are {others:?}"))
        })
        .await
    }

    /// Returns who holds the Lease of this namespace's operator.
    ///
    /// # Errors
    /// When there is no Lease.
    pub async fn holder(&self) -> anyhow::Result<String> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.name);
        let lease = api.get("pubsub-operator").await?;
        lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds it")
    }

    /// Returns how many Topics have each status of Ready.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn count_ready(&self) -> anyhow::Result<usize> {
        let list = self.topics().list(&ListParams::default()).await?;
        let ready = |topic: &&Topic| {
            topic.status.as_ref().is_some_and(|status| condition(status, "Ready") == Some("True"))
        };
        Ok(list.iter().filter(ready).count())
    }

    /// Makes a Topic without looking at what it becomes.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(&self, name: &str, spec: TopicSpec) -> anyhow::Result<()> {
        self.topics().create(&PostParams::default(), &Topic::new(name, spec)).await?;
        Ok(())
    }
}

/// A running operator; it is killed when this is dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    /// Base address of its own listener.
    pub url: String,
    log: PathBuf,
}

impl Operator {
    /// Starts an operator that looks after a namespace and asks the given brokers. `extra` is put into its environment.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(space: &Space, name: &str, brokers: &[String], extra: &[(&str, &str)]) -> Self {
        let port = ports::free().port();
        // One of its own: it goes with the process, and another operator may have the same name.
        let dir = space.server.dir().join(crate::cluster::topic::unique(name));
        std::fs::create_dir_all(&dir).expect("a directory for the operator");
        let watchdog: Arc<Watchdog> = Watchdog::start(&dir).expect("the watchdog starts");
        let (brokers, port_text) = (brokers.join(","), port.to_string());
        let kubeconfig = space.server.kubeconfig.display().to_string();
        // Of two of one name the last one counts.
        let variables: Vec<(String, String)> = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("POD_NAME", name),
            ("POD_NAMESPACE", &space.name),
            ("PUBSUB_BROKERS", &brokers),
            ("OPERATOR_PORT", &port_text),
            ("PUBSUB_LOG", "info,pubsub_operator=debug"),
        ]
        .iter()
        .chain(extra)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
        let log = space.server.dir().join(format!("{}-{name}.log", space.name));
        let program = binary("pubsub-operator");
        let process = Process::start_with(name, &program, &["run"], &variables, &log, &watchdog);
        let process = process.expect("the operator starts");
        Self { process, url: format!("http://127.0.0.1:{port}"), log }
    }

    /// Starts an operator for brokers of a cluster.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn of(space: &Space, name: &str, cluster: &Cluster, extra: &[(&str, &str)]) -> Self {
        Self::start(space, name, &cluster.urls(), extra)
    }

    /// Runs `pubsub-operator release` for a namespace.
    ///
    /// # Panics
    /// When it fails.
    pub async fn release(space: &Space, name: &str) {
        let mut command = tokio::process::Command::new(binary("pubsub-operator"));
        let command = command.arg("release").env("KUBECONFIG", &space.server.kubeconfig);
        let command = command.env("POD_NAME", name).env("POD_NAMESPACE", &space.name);
        let ran = command.output().await.expect("the operator runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Returns the process, to stop it or to ask how it ended.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it at once.
    pub fn kill(self) {
        drop(self);
    }

    /// Returns what it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("---- operator, end of its log:\n{}", tail.join("\n"));
        }
    }
}
