//! Subscribing, committing, and looking at groups.

pub(crate) mod reset;

use super::error::{ApiError, ApiResult, group as group_error};
use super::pages::{Cursor, PATIENCE, Reading};
use super::poll::{reader, unexpected_reply};
use super::topics::Topic;
use super::{App, Call, Segments};
use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use http::HeaderMap;
use pubsub_core::group::{GroupDescription, GroupError, GroupReply, GroupRequest, Held, Reader};
use pubsub_core::ids::{GroupId, Offset, TopicPartition};
use pubsub_core::limits::PUBLISH_TIMEOUT_MS_DEFAULT;
use pubsub_core::partition::Role;
use pubsub_core::wire::admin::{
    AssignedPartition, GroupDeleted, GroupDetail, GroupList, GroupPartition, GroupSummary, MemberDetail,
};
use pubsub_core::wire::client::{
    BrokerAddress, CommitRequest, Committed, SubscribeRequest, Subscribed, SubscribedPartition,
    UnsubscribeRequest, Unsubscribed,
};
use pubsub_core::wire::error::{ErrorCode, Problem};
use std::time::Duration;
use tokio::time::Instant;

/// Partitions of one group whose high watermarks are asked for; the rest is shown without.
const LOOKED_AT_MAX: usize = 256;

fn patience() -> Instant {
    Instant::now() + Duration::from_millis(PUBLISH_TIMEOUT_MS_DEFAULT)
}

/// Registers a reader and says where it stands.
#[utoipa::path(
    post, path = "/subscribe", tag = "read", request_body = SubscribeRequest,
    responses(
        (status = 200, description = "Where to read", body = Subscribed),
        (status = 400, description = "CONSUMER_REQUIRED", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 409, description = "GROUP_BUSY, MEMBER_FENCED", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn subscribe(State(app): State<App>, call: Call) -> ApiResult<Json<Subscribed>> {
    let whole = call.body().await?;
    let request: SubscribeRequest = whole.json()?;
    let reader = reader(request.group_id, request.consumer_id.as_ref())?;
    let topic = app.topic(&request.topic, whole.forwarded()).await?;
    let join = GroupRequest::Join {
        reader,
        consumer: request.consumer_id,
        topic: topic.id,
        partitions: topic.partitions(),
        standby: request.standby,
        held: request.member_epoch.map(|member_epoch| Held { member_epoch, owned: request.owned }),
        anew: false,
    };
    let GroupReply::Joined { member_epoch, partitions, session_timeout_ms, .. } =
        app.group(join, patience()).await?
    else {
        return Err(unexpected_reply());
    };
    let image = app.image().await?;
    let leaders = image.topics.get(&topic.id).unwrap_or(&topic.entry);
    let partitions: Vec<_> = partitions
        .into_iter()
        .map(|(partition, committed)| SubscribedPartition {
            partition,
            start_offset: request.from_offset.unwrap_or_else(|| behind(committed)),
            committed,
            leader: usize::try_from(partition).ok().and_then(|no| leaders.partitions.get(no)?.leader),
        })
        .collect();
    let brokers = image
        .brokers
        .iter()
        .map(|(id, entry)| BrokerAddress { broker_id: *id, api_base: entry.api_base.clone() })
        .collect();
    let first = partitions.first();
    Ok(Json(Subscribed {
        topic: topic.name.to_string(),
        start_offset: first.map_or(request.from_offset.unwrap_or(0), |first| first.start_offset),
        committed: first.map_or(-1, |first| first.committed),
        replica_id: app.id,
        partitions,
        member_epoch,
        session_timeout_ms,
        brokers,
    }))
}

fn behind(committed: i64) -> Offset {
    u64::try_from(committed.saturating_add(1)).unwrap_or_default()
}

/// Takes a member off its group: others need not wait for its session to end.
#[utoipa::path(
    post, path = "/unsubscribe", tag = "read", request_body = UnsubscribeRequest,
    responses(
        (status = 200, description = "The member has left, or was none", body = Unsubscribed),
        (status = 404, description = "TOPIC_NOT_FOUND", body = Problem),
        (status = 422, description = "VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn unsubscribe(State(app): State<App>, call: Call) -> ApiResult<Json<Unsubscribed>> {
    let whole = call.body().await?;
    let request: UnsubscribeRequest = whole.json()?;
    let topic = app.topic(&request.topic, whole.forwarded()).await?;
    let leave = GroupRequest::Leave {
        group: request.group_id.clone(),
        consumer: request.consumer_id,
        topic: Some(topic.id),
        member_epoch: request.member_epoch,
    };
    let GroupReply::Done = app.group(leave, patience()).await? else { return Err(unexpected_reply()) };
    let topic = topic.name.to_string();
    Ok(Json(Unsubscribed { topic, group_id: request.group_id.into(), replica_id: app.id }))
}

/// Stores the offset of the last finished record.
#[utoipa::path(
    post, path = "/commit", tag = "read", request_body = CommitRequest,
    responses(
        (status = 200, description = "Durable on every in-sync replica", body = Committed),
        (status = 400, description = "INVALID_OFFSET", body = Problem),
        (status = 404, description = "TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 409, description = "MEMBER_FENCED: the consumer does not own the partition", body = Problem),
        (status = 422, description = "OFFSET_OUT_OF_RANGE, VALIDATION_FAILED", body = Problem),
    )
)]
pub(crate) async fn commit(State(app): State<App>, call: Call) -> ApiResult<Json<Committed>> {
    let whole = call.body().await?;
    let request: CommitRequest = whole.json()?;
    if request.offset < -1 {
        let detail = "invalid offset: the offset of the last finished record, or -1 for none";
        return Err(ApiError::new(ErrorCode::InvalidOffset, detail));
    }
    let topic = app.topic(&request.topic, whole.forwarded()).await?;
    let tp = topic.partition(request.partition)?;
    if let Ok(offset) = u64::try_from(request.offset) {
        check_end(&app, &topic, tp, offset, &whole.headers).await?;
    }
    let reader = match (request.group_id, &request.consumer_id) {
        (Some(group), _) => Reader::Group(group),
        (None, Some(consumer)) => Reader::Consumer(consumer.clone()),
        (None, None) => Reader::Anonymous,
    };
    let commit = GroupRequest::Commit {
        reader,
        consumer: request.consumer_id,
        topic: topic.id,
        partition: request.partition,
        offset: request.offset,
        member_epoch: request.member_epoch,
    };
    let GroupReply::Committed { offset } = app.group(commit, patience()).await? else {
        return Err(unexpected_reply());
    };
    Ok(Json(Committed {
        topic: topic.name.to_string(),
        partition: request.partition,
        committed: offset,
        replica_id: app.id,
    }))
}

/// Refuses a commit of a record that does not exist: the group would miss whatever is published there later.
async fn check_end(
    app: &App,
    topic: &Topic,
    tp: TopicPartition,
    offset: Offset,
    headers: &HeaderMap,
) -> ApiResult<()> {
    if let Some(view) = app.broker.view(tp) {
        let seen = view.borrow();
        // A new leader may know less of the high watermark than readers were told, but never less of the log.
        let known = if seen.role == Role::Leader { seen.log_end } else { seen.high_watermark };
        if seen.role != Role::Offline && offset < known {
            return Ok(());
        }
    }
    let end = end_of(app, topic, tp, offset, headers).await?;
    if offset < end {
        return Ok(());
    }
    let detail = format!(
        "the last offset of {}/{} is {}, not {offset}",
        topic.name,
        tp.partition,
        i128::from(end) - 1
    );
    let mut error = ApiError::new(ErrorCode::OffsetOutOfRange, detail).partition(tp.partition);
    error.0.log_end = Some(end);
    Err(error)
}

/// Asks the leader where a partition ends.
async fn end_of(
    app: &App,
    topic: &Topic,
    tp: TopicPartition,
    from: Offset,
    headers: &HeaderMap,
) -> ApiResult<Offset> {
    let image = app.image().await?;
    let leader = super::topics::entry_of(&image, tp).and_then(|entry| entry.leader);
    let reading = Reading {
        app,
        topic,
        prefer: leader,
        sticky: 0,
        headers,
        forwarded: false,
        records_max: 1,
        bytes_max: 1,
        patience: PATIENCE,
    };
    let cursor = Cursor { partition: tp.partition, from, committed: -1 };
    let page = reading.page(cursor, Instant::now()).await?;
    Ok(if Some(page.replica) == leader { page.log_end } else { page.high_watermark })
}

/// Lists the groups.
#[utoipa::path(get, path = "/groups", tag = "groups", responses((status = 200, description = "Every group", body = GroupList)))]
pub(crate) async fn list(State(app): State<App>) -> ApiResult<Json<GroupList>> {
    let GroupReply::Listed { mut groups } = app.group(GroupRequest::List, patience()).await? else {
        return Err(unexpected_reply());
    };
    groups.sort_unstable();
    groups.dedup();
    let groups = groups.into_iter().map(|group| GroupSummary { group_id: group.into() }).collect();
    Ok(Json(GroupList { groups }))
}

fn group_id(text: String) -> ApiResult<GroupId> {
    GroupId::try_from(text).map_err(|_| group_error(&GroupError::NotFound))
}

/// Describes a group: its members, how far it has come, and what waits although nobody reads it.
#[utoipa::path(
    get, path = "/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "The group", body = GroupDetail), (status = 404, description = "GROUP_NOT_FOUND", body = Problem))
)]
pub(crate) async fn describe(
    State(app): State<App>,
    Segments(group): Segments<String>,
    call: Call,
) -> ApiResult<Json<GroupDetail>> {
    let group = group_id(group)?;
    let request = GroupRequest::Describe { group: group.clone() };
    let GroupReply::Described(description) = app.group(request, patience()).await? else {
        return Err(unexpected_reply());
    };
    let image = app.image().await?;
    let name_of = |id| image.topics.get(id).map(|entry| entry.name.to_string());
    let members = description
        .members
        .iter()
        .map(|member| MemberDetail {
            consumer_id: member.consumer.to_string(),
            assigned: member
                .assigned
                .iter()
                .filter_map(|(id, partition)| {
                    Some(AssignedPartition { topic: name_of(id)?, partition: *partition })
                })
                .collect(),
            expires_in_ms: member.expires_in_ms,
        })
        .collect();
    let places = places(&description);
    let partitions = join_all(places.into_iter().enumerate().map(async |(index, (tp, committed))| {
        let entry = image.topics.get(&tp.topic)?;
        let topic = Topic { name: entry.name.clone(), id: tp.topic, entry: entry.clone() };
        let next_offset = behind(committed);
        let end = match index < LOOKED_AT_MAX {
            true => high_watermark(&app, &topic, tp, &call.headers).await,
            false => None,
        };
        let reads =
            description.members.iter().find(|member| member.assigned.contains(&(tp.topic, tp.partition)));
        let lag = end.map(|end| end.saturating_sub(next_offset));
        Some(GroupPartition {
            topic: topic.name.to_string(),
            partition: tp.partition,
            committed,
            next_offset,
            high_watermark: end,
            lag,
            consumer_id: reads.map(|member| member.consumer.to_string()),
            stuck: reads.is_none() && lag.is_some_and(|lag| lag > 0),
        })
    }))
    .await;
    Ok(Json(GroupDetail {
        group_id: group.into(),
        epoch: description.epoch,
        members,
        partitions: partitions.into_iter().flatten().collect(),
    }))
}

/// Returns every partition that a group reads or has read, with what it has finished.
fn places(description: &GroupDescription) -> Vec<(TopicPartition, i64)> {
    let read =
        description.members.iter().flat_map(|member| &member.assigned).map(|(topic, no)| (*topic, *no, -1));
    let mut places: Vec<_> = read
        .chain(description.committed.iter().copied())
        .map(|(topic, partition, committed)| (TopicPartition { topic, partition }, committed))
        .collect();
    // Of two entries of one partition the second has the position: −1 is the lowest there is.
    places.sort_unstable();
    places.reverse();
    places.dedup_by_key(|(tp, _)| *tp);
    places.reverse();
    places
}

async fn high_watermark(app: &App, topic: &Topic, tp: TopicPartition, headers: &HeaderMap) -> Option<Offset> {
    if let Some(view) = app.broker.view(tp) {
        let seen = view.borrow();
        if seen.role != Role::Offline {
            return Some(seen.high_watermark);
        }
    }
    end_of(app, topic, tp, Offset::MAX, headers).await.ok()
}

/// Deletes a group that nobody reads for, and its positions.
#[utoipa::path(
    delete, path = "/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses(
        (status = 200, description = "Deleted", body = GroupDeleted),
        (status = 404, description = "GROUP_NOT_FOUND", body = Problem),
        (status = 409, description = "GROUP_NOT_EMPTY", body = Problem),
    )
)]
pub(crate) async fn remove(
    State(app): State<App>,
    Segments(group): Segments<String>,
) -> ApiResult<Json<GroupDeleted>> {
    let group = group_id(group)?;
    let GroupReply::Done = app.group(GroupRequest::Delete { group: group.clone() }, patience()).await? else {
        return Err(unexpected_reply());
    };
    Ok(Json(GroupDeleted { status: "ok".to_owned(), group_id: group.into() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::group::GroupMember;
    use pubsub_core::ids::{ConsumerId, TopicId};

    #[test]
    fn a_partition_that_is_read_and_committed_is_shown_once_with_its_position() {
        let topic = TopicId(uuid::Uuid::from_u128(1));
        let consumer = ConsumerId::try_from("c").unwrap();
        let member = GroupMember { consumer, assigned: vec![(topic, 0), (topic, 1)], expires_in_ms: 1 };
        let description = GroupDescription {
            epoch: 1,
            members: vec![member],
            committed: vec![(topic, 1, 7), (topic, 2, 3)],
        };
        let shown: Vec<_> = places(&description).into_iter().map(|(tp, at)| (tp.partition, at)).collect();
        assert_eq!(shown, [(0, -1), (1, 7), (2, 3)]);
    }
}
