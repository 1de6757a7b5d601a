//! Flags and environment of the discovery service, checked once into real types.

use anyhow::{Context, bail};
use clap::Parser;
use pubsub_client::peer_auth::PeerSecret;
use pubsub_core::ids::BrokerId;
use std::collections::BTreeSet;

/// Tells brokers of a Pubsub cluster where the others are.
#[derive(Parser)]
#[command(name = "pubsub-discovery", version)]
pub struct Arguments {
    /// Host name or address to listen on. Anything but loopback needs PUBSUB_CLUSTER_SECRET.
    #[arg(long, env = "DISCOVERY_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "DISCOVERY_PORT", default_value_t = 9090)]
    pub port: u16,
    /// Secret that all processes of the cluster share, at least 16 bytes. With it, brokers must sign, and pushes are signed.
    #[arg(
        long,
        env = "PUBSUB_CLUSTER_SECRET",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub cluster_secret: String,
    /// Ids of the brokers that found a new cluster, for brokers without VOTERS of their own; empty for none.
    #[arg(long, env = "GENESIS_VOTERS", default_value = "1,2,3")]
    pub genesis_voters: String,
    /// Stop when standard input ends: for a parent process that must not leave this one behind.
    #[arg(long)]
    pub stop_on_stdin_eof: bool,
}

/// What the discovery service runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub host: String,
    /// Where to listen; 0 takes a free port.
    pub port: u16,
    /// Signs pushes and is demanded of registrations; without it the service stays on loopback.
    pub secret: Option<PeerSecret>,
    /// Handed out to brokers as founders of a new cluster.
    pub genesis_voters: Option<Vec<BrokerId>>,
}

impl TryFrom<Arguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: Arguments) -> anyhow::Result<Self> {
        let secret = match arguments.cluster_secret.trim() {
            "" => None,
            text => Some(PeerSecret::new(text).context("read PUBSUB_CLUSTER_SECRET")?),
        };
        let genesis_voters = voters(&arguments.genesis_voters).context("read GENESIS_VOTERS")?;
        Ok(Self { host: arguments.host, port: arguments.port, secret, genesis_voters })
    }
}

fn voters(text: &str) -> anyhow::Result<Option<Vec<BrokerId>>> {
    let mut ids = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let id =
            part.parse().with_context(|| format!("{part:?} is not a broker id; write ids as in 1,2,3"))?;
        if !ids.insert(BrokerId(id)) {
            bail!("broker {id} is named twice");
        }
    }
    Ok((!ids.is_empty()).then(|| ids.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn voters_are_sorted_ids_or_none_at_all() {
        assert_eq!(voters("3, 1,2").unwrap(), Some(vec![BrokerId(1), BrokerId(2), BrokerId(3)]));
        assert_eq!(voters("").unwrap(), None);
        assert!(voters("1,x").is_err());
        assert!(voters("1,1").is_err());
    }

    #[test]
    fn a_short_secret_is_refused_instead_of_ignored() {
        let arguments = Arguments::parse_from(["pubsub-discovery", "--cluster-secret", "short"]);
        let text = format!("{:#}", Config::try_from(arguments).unwrap_err());
        assert!(text.contains("PUBSUB_CLUSTER_SECRET"), "{text}");
    }

    #[test]
    fn a_configuration_that_is_printed_does_not_show_the_secret() {
        let arguments = Arguments::parse_from(["pubsub-discovery", "--cluster-secret", "0123456789abcdef"]);
        let config = Config::try_from(arguments).unwrap();
        assert!(!format!("{config:?}").contains("0123456789"));
    }
}
