//! Files of secrets, which no other user may read: tokens, and the key of a certificate.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustix::process::geteuid;

use crate::bounds::MAX_SECRET;
use crate::document::Diagnostic;
use crate::reload::FileVersion;
use crate::reload::out_of_date::Beginning;
use crate::util::regular_file;

/// The present error of a file that is read again whenever it changes, and the time at which it began.
#[derive(Default)]
pub(in crate::api) struct FileError(ArcSwapOption<(String, Beginning)>);

impl FileError {
    pub(in crate::api) fn get(&self) -> Option<(String, Beginning)> {
        self.0.load_full().map(|error| (*error).clone())
    }

    /// Sets the error. Returns whether it is another one, which belongs in the log.
    pub(in crate::api) fn set(&self, error: &str) -> bool {
        let before = self.0.load_full();
        let since = before.as_ref().map_or_else(Beginning::now, |before| before.1);
        self.0.store(Some(Arc::new((error.to_owned(), since))));
        before.is_none_or(|before| before.0 != error)
    }

    /// Clears the error. Returns whether there was one.
    pub(in crate::api) fn clear(&self) -> bool {
        self.0.swap(None).is_some()
    }
}

/// Reads a file that only its owner, we or root, may read. Symlinks are followed.
///
/// # Errors
/// The file cannot be read, other users may read it, or it is too long.
pub(in crate::api) fn read(path: &Path) -> Result<(Vec<u8>, FileVersion), Box<Diagnostic>> {
    let (file, metadata) = open(path)?;
    let wrong = |message: String, help: String| Err(Box::new(Diagnostic::about_file(path, message).help(help)));
    let owner = metadata.uid();
    if owner != geteuid().as_raw() && owner != 0 {
        let message = format!("it belongs to user {owner}, who is neither the user hostgate runs as nor root");
        return wrong(message, format!("`chown` it to the user hostgate runs as ({})", geteuid().as_raw()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 && !is_credential(path, &metadata) {
        let message = format!("group or others have access to it (mode {mode:03o})");
        let help = format!("`chmod 600 {}`, and make anew what it holds if others may have read it", path.display());
        return wrong(message, help);
    }
    Ok((bounded(path, &file)?, FileVersion::of(&metadata)))
}

/// Reads a file that any user may read.
///
/// # Errors
/// The file cannot be read or is too long.
pub(in crate::api) fn read_public(path: &Path) -> Result<(Vec<u8>, FileVersion), Box<Diagnostic>> {
    let (file, metadata) = open(path)?;
    Ok((bounded(path, &file)?, FileVersion::of(&metadata)))
}

fn open(path: &Path) -> Result<(File, Metadata), Box<Diagnostic>> {
    regular_file::open(path).map_err(|error| unreadable(path, &error))
}

/// Reads a file to its end, [`MAX_SECRET`] octets at most.
fn bounded(path: &Path, file: &File) -> Result<Vec<u8>, Box<Diagnostic>> {
    let mut octets = Vec::new();
    let read = file.take(MAX_SECRET + 1).read_to_end(&mut octets);
    read.map_err(|error| unreadable(path, &error))?;
    if u64::try_from(octets.len()).unwrap_or(u64::MAX) > MAX_SECRET {
        let message = format!("it is longer than {MAX_SECRET} octets");
        return Err(Box::new(Diagnostic::about_file(path, message)));
    }
    Ok(octets)
}

/// Makes the error of a file that cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> Box<Diagnostic> {
    let diagnostic = |message: &str, help: &str| Diagnostic::about_file(path, message).help(help);
    Box::new(match error.kind() {
        io::ErrorKind::NotFound => {
            diagnostic("there is no such file", "make it, readable for the user hostgate runs as alone")
        }
        io::ErrorKind::PermissionDenied => diagnostic("permission denied", "`chown` it to the user hostgate runs as"),
        _ => Diagnostic::about_file(path, error.to_string()),
    })
}

/// Returns whether a file is a credential of systemd (`LoadCredential=`): it is root's, and the bits of the group are the
/// mask of an access list with our user.
fn is_credential(path: &Path, metadata: &Metadata) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) else { return false };
    let is_below = real(path).zip(real(&directory)).is_some_and(|(path, directory)| path.starts_with(directory));
    is_below && (metadata.uid(), metadata.gid()) == (0, 0) && metadata.mode() & 0o777 & !0o740 == 0
}
