//! What a pass asks of the API server.

use super::Pass;
use crate::crd::{FINALIZER, Topic, TopicStatus};
use crate::owner::Owner;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use serde_json::json;
use tracing::debug;

/// Who writes, as the API server keeps it.
pub(crate) const MANAGER: &str = "pubsub-operator";
/// Longest note of an Event, bytes; the API server refuses longer ones.
const NOTE_BYTES_MAX: usize = 1_000;

impl Pass<'_> {
    fn api(&self) -> Api<Topic> {
        Api::namespaced(self.context.kube.clone(), &self.me.namespace)
    }

    /// Returns whether the object that owns a topic is still there, of that very identity.
    pub(super) async fn exists(&self, owner: &Owner) -> Result<bool, kube::Error> {
        let api: Api<Topic> = Api::namespaced(self.context.kube.clone(), &owner.namespace);
        let found = api.get_metadata_opt(&owner.name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(owner.uid.as_str())))
    }

    /// Sets the finalizer or takes it away, if that is not so already.
    pub(super) async fn set_finalizer(&mut self, wanted: bool) -> Result<(), kube::Error> {
        if self.has_finalizer() == wanted {
            return Ok(());
        }
        let mut finalizers = self.topic.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        }
        // The version makes sure that finalizers of others, set meanwhile, are not overwritten.
        let patch = json!({"metadata": {
            "resourceVersion": self.topic.metadata.resource_version,
            "uid": self.topic.metadata.uid,
            "finalizers": finalizers,
        }});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.topic = self.api().patch(&self.me.name, &params, &Patch::Merge(patch)).await?;
        self.wrote = true;
        Ok(())
    }

    pub(super) async fn write_status(&mut self, status: &TopicStatus) -> Result<(), kube::Error> {
        let patch = json!({
            "apiVersion": Topic::api_version(&()),
            "kind": Topic::kind(&()),
            // An object that was deleted and made anew has another identity, and is not meant.
            "metadata": {"name": self.me.name, "uid": self.me.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        self.topic = self.api().patch_status(&self.me.name, &params, &Patch::Apply(patch)).await?;
        self.wrote = true;
        self.context.metrics.status_writes.inc();
        Ok(())
    }

    /// Returns whether the brokers' StatefulSet is known to be gone.
    pub(super) async fn cluster_is_gone(&self) -> bool {
        let Some(name) = &self.context.config.statefulset else { return false };
        let api: Api<StatefulSet> =
            Api::namespaced(self.context.kube.clone(), &self.context.config.place.namespace);
        match api.get_metadata_opt(name).await {
            Ok(found) => found.is_none(),
            Err(error) => {
                debug!(%error, statefulset = %name, "can't tell whether the cluster is there");
                false
            }
        }
    }

    pub(super) async fn note(&self, reason: &str, note: &str) {
        self.publish(EventType::Normal, reason, note).await;
    }

    pub(super) async fn warn(&self, reason: &str, note: &str) {
        self.publish(EventType::Warning, reason, note).await;
    }

    /// Publishes an Event. One that can't be published is only logged: it tells what is so already.
    async fn publish(&self, type_: EventType, reason: &str, note: &str) {
        let mut end = note.len().min(NOTE_BYTES_MAX);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note[..end].to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.context.recorder.publish(&event, &self.topic.object_ref(&())).await {
            debug!(topic = %self.me, reason, %error, "event was not published");
        }
    }
}
