//! Brokers under test, wherever they run.

use std::fmt::Debug;

/// Brokers that workloads and checks reach over HTTP.
pub trait Brokers: Debug + Send + Sync {
    /// Returns the ids of all brokers, running or not.
    fn ids(&self) -> Vec<u32>;

    /// Returns the base address of a broker's client listener.
    fn url(&self, id: u32) -> String;

    /// Returns what tells one run of a broker from its next, if it runs and that is known.
    fn run_of(&self, id: u32) -> Option<u32>;
}
