//! Links between brokers cut, one way or both. Clients reach every broker all the time.

use super::world::{World, orders};
use crate::proxy::Link;
use anyhow::Context;
use std::time::Duration;

/// How long a link is cut: longer than elections, sessions and the lag of followers take.
const LASTS: Duration = Duration::from_secs(6);

/// Cuts links, lets that last, checks that publishers are served meanwhile, and heals.
async fn cut(world: &World, what: &str, links: Vec<Link>) -> anyhow::Result<()> {
    world.fault(format!("cut: {what}"), Some(&format!("cut: {}", kind(what))));
    world.cluster.proxies().cut(links);
    world.lasts(LASTS).await;
    world.progress().await.with_context(|| format!("while {what}"))?;
    world.fault("all links are whole", None);
    world.cluster.proxies().heal();
    world.progress().await?;
    world.whole().await
}

/// The part of a description before the first number: the same for all cuts of one kind.
fn kind(what: &str) -> &str {
    what.split(|c: char| c.is_ascii_digit()).next().unwrap_or(what).trim()
}

fn to_and_from(one: u32, others: &[u32]) -> Vec<Link> {
    others.iter().flat_map(|other| [(one, *other), (*other, one)]).collect()
}

/// Returns a leader that is not the controller, and the controller. Where one broker is both, the leader of another
/// partition is taken.
async fn leader_and_controller(world: &World) -> anyhow::Result<(u32, u32)> {
    let controller = world.controller().await?;
    for place in world.places() {
        let leader = world.leader(&place).await?;
        if leader != controller {
            return Ok((leader, controller));
        }
    }
    let other = *world.cluster.others(controller).first().context("a cluster of one")?;
    world.note(format!("the controller leads everything: broker {other} is taken for a leader"));
    Ok((other, controller))
}

pub(super) async fn controller_in_minority(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        let controller = world.controller().await?;
        let links = to_and_from(controller, &world.cluster.others(controller));
        cut(world, &format!("the controller is alone, broker {controller}"), links).await?;
    }
    Ok(())
}

pub(super) async fn leader_from_controller(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        let (leader, controller) = leader_and_controller(world).await?;
        let what =
            format!("a leader and the controller don't reach each other, brokers {leader} and {controller}");
        cut(world, &what, to_and_from(leader, &[controller])).await?;
    }
    Ok(())
}

pub(super) async fn leader_from_followers(world: &World) -> anyhow::Result<()> {
    for _ in 0..2 {
        let (leader, controller) = leader_and_controller(world).await?;
        let followers: Vec<u32> =
            world.cluster.others(leader).into_iter().filter(|id| *id != controller).collect();
        let what =
            format!("a leader and followers don't reach each other, broker {leader} and {followers:?}");
        cut(world, &what, to_and_from(leader, &followers)).await?;
    }
    Ok(())
}

pub(super) async fn deaf_controller(world: &World) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let links = world.cluster.others(controller).into_iter().map(|other| (other, controller)).collect();
    cut(world, &format!("the controller is deaf, broker {controller}"), links).await
}

pub(super) async fn mute_controller(world: &World) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let links = world.cluster.others(controller).into_iter().map(|other| (controller, other)).collect();
    cut(world, &format!("the controller is mute, broker {controller}"), links).await
}

/// Each broker reaches the ones before and behind it only. No single one reaches all, so that service may stop.
pub(super) async fn ring(world: &World) -> anyhow::Result<()> {
    let ids = world.cluster.ids();
    let count = ids.len();
    let mut links = Vec::new();
    for (place, one) in ids.iter().enumerate() {
        for (other_place, other) in ids.iter().enumerate() {
            let apart = place.abs_diff(other_place);
            if apart > 1 && apart < count - 1 {
                links.push((*one, *other));
            }
        }
    }
    world.fault("cut: each broker reaches its two neighbours only", Some("ring"));
    world.cluster.proxies().cut(links);
    world.lasts(LASTS).await;
    world.fault("all links are whole", None);
    world.cluster.proxies().heal();
    world.progress().await
}

/// Links fail and come back one after the other, several at a time, without a pattern.
pub(super) async fn storm(world: &World) -> anyhow::Result<()> {
    let ids = world.cluster.ids();
    world.fault("links fail and come back at random for 10 s, leaders among them", Some("link storm"));
    for _ in 0..25 {
        let (from, to) = (world.leader(&orders()).await.unwrap_or(ids[0]), world.pick(&ids)?);
        world.cluster.proxies().cut([(from, to), (to, world.pick(&ids)?)]);
        world.lasts(Duration::from_millis(300)).await;
        world.cluster.proxies().mend([(from, to)]);
        world.lasts(Duration::from_millis(100)).await;
    }
    world.cluster.proxies().heal();
    world.progress().await
}
