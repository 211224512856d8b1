//! The usual reload: what some policies say changed, and nothing else. With 10,000 files the whole way takes a tenth of
//! a second, for it looks at every file several times; this one touches what changed.
//!
//! It is taken only where its outcome is the same, which `library::tests` compare: everything on disk was in force, and
//! the changed files define the same policies, blueprints and clients as before and refer to the same things. Wherever
//! there is something to tell about a changed file, the whole way is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Diagnostic, Placed};

use super::super::preset::shared_hasher;
use super::super::read::{Role, read_file};
use super::super::spec::FileSpec;
use super::super::tree::{Bindings, Tree};
use super::super::{assemble, trial};
use super::{FilePath, Known, Library, Reloaded, Seen, Source, in_force, role};

/// A file that says something else than before.
pub(in crate::policy) struct Changed {
    /// What is in force.
    pub(in crate::policy) before: Arc<FileSpec>,
    /// What is to be.
    pub(in crate::policy) after: Arc<FileSpec>,
}

impl Library {
    /// Goes to what the tree says where only the texts in `changed` are other ones, and lists and bindings are as before;
    /// returns nothing where that is not all, or where something is to be told of it.
    pub(super) fn advance_locally(
        &self,
        tree: &Tree,
        changed: &BTreeSet<PathBuf>,
        bindings: &Bindings,
    ) -> Option<Reloaded> {
        let told = self.settled.as_ref()?;
        let config = bindings.iter().chain(self.bindings.iter()).filter_map(|binding| binding.written.as_ref());
        let mut touched: BTreeSet<&Path> = config.map(|(source, _)| &**source.path()).collect();
        touched.extend(changed.iter().map(PathBuf::as_path));
        let mentions = |diagnostic: &Diagnostic| {
            let related = diagnostic.related.iter().map(|related| &related.place);
            related.chain([&diagnostic.place]).any(|place| touched.contains(&*place.path))
        };
        if bindings.ids() != self.bindings.ids() || told.iter().any(mentions) {
            return None;
        }
        let mut files = Vec::new();
        for path in changed {
            let text = tree.files.get(path)?.as_ref().ok()?;
            let (path, known) = self.files.get_key_value(path.as_os_str())?;
            if matches!(&known.seen, Seen::Text(seen) if seen == text) {
                continue;
            }
            let before = known.in_force.clone()?;
            let role @ Role::Policies = role(&tree.root, path)? else { return None };
            let source = Source::new(Arc::clone(&path.0), Arc::clone(text));
            let (after, diagnostics) = read_file(&source, role, shared_hasher());
            if !diagnostics.is_empty() || !has_same_shape(&before, &after) {
                return None;
            }
            files.push((path.clone(), Arc::clone(text), Changed { before, after: Arc::new(after) }));
        }
        let changes: Vec<&Changed> = files.iter().map(|(.., change)| change).collect();
        if changes.is_empty() {
            return None;
        }
        let compiled = self.compiled.with_changed(&changes)?;
        let mut snapshot = assemble::changed(&self.snapshot, &compiled, &changes);
        let mut known: BTreeMap<FilePath, Known<FileSpec>> =
            self.files.iter().map(|(path, known)| (path.clone(), known.share())).collect();
        for (path, text, Changed { after, .. }) in &files {
            let (read, in_force) = (Some(Arc::clone(after)), Some(Arc::clone(after)));
            let seen = Seen::Text(Arc::clone(text));
            known.insert(path.clone(), Known { seen, read, is_good: true, diagnostics: Arc::new([]), in_force });
        }
        let all = in_force(&known);
        let mut warnings = Vec::new();
        if !trial::run(&all, &snapshot, &mut warnings).is_empty() || !warnings.is_empty() {
            return None;
        }
        let lists = self.lists_in_force();
        snapshot.generation = self.snapshot.generation + 1;
        snapshot.hash = assemble::hash(&tree.root, &all, &lists, bindings);
        let library = Self {
            files: known,
            lists: self.share_lists(),
            bindings: bindings.clone(),
            compiled,
            snapshot: Arc::new(snapshot),
            settled: self.settled.clone(),
        };
        Some(Reloaded { library, swapped: true, diagnostics: told.to_vec(), held_back: Vec::new() })
    }
}

/// Returns whether two states of a file differ in nothing that has to do with other files: they define the same ids and
/// refer to the same ones.
fn has_same_shape(before: &FileSpec, after: &FileSpec) -> bool {
    fn pairs<'s, T>(one: &'s [T], two: &'s [T], is_same: impl Fn(&T, &T) -> bool) -> bool {
        one.len() == two.len() && one.iter().zip(two).all(|(one, two)| is_same(one, two))
    }
    fn values<'s, T: PartialEq>(one: &'s [Placed<T>], two: &'s [Placed<T>]) -> bool {
        pairs(one, two, |one, two| one.value == two.value)
    }
    let id = |id: &Option<Placed<Arc<str>>>| id.as_ref().map(|id| Arc::clone(&id.value));
    pairs(&before.policies, &after.policies, |one, two| {
        one.id.value == two.id.value
            && one.allow_all == two.allow_all
            && values(&one.include, &two.include)
            && values(&one.allowed_lists, &two.allowed_lists)
            && values(&one.denied_lists, &two.denied_lists)
    }) && pairs(&before.blueprints, &after.blueprints, |one, two| {
        one.id.value == two.id.value
            && id(&one.build_policy) == id(&two.build_policy)
            && id(&one.runtime_policy) == id(&two.runtime_policy)
    }) && pairs(&before.clients, &after.clients, |one, two| {
        one.id.value == two.id.value
            && values(&one.sources, &two.sources)
            && id(&one.blueprint) == id(&two.blueprint)
            && one.phase == two.phase
            && id(&one.policy) == id(&two.policy)
    }) && pairs(&before.records, &after.records, |one, two| one.id.value == two.id.value)
        && pairs(&before.tests, &after.tests, |one, two| one.client.value == two.client.value)
        && after.is_whole
}
