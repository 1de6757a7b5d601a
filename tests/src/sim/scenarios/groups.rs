//! Consumers that stop and wake up, and coordinators that are lost.

use crate::sim::drive::CONVERGE_MS;
use crate::sim::world::{Flow, World};
use pubsub_core::ids::TopicPartition;
use pubsub_core::invariants::Invariant;
use pubsub_core::limits::GROUP_SESSION_MS;

/// Makes a topic of one partition that the first consumer reads for its group.
fn one_reads(world: &mut World) -> Flow<TopicPartition> {
    let topic = world.create_topic("orders", 1, 3, 2)?;
    world.begin_groups()?;
    let partition = TopicPartition { topic, partition: 0 };
    for _ in 0..3 {
        world.publish_acked(partition, CONVERGE_MS)?;
    }
    acts_until(world, 0, "owns the partition and committed", |world| {
        world.members.owns(0, 0) && world.members.told(0) >= 2
    })?;
    Ok(partition)
}

fn acts_until(world: &mut World, which: usize, what: &str, done: impl Fn(&World) -> bool) -> Flow {
    let reached = world.run_until(2 * GROUP_SESSION_MS, |world| {
        world.member_acts(which);
        done(world)
    })?;
    let members = format!("{:?}", world.members);
    world.expect(reached, Invariant::V1, || format!("consumer {which} never {what}: {members}"))
}

/// 30: a consumer is stopped with a commit on its way, which arrives when its partition has another owner.
pub(super) fn zombie_consumer_commit(world: &mut World) -> Flow {
    let partition = one_reads(world)?;
    let Some((ticket, late)) = world.commit_of(0) else {
        return world.fail(Invariant::V1, "the owner has nothing to commit".to_owned());
    };
    for _ in 0..3 {
        world.publish_acked(partition, CONVERGE_MS)?;
    }
    acts_until(world, 1, "took over and committed", |world| {
        world.members.owns(1, 0) && world.members.told(0) >= 5
    })?;
    let (fenced, mut asked) = (world.members.fenced, None);
    world.run_until(CONVERGE_MS, |world| {
        let leader = world.groups_partition().and_then(|at| world.entry(at)).and_then(|entry| entry.leader);
        if let (None, Some(leader)) = (asked, leader) {
            world.ask_group(leader, 0, ticket, late.clone());
            asked = Some(leader);
        }
        world.members.fenced > fenced
    })?;
    let refused = world.members.fenced - fenced;
    world.expect(refused == 1, Invariant::G1, || format!("the late commit was refused {refused} times"))?;
    world.heal_and_converge()
}

/// 31: the coordinator is lost, and the next one has heard of nobody: that ends no session and gives nothing away.
pub(super) fn group_coordinator_failover_steals(world: &mut World) -> Flow {
    one_reads(world)?;
    let leader = |world: &World| world.entry(world.groups_partition()?)?.leader;
    let Some(coordinator) = leader(world) else {
        return world.fail(Invariant::V1, "nobody coordinates".to_owned());
    };
    world.kill(coordinator);
    // The owner is silent until the next coordinator has let the other one in.
    acts_until(world, 1, "became a member", |world| world.members.is_member(1))?;
    let stolen = world.members.owns(1, 0);
    world.expect(!stolen, Invariant::G1, || "a failover gave the partition to another".to_owned())?;
    let fenced = world.members.fenced;
    let commits = world.members.commits;
    acts_until(world, 0, "committed as before", |world| world.members.commits > commits)?;
    let kept = world.members.owns(0, 0) && world.members.fenced == fenced;
    world.expect(kept, Invariant::G1, || "the owner lost its membership by a failover".to_owned())?;
    world.heal_and_converge()
}
