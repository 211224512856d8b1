//! What each file said last, and the snapshot made from it: from a tree of texts to what is in force.
//!
//! A change never opens anything by being wrong. What is read is set beside what is in force; whatever of it is
//! bad, alone or together with other files, is held back, and the version in force stays. Only then is a snapshot
//! made, tried with the files' own tests, and handed out to be swapped in. A file that is gone is gone, and what
//! refers to it is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Diagnostic, Placed, Severity, Source, quoted};

use super::compile::{Compiled, Lists};
use super::conflict::{Candidates, FilePath, Files, Ids};
use super::list::ListFile;
use super::preset::{built_in, shared_hasher};
use super::read::{Role, read_file};
use super::snapshot::Snapshot;
use super::spec::FileSpec;
use super::tree::{Bindings, Tree};
use super::{assemble, lint, trial};

/// Reads a list file by its path: its text, or why it cannot be read. Whoever reads it keeps no text of it: a list may
/// be large, and what it says is in the set that is made of it.
pub type ReadList<'f> = &'f mut dyn FnMut(&Path, Held) -> Result<ListText, String>;

/// Whether what a list said when it was last read is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is; where the file is as it was then, it need not be read.
    Yes,
    /// It has to be read.
    No,
}

/// What a list file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListText {
    /// What it held when it was last read.
    Unchanged,
    /// This.
    Text(String),
}

/// The last good version of each file and list, and the snapshot in force.
#[derive(Debug)]
pub struct Library {
    /// What is known of each policy file.
    files: BTreeMap<FilePath, Known<FileSpec>>,
    /// What is known of each list file.
    lists: BTreeMap<PathBuf, Known<ListFile>>,
    /// The bindings in force.
    bindings: Bindings,
    /// The policies in force, compiled.
    compiled: Compiled,
    /// What is in force.
    snapshot: Arc<Snapshot>,
    /// All that is told of it, if everything on disk is in force.
    settled: Option<Arc<[Diagnostic]>>,
}

/// What a reload did.
#[derive(Debug)]
pub struct Reloaded {
    /// The library from now on.
    pub library: Library,
    /// Whether another snapshot is in force; if not, it is the very same.
    pub swapped: bool,
    /// All that is wrong with the files as they are now, errors first within no file: in the order of path and place.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that say something else than what is in force.
    pub held_back: Vec<PathBuf>,
}

/// What is known of a file.
#[derive(Debug)]
struct Known<T> {
    /// What it held when it was last looked at.
    seen: Seen,
    /// What that says, as far as it was understood.
    read: Option<Arc<T>>,
    /// Whether it may go into force.
    is_good: bool,
    /// What is wrong with it.
    diagnostics: Arc<[Diagnostic]>,
    /// What of it is in force.
    in_force: Option<Arc<T>>,
}

/// The content of a file, as far as it takes to see that it did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// A text.
    Text(Arc<str>),
    /// The length and the keyed hash of a text that may be large.
    Fingerprint(usize, u64),
    /// It could not be read.
    Unreadable,
    /// It was not there.
    Absent,
}

impl Seen {
    /// Returns the fingerprint of a text.
    fn fingerprint(text: &str) -> Self {
        Self::Fingerprint(text.len(), shared_hasher().hash_one(text))
    }
}

/// How the first load and a reload differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is in force: any error is the end.
    Start,
    /// Something is in force, and stays where the new is bad.
    Reload,
}

impl Library {
    /// Reads everything for the first time; returns the warnings too.
    ///
    /// # Errors
    /// All that is wrong, warnings included, if any of it is an error.
    pub fn start(
        tree: &Tree,
        lists: ReadList<'_>,
        bindings: &Bindings,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let nothing = Self {
            files: BTreeMap::new(),
            lists: BTreeMap::new(),
            bindings: Bindings::default(),
            compiled: Compiled::default(),
            snapshot: Arc::new(Snapshot::empty()),
            settled: None,
        };
        let Reloaded { library, diagnostics, .. } = nothing.advance(tree, lists, bindings, Phase::Start);
        if diagnostics.iter().any(Diagnostic::is_error) { Err(diagnostics) } else { Ok((library, diagnostics)) }
    }

    /// Reads everything again; texts that did not change are not parsed again.
    ///
    /// A bad file holds back only itself: its last good version stays in force. Errors that several files make
    /// together hold back those that changed. Failing tests hold back everything. What is gone is gone.
    #[must_use]
    pub fn reload(&self, tree: &Tree, lists: ReadList<'_>, bindings: &Bindings) -> Reloaded {
        // What is read of a list here is not read again on the other way.
        let mut read = BTreeMap::new();
        if let Some(changed) = tree.changed.as_ref().filter(|_| self.settled.is_some()) {
            for (path, known) in &self.lists {
                let text = lists(path, Held::Yes);
                let is_same = match &text {
                    Ok(ListText::Unchanged) => true,
                    Ok(ListText::Text(text)) => known.seen == Seen::fingerprint(text),
                    Err(_) => false,
                };
                if !is_same {
                    read.insert(path.clone(), text);
                }
            }
            if read.is_empty()
                && let Some(reloaded) = self.advance_locally(tree, changed, bindings)
            {
                return reloaded;
            }
        }
        let mut lists = |path: &Path, held| read.remove(path).unwrap_or_else(|| lists(path, held));
        self.advance(tree, &mut lists, bindings, Phase::Reload)
    }

    /// Returns what is in force.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the list files that matter: those of what is in force and of what is held back.
    pub fn list_paths(&self) -> impl Iterator<Item = &Path> {
        self.lists.keys().map(PathBuf::as_path)
    }

    /// Goes from what is in force to what the tree says.
    fn advance(&self, tree: &Tree, read_list: ReadList<'_>, bindings: &Bindings, phase: Phase) -> Reloaded {
        let mut report = Report::default();
        let mut files = self.look_at_files(tree, phase, &mut report);
        let in_force = in_force(&self.files);
        let mut candidates = candidates(&files, phase);
        let mut lists = self.look_at_lists(&candidates, &in_force, read_list, &mut report);
        let usable_lists: Lists =
            lists.iter().filter_map(|(path, list)| Some((path.clone(), list.candidate()?))).collect();
        let chosen_bindings = self.settle(&mut candidates, &in_force, &usable_lists, bindings, phase, &mut report);
        let stop = |mut report: Report, files, lists| {
            report.hold_back_all(&files, &in_force);
            let Report { diagnostics, held_back } = report;
            let library = Self { files, lists, ..self.share() };
            let held_back = held_back.into_iter().collect();
            Reloaded { library, swapped: false, diagnostics: in_order(diagnostics), held_back }
        };
        let Some(chosen_bindings) = chosen_bindings else { return stop(report, files, lists) };
        if phase == Phase::Start && report.has_errors() {
            return stop(report, files, lists);
        }

        let used: Lists = used_lists(&candidates, &usable_lists);
        let definitions = assemble::definitions(&candidates, built_in());
        let compiled = self.compiled.next(&definitions, &used);
        let mut snapshot = assemble::snapshot(&candidates, &compiled, &chosen_bindings);
        let failures = trial::run(&candidates, &snapshot, &mut report.diagnostics);
        if !failures.is_empty() {
            report.diagnostics.extend(failures);
            return stop(report, files, lists);
        }
        report.diagnostics.extend(compiled.warnings().cloned());
        report.diagnostics.extend(used.values().flat_map(|list| list.warnings.iter().cloned()));
        lint::across(&candidates, &compiled, &snapshot, &chosen_bindings, &used, &mut report.diagnostics);
        report.add_warnings_of(&files, &candidates);

        let unchanged = phase == Phase::Reload
            && same(candidates.iter(), in_force.iter())
            && same(used.iter(), self.lists_in_force().iter())
            && chosen_bindings.ids() == self.bindings.ids();
        let snapshot = if unchanged {
            Arc::clone(&self.snapshot)
        } else {
            snapshot.generation = self.snapshot.generation + 1;
            snapshot.hash = assemble::hash(&tree.root, &candidates, &used, &chosen_bindings);
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
        let Report { diagnostics, held_back } = report;
        let held_back: Vec<_> = held_back.into_iter().collect();
        let diagnostics = in_order(diagnostics);
        let is_settled = held_back.is_empty()
            && tree.unreadable.is_empty()
            && files.values().all(Known::is_settled)
            && lists.values().all(Known::is_settled)
            && !diagnostics.iter().any(Diagnostic::is_error);
        let settled = is_settled.then(|| Arc::from(diagnostics.as_slice()));
        let library = Self { files, lists, bindings: chosen_bindings, compiled, snapshot, settled };
        Reloaded { library, swapped: !unchanged, diagnostics, held_back }
    }

    /// Reads the policy files that changed.
    fn look_at_files(&self, tree: &Tree, phase: Phase, report: &mut Report) -> BTreeMap<FilePath, Known<FileSpec>> {
        let mut files = BTreeMap::new();
        for (path, text) in &tree.files {
            let before = self.files.get_key_value(path.as_os_str());
            let path = before.map_or_else(|| FilePath(path.as_path().into()), |(path, _)| path.clone());
            let Some(role) = role(&tree.root, &path) else {
                report.diagnostics.push(stray(&path));
                continue;
            };
            let before = before.map(|(_, known)| known);
            let known = match text {
                Ok(text) => Known::of_file(&path.0, text, role, before),
                Err(why) => Known::unreadable(&path, why, before),
            };
            if !known.is_good {
                report.hold_back(&path);
                report.diagnostics.extend(known.diagnostics.iter().cloned());
            }
            files.insert(path, known);
        }
        for (folder, why) in &tree.unreadable {
            let message = format!("the folder cannot be read: {why}");
            let error = Diagnostic::about_file(folder, message);
            report.diagnostics.push(error.help("what it held stays in force until it can be read again"));
            report.hold_back(folder);
        }
        for (path, known) in &self.files {
            if files.contains_key(path) {
                continue;
            }
            if tree.unreadable.keys().any(|folder| path.starts_with(folder)) {
                files.insert(path.clone(), known.share());
            } else if known.in_force.is_some() {
                // It is gone. That it was there is kept in case the whole reload is refused.
                files.insert(path.clone(), Known { in_force: known.in_force.clone(), ..Known::absent() });
            }
        }
        let is_policy_file = |(path, file): (&FilePath, &Known<FileSpec>)| {
            file.seen != Seen::Absent && role(&tree.root, path) == Some(Role::Policies)
        };
        if !files.iter().any(is_policy_file) && tree.unreadable.is_empty() {
            let mut diagnostic = Diagnostic::about_file(&tree.root, "there is no policy file, so everything is denied");
            if phase == Phase::Reload {
                diagnostic.severity = Severity::Warning;
            }
            report.diagnostics.push(diagnostic.help("put one there, as example.toml"));
        }
        files
    }

    /// Reads the list files that changed: those that the files to go into force name, and those in force.
    fn look_at_lists(
        &self,
        candidates: &Files,
        in_force: &Files,
        read_list: ReadList<'_>,
        report: &mut Report,
    ) -> BTreeMap<PathBuf, Known<ListFile>> {
        let mut lists: BTreeMap<PathBuf, Known<ListFile>> = BTreeMap::new();
        let mut unreadable: BTreeMap<&Path, String> = BTreeMap::new();
        let wanted = candidates.values().map(|file| (file, true));
        // Lists of what is in force are needed where a changed file turns out to be held back.
        for (file, is_wanted) in wanted.chain(in_force.values().map(|file| (file, false))) {
            for (_, reference) in list_references(file) {
                let path = reference.value.as_path();
                if lists.contains_key(path) {
                    continue;
                }
                let before = self.lists.get(path);
                let held = before.filter(|before| matches!(before.seen, Seen::Fingerprint(..)));
                let read = read_list(path, if held.is_some() { Held::Yes } else { Held::No });
                let known = match (read, held) {
                    (Ok(ListText::Unchanged), Some(held)) => Ok(held.share()),
                    (Ok(ListText::Unchanged), None) => Err("it was not read".to_owned()),
                    (Ok(ListText::Text(text)), _) => Ok(Known::of_list(path, &text, before)),
                    (Err(why), _) => Err(why),
                };
                let known = match known {
                    Ok(known) => known,
                    Err(why) => {
                        unreadable.insert(path, why);
                        Known { in_force: before.and_then(|before| before.in_force.clone()), ..Known::absent() }
                    }
                };
                if is_wanted && !known.is_good {
                    report.hold_back(path);
                    report.diagnostics.extend(known.diagnostics.iter().cloned());
                }
                lists.insert(path.to_owned(), known);
            }
        }
        for (source, reference) in candidates.values().flat_map(|file| list_references(file)) {
            if let Some(why) = unreadable.get(reference.value.as_path()) {
                let path = quoted(&reference.value.to_string_lossy());
                let error = source.error(reference.span, format!("list file {path} cannot be read: {why}"));
                let kept = lists.get(&reference.value).is_some_and(|list| list.in_force.is_some());
                let help =
                    if kept { "its last content stays in force" } else { "paths are relative to the policy file" };
                report.diagnostics.push(error.help(help));
            }
        }
        lists
    }

    /// Takes back, from what is to go into force, the changed files that cannot go together; returns the bindings to
    /// go into force, or nothing when it is not to be mended that way.
    fn settle(
        &self,
        files: &mut Files,
        in_force: &Files,
        lists: &Lists,
        bindings: &Bindings,
        phase: Phase,
        report: &mut Report,
    ) -> Option<Bindings> {
        let ids_in_force = Ids::of(in_force);
        let mut chosen = bindings.clone();
        loop {
            let bindings_settled = phase == Phase::Reload && chosen.ids() == self.bindings.ids();
            let current = files.clone();
            let candidates = Candidates {
                files: &current,
                in_force,
                ids_in_force: &ids_in_force,
                built_in: built_in(),
                lists,
                bindings: &chosen,
                bindings_settled,
            };
            let conflicts = candidates.conflicts();
            if conflicts.is_empty() {
                return Some(chosen);
            }
            let mut taken_back = false;
            let mut take_back_bindings = false;
            for conflict in conflicts {
                report.diagnostics.extend(conflict.diagnostic);
                for path in conflict.files.iter().filter(|path| !candidates.is_settled(path)) {
                    taken_back = true;
                    report.hold_back(path);
                    match in_force.get(path) {
                        Some(before) => files.insert(path.clone(), Arc::clone(before)),
                        None => files.remove(path),
                    };
                }
                if conflict.bindings && phase == Phase::Reload {
                    (taken_back, take_back_bindings) = (true, true);
                }
            }
            if take_back_bindings {
                let places = bindings.iter().filter_map(|binding| binding.written.as_ref());
                places.for_each(|(source, _)| report.hold_back(source.path()));
                chosen = self.bindings.clone();
            }
            if phase == Phase::Start || !taken_back {
                return None;
            }
        }
    }

    /// Returns the lists in force.
    fn lists_in_force(&self) -> Lists {
        self.lists.iter().filter_map(|(path, list)| Some((path.clone(), list.in_force.clone()?))).collect()
    }

    /// Returns a library with the same in force.
    fn share(&self) -> Self {
        Self {
            files: BTreeMap::new(),
            lists: BTreeMap::new(),
            bindings: self.bindings.clone(),
            compiled: self.compiled.clone(),
            snapshot: Arc::clone(&self.snapshot),
            settled: None,
        }
    }

    /// Returns the same lists again.
    fn share_lists(&self) -> BTreeMap<PathBuf, Known<ListFile>> {
        self.lists.iter().map(|(path, list)| (path.clone(), list.share())).collect()
    }
}

impl<T> Known<T> {
    /// Returns what is known of a file that is not there.
    fn absent() -> Self {
        Self { seen: Seen::Absent, read: None, is_good: false, diagnostics: Arc::new([]), in_force: None }
    }

    /// Returns the same again.
    fn share(&self) -> Self {
        Self {
            seen: self.seen.clone(),
            read: self.read.clone(),
            is_good: self.is_good,
            diagnostics: Arc::clone(&self.diagnostics),
            in_force: self.in_force.clone(),
        }
    }

    /// Returns whether what it holds is in force.
    fn is_settled(&self) -> bool {
        match (&self.read, &self.in_force) {
            (Some(read), Some(in_force)) => self.is_good && Arc::ptr_eq(read, in_force),
            _ => false,
        }
    }

    /// Returns what is to go into force: what was read if it is good, else what is.
    fn candidate(&self) -> Option<Arc<T>> {
        match self.seen {
            Seen::Absent | Seen::Unreadable => self.in_force.clone(),
            _ => self.read.clone().filter(|_| self.is_good).or_else(|| self.in_force.clone()),
        }
    }
}

impl Known<FileSpec> {
    /// Reads a policy file unless it holds what it held before.
    fn of_file(path: &Arc<Path>, text: &Arc<str>, role: Role<'_>, before: Option<&Self>) -> Self {
        if let Some(before) = before
            && matches!(&before.seen, Seen::Text(seen) if Arc::ptr_eq(seen, text) || seen == text)
        {
            return before.share();
        }
        let in_force = before.and_then(|before| before.in_force.clone());
        // A text that came back to what is in force is in force, not a new one that says the same.
        if let Some(spec) = in_force.as_ref().filter(|spec| spec.source.text() == text) {
            let warnings = read_file(&spec.source, role, shared_hasher()).1.into();
            let (seen, read) = (Seen::Text(Arc::clone(spec.source.text())), in_force.clone());
            return Self { seen, read, is_good: true, diagnostics: warnings, in_force };
        }
        let (spec, diagnostics) = read_file(&Source::new(Arc::clone(path), Arc::clone(text)), role, shared_hasher());
        Self {
            seen: Seen::Text(Arc::clone(text)),
            read: Some(Arc::new(spec)),
            is_good: !diagnostics.iter().any(Diagnostic::is_error),
            diagnostics: diagnostics.into(),
            in_force,
        }
    }

    /// Notes that a policy file cannot be read.
    fn unreadable(path: &Path, why: &str, before: Option<&Self>) -> Self {
        let in_force = before.and_then(|before| before.in_force.clone());
        let error = Diagnostic::about_file(path, format!("the file cannot be read: {why}"));
        let help =
            if in_force.is_some() { "what it said before stays in force" } else { "mend it, or remove the file" };
        Self { seen: Seen::Unreadable, diagnostics: Arc::new([error.help(help)]), in_force, ..Self::absent() }
    }
}

impl Known<ListFile> {
    /// Reads a list unless it holds what it held before.
    fn of_list(path: &Path, text: &str, before: Option<&Self>) -> Self {
        let seen = Seen::fingerprint(text);
        if let Some(before) = before.filter(|before| before.seen == seen) {
            return before.share();
        }
        let in_force = before.and_then(|before| before.in_force.clone());
        match ListFile::read(&path.into(), text, shared_hasher()) {
            Ok(list) => {
                // The same content as in force, after something else in between.
                let same = in_force.clone().filter(|before| before.hash == list.hash && before.length == list.length);
                let read = Some(same.unwrap_or_else(|| Arc::new(list)));
                Self { seen, read, is_good: true, diagnostics: Arc::new([]), in_force }
            }
            Err(diagnostics) => Self { seen, diagnostics: diagnostics.into(), in_force, ..Self::absent() },
        }
    }
}

/// What is found during a load.
#[derive(Debug, Default)]
struct Report {
    /// What is wrong.
    diagnostics: Vec<Diagnostic>,
    /// The files that say something else than what is in force.
    held_back: BTreeSet<PathBuf>,
}

impl Report {
    /// Returns whether anything is an error.
    fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Notes that a file is held back.
    fn hold_back(&mut self, path: &Path) {
        self.held_back.insert(path.to_owned());
    }

    /// Notes that every file that changed is held back.
    fn hold_back_all(&mut self, files: &BTreeMap<FilePath, Known<FileSpec>>, in_force: &Files) {
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
    fn add_warnings_of(&mut self, files: &BTreeMap<FilePath, Known<FileSpec>>, candidates: &Files) {
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

/// Returns the files in force.
fn in_force(files: &BTreeMap<FilePath, Known<FileSpec>>) -> Files {
    files.iter().filter_map(|(path, file)| Some((path.clone(), file.in_force.clone()?))).collect()
}

/// Returns what is to go into force as far as each file goes by itself. At a start a bad file stands for what could
/// be understood of it, so that what refers to it is not called wrong as well.
fn candidates(files: &BTreeMap<FilePath, Known<FileSpec>>, phase: Phase) -> Files {
    let candidate = |file: &Known<FileSpec>| match (phase, &file.seen) {
        (_, Seen::Absent) => None,
        (Phase::Start, _) => file.read.clone(),
        (Phase::Reload, _) => file.candidate(),
    };
    files.iter().filter_map(|(path, file)| Some((path.clone(), candidate(file)?))).collect()
}

/// Returns the lists that the files name.
fn used_lists(files: &Files, lists: &Lists) -> Lists {
    let references = files.values().flat_map(|file| list_references(file));
    references.filter_map(|(_, list)| Some((list.value.clone(), lists.get(&list.value)?.clone()))).collect()
}

/// Returns the list files that a policy file names.
fn list_references(file: &FileSpec) -> impl Iterator<Item = (&Source, &Placed<PathBuf>)> {
    file.policies
        .iter()
        .flat_map(|policy| policy.allowed_lists.iter().chain(&policy.denied_lists).map(|list| (&policy.source, list)))
}

/// Returns what a file is read as; nothing for one deeper in `presets/`.
fn role<'p>(root: &Path, path: &'p Path) -> Option<Role<'p>> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let Ok(preset) = below.strip_prefix("presets") else { return Some(Role::Policies) };
    let name = preset.file_stem().and_then(|stem| stem.to_str())?;
    (preset.components().count() == 1).then_some(Role::Preset(name))
}

/// Returns the warning about a file in `presets/` that replaces nothing.
fn stray(path: &Path) -> Diagnostic {
    let mut warning = Diagnostic::about_file(path, "the file is not read: presets are files right below `presets/`");
    warning.severity = Severity::Warning;
    warning.help("move it up, or out of `presets/` if it holds policies")
}

/// Returns whether two maps hold the very same objects.
fn same<'a, K: Eq + 'a, T: 'a>(
    one: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
    two: impl ExactSizeIterator<Item = (&'a K, &'a Arc<T>)>,
) -> bool {
    one.len() == two.len() && one.zip(two).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
}

/// Puts diagnostics in the order of path and place, each told once.
fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    // Paths by their bytes, as `FilePath` has them.
    diagnostics.sort_by(|one, two| {
        let key = |diagnostic: &Diagnostic| (diagnostic.place.line, diagnostic.place.column, diagnostic.severity);
        let paths = one.place.path.as_os_str().cmp(two.place.path.as_os_str());
        paths.then_with(|| key(one).cmp(&key(two))).then_with(|| one.message.cmp(&two.message))
    });
    diagnostics.dedup();
    diagnostics
}

pub(super) mod local;
#[cfg(test)]
mod tests;
