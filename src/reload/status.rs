//! The status of reloads for `/status`, metrics, the API and the supervisor: what is in force, and what the thread
//! does.
//!
//! [`State`] is immutable and swapped as a whole, so a reader never sees a part of an update. The work in progress is
//! in atomics beside it, so that a reload that hangs in a file system can still be seen.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{Serialize, Serializer};

use super::out_of_date::{Beginning, Entry, Kind, OutOfDate};
use super::served::{InForce, ServedTexts};
use super::summary;
use crate::bounds::MAX_TOLD_WARNINGS;
use crate::policy::Diagnostics;
use crate::telemetry::cpu_time::ThreadId;
use crate::telemetry::heartbeat::Heartbeat;
use crate::util::{lock, millis};

/// The state of the policies and upstreams, as `/status` has it; replaced as a whole after each reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    /// The generation of the policies in force, incremented by each swap.
    pub(crate) generation: u64,
    /// The hash of everything in force.
    pub(crate) hash: String,
    /// The time of the last swap (RFC 3339, UTC).
    pub(crate) loaded_at: String,
    /// The errors of the last reload, one a line, as `path:line:col: message`; null if everything on disk is in force.
    pub(crate) error: Option<String>,
    /// The files whose last good version is in force instead of what is on disk.
    pub(crate) held_back: Vec<String>,
    /// The ways in which what is in force is not what is on disk, each with its time and reason.
    pub(crate) out_of_date: OutOfDate,
    /// The number of entries of `out_of_date`, of which the list has the first.
    pub(crate) out_of_date_total: usize,
    /// The warnings of the last reload; errors are in `error`.
    #[serde(serialize_with = "warnings")]
    pub(crate) warnings: Diagnostics,
    /// The number of policies in force.
    pub(crate) policies: usize,
    /// The number of blueprints in force.
    pub(crate) blueprints: usize,
    /// The number of clients in force.
    pub(crate) clients: usize,
    /// The clients for which no policy is named, and what applies to them.
    pub(crate) without_policy: ClientsWithoutPolicy,
    /// The reason why there is no upstream, or why the last ones are used on; null if there is none.
    pub(crate) upstream_error: Option<String>,
}

/// The clients for which no policy is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ClientsWithoutPolicy {
    /// The id of the default policy, `unrestricted`, or `none` if they are denied.
    pub(crate) policy: String,
    /// The number of such clients.
    pub(crate) count: usize,
    /// The names of the first ones.
    pub(crate) clients: Vec<String>,
}

impl State {
    /// Returns one line for `systemctl status`: the generation in force, and the first error if a reload failed.
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

/// The status of reloads, shared with the admin endpoint, the API and the supervisor: the last state, counters, and the
/// work in progress.
pub(crate) struct ReloadStatus {
    /// The beginning of the work in progress, in milliseconds since `began` plus one; 0 while there is none.
    busy_since: AtomicU64,
    /// The zero of `busy_since`.
    began: Instant,
    /// The state after the last reload.
    state: ArcSwap<State>,
    /// The number of reloads and API changes that put a new generation into force.
    swaps: AtomicU64,
    /// The number of reloads that reported errors: new ones, or any if the reload was requested.
    failures: AtomicU64,
    /// The heartbeat of the reload thread.
    heartbeat: Heartbeat,
    /// The reload thread, once it runs.
    thread: OnceLock<ThreadId>,
    /// Whether the reload thread reads or writes files.
    on_disk: AtomicBool,
    /// What is in force, for a successor; `None` before the start is over.
    in_force: ArcSwapOption<InForce>,
    /// The write of an API's file that is in progress, and when it began.
    write: Mutex<Option<(PathBuf, Instant)>>,
}

/// The work of the reload thread, for the supervisor, which allows each kind another time without a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It waits for an event or a request.
    Idle,
    /// It reads or writes files, for as long as the file system takes.
    Disk,
    /// It compiles the next generation.
    Compute,
}

impl ReloadStatus {
    /// Makes the status from the state at the start.
    pub(crate) fn new(state: State) -> Self {
        Self {
            busy_since: AtomicU64::new(0),
            began: Instant::now(),
            state: ArcSwap::from_pointee(state),
            swaps: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            heartbeat: Heartbeat::default(),
            thread: OnceLock::new(),
            on_disk: AtomicBool::new(false),
            in_force: ArcSwapOption::empty(),
            write: Mutex::new(None),
        }
    }

    /// Returns the state after the last reload.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Sets what is in force, for a successor.
    pub(super) fn share(&self, in_force: InForce) {
        self.in_force.store(Some(Arc::new(in_force)));
    }

    /// Returns the hashes of the texts in force.
    pub(crate) fn served(&self) -> ServedTexts {
        self.in_force.load_full().map(|in_force| ServedTexts::of(&in_force)).unwrap_or_default()
    }

    /// Records the beginning of a reload or an API change, which ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy_since.store(self.now().saturating_add(1), Relaxed);
        Busy(Arc::clone(self))
    }

    pub(crate) fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Records that the calling thread is the reload thread.
    pub(super) fn runs_here(&self) {
        // A second call cannot happen, and would change nothing.
        let _ = self.thread.set(ThreadId::current());
    }

    /// Returns the reload thread; `None` before it runs.
    pub(crate) fn thread(&self) -> Option<ThreadId> {
        self.thread.get().copied()
    }

    /// Records that the reload thread reads or writes files, until the guard is dropped.
    pub(super) fn disk(&self) -> OnDisk<'_> {
        self.heartbeat.beat();
        self.on_disk.store(true, Relaxed);
        OnDisk(self)
    }

    /// Returns the work of the reload thread.
    pub(crate) fn work(&self) -> Work {
        match (self.busy_since.load(Relaxed), self.on_disk.load(Relaxed)) {
            (_, true) => Work::Disk,
            (0, false) => Work::Idle,
            (_, false) => Work::Compute,
        }
    }

    /// Returns the duration of the reload or API change in progress; zero if there is none.
    pub(crate) fn running(&self) -> Duration {
        match self.busy_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since - 1)),
        }
    }

    /// Returns the message for a reload or API change that hangs, as in a file system that does not answer.
    pub(crate) fn stuck(&self) -> Option<String> {
        let seconds = self.running().as_secs();
        (seconds >= STUCK.as_secs()).then(|| {
            format!(
                "a reload has been running for {seconds} s: what is in force stays so, and no change goes into force \
                 (is the file system of the policies, lists or hostgate.toml there?)"
            )
        })
    }

    /// Records the beginning of a write of an API's file.
    pub(super) fn begin_write(&self, path: &Path) {
        *lock(&self.write) = Some((path.to_owned(), Instant::now()));
    }

    /// Records the end of that write; returns its duration.
    pub(super) fn end_write(&self) -> Duration {
        lock(&self.write).take().map_or(Duration::ZERO, |(_, began)| began.elapsed())
    }

    /// Returns the duration of the write of an API's file that is in progress; zero if there is none.
    pub(super) fn writing(&self) -> Duration {
        lock(&self.write).as_ref().map_or(Duration::ZERO, |(_, began)| began.elapsed())
    }

    /// Returns the folder and the duration of a write of an API's file that hangs.
    fn hanging_write(&self) -> Option<(PathBuf, Duration)> {
        let write = lock(&self.write);
        let (path, began) = write.as_ref()?;
        let time = began.elapsed();
        (time >= WRITE_PATIENCE).then(|| (path.clone(), time))
    }

    /// Returns the message for changes over the API that no file system takes: a reload or a write hangs.
    pub(super) fn refuses_changes(&self) -> Option<String> {
        self.stuck().or_else(|| self.hanging_write().map(|(path, time)| hangs(&path, time)))
    }

    /// Returns the entries of `out_of_date` for a reload that is slow or hangs, and for a write that hangs.
    pub(crate) fn late(&self) -> impl Iterator<Item = Entry> {
        self.late_reload().into_iter().chain(self.late_write())
    }

    /// Returns the entry for a write of an API's file that hangs.
    fn late_write(&self) -> Option<Entry> {
        let (path, time) = self.hanging_write()?;
        let why = hangs(&path, time);
        Some(Entry::new(Kind::Stuck, path.parent(), Beginning::ago(time), &why))
    }

    /// Returns the entry for a reload that is slow or hangs.
    fn late_reload(&self) -> Option<Entry> {
        let running = self.running();
        let since = Beginning::ago(running);
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

    /// Returns the milliseconds since `began`.
    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Replaces the state.
    pub(super) fn set(&self, state: State) {
        self.state.store(Arc::new(state));
    }

    pub(super) fn count_swap(&self) {
        self.swaps.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Returns the number of swaps since the start of the process.
    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.load(Relaxed)
    }

    /// Returns the number of reloads since the start of the process that reported errors.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

/// A guard for a reload or an API change in progress.
pub(super) struct Busy(Arc<ReloadStatus>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Relaxed);
    }
}

/// The duration from which a reload is an entry of `out_of_date`.
const SLOW: Duration = Duration::from_secs(2);
/// A guard for reading or writing files.
pub(super) struct OnDisk<'p>(&'p ReloadStatus);

impl Drop for OnDisk<'_> {
    fn drop(&mut self) {
        self.0.on_disk.store(false, Relaxed);
        self.0.heartbeat.beat();
    }
}

/// The duration from which a reload or API change counts as hanging; reading all that the bounds allow takes a few
/// seconds.
const STUCK: Duration = Duration::from_secs(10);

/// The longest wait for a write until it replaces the file, and again for that. A disk under load takes a second or two to
/// sync.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Returns the message for a file system that has not answered a write for so long.
pub(super) fn hangs(path: &Path, time: Duration) -> String {
    let folder = path.parent().unwrap_or(path).display();
    format!(
        "the disk of {folder} has not answered for {} s: nothing was changed, nor is it later; changes are refused until it answers",
        time.as_secs()
    )
}

/// Serialises the warnings as texts; the errors are in [`State::error`].
fn warnings<S: Serializer>(diagnostics: &Diagnostics, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(summary::lines(diagnostics.warnings(), MAX_TOLD_WARNINGS, "warnings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a status whose clock began so many seconds ago.
    fn status(seconds: u64) -> Arc<ReloadStatus> {
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
            without_policy: ClientsWithoutPolicy::default(),
            upstream_error: None,
        };
        let began = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        Arc::new(ReloadStatus { began, ..ReloadStatus::new(state) })
    }

    #[test]
    fn reload_that_hangs_is_reported_until_it_goes_on() {
        let status = status(100);
        assert_eq!((status.running(), status.stuck()), (Duration::ZERO, None));
        let busy = status.begin();
        assert_eq!(status.stuck(), None, "it has just begun");
        // As if it had begun with the clock, a hundred seconds ago.
        status.busy_since.store(1, Relaxed);
        assert!(status.running() >= Duration::from_secs(100));
        assert!(status.stuck().unwrap().starts_with("a reload has been running for 100 s: "));
        drop(busy);
        assert_eq!((status.running(), status.stuck()), (Duration::ZERO, None));
    }
}
