//! Reading the policies directory: all of it, or only the files that are known to have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::{Followed, Observed, Stamp, Text, Unfinished, is_passing, read_unless};
use super::object_folder::ObjectFolder;
use super::trusted::{Trusted, Use};
use super::watch::Changes;
use crate::bounds::{MAX_DEPTH, MAX_ENTRIES};
use crate::policy::{FilePath, OrderedMap, Tree};
use crate::util::regular_file::is_in_kernel_tree;

/// The policies directory as it was last read.
#[derive(Default)]
pub(crate) struct Directory {
    /// Its files.
    pub(super) tree: Tree,
    /// What to be told about changes of: the tree, and where symlinks lead.
    pub(super) followed: Followed,
    /// The states that the files were in when they were looked at. Each shares its path with the tree, and with all that is
    /// made of it.
    observed: OrderedMap<FilePath, Observed>,
    /// The states of the directories whose entries were read, and of links that lead nowhere yet.
    places: BTreeMap<PathBuf, Place>,
    /// Files and directories that could not be read for a reason that passes.
    passing: BTreeSet<PathBuf>,
    /// Where files may lie that are quoted.
    trusted: Trusted,
    /// Directories with too many entries to be read, and when that was found.
    huge: HashMap<PathBuf, Instant>,
    /// Where everything is that the tree is made of, if that is in one place each.
    plain: Option<Plain>,
    /// The folder of the API's objects.
    object_folder: ObjectFolder,
}

/// A directory whose entries were read, or a link that leads nowhere yet, as it was then.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its state.
    observed: Observed,
    /// Device and inode; `None` is that nothing was there.
    id: Option<(u64, u64)>,
}

impl Place {
    /// Takes its state.
    fn new(stamp: Option<Stamp>) -> Self {
        Self { observed: Observed::of_place(stamp), id: stamp.map(Stamp::id) }
    }

    /// Returns whether it may have other entries than were read.
    pub(super) fn is_changed(self, now: Option<Stamp>) -> bool {
        self.observed.is_changed(now)
    }

    /// Returns whether this is the state of the same directory.
    pub(super) fn is_of(self, stamp: Stamp) -> bool {
        self.id == Some(stamp.id())
    }
}

/// A tree in which every file has one name, so that a change under that name is all that changed.
struct Plain {
    /// The root, absolute; no symlink leads there.
    root: PathBuf,
    /// The directories of the tree by the paths that events have.
    directories: HashMap<PathBuf, PathBuf>,
}

impl Directory {
    /// Reads every `*.toml` at any depth below `root`, symlinks followed, names that begin with a dot skipped. Files that
    /// did not change, as far as is known, are not read again; where only the files in `changes` did, nothing else is
    /// looked at. What is the same stays the very same.
    ///
    /// # Errors
    /// `root` itself cannot be read: then nothing is known about any file, which is not the same as no files.
    pub(crate) fn read(
        &mut self,
        root: &Path,
        changes: &Changes,
        unfinished: &Unfinished,
        trusted: &Trusted,
    ) -> io::Result<()> {
        // Nothing is known of files that may be used, or quoted, by another rule now.
        let is_same_rule = self.trusted.is_named_as(trusted);
        if !is_same_rule {
            self.observed = OrderedMap::new();
        }
        self.trusted.clone_from(trusted);
        if let Changes::Files(paths) = changes
            && is_same_rule
            && self.tree.root == root
            && let Some(changed) = self.read_changed(paths, unfinished)
        {
            self.tree.changed = Some(changed);
            return Ok(());
        }
        // Whatever comes of it, nothing is built on what was known before.
        self.plain = None;
        let found = Found::with_capacity(self.tree.files.iter().len());
        let real = fs::canonicalize(root)?;
        let object_folder = ObjectFolder::of(root);
        let mut walk = Walk {
            before: self,
            object_folder: (&object_folder, self.object_folder.fault(root, &self.tree.files)),
            unfinished,
            entries: 0,
            root: real,
            depth: 0,
            seen: Seen::default(),
            links: Vec::new(),
            found,
        };
        walk.read_all(root)?;
        walk.leave_out_objects();
        let Found { files, private, unreadable, huge, followed, observed, places, is_plain } = walk.found;
        self.huge = huge;
        let is_passing = |(path, state): &(&Path, Observed)| state.is_passing().then(|| path.to_path_buf());
        let all = observed
            .iter()
            .map(|(path, state)| (&**path, *state))
            .chain(places.iter().map(|(path, place)| (path.as_path(), place.observed)));
        self.passing = all.filter_map(|entry| is_passing(&entry)).collect();
        self.plain = is_plain.then(|| Plain::of(root, &followed)).flatten().filter(|_| unreadable.is_empty());
        let files = files.into_iter().collect();
        if unreadable.contains_key(&object_folder) {
            self.object_folder.note_unreadable(&self.tree.files);
        } else {
            self.object_folder.note_read(root);
        }
        if self.tree.root == root && self.tree.unreadable.is_empty() && unreadable.is_empty() {
            self.tree.changed = Some(self.tree.files.become_as(&files));
            self.tree.private = Arc::new(private);
        } else {
            let private = Arc::new(private);
            self.tree = Tree { root: root.to_owned(), files, private, unreadable, changed: None };
        }
        (self.followed, self.observed, self.places) = (followed, observed.into_iter().collect(), places);
        Ok(())
    }

    /// Returns the paths of the policy files, to compare each with what was read.
    pub(super) fn compared(&self) -> impl Iterator<Item = Arc<Path>> {
        self.observed.iter().map(|(path, _)| Arc::clone(&path.0))
    }

    /// Returns the state in which a policy file was read.
    pub(super) fn observed_at(&self, path: &Path) -> Option<Observed> {
        self.observed.get(path.as_os_str()).copied()
    }

    /// Returns the directories that were read, and the links that lead nowhere yet.
    pub(super) fn places(&self) -> impl Iterator<Item = PathBuf> {
        self.places.keys().cloned()
    }

    /// Returns how one of them was.
    pub(super) fn place(&self, path: &Path) -> Option<Place> {
        self.places.get(path).copied()
    }

    /// Notes that the entries of one of them are known in this state, too.
    pub(super) fn note_place(&mut self, path: &Path, stamp: Option<Stamp>) {
        if let Some(place) = self.places.get_mut(path) {
            *place = Place::new(stamp);
        }
    }

    /// Returns why the folder of the API's objects cannot be written now: what is at its path is something else.
    pub(super) fn object_folder_fault(&self, root: &Path) -> Option<String> {
        self.object_folder.fault(root, &self.tree.files)
    }

    /// Notes that a file was written into the folder of the API's objects, which may be new.
    pub(super) fn note_object_written(&mut self, root: &Path) {
        if !self.object_folder.is_same(root) {
            self.object_folder.note_read(root);
        }
    }

    /// Returns what could not be read for a reason that passes.
    pub(super) fn passing(&self) -> &BTreeSet<PathBuf> {
        &self.passing
    }

    /// Reads the files of the tree among `paths`; returns their paths, or nothing where something else may have changed.
    fn read_changed(&mut self, paths: &HashSet<PathBuf>, unfinished: &Unfinished) -> Option<BTreeSet<PathBuf>> {
        let plain = self.plain.as_ref().filter(|_| self.object_folder.is_same(&self.tree.root))?;
        let mut changed = BTreeSet::new();
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return None };
            let Some(directory) = plain.directories.get(parent) else {
                // It is beside the tree, unless the tree is at or below it.
                if plain.root.starts_with(path) {
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
                // A directory that is gone took its files along.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !plain.directories.contains_key(path) => {}
                _ => return None,
            }
            if is_toml {
                changed.insert(shown);
            }
        }
        for path in &changed {
            let read = read_unless(path, None, unfinished, (&self.trusted, Use::Policies));
            // Its name may be a symlink by now; then everything is looked at.
            if read.is_private == Some(true) {
                return None;
            }
            self.passing.remove(path);
            if read.observed.is_passing() {
                self.passing.insert(path.clone());
            }
            if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                self.tree.files.remove(path.as_path());
                self.observed.remove(path.as_os_str());
                self.passing.remove(path);
                continue;
            }
            let known = self.tree.files.get_key_value(path.as_path());
            let text = read.text_or(known.and_then(|(_, text)| text.clone().ok()));
            let path = known.map_or_else(|| path.as_path().into(), |(path, _)| Arc::clone(path));
            self.observed.insert(FilePath(Arc::clone(&path)), read.observed);
            self.tree.files.insert(path, text);
        }
        Some(changed)
    }
}

impl Plain {
    /// Returns where a tree without links is; nothing where a symlink leads to its root.
    fn of(root: &Path, followed: &Followed) -> Option<Self> {
        // As `notify` makes paths absolute.
        let here = std::env::current_dir().ok()?;
        let absolute = here.join(root);
        if fs::canonicalize(root).ok()? != absolute {
            return None;
        }
        let directories = followed.directories.iter().map(|path| (here.join(path), path.clone())).collect();
        Some(Self { root: absolute, directories })
    }
}

/// A walk through the tree.
struct Walk<'w> {
    /// What was known before.
    before: &'w Directory,
    /// The path of the folder of the API's objects, and why what is there is not that folder.
    object_folder: (&'w Path, Option<String>),
    /// Files that somebody is writing to.
    unfinished: &'w Unfinished,
    /// Entries seen so far.
    entries: usize,
    /// The policies directory, without symlinks.
    root: PathBuf,
    /// Directories from the root to here.
    depth: usize,
    /// Device and inode of each directory that is read.
    seen: Seen,
    /// Links to directories, with the number of directories above each.
    links: Vec<(usize, PathBuf)>,
    /// What was found so far.
    found: Found,
}

/// What a walk finds.
struct Found {
    /// As [`Tree::files`].
    files: Vec<(Arc<Path>, Text)>,
    /// As [`Tree::private`].
    private: BTreeSet<PathBuf>,
    /// As [`Tree::unreadable`].
    unreadable: BTreeMap<PathBuf, String>,
    /// As [`Directory::huge`].
    huge: HashMap<PathBuf, Instant>,
    /// As [`Directory::followed`].
    followed: Followed,
    /// As [`Directory::observed`].
    observed: Vec<(FilePath, Observed)>,
    /// As [`Directory::places`].
    places: BTreeMap<PathBuf, Place>,
    /// Whether every file has one name only.
    is_plain: bool,
}

impl Found {
    /// Begins with room for so many files: mostly there are as many as before.
    fn with_capacity(files: usize) -> Self {
        Self {
            files: Vec::with_capacity(files),
            private: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            huge: HashMap::new(),
            followed: Followed::default(),
            observed: Vec::with_capacity(files),
            places: BTreeMap::new(),
            is_plain: true,
        }
    }
}

/// Directories by device and inode, in the order in which they were found.
#[derive(Default)]
struct Seen {
    /// All of them.
    all: HashSet<(u64, u64)>,
    /// The order.
    order: Vec<(u64, u64)>,
}

impl Seen {
    /// Returns whether a directory was found.
    fn contains(&self, id: &(u64, u64)) -> bool {
        self.all.contains(id)
    }

    /// Adds a directory.
    fn insert(&mut self, id: (u64, u64)) {
        if self.all.insert(id) {
            self.order.push(id);
        }
    }

    /// Returns how many there are.
    fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets all but the first ones.
    fn truncate(&mut self, len: usize) {
        for id in self.order.drain(len..) {
            self.all.remove(&id);
        }
    }
}

/// How far a walk was.
struct Mark {
    /// As [`Walk::entries`].
    entries: usize,
    /// As [`Walk::depth`].
    depth: usize,
    /// The number of [`Walk::seen`].
    seen: usize,
    /// The number of [`Found::files`].
    files: usize,
    /// The number of [`Found::private`].
    private: usize,
    /// The number of [`Walk::links`].
    links: usize,
}

/// How long a directory that had too many entries is not looked at again.
const HUGE_AGAIN: Duration = Duration::from_mins(1);

/// Says that there are too many entries.
fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, format!("more than {MAX_ENTRIES} files and directories"))
}

/// Returns whether a symlink leads to a directory that holds the policies directory, so that everything would be read.
fn leads_above(path: &Path, root: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real != *root && root.starts_with(real))
}

impl Walk<'_> {
    /// Reads one directory of the tree.
    fn read_directory(&mut self, directory: &Path) -> io::Result<()> {
        let metadata = fs::metadata(directory)?;
        let id = (metadata.dev(), metadata.ino());
        if self.seen.contains(&id) {
            return Err(io::Error::other(
                "it leads to a directory that is read under another name: remove the link, what is there is read once",
            ));
        }
        let entries = fs::read_dir(directory)?;
        self.found.places.insert(directory.to_owned(), Place::new(Some(Stamp::of(&metadata))));
        self.seen.insert(id);
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
                self.found.is_plain = false;
            }
            // A dangling symlink is a file that cannot be read, not one that is not there.
            let is_directory = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
            if self.entries > MAX_ENTRIES {
                return Err(too_many());
            }
            if is_toml {
                self.read_file(path);
            } else if kind.is_symlink() && !is_directory {
                self.found.places.insert(path.clone(), Place::new(Stamp::at(&path)));
                self.miss_directory(path);
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

    /// Reads the tree: what lies in it, and then what links in it lead to.
    fn read_all(&mut self, root: &Path) -> io::Result<()> {
        self.read_directory(root)?;
        let mut next = 0;
        while let Some((depth, path)) = self.links.get(next).cloned() {
            next += 1;
            self.depth = depth;
            self.read_below(path, true)?;
        }
        Ok(())
    }

    /// Reads a directory below another one. What is wrong with it costs itself alone: of what cannot be read to its end
    /// nothing is taken, and it is named. A tree that is too large is given up as a whole, from the folder right below the
    /// root or the link by which it came.
    fn read_below(&mut self, path: PathBuf, is_link: bool) -> io::Result<()> {
        let before = self.mark();
        // Where a tree may be given up as a whole, nothing of it is followed then.
        let is_whole = is_link || self.depth == 1;
        let followed = if is_whole { std::mem::take(&mut self.found.followed) } else { Followed::default() };
        let is_huge = |walk: &Self| walk.before.huge.get(&path).is_some_and(|since| since.elapsed() < HUGE_AGAIN);
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
            self.read_directory(&path)
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
        self.go_back_to(&before);
        let mut place = Place::new(Stamp::at(&path));
        if is_passing(&error) {
            place.observed = place.observed.passing();
        }
        self.found.places.insert(path.clone(), place);
        if error.kind() == io::ErrorKind::QuotaExceeded {
            if !is_whole {
                return Err(error);
            }
            let since = self.before.huge.get(&path).copied().filter(|since| since.elapsed() < HUGE_AGAIN);
            self.found.huge.insert(path.clone(), since.unwrap_or_else(Instant::now));
        }
        self.found.unreadable.insert(path, error.to_string());
        Ok(())
    }

    /// Notes that a link leads to no directory: one that did when it was last read has lost its target.
    fn miss_directory(&mut self, path: PathBuf) {
        if self.before.followed.directories.contains(&path) {
            self.found.followed.add_directory(&path);
            let why = "it is a link to a folder that is not there any more: bring the folder back, or remove the link";
            self.found.unreadable.insert(path, why.to_owned());
        }
    }

    /// Notes that the folder of the API's objects is not there, or is something else, which no walk reads.
    fn leave_out_objects(&mut self) {
        let (folder, Some(fault)) = &self.object_folder else { return };
        self.found.followed.add_file(folder);
        self.found.places.insert(folder.to_path_buf(), Place::new(Stamp::at(folder)));
        self.found.unreadable.insert(folder.to_path_buf(), fault.clone());
    }

    /// Returns whether a link leads to a tree of the kernel, unless the policies directory itself is in one.
    fn leads_to_kernel(&self, path: &Path) -> bool {
        is_in_kernel_tree(path) && !fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.root))
    }

    /// Returns how far the walk is.
    fn mark(&self) -> Mark {
        let Found { files, private, .. } = &self.found;
        Mark {
            entries: self.entries,
            depth: self.depth,
            seen: self.seen.len(),
            files: files.len(),
            private: private.len(),
            links: self.links.len(),
        }
    }

    /// Forgets what was found since.
    fn go_back_to(&mut self, mark: &Mark) {
        (self.entries, self.depth) = (mark.entries, mark.depth);
        let gone = self.found.files.split_off(mark.files);
        self.found.observed.truncate(mark.files);
        if self.found.private.len() > mark.private {
            for (path, _) in gone {
                self.found.private.remove(&*path);
            }
        }
        // A directory of it may be read under another name yet.
        self.seen.truncate(mark.seen);
        self.links.truncate(mark.links);
    }

    /// Reads one file, unless it is as it was before.
    fn read_file(&mut self, path: PathBuf) {
        let known = self.before.tree.files.get_key_value(path.as_path());
        let state = known.and_then(|(path, text)| self.before.observed.get(path.as_os_str()).filter(|_| text.is_ok()));
        let text = known.and_then(|(_, text)| text.clone().ok());
        let path = known.map_or_else(|| path.into(), |(path, _)| Arc::clone(path));
        let read = read_unless(
            &path,
            state.and_then(|state| state.firm()),
            self.unfinished,
            (&self.before.trusted, Use::Policies),
        );
        if read.is_private.unwrap_or_else(|| self.before.tree.private.contains(&*path)) {
            self.found.private.insert(path.to_path_buf());
        }
        // The very same text, where it is the same: all that is made of it shares it.
        let text = read.text_or(text);
        self.found.is_plain &= read.stamp.is_none_or(Stamp::has_one_name);
        self.found.observed.push((FilePath(Arc::clone(&path)), read.observed));
        self.found.files.push((path, text));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Reads the directory.
    fn read(directory: &mut Directory, root: &Path, changes: &Changes) -> Tree {
        let trusted = Trusted::directories(vec![root.to_owned()]);
        directory.read(root, changes, &Unfinished::default(), &trusted).unwrap();
        directory.tree.clone()
    }

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
        symlink("team", at("twin")).unwrap();
        symlink("/", at("all")).unwrap();
        symlink("/proc/self", at("kernel")).unwrap();
        symlink("/dev", at("team/devices")).unwrap();
        symlink("nowhere", at("dangling.toml")).unwrap();
        fs::create_dir(at("directory.toml")).unwrap();
        let found = read(&mut Directory::default(), root.path(), &Changes::Anything);
        let told: Vec<_> =
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
        assert_eq!(told, expected);
        let names: Vec<_> = found.files.iter().map(|(path, _)| path.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(names, ["a.toml", "dangling.toml", "directory.toml", "team/deep/b.toml"].map(Path::new));
        assert_eq!(&*found.files.get(&at("a.toml")).unwrap().clone().unwrap(), "a.toml");
        assert_eq!(found.files.get(&at("dangling.toml")).unwrap().clone().unwrap_err(), "there is no such file");
        assert!(found.files.get(&at("directory.toml")).unwrap().clone().unwrap_err().contains("is a directory"));
    }

    #[test]
    fn a_mounted_config_map_is_followed_to_its_data() {
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
        // Only a full look sees it: nothing happened under the file's name.
        let none = Changes::Files(HashSet::new());
        assert_eq!(read(&mut directory, root.path(), &none).files.get(&at("a.toml")).unwrap().as_deref(), Ok("two"));
    }

    #[test]
    fn files_that_changed_are_read_and_others_not_looked_at() {
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
        let mut look = |names: &[&str]| {
            let changes = Changes::Files(names.iter().map(|name| at(name)).collect());
            let tree = read(&mut directory, &root, &changes);
            let text = |name: &str| tree.files.get(&at(name)).and_then(|text| text.clone().ok());
            let texts =
                ["a.toml", "b.toml", "c.toml", "team/d.toml"].map(|name| text(name).unwrap_or_default().to_string());
            (texts.join(" "), tree.changed.map(|changed| changed.len()))
        };
        assert_eq!(look(&["a.toml", "list.txt", ".a.toml.swp"]), ("two one one ".to_owned(), Some(1)));
        assert_eq!(look(&["c.toml", "team/d.toml", "../beside"]), ("two one  two".to_owned(), Some(2)));
        // A directory, or the root's own name: anything may have changed, so everything is looked at.
        assert_eq!(look(&["team"]), ("two two  two".to_owned(), Some(1)));
        fs::write(at("a.toml"), "six").unwrap();
        assert_eq!(look(&[""]), ("six two  two".to_owned(), Some(1)));
    }

    #[test]
    fn a_file_with_another_name_is_seen_under_both() {
        for link in [|from: &Path, to: &Path| fs::hard_link(from, to), |from: &Path, to: &Path| symlink(from, to)] {
            let root = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(root.path()).unwrap();
            let (one, two) = (root.join("a.toml"), root.join("b.toml"));
            fs::write(&one, "one").unwrap();
            let mut directory = Directory::default();
            // Also one that comes later.
            read(&mut directory, &root, &Changes::Anything);
            link(&one, &two).unwrap();
            read(&mut directory, &root, &Changes::Files([two.clone()].into()));
            fs::write(&one, "two").unwrap();
            let tree = read(&mut directory, &root, &Changes::Files([one].into()));
            assert_eq!(tree.files.get(&two).unwrap().as_deref(), Ok("two"));
        }
    }
}
