//! Who votes, and what all brokers can read: changes that the controller makes once everybody has been there for a while.

use super::image::{Image, Op};
use crate::ids::BrokerId;
use std::collections::BTreeSet;

/// Returns the next step of giving a founder that lost its volume its vote back: the old volume is dropped, and once
/// that is committed the new one is added. In one step, old and new majorities would not overlap. A volume that was
/// rolled back is dropped and never added again: it forgot promises.
///
/// `ready` are brokers that have followed for a while and hold the newest image; nothing happens unless all voters
/// but the lost one are among them (or are this controller).
pub(crate) fn restore(
    image: &Image,
    me: BrokerId,
    ready: &BTreeSet<BrokerId>,
    founders: &[BrokerId],
) -> Option<Op> {
    let lost = |id: &&BrokerId| {
        let Some(entry) = image.brokers.get(id) else { return false };
        let votes = image.voters.get(id) == Some(&entry.storage_id);
        if entry.rolled_back { image.voters.contains_key(id) } else { !votes }
    };
    let lost = founders.iter().filter(|id| ready.contains(id) && image.is_active(**id)).find(lost)?;
    let whole = image.voters.keys().all(|id| id == lost || *id == me || ready.contains(id));
    if !whole {
        return None;
    }
    let mut voters = image.voters.clone();
    if voters.remove(lost).is_none() {
        voters.insert(*lost, image.brokers.get(lost)?.storage_id);
    }
    Some(Op::SetVoters { voters })
}

/// Returns the operation that raises the feature level to the newest one that every broker reads, once all of them have
/// been there for a while. Brokers that are gone and hold nothing are not waited for: they are refused if they come back.
pub(crate) fn raise_level(image: &Image, ready: &BTreeSet<BrokerId>, versions: (u16, u16)) -> Option<Op> {
    let holds = |id: &BrokerId| image.partitions().any(|(_, _, entry)| entry.replicas.contains(id));
    let counts = image
        .brokers
        .iter()
        .filter(|(id, _)| image.is_alive(**id) || image.voters.contains_key(id) || holds(id));
    let mut level = versions.1;
    for (id, entry) in counts {
        if !ready.contains(id) {
            return None;
        }
        level = level.min(entry.versions.1);
    }
    (level > image.feature_level).then_some(Op::SetFeatureLevel { level })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::fixture;
    use crate::control::fixture::{b, done};
    use crate::ids::StorageId;
    use uuid::Uuid;

    fn ids(list: &[u32]) -> BTreeSet<BrokerId> {
        list.iter().map(|id| BrokerId(*id)).collect()
    }

    #[test]
    fn a_lost_voter_is_dropped_before_its_new_volume_is_added() {
        let mut image = fixture::image(3);
        let new = StorageId(Uuid::from_u128(5));
        image.brokers.get_mut(&b(1)).unwrap().storage_id = new;
        let founders = [b(1), b(2), b(3)];
        assert_eq!(restore(&image, b(3), &ids(&[1]), &founders), None, "2 is not there");
        let image = done(&image, &[restore(&image, b(3), &ids(&[1, 2]), &founders).unwrap()]);
        assert!(!image.voters.contains_key(&b(1)));
        let image = done(&image, &[restore(&image, b(3), &ids(&[1, 2]), &founders).unwrap()]);
        assert_eq!(image.voters[&b(1)], new);
        assert_eq!(restore(&image, b(3), &ids(&[1, 2]), &founders), None);
    }

    #[test]
    fn a_rolled_back_volume_loses_its_vote_for_good() {
        let mut image = fixture::image(3);
        image.brokers.get_mut(&b(1)).unwrap().rolled_back = true;
        assert!(!image.is_voter(b(1), fixture::storage(1)));
        let founders = [b(1), b(2), b(3)];
        let image = done(&image, &[restore(&image, b(3), &ids(&[1, 2]), &founders).unwrap()]);
        assert!(!image.voters.contains_key(&b(1)));
        assert_eq!(restore(&image, b(3), &ids(&[1, 2]), &founders), None);
    }

    #[test]
    fn the_level_rises_once_every_broker_that_matters_reads_the_next() {
        let mut image = fixture::image(3);
        assert_eq!(raise_level(&image, &ids(&[1, 2, 3]), (1, 2)), None);
        for entry in image.brokers.values_mut() {
            entry.versions = (1, 2);
        }
        assert_eq!(raise_level(&image, &ids(&[1, 2, 3]), (1, 1)), None);
        assert_eq!(raise_level(&image, &ids(&[1, 2]), (1, 2)), None, "3 came back just now");
        let raised = raise_level(&image, &ids(&[1, 2, 3]), (1, 2));
        assert_eq!(raised, Some(Op::SetFeatureLevel { level: 2 }));
        assert_eq!(raise_level(&done(&image, &[raised.unwrap()]), &ids(&[1, 2, 3]), (1, 2)), None);
    }
}
