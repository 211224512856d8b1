//! Atomic writes of the API's files: under a temporary name, synced, and renamed, by one process at a time.
//!
//! The lock is advisory (flock(2)) and keeps two processes from writing to one policies directory. A rename replaces a
//! file as a whole, so neither a crash nor a reload in between finds a part of it; the folder is synced too, as the
//! rename would otherwise not survive a power failure.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::FileVersion;
use crate::bounds::MAX_FILE;
use crate::util::regular_file;

/// The error of a write; the file is unchanged but for one variant that says otherwise.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The file does not have the expected text.
    #[error("the file holds something else by now")]
    Stale,
    /// The system reported an error.
    #[error("{0}")]
    Io(String),
    /// Another process has the lock on the folder.
    #[error(
        "another hostgate writes below {}: stop it, or give each a policies directory of its own (after a take-over, try again)",
        .0.display()
    )]
    Taken(PathBuf),
    /// The file system does not answer; the file stays as it is.
    #[error("{0}")]
    Hangs(String),
    /// The file system does not answer, and the file may be replaced once it does.
    #[error("{0}")]
    Unknown(String),
    /// The write was given up before it replaced the file.
    #[error("it was given up")]
    GivenUp,
}

/// The writer of files in one folder, which holds an advisory lock on it.
#[derive(Default)]
pub(super) struct AtomicWriter {
    /// The folder and its lock file; `None` before the first write.
    held: Option<(PathBuf, File)>,
}

/// The contents of a path for which a write was made.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// This text; `None` is no file.
    Text(Option<Arc<str>>),
    /// Anything, or nothing.
    Anything,
}

impl Expected {
    /// Returns whether the path holds them.
    fn is_met(&self, path: &Path) -> Result<bool, WriteError> {
        match self {
            Self::Text(text) => holds(path, text.as_deref()),
            Self::Anything => Ok(true),
        }
    }
}

impl AtomicWriter {
    /// Replaces what is expected at a path by the text `after`, where `None` is no file. A crash leaves the one or the other.
    ///
    /// `commit` is called when the file system has taken the temporary file, before the file is replaced; nothing is
    /// changed if it returns `false`.
    ///
    /// # Errors
    /// The file has another text, or cannot be written.
    pub(super) fn put(
        &mut self,
        path: &Path,
        expected: &Expected,
        after: Option<&str>,
        commit: &dyn Fn() -> bool,
    ) -> Result<(), WriteError> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(path, &io::Error::other("it is no file's path")));
        };
        self.claim(folder)?;
        let temporary = folder.join(HIDDEN).join(name);
        if let Some(text) = after {
            write_new(&temporary, text).map_err(|error| {
                // A full disk may have taken a part; if the removal fails, the next writer removes the file.
                let _ = fs::remove_file(&temporary);
                failed(path, &error)
            })?;
        } else {
            // A file system that does not answer shows here and not with the removal, which could not be given up. A full one
            // refuses this and allows the removal.
            let _ = File::create(&temporary).and_then(|_| fs::remove_file(&temporary));
        }
        // The file may have been edited while the temporary one was written.
        let done = expected.is_met(path).and_then(|is_as_expected| {
            if !is_as_expected {
                return Err(WriteError::Stale);
            }
            if !commit() {
                return Err(WriteError::GivenUp);
            }
            let remove = || match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
            let done = if after.is_some() { fs::rename(&temporary, path) } else { remove() };
            done.and_then(|()| sync(folder)).map_err(|error| failed(path, &error))
        });
        if done.is_err() && after.is_some() {
            // If the removal fails, the next process that takes the lock removes the file.
            let _ = fs::remove_file(&temporary);
        }
        done
    }

    /// Takes the lock on a folder, which is created if missing, and removes temporary files that a crash left.
    fn claim(&mut self, folder: &Path) -> Result<(), WriteError> {
        let hidden = folder.join(HIDDEN);
        self.release();
        if self.held.as_ref().is_some_and(|(held, _)| held == folder) {
            return Ok(());
        }
        let lock = lock(folder, &hidden).map_err(|error| failed(folder, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WriteError::Taken(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(folder, &error)),
        }
        for entry in fs::read_dir(&hidden).map_err(|error| failed(&hidden, &error))?.flatten() {
            if entry.file_name() != LOCK {
                // A file that cannot be removed does no harm: it is overwritten or ignored.
                let _ = fs::remove_file(entry.path());
            }
        }
        self.held = Some((folder.to_owned(), lock));
        Ok(())
    }

    /// Releases the lock on a folder that is no longer at its path: an open file keeps a file system from being
    /// unmounted.
    pub(super) fn release(&mut self) {
        let is_there = |(folder, lock): &mut (PathBuf, File)| {
            let at_path = fs::symlink_metadata(folder.join(HIDDEN).join(LOCK));
            let held = lock.metadata();
            matches!((at_path, held), (Ok(at_path), Ok(held)) if FileVersion::of(&at_path).id() == FileVersion::of(&held).id())
        };
        self.held.take_if(|held| !is_there(held));
    }
}

/// Creates the folders and opens the lock file.
fn lock(folder: &Path, hidden: &Path) -> io::Result<File> {
    // A symlink is refused, as its target may belong to someone else.
    if fs::symlink_metadata(hidden).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(io::Error::other(format!("{HIDDEN} in it is no folder: remove it")));
    }
    // No parents are created: a new policies directory in place of one that is missing for a while would look as if all
    // files had been deleted.
    for made in [folder, hidden] {
        if !made.is_dir() {
            DirBuilder::new().mode(0o755).create(made)?;
            made.parent().map_or(Ok(()), sync)?;
        }
    }
    let mut options = OpenOptions::new();
    // Opening a FIFO to write to it would wait for a reader without O_NONBLOCK.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let lock = options.open(hidden.join(LOCK))?;
    if lock.metadata()?.is_file() {
        Ok(lock)
    } else {
        Err(io::Error::other(format!("{HIDDEN}/{LOCK} in it is no file: remove it")))
    }
}

/// Writes and syncs a new file, in place of what a failed write left.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // A symlink at the path is removed, and its target is not touched.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Returns whether a file has this text; `None` is that it does not exist.
///
/// # Errors
/// The file cannot be read.
pub(super) fn holds(path: &Path, text: Option<&str>) -> Result<bool, WriteError> {
    match regular_file::read(path, MAX_FILE) {
        Ok(bytes) => Ok(text.is_some_and(|text| text.as_bytes() == bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(text.is_none()),
        Err(error) => Err(failed(path, &error)),
    }
}

/// Syncs the entries of a folder to disk, so that a rename survives a power failure.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Returns the error for a path, with how to fix it.
fn failed(path: &Path, error: &io::Error) -> WriteError {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (make its folder writable for the user hostgate runs as)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room on the disk)",
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => " (remove what is in the place of the file)",
        io::ErrorKind::NotFound => " (the policies directory is not there: bring it back)",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            " (there is something else in the place of its folder: move it away; if it is a link, bring back the folder that \
             it leads to)"
        }
        _ => "",
    };
    WriteError::Io(format!("write {}: {error}{help}", path.display()))
}

/// The folder of temporary files and the lock, in the same file system as the target; a dot name is not watched.
const HIDDEN: &str = ".new";

/// The lock file in that folder.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Returns the expectation of a text, or of no file.
    fn text(text: Option<&str>) -> Expected {
        Expected::Text(text.map(Arc::from))
    }

    #[test]
    fn only_one_process_writes_and_it_removes_what_a_crash_left() {
        let root = tempfile::tempdir().unwrap();
        let (folder, path) = (root.path().join("api"), root.path().join("api/a.toml"));
        let (mut one, mut other) = (AtomicWriter::default(), AtomicWriter::default());
        one.put(&path, &text(None), Some("one"), &|| true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert!(matches!(other.put(&path, &text(Some("one")), Some("two"), &|| true), Err(WriteError::Taken(_))));
        fs::write(folder.join(".new/left.toml"), "half").unwrap();
        drop(one);
        other.put(&path, &text(Some("one")), None, &|| true).unwrap();
        assert!(!path.exists());
        let left: Vec<_> = fs::read_dir(folder.join(".new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn edit_by_hand_in_between_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api/a.toml");
        let mut store = AtomicWriter::default();
        store.put(&path, &text(None), Some("one"), &|| true).unwrap();
        fs::write(&path, "mine").unwrap();
        for after in [Some("two"), None] {
            assert!(matches!(store.put(&path, &text(Some("one")), after, &|| true), Err(WriteError::Stale)));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(matches!(store.put(&path, &text(None), Some("two"), &|| true), Err(WriteError::Stale)));
        assert!(!root.path().join("api/.new/a.toml").exists());
    }

    #[test]
    fn write_that_is_given_up_changes_nothing_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api/a.toml");
        let mut store = AtomicWriter::default();
        store.put(&path, &text(None), Some("one"), &|| true).unwrap();
        for after in [Some("two"), None] {
            assert!(matches!(store.put(&path, &text(Some("one")), after, &|| false), Err(WriteError::GivenUp)));
            assert_eq!(fs::read_to_string(&path).unwrap(), "one");
            assert!(!root.path().join("api/.new/a.toml").exists());
        }
        store.put(&path, &text(Some("one")), None, &|| true).unwrap();
        assert!(!path.exists() && !root.path().join("api/.new/a.toml").exists());
    }

    #[test]
    fn missing_policies_directory_is_not_created() {
        let root = tempfile::tempdir().unwrap();
        let (policies, gone) = (root.path().join("policies"), root.path().join("gone"));
        let path = policies.join("api/a.toml");
        let mut store = AtomicWriter::default();
        fs::create_dir(&policies).unwrap();
        store.put(&path, &text(None), Some("one"), &|| true).unwrap();
        fs::rename(&policies, &gone).unwrap();
        let message = store.put(&path, &text(None), Some("two"), &|| true).unwrap_err().to_string();
        assert!(message.ends_with("(the policies directory is not there: bring it back)"), "{message}");
        assert!(!policies.exists());
        fs::rename(&gone, &policies).unwrap();
        store.put(&path, &text(Some("one")), Some("two"), &|| true).unwrap();
        fs::remove_dir_all(policies.join("api")).unwrap();
        store.put(&path, &text(None), Some("three"), &|| true).unwrap();
    }

    #[test]
    fn symlinks_are_not_written_through() {
        let root = tempfile::tempdir().unwrap();
        let (folder, victim) = (root.path().join("api"), root.path().join("victim"));
        fs::write(&victim, "victim").unwrap();
        fs::create_dir_all(folder.join(".new")).unwrap();
        symlink(&victim, folder.join(".new/a.toml")).unwrap();
        AtomicWriter::default().put(&folder.join("a.toml"), &text(None), Some("one"), &|| true).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "victim");
        assert!(!fs::symlink_metadata(folder.join("a.toml")).unwrap().is_symlink());
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        symlink(root.path(), other.join(".new")).unwrap();
        let message = AtomicWriter::default()
            .put(&other.join("a.toml"), &text(None), Some("one"), &|| true)
            .unwrap_err()
            .to_string();
        assert!(message.ends_with("/other: .new in it is no folder: remove it"), "{message}");
    }
}
