//! An object that is being deleted, and what becomes of its topic.
//!
//! A finalizer holds the object only while the deletion policy has something to do. It is let go once the topic is gone or
//! is not this object's, and also when the topic can't be deleted any more: at once if the cluster itself is gone, after a
//! deadline if its brokers do not answer. No namespace waits for ever because of a topic.

use super::{Again, Found, Pass};
use crate::crd::DeletionPolicy;
use crate::metrics::CauseLabel;
use crate::status::Outcome;
use pubsub_client::transport::CallError;
use pubsub_core::wire::error::ErrorCode;
use std::time::Duration;
use tracing::{info, warn};

/// Returns whether a policy has something to do when its object is deleted.
pub(super) fn needs_finalizer(policy: DeletionPolicy) -> bool {
    match policy {
        DeletionPolicy::Delete | DeletionPolicy::DeleteIfEmpty => true,
        DeletionPolicy::Retain => false,
    }
}

impl Pass<'_> {
    /// Deletes the topic as the policy says; `None` once the object is let go.
    pub(super) async fn depart(&mut self) -> Result<Option<Found>, kube::Error> {
        if !self.has_finalizer() {
            return Ok(None);
        }
        if !needs_finalizer(self.topic.spec.deletion_policy) {
            return self.let_go().await;
        }
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(_) => return self.without_brokers("no broker answers").await,
        };
        // Only what is known to be this object's is deleted.
        if observed.owner().is_none_or(|owner| owner.uid != self.me.uid) {
            return self.let_go().await;
        }
        let if_empty = self.topic.spec.deletion_policy == DeletionPolicy::DeleteIfEmpty;
        match self.context.brokers.delete(&self.name, &self.me.uid, if_empty).await {
            Ok(_) => {
                info!(topic = %self.me, "topic deleted");
                self.note("Deleted", &format!("topic {} and its records were deleted", self.name)).await;
                self.let_go().await
            }
            Err(error) => self.not_deleted(&error).await,
        }
    }

    async fn not_deleted(&mut self, error: &CallError) -> Result<Option<Found>, kube::Error> {
        let Some(problem) = error.problem() else {
            return self.without_brokers("the brokers did not delete the topic in time").await;
        };
        let message = error.to_string();
        match problem.code {
            ErrorCode::TopicOwned => self.let_go().await,
            ErrorCode::TopicNotEmpty => {
                let text = format!(
                    "{message}; it is deleted once it is empty, or with deletionPolicy Delete or Retain"
                );
                let told = self.topic.status.iter().flat_map(|status| &status.conditions);
                if !told.into_iter().any(|condition| condition.reason == "NotEmpty") {
                    self.warn("NotEmpty", &text).await;
                }
                Ok(Some(Found::new(Outcome::NotEmpty(text), Again::Resync)))
            }
            _ => Ok(Some(Found::new(Outcome::Rejected(message), Again::BackOff))),
        }
    }

    async fn without_brokers(&mut self, what: &str) -> Result<Option<Found>, kube::Error> {
        if self.cluster_is_gone().await {
            self.forsake(
                "cluster_gone",
                "Orphaned",
                "the brokers' StatefulSet is gone, and the topic with it",
            )
            .await;
            return self.let_go().await;
        }
        let deadline = self.context.config.deletion_deadline;
        if self.deleting_for() >= deadline {
            let text = format!(
                "{what} for {} s since the object was deleted; it was let go, and topic {} is still there if its cluster is",
                deadline.as_secs(),
                self.name
            );
            self.forsake("deadline", "DeletionDeadline", &text).await;
            return self.let_go().await;
        }
        let text = format!("{what}; the object is let go {} s after it was deleted", deadline.as_secs());
        Ok(Some(Found::new(Outcome::Deleting(text), Again::BackOff)))
    }

    fn deleting_for(&self) -> Duration {
        let since = self.topic.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let passed = since.map(|since| jiff::Timestamp::now().duration_since(since));
        passed.and_then(|passed| Duration::try_from(passed).ok()).unwrap_or_default()
    }

    async fn forsake(&self, cause: &'static str, reason: &str, text: &str) {
        warn!(topic = %self.me, cause, "object is let go without deleting its topic");
        self.context.metrics.released.get_or_create(&CauseLabel { cause }).inc();
        self.warn(reason, text).await;
    }

    async fn let_go(&mut self) -> Result<Option<Found>, kube::Error> {
        self.set_finalizer(false).await?;
        Ok(None)
    }
}
