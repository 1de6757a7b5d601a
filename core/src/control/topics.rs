//! Topics that are created, altered and deleted by request, and whose they are.
//!
//! A topic may have an owner: opaque JSON of whoever manages it. Its member `uid` decides between two that want the same
//! topic. All checks are made on the image that the change is committed to, so that nothing comes in between.

use super::Refusal;
use super::image::{Image, Op, TopicConfig, TopicEntry};
use super::moves;
use super::placement::Load;
use super::policy::{Change, conflict, invalid, not_internal, ours, size};
use crate::ids::{BrokerId, LeaderEpoch, TopicId, TopicName};
use crate::limits::{
    OWNER_BYTES_MAX, OWNER_DEPTH_MAX, PARTITIONS_MAX, RECORD_BYTES_MAX, REPLICATION_FACTOR_MAX,
};
use crate::wire::admin::AlterTopicRequest;
use serde_json::Value;
use std::sync::Arc;

/// A topic that is wanted.
pub(super) struct NewTopic<'a> {
    pub(super) name: &'a TopicName,
    pub(super) id: TopicId,
    pub(super) partitions: u32,
    pub(super) config: &'a TopicConfig,
    pub(super) leader: Option<BrokerId>,
}

/// Returns the operations that create a topic. One of the same shape that is there already stays as it is, but that its
/// owner is replaced if it is to be taken over.
pub(super) fn create(
    image: &Image,
    new: NewTopic<'_>,
    take: bool,
    load: &mut Option<Load>,
) -> Result<Change, Refusal> {
    let NewTopic { name, id, partitions, config, leader } = new;
    not_internal(name)?;
    check_config(config)?;
    check_partitions(partitions)?;
    if let Some((topic, entry)) = image.topic_by_name(name) {
        return existing(topic, entry, partitions, config, take);
    }
    if image.topics.contains_key(&id) || image.tombstones.contains_key(&id) {
        return Err(invalid(format!("topic id {id} was used before")));
    }
    let load = load.get_or_insert_with(|| Load::of(image));
    load.enough(config.replication_factor)?;
    if let Some(wanted) = leader {
        if !image.brokers.contains_key(&wanted) {
            return Err(Refusal::BrokerNotFound { broker: wanted });
        }
        if !image.is_active(wanted) {
            return Err(conflict(format!("broker {wanted} is not alive and can't lead; choose another one")));
        }
    }
    let partitions =
        (0..partitions).map(|index| load.place(index, config, leader.filter(|_| index == 0))).collect();
    let entry = Arc::new(TopicEntry { name: name.clone(), config: config.clone(), partitions });
    Ok(Change { topic: id, ops: vec![Op::AddTopic { id, entry }] })
}

fn existing(
    topic: TopicId,
    entry: &TopicEntry,
    partitions: u32,
    config: &TopicConfig,
    take: bool,
) -> Result<Change, Refusal> {
    if config.owner.is_some() {
        check_claim(entry, config.owner.as_ref(), None, take)?;
    }
    let same = entry.partitions.len() == size(partitions)
        && entry.config.replication_factor == config.replication_factor;
    if !same {
        return Err(Refusal::TopicExists { name: entry.name.clone() });
    }
    let taken = take && config.owner.is_some() && config.owner != entry.config.owner;
    let owned = TopicConfig { owner: config.owner.clone(), ..entry.config.clone() };
    let ops = taken.then_some(Op::SetTopicConfig { id: topic, config: owned });
    Ok(Change { topic, ops: ops.into_iter().collect() })
}

/// Returns the operations that change a topic's settings and add partitions. What the request does not name stays as the
/// image has it.
pub(super) fn alter(
    image: &Image,
    name: &TopicName,
    change: &AlterTopicRequest,
    owner_uid: Option<&str>,
    take: bool,
) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    check_uid(entry, owner_uid)?;
    if let Some(claimed) = &change.owner {
        check_claim(entry, claimed.as_ref(), owner_uid, take)?;
    }
    let wanted = altered(&entry.config, change);
    let mut ops = Vec::new();
    if wanted != entry.config {
        check_config(&wanted)?;
        if wanted.replication_factor != entry.config.replication_factor {
            ops.extend(moves::resize(image, topic, entry, &wanted)?);
        }
        ops.push(Op::SetTopicConfig { id: topic, config: wanted.clone() });
    }
    if let Some(count) = change.partitions {
        check_partitions(count)?;
        let present = u32::try_from(entry.partitions.len()).expect("partitions are bounded");
        if count < present {
            return Err(invalid(format!(
                "partitions is {count}, but {name} has {present}: they can't be removed"
            )));
        }
        if count > present {
            let mut load = Load::of(image);
            load.enough(wanted.replication_factor)?;
            let partitions = (present..count).map(|index| load.place(index, &wanted, None)).collect();
            ops.push(Op::AddPartitions { id: topic, partitions });
        }
    }
    Ok(Change { topic, ops })
}

fn altered(old: &TopicConfig, change: &AlterTopicRequest) -> TopicConfig {
    TopicConfig {
        replication_factor: change.replication_factor.unwrap_or(old.replication_factor),
        min_isr: change.min_isr.unwrap_or(old.min_isr),
        retention_ms: change.retention_ms.unwrap_or(old.retention_ms),
        retention_bytes: change.retention_bytes.unwrap_or(old.retention_bytes),
        compact: change.compact.unwrap_or(old.compact),
        max_record_bytes: change.max_record_bytes.unwrap_or(old.max_record_bytes),
        unclean_election: change.unclean_election.unwrap_or(old.unclean_election),
        owner: change.owner.clone().unwrap_or_else(|| old.owner.clone()),
    }
}

/// Returns the operation that deletes a topic. `empty` are the leaders that said, each in its epoch, that they hold no
/// record: only while all of them lead on is that worth anything.
pub(super) fn delete(
    image: &Image,
    name: &TopicName,
    owner_uid: Option<&str>,
    empty: Option<&[(BrokerId, LeaderEpoch)]>,
) -> Result<Change, Refusal> {
    let (topic, entry) = ours(image, name)?;
    check_uid(entry, owner_uid)?;
    if let Some(said) = empty {
        let led = entry.partitions.iter().map(|partition| (partition.leader, partition.leader_epoch));
        if !led.eq(said.iter().map(|(leader, epoch)| (Some(*leader), *epoch))) {
            return Err(Refusal::LeadersMoved { name: name.clone() });
        }
    }
    Ok(Change { topic, ops: vec![Op::DeleteTopic { id: topic }] })
}

/// Returns by what an owner is told from others; one without it claims nothing.
fn uid(owner: Option<&Value>) -> Option<&str> {
    owner?.get("uid")?.as_str()
}

fn owned(entry: &TopicEntry) -> Refusal {
    let owner = entry.config.owner.clone().unwrap_or_default();
    Refusal::TopicOwned { name: entry.name.clone(), owner }
}

/// Refuses who says that the topic has another owner than it has.
fn check_uid(entry: &TopicEntry, expected: Option<&str>) -> Result<(), Refusal> {
    match (uid(entry.config.owner.as_ref()), expected) {
        (Some(stored), Some(expected)) if stored != expected => Err(owned(entry)),
        _ => Ok(()),
    }
}

/// Refuses a new owner, or none, in place of another one: unless it is to be taken over, or is given up by its own word.
fn check_claim(
    entry: &TopicEntry,
    claimed: Option<&Value>,
    owner_uid: Option<&str>,
    take: bool,
) -> Result<(), Refusal> {
    let Some(stored) = uid(entry.config.owner.as_ref()).filter(|_| !take) else { return Ok(()) };
    let given_up = claimed.is_none() && owner_uid == Some(stored);
    if given_up || uid(claimed) == Some(stored) { Ok(()) } else { Err(owned(entry)) }
}

fn check_config(config: &TopicConfig) -> Result<(), Refusal> {
    let (wanted, floor) = (config.replication_factor, config.min_isr);
    if !(1..=REPLICATION_FACTOR_MAX).contains(&wanted) {
        return Err(invalid(format!("replication_factor is {wanted}, use 1 to {REPLICATION_FACTOR_MAX}")));
    }
    if !(1..=wanted).contains(&floor) {
        return Err(invalid(format!("min_isr is {floor}, use 1 to the replication factor {wanted}")));
    }
    let most = u64::try_from(RECORD_BYTES_MAX).expect("a size fits 64 bits");
    if config.max_record_bytes.is_some_and(|bytes| !(1..=most).contains(&bytes)) {
        return Err(invalid(format!(
            "max_record_bytes is at least 1 and at most {most}, the limit of all topics"
        )));
    }
    let Some(owner) = &config.owner else { return Ok(()) };
    if owner.to_string().len() > OWNER_BYTES_MAX || depth(owner) > OWNER_DEPTH_MAX {
        return Err(invalid(format!(
            "owner has at most {OWNER_BYTES_MAX} bytes of JSON, nested at most {OWNER_DEPTH_MAX} deep"
        )));
    }
    Ok(())
}

/// Returns how deep a value is nested; its own reader has bounded that.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(values) => values.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + inner.unwrap_or(0)
}

fn check_partitions(partitions: u32) -> Result<(), Refusal> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(invalid(format!("partitions is {partitions}, use 1 to {PARTITIONS_MAX}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture::done;
    use crate::control::policy::command;
    use crate::control::{Command, fixture};
    use serde_json::json;
    use uuid::Uuid;

    fn name() -> TopicName {
        TopicName::try_from("a").unwrap()
    }

    fn create(owner: Option<Value>, partitions: u32, take_ownership: bool) -> Command {
        let config = TopicConfig { owner, ..fixture::config(1, 1) };
        let id = TopicId(Uuid::from_u128(9));
        Command::CreateTopic { name: name(), id, partitions, config, leader: None, take_ownership }
    }

    fn alter(owner: Option<Option<Value>>, owner_uid: Option<&str>, take_ownership: bool) -> Command {
        let change = AlterTopicRequest { retention_ms: Some(Some(7)), owner, ..Default::default() };
        let owner_uid = owner_uid.map(str::to_owned);
        Command::AlterTopic { name: name(), change, owner_uid, take_ownership }
    }

    fn delete(owner_uid: Option<&str>, empty: Option<Vec<(BrokerId, LeaderEpoch)>>) -> Command {
        Command::DeleteTopic { name: name(), owner_uid: owner_uid.map(str::to_owned), empty }
    }

    fn of_one() -> Image {
        let image = fixture::image(1);
        let change = command(&image, &create(Some(json!({"uid": "one", "name": "x"})), 1, false)).unwrap();
        done(&image, &change.ops)
    }

    fn refused(image: &Image, asked: &Command) -> bool {
        match command(image, asked) {
            Err(Refusal::TopicOwned { owner, .. }) => {
                assert_eq!(owner["uid"], "one", "the refusal names the owner");
                true
            }
            Err(other) => panic!("{other}"),
            Ok(_) => false,
        }
    }

    fn owner_of(image: &Image) -> Option<Value> {
        image.topics.values().next().unwrap().config.owner.clone()
    }

    #[test]
    fn a_topic_of_one_owner_is_not_created_or_altered_for_another() {
        let image = of_one();
        let (one, two) = (|| Some(json!({"uid": "one"})), || Some(json!({"uid": "two"})));
        for (owner, other) in [(one(), false), (None, false), (two(), true), (Some(json!({})), true)] {
            assert_eq!(refused(&image, &create(owner.clone(), 1, false)), other, "{owner:?}");
        }
        assert!(refused(&image, &create(two(), 5, false)), "whose it is comes before its shape");
        for (owner, uid, other) in [
            (None, None, false),
            (None, Some("one"), false),
            (None, Some("two"), true),
            (Some(one()), None, false),
            (Some(one()), Some("two"), true),
            (Some(two()), None, true),
            (Some(two()), Some("one"), true),
            (Some(None), None, true),
            (Some(None), Some("one"), false),
        ] {
            assert_eq!(refused(&image, &alter(owner.clone(), uid, false)), other, "{owner:?} {uid:?}");
        }
        for (uid, other) in [(None, false), (Some("one"), false), (Some("two"), true)] {
            assert_eq!(refused(&image, &delete(uid, None)), other, "{uid:?}");
        }
    }

    #[test]
    fn a_topic_is_taken_over_on_request_but_not_against_the_word_who_has_it() {
        let image = of_one();
        let two = || Some(json!({"uid": "two"}));
        let taken = done(&image, &command(&image, &create(two(), 1, true)).unwrap().ops);
        assert_eq!(owner_of(&taken), two());
        let taken = done(&image, &command(&image, &alter(Some(two()), Some("one"), true)).unwrap().ops);
        assert_eq!(owner_of(&taken), two());
        assert!(refused(&image, &alter(Some(two()), Some("three"), true)));
    }

    #[test]
    fn a_topic_of_nobody_is_claimed_by_altering_it_and_a_creation_leaves_it_alone() {
        let image = fixture::image(1);
        let image = done(&image, &command(&image, &create(None, 1, false)).unwrap().ops);
        let two = || Some(json!({"uid": "two"}));
        assert_eq!(command(&image, &create(two(), 1, false)).unwrap().ops, vec![]);
        let claimed = done(&image, &command(&image, &alter(Some(two()), Some("two"), false)).unwrap().ops);
        assert_eq!(owner_of(&claimed), two());
        let drifted = done(&claimed, &command(&claimed, &alter(None, None, false)).unwrap().ops);
        assert_eq!(owner_of(&drifted), two(), "who names no owner leaves it");
    }

    #[test]
    fn an_owner_is_bounded_so_that_every_reader_of_the_image_can_take_it() {
        let image = fixture::image(1);
        let deep = (0..OWNER_DEPTH_MAX).fold(json!({}), |inner, _| json!([inner]));
        let long = json!("x".repeat(OWNER_BYTES_MAX));
        for owner in [deep, long] {
            let refusal = command(&image, &create(Some(owner), 1, false));
            assert!(matches!(refusal, Err(Refusal::Invalid { .. })), "{refusal:?}");
        }
    }

    #[test]
    fn a_topic_is_deleted_as_empty_only_while_the_leaders_that_said_so_lead_on() {
        let image = of_one();
        let said = |leader, epoch| Some(vec![(BrokerId(leader), LeaderEpoch(epoch))]);
        assert!(command(&image, &delete(None, said(1, 1))).is_ok());
        for other in [said(2, 1), said(1, 2), Some(vec![])] {
            let refusal = command(&image, &delete(None, other));
            assert!(matches!(refusal, Err(Refusal::LeadersMoved { .. })), "{refusal:?}");
        }
    }
}
