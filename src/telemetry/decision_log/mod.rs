//! The decision log: one JSON line a query, written by a thread of its own, never in the way of an answer.
//!
//! A line is spelled out where its query is answered, into a block that the thread has nearly to itself: there all it
//! names is at hand, and it is copied but once, by the kernel. Full blocks go to the writer; what is begun follows within
//! [`GATHER`]. So the writer wakes up for hundreds of lines, not for each.
//!
//! Lines of one thread stay in order; those of several alternate by the block. When the disk cannot follow, the blocks
//! run out, and further records are dropped and counted; so they are while the file's directory is gone, its disk full or
//! the reader of a pipe stopped, which is said once, in log and status. The file may be moved away at any time: the writer notices
//! within a second (or at once on SIGUSR1) and opens a new one.

mod clock;
mod pool;
mod writer;

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use self::clock::Clock;
pub use self::clock::Moment;
use self::pool::{Block, Pool};
use self::writer::Writer;
use super::append::Health;
use super::record_file::{self, Kind};

/// How long the first record of a block may wait for the block to fill.
const GATHER: Duration = Duration::from_millis(100);
/// Lanes for each CPU: one for its receiving thread, one for the runtime's, and room for more listeners.
const LANES: usize = 4;

/// What has become of the records so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records in the file.
    pub written: AtomicU64,
    /// Records lost: there was no room for them or the disk refused them.
    pub dropped: AtomicU64,
    /// How the writer gets on with the file.
    health: Arc<Health>,
}

impl Counts {
    /// Returns what is wrong with the file; `None` when nothing is.
    pub(crate) fn error(&self) -> Option<String> {
        self.health.error()
    }
}

/// The handle that queries put records into; without it the writer ends.
#[derive(Debug)]
pub struct DecisionLog(Arc<Shared>);

/// What the threads that record and the writer have in common.
#[derive(Debug)]
struct Shared {
    /// Where lines gather. A thread uses always the same, so its lock is nearly always free; it is held while a line is
    /// written into memory or a block is exchanged.
    lanes: Box<[Mutex<Lane>]>,
    /// Empty blocks.
    pool: Pool,
    /// The way to the writer. It has no bound of its own: blocks have one, and little else is sent.
    writer: Sender<Message>,
    /// Whether the writer wants to be told of the next record.
    idle: AtomicBool,
    /// What has become of the records.
    counts: Arc<Counts>,
}

/// Where the lines of a thread, or of a few, gather; aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    /// What is not yet handed over.
    block: Option<Block>,
    /// The time of its records.
    clock: Clock,
    /// Whether the writer takes no more of it.
    closed: bool,
}

/// What the writer is told.
#[derive(Debug)]
enum Message {
    /// Write this.
    Block(Block),
    /// A block is begun: sweep when it had its time to fill.
    Begun,
    /// Sweep, and then open the path anew.
    Reopen,
    /// Open the path anew: what was swept for it has been written.
    ReopenNow,
    /// Write what is there and end.
    Stop(Sender<()>),
}

impl DecisionLog {
    /// Starts the writer, which opens the file for appending (mode 0640). What cannot be opened is logged, is in
    /// [`Counts`], and is tried again each second; a file system that does not answer is waited for only half a second.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(path: &Path, counts: Arc<Counts>) -> io::Result<Self> {
        let count = available_parallelism().map_or(1, usize::from) * LANES;
        let (writer, messages) = mpsc::channel();
        let lane = |_| Mutex::new(Lane { block: None, clock: Clock::new(), closed: false });
        let shared = Arc::new(Shared {
            lanes: (0..count).map(lane).collect(),
            pool: Pool::new(count),
            writer,
            idle: AtomicBool::new(true),
            counts,
        });
        let mut writer = Writer::new(path, Arc::clone(&shared));
        let (opened, first) = mpsc::sync_channel(0);
        thread::Builder::new().name("decision-log".into()).spawn(move || writer.run(&messages, opened))?;
        record_file::wait(Kind::Decisions, path, &first);
        Ok(Self(shared))
    }

    /// Has a record written, without the line's end, and queues it; with no room for it, drops and counts it. Waits for
    /// no disk.
    #[inline]
    pub fn record(&self, write: impl FnOnce(&Moment<'_>, &mut Vec<u8>)) {
        let shared = &*self.0;
        let mut lane = shared.lane();
        let Lane { block, clock, closed } = &mut *lane;
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
        drop(lane);
        // The writer sets this before it takes the lane's lock to sweep, so one of the two sees the other.
        if shared.idle.load(Ordering::Relaxed) && shared.idle.swap(false, Ordering::Relaxed) {
            shared.tell(Message::Begun);
        }
    }

    /// Tells the writer to open the path anew (SIGUSR1); what is recorded already goes to the file as it was.
    pub(crate) fn reopen(&self) {
        self.0.tell(Message::Reopen);
    }

    /// Writes what is queued, waiting `deadline` at most; records that come later are dropped. Returns whether the writer
    /// got through: after the deadline the disk hangs, and the rest is given up.
    #[must_use = "records may be lost"]
    pub fn close(&self, deadline: Duration) -> bool {
        let (done, wait) = mpsc::channel();
        self.0.tell(Message::Stop(done));
        wait.recv_timeout(deadline).is_ok()
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.0.tell(Message::Stop(mpsc::channel().0));
    }
}

impl Shared {
    /// Locks this thread's lane.
    fn lane(&self) -> MutexGuard<'_, Lane> {
        /// Threads that have recorded anything.
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            /// The number of this one.
            static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let number = THREAD.get().unwrap_or_else(|| {
            let number = THREADS.fetch_add(1, Ordering::Relaxed);
            THREAD.set(Some(number));
            number
        });
        lock(&self.lanes[number % self.lanes.len()])
    }

    /// Sends the writer a block, if there is one.
    fn hand_over(&self, block: &mut Option<Block>) {
        if let Some(block) = block.take() {
            self.tell(Message::Block(block));
        }
    }

    /// Sends the writer every block that is begun; with `close`, the lanes take no more records.
    fn sweep(&self, close: bool) {
        for lane in &self.lanes {
            let mut lane = lock(lane);
            lane.closed |= close;
            self.hand_over(&mut lane.block);
        }
    }

    /// Tells the writer something; records that it will not see any more are dropped.
    fn tell(&self, message: Message) {
        if let Err(mpsc::SendError(Message::Block(block))) = self.writer.send(message) {
            self.counts.dropped.fetch_add(block.lines(), Ordering::Relaxed);
            self.pool.give(block);
        }
    }
}

/// Locks a mutex. What a panic leaves behind is sound: a line that did not come to its end is taken back by the next.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
