//! Counter-examples against naive replication, played against the machines.

use super::election::controller_but;
use crate::sim::network::{Body, Packet, Verdict, kind};
use crate::sim::world::{Flow, World};
use pubsub_core::ids::{BrokerId, TopicId, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{Acks, Role};
use pubsub_core::wire::internal::Message;
use std::cell::Cell;
use std::rc::Rc;

/// Who is what in a script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) partition: TopicPartition,
    pub(super) leader: BrokerId,
    controller: BrokerId,
    pub(super) follower: BrokerId,
}

/// Makes a topic of three replicas and picks a partition whose leader is not the controller.
pub(super) fn cast(world: &mut World) -> Flow<Cast> {
    let topic = world.create_topic("stage", 6, 3, 2)?;
    let controller = controller_but(world, None)?;
    world.run_until(3_000, |world| world.unhealed().is_none())?;
    let led = (0..6).map(|partition| TopicPartition { topic, partition }).find_map(|partition| {
        let leader = world.entry(partition)?.leader?;
        (leader != controller).then_some((partition, leader))
    });
    let Some((partition, leader)) = led else {
        return world.fail(Invariant::V1, "all six partitions are led by the controller".to_owned());
    };
    let follower =
        world.ids().into_iter().find(|id| *id != controller && *id != leader).unwrap_or(controller);
    let cast = Cast { partition, leader, controller, follower };
    for _ in 0..3 {
        world.publish_acked(partition, 3_000)?;
    }
    Ok(cast)
}

fn publish_some(world: &mut World, to: BrokerId, partition: TopicPartition, acks: Acks, count: u64) -> Flow {
    for _ in 0..count {
        world.publish(to, partition, acks);
        world.run_for(3)?;
    }
    Ok(())
}

pub(super) fn isr(world: &World, partition: TopicPartition) -> Vec<BrokerId> {
    world.entry(partition).map(|entry| entry.isr).unwrap_or_default()
}

/// Waits until the image shows or lacks an in-sync member.
fn until_in_sync(world: &mut World, partition: TopicPartition, member: BrokerId, wanted: bool) -> Flow {
    let done = world.run_until(8_000, |world| isr(world, partition).contains(&member) == wanted)?;
    world.expect(done, Invariant::V1, || {
        format!("broker {member} in sync on {partition} did not become {wanted}")
    })
}

/// Waits for a leader other than `old` that leads in its own eyes too.
pub(super) fn new_leader(world: &mut World, partition: TopicPartition, old: BrokerId) -> Flow<BrokerId> {
    let leader = |world: &World| {
        let leader = world.entry(partition)?.leader.filter(|leader| *leader != old)?;
        world.view(leader, partition).is_some_and(|view| view.role == Role::Leader).then_some(leader)
    };
    world.run_until(8_000, |world| leader(world).is_some())?;
    match leader(world) {
        Some(leader) => Ok(leader),
        None => world.fail(Invariant::V1, format!("no leader but {old} of {partition} within 8 s")),
    }
}

/// Returns whether a push tells of a higher high watermark.
fn tells_more(packet: &Packet, partition: TopicPartition, high_watermark: u64) -> bool {
    let Body::Push { request, .. } = &packet.body else { return false };
    request.items.iter().any(|item| item.partition == partition && item.high_watermark > high_watermark)
}

/// A follower is lost, and the leader's wish to drop it never reaches the controller.
pub(super) fn isr_shrunk_before_commit(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.network.isolate(cast.leader, [cast.follower]);
    world.network.rule(move |packet| {
        if packet.from == cast.leader && kind(&packet.body) == "alter-isr" {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    for _ in 0..8 {
        publish_some(world, cast.leader, cast.partition, Acks::All, 2)?;
        world.run_for(700)?;
    }
    world.heal_and_converge()
}

/// The wish to add a follower is granted, but the leader does not learn it, and loses the follower.
pub(super) fn isr_expansion_not_counted(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.kill(cast.follower);
    until_in_sync(world, cast.partition, cast.follower, false)?;
    publish_some(world, cast.leader, cast.partition, Acks::All, 3)?;
    let asked = Rc::new(Cell::new(false));
    let seen = asked.clone();
    world.network.rule(move |packet| {
        let asks = matches!(&packet.body, Body::Control(Message::AlterIsr(wish)) if wish.partition == cast.partition
            && wish.isr.iter().any(|(id, _)| *id == cast.follower));
        seen.set(seen.get() || (packet.from == cast.leader && asks));
        let push = packet.from == cast.leader && packet.to == cast.follower && kind(&packet.body) == "push";
        let news = packet.to == cast.leader && ["accept", "committed"].contains(&kind(&packet.body));
        if seen.get() && (push || news) { Verdict::Drop } else { Verdict::Pass }
    });
    world.start(cast.follower);
    world.run_until(6_000, |_| asked.get())?;
    for _ in 0..10 {
        publish_some(world, cast.leader, cast.partition, Acks::All, 1)?;
        world.run_for(60)?;
    }
    world.kill(cast.leader);
    new_leader(world, cast.partition, cast.leader)?;
    world.heal_and_converge()
}

/// A fresh leader's high watermark lags; a replica that reached it, but not the start of the leader's epoch, asks in.
pub(super) fn join_against_hw_only(world: &mut World) -> Flow {
    let cast = cast(world)?;
    // The follower loses its session, not its data: it still replicates, but may not be in sync.
    world.network.isolate(cast.follower, [cast.controller]);
    until_in_sync(world, cast.partition, cast.follower, false)?;
    world.publish_acked(cast.partition, 3_000)?;
    world.run_for(1_500)?;
    world.network.isolate(cast.follower, [cast.leader]);
    let end = world.committed_end(cast.partition);
    // The successor gets all four records, but hears only that the first is committed.
    world.network.delay = (5, 8);
    world.network.rule(move |packet| {
        if tells_more(packet, cast.partition, end + 1) { Verdict::Drop } else { Verdict::Pass }
    });
    for _ in 0..4 {
        world.publish_sized(cast.leader, cast.partition, Acks::All, 700_000);
        world.run_for(1)?;
    }
    world.run_until(2_000, |world| world.committed_end(cast.partition) >= end + 4)?;
    world.kill(cast.leader);
    new_leader(world, cast.partition, cast.leader)?;
    world.network.rule(|packet| if kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass });
    world.network.heal();
    let active = world.run_until(5_000, |world| world.is_active(cast.follower))?;
    world.expect(active, Invariant::V1, || format!("broker {} was not admitted again", cast.follower))?;
    world.run_for(300)?;
    world.network.no_rule();
    world.run_for(3_000)?;
    world.heal_and_converge()
}

/// The leader dies right after an acknowledgement, before the followers heard the new high watermark.
pub(super) fn truncate_to_hw(world: &mut World) -> Flow {
    let cast = cast(world)?;
    for _ in 0..4 {
        let Some(leader) = world.entry(cast.partition).and_then(|entry| entry.leader) else { break };
        let before = world.committed_end(cast.partition);
        world.network.rule(move |packet| {
            if tells_more(packet, cast.partition, before) { Verdict::Drop } else { Verdict::Pass }
        });
        publish_some(world, leader, cast.partition, Acks::All, 1)?;
        world.run_until(1_000, |world| world.committed_end(cast.partition) > before)?;
        world.kill(leader);
        world.network.no_rule();
        new_leader(world, cast.partition, leader)?;
        world.start(leader);
        world.run_for(2_500)?;
    }
    world.heal_and_converge()
}

/// Leads two brokers, one after the other, to different records at the same offsets.
fn diverge(world: &mut World, on_old: u64, on_new: u64) -> Flow {
    let cast = cast(world)?;
    let old = cast.leader;
    world.network.rule(move |packet| {
        if packet.from == old && kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass }
    });
    publish_some(world, old, cast.partition, Acks::All, on_old)?;
    world.run_for(30)?;
    world.kill(old);
    let new = new_leader(world, cast.partition, old)?;
    world.network.rule(move |packet| {
        let push = packet.from == new && packet.to != old && kind(&packet.body) == "push";
        if push { Verdict::Drop } else { Verdict::Pass }
    });
    publish_some(world, new, cast.partition, Acks::All, on_new)?;
    world.start(old);
    world.run_for(4_000)?;
    world.network.no_rule();
    publish_some(world, new, cast.partition, Acks::All, 1)?;
    world.run_for(500)?;
    world.heal_and_converge()
}

/// Two leaders in quick succession wrote equally many records that nobody else has.
pub(super) fn fast_leader_change_divergence(world: &mut World) -> Flow {
    let count = world.rng.between((1, 3));
    diverge(world, count, count)
}

/// A former leader comes back with records that nobody else has; the new one matches what lies before them.
pub(super) fn ack_counts_unverified_suffix(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let old = cast.leader;
    world.network.rule(move |packet| {
        if packet.from == old && kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass }
    });
    let suffix = world.rng.between((2, 5));
    publish_some(world, old, cast.partition, Acks::All, suffix)?;
    world.run_for(30)?;
    world.kill(old);
    let new = new_leader(world, cast.partition, old)?;
    world.network.no_rule();
    world.start(old);
    until_in_sync(world, cast.partition, old, true)?;
    world.run_for(1_000)?;
    // A keep-alive proves the match up to here; its answer comes when the leader has gone on.
    world.network.rule(move |packet| {
        let answer = packet.from == old && kind(&packet.body) == "answer";
        if answer { Verdict::Hold } else { Verdict::Pass }
    });
    world.run_until(2_000, |world| !world.network.held().is_empty())?;
    publish_some(world, new, cast.partition, Acks::All, 1)?;
    world.network.rule(move |packet| {
        if packet.to == old && kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass }
    });
    world.release_held();
    world.run_for(500)?;
    world.heal_and_converge()
}

/// A former leader comes back with more unconfirmed records than the new one has.
pub(super) fn unconfirmed_suffix_is_truncated(world: &mut World) -> Flow {
    let (on_old, on_new) = (world.rng.between((3, 6)), world.rng.between((1, 3)));
    diverge(world, on_old, on_new)
}

/// A deposed leader's pushes arrive after its successor committed other records.
pub(super) fn follower_ignores_leader_epoch(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let old = cast.leader;
    world.network.rule(move |packet| {
        if packet.from == old && kind(&packet.body) == "push" { Verdict::Hold } else { Verdict::Pass }
    });
    publish_some(world, old, cast.partition, Acks::All, 3)?;
    world.run_for(30)?;
    world.pause(old, 6_000, false);
    let new = new_leader(world, cast.partition, old)?;
    publish_some(world, new, cast.partition, Acks::All, 2)?;
    world.run_for(2_500)?;
    world.network.no_rule();
    world.release_held();
    world.run_for(300)?;
    publish_some(world, new, cast.partition, Acks::All, 2)?;
    world.run_for(4_000)?;
    world.heal_and_converge()
}

/// A leader's volume is lost, and it is back at once, still first of the in-sync replicas, of which none can be spared.
pub(super) fn wiped_replica_still_in_isr(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.kill(cast.follower);
    until_in_sync(world, cast.partition, cast.follower, false)?;
    world.publish_acked(cast.partition, 3_000)?;
    world.lose_volume(cast.leader);
    world.start(cast.leader);
    world.run_for(5_000)?;
    world.heal_and_converge()
}

/// The wish to add a follower arrives after that follower came back with an empty volume.
pub(super) fn join_request_outlives_restart(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.kill(cast.follower);
    until_in_sync(world, cast.partition, cast.follower, false)?;
    publish_some(world, cast.leader, cast.partition, Acks::All, 3)?;
    world.network.rule(move |packet| {
        if packet.from == cast.leader && kind(&packet.body) == "alter-isr" {
            Verdict::Hold
        } else {
            Verdict::Pass
        }
    });
    world.start(cast.follower);
    world.run_until(6_000, |world| !world.network.held().is_empty())?;
    let held = world.network.take_held();
    world.network.rule(move |packet| {
        let push = packet.to == cast.follower && kind(&packet.body) == "push";
        let wish = kind(&packet.body) == "alter-isr";
        if push || wish { Verdict::Drop } else { Verdict::Pass }
    });
    world.lose_volume(cast.follower);
    world.start(cast.follower);
    let back = world.run_until(6_000, |world| world.is_active(cast.follower))?;
    world.expect(back, Invariant::V1, || {
        format!("broker {} was not admitted with a new volume", cast.follower)
    })?;
    for packet in held {
        world.deliver(packet);
    }
    world.run_for(1_000)?;
    world.heal_and_converge()
}

/// The last words of a process that is gone arrive after its successor was admitted, and while that one is down too: it must
/// not pass for a volume that was rolled back.
pub(super) fn late_registration_of_a_dead_process(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let id = cast.follower;
    world.network.rule(move |packet| {
        let word = packet.from == id && ["register", "heartbeat-ack"].contains(&kind(&packet.body));
        if word { Verdict::Copy } else { Verdict::Pass }
    });
    for _ in 0..2 {
        world.kill(id);
        world.start(id);
        let admitted = world.run_until(5_000, |world| world.is_active(id))?;
        world.expect(admitted, Invariant::V1, || format!("broker {id} was not admitted again"))?;
        world.network.no_rule();
    }
    until_in_sync(world, cast.partition, id, true)?;
    let boot = |world: &World| world.image().and_then(|image| image.brokers.get(&id).map(|entry| entry.boot));
    let before = boot(world);
    world.kill(id);
    let late = world.network.take_held();
    for _ in 0..20 {
        for packet in &late {
            world.deliver(Packet { to: cast.controller, ..packet.clone() });
        }
        world.run_for(100)?;
    }
    let after = boot(world);
    world
        .expect(after == before, Invariant::R4, || format!("boot {after:?} was admitted after {before:?}"))?;
    world.heal_and_converge()
}

/// Both followers go, one after the other.
pub(super) fn last_replica_standing(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.network.isolate(cast.leader, [cast.follower]);
    publish_some(world, cast.leader, cast.partition, Acks::All, 2)?;
    until_in_sync(world, cast.partition, cast.follower, false)?;
    publish_some(world, cast.leader, cast.partition, Acks::All, 2)?;
    let controller = cast.controller;
    world.network.rule(move |packet| {
        if packet.to == controller && kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass }
    });
    for _ in 0..6 {
        publish_some(world, cast.leader, cast.partition, Acks::All, 1)?;
        world.run_for(1_000)?;
    }
    world.heal_and_converge()
}

/// A leader's process restarts so fast that nobody misses it.
pub(super) fn leader_resumes_same_epoch(world: &mut World) -> Flow {
    let cast = cast(world)?;
    for _ in 0..3 {
        let Some(leader) = world.entry(cast.partition).and_then(|entry| entry.leader) else { break };
        publish_some(world, leader, cast.partition, Acks::All, 2)?;
        world.kill(leader);
        world.start(leader);
        world.run_for(2_000)?;
    }
    world.heal_and_converge()
}

/// With one of two copies lost, a topic that wants two commits nothing until there are two again.
pub(super) fn commits_with_too_few_copies(world: &mut World) -> Flow {
    let partition = pair(world, 2)?;
    let Some(entry) = world.entry(partition) else { return Ok(()) };
    let leader = entry.leader.unwrap_or(BrokerId(1));
    let other = entry.replicas.iter().copied().find(|id| *id != leader).unwrap_or(leader);
    world.publish_acked(partition, 3_000)?;
    world.lose_volume(other);
    world.start(other);
    world.network.rule(move |packet| {
        if packet.to == other && kind(&packet.body) == "push" { Verdict::Drop } else { Verdict::Pass }
    });
    until_in_sync(world, partition, other, false)?;
    world.run_for(7_000)?;
    publish_some(world, leader, partition, Acks::Leader, 3)?;
    publish_some(world, leader, partition, Acks::All, 3)?;
    world.run_for(1_000)?;
    world.heal_and_converge()
}

/// The only in-sync replica dies while a stale one is alive.
pub(super) fn stale_replica_is_not_elected(world: &mut World) -> Flow {
    let partition = pair(world, 1)?;
    let Some(entry) = world.entry(partition) else { return Ok(()) };
    let leader = entry.leader.unwrap_or(BrokerId(1));
    let other = entry.replicas.iter().copied().find(|id| *id != leader).unwrap_or(leader);
    world.kill(other);
    until_in_sync(world, partition, other, false)?;
    for _ in 0..3 {
        world.publish_acked(partition, 3_000)?;
    }
    world.network.isolate(leader, [other]);
    world.start(other);
    world.run_for(1_000)?;
    world.kill(leader);
    world.run_for(5_000)?;
    world.heal_and_converge()
}

/// Makes a topic of two replicas.
fn pair(world: &mut World, min_isr: u32) -> Flow<TopicPartition> {
    let topic: TopicId = world.create_topic("pair", 1, 2, min_isr)?;
    world.run_until(3_000, |world| world.unhealed().is_none())?;
    Ok(TopicPartition { topic, partition: 0 })
}
