//! Eager publishers and readers of one partition: the load of tests that inject one fault.

use super::publisher::{Plan, publish};
use super::reader::{From, read};
use super::watch::watch;
use super::{Crew, Stage};
use crate::brokers::Brokers;
use crate::cluster::await_condition::eventually;
use crate::cluster::topic::{Stored, Topic};
use crate::history::check::check;
use crate::history::{Ending, History, Outcome, Place, pauses};
use anyhow::bail;
use std::sync::Arc;
use std::time::Duration;

/// Publishers and readers at work.
#[derive(Debug)]
pub struct Load {
    stage: Stage,
    place: Place,
    crew: Crew,
}

impl Load {
    /// Starts publishers (`acks=all`, each value once) and readers, all through any broker, and watches who commands.
    pub fn start(
        cluster: &Arc<impl Brokers + 'static>,
        topic: &Topic,
        publishers: usize,
        readers: u64,
    ) -> Self {
        let stage = Stage::new(cluster, publishers);
        let place = Place::of(&topic.name, 0);
        let mut crew = Crew::default();
        for (number, seed) in (0..publishers).zip(0..) {
            let plan = Plan::eager(number, place.clone(), seed);
            crew.add(publish(stage.clone(), plan, crew.stop.clone()));
        }
        for seed in 0..readers {
            crew.add(read(stage.clone(), vec![place.clone()], From::Any, seed, crew.stop.clone()));
        }
        for broker in cluster.ids() {
            crew.add(watch(stage.clone(), broker, crew.stop.clone()));
        }
        Self { stage, place, crew }
    }

    /// Returns how many records were acknowledged so far.
    pub fn acked(&self) -> usize {
        self.stage.acked().iter().sum()
    }

    /// Waits until `more` records were acknowledged from now on.
    pub async fn progress(&self, more: usize) {
        let aim = self.acked() + more;
        let what = format!("publishers get {more} more records acknowledged");
        eventually(&what, Duration::from_secs(30), async || {
            let acked = self.acked();
            if acked >= aim { Ok(()) } else { bail!("{acked} of {aim}") }
        })
        .await;
    }

    /// Stops everybody and returns what they saw.
    pub async fn stop(self) -> Loaded {
        let mut history = History::default();
        self.crew.finish(&mut history).await;
        Loaded { history, place: self.place }
    }
}

/// What was seen of one partition under load.
#[derive(Debug)]
pub struct Loaded {
    history: History,
    place: Place,
}

impl Loaded {
    /// Takes values that the test published itself, and looked after itself, as perhaps stored.
    pub fn adopt(&mut self, values: &[&str]) {
        self.history.adopt(&self.place, values);
    }

    /// Returns the longest time between two acknowledgements.
    pub fn longest_pause(&self) -> Duration {
        Duration::from_millis(pauses::longest_of_all(&self.history))
    }

    /// Prints counts and the longest pause under the name of the fault.
    pub fn report(&self, fault: &str) {
        let unknown =
            self.history.publishes.iter().filter(|publish| matches!(publish.outcome, Outcome::Unknown(_)));
        let (acked, all, unknown) = (self.history.acked(), self.history.publishes.len(), unknown.count());
        let (pause, claims) = (self.longest_pause(), &self.history.claims);
        eprintln!(
            "{fault}: {acked} of {all} acknowledged, {unknown} unknown, longest pause {pause:?}, controllers by epoch {claims:?}"
        );
    }

    /// Checks the rules against the log that all replicas hold.
    ///
    /// # Panics
    /// With the broken rules, ten at most.
    pub fn check(&self, log: &[Stored]) {
        let broken = check(&self.history, &Ending::of_log(&self.place, log));
        let shown: Vec<String> = broken.iter().take(10).map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{} broken rules:\n  {}", broken.len(), shown.join("\n  "));
    }
}
