//! The estimate of an upstream's round-trip time.

use std::time::Duration;

/// A smoothed round-trip time and its variation, as TCP has them (RFC 6298 §2).
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    /// SRTT.
    pub(super) smoothed: Duration,
    /// RTTVAR.
    pub(super) variation: Duration,
}

impl RoundTrip {
    /// Returns what the first measurement says (RFC 6298 §2.2).
    pub(super) fn first(measured: Duration) -> Self {
        Self { smoothed: measured, variation: measured / 2 }
    }

    /// Returns it with a measurement more (RFC 6298 §2.3: a quarter and an eighth are new).
    pub(super) fn with(self, measured: Duration) -> Self {
        let variation = (self.variation * 3 + self.smoothed.abs_diff(measured)) / 4;
        Self { smoothed: (self.smoothed * 7 + measured) / 8, variation }
    }
}
