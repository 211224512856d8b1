//! The features that an upstream is known to lack: keeping the case of names, EDNS. A lack is remembered for ten minutes;
//! then the feature is tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dns::response::{Casing, Edns};
use crate::util::millis;

/// The time for which a lack is remembered. After it, one question is asked up to three times to find the lack again.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);

/// The features that an upstream is known to lack. Every method takes the time since the start of the process.
#[derive(Debug, Default)]
pub(super) struct Capabilities {
    /// The end of the time in which it is asked in lower case.
    lower: Until,
    /// The end of the time in which it is asked without the DO bit.
    without_do: Until,
    /// The end of the time in which it is asked without an OPT record.
    without_edns: Until,
}

/// A time that may be over, in milliseconds; 0 is never.
#[derive(Debug, Default)]
struct Until(AtomicU64);

impl Until {
    /// Sets it to a while from `now`.
    fn set(&self, now: Duration) {
        self.0.store(millis(now + REMEMBERED_FOR), Ordering::Relaxed);
    }

    /// Returns whether it is set and not over; `now` is asked for only if it is set.
    fn is_set(&self, now: impl FnOnce() -> Duration) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            until if until > millis(now()) => true,
            _ => {
                self.0.store(0, Ordering::Relaxed);
                false
            }
        }
    }
}

impl Capabilities {
    /// Returns the case of the next query's QNAME; `bits` gives random ones.
    pub(super) fn casing(&self, bits: impl FnOnce() -> u64, now: impl FnOnce() -> Duration) -> Casing {
        if self.lower.is_set(now) { Casing::LOWER } else { Casing::of_bits(bits()) }
    }

    /// Notes that it answered in another case than it was asked in, and then to the same in lower case.
    pub(super) fn note_loses_case(&self, now: Duration) {
        self.lower.set(now);
    }

    /// Returns how much of EDNS the next query has.
    pub(super) fn edns(&self, now: impl Fn() -> Duration) -> Edns {
        if self.without_edns.is_set(&now) {
            Edns::None
        } else if self.without_do.is_set(&now) {
            Edns::WithoutDo
        } else {
            Edns::Full
        }
    }

    /// Notes that it understood a query with this much of EDNS, after it had not understood one with more.
    pub(super) fn note_understands(&self, edns: Edns, now: Duration) {
        match edns {
            Edns::Full => {}
            Edns::WithoutDo => self.without_do.set(now),
            Edns::None => self.without_edns.set(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upstream_does_not_do_is_remembered_for_ten_minutes() {
        let capabilities = Capabilities::default();
        let at = |seconds| move || Duration::from_secs(seconds);
        assert_eq!(capabilities.edns(|| unreachable!("nothing is known")), Edns::Full);
        capabilities.note_understands(Edns::Full, at(0)());
        assert_eq!(capabilities.edns(at(0)), Edns::Full);
        capabilities.note_understands(Edns::WithoutDo, at(1)());
        capabilities.note_understands(Edns::None, at(2)());
        capabilities.note_loses_case(at(3)());
        assert_eq!((capabilities.edns(at(600)), capabilities.casing(|| 5, at(600))), (Edns::None, Casing::LOWER));
        // EDNS altogether came last, so it is over last.
        assert_eq!(capabilities.edns(at(601)), Edns::None);
        assert_eq!((capabilities.edns(at(602)), capabilities.casing(|| 5, at(603))), (Edns::Full, Casing::of_bits(5)));
    }
}
