//! `POST /groups/{group}/reset`: having a group that nobody reads for begin somewhere else.

use super::super::error::{ApiError, ApiResult};
use super::super::poll::unexpected_reply;
use super::super::start::{STARTS, Start};
use super::super::topics::Topic;
use super::super::{App, Call, Segments};
use super::{behind, end_of, group_error, group_id, patience};
use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use http::HeaderMap;
use pubsub_core::group::{GroupDescription, GroupError, GroupReply, GroupRequest};
use pubsub_core::ids::{GroupId, Offset, TopicId, TopicPartition};
use pubsub_core::wire::admin::{GroupReset, ResetGroupRequest, ResetPartition, ResetTo};
use pubsub_core::wire::error::{ErrorCode, Problem};

/// Has a group begin somewhere else, in the partitions named or in all that it has read.
///
/// All or nothing, durable on every in-sync replica before the answer. Refused while a member reads one of the topics: it
/// would go on where it is. Streams of the group that come back begin there too, whatever their last event was.
#[utoipa::path(
    post, path = "/groups/{group}/reset", tag = "groups", request_body = ResetGroupRequest,
    params(("group" = String, Path, description = "The group's name")),
    responses(
        (status = 200, description = "Where the group goes on", body = GroupReset),
        (status = 404, description = "GROUP_NOT_FOUND, TOPIC_NOT_FOUND, PARTITION_NOT_FOUND", body = Problem),
        (status = 409, description = "GROUP_NOT_EMPTY: a member reads one of the topics", body = Problem),
        (status = 422, description = "OFFSET_OUT_OF_RANGE, VALIDATION_FAILED", body = Problem),
        (status = 503, description = "UNAVAILABLE", body = Problem),
    )
)]
pub(crate) async fn reset(
    State(app): State<App>,
    Segments(group): Segments<String>,
    call: Call,
) -> ApiResult<Json<GroupReset>> {
    let group = group_id(group)?;
    let whole = call.body().await?;
    let request: ResetGroupRequest = whole.json()?;
    let start = start_of(&request.to)?;
    let describe = GroupRequest::Describe { group: group.clone() };
    let GroupReply::Described(description) = app.group(describe, patience()).await? else {
        return Err(unexpected_reply());
    };
    let places = places(&app, &request, &description, whole.forwarded()).await?;
    let placed = join_all(places.iter().map(async |(topic, tp)| {
        let next = next_offset(&app, (topic, *tp), start, &whole.headers).await?;
        Ok(ResetPartition {
            topic: topic.name.to_string(),
            partition: tp.partition,
            before: committed(&description, *tp),
            committed: last_finished(next),
            next_offset: next,
        })
    }));
    let partitions = placed.await.into_iter().collect::<ApiResult<Vec<ResetPartition>>>()?;
    if request.dry_run {
        let is_read = |(topic, _): &(Topic, TopicPartition)| {
            description.members.iter().any(|member| member.assigned.iter().any(|(read, _)| *read == topic.id))
        };
        if places.iter().any(is_read) {
            return Err(group_error(&GroupError::NotEmpty));
        }
    } else {
        let positions = places.iter().zip(&partitions);
        let positions = positions.map(|((_, tp), at)| (tp.topic, tp.partition, at.committed)).collect();
        store(&app, group.clone(), positions).await?;
    }
    Ok(Json(GroupReset { group_id: group.into(), dry_run: request.dry_run, partitions }))
}

async fn store(app: &App, group: GroupId, positions: Vec<(TopicId, u32, i64)>) -> ApiResult<()> {
    match app.group(GroupRequest::Reset { group, positions }, patience()).await? {
        GroupReply::Done => Ok(()),
        GroupReply::Joined { .. }
        | GroupReply::Committed { .. }
        | GroupReply::Described(_)
        | GroupReply::Listed { .. } => Err(unexpected_reply()),
    }
}

fn start_of(to: &ResetTo) -> ApiResult<Start> {
    match to {
        ResetTo::Offset(offset) => Some(Start::Offset(*offset)),
        ResetTo::Text(text) => Start::parse(text),
    }
    .filter(|start| !matches!(start, Start::Offset(offset) if i64::try_from(*offset).is_err()))
    .ok_or_else(|| ApiError::field("value_error", &["body", "to"], STARTS))
}

/// Returns the partitions that are meant.
async fn places(
    app: &App,
    request: &ResetGroupRequest,
    description: &GroupDescription,
    forwarded: bool,
) -> ApiResult<Vec<(Topic, TopicPartition)>> {
    if let Some(name) = &request.topic {
        let topic = app.topic(name, forwarded).await?;
        let mut named = match &request.partitions {
            Some(partitions) => partitions.clone(),
            None => (0..topic.partitions()).collect(),
        };
        named.sort_unstable();
        named.dedup();
        let place = |partition| Ok((topic.clone(), topic.partition(partition)?));
        return named.into_iter().map(place).collect();
    }
    if request.partitions.is_some() {
        return Err(ApiError::field("missing", &["body", "topic"], "name the topic of these partitions"));
    }
    let image = app.image().await?;
    let read = description.committed.iter().map(|(topic, partition, _)| (*topic, *partition));
    let held = description.members.iter().flat_map(|member| member.assigned.iter().copied());
    let mut all: Vec<(TopicId, u32)> = read.chain(held).collect();
    all.sort_unstable();
    all.dedup();
    // Positions of a topic that is being deleted are of no use any more.
    let known = all.into_iter().filter_map(|(id, partition)| {
        let entry = image.topics.get(&id)?;
        let topic = Topic { name: entry.name.clone(), id, entry: entry.clone() };
        Some((topic, TopicPartition { topic: id, partition }))
    });
    Ok(known.collect())
}

fn committed(description: &GroupDescription, tp: TopicPartition) -> i64 {
    let at = description.committed.iter().find(|(topic, no, _)| (*topic, *no) == (tp.topic, tp.partition));
    at.map_or(-1, |(_, _, offset)| *offset)
}

fn last_finished(next: Offset) -> i64 {
    i64::try_from(next).map_or(i64::MAX, |next| next - 1)
}

/// Returns what the group is to read next in one partition.
async fn next_offset(
    app: &App,
    (topic, tp): (&Topic, TopicPartition),
    start: Start,
    headers: &HeaderMap,
) -> ApiResult<Offset> {
    let next = start.find(app, topic, tp.partition, headers).await?;
    debug_assert_eq!(behind(last_finished(next)), next);
    if let Start::Offset(offset) = start {
        let end = end_of(app, topic, tp, offset, headers).await?;
        if offset > end {
            let name = &topic.name;
            let detail =
                format!("{name}/{} ends at {end}, before {offset}; nothing was changed", tp.partition);
            let mut error = ApiError::new(ErrorCode::OffsetOutOfRange, detail).partition(tp.partition);
            error.0.log_end = Some(end);
            return Err(error);
        }
    }
    Ok(next)
}
