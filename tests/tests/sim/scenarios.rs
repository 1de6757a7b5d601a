//! The counter-examples of `docs/protocol.md` §5, one test each: the rules hold where naive designs break.

use pubsub_tests::sim::run;
use pubsub_tests::sim::scenarios::{NAMED, named};

/// Seeds that each scenario is played with.
const SEEDS: u64 = 8;

fn holds(name: &str) {
    let scenario = named(name).unwrap();
    for seed in 1..=SEEDS {
        if let Err(violation) = run(seed, &scenario, &[]) {
            panic!("{violation}");
        }
    }
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test] fn $name() { holds(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

scenarios! {
    split_brain_classic_bully
    split_brain_of_five
    late_coordinator_message
    promise_forgotten_on_crash
    double_vote_same_epoch
    winner_keeps_own_stale_image
    compare_version_without_epoch
    zombie_proposal_unfenced
    figure8_old_tag
    act_before_commit
    sigstop_coordinator_wakes
    amnesiac_voter
    two_amnesiacs_found_a_cluster
    highest_id_hears_but_cannot_win
    flapping_highest_id
    deaf_voter_campaigns
    isr_shrunk_before_commit
    isr_expansion_not_counted
    join_against_hw_only
    truncate_to_hw
    fast_leader_change_divergence
    ack_counts_unverified_suffix
    unconfirmed_suffix_is_truncated
    follower_ignores_leader_epoch
    wiped_replica_still_in_isr
    join_request_outlives_restart
    late_registration_of_a_dead_process
    last_replica_standing
    leader_resumes_same_epoch
    commits_with_too_few_copies
    stale_replica_is_not_elected
    move_ends_before_sync
    drained_broker_is_taken_away
    replica_moved_away_and_back
    retry_after_ambiguous_timeout
    replaced_leader_misses_a_sequence
    replaced_leader_answers_from_memory
    voter_replaced_in_one_step
    cpu_starved_wakes_and_campaigns
    prevote_ping_pong
    slow_leader_disk_evicts_isr
    delete_recreate_same_name
    consumer_out_of_range_after_failover
    founder_replaced_while_founding
    pv_rollback
    pv_rollback_of_a_voter
    disk_full_voter_grants
    pod_new_ip_old_ip_reused
    mixed_version_drops_field
    process_without_registration
    discovery_restart_empty
    candidate_survives_same_epoch_accept
}

#[test]
fn every_named_scenario_is_tested() {
    let missing: Vec<_> =
        NAMED.iter().map(|scenario| scenario.name).filter(|name| !TESTED.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
