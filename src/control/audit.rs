//! Who changed what, when: one record a change, in the log and in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::access::Principal;
use super::counts::Counts;
use super::hex;
use crate::document::Diagnostic;

/// Where records go.
pub(super) struct Audit {
    /// The file, besides the log.
    file: Option<Mutex<Journal>>,
    /// What could not be written is counted there.
    counts: Arc<Counts>,
}

/// The file of records.
struct Journal {
    /// Where it is.
    path: PathBuf,
    /// The file, as long as it is there.
    file: File,
    /// Whether the last write stopped within a line.
    is_torn: bool,
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
    /// The generation that has it in force.
    generation: u64,
}

impl Audit {
    /// Opens the file of `[control] audit`, if there is one.
    ///
    /// # Errors
    /// It cannot be opened: where, why, and what to do.
    pub(super) fn open(path: Option<&Path>, counts: Arc<Counts>) -> Result<Self, Box<Diagnostic>> {
        let journal = |path: &Path| {
            let file = open(path).map_err(|error| {
                let help =
                    "make its directory, writable for the user hostgate runs as, or change `audit` under [control]";
                let message = format!("the audit file cannot be opened: {error}");
                Box::new(Diagnostic::about_file(path, message).help(help))
            })?;
            Ok(Mutex::new(Journal { path: path.to_owned(), file, is_torn: false }))
        };
        let file: Result<_, Box<Diagnostic>> = path.map(journal).transpose();
        Ok(Self { file: file?, counts })
    }

    /// Records a change of an object: what its file held before and holds now.
    ///
    /// The file is written before this returns, and not synced: a crash of the machine may lose the last records, which
    /// the log may have.
    pub(super) fn record(
        &self,
        principal: &Principal,
        action: &str,
        id: &str,
        texts: [Option<&str>; 2],
        generation: u64,
    ) {
        let source = principal.source.map_or_else(|| "unix".to_owned(), |address| address.to_string());
        let [before, after] = texts.map(|text| text.map(|text| hex(digest(&SHA256, text.as_bytes()).as_ref())));
        let record = Record {
            time: Timestamp::now().to_string(),
            who: &principal.name,
            source: &source,
            action,
            id,
            before,
            after,
            generation,
        };
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
        let Some(journal) = &self.file else { return };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let written = serde_json::to_vec(&record).map_err(io::Error::other).and_then(|line| journal.write(line));
        if let Err(error) = written {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(path = %journal.path.display(), %error, "audit record not written; the log has it");
        }
    }
}

impl Journal {
    /// Appends a line, in one write, to what is at the path now.
    fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::metadata(&self.path).map(id);
        if there.is_err() || there.ok() != self.file.metadata().map(id).ok() {
            // Moved away; where no new one can be made, the old one is better than none.
            match open(&self.path) {
                Ok(file) => (self.file, self.is_torn) = (file, false),
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "audit file not reopened; keeping the old one");
                }
            }
        }
        line.push(b'\n');
        if self.is_torn {
            line.insert(0, b'\n');
        }
        let written = self.file.write(&line)?;
        self.is_torn = written < line.len();
        if self.is_torn {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "only a part of it was written"));
        }
        Ok(())
    }
}

/// Opens the file for appending, for the owner alone.
fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe would wait for a reader for ever.
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path)
}
