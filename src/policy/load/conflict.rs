//! Conflicts between files: ids defined twice, references to undefined ids, include cycles, equal prefixes.
//!
//! A conflict names the files that cause it. Of those, the ones that have changed are reverted by [`super::full`], so
//! an error is shown in a changed file if there is a choice.

use std::cell::{Cell, LazyCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use crate::bounds::MAX_OBJECTS;
use crate::document::{Diagnostic, Placed, Source, Span, closest, quoted};

use super::compile::Lists;
use super::object_of;
use super::source::FilePath;
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{FileSpec, PRESET_PREFIX, PolicySpec, UNRESTRICTED};

/// Policy files by path, preset files included.
pub(crate) type Files = BTreeMap<FilePath, Arc<FileSpec>>;

/// A reason why files cannot go into force together.
#[derive(Debug, Default)]
pub(crate) struct Conflict {
    /// The error; `None` if it is reported elsewhere.
    pub(crate) diagnostic: Option<Diagnostic>,
    /// The files that cause the conflict; those of them that have changed are held back.
    pub(crate) files: Vec<FilePath>,
    /// Whether the bindings cause the conflict and have changed.
    pub(crate) bindings: bool,
}

/// The files that are to go into force, beside those in force.
#[derive(Clone, Copy)]
pub(crate) struct Candidates<'c> {
    /// The policies directory.
    pub(crate) root: &'c Path,
    /// The files that are to go into force.
    pub(crate) files: &'c Files,
    /// The files in force.
    pub(crate) in_force: &'c Files,
    /// The ids that the files in force define.
    pub(crate) ids_in_force: &'c Ids<'c>,
    /// The built-in presets.
    pub(crate) built_in: &'c [Arc<PolicySpec>],
    /// The list files that could be read, now or earlier.
    pub(crate) lists: &'c Lists,
    /// The bindings that are to go into force.
    pub(crate) bindings: &'c Bindings,
    /// Whether `bindings` are the ones in force.
    pub(crate) bindings_in_force: bool,
    /// Returns whether a reference to an undefined id is no error. The path is that of the referring file, `None` for
    /// hostgate.toml.
    pub(crate) is_excused: &'c dyn Fn(Option<&Path>, &str) -> bool,
    /// Whether a test of a client that is not defined is an error of its file.
    pub(crate) refuses_tests: bool,
    /// The limit on reported errors.
    pub(crate) budget: &'c DiagnosticBudget,
}

/// The limit on errors that files cause together, for one load. Further errors are only counted, without the cost of
/// building them.
#[derive(Debug)]
pub(crate) struct DiagnosticBudget {
    /// The number of errors that can still be reported.
    left: Cell<usize>,
    /// The number of errors reported for each file.
    of_files: RefCell<HashMap<Arc<Path>, usize>>,
    /// The number of errors that were not reported.
    more: Cell<usize>,
    /// The number of ids that can still be compared with unknown ones.
    comparisons: Cell<usize>,
}

impl DiagnosticBudget {
    /// Returns an unused budget.
    pub(crate) fn new() -> Self {
        let (left, comparisons) = (Cell::new(MAX_CONFLICTS), Cell::new(MAX_COMPARISONS));
        Self { left, of_files: RefCell::default(), more: Cell::new(0), comparisons }
    }

    /// Builds an error about a file, unless the limit is reached.
    pub(crate) fn report(&self, path: &FilePath, make: impl FnOnce() -> Diagnostic) -> Option<Diagnostic> {
        let mut of_files = self.of_files.borrow_mut();
        let of_file = of_files.get(&path.0).copied().unwrap_or(0);
        if self.left.get() == 0 || of_file == MAX_CONFLICTS_OF_FILE {
            self.more.set(self.more.get() + 1);
            return None;
        }
        self.left.set(self.left.get() - 1);
        of_files.insert(Arc::clone(&path.0), of_file + 1);
        Some(make())
    }

    /// Returns the diagnostic about the errors that were not reported.
    pub(crate) fn rest(&self, root: &Path) -> Option<Diagnostic> {
        let more = self.more.get();
        (more > 0).then(|| Diagnostic::about_file(root, format!("and {more} more errors that files cause together")))
    }

    /// Returns the known id that is most similar to an unknown one; `None` if no id is similar, or too many were
    /// compared.
    fn closest<'a>(&self, id: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Option<&'a str> {
        if self.comparisons.get() == 0 {
            return None;
        }
        self.comparisons.set(self.comparisons.get().saturating_sub(known.len()));
        closest(id, known)
    }
}

/// The most errors that files cause together, reported in one load.
const MAX_CONFLICTS: usize = 200;
/// The most of these errors reported for one file.
const MAX_CONFLICTS_OF_FILE: usize = 20;
/// The most comparisons of unknown ids with known ones, for suggestions; the search that exceeds it is finished.
const MAX_COMPARISONS: usize = 20_000;

/// The place of a definition or of a reference.
#[derive(Clone, Copy)]
struct Site<'c> {
    path: &'c FilePath,
    source: &'c Source,
    span: Span,
    /// The id that is defined there, or that of the object around it.
    id: &'c Arc<str>,
}

/// The definitions of all files by id.
#[derive(Default)]
pub(crate) struct Ids<'c> {
    /// The policies and presets.
    policies: HashMap<&'c str, Site<'c>>,
    blueprints: HashMap<&'c str, Site<'c>>,
    clients: HashMap<&'c str, Site<'c>>,
    /// The `[api.ID]` tables.
    records: HashMap<&'c str, Site<'c>>,
}

impl<'c> Ids<'c> {
    /// Collects the ids of `files`; `twice` is called with the two places of an id that is defined again.
    fn collect(files: &'c Files, mut twice: impl FnMut(&'static str, Site<'c>, Site<'c>)) -> Self {
        let mut ids = Self::default();
        for (path, file) in files {
            let site = |source, id: &'c Placed<Arc<str>>| Site { path, source, span: id.span, id: &id.value };
            let policies = file.policies().iter().map(|spec| site(&spec.source, &spec.id));
            let blueprints = file.blueprints().iter().map(|spec| site(&spec.source, &spec.id));
            let clients = file.clients.iter().map(|spec| site(&file.source, &spec.id));
            let records = file.records.iter().map(|spec| site(&file.source, &spec.id));
            policies.for_each(|site| define(&mut ids.policies, site, |one, two| twice("policy", one, two)));
            blueprints.for_each(|site| define(&mut ids.blueprints, site, |one, two| twice("blueprint", one, two)));
            clients.for_each(|site| define(&mut ids.clients, site, |one, two| twice("client", one, two)));
            records.for_each(|site| define(&mut ids.records, site, |one, two| twice("record", one, two)));
        }
        ids
    }

    /// Collects the ids of files in force, none of which is defined twice.
    pub(crate) fn of(files: &'c Files) -> Self {
        Self::collect(files, |_, _, _| {})
    }

    /// Returns whether an id is defined by a file or built in.
    pub(crate) fn defines(&self, kind: ObjectKind, id: &str, built_in: &[Arc<PolicySpec>]) -> bool {
        self.find(kind, id).is_some()
            || kind == ObjectKind::Policy
                && (id == UNRESTRICTED || built_in.iter().any(|preset| *preset.id.value == *id))
    }

    /// Returns the file that defines an id, by the word for the kind of the id.
    fn definer(&self, kind: &str, id: &str) -> Option<&'c FilePath> {
        let ids = match kind {
            "policy" => &self.policies,
            "blueprint" => &self.blueprints,
            "client" => &self.clients,
            _ => &self.records,
        };
        ids.get(id).map(|site| site.path)
    }

    /// Returns the place where an id is defined.
    fn find(&self, kind: ObjectKind, id: &str) -> Option<Site<'c>> {
        let ids = match kind {
            ObjectKind::Policy => &self.policies,
            ObjectKind::Blueprint => &self.blueprints,
            ObjectKind::Client => &self.clients,
        };
        ids.get(id).copied()
    }
}

/// Adds a definition, or calls `twice` with the first definition and this one.
fn define<'c>(ids: &mut HashMap<&'c str, Site<'c>>, site: Site<'c>, twice: impl FnOnce(Site<'c>, Site<'c>)) {
    match ids.get(&**site.id) {
        Some(first) => twice(*first, site),
        None => {
            ids.insert(site.id, site);
        }
    }
}

/// The kind of object that an id belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ObjectKind {
    /// A policy or preset.
    Policy,
    Blueprint,
    Client,
}

impl ObjectKind {
    /// Returns the kind as a word, as in the table's name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Blueprint => "blueprint",
            Self::Client => "client",
        }
    }
}

impl<'c> Candidates<'c> {
    /// Returns all conflicts.
    pub(crate) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let ids = Ids::collect(self.files, |kind, one, two| {
            let owner = self.ids_in_force.definer(kind, one.id);
            let (first, second) = self.older_first(one, two, owner);
            let message = || format!("{kind} {} is defined twice", quoted(first.id));
            let (related, help) = (|| "first defined here".to_owned(), "rename or remove one of them");
            conflicts.push(between(self.budget, (first, second), owner, message, related, help));
        });
        self.equal_prefixes(&mut conflicts);
        let changed = self.changed();
        self.too_many_objects(&changed, &mut conflicts);
        self.unknown_references(&ids, &changed, &mut conflicts);
        missing_lists(&changed, self.lists, &mut conflicts);
        self.cycles(&ids, &changed, &mut conflicts);
        conflicts
    }

    /// Returns whether the version of a file that is to go into force is the one in force.
    pub(crate) fn is_in_force(&self, path: &Path) -> bool {
        match (self.files.get(path.as_os_str()), self.in_force.get(path.as_os_str())) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            _ => false,
        }
    }

    /// Returns the files that have changed, by one walk through both maps.
    pub(crate) fn changed(&self) -> Files {
        let mut before = self.in_force.iter().peekable();
        let mut changed = Files::new();
        for (path, file) in self.files {
            while before.next_if(|(other, _)| *other < path).is_some() {}
            let is_unchanged =
                before.next_if(|(other, _)| *other == path).is_some_and(|(_, known)| Arc::ptr_eq(known, file));
            if !is_unchanged {
                changed.insert(path.clone(), Arc::clone(file));
            }
        }
        changed
    }

    /// Finds the changed files that add most objects, if there are more than [`MAX_OBJECTS`] in all.
    fn too_many_objects(&self, changed: &Files, conflicts: &mut Vec<Conflict>) {
        let all = self.files.values().map(|file| objects(file)).sum();
        let added = changed.iter().map(|(path, file)| {
            let before = self.in_force.get(path.as_os_str()).map_or(0, |before| objects(before));
            (path, objects(file).saturating_sub(before))
        });
        for path in excess(all, added.collect(), MAX_OBJECTS) {
            let error = || {
                let message = format!(
                    "there would be {all} policies, blueprints and clients, and at most {MAX_OBJECTS} are loaded"
                );
                Diagnostic::about_file(path, message).help("remove what nobody needs")
            };
            let diagnostic = self.budget.report(path, error);
            conflicts.push(Conflict { diagnostic, files: vec![path.clone()], bindings: false });
        }
    }

    /// Returns whether a changed file no longer defines something that is in force.
    fn drops_something(&self, ids: &Ids<'c>, changed: &Files) -> bool {
        let before = changed.keys().filter_map(|path| self.in_force.get(path.as_os_str()));
        before.into_iter().any(|file| {
            let policies = file.policies().iter().map(|spec| (ObjectKind::Policy, &spec.id.value));
            let blueprints = file.blueprints().iter().map(|spec| (ObjectKind::Blueprint, &spec.id.value));
            let clients = file.clients.iter().map(|spec| (ObjectKind::Client, &spec.id.value));
            policies.chain(blueprints).chain(clients).any(|(kind, id)| ids.find(kind, id).is_none())
        })
    }

    /// Orders two places of a definition so that the file that is at fault comes second, which is where the error is
    /// shown: the one that does not own the definition in force, else a changed one, else one that is no object of the API.
    fn older_first(&self, one: Site<'c>, two: Site<'c>, owner: Option<&FilePath>) -> (Site<'c>, Site<'c>) {
        let rank = |site: &Site<'c>| {
            (owner == Some(site.path), self.is_in_force(site.path), object_of(self.root, site.path).is_some())
        };
        if rank(&two) > rank(&one) { (two, one) } else { (one, two) }
    }

    /// Finds prefixes that two clients have.
    fn equal_prefixes(&self, conflicts: &mut Vec<Conflict>) {
        let mut seen: HashMap<_, Site<'c>> = HashMap::new();
        // The files that have each prefix in force, collected at the first conflict.
        let in_force = LazyCell::new(|| -> HashMap<IpNet, &FilePath> {
            let clients =
                self.in_force.iter().flat_map(|(path, file)| file.clients.iter().map(move |spec| (path, spec)));
            clients.flat_map(|(path, spec)| spec.sources.iter().map(move |source| (source.value, path))).collect()
        });
        for (path, file) in self.files {
            for client in &file.clients {
                for source in &client.sources {
                    let here = Site { path, source: &file.source, span: source.span, id: &client.id.value };
                    let Some(other) = seen.insert(source.value, here) else { continue };
                    let owner = in_force.get(&source.value).copied();
                    let (first, second) = self.older_first(other, here, owner);
                    let message = || format!("source `{}` is in two clients", source.value);
                    let related = || format!("also in client {}", quoted(first.id));
                    let help = "give each client sources of its own; where prefixes overlap, the longer one wins";
                    conflicts.push(between(self.budget, (first, second), owner, message, related, help));
                }
            }
        }
    }

    /// Finds references to ids that are not defined.
    fn unknown_references(&self, ids: &Ids<'c>, changed: &Files, conflicts: &mut Vec<Conflict>) {
        // An id that seems to be undefined may be defined behind a syntax error, which is reported already.
        if self.files.values().any(|file| !file.is_whole()) {
            return;
        }
        // A file that has not changed can only have lost an id that a changed file no longer defines.
        let suspects = if self.drops_something(ids, changed) { self.files } else { changed };
        for (path, file) in suspects {
            for (kind, source, reference) in references(file) {
                if self.is_defined(ids, kind, &reference.value) || (self.is_excused)(Some(path), &reference.value) {
                    continue;
                }
                if !self.is_in_force(path) {
                    conflicts.push(Conflict {
                        diagnostic: self.budget.report(path, || self.unknown(ids, kind, source, reference)),
                        files: vec![path.clone()],
                        bindings: false,
                    });
                } else if let Some(definer) = self.dropped_by(kind, &reference.value) {
                    let diagnostic = || {
                        let message = format!("{} {} is no longer defined", kind.as_str(), quoted(&reference.value));
                        let before = definer.source.place(definer.span.start);
                        let error = source.error(reference.span, message).help(STILL_USED);
                        error.related(before, "it was defined here")
                    };
                    conflicts.push(Conflict {
                        diagnostic: self.budget.report(path, diagnostic),
                        files: vec![definer.path.clone()],
                        bindings: false,
                    });
                }
            }
        }
        // A test holds back its own file only: a client that others remove is gone for the tests of files in force.
        for (path, file) in changed.iter().filter(|_| self.refuses_tests) {
            for client in file.tests().iter().map(|test| &test.client) {
                if self.is_defined(ids, ObjectKind::Client, &client.value)
                    || (self.is_excused)(Some(path), &client.value)
                {
                    continue;
                }
                let unknown = || self.unknown(ids, ObjectKind::Client, &file.source, client);
                conflicts.push(Conflict {
                    diagnostic: self.budget.report(path, unknown),
                    files: vec![path.clone()],
                    bindings: false,
                });
            }
        }
        for binding in self.bindings.iter().filter(|binding| !self.is_defined(ids, ObjectKind::Policy, &binding.policy))
        {
            let dropped = self.dropped_by(ObjectKind::Policy, &binding.policy).filter(|_| self.bindings_in_force);
            if self.bindings_in_force && dropped.is_none() || (self.is_excused)(None, &binding.policy) {
                continue;
            }
            let diagnostic = if let Some((source, span)) = &binding.written {
                let reference = Placed { value: Arc::clone(&binding.policy), span: *span };
                self.unknown(ids, ObjectKind::Policy, source, &reference)
            } else {
                let message = format!("unknown policy {}", quoted(&binding.policy));
                Diagnostic::about_file(Path::new("<configuration>"), message).help(self.suggest(ids, &binding.policy))
            };
            let files = dropped.iter().map(|definer| definer.path.clone()).collect();
            conflicts.push(Conflict { diagnostic: Some(diagnostic), files, bindings: !self.bindings_in_force });
        }
    }

    /// Returns whether an id is defined by a file or built in.
    fn is_defined(&self, ids: &Ids<'c>, kind: ObjectKind, id: &str) -> bool {
        ids.defines(kind, id, self.built_in)
    }

    /// Returns the place where an id in force was defined, if its file exists but no longer defines it. A deleted file
    /// causes no conflict: its objects are gone, and references to them deny.
    fn dropped_by(&self, kind: ObjectKind, id: &str) -> Option<Site<'c>> {
        let definer = self.ids_in_force.find(kind, id)?;
        (self.files.contains_key(definer.path) && !self.is_in_force(definer.path)).then_some(definer)
    }

    /// Returns the error about a reference to an undefined id.
    fn unknown(&self, ids: &Ids<'c>, kind: ObjectKind, source: &Source, reference: &Placed<Arc<str>>) -> Diagnostic {
        let id = &*reference.value;
        let (what, help) = match (kind, id.strip_prefix(PRESET_PREFIX)) {
            (ObjectKind::Policy, Some(_)) => {
                let known: Vec<_> = self.built_in.iter().map(|preset| &*preset.id.value).collect();
                let help = match closest(id, known.iter().copied()) {
                    Some(known) => format!("did you mean \"{known}\"?"),
                    None => format!("known presets are {}", known.join(", ")),
                };
                ("preset", help)
            }
            (ObjectKind::Policy, None) => ("policy", self.suggest(ids, id)),
            (ObjectKind::Blueprint, _) => {
                ("blueprint", self.suggestion(id, "blueprint", ids.blueprints.keys().copied()))
            }
            (ObjectKind::Client, _) => ("client", self.suggestion(id, "client", ids.clients.keys().copied())),
        };
        source.error(reference.span, format!("unknown {what} {}", quoted(id))).help(help)
    }

    /// Returns the help about an undefined policy id.
    fn suggest(&self, ids: &Ids<'c>, id: &str) -> String {
        if self.built_in.iter().any(|preset| preset.id.value.strip_prefix(PRESET_PREFIX) == Some(id)) {
            return format!("did you mean \"{PRESET_PREFIX}{id}\"?");
        }
        match closest(id, [UNRESTRICTED]) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => self.suggestion(id, "policy", ids.policies.keys().copied()),
        }
    }

    /// Returns the help about an undefined id: a similar one, or how to define it.
    fn suggestion<'a>(&self, id: &str, kind: &str, known: impl ExactSizeIterator<Item = &'a str>) -> String {
        match self.budget.closest(id, known) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => format!("define `[{kind}.ID]` with this id, or write another id"),
        }
    }

    /// Finds policies that include themselves, directly or through others, and those that include too deep.
    ///
    /// A depth-first search with an explicit stack. It starts at all files, as a chain can become too long below a policy
    /// whose file has not changed.
    fn cycles(&self, ids: &Ids<'c>, changed: &Files, conflicts: &mut Vec<Conflict>) {
        if !changed.values().any(|file| file.policies().iter().any(|spec| !spec.include.is_empty())) {
            return;
        }
        let specs: HashMap<&str, (&FilePath, &PolicySpec)> = self
            .files
            .iter()
            .flat_map(|(path, file)| file.policies().iter().map(move |spec| (path, &**spec)))
            .filter(|(path, spec)| ids.find(ObjectKind::Policy, &spec.id.value).is_some_and(|site| site.path == *path))
            .map(|(path, spec)| (&*spec.id.value, (path, spec)))
            .collect();
        let mut done: HashMap<&str, Visit> = HashMap::new();
        for (path, file) in self.files {
            for start in file.policies().iter().filter(|spec| !spec.include.is_empty()) {
                if done.contains_key(&*start.id.value) {
                    continue;
                }
                // An explicit stack: a chain of includes may be longer than the thread's stack is deep.
                let mut stack = vec![IncludeFrame { path, spec: start, next: 0, depth: 0, back_to: usize::MAX }];
                done.insert(&start.id.value, Visit::OnStack(0));
                while let Some(step) = stack.last_mut() {
                    let Some(reference) = step.spec.include.get(step.next) else {
                        let IncludeFrame { path, spec, depth, back_to, .. } = *step;
                        done.insert(&spec.id.value, Visit::Done(depth));
                        // Policies above this one are too deep as well; one error per chain is enough.
                        if depth == MOST_DEPTH + 1 {
                            let files = if changed.contains_key(path) {
                                vec![path.clone()]
                            } else {
                                changed_below(spec, &specs, changed)
                            };
                            conflicts.push(Conflict { files, ..too_deep(self.budget, path, spec) });
                        }
                        stack.pop();
                        if back_to <= stack.len() {
                            conflicts.push(Conflict { files: vec![path.clone()], ..Conflict::default() });
                        }
                        let is_further = back_to < stack.len();
                        if let Some(above) = stack.last_mut() {
                            above.depth = above.depth.max(depth + 1);
                            if is_further {
                                above.back_to = above.back_to.min(back_to);
                            }
                        }
                        continue;
                    };
                    step.next += 1;
                    let Some(&(path, included)) = specs.get(&*reference.value) else { continue };
                    match done.get(&*included.id.value) {
                        None => {
                            done.insert(&included.id.value, Visit::OnStack(stack.len()));
                            stack.push(IncludeFrame { path, spec: included, next: 0, depth: 0, back_to: usize::MAX });
                        }
                        Some(Visit::Done(depth)) => step.depth = step.depth.max(depth + 1),
                        Some(&Visit::OnStack(from)) => {
                            step.back_to = step.back_to.min(from);
                            let shown = stack[from..].iter().find(|step| changed.contains_key(step.path));
                            let path = shown.map_or(path, |step| step.path);
                            let diagnostic = self.budget.report(path, || cycle(&stack[from..], reference, changed));
                            conflicts.push(Conflict { diagnostic, ..Conflict::default() });
                        }
                    }
                }
            }
        }
    }
}

/// Returns the changed files of the policies that a policy includes, directly or through others.
fn changed_below(
    policy: &PolicySpec,
    specs: &HashMap<&str, (&FilePath, &PolicySpec)>,
    changed: &Files,
) -> Vec<FilePath> {
    let (mut files, mut seen, mut next) = (BTreeSet::new(), HashSet::new(), vec![policy]);
    while let Some(spec) = next.pop() {
        for include in &spec.include {
            let Some(&(path, included)) = specs.get(&*include.value) else { continue };
            if !seen.insert(&*included.id.value) {
                continue;
            }
            if changed.contains_key(path) {
                files.insert(path.clone());
            }
            next.push(included);
        }
    }
    files.into_iter().collect()
}

/// Finds list files without any known contents. The reason was reported when they were read.
fn missing_lists(changed: &Files, known: &Lists, conflicts: &mut Vec<Conflict>) {
    for (path, file) in changed {
        let mut lists =
            file.policies().iter().flat_map(|policy| policy.allowed_lists.iter().chain(&policy.denied_lists));
        if lists.any(|list| !known.contains_key(&list.value)) {
            conflicts.push(Conflict { files: vec![path.clone()], ..Conflict::default() });
        }
    }
}

/// Returns the number of policies, blueprints and clients that a file defines.
fn objects(file: &FileSpec) -> usize {
    file.policies().len() + file.blueprints().len() + file.clients.len()
}

/// Returns the files to leave out so that at most `most` objects remain of `all`: those that add most.
fn excess(all: usize, mut added: Vec<(&FilePath, usize)>, most: usize) -> Vec<&FilePath> {
    let mut left = all;
    added.sort_by_key(|(_, added)| std::cmp::Reverse(*added));
    let files = added.into_iter().take_while(|(_, added)| {
        let is_too_many = left > most && *added > 0;
        left = left.saturating_sub(*added);
        is_too_many
    });
    files.map(|(path, _)| path).collect()
}

/// Returns the conflict between two places; the error is shown at the second one.
///
/// The file that has the definition in force is not among those that cause the conflict: otherwise a file that claims
/// what another one has would keep each new version of that other file out of force.
fn between(
    budget: &DiagnosticBudget,
    (first, second): (Site<'_>, Site<'_>),
    owner: Option<&FilePath>,
    message: impl FnOnce() -> String,
    related: impl FnOnce() -> String,
    help: &str,
) -> Conflict {
    let diagnostic = || {
        let error = second.source.error(second.span, message()).help(help);
        error.related(first.source.place(first.span.start), related())
    };
    Conflict {
        diagnostic: budget.report(second.path, diagnostic),
        files: [first.path, second.path]
            .into_iter()
            .filter(|path| first.path == second.path || Some(*path) != owner)
            .cloned()
            .collect(),
        bindings: false,
    }
}

/// The most includes in a chain. A longer one costs each policy that includes it time quadratic in its length.
const MOST_DEPTH: usize = 16;

/// A policy on the stack of the search through includes.
#[derive(Clone, Copy)]
struct IncludeFrame<'c> {
    path: &'c FilePath,
    spec: &'c PolicySpec,
    /// The index of the next include to follow.
    next: usize,
    /// The length of the longest chain of includes below the policy, as far as it was searched.
    depth: usize,
    /// The lowest stack position that an include below the policy leads back to; `usize::MAX` if none leads back.
    back_to: usize,
}

/// The state of a policy in the search.
enum Visit {
    /// The policy is on the stack, at this position.
    OnStack(usize),
    /// The policy was searched; its longest chain of includes has this length.
    Done(usize),
}

/// Returns the conflict of a policy whose chain of includes is too long.
fn too_deep(budget: &DiagnosticBudget, path: &FilePath, spec: &PolicySpec) -> Conflict {
    let error = || {
        let span = spec.include.first().map_or(spec.id.span, |include| include.span);
        let message = format!("policy {} includes others more than {MOST_DEPTH} deep", quoted(&spec.id.value));
        spec.source.error(span, message).help("include those at the end of the chain directly")
    };
    Conflict { diagnostic: budget.report(path, error), files: vec![path.clone()], bindings: false }
}

/// Returns the error about a cycle, which `reference` in the last policy of the stack closes. It is shown in a file of
/// `changed`, and the middle of a long cycle is left out.
fn cycle(stack: &[IncludeFrame<'_>], reference: &Placed<Arc<str>>, changed: &Files) -> Diagnostic {
    let mut steps: Vec<(&FilePath, &PolicySpec, &Placed<Arc<str>>)> = Vec::new();
    for IncludeFrame { path, spec, next, .. } in stack {
        let is_last = steps.len() + 1 == stack.len();
        let step = if is_last { Some(reference) } else { spec.include.get(next.saturating_sub(1)) };
        steps.extend(step.map(|step| (*path, *spec, step)));
    }
    let shown = steps.iter().position(|(path, _, _)| changed.contains_key(*path)).unwrap_or(0);
    let turn = (shown + 1) % steps.len().max(1);
    steps.rotate_left(turn);
    let Some(((_, last, step), before)) = steps.split_last() else {
        return Diagnostic::about_file(Path::new(""), "policies include one another in a cycle");
    };
    let ids: Vec<&str> = [&*step.value].into_iter().chain(steps.iter().map(|(_, _, step)| &*step.value)).collect();
    let ids = match ids.len() {
        0..=MOST_DEPTH => ids.join(" > "),
        all => format!("{} > … {} more … > {}", ids[..MOST_DEPTH].join(" > "), all - MOST_DEPTH - 1, ids[all - 1]),
    };
    let message = format!("policies include one another in a cycle: {ids}");
    let mut error = last.source.error(step.span, message).help("remove one of the includes");
    for (_, spec, step) in before.iter().take(MOST_DEPTH) {
        error = error.related(spec.source.place(step.span.start), format!("includes {}", quoted(&step.value)));
    }
    error
}

/// Returns the references of a file's objects to ids, not those of its tests.
pub(crate) fn references(file: &FileSpec) -> impl Iterator<Item = (ObjectKind, &Source, &Placed<Arc<str>>)> {
    let included =
        file.policies().iter().flat_map(|spec| spec.include.iter().map(|id| (ObjectKind::Policy, &spec.source, id)));
    let of_blueprints = file.blueprints().iter().flat_map(|spec| {
        let policies = spec.build_policy.iter().chain(&spec.runtime_policy);
        policies.map(|id| (ObjectKind::Policy, &spec.source, id))
    });
    let of_clients = file.clients.iter().flat_map(|spec| {
        let policy = spec.policy.iter().map(|id| (ObjectKind::Policy, &file.source, id));
        policy.chain(spec.blueprint.iter().map(|id| (ObjectKind::Blueprint, &file.source, id)))
    });
    included.chain(of_blueprints).chain(of_clients)
}

/// The help about a definition that was removed although something refers to it.
const STILL_USED: &str = "define it again, or refer to something else; until then its file stays as it was";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_add_most_objects_are_left_out_until_the_rest_fits() {
        let paths: Vec<FilePath> = ["a", "b", "c", "d"].map(|name| FilePath(Path::new(name).into())).into();
        let added: Vec<(&FilePath, usize)> = paths.iter().zip([5, 60, 0, 30]).collect();
        let names = |all| -> Vec<String> {
            excess(all, added.clone(), 100).iter().map(|path| path.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(100), [""; 0]);
        assert_eq!(names(101), ["b"]);
        assert_eq!(names(160), ["b"]);
        assert_eq!(names(161), ["b", "d"]);
        assert_eq!(names(1000), ["b", "d", "a"], "a file that adds nothing is not to blame");
    }
}
