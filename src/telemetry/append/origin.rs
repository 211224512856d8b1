//! The place at which a file was opened. It shows later why the file is not at its path any more.
//!
//! The log says whether the file was moved, something was mounted over it, or its file system was unmounted, as each
//! needs something else to be done by the operator.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::util::mount::{Mount, look};

/// The path, mount and inode that a file had when it was opened.
#[derive(Debug)]
pub(super) struct Origin {
    /// The path with all symlinks resolved.
    path: PathBuf,
    mount: Mount,
    inode: u64,
}

/// The reason why an open file is not the one at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// The file or a directory above it was moved.
    Moved,
    /// Another file system was mounted over the file, or its own was unmounted.
    Mounted,
    /// The reason is unknown; a directory of the path may have become inaccessible.
    Unknown,
}

impl Away {
    /// Returns a message about the file that records still go to.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Moved => "records go to the old file, which was moved",
            Self::Mounted => {
                "records go to the old file, over which something is mounted or whose file system was unmounted"
            }
            Self::Unknown => "records go to the file that was opened before",
        }
    }
}

impl Origin {
    /// Returns the place of a file just opened by `path`; `None` if it cannot be determined.
    pub(super) fn of(file: &File, path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let (mount, inode) = look(&path).ok()?;
        // Another file may be at the path by now.
        (inode == file.metadata().ok()?.ino()).then_some(Self { path, mount, inode })
    }

    /// Returns the reason why the file is not at its path. It follows from the file at the path, or from the nearest
    /// directory above that still exists.
    pub(super) fn away(&self) -> Away {
        for path in self.path.ancestors() {
            match look(path) {
                Ok((mount, _)) if mount != self.mount => return Away::Mounted,
                // The file is there, so the path could not be opened for another reason.
                Ok((_, inode)) if path == self.path && inode == self.inode => return Away::Unknown,
                Ok(_) => return Away::Moved,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(_) => return Away::Unknown,
            }
        }
        Away::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_files_and_directories_are_recognised_as_moved() {
        let root = tempfile::tempdir().unwrap();
        let (folder, path) = (root.path().join("folder"), root.path().join("folder/log"));
        fs::create_dir(&folder).unwrap();
        let open = || Origin::of(&File::create(&path).unwrap(), &path).unwrap();
        assert_eq!(open().away(), Away::Unknown);
        let origin = open();
        fs::rename(&path, root.path().join("log.1")).unwrap();
        assert_eq!(origin.away(), Away::Moved);
        fs::create_dir(&path).unwrap();
        assert_eq!(origin.away(), Away::Moved, "a directory is there now");
        fs::remove_dir(&path).unwrap();
        let origin = open();
        fs::rename(&folder, root.path().join("moved")).unwrap();
        assert_eq!(origin.away(), Away::Moved);
    }
}
