//! The seeded simulator: whole clusters of the production machines under a virtual clock, a faulty network and disks
//! that crash, with every invariant of `docs/protocol.md` checked on every step.
//!
//! [`run`] is a pure function of seed, scenario and weakenings. A failing run is repeated with its trace kept as text,
//! and says with which command to repeat it.

pub mod changes;
pub mod checks;
pub mod clients;
pub mod confirms;
pub mod disk;
pub mod drive;
pub mod faults;
pub mod network;
pub mod node;
pub mod producers;
pub mod rng;
pub mod scenarios;
mod shell;
mod shrink;
mod trace;
pub mod world;

use pubsub_core::control::Weakening;
use pubsub_core::invariants::Invariant;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Flow, Setup, World};

/// A named course of events; what it leaves open, the seed decides.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As in `docs/protocol.md`, or the name of a fault mix.
    pub name: &'static str,
    /// Number of brokers.
    pub brokers: u32,
    /// How many of them found the cluster and vote.
    pub voters: u32,
    /// What happens.
    pub script: fn(&mut World) -> Flow,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} brokers, {} voters)", self.name, self.brokers, self.voters)
    }
}

/// What a run without a violation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hash of everything that happened: equal for equal seeds.
    pub trace_hash: u64,
    /// Inputs given to machines.
    pub steps: u64,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// Controller epochs.
    pub terms: u64,
    /// Committed metadata images.
    pub images: u64,
    /// Committed record batches.
    pub batches: u64,
    /// Acknowledged publishes with `acks=all`.
    pub acknowledged: u64,
    /// Records that consumers read.
    pub read: u64,
}

/// A broken invariant and how to see it again.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant; `None` if a machine panicked.
    pub invariant: Option<Invariant>,
    /// What was seen.
    pub detail: String,
    /// The run's seed.
    pub seed: u64,
    /// The run's scenario.
    pub scenario: &'static str,
    /// When, ms of simulated time.
    pub at_ms: u64,
    /// Numbers of the random mix's faults that came before it.
    pub faults: Vec<u64>,
    /// Whether others were left out.
    pub left_out: bool,
    /// The last events before it.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let name = self.invariant.map_or_else(|| "a panic".to_owned(), |invariant| format!("{invariant:?}"));
        writeln!(
            f,
            "{name} at {} ms in {} with seed {}: {}",
            self.at_ms, self.scenario, self.seed, self.detail
        )?;
        let numbers = self.faults.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let (make, cargo) = if self.left_out {
            (format!(" FAULTS={numbers}"), format!(" SIM_FAULTS={numbers}"))
        } else {
            Default::default()
        };
        let (seed, scenario) = (self.seed, self.scenario);
        writeln!(f, "repeat: make sim SEED={seed} SCENARIO={scenario}{make}")?;
        write!(
            f,
            "    or: SIM_SEED={seed} SIM_SCENARIO={scenario}{cargo} cargo test -p pubsub-tests --test sim -- one_seed --nocapture"
        )
    }
}

/// Runs one scenario under one seed, with the given rules of the machines switched off.
///
/// # Errors
/// The first broken invariant, or a panic of a machine, with as few of a random mix's faults as break it too, and the trace of
/// a second, verbose run with only those.
pub fn run(seed: u64, scenario: &Scenario, weakened: &[Weakening]) -> Result<Report, Box<Violation>> {
    run_with(seed, scenario, weakened, None)
}

/// Runs as [`run`], but of a random mix only the faults with the given numbers happen.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    seed: u64,
    scenario: &Scenario,
    weakened: &[Weakening],
    only: Option<BTreeSet<u64>>,
) -> Result<Report, Box<Violation>> {
    let run = Run { seed, scenario, weakened, only, verbose: false };
    match run.once() {
        Ok(report) => Ok(report),
        Err(violation) => Err(shrink::shrink(&run, &violation)),
    }
}

/// Runs as [`run`], but renders and hashes the text of every event: for proving that a run is reproducible.
///
/// # Errors
/// As [`run`], with nothing left out.
pub fn run_verbose(seed: u64, scenario: &Scenario, weakened: &[Weakening]) -> Result<Report, Box<Violation>> {
    Run { seed, scenario, weakened, only: None, verbose: true }.once()
}

/// Runs seeds from `first` on until one shows a violation; `None` if `count` seeds show none.
pub fn search(first: u64, count: u64, scenario: &Scenario, weakened: &[Weakening]) -> Option<Box<Violation>> {
    (first..first + count).find_map(|seed| {
        let run = Run { seed, scenario, weakened, only: None, verbose: false };
        run.once().err()
    })
}

/// One run to be made.
#[derive(Clone)]
struct Run<'a> {
    seed: u64,
    scenario: &'a Scenario,
    weakened: &'a [Weakening],
    only: Option<BTreeSet<u64>>,
    verbose: bool,
}

impl Run<'_> {
    fn once(&self) -> Result<Report, Box<Violation>> {
        let trace_lines =
            std::env::var("SIM_TRACE_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(150);
        let setup = Setup {
            seed: self.seed,
            brokers: self.scenario.brokers,
            voters: self.scenario.voters,
            weakened: self.weakened.to_vec(),
            verbose: self.verbose,
            trace_lines,
            faults: self.only.clone(),
        };
        let mut world = World::new(setup);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.scenario.script)(&mut world)));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            return Err(self.violation(&mut world, None, text.unwrap_or_default()));
        }
        if let Some((invariant, detail)) = world.broken.take() {
            return Err(self.violation(&mut world, Some(invariant), detail));
        }
        Ok(world.report())
    }

    fn violation(&self, world: &mut World, invariant: Option<Invariant>, detail: String) -> Box<Violation> {
        let happened = |number: &u64| self.only.as_ref().is_none_or(|only| only.contains(number));
        Box::new(Violation {
            invariant,
            detail,
            seed: self.seed,
            scenario: self.scenario.name,
            at_ms: world.now(),
            faults: (0..world.faults).filter(happened).collect(),
            left_out: self.only.is_some(),
            trace: world.trace.take_lines(),
        })
    }
}

impl World {
    fn report(&self) -> Report {
        Report {
            trace_hash: self.trace.hash(),
            steps: self.steps,
            simulated_ms: self.now(),
            terms: self.metadata.terms(),
            images: self.metadata.settled_count(),
            batches: self.logs.committed_batches(),
            acknowledged: self.clients.acknowledged,
            read: self.clients.consumers.iter().map(|consumer| consumer.records).sum(),
        }
    }
}
