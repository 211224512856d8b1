//! The pace of log lines that anybody may ask for who may send SIGHUP: a bounded number a minute, the rest is counted.

use std::time::{Duration, Instant};

use crate::bounds::MAX_ASKED_LINES;

/// The lines written in a minute, and those that were not.
pub(super) struct Pace {
    /// When the minute ends.
    ends: Option<Instant>,
    /// Lines written in it.
    written: usize,
    /// Lines left out since the last one that was written.
    untold: u64,
}

impl Pace {
    /// Begins without a line.
    pub(super) const fn new() -> Self {
        Self { ends: None, written: 0, untold: 0 }
    }

    /// Counts a line; returns how many were left out before it, or `None` if it is to be left out too.
    pub(super) fn line(&mut self, now: Instant) -> Option<u64> {
        if self.ends.is_none_or(|ends| now >= ends) {
            (self.ends, self.written) = (Some(now + Duration::from_mins(1)), 0);
        }
        if self.written >= MAX_ASKED_LINES {
            self.untold += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_minute_are_bounded_and_the_next_one_says_how_many_were_left_out() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        let told = (0..1000).filter_map(|number| pace.line(start + Duration::from_millis(number))).count();
        assert_eq!(told, MAX_ASKED_LINES);
        assert_eq!(pace.line(start + Duration::from_mins(1)), Some(1000 - u64::try_from(MAX_ASKED_LINES).unwrap()));
        assert_eq!(pace.line(start + Duration::from_mins(1)), Some(0));
    }
}
