//! The mount that a file is on.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The identity of a mount: its id, or the device number on kernels before 5.8, which do not report the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mount(u64, u32, u32);

/// Returns the mount and the inode of the file at a path; of a symlink, its own.
///
/// # Errors
/// The file does not exist, or its directory cannot be searched.
pub(crate) fn look(path: &Path) -> io::Result<(Mount, u64)> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let has_id = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let mount = if has_id { Mount(found.stx_mnt_id, 0, 0) } else { Mount(0, found.stx_dev_major, found.stx_dev_minor) };
    Ok((mount, found.stx_ino))
}
