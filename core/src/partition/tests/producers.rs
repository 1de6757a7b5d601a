//! Idempotent producers, one test each: stored once, whatever is sent again, and remembered by every replica.

use super::super::*;
use super::world::*;
use crate::record::{BatchBuilder, Producer, ValueKind};
use uuid::Uuid;

fn settled() -> World {
    let mut world = World::new(1);
    world.learn_all();
    world.settle();
    world
}

fn of(id: u128, first_sequence: u32, count: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.producer(Producer { id: Uuid::from_u128(id), epoch: 0, first_sequence });
    for _ in 0..count {
        builder.push(None, b"", ValueKind::Bytes, b"x");
    }
    builder.build(0, LeaderEpoch(0), 0).unwrap()
}

/// Publishes and returns base offset and whether the records were there before.
fn published(world: &mut World, id: u32, batch: Batch) -> Result<(Offset, bool), AppendError> {
    let ticket = world.publish(id, batch, Acks::All);
    world.settle();
    world.nodes[&id].acked[&ticket].clone().map(|appended| (appended.base_offset, appended.duplicate))
}

#[test]
fn a_batch_that_is_sent_again_is_stored_once() {
    let mut world = settled();
    assert_eq!(published(&mut world, 1, of(7, 0, 2)), Ok((0, false)));
    assert_eq!(published(&mut world, 1, of(7, 2, 1)), Ok((2, false)));
    assert_eq!(published(&mut world, 1, of(7, 0, 2)), Ok((0, true)));
    assert_eq!(published(&mut world, 1, of(7, 2, 1)), Ok((2, true)));
    assert_eq!(published(&mut world, 1, of(7, 4, 1)), Err(AppendError::OutOfOrder { expected: 3 }));
    assert_eq!(world.log(1), [(0, 1), (2, 1)]);
}

#[test]
fn a_batch_that_is_sent_again_before_the_commit_is_answered_with_the_first() {
    let mut world = settled();
    let first = world.append(1, part(0), of(7, 0, 1), Acks::All);
    let again = world.append(1, part(0), of(7, 0, 1), Acks::All);
    world.step(1, Input::Flush { now_ms: 5 });
    let later = world.publish(1, of(8, 0, 1), Acks::All);
    let once_more = world.publish(1, of(7, 0, 1), Acks::All);
    world.sync(1);
    assert!(world.nodes[&1].acked.is_empty(), "nothing is committed");
    world.settle();
    let offset = |ticket| world.nodes[&1].acked[&ticket].as_ref().map(|appended| appended.base_offset);
    assert_eq!([first, again, later, once_more].map(offset), [Ok(0), Ok(0), Ok(1), Ok(0)]);
    assert_eq!(world.log(2).len(), 2);
}

#[test]
fn the_next_leader_knows_what_is_there_already() {
    let mut world = settled();
    assert_eq!(published(&mut world, 1, of(7, 0, 1)), Ok((0, false)));
    world.elect(2);
    world.learn_all();
    world.settle();
    assert_eq!(published(&mut world, 2, of(7, 0, 1)), Ok((0, true)));
    assert_eq!(published(&mut world, 2, of(7, 1, 1)), Ok((1, false)));
}

#[test]
fn a_process_that_starts_again_knows_what_is_there_already() {
    let mut world = settled();
    for sequence in 0..20 {
        assert_eq!(published(&mut world, 1, of(7, sequence, 1)), Ok((sequence.into(), false)));
    }
    assert_eq!(world.nodes[&1].disk[&part(0)].producers.len(), 6, "the others are forgotten on disk too");
    world.crash(1);
    world.start(1);
    world.register(1);
    world.run(3_000);
    world.elect(1);
    world.run(1_000);
    assert_eq!(published(&mut world, 1, of(7, 19, 1)), Ok((19, true)));
    assert_eq!(published(&mut world, 1, of(7, 3, 1)), Err(AppendError::Duplicate));
    assert_eq!(published(&mut world, 1, of(7, 20, 1)), Ok((20, false)));
}

#[test]
fn what_is_cut_off_the_log_may_be_published_again() {
    let mut world = settled();
    assert_eq!(published(&mut world, 1, of(7, 0, 1)), Ok((0, false)));
    world.cut.extend([(1, 2), (1, 3)]);
    let lost = world.publish(1, of(7, 1, 1), Acks::All);
    world.sync(1);
    world.settle();
    world.edit_part(0, |entry| entry.isr.retain(|member| member.0 != 1));
    world.elect(2);
    world.learn(2);
    world.learn(3);
    assert_eq!(published(&mut world, 2, of(7, 1, 1)), Ok((1, false)));
    world.cut.clear();
    world.run(2_000);
    assert_eq!(world.nodes[&1].acked[&lost], Err(AppendError::Unknown));
    assert_eq!(world.log(1), [(0, 1), (1, 2)]);
    world.elect(1);
    world.run(1_000);
    assert_eq!(published(&mut world, 1, of(7, 1, 1)), Ok((1, true)));
}

#[test]
fn a_producers_batch_stays_alone_and_conditions_count_what_goes_before() {
    let mut world = settled();
    world.append(1, part(0), records(2, "a"), Acks::All);
    world.append(1, part(0), of(7, 0, 2), Acks::All);
    world.append(1, part(0), of(7, 0, 2), Acks::All);
    let conditional = |ticket, expected| Input::Append {
        ticket: Ticket(ticket),
        partition: part(0),
        batch: records(1, "b"),
        acks: Acks::All,
        expected_offset: Some(expected),
    };
    world.step(1, conditional(500, 6));
    world.step(1, conditional(501, 4));
    world.append(1, part(0), records(1, "c"), Acks::All);
    world.step(1, conditional(502, 6));
    world.step(1, Input::Flush { now_ms: 5 });
    world.settle();
    let acked = &world.nodes[&1].acked;
    assert_eq!(acked[&500], Err(AppendError::UnexpectedEnd { log_end: 4 }));
    assert_eq!(acked[&501].as_ref().map(|appended| appended.base_offset), Ok(4));
    assert_eq!(acked[&502].as_ref().map(|appended| appended.base_offset), Ok(6));
    assert_eq!(
        world.log(3),
        [(0, 1), (2, 1), (4, 1)],
        "plain records share a batch, the producer's stay alone"
    );
}
