//! The difference that a few changed files make to the objects in force: each object that is added, changed or removed,
//! and whether that can affect other objects.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::document::Placed;

use crate::policy::load::compile::Compiled;
use crate::policy::load::references::{Links, inherits, policies_of};
use crate::policy::load::source::FilePath;
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{ApiTableSpec, BlueprintSpec, ClientSpec, FileSpec, Phase, PolicySpec, UNRESTRICTED};
use crate::policy::snapshot::Snapshot;

/// A file whose contents have changed.
#[derive(Debug)]
pub(crate) struct FileChange {
    pub(crate) path: FilePath,
    /// The version in force; `None` if the file is new.
    pub(crate) before: Option<Arc<FileSpec>>,
    /// The new version; `None` if the file was deleted.
    pub(crate) after: Option<Arc<FileSpec>>,
}

/// An object before and after the change.
#[derive(Debug)]
pub(crate) struct ObjectChange<'c, T> {
    pub(crate) id: &'c str,
    /// The object in force; `None` if it is added.
    pub(crate) before: Option<&'c T>,
    /// The new object; `None` if it is removed.
    pub(crate) after: Option<&'c T>,
    /// The file of the new object, and the object's position there among those of its kind; `None` if it is removed.
    pub(crate) place: Option<(&'c Arc<FileSpec>, u32)>,
}

/// The changes of the objects of one kind, by id.
type ObjectChanges<'c, T> = BTreeMap<&'c str, ObjectChange<'c, T>>;

/// The changes of all objects in the changed files.
#[derive(Debug)]
pub(crate) struct ObjectDiff<'c> {
    files: &'c [FileChange],
    policies: ObjectChanges<'c, Arc<PolicySpec>>,
    blueprints: ObjectChanges<'c, Arc<BlueprintSpec>>,
    clients: ObjectChanges<'c, ClientSpec>,
    records: ObjectChanges<'c, ApiTableSpec>,
}

impl<'c> ObjectDiff<'c> {
    /// Pairs the old and the new objects of the files. Returns `None` if an id is defined twice.
    pub(crate) fn of(files: &'c [FileChange]) -> Option<Self> {
        Some(Self {
            files,
            policies: object_changes(files, |file| file.policies(), |spec| &spec.id)?,
            blueprints: object_changes(files, |file| file.blueprints(), |spec| &spec.id)?,
            clients: object_changes(files, |file| &file.clients, |spec| &spec.id)?,
            records: object_changes(files, |file| &file.records, |spec| &spec.id)?,
        })
    }

    /// Returns the changes of policies.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &ObjectChange<'c, Arc<PolicySpec>>> {
        self.policies.values()
    }

    /// Returns the changes of blueprints.
    pub(crate) fn blueprints(&self) -> impl Iterator<Item = &ObjectChange<'c, Arc<BlueprintSpec>>> {
        self.blueprints.values()
    }

    /// Returns the changes of clients.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &ObjectChange<'c, ClientSpec>> {
        self.clients.values()
    }

    /// Returns the changes of `[api.ID]` tables.
    pub(crate) fn records(&self) -> impl Iterator<Item = &ObjectChange<'c, ApiTableSpec>> {
        self.records.values()
    }

    /// Returns the references after the change.
    pub(crate) fn links_after(&self, before: &Links) -> Links {
        let mut links = before.clone();
        for FileChange { path, before, after } in self.files {
            if let Some(file) = before {
                links.remove(path, file);
            }
            if let Some(file) = after {
                links.add(path, file);
            }
        }
        links
    }

    /// Returns whether the change affects no other policy: the added objects are defined nowhere else and nothing
    /// refers to them yet, and no include, list file or prefix of another object is involved.
    pub(crate) fn fits_into(
        &self,
        snapshot: &Snapshot,
        compiled: &Compiled,
        links: &Links,
        bindings: &Bindings,
    ) -> bool {
        let policies = self.policies().all(|change| match (change.before, change.after) {
            (None, Some(spec)) => {
                compiled.policy(change.id).is_none()
                    && links.uses(change.id).is_none()
                    && !bindings.refer_to(change.id)
                    && spec.include.is_empty()
                    && !has_lists(spec)
            }
            (Some(before), Some(after)) => {
                // The lists of an included policy are part of others, which would have to be compiled again.
                links.uses(change.id).includes == 0
                    && values(&before.include, &after.include)
                    && values(&before.allowed_lists, &after.allowed_lists)
                    && values(&before.denied_lists, &after.denied_lists)
            }
            // An incremental reload does not update the list files in use.
            (before, _) => before.is_none_or(|spec| !has_lists(spec)),
        });
        let blueprints = self.blueprints().filter(|change| change.before.is_none());
        let mut clients = self.clients().filter(|change| change.before.is_none());
        let mut records = self.records().filter(|change| change.before.is_none());
        policies
            && blueprints
                .into_iter()
                .all(|change| snapshot.blueprint(change.id).is_none() && !links.has_clients(change.id))
            && clients.all(|change| snapshot.client(change.id).is_none() && !links.is_tested(change.id))
            && records.all(|change| snapshot.record(change.id).is_none())
            && self.has_free_prefixes(snapshot)
    }

    /// Returns whether no other client has the prefixes of the new clients.
    fn has_free_prefixes(&self, snapshot: &Snapshot) -> bool {
        let mut seen = HashSet::new();
        let sources = self.clients().filter_map(|change| change.after).flat_map(|client| &client.sources);
        sources.map(|source| source.value).all(|prefix| {
            // A client in the diff gives up the prefixes it had.
            let holder = snapshot.clients.with_prefix(prefix);
            let is_free =
                holder.is_none_or(|client| self.clients.get(client.id()).is_some_and(|it| it.before.is_some()));
            seen.insert(prefix) && is_free
        })
    }

    /// Returns whether nothing refers to the removed objects, and everything the files refer to exists. All arguments
    /// are those after the change.
    pub(crate) fn is_complete(
        &self,
        snapshot: &Snapshot,
        compiled: &Compiled,
        links: &Links,
        bindings: &Bindings,
    ) -> bool {
        let after = || self.files.iter().filter_map(|changed| changed.after.as_ref());
        self.policies()
            .filter(|change| change.after.is_none())
            .all(|it| links.uses(it.id).is_none() && !bindings.refer_to(it.id))
            && self.blueprints().filter(|change| change.after.is_none()).all(|change| !links.has_clients(change.id))
            && self.clients().filter(|change| change.after.is_none()).all(|change| !links.is_tested(change.id))
            && after().all(|file| {
                let is_there = |id: &str| id == UNRESTRICTED || compiled.policy(id).is_some();
                let mut blueprints = file.clients.iter().filter_map(|client| client.blueprint.as_ref());
                policies_of(file).all(|(id, _)| is_there(&id.value))
                    && blueprints.all(|id| snapshot.blueprint(&id.value).is_some())
                    && file.tests().iter().all(|test| snapshot.client(&test.client.value).is_some())
            })
    }

    /// Returns the blueprints that name another policy than before, each with the phase.
    pub(crate) fn changed_phases(&self) -> impl Iterator<Item = (&'c str, Phase)> {
        self.blueprints().filter_map(|change| Some((change.id, change.before?, change.after?))).flat_map(
            |(id, before, after)| {
                let id_of = |spec: &BlueprintSpec, phase| spec.policy(phase).map(|id| Arc::clone(&id.value));
                let phases = [Phase::Build, Phase::Runtime].into_iter();
                phases.filter(move |phase| id_of(before, *phase) != id_of(after, *phase)).map(move |phase| (id, phase))
            },
        )
    }

    /// Returns the policies that the files refer to or referred to.
    pub(crate) fn policies_referred_to(&self) -> impl Iterator<Item = &'c str> {
        self.both().flat_map(|file| policies_of(file)).map(|(id, _)| &*id.value)
    }

    /// Returns the blueprints that clients of the files get or got their policy from, with the phase.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = (&'c str, Phase)> {
        let clients = self.both().flat_map(|file| &file.clients);
        clients.filter_map(|client| Some((&*client.blueprint.as_ref()?.value, inherits(client)?)))
    }

    /// Returns the old and the new version of each file.
    fn both(&self) -> impl Iterator<Item = &'c Arc<FileSpec>> {
        self.files.iter().flat_map(|changed| changed.before.iter().chain(&changed.after))
    }
}

/// Pairs the old and the new objects of one kind. Returns `None` if an id is defined twice.
fn object_changes<'c, T>(
    files: &'c [FileChange],
    of: impl Fn(&'c FileSpec) -> &'c [T],
    id: impl Fn(&'c T) -> &'c Placed<Arc<str>>,
) -> Option<ObjectChanges<'c, T>> {
    let mut changes = ObjectChanges::new();
    for spec in files.iter().filter_map(|changed| changed.before.as_ref()).flat_map(|file| of(file)) {
        let id = &*id(spec).value;
        changes.insert(id, ObjectChange { id, before: Some(spec), after: None, place: None });
    }
    for file in files.iter().filter_map(|changed| changed.after.as_ref()) {
        for (spec, number) in of(file).iter().zip(0..) {
            let id = &*id(spec).value;
            let change = changes.entry(id).or_insert(ObjectChange { id, before: None, after: None, place: None });
            change.place = Some((file, number));
            if change.after.replace(spec).is_some() {
                return None;
            }
        }
    }
    Some(changes)
}

/// Returns whether a policy names list files.
fn has_lists(spec: &PolicySpec) -> bool {
    !spec.allowed_lists.is_empty() || !spec.denied_lists.is_empty()
}

/// Returns whether two lists contain equal values, ignoring their places.
fn values<T: PartialEq>(one: &[Placed<T>], two: &[Placed<T>]) -> bool {
    one.iter().map(|placed| &placed.value).eq(two.iter().map(|placed| &placed.value))
}
