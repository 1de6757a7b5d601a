//! What the operator asks of the brokers.
//!
//! Looking is done by one task that answers everybody who waits at that moment at once: for a few topics by asking for
//! each, for many by asking for the list. So a thousand topics that are looked at together cost a few dozen requests, and
//! every look is still younger than the question.

use crate::crd::GroupsStatus;
use crate::plan::Observed;
use futures::StreamExt;
use pubsub_client::Client;
use pubsub_client::admin::Guard;
use pubsub_client::transport::{CallError, Request};
use pubsub_core::wire::admin::{
    AlterTopicRequest, CreateTopicRequest, Metadata, TopicCreated, TopicDescription,
};
use pubsub_core::wire::error::ErrorCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Questions that wait for the task; past it askers wait in front of it.
const ASKS_MAX: usize = 512;
/// Topics that are asked for one by one; for more the list is asked for.
const SINGLE_MAX: usize = 4;
/// How old what is known of the brokers themselves may be.
const CLUSTER_AGE_MAX: Duration = Duration::from_secs(1);
/// Groups that are asked for at the same time.
const GROUPS_AT_ONCE: usize = 8;
/// Most groups that are asked for in one round.
const GROUPS_MAX: usize = 1_000;

struct Ask {
    topic: String,
    answer: oneshot::Sender<Result<Observed, CallError>>,
}

/// The way to the brokers; cloning is cheap.
#[derive(Clone)]
pub struct Brokers {
    client: Client,
    asks: mpsc::Sender<Ask>,
}

impl Brokers {
    /// Starts the task that looks, with a client of its own that does not wait for long; it ends with `stop`.
    pub fn start(client: Client, looks: Client, stop: CancellationToken) -> Self {
        let (asks, inbox) = mpsc::channel(ASKS_MAX);
        let looker = Looker { client: looks, cluster: None };
        tokio::spawn(stop.run_until_cancelled_owned(looker.run(inbox)));
        Self { client, asks }
    }

    /// Returns what the brokers say of a topic, not before this call.
    ///
    /// # Errors
    /// When no broker answers.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn observe(&self, topic: &str) -> Result<Observed, CallError> {
        let (answer, answered) = oneshot::channel();
        let ended = || CallError::Unavailable {
            tries: 0,
            waited: Duration::ZERO,
            last: "the operator is stopping".to_owned(),
        };
        self.asks.send(Ask { topic: topic.to_owned(), answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Makes a topic; one of the very same shape may be there already.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the topic is made; asking again does no harm.
    pub async fn create(&self, request: &CreateTopicRequest) -> Result<TopicCreated, CallError> {
        self.client.admin().create_topic(request).await
    }

    /// Changes a topic that nobody or `owner_uid` owns; with `take_ownership`, whoever owns it.
    ///
    /// # Errors
    /// `TOPIC_OWNED` if it has another owner, and whatever [`CallError`] tells.
    ///
    /// # Cancel safety
    /// As [`Brokers::create`].
    pub async fn alter(
        &self,
        topic: &str,
        change: &AlterTopicRequest,
        owner_uid: &str,
        take_ownership: bool,
    ) -> Result<TopicDescription, CallError> {
        let guard = Guard { owner_uid: (!take_ownership).then(|| owner_uid.to_owned()), take_ownership };
        self.client.admin().alter_topic_as(topic, change, &guard).await
    }

    /// Deletes a topic that `owner_uid` owns; returns whether it was there.
    ///
    /// # Errors
    /// `TOPIC_OWNED`, `TOPIC_NOT_EMPTY` with `if_empty`, and whatever [`CallError`] tells.
    ///
    /// # Cancel safety
    /// As [`Brokers::create`].
    pub async fn delete(&self, topic: &str, owner_uid: &str, if_empty: bool) -> Result<bool, CallError> {
        match self.client.admin().delete_topic_as(topic, if_empty, Some(owner_uid)).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives up a topic that `owner_uid` owns: it stays, and nobody owns it.
    ///
    /// # Errors
    /// `TOPIC_OWNED` if another owner has it, and whatever [`CallError`] tells.
    ///
    /// # Cancel safety
    /// As [`Brokers::create`].
    pub async fn disown(&self, topic: &str, owner_uid: &str) -> Result<(), CallError> {
        let change = AlterTopicRequest { owner: Some(None), ..AlterTopicRequest::default() };
        self.alter(topic, &change, owner_uid, false).await.map(drop)
    }

    /// Returns the owner that each topic has, as the brokers keep it.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn owners(&self) -> Result<BTreeMap<String, Option<Value>>, CallError> {
        let list = self.client.admin().topics(false).await?;
        Ok(list.topics.into_iter().map(|topic| (topic.name, topic.config.owner)).collect())
    }

    /// Returns what the groups of each topic are about.
    ///
    /// # Errors
    /// When no broker answers. A group that ends meanwhile is left out.
    pub async fn groups(&self) -> Result<BTreeMap<String, GroupsStatus>, CallError> {
        let admin = self.client.admin();
        let ids: Vec<String> =
            admin.groups().await?.groups.into_iter().take(GROUPS_MAX).map(|group| group.group_id).collect();
        let details: Vec<_> = futures::stream::iter(ids)
            .map(|id| {
                let admin = admin.clone();
                async move { admin.group(&id).await }
            })
            .buffer_unordered(GROUPS_AT_ONCE)
            .collect()
            .await;
        let lags = details.into_iter().flatten().flat_map(|group| {
            let id = group.group_id.clone();
            group.partitions.into_iter().map(move |partition| {
                (
                    partition.topic,
                    id.clone(),
                    partition.lag.and_then(|lag| i64::try_from(lag).ok()).unwrap_or(0),
                )
            })
        });
        Ok(by_topic(lags))
    }
}

/// Sums up (topic, group, lag of a partition) by topic.
fn by_topic(lags: impl Iterator<Item = (String, String, i64)>) -> BTreeMap<String, GroupsStatus> {
    let mut worst: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for (topic, group, lag) in lags {
        let most = worst.entry(topic).or_default().entry(group).or_default();
        *most = lag.max(*most);
    }
    let sum_up = |groups: BTreeMap<String, i64>| {
        let furthest = groups.iter().max_by_key(|(_, lag)| **lag);
        GroupsStatus {
            count: u32::try_from(groups.len()).unwrap_or(u32::MAX),
            max_lag: furthest.map_or(0, |(_, lag)| *lag),
            max_lag_group: furthest.filter(|(_, lag)| **lag > 0).map(|(group, _)| group.clone()),
        }
    };
    worst.into_iter().map(|(topic, groups)| (topic, sum_up(groups))).collect()
}

fn is_not_found(error: &CallError) -> bool {
    error.problem().is_some_and(|problem| problem.code == ErrorCode::TopicNotFound)
}

/// The task that looks.
struct Looker {
    client: Client,
    /// What was seen of the cluster apart from its topics, and when.
    cluster: Option<(Instant, Arc<Observed>)>,
}

impl Looker {
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        let mut asks = Vec::new();
        while inbox.recv_many(&mut asks, ASKS_MAX).await > 0 {
            self.answer(std::mem::take(&mut asks)).await;
        }
    }

    async fn answer(&mut self, asks: Vec<Ask>) {
        let (facts, topics) = match self.look(&asks).await {
            Ok(seen) => seen,
            Err(error) => {
                for ask in asks {
                    // Whoever hung up does not want to know any more.
                    let _ = ask.answer.send(Err(error.clone()));
                }
                return;
            }
        };
        for ask in asks {
            let topic = topics.get(&ask.topic).cloned();
            let _ = ask.answer.send(Ok(Observed { topic, ..(*facts).clone() }));
        }
    }

    async fn look(
        &mut self,
        asks: &[Ask],
    ) -> Result<(Arc<Observed>, BTreeMap<String, TopicDescription>), CallError> {
        let facts = self.cluster().await?;
        let admin = self.client.admin();
        if asks.len() > SINGLE_MAX {
            let list = admin.topics(false).await?;
            return Ok((facts, list.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect()));
        }
        let mut topics = BTreeMap::new();
        for ask in asks {
            match admin.topic(&ask.topic).await {
                Ok(topic) => {
                    topics.insert(topic.name.clone(), topic);
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((facts, topics))
    }

    async fn cluster(&mut self) -> Result<Arc<Observed>, CallError> {
        if let Some((at, facts)) = &self.cluster
            && at.elapsed() < CLUSTER_AGE_MAX
        {
            return Ok(Arc::clone(facts));
        }
        let list = self.client.admin().brokers().await?;
        // One address may lead to all of them, but also to one that has just vanished.
        self.client.transport().learn(list.brokers.iter().map(|broker| &broker.api_base));
        let metadata: Metadata = self.client.transport().json(Request::get("/metadata")).await?;
        let facts = Arc::new(Observed {
            topic: None,
            controller: list.leader_id.is_some(),
            brokers: list.brokers,
            cluster_id: metadata.cluster_id.map(|id| id.to_string()),
        });
        self.cluster = Some((Instant::now(), Arc::clone(&facts)));
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_furthest_behind_is_named_and_one_that_has_read_all_is_not() {
        let lag = |topic: &str, group: &str, lag| (topic.to_owned(), group.to_owned(), lag);
        let topics = by_topic(
            [lag("a", "one", 3), lag("a", "one", 40), lag("a", "two", 7), lag("b", "one", 0)].into_iter(),
        );
        assert_eq!(
            topics["a"],
            GroupsStatus { count: 2, max_lag: 40, max_lag_group: Some("one".to_owned()) }
        );
        assert_eq!(topics["b"], GroupsStatus { count: 1, max_lag: 0, max_lag_group: None });
    }
}
