//! Loading: makes the [`Snapshot`] in force from the texts of the policy files, at the start and at each reload.
//!
//! A bad change never allows anything. The files are compared with those in force. A file that is bad, by itself or
//! together with others, is held back, and its version in force stays. Then a snapshot is built from the rest, tested
//! with the files' own `[[test]]`s, and returned to be swapped in. A deleted file is no longer in force, and clients
//! and policies that refer to its objects are denied everything.
//!
//! [`full`] looks at every file. [`incremental`] handles the usual change with the same result in a fraction of the
//! time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Diagnostic, Source};

use self::compile::Compiled;
use self::diagnostics::Diagnostics;
use self::file_state::{FileState, LastContent, StoredFile};
use self::full::LoadMode;
use self::list::ListFile;
use self::read::Role;
use self::references::Links;
use self::source::{FilePath, Tree};
use super::matching::pattern::Purpose;
use super::model::spec::{Covers, ListUse};
use super::snapshot::Snapshot;
use crate::policy::model::bindings::Bindings;
use crate::util::content_hash::{ContentSum, content_hash};
use crate::util::persistent_map::OrderedMap;

/// A function that reads a list file by its path: its text, or why it cannot be read.
///
/// The reader must not keep the text: lists may be large, and after the load the set made from it is enough.
pub type ReadList<'f> = &'f mut dyn FnMut(&Path, MayBeUnchanged) -> Result<ListText, String>;

/// The error that [`ReadList`] returns for a list file that does not exist.
pub const NO_SUCH_FILE: &str = "there is no such file";

/// Whether a [`ReadList`] may answer [`ListText::Unchanged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayBeUnchanged {
    /// The contents at the last read are known, so an unchanged file need not be read.
    Yes,
    /// The file must be read.
    No,
}

/// The contents of a list file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListText {
    /// The contents at the last read.
    Unchanged,
    /// The contents as read now.
    Text(String),
}

/// The last good version of each policy file and list, and the snapshot in force; cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    /// The state of each policy file.
    files: OrderedMap<FilePath, StoredFile>,
    /// The state of each list file, for each use of it.
    lists: Arc<BTreeMap<ListUse, FileState<ListFile>>>,
    bindings: Bindings,
    /// The policies in force with their effective lists.
    compiled: Compiled,
    snapshot: Arc<Snapshot>,
    /// The references to objects whose file was deleted, as errors: see [`Library::refused_at_start`].
    dangling: Arc<[Diagnostic]>,
    /// The errors that [`Library::failing_tests`] returns.
    failing: Arc<[Diagnostic]>,
    /// The state that an incremental reload continues from; `None` if the next reload must be a full one.
    baseline: Option<Baseline>,
}

/// The state of all files together that an incremental reload continues from.
///
/// It exists only if everything on disk is in force, except for files that are bad by themselves and affect no others.
#[derive(Clone, Debug)]
struct Baseline {
    root: PathBuf,
    /// The diagnostics of all files.
    diagnostics: Diagnostics,
    /// The files that are bad by themselves.
    held_back: Arc<[PathBuf]>,
    /// The references between the files' objects.
    links: Links,
    /// The hash of the policy files.
    file_hash: ContentSum,
    /// The hash of the list files.
    list_hash: ContentSum,
}

/// The result of a reload.
#[derive(Debug)]
pub struct Reloaded {
    /// The library with the new state.
    pub library: Library,
    /// Whether another snapshot is in force; if not, the snapshot is the same object as before.
    pub swapped: bool,
    /// The errors and warnings of the files as they are now.
    pub diagnostics: Diagnostics,
    /// The files whose contents on disk are not in force.
    pub held_back: Vec<PathBuf>,
}

impl Library {
    /// Loads everything for the first time; returns the warnings as well.
    ///
    /// # Errors
    /// All errors and warnings, if there is an error.
    pub fn start(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::started(Self::empty().advance(tree, lists, bindings, LoadMode::FIRST))
    }

    /// Loads everything for the first time, and accepts a directory without policy files, into which the API is to
    /// write the first one. All clients are denied until then, which is one of the warnings.
    ///
    /// # Errors
    /// All errors, such as a policy that hostgate.toml names and that does not exist.
    pub fn start_empty(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::started(Self::empty().advance(tree, lists, bindings, LoadMode::EMPTY))
    }

    /// Loads everything for the first time, to serve: a broken object of the API is left out, and what refers to it is
    /// denied. The files of such objects are held back. A failing test is only reported. `may_be_empty` accepts a directory without policy files as
    /// [`Library::start_empty`] does.
    ///
    /// # Errors
    /// All errors, if one is about a file that a person wrote.
    pub fn serve(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
        may_be_empty: bool,
    ) -> Result<Reloaded, Vec<Diagnostic>> {
        let mode = LoadMode::Start { may_be_empty, leaves_out: true };
        let reloaded = Self::empty().advance(tree, lists, bindings, mode);
        if reloaded.swapped { Ok(reloaded) } else { Err(reloaded.diagnostics.iter().cloned().collect()) }
    }

    /// Loads texts that were in force before, in an earlier process. References to objects that are gone deny, as they
    /// did then; [`Library::serve`] says what becomes of the API's objects.
    ///
    /// # Errors
    /// All errors, as of a text that this version does not accept any more.
    pub fn again(tree: &Tree, lists: ReadList<'_>, bindings: &Bindings) -> Result<Reloaded, Vec<Diagnostic>> {
        let reloaded = Self::empty().advance(tree, lists, bindings, LoadMode::Again);
        if reloaded.swapped { Ok(reloaded) } else { Err(reloaded.diagnostics.iter().cloned().collect()) }
    }

    /// Returns the errors that the files in force would have if they were loaded for the first time: references to
    /// objects whose file was deleted. References from the API's objects are not among them.
    #[must_use]
    pub fn refused_at_start(&self) -> &[Diagnostic] {
        &self.dangling
    }

    /// Returns the first failure of each file in force with a test that fails, because another file, a list, the API or
    /// hostgate.toml has changed since.
    #[must_use]
    pub fn failing_tests(&self) -> &[Diagnostic] {
        &self.failing
    }

    /// Returns the number of tests in the files in force.
    #[must_use]
    pub fn tests(&self) -> usize {
        self.files.iter().filter_map(|(_, file)| file.in_force()).map(|file| file.tests().len()).sum()
    }

    /// Returns a library without files, in which all clients are denied.
    fn empty() -> Self {
        Self {
            files: OrderedMap::new(),
            lists: Arc::default(),
            bindings: Bindings::default(),
            compiled: Compiled::default(),
            snapshot: Arc::new(Snapshot::empty()),
            dangling: Arc::default(),
            failing: Arc::default(),
            baseline: None,
        }
    }

    /// Returns the result of a first load, which any error makes fail.
    fn started(reloaded: Reloaded) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let Reloaded { library, diagnostics, .. } = reloaded;
        let has_errors = diagnostics.has_errors();
        let diagnostics = diagnostics.iter().cloned().collect();
        if has_errors { Err(diagnostics) } else { Ok((library, diagnostics)) }
    }

    /// Loads everything again; texts that have not changed are not parsed again.
    ///
    /// A bad file holds back only itself: its last good version stays in force. Errors that several files cause
    /// together hold back those that changed. A changed file with a failing test holds back itself; a failing test of
    /// a file that has not changed is only reported. Objects of deleted files are gone.
    #[must_use]
    pub fn reload(&self, tree: &Tree, lists: ReadList<'_>, bindings: &Bindings) -> Reloaded {
        // A list that is read here must not be read again for the full reload: it could have changed in between.
        let mut read = BTreeMap::new();
        if let Some(changed) = tree.changed.as_ref().filter(|_| self.baseline.is_some()) {
            for path in self.list_paths() {
                let text = lists(path, MayBeUnchanged::Yes);
                let is_same = match &text {
                    Ok(ListText::Unchanged) => true,
                    Ok(ListText::Text(text)) => {
                        let seen = LastContent::fingerprint(text);
                        self.uses_of(path).all(|(_, known)| known.seen == seen)
                    }
                    Err(_) => false,
                };
                if !is_same {
                    read.insert(path.to_owned(), text);
                }
            }
            if read.is_empty()
                && let Some(reloaded) = self.advance_incrementally(tree, changed, bindings)
            {
                return reloaded;
            }
        }
        let mut lists = |path: &Path, held| read.remove(path).unwrap_or_else(|| lists(path, held));
        self.advance(tree, &mut lists, bindings, LoadMode::Reload)
    }

    /// Returns the snapshot in force.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the text of a policy file that is in force, which may differ from the file's contents on disk.
    #[must_use]
    pub fn text_in_force(&self, path: &Path) -> Option<&Arc<str>> {
        self.files.get(path.as_os_str())?.in_force().map(|file| file.source.text())
    }

    /// Returns the policy files in force, each with its text in force.
    pub(crate) fn texts_in_force(&self) -> impl Iterator<Item = (&Arc<Path>, &Source)> {
        self.files.iter().filter_map(|(path, file)| Some((&path.0, &file.in_force()?.source)))
    }

    /// Returns the paths of the list files that are in use, by files in force or held back.
    pub fn list_paths(&self) -> impl Iterator<Item = &Path> {
        // The keys are ordered by path, so the uses of one file are neighbours.
        let mut last = None;
        self.lists.keys().map(|list| list.path.as_path()).filter(move |path| last.replace(*path) != Some(*path))
    }

    /// Returns whether a list file is in force with this text wherever it is in force at all.
    pub(crate) fn has_list(&self, path: &Path, text: &str) -> bool {
        let hash = content_hash(text.as_bytes());
        let is_this = |list: &Arc<ListFile>| list.length == text.len() && list.hash == hash;
        self.uses_of(path).all(|(_, known)| known.in_force.as_ref().is_none_or(is_this))
    }

    /// Returns the hash of the text of a list file in force, the same in every process; `None` if it is not in force.
    pub(crate) fn list_hash(&self, path: &Path) -> Option<String> {
        let list = self.uses_of(path).find_map(|(_, known)| known.in_force.as_ref())?;
        Some(format!("{:016x}-{}", list.hash, list.length))
    }

    /// Returns whether the content of a list file at the last look is not in force.
    pub(crate) fn holds_list_back(&self, path: &Path) -> bool {
        self.uses_of(path).any(|(_, known)| known.in_force.is_some() && !known.is_in_force())
    }

    /// Returns whether a list file is in force.
    pub(crate) fn uses_list(&self, path: &Path) -> bool {
        self.uses_of(path).any(|(_, known)| known.in_force.is_some())
    }

    /// Returns the state of a list file for each use of it.
    fn uses_of(&self, path: &Path) -> impl Iterator<Item = (&ListUse, &FileState<ListFile>)> {
        // The lowest use of the path: `Allow` and `AsWritten` are the first variants.
        let first = ListUse { path: path.to_owned(), purpose: Purpose::Allow, covers: Covers::AsWritten };
        self.lists.range(first..).take_while(move |(list, _)| list.path == path)
    }

    /// Returns whether a policy names the file as a list.
    fn is_list(&self, path: &Path) -> bool {
        self.uses_of(path).next().is_some()
    }
}

/// Returns the id of the API's object in the file at `path`; `None` if it is not a file of the API.
pub(crate) fn object_of<'p>(root: &Path, path: &'p Path) -> Option<&'p str> {
    let below = path.strip_prefix(root).ok()?.strip_prefix(OBJECT_FOLDER).ok()?;
    let name = below.to_str()?.strip_suffix(".toml").filter(|name| !name.contains('/'))?;
    OBJECT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)).then_some(name)
}

/// The folder of the API's files in the policies directory.
pub(crate) const OBJECT_FOLDER: &str = "api";
/// The prefixes of the names of the API's files, which are the ids of policies, blueprints and devboxes.
pub(crate) const OBJECT_PREFIXES: [&str; 3] = ["npol_", "bpt_", "dbx_"];

/// Returns the role of a file, which decides what it may hold; `None` for a file deeper in `presets/`, which is not
/// read.
fn role<'p>(root: &Path, path: &'p Path) -> Option<Role<'p>> {
    if let Some(id) = object_of(root, path) {
        return Some(Role::Object(id));
    }
    let below = path.strip_prefix(root).unwrap_or(path);
    let Ok(preset) = below.strip_prefix("presets") else { return Some(Role::Policies) };
    let name = preset.file_stem().and_then(|stem| stem.to_str())?;
    (preset.components().count() == 1).then_some(Role::Preset(name))
}

pub(super) use self::full::list_references;

pub(crate) mod assemble;
pub(crate) mod change_groups;
pub(crate) mod compile;
pub(crate) mod conflict;
pub(crate) mod diagnostics;
mod file_state;
pub(crate) mod file_tests;
mod full;
pub(crate) mod held;
mod incremental;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod pasted;
pub(crate) mod preset;
pub(crate) mod read;
pub(crate) mod references;
mod report;
mod resume;
pub(crate) mod source;
#[cfg(test)]
mod tests;
