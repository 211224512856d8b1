//! Construction of large sets: several builders, one for each part of a file, collect patterns in parallel, and are
//! then merged into one [`NameSet`]. Only the merge is sequential, so hashing and parsing use all cores.

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

/// A pattern that the set has already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duplicate {
    /// The offset of the repeated pattern's node.
    at: u32,
    kind: PatternKind,
    /// The offset of the node that has the pattern since earlier.
    first: u32,
}

/// The size from which glibc always maps a block from the system, and returns it when it is freed.
///
/// `M_MMAP_THRESHOLD` grows with the blocks that are freed, up to 32 MiB, and smaller blocks may then stay in the heap.
/// Reserved memory that is not written to costs addresses, not pages.
const ALWAYS_MAPPED: usize = 33 << 20;
/// The size in octets above which a temporary buffer is made [`ALWAYS_MAPPED`] large.
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

    /// Adds a pattern.
    #[inline]
    pub(crate) fn add(&mut self, kind: PatternKind, wire: &[u8], line: u32, column: u32) {
        if !self.arena.extend_last(0, kind, wire, line, column) {
            let at = self.arena.push(kind, wire, line, column);
            self.hashes.push((super::hash_of(&self.hasher, wire), at));
        }
        self.len += 1;
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
    }

    /// Merges the parts of one file, in their order. The second result lists the patterns that were there twice, in
    /// order.
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
                set.enter(hash, moved + at, &mut duplicates);
            }
        }
        set.shrink();
        (set, duplicates)
    }
}

impl NameSet {
    /// Adds a node of the arena to the table, and removes those of its patterns that the set has already.
    fn enter(&mut self, hash: u64, at: u32, duplicates: &mut Vec<Duplicate>) {
        // Most names occur once. Their hash is not in the table yet, and no node has to be read from the arena.
        if self.table.find(hash, |_| true).is_some() {
            let node = self.arena.node(at);
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

    /// Returns the repeated pattern and the one that came first.
    pub(crate) fn duplicate(&self, duplicate: Duplicate) -> (Match<'_>, Match<'_>) {
        let Duplicate { at, kind, first } = duplicate;
        (Match { set: self, at, kind }, Match { set: self, at: first, kind })
    }
}
