//! Files that lines are appended to while others may move or remove them, as logrotate does.
//!
//! Every call can block on the file system or, for a bounded time, on the reader of a pipe, so it belongs on a thread
//! made for it. [`Health`] lets other threads see how that thread is doing without waiting for it.

mod origin;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use self::origin::Away;
use self::origin::Origin;
use crate::util::lock;
use crate::util::regular_file;
use crate::util::trusted_link::{self, Resolved};

/// The pause before a full pipe is tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// The time after which a file operation counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(2);

/// A file opened for appending, which notices when another file is at its path.
#[derive(Debug)]
pub(crate) struct LineFile {
    path: PathBuf,
    /// The permission bits for creating the file.
    mode: u32,
    /// The open file; `None` before the first one is opened, and after the last was removed and no new one could be
    /// created.
    file: Option<File>,
    /// The place that the file was opened at; `None` if it could not be determined.
    origin: Option<Origin>,
    /// The reason why no file is open.
    why: io::Error,
    /// Set if the file ends within a line, so that the next write has to begin with a line end.
    is_torn: bool,
}

/// An append that did not write all of its octets.
#[derive(Debug)]
pub(crate) struct AppendError {
    /// The octets that are in the file nevertheless, all of them whole lines.
    pub(crate) kept: usize,
    /// The reason why the rest is not.
    pub(crate) error: io::Error,
}

impl LineFile {
    /// Makes a closed file for a path; [`LineFile::follow`] opens it, creating it with the permission bits `mode`.
    pub(crate) fn new(path: &Path, mode: u32) -> Self {
        let why = io::ErrorKind::NotFound.into();
        Self { path: path.to_owned(), mode, file: None, origin: None, why, is_torn: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a file is open: the one at the path, or one that was moved away and still has a name.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the reason why the open file is not the one at the path.
    pub(crate) fn away(&self) -> Away {
        self.origin.as_ref().map_or(Away::Unknown, Origin::away)
    }

    /// Opens the path again if the file there is not the open one. Returns whether it did.
    ///
    /// # Errors
    /// The errors of [`LineFile::reopen`].
    pub(crate) fn follow(&mut self) -> io::Result<bool> {
        let is_there = self.file.as_ref().is_some_and(|file| is_at(file, &self.path));
        if is_there { Ok(false) } else { self.reopen().map(|()| true) }
    }

    /// Opens the path again, as after a signal that the file was moved.
    ///
    /// # Errors
    /// The path cannot be opened. The old file stays open so that no line is lost, unless it has no name any more, as
    /// nobody could read it.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        match open(&self.path, self.mode) {
            Ok((file, is_torn)) => {
                self.origin = Origin::of(&file, &self.path);
                (self.file, self.is_torn) = (Some(file), is_torn);
                Ok(())
            }
            Err(error) => {
                self.file = self.file.take().filter(has_name);
                self.why = copy(&error);
                Err(error)
            }
        }
    }

    /// Appends whole lines, in one write where possible, and waits up to `patience` for the reader of a full pipe.
    ///
    /// # Errors
    /// The write failed. No part of a line stays in the file, or the next append starts with a line end.
    pub(crate) fn append(&mut self, lines: &[u8], patience: Duration) -> Result<(), AppendError> {
        let Some(file) = &mut self.file else {
            return Err(AppendError { kept: 0, error: copy(&self.why) });
        };
        let prefixed;
        // The line end completes the torn line, so that no other line is unreadable.
        let (octets, prefix) = if self.is_torn {
            prefixed = [b"\n", lines].concat();
            (&*prefixed, 1)
        } else {
            (lines, 0)
        };
        let (written, error) = write(file, octets, patience);
        let whole = octets[..written].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
        if written > 0 {
            self.is_torn = written > whole && !cut_off(file, written - whole);
        }
        error.map_or(Ok(()), |error| Err(AppendError { kept: whole.saturating_sub(prefix), error }))
    }
}

/// Copies the number and the text of an error, as [`io::Error`] cannot be cloned.
fn copy(error: &io::Error) -> io::Error {
    let number = error.raw_os_error().map(io::Error::from_raw_os_error);
    number.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

/// Writes all octets. Returns the number written, and the error that stopped it if that is not all of them.
fn write(file: &mut File, octets: &[u8], patience: Duration) -> (usize, Option<io::Error>) {
    let (mut written, mut end) = (0, Instant::now() + patience);
    while written < octets.len() {
        match file.write(&octets[written..]) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            // Progress extends the deadline: only a reader that takes nothing for `patience` is given up.
            Ok(count) => (written, end) = (written + count, Instant::now() + patience),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= end {
                    return (written, Some(io::Error::new(error.kind(), "its reader does not read")));
                }
                thread::park_timeout(PAUSE);
            }
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// The state of the work with a file, which other threads can read without waiting for that work.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Condition>);

/// The state behind the lock of [`Health`].
#[derive(Debug, Default)]
struct Condition {
    /// The present fault; `None` if there is none.
    error: Option<String>,
    /// The number of threads at work.
    busy: usize,
    /// The time at which work last began or ended; `None` before the first.
    changed_at: Option<Instant>,
}

impl Condition {
    /// Returns the time since work last ended, or began if none has; `None` while no thread is at work.
    fn busy(&self) -> Option<Duration> {
        self.changed_at.filter(|_| self.busy > 0).map(|changed_at| changed_at.elapsed())
    }

    /// Returns the same, once it is long enough to count as hanging.
    fn hangs_for(&self) -> Option<Duration> {
        self.busy().filter(|busy| *busy >= HANGS_AFTER)
    }
}

impl Health {
    /// Runs `work` on the file. Several threads may do so at once.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        /// A guard that ends the work, also when it panics.
        struct EndGuard<'h>(&'h Health);
        impl Drop for EndGuard<'_> {
            fn drop(&mut self) {
                let mut condition = self.0.lock();
                condition.busy -= 1;
                condition.changed_at = Some(Instant::now());
            }
        }
        {
            let mut condition = self.lock();
            if condition.busy == 0 {
                condition.changed_at = Some(Instant::now());
            }
            condition.busy += 1;
        }
        let _ended = EndGuard(self);
        work()
    }

    /// Sets the present fault, or `None` once it is gone.
    pub(crate) fn set(&self, error: Option<String>) {
        self.lock().error = error;
    }

    /// Returns whether the file system, or the reader of a pipe, does not respond.
    pub(crate) fn hangs(&self) -> bool {
        self.lock().hangs_for().is_some()
    }

    /// Returns whether a thread has been at work for longer than `than` without any coming to an end.
    pub(crate) fn is_slow(&self, than: Duration) -> bool {
        self.lock().busy().is_some_and(|busy| busy > than)
    }

    /// Returns the present fault; `None` if there is none.
    pub(crate) fn error(&self) -> Option<String> {
        let condition = self.lock();
        let hangs_for =
            condition.hangs_for().map(|hangs_for| format!("it has not answered for {} s", hangs_for.as_secs()));
        hangs_for.or_else(|| condition.error.clone())
    }

    /// Locks the state. The lock is never held during work on the file, so it is always free within microseconds.
    fn lock(&self) -> MutexGuard<'_, Condition> {
        lock(&self.0)
    }
}

/// Returns whether an open file still has a name, at its path or elsewhere.
fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Opens a file for appending, creating it with the permission bits `mode`. Returns it, and whether it ends within a
/// line, as after a process that was killed while the disk was full.
///
/// # Errors
/// The file can be neither opened nor created.
fn open(path: &Path, mode: u32) -> io::Result<(File, bool)> {
    let Resolved { path: real, flag } = trusted_link::resolve(path)?;
    // Without O_NONBLOCK, opening a FIFO would wait for a reader.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | flag;
    let file = OpenOptions::new().append(true).create(true).mode(mode).custom_flags(flags).open(real)?;
    let is_torn = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        && last_octet(path).is_ok_and(|octet| octet != b'\n');
    Ok((file, is_torn))
}

fn last_octet(path: &Path) -> io::Result<u8> {
    // Opened again, as the file itself is open for appending only.
    let (mut file, _) = regular_file::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut octet = [0];
    file.read_exact(&mut octet)?;
    Ok(octet[0])
}

/// Cuts the last octets off, after a full disk took only a part of a line, and returns whether it did. It does not if
/// another process has appended since, or if the file cannot be truncated; then the line has to be ended instead.
fn cut_off(file: &mut File, octets: usize) -> bool {
    let mut cut = || {
        let end = file.stream_position()?;
        if file.metadata()?.len() != end {
            return Err(io::Error::from(io::ErrorKind::Other));
        }
        file.set_len(end.saturating_sub(u64::try_from(octets).unwrap_or(u64::MAX)))
    };
    cut().is_ok()
}

/// Returns whether an open file is the one at `path` now.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(here), Ok(there)) => id(here) == id(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a file.
    fn line_file(path: &Path) -> io::Result<LineFile> {
        let mut file = LineFile::new(path, 0o600);
        file.follow().map(|_| file)
    }

    #[test]
    fn incomplete_line_is_cut_off_unless_another_process_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "one\n").unwrap();
        let (mut file, is_torn) = open(&path, 0o600).unwrap();
        assert!(!is_torn);
        file.write_all(b"two\nhal").unwrap();
        assert!(cut_off(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        file.write_all(b"hal").unwrap();
        let (mut other, is_torn) = open(&path, 0o600).unwrap();
        assert!(is_torn);
        other.write_all(b"\nthree\n").unwrap();
        assert!(!cut_off(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nhal\nthree\n");
    }

    #[test]
    fn moved_file_stays_open_and_removed_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let [folder, moved] = ["folder", "moved"].map(|name| directory.path().join(name));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("log");
        let mut file = line_file(&path).unwrap();
        file.append(b"one\n", Duration::ZERO).unwrap();
        fs::rename(&folder, &moved).unwrap();
        file.follow().unwrap_err();
        file.append(b"two\n", Duration::ZERO).unwrap();
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "one\ntwo\n");
        fs::remove_dir_all(&moved).unwrap();
        file.follow().unwrap_err();
        assert!(!file.is_open());
        assert_eq!(file.append(b"three\n", Duration::ZERO).unwrap_err().kept, 0);
        // Its directory is back.
        fs::create_dir(&folder).unwrap();
        file.follow().unwrap();
        file.append(b"four\n", Duration::ZERO).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn pipe_that_is_not_read_is_waited_for_and_the_next_line_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        line_file(&path).unwrap_err();
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut file = line_file(&path).unwrap();
        let lines = "line of text\n".repeat(20_000);
        let start = Instant::now();
        let unwritten = file.append(lines.as_bytes(), Duration::from_millis(50)).unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert!(unwritten.kept > 0 && unwritten.kept.is_multiple_of(13), "{unwritten:?}");
        let mut octets = vec![0; 1 << 20];
        let count = reader.read(&mut octets).unwrap();
        assert!(count >= unwritten.kept);
        file.append(b"next\n", Duration::ZERO).unwrap();
        let rest = reader.read(&mut octets[count..]).unwrap();
        let text = String::from_utf8_lossy(&octets[..count + rest]).into_owned();
        assert!(text.ends_with("\nnext\n"), "{:?}", &text[text.len() - 40..]);
    }

    #[test]
    fn hanging_work_is_reported_and_continuous_work_is_not() {
        let health = Health::default();
        health.set(Some("a full disk".into()));
        assert_eq!((health.error().as_deref(), health.hangs()), (Some("a full disk"), false));
        let long_ago = || health.lock().changed_at = Instant::now().checked_sub(HANGS_AFTER);
        health.during(|| {
            assert!(!health.hangs());
            long_ago();
            assert!(health.hangs());
            assert_eq!(health.error().as_deref(), Some("it has not answered for 2 s"));
            // Another one came to its end meanwhile.
            health.during(|| assert!(health.hangs()));
            assert!(!health.hangs());
        });
        health.set(None);
        long_ago();
        assert_eq!((health.error(), health.hangs()), (None, false));
    }
}
