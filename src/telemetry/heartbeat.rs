//! Heartbeats of the threads that a working server depends on, and the detection of threads that hang.
//!
//! Each watched thread increases a counter; the main thread compares the counters with their last values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// The time without a heartbeat after which a thread counts as hanging.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// A counter that one thread increases while it works or waits normally, at least once a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat(Arc<Counter>);

/// The counter of a heartbeat, aligned so that no two share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Heartbeat {
    /// Increases the counter. Only the watched thread calls this, so a load and a store suffice.
    pub(crate) fn beat(&self) {
        // Relaxed ordering suffices, as the counter guards no other data.
        self.0.0.store(self.count().wrapping_add(1), Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// The kinds of watched threads, as named in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// A thread that answers queries over UDP.
    Udp,
    /// The thread that asks upstreams for queries over TCP.
    Tcp,
    /// The thread that reads policies and makes the API's changes.
    Reload,
    /// The runtime of TCP and the API, with all its threads.
    Runtime,
    /// The thread that serves metrics and status.
    Admin,
    /// The main thread, which takes signals and watches the others.
    Main,
}

impl ThreadKind {
    pub(crate) const ALL: [Self; 6] = [Self::Udp, Self::Tcp, Self::Reload, Self::Runtime, Self::Admin, Self::Main];

    /// Returns the name in the metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
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
    pub(crate) thread: String,
    #[serde(skip)]
    pub(crate) kind: ThreadKind,
    /// The time of its last heartbeat (RFC 3339, UTC).
    #[serde(serialize_with = "as_text")]
    pub(crate) since: Timestamp,
    /// Set if the thread waits for a file system that does not respond; a restart would wait for the same one.
    pub(crate) on_disk: bool,
}

impl Stall {
    /// Returns a one-line message about the stall.
    pub(crate) fn describe(&self) -> String {
        let why = if self.on_disk { ", waiting for a file system that does not answer" } else { "" };
        format!("thread {} has been hanging since {}{why}", self.thread, self.since)
    }

    /// Returns whether a restart is the only remedy. It is none for a file system that does not respond: the next start
    /// would read the same one, and meanwhile no query would be answered.
    pub(crate) fn needs_restart(&self) -> bool {
        !self.on_disk
    }
}

/// A monitor of heartbeats, with their values at its last check.
#[derive(Debug)]
pub(crate) struct Monitor {
    threads: Vec<Watched>,
    /// The time of the last check.
    checked_at: Instant,
}

#[derive(Debug)]
struct Watched {
    name: String,
    kind: ThreadKind,
    heartbeat: Heartbeat,
    /// The counter at the last check.
    count: u64,
    /// The time for which the counter has not changed.
    silent: Duration,
    /// The time of the check that last saw the counter change.
    since: Timestamp,
}

impl Monitor {
    /// Starts to monitor these threads.
    pub(crate) fn new(threads: impl IntoIterator<Item = (String, ThreadKind, Heartbeat)>, now: Instant) -> Self {
        let since = Timestamp::now();
        let watch = |(name, kind, heartbeat): (String, ThreadKind, Heartbeat)| {
            let count = heartbeat.count();
            Watched { name, kind, heartbeat, count, silent: Duration::ZERO, since }
        };
        Self { threads: threads.into_iter().map(watch).collect(), checked_at: now }
    }

    /// Returns the threads that have been silent for as long as `patience` allows their kind; `patience` also returns
    /// whether the kind waits for a file system.
    ///
    /// One check adds at most [`LONGEST_STEP`] of silence: if the whole process was stopped (SIGSTOP, a suspended
    /// machine), no thread hangs.
    pub(crate) fn check(&mut self, now: Instant, patience: impl Fn(ThreadKind) -> (Duration, bool)) -> Vec<Stall> {
        let step = now.saturating_duration_since(self.checked_at).min(LONGEST_STEP);
        self.checked_at = now;
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

/// Serialises a time as text.
fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The longest interval between two checks that is counted as silence.
const LONGEST_STEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_without_heartbeats_stalls_but_a_stopped_process_does_not() {
        let (alive, hung) = (Heartbeat::default(), Heartbeat::default());
        let threads = [
            ("udp-0-0".to_owned(), ThreadKind::Udp, alive.clone()),
            ("reload".into(), ThreadKind::Reload, hung.clone()),
        ];
        let mut now = Instant::now();
        let mut monitor = Monitor::new(threads, now);
        let mut check = |seconds| {
            now += Duration::from_secs(seconds);
            monitor.check(now, |kind| (Duration::from_secs(10), kind == ThreadKind::Reload))
        };
        // An hour in which the process was stopped is one step.
        assert_eq!(check(3600), []);
        for _ in 0..8 {
            alive.beat();
            assert_eq!(check(1), []);
        }
        alive.beat();
        let stalls = check(1);
        assert_eq!(stalls.iter().map(|stall| (&*stall.thread, stall.on_disk)).collect::<Vec<_>>(), [("reload", true)]);
        assert!(stalls[0].describe().starts_with("thread reload has been hanging since "));
        alive.beat();
        assert_eq!(check(1).len(), 1);
        hung.beat();
        alive.beat();
        assert_eq!(check(1), []);
    }
}
