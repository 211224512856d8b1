//! Who changed what, when: one record a change, in the log and in a file of its own.
//!
//! A thread of its own writes the file, so that a full pipe or a file system that does not answer holds up no change
//! for longer than [`WAIT`]. A change whose record is not in the file by then is counted and told; where records are
//! required, a change is recorded before it is made, and refused where that is not possible.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::hex;
use crate::api::auth::Principal;
use crate::api::request::counts::RequestCounts;
use crate::bounds::MAX_AUDIT_QUEUE;
use crate::document::Diagnostic;
use crate::telemetry::append::{AppendError, Health};
use crate::telemetry::record_file::{self, RecordFile, RecordKind};

/// Where records go.
pub(super) struct Audit {
    /// The file, besides the log.
    journal: Option<Journal>,
    /// Whether a change that cannot be recorded is refused.
    is_required: bool,
    /// What could not be written is counted there.
    counts: Arc<RequestCounts>,
}

/// The way to the thread that writes the file.
struct Journal {
    /// Lines to write.
    lines: SyncSender<Line>,
    /// How that thread gets on.
    health: Arc<Health>,
}

/// A line for the file.
struct Line {
    /// The record, with a line end.
    octets: Vec<u8>,
    /// Gets what came of it.
    answer: oneshot::Sender<io::Result<()>>,
    /// Whether nothing is to be written once nobody waits for it: a change that was refused meanwhile.
    is_void_alone: bool,
}

/// One change.
#[derive(Serialize)]
struct Record<'r> {
    /// When it was in force, UTC.
    time: String,
    /// Whose token it was made with: role and the beginning of the token's SHA-256.
    who: &'r str,
    /// Where the request came from: an address, or `unix`.
    source: &'r str,
    /// What was done, as `network_policy.create`.
    action: &'r str,
    /// With what.
    id: &'r str,
    /// SHA-256 of the file before; null when there was none.
    before: Option<String>,
    /// SHA-256 of the file now; null when there is none any more.
    after: Option<String>,
    /// The generation that has it in force; null in the record that announces it.
    generation: Option<u64>,
}

impl<'r> Record<'r> {
    /// Makes the record of a change: what the object's file held before and holds now.
    fn new(
        principal: &'r Principal,
        source: &'r str,
        (action, id): (&'r str, &'r str),
        texts: [Option<&str>; 2],
        generation: Option<u64>,
    ) -> Self {
        let [before, after] = texts.map(|text| text.map(|text| hex(digest(&SHA256, text.as_bytes()).as_ref())));
        Self { time: Timestamp::now().to_string(), who: &principal.name, source, action, id, before, after, generation }
    }

    /// Returns it as a line.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self).map_err(io::Error::other)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl Audit {
    /// Begins to write the file of `[control] audit`, if there is one; where `is_required`, what cannot be recorded is
    /// refused. What cannot be opened is logged, is in [`Audit::error`], and is tried again each second.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn open(
        path: Option<&Path>,
        is_required: bool,
        counts: Arc<RequestCounts>,
    ) -> Result<Self, Box<Diagnostic>> {
        let journal = |path: &Path| {
            let refused = |error| Box::new(Diagnostic::about_file(path, format!("cannot start its thread: {error}")));
            Journal::open(path).map_err(refused)
        };
        Ok(Self { journal: path.map(journal).transpose()?, is_required, counts })
    }

    /// Returns what is wrong with the file.
    pub(super) fn error(&self) -> Option<String> {
        self.journal.as_ref()?.health.error()
    }

    /// Records, where records are required, a change that is about to be made.
    ///
    /// # Errors
    /// It cannot be recorded, and must not be made: why.
    pub(super) async fn announce(
        &self,
        principal: &Principal,
        (action, id): (&str, &str),
        texts: [Option<&str>; 2],
    ) -> Result<(), String> {
        let Some(journal) = self.journal.as_ref().filter(|_| self.is_required) else { return Ok(()) };
        let source = source(principal);
        let line = Record::new(principal, &source, (action, id), texts, None).line();
        let written = match line {
            Ok(line) => journal.write(line, true).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(action, id, %error, "refused: the audit record cannot be written");
            format!("the audit record cannot be written: {error}: nothing is changed: make the audit file writable")
        })
    }

    /// Records a change of an object: what its file held before and holds now.
    ///
    /// The file is written when this returns, or that is counted and told. It is not synced: a crash of the machine may
    /// lose the last records, which the log may have.
    pub(super) async fn record(
        &self,
        principal: &Principal,
        (action, id): (&str, &str),
        texts: [Option<&str>; 2],
        generation: u64,
    ) {
        let source = source(principal);
        let record = Record::new(principal, &source, (action, id), texts, Some(generation));
        let hash = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "none".to_owned());
        tracing::info!(
            who = record.who,
            source,
            action,
            id,
            before = hash(&record.before),
            after = hash(&record.after),
            generation,
            "changed by the API"
        );
        let Some(journal) = &self.journal else { return };
        let written = match record.line() {
            Ok(line) => journal.write(line, false).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(%error, "audit record not written; the log has it");
        }
    }
}

impl Journal {
    /// Starts the thread that opens and writes the file, and waits for that thread to open it, but not for long.
    fn open(path: &Path) -> io::Result<Self> {
        let (lines, queue) = sync_channel(MAX_AUDIT_QUEUE);
        let health = Arc::<Health>::default();
        let file = RecordFile::new(RecordKind::Audit, path, Arc::clone(&health));
        let writer = Writer { file, health: Arc::clone(&health) };
        let (opened, first) = sync_channel(0);
        thread::Builder::new().name("audit".into()).spawn(move || writer.run(&queue, opened))?;
        record_file::wait(RecordKind::Audit, path, &first);
        Ok(Self { lines, health })
    }

    /// Has a line written, and waits for that, but not where the thread hangs.
    async fn write(&self, octets: Vec<u8>, is_void_alone: bool) -> io::Result<()> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "the audit file does not answer");
        if self.health.hangs() {
            // It may go on: what waits for it is written then.
            let (answer, _) = oneshot::channel();
            if !is_void_alone {
                let _ = self.lines.try_send(Line { octets, answer, is_void_alone });
            }
            return Err(hangs());
        }
        let (answer, answered) = oneshot::channel();
        if self.lines.try_send(Line { octets, answer, is_void_alone }).is_err() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many audit records wait"));
        }
        match timeout(WAIT, answered).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) => Err(hangs()),
        }
    }
}

/// The thread that writes the file.
struct Writer {
    /// The file.
    file: RecordFile,
    /// How it gets on.
    health: Arc<Health>,
}

impl Writer {
    /// Opens the file, tells `opened` that this came to an end, and writes lines until nobody has any more; follows the
    /// path meanwhile.
    fn run(mut self, lines: &Receiver<Line>, opened: SyncSender<()>) {
        let health = Arc::clone(&self.health);
        health.during(|| self.file.follow());
        drop(opened);
        let mut next = Instant::now() + LOOK;
        loop {
            match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let written = health.during(|| self.write(&line));
                    // Nobody may be waiting any more.
                    let _ = line.answer.send(written);
                }
                Err(RecvTimeoutError::Timeout) => {
                    health.during(|| self.file.follow());
                    next = Instant::now() + LOOK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Appends a line to what is at the path now.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.file.follow();
        if line.is_void_alone && line.answer.is_closed() {
            return Ok(());
        }
        let patience = if self.file.is_refusing() { Duration::ZERO } else { PATIENCE };
        let written = self.file.append(&line.octets, patience);
        written.map_err(|AppendError { error, .. }| {
            io::Error::new(error.kind(), format!("{}: {error}", self.file.path().display()))
        })
    }
}

/// Returns where a request came from.
fn source(principal: &Principal) -> String {
    principal.source.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}

/// How long a change waits for its record.
const WAIT: Duration = Duration::from_secs(2);
/// How long the reader of a pipe is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long at most between looks whether the file is still where its path says.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::auth::Role;

    /// Waits for something that needs no other tasks.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Records the creation of an object with the text `new`, or its removal.
    fn record(audit: &Audit, id: &str, texts: [Option<&str>; 2]) {
        let source = Some("192.0.2.7".parse().unwrap());
        let principal = Principal { name: "admin:0123abcd".into(), role: Role::Admin, source };
        block_on(audit.record(&principal, ("network_policy.create", id), texts, 7));
    }

    /// Returns the records of a file.
    fn records(path: &Path) -> Vec<Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_change_is_a_line_with_the_hashes_of_before_and_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let counts = Arc::new(RequestCounts::default());
        let audit = Audit::open(Some(&path), false, Arc::clone(&counts)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        record(&audit, "npol_1", [None, Some("test")]);
        record(&audit, "npol_1", [Some("test"), None]);
        let mut lines = records(&path);
        assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'), "{lines:?}");
        for line in &mut lines {
            line["time"] = Value::Null;
        }
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let common = |before: Option<&str>, after: Option<&str>| {
            json!({
                "time": null, "who": "admin:0123abcd", "source": "192.0.2.7", "action": "network_policy.create",
                "id": "npol_1", "before": before, "after": after, "generation": 7
            })
        };
        assert_eq!(lines, [common(None, Some(hash)), common(Some(hash), None)]);
        // Moved away, as logrotate does: the next record is in a new file.
        let moved = directory.path().join("audit.jsonl.1");
        fs::rename(&path, &moved).unwrap();
        record(&audit, "npol_2", [None, Some("a")]);
        assert_eq!((records(&moved).len(), records(&path)[0]["id"].as_str()), (2, Some("npol_2")));
        // No new one can be made: the old one has it.
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        record(&audit, "npol_3", [None, Some("a")]);
        assert_eq!((records(&moved).len(), counts.audit_failures()), (2, 0));
    }

    #[test]
    fn a_record_that_cannot_be_written_is_counted() {
        let counts = Arc::new(RequestCounts::default());
        // Every write to it fails for want of room (full(4)).
        let audit = Audit::open(Some(Path::new("/dev/full")), false, Arc::clone(&counts)).unwrap();
        record(&audit, "npol_1", [None, Some("a")]);
        record(&audit, "npol_2", [None, Some("a")]);
        assert_eq!(counts.audit_failures(), 2);
        assert!(audit.error().unwrap().starts_with("/dev/full: "));
        let told = Audit::open(Some(Path::new("/nowhere/audit")), false, counts).unwrap().error().unwrap();
        assert!(told.starts_with("/nowhere/audit: ") && told.contains("make its directory"), "{told}");
    }
}
