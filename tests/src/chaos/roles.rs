//! Brokers of each role killed many times, to measure how long publishers wait, and for what.
//!
//! There is one partition on three brokers, so that a broker has one role: it leads, it commands, both, or neither.

use super::world::{World, orders};
use crate::history::pauses::Percentiles;
use crate::history::{Ms, Place};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a broker is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Leader,
    Controller,
    LeaderAndController,
    Follower,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Controller => "controller",
            Self::LeaderAndController => "leader and controller",
            Self::Follower => "follower",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Kill9,
    Term,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill -9",
            Self::Term => "SIGTERM",
        }
    }
}

/// Roles that are killed so many times each. That one broker is both leader and controller depends on how elections go: it
/// is killed when it happens to be, and counted apart.
const ROLES: [Role; 3] = [Role::Leader, Role::Controller, Role::Follower];

/// Kills each role `times` times by each of both signals.
pub(super) async fn each(world: &World, times: usize) -> anyhow::Result<()> {
    let mut done: BTreeMap<(Way, Role), usize> = BTreeMap::new();
    let mut moved: BTreeMap<(Way, Role), Vec<Ms>> = BTreeMap::new();
    let place = orders();
    for way in [Way::Kill9, Way::Term] {
        loop {
            let left = |role: &Role| done.get(&(way, *role)).copied().unwrap_or_default() < times;
            if !ROLES.iter().any(left) {
                break;
            }
            let (leader, controller) = (world.leader(&place).await?, world.controller().await?);
            let role_of = |id: u32| match (id == leader, id == controller) {
                (true, true) => Role::LeaderAndController,
                (true, false) => Role::Leader,
                (false, true) => Role::Controller,
                (false, false) => Role::Follower,
            };
            let wanted: Vec<u32> = world
                .cluster
                .ids()
                .into_iter()
                .filter(|id| left(&role_of(*id)) && role_of(*id) != Role::LeaderAndController)
                .collect();
            // Nobody has a role that is left: the one that has two gives one of them to another.
            let victim = world.pick(&wanted).unwrap_or(leader);
            let role = role_of(victim);
            let key = (way, role);
            *done.entry(key).or_default() += 1;
            let began = kill(world, victim, way, role, done[&key], times).await?;
            let seen =
                if victim == leader { Some(moved_on(world, &place, victim, began).await?) } else { None };
            moved.entry(key).or_default().extend(seen);
            world.progress().await?;
            world.cluster.start_broker(victim);
            world.whole().await?;
        }
    }
    for ((way, role), pauses) in moved.into_iter().filter(|(_, pauses)| !pauses.is_empty()) {
        let Percentiles { count, p50, p99, max } = Percentiles::of(pauses);
        world.note(format!(
            "{} {}: another broker was seen to lead after p50 {p50}, p99 {p99}, at most {max} ms ({count} times)",
            way.name(),
            role.name()
        ));
    }
    Ok(())
}

/// Kills and returns when that began.
async fn kill(
    world: &World,
    victim: u32,
    way: Way,
    role: Role,
    count: usize,
    times: usize,
) -> anyhow::Result<Ms> {
    let kind = format!("{} {}", way.name(), role.name());
    world.fault(format!("{kind}, broker {victim} ({count} of {times})"), Some(&kind));
    let began = world.stage.clock.now();
    match way {
        Way::Kill9 => world.cluster.kill9(victim),
        Way::Term => drop(world.cluster.sigterm(victim).await?),
    }
    Ok(began)
}

/// Returns how long it took until the other brokers saw another leader.
async fn moved_on(world: &World, place: &Place, victim: u32, began: Ms) -> anyhow::Result<Ms> {
    let rest = world.cluster.others(victim);
    loop {
        for id in &rest {
            if world.leader_seen_by(*id, place).await.is_ok_and(|leader| leader != victim) {
                return Ok(world.stage.clock.now() - began);
            }
        }
        anyhow::ensure!(world.stage.clock.now() - began < 30_000, "nobody leads {place} 30 s after the kill");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
