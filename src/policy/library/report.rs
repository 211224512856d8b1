//! What is found during a load.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::Diagnostic;

use super::super::conflict::Files;
use super::super::spec::FileSpec;
use super::super::tree::FilePath;
use super::known::Known;

/// What is found during a load.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What is wrong.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The files that say something else than what is in force.
    pub(super) held_back: BTreeSet<PathBuf>,
}

impl Report {
    /// Returns whether anything is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
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

    /// Adds the warnings of the files that are to go into force as they are.
    pub(super) fn add_warnings_of(&mut self, files: &BTreeMap<FilePath, Known<FileSpec>>, candidates: &Files) {
        for (path, file) in files {
            let is_candidate = match (&file.read, candidates.get(path)) {
                (Some(read), Some(candidate)) => file.is_good && Arc::ptr_eq(read, candidate),
                _ => false,
            };
            if is_candidate {
                self.diagnostics.extend(file.diagnostics.iter().cloned());
            }
        }
    }
}
