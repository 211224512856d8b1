//! Reading single files: the configuration, lists, and for [`super::scan`] the policies.
//!
//! Files that have not changed since the last look are not read again, as `git` does it: the same inode, size and
//! times, and a modification time that lies far enough back that a later write would have moved it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use super::trusted::{Trusted, Use};
use super::weight;
use crate::bounds::MAX_FILE;
use crate::document::text_of;
use crate::policy::{ListText, MayBeUnchanged, NO_SUCH_FILE};
use crate::util::regular_file;

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
    /// Texts by path, if they could be read, and the states that the files were in.
    known: HashMap<PathBuf, (Observed, Option<Arc<str>>)>,
    /// The states in which list files were; their texts are not kept.
    lists: HashMap<PathBuf, Observed>,
    /// Why list files could not be read last.
    unusable_lists: HashMap<PathBuf, String>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal(NonZeroU64);

/// The state of a file or directory when it was last looked at, to be compared with its state now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The state; `None` is that nothing was there, or that it could not be looked at.
    seal: Option<Seal>,
    /// What came of reading it.
    read: Read,
}

/// What came of reading a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// Its content is known for as long as its state is the same.
    Firm,
    /// Its content is known, and may have changed within a clock tick of its last change without another state.
    Racy,
    /// It was read, or not tried to be, and its content cannot be used.
    Unusable,
    /// It could not be read.
    Failed,
    /// It could not be read for a reason that passes, as for want of file descriptors.
    Passing,
}

impl Observed {
    /// Returns the state of a directory whose entries are about to be read, or of a link whose target does not matter yet.
    pub(super) fn of_place(stamp: Option<Stamp>) -> Self {
        let is_racy = stamp.is_some_and(|stamp| stamp.is_racy(SystemTime::now()));
        Self { seal: stamp.map(Stamp::seal), read: if is_racy { Read::Racy } else { Read::Firm } }
    }

    /// Returns the state of what cannot be read for now.
    pub(super) fn passing(self) -> Self {
        Self { read: Read::Passing, ..self }
    }

    /// Returns the seal under which the content need not be read again.
    pub(super) fn firm(self) -> Option<Seal> {
        self.seal.filter(|_| self.read == Read::Firm)
    }

    /// Returns whether it could not be read for a reason that passes.
    pub(super) fn is_passing(self) -> bool {
        self.read == Read::Passing
    }

    /// Returns whether it could not be read, for whatever reason.
    pub(super) fn is_failed(self) -> bool {
        matches!(self.read, Read::Failed | Read::Passing)
    }

    /// Returns whether what is at `path` now, symlinks followed, is in another state.
    pub(super) fn differs(self, path: &Path) -> bool {
        self.seal != Stamp::at(path).map(Stamp::seal)
    }

    /// Returns whether a directory in this state now may have other entries.
    pub(super) fn is_changed(self, now: Option<Stamp>) -> bool {
        self.seal != now.map(Stamp::seal)
            || self.read == Read::Racy && now.is_some_and(|now| !now.is_racy(SystemTime::now()))
    }

    /// Returns whether another content could have the same state, and would be seen now: where no event tells, such a file is
    /// read a second time.
    pub(super) fn is_unsure(self, path: &Path) -> bool {
        self.read == Read::Racy && Stamp::at(path).is_some_and(|stamp| !stamp.is_racy(SystemTime::now()))
    }
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) struct Unusable {
    /// The reason, and what to do.
    why: String,
    /// What came of reading it.
    read: Read,
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self { why, read: Read::Unusable }
    }
}

/// Returns whether an error of the system says nothing of the file itself: the next try may succeed although nobody changes
/// anything. A server of files that does not answer, or whose file handle is stale, is among them.
pub(super) fn is_passing(error: &io::Error) -> bool {
    const PASSING: [i32; 16] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EIO,
        libc::EREMOTEIO,
        libc::ESTALE,
        libc::EINTR,
        libc::EAGAIN,
        libc::EBUSY,
        libc::ETIMEDOUT,
        libc::ENOTCONN,
        libc::ECONNABORTED,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENOLCK,
    ];
    error.raw_os_error().is_some_and(|code| PASSING.contains(&code))
}

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
        Seal(NonZeroU64::new(KEY.hash_one(self)).unwrap_or(NonZeroU64::MIN))
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
        let known = self.known.get(path).cloned();
        let seal = known.as_ref().and_then(|(observed, text)| observed.firm().filter(|_| text.is_some()));
        let read = read_unless(path, seal, &self.unfinished, (&self.trusted, Use::Named));
        let text = read.text_or(known.and_then(|(_, text)| text));
        self.known.insert(path.to_owned(), (read.observed, text.clone().ok()));
        text
    }

    /// Reads a list file, unless what it holds is `held` and it has not changed since.
    ///
    /// The error is as that of [`Files::read`].
    pub(crate) fn read_list(&mut self, path: &Path, held: MayBeUnchanged) -> Result<ListText, String> {
        self.used.insert(path.to_owned());
        let known = self.lists.get(path).and_then(|observed| observed.firm()).filter(|_| held == MayBeUnchanged::Yes);
        let read = read_unless(path, known, &self.unfinished, (&self.trusted, Use::List));
        self.lists.insert(path.to_owned(), read.observed);
        match read.text {
            Ok(text) => {
                self.unusable_lists.remove(path);
                Ok(text.map_or(ListText::Unchanged, ListText::Text))
            }
            Err(Unusable { why, .. }) => {
                self.unusable_lists.insert(path.to_owned(), why.clone());
                Err(why)
            }
        }
    }

    /// Returns why a list file could not be read last.
    pub(super) fn list_fault(&self, path: &Path) -> Option<&str> {
        self.unusable_lists.get(path).map(String::as_str)
    }

    /// Returns the files that were asked for, with the states they were in.
    pub(super) fn observed(&self) -> impl Iterator<Item = (&Path, Observed)> {
        let known = self.known.iter().map(|(path, (observed, _))| (path.as_path(), *observed));
        known.chain(self.lists.iter().map(|(path, observed)| (path.as_path(), *observed)))
    }

    /// Returns the text of a file that was read for what it is, as it was then.
    pub(super) fn text(&self, path: &Path) -> Option<Arc<str>> {
        self.known.get(path)?.1.clone()
    }

    /// Returns the state that a file was in when it was read for what it is, or as a list.
    pub(super) fn observed_at(&self, path: &Path) -> Option<Observed> {
        self.known.get(path).map(|(observed, _)| *observed).or_else(|| self.lists.get(path).copied())
    }

    /// Forgets files that were not asked for since the last call.
    pub(crate) fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|path, _| used.contains(path));
        self.lists.retain(|path, _| used.contains(path));
        self.unusable_lists.retain(|path, _| used.contains(path));
    }
}

/// What a look at a file came to.
pub(super) struct Looked {
    /// Its text; nothing where it is as it was before.
    text: Result<Option<String>, Unusable>,
    /// Whether what it holds is private, if it was read.
    pub(super) is_private: Option<bool>,
    /// Its stamp.
    pub(super) stamp: Option<Stamp>,
    /// The state it was in, and what came of reading it.
    pub(super) observed: Observed,
}

impl Looked {
    /// Returns the text: what was read, or what was known where that is the same.
    pub(super) fn text_or(&self, known: Option<Arc<str>>) -> Text {
        match &self.text {
            Ok(Some(text)) => Ok(known.filter(|known| **known == **text).unwrap_or_else(|| text.as_str().into())),
            Ok(None) => known.ok_or_else(|| "it was not read".to_owned()),
            Err(unusable) => Err(unusable.why.clone()),
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
    let state = |stamp: Option<Stamp>, read| Observed { seal: stamp.map(Stamp::seal), read };
    if unfinished.holds(path, stamp) {
        let text = Err("it is being written to: it is read when its writer has closed it".to_owned().into());
        return Looked { text, is_private: None, stamp, observed: state(stamp, Read::Unusable) };
    }
    if known.is_some() && known == stamp.map(Stamp::seal) {
        return Looked { text: Ok(None), is_private: None, stamp, observed: state(stamp, Read::Firm) };
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
    let observed = state(
        stamp,
        match &text {
            Ok(_) if stamp.is_some_and(|stamp| !stamp.is_racy(now)) => Read::Firm,
            Ok(_) => Read::Racy,
            Err(unusable) => unusable.read,
        },
    );
    let is_private = text.as_ref().ok().map(|(_, is_private)| *is_private);
    Looked { text: text.map(|(text, _)| Some(text)), is_private, stamp, observed }
}

/// Reads a regular file of at most [`MAX_FILE`] octets as UTF-8, if it may be read as what it is wanted for; returns whether
/// what it holds is private as well.
fn read_text(path: &Path, trusted: &Trusted, as_what: Use) -> Result<(String, bool), Unusable> {
    let failed = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => NO_SUCH_FILE.to_owned(),
            io::ErrorKind::PermissionDenied => {
                "permission denied: make it readable for the user hostgate runs as".to_owned()
            }
            io::ErrorKind::IsADirectory if as_what == Use::Policies => {
                format!("{error}: rename it without `.toml`, or remove it")
            }
            io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => {
                format!("{error}: a regular file is needed")
            }
            _ if is_passing(&error) => format!("{error}: it is tried again until it can be read"),
            _ => error.to_string(),
        };
        Unusable { why, read: if is_passing(&error) { Read::Passing } else { Read::Failed } }
    };
    let (file, metadata) = regular_file::open(path).map_err(failed)?;
    let is_private = trusted.check(&file, &metadata, path, as_what)?;
    if metadata.len() > MAX_FILE {
        let why = format!("{} octets are too many: at most {MAX_FILE} are read; split the file", metadata.len());
        return Err(why.into());
    }
    // There may be more memory later.
    weight::check(metadata.len(), as_what).map_err(|why| Unusable { why, read: Read::Passing })?;
    let bytes = read_bounded(&file, metadata.len()).map_err(failed)?;
    Ok((text_of(bytes)?, is_private))
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
            read_text(&path, &Trusted::default(), Use::Named).unwrap_err().why,
            "not UTF-8 at line 2, column 5: it looks like Latin-1: save the file as UTF-8, as with `iconv -f LATIN1 -t UTF-8`"
        );
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(
            read_text(&path, &Trusted::default(), Use::Named)
                .unwrap_err()
                .why
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
            assert_eq!(files.read_list(&path, MayBeUnchanged::Yes), Ok(ListText::Text(text.to_owned())));
        }
    }
}
