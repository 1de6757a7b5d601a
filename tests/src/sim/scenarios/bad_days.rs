//! Counter-examples of waiting and of coming back: slow disks, starved processes, names and volumes used again.

use super::election::{calm, controller_but};
use super::replication::{cast, isr, new_leader};
use crate::sim::drive::CONVERGE_MS;
use crate::sim::world::{Flow, World};
use pubsub_core::control::Command;
use pubsub_core::ids::{TopicName, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::Acks;

/// 13: a voter's volume is lost; its new one becomes a voter by way of an image without either, and elections go on.
pub(super) fn voter_replaced_in_one_step(world: &mut World) -> Flow {
    let controller = controller_but(world, None)?;
    world.run_for(2_000)?;
    let Some(lost) = world.ids().into_iter().find(|id| *id != controller) else { return Ok(()) };
    let voter = |world: &World| world.image().and_then(|image| image.voters.get(&lost).copied());
    let before = voter(world);
    world.lose_volume(lost);
    world.start(lost);
    let dropped = world.run_until(60_000, |world| voter(world).is_none())?;
    world.expect(dropped, Invariant::V1, || format!("{before:?} stays a voter without its volume"))?;
    let added = world.run_until(60_000, |world| voter(world).is_some())?;
    let now = voter(world);
    world.expect(added && now != before, Invariant::V1, || format!("{before:?} became {now:?}"))?;
    world.kill(controller);
    controller_but(world, Some(controller))?;
    world.heal_and_converge()
}

/// 39: a voter gets no processor for three seconds, with heartbeats waiting in its inbox: it must not campaign.
pub(super) fn cpu_starved_wakes_and_campaigns(world: &mut World) -> Flow {
    let controller = controller_but(world, None)?;
    world.run_for(2_000)?;
    for id in world.ids().into_iter().filter(|id| *id != controller) {
        world.pause(id, 3_000, false);
        calm(world, 6_000, 0)?;
    }
    world.heal_and_converge()
}

/// 41: the controller falls silent, and two voters must not keep telling each other that they heard of it.
pub(super) fn prevote_ping_pong(world: &mut World) -> Flow {
    let controller = controller_but(world, None)?;
    world.run_for(2_000)?;
    let others: Vec<_> = world.ids().into_iter().filter(|id| *id != controller).collect();
    world.network.isolate(controller, others.clone());
    let replaced = world.run_until(4_000, |world| {
        let follows = |id| world.status(id).and_then(|status| status.controller);
        others.iter().all(|id| follows(*id).is_some_and(|found| found != controller))
    })?;
    world.expect(replaced, Invariant::V1, || "nobody stands in for a silent controller".to_owned())?;
    world.heal_and_converge()
}

/// 42: a leader's disk stalls. The followers are not behind by their own fault and must stay in sync.
pub(super) fn slow_leader_disk_evicts_isr(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let before = isr(world, cast.partition);
    world.disk_delay(cast.leader, (3_000, 3_000));
    for _ in 0..6 {
        world.publish(cast.leader, cast.partition, Acks::All);
        world.run_for(1_000)?;
    }
    let after = isr(world, cast.partition);
    world.expect(after == before, Invariant::V1, || format!("in sync were {before:?}, are {after:?}"))?;
    world.heal_and_converge()
}

/// 33: a follower is away while its topic is deleted and made anew: its old log is not the new topic's.
pub(super) fn delete_recreate_same_name(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let others: Vec<_> = world.ids().into_iter().filter(|id| *id != cast.follower).collect();
    world.network.isolate(cast.follower, others);
    let name = TopicName::try_from("stage").expect("a valid name");
    let old = cast.partition.topic;
    let gone = |world: &World| world.image().is_some_and(|image| !image.topics.contains_key(&old));
    let mut waits = 0;
    let deleted = world.run_until(10_000, |world| {
        waits += 1;
        if let (true, Some(controller)) = (waits % 500 == 1, world.controller()) {
            world
                .admin(controller, Command::DeleteTopic { name: name.clone(), owner_uid: None, empty: None });
        }
        gone(world)
    })?;
    world.expect(deleted, Invariant::V1, || "the topic could not be deleted".to_owned())?;
    let topic = world.create_topic("stage", 1, 3, 2)?;
    let partition = TopicPartition { topic, partition: 0 };
    world.publish_acked(partition, 2 * CONVERGE_MS)?;
    world.heal_and_converge()?;
    let kept = world.disk_of(cast.follower).durable.contains_key(&cast.partition);
    world.expect(!kept, Invariant::T1, || "the deleted topic's log is still there".to_owned())
}

/// 29: a reader has read up to the high watermark of a leader whose successor does not know it yet: it waits there.
pub(super) fn consumer_out_of_range_after_failover(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let position = world.logs.committed_end(cast.partition);
    world.kill(cast.leader);
    let next = new_leader(world, cast.partition, cast.leader)?;
    let early = world.readable(next, cast.partition, position);
    world.expect(early.is_empty(), Invariant::R6, || format!("{early:?} at {position}"))?;
    world.publish_acked(cast.partition, CONVERGE_MS)?;
    let read = world.readable(next, cast.partition, position);
    let first = read.first().map(pubsub_core::record::Batch::base_offset);
    world.expect(first == Some(position), Invariant::R6, || format!("{first:?} after {position}"))?;
    world.heal_and_converge()
}
