//! A file of records, the decision log or the audit file: whatever is wrong with it is logged when it begins and when it
//! ends, and is in the status meanwhile.
//!
//! Nothing of that ends a start or a running service: what cannot be opened at a start is opened later in the same way as
//! what was removed while the service ran.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};

use super::append::{Health, LineFile, Unwritten};

/// How long nothing may have been refused before the file counts as written again: a full disk takes a short line now and
/// then.
const SOUND: Duration = Duration::from_secs(2);
/// How long a start waits for a file to be opened.
const FIRST: Duration = Duration::from_millis(500);

/// The files of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The decision log.
    Decisions,
    /// The audit file.
    Audit,
}

impl Kind {
    /// Returns what the log calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decision log",
            Self::Audit => "audit file",
        }
    }

    /// Returns the permissions it is made with: the owner's group may read decisions.
    fn mode(self) -> u32 {
        match self {
            Self::Decisions => 0o640,
            Self::Audit => 0o600,
        }
    }

    /// Returns the key of the configuration that names it.
    fn key(self) -> &'static str {
        match self {
            Self::Decisions => "`path` under [decisions]",
            Self::Audit => "`audit` under [control]",
        }
    }
}

/// A file of records and what is wrong with it. It belongs on the thread that writes it.
pub(crate) struct RecordFile {
    /// Which one.
    kind: Kind,
    /// The file.
    file: LineFile,
    /// What the status says of it.
    health: Arc<Health>,
    /// What is wrong: logged when it begins and when it ends, not for each record.
    trouble: Option<Trouble>,
    /// Whether it was ever open.
    was_open: bool,
}

/// What is wrong with the file.
struct Trouble {
    /// What became of the records.
    fault: Fault,
    /// When it began.
    since: Instant,
    /// When something was last refused.
    refused: Instant,
    /// Whether something was written after that.
    is_written: bool,
    /// The records lost meanwhile.
    dropped: u64,
}

/// What may be wrong with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No file can be opened at the path; the one that was opened before gets the records.
    Away,
    /// No file can be opened at the path, and there is no other one.
    Gone,
    /// The file takes nothing: a full disk, or a pipe that is not read.
    Refused,
}

impl RecordFile {
    /// Names the file; [`RecordFile::follow`] opens it.
    pub(crate) fn new(kind: Kind, path: &Path, health: Arc<Health>) -> Self {
        Self { kind, file: LineFile::new(path, kind.mode()), health, trouble: None, was_open: false }
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns whether the last records were refused: no reader of a pipe is waited for then.
    pub(crate) fn is_refusing(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.fault == Fault::Refused && !trouble.is_written)
    }

    /// Opens the path if it never was, or if another file, or none, is there now.
    pub(crate) fn follow(&mut self) {
        let followed = self.file.follow();
        self.opened(followed);
        self.end_if_sound();
    }

    /// Opens the path again.
    pub(crate) fn reopen(&mut self) {
        let reopened = self.file.reopen();
        self.opened(reopened.map(|()| true));
    }

    /// Appends whole lines; waits for the reader of a full pipe for `patience`.
    ///
    /// # Errors
    /// As [`LineFile::append`]: why not all of them are in the file.
    pub(crate) fn append(&mut self, lines: &[u8], patience: Duration) -> Result<(), Unwritten> {
        let appended = self.file.append(lines, patience);
        match &appended {
            Ok(()) => {
                if let Some(trouble) = &mut self.trouble {
                    trouble.is_written = true;
                }
            }
            Err(Unwritten { kept, error }) => {
                let fault = if self.file.is_open() { Fault::Refused } else { Fault::Gone };
                let trouble = self.begin(fault, error);
                (trouble.refused, trouble.is_written) = (Instant::now(), false);
                trouble.dropped += lines_in(&lines[(*kept).min(lines.len())..]);
            }
        }
        self.end_if_sound();
        appended
    }

    /// Notes what came of looking at the path, and whether it was opened.
    fn opened(&mut self, opened: io::Result<bool>) {
        match opened {
            Ok(is_new) => {
                let is_back = |trouble: &mut Trouble| trouble.fault != Fault::Refused;
                if let Some(trouble) = self.trouble.take_if(is_back) {
                    let how = match (is_new, self.was_open) {
                        (true, true) => "opened again",
                        (true, false) => "opened",
                        (false, _) => "at its path again",
                    };
                    self.end(&trouble, how);
                }
                self.was_open = true;
            }
            // What is worse has been said.
            Err(_) if self.file.is_open() && self.is_refusing() => {}
            Err(error) => {
                let fault = if self.file.is_open() { Fault::Away } else { Fault::Gone };
                self.begin(fault, &error);
            }
        }
    }

    /// Says what is wrong: in the log unless it is known, in the status as it is now.
    fn begin(&mut self, fault: Fault, error: &io::Error) -> &mut Trouble {
        let is_known = self.trouble.as_ref().is_some_and(|trouble| trouble.fault == fault);
        let path = self.file.path().display();
        let error = match fault {
            Fault::Away => format!("{error}; {}", self.file.away().describe()),
            Fault::Gone => help(error, self.kind).map_or_else(|| error.to_string(), |help| format!("{error} ({help})")),
            Fault::Refused => error.to_string(),
        };
        if !is_known {
            match (self.kind, fault) {
                (Kind::Decisions, Fault::Away) => {
                    tracing::warn!(%path, error, "decision log not reopened; keeping the old file");
                }
                (Kind::Decisions, _) => tracing::warn!(%path, error, "decision log not written; dropping records"),
                (Kind::Audit, Fault::Away) => {
                    tracing::error!(%path, error, "audit file not reopened; keeping the old one");
                }
                (Kind::Audit, _) => tracing::error!(%path, error, "audit file not written"),
            }
        }
        self.health.set(Some(format!("{path}: {error}")));
        let now = Instant::now();
        let trouble =
            self.trouble.get_or_insert(Trouble { fault, since: now, refused: now, is_written: false, dropped: 0 });
        trouble.fault = fault;
        trouble
    }

    /// Says that what was refused is written again, once that has been so for a while.
    fn end_if_sound(&mut self) {
        let is_sound = |trouble: &mut Trouble| {
            trouble.fault == Fault::Refused && trouble.is_written && trouble.refused.elapsed() >= SOUND
        };
        if let Some(trouble) = self.trouble.take_if(is_sound) {
            self.end(&trouble, "written again");
        }
    }

    /// Says that nothing is wrong any more.
    fn end(&self, trouble: &Trouble, how: &str) {
        let (name, path, dropped) = (self.kind.name(), self.file.path().display(), trouble.dropped);
        tracing::info!(%path, dropped, after_s = trouble.since.elapsed().as_secs(), "{name} {how}");
        self.health.set(None);
    }
}

/// Waits at a start until the thread of a file has tried to open it and has dropped its end of `opened`, for a bounded time.
pub(crate) fn wait(kind: Kind, path: &Path, opened: &Receiver<()>) {
    if opened.recv_timeout(FIRST) == Err(RecvTimeoutError::Timeout) {
        let (name, path) = (kind.name(), path.display());
        tracing::error!(%path, "{name} not opened yet: its file system does not answer; serving without it");
    }
}

/// Counts lines.
pub(crate) fn lines_in(octets: &[u8]) -> u64 {
    let count = octets.iter().filter(|octet| **octet == b'\n').count();
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Returns what there is to say of a file of records before a start: that it would not be written, and why. `None` if it would
/// be, as far as that shows without making or changing anything. Waits for the file system for a bounded time.
pub(crate) fn forecast(kind: Kind, path: &Path) -> Option<String> {
    let (answer, answered) = sync_channel(1);
    let looked = path.to_owned();
    let look = move || {
        // Nobody may be waiting any more.
        let _ = answer.send(try_open(&looked));
    };
    let started = thread::Builder::new().name("look".into()).spawn(look);
    let why = match started.map(|_| answered.recv_timeout(SOUND)) {
        Ok(Ok(Ok(Found::Writable))) => return None,
        Ok(Ok(Ok(Found::Fifo))) => {
            return Some(format!("the {} is a FIFO, written only while it is read: {}", kind.name(), path.display()));
        }
        Ok(Ok(Err(error))) => match help(&error, kind) {
            Some(help) => format!("{error} ({help})"),
            None => error.to_string(),
        },
        Ok(Err(_)) => "its file system does not answer".to_owned(),
        Err(error) => format!("no thread to look at it: {error}"),
    };
    Some(format!("the {} would not be written: {}: {why}", kind.name(), path.display()))
}

/// What can be opened for appending.
enum Found {
    /// A file, or the directory for one.
    Writable,
    /// A FIFO. It is not opened: its reader would take an opening and closing for all that ever comes.
    Fifo,
}

/// Tries whether a file could be opened for appending.
///
/// # Errors
/// What the system would say.
fn try_open(path: &Path) -> io::Result<Found> {
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {
            access(path, Access::WRITE_OK)?;
            return Ok(Found::Fifo);
        }
        Ok(_) => {
            OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            access(directory.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?;
        }
        Err(error) => return Err(error),
    }
    Ok(Found::Writable)
}

/// Returns what to do about a file that cannot be opened, where that is known.
fn help(error: &io::Error, kind: Kind) -> Option<String> {
    use io::ErrorKind;
    let key = kind.key();
    let help = match error.kind() {
        // Opening a FIFO for writing without waiting for a reader (fifo(7)).
        _ if error.raw_os_error() == Some(libc::ENXIO) => {
            format!("it is a FIFO that nobody reads, or a socket: start its reader, or name a regular file as {key}")
        }
        ErrorKind::NotFound => {
            format!("make its directory, writable for the user hostgate runs as, or change {key}")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("make it and its directory writable for the user hostgate runs as, or change {key}")
        }
        ErrorKind::IsADirectory => format!("name a file in it as {key}"),
        ErrorKind::NotADirectory => format!("a part of it is no directory: change {key}"),
        _ => return None,
    };
    Some(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_could_not_be_opened_is_told_without_making_anything() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "line\n").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        for name in ["file", "new"] {
            assert_eq!(forecast(Kind::Decisions, &at(name)), None, "{name}");
        }
        let told = forecast(Kind::Decisions, &at("fifo")).unwrap();
        assert!(told.starts_with("the decision log is a FIFO, written only while it is read: "), "{told}");
        assert!(!at("new").exists());
        assert_eq!(fs::read(at("file")).unwrap(), b"line\n");
        for (name, part) in [
            ("none/log", "make its directory"),
            ("file/log", "a part of it is no directory"),
            (".", "name a file in it as `audit` under [control]"),
        ] {
            let told = forecast(Kind::Audit, &at(name)).unwrap();
            let begin = format!("the audit file would not be written: {}: ", at(name).display());
            assert!(told.starts_with(&begin) && told.contains(part), "{name}: {told}");
        }
    }
}
