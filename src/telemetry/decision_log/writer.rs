//! The thread that puts blocks into the file.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::pool::Block;
use super::{GATHER, Message, Shared};
use crate::telemetry::append::{LineFile, Unwritten};

/// How long at most between looks whether the file is still where its path says.
const LOOK: Duration = Duration::from_secs(1);
/// How long the reader of a pipe is waited for; not again until it has taken something.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long nothing may have been refused before the file counts as written again: a full disk takes a short block now and
/// then.
const SOUND: Duration = Duration::from_secs(2);
/// A log is readable by owner and group.
const MODE: u32 = 0o640;

/// The writing thread's state.
pub(super) struct Writer {
    /// The file.
    file: LineFile,
    /// Lanes, blocks and counts.
    shared: Arc<Shared>,
    /// What is wrong: said when it begins and when it ends, not for each record.
    trouble: Option<Trouble>,
    /// When the path was last compared with the file.
    looked: Instant,
}

/// What is wrong with the file.
struct Trouble {
    /// Which kind it is.
    kind: Kind,
    /// When it began.
    since: Instant,
    /// When something was last refused.
    refused: Instant,
    /// Whether a block was written after that.
    is_written: bool,
    /// The records lost meanwhile.
    dropped: u64,
}

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No file can be made at the path; the old one, which was moved away, gets the records.
    Moved,
    /// No file can be made at the path, and the old one was removed.
    Gone,
    /// The file takes nothing: a full disk, or a pipe that is not read.
    Refused,
}

impl Writer {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path, shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self { file: LineFile::open(path, MODE)?, shared, trouble: None, looked: Instant::now() })
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
        let counts = Arc::clone(&self.shared.counts);
        let is_refusing = self.trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::Refused);
        let patience = if is_refusing { Duration::ZERO } else { PATIENCE };
        match counts.health.during(|| self.file.append(block.bytes(), patience)) {
            Ok(()) => {
                counts.written.fetch_add(block.lines(), Ordering::Relaxed);
                if let Some(trouble) = &mut self.trouble {
                    trouble.is_written = true;
                }
            }
            Err(Unwritten { kept, error }) => {
                let (kept, _) = block.bytes().split_at(kept);
                let kept = kept.iter().filter(|octet| **octet == b'\n').count();
                let kept = u64::try_from(kept).unwrap_or(u64::MAX).min(block.lines());
                counts.written.fetch_add(kept, Ordering::Relaxed);
                counts.dropped.fetch_add(block.lines() - kept, Ordering::Relaxed);
                let kind = if self.file.is_open() { Kind::Refused } else { Kind::Gone };
                let trouble = self.begin(kind, &error);
                (trouble.refused, trouble.is_written) = (Instant::now(), false);
                trouble.dropped += block.lines() - kept;
            }
        }
        self.shared.pool.give(block);
        self.end_if_sound();
    }

    /// Opens the path anew when another file, or none, is there now.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        let counts = Arc::clone(&self.shared.counts);
        let followed = counts.health.during(|| self.file.follow());
        self.opened(followed);
        self.end_if_sound();
    }

    /// Opens the path anew.
    fn reopen(&mut self) {
        let counts = Arc::clone(&self.shared.counts);
        let reopened = counts.health.during(|| self.file.reopen());
        self.opened(reopened);
    }

    /// Notes what came of opening the path.
    fn opened(&mut self, opened: io::Result<()>) {
        match opened {
            Ok(()) => {
                let is_back = |trouble: &mut Trouble| trouble.kind != Kind::Refused;
                if let Some(trouble) = self.trouble.take_if(is_back) {
                    self.end(&trouble, "decision log opened again");
                }
            }
            Err(error) => {
                let is_refusing = self.trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::Refused);
                match self.file.is_open() {
                    // What is worse has been said.
                    true if is_refusing => {}
                    true => _ = self.begin(Kind::Moved, &error),
                    false => _ = self.begin(Kind::Gone, &error),
                }
            }
        }
    }

    /// Says what is wrong, unless it is known.
    fn begin(&mut self, kind: Kind, error: &io::Error) -> &mut Trouble {
        let is_known = self.trouble.as_ref().is_some_and(|trouble| trouble.kind == kind);
        let path = self.file.path().display();
        if !is_known {
            match kind {
                Kind::Moved => tracing::warn!(%path, %error, "decision log not reopened; keeping the old file"),
                Kind::Gone | Kind::Refused => {
                    tracing::warn!(%path, %error, "decision log not written; dropping records");
                }
            }
            self.shared.counts.health.set(Some(format!("{path}: {error}")));
        }
        let now = Instant::now();
        let trouble =
            self.trouble.get_or_insert(Trouble { kind, since: now, refused: now, is_written: false, dropped: 0 });
        trouble.kind = kind;
        trouble
    }

    /// Says that what was refused is written again, once that has been so for a while.
    fn end_if_sound(&mut self) {
        let is_sound = |trouble: &mut Trouble| {
            trouble.kind == Kind::Refused && trouble.is_written && trouble.refused.elapsed() >= SOUND
        };
        if let Some(trouble) = self.trouble.take_if(is_sound) {
            self.end(&trouble, "decision log written again");
        }
    }

    /// Says that nothing is wrong any more.
    fn end(&self, trouble: &Trouble, how: &str) {
        let (path, dropped) = (self.file.path().display(), trouble.dropped);
        tracing::info!(%path, dropped, after_s = trouble.since.elapsed().as_secs(), "{how}");
        self.shared.counts.health.set(None);
    }
}
