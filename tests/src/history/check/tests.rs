//! A checker that can't find faults proves nothing: each rule is broken once, by hand.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::topic::Stored;
use crate::history::{AdminChange, Change, Commit, Outcome, Read, Standing, TopicEnding};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn place() -> Place {
    Place::of("t", 0)
}

fn span(began: Ms) -> Span {
    Span { began, ended: began + 5 }
}

fn publish(publisher: usize, began: Ms, values: &[&str], outcome: Outcome<u64>) -> Publish {
    Publish {
        publisher,
        place: place(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        via: 1,
        span: span(began),
        tries: 1,
        sequence: None,
        outcome,
    }
}

fn unknown<T>() -> Outcome<T> {
    Outcome::Unknown("no answer".to_owned())
}

fn refused<T>() -> Outcome<T> {
    Outcome::Refused("not enough replicas".to_owned())
}

fn log(values: &[&str]) -> Vec<Stored> {
    let stored = |(offset, value): (u64, &&str)| Stored {
        offset,
        ts_ms: 0,
        key: Value::Null,
        value: json!(value),
        headers: json!({}),
    };
    (0..).zip(values).map(stored).collect()
}

fn end(values: &[&str]) -> Ending {
    Ending::of_log(&place(), &log(values))
}

fn read(reader: &str, from: u64, values: &[&str]) -> Read {
    let records = (from..).zip(values).map(|(offset, value)| (offset, (*value).to_owned())).collect();
    Read {
        reader: reader.to_owned(),
        group: None,
        place: place(),
        via: 2,
        from: Some(from),
        records,
        span: span(50),
    }
}

/// A right history of the log `a e c x y`: publisher 0 sent a, b (unknown) and c, publisher 1 sent d (refused), e, and the
/// pair x y.
fn history() -> History {
    History {
        publishes: vec![
            publish(0, 0, &["a"], Outcome::Acked(0)),
            publish(0, 10, &["b"], unknown()),
            publish(0, 20, &["c"], Outcome::Acked(2)),
            publish(1, 0, &["d"], refused()),
            publish(1, 10, &["e"], Outcome::Acked(1)),
            publish(1, 30, &["x", "y"], Outcome::Acked(3)),
        ],
        reads: vec![read("r", 0, &["a", "e"]), read("r", 2, &["c"])],
        ..History::default()
    }
}

const LOG: &[&str] = &["a", "e", "c", "x", "y"];

#[track_caller]
fn assert_finds(history: &History, ending: &Ending, rule: Rule) {
    let broken = check(history, ending);
    assert!(broken.iter().any(|violation| violation.rule == rule), "{rule:?} is not among {broken:?}");
}

#[track_caller]
fn assert_right(history: &History, ending: &Ending) {
    assert_eq!(check(history, ending), []);
}

#[test]
fn a_right_history_passes_whether_or_not_the_unknown_record_is_there() {
    assert_right(&history(), &end(LOG));
    assert_right(&history(), &end(&["a", "e", "c", "x", "y", "b"]));
}

#[test]
fn a_lost_a_moved_and_an_invented_record_are_found() {
    for (values, rule) in [
        (&["a", "e", "c"][..], Rule::AcknowledgedIsKept),
        (&["a", "c", "e", "x", "y"], Rule::AcknowledgedIsKept),
        (&["a", "e", "c", "x", "y", "d"], Rule::RefusedIsNotStored),
        (&["a", "e", "c", "x", "y", "a"], Rule::StoredOnce),
        (&["a", "e", "c", "x", "y", "b", "b"], Rule::StoredOnce),
        (&["a", "e", "c", "x", "y", "stranger"], Rule::NothingFromNowhere),
    ] {
        assert_finds(&history(), &end(values), rule);
    }
    assert_finds(&history(), &Ending::default(), Rule::AcknowledgedIsKept);
}

#[test]
fn a_torn_batch_of_unknown_outcome_is_found() {
    let mut torn = history();
    torn.publishes.push(publish(2, 40, &["p", "q"], unknown()));
    assert_right(&torn, &end(LOG));
    assert_right(&torn, &end(&["a", "e", "c", "x", "y", "p", "q"]));
    assert_finds(&torn, &end(&["a", "e", "c", "x", "y", "p"]), Rule::BatchIsWhole);
    assert_finds(&torn, &end(&["a", "e", "c", "x", "y", "p", "b", "q"]), Rule::BatchIsWhole);
}

#[test]
fn an_offset_given_twice_and_a_broken_order_are_found() {
    let mut twice = history();
    twice.publishes.push(publish(2, 40, &["f"], Outcome::Acked(2)));
    assert_finds(&twice, &end(LOG), Rule::OffsetGivenOnce);
    let mut order = history();
    order.publishes.push(publish(0, 40, &["f"], Outcome::Acked(1)));
    assert_finds(&order, &end(LOG), Rule::PublisherOrder);
}

#[test]
fn records_with_sequence_numbers_are_in_their_order_even_if_their_outcome_is_unknown() {
    let mut sequenced = history();
    for (sequence, value) in (1..).zip(["p", "q"]) {
        let one = publish(2, 40 + sequence, &[value], unknown());
        sequenced.publishes.push(Publish { sequence: Some(sequence), ..one });
    }
    assert_right(&sequenced, &end(&["a", "e", "c", "x", "y", "p", "q"]));
    assert_finds(&sequenced, &end(&["a", "e", "c", "x", "y", "q", "p"]), Rule::PublisherOrder);
}

#[test]
fn replicas_that_differ_are_found() {
    let ending = |other: &[&str]| {
        let mut ending = end(LOG);
        ending.topics.get_mut("t").unwrap().partitions.get_mut(&0).unwrap().logs.insert(2, log(other));
        ending
    };
    assert_right(&history(), &ending(LOG));
    assert_finds(&history(), &ending(&["a", "e", "c", "x"]), Rule::ReplicasAreEqual);
    assert_finds(&history(), &ending(&["a", "e", "c", "y", "x"]), Rule::ReplicasAreEqual);
    let mut gap = end(LOG);
    gap.topics.get_mut("t").unwrap().partitions.get_mut(&0).unwrap().logs.get_mut(&0).unwrap().remove(1);
    assert_finds(&history(), &gap, Rule::ReplicasAreEqual);
}

#[test]
fn reads_of_what_is_not_there_and_reads_that_jump_or_repeat_are_found() {
    let with = |read: Read| {
        let mut history = history();
        history.reads.push(read);
        history
    };
    assert_finds(&with(read("s", 0, &["a", "lost"])), &end(LOG), Rule::ReadIsCommitted);
    assert_finds(&with(read("s", 4, &["y", "later"])), &end(LOG), Rule::ReadIsCommitted);
    assert_finds(&with(read("r", 2, &["c"])), &end(LOG), Rule::ReadInOrder);
    assert_finds(&with(Read { from: Some(1), ..read("s", 2, &["c"]) }), &end(LOG), Rule::ReadInOrder);
    let mut jump = read("s", 0, &["a"]);
    jump.records.push((2, "c".to_owned()));
    assert_finds(&with(jump), &end(LOG), Rule::ReadInOrder);
}

fn commit(member: &str, began: Ms, offset: i64, outcome: Outcome<()>) -> Commit {
    Commit {
        group: "g".to_owned(),
        member: member.to_owned(),
        place: place(),
        offset,
        span: span(began),
        outcome,
    }
}

fn standing(began: Ms, committed: i64) -> Standing {
    Standing { group: "g".to_owned(), place: place(), committed, span: span(began) }
}

fn given(values: &[&str]) -> Read {
    Read { group: Some("g".to_owned()), from: None, ..read("g.m", 0, values) }
}

fn grouped(commits: Vec<Commit>, standings: Vec<Standing>) -> History {
    let mut history = history();
    history.reads.push(given(LOG));
    history.commits = commits;
    history.standings = standings;
    history
}

fn drained(position: i64) -> Ending {
    let mut ending = end(LOG);
    ending.positions.insert(("g".to_owned(), place()), position);
    ending
}

#[test]
fn a_right_group_passes() {
    let commits = vec![commit("m", 0, 1, Outcome::Acked(())), commit("m", 20, 4, Outcome::Acked(()))];
    let standings = vec![standing(0, -1), standing(10, 1), standing(18, 4), standing(30, 4)];
    // A position may be seen while its commit is under way, but not before it was begun.
    let mut early = standings.clone();
    early.push(standing(10, 4));
    assert_right(&grouped(commits.clone(), standings), &drained(4));
    assert_finds(&grouped(commits, early), &drained(4), Rule::PositionIsReal);
}

#[test]
fn a_position_that_falls_back_is_found_unless_a_late_commit_explains_it() {
    let commits = vec![commit("m", 0, 1, Outcome::Acked(())), commit("m", 20, 3, Outcome::Acked(()))];
    assert_finds(&grouped(commits.clone(), vec![standing(30, 1)]), &drained(4), Rule::PositionIsKept);
    let mut late = commits.clone();
    late.push(commit("m", 10, 1, unknown()));
    assert_right(&grouped(late, vec![standing(30, 1)]), &drained(4));
    let mut stale = commits;
    stale.push(commit("paused", 40, 2, Outcome::Acked(())));
    assert_finds(&grouped(stale, vec![]), &drained(4), Rule::PositionIsKept);
}

#[test]
fn an_invented_position_and_skipped_records_are_found() {
    let one = vec![commit("m", 0, 1, Outcome::Acked(()))];
    assert_finds(&grouped(one.clone(), vec![standing(10, 2)]), &drained(4), Rule::PositionIsReal);
    assert_finds(
        &grouped(vec![commit("m", 0, 2, refused())], vec![standing(10, 2)]),
        &end(LOG),
        Rule::PositionIsReal,
    );
    assert_finds(&grouped(one.clone(), vec![]), &drained(7), Rule::PositionIsReal);
    let mut skipped = grouped(one, vec![]);
    skipped.reads.last_mut().unwrap().records.truncate(3);
    assert_right(&skipped, &drained(2));
    assert_finds(&skipped, &drained(4), Rule::GroupSkipsNothing);
}

fn change(began: Ms, change: Change, outcome: Outcome<()>) -> AdminChange {
    AdminChange { topic: "a".to_owned(), change, via: 1, span: span(began), outcome }
}

fn with_topic(mark: Option<u64>, replicas: &[u32]) -> Ending {
    let replicas = replicas.iter().copied().collect::<BTreeSet<_>>();
    let topic = TopicEnding { mark, replicas, ..TopicEnding::default() };
    Ending { topics: BTreeMap::from([("a".to_owned(), topic)]), ..Ending::default() }
}

fn changed(changes: &[(Change, Outcome<()>)]) -> History {
    let changes =
        (0..).zip(changes).map(|(at, (what, outcome))| change(at * 10, what.clone(), outcome.clone()));
    History { changes: changes.collect(), ..History::default() }
}

#[test]
fn changes_that_were_acknowledged_are_there_and_refused_ones_are_not() {
    let acked = || Outcome::Acked(());
    let made = changed(&[
        (Change::Create, acked()),
        (Change::Mark(1), acked()),
        (Change::Mark(2), refused()),
        (Change::AddReplica(4), acked()),
        (Change::RemoveReplica(1), acked()),
    ]);
    assert_right(&made, &with_topic(Some(1), &[2, 3, 4]));
    for wrong in [
        Ending::default(),
        with_topic(None, &[2, 3, 4]),
        with_topic(Some(2), &[2, 3, 4]),
        with_topic(Some(1), &[2, 3]),
        with_topic(Some(1), &[1, 2, 3, 4]),
    ] {
        assert_finds(&made, &wrong, Rule::ChangeIsKept);
    }
    let deleted = changed(&[(Change::Create, acked()), (Change::Delete, acked())]);
    assert_right(&deleted, &Ending::default());
    assert_finds(&deleted, &with_topic(None, &[]), Rule::ChangeIsKept);
    assert_finds(&changed(&[(Change::Create, refused())]), &with_topic(None, &[]), Rule::ChangeIsKept);
}

#[test]
fn brokers_that_were_drained_hold_nothing_and_others_hold_it_instead() {
    let acked = || Outcome::Acked(());
    let changes = [
        (Change::Create, acked()),
        (Change::RemoveReplica(1), acked()),
        (Change::AddReplica(3), acked()),
        (Change::AddReplica(5), acked()),
    ];
    let drained = History { drained: BTreeSet::from([5]), ..changed(&changes) };
    for right in [&[1, 2, 3][..], &[2, 3, 4]] {
        assert_right(&drained, &with_topic(None, right));
    }
    for wrong in [&[2, 3, 5][..], &[1, 2, 4]] {
        assert_finds(&drained, &with_topic(None, wrong), Rule::ChangeIsKept);
    }
}

#[test]
fn a_change_of_unknown_outcome_may_come_at_any_time_or_never() {
    let late = changed(&[
        (Change::Create, Outcome::Acked(())),
        (Change::Delete, unknown()),
        (Change::Mark(1), Outcome::Acked(())),
    ]);
    for right in [with_topic(Some(1), &[]), Ending::default()] {
        assert_right(&late, &right);
    }
    assert_finds(&late, &with_topic(Some(9), &[]), Rule::ChangeIsKept);
}

#[test]
fn a_topic_that_exists_is_not_denied() {
    let not_found = || Outcome::Refused("TOPIC_NOT_FOUND".to_owned());
    let denied = changed(&[(Change::Create, Outcome::Acked(())), (Change::Mark(1), not_found())]);
    assert_finds(&denied, &with_topic(None, &[]), Rule::ChangeIsKept);
    let gone = changed(&[
        (Change::Create, Outcome::Acked(())),
        (Change::Delete, Outcome::Acked(())),
        (Change::Mark(1), not_found()),
    ]);
    assert_right(&gone, &Ending::default());
    let mut publishes = changed(&[(Change::Create, Outcome::Acked(()))]);
    let place = Place::of("a", 0);
    let refused = Outcome::Refused("503 TOPIC_NOT_FOUND".to_owned());
    publishes.publishes.push(Publish { place, ..publish(0, 50, &["v"], refused) });
    assert_finds(&publishes, &with_topic(None, &[]), Rule::ChangeIsKept);
}

#[test]
fn records_of_a_deleted_topic_may_go_but_not_come_back() {
    let mut history = History {
        publishes: vec![
            publish(0, 0, &["old"], Outcome::Acked(0)),
            publish(0, 18, &["between"], Outcome::Acked(1)),
            publish(0, 40, &["new"], Outcome::Acked(0)),
        ],
        ..History::default()
    };
    for (at, what) in [(20, Change::Delete), (30, Change::Create)] {
        history.changes.push(AdminChange { topic: "t".to_owned(), ..change(at, what, Outcome::Acked(())) });
    }
    assert_right(&history, &end(&["new"]));
    assert_right(&history, &end(&["new", "between"]));
    assert_finds(&history, &end(&["new", "old"]), Rule::DeletedIsGone);
    assert_finds(&history, &end(&[]), Rule::AcknowledgedIsKept);
}

#[test]
fn two_controllers_of_one_epoch_are_found() {
    let mut history = history();
    history.claims.extend([(1, 3), (2, 2), (3, 3)]);
    assert_right(&history, &end(LOG));
    history.claims.insert((2, 1));
    assert_finds(&history, &end(LOG), Rule::OneController);
}

#[test]
fn what_an_observer_noticed_is_reported() {
    let mut history = history();
    history.noticed.push(Violation::of(Rule::NoAlarm, "broker 1 panicked"));
    assert_finds(&history, &end(LOG), Rule::NoAlarm);
}
