//! When the last good state is kept: a moment after everything on disk went into force, by a thread of its own, as a disk that
//! hangs must not hold up reloads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::last_good::{LastGood, NotKept, StateVersion};
use super::{Reloader, tick};

/// How long after a look the state is kept: saved files mostly come several at a time.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause before the next time, as a multiple of how long it took: one percent of the time.
const REST: u32 = 100;
/// The longest pause.
const LONGEST_REST: Duration = Duration::from_mins(1);
/// How often the thread is looked after.
const LOOK: Duration = Duration::from_millis(100);
/// How often what was kept is looked at: whatever removes or changes it, the next start may need it.
const CHECK: Duration = Duration::from_secs(2);
/// How long it may take before that is told.
const LONG: Duration = Duration::from_secs(10);
/// How long the end of the process waits for it.
const LAST: Duration = Duration::from_millis(500);

/// A thread that writes the state, or looks at it; it gives back the place, and says what came of it and how long it took.
type Writer = JoinHandle<(LastGood, Result<(), NotKept>, Duration)>;

/// A state on disk as it was read, and when it was written, or why it is of no use.
type Known = (Option<StateVersion>, Result<String, String>);

/// Keeps the last good state.
pub(super) struct Keeper {
    /// When it is to be kept, if something changed since.
    due: Option<Instant>,
    /// The earliest time.
    rested: Instant,
    /// When what was kept is looked at.
    check: Instant,
    /// Whether what was kept is something else by now.
    is_lost: bool,
    /// Where it is kept; `None` while the thread has it, or nothing is kept.
    place: Option<LastGood>,
    /// The thread, and when it began.
    running: Option<(Writer, Instant)>,
    /// The directory, and why the state was not kept there.
    failed: Option<(PathBuf, String)>,
    /// What was last found to be kept, so that it is read again only when it is another one.
    found: Option<Known>,
}

impl Keeper {
    /// Begins with a state that is to be kept.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            due: Some(now + PAUSE),
            rested: now,
            check: now,
            is_lost: false,
            place: None,
            running: None,
            failed: None,
            found: None,
        }
    }

    /// Notes that something may have changed.
    pub(super) fn note(&mut self) {
        self.due = Some((Instant::now() + PAUSE).max(self.rested));
    }

    /// Returns when there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.is_some() {
            return Some(Instant::now() + LOOK);
        }
        let check = self.place.is_some().then_some(self.check);
        [self.due, check].into_iter().flatten().min()
    }

    /// Returns why the state is not kept, with the directory if it is known.
    pub(super) fn failed(&self) -> Option<(Option<PathBuf>, String)> {
        let is_long = self.running.as_ref().is_some_and(|(_, began)| began.elapsed() >= LONG);
        let hangs =
            is_long.then(|| (None, "the last good state cannot be written: its disk does not answer".to_owned()));
        hangs.or_else(|| self.failed.clone().map(|(directory, why)| (Some(directory), why)))
    }

    /// Returns when the state was written that is kept for the configuration file at `path`.
    ///
    /// # Errors
    /// There is none, or it is of no use: why.
    pub(super) fn kept(&mut self, path: &Path) -> Result<String, String> {
        let place = LastGood::of(path);
        let version = place.version();
        if let Some((_, found)) = self.found.as_ref().filter(|(known, _)| *known == version) {
            return found.clone();
        }
        let read = place.read().and_then(|kept| kept.ok_or_else(|| "there is none yet".to_owned()));
        let found = read.map(|kept| kept.written());
        self.found = Some((version, found.clone()));
        found
    }

    /// Starts the thread.
    fn run(
        &mut self,
        work: impl FnOnce() -> (LastGood, Result<(), NotKept>, Duration) + Send + 'static,
    ) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("last-good".into()).spawn(work)?;
        self.running = Some((thread, Instant::now()));
        Ok(())
    }

    /// Takes what the thread came to, if it is done; returns whether there is one that is not.
    fn collect(&mut self) -> bool {
        let Some((thread, _)) = self.running.take_if(|(thread, _)| thread.is_finished()) else {
            return self.running.is_some();
        };
        // A panic has been reported by the panic hook.
        let Ok((place, kept, took)) = thread.join() else { return false };
        let now = Instant::now();
        self.rested = now + (REST * took).min(LONGEST_REST);
        self.check = now + CHECK.max(REST * took);
        if matches!(kept, Err(NotKept::Lost)) {
            (self.is_lost, self.due) = (true, Some(now));
        } else {
            self.is_lost &= kept.is_err();
            self.failed = match kept {
                Err(NotKept::Failed(why)) => Some((place.directory().to_owned(), why)),
                Ok(()) | Err(NotKept::Changed | NotKept::Lost) => None,
            };
        }
        if self.failed.is_some() {
            // It may be possible again without a change of what is kept.
            self.due.get_or_insert(Instant::now() + tick::LONGEST_PAUSE);
        }
        self.place = Some(place);
        false
    }
}

impl Reloader {
    /// Keeps the state, if that is due, everything on disk is in force and the next start would take all of it.
    pub(super) fn keep(&mut self) {
        let failed = self.keeper.failed();
        if !self.keeper.collect() {
            let now = Instant::now();
            if self.keeper.due.is_some_and(|due| due <= now) {
                self.keeper.due = None;
                self.begin_to_keep();
            } else if self.keeper.check <= now {
                self.keeper.check = now + CHECK;
                self.begin_to_check();
            }
        }
        if failed != self.keeper.failed() {
            self.report_out_of_date();
        }
    }

    /// Keeps the state before the process ends, for a moment at most.
    pub(super) fn keep_last(&mut self) {
        let end = Instant::now() + LAST;
        while self.keeper.collect() && Instant::now() < end {
            thread::park_timeout(LOOK / 10);
        }
        if self.keeper.due.take().is_some() && self.keeper.running.is_none() {
            self.begin_to_keep();
            while self.keeper.collect() && Instant::now() < end {
                thread::park_timeout(LOOK / 10);
            }
        }
    }

    /// Begins to keep the state.
    fn begin_to_keep(&mut self) {
        let Some(path) = self.config_path.clone().filter(|_| self.config.start_from_last_good) else {
            (self.keeper.place, self.keeper.failed, self.keeper.is_lost) = (None, None, false);
            return;
        };
        let is_good = self.progress.state().error.is_none()
            && self.held_back.is_empty()
            && self.warned.is_empty()
            && self.library.refused_at_start().is_empty()
            && !self.directory.tree.files.is_empty();
        let Some(text) = self.files.text(&path).filter(|_| is_good) else {
            if let Some(place) = self.keeper.place.as_ref().filter(|_| self.keeper.is_lost) {
                let why =
                    "the last good state was changed or removed on disk, and is written again once all on disk is good";
                self.keeper.failed = Some((place.directory().to_owned(), why.to_owned()));
            }
            return;
        };
        let mut place = self.keeper.place.take().unwrap_or_else(|| LastGood::of(&path));
        let (tree, library, text) = (self.directory.tree.clone(), self.library.clone(), Arc::clone(&text));
        let directory = place.directory().to_owned();
        if let Err(error) = self.keeper.run(move || {
            let start = Instant::now();
            let kept = place.keep(&text, &tree, &library).map(|_| ());
            (place, kept, start.elapsed())
        }) {
            self.keeper.failed = Some((directory, error.to_string()));
            self.keeper.due = Some(Instant::now() + tick::LONGEST_PAUSE);
        }
    }

    /// Begins to look at what was kept.
    fn begin_to_check(&mut self) {
        let Some(place) = self.keeper.place.clone() else { return };
        // Without a thread it is looked at the next time.
        let _ = self.keeper.run(move || {
            let start = Instant::now();
            let kept = place.check();
            (place, kept, start.elapsed())
        });
    }
}
