//! Compilation of policies: the effective lists of each policy with its includes expanded. A reload compiles again only
//! the policies whose inputs have changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use crate::document::Diagnostic;

use super::incremental::object_diff::ObjectChange;
use super::lint;
use super::list::ListFile;
use super::preset::shared_hasher;
use crate::policy::matching::name_set::{IncludePath, NameSet};
use crate::policy::matching::rules::Rules;
use crate::policy::model::spec::{ListUse, PolicySpec};
use crate::policy::snapshot::Policy;
use crate::util::persistent_map::OrderedMap;

/// The number of patterns from which a set is shared by all policies that include it. Smaller sets are copied into one
/// for each policy, so that a query searches few sets.
const SMALL: usize = 4096;

/// All policies and presets by id.
pub(crate) type Definitions = HashMap<Arc<str>, Arc<PolicySpec>>;

/// The list files in use.
pub(crate) type Lists = BTreeMap<ListUse, Arc<ListFile>>;

/// The compiled policies of one generation. The next generation takes over those that have not changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    /// The policies and presets by id.
    policies: OrderedMap<Arc<str>, CompiledPolicy>,
    /// The included lists by the memory addresses of their inputs ([`ListInputs::key`]), so that policies with the same
    /// includes share them.
    shared_lists: Arc<HashMap<Vec<usize>, Arc<IncludedLists>>>,
}

/// A policy with its inputs.
#[derive(Clone, Debug)]
struct CompiledPolicy {
    policy: Arc<Policy>,
    /// The lists that the policy gets from includes and list files.
    included_lists: Arc<IncludedLists>,
    /// The warnings about the policy's lists.
    warnings: Arc<[Diagnostic]>,
}

/// The lists that a policy gets from its includes and list files.
#[derive(Debug, Default)]
struct IncludedLists {
    /// The inputs. They are kept alive so that the memory addresses in a key are not reused for other objects.
    inputs: ListInputs,
    /// The patterns that allow.
    allowed: Rules,
    /// The patterns that deny.
    denied: Rules,
}

/// The inputs of a policy's lists, apart from its own entries.
#[derive(Debug, Default)]
struct ListInputs {
    /// The included policies, each once, with the ids through which they are included.
    included: Vec<(IncludePath, Arc<PolicySpec>)>,
    /// The list files that allow, with the ids through which they are included.
    allowed_lists: Vec<(IncludePath, Arc<ListFile>)>,
    /// The list files that deny, with the ids through which they are included.
    denied_lists: Vec<(IncludePath, Arc<ListFile>)>,
    /// The first included id or list file that does not exist.
    gone: Option<Arc<str>>,
}

/// The empty lists that all policies without includes and list files share.
static NO_LISTS: LazyLock<Arc<IncludedLists>> = LazyLock::new(Arc::default);

impl Compiled {
    /// Compiles all definitions, and takes over from `self` what has not changed.
    pub(crate) fn next(&self, definitions: &Definitions, lists: &Lists) -> Self {
        let (mut policies, mut shared_lists) = (Vec::with_capacity(definitions.len()), HashMap::new());
        for (id, spec) in definitions {
            let before = self.policies.get(&**id);
            if let Some(before) = before.filter(|before| before.still_holds(spec, definitions, lists)) {
                // Registered for the policies that follow in this walk and have the same includes.
                let key = before.included_lists.inputs.key();
                if !key.is_empty() {
                    shared_lists.entry(key).or_insert_with(|| Arc::clone(&before.included_lists));
                }
                policies.push((Arc::clone(id), before.clone()));
                continue;
            }
            let inputs = ListInputs::gather(spec, definitions, lists);
            let key = inputs.key();
            let included_lists = if key.is_empty() {
                Arc::clone(&NO_LISTS)
            } else {
                let known = shared_lists.get(&key).or_else(|| self.shared_lists.get(&key)).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(IncludedLists::make(inputs)))
            };
            // `still_holds` is never true of a policy with a missing input, so such a policy may be unchanged here.
            let unchanged = before.filter(|before| {
                Arc::ptr_eq(&before.policy.spec, spec) && Arc::ptr_eq(&before.included_lists, &included_lists)
            });
            let compiled = unchanged.cloned().unwrap_or_else(|| CompiledPolicy::make(spec, &included_lists));
            if !key.is_empty() {
                shared_lists.insert(key, included_lists);
            }
            policies.push((Arc::clone(id), compiled));
        }
        Self { policies: policies.into_iter().collect(), shared_lists: Arc::new(shared_lists) }
    }

    /// Returns a copy with other versions of some policies. A changed policy must have the same includes as before, a
    /// new policy must have none, and no other policy may include one of them.
    pub(crate) fn with_changed<'c>(
        &self,
        policies: impl Iterator<Item = &'c ObjectChange<'c, Arc<PolicySpec>>>,
    ) -> Self {
        let mut next = self.clone();
        for ObjectChange { id, before, after, place: _ } in policies {
            if let Some(spec) = after {
                let included_lists = next.policies.get(*id).filter(|_| before.is_some());
                let included_lists =
                    included_lists.map_or_else(|| Arc::clone(&NO_LISTS), |policy| Arc::clone(&policy.included_lists));
                next.policies.insert(Arc::clone(&spec.id.value), CompiledPolicy::make(spec, &included_lists));
            } else {
                next.policies.remove(*id);
            }
        }
        next
    }

    /// Returns the policy or preset with this id.
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
    /// Returns whether none of the policy's inputs has changed. It is `false` if one was missing, as that may exist
    /// now.
    ///
    /// Comparing the inputs suffices: unchanged policies include the same ids as before.
    fn still_holds(&self, spec: &Arc<PolicySpec>, definitions: &Definitions, lists: &Lists) -> bool {
        let ListInputs { included, allowed_lists, denied_lists, gone } = &self.included_lists.inputs;
        let is_definition = |spec: &Arc<PolicySpec>| {
            definitions.get(&spec.id.value).is_some_and(|definition| Arc::ptr_eq(definition, spec))
        };
        let is_list = |list: &Arc<ListFile>| lists.get(&list.named).is_some_and(|known| Arc::ptr_eq(known, list));
        gone.is_none()
            && Arc::ptr_eq(&self.policy.spec, spec)
            && included.iter().all(|(_, spec)| is_definition(spec))
            && allowed_lists.iter().chain(denied_lists).all(|(_, list)| is_list(list))
    }

    /// Combines a policy's own entries with the lists from its includes and list files.
    fn make(spec: &Arc<PolicySpec>, included_lists: &Arc<IncludedLists>) -> Self {
        let own: IncludePath = Arc::new([]);
        let (mut allowed, mut denied) = (Rules::default(), Rules::default());
        allowed.add(Arc::clone(&spec.allowed), Arc::clone(&own));
        denied.add(Arc::clone(&spec.denied), own);
        allowed.extend(&included_lists.allowed);
        denied.extend(&included_lists.denied);
        // Indexed here, on the thread that reloads, so that the first DS query does not have to. Only the ancestors of
        // allowed patterns are ever looked up.
        allowed.index_ancestors();
        let gone = included_lists.inputs.gone.clone();
        let policy = Policy::new(Arc::clone(spec), allowed, denied, gone);
        // The list files that the policy itself names. Those of an included policy are in that policy's warnings.
        let lists = |lists: &[(IncludePath, Arc<ListFile>)]| -> Vec<Arc<ListFile>> {
            lists.iter().filter(|(via, _)| via.is_empty()).map(|(_, list)| Arc::clone(list)).collect()
        };
        let ListInputs { allowed_lists, denied_lists, .. } = &included_lists.inputs;
        let warnings = lint::policy(&policy, &lists(allowed_lists), &lists(denied_lists)).into();
        Self { policy: Arc::new(policy), included_lists: Arc::clone(included_lists), warnings }
    }
}

impl ListInputs {
    /// Collects the policies that `spec` includes, directly and through others, each once, outermost first.
    fn gather(spec: &Arc<PolicySpec>, definitions: &Definitions, lists: &Lists) -> Self {
        let mut found = Self::default();
        let own: IncludePath = Arc::new([]);
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
                let via: IncludePath = via.iter().chain([&id.value]).cloned().collect();
                found.add_lists(definition, &via, lists);
                found.included.push((Arc::clone(&via), Arc::clone(definition)));
                included.push((via, Arc::clone(definition)));
            }
            // Reversed, as `pop` takes the last one: included policies come in the order in which they are written.
            rest.extend(included.into_iter().rev());
        }
        found
    }

    /// Adds the list files of a policy.
    fn add_lists(&mut self, spec: &PolicySpec, via: &IncludePath, lists: &Lists) {
        let kinds = [(&spec.allowed_lists, &mut self.allowed_lists), (&spec.denied_lists, &mut self.denied_lists)];
        for (named, found) in kinds {
            for list in named {
                if let Some(list) = lists.get(&list.value) {
                    found.push((Arc::clone(via), Arc::clone(list)));
                } else {
                    // Without the list it is unknown what the policy denies, so nothing can be allowed.
                    self.gone.get_or_insert_with(|| Arc::from(list.value.path.to_string_lossy()));
                }
            }
        }
    }

    /// Returns the memory addresses of all inputs, in order. Keys are equal if the inputs are the same objects. The key
    /// is empty if there are no inputs.
    fn key(&self) -> Vec<usize> {
        let Self { included, allowed_lists, denied_lists, gone } = self;
        if included.is_empty() && allowed_lists.is_empty() && denied_lists.is_empty() && gone.is_none() {
            return Vec::new();
        }
        let included = included.iter().map(|(_, spec)| Arc::as_ptr(spec).addr());
        let allowed = allowed_lists.iter().map(|(_, list)| Arc::as_ptr(list).addr());
        let denied = denied_lists.iter().map(|(_, list)| Arc::as_ptr(list).addr());
        // No object is at address 0, so 0 separates the kinds of inputs. A missing input has no address and is
        // represented by the hash of its id, made odd: objects are aligned, so no address is odd.
        let gone = gone
            .iter()
            .map(|id| usize::try_from(crate::util::content_hash::content_hash(id.as_bytes()) | 1).unwrap_or(1));
        included.chain([0]).chain(allowed).chain([0]).chain(denied).chain([0]).chain(gone).collect()
    }
}

impl IncludedLists {
    /// Builds the lists from their inputs.
    fn make(inputs: ListInputs) -> Self {
        let sets = |list: fn(&PolicySpec) -> &Arc<NameSet>, files: &[(IncludePath, Arc<ListFile>)]| {
            let included = inputs.included.iter().map(|(via, spec)| (Arc::clone(via), Arc::clone(list(spec))));
            let files = files.iter().map(|(via, file)| (Arc::clone(via), Arc::clone(&file.set)));
            merge(included.chain(files).filter(|(_, set)| !set.is_empty()).collect())
        };
        let allowed = sets(|spec| &spec.allowed, &inputs.allowed_lists);
        let denied = sets(|spec| &spec.denied, &inputs.denied_lists);
        Self { inputs, allowed, denied }
    }
}

/// Copies small sets into one and leaves large ones as they are.
fn merge(sets: Vec<(IncludePath, Arc<NameSet>)>) -> Rules {
    let mut rules = Rules::default();
    // A query searches each set, so few sets make it fast. A copy of a large set for each policy would take much
    // memory.
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
