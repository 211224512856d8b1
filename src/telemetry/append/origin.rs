//! The place at which a file was opened, to say later why another one, or none, is there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The path, without symlinks, and the mount that a file had when it was opened.
#[derive(Debug)]
pub(super) struct Origin {
    /// The path.
    path: PathBuf,
    /// The mount.
    mount: Mount,
    /// The inode.
    inode: u64,
}

/// What tells a mount from others: its id, and the device for kernels before 5.8, which tell no id.
type Mount = (u64, u32, u32);

/// Why an open file is not what its path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// It was moved, or its directory was.
    Moved,
    /// Something is mounted over it, or its file system was unmounted.
    Mounted,
    /// Nothing of that is known: the way to it may have been closed.
    Unknown,
}

impl Away {
    /// Returns what is said of the file that lines still go to.
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
    /// Returns the place of a file that was just opened by `path`; `None` where that cannot be looked at.
    pub(super) fn of(file: &File, path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let (mount, inode) = look(&path).ok()?;
        (inode == file.metadata().ok()?.ino()).then_some(Self { path, mount, inode })
    }

    /// Returns why the file is not what its path leads to, judged by the nearest directory that is still there.
    pub(super) fn away(&self) -> Away {
        for path in self.path.ancestors() {
            match look(path) {
                Ok((mount, _)) if mount != self.mount => return Away::Mounted,
                Ok((_, inode)) if path == self.path && inode == self.inode => return Away::Unknown,
                Ok(_) => return Away::Moved,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(_) => return Away::Unknown,
            }
        }
        Away::Unknown
    }
}

/// Returns the mount and the inode of what is at a path.
fn look(path: &Path) -> io::Result<(Mount, u64)> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let has_id = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let mount = if has_id { (found.stx_mnt_id, 0, 0) } else { (0, found.stx_dev_major, found.stx_dev_minor) };
    Ok((mount, found.stx_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_file_and_moved_directory_are_told_from_a_file_in_place() {
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
