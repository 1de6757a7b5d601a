#![allow(clippy::unwrap_used)]
mod random;

use super::super::Held;
use super::*;
use crate::ids::ConsumerId;
use crate::limits::{GROUP_LOG_SPARE_BYTES, GROUP_RECORD_FRAME_BYTES};
use uuid::Uuid;

const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

const SETTLED: Input = Input::Settled { sure: true, snapshot_at: None };

fn group() -> GroupId {
    GroupId::try_from("g").unwrap()
}

fn name(name: &str) -> ConsumerId {
    ConsumerId::try_from(name).unwrap()
}

/// A coordinator whose appends are all committed at once, and its log.
#[derive(Default)]
struct World {
    groups: Groups,
    log: Vec<Record>,
    /// Where the log starts.
    start: usize,
}

impl World {
    fn ask(&mut self, now: Mono, request: GroupRequest) -> Result<GroupReply, GroupError> {
        let mut actions = self.groups.step(now, Input::Request { ticket: Ticket(1), request });
        let mut answer = None;
        while !actions.is_empty() {
            match actions.remove(0) {
                Action::Append { records, snapshot } => {
                    let snapshot_at = self.append(records, snapshot);
                    actions.extend(self.groups.step(now, Input::Settled { sure: true, snapshot_at }));
                }
                Action::Trim { to } => self.start = usize::try_from(to).unwrap(),
                Action::Confirm => actions.extend(self.groups.step(now, SETTLED)),
                Action::Reply { result, .. } => answer = Some(result),
                Action::Reload => panic!("nothing failed"),
            }
        }
        answer.unwrap()
    }

    fn append(&mut self, records: Vec<Record>, snapshot: Vec<Record>) -> Option<u64> {
        self.log.extend(records);
        let at = (!snapshot.is_empty()).then(|| u64::try_from(self.log.len()).unwrap());
        self.log.extend(snapshot);
        at
    }

    /// The coordinator that takes over.
    fn fail_over(&mut self, now: Mono) {
        self.groups = Groups::new();
        for (key, value) in &self.log[self.start..] {
            self.groups.replay(key, value.as_deref());
        }
        self.groups.begin(now);
    }

    fn join_with(
        &mut self,
        now: Mono,
        consumer: &str,
        partitions: u32,
        held: Option<Held>,
    ) -> Result<(u64, Vec<u32>), GroupError> {
        match self.ask(now, join(consumer, partitions, held, false))? {
            GroupReply::Joined { member_epoch, partitions, .. } => {
                Ok((member_epoch, partitions.into_iter().map(|(no, _)| no).collect()))
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Joins as one that fences whoever had its name; returns the epoch, the partitions, and those of them that others set.
    fn join_anew(&mut self, now: Mono, consumer: &str, partitions: u32) -> (u64, Vec<u32>, Vec<u32>) {
        match self.ask(now, join(consumer, partitions, None, true)).unwrap() {
            GroupReply::Joined { member_epoch, partitions, by_others, .. } => {
                (member_epoch, partitions.into_iter().map(|(no, _)| no).collect(), by_others)
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn join(&mut self, now: Mono, consumer: &str, partitions: u32) -> Result<Vec<u32>, GroupError> {
        self.join_with(now, consumer, partitions, None).map(|(_, given)| given)
    }

    fn commit(
        &mut self,
        now: Mono,
        consumer: Option<&str>,
        member_epoch: Option<u64>,
        offset: i64,
    ) -> Result<GroupReply, GroupError> {
        self.ask(now, commit(consumer, member_epoch, offset))
    }

    fn position(&self) -> i64 {
        self.groups.positions.get(&Reader::Group(group()), TOPIC, 0)
    }
}

fn join(consumer: &str, partitions: u32, held: Option<Held>, anew: bool) -> GroupRequest {
    let (reader, consumer) = (Reader::Group(group()), Some(name(consumer)));
    GroupRequest::Join { reader, consumer, topic: TOPIC, partitions, standby: false, held, anew }
}

fn commit(consumer: Option<&str>, member_epoch: Option<u64>, offset: i64) -> GroupRequest {
    let (reader, consumer) = (Reader::Group(group()), consumer.map(name));
    GroupRequest::Commit { reader, consumer, topic: TOPIC, partition: 0, offset, member_epoch }
}

fn request(ticket: u64, request: GroupRequest) -> Input {
    Input::Request { ticket: Ticket(ticket), request }
}

#[test]
fn one_partition_has_one_consumer_until_its_session_ends() {
    let mut world = World::default();
    assert_eq!(world.join(0, "a", 1), Ok(vec![0]));
    assert_eq!(world.join(5, "b", 1), Err(GroupError::Busy));
    assert_eq!(world.join(GROUP_SESSION_MS, "b", 1), Ok(vec![0]));
    assert_eq!(world.join(GROUP_SESSION_MS + 1, "a", 1), Err(GroupError::Busy));
}

#[test]
fn a_partition_moves_only_after_its_owner_has_taken_note() {
    let mut world = World::default();
    assert_eq!(world.join(0, "a", 4), Ok(vec![0, 1, 2, 3]));
    assert_eq!(world.join(1, "b", 4), Ok(vec![]));
    assert_eq!(world.join(2, "a", 4), Ok(vec![0, 1]));
    assert_eq!(world.join(3, "b", 4), Ok(vec![2, 3]));
}

#[test]
fn a_member_that_says_what_it_holds_keeps_it_until_it_says_otherwise() {
    let mut world = World::default();
    let (epoch, all) = world.join_with(0, "a", 4, None).unwrap();
    world.join(1, "b", 4).unwrap();
    let (epoch, kept) =
        world.join_with(2, "a", 4, Some(Held { member_epoch: epoch, owned: Some(all) })).unwrap();
    assert_eq!(kept, [0, 1]);
    assert_eq!(world.join(3, "b", 4), Ok(vec![]), "the owner has not said that it stopped");
    world.join_with(4, "a", 4, Some(Held { member_epoch: epoch, owned: None })).unwrap();
    assert_eq!(world.join(5, "b", 4), Ok(vec![]), "a heartbeat gives nothing up");
    world.join_with(6, "a", 4, Some(Held { member_epoch: epoch, owned: Some(kept) })).unwrap();
    assert_eq!(world.join(7, "b", 4), Ok(vec![2, 3]));
}

#[test]
fn zombie_consumer_commit() {
    let mut world = World::default();
    let (old, _) = world.join_with(0, "a", 1, None).unwrap();
    world.commit(1, Some("a"), Some(old), 10).unwrap();
    // The commit renewed the session.
    let late = GROUP_SESSION_MS + 1;
    let (new, given) = world.join_with(late, "b", 1, None).unwrap();
    assert_eq!(given, [0]);
    world.commit(late, Some("b"), Some(new), 20).unwrap();
    assert_eq!(world.commit(late, Some("a"), Some(old), 11), Err(GroupError::Fenced));
    let held = Held { member_epoch: old, owned: Some(vec![0]) };
    assert_eq!(world.join_with(late, "a", 1, Some(held)), Err(GroupError::Fenced));
    // Also once the name has the partition again, and once nobody has it.
    let left =
        GroupRequest::Leave { group: group(), consumer: name("b"), topic: None, member_epoch: Some(new) };
    world.ask(late, left).unwrap();
    assert_eq!(world.commit(late, Some("a"), Some(old), 12), Err(GroupError::Fenced));
    let (newest, _) = world.join_with(late, "a", 1, None).unwrap();
    assert_eq!(world.commit(late, Some("a"), Some(old), 13), Err(GroupError::Fenced));
    world.commit(late, Some("a"), Some(newest), 21).unwrap();
    assert_eq!(world.position(), 21);
}

#[test]
fn a_member_that_begins_anew_keeps_its_partitions_and_fences_who_had_its_name() {
    let mut world = World::default();
    let (old, _) = world.join_with(0, "a", 4, None).unwrap();
    assert_eq!(world.join(1, "b", 4), Ok(vec![]), "a second member waits for its share");
    let (new, kept, _) = world.join_anew(2, "a", 4);
    assert!(new > old);
    assert_eq!(kept, [0, 1]);
    let held = Held { member_epoch: old, owned: Some(vec![0, 1]) };
    assert_eq!(world.join_with(3, "a", 4, Some(held)), Err(GroupError::Fenced));
    assert_eq!(world.commit(3, Some("a"), Some(old), 5), Err(GroupError::Fenced));
    world.commit(3, Some("a"), Some(new), 5).unwrap();
    assert_eq!(world.join(4, "b", 4), Ok(vec![2, 3]), "and the other members are as they were");
    world.fail_over(5);
    let held = Held { member_epoch: old, owned: Some(vec![0]) };
    assert_eq!(world.join_with(6, "a", 4, Some(held)), Err(GroupError::Fenced));
}

#[test]
fn a_member_is_told_which_positions_somebody_else_set() {
    let mut world = World::default();
    let (epoch, _, others) = world.join_anew(0, "a", 1);
    assert_eq!(others, [] as [u32; 0], "nobody has set it");
    world.commit(1, Some("a"), Some(epoch), 5).unwrap();
    assert_eq!(world.join_anew(2, "a", 1).2, [] as [u32; 0]);
    let (epoch, _, others) = world.join_anew(2 * GROUP_SESSION_MS, "b", 1);
    assert_eq!(others, [0]);
    world.commit(2 * GROUP_SESSION_MS, Some("b"), Some(epoch), 6).unwrap();
    world.fail_over(3 * GROUP_SESSION_MS);
    assert_eq!(world.join_anew(5 * GROUP_SESSION_MS, "a", 1).2, [0], "the log knows it too");
}

fn reset(offset: i64) -> GroupRequest {
    GroupRequest::Reset { group: group(), positions: vec![(TOPIC, 0, offset), (TOPIC, 1, offset)] }
}

#[test]
fn positions_are_reset_only_while_nobody_reads_the_topic() {
    let mut world = World::default();
    assert_eq!(world.ask(0, reset(3)), Err(GroupError::NotFound), "a name that nobody used is no group");
    let (epoch, _) = world.join_with(0, "a", 2, None).unwrap();
    world.commit(1, Some("a"), Some(epoch), 9).unwrap();
    assert_eq!(world.ask(2, reset(3)), Err(GroupError::NotEmpty));
    let other = TopicId(Uuid::from_u128(8));
    let elsewhere = GroupRequest::Reset { group: group(), positions: vec![(other, 0, 1)] };
    assert_eq!(world.ask(2, elsewhere), Ok(GroupReply::Done), "its members read another topic");
    let late = 2 * GROUP_SESSION_MS;
    assert_eq!(world.ask(late, reset(3)), Ok(GroupReply::Done), "the member's session is over");
    assert_eq!(world.commit(late, Some("a"), Some(epoch), 10), Err(GroupError::Fenced));
    world.fail_over(late);
    assert_eq!(world.position(), 3);
    assert_eq!(world.join_anew(late, "a", 2).2, [0, 1], "a stream does not go on behind a reset");
}

#[test]
fn a_reset_is_answered_once_all_of_it_is_in_the_log() {
    let mut groups = Groups::new();
    groups.step(0, request(1, commit(None, None, 41)));
    groups.step(1, SETTLED);
    let begun = groups.step(2, request(2, reset(7)));
    let [Action::Append { records, .. }] = &begun[..] else { panic!("{begun:?}") };
    assert_eq!(records.len(), 2);
    let failed = groups.step(3, Input::Settled { sure: false, snapshot_at: None });
    let unknown = Action::Reply { ticket: Ticket(2), result: Err(GroupError::Unknown) };
    assert_eq!(failed, [unknown, Action::Reload]);
}

#[test]
fn group_coordinator_failover_steals() {
    let mut world = World::default();
    let (epoch, given) = world.join_with(0, "a", 2, None).unwrap();
    world.commit(1, Some("a"), Some(epoch), 5).unwrap();
    // By the old coordinator's clock, and by the new one's, the session would be long over.
    let now = 50 * GROUP_SESSION_MS;
    world.fail_over(now);
    assert_eq!(world.join(now + 1, "b", 2), Ok(vec![]), "nobody's partitions are taken by a failover");
    assert_eq!(world.commit(now + 2, Some("a"), Some(epoch), 6), Ok(GroupReply::Committed { offset: 6 }));
    let held = Held { member_epoch: epoch, owned: Some(given) };
    let (epoch, kept) = world.join_with(now + 3, "a", 2, Some(held)).unwrap();
    assert_eq!((kept.len(), world.position()), (1, 6));
    world.fail_over(now);
    let held = Held { member_epoch: epoch, owned: Some(kept) };
    world.join_with(now + 4, "a", 2, Some(held)).unwrap();
    assert_eq!(world.join(now + 5, "b", 2).unwrap().len(), 1, "what was given up is passed on");
    assert!(world.join_with(now + 5 + GROUP_SESSION_MS, "b", 2, None).unwrap().0 > epoch);
}

#[test]
fn epochs_of_a_name_that_comes_back_are_higher() {
    let mut world = World::default();
    let (first, _) = world.join_with(0, "a", 1, None).unwrap();
    world
        .ask(1, GroupRequest::Leave { group: group(), consumer: name("a"), topic: None, member_epoch: None })
        .unwrap();
    assert!(world.groups.groups.is_empty());
    world.fail_over(2);
    assert!(world.join_with(3, "a", 1, None).unwrap().0 > first);
}

#[test]
fn an_answer_waits_for_the_append_that_holds_what_it_says() {
    let mut groups = Groups::new();
    let begun = groups.step(0, request(1, commit(None, None, 41)));
    assert!(matches!(&begun[..], [Action::Append { .. }]), "{begun:?}");
    let describe = GroupRequest::Describe { group: group() };
    assert_eq!(groups.step(0, request(2, describe)), []);
    let [Action::Reply { ticket: Ticket(1), result: Ok(_) }, Action::Confirm] = &groups.step(1, SETTLED)[..]
    else {
        panic!("the commit is answered, and the question is not");
    };
    let answered = groups.step(2, SETTLED);
    assert!(matches!(&answered[..], [Action::Reply { ticket: Ticket(2), result: Ok(_) }]), "{answered:?}");
}

#[test]
fn what_is_asked_during_an_append_shares_the_next_one() {
    let mut groups = Groups::new();
    for ticket in 1..=3 {
        groups.step(0, request(ticket, commit(None, None, i64::try_from(ticket).unwrap())));
    }
    let actions = groups.step(1, SETTLED);
    let [Action::Reply { .. }, Action::Append { records, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(records.len(), 2);
}

#[test]
fn after_an_append_of_unknown_outcome_nothing_is_answered_from_memory() {
    let mut groups = Groups::new();
    groups.step(0, request(1, commit(None, None, 41)));
    groups.step(0, request(2, commit(None, None, 42)));
    let failed = |ticket, error| Action::Reply { ticket: Ticket(ticket), result: Err(error) };
    let actions = groups.step(1, Input::Settled { sure: false, snapshot_at: None });
    assert_eq!(actions, [failed(1, GroupError::Unknown), failed(2, GroupError::Unavailable), Action::Reload]);
}

#[test]
fn a_coordinator_that_can_not_prove_that_it_leads_tells_no_positions() {
    let mut groups = Groups::new();
    let join = GroupRequest::Join {
        reader: Reader::Consumer(name("me")),
        consumer: None,
        topic: TOPIC,
        partitions: 1,
        standby: false,
        held: None,
        anew: false,
    };
    assert_eq!(groups.step(0, request(1, join)), [Action::Confirm]);
    let actions = groups.step(1, Input::Settled { sure: false, snapshot_at: None });
    assert_eq!(actions, [Action::Reply { ticket: Ticket(1), result: Err(GroupError::Unavailable) }]);
}

#[test]
fn groups_that_nobody_reads_for_any_more_take_no_memory() {
    let mut world = World::default();
    world.join(0, "a", 1).unwrap();
    assert_eq!(world.groups.groups.len(), 1);
    world.ask(2 * GROUP_SESSION_MS, GroupRequest::List).unwrap();
    assert!(world.groups.groups.is_empty());
    assert_eq!(world.log.last().unwrap().1, None, "the log says so too");
}

#[test]
fn a_commit_by_one_who_does_not_own_the_partition_is_refused() {
    let mut world = World::default();
    world.join(0, "a", 1).unwrap();
    for stranger in [Some("b"), None] {
        assert_eq!(world.commit(1, stranger, None, 3), Err(GroupError::Fenced));
    }
    assert_eq!(world.commit(GROUP_SESSION_MS, None, None, 3), Ok(GroupReply::Committed { offset: 3 }));
}

#[test]
fn a_deleted_topic_takes_its_positions_and_readers_along() {
    let mut world = World::default();
    world.commit(0, None, None, 9).unwrap();
    world.join(0, "a", 1).unwrap();
    let actions = world.groups.step(1, Input::Deleted { topics: BTreeSet::from([TOPIC]) });
    let [Action::Append { records, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert!(records.iter().all(|(_, value)| value.is_none()) && records.len() == 2, "{records:?}");
    assert_eq!(world.position(), -1);
}

#[test]
fn a_deleted_group_is_gone_from_the_log_too() {
    let mut world = World::default();
    world.commit(0, None, None, 9).unwrap();
    world.join(0, "a", 1).unwrap();
    let delete = GroupRequest::Delete { group: group() };
    assert_eq!(world.ask(1, delete.clone()), Err(GroupError::NotEmpty));
    assert_eq!(world.ask(GROUP_SESSION_MS, delete.clone()), Ok(GroupReply::Done));
    world.fail_over(GROUP_SESSION_MS);
    assert_eq!(world.ask(GROUP_SESSION_MS, delete), Err(GroupError::NotFound));
}

#[test]
fn a_log_is_cut_where_a_snapshot_of_all_that_is_true_begins() {
    let mut world = World::default();
    let (epoch, _) = world.join_with(0, "a", 1, None).unwrap();
    let other = GroupId::try_from("other").unwrap();
    let leave = GroupRequest::Leave { group: group(), consumer: name("a"), topic: None, member_epoch: None };
    world.ask(0, leave).unwrap();
    let (last, _) = world.join_with(0, "a", 1, None).unwrap();
    assert!(last > epoch);
    let position = GroupRequest::Commit {
        reader: Reader::Group(other.clone()),
        consumer: None,
        topic: TOPIC,
        partition: 5,
        offset: 77,
        member_epoch: None,
    };
    world.ask(0, position).unwrap();
    let commits = i64::try_from(3 * GROUP_LOG_SPARE_BYTES / GROUP_RECORD_FRAME_BYTES).unwrap();
    for offset in 0..commits {
        world.commit(1, Some("a"), Some(last), offset).unwrap();
        let held = world.log.len() - world.start;
        assert!(held < 5_000, "after {offset} commits the log holds {held} records");
    }
    assert!(world.start > 0);
    world.fail_over(2);
    assert_eq!(world.position(), commits - 1);
    assert_eq!(world.groups.positions.get(&Reader::Group(other), TOPIC, 5), 77);
    let held = Held { member_epoch: last, owned: Some(vec![0]) };
    assert_eq!(world.join_with(3, "a", 1, Some(held)), Ok((last, vec![0])), "the member is still one");
}

#[test]
fn a_cut_log_gives_the_name_of_a_group_that_is_gone_no_epoch_twice() {
    let mut world = World::default();
    let (first, _) = world.join_with(0, "a", 1, None).unwrap();
    let leave = GroupRequest::Leave { group: group(), consumer: name("a"), topic: None, member_epoch: None };
    world.ask(0, leave).unwrap();
    let snapshot = world.groups.snapshot();
    world.start = world.log.len();
    world.log.extend(snapshot);
    world.fail_over(1);
    assert!(world.join_with(2, "a", 1, None).unwrap().0 > first);
}

#[test]
fn what_a_later_version_wrote_is_kept_as_it_is() {
    let mut groups = Groups::new();
    let later = [(&b"z/new"[..], &b"what"[..]), (b"g/odd", b"[1]"), (b"o/odd", b"7")];
    later.iter().for_each(|(key, value)| groups.replay(key, Some(value)));
    groups.replay(b"barrier", Some(b"{}"));
    groups.replay(b"z/gone", Some(b"x"));
    groups.replay(b"z/gone", None);
    let snapshot = groups.snapshot();
    for (key, value) in later {
        assert!(snapshot.contains(&(key.to_vec(), Some(value.to_vec()))), "{snapshot:?}");
    }
    assert_eq!(snapshot.len(), 1 + later.len());
}
