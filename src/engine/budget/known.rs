//! A set of hashes of names and answers seen before, in bounded memory.
//!
//! Two Bloom filters (Bloom: "Space/Time Trade-offs in Hash Coding with Allowable Errors", CACM 13(7), 1970) that take
//! turns (Yoon: "Aging Bloom Filter with Two Active Buffers for Dynamic Sets", IEEE TKDE 22(1), 2010): new entries go into
//! the active one; when that is full it becomes the former one, and an empty one takes its place. What is found in the
//! former one alone is entered again, so whatever is in use stays known, and the rest is forgotten. The first entries are kept
//! as they are: most clients have no more.

/// The bits of a filter.
const BITS: usize = 1 << 16;

/// The bits that an entry sets: with [`CAPACITY`] entries, one in 10⁷ of those that were never entered is found. A client
/// may try as many as it likes, and what is found costs it less.
const PROBES: usize = 12;

/// The entries of a filter when the other one takes its place.
const CAPACITY: usize = 1600;

/// The entries that are kept as they are, before there is a filter.
const FIRST: usize = 128;

/// A set of hashes that forgets what was not used for long.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The first entries; empty once there is a filter.
    first: Vec<u64>,
    /// The filter that takes entries; none before the first one.
    active: Option<Box<Filter>>,
    /// The filter that took them before.
    former: Option<Box<Filter>>,
    /// The entries of the active one.
    count: usize,
}

/// The bits of one filter.
type Filter = [u64; BITS / 64];

impl Known {
    /// Returns whether `hash` was entered; by chance also of one that was not.
    pub(super) fn holds(&mut self, hash: u64) -> bool {
        if self.active.is_none() {
            return self.first.contains(&hash);
        }
        let is_in = |filter: &Option<Box<Filter>>| filter.as_ref().is_some_and(|filter| has(filter, hash));
        if is_in(&self.active) {
            return true;
        }
        if is_in(&self.former) {
            self.insert(hash);
            return true;
        }
        false
    }

    /// Adds a hash to the set.
    pub(super) fn insert(&mut self, hash: u64) {
        if self.active.is_none() && self.first.len() < FIRST {
            return self.first.push(hash);
        }
        for first in std::mem::take(&mut self.first) {
            self.enter(first);
        }
        self.enter(hash);
    }

    /// Enters `hash` into the active filter.
    fn enter(&mut self, hash: u64) {
        if self.count >= CAPACITY {
            self.former = self.active.take();
            self.count = 0;
        }
        let filter = self.active.get_or_insert_with(|| Box::new([0; BITS / 64]));
        for (word, bit) in probes(hash) {
            filter[word] |= bit;
        }
        self.count += 1;
    }
}

/// Returns whether all bits of `hash` are set.
fn has(filter: &Filter, hash: u64) -> bool {
    probes(hash).all(|(word, bit)| filter[word] & bit != 0)
}

/// Returns the words and bits of a hash: the top bits of what a linear congruential generator (Knuth, MMIX) makes of it.
/// Each state depends on all of the hash; of double hashing, only as many bits would count as two probes have.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let next =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(next(&hash), next).take(PROBES).map(|state| {
        let bit = usize::try_from(state >> (64 - BITS.ilog2())).unwrap_or(0);
        (bit / 64, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn what_was_entered_is_known_until_as_much_again_was_entered_twice() {
        let (mut known, hasher) = (Known::default(), RandomState::new());
        let hash = |number: usize| hasher.hash_one(number);
        assert!(!known.holds(hash(0)));
        for number in 0..CAPACITY {
            known.insert(hash(number));
            // In use throughout.
            assert!(known.holds(hash(0)));
        }
        assert!((0..CAPACITY).all(|number| known.holds(hash(number))));
        for number in CAPACITY..3 * CAPACITY {
            known.insert(hash(number));
            assert!(known.holds(hash(0)), "{number}");
        }
        let left = (1..CAPACITY).filter(|number| known.holds(hash(*number))).count();
        assert_eq!(left, 0);
    }

    #[test]
    fn next_to_nothing_is_taken_for_known() {
        let (mut known, hasher) = (Known::default(), RandomState::new());
        (0..CAPACITY).for_each(|number| known.insert(hasher.hash_one(number)));
        let filter = known.active.unwrap();
        let wrong = (CAPACITY..CAPACITY + 100_000).filter(|number| has(&filter, hasher.hash_one(number))).count();
        assert!(wrong < 2, "{wrong} of 100,000");
    }
}
