//! The usual reload: a few files that come, change or go. With 10,000 files the whole way takes a tenth of a second, for
//! it looks at every file several times; this one touches what changed and what that touches.
//!
//! It is taken only where its outcome is the same, which `library::tests` compare: everything on disk was in force but for
//! files that are bad by themselves, and nothing is wrong or doubtful with what changed. What the files say together with others is looked up in
//! [`Links`](crate::policy::load::references::Links), which are kept from reload to reload; everything kept is an
//! [`OrderedMap`](crate::util::persistent_map::OrderedMap), of which the next version shares what did not change.

pub(crate) mod delta;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Diagnostic, Severity, Source};

use self::delta::{Changed, Step};
use super::full::MAX_DANGLING;
use super::known::Kept;
use super::{Library, Reloaded, Settled, list_references, role};
use crate::policy::load::lint::Across;
use crate::policy::load::preset::shared_hasher;
use crate::policy::load::read::{Role, read_file};
use crate::policy::load::source::{FilePath, Tree};
use crate::policy::load::{assemble, file_tests};
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::FileSpec;

/// A file as it is, with the warnings of it alone.
type Read = (Changed, Vec<Diagnostic>);

impl Library {
    /// Goes to what the tree says where only the texts in `changed` may be other ones, and lists are as before; returns
    /// nothing where that is not all, or where something is wrong or may be.
    pub(super) fn advance_locally(
        &self,
        tree: &Tree,
        changed: &BTreeSet<PathBuf>,
        bindings: &Bindings,
    ) -> Option<Reloaded> {
        let settled = self.settled.as_ref().filter(|settled| settled.root == tree.root)?;
        let mut config = bindings.iter().chain(self.bindings.iter()).filter_map(|binding| binding.written.as_ref());
        // What is told of the configuration may stand elsewhere in it.
        let is_dangling = |path: &Path| self.dangling.iter().any(|error| *error.place.path == *path);
        // Of very many references to what is gone, not all are known.
        if bindings.ids() != self.bindings.ids()
            || self.dangling.len() >= MAX_DANGLING
            || config
                .any(|(source, _)| !settled.told.of(source.path().as_os_str()).is_empty() || is_dangling(source.path()))
        {
            return None;
        }
        let (files, warnings): (Vec<Changed>, Vec<_>) = self.changes(tree, changed)?.into_iter().unzip();
        let mut library = Self { bindings: bindings.clone(), ..self.clone() };
        if files.is_empty() {
            return Some(Reloaded {
                library,
                swapped: false,
                diagnostics: settled.told.clone(),
                held_back: settled.held_back.to_vec(),
            });
        }
        let step =
            Step::of(&files).filter(|step| step.fits_into(&self.snapshot, &self.compiled, &settled.links, bindings))?;
        let links = step.links_after(&settled.links);
        library.compiled = self.compiled.with_changed(step.policies());
        let mut snapshot = assemble::next(&self.snapshot, &step, &library.compiled);
        if !step.is_complete(&snapshot, &library.compiled, &links, bindings) {
            return None;
        }
        let mut file_hash = settled.file_hash;
        for (Changed { path, before, after }, warnings) in files.iter().zip(warnings) {
            let below = assemble::below(&tree.root, path);
            if let Some(file) = before {
                file_hash.remove(below, file.hash());
            }
            match after {
                Some(file) => {
                    file_hash.add(below, file.hash());
                    library.files.insert(path.clone(), Kept::settled(Arc::clone(file), &warnings));
                }
                None => library.files.remove(path),
            }
        }
        if !self.has_policy_files(tree) || !library.has_policy_files(tree) {
            return None;
        }
        for (blueprint, phase) in step.other_policies() {
            for (file, number) in links.inheriting(blueprint, phase) {
                assemble::bind(&mut snapshot, file, number, &library.compiled);
            }
        }
        let tested = links.tests().filter_map(|path| library.files.get(path)?.in_force().map(|file| &**file));
        let mut not_run = Vec::new();
        if !file_tests::run(tested, &snapshot, &mut not_run).files.is_empty() || !not_run.is_empty() {
            return None;
        }
        // What comes refers to nothing that is gone, and nothing waits for it.
        if files.iter().any(|changed| is_dangling(&changed.path)) {
            let is_left = |error: &&Diagnostic| !files.iter().any(|changed| *changed.path.0 == *error.place.path);
            library.dangling = self.dangling.iter().filter(is_left).cloned().collect();
        }
        snapshot.generation = self.snapshot.generation + 1;
        snapshot.hash = assemble::hash(file_hash, settled.list_hash, bindings);
        library.snapshot = Arc::new(snapshot);
        let told = settled.told.clone();
        let (root, held_back) = (settled.root.clone(), Arc::clone(&settled.held_back));
        let next = Settled { root, told, held_back, links, file_hash, ..*settled };
        library.settled = Some(library.tell(settled, next, &step, &files)?);
        let diagnostics = library.settled.as_ref()?.told.clone();
        Some(Reloaded { library, swapped: true, diagnostics, held_back: settled.held_back.to_vec() })
    }

    /// Reads the files that changed; returns nothing where one cannot be, or is wrong.
    fn changes(&self, tree: &Tree, changed: &BTreeSet<PathBuf>) -> Option<Vec<Read>> {
        let mut files = Vec::new();
        for path in changed {
            let text = tree.files.get_key_value(path.as_path());
            let known = self.files.get_key_value(path.as_os_str());
            let before = known.and_then(|(_, known)| known.in_force().cloned());
            // What is held back may be good now, or gone.
            if let Some((_, Kept::Other(known))) = known {
                match text {
                    Some((_, Ok(text))) if known.holds(text) => continue,
                    _ => return None,
                }
            }
            let (path, after, warnings) = match (text, known) {
                (Some((_, Ok(text))), Some((_, known))) if known.is_settled_as(text) => continue,
                (Some((path, Ok(text))), known) => {
                    let path = known.map_or_else(|| FilePath(Arc::clone(path)), |(path, _)| path.clone());
                    let role = role(&tree.root, &path).filter(|role| role.is_of_policies())?;
                    let is_private = tree.private.contains(&*path.0);
                    let source = Source::new(Arc::clone(&path.0), Arc::clone(text)).private(is_private);
                    let (mut after, diagnostics) = read_file(&source, role, shared_hasher());
                    after.share_references(|id| self.share_id(id));
                    if !after.is_whole() || diagnostics.iter().any(Diagnostic::is_error) {
                        return None;
                    }
                    (path, Some(Arc::new(after)), diagnostics)
                }
                (Some((_, Err(_))), _) => return None,
                (None, Some((path, _))) => (path.clone(), None, Vec::new()),
                (None, None) => continue,
            };
            // What is told of a list is not told of a policy file; one that is both is left to the whole way.
            if !role(&tree.root, &path).is_some_and(Role::is_of_policies) || self.is_list(&path) {
                return None;
            }
            // What comments accept of lists is told of the lists.
            if before.iter().chain(&after).any(accepts_of_lists) {
                return None;
            }
            files.push((Changed { path, before, after }, warnings));
        }
        Some(files)
    }

    /// Lets an id be that of the policy or blueprint in force.
    fn share_id(&self, id: &mut Arc<str>) {
        let blueprint = self.snapshot.blueprints.get_key_value(&**id).map(|(known, _)| known);
        let known = blueprint.or_else(|| self.snapshot.policies.get_key_value(&**id).map(|(known, _)| known));
        if let Some(known) = known {
            *id = Arc::clone(known);
        }
    }

    /// Returns whether there is a file that is not in `presets/`: without one, there is something to tell.
    fn has_policy_files(&self, tree: &Tree) -> bool {
        self.files.iter().any(|(path, _)| role(&tree.root, path).is_some_and(Role::is_of_policies))
    }

    /// Tells anew what there is to tell of the files that a step touches; `self` is as after it, but for that.
    fn tell(&self, before: &Settled, mut next: Settled, step: &Step<'_>, files: &[Changed]) -> Option<Settled> {
        let across =
            Across { compiled: &self.compiled, snapshot: &self.snapshot, links: &next.links, bindings: &self.bindings };
        let mut touched: BTreeSet<FilePath> = files.iter().map(|changed| changed.path.clone()).collect();
        // All tests were run; that one was not may have been told before.
        let is_told = |path: &&FilePath| !before.told.of(path.as_os_str()).is_empty();
        touched.extend(before.links.tests().filter(is_told).cloned());
        for id in step.policies_referred_to() {
            // Whether nothing refers to it is told of the file that defines it.
            if before.links.uses(id).is_none() != next.links.uses(id).is_none()
                && let Some(policy) = self.compiled.policy(id)
            {
                touched.insert(FilePath(Arc::clone(policy.source().path())));
            }
        }
        for (id, phase) in step.inherited() {
            // As whose policy a blueprint names none is told of the blueprint.
            if let Some(blueprint) = self.snapshot.blueprint(id).filter(|blueprint| blueprint.policy(phase).is_none()) {
                touched.insert(FilePath(Arc::clone(blueprint.source().path())));
            }
        }
        for path in touched {
            let mut diagnostics = Vec::new();
            if self.is_list(&path) {
                return None;
            }
            if let Some(known) = self.files.get(&path) {
                // Of one that is held back: what is wrong with it, and what is told of what is in force instead.
                diagnostics.extend(known.diagnostics().iter().cloned());
                if let Some(file) = known.in_force() {
                    let policies = file.policies().iter();
                    diagnostics.extend(policies.flat_map(|spec| self.compiled.warnings_of(&spec.id.value)).cloned());
                    across.warn_of_file(file, &mut diagnostics);
                    if accepts_of_lists(file) {
                        return None;
                    }
                    if let (Some(accepts), Kept::Settled(..)) = (file.source.accepts(), known) {
                        let accepted = diagnostics.iter().filter(|it| it.severity == Severity::Accepted);
                        let accepted: HashSet<_> = accepted.map(|it| (it.place.line, it.code)).collect();
                        diagnostics.extend(accepts.complaints(|line, code| accepted.contains(&(line, Some(code)))));
                    }
                }
            }
            next.told.set(&path, diagnostics);
        }
        Some(next)
    }
}

/// Returns whether comments of a file may accept warnings of lists that it names.
fn accepts_of_lists(file: &Arc<FileSpec>) -> bool {
    file.source.accepts().is_some() && list_references(file).next().is_some()
}
