//! Every check: a rule set, its bounds, and what must come of it.

use crate::bully::Bully;
use crate::election::{Election, Rule};
use crate::explore::{Outcome, every_state, walks};
use crate::replication::{self, Replication};
use std::time::Instant;

/// What must come of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is broken, and the model committed in several epochs.
    HoldsAndCommits,
    /// Nothing is broken; the bounds are too small for commits in several epochs.
    Holds,
    /// A property is broken.
    Refuted,
}

#[derive(Debug)]
enum Search {
    Bully,
    Election(Election, Way),
    Replication(Replication, Way),
}

#[derive(Clone, Copy, Debug)]
enum Way {
    EveryState,
    /// So many random steps.
    Walks(u64),
}

/// One rule set with its bounds.
#[derive(Debug)]
pub struct Check {
    /// Model and weakened rule.
    pub name: &'static str,
    /// What must come of it.
    pub expect: Expect,
    /// Cheap enough for an unoptimised build.
    pub quick: bool,
    search: Search,
}

/// Steps of one random walk.
const DEPTH: u32 = 400;

impl Check {
    fn new(name: &'static str, expect: Expect, search: Search) -> Self {
        Self { name, expect, quick: false, search }
    }

    fn quick(self) -> Self {
        Self { quick: true, ..self }
    }

    fn explore(&self, threads: usize) -> Outcome {
        match &self.search {
            Search::Bully => every_state(Bully, threads),
            Search::Election(model, Way::EveryState) => every_state(model.clone(), threads),
            Search::Election(model, Way::Walks(steps)) => walks(model, *steps, DEPTH),
            Search::Replication(model, Way::EveryState) => every_state(model.clone(), threads),
            Search::Replication(model, Way::Walks(steps)) => walks(model, *steps, DEPTH),
        }
    }

    fn bounds(&self) -> String {
        match &self.search {
            Search::Bully => "one cut".to_owned(),
            Search::Election(model, _) => format!(
                "{} volumes, epochs {}, versions {}, crashes {}, losses {}, rollbacks {}",
                model.ids.len(),
                model.epochs,
                model.versions,
                model.crashes,
                model.losses,
                model.rollbacks
            ),
            Search::Replication(model, _) => {
                format!(
                    "records {}, epochs {}, ISR changes {}, crashes {}, losses {}",
                    model.records, model.epochs, model.wishes, model.crashes, model.losses
                ) + if model.after_commit { ", after a first commit" } else { "" }
            }
        }
    }

    /// Runs the check, tells its line, and returns whether it came out as expected.
    pub fn run(&self, tell: impl FnOnce(String)) -> bool {
        let began = Instant::now();
        let outcome = self.explore(2);
        let seconds = began.elapsed().as_secs_f64();
        let verdict = match &outcome.broken {
            Some((law, steps)) => format!("refuted in {} steps: not \"{law}\"", steps.len()),
            None if !outcome.finished => "not finished".to_owned(),
            None if outcome.reached => "holds, commits in several epochs".to_owned(),
            None => "holds".to_owned(),
        };
        let good = match self.expect {
            Expect::Refuted => outcome.broken.is_some(),
            Expect::Holds => outcome.broken.is_none() && outcome.finished,
            Expect::HoldsAndCommits => outcome.broken.is_none() && outcome.finished && outcome.reached,
        };
        let mark = if good { "ok  " } else { "FAIL" };
        let (name, bounds, explored) = (self.name, self.bounds(), outcome.explored);
        tell(format!("{mark} {name}: {bounds}; {explored}, {seconds:.1} s; {verdict}"));
        good
    }

    /// Returns the steps that refute the rule set, one a line.
    pub fn trace(&self) -> String {
        match self.explore(1).broken {
            Some((law, steps)) => format!("{}\nnot \"{law}\"", steps.join("\n")),
            None => "nothing is broken within the bounds".to_owned(),
        }
    }
}

fn elects(name: &'static str, expect: Expect, model: Election) -> Check {
    Check::new(name, expect, Search::Election(model, Way::EveryState))
}

fn elects_walking(name: &'static str, expect: Expect, model: Election, steps: u64) -> Check {
    Check::new(name, expect, Search::Election(model, Way::Walks(steps)))
}

/// Volumes 0 to 2 vote; 3 is empty and bears the id of 2, which it is to replace: removed first, then added.
fn replacement(rule: Rule, epochs: u8, versions: usize) -> Election {
    let one_step = rule == Rule::VoterReplacedInOneStep;
    let changes = if one_step { vec![0b1011] } else { vec![0b0011, 0b1011] };
    Election { ids: vec![0, 1, 2, 2], voters: 0b0111, changes, ..Election::new(rule, 3, epochs, versions) }
}

/// Nobody has an image; volumes 2 and 3 bear one id, as when a broker's volume is replaced during the first start.
fn founding(rule: Rule) -> Election {
    Election { ids: vec![0, 1, 2, 2], voters: 0b1111, founding: true, ..Election::new(rule, 4, 1, 1) }
}

fn election_holds() -> Vec<Check> {
    let three = |epochs, versions| Election::new(Rule::Correct, 3, epochs, versions);
    let deep = || Election { crashes: 4, ..three(6, 6) };
    let five = Election { crashes: 4, ..Election::new(Rule::Correct, 5, 5, 5) };
    let walking = |name, model| elects_walking(name, Expect::HoldsAndCommits, model, 400_000);
    vec![
        elects("election", Expect::HoldsAndCommits, Election { crashes: 1, ..three(2, 2) }),
        elects("election-small", Expect::HoldsAndCommits, Election { fresh_epochs: true, ..three(2, 2) })
            .quick(),
        elects("election-volume-lost", Expect::HoldsAndCommits, Election { losses: 1, ..three(2, 2) }),
        walking("election-walks", deep()),
        walking("election-five-voters-walks", five),
        walking("election-volume-lost-walks", Election { losses: 1, ..deep() }),
        walking("election-rolled-back-barred-walks", Election { rollbacks: 1, ..deep() }),
        walking("election-replacement-walks", Election { crashes: 2, ..replacement(Rule::Correct, 5, 6) }),
        walking("election-without-f1-walks", replacement(Rule::WithoutF1, 5, 6)),
        walking("election-without-f2-walks", replacement(Rule::WithoutF2, 5, 6)),
        elects("founding", Expect::Holds, founding(Rule::Correct)),
    ]
}

fn election_refuted() -> Vec<Check> {
    let three = |rule| Election::new(rule, 3, 2, 2);
    let refuted = |name, model| elects(name, Expect::Refuted, model);
    let rolled_back = |rule| Election { rollbacks: 1, ..Election::new(rule, 3, 2, 3) };
    let old_tag =
        Election { fresh_epochs: true, epochs: 4, versions: 1, ..three(Rule::OldTagWithoutBarrier) };
    vec![
        refuted("election-no-majority", three(Rule::NoMajority)).quick(),
        refuted(
            "election-promise-not-persisted",
            Election { crashes: 2, ..three(Rule::PromiseNotPersisted) },
        )
        .quick(),
        refuted("election-double-vote", three(Rule::DoubleVote)).quick(),
        refuted("election-winner-keeps-own-image", three(Rule::WinnerKeepsOwnImage)).quick(),
        refuted("election-accept-ignores-epoch", three(Rule::AcceptIgnoresEpoch)).quick(),
        refuted(
            "election-freshest-by-version-only",
            Election { epochs: 3, versions: 3, fresh_epochs: true, ..three(Rule::FreshestByVersionOnly) },
        ),
        refuted("election-old-tag-without-barrier", old_tag),
        refuted("election-lost-volume-votes", Election { losses: 1, ..three(Rule::LostVolumeVotes) }).quick(),
        refuted("election-voter-replaced-in-one-step", replacement(Rule::VoterReplacedInOneStep, 2, 2)),
        elects_walking(
            "election-candidate-survives-accept",
            Expect::Refuted,
            replacement(Rule::CandidateSurvivesAccept, 5, 6),
            6_000_000,
        ),
        refuted("founding-promise-names-broker", founding(Rule::PromiseNamesBroker)).quick(),
        refuted("rolled-back-accepts", rolled_back(Rule::RolledBackAccepts)),
        refuted("rolled-back-stands", rolled_back(Rule::RolledBackStands)),
        refuted("rolled-back-unnoticed", rolled_back(Rule::RolledBackUnnoticed)),
    ]
}

fn replicates(name: &'static str, expect: Expect, model: Replication) -> Check {
    Check::new(name, expect, Search::Replication(model, Way::EveryState))
}

/// Bounds in the order records, epochs, ISR changes, crashes, losses.
fn bounds(rule: replication::Rule, bounds: (usize, u8, u8, u8, u8)) -> Replication {
    let (records, epochs, wishes, crashes, losses) = bounds;
    Replication { rule, records, epochs, wishes, crashes, losses, after_commit: false }
}

fn replication_checks() -> Vec<Check> {
    use replication::Rule;
    let refuted = |name, rule, limits| replicates(name, Expect::Refuted, bounds(rule, limits));
    let walking = |name, limits| {
        let model = bounds(Rule::Correct, limits);
        Check::new(name, Expect::HoldsAndCommits, Search::Replication(model, Way::Walks(1_000_000)))
    };
    let joins = Replication { after_commit: true, ..bounds(Rule::JoinAtHighWatermark, (1, 3, 2, 0, 0)) };
    let resumes = bounds(Rule::LeaderResumesEpoch, (1, 2, 0, 1, 0));
    vec![
        replicates("replication", Expect::Holds, bounds(Rule::Correct, (1, 2, 1, 0, 0))),
        replicates(
            "replication-after-commit",
            Expect::Holds,
            Replication { rule: Rule::Correct, epochs: 2, ..joins.clone() },
        ),
        replicates("replication-leader-resumes-epoch", Expect::Holds, resumes),
        walking("replication-walks", (2, 4, 3, 1, 1)).quick(),
        walking("replication-deep-walks", (4, 6, 6, 3, 1)),
        refuted("replication-truncate-to-high-watermark", Rule::TruncateToHighWatermark, (2, 3, 0, 1, 0)),
        refuted("replication-acknowledge-own-end", Rule::AcknowledgeOwnEnd, (2, 3, 0, 0, 0)),
        refuted("replication-shrink-before-commit", Rule::ShrinkBeforeCommit, (1, 2, 1, 0, 0)).quick(),
        refuted("replication-pending-not-counted", Rule::PendingNotCounted, (1, 2, 2, 0, 0)),
        replicates("replication-join-at-high-watermark", Expect::Refuted, joins),
        refuted("replication-ignore-leader-epoch", Rule::IgnoreLeaderEpoch, (2, 3, 0, 0, 0)),
        refuted("replication-no-broker-epoch", Rule::NoBrokerEpoch, (1, 2, 2, 0, 1)),
        refuted("replication-lost-volume-stays-in-isr", Rule::LostVolumeStaysInIsr, (1, 3, 0, 0, 1)),
        refuted("replication-no-isr-floor", Rule::NoIsrFloor, (1, 1, 2, 0, 1)),
        refuted("replication-commit-below-min-isr", Rule::CommitBelowMinIsr, (1, 1, 2, 0, 1)),
        refuted("replication-unclean-election", Rule::UncleanElection, (1, 3, 1, 0, 0)),
    ]
}

/// Returns every check.
pub fn all() -> Vec<Check> {
    let mut all = vec![Check::new("bully-highest-version", Expect::Refuted, Search::Bully).quick()];
    all.extend(election_holds());
    all.extend(election_refuted());
    all.extend(replication_checks());
    all
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn quick_checks_come_out_as_expected() {
        let mut wrong = Vec::new();
        for check in all().iter().filter(|check| check.quick) {
            let mut line = String::new();
            if !check.run(|told| line = told) {
                wrong.push(line);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
