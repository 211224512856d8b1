//! Files that lines are appended to, and that others may move away meanwhile, as logrotate does.
//!
//! All of it belongs on a thread of its own: a disk, a mount or the reader of a pipe may take as long as it likes.

mod origin;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use self::origin::Away;
use self::origin::Origin;
use crate::util::regular_file;

/// The pause before another try at a pipe that is full.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a write may take before nobody waits for it any more.
const HANGS: Duration = Duration::from_secs(2);

/// A file that lines are appended to, at a path at which another one may be any time.
#[derive(Debug)]
pub(crate) struct LineFile {
    /// Where it should be.
    path: PathBuf,
    /// The permissions it is made with.
    mode: u32,
    /// The file in use; `None` before the first one is opened, and when the last one is gone and no other can be made.
    file: Option<File>,
    /// Where that was opened; `None` where it is not known.
    origin: Option<Origin>,
    /// Why there is no file in use.
    why: io::Error,
    /// Whether the last write stopped within a line.
    is_torn: bool,
}

/// A write that did not succeed.
#[derive(Debug)]
pub(crate) struct Unwritten {
    /// The octets that are in the file all the same, whole lines.
    pub(crate) kept: usize,
    /// Why the rest is not.
    pub(crate) error: io::Error,
}

impl LineFile {
    /// Names a file for appending; one that is not there will be made with these permissions. [`LineFile::follow`] opens it.
    pub(crate) fn new(path: &Path, mode: u32) -> Self {
        let why = io::ErrorKind::NotFound.into();
        Self { path: path.to_owned(), mode, file: None, origin: None, why, is_torn: false }
    }

    /// Returns where it should be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether lines go anywhere: to the file at the path, or to one that was moved away and still has a name.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Returns why lines go to another file than the one at the path.
    pub(crate) fn away(&self) -> Away {
        self.origin.as_ref().map_or(Away::Unknown, Origin::away)
    }

    /// Opens the path again if another file, or none, is there now. Returns whether it did.
    ///
    /// # Errors
    /// As [`LineFile::reopen`].
    pub(crate) fn follow(&mut self) -> io::Result<bool> {
        let is_there = self.file.as_ref().is_some_and(|file| is_at(file, &self.path));
        if is_there { Ok(false) } else { self.reopen().map(|()| true) }
    }

    /// Opens the path again.
    ///
    /// # Errors
    /// What the system says. The old file stays in use, so that nothing is lost, unless it was removed: nobody could ever
    /// read what is written to it.
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

    /// Appends whole lines, in one write if it can be. For the reader of a pipe that is full it waits for `patience`.
    ///
    /// # Errors
    /// What the system says. No part of a line stays, or the next line gets a line end before it.
    pub(crate) fn append(&mut self, lines: &[u8], patience: Duration) -> Result<(), Unwritten> {
        let Some(file) = &mut self.file else {
            return Err(Unwritten { kept: 0, error: copy(&self.why) });
        };
        let prefixed;
        let (octets, prefix) = if self.is_torn {
            prefixed = [b"\n", lines].concat();
            (&*prefixed, 1)
        } else {
            (lines, 0)
        };
        let (written, error) = write(file, octets, patience);
        let whole = octets[..written].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
        if written > 0 {
            self.is_torn = written > whole && !take_back(file, written - whole);
        }
        error.map_or(Ok(()), |error| Err(Unwritten { kept: whole.saturating_sub(prefix), error }))
    }
}

/// Copies an error as far as its number and its text go.
fn copy(error: &io::Error) -> io::Error {
    let number = error.raw_os_error().map(io::Error::from_raw_os_error);
    number.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

/// Writes all octets; returns how many were written, and why not all of them.
fn write(file: &mut File, octets: &[u8], patience: Duration) -> (usize, Option<io::Error>) {
    let (mut written, mut end) = (0, Instant::now() + patience);
    while written < octets.len() {
        match file.write(&octets[written..]) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
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

/// How work with a file gets on, for those who ask without waiting for it.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Condition>);

/// What [`Health`] knows.
#[derive(Debug, Default)]
struct Condition {
    /// What is wrong; `None` when nothing is.
    error: Option<String>,
    /// How many are at work.
    busy: usize,
    /// When the last of them began or ended; `None` before the first.
    turned: Option<Instant>,
}

impl Condition {
    /// Returns how long nothing has come to an end; `None` while nothing is done.
    fn busy(&self) -> Option<Duration> {
        self.turned.filter(|_| self.busy > 0).map(|turned| turned.elapsed())
    }

    /// Returns the same once nobody waits for it any more.
    fn hanging(&self) -> Option<Duration> {
        self.busy().filter(|busy| *busy >= HANGS)
    }
}

impl Health {
    /// Does something with the file; several threads may at once.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Ends the work, also where it panics.
        struct Ended<'h>(&'h Health);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                let mut condition = self.0.lock();
                condition.busy -= 1;
                condition.turned = Some(Instant::now());
            }
        }
        {
            let mut condition = self.lock();
            if condition.busy == 0 {
                condition.turned = Some(Instant::now());
            }
            condition.busy += 1;
        }
        let _ended = Ended(self);
        work()
    }

    /// Notes what is wrong, or that nothing is any more.
    pub(crate) fn set(&self, error: Option<String>) {
        self.lock().error = error;
    }

    /// Returns whether the file system does not answer, or the reader of a pipe does not read.
    pub(crate) fn hangs(&self) -> bool {
        self.lock().hanging().is_some()
    }

    /// Returns whether nothing has come to an end for longer than this.
    pub(crate) fn is_slow(&self, than: Duration) -> bool {
        self.lock().busy().is_some_and(|busy| busy > than)
    }

    /// Returns what is wrong; `None` when nothing is.
    pub(crate) fn error(&self) -> Option<String> {
        let condition = self.lock();
        let hanging = condition.hanging().map(|hanging| format!("it has not answered for {} s", hanging.as_secs()));
        hanging.or_else(|| condition.error.clone())
    }

    /// Locks what is known; never while something is done with the file.
    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a file has a name, at its path or elsewhere.
fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Opens a file for appending; one that is not there is made with these permissions. Returns it, and whether it ends within
/// a line, as when a process was killed while the disk was full.
///
/// # Errors
/// What the system says.
fn open(path: &Path, mode: u32) -> io::Result<(File, bool)> {
    // Without O_NONBLOCK, opening a pipe would wait for a reader for ever.
    let file = OpenOptions::new().append(true).create(true).mode(mode).custom_flags(libc::O_NONBLOCK).open(path)?;
    let is_torn = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        && last_octet(path).is_ok_and(|octet| octet != b'\n');
    Ok((file, is_torn))
}

/// Returns the last octet of a file.
fn last_octet(path: &Path) -> io::Result<u8> {
    let (mut file, _) = regular_file::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut octet = [0];
    file.read_exact(&mut octet)?;
    Ok(octet[0])
}

/// Cuts off the last octets that were appended, of a line that a full disk took a part of; returns whether it did. Where
/// somebody has appended more meanwhile, or nothing can be cut off, the line has to be ended instead.
fn take_back(file: &mut File, octets: usize) -> bool {
    let mut cut = || {
        let end = file.stream_position()?;
        if file.metadata()?.len() != end {
            return Err(io::Error::from(io::ErrorKind::Other));
        }
        file.set_len(end.saturating_sub(u64::try_from(octets).unwrap_or(u64::MAX)))
    };
    cut().is_ok()
}

/// Returns whether a file is the one that is at `path` now.
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
    fn a_part_of_a_line_is_taken_back_unless_somebody_appended_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "one\n").unwrap();
        let (mut file, is_torn) = open(&path, 0o600).unwrap();
        assert!(!is_torn);
        file.write_all(b"two\nhal").unwrap();
        assert!(take_back(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        file.write_all(b"hal").unwrap();
        let (mut other, is_torn) = open(&path, 0o600).unwrap();
        assert!(is_torn);
        other.write_all(b"\nthree\n").unwrap();
        assert!(!take_back(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nhal\nthree\n");
    }

    #[test]
    fn file_that_was_moved_is_kept_and_one_that_was_removed_is_not() {
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
    fn work_that_hangs_is_told_and_work_that_never_pauses_is_not() {
        let health = Health::default();
        health.set(Some("a full disk".into()));
        assert_eq!((health.error().as_deref(), health.hangs()), (Some("a full disk"), false));
        let long_ago = || health.lock().turned = Instant::now().checked_sub(HANGS);
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
