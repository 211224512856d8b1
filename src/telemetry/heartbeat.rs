//! The heartbeats of the threads that matter, and which of them have stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// How long a thread may be silent before it counts as hanging.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// A counter that one thread increases while it works or waits as it should. An idle thread does so at least every second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat(Arc<Counter>);

/// The counter of a heartbeat, aligned so that no two share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Heartbeat {
    /// Increases the counter. Only the thread itself calls this, so a load and a store do.
    pub(crate) fn beat(&self) {
        self.0.0.store(self.count().wrapping_add(1), Relaxed);
    }

    /// Returns the counter.
    fn count(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// The kinds of threads that are watched, as the metrics call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers queries over UDP.
    Udp,
    /// Reads policies and makes the API's changes.
    Reload,
    /// Serves TCP and the API: all threads of that runtime.
    Runtime,
    /// Serves metrics and status.
    Admin,
    /// Takes signals and watches the others.
    Main,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Udp, Self::Reload, Self::Runtime, Self::Admin, Self::Main];

    /// Returns what it is called in the metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Reload => "reload",
            Self::Runtime => "runtime",
            Self::Admin => "admin",
            Self::Main => "main",
        }
    }
}

/// A thread whose heartbeat has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stall {
    /// The thread's name.
    pub(crate) thread: String,
    /// What it does.
    #[serde(skip)]
    pub(crate) kind: Kind,
    /// When it last gave a sign of life (RFC 3339, UTC).
    #[serde(serialize_with = "as_text")]
    pub(crate) since: Timestamp,
    /// Whether it waits for a file system that does not answer: a restart would wait for the same one.
    pub(crate) on_disk: bool,
}

impl Stall {
    /// Says so in one line.
    pub(crate) fn describe(&self) -> String {
        let why = if self.on_disk { ", waiting for a file system that does not answer" } else { "" };
        format!("thread {} has been hanging since {}{why}", self.thread, self.since)
    }

    /// Returns whether only a restart helps. Where a file system does not answer, the next start would read the same one, and
    /// nothing would answer queries meanwhile.
    pub(crate) fn needs_restart(&self) -> bool {
        !self.on_disk
    }
}

/// The heartbeats that are watched, and what they were at the last look.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// The threads.
    threads: Vec<Watched>,
    /// When they were last looked at.
    looked: Instant,
}

/// A watched thread.
#[derive(Debug)]
struct Watched {
    /// Its name.
    name: String,
    /// What it does.
    kind: Kind,
    /// Its heartbeat.
    heartbeat: Heartbeat,
    /// The counter at the last look.
    count: u64,
    /// How long the counter has stood still.
    silent: Duration,
    /// The time of the look that last saw it increased.
    since: Timestamp,
}

impl Monitor {
    /// Begins to watch.
    pub(crate) fn new(threads: impl IntoIterator<Item = (String, Kind, Heartbeat)>, now: Instant) -> Self {
        let since = Timestamp::now();
        let watch = |(name, kind, heartbeat): (String, Kind, Heartbeat)| {
            let count = heartbeat.count();
            Watched { name, kind, heartbeat, count, silent: Duration::ZERO, since }
        };
        Self { threads: threads.into_iter().map(watch).collect(), looked: now }
    }

    /// Returns the threads that have been silent for longer than `patience` says; it also says whether they wait for a
    /// file system.
    ///
    /// A look counts for [`LONGEST_STEP`] at most: where the whole process was stopped (SIGSTOP, a machine that was
    /// suspended), no thread is to blame.
    pub(crate) fn look(&mut self, now: Instant, patience: impl Fn(Kind) -> (Duration, bool)) -> Vec<Stall> {
        let step = now.saturating_duration_since(self.looked).min(LONGEST_STEP);
        self.looked = now;
        let mut stalls = Vec::new();
        for thread in &mut self.threads {
            let count = thread.heartbeat.count();
            if count != thread.count {
                (thread.count, thread.silent, thread.since) = (count, Duration::ZERO, Timestamp::now());
                continue;
            }
            thread.silent += step;
            let (patience, on_disk) = patience(thread.kind);
            if thread.silent >= patience {
                stalls.push(Stall { thread: thread.name.clone(), kind: thread.kind, since: thread.since, on_disk });
            }
        }
        stalls
    }
}

/// Writes a time as text.
fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The longest time between two looks that counts as silence.
const LONGEST_STEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_thread_is_stalled_until_it_beats_and_a_stopped_process_is_not() {
        let (alive, hung) = (Heartbeat::default(), Heartbeat::default());
        let threads = [("udp-0-0".to_owned(), Kind::Udp, alive.clone()), ("reload".into(), Kind::Reload, hung.clone())];
        let mut now = Instant::now();
        let mut monitor = Monitor::new(threads, now);
        let mut look = |seconds| {
            now += Duration::from_secs(seconds);
            monitor.look(now, |kind| (Duration::from_secs(10), kind == Kind::Reload))
        };
        // An hour in which the process was stopped is one step.
        assert_eq!(look(3600), []);
        for _ in 0..8 {
            alive.beat();
            assert_eq!(look(1), []);
        }
        alive.beat();
        let stalls = look(1);
        assert_eq!(stalls.iter().map(|stall| (&*stall.thread, stall.on_disk)).collect::<Vec<_>>(), [("reload", true)]);
        assert!(stalls[0].describe().starts_with("thread reload has been hanging since "));
        alive.beat();
        assert_eq!(look(1).len(), 1);
        hung.beat();
        alive.beat();
        assert_eq!(look(1), []);
    }
}
