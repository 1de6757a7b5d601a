//! The named scenarios and fault mixes.

mod bad_days;
mod election;
mod moves;
mod producers;
mod replication;
mod volumes;

use super::world::{Flow, World};
use super::{Scenario, changes, faults};

type Script = fn(&mut World) -> Flow;

const fn three(name: &'static str, script: Script) -> Scenario {
    Scenario { name, brokers: 3, voters: 3, script }
}

const fn five(name: &'static str, script: Script) -> Scenario {
    Scenario { name, brokers: 5, voters: 5, script }
}

/// Random mixes.
pub const MIXES: [Scenario; 6] = [
    three("ordinary_3", faults::ordinary),
    Scenario { name: "ordinary_5", brokers: 5, voters: 3, script: faults::ordinary },
    three("election_storm_3", faults::election_storm),
    five("election_storm_5", faults::election_storm),
    three("replication_storm", faults::replication_storm),
    Scenario { name: "changes_5", brokers: 5, voters: 3, script: changes::changes },
];

/// The named courses of events that break naive designs.
pub const NAMED: [Scenario; 52] = [
    three("split_brain_classic_bully", election::split_brain_classic_bully),
    three("late_coordinator_message", election::late_coordinator_message),
    three("promise_forgotten_on_crash", election::promise_forgotten_on_crash),
    five("double_vote_same_epoch", election::double_vote_same_epoch),
    three("winner_keeps_own_stale_image", election::winner_keeps_own_stale_image),
    three("compare_version_without_epoch", election::compare_version_without_epoch),
    three("zombie_proposal_unfenced", election::zombie_proposal_unfenced),
    three("figure8_old_tag", election::figure8_old_tag),
    five("act_before_commit", election::act_before_commit),
    three("sigstop_coordinator_wakes", election::sigstop_coordinator_wakes),
    three("amnesiac_voter", election::amnesiac_voter),
    three("two_amnesiacs_found_a_cluster", election::two_amnesiacs_found_a_cluster),
    three("highest_id_hears_but_cannot_win", election::highest_id_hears_but_cannot_win),
    three("flapping_highest_id", election::flapping_highest_id),
    three("deaf_voter_campaigns", election::deaf_voter_campaigns),
    three("isr_shrunk_before_commit", replication::isr_shrunk_before_commit),
    three("isr_expansion_not_counted", replication::isr_expansion_not_counted),
    five("join_against_hw_only", replication::join_against_hw_only),
    three("truncate_to_hw", replication::truncate_to_hw),
    three("fast_leader_change_divergence", replication::fast_leader_change_divergence),
    three("ack_counts_unverified_suffix", replication::ack_counts_unverified_suffix),
    three("unconfirmed_suffix_is_truncated", replication::unconfirmed_suffix_is_truncated),
    three("follower_ignores_leader_epoch", replication::follower_ignores_leader_epoch),
    three("wiped_replica_still_in_isr", replication::wiped_replica_still_in_isr),
    three("join_request_outlives_restart", replication::join_request_outlives_restart),
    three("late_registration_of_a_dead_process", replication::late_registration_of_a_dead_process),
    three("last_replica_standing", replication::last_replica_standing),
    three("leader_resumes_same_epoch", replication::leader_resumes_same_epoch),
    three("commits_with_too_few_copies", replication::commits_with_too_few_copies),
    three("stale_replica_is_not_elected", replication::stale_replica_is_not_elected),
    five("move_ends_before_sync", moves::move_ends_before_sync),
    five("drained_broker_is_taken_away", moves::drained_broker_is_taken_away),
    five("replica_moved_away_and_back", moves::replica_moved_away_and_back),
    three("retry_after_ambiguous_timeout", producers::retry_after_ambiguous_timeout),
    three("replaced_leader_misses_a_sequence", producers::replaced_leader_misses_a_sequence),
    three("replaced_leader_answers_from_memory", producers::replaced_leader_answers_from_memory),
    three("voter_replaced_in_one_step", bad_days::voter_replaced_in_one_step),
    three("cpu_starved_wakes_and_campaigns", bad_days::cpu_starved_wakes_and_campaigns),
    three("prevote_ping_pong", bad_days::prevote_ping_pong),
    three("slow_leader_disk_evicts_isr", bad_days::slow_leader_disk_evicts_isr),
    three("delete_recreate_same_name", bad_days::delete_recreate_same_name),
    three("consumer_out_of_range_after_failover", bad_days::consumer_out_of_range_after_failover),
    three("founder_replaced_while_founding", volumes::founder_replaced_while_founding),
    three("pv_rollback", volumes::pv_rollback),
    three("pv_rollback_of_a_voter", volumes::pv_rollback_of_a_voter),
    three("disk_full_voter_grants", volumes::disk_full_voter_grants),
    three("pod_new_ip_old_ip_reused", volumes::pod_new_ip_old_ip_reused),
    three("mixed_version_drops_field", volumes::mixed_version_drops_field),
    three("process_without_registration", volumes::process_without_registration),
    three("discovery_restart_empty", election::discovery_restart_empty),
    three("candidate_survives_same_epoch_accept", election::candidate_survives_same_epoch_accept),
    five("split_brain_of_five", election::split_brain_classic_bully),
];

/// Returns the scenario of a name.
pub fn named(name: &str) -> Option<Scenario> {
    MIXES.iter().chain(&NAMED).find(|scenario| scenario.name == name).copied()
}
