//! Opening files safely in directories that others can write to.
//!
//! Someone with write access to a directory can replace a file by a FIFO, a device or a symlink. Opening a FIFO blocks
//! until its other end is opened, and opening a device can have side effects. So the file type is checked before
//! opening, and again on the open descriptor. A test reads the sources: no other module opens files by path for
//! reading.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Opens a regular file for reading, following symlinks. It blocks on the file system alone, never on a FIFO or
/// device.
///
/// # Errors
/// The file does not exist or may not be opened; the kind is `IsADirectory` or `InvalidInput` if it is not a
/// regular file.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    require_regular(&fs::metadata(path)?)?;
    // The path can have been replaced since the check: without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    Ok((file, metadata))
}

/// Returns whether opening a file failed for lack of descriptors or memory, which can be available again a moment
/// later.
pub(crate) fn is_resource_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Reads a regular file of at most `most` octets.
///
/// # Errors
/// The errors of [`open`], and the kind `FileTooLarge` if the file is longer than `most`.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    read_open(&file, most)
}

/// Reads a regular file of at most `most` octets as text.
///
/// # Errors
/// The errors of [`read`], and the kind `InvalidData` if the file is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads the rest of an open file, of at most `most` octets.
fn read_open(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    // One octet more is read, to tell a file of the maximum length from a longer one.
    file.take(most.saturating_add(1)).read_to_end(&mut octets)?;
    if u64::try_from(octets.len()).unwrap_or(u64::MAX) > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} octets")));
    }
    Ok(octets)
}

/// Returns the path of an open file with all symlinks resolved; `path` is the one it was opened by. The result is
/// about the open file, even if `path` has been replaced since.
///
/// # Errors
/// The file was moved or replaced since it was opened, or a directory of its path cannot be read.
pub(crate) fn real_path(file: &File, path: &Path) -> io::Result<PathBuf> {
    let by_descriptor = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Without /proc, the path is resolved again, and the check below makes sure that it still leads to this file.
    let real = by_descriptor.or_else(|_| fs::canonicalize(path))?;
    let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let is_there = fs::symlink_metadata(&real).is_ok_and(|there| file.metadata().is_ok_and(|it| id(&it) == id(&there)));
    if is_there {
        Ok(real)
    } else {
        Err(io::Error::other("the file was replaced while it was opened; it is read again"))
    }
}

/// Returns whether `path` is in a tree of files that the kernel or a driver generates (/proc, /sys, /dev), also by
/// way of symlinks and mounts. Such files can be endless, and reading them can have side effects. Files below /dev/shm
/// are ordinary.
pub(crate) fn is_in_kernel_tree(path: &Path) -> bool {
    let real = fs::canonicalize(path);
    let real = real.as_deref().unwrap_or(path);
    if real.starts_with("/dev/shm") && real != Path::new("/dev/shm") {
        return false;
    }
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let (of_root, of_path) = (device(Path::new("/")), device(real));
    ["/proc", "/sys", "/dev"].into_iter().map(Path::new).any(|tree| {
        // A tree that is not mounted is on the root file system, whose device number says nothing.
        let is_mounted = || device(tree).filter(|it| Some(*it) != of_root);
        real.starts_with(tree) || of_path.is_some() && is_mounted() == of_path
    })
}

/// Refuses everything but a regular file.
fn require_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, not a file"));
    }
    let found = if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is not a regular file but {found}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn opening_refuses_other_file_types_without_blocking() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link-to-fifo")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_text(&at(name), 4).unwrap(), "text");
            assert_eq!(read(&at(name), 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            let (file, _) = open(&at(name)).unwrap();
            assert_eq!(real_path(&file, &at(name)).unwrap(), fs::canonicalize(at("file")).unwrap());
        }
        for (path, told) in [
            (at("fifo"), "it is not a regular file but a FIFO"),
            (at("link-to-fifo"), "it is not a regular file but a FIFO"),
            (at("socket"), "it is not a regular file but a socket"),
            ("/dev/null".into(), "it is not a regular file but a device"),
            (root.path().to_owned(), "it is a directory, not a file"),
        ] {
            assert_eq!(open(&path).unwrap_err().to_string(), told, "{path:?}");
        }
    }

    #[test]
    fn kernel_trees_are_recognised_by_any_path() {
        let root = tempfile::tempdir().unwrap();
        symlink("/proc/self", root.path().join("link")).unwrap();
        symlink("/dev/shm/none", root.path().join("gone")).unwrap();
        for path in ["/proc", "/proc/self/fd", "/sys", "/dev", "/dev/none", "/tmp/../proc", "/proc/none"] {
            assert!(is_in_kernel_tree(Path::new(path)), "{path}");
        }
        assert!(is_in_kernel_tree(&root.path().join("link")));
        for path in [Path::new("/"), Path::new("/process"), Path::new("."), root.path(), &root.path().join("gone")] {
            assert!(!is_in_kernel_tree(path), "{path:?}");
        }
    }

    #[test]
    fn real_path_fails_for_a_replaced_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "one").unwrap();
        let (file, _) = open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "two").unwrap();
        assert!(real_path(&file, &path).is_err());
    }

    #[test]
    fn other_modules_do_not_open_files_by_path_for_reading() {
        /// Calls that would block on a FIFO.
        const OPENING_CALLS: [&str; 4] = ["fs::read(", "read_to_string(", "File::open(", ".read(true)"];
        /// Exceptions: directories, and files of the kernel.
        const EXCEPTIONS: [&str; 3] = ["File::open(path)?.sync_all()", "/sys/class/net/", "/proc/"];
        fn walk(directory: &Path, see: &mut impl FnMut(&Path)) {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.path().is_dir() { walk(&entry.path(), see) } else { see(&entry.path()) }
            }
        }
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |path| {
            let is_ours = ["regular_file.rs", "tests.rs", "man_pages.rs"].iter().any(|name| path.ends_with(name));
            if is_ours || path.extension().is_none_or(|extension| extension != "rs") {
                return;
            }
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code.lines().filter(|line| !EXCEPTIONS.iter().any(|fine| line.contains(fine))) {
                // `TokenFile::open` is another function.
                let has =
                    |call: &str| line.match_indices(call).any(|(at, _)| !line[..at].ends_with(char::is_alphanumeric));
                let opens = OPENING_CALLS.iter().any(|call| has(call));
                assert!(!opens || line.contains("regular_file::"), "{}: {line}", path.display());
            }
        });
    }
}
