//! The decision log: one JSON line a query, written by a thread of its own, never in the way of an answer.
//!
//! When the disk cannot follow, the queue fills and further records are dropped and counted. The file may be moved
//! away at any time: the writer notices within a second (or at once on SIGUSR1) and opens a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Records that may wait for the disk; a full queue drops what comes.
const QUEUE: usize = 8192;
/// How long at most between looks whether the file is still where its path says.
const LOOK: Duration = Duration::from_secs(1);
/// Octets gathered before they are written, unless the queue runs empty first.
const CHUNK: usize = 64 << 10;

/// What has become of the records so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Records in the file.
    pub(crate) written: AtomicU64,
    /// Records lost: the queue was full or the disk refused them.
    pub(crate) dropped: AtomicU64,
}

/// The handle that queries put records into; clones share one writer.
pub(crate) struct DecisionLog<R> {
    /// The way to the writer.
    queue: SyncSender<Message<R>>,
    /// What has become of the records.
    counts: Arc<Counts>,
}

impl<R> Clone for DecisionLog<R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), counts: Arc::clone(&self.counts) }
    }
}

/// What the writer is told.
enum Message<R> {
    /// Write this.
    Record(R),
    /// Close the file and open its path anew.
    Reopen,
    /// Write what is queued and end.
    Stop(SyncSender<()>),
}

impl<R: Serialize + Send + 'static> DecisionLog<R> {
    /// Opens the file for appending (mode 0640) and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub(crate) fn open(path: &Path, counts: Arc<Counts>) -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let mut writer = Writer {
            file: Some(open(path)?),
            path: path.to_owned(),
            counts: Arc::clone(&counts),
            chunk: Vec::with_capacity(CHUNK + 1024),
            lines: 0,
            torn: false,
            failing: false,
            looked: Instant::now(),
        };
        thread::Builder::new().name("decision-log".into()).spawn(move || writer.run(&messages))?;
        Ok(Self { queue, counts })
    }

    /// Queues a record; drops and counts it when the queue is full. Never waits.
    pub(crate) fn record(&self, record: R) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Record(record))
        {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the writer to open the path anew (SIGUSR1).
    pub(crate) fn reopen(&self) {
        // A full queue is being written, and the writer looks at the path every second anyway.
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Writes what is queued, waiting `deadline` at most.
    pub(crate) fn close(&self, deadline: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.queue.try_send(Message::Stop(done)).is_ok() {
            // On time-out the disk hangs, and the rest is given up.
            let _ = wait.recv_timeout(deadline);
        }
    }
}

/// The writing thread's state.
struct Writer {
    /// The file in use; none after a failed open.
    file: Option<File>,
    /// Where it should be.
    path: PathBuf,
    /// What has become of the records.
    counts: Arc<Counts>,
    /// Lines not yet written.
    chunk: Vec<u8>,
    /// How many lines `chunk` holds.
    lines: u64,
    /// Whether the last write stopped within a line.
    torn: bool,
    /// Whether the last write failed: said once, not for each record.
    failing: bool,
    /// When the path was last compared with the file.
    looked: Instant,
}

impl Writer {
    /// Writes records until told to stop or all senders are gone.
    fn run<R: Serialize>(&mut self, messages: &mpsc::Receiver<Message<R>>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => Ok(message),
                Err(mpsc::TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(mpsc::TryRecvError::Empty) => {
                    self.flush();
                    messages.recv_timeout(LOOK)
                }
            };
            if self.looked.elapsed() >= LOOK {
                self.look();
            }
            match message {
                Ok(Message::Record(record)) => self.add(&record),
                Ok(Message::Reopen) => {
                    self.flush();
                    self.reopen();
                }
                Ok(Message::Stop(done)) => {
                    self.flush();
                    // Nobody may be waiting any more.
                    let _ = done.try_send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    /// Appends one line to the chunk.
    fn add(&mut self, record: &impl Serialize) {
        let start = self.chunk.len();
        if serde_json::to_writer(&mut self.chunk, record).is_err() {
            self.chunk.truncate(start);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.chunk.push(b'\n');
        self.lines += 1;
        if self.chunk.len() >= CHUNK {
            self.flush();
        }
    }

    /// Writes the chunk; what the disk refuses is dropped and counted.
    fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        if self.torn {
            self.chunk.insert(0, b'\n');
        }
        let result = match &mut self.file {
            Some(file) => write(file, &self.chunk),
            None => Err((0, io::Error::from(io::ErrorKind::NotFound))),
        };
        match result {
            Ok(()) => {
                self.counts.written.fetch_add(self.lines, Ordering::Relaxed);
                if self.failing {
                    tracing::info!(path = %self.path.display(), "decision log written again");
                }
                self.torn = false;
                self.failing = false;
            }
            Err((written, error)) => {
                let kept = self.chunk[..written].iter().filter(|octet| **octet == b'\n').count();
                let kept = u64::try_from(kept).unwrap_or(u64::MAX).saturating_sub(u64::from(self.torn)).min(self.lines);
                self.counts.written.fetch_add(kept, Ordering::Relaxed);
                self.counts.dropped.fetch_add(self.lines - kept, Ordering::Relaxed);
                self.torn = if written == 0 { self.torn } else { self.chunk[written - 1] != b'\n' };
                if !self.failing {
                    tracing::warn!(path = %self.path.display(), %error, "decision log not written; dropping records");
                }
                self.failing = true;
            }
        }
        self.chunk.clear();
        self.lines = 0;
    }

    /// Opens the path anew when another file, or none, is there now.
    fn look(&mut self) {
        self.looked = Instant::now();
        let here = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = std::fs::metadata(&self.path).ok();
        let same = match (&here, &there) {
            (Some(here), Some(there)) => (here.dev(), here.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if !same {
            self.flush();
            self.reopen();
        }
    }

    /// Opens the path; keeps the old file when that fails, so that nothing is lost meanwhile.
    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                self.torn = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(path = %self.path.display(), %error, "decision log not reopened; keeping the old file");
                }
                self.failing = true;
            }
        }
    }
}

/// Opens a log file for appending, readable by owner and group.
fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe would wait for a reader for ever.
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Writes all of `bytes`, or says how many went in before the error.
fn write(file: &mut File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::Error::from(io::ErrorKind::WriteZero))),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls a fact until it holds, for ten seconds at most.
    fn wait_for(what: &str, fact: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !fact() {
            assert!(Instant::now() < end, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_moved_file_is_followed_by_a_new_one_and_no_record_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let moved = directory.path().join("log.1");
        let counts = Arc::new(Counts::default());
        let log = DecisionLog::open(&path, Arc::clone(&counts)).unwrap();
        log.record(1);
        wait_for("first record", || counts.written.load(Ordering::Relaxed) == 1);
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        wait_for("new file", || path.exists());
        log.record(2);
        log.close(Duration::from_secs(5));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[test]
    fn a_moved_file_is_noticed_without_a_signal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = DecisionLog::open(&path, Arc::default()).unwrap();
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        log.record("a");
        wait_for("new file", || path.exists());
    }

    #[test]
    fn a_full_disk_drops_and_counts() {
        let counts = Arc::new(Counts::default());
        let log = DecisionLog::open(Path::new("/dev/full"), Arc::clone(&counts)).unwrap();
        for number in 0..100_000 {
            log.record(number);
        }
        log.close(Duration::from_secs(5));
        assert_eq!(counts.written.load(Ordering::Relaxed), 0);
        wait_for("all dropped", || counts.dropped.load(Ordering::Relaxed) == 100_000);
    }
}
