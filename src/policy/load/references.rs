//! The references between objects as persistent maps, kept from reload to reload: an incremental reload finds in them
//! the other files that a change affects, and need not look at all files.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::document::Placed;

use super::conflict::Files;
use super::source::FilePath;
use crate::policy::model::spec::{ClientSpec, FileSpec, Phase};
use crate::util::persistent_map::OrderedMap;

/// The references of all files in force; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    /// The number of references to each policy.
    policies: OrderedMap<Arc<str>, Uses>,
    /// The clients that have a blueprint, in the order of [`BlueprintClient`].
    by_blueprint: OrderedMap<BlueprintClient, ()>,
    /// The number of tests of each client.
    tested: OrderedMap<Arc<str>, u32>,
    /// The files that have tests.
    tests: OrderedMap<FilePath, ()>,
}

/// The number of references to a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// The number of policies that include it.
    pub(crate) includes: u32,
    /// The number of references from blueprints and clients.
    pub(crate) others: u32,
}

impl Uses {
    /// Returns whether nothing refers to the policy.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// A client that has a blueprint, ordered by blueprint, by the phase that selects its policy, and by place.
#[derive(Clone, Debug)]
struct BlueprintClient {
    /// The file of the client.
    file: Arc<FileSpec>,
    /// The client's position among the clients of the file.
    number: u32,
}

impl BlueprintClient {
    /// Returns the clients of a file that have blueprints.
    fn of(file: &Arc<FileSpec>) -> impl Iterator<Item = Self> {
        let clients = file.clients.iter().zip(0..).filter(|(client, _)| client.blueprint.is_some());
        clients.map(|(_, number)| Self { file: Arc::clone(file), number })
    }

    /// Returns the id of the blueprint, and the phase that selects one of its policies; `None` if the client has a
    /// policy of its own.
    fn key(&self) -> (&str, Option<Phase>) {
        let client = usize::try_from(self.number).ok().and_then(|number| self.file.clients.get(number));
        let blueprint = client.and_then(|client| client.blueprint.as_ref()).map_or("", |id| &id.value);
        (blueprint, client.and_then(inherits))
    }

    /// Returns the sort key.
    fn place(&self) -> ((&str, Option<Phase>), &OsStr, u32) {
        (self.key(), self.file.source.path().as_os_str(), self.number)
    }
}

impl PartialEq for BlueprintClient {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for BlueprintClient {}

impl PartialOrd for BlueprintClient {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BlueprintClient {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// Returns the phase for which a client gets its blueprint's policy; `None` if the client has its own.
pub(crate) fn inherits(client: &ClientSpec) -> Option<Phase> {
    client.policy.is_none().then_some(client.phase)
}

/// Returns the policies that a file refers to, each with whether it is included.
pub(crate) fn policies_of(file: &FileSpec) -> impl Iterator<Item = (&Placed<Arc<str>>, bool)> {
    let included = file.policies().iter().flat_map(|policy| &policy.include).map(|id| (id, true));
    let of_blueprints =
        file.blueprints().iter().flat_map(|blueprint| blueprint.build_policy.iter().chain(&blueprint.runtime_policy));
    let of_clients = file.clients.iter().filter_map(|client| client.policy.as_ref());
    included.chain(of_blueprints.chain(of_clients).map(|id| (id, false)))
}

impl Links {
    /// Returns the references of these files.
    pub(crate) fn of(files: &Files) -> Self {
        let mut policies: HashMap<&Arc<str>, Uses> = HashMap::new();
        for (id, is_include) in files.values().flat_map(|file| policies_of(file)) {
            let uses = policies.entry(&id.value).or_default();
            *(if is_include { &mut uses.includes } else { &mut uses.others }) += 1;
        }
        let mut tested: HashMap<&Arc<str>, u32> = HashMap::new();
        for test in files.values().flat_map(|file| file.tests()) {
            *tested.entry(&test.client.value).or_default() += 1;
        }
        let clients = files.values().flat_map(BlueprintClient::of);
        let tests = files.iter().filter(|(_, file)| !file.tests().is_empty());
        Self {
            policies: policies.into_iter().map(|(id, uses)| (Arc::clone(id), uses)).collect(),
            by_blueprint: clients.map(|client| (client, ())).collect(),
            tested: tested.into_iter().map(|(id, count)| (Arc::clone(id), count)).collect(),
            tests: tests.map(|(path, _)| (path.clone(), ())).collect(),
        }
    }

    /// Adds the references of a file.
    pub(crate) fn add(&mut self, path: &FilePath, file: &Arc<FileSpec>) {
        for (id, is_include) in policies_of(file) {
            let mut uses = self.uses(&id.value);
            *(if is_include { &mut uses.includes } else { &mut uses.others }) += 1;
            self.policies.insert(Arc::clone(&id.value), uses);
        }
        BlueprintClient::of(file).for_each(|client| self.by_blueprint.insert(client, ()));
        for test in file.tests() {
            let count = self.tested.get(&*test.client.value).copied().unwrap_or(0);
            self.tested.insert(Arc::clone(&test.client.value), count + 1);
        }
        if !file.tests().is_empty() {
            self.tests.insert(path.clone(), ());
        }
    }

    /// Removes the references of a file, which must have been added.
    pub(crate) fn remove(&mut self, path: &FilePath, file: &Arc<FileSpec>) {
        for (id, is_include) in policies_of(file) {
            let mut uses = self.uses(&id.value);
            *(if is_include { &mut uses.includes } else { &mut uses.others }) -= 1;
            // The map must not grow with every id that was ever referred to.
            if uses.is_none() {
                self.policies.remove(&*id.value);
            } else {
                self.policies.insert(Arc::clone(&id.value), uses);
            }
        }
        BlueprintClient::of(file).for_each(|client| self.by_blueprint.remove(&client));
        for test in file.tests() {
            match self.tested.get(&*test.client.value).copied() {
                Some(count) if count > 1 => self.tested.insert(Arc::clone(&test.client.value), count - 1),
                _ => self.tested.remove(&*test.client.value),
            }
        }
        self.tests.remove(path);
    }

    /// Returns the number of references to a policy.
    pub(crate) fn uses(&self, policy: &str) -> Uses {
        self.policies.get(policy).copied().unwrap_or_default()
    }

    /// Returns whether a client has this blueprint.
    pub(crate) fn has_clients(&self, blueprint: &str) -> bool {
        // The clients of a blueprint are next to each other, so the first client whose blueprint is not less decides.
        let from = self.by_blueprint.iter_from(|client| client.key().0 < blueprint).next();
        from.is_some_and(|(client, ())| client.key().0 == blueprint)
    }

    /// Returns the clients that get their policy from a blueprint for a phase, each by its file and its position there,
    /// in the order of the files.
    pub(crate) fn inheriting(&self, blueprint: &str, phase: Phase) -> impl Iterator<Item = (&Arc<FileSpec>, u32)> {
        let wanted = (blueprint, Some(phase));
        let from = self.by_blueprint.iter_from(move |client| client.key() < wanted);
        let all = from.map(|(client, ())| client).take_while(move |client| client.key() == wanted);
        all.map(|client| (&client.file, client.number))
    }

    /// Returns whether a test is about this client.
    pub(crate) fn is_tested(&self, client: &str) -> bool {
        self.tested.contains_key(client)
    }

    /// Returns the files that have tests.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &FilePath> {
        self.tests.iter().map(|(path, ())| path)
    }
}
