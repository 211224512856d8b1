//! Reading single files: the configuration, lists, and for [`super::tree`] the policies.
//!
//! Files that have not changed since the last look are not read again, as `git` does it: the same inode, size and
//! times, and a modification time that lies far enough back that a later write would have moved it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use super::trusted::{Trusted, Use};
use crate::bounds::MAX_FILE;
use crate::document::text_of;
use crate::policy::{Held, ListText, NO_SUCH_FILE};
use crate::regular_file;

/// A file of more octets than this is read into room for the largest: glibc gives a block of that size back to the
/// system when it is freed, and smaller ones not always. Room that is not written to takes no memory.
const LARGE: u64 = 1 << 20;
/// A file changed more recently than this before it was read may change again under the same times.
const RACY: Duration = Duration::from_secs(2);

/// A file's text, or why there is none.
pub(crate) type Text = Result<Arc<str>, String>;

/// What to be told about changes of.
#[derive(Clone, Default)]
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

/// What is known of single files from earlier looks.
#[derive(Default)]
pub(crate) struct Files {
    /// Texts by path, with the stamp they were read under.
    known: HashMap<PathBuf, (Seal, Arc<str>)>,
    /// The stamps under which list files were read; their texts are not kept.
    lists: HashMap<PathBuf, Seal>,
    /// Paths asked for since the last [`Files::forget_unused`].
    used: HashSet<PathBuf>,
    /// Files that somebody is writing to.
    pub(super) unfinished: Unfinished,
    /// Where list files may lie.
    trusted: Trusted,
}

/// Files that somebody is writing to: they cannot be read until they are closed.
#[derive(Default)]
pub(crate) struct Unfinished {
    /// Their paths.
    paths: HashSet<PathBuf>,
    /// Device and inode of each: it may have other names.
    ids: HashSet<(u64, u64)>,
}

impl Unfinished {
    /// Takes these paths.
    pub(crate) fn of(paths: HashSet<PathBuf>) -> Self {
        let ids = paths.iter().filter_map(|path| Stamp::at(path)).map(Stamp::id).collect();
        Self { paths, ids }
    }

    /// Returns whether the file at `path` is one of them; `stamp` is its own.
    pub(super) fn holds(&self, path: &Path, stamp: Option<Stamp>) -> bool {
        !self.paths.is_empty()
            && (self.paths.contains(path) || stamp.is_some_and(|stamp| self.ids.contains(&stamp.id())))
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    /// Device and inode.
    id: (u64, u64),
    /// Octets.
    size: u64,
    /// Modification time, seconds and nanoseconds.
    modified: (i64, i64),
    /// Change time, seconds and nanoseconds.
    changed: (i64, i64),
    /// Names it has.
    names: u64,
}

/// A keyed hash of a [`Stamp`], which is kept of each file: a ninth of its size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal(u64);

impl Stamp {
    /// Takes the stamp of what `metadata` describes.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            names: metadata.nlink(),
        }
    }

    /// Returns the stamp of the file at `path`, symlinks followed; `None` when there is none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Returns what is kept of it.
    fn seal(self) -> Seal {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Seal(KEY.hash_one(self))
    }

    /// Returns what tells the file or directory from others: device and inode.
    pub(crate) fn id(self) -> (u64, u64) {
        self.id
    }

    /// Returns whether the file has no other name (hard link).
    pub(super) fn has_one_name(self) -> bool {
        self.names == 1
    }

    /// Returns whether a write within a clock tick of the last one could have left the stamp as it is.
    pub(crate) fn is_racy(&self, now: SystemTime) -> bool {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        seconds - self.changed.0.max(self.modified.0) <= i64::try_from(RACY.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Files {
    /// Sets where list files may lie; where that is somewhere else than before, all of them are read again.
    pub(crate) fn trust(&mut self, trusted: Trusted) {
        if self.trusted != trusted {
            self.lists.clear();
            self.trusted = trusted;
        }
    }

    /// Returns whether somebody is writing to the file at `path`, which may be a symlink.
    pub(crate) fn is_unfinished(&self, path: &Path) -> bool {
        self.unfinished.holds(path, Stamp::at(path))
    }

    /// Returns a file's text, from an earlier look when it has not changed since.
    ///
    /// The error says why it cannot be used: missing, a directory, too large, not UTF-8.
    pub(crate) fn read(&mut self, path: &Path) -> Text {
        self.used.insert(path.to_owned());
        let known = self.known.get(path).map(|(stamp, text)| (*stamp, Arc::clone(text)));
        let seal = known.as_ref().map(|(stamp, _)| *stamp);
        let read = read_unless(path, seal, &self.unfinished, (&self.trusted, Use::Named));
        let text = read.text_or(known.map(|(_, text)| text));
        match (read.firm, &text) {
            (Some(stamp), Ok(text)) => self.known.insert(path.to_owned(), (stamp, Arc::clone(text))),
            _ => self.known.remove(path),
        };
        text
    }

    /// Reads a list file, unless what it holds is `held` and it has not changed since.
    ///
    /// The error is as that of [`Files::read`].
    pub(crate) fn read_list(&mut self, path: &Path, held: Held) -> Result<ListText, String> {
        self.used.insert(path.to_owned());
        let known = self.lists.get(path).copied().filter(|_| held == Held::Yes);
        let read = read_unless(path, known, &self.unfinished, (&self.trusted, Use::List));
        match read.firm {
            Some(stamp) => self.lists.insert(path.to_owned(), stamp),
            None => self.lists.remove(path),
        };
        Ok(read.text?.map_or(ListText::Unchanged, ListText::Text))
    }

    /// Forgets files that were not asked for since the last call.
    pub(crate) fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|path, _| used.contains(path));
        self.lists.retain(|path, _| used.contains(path));
    }
}

/// What a look at a file came to.
pub(super) struct Looked {
    /// Its text; nothing where it is as it was before.
    text: Result<Option<String>, String>,
    /// Whether what it holds is private, if it was read.
    pub(super) is_private: Option<bool>,
    /// Its stamp.
    pub(super) stamp: Option<Stamp>,
    /// The same, where it was read and need not be read again under it.
    pub(super) firm: Option<Seal>,
}

impl Looked {
    /// Returns the text: what was read, or what was known where that is the same.
    pub(super) fn text_or(&self, known: Option<Arc<str>>) -> Text {
        match &self.text {
            Ok(Some(text)) => Ok(known.filter(|known| **known == **text).unwrap_or_else(|| text.as_str().into())),
            Ok(None) => known.ok_or_else(|| "it was not read".to_owned()),
            Err(why) => Err(why.clone()),
        }
    }
}

/// Reads a file, unless it is as it was when it got the stamp `known`.
pub(super) fn read_unless(
    path: &Path,
    known: Option<Seal>,
    unfinished: &Unfinished,
    (trusted, as_what): (&Trusted, Use),
) -> Looked {
    let now = SystemTime::now();
    let mut stamp = Stamp::at(path);
    if unfinished.holds(path, stamp) {
        let text = Err("it is being written to: it is read when its writer has closed it".to_owned());
        return Looked { text, is_private: None, stamp, firm: None };
    }
    if known.is_some() && known == stamp.map(Stamp::seal) {
        return Looked { text: Ok(None), is_private: None, stamp, firm: known };
    }
    let mut text = read_text(path, trusted, as_what);
    for _ in 0..READ_TRIES {
        let after = Stamp::at(path);
        if after == stamp {
            break;
        }
        // It changed while it was read: what was read may be half of each.
        stamp = after;
        text = read_text(path, trusted, as_what);
    }
    let firm = stamp.filter(|stamp| text.is_ok() && !stamp.is_racy(now)).map(Stamp::seal);
    let is_private = text.as_ref().ok().map(|(_, is_private)| *is_private);
    Looked { text: text.map(|(text, _)| Some(text)), is_private, stamp, firm }
}

/// Reads a regular file of at most [`MAX_FILE`] octets as UTF-8, if it may be read as what it is wanted for; returns whether
/// what it holds is private as well.
fn read_text(path: &Path, trusted: &Trusted, as_what: Use) -> Result<(String, bool), String> {
    let plain = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => NO_SUCH_FILE.to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: make it readable for the user hostgate runs as".to_owned()
        }
        io::ErrorKind::IsADirectory if as_what == Use::Policies => {
            format!("{error}: rename it without `.toml`, or remove it")
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => format!("{error}: a regular file is needed"),
        _ => error.to_string(),
    };
    let (file, metadata) = regular_file::open(path).map_err(plain)?;
    let is_private = trusted.check(&file, &metadata, path, as_what)?;
    if metadata.len() > MAX_FILE {
        return Err(format!("{} octets are too many: at most {MAX_FILE} are read; split the file", metadata.len()));
    }
    let bytes = read_bounded(&file, metadata.len()).map_err(plain)?;
    text_of(bytes).map(|text| (text, is_private))
}

/// Reads to the end, but never more than the limit, should the file grow meanwhile.
fn read_bounded(file: &File, expected: u64) -> io::Result<Vec<u8>> {
    let capacity = if expected > LARGE { MAX_FILE + 1 } else { expected + 1 };
    let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::other(format!("more than {MAX_FILE} octets")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_say_why_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.toml");
        fs::write(&path, b"a = 1\nb = \xff").unwrap();
        assert_eq!(
            read_text(&path, &Trusted::default(), Use::Named).unwrap_err(),
            "not UTF-8 at line 2, column 5: it looks like Latin-1: save the file as UTF-8, as with `iconv -f LATIN1 -t UTF-8`"
        );
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(
            read_text(&path, &Trusted::default(), Use::Named)
                .unwrap_err()
                .starts_with("1073741824 octets are too many")
        );
    }

    #[test]
    fn a_rewrite_of_the_same_size_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.toml");
        let mut files = Files::default();
        files.trust(Trusted::directories(vec![root.path().to_owned()]));
        for text in ["one", "two", "six"] {
            fs::write(&path, text).unwrap();
            assert_eq!(&*files.read(&path).unwrap(), text);
            assert_eq!(files.read_list(&path, Held::Yes), Ok(ListText::Text(text.to_owned())));
        }
    }
}
