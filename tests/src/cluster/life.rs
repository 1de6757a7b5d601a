//! How a broker's process lives and ends: signals, restarts, and whether it is still there.

use super::Cluster;
use super::await_condition::scaled;
use super::process::Process;
use anyhow::{Context, bail};
use rustix::process::Signal;
use std::process::ExitStatus;
use std::time::Duration;

impl Cluster {
    fn take(&self, id: u32) -> Process {
        let process = self.lock().get_mut(&id).and_then(|broker| broker.process.take());
        process.unwrap_or_else(|| panic!("broker {id} does not run"))
    }

    /// Kills a broker without warning (SIGKILL).
    pub fn kill9(&self, id: u32) {
        self.take(id).kill();
        if let Some(proxies) = &self.proxies {
            proxies.gone(id);
        }
    }

    /// Asks a broker to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it doesn't within ten seconds.
    pub async fn sigterm(&self, id: u32) -> anyhow::Result<ExitStatus> {
        let mut process = self.take(id);
        process.signal(Signal::TERM)?;
        process.wait_ended(scaled(Duration::from_secs(10))).await
    }

    /// Freezes a broker (SIGSTOP).
    pub fn sigstop(&self, id: u32) {
        self.signal(id, Signal::STOP);
    }

    /// Lets a frozen broker go on (SIGCONT).
    pub fn sigcont(&self, id: u32) {
        self.signal(id, Signal::CONT);
    }

    fn signal(&self, id: u32, signal: Signal) {
        let brokers = self.lock();
        let process = brokers.get(&id).and_then(|broker| broker.process.as_ref());
        process.expect("the broker runs").signal(signal).expect("a running process takes signals");
    }

    /// Waits until a broker's process has ended by itself, and forgets it.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn wait_ended(&self, id: u32) -> anyhow::Result<ExitStatus> {
        self.take(id).wait_ended(scaled(Duration::from_secs(15))).await
    }

    /// Kills a broker if it runs, and starts it again.
    pub fn restart(&self, id: u32) {
        if self.is_running(id) {
            self.kill9(id);
        }
        self.start_broker(id);
    }

    /// Checks that a broker that was started has not ended by itself.
    ///
    /// # Errors
    /// When it has, or was not started.
    pub fn check_alive(&self, id: u32) -> anyhow::Result<()> {
        let mut brokers = self.lock();
        let process = brokers.get_mut(&id).and_then(|broker| broker.process.as_mut());
        match process.context("its process was stopped")?.ended()? {
            None => Ok(()),
            Some(status) => bail!("its process ended with {status}"),
        }
    }
}
