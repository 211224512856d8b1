//! The schedule of writing the last good state: at once after a start, and half a second after a reload.
//!
//! A thread of its own writes the state, and every two seconds checks that it is unchanged, as a disk that hangs must
//! not hold up reloads. At most one such thread runs.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::last_good::{LastGoodPlace, SaveError, StateVersion};
use super::{Reloader, tick};

/// The delay of a write after a reload: files are mostly saved several at a time.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause after a write, as a multiple of its duration: writing takes at most one percent of the time.
const REST: u32 = 100;
/// The longest pause after a write: until the next one, a start would go back to what was in force before it.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// The interval of checks whether the thread has finished.
const POLL: Duration = Duration::from_millis(100);
/// The interval of checks that the saved state is unchanged: the next start may need it.
const CHECK: Duration = Duration::from_secs(2);
/// The duration of a write from which it is reported in `out_of_date`.
const REPORT_AFTER: Duration = Duration::from_secs(10);
/// The longest delay of the process's exit for a write.
const MAX_EXIT_WAIT: Duration = Duration::from_millis(500);

/// A thread that writes or checks the state; it returns the place, the outcome, and the duration.
type WriterThread = JoinHandle<(LastGoodPlace, Result<Work, SaveError>, Duration)>;

/// The work that a thread has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It wrote the state.
    Write,
    /// It checked that the saved state is unchanged, which says nothing about what could not be saved.
    Check,
}

/// A version of the state file, with the time at which it was written, or why it is unusable.
type KnownState = (Option<StateVersion>, Result<String, String>);

/// The schedule of writing and checking the last good state, and the thread that does it.
pub(super) struct LastGoodWriter {
    /// The time of the next write; `None` if nothing changed since the last one.
    due: Option<Instant>,
    /// The earliest time of the next write.
    rested: Instant,
    /// The time of the next check.
    check: Instant,
    /// The place of the state; `None` while the thread has it, or if none is to be saved.
    place: Option<LastGoodPlace>,
    /// The thread, and the time at which it began.
    running: Option<(WriterThread, Instant)>,
    /// The directory, and why the state could not be written there.
    failed: Option<(PathBuf, String)>,
    /// The state file as it was last read, which is read again only if its version differs.
    found: Option<KnownState>,
}

impl LastGoodWriter {
    /// Plans the first write at once, before a reload can find something bad.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { due: Some(now), rested: now, check: now, place: None, running: None, failed: None, found: None }
    }

    /// Plans a write after a reload, which may have changed the state. Further changes do not put it off, so that the
    /// state is written however often something changes.
    pub(super) fn note_change(&mut self) {
        self.due.get_or_insert((Instant::now() + PAUSE).max(self.rested));
    }

    /// Returns the time of the next write or check; while a thread runs, the time to see whether it has finished.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.is_some() {
            return Some(Instant::now() + POLL);
        }
        let check = self.place.is_some().then_some(self.check);
        [self.due, check].into_iter().flatten().min()
    }

    /// Returns why the state cannot be written, with the directory if that is known.
    pub(super) fn failed(&self) -> Option<(Option<PathBuf>, String)> {
        let is_long = self.running.as_ref().is_some_and(|(_, began)| began.elapsed() >= REPORT_AFTER);
        let hangs =
            is_long.then(|| (None, "the last good state cannot be written: its disk does not answer".to_owned()));
        hangs.or_else(|| self.failed.clone().map(|(directory, why)| (Some(directory), why)))
    }

    /// Returns the time at which the state on disk for the configuration file at `path` was written.
    ///
    /// # Errors
    /// The state does not exist, or is unusable: why.
    pub(super) fn time_written(&mut self, path: &Path) -> Result<String, String> {
        let place = LastGoodPlace::of(path);
        let version = place.version();
        if let Some((_, found)) = self.found.as_ref().filter(|(known, _)| *known == version) {
            return found.clone();
        }
        let read = place.read().and_then(|kept| kept.ok_or_else(|| "there is none yet".to_owned()));
        let found = read.map(|kept| kept.written());
        self.found = Some((version, found.clone()));
        found
    }

    /// Starts the thread, which never holds up the caller, even if the disk hangs.
    fn run(
        &mut self,
        work: impl FnOnce() -> (LastGoodPlace, Result<Work, SaveError>, Duration) + Send + 'static,
    ) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("last-good".into()).spawn(work)?;
        self.running = Some((thread, Instant::now()));
        Ok(())
    }

    /// Takes the outcome of the thread if it has finished; returns whether it is still running.
    fn collect(&mut self) -> bool {
        let Some((thread, _)) = self.running.take_if(|(thread, _)| thread.is_finished()) else {
            return self.running.is_some();
        };
        // A panic has been reported by the panic hook.
        let Ok((place, kept, took)) = thread.join() else { return false };
        let now = Instant::now();
        let rest = (REST * took).min(LONGEST_REST);
        self.rested = now + rest;
        self.check = now + CHECK.max(rest);
        if matches!(kept, Err(SaveError::Lost)) {
            // A state that was changed or removed on disk is written again at once.
            self.due = Some(now);
        } else if !matches!(kept, Ok(Work::Check)) {
            self.failed = match kept {
                Err(SaveError::Failed(why)) => Some((place.directory().to_owned(), why)),
                Ok(_) | Err(SaveError::Changed | SaveError::Lost) => None,
            };
        }
        if self.failed.is_some() {
            // A later try may succeed without a reload, as when a full disk has room again.
            self.due.get_or_insert(Instant::now() + tick::LONGEST_PAUSE);
        }
        self.place = Some(place);
        false
    }
}

impl Reloader {
    /// Starts a write or a check, if one is due and none is running.
    pub(super) fn write_last_good_when_due(&mut self) {
        let failed = self.last_good_writer.failed();
        if !self.last_good_writer.collect() {
            let now = Instant::now();
            if self.last_good_writer.due.is_some_and(|due| due <= now) {
                self.last_good_writer.due = None;
                self.begin_writing();
            } else if self.last_good_writer.check <= now {
                self.last_good_writer.check = now + CHECK;
                self.begin_checking();
            }
        }
        if failed != self.last_good_writer.failed() {
            self.report_out_of_date();
        }
    }

    /// Writes the state before the process exits, if a write is planned; waits at most [`MAX_EXIT_WAIT`].
    pub(super) fn write_last_good_before_exit(&mut self) {
        let end = Instant::now() + MAX_EXIT_WAIT;
        // The thread is polled, as joining it would wait for a disk that hangs.
        while self.last_good_writer.collect() && Instant::now() < end {
            thread::park_timeout(POLL / 10);
        }
        if self.last_good_writer.due.take().is_some() && self.last_good_writer.running.is_none() {
            self.begin_writing();
            while self.last_good_writer.collect() && Instant::now() < end {
                thread::park_timeout(POLL / 10);
            }
        }
    }

    /// Starts a write of what is in force.
    fn begin_writing(&mut self) {
        let path = self.config_path.clone().filter(|_| self.config.start_from_last_good);
        let (Some(path), Some(text)) = (path, self.config_text.clone()) else {
            (self.last_good_writer.place, self.last_good_writer.failed) = (None, None);
            return;
        };
        let mut place = self.last_good_writer.place.take().unwrap_or_else(|| LastGoodPlace::of(&path));
        let (root, library) = (self.directory.tree.root.clone(), self.library.clone());
        let directory = place.directory().to_owned();
        if let Err(error) = self.last_good_writer.run(move || {
            let start = Instant::now();
            let kept = place.save(&text, &root, &library).map(|_| Work::Write);
            (place, kept, start.elapsed())
        }) {
            self.last_good_writer.failed = Some((directory, error.to_string()));
            self.last_good_writer.due = Some(Instant::now() + tick::LONGEST_PAUSE);
        }
    }

    /// Starts a check of the saved state.
    fn begin_checking(&mut self) {
        let Some(place) = self.last_good_writer.place.clone() else { return };
        // If no thread can be started, the next check comes after the interval.
        let _ = self.last_good_writer.run(move || {
            let start = Instant::now();
            let kept = place.check().map(|()| Work::Check);
            (place, kept, start.elapsed())
        });
    }
}
