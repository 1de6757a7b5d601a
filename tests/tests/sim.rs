//! Whole clusters in the seeded simulator: random fault mixes, reproducibility, and one seed on demand.
//!
//! `SIM_SEEDS` sets how many seeds the mixes take, `SIM_SEED` the first one, `SIM_SCENARIO` the scenario of `one_seed`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "sim/mutants.rs"]
mod mutants;
#[path = "sim/scenarios.rs"]
mod scenarios;

use pubsub_tests::sim::scenarios::{MIXES, named};
use pubsub_tests::sim::{Report, Scenario, run, run_verbose, run_with, search};
use std::time::Instant;

/// Seeds over all mixes, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 1_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Runs a share of all seeds on one mix and prints what they did and how fast.
///
/// A scenario that is asked for by name gets all seeds, and a seed that is asked for is the only one.
fn survives(mix: &Scenario) {
    let only = std::env::var("SIM_SCENARIO").ok();
    if only.as_ref().is_some_and(|name| name != mix.name) {
        return;
    }
    let mixes = if only.is_some() { 1 } else { u64::try_from(MIXES.len()).unwrap() };
    let seeds = setting("SIM_SEEDS").unwrap_or(if setting("SIM_SEED").is_some() { 1 } else { SEEDS });
    let share = seeds.div_ceil(mixes);
    let first = setting("SIM_SEED").unwrap_or(1);
    let start = Instant::now();
    let mut reports: Vec<Report> = Vec::new();
    for seed in first..first + share {
        match run(seed, mix, &[]) {
            Ok(report) => reports.push(report),
            Err(violation) => panic!("{violation}"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let rate = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds.max(0.001);
    println!(
        "{}: {share} seeds in {seconds:.1} s: {:.1} seeds/s, {:.0} steps/s, {:.0} simulated s; {} terms, {} images, \
         {} batches, {} acknowledged, {} read, {} commits of groups",
        mix.name,
        rate(share),
        rate(sum(|report| report.steps)),
        f64::from(u32::try_from(sum(|report| report.simulated_ms)).unwrap_or(u32::MAX)) / 1_000.0,
        sum(|report| report.terms),
        sum(|report| report.images),
        sum(|report| report.batches),
        sum(|report| report.acknowledged),
        sum(|report| report.read),
        sum(|report| report.commits),
    );
    assert!(sum(|report| report.acknowledged) >= share, "the clients of {} get nothing done", mix.name);
}

#[test]
fn no_invariant_breaks_under_ordinary_faults_of_three_brokers() {
    survives(&MIXES[0]);
}

#[test]
fn no_invariant_breaks_under_ordinary_faults_of_five_brokers() {
    survives(&MIXES[1]);
}

#[test]
fn no_invariant_breaks_in_an_election_storm_of_three_brokers() {
    survives(&MIXES[2]);
}

#[test]
fn no_invariant_breaks_in_an_election_storm_of_five_brokers() {
    survives(&MIXES[3]);
}

#[test]
fn no_invariant_breaks_in_a_replication_storm() {
    survives(&MIXES[4]);
}

#[test]
fn no_invariant_breaks_while_replicas_move() {
    survives(&MIXES[5]);
}

#[test]
fn the_same_seed_gives_byte_identical_traces() {
    for mix in &MIXES {
        let once = run_verbose(7, mix, &[]).map_err(|violation| violation.to_string()).unwrap();
        let again = run_verbose(7, mix, &[]).map_err(|violation| violation.to_string()).unwrap();
        let other = run_verbose(8, mix, &[]).map_err(|violation| violation.to_string()).unwrap();
        assert_eq!(once, again, "{}", mix.name);
        assert_ne!(once.trace_hash, other.trace_hash, "{}", mix.name);
    }
}

#[test]
fn a_failing_schedule_is_shrunk_to_the_faults_that_it_takes() {
    let rule = [pubsub_core::control::Weakening::UnprovenLeadership];
    let mix = named("ordinary_3").unwrap();
    let found = search(1, 100, &mix, &rule).unwrap();
    let shrunk = run(found.seed, &mix, &rule).unwrap_err();
    assert_eq!(shrunk.invariant, found.invariant);
    assert!(shrunk.faults.len() < found.faults.len(), "{} of {}", shrunk.faults.len(), found.faults.len());
    let only = shrunk.faults.iter().copied().collect();
    let again = run_with(found.seed, &mix, &rule, Some(only)).unwrap_err();
    assert_eq!((again.invariant, again.at_ms), (shrunk.invariant, shrunk.at_ms));
    assert!(shrunk.to_string().contains("FAULTS="), "{shrunk}");
}

/// Repeats one run (or so many first seeds of a mix): `SIM_SEED`, `SIM_SCENARIO` and `SIM_FAULTS` as a failure prints them,
/// `SIM_WITHOUT` a rule to be switched off.
#[test]
fn one_seed() {
    let asked = std::env::var("SIM_SCENARIO").ok();
    let name = asked.clone().unwrap_or_else(|| "ordinary_3".to_owned());
    let scenario = named(&name).unwrap_or_else(|| panic!("there is no scenario {name:?}"));
    let without = std::env::var("SIM_WITHOUT").unwrap_or_default();
    let without: Vec<_> =
        mutants::TESTED.iter().copied().filter(|rule| format!("{rule:?}") == without).collect();
    let faults = std::env::var("SIM_FAULTS").ok();
    let faults = faults.map(|text| text.split(',').filter_map(|number| number.trim().parse().ok()).collect());
    let first = setting("SIM_SEED").unwrap_or(1);
    let many = setting("SIM_SEEDS").filter(|_| setting("SIM_SEED").is_none() && asked.is_some());
    for seed in first..first + many.unwrap_or(1) {
        match run_with(seed, &scenario, &without, faults.clone()) {
            Ok(report) => println!("{scenario:?} with seed {seed}: {report:?}"),
            Err(violation) => panic!("{violation}"),
        }
    }
}
