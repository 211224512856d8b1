//! Errors and warnings by the file they are about, in a persistent map: a copy is cheap, and an incremental reload
//! replaces the diagnostics of one file without reading the others.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::document::{Diagnostic, Place};

use super::source::FilePath;
use crate::util::persistent_map::OrderedMap;

/// Diagnostics in the order of path and place, without duplicates; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The diagnostics of each file that has any, in order.
    files: OrderedMap<FilePath, Arc<[Diagnostic]>>,
    /// The number of files with errors.
    files_with_errors: usize,
    /// The number of diagnostics.
    len: usize,
}

impl Diagnostics {
    /// Returns the number of diagnostics.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no diagnostics.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether one of the diagnostics is an error.
    #[must_use]
    pub const fn has_errors(&self) -> bool {
        self.files_with_errors > 0
    }

    /// Returns the diagnostics in the order of path and place.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> + Clone {
        self.files.values().flat_map(|diagnostics| diagnostics.iter())
    }

    /// Returns the errors. Costs nothing if there are none, which is the usual case.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        let files = self.files.values().take(if self.has_errors() { usize::MAX } else { 0 });
        files.flat_map(|diagnostics| diagnostics.iter()).filter(|diagnostic| diagnostic.is_error())
    }

    /// Returns the warnings, without those that a comment accepts.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.iter().filter(|diagnostic| diagnostic.is_warning())
    }

    /// Returns the warnings that `before` does not contain. Files shared with `before` are skipped, so this is cheap
    /// after an incremental reload.
    pub fn new_warnings(&self, before: &Self) -> impl Iterator<Item = &Diagnostic> {
        self.files.not_shared_with(&before.files).flat_map(move |(path, diagnostics)| {
            let known = before.of(path.as_os_str());
            let is_known = move |it: &Diagnostic| known.iter().any(|other| says_the_same(it, other));
            diagnostics.iter().filter(move |diagnostic| diagnostic.is_warning() && !is_known(diagnostic))
        })
    }

    /// Returns the diagnostics of a file.
    pub(crate) fn of(&self, path: &OsStr) -> &[Diagnostic] {
        self.files.get(path).map_or(&[], |diagnostics| diagnostics)
    }

    /// Adds diagnostics to those of their files.
    pub(crate) fn add(&mut self, others: Vec<Diagnostic>) {
        for other in others {
            let path = FilePath(Arc::clone(&other.place.path));
            let mut of_file = self.of(path.as_os_str()).to_vec();
            of_file.push(other);
            self.set(&path, of_file);
        }
    }

    /// Replaces the diagnostics of a file.
    pub(crate) fn set(&mut self, path: &FilePath, diagnostics: Vec<Diagnostic>) {
        let diagnostics = in_order(diagnostics);
        let before = self.of(path.as_os_str());
        // An equal value keeps the shared allocation, so that `new_warnings` skips the file.
        if *before == *diagnostics {
            return;
        }
        let (len, had_errors) = (before.len(), has_errors(before));
        self.files_with_errors -= usize::from(had_errors);
        self.files_with_errors += usize::from(has_errors(&diagnostics));
        self.len = self.len + diagnostics.len() - len;
        if diagnostics.is_empty() {
            self.files.remove(path);
        } else {
            self.files.insert(path.clone(), diagnostics.into());
        }
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        let diagnostics = in_order(diagnostics);
        let files = diagnostics.chunk_by(|one, two| one.place.path.as_os_str() == two.place.path.as_os_str());
        let files = files.map(|of_file| (FilePath(Arc::clone(&of_file[0].place.path)), Arc::from(of_file)));
        let files: OrderedMap<FilePath, Arc<[Diagnostic]>> = files.collect();
        let files_with_errors = files.values().filter(|of_file| has_errors(of_file)).count();
        Self { files, files_with_errors, len: diagnostics.len() }
    }
}

/// Returns whether two diagnostics are equal except for the quoted line: an edit elsewhere in that line is no new
/// warning.
fn says_the_same(one: &Diagnostic, two: &Diagnostic) -> bool {
    let Diagnostic { severity, code, reason, place, message, help, related, excerpt: _, unquoted: _ } = one;
    *severity == two.severity
        && *code == two.code
        && *reason == two.reason
        && *place == two.place
        && *message == two.message
        && *help == two.help
        && *related == two.related
}

/// Returns whether one of the diagnostics is an error.
fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(Diagnostic::is_error)
}

/// Returns diagnostics in the order of path and place, without duplicates. A count of further ones ("and 3 more") comes
/// last of its file.
pub(crate) fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    // Paths are compared by octets, which is the order of `FilePath`.
    diagnostics.sort_by(|one, two| {
        let key = |diagnostic: &Diagnostic| {
            let Place { line, column, path: _ } = diagnostic.place;
            (diagnostic.is_count(), line, column, diagnostic.severity)
        };
        let paths = one.place.path.as_os_str().cmp(two.place.path.as_os_str());
        let messages = || one.message.cmp(&two.message).then_with(|| one.help.cmp(&two.help));
        paths.then_with(|| key(one).cmp(&key(two))).then_with(messages)
    });
    diagnostics.dedup();
    diagnostics
}
