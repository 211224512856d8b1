//! The findings of a full load: diagnostics, and the files that are held back, of which the previous version stays in
//! force.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Severity};

use super::file_state::FileState;
use crate::policy::load::compile::Lists;
use crate::policy::load::conflict::Files;
use crate::policy::load::lint::{self, CrossFileLints};
use crate::policy::load::source::FilePath;
use crate::policy::model::spec::FileSpec;

/// The findings of a full load.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The errors and warnings.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The files whose contents on disk are not in force.
    pub(super) held_back: BTreeSet<PathBuf>,
    /// The number of reported diagnostics that bad files have by themselves, without a look at other files.
    errors_of_files: usize,
    /// The number of files with errors that were not reported.
    left_out: usize,
}

/// The number of errors that files have by themselves above which each further file reports only its first one. Without
/// such limits, the status and a log line had up to 11 MB (2026-11-30).
const MANY_ERRORS: usize = 500;
/// The number of errors that files have by themselves above which further files are only counted.
const MAX_ERRORS: usize = 2_000;

impl Report {
    /// Adds the errors and warnings that a bad file or list has by itself. After [`MANY_ERRORS`], only the first error
    /// of a file is kept, in `known` too; after [`MAX_ERRORS`], the file is only counted.
    pub(super) fn add_errors_of<T>(&mut self, known: &mut FileState<T>) {
        if self.errors_of_files >= MANY_ERRORS && known.diagnostics.len() > 1 {
            // An error with a line is preferred: those about the whole file may only count others.
            let first = known.diagnostics.iter().find(|it| it.is_error() && it.place.line > 0);
            let first = first.or_else(|| known.diagnostics.first()).cloned();
            let more = known.diagnostics.len() - 1;
            let rest = first.as_ref().map(|first| {
                let message = format!("and more errors in this file ({more} of them left out)");
                Diagnostic::about_file(&first.place.path, message)
            });
            known.diagnostics = first.into_iter().chain(rest).collect();
        }
        if self.errors_of_files >= MAX_ERRORS {
            self.left_out += 1;
            return;
        }
        self.errors_of_files += known.diagnostics.len();
        self.diagnostics.extend(known.diagnostics.iter().cloned());
    }

    /// Returns the diagnostic about the files whose errors were not reported.
    pub(super) fn rest(&self, root: &Path) -> Option<Diagnostic> {
        let left_out = self.left_out;
        (left_out > 0).then(|| Diagnostic::about_file(root, format!("and errors in {left_out} more files")))
    }

    /// Marks a file as held back.
    pub(super) fn hold_back(&mut self, path: &Path) {
        self.held_back.insert(path.to_owned());
    }

    /// Marks every file as held back whose contents on disk are not the version in force.
    pub(super) fn hold_back_all(&mut self, files: &BTreeMap<FilePath, FileState<FileSpec>>, in_force: &Files) {
        for (path, file) in files {
            let is_in_force = match (&file.read, in_force.get(path)) {
                (Some(read), Some(before)) => Arc::ptr_eq(read, before),
                _ => false,
            };
            if !is_in_force {
                self.hold_back(path);
            }
        }
    }

    /// Adds the warnings of all files that are to go into force.
    pub(super) fn add_warnings(
        &mut self,
        lints: &CrossFileLints<'_>,
        (files, candidates): (&BTreeMap<FilePath, FileState<FileSpec>>, &Files),
        lists: &Lists,
    ) {
        for file in candidates.values() {
            lints.warn_of_file(file, &mut self.diagnostics);
        }
        lints.warn_of_bindings(&mut self.diagnostics);
        self.add_warnings_of(files, candidates);
        let accepted = lint::of_lists(candidates, lists, &mut self.diagnostics);
        self.add_complaints(files, candidates, lists, accepted);
    }

    /// Adds the warnings about comments that accept warnings: malformed ones, and those that accept nothing.
    fn add_complaints(
        &mut self,
        files: &BTreeMap<FilePath, FileState<FileSpec>>,
        candidates: &Files,
        lists: &Lists,
        mut accepted: HashSet<(Arc<Path>, u32, Code)>,
    ) {
        // `accepted` has the comments that accept warnings of lists; those of all other accepted warnings are added.
        let here = self.diagnostics.iter().filter(|it| it.severity == Severity::Accepted);
        accepted.extend(here.filter_map(|it| Some((Arc::clone(&it.place.path), it.place.line, it.code?))));
        let is_used = |path: &Arc<Path>, line, code| accepted.contains(&(Arc::clone(path), line, code));
        for (path, file) in candidates {
            // A held back file reports only its errors, so a comment in it may seem to accept nothing.
            let Some(accepts) = file.source.accepts().filter(|_| is_as_read(files.get(path), file)) else { continue };
            self.diagnostics.extend(accepts.complaints(|line, code| is_used(file.source.path(), line, code)));
        }
        for list in lists.values() {
            let Some(accepts) = &list.accepts else { continue };
            let path = list.named.path.as_path().into();
            self.diagnostics.extend(accepts.complaints(|line, code| is_used(&path, line, code)));
        }
    }

    /// Adds the warnings that files have by themselves, of those that go into force as they are on disk.
    fn add_warnings_of(&mut self, files: &BTreeMap<FilePath, FileState<FileSpec>>, candidates: &Files) {
        for (path, file) in files {
            if candidates.get(path).is_some_and(|candidate| is_as_read(Some(file), candidate)) {
                self.diagnostics.extend(file.diagnostics.iter().cloned());
            }
        }
    }
}

/// Returns whether a file goes into force as it is on disk.
fn is_as_read(known: Option<&FileState<FileSpec>>, candidate: &Arc<FileSpec>) -> bool {
    let read = known.filter(|known| known.is_good).and_then(|known| known.read.as_ref());
    read.is_some_and(|read| Arc::ptr_eq(read, candidate))
}
