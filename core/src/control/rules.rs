//! Single rules of the control plane, told as the messages of one machine.
#![allow(clippy::unwrap_used)]

use super::fixture::b;
use super::image::{Image, Op};
use super::{Action, Control, ControlConfig, Event, Hard, Input, fixture};
use crate::Mono;
use crate::ids::{At, BrokerId, ControllerEpoch, Start, StorageId};
use crate::wire::internal::{ImageBody, Message};
use std::sync::Arc;
use uuid::Uuid;

const ME: BrokerId = BrokerId(2);
const START: Mono = 10_000;

fn e(epoch: u64) -> ControllerEpoch {
    ControllerEpoch(epoch)
}

fn start(id: u32, boot: u64) -> Start {
    Start { boot, run_id: fixture::run(id) }
}

fn config() -> ControlConfig {
    ControlConfig {
        run_id: fixture::run(2),
        api_base: "http://b2:8080".to_owned(),
        peer_base: "http://b2:9090".to_owned(),
        zone: None,
        versions: super::VERSIONS,
        sealed: false,
        genesis: Some(vec![b(1), b(2), b(3)]),
        preempt: false,
        timeout_scale: 1,
        seed: 7,
        weakened: Vec::new(),
    }
}

fn hard(accepted: Option<Image>) -> Hard {
    Hard {
        cluster_id: accepted.as_ref().map(|image| image.cluster_id),
        broker_id: ME,
        storage_id: fixture::storage(2),
        boot: 5,
        epoch: e(1),
        voted_for: Some(fixture::voter(3)),
        accepted: accepted.map(Arc::new),
        committed: At::default(),
    }
}

/// Voter 2 of 3 that has accepted the image at 1.1.
fn voter() -> Control {
    Control::new(START, hard(Some(fixture::image(3))), config())
}

/// Voter 2 of 3, standing: 1 answered and would let it, 3 is gone. And the time.
fn candidate() -> (Control, Mono) {
    let mut machine = voter();
    for peer in [1, 3] {
        machine.step(START + 5_000, Input::Unreachable { peer: b(peer) });
    }
    // A late tick only restarts the wait; the probe needs one in time.
    let mut now = START;
    while machine.hard().voted_for != Some(fixture::voter(2)) {
        now = machine.deadline().max(now);
        let actions = machine.step(now, Input::Tick);
        for message in sent(&actions).into_iter().cloned().collect::<Vec<_>>() {
            let Message::Election { round, .. } = message else { continue };
            let ok = Message::Ok {
                round,
                epoch: e(1),
                accepted: fixture::image(3).at,
                hears: None,
                can_lead: false,
                cluster_id: Some(fixture::image(3).cluster_id),
                storage_id: fixture::storage(1),
                start: start(1, 1),
                genesis: None,
            };
            tell(&mut machine, now, 1, ok);
            machine.step(now, Input::Unreachable { peer: b(3) });
        }
        assert!(now < START + 60_000, "no candidacy");
    }
    (machine, now)
}

fn tell(machine: &mut Control, now: Mono, from: u32, message: Message) -> Vec<Action> {
    let from_storage = fixture::storage(from);
    machine.step(now, Input::Message { from: b(from), from_storage, message })
}

fn claim(epoch: u64) -> Message {
    claim_of(3, epoch)
}

fn claim_of(id: u32, epoch: u64) -> Message {
    Message::Claim {
        epoch: e(epoch),
        accepted: fixture::image(3).at,
        start: start(id, 1),
        expect_storage: fixture::storage(2),
        expect_start: Some(start(2, 1)),
        handover: false,
        genesis: None,
    }
}

fn heartbeat(epoch: u64, sequence: u64) -> Message {
    Message::Heartbeat { epoch: e(epoch), sequence, committed: At::default() }
}

fn accept(epoch: u64, base: &Image) -> (Image, Message) {
    let at = At { epoch: e(epoch), version: base.at.version + 1 };
    let next = base.apply(&[], at).unwrap();
    let body = ImageBody::Delta { base: base.at, ops: Vec::<Op>::new() };
    let expect_storage = fixture::storage(2);
    let expect_start = Some(start(2, 1));
    let message =
        Message::Accept { epoch: e(epoch), at, hash: next.hash, body, expect_storage, expect_start };
    (next, message)
}

fn sent(actions: &[Action]) -> Vec<&Message> {
    let messages = actions.iter().filter_map(|action| match action {
        Action::Send { message, .. } => Some(message),
        _ => None,
    });
    messages.collect()
}

fn granted(actions: &[Action]) -> Option<bool> {
    sent(actions).into_iter().find_map(|message| match message {
        Message::Grant { granted, .. } => Some(*granted),
        _ => None,
    })
}

fn position(actions: &[Action], wanted: impl Fn(&Action) -> bool) -> Option<usize> {
    actions.iter().position(wanted)
}

fn is_persist(action: &Action) -> bool {
    matches!(action, Action::Persist(_))
}

#[test]
fn a_promise_is_persisted_before_it_is_sent_and_repeated_without_another_write() {
    let mut machine = voter();
    let actions = tell(&mut machine, START, 3, claim(2));
    let write = position(&actions, is_persist).unwrap();
    let answer = position(&actions, |action| matches!(action, Action::Send { .. })).unwrap();
    assert!(write < answer);
    let again = tell(&mut machine, START + 1, 3, claim(2));
    assert_eq!((granted(&again), position(&again, is_persist)), (Some(true), None));
}

#[test]
fn an_epoch_is_promised_to_one_candidate_only() {
    let mut machine = voter();
    assert_eq!(granted(&tell(&mut machine, START, 3, claim(2))), Some(true));
    assert_eq!(granted(&tell(&mut machine, START, 1, claim_of(1, 2))), Some(false));
    assert_eq!(granted(&tell(&mut machine, START, 1, claim_of(1, 3))), Some(true));
}

#[test]
fn a_promise_survives_a_restart() {
    let mut machine = voter();
    tell(&mut machine, START, 3, claim(2));
    let mut machine = Control::new(START, machine.hard().clone(), config());
    assert_eq!(granted(&tell(&mut machine, START, 1, claim_of(1, 2))), Some(false));
}

#[test]
fn a_replaced_or_rolled_back_volume_makes_no_promises() {
    let mut machine = voter();
    let Message::Claim { epoch, accepted, handover, genesis, .. } = claim(2) else { panic!("not a claim") };
    let copied = Start { run_id: fixture::run(9), ..start(2, 5) };
    for (storage, known) in [
        (StorageId(Uuid::from_u128(1)), start(2, 1)),
        (fixture::storage(2), start(2, 6)),
        (fixture::storage(2), copied),
    ] {
        let genesis = genesis.clone();
        let expect_storage = storage;
        let message = Message::Claim {
            epoch,
            accepted,
            start: start(3, 1),
            expect_storage,
            expect_start: Some(known),
            handover,
            genesis,
        };
        assert_eq!(granted(&tell(&mut machine, START, 3, message)), Some(false));
    }
}

#[test]
fn a_promise_is_not_kept_for_another_volume_of_the_same_broker() {
    let mut machine = voter();
    assert_eq!(granted(&tell(&mut machine, START, 3, claim(2))), Some(true));
    let from_storage = StorageId(Uuid::from_u128(77));
    let message = claim(2);
    let actions = machine.step(START, Input::Message { from: b(3), from_storage, message });
    assert_eq!(granted(&actions), Some(false));
}

#[test]
fn a_promise_to_a_former_volume_does_not_count_for_the_new_one() {
    let (mut machine, now) = candidate();
    let (epoch, at) = (machine.hard().epoch, fixture::image(3).at);
    let promise = |to_storage| {
        let storage_id = fixture::storage(1);
        Message::Grant { epoch, granted: true, accepted: at, image: None, to_storage, storage_id }
    };
    let actions = tell(&mut machine, now, 1, promise(fixture::storage(99)));
    assert!(sent(&actions).is_empty(), "{actions:?}");
    let actions = tell(&mut machine, now, 1, promise(fixture::storage(2)));
    assert!(sent(&actions).iter().any(|message| matches!(message, Message::Accept { .. })), "{actions:?}");
}

#[test]
fn a_voter_on_an_older_copy_of_its_volume_accepts_nothing() {
    let mut machine = voter();
    let (_, message) = accept(2, &fixture::image(3));
    let Message::Accept { epoch, at, hash, body, expect_storage, .. } = message else { panic!("not one") };
    let newer = Message::Accept { epoch, at, hash, body, expect_storage, expect_start: Some(start(2, 6)) };
    assert!(tell(&mut machine, START, 3, newer).is_empty());
    assert_eq!(machine.hard().epoch, e(1));
}

#[test]
fn a_candidate_on_an_older_copy_of_its_volume_gets_no_promise() {
    let mut image = fixture::image(3);
    image.brokers.get_mut(&b(3)).unwrap().boot = 4;
    let mut machine = Control::new(START, hard(Some(image)), config());
    let with_boot = |boot: u64| {
        let Message::Claim { epoch, accepted, expect_storage, expect_start, handover, genesis, .. } =
            claim(2)
        else {
            panic!("not a claim")
        };
        let start = start(3, boot);
        Message::Claim { epoch, accepted, start, expect_storage, expect_start, handover, genesis }
    };
    assert_eq!(granted(&tell(&mut machine, START, 3, with_boot(3))), Some(false));
    assert_eq!(granted(&tell(&mut machine, START, 3, with_boot(4))), Some(true));
}

#[test]
fn a_program_that_can_t_read_the_cluster_s_metadata_says_so_and_stops() {
    let mut image = fixture::image(3);
    image.feature_level = 2;
    let mut machine = Control::new(START, hard(Some(image)), config());
    let actions = machine.step(START, Input::Tick);
    assert!(
        matches!(&actions[..], [Action::Halt { reason }] if reason.contains("feature level 2")),
        "{actions:?}"
    );
}

#[test]
fn a_voter_that_hears_a_controller_promises_nothing_unless_that_one_hands_over() {
    let mut machine = voter();
    tell(&mut machine, START, 3, heartbeat(2, 1));
    assert_eq!(granted(&tell(&mut machine, START + 900, 1, claim_of(1, 3))), Some(false));
    let Message::Claim { epoch, accepted, expect_storage, expect_start, genesis, .. } = claim_of(1, 3) else {
        panic!("not a claim")
    };
    let handed = Message::Claim {
        epoch,
        accepted,
        start: start(1, 1),
        expect_storage,
        expect_start,
        handover: true,
        genesis,
    };
    assert_eq!(granted(&tell(&mut machine, START + 901, 1, handed)), Some(true));
}

#[test]
fn hearsay_of_a_controller_never_renews_a_lease() {
    let mut machine = voter();
    tell(&mut machine, START, 3, heartbeat(2, 1));
    let coordinator = Message::Coordinator { epoch: e(2), committed: At::default() };
    tell(&mut machine, START + 900, 3, coordinator);
    assert_eq!(granted(&tell(&mut machine, START + 1_001, 1, claim_of(1, 3))), Some(true));
}

#[test]
fn proposals_and_heartbeats_of_older_epochs_are_fenced() {
    let mut machine = voter();
    tell(&mut machine, START, 3, claim(4));
    let (_, stale) = accept(3, &fixture::image(3));
    for message in [stale, heartbeat(3, 1)] {
        let actions = tell(&mut machine, START, 1, message);
        assert_eq!(sent(&actions), vec![&Message::Fenced { epoch: e(4) }]);
    }
}

#[test]
fn an_accepted_image_is_persisted_before_it_is_confirmed_and_applied_only_once_committed() {
    let mut machine = voter();
    let (next, message) = accept(2, &fixture::image(3));
    let actions = tell(&mut machine, START, 3, message);
    let confirmed =
        position(&actions, |action| matches!(action, Action::Send { message: Message::Accepted { .. }, .. }));
    assert!(position(&actions, is_persist).unwrap() < confirmed.unwrap());
    assert_eq!(machine.image(), None);
    let committed = Message::Heartbeat { epoch: e(2), sequence: 1, committed: next.at };
    tell(&mut machine, START, 3, committed);
    assert_eq!(machine.image().map(|image| image.at), Some(next.at));
}

#[test]
fn an_image_accepted_in_an_older_epoch_is_not_applied_on_a_newer_one_s_word() {
    let mut machine = voter();
    let (lost, message) = accept(2, &fixture::image(3));
    tell(&mut machine, START, 3, message);
    let committed = At { epoch: e(3), version: lost.at.version };
    tell(&mut machine, START, 1, Message::Heartbeat { epoch: e(3), sequence: 1, committed });
    assert_eq!(machine.image(), None);
}

#[test]
fn a_proposal_ends_a_candidacy_in_the_same_epoch_and_binds_the_promise() {
    let (mut machine, now) = candidate();
    let epoch = machine.hard().epoch;
    let (_, message) = accept(epoch.0, &fixture::image(3));
    tell(&mut machine, now, 3, message);
    assert_eq!(machine.hard().voted_for, Some(fixture::voter(3)));
    let image = machine.hard().accepted.as_ref().unwrap().clone();
    let storage_id = fixture::storage(1);
    let to_storage = fixture::storage(2);
    let grant =
        Message::Grant { epoch, granted: true, accepted: image.at, image: None, to_storage, storage_id };
    let actions = tell(&mut machine, now, 1, grant);
    assert!(sent(&actions).is_empty(), "{actions:?}");
    assert!(!machine.status(now).electing);
}

#[test]
fn a_voter_that_was_stopped_for_long_does_not_campaign_when_it_wakes() {
    let mut machine = voter();
    tell(&mut machine, START, 3, heartbeat(2, 1));
    let actions = machine.step(START + 6_000, Input::Tick);
    assert!(!actions.iter().any(|action| matches!(action, Action::Event(Event::ElectionStarted))));
    tell(&mut machine, START + 6_001, 3, heartbeat(2, 2));
    assert_eq!(machine.status(START + 6_001).controller, Some(b(3)));
}

#[test]
fn an_empty_voter_grants_genesis_only_for_its_own_list_and_while_it_is_empty() {
    let genesis = |list: &[u32]| Message::Claim {
        epoch: e(2),
        accepted: At::default(),
        start: start(3, 1),
        expect_storage: fixture::storage(2),
        expect_start: Some(start(2, 5)),
        handover: false,
        genesis: Some(list.iter().map(|id| b(*id)).collect()),
    };
    let mut empty = Control::new(START, hard(None), config());
    assert_eq!(granted(&tell(&mut empty, START, 3, genesis(&[2, 3]))), Some(false));
    assert_eq!(granted(&tell(&mut empty, START, 3, genesis(&[3, 2, 1]))), Some(true));
    let mut member = voter();
    assert_eq!(granted(&tell(&mut member, START, 3, genesis(&[1, 2, 3]))), Some(false));
}

#[test]
fn a_process_halts_once_a_newer_one_was_registered_under_its_id() {
    let mut machine = voter();
    let committed = |epoch: u64, image: Image| {
        let (at, hash) = (image.at, image.hash);
        Message::Committed { epoch: e(epoch), at, hash, body: ImageBody::Full(Arc::new(image)) }
    };
    let mut image = fixture::image(3);
    image.at = At { epoch: e(2), version: 5 };
    tell(&mut machine, START, 3, committed(2, image.clone()));
    let mut newer = image.clone();
    newer.at.version = 6;
    let entry = newer.brokers.get_mut(&ME).unwrap();
    entry.run_id = fixture::run(99);
    entry.broker_epoch = crate::ids::BrokerEpoch(6);
    let actions = tell(&mut machine, START, 3, committed(2, newer));
    assert!(actions.iter().any(|action| matches!(action, Action::Halt { .. })));
    assert!(tell(&mut machine, START, 3, heartbeat(2, 9)).is_empty(), "it is silent from then on");
}

#[test]
fn an_image_of_another_cluster_is_never_taken() {
    let mut machine = voter();
    let mut foreign = fixture::image(3);
    foreign.cluster_id = crate::ids::ClusterId(Uuid::from_u128(666));
    foreign.at = At { epoch: e(9), version: 9 };
    let (at, hash) = (foreign.at, foreign.hash);
    let body = ImageBody::Full(Arc::new(foreign));
    tell(&mut machine, START, 3, Message::Committed { epoch: e(9), at, hash, body });
    assert_eq!(machine.image(), None);
    assert_eq!(machine.hard().accepted.as_ref().unwrap().at, fixture::image(3).at);
}
