//! The full reload, which looks at every file. It is the reference for correctness: it finds and reports everything
//! that can be wrong; [`super::incremental`] handles the usual change with the same result.
//!
//! The load holds back files in rounds until those left fit together: first files that are bad by themselves, then
//! those that conflict, then those whose tests fail.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Findings, Placed, Severity, Source, quoted};

use super::file_state::{FileState, LastContent, StoredFile};
use super::report::Report;
use super::{
    Baseline, Library, ListText, MayBeUnchanged, NO_SUCH_FILE, OBJECT_FOLDER, OBJECT_PREFIXES, ReadList, Reloaded,
    object_of, role,
};
use crate::policy::load::change_groups::{FilePathRef, connected};
use crate::policy::load::compile::Lists;
use crate::policy::load::conflict::{Candidates, Conflict, DiagnosticBudget, Files, Ids, ObjectKind, references};
use crate::policy::load::diagnostics::Diagnostics;
use crate::policy::load::file_tests::Failures;
use crate::policy::load::lint::CrossFileLints;
use crate::policy::load::list::ListFile;
use crate::policy::load::preset::built_in;
use crate::policy::load::read::Role;
use crate::policy::load::references::Links;
use crate::policy::load::source::{FilePath, Tree};
use crate::policy::load::{assemble, file_tests, held};
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{FileSpec, ListUse};
use crate::util::content_hash::ContentSum;
use crate::util::persistent_map::OrderedMap;

/// The difference between the first load and a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadMode {
    /// The first load: no version is in force to fall back to, so an error makes it fail.
    Start {
        /// Whether a directory without policy files is accepted.
        may_be_empty: bool,
        /// Whether a broken object of the API is left out instead of failing the load.
        leaves_out: bool,
    },
    /// The first load of texts that were in force before. All of them were good together, so a reference to something
    /// that is gone by now denies, as it did then, and tests are not run.
    Again,
    /// A reload: the version in force stays where the new one is bad.
    Reload,
}

impl LoadMode {
    /// The first load, which any error makes fail.
    pub(super) const FIRST: Self = Self::Start { may_be_empty: false, leaves_out: false };
    /// The first load that also accepts a directory without policy files.
    pub(super) const EMPTY: Self = Self::Start { may_be_empty: true, leaves_out: false };

    /// Returns the id of the object in a file of the API, if a broken object is left out in this mode.
    fn left_out<'p>(self, root: &Path, path: &'p Path) -> Option<&'p str> {
        object_of(root, path).filter(|_| self.leaves_out())
    }

    /// Returns whether a broken object of the API is left out.
    const fn leaves_out(self) -> bool {
        matches!(self, Self::Start { leaves_out: true, .. } | Self::Again)
    }

    /// Returns whether files that are bad by themselves make a first load fail. Errors that files cause together are
    /// judged later: one may be caused by an object of the API and be reported for another file.
    fn is_refused(self, root: &Path, files: &BTreeMap<FilePath, FileState<FileSpec>>, report: &Report) -> bool {
        // If the API's folder cannot be read, none of its objects can be.
        let is_folder = |path: &Path| {
            self.leaves_out() && path.strip_prefix(root).is_ok_and(|path| path == Path::new(OBJECT_FOLDER))
        };
        let is_final = |path: &Path| self.left_out(root, path).is_none() && !is_folder(path);
        // The report does not contain all errors of very many bad files, so the states of the files are checked as
        // well.
        self != Self::Reload
            && (files.iter().any(|(path, file)| file.is_bad_alone() && is_final(path))
                || report.diagnostics.iter().any(|it| it.is_error() && is_final(&it.place.path)))
    }
}

impl Library {
    /// Loads the tree, starting from the state in force.
    pub(super) fn advance(
        &self,
        tree: &Tree,
        read_list: ReadList<'_>,
        bindings: &Bindings,
        mode: LoadMode,
    ) -> Reloaded {
        let mut report = Report::default();
        let mut files = self.read_files(tree, mode, &mut report);
        let in_force = self.files.iter().filter_map(|(path, file)| Some((path.clone(), Arc::clone(file.in_force()?))));
        let in_force: Files = in_force.collect();
        let mut candidates = candidates(tree, &files, mode);
        let mut lists = self.read_lists((&tree.root, &candidates), &in_force, read_list, &mut report);
        let usable_lists: Lists =
            lists.iter().filter_map(|(path, list)| Some((path.clone(), list.candidate()?))).collect();
        let budget = DiagnosticBudget::new();
        // Nothing goes into force: the snapshot stays, and the library remembers what was read, which is not parsed
        // again.
        let stop = |mut report: Report, files, lists| {
            report.diagnostics.extend(budget.rest(&tree.root).into_iter().chain(report.rest(&tree.root)));
            report.hold_back_all(&files, &in_force);
            let Report { diagnostics, held_back, .. } = report;
            let files = kept(files);
            let library = Self { files, lists: Arc::new(lists), baseline: None, ..self.clone() };
            let held_back = held_back.into_iter().collect();
            Reloaded { library, swapped: false, diagnostics: diagnostics.into(), held_back }
        };
        let is_refused = mode.is_refused(&tree.root, &files, &report);
        let mut round = 0;
        // Reverting files whose tests fail may make others conflict, so all checks are repeated until nothing fails.
        let (chosen_bindings, used, compiled, mut snapshot, failing) = loop {
            let chosen_bindings = self.resolve_conflicts(
                &mut candidates,
                (tree, &files, &in_force, &usable_lists),
                (bindings, mode),
                (&budget, &mut report),
            );
            let Some(chosen_bindings) = chosen_bindings else { return stop(report, files, lists) };
            if is_refused {
                return stop(report, files, lists);
            }
            let used: Lists = used_lists(&candidates, &usable_lists);
            let definitions = assemble::definitions(&candidates, built_in());
            let compiled = self.compiled.next(&definitions, &used);
            let snapshot = assemble::snapshot(&candidates, &compiled, &chosen_bindings);
            let tested = candidates.values().map(|file| &**file).filter(|_| mode != LoadMode::Again);
            let mut warnings = Vec::new();
            let mut failures = file_tests::run(tested, &snapshot, &mut warnings);
            let failed = failed(&failures, (&candidates, &in_force), mode, round + 1 == MAX_ROUNDS);
            if failed.is_empty() {
                report.diagnostics.extend(warnings);
                break (chosen_bindings, used, compiled, snapshot, failures.first_of_each());
            }
            failures.retain(|path| failed.iter().any(|failed| failed == path));
            report.diagnostics.extend(failures.reported);
            if mode != LoadMode::Reload {
                report.diagnostics.extend(warnings);
                return stop(report, files, lists);
            }
            round += 1;
            for path in &failed {
                report.hold_back(path);
                revert(&mut candidates, &in_force, path);
            }
        };
        report.diagnostics.extend(budget.rest(&tree.root).into_iter().chain(report.rest(&tree.root)));
        report.diagnostics.extend(compiled.warnings().cloned());
        let links = Links::of(&candidates);
        let lints =
            CrossFileLints { compiled: &compiled, snapshot: &snapshot, links: &links, bindings: &chosen_bindings };
        report.add_warnings(&lints, (&files, &candidates), &used);

        // A reload that ends with the same objects swaps nothing: generation and caches stay.
        let unchanged = mode == LoadMode::Reload
            && same(candidates.iter(), in_force.iter())
            && same(used.iter(), self.lists_in_force().iter())
            && chosen_bindings.ids() == self.bindings.ids();
        let (file_hash, list_hash) = hashes(&tree.root, &candidates, &used);
        let snapshot = if unchanged {
            Arc::clone(&self.snapshot)
        } else {
            snapshot.generation = self.snapshot.generation + 1;
            snapshot.hash = assemble::hash(file_hash, list_hash, &chosen_bindings);
            Arc::new(snapshot)
        };
        files.retain(|path, file| {
            file.in_force = candidates.get(path).cloned();
            file.in_force.is_some() || file.seen != LastContent::Absent
        });
        lists.retain(|path, list| {
            list.in_force = used.get(path).cloned();
            true
        });
        let Report { diagnostics, held_back, .. } = report;
        let held_back: Vec<_> = held_back.into_iter().collect();
        let diagnostics = Diagnostics::from(diagnostics);
        let is_baseline = tree.unreadable.is_empty() && is_baseline(&files, &lists, &held_back, &diagnostics);
        let baseline = is_baseline.then(|| Baseline {
            root: tree.root.clone(),
            diagnostics: diagnostics.clone(),
            held_back: held_back.as_slice().into(),
            links,
            file_hash,
            list_hash,
        });
        let dangling = dangling(&tree.root, &candidates, &chosen_bindings).into();
        let (files, lists) = (kept(files), Arc::new(lists));
        let failing = failing.into();
        let library = Self { files, lists, bindings: chosen_bindings, compiled, snapshot, dangling, failing, baseline };
        Reloaded { library, swapped: !unchanged, diagnostics, held_back }
    }

    /// Parses the policy files that have changed.
    fn read_files(&self, tree: &Tree, mode: LoadMode, report: &mut Report) -> BTreeMap<FilePath, FileState<FileSpec>> {
        // A vector first: nodes of a map, allocated between the parsed files, would leave holes in the heap when they
        // are freed.
        let (mut looked, mut ids) = (Vec::with_capacity(tree.files.iter().len()), HashSet::new());
        let mut share = |id: &mut Arc<str>| match ids.get(id) {
            Some(known) => *id = Arc::clone(known),
            None => _ = ids.insert(Arc::clone(id)),
        };
        for (path, text) in tree.files.iter() {
            let before = self.files.get_key_value(path.as_os_str());
            let path = before.map_or_else(|| FilePath(Arc::clone(path)), |(path, _)| path.clone());
            let Some(role) = role(&tree.root, &path) else {
                report.diagnostics.push(stray(&path));
                continue;
            };
            let before = before.map(|(_, kept)| kept.to_state());
            let before = before.as_ref();
            let known = match text {
                Ok(text) => {
                    let is_private = tree.private.contains(&*path.0);
                    let source = Source::new(Arc::clone(&path.0), Arc::clone(text)).private(is_private);
                    FileState::of_file(&source, role, before, &mut share)
                }
                Err(why) => FileState::unreadable(&path, why, role, before),
            };
            let mut known = known;
            if !known.is_good {
                report.hold_back(&path);
                report.add_errors_of(&mut known);
            }
            looked.push((path, known));
        }
        let mut files: BTreeMap<FilePath, FileState<FileSpec>> = looked.into_iter().collect();
        for (folder, why) in &tree.unreadable {
            let message = format!("the folder cannot be read: {why}");
            let error = Diagnostic::about_file(folder, message);
            let help = match mode {
                LoadMode::Reload => "what it held stays in force until it can be read again",
                LoadMode::Start { .. } | LoadMode::Again => "none of its files is in force until it can be read",
            };
            report.diagnostics.push(error.help(help));
            report.hold_back(folder);
        }
        for (path, known) in &self.files {
            if files.contains_key(path) {
                continue;
            }
            if tree.unreadable.keys().any(|folder| path.starts_with(folder)) {
                files.insert(path.clone(), known.to_state());
            } else if let Some(in_force) = known.in_force() {
                // The file was deleted. The version in force is remembered in case the whole reload is refused.
                files.insert(path.clone(), FileState { in_force: Some(Arc::clone(in_force)), ..FileState::absent() });
            }
        }
        let is_policy_file = |(path, file): (&FilePath, &FileState<FileSpec>)| {
            file.seen != LastContent::Absent && role(&tree.root, path).is_some_and(Role::is_of_policies)
        };
        if !files.iter().any(is_policy_file) && tree.unreadable.is_empty() {
            let mut diagnostic = Diagnostic::about_file(&tree.root, "there is no policy file, so everything is denied");
            if !matches!(mode, LoadMode::Start { may_be_empty: false, .. }) {
                diagnostic.severity = Severity::Warning;
                diagnostic.code = Some(Code::NoPolicyFile);
            }
            report.diagnostics.push(diagnostic.help("put one there, as example.toml"));
        }
        files
    }

    /// Reads the list files that have changed, of those that the candidates and the files in force name.
    fn read_lists(
        &self,
        (root, candidates): (&Path, &Files),
        in_force: &Files,
        read_list: ReadList<'_>,
        report: &mut Report,
    ) -> BTreeMap<ListUse, FileState<ListFile>> {
        let mut lists: BTreeMap<ListUse, FileState<ListFile>> = BTreeMap::new();
        let mut unreadable: BTreeMap<&Path, String> = BTreeMap::new();
        // Lists of the files in force are needed if a changed file is held back.
        let mut wanted: BTreeMap<&Path, BTreeMap<&ListUse, bool>> = BTreeMap::new();
        for (files, is_wanted) in [(candidates, true), (in_force, false)] {
            for (_, reference) in files.values().flat_map(|file| list_references(file)) {
                let uses = wanted.entry(reference.value.path.as_path()).or_default();
                uses.entry(&reference.value).or_insert(is_wanted);
            }
        }
        for (path, uses) in wanted {
            // A file is read once, however many uses it has.
            // A list that could not be read has no known contents.
            let is_held = |named: &&ListUse| {
                self.lists.get(*named).is_some_and(|before| matches!(before.seen, LastContent::Fingerprint(..)))
            };
            let held = if uses.keys().all(is_held) { MayBeUnchanged::Yes } else { MayBeUnchanged::No };
            let read = read_list(path, held);
            for (named, is_wanted) in uses {
                let before = self.lists.get(named);
                let known = match (&read, before.filter(|_| held == MayBeUnchanged::Yes)) {
                    (Ok(ListText::Unchanged), Some(held)) => Ok(held.clone()),
                    (Ok(ListText::Unchanged), None) => Err("it was not read".to_owned()),
                    (Ok(ListText::Text(text)), _) => Ok(FileState::of_list(named, text, before)),
                    (Err(why), _) => Err(why.clone()),
                };
                let mut known = known.unwrap_or_else(|why| {
                    unreadable.insert(path, why);
                    FileState { in_force: before.and_then(|before| before.in_force.clone()), ..FileState::absent() }
                });
                if is_wanted && !known.is_good {
                    report.hold_back(path);
                    report.add_errors_of(&mut known);
                }
                lists.insert(named.clone(), known);
            }
        }
        let mut findings = Findings::default();
        for (source, reference) in candidates.values().flat_map(|file| list_references(file)) {
            if let Some(why) = unreadable.get(reference.value.path.as_path()) {
                findings.error(|| {
                    let path = quoted(&reference.value.path.to_string_lossy());
                    let error = source.error(reference.span, format!("list file {path} cannot be read: {why}"));
                    let kept = lists.get(&reference.value).is_some_and(|list| list.in_force.is_some());
                    if kept {
                        error.help("its last content stays in force")
                    } else if why == NO_SUCH_FILE {
                        error.help(not_found_help(&reference.value.path))
                    } else {
                        error
                    }
                });
            }
        }
        report.diagnostics.extend(findings.into_diagnostics(root));
        lists
    }

    /// Reverts the changed files that cannot go into force together to their versions in force.
    ///
    /// Returns the bindings to go into force; `None` if reverting does not help, so that the load fails or everything
    /// is held back.
    fn resolve_conflicts(
        &self,
        files: &mut Files,
        (tree, states, in_force, lists): (&Tree, &BTreeMap<FilePath, FileState<FileSpec>>, &Files, &Lists),
        (bindings, mode): (&Bindings, LoadMode),
        (budget, report): (&DiagnosticBudget, &mut Report),
    ) -> Option<Bindings> {
        let root = tree.root.as_path();
        let ids_in_force = Ids::of(in_force);
        let mut chosen = bindings.clone();
        // The ids of the API's objects that are left out. A reference to one of them is no error: it denies.
        let objects = report.held_back.iter().filter_map(|path| mode.left_out(root, path).map(str::to_owned));
        let mut left_out: BTreeSet<String> = objects.collect();
        // If the API's folder cannot be read, the ids of its objects are unknown.
        let is_folder_left_out = mode.leaves_out() && report.held_back.contains(&root.join(OBJECT_FOLDER));
        for round in 1.. {
            let bindings_in_force = mode == LoadMode::Reload && chosen.ids() == self.bindings.ids();
            let current = files.clone();
            let is_excused = |path: Option<&Path>, id: &str| {
                mode == LoadMode::Again
                    || left_out.contains(id)
                    || is_folder_left_out && OBJECT_PREFIXES.iter().any(|prefix| id.starts_with(prefix))
                    || path.is_some_and(|path| mode.left_out(root, path).is_some())
            };
            let candidates = Candidates {
                root,
                is_excused: &is_excused,
                refuses_tests: !mode.leaves_out(),
                files: &current,
                in_force,
                ids_in_force: &ids_in_force,
                built_in: built_in(),
                lists,
                bindings: &chosen,
                bindings_in_force,
                budget,
            };
            let conflicts = candidates.conflicts();
            if conflicts.is_empty() {
                return Some(chosen);
            }
            let mut taken_back = false;
            let mut take_back_bindings = false;
            let mut take_back = |path: &FilePath, report: &mut Report| {
                taken_back = true;
                report.hold_back(path);
                match in_force.get(path) {
                    Some(before) => files.insert(path.clone(), Arc::clone(before)),
                    None => files.remove(path),
                };
            };
            // One by one, a chain of dependent files takes quadratic time: see `change_groups`.
            if round >= MAX_ROUNDS && mode == LoadMode::Reload {
                let changed = candidates.changed();
                let bad = conflicts.iter().flat_map(|conflict| &conflict.files).map(FilePathRef).collect();
                let all = if round == MAX_ROUNDS {
                    connected(&changed, in_force, &bad)
                } else {
                    changed.into_keys().collect()
                };
                for path in all {
                    report.diagnostics.extend(budget.report(&path, || {
                        let message = "the file depends on changed files that are held back";
                        Diagnostic::about_file(&path, message).help("fix those")
                    }));
                    take_back(&path, report);
                }
            }
            // Of several conflicting objects the newest one is left out: ids sort by creation time. A person's file that
            // claims what an object has is at fault itself: left out, the object would lose its policy or address to it.
            let object = |conflict: &Conflict| {
                let is_among_objects = conflict.files.iter().all(|path| mode.left_out(root, path).is_some());
                conflict.files.iter().max().filter(|_| is_among_objects).cloned()
            };
            let objects: BTreeSet<FilePath> = conflicts.iter().filter_map(object).collect();
            if !objects.is_empty() {
                for path in &objects {
                    take_back(path, report);
                }
                hold(files, &objects.iter().collect::<Vec<_>>(), (tree, mode), states);
                report.diagnostics.extend(conflicts.into_iter().filter_map(|conflict| conflict.diagnostic));
                left_out.extend(objects.iter().filter_map(|path| object_of(root, path)).map(str::to_owned));
                continue;
            }
            for conflict in conflicts {
                report.diagnostics.extend(conflict.diagnostic);
                for path in conflict.files.iter().filter(|path| !candidates.is_in_force(path)) {
                    take_back(path, report);
                }
                take_back_bindings |= conflict.bindings && mode == LoadMode::Reload;
            }
            taken_back |= take_back_bindings;
            if take_back_bindings {
                let places = bindings.iter().filter_map(|binding| binding.written.as_ref());
                places.for_each(|(source, _)| report.hold_back(source.path()));
                chosen = self.bindings.clone();
            }
            if mode != LoadMode::Reload || !taken_back {
                return None;
            }
        }
        None
    }

    /// Returns the list files in force.
    fn lists_in_force(&self) -> Lists {
        self.lists.iter().filter_map(|(path, list)| Some((path.clone(), list.in_force.clone()?))).collect()
    }
}

/// The rounds in which conflicting files are reverted one by one. After that, all files connected with a conflict are
/// reverted at once.
const MAX_ROUNDS: usize = 8;

/// Replaces a file by its version in force, or removes it if there is none.
fn revert(files: &mut Files, in_force: &Files, path: &Path) {
    match in_force.get_key_value(path.as_os_str()) {
        Some((path, before)) => files.insert(path.clone(), Arc::clone(before)),
        None => files.remove(path.as_os_str()),
    };
}

/// Returns the files that are not to go into force because of their failing tests.
///
/// A changed file with a failing test holds back itself, and only itself. In the last round, all changed files with tests
/// are held back. A start that serves has nothing to fall back to: the tests are only reported.
fn failed(
    failures: &Failures,
    (candidates, in_force): (&Files, &Files),
    mode: LoadMode,
    is_last_round: bool,
) -> Vec<PathBuf> {
    let is_changed = |path: &Path| match (candidates.get(path.as_os_str()), in_force.get(path.as_os_str())) {
        (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
        _ => true,
    };
    let mut failed: Vec<PathBuf> = match mode {
        LoadMode::Reload => failures.files.iter().filter(|path| is_changed(path)).cloned().collect(),
        LoadMode::Start { leaves_out: true, .. } | LoadMode::Again => Vec::new(),
        LoadMode::Start { .. } => failures.files.iter().cloned().collect(),
    };
    if is_last_round && !failed.is_empty() && mode == LoadMode::Reload {
        let with_tests = candidates.iter().filter(|(_, file)| !file.tests().is_empty());
        failed.extend(with_tests.map(|(path, _)| path.to_path_buf()).filter(|path| is_changed(path)));
    }
    failed
}

/// Returns the stored form of the files' states.
fn kept(files: BTreeMap<FilePath, FileState<FileSpec>>) -> OrderedMap<FilePath, StoredFile> {
    files.into_iter().map(|(path, known)| (path, known.into())).collect()
}

/// Returns the version of each file that is to go into force, as far as the file itself decides. At a first load a bad
/// file contributes the objects that were understood, so that references to them are not reported as errors as well.
///
/// The addresses of the API's objects that are left out are held.
fn candidates(tree: &Tree, files: &BTreeMap<FilePath, FileState<FileSpec>>, mode: LoadMode) -> Files {
    let candidate = |path: &FilePath, file: &FileState<FileSpec>| match (mode, &file.seen) {
        (_, LastContent::Absent) => None,
        (LoadMode::Reload, _) => file.candidate(),
        _ if !file.is_good && mode.left_out(&tree.root, path).is_some() => None,
        _ => file.read.clone(),
    };
    let mut all: Files = files.iter().filter_map(|(path, file)| Some((path.clone(), candidate(path, file)?))).collect();
    if mode.leaves_out() {
        let left_out: Vec<_> = files.keys().filter(|path| !all.contains_key(*path)).collect();
        hold(&mut all, &left_out, (tree, mode), files);
    }
    all
}

/// Holds the addresses of objects that are left out, if `mode` leaves broken objects out.
fn hold(
    candidates: &mut Files,
    left_out: &[&FilePath],
    (tree, mode): (&Tree, LoadMode),
    files: &BTreeMap<FilePath, FileState<FileSpec>>,
) {
    let objects = left_out.iter().copied().filter_map(|path| {
        let id = mode.left_out(&tree.root, path)?;
        Some((path, id, held::sources(tree, path, files.get(path)?)))
    });
    held::hold(candidates, objects);
}

/// Returns whether everything on disk is in force, except for files that are bad by themselves.
fn is_baseline(
    files: &BTreeMap<FilePath, FileState<FileSpec>>,
    lists: &BTreeMap<ListUse, FileState<ListFile>>,
    held_back: &[PathBuf],
    diagnostics: &Diagnostics,
) -> bool {
    let is_bad_alone = |path: &Path| files.get(path.as_os_str()).is_some_and(FileState::is_bad_alone);
    files.values().all(|file| file.is_in_force() || file.is_bad_alone())
        && lists.values().all(FileState::is_in_force)
        && held_back.iter().all(|path| is_bad_alone(path))
        && diagnostics.errors().all(|error| is_bad_alone(&error.place.path))
}

/// Returns an error for each reference to an object whose file was deleted, except for references from the API's
/// objects, and from tests, which no start refuses.
fn dangling(root: &Path, files: &Files, bindings: &Bindings) -> Vec<Diagnostic> {
    let ids = Ids::of(files);
    let mut all: Vec<Diagnostic> = Vec::new();
    let mut add = |source: &Source, span, kind: &str, id: &str| {
        if all.len() < MAX_DANGLING {
            let error = source.error(span, format!("{kind} {} is gone with its file", quoted(id)));
            all.push(error.help("define it again, or refer to something else"));
        }
    };
    for (_, file) in files.iter().filter(|(path, _)| object_of(root, path).is_none()) {
        for (kind, source, reference) in references(file) {
            if !ids.defines(kind, &reference.value, built_in()) {
                add(source, reference.span, kind.as_str(), &reference.value);
            }
        }
    }
    for binding in bindings.iter().filter(|binding| !ids.defines(ObjectKind::Policy, &binding.policy, built_in())) {
        if let Some((source, span)) = &binding.written {
            add(source, *span, "policy", &binding.policy);
        }
    }
    all
}

/// The most dangling references that are reported.
pub(super) const MAX_DANGLING: usize = 100;

/// Returns the hash of the policy files and the hash of the list files.
fn hashes(root: &Path, files: &Files, lists: &Lists) -> (ContentSum, ContentSum) {
    let (mut of_files, mut of_lists) = (ContentSum::default(), ContentSum::default());
    for (path, file) in files {
        of_files.add(assemble::below(root, path), file.hash());
    }
    for (named, list) in lists {
        of_lists.add(assemble::below(root, &named.path), list.hash);
    }
    (of_files, of_lists)
}

/// Returns the list files that the files name.
fn used_lists(files: &Files, lists: &Lists) -> Lists {
    let references = files.values().flat_map(|file| list_references(file));
    references.filter_map(|(_, list)| Some((list.value.clone(), lists.get(&list.value)?.clone()))).collect()
}

/// Returns the help about a list file that does not exist.
fn not_found_help(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    if text.contains(['*', '?']) || text.contains('{') && text.contains(',') {
        "patterns of file names are not expanded: name each list file"
    } else if text.contains('$') || path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"~"))
    {
        "`~` and variables are not expanded: write the path"
    } else {
        "paths are relative to the policy file"
    }
}

/// Returns the list files that a policy file names.
pub(crate) fn list_references(file: &FileSpec) -> impl Iterator<Item = (&Source, &Placed<ListUse>)> {
    file.policies()
        .iter()
        .flat_map(|policy| policy.allowed_lists.iter().chain(&policy.denied_lists).map(|list| (&policy.source, list)))
}

/// Returns the warning about a file in a folder below `presets/`, which is not read.
fn stray(path: &Path) -> Diagnostic {
    let mut warning = Diagnostic::about_file(path, "the file is not read: presets are files right below `presets/`");
    warning.severity = Severity::Warning;
    warning.code(Code::StrayPreset).help("move it up, or out of `presets/` if it holds policies")
}

/// Returns whether two maps hold the same objects (by address) under the same keys.
fn same<'a, K: Eq + 'a, T: 'a>(
    one: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
    two: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
) -> bool {
    one.len() == two.len() && one.zip(two).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
}
