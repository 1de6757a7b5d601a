//! The other programs that this executable can be.

use crate::exit::Failure;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Another program, under the name that it shows in its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A broker.
    Broker(&'static str),
    /// The discovery service.
    Discovery(&'static str),
    /// The operator for Kubernetes.
    #[cfg(feature = "operator")]
    Operator(&'static str),
}

impl Program {
    /// Returns which program this executable is when it is called by this name: the container image holds it once, with links.
    pub(crate) fn called(name: &OsStr) -> Option<Self> {
        match Path::new(name).file_name()?.to_str()? {
            "pubsub-broker" => Some(Self::Broker("pubsub-broker")),
            "pubsub-discovery" => Some(Self::Discovery("pubsub-discovery")),
            #[cfg(feature = "operator")]
            "pubsub-operator" => Some(Self::Operator("pubsub-operator")),
            _ => None,
        }
    }

    /// Runs it until it is told to stop.
    pub(crate) fn run(self, args: Vec<OsString>) -> Result<(), Failure> {
        finish(match self {
            Self::Broker(name) => pubsub_broker::cli_main(named(name, args)),
            Self::Discovery(name) => pubsub_discovery::cli_main(named(name, args)),
            #[cfg(feature = "operator")]
            Self::Operator(name) => pubsub_operator::cli_main(named(name, args)),
        })
    }
}

/// Puts a program's name where argument parsers expect it.
fn named(name: &str, args: Vec<OsString>) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(name)).chain(args)
}

fn finish(outcome: anyhow::Result<()>) -> Result<(), Failure> {
    outcome.map_err(|error| Failure::local(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_alone_tells_which_program_it_is_wherever_it_lies() {
        let called = |name: &str| Program::called(OsStr::new(name));
        assert_eq!(called("/pubsub-broker"), Some(Program::Broker("pubsub-broker")));
        assert_eq!(called("bin/pubsub-discovery"), Some(Program::Discovery("pubsub-discovery")));
        for name in ["pubsub", "/pubsub-broker/pubsub", "pubsub-brokers", ""] {
            assert_eq!(called(name), None, "{name}");
        }
    }
}
