//! Taking the finalizer off all objects, so that they can go without an operator.

use crate::config::{Place, Watched};
use crate::crd::{FINALIZER, Topic};
use crate::kubernetes;
use crate::lease::LeaseLock;
use anyhow::Context;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use std::time::Duration;
use tracing::info;

/// How long a running operator is held off: the uninstallation takes it away in that time.
const HELD_OFF: Duration = Duration::from_secs(120);
/// How long a running operator may take to notice that it lost the Lease: it renews it more often than that.
const NOTICED_AFTER: Duration = Duration::from_secs(4);
/// Objects that are listed at a time.
const PAGE: u32 = 500;

/// Takes the finalizer off all objects of the watched namespaces.
pub(crate) async fn release(place: Place) -> anyhow::Result<()> {
    let kube = kubernetes().await?;
    // Under a name of its own: the operator must not take this holder for itself.
    let identity = format!("{}-release", place.identity);
    let mut lease = LeaseLock::new(kube.clone(), &place.namespace, &place.lease, &identity, HELD_OFF);
    lease.seize(HELD_OFF).await.context("take the Lease from the operator")?;
    tokio::time::sleep(NOTICED_AFTER).await;
    let apis: Vec<Api<Topic>> = match &place.watched {
        Watched::All => vec![Api::all(kube.clone())],
        Watched::Namespaces(names) => names.iter().map(|name| Api::namespaced(kube.clone(), name)).collect(),
    };
    let mut released = 0_u32;
    for api in apis {
        released += release_all(&kube, &api).await?;
    }
    info!(released, "finalizers taken off; topics and their records stay");
    Ok(())
}

async fn release_all(kube: &kube::Client, api: &Api<Topic>) -> anyhow::Result<u32> {
    let mut params = ListParams::default().limit(PAGE);
    let mut released = 0;
    loop {
        let page = api.list_metadata(&params).await.context("list Topics")?;
        for object in page.items {
            let metadata = object.metadata;
            let (Some(name), Some(namespace)) = (metadata.name, metadata.namespace) else { continue };
            let mut finalizers = metadata.finalizers.unwrap_or_default();
            if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                continue;
            }
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            let patch = json!({"metadata": {"uid": metadata.uid, "finalizers": finalizers}});
            let api: Api<Topic> = Api::namespaced(kube.clone(), &namespace);
            match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => released += 1,
                // Deleted or made anew meanwhile: nothing holds the old one any more.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => return Err(error).with_context(|| format!("release Topic {namespace}/{name}")),
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(released),
        }
    }
}
