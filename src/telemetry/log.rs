//! The writer of the process's log: a bounded queue, and a thread that writes it to standard error.
//!
//! Standard error can be a pipe whose reader has stopped: a hung journald, Docker's log driver, a supervisor. A thread
//! that logs a line therefore only queues it. If the queue is full, or standard error cannot be written (a closed pipe,
//! a full disk, a terminal that is gone), further lines are dropped and counted, and a line with their number is
//! written once that is possible again. That is tried each second, so recovery shows even when nothing else is logged.
//!
//! `tracing-appender` has such a queue, too. But it is bounded by a number of lines instead of octets, does not report
//! lost lines to the reader, and if its last flush fails, writes to standard output, which may have the same reader.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::bounds::MAX_LOG_QUEUE;
use crate::util::lock;

/// The pause between attempts to write to a full pipe that another process with the same standard error has made
/// non-blocking.
const PAUSE: Duration = Duration::from_millis(20);
/// The time without progress after which the reader of standard error is reported as an error.
const UNREAD: Duration = Duration::from_secs(2);
/// The interval between attempts to write the number of lost lines.
const RETRY: Duration = Duration::from_secs(1);
/// The time allowed for writing the message of a panic on the main thread.
const PANIC_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The capacity, in octets, that a written queue keeps for reuse.
const SPARE: usize = 64 << 10;

/// The queue of log lines, together with the thread that writes them.
pub(crate) struct Log(LogWriter);

/// A handle that queues lines. Queueing a line never waits for the reader of standard error.
#[derive(Clone)]
pub(crate) struct LogWriter(Arc<Shared>);

/// The state shared by the handles and the writing thread.
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writing thread when a line is queued.
    queued: Condvar,
    /// Wakes [`LogWriter::flush`] when the queue has been written.
    written: Condvar,
    /// The number of lines lost since the start.
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// The queued lines, each complete.
    octets: Vec<u8>,
    /// The number of lines lost since the last line that reported it.
    lost: u64,
    /// The time at which the writing thread last took lines from the queue or wrote some of them; `None` while it waits
    /// for lines.
    writing_since: Option<Instant>,
    /// The error of the last write; `None` if it succeeded.
    error: Option<String>,
}

impl Log {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// No descriptor or no thread is available.
    pub(crate) fn start() -> io::Result<Self> {
        // With a descriptor of its own, the thread never waits for the lock of std's standard error.
        Self::start_with(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    /// Starts the thread that writes to `out`.
    fn start_with(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        });
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || writing.write_to(out))?;
        Ok(Self(LogWriter(shared)))
    }

    /// Returns a handle that queues lines.
    pub(crate) fn writer(&self) -> LogWriter {
        self.0.clone()
    }

    /// Waits for at most `deadline` until all lines are written, and returns whether they are.
    pub(crate) fn close(self, deadline: Duration) -> bool {
        self.0.flush(deadline)
    }

    /// Installs a panic hook that queues its message. The hook of std would wait for the reader, even on a thread that
    /// answers queries, where a panic may cost one query only.
    pub(crate) fn take_panics(&self) {
        let writer = self.writer();
        std::panic::set_hook(Box::new(move |panic| writer.push(panic_message(panic).as_bytes())));
    }
}

impl Drop for Log {
    /// Waits a bounded time for the message of a panic on the main thread.
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.flush(PANIC_FLUSH_TIMEOUT);
        }
    }
}

impl LogWriter {
    /// Queues a line, or drops and counts it if the queue is full.
    fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if queue.octets.len() + line.len() > MAX_LOG_QUEUE {
            queue.lost += 1;
            self.0.lost.fetch_add(1, Relaxed);
            return;
        }
        queue.octets.extend_from_slice(line);
        // Unlocked first, so that the woken thread does not wait for the lock.
        drop(queue);
        self.0.queued.notify_one();
    }

    /// Waits for at most `deadline` until all lines are written, and returns whether they are.
    fn flush(&self, deadline: Duration) -> bool {
        let is_pending = |queue: &mut Queue| !queue.octets.is_empty() || queue.writing_since.is_some();
        let waited = self.0.written.wait_timeout_while(self.0.lock(), deadline, is_pending);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !is_pending(&mut queue)
    }

    /// Returns the number of lines lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Returns the present fault of standard error; `None` while lines are written and read.
    pub(crate) fn error(&self) -> Option<String> {
        let queue = self.0.lock();
        let unread = queue.writing_since.map(|since| since.elapsed()).filter(|unread| *unread >= UNREAD);
        let what = match (unread, &queue.error) {
            (Some(unread), _) => format!("nobody has read standard error for {} s", unread.as_secs()),
            (None, Some(error)) => format!("standard error cannot be written: {error}"),
            (None, None) => return None,
        };
        Some(format!("{what}; {} log lines have been lost since the start", self.lost()))
    }
}

/// Queues the octets of a call together, or none of them. Both `tracing-subscriber` and the command line write whole
/// lines with each call.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Locks the queue. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Writes lines as they are queued; the thread never ends before the process.
    fn write_to(&self, mut out: impl Write) {
        let mut octets = Vec::new();
        loop {
            octets.clear();
            // Frees the memory that a burst of lines took.
            octets.shrink_to(SPARE);
            let lost = {
                let mut queue = self.lock();
                queue.writing_since = None;
                if queue.octets.is_empty() {
                    self.written.notify_all();
                }
                // Until lost lines are reported, the report is tried again even if nothing else is logged.
                let longest = if queue.lost > 0 { RETRY } else { Duration::MAX };
                let waited = self.queued.wait_timeout_while(queue, longest, |queue| queue.octets.is_empty());
                (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut queue.octets, &mut octets);
                queue.writing_since = Some(Instant::now());
                std::mem::take(&mut queue.lost)
            };
            // The lost lines are more recent than the queued ones, so their number comes last.
            if lost > 0 {
                octets.extend_from_slice(lost_message(lost).as_bytes());
            }
            if let Err((written, error)) = self.write_all(&mut out, &octets) {
                // Counts the lines that were not written, except the report itself. The lines that it reports are in
                // the total already, but have to be reported again.
                let unwritten = octets[written..].iter().filter(|octet| **octet == b'\n').count();
                let unwritten = u64::try_from(unwritten).unwrap_or(u64::MAX);
                self.lost.fetch_add(unwritten.saturating_sub(u64::from(lost > 0)), Relaxed);
                let mut queue = self.lock();
                queue.lost += unwritten.saturating_sub(u64::from(lost > 0)) + lost;
                queue.error = Some(error.to_string());
            }
        }
    }

    /// Writes all octets, however long the reader takes.
    ///
    /// # Errors
    /// The number of octets written before the error, and the error: the reader is gone, or the disk full.
    fn write_all(&self, out: &mut impl Write, octets: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < octets.len() {
            match out.write(&octets[written..]) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    let mut queue = self.lock();
                    (queue.writing_since, queue.error) = (Some(Instant::now()), None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(PAUSE),
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

/// Returns the line that reports lost lines. It is not a `tracing` event, so that no filter can suppress it.
fn lost_message(lost: u64) -> String {
    format!("hostgate: {lost} log lines lost: nobody read standard error, or it could not be written\n")
}

/// Returns the message that std's hook would print for a panic.
fn panic_message(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let (thread, payload) = (thread.name().unwrap_or("<unnamed>"), panic.payload_as_str());
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let message = format!("thread '{thread}' panicked at {place}:\n{}\n", payload.unwrap_or("no message"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured { format!("{message}{backtrace}\n") } else { message }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Returns a log that writes to a socket, and the reading end of the socket.
    fn piped() -> (Log, UnixStream) {
        let (reader, writer) = UnixStream::pair().unwrap();
        reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (Log::start_with(writer).unwrap(), reader)
    }

    /// Reads until the text ends in `end`.
    fn read_to(reader: &mut UnixStream, end: &str) -> String {
        let (mut octets, mut buffer) = (Vec::new(), [0; 4096]);
        while !octets.ends_with(end.as_bytes()) {
            let count = reader.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&octets));
            octets.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn lines_are_written_in_order_and_flush_waits_for_them() {
        let (log, mut reader) = piped();
        let mut writer = log.writer();
        for number in 0..100 {
            writer.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!(read_to(&mut reader, "line 99\n").lines().count(), 100);
        assert_eq!((writer.lost(), writer.error()), (0, None));
    }

    #[test]
    fn stopped_reader_loses_lines_but_delays_no_thread() {
        const LINES: u64 = 30_000;
        let (log, mut reader) = piped();
        let mut writer = log.writer();
        let line = |number| format!("{number:0>99}\n");
        let start = Instant::now();
        for number in 0..LINES {
            writer.write_all(line(number).as_bytes()).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(!writer.flush(Duration::from_millis(10)), "it cannot be written");
        let lost = writer.lost();
        // The queued lines, as many being written, and those in the buffer of the socket.
        let most = 2 * u64::try_from(MAX_LOG_QUEUE / 100).unwrap() + 10_000;
        assert!(lost > 0 && LINES - lost < most, "{lost} of {LINES}");
        let error = || writer.error();
        while error().is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "no error");
            thread::park_timeout(PAUSE);
        }
        assert!(error().is_some_and(|error| error.contains(&format!("{lost} log lines"))), "{:?}", error());
        // The reader reads again.
        let message = lost_message(lost);
        let text = read_to(&mut reader, &message);
        assert_eq!(u64::try_from(text.lines().count()).unwrap(), LINES - lost + 1);
        writer.write_all(b"next\n").unwrap();
        assert_eq!(read_to(&mut reader, "next\n"), "next\n");
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!((writer.lost(), writer.error()), (lost, None));
    }

    #[test]
    fn panic_message_names_thread_and_place() {
        let (log, mut reader) = piped();
        let before = std::panic::take_hook();
        log.take_panics();
        let panicking = thread::Builder::new().name("worker".into()).spawn(|| panic!("on {}", "purpose")).unwrap();
        panicking.join().unwrap_err();
        std::panic::set_hook(before);
        // A backtrace may follow.
        assert!(log.close(Duration::from_secs(10)));
        let message = read_to(&mut reader, "\n");
        assert!(message.starts_with("thread 'worker' panicked at src/telemetry/log.rs:"), "{message}");
        assert!(message.contains(":\non purpose\n"), "{message}");
    }

    #[test]
    fn lines_lost_without_a_reader_are_reported_to_the_next_one() {
        /// A writer that fails until it is given a buffer.
        struct Out(Arc<Mutex<Option<Vec<u8>>>>);
        impl Write for Out {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                match &mut *self.0.lock().unwrap() {
                    Some(all) => all.write(octets),
                    None => Err(io::ErrorKind::StorageFull.into()),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Arc::new(Mutex::new(None));
        let log = Log::start_with(Out(Arc::clone(&out))).unwrap();
        let mut writer = log.writer();
        for line in ["one\ntwo\n", "three\n"] {
            writer.write_all(line.as_bytes()).unwrap();
            assert!(writer.flush(Duration::from_secs(10)));
        }
        assert_eq!(writer.lost(), 3);
        let message = writer.error().unwrap();
        assert!(
            message.starts_with("standard error cannot be written: ") && message.contains("3 log lines"),
            "{message}"
        );
        *out.lock().unwrap() = Some(Vec::new());
        // The lost lines are reported although nothing more is logged.
        let start = Instant::now();
        while writer.error().is_some() {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", writer.error());
            thread::park_timeout(PAUSE);
        }
        writer.write_all(b"four\n").unwrap();
        assert!(writer.flush(Duration::from_secs(10)));
        let text = out.lock().unwrap().clone().unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), format!("{}four\n", lost_message(3)));
    }
}
