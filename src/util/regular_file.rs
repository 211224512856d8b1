//! Opening files in whose place there may be anything by now.
//!
//! Whoever may write a directory may put a FIFO, a device or a symlink in the place of a file there. Opening a FIFO waits
//! for its other end for ever, and opening a device may do something; so what is no regular file is not opened, and what
//! was opened is looked at again. A test reads the sources: no other module opens files by their path to read them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Opens a regular file to read it, symlinks followed. Never waits for anything but the file system.
///
/// # Errors
/// There is none, or it may not be opened; of kind `IsADirectory` or `InvalidInput` where it is something else.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    refuse_others(&fs::metadata(path)?)?;
    // It may be another one by now: without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    refuse_others(&metadata)?;
    Ok((file, metadata))
}

/// Returns whether a file could not be opened for want of something that may be there again in a moment: descriptors, memory.
pub(crate) fn is_for_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Reads a regular file of at most `most` octets.
///
/// # Errors
/// As [`open`]; of kind `FileTooLarge` where it is longer.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    read_open(&file, most)
}

/// Reads a regular file of at most `most` octets as text.
///
/// # Errors
/// As [`read`]; of kind `InvalidData` where it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads the rest of an open file, which may not be more than `most` octets.
fn read_open(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut octets)?;
    if u64::try_from(octets.len()).unwrap_or(u64::MAX) > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} octets")));
    }
    Ok(octets)
}

/// Returns where a file that was opened by `path` is, without symlinks on the way. The answer is about the open file,
/// whatever lies at `path` by now.
///
/// # Errors
/// It was moved or replaced meanwhile, or the way to it cannot be looked at.
pub(crate) fn real_path(file: &File, path: &Path) -> io::Result<PathBuf> {
    let by_descriptor = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Without /proc the path has to do; then it has to lead to the very file.
    let real = by_descriptor.or_else(|_| fs::canonicalize(path))?;
    let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let is_there = fs::symlink_metadata(&real).is_ok_and(|there| file.metadata().is_ok_and(|it| id(&it) == id(&there)));
    if is_there {
        Ok(real)
    } else {
        Err(io::Error::other("it was replaced while it was opened: it is looked at again"))
    }
}

/// Returns whether `path` is in a tree that the kernel or a driver makes (/proc, /sys, /dev), wherever symlinks or mounts
/// lead: there is no end to what is in it, and reading may do something. What lies below /dev/shm is files as any other.
pub(crate) fn is_of_kernel(path: &Path) -> bool {
    let real = fs::canonicalize(path);
    let real = real.as_deref().unwrap_or(path);
    if real.starts_with("/dev/shm") && real != Path::new("/dev/shm") {
        return false;
    }
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let (of_root, of_path) = (device(Path::new("/")), device(real));
    ["/proc", "/sys", "/dev"].into_iter().map(Path::new).any(|tree| {
        // Where nothing is mounted there, it is a part of the file system that everything is in.
        let is_mounted = || device(tree).filter(|it| Some(*it) != of_root);
        real.starts_with(tree) || of_path.is_some() && is_mounted() == of_path
    })
}

/// Refuses what is no regular file.
fn refuse_others(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, not a file"));
    }
    let what = if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is not a regular file but {what}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
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
    fn trees_of_the_kernel_are_known_by_any_path() {
        let root = tempfile::tempdir().unwrap();
        symlink("/proc/self", root.path().join("link")).unwrap();
        symlink("/dev/shm/none", root.path().join("gone")).unwrap();
        for path in ["/proc", "/proc/self/fd", "/sys", "/dev", "/dev/none", "/tmp/../proc", "/proc/none"] {
            assert!(is_of_kernel(Path::new(path)), "{path}");
        }
        assert!(is_of_kernel(&root.path().join("link")));
        for path in [Path::new("/"), Path::new("/process"), Path::new("."), root.path(), &root.path().join("gone")] {
            assert!(!is_of_kernel(path), "{path:?}");
        }
    }

    #[test]
    fn a_file_that_was_replaced_has_no_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "one").unwrap();
        let (file, _) = open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "two").unwrap();
        assert!(real_path(&file, &path).is_err());
    }

    #[test]
    fn no_other_module_opens_files_by_their_path_to_read_them() {
        /// What would wait for a FIFO, in code that is not a test.
        const OPENING: [&str; 4] = ["fs::read(", "read_to_string(", "File::open(", ".read(true)"];
        /// Lines that are something else: directories, the kernel's own files.
        const FINE: [&str; 3] = ["File::open(path)?.sync_all()", "/sys/class/net/", "/proc/"];
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
            for line in code.lines().filter(|line| !FINE.iter().any(|fine| line.contains(fine))) {
                let opens = OPENING.iter().any(|word| line.contains(word));
                assert!(!opens || line.contains("regular_file::"), "{}: {line}", path.display());
            }
        });
    }
}
