//! What policies said of the targets of one response, remembered: a client that asks again and again for a response with
//! many targets costs no more than another one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The targets that each hit looks at again: so few cost less than to remember.
const MAX_UNREMEMBERED: usize = 2;

/// The policies whose verdicts are remembered; with more, the oldest verdict goes.
const REMEMBERED: usize = 8;

/// The bits of a verdict that hold a target's number.
const NUMBER_BITS: u32 = 10;

/// The verdicts of policies on one response's targets.
///
/// An entry is the policy's serial number and, in the low bits, 1 where all targets are allowed, else the number of the
/// first that is not, plus 2; 0 is no entry. Serial numbers are never used again, so an entry is never wrong.
#[derive(Debug, Default)]
pub(super) struct Inspected {
    /// The entries.
    entries: [AtomicU64; REMEMBERED],
    /// The entries written so far.
    written: AtomicUsize,
}

impl Inspected {
    /// Returns an empty one for a response with so many targets; `None` where they are few.
    pub(super) fn for_targets(count: usize) -> Option<Box<Self>> {
        (count > MAX_UNREMEMBERED).then(Box::default)
    }

    /// Returns the number of the first target that policy `serial` does not allow: as remembered, else as `find` finds it.
    pub(super) fn first_denied(&self, serial: u64, find: impl FnOnce() -> Option<usize>) -> Option<usize> {
        let mut entries = self.entries.iter().map(|entry| entry.load(Relaxed));
        if let Some(entry) = entries.find(|entry| entry >> NUMBER_BITS == serial && *entry != 0) {
            let verdict = entry & ((1 << NUMBER_BITS) - 1);
            return verdict.checked_sub(2).and_then(|number| usize::try_from(number).ok());
        }
        let denied = find();
        // A target's number has fewer bits: their count is bounded.
        let verdict = denied.map_or(1, |number| u64::try_from(number).unwrap_or(0) + 2);
        if verdict >> NUMBER_BITS == 0 {
            let place = self.written.fetch_add(1, Relaxed) % REMEMBERED;
            self.entries[place].store(serial << NUMBER_BITS | verdict, Relaxed);
        }
        denied
    }
}

/// A copy remembers nothing.
impl Clone for Inspected {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is remembered makes no difference between responses.
impl PartialEq for Inspected {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Inspected {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_found_once_for_each_policy() {
        let inspected = Inspected::for_targets(MAX_UNREMEMBERED + 1).unwrap();
        for (serial, denied) in [(0, None), (1, Some(0)), (7, Some(47)), (u64::MAX >> NUMBER_BITS, None)] {
            assert_eq!(inspected.first_denied(serial, || denied), denied, "{serial}");
            assert_eq!(inspected.first_denied(serial, || panic!("looked again")), denied, "{serial}");
        }
    }

    #[test]
    fn more_policies_than_places_push_out_the_oldest() {
        let inspected = Inspected::default();
        for serial in 0..20 {
            assert_eq!(inspected.first_denied(serial, || Some(1)), Some(1));
        }
        assert_eq!(inspected.first_denied(19, || panic!("looked again")), Some(1));
        let mut looked = false;
        inspected.first_denied(0, || {
            looked = true;
            None
        });
        assert!(looked);
    }
}
