//! Moves of replicas that naive designs lose records by.

use crate::sim::world::{Flow, World};
use pubsub_core::control::{Command, Ticket};
use pubsub_core::ids::{BrokerId, TopicName, TopicPartition};
use pubsub_core::invariants::Invariant;

/// Asks for a move of a topic's only partition until it is under way, and waits until it is over.
fn move_to(world: &mut World, partition: TopicPartition, replicas: &[BrokerId]) -> Flow {
    let name = TopicName::try_from("stage").expect("a valid name");
    let command = Command::Reassign { name, moves: vec![(partition.partition, replicas.to_vec())] };
    let mut asked: Option<Ticket> = None;
    let over = world.run_until(15_000, |world| {
        if asked.is_none_or(|ticket| world.admin_outcome(ticket).is_some_and(Result::is_err)) {
            asked = world.controller().and_then(|to| world.admin(to, command.clone()));
        }
        world.entry(partition).is_some_and(|entry| {
            entry.replicas == replicas && entry.adding.is_empty() && entry.removing.is_empty()
        })
    })?;
    let entry = world.entry(partition);
    world.expect(over, Invariant::V1, || format!("a move to {replicas:?} did not end: {entry:?}"))
}

fn publish_five(world: &mut World, partition: TopicPartition) -> Flow {
    (0..5).try_for_each(|_| world.publish_acked(partition, 3_000).map(drop))
}

/// Makes a topic of two replicas with records, and returns it with those that hold it and those that don't.
fn cast(world: &mut World) -> Flow<(TopicPartition, Vec<BrokerId>, Vec<BrokerId>)> {
    let topic = world.create_topic("stage", 1, 2, 2)?;
    world.run_until(3_000, |world| world.unhealed().is_none())?;
    let partition = TopicPartition { topic, partition: 0 };
    publish_five(world, partition)?;
    let held = world.entry(partition).map(|entry| entry.replicas).unwrap_or_default();
    let others = world.ids().into_iter().filter(|id| !held.contains(id)).collect();
    Ok((partition, held, others))
}

/// Both replicas move to brokers that hold nothing yet, and whoever held the records before is lost.
pub(super) fn move_ends_before_sync(world: &mut World) -> Flow {
    let (partition, held, others) = cast(world)?;
    move_to(world, partition, &others[..2])?;
    for id in held {
        world.kill(id);
    }
    world.run_for(2_000)?;
    publish_five(world, partition)?;
    world.heal_and_converge()
}

/// A follower is moved away and back while its leader, whose image is old, may still count what it proved before.
pub(super) fn replica_moved_away_and_back(world: &mut World) -> Flow {
    let (partition, held, others) = cast(world)?;
    let (leader, follower) = (held[0], held[1]);
    for _ in 0..3 {
        move_to(world, partition, &[leader, others[0]])?;
        publish_five(world, partition)?;
        if world.rng.chance(500) {
            world.kill(follower);
            world.start(follower);
        }
        move_to(world, partition, &[leader, follower])?;
        publish_five(world, partition)?;
    }
    move_to(world, partition, &[follower, others[1]])?;
    world.kill(leader);
    publish_five(world, partition)?;
    world.heal_and_converge()
}

/// The leader is emptied under load and taken away as soon as it holds nothing any more.
pub(super) fn drained_broker_is_taken_away(world: &mut World) -> Flow {
    let (partition, held, _) = cast(world)?;
    let broker = held[0];
    world.start_clients((5, 30));
    let mut asked: Option<Ticket> = None;
    let drained = world.run_until(20_000, |world| {
        if asked.is_none_or(|ticket| world.admin_outcome(ticket).is_some_and(Result::is_err)) {
            asked = world.controller().and_then(|to| world.admin(to, Command::Drain { broker }));
        }
        world.image().is_some_and(|image| image.is_drained(broker))
    })?;
    let entry = world.entry(partition);
    world
        .expect(drained, Invariant::V1, || format!("broker {broker} is not drained after 20 s: {entry:?}"))?;
    world.kill(broker);
    world.run_for(2_000)?;
    publish_five(world, partition)?;
    world.heal_and_converge()
}
