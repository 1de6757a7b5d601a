//! What a cluster does when it starts, loses brokers, and gets them back: scenarios with their times.

use super::*;

#[test]
fn a_single_voter_is_controller_and_active_without_waiting() {
    let mut cluster = Cluster::started(&[1]);
    let took = cluster.until(1_000, |cluster| cluster.all_registered(&[1]));
    assert!(took <= 5, "{took} ms");
    assert_eq!(cluster.controller(), Some(b(1)));
    let outcome = cluster.create(1, "a", 3, fixture::config(1, 1)).unwrap();
    assert!(outcome.changed);
}

#[test]
fn three_founders_are_ready_in_a_fraction_of_a_second_led_by_the_highest() {
    let mut cluster = Cluster::started(&[1, 2, 3]);
    let took = cluster.until(5_000, |cluster| cluster.all_registered(&[1, 2, 3]));
    assert!(took < 600, "{took} ms");
    assert_eq!(cluster.controller(), Some(b(3)));
    let clusters: BTreeSet<_> = (1..=3).map(|id| cluster.image(id).cluster_id).collect();
    assert_eq!(clusters.len(), 1);
    assert_eq!(cluster.image(1).voters.len(), 3);
}

#[test]
fn founders_wait_for_the_last_one_and_then_begin_at_once() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.start(1);
    cluster.start(3);
    cluster.run(20_000);
    assert_eq!(cluster.controller(), None, "two of three must not found a cluster");
    cluster.start(2);
    let took = cluster.until(5_000, |cluster| cluster.all_registered(&[1, 2, 3]));
    assert!(took < 1_200, "{took} ms");
}

#[test]
fn two_wiped_voters_of_three_do_not_found_a_second_cluster() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    let before = cluster.image(1).cluster_id;
    for id in [2, 3] {
        cluster.kill(id);
        cluster.disks.remove(&b(id));
        cluster.start(id);
    }
    cluster.run(30_000);
    assert_eq!(cluster.controller(), None);
    assert!(cluster.nodes.values().all(|node| node.disk.cluster_id.is_none_or(|id| id == before)));
}

#[test]
fn a_topic_is_created_once_and_seen_by_every_broker() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    let outcome = cluster.create(3, "a", 2, fixture::config(3, 2)).unwrap();
    assert!(outcome.changed);
    let again = cluster.create(3, "a", 2, fixture::config(3, 2)).unwrap();
    assert_eq!((again.topic, again.changed), (outcome.topic, false));
    let other = cluster.create(3, "a", 3, fixture::config(3, 2)).unwrap_err();
    assert!(matches!(other, Refusal::TopicExists { .. }), "{other:?}");
    let elsewhere = cluster.create(1, "b", 1, fixture::config(1, 1)).unwrap_err();
    assert_eq!(elsewhere, Refusal::NotController { controller: Some(b(3)) });
    let many = cluster.create(3, "b", 1, fixture::config(4, 2)).unwrap_err();
    assert_eq!(many, Refusal::TooFewBrokers { wanted: 4, alive: 3 });
    cluster.run(10);
    for id in 1..=3 {
        assert!(cluster.image(id).topics.contains_key(&outcome.topic), "broker {id} lacks the topic");
    }
}

#[test]
fn requests_that_come_together_are_committed_in_one_image() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.run(6_000);
    let before = cluster.image(3).at.version;
    let all = (1..=50).map(|number| {
        let name = TopicName::try_from(format!("t{}", number % 49).as_str()).unwrap();
        let (id, config) = (TopicId(Uuid::from_u128(900 + number)), fixture::config(3, 2));
        let command =
            Command::CreateTopic { name, id, partitions: 1, config, leader: None, take_ownership: false };
        (Ticket(u64::MAX - u64::try_from(number).unwrap()), command)
    });
    let all: Vec<_> = all.collect();
    cluster.give(b(3), Input::ProposeAll(all));
    cluster.until(3_000, |cluster| cluster.replies.len() == 50);
    let changed: Vec<_> = cluster.replies.values().map(|reply| reply.as_ref().unwrap().changed).collect();
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 49, "the same topic twice is one");
    assert_eq!(cluster.image(3).at.version, before + 1);
    let led = |id| cluster.image(3).partitions().filter(|(_, _, entry)| entry.leader == Some(b(id))).count();
    assert!((1..=3).all(|id| led(id) >= 16), "placed evenly, each by what came before it");
}

#[test]
fn heartbeats_alone_write_nothing_to_disk() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.run(2_000);
    let before: Vec<_> = cluster.nodes.values().map(|node| node.persists).collect();
    cluster.run(20_000);
    let after: Vec<_> = cluster.nodes.values().map(|node| node.persists).collect();
    assert_eq!(before, after);
}

#[test]
fn a_killed_controller_is_replaced_in_half_a_second_and_its_partitions_move_in_the_barrier() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.create(3, "a", 6, fixture::config(3, 2)).unwrap();
    cluster.run(300);
    cluster.kill(3);
    let took = cluster.until(5_000, |cluster| cluster.controller().is_some());
    assert!(took < 600, "{took} ms");
    assert_eq!(cluster.controller(), Some(b(2)));
    let image = cluster.image(2);
    assert_eq!(image.brokers[&b(3)].state, BrokerState::Fenced);
    assert!(!leaders(image).contains(&Some(b(3))) && !leaders(image).contains(&None), "{:?}", leaders(image));
    assert!(image.partitions().all(|(_, _, entry)| entry.isr.len() == 2));
}

#[test]
fn a_vanished_controller_is_replaced_within_a_second_and_a_half() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    for id in [1, 2] {
        cluster.cut.extend([(b(3), b(id)), (b(id), b(3))]);
    }
    let leads = |cluster: &Cluster| cluster.nodes[&b(2)].machine.status(cluster.now).leading;
    let took = cluster.until(5_000, leads);
    assert!(took < 1_600, "{took} ms");
    assert_eq!(cluster.controller(), Some(b(2)), "the isolated controller steps down by itself");
    cluster.cut.clear();
    cluster.run(3_000);
    assert_eq!(cluster.controller(), Some(b(2)), "a returning higher id does not force its way back");
    assert!(cluster.all_registered(&[1, 2, 3]));
}

#[test]
fn a_controller_that_is_told_to_stop_hands_over_in_a_few_round_trips() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.create(3, "a", 3, fixture::config(3, 2)).unwrap();
    cluster.run(1_000);
    cluster.give(b(3), Input::Stop);
    let took = cluster.until(1_000, |cluster| cluster.controller() == Some(b(2)));
    assert!(took <= 30, "{took} ms");
    let stopped = |cluster: &Cluster| {
        cluster.nodes[&b(3)].actions.iter().any(|action| matches!(action, Action::Stopped))
    };
    let more = cluster.until(1_000, stopped);
    assert!(took + more <= 40, "{more} ms more");
    assert!(!leaders(cluster.image(2)).contains(&Some(b(3))));
    assert!(cluster.image(2).partitions().all(|(_, _, entry)| !entry.isr.contains(&b(3))));
    cluster.kill(3);
    cluster.run(5_000);
    assert_eq!(cluster.controller(), Some(b(2)));
    cluster.start(3);
    cluster.until(2_000, |cluster| cluster.all_registered(&[3]));
}

#[test]
fn a_higher_id_that_is_back_is_given_the_role_only_if_that_is_wanted_and_after_half_a_minute() {
    for preempt in [false, true] {
        let mut cluster = Cluster::ready(&[1, 2, 3]);
        cluster.preempt = preempt;
        for id in [1, 2] {
            cluster.kill(id);
            cluster.start(id);
            cluster.until(5_000, |cluster| cluster.all_registered(&[1, 2, 3]));
        }
        cluster.kill(3);
        cluster.until(5_000, |cluster| cluster.controller() == Some(b(2)));
        cluster.start(3);
        cluster.until(5_000, |cluster| cluster.all_registered(&[3]));
        cluster.run(25_000);
        assert_eq!(cluster.controller(), Some(b(2)));
        cluster.run(10_000);
        assert_eq!(cluster.controller(), Some(b(if preempt { 3 } else { 2 })));
    }
}

#[test]
fn a_stopping_broker_loses_its_leaderships_before_it_stops() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.create(3, "a", 6, fixture::config(3, 2)).unwrap();
    cluster.run(500);
    cluster.give(b(1), Input::Stop);
    let stopped = |cluster: &Cluster| {
        cluster.nodes[&b(1)].actions.iter().any(|action| matches!(action, Action::Stopped))
    };
    let took = cluster.until(1_000, stopped);
    assert!(took <= 20, "{took} ms");
    assert!(!leaders(cluster.image(3)).contains(&Some(b(1))));
    assert!(
        !cluster.events(3).contains(&Event::BrokerSilent { broker: b(1) }),
        "a planned stop is no failure"
    );
}

#[test]
fn a_silent_broker_is_fenced_and_returns_with_its_registration() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.create(3, "a", 3, fixture::config(3, 2)).unwrap();
    let before = cluster.image(3).brokers[&b(1)].broker_epoch;
    for id in [2, 3] {
        cluster.cut.extend([(b(1), b(id)), (b(id), b(1))]);
    }
    let took = cluster.until(5_000, |cluster| !cluster.image(3).is_active(b(1)));
    assert!((1_200..=1_800).contains(&took), "{took} ms");
    cluster.cut.clear();
    cluster.until(2_000, |cluster| cluster.all_registered(&[1]));
    assert_eq!(cluster.image(3).brokers[&b(1)].broker_epoch, before);
    cluster.run(1_000);
    assert_eq!(cluster.controller(), Some(b(3)), "its return did not disturb the controller");
}

#[test]
fn a_killed_broker_is_fenced_after_two_refused_connections() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.kill(1);
    let took = cluster.until(5_000, |cluster| !cluster.image(3).is_active(b(1)));
    assert!(took <= 600, "{took} ms");
}

#[test]
fn a_restarted_leader_never_resumes_its_leader_epoch() {
    let mut cluster = Cluster::ready(&[1]);
    let outcome = cluster.create(1, "a", 1, fixture::config(1, 1)).unwrap();
    let before = cluster.image(1).topics[&outcome.topic].partitions[0].clone();
    cluster.kill(1);
    cluster.start(1);
    cluster.until(2_000, |cluster| cluster.all_registered(&[1]));
    let after = &cluster.image(1).topics[&outcome.topic].partitions[0];
    assert_eq!(after.leader, Some(b(1)));
    assert!(after.leader_epoch > before.leader_epoch);
}

#[test]
fn a_wiped_broker_leaves_every_isr_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.create(3, "a", 3, fixture::config(3, 2)).unwrap();
    cluster.kill(1);
    cluster.disks.remove(&b(1));
    cluster.start(1);
    cluster.until(5_000, |cluster| cluster.all_registered(&[1]));
    let image = cluster.image(1);
    assert!(image.partitions().all(|(_, _, entry)| !entry.isr.contains(&b(1)) && entry.leader.is_some()));
    assert_eq!(cluster.controller(), Some(b(3)));
}

#[test]
fn a_wiped_voter_votes_again_after_half_a_minute_and_then_counts() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    cluster.kill(1);
    cluster.disks.remove(&b(1));
    cluster.start(1);
    let storage = cluster.nodes[&b(1)].disk.storage_id;
    cluster.run(25_000);
    assert!(!cluster.image(3).is_voter(b(1), storage));
    cluster.until(15_000, |cluster| cluster.image(3).is_voter(b(1), storage));
    cluster.run(1_000);
    cluster.kill(3);
    cluster.until(3_000, |cluster| cluster.controller() == Some(b(2)));
}

#[test]
fn an_observer_without_a_vote_joins_and_gets_replicas_of_the_internal_topic() {
    let mut cluster = Cluster::ready(&[1]);
    for id in [4, 5] {
        cluster.start(id);
        cluster.until(5_000, |cluster| cluster.all_registered(&[id]));
    }
    cluster.run(1_000);
    let image = cluster.image(5);
    assert_eq!(image.voters.len(), 1);
    assert!(
        image.partitions().all(|(_, topic, entry)| topic.name.is_internal() && entry.replicas.len() == 3)
    );
}

#[test]
fn the_whole_cluster_returns_after_all_were_killed() {
    let mut cluster = Cluster::ready(&[1, 2, 3]);
    let outcome = cluster.create(3, "a", 3, fixture::config(3, 2)).unwrap();
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    let took = cluster.until(5_000, |cluster| cluster.all_registered(&[1, 2, 3]));
    assert!(took < 2_500, "{took} ms");
    let image = cluster.image(1);
    assert!(image.topics.contains_key(&outcome.topic));
    assert!(!leaders(image).contains(&None));
}
