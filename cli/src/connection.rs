//! Which brokers a command talks to.

use crate::exit::Failure;
use clap::Args;
use pubsub_client::Client;
use pubsub_client::brokers::parse_list;
use pubsub_client::transport::TransportConfig;
use std::path::PathBuf;
use std::time::Duration;

/// Where `pubsub local` puts its brokers.
const DEFAULT_BROKERS: &str = "http://127.0.0.1:8081,http://127.0.0.1:8082,http://127.0.0.1:8083";

/// Options of every command that talks to brokers.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Brokers")]
pub(crate) struct Connection {
    /// Brokers to talk to, separated by commas [default: PUBSUB_BROKERS, BROKER_API, or the ones of `pubsub local`]
    #[arg(long, value_name = "URLS")]
    brokers: Option<String>,
    /// One broker to talk to first
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Authorities (PEM) that https:// brokers are checked against
    #[arg(long, value_name = "FILE", env = "PUBSUB_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl Connection {
    /// Returns the addresses to begin with, as options and environment say.
    fn list(&self, environment: impl Fn(&str) -> Option<String>) -> String {
        match (&self.broker, &self.brokers) {
            (Some(first), Some(others)) => format!("{first},{others}"),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => ["PUBSUB_BROKERS", "BROKER_API"]
                .into_iter()
                .filter_map(environment)
                .find(|value| !value.trim().is_empty())
                .unwrap_or_else(|| DEFAULT_BROKERS.to_owned()),
        }
    }

    /// Makes a client that tries for `patience` before it says that no broker can be reached.
    pub(crate) fn client(&self, patience: Duration) -> Result<Client, Failure> {
        let urls = parse_list(&self.list(|name| std::env::var(name).ok()))
            .map_err(|error| Failure::usage(error.to_string()))?;
        let mut config = TransportConfig::default();
        config.retry.deadline = patience;
        if let Some(file) = &self.ca_file {
            let pem = std::fs::read(file)
                .map_err(|error| Failure::usage(format!("can't read {}: {error}", file.display())))?;
            config.ca_pem.push(pem);
        }
        Client::with_config(&urls, config).map_err(|error| Failure::usage(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(brokers: Option<&str>, broker: Option<&str>) -> Connection {
        Connection { brokers: brokers.map(str::to_owned), broker: broker.map(str::to_owned), ca_file: None }
    }

    #[test]
    fn options_come_before_the_environment_and_that_before_the_default() {
        let environment = |name: &str| Some(format!("http://{name}:1"));
        assert_eq!(
            connection(Some("http://b:1"), Some("http://a:1")).list(environment),
            "http://a:1,http://b:1"
        );
        assert_eq!(connection(None, None).list(environment), "http://PUBSUB_BROKERS:1");
        let seed = |name: &str| (name == "BROKER_API").then(|| "http://x:1".to_owned());
        assert_eq!(connection(None, None).list(seed), "http://x:1");
        assert_eq!(connection(None, None).list(|_| Some(String::new())), DEFAULT_BROKERS);
    }
}
