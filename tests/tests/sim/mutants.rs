//! Gate on mutants found: with a rule switched off, the scenario made for it (or a bounded search over seeds) must show a
//! broken invariant. A check that can't find bugs proves nothing.

use pubsub_core::control::Weakening;
use pubsub_tests::sim::scenarios::named;
use pubsub_tests::sim::search;

/// Looks for a violation with the rule off, scenario by scenario, each with so many seeds; all must be clean with it on.
fn found(rule: Weakening, places: &[(&str, u64)]) {
    for (name, seeds) in places {
        let scenario = named(name).unwrap();
        let Some(violation) = search(1, *seeds, &scenario, &[rule]) else { continue };
        let seed = violation.seed;
        println!(
            "{rule:?}: {:?} in {name} with seed {seed} at {} ms: {}",
            violation.invariant, violation.at_ms, violation.detail
        );
        let clean = search(seed, 1, &scenario, &[]);
        assert!(clean.is_none(), "{name} fails with all rules on: {}", clean.unwrap());
        return;
    }
    panic!("without {rule:?} nothing breaks in {places:?}");
}

macro_rules! mutants {
    ($($test:ident: $rule:ident in $($name:literal x $seeds:literal),+;)*) => {
        $(#[test] fn $test() { found(Weakening::$rule, &[$(($name, $seeds)),+]); })*
        /// Every rule that can be switched off.
        pub(crate) const TESTED: &[Weakening] = &[$(Weakening::$rule),*];
    };
}

mutants! {
    winning_without_a_majority_is_found: NoMajority in "split_brain_classic_bully" x 5;
    obeying_a_stale_coordinator_is_found: ObeyStaleCoordinator in "late_coordinator_message" x 10;
    an_unsynced_promise_is_found: PromiseNotPersisted in "promise_forgotten_on_crash" x 10, "election_storm_3" x 50;
    a_double_vote_is_found: DoubleVote in "double_vote_same_epoch" x 20, "election_storm_5" x 100;
    keeping_the_own_image_is_found: KeepOwnImage in "winner_keeps_own_stale_image" x 10, "election_storm_3" x 50;
    comparing_versions_only_is_found: CompareVersionOnly in "compare_version_without_epoch" x 10, "election_storm_3" x 100;
    a_missing_fence_is_found: NoEpochFence in "zombie_proposal_unfenced" x 10, "election_storm_3" x 50;
    a_missing_barrier_is_found: NoBarrier in "figure8_old_tag" x 20, "election_storm_3" x 50;
    obeying_uncommitted_images_is_found: ApplyUncommitted in "act_before_commit" x 5;
    a_voter_without_memory_is_found: AmnesiacVoter in "amnesiac_voter" x 20, "ordinary_3" x 100;
    a_promise_to_any_volume_is_found: PromiseNamesBroker in "founder_replaced_while_founding" x 10;
    trusting_an_old_copy_is_found: OldCopyTrusted in "pv_rollback" x 5;
    trusting_an_old_copy_s_vote_is_found: OldCopyTrusted in "pv_rollback_of_a_voter" x 20;
    reading_any_level_is_found: AnyFeatureLevel in "mixed_version_drops_field" x 2;
    founding_by_majority_is_found: GenesisByMajority in "two_amnesiacs_found_a_cluster" x 5;
    a_surviving_candidacy_is_found: CandidateSurvivesAccept in
        "candidate_survives_same_epoch_accept" x 20, "election_storm_5" x 100;
    shrinking_before_the_commit_is_found: ShrinkBeforeCommit in "isr_shrunk_before_commit" x 5;
    not_counting_a_pending_member_is_found: PendingNotCounted in "isr_expansion_not_counted" x 10;
    joining_at_the_high_watermark_is_found: JoinAtHighWatermark in "join_against_hw_only" x 10;
    truncating_to_the_high_watermark_is_found: TruncateToHighWatermark in "truncate_to_hw" x 10;
    not_searching_by_epoch_is_found: NoEpochSearch in "fast_leader_change_divergence" x 10;
    acking_the_own_log_end_is_found: AckOwnLogEnd in "ack_counts_unverified_suffix" x 10;
    ignoring_the_leader_epoch_is_found: IgnoreLeaderEpoch in "follower_ignores_leader_epoch" x 10;
    a_wiped_in_sync_replica_is_found: WipedStaysInIsr in "wiped_replica_still_in_isr" x 5;
    ignoring_registrations_is_found: NoBrokerEpoch in "join_request_outlives_restart" x 10;
    a_missing_floor_is_found: NoIsrFloor in "last_replica_standing" x 5;
    committing_below_the_floor_is_found: CommitBelowMinIsr in "commits_with_too_few_copies" x 10;
    an_unclean_election_is_found: UncleanElection in "stale_replica_is_not_elected" x 5;
    ending_a_move_before_it_is_in_sync_is_found: MoveWithoutSync in "move_ends_before_sync" x 5, "changes_5" x 50;
    taking_a_broker_away_before_others_are_in_sync_is_found: DrainWithoutSync in "drained_broker_is_taken_away" x 5;
    resuming_a_leader_epoch_is_found: ResumeLeaderEpoch in "leader_resumes_same_epoch" x 5;
    appending_whatever_the_sequence_is_found: NoSequenceCheck in "retry_after_ambiguous_timeout" x 5;
    leading_without_proof_is_found: UnprovenLeadership in "replaced_leader_answers_from_memory" x 5, "ordinary_3" x 100;
    deleting_what_is_not_committed_is_found: TrimUncommitted in "replication_storm" x 40;
    obeying_an_empty_map_is_found: DiscoveryReplaces in "discovery_restart_empty" x 2;
}

#[test]
fn every_rule_that_can_be_switched_off_is_tested() {
    // The one place that names all of them: a new one is a compile error here.
    let place = |rule: Weakening| match rule {
        Weakening::NoMajority
        | Weakening::ObeyStaleCoordinator
        | Weakening::PromiseNotPersisted
        | Weakening::DoubleVote
        | Weakening::KeepOwnImage
        | Weakening::CompareVersionOnly
        | Weakening::NoEpochFence
        | Weakening::NoBarrier
        | Weakening::ApplyUncommitted
        | Weakening::AmnesiacVoter
        | Weakening::PromiseNamesBroker
        | Weakening::OldCopyTrusted
        | Weakening::AnyFeatureLevel
        | Weakening::GenesisByMajority
        | Weakening::CandidateSurvivesAccept
        | Weakening::ShrinkBeforeCommit
        | Weakening::PendingNotCounted
        | Weakening::JoinAtHighWatermark
        | Weakening::TruncateToHighWatermark
        | Weakening::NoEpochSearch
        | Weakening::AckOwnLogEnd
        | Weakening::IgnoreLeaderEpoch
        | Weakening::WipedStaysInIsr
        | Weakening::NoBrokerEpoch
        | Weakening::NoIsrFloor
        | Weakening::CommitBelowMinIsr
        | Weakening::UncleanElection
        | Weakening::MoveWithoutSync
        | Weakening::DrainWithoutSync
        | Weakening::ResumeLeaderEpoch
        | Weakening::NoSequenceCheck
        | Weakening::UnprovenLeadership
        | Weakening::TrimUncommitted
        | Weakening::DiscoveryReplaces => 34,
    };
    let mut rules = TESTED.to_vec();
    rules.sort_unstable();
    rules.dedup();
    assert!(rules.iter().all(|rule| place(*rule) == rules.len()), "{rules:?}");
}
