//! Brokers killed, asked to stop, and frozen.

use super::world::{World, orders};
use anyhow::Context;
use std::time::Duration;

/// Repetitions of a fault that hits one broker.
const ROUNDS: usize = 3;

/// Kills a broker, waits until publishers are served all the same, and starts it again.
pub(super) async fn kill(world: &World, victim: u32, role: &str) -> anyhow::Result<()> {
    world.fault(format!("kill -9 broker {victim} ({role})"), Some(&format!("kill -9 {role}")));
    world.cluster.kill9(victim);
    world.progress().await.with_context(|| format!("with broker {victim} away"))?;
    world.fault(format!("start broker {victim}"), None);
    world.cluster.start_broker(victim);
    world.whole().await
}

pub(super) async fn leader(world: &World) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        kill(world, world.leader(&orders()).await?, "leader").await?;
    }
    Ok(())
}

pub(super) async fn controller(world: &World) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        kill(world, world.controller().await?, "controller").await?;
    }
    Ok(())
}

pub(super) async fn leader_that_is_controller(world: &World) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        let controller = world.controller().await?;
        let mut leads = false;
        for place in world.places() {
            leads |= world.leader(&place).await? == controller;
        }
        let role = if leads { "leader and controller" } else { "controller that leads nothing here" };
        kill(world, controller, role).await?;
    }
    Ok(())
}

pub(super) async fn two_of_three(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        let spared = world.pick(&world.cluster.ids())?;
        let victims = world.cluster.others(spared);
        world.fault(format!("kill -9 brokers {victims:?}"), None);
        victims.iter().for_each(|id| world.cluster.kill9(*id));
        world.lasts(Duration::from_secs(2)).await;
        world.fault(format!("start brokers {victims:?}"), None);
        victims.iter().for_each(|id| world.cluster.start_broker(*id));
        world.progress().await?;
        world.whole().await?;
    }
    Ok(())
}

pub(super) async fn all(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        kill_all(world, "kill -9 all brokers and start them").await?;
    }
    Ok(())
}

/// Kills all brokers at once and starts them again at once.
pub(super) async fn kill_all(world: &World, what: &str) -> anyhow::Result<()> {
    world.fault(what, Some("kill -9 all"));
    world.cluster.ids().into_iter().for_each(|id| world.cluster.kill9(id));
    world.cluster.ids().into_iter().for_each(|id| world.cluster.start_broker(id));
    world.progress().await?;
    world.whole().await
}

pub(super) async fn rolling_restart(world: &World) -> anyhow::Result<()> {
    let mut ids = world.cluster.ids();
    ids.reverse();
    for id in ids {
        world.fault(format!("SIGTERM broker {id}"), Some("SIGTERM, one after the other"));
        world.cluster.sigterm(id).await?;
        world.progress().await?;
        world.fault(format!("start broker {id}"), None);
        world.cluster.start_broker(id);
        world.whole().await?;
    }
    Ok(())
}

pub(super) async fn rolling_kill9(world: &World) -> anyhow::Result<()> {
    for id in world.cluster.ids() {
        world.fault(format!("kill -9 broker {id} and start it"), None);
        world.cluster.restart(id);
        world.lasts(Duration::from_secs(1)).await;
    }
    world.progress().await
}

async fn freeze(world: &World, id: u32, role: &str) -> anyhow::Result<()> {
    world.fault(format!("SIGSTOP broker {id} ({role}) for 5 s"), Some(&format!("SIGSTOP {role}")));
    world.cluster.sigstop(id);
    world.lasts(Duration::from_secs(5)).await;
    world.fault(format!("SIGCONT broker {id}"), None);
    world.cluster.sigcont(id);
    world.progress().await?;
    world.whole().await
}

pub(super) async fn frozen_controller(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        freeze(world, world.controller().await?, "controller").await?;
    }
    Ok(())
}

pub(super) async fn frozen_leader(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        freeze(world, world.leader(&orders()).await?, "leader").await?;
    }
    Ok(())
}

pub(super) async fn all_frozen_staggered(world: &World) -> anyhow::Result<()> {
    let ids = world.cluster.ids();
    for id in &ids {
        world.fault(format!("SIGSTOP broker {id}"), None);
        world.cluster.sigstop(*id);
        world.lasts(Duration::from_millis(1_500)).await;
    }
    for id in &ids {
        world.fault(format!("SIGCONT broker {id}"), None);
        world.cluster.sigcont(*id);
        world.lasts(Duration::from_millis(1_500)).await;
    }
    world.progress().await
}

pub(super) async fn flapping_highest(world: &World) -> anyhow::Result<()> {
    let highest = world.cluster.ids().into_iter().max().context("no brokers")?;
    for _ in 0..6 {
        world.fault(format!("kill -9 broker {highest} and start it"), None);
        world.cluster.restart(highest);
        world.lasts(Duration::from_secs(2)).await;
    }
    world.progress().await
}
