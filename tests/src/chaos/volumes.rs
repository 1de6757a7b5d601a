//! Volumes lost, restored from a copy, exchanged, full and slow; clocks that are wrong.

use super::world::{FREE_BYTES_MIN, World, orders};
use crate::history::check::Rule;
use anyhow::{Context, bail};
use std::time::Duration;

/// Kills a broker, deletes its volume, and lets it copy everything anew.
async fn lose(world: &World, victims: &[u32], role: &str) -> anyhow::Result<()> {
    let kind = format!("volume lost, {role}");
    world.fault(format!("kill -9 and lose the volume of {victims:?} ({role})"), Some(&kind));
    for victim in victims {
        world.cluster.kill9(*victim);
        world.cluster.wipe(*victim);
    }
    victims.iter().for_each(|victim| world.cluster.start_broker(*victim));
    world.progress().await?;
    world.whole().await
}

pub(super) async fn follower_lost(world: &World) -> anyhow::Result<()> {
    let (leader, controller) = (world.leader(&orders()).await?, world.controller().await?);
    let others = world.cluster.others(leader);
    let follower = others.iter().copied().find(|id| *id != controller).unwrap_or(others[0]);
    lose(world, &[follower], "follower").await
}

pub(super) async fn leader_lost(world: &World) -> anyhow::Result<()> {
    lose(world, &[world.leader(&orders()).await?], "leader").await
}

/// The controller's volume is lost. It votes again only after a while, and one more founder's loss waits for that.
pub(super) async fn voter_lost(world: &World) -> anyhow::Result<()> {
    lose(world, &[world.controller().await?], "voter, the controller").await?;
    voters_whole(world).await
}

pub(super) async fn two_voters_lost(world: &World) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let other = world.pick(&world.cluster.others(controller))?;
    lose(world, &[controller, other], "two voters of five").await?;
    voters_whole(world).await
}

/// Waits until every founder votes again.
async fn voters_whole(world: &World) -> anyhow::Result<()> {
    let deadline = crate::cluster::await_condition::scaled(Duration::from_secs(120));
    crate::cluster::await_condition::within("every founder votes", deadline, async || {
        let seen = world.look(world.controller().await?, "/admin/brokers").await?;
        let brokers = seen["brokers"].as_array().context("no brokers")?;
        if brokers.iter().all(|broker| broker["voter"] == true) { Ok(()) } else { bail!("{seen}") }
    })
    .await?;
    world.note("every founder votes again");
    Ok(())
}

/// Waits until a broker is no voter: on an older copy of its volume it has forgotten what it promised.
async fn vote_is_gone(world: &World, of: u32) -> anyhow::Result<()> {
    let deadline = crate::cluster::await_condition::scaled(Duration::from_secs(30));
    crate::cluster::await_condition::within("an older copy has no vote", deadline, async || {
        let seen = world.look(world.controller().await?, "/admin/brokers").await?;
        let brokers = seen["brokers"].as_array().context("no brokers")?;
        let voter =
            brokers.iter().find(|broker| broker["broker_id"] == of).context("not listed")?["voter"].clone();
        if voter == false { Ok(()) } else { bail!("broker {of} is shown as a voter: {seen}") }
    })
    .await
}

/// A follower's volume goes back to an older copy: its promises and its log with it. It catches up, but votes only once
/// its volume is replaced by an empty one.
pub(super) async fn rolled_back(world: &World) -> anyhow::Result<()> {
    for round in 0..2 {
        let leader = world.leader(&orders()).await?;
        // The first round takes whoever commands, the second a mere follower.
        let victim =
            if round == 0 { world.controller().await? } else { world.pick(&world.cluster.others(leader))? };
        world.fault(format!("SIGTERM broker {victim} and copy its volume"), None);
        world.cluster.sigterm(victim).await?;
        world.cluster.copy_volume(victim)?;
        world.cluster.start_broker(victim);
        world.whole().await?;
        world.progress().await?;
        let what = format!("kill -9 broker {victim} and put the older copy in place");
        world.fault(what, Some("volume rolled back"));
        world.cluster.kill9(victim);
        world.cluster.roll_volume_back(victim)?;
        world.cluster.start_broker(victim);
        world.progress().await?;
        world.whole().await?;
        vote_is_gone(world, victim).await?;
        lose(world, &[victim], "older copy").await?;
        voters_whole(world).await?;
    }
    Ok(())
}

/// Two brokers get each other's volumes. Both must refuse, and leave them as they are.
pub(super) async fn swapped(world: &World) -> anyhow::Result<()> {
    let spared = world.pick(&world.cluster.ids())?;
    let pair = world.cluster.others(spared);
    let (one, other) = (pair[0], pair[1]);
    world.fault(format!("brokers {one} and {other} get each other's volumes"), None);
    for id in [one, other] {
        world.cluster.sigterm(id).await?;
    }
    world.cluster.swap_volumes(one, other)?;
    for id in [one, other] {
        world.cluster.start_broker(id);
        match world.cluster.wait_ended(id).await {
            Ok(status) if !status.success() => {}
            Ok(status) => world.violate(
                Rule::ProcessesLive,
                format!("broker {id} ended with {status} on a volume of another"),
            ),
            Err(error) => bail!("broker {id} runs on the volume of another: {error:#}"),
        }
    }
    world.cluster.swap_volumes(one, other)?;
    world.fault(format!("brokers {one} and {other} get their own volumes back"), None);
    for id in [one, other] {
        world.cluster.start_broker(id);
    }
    world.progress().await?;
    world.whole().await
}

/// Fills a volume in two steps: to below what the broker keeps free, and to the last byte.
async fn fill(world: &World, victim: u32, role: &str) -> anyhow::Result<()> {
    world.fault(
        format!("volume of broker {victim} ({role}) nearly full"),
        Some(&format!("disk full, {role}")),
    );
    world.cluster.volume(victim, |volume| volume.fill(FREE_BYTES_MIN / 4))?;
    world.lasts(Duration::from_secs(4)).await;
    world.progress().await.context("with one volume nearly full")?;
    world.fault(format!("volume of broker {victim} full to the last byte"), None);
    world.cluster.volume(victim, |volume| volume.clear().and_then(|()| volume.fill(0)))?;
    world.lasts(Duration::from_secs(4)).await;
    world.progress().await.context("with one volume full")?;
    world.fault(format!("volume of broker {victim} has room again"), None);
    world.cluster.volume(victim, |volume| volume.clear())?;
    if let Err(error) = world.cluster.check_alive(victim) {
        world.note(format!("broker {victim} stopped while its volume was full, as it should: {error:#}"));
        // It ended, so that there is a status to take and no signal to send.
        world.cluster.wait_ended(victim).await?;
        world.cluster.start_broker(victim);
    }
    world.progress().await?;
    world.whole().await
}

pub(super) async fn leader_full(world: &World) -> anyhow::Result<()> {
    fill(world, world.leader(&orders()).await?, "leader").await
}

pub(super) async fn follower_full(world: &World) -> anyhow::Result<()> {
    let leader = world.leader(&orders()).await?;
    fill(world, world.pick(&world.cluster.others(leader))?, "follower").await
}

/// A follower's disk takes half a second for whatever it is asked.
pub(super) async fn slow_follower(world: &World) -> anyhow::Result<()> {
    let leader = world.leader(&orders()).await?;
    let victim = world.pick(&world.cluster.others(leader))?;
    world.fault(
        format!("the volume of broker {victim} answers once in 500 ms, for 10 s"),
        Some("slow disk, follower"),
    );
    for _ in 0..16 {
        world.cluster.volume(victim, |volume| volume.freeze())?;
        world.lasts(Duration::from_millis(500)).await;
        world.cluster.volume(victim, |volume| volume.thaw())?;
        world.lasts(Duration::from_millis(100)).await;
    }
    world.fault(format!("the volume of broker {victim} is as fast as before"), None);
    world.progress().await?;
    world.whole().await
}

/// Hours and years by which a clock is wrong, ms.
const WRONG: [(&str, i64); 3] = [("+1 h", 3_600_000), ("-1 h", -3_600_000), ("+10 y", 315_576_000_000)];

/// Each broker in turn is restarted with a clock that is wrong, and led by it.
pub(super) async fn wrong_clocks(world: &World) -> anyhow::Result<()> {
    for (id, (name, offset)) in world.cluster.ids().into_iter().zip(WRONG) {
        world.fault(format!("restart broker {id} with a clock of {name}"), None);
        world.cluster.sigterm(id).await?;
        world.cluster.set_environment(id, &[("PUBSUB_TEST_WALL_OFFSET_MS", &offset.to_string())]);
        world.cluster.start_broker(id);
        world.whole().await?;
        world.progress().await?;
    }
    // Whoever led so far stops, so that each of the wrong clocks stamps records.
    for id in world.cluster.ids() {
        world.fault(format!("kill -9 broker {id} and start it with a right clock"), None);
        world.cluster.kill9(id);
        world.progress().await?;
        world.cluster.set_environment(id, &[]);
        world.cluster.start_broker(id);
        world.whole().await?;
    }
    Ok(())
}
