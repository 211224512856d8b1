//! The rate limit of log lines about requested reloads: anyone who may send SIGHUP could otherwise fill the log.

use std::time::{Duration, Instant};

use crate::bounds::MAX_ASKED_LINES;

/// A limit of [`MAX_ASKED_LINES`] log lines a minute, with a count of those suppressed.
pub(super) struct LogRateLimit {
    /// The end of the current minute; `None` before the first line.
    ends: Option<Instant>,
    /// The number of lines written in this minute.
    written: usize,
    /// The number of lines suppressed since the last one that was written.
    suppressed: u64,
}

impl LogRateLimit {
    /// Makes a limit that has admitted no line.
    pub(super) const fn new() -> Self {
        Self { ends: None, written: 0, suppressed: 0 }
    }

    /// Counts a line; returns the number of lines suppressed before it, or `None` if it is to be suppressed too.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.ends.is_none_or(|ends| now >= ends) {
            (self.ends, self.written) = (Some(now + Duration::from_mins(1)), 0);
        }
        if self.written >= MAX_ASKED_LINES {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_minute_are_bounded_and_the_next_line_counts_the_suppressed() {
        let (mut limit, start) = (LogRateLimit::new(), Instant::now());
        let admitted = (0..1000).filter_map(|number| limit.admit(start + Duration::from_millis(number))).count();
        assert_eq!(admitted, MAX_ASKED_LINES);
        assert_eq!(limit.admit(start + Duration::from_mins(1)), Some(1000 - u64::try_from(MAX_ASKED_LINES).unwrap()));
        assert_eq!(limit.admit(start + Duration::from_mins(1)), Some(0));
    }
}
