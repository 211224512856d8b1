//! The read of the policies directory: all of it, or only the files that events name.
//!
//! A walk reads every `*.toml`, follows symlinks, and gives up on what is too large, without losing the rest. Files in
//! the same state as before are not opened. If no file has two paths, an event at one path says all, and
//! [`Directory::read`] reads only the files that events name; with a symlink or a hard link anywhere, it walks the
//! tree.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::files::{FileVersion, FollowedPaths, ObservedState, Text, UnfinishedFiles, is_temporary, read_unless};
use super::held_objects::HeldObjects;
use super::object_folder::ObjectFolder;
use super::origins::{Origins, may_have_policy_file};
use super::trusted::{Trusted, Use};
use super::watch::Changes;
use super::weight::MemoryBudget;
use crate::bounds::{MAX_DEPTH, MAX_ENTRIES};
use crate::document::Diagnostic;
use crate::policy::{FilePath, OBJECT_FOLDER, OrderedMap, Texts, Tree, object_of};
use crate::util::regular_file::is_in_kernel_tree;

/// The policies directory as it was last read, with what a partial read needs.
#[derive(Default)]
pub(crate) struct Directory {
    /// The policy files, as [`crate::policy`] compiles them.
    pub(super) tree: Tree,
    /// The directories to watch: those of the tree, and those that symlinks in it lead to.
    pub(super) followed: FollowedPaths,
    /// The state of each file when it was read. A path is shared with the tree, and with all that is made of it.
    observed: OrderedMap<FilePath, ObservedState>,
    /// The states of the directories whose entries were read, and of dangling symlinks.
    folder_states: BTreeMap<PathBuf, DirectoryState>,
    /// The files and directories that could not be read because of a temporary error.
    temporary: BTreeSet<PathBuf>,
    /// The directories whose files may be quoted in log, status and API.
    trusted: Trusted,
    /// The directories that have too many entries, each with the time at which that was found.
    huge: HashMap<PathBuf, Instant>,
    /// The paths of a tree without links; `None` if a file may have two names, so that a partial read could miss a
    /// change.
    unaliased: Option<UnaliasedTree>,
    /// The folder of the API's objects as it was last read.
    object_folder: ObjectFolder,
    /// The directories that the files in force were read from.
    origins: Origins,
    /// The objects of the API that are gone since the last run.
    held: HeldObjects,
}

/// The state of a directory when its entries were read, or of a dangling symlink when it was found.
#[derive(Clone, Copy)]
pub(super) struct DirectoryState {
    /// The device, inode, size and times, as a hash.
    observed: ObservedState,
    /// The device and inode; `None` if the path led to nothing.
    id: Option<(u64, u64)>,
}

impl DirectoryState {
    fn new(version: Option<FileVersion>) -> Self {
        Self { observed: ObservedState::of_directory(version), id: version.map(FileVersion::id) }
    }

    /// Returns whether a directory whose version is `now` may have other entries than were read.
    pub(super) fn is_changed(self, now: Option<FileVersion>) -> bool {
        self.observed.is_changed(now)
    }

    /// Returns whether `version` is one of the same directory (device and inode).
    pub(super) fn is_of(self, version: FileVersion) -> bool {
        self.id == Some(version.id())
    }
}

/// A tree in which every file has one path, so that an event at that path names all that changed.
struct UnaliasedTree {
    /// The absolute path of the policies directory, which has no symlink in it.
    root: PathBuf,
    /// The directories of the tree, by the absolute paths that events have.
    directories: HashMap<PathBuf, PathBuf>,
}

impl Directory {
    /// Reads every `*.toml` at any depth below `root`. Symlinks are followed; names that begin with a dot are skipped.
    ///
    /// Files in the same state as before are not read again. If `changes` names files, nothing else is looked at,
    /// provided the tree has no links. A text that is the same stays the same allocation, so that what was made of it
    /// stays shared.
    ///
    /// # Errors
    /// `root` itself cannot be read. Its files stay known then: unreadable is not empty.
    pub(crate) fn read(
        &mut self,
        root: &Path,
        changes: &Changes,
        (unfinished, budget): (&UnfinishedFiles, &MemoryBudget),
        trusted: &Trusted,
    ) -> io::Result<()> {
        // Other trusted directories change which files may be used or quoted, so all of them are read again.
        let is_same_rule = self.trusted.is_named_as(trusted);
        if !is_same_rule {
            self.observed = OrderedMap::new();
        }
        self.trusted.clone_from(trusted);
        if let Changes::Files(paths) = changes
            && is_same_rule
            && self.tree.root == root
            && let Some(changed) = self.read_changed(paths, unfinished, budget)
        {
            self.tree.changed = Some(changed);
            return Ok(());
        }
        // A walk that fails must not leave paths behind that a partial read would trust.
        self.unaliased = None;
        let found = WalkResult::with_capacity(self.tree.files.iter().len());
        let real = fs::canonicalize(root)?;
        let object_folder = ObjectFolder::of(root);
        let mut walk = Walk {
            before: self,
            object_folder: (&object_folder, self.object_folder.fault(root, self.objects_known())),
            unfinished,
            budget,
            entries: 0,
            root: real,
            shown: root,
            depth: 0,
            is_in_other: false,
            visited: VisitedDirectories::default(),
            links: Vec::new(),
            found,
        };
        walk.read_all(root)?;
        if !walk.found.unreadable.contains_key(root) {
            walk.report_object_folder_fault();
        }
        walk.log_replaced();
        let WalkResult {
            files,
            private,
            unreadable,
            huge,
            followed,
            observed,
            folder_states,
            is_unaliased,
            replaced: _,
        } = walk.found;
        self.huge = huge;
        let is_temporary = |(path, state): &(&Path, ObservedState)| state.is_temporary().then(|| path.to_path_buf());
        let all = observed
            .iter()
            .map(|(path, state)| (&**path, *state))
            .chain(folder_states.iter().map(|(path, directory_state)| (path.as_path(), directory_state.observed)));
        self.temporary = all.filter_map(|entry| is_temporary(&entry)).collect();
        self.unaliased =
            is_unaliased.then(|| UnaliasedTree::of(root, &followed)).flatten().filter(|_| unreadable.is_empty());
        let mut files: Texts = files.into_iter().collect();
        self.held.add_to(&mut files);
        if !unreadable.keys().any(|folder| object_folder.starts_with(folder)) {
            self.object_folder.note_read(root);
        }
        let ids = folder_states.iter().filter_map(|(path, directory_state)| Some((path.clone(), directory_state.id?)));
        self.origins.update(&self.tree.files, ids, &unreadable);
        if self.tree.root == root && self.tree.unreadable.is_empty() && unreadable.is_empty() {
            // Only what differs is replaced, so that the compiled policies of the other files stay in use.
            self.tree.changed = Some(self.tree.files.update_to(&files));
            self.tree.private = Arc::new(private);
        } else {
            let private = Arc::new(private);
            self.tree = Tree { root: root.to_owned(), files, private, unreadable, ..Tree::default() };
        }
        (self.followed, self.observed, self.folder_states) = (followed, observed.into_iter().collect(), folder_states);
        self.held.note_objects(&self.tree);
        Ok(())
    }

    /// Returns the paths of the policy files, for the comparison of each with its state on disk.
    pub(super) fn compared(&self) -> impl Iterator<Item = Arc<Path>> {
        self.observed.iter().map(|(path, _)| Arc::clone(&path.0))
    }

    /// Returns the state that a policy file was in when it was read.
    pub(super) fn observed_at(&self, path: &Path) -> Option<ObservedState> {
        self.observed.get(path.as_os_str()).copied()
    }

    /// Returns the paths of the directories that were read, and of dangling symlinks.
    pub(super) fn folder_states(&self) -> impl Iterator<Item = PathBuf> {
        self.folder_states.keys().cloned()
    }

    /// Returns the state that a directory was in when its entries were read, or a dangling symlink.
    pub(super) fn directory_state(&self, path: &Path) -> Option<DirectoryState> {
        self.folder_states.get(path).copied()
    }

    /// Records a newer version of a directory whose entries were found to be the same.
    pub(super) fn note_directory(&mut self, path: &Path, version: Option<FileVersion>) {
        if let Some(directory_state) = self.folder_states.get_mut(path) {
            *directory_state = DirectoryState::new(version);
        }
    }

    /// Returns why the folder of the API's objects cannot be written: something else is at its path, or at that of the
    /// policies directory.
    pub(super) fn object_folder_fault(&self, root: &Path) -> Option<String> {
        let of_root = self.tree.unreadable.get(root).map(|why| format!("the policies directory: {why}"));
        of_root.or_else(|| self.object_folder.fault(root, self.objects_known()))
    }

    /// Holds the addresses of objects of the last run whose files are bad or gone: see [`HeldObjects::hold`].
    pub(super) fn hold(&mut self, root: &Path, objects: &BTreeMap<String, Vec<IpNet>>) {
        self.held.hold(&mut self.tree, root, objects);
    }

    /// Returns the folder of the API's objects and the error that it has none of those of the last run, if so.
    pub(super) fn lost_objects(&self) -> Option<(PathBuf, Diagnostic)> {
        self.held.lost_objects(&self.tree)
    }

    /// Returns the paths of the policy files in force, without those that were gone at the start.
    fn objects_known(&self) -> impl Iterator<Item = &Path> {
        self.origins.known(&self.tree.files).filter(|path| !self.held.is_gone(path))
    }

    /// Returns whether the policies directory was replaced by another one since it was read.
    pub(super) fn is_replaced(&self, root: &Path) -> bool {
        self.tree.root == root && !self.tree.unreadable.contains_key(root) && self.origins.is_other(root)
    }

    /// Records that a start took the files of the last good state. If the policies directory has none, they stay in force
    /// until it has some.
    pub(super) fn note_last_good(&mut self, root: &Path, kept: &Texts) {
        if self.tree.files.iter().any(|(path, _)| object_of(root, path).is_none()) {
            return;
        }
        self.origins.note_kept(root, kept);
        let fault = self.origins.fault((root, root), &Texts::default());
        self.tree.unreadable.extend(fault.map(|why| (root.to_owned(), why)));
    }

    /// Records that a file was written into the folder of the API's objects, which the write may have created.
    pub(super) fn note_object_written(&mut self, root: &Path, path: &Path) {
        self.held.forget(path);
        if !self.object_folder.is_same(root) {
            self.object_folder.note_read(root);
        }
    }

    /// Returns the files and directories that could not be read because of a temporary error.
    pub(super) fn temporary(&self) -> &BTreeSet<PathBuf> {
        &self.temporary
    }

    /// Reads the policy files among `paths` and returns their paths; `None` if something else may have changed, so that
    /// a walk of the whole tree is needed.
    fn read_changed(
        &mut self,
        paths: &HashSet<PathBuf>,
        unfinished: &UnfinishedFiles,
        budget: &MemoryBudget,
    ) -> Option<BTreeSet<PathBuf>> {
        let unaliased = self.unaliased.as_ref().filter(|_| self.object_folder.is_same(&self.tree.root))?;
        let mut changed = BTreeSet::new();
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return None };
            let Some(directory) = unaliased.directories.get(parent) else {
                // A path beside the tree does not matter, unless the root is at or below it.
                if unaliased.root.starts_with(path) {
                    return None;
                }
                continue;
            };
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let shown = directory.join(name);
            let is_toml = shown.extension().is_some_and(|extension| extension == "toml");
            match fs::symlink_metadata(&shown) {
                Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => {}
                // A removed directory took its files along, which this partial read would not see; nor would it see that
                // another directory is in place of the file's.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && !unaliased.directories.contains_key(path)
                        && !self.origins.is_other(directory) => {}
                _ => return None,
            }
            if is_toml {
                changed.insert(shown);
            }
        }
        for path in &changed {
            if self.held.is_gone(path) {
                return None;
            }
            let mut read = read_unless(path, None, unfinished, (&self.trusted, Use::Policies, budget));
            // A private file lies outside of the trusted directories: the path has become a symlink since.
            if read.is_private == Some(true) {
                return None;
            }
            let known = self.tree.files.get_key_value(path.as_path());
            let known = known.map(|(path, text)| (Arc::clone(path), text.clone().ok()));
            read.weigh_policies(known.as_ref().and_then(|(_, text)| text.as_ref()), budget);
            self.temporary.remove(path);
            if read.observed.is_temporary() {
                self.temporary.insert(path.clone());
            }
            if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                self.tree.files.remove(path.as_path());
                self.observed.remove(path.as_os_str());
                self.temporary.remove(path);
                continue;
            }
            let (path, text) = known.unwrap_or_else(|| (path.as_path().into(), None));
            let text = read.text_or(text);
            self.observed.insert(FilePath(Arc::clone(&path)), read.observed);
            self.tree.files.insert(path, text);
        }
        Some(changed)
    }
}

impl UnaliasedTree {
    /// Returns the paths of a tree without links; `None` if a symlink leads to its root.
    fn of(root: &Path, followed: &FollowedPaths) -> Option<Self> {
        // `notify` makes the paths of its events absolute in the same way.
        let here = std::env::current_dir().ok()?;
        let absolute = here.join(root);
        if fs::canonicalize(root).ok()? != absolute {
            return None;
        }
        let directories = followed.directories.iter().map(|path| (here.join(path), path.clone())).collect();
        Some(Self { root: absolute, directories })
    }
}

/// A walk through the policies directory.
struct Walk<'w> {
    /// The directory as it was read before.
    before: &'w Directory,
    /// The path of the folder of the API's objects, and why something else is there, if so.
    object_folder: (&'w Path, Option<String>),
    /// The files that are open for writing, which are not read.
    unfinished: &'w UnfinishedFiles,
    /// The memory that the files may take.
    budget: &'w MemoryBudget,
    /// The number of directory entries so far, at most [`MAX_ENTRIES`].
    entries: usize,
    /// The policies directory, with symlinks resolved.
    root: PathBuf,
    /// The policies directory, as the configuration names it.
    shown: &'w Path,
    /// True if a directory above the current one is another one than was read before; that directory is judged as a whole.
    is_in_other: bool,
    /// The number of directories from the root to the current one, at most [`MAX_DEPTH`].
    depth: usize,
    /// The directories that were read, so that none is read under two paths.
    visited: VisitedDirectories,
    /// The symlinks to directories that are still to be followed, each with its depth.
    links: Vec<(usize, PathBuf)>,
    found: WalkResult,
}

/// The result of a walk; each field becomes that of the same name in [`Directory`] or [`Tree`].
struct WalkResult {
    files: Vec<(Arc<Path>, Text)>,
    private: BTreeSet<PathBuf>,
    unreadable: BTreeMap<PathBuf, String>,
    huge: HashMap<PathBuf, Instant>,
    followed: FollowedPaths,
    observed: Vec<(FilePath, ObservedState)>,
    folder_states: BTreeMap<PathBuf, DirectoryState>,
    /// Whether no symlink and no hard link was found.
    is_unaliased: bool,
    /// The directories that were read and are not those that were read before.
    replaced: Vec<PathBuf>,
}

impl WalkResult {
    /// Makes an empty result with capacity for as many files as the last walk found.
    fn with_capacity(files: usize) -> Self {
        Self {
            files: Vec::with_capacity(files),
            private: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            huge: HashMap::new(),
            followed: FollowedPaths::default(),
            observed: Vec::with_capacity(files),
            folder_states: BTreeMap::new(),
            // Until the first symlink or hard link is found.
            is_unaliased: true,
            replaced: Vec::new(),
        }
    }
}

/// The directories that a walk has read, by device and inode, in order, so that a part of the walk can be undone.
#[derive(Default)]
struct VisitedDirectories {
    all: HashSet<(u64, u64)>,
    order: Vec<(u64, u64)>,
}

impl VisitedDirectories {
    fn contains(&self, id: &(u64, u64)) -> bool {
        self.all.contains(id)
    }

    fn insert(&mut self, id: (u64, u64)) {
        if self.all.insert(id) {
            self.order.push(id);
        }
    }

    fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets all but the first `len` directories.
    fn truncate(&mut self, len: usize) {
        for id in self.order.drain(len..) {
            self.all.remove(&id);
        }
    }
}

/// The position of a walk, to which it returns if a directory cannot be read to its end.
struct Checkpoint {
    entries: usize,
    depth: usize,
    visited: usize,
    files: usize,
    private: usize,
    links: usize,
}

/// The time for which a directory with too many entries is not read again: reading that many takes long.
const HUGE_PAUSE: Duration = Duration::from_mins(1);

/// The most entries looked at behind links, to tell whether another directory has policy files.
const MAX_PROBED: usize = 1_000;

/// Returns the error for more than [`MAX_ENTRIES`] entries.
fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, format!("more than {MAX_ENTRIES} files and directories"))
}

/// Returns whether a symlink leads to a directory above the policies directory, which would be read as a whole.
fn leads_above(path: &Path, root: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real != *root && root.starts_with(real))
}

impl Walk<'_> {
    /// Reads the entries of one directory, its files, and its subdirectories; symlinks to directories are left for
    /// later.
    fn read_directory(&mut self, directory: &Path) -> io::Result<()> {
        let metadata = fs::metadata(directory)?;
        let id = (metadata.dev(), metadata.ino());
        if self.visited.contains(&id) {
            return Err(io::Error::other(
                "it leads to a directory that is read under another name: remove the link, what is there is read once",
            ));
        }
        let entries = fs::read_dir(directory)?;
        self.found.folder_states.insert(directory.to_owned(), DirectoryState::new(Some(FileVersion::of(&metadata))));
        self.visited.insert(id);
        self.found.followed.add_directory(directory);
        self.depth += 1;
        let mut directories = Vec::new();
        for entry in entries {
            let entry = entry?;
            self.entries += 1;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let is_toml = path.extension().is_some_and(|extension| extension == "toml");
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                self.found.followed.add_file(&path);
                self.found.is_unaliased = false;
            }
            // A dangling `*.toml` symlink is a file that cannot be read, not a missing one.
            let is_directory = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
            if self.entries > MAX_ENTRIES {
                return Err(too_many());
            }
            if is_toml {
                self.read_file(path);
            } else if kind.is_symlink() && !is_directory {
                self.found.folder_states.insert(path.clone(), DirectoryState::new(FileVersion::at(&path)));
                self.note_lost_target(path);
            } else if is_directory && self.depth < MAX_DEPTH {
                if kind.is_symlink() {
                    self.links.push((self.depth, path));
                } else {
                    directories.push(path);
                }
            }
        }
        for path in directories {
            self.read_below(path, false)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the tree, and then the directories that symlinks in it lead to, so that a directory is known by its own
    /// path if it has one in the tree.
    fn read_all(&mut self, root: &Path) -> io::Result<()> {
        let before = self.checkpoint();
        if let Some(fault) = self.read_or_fault(root)? {
            self.roll_back_to(&before);
            self.found.unreadable.insert(root.to_owned(), fault);
            return Ok(());
        }
        let mut next = 0;
        // A directory behind a symlink may have symlinks of its own, which are appended while the list is walked.
        while let Some((depth, path)) = self.links.get(next).cloned() {
            next += 1;
            self.depth = depth;
            self.read_below(path, true)?;
        }
        Ok(())
    }

    /// Reads a directory as [`Walk::read_directory`] does. Returns why its content does not count: it is another directory
    /// than before, and has no policy file.
    fn read_or_fault(&mut self, directory: &Path) -> io::Result<Option<String>> {
        let before = self.checkpoint();
        let origins = &self.before.origins;
        let is_other = !self.is_in_other && origins.may_hide(self.shown, directory);
        self.is_in_other |= is_other;
        let read = self.read_directory(directory);
        self.is_in_other &= !is_other;
        read?;
        if !is_other {
            return Ok(None);
        }
        let files = &self.found.files[before.files.min(self.found.files.len())..];
        let has_policy_file = files.iter().any(|(path, _)| object_of(self.shown, path).is_none());
        // A link to a directory is read later, and counts as its content. The API's folder has a rule of its own.
        let objects = self.shown.join(OBJECT_FOLDER);
        let mut left = MAX_PROBED;
        let mut links = self.links[before.links.min(self.links.len())..].iter().filter(|(_, path)| *path != objects);
        let is_replacement = has_policy_file || links.any(|(_, path)| may_have_policy_file(path, &mut left));
        if is_replacement {
            if origins.has(directory) {
                self.found.replaced.push(directory.to_owned());
            }
            return Ok(None);
        }
        Ok(origins.fault((self.shown, directory), &self.before.tree.files))
    }

    /// Logs the directories in place of which another one was read that does not have all of their policy files.
    fn log_replaced(&self) {
        if self.found.replaced.is_empty() {
            return;
        }
        let found: HashSet<&Path> = self.found.files.iter().map(|(path, _)| &**path).collect();
        let known = || self.before.origins.known(&self.before.tree.files);
        for path in &self.found.replaced {
            let is_gone = |file: &&Path| file.starts_with(path) && !found.contains(file);
            let removed = known().filter(is_gone).count();
            if removed > 0 {
                let path = path.display();
                tracing::warn!(%path, removed, "another directory is in place of this one; files it does not have are removed");
            }
        }
    }

    /// Reads a directory below another one.
    ///
    /// A directory that cannot be read to its end is listed as unreadable, and nothing of it is taken; the others are
    /// read all the same. A tree with too many entries is given up from its folder right below the root, or from the
    /// link that led to it.
    fn read_below(&mut self, path: PathBuf, is_link: bool) -> io::Result<()> {
        let before = self.checkpoint();
        // The directories below are collected apart, so that none of them is watched if the tree is given up.
        let is_whole = is_link || self.depth == 1;
        let followed = if is_whole { std::mem::take(&mut self.found.followed) } else { FollowedPaths::default() };
        let is_huge = |walk: &Self| walk.before.huge.get(&path).is_some_and(|since| since.elapsed() < HUGE_PAUSE);
        let fault = self.object_folder.1.as_ref().filter(|_| path == self.object_folder.0);
        let read = if let Some(fault) = fault {
            Err(io::Error::other(fault.clone()))
        } else if is_link && leads_above(&path, &self.root) {
            Err(io::Error::other("it is a link to a directory above the policies directory: remove it"))
        } else if is_link && self.leads_to_kernel(&path) {
            Err(io::Error::other("it is a link to a tree of the kernel (/proc, /sys, /dev): remove it"))
        } else if is_huge(self) {
            Err(too_many())
        } else {
            self.read_or_fault(&path).and_then(|fault| fault.map_or(Ok(()), |why| Err(io::Error::other(why))))
        };
        if is_whole {
            let below = std::mem::replace(&mut self.found.followed, followed);
            if read.is_ok() {
                self.found.followed.directories.extend(below.directories);
                self.found.followed.names.extend(below.names);
            } else {
                self.found.followed.add_directory(&path);
            }
        }
        let Err(error) = read else { return Ok(()) };
        self.roll_back_to(&before);
        let mut directory_state = DirectoryState::new(FileVersion::at(&path));
        if is_temporary(&error) {
            directory_state.observed = directory_state.observed.temporary();
        }
        self.found.folder_states.insert(path.clone(), directory_state);
        if error.kind() == io::ErrorKind::QuotaExceeded {
            if !is_whole {
                return Err(error);
            }
            let since = self.before.huge.get(&path).copied().filter(|since| since.elapsed() < HUGE_PAUSE);
            self.found.huge.insert(path.clone(), since.unwrap_or_else(Instant::now));
        }
        self.found.unreadable.insert(path, error.to_string());
        Ok(())
    }

    /// Lists a dangling symlink as unreadable if it led to a directory when it was last read.
    fn note_lost_target(&mut self, path: PathBuf) {
        if self.before.followed.directories.contains(&path) {
            self.found.followed.add_directory(&path);
            let why = "it is a link to a folder that is not there any more: bring the folder back, or remove the link";
            self.found.unreadable.insert(path, why.to_owned());
        }
    }

    /// Lists the folder of the API's objects as unreadable if it is missing or something else is at its path.
    fn report_object_folder_fault(&mut self) {
        let (folder, Some(fault)) = &self.object_folder else { return };
        self.found.followed.add_file(folder);
        self.found.folder_states.insert(folder.to_path_buf(), DirectoryState::new(FileVersion::at(folder)));
        self.found.unreadable.insert(folder.to_path_buf(), fault.clone());
    }

    /// Returns whether a symlink leads to /proc, /sys or /dev, unless the policies directory itself is there.
    fn leads_to_kernel(&self, path: &Path) -> bool {
        is_in_kernel_tree(path) && !fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.root))
    }

    /// Returns the current position of the walk.
    fn checkpoint(&self) -> Checkpoint {
        let WalkResult { files, private, .. } = &self.found;
        Checkpoint {
            entries: self.entries,
            depth: self.depth,
            visited: self.visited.len(),
            files: files.len(),
            private: private.len(),
            links: self.links.len(),
        }
    }

    /// Forgets what was found since a checkpoint.
    fn roll_back_to(&mut self, checkpoint: &Checkpoint) {
        (self.entries, self.depth) = (checkpoint.entries, checkpoint.depth);
        let gone = self.found.files.split_off(checkpoint.files);
        self.found.observed.truncate(checkpoint.files);
        if self.found.private.len() > checkpoint.private {
            for (path, _) in gone {
                self.found.private.remove(&*path);
            }
        }
        // A directory below may still be read by another path.
        self.visited.truncate(checkpoint.visited);
        self.links.truncate(checkpoint.links);
    }

    /// Reads one policy file, unless its state is the same as before.
    fn read_file(&mut self, path: PathBuf) {
        let known = self.before.tree.files.get_key_value(path.as_path());
        let state = known.and_then(|(path, text)| self.before.observed.get(path.as_os_str()).filter(|_| text.is_ok()));
        let text = known.and_then(|(_, text)| text.clone().ok());
        let path = known.map_or_else(|| path.into(), |(path, _)| Arc::clone(path));
        let mut read = read_unless(
            &path,
            state.and_then(|state| state.clean_hash()),
            self.unfinished,
            (&self.before.trusted, Use::Policies, self.budget),
        );
        read.weigh_policies(text.as_ref(), self.budget);
        if read.is_private.unwrap_or_else(|| self.before.tree.private.contains(&*path)) {
            self.found.private.insert(path.to_path_buf());
        }
        // The same allocation if the text is the same, as all that was made of it shares it.
        let text = read.text_or(text);
        self.found.is_unaliased &= read.version.is_none_or(FileVersion::has_one_name);
        self.found.observed.push((FilePath(Arc::clone(&path)), read.observed));
        self.found.files.push((path, text));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Reads the directory and returns the tree.
    fn read(directory: &mut Directory, root: &Path, changes: &Changes) -> Tree {
        let trusted = Trusted::directories(vec![root.to_owned()]);
        let unfinished = UnfinishedFiles::default();
        directory.read(root, changes, (&unfinished, &MemoryBudget::default()), &trusted).unwrap();
        directory.tree.clone()
    }

    #[test]
    fn tree_is_every_toml_at_any_depth_but_dot_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("team/deep")).unwrap();
        fs::create_dir_all(at(".git")).unwrap();
        for name in ["a.toml", "team/deep/b.toml", ".hidden.toml", ".git/c.toml", "notes.txt", "a.toml~", ".a.toml.swp"]
        {
            fs::write(at(name), name).unwrap();
        }
        symlink(root.path(), at("team/loop")).unwrap();
        symlink("team", at("twin")).unwrap();
        symlink("/", at("all")).unwrap();
        symlink("/proc/self", at("kernel")).unwrap();
        symlink("/dev", at("team/devices")).unwrap();
        symlink("nowhere", at("dangling.toml")).unwrap();
        fs::create_dir(at("directory.toml")).unwrap();
        let found = read(&mut Directory::default(), root.path(), &Changes::Anything);
        let unreadable: Vec<_> =
            found.unreadable.iter().map(|(path, why)| (path.clone(), why.split(':').next().unwrap())).collect();
        let twice = "it leads to a directory that is read under another name";
        let above = "it is a link to a directory above the policies directory";
        let kernel = "it is a link to a tree of the kernel (/proc, /sys, /dev)";
        let expected = [
            (at("all"), above),
            (at("kernel"), kernel),
            (at("team/devices"), kernel),
            (at("team/loop"), twice),
            (at("twin"), twice),
        ];
        assert_eq!(unreadable, expected);
        let names: Vec<_> = found.files.iter().map(|(path, _)| path.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(names, ["a.toml", "dangling.toml", "directory.toml", "team/deep/b.toml"].map(Path::new));
        assert_eq!(&*found.files.get(&at("a.toml")).unwrap().clone().unwrap(), "a.toml");
        assert_eq!(found.files.get(&at("dangling.toml")).unwrap().clone().unwrap_err(), "there is no such file");
        assert!(found.files.get(&at("directory.toml")).unwrap().clone().unwrap_err().contains("is a directory"));
    }

    #[test]
    fn symlinks_of_a_mounted_config_map_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/a.toml"), "one").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/a.toml", at("a.toml")).unwrap();
        let mut directory = Directory::default();
        let found = read(&mut directory, root.path(), &Changes::Anything);
        assert_eq!(found.files.iter().len(), 1);
        assert!(directory.followed.directories.contains(&fs::canonicalize(at("..1")).unwrap()));
        fs::create_dir(at("..2")).unwrap();
        fs::write(at("..2/a.toml"), "two").unwrap();
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        // No event names the file, as only a symlink above it changed; a tree with links is always walked.
        let none = Changes::Files(HashSet::new());
        assert_eq!(read(&mut directory, root.path(), &none).files.get(&at("a.toml")).unwrap().as_deref(), Ok("two"));
    }

    #[test]
    fn only_the_files_that_changed_are_read() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let at = |name: &str| root.join(name);
        for name in ["a.toml", "b.toml", "c.toml"] {
            fs::write(at(name), "one").unwrap();
        }
        fs::create_dir(at("team")).unwrap();
        let mut directory = Directory::default();
        assert_eq!(read(&mut directory, &root, &Changes::Anything).files.iter().len(), 3);
        for name in ["a.toml", "b.toml", "team/d.toml", "list.txt"] {
            fs::write(at(name), "two").unwrap();
        }
        fs::remove_file(at("c.toml")).unwrap();
        let mut read_names = |names: &[&str]| {
            let changes = Changes::Files(names.iter().map(|name| at(name)).collect());
            let tree = read(&mut directory, &root, &changes);
            let text = |name: &str| tree.files.get(&at(name)).and_then(|text| text.clone().ok());
            let texts =
                ["a.toml", "b.toml", "c.toml", "team/d.toml"].map(|name| text(name).unwrap_or_default().to_string());
            (texts.join(" "), tree.changed.map(|changed| changed.len()))
        };
        assert_eq!(read_names(&["a.toml", "list.txt", ".a.toml.swp"]), ("two one one ".to_owned(), Some(1)));
        assert_eq!(read_names(&["c.toml", "team/d.toml", "../beside"]), ("two one  two".to_owned(), Some(2)));
        // At a directory or the root itself, anything may have changed, so the whole tree is read.
        assert_eq!(read_names(&["team"]), ("two two  two".to_owned(), Some(1)));
        fs::write(at("a.toml"), "six").unwrap();
        assert_eq!(read_names(&[""]), ("six two  two".to_owned(), Some(1)));
    }

    #[test]
    fn file_with_two_paths_is_read_at_both() {
        for link in [|from: &Path, to: &Path| fs::hard_link(from, to), |from: &Path, to: &Path| symlink(from, to)] {
            let root = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(root.path()).unwrap();
            let (one, two) = (root.join("a.toml"), root.join("b.toml"));
            fs::write(&one, "one").unwrap();
            let mut directory = Directory::default();
            // The second path comes after the first read.
            read(&mut directory, &root, &Changes::Anything);
            link(&one, &two).unwrap();
            read(&mut directory, &root, &Changes::Files([two.clone()].into()));
            fs::write(&one, "two").unwrap();
            let tree = read(&mut directory, &root, &Changes::Files([one].into()));
            assert_eq!(tree.files.get(&two).unwrap().as_deref(), Ok("two"));
        }
    }
}
