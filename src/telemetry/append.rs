//! Files that lines are appended to, and that others may move away meanwhile, as logrotate does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::regular_file;

/// Opens a file for appending; one that is not there is made with these permissions. Returns it, and whether it ends within
/// a line, as when a process was killed while the disk was full.
///
/// # Errors
/// What the system says.
pub(crate) fn open(path: &Path, mode: u32) -> io::Result<(File, bool)> {
    // Without O_NONBLOCK, opening a pipe would wait for a reader for ever.
    let file = OpenOptions::new().append(true).create(true).mode(mode).custom_flags(libc::O_NONBLOCK).open(path)?;
    let is_torn = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        && last_octet(path).is_ok_and(|octet| octet != b'\n');
    Ok((file, is_torn))
}

/// Returns the last octet of a file.
fn last_octet(path: &Path) -> io::Result<u8> {
    let (mut file, _) = regular_file::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut octet = [0];
    file.read_exact(&mut octet)?;
    Ok(octet[0])
}

/// Cuts off the last octets that were appended, of a line that a full disk took a part of; returns whether it did. Where
/// somebody has appended more meanwhile, or nothing can be cut off, the line has to be ended instead.
pub(crate) fn take_back(file: &mut File, octets: usize) -> bool {
    let mut cut = || {
        let end = file.stream_position()?;
        if file.metadata()?.len() != end {
            return Err(io::Error::from(io::ErrorKind::Other));
        }
        file.set_len(end.saturating_sub(u64::try_from(octets).unwrap_or(u64::MAX)))
    };
    cut().is_ok()
}

/// Returns whether a file is the one that is at `path` now.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(here), Ok(there)) => id(here) == id(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_part_of_a_line_is_taken_back_unless_somebody_appended_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "one\n").unwrap();
        let (mut file, is_torn) = open(&path, 0o600).unwrap();
        assert!(!is_torn);
        file.write_all(b"two\nhal").unwrap();
        assert!(take_back(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        file.write_all(b"hal").unwrap();
        let (mut other, is_torn) = open(&path, 0o600).unwrap();
        assert!(is_torn);
        other.write_all(b"\nthree\n").unwrap();
        assert!(!take_back(&mut file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nhal\nthree\n");
    }
}
