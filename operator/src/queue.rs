//! Which object is looked at when. Pure: time is an argument.
//!
//! Each object is in the queue at most once and is worked on by one pass at a time: what is asked for during a pass is done
//! after it. Of two times the earlier one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The queue; `K` names an object.
#[derive(Debug)]
pub struct Queue<K> {
    due: BTreeMap<K, Instant>,
    running: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), running: BTreeSet::new(), failures: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Asks for a pass at a time, or earlier if that was asked for before.
    pub fn ask(&mut self, key: K, at: Instant) {
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// Takes the key that has been due for longest, if there is one and it is not being worked on.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        let ready = self.due.iter().filter(|(key, at)| **at <= now && !self.running.contains(*key));
        let key = ready.min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())?;
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// Says that a pass is over.
    pub fn done(&mut self, key: &K, failed: bool) {
        self.running.remove(key);
        if failed {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
        } else {
            self.failures.remove(key);
        }
    }

    /// Returns how often the last passes over an object failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// Forgets an object; a pass under way is not interrupted.
    pub fn forget(&mut self, key: &K) {
        self.due.remove(key);
        self.failures.remove(key);
    }

    /// Returns when the next pass is due of those that could begin.
    pub fn next(&self) -> Option<Instant> {
        self.due.iter().filter(|(key, _)| !self.running.contains(*key)).map(|(_, at)| *at).min()
    }

    /// Returns how many passes are due by now and have not begun.
    pub fn depth(&self, now: Instant) -> usize {
        self.due.values().filter(|at| **at <= now).count()
    }

    /// Returns how many passes are under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

/// Returns a time up to a third shorter or longer than `usual`, by a chance from 0 to 1: passes spread out over time.
pub fn jittered(usual: Duration, chance: f64) -> Duration {
    usual.mul_f64(2.0 / 3.0 + chance.clamp(0.0, 1.0) * 2.0 / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn of_two_times_the_earlier_one_counts() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.ask("a", now + 5 * SECOND);
        queue.ask("a", now + SECOND);
        queue.ask("a", now + 9 * SECOND);
        assert_eq!(queue.next(), Some(now + SECOND));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + SECOND), Some("a"));
        assert_eq!(queue.next(), None, "it was one pass, however often it was asked for");
    }

    #[test]
    fn what_is_asked_for_during_a_pass_is_done_after_it() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.ask("a", now);
        assert_eq!(queue.take(now), Some("a"));
        queue.ask("a", now);
        assert_eq!((queue.take(now), queue.next(), queue.depth(now)), (None, None, 1));
        queue.done(&"a", false);
        assert_eq!(queue.take(now), Some("a"));
    }

    #[test]
    fn whoever_waits_longest_is_next() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.ask("a", now + 2 * SECOND);
        queue.ask("b", now);
        queue.ask("c", now + SECOND);
        let order: Vec<_> = std::iter::from_fn(|| queue.take(now + 3 * SECOND)).collect();
        assert_eq!(order, ["b", "c", "a"]);
        assert_eq!(queue.running(), 3);
    }

    #[test]
    fn failures_are_counted_in_a_row() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for expected in 1..4 {
            queue.ask("a", now);
            queue.take(now);
            queue.done(&"a", true);
            assert_eq!(queue.failures(&"a"), expected);
        }
        queue.done(&"a", false);
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[test]
    fn chance_moves_a_time_by_a_third_at_most() {
        let usual = 30 * SECOND;
        assert_eq!(jittered(usual, 0.5), usual);
        assert!(jittered(usual, 0.0) >= 20 * SECOND - SECOND / 1000);
        assert!(jittered(usual, 1.0) <= 40 * SECOND + SECOND / 1000);
        assert!(jittered(usual, 0.0) < jittered(usual, 1.0));
    }
}
