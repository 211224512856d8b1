//! What is known of each file: what it held when it was last looked at, and what of it is in force.

use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use crate::document::{Diagnostic, Source};

use crate::policy::load::list::ListFile;
use crate::policy::load::preset::shared_hasher;
use crate::policy::load::read::{Role, read_file};
use crate::policy::matching::pattern::Purpose;
use crate::policy::model::spec::{FileSpec, ListUse};

/// What is known of a file.
#[derive(Debug)]
pub(super) struct Known<T> {
    /// What it held when it was last looked at.
    pub(super) seen: Seen,
    /// What that says, as far as it was understood.
    pub(super) read: Option<Arc<T>>,
    /// Whether it may go into force.
    pub(super) is_good: bool,
    /// What is wrong with it.
    pub(super) diagnostics: Arc<[Diagnostic]>,
    /// What of it is in force.
    pub(super) in_force: Option<Arc<T>>,
}

/// The content of a file, as far as it takes to see that it did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A text.
    Text(Arc<str>),
    /// The length and the keyed hash of a text that may be large.
    Fingerprint(usize, u64),
    /// It could not be read.
    Unreadable,
    /// It was not there.
    Absent,
}

impl Seen {
    /// Returns the fingerprint of a text.
    pub(super) fn fingerprint(text: &str) -> Self {
        Self::Fingerprint(text.len(), shared_hasher().hash_one(text))
    }
}

/// The same again; what it says is shared.
impl<T> Clone for Known<T> {
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

impl<T> Known<T> {
    /// Returns what is known of a file that is not there.
    pub(super) fn absent() -> Self {
        Self { seen: Seen::Absent, read: None, is_good: false, diagnostics: Arc::default(), in_force: None }
    }

    /// Returns whether what it holds is in force.
    pub(super) fn is_settled(&self) -> bool {
        match (&self.read, &self.in_force) {
            (Some(read), Some(in_force)) => self.is_good && Arc::ptr_eq(read, in_force),
            _ => false,
        }
    }

    /// Returns whether it is held back for what it holds itself, whatever other files say.
    pub(super) fn is_bad_alone(&self) -> bool {
        !self.is_good && self.seen != Seen::Absent
    }

    /// Returns what is to go into force: what was read if it is good, else what is.
    pub(super) fn candidate(&self) -> Option<Arc<T>> {
        match self.seen {
            Seen::Absent | Seen::Unreadable => self.in_force.clone(),
            _ => self.read.clone().filter(|_| self.is_good).or_else(|| self.in_force.clone()),
        }
    }
}

impl Known<FileSpec> {
    /// Returns whether it holds this text.
    pub(super) fn holds(&self, text: &Arc<str>) -> bool {
        matches!(&self.seen, Seen::Text(seen) if Arc::ptr_eq(seen, text) || seen == text)
    }

    /// Reads a policy file unless it holds what it held before.
    ///
    /// `share` returns an id again that is known by its text.
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
        // A text that came back to what is in force is in force, not a new one that says the same.
        if let Some(spec) = in_force.as_ref().filter(|spec| *spec.source.text() == text) {
            let warnings = shared(read_file(&spec.source, role, shared_hasher()).1);
            let (seen, read) = (Seen::Text(Arc::clone(spec.source.text())), in_force.clone());
            return Self { seen, read, is_good: true, diagnostics: warnings, in_force };
        }
        let (mut spec, diagnostics) = read_file(source, role, shared_hasher());
        spec.share_references(share);
        Self {
            seen: Seen::Text(text),
            read: Some(Arc::new(spec)),
            is_good: !diagnostics.iter().any(Diagnostic::is_error),
            diagnostics: shared(diagnostics),
            in_force,
        }
    }

    /// Notes that a policy file cannot be read.
    pub(super) fn unreadable(path: &Path, why: &str, role: Role<'_>, before: Option<&Self>) -> Self {
        let in_force = before.and_then(|before| before.in_force.clone());
        let error = Diagnostic::about_file(path, format!("the file cannot be read: {why}"));
        let help = match (role, in_force.is_some()) {
            (Role::Object(_), true) => {
                "what it said before stays in force; restore the file, or remove it, and the object is deleted"
            }
            (Role::Object(_), false) => "restore the file, or remove it, and the object is deleted",
            (_, true) => "what it said before stays in force",
            (_, false) => "mend it, or remove the file",
        };
        Self { seen: Seen::Unreadable, diagnostics: Arc::new([error.help(help)]), in_force, ..Self::absent() }
    }
}

impl Known<ListFile> {
    /// Reads a list unless it holds what it held before. One that denies has to hold a hostname: a file that was cut off
    /// would open what it denied, where one that allows is an empty list.
    pub(super) fn of_list(named: &ListUse, text: &str, before: Option<&Self>) -> Self {
        let seen = Seen::fingerprint(text);
        if let Some(before) = before.filter(|before| before.seen == seen) {
            return before.clone();
        }
        let in_force = before.and_then(|before| before.in_force.clone());
        match ListFile::read(named, text, shared_hasher()) {
            Ok(list) if named.purpose != Purpose::Deny || !list.set.is_empty() => {
                // The same content as in force, after something else in between.
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

/// What is known of a policy file, as it is kept: of one that is in force there is little to know, and there are many.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// What it holds is in force; the warnings of it, if there are any.
    Settled(Arc<FileSpec>, Option<Arc<Warnings>>),
    /// Something else.
    Other(Arc<Known<FileSpec>>),
}

/// Warnings of one file alone.
pub(super) type Warnings = Box<[Diagnostic]>;

impl Kept {
    /// Returns what is kept of a file that is in force, with its warnings.
    pub(super) fn settled(file: Arc<FileSpec>, warnings: &[Diagnostic]) -> Self {
        Self::Settled(file, (!warnings.is_empty()).then(|| Arc::new(warnings.into())))
    }

    /// Returns what is in force.
    pub(super) fn in_force(&self) -> Option<&Arc<FileSpec>> {
        match self {
            Self::Settled(file, _) => Some(file),
            Self::Other(known) => known.in_force.as_ref(),
        }
    }

    /// Returns what is wrong with what it holds.
    pub(super) fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Settled(_, warnings) => warnings.as_ref().map_or(&[], |warnings| warnings),
            Self::Other(known) => &known.diagnostics,
        }
    }

    /// Returns whether it holds this text, which is in force.
    pub(super) fn is_settled_as(&self, text: &Arc<str>) -> bool {
        matches!(self, Self::Settled(file, _) if file.source.text() == text)
    }

    /// Returns all that is known.
    pub(super) fn known(&self) -> Known<FileSpec> {
        match self {
            Self::Settled(file, warnings) => Known {
                seen: Seen::Text(Arc::clone(file.source.text())),
                read: Some(Arc::clone(file)),
                is_good: true,
                diagnostics: warnings.as_ref().map_or_else(Arc::default, |warnings| warnings[..].into()),
                in_force: Some(Arc::clone(file)),
            },
            Self::Other(known) => Known::clone(known),
        }
    }
}

impl From<Known<FileSpec>> for Kept {
    fn from(known: Known<FileSpec>) -> Self {
        match (&known.in_force, &known.seen) {
            (Some(file), Seen::Text(_)) if known.is_settled() => Self::settled(Arc::clone(file), &known.diagnostics),
            _ => Self::Other(Arc::new(known)),
        }
    }
}

/// Returns diagnostics as they are kept; mostly there are none, which take no room of their own.
fn shared(diagnostics: Vec<Diagnostic>) -> Arc<[Diagnostic]> {
    if diagnostics.is_empty() { Arc::default() } else { diagnostics.into() }
}
