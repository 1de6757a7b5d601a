//! Counter-examples against naive elections and metadata commits, played against the machines.

use crate::sim::faults::force_probes;
use crate::sim::network::{Body, Packet, Verdict, kind};
use crate::sim::world::{Flow, World};
use pubsub_core::control::{Input, Ticket};
use pubsub_core::ids::{BrokerId, ControllerEpoch};
use pubsub_core::invariants::Invariant;
use pubsub_core::wire::internal::Message;

/// Waits for a controller other than `not`; fails V1 after 10 s.
pub(super) fn controller_but(world: &mut World, not: Option<BrokerId>) -> Flow<BrokerId> {
    let found = world.run_until(10_000, |world| world.controller().is_some_and(|id| Some(id) != not))?;
    match world.controller() {
        Some(id) if found => Ok(id),
        _ => world.fail(Invariant::V1, format!("no controller but {not:?} within 10 s")),
    }
}

fn epoch(world: &World) -> ControllerEpoch {
    let epochs = world.ids().into_iter().filter_map(|id| world.status(id)).map(|status| status.epoch);
    epochs.max().unwrap_or_default()
}

fn create_at(world: &mut World, id: BrokerId, name: &str) -> Option<Ticket> {
    let command = world.new_topic(name, 1, 1, 1);
    world.admin(id, command)
}

fn is_from(packet: &Packet, from: BrokerId, kinds: &[&str]) -> bool {
    packet.from == from && kinds.contains(&kind(&packet.body))
}

/// The highest id is cut off and still leads in its own eyes; the others elect; both are asked to create a topic.
///
/// # Errors
/// [`crate::sim::world::Stop`] once an invariant is broken; so for all scripts here.
pub(super) fn split_brain_classic_bully(world: &mut World) -> Flow {
    let old = controller_but(world, None)?;
    let ids = world.ids();
    world.network.isolate(old, ids.clone());
    for _ in 0..12 {
        for id in &ids {
            create_at(world, *id, "split");
        }
        world.run_for(300)?;
    }
    world.heal_and_converge()
}

/// COORDINATOR and HEARTBEAT of an old controller arrive after another one won.
pub(super) fn late_coordinator_message(world: &mut World) -> Flow {
    let old = controller_but(world, None)?;
    world.run_for(500)?;
    world.network.rule(move |packet| {
        if is_from(packet, old, &["coordinator", "heartbeat"]) { Verdict::Copy } else { Verdict::Pass }
    });
    world.run_for(600)?;
    world.network.no_rule();
    world.kill(old);
    let new = controller_but(world, Some(old))?;
    world.run_for(200)?;
    for packet in world.network.take_held() {
        if let Body::Control(Message::Heartbeat { epoch, committed, .. }) = &packet.body {
            let body = Body::Control(Message::Coordinator { epoch: *epoch, committed: *committed });
            world.transmit(Packet { body, ..packet.clone() });
        }
        world.transmit(packet);
    }
    world.run_for(300)?;
    let strayed = world.ids().into_iter().filter(|id| world.is_up(*id)).find(|id| {
        world.status(*id).is_some_and(|status| status.controller.is_some() && status.controller != Some(new))
    });
    world
        .expect(strayed.is_none(), Invariant::E2, || format!("{strayed:?} obeys a late message of {old}"))?;
    world.heal_and_converge()
}

/// A granter restarts between its promise and the next claim of the same epoch.
pub(super) fn promise_forgotten_on_crash(world: &mut World) -> Flow {
    controller_but(world, None)?;
    for _ in 0..12 {
        let Some(controller) = world.controller() else { break };
        world.kill(controller);
        world
            .network
            .rule(|packet| if kind(&packet.body) == "grant" { Verdict::Copy } else { Verdict::Pass });
        world.run_until(5_000, |world| !world.network.held().is_empty())?;
        let grants = world.network.take_held();
        world.network.no_rule();
        if let Some(grant) = grants.first() {
            let (granter, candidate) = (grant.from, grant.to);
            world.kill(granter);
            world.kill(candidate);
            world.start(controller);
            world.start(granter);
            world.run_for(1_500)?;
            world.start(candidate);
        }
        world.start(controller);
        controller_but(world, None)?;
    }
    world.heal_and_converge()
}

/// Two candidates that don't see each other claim at the same time.
pub(super) fn double_vote_same_epoch(world: &mut World) -> Flow {
    for _ in 0..10 {
        let old = controller_but(world, None)?;
        world.run_for(300)?;
        world.kill(old);
        let rest: Vec<_> = world.ids().into_iter().filter(|id| *id != old).collect();
        let (one, other) = (rest[rest.len() - 1], rest[rest.len() - 2]);
        world.network.isolate(one, [other]);
        world.network.delay = (10, 60);
        force_probes(world);
        world.run_for(1_500)?;
        world.network.heal();
        world.start(old);
    }
    world.heal_and_converge()
}

/// The highest id missed a committed topic, comes back and wins.
pub(super) fn winner_keeps_own_stale_image(world: &mut World) -> Flow {
    let highest = BrokerId(world.setup_brokers());
    controller_but(world, None)?;
    world.run_for(1_000)?;
    let ids = world.ids();
    world.network.isolate(highest, ids);
    let second = controller_but(world, Some(highest))?;
    world.network.heal();
    world.network.rule(move |packet| {
        let stale = packet.to == highest && ["accept", "committed"].contains(&kind(&packet.body));
        if stale { Verdict::Drop } else { Verdict::Pass }
    });
    for round in 0..3 {
        world.create_topic(&format!("missed-{round}"), 1, 1, 1)?;
    }
    world.kill(second);
    controller_but(world, Some(second))?;
    world.heal_and_converge()
}

/// A broker that wins terms and commits nothing collects a long chain; a shorter one is committed at a later epoch.
pub(super) fn compare_version_without_epoch(world: &mut World) -> Flow {
    let highest = BrokerId(world.setup_brokers());
    controller_but(world, None)?;
    world.run_for(1_000)?;
    world.network.rule(move |packet| {
        let barred = is_from(packet, highest, &["accept"])
            || (packet.from != highest && kind(&packet.body) == "claim");
        if barred { Verdict::Drop } else { Verdict::Pass }
    });
    for _ in 0..12 {
        world.kill(highest);
        world.start(highest);
        world.run_for(2_500)?;
    }
    let ids = world.ids();
    world.network.isolate(highest, ids);
    world.network.no_rule();
    let second = controller_but(world, Some(highest))?;
    world.create_topic("short", 1, 1, 1)?;
    world.kill(second);
    world.network.heal();
    controller_but(world, Some(second))?;
    world.heal_and_converge()
}

/// ACCEPTs of a controller that was deposed meanwhile arrive at last.
pub(super) fn zombie_proposal_unfenced(world: &mut World) -> Flow {
    let old = controller_but(world, None)?;
    world.run_for(1_000)?;
    world
        .network
        .rule(move |packet| if is_from(packet, old, &["accept"]) { Verdict::Hold } else { Verdict::Pass });
    create_at(world, old, "zombie");
    world.run_for(100)?;
    let ids = world.ids();
    world.network.isolate(old, ids);
    controller_but(world, Some(old))?;
    world.create_topic("newer", 1, 1, 1)?;
    world.network.no_rule();
    world.release_held();
    world.run_for(100)?;
    world.heal_and_converge()
}

/// An image that one broker alone accepted is adopted in a later epoch, and that controller fails at once.
pub(super) fn figure8_old_tag(world: &mut World) -> Flow {
    for round in 0..8 {
        let old = controller_but(world, None)?;
        world.run_for(400)?;
        world.network.rule(
            move |packet| if is_from(packet, old, &["accept"]) { Verdict::Drop } else { Verdict::Pass },
        );
        create_at(world, old, &format!("lonely-{round}"));
        world.run_for(50)?;
        world.kill(old);
        if world.rng.chance(500) {
            controller_but(world, Some(old))?;
        }
        world.start(old);
        world.network.no_rule();
        let pause = world.rng.between((100, 1_500));
        world.run_for(pause)?;
    }
    world.heal_and_converge()
}

/// A controller proposes a leadership that it can't commit; the next one gives the same epoch to another broker.
pub(super) fn act_before_commit(world: &mut World) -> Flow {
    world.create_topic("acts", 3, 3, 2)?;
    world.start_clients((10, 40));
    for _ in 0..4 {
        let old = controller_but(world, None)?;
        world.run_for(500)?;
        let others: Vec<_> = world.ids().into_iter().filter(|id| *id != old).collect();
        let (victim, witness) = (others[0], others[1]);
        world
            .network
            .rule(move |packet| if packet.to == witness { Verdict::Pass } else { drop_accept(packet, old) });
        world.kill(victim);
        world.run_for(1_800)?;
        world.start(victim);
        world.kill(old);
        controller_but(world, Some(old))?;
        world.network.no_rule();
        world.start(old);
        world.run_for(500)?;
    }
    world.heal_and_converge()
}

fn drop_accept(packet: &Packet, from: BrokerId) -> Verdict {
    if is_from(packet, from, &["accept"]) { Verdict::Drop } else { Verdict::Pass }
}

/// A frozen controller wakes up after ten seconds in the middle of a proposal, its clock none the wiser.
pub(super) fn sigstop_coordinator_wakes(world: &mut World) -> Flow {
    let old = controller_but(world, None)?;
    world.run_for(700)?;
    create_at(world, old, "asleep");
    let before = world.rng.below(4);
    world.run_for(before)?;
    world.pause(old, 10_000, true);
    create_at(world, old, "woken");
    world.run_for(1)?;
    let start = world.now();
    let took = world.run_until(4_000, |world| {
        world.ids().into_iter().any(|id| id != old && world.status(id).is_some_and(|status| status.leading))
    })?;
    world.expect(took, Invariant::V1, || "no new controller 4 s after the old one was stopped".to_owned())?;
    world.create_topic("meanwhile", 1, 1, 1)?;
    let rest = (start + 12_000).saturating_sub(world.now());
    world.run_for(rest)?;
    world.heal_and_converge()
}

/// A voter promises an epoch, loses its volume, comes back empty and is asked for the same epoch by another.
pub(super) fn amnesiac_voter(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.run_for(1_000)?;
    asked_again_without_memory(world, World::lose_volume)
}

/// The controller is killed, a voter promises the next epoch, `forget` happens to the voter, and while who got the promise is
/// away the old controller stands.
pub(super) fn asked_again_without_memory(
    world: &mut World,
    forget: impl FnOnce(&mut World, BrokerId),
) -> Flow {
    let old = controller_but(world, None)?;
    world.kill(old);
    world.network.rule(|packet| if kind(&packet.body) == "grant" { Verdict::Copy } else { Verdict::Pass });
    world.run_until(5_000, |world| !world.network.held().is_empty())?;
    let grants = world.network.take_held();
    world.network.no_rule();
    if let Some(grant) = grants.first() {
        forget(world, grant.from);
        world.kill(grant.to);
        world.start(old);
        world.start(grant.from);
        world.run_for(4_000)?;
        world.start(grant.to);
    }
    world.heal_and_converge()
}

/// Two of three voters come back with empty volumes while the third is away.
pub(super) fn two_amnesiacs_found_a_cluster(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.create_topic("kept", 1, 1, 1)?;
    world.run_for(500)?;
    world.ids().into_iter().for_each(|id| world.kill(id));
    for id in [BrokerId(1), BrokerId(2)] {
        world.lose_volume(id);
        world.start(id);
    }
    world.run_for(8_000)?;
    world.start(BrokerId(3));
    world.run_for(8_000)?;
    let founded = world.ids().into_iter().find(|id| world.status(*id).is_some_and(|status| status.leading));
    world.expect(founded.is_none(), Invariant::M1, || {
        format!("{founded:?} leads with two of three volumes lost")
    })
}

/// The highest id hears everybody and is heard by nobody.
pub(super) fn highest_id_hears_but_cannot_win(world: &mut World) -> Flow {
    let highest = BrokerId(world.setup_brokers());
    controller_but(world, None)?;
    world.run_for(2_000)?;
    for id in world.ids() {
        world.network.cut(highest, id);
    }
    controller_but(world, Some(highest))?;
    world.run_for(500)?;
    calm(world, 20_000, 1)?;
    world.heal_and_converge()
}

/// The highest id goes down and comes back every second.
pub(super) fn flapping_highest_id(world: &mut World) -> Flow {
    let highest = BrokerId(world.setup_brokers());
    controller_but(world, None)?;
    world.run_for(1_000)?;
    world.kill(highest);
    controller_but(world, Some(highest))?;
    let before = epoch(world);
    for _ in 0..10 {
        world.start(highest);
        world.run_for(1_000)?;
        world.kill(highest);
        world.run_for(1_000)?;
    }
    let after = epoch(world);
    world.expect(after.0 <= before.0 + 2, Invariant::V1, || format!("epoch {before} became {after}"))?;
    world.heal_and_converge()
}

/// A voter that sends but does not receive campaigns.
pub(super) fn deaf_voter_campaigns(world: &mut World) -> Flow {
    let controller = controller_but(world, None)?;
    world.run_for(2_000)?;
    let deaf = world.ids().into_iter().find(|id| *id != controller).unwrap_or(controller);
    for id in world.ids() {
        world.network.cut(id, deaf);
    }
    calm(world, 20_000, 1)?;
    world.heal_and_converge()
}

/// Checks that at most `terms` new epochs begin in so many ms.
pub(super) fn calm(world: &mut World, ms: u64, terms: u64) -> Flow {
    let before = epoch(world);
    world.run_for(ms)?;
    let after = epoch(world);
    world.expect(after.0 <= before.0 + terms, Invariant::V1, || {
        format!("epoch {before} became {after} in {ms} ms")
    })
}

/// A restarted discovery pushes an empty map to everybody.
pub(super) fn discovery_restart_empty(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.create_topic("found", 1, 3, 2)?;
    for id in world.ids() {
        world.discover(id, &[]);
    }
    let before = epoch(world);
    world.run_for(5_000)?;
    let after = epoch(world);
    world.expect(before == after, Invariant::D1, || {
        format!("epoch {before} became {after} by an empty map")
    })?;
    world.heal_and_converge()
}

/// A voter's volume is replaced while another voter's candidacy for the present epoch is still open.
pub(super) fn candidate_survives_same_epoch_accept(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.run_for(1_000)?;
    for _ in 0..3 {
        let Some(controller) = world.controller() else { break };
        let others: Vec<_> = world.ids().into_iter().filter(|id| *id != controller).collect();
        world.lose_volume(others[0]);
        world.start(others[0]);
        world
            .network
            .rule(|packet| if kind(&packet.body) == "claim" { Verdict::Copy } else { Verdict::Pass });
        world.kill(controller);
        force_probes(world);
        world.run_for(700)?;
        world.start(controller);
        force_probes(world);
        world.run_for(40_000)?;
        for packet in world.network.take_held() {
            world.transmit(packet);
        }
        world.run_for(500)?;
        world.network.no_rule();
        controller_but(world, None)?;
        world.run_for(35_000)?;
    }
    world.inject(BrokerId(1), Input::Tick);
    world.heal_and_converge()
}
