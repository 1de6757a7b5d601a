//! What `pubsub local` will run, worked out before anything is started. Pure but for [`LocalPlan::busy_ports`].

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Most brokers of a local cluster: as many as a topic can have replicas.
pub(crate) const BROKERS_MAX: u32 = pubsub_core::limits::REPLICATION_FACTOR_MAX;

/// A local cluster as asked for.
#[derive(Clone, Debug)]
pub(crate) struct LocalPlan {
    /// How many brokers, with ids from 1.
    pub(crate) brokers: u32,
    /// How many of them found the cluster if the data directory is new: fixed for its life.
    pub(crate) founders: u32,
    /// Where everything is kept.
    pub(crate) data: PathBuf,
    /// A broker's client port is this plus its id.
    pub(crate) port_base: u16,
    /// A broker's election port is this plus its id.
    pub(crate) election_port_base: u16,
    /// Port of the discovery service.
    pub(crate) discovery_port: u16,
}

/// One child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChildPlan {
    /// What people call it, also the name of its log file.
    pub(crate) name: String,
    /// Arguments for the same executable.
    pub(crate) args: Vec<OsString>,
    /// Added to the environment; the cluster secret is added when it is started.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// Base URL of its HTTP listener.
    pub(crate) url: String,
}

/// A port that something else listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BusyPort {
    /// The port.
    pub(crate) port: u16,
    /// What it was meant for.
    pub(crate) purpose: String,
    /// The option that moves it.
    pub(crate) option: &'static str,
    /// What the system said.
    pub(crate) reason: String,
}

impl LocalPlan {
    /// Returns the client ports, election ports and the discovery port, with what they are for and the option that moves them.
    ///
    /// # Errors
    /// Names the option whose value leads past the last port.
    pub(crate) fn ports(&self) -> Result<Vec<(u16, String, &'static str)>, String> {
        let mut ports = vec![(self.discovery_port, "discovery".to_owned(), "--discovery-port")];
        for id in 1..=self.brokers {
            ports.push((
                self.port(self.port_base, id, "--port-base")?,
                format!("clients of broker {id}"),
                "--port-base",
            ));
            let election = self.port(self.election_port_base, id, "--election-port-base")?;
            ports.push((election, format!("peers of broker {id}"), "--election-port-base"));
        }
        let mut seen = std::collections::BTreeMap::new();
        for (port, purpose, option) in &ports {
            if let Some(other) = seen.insert(*port, purpose.clone()) {
                return Err(format!(
                    "port {port} would serve both {other} and {purpose}: choose another {option}"
                ));
            }
        }
        Ok(ports)
    }

    fn port(&self, base: u16, id: u32, option: &str) -> Result<u16, String> {
        let id = u16::try_from(id).expect("a local cluster has few brokers");
        base.checked_add(id)
            .ok_or_else(|| format!("{option} {base} leads past port 65535: choose a smaller one"))
    }

    /// Returns the ports that can't be listened on now.
    ///
    /// # Errors
    /// As [`LocalPlan::ports`].
    pub(crate) fn busy_ports(&self) -> Result<Vec<BusyPort>, String> {
        let busy = |(port, purpose, option): (u16, String, &'static str)| {
            let error = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err()?;
            Some(BusyPort { port, purpose, option, reason: error.to_string() })
        };
        Ok(self.ports()?.into_iter().filter_map(busy).collect())
    }

    /// Returns the base URL of a broker's client listener.
    pub(crate) fn broker_url(&self, id: u32) -> String {
        format!("http://127.0.0.1:{}", u32::from(self.port_base) + id)
    }

    /// Returns every broker's base URL, in order of id.
    pub(crate) fn broker_urls(&self) -> Vec<String> {
        (1..=self.brokers).map(|id| self.broker_url(id)).collect()
    }

    /// Returns the file in which the cluster secret is kept.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.data.join("cluster-secret")
    }

    /// Returns the directory of the logs.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.data.join("log")
    }

    fn voters(&self) -> String {
        (1..=self.founders).map(|id| id.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Returns discovery's process.
    pub(crate) fn discovery(&self) -> ChildPlan {
        ChildPlan {
            name: "discovery".to_owned(),
            args: ["run-discovery", "--stop-on-stdin-eof"].map(OsString::from).to_vec(),
            env: vec![
                ("DISCOVERY_HOST", "127.0.0.1".to_owned()),
                ("DISCOVERY_PORT", self.discovery_port.to_string()),
                ("GENESIS_VOTERS", self.voters()),
            ],
            log: self.log_dir().join("discovery.log"),
            url: format!("http://127.0.0.1:{}", self.discovery_port),
        }
    }

    /// Returns the process of one broker.
    pub(crate) fn broker(&self, id: u32) -> ChildPlan {
        let name = format!("broker-{id}");
        ChildPlan {
            args: ["run-broker", "--stop-on-stdin-eof"].map(OsString::from).to_vec(),
            env: vec![
                ("BROKER_ID", id.to_string()),
                ("BROKER_HTTP_HOST", "127.0.0.1".to_owned()),
                ("BROKER_HTTP_PORT", (u32::from(self.port_base) + id).to_string()),
                ("BROKER_API_BASE", self.broker_url(id)),
                ("ELECTION_HOST", "127.0.0.1".to_owned()),
                ("ELECTION_PORT", (u32::from(self.election_port_base) + id).to_string()),
                ("DISCOVERY_URL", format!("http://127.0.0.1:{}", self.discovery_port)),
                ("PUBSUB_DATA_DIR", path_text(&self.data.join(&name))),
                ("VOTERS", self.voters()),
            ],
            log: self.log_dir().join(format!("{name}.log")),
            url: self.broker_url(id),
            name,
        }
    }

    /// Returns the options that commands need to find this cluster; empty for the default ports.
    pub(crate) fn client_options(&self) -> String {
        if self.port_base == 8080 && self.brokers == 3 {
            return String::new();
        }
        format!(" --brokers {}", self.broker_urls().join(","))
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan() -> LocalPlan {
        LocalPlan {
            brokers: 3,
            founders: 3,
            data: PathBuf::from("/data"),
            port_base: 8080,
            election_port_base: 5000,
            discovery_port: 9090,
        }
    }

    #[test]
    fn brokers_get_the_ports_that_users_know() {
        let ports: Vec<u16> = plan().ports().unwrap().into_iter().map(|(port, ..)| port).collect();
        assert_eq!(ports, [9090, 8081, 5001, 8082, 5002, 8083, 5003]);
        let broker = plan().broker(2);
        assert_eq!(broker.url, "http://127.0.0.1:8082");
        assert!(broker.env.contains(&("ELECTION_PORT", "5002".to_owned())));
        assert!(broker.env.contains(&("VOTERS", "1,2,3".to_owned())));
        assert!(broker.env.contains(&("PUBSUB_DATA_DIR", "/data/broker-2".to_owned())));
    }

    #[test]
    fn ports_that_collide_or_do_not_exist_are_refused_with_the_option_to_change() {
        let past = LocalPlan { port_base: 65_534, ..plan() };
        assert!(past.ports().unwrap_err().contains("--port-base"));
        let collide = LocalPlan { election_port_base: 8080, ..plan() };
        assert!(collide.ports().unwrap_err().contains("--election-port-base"));
    }

    #[test]
    fn a_busy_port_is_found_before_anything_starts() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let busy = LocalPlan { discovery_port: port, brokers: 0, ..plan() }.busy_ports().unwrap();
        assert_eq!(busy.len(), 1);
        assert_eq!((busy[0].port, busy[0].option), (port, "--discovery-port"));
    }

    #[test]
    fn the_hints_name_brokers_only_when_they_are_not_the_default_ones() {
        assert_eq!(plan().client_options(), "");
        assert_eq!(LocalPlan { brokers: 1, ..plan() }.client_options(), " --brokers http://127.0.0.1:8081");
    }
}
