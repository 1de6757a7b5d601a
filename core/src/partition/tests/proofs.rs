//! Proofs of leadership: what a leader may say from memory.

use super::super::*;
use super::world::*;

fn leading() -> World {
    let mut world = World::new(1);
    world.learn_all();
    world.settle();
    world
}

fn prove(world: &mut World, round: u64) {
    let leader_epoch = world.view(1).leader_epoch;
    world.step(1, Input::Prove { partition: part(0), leader_epoch, round });
}

#[test]
fn a_leader_is_proven_once_every_in_sync_replica_agreed_after_the_question() {
    let mut world = leading();
    world.cut.insert((1, 3));
    prove(&mut world, 1);
    world.settle();
    assert_eq!(world.view(1).proven, 0, "one of two has not answered");
    world.cut.clear();
    world.run(1_000);
    assert_eq!(world.view(1).proven, 1);
    prove(&mut world, 2);
    assert_eq!(world.view(1).proven, 1, "an earlier agreement proves nothing for a later question");
    world.settle();
    assert_eq!(world.view(1).proven, 2, "without waiting for the next keep-alive");
}

#[test]
fn a_leader_that_was_cut_off_and_replaced_is_proven_no_more() {
    let mut world = leading();
    prove(&mut world, 1);
    world.settle();
    assert_eq!(world.view(1).proven, 1);
    world.elect(2);
    world.learn(2);
    world.learn(3);
    world.settle();
    // The cut is over: the old leader reaches everybody again, and has not heard of the newer image yet.
    prove(&mut world, 2);
    for _ in 0..60 {
        world.now += 50;
        world.step(1, Input::Tick);
        world.settle();
    }
    assert!(world.view(1).proven < 2, "{:?}", world.view(1));
}

#[test]
fn a_leader_alone_in_sync_needs_nobody() {
    let mut world = World::with(1, &[1], Vec::new());
    world.learn(1);
    prove(&mut world, 7);
    assert_eq!(world.view(1).proven, 7);
}
