//! The thread that puts blocks into the file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::pool::Block;
use super::{GATHER, Message, Shared};
use crate::telemetry::append;

/// How long at most between looks whether the file is still where its path says.
const LOOK: Duration = Duration::from_secs(1);
/// A log is readable by owner and group.
const MODE: u32 = 0o640;

/// The writing thread's state.
pub(super) struct Writer {
    /// The file in use; none after a failed open.
    file: Option<File>,
    /// Where it should be.
    path: PathBuf,
    /// Lanes, blocks and counts.
    shared: Arc<Shared>,
    /// Whether the last write stopped within a line.
    torn: bool,
    /// Whether the last write failed: said once, not for each record.
    failing: bool,
    /// When the path was last compared with the file.
    looked: Instant,
}

impl Writer {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path, shared: Arc<Shared>) -> io::Result<Self> {
        let (file, torn) = append::open(path, MODE)?;
        Ok(Self { file: Some(file), path: path.to_owned(), shared, torn, failing: false, looked: Instant::now() })
    }

    /// Writes blocks until told to stop.
    pub(super) fn run(&mut self, messages: &Receiver<Message>) {
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
                Ok(Message::ReopenNow) => self.reopen(),
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
        let counts = &self.shared.counts;
        // The rest of a torn line gets an end of its own.
        let result = match &mut self.file {
            Some(file) if self.torn => write(file, b"\n").map_err(|(_, error)| (0, error)).and_then(|()| {
                self.torn = false;
                write(file, block.bytes())
            }),
            Some(file) => write(file, block.bytes()),
            None => Err((0, io::Error::from(io::ErrorKind::NotFound))),
        };
        match result {
            Ok(()) => {
                counts.written.fetch_add(block.lines(), Ordering::Relaxed);
                if self.failing {
                    tracing::info!(path = %self.path.display(), "decision log written again");
                }
                self.failing = false;
            }
            Err((written, error)) => {
                let (written, _) = block.bytes().split_at(written);
                let kept = written.iter().filter(|octet| **octet == b'\n').count();
                let kept = u64::try_from(kept).unwrap_or(u64::MAX).min(block.lines());
                counts.written.fetch_add(kept, Ordering::Relaxed);
                counts.dropped.fetch_add(block.lines() - kept, Ordering::Relaxed);
                let part = written.iter().rev().take_while(|octet| **octet != b'\n').count();
                if part > 0 {
                    self.torn = !self.file.as_mut().is_some_and(|file| append::take_back(file, part));
                }
                if !self.failing {
                    tracing::warn!(path = %self.path.display(), %error, "decision log not written; dropping records");
                }
                self.failing = true;
            }
        }
        self.shared.pool.give(block);
    }

    /// Opens the path anew when another file, or none, is there now.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        if !self.file.as_ref().is_some_and(|file| append::is_at(file, &self.path)) {
            self.reopen();
        }
    }

    /// Opens the path; keeps the old file when that fails, so that nothing is lost meanwhile.
    fn reopen(&mut self) {
        match append::open(&self.path, MODE) {
            Ok((file, torn)) => (self.file, self.torn) = (Some(file), torn),
            Err(error) => {
                if !self.failing {
                    tracing::warn!(path = %self.path.display(), %error, "decision log not reopened; keeping the old file");
                }
                self.failing = true;
            }
        }
    }
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
