//! Files that lines are appended to, and that others may move away meanwhile, as logrotate does.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Opens a file for appending; one that is not there is made with these permissions.
///
/// # Errors
/// What the system says.
pub(crate) fn open(path: &Path, mode: u32) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe would wait for a reader for ever.
    OpenOptions::new().append(true).create(true).mode(mode).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Returns whether a file is the one that is at `path` now.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(here), Ok(there)) => id(here) == id(there),
        _ => false,
    }
}
