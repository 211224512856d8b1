//! What there is to tell about the files, by the file it is told of: a copy costs little, and one file's part is
//! replaced without a look at the others.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::document::{Diagnostic, Place};

use super::source::FilePath;
use crate::util::persistent_map::OrderedMap;

/// Diagnostics in the order of path and place, each told once; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// Those of each file of which there is something to tell, in order.
    files: OrderedMap<FilePath, Arc<[Diagnostic]>>,
    /// How many files have errors.
    files_with_errors: usize,
    /// How many there are.
    len: usize,
}

impl Diagnostics {
    /// Returns the number of diagnostics.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is nothing to tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether one is an error.
    #[must_use]
    pub const fn has_errors(&self) -> bool {
        self.files_with_errors > 0
    }

    /// Returns the diagnostics in the order of path and place.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> + Clone {
        self.files.values().flat_map(|diagnostics| diagnostics.iter())
    }

    /// Returns the errors; costs nothing where there is none.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        let files = self.files.values().take(if self.has_errors() { usize::MAX } else { 0 });
        files.flat_map(|diagnostics| diagnostics.iter()).filter(|diagnostic| diagnostic.is_error())
    }

    /// Returns the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.iter().filter(|diagnostic| diagnostic.is_warning())
    }

    /// Returns the warnings that `before` does not have; costs little where `before` is what this was made from.
    pub fn new_warnings(&self, before: &Self) -> impl Iterator<Item = &Diagnostic> {
        self.files.not_shared_with(&before.files).flat_map(move |(path, diagnostics)| {
            let known = before.of(path.as_os_str());
            let is_known = move |it: &Diagnostic| known.iter().any(|other| says_the_same(it, other));
            diagnostics.iter().filter(move |diagnostic| diagnostic.is_warning() && !is_known(diagnostic))
        })
    }

    /// Returns what is told of a file.
    pub(crate) fn of(&self, path: &OsStr) -> &[Diagnostic] {
        self.files.get(path).map_or(&[], |diagnostics| diagnostics)
    }

    /// Adds what is told of files besides.
    pub(crate) fn add(&mut self, others: Vec<Diagnostic>) {
        for other in others {
            let path = FilePath(Arc::clone(&other.place.path));
            let mut of_file = self.of(path.as_os_str()).to_vec();
            of_file.push(other);
            self.set(&path, of_file);
        }
    }

    /// Replaces what is told of a file.
    pub(crate) fn set(&mut self, path: &FilePath, diagnostics: Vec<Diagnostic>) {
        let diagnostics = in_order(diagnostics);
        let before = self.of(path.as_os_str());
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

/// Puts diagnostics in order.
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

/// Returns whether two read alike: the line that is shown with them does not count.
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

/// Returns whether one is an error.
fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(Diagnostic::is_error)
}

/// Puts diagnostics in the order of path and place, each told once; of a file, how many more there are comes last.
pub(crate) fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    // Paths by their bytes, as `FilePath` has them.
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
