#![allow(clippy::unwrap_used)]
use super::*;
use crate::crd::{ByteSize, Retention};
use crate::fixtures::{broker, observed, owner, topic};
use pubsub_core::control::image::TopicConfig;
use serde_json::json;

fn claim() -> Claim {
    Claim { me: owner("me", 10, 2), rival: None, owner_is_gone: false }
}

fn spec() -> TopicSpec {
    TopicSpec { partitions: 3, replication_factor: Some(3), ..TopicSpec::default() }
}

/// The topic of [`spec`], written by this object at the present generation.
fn settled() -> Observed {
    let mut topic = topic(3, 3);
    topic.config.owner = Some(claim().me.to_value());
    observed(Some(topic))
}

fn with_config(change: impl FnOnce(&mut TopicConfig)) -> Observed {
    let mut observed = settled();
    change(&mut observed.topic.as_mut().unwrap().config);
    observed
}

fn owned_by(owner: &Owner) -> Observed {
    with_config(|config| config.owner = Some(owner.to_value()))
}

fn planned(spec: &TopicSpec, claim: &Claim, observed: &Observed) -> Plan {
    plan(spec, "orders", claim, observed)
}

fn change(plan: Plan) -> Change {
    let Plan::Alter(change) = plan else { panic!("no change: {plan:?}") };
    *change
}

fn objection(plan: &Plan) -> Option<Objection> {
    match plan {
        Plan::Refuse { objection, .. } => Some(*objection),
        Plan::Nothing | Plan::Create(_) | Plan::Alter(_) | Plan::Wait { .. } => None,
    }
}

fn obstacle(plan: &Plan) -> Option<Obstacle> {
    match plan {
        Plan::Wait { obstacle, .. } => Some(*obstacle),
        Plan::Nothing | Plan::Create(_) | Plan::Alter(_) | Plan::Refuse { .. } => None,
    }
}

#[test]
fn a_topic_as_declared_needs_nothing() {
    assert_eq!(planned(&spec(), &claim(), &settled()), Plan::Nothing);
    let unset = TopicSpec { replication_factor: None, ..spec() };
    assert_eq!(
        planned(&unset, &claim(), &settled()),
        Plan::Nothing,
        "what is not given is left to the brokers"
    );
}

#[test]
fn a_missing_topic_is_made_with_its_owner_and_what_is_not_given_is_not_asked_for() {
    let spec = TopicSpec {
        retention: Retention {
            duration: Some("7d".to_owned()),
            bytes_per_partition: Some(ByteSize("1Ki".to_owned())),
        },
        replication_factor: None,
        ..spec()
    };
    let Plan::Create(request) = planned(&spec, &claim(), &observed(None)) else { panic!("it is made") };
    assert_eq!(request.name, "orders");
    assert_eq!((request.partitions, request.replication_factor, request.min_isr), (Some(3), None, None));
    assert_eq!((request.retention_ms, request.retention_bytes), (Some(604_800_000), Some(1024)));
    assert_eq!(Owner::read(&request.owner.unwrap()), Some(claim().me));
}

#[test]
fn every_setting_that_differs_is_put_right_and_no_other_is_touched() {
    let owner = || Some(Some(claim().me.to_value()));
    let base = || AlterTopicRequest { owner: owner(), ..AlterTopicRequest::default() };
    type Case = (&'static str, Observed, AlterTopicRequest);
    let mut fewer = settled();
    fewer.topic.as_mut().unwrap().partition_count = 2;
    let cases: Vec<Case> = vec![
        ("partitions", fewer, AlterTopicRequest { partitions: Some(3), ..base() }),
        (
            "replicationFactor",
            with_config(|config| config.replication_factor = 2),
            AlterTopicRequest { replication_factor: Some(3), ..base() },
        ),
        (
            "minInSyncReplicas",
            with_config(|config| config.min_isr = 1),
            AlterTopicRequest { min_isr: Some(2), ..base() },
        ),
        (
            "retention.duration",
            with_config(|config| config.retention_ms = Some(5)),
            AlterTopicRequest { retention_ms: Some(None), ..base() },
        ),
        (
            "retention.bytesPerPartition",
            with_config(|config| config.retention_bytes = Some(5)),
            AlterTopicRequest { retention_bytes: Some(None), ..base() },
        ),
        (
            "maxRecordBytes",
            with_config(|config| config.max_record_bytes = Some(5)),
            AlterTopicRequest { max_record_bytes: Some(None), ..base() },
        ),
        (
            "uncleanElection",
            with_config(|config| config.unclean_election = true),
            AlterTopicRequest { unclean_election: Some(false), ..base() },
        ),
        (
            "cleanupPolicy",
            with_config(|config| config.compact = true),
            AlterTopicRequest { compact: Some(false), ..base() },
        ),
    ];
    for (field, observed, request) in cases {
        let change = change(planned(&spec(), &claim(), &observed));
        assert_eq!(change.request, request, "{field}");
        assert_eq!(change.differences.iter().map(|found| found.field).collect::<Vec<_>>(), [field]);
        assert_eq!(change.why, Why::Drifted, "{field}: this generation was written before");
        assert!(!change.take_ownership);
    }
}

#[test]
fn a_new_generation_is_written_down_even_if_no_setting_differs() {
    let mut newer = claim();
    newer.me.generation += 1;
    let change = change(planned(&spec(), &newer, &settled()));
    assert_eq!((change.why, change.differences.len()), (Why::Updated, 0));
    assert_eq!(Owner::read(&change.request.owner.unwrap().unwrap()), Some(newer.me));
}

#[test]
fn the_fewest_in_sync_replicas_follow_the_replication_factor_unless_given() {
    let mut small = settled();
    let topic = small.topic.as_mut().unwrap();
    (topic.config.replication_factor, topic.replication_factor, topic.config.min_isr) = (1, 1, 1);
    let raised = change(planned(&spec(), &claim(), &small)).request;
    assert_eq!((raised.replication_factor, raised.min_isr), (Some(3), Some(2)));
    let given = TopicSpec { min_in_sync_replicas: Some(1), ..spec() };
    assert_eq!(change(planned(&given, &claim(), &small)).request.min_isr, None);
    let lowered = TopicSpec { replication_factor: Some(1), ..spec() };
    let request = change(planned(&lowered, &claim(), &settled())).request;
    assert_eq!((request.replication_factor, request.min_isr), (Some(1), Some(1)));
}

#[test]
fn partitions_are_never_taken_away() {
    let spec = TopicSpec { partitions: 2, ..spec() };
    let plan = planned(&spec, &claim(), &settled());
    assert_eq!(obstacle(&plan), Some(Obstacle::RejectedByBroker), "{plan:?}");
}

#[test]
fn more_replicas_than_brokers_wait_for_brokers() {
    let spec = TopicSpec { replication_factor: Some(4), ..spec() };
    for observed in [observed(None), settled()] {
        let plan = planned(&spec, &claim(), &observed);
        assert_eq!(obstacle(&plan), Some(Obstacle::InsufficientBrokers), "{plan:?}");
    }
    let mut fenced = settled();
    fenced.brokers[0].state = BrokerStanding::Fenced;
    assert_eq!(
        planned(&TopicSpec { replication_factor: Some(3), ..spec }, &claim(), &fenced),
        Plan::Nothing,
        "a broker that is down is no reason to change a topic that has its replicas"
    );
}

#[test]
fn a_topic_that_nobody_owns_is_adopted_as_the_policy_says() {
    let (matching, other) = (with_config(|config| config.owner = None), |config: &mut TopicConfig| {
        config.owner = None;
        config.retention_ms = Some(5);
    });
    let other = with_config(other);
    use AdoptionPolicy::{Adopt, AdoptIfMatching, Never};
    for (policy, observed, adopted) in [
        (AdoptIfMatching, &matching, true),
        (AdoptIfMatching, &other, false),
        (Adopt, &matching, true),
        (Adopt, &other, true),
        (Never, &matching, false),
        (Never, &other, false),
    ] {
        let plan = planned(&TopicSpec { adoption_policy: policy, ..spec() }, &claim(), observed);
        if adopted {
            let change = change(plan);
            assert_eq!((change.why, change.take_ownership), (Why::Adopted, false), "{policy:?}");
        } else {
            assert_eq!(objection(&plan), Some(Objection::ExistsUnmanaged), "{policy:?}");
        }
    }
}

#[test]
fn of_two_objects_the_older_one_has_the_topic() {
    let (older, younger) = (owner("a", 5, 1), owner("z", 15, 1));
    let plan = planned(&spec(), &claim(), &owned_by(&older));
    assert_eq!(objection(&plan), Some(Objection::NameConflict));
    assert!(format!("{plan:?}").contains("n/a"), "it names the other object: {plan:?}");
    let change = change(planned(&spec(), &claim(), &owned_by(&younger)));
    assert_eq!((change.why, change.take_ownership), (Why::TakenOver, true));
    for (rival, yields) in [(older, true), (younger, false)] {
        let claim = Claim { rival: Some(rival), ..claim() };
        for observed in [observed(None), settled()] {
            let refused = objection(&planned(&spec(), &claim, &observed));
            assert_eq!(refused, yields.then_some(Objection::NameConflict));
        }
    }
}

#[test]
fn an_owner_that_is_gone_counts_as_none() {
    let older = owner("a", 5, 1);
    let gone = Claim { owner_is_gone: true, ..claim() };
    let taken = change(planned(&spec(), &gone, &owned_by(&older)));
    assert_eq!((taken.why, taken.take_ownership), (Why::Adopted, true));
    let never = TopicSpec { adoption_policy: AdoptionPolicy::Never, ..spec() };
    assert_eq!(objection(&planned(&never, &gone, &owned_by(&older))), Some(Objection::ExistsUnmanaged));
    // This object before it was deleted and made anew.
    let earlier = Owner { uid: "old".to_owned(), ..owner("me", 1, 7) };
    assert_eq!(change(planned(&spec(), &claim(), &owned_by(&earlier))).why, Why::Adopted);
}

#[test]
fn what_something_else_manages_is_left_alone() {
    let plan = planned(&spec(), &claim(), &with_config(|config| config.owner = Some(json!("a script"))));
    assert_eq!(objection(&plan), Some(Objection::NameConflict));
}

#[test]
fn what_no_broker_can_do_is_refused() {
    let bytes = |text: &str| Some(ByteSize(text.to_owned()));
    let cases = [
        TopicSpec { cleanup_policy: CleanupPolicy::Compact, ..spec() },
        TopicSpec { encryption: Encryption::Required, ..spec() },
        TopicSpec { max_record_bytes: bytes("2Gi"), ..spec() },
        TopicSpec { max_record_bytes: bytes("99999999999Ti"), ..spec() },
        TopicSpec {
            retention: Retention { duration: Some("0s".to_owned()), bytes_per_partition: None },
            ..spec()
        },
        TopicSpec { min_in_sync_replicas: Some(4), replication_factor: None, ..spec() },
    ];
    for spec in cases {
        for observed in [observed(None), settled()] {
            let plan = planned(&spec, &claim(), &observed);
            assert_eq!(objection(&plan), Some(Objection::NotSupported), "{spec:?}");
        }
    }
}

#[test]
fn the_controller_of_a_cluster_with_one_broker_counts_as_one() {
    let mut one = observed(None);
    one.brokers = vec![broker(1)];
    assert!(matches!(
        planned(&TopicSpec { replication_factor: None, ..spec() }, &claim(), &one),
        Plan::Create(_)
    ));
    assert_eq!(obstacle(&planned(&spec(), &claim(), &one)), Some(Obstacle::InsufficientBrokers));
}

#[test]
fn encryption_is_judged_by_what_every_broker_says() {
    let brokers = |sealed: [Option<bool>; 3]| {
        let mut observed = settled();
        for (broker, sealed) in observed.brokers.iter_mut().zip(sealed) {
            broker.sealed = sealed;
        }
        observed
    };
    let (yes, no) = (Some(true), Some(false));
    use Encryption::{Disabled, Inherit, Required};
    for (encryption, sealed, fits) in [
        (Inherit, [yes, no, None], true),
        (Required, [yes, yes, yes], true),
        (Required, [yes, yes, no], false),
        (Required, [yes, yes, None], false),
        (Disabled, [no, no, None], true),
        (Disabled, [no, no, yes], false),
    ] {
        let plan = planned(&TopicSpec { encryption, ..spec() }, &claim(), &brokers(sealed));
        assert_eq!(objection(&plan).is_none(), fits, "{encryption:?} {sealed:?}: {plan:?}");
    }
}
