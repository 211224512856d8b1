//! How an upstream has been doing, and what follows from it: its place in the order, the patience it is given,
//! when it is probed. Pure: every method is told the time since the start of the process.

use std::time::Duration;

/// The shortest time an upstream is given before the next is asked as well.
const MIN_PATIENCE: Duration = Duration::from_millis(250);

/// How many smoothed round trips an answer may take before the next upstream is asked as well.
const PATIENCE_ROUND_TRIPS: u32 = 3;

/// Failures in a row after which an upstream is asked last.
///
/// One is not enough: a lost datagram, or a name whose DNSSEC is broken (SERVFAIL at every upstream), says little.
const DOWN_AFTER: u32 = 3;

/// The time between the first probes of an upstream that is down; it doubles with every one that fails.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest time between two probes of an upstream that is down.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How long an upstream that others outrank goes unmeasured.
const REMEASURE_AFTER: Duration = Duration::from_secs(30);

/// Round trips are told apart by powers of two of this: less is noise, and the configured order decides.
const RANK_UNIT: Duration = Duration::from_millis(8);

/// What a try that brought no answer says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Silence for this long, and longer than it is given.
    Silent(Duration),
    /// It said that it cannot answer, or something that cannot be read.
    Failed,
    /// The network says that nobody is there.
    Unreachable,
}

/// Where an upstream stands among the others: the least is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether it failed several times in a row.
    is_down: bool,
    /// The power of two of its round trip; one never measured ranks as the fastest do, so that the configured
    /// order decides until there is a reason.
    round_trip: u32,
}

/// The measured state of one upstream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// The smoothed round-trip time (as TCP's, RFC 6298 §2: 7/8 old, 1/8 new); `None` before the first answer.
    round_trip: Option<Duration>,
    /// Failures since the last answer.
    failures: u32,
    /// When it may next be probed.
    probe_at: Duration,
}

impl Health {
    /// Returns the state of an upstream that nothing is known of.
    pub(super) fn new(now: Duration) -> Self {
        Self { round_trip: None, failures: 0, probe_at: now + REMEASURE_AFTER }
    }

    /// Notes an answer after `round_trip`. NXDOMAIN and NODATA are answers: what does not exist is not the
    /// upstream's failure (hickory-resolver 0.26.3 counts it as one, and slows down for good).
    pub(super) fn answered(&mut self, round_trip: Duration, now: Duration) {
        // What was measured before it went down, and while, says nothing of how it came back.
        let known = self.round_trip.filter(|_| !self.is_down());
        self.round_trip = Some(known.map_or(round_trip, |old| (old * 7 + round_trip) / 8));
        self.failures = 0;
        self.probe_at = now + REMEASURE_AFTER;
    }

    /// Notes a try that brought no answer.
    pub(super) fn failed(&mut self, trouble: Trouble, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        match trouble {
            Trouble::Silent(waited) => {
                // The round trip is at least this long: one lost datagram lets a faster upstream go first.
                let old = self.round_trip.unwrap_or(waited);
                self.round_trip = Some(old.max((old * 7 + waited) / 8));
            }
            Trouble::Failed => {}
            Trouble::Unreachable => self.failures = self.failures.max(DOWN_AFTER),
        }
        if self.is_down() {
            let doublings = (self.failures - DOWN_AFTER).min(5);
            self.probe_at = now + (FIRST_BACKOFF * (1 << doublings)).min(MAX_BACKOFF);
        }
    }

    /// Returns whether it failed so often in a row that the others go first.
    pub(super) fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER
    }

    /// Returns the smoothed round-trip time, if any was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Returns the place in the order; equal ones go as configured.
    pub(super) fn rank(&self) -> Rank {
        let units = self.round_trip.map_or(0, |time| time.as_millis() / RANK_UNIT.as_millis());
        Rank { is_down: self.is_down(), round_trip: u128::BITS - units.leading_zeros() }
    }

    /// Returns how long to wait for an answer before the next try starts beside this one; at most half of
    /// `timeout`, so that there is time for a second.
    pub(super) fn patience(&self, timeout: Duration) -> Duration {
        let wished = self.round_trip.unwrap_or_default() * PATIENCE_ROUND_TRIPS;
        wished.max(MIN_PATIENCE).min(timeout / 2)
    }

    /// Returns whether this upstream should be asked aside, to learn how it does; the next call says no for a while.
    ///
    /// Call it only for an upstream that the question at hand would not reach: a probe costs nobody time.
    pub(super) fn claim_probe(&mut self, now: Duration) -> bool {
        let due = now >= self.probe_at;
        if due {
            self.probe_at = now + REMEASURE_AFTER;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns so many milliseconds.
    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn answers_make_healthy_and_are_smoothed() {
        let mut health = Health::new(ms(0));
        health.answered(ms(80), ms(0));
        assert_eq!(health.round_trip(), Some(ms(80)));
        health.answered(ms(160), ms(1));
        assert_eq!(health.round_trip(), Some(ms(90)));
        assert!(!health.is_down());
    }

    #[test]
    fn three_failures_in_a_row_are_down_and_one_answer_is_up_again() {
        let mut health = Health::new(ms(0));
        for (count, down) in [(1, false), (2, false), (3, true)] {
            health.failed(Trouble::Failed, ms(count));
            assert_eq!(health.is_down(), down, "failure {count}");
        }
        health.answered(ms(1), ms(9));
        assert!(!health.is_down());
        assert_eq!(health.round_trip(), Some(ms(1)));
        health.failed(Trouble::Unreachable, ms(10));
        assert!(health.is_down(), "the network is sure at once");
    }

    #[test]
    fn probes_of_a_dead_upstream_become_rare_but_never_stop() {
        let mut health = Health::new(ms(0));
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.failed(Trouble::Unreachable, now);
            let since = now;
            while !health.claim_probe(now) {
                now += ms(500);
            }
            assert!(!health.claim_probe(now), "one probe at a time");
            waits.push(now.saturating_sub(since).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn order_is_up_before_down_then_fast_before_slow_then_as_configured() {
        let with =
            |round_trip: Option<u64>, failures| Health { round_trip: round_trip.map(ms), failures, probe_at: ms(0) };
        let cases = [
            (with(Some(500), 0), with(Some(1), 3), std::cmp::Ordering::Less),
            (with(Some(20), 0), with(Some(100), 0), std::cmp::Ordering::Less),
            (with(Some(1), 0), with(Some(7), 0), std::cmp::Ordering::Equal),
            (with(None, 0), with(Some(3), 0), std::cmp::Ordering::Equal),
            (with(None, 0), with(Some(30), 0), std::cmp::Ordering::Less),
        ];
        for (one, other, order) in cases {
            assert_eq!(one.rank().cmp(&other.rank()), order, "{one:?} {other:?}");
        }
    }

    #[test]
    fn patience_follows_the_round_trip_and_leaves_time_for_a_second_try() {
        const CASES: &[(u64, u64, u64)] =
            &[(0, 2000, 250), (10, 2000, 250), (200, 2000, 600), (900, 2000, 1000), (10, 100, 50)];
        for &(round_trip, timeout, patience) in CASES {
            let health = Health { round_trip: Some(ms(round_trip)), ..Health::default() };
            assert_eq!(health.patience(ms(timeout)), ms(patience), "{round_trip} of {timeout}");
        }
    }

    #[test]
    fn one_silent_try_lets_a_fast_upstream_go_first() {
        let mut health = Health::new(ms(0));
        health.answered(ms(4), ms(0));
        let before = health.rank();
        health.failed(Trouble::Silent(ms(260)), ms(300));
        assert!(health.rank() > before && !health.is_down());
    }
}
