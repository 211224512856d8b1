//! What is in force and what is held back, as `/status` tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Serialize, Serializer};

use super::out_of_date::{Entry, Kind, OutOfDate};
use super::summary;
use crate::bounds::MAX_TOLD_WARNINGS;
use crate::policy::Diagnostics;
use crate::telemetry::heartbeat::Heartbeat;

/// The state of the policies and upstreams; replaced whole after each look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    /// Number of the policies in force, one more at each swap.
    pub(crate) generation: u64,
    /// Hash over everything in force.
    pub(crate) hash: String,
    /// When they went into force (RFC 3339, UTC).
    pub(crate) loaded_at: String,
    /// All errors of the last look, `path:line:col: what`, one a line; null when everything on disk is in force.
    pub(crate) error: Option<String>,
    /// The files whose last good version is in force instead of what is on disk.
    pub(crate) held_back: Vec<String>,
    /// What is out of date, since when and why.
    pub(crate) out_of_date: OutOfDate,
    /// How much is out of date; the list has the first entries.
    pub(crate) out_of_date_total: usize,
    /// Warnings of the last look.
    #[serde(serialize_with = "warnings")]
    pub(crate) warnings: Diagnostics,
    /// Policies in force.
    pub(crate) policies: usize,
    /// Blueprints in force.
    pub(crate) blueprints: usize,
    /// Clients in force.
    pub(crate) clients: usize,
    /// The clients for which no policy is named, and what applies to them.
    pub(crate) without_policy: Without,
    /// Why there is nobody to ask for what is allowed; null when there is.
    pub(crate) upstream_error: Option<String>,
}

/// The clients for which no policy is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Without {
    /// What applies to them: the id of the default policy, `unrestricted`, or `none`, so that they are denied.
    pub(crate) policy: String,
    /// How many there are.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) clients: Vec<String>,
}

impl State {
    /// Says in one line what is in force, as `systemctl status` shows it.
    pub(crate) fn summary(&self) -> String {
        match &self.error {
            None => format!("generation {}, {} policies, {} clients", self.generation, self.policies, self.clients),
            Some(error) => {
                let first = error.lines().next().unwrap_or_default();
                format!("generation {} kept; not reloaded: {first}", self.generation)
            }
        }
    }
}

/// The state, for everyone who tells it, how often it changed, and what is under way.
pub(crate) struct Progress {
    /// When what is under way began, in milliseconds since `began`, and one more; 0 while nothing is.
    busy_since: AtomicU64,
    /// The clock's zero.
    began: Instant,
    /// The state after the last look.
    state: ArcSwap<State>,
    /// Looks that put a new generation into force.
    swaps: AtomicU64,
    /// Looks that held something back which was not held back before.
    failures: AtomicU64,
    /// The heartbeat of the thread that looks.
    heartbeat: Heartbeat,
    /// Whether that thread reads or writes files.
    on_disk: AtomicBool,
}

/// What the thread that looks is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It waits for something to do.
    Idle,
    /// It reads or writes files, as long as their file system takes.
    Disk,
    /// It makes the next generation.
    Compute,
}

impl Progress {
    /// Begins with the state at the start.
    pub(crate) fn new(state: State) -> Self {
        Self {
            busy_since: AtomicU64::new(0),
            began: Instant::now(),
            state: ArcSwap::from_pointee(state),
            swaps: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            heartbeat: Heartbeat::default(),
            on_disk: AtomicBool::new(false),
        }
    }

    /// Returns the state after the last look.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Notes that a look or a change begins; it ends when what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy_since.store(self.now().saturating_add(1), Relaxed);
        Busy(Arc::clone(self))
    }

    /// Returns the heartbeat of the thread that looks.
    pub(crate) fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Notes that the thread that looks reads or writes files, until what this returns is dropped.
    pub(super) fn disk(&self) -> OnDisk<'_> {
        self.heartbeat.beat();
        self.on_disk.store(true, Relaxed);
        OnDisk(self)
    }

    /// Returns what the thread that looks is doing.
    pub(crate) fn work(&self) -> Work {
        match (self.busy_since.load(Relaxed), self.on_disk.load(Relaxed)) {
            (_, true) => Work::Disk,
            (0, false) => Work::Idle,
            (_, false) => Work::Compute,
        }
    }

    /// Returns how long the look or change under way has been running; zero where there is none.
    pub(crate) fn running(&self) -> Duration {
        match self.busy_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since - 1)),
        }
    }

    /// Returns why nothing new goes into force, if a look or change hangs, as in a file system that does not answer.
    pub(crate) fn stuck(&self) -> Option<String> {
        let seconds = self.running().as_secs();
        (seconds >= STUCK.as_secs()).then(|| {
            format!(
                "a reload has been running for {seconds} s: what is in force stays so, and no change goes into force \
                 (is the file system of the policies, lists or hostgate.toml there?)"
            )
        })
    }

    /// Returns what is out of date while a look takes long.
    pub(crate) fn late(&self) -> Option<Entry> {
        let running = self.running();
        let since = jiff::Timestamp::now().checked_sub(running).ok()?;
        match self.stuck() {
            Some(why) => Some(Entry::new(Kind::Stuck, None, since, &why)),
            None if running >= SLOW => Some(Entry::new(
                Kind::Reloading,
                None,
                since,
                "a reload is under way: what it changes comes when it ends",
            )),
            None => None,
        }
    }

    /// Returns the time on the clock of [`Progress::busy_since`].
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Puts another state in place.
    pub(super) fn set(&self, state: State) {
        self.state.store(Arc::new(state));
    }

    /// Counts a new generation.
    pub(super) fn count_swap(&self) {
        self.swaps.fetch_add(1, Relaxed);
    }

    /// Counts a look that held something back.
    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Returns the number of new generations since the start.
    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.load(Relaxed)
    }

    /// Returns the number of looks that held something back.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

/// Something that is under way.
pub(super) struct Busy(Arc<Progress>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Relaxed);
    }
}

/// How long a look may take before it is told of.
const SLOW: Duration = Duration::from_secs(2);
/// Files that are being read or written.
pub(super) struct OnDisk<'p>(&'p Progress);

impl Drop for OnDisk<'_> {
    fn drop(&mut self) {
        self.0.on_disk.store(false, Relaxed);
        self.0.heartbeat.beat();
    }
}

/// How long a look or a change may take; reading all that the bounds allow takes a few seconds.
const STUCK: Duration = Duration::from_secs(10);

/// Writes warnings as texts; what else there is stands in [`State::error`].
fn warnings<S: Serializer>(diagnostics: &Diagnostics, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(summary::lines(diagnostics.warnings(), MAX_TOLD_WARNINGS, "warnings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns progress that began so many seconds ago.
    fn progress(seconds: u64) -> Arc<Progress> {
        let state = State {
            generation: 1,
            hash: String::new(),
            loaded_at: String::new(),
            error: None,
            held_back: Vec::new(),
            out_of_date: OutOfDate::default(),
            out_of_date_total: 0,
            warnings: Diagnostics::default(),
            policies: 0,
            blueprints: 0,
            clients: 0,
            without_policy: Without::default(),
            upstream_error: None,
        };
        let began = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        Arc::new(Progress { began, ..Progress::new(state) })
    }

    #[test]
    fn a_reload_that_hangs_is_told_until_it_goes_on() {
        let progress = progress(100);
        assert_eq!((progress.running(), progress.stuck()), (Duration::ZERO, None));
        let busy = progress.begin();
        assert_eq!(progress.stuck(), None, "it has just begun");
        // As if it had begun with the clock, a hundred seconds ago.
        progress.busy_since.store(1, Relaxed);
        assert!(progress.running() >= Duration::from_secs(100));
        assert!(progress.stuck().unwrap().starts_with("a reload has been running for 100 s: "));
        drop(busy);
        assert_eq!((progress.running(), progress.stuck()), (Duration::ZERO, None));
    }
}
