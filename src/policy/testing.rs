//! Policies directories in memory, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;
use crate::document::Diagnostic;

use super::decide::Decision;
use super::load::source::Tree;
use super::load::{Library, ListText, MayBeUnchanged, Reloaded};
use super::model::bindings::{Binding, Bindings};
use super::snapshot::Snapshot;

/// A policies directory in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    pub(super) tree: Tree,
    /// The list files, or the error of reading them.
    pub(super) lists: BTreeMap<PathBuf, Result<Arc<str>, String>>,
    /// Whether list files that were read before count as unchanged.
    pub(super) lists_are_as_before: bool,
    /// The settings of hostgate.toml.
    pub(super) bindings: Bindings,
}

impl Directory {
    /// Returns a directory `p` of these files, in which those that end in `.txt` are list files.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut directory = Self { tree: Tree { root: "p".into(), ..Tree::default() }, ..Self::default() };
        for (path, text) in files {
            directory.write(path, text);
        }
        directory
    }

    /// Writes a policy file, or a list file if its name ends in `.txt`.
    pub(super) fn write(&mut self, path: &str, text: &str) -> &mut Self {
        let (path, text) = (Path::new("p").join(path), Ok(text.into()));
        if path.extension().is_some_and(|extension| extension == "txt") {
            self.lists.insert(path, text);
        } else {
            self.tree.files.insert(path, text);
        }
        self
    }

    pub(super) fn remove(&mut self, path: &str) -> &mut Self {
        let path = Path::new("p").join(path);
        self.lists.remove(&path);
        self.tree.files.remove(&path);
        self
    }

    pub(super) fn default_policy(&mut self, id: &str) -> &mut Self {
        self.bindings.default_policy = Some(Binding::new(id));
        self
    }

    /// Loads the directory for the first time.
    pub(super) fn start(&self) -> Result<(Library, Vec<Diagnostic>), Vec<Diagnostic>> {
        Library::start(&self.tree, &mut |path, held| self.list(path, held), &self.bindings)
    }

    /// Loads the directory for the first time, and panics if that has an error.
    pub(super) fn library(&self) -> Library {
        self.start().unwrap_or_else(|errors| panic!("{}", lines(&errors).join("\n"))).0
    }

    /// Loads the directory again.
    pub(super) fn reload(&self, library: &Library) -> Reloaded {
        library.reload(&self.tree, &mut |path, held| self.list(path, held), &self.bindings)
    }

    /// Returns the errors of a first load as lines.
    pub(super) fn errors(&self) -> Vec<String> {
        lines(&self.start().expect_err("the directory has an error"))
    }

    /// Returns the warnings of a first load as lines.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.start().map_or_else(|errors| lines(&errors), |(_, warnings)| lines(&warnings))
    }

    /// Reads a list file for the loader.
    pub(super) fn list(&self, path: &Path, held: MayBeUnchanged) -> Result<ListText, String> {
        if self.lists_are_as_before && held == MayBeUnchanged::Yes {
            return Ok(ListText::Unchanged);
        }
        let text = self.lists.get(path).cloned().unwrap_or_else(|| Err("not found".to_owned()));
        text.map(|text| ListText::Text(text.to_string()))
    }
}

/// Returns diagnostics as lines, with the text they quote.
pub(super) fn lines<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic>) -> Vec<String> {
    diagnostics.into_iter().map(Diagnostic::with_quotes).collect()
}

pub(super) fn name(text: &str) -> LowerName {
    LowerName::from_text(text).unwrap()
}

/// Decides about a query of `source` for the address of `qname`.
pub(super) fn ask<'s>(snapshot: &'s Snapshot, source: &str, qname: &str) -> Decision<'s> {
    snapshot.decide(&snapshot.asker(source.parse().unwrap(), 0), &name(qname), RecordType::A)
}

/// Returns action and reason of [`ask`] as text, such as `allow rule`.
pub(super) fn verdict(snapshot: &Snapshot, source: &str, qname: &str) -> String {
    let decision = ask(snapshot, source, qname);
    format!("{} {}", decision.action.as_str(), decision.reason.as_str())
}
