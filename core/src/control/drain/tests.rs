//! Emptying brokers as pure functions.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::control::fixture::{b, done};
use crate::control::{Command, fixture, policy};

fn ask(image: &Image, command: &Command) -> Result<Image, Refusal> {
    policy::command(image, command).map(|change| done(image, &change.ops))
}

fn drain(image: &Image, id: u32) -> Result<Image, Refusal> {
    ask(image, &Command::Drain { broker: b(id) })
}

fn with_topics(brokers: u32, count: u32, replicas: &[u32]) -> Image {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];
    let ops: Vec<_> =
        names.iter().take(size(count)).map(|name| fixture::add_topic(name, 1, replicas)).collect();
    done(&fixture::image(brokers), &ops)
}

/// Whoever was added has caught up.
fn synced(image: &Image) -> Image {
    let ops: Vec<_> = image
        .partitions()
        .filter_map(|(partition, _, entry)| {
            changed(partition, entry, PartitionEntry { isr: entry.replicas.clone(), ..entry.clone() })
        })
        .collect();
    done(image, &ops)
}

fn rules() -> Lapses {
    Lapses::default()
}

fn stepped(image: &Image) -> Image {
    let image = done(image, &moves::finish(image, &BTreeSet::new(), rules()));
    done(&image, &step(&image, rules()))
}

fn held(image: &Image, id: u32) -> usize {
    image.partitions().filter(|(_, _, entry)| entry.replicas.contains(&b(id))).count()
}

#[test]
fn leaderships_go_first_then_replicas_some_at_a_time_until_nothing_is_left() {
    let image = drain(&with_topics(4, 12, &[1, 2, 3]), 1).unwrap();
    assert_eq!(image.brokers[&b(1)].state, BrokerState::Draining);
    let first = stepped(&image);
    let led = |image: &Image| image.partitions().filter(|(_, _, entry)| entry.leader == Some(b(1))).count();
    assert_eq!((led(&first), held(&first, 4)), (2, 0));
    let second = stepped(&first);
    assert_eq!((led(&second), held(&second, 4)), (0, 0));
    let third = stepped(&second);
    assert_eq!(held(&third, 4), MOVES_MAX);
    assert_eq!(step(&third, rules()), vec![], "no more than so many at a time");
    let image = stepped(&synced(&stepped(&synced(&third))));
    assert_eq!((held(&image, 1), held(&image, 4)), (0, 12));
    assert_eq!(step(&image, rules()), vec![]);
}

#[test]
fn a_draining_broker_is_not_placed_on_and_stays_draining_through_restarts() {
    let image = drain(&with_topics(3, 1, &[2, 3]), 1).unwrap();
    assert!(!image.live_brokers().any(|id| id == b(1)));
    let image = done(&image, &policy::fence(&image, &BTreeSet::from([b(1)]), rules()));
    assert_eq!(image.brokers[&b(1)].state, BrokerState::Fenced);
    let image = done(&image, &[policy::unfence(&image, b(1)).unwrap()]);
    assert_eq!(image.brokers[&b(1)].state, BrokerState::Draining);
    let image = ask(&image, &Command::CancelDrain { broker: b(1) }).unwrap();
    assert_eq!(image.brokers[&b(1)].state, BrokerState::Active);
}

#[test]
fn a_drain_is_refused_where_a_topic_would_not_fit_and_repeated_without_effect() {
    let image = with_topics(3, 1, &[1, 2, 3]);
    let Err(Refusal::Conflict { detail }) = drain(&image, 1) else { panic!("three replicas on two brokers") };
    assert!(detail.contains("topic a has 3 replicas"), "{detail}");
    assert_eq!(drain(&image, 9), Err(Refusal::BrokerNotFound { broker: b(9) }));
    let image = drain(&with_topics(3, 1, &[1, 2]), 1).unwrap();
    assert_eq!(policy::command(&image, &Command::Drain { broker: b(1) }).unwrap().ops, vec![]);
    assert!(matches!(drain(&image, 2), Err(Refusal::Conflict { .. })));
}

#[test]
fn a_cancelled_drain_takes_its_moves_back() {
    let image = stepped(&stepped(&drain(&with_topics(3, 1, &[1, 2]), 1).unwrap()));
    assert_eq!(image.partitions().next().unwrap().2.adding, vec![b(3)]);
    let image = ask(&image, &Command::CancelDrain { broker: b(1) }).unwrap();
    let entry = image.partitions().next().unwrap().2;
    assert_eq!((entry.replicas.as_slice(), entry.adding.len()), ([b(2), b(1)].as_slice(), 0));
    assert_eq!(step(&image, rules()), vec![]);
}

#[test]
fn the_internal_topic_shrinks_to_what_is_left() {
    let image = fixture::image(3);
    let image = synced(&done(&image, &policy::reconcile(&image, &BTreeSet::new(), true, rules())));
    let mut image = drain(&image, 3).unwrap();
    for _ in 0..10 {
        image = synced(&stepped(&image));
        image = done(&image, &policy::reconcile(&image, &BTreeSet::new(), true, rules()));
    }
    assert_eq!(held(&image, 3), 0);
    let topic = image.topics.values().next().unwrap();
    assert_eq!((topic.config.replication_factor, topic.config.min_isr), (2, 1));
    assert!(image.partitions().all(|(_, _, entry)| entry.replicas.len() == 2));
}
