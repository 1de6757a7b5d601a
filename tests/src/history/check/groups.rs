//! Rules of consumer groups: positions and what was given to members.

use super::{Rule, Violation};
use crate::history::{Commit, Ending, History, Ms, Outcome, Place, Span, Standing};
use std::collections::{BTreeMap, BTreeSet};

/// A group and a partition.
type Key<'a> = (&'a str, &'a Place);

/// Everything about one partition of one group.
#[derive(Default)]
struct Partition<'a> {
    commits: Vec<&'a Commit>,
    standings: Vec<&'a Standing>,
    given: BTreeSet<u64>,
}

/// Returns the broken rules of groups.
pub(super) fn check(history: &History, ending: &Ending) -> Vec<Violation> {
    let mut broken = Vec::new();
    let partitions = gather(history);
    for ((group, place), partition) in &partitions {
        let mut say = |rule, what: String| {
            broken.push(Violation::of(rule, format!("group {group} in {place}: {what}")));
        };
        partition.real(&mut say);
        partition.kept(&mut say);
        let log_end = ending
            .topics
            .get(&place.topic)
            .and_then(|topic| topic.partitions.get(&place.partition))
            .map(|end| end.log().len() as u64);
        let position = ending.positions.get(&((*group).to_owned(), (*place).clone()));
        if let (Some(log_end), Some(position)) = (log_end, position) {
            partition.complete(log_end, *position, &mut say);
        }
    }
    broken
}

fn gather(history: &History) -> BTreeMap<Key<'_>, Partition<'_>> {
    let mut partitions: BTreeMap<Key<'_>, Partition<'_>> = BTreeMap::new();
    for commit in &history.commits {
        partitions.entry((&commit.group, &commit.place)).or_default().commits.push(commit);
    }
    for standing in &history.standings {
        partitions.entry((&standing.group, &standing.place)).or_default().standings.push(standing);
    }
    for read in &history.reads {
        if let Some(group) = &read.group {
            let given = &mut partitions.entry((group, &read.place)).or_default().given;
            given.extend(read.records.iter().map(|(offset, _)| *offset));
        }
    }
    partitions
}

/// Says the first of many: one broken promise is seen again and again.
fn first_of(found: Vec<String>, rule: Rule, say: &mut impl FnMut(Rule, String)) {
    if let Some((first, more)) = found.split_first() {
        say(rule, format!("{first}, and {} more like it", more.len()));
    }
}

/// The highest acknowledged commit over before a time.
struct Highest(Vec<(Ms, i64)>);

impl Highest {
    fn of(commits: &[&Commit]) -> Self {
        let acked = commits.iter().filter(|commit| commit.outcome.acked().is_some());
        let mut ended: Vec<(Ms, i64)> = acked.map(|commit| (commit.span.ended, commit.offset)).collect();
        ended.sort_unstable();
        let mut highest = i64::MIN;
        for (_, offset) in &mut ended {
            highest = highest.max(*offset);
            *offset = highest;
        }
        Self(ended)
    }

    fn before(&self, time: Ms) -> Option<i64> {
        let count = self.0.partition_point(|(ended, _)| *ended < time);
        self.0[..count].last().map(|(_, offset)| *offset)
    }
}

impl Partition<'_> {
    /// A position is −1 or what somebody committed, or tried to.
    fn real(&self, say: &mut impl FnMut(Rule, String)) {
        let tried = |standing: &Standing| {
            self.commits.iter().any(|commit| {
                commit.offset == standing.committed
                    && commit.span.began <= standing.span.ended
                    && !matches!(commit.outcome, Outcome::Refused(_))
            })
        };
        let invented = self.standings.iter().filter(|standing| standing.committed >= 0 && !tried(standing));
        let shown = invented.map(|standing| {
            format!("at {} ms it was {}, which nobody committed", standing.span.ended, standing.committed)
        });
        first_of(shown.collect(), Rule::PositionIsReal, say);
    }

    /// No position, and no accepted commit, is behind an acknowledged one, unless a commit of unknown outcome may have come
    /// late and set it back.
    fn kept(&self, say: &mut impl FnMut(Rule, String)) {
        let highest = Highest::of(&self.commits);
        let set_back = |to: i64, until: Ms| {
            self.commits.iter().any(|commit| {
                matches!(commit.outcome, Outcome::Unknown(_))
                    && commit.offset <= to
                    && commit.span.began <= until
            })
        };
        // What was acknowledged before an operation began, if the operation knows nothing of it.
        let fell_behind = |offset: i64, span: Span| {
            let before = highest.before(span.began).filter(|before| *before > offset)?;
            (!set_back(offset, span.ended)).then_some((before, span))
        };
        let stood = self.standings.iter().filter_map(|standing| {
            let (before, Span { began, ended }) = fell_behind(standing.committed, standing.span)?;
            let position = standing.committed;
            Some(format!("{before} was acknowledged, and at {began} to {ended} ms it was {position}"))
        });
        first_of(stood.collect(), Rule::PositionIsKept, say);
        let acked = self.commits.iter().filter(|commit| commit.outcome.acked().is_some());
        let allowed = acked.filter_map(|commit| {
            let (before, Span { began, ended }) = fell_behind(commit.offset, commit.span)?;
            let (member, offset) = (&commit.member, commit.offset);
            Some(format!(
                "{before} was acknowledged, and at {began} to {ended} ms member {member} was allowed to commit {offset}"
            ))
        });
        first_of(allowed.collect(), Rule::PositionIsKept, say);
    }

    /// A drained group has finished everything, and was given everything.
    fn complete(&self, log_end: u64, position: i64, say: &mut impl FnMut(Rule, String)) {
        let next = u64::try_from(position + 1).unwrap_or_default();
        if next > log_end {
            say(Rule::PositionIsReal, format!("it is {position}, and the log ends at {log_end}"));
        }
        let missing: Vec<u64> =
            (0..next.min(log_end)).filter(|offset| !self.given.contains(offset)).collect();
        if let (Some(first), count) = (missing.first(), missing.len()) {
            let what = format!("{count} records were given to no member, offset {first} the first");
            say(Rule::GroupSkipsNothing, what);
        }
    }
}
