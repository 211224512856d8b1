//! Files that nobody else may read: tokens, and the key of a certificate.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::bounds::MAX_SECRET;
use crate::document::Diagnostic;
use crate::reload::FileVersion;
use crate::util::regular_file;

/// Reads a file that nobody but us, its owner or root, may read; symlinks are followed, and the target is looked at.
///
/// # Errors
/// It cannot be read, others may read it, or it is too long: the reason, and what to do.
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

/// Reads a file that anybody may read.
///
/// # Errors
/// It cannot be read or is too long: the reason, and what to do.
pub(in crate::api) fn read_public(path: &Path) -> Result<(Vec<u8>, FileVersion), Box<Diagnostic>> {
    let (file, metadata) = open(path)?;
    Ok((bounded(path, &file)?, FileVersion::of(&metadata)))
}

/// Opens a regular file.
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

/// Says why a file cannot be read, and what to do.
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

/// Returns whether systemd has put the file there for this process alone (`LoadCredential=`): it is root's, and the
/// group's bits are the mask of an access list that names our user.
fn is_credential(path: &Path, metadata: &Metadata) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) else { return false };
    let is_below = real(path).zip(real(&directory)).is_some_and(|(path, directory)| path.starts_with(directory));
    is_below && (metadata.uid(), metadata.gid()) == (0, 0) && metadata.mode() & 0o777 & !0o740 == 0
}
