//! What several files make together: ids defined twice, references to nothing, cycles, equal prefixes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::document::{Diagnostic, Placed, Source, Span, closest, quoted};

use super::compile::Lists;
use super::source::FilePath;
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{FileSpec, PRESET_PREFIX, PolicySpec, UNRESTRICTED};

/// Policy files by path, preset files included.
pub(crate) type Files = BTreeMap<FilePath, Arc<FileSpec>>;

/// Something that keeps files from going into force together.
#[derive(Debug, Default)]
pub(crate) struct Conflict {
    /// What is wrong, unless that is told elsewhere.
    pub(crate) diagnostic: Option<Diagnostic>,
    /// The files that make it; those among them that changed are held back.
    pub(crate) files: Vec<FilePath>,
    /// Whether the bindings make it and changed.
    pub(crate) bindings: bool,
}

/// What is to go into force, beside what is.
#[derive(Clone, Copy)]
pub(crate) struct Candidates<'c> {
    /// The files that are to go into force.
    pub(crate) files: &'c Files,
    /// The files that are in force.
    pub(crate) in_force: &'c Files,
    /// The ids that are in force.
    pub(crate) ids_in_force: &'c Ids<'c>,
    /// The built-in presets.
    pub(crate) built_in: &'c [Arc<PolicySpec>],
    /// The lists that could be read, now or before.
    pub(crate) lists: &'c Lists,
    /// The bindings that are to go into force.
    pub(crate) bindings: &'c Bindings,
    /// Whether they are those in force.
    pub(crate) bindings_settled: bool,
    /// Whether a reference to an id that is not defined is no error, by the file that refers (`None` is the configuration).
    pub(crate) is_excused: &'c dyn Fn(Option<&Path>, &str) -> bool,
    /// How much there is still to tell.
    pub(crate) budget: &'c Budget,
}

/// How many errors that files make together are told in a load; the rest is counted, and costs no more than that.
#[derive(Debug)]
pub(crate) struct Budget {
    /// How many errors may still be told.
    left: Cell<usize>,
    /// How many were told of each file.
    of_files: RefCell<HashMap<Arc<Path>, usize>>,
    /// How many were not told.
    more: Cell<usize>,
    /// How many ids may still be compared with unknown ones.
    comparisons: Cell<usize>,
}

impl Budget {
    /// Starts with nothing told.
    pub(crate) fn new() -> Self {
        let (left, comparisons) = (Cell::new(MAX_CONFLICTS), Cell::new(MAX_COMPARISONS));
        Self { left, of_files: RefCell::default(), more: Cell::new(0), comparisons }
    }

    /// Makes an error about a file, unless enough was told.
    pub(crate) fn tell(&self, path: &FilePath, make: impl FnOnce() -> Diagnostic) -> Option<Diagnostic> {
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

    /// Returns what is to be said of the errors that were not told.
    pub(crate) fn rest(&self, root: &Path) -> Option<Diagnostic> {
        let more = self.more.get();
        (more > 0).then(|| Diagnostic::about_file(root, format!("and {more} more errors that files make together")))
    }

    /// Returns what could be meant by an unknown id, as long as that takes no long search.
    fn closest<'a>(&self, id: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Option<&'a str> {
        if self.comparisons.get() == 0 {
            return None;
        }
        self.comparisons.set(self.comparisons.get().saturating_sub(known.len()));
        closest(id, known)
    }
}

/// Errors that files make together, told of a load, and of them those about one file.
const MAX_CONFLICTS: usize = 200;
/// As above.
const MAX_CONFLICTS_OF_FILE: usize = 20;
/// Known ids that unknown ones are compared with to say which could be meant; the search that passes it is finished.
const MAX_COMPARISONS: usize = 20_000;

/// A definition or reference in a file.
#[derive(Clone, Copy)]
struct Site<'c> {
    /// The file.
    path: &'c FilePath,
    /// Its text.
    source: &'c Source,
    /// The place.
    span: Span,
    /// The id that is defined there, or around it.
    id: &'c Arc<str>,
}

/// What is defined where.
#[derive(Default)]
pub(crate) struct Ids<'c> {
    /// Policies and presets.
    policies: HashMap<&'c str, Site<'c>>,
    /// Blueprints.
    blueprints: HashMap<&'c str, Site<'c>>,
    /// Clients.
    clients: HashMap<&'c str, Site<'c>>,
    /// Records.
    records: HashMap<&'c str, Site<'c>>,
}

impl<'c> Ids<'c> {
    /// Collects the ids of `files`; `twice` gets what is defined again.
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

    /// Collects the ids of files that are in force, where none is defined twice.
    pub(crate) fn of(files: &'c Files) -> Self {
        Self::collect(files, |_, _, _| {})
    }

    /// Returns whether an id is defined, here or built in.
    pub(crate) fn defines(&self, kind: Kind, id: &str, built_in: &[Arc<PolicySpec>]) -> bool {
        self.find(kind, id).is_some()
            || kind == Kind::Policy && (id == UNRESTRICTED || built_in.iter().any(|preset| *preset.id.value == *id))
    }

    /// Returns where an id is defined.
    fn find(&self, kind: Kind, id: &str) -> Option<Site<'c>> {
        let ids = match kind {
            Kind::Policy => &self.policies,
            Kind::Blueprint => &self.blueprints,
            Kind::Client => &self.clients,
        };
        ids.get(id).copied()
    }
}

/// Notes a definition; `twice` gets it and the first one if there is one.
fn define<'c>(ids: &mut HashMap<&'c str, Site<'c>>, site: Site<'c>, twice: impl FnOnce(Site<'c>, Site<'c>)) {
    match ids.get(&**site.id) {
        Some(first) => twice(*first, site),
        None => {
            ids.insert(site.id, site);
        }
    }
}

/// What an id is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A policy or preset.
    Policy,
    /// A blueprint.
    Blueprint,
    /// A client.
    Client,
}

impl Kind {
    /// Returns its word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Blueprint => "blueprint",
            Self::Client => "client",
        }
    }
}

impl<'c> Candidates<'c> {
    /// Finds all conflicts.
    pub(crate) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let ids = Ids::collect(self.files, |kind, one, two| {
            let (first, second) = self.older_first(one, two);
            let message = || format!("{kind} {} is defined twice", quoted(first.id));
            let (related, help) = (|| "first defined here".to_owned(), "rename or remove one of them");
            conflicts.push(between(self.budget, first, second, message, related, help));
        });
        self.equal_prefixes(&mut conflicts);
        let changed = self.changed();
        self.unknown_references(&ids, &changed, &mut conflicts);
        missing_lists(&changed, self.lists, &mut conflicts);
        self.cycles(&ids, &changed, &mut conflicts);
        conflicts
    }

    /// Returns whether a file says what is in force.
    pub(crate) fn is_settled(&self, path: &Path) -> bool {
        match (self.files.get(path.as_os_str()), self.in_force.get(path.as_os_str())) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            _ => false,
        }
    }

    /// Returns the files that are not settled, by one walk through both maps.
    pub(crate) fn changed(&self) -> Files {
        let mut before = self.in_force.iter().peekable();
        let mut changed = Files::new();
        for (path, file) in self.files {
            while before.next_if(|(other, _)| *other < path).is_some() {}
            let settled =
                before.next_if(|(other, _)| *other == path).is_some_and(|(_, known)| Arc::ptr_eq(known, file));
            if !settled {
                changed.insert(path.clone(), Arc::clone(file));
            }
        }
        changed
    }

    /// Returns whether a file that changed no longer defines something that is in force.
    fn drops_something(&self, ids: &Ids<'c>, changed: &Files) -> bool {
        let before = changed.keys().filter_map(|path| self.in_force.get(path.as_os_str()));
        before.into_iter().any(|file| {
            let policies = file.policies().iter().map(|spec| (Kind::Policy, &spec.id.value));
            let blueprints = file.blueprints().iter().map(|spec| (Kind::Blueprint, &spec.id.value));
            let clients = file.clients.iter().map(|spec| (Kind::Client, &spec.id.value));
            policies.chain(blueprints).chain(clients).any(|(kind, id)| ids.find(kind, id).is_none())
        })
    }

    /// Orders two sites such that the one in a file that changed comes second: there the error is shown.
    fn older_first(&self, one: Site<'c>, two: Site<'c>) -> (Site<'c>, Site<'c>) {
        if self.is_settled(two.path) && !self.is_settled(one.path) { (two, one) } else { (one, two) }
    }

    /// Finds prefixes that two clients have.
    fn equal_prefixes(&self, conflicts: &mut Vec<Conflict>) {
        let mut seen: HashMap<_, Site<'c>> = HashMap::new();
        for (path, file) in self.files {
            for client in &file.clients {
                for source in &client.sources {
                    let here = Site { path, source: &file.source, span: source.span, id: &client.id.value };
                    let Some(other) = seen.insert(source.value, here) else { continue };
                    let (first, second) = self.older_first(other, here);
                    let message = || format!("source `{}` is in two clients", source.value);
                    let related = || format!("also in client {}", quoted(first.id));
                    let help = "give each client sources of its own; where prefixes overlap, the longer one wins";
                    conflicts.push(between(self.budget, first, second, message, related, help));
                }
            }
        }
    }

    /// Finds references to ids that are not defined.
    fn unknown_references(&self, ids: &Ids<'c>, changed: &Files, conflicts: &mut Vec<Conflict>) {
        // What seems to be missing may stand behind a syntax error, which is told already.
        if self.files.values().any(|file| !file.is_whole()) {
            return;
        }
        // What did not change can only have lost what a change drops.
        let suspects = if self.drops_something(ids, changed) { self.files } else { changed };
        for (path, file) in suspects {
            for (kind, source, reference) in references(file) {
                if self.is_defined(ids, kind, &reference.value) || (self.is_excused)(Some(path), &reference.value) {
                    continue;
                }
                if !self.is_settled(path) {
                    conflicts.push(Conflict {
                        diagnostic: self.budget.tell(path, || self.unknown(ids, kind, source, reference)),
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
                        diagnostic: self.budget.tell(path, diagnostic),
                        files: vec![definer.path.clone()],
                        bindings: false,
                    });
                }
            }
        }
        for binding in self.bindings.iter().filter(|binding| !self.is_defined(ids, Kind::Policy, &binding.policy)) {
            let dropped = self.dropped_by(Kind::Policy, &binding.policy).filter(|_| self.bindings_settled);
            if self.bindings_settled && dropped.is_none() || (self.is_excused)(None, &binding.policy) {
                continue;
            }
            let diagnostic = if let Some((source, span)) = &binding.written {
                let reference = Placed { value: Arc::clone(&binding.policy), span: *span };
                self.unknown(ids, Kind::Policy, source, &reference)
            } else {
                let message = format!("unknown policy {}", quoted(&binding.policy));
                Diagnostic::about_file(Path::new("<configuration>"), message).help(self.suggest(ids, &binding.policy))
            };
            let files = dropped.iter().map(|definer| definer.path.clone()).collect();
            conflicts.push(Conflict { diagnostic: Some(diagnostic), files, bindings: !self.bindings_settled });
        }
    }

    /// Returns whether an id is defined, by a file or built in.
    fn is_defined(&self, ids: &Ids<'c>, kind: Kind, id: &str) -> bool {
        ids.defines(kind, id, self.built_in)
    }

    /// Returns where an id in force was defined, if the file is there but does not define it any more. A file that is
    /// gone is not to blame: what it defined is gone, too.
    fn dropped_by(&self, kind: Kind, id: &str) -> Option<Site<'c>> {
        let definer = self.ids_in_force.find(kind, id)?;
        (self.files.contains_key(definer.path) && !self.is_settled(definer.path)).then_some(definer)
    }

    /// Returns the error for a reference to nothing.
    fn unknown(&self, ids: &Ids<'c>, kind: Kind, source: &Source, reference: &Placed<Arc<str>>) -> Diagnostic {
        let id = &*reference.value;
        let (what, help) = match (kind, id.strip_prefix(PRESET_PREFIX)) {
            (Kind::Policy, Some(_)) => {
                let known: Vec<_> = self.built_in.iter().map(|preset| &*preset.id.value).collect();
                let help = match closest(id, known.iter().copied()) {
                    Some(known) => format!("did you mean \"{known}\"?"),
                    None => format!("known presets are {}", known.join(", ")),
                };
                ("preset", help)
            }
            (Kind::Policy, None) => ("policy", self.suggest(ids, id)),
            (Kind::Blueprint, _) => ("blueprint", self.suggestion(id, "blueprint", ids.blueprints.keys().copied())),
            (Kind::Client, _) => ("client", self.suggestion(id, "client", ids.clients.keys().copied())),
        };
        source.error(reference.span, format!("unknown {what} {}", quoted(id))).help(help)
    }

    /// Returns what could be meant by a policy's id.
    fn suggest(&self, ids: &Ids<'c>, id: &str) -> String {
        if self.built_in.iter().any(|preset| preset.id.value.strip_prefix(PRESET_PREFIX) == Some(id)) {
            return format!("did you mean \"{PRESET_PREFIX}{id}\"?");
        }
        match closest(id, [UNRESTRICTED]) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => self.suggestion(id, "policy", ids.policies.keys().copied()),
        }
    }

    /// Returns what could be meant by an id.
    fn suggestion<'a>(&self, id: &str, kind: &str, known: impl ExactSizeIterator<Item = &'a str>) -> String {
        match self.budget.closest(id, known) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => format!("define `[{kind}.ID]` with this id, or write another id"),
        }
    }

    /// Finds policies that include themselves, through others or directly, and those that include too deep.
    fn cycles(&self, ids: &Ids<'c>, changed: &Files, conflicts: &mut Vec<Conflict>) {
        if !changed.values().any(|file| file.policies().iter().any(|spec| !spec.include.is_empty())) {
            return;
        }
        let specs: HashMap<&str, (&FilePath, &PolicySpec)> = self
            .files
            .iter()
            .flat_map(|(path, file)| file.policies().iter().map(move |spec| (path, &**spec)))
            .filter(|(path, spec)| ids.find(Kind::Policy, &spec.id.value).is_some_and(|site| site.path == *path))
            .map(|(path, spec)| (&*spec.id.value, (path, spec)))
            .collect();
        let mut done: HashMap<&str, Visit> = HashMap::new();
        // What is in force has no cycle, so a new one goes through a change.
        for (path, file) in changed {
            for start in file.policies().iter().filter(|spec| !spec.include.is_empty()) {
                if done.contains_key(&*start.id.value) {
                    continue;
                }
                // A stack of our own: a chain of includes may be longer than the thread's stack is deep.
                let mut way = vec![Step { path, spec: start, next: 0, depth: 0, back_to: usize::MAX }];
                done.insert(&start.id.value, Visit::OnWay(0));
                while let Some(step) = way.last_mut() {
                    let Some(reference) = step.spec.include.get(step.next) else {
                        let Step { path, spec, depth, back_to, .. } = *step;
                        done.insert(&spec.id.value, Visit::Done(depth));
                        // Those above it are no deeper for the telling.
                        if depth == MOST_DEPTH + 1 {
                            conflicts.push(too_deep(self.budget, path, spec));
                        }
                        way.pop();
                        if back_to <= way.len() {
                            conflicts.push(Conflict { files: vec![path.clone()], ..Conflict::default() });
                        }
                        let is_further = back_to < way.len();
                        if let Some(above) = way.last_mut() {
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
                            done.insert(&included.id.value, Visit::OnWay(way.len()));
                            way.push(Step { path, spec: included, next: 0, depth: 0, back_to: usize::MAX });
                        }
                        Some(Visit::Done(depth)) => step.depth = step.depth.max(depth + 1),
                        Some(&Visit::OnWay(from)) => {
                            step.back_to = step.back_to.min(from);
                            let shown = way[from..].iter().find(|step| changed.contains_key(step.path));
                            let path = shown.map_or(path, |step| step.path);
                            let diagnostic = self.budget.tell(path, || cycle(&way[from..], reference, changed));
                            conflicts.push(Conflict { diagnostic, ..Conflict::default() });
                        }
                    }
                }
            }
        }
    }
}

/// Finds lists of which no content is known; why is told by those who read them.
fn missing_lists(changed: &Files, known: &Lists, conflicts: &mut Vec<Conflict>) {
    for (path, file) in changed {
        let mut lists =
            file.policies().iter().flat_map(|policy| policy.allowed_lists.iter().chain(&policy.denied_lists));
        if lists.any(|list| !known.contains_key(&list.value)) {
            conflicts.push(Conflict { files: vec![path.clone()], ..Conflict::default() });
        }
    }
}

/// Returns the conflict of two sites, shown at the second.
fn between(
    budget: &Budget,
    first: Site<'_>,
    second: Site<'_>,
    message: impl FnOnce() -> String,
    related: impl FnOnce() -> String,
    help: &str,
) -> Conflict {
    let diagnostic = || {
        let error = second.source.error(second.span, message()).help(help);
        error.related(first.source.place(first.span.start), related())
    };
    Conflict {
        diagnostic: budget.tell(second.path, diagnostic),
        files: vec![first.path.clone(), second.path.clone()],
        bindings: false,
    }
}

/// The most includes in a row: a chain costs the square of its length in each policy that is made of it.
const MOST_DEPTH: usize = 16;

/// A policy on the way from include to include.
#[derive(Clone, Copy)]
struct Step<'c> {
    /// Its file.
    path: &'c FilePath,
    /// The policy.
    spec: &'c PolicySpec,
    /// The next include to look at.
    next: usize,
    /// The most includes in a row below it, as far as it was looked at.
    depth: usize,
    /// The first policy of the way that it leads back to, by its number; larger than any where it leads back to none.
    back_to: usize,
}

/// What is known of a policy while includes are followed.
enum Visit {
    /// It is on the way that is being followed, at this place.
    OnWay(usize),
    /// So many includes in a row lie below it.
    Done(usize),
}

/// Returns the conflict of a policy that includes too deep.
fn too_deep(budget: &Budget, path: &FilePath, spec: &PolicySpec) -> Conflict {
    let error = || {
        let span = spec.include.first().map_or(spec.id.span, |include| include.span);
        let message = format!("policy {} includes others more than {MOST_DEPTH} deep", quoted(&spec.id.value));
        spec.source.error(span, message).help("include those at the end of the chain directly")
    };
    Conflict { diagnostic: budget.tell(path, error), files: vec![path.clone()], bindings: false }
}

/// Returns the error of a cycle, closed by `reference` in the last policy of `way`; it is shown in a file of `changed`, and
/// of a long one the middle is left out.
fn cycle(way: &[Step<'_>], reference: &Placed<Arc<str>>, changed: &Files) -> Diagnostic {
    let mut steps: Vec<(&FilePath, &PolicySpec, &Placed<Arc<str>>)> = Vec::new();
    for Step { path, spec, next, .. } in way {
        let is_last = steps.len() + 1 == way.len();
        let step = if is_last { Some(reference) } else { spec.include.get(next.saturating_sub(1)) };
        steps.extend(step.map(|step| (*path, *spec, step)));
    }
    let shown = steps.iter().position(|(path, _, _)| changed.contains_key(*path)).unwrap_or(0);
    let turn = (shown + 1) % steps.len().max(1);
    steps.rotate_left(turn);
    let Some(((_, last, step), before)) = steps.split_last() else {
        return Diagnostic::about_file(Path::new(""), "policies include one another in a circle");
    };
    let ids: Vec<&str> = [&*step.value].into_iter().chain(steps.iter().map(|(_, _, step)| &*step.value)).collect();
    let ids = match ids.len() {
        0..=MOST_DEPTH => ids.join(" > "),
        all => format!("{} > … {} more … > {}", ids[..MOST_DEPTH].join(" > "), all - MOST_DEPTH - 1, ids[all - 1]),
    };
    let message = format!("policies include one another in a circle: {ids}");
    let mut error = last.source.error(step.span, message).help("remove one of the includes");
    for (_, spec, step) in before.iter().take(MOST_DEPTH) {
        error = error.related(spec.source.place(step.span.start), format!("includes {}", quoted(&step.value)));
    }
    error
}

/// Returns the references of a file to ids.
pub(crate) fn references(file: &FileSpec) -> impl Iterator<Item = (Kind, &Source, &Placed<Arc<str>>)> {
    let included =
        file.policies().iter().flat_map(|spec| spec.include.iter().map(|id| (Kind::Policy, &spec.source, id)));
    let of_blueprints = file.blueprints().iter().flat_map(|spec| {
        let policies = spec.build_policy.iter().chain(&spec.runtime_policy);
        policies.map(|id| (Kind::Policy, &spec.source, id))
    });
    let of_clients = file.clients.iter().flat_map(|spec| {
        let policy = spec.policy.iter().map(|id| (Kind::Policy, &file.source, id));
        policy.chain(spec.blueprint.iter().map(|id| (Kind::Blueprint, &file.source, id)))
    });
    let of_tests = file.tests().iter().map(|test| (Kind::Client, &file.source, &test.client));
    included.chain(of_blueprints).chain(of_clients).chain(of_tests)
}

/// What mends the removal of something that is still referred to.
const STILL_USED: &str = "define it again, or refer to something else; until then its file stays as it was";
