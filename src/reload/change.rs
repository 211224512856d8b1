//! Changes that the API asks for: one file each, in force and on disk when the answer comes, or neither.
//!
//! The looking thread makes them, so that nothing else changes meanwhile: it builds the next generation from the new text,
//! and only where that is good writes the file (whole, under a temporary name, synced and renamed) and swaps. A crash
//! leaves the old file or the new one.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::watch::Waker;
use super::{Occasion, Reloader, bindings};
use crate::bounds::MAX_CHANGE_QUEUE;
use crate::document::Diagnostic;
use crate::policy::Diagnostics;

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
    /// The file on disk is another one than `before`: somebody edits it. What is there has been looked at meanwhile.
    #[error("the file holds something else by now")]
    Stale,
    /// It would not load, alone or with the other files.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Bad(Vec<Diagnostic>),
    /// The file cannot be written.
    #[error("{0}")]
    Unwritable(String),
    /// Too many changes wait.
    #[error("too many changes wait")]
    Busy,
    /// The process is stopping.
    #[error("hostgate is stopping")]
    Stopping,
}

/// Hands changes to the looking thread.
#[derive(Clone)]
pub(crate) struct Changer {
    /// Changes that wait.
    inbox: Arc<Inbox>,
    /// Wakes the thread.
    waker: Waker,
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
    pub(super) fn new(inbox: Arc<Inbox>, waker: Waker) -> Self {
        Self { inbox, waker }
    }

    /// Makes a change; returns the generation that has it in force. Once asked for, it is made even if the caller goes.
    ///
    /// # Errors
    /// Why it was not made.
    pub(crate) async fn apply(&self, change: Change) -> Result<u64, Refused> {
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
        answered.await.unwrap_or(Err(Refused::Stopping))
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
            let made = self.make_change(&change);
            // Who asked may be gone; what is made is made.
            let _ = answer.send(made);
        }
    }

    /// Makes one change.
    fn make_change(&mut self, change: &Change) -> Result<u64, Refused> {
        let path = self.config.policies.join(&change.path);
        if on_disk(&path).map_err(|error| unwritable(&path, &error))?.as_deref() != change.before.as_deref() {
            let followed = self.look(false);
            self.follow(followed);
            return Err(Refused::Stale);
        }
        let snapshot = Arc::clone(self.library.snapshot());
        let known = self.directory.tree.files.get(&path).cloned();
        match &change.after {
            // A copy, so that all that is kept of a file is made by one thread and lies together: between texts of others,
            // what they had passing by leaves holes.
            Some(text) => self.directory.tree.files.insert(path.as_path(), Ok(Arc::from(&**text))),
            None => self.directory.tree.files.remove(&path),
        }
        self.directory.tree.changed = Some(BTreeSet::from([path.clone()]));
        let files = &mut self.files;
        let mut read_list = |path: &Path, held| files.read_list(path, held);
        let reloaded = self.library.reload(&self.directory.tree, &mut read_list, &bindings(&self.config));
        let written = if reloaded.held_back.contains(&path) || !reloaded.swapped {
            Err(Refused::Bad(errors_of(&path, &reloaded.diagnostics)))
        } else {
            let written = match &change.after {
                Some(text) => replace(&path, text),
                None => remove(&path),
            };
            written.map(|()| reloaded).map_err(|error| unwritable(&path, &error))
        };
        match written {
            Ok(reloaded) => {
                let replaced = std::mem::replace(&mut self.library, reloaded.library);
                self.publish(&snapshot);
                drop(replaced);
                self.tell(&snapshot, &reloaded.held_back, reloaded.diagnostics, Occasion::Change);
                Ok(self.library.snapshot().generation)
            }
            Err(refused) => {
                match known {
                    Some(text) => self.directory.tree.files.insert(path, text),
                    None => self.directory.tree.files.remove(&path),
                }
                Err(refused)
            }
        }
    }
}

/// Returns the errors that have to do with a file; all of them where none names it, as with a test that would fail.
fn errors_of(path: &Path, diagnostics: &Diagnostics) -> Vec<Diagnostic> {
    let names = |error: &&Diagnostic| {
        let related = error.related.iter().map(|related| &related.place);
        related.chain([&error.place]).any(|place| &*place.path == path)
    };
    let own: Vec<Diagnostic> = diagnostics.errors().filter(names).cloned().collect();
    if own.is_empty() { diagnostics.errors().cloned().collect() } else { own }
}

/// Returns what a file holds; nothing when there is none.
fn on_disk(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file in place of what is there, whole: a crash leaves the one or the other.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (folder, temporary) = places(path)?;
    let hidden = temporary.parent().unwrap_or(folder);
    if !hidden.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(hidden)?;
        if let Some(above) = folder.parent() {
            sync_directory(above)?;
        }
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    let renamed =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = renamed {
        // What is left there is overwritten by the next one; no policy file is in a hidden folder.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(folder)
}

/// Removes a file for good.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_directory(places(path)?.0)
}

/// Returns the folder of a file and where its next content is written first: a hidden folder, which nobody watches.
fn places(path: &Path) -> io::Result<(&Path, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok((folder, folder.join(HIDDEN).join(name))),
        _ => Err(io::Error::other("it is no file's path")),
    }
}

/// Writes a folder's entries to disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Says what to do about a file that cannot be written.
fn unwritable(path: &Path, error: &io::Error) -> Refused {
    let mend = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (make its folder writable for the user hostgate runs as)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room on the disk)",
        _ => "",
    };
    Refused::Unwritable(format!("write {}: {error}{mend}", path.display()))
}

/// The folder in which files are written before they are renamed into place.
const HIDDEN: &str = ".new";
