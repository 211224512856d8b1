//! The incremental reload of a few files that were added, changed or deleted. With 10,000 files a full reload took 46
//! to 120 ms of CPU time (2026-11-24), as it looks at every file some fifteen times; this one looks at the changed
//! files and at those that they affect.
//!
//! An incremental reload is made only if its result equals that of a full reload; the tests in
//! `load::tests::incremental` compare both. The conditions: everything on disk was in force, except for files that are
//! bad by themselves, and the changed files have no errors.
//!
//! The relations between files are looked up in [`Links`](crate::policy::load::references::Links), which are kept from
//! reload to reload. All state is in [`OrderedMap`](crate::util::persistent_map::OrderedMap)s, whose next version
//! shares what has not changed.

pub(crate) mod object_diff;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bounds::MAX_OBJECTS;
use crate::document::{Diagnostic, Severity, Source};

use self::object_diff::{FileChange, ObjectDiff};
use super::file_state::StoredFile;
use super::full::MAX_DANGLING;
use super::{Baseline, Library, Reloaded, list_references, role};
use crate::policy::load::lint::CrossFileLints;
use crate::policy::load::preset::shared_hasher;
use crate::policy::load::read::{Role, read_file};
use crate::policy::load::source::{FilePath, Tree};
use crate::policy::load::{assemble, file_tests};
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::FileSpec;

/// A changed file, with the warnings that it has by itself.
type Read = (FileChange, Vec<Diagnostic>);

impl Library {
    /// Loads the tree if only the texts in `changed` may differ and the lists are unchanged. Returns `None` if a full
    /// reload is needed: the change affects more than that, or may have errors.
    pub(super) fn advance_incrementally(
        &self,
        tree: &Tree,
        changed: &BTreeSet<PathBuf>,
        bindings: &Bindings,
    ) -> Option<Reloaded> {
        let baseline = self.baseline.as_ref().filter(|baseline| baseline.root == tree.root)?;
        // The sources of hostgate.toml, old and new: a change of it may move the line that a diagnostic is about.
        let mut config = bindings.iter().chain(self.bindings.iter()).filter_map(|binding| binding.written.as_ref());
        let is_dangling = |path: &Path| self.dangling.iter().any(|error| *error.place.path == *path);
        // At the limit some dangling references were left out, so it is unknown which of them the change removes.
        if bindings.ids() != self.bindings.ids()
            || self.dangling.len() >= MAX_DANGLING
            || config.any(|(source, _)| {
                !baseline.diagnostics.of(source.path().as_os_str()).is_empty() || is_dangling(source.path())
            })
        {
            return None;
        }
        let (files, warnings): (Vec<FileChange>, Vec<_>) = self.changes(tree, changed)?.into_iter().unzip();
        let mut library = Self { bindings: bindings.clone(), ..self.clone() };
        if files.is_empty() {
            return Some(Reloaded {
                library,
                swapped: false,
                diagnostics: baseline.diagnostics.clone(),
                held_back: baseline.held_back.to_vec(),
            });
        }
        let diff = ObjectDiff::of(&files)
            .filter(|diff| diff.fits_into(&self.snapshot, &self.compiled, &baseline.links, bindings))?;
        let links = diff.links_after(&baseline.links);
        library.compiled = self.compiled.with_changed(diff.policies());
        let mut snapshot = assemble::next(&self.snapshot, &diff, &library.compiled);
        if snapshot.objects() > MAX_OBJECTS || !diff.is_complete(&snapshot, &library.compiled, &links, bindings) {
            return None;
        }
        let mut file_hash = baseline.file_hash;
        for (FileChange { path, before, after }, warnings) in files.iter().zip(warnings) {
            let below = assemble::below(&tree.root, path);
            if let Some(file) = before {
                file_hash.remove(below, file.hash());
            }
            match after {
                Some(file) => {
                    file_hash.add(below, file.hash());
                    library.files.insert(path.clone(), StoredFile::good(Arc::clone(file), &warnings));
                }
                None => library.files.remove(path),
            }
        }
        if !self.has_policy_files(tree) || !library.has_policy_files(tree) {
            return None;
        }
        for (blueprint, phase) in diff.changed_phases() {
            for (file, number) in links.inheriting(blueprint, phase) {
                assemble::bind(&mut snapshot, file, number, &library.compiled);
            }
        }
        let tested = links.tests().filter_map(|path| library.files.get(path)?.in_force().map(|file| &**file));
        let mut not_run = Vec::new();
        let failures = file_tests::run(tested, &snapshot, &mut not_run);
        // A failing test holds back its own file, if that has changed, which is left to the full reload; as is a test that
        // cannot be run.
        if files.iter().any(|changed| failures.files.contains(&*changed.path.0)) || !not_run.is_empty() {
            return None;
        }
        library.failing = failures.first_of_each().into();
        // As checked above, no changed file has a dangling reference now, and no added object is the target of one in
        // another file. So only errors in the changed files disappear.
        if files.iter().any(|changed| is_dangling(&changed.path)) {
            let is_left = |error: &&Diagnostic| !files.iter().any(|changed| *changed.path.0 == *error.place.path);
            library.dangling = self.dangling.iter().filter(is_left).cloned().collect();
        }
        snapshot.generation = self.snapshot.generation + 1;
        snapshot.hash = assemble::hash(file_hash, baseline.list_hash, bindings);
        library.snapshot = Arc::new(snapshot);
        let diagnostics = baseline.diagnostics.clone();
        let (root, held_back) = (baseline.root.clone(), Arc::clone(&baseline.held_back));
        let next = Baseline { root, diagnostics, held_back, links, file_hash, ..*baseline };
        library.baseline = Some(library.baseline_after(baseline, next, &diff, &files)?);
        let diagnostics = library.baseline.as_ref()?.diagnostics.clone();
        Some(Reloaded { library, swapped: true, diagnostics, held_back: baseline.held_back.to_vec() })
    }

    /// Parses the changed files. Returns `None` if one of them cannot be read, is bad, or was held back.
    fn changes(&self, tree: &Tree, changed: &BTreeSet<PathBuf>) -> Option<Vec<Read>> {
        let mut files = Vec::new();
        for path in changed {
            let text = tree.files.get_key_value(path.as_path());
            let known = self.files.get_key_value(path.as_os_str());
            let before = known.and_then(|(_, known)| known.in_force().cloned());
            // A file that was held back may be good now, or deleted: both may affect other files.
            if let Some((_, StoredFile::Other(known))) = known {
                match text {
                    Some((_, Ok(text))) if known.holds(text) => continue,
                    _ => return None,
                }
            }
            let (path, after, warnings) = match (text, known) {
                (Some((_, Ok(text))), Some((_, known))) if known.is_in_force_as(text) => continue,
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
            // Diagnostics of a list are stored under its path. A file that is both list and policy file is left to the
            // full reload.
            if !role(&tree.root, &path).is_some_and(Role::is_of_policies) || self.is_list(&path) {
                return None;
            }
            // Comments that accept warnings of lists can change the diagnostics of these lists.
            if before.iter().chain(&after).any(accepts_of_lists) {
                return None;
            }
            files.push((FileChange { path, before, after }, warnings));
        }
        Some(files)
    }

    /// Replaces an id by the equal id of a blueprint or policy in force, so that they share memory.
    fn share_id(&self, id: &mut Arc<str>) {
        let blueprint = self.snapshot.blueprints.get_key_value(&**id).map(|(known, _)| known);
        let known = blueprint.or_else(|| self.snapshot.policies.get_key_value(&**id).map(|(known, _)| known));
        if let Some(known) = known {
            *id = Arc::clone(known);
        }
    }

    /// Returns whether a file outside of `presets/` exists. Without one, a full reload reports an error or a warning.
    fn has_policy_files(&self, tree: &Tree) -> bool {
        self.files.iter().any(|(path, _)| role(&tree.root, path).is_some_and(Role::is_of_policies))
    }

    /// Returns the next baseline, with new diagnostics for the files that the change affects; `self` is the library
    /// after the change, except for its baseline. Returns `None` if a full reload is needed.
    fn baseline_after(
        &self,
        before: &Baseline,
        mut next: Baseline,
        diff: &ObjectDiff<'_>,
        files: &[FileChange],
    ) -> Option<Baseline> {
        let lints = CrossFileLints {
            compiled: &self.compiled,
            snapshot: &self.snapshot,
            links: &next.links,
            bindings: &self.bindings,
        };
        let mut touched: BTreeSet<FilePath> = files.iter().map(|changed| changed.path.clone()).collect();
        // All tests ran this time; an earlier load may have reported one as skipped.
        let is_reported = |path: &&FilePath| !before.diagnostics.of(path.as_os_str()).is_empty();
        touched.extend(before.links.tests().filter(is_reported).cloned());
        for id in diff.policies_referred_to() {
            // The warning about a policy that nothing refers to is stored under the file that defines it.
            if before.links.uses(id).is_none() != next.links.uses(id).is_none()
                && let Some(policy) = self.compiled.policy(id)
            {
                touched.insert(FilePath(Arc::clone(policy.source().path())));
            }
        }
        for (id, phase) in diff.inherited() {
            // The warning about a blueprint without a policy names one of its clients, and is stored under the
            // blueprint's file.
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
                // For a file that is held back: the errors on disk, and the warnings of the version in force.
                diagnostics.extend(known.diagnostics().iter().cloned());
                if let Some(file) = known.in_force() {
                    let policies = file.policies().iter();
                    diagnostics.extend(policies.flat_map(|spec| self.compiled.warnings_of(&spec.id.value)).cloned());
                    lints.warn_of_file(file, &mut diagnostics);
                    if accepts_of_lists(file) {
                        return None;
                    }
                    if let (Some(accepts), StoredFile::InForce(..)) = (file.source.accepts(), known) {
                        let accepted = diagnostics.iter().filter(|it| it.severity == Severity::Accepted);
                        let accepted: HashSet<_> = accepted.map(|it| (it.place.line, it.code)).collect();
                        diagnostics.extend(accepts.complaints(|line, code| accepted.contains(&(line, Some(code)))));
                    }
                }
            }
            next.diagnostics.set(&path, diagnostics);
        }
        Some(next)
    }
}

/// Returns whether comments of a file may accept warnings of lists that it names.
fn accepts_of_lists(file: &Arc<FileSpec>) -> bool {
    file.source.accepts().is_some() && list_references(file).next().is_some()
}
