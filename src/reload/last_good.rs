//! The last good state on disk: what hostgate.toml, the files that people wrote and their lists said when all of it was last
//! in force, to start from when what is there now is bad.
//!
//! It is one file, written aside and renamed, and one more for each list. Objects of the API are not in it: hostgate writes
//! their files itself, and one that is broken costs that object alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::bounds::{MAX_FILE, MAX_LAST_GOOD, MAX_LAST_GOOD_LISTS};
use crate::policy::{Library, ListText, Texts, Tree, object_of};
use crate::util::regular_file;

/// Where the last good state is kept.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    /// The directory.
    directory: PathBuf,
    /// The configuration file that it is of.
    configuration: PathBuf,
    /// What is known to be on disk; `None` before anything was kept.
    written: Option<Written>,
}

/// What is known to be on disk.
#[derive(Clone, Debug)]
struct Written {
    /// The first line of the state.
    head: String,
    /// The files, as they were then.
    files: BTreeMap<String, Found>,
}

/// What tells a state of a file from others. Not the time of its change, as a rename changes that too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// Device and inode.
    id: (u64, u64),
    /// Its size.
    octets: u64,
    /// When it was written to, in seconds and nanoseconds.
    modified: (i64, i64),
}

impl Found {
    /// Takes it from what the system says of a file.
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            octets: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A last good state.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What it holds.
    content: Content,
    /// Where its lists are.
    directory: PathBuf,
    /// When it was written.
    written: Option<Timestamp>,
}

/// What the file holds behind its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    /// The absolute path of the configuration file.
    configuration: String,
    /// The text of the configuration file.
    config: String,
    /// The texts of the policy files, by their paths below the policies directory.
    files: BTreeMap<String, Arc<str>>,
    /// Those among them that are not to be quoted.
    private: BTreeSet<String>,
    /// The list files, with the SHA-256 of each.
    lists: BTreeMap<String, String>,
}

/// The time and the size of a state on disk.
pub(super) type StateVersion = (SystemTime, u64);

/// Why the state is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    /// A list changed a moment ago: after the next look there is another state to keep.
    #[error("a list has changed since")]
    Changed,
    /// It was kept, and what is on disk is something else by now.
    #[error("it was changed or removed on disk")]
    Lost,
    /// It cannot be written, or is too large.
    #[error("{0}")]
    Failed(String),
}

impl LastGood {
    /// Returns where it is kept for a configuration file: below `$STATE_DIRECTORY`, which systemd sets for a unit that has one;
    /// for the system's file below that of the shipped unit; else beside the file.
    pub(crate) fn of(configuration: &Path) -> Self {
        Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1)).swap_remove(0)
    }

    /// Returns where it may be kept, the likeliest place first: with a state directory there is but one; without, a command does
    /// not know that of a unit, and it may be beside the file or below `of_unit`, the state directory of the shipped unit.
    fn places(configuration: &Path, state: Option<&Path>, of_unit: &Path) -> Vec<Self> {
        let absolute = std::path::absolute(configuration).unwrap_or_else(|_| configuration.to_owned());
        let beside = configuration.parent().unwrap_or(Path::new("")).join(BESIDE);
        let directories = match state {
            Some(state) => vec![state.join(BELOW)],
            None if absolute == Path::new(OF_UNIT.0) => vec![of_unit.join(BELOW), beside],
            None => vec![beside, of_unit.join(BELOW)],
        };
        let place = |directory| Self { directory, configuration: absolute.clone(), written: None };
        directories.into_iter().map(place).collect()
    }

    /// Reads the state of a configuration file for a command: the newest one there is of it, wherever a service may keep it.
    ///
    /// # Errors
    /// There is none of use: why, and where it was looked for.
    pub(crate) fn find(configuration: &Path) -> Result<Option<Kept>, String> {
        Self::newest(&Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1)))
    }

    /// Reads the newest of the states in some places that are of the configuration file. What is wrong with one in another place
    /// than the likeliest one may be another service's.
    fn newest(places: &[Self]) -> Result<Option<Kept>, String> {
        let Some((first, others)) = places.split_first() else { return Ok(None) };
        let likeliest = first.read();
        let others = others.iter().filter_map(|place| place.read().ok().flatten());
        let newest = others.chain(likeliest.clone().ok().flatten()).max_by_key(|kept| kept.written);
        newest.map_or(likeliest, |kept| Ok(Some(kept)))
    }

    /// Says where a command looks for the state of a configuration file.
    pub(crate) fn looked_in(configuration: &Path) -> String {
        let places = Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1));
        let looked: Vec<String> = places.iter().map(|place| place.directory.display().to_string()).collect();
        let help = "; of a unit with another StateDirectory=, ask with STATE_DIRECTORY=/var/lib/NAME";
        format!("{}{}", looked.join(" or "), if places.len() > 1 { help } else { "" })
    }

    /// Returns whether a state is of the configuration file.
    fn is_of(&self, kept: &Kept) -> bool {
        Path::new(&kept.content.configuration) == self.configuration
    }

    /// Says that a state is of another configuration file.
    fn other(&self, kept: &Kept) -> String {
        let path = self.directory.join(STATE);
        format!("{}: it is of another configuration file, {}", path.display(), kept.content.configuration)
    }

    /// Returns the time and the size of the state, which change whenever it is written.
    pub(super) fn version(&self) -> Option<StateVersion> {
        let metadata = fs::metadata(self.directory.join(STATE)).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Returns the directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the state; `None` if none is kept.
    ///
    /// # Errors
    /// It cannot be read, is broken, of another version or of another configuration file: why.
    pub(crate) fn read(&self) -> Result<Option<Kept>, String> {
        let kept = self.read_any()?;
        let other = kept.as_ref().filter(|kept| !self.is_of(kept)).map(|kept| self.other(kept));
        other.map_or(Ok(kept), Err)
    }

    /// Reads the state, of whatever configuration file it is; `None` if none is kept.
    ///
    /// # Errors
    /// It cannot be read, is broken or of another version: why.
    fn read_any(&self) -> Result<Option<Kept>, String> {
        let path = self.directory.join(STATE);
        let octets = match regular_file::read(&path, MAX_LAST_GOOD * 3) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let head = octets.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let body = octets.get(head.len() + 1..).unwrap_or_default();
        let head = str::from_utf8(head).unwrap_or_default();
        let Some(hash) = head.strip_prefix(SCHEMA) else {
            return Err(wrong("it was written by another version, or is no last good state"));
        };
        if hash != hex(body) {
            return Err(wrong("it is broken: its checksum is another one"));
        }
        let content: Content = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let written = written.and_then(|time| Timestamp::try_from(time).ok());
        Ok(Some(Kept { content, directory: self.directory.clone(), written }))
    }

    /// Compares device, inode, size and time of what was kept with what is on disk.
    ///
    /// # Errors
    /// Something was changed or removed.
    pub(super) fn check(&self) -> Result<(), NotKept> {
        let Some(Written { files, .. }) = &self.written else { return Ok(()) };
        let is_same = files.keys().all(|name| self.is_as_written(name));
        if is_same { Ok(()) } else { Err(NotKept::Lost) }
    }

    /// Keeps a state in which everything is in force; returns whether it had to be written. `config` is the text of the
    /// configuration file.
    ///
    /// # Errors
    /// It is not kept, and what was kept before still is.
    pub(super) fn keep(&mut self, config: &str, tree: &Tree, library: &Library) -> Result<bool, NotKept> {
        let failed = |what: &Path, why: &dyn std::fmt::Display| NotKept::Failed(format!("{}: {why}", what.display()));
        let mut content = self.content(config, tree)?;
        let mut lists = BTreeMap::new();
        let mut octets = 0_u64;
        for path in library.list_paths().filter(|path| library.uses_list(path)) {
            let text = regular_file::read_text(path, MAX_FILE).map_err(|_| NotKept::Changed)?;
            if !library.has_list(path, &text) {
                return Err(NotKept::Changed);
            }
            octets = octets.saturating_add(text.len().try_into().unwrap_or(u64::MAX));
            if octets > MAX_LAST_GOOD_LISTS {
                let why = format!("the lists have more than {} MiB, the most that is kept", MAX_LAST_GOOD_LISTS >> 20);
                return Err(NotKept::Failed(why));
            }
            let hash = hex(text.as_bytes());
            content.lists.insert(key(&tree.root, path).ok_or_else(|| failed(path, &NOT_UTF8))?, hash.clone());
            lists.insert(hash, (path.to_owned(), text.len()));
        }
        let body = serde_json::to_vec(&content).map_err(|error| failed(&self.directory, &error))?;
        let head = format!("{SCHEMA}{}", hex(&body));
        let path = self.directory.join(STATE);
        if self.written.as_ref().is_some_and(|written| written.head == head) && self.check().is_ok() {
            return Ok(false);
        }
        if !self.directory.is_dir() {
            DirBuilder::new().mode(0o700).create(&self.directory).map_err(|error| failed(&self.directory, &error))?;
        }
        let mut is_written = false;
        let mut files = BTreeMap::new();
        for (hash, (path, length)) in &lists {
            let kept = self.directory.join(hash);
            let found = self.found(hash);
            // One of an earlier process, or one that was changed, is read.
            let is_there = found.is_some_and(|found| found.octets == *length as u64)
                && (self.is_as_written(hash)
                    || regular_file::read(&kept, MAX_FILE).is_ok_and(|text| hex(&text) == *hash));
            let written = if let Some(found) = found.filter(|_| is_there) {
                found
            } else {
                let text = regular_file::read(path, MAX_FILE).map_err(|_| NotKept::Changed)?;
                if hex(&text) != *hash {
                    return Err(NotKept::Changed);
                }
                is_written = true;
                self.write(hash, &[&text]).map_err(|error| failed(&kept, &error))?
            };
            files.insert(hash.clone(), written);
        }
        let found = self.found(STATE);
        let kept = regular_file::read(&path, MAX_LAST_GOOD * 3).unwrap_or_default();
        let is_there = kept.strip_prefix(head.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n")) == Some(&*body);
        let written = if let Some(found) = found.filter(|_| is_there) {
            found
        } else {
            is_written = true;
            self.write(STATE, &[head.as_bytes(), b"\n", &body]).map_err(|error| failed(&path, &error))?
        };
        files.insert(STATE.to_owned(), written);
        self.remove_others(&lists.into_keys().collect());
        self.written = Some(Written { head, files });
        Ok(is_written)
    }

    /// Returns what tells a state of a file that is kept from others, if the file is there.
    fn found(&self, name: &str) -> Option<Found> {
        fs::metadata(self.directory.join(name)).ok().map(|metadata| Found::of(&metadata))
    }

    /// Returns whether a file is as it was when it was written or read last.
    fn is_as_written(&self, name: &str) -> bool {
        let written = self.written.as_ref().and_then(|written| written.files.get(name));
        written.is_some() && written == self.found(name).as_ref()
    }

    /// Gathers what is kept, without the lists.
    fn content(&self, config: &str, tree: &Tree) -> Result<Content, NotKept> {
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let not_utf8 = |path: &Path| NotKept::Failed(format!("{}: {NOT_UTF8}", path.display()));
        let mut content = Content {
            configuration: text(&self.configuration).ok_or_else(|| not_utf8(&self.configuration))?,
            config: config.to_owned(),
            files: BTreeMap::new(),
            private: BTreeSet::new(),
            lists: BTreeMap::new(),
        };
        let mut octets = config.len();
        for (path, read) in tree.files.iter().filter(|(path, _)| object_of(&tree.root, path).is_none()) {
            let below = path.strip_prefix(&tree.root).unwrap_or(path);
            let below = text(below).ok_or_else(|| not_utf8(path))?;
            let Ok(read) = read else { return Err(NotKept::Changed) };
            octets += read.len();
            if tree.private.contains(&**path) {
                content.private.insert(below.clone());
            }
            content.files.insert(below, Arc::clone(read));
        }
        if octets as u64 > MAX_LAST_GOOD {
            let why = format!("the policy files have more than {} MiB, the most that is kept", MAX_LAST_GOOD >> 20);
            return Err(NotKept::Failed(why));
        }
        Ok(content)
    }

    /// Writes a file aside and renames it; returns the state that it is in.
    fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<Found> {
        let aside = self.directory.join(ASIDE);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        let written = parts.iter().try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // A full disk takes a part of it.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        let written = Found::of(&file.metadata()?);
        fs::rename(&aside, self.directory.join(name))?;
        super::atomic_write::sync(&self.directory)?;
        Ok(written)
    }

    /// Removes lists that nothing names any more; one that stays is in nobody's way.
    fn remove_others(&self, lists: &BTreeSet<String>) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_list = name.len() == 64 && name.bytes().all(|octet| octet.is_ascii_hexdigit());
            if is_list && !lists.contains(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Kept {
    /// Returns when it was written (RFC 3339, UTC).
    pub(crate) fn written(&self) -> String {
        self.written.map_or_else(|| "an unknown time".to_owned(), |written| written.to_string())
    }

    /// Returns the directory that it is in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the text of the configuration file.
    pub(crate) fn config(&self) -> &str {
        &self.content.config
    }

    /// Returns the policy files as if they were below `root`, with those of `now` that are the API's.
    pub(super) fn tree(&self, root: &Path, now: &Tree) -> Tree {
        let kept = self.content.files.iter().map(|(below, text)| (root.join(below), Ok(Arc::clone(text))));
        let objects = now.files.iter().filter(|(path, _)| object_of(&now.root, path).is_some());
        let objects = objects.map(|(path, text)| (path.to_path_buf(), text.clone()));
        let files: Texts = kept.chain(objects).collect();
        let private = Arc::new(self.content.private.iter().map(|below| root.join(below)).collect());
        Tree { root: root.to_owned(), files, private, ..Tree::default() }
    }

    /// Reads a list.
    ///
    /// # Errors
    /// It is not kept, or broken.
    pub(super) fn read_list(&self, root: &Path, path: &Path) -> Result<ListText, String> {
        let hash =
            key(root, path).and_then(|key| self.content.lists.get(&key)).ok_or("it is not in the last good state")?;
        let kept = self.directory.join(hash);
        let text = regular_file::read_text(&kept, MAX_FILE).map_err(|error| format!("{}: {error}", kept.display()))?;
        if hex(text.as_bytes()) != *hash {
            return Err(format!("{}: it is broken: its checksum is another one", kept.display()));
        }
        Ok(ListText::Text(text))
    }
}

/// Returns the state directory that systemd gave this process; the first, where there are several, with colons between
/// (systemd.exec(5)).
fn state_directory() -> Option<PathBuf> {
    let all = PathBuf::from(std::env::var_os("STATE_DIRECTORY").filter(|state| !state.is_empty())?);
    Some(all.to_str().and_then(|all| all.split(':').next()).map_or_else(|| all.clone(), PathBuf::from))
}

/// Returns what a list is kept under: its path below the policies directory, or else its absolute path.
fn key(root: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(root).ok().map(Path::to_owned);
    below.or_else(|| std::path::absolute(path).ok())?.to_str().map(str::to_owned)
}

/// Returns the SHA-256 of octets in hexadecimal.
fn hex(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().fold(String::new(), |mut text, octet| {
        // A string takes whatever is written.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// What the first line begins with; the number changes with what is kept.
const SCHEMA: &str = "hostgate-last-good 1 ";
/// The file.
const STATE: &str = "state";
/// What a file is called until it is whole.
const ASIDE: &str = "new";
/// The directory below `$STATE_DIRECTORY`.
const BELOW: &str = "last-good";
/// The configuration file of the shipped unit, and its state directory.
const OF_UNIT: (&str, &str) = ("/etc/hostgate/hostgate.toml", "/var/lib/hostgate");
/// The directory beside the configuration file.
const BESIDE: &str = ".hostgate-last-good";
/// Why a file is not kept.
const NOT_UTF8: &str = "the path is not UTF-8";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Bindings, MayBeUnchanged};

    /// A policies directory with a list, and the library made of it.
    fn loaded(root: &Path, names: &str) -> (Tree, Library) {
        let list = root.join("list.txt");
        fs::write(&list, names).unwrap();
        let text: Arc<str> = "[policy.p]\nallowed_hostnames_files = [\"list.txt\"]\n".into();
        let files = [(root.join("p.toml"), Ok(text)), (root.join("api/npol_1.toml"), Ok("[policy.npol_1]\n".into()))];
        let tree = Tree { root: root.to_owned(), files: files.into_iter().collect(), ..Tree::default() };
        let lists = &mut |path: &Path, _: MayBeUnchanged| {
            fs::read_to_string(path).map(ListText::Text).map_err(|error| error.to_string())
        };
        let (library, _) = Library::start(&tree, lists, &Bindings::default()).unwrap();
        (tree, library)
    }

    #[test]
    fn a_command_finds_the_newest_state_of_its_configuration_without_the_environment_of_the_unit() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (configuration, unit) = (root.join("h.toml"), root.join("unit"));
        fs::create_dir(&unit).unwrap();
        let places = || LastGood::places(&configuration, None, &unit);
        assert!(LastGood::newest(&places()).unwrap().is_none());
        let (tree, library) = loaded(root, "a.test\n");
        // One of another service is none.
        let other = LastGood { configuration: root.join("other.toml"), ..places().swap_remove(1) };
        other.clone().keep("log = 'other'", &tree, &library).unwrap();
        assert!(LastGood::newest(&places()).unwrap().is_none());
        let with = LastGood::places(&configuration, Some(&unit), Path::new("/none"));
        assert!(LastGood::newest(&with).unwrap_err().contains("another configuration file"));
        for (place, text) in [(1, "log = 'unit'"), (0, "log = 'beside'"), (1, "log = 'newer'")] {
            let before = SystemTime::now();
            places().swap_remove(place).keep(text, &tree, &library).unwrap();
            let state = places()[place].directory.join(STATE);
            let later = before + std::time::Duration::from_secs(if text.contains("newer") { 20 } else { 10 });
            fs::File::options().write(true).open(&state).unwrap().set_modified(later).unwrap();
            let found = LastGood::newest(&places()).unwrap().unwrap();
            assert_eq!((found.config(), found.directory()), (text, &*places()[place].directory));
        }
        assert_eq!(LastGood::places(Path::new(OF_UNIT.0), None, &unit)[0].directory, unit.join(BELOW));
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_broken_does_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut place = LastGood { directory: root.join("kept"), configuration: root.join("h.toml"), written: None };
        assert!(place.read().unwrap().is_none());
        let (tree, library) = loaded(root, "a.test\n");
        assert!(place.keep("log = 'info'", &tree, &library).unwrap());
        assert!(!place.keep("log = 'info'", &tree, &library).unwrap(), "the same is not written again");
        let kept = place.read().unwrap().unwrap();
        assert_eq!(kept.config(), "log = 'info'");
        // Somewhere else, and without the API's objects but for those that are there.
        let there = kept.tree(Path::new("q"), &Tree::default());
        let paths: Vec<_> = there.files.iter().map(|(path, _)| path.to_path_buf()).collect();
        assert_eq!(paths, [Path::new("q/p.toml")]);
        assert_eq!(kept.tree(root, &tree).files.iter().len(), 2);
        assert_eq!(kept.read_list(root, &root.join("list.txt")), Ok(ListText::Text("a.test\n".to_owned())));
        assert!(kept.read_list(root, &root.join("other.txt")).is_err());
        // A list that changed since is not kept as if it were in force.
        fs::write(root.join("list.txt"), "b.test\n").unwrap();
        assert!(matches!(place.keep("log = 'warn'", &tree, &library), Err(NotKept::Changed)));
        let (tree, library) = loaded(root, "b.test\n");
        assert!(place.keep("log = 'info'", &tree, &library).unwrap());
        assert_eq!(fs::read_dir(root.join("kept")).unwrap().count(), 2, "the old list is gone");
        let other = LastGood { configuration: root.join("other.toml"), ..place.clone() };
        assert!(other.read().unwrap_err().contains("another configuration file"));
        let state = root.join("kept/state");
        let text = fs::read_to_string(&state).unwrap();
        for (broken, told) in [
            (text.replacen(" 1 ", " 2 ", 1), "another version"),
            (text.replace("info", "warn"), "checksum"),
            (text[..text.len() - 1].to_owned(), "checksum"),
            (String::new(), "another version"),
            ("\0".repeat(100), "another version"),
        ] {
            fs::write(&state, &broken).unwrap();
            let error = place.read().unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
