//! The schedules by name: what each does, on which cluster.

use super::world::{Shape, World};
use super::{changes, discovery, kills, links, roles, volumes};
use std::pin::Pin;

/// A schedule under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One way to break a cluster.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The cluster that it needs.
    pub shape: fn() -> Shape,
    /// Does it. `times` is how often each role is killed, for the schedule that measures that.
    pub run: for<'a> fn(&'a World, times: usize) -> Running<'a>,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn three() -> Shape {
    Shape::default()
}

/// Volumes are lost: only topics that survive that.
fn safe() -> Shape {
    Shape { pairs: false, ..Shape::default() }
}

fn five() -> Shape {
    Shape { brokers: 5, ..Shape::default() }
}

/// Records survive the loss of two volumes at once.
fn five_safe() -> Shape {
    Shape { brokers: 5, replicas: 5, min_isr: 3, pairs: false, ..Shape::default() }
}

fn own_volumes() -> Shape {
    Shape { volume_mib: Some(64), ..Shape::default() }
}

fn by_discovery() -> Shape {
    Shape { static_peers: false, ..Shape::default() }
}

fn churned() -> Shape {
    Shape { churned: true, ..Shape::default() }
}

/// One partition and little else, so that pauses are the cluster's and not the machine's.
fn measured() -> Shape {
    Shape { partitions: 1, pairs: false, workers: (4, 0, 0), ..Shape::default() }
}

macro_rules! schedule {
    ($name:literal, $shape:expr, $run:path, $what:literal) => {
        Schedule { name: $name, what: $what, shape: $shape, run: |world, _| Box::pin($run(world)) }
    };
}

/// Kills each role many times. It takes long and is run only when asked for by name.
pub const EACH_ROLE: Schedule = Schedule {
    name: "kill-each-role",
    what: "kills the leader, the controller and a follower many times each, by SIGKILL and by SIGTERM, and measures how long publishers wait",
    shape: measured,
    run: |world, times| Box::pin(roles::each(world, times)),
};

/// All others.
pub const SCHEDULES: &[Schedule] = &[
    schedule!("kill-leader", three, kills::leader, "kill -9 of a partition's leader, three times"),
    schedule!("kill-controller", three, kills::controller, "kill -9 of the controller, three times"),
    schedule!(
        "kill-leader-that-is-controller",
        three,
        kills::leader_that_is_controller,
        "kill -9 of the controller while it leads partitions, three times"
    ),
    schedule!(
        "kill-two-of-three",
        three,
        kills::two_of_three,
        "kill -9 of two brokers at once, back after 2 s, twice"
    ),
    schedule!(
        "kill-all-restart-all",
        three,
        kills::all,
        "kill -9 of all brokers at once, back at once, twice"
    ),
    schedule!(
        "rolling-restart",
        three,
        kills::rolling_restart,
        "SIGTERM and start of each broker, the highest id first, as an upgrade does"
    ),
    schedule!(
        "rolling-kill9-1s-apart",
        three,
        kills::rolling_kill9,
        "kill -9 and start of each broker, one second apart"
    ),
    schedule!(
        "sigstop-controller-5s",
        three,
        kills::frozen_controller,
        "the controller frozen for 5 s, twice"
    ),
    schedule!("sigstop-leader-5s", three, kills::frozen_leader, "a leader frozen for 5 s, twice"),
    schedule!(
        "sigstop-all-staggered",
        three,
        kills::all_frozen_staggered,
        "each broker frozen for 4.5 s, 1.5 s apart: all at once in between"
    ),
    schedule!(
        "partition-controller-minority",
        three,
        links::controller_in_minority,
        "the controller cut off from all others, twice"
    ),
    schedule!(
        "partition-leader-from-controller-only",
        three,
        links::leader_from_controller,
        "a leader and the controller cut off from each other, twice"
    ),
    schedule!(
        "partition-leader-from-followers-only",
        three,
        links::leader_from_followers,
        "a leader cut off from followers, but not from the controller, twice"
    ),
    schedule!(
        "one-way-controller-deaf",
        three,
        links::deaf_controller,
        "nobody's requests reach the controller, its own reach everybody"
    ),
    schedule!(
        "one-way-controller-mute",
        three,
        links::mute_controller,
        "the controller's requests reach nobody, everybody's reach it"
    ),
    schedule!("ring-partition", five, links::ring, "each of five brokers reaches its two neighbours only"),
    schedule!("link-storm", five, links::storm, "links fail and come back at random for 10 s"),
    schedule!(
        "flap-highest-id-every-2s",
        three,
        kills::flapping_highest,
        "kill -9 and start of the highest id every 2 s"
    ),
    schedule!(
        "slow-disk-one-follower",
        own_volumes,
        volumes::slow_follower,
        "a follower's file system answers once in 500 ms"
    ),
    schedule!(
        "disk-full-leader",
        own_volumes,
        volumes::leader_full,
        "a leader's file system nearly full, then full to the last byte"
    ),
    schedule!(
        "disk-full-follower",
        own_volumes,
        volumes::follower_full,
        "a follower's file system nearly full, then full to the last byte"
    ),
    schedule!(
        "volume-lost-follower",
        safe,
        volumes::follower_lost,
        "kill -9 of a follower, its volume deleted"
    ),
    schedule!("volume-lost-leader", safe, volumes::leader_lost, "kill -9 of a leader, its volume deleted"),
    schedule!(
        "volume-lost-voter",
        safe,
        volumes::voter_lost,
        "kill -9 of the controller, its volume deleted, until it votes again"
    ),
    schedule!(
        "volume-lost-two-voters",
        five_safe,
        volumes::two_voters_lost,
        "kill -9 of the controller and another of five, both volumes deleted, until they vote again"
    ),
    schedule!(
        "volume-rollback",
        safe,
        volumes::rolled_back,
        "the controller's and a follower's volume restored from an older copy"
    ),
    schedule!(
        "volume-swap-two-brokers",
        three,
        volumes::swapped,
        "two brokers started on each other's volumes: both must refuse"
    ),
    schedule!(
        "wall-clock-jumps",
        three,
        volumes::wrong_clocks,
        "brokers restarted with clocks off by +1 h, -1 h and +10 years, each leading with them"
    ),
    schedule!(
        "discovery-down",
        by_discovery,
        discovery::down,
        "kill -9 of discovery, then of the controller, then of all brokers"
    ),
    schedule!(
        "discovery-restart-empty",
        by_discovery,
        discovery::restarted_empty,
        "discovery restarted three times with nothing remembered, then kill -9 of the controller"
    ),
    schedule!(
        "discovery-lies",
        by_discovery,
        discovery::lies,
        "discovery told wrong addresses of all brokers, and of one that does not exist, with kill -9 of the controller in between"
    ),
    schedule!(
        "scale-3-5-3",
        safe,
        changes::scale,
        "two brokers added, with replicas of the main topic, and any of the five killed, three times; then both emptied by a drain and stopped, and any of the three left killed, twice"
    ),
    schedule!(
        "rf-change-under-load",
        three,
        changes::replication_factor,
        "a topic's replicas 2, 1, 3 and 2 again with kill -9 of its leader, three times"
    ),
    schedule!(
        "topic-delete-recreate-under-load",
        churned,
        changes::deleted_and_made_again,
        "a topic deleted and made again while it is published to, with a replica away now and then"
    ),
];

/// Returns the schedules of a list of names.
///
/// # Errors
/// Names the first that is none, and all that are.
pub fn named(names: &[String]) -> anyhow::Result<Vec<Schedule>> {
    let all = || SCHEDULES.iter().chain([&EACH_ROLE]);
    let find = |name: &String| all().find(|schedule| schedule.name == name).copied();
    let missing = || all().map(|schedule| schedule.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            find(name).ok_or_else(|| anyhow::anyhow!("no schedule {name:?}; there are {}", missing()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_schedule_is_found_by_its_own_name_and_no_other() {
        let names: BTreeSet<&str> = SCHEDULES.iter().map(|schedule| schedule.name).collect();
        assert_eq!(names.len(), SCHEDULES.len(), "two schedules of one name");
        for name in names.into_iter().chain([EACH_ROLE.name]) {
            assert_eq!(named(&[name.to_owned()]).unwrap()[0].name, name);
        }
        assert!(named(&["nothing".to_owned()]).unwrap_err().to_string().contains("kill-leader"));
    }

    #[test]
    fn every_schedule_is_explained_where_operators_look() {
        let document = include_str!("../../../docs/operations.md");
        for schedule in SCHEDULES.iter().chain([&EACH_ROLE]) {
            assert!(document.contains(&format!("| `{}` |", schedule.name)), "{} is missing", schedule.name);
        }
    }
}
