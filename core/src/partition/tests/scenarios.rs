//! Rules of replication, one test each.

use super::super::*;
use super::world::*;

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
