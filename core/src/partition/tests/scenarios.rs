//! Rules of replication, one test each.

use super::super::*;
use super::world::*;
use crate::wire::internal::{ReplicateItem, ReplicateOutcome};

fn settled() -> World {
    let mut world = World::new(1);
    world.learn_all();
    world.settle();
    world
}

#[test]
fn a_record_is_committed_only_once_every_in_sync_replica_has_synced_it() {
    let mut world = settled();
    let ticket = world.publish(1, records(2, "a"), Acks::All);
    world.sync(1);
    let packets = std::mem::take(&mut world.packets);
    packets.into_iter().for_each(|packet| world.deliver(packet));
    assert!(!world.nodes[&1].acked.contains_key(&ticket), "followers have not synced it");
    assert_eq!(world.view(1).high_watermark, 0);
    world.settle();
    let appended = world.nodes[&1].acked[&ticket].clone().unwrap();
    assert_eq!((appended.base_offset, appended.leader_epoch, appended.isr.len()), (0, LeaderEpoch(1), 3));
    assert_eq!((1..=3).map(|id| world.view(id).high_watermark).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(world.log(1), world.log(3));
}

#[test]
fn a_member_counts_until_its_removal_is_learned() {
    let mut world = settled();
    world.cut.insert((1, 3));
    let ticket = world.publish(1, records(1, "a"), Acks::All);
    let mut wish = None;
    for _ in 0..100 {
        world.now += 50;
        world.step(1, Input::Tick);
        let packets = std::mem::take(&mut world.packets);
        for packet in packets {
            match packet {
                Packet::Alter(alter) => wish = Some(alter),
                other => world.deliver(other),
            }
        }
        (1..=3).for_each(|id| world.sync(id));
    }
    let wish = wish.expect("the silent member is to leave");
    assert_eq!(wish.isr.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2]);
    world.alter(&wish);
    assert_eq!(world.view(1).high_watermark, 0, "the leader has not learned it");
    assert!(!world.nodes[&1].acked.contains_key(&ticket));
    world.learn(1);
    assert_eq!(world.view(1).high_watermark, 1);
    assert!(world.nodes[&1].acked[&ticket].is_ok());
}

/// Brokers 1 and 2 in sync; 3 has caught up and its wish to join is withheld from the controller.
fn asked_to_join() -> (World, AlterIsr) {
    let mut world = World::with(1, &[1, 2], Vec::new());
    world.learn(1);
    world.learn(2);
    world.publish(1, records(1, "a"), Acks::All);
    world.cut.insert((1, 3));
    world.settle();
    world.learn(3);
    world.cut.clear();
    for _ in 0..1_000 {
        world.now += 10;
        world.step(1, Input::Tick);
        let packets = std::mem::take(&mut world.packets);
        for packet in packets {
            match packet {
                Packet::Alter(alter) => return (world, alter),
                other => world.deliver(other),
            }
        }
        (1..=3).for_each(|id| world.sync(id));
        world.load(1);
    }
    panic!("broker 3 never asks to join");
}

#[test]
fn a_member_counts_from_the_moment_it_is_asked_for() {
    let (mut world, wish) = asked_to_join();
    world.cut.insert((1, 3));
    world.settle();
    let before = world.view(1).high_watermark;
    world.publish(1, records(1, "b"), Acks::All);
    world.alter(&wish);
    world.settle();
    assert_eq!(world.isr(), [1, 2, 3]);
    assert_eq!(world.view(1).high_watermark, before, "broker 3 may be elected and must have the record");
}

#[test]
fn a_wish_for_a_member_that_fell_silent_is_withdrawn_and_counts_until_then() {
    let (mut world, old_wish) = asked_to_join();
    world.cut.insert((1, 3));
    world.fence(3);
    world.learn(1);
    world.publish(1, records(1, "b"), Acks::All);
    for _ in 0..4 {
        let packets = std::mem::take(&mut world.packets);
        let (wishes, others): (Vec<_>, Vec<_>) =
            packets.into_iter().partition(|packet| matches!(packet, Packet::Alter(_)));
        others.into_iter().for_each(|packet| world.deliver(packet));
        (1..=2).for_each(|id| world.sync(id));
        world.packets.extend(wishes);
    }
    assert!(world.view(1).high_watermark < 2, "the old wish may still be granted");
    world.settle();
    world.learn(1);
    world.settle();
    assert_eq!(world.view(1).high_watermark, 2);
    world.alter(&old_wish);
    assert_eq!(world.isr(), [1, 2], "the withdrawal made the old wish void");
}

#[test]
fn a_follower_joins_only_with_everything_from_before_the_leaders_term() {
    let mut world = World::with(1, &[1, 2], Vec::new());
    world.learn(1);
    world.learn(2);
    world.settle();
    // Broker 2 gets two records, of whose commit it hears nothing; then it leads.
    world.publish(1, records(2, "a"), Acks::All);
    let packets = std::mem::take(&mut world.packets);
    packets.into_iter().for_each(|packet| world.deliver(packet));
    world.sync(1);
    world.sync(2);
    world.packets.clear();
    world.elect(2);
    world.learn(2);
    world.learn(3);
    assert_eq!(world.view(2).high_watermark, 0, "a fresh leader's high watermark lags");
    let found = world.packets.iter().any(|packet| matches!(packet, Packet::Alter(_)));
    assert!(!found);
    // Broker 3 proves that it has what lies below the high watermark: nothing.
    let outcomes = vec![ReplicateOutcome::Diverged { epoch: LeaderEpoch(0), end_offset: 0 }];
    let broker_epoch = world.image.brokers[&BrokerId(3)].broker_epoch;
    world.step(2, Input::Reply { from: BrokerId(3), reply: Some(ReplicateReply { broker_epoch, outcomes }) });
    let outcomes = vec![ReplicateOutcome::Matched { match_end: 0 }];
    world.step(2, Input::Reply { from: BrokerId(3), reply: Some(ReplicateReply { broker_epoch, outcomes }) });
    assert_eq!(world.view(2).followers[&BrokerId(3)], Some(0));
    assert!(
        !world.packets.iter().any(|packet| matches!(packet, Packet::Alter(_))),
        "0 is below the term's start"
    );
}

#[test]
fn a_new_epoch_truncates_nothing_by_itself() {
    let mut world = settled();
    world.publish(1, records(3, "a"), Acks::All);
    let packets = std::mem::take(&mut world.packets);
    packets.into_iter().for_each(|packet| world.deliver(packet));
    (1..=3).for_each(|id| world.sync(id));
    assert_eq!(world.view(2).high_watermark, 0);
    world.elect(3);
    world.learn_all();
    assert!((1..=3).all(|id| world.view(id).log_end == 3));
    world.run(1_000);
    assert!((1..=3).all(|id| world.view(id).high_watermark == 3), "the new leader commits them");
}

#[test]
fn replicas_that_diverged_through_quick_changes_of_leader_agree_again() {
    let mut world = settled();
    world.publish(1, records(1, "common"), Acks::All);
    world.settle();
    // Each leads in turn, alone, and appends what nobody else gets.
    for (id, count) in [(1, 4), (2, 1), (1, 1), (2, 3), (1, 2)] {
        world.elect(id);
        world.learn(id);
        world.publish(id, records(count, "lost"), Acks::All);
        while !world.nodes[&id].unsynced.is_empty() {
            world.sync(id);
        }
        let packets = std::mem::take(&mut world.packets);
        for packet in packets {
            if let Packet::Request { from, run, to, .. } = packet {
                world.packets.push(Packet::Reply { from: to, to: from, run, reply: None });
            }
        }
        let packets = std::mem::take(&mut world.packets);
        packets.into_iter().for_each(|packet| world.deliver(packet));
    }
    assert_ne!(world.log(1), world.log(2));
    world.elect(3);
    world.run(1_000);
    let before = world.pushes;
    world.publish(3, records(1, "new"), Acks::All);
    world.run(1_000);
    assert!(world.pushes < before + 30);
    assert_eq!((world.log(1), world.log(2)), (world.log(3), world.log(3)));
    let shown: Vec<_> = (1..=3).map(|id| world.view(id)).collect();
    assert!(shown.iter().all(|view| view.high_watermark == view.log_end));
    assert!(world.alarms.is_empty());
}

fn probe(world: &World, epoch: u32, from: Offset, prev_epoch: u32, batches: Vec<Batch>) -> ReplicateRequest {
    let item = ReplicateItem {
        partition: part(0),
        leader_epoch: LeaderEpoch(epoch),
        from,
        prev_epoch: LeaderEpoch(prev_epoch),
        batches,
        high_watermark: 0,
        log_start: 0,
    };
    let epoch_of = |id| world.image.brokers[&BrokerId(id)].broker_epoch;
    ReplicateRequest { from_epoch: epoch_of(1), to_epoch: epoch_of(2), items: vec![item] }
}

/// Gives broker 2 a request as if from 1, syncs, and returns the outcome.
fn outcome(world: &mut World, request: ReplicateRequest) -> ReplicateOutcome {
    let run = world.nodes[&1].run;
    world.packets.clear();
    world.deliver(Packet::Request { from: 1, run, to: 2, request });
    while !world.nodes[&2].unsynced.is_empty() {
        world.sync(2);
    }
    let reply = world.packets.iter().find_map(|packet| match packet {
        Packet::Reply { from: 2, reply, .. } => reply.clone(),
        Packet::Reply { .. } | Packet::Request { .. } | Packet::Alter(_) => None,
    });
    reply.unwrap().outcomes[0]
}

#[test]
fn a_follower_vouches_only_for_what_the_request_proved() {
    let mut world = settled();
    let first = records(2, "a").placed(0, LeaderEpoch(1), 0);
    let second = records(3, "b").placed(2, LeaderEpoch(1), 0);
    let request = probe(&world, 1, 0, 0, vec![first.clone(), second]);
    assert_eq!(outcome(&mut world, request), ReplicateOutcome::Matched { match_end: 5 });
    let request = probe(&world, 1, 0, 0, vec![first]);
    assert_eq!(outcome(&mut world, request), ReplicateOutcome::Matched { match_end: 2 });
    assert_eq!(world.view(2).log_end, 5, "a suffix without conflict stays");
}

#[test]
fn an_answer_waits_until_what_it_vouches_for_is_synced() {
    let mut world = settled();
    let run = world.nodes[&1].run;
    let batch = records(2, "a").placed(0, LeaderEpoch(1), 0);
    let request = probe(&world, 1, 0, 0, vec![batch]);
    world.packets.clear();
    world.deliver(Packet::Request { from: 1, run, to: 2, request: request.clone() });
    world.deliver(Packet::Request { from: 1, run, to: 2, request });
    assert!(world.packets.is_empty(), "neither the write's own answer nor one that relies on it");
    world.sync(2);
    assert_eq!(world.packets.len(), 2);
}

#[test]
fn a_leader_of_an_older_epoch_is_refused() {
    let mut world = settled();
    world.elect(3);
    world.learn(2);
    let batch = records(1, "zombie").placed(0, LeaderEpoch(1), 0);
    let request = probe(&world, 1, 0, 0, vec![batch]);
    assert_eq!(outcome(&mut world, request), ReplicateOutcome::Fenced { leader_epoch: LeaderEpoch(2) });
    assert_eq!(world.view(2).log_end, 0);
}

#[test]
fn a_leader_that_learns_of_a_newer_one_can_promise_nothing_any_more() {
    let mut world = settled();
    world.elect(3);
    world.learn(2);
    world.learn(3);
    let ticket = world.publish(1, records(1, "a"), Acks::All);
    world.settle();
    assert_eq!(world.nodes[&1].acked[&ticket], Err(AppendError::Unknown));
    assert_eq!(world.view(1).role, Role::Follower);
    let late = world.publish(1, records(1, "b"), Acks::All);
    assert!(matches!(world.nodes[&1].acked[&late], Err(AppendError::NotLeader { .. })));
}

#[test]
fn records_below_the_own_high_watermark_are_never_truncated() {
    let mut world = settled();
    world.publish(1, records(2, "a"), Acks::All);
    world.settle();
    assert_eq!(world.view(2).high_watermark, 2);
    let other = records(2, "b").placed(0, LeaderEpoch(5), 0);
    let request = probe(&world, 5, 0, 0, vec![other]);
    assert_eq!(outcome(&mut world, request), ReplicateOutcome::Unknown);
    assert_eq!(world.alarms, [crate::invariants::Invariant::R5]);
    assert_eq!(world.log(2), [(0, 1)]);
}

#[test]
fn what_an_earlier_process_of_a_follower_proved_is_forgotten() {
    let mut world = settled();
    world.publish(1, records(2, "a"), Acks::All);
    world.settle();
    world.wipe(2);
    world.start(2);
    world.register(2);
    world.learn(1);
    assert_eq!(world.view(1).followers[&BrokerId(2)], None);
    assert_eq!(world.isr(), [1, 3]);
    world.run(2_000);
    assert_eq!(world.isr(), [1, 2, 3]);
    assert_eq!(world.log(2), world.log(1));
}

#[test]
fn an_answer_of_an_earlier_process_does_not_count() {
    let mut world = settled();
    world.publish(1, records(2, "a"), Acks::All);
    let packets = std::mem::take(&mut world.packets);
    packets.into_iter().for_each(|packet| world.deliver(packet));
    world.sync(2);
    let answers: Vec<_> = std::mem::take(&mut world.packets);
    world.wipe(2);
    world.start(2);
    world.register(2);
    world.learn(1);
    answers.into_iter().for_each(|packet| world.deliver(packet));
    assert_eq!(world.view(1).followers[&BrokerId(2)], None);
}

#[test]
fn a_request_meant_for_an_earlier_process_is_refused() {
    let mut world = settled();
    let request = probe(&world, 1, 0, 0, Vec::new());
    world.crash(2);
    world.start(2);
    world.register(2);
    world.learn(2);
    assert_eq!(outcome(&mut world, request), ReplicateOutcome::Unknown);
}

#[test]
fn the_isr_never_shrinks_below_its_floor_and_nothing_is_committed_below_it() {
    let mut world = settled();
    world.crash(2);
    world.crash(3);
    world.publish(1, records(1, "a"), Acks::All);
    world.run(10_000);
    assert_eq!(world.isr().len(), 2, "one of the silent members leaves, the other one blocks");
    assert_eq!(world.view(1).high_watermark, 0);
    world.edit_part(0, |entry| {
        entry.isr = vec![BrokerId(1)];
        entry.part_epoch.0 += 1;
    });
    world.run(1_000);
    assert_eq!(world.view(1).high_watermark, 0, "one copy is not enough");
}

#[test]
fn a_restarted_process_does_not_lead_its_old_epoch_again() {
    let mut world = settled();
    world.crash(1);
    world.start(1);
    let run = world.nodes[&1].run;
    world.edit(|image| image.brokers.get_mut(&BrokerId(1)).unwrap().run_id = run);
    world.learn(1);
    assert_eq!(world.view(1).role, Role::Follower);
    world.elect(1);
    world.learn(1);
    assert_eq!((world.view(1).role, world.view(1).leader_epoch), (Role::Leader, LeaderEpoch(2)));
}

#[test]
fn a_leader_whose_own_disk_stalls_evicts_nobody() {
    let mut world = settled();
    world.publish(1, records(1, "a"), Acks::All);
    for _ in 0..100 {
        world.now += 50;
        world.step(1, Input::Tick);
        let packets = std::mem::take(&mut world.packets);
        for packet in packets {
            assert!(!matches!(packet, Packet::Alter(_)), "the followers are not to blame");
            world.deliver(packet);
        }
        world.sync(2);
        world.sync(3);
    }
    assert_eq!(world.view(1).high_watermark, 0);
    world.settle();
    assert_eq!(world.view(1).high_watermark, 1);
}

#[test]
fn publishers_that_share_a_flush_share_a_batch_and_learn_their_own_offsets() {
    let mut world = settled();
    let tickets: Vec<u64> =
        [2, 1, 3].map(|count| world.append(1, part(0), records(count, "x"), Acks::Leader)).to_vec();
    let at_once = world.append(1, part(0), records(1, "y"), Acks::None);
    world.step(1, Input::Flush { now_ms: 7 });
    assert_eq!(world.nodes[&1].acked[&at_once].as_ref().unwrap().base_offset, 6);
    assert_eq!(world.nodes[&1].unsynced.len(), 1);
    world.sync(1);
    let offsets: Vec<_> =
        tickets.iter().map(|ticket| world.nodes[&1].acked[ticket].as_ref().unwrap().base_offset).collect();
    assert_eq!(offsets, [0, 2, 3]);
    assert_eq!(world.log(1), [(0, 1)]);
}

#[test]
fn publishers_wait_for_the_answer_to_the_last_batch_and_then_go_as_one() {
    let mut world = settled();
    world.publish(1, records(1, "first"), Acks::All);
    let waiting =
        [world.publish(1, records(2, "a"), Acks::All), world.publish(1, records(1, "b"), Acks::All)];
    assert_eq!(world.nodes[&1].unsynced.len(), 1, "only the first one is written");
    assert_eq!(world.view(1).log_end, 1);
    world.settle();
    let offsets = waiting.map(|ticket| world.nodes[&1].acked[&ticket].as_ref().unwrap().base_offset);
    assert_eq!(offsets, [1, 3]);
    let ends: Vec<_> = world.nodes[&2].disk[&part(0)].batches.iter().map(Batch::end_offset).collect();
    assert_eq!(ends, [1, 4], "the two that waited became one batch");
}

#[test]
fn publishers_that_do_not_wait_for_followers_are_not_held_up_by_one_that_is_silent() {
    let mut world = settled();
    world.cut.insert((1, 3));
    world.publish(1, records(1, "first"), Acks::All);
    let held = world.publish(1, records(1, "held"), Acks::All);
    assert_eq!(world.view(1).log_end, 1);
    let hasty = world.publish(1, records(1, "hasty"), Acks::Leader);
    (0..4).for_each(|_| world.sync(1));
    assert_eq!(world.nodes[&1].acked[&hasty].as_ref().unwrap().base_offset, 2);
    assert!(!world.nodes[&1].acked.contains_key(&held));
}

#[test]
fn records_that_still_wait_when_leadership_ends_were_definitely_not_written() {
    let mut world = settled();
    let written = world.publish(1, records(1, "first"), Acks::All);
    let waiting = world.publish(1, records(1, "waiting"), Acks::All);
    world.elect(2);
    world.learn(1);
    assert_eq!(world.nodes[&1].acked[&written], Err(AppendError::Unknown));
    assert!(matches!(world.nodes[&1].acked[&waiting], Err(AppendError::NotLeader { .. })));
}

#[test]
fn followers_get_records_before_the_leader_has_synced_them() {
    let mut world = settled();
    let ticket = Ticket(99);
    let input = Input::Append {
        ticket,
        partition: part(0),
        batch: records(1, "a"),
        acks: Acks::All,
        expected_offset: Some(0),
    };
    world.step(1, input);
    let now = world.now;
    let actions = world.node(1).machine.as_mut().unwrap().step(now, Input::Flush { now_ms: 1 });
    assert!(matches!(actions[..3], [Action::Push { .. }, Action::Push { .. }, Action::Write { .. }]));
}

#[test]
fn what_can_not_be_taken_is_refused_before_anything_is_written() {
    let mut world = settled();
    world.fence(2);
    world.fence(3);
    world.learn(1);
    let few = world.append(1, part(0), records(1, "a"), Acks::All);
    let error = AppendError::NotEnoughReplicas { alive: 1, min_isr: 2 };
    assert_eq!(world.nodes[&1].acked[&few], Err(error));
    world.step(1, Input::Storage { healthy: false });
    let full = world.append(1, part(0), records(1, "a"), Acks::Leader);
    assert_eq!(world.nodes[&1].acked[&full], Err(AppendError::StorageFull));
    let elsewhere = world.append(2, part(0), records(1, "a"), Acks::All);
    world.learn(2);
    assert_eq!(world.nodes[&2].acked[&elsewhere], Err(AppendError::NotLeader { leader: Some(BrokerId(1)) }));
    world.step(1, Input::Storage { healthy: true });
    let input = Input::Append {
        ticket: Ticket(500),
        partition: part(0),
        batch: records(1, "a"),
        acks: Acks::Leader,
        expected_offset: Some(3),
    };
    world.step(1, input);
    world.step(1, Input::Flush { now_ms: 5 });
    assert_eq!(world.nodes[&1].acked[&500], Err(AppendError::UnexpectedEnd { log_end: 0 }));
    assert!(world.nodes[&1].unsynced.is_empty());
}

#[test]
fn idle_partitions_cost_one_request_each_half_second() {
    let mut world = World::new(50);
    world.learn_all();
    world.settle();
    world.run(2_000);
    let before = world.pushes;
    world.run(10_000);
    let sent = world.pushes - before;
    assert!((36..=44).contains(&sent), "{sent} requests to two followers in ten seconds");
}

#[test]
fn a_follower_far_behind_catches_up_from_disk() {
    let mut world = settled();
    world.crash(3);
    for index in 0..40 {
        world.publish(1, records(1, &"x".repeat(100_000 + index)), Acks::Leader);
        world.settle();
    }
    world.run(4_000);
    assert_eq!(world.isr(), [1, 2]);
    world.start(3);
    world.register(3);
    world.run(3_000);
    assert_eq!(world.isr(), [1, 2, 3]);
    assert_eq!(world.log(3).len(), 40);
    assert_eq!(world.view(3).high_watermark, 40);
}

/// 34: an image without its topics is no order to delete them; only a tombstone is.
#[test]
fn empty_image_deletes_everything() {
    let mut world = settled();
    world.publish(1, records(1, "a"), Acks::All);
    world.settle();
    world.edit(|image| image.topics.clear());
    world.learn(2);
    world.settle();
    assert_eq!((world.view(2).role, world.log(2).len()), (Role::Offline, 1));
    world.edit(|image| {
        image.tombstones.insert(TOPIC, 9);
    });
    world.learn(1);
    world.settle();
    assert!(!world.nodes[&1].disk.contains_key(&part(0)));
    world.learn(2);
    world.settle();
    assert!(!world.nodes[&2].disk.contains_key(&part(0)), "quarantined data goes with the tombstone, too");
}
