//! The last good state on disk, from which a start begins if what is on disk now has errors.
//!
//! The state is a copy of what is in force, file by file: of hostgate.toml, of the policy files that people wrote, and of their
//! lists. A file that is held back has the text that is in force instead of the one on disk; all others are as they are
//! on disk, so a bad file keeps no other one at an old version. The copy is one state file with a checksum, written under a
//! temporary name and renamed, and one file for each list, named by its SHA-256. Objects of the API are not in it: hostgate writes their files itself, and an error
//! in one affects that object alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::object_record::ObjectRecord;
use super::ownership::distrust;
use crate::bounds::{MAX_FILE, MAX_LAST_GOOD, MAX_LAST_GOOD_LISTS};
use crate::policy::{Library, ListText, Texts, Tree, object_of};
use crate::util::{hex, regular_file, sha256};

/// The place of the last good state of one configuration file.
#[derive(Clone, Debug)]
pub(crate) struct LastGoodPlace {
    directory: PathBuf,
    /// The absolute path of the configuration file.
    configuration: PathBuf,
    /// The files as this process wrote or read them last; `None` before the first write.
    written: Option<Written>,
    /// A user whose files are used, too: that of the service, for a command that root runs.
    owner: Option<u32>,
}

/// The files of the state as they were last written or read.
#[derive(Clone, Debug)]
struct Written {
    /// The first line of the state file, with its checksum.
    head: String,
    /// The fingerprint of each file, by its name.
    files: BTreeMap<String, FileFingerprint>,
    /// The lists, as in [`Content`].
    lists: BTreeMap<String, String>,
}

/// The fingerprint of a file: device, inode, size and modification time, but not the change time (ctime), which a
/// rename changes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileFingerprint {
    id: (u64, u64),
    octets: u64,
    /// The modification time, in seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileFingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            octets: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A last good state that was read from disk.
#[derive(Clone, Debug)]
pub(crate) struct LastGoodState {
    content: Content,
    /// The directory that has its lists.
    directory: PathBuf,
    /// The time at which it was written; `None` if that cannot be read.
    written: Option<Timestamp>,
}

/// The content of the state file after its first line, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    /// The absolute path of the configuration file.
    configuration: String,
    /// The text of the configuration file.
    config: String,
    /// The texts of the policy files, by their paths below the policies directory.
    files: BTreeMap<String, Arc<str>>,
    /// The policy files among them that must not be quoted.
    private: BTreeSet<String>,
    /// The list files, each with the SHA-256 of its text, which is the name of its copy.
    lists: BTreeMap<String, String>,
}

/// The modification time and the size of a state file.
pub(super) type StateVersion = (SystemTime, u64);

/// The error of saving or checking the state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// A file changed since the reload; the next reload gives another state to save.
    #[error("a list has changed since")]
    Changed,
    /// The saved files were changed or removed on disk.
    #[error("it was changed or removed on disk")]
    Lost,
    /// The state cannot be written, or is too large.
    #[error("{0}")]
    Failed(String),
}

impl LastGoodPlace {
    /// Returns the place for a configuration file: below `$STATE_DIRECTORY`, which systemd sets for a unit that has
    /// one; without it, for the configuration of the shipped unit, below the state directory of that; else beside the
    /// file.
    pub(crate) fn of(configuration: &Path) -> Self {
        Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1)).swap_remove(0)
    }

    /// Returns the possible places, the likeliest first.
    ///
    /// With a state directory there is one. Without it, a command does not know the state directory of the service, so
    /// the state may be beside the file, or below `of_unit`, the state directory of the shipped unit.
    fn places(configuration: &Path, state: Option<&Path>, of_unit: &Path) -> Vec<Self> {
        let absolute = std::path::absolute(configuration).unwrap_or_else(|_| configuration.to_owned());
        let beside = configuration.parent().unwrap_or(Path::new("")).join(BESIDE);
        let directories = match state {
            Some(state) => vec![state.join(BELOW)],
            None if absolute == Path::new(OF_UNIT.0) => vec![of_unit.join(BELOW), beside],
            None => vec![beside, of_unit.join(BELOW)],
        };
        let place = |directory| Self { directory, configuration: absolute.clone(), written: None, owner: None };
        directories.into_iter().map(place).collect()
    }

    /// Returns the possible places of a configuration file, for a command that does not have the environment of the
    /// service.
    fn searched(configuration: &Path) -> Vec<Self> {
        let mut places = Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1));
        // Root may read the state of a service that has a user of its own, to whom systemd gives the state directory.
        for place in places.iter_mut().filter(|place| place.directory.ends_with(BELOW) && geteuid().is_root()) {
            let above = place.directory.parent().and_then(|above| fs::metadata(above).ok());
            place.owner = above.map(|metadata| metadata.uid());
        }
        places
    }

    /// Reads the newest state of a configuration file, for a command, from every possible place.
    ///
    /// # Errors
    /// No place has a usable state: why, and where it was looked for.
    pub(crate) fn find(configuration: &Path) -> Result<Option<LastGoodState>, String> {
        Self::newest(&Self::searched(configuration))
    }

    /// Reads the record of the API's objects of a configuration file: the one that the service writes, or, for a command,
    /// the first that exists.
    pub(crate) fn objects(configuration: &Path, is_service: bool) -> ObjectRecord {
        let of_service = || vec![Self::of(configuration)];
        let places = if is_service { of_service() } else { Self::searched(configuration) };
        // The directory may be that of several configurations.
        let directory = |place: &Self| {
            let name = sha256(place.configuration.as_os_str().as_encoded_bytes());
            place.directory.join(format!("{OBJECTS}{}", &name[..16]))
        };
        let found = places.iter().find(|place| directory(place).exists()).or(places.first());
        let (directory, owner) = found.map_or_else(Default::default, |place| (directory(place), place.owner));
        ObjectRecord::read(directory, owner)
    }

    /// Reads the newest state of the configuration file from some places. Errors count in the first place alone, as the
    /// state in another one may be that of another service.
    fn newest(places: &[Self]) -> Result<Option<LastGoodState>, String> {
        let Some((first, others)) = places.split_first() else { return Ok(None) };
        let likeliest = first.read();
        let others = others.iter().filter_map(|place| place.read().ok().flatten());
        let newest = others.chain(likeliest.clone().ok().flatten()).max_by_key(|kept| kept.written);
        newest.map_or(likeliest, |kept| Ok(Some(kept)))
    }

    /// Returns the text that says where a command looks for the state of a configuration file.
    pub(crate) fn looked_in(configuration: &Path) -> String {
        let places = Self::places(configuration, state_directory().as_deref(), Path::new(OF_UNIT.1));
        let looked: Vec<String> = places.iter().map(|place| place.directory.display().to_string()).collect();
        let help = "; of a unit with another StateDirectory=, ask with STATE_DIRECTORY=/var/lib/NAME";
        format!("{}{}", looked.join(" or "), if places.len() > 1 { help } else { "" })
    }

    /// Returns whether a state belongs to the configuration file.
    fn is_of(&self, kept: &LastGoodState) -> bool {
        Path::new(&kept.content.configuration) == self.configuration
    }

    /// Returns the error that a state belongs to another configuration file.
    fn other(&self, kept: &LastGoodState) -> String {
        let path = self.directory.join(STATE);
        format!("{}: it is of another configuration file, {}", path.display(), kept.content.configuration)
    }

    /// Returns the modification time and the size of the state file; one of them changes with each write.
    pub(super) fn version(&self) -> Option<StateVersion> {
        let metadata = fs::metadata(self.directory.join(STATE)).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the state; `None` if there is none.
    ///
    /// # Errors
    /// The state cannot be read, is corrupt, or is of another version or configuration file.
    pub(crate) fn read(&self) -> Result<Option<LastGoodState>, String> {
        let kept = self.read_any()?;
        let other = kept.as_ref().filter(|kept| !self.is_of(kept)).map(|kept| self.other(kept));
        other.map_or(Ok(kept), Err)
    }

    /// Reads the state, whichever configuration file it belongs to; `None` if there is none.
    ///
    /// # Errors
    /// The state cannot be read, is corrupt, is of another version, or may be another user's.
    fn read_any(&self) -> Result<Option<LastGoodState>, String> {
        let path = self.directory.join(STATE);
        if let Some(why) = distrust(&self.directory, Some(STATE), self.owner) {
            return Err(why);
        }
        // The file is larger than its texts, as JSON escapes line ends and quotation marks.
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
        if hash != sha256(body) {
            return Err(wrong("it is broken: its checksum is another one"));
        }
        let content: Content = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let written = written.and_then(|time| Timestamp::try_from(time).ok());
        Ok(Some(LastGoodState { content, directory: self.directory.clone(), written }))
    }

    /// Compares the fingerprints of the saved files with those on disk.
    ///
    /// # Errors
    /// A file was changed or removed.
    pub(super) fn check(&self) -> Result<(), SaveError> {
        let Some(Written { files, .. }) = &self.written else { return Ok(()) };
        let is_same = files.keys().all(|name| self.is_as_written(name));
        if is_same { Ok(()) } else { Err(SaveError::Lost) }
    }

    /// Saves what is in force; returns whether a file had to be written. `config` is the text of the configuration file,
    /// and `root` the policies directory.
    ///
    /// # Errors
    /// The state is not saved, and the one saved before stays; or it is, with an older content of a list.
    pub(super) fn save(&mut self, config: &str, root: &Path, library: &Library) -> Result<bool, SaveError> {
        let failed = |what: &Path, why: &dyn std::fmt::Display| SaveError::Failed(format!("{}: {why}", what.display()));
        if let Some(why) = distrust(&self.directory, None, None) {
            return Err(SaveError::Failed(why));
        }
        let mut content = self.content(config, root, library)?;
        let saved = self.saved_lists();
        let mut older = None;
        let mut lists = BTreeMap::new();
        let mut octets = 0_u64;
        for path in library.list_paths().filter(|path| library.uses_list(path)) {
            let key = key(root, path).ok_or_else(|| failed(path, &NOT_UTF8))?;
            let on_disk = regular_file::read_text(path, MAX_FILE).ok().filter(|text| library.has_list(path, text));
            let (path, text) = match on_disk {
                Some(text) => (path.to_owned(), text),
                None if library.holds_list_back(path) => {
                    let kept = saved.get(&key).map(|hash| self.directory.join(hash));
                    let text = kept.as_ref().and_then(|kept| regular_file::read_text(kept, MAX_FILE).ok());
                    let (Some(kept), Some(text)) = (kept, text) else {
                        return Err(failed(path, &"the list is bad on disk, and its content in force was never kept"));
                    };
                    if !library.has_list(path, &text) {
                        let why = "the list is bad on disk, and an older content of it is kept than is in force";
                        older = Some(failed(path, &why));
                    }
                    (kept, text)
                }
                None => return Err(SaveError::Changed),
            };
            octets = octets.saturating_add(text.len().try_into().unwrap_or(u64::MAX));
            if octets > MAX_LAST_GOOD_LISTS {
                let why = format!("the lists have more than {} MiB, the most that is kept", MAX_LAST_GOOD_LISTS >> 20);
                return Err(SaveError::Failed(why));
            }
            let hash = sha256(text.as_bytes());
            content.lists.insert(key, hash.clone());
            lists.insert(hash, (path, text.len()));
        }
        // The state is never in memory as a whole: it may be as large as all policy files, and is made beside them.
        let mut hasher = BufWriter::new(HashWriter::default());
        serde_json::to_writer(&mut hasher, &content).map_err(|error| failed(&self.directory, &error))?;
        let hasher = hasher.into_inner().map_err(|error| failed(&self.directory, &error))?;
        let head = format!("{SCHEMA}{}", hasher.finish());
        let path = self.directory.join(STATE);
        if self.written.as_ref().is_some_and(|written| written.head == head) && self.check().is_ok() {
            return older.map_or(Ok(false), Err);
        }
        if !self.directory.is_dir() {
            // For the owner alone: the state has copies of private policy files.
            DirBuilder::new().mode(0o700).create(&self.directory).map_err(|error| failed(&self.directory, &error))?;
        }
        // Lists are written before the state, so that a state never names a list that does not exist.
        let mut is_written = false;
        let mut files = BTreeMap::new();
        for (hash, (path, length)) in &lists {
            let kept = self.directory.join(hash);
            let found = self.found(hash);
            // A copy that an earlier process wrote, or that was changed since, is read to compare its hash.
            let is_there = found.is_some_and(|found| found.octets == *length as u64)
                && (self.is_as_written(hash)
                    || regular_file::read(&kept, MAX_FILE).is_ok_and(|text| sha256(&text) == *hash));
            let written = if let Some(found) = found.filter(|_| is_there) {
                found
            } else {
                let text = regular_file::read(path, MAX_FILE).map_err(|_| SaveError::Changed)?;
                if sha256(&text) != *hash {
                    return Err(SaveError::Changed);
                }
                is_written = true;
                self.write(hash, |file| file.write_all(&text)).map_err(|error| failed(&kept, &error))?
            };
            files.insert(hash.clone(), written);
        }
        let found = self.found(STATE);
        // A file of another user is replaced, as it would not be used.
        let is_ours = distrust(&self.directory, Some(STATE), None).is_none();
        let is_there = is_ours && is_whole(&path, &head).unwrap_or(false);
        let written = if let Some(found) = found.filter(|_| is_there) {
            found
        } else {
            is_written = true;
            let write = |file: &mut BufWriter<File>| {
                file.write_all(head.as_bytes())?;
                file.write_all(b"\n")?;
                Ok(serde_json::to_writer(file, &content)?)
            };
            self.write(STATE, write).map_err(|error| failed(&path, &error))?
        };
        files.insert(STATE.to_owned(), written);
        self.remove_others(&lists.into_keys().collect());
        self.written = Some(Written { head, files, lists: content.lists });
        older.map_or(Ok(is_written), Err)
    }

    /// Returns the lists of the state that was saved last, by this process or by one before.
    fn saved_lists(&self) -> BTreeMap<String, String> {
        match &self.written {
            Some(written) => written.lists.clone(),
            None => self.read().ok().flatten().map(|kept| kept.content.lists).unwrap_or_default(),
        }
    }

    /// Returns the fingerprint of a saved file; `None` if it does not exist.
    fn found(&self, name: &str) -> Option<FileFingerprint> {
        fs::metadata(self.directory.join(name)).ok().map(|metadata| FileFingerprint::of(&metadata))
    }

    /// Returns whether a file has the fingerprint that it had when it was written or read last.
    fn is_as_written(&self, name: &str) -> bool {
        let written = self.written.as_ref().and_then(|written| written.files.get(name));
        written.is_some() && written == self.found(name).as_ref()
    }

    /// Returns the content of the state file, without the lists.
    fn content(&self, config: &str, root: &Path, library: &Library) -> Result<Content, SaveError> {
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let not_utf8 = |path: &Path| SaveError::Failed(format!("{}: {NOT_UTF8}", path.display()));
        let mut content = Content {
            configuration: text(&self.configuration).ok_or_else(|| not_utf8(&self.configuration))?,
            config: config.to_owned(),
            files: BTreeMap::new(),
            private: BTreeSet::new(),
            lists: BTreeMap::new(),
        };
        let mut octets = config.len();
        for (path, source) in library.texts_in_force().filter(|(path, _)| object_of(root, path).is_none()) {
            let below = path.strip_prefix(root).unwrap_or(path);
            let below = text(below).ok_or_else(|| not_utf8(path))?;
            octets += source.text().len();
            if source.is_private() {
                content.private.insert(below.clone());
            }
            content.files.insert(below, Arc::clone(source.text()));
        }
        if octets as u64 > MAX_LAST_GOOD {
            let why = format!("the policy files have more than {} MiB, the most that is kept", MAX_LAST_GOOD >> 20);
            return Err(SaveError::Failed(why));
        }
        Ok(content)
    }

    /// Writes a file under a temporary name and renames it; returns its fingerprint.
    fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<FileFingerprint> {
        let aside = self.directory.join(ASIDE);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        let mut buffered = BufWriter::new(file);
        let written = write(&mut buffered).and_then(|()| buffered.flush()).and_then(|()| buffered.get_ref().sync_all());
        if let Err(error) = written {
            // A full disk may have taken a part of the file.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        let written = FileFingerprint::of(&buffered.get_ref().metadata()?);
        fs::rename(&aside, self.directory.join(name))?;
        super::atomic_write::sync(&self.directory)?;
        Ok(written)
    }

    /// Removes the lists that the state does not name; one that cannot be removed does no harm.
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

/// A writer that only computes the SHA-256 of what it is given.
struct HashWriter(Context);

impl Default for HashWriter {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl HashWriter {
    /// Returns the hash in hexadecimal digits.
    fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

impl io::Write for HashWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.update(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether a state file has this first line, and the content whose hash the line has.
fn is_whole(path: &Path, head: &str) -> io::Result<bool> {
    let (file, _) = regular_file::open(path)?;
    let mut file = BufReader::new(file.take(MAX_LAST_GOOD * 3));
    let mut line = Vec::new();
    file.by_ref().take(head.len() as u64 + 1).read_until(b'\n', &mut line)?;
    let mut hasher = HashWriter::default();
    io::copy(&mut file, &mut hasher)?;
    Ok(line.strip_suffix(b"\n") == Some(head.as_bytes()) && head.strip_prefix(SCHEMA) == Some(&*hasher.finish()))
}

impl LastGoodState {
    /// Returns the time at which the state was written (RFC 3339, UTC).
    pub(crate) fn written(&self) -> String {
        self.written.map_or_else(|| "an unknown time".to_owned(), |written| written.to_string())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn config(&self) -> &str {
        &self.content.config
    }

    /// Returns the policy files of the state as if they were below `root`, with the API's objects of `now`.
    pub(super) fn tree(&self, root: &Path, now: &Tree) -> Tree {
        let kept = self.content.files.iter().map(|(below, text)| (root.join(below), Ok(Arc::clone(text))));
        let objects = now.files.iter().filter(|(path, _)| object_of(&now.root, path).is_some());
        let objects = objects.map(|(path, text)| (path.to_path_buf(), text.clone()));
        let files: Texts = kept.chain(objects).collect();
        let private = Arc::new(self.content.private.iter().map(|below| root.join(below)).collect());
        Tree { root: root.to_owned(), files, private, held: Arc::clone(&now.held), ..Tree::default() }
    }

    /// Reads a list of the state.
    ///
    /// # Errors
    /// The list is not in the state, or is corrupt.
    pub(super) fn read_list(&self, root: &Path, path: &Path) -> Result<ListText, String> {
        let hash =
            key(root, path).and_then(|key| self.content.lists.get(&key)).ok_or("it is not in the last good state")?;
        let kept = self.directory.join(hash);
        let text = regular_file::read_text(&kept, MAX_FILE).map_err(|error| format!("{}: {error}", kept.display()))?;
        if sha256(text.as_bytes()) != *hash {
            return Err(format!("{}: it is broken: its checksum is another one", kept.display()));
        }
        Ok(ListText::Text(text))
    }
}

/// Returns the state directory that systemd gave this process: the first one of `$STATE_DIRECTORY`, which separates
/// them by colons (systemd.exec(5)).
fn state_directory() -> Option<PathBuf> {
    let all = PathBuf::from(std::env::var_os("STATE_DIRECTORY").filter(|state| !state.is_empty())?);
    Some(all.to_str().and_then(|all| all.split(':').next()).map_or_else(|| all.clone(), PathBuf::from))
}

/// Returns the key of a list in the state: its path below the policies directory, or else its absolute path.
pub(super) fn key(root: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(root).ok().map(Path::to_owned);
    below.or_else(|| std::path::absolute(path).ok())?.to_str().map(str::to_owned)
}

/// The beginning of the first line; the number is the version of the format.
const SCHEMA: &str = "hostgate-last-good 1 ";
/// The beginning of the name of the directory that has the record of the API's objects.
const OBJECTS: &str = "objects-";
/// The name of the state file.
const STATE: &str = "state";
/// The temporary name of a file that is being written.
const ASIDE: &str = "new";
/// The directory below `$STATE_DIRECTORY`.
const BELOW: &str = "last-good";
/// The configuration file of the shipped unit, and its state directory.
const OF_UNIT: (&str, &str) = ("/etc/hostgate/hostgate.toml", "/var/lib/hostgate");
/// The directory beside the configuration file.
const BESIDE: &str = ".hostgate-last-good";
/// The reason for which a file cannot be saved: JSON strings are UTF-8.
const NOT_UTF8: &str = "the path is not UTF-8";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Bindings, MayBeUnchanged};

    /// Returns a policies directory with a list, and the library compiled from it.
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
    fn command_finds_the_newest_state_of_its_configuration_without_the_environment_of_the_unit() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (configuration, unit) = (root.join("h.toml"), root.join("unit"));
        fs::create_dir(&unit).unwrap();
        let places = || LastGoodPlace::places(&configuration, None, &unit);
        assert!(LastGoodPlace::newest(&places()).unwrap().is_none());
        let (tree, library) = loaded(root, "a.test\n");
        // A state of another service is ignored.
        let other = LastGoodPlace { configuration: root.join("other.toml"), ..places().swap_remove(1) };
        other.clone().save("log = 'other'", &tree.root, &library).unwrap();
        assert!(LastGoodPlace::newest(&places()).unwrap().is_none());
        let with = LastGoodPlace::places(&configuration, Some(&unit), Path::new("/none"));
        assert!(LastGoodPlace::newest(&with).unwrap_err().contains("another configuration file"));
        for (place, text) in [(1, "log = 'unit'"), (0, "log = 'beside'"), (1, "log = 'newer'")] {
            let before = SystemTime::now();
            places().swap_remove(place).save(text, &tree.root, &library).unwrap();
            let state = places()[place].directory.join(STATE);
            let later = before + std::time::Duration::from_secs(if text.contains("newer") { 20 } else { 10 });
            File::options().write(true).open(&state).unwrap().set_modified(later).unwrap();
            let found = LastGoodPlace::newest(&places()).unwrap().unwrap();
            assert_eq!((found.config(), found.directory()), (text, &*places()[place].directory));
        }
        assert_eq!(LastGoodPlace::places(Path::new(OF_UNIT.0), None, &unit)[0].directory, unit.join(BELOW));
    }

    #[test]
    fn saved_state_is_read_back_and_a_corrupt_one_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut place = LastGoodPlace {
            directory: root.join("kept"),
            configuration: root.join("h.toml"),
            written: None,
            owner: None,
        };
        assert!(place.read().unwrap().is_none());
        let (tree, library) = loaded(root, "a.test\n");
        assert!(place.save("log = 'info'", root, &library).unwrap());
        assert!(!place.save("log = 'info'", root, &library).unwrap(), "the same is not written again");
        let kept = place.read().unwrap().unwrap();
        assert_eq!(kept.config(), "log = 'info'");
        // In another directory, and without the API's objects, except those that exist now.
        let there = kept.tree(Path::new("q"), &Tree::default());
        let paths: Vec<_> = there.files.iter().map(|(path, _)| path.to_path_buf()).collect();
        assert_eq!(paths, [Path::new("q/p.toml")]);
        assert_eq!(kept.tree(root, &tree).files.iter().len(), 2);
        assert_eq!(kept.read_list(root, &root.join("list.txt")), Ok(ListText::Text("a.test\n".to_owned())));
        assert!(kept.read_list(root, &root.join("other.txt")).is_err());
        // A list that changed since the reload is not saved as if it were in force.
        fs::write(root.join("list.txt"), "b.test\n").unwrap();
        assert!(matches!(place.save("log = 'warn'", root, &library), Err(SaveError::Changed)));
        let (_, library) = loaded(root, "b.test\n");
        assert!(place.save("log = 'info'", root, &library).unwrap());
        assert_eq!(fs::read_dir(root.join("kept")).unwrap().count(), 2, "the old list is gone");
        let other = LastGoodPlace { configuration: root.join("other.toml"), ..place.clone() };
        assert!(other.read().unwrap_err().contains("another configuration file"));
        let state = root.join("kept/state");
        let text = fs::read_to_string(&state).unwrap();
        for (broken, expected) in [
            (text.replacen(" 1 ", " 2 ", 1), "another version"),
            (text.replace("info", "warn"), "checksum"),
            (text[..text.len() - 1].to_owned(), "checksum"),
            (String::new(), "another version"),
            ("\0".repeat(100), "another version"),
        ] {
            fs::write(&state, &broken).unwrap();
            let error = place.read().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
