//! Random fault mixes. What a mix contains decides what it can find: the ordinary one is what a bad week brings, the
//! storms pile up the rare interleavings on which elections or replication turn.

use super::world::{Flow, World};
use pubsub_core::control::Input;
use pubsub_core::control::gossip::{GossipEntry, GossipMessage};
use pubsub_core::ids::{At, BrokerId, ControllerEpoch, RunId, StorageId};
use pubsub_core::wire::internal::Message;

/// Crashes, shutdowns, pauses, partitions, slow and sick disks, lost volumes, lossy and slow links, and lies of discovery
/// and gossip (D1), with pauses between them.
///
/// # Errors
/// [`super::world::Stop`] once an invariant is broken.
pub fn ordinary(world: &mut World) -> Flow {
    begin(world)?;
    world.start_clients((10, 60));
    let may_lose_volume = world.rng.chance(300);
    world.crash_rate = if world.rng.chance(300) { 20 } else { 0 };
    for _ in 0..22 {
        world.fault(|world| one_ordinary(world, may_lose_volume));
        let pause = world.rng.between((150, 1_000));
        world.run_for(pause)?;
    }
    world.heal_and_converge()
}

pub(super) fn begin(world: &mut World) -> Flow {
    world.create_topic("orders", 2, 3, 2)?;
    world.create_topic("notes", 1, 2, 1)?;
    Ok(())
}

pub(super) fn someone(world: &mut World) -> BrokerId {
    let ids = world.ids();
    world.rng.pick(&ids).expect("a cluster has brokers")
}

pub(super) fn one_ordinary(world: &mut World, may_lose_volume: bool) {
    let (one, other) = (someone(world), someone(world));
    let ids = world.ids();
    match world.rng.below(20) {
        0 | 1 => world.kill(one),
        2..5 => ids.iter().for_each(|id| world.start(*id)),
        5 => {
            let (ms, frozen) = (world.rng.between((100, 4_000)), world.rng.chance(300));
            world.pause(one, ms, frozen);
        }
        6 => world.network.cut(one, other),
        7 => world.network.isolate(one, ids),
        8 => {
            if let Some(controller) = world.controller() {
                world.network.isolate(controller, [other]);
            }
        }
        9 | 10 => world.network.heal(),
        11 => {
            world.network.loss = world.rng.below(300);
            world.network.duplicates = world.rng.below(200);
        }
        12 => world.network.delay = (1, world.rng.between((5, 300))),
        13 => {
            let slow = world.rng.between((5, 600));
            world.disk_delay(one, (1, slow));
        }
        14 if may_lose_volume && world.volumes_lost == 0 => {
            world.lose_volume(one);
            if world.rng.chance(700) {
                world.start(one);
            }
        }
        14 => discovery_lies(world, one),
        15 | 16 => gossip_lies(world, one, other),
        17 => world.inject(one, Input::Stop),
        18 => {
            let healthy = world.rng.chance(600);
            world.inject(one, Input::Storage { healthy });
        }
        _ => {
            let drift = i64::try_from(world.rng.below(100)).expect("a small number") - 50;
            world.drift(one, drift);
            restart(world, one);
        }
    }
}

/// An empty map from a discovery that restarted, or a part of the map.
fn discovery_lies(world: &mut World, one: BrokerId) {
    let map: Vec<_> = world.ids().into_iter().filter(|_| world.rng.chance(300)).collect();
    world.discover(one, &map);
}

/// One broker tells another nonsense about a third, or about itself, newer than all that is known.
fn gossip_lies(world: &mut World, one: BrokerId, other: BrokerId) {
    let about = someone(world);
    let entry = GossipEntry {
        id: about,
        storage_id: StorageId(world.rng.uuid()),
        boot: world.rng.below(100),
        run_id: RunId(world.rng.uuid()),
        counter: 1_000_000 + world.rng.below(1_000),
        api_base: "http://elsewhere:1".to_owned(),
        peer_base: "http://elsewhere:2".to_owned(),
        applied: At { epoch: ControllerEpoch(world.rng.below(1_000)), version: world.rng.below(1_000) },
    };
    let message = GossipMessage { open: world.rng.chance(500), digest: Vec::new(), entries: vec![entry] };
    let from_storage = world.disk_of(other).hard.storage_id;
    world.inject(one, Input::Message { from: other, from_storage, message: Message::Gossip(message) });
}

pub(super) fn restart(world: &mut World, id: BrokerId) {
    world.kill(id);
    world.start(id);
}

/// Instant restarts, links that flip every 100 ms, delays up to 800 ms, stopped controllers and forced probes.
///
/// # Errors
/// [`super::world::Stop`] once an invariant is broken.
pub fn election_storm(world: &mut World) -> Flow {
    begin(world)?;
    world.start_clients((60, 200));
    world.network.delay = (1, 400);
    world.crash_rate = 100;
    for _ in 0..90 {
        world.fault(one_storm);
        let pause = world.rng.between((30, 150));
        world.run_for(pause)?;
    }
    world.heal_and_converge()
}

fn one_storm(world: &mut World) {
    let (one, other) = (someone(world), someone(world));
    match world.rng.below(10) {
        0 | 1 => restart(world, one),
        2 => world.network.cut(one, other),
        3 | 4 => world.network.mend(one, other),
        5 => force_probes(world),
        6 => {
            if let Some(controller) = world.controller() {
                let frozen = world.rng.chance(300);
                world.pause(controller, 1_500, frozen);
            }
        }
        7 => world.network.duplicates = world.rng.below(300),
        8 => world.ids().into_iter().for_each(|id| world.start(id)),
        _ => world.network.delay = (1, world.rng.between((5, 800))),
    }
}

/// Every broker hears that every other one's port refused a connection.
pub fn force_probes(world: &mut World) {
    let ids = world.ids();
    for id in &ids {
        for peer in ids.iter().filter(|peer| *peer != id) {
            world.inject(*id, Input::Unreachable { peer: *peer });
        }
    }
}

/// Leaders that change every second, half-cut replication, slow and lossy disks, restarts, and at most one lost volume.
///
/// # Errors
/// [`super::world::Stop`] once an invariant is broken.
pub fn replication_storm(world: &mut World) -> Flow {
    begin(world)?;
    world.start_clients((5, 25));
    world.crash_rate = 40;
    let may_lose_volume = world.rng.chance(400);
    for _ in 0..40 {
        world.fault(|world| one_replication_fault(world, may_lose_volume));
        let pause = world.rng.between((50, 600));
        world.run_for(pause)?;
    }
    world.heal_and_converge()
}

fn one_replication_fault(world: &mut World, may_lose_volume: bool) {
    let (one, other) = (someone(world), someone(world));
    match world.rng.below(14) {
        0..3 => restart(world, one),
        3 => world.network.cut(one, other),
        4 => world.network.isolate(one, [other]),
        5..8 => world.network.heal(),
        8 => {
            let slow = world.rng.between((5, 900));
            world.disk_delay(one, (1, slow));
        }
        9 => world.disk_delay(one, (1, 4)),
        10 => {
            let ms = world.rng.between((200, 2_500));
            world.pause(one, ms, false);
        }
        11 => {
            world.network.duplicates = world.rng.below(300);
            world.network.delay = (1, world.rng.between((5, 400)));
        }
        12 if may_lose_volume && world.volumes_lost == 0 => {
            world.lose_volume(one);
            world.start(one);
        }
        _ => world.ids().into_iter().for_each(|id| world.start(id)),
    }
}
