//! What came of runs, for people (Markdown) and programs (JSON). Neither says where it ran, but for the kind of machine.

use crate::history::check::Violation;
use crate::history::pauses::{Cost, Percentiles, costs, longest_of_all, longest_of_each};
use crate::history::{Fault, History, Ms, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How many of one kind of operation ended how.
pub type Counts = BTreeMap<&'static str, usize>;

/// What one run of one schedule was like.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The schedule.
    pub schedule: &'static str,
    /// Seed of its choices.
    pub seed: u64,
    /// Why it was not run, if it was not.
    pub skipped: Option<String>,
    /// From the start of the cluster to the last read.
    pub took_ms: Ms,
    /// Operations by kind, and for each how many ended how.
    pub operations: BTreeMap<&'static str, Counts>,
    /// What was injected.
    pub faults: Vec<Fault>,
    /// Longest pause of each publisher.
    pub longest_of_each_ms: BTreeMap<usize, Ms>,
    /// Longest time in which nobody got an acknowledgement.
    pub longest_of_all_ms: Ms,
    /// What each counted fault cost.
    pub costs: Vec<Cost>,
    /// By kind of fault: the longest pause of any publisher until the next one.
    pub pauses: BTreeMap<String, Percentiles>,
    /// By kind of fault: the longest time in which nobody was served.
    pub service: BTreeMap<String, Percentiles>,
    /// Time from the healing of all faults until the cluster was whole and everybody served.
    pub recovered_ms: Option<Ms>,
    /// Remarks of the schedule.
    pub notes: Vec<String>,
    /// Rules that were broken.
    pub violations: Vec<Violation>,
}

fn count<'a, T: 'a>(outcomes: impl Iterator<Item = &'a Outcome<T>>) -> Counts {
    let mut counts = Counts::new();
    for outcome in outcomes {
        *counts.entry(outcome.kind()).or_default() += 1;
    }
    counts
}

fn grouped(costs: &[Cost], of: impl Fn(&Cost) -> Ms) -> BTreeMap<String, Percentiles> {
    let mut groups: BTreeMap<String, Vec<Ms>> = BTreeMap::new();
    for cost in costs {
        groups.entry(cost.kind.clone()).or_default().push(of(cost));
    }
    groups.into_iter().map(|(kind, pauses)| (kind, Percentiles::of(pauses))).collect()
}

impl Run {
    /// Says that a schedule was not run, and why.
    pub fn skipped(schedule: &'static str, seed: u64, why: String) -> Self {
        Self { skipped: Some(why), ..Self::of(schedule, seed, &History::default()) }
    }

    /// Counts what a history holds.
    pub fn of(schedule: &'static str, seed: u64, history: &History) -> Self {
        let costs = costs(history);
        let mut reads = Counts::new();
        for read in &history.reads {
            let kind = if read.group.is_some() { "for the group" } else { "on their own" };
            *reads.entry(kind).or_default() += 1;
        }
        let retried = history.publishes.iter().filter(|publish| publish.tries > 1).count();
        let mut publishes = count(history.publishes.iter().map(|publish| &publish.outcome));
        publishes.extend((retried > 0).then_some(("sent more than once", retried)));
        Self {
            schedule,
            seed,
            skipped: None,
            took_ms: 0,
            operations: BTreeMap::from([
                ("publishes", publishes),
                ("reads with records", reads),
                ("commits", count(history.commits.iter().map(|commit| &commit.outcome))),
                ("admin changes", count(history.changes.iter().map(|change| &change.outcome))),
            ]),
            faults: history.faults.clone(),
            longest_of_each_ms: longest_of_each(history),
            longest_of_all_ms: longest_of_all(history),
            pauses: grouped(&costs, |cost| cost.worst),
            service: grouped(&costs, |cost| cost.service),
            costs,
            recovered_ms: None,
            notes: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Returns one line for the terminal.
    pub fn line(&self) -> String {
        let acked = self.operations["publishes"].get("acked").copied().unwrap_or_default();
        let unknown = self.operations["publishes"].get("unknown").copied().unwrap_or_default();
        let worst = self.longest_of_each_ms.values().max().copied().unwrap_or_default();
        let end = match (&self.skipped, self.violations.len()) {
            (Some(why), _) => return format!("{}: SKIPPED: {why}", self.schedule),
            (None, 0) => "ok".to_owned(),
            (None, broken) => format!("{broken} BROKEN RULES"),
        };
        format!(
            "{}: {end}; {acked} publishes acknowledged, {unknown} unknown; longest pause {worst} ms of one publisher, {} ms of \
             all; whole again after {}; {} s",
            self.schedule,
            self.longest_of_all_ms,
            self.recovered_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms")),
            self.took_ms / 1_000
        )
    }
}

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors.
    pub processors: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Operating system and processor architecture.
    pub system: String,
}

impl Machine {
    /// Looks at this one.
    pub fn here() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or_default() / 1_024,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Everything that one invocation did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of Pubsub.
    pub version: &'static str,
    /// `debug` or `release`.
    pub build: &'static str,
    /// Factor on all timeouts.
    pub timeout_scale: u32,
    /// The seed that was given.
    pub seed: u64,
    /// What publishers did with an unknown outcome.
    pub retry: String,
    /// The machine.
    pub machine: Machine,
    /// In order.
    pub runs: Vec<Run>,
    /// Schedules that were asked for and that no time was left for.
    pub not_reached: Vec<&'static str>,
}

impl Report {
    /// Returns how many rules were broken.
    pub fn violations(&self) -> usize {
        self.runs.iter().map(|run| run.violations.len()).sum()
    }

    /// Returns the report for people.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing to a string can't fail");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Faults under load, seed {}\n", self.seed)?;
        let Machine { processors, memory_mib, system } = &self.machine;
        writeln!(
            out,
            "Pubsub {} ({} build, timeouts × {}), real processes on loopback; {system}, {processors} processors, {memory_mib} MiB. \
             Unknown outcome of a publish: {}.\n",
            self.version, self.build, self.timeout_scale, self.retry
        )?;
        let done = self.runs.iter().filter(|run| run.skipped.is_none()).count();
        writeln!(out, "{done} runs, **{} broken rules**.\n", self.violations())?;
        if !self.not_reached.is_empty() {
            writeln!(out, "No time was left for: {}.\n", self.not_reached.join(", "))?;
        }
        self.write_overview(out)?;
        self.write_pauses(out)?;
        self.write_violations(out)?;
        self.write_runs(out)
    }

    fn write_overview(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "| schedule | seed | acknowledged | refused | unknown | longest pause of one publisher, ms | nobody served, ms | whole again, ms | broken rules |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
        for run in &self.runs {
            let (name, seed) = (run.schedule, run.seed);
            if let Some(why) = &run.skipped {
                writeln!(out, "| {name} | {seed} | **skipped**: {why} | | | | | | |")?;
                continue;
            }
            let of = |kind| run.operations["publishes"].get(kind).copied().unwrap_or_default();
            let worst = run.longest_of_each_ms.values().max().copied().unwrap_or_default();
            let recovered = run.recovered_ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
            writeln!(
                out,
                "| {name} | {seed} | {} | {} | {} | {worst} | {} | {recovered} | {} |",
                of("acked"),
                of("refused"),
                of("unknown"),
                run.longest_of_all_ms,
                run.violations.len()
            )?;
        }
        writeln!(out)
    }

    fn write_pauses(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Pauses by kind of fault\n")?;
        writeln!(
            out,
            "The longest time without an acknowledgement, from the fault to the next one: of the publisher that waited longest, and of all together.\n"
        )?;
        writeln!(
            out,
            "| schedule | fault | count | one publisher: p50 | p99 | max, ms | nobody served: p50 | p99 | max, ms |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
        for run in &self.runs {
            for (kind, one) in &run.pauses {
                let all = run.service.get(kind).copied().unwrap_or_default();
                writeln!(
                    out,
                    "| {} | {kind} | {} | {} | {} | {} | {} | {} | {} |",
                    run.schedule, one.count, one.p50, one.p99, one.max, all.p50, all.p99, all.max
                )?;
            }
        }
        writeln!(out)
    }

    fn write_violations(&self, out: &mut String) -> std::fmt::Result {
        for run in self.runs.iter().filter(|run| !run.violations.is_empty()) {
            writeln!(out, "## Broken rules: {} with seed {}\n", run.schedule, run.seed)?;
            for violation in &run.violations {
                writeln!(out, "- **{:?}**: {}", violation.rule, violation.what)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_runs(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Runs\n")?;
        for run in self.runs.iter().filter(|run| run.skipped.is_none()) {
            writeln!(out, "### {} with seed {}\n", run.schedule, run.seed)?;
            for (kind, counts) in &run.operations {
                let counts: Vec<String> =
                    counts.iter().map(|(how, count)| format!("{count} {how}")).collect();
                writeln!(
                    out,
                    "- {kind}: {}",
                    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
                )?;
            }
            let each: Vec<String> = run.longest_of_each_ms.values().map(Ms::to_string).collect();
            writeln!(out, "- longest pause of each publisher, ms: {}", each.join(", "))?;
            for note in &run.notes {
                writeln!(out, "- {note}")?;
            }
            let shown: Vec<String> =
                run.faults.iter().map(|fault| format!("{:.1} s {}", Seconds(fault.at), fault.what)).collect();
            writeln!(out, "- faults: {}\n", shown.join("; "))?;
        }
        Ok(())
    }
}

/// Milliseconds, shown as seconds.
struct Seconds(Ms);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&std::time::Duration::from_millis(self.0).as_secs_f64(), f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::history::check::Rule;
    use crate::history::{Place, Publish, Span};

    #[test]
    fn a_report_shows_counts_pauses_faults_and_broken_rules_in_both_forms() {
        let mut history = History::default();
        for (number, at) in [100, 1_600, 1_700].into_iter().enumerate() {
            history.publishes.push(Publish {
                publisher: 0,
                place: Place::of("t", 0),
                values: vec![number.to_string()],
                via: 1,
                span: Span { began: at - 10, ended: at },
                tries: 1,
                sequence: None,
                outcome: Outcome::Acked(0),
            });
        }
        history.faults.push(Fault {
            what: "kill -9 broker 2".to_owned(),
            at: 150,
            kind: Some("kill".to_owned()),
        });
        let mut run = Run::of("kill-leader", 7, &history);
        run.violations.push(Violation::of(Rule::NoAlarm, "broker 1 panicked"));
        let skipped = Run::skipped("disk-full-leader", 7, "needs root".to_owned());
        let report = Report {
            version: "1",
            build: "debug",
            timeout_scale: 1,
            seed: 7,
            retry: "Never".to_owned(),
            machine: Machine { processors: 2, memory_mib: 1, system: "linux".to_owned() },
            runs: vec![run, skipped],
            not_reached: vec!["kill-controller"],
        };
        let text = report.markdown();
        for part in [
            "**1 broken rules**",
            "| kill-leader | 7 | 3 | 0 | 0 | 1500 | 1500 |",
            "| kill-leader | kill | 1 | 1450 | 1450 | 1450 | 1450 |",
            "**NoAlarm**: broker 1 panicked",
            "**skipped**: needs root",
            "0.1 s kill -9 broker 2",
            "No time was left for: kill-controller.",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"][0]["pauses"]["kill"]["p99"], 1_450);
        assert_eq!(json["runs"][0]["violations"][0]["rule"], "NoAlarm");
    }
}
