//! The CPU time of a single thread, by which a thread that computes is told from one that hangs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::thread::{Pid, gettid};

use crate::util::regular_file;

/// The CPU time of one thread, and the last time at which it was seen to grow.
#[derive(Debug)]
pub(crate) struct CpuTime {
    /// The file of the thread in /proc.
    path: PathBuf,
    /// The CPU time at the last look, in the kernel's ticks.
    ticks: u64,
    grown_at: Instant,
}

/// The id of a thread, for [`CpuTime::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(Pid);

impl ThreadId {
    /// Returns the id of the calling thread.
    pub(crate) fn current() -> Self {
        Self(gettid())
    }
}

impl CpuTime {
    /// Starts to watch a thread of this process.
    pub(crate) fn of(thread: ThreadId, now: Instant) -> Self {
        let path = PathBuf::from(format!("/proc/self/task/{}/stat", thread.0.as_raw_nonzero()));
        Self { path, ticks: 0, grown_at: now }
    }

    /// Looks at the thread; returns for how long its CPU time has not grown. If it cannot be read, it counts as not
    /// grown.
    pub(crate) fn silent(&mut self, now: Instant) -> Duration {
        /// The most octets that the file has.
        const LONGEST: u64 = 4 << 10;
        let ticks = regular_file::read_text(&self.path, LONGEST).ok().and_then(|stat| ticks(&stat));
        if let Some(ticks) = ticks.filter(|ticks| *ticks != self.ticks) {
            (self.ticks, self.grown_at) = (ticks, now);
        }
        now.saturating_duration_since(self.grown_at)
    }
}

/// Returns the time in user and kernel mode from the text of a file that `proc_pid_stat(5)` describes.
fn ticks(stat: &str) -> Option<u64> {
    // The name of the thread, in parentheses, may have spaces and parentheses itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_after_any_thread_name() {
        let stat = "7 (a) b (c)) R 1 2 3 4 5 6 7 8 9 10 250 17 0 0 25 5 1 0 1\n";
        assert_eq!(ticks(stat), Some(267));
        assert_eq!(ticks("7 (a) R 1 2"), None);
    }

    #[test]
    fn thread_that_computes_is_not_silent() {
        let begun = Instant::now();
        let mut time = CpuTime::of(ThreadId::current(), begun);
        let later = |seconds| begun + Duration::from_secs(seconds);
        let mut sum = 0_u64;
        // The first look only learns what the thread has used so far.
        time.silent(begun);
        let known = time.ticks;
        while time.ticks == known {
            sum = (0..1 << 16).fold(sum, |sum, number| sum.wrapping_mul(31).wrapping_add(number));
            assert!(time.silent(later(60)) <= Duration::from_mins(1));
        }
        assert_eq!(time.grown_at, later(60), "{sum}");
        let mut gone = CpuTime { path: "/proc/self/task/0/stat".into(), ticks: 0, grown_at: begun };
        assert_eq!(gone.silent(later(60)), Duration::from_mins(1));
    }
}
