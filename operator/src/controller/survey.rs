//! What is looked up now and then for all topics together: consumer groups, and topics that nobody owns.

use super::objects::{Key, Objects};
use crate::brokers::Brokers;
use crate::config::Watched;
use crate::crd::GroupsStatus;
use crate::owner::Owner;
use crate::queue::jittered;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::debug;

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    /// The groups of each topic that has any.
    pub(super) groups: BTreeMap<String, GroupsStatus>,
    /// The owner that the brokers keep of each topic.
    pub(super) owners: BTreeMap<String, Option<Value>>,
}

/// Looks again and again, for as long as somebody wants to know.
pub(super) async fn every(brokers: Brokers, interval: Duration, to: mpsc::Sender<Survey>) {
    loop {
        let found = async {
            Ok::<_, pubsub_client::transport::CallError>((brokers.groups().await?, brokers.owners().await?))
        };
        match found.await {
            Ok((groups, owners)) => {
                if to.send(Survey { groups, owners }).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(%error, "topics could not be surveyed"),
        }
        tokio::time::sleep(jittered(interval, rand::random())).await;
    }
}

/// Returns the topics that no object owns. An owner in a namespace that is not watched is believed to be there.
pub(super) fn unmanaged<'a>(
    owners: &'a BTreeMap<String, Option<Value>>,
    watched: &Watched,
    objects: &Objects,
) -> Vec<&'a str> {
    let owned = |stored: &Option<Value>| match stored.as_ref().map(Owner::read) {
        None => false,
        // Something else than an object of ours looks after it.
        Some(None) => true,
        Some(Some(owner)) => {
            let key = Key { namespace: owner.namespace, name: owner.name };
            !watched.contains(&key.namespace) || objects.has_uid(&key, &owner.uid)
        }
    };
    owners.iter().filter(|(_, stored)| !owned(stored)).map(|(topic, _)| topic.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_topic_without_an_object_is_unmanaged_unless_its_owner_is_out_of_sight() {
        let owner = |namespace: &str| json!({"kind": "Topic", "namespace": namespace, "name": "t", "uid": "u", "generation": 1, "created": "2026-01-01T00:00:00Z"});
        let owners: BTreeMap<String, Option<Value>> = [
            ("by-hand".to_owned(), None),
            ("gone".to_owned(), Some(owner("here"))),
            ("elsewhere".to_owned(), Some(owner("there"))),
            ("other-kind".to_owned(), Some(json!("a script"))),
        ]
        .into();
        let watched = Watched::Namespaces(["here".to_owned()].into());
        assert_eq!(unmanaged(&owners, &watched, &Objects::default()), ["by-hand", "gone"]);
    }
}
