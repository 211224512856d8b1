//! Groups of changed files that depend on one another, which go into force together or not at all.
//!
//! Reverting a file that conflicts with others may make the next one conflict, as with a chain of files each of which
//! uses an object of the previous one. One at a time, that takes time quadratic in their number; so after a few rounds
//! all files connected with a conflict are reverted at once. Files that are not connected with it are not touched.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::conflict::{Files, ObjectKind, references};
use super::source::FilePath;
use crate::policy::model::spec::FileSpec;

/// Something that only one file may define.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'f> {
    /// The id of a policy, blueprint or client.
    Id(ObjectKind, &'f str),
    /// The id of an `[api.ID]` table.
    Record(&'f str),
    /// A prefix of a client.
    Prefix(IpNet),
}

/// Returns what a file defines.
fn definitions(file: &FileSpec) -> impl Iterator<Item = Key<'_>> {
    let policies = file.policies().iter().map(|spec| Key::Id(ObjectKind::Policy, &spec.id.value));
    let blueprints = file.blueprints().iter().map(|spec| Key::Id(ObjectKind::Blueprint, &spec.id.value));
    let clients = file.clients.iter().map(|spec| Key::Id(ObjectKind::Client, &spec.id.value));
    let records = file.records.iter().map(|spec| Key::Record(&spec.id.value));
    let prefixes = file.clients.iter().flat_map(|spec| spec.sources.iter().map(|source| Key::Prefix(source.value)));
    policies.chain(blueprints).chain(clients).chain(records).chain(prefixes)
}

/// Returns all of the `changed` files that are connected with one of `bad`. Two files are connected if one of them has
/// begun or ceased to define something that the other one defines or refers to.
pub(crate) fn connected(changed: &Files, in_force: &Files, bad: &HashSet<FilePathRef<'_>>) -> Vec<FilePath> {
    let nodes: Vec<(&FilePath, [Option<&FileSpec>; 2])> =
        changed.iter().map(|(path, file)| (path, [Some(&**file), in_force.get(path).map(|file| &**file)])).collect();
    let mut groups = Groups((0..nodes.len()).collect());
    // The definitions that were added or removed, each with the first file that has it.
    let mut moving: HashMap<Key<'_>, usize> = HashMap::new();
    for (number, (_, versions)) in nodes.iter().enumerate() {
        let [now, before] = versions.map(|file| file.into_iter().flat_map(definitions).collect::<HashSet<_>>());
        for key in now.symmetric_difference(&before) {
            let first = *moving.entry(*key).or_insert(number);
            groups.join(first, number);
        }
    }
    for (number, (_, versions)) in nodes.iter().enumerate() {
        let defined = versions.iter().flatten().copied().flat_map(definitions);
        let referred = versions[0].into_iter().flat_map(references);
        let referred = referred.map(|(kind, _, reference)| Key::Id(kind, &reference.value));
        for key in defined.chain(referred) {
            if let Some(&first) = moving.get(&key) {
                groups.join(first, number);
            }
        }
    }
    let of_bad: HashSet<usize> = (0..nodes.len())
        .filter(|&number| bad.contains(&FilePathRef(nodes[number].0)))
        .map(|number| groups.find(number))
        .collect();
    let all = (0..nodes.len()).filter(|&number| of_bad.contains(&groups.find(number)));
    all.map(|number| nodes[number].0.clone()).collect()
}

/// A path that is hashed by its octets, for sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilePathRef<'p>(pub(crate) &'p FilePath);

impl std::hash::Hash for FilePathRef<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_os_str().hash(state);
    }
}

/// Disjoint sets of numbers (union-find). Each number refers to another one of its set, the smallest one to itself.
struct Groups(Vec<usize>);

impl Groups {
    /// Returns the smallest number of a number's set.
    fn find(&mut self, mut number: usize) -> usize {
        while self.0[number] != number {
            // Path halving keeps later searches short.
            self.0[number] = self.0[self.0[number]];
            number = self.0[number];
        }
        number
    }

    /// Merges the sets of two numbers.
    fn join(&mut self, one: usize, two: usize) {
        let (one, two) = (self.find(one), self.find(two));
        // The smaller number is the root, so that groups do not depend on the order of joins.
        self.0[one.max(two)] = one.min(two);
    }
}
