//! Changes that administrators make to a running cluster, among ordinary faults.

use super::faults::{begin, one_ordinary, restart, someone};
use super::world::{Flow, World};
use pubsub_core::control::Command;
use pubsub_core::ids::{BrokerId, TopicName};
use pubsub_core::wire::admin::AlterTopicRequest;

/// Replicas that move, replication factors that change, brokers that are emptied, and all of that taken back, between faults of every kind.
///
/// # Errors
/// [`super::world::Stop`] once an invariant is broken.
pub fn changes(world: &mut World) -> Flow {
    begin(world)?;
    world.start_clients((10, 50));
    let may_lose_volume = world.rng.chance(200);
    world.crash_rate = if world.rng.chance(300) { 20 } else { 0 };
    for _ in 0..30 {
        world.fault(|world| {
            if world.rng.chance(550) {
                one_change(world);
            } else {
                one_ordinary(world, may_lose_volume);
            }
        });
        let pause = world.rng.between((50, 900));
        world.run_for(pause)?;
    }
    world.heal_and_converge()
}

/// One administrator asks whom they take for the controller for one change.
fn one_change(world: &mut World) {
    let (name, partitions, min_isr) = if world.rng.chance(600) { ("orders", 2, 2) } else { ("notes", 1, 1) };
    let topic = TopicName::try_from(name).expect("a valid name");
    let chosen = some_brokers(world, min_isr);
    let broker = chosen[0];
    let command = match world.rng.below(12) {
        0..5 => {
            let moves = vec![(small(world, partitions), chosen.clone())];
            Command::Reassign { name: topic, moves }
        }
        5 | 6 => {
            let change = resized(world, min_isr);
            Command::AlterTopic { name: topic, change, owner_uid: None, take_ownership: false }
        }
        7 => Command::CancelMoves { name: topic },
        8 => Command::AddReplica { name: topic, broker },
        9 => Command::Drain { broker },
        10 => Command::CancelDrain { broker },
        _ => Command::RemoveReplica { name: topic, broker },
    };
    let asked = someone(world);
    let to = world.status(asked).and_then(|status| status.controller).unwrap_or(asked);
    world.admin(to, command);
    if world.rng.chance(150) {
        restart(world, broker);
    }
}

fn small(world: &mut World, below: u64) -> u32 {
    u32::try_from(world.rng.below(below)).expect("a small number")
}

fn resized(world: &mut World, min_isr: u32) -> AlterTopicRequest {
    let replication_factor = Some(min_isr + small(world, 3));
    AlterTopicRequest { replication_factor, min_isr: Some(min_isr), ..AlterTopicRequest::default() }
}

/// Returns `least` to three different brokers in any order.
fn some_brokers(world: &mut World, least: u32) -> Vec<BrokerId> {
    let mut left = world.ids();
    let count = least + small(world, u64::from(4 - least));
    let mut chosen = Vec::new();
    while let (true, Some(one)) = (chosen.len() < usize::try_from(count).unwrap_or(1), world.rng.pick(&left))
    {
        left.retain(|id| *id != one);
        chosen.push(one);
    }
    chosen
}
