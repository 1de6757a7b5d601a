//! What a stream says to the coordinator: it joins, renews and commits as consumers that poll do.

use super::super::error::ApiResult;
use super::super::poll::{COORDINATOR_WAIT, unexpected_reply};
use super::follower::Follower;
use futures::future::join_all;
use pubsub_core::group::stream::Standing;
use pubsub_core::group::{GroupReply, GroupRequest, Held, Reader};
use pubsub_core::wire::error::ErrorCode;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a join whose outcome is not known is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl Follower {
    /// Takes or renews a membership, or only looks positions up where there is none to take; returns the epoch and what may
    /// be read. Tries until `until`.
    ///
    /// # Errors
    /// 409 if the membership ended; 503 if no coordinator answered in time.
    pub(super) async fn ask(&self, held: Option<Held>, until: Instant) -> ApiResult<(u64, Vec<Standing>)> {
        let partitions = self.topic.partitions();
        if self.wanted.reader == Reader::Anonymous {
            let nothing = |partition| Standing { partition, committed: -1, by_other: false };
            return Ok((0, (0..partitions).map(nothing).collect()));
        }
        let join = GroupRequest::Join {
            reader: self.wanted.reader.clone(),
            consumer: self.wanted.consumer.clone(),
            topic: self.topic.id,
            partitions,
            standby: true,
            anew: held.is_none(),
            held,
        };
        let reply = loop {
            match self.app.group(join.clone(), until).await {
                // Who joins twice is in once.
                Err(error) if error.code() == ErrorCode::OutcomeUnknown && Instant::now() < until => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                answered => break answered?,
            }
        };
        let GroupReply::Joined { member_epoch, partitions, by_others, .. } = reply else {
            return Err(unexpected_reply());
        };
        let standing = |(partition, committed)| {
            let by_other = by_others.contains(&partition);
            Standing { partition, committed, by_other }
        };
        Ok((member_epoch, partitions.into_iter().map(standing).collect()))
    }

    /// Commits what is finished, and returns what is kept. What could not be committed now stays due.
    ///
    /// # Errors
    /// 409 if the membership ended.
    pub(super) async fn commit(&self) -> ApiResult<Vec<(u32, i64)>> {
        let until = Instant::now() + COORDINATOR_WAIT;
        let member_epoch = match self.wanted.reader {
            Reader::Group(_) => self.stream.member_epoch(),
            Reader::Consumer(_) | Reader::Anonymous => None,
        };
        let commit = async |(partition, offset)| {
            let request = GroupRequest::Commit {
                reader: self.wanted.reader.clone(),
                consumer: self.wanted.consumer.clone(),
                topic: self.topic.id,
                partition,
                offset,
                member_epoch,
            };
            (partition, offset, self.app.group(request, until).await)
        };
        let mut kept = vec![];
        for (partition, offset, outcome) in join_all(self.stream.due().into_iter().map(commit)).await {
            match outcome {
                Ok(_) => kept.push((partition, offset)),
                Err(error) if error.code() == ErrorCode::MemberFenced => return Err(error),
                Err(error) => tracing::debug!(%error, "a stream's commit was not kept"),
            }
        }
        Ok(kept)
    }
}
