//! The other programs that this executable can be.

use crate::exit::Failure;
use std::ffi::OsString;

/// Runs a broker until it is told to stop.
pub(crate) fn broker(args: Vec<OsString>) -> Result<(), Failure> {
    finish(pubsub_broker::cli_main(named("pubsub run-broker", args)))
}

/// Runs the discovery service until it is told to stop.
pub(crate) fn discovery(args: Vec<OsString>) -> Result<(), Failure> {
    finish(pubsub_discovery::cli_main(named("pubsub run-discovery", args)))
}

/// Puts a program's name where argument parsers expect it.
fn named(name: &str, args: Vec<OsString>) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(name)).chain(args)
}

fn finish(outcome: anyhow::Result<()>) -> Result<(), Failure> {
    outcome.map_err(|error| Failure::local(format!("{error:#}")))
}
