//! The end of a run: faults are healed, the cluster settles, everything is read from every replica.

use super::world::{GROUP, ORDERS, WHOLE_DEADLINE, World};
use crate::cluster::await_condition::{scaled, within};
use crate::cluster::ids_of;
use crate::cluster::topic::Topic;
use crate::history::check::{Rule, Violation};
use crate::history::{Ending, History, Ms, PartitionEnding, Place, TopicEnding};
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a group may take to finish everything once publishers have stopped.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// How a run ended.
pub(super) struct Settled {
    pub(super) history: History,
    pub(super) notes: Vec<String>,
    pub(super) ending: Ending,
    /// Time from the healing until the cluster was whole and everybody served.
    pub(super) recovered_ms: Option<Ms>,
}

/// Heals everything, waits until all is well again, stops the workload and reads everything. What does not come about in
/// time is a violation in the history.
pub(super) async fn settle(mut world: World, outcome: anyhow::Result<()>) -> (Settled, World) {
    if let Err(error) = outcome {
        world.violate(Rule::Recovers, format!("during the schedule: {error:#}"));
    }
    let began = world.stage.clock.now();
    heal(&world).await;
    let recovered = recover(&world).await;
    let recovered_ms = recovered.is_ok().then(|| world.stage.clock.now() - began);
    let mut ending = Ending::default();
    let mut history = History::default();
    std::mem::take(&mut world.writers).finish(&mut history).await;
    if let Err(error) = recovered {
        world.violate(Rule::Recovers, format!("after all faults were healed: {error:#}"));
    } else if let Err(error) = read_all(&world, &mut ending).await {
        world.violate(Rule::Recovers, format!("in the end: {error:#}"));
    }
    std::mem::take(&mut world.readers).finish(&mut history).await;
    look_for_alarms(&world).await;
    claims_in_logs(&world, &mut history);
    let (own, notes) = world.take_own();
    history.merge(own);
    (Settled { history, notes, ending, recovered_ms }, world)
}

async fn heal(world: &World) {
    world.fault("heal everything", None);
    let cluster = &world.cluster;
    cluster.proxies().heal();
    if world.shape.volume_mib.is_some() {
        for id in cluster.ids() {
            // Neither frozen nor filled is as good.
            let _ = cluster.volume(id, |volume| volume.thaw());
            let _ = cluster.volume(id, |volume| volume.clear());
        }
    }
    for id in cluster.ids() {
        if cluster.is_running(id) {
            cluster.sigcont(id);
        } else {
            cluster.set_environment(id, &[]);
            cluster.start_broker(id);
        }
    }
    if !cluster.discovery_runs() {
        cluster.start_discovery();
    }
}

async fn recover(world: &World) -> anyhow::Result<()> {
    for id in world.cluster.ids() {
        if let Err(error) = world.cluster.check_alive(id) {
            world.violate(Rule::ProcessesLive, format!("broker {id}: {error:#}"));
            world.cluster.restart(id);
        }
    }
    world.whole().await?;
    world.progress().await?;
    world.whole().await
}

async fn read_all(world: &World, ending: &mut Ending) -> anyhow::Result<()> {
    world.whole().await?;
    drained(world, ending).await?;
    let deadline = scaled(WHOLE_DEADLINE);
    ending.topics =
        within("all brokers list the same topics", deadline, async || topics(world).await).await?;
    let names: Vec<String> =
        ending.topics.keys().filter(|name| !name.starts_with("admin")).cloned().collect();
    for name in names {
        let what = format!("all replicas of {name} are complete");
        let read = within(&what, deadline, async || partitions(world, &name).await).await?;
        if let Some(topic) = ending.topics.get_mut(&name) {
            topic.partitions = read;
        }
    }
    Ok(())
}

/// Waits until the group has finished everything, and notes where it stands.
async fn drained(world: &World, ending: &mut Ending) -> anyhow::Result<()> {
    if world.shape.workers.1 == 0 {
        return Ok(());
    }
    within("the group has finished everything", scaled(DRAIN_DEADLINE), async || {
        ending.positions.clear();
        for partition in 0..world.shape.partitions {
            let place = Place::of(ORDERS, partition);
            let leader = world.leader(&place).await?;
            let seen = world.look(leader, &format!("/admin/topics/{ORDERS}")).await?;
            let log_end = seen["partitions"][usize::try_from(partition)?]["log_end"].as_i64();
            let group = world.look(leader, &format!("/groups/{GROUP}")).await?;
            let standings = group["partitions"].as_array().context("no partitions")?;
            let standing =
                standings.iter().find(|one| one["topic"] == ORDERS && one["partition"] == partition);
            let committed = standing.and_then(|one| one["committed"].as_i64());
            match (committed, log_end) {
                (Some(committed), Some(log_end)) if committed + 1 == log_end => {
                    ending.positions.insert((GROUP.to_owned(), place), committed);
                }
                _ => bail!("{place}: finished {committed:?} of a log that ends at {log_end:?}; {group}"),
            }
        }
        Ok(())
    })
    .await
}

async fn topics(world: &World) -> anyhow::Result<BTreeMap<String, TopicEnding>> {
    let mut first: Option<BTreeMap<String, TopicEnding>> = None;
    for id in world.cluster.ids() {
        let seen = world.look(id, "/admin/topics").await?;
        let mut found = BTreeMap::new();
        for topic in seen["topics"].as_array().context("no topics")? {
            let name = topic["name"].as_str().context("no name")?.to_owned();
            let mark = topic["config"]["owner"]["mark"].as_u64();
            let replicas = ids_of(&topic["replicas"]).into_iter().collect();
            found.insert(name, TopicEnding { mark, replicas, ..TopicEnding::default() });
        }
        let same = |one: &BTreeMap<String, TopicEnding>| {
            one.len() == found.len()
                && one.iter().zip(&found).all(|((name, one), (other_name, other))| {
                    name == other_name && one.mark == other.mark && one.replicas == other.replicas
                })
        };
        match &first {
            Some(one) if !same(one) => bail!("broker {id} lists {:?}", found.keys()),
            Some(_) => {}
            None => first = Some(found),
        }
    }
    first.context("no brokers")
}

/// Reads every replica of every partition of a topic; all of it must be committed, and all replicas in sync.
async fn partitions(world: &World, name: &str) -> anyhow::Result<BTreeMap<u32, PartitionEnding>> {
    let topic = Topic::named(&world.cluster, name);
    let any = *world.cluster.ids().first().context("no brokers")?;
    let described = world.look(any, &format!("/admin/topics/{name}")).await?;
    let mut read = BTreeMap::new();
    for partition in described["partitions"].as_array().context("no partitions")? {
        let id = u32::try_from(partition["id"].as_u64().context("no id")?)?;
        let leader = u32::try_from(partition["leader"].as_u64().context("no leader")?)?;
        let (replicas, isr) = (ids_of(&partition["replicas"]), ids_of(&partition["isr"]));
        if replicas != isr {
            bail!("{partition}");
        }
        let seen: Value = world.look(leader, &format!("/admin/topics/{name}")).await?;
        let log_end = seen["partitions"][usize::try_from(id)?]["log_end"].as_u64().context("no log_end")?;
        let mut end = PartitionEnding::default();
        for replica in replicas {
            let (log, high_watermark) = topic.local_partition(replica, id, 0).await?;
            if high_watermark != log_end {
                bail!("broker {replica} has committed {high_watermark} of {log_end}");
            }
            end.logs.insert(replica, log);
        }
        read.insert(id, end);
    }
    Ok(read)
}

/// Finds counted alarms and panics.
async fn look_for_alarms(world: &World) {
    for id in world.running() {
        let url = format!("{}/metrics", world.cluster.url(id));
        if let Ok(answer) = world.http.get(&url).await {
            for line in answer.text().lines().filter(|line| line.starts_with("pubsub_alarms_total")) {
                if !line.ends_with(" 0") {
                    world.violate(Rule::NoAlarm, format!("broker {id}: {line}"));
                }
            }
        }
        for line in world.cluster.whole_log(id).lines().filter(|line| line.contains("panicked at")) {
            world.violate(Rule::NoAlarm, format!("broker {id}: {line}"));
        }
    }
}

/// Adds the epochs that brokers wrote into their logs: nobody may have looked while one lasted.
fn claims_in_logs(world: &World, history: &mut History) {
    for id in world.cluster.ids() {
        let log = world.cluster.whole_log(id);
        for line in log.lines().filter(|line| line.contains("became controller")) {
            match line.split("epoch=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok()) {
                Some(epoch) => drop(history.claims.insert((epoch, id))),
                None => {
                    history.noticed.push(Violation::of(Rule::OneController, format!("no epoch in {line:?}")))
                }
            }
        }
    }
}
