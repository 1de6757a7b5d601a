#![allow(clippy::unwrap_used)]
use super::*;
use crate::crd::{STATUS_PARTITIONS_MAX, TopicSpec};
use crate::fixtures::{observed, partition, topic as described};
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::admin::TopicDescription;

fn object(generation: i64) -> Topic {
    let mut topic = Topic::new("orders", TopicSpec::default());
    topic.metadata.namespace = Some("n".to_owned());
    topic.metadata.generation = Some(generation);
    topic
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn told(topic: &Topic, observed: Option<&Observed>, outcome: &Outcome, second: i64) -> TopicStatus {
    status(&Seen { topic, observed, outcome, groups: None, now: at(second) })
}

fn of(described: TopicDescription) -> TopicStatus {
    told(&object(1), Some(&observed(Some(described))), &Outcome::Settled, 0)
}

fn get<'a>(status: &'a TopicStatus, type_: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
}

fn short(status: &TopicStatus, type_: &str) -> (String, String) {
    let condition = get(status, type_);
    (condition.status.clone(), condition.reason.clone())
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn text() -> String {
    "because".to_owned()
}

fn all_outcomes() -> Vec<Outcome> {
    let mut all = vec![
        Outcome::Settled,
        Outcome::Pending(text()),
        Outcome::Paused(text()),
        Outcome::Rejected(text()),
        Outcome::NoController(text()),
        Outcome::Unreachable(text()),
        Outcome::Deleting(text()),
        Outcome::NotEmpty(text()),
    ];
    for objection in [Objection::NameConflict, Objection::ExistsUnmanaged, Objection::NotSupported] {
        all.push(Outcome::Refused(objection, text()));
    }
    for obstacle in [Obstacle::InsufficientBrokers, Obstacle::RejectedByBroker] {
        all.push(Outcome::Waiting(obstacle, text()));
    }
    all
}

#[test]
fn the_first_status_has_every_condition_whatever_came_of_the_pass() {
    for outcome in all_outcomes() {
        for observed in [None, Some(observed(None)), Some(observed(Some(described(3, 3))))] {
            let status = told(&object(7), observed.as_ref(), &outcome, 0);
            let types: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
            assert_eq!(types, TYPES, "{outcome:?}");
            for condition in &status.conditions {
                assert_eq!(condition.observed_generation, Some(7));
                assert!(!condition.reason.is_empty() && !condition.message.is_empty(), "{condition:?}");
            }
            assert_eq!(status.observed_generation, Some(7));
        }
    }
}

#[test]
fn ready_is_true_only_for_a_settled_topic_that_is_available() {
    for outcome in all_outcomes() {
        let status = told(&object(1), Some(&observed(Some(described(3, 3)))), &outcome, 0);
        assert_eq!(get(&status, "Ready").status == "True", outcome == Outcome::Settled, "{outcome:?}");
    }
    let gone = told(&object(1), Some(&observed(None)), &Outcome::Settled, 0);
    assert_eq!(short(&gone, "Ready"), pair("False", "NoLeader"));
}

#[test]
fn each_outcome_has_its_reason() {
    let refused = |objection| Outcome::Refused(objection, text());
    // Accepted, Programmed, Ready, Reconciling and Stalled.
    let cases = [
        (Outcome::Settled, "True Accepted, True Programmed, True Ready, False Settled, False Progressing"),
        (
            Outcome::Pending(text()),
            "True Accepted, False Pending, False Pending, True Pending, False Progressing",
        ),
        (
            Outcome::Paused(text()),
            "True Accepted, False Paused, False Paused, False Paused, False Progressing",
        ),
        (
            refused(Objection::NameConflict),
            "False NameConflict, False NameConflict, False NameConflict, False Stalled, True NameConflict",
        ),
        (
            refused(Objection::NotSupported),
            "False NotSupported, False NotSupported, False NotSupported, False Stalled, True NotSupported",
        ),
        (
            Outcome::Waiting(Obstacle::InsufficientBrokers, text()),
            "True Accepted, False InsufficientBrokers, False InsufficientBrokers, True InsufficientBrokers, False Progressing",
        ),
        (
            Outcome::Rejected(text()),
            "True Accepted, False RejectedByBroker, False RejectedByBroker, False Stalled, True RejectedByBroker",
        ),
        (
            Outcome::Unreachable(text()),
            "Unknown BrokersUnreachable, Unknown BrokersUnreachable, Unknown BrokersUnreachable, \
             True BrokersUnreachable, False Progressing",
        ),
        (
            Outcome::NotEmpty(text()),
            "True Accepted, False NotEmpty, False NotEmpty, False Stalled, True NotEmpty",
        ),
    ];
    for (outcome, expected) in cases {
        let seen = observed(Some(described(3, 3)));
        let seen = if matches!(outcome, Outcome::Unreachable(_)) { None } else { Some(&seen) };
        let status = told(&object(1), seen, &outcome, 0);
        let found = ["Accepted", "Programmed", "Ready", "Reconciling", "Stalled"].map(|type_| {
            let condition = get(&status, type_);
            format!("{} {}", condition.status, condition.reason)
        });
        assert_eq!(found.join(", "), expected, "{outcome:?}");
    }
}

#[test]
fn a_topic_is_available_while_every_partition_has_a_leader_and_enough_replicas() {
    let available = |change: fn(&mut TopicDescription)| {
        let mut topic = described(3, 3);
        change(&mut topic);
        let status = of(topic);
        assert_eq!(get(&status, "Available").status, get(&status, "Ready").status);
        short(&status, "Available")
    };
    assert_eq!(available(|_| {}), pair("True", "Available"));
    assert_eq!(available(|topic| topic.partitions[1].isr.truncate(2)), pair("True", "Available"));
    assert_eq!(available(|topic| topic.partitions[1].isr.truncate(1)), pair("False", "BelowMinISR"));
    // An ISR that has come down to its minimum keeps who is gone.
    let one_is_gone = |topic: &mut TopicDescription| {
        topic.partitions[1].isr.truncate(2);
        topic.alive_brokers.retain(|id| *id != topic.partitions[1].isr[1]);
    };
    assert_eq!(available(one_is_gone), pair("False", "BelowMinISR"));
    assert_eq!(available(|topic| topic.partitions[2].leader = None), pair("False", "NoLeader"));
    assert_eq!(available(|topic| topic.partitions.clear()), pair("False", "NoLeader"));
}

#[test]
fn a_topic_is_replicated_once_every_partition_has_all_its_replicas_in_sync() {
    let replicated = |change: fn(&mut TopicDescription)| {
        let mut topic = described(3, 3);
        change(&mut topic);
        short(&of(topic), "Replicated")
    };
    assert_eq!(replicated(|_| {}), pair("True", "Replicated"));
    assert_eq!(replicated(|topic| topic.partitions[0].isr.truncate(2)), pair("False", "CatchingUp"));
    assert_eq!(
        replicated(|topic| topic.partitions[0].adding = vec![BrokerId(4)]),
        pair("False", "CatchingUp")
    );
    let down = |topic: &mut TopicDescription| {
        topic.partitions[0].isr.truncate(2);
        topic.alive_brokers.truncate(2);
    };
    assert_eq!(replicated(down), pair("False", "ReplicaDown"));
    let few = |topic: &mut TopicDescription| topic.partitions[0] = partition(0, &[1, 2]);
    assert_eq!(replicated(few), pair("False", "InsufficientBrokers"));
}

#[test]
fn columns_show_the_partition_that_is_worst_off() {
    let mut topic = described(3, 3);
    topic.partitions[1].isr.truncate(2);
    topic.partitions[2].leader = Some(BrokerId(3));
    topic.partitions[2].leader_epoch = pubsub_core::ids::LeaderEpoch(9);
    let status = of(topic);
    assert_eq!(status.isr.as_deref(), Some("2/3"));
    assert_eq!(status.leaders.as_deref(), Some("1,3"));
    assert_eq!(status.max_leader_epoch, Some(9));
    assert_eq!((status.partition_count, status.replication_factor), (Some(3), Some(3)));
    assert_eq!(status.topic_name.as_deref(), Some("orders"));
    let mut short = described(1, 3);
    short.partitions[0] = partition(0, &[1, 2]);
    assert_eq!(of(short).isr.as_deref(), Some("2/3"), "a replica that is not there is not in sync either");
}

#[test]
fn a_topic_of_many_partitions_is_cut_short_and_says_so() {
    let many = of(described(100, 1));
    assert_eq!((many.partitions.len(), many.truncated), (STATUS_PARTITIONS_MAX, true));
    assert_eq!(many.partition_count, Some(100));
    assert!(!of(described(64, 1)).truncated);
}

#[test]
fn a_time_moves_only_when_the_status_flips_and_the_message_is_always_fresh() {
    let mut object = object(1);
    let seen = observed(Some(described(3, 3)));
    object.status = Some(told(&object, Some(&seen), &Outcome::Settled, 100));
    let mut worse = observed(Some(described(3, 3)));
    worse.topic.as_mut().unwrap().partitions[0].isr.truncate(2);
    let later = told(&object, Some(&worse), &Outcome::Settled, 200);
    assert_eq!(get(&later, "Ready").last_transition_time.0, at(100));
    assert!(get(&later, "Ready").message.contains("2/3"), "{}", get(&later, "Ready").message);
    assert_eq!(get(&later, "Replicated").last_transition_time.0, at(200));
    object.status = Some(later);
    let down = told(&object, None, &Outcome::Unreachable(text()), 300);
    assert_eq!(get(&down, "Ready").last_transition_time.0, at(300));
    assert_eq!(get(&down, "Stalled").last_transition_time.0, at(100));
}

#[test]
fn without_brokers_what_was_seen_last_is_kept_and_ready_is_unknown() {
    let mut object = object(1);
    object.status = Some(told(&object, Some(&observed(Some(described(3, 3)))), &Outcome::Settled, 0));
    let down = told(&object, None, &Outcome::Unreachable(text()), 90);
    assert_eq!(down.isr.as_deref(), Some("3/3"));
    for type_ in ["Programmed", "Available", "Replicated", "Ready"] {
        assert_eq!(short(&down, type_), pair("Unknown", "BrokersUnreachable"));
    }
}

#[test]
fn an_observation_holds_for_a_minute_and_only_for_the_spec_that_it_was_made_of() {
    let mut object = object(3);
    let minute = Duration::from_secs(60);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert!(!still_holds(&object, seconds(1), minute), "nothing was written yet");
    object.status = Some(TopicStatus { observed_generation: Some(3), ..TopicStatus::default() });
    for (ago, holds) in [(seconds(0), true), (seconds(59), true), (seconds(60), false), (None, false)] {
        assert_eq!(still_holds(&object, ago, minute), holds, "{ago:?}");
    }
    object.metadata.generation = Some(4);
    assert!(!still_holds(&object, seconds(1), minute), "the new spec may not be programmed");
}

#[test]
fn an_object_that_has_lost_its_topic_shows_none_of_its_figures() {
    let mut object = object(1);
    object.status = Some(told(&object, Some(&observed(Some(described(3, 3)))), &Outcome::Settled, 0));
    let refused = Outcome::Refused(Objection::NameConflict, text());
    let status = told(&object, Some(&observed(Some(described(3, 3)))), &refused, 0);
    assert_eq!((status.isr, status.topic_id, status.partitions.len()), (None, None, 0));
    assert_eq!(status.cluster_id.as_deref(), Some("cluster-1"));
}

#[test]
fn counters_are_told_from_facts() {
    let before = of(described(3, 3));
    assert_eq!(compare(Some(&before), &before.clone()), Change::None);
    assert_eq!(compare(None, &before), Change::Facts);
    let mut counted = before.clone();
    counted.partitions[0].high_watermark = Some(99);
    counted.groups = Some(GroupsStatus { count: 1, max_lag: 5, max_lag_group: None });
    assert_eq!(compare(Some(&before), &counted), Change::Counters);
    let mut led = before.clone();
    led.partitions[0].leader = Some(3);
    assert_eq!(compare(Some(&before), &led), Change::Facts);
}
