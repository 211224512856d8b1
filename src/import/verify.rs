//! Verification of an import: the written text is loaded as a policy or list, so that its errors and warnings are shown
//! at once.

use std::path::{Path, PathBuf};

use super::{Effect, Target, Written};
use crate::document::Diagnostic;
use crate::policy::{Binding, Bindings, Library, ListText, Tree};

/// The directory that the text is loaded as part of; it does not exist on disk.
const ROOT: &str = "imported";

impl Written {
    /// Loads the text as `hostgate check` would. Returns its warnings, and errors if there are any (a defect of the
    /// import). A list file of unknown effect is loaded as one that allows, which is checked more strictly.
    pub(crate) fn diagnostics(&self, id: &str, name: &str) -> Vec<Diagnostic> {
        let policy = match (self.target, self.effect) {
            (Target::Toml, _) => self.text.clone(),
            (Target::List, Some(Effect::Deny)) => "[policy.imported]\ndenied_hostnames_files = [\"list\"]\n".to_owned(),
            (Target::List, _) => "[policy.imported]\nallowed_hostnames_files = [\"list\"]\n".to_owned(),
        };
        let id = if self.target == Target::Toml { id } else { "imported" };
        let root = PathBuf::from(ROOT);
        let mut tree = Tree { root: root.clone(), ..Tree::default() };
        tree.files.insert(root.join("policy.toml"), Ok(policy.into()));
        let bindings = Bindings { default_policy: Some(Binding::new(id)), ..Bindings::default() };
        let list = |_: &Path, _| Ok(ListText::Text(self.text.clone()));
        let mut list = list;
        let diagnostics = match Library::start(&tree, &mut list, &bindings) {
            Ok((_, warnings)) => warnings,
            Err(diagnostics) => diagnostics,
        };
        let written = if self.target == Target::Toml { root.join("policy.toml") } else { root.join("list") };
        diagnostics
            .into_iter()
            .map(|mut diagnostic| {
                if *diagnostic.place.path == *written {
                    diagnostic.place.path = Path::new(name).into();
                }
                diagnostic
            })
            .collect()
    }
}
