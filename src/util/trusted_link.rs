//! Symbolic links at the path of a file that is written.
//!
//! A user who can write to the directory of a log could put a link in its place, and hostgate, which may run as root,
//! would append to the file it leads to. So a link is followed only if it belongs to root or to the user of this
//! process, as `fs.protected_symlinks` of the kernel has it for /tmp.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, openat, readlinkat};
use rustix::process::geteuid;

/// A path after the links at its end were followed.
pub(crate) struct Resolved {
    pub(crate) path: PathBuf,
    /// The flag with which to open it: `O_NOFOLLOW`, so that a link that was made since is not followed, or none for a link
    /// of the kernel to an open file, as /dev/stdout is.
    pub(crate) flag: i32,
}

/// Follows the links at the end of a path, which may lead to nothing.
///
/// # Errors
/// A link belongs to another user but root, there are too many, or a directory on the way cannot be searched.
pub(crate) fn resolve(path: &Path) -> io::Result<Resolved> {
    /// The number of symlinks that the kernel follows in one path.
    const MAX_HOPS: usize = 40;
    let mut here = path.to_owned();
    for _ in 0..MAX_HOPS {
        // The descriptor is of the link itself, so that owner and target are those of the same link.
        let link: OwnedFd = match openat(CWD, &here, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(link) => link,
            Err(rustix::io::Errno::NOENT) => return Ok(Resolved { path: here, flag: libc::O_NOFOLLOW }),
            Err(error) => return Err(error.into()),
        };
        let found = fstat(&link)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            return Ok(Resolved { path: here, flag: libc::O_NOFOLLOW });
        }
        if found.st_uid != 0 && found.st_uid != geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "it is a symbolic link of user {} and not followed: remove it, or let root or the user hostgate runs as own it",
                found.st_uid
            )));
        }
        if fstatfs(&link)?.f_type == PROC_SUPER_MAGIC {
            return Ok(Resolved { path: here, flag: 0 });
        }
        let target = PathBuf::from(std::ffi::OsString::from_vec(readlinkat(&link, "", Vec::new())?.into_bytes()));
        here = here.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    #[test]
    fn only_links_of_root_and_of_this_user_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink("sub/second", at("first")).unwrap();
        symlink("../file", at("sub/second")).unwrap();
        symlink("circle", at("circle")).unwrap();
        for is_there in [false, true] {
            let resolved = resolve(&at("first")).unwrap();
            assert_eq!((resolved.path, resolved.flag), (at("sub/../file"), libc::O_NOFOLLOW));
            assert_eq!(resolve(&at("file")).unwrap().path, at("file"));
            if !is_there {
                fs::write(at("file"), "").unwrap();
            }
        }
        assert_eq!(resolve(&at("circle")).err().and_then(|error| error.raw_os_error()), Some(libc::ELOOP));
        assert_eq!(resolve(Path::new("/proc/self/fd/1")).unwrap().flag, 0);
        assert!(resolve(&at("none/file")).is_ok(), "opening it says why it cannot be made");
        if geteuid().is_root() {
            lchown(at("sub/second"), Some(12), Some(12)).unwrap();
            let refused = resolve(&at("first")).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(refused.starts_with("it is a symbolic link of user 12 and not followed"), "{refused}");
        }
    }
}
