//! The objects that are watched, and who else wants the same topic. Pure: time is an argument.

use crate::crd::Topic;
use crate::owner::Owner;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Returns the key of an object.
    pub fn of(topic: &Topic) -> Self {
        Self {
            namespace: topic.metadata.namespace.clone().unwrap_or_default(),
            name: topic.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object, and what this process remembers of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The newest version known.
    pub topic: Arc<Topic>,
    /// When its present generation was first seen.
    pub generation_since: Instant,
    /// Whether that generation was ready once.
    pub was_ready: bool,
    /// When the brokers were last seen for it.
    pub observed_at: Option<Instant>,
    /// When its counters were last written.
    pub counters_at: Option<Instant>,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Objects {
    entries: BTreeMap<Key, Entry>,
    by_topic: BTreeMap<String, BTreeSet<Key>>,
}

fn version(topic: &Topic) -> Option<u64> {
    topic.metadata.resource_version.as_deref().and_then(|version| version.parse().ok())
}

/// Returns whether an object has changed in what a pass acts on. Passes write status and finalizers themselves; what others
/// do to these is put right at the next resync.
fn concerns_a_pass(old: &Topic, new: &Topic) -> bool {
    let (was, is) = (&old.metadata, &new.metadata);
    was.uid != is.uid || was.generation != is.generation || was.deletion_timestamp != is.deletion_timestamp
}

impl Objects {
    /// Takes a version of an object, unless a newer one is known. Returns whether it has to be looked at.
    pub fn put(&mut self, topic: Topic, now: Instant) -> bool {
        let key = Key::of(&topic);
        if let Some(entry) = self.entries.get_mut(&key) {
            let (known, given) = (version(&entry.topic), version(&topic));
            let same_object = entry.topic.metadata.uid == topic.metadata.uid;
            if same_object && known.is_some() && given.is_some() && given <= known {
                return false;
            }
            if same_object {
                let concerns = concerns_a_pass(&entry.topic, &topic);
                if entry.topic.metadata.generation != topic.metadata.generation {
                    entry.generation_since = now;
                    entry.was_ready = false;
                }
                entry.topic = Arc::new(topic);
                return concerns;
            }
            self.remove(&key);
        }
        self.by_topic.entry(topic.topic_name().to_owned()).or_default().insert(key.clone());
        let topic = Arc::new(topic);
        let entry =
            Entry { topic, generation_since: now, was_ready: false, observed_at: None, counters_at: None };
        self.entries.insert(key, entry);
        true
    }

    /// Forgets an object, and returns it with the others that want the same topic.
    pub fn remove(&mut self, key: &Key) -> Option<(Arc<Topic>, Vec<Key>)> {
        let topic = self.entries.remove(key)?.topic;
        let name = topic.topic_name().to_owned();
        let others = self.by_topic.get_mut(&name);
        let others: Vec<Key> = others
            .map(|keys| {
                keys.remove(key);
                keys.iter().cloned().collect()
            })
            .unwrap_or_default();
        if others.is_empty() {
            self.by_topic.remove(&name);
        }
        Some((topic, others))
    }

    /// Returns an object.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Returns an object, to remember something of it.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// Returns the keys of all objects.
    pub fn keys(&self) -> Vec<Key> {
        self.entries.keys().cloned().collect()
    }

    /// Returns the objects that want a topic.
    pub fn wanting(&self, topic: &str) -> Vec<Key> {
        self.by_topic.get(topic).map(|keys| keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// Returns the oldest other object that wants the same topic.
    pub fn rival(&self, key: &Key) -> Option<Owner> {
        let name = self.entries.get(key)?.topic.topic_name();
        let others = self.by_topic.get(name)?.iter().filter(|other| *other != key);
        let owners = others.filter_map(|other| Owner::of(&self.entries.get(other)?.topic));
        owners.reduce(|oldest, owner| if owner.goes_before(&oldest) { owner } else { oldest })
    }

    /// Returns whether an object of that identity is there.
    pub fn has_uid(&self, key: &Key, uid: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.topic.metadata.uid.as_deref() == Some(uid))
    }

    /// Returns all entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crd::{TopicSpec, TopicStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn topic(name: &str, topic_name: &str, uid: &str, second: i64, version: u64) -> Topic {
        let spec = TopicSpec { topic_name: Some(topic_name.to_owned()), ..TopicSpec::default() };
        let mut topic = Topic::new(name, spec);
        topic.metadata.namespace = Some("n".to_owned());
        topic.metadata.uid = Some(uid.to_owned());
        topic.metadata.generation = Some(1);
        topic.metadata.resource_version = Some(version.to_string());
        topic.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(second).unwrap()));
        topic
    }

    fn key(name: &str) -> Key {
        Key { namespace: "n".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn an_older_version_that_arrives_late_changes_nothing() {
        let now = Instant::now();
        let mut objects = Objects::default();
        assert!(objects.put(topic("a", "t", "1", 0, 5), now));
        let mut late = topic("a", "t", "1", 0, 4);
        late.metadata.generation = Some(9);
        assert!(!objects.put(late, now));
        assert_eq!(objects.get(&key("a")).unwrap().topic.metadata.generation, Some(1));
        assert!(!objects.put(topic("a", "t", "1", 0, 5), now), "the same version again");
    }

    #[test]
    fn only_what_a_pass_acts_on_asks_for_one() {
        let now = Instant::now();
        let mut objects = Objects::default();
        objects.put(topic("a", "t", "1", 0, 1), now);
        let mut labelled = topic("a", "t", "1", 0, 2);
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!objects.put(labelled, now));
        let mut meddled = topic("a", "t", "1", 0, 3);
        meddled.status = Some(TopicStatus { isr: Some("9/9".to_owned()), ..TopicStatus::default() });
        assert!(!objects.put(meddled, now));
        let mut changed = topic("a", "t", "1", 0, 4);
        changed.metadata.generation = Some(2);
        assert!(objects.put(changed, now));
    }

    #[test]
    fn the_rival_is_the_oldest_other_object_of_the_same_topic() {
        let now = Instant::now();
        let mut objects = Objects::default();
        objects.put(topic("a", "t", "1", 30, 1), now);
        assert_eq!(objects.rival(&key("a")), None);
        objects.put(topic("b", "t", "2", 10, 1), now);
        objects.put(topic("c", "t", "3", 20, 1), now);
        objects.put(topic("d", "other", "4", 0, 1), now);
        let rival = |name: &str| objects.rival(&key(name)).map(|owner| owner.name);
        assert_eq!(rival("a").as_deref(), Some("b"));
        assert_eq!(rival("b").as_deref(), Some("c"));
        assert_eq!(rival("d"), None);
        let (_, others) = objects.remove(&key("b")).unwrap();
        assert_eq!(others, [key("a"), key("c")], "they are looked at again");
        assert_eq!(objects.rival(&key("a")).map(|owner| owner.name).as_deref(), Some("c"));
    }

    #[test]
    fn an_object_that_was_made_anew_is_another_one() {
        let now = Instant::now();
        let mut objects = Objects::default();
        objects.put(topic("a", "t", "1", 0, 5), now);
        objects.get_mut(&key("a")).unwrap().observed_at = Some(now);
        assert!(objects.put(topic("a", "u", "2", 1, 3), now), "versions of two objects say nothing");
        assert_eq!(objects.get(&key("a")).unwrap().observed_at, None);
        assert_eq!((objects.wanting("t").len(), objects.wanting("u").len()), (0, 1));
        assert!(objects.has_uid(&key("a"), "2") && !objects.has_uid(&key("a"), "1"));
    }
}
