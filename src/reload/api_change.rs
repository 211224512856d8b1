//! Changes over the API: one file each, in force and on disk when the response comes, or neither.
//!
//! The reload thread makes them, one after the other and never during a reload. It compiles the next generation with
//! the new text, and only if that succeeds writes the file (under a temporary name, synced and renamed) and swaps. A
//! crash leaves the old file or the new one.
//!
//! A request names the text that it expects on disk (optimistic concurrency): an edit by hand in between is never lost.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::apply::Trigger;
use super::atomic_write::{self, Expected, WriteError};
use super::status::WRITE_PATIENCE;
use super::summary;
use super::watch::Waker;
use super::{ReloadStatus, Reloader, bindings};
use crate::bounds::{MAX_CHANGE_QUEUE, MAX_MADE, MAX_TOLD_ERRORS};
use crate::document::Diagnostic;
use crate::policy::{Diagnostics, Reloaded, Tree};
use crate::util::lock;

/// A change of one policy file.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The file, relative to the policies directory.
    pub(crate) path: PathBuf,
    /// The text that the file must have on disk; `None` if it must not exist.
    pub(crate) before: Option<Arc<str>>,
    /// The new text; `None` removes the file.
    pub(crate) after: Option<Arc<str>>,
    /// Whether the addresses of the object are held, as its file is bad or gone: the change replaces whatever is on disk.
    pub(crate) is_held: bool,
}

/// The error of a change. Nothing of it is in force or on disk, nor is it later, except for a change that is late or whose
/// outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The text on disk is not `before`, as someone edits the file. A reload has read it since, unless it is still open
    /// for writing.
    #[error("the file holds something else by now")]
    Stale,
    /// The text on disk is not `before`, and the reload held it back.
    #[error("the file holds something that is not in force")]
    HeldBack,
    /// The new text has errors, alone or together with the other files.
    #[error("{}", summary::lines(.0.iter(), MAX_TOLD_ERRORS, "errors").join("; "))]
    Bad(Vec<Diagnostic>),
    #[error("{0}")]
    Unwritable(String),
    /// The policies directory has as many files as are allowed.
    #[error("there are {MAX_MADE} policy files, and no more are made: delete what nobody needs")]
    Full,
    /// The queue is full.
    #[error("too many changes wait")]
    Busy,
    #[error("hostgate is stopping")]
    Stopping,
    /// A file system does not answer a reload, this change or another one; the change is not made later either.
    #[error("{0}")]
    Stuck(String),
    /// A file system does not answer, and the change may be made once it does.
    #[error("{0}")]
    Unknown(String),
    /// The change was not made within [`LONGEST_WAIT`], and may still be.
    #[error(
        "it is not in force after {} s, and may be later: see `hostgate status` and /readyz before it is asked for again",
        LONGEST_WAIT.as_secs()
    )]
    Late,
}

/// The longest wait of an API request for its change; clients wait for at least half a minute. It covers both waits for
/// a write, and the time after which a reload counts as hanging.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
const _: () = assert!(LONGEST_WAIT.as_secs() >= 2 * WRITE_PATIENCE.as_secs() + 5);

/// The interval at which a waiting request checks whether a file system hangs.
const CHECK_EVERY: Duration = Duration::from_millis(500);

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stale => Self::Stale,
            WriteError::Hangs(why) => Self::Stuck(why),
            WriteError::Unknown(why) => Self::Unknown(why),
            WriteError::GivenUp => Self::Stuck(error.to_string()),
            WriteError::Io(_) | WriteError::Taken(_) => Self::Unwritable(error.to_string()),
        }
    }
}

/// A handle that queues changes for the reload thread and waits for their outcome.
#[derive(Clone)]
pub(crate) struct Changer {
    /// The queue.
    inbox: Arc<Inbox>,
    /// The handle that wakes the reload thread.
    waker: Waker,
    /// The status, which says whether the reload thread hangs.
    status: Arc<ReloadStatus>,
}

/// The queue of changes for the reload thread.
#[derive(Default)]
pub(super) struct Inbox(Mutex<Queue>);

/// The content of an [`Inbox`].
#[derive(Default)]
struct Queue {
    /// The changes, in the order of their requests.
    changes: VecDeque<PendingChange>,
    /// Whether the reload thread has ended.
    is_closed: bool,
    /// The number of the last change.
    last: u64,
}

/// A queued change, and the sender for its outcome.
struct PendingChange {
    /// The number by which it is withdrawn.
    number: u64,
    change: Change,
    /// The sender for the generation that has the change in force.
    answer: oneshot::Sender<Result<u64, Refused>>,
}

impl Changer {
    pub(super) fn new(inbox: Arc<Inbox>, waker: Waker, status: Arc<ReloadStatus>) -> Self {
        Self { inbox, waker, status }
    }

    /// Makes a change and returns the generation that has it in force. One that has not begun when the caller is told that
    /// it was not made, is never made.
    ///
    /// # Errors
    /// The change was not made, or not in time: see [`Refused`].
    pub(crate) async fn apply(&self, change: Change) -> Result<u64, Refused> {
        if let Some(why) = self.status.refuses_changes() {
            return Err(Refused::Stuck(why));
        }
        let (answer, mut answered) = oneshot::channel();
        let number = {
            let mut queue = lock(&self.inbox.0);
            if queue.is_closed {
                return Err(Refused::Stopping);
            }
            if queue.changes.len() >= MAX_CHANGE_QUEUE {
                return Err(Refused::Busy);
            }
            queue.last += 1;
            let number = queue.last;
            queue.changes.push_back(PendingChange { number, change, answer });
            number
        };
        self.waker.announce_api_change();
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            if let Ok(made) = timeout(CHECK_EVERY, &mut answered).await {
                return made.unwrap_or(Err(Refused::Stopping));
            }
            let (stuck, is_late) = (self.status.refuses_changes(), Instant::now() >= deadline);
            if (stuck.is_some() || is_late) && self.inbox.withdraw(number) {
                return Err(stuck.map_or(Refused::Busy, Refused::Stuck));
            }
            // It is in progress, and may be made once the file system answers.
            if is_late {
                return Err(Refused::Late);
            }
        }
    }
}

impl Inbox {
    fn next(&self) -> Option<PendingChange> {
        lock(&self.0).changes.pop_front()
    }

    /// Removes a change from the queue; returns `false` if it has begun.
    fn withdraw(&self, number: u64) -> bool {
        let mut queue = lock(&self.0);
        let place = queue.changes.iter().position(|change| change.number == number);
        place.is_some_and(|place| queue.changes.remove(place).is_some())
    }

    /// Refuses the queued changes and all later ones.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.0);
        queue.is_closed = true;
        queue.changes.clear();
    }
}

impl Reloader {
    /// Makes the queued changes, in order.
    pub(super) fn make_changes(&mut self) {
        while let Some(PendingChange { change, answer, .. }) = self.inbox.next() {
            let busy = self.status.begin();
            let made = self.make_change(&change);
            drop(busy);
            if self.retry.is_none() {
                self.plan_retry();
            }
            // The client may have disconnected; the change stays.
            let _ = answer.send(made);
        }
    }

    /// Makes one change; if the file was edited on disk, reloads first, so that the client can read what is in force.
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

    /// Makes one change, unless the text on disk is not the expected one.
    fn try_change(&mut self, path: &Path, change: &Change) -> Result<u64, Refused> {
        let Change { before, after, is_held, .. } = change;
        let status = Arc::clone(&self.status);
        self.files.budget.restart(self.library.snapshot().objects());
        let disk = status.disk();
        let is_replaced = self.directory.is_replaced(&self.config.policies);
        drop(disk);
        if is_replaced {
            // A file must not be written into a directory that only covers the one in force.
            self.reload(Trigger::Comparison);
        }
        let disk = status.disk();
        if let Some(why) = self.directory.object_folder_fault(&self.config.policies) {
            if self.directory.tree.unreadable.is_empty() {
                self.watch.assume_changes();
            }
            return Err(Refused::Unwritable(format!("write {}: its folder: {why}", path.display())));
        }
        let root = &self.config.policies;
        if *is_held {
            if self.library.object_in_force(root, path).is_none_or(|(_, _, is_held)| !is_held) {
                return Err(Refused::Stale);
            }
        } else if !atomic_write::holds(path, before.as_deref())? {
            return Err(Refused::Stale);
        }
        drop(disk);
        if before.is_none() && self.directory.tree.files.iter().len() >= MAX_MADE {
            return Err(Refused::Full);
        }
        let snapshot = Arc::clone(self.library.snapshot());
        let known = self.directory.tree.files.get(path).cloned();
        // A copy made by this thread, so that the allocations for one file are adjacent: those of the request threads
        // would leave holes between them.
        put(&mut self.directory.tree, path, after.as_deref().map(|text| Ok(Arc::from(text))));
        let written = self.next_with(path).and_then(|reloaded| {
            let _disk = status.disk();
            let expected = if *is_held { Expected::Anything } else { Expected::Text(before.clone()) };
            self.object_writer.put(path, expected, after.as_ref())?;
            Ok(reloaded)
        });
        match written {
            Ok(reloaded) => {
                self.directory.note_object_written(&self.config.policies, path);
                let disk = status.disk();
                self.record_object(path, &reloaded.library);
                drop(disk);
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

    /// Compiles the library with a file that was just changed in the tree.
    ///
    /// If files were held back before, the change is also tried on top of what is in force, as their errors are not its
    /// own.
    fn next_with(&mut self, path: &Path) -> Result<Reloaded, Refused> {
        let (files, bindings) = (&mut self.files, bindings(&self.config));
        let status = &self.status;
        let mut read_list = |path: &Path, held| {
            let _disk = status.disk();
            files.read_list(path, held)
        };
        // No other file differs from what is compiled already.
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
        // The errors may be those of files held back before, such as a test that fails. They must not keep a devbox
        // from being shut down: so the change is compiled with what is in force, and then what is on disk with the
        // result.
        let mut tree = self.directory.tree.clone();
        tree.changed = None;
        for held in &self.held_back {
            put(&mut tree, held, self.library.text_in_force(held).map(|text| Ok(Arc::clone(text))));
        }
        let alone = self.library.reload(&tree, &mut read_list, &bindings);
        if !is_made(&alone) {
            // Together with the files held back, the errors of the change itself may not have been reported.
            let own = errors_of(path, &alone.diagnostics).or(own);
            return Err(Refused::Bad(own.unwrap_or_else(|| alone.diagnostics.errors().cloned().collect())));
        }
        self.directory.tree.changed = None;
        let all = alone.library.reload(&self.directory.tree, &mut read_list, &bindings);
        Ok(Reloaded { swapped: true, ..all })
    }
}

/// Sets the text of a file in a tree; `None` removes the file.
fn put(tree: &mut Tree, path: &Path, text: Option<Result<Arc<str>, String>>) {
    match text {
        Some(text) => tree.files.insert(path, text),
        None => tree.files.remove(path),
    }
}

/// Returns the errors that name a file; `None` if none does, as with a test that would fail.
fn errors_of(path: &Path, diagnostics: &Diagnostics) -> Option<Vec<Diagnostic>> {
    let names = |error: &&Diagnostic| {
        let related = error.related.iter().map(|related| &related.place);
        related.chain([&error.place]).any(|place| &*place.path == path)
    };
    let own: Vec<Diagnostic> = diagnostics.errors().filter(names).cloned().collect();
    (!own.is_empty()).then_some(own)
}
