//! The effective lists of each policy, made once and kept while nothing they come from changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use crate::document::Diagnostic;

use super::incremental::delta::Pair;
use super::lint;
use super::list::ListFile;
use super::preset::shared_hasher;
use crate::policy::matching::name_set::{NameSet, Via};
use crate::policy::matching::rules::Rules;
use crate::policy::model::spec::{ListUse, PolicySpec};
use crate::policy::snapshot::Policy;
use crate::util::persistent_map::OrderedMap;

/// Sets of fewer patterns are copied together, so that a policy has few sets to search; larger ones are shared.
const SMALL: usize = 4096;

/// All policies and presets by id.
pub(crate) type Definitions = HashMap<Arc<str>, Arc<PolicySpec>>;

/// The lists in use.
pub(crate) type Lists = BTreeMap<ListUse, Arc<ListFile>>;

/// The compiled policies of one generation, from which the next takes what did not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    /// By id.
    policies: OrderedMap<Arc<str>, CompiledPolicy>,
    /// What policies include, by its ingredients: policies with the same includes share it.
    groups: Arc<HashMap<Vec<usize>, Arc<Group>>>,
}

/// A policy with what it was made from.
#[derive(Clone, Debug)]
struct CompiledPolicy {
    /// The policy.
    policy: Arc<Policy>,
    /// What it includes.
    group: Arc<Group>,
    /// Its warnings.
    warnings: Arc<[Diagnostic]>,
}

/// The lists that a policy gets from elsewhere: includes and list files.
#[derive(Debug, Default)]
struct Group {
    /// What it is made from, kept so that the addresses in `key` stay theirs.
    ingredients: Ingredients,
    /// The patterns that allow.
    allowed: Rules,
    /// The patterns that deny.
    denied: Rules,
}

/// What the lists of a policy are made from, apart from its own entries.
#[derive(Debug, Default)]
struct Ingredients {
    /// The included policies, each once, with the ids that lead there.
    included: Vec<(Via, Arc<PolicySpec>)>,
    /// The list files that allow, with the includes that lead there.
    allowed_lists: Vec<(Via, Arc<ListFile>)>,
    /// The list files that deny.
    denied_lists: Vec<(Via, Arc<ListFile>)>,
    /// The first included id, or list file, that is not there.
    gone: Option<Arc<str>>,
}

/// The group of policies that get nothing from elsewhere.
static NOTHING: LazyLock<Arc<Group>> = LazyLock::new(Arc::default);

impl Compiled {
    /// Compiles all definitions, taking from `self` what did not change.
    pub(crate) fn next(&self, definitions: &Definitions, lists: &Lists) -> Self {
        let (mut policies, mut groups) = (Vec::with_capacity(definitions.len()), HashMap::new());
        for (id, spec) in definitions {
            let before = self.policies.get(&**id);
            if let Some(before) = before.filter(|before| before.still_holds(spec, definitions, lists)) {
                let key = before.group.ingredients.key();
                if !key.is_empty() {
                    groups.entry(key).or_insert_with(|| Arc::clone(&before.group));
                }
                policies.push((Arc::clone(id), before.clone()));
                continue;
            }
            let ingredients = Ingredients::gather(spec, definitions, lists);
            let key = ingredients.key();
            let group = if key.is_empty() {
                Arc::clone(&NOTHING)
            } else {
                let known = groups.get(&key).or_else(|| self.groups.get(&key)).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(Group::make(ingredients)))
            };
            let unchanged =
                before.filter(|before| Arc::ptr_eq(&before.policy.spec, spec) && Arc::ptr_eq(&before.group, &group));
            let compiled = unchanged.cloned().unwrap_or_else(|| CompiledPolicy::make(spec, &group));
            if !key.is_empty() {
                groups.insert(key, group);
            }
            policies.push((Arc::clone(id), compiled));
        }
        Self { policies: policies.into_iter().collect(), groups: Arc::new(groups) }
    }

    /// Returns the same with what some policies say now; each includes what it did before, a new one nothing, and none is
    /// included.
    pub(crate) fn with_changed<'c>(&self, policies: impl Iterator<Item = &'c Pair<'c, Arc<PolicySpec>>>) -> Self {
        let mut next = self.clone();
        for Pair { id, before, after, place: _ } in policies {
            if let Some(spec) = after {
                let group = next.policies.get(*id).filter(|_| before.is_some());
                let group = group.map_or_else(|| Arc::clone(&NOTHING), |policy| Arc::clone(&policy.group));
                next.policies.insert(Arc::clone(&spec.id.value), CompiledPolicy::make(spec, &group));
            } else {
                next.policies.remove(*id);
            }
        }
        next
    }

    /// Returns a policy or preset.
    pub(crate) fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id).map(|compiled| &compiled.policy)
    }

    /// Returns all policies and presets.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().map(|compiled| &compiled.policy)
    }

    /// Returns the warnings of all policies.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.policies.values().flat_map(|compiled| compiled.warnings.iter())
    }

    /// Returns the warnings of one policy.
    pub(crate) fn warnings_of(&self, id: &str) -> &[Diagnostic] {
        self.policies.get(id).map_or(&[], |compiled| &compiled.warnings)
    }
}

impl CompiledPolicy {
    /// Returns whether nothing it is made from changed: then neither did what its includes lead to.
    fn still_holds(&self, spec: &Arc<PolicySpec>, definitions: &Definitions, lists: &Lists) -> bool {
        let Ingredients { included, allowed_lists, denied_lists, gone } = &self.group.ingredients;
        let is_definition = |spec: &Arc<PolicySpec>| {
            definitions.get(&spec.id.value).is_some_and(|definition| Arc::ptr_eq(definition, spec))
        };
        let is_list = |list: &Arc<ListFile>| lists.get(&list.named).is_some_and(|known| Arc::ptr_eq(known, list));
        gone.is_none()
            && Arc::ptr_eq(&self.policy.spec, spec)
            && included.iter().all(|(_, spec)| is_definition(spec))
            && allowed_lists.iter().chain(denied_lists).all(|(_, list)| is_list(list))
    }

    /// Puts a policy's own entries and what it gets from elsewhere together.
    fn make(spec: &Arc<PolicySpec>, group: &Arc<Group>) -> Self {
        let own: Via = Arc::new([]);
        let (mut allowed, mut denied) = (Rules::default(), Rules::default());
        allowed.add(Arc::clone(&spec.allowed), Arc::clone(&own));
        denied.add(Arc::clone(&spec.denied), own);
        allowed.extend(&group.allowed);
        denied.extend(&group.denied);
        allowed.index_ancestors();
        let gone = group.ingredients.gone.clone();
        let policy = Policy::new(Arc::clone(spec), allowed, denied, gone);
        let lists = |lists: &[(Via, Arc<ListFile>)]| -> Vec<Arc<ListFile>> {
            lists.iter().filter(|(via, _)| via.is_empty()).map(|(_, list)| Arc::clone(list)).collect()
        };
        let Ingredients { allowed_lists, denied_lists, .. } = &group.ingredients;
        let warnings = lint::policy(&policy, &lists(allowed_lists), &lists(denied_lists)).into();
        Self { policy: Arc::new(policy), group: Arc::clone(group), warnings }
    }
}

impl Ingredients {
    /// Finds what `spec` includes, directly and through others, each once, outermost first.
    fn gather(spec: &Arc<PolicySpec>, definitions: &Definitions, lists: &Lists) -> Self {
        let mut found = Self::default();
        let own: Via = Arc::new([]);
        found.add_lists(spec, &own, lists);
        let mut seen = HashSet::from([Arc::clone(&spec.id.value)]);
        let mut rest = vec![(own, Arc::clone(spec))];
        while let Some((via, spec)) = rest.pop() {
            let mut included = Vec::new();
            for id in &spec.include {
                if !seen.insert(Arc::clone(&id.value)) {
                    continue;
                }
                let Some(definition) = definitions.get(&id.value) else {
                    found.gone.get_or_insert_with(|| Arc::clone(&id.value));
                    continue;
                };
                let via: Via = via.iter().chain([&id.value]).cloned().collect();
                found.add_lists(definition, &via, lists);
                found.included.push((Arc::clone(&via), Arc::clone(definition)));
                included.push((via, Arc::clone(definition)));
            }
            rest.extend(included.into_iter().rev());
        }
        found
    }

    /// Adds the list files of a policy.
    fn add_lists(&mut self, spec: &PolicySpec, via: &Via, lists: &Lists) {
        let kinds = [(&spec.allowed_lists, &mut self.allowed_lists), (&spec.denied_lists, &mut self.denied_lists)];
        for (named, found) in kinds {
            for list in named {
                if let Some(list) = lists.get(&list.value) {
                    found.push((Arc::clone(via), Arc::clone(list)));
                } else {
                    // Not knowing what a list denies, nothing can be allowed.
                    self.gone.get_or_insert_with(|| Arc::from(list.value.path.to_string_lossy()));
                }
            }
        }
    }

    /// Returns the addresses of everything in here, in order: equal as long as nothing changed. Empty when there is
    /// nothing.
    fn key(&self) -> Vec<usize> {
        let Self { included, allowed_lists, denied_lists, gone } = self;
        if included.is_empty() && allowed_lists.is_empty() && denied_lists.is_empty() && gone.is_none() {
            return Vec::new();
        }
        let included = included.iter().map(|(_, spec)| Arc::as_ptr(spec).addr());
        let allowed = allowed_lists.iter().map(|(_, list)| Arc::as_ptr(list).addr());
        let denied = denied_lists.iter().map(|(_, list)| Arc::as_ptr(list).addr());
        // No object is at 0, so it parts the kinds. Of a gone id the hash is enough: it can only stay gone or come back.
        let gone = gone
            .iter()
            .map(|id| usize::try_from(crate::util::content_hash::content_hash(id.as_bytes()) | 1).unwrap_or(1));
        included.chain([0]).chain(allowed).chain([0]).chain(denied).chain([0]).chain(gone).collect()
    }
}

impl Group {
    /// Makes the lists.
    fn make(ingredients: Ingredients) -> Self {
        let sets = |list: fn(&PolicySpec) -> &Arc<NameSet>, files: &[(Via, Arc<ListFile>)]| {
            let included = ingredients.included.iter().map(|(via, spec)| (Arc::clone(via), Arc::clone(list(spec))));
            let files = files.iter().map(|(via, file)| (Arc::clone(via), Arc::clone(&file.set)));
            merge(included.chain(files).filter(|(_, set)| !set.is_empty()).collect())
        };
        let allowed = sets(|spec| &spec.allowed, &ingredients.allowed_lists);
        let denied = sets(|spec| &spec.denied, &ingredients.denied_lists);
        Self { ingredients, allowed, denied }
    }
}

/// Copies small sets together and leaves large ones as they are.
fn merge(sets: Vec<(Via, Arc<NameSet>)>) -> Rules {
    let mut rules = Rules::default();
    let (small, large): (Vec<_>, Vec<_>) = sets.into_iter().partition(|(_, set)| set.len() < SMALL);
    match small.as_slice() {
        [] => {}
        [(via, set)] => rules.add(Arc::clone(set), Arc::clone(via)),
        several => {
            let mut merged = NameSet::with_capacity(shared_hasher(), several.iter().map(|(_, set)| set.len()).sum());
            for (via, set) in several {
                merged.absorb(set, via);
            }
            merged.shrink();
            rules.add(Arc::new(merged), Arc::new([]));
        }
    }
    for (via, set) in large {
        rules.add(set, via);
    }
    rules
}
