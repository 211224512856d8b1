//! Puts the files that go into force together: definitions by id, and the snapshot.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::document::{Placed, Source};

use super::client_index::ClientIndex;
use super::compile::{Compiled, Definitions, Lists};
use super::conflict::Files;
use super::devbox::DevboxSuffix;
use super::hash::ContentHasher;
use super::library::local::Changed;
use super::name_set::NameSet;
use super::preset::shared_hasher;
use super::rules::Rules;
use super::snapshot::{Blueprint, Bound, Client, Policy, Record, Snapshot, Unrestricted};
use super::spec::{
    BlueprintSpec, ClientSpec, Cname, Mode, PolicySpec, PrivateAnswers, QueryTypes, RecordSpec, UNRESTRICTED,
};
use super::tree::{Binding, Bindings};

/// Returns all policies and presets by id; a file's preset goes before the built-in one.
pub(super) fn definitions(files: &Files, built_in: &[Arc<PolicySpec>]) -> Definitions {
    let of_files = files.values().flat_map(|file| &file.policies);
    built_in.iter().chain(of_files).map(|spec| (Arc::clone(&spec.id.value), Arc::clone(spec))).collect()
}

/// Makes the snapshot of files that have no conflicts; its generation and hash are still to be given.
pub(super) fn snapshot(files: &Files, compiled: &Compiled, bindings: &Bindings) -> Snapshot {
    let mut snapshot = Snapshot::empty();
    for policy in compiled.policies() {
        let ids = if policy.spec.is_preset() { &mut snapshot.presets } else { &mut snapshot.policies };
        ids.insert(Arc::clone(&policy.spec.id.value), Arc::clone(policy));
    }
    let blueprints = files.values().flat_map(|file| &file.blueprints);
    let blueprint = |spec: &Arc<BlueprintSpec>| (Arc::clone(&spec.id.value), Blueprint { spec: Arc::clone(spec) });
    snapshot.blueprints = blueprints.map(blueprint).collect();
    let records = files.values().flat_map(|file| &file.records);
    let record = |spec: &Arc<RecordSpec>| (Arc::clone(&spec.id.value), Record { spec: Arc::clone(spec) });
    snapshot.records = records.map(record).collect();
    let clients = files.values().flat_map(|file| &file.clients);
    let client = |spec: &Arc<ClientSpec>| Client {
        spec: Arc::clone(spec),
        bound: bound_client(spec, &snapshot.blueprints, compiled),
    };
    let mut clients: Vec<Client> = clients.map(client).collect();
    clients.sort_by(|one, two| one.id().cmp(two.id()));
    for (client, index) in clients.iter().zip(0..) {
        for source in client.sources() {
            // Equal prefixes are a conflict, so nothing can be there already.
            let _ = snapshot.index.insert(source, index);
        }
    }
    snapshot.clients = clients;
    let bind = |binding: &Binding| bound(&binding.policy, compiled);
    snapshot.default = bindings.default_policy.as_ref().map(bind);
    snapshot.listeners = bindings.listeners.iter().map(|binding| binding.as_ref().map(bind)).collect();
    snapshot.devbox_suffix = bindings.devbox_suffix.clone();
    snapshot
}

/// Makes the snapshot that follows `before` when some files say something else about what they defined before.
pub(super) fn changed(before: &Snapshot, compiled: &Compiled, changes: &[&Changed]) -> Snapshot {
    let mut policies = HashMap::new();
    let mut next = Snapshot { hash: String::new(), ..before.clone() };
    for Changed { before, after } in changes {
        for (before, after) in before.policies.iter().zip(&after.policies) {
            if let Some(policy) = compiled.policy(&after.id.value) {
                policies.insert(Arc::as_ptr(before), policy);
                next.policies.insert(Arc::clone(&after.id.value), Arc::clone(policy));
            }
        }
        for spec in &after.blueprints {
            next.blueprints.insert(Arc::clone(&spec.id.value), Blueprint { spec: Arc::clone(spec) });
        }
        for spec in &after.records {
            next.records.insert(Arc::clone(&spec.id.value), Record { spec: Arc::clone(spec) });
        }
        for spec in &after.clients {
            if let Ok(index) = next.clients.binary_search_by(|client| client.id().cmp(&spec.id.value)) {
                next.clients[index].spec = Arc::clone(spec);
            }
        }
    }
    let clients = next.clients.iter_mut().map(|client| &mut client.bound);
    let others = next.listeners.iter_mut().chain([&mut next.default]).flatten();
    for bound in clients.chain(others) {
        if let Bound::Policy(policy) = bound
            && let Some(after) = policies.get(&Arc::as_ptr(&policy.spec))
        {
            *policy = Arc::clone(after);
        }
    }
    next
}

/// Returns the hash of everything that goes into force: equal contents have equal hashes, wherever they lie.
pub(super) fn hash(root: &Path, files: &Files, lists: &Lists, bindings: &Bindings) -> String {
    let mut hasher = ContentHasher::new();
    let mut add = |path: &Path, hash: u64| {
        hasher.add(path.strip_prefix(root).unwrap_or(path).as_os_str().as_encoded_bytes());
        hasher.add(&hash.to_be_bytes());
    };
    for (path, file) in files {
        add(path, file.hash);
    }
    for (path, list) in lists {
        add(path, list.hash);
    }
    for id in bindings.ids() {
        hasher.add(id.map_or(&[][..], str::as_bytes));
    }
    hasher.finish()
}

impl Snapshot {
    /// Returns a snapshot in which everybody is denied.
    pub(super) fn empty() -> Self {
        Self {
            generation: 0,
            hash: String::new(),
            policies: BTreeMap::new(),
            presets: BTreeMap::new(),
            blueprints: BTreeMap::new(),
            records: BTreeMap::new(),
            clients: Vec::new(),
            index: ClientIndex::new(),
            listeners: Vec::new(),
            default: None,
            devbox_suffix: DevboxSuffix::default(),
        }
    }
}

/// Returns what applies to a client: its own policy, else its blueprint's for its phase.
fn bound_client(spec: &ClientSpec, blueprints: &BTreeMap<Arc<str>, Blueprint>, compiled: &Compiled) -> Bound {
    if let Some(policy) = &spec.policy {
        return bound(&policy.value, compiled);
    }
    let blueprint = spec.blueprint.as_ref().and_then(|id| blueprints.get(&id.value));
    match blueprint.map(|blueprint| blueprint.spec.policy(spec.phase)) {
        Some(Some(policy)) => bound(&policy.value, compiled),
        Some(None) => Bound::Unrestricted(Arc::clone(unrestricted()), Unrestricted::Blueprint),
        None => Bound::Gone,
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
            message: None,
            allow_devbox_to_devbox: false,
            allowed_cidrs: Vec::new(),
        };
        Arc::new(Policy::new(Arc::new(spec), Rules::default(), Rules::default(), None))
    });
    &POLICY
}
