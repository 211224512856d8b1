//! Changes that the API asks for: one file each, in force and on disk when the answer comes, or neither.
//!
//! The looking thread makes them, so that nothing else changes meanwhile: it builds the next generation from the new text,
//! and only where that is good writes the file (whole, under a temporary name, synced and renamed) and swaps. A crash
//! leaves the old file or the new one.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::apply::Trigger;
use super::atomic_write::{self, WriteError};
use super::summary;
use super::watch::Waker;
use super::{Progress, Reloader, bindings};
use crate::bounds::{MAX_CHANGE_QUEUE, MAX_MADE, MAX_TOLD_ERRORS};
use crate::document::Diagnostic;
use crate::policy::{Diagnostics, Reloaded, Tree};

/// A change of one policy file.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The file, relative to the policies directory.
    pub(crate) path: PathBuf,
    /// What the file has to hold on disk for the change to make sense; `None` is that there is no file.
    pub(crate) before: Option<Arc<str>>,
    /// What it is to hold; `None` removes it.
    pub(crate) after: Option<Arc<str>>,
}

/// Why a change was not made; nothing of it is in force or on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The file on disk is another one than `before`: somebody edits it. What is there has been looked at meanwhile, unless
    /// its writer is still at it.
    #[error("the file holds something else by now")]
    Stale,
    /// The same, and what is there was held back.
    #[error("the file holds something that is not in force")]
    HeldBack,
    /// It would not load, alone or with the other files.
    #[error("{}", summary::lines(.0.iter(), MAX_TOLD_ERRORS, "errors").join("; "))]
    Bad(Vec<Diagnostic>),
    /// The file cannot be written.
    #[error("{0}")]
    Unwritable(String),
    /// There are as many files as there may be.
    #[error("there are {MAX_MADE} policy files, and no more are made: delete what nobody needs")]
    Full,
    /// Too many changes wait.
    #[error("too many changes wait")]
    Busy,
    /// The process is stopping.
    #[error("hostgate is stopping")]
    Stopping,
    /// A look or another change hangs.
    #[error("{0}")]
    Stuck(String),
    /// It was not made in time.
    #[error(
        "it is not in force after {} s, and may be later: see `hostgate status` and /readyz before it is asked for again",
        LONGEST_WAIT.as_secs()
    )]
    Late,
}

/// How long an API request waits for its change; a client waits for half a minute at least.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stale => Self::Stale,
            WriteError::Io(_) | WriteError::Taken(_) => Self::Unwritable(error.to_string()),
        }
    }
}

/// Hands changes to the looking thread.
#[derive(Clone)]
pub(crate) struct Changer {
    /// Changes that wait.
    inbox: Arc<Inbox>,
    /// Wakes the thread.
    waker: Waker,
    /// Whether the thread hangs.
    progress: Arc<Progress>,
}

/// Changes that wait for the looking thread.
#[derive(Default)]
pub(super) struct Inbox(Mutex<Queue>);

/// What is in an [`Inbox`].
#[derive(Default)]
struct Queue {
    /// The changes, first come first made.
    changes: VecDeque<Asked>,
    /// Whether nobody will look any more.
    is_closed: bool,
}

/// A change, and who waits for it.
struct Asked {
    /// The change.
    change: Change,
    /// Gets the generation that has it in force.
    answer: oneshot::Sender<Result<u64, Refused>>,
}

impl Changer {
    /// Makes a handle.
    pub(super) fn new(inbox: Arc<Inbox>, waker: Waker, progress: Arc<Progress>) -> Self {
        Self { inbox, waker, progress }
    }

    /// Makes a change; returns the generation that has it in force. Once asked for, it is made even if the caller goes.
    ///
    /// # Errors
    /// Why it was not made.
    pub(crate) async fn apply(&self, change: Change) -> Result<u64, Refused> {
        if let Some(why) = self.progress.stuck() {
            return Err(Refused::Stuck(why));
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.is_closed {
                return Err(Refused::Stopping);
            }
            if queue.changes.len() >= MAX_CHANGE_QUEUE {
                return Err(Refused::Busy);
            }
            queue.changes.push_back(Asked { change, answer });
        }
        self.waker.ask_for_changes();
        match timeout(LONGEST_WAIT, answered).await {
            Ok(made) => made.unwrap_or(Err(Refused::Stopping)),
            // It is not taken back: it may be under way, and is made once the file system answers.
            Err(_) => Err(Refused::Late),
        }
    }
}

impl Inbox {
    /// Returns the next change.
    fn next(&self) -> Option<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).changes.pop_front()
    }

    /// Refuses what waits, and what comes.
    pub(super) fn close(&self) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.is_closed = true;
        queue.changes.clear();
    }
}

impl Reloader {
    /// Makes the changes that were asked for.
    pub(super) fn make_changes(&mut self) {
        while let Some(Asked { change, answer }) = self.inbox.next() {
            let busy = self.progress.begin();
            let made = self.make_change(&change);
            drop(busy);
            if self.retry.is_none() {
                self.plan_retry();
            }
            // Who asked may be gone; what is made is made.
            let _ = answer.send(made);
        }
    }

    /// Makes one change.
    fn make_change(&mut self, change: &Change) -> Result<u64, Refused> {
        let path = self.config.policies.join(&change.path);
        let made = self.try_change(&path, change);
        if matches!(made, Err(Refused::Stale)) {
            self.reload(Trigger::Event);
            if self.held_back.contains(&path) && !self.files.is_unfinished(&path) {
                return Err(Refused::HeldBack);
            }
        }
        made
    }

    /// Makes one change, unless the file on disk is another one than was thought.
    fn try_change(&mut self, path: &Path, change: &Change) -> Result<u64, Refused> {
        let Change { before, after, .. } = change;
        let progress = Arc::clone(&self.progress);
        let disk = progress.disk();
        if let Some(why) = self.directory.object_folder_fault(&self.config.policies) {
            if self.directory.tree.unreadable.is_empty() {
                self.watch.look_again();
            }
            return Err(Refused::Unwritable(format!("write {}: its folder: {why}", path.display())));
        }
        if !atomic_write::holds(path, before.as_deref())? {
            return Err(Refused::Stale);
        }
        drop(disk);
        if before.is_none() && self.directory.tree.files.iter().len() >= MAX_MADE {
            return Err(Refused::Full);
        }
        let snapshot = Arc::clone(self.library.snapshot());
        let known = self.directory.tree.files.get(path).cloned();
        // A copy, so that all that is kept of a file is made by one thread and lies together: between texts of others,
        // what they had passing by leaves holes.
        put(&mut self.directory.tree, path, after.as_deref().map(|text| Ok(Arc::from(text))));
        let written = self.next_with(path).and_then(|reloaded| {
            let _disk = progress.disk();
            self.store.put(path, before.as_deref(), after.as_deref())?;
            Ok(reloaded)
        });
        match written {
            Ok(reloaded) => {
                self.directory.note_object_written(&self.config.policies);
                let replaced = std::mem::replace(&mut self.library, reloaded.library);
                self.swap(&snapshot);
                drop(replaced);
                self.report(&snapshot, reloaded.held_back, reloaded.diagnostics, Trigger::ApiChange);
                Ok(self.library.snapshot().generation)
            }
            Err(refused) => {
                put(&mut self.directory.tree, path, known);
                Err(refused)
            }
        }
    }

    /// Makes the library in which a file that was just changed in the tree is in force.
    fn next_with(&mut self, path: &Path) -> Result<Reloaded, Refused> {
        let (files, bindings) = (&mut self.files, bindings(&self.config));
        let progress = &self.progress;
        let mut read_list = |path: &Path, held| {
            let _disk = progress.disk();
            files.read_list(path, held)
        };
        self.directory.tree.changed = Some(BTreeSet::from([path.to_owned()]));
        let reloaded = self.library.reload(&self.directory.tree, &mut read_list, &bindings);
        let is_made = |reloaded: &Reloaded| reloaded.swapped && !reloaded.held_back.iter().any(|held| held == path);
        if is_made(&reloaded) {
            return Ok(reloaded);
        }
        let own = errors_of(path, &reloaded.diagnostics);
        if self.held_back.is_empty() {
            return Err(Refused::Bad(own.unwrap_or_else(|| reloaded.diagnostics.errors().cloned().collect())));
        }
        // What was held back before may be what is wrong, a test of it that fails, say. That must not keep a devbox from
        // being shut down: the change is tried beside what is in force, and what is on disk beside both after it.
        let mut tree = self.directory.tree.clone();
        tree.changed = None;
        for held in &self.held_back {
            put(&mut tree, held, self.library.text_in_force(held).map(|text| Ok(Arc::clone(text))));
        }
        let alone = self.library.reload(&tree, &mut read_list, &bindings);
        if !is_made(&alone) {
            // Beside what is wrong already, what is wrong with the change may not have been told.
            let own = errors_of(path, &alone.diagnostics).or(own);
            return Err(Refused::Bad(own.unwrap_or_else(|| alone.diagnostics.errors().cloned().collect())));
        }
        self.directory.tree.changed = None;
        let all = alone.library.reload(&self.directory.tree, &mut read_list, &bindings);
        Ok(Reloaded { swapped: true, ..all })
    }
}

/// Puts a file into a tree, or takes it out.
fn put(tree: &mut Tree, path: &Path, text: Option<Result<Arc<str>, String>>) {
    match text {
        Some(text) => tree.files.insert(path, text),
        None => tree.files.remove(path),
    }
}

/// Returns the errors that have to do with a file; `None` where none names it, as with a test that would fail.
fn errors_of(path: &Path, diagnostics: &Diagnostics) -> Option<Vec<Diagnostic>> {
    let names = |error: &&Diagnostic| {
        let related = error.related.iter().map(|related| &related.place);
        related.chain([&error.place]).any(|place| &*place.path == path)
    };
    let own: Vec<Diagnostic> = diagnostics.errors().filter(names).cloned().collect();
    (!own.is_empty()).then_some(own)
}
