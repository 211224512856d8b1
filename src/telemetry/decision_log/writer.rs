//! The thread that puts blocks into the file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use super::pool::Block;
use super::{GATHER, Message, Shared};
use crate::telemetry::append::Unwritten;
use crate::telemetry::record_file::{Kind, RecordFile, lines_in};

/// How long at most between looks whether the file is still where its path says.
const LOOK: Duration = Duration::from_secs(1);
/// How long the reader of a pipe is waited for; not again until it has taken something.
const PATIENCE: Duration = Duration::from_millis(500);

/// The writing thread's state.
pub(super) struct Writer {
    /// The file.
    file: RecordFile,
    /// Lanes, blocks and counts.
    shared: Arc<Shared>,
    /// When the path was last compared with the file.
    looked: Instant,
}

impl Writer {
    /// Makes the state; [`Writer::run`] opens the file.
    pub(super) fn new(path: &Path, shared: Arc<Shared>) -> Self {
        let file = RecordFile::new(Kind::Decisions, path, Arc::clone(&shared.counts.health));
        Self { file, shared, looked: Instant::now() }
    }

    /// Opens the file, tells `opened` that this came to an end, and writes blocks until told to stop.
    pub(super) fn run(&mut self, messages: &Receiver<Message>, opened: SyncSender<()>) {
        self.look(Instant::now());
        drop(opened);
        // When to take the blocks that are begun, if one is.
        let mut sweep: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if sweep.is_some_and(|sweep| sweep <= now) {
                sweep = None;
                self.shared.idle.store(true, Ordering::Relaxed);
                self.shared.sweep(false);
            }
            if now.saturating_duration_since(self.looked) >= LOOK {
                self.look(now);
            }
            let next = sweep.into_iter().chain([self.looked + LOOK]).min().unwrap_or(now);
            match messages.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Message::Block(block)) => self.write_block(block),
                Ok(Message::Begun) => sweep = Some(now.max(Instant::now()) + GATHER),
                Ok(Message::Reopen) => {
                    // What is recorded before the signal belongs into the file of before.
                    self.shared.sweep(false);
                    self.shared.tell(Message::ReopenNow);
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

    /// Takes no more records, writes all there are, and says so.
    fn stop(&mut self, messages: &Receiver<Message>, done: &Sender<()>) {
        self.shared.sweep(true);
        while let Ok(message) = messages.try_recv() {
            if let Message::Block(block) = message {
                self.write_block(block);
            }
        }
        // Nobody may be waiting any more.
        let _ = done.send(());
    }

    /// Writes a block and gives it back; what the disk refuses is dropped and counted.
    fn write_block(&mut self, block: Block) {
        let counts = Arc::clone(&self.shared.counts);
        let patience = if self.file.is_refusing() { Duration::ZERO } else { PATIENCE };
        let kept = match counts.health.during(|| self.file.append(block.bytes(), patience)) {
            Ok(()) => block.lines(),
            Err(Unwritten { kept, .. }) => {
                let (kept, _) = block.bytes().split_at(kept);
                lines_in(kept).min(block.lines())
            }
        };
        counts.written.fetch_add(kept, Ordering::Relaxed);
        counts.dropped.fetch_add(block.lines() - kept, Ordering::Relaxed);
        self.shared.pool.give(block);
    }

    /// Opens the path if it is not open yet, or if another file, or none, is there now.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        let health = Arc::clone(&self.shared.counts.health);
        health.during(|| self.file.follow());
    }
}
