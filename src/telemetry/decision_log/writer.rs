//! The thread that writes blocks of records to the file of the decision log.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use super::pool::Block;
use super::{GATHER, Message, Shared};
use crate::telemetry::append::AppendError;
use crate::telemetry::record_file::{RecordFile, RecordKind, lines_in};

/// The longest interval between checks whether the file is still the one at its path.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The time to wait for the reader of a pipe. Once it has passed, writes do not wait again until one succeeds.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Writer {
    file: RecordFile,
    shared: Arc<Shared>,
    /// The time of the last check whether the file is the one at its path.
    checked_at: Instant,
}

impl Writer {
    /// Makes a writer with a closed file, which [`Writer::run`] opens.
    pub(super) fn new(path: &Path, shared: Arc<Shared>) -> Self {
        let file = RecordFile::new(RecordKind::Decisions, path, Arc::clone(&shared.counts.health));
        Self { file, shared, checked_at: Instant::now() }
    }

    /// Opens the file, drops `opened` once that has succeeded or failed, and writes blocks until [`Message::Stop`].
    pub(super) fn run(&mut self, messages: &Receiver<Message>, opened: SyncSender<()>) {
        self.check_path(Instant::now());
        drop(opened);
        // The time at which to collect the blocks that are being filled; `None` if there are none.
        let mut sweep: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if sweep.is_some_and(|sweep| sweep <= now) {
                sweep = None;
                // Set before the buffers are locked: a record added after that sends a new `Begun`.
                self.shared.idle.store(true, Ordering::Relaxed);
                self.shared.sweep(false);
            }
            if now.saturating_duration_since(self.checked_at) >= CHECK_EVERY {
                self.check_path(now);
            }
            let next = sweep.into_iter().chain([self.checked_at + CHECK_EVERY]).min().unwrap_or(now);
            match messages.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Message::Block(block)) => self.write_block(block),
                Ok(Message::Begun) => sweep = Some(Instant::now() + GATHER),
                Ok(Message::Reopen) => {
                    // Records from before the signal belong in the old file. Their blocks are queued now, so the path
                    // is opened by a message that is queued behind them.
                    self.shared.sweep(false);
                    self.shared.send(Message::ReopenNow);
                }
                Ok(Message::ReopenNow) => {
                    let health = Arc::clone(&self.shared.counts.health);
                    health.during(|| self.file.reopen());
                }
                Ok(Message::Stop(done)) => return self.stop(messages, &done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Stops recording, writes all blocks, and then sends on `done`.
    fn stop(&mut self, messages: &Receiver<Message>, done: &Sender<()>) {
        // Closes the buffers under their locks, so every record is either written now or dropped and counted.
        self.shared.sweep(true);
        while let Ok(message) = messages.try_recv() {
            if let Message::Block(block) = message {
                self.write_block(block);
            }
        }
        // Sending fails if the receiver has stopped waiting.
        let _ = done.send(());
    }

    /// Writes a block and returns it to the pool. Lines that the file system refuses are dropped and counted.
    fn write_block(&mut self, block: Block) {
        let counts = Arc::clone(&self.shared.counts);
        let patience = if self.file.is_refusing() { Duration::ZERO } else { PATIENCE };
        let kept = match counts.health.during(|| self.file.append(block.bytes(), patience)) {
            Ok(()) => block.lines(),
            Err(AppendError { kept, .. }) => {
                let (kept, _) = block.bytes().split_at(kept);
                lines_in(kept).min(block.lines())
            }
        };
        counts.written.fetch_add(kept, Ordering::Relaxed);
        counts.dropped.fetch_add(block.lines() - kept, Ordering::Relaxed);
        self.shared.pool.give(block);
    }

    /// Opens the path again if the file there is not the open one.
    fn check_path(&mut self, now: Instant) {
        self.checked_at = now;
        let health = Arc::clone(&self.shared.counts.health);
        health.during(|| self.file.follow());
    }
}
