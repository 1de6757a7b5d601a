//! Real processes under load, broken on purpose, by schedules with names and a seed.
//!
//! Each run has a cluster of its own and a workload of publishers, group members, readers of every replica and
//! administrators, whose answers go into one history ([`crate::history`]). A schedule injects faults; then everything is
//! healed, the cluster settles, and the history is checked against what is there in the end. The seed decides what a
//! schedule picks and in which order schedules come; what processes make of it is their own.

mod changes;
mod discovery;
mod kills;
mod links;
pub mod report;
mod roles;
pub mod schedules;
mod settle;
mod volumes;
pub mod world;

use crate::cluster::await_condition::timeout_scale;
use crate::cluster::volume::Volume;
use crate::history::History;
use crate::history::check::check;
use crate::sim::rng::Rng;
use anyhow::Context;
use report::{Machine, Report, Run};
use schedules::{SCHEDULES, Schedule};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use world::World;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs are begun until this time is over; the last one is finished.
    pub duration: Duration,
    /// Decides about everything that is left to chance.
    pub seed: u64,
    /// Only these, in this order, again and again; none: all, in an order of the seed.
    pub schedules: Vec<Schedule>,
    /// How often each role is killed by the schedule that measures that.
    pub times: usize,
    /// Where the data and logs of a run that broke a rule are kept.
    pub keep: PathBuf,
}

/// Runs schedules until the time is over or `interrupted` turns true; the run that is under way then is still checked.
///
/// # Errors
/// When the harness itself can't go on.
pub async fn run(options: &Options, mut interrupted: watch::Receiver<bool>) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut rng = Rng::new(options.seed);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        timeout_scale: timeout_scale(),
        seed: options.seed,
        retry: format!("{:?}", world::RETRY),
        machine: Machine::here(),
        runs: Vec::new(),
        not_reached: Vec::new(),
    };
    let mut round = 0;
    loop {
        let mut pass =
            if options.schedules.is_empty() { SCHEDULES.to_vec() } else { options.schedules.clone() };
        if options.schedules.is_empty() {
            shuffle(&mut pass, &mut rng);
        }
        for (place, schedule) in pass.iter().enumerate() {
            // The first of all runs, and each schedule that was asked for by name, is run whatever the time.
            let wanted = round == 0 && (place == 0 || !options.schedules.is_empty());
            if *interrupted.borrow() || (begun.elapsed() >= options.duration && !wanted) {
                if round == 0 {
                    report.not_reached = pass[place..].iter().map(|schedule| schedule.name).collect();
                }
                return Ok(report);
            }
            // A schedule that is repeated by name and seed does the same again.
            let seed = options.seed + round;
            eprintln!("== {} with seed {seed}: {}", schedule.name, schedule.what);
            let run = one(schedule, seed, options, &mut interrupted).await?;
            eprintln!("== {}", run.line());
            report.runs.push(run);
        }
        round += 1;
    }
}

fn shuffle(schedules: &mut [Schedule], rng: &mut Rng) {
    for place in (1..schedules.len()).rev() {
        let other = rng.below(u64::try_from(place).expect("a small number") + 1);
        schedules.swap(place, usize::try_from(other).expect("below a small number"));
    }
}

/// Runs one schedule on a cluster of its own.
///
/// # Errors
/// When the harness itself can't go on.
pub async fn one(
    schedule: &Schedule,
    seed: u64,
    options: &Options,
    interrupted: &mut watch::Receiver<bool>,
) -> anyhow::Result<Run> {
    let begun = Instant::now();
    let shape = (schedule.shape)();
    if shape.volume_mib.is_some()
        && let Err(error) = trial()
    {
        let why = format!("it needs file systems of its own, and none can be made here: {error:#}");
        return Ok(Run::skipped(schedule.name, seed, why));
    }
    let world = World::start(shape, seed).await?;
    let outcome = tokio::select! {
        outcome = (schedule.run)(&world, options.times) => outcome,
        _ = interrupted.wait_for(|interrupted| *interrupted) => {
            world.note("interrupted: what was seen until then is checked");
            Ok(())
        }
    };
    let (settled, world) = settle::settle(world, outcome).await;
    let mut run = Run::of(schedule.name, seed, &settled.history);
    run.violations = check(&settled.history, &settled.ending);
    run.notes.extend_from_slice(&settled.notes);
    run.recovered_ms = settled.recovered_ms;
    run.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if !run.violations.is_empty() {
        accuse(&run, &settled.history, &world, options)?;
    }
    Ok(run)
}

/// Tries whether volumes can be mounted and frozen.
fn trial() -> anyhow::Result<()> {
    Volume::possible(tempfile::tempdir().context("a temporary directory")?.path())
}

/// Keeps what a broken rule can be understood by, and says how to repeat the run.
fn accuse(run: &Run, history: &History, world: &World, options: &Options) -> anyhow::Result<()> {
    for violation in run.violations.iter().take(20) {
        eprintln!("  BROKEN {violation}");
    }
    let kept = kept_at(&options.keep, run);
    world.cluster.keep(&kept)?;
    std::fs::write(kept.join("run.json"), serde_json::to_vec_pretty(run)?).context("write the findings")?;
    std::fs::write(kept.join("history.json"), serde_json::to_vec(history)?).context("write the history")?;
    eprintln!("  data and logs: {}", kept.display());
    eprintln!("  repeat: make chaos SCHEDULE={} SEED={}", run.schedule, run.seed);
    Ok(())
}

/// Returns a place that nothing was kept at before.
fn kept_at(keep: &Path, run: &Run) -> PathBuf {
    let name = format!("{}-{}", run.schedule, run.seed);
    let places = (0_u32..).map(|number| match number {
        0 => keep.join(&name),
        number => keep.join(format!("{name}-{number}")),
    });
    places.into_iter().find(|place| !place.exists()).expect("numbers don't run out")
}
