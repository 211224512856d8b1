//! What is found during a load.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Severity};

use super::known::Known;
use crate::policy::load::compile::Lists;
use crate::policy::load::conflict::Files;
use crate::policy::load::lint::{self, Across};
use crate::policy::load::source::FilePath;
use crate::policy::model::spec::FileSpec;

/// What is found during a load.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What is wrong.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The files that say something else than what is in force.
    pub(super) held_back: BTreeSet<PathBuf>,
    /// How many errors of files by themselves were told.
    errors_of_files: usize,
    /// How many files have errors that were not told.
    left_out: usize,
}

/// Errors of files by themselves, all together, after which a file keeps one.
const MANY_ERRORS: usize = 500;
/// Errors of files by themselves after which files are only counted.
const MAX_ERRORS: usize = 2_000;

impl Report {
    /// Adds what is wrong with a file or list by itself; when much is wrong already, the file keeps one error, and then
    /// it is told by the number of such files alone.
    pub(super) fn add_errors_of<T>(&mut self, known: &mut Known<T>) {
        if self.errors_of_files >= MANY_ERRORS && known.diagnostics.len() > 1 {
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

    /// Returns what is to be said of the files whose errors were not told.
    pub(super) fn rest(&self, root: &Path) -> Option<Diagnostic> {
        let left_out = self.left_out;
        (left_out > 0).then(|| Diagnostic::about_file(root, format!("and errors in {left_out} more files")))
    }

    /// Notes that a file is held back.
    pub(super) fn hold_back(&mut self, path: &Path) {
        self.held_back.insert(path.to_owned());
    }

    /// Notes that every file that changed is held back.
    pub(super) fn hold_back_all(&mut self, files: &BTreeMap<FilePath, Known<FileSpec>>, in_force: &Files) {
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

    /// Adds the warnings of all that is to go into force.
    pub(super) fn add_warnings(
        &mut self,
        across: &Across<'_>,
        (files, candidates): (&BTreeMap<FilePath, Known<FileSpec>>, &Files),
        lists: &Lists,
    ) {
        for file in candidates.values() {
            across.warn_of_file(file, &mut self.diagnostics);
        }
        across.warn_of_bindings(&mut self.diagnostics);
        self.add_warnings_of(files, candidates);
        let accepted = lint::of_lists(candidates, lists, &mut self.diagnostics);
        self.add_complaints(files, candidates, lists, accepted);
    }

    /// Adds what is wrong with comments that accept warnings, those that accept nothing too.
    fn add_complaints(
        &mut self,
        files: &BTreeMap<FilePath, Known<FileSpec>>,
        candidates: &Files,
        lists: &Lists,
        mut accepted: HashSet<(Arc<Path>, u32, Code)>,
    ) {
        let here = self.diagnostics.iter().filter(|it| it.severity == Severity::Accepted);
        accepted.extend(here.filter_map(|it| Some((Arc::clone(&it.place.path), it.place.line, it.code?))));
        let is_used = |path: &Arc<Path>, line, code| accepted.contains(&(Arc::clone(path), line, code));
        for (path, file) in candidates {
            // Of a file that is held back, the warnings of what is in force instead are not told.
            let Some(accepts) = file.source.accepts().filter(|_| is_as_read(files.get(path), file)) else { continue };
            self.diagnostics.extend(accepts.complaints(|line, code| is_used(file.source.path(), line, code)));
        }
        for list in lists.values() {
            let Some(accepts) = &list.accepts else { continue };
            let path = list.named.path.as_path().into();
            self.diagnostics.extend(accepts.complaints(|line, code| is_used(&path, line, code)));
        }
    }

    /// Adds the warnings of the files that are to go into force as they are.
    fn add_warnings_of(&mut self, files: &BTreeMap<FilePath, Known<FileSpec>>, candidates: &Files) {
        for (path, file) in files {
            if candidates.get(path).is_some_and(|candidate| is_as_read(Some(file), candidate)) {
                self.diagnostics.extend(file.diagnostics.iter().cloned());
            }
        }
    }
}

/// Returns whether a file goes into force as it is on disk.
fn is_as_read(known: Option<&Known<FileSpec>>, candidate: &Arc<FileSpec>) -> bool {
    let read = known.filter(|known| known.is_good).and_then(|known| known.read.as_ref());
    read.is_some_and(|read| Arc::ptr_eq(read, candidate))
}
