//! The time of records: a reading of the monotonic clock, spelled out.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Octets of `2026-11-24T03:35:16.163760Z`.
const LENGTH: usize = 27;
/// Where the fraction of the second begins.
const FRACTION: usize = 20;

/// Tells the time in microseconds (RFC 3339, UTC) at the cost of one reading of the monotonic clock.
///
/// The wall clock is read again when its second is over: a step of it shows within a second.
#[derive(Debug)]
pub(super) struct Clock {
    /// When the wall clock was read.
    read: Instant,
    /// How far its second was then.
    into: Duration,
    /// The last answer; within a second only its fraction changes.
    text: [u8; LENGTH],
}

/// When a record is made.
#[derive(Debug)]
pub struct Moment<'a> {
    /// On the monotonic clock.
    pub now: Instant,
    /// On the wall clock, in RFC 3339 with microseconds.
    pub text: &'a [u8; LENGTH],
}

impl Clock {
    /// Reads the wall clock.
    pub(super) fn new() -> Self {
        let mut clock = Self { read: Instant::now(), into: Duration::ZERO, text: [0; LENGTH] };
        clock.set(clock.read, Timestamp::now());
        clock
    }

    /// Returns the time.
    #[inline]
    pub(super) fn now(&mut self) -> Moment<'_> {
        let now = Instant::now();
        let mut into = self.into + now.saturating_duration_since(self.read);
        if into >= Duration::from_secs(1) {
            self.set(now, Timestamp::now());
            into = self.into;
        }
        self.put(into);
        Moment { now, text: &self.text }
    }

    /// Starts from a reading of the wall clock; a time before 1970 becomes 1970.
    #[cold]
    fn set(&mut self, read: Instant, wall: Timestamp) {
        let wall = wall.max(Timestamp::UNIX_EPOCH);
        self.read = read;
        self.into = Duration::from_nanos(u64::try_from(wall.subsec_nanosecond()).unwrap_or_default());
        let text = format!("{wall:.6}");
        // A year of five digits does not fit, nor do such years matter.
        if let Some(text) = text.as_bytes().first_chunk() {
            self.text = *text;
        }
    }

    /// Puts the fraction of the second into the text.
    #[inline]
    fn put(&mut self, into: Duration) {
        let mut rest = into.subsec_micros();
        for octet in self.text[FRACTION..LENGTH - 1].iter_mut().rev() {
            *octet = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_within_a_second_are_what_jiff_writes() {
        let mut clock = Clock::new();
        let read = Instant::now();
        for start in ["2026-11-24T03:35:16.163760999Z", "1970-01-01T00:00:00Z", "2400-02-29T23:59:59.000000001Z"] {
            let start: Timestamp = start.parse().unwrap();
            clock.set(read, start);
            for nanos in [0, 1, 999, 1000, 5_000, 40_960_000, 836_000_000] {
                let into = clock.into + Duration::from_nanos(nanos);
                clock.put(into);
                let text = String::from_utf8(clock.text.to_vec()).unwrap();
                let expected = start + Duration::from_nanos(nanos);
                assert_eq!(text, format!("{expected:.6}"), "{start} and {nanos} ns");
            }
        }
    }

    #[test]
    fn the_wall_clock_is_read_again_each_second() {
        let mut clock = Clock::new();
        let read = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        clock.set(read, Timestamp::UNIX_EPOCH);
        assert!(!clock.now().text.starts_with(b"1970"));
        clock.set(Instant::now() + Duration::from_mins(1), Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now().text, b"1970-01-01T00:00:00.000000Z", "a reading before the last one adds nothing");
    }
}
