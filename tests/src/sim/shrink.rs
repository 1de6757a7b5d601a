//! Makes a failing run easier to read: leaves out as many of its faults as can be while the same rule breaks.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002), greedily: ever smaller pieces of what is left are tried.

use super::{Run, Violation};
use std::collections::BTreeSet;

/// Runs spent on one violation; each takes some milliseconds.
const RUNS_MAX: usize = 200;

/// Returns the violation of the smallest run that was found, with its trace. A violation without random faults stays as it is.
pub(super) fn shrink(run: &Run<'_>, violation: &Violation) -> Box<Violation> {
    let breaks = |kept: &BTreeSet<u64>| {
        let smaller = Run { only: Some(kept.clone()), ..run.clone() };
        smaller.once().err().filter(|found| found.invariant == violation.invariant)
    };
    let mut kept: BTreeSet<u64> = violation.faults.iter().copied().collect();
    let mut runs = 0;
    let mut size = kept.len().div_ceil(2);
    while size > 0 && runs < RUNS_MAX {
        let before = kept.len();
        let numbers: Vec<_> = kept.iter().copied().collect();
        for piece in numbers.chunks(size) {
            let mut fewer = kept.clone();
            piece.iter().for_each(|number| {
                fewer.remove(number);
            });
            runs += 1;
            if runs <= RUNS_MAX && breaks(&fewer).is_some() {
                kept = fewer;
            }
        }
        // What could be left out may free more of the same size.
        if size > 1 || kept.len() == before {
            size = if size == 1 { 0 } else { size.div_ceil(2).min(size - 1) };
        }
    }
    let only = (kept.len() < violation.faults.len()).then_some(kept).or_else(|| run.only.clone());
    let verbose = Run { only, verbose: true, ..run.clone() };
    verbose.once().expect_err("the same seed gives the same run")
}
