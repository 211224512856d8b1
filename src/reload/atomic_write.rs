//! Writing the API's files: whole, synced, and by one hostgate at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::files::Stamp;
use crate::bounds::MAX_FILE;
use crate::util::regular_file;

/// Why a file was not written; it is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// It holds something else than was thought.
    #[error("the file holds something else by now")]
    Stale,
    /// The system refuses it.
    #[error("{0}")]
    Io(String),
    /// Another process writes there.
    #[error(
        "another hostgate writes below {}: stop it, or give each a policies directory of its own (after a take-over, try again)",
        .0.display()
    )]
    Taken(PathBuf),
}

/// The right to write below one folder.
#[derive(Default)]
pub(super) struct Store {
    /// The folder, and the lock on it, once something was written.
    held: Option<(PathBuf, File)>,
}

impl Store {
    /// Gives a file that holds `before` the text `after`, or removes it: a crash leaves the one or the other.
    ///
    /// # Errors
    /// It holds something else, or cannot be written.
    pub(super) fn put(&mut self, path: &Path, before: Option<&str>, after: Option<&str>) -> Result<(), WriteError> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(path, &io::Error::other("it is no file's path")));
        };
        self.claim(folder)?;
        let temporary = folder.join(HIDDEN).join(name);
        if let Some(text) = after {
            write_new(&temporary, text).map_err(|error| {
                // A full disk takes a part of it; whatever is there is in nobody's way.
                let _ = fs::remove_file(&temporary);
                failed(path, &error)
            })?;
        }
        // Somebody may have saved it while all was made ready.
        let done = holds(path, before).and_then(|holds| {
            if !holds {
                return Err(WriteError::Stale);
            }
            let done = if after.is_some() { fs::rename(&temporary, path) } else { fs::remove_file(path) };
            done.and_then(|()| sync(folder)).map_err(|error| failed(path, &error))
        });
        if done.is_err() && after.is_some() {
            // What is left there goes when the next process begins to write.
            let _ = fs::remove_file(&temporary);
        }
        done
    }

    /// Takes the lock on a folder, which is made where it is not there; what a crash left half written goes.
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
                // One that stays is in nobody's way.
                let _ = fs::remove_file(entry.path());
            }
        }
        self.held = Some((folder.to_owned(), lock));
        Ok(())
    }

    /// Lets go of the lock on a folder that is not at its path any more: an open file keeps a file system from being
    /// unmounted.
    pub(super) fn release(&mut self) {
        let is_there = |(folder, lock): &mut (PathBuf, File)| {
            let at_path = fs::symlink_metadata(folder.join(HIDDEN).join(LOCK));
            let held = lock.metadata();
            matches!((at_path, held), (Ok(at_path), Ok(held)) if Stamp::of(&at_path).id() == Stamp::of(&held).id())
        };
        self.held.take_if(|held| !is_there(held));
    }
}

/// Makes the folders and opens the file to lock.
fn lock(folder: &Path, hidden: &Path) -> io::Result<File> {
    // What a symlink leads to is somebody else's.
    if fs::symlink_metadata(hidden).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(io::Error::other(format!("{HIDDEN} in it is no folder: remove it")));
    }
    // Not what is above them: where the policies directory is gone for a while, a new one in its place would say that all
    // files are gone.
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

/// Writes a file that is not there.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a write that failed; a link that somebody put there goes, what it leads to stays.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Returns whether a file holds this text, or is not there.
///
/// # Errors
/// It cannot be read.
pub(super) fn holds(path: &Path, text: Option<&str>) -> Result<bool, WriteError> {
    match regular_file::read(path, MAX_FILE) {
        Ok(bytes) => Ok(text.is_some_and(|text| text.as_bytes() == bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(text.is_none()),
        Err(error) => Err(failed(path, &error)),
    }
}

/// Writes a folder's entries to disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Says what cannot be written, and what to do about it.
fn failed(path: &Path, error: &io::Error) -> WriteError {
    let mend = match error.kind() {
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
    WriteError::Io(format!("write {}: {error}{mend}", path.display()))
}

/// The folder in which files are written before they are renamed into place; nobody watches it.
const HIDDEN: &str = ".new";

/// The file in it that whoever writes has locked.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_at_a_time_writes_and_what_a_crash_left_goes() {
        let root = tempfile::tempdir().unwrap();
        let (folder, path) = (root.path().join("api"), root.path().join("api/a.toml"));
        let (mut one, mut other) = (Store::default(), Store::default());
        one.put(&path, None, Some("one")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert!(matches!(other.put(&path, Some("one"), Some("two")), Err(WriteError::Taken(_))));
        fs::write(folder.join(".new/left.toml"), "half").unwrap();
        drop(one);
        other.put(&path, Some("one"), None).unwrap();
        assert!(!path.exists());
        let left: Vec<_> = fs::read_dir(folder.join(".new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn what_somebody_saved_meanwhile_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api/a.toml");
        let mut store = Store::default();
        store.put(&path, None, Some("one")).unwrap();
        fs::write(&path, "mine").unwrap();
        for after in [Some("two"), None] {
            assert!(matches!(store.put(&path, Some("one"), after), Err(WriteError::Stale)));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(matches!(store.put(&path, None, Some("two")), Err(WriteError::Stale)));
        assert!(!root.path().join("api/.new/a.toml").exists());
    }

    #[test]
    fn a_policies_directory_that_is_gone_is_not_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let (policies, gone) = (root.path().join("policies"), root.path().join("gone"));
        let path = policies.join("api/a.toml");
        let mut store = Store::default();
        fs::create_dir(&policies).unwrap();
        store.put(&path, None, Some("one")).unwrap();
        fs::rename(&policies, &gone).unwrap();
        let told = store.put(&path, None, Some("two")).unwrap_err().to_string();
        assert!(told.ends_with("(the policies directory is not there: bring it back)"), "{told}");
        assert!(!policies.exists());
        fs::rename(&gone, &policies).unwrap();
        store.put(&path, Some("one"), Some("two")).unwrap();
        fs::remove_dir_all(policies.join("api")).unwrap();
        store.put(&path, None, Some("three")).unwrap();
    }

    #[test]
    fn links_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (folder, victim) = (root.path().join("api"), root.path().join("victim"));
        fs::write(&victim, "victim").unwrap();
        fs::create_dir_all(folder.join(".new")).unwrap();
        symlink(&victim, folder.join(".new/a.toml")).unwrap();
        Store::default().put(&folder.join("a.toml"), None, Some("one")).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "victim");
        assert!(!fs::symlink_metadata(folder.join("a.toml")).unwrap().is_symlink());
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        symlink(root.path(), other.join(".new")).unwrap();
        let told = Store::default().put(&other.join("a.toml"), None, Some("one")).unwrap_err().to_string();
        assert!(told.ends_with("/other: .new in it is no folder: remove it"), "{told}");
    }
}
