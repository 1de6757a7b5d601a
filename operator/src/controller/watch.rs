//! Watching objects in one namespace, in several, or in all.

use super::objects::Key;
use crate::config::Watched;
use crate::crd::Topic;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use kube::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use std::collections::BTreeSet;
use tracing::{error, warn};

type Object = DeserializeGuard<Topic>;
type Item = (usize, Result<Event<Object>, watcher::Error>);

/// What a watch has seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// An object as it is now.
    Object(Box<Topic>),
    /// An object is gone.
    Gone(Key),
    /// All objects of a namespace (or of all) were listed; others are gone.
    Listed {
        /// Those that are there.
        keys: BTreeSet<Key>,
        /// The namespace.
        namespace: Option<String>,
        /// Whether every watch has listed its objects once.
        complete: bool,
    },
}

/// One stream of events, and what its listing has found so far.
struct Scope {
    namespace: Option<String>,
    listing: BTreeSet<Key>,
    listed: bool,
    told: Option<String>,
}

/// All watches together.
pub(super) struct Watch {
    scopes: Vec<Scope>,
    events: SelectAll<BoxStream<'static, Item>>,
}

impl Watch {
    pub(super) fn start(client: &kube::Client, watched: &Watched) -> Self {
        let namespaces: Vec<Option<String>> = match watched {
            Watched::All => vec![None],
            Watched::Namespaces(names) => names.iter().cloned().map(Some).collect(),
        };
        let stream = |(scope, namespace): (usize, &Option<String>)| {
            let api: Api<Object> = match namespace {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            watcher::watcher(api, watcher::Config::default())
                .default_backoff()
                .map(move |event| (scope, event))
                .boxed()
        };
        let events = select_all(namespaces.iter().enumerate().map(stream));
        let scope = |namespace| Scope { namespace, listing: BTreeSet::new(), listed: false, told: None };
        Self { events, scopes: namespaces.into_iter().map(scope).collect() }
    }

    /// Waits for the next thing that is seen. It never ends: a watch that fails begins anew.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            let Some((scope, event)) = self.events.next().await else {
                // Watches have no end; if they had, there would be nothing more to see.
                return std::future::pending().await;
            };
            if let Some(seen) = self.understand(scope, event) {
                return seen;
            }
        }
    }

    fn understand(&mut self, index: usize, event: Result<Event<Object>, watcher::Error>) -> Option<Seen> {
        let scope = self.scopes.get_mut(index)?;
        match event {
            Ok(Event::Init) => {
                scope.listing.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                let topic = readable(object, Some(&mut scope.listing))?;
                Some(Seen::Object(Box::new(topic)))
            }
            Ok(Event::InitDone) => {
                scope.listed = true;
                scope.told = None;
                let keys = std::mem::take(&mut scope.listing);
                let namespace = scope.namespace.clone();
                let complete = self.scopes.iter().all(|scope| scope.listed);
                Some(Seen::Listed { keys, namespace, complete })
            }
            Ok(Event::Apply(object)) => readable(object, None).map(|topic| Seen::Object(Box::new(topic))),
            Ok(Event::Delete(object)) => Some(Seen::Gone(match object.0 {
                Ok(topic) => Key::of(&topic),
                Err(invalid) => key(&invalid.metadata),
            })),
            Err(failure) => {
                tell(scope, &failure);
                None
            }
        }
    }
}

fn key(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
    Key {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// Returns the object if this operator understands it; one of a newer version must not keep it from all others.
fn readable(object: Object, listing: Option<&mut BTreeSet<Key>>) -> Option<Topic> {
    let (key, read) = match object.0 {
        Ok(topic) => (Key::of(&topic), Some(topic)),
        Err(invalid) => {
            let key = key(&invalid.metadata);
            warn!(topic = %key, error = %invalid.error, "object can't be read and is left alone");
            (key, None)
        }
    };
    if let Some(listing) = listing {
        listing.insert(key);
    }
    read
}

fn tell(scope: &mut Scope, failure: &watcher::Error) {
    let text = failure.to_string();
    if scope.told.as_ref() == Some(&text) {
        return;
    }
    let missing =
        matches!(failure, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404);
    if missing {
        error!(
            namespace = ?scope.namespace,
            "the definition of topics.pubsub.dev is not installed: apply what `pubsub-operator crd` prints"
        );
    } else {
        warn!(namespace = ?scope.namespace, error = %text, "watching topics failed and is tried again");
    }
    scope.told = Some(text);
}
