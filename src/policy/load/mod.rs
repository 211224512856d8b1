//! What each file said last, and the snapshot made from it: from a tree of texts to what is in force.
//!
//! A change never opens anything by being wrong. What is read is set beside what is in force; whatever of it is
//! bad, alone or together with other files, is held back, and the version in force stays. Only then is a snapshot
//! made, tried with the files' own tests, and handed out to be swapped in. A file that is gone is gone, and what
//! refers to it is denied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::Diagnostic;

use self::compile::Compiled;
use self::diagnostics::Diagnostics;
use self::full::Phase;
use self::known::{Kept, Known, Seen};
use self::list::ListFile;
use self::read::Role;
use self::references::Links;
use self::source::{FilePath, Tree};
use super::matching::pattern::Purpose;
use super::model::spec::{Covers, ListUse};
use super::snapshot::Snapshot;
use crate::policy::model::bindings::Bindings;
use crate::util::content_hash::ContentSum;
use crate::util::persistent_map::OrderedMap;

/// Reads a list file by its path: its text, or why it cannot be read. Whoever reads it keeps no text of it: a list may
/// be large, and what it says is in the set that is made of it.
pub type ReadList<'f> = &'f mut dyn FnMut(&Path, Held) -> Result<ListText, String>;

/// The words that [`ReadList`] says of a list file that is not there.
pub const NO_SUCH_FILE: &str = "there is no such file";

/// Whether what a list said when it was last read is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is; where the file is as it was then, it need not be read.
    Yes,
    /// It has to be read.
    No,
}

/// What a list file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListText {
    /// What it held when it was last read.
    Unchanged,
    /// This.
    Text(String),
}

/// The last good version of each file and list, and the snapshot in force; cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    /// What is known of each policy file.
    files: OrderedMap<FilePath, Kept>,
    /// What is known of each list file.
    lists: Arc<BTreeMap<ListUse, Known<ListFile>>>,
    /// The bindings in force.
    bindings: Bindings,
    /// The policies in force, compiled.
    compiled: Compiled,
    /// What is in force.
    snapshot: Arc<Snapshot>,
    /// As [`Library::refused_at_start`].
    dangling: Arc<[Diagnostic]>,
    /// What it takes to go on from here by the short way, if everything on disk is in force.
    settled: Option<Settled>,
}

/// What is known about all files together where everything on disk is in force, but for files that are bad by themselves
/// and have no part in what others do.
#[derive(Clone, Debug)]
struct Settled {
    /// The policies directory.
    root: PathBuf,
    /// All that is told.
    told: Diagnostics,
    /// The files that are bad by themselves.
    held_back: Arc<[PathBuf]>,
    /// Who refers to what.
    links: Links,
    /// The hash of the files.
    file_hash: ContentSum,
    /// The hash of the lists.
    list_hash: ContentSum,
}

/// What a reload did.
#[derive(Debug)]
pub struct Reloaded {
    /// The library from now on.
    pub library: Library,
    /// Whether another snapshot is in force; if not, it is the very same.
    pub swapped: bool,
    /// All that is wrong with the files as they are now.
    pub diagnostics: Diagnostics,
    /// The files that say something else than what is in force.
    pub held_back: Vec<PathBuf>,
}

impl Library {
    /// Reads everything for the first time; returns the warnings too.
    ///
    /// # Errors
    /// All that is wrong, warnings included, if any of it is an error.
    pub fn start(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::started(Self::empty().advance(tree, lists, bindings, Phase::FIRST))
    }

    /// Begins without a policy file, as where the API is to make the first one: everybody is denied meanwhile, which is
    /// among the warnings.
    ///
    /// # Errors
    /// All that is wrong, as a policy that the configuration names and nobody made.
    pub fn start_empty(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::started(Self::empty().advance(tree, lists, bindings, Phase::EMPTY))
    }

    /// Reads everything for the first time, to serve: an object of the API that is broken is left out, and what refers to it
    /// denies. The files of such objects are held back. Without a policy file it begins as [`Library::start_empty`] if
    /// `may_be_empty`.
    ///
    /// # Errors
    /// All that is wrong, if any of it is so with a file that a person wrote.
    pub fn serve(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
        may_be_empty: bool,
    ) -> Result<Reloaded, Vec<Diagnostic>> {
        let phase = Phase::Start { may_be_empty, leaves_out: true };
        let reloaded = Self::empty().advance(tree, lists, bindings, phase);
        if reloaded.swapped { Ok(reloaded) } else { Err(reloaded.diagnostics.iter().cloned().collect()) }
    }

    /// Returns what of the files in force would be an error if they were read for the first time: references to what is gone
    /// with its file. Those of the API's objects are none.
    #[must_use]
    pub fn refused_at_start(&self) -> &[Diagnostic] {
        &self.dangling
    }

    /// Returns how many tests the files in force have.
    #[must_use]
    pub fn tests(&self) -> usize {
        self.files.iter().filter_map(|(_, file)| file.in_force()).map(|file| file.tests().len()).sum()
    }

    /// Returns what holds before anything is read.
    fn empty() -> Self {
        Self {
            files: OrderedMap::new(),
            lists: Arc::default(),
            bindings: Bindings::default(),
            compiled: Compiled::default(),
            snapshot: Arc::new(Snapshot::empty()),
            dangling: Arc::default(),
            settled: None,
        }
    }

    /// Returns what a start came to: any error is final.
    fn started(reloaded: Reloaded) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let Reloaded { library, diagnostics, .. } = reloaded;
        let has_errors = diagnostics.has_errors();
        let diagnostics = diagnostics.iter().cloned().collect();
        if has_errors { Err(diagnostics) } else { Ok((library, diagnostics)) }
    }

    /// Reads everything again; texts that did not change are not parsed again.
    ///
    /// A bad file holds back only itself: its last good version stays in force. Errors that several files make
    /// together hold back those that changed, and so do tests that fail: a file that changed and has some holds back itself,
    /// and where a test in force fails, everything is held back. What is gone is gone.
    #[must_use]
    pub fn reload(&self, tree: &Tree, lists: ReadList<'_>, bindings: &Bindings) -> Reloaded {
        // What is read of a list here is not read again on the other way.
        let mut read = BTreeMap::new();
        if let Some(changed) = tree.changed.as_ref().filter(|_| self.settled.is_some()) {
            for path in self.list_paths() {
                let text = lists(path, Held::Yes);
                let is_same = match &text {
                    Ok(ListText::Unchanged) => true,
                    Ok(ListText::Text(text)) => {
                        let seen = Seen::fingerprint(text);
                        self.uses_of(path).all(|(_, known)| known.seen == seen)
                    }
                    Err(_) => false,
                };
                if !is_same {
                    read.insert(path.to_owned(), text);
                }
            }
            if read.is_empty()
                && let Some(reloaded) = self.advance_locally(tree, changed, bindings)
            {
                return reloaded;
            }
        }
        let mut lists = |path: &Path, held| read.remove(path).unwrap_or_else(|| lists(path, held));
        self.advance(tree, &mut lists, bindings, Phase::Reload)
    }

    /// Returns what is in force.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the text of a policy file that is in force, whatever the file holds now.
    #[must_use]
    pub fn text_in_force(&self, path: &Path) -> Option<&Arc<str>> {
        self.files.get(path.as_os_str())?.in_force().map(|file| file.source.text())
    }

    /// Returns the list files that matter: those of what is in force and of what is held back.
    pub fn list_paths(&self) -> impl Iterator<Item = &Path> {
        let mut last = None;
        self.lists.keys().map(|list| list.path.as_path()).filter(move |path| last.replace(*path) != Some(*path))
    }

    /// Returns whether a list file is in force with this text, or not at all.
    pub(crate) fn has_list(&self, path: &Path, text: &str) -> bool {
        let seen = Seen::fingerprint(text);
        self.uses_of(path).all(|(_, known)| known.in_force.is_none() || known.seen == seen && known.is_settled())
    }

    /// Returns whether a list file is in force.
    pub(crate) fn uses_list(&self, path: &Path) -> bool {
        self.uses_of(path).any(|(_, known)| known.in_force.is_some())
    }

    /// Returns what is known of a list file, for each use of it.
    fn uses_of(&self, path: &Path) -> impl Iterator<Item = (&ListUse, &Known<ListFile>)> {
        let first = ListUse { path: path.to_owned(), purpose: Purpose::Allow, covers: Covers::AsWritten };
        self.lists.range(first..).take_while(move |(list, _)| list.path == path)
    }

    /// Returns whether a policy names the file as a list.
    fn is_list(&self, path: &Path) -> bool {
        self.uses_of(path).next().is_some()
    }
}

/// Returns the id of the object that the API keeps in the file at `path`, if it is one of its files.
pub(crate) fn object_of<'p>(root: &Path, path: &'p Path) -> Option<&'p str> {
    let below = path.strip_prefix(root).ok()?.strip_prefix(OBJECT_FOLDER).ok()?;
    let name = below.to_str()?.strip_suffix(".toml").filter(|name| !name.contains('/'))?;
    OBJECT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)).then_some(name)
}

/// The folder of the API's files in the policies directory.
pub(crate) const OBJECT_FOLDER: &str = "api";
/// What the names of the API's files begin with: the ids of policies, blueprints and devboxes.
pub(crate) const OBJECT_PREFIXES: [&str; 3] = ["npol_", "bpt_", "dbx_"];

/// Returns what a file is read as; nothing for one deeper in `presets/`.
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
pub(crate) mod file_tests;
mod full;
mod incremental;
mod known;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod pasted;
pub(crate) mod preset;
pub(crate) mod read;
pub(crate) mod references;
mod report;
pub(crate) mod source;
#[cfg(test)]
mod tests;
