//! The reading of single files: the configuration, lists, and for [`super::scan`] the policies.
//!
//! A file whose device, inode, size and times are the same is not read again, as in git's index. As there, a file that
//! was read within two seconds of its last change is "racy", since a later write may leave the same times, and is read
//! again.
//!
//! Temporary errors ([`is_temporary`]) are retried; other errors stay until the file changes.

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
use super::weight::{MemoryBudget, Refusal, Weight};
use crate::bounds::MAX_FILE;
use crate::document::text_of;
use crate::policy::{ListText, MayBeUnchanged, NO_SUCH_FILE};
use crate::util::content_hash::content_hash;
use crate::util::regular_file;

/// The size in octets above which a file is read into a buffer for the largest file: glibc returns a block of that size
/// to the system when it is freed, and smaller ones not always. Pages that are never written take no memory.
const LARGE: u64 = 1 << 20;
/// The age below which a change is racy: another write may leave the same times, as they advance in
/// ticks.
const RACY: Duration = Duration::from_secs(2);

/// The text of a file, or why it cannot be used.
pub(crate) type Text = Result<Arc<str>, String>;

/// The directories to watch, and the names in them that matter.
#[derive(Clone, Default)]
pub(crate) struct FollowedPaths {
    /// The directories to watch.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// The names of files, other than `*.toml`, whose content causes a reload; writes to other files are ignored.
    pub(crate) names: HashSet<OsString>,
}

impl FollowedPaths {
    pub(crate) fn add_directory(&mut self, path: &Path) {
        self.directories.insert(path.to_owned());
    }

    /// Adds the directory of the file at `path`, and those of each symlink on the way to it.
    pub(crate) fn add_file(&mut self, path: &Path) {
        /// The number of symlinks that the kernel follows in one path.
        const MAX_HOPS: usize = 40;
        let mut here = path.to_owned();
        self.add_place(&here);
        for _ in 0..MAX_HOPS {
            let Ok(target) = fs::read_link(&here) else { break };
            here = here.parent().unwrap_or(Path::new(".")).join(target);
            self.add_place(&here);
        }
        // A directory in the path may be a symlink itself, as `..data` of a mounted ConfigMap is.
        if let Ok(real) = fs::canonicalize(path) {
            self.add_place(&real);
        }
    }

    /// Adds the parent directory and the file name of one path.
    fn add_place(&mut self, path: &Path) {
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        self.directories.insert(parent.to_owned());
        self.names.extend(path.file_name().map(OsString::from));
    }
}

/// The number of further reads of a file that changes while it is read; after the last one, its event causes a reload.
const READ_TRIES: usize = 3;

/// The files other than policy files, as they were last read.
#[derive(Default)]
pub(crate) struct Files {
    /// The files that the configuration names, each with its state and, if it could be read, its text.
    known: HashMap<PathBuf, (ObservedState, Option<Arc<str>>)>,
    /// The states of list files and the hashes of their texts, which are not kept.
    lists: HashMap<PathBuf, (ObservedState, u64)>,
    /// The reason for each list file that could not be read.
    unusable_lists: HashMap<PathBuf, String>,
    /// The paths that were read since the last [`Files::forget_unused`].
    used: HashSet<PathBuf>,
    /// The files that are open for writing.
    pub(super) unfinished: UnfinishedFiles,
    /// The directories in which list files may be.
    trusted: Trusted,
    /// The memory that the files of one reload may take.
    pub(super) budget: MemoryBudget,
}

/// The files that are open for writing, which are not read until they are closed.
#[derive(Default)]
pub(crate) struct UnfinishedFiles {
    paths: HashSet<PathBuf>,
    /// The device and inode of each, as the file may have other paths.
    ids: HashSet<(u64, u64)>,
}

impl UnfinishedFiles {
    /// Makes the set from the paths of events.
    pub(crate) fn of(paths: HashSet<PathBuf>) -> Self {
        let ids = paths.iter().filter_map(|path| FileVersion::at(path)).map(FileVersion::id).collect();
        Self { paths, ids }
    }

    /// Returns whether the file at `path`, of this version, is open for writing.
    pub(super) fn contains(&self, path: &Path, version: Option<FileVersion>) -> bool {
        !self.paths.is_empty()
            && (self.paths.contains(path) || version.is_some_and(|version| self.ids.contains(&version.id())))
    }
}

/// The version of a file without its content: device, inode, size, times and link count, as git's index compares them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileVersion {
    id: (u64, u64),
    /// The size in octets.
    size: u64,
    /// The modification time, in seconds and nanoseconds.
    modified: (i64, i64),
    /// The change time (ctime), in seconds and nanoseconds.
    changed: (i64, i64),
    /// The number of hard links.
    names: u64,
}

/// A keyed hash of a [`FileVersion`], a ninth of its size, as one is kept for each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VersionHash(NonZeroU64);

/// The state of a file or directory when it was last read, to be compared with its state now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObservedState {
    /// The hash of the version; `None` if nothing was at the path, or stat(2) failed.
    version_hash: Option<VersionHash>,
    outcome: ReadOutcome,
}

/// The outcome of reading a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadOutcome {
    /// The content was read, and is known for as long as the version stays the same.
    Clean,
    /// The content was read right after a change, so that a further change may have left the same version ("racily
    /// clean" in git).
    Racy,
    /// The content cannot be used, or may not be read.
    Unusable,
    /// The system reported an error.
    Failed,
    /// The system reported a temporary error, such as too many open files.
    Temporary,
}

impl ObservedState {
    /// Returns the state of a directory whose entries are about to be read, or of a dangling symlink.
    pub(super) fn of_directory(version: Option<FileVersion>) -> Self {
        let is_racy = version.is_some_and(|version| version.is_racy(SystemTime::now()));
        Self {
            version_hash: version.map(FileVersion::version_hash),
            outcome: if is_racy { ReadOutcome::Racy } else { ReadOutcome::Clean },
        }
    }

    /// Returns the same state with a temporary error.
    pub(super) fn temporary(self) -> Self {
        Self { outcome: ReadOutcome::Temporary, ..self }
    }

    /// Returns the hash of the version that need not be read again; `None` unless the state is clean.
    pub(super) fn clean_hash(self) -> Option<VersionHash> {
        self.version_hash.filter(|_| self.outcome == ReadOutcome::Clean)
    }

    /// Returns whether a temporary error occurred.
    pub(super) fn is_temporary(self) -> bool {
        self.outcome == ReadOutcome::Temporary
    }

    /// Returns whether the system reported an error, temporary or not.
    pub(super) fn is_failed(self) -> bool {
        matches!(self.outcome, ReadOutcome::Failed | ReadOutcome::Temporary)
    }

    /// Returns whether the file at `path`, symlinks followed, has another version now.
    pub(super) fn differs(self, path: &Path) -> bool {
        self.version_hash != FileVersion::at(path).map(FileVersion::version_hash)
    }

    /// Returns whether a directory whose version is `now` may have other entries than were read.
    pub(super) fn is_changed(self, now: Option<FileVersion>) -> bool {
        self.version_hash != now.map(FileVersion::version_hash)
            || self.outcome == ReadOutcome::Racy && now.is_some_and(|now| !now.is_racy(SystemTime::now()))
    }

    /// Returns whether the content was racy when it was read and is not any more: without events, such a file is read a
    /// second time.
    pub(super) fn is_unsure(self, path: &Path) -> bool {
        self.outcome == ReadOutcome::Racy
            && FileVersion::at(path).is_some_and(|version| !version.is_racy(SystemTime::now()))
    }
}

/// The error of a file that cannot be used.
#[derive(Debug)]
pub(super) struct Unusable {
    /// The reason, and how to fix it.
    why: String,
    outcome: ReadOutcome,
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self { why, outcome: ReadOutcome::Unusable }
    }
}

/// Returns whether an error is temporary: the next try may succeed although nobody changes the file.
///
/// A network file system whose server does not answer, or whose handle is stale, reports such errors.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    const TEMPORARY: [i32; 16] = [
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
    error.raw_os_error().is_some_and(|code| TEMPORARY.contains(&code))
}

impl FileVersion {
    /// Makes the version from `metadata`.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            names: metadata.nlink(),
        }
    }

    /// Returns the version of the file at `path`, symlinks followed; `None` if it does not exist or cannot be reached.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Returns the hash, keyed for this process.
    fn version_hash(self) -> VersionHash {
        // The hash is never zero, so that an `Option` of it takes no more memory.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        VersionHash(NonZeroU64::new(KEY.hash_one(self)).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the device and inode, which identify the file or directory.
    pub(crate) fn id(self) -> (u64, u64) {
        self.id
    }

    /// Returns whether the file has no other hard link.
    pub(super) fn has_one_name(self) -> bool {
        self.names == 1
    }

    /// Returns whether the last change is so recent that another write could leave the same version.
    pub(crate) fn is_racy(&self, now: SystemTime) -> bool {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        seconds - self.changed.0.max(self.modified.0) <= i64::try_from(RACY.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Files {
    /// Sets the directories in which list files may be; if they differ from before, all lists are read again.
    pub(crate) fn trust(&mut self, trusted: Trusted) {
        if self.trusted != trusted {
            self.lists.clear();
            self.trusted = trusted;
        }
    }

    /// Returns whether the file at `path`, symlinks followed, is open for writing.
    pub(crate) fn is_unfinished(&self, path: &Path) -> bool {
        self.unfinished.contains(path, FileVersion::at(path))
    }

    /// Returns the text of a file, which is read only if its version has changed.
    ///
    /// The error says why the file cannot be used: missing, a directory, too large, not UTF-8.
    pub(crate) fn read(&mut self, path: &Path) -> Text {
        self.used.insert(path.to_owned());
        let known = self.known.get(path).cloned();
        let version_hash = known.as_ref().and_then(|(observed, text)| observed.clean_hash().filter(|_| text.is_some()));
        let read = read_unless(path, version_hash, &self.unfinished, (&self.trusted, Use::Named, &self.budget));
        let text = read.text_or(known.and_then(|(_, text)| text));
        self.known.insert(path.to_owned(), (read.observed, text.clone().ok()));
        text
    }

    /// Reads a list file, unless the caller holds its content (`held`) and its version has not changed.
    ///
    /// The errors are those of [`Files::read`].
    pub(crate) fn read_list(&mut self, path: &Path, held: MayBeUnchanged) -> Result<ListText, String> {
        self.used.insert(path.to_owned());
        let known = self.lists.get(path).copied().filter(|_| held == MayBeUnchanged::Yes);
        let version_hash = known.and_then(|(observed, _)| observed.clean_hash());
        let mut read = read_unless(path, version_hash, &self.unfinished, (&self.trusted, Use::List, &self.budget));
        let known = known.map(|(_, hash)| hash);
        let hash = match &read.text {
            Ok(Some(text)) => {
                let hash = content_hash(text.as_bytes());
                // What was made of the same text is used again.
                if known != Some(hash) {
                    read.weigh(|octets, _| self.budget.admit(Weight::of_list(octets)).map_err(Refusal::TooHeavy));
                }
                hash
            }
            _ => known.unwrap_or_default(),
        };
        self.lists.insert(path.to_owned(), (read.observed, hash));
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

    /// Returns why a list file could not be read, if so.
    pub(super) fn list_fault(&self, path: &Path) -> Option<&str> {
        self.unusable_lists.get(path).map(String::as_str)
    }

    /// Returns the files and lists that are in use, each with its state when it was read.
    pub(super) fn observed(&self) -> impl Iterator<Item = (&Path, ObservedState)> {
        let known = self.known.iter().map(|(path, (observed, _))| (path.as_path(), *observed));
        known.chain(self.lists.iter().map(|(path, (observed, _))| (path.as_path(), *observed)))
    }

    /// Returns the text that [`Files::read`] read last.
    pub(super) fn text(&self, path: &Path) -> Option<Arc<str>> {
        self.known.get(path)?.1.clone()
    }

    /// Returns the state that a file or list was in when it was read.
    pub(super) fn observed_at(&self, path: &Path) -> Option<ObservedState> {
        self.known
            .get(path)
            .map(|(observed, _)| *observed)
            .or_else(|| self.lists.get(path).map(|(observed, _)| *observed))
    }

    /// Forgets the files that were not read since the last call.
    pub(crate) fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|path, _| used.contains(path));
        self.lists.retain(|path, _| used.contains(path));
        self.unusable_lists.retain(|path, _| used.contains(path));
    }
}

/// The result of [`read_unless`].
pub(super) struct FileRead {
    /// The text; `None` if the version is the known one.
    text: Result<Option<String>, Unusable>,
    /// Whether the content must not be quoted; `None` if it was not read.
    pub(super) is_private: Option<bool>,
    /// The version that was read; `None` if stat(2) failed.
    pub(super) version: Option<FileVersion>,
    pub(super) observed: ObservedState,
}

impl FileRead {
    /// Turns a text that `admit` refuses into an error. A file that is too heavy is tried again, as other files may be
    /// freed.
    fn weigh(&mut self, admit: impl FnOnce(u64, &str) -> Result<(), Refusal>) {
        let Ok(Some(text)) = &self.text else { return };
        let octets = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let (why, outcome) = match admit(octets, text) {
            Ok(()) => return,
            Err(Refusal::TooMany(why)) => (why, ReadOutcome::Unusable),
            Err(Refusal::TooHeavy(why)) => (why, ReadOutcome::Temporary),
        };
        self.observed.outcome = outcome;
        self.text = Err(Unusable { why, outcome });
    }

    /// Turns the text of a policy file into an error if it does not fit into the memory left, unless it is the `known`
    /// one, which is in use already.
    pub(super) fn weigh_policies(&mut self, known: Option<&Arc<str>>, budget: &MemoryBudget) {
        if let Ok(Some(text)) = &self.text
            && known.is_none_or(|known| **known != **text)
        {
            self.weigh(|_, text| budget.admit_policies(text));
        }
    }

    /// Returns the text that was read, as the allocation of `known` if they are equal.
    pub(super) fn text_or(&self, known: Option<Arc<str>>) -> Text {
        match &self.text {
            Ok(Some(text)) => Ok(known.filter(|known| **known == **text).unwrap_or_else(|| text.as_str().into())),
            Ok(None) => known.ok_or_else(|| "it was not read".to_owned()),
            Err(unusable) => Err(unusable.why.clone()),
        }
    }
}

/// Reads a file, unless the hash of its version is `known`.
pub(super) fn read_unless(
    path: &Path,
    known: Option<VersionHash>,
    unfinished: &UnfinishedFiles,
    (trusted, as_what, budget): (&Trusted, Use, &MemoryBudget),
) -> FileRead {
    // The clock is read before the file: a change during the read then counts as racy.
    let now = SystemTime::now();
    let mut version = FileVersion::at(path);
    let state = |version: Option<FileVersion>, outcome| ObservedState {
        version_hash: version.map(FileVersion::version_hash),
        outcome,
    };
    if unfinished.contains(path, version) {
        let text = Err("it is being written to: it is read when its writer has closed it".to_owned().into());
        return FileRead { text, is_private: None, version, observed: state(version, ReadOutcome::Unusable) };
    }
    if known.is_some() && known == version.map(FileVersion::version_hash) {
        return FileRead { text: Ok(None), is_private: None, version, observed: state(version, ReadOutcome::Clean) };
    }
    let mut text = read_text(path, trusted, as_what, budget);
    for _ in 0..READ_TRIES {
        let after = FileVersion::at(path);
        if after == version {
            break;
        }
        // A file that changed while it was read may have given a part of each version.
        version = after;
        text = read_text(path, trusted, as_what, budget);
    }
    let observed = state(
        version,
        match &text {
            Ok(_) if version.is_some_and(|version| !version.is_racy(now)) => ReadOutcome::Clean,
            Ok(_) => ReadOutcome::Racy,
            Err(unusable) => unusable.outcome,
        },
    );
    let is_private = text.as_ref().ok().map(|(_, is_private)| *is_private);
    FileRead { text: text.map(|(text, _)| Some(text)), is_private, version, observed }
}

/// Reads a regular file of at most [`MAX_FILE`] octets as UTF-8, if `trusted` allows this use; returns the text, and
/// whether it is private.
fn read_text(path: &Path, trusted: &Trusted, as_what: Use, budget: &MemoryBudget) -> Result<(String, bool), Unusable> {
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
            _ if is_temporary(&error) => format!("{error}: it is tried again until it can be read"),
            _ => error.to_string(),
        };
        Unusable { why, outcome: if is_temporary(&error) { ReadOutcome::Temporary } else { ReadOutcome::Failed } }
    };
    let (file, metadata) = regular_file::open(path).map_err(failed)?;
    let is_private = trusted.check(&file, &metadata, path, as_what)?;
    if metadata.len() > MAX_FILE {
        let why = format!("{} octets are too many: at most {MAX_FILE} are read; split the file", metadata.len());
        return Err(why.into());
    }
    // A lack of memory is temporary: other files may be freed.
    budget.check_size(metadata.len()).map_err(|why| Unusable { why, outcome: ReadOutcome::Temporary })?;
    let bytes = read_bounded(&file, metadata.len()).map_err(failed)?;
    Ok((text_of(bytes)?, is_private))
}

/// Reads to the end of the file; the limit holds even if the file grows meanwhile.
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
    fn error_of_an_unusable_file_says_why_and_how_to_fix_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.toml");
        fs::write(&path, b"a = 1\nb = \xff").unwrap();
        assert_eq!(
            read_text(&path, &Trusted::default(), Use::Named, &MemoryBudget::default()).unwrap_err().why,
            "not UTF-8 at line 2, column 5: it looks like Latin-1: save the file as UTF-8, as with `iconv -f LATIN1 -t UTF-8`"
        );
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(
            read_text(&path, &Trusted::default(), Use::Named, &MemoryBudget::default())
                .unwrap_err()
                .why
                .starts_with("1073741824 octets are too many")
        );
    }

    #[test]
    fn rewrite_of_the_same_size_is_noticed() {
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
