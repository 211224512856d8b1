//! A file of records (the decision log or the audit file), whose faults are reported in the log and in `/status`.
//!
//! A fault is logged when it begins and when it ends, and is in the status in between. It neither prevents a start nor
//! ends a running service, as no client needs the records: a file that cannot be opened at the start is opened later,
//! in the same way as one that was removed while the service ran.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};

use super::append::{AppendError, Health, LineFile};
use crate::util::trusted_link::{self, Resolved};

/// The time without a refused write after which the file counts as working again. A full disk accepts a short line now
/// and then, and each would otherwise be logged as the end of the fault. Also the time that [`forecast`] waits for the
/// file system.
const SOUND_AFTER: Duration = Duration::from_secs(2);
/// The longest time for which a start waits for the file to be opened. A file system that does not answer must not
/// prevent the start.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

/// The kinds of record files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Decisions,
    Audit,
}

impl RecordKind {
    /// Returns the name in log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decision log",
            Self::Audit => "audit file",
        }
    }

    /// Returns the permission bits for creating the file. The owner's group may read decisions, but not the audit file.
    fn mode(self) -> u32 {
        match self {
            Self::Decisions => 0o640,
            Self::Audit => 0o600,
        }
    }

    /// Returns the configuration key that names the file, for messages.
    fn key(self) -> &'static str {
        match self {
            Self::Decisions => "`path` under [decisions]",
            Self::Audit => "`audit` under [control]",
        }
    }
}

/// A file of records and its present fault. It is for one thread, which can block on the file system.
pub(crate) struct RecordFile {
    kind: RecordKind,
    file: LineFile,
    /// The state that `/status` shows.
    health: Arc<Health>,
    /// The present fault, which is logged when it begins and when it ends instead of for each record.
    trouble: Option<FaultState>,
    /// Set once the file has been open.
    was_open: bool,
}

/// A fault of the file and its history.
struct FaultState {
    fault: Fault,
    /// The time at which the fault began.
    since: Instant,
    /// The time of the last refused write; the beginning of the fault if no write was refused.
    refused: Instant,
    /// Set if a write has succeeded since the last refused one.
    is_written: bool,
    /// The number of records lost since the fault began.
    dropped: u64,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The path cannot be opened, but records still go to the file that was opened before.
    PathLost,
    /// The path cannot be opened, and no file is open: records are lost.
    NoFile,
    /// The open file does not accept writes: the disk is full, or a pipe is not read.
    Refused,
}

impl RecordFile {
    /// Makes a closed file for a path; [`RecordFile::follow`] opens it.
    pub(crate) fn new(kind: RecordKind, path: &Path, health: Arc<Health>) -> Self {
        Self { kind, file: LineFile::new(path, kind.mode()), health, trouble: None, was_open: false }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns whether the last records were refused. If so, a write should not wait for the reader of a pipe.
    pub(crate) fn is_refusing(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.fault == Fault::Refused && !trouble.is_written)
    }

    /// Opens the path again if the file there is not the open one.
    pub(crate) fn follow(&mut self) {
        let followed = self.file.follow();
        self.note_open_result(followed);
        self.end_if_sound();
    }

    /// Opens the path again, even if the file there is the open one, as SIGUSR1 asks for.
    pub(crate) fn reopen(&mut self) {
        let reopened = self.file.reopen();
        self.note_open_result(reopened.map(|()| true));
    }

    /// Appends whole lines, and waits up to `patience` for the reader of a full pipe.
    ///
    /// # Errors
    /// The errors of [`LineFile::append`].
    pub(crate) fn append(&mut self, lines: &[u8], patience: Duration) -> Result<(), AppendError> {
        let appended = self.file.append(lines, patience);
        match &appended {
            Ok(()) => {
                if let Some(trouble) = &mut self.trouble {
                    trouble.is_written = true;
                }
            }
            Err(AppendError { kept, error }) => {
                let fault = if self.file.is_open() { Fault::Refused } else { Fault::NoFile };
                let trouble = self.begin(fault, error);
                (trouble.refused, trouble.is_written) = (Instant::now(), false);
                trouble.dropped += lines_in(&lines[(*kept).min(lines.len())..]);
            }
        }
        self.end_if_sound();
        appended
    }

    /// Ends or begins a fault, depending on the result of opening the path: `Ok(true)` if a file was opened,
    /// `Ok(false)` if the open file is the one at the path.
    fn note_open_result(&mut self, opened: io::Result<bool>) {
        match opened {
            Ok(is_new) => {
                let is_back = |trouble: &mut FaultState| trouble.fault != Fault::Refused;
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
            // The present fault `Refused` is kept, as it is the worse one: it loses records.
            Err(_) if self.file.is_open() && self.is_refusing() => {}
            Err(error) => {
                let fault = if self.file.is_open() { Fault::PathLost } else { Fault::NoFile };
                self.begin(fault, &error);
            }
        }
    }

    /// Begins a fault, or updates the present one. Updates the status, and logs the fault unless it is of the same kind
    /// as the present one.
    fn begin(&mut self, fault: Fault, error: &io::Error) -> &mut FaultState {
        let is_known = self.trouble.as_ref().is_some_and(|trouble| trouble.fault == fault);
        let path = self.file.path().display();
        let error = match fault {
            Fault::PathLost => format!("{error}; {}", self.file.away().describe()),
            Fault::NoFile => {
                help(error, self.kind).map_or_else(|| error.to_string(), |help| format!("{error} ({help})"))
            }
            Fault::Refused => error.to_string(),
        };
        if !is_known {
            // A lost audit record is an error; decision records may be dropped by design.
            match (self.kind, fault) {
                (RecordKind::Decisions, Fault::PathLost) => {
                    tracing::warn!(%path, error, "decision log not reopened; keeping the old file");
                }
                (RecordKind::Decisions, _) => {
                    tracing::warn!(%path, error, "decision log not written; dropping records");
                }
                (RecordKind::Audit, Fault::PathLost) => {
                    tracing::error!(%path, error, "audit file not reopened; keeping the old one");
                }
                (RecordKind::Audit, _) => tracing::error!(%path, error, "audit file not written"),
            }
        }
        self.health.set(Some(format!("{path}: {error}")));
        let now = Instant::now();
        let trouble =
            self.trouble.get_or_insert(FaultState { fault, since: now, refused: now, is_written: false, dropped: 0 });
        trouble.fault = fault;
        trouble
    }

    /// Ends the fault `Refused` once writes have succeeded for a while.
    fn end_if_sound(&mut self) {
        let is_sound = |trouble: &mut FaultState| {
            trouble.fault == Fault::Refused && trouble.is_written && trouble.refused.elapsed() >= SOUND_AFTER
        };
        if let Some(trouble) = self.trouble.take_if(is_sound) {
            self.end(&trouble, "written again");
        }
    }

    /// Logs the end of a fault and clears the status.
    fn end(&self, trouble: &FaultState, how: &str) {
        let (name, path, dropped) = (self.kind.name(), self.file.path().display(), trouble.dropped);
        tracing::info!(%path, dropped, after_s = trouble.since.elapsed().as_secs(), "{name} {how}");
        self.health.set(None);
    }
}

/// Waits at the start until the thread of the file has tried to open it, for at most [`OPEN_TIMEOUT`]. The thread
/// reports that by dropping the sender of `opened`.
pub(crate) fn wait(kind: RecordKind, path: &Path, opened: &Receiver<()>) {
    if opened.recv_timeout(OPEN_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
        let (name, path) = (kind.name(), path.display());
        tracing::error!(%path, "{name} not opened yet: its file system does not answer; serving without it");
    }
}

/// Returns the number of lines, not counting one without a line end.
pub(crate) fn lines_in(octets: &[u8]) -> u64 {
    let count = octets.iter().filter(|octet| **octet == b'\n').count();
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Returns a message if a file of records could not be written after a start; `None` if no obstacle is found. Creates
/// and changes nothing, so it misses some obstacles, such as a full disk. Waits a bounded time for the file system.
pub(crate) fn forecast(kind: RecordKind, path: &Path) -> Option<String> {
    let (answer, answered) = sync_channel(1);
    let looked = path.to_owned();
    let look = move || {
        // Sending fails if the receiver has stopped waiting.
        let _ = answer.send(try_open(&looked));
    };
    let started = thread::Builder::new().name("look".into()).spawn(look);
    let why = match started.map(|_| answered.recv_timeout(SOUND_AFTER)) {
        Ok(Ok(Ok(AppendTarget::Writable))) => return None,
        Ok(Ok(Ok(AppendTarget::Fifo))) => {
            return Some(format!("the {} is a FIFO, written only while it is read: {}", kind.name(), path.display()));
        }
        Ok(Ok(Err(error))) => match help(&error, kind) {
            Some(help) => format!("{error} ({help})"),
            None => error.to_string(),
        },
        Ok(Err(_)) => "its file system does not answer".to_owned(),
        Err(error) => format!("cannot start a thread to test it: {error}"),
    };
    Some(format!("the {} would not be written: {}: {why}", kind.name(), path.display()))
}

/// The kinds of files that can be opened for appending.
enum AppendTarget {
    /// A regular file or device, or a directory in which one can be created.
    Writable,
    /// A FIFO. It is not opened, as opening and closing it would end the input of its reader.
    Fifo,
}

/// Tests whether a file could be opened for appending.
///
/// # Errors
/// The error that opening it would give.
fn try_open(path: &Path) -> io::Result<AppendTarget> {
    let Resolved { path, flag } = trusted_link::resolve(path)?;
    match fs::metadata(&path) {
        Ok(found) if found.is_file() || found.is_dir() => {
            // Without `create`, opening shows the permissions and changes nothing.
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY | flag;
            OpenOptions::new().append(true).custom_flags(flags).open(&path)?;
        }
        // Opening a device can have an effect, and closing a FIFO too.
        Ok(found) => {
            access(&path, Access::WRITE_OK)?;
            if found.file_type().is_fifo() {
                return Ok(AppendTarget::Fifo);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            access(directory.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?;
        }
        Err(error) => return Err(error),
    }
    Ok(AppendTarget::Writable)
}

/// Returns advice on a file that cannot be opened, or `None` if the error is unknown.
fn help(error: &io::Error, kind: RecordKind) -> Option<String> {
    use io::ErrorKind;
    let key = kind.key();
    let help = match error.kind() {
        // open(2) of a FIFO for writing fails with ENXIO if it has no reader and O_NONBLOCK is set (fifo(7)).
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
        ErrorKind::NotADirectory => format!("a part of the path is not a directory: change {key}"),
        _ => return None,
    };
    Some(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecast_reports_an_unwritable_file_without_creating_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "line\n").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        for name in ["file", "new"] {
            assert_eq!(forecast(RecordKind::Decisions, &at(name)), None, "{name}");
        }
        let message = forecast(RecordKind::Decisions, &at("fifo")).unwrap();
        assert!(message.starts_with("the decision log is a FIFO, written only while it is read: "), "{message}");
        assert!(!at("new").exists());
        assert_eq!(fs::read(at("file")).unwrap(), b"line\n");
        for (name, part) in [
            ("none/log", "make its directory"),
            ("file/log", "a part of the path is not a directory"),
            (".", "name a file in it as `audit` under [control]"),
        ] {
            let message = forecast(RecordKind::Audit, &at(name)).unwrap();
            let begin = format!("the audit file would not be written: {}: ", at(name).display());
            assert!(message.starts_with(&begin) && message.contains(part), "{name}: {message}");
        }
    }
}
