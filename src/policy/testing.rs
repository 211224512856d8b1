//! Directories of policies for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;
use crate::document::Diagnostic;

use super::decide::Decision;
use super::load::source::Tree;
use super::load::{Held, Library, ListText, Reloaded};
use super::model::bindings::{Binding, Bindings};
use super::snapshot::Snapshot;

/// A policies directory in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// The policy files.
    pub(super) tree: Tree,
    /// The list files.
    pub(super) lists: BTreeMap<PathBuf, Result<Arc<str>, String>>,
    /// Whether lists that were read before have not changed since.
    pub(super) lists_are_as_before: bool,
    /// What hostgate.toml says.
    pub(super) bindings: Bindings,
}

impl Directory {
    /// Makes a directory `p` of these files; those that end in `.txt` are lists.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut directory = Self { tree: Tree { root: "p".into(), ..Tree::default() }, ..Self::default() };
        for (path, text) in files {
            directory.write(path, text);
        }
        directory
    }

    /// Writes a file.
    pub(super) fn write(&mut self, path: &str, text: &str) -> &mut Self {
        let (path, text) = (Path::new("p").join(path), Ok(text.into()));
        if path.extension().is_some_and(|extension| extension == "txt") {
            self.lists.insert(path, text);
        } else {
            self.tree.files.insert(path, text);
        }
        self
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, path: &str) -> &mut Self {
        let path = Path::new("p").join(path);
        self.lists.remove(&path);
        self.tree.files.remove(&path);
        self
    }

    /// Makes `id` the default policy.
    pub(super) fn default_policy(&mut self, id: &str) -> &mut Self {
        self.bindings.default_policy = Some(Binding::new(id));
        self
    }

    /// Loads it for the first time.
    pub(super) fn start(&self) -> Result<(Library, Vec<Diagnostic>), Vec<Diagnostic>> {
        Library::start(&self.tree, &mut |path, held| self.list(path, held), &self.bindings)
    }

    /// Loads it for the first time; it has to be good.
    pub(super) fn library(&self) -> Library {
        self.start().unwrap_or_else(|errors| panic!("{}", lines(&errors).join("\n"))).0
    }

    /// Loads it again.
    pub(super) fn reload(&self, library: &Library) -> Reloaded {
        library.reload(&self.tree, &mut |path, held| self.list(path, held), &self.bindings)
    }

    /// Returns the errors of a first load, as lines.
    pub(super) fn errors(&self) -> Vec<String> {
        lines(&self.start().expect_err("the directory has an error"))
    }

    /// Returns the warnings of a first load, as lines.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.start().map_or_else(|errors| lines(&errors), |(_, warnings)| lines(&warnings))
    }

    /// Reads a list.
    pub(super) fn list(&self, path: &Path, held: Held) -> Result<ListText, String> {
        if self.lists_are_as_before && held == Held::Yes {
            return Ok(ListText::Unchanged);
        }
        let text = self.lists.get(path).cloned().unwrap_or_else(|| Err("not found".to_owned()));
        text.map(|text| ListText::Text(text.to_string()))
    }
}

/// Returns diagnostics as lines, with what they quote.
pub(super) fn lines<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic>) -> Vec<String> {
    diagnostics.into_iter().map(Diagnostic::with_quotes).collect()
}

/// Parses a name.
pub(super) fn name(text: &str) -> LowerName {
    LowerName::from_text(text).unwrap()
}

/// Decides what `source` gets for the address of `qname`.
pub(super) fn ask<'s>(snapshot: &'s Snapshot, source: &str, qname: &str) -> Decision<'s> {
    snapshot.decide(&snapshot.asker(source.parse().unwrap(), 0), &name(qname), RecordType::A)
}

/// Returns action and reason of [`ask`] as text: `allow rule`.
pub(super) fn verdict(snapshot: &Snapshot, source: &str, qname: &str) -> String {
    let decision = ask(snapshot, source, qname);
    format!("{} {}", decision.action.as_str(), decision.reason.as_str())
}
