//! Watches of directories for changes: the only use of `notify`.
//!
//! Directories are watched, never files: a watch on a file ends when another file is renamed over it, and sees nothing
//! of a symlink that is changed (a mounted `ConfigMap`). An event other than an access only says that something
//! changed: the reload compares what is on disk, at the paths that events name if only files changed, and else everywhere.
//!
//! One change causes several events, so [`Watch::wait`] returns after a short quiet time, which has an upper bound. A
//! file that is open for writing delays the reload for longer, as a part of it may be valid.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::files::{FileVersion, FollowedPaths};
use crate::bounds::{MAX_CHANGED, MAX_WRITING};
use crate::telemetry::heartbeat::Heartbeat;
use crate::util::lock;

/// The quiet time before a reload: an editor or a copy causes several events for one change.
const QUIET: Duration = Duration::from_millis(50);
/// The quiet time if every changed file is complete: closed after it was written, or renamed into place.
const QUIET_AFTER_CLOSE: Duration = Duration::from_millis(10);
/// The longest delay of a reload while events keep coming.
const MAX_DELAY: Duration = Duration::from_millis(400);
/// The longest delay of a reload for files that are being written. After it the reload leaves them out: until its
/// writer closes it, a file may hold a part that happens to be valid.
const MAX_WRITER_DELAY: Duration = Duration::from_secs(1);
/// The time after which a file that is still open for writing is read as it is.
const MAX_OPEN: Duration = Duration::from_mins(1);
/// The interval of full reloads while a file is being written.
const RETRY: Duration = Duration::from_secs(2);

/// The reason for which [`Watch::wait`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeReason {
    Changed,
    /// A reload was requested (SIGHUP); it reads everything, whatever events say.
    ReloadRequested,
    /// API changes are queued.
    ApiChange,
    /// The time given to [`Watch::wait`] has come.
    Tick,
    Stop,
}

/// The paths that changed since the last reload, as far as events say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Any file may have changed.
    Anything,
    /// Files alone changed, at these absolute paths: each was written, created, removed or renamed.
    Files(HashSet<PathBuf>),
}

impl Default for Changes {
    fn default() -> Self {
        Self::Files(HashSet::new())
    }
}

impl Changes {
    /// Adds changed paths; above [`MAX_CHANGED`] of them, anything may have changed.
    fn add(&mut self, paths: &[PathBuf]) {
        match self {
            Self::Files(all) if all.len() < MAX_CHANGED => all.extend(paths.iter().cloned()),
            _ => *self = Self::Anything,
        }
    }
}

/// A bit of [`Signals::bits`]: something changed on disk.
const CHANGED: u8 = 1;
/// A bit of [`Signals::bits`]: a reload was requested.
const RELOAD_REQUESTED: u8 = 2;
/// A bit of [`Signals::bits`]: the process is stopping.
const STOP: u8 = 4;
/// A bit of [`Signals::bits`]: API changes are queued.
const API_CHANGE: u8 = 8;

/// The events since the last reload, merged, shared by the threads that raise them and the reload thread.
struct Signals {
    /// The union of [`CHANGED`], [`RELOAD_REQUESTED`], [`STOP`] and [`API_CHANGE`], as far as each was raised.
    bits: AtomicU8,
    /// Wakes the reload thread; a capacity of one is enough, as the bits hold the reasons.
    wakeup: SyncSender<()>,
    /// Files that were written and are not closed yet, with the time of the first write.
    writing: Mutex<HashMap<PathBuf, Instant>>,
    /// The names of files, other than `*.toml`, whose content causes a reload.
    names: Mutex<HashSet<OsString>>,
    changed: Mutex<Changed>,
    watched: Mutex<Watched>,
}

/// The watched directories, by the absolute paths that events have.
#[derive(Default)]
struct Watched {
    all: HashSet<PathBuf>,
    /// Directories that were created, removed or renamed since they were watched. The watch went with
    /// what was at the path, and the same directory may be back, so device and inode do not show the loss.
    lost: HashSet<PathBuf>,
}

impl Watched {
    /// Records the watched directories that an event creates, removes or renames.
    fn take(&mut self, event: &Event) {
        let moves =
            matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let moved = event.paths.iter().filter(|path| moves && self.all.contains(*path));
        self.lost.extend(moved.cloned());
    }
}

/// The changes since the last reload.
#[derive(Default)]
struct Changed {
    changes: Changes,
    /// The paths where more events are likely: a file that was created and is not closed yet, was removed, or was
    /// renamed away.
    partial: HashSet<PathBuf>,
}

impl Changed {
    /// Records an event about files whose content causes a reload, or may.
    fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Remove(RemoveKind::File) => {
                self.partial.extend(event.paths.iter().cloned());
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => self.partial.extend(event.paths.iter().cloned()),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                // A file written under a temporary name is complete once renamed; an editor's backup goes the other
                // way.
                let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
                if let [from, to] = event.paths.as_slice()
                    && !is_toml(from)
                    && is_toml(to)
                {
                    self.partial.remove(from);
                }
                self.partial.retain(|path| event.paths.last() != Some(path));
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To))
            | EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.partial.retain(|path| !event.paths.contains(path));
            }
            // Whether a write is complete is known from `Signals::writing`, which the close event ends.
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {}
            _ => {
                self.changes = Changes::Anything;
                self.partial.extend(event.paths.iter().cloned());
            }
        }
        if event.need_rescan() || event.paths.is_empty() {
            self.changes = Changes::Anything;
        }
        self.changes.add(&event.paths);
    }
}

impl Signals {
    /// Sets a bit and wakes the reload thread.
    fn raise(&self, bit: u8) {
        self.bits.fetch_or(bit, Ordering::SeqCst);
        // A full channel means that the thread is about to wake anyway.
        let _ = self.wakeup.try_send(());
    }

    /// Records an event of the kernel, on the thread of `notify`.
    fn take(&self, event: notify::Result<Event>) {
        // An error may hide events, as an overflow of the kernel's queue does.
        let Ok(event) = event else {
            self.anything();
            return self.raise(CHANGED);
        };
        // Writes to other files in a watched directory (a log, say) are ignored. Files that are created, removed or
        // renamed are not: a symlink or a directory may be among them.
        let is_content = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
        let is_close = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        if (is_content || is_close) && !event.paths.is_empty() && !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        lock(&self.watched).take(&event);
        if event.kind.is_access() && !is_close {
            return;
        }
        // The writer is recorded before the change, so that a reload that sees the change also sees that it is
        // unfinished.
        self.note_writer(&event);
        lock(&self.changed).take(&event);
        self.raise(CHANGED);
    }

    /// Records the files whose writing begins or ends with an event.
    fn note_writer(&self, event: &Event) {
        let mut writing = lock(&self.writing);
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) if writing.len() < MAX_WRITING => {
                let now = Instant::now();
                for path in &event.paths {
                    writing.entry(path.clone()).or_insert(now);
                }
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            // After a rename or a removal, the file that is open is no longer the one at this path.
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => writing.retain(|path, _| !event.paths.contains(path)),
            _ => {}
        }
    }

    /// Marks everything as changed.
    fn anything(&self) {
        lock(&self.changed).changes = Changes::Anything;
    }

    /// Returns whether every changed file is complete, so that the short quiet time is enough.
    fn is_complete(&self) -> bool {
        lock(&self.changed).partial.is_empty() && !self.is_writing()
    }

    /// Returns whether a change of the content at `path` causes a reload.
    fn matters(&self, path: &Path) -> bool {
        let names = lock(&self.names);
        path.extension().is_some_and(|extension| extension == "toml")
            || path.file_name().is_some_and(|name| names.contains(name))
            // A changed mode of a directory may make it readable.
            || path.is_dir()
    }

    /// Returns whether any file is being written.
    fn is_writing(&self) -> bool {
        !self.writing().is_empty()
    }

    /// Returns the files that are being written, without those that have been open for longer than [`MAX_OPEN`].
    fn writing(&self) -> HashSet<PathBuf> {
        let mut writing = lock(&self.writing);
        writing.retain(|path, since| {
            let is_recent = since.elapsed() < MAX_OPEN;
            if !is_recent {
                tracing::warn!(path = %path.display(), "still open for writing after a minute; read as it is");
            }
            is_recent
        });
        writing.keys().cloned().collect()
    }
}

/// A handle that wakes the reload thread, for the signal thread and the API.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Signals>);

impl Waker {
    /// Requests a reload of everything.
    pub(crate) fn request_reload(&self) {
        self.0.raise(RELOAD_REQUESTED);
    }

    /// Wakes the thread for queued API changes.
    pub(super) fn announce_api_change(&self) {
        self.0.raise(API_CHANGE);
    }

    /// Ends the reload thread.
    pub(crate) fn stop(&self) {
        self.0.raise(STOP);
    }
}

/// The kernel's watches of directories, and the wait for their events.
pub(crate) struct Watch {
    /// The inotify instance; `None` while the kernel gives none.
    watcher: Option<RecommendedWatcher>,
    /// The reason why a directory is not watched, with the first such directory; the path is `None` if none is watched.
    unwatched: Option<(Option<PathBuf>, String)>,
    /// The time of the next full reload while a file is being written.
    retry: Cell<Option<Instant>>,
    /// The watched directories, each with the device and inode that it had when the watch was made.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether a directory could not be watched, so that events are incomplete.
    incomplete: bool,
    /// Whether a directory has several paths: events name one of them, and its files are known by another.
    aliased: bool,
    signals: Arc<Signals>,
    /// The receiving end of [`Signals::wakeup`].
    wakeups: Receiver<()>,
    /// The time of the first change that waits for quiet.
    changed_since: Cell<Option<Instant>>,
    /// The heartbeat of the reload thread, which calls [`Watch::wait`].
    heartbeat: Heartbeat,
}

impl Watch {
    /// Asks for an inotify instance, and watches no directory yet.
    pub(crate) fn new(heartbeat: Heartbeat) -> Self {
        let (wakeup, wakeups) = mpsc::sync_channel(1);
        let signals = Arc::new(Signals {
            bits: AtomicU8::new(0),
            wakeup,
            writing: Mutex::default(),
            names: Mutex::default(),
            changed: Mutex::default(),
            watched: Mutex::default(),
        });
        let mut watch = Self {
            watcher: None,
            unwatched: None,
            retry: Cell::new(None),
            watched: BTreeMap::new(),
            incomplete: false,
            aliased: false,
            signals,
            wakeups,
            changed_since: Cell::new(None),
            heartbeat,
        };
        watch.begin();
        watch
    }

    /// Asks the kernel for an inotify instance, if there is none; changes before it are not known.
    fn begin(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        let raised = Arc::clone(&self.signals);
        match notify::recommended_watcher(move |event| raised.take(event)) {
            Ok(watcher) => (self.watcher, self.unwatched) = (Some(watcher), None),
            Err(error) => self.unwatched = Some((None, no_instance(&error))),
        }
    }

    /// Returns why changes may come without an event, with the directory that is not watched; without a path, none is.
    pub(super) fn unwatched(&self) -> Option<&(Option<PathBuf>, String)> {
        self.unwatched.as_ref()
    }

    /// Returns a handle that wakes [`Watch::wait`].
    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.signals))
    }

    /// Makes [`Watch::wait`] return [`WakeReason::Changed`] with [`Changes::Anything`].
    ///
    /// The quiet time is waited for all the same: meanwhile events show the files that are being written right now.
    pub(crate) fn assume_changes(&self) {
        self.signals.anything();
        self.signals.raise(CHANGED);
    }

    /// Waits for an event and then for quiet, both for a bounded time, or until `tick`.
    pub(crate) fn wait(&self, tick: Instant) -> WakeReason {
        loop {
            self.heartbeat.beat();
            // Bits that an API change left set have used up their wakeup already.
            if self.signals.bits.load(Ordering::SeqCst) != 0 {
                let _ = self.wakeups.try_recv();
            } else {
                // A writer that keeps its file open causes no event when its minute is over, so the thread wakes by
                // itself.
                let is_writing = self.signals.is_writing();
                let now = Instant::now();
                let retry = self.retry.get().filter(|_| is_writing).or_else(|| is_writing.then(|| now + RETRY));
                self.retry.set(retry);
                let until = retry.map_or(tick, |retry| retry.min(tick));
                match self.wakeups.recv_timeout(until.saturating_duration_since(now)) {
                    Err(RecvTimeoutError::Timeout) if retry.is_some_and(|retry| retry <= Instant::now()) => {
                        self.retry.set(None);
                        self.signals.anything();
                        return WakeReason::Changed;
                    }
                    Err(RecvTimeoutError::Timeout) => return WakeReason::Tick,
                    _ => {}
                }
            }
            self.wait_for_quiet();
            match self.signals.bits.swap(0, Ordering::SeqCst) {
                0 => {}
                bits if bits & STOP != 0 => return WakeReason::Stop,
                bits if bits & API_CHANGE != 0 && !self.is_overdue() => {
                    // API changes go first; the other bits stay set, until the change on disk is overdue.
                    self.signals.bits.fetch_or(bits & !API_CHANGE, Ordering::SeqCst);
                    return WakeReason::ApiChange;
                }
                bits => {
                    self.signals.bits.fetch_or(bits & API_CHANGE, Ordering::SeqCst);
                    self.changed_since.set(None);
                    return if bits & RELOAD_REQUESTED != 0 {
                        WakeReason::ReloadRequested
                    } else {
                        WakeReason::Changed
                    };
                }
            }
        }
    }

    /// Waits until no event comes and no file is being written, for a bounded time; a requested reload, an API change
    /// or a stop ends the wait.
    fn wait_for_quiet(&self) {
        while self.signals.bits.load(Ordering::SeqCst) == CHANGED {
            let first = self.changed_since.get().unwrap_or_else(Instant::now);
            self.changed_since.set(Some(first));
            let quiet = if self.signals.is_complete() { QUIET_AFTER_CLOSE } else { QUIET };
            let is_quiet = self.wakeups.recv_timeout(quiet) == Err(RecvTimeoutError::Timeout);
            if first.elapsed() >= self.max_delay() || (is_quiet && !self.signals.is_writing()) {
                break;
            }
        }
    }

    /// Returns the longest delay of the reload that waits now.
    fn max_delay(&self) -> Duration {
        if self.signals.is_writing() { MAX_WRITER_DELAY } else { MAX_DELAY }
    }

    /// Returns whether a change on disk has waited for the longest delay, so that API changes no longer go before it.
    fn is_overdue(&self) -> bool {
        self.changed_since.get().is_some_and(|since| since.elapsed() >= self.max_delay())
    }

    /// Takes the changes since the last call.
    ///
    /// To be called before [`Watch::unfinished`]: a file whose writing begins in between is among the changes of the
    /// next reload.
    pub(crate) fn changes(&self) -> Changes {
        let changed = std::mem::take(&mut *lock(&self.signals.changed));
        // If a directory is not watched, the absence of an event says nothing.
        if self.incomplete || self.aliased || self.watcher.is_none() { Changes::Anything } else { changed.changes }
    }

    /// Returns the files that are open for writing: their content may be incomplete and must not be used.
    pub(crate) fn unfinished(&self) -> HashSet<PathBuf> {
        self.signals.writing()
    }

    /// Watches exactly the directories of `followed`; for one that does not exist, its nearest existing ancestor.
    ///
    /// Returns whether a watch was added: changes before it caused no event, so the caller has to read everything once
    /// more.
    pub(crate) fn follow(&mut self, followed: FollowedPaths) -> bool {
        let FollowedPaths { directories, names } = followed;
        *lock(&self.signals.names) = names;
        self.begin();
        let Some(watcher) = &mut self.watcher else { return false };
        let wanted: BTreeSet<PathBuf> = directories.iter().map(|directory| existing(directory)).collect();
        let count = wanted.len();
        let wanted = one_path_each(wanted, &self.watched);
        self.aliased = wanted.len() < count;
        let gone: Vec<PathBuf> = self.watched.keys().filter(|path| !wanted.contains(*path)).cloned().collect();
        for path in gone {
            self.watched.remove(&path);
            // An error is expected: if the directory was removed, the kernel removed its watch.
            let _ = watcher.unwatch(&path);
        }
        // `notify` makes the paths of its events absolute in the same way.
        let here = std::env::current_dir().unwrap_or_default();
        let lost = {
            let mut watched = lock(&self.signals.watched);
            watched.all = wanted.iter().map(|path| here.join(path)).collect();
            std::mem::take(&mut watched.lost)
        };
        // Events from below a directory that moved may be missing as well.
        let is_lost = |path: &Path| here.join(path).ancestors().any(|above| lost.contains(above));
        let mut added = false;
        self.incomplete = false;
        self.unwatched = None;
        for path in wanted {
            let Some(id) = FileVersion::at(&path).map(FileVersion::id) else { continue };
            if self.watched.get(&path) == Some(&id) && !is_lost(&path) {
                continue;
            }
            if self.watched.remove(&path).is_some() {
                // Another directory has the same path, or the same one came back.
                let _ = watcher.unwatch(&path);
            }
            // The list has each directory of the tree, so that none needs to be watched recursively.
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, id);
                    added = true;
                }
                Err(error) => {
                    self.incomplete = true;
                    self.unwatched.get_or_insert_with(|| (Some(path), no_watch(&error)));
                }
            }
        }
        added
    }
}

/// Returns the message for a missing inotify instance, with the limit to raise.
fn no_instance(error: &notify::Error) -> String {
    let help = match &error.kind {
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            " (raise fs.inotify.max_user_instances by sysctl, or the limit on open files)"
        }
        _ => "",
    };
    format!("the kernel gives no change notifications: {error}{help}")
}

/// Returns the message for a directory that is not watched, with the limit to raise.
fn no_watch(error: &notify::Error) -> String {
    let help = match error.kind {
        notify::ErrorKind::MaxFilesWatch => " (raise fs.inotify.max_user_watches by sysctl)",
        _ => "",
    };
    format!("the directory is not watched: {error}{help}")
}

/// Returns one path for each directory, preferring the path that is watched already.
///
/// The kernel has one watch for all paths of an inode (inotify(7)), and removing it for one path would remove it for
/// all.
fn one_path_each(paths: BTreeSet<PathBuf>, watched: &BTreeMap<PathBuf, (u64, u64)>) -> BTreeSet<PathBuf> {
    let (old, new): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| watched.contains_key(path));
    let mut seen = HashSet::new();
    let is_first = |path: &PathBuf| FileVersion::at(path).is_none_or(|version| seen.insert(version.id()));
    old.into_iter().chain(new).filter(is_first).collect()
}

fn existing(directory: &Path) -> PathBuf {
    let found = directory.ancestors().find(|path| path.is_dir());
    match found {
        Some(path) if path != Path::new("") => path.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Waits for an event; the test runner's time limit is the deadline.
    fn wait(watch: &Watch) -> WakeReason {
        watch.wait(Instant::now() + Duration::from_hours(1))
    }

    /// Watches these directories, and files named `old` and `new`.
    fn follow(watch: &mut Watch, directories: &[&Path]) -> bool {
        let directories = directories.iter().map(|path| path.to_path_buf()).collect();
        watch.follow(FollowedPaths { directories, names: ["old", "new"].map(OsString::from).into() })
    }

    #[test]
    fn directory_with_two_paths_stays_watched_when_one_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let (policies, lists) = (root.path().join("policies"), root.path().join("policies/lists"));
        fs::create_dir_all(&lists).unwrap();
        let alias = lists.join("..");
        for kept in [&policies, &alias] {
            let mut watch = Watch::new(Heartbeat::default());
            assert!(follow(&mut watch, &[&policies, &alias]));
            follow(&mut watch, &[kept]);
            fs::write(policies.join("new.toml"), "").unwrap();
            assert_eq!(wait(&watch), WakeReason::Changed);
        }
    }

    /// Runs `change` in a watched directory and expects an event.
    fn wakes_on(change: impl FnOnce(&Path)) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("old"), "").unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        assert!(follow(&mut watch, &[root.path()]));
        change(root.path());
        // The test runner's own time limit is the deadline.
        assert_eq!(wait(&watch), WakeReason::Changed);
    }

    #[test]
    fn writes_renames_and_removals_cause_a_reload() {
        wakes_on(|root| fs::write(root.join("old"), "x").unwrap());
        wakes_on(|root| fs::write(root.join("new"), "x").unwrap());
        wakes_on(|root| fs::rename(root.join("old"), root.join("new")).unwrap());
        wakes_on(|root| fs::remove_file(root.join("old")).unwrap());
        wakes_on(|root| fs::create_dir(root.join("new")).unwrap());
    }

    #[test]
    fn writes_to_other_files_neither_cause_nor_delay_a_reload() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let mut log = fs::File::create(root.path().join("log")).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &[root.path()]);
        log.write_all(b"line").unwrap();
        let start = Instant::now();
        fs::write(root.path().join("a.toml"), "x").unwrap();
        log.write_all(b"line").unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(start.elapsed() < MAX_WRITER_DELAY, "{:?}", start.elapsed());
        log.write_all(b"line").unwrap();
        watch.waker().request_reload();
        assert_eq!(wait(&watch), WakeReason::ReloadRequested);
        assert!(watch.wakeups.recv_timeout(2 * QUIET).is_err(), "the log woke");
    }

    #[test]
    fn reload_waits_until_a_file_that_is_being_written_is_closed() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &[root.path()]);
        let mut file = fs::File::create(root.path().join("a.toml")).unwrap();
        file.write_all(b"half").unwrap();
        let writer = std::thread::spawn(move || {
            // Longer than the quiet time.
            let start = Instant::now();
            while start.elapsed() < 4 * QUIET {
                std::thread::park_timeout(QUIET / 4);
            }
            file.write_all(b" and half").unwrap();
            drop(file);
            Instant::now()
        });
        assert_eq!(wait(&watch), WakeReason::Changed);
        let looked = Instant::now();
        assert!(writer.is_finished(), "read an incomplete file");
        let closed = writer.join().unwrap();
        assert!(looked >= closed && looked - closed < MAX_WRITER_DELAY / 2, "closing it is enough");
        // A writer that never closes delays no other file, and its file is known to be unfinished.
        let mut open = fs::File::create(root.path().join("b.toml")).unwrap();
        open.write_all(b"half").unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert_eq!(watch.unfinished(), HashSet::from([root.path().join("b.toml")]));
        drop(open);
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(watch.unfinished().is_empty());
    }

    #[test]
    fn directory_that_is_created_later_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("a/b");
        let mut watch = Watch::new(Heartbeat::default());
        assert!(follow(&mut watch, &[&wanted]));
        fs::create_dir(root.path().join("a")).unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(follow(&mut watch, &[&wanted]), "the nearer ancestor is watched now");
        fs::create_dir(root.path().join("a/b")).unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(follow(&mut watch, &[&wanted]));
        fs::write(root.path().join("a/b/c.toml"), "").unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
    }

    #[test]
    fn directory_replaced_at_its_path_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a");
        let wanted = [root.path(), &inner];
        fs::create_dir(root.path().join("a")).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &wanted);
        fs::create_dir(root.path().join("b")).unwrap();
        fs::rename(root.path().join("a"), root.path().join("c")).unwrap();
        fs::rename(root.path().join("b"), root.path().join("a")).unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(follow(&mut watch, &wanted));
        fs::write(root.path().join("a/x.toml"), "").unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
    }

    #[test]
    fn directory_moved_away_and_back_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let (inner, gone) = (root.join("a"), root.join("b"));
        let wanted: [&Path; 2] = [&root, &inner];
        fs::create_dir(&inner).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &wanted);
        // Device and inode are the same afterwards, and the watch is gone.
        fs::rename(&inner, &gone).unwrap();
        fs::rename(&gone, &inner).unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
        assert!(follow(&mut watch, &wanted));
        assert!(!follow(&mut watch, &wanted));
        fs::write(inner.join("x.toml"), "").unwrap();
        assert_eq!(wait(&watch), WakeReason::Changed);
    }

    #[test]
    fn requested_reload_wakes_at_once_and_stop_goes_first() {
        let watch = Watch::new(Heartbeat::default());
        watch.waker().request_reload();
        assert_eq!(wait(&watch), WakeReason::ReloadRequested);
        watch.waker().request_reload();
        watch.waker().stop();
        assert_eq!(wait(&watch), WakeReason::Stop);
    }
}
