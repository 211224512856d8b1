//! Construction of large sets: each part of a file is collected by a builder of its own, in parallel, and the builders
//! are then merged into one [`NameSet`]. Only the merge is sequential; parsing and hashing use all cores.

use std::hash::RandomState;

use super::arena::Arena;
use super::{Match, NameSet, Origin, PatternKind, Suffixes};

/// The patterns of one part of a file, in order, possibly with duplicates.
#[derive(Debug)]
pub(crate) struct Builder {
    hasher: RandomState,
    /// The names and their patterns.
    arena: Arena,
    /// The hash and the offset of each name. A name is hashed when it is added, while it is in the CPU's cache.
    hashes: Vec<(u64, u32)>,
    /// The number of patterns.
    len: usize,
    /// The label counts, as in [`NameSet::depths`].
    depths: [u128; 2],
}

/// A pattern that a file lists again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duplicate {
    /// The offset of the repeated pattern's node.
    at: u32,
    kind: PatternKind,
    /// The offset of the node of its first occurrence.
    first: u32,
}

/// The size in octets from which glibc always allocates a block with mmap(2), so that freeing it returns the memory.
///
/// glibc raises its threshold (`M_MMAP_THRESHOLD`) to the size of each mapped block that is freed, up to 32 MiB, and
/// smaller blocks may then stay in the heap after they are freed. The part of a mapped block that is never written to
/// takes address space, but no memory.
const ALWAYS_MAPPED: usize = 33 << 20;
/// The size in octets above which the capacity of a temporary buffer is raised to [`ALWAYS_MAPPED`].
const LARGE: usize = 1 << 20;

/// Returns the capacity, in octets, for a buffer that needs `octets` and is freed soon.
pub(crate) fn temporary_capacity(octets: usize) -> usize {
    if octets > LARGE { octets.max(ALWAYS_MAPPED) } else { octets }
}

impl Builder {
    /// Returns an empty builder; `names` and `octets` are upper bounds for the patterns to come, so that nothing is
    /// reallocated.
    pub(crate) fn new(hasher: &RandomState, names: usize, octets: usize) -> Self {
        const EACH: usize = size_of::<(u64, u32)>();
        Self {
            hasher: hasher.clone(),
            arena: Arena::with_capacity(temporary_capacity(octets)),
            hashes: Vec::with_capacity(temporary_capacity(names * EACH) / EACH),
            len: 0,
            depths: [0; 2],
        }
    }

    /// Adds a pattern. `x` and `*.x` share a node of the arena if one follows the other.
    #[inline]
    pub(crate) fn add(&mut self, kind: PatternKind, wire: &[u8], line: u32, column: u32) {
        if !self.arena.extend_last(0, kind, wire, line, column) {
            let at = self.arena.push(kind, wire, line, column);
            self.hashes.push((super::hash_of(&self.hasher, wire), at));
        }
        self.len += 1;
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
    }

    /// Merges the builders of a file, given in the order of its parts. Also returns the patterns that the file repeats,
    /// in the order of the file.
    pub(crate) fn finish(parts: Vec<Self>, hasher: &RandomState, origin: Origin) -> (NameSet, Vec<Duplicate>) {
        let mut set = NameSet::with_capacity(hasher, parts.iter().map(|part| part.hashes.len()).sum());
        set.origins = vec![(0, origin)];
        let mut duplicates = Vec::new();
        let mut parts = parts.into_iter();
        let Some(mut first) = parts.next() else { return (set, duplicates) };
        let mut hashes = vec![(0, std::mem::take(&mut first.hashes))];
        set.arena = first.arena;
        (set.len, set.depths) = (first.len, first.depths);
        for part in parts {
            // The offsets of a part move by the length of the parts before it.
            hashes.push((set.arena.append(&part.arena), part.hashes));
            set.len += part.len;
            set.depths = [set.depths[0] | part.depths[0], set.depths[1] | part.depths[1]];
        }
        for (moved, hashes) in hashes {
            for (hash, at) in hashes {
                set.index_node(hash, moved + at, &mut duplicates);
            }
        }
        set.shrink();
        (set, duplicates)
    }
}

impl NameSet {
    /// Adds a node of the arena to the table. Patterns of the node that the set has already are removed from it and
    /// added to `duplicates`.
    fn index_node(&mut self, hash: u64, at: u32, duplicates: &mut Vec<Duplicate>) {
        // Most names occur once. Their hash is not in the table yet, and no node has to be read from the arena.
        if self.table.find(hash, |_| true).is_some() {
            let node = self.arena.node(at);
            // For each pattern of the node, its kind and its first occurrence; `None` if the pattern is new.
            let first = node.kinds.map(|kind| kind.and_then(|kind| Some((kind, self.find(kind, node.wire, hash)?))));
            let is_new = (0..2).any(|index| node.kinds[index].is_some() && first[index].is_none());
            for (kind, first) in first.into_iter().flatten() {
                self.arena.remove(at, kind);
                self.len -= 1;
                duplicates.push(Duplicate { at, kind, first });
            }
            if !is_new {
                return;
            }
        }
        self.table.insert(hash, at);
    }

    /// Returns the repeated pattern and its first occurrence.
    pub(crate) fn duplicate(&self, duplicate: Duplicate) -> (Match<'_>, Match<'_>) {
        let Duplicate { at, kind, first } = duplicate;
        (Match { set: self, at, kind }, Match { set: self, at: first, kind })
    }
}
