//! Counter-examples of volumes, addresses and programs that are not what they were: copies, replacements, other versions.

use super::election::{asked_again_without_memory, controller_but};
use super::replication::{cast, isr};
use crate::sim::drive::CONVERGE_MS;
use crate::sim::network::{Verdict, kind};
use crate::sim::world::{Flow, World};
use pubsub_core::ids::BrokerId;
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::Acks;

/// Longest wait for a cluster to be whole between two acts.
const WHOLE_MS: u64 = 20_000;

fn whole(world: &mut World) -> Flow {
    let whole = world.run_until(WHOLE_MS, |world| world.unhealed().is_none())?;
    let why = world.unhealed().unwrap_or_default();
    world.expect(whole, Invariant::V1, || format!("not whole within {WHOLE_MS} ms: {why}"))
}

/// A founder wins the promises of all others, loses its volume before its first image arrives, and stands again on an empty
/// one for the same epoch, since all that it hears is from before: the promises were not made to the new volume.
pub(super) fn founder_replaced_while_founding(world: &mut World) -> Flow {
    let proposer = |world: &World| {
        let mut held = world.network.held().iter();
        held.find(|packet| kind(&packet.body) == "accept").map(|packet| packet.from)
    };
    world.network.rule(|packet| match kind(&packet.body) {
        "accept" => Verdict::Hold,
        "ok" => Verdict::Copy,
        _ => Verdict::Pass,
    });
    world.run_until(10_000, |world| proposer(world).is_some())?;
    let Some(first) = proposer(world) else {
        return world.fail(Invariant::V1, "nobody founded a cluster".to_owned());
    };
    let (old, answers): (Vec<_>, Vec<_>) =
        world.network.take_held().into_iter().partition(|packet| kind(&packet.body) == "accept");
    world.network.rule(move |packet| match kind(&packet.body) {
        "accept" => Verdict::Hold,
        "ok" | "election" if packet.to == first || packet.from == first => Verdict::Drop,
        _ => Verdict::Pass,
    });
    world.lose_volume(first);
    world.start(first);
    world.run_for(20)?;
    answers.into_iter().filter(|packet| packet.to == first).for_each(|packet| world.deliver(packet));
    world.run_for(300)?;
    let new = world.network.take_held();
    world.network.no_rule();
    let others: Vec<_> = world.ids().into_iter().filter(|id| *id != first).collect();
    for (packets, to) in [(old, others[0]), (new, others[1])] {
        packets.into_iter().filter(|packet| packet.to == to).for_each(|packet| world.deliver(packet));
    }
    world.run_for(500)?;
    world.heal_and_converge()
}

/// 14: a follower's volume is replaced by an older copy of itself: what was acknowledged since is not on it.
pub(super) fn pv_rollback(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.copy_volume(cast.follower);
    whole(world)?;
    for _ in 0..5 {
        world.publish_acked(cast.partition, CONVERGE_MS)?;
    }
    world.roll_volume_back(cast.follower);
    world.start(cast.follower);
    let noticed = world.run_until(WHOLE_MS, |world| {
        let image = world.image();
        image.is_some_and(|image| image.brokers.get(&cast.follower).is_some_and(|entry| entry.rolled_back))
    })?;
    world.expect(noticed, Invariant::R1, || "an older copy was taken for the volume".to_owned())?;
    for _ in 0..5 {
        world.publish_acked(cast.partition, CONVERGE_MS)?;
    }
    let back = world.run_until(WHOLE_MS, |world| isr(world, cast.partition).contains(&cast.follower))?;
    world.expect(back, Invariant::V1, || "it does not catch up again".to_owned())?;
    let votes = |world: &World| world.image().is_some_and(|image| image.voters.contains_key(&cast.follower));
    let dropped = world.run_until(60_000, |world| !votes(world))?;
    world.expect(dropped, Invariant::E2, || "it votes though it forgot what it promised".to_owned())?;
    world.run_for(60_000)?;
    let again = votes(world);
    world.expect(!again, Invariant::E2, || "it was given its vote back".to_owned())?;
    world.heal_and_converge()
}

/// 14: a voter promises an epoch, its volume goes back to before that, and another candidate asks for the same epoch.
pub(super) fn pv_rollback_of_a_voter(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.run_for(1_000)?;
    for id in world.ids() {
        world.copy_volume(id);
        whole(world)?;
    }
    asked_again_without_memory(world, World::roll_volume_back)
}

/// 38: voters whose promise file is full are asked for their vote, again and again.
pub(super) fn disk_full_voter_grants(world: &mut World) -> Flow {
    controller_but(world, None)?;
    world.run_for(1_000)?;
    for _ in 0..6 {
        let old = controller_but(world, None)?;
        for id in world.ids().into_iter().filter(|id| *id != old) {
            let full = world.rng.chance(600);
            world.promises_full(id, full);
        }
        world.kill(old);
        world.run_for(1_500)?;
        for id in world.ids() {
            world.promises_full(id, false);
            world.start(id);
        }
        world.run_for(2_500)?;
    }
    world.heal_and_converge()
}

/// 36: a broker's address leads to another broker.
pub(super) fn pod_new_ip_old_ip_reused(world: &mut World) -> Flow {
    let cast = cast(world)?;
    for (one, other) in [(cast.follower, cast.leader), (cast.leader, cast.follower)] {
        world.network.reused.insert(one, other);
        for _ in 0..10 {
            world.publish(cast.leader, cast.partition, Acks::All);
            world.run_for(300)?;
        }
        world.network.reused.clear();
        whole(world)?;
    }
    let seen = world.network.misdirected;
    world.expect(seen > 0, Invariant::D1, || "nothing went astray".to_owned())?;
    world.heal_and_converge()
}

/// 40: all brokers read a newer feature level, the cluster rises to it, and one comes back with the older program.
pub(super) fn mixed_version_drops_field(world: &mut World) -> Flow {
    controller_but(world, None)?;
    for id in world.ids() {
        let early = world.image().is_some_and(|image| image.feature_level > 1);
        world.expect(!early, Invariant::M1, || "the level rose before all could read it".to_owned())?;
        world.kill(id);
        world.install(id, (1, 2));
        world.start(id);
        whole(world)?;
    }
    let raised =
        world.run_until(700_000, |world| world.image().is_some_and(|image| image.feature_level == 2))?;
    world.expect(raised, Invariant::V1, || "the feature level stays at 1".to_owned())?;
    let old = BrokerId(world.setup_brokers());
    world.kill(old);
    world.install(old, (1, 1));
    for wiped in [false, true] {
        if wiped {
            world.lose_volume(old);
        }
        world.start(old);
        let ended = world.run_until(WHOLE_MS, |world| !world.is_up(old))?;
        world.expect(ended, Invariant::M1, || format!("the older program runs, wiped {wiped}"))?;
    }
    world.install(old, (1, 2));
    world.heal_and_converge()
}

/// 43: a wiped broker gets requests that were meant for its predecessor before it is registered.
pub(super) fn process_without_registration(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let victim = cast.follower;
    world.network.rule(move |packet| {
        let word = packet.from == victim && kind(&packet.body) == "register";
        if word { Verdict::Drop } else { Verdict::Pass }
    });
    world.lose_volume(victim);
    world.start(victim);
    for _ in 0..20 {
        world.publish(cast.leader, cast.partition, Acks::All);
        world.run_for(150)?;
    }
    let serves = !world.disk_of(victim).durable.is_empty() || world.view(victim, cast.partition).is_some();
    world.expect(!serves, Invariant::R1, || "it takes records without being registered".to_owned())?;
    world.network.no_rule();
    world.heal_and_converge()
}
