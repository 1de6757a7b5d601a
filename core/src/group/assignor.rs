//! Which member reads which partition: as even as can be, moving as few partitions as can be.

use crate::ids::ConsumerId;
use std::collections::BTreeMap;

/// Shares the partitions `0..partitions` among members, the most senior first. `holder` says who holds a partition now;
/// holders that are no members hold nothing.
///
/// Shares differ by one at most. A member loses only what is above its share, and shares are rounded up first for those
/// that hold more, so that no other even assignment moves fewer partitions. Without members nothing is assigned.
pub(super) fn assign<'a>(
    partitions: u32,
    members: &[&'a ConsumerId],
    holder: impl Fn(u32) -> Option<&'a ConsumerId>,
) -> BTreeMap<u32, ConsumerId> {
    let mut kept: BTreeMap<&ConsumerId, Vec<u32>> = members.iter().map(|member| (*member, vec![])).collect();
    let mut free = Vec::new();
    for partition in 0..partitions {
        match holder(partition).and_then(|member| kept.get_mut(member)) {
            Some(holds) => holds.push(partition),
            None => free.push(partition),
        }
    }
    let shares = shares(partitions, members, &kept);
    for (member, share) in &shares {
        let holds = kept.get_mut(member).expect("every member has an entry");
        free.extend(holds.drain((*share).min(holds.len())..));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    let mut assigned = BTreeMap::new();
    for (member, share) in shares {
        let holds = kept.remove(member).unwrap_or_default();
        let missing = share - holds.len();
        let all = holds.into_iter().chain(free.by_ref().take(missing));
        assigned.extend(all.map(|partition| (partition, member.clone())));
    }
    assigned
}

/// Returns how many partitions each member is due, the most senior first.
fn shares<'a>(
    partitions: u32,
    members: &[&'a ConsumerId],
    kept: &BTreeMap<&ConsumerId, Vec<u32>>,
) -> Vec<(&'a ConsumerId, usize)> {
    if members.is_empty() {
        return vec![];
    }
    let total = usize::try_from(partitions).expect("partitions are few");
    let (least, mut odd) = (total / members.len(), total % members.len());
    let mut shares: Vec<_> = members.iter().map(|member| (*member, least)).collect();
    // Those that would lose a partition to rounding come first.
    for rich in [true, false] {
        for (member, share) in &mut shares {
            if odd > 0 && (kept[*member].len() > least) == rich {
                *share += 1;
                odd -= 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn names(count: usize) -> Vec<ConsumerId> {
        (0..count).map(|no| ConsumerId::try_from(format!("c{no}")).unwrap()).collect()
    }

    /// Fewest partitions that any even assignment takes from their holders.
    fn fewest_moves(partitions: usize, held: &[usize]) -> usize {
        let (least, odd) = (partitions / held.len(), partitions % held.len());
        let above = held.iter().filter(|count| **count > least).count();
        let kept: usize = held.iter().map(|count| (*count).min(least)).sum();
        held.iter().sum::<usize>() - kept - above.min(odd)
    }

    proptest! {
        #[test]
        fn every_partition_has_one_member_and_shares_differ_by_one_at_most(
            members in 1_usize..12, holders in prop::collection::vec(prop::option::of(0_usize..15), 0..40),
        ) {
            let (all, count) = (names(15), u32::try_from(holders.len()).unwrap());
            let present: Vec<&ConsumerId> = all.iter().take(members).collect();
            let holder = |no: u32| holders[no as usize].map(|member| &all[member]);
            let assigned = assign(count, &present, holder);
            prop_assert_eq!(assigned.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let share = |member: &ConsumerId| assigned.values().filter(|owner| *owner == member).count();
            let shares: BTreeSet<usize> = present.iter().map(|member| share(member)).collect();
            prop_assert!(shares.last().unwrap() - shares.first().unwrap() <= 1, "{:?}", shares);
        }

        #[test]
        fn no_even_assignment_moves_fewer_partitions(
            members in 1_usize..12, holders in prop::collection::vec(prop::option::of(0_usize..15), 0..40),
        ) {
            let (all, count) = (names(15), u32::try_from(holders.len()).unwrap());
            let present: Vec<&ConsumerId> = all.iter().take(members).collect();
            let assigned = assign(count, &present, |no| holders[no as usize].map(|member| &all[member]));
            let held: Vec<usize> =
                (0..members).map(|member| holders.iter().filter(|holder| **holder == Some(member)).count()).collect();
            let holds = |no: u32| holders[no as usize].filter(|member| *member < members);
            let moved = (0..count).filter(|no| holds(*no).is_some_and(|member| all[member] != assigned[no])).count();
            prop_assert_eq!(moved, fewest_moves(holders.len(), &held));
        }
    }

    #[test]
    fn with_more_members_than_partitions_the_holders_stay() {
        let all = names(3);
        let members: Vec<_> = all.iter().collect();
        let assigned = assign(1, &members, |_| Some(&all[2]));
        assert_eq!(assigned, BTreeMap::from([(0, all[2].clone())]));
    }

    #[test]
    fn without_members_nothing_is_assigned() {
        assert!(assign(3, &[], |_| None).is_empty());
    }
}
