//! E1, E2, M1, M2: promises and the chain of metadata images.
//!
//! An image counts as *settled* once a majority of its own voters has synced it under its own epoch, and so do all its
//! ancestors. Settled images must form one chain, and nothing else may ever be applied or acknowledged.

use super::{Broken, Checked, ensure};
use pubsub_core::control::image::{Image, ImageHash};
use pubsub_core::control::{Hard, Outcome};
use pubsub_core::ids::{At, BrokerId, ClusterId, ControllerEpoch, StorageId, TopicId, TopicName};
use pubsub_core::invariants::Invariant;
use pubsub_core::wire::internal::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One image that was ever proposed.
#[derive(Debug)]
struct Proposed {
    image: Arc<Image>,
    parent: Option<ImageHash>,
    accepted_by: BTreeSet<(BrokerId, StorageId)>,
}

/// What the cluster's metadata has been through.
#[derive(Debug, Default)]
pub struct MetadataChecks {
    proposers: BTreeMap<ControllerEpoch, (BrokerId, u64)>,
    grants: BTreeMap<(BrokerId, StorageId, ControllerEpoch), BrokerId>,
    proposed: BTreeMap<ImageHash, Proposed>,
    places: BTreeMap<At, ImageHash>,
    settled: BTreeMap<u64, Arc<Image>>,
    /// Which cluster each volume that there is belongs to.
    clusters: BTreeMap<(BrokerId, StorageId), ClusterId>,
    created: BTreeMap<TopicId, (At, TopicName)>,
    deleted: BTreeMap<TopicId, At>,
    deletes_asked: BTreeSet<TopicName>,
    refused: BTreeSet<TopicId>,
    /// Images that candidates learned from grants, by the candidate's process.
    adoptable: BTreeMap<u64, BTreeMap<At, ImageHash>>,
}

impl MetadataChecks {
    /// Returns the newest settled image.
    pub fn newest(&self) -> Option<&Arc<Image>> {
        self.settled.last_key_value().map(|(_, image)| image)
    }

    /// Returns the number of settled images.
    pub fn settled_count(&self) -> u64 {
        u64::try_from(self.settled.len()).expect("a count fits 64 bits")
    }

    /// Returns the number of epochs with a controller.
    pub fn terms(&self) -> u64 {
        u64::try_from(self.proposers.len()).expect("a count fits 64 bits")
    }

    /// Returns who proposed in an epoch.
    pub fn proposer(&self, epoch: ControllerEpoch) -> Option<BrokerId> {
        self.proposers.get(&epoch).map(|(id, _)| *id)
    }

    /// Returns whether a settled image deleted the topic.
    pub fn is_tombstoned(&self, topic: TopicId) -> bool {
        self.newest().is_some_and(|image| image.tombstones.contains_key(&topic))
    }

    /// Notes the loss of a volume: what was only there is not there any more.
    pub fn volume_lost(&mut self, broker: BrokerId, storage: StorageId) {
        self.clusters.remove(&(broker, storage));
    }

    /// Notes an image that arrived in a grant: the candidate may build on it.
    pub fn offered(&mut self, process: u64, image: &Arc<Image>) {
        self.adoptable.entry(process).or_default().insert(image.at, image.hash);
    }

    /// Checks what a broker is about to sync against what it had synced (E2), and counts the acceptance (M1).
    /// Returns whether a newer image settled.
    ///
    /// # Errors
    /// E1, E2, M1 or M2.
    pub fn persisted(
        &mut self,
        process: u64,
        old: &Hard,
        new: &Hard,
        volumes_lost: bool,
    ) -> Result<bool, Broken> {
        let who = (new.broker_id, new.storage_id);
        ensure(old.storage_id == new.storage_id && old.boot == new.boot, Invariant::E2, || {
            format!("broker {} changed its volume or boot in a write", who.0)
        })?;
        ensure(new.epoch >= old.epoch, Invariant::E2, || {
            format!("broker {} went back from epoch {} to {}", who.0, old.epoch, new.epoch)
        })?;
        if new.epoch > old.epoch {
            // Only what this epoch's grants bring counts for a new candidacy.
            self.adoptable.remove(&process);
        }
        ensure(old.cluster_id.is_none() || old.cluster_id == new.cluster_id, Invariant::M1, || {
            format!("broker {} moved to another cluster", who.0)
        })?;
        if let Some(cluster) = new.cluster_id {
            self.clusters.insert(who, cluster);
            let other = self.clusters.values().find(|other| **other != cluster);
            ensure(other.is_none(), Invariant::M1, || {
                format!("two clusters were founded: {other:?} and {cluster}")
            })?;
        }
        let before = old.accepted.as_ref().map(|image| (image.at, image.hash));
        let Some(image) = &new.accepted else {
            return ensure(before.is_none(), Invariant::E2, || format!("broker {} forgot its image", who.0))
                .map(|()| false);
        };
        if before == Some((image.at, image.hash)) {
            return Ok(false);
        }
        let at_before = before.map(|(at, _)| at).unwrap_or_default();
        ensure(image.at > at_before, Invariant::E2, || {
            format!("broker {} went back from image {at_before} to {}", who.0, image.at)
        })?;
        ensure(image.at.epoch <= new.epoch, Invariant::E2, || {
            format!("broker {} accepted {} at epoch {}", who.0, image.at, new.epoch)
        })?;
        self.note_image(process, old, new, image)?;
        if image.at.epoch != new.epoch {
            return Ok(false);
        }
        self.accepted(who, image, volumes_lost)
    }

    /// Notes an image that a broker holds; if it is a new one, its proposer must be the one broker of its epoch.
    fn note_image(&mut self, process: u64, old: &Hard, new: &Hard, image: &Arc<Image>) -> Checked {
        let there = *self.places.entry(image.at).or_insert(image.hash);
        ensure(there == image.hash, Invariant::M1, || format!("two different images at {}", image.at))?;
        if self.proposed.contains_key(&image.hash) {
            return Ok(());
        }
        ensure(image.at.epoch == new.epoch, Invariant::M1, || {
            format!("broker {} holds {} that nobody proposed", new.broker_id, image.at)
        })?;
        self.proposes(new.broker_id, process, image.at.epoch)?;
        let parent = self.parent_of(process, old, image)?;
        let proposed = Proposed { image: image.clone(), parent, accepted_by: BTreeSet::new() };
        self.proposed.insert(image.hash, proposed);
        Ok(())
    }

    /// Checks that one process alone proposes in an epoch (E1).
    ///
    /// # Errors
    /// E1.
    pub fn proposes(&mut self, broker: BrokerId, process: u64, epoch: ControllerEpoch) -> Checked {
        let first = *self.proposers.entry(epoch).or_insert((broker, process));
        ensure(first == (broker, process), Invariant::E1, || {
            format!("two controllers in epoch {epoch}: broker {} and broker {broker}", first.0)
        })
    }

    /// Finds what a new image was built on: the proposer's own image, or one that a grant brought.
    fn parent_of(&mut self, process: u64, old: &Hard, image: &Image) -> Result<Option<ImageHash>, Broken> {
        if image.at.version == 1 {
            return Ok(None);
        }
        let mut candidates = self.adoptable.get(&process).cloned().unwrap_or_default();
        candidates.extend(old.accepted.as_ref().map(|own| (own.at, own.hash)));
        let parent = candidates.iter().rev().find(|(at, _)| at.version + 1 == image.at.version);
        match parent {
            Some((_, hash)) => Ok(Some(*hash)),
            None => {
                Err((Invariant::M1, format!("nobody told the proposer of {} what to build on", image.at)))
            }
        }
    }

    fn accepted(
        &mut self,
        who: (BrokerId, StorageId),
        image: &Arc<Image>,
        volumes_lost: bool,
    ) -> Result<bool, Broken> {
        let Some(proposed) = self.proposed.get_mut(&image.hash) else { return Ok(false) };
        proposed.accepted_by.insert(who);
        let voters = &image.voters;
        let votes =
            proposed.accepted_by.iter().filter(|(id, storage)| voters.get(id) == Some(storage)).count();
        if votes * 2 <= voters.len() { Ok(false) } else { self.settle(image.hash, volumes_lost) }
    }

    /// Puts an image and its ancestors onto the chain (M1). Returns whether the chain grew.
    fn settle(&mut self, hash: ImageHash, volumes_lost: bool) -> Result<bool, Broken> {
        let top = self.newest().map_or(0, |image| image.at.version);
        let mut path = Vec::new();
        let mut next = Some(hash);
        while let Some(hash) = next {
            let Some(proposed) = self.proposed.get(&hash) else { break };
            let image = &proposed.image;
            if image.at.version <= top {
                let there = &self.settled[&image.at.version];
                ensure(there.hash == hash, Invariant::M1, || {
                    format!("the committed image {} was lost: {} is chosen beside it", there.at, image.at)
                })?;
                break;
            }
            path.push(image.clone());
            next = proposed.parent;
        }
        let grew = !path.is_empty();
        let founds = path.last().is_none_or(|first| first.at.version == top + 1);
        ensure(founds, Invariant::M1, || {
            "a chosen image does not descend from the committed one".to_owned()
        })?;
        for image in path.into_iter().rev() {
            self.check_topics(&image)?;
            Self::check_partitions(&image, volumes_lost)?;
            self.settled.insert(image.at.version, image);
        }
        Ok(grew)
    }

    /// A leader is in sync, and while no volume was lost there are `min_isr` replicas in sync (R1). Replicas that a move
    /// adds may still be catching up, also where the minimum was raised with their number.
    fn check_partitions(image: &Image, volumes_lost: bool) -> Checked {
        for (partition, min_isr, entry) in super::logs::partitions(image) {
            ensure(entry.leader.is_none_or(|leader| entry.isr.contains(&leader)), Invariant::R1, || {
                format!("{} gives {partition} to a replica that is not in sync: {entry:?}", image.at)
            })?;
            let there = entry.replicas.len() - entry.adding.len();
            let floor = there.min(usize::try_from(min_isr).expect("a small number"));
            ensure(volumes_lost || entry.isr.len() >= floor, Invariant::R1, || {
                format!("{} leaves {partition} fewer than {floor} in-sync replicas: {entry:?}", image.at)
            })?;
        }
        Ok(())
    }

    /// M2: what was acknowledged is in every later image, what was refused in none.
    fn check_topics(&self, image: &Image) -> Checked {
        for (topic, (at, name)) in &self.created {
            let gone = self.deletes_asked.contains(name) && image.tombstones.contains_key(topic);
            ensure(image.at < *at || gone || image.topics.contains_key(topic), Invariant::M2, || {
                format!("topic {topic}, acknowledged at {at}, is missing from {}", image.at)
            })?;
        }
        for (topic, at) in &self.deleted {
            ensure(image.at < *at || !image.topics.contains_key(topic), Invariant::M2, || {
                format!("topic {topic}, deleted at {at}, is back in {}", image.at)
            })?;
        }
        let revenant = self.refused.iter().find(|topic| image.topics.contains_key(topic));
        ensure(revenant.is_none(), Invariant::M2, || {
            format!("a refused topic is in {}: {revenant:?}", image.at)
        })
    }

    /// Checks that an image which a broker obeys is committed, and newer than the one before (M1).
    ///
    /// # Errors
    /// M1.
    pub fn applied(&self, broker: BrokerId, before: At, image: &Image) -> Checked {
        ensure(image.at > before, Invariant::M1, || {
            format!("broker {broker} applied {} after {before}", image.at)
        })?;
        let there = self.settled.get(&image.at.version);
        ensure(there.is_some_and(|there| there.hash == image.hash), Invariant::M1, || {
            format!("broker {broker} applied {}, which is not committed", image.at)
        })
    }

    /// Checks a control message on its way out against what its sender has synced (E1, E2).
    ///
    /// # Errors
    /// E1 or E2.
    pub fn sent(&mut self, hard: &Hard, process: u64, to: BrokerId, message: &Message) -> Checked {
        let who = hard.broker_id;
        match message {
            Message::Grant { epoch, granted: true, .. } => {
                ensure(hard.epoch >= *epoch, Invariant::E2, || {
                    format!(
                        "broker {who} granted epoch {epoch} to {to} before syncing the promise ({})",
                        hard.epoch
                    )
                })?;
                let voter = self.newest().and_then(|image| image.voters.get(&who).copied());
                ensure(voter.is_none_or(|storage| storage == hard.storage_id), Invariant::E2, || {
                    format!("broker {who} granted epoch {epoch} with a volume that is not the voter's")
                })?;
                let first = *self.grants.entry((who, hard.storage_id, *epoch)).or_insert(to);
                ensure(first == to || self.proposer(*epoch) == Some(to), Invariant::E2, || {
                    format!("broker {who} granted epoch {epoch} to both {first} and {to}")
                })
            }
            Message::Accepted { epoch, at, .. } => {
                let held = hard.accepted.as_ref().map(|image| image.at).unwrap_or_default();
                ensure(hard.epoch == *epoch && held >= *at, Invariant::E2, || {
                    format!(
                        "broker {who} at epoch {} with {held} synced says it accepted {at} of {epoch}",
                        hard.epoch
                    )
                })
            }
            Message::Accept { epoch, .. } => self.proposes(who, process, *epoch),
            Message::Coordinator { epoch, committed } => {
                self.proposes(who, process, *epoch)?;
                let settled = self.newest().is_some_and(|image| image.at >= *committed);
                ensure(settled, Invariant::M1, || {
                    format!("broker {who} announced {committed} before it was committed")
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks that a broker never follows an epoch that is older than what it has synced.
    ///
    /// # Errors
    /// E2.
    pub fn follows(&self, hard: &Hard, epoch: ControllerEpoch) -> Checked {
        ensure(epoch >= hard.epoch, Invariant::E2, || {
            format!("broker {} follows epoch {epoch} after having seen {}", hard.broker_id, hard.epoch)
        })
    }

    /// Notes an acknowledged change of the topic called `name` and checks that it is committed (M2).
    ///
    /// # Errors
    /// M2.
    pub fn acknowledged(&mut self, outcome: &Outcome, name: &TopicName, deletes: bool) -> Checked {
        let image = self.settled.get(&outcome.at.version).filter(|image| image.at == outcome.at);
        // Requests that wait for the same commit may undo each other.
        let undone = self.deletes_asked.contains(name);
        let shows = |image: &Arc<Image>| {
            let there = image.topics.contains_key(&outcome.topic);
            let gone = image.tombstones.contains_key(&outcome.topic);
            if deletes { gone && !there } else { there || (gone && undone) }
        };
        ensure(image.is_some_and(shows), Invariant::M2, || {
            format!("{outcome:?} was acknowledged, but {} is not committed or lacks it", outcome.at)
        })?;
        if deletes {
            self.deleted.entry(outcome.topic).or_insert(outcome.at);
        } else {
            self.created.entry(outcome.topic).or_insert_with(|| (outcome.at, name.clone()));
        }
        let later: Vec<_> =
            self.settled.range(outcome.at.version..).map(|(_, image)| image.clone()).collect();
        later.iter().try_for_each(|image| self.check_topics(image))
    }

    /// Notes that a client asked for the deletion of whatever topic has a name.
    pub fn delete_asked(&mut self, name: &TopicName) {
        self.deletes_asked.insert(name.clone());
    }

    /// Notes that the creation of a topic was refused for good.
    ///
    /// # Errors
    /// M2 if it is there all the same.
    pub fn refused(&mut self, topic: TopicId) -> Checked {
        self.refused.insert(topic);
        self.newest().map_or(Ok(()), |image| self.check_topics(image))
    }
}
