//! Being told that something changed: the only use of `notify`.
//!
//! Directories are watched, never files: a watch on a file goes deaf when the file is renamed over, and sees nothing
//! of a symlink swap. Any event but an access means "look again"; what changed is found out by looking, at the files
//! that events name where only files changed, and else at everything.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::files::{Followed, Stamp};
use crate::bounds::{MAX_CHANGED, MAX_WRITING};
use crate::telemetry::heartbeat::Heartbeat;

/// How long nothing must have happened before a change is looked at: editors and copies come in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// The same when every change is a whole one: a file was closed after it was written, or renamed into place.
const WHOLE: Duration = Duration::from_millis(10);
/// How long a change waits at most when events keep coming.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a look waits for files that are being written to. Then it goes on without them: until its writer closes it,
/// what is in a file may be a half that happens to be valid.
const WRITING: Duration = Duration::from_secs(1);
/// How long a file may stay open for writing before it is read as it is.
const MAX_OPEN: Duration = Duration::from_mins(1);
/// How often is looked while a file is being written to.
const RETRY: Duration = Duration::from_secs(2);

/// Why to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Something changed on disk.
    Changed,
    /// Somebody asked for it (SIGHUP): look even where nothing seems to have changed.
    Asked,
    /// Changes wait to be made.
    Wanted,
    /// Nothing happened until the time to go on.
    Tick,
    /// The process is stopping.
    Stop,
}

/// Where something changed since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Anything may have.
    Anything,
    /// At these paths, absolute ones, and nothing but files: each was written to, came, went or got another name.
    Files(HashSet<PathBuf>),
}

impl Default for Changes {
    fn default() -> Self {
        Self::Files(HashSet::new())
    }
}

impl Changes {
    /// Adds changes at paths.
    fn add(&mut self, paths: &[PathBuf]) {
        match self {
            Self::Files(all) if all.len() < MAX_CHANGED => all.extend(paths.iter().cloned()),
            _ => *self = Self::Anything,
        }
    }
}

/// Bits of [`Signals::bits`].
const CHANGED: u8 = 1;
/// A reload was asked for.
const ASKED: u8 = 2;
/// Stop.
const STOP: u8 = 4;
/// Changes wait.
const WANTED: u8 = 8;

/// What has happened since the last look; many events are one.
struct Signals {
    /// The union of what happened.
    bits: AtomicU8,
    /// Wakes the looking thread; one place is enough.
    poke: SyncSender<()>,
    /// Files written to and not yet closed by their writer, and since when.
    writing: Mutex<HashMap<PathBuf, Instant>>,
    /// Names of files whose content matters, besides `*.toml`.
    names: Mutex<HashSet<OsString>>,
    /// What changed, and how.
    changed: Mutex<Changed>,
    /// The directories that are watched.
    watched: Mutex<Watched>,
}

/// The directories that are watched, by the paths that events have.
#[derive(Default)]
struct Watched {
    /// All of them.
    all: HashSet<PathBuf>,
    /// Those that came, went or got another name since they were watched: the watch went with what was there, and the same
    /// directory may be back.
    lost: HashSet<PathBuf>,
}

impl Watched {
    /// Takes an event.
    fn take(&mut self, event: &Event) {
        let moves =
            matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let moved = event.paths.iter().filter(|path| moves && self.all.contains(*path));
        self.lost.extend(moved.cloned());
    }
}

/// What changed since the last look.
#[derive(Default)]
struct Changed {
    /// Where.
    changes: Changes,
    /// Paths of changes that are likely to be a step of several: a file that came and was not closed yet, that went, or
    /// that was renamed away.
    steps: HashSet<PathBuf>,
}

impl Changed {
    /// Takes an event of files that matter, or may.
    fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Remove(RemoveKind::File) => {
                self.steps.extend(event.paths.iter().cloned());
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => self.steps.extend(event.paths.iter().cloned()),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                // What was made under another name and is now in place; an editor's backup goes the other way.
                let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
                if let [from, to] = event.paths.as_slice()
                    && !is_toml(from)
                    && is_toml(to)
                {
                    self.steps.remove(from);
                }
                self.steps.retain(|path| event.paths.last() != Some(path));
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To))
            | EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.steps.retain(|path| !event.paths.contains(path));
            }
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {}
            _ => {
                self.changes = Changes::Anything;
                self.steps.extend(event.paths.iter().cloned());
            }
        }
        if event.need_rescan() || event.paths.is_empty() {
            self.changes = Changes::Anything;
        }
        self.changes.add(&event.paths);
    }
}

impl Signals {
    /// Notes that something happened.
    fn raise(&self, bit: u8) {
        self.bits.fetch_or(bit, Ordering::SeqCst);
        // Full means that the thread is about to look anyway.
        let _ = self.poke.try_send(());
    }

    /// Takes an event from the kernel.
    fn take(&self, event: notify::Result<Event>) {
        // An error may hide events.
        let Ok(event) = event else {
            self.anything();
            return self.raise(CHANGED);
        };
        // What else is written beside the files that matter (a log, say) is none of our business; whatever comes, goes
        // or changes its name may be.
        let is_content = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
        let is_close = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        if (is_content || is_close) && !event.paths.is_empty() && !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).take(&event);
        if event.kind.is_access() && !is_close {
            return;
        }
        // First who writes, then what changed: a look that knows of the change knows then whether it can be read.
        self.note_writer(&event);
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).take(&event);
        self.raise(CHANGED);
    }

    /// Notes which files somebody begins or ends to write.
    fn note_writer(&self, event: &Event) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) if writing.len() < MAX_WRITING => {
                let now = Instant::now();
                for path in &event.paths {
                    writing.entry(path.clone()).or_insert(now);
                }
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => writing.retain(|path, _| !event.paths.contains(path)),
            _ => {}
        }
    }

    /// Notes that anything may have changed.
    fn anything(&self) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).changes = Changes::Anything;
    }

    /// Returns whether every change so far is a whole one.
    fn is_whole(&self) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).steps.is_empty() && !self.is_writing()
    }

    /// Returns whether the content of a file is looked at.
    fn matters(&self, path: &Path) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        path.extension().is_some_and(|extension| extension == "toml")
            || path.file_name().is_some_and(|name| names.contains(name))
            // The directory itself, when its mode changes.
            || path.is_dir()
    }

    /// Returns whether a file is being written to.
    fn is_writing(&self) -> bool {
        !self.writing().is_empty()
    }

    /// Returns the files that are being written to, those left out that have been for too long.
    fn writing(&self) -> HashSet<PathBuf> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
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

/// A handle to ask for a look, from signal handlers and the API.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Signals>);

impl Waker {
    /// Asks for a reload.
    pub(crate) fn ask(&self) {
        self.0.raise(ASKED);
    }

    /// Says that changes wait to be made.
    pub(super) fn ask_for_changes(&self) {
        self.0.raise(WANTED);
    }

    /// Ends the looking thread.
    pub(crate) fn stop(&self) {
        self.0.raise(STOP);
    }
}

/// Watches directories.
pub(crate) struct Watch {
    /// The kernel's side; `None` while it gives us no instance.
    watcher: Option<RecommendedWatcher>,
    /// Why directories are not watched, if any is not: the first one, unless it is all of them.
    unwatched: Option<(Option<PathBuf>, String)>,
    /// When is looked again, as a file is being written to.
    retry: Cell<Option<Instant>>,
    /// Directories watched, by the stamp's identity they were watched under.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether a directory that should be watched could not be.
    incomplete: bool,
    /// Whether a directory is to be followed by several paths: events name one of them, and files are known by others.
    aliased: bool,
    /// What happened.
    signals: Arc<Signals>,
    /// Woken by `signals`.
    pokes: Receiver<()>,
    /// Since when a change on disk waits for things to become quiet.
    unsettled: Cell<Option<Instant>>,
    /// The heartbeat of the thread that waits.
    heartbeat: Heartbeat,
}

impl Watch {
    /// Starts with nothing watched.
    pub(crate) fn new(heartbeat: Heartbeat) -> Self {
        let (poke, pokes) = mpsc::sync_channel(1);
        let signals = Arc::new(Signals {
            bits: AtomicU8::new(0),
            poke,
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
            pokes,
            unsettled: Cell::new(None),
            heartbeat,
        };
        watch.begin();
        watch
    }

    /// Asks the kernel for an instance, if there is none. What was written meanwhile, and by whom, is not known.
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

    /// Returns why changes may come without an event, with the directory that is not watched unless it is all of them.
    pub(super) fn unwatched(&self) -> Option<&(Option<PathBuf>, String)> {
        self.unwatched.as_ref()
    }

    /// Returns a handle that wakes [`Watch::wait`].
    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.signals))
    }

    /// Has [`Watch::wait`] end as after a change. It waits as after one, too: where nobody told of a file that is being
    /// written right now, the kernel does meanwhile.
    pub(crate) fn look_again(&self) {
        self.signals.anything();
        self.signals.raise(CHANGED);
    }

    /// Waits until something happened and then until nothing more does, for a bounded time; or until `tick`.
    pub(crate) fn wait(&self, tick: Instant) -> Wake {
        loop {
            self.heartbeat.beat();
            // What waits behind changes that were made has been poked for already.
            if self.signals.bits.load(Ordering::SeqCst) != 0 {
                let _ = self.pokes.try_recv();
            } else {
                let is_writing = self.signals.is_writing();
                let now = Instant::now();
                let retry = self.retry.get().filter(|_| is_writing).or_else(|| is_writing.then(|| now + RETRY));
                self.retry.set(retry);
                let until = retry.map_or(tick, |retry| retry.min(tick));
                match self.pokes.recv_timeout(until.saturating_duration_since(now)) {
                    Err(RecvTimeoutError::Timeout) if retry.is_some_and(|retry| retry <= Instant::now()) => {
                        self.retry.set(None);
                        self.signals.anything();
                        return Wake::Changed;
                    }
                    Err(RecvTimeoutError::Timeout) => return Wake::Tick,
                    _ => {}
                }
            }
            self.settle();
            match self.signals.bits.swap(0, Ordering::SeqCst) {
                0 => {}
                bits if bits & STOP != 0 => return Wake::Stop,
                bits if bits & WANTED != 0 && !self.is_overdue() => {
                    // What else there is waits on, for as long as it may.
                    self.signals.bits.fetch_or(bits & !WANTED, Ordering::SeqCst);
                    return Wake::Wanted;
                }
                bits => {
                    self.signals.bits.fetch_or(bits & WANTED, Ordering::SeqCst);
                    self.unsettled.set(None);
                    return if bits & ASKED != 0 { Wake::Asked } else { Wake::Changed };
                }
            }
        }
    }

    /// Waits until nothing more happens and no file is being written to, for a bounded time; not when asked to look, or
    /// for changes.
    fn settle(&self) {
        while self.signals.bits.load(Ordering::SeqCst) == CHANGED {
            let first = self.unsettled.get().unwrap_or_else(Instant::now);
            self.unsettled.set(Some(first));
            let quiet = if self.signals.is_whole() { WHOLE } else { QUIET };
            let is_quiet = self.pokes.recv_timeout(quiet) == Err(RecvTimeoutError::Timeout);
            if first.elapsed() >= self.patience() || (is_quiet && !self.signals.is_writing()) {
                break;
            }
        }
    }

    /// Returns how long a change on disk may wait for things to become quiet.
    fn patience(&self) -> Duration {
        if self.signals.is_writing() { WRITING } else { PATIENCE }
    }

    /// Returns whether a change on disk has waited long enough.
    fn is_overdue(&self) -> bool {
        self.unsettled.get().is_some_and(|since| since.elapsed() >= self.patience())
    }

    /// Returns where something changed since this was last asked. To be asked before [`Watch::unfinished`]: a file that
    /// somebody begins to write in between is named by the next look's changes.
    pub(crate) fn changes(&self) -> Changes {
        let changed = std::mem::take(&mut *self.signals.changed.lock().unwrap_or_else(PoisonError::into_inner));
        // Without a complete watch, events tell nothing of what did not happen.
        if self.incomplete || self.aliased || self.watcher.is_none() { Changes::Anything } else { changed.changes }
    }

    /// Returns the files that somebody has begun to write and not yet closed: what they hold is not to be used.
    pub(crate) fn unfinished(&self) -> HashSet<PathBuf> {
        self.signals.writing()
    }

    /// Watches exactly what is to be followed; for a directory that is not there its nearest ancestor that is.
    ///
    /// Returns whether a directory is watched that was not before: what happened in it meanwhile went unnoticed, so
    /// the caller has to look once more.
    pub(crate) fn follow(&mut self, followed: Followed) -> bool {
        let Followed { directories, names } = followed;
        *self.signals.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        self.begin();
        let Some(watcher) = &mut self.watcher else { return false };
        let wanted: BTreeSet<PathBuf> = directories.iter().map(|directory| existing(directory)).collect();
        let count = wanted.len();
        let wanted = one_path_each(wanted, &self.watched);
        self.aliased = wanted.len() < count;
        let gone: Vec<PathBuf> = self.watched.keys().filter(|path| !wanted.contains(*path)).cloned().collect();
        for path in gone {
            self.watched.remove(&path);
            // The directory itself may be gone, and its watch with it.
            let _ = watcher.unwatch(&path);
        }
        // As `notify` makes paths absolute.
        let here = std::env::current_dir().unwrap_or_default();
        let lost = {
            let mut watched = self.signals.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.all = wanted.iter().map(|path| here.join(path)).collect();
            std::mem::take(&mut watched.lost)
        };
        // What happened below one of them meanwhile went unnoticed, too.
        let is_lost = |path: &Path| here.join(path).ancestors().any(|above| lost.contains(above));
        let mut added = false;
        self.incomplete = false;
        self.unwatched = None;
        for path in wanted {
            let Some(id) = Stamp::at(&path).map(Stamp::id) else { continue };
            if self.watched.get(&path) == Some(&id) && !is_lost(&path) {
                continue;
            }
            if self.watched.remove(&path).is_some() {
                // Another directory is there under the same name, or the same one again.
                let _ = watcher.unwatch(&path);
            }
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

/// Says why there is no instance.
fn no_instance(error: &notify::Error) -> String {
    let help = match &error.kind {
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            " (raise fs.inotify.max_user_instances by sysctl, or the limit on open files)"
        }
        _ => "",
    };
    format!("the kernel gives no change notifications: {error}{help}")
}

/// Says why a directory is not watched.
fn no_watch(error: &notify::Error) -> String {
    let help = match error.kind {
        notify::ErrorKind::MaxFilesWatch => " (raise fs.inotify.max_user_watches by sysctl)",
        _ => "",
    };
    format!("the directory is not watched: {error}{help}")
}

/// Leaves one path for each directory, where there is one the path that it is watched by: the kernel has one watch for all
/// paths of a directory (inotify(7)), which would go with the first of them that is no longer followed.
fn one_path_each(paths: BTreeSet<PathBuf>, watched: &BTreeMap<PathBuf, (u64, u64)>) -> BTreeSet<PathBuf> {
    let (old, new): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| watched.contains_key(path));
    let mut seen = HashSet::new();
    let is_first = |path: &PathBuf| Stamp::at(path).is_none_or(|stamp| seen.insert(stamp.id()));
    old.into_iter().chain(new).filter(is_first).collect()
}

/// Returns the directory, or its nearest ancestor that exists.
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

    /// Waits, with the test runner's time limit as the only other end.
    fn wait(watch: &Watch) -> Wake {
        watch.wait(Instant::now() + Duration::from_hours(1))
    }

    /// Follows these directories and the files named in the tests.
    fn follow(watch: &mut Watch, directories: &[&Path]) -> bool {
        let directories = directories.iter().map(|path| path.to_path_buf()).collect();
        watch.follow(Followed { directories, names: ["old", "new"].map(OsString::from).into() })
    }

    #[test]
    fn a_directory_of_two_paths_stays_watched_when_one_of_them_goes() {
        let root = tempfile::tempdir().unwrap();
        let (policies, lists) = (root.path().join("policies"), root.path().join("policies/lists"));
        fs::create_dir_all(&lists).unwrap();
        let alias = lists.join("..");
        for kept in [&policies, &alias] {
            let mut watch = Watch::new(Heartbeat::default());
            assert!(follow(&mut watch, &[&policies, &alias]));
            follow(&mut watch, &[kept]);
            fs::write(policies.join("new.toml"), "").unwrap();
            assert_eq!(wait(&watch), Wake::Changed);
        }
    }

    /// Follows one directory and runs `change`; the wake must come.
    fn wakes_on(change: impl FnOnce(&Path)) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("old"), "").unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        assert!(follow(&mut watch, &[root.path()]));
        change(root.path());
        // The test runner's own time limit is the deadline.
        assert_eq!(wait(&watch), Wake::Changed);
    }

    #[test]
    fn writes_renames_and_removals_wake() {
        wakes_on(|root| fs::write(root.join("old"), "x").unwrap());
        wakes_on(|root| fs::write(root.join("new"), "x").unwrap());
        wakes_on(|root| fs::rename(root.join("old"), root.join("new")).unwrap());
        wakes_on(|root| fs::remove_file(root.join("old")).unwrap());
        wakes_on(|root| fs::create_dir(root.join("new")).unwrap());
    }

    #[test]
    fn a_log_beside_the_files_wakes_nobody_and_holds_up_nothing() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let mut log = fs::File::create(root.path().join("log")).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &[root.path()]);
        log.write_all(b"line").unwrap();
        let start = Instant::now();
        fs::write(root.path().join("a.toml"), "x").unwrap();
        log.write_all(b"line").unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(start.elapsed() < WRITING, "{:?}", start.elapsed());
        log.write_all(b"line").unwrap();
        watch.waker().ask();
        assert_eq!(wait(&watch), Wake::Asked);
        assert!(watch.pokes.recv_timeout(2 * QUIET).is_err(), "the log woke");
    }

    #[test]
    fn a_file_that_is_being_written_is_not_looked_at_before_it_is_closed() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &[root.path()]);
        let mut file = fs::File::create(root.path().join("a.toml")).unwrap();
        file.write_all(b"half").unwrap();
        let writer = std::thread::spawn(move || {
            // Longer than any quiet that would end the waiting.
            let start = Instant::now();
            while start.elapsed() < 4 * QUIET {
                std::thread::park_timeout(QUIET / 4);
            }
            file.write_all(b" and half").unwrap();
            drop(file);
            Instant::now()
        });
        assert_eq!(wait(&watch), Wake::Changed);
        let looked = Instant::now();
        assert!(writer.is_finished(), "looked at half a file");
        let closed = writer.join().unwrap();
        assert!(looked >= closed && looked - closed < WRITING / 2, "closing it is enough");
        // A writer that never closes holds up nobody else, and what it wrote is known to be unfinished.
        let mut open = fs::File::create(root.path().join("b.toml")).unwrap();
        open.write_all(b"half").unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert_eq!(watch.unfinished(), HashSet::from([root.path().join("b.toml")]));
        drop(open);
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(watch.unfinished().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_seen_to_appear() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("a/b");
        let mut watch = Watch::new(Heartbeat::default());
        assert!(follow(&mut watch, &[&wanted]));
        fs::create_dir(root.path().join("a")).unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(follow(&mut watch, &[&wanted]), "the nearer ancestor is watched now");
        fs::create_dir(root.path().join("a/b")).unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(follow(&mut watch, &[&wanted]));
        fs::write(root.path().join("a/b/c.toml"), "").unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
    }

    #[test]
    fn a_directory_replaced_under_its_name_is_watched_anew() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a");
        let wanted = [root.path(), &inner];
        fs::create_dir(root.path().join("a")).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &wanted);
        fs::create_dir(root.path().join("b")).unwrap();
        fs::rename(root.path().join("a"), root.path().join("c")).unwrap();
        fs::rename(root.path().join("b"), root.path().join("a")).unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(follow(&mut watch, &wanted));
        fs::write(root.path().join("a/x.toml"), "").unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
    }

    #[test]
    fn a_directory_that_was_away_for_a_moment_is_watched_anew() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let (inner, gone) = (root.join("a"), root.join("b"));
        let wanted: [&Path; 2] = [&root, &inner];
        fs::create_dir(&inner).unwrap();
        let mut watch = Watch::new(Heartbeat::default());
        follow(&mut watch, &wanted);
        // It is the very same when it is looked for, and its watch has gone.
        fs::rename(&inner, &gone).unwrap();
        fs::rename(&gone, &inner).unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
        assert!(follow(&mut watch, &wanted));
        assert!(!follow(&mut watch, &wanted));
        fs::write(inner.join("x.toml"), "").unwrap();
        assert_eq!(wait(&watch), Wake::Changed);
    }

    #[test]
    fn asking_wakes_at_once_and_stopping_wins() {
        let watch = Watch::new(Heartbeat::default());
        watch.waker().ask();
        assert_eq!(wait(&watch), Wake::Asked);
        watch.waker().ask();
        watch.waker().stop();
        assert_eq!(wait(&watch), Wake::Stop);
    }
}
