//! Reading what policies are made of: the policies directory and the single files it refers to.
//!
//! Files that have not changed since the last look are not read again, as `git` does it: the same inode, size and
//! times, and a modification time that lies far enough back that a later write would have moved it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::bounds::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE};

/// A file changed more recently than this before it was read may change again under the same times.
const RACY: Duration = Duration::from_secs(2);

/// A file's text, or why there is none.
pub(crate) type Text = Result<Arc<str>, String>;

/// What a look at the policies directory found.
#[derive(Default)]
pub(crate) struct Found {
    /// Every `*.toml` by its path as shown to people, `presets/` included.
    pub(crate) files: BTreeMap<PathBuf, Text>,
    /// Folders below the root that cannot be read, and why.
    pub(crate) unreadable: BTreeMap<PathBuf, String>,
    /// What to be told about changes of: the tree, and where symlinks lead.
    pub(crate) followed: Followed,
}

/// What to be told about changes of.
#[derive(Default)]
pub(crate) struct Followed {
    /// The directories to watch.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// Names of files whose content matters, besides `*.toml`: what else is written in those directories does not.
    pub(crate) names: HashSet<OsString>,
}

impl Followed {
    /// Adds a directory.
    pub(crate) fn add_directory(&mut self, path: &Path) {
        self.directories.insert(path.to_owned());
    }

    /// Adds the file at `path`: the directory it is in, and those that symlinks lead through.
    pub(crate) fn add_file(&mut self, path: &Path) {
        /// As many hops as the kernel follows.
        const MAX_HOPS: usize = 40;
        let mut here = path.to_owned();
        self.add_place(&here);
        for _ in 0..MAX_HOPS {
            let Ok(target) = fs::read_link(&here) else { break };
            here = here.parent().unwrap_or(Path::new(".")).join(target);
            self.add_place(&here);
        }
        // A directory on the way may be a symlink, as `..data` of a mounted ConfigMap is.
        if let Ok(real) = fs::canonicalize(path) {
            self.add_place(&real);
        }
    }

    /// Adds one place a file has.
    fn add_place(&mut self, path: &Path) {
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        self.directories.insert(parent.to_owned());
        self.names.extend(path.file_name().map(OsString::from));
    }
}

/// How often a file that changes while it is read is read again; then another event will come for it.
const READ_TRIES: usize = 3;

/// What is known of files from earlier looks.
#[derive(Default)]
pub(crate) struct Files {
    /// Texts by path, with the stamp they were read under.
    known: HashMap<PathBuf, (Stamp, Text)>,
    /// Paths asked for since the last [`Files::forget_unused`].
    used: HashSet<PathBuf>,
    /// Files that somebody is writing to.
    unfinished: HashSet<PathBuf>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Device and inode.
    id: (u64, u64),
    /// Octets.
    size: u64,
    /// Modification time, seconds and nanoseconds.
    modified: (i64, i64),
    /// Change time, seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// Takes the stamp of what `metadata` describes.
    fn of(metadata: &Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns the stamp of the file at `path`, symlinks followed; `None` when there is none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Returns what tells the file or directory from others: device and inode.
    pub(crate) fn id(self) -> (u64, u64) {
        self.id
    }

    /// Returns whether a write within a clock tick of the last one could have left the stamp as it is.
    fn is_racy(&self, now: SystemTime) -> bool {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        seconds - self.changed.0.max(self.modified.0) <= i64::try_from(RACY.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Files {
    /// Reads every `*.toml` at any depth below `root`, symlinks followed, names that begin with a dot skipped.
    ///
    /// # Errors
    /// `root` itself cannot be read: then nothing is known about any file, which is not the same as no files.
    pub(crate) fn read_tree(&mut self, root: &Path) -> io::Result<Found> {
        let mut found = Found::default();
        let mut walk = Walk { entries: 0, path: Vec::new() };
        self.read_directory(root, &mut walk, &mut found)?;
        Ok(found)
    }

    /// Reads one directory of the tree.
    fn read_directory(&mut self, directory: &Path, walk: &mut Walk, found: &mut Found) -> io::Result<()> {
        let metadata = fs::metadata(directory)?;
        let id = (metadata.dev(), metadata.ino());
        if walk.path.contains(&id) {
            // A symlink to a directory above; what it leads to is being read already.
            return Ok(());
        }
        let entries = fs::read_dir(directory)?;
        found.followed.add_directory(directory);
        walk.path.push(id);
        for entry in entries {
            let entry = entry?;
            walk.entries += 1;
            let path = entry.path();
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let is_toml = path.extension().is_some_and(|extension| extension == "toml");
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                found.followed.add_file(&path);
            }
            // A dangling symlink is a file that cannot be read, not one that is not there.
            let is_directory = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
            if walk.entries > MAX_ENTRIES {
                return Err(io::Error::other(format!("more than {MAX_ENTRIES} files and directories")));
            }
            if is_toml {
                let text = self.read(&path);
                found.files.insert(path, text);
            } else if is_directory && walk.path.len() < MAX_DEPTH {
                let depth = walk.path.len();
                if let Err(error) = self.read_directory(&path, walk, found) {
                    walk.path.truncate(depth);
                    found.unreadable.insert(path, error.to_string());
                }
            }
        }
        walk.path.pop();
        Ok(())
    }

    /// Sets the files that somebody is writing to: they cannot be read until they are closed.
    pub(crate) fn set_unfinished(&mut self, unfinished: HashSet<PathBuf>) {
        self.unfinished = unfinished;
    }

    /// Returns whether somebody is writing to the file at `path`, which may be a symlink.
    pub(crate) fn is_unfinished(&self, path: &Path) -> bool {
        !self.unfinished.is_empty()
            && (self.unfinished.contains(path)
                || fs::canonicalize(path).is_ok_and(|real| {
                    self.unfinished.iter().any(|other| fs::canonicalize(other).is_ok_and(|other| other == real))
                }))
    }

    /// Returns a file's text, from an earlier look when it has not changed since.
    ///
    /// The error says why it cannot be used: missing, a directory, too large, not UTF-8.
    pub(crate) fn read(&mut self, path: &Path) -> Text {
        self.used.insert(path.to_owned());
        if self.is_unfinished(path) {
            return Err("it is being written to: it is read when its writer has closed it".to_owned());
        }
        let now = SystemTime::now();
        let mut stamp = Stamp::at(path);
        if let (Some((known, text)), Some(stamp)) = (self.known.get(path), stamp)
            && *known == stamp
            && text.is_ok()
        {
            return text.clone();
        }
        let mut text = read_text(path);
        for _ in 0..READ_TRIES {
            let after = Stamp::at(path);
            if after == stamp {
                break;
            }
            // It changed while it was read: what was read may be half of each.
            stamp = after;
            text = read_text(path);
        }
        match stamp {
            Some(stamp) if !stamp.is_racy(now) => {
                self.known.insert(path.to_owned(), (stamp, text.clone()));
            }
            _ => {
                self.known.remove(path);
            }
        }
        text
    }

    /// Forgets the texts of files that were not asked for since the last call.
    pub(crate) fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|path, _| used.contains(path));
    }
}

/// A walk through the tree.
struct Walk {
    /// Entries seen so far.
    entries: usize,
    /// Device and inode of each directory from the root to here.
    path: Vec<(u64, u64)>,
}

/// Reads a regular file of at most [`MAX_FILE`] octets as UTF-8.
fn read_text(path: &Path) -> Text {
    let plain = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: make it readable for the user hostgate runs as".to_owned()
        }
        _ => error.to_string(),
    };
    // Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(plain)?;
    let metadata = file.metadata().map_err(plain)?;
    if metadata.is_dir() {
        return Err("it is a directory, not a file: rename it without `.toml`, or remove it".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() > MAX_FILE {
        return Err(format!("{} octets are too many: at most {MAX_FILE} are read; split the file", metadata.len()));
    }
    let bytes = read_bounded(&file, metadata.len()).map_err(plain)?;
    String::from_utf8(bytes).map(Arc::from).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..at];
        let line = 1 + before.iter().filter(|octet| **octet == b'\n').count();
        let start = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1);
        let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
        format!("not UTF-8 at line {line}, column {column}: save the file as UTF-8")
    })
}

/// Reads to the end, but never more than the limit, should the file grow meanwhile.
fn read_bounded(file: &File, expected: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::other(format!("more than {MAX_FILE} octets")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_tree_is_every_toml_at_any_depth_but_dot_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("team/deep")).unwrap();
        fs::create_dir_all(at(".git")).unwrap();
        for name in ["a.toml", "team/deep/b.toml", ".hidden.toml", ".git/c.toml", "notes.txt", "a.toml~", ".a.toml.swp"]
        {
            fs::write(at(name), name).unwrap();
        }
        symlink(root.path(), at("team/loop")).unwrap();
        symlink("nowhere", at("dangling.toml")).unwrap();
        fs::create_dir(at("directory.toml")).unwrap();
        let found = Files::default().read_tree(root.path()).unwrap();
        let names: Vec<_> = found.files.keys().map(|path| path.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(names, ["a.toml", "dangling.toml", "directory.toml", "team/deep/b.toml"].map(Path::new));
        assert_eq!(&*found.files[&at("a.toml")].clone().unwrap(), "a.toml");
        assert_eq!(found.files[&at("dangling.toml")].clone().unwrap_err(), "there is no such file");
        assert!(found.files[&at("directory.toml")].clone().unwrap_err().contains("is a directory"));
    }

    #[test]
    fn a_mounted_config_map_is_followed_to_its_data() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/a.toml"), "one").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/a.toml", at("a.toml")).unwrap();
        let mut files = Files::default();
        let found = files.read_tree(root.path()).unwrap();
        assert_eq!(found.files.len(), 1);
        assert!(found.followed.directories.contains(&fs::canonicalize(at("..1")).unwrap()));
        fs::create_dir(at("..2")).unwrap();
        fs::write(at("..2/a.toml"), "two").unwrap();
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(&*files.read_tree(root.path()).unwrap().files[&at("a.toml")].clone().unwrap(), "two");
    }

    #[test]
    fn files_that_cannot_be_read_say_why_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.toml");
        fs::write(&path, b"a = 1\nb = \xff").unwrap();
        assert_eq!(read_text(&path).unwrap_err(), "not UTF-8 at line 2, column 5: save the file as UTF-8");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(read_text(&path).unwrap_err().starts_with("1073741824 octets are too many"));
    }

    #[test]
    fn a_rewrite_of_the_same_size_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.toml");
        let mut files = Files::default();
        for text in ["one", "two", "six"] {
            fs::write(&path, text).unwrap();
            assert_eq!(&*files.read(&path).unwrap(), text);
        }
    }
}
