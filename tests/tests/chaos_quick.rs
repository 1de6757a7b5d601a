//! A few of the schedules of `make chaos`, each once: that no rule is broken, and that the harness itself works.

use pubsub_tests::chaos::schedules::named;
use pubsub_tests::chaos::{Options, one};
use pubsub_tests::cluster::shared::alone;
use std::time::Duration;
use tokio::sync::watch;

/// Runs one schedule once, and fails with the broken rules if there are any.
async fn keeps_all_rules(name: &str) {
    let _alone = alone().await;
    let schedules = named(&[name.to_owned()]).expect("a schedule of that name");
    let keep = std::env::temp_dir().join("pubsub-chaos");
    let options = Options { duration: Duration::ZERO, seed: 1, schedules, times: 1, keep };
    // Nobody interrupts it, for as long as the sender is there.
    let (_interrupt, mut interrupted) = watch::channel(false);
    let run = one(&options.schedules[0], options.seed, &options, &mut interrupted)
        .await
        .expect("the harness works");
    eprintln!("{}", run.line());
    let broken: Vec<String> = run.violations.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(run.operations["publishes"]["acked"] > 50, "{run:?}");
    assert!(!run.faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_brokers_killed_at_once() {
    keeps_all_rules("kill-all-restart-all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_killed_while_it_leads() {
    keeps_all_rules("kill-leader-that-is-controller").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broker_killed_one_second_apart() {
    keeps_all_rules("rolling-kill9-1s-apart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_a_leader_lost() {
    keeps_all_rules("volume-lost-leader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_made_again_under_load() {
    keeps_all_rules("topic-delete-recreate-under-load").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_killed_while_discovery_is_away() {
    keeps_all_rules("discovery-down").await;
}
