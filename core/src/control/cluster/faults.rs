//! Clusters under random faults and election storms: one history, and nothing acknowledged is lost.

use super::*;
use rand::SeedableRng;

impl Cluster {
    /// Switches rules off in every process, present and future.
    fn weaken(&mut self, rules: &[Weakening]) {
        self.weakened = rules.to_vec();
        if !rules.is_empty() {
            for id in self.nodes.keys().map(|id| id.0).collect::<Vec<_>>() {
                self.kill(id);
                self.start(id);
            }
        }
    }

    /// One random fault.
    fn upset(&mut self, voters: u32) {
        let Some(faults) = &mut self.faults else { return };
        let (one, two) = (faults.rng.random_range(1..=voters), faults.rng.random_range(1..=voters));
        match faults.rng.random_range(0..9) {
            0 if self.nodes.contains_key(&b(one)) => self.kill(one),
            1..=3 if !self.nodes.contains_key(&b(one)) => self.start(one),
            4 if one != two => drop(self.cut.insert((b(one), b(two)))),
            5 => self.cut.clear(),
            6 => faults.loss_percent = faults.rng.random_range(0..40),
            7 => faults.delay_ms_max = faults.rng.random_range(1..800),
            8 => faults.crash_permille = faults.rng.random_range(0..10),
            _ => {}
        }
    }

    /// One fault of an election storm: instant restarts, flipping links, everybody losing the controller.
    fn storm(&mut self, voters: u32) {
        let Some(faults) = &mut self.faults else { return };
        let (one, two) = (faults.rng.random_range(1..=voters), faults.rng.random_range(1..=voters));
        let what = faults.rng.random_range(0..9);
        faults.delay_ms_max = if what == 8 { faults.rng.random_range(1..800) } else { faults.delay_ms_max };
        let up = self.nodes.contains_key(&b(one));
        match what {
            0 | 1 => {
                if up {
                    self.kill(one);
                }
                self.start(one);
            }
            2 | 3 if one != two => drop(self.cut.insert((b(one), b(two)))),
            4 | 5 => drop(self.cut.remove(&(b(one), b(two)))),
            6 | 7 => {
                let ids: Vec<_> = self.nodes.keys().copied().collect();
                for (id, peer) in ids.iter().flat_map(|id| ids.iter().map(move |peer| (*id, *peer))) {
                    self.give(id, Input::Unreachable { peer });
                }
            }
            _ => {}
        }
    }

    /// Asks whoever thinks itself controller for a topic; returns the tickets.
    fn ask_controllers(&mut self, name: u64) -> Vec<Ticket> {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let leading = |id: &BrokerId| self.nodes[id].machine.status(self.now).leading;
        let controllers: Vec<_> = ids.into_iter().filter(leading).collect();
        let mut tickets = Vec::new();
        for to in controllers {
            self.sequence += 1;
            let ticket = Ticket(self.sequence);
            let id = TopicId(Uuid::from_u128(u128::from(self.sequence)));
            let name = TopicName::try_from(format!("t{name}")).unwrap();
            let config = fixture::config(1, 1);
            let command =
                Command::CreateTopic { name, id, partitions: 1, config, leader: None, take_ownership: false };
            self.give(to, Input::Propose { ticket, command });
            tickets.push(ticket);
        }
        tickets
    }
}

fn survives(seed: u64, voters: u32, storm: bool, weakened: &[Weakening]) -> usize {
    let founders: Vec<_> = (1..=voters).collect();
    let mut cluster = Cluster::ready(&founders);
    cluster.weaken(weakened);
    let rng = StdRng::seed_from_u64(seed);
    cluster.faults = Some(Faults { rng, loss_percent: 0, delay_ms_max: 5, crash_permille: 0 });
    for round in 0..if storm { 200 } else { 80 } {
        if storm {
            cluster.storm(voters);
        } else {
            cluster.upset(voters);
        }
        cluster.ask_controllers(round);
        let pause = if storm { 10..120 } else { 20..400 };
        let pause = cluster.faults.as_mut().unwrap().rng.random_range(pause);
        cluster.run(pause);
    }
    cluster.faults = None;
    cluster.cut.clear();
    for id in &founders {
        if !cluster.nodes.contains_key(&b(*id)) {
            cluster.start(*id);
        }
    }
    let whole = |cluster: &Cluster| {
        let present = founders.iter().all(|id| cluster.nodes.contains_key(&b(*id)));
        present && cluster.all_registered(&founders) && cluster.controller().is_some()
    };
    cluster.until(10_000, whole);
    cluster.run(1_000);
    let newest = cluster.newest.clone().unwrap();
    let kept: BTreeSet<_> = newest.topics.keys().collect();
    let acked = cluster.replies.values().flatten().map(|outcome| &outcome.topic);
    for topic in acked {
        assert!(kept.contains(topic), "an acknowledged topic is gone (M2)");
    }
    usize::try_from(newest.at.epoch.0).unwrap()
}

#[test]
fn a_cluster_keeps_one_history_and_every_acknowledged_topic_under_faults() {
    let mut terms = 0;
    for seed in 5_530..5_590 {
        println_seed(seed);
        terms += survives(seed, 3, false, &[]) + survives(seed, 5, false, &[]);
    }
    assert!(terms > 60 * 5, "{terms} terms: the faults don't disturb anything");
}

#[test]
fn a_cluster_keeps_one_history_and_every_acknowledged_topic_in_an_election_storm() {
    let mut terms = 0;
    for seed in 5_530..5_590 {
        println_seed(seed);
        terms += survives(seed, 3, true, &[]) + survives(seed, 5, true, &[]);
    }
    assert!(terms > 60 * 8, "{terms} terms: the faults don't disturb anything");
}

/// Tells which seed failed; the test runner shows it only then.
#[allow(clippy::print_stdout)]
fn println_seed(seed: u64) {
    println!("seed {seed}");
}

#[cfg(feature = "weakened")]
#[test]
fn the_checks_notice_rules_of_election_and_register_that_are_switched_off() {
    let rules = [
        Weakening::NoMajority,
        Weakening::PromiseNotPersisted,
        Weakening::DoubleVote,
        Weakening::KeepOwnImage,
        Weakening::ApplyUncommitted,
    ];
    let mut unnoticed = Vec::new();
    for rule in rules {
        let noticed = (0..1_000)
            .position(|seed| std::panic::catch_unwind(|| survives(seed, 3, true, &[rule])).is_err());
        if noticed.is_none() {
            unnoticed.push(rule);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
