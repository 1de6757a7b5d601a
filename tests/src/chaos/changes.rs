//! Changes that are no faults, under load: topics deleted and made again, replicas added and removed, brokers added and taken out.

use super::kills::kill;
use super::world::{CHURNED, ORDERS, PAIRS, World};
use crate::cluster::await_condition::{scaled, within};
use crate::cluster::ids_of;
use crate::history::{Change, Outcome, Place};
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::Duration;

/// How long a new replica may take to join the ISR.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);
/// Brokers that come and go beside the three that are there from the beginning.
const ADDED: [u32; 2] = [4, 5];

/// Makes a change through one broker after the other until it is acknowledged.
///
/// What is not known to be done is done again: each of these changes is the same done twice, or is refused then.
async fn insist(world: &World, topic: &str, change: &Change) -> anyhow::Result<()> {
    within(&format!("{change:?} of {topic}"), scaled(Duration::from_secs(30)), async || {
        let via = world.pick(&world.running())?;
        match world.change(via, topic, change.clone()).await {
            Outcome::Acked(()) => Ok(()),
            Outcome::Refused(why) if why.starts_with("TOPIC_NOT_FOUND") && *change == Change::Delete => {
                Ok(())
            }
            Outcome::Refused(why) if why.starts_with("INVALID_REPLICAS") => Ok(()),
            Outcome::Refused(why) | Outcome::Unknown(why) => bail!("{why}"),
        }
    })
    .await
}

pub(super) async fn deleted_and_made_again(world: &World) -> anyhow::Result<()> {
    for round in 0..8 {
        world.fault(format!("delete topic {CHURNED} and make it again"), Some("topic made again"));
        insist(world, CHURNED, &Change::Delete).await?;
        insist(world, CHURNED, &Change::Create).await?;
        world.progress().await?;
        if round % 3 == 1 {
            // A broker that was away for both must not take its old log for the new topic's.
            let away = world.leader(&Place::of(CHURNED, 0)).await?;
            world.fault(format!("kill -9 broker {away}; delete topic {CHURNED} and make it again"), None);
            world.cluster.kill9(away);
            insist(world, CHURNED, &Change::Delete).await?;
            // Two of three brokers run: the topic gets as many replicas as the usual three only later.
            world.fault(format!("start broker {away}"), None);
            world.cluster.start_broker(away);
            insist(world, CHURNED, &Change::Create).await?;
            world.progress().await?;
            world.whole().await?;
        }
    }
    Ok(())
}

/// Returns who holds a topic, its leaders (which can't be removed), and who is in sync everywhere.
async fn replicas(world: &World, topic: &str) -> anyhow::Result<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    let seen = world.look(world.controller().await?, &format!("/admin/topics/{topic}")).await?;
    let partitions = seen["partitions"].as_array().context("no partitions")?;
    let leaders =
        partitions.iter().filter_map(|partition| partition["leader"].as_u64()?.try_into().ok()).collect();
    let mut in_sync = ids_of(&seen["isr"]);
    for partition in partitions {
        let isr = ids_of(&partition["isr"]);
        in_sync.retain(|id| isr.contains(id));
    }
    Ok((ids_of(&seen["replicas"]), leaders, in_sync))
}

async fn add(world: &World, topic: &str, broker: u32) -> anyhow::Result<()> {
    world.fault(format!("add a replica of {topic} on broker {broker}"), None);
    insist(world, topic, &Change::AddReplica(broker)).await?;
    within("the added replica is in sync", scaled(JOIN_DEADLINE), async || {
        let (holds, _, in_sync) = replicas(world, topic).await?;
        if in_sync.contains(&broker) { Ok(()) } else { bail!("{holds:?} hold it, {in_sync:?} are in sync") }
    })
    .await
}

async fn remove(world: &World, topic: &str) -> anyhow::Result<Option<u32>> {
    let (holds, leaders, _) = replicas(world, topic).await?;
    let followers: Vec<u32> = holds.into_iter().filter(|id| !leaders.contains(id)).collect();
    let Ok(broker) = world.pick(&followers) else {
        world.note(format!("every replica of {topic} leads a partition: none is removed"));
        return Ok(None);
    };
    world.fault(format!("remove the replica of {topic} on broker {broker}"), None);
    insist(world, topic, &Change::RemoveReplica(broker)).await?;
    Ok(Some(broker))
}

/// A topic of two replicas gets down to one, up to three, and back to two, again and again.
pub(super) async fn replication_factor(world: &World) -> anyhow::Result<()> {
    for _ in 0..3 {
        remove(world, PAIRS).await?;
        world.progress().await?;
        for _ in 0..2 {
            let (holds, ..) = replicas(world, PAIRS).await?;
            let free: Vec<u32> = world.cluster.ids().into_iter().filter(|id| !holds.contains(id)).collect();
            add(world, PAIRS, world.pick(&free)?).await?;
        }
        world.progress().await?;
        remove(world, PAIRS).await?;
        world.progress().await?;
        // Whoever leads with the new set of replicas must have everything.
        kill(world, world.leader(&Place::of(PAIRS, 0)).await?, "leader").await?;
    }
    Ok(())
}

/// Two brokers are added and hold replicas, and are emptied and stopped again; leaders and followers among those that are
/// there are killed after each.
pub(super) async fn scale(world: &World) -> anyhow::Result<()> {
    for id in ADDED {
        world.fault(format!("add broker {id}"), None);
        world.cluster.add_broker(id);
        world.whole().await?;
        add(world, ORDERS, id).await?;
        world.progress().await?;
    }
    for _ in 0..3 {
        kill(world, world.pick(&world.cluster.ids())?, "any of five").await?;
    }
    for id in ADDED.into_iter().rev() {
        leave(world, id).await?;
    }
    for _ in 0..2 {
        let victim = world.pick(&world.running())?;
        world.fault(format!("kill -9 broker {victim}"), Some("kill -9 any of the three that are left"));
        world.cluster.kill9(victim);
        world.progress().await.with_context(|| format!("with broker {victim} away"))?;
        world.fault(format!("start broker {victim}"), None);
        world.cluster.start_broker(victim);
        in_sync_where_they_run(world).await?;
    }
    Ok(())
}

/// Takes a broker out of the cluster: the main topic first gets one replica less, the drain moves all else away, and what
/// holds nothing is stopped.
async fn leave(world: &World, id: u32) -> anyhow::Result<()> {
    let stays = world.pick(&[1, 2, 3])?;
    world.fault(
        format!("let broker {stays} lead all of {ORDERS}, and remove the replica on broker {id}"),
        None,
    );
    within(&format!("broker {stays} leads all of {ORDERS}"), scaled(JOIN_DEADLINE), async || {
        post(world, &format!("/admin/topics/{ORDERS}/elect?broker_id={stays}")).await?;
        let (_, leaders, _) = replicas(world, ORDERS).await?;
        if leaders.iter().all(|leader| *leader == stays) { Ok(()) } else { bail!("{leaders:?} lead") }
    })
    .await?;
    within(&format!("{ORDERS} has no replica on broker {id}"), scaled(JOIN_DEADLINE), async || {
        insist(world, ORDERS, &Change::RemoveReplica(id)).await?;
        let (holds, ..) = replicas(world, ORDERS).await?;
        if holds.contains(&id) { bail!("{holds:?} hold it") } else { Ok(()) }
    })
    .await?;
    world.fault(format!("drain broker {id}"), Some("drain"));
    within(&format!("broker {id} is drained"), scaled(JOIN_DEADLINE), async || {
        let answer = post(world, &format!("/admin/brokers/{id}/drain")).await?;
        if answer["state"] == "drained" { Ok(()) } else { bail!("{answer}") }
    })
    .await?;
    world.drained(id);
    world.progress().await?;
    world.fault(format!("SIGTERM broker {id}, which holds nothing"), Some("SIGTERM of a drained broker"));
    world.cluster.sigterm(id).await?;
    world.progress().await
}

/// Makes an admin request through any broker that runs. Returns the answer, if it is 200.
async fn post(world: &World, path: &str) -> anyhow::Result<Value> {
    let via = world.pick(&world.running())?;
    let answer = world.http.post(&format!("{}{path}", world.cluster.url(via))).await?;
    if answer.status == 200 { Ok(answer.json()) } else { bail!("{answer}") }
}

/// Waits until every replica of the main topic is in sync again, with only some of the brokers there.
async fn in_sync_where_they_run(world: &World) -> anyhow::Result<()> {
    within(&format!("every replica of {ORDERS} is in sync"), scaled(JOIN_DEADLINE), async || {
        let (mut holds, _, mut in_sync) = replicas(world, ORDERS).await?;
        holds.sort_unstable();
        in_sync.sort_unstable();
        if holds == in_sync { Ok(()) } else { bail!("{holds:?} hold it, {in_sync:?} are in sync") }
    })
    .await
}
