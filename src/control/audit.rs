//! Who changed what, when: one record a change, in the log and in a file of its own.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::hex;
use crate::control::access::Principal;
use crate::control::request::counts::Counts;
use crate::document::Diagnostic;
use crate::telemetry::append;

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
    /// Why the last record could not be written.
    error: Option<String>,
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
            let (file, is_torn) = append::open(path, MODE).map_err(|error| {
                let help =
                    "make its directory, writable for the user hostgate runs as, or change `audit` under [control]";
                let message = format!("the audit file cannot be opened: {error}");
                Box::new(Diagnostic::about_file(path, message).help(help))
            })?;
            Ok(Mutex::new(Journal { path: path.to_owned(), file, is_torn, error: None }))
        };
        let file: Result<_, Box<Diagnostic>> = path.map(journal).transpose();
        Ok(Self { file: file?, counts })
    }

    /// Returns why the last record is not in the file.
    pub(super) fn error(&self) -> Option<String> {
        self.file.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).error.clone()
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
        journal.error = written.as_ref().err().map(|error| format!("{}: {error}", journal.path.display()));
        if let Err(error) = written {
            self.counts.audit_failures.fetch_add(1, Relaxed);
            tracing::error!(path = %journal.path.display(), %error, "audit record not written; the log has it");
        }
    }
}

impl Journal {
    /// Appends a line, in one write, to what is at the path now.
    fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if !append::is_at(&self.file, &self.path) {
            // Moved away; where no new one can be made, the old one is better than none.
            match append::open(&self.path, MODE) {
                Ok(opened) => (self.file, self.is_torn) = opened,
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
        if written < line.len() {
            // Whatever the file ended with before, it ends with again.
            self.is_torn |= !append::take_back(&mut self.file, written);
            return Err(io::Error::new(io::ErrorKind::StorageFull, "only a part of it could be written"));
        }
        self.is_torn = false;
        Ok(())
    }
}

/// Records are the owner's alone.
const MODE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::control::access::Role;

    /// Records the creation of an object with the text `new`, or its removal.
    fn record(audit: &Audit, id: &str, texts: [Option<&str>; 2]) {
        let source = Some("192.0.2.7".parse().unwrap());
        let principal = Principal { name: "admin:0123abcd".into(), role: Role::Admin, source };
        audit.record(&principal, "network_policy.create", id, texts, 7);
    }

    /// Returns the records of a file.
    fn records(path: &Path) -> Vec<Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_change_is_a_line_with_the_hashes_of_before_and_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let counts = Arc::new(Counts::default());
        let audit = Audit::open(Some(&path), Arc::clone(&counts)).unwrap();
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
        let counts = Arc::new(Counts::default());
        // Every write to it fails for want of room (full(4)).
        let audit = Audit::open(Some(Path::new("/dev/full")), Arc::clone(&counts)).unwrap();
        record(&audit, "npol_1", [None, Some("a")]);
        record(&audit, "npol_2", [None, Some("a")]);
        assert_eq!(counts.audit_failures(), 2);
        assert!(audit.error().unwrap().starts_with("/dev/full: "));
        let told = Audit::open(Some(Path::new("/nowhere/audit")), counts).err().unwrap().to_string();
        assert!(told.contains("/nowhere/audit") && told.contains("make its directory"), "{told}");
    }
}
