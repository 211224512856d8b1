//! When the last good state is kept: a moment after everything on disk went into force.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::last_good::{LastGood, NotKept};
use super::{Reloader, tick};

/// How long after a look the state is kept: saved files mostly come several at a time.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause before the next time, as a multiple of how long it took: one percent of the time.
const REST: u32 = 100;

/// Keeps the last good state.
pub(super) struct Keeper {
    /// When it is to be kept, if something changed since.
    due: Option<Instant>,
    /// The earliest time.
    rested: Instant,
    /// Where it is kept.
    place: Option<LastGood>,
    /// Why it was not.
    failed: Option<String>,
}

impl Keeper {
    /// Begins with a state that is to be kept.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { due: Some(now + PAUSE), rested: now, place: None, failed: None }
    }

    /// Notes that something may have changed.
    pub(super) fn note(&mut self) {
        self.due = Some((Instant::now() + PAUSE).max(self.rested));
    }

    /// Returns when the state is to be kept.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns why it is not kept, with the directory.
    pub(super) fn failed(&self) -> Option<(PathBuf, String)> {
        let directory = self.place.as_ref()?.directory().to_owned();
        Some((directory, self.failed.clone()?))
    }
}

impl Reloader {
    /// Keeps the state now, if everything on disk is in force and the next start would take all of it.
    pub(super) fn keep_now(&mut self) {
        if self.keeper.due.take().is_none() {
            return;
        }
        let Some(path) = self.config_path.clone().filter(|_| self.config.start_from_last_good) else {
            (self.keeper.place, self.keeper.failed) = (None, None);
            return;
        };
        let is_good = self.progress.state().error.is_none()
            && self.held_back.is_empty()
            && self.warned.is_empty()
            && self.library.refused_at_start().is_empty()
            && !self.directory.tree.files.is_empty();
        let Some(text) = self.files.text(&path).filter(|_| is_good) else { return };
        let start = Instant::now();
        let place = self.keeper.place.get_or_insert_with(|| LastGood::of(&path));
        match place.keep(&text, &self.directory.tree, &self.library) {
            Ok(is_new) => {
                self.keeper.failed = None;
                if is_new {
                    tracing::debug!(path = %place.directory().display(), "last good state kept");
                }
            }
            Err(NotKept::Changed) => {}
            Err(NotKept::Failed(why)) => {
                self.keeper.failed = Some(why);
                // It may be possible again without a change of what is kept.
                self.keeper.due = Some(Instant::now() + tick::LONGEST_PAUSE);
            }
        }
        self.keeper.rested = Instant::now() + REST * start.elapsed();
        self.tell_what_is_out_of_date();
    }
}
