//! The audit log: one record of each change, in the log and in a file.
//!
//! A thread writes the file, so that a full pipe or a file system that hangs delays a change by [`WAIT`] at most. A change
//! whose record is not in the file by then is counted and logged. If records are required, a change is announced in the
//! file before it is made, and refused if that fails.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::api::auth::Principal;
use crate::api::objects::{ApiKind, revision};
use crate::api::request::counts::RequestCounts;
use crate::bounds::MAX_AUDIT_QUEUE;
use crate::document::Diagnostic;
use crate::telemetry::append::{AppendError, Health};
use crate::telemetry::record_file::{self, RecordFile, RecordKind};

/// The time for which a change waits for its record.
const WAIT: Duration = Duration::from_secs(2);
/// The time for which the reader of a pipe is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// The interval of checking that the open file is the one at the path.
const LOOK: Duration = Duration::from_secs(1);

/// The action of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum AuditAction {
    Create,
    Update,
    Delete,
    Shutdown,
    /// The removal of a devbox that was shut down long ago.
    Forget,
    /// A change of a build's status.
    Build,
}

impl AuditAction {
    /// Returns the action on an object as records have it, such as `network_policy.create`.
    fn on(self, id: &str) -> String {
        let kind = ApiKind::of_id(id).map_or("file", ApiKind::name).replace(' ', "_");
        let verb = match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Shutdown => "shutdown",
            Self::Forget => "forget",
            Self::Build => "build",
        };
        format!("{kind}.{verb}")
    }
}

/// The destinations of audit records.
pub(super) struct AuditLog {
    /// The file; `None` if only the log has the records.
    file: Option<AuditFile>,
    /// Whether a change that cannot be recorded is refused.
    is_required: bool,
    counts: Arc<RequestCounts>,
}

/// The queue of the thread that writes the file.
struct AuditFile {
    lines: SyncSender<AuditLine>,
    /// The state of the thread.
    health: Arc<Health>,
}

struct AuditLine {
    octets: Vec<u8>,
    written: oneshot::Sender<io::Result<()>>,
    /// Whether the line announces a change. It is not written once the change was refused for want of an answer.
    is_announcement: bool,
}

/// A record in the file.
#[derive(Serialize)]
struct AuditRecord<'r> {
    /// The time at which the change was in force, in UTC.
    time: String,
    /// The role and the beginning of the SHA-256 of the token.
    who: &'r str,
    /// The address that the request came from, or `unix`.
    source: String,
    action: String,
    id: &'r str,
    /// The SHA-256 of the object's file before; null if there was none.
    before: Option<String>,
    /// The SHA-256 of the object's file after; null if it was removed.
    after: Option<String>,
    /// The generation with the change; null in an announcement.
    generation: Option<u64>,
}

impl<'r> AuditRecord<'r> {
    fn new(
        principal: &'r Principal,
        (action, id): (AuditAction, &'r str),
        texts: [Option<&str>; 2],
        generation: Option<u64>,
    ) -> Self {
        let [before, after] = texts.map(|text| text.map(revision));
        let source = principal.source.map_or_else(|| "unix".to_owned(), |address| address.to_string());
        let (time, action) = (Timestamp::now().to_string(), action.on(id));
        Self { time, who: &principal.name, source, action, id, before, after, generation }
    }
}

impl AuditLog {
    /// Opens the file of `[control] audit`. A file that cannot be opened is logged, is in [`AuditLog::error`], and is tried
    /// again each second.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn open(
        path: Option<&Path>,
        is_required: bool,
        counts: Arc<RequestCounts>,
    ) -> Result<Self, Box<Diagnostic>> {
        let file = |path: &Path| {
            let refused = |error| Box::new(Diagnostic::about_file(path, format!("cannot start its thread: {error}")));
            AuditFile::open(path).map_err(refused)
        };
        Ok(Self { file: path.map(file).transpose()?, is_required, counts })
    }

    /// Returns the present error of the file.
    pub(super) fn error(&self) -> Option<String> {
        self.file.as_ref()?.health.error()
    }

    /// Announces a change before it is made, if records are required. `texts` are those of the object's file before and
    /// after.
    ///
    /// # Errors
    /// The change cannot be recorded and must not be made.
    pub(super) async fn announce(
        &self,
        principal: &Principal,
        (action, id): (AuditAction, &str),
        texts: [Option<&str>; 2],
    ) -> Result<(), String> {
        let Some(file) = self.file.as_ref().filter(|_| self.is_required) else { return Ok(()) };
        let record = AuditRecord::new(principal, (action, id), texts, None);
        file.write(&record, true).await.map_err(|error| {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(action = record.action, id, %error, "refused: the audit record cannot be written");
            format!("the audit record cannot be written: {error}: nothing is changed: make the audit file writable")
        })
    }

    /// Records a change. On return the record is in the file, or its absence is counted and logged. The file is not
    /// synced: a crash of the machine may lose the last records, which the log may have.
    pub(super) async fn append(
        &self,
        principal: &Principal,
        (action, id): (AuditAction, &str),
        texts: [Option<&str>; 2],
        generation: u64,
    ) {
        let record = AuditRecord::new(principal, (action, id), texts, Some(generation));
        let hash = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "none".to_owned());
        tracing::info!(
            who = record.who,
            source = record.source,
            action = record.action,
            id,
            before = hash(&record.before),
            after = hash(&record.after),
            generation,
            "changed by the API"
        );
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write(&record, false).await {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(%error, "audit record not written; the log has it");
        }
    }
}

impl AuditFile {
    /// Starts the thread and waits, for a bounded time, until it has opened the file.
    fn open(path: &Path) -> io::Result<Self> {
        let (lines, queue) = sync_channel(MAX_AUDIT_QUEUE);
        let health = Arc::<Health>::default();
        let file = RecordFile::new(RecordKind::Audit, path, Arc::clone(&health));
        let thread = AuditThread { file, health: Arc::clone(&health) };
        let (opened, first) = sync_channel(0);
        thread::Builder::new().name("audit".into()).spawn(move || thread.run(&queue, opened))?;
        record_file::wait(RecordKind::Audit, path, &first);
        Ok(Self { lines, health })
    }

    /// Writes a record and waits for that, unless the thread hangs.
    async fn write(&self, record: &AuditRecord<'_>, is_announcement: bool) -> io::Result<()> {
        let mut octets = serde_json::to_vec(record).map_err(io::Error::other)?;
        octets.push(b'\n');
        let hangs = self.health.hangs();
        let error = || io::Error::new(io::ErrorKind::TimedOut, "the audit file does not answer");
        if hangs && is_announcement {
            return Err(error());
        }
        let (written, answer) = oneshot::channel();
        let queued = self.lines.try_send(AuditLine { octets, written, is_announcement });
        if hangs {
            // The record of a change that was made stays queued: the file system may answer again.
            return Err(error());
        }
        queued.map_err(|_| io::Error::new(io::ErrorKind::QuotaExceeded, "too many audit records wait"))?;
        match timeout(WAIT, answer).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) => Err(error()),
        }
    }
}

/// The thread that writes the file.
struct AuditThread {
    file: RecordFile,
    health: Arc<Health>,
}

impl AuditThread {
    /// Opens the file, drops `opened`, and writes lines until the queue is closed.
    fn run(mut self, lines: &Receiver<AuditLine>, opened: SyncSender<()>) {
        let health = Arc::clone(&self.health);
        health.during(|| self.file.follow());
        drop(opened);
        let mut next = Instant::now() + LOOK;
        loop {
            match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let written = health.during(|| self.write(&line));
                    let _ = line.written.send(written);
                }
                Err(RecvTimeoutError::Timeout) => {
                    health.during(|| self.file.follow());
                    next = Instant::now() + LOOK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Appends a line to the file that is at the path now.
    fn write(&mut self, line: &AuditLine) -> io::Result<()> {
        self.file.follow();
        if line.is_announcement && line.written.is_closed() {
            return Ok(());
        }
        // A pipe that was full a moment ago costs the next change no time.
        let patience = if self.file.is_refusing() { Duration::ZERO } else { PATIENCE };
        let written = self.file.append(&line.octets, patience);
        written.map_err(|AppendError { error, .. }| {
            io::Error::new(error.kind(), format!("{}: {error}", self.file.path().display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::auth::TokenRole;

    /// Waits for something that needs no other tasks.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Records the creation of an object with the text `new`, or its removal.
    fn record(audit: &AuditLog, id: &str, texts: [Option<&str>; 2]) {
        let source = Some("192.0.2.7".parse().unwrap());
        let principal = Principal { name: "admin:0123abcd".into(), role: TokenRole::Admin, source };
        block_on(audit.append(&principal, (AuditAction::Create, id), texts, 7));
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
        let audit = AuditLog::open(Some(&path), false, Arc::clone(&counts)).unwrap();
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
        let audit = AuditLog::open(Some(Path::new("/dev/full")), false, Arc::clone(&counts)).unwrap();
        record(&audit, "npol_1", [None, Some("a")]);
        record(&audit, "npol_2", [None, Some("a")]);
        assert_eq!(counts.audit_failures(), 2);
        assert!(audit.error().unwrap().starts_with("/dev/full: "));
        let told = AuditLog::open(Some(Path::new("/nowhere/audit")), false, counts).unwrap().error().unwrap();
        assert!(told.starts_with("/nowhere/audit: ") && told.contains("make its directory"), "{told}");
    }
}
