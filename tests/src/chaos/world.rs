//! One run's cluster with its workload, and what schedules do to it.

use crate::cluster::await_condition::{scaled, within};
use crate::cluster::{Cluster, Settings, leader_answer};
use crate::history::check::{Rule, Violation};
use crate::history::{AdminChange, Change, Fault, History, Outcome, Place};
use crate::http::{Content, Http};
use crate::sim::rng::Rng;
use crate::workload::admin::{Administrator, administrate, change};
use crate::workload::group::{Member, consume};
use crate::workload::publisher::{Plan, Retry, publish};
use crate::workload::reader::{From, read};
use crate::workload::watch::watch;
use crate::workload::{Crew, Stage};
use anyhow::{Context, bail};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What publishers do with an answer that leaves open whether their records were stored.
pub const RETRY: Retry = Retry::SameSequence;
/// The topic that everybody uses: replicated so that one volume may be lost.
pub const ORDERS: &str = "orders";
/// A topic of two replicas that goes on with one.
pub const PAIRS: &str = "pairs";
/// A topic that is deleted and made again and again.
pub const CHURNED: &str = "churned";
/// The group that reads [`ORDERS`].
pub const GROUP: &str = "readers";
/// Time between an acknowledgement and a publisher's next request: a load that leaves the machine room for elections.
const PUBLISHER_PAUSE: Duration = Duration::from_millis(15);
/// How long a publisher waits for one answer before it asks another broker.
const PUBLISHER_PATIENCE: Duration = Duration::from_secs(3);
/// Records of each publisher that show that service goes on.
const PROGRESS: usize = 8;
/// How long service may take to go on, at a timeout scale of 1.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
/// How long the cluster may take to be whole again, at a timeout scale of 1.
pub const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What kind of cluster a schedule needs, and who works on it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Brokers, all of them voters.
    pub brokers: u32,
    /// Replicas of each partition of [`ORDERS`].
    pub replicas: u32,
    /// Fewest of them in sync with which it takes writes.
    pub min_isr: u32,
    /// Partitions of [`ORDERS`].
    pub partitions: u32,
    /// Whether [`PAIRS`] is there too: not where volumes are lost, since the loss of one may cost it records.
    pub pairs: bool,
    /// Whether [`CHURNED`] is there too, with a publisher of its own.
    pub churned: bool,
    /// Publishers, readers of the group and administrators.
    pub workers: (usize, usize, usize),
    /// Whether brokers know each other by configuration, and not by discovery alone.
    pub static_peers: bool,
    /// Size of each volume, where they must be file systems of their own.
    pub volume_mib: Option<u64>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            brokers: 3,
            replicas: 3,
            min_isr: 2,
            partitions: 3,
            pairs: true,
            churned: false,
            workers: (6, 3, 1),
            static_peers: true,
            volume_mib: None,
        }
    }
}

/// The cluster, its workload, and what was done to it.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// What the workers share.
    pub stage: Stage,
    /// Kind of cluster.
    pub shape: Shape,
    /// For requests of the schedule itself.
    pub http: Http,
    pub(super) writers: Crew,
    pub(super) readers: Crew,
    own: Mutex<Own>,
}

/// What the schedule itself did and saw.
#[derive(Debug)]
struct Own {
    rng: Rng,
    history: History,
    notes: Vec<String>,
}

impl World {
    /// Starts a cluster and its workload and waits until everybody is served.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn start(shape: Shape, seed: u64) -> anyhow::Result<Self> {
        let cluster = Arc::new(Cluster::start(settings(&shape)));
        let own = Own { rng: Rng::new(seed), history: History::default(), notes: Vec::new() };
        let mut world = Self {
            stage: Stage::new(&cluster, shape.workers.0),
            cluster,
            shape,
            http: Http::new(),
            writers: Crew::default(),
            readers: Crew::default(),
            own: Mutex::new(own),
        };
        world.whole().await.context("the cluster starts")?;
        let Shape { replicas, min_isr, partitions, .. } = world.shape;
        world.create(ORDERS, &format!("rf={replicas}&min_isr={min_isr}&partitions={partitions}")).await?;
        if world.shape.pairs {
            world.create(PAIRS, "rf=2&min_isr=1&partitions=1").await?;
        }
        if world.shape.churned {
            world.create(CHURNED, "rf=3&partitions=1").await?;
        }
        world.employ();
        world.progress().await.context("the first records")?;
        world.whole().await.context("the topics")?;
        Ok(world)
    }

    async fn create(&self, topic: &str, query: &str) -> anyhow::Result<()> {
        let began = self.stage.clock.now();
        let url = format!("{}/admin/topics?name={topic}&{query}&wait=ready", self.cluster.url(1));
        let answer = self.http.post(&url).await?;
        if answer.status != 200 {
            bail!("{answer}");
        }
        let (topic, span, outcome) = (topic.to_owned(), self.stage.clock.since(began), Outcome::Acked(()));
        let made = AdminChange { topic, change: Change::Create, via: 1, span, outcome };
        self.own().history.changes.push(made);
        Ok(())
    }

    /// Returns the partitions that publishers write to and readers read.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> =
            (0..self.shape.partitions).map(|partition| Place::of(ORDERS, partition)).collect();
        places.extend(self.shape.pairs.then(|| Place::of(PAIRS, 0)));
        places
    }

    fn employ(&mut self) {
        let (places, (publishers, members, administrators)) = (self.places(), self.shape.workers);
        let stage = || self.stage.clone();
        for (number, seed) in (0..publishers).zip(self.seed()..) {
            let churns = self.shape.churned && number + 1 == publishers;
            let place = if churns { Place::of(CHURNED, 0) } else { places[number % places.len()].clone() };
            // One of them sends several records at once.
            let batch = if number == 1 { 4 } else { 1 };
            let (pause, patience) = (PUBLISHER_PAUSE, PUBLISHER_PATIENCE);
            let plan = Plan { number, place, batch, retry: RETRY, pause, patience, seed };
            self.writers.add(publish(stage(), plan, self.writers.stop.clone()));
        }
        for (number, seed) in (0..administrators).zip(self.seed()..) {
            let administrator = Administrator { name: format!("admin{number}"), seed };
            self.writers.add(administrate(stage(), administrator, self.writers.stop.clone()));
        }
        for (number, seed) in (0..members).zip(self.seed()..) {
            let (group, topic) = (GROUP.to_owned(), ORDERS.to_owned());
            let member = Member { group, name: format!("member{number}"), topic, seed };
            self.readers.add(consume(stage(), member, self.readers.stop.clone()));
        }
        self.readers.add(read(stage(), places.clone(), From::Any, self.seed(), self.readers.stop.clone()));
        for broker in self.cluster.ids() {
            self.watch(broker);
        }
    }

    /// Sets a reader of its replicas and a watcher on a broker.
    fn watch(&mut self, broker: u32) {
        let (from, stop) = (From::Own(broker), self.readers.stop.clone());
        self.readers.add(read(self.stage.clone(), self.places(), from, 0, stop.clone()));
        self.readers.add(watch(self.stage.clone(), broker, stop));
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seed(&self) -> u64 {
        self.own().rng.bits() >> 16
    }

    /// Picks one at random, by the run's seed.
    ///
    /// # Errors
    /// When there is none.
    pub fn pick(&self, ids: &[u32]) -> anyhow::Result<u32> {
        self.own().rng.pick(ids).context("nobody to pick")
    }

    /// Notes a fault that is about to be injected; with a kind, its cost is counted among others of its kind.
    pub fn fault(&self, what: impl Into<String>, kind: Option<&str>) {
        let (what, at, kind) = (what.into(), self.stage.clock.now(), kind.map(str::to_owned));
        eprintln!("    {:>7.1} s  {what}", Duration::from_millis(at).as_secs_f64());
        self.own().history.faults.push(Fault { what, at, kind });
    }

    /// Notes something for the report.
    pub fn note(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("               {what}");
        self.own().notes.push(what);
    }

    /// Notes that a broker holds nothing any more, for good.
    pub fn drained(&self, broker: u32) {
        self.own().history.drained.insert(broker);
    }

    /// Notes a broken rule.
    pub fn violate(&self, rule: Rule, what: impl Into<String>) {
        self.own().history.noticed.push(Violation::of(rule, what));
    }

    /// Takes what the schedule itself did and saw, and its notes.
    pub(super) fn take_own(&self) -> (History, Vec<String>) {
        let mut own = self.own();
        (std::mem::take(&mut own.history), std::mem::take(&mut own.notes))
    }

    /// Makes one admin change through a broker and keeps it in the history.
    pub async fn change(&self, via: u32, topic: &str, what: Change) -> Outcome<()> {
        let began = self.stage.clock.now();
        let outcome = change(&self.http, &self.stage.cluster, via, topic, &what).await;
        let (topic, span) = (topic.to_owned(), self.stage.clock.since(began));
        let made = AdminChange { topic, change: what, via, span, outcome: outcome.clone() };
        self.own().history.changes.push(made);
        outcome
    }

    /// Returns the running brokers.
    pub fn running(&self) -> Vec<u32> {
        self.cluster.ids().into_iter().filter(|id| self.cluster.is_running(*id)).collect()
    }

    /// Looks at something on one broker.
    ///
    /// # Errors
    /// When it does not answer with 200 soon.
    pub async fn look(&self, broker: u32, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.cluster.url(broker));
        let answer = self.http.try_send("GET", &url, Content::default(), LOOK_TIMEOUT).await?;
        if answer.status == 200 { Ok(answer.json()) } else { bail!("{answer}") }
    }

    /// Returns the controller, once all running brokers agree on it.
    ///
    /// # Errors
    /// When they don't.
    pub async fn controller(&self) -> anyhow::Result<u32> {
        let running = self.running();
        within("all brokers agree on the controller", scaled(PROGRESS_DEADLINE), async || {
            let mut said = Vec::new();
            for id in &running {
                said.push(leader_answer(&self.http, &self.cluster.url(*id)).await?);
            }
            let (leader, epoch, _) = *said.first().context("nobody runs")?;
            let agreed = said.iter().all(|(one, at, _)| (*one, *at) == (leader, epoch));
            leader.filter(|_| agreed).with_context(|| format!("they say {said:?}"))
        })
        .await
    }

    /// Returns the leader of a partition as one broker sees it.
    ///
    /// # Errors
    /// When it has none, or the broker does not say.
    pub async fn leader_seen_by(&self, broker: u32, place: &Place) -> anyhow::Result<u32> {
        let seen = self.look(broker, &format!("/admin/topics/{}", place.topic)).await?;
        let partition = usize::try_from(place.partition)?;
        let leader = seen["partitions"][partition]["leader"].as_u64().context("no leader")?;
        Ok(u32::try_from(leader)?)
    }

    /// Returns the leader of a partition, once some running broker names one.
    ///
    /// # Errors
    /// When none does.
    pub async fn leader(&self, place: &Place) -> anyhow::Result<u32> {
        let running = self.running();
        within(&format!("{place} has a leader"), scaled(PROGRESS_DEADLINE), async || {
            let mut last = None;
            for broker in &running {
                match self.leader_seen_by(*broker, place).await {
                    Ok(leader) if running.contains(&leader) => return Ok(leader),
                    Ok(leader) => last = Some(anyhow::anyhow!("broker {leader} does not run")),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| anyhow::anyhow!("nobody runs")))
        })
        .await
    }

    /// Waits until every publisher got some more records acknowledged.
    ///
    /// # Errors
    /// Names those who didn't in time.
    pub async fn progress(&self) -> anyhow::Result<()> {
        let before = self.stage.acked();
        within("every publisher is served", scaled(PROGRESS_DEADLINE), async || {
            let now = self.stage.acked();
            let waiting: Vec<usize> =
                (0..now.len()).filter(|one| now[*one] < before[*one] + PROGRESS).collect();
            if waiting.is_empty() { Ok(()) } else { bail!("publishers {waiting:?} of {} wait", now.len()) }
        })
        .await
    }

    /// Waits until every broker runs, is ready, and sees a whole cluster: a controller, all brokers alive, leaders, all
    /// replicas in sync.
    ///
    /// # Errors
    /// Says what is missing at the deadline.
    pub async fn whole(&self) -> anyhow::Result<()> {
        within("the cluster is whole", scaled(WHOLE_DEADLINE), async || {
            for id in self.cluster.ids() {
                self.cluster.check_alive(id)?;
                self.look(id, "/readyz").await?;
                let health = self.look(id, "/healthz/cluster").await?;
                if health["status"] != "ok" {
                    bail!("broker {id} sees {health}");
                }
            }
            Ok(())
        })
        .await
    }

    /// Lets a fault last for a while, while the workload goes on.
    pub async fn lasts(&self, duration: Duration) {
        crate::cluster::await_condition::fault_lasts(duration).await;
    }
}

/// Returns the partition of [`ORDERS`] whose leader schedules pick.
pub fn orders() -> Place {
    Place::of(ORDERS, 0)
}

fn settings(shape: &Shape) -> Settings {
    let least = shape.volume_mib.map(|_| ("PUBSUB_MIN_FREE_BYTES".to_owned(), FREE_BYTES_MIN.to_string()));
    Settings {
        brokers: shape.brokers,
        voters: (1..=shape.brokers).collect(),
        proxies: true,
        static_peers: shape.static_peers,
        volume_mib: shape.volume_mib,
        environment: least.into_iter().collect(),
        ..Settings::default()
    }
}

/// Below this much room, brokers with small volumes refuse records.
pub const FREE_BYTES_MIN: u64 = 8 << 20;
