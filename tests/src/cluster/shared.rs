//! One cluster for all tests of a file: starting one takes longer than most tests.

use super::{Cluster, Settings};
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};

/// A cluster that tests of one process use one after the other, or together.
#[derive(Debug)]
pub struct Shared {
    settings: fn() -> Settings,
    cluster: Mutex<Option<Arc<Cluster>>>,
}

/// A cluster that a test shares with others. When the test fails, the ends of the logs are printed.
#[derive(Debug)]
pub struct Common {
    cluster: Arc<Cluster>,
}

impl Deref for Common {
    type Target = Arc<Cluster>;
    fn deref(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cluster.print_logs();
        }
    }
}

/// A cluster that one test has for itself until this is dropped.
#[derive(Debug)]
pub struct Exclusive<'a> {
    place: MutexGuard<'a, Option<Arc<Cluster>>>,
    cluster: Arc<Cluster>,
}

impl Shared {
    /// Says what the cluster will be like, once somebody needs it.
    pub const fn new(settings: fn() -> Settings) -> Self {
        Self { settings, cluster: Mutex::const_new(None) }
    }

    /// Returns the cluster for tests that break nothing; they may run at the same time.
    pub async fn get(&self) -> Common {
        let mut place = self.cluster.lock().await;
        Common { cluster: Arc::clone(self.fill(&mut place).await) }
    }

    /// Returns the cluster for one test alone, whole and ready. A test that fails takes the cluster with it.
    pub async fn exclusive(&self) -> Exclusive<'_> {
        let mut place = self.cluster.lock().await;
        let cluster = Arc::clone(self.fill(&mut place).await);
        // From here on a cluster that does not recover is given up.
        let exclusive = Exclusive { place, cluster };
        let cluster = &exclusive.cluster;
        if let Some(proxies) = &cluster.proxies {
            proxies.heal();
        }
        for id in cluster.ids().into_iter().filter(|id| !cluster.is_running(*id)) {
            cluster.start_broker(id);
        }
        cluster.wait_ready().await;
        cluster.controller().await;
        cluster.mark_logs();
        exclusive
    }

    async fn fill<'a>(&self, place: &'a mut Option<Arc<Cluster>>) -> &'a Arc<Cluster> {
        if place.is_none() {
            *place = Some(Arc::new(Cluster::ready((self.settings)()).await));
        }
        place.as_ref().expect("just filled")
    }
}

impl Deref for Exclusive<'_> {
    type Target = Arc<Cluster>;
    fn deref(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The last holder drops it, which prints the logs and ends the processes.
            *self.place = None;
        }
    }
}

/// Lets clusters of one process run one at a time, so that they don't disturb each other's timing.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}
