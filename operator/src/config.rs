//! Flags and environment of the operator, checked once into real types.

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Most topics that are looked after at the same time: enough to keep brokers and API server busy, and no more.
const CONCURRENCY_DEFAULT: usize = 32;
/// Most that may be asked for.
const CONCURRENCY_MAX: usize = 256;

/// Turns Topic resources of Kubernetes into topics of a Pubsub cluster, and tells how they are.
#[derive(Debug, Parser)]
#[command(name = "pubsub-operator", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look after Topic resources until it is told to stop.
    Run(Box<RunArguments>),
    /// Print the definition of the Topic resource, for `kubectl apply -f -`.
    Crd,
    /// Take the operator's finalizer off all Topics, so that they can be deleted without it. Topics and records stay.
    /// A running operator is held off for two minutes. For uninstalling.
    Release(ReleaseArguments),
}

/// Where the operator lives and what it watches.
#[derive(Clone, Debug, Args)]
pub struct PlaceArguments {
    /// Namespaces whose Topics are looked after: `own`, `all`, or a list such as `team-a,team-b`.
    #[arg(long, env = "PUBSUB_WATCH", default_value = "own")]
    pub watch: String,
    /// Namespace of the operator itself, of its Lease and of the brokers.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Name of the operator's pod: it becomes the holder of the Lease, so no two operators may have the same.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Name of the Lease that lets one operator act at a time.
    #[arg(long, env = "PUBSUB_LEASE", default_value = "pubsub-operator")]
    pub lease: String,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where it lives.
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Addresses of brokers, as in `http://pubsub:8080`; one that leads to all of them is enough.
    #[arg(long, env = "PUBSUB_BROKERS", value_delimiter = ',', required = true)]
    pub brokers: Vec<String>,
    /// File with the certificates (PEM) of the authorities that `https://` brokers are checked against.
    #[arg(long, value_name = "FILE", env = "PUBSUB_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Name of the brokers' StatefulSet. Once it is gone, Topics that are deleted are let go at once.
    #[arg(long, env = "PUBSUB_STATEFULSET")]
    pub statefulset: Option<String>,
    /// Seconds after which every Topic is looked at again, whatever happened; a third more or less by chance.
    #[arg(long, env = "PUBSUB_RESYNC_SECONDS", default_value_t = 30)]
    pub resync_seconds: u64,
    /// Seconds after which a deleted Topic is let go although no broker can be reached.
    #[arg(long, env = "PUBSUB_DELETION_DEADLINE_SECONDS", default_value_t = 300)]
    pub deletion_deadline_seconds: u64,
    /// Seconds for which the last observation counts once no broker answers; then Ready is Unknown.
    #[arg(long, env = "PUBSUB_OBSERVATION_SECONDS", default_value_t = 60)]
    pub observation_seconds: u64,
    /// Topics that are looked after at the same time.
    #[arg(long, env = "PUBSUB_CONCURRENCY", default_value_t = CONCURRENCY_DEFAULT)]
    pub concurrency: usize,
    /// Seconds for which the Lease holds without being renewed.
    #[arg(long, env = "PUBSUB_LEASE_SECONDS", default_value_t = 15)]
    pub lease_seconds: u32,
    /// Host name or address of the listener for /metrics, /livez and /readyz.
    #[arg(long, env = "OPERATOR_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port of that listener; 0 takes a free one.
    #[arg(long, env = "OPERATOR_PORT", default_value_t = 8090)]
    pub port: u16,
    /// `text` or `json`.
    #[arg(long, env = "PUBSUB_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
    /// Stop when standard input ends: for a parent process that must not leave this one behind.
    #[arg(long)]
    pub stop_on_stdin_eof: bool,
}

/// Flags of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// Where it lives.
    #[command(flatten)]
    pub place: PlaceArguments,
}

/// Whose Topics are looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Those of these namespaces.
    Namespaces(BTreeSet<String>),
    /// All.
    All,
}

impl Watched {
    /// Returns whether a namespace is watched.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// Where the operator lives and what it watches.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose Topics are looked after.
    pub watched: Watched,
    /// Namespace of the Lease and of the brokers.
    pub namespace: String,
    /// Holder of the Lease.
    pub identity: String,
    /// Name of the Lease.
    pub lease: String,
}

/// What the operator runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it lives.
    pub place: Place,
    /// Addresses of brokers.
    pub brokers: Vec<String>,
    /// Certificates of authorities.
    pub ca_pem: Option<Vec<u8>>,
    /// The brokers' StatefulSet.
    pub statefulset: Option<String>,
    /// Between two looks at the same topic.
    pub resync: Duration,
    /// From deletion until a topic is let go without its brokers.
    pub deletion_deadline: Duration,
    /// How old an observation may be for Ready to say what was observed.
    pub observation_age: Duration,
    /// Topics at the same time.
    pub concurrency: usize,
    /// Validity of the Lease.
    pub lease_duration: Duration,
    /// Where to listen.
    pub host: String,
    /// Where to listen; 0 takes a free port.
    pub port: u16,
}

impl TryFrom<PlaceArguments> for Place {
    type Error = anyhow::Error;

    fn try_from(arguments: PlaceArguments) -> anyhow::Result<Self> {
        let watched = match arguments.watch.trim() {
            "all" => Watched::All,
            "own" => Watched::Namespaces(BTreeSet::from([arguments.namespace.clone()])),
            list => Watched::Namespaces(
                list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            ),
        };
        if watched == Watched::Namespaces(BTreeSet::new()) {
            bail!("PUBSUB_WATCH names no namespace: write own, all, or a list such as team-a,team-b");
        }
        let host = || std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
        let identity = arguments.pod_name.filter(|name| !name.is_empty()).or_else(host);
        let identity =
            identity.context("set POD_NAME: without a name of its own an operator can't hold the Lease")?;
        Ok(Self { watched, namespace: arguments.namespace, identity, lease: arguments.lease })
    }
}

impl TryFrom<RunArguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: RunArguments) -> anyhow::Result<Self> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let ca_pem = arguments.ca_file.as_ref().map(read).transpose()?;
        if arguments.resync_seconds == 0 || arguments.lease_seconds < 3 {
            bail!("PUBSUB_RESYNC_SECONDS must be 1 or more, PUBSUB_LEASE_SECONDS 3 or more");
        }
        if !(1..=CONCURRENCY_MAX).contains(&arguments.concurrency) {
            bail!("PUBSUB_CONCURRENCY must be from 1 to {CONCURRENCY_MAX}");
        }
        Ok(Self {
            place: Place::try_from(arguments.place)?,
            brokers: arguments.brokers,
            ca_pem,
            statefulset: arguments.statefulset.filter(|name| !name.is_empty()),
            resync: Duration::from_secs(arguments.resync_seconds),
            deletion_deadline: Duration::from_secs(arguments.deletion_deadline_seconds),
            observation_age: Duration::from_secs(arguments.observation_seconds),
            concurrency: arguments.concurrency,
            lease_duration: Duration::from_secs(u64::from(arguments.lease_seconds)),
            host: arguments.host,
            port: arguments.port,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(watch: &str) -> anyhow::Result<Place> {
        Place::try_from(PlaceArguments {
            watch: watch.to_owned(),
            namespace: "home".to_owned(),
            pod_name: Some("operator-0".to_owned()),
            lease: "l".to_owned(),
        })
    }

    #[test]
    fn what_is_watched_is_its_own_namespace_a_list_or_all() {
        let names =
            |names: &[&str]| Watched::Namespaces(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(place("own").unwrap().watched, names(&["home"]));
        assert_eq!(place("a, b,").unwrap().watched, names(&["a", "b"]));
        assert_eq!(place("all").unwrap().watched, Watched::All);
        assert!(place(" , ").is_err());
        assert!(
            place("a,b").unwrap().watched.contains("b") && !place("a,b").unwrap().watched.contains("home")
        );
    }

    #[test]
    fn settings_that_could_not_work_are_refused() {
        let run = |extra: &[&str]| {
            let base = ["pubsub-operator", "run", "--brokers", "http://b:1,http://b:2", "--pod-name", "p"];
            let arguments = Arguments::parse_from(base.iter().chain(extra));
            let Command::Run(run) = arguments.command else { panic!("run was asked for") };
            Config::try_from(*run)
        };
        assert_eq!(run(&[]).unwrap().brokers, ["http://b:1", "http://b:2"]);
        for refused in [
            ["--resync-seconds", "0"],
            ["--lease-seconds", "2"],
            ["--concurrency", "0"],
            ["--ca-file", "/nowhere"],
        ] {
            assert!(run(&refused).is_err(), "{refused:?}");
        }
    }
}
