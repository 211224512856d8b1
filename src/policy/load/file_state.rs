//! The state of each file across reloads: the contents that were read last, and the version that is in force.
//!
//! The two differ while a file is held back. [`StoredFile`] is the compact form of [`FileState`], as there may be
//! 100,000 files of which nearly all are in force as they are on disk.

use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use crate::document::{Diagnostic, Source};

use crate::policy::load::list::ListFile;
use crate::policy::load::preset::shared_hasher;
use crate::policy::load::read::{Role, read_file};
use crate::policy::matching::pattern::Purpose;
use crate::policy::model::spec::{FileSpec, ListUse};

/// The state of a policy file or of a list file's use.
#[derive(Debug)]
pub(super) struct FileState<T> {
    /// The contents that were read last.
    pub(super) seen: LastContent,
    /// The parsed contents, without the parts that are wrong; `None` if the file could not be read or is a bad list.
    pub(super) read: Option<Arc<T>>,
    /// Whether the contents can go into force, as far as the file itself decides.
    pub(super) is_good: bool,
    /// The errors and warnings that the file has by itself.
    pub(super) diagnostics: Arc<[Diagnostic]>,
    /// The version in force, which is the same object as `read` unless the file is held back.
    pub(super) in_force: Option<Arc<T>>,
}

/// The contents of a file that were read last, in a form that shows whether they have changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LastContent {
    /// The text itself.
    Text(Arc<str>),
    /// The length and the keyed hash of a text that may be too large to keep.
    Fingerprint(usize, u64),
    /// The file could not be read.
    Unreadable,
    /// The file did not exist.
    Absent,
}

impl LastContent {
    /// Returns the fingerprint of a text.
    pub(super) fn fingerprint(text: &str) -> Self {
        Self::Fingerprint(text.len(), shared_hasher().hash_one(text))
    }
}

/// Derived `Clone` would ask for `T: Clone`, although the contents are shared.
impl<T> Clone for FileState<T> {
    fn clone(&self) -> Self {
        let Self { seen, read, is_good, diagnostics, in_force } = self;
        Self {
            seen: seen.clone(),
            read: read.clone(),
            is_good: *is_good,
            diagnostics: Arc::clone(diagnostics),
            in_force: in_force.clone(),
        }
    }
}

impl<T> FileState<T> {
    /// Returns the state of a file that does not exist.
    pub(super) fn absent() -> Self {
        Self { seen: LastContent::Absent, read: None, is_good: false, diagnostics: Arc::default(), in_force: None }
    }

    /// Returns whether the contents on disk are in force.
    pub(super) fn is_in_force(&self) -> bool {
        match (&self.read, &self.in_force) {
            (Some(read), Some(in_force)) => self.is_good && Arc::ptr_eq(read, in_force),
            _ => false,
        }
    }

    /// Returns whether the file is held back because of its own contents, independently of other files.
    pub(super) fn is_bad_alone(&self) -> bool {
        !self.is_good && self.seen != LastContent::Absent
    }

    /// Returns the version to go into force: the one read if it is good, else the one in force.
    pub(super) fn candidate(&self) -> Option<Arc<T>> {
        match self.seen {
            LastContent::Absent | LastContent::Unreadable => self.in_force.clone(),
            _ => self.read.clone().filter(|_| self.is_good).or_else(|| self.in_force.clone()),
        }
    }
}

impl FileState<FileSpec> {
    /// Returns whether the file's contents are this text.
    pub(super) fn holds(&self, text: &Arc<str>) -> bool {
        matches!(&self.seen, LastContent::Text(seen) if Arc::ptr_eq(seen, text) || seen == text)
    }

    /// Parses a policy file, unless its text is the one that was read last.
    ///
    /// `share` replaces an id by a shared copy.
    pub(super) fn of_file(
        source: &Source,
        role: Role<'_>,
        before: Option<&Self>,
        share: impl FnMut(&mut Arc<str>),
    ) -> Self {
        let text = Arc::clone(source.text());
        if let Some(before) = before.filter(|before| before.holds(&text)) {
            return before.clone();
        }
        let in_force = before.and_then(|before| before.in_force.clone());
        // A text that was changed back to the one in force must become the same object again, or the reload would count
        // as a change.
        if let Some(spec) = in_force.as_ref().filter(|spec| *spec.source.text() == text) {
            // Parsed once more for its warnings: those in `before` are about the text in between.
            let warnings = shared(read_file(&spec.source, role, shared_hasher()).1);
            let (seen, read) = (LastContent::Text(Arc::clone(spec.source.text())), in_force.clone());
            return Self { seen, read, is_good: true, diagnostics: warnings, in_force };
        }
        let (mut spec, diagnostics) = read_file(source, role, shared_hasher());
        spec.share_references(share);
        Self {
            seen: LastContent::Text(text),
            read: Some(Arc::new(spec)),
            is_good: !diagnostics.iter().any(Diagnostic::is_error),
            diagnostics: shared(diagnostics),
            in_force,
        }
    }

    /// Returns the state of a policy file that cannot be read.
    pub(super) fn unreadable(path: &Path, why: &str, role: Role<'_>, before: Option<&Self>) -> Self {
        let in_force = before.and_then(|before| before.in_force.clone());
        let error = Diagnostic::about_file(path, format!("the file cannot be read: {why}"));
        let help = match (role, in_force.is_some()) {
            (Role::Object(_), true) => {
                "what it said before stays in force; restore the file, or remove it, which deletes the object"
            }
            (Role::Object(_), false) => {
                "restore the file, or remove it, which deletes the object; if it is gone, delete the object over the API"
            }
            (_, true) => "what it said before stays in force",
            (_, false) => "fix it, or remove the file",
        };
        Self { seen: LastContent::Unreadable, diagnostics: Arc::new([error.help(help)]), in_force, ..Self::absent() }
    }
}

impl FileState<ListFile> {
    /// Parses a list file, unless its text is the one that was read last.
    ///
    /// A list that denies must hold a hostname: a truncated file would allow what it denied. A list that allows may be
    /// empty.
    pub(super) fn of_list(named: &ListUse, text: &str, before: Option<&Self>) -> Self {
        let seen = LastContent::fingerprint(text);
        if let Some(before) = before.filter(|before| before.seen == seen) {
            return before.clone();
        }
        let in_force = before.and_then(|before| before.in_force.clone());
        match ListFile::read(named, text, shared_hasher()) {
            Ok(list) if named.purpose != Purpose::Deny || !list.set.is_empty() => {
                // The list was changed and changed back: the object in force is used again, so that nothing counts as
                // changed.
                let same = in_force.clone().filter(|before| before.hash == list.hash && before.length == list.length);
                let read = Some(same.unwrap_or_else(|| Arc::new(list)));
                Self { seen, read, is_good: true, diagnostics: Arc::default(), in_force }
            }
            Ok(_) => {
                let error = Diagnostic::about_file(
                    &named.path,
                    "the list holds no hostname, as if half written, and would deny nothing",
                );
                let error = error.help("write one a line, or take the list out of `denied_hostnames_files`");
                Self { seen, diagnostics: Arc::new([error]), in_force, ..Self::absent() }
            }
            Err(diagnostics) => Self { seen, diagnostics: diagnostics.into(), in_force, ..Self::absent() },
        }
    }
}

/// The stored form of a policy file's state. Nearly all files are in force, and for these it is small.
#[derive(Clone, Debug)]
pub(super) enum StoredFile {
    /// A file whose contents on disk are in force, with its own warnings, if it has any.
    InForce(Arc<FileSpec>, Option<Arc<Warnings>>),
    /// A file in any other state.
    Other(Arc<FileState<FileSpec>>),
}

/// The warnings that a file has by itself.
pub(super) type Warnings = Box<[Diagnostic]>;

impl StoredFile {
    /// Returns the stored form of a file that is in force, with its own warnings.
    pub(super) fn good(file: Arc<FileSpec>, warnings: &[Diagnostic]) -> Self {
        Self::InForce(file, (!warnings.is_empty()).then(|| Arc::new(warnings.into())))
    }

    /// Returns the version in force.
    pub(super) fn in_force(&self) -> Option<&Arc<FileSpec>> {
        match self {
            Self::InForce(file, _) => Some(file),
            Self::Other(known) => known.in_force.as_ref(),
        }
    }

    /// Returns the errors and warnings of the contents on disk.
    pub(super) fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::InForce(_, warnings) => warnings.as_ref().map_or(&[], |warnings| warnings),
            Self::Other(known) => &known.diagnostics,
        }
    }

    /// Returns whether the file's contents are this text, and in force.
    pub(super) fn is_in_force_as(&self, text: &Arc<str>) -> bool {
        matches!(self, Self::InForce(file, _) if file.source.text() == text)
    }

    /// Returns the full form of the state.
    pub(super) fn to_state(&self) -> FileState<FileSpec> {
        match self {
            Self::InForce(file, warnings) => FileState {
                seen: LastContent::Text(Arc::clone(file.source.text())),
                read: Some(Arc::clone(file)),
                is_good: true,
                diagnostics: warnings.as_ref().map_or_else(Arc::default, |warnings| warnings[..].into()),
                in_force: Some(Arc::clone(file)),
            },
            Self::Other(known) => FileState::clone(known),
        }
    }
}

impl From<FileState<FileSpec>> for StoredFile {
    fn from(known: FileState<FileSpec>) -> Self {
        match (&known.in_force, &known.seen) {
            (Some(file), LastContent::Text(_)) if known.is_in_force() => {
                Self::good(Arc::clone(file), &known.diagnostics)
            }
            _ => Self::Other(Arc::new(known)),
        }
    }
}

/// Returns diagnostics in shared form. Most files have none; the default shares one empty allocation among them.
fn shared(diagnostics: Vec<Diagnostic>) -> Arc<[Diagnostic]> {
    if diagnostics.is_empty() { Arc::default() } else { diagnostics.into() }
}
