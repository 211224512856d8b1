//! A cache of target inspections within one response, by policy.
//!
//! Without it, each hit of a response with hundreds of targets would look all of them up in the policy, and a client
//! that repeats such a query would cost far more than others. Lock-free: concurrent writers may overwrite an entry,
//! never mix two.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The number of targets up to which each hit inspects them again, which is cheaper than a cache.
const MAX_UNCACHED: usize = 2;

/// The number of policies whose results are kept; a further one replaces the oldest.
const CACHED_POLICIES: usize = 8;

/// The bits of an entry that hold the target's number; `chain::MAX_SERVICE_TARGETS` and `chain::MAX_HOPS` together are
/// less than 2¹⁰.
const TARGET_BITS: u32 = 10;

/// The cached inspection results for one response.
///
/// An entry has the policy's serial number in its upper bits. Its low bits are 1 if all targets are allowed, else the
/// number of the first denied target plus 2; an entry of 0 is unused. Serial numbers are never reused, so an entry is
/// never stale.
#[derive(Debug, Default)]
pub(super) struct InspectionCache {
    entries: [AtomicU64; CACHED_POLICIES],
    /// The number of entries ever written; modulo the table size, the index of the next one.
    written: AtomicUsize,
}

impl InspectionCache {
    /// Returns an empty cache for a response with `count` targets; `None` if there are too few to need one.
    pub(super) fn for_targets(count: usize) -> Option<Box<Self>> {
        (count > MAX_UNCACHED).then(Box::default)
    }

    /// Returns the number of the first target that policy `serial` does not allow, from the cache or else from `find`.
    pub(super) fn first_denied(&self, serial: u64, find: impl FnOnce() -> Option<usize>) -> Option<usize> {
        let mut entries = self.entries.iter().map(|entry| entry.load(Relaxed));
        if let Some(entry) = entries.find(|entry| entry >> TARGET_BITS == serial && *entry != 0) {
            let result = entry & ((1 << TARGET_BITS) - 1);
            return result.checked_sub(2).and_then(|number| usize::try_from(number).ok());
        }
        let denied = find();
        // A target's number fits: the number of targets is bounded.
        let result = denied.map_or(1, |number| u64::try_from(number).unwrap_or(0) + 2);
        if result >> TARGET_BITS == 0 {
            let index = self.written.fetch_add(1, Relaxed) % CACHED_POLICIES;
            self.entries[index].store(serial << TARGET_BITS | result, Relaxed);
        }
        denied
    }
}

/// Creates an empty cache: the entries are a shortcut that the copy fills again.
impl Clone for InspectionCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Compares as equal: a cache is no property of a response.
impl PartialEq for InspectionCache {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for InspectionCache {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_inspected_once_for_each_policy() {
        let inspections = InspectionCache::for_targets(MAX_UNCACHED + 1).unwrap();
        for (serial, denied) in [(0, None), (1, Some(0)), (7, Some(47)), (u64::MAX >> TARGET_BITS, None)] {
            assert_eq!(inspections.first_denied(serial, || denied), denied, "{serial}");
            assert_eq!(inspections.first_denied(serial, || panic!("looked again")), denied, "{serial}");
        }
    }

    #[test]
    fn result_of_the_oldest_policy_is_replaced_when_the_cache_is_full() {
        let inspections = InspectionCache::default();
        for serial in 0..20 {
            assert_eq!(inspections.first_denied(serial, || Some(1)), Some(1));
        }
        assert_eq!(inspections.first_denied(19, || panic!("looked again")), Some(1));
        let mut looked = false;
        inspections.first_denied(0, || {
            looked = true;
            None
        });
        assert!(looked);
    }
}
