//! Assembly of the snapshot from files that have no conflicts: definitions by id, the objects, and the policy of each
//! client.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::document::{Placed, Source};

use super::compile::{Compiled, Definitions};
use super::conflict::Files;
use super::incremental::object_diff::{ObjectChange, ObjectDiff};
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
use crate::policy::snapshot::{ApiTable, Blueprint, BoundPolicy, Client, Policy, Snapshot, Unrestricted};
use crate::util::content_hash::{ContentHasher, ContentSum};
use crate::util::persistent_map::OrderedMap;

/// Returns all policies and presets by id; a file's preset replaces the built-in one.
pub(crate) fn definitions(files: &Files, built_in: &[Arc<PolicySpec>]) -> Definitions {
    let of_files = files.values().flat_map(|file| file.policies());
    built_in.iter().chain(of_files).map(|spec| (Arc::clone(&spec.id.value), Arc::clone(spec))).collect()
}

/// Builds the snapshot of files that have no conflicts. The caller sets its generation and hash.
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
    let record = |(file, number): (&Arc<FileSpec>, u32)| (ApiTable { file: Arc::clone(file), number }, ());
    snapshot.records = records.map(record).collect();
    let bind = |binding: &Binding| bound(&binding.policy, compiled);
    // Set before the clients are made, as `bound_client` reads it.
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

/// Builds the snapshot that follows `before` after a change of a few objects. The caller sets its generation and hash.
pub(crate) fn next(before: &Snapshot, diff: &ObjectDiff<'_>, compiled: &Compiled) -> Snapshot {
    let mut next = Snapshot { hash: String::new(), ..before.clone() };
    let mut replaced = BTreeMap::new();
    for ObjectChange { id, after, .. } in diff.policies() {
        let policy = compiled.policy(id).filter(|_| after.is_some());
        if let Some((policy, before)) = policy.zip(before.policies.get(*id)) {
            replaced.insert(Arc::as_ptr(before), policy);
        }
        put(&mut next.policies, id, policy.map(|policy| (&policy.spec.id.value, Arc::clone(policy))));
    }
    for ObjectChange { id, after, .. } in diff.blueprints() {
        put(&mut next.blueprints, id, after.map(|spec| (&spec.id.value, Blueprint { spec: Arc::clone(spec) })));
    }
    for ObjectChange { id, place, .. } in diff.records() {
        next.records.remove(*id);
        if let Some((file, number)) = *place {
            next.records.insert(ApiTable { file: Arc::clone(file), number }, ());
        }
    }
    // All old prefixes are removed first, as one client may take over another's address.
    diff.clients().filter(|pair| pair.before.is_some()).for_each(|pair| next.clients.take_prefixes_of(pair.id));
    for ObjectChange { id, place, .. } in diff.clients() {
        match *place {
            Some((file, number)) => bind(&mut next, file, number, compiled),
            None => next.clients.remove(id),
        }
    }
    let after = |bound: &BoundPolicy| match bound {
        BoundPolicy::Policy(policy) => {
            replaced.get(&Arc::as_ptr(policy)).map(|policy| BoundPolicy::Policy(Arc::clone(policy)))
        }
        BoundPolicy::Unrestricted(..) | BoundPolicy::Gone | BoundPolicy::Unnamed => None,
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

/// Inserts a client with the policy that applies to it, or replaces the client with the same id.
pub(crate) fn bind(snapshot: &mut Snapshot, file: &Arc<FileSpec>, number: u32, compiled: &Compiled) {
    let mut client = Client::new(Arc::clone(file), number, BoundPolicy::Gone);
    client.bound = bound_client(client.spec(), snapshot, compiled);
    snapshot.clients.insert(client);
}

/// Inserts an object, or removes the one with this id if it is `None`.
fn put<T: Clone>(map: &mut OrderedMap<Arc<str>, T>, id: &str, object: Option<(&Arc<str>, T)>) {
    match object {
        Some((id, object)) => map.insert(Arc::clone(id), object),
        None => map.remove(id),
    }
}

/// Returns the path of a file below the root, in the form that is hashed.
pub(crate) fn below<'p>(root: &Path, path: &'p Path) -> &'p [u8] {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_encoded_bytes()
}

/// Returns the hash of everything that comes into force. It does not depend on where the policies directory is.
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
    /// Returns a snapshot in which all clients are denied.
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

/// Returns the policy of a client: its own, else that of its blueprint for its phase, else the default policy, else the
/// one that `without_policy` selects.
fn bound_client(spec: &ClientSpec, snapshot: &Snapshot, compiled: &Compiled) -> BoundPolicy {
    if let Some(policy) = &spec.policy {
        return bound(&policy.value, compiled);
    }
    if let Some(id) = &spec.blueprint {
        match snapshot.blueprints.get(&*id.value).map(|blueprint| blueprint.spec.policy(spec.phase)) {
            Some(Some(policy)) => return bound(&policy.value, compiled),
            Some(None) => {}
            None => return BoundPolicy::Gone,
        }
    }
    match (&snapshot.default, snapshot.without_policy) {
        (Some(default), _) => default.clone(),
        (None, WithoutPolicy::Unrestricted) => {
            BoundPolicy::Unrestricted(Arc::clone(unrestricted()), Unrestricted::WithoutPolicy)
        }
        (None, WithoutPolicy::Deny) => BoundPolicy::Unnamed,
    }
}

/// Returns the policy with this id as a snapshot stores it.
fn bound(id: &str, compiled: &Compiled) -> BoundPolicy {
    match compiled.policy(id) {
        _ if id == UNRESTRICTED => BoundPolicy::Unrestricted(Arc::clone(unrestricted()), Unrestricted::Named),
        Some(policy) => BoundPolicy::Policy(Arc::clone(policy)),
        None => BoundPolicy::Gone,
    }
}

/// Returns the built-in policy that allows everything except the known bypasses of the resolver.
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
