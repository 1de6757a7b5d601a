//! Lost answers and replaced leaders, as their clients meet them.

use super::replication::{cast, new_leader};
use crate::sim::drive::CONVERGE_MS;
use crate::sim::world::{Flow, World};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::AppendError;

/// 32: the answer about a committed batch is lost with the leader; its producer sends it again to the next one.
pub(super) fn retry_after_ambiguous_timeout(world: &mut World) -> Flow {
    let cast = cast(world)?;
    let before = world.logs.committed_end(cast.partition);
    world.produce(cast.leader, 0, cast.partition);
    world.lose_answers(0, cast.partition);
    let committed =
        world.run_until(CONVERGE_MS, |world| world.logs.committed_end(cast.partition) > before)?;
    world.expect(committed, Invariant::V1, || "the batch was not committed".to_owned())?;
    world.kill(cast.leader);
    let next = new_leader(world, cast.partition, cast.leader)?;
    world.produce(next, 0, cast.partition);
    let settled = world.run_until(CONVERGE_MS, |world| !world.has_under_way(0, cast.partition))?;
    let duplicates = world.producers.duplicates;
    world.expect(settled && duplicates == 1, Invariant::P1, || {
        format!("{duplicates} batches were found to be there already")
    })?;
    world.heal_and_converge()
}

/// A leader that was replaced and does not know it lacks what its successor took: its "out of order" is no proof that
/// anything is missing, and the producer that tries on gets through.
pub(super) fn replaced_leader_misses_a_sequence(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.produce(cast.leader, 0, cast.partition);
    world.run_until(CONVERGE_MS, |world| !world.has_under_way(0, cast.partition))?;
    let ids: Vec<_> = world.ids().into_iter().filter(|id| *id != cast.leader).collect();
    world.network.isolate(cast.leader, ids);
    let next = new_leader(world, cast.partition, cast.leader)?;
    world.produce(next, 0, cast.partition);
    let taken = world.run_until(CONVERGE_MS, |world| !world.has_under_way(0, cast.partition))?;
    world.expect(taken, Invariant::V1, || "the successor takes nothing".to_owned())?;
    world.produce(cast.leader, 0, cast.partition);
    world.run_until(CONVERGE_MS, |world| world.producers.last_error.is_some())?;
    let refused = matches!(world.producers.last_error, Some(AppendError::OutOfOrder { .. }));
    let told = format!("the replaced leader said {:?}", world.producers.last_error);
    world.expect(refused, Invariant::P1, || told)?;
    world.heal_and_converge()
}

/// A leader that was replaced and does not know it is asked for what it has in memory: it must not answer, since its
/// successor has taken more.
pub(super) fn replaced_leader_answers_from_memory(world: &mut World) -> Flow {
    let cast = cast(world)?;
    world.ask_to_confirm(cast.leader, cast.partition);
    world.run_for(500)?;
    let answered = world.confirms.answered;
    world.expect(answered == [0, 1], Invariant::V1, || format!("a leader in touch said {answered:?}"))?;
    let ids: Vec<_> = world.ids().into_iter().filter(|id| *id != cast.leader).collect();
    world.network.isolate(cast.leader, ids);
    new_leader(world, cast.partition, cast.leader)?;
    world.publish_acked(cast.partition, CONVERGE_MS)?;
    world.ask_to_confirm(cast.leader, cast.partition);
    world.run_for(1_000)?;
    world.heal_and_converge()?;
    let answered = world.confirms.answered;
    world.expect(answered == [1, 1], Invariant::V1, || format!("a replaced leader said {answered:?}"))
}
