//! Making a large set: patterns are taken in by several builders at once, and put together at the end.

use std::hash::RandomState;

use super::arena::Arena;
use super::{Kind, Match, NameSet, Origin, Suffixes};

/// Patterns of one part of a file, in order, not yet known to be different ones.
#[derive(Debug)]
pub(crate) struct Builder {
    /// The key of the hash.
    hasher: RandomState,
    /// The names and their patterns.
    arena: Arena,
    /// For each name its hash and where it stands: hashed while it is at hand.
    hashes: Vec<(u64, u32)>,
    /// How many patterns there are.
    len: usize,
    /// As [`NameSet::depths`].
    depths: [u128; 2],
}

/// A pattern that was there already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duplicate {
    /// Where it is.
    at: u32,
    /// Its kind.
    kind: Kind,
    /// Where the one is that came first.
    first: u32,
}

/// Blocks from this size on come from the system and go back to it when they are freed: glibc's `M_MMAP_THRESHOLD` grows
/// with what is freed, up to 32 MiB, and smaller blocks may then stay in the heap. Room that is not written to takes
/// addresses, not memory.
const GOES_BACK: usize = 33 << 20;
/// Buffers of more octets than this are made [`GOES_BACK`] large.
const LARGE: usize = 1 << 20;

/// Returns the capacity, in octets, of a buffer that needs so much for a while.
pub(crate) fn passing_capacity(octets: usize) -> usize {
    if octets > LARGE { octets.max(GOES_BACK) } else { octets }
}

impl Builder {
    /// Starts with nothing; `names` and `octets` are the most that will come.
    pub(crate) fn new(hasher: &RandomState, names: usize, octets: usize) -> Self {
        const EACH: usize = size_of::<(u64, u32)>();
        Self {
            hasher: hasher.clone(),
            arena: Arena::with_capacity(passing_capacity(octets)),
            hashes: Vec::with_capacity(passing_capacity(names * EACH) / EACH),
            len: 0,
            depths: [0; 2],
        }
    }

    /// Adds a pattern.
    #[inline]
    pub(crate) fn add(&mut self, kind: Kind, wire: &[u8], line: u32, column: u32) {
        if !self.arena.extend_last(0, kind, wire, line, column) {
            let at = self.arena.push(kind, wire, line, column);
            self.hashes.push((super::hash_of(&self.hasher, wire), at));
        }
        self.len += 1;
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
    }

    /// Puts the parts of one file together, in their order; the second result tells what was in it twice, also in order.
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
    /// Enters a node of the arena into the table, and takes out of it what was there already.
    fn enter(&mut self, hash: u64, at: u32, duplicates: &mut Vec<Duplicate>) {
        // Most names come once: then nothing in the arena has to be read.
        if self.table.find(hash, |_| true).is_some() {
            let node = self.arena.node(at);
            let first = node.kinds.map(|kind| kind.and_then(|kind| Some((kind, self.find(kind, node.wire, hash)?))));
            let is_new = (0..2).any(|index| node.kinds[index].is_some() && first[index].is_none());
            for (kind, first) in first.into_iter().flatten() {
                self.arena.take_out(at, kind);
                self.len -= 1;
                duplicates.push(Duplicate { at, kind, first });
            }
            if !is_new {
                return;
            }
        }
        self.table.insert(hash, at);
    }

    /// Returns a duplicate as a pattern, and the one that came first.
    pub(crate) fn duplicate(&self, duplicate: Duplicate) -> (Match<'_>, Match<'_>) {
        let Duplicate { at, kind, first } = duplicate;
        (Match { set: self, at, kind }, Match { set: self, at: first, kind })
    }
}
