//! Changes of topics: asking for them, and understanding the answers.

use super::{Again, Found, Pass};
use crate::plan::desired::listed;
use crate::plan::{Change, Obstacle, Why};
use crate::status::Outcome;
use pubsub_client::transport::CallError;
use pubsub_core::wire::admin::CreateTopicRequest;
use pubsub_core::wire::error::ErrorCode;
use tracing::{info, warn};

impl Pass<'_> {
    /// Makes the topic; returns what came of it if that was no success.
    pub(super) async fn create(&mut self, request: &CreateTopicRequest) -> Option<Found> {
        let created = match self.context.brokers.create(request).await {
            Ok(created) => created,
            Err(error) => return Some(self.refused(&error)),
        };
        if !created.created {
            // Somebody was faster; whose it is now shows at the next look.
            return None;
        }
        info!(topic = %self.me, id = %created.id, "topic created");
        let before = self.topic.status.as_ref();
        let old_cluster = before.and_then(|status| status.cluster_id.as_deref());
        let new_cluster = self.observed.as_ref().and_then(|observed| observed.cluster_id.as_deref());
        match before.and_then(|status| status.topic_id.as_deref()) {
            None => self.note("Created", &format!("topic {} was created", self.name)).await,
            Some(id) if old_cluster.is_some() && new_cluster.is_some() && old_cluster != new_cluster => {
                let text = format!(
                    "topic {} was created in cluster {}; the one in cluster {} (id {id}) had records that are not here",
                    self.name,
                    new_cluster.unwrap_or_default(),
                    old_cluster.unwrap_or_default()
                );
                self.warn("ClusterReplaced", &text).await;
            }
            Some(id) => {
                self.context.metrics.drifts.inc();
                warn!(topic = %self.me, id, "topic had been deleted by others");
                let text = format!(
                    "topic {} (id {id}) had been deleted by others; it was created again, without its records",
                    self.name
                );
                self.warn("DriftCorrected", &text).await;
            }
        }
        None
    }

    /// Changes the topic; returns what came of it if that was no success.
    pub(super) async fn alter(&mut self, change: &Change) -> Option<Found> {
        let sent =
            self.context.brokers.alter(&self.name, &change.request, &self.me.uid, change.take_ownership);
        if let Err(error) = sent.await {
            return Some(self.refused(&error));
        }
        let differences = listed(&change.differences);
        info!(topic = %self.me, why = ?change.why, differences, "topic changed");
        match change.why {
            Why::Updated if change.differences.is_empty() => {}
            Why::Updated => self.note("Updated", &format!("changed: {differences}")).await,
            Why::Drifted => {
                self.context.metrics.drifts.inc();
                self.warn(
                    "DriftCorrected",
                    &format!("somebody had changed the topic; put right: {differences}"),
                )
                .await;
            }
            Why::Adopted if change.differences.is_empty() => {
                self.note(
                    "Adopted",
                    &format!("topic {} was there and belongs to this object now", self.name),
                )
                .await;
            }
            Why::Adopted => self.note("Adopted", &format!("topic was there; changed: {differences}")).await,
            Why::TakenOver => {
                self.warn("TakenOver", "the topic belonged to a younger object and belongs to this one now")
                    .await;
            }
        }
        None
    }

    fn refused(&self, error: &CallError) -> Found {
        info!(topic = %self.me, %error, "brokers did not make a change");
        let Some(problem) = error.problem() else {
            let message = "the brokers did not take the change in time; it is tried again".to_owned();
            return Found::new(Outcome::Pending(message), Again::BackOff);
        };
        let message = error.to_string();
        match problem.code {
            ErrorCode::TooFewBrokers => {
                Found::new(Outcome::Waiting(Obstacle::InsufficientBrokers, message), Again::BackOff)
            }
            // The topic is not as it was a moment ago, or a change of it is under way: look again.
            ErrorCode::TopicOwned
            | ErrorCode::TopicExists
            | ErrorCode::TopicNotFound
            | ErrorCode::Conflict => Found::new(Outcome::Pending(message), Again::BackOff),
            _ => Found::new(Outcome::Rejected(message), Again::BackOff),
        }
    }
}
