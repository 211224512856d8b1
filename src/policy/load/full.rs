//! The whole way from what is in force to what the tree says: every file is looked at. All that can be wrong is found
//! and told here; [`super::incremental`] is the short way for the usual change, with the same outcome.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Findings, Placed, Severity, Source, quoted};

use super::known::{Kept, Known, Seen};
use super::report::Report;
use super::{
    Held, Library, ListText, NO_SUCH_FILE, OBJECT_FOLDER, OBJECT_PREFIXES, ReadList, Reloaded, Settled, object_of, role,
};
use crate::policy::load::change_groups::{FilePathRef, connected};
use crate::policy::load::compile::Lists;
use crate::policy::load::conflict::{Budget, Candidates, Conflict, Files, Ids, Kind as RefersTo, references};
use crate::policy::load::diagnostics::Diagnostics;
use crate::policy::load::lint::Across;
use crate::policy::load::list::ListFile;
use crate::policy::load::preset::built_in;
use crate::policy::load::read::Role;
use crate::policy::load::references::Links;
use crate::policy::load::source::{FilePath, Tree};
use crate::policy::load::{assemble, file_tests};
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{FileSpec, ListUse};
use crate::util::content_hash::ContentSum;
use crate::util::persistent_map::OrderedMap;

/// How the first load and a reload differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is in force: an error is the end.
    Start {
        /// Whether there need not be a policy file.
        may_be_empty: bool,
        /// Whether an object of the API that is broken is left out instead.
        leaves_out: bool,
    },
    /// Something is in force, and stays where the new is bad.
    Reload,
}

impl Phase {
    /// The first load, where any error is the end.
    pub(super) const FIRST: Self = Self::Start { may_be_empty: false, leaves_out: false };
    /// The same, where there need not be a policy file.
    pub(super) const EMPTY: Self = Self::Start { may_be_empty: true, leaves_out: false };

    /// Returns the id of the object in a file, if that is left out when it is broken.
    fn left_out<'p>(self, root: &Path, path: &'p Path) -> Option<&'p str> {
        object_of(root, path).filter(|_| matches!(self, Self::Start { leaves_out: true, .. }))
    }

    /// Returns whether a first load ends with what is wrong with files by themselves. Errors that files make together come
    /// later: one may be an object's of the API and be told of another file.
    fn is_refused(self, root: &Path, files: &BTreeMap<FilePath, Known<FileSpec>>, report: &Report) -> bool {
        // Where their folder cannot be read, none of the objects can be.
        let leaves_out = matches!(self, Self::Start { leaves_out: true, .. });
        let is_folder =
            |path: &Path| leaves_out && path.strip_prefix(root).is_ok_and(|path| path == Path::new(OBJECT_FOLDER));
        let is_final = |path: &Path| self.left_out(root, path).is_none() && !is_folder(path);
        // Of very many bad files not all are told.
        self != Self::Reload
            && (files.iter().any(|(path, file)| file.is_bad_alone() && is_final(path))
                || report.diagnostics.iter().any(|it| it.is_error() && is_final(&it.place.path)))
    }
}

impl Library {
    /// Goes from what is in force to what the tree says.
    pub(super) fn advance(&self, tree: &Tree, read_list: ReadList<'_>, bindings: &Bindings, phase: Phase) -> Reloaded {
        let mut report = Report::default();
        let mut files = self.look_at_files(tree, phase, &mut report);
        let in_force = self.files.iter().filter_map(|(path, file)| Some((path.clone(), Arc::clone(file.in_force()?))));
        let in_force: Files = in_force.collect();
        let mut candidates = candidates(&tree.root, &files, phase);
        let mut lists = self.look_at_lists((&tree.root, &candidates), &in_force, read_list, &mut report);
        let usable_lists: Lists =
            lists.iter().filter_map(|(path, list)| Some((path.clone(), list.candidate()?))).collect();
        let budget = Budget::new();
        let stop = |mut report: Report, files, lists| {
            report.diagnostics.extend(budget.rest(&tree.root).into_iter().chain(report.rest(&tree.root)));
            report.hold_back_all(&files, &in_force);
            let Report { diagnostics, held_back, .. } = report;
            let files = kept(files);
            let library = Self { files, lists: Arc::new(lists), settled: None, ..self.clone() };
            let held_back = held_back.into_iter().collect();
            Reloaded { library, swapped: false, diagnostics: diagnostics.into(), held_back }
        };
        let is_refused = phase.is_refused(&tree.root, &files, &report);
        let mut round = 0;
        let (chosen_bindings, used, compiled, mut snapshot) = loop {
            let chosen_bindings = self.settle(
                &mut candidates,
                (&tree.root, &in_force, &usable_lists),
                (bindings, phase),
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
            let tested = candidates.values().map(|file| &**file);
            let failures = file_tests::run(tested, &snapshot, &mut report.diagnostics);
            if failures.files.is_empty() {
                break (chosen_bindings, used, compiled, snapshot);
            }
            report.diagnostics.extend(failures.told);
            // A file that changed and has tests that fail holds back itself. Tests in force guard everything: what breaks
            // them may be any of the files that changed.
            let is_in_force = |path: &PathBuf| match (candidates.get(path.as_os_str()), in_force.get(path.as_os_str()))
            {
                (Some(now), Some(before)) => Arc::ptr_eq(now, before),
                _ => false,
            };
            round += 1;
            if phase != Phase::Reload || round == MAX_ROUNDS || failures.files.iter().any(is_in_force) {
                return stop(report, files, lists);
            }
            for path in &failures.files {
                report.hold_back(path);
                match in_force.get_key_value(path.as_os_str()) {
                    Some((path, before)) => _ = candidates.insert(path.clone(), Arc::clone(before)),
                    None => _ = candidates.remove(path.as_os_str()),
                }
            }
        };
        report.diagnostics.extend(budget.rest(&tree.root).into_iter().chain(report.rest(&tree.root)));
        report.diagnostics.extend(compiled.warnings().cloned());
        let links = Links::of(&candidates);
        let across = Across { compiled: &compiled, snapshot: &snapshot, links: &links, bindings: &chosen_bindings };
        report.add_warnings(&across, (&files, &candidates), &used);

        let unchanged = phase == Phase::Reload
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
            file.in_force.is_some() || file.seen != Seen::Absent
        });
        lists.retain(|path, list| {
            list.in_force = used.get(path).cloned();
            true
        });
        let Report { diagnostics, held_back, .. } = report;
        let held_back: Vec<_> = held_back.into_iter().collect();
        let diagnostics = Diagnostics::from(diagnostics);
        let is_settled = tree.unreadable.is_empty() && is_settled(&files, &lists, &held_back, &diagnostics);
        let settled = is_settled.then(|| Settled {
            root: tree.root.clone(),
            told: diagnostics.clone(),
            held_back: held_back.as_slice().into(),
            links,
            file_hash,
            list_hash,
        });
        let dangling = dangling(&tree.root, &candidates, &chosen_bindings).into();
        let (files, lists) = (kept(files), Arc::new(lists));
        let library = Self { files, lists, bindings: chosen_bindings, compiled, snapshot, dangling, settled };
        Reloaded { library, swapped: !unchanged, diagnostics, held_back }
    }

    /// Reads the policy files that changed.
    fn look_at_files(&self, tree: &Tree, phase: Phase, report: &mut Report) -> BTreeMap<FilePath, Known<FileSpec>> {
        // One block while files are read: nodes of a map among what is kept of them would leave holes when they go.
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
            let before = before.map(|(_, kept)| kept.known());
            let before = before.as_ref();
            let known = match text {
                Ok(text) => {
                    let is_private = tree.private.contains(&*path.0);
                    let source = Source::new(Arc::clone(&path.0), Arc::clone(text)).private(is_private);
                    Known::of_file(&source, role, before, &mut share)
                }
                Err(why) => Known::unreadable(&path, why, role, before),
            };
            let mut known = known;
            if !known.is_good {
                report.hold_back(&path);
                report.add_errors_of(&mut known);
            }
            looked.push((path, known));
        }
        let mut files: BTreeMap<FilePath, Known<FileSpec>> = looked.into_iter().collect();
        for (folder, why) in &tree.unreadable {
            let message = format!("the folder cannot be read: {why}");
            let error = Diagnostic::about_file(folder, message);
            let help = match phase {
                Phase::Reload => "what it held stays in force until it can be read again",
                Phase::Start { .. } => "nothing of what it holds is in force until it can be read",
            };
            report.diagnostics.push(error.help(help));
            report.hold_back(folder);
        }
        for (path, known) in &self.files {
            if files.contains_key(path) {
                continue;
            }
            if tree.unreadable.keys().any(|folder| path.starts_with(folder)) {
                files.insert(path.clone(), known.known());
            } else if let Some(in_force) = known.in_force() {
                // It is gone. That it was there is kept in case the whole reload is refused.
                files.insert(path.clone(), Known { in_force: Some(Arc::clone(in_force)), ..Known::absent() });
            }
        }
        let is_policy_file = |(path, file): (&FilePath, &Known<FileSpec>)| {
            file.seen != Seen::Absent && role(&tree.root, path).is_some_and(Role::is_of_policies)
        };
        if !files.iter().any(is_policy_file) && tree.unreadable.is_empty() {
            let mut diagnostic = Diagnostic::about_file(&tree.root, "there is no policy file, so everything is denied");
            if phase == Phase::Reload || matches!(phase, Phase::Start { may_be_empty: true, .. }) {
                diagnostic.severity = Severity::Warning;
                diagnostic.code = Some(Code::NoPolicyFile);
            }
            report.diagnostics.push(diagnostic.help("put one there, as example.toml"));
        }
        files
    }

    /// Reads the list files that changed: those that the files to go into force name, and those in force.
    fn look_at_lists(
        &self,
        (root, candidates): (&Path, &Files),
        in_force: &Files,
        read_list: ReadList<'_>,
        report: &mut Report,
    ) -> BTreeMap<ListUse, Known<ListFile>> {
        let mut lists: BTreeMap<ListUse, Known<ListFile>> = BTreeMap::new();
        let mut unreadable: BTreeMap<&Path, String> = BTreeMap::new();
        // Lists of what is in force are needed where a changed file turns out to be held back.
        let mut wanted: BTreeMap<&Path, BTreeMap<&ListUse, bool>> = BTreeMap::new();
        for (files, is_wanted) in [(candidates, true), (in_force, false)] {
            for (_, reference) in files.values().flat_map(|file| list_references(file)) {
                let uses = wanted.entry(reference.value.path.as_path()).or_default();
                uses.entry(&reference.value).or_insert(is_wanted);
            }
        }
        for (path, uses) in wanted {
            // A file is read once, whatever it is used for.
            let is_held = |named: &&ListUse| {
                self.lists.get(*named).is_some_and(|before| matches!(before.seen, Seen::Fingerprint(..)))
            };
            let held = if uses.keys().all(is_held) { Held::Yes } else { Held::No };
            let read = read_list(path, held);
            for (named, is_wanted) in uses {
                let before = self.lists.get(named);
                let known = match (&read, before.filter(|_| held == Held::Yes)) {
                    (Ok(ListText::Unchanged), Some(held)) => Ok(held.clone()),
                    (Ok(ListText::Unchanged), None) => Err("it was not read".to_owned()),
                    (Ok(ListText::Text(text)), _) => Ok(Known::of_list(named, text, before)),
                    (Err(why), _) => Err(why.clone()),
                };
                let mut known = known.unwrap_or_else(|why| {
                    unreadable.insert(path, why);
                    Known { in_force: before.and_then(|before| before.in_force.clone()), ..Known::absent() }
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

    /// Takes back, from what is to go into force, the changed files that cannot go together; returns the bindings to
    /// go into force, or nothing when it is not to be mended that way.
    fn settle(
        &self,
        files: &mut Files,
        (root, in_force, lists): (&Path, &Files, &Lists),
        (bindings, phase): (&Bindings, Phase),
        (budget, report): (&Budget, &mut Report),
    ) -> Option<Bindings> {
        let ids_in_force = Ids::of(in_force);
        let mut chosen = bindings.clone();
        // The ids of the API's objects that are left out: what refers to one denies.
        let objects = report.held_back.iter().filter_map(|path| phase.left_out(root, path).map(str::to_owned));
        let mut left_out: BTreeSet<String> = objects.collect();
        // Of a folder that cannot be read, it is not known which objects it has.
        let is_folder_left_out = matches!(phase, Phase::Start { leaves_out: true, .. })
            && report.held_back.contains(&root.join(OBJECT_FOLDER));
        for round in 1.. {
            let bindings_settled = phase == Phase::Reload && chosen.ids() == self.bindings.ids();
            let current = files.clone();
            let is_excused = |path: Option<&Path>, id: &str| {
                left_out.contains(id)
                    || is_folder_left_out && OBJECT_PREFIXES.iter().any(|prefix| id.starts_with(prefix))
                    || path.is_some_and(|path| phase.left_out(root, path).is_some())
            };
            let candidates = Candidates {
                is_excused: &is_excused,
                files: &current,
                in_force,
                ids_in_force: &ids_in_force,
                built_in: built_in(),
                lists,
                bindings: &chosen,
                bindings_settled,
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
            if round >= MAX_ROUNDS && phase == Phase::Reload {
                let changed = candidates.changed();
                let bad = conflicts.iter().flat_map(|conflict| &conflict.files).map(FilePathRef).collect();
                let all = if round == MAX_ROUNDS {
                    connected(&changed, in_force, &bad)
                } else {
                    changed.into_keys().collect()
                };
                for path in all {
                    report.diagnostics.extend(budget.tell(&path, || {
                        let message = "the file hangs together with others that are held back";
                        Diagnostic::about_file(&path, message).help("mend those")
                    }));
                    take_back(&path, report);
                }
            }
            // Of several objects the one that was made last: ids sort by time.
            let object = |conflict: &Conflict| {
                let objects = conflict.files.iter().filter(|path| phase.left_out(root, path).is_some());
                objects.max().cloned()
            };
            let objects: BTreeSet<FilePath> = conflicts.iter().filter_map(object).collect();
            if !objects.is_empty() {
                for path in &objects {
                    take_back(path, report);
                }
                report.diagnostics.extend(conflicts.into_iter().filter_map(|conflict| conflict.diagnostic));
                left_out.extend(objects.iter().filter_map(|path| object_of(root, path)).map(str::to_owned));
                continue;
            }
            for conflict in conflicts {
                report.diagnostics.extend(conflict.diagnostic);
                for path in conflict.files.iter().filter(|path| !candidates.is_settled(path)) {
                    take_back(path, report);
                }
                take_back_bindings |= conflict.bindings && phase == Phase::Reload;
            }
            taken_back |= take_back_bindings;
            if take_back_bindings {
                let places = bindings.iter().filter_map(|binding| binding.written.as_ref());
                places.for_each(|(source, _)| report.hold_back(source.path()));
                chosen = self.bindings.clone();
            }
            if phase != Phase::Reload || !taken_back {
                return None;
            }
        }
        None
    }

    /// Returns the lists in force.
    fn lists_in_force(&self) -> Lists {
        self.lists.iter().filter_map(|(path, list)| Some((path.clone(), list.in_force.clone()?))).collect()
    }
}

/// Rounds in which changed files that conflict are taken back one by one; then all that hangs together with them is.
const MAX_ROUNDS: usize = 8;

/// Returns what is known of files as it is kept.
fn kept(files: BTreeMap<FilePath, Known<FileSpec>>) -> OrderedMap<FilePath, Kept> {
    files.into_iter().map(|(path, known)| (path, known.into())).collect()
}

/// Returns what is to go into force as far as each file goes by itself. At a start a bad file stands for what could
/// be understood of it, so that what refers to it is not called wrong as well.
fn candidates(root: &Path, files: &BTreeMap<FilePath, Known<FileSpec>>, phase: Phase) -> Files {
    let candidate = |path: &FilePath, file: &Known<FileSpec>| match (phase, &file.seen) {
        (_, Seen::Absent) => None,
        (Phase::Start { .. }, _) if !file.is_good && phase.left_out(root, path).is_some() => None,
        (Phase::Start { .. }, _) => file.read.clone(),
        (Phase::Reload, _) => file.candidate(),
    };
    files.iter().filter_map(|(path, file)| Some((path.clone(), candidate(path, file)?))).collect()
}

/// Returns whether everything on disk is in force, but for files that are bad by themselves.
fn is_settled(
    files: &BTreeMap<FilePath, Known<FileSpec>>,
    lists: &BTreeMap<ListUse, Known<ListFile>>,
    held_back: &[PathBuf],
    diagnostics: &Diagnostics,
) -> bool {
    let is_bad_alone = |path: &Path| files.get(path.as_os_str()).is_some_and(Known::is_bad_alone);
    files.values().all(|file| file.is_settled() || file.is_bad_alone())
        && lists.values().all(Known::is_settled)
        && held_back.iter().all(|path| is_bad_alone(path))
        && diagnostics.errors().all(|error| is_bad_alone(&error.place.path))
}

/// Returns an error for each reference to what is gone, but for those of the API's objects.
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
    for binding in bindings.iter().filter(|binding| !ids.defines(RefersTo::Policy, &binding.policy, built_in())) {
        if let Some((source, span)) = &binding.written {
            add(source, *span, "policy", &binding.policy);
        }
    }
    all
}

/// References to what is gone that are told.
pub(super) const MAX_DANGLING: usize = 100;

/// Returns the hashes of the files and of the lists.
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

/// Returns the lists that the files name.
fn used_lists(files: &Files, lists: &Lists) -> Lists {
    let references = files.values().flat_map(|file| list_references(file));
    references.filter_map(|(_, list)| Some((list.value.clone(), lists.get(&list.value)?.clone()))).collect()
}

/// Returns what to do about a list file that is not there.
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

/// Returns the warning about a file in `presets/` that replaces nothing.
fn stray(path: &Path) -> Diagnostic {
    let mut warning = Diagnostic::about_file(path, "the file is not read: presets are files right below `presets/`");
    warning.severity = Severity::Warning;
    warning.code(Code::StrayPreset).help("move it up, or out of `presets/` if it holds policies")
}

/// Returns whether two maps hold the very same objects.
fn same<'a, K: Eq + 'a, T: 'a>(
    one: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
    two: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
) -> bool {
    one.len() == two.len() && one.zip(two).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
}
