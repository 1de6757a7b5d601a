#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

fn name(no: usize) -> ConsumerId {
    ConsumerId::try_from(format!("c{no}")).unwrap()
}

/// A client that follows the answers that reach it.
#[derive(Clone, Default)]
struct Client {
    epoch: Option<u64>,
    owned: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
enum Event {
    Join { member: usize, answered: bool },
    Anew { member: usize },
    Beat { member: usize },
    Leave { member: usize },
    Vanish { member: usize },
    Wait { ms: u64 },
    Grow,
}

fn event() -> impl Strategy<Value = Event> {
    let member = || 0_usize..4;
    prop_oneof![
        8 => (member(), prop::bool::weighted(0.8)).prop_map(|(member, answered)| Event::Join { member, answered }),
        1 => member().prop_map(|member| Event::Anew { member }),
        3 => member().prop_map(|member| Event::Beat { member }),
        1 => member().prop_map(|member| Event::Leave { member }),
        1 => member().prop_map(|member| Event::Vanish { member }),
        3 => (0..GROUP_SESSION_MS / 2).prop_map(|ms| Event::Wait { ms }),
        1 => Just(Event::Grow),
    ]
}

struct World {
    now: Mono,
    epochs: u64,
    partitions: u32,
    membership: Membership,
    clients: Vec<Client>,
}

impl World {
    fn new() -> Self {
        let membership = Membership::default();
        Self { now: 0, epochs: 0, partitions: 3, membership, clients: vec![Client::default(); 4] }
    }

    fn join(&mut self, member: usize, heartbeat: bool, answered: bool) {
        self.membership.expire(self.now, &mut self.epochs);
        let client = &mut self.clients[member];
        let owned = (!heartbeat).then(|| client.owned.iter().copied().collect());
        let held = client.epoch.map(|member_epoch| Held { member_epoch, owned });
        if heartbeat && held.is_none() {
            return;
        }
        let consumer = &name(member);
        let joining = Joining {
            consumer,
            topic: TOPIC,
            partitions: self.partitions,
            standby: true,
            held: held.as_ref(),
            anew: held.is_none(),
        };
        match self.membership.join(self.now, &joining, &mut self.epochs) {
            Err(_) => *client = Client::default(),
            Ok(given) if answered && !heartbeat => {
                client.epoch = Some(self.membership.epoch);
                client.owned = given.into_iter().collect();
            }
            Ok(_) => {}
        }
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Join { member, answered } => self.join(member, false, answered),
            Event::Anew { member } => {
                // Another process of that name: the one before is fenced, whatever it holds.
                self.clients[member] = Client::default();
                self.join(member, false, true);
            }
            Event::Beat { member } => self.join(member, true, true),
            Event::Leave { member } => {
                let epoch = std::mem::take(&mut self.clients[member]).epoch;
                self.membership.leave((&name(member), Some(TOPIC)), epoch, &mut self.epochs);
            }
            Event::Vanish { member } => self.clients[member] = Client::default(),
            Event::Wait { ms } => self.now += ms,
            Event::Grow => self.partitions = (self.partitions + 1).min(8),
        }
    }

    /// What a member may commit, of all partitions.
    fn may_commit(&mut self, member: usize) -> BTreeSet<u32> {
        self.membership.expire(self.now, &mut self.epochs);
        let (now, epoch) = (self.now, self.clients[member].epoch);
        let Some(epoch) = epoch else { return BTreeSet::new() };
        let mut membership = self.membership.clone();
        (0..8).filter(|no| membership.owns(now, (&name(member), Some(epoch)), TOPIC, *no)).collect()
    }
}

proptest! {
    #[test]
    fn a_partition_never_has_two_owners(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.step(event);
            let owned = world.membership.topics.values().flat_map(|sharing| sharing.members.values());
            let owned: Vec<u32> = owned.flat_map(|member| member.assigned.keys().copied()).collect();
            let once: BTreeSet<u32> = owned.iter().copied().collect();
            prop_assert_eq!(owned.len(), once.len());
            let mut allowed: BTreeSet<u32> = BTreeSet::new();
            for member in 0..4 {
                for partition in world.may_commit(member) {
                    prop_assert!(allowed.insert(partition), "two members may commit {}", partition);
                }
            }
        }
    }

    #[test]
    fn what_a_member_was_given_nobody_else_has_while_its_session_lasts(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.step(event);
            world.membership.expire(world.now, &mut world.epochs);
            let Some(sharing) = world.membership.topics.get(&TOPIC) else { continue };
            for (no, client) in world.clients.iter().enumerate() {
                let Some(own) = sharing.members.get(&name(no)) else { continue };
                // A session of an earlier process of that name is not this client's.
                if client.epoch.is_some_and(|epoch| (own.epoch..).contains(&epoch)) {
                    for partition in &client.owned {
                        prop_assert!(own.assigned.contains_key(partition), "{} took {partition} away", no);
                    }
                }
            }
        }
    }

    #[test]
    fn who_stays_gets_an_even_share(events in prop::collection::vec(event(), 0..40)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.step(event));
        for member in (0..3).chain(0..3).chain(0..3) {
            if world.clients[member].epoch.is_none() {
                world.membership.leave((&name(member), None), None, &mut world.epochs);
            }
            world.join(member, false, true);
        }
        world.membership.leave((&name(3), None), None, &mut world.epochs);
        for member in (0..3).chain(0..3) {
            world.join(member, false, true);
        }
        let shares: Vec<usize> = world.clients[..3].iter().map(|client| client.owned.len()).collect();
        prop_assert_eq!(shares.iter().sum::<usize>(), world.membership.topics[&TOPIC].partitions as usize);
        prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{:?}", shares);
    }
}

#[test]
fn a_group_that_does_not_fit_one_record_takes_no_more_members() {
    let (mut membership, mut epochs) = (Membership::default(), 0);
    let long = "m".repeat(240);
    let mut join = |no: usize| {
        let consumer = &ConsumerId::try_from(format!("{long}{no}")).unwrap();
        let joining =
            Joining { consumer, topic: TOPIC, partitions: 1, standby: true, held: None, anew: false };
        membership.join(0, &joining, &mut epochs).map(|_| serde_json::to_vec(&membership).unwrap().len())
    };
    let refused = (0..)
        .step_by(1)
        .map(&mut join)
        .find(|joined| joined.as_ref().map_or(true, |len| *len > GROUP_RECORD_BYTES_MAX));
    assert_eq!(refused, Some(Err(GroupError::Full)));
}
