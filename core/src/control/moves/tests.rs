//! Moves of replicas as pure functions.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::control::fixture::{b, done};
use crate::control::{Command, fixture, policy};
use crate::ids::LeaderEpoch;
use crate::wire::admin::AlterTopicRequest;
use proptest::prelude::*;

const NO: Lapses = Lapses {
    wiped_stays: false,
    epoch_resumed: false,
    any_registration: false,
    no_floor: false,
    unclean: false,
    moves_at_once: false,
    drains_at_once: false,
    old_copies: false,
    any_level: false,
};

fn list(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().map(|id| b(*id)).collect()
}

fn with_topic(brokers: u32, min_isr: u32, replicas: &[u32]) -> Image {
    done(&fixture::image(brokers), &[fixture::add_topic("a", min_isr, replicas)])
}

fn only(image: &Image) -> PartitionEntry {
    image.partitions().next().unwrap().2.clone()
}

fn name() -> TopicName {
    TopicName::try_from("a").unwrap()
}

fn ask(image: &Image, command: &Command) -> Result<Image, Refusal> {
    policy::command(image, command).map(|change| done(image, &change.ops))
}

fn to(image: &Image, replicas: &[u32]) -> Result<Image, Refusal> {
    ask(image, &Command::Reassign { name: name(), moves: vec![(0, list(replicas))] })
}

fn factor(image: &Image, replication_factor: u32, min_isr: u32) -> Result<Image, Refusal> {
    let (replication_factor, min_isr) = (Some(replication_factor), Some(min_isr));
    let change = AlterTopicRequest { replication_factor, min_isr, ..AlterTopicRequest::default() };
    ask(image, &Command::AlterTopic { name: name(), change, owner_uid: None, take_ownership: false })
}

/// The leader's wish is granted: these are in sync.
fn synced(image: &Image, isr: &[u32]) -> Image {
    let (partition, _, entry) = image.partitions().next().unwrap();
    let next = PartitionEntry { isr: list(isr), ..entry.clone() };
    done(image, &changed(partition, entry, next).into_iter().collect::<Vec<_>>())
}

fn settle(image: &Image) -> Image {
    done(image, &finish(image, &BTreeSet::new(), NO))
}

#[test]
fn a_move_adds_first_and_drops_the_old_replicas_and_their_leader_in_one_commit() {
    let image = to(&with_topic(5, 2, &[1, 2, 3]), &[4, 5, 3]).unwrap();
    let entry = only(&image);
    assert_eq!(entry.replicas, list(&[4, 5, 3, 1, 2]));
    assert_eq!((entry.adding, entry.removing), (list(&[4, 5]), list(&[1, 2])));
    assert_eq!(
        (entry.isr, entry.leader),
        (list(&[1, 2, 3]), Some(b(1))),
        "nothing counts before it is proven"
    );
    assert_eq!(finish(&image, &BTreeSet::new(), NO), vec![]);
    let half = synced(&image, &[4, 3, 1, 2]);
    assert_eq!(finish(&half, &BTreeSet::new(), NO), vec![], "5 is not in sync");
    let entry = only(&settle(&synced(&half, &[4, 5, 3, 1, 2])));
    assert_eq!((&entry.replicas, &entry.isr), (&list(&[4, 5, 3]), &list(&[4, 5, 3])));
    assert_eq!((entry.leader, entry.leader_epoch), (Some(b(4)), LeaderEpoch(2)));
    assert!(entry.adding.is_empty() && entry.removing.is_empty());
}

#[test]
fn the_same_move_again_changes_nothing() {
    let image = to(&with_topic(5, 2, &[1, 2, 3]), &[4, 5, 3]).unwrap();
    let command = Command::Reassign { name: name(), moves: vec![(0, list(&[4, 5, 3]))] };
    assert_eq!(policy::command(&image, &command).unwrap().ops, vec![]);
    let over = settle(&synced(&image, &[1, 2, 3, 4, 5]));
    assert_eq!(policy::command(&over, &command).unwrap().ops, vec![]);
}

#[test]
fn a_move_waits_until_enough_of_those_that_stay_are_alive() {
    let image = synced(&to(&with_topic(4, 2, &[1, 2]), &[3, 4]).unwrap(), &[1, 2, 3, 4]);
    let dead = done(&image, &policy::fence(&image, &BTreeSet::from([b(4)]), NO));
    let dead = synced(&dead, &[1, 2, 3, 4]);
    assert_eq!(finish(&dead, &BTreeSet::new(), NO), vec![], "one live replica is less than min_isr");
    let back = done(&dead, &[policy::unfence(&dead, b(4)).unwrap()]);
    assert_eq!(only(&settle(&back)).replicas, list(&[3, 4]));
}

#[test]
fn a_new_order_of_the_same_replicas_needs_no_catching_up() {
    let image = to(&with_topic(3, 2, &[1, 2, 3]), &[3, 1, 2]).unwrap();
    assert_eq!(only(&image).replicas, list(&[3, 1, 2]));
    assert_eq!(finish(&image, &BTreeSet::new(), NO), vec![]);
}

#[test]
fn another_target_gives_up_the_present_one() {
    let image = to(&with_topic(5, 1, &[1, 2]), &[3, 4]).unwrap();
    let image = synced(&image, &[1, 2, 3]);
    let entry = only(&to(&image, &[1, 5]).unwrap());
    assert_eq!((entry.adding, entry.removing), (list(&[5]), list(&[3, 2])), "4 had nothing, 3 is in sync");
    assert_eq!(entry.replicas, list(&[1, 5, 3, 2]));
}

#[test]
fn a_cancelled_move_keeps_the_old_replicas_and_drops_the_added_ones() {
    let image = synced(&to(&with_topic(5, 2, &[1, 2, 3]), &[4, 5, 3]).unwrap(), &[1, 2, 3, 4]);
    let image = settle(&ask(&image, &Command::CancelMoves { name: name() }).unwrap());
    let entry = only(&image);
    assert_eq!((&entry.replicas, entry.leader), (&list(&[1, 3, 2]), Some(b(1))));
    assert_eq!(entry.isr.iter().collect::<BTreeSet<_>>(), entry.replicas.iter().collect());
    assert_eq!(policy::command(&image, &Command::CancelMoves { name: name() }).unwrap().ops, vec![]);
}

#[test]
fn the_replication_factor_grows_by_joining_and_shrinks_down_to_the_leader() {
    let image = factor(&with_topic(3, 1, &[1]), 3, 2).unwrap();
    assert_eq!(only(&image).adding.len(), 2);
    let image = settle(&synced(&image, &[1, 2, 3]));
    assert!(only(&image).adding.is_empty() && only(&image).leader == Some(b(1)));
    let image = settle(&factor(&image, 1, 1).unwrap());
    assert_eq!((only(&image).replicas, only(&image).isr), (list(&[1]), list(&[1])));
    assert!(matches!(factor(&image, 4, 2), Err(Refusal::TooFewBrokers { wanted: 4, alive: 3 })));
}

#[test]
fn a_factor_taken_back_takes_those_that_were_about_to_go() {
    let image = with_topic(4, 2, &[1, 2, 3]);
    let image = synced(&image, &[1, 2]);
    let image = factor(&image, 1, 1).unwrap();
    assert_eq!(only(&image).removing, list(&[2, 3]));
    let entry = only(&factor(&image, 2, 1).unwrap());
    assert_eq!((entry.replicas, entry.adding), (list(&[1, 2, 3]), vec![]));
}

#[test]
fn what_can_not_be_done_is_refused() {
    let image = with_topic(3, 2, &[1, 2]);
    assert!(matches!(to(&image, &[1, 1]), Err(Refusal::Invalid { .. })));
    assert!(matches!(to(&image, &[1]), Err(Refusal::Invalid { .. })));
    assert_eq!(to(&image, &[1, 9]), Err(Refusal::BrokerNotFound { broker: b(9) }));
    let twice = vec![(0, list(&[1, 2])), (0, list(&[1, 3]))];
    assert!(matches!(
        ask(&image, &Command::Reassign { name: name(), moves: twice }),
        Err(Refusal::Invalid { .. })
    ));
    let beyond = vec![(1, list(&[1, 2]))];
    assert!(matches!(
        ask(&image, &Command::Reassign { name: name(), moves: beyond }),
        Err(Refusal::Invalid { .. })
    ));
    let dead = done(&image, &policy::fence(&image, &BTreeSet::from([b(3)]), NO));
    assert!(matches!(to(&dead, &[1, 3]), Err(Refusal::Conflict { .. })));
}

/// A lost volume leaves one member in sync. Dropping the other replica left a partition that could never take writes.
#[test]
fn a_replica_is_not_removed_where_too_few_would_be_left_to_take_writes() {
    let image = synced(&with_topic(3, 2, &[1, 2]), &[1]);
    let remove = Command::RemoveReplica { name: name(), broker: b(2) };
    assert!(matches!(ask(&image, &remove), Err(Refusal::Conflict { .. })));
    let grown = ask(&image, &Command::AddReplica { name: name(), broker: b(3) }).unwrap();
    assert_eq!(only(&ask(&grown, &remove).unwrap()).replicas, list(&[1, 3]));
}

/// A move to a broker that is then emptied waited for the drain, and the drain for the move.
#[test]
fn a_move_ends_although_one_of_its_new_replicas_is_to_be_emptied() {
    let image = to(&with_topic(4, 2, &[1, 2]), &[3, 1]).unwrap();
    let image = ask(&synced(&image, &[3, 1, 2]), &Command::Drain { broker: b(1) }).unwrap();
    assert_eq!(only(&settle(&image)).replicas, list(&[3, 1]));
}

proptest! {
    /// Whatever is asked for in whatever order: the lists fit together, the leader is in sync, the floor holds.
    #[test]
    fn lists_and_epochs_fit_together_in_any_course(steps in proptest::collection::vec((0u32..7, 1u32..6, 1u32..6), 1..40)) {
        let mut image = with_topic(5, 1, &[1, 2]);
        for (what, one, other) in steps {
            let before = only(&image);
            image = match what {
                0 => to(&image, &[one, other]).unwrap_or(image),
                1 => factor(&image, one, 1).unwrap_or(image),
                2 => ask(&image, &Command::CancelMoves { name: name() }).unwrap(),
                3 => ask(&image, &Command::AddReplica { name: name(), broker: b(one) }).unwrap_or(image),
                4 => ask(&image, &Command::RemoveReplica { name: name(), broker: b(one) }).unwrap_or(image),
                5 => {
                    let gone = BTreeSet::from([b(one)]);
                    let fenced = done(&image, &policy::fence(&image, &gone, NO));
                    let back: Vec<_> = policy::unfence(&fenced, b(one)).into_iter().collect();
                    done(&fenced, &back)
                }
                _ => {
                    let mut isr = before.isr.clone();
                    isr.extend(before.replicas.iter().copied().filter(|id| !before.isr.contains(id)).take(1));
                    let ids: Vec<_> = isr.iter().map(|id| id.0).collect();
                    synced(&image, &ids)
                }
            };
            image = done(&image, &policy::reconcile(&image, &BTreeSet::new(), false, NO));
            image = settle(&image);
            let entry = only(&image);
            let distinct: BTreeSet<_> = entry.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), entry.replicas.len());
            prop_assert!(!target(&entry).is_empty());
            prop_assert!(entry.adding.iter().all(|id| entry.replicas.contains(id) && !entry.removing.contains(id)));
            prop_assert!(entry.removing.iter().all(|id| entry.replicas.contains(id)));
            prop_assert!(!entry.isr.is_empty() && entry.isr.iter().all(|id| entry.replicas.contains(id)));
            prop_assert!(entry.leader.is_none_or(|leader| entry.isr.contains(&leader)));
            prop_assert!(entry.leader == before.leader || entry.leader_epoch > before.leader_epoch);
            prop_assert!(entry == before || entry.part_epoch > before.part_epoch);
        }
    }
}
