//! The decision log: one JSON line a query, written to a file by its own thread, so that no answer waits for a disk.
//!
//! The thread that answers a query formats its line into a block, which it has nearly to itself: everything the line
//! names is at hand there, and only the kernel copies it again. Full blocks go to the writer at once, others within
//! [`GATHER`], so the writer wakes up for hundreds of lines instead of for each.
//!
//! The lines of one thread stay in order; those of several threads alternate in blocks. If the disk is too slow, the
//! blocks run out, and further records are dropped and counted. The same happens while the file's directory is missing,
//! its disk full, or the reader of a pipe stopped, which the log and the status report once. The file may be moved at
//! any time: the writer opens a new one within a second, or at once on SIGUSR1.

mod clock;
mod pool;
mod writer;

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use self::clock::Clock;
pub use self::clock::Moment;
use self::pool::{Block, Pool};
use self::writer::Writer;
use super::append::Health;
use super::record_file::{self, RecordKind};
use crate::util::lock;

/// The longest time that the first record of a block waits for the block to fill.
const GATHER: Duration = Duration::from_millis(100);
/// Buffers for each CPU: one for its receiving thread, one for the runtime's, and two for threads of further listeners.
const BUFFERS_PER_CPU: usize = 4;

/// Counters of written and dropped decision records, and the state of the file.
#[derive(Debug, Default)]
pub struct DecisionLogCounts {
    /// Records that are in the file.
    pub written: AtomicU64,
    /// Records lost because no block was free or the file could not be written.
    pub dropped: AtomicU64,
    /// The state of the writer's work with the file.
    health: Arc<Health>,
}

impl DecisionLogCounts {
    /// Returns the present fault of the file; `None` if there is none.
    pub(crate) fn error(&self) -> Option<String> {
        self.health.error()
    }
}

/// A handle for recording decisions. The writer ends when it is dropped.
#[derive(Debug)]
pub struct DecisionLog(Arc<Shared>);

/// The state shared by recording threads and the writer.
#[derive(Debug)]
struct Shared {
    /// The buffers. A thread always uses the same one, so its lock is nearly always free; it is held while a line is
    /// formatted or a block is exchanged.
    // A line that a panic left incomplete is cut off by the next `Block::add`.
    buffers: Box<[Mutex<LineBuffer>]>,
    pool: Pool,
    /// The channel to the writer. It is unbounded, as the number of blocks is bounded and few other messages are sent.
    writer: Sender<Message>,
    /// Set while the writer wants a message about the next record.
    idle: AtomicBool,
    counts: Arc<DecisionLogCounts>,
}

/// A buffer for the lines of one thread, or of several, aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct LineBuffer {
    /// The block being filled; `None` before the first line and after a block was handed over.
    block: Option<Block>,
    clock: Clock,
    /// Set once the writer takes no more blocks.
    closed: bool,
}

/// A message to the writer.
#[derive(Debug)]
enum Message {
    /// A block to write.
    Block(Block),
    /// A block was begun: collect all blocks once [`GATHER`] has passed.
    Begun,
    /// A request to collect all blocks, and then open the path again.
    Reopen,
    /// A request to open the path again, sent behind the blocks that were collected for the old file.
    ReopenNow,
    /// A request to write all blocks and end; the sender is for reporting the end.
    Stop(Sender<()>),
}

impl DecisionLog {
    /// Starts the writer, which opens the file for appending (mode 0640). A file that cannot be opened is logged, shows
    /// in [`DecisionLogCounts`], and is tried again each second. A file system that does not respond delays the start
    /// by half a second.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(path: &Path, counts: Arc<DecisionLogCounts>) -> io::Result<Self> {
        let count = available_parallelism().map_or(1, usize::from) * BUFFERS_PER_CPU;
        let (writer, messages) = mpsc::channel();
        let buffer = |_| Mutex::new(LineBuffer { block: None, clock: Clock::new(), closed: false });
        let shared = Arc::new(Shared {
            buffers: (0..count).map(buffer).collect(),
            pool: Pool::new(count),
            writer,
            idle: AtomicBool::new(true),
            counts,
        });
        let mut writer = Writer::new(path, Arc::clone(&shared));
        let (opened, first) = mpsc::sync_channel(0);
        thread::Builder::new().name("decision-log".into()).spawn(move || writer.run(&messages, opened))?;
        record_file::wait(RecordKind::Decisions, path, &first);
        Ok(Self(shared))
    }

    /// Adds a record, which `write` formats without a line end. If no block is free, the record is dropped and counted.
    /// Never waits for the disk.
    #[inline]
    pub fn record(&self, write: impl FnOnce(&Moment<'_>, &mut Vec<u8>)) {
        let shared = &*self.0;
        let mut buffer = shared.buffer();
        let LineBuffer { block, clock, closed } = &mut *buffer;
        // Once closed, no block is taken, so that records are dropped and counted.
        if block.is_none() && !*closed {
            *block = shared.pool.take();
        }
        let Some(begun) = block else {
            shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        begun.add(|line| write(&clock.now(), line));
        if begun.is_full() {
            shared.hand_over(block);
        }
        drop(buffer);
        // The writer sets `idle` before it locks the buffers to collect their blocks, so one of the two sees the other.
        if shared.idle.load(Ordering::Relaxed) && shared.idle.swap(false, Ordering::Relaxed) {
            shared.send(Message::Begun);
        }
    }

    /// Makes the writer open the path again (SIGUSR1). Earlier records go to the old file.
    pub(crate) fn reopen(&self) {
        self.0.send(Message::Reopen);
    }

    /// Writes all records, for at most `deadline`; later ones are dropped. Returns `false` if the deadline passed, in
    /// which case the disk hangs and the remaining records are lost.
    #[must_use = "records may be lost"]
    pub fn close(&self, deadline: Duration) -> bool {
        let (done, wait) = mpsc::channel();
        self.0.send(Message::Stop(done));
        wait.recv_timeout(deadline).is_ok()
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.0.send(Message::Stop(mpsc::channel().0));
    }
}

impl Shared {
    /// Locks this thread's buffer.
    fn buffer(&self) -> MutexGuard<'_, LineBuffer> {
        /// The number of threads that have recorded so far.
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            /// The number of this thread, from the first record on.
            static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let number = THREAD.get().unwrap_or_else(|| {
            let number = THREADS.fetch_add(1, Ordering::Relaxed);
            THREAD.set(Some(number));
            number
        });
        lock(&self.buffers[number % self.buffers.len()])
    }

    /// Sends a block to the writer, if there is one.
    fn hand_over(&self, block: &mut Option<Block>) {
        if let Some(block) = block.take() {
            self.send(Message::Block(block));
        }
    }

    /// Sends all begun blocks to the writer; with `close`, the buffers take no more records.
    fn sweep(&self, close: bool) {
        for buffer in &self.buffers {
            let mut buffer = lock(buffer);
            buffer.closed |= close;
            self.hand_over(&mut buffer.block);
        }
    }

    /// Sends a message to the writer. If it has ended, the records of a block are counted as dropped.
    fn send(&self, message: Message) {
        if let Err(mpsc::SendError(Message::Block(block))) = self.writer.send(message) {
            self.counts.dropped.fetch_add(block.lines(), Ordering::Relaxed);
            self.pool.give(block);
        }
    }
}

#[cfg(test)]
mod tests;
