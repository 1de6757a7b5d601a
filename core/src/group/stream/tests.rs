#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn standing(partition: u32, committed: i64) -> Standing {
    Standing { partition, committed, by_other: false }
}

fn id(stream: &Stream) -> String {
    let mut id = String::new();
    stream.write_id(&mut id);
    id
}

/// A stream of partition 0 that was joined in epoch 1, where `committed` was finished.
fn joined(commits: Commits, resumed: &str, committed: Standing) -> Stream {
    let mut stream = Stream::new(commits, parse_id(resumed).unwrap_or_default());
    assert_eq!(stream.held(), None, "the first time it begins anew");
    assert_eq!(stream.joined(1, &[committed]), Change { gained: vec![0], lost: vec![] });
    stream
}

#[test]
fn an_id_is_read_back_and_anything_else_is_not() {
    assert_eq!(parse_id("0:12,3:-1"), Some(BTreeMap::from([(0, 12), (3, -1)])));
    for text in ["", "0", "0:", "a:1", "0:-2", "0:1,", "0:9223372036854775807", "5-ab-1"] {
        assert_eq!(parse_id(text), None, "{text}");
    }
}

#[test]
fn a_record_is_finished_once_a_piece_behind_its_own_was_taken() {
    let mut stream = joined(Commits::Auto, "", standing(0, 9));
    assert_eq!(stream.cursors(), [(0, 10, 9)]);
    stream.sent(0, 10);
    stream.sent(0, 11);
    assert!(stream.is_waiting_to_finish());
    stream.taken();
    assert_eq!(stream.due(), [], "its own piece was taken, no more");
    stream.sent(0, 12);
    stream.taken();
    assert_eq!(stream.due(), [(0, 11)]);
    stream.committed(0, 11);
    assert_eq!(stream.due(), []);
    stream.taken();
    assert_eq!(stream.due(), [(0, 12)], "a piece without records does as well");
    assert!(!stream.is_waiting_to_finish());
}

#[test]
fn with_manual_commits_nothing_is_finished_by_being_sent() {
    let mut stream = joined(Commits::Manual, "", standing(0, 9));
    stream.sent(0, 10);
    (0..3).for_each(|_| stream.taken());
    assert_eq!(stream.due(), []);
    assert!(!stream.is_waiting_to_finish());
}

#[test]
fn a_client_that_comes_back_goes_on_behind_its_last_event_wherever_the_commits_were() {
    for committed in [-1, 5, 30] {
        let mut stream = joined(Commits::Auto, "0:20", standing(0, committed));
        assert_eq!(stream.cursors(), [(0, 21, committed)]);
        stream.readable(0, 20);
        assert_eq!(stream.due(), [], "a record that is not there is not committed");
        stream.readable(0, 21);
        let due = if committed < 20 { vec![(0, 20)] } else { vec![] };
        assert_eq!(stream.due(), due, "what it came back with, it has; and positions never go back");
    }
    let mut stream = joined(Commits::Manual, "0:20", standing(0, 5));
    stream.readable(0, 100);
    assert_eq!((stream.cursors(), stream.due()), (vec![(0, 21, 5)], vec![]));
}

#[test]
fn where_somebody_else_set_the_position_that_counts() {
    for committed in [-1, 5, 30] {
        let stream = joined(Commits::Auto, "0:20", Standing { partition: 0, committed, by_other: true });
        assert_eq!(stream.cursors(), [(0, behind(committed), committed)]);
    }
}

#[test]
fn where_nothing_was_finished_the_start_is_found_and_kept_if_it_moves() {
    for (commits, from) in [(Commits::Auto, 40), (Commits::Manual, 40), (Commits::Auto, 0)] {
        let mut stream = joined(commits, "", standing(0, -1));
        assert_eq!((stream.unplaced(), stream.cursors()), (vec![0], vec![]));
        stream.begin(0, from, true);
        assert_eq!((stream.unplaced(), stream.due()), (vec![], vec![(0, before(from))]));
        stream.committed(0, before(from));
        assert_eq!((stream.cursors(), stream.due()), (vec![(0, from, before(from))], vec![]));
    }
    let mut stream = joined(Commits::Auto, "", standing(0, -1));
    stream.begin(0, 40, false);
    assert_eq!(stream.due(), [], "the oldest record is where everybody begins");
    let mut stream = joined(Commits::Never, "", standing(0, -1));
    stream.begin(0, 40, true);
    assert_eq!(stream.due(), [], "a reader without a position commits nothing");
}

#[test]
fn an_id_names_every_partition_also_those_that_are_still_to_come() {
    let mut stream = Stream::new(Commits::Auto, parse_id("0:4,7:70").unwrap());
    stream.joined(1, &[standing(0, 3), standing(1, 11), standing(2, -1)]);
    assert_eq!(id(&stream), "0:4,1:11,7:70");
    stream.begin(2, 0, false);
    stream.sent(0, 5);
    assert_eq!(id(&stream), "0:5,1:11,2:-1,7:70");
    stream.joined(2, &[standing(0, 3), standing(1, 11), standing(2, -1), standing(7, 60)]);
    assert_eq!(stream.cursors().last(), Some(&(7, 71, 60)));
}

#[test]
fn a_partition_that_goes_elsewhere_is_given_up_when_its_records_are_finished() {
    let mut stream = joined(Commits::Auto, "", standing(0, -1));
    stream.begin(0, 0, false);
    stream.sent(0, 0);
    stream.taken();
    assert_eq!(stream.joined(2, &[]), Change { gained: vec![], lost: vec![0] });
    assert_eq!((stream.cursors(), stream.is_giving_up()), (vec![], false));
    assert_eq!(stream.held().unwrap().owned, Some(vec![0]), "the client was not told yet");
    stream.taken();
    assert_eq!((stream.due(), stream.is_giving_up()), (vec![(0, 0)], true));
    stream.committed(0, 0);
    assert_eq!(stream.held().unwrap().owned, Some(vec![]));
    assert!(!stream.is_giving_up());
    stream.joined(3, &[standing(0, 5)]);
    assert_eq!(stream.cursors(), [(0, 6, 5)], "when it comes back, others may have gone on");
}

#[test]
fn clients_that_commit_themselves_have_time_to_do_so() {
    let mut stream = joined(Commits::Manual, "", standing(0, 0));
    stream.joined(2, &[]);
    stream.taken();
    assert!(!stream.is_giving_up(), "only the next renewal gives it up");
    assert_eq!(stream.held().unwrap().owned, Some(vec![]));
}

#[test]
fn a_partition_that_stays_after_all_goes_on_where_it_was() {
    let mut stream = joined(Commits::Auto, "", standing(0, 3));
    stream.sent(0, 4);
    stream.joined(2, &[]);
    assert_eq!(stream.joined(3, &[standing(0, 3)]), Change { gained: vec![0], lost: vec![] });
    assert_eq!(stream.cursors(), [(0, 5, 3)]);
    assert_eq!(stream.member_epoch(), Some(3));
}

#[test]
fn records_that_are_gone_are_passed_over() {
    let mut stream = joined(Commits::Auto, "", standing(0, 3));
    stream.skipped_to(0, 100);
    stream.skipped_to(0, 50);
    assert_eq!(stream.cursors(), [(0, 100, 3)]);
}

proptest! {
    /// Whatever is sent, taken and committed, and wherever the connection breaks: the client misses nothing and gets
    /// nothing twice, and nothing is committed that was not sent.
    #[test]
    fn a_client_that_always_comes_back_gets_every_record_once(
        steps in prop::collection::vec((0_u64..4, 0_u8..8), 1..60), commits in prop::sample::select(vec![Commits::Auto, Commits::Manual]),
    ) {
        let (mut committed, mut received): (i64, Vec<u64>) = (-1, vec![]);
        let mut last = String::new();
        let mut stream = Stream::new(commits, BTreeMap::new());
        stream.joined(1, &[standing(0, committed)]);
        stream.begin(0, 0, false);
        for (count, chance) in steps {
            let mut piece = vec![];
            for _ in 0..count {
                let (_, next, _) = stream.cursors()[0];
                stream.sent(0, next);
                piece.push((next, id(&stream)));
            }
            // The connection may break behind any event of a piece, taken as it may be.
            let arrived = if chance == 0 { piece.len() / 2 } else { piece.len() };
            for (offset, id) in &piece[..arrived] {
                received.push(*offset);
                last.clone_from(id);
            }
            stream.taken();
            for (partition, offset) in stream.due() {
                prop_assert!(u64::try_from(offset).unwrap() < stream.cursors()[0].1);
                prop_assert!(offset > committed, "{offset} after {committed}");
                committed = offset;
                stream.committed(partition, offset);
            }
            if chance == 0 {
                stream = Stream::new(commits, parse_id(&last).unwrap_or_default());
                stream.joined(2, &[standing(0, committed)]);
                for partition in stream.unplaced() {
                    stream.begin(partition, 0, false);
                }
            }
        }
        let expected: Vec<u64> = (0..).take(received.len()).collect();
        prop_assert_eq!(received, expected);
    }
}
