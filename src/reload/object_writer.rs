//! The thread that writes the API's files, and the deadline of a write.
//!
//! A file system that is frozen or unreachable keeps a thread that writes to it for as long as it likes. This must not be
//! the reload thread, which also reads the files of people on other disks. So the reload thread waits for a write no longer
//! than [`WRITE_PATIENCE`], and then goes on without the change. The write that it gave up makes nothing once the file system
//! answers, unless it had begun to replace the file already.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use super::atomic_write::{AtomicWriter, Expected, WriteError};
use super::status::{ReloadStatus, WRITE_PATIENCE, hangs};

/// A handle to the thread that writes the API's files, which starts with the first write.
pub(super) struct ObjectWriter {
    /// The queue of the thread; `None` before the first write.
    jobs: Option<Sender<Job>>,
    /// The outcome of a write that was given up, while it is not known.
    given_up: Option<Receiver<Outcome>>,
    /// The status, which says for how long a write has been running.
    status: Arc<ReloadStatus>,
}

/// The outcome of a write.
type Outcome = Result<(), WriteError>;

/// A task of the thread.
enum Job {
    /// A write of a file.
    Write(Write),
    /// The release of the lock on a folder that is gone.
    Release,
}

/// A write of a file.
struct Write {
    path: PathBuf,
    expected: Expected,
    after: Option<Arc<str>>,
    stage: Arc<Stage>,
    done: SyncSender<Outcome>,
}

/// The stage of a write: prepared, or committed by the thread, or given up by the one that waits. The last two exclude each
/// other.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    const COMMITTED: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Commits the write, so that it can no longer be given up; returns `false` if it was.
    fn commit(&self) -> bool {
        self.leave(Self::COMMITTED)
    }

    /// Gives the write up, so that it makes nothing; returns `false` if it is committed.
    fn give_up(&self) -> bool {
        self.leave(Self::GIVEN_UP)
    }

    fn leave(&self, to: u8) -> bool {
        self.0.compare_exchange(0, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl ObjectWriter {
    /// Makes a handle; no thread is started yet.
    pub(super) fn new(status: Arc<ReloadStatus>) -> Self {
        Self { jobs: None, given_up: None, status }
    }

    /// Replaces what is expected at a path by the text `after`, where `None` is no file, within twice [`WRITE_PATIENCE`].
    ///
    /// # Errors
    /// The path holds something else, or cannot be written; the file system does not answer.
    pub(super) fn put(&mut self, path: &Path, expected: Expected, after: Option<&Arc<str>>) -> Outcome {
        if self.given_up.as_ref().is_some_and(|outcome| matches!(outcome.try_recv(), Err(TryRecvError::Empty))) {
            return Err(WriteError::Hangs(hangs(path, self.status.writing())));
        }
        self.given_up = None;
        let (stage, (done, outcome)) = (Arc::new(Stage::default()), sync_channel(1));
        let (path_of_job, after) = (path.to_owned(), after.cloned());
        self.send(Job::Write(Write { path: path_of_job, expected, after, stage: Arc::clone(&stage), done }))?;
        let ended =
            || WriteError::Io(format!("write {}: the thread that writes has ended: see the log", path.display()));
        let error = match outcome.recv_timeout(WRITE_PATIENCE) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            Err(RecvTimeoutError::Timeout) if stage.give_up() => WriteError::Hangs(hangs(path, self.status.writing())),
            Err(RecvTimeoutError::Timeout) => match outcome.recv_timeout(WRITE_PATIENCE) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
                Err(RecvTimeoutError::Timeout) => WriteError::Unknown(unknown(path, self.status.writing())),
            },
        };
        tracing::error!(path = %path.display(), %error, "a disk does not answer; changes over the API are refused");
        self.given_up = Some(outcome);
        Err(error)
    }

    /// Releases the lock on a folder that is no longer at its path: see [`AtomicWriter::release`].
    pub(super) fn release(&mut self) {
        if self.given_up.is_none()
            && let Some(jobs) = &self.jobs
        {
            // Without the thread there is no lock.
            let _ = jobs.send(Job::Release);
        }
    }

    /// Sends a task to the thread, which is started if it does not run.
    fn send(&mut self, job: Job) -> Outcome {
        let job = match &self.jobs {
            None => job,
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.0,
            },
        };
        let (jobs, queue) = channel();
        let status = Arc::clone(&self.status);
        let started = thread::Builder::new().name("object-writer".into()).spawn(move || run(&queue, &status));
        started.map_err(|error| WriteError::Io(format!("start the thread that writes: {error}")))?;
        self.jobs = jobs.send(job).is_ok().then_some(jobs);
        Ok(())
    }
}

/// Runs the thread until its handle is dropped.
fn run(queue: &Receiver<Job>, status: &ReloadStatus) {
    let mut writer = AtomicWriter::default();
    while let Ok(job) = queue.recv() {
        match job {
            Job::Release => writer.release(),
            Job::Write(Write { path, expected, after, stage, done }) => {
                status.begin_write(&path);
                let written = writer.put(&path, &expected, after.as_deref(), &|| stage.commit());
                // It may have been given up.
                let _ = done.send(written);
                let taken = status.end_write();
                if taken >= WRITE_PATIENCE {
                    tracing::warn!(path = %path.display(), seconds = taken.as_secs(), "the disk answers again");
                }
            }
        }
    }
}

/// Returns the message for a write that had begun to replace the file.
fn unknown(path: &Path, time: Duration) -> String {
    let folder = path.parent().unwrap_or(path).display();
    format!(
        "the disk of {folder} has not answered for {} s, and the change may be made once it does: look at the object then, before \
         the change is asked for again",
        time.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_is_either_committed_or_given_up() {
        let stage = Stage::default();
        assert!(stage.commit() && !stage.give_up() && !stage.commit());
        let stage = Stage::default();
        assert!(stage.give_up() && !stage.commit());
    }
}
