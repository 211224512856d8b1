//! Changed files that depend on one another: what is to go into force together, or not at all.
//!
//! Taking back a file that conflicts with others may make the next one conflict, as with a chain of files each of which
//! uses what the one before it defines. One at a time, that takes the square of their number; so after a few rounds all
//! that hangs together with a conflict is taken back at once. Files that have nothing to do with it are not touched.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::conflict::{Files, Kind, references};
use super::source::FilePath;
use crate::policy::model::spec::FileSpec;

/// Something that only one file may define.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'f> {
    /// An id.
    Id(Kind, &'f str),
    /// The id of a record.
    Record(&'f str),
    /// A prefix of a client.
    Prefix(IpNet),
}

/// Returns what a file defines.
fn definitions(file: &FileSpec) -> impl Iterator<Item = Key<'_>> {
    let policies = file.policies().iter().map(|spec| Key::Id(Kind::Policy, &spec.id.value));
    let blueprints = file.blueprints().iter().map(|spec| Key::Id(Kind::Blueprint, &spec.id.value));
    let clients = file.clients.iter().map(|spec| Key::Id(Kind::Client, &spec.id.value));
    let records = file.records.iter().map(|spec| Key::Record(&spec.id.value));
    let prefixes = file.clients.iter().flat_map(|spec| spec.sources.iter().map(|source| Key::Prefix(source.value)));
    policies.chain(blueprints).chain(clients).chain(records).chain(prefixes)
}

/// Returns all of the `changed` files that hang together with one of `bad`, by something that one of them no longer
/// defines, or did not define before, and another one defines or refers to.
pub(crate) fn connected(changed: &Files, in_force: &Files, bad: &HashSet<FilePathRef<'_>>) -> Vec<FilePath> {
    let nodes: Vec<(&FilePath, [Option<&FileSpec>; 2])> =
        changed.iter().map(|(path, file)| (path, [Some(&**file), in_force.get(path).map(|file| &**file)])).collect();
    let mut groups = Groups((0..nodes.len()).collect());
    // What comes or goes, by the first file that has it.
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

/// A path by its octets, for sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilePathRef<'p>(pub(crate) &'p FilePath);

impl std::hash::Hash for FilePathRef<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_os_str().hash(state);
    }
}

/// Disjoint sets of numbers; each number has one of its set, the smallest one itself.
struct Groups(Vec<usize>);

impl Groups {
    /// Returns the number that stands for the set of another one.
    fn find(&mut self, mut number: usize) -> usize {
        while self.0[number] != number {
            self.0[number] = self.0[self.0[number]];
            number = self.0[number];
        }
        number
    }

    /// Makes one set of two.
    fn join(&mut self, one: usize, two: usize) {
        let (one, two) = (self.find(one), self.find(two));
        self.0[one.max(two)] = one.min(two);
    }
}
