//! How long publishers waited: the time in which nothing of theirs was acknowledged.

use super::{History, Ms};
use serde::Serialize;
use std::collections::BTreeMap;

/// Percentiles of a set of pauses, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many there were.
    pub count: usize,
    /// Half of them are not longer.
    pub p50: Ms,
    /// Of a hundred, 99 are not longer.
    pub p99: Ms,
    /// The longest.
    pub max: Ms,
}

impl Percentiles {
    /// Returns those of a set; nearest rank.
    pub fn of(mut pauses: Vec<Ms>) -> Self {
        pauses.sort_unstable();
        let rank = |percent: usize| match pauses.len() {
            0 => 0,
            count => pauses[(count * percent).div_ceil(100).max(1) - 1],
        };
        Self { count: pauses.len(), p50: rank(50), p99: rank(99), max: rank(100) }
    }
}

/// Returns, for each publisher, when acknowledgements reached it, in order.
pub fn acknowledgements(history: &History) -> BTreeMap<usize, Vec<Ms>> {
    let mut times: BTreeMap<usize, Vec<Ms>> = BTreeMap::new();
    for publish in history.publishes.iter().filter(|publish| publish.publisher != usize::MAX) {
        let times = times.entry(publish.publisher).or_default();
        if publish.outcome.acked().is_some() {
            times.push(publish.span.ended);
        }
    }
    for times in times.values_mut() {
        times.sort_unstable();
    }
    times
}

fn longest(times: &[Ms], from: Ms, until: Ms) -> Ms {
    // Only what follows the fault is its doing; a pause that was under way before counts from the fault on.
    let within = times.iter().copied().filter(|time| (from..until).contains(time));
    let mut last = from;
    let mut longest = 0;
    for time in within.chain([until]) {
        longest = longest.max(time - last);
        last = time;
    }
    longest
}

/// Returns the longest pause of each publisher between two acknowledgements, in order of publishers.
pub fn longest_of_each(history: &History) -> BTreeMap<usize, Ms> {
    let gap = |times: Vec<Ms>| times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    acknowledgements(history).into_iter().map(|(publisher, times)| (publisher, gap(times))).collect()
}

/// Returns the longest time in which nobody got an acknowledgement.
pub fn longest_of_all(history: &History) -> Ms {
    let mut times: Vec<Ms> = acknowledgements(history).into_values().flatten().collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// What one fault cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The fault's kind.
    pub kind: String,
    /// When it was injected.
    pub at: Ms,
    /// Longest pause of one publisher until the next fault.
    pub worst: Ms,
    /// Longest time in which nobody got an acknowledgement until the next fault.
    pub service: Ms,
}

/// Returns the cost of each fault that counts, in order of time. The time from a fault to the next one that counts, or to
/// the last acknowledgement of the run, is its own.
pub fn costs(history: &History) -> Vec<Cost> {
    let each = acknowledgements(history);
    let mut all: Vec<Ms> = each.values().flatten().copied().collect();
    all.sort_unstable();
    let end = all.last().copied().unwrap_or_default();
    let counted: Vec<_> =
        history.faults.iter().filter_map(|fault| Some((fault, fault.kind.as_ref()?))).collect();
    let mut costs = Vec::with_capacity(counted.len());
    for (index, (fault, kind)) in counted.iter().enumerate() {
        let until = counted.get(index + 1).map_or(end, |(next, _)| next.at).max(fault.at);
        let worst = each.values().map(|times| longest(times, fault.at, until)).max().unwrap_or_default();
        let service = longest(&all, fault.at, until);
        costs.push(Cost { kind: (*kind).clone(), at: fault.at, worst, service });
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Fault, Outcome, Place, Publish, Span};

    fn acked(publisher: usize, ended: Ms) -> Publish {
        Publish {
            publisher,
            place: Place::of("t", 0),
            values: vec![format!("{publisher}-{ended}")],
            via: 1,
            span: Span { began: ended.saturating_sub(1), ended },
            tries: 1,
            sequence: None,
            outcome: Outcome::Acked(ended),
        }
    }

    fn fault(at: Ms, counts: bool) -> Fault {
        Fault { what: format!("fault at {at}"), at, kind: counts.then(|| "kill".to_owned()) }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
        let hundred = Percentiles::of((1..=100).rev().collect());
        assert_eq!((hundred.count, hundred.p50, hundred.p99, hundred.max), (100, 50, 99, 100));
        let one = Percentiles::of(vec![7]);
        assert_eq!((one.p50, one.p99, one.max), (7, 7, 7));
    }

    #[test]
    fn a_fault_costs_what_the_most_patient_publisher_waited_until_the_next_one() {
        let mut history = History::default();
        history.publishes.extend([10, 400, 410, 1000].map(|at| acked(0, at)));
        history.publishes.extend([10, 100, 900, 1000].map(|at| acked(1, at)));
        history.faults.extend([fault(50, true), fault(60, false), fault(500, true)]);
        let costs = costs(&history);
        // Publisher 1 was served at 100 and then not until the second fault.
        assert_eq!(
            costs.iter().map(|cost| (cost.at, cost.worst)).collect::<Vec<_>>(),
            [(50, 400), (500, 500)]
        );
        assert_eq!(costs.iter().map(|cost| cost.service).collect::<Vec<_>>(), [300, 400]);
        assert_eq!(longest_of_each(&history), BTreeMap::from([(0, 590), (1, 800)]));
        assert_eq!(longest_of_all(&history), 490);
    }
}
