//! The most frequent keys of a long sequence, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;

/// Counts keys, and keeps only the heavy ones.
///
/// This is the algorithm of Misra and Gries, which keeps the same as Space-Saving does less each counter's error: where
/// there is no room for another key, every key loses one. A count is therefore never too high, and too low by at most
/// `total / (room + 1)`.
#[derive(Clone, Debug)]
pub struct HeavyHitters<K> {
    room: usize,
    total: u64,
    counts: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash + Ord> HeavyHitters<K> {
    /// Keeps at most `room` keys.
    pub fn new(room: usize) -> Self {
        Self { room, total: 0, counts: HashMap::new() }
    }

    /// Counts a key.
    pub fn add(&mut self, key: K) {
        self.total += 1;
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < self.room {
            self.counts.insert(key, 1);
        } else {
            // Each loss was paid for by an earlier gain, so that this costs no more than the additions did.
            self.counts.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// How many keys were counted, equal ones as often as they came.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The keys that came at least so often for certain, the most frequent first, each with how often it came at least.
    pub fn at_least(&self, count: u64) -> Vec<(K, u64)> {
        let mut heavy: Vec<(K, u64)> = self
            .counts
            .iter()
            .filter(|(_, known)| **known >= count)
            .map(|(&key, &known)| (key, known))
            .collect();
        heavy.sort_unstable_by_key(|&(key, known)| (std::cmp::Reverse(known), key));
        heavy
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hitters(room: usize, keys: &[u16]) -> HeavyHitters<u16> {
        let mut hitters = HeavyHitters::new(room);
        keys.iter().for_each(|key| hitters.add(*key));
        hitters
    }

    fn exact(keys: &[u16]) -> BTreeMap<u16, u64> {
        let mut counts = BTreeMap::new();
        keys.iter().for_each(|key| *counts.entry(*key).or_default() += 1);
        counts
    }

    #[test]
    fn keys_that_fit_are_counted_exactly() {
        assert_eq!(hitters(3, &[1, 2, 2, 3, 3, 3]).at_least(2), [(3, 3), (2, 2)]);
    }

    #[test]
    fn the_heavy_key_is_found_among_sixty_thousand_that_come_once() {
        let keys: Vec<u16> =
            (0..60_000).flat_map(|key| [key, 443].into_iter().take(1 + usize::from(key % 4 == 0))).collect();
        let found = hitters(64, &keys).at_least(7500);
        assert!(matches!(found[..], [(443, 14_000..=15_001)]), "{found:?}");
    }

    proptest! {
        #[test]
        fn a_count_is_never_too_high_and_never_too_low_by_more_than_promised(
            room in 1_usize..20,
            keys in prop::collection::vec(prop_oneof![0_u16..5, 0_u16..500], 0..400),
        ) {
            let hitters = hitters(room, &keys);
            let known: BTreeMap<u16, u64> = hitters.at_least(0).into_iter().collect();
            prop_assert!(known.len() <= room);
            prop_assert_eq!(hitters.total(), keys.len() as u64);
            let error = keys.len() as u64 / (room as u64 + 1);
            for (key, truth) in exact(&keys) {
                let known = known.get(&key).copied().unwrap_or(0);
                prop_assert!(known <= truth && known + error >= truth, "{}: {} of {}", key, known, truth);
            }
        }

        #[test]
        fn what_is_said_to_have_come_so_often_has(keys in prop::collection::vec(0_u16..50, 0..500), least in 1_u64..50) {
            let truth = exact(&keys);
            for (key, known) in hitters(8, &keys).at_least(least) {
                prop_assert!(truth[&key] >= known && known >= least);
            }
        }
    }
}
