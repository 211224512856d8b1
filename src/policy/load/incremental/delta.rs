//! What a few changed files do to what is in force: each object that comes, changes or goes, and whether that touches
//! anything else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::document::Placed;

use crate::policy::load::compile::Compiled;
use crate::policy::load::references::{Links, inherits, policies_of};
use crate::policy::load::source::FilePath;
use crate::policy::model::bindings::Bindings;
use crate::policy::model::spec::{BlueprintSpec, ClientSpec, FileSpec, Phase, PolicySpec, RecordSpec, UNRESTRICTED};
use crate::policy::snapshot::Snapshot;

/// A file that says something else than before.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The file.
    pub(crate) path: FilePath,
    /// What of it is in force; nothing where it is new.
    pub(crate) before: Option<Arc<FileSpec>>,
    /// What is to be; nothing where it is gone.
    pub(crate) after: Option<Arc<FileSpec>>,
}

/// An object before and after.
#[derive(Debug)]
pub(crate) struct Pair<'c, T> {
    /// Its id.
    pub(crate) id: &'c str,
    /// What is in force.
    pub(crate) before: Option<&'c T>,
    /// What is to be.
    pub(crate) after: Option<&'c T>,
    /// The file of what is to be, and its number there among those of its kind.
    pub(crate) place: Option<(&'c Arc<FileSpec>, u32)>,
}

/// Objects of one kind by id.
type Pairs<'c, T> = BTreeMap<&'c str, Pair<'c, T>>;

/// What changed files do, by object.
#[derive(Debug)]
pub(crate) struct Step<'c> {
    /// The files.
    files: &'c [Changed],
    /// Their policies.
    policies: Pairs<'c, Arc<PolicySpec>>,
    /// Their blueprints.
    blueprints: Pairs<'c, Arc<BlueprintSpec>>,
    /// Their clients.
    clients: Pairs<'c, ClientSpec>,
    /// Their records.
    records: Pairs<'c, RecordSpec>,
}

impl<'c> Step<'c> {
    /// Sets what files said beside what they say; nothing where an id is there twice.
    pub(crate) fn of(files: &'c [Changed]) -> Option<Self> {
        Some(Self {
            files,
            policies: pairs(files, |file| file.policies(), |spec| &spec.id)?,
            blueprints: pairs(files, |file| file.blueprints(), |spec| &spec.id)?,
            clients: pairs(files, |file| &file.clients, |spec| &spec.id)?,
            records: pairs(files, |file| &file.records, |spec| &spec.id)?,
        })
    }

    /// Returns the policies.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Pair<'c, Arc<PolicySpec>>> {
        self.policies.values()
    }

    /// Returns the blueprints.
    pub(crate) fn blueprints(&self) -> impl Iterator<Item = &Pair<'c, Arc<BlueprintSpec>>> {
        self.blueprints.values()
    }

    /// Returns the clients.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &Pair<'c, ClientSpec>> {
        self.clients.values()
    }

    /// Returns the records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Pair<'c, RecordSpec>> {
        self.records.values()
    }

    /// Returns who refers to what after it.
    pub(crate) fn links_after(&self, before: &Links) -> Links {
        let mut links = before.clone();
        for Changed { path, before, after } in self.files {
            if let Some(file) = before {
                links.remove(path, file);
            }
            if let Some(file) = after {
                links.add(path, file);
            }
        }
        links
    }

    /// Returns whether what comes is nowhere else, and nobody has been waiting for it or includes it.
    pub(crate) fn fits_into(
        &self,
        snapshot: &Snapshot,
        compiled: &Compiled,
        links: &Links,
        bindings: &Bindings,
    ) -> bool {
        let policies = self.policies().all(|pair| match (pair.before, pair.after) {
            (None, Some(spec)) => {
                compiled.policy(pair.id).is_none()
                    && links.uses(pair.id).is_none()
                    && !bindings.refer_to(pair.id)
                    && spec.include.is_empty()
                    && !has_lists(spec)
            }
            (Some(before), Some(after)) => {
                links.uses(pair.id).includes == 0
                    && values(&before.include, &after.include)
                    && values(&before.allowed_lists, &after.allowed_lists)
                    && values(&before.denied_lists, &after.denied_lists)
            }
            (before, _) => before.is_none_or(|spec| !has_lists(spec)),
        });
        let blueprints = self.blueprints().filter(|pair| pair.before.is_none());
        let mut clients = self.clients().filter(|pair| pair.before.is_none());
        let mut records = self.records().filter(|pair| pair.before.is_none());
        policies
            && blueprints.into_iter().all(|pair| snapshot.blueprint(pair.id).is_none() && !links.has_clients(pair.id))
            && clients.all(|pair| snapshot.client(pair.id).is_none() && !links.is_tested(pair.id))
            && records.all(|pair| snapshot.record(pair.id).is_none())
            && self.has_free_prefixes(snapshot)
    }

    /// Returns whether no other client has the prefixes of those that come.
    fn has_free_prefixes(&self, snapshot: &Snapshot) -> bool {
        let mut seen = HashSet::new();
        let sources = self.clients().filter_map(|pair| pair.after).flat_map(|client| &client.sources);
        sources.map(|source| source.value).all(|prefix| {
            let holder = snapshot.clients.with_prefix(prefix);
            let is_free =
                holder.is_none_or(|client| self.clients.get(client.id()).is_some_and(|it| it.before.is_some()));
            seen.insert(prefix) && is_free
        })
    }

    /// Returns whether nothing refers to what goes, and all that the files refer to is there; all arguments are as after
    /// the step.
    pub(crate) fn is_complete(
        &self,
        snapshot: &Snapshot,
        compiled: &Compiled,
        links: &Links,
        bindings: &Bindings,
    ) -> bool {
        let after = || self.files.iter().filter_map(|changed| changed.after.as_ref());
        self.policies()
            .filter(|pair| pair.after.is_none())
            .all(|it| links.uses(it.id).is_none() && !bindings.refer_to(it.id))
            && self.blueprints().filter(|pair| pair.after.is_none()).all(|pair| !links.has_clients(pair.id))
            && self.clients().filter(|pair| pair.after.is_none()).all(|pair| !links.is_tested(pair.id))
            && after().all(|file| {
                let is_there = |id: &str| id == UNRESTRICTED || compiled.policy(id).is_some();
                let mut blueprints = file.clients.iter().filter_map(|client| client.blueprint.as_ref());
                policies_of(file).all(|(id, _)| is_there(&id.value))
                    && blueprints.all(|id| snapshot.blueprint(&id.value).is_some())
                    && file.tests().iter().all(|test| snapshot.client(&test.client.value).is_some())
            })
    }

    /// Returns the blueprints that name other policies than before, each with the phase.
    pub(crate) fn other_policies(&self) -> impl Iterator<Item = (&'c str, Phase)> {
        self.blueprints().filter_map(|pair| Some((pair.id, pair.before?, pair.after?))).flat_map(
            |(id, before, after)| {
                let id_of = |spec: &BlueprintSpec, phase| spec.policy(phase).map(|id| Arc::clone(&id.value));
                let phases = [Phase::Build, Phase::Runtime].into_iter();
                phases.filter(move |phase| id_of(before, *phase) != id_of(after, *phase)).map(move |phase| (id, phase))
            },
        )
    }

    /// Returns the policies that the files refer to or did.
    pub(crate) fn policies_referred_to(&self) -> impl Iterator<Item = &'c str> {
        self.both().flat_map(|file| policies_of(file)).map(|(id, _)| &*id.value)
    }

    /// Returns the blueprints by which clients of the files have their policy or did, with the phase.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = (&'c str, Phase)> {
        let clients = self.both().flat_map(|file| &file.clients);
        clients.filter_map(|client| Some((&*client.blueprint.as_ref()?.value, inherits(client)?)))
    }

    /// Returns each file as it was and as it is.
    fn both(&self) -> impl Iterator<Item = &'c Arc<FileSpec>> {
        self.files.iter().flat_map(|changed| changed.before.iter().chain(&changed.after))
    }
}

/// Sets the objects of a kind before beside those after; nothing where an id is there twice.
fn pairs<'c, T>(
    files: &'c [Changed],
    of: impl Fn(&'c FileSpec) -> &'c [T],
    id: impl Fn(&'c T) -> &'c Placed<Arc<str>>,
) -> Option<Pairs<'c, T>> {
    let mut pairs = Pairs::new();
    for spec in files.iter().filter_map(|changed| changed.before.as_ref()).flat_map(|file| of(file)) {
        let id = &*id(spec).value;
        pairs.insert(id, Pair { id, before: Some(spec), after: None, place: None });
    }
    for file in files.iter().filter_map(|changed| changed.after.as_ref()) {
        for (spec, number) in of(file).iter().zip(0..) {
            let id = &*id(spec).value;
            let pair = pairs.entry(id).or_insert(Pair { id, before: None, after: None, place: None });
            pair.place = Some((file, number));
            if pair.after.replace(spec).is_some() {
                return None;
            }
        }
    }
    Some(pairs)
}

/// Returns whether a policy names list files.
fn has_lists(spec: &PolicySpec) -> bool {
    !spec.allowed_lists.is_empty() || !spec.denied_lists.is_empty()
}

/// Returns whether two lists hold the same values, wherever they stand.
fn values<T: PartialEq>(one: &[Placed<T>], two: &[Placed<T>]) -> bool {
    one.iter().map(|placed| &placed.value).eq(two.iter().map(|placed| &placed.value))
}
