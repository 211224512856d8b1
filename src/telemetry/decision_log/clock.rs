//! A clock for records: a call reads only the monotonic clock, and formats only the fraction of the second.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The length of `2026-11-24T03:35:16.163760Z`.
const LENGTH: usize = 27;
/// The index of the first digit of the fraction.
const FRACTION: usize = 20;

/// A clock that returns the time as text with microseconds (RFC 3339, UTC).
///
/// The wall clock is read, and the whole text formatted, once a second, so a change of the wall clock shows within a
/// second.
#[derive(Debug)]
pub(super) struct Clock {
    /// The time on the monotonic clock when the wall clock was read last.
    read: Instant,
    /// The fraction of a second in that reading of the wall clock.
    into: Duration,
    /// The last time returned; within a second only the fraction is rewritten.
    text: [u8; LENGTH],
}

/// The time of a record.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The time on the monotonic clock.
    pub now: Instant,
    /// The time on the wall clock, in RFC 3339 with microseconds.
    pub text: &'a [u8; LENGTH],
}

impl Clock {
    /// Makes a clock from a reading of the wall clock.
    pub(super) fn new() -> Self {
        let mut clock = Self { read: Instant::now(), into: Duration::ZERO, text: [0; LENGTH] };
        clock.set(clock.read, Timestamp::now());
        clock
    }

    /// Returns the present time.
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

    /// Sets the clock to a reading of the wall clock, or to 1970 if that is before 1970, as its fraction of a second
    /// would be negative.
    #[cold]
    fn set(&mut self, read: Instant, wall: Timestamp) {
        let wall = wall.max(Timestamp::UNIX_EPOCH);
        self.read = read;
        self.into = Duration::from_nanos(u64::try_from(wall.subsec_nanosecond()).unwrap_or_default());
        let text = format!("{wall:.6}");
        // The text always has this length: jiff's last year is 9999.
        if let Some(text) = text.as_bytes().first_chunk() {
            self.text = *text;
        }
    }

    /// Writes `into`, the fraction of the second, into the text.
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
    fn times_within_a_second_equal_those_of_jiff() {
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
    fn wall_clock_is_read_again_each_second() {
        let mut clock = Clock::new();
        let read = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        clock.set(read, Timestamp::UNIX_EPOCH);
        assert!(!clock.now().text.starts_with(b"1970"));
        clock.set(Instant::now() + Duration::from_mins(1), Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now().text, b"1970-01-01T00:00:00.000000Z", "a reading before the last one adds nothing");
    }
}
