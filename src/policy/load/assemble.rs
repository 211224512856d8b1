//! Puts the files that go into force together: definitions by id, and the snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::document::{Placed, Source};

use super::compile::{Compiled, Definitions};
use super::conflict::Files;
use super::incremental::delta::{Pair, Step};
use super::preset::shared_hasher;
use crate::policy::matching::name_set::NameSet;
use crate::policy::matching::rules::Rules;
use crate::policy::model::bindings::DevboxSuffix;
use crate::policy::model::bindings::{Binding, Bindings, WithoutPolicy};
use crate::policy::model::spec::{
    BlueprintSpec, CacheSharing, ClientSpec, Cname, FileSpec, Mode, PolicySpec, PrivateAnswers, QueryTypes,
    UNRESTRICTED,
};
use crate::policy::snapshot::clients::Clients;
use crate::policy::snapshot::{Blueprint, Bound, Client, Policy, Record, Snapshot, Unrestricted};
use crate::util::content_hash::{ContentHasher, ContentSum};
use crate::util::persistent_map::OrderedMap;

/// Returns all policies and presets by id; a file's preset goes before the built-in one.
pub(crate) fn definitions(files: &Files, built_in: &[Arc<PolicySpec>]) -> Definitions {
    let of_files = files.values().flat_map(|file| file.policies());
    built_in.iter().chain(of_files).map(|spec| (Arc::clone(&spec.id.value), Arc::clone(spec))).collect()
}

/// Makes the snapshot of files that have no conflicts; its generation and hash are still to be given.
pub(crate) fn snapshot(files: &Files, compiled: &Compiled, bindings: &Bindings) -> Snapshot {
    let mut snapshot = Snapshot::empty();
    let by_id = |policy: &Arc<Policy>| (Arc::clone(&policy.spec.id.value), Arc::clone(policy));
    let policies = |presets: bool| compiled.policies().filter(move |policy| policy.spec.is_preset() == presets);
    snapshot.policies = policies(false).map(by_id).collect();
    snapshot.presets = policies(true).map(by_id).collect();
    let blueprints = files.values().flat_map(|file| file.blueprints());
    let blueprint = |spec: &Arc<BlueprintSpec>| (Arc::clone(&spec.id.value), Blueprint { spec: Arc::clone(spec) });
    snapshot.blueprints = blueprints.map(blueprint).collect();
    let records = files.values().flat_map(|file| (0..).zip(&file.records).map(move |(number, _)| (file, number)));
    let record = |(file, number): (&Arc<FileSpec>, u32)| (Record { file: Arc::clone(file), number }, ());
    snapshot.records = records.map(record).collect();
    let bind = |binding: &Binding| bound(&binding.policy, compiled);
    snapshot.default = bindings.default_policy.as_ref().map(bind);
    snapshot.without_policy = bindings.without_policy;
    let clients = files.values().flat_map(|file| file.clients.iter().zip(0..).map(move |it| (file, it)));
    let client = |(file, (spec, number)): (&Arc<FileSpec>, (&ClientSpec, u32))| {
        let bound = bound_client(spec, &snapshot, compiled);
        Client::new(Arc::clone(file), number, bound)
    };
    snapshot.clients = clients.map(client).collect();
    snapshot.listeners = bindings.listeners.iter().map(|binding| binding.as_ref().map(bind)).collect();
    snapshot.devbox_suffix = bindings.devbox_suffix.clone();
    snapshot
}

/// Makes the snapshot that follows `before` by a step; its generation and hash are still to be given.
pub(crate) fn next(before: &Snapshot, step: &Step<'_>, compiled: &Compiled) -> Snapshot {
    let mut next = Snapshot { hash: String::new(), ..before.clone() };
    let mut replaced = BTreeMap::new();
    for Pair { id, after, .. } in step.policies() {
        let policy = compiled.policy(id).filter(|_| after.is_some());
        if let Some((policy, before)) = policy.zip(before.policies.get(*id)) {
            replaced.insert(Arc::as_ptr(before), policy);
        }
        put(&mut next.policies, id, policy.map(|policy| (&policy.spec.id.value, Arc::clone(policy))));
    }
    for Pair { id, after, .. } in step.blueprints() {
        put(&mut next.blueprints, id, after.map(|spec| (&spec.id.value, Blueprint { spec: Arc::clone(spec) })));
    }
    for Pair { id, place, .. } in step.records() {
        next.records.remove(*id);
        if let Some((file, number)) = *place {
            next.records.insert(Record { file: Arc::clone(file), number }, ());
        }
    }
    // All that go before any that come: one may take over another's address.
    step.clients().filter(|pair| pair.before.is_some()).for_each(|pair| next.clients.take_prefixes_of(pair.id));
    for Pair { id, place, .. } in step.clients() {
        match *place {
            Some((file, number)) => bind(&mut next, file, number, compiled),
            None => next.clients.remove(id),
        }
    }
    let after = |bound: &Bound| match bound {
        Bound::Policy(policy) => replaced.get(&Arc::as_ptr(policy)).map(|policy| Bound::Policy(Arc::clone(policy))),
        Bound::Unrestricted(..) | Bound::Gone | Bound::Unnamed => None,
    };
    if !replaced.is_empty() {
        next.clients.rebind(after);
        for bound in next.listeners.iter_mut().chain([&mut next.default]).flatten() {
            if let Some(after) = after(bound) {
                *bound = after;
            }
        }
    }
    next
}

/// Puts a client in, in the place of the one with its id; what its blueprint says now applies to it.
pub(crate) fn bind(snapshot: &mut Snapshot, file: &Arc<FileSpec>, number: u32, compiled: &Compiled) {
    let mut client = Client::new(Arc::clone(file), number, Bound::Gone);
    client.bound = bound_client(client.spec(), snapshot, compiled);
    snapshot.clients.insert(client);
}

/// Puts an object in, or takes the one of this id out.
fn put<T: Clone>(map: &mut OrderedMap<Arc<str>, T>, id: &str, object: Option<(&Arc<str>, T)>) {
    match object {
        Some((id, object)) => map.insert(Arc::clone(id), object),
        None => map.remove(id),
    }
}

/// Returns the path of a file below the root, as it counts for the hash.
pub(crate) fn below<'p>(root: &Path, path: &'p Path) -> &'p [u8] {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_encoded_bytes()
}

/// Returns the hash of everything that goes into force: equal contents have equal hashes, wherever they lie.
pub(crate) fn hash(files: ContentSum, lists: ContentSum, bindings: &Bindings) -> String {
    let mut hasher = ContentHasher::new();
    hasher.add(&files.bits().to_be_bytes());
    hasher.add(&lists.bits().to_be_bytes());
    for id in bindings.ids() {
        hasher.add(id.map_or(&[][..], str::as_bytes));
    }
    hasher.finish()
}

impl Snapshot {
    /// Returns a snapshot in which everybody is denied.
    pub(crate) fn empty() -> Self {
        Self {
            generation: 0,
            hash: String::new(),
            policies: OrderedMap::new(),
            presets: OrderedMap::new(),
            blueprints: OrderedMap::new(),
            records: OrderedMap::new(),
            clients: Clients::new(),
            listeners: Vec::new(),
            default: None,
            devbox_suffix: DevboxSuffix::default(),
            without_policy: WithoutPolicy::default(),
        }
    }
}

/// Returns what applies to a client: its own policy, else its blueprint's for its phase, else the default policy; and
/// without all of them what `without_policy` says.
fn bound_client(spec: &ClientSpec, snapshot: &Snapshot, compiled: &Compiled) -> Bound {
    if let Some(policy) = &spec.policy {
        return bound(&policy.value, compiled);
    }
    if let Some(id) = &spec.blueprint {
        match snapshot.blueprints.get(&*id.value).map(|blueprint| blueprint.spec.policy(spec.phase)) {
            Some(Some(policy)) => return bound(&policy.value, compiled),
            Some(None) => {}
            None => return Bound::Gone,
        }
    }
    match (&snapshot.default, snapshot.without_policy) {
        (Some(default), _) => default.clone(),
        (None, WithoutPolicy::Unrestricted) => {
            Bound::Unrestricted(Arc::clone(unrestricted()), Unrestricted::WithoutPolicy)
        }
        (None, WithoutPolicy::Deny) => Bound::Unnamed,
    }
}

/// Returns what applies by the id of a policy.
fn bound(id: &str, compiled: &Compiled) -> Bound {
    match compiled.policy(id) {
        _ if id == UNRESTRICTED => Bound::Unrestricted(Arc::clone(unrestricted()), Unrestricted::Named),
        Some(policy) => Bound::Policy(Arc::clone(policy)),
        None => Bound::Gone,
    }
}

/// Returns the built-in policy that allows everything but the known ways around the resolver.
fn unrestricted() -> &'static Arc<Policy> {
    static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
        let none = || Arc::new(NameSet::with_capacity(shared_hasher(), 0));
        let spec = PolicySpec {
            source: Source::new(Path::new("<built-in>"), ""),
            id: Placed { value: UNRESTRICTED.into(), span: crate::document::Span::default() },
            name: None,
            description: Some("allows everything but the known ways around the resolver".into()),
            allow_all: true,
            allowed: none(),
            denied: none(),
            allowed_lists: Vec::new(),
            denied_lists: Vec::new(),
            include: Vec::new(),
            mode: Mode::Enforce,
            query_types: QueryTypes::default(),
            private_answers: PrivateAnswers::Names(none()),
            cname: Cname::Trust,
            cache: CacheSharing::Shared,
            budget: None,
            message: None,
            allow_devbox_to_devbox: false,
            allowed_cidrs: Vec::new(),
            settings: Vec::new(),
        };
        Arc::new(Policy::new(Arc::new(spec), Rules::default(), Rules::default(), None))
    });
    &POLICY
}
