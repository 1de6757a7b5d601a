//! Random interleavings of three brokers and a controller: what was committed is never lost or shown differently.

use super::super::*;
use super::world::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(u32),
    Deliver(usize),
    Repeat(usize),
    Lose(usize),
    Sync(u32),
    Load(u32),
    Learn(u32),
    Elect(u32),
    Restart(u32),
    Wipe(u32),
    Fence(u32),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let id = 1_u32..=3;
    prop_oneof![
        8 => id.clone().prop_map(Step::Publish),
        30 => (0_usize..64).prop_map(Step::Deliver),
        1 => (0_usize..64).prop_map(Step::Repeat),
        2 => (0_usize..64).prop_map(Step::Lose),
        16 => id.clone().prop_map(Step::Sync),
        4 => id.clone().prop_map(Step::Load),
        8 => id.clone().prop_map(Step::Learn),
        2 => id.clone().prop_map(Step::Elect),
        1 => id.clone().prop_map(Step::Restart),
        1 => id.clone().prop_map(Step::Wipe),
        1 => id.prop_map(Step::Fence),
        6 => (0_u64..1_500).prop_map(Step::Wait),
    ]
}

struct Run {
    world: World,
    acked: Vec<(u64, u64)>,
    wipes: u32,
}

impl Run {
    fn perform(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Publish(id) => {
                world.publish(id, records(1 + id % 2, &id.to_string()), Acks::All);
            }
            Step::Deliver(at) if !world.packets.is_empty() => {
                let packet = world.packets.remove(at % world.packets.len());
                world.deliver(packet);
            }
            Step::Repeat(at) if !world.packets.is_empty() => {
                // Only what the transport may repeat: wishes. A request's answer comes once, or not.
                let packet = world.packets[at % world.packets.len()].clone();
                if matches!(packet, Packet::Alter(_)) {
                    world.packets.push(packet);
                }
            }
            Step::Lose(at) if !world.packets.is_empty() => {
                let packet = world.packets.remove(at % world.packets.len());
                match packet {
                    Packet::Request { from, run, to, .. } => {
                        world.packets.push(Packet::Reply { from: to, to: from, run, reply: None });
                    }
                    Packet::Reply { from, to, run, .. } => {
                        world.packets.push(Packet::Reply { from, to, run, reply: None });
                    }
                    Packet::Alter(_) => {}
                }
            }
            Step::Deliver(_) | Step::Repeat(_) | Step::Lose(_) => {}
            Step::Sync(id) => world.sync(id),
            Step::Load(id) => world.load(id),
            Step::Learn(id) => world.learn(id),
            Step::Elect(id) => {
                if world.isr().contains(&id) && world.is_registered(id) {
                    world.elect(id);
                }
            }
            Step::Restart(id) => self.restart(id),
            Step::Wipe(id) => {
                // R1 promises to survive the loss of `min_isr - 1` volumes.
                if self.wipes == 0 {
                    self.wipes += 1;
                    world.wipe(id);
                    self.restart(id);
                }
            }
            Step::Fence(id) => {
                world.fence(id);
                if world.entry().leader == Some(BrokerId(id)) {
                    self.restart(id);
                }
            }
            Step::Wait(ms) => {
                world.now += ms;
                (1..=3).for_each(|id| world.step(id, Input::Tick));
            }
        }
        self.note_acked();
    }

    fn restart(&mut self, id: u32) {
        self.world.crash(id);
        self.world.start(id);
        self.world.register(id);
    }

    fn note_acked(&mut self) {
        for node in self.world.nodes.values_mut() {
            let answers = std::mem::take(&mut node.acked).into_values().flatten();
            self.acked.extend(answers.map(|at| (at.base_offset, u64::from(at.leader_epoch.0))));
        }
    }

    /// R1: every acknowledged record is committed and, after the faults stop, held and shown by everyone.
    fn heal(&mut self) {
        for id in 1..=3 {
            self.world.register(id);
        }
        if self.world.entry().leader.is_none() {
            return;
        }
        self.world.learn_all();
        self.world.run(4_000);
        // Records that were never committed may stay on a follower until the leader has others for their place.
        let leader = self.world.entry().leader.expect("there is one").0;
        let last = self.world.publish(leader, records(40, "end"), Acks::All);
        self.world.run(1_000);
        assert!(self.world.nodes[&leader].acked[&last].is_ok(), "publishing works again");
        self.note_acked();
        let world = &self.world;
        assert_eq!(world.isr(), [1, 2, 3], "everyone is in sync again");
        let shown = world.view(1).high_watermark;
        for id in 1..=3 {
            assert_eq!((world.view(id).high_watermark, world.log(id)), (shown, world.log(1)), "broker {id}");
        }
        let committed = world.committed.get(&part(0)).map_or(&[][..], Vec::as_slice);
        for (offset, epoch) in &self.acked {
            let held = committed.iter().any(|batch| {
                batch.base_offset() <= *offset
                    && *offset < batch.end_offset()
                    && u64::from(batch.leader_epoch().0) == *epoch
            });
            assert!(held && *offset < shown, "offset {offset} of epoch {epoch} was acknowledged and is gone");
        }
        assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    }
}

fn run(steps: &[Step]) {
    let mut run = Run { world: World::new(1), acked: Vec::new(), wipes: 0 };
    run.world.learn_all();
    steps.iter().for_each(|step| run.perform(*step));
    run.heal();
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn committed_records_are_never_lost_or_shown_differently(steps in prop::collection::vec(any_step(), 0..250)) {
        run(&steps);
    }
}
