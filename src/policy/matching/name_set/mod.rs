//! Sets of patterns that answer in a label walk, without an allocation.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::dns::name::{DisplayWire, LowerName, Suffixes};
use crate::document::Place;

use self::arena::Arena;
use self::table::Table;
use super::ancestors::Ancestors;
use super::pattern::Pattern;

mod arena;
mod builder;
mod table;

pub(crate) use self::builder::{Builder, Duplicate};

/// A set of patterns, each with the place it was written at.
///
/// A name costs its wire form, 4 to 6 octets beside it and 8 in the hash table: about 40 for a usual hostname, and 2
/// more where both `x` and `*.x` are listed, one behind the other. A look-up goes to two places in memory, a line of the
/// table and the name. The hash is keyed (`SipHash`), so that nobody who can choose names can make them collide.
#[derive(Debug)]
pub struct NameSet {
    /// The key of the hash, shared by all sets of a library so that a suffix is hashed once for all of them.
    hasher: RandomState,
    /// Offsets into the arena, by the hash of the wire name.
    table: Table,
    /// The names and their patterns in the order they came.
    arena: Arena,
    /// How many patterns there are.
    len: usize,
    /// Which label counts occur, a bit each (a name has at most 127 labels): exact patterns, then wildcards.
    depths: [u128; 2],
    /// Where in the arena the names of each file start, in rising order.
    origins: Vec<(u32, Origin)>,
    /// The names above the patterns, once they are all in and somebody needs them.
    ancestors: OnceLock<Ancestors>,
}

/// The two kinds of pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The name itself.
    Exact,
    /// Every name below it.
    Below,
}

/// The ids by whose `include` something came into a policy, from the outermost; none for its own.
pub type Via = Arc<[Arc<str>]>;

/// The file that patterns are from, and how it came into the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: Arc<Path>,
    /// The policies and presets by whose `include` it came, from the outermost; empty for a policy's own entries.
    pub via: Via,
    /// Whether the file is a list, of whose entries log and status quote none.
    pub is_list: bool,
}

impl NameSet {
    /// Makes an empty set with room for `capacity` names.
    #[must_use]
    pub fn with_capacity(hasher: &RandomState, capacity: usize) -> Self {
        Self {
            hasher: hasher.clone(),
            table: Table::with_room(capacity),
            arena: Arena::default(),
            len: 0,
            depths: [0; 2],
            origins: Vec::new(),
            ancestors: OnceLock::new(),
        }
    }

    /// Adds a file that the next patterns are from.
    pub fn add_origin(&mut self, origin: Origin) {
        self.origins.push((self.arena.end(), origin));
    }

    /// Adds a pattern of the origin added last, unless the set has it already: then returns the one it has.
    ///
    /// # Errors
    /// The entry that was there before.
    ///
    /// # Panics
    /// If the names take more than 4 GiB, which texts of at most [`crate::document::Source::MAX_LEN`] cannot.
    pub fn insert(&mut self, pattern: &Pattern, line: u32, column: u32) -> Result<(), Match<'_>> {
        let (kind, wire) = Kind::of(pattern);
        self.insert_wire(kind, wire, line, column).map_err(|at| Match { set: self, at, kind })
    }

    /// Adds a pattern by its wire name; if it is there already, returns where.
    fn insert_wire(&mut self, kind: Kind, wire: &[u8], line: u32, column: u32) -> Result<(), u32> {
        let hash = self.hash(wire);
        if let Some(at) = self.find(kind, wire, hash) {
            return Err(at);
        }
        let origin = self.origins.last().map_or(0, |(start, _)| *start);
        if !self.arena.extend_last(origin, kind, wire, line, column) {
            if self.table.is_full() {
                self.rebuild_table((self.table.len() + 1) * 2);
            }
            let at = self.arena.push(kind, wire, line, column);
            self.table.insert(hash, at);
        }
        self.note(kind, wire);
        Ok(())
    }

    /// Adds all patterns of another set that are not in this one, their origins reached through `via`.
    pub(crate) fn absorb(&mut self, other: &Self, via: &[Arc<str>]) {
        let mut origins = other.origins.iter().peekable();
        for found in other.iter() {
            while let Some((_, origin)) = origins.next_if(|(start, _)| *start <= found.at) {
                let via = via.iter().chain(origin.via.iter()).cloned().collect();
                self.add_origin(Origin { path: Arc::clone(&origin.path), via, is_list: origin.is_list });
            }
            let (line, column) = found.line_and_column();
            // What is there already keeps its place: the first to say it is the one that is shown.
            let _ = self.insert_wire(found.kind, found.wire(), line, column);
        }
    }

    /// Gives back the room that is not needed, once all patterns are in.
    pub fn shrink(&mut self) {
        self.arena.shrink();
        self.origins.shrink_to_fit();
        if self.table.is_roomy() {
            self.rebuild_table(self.table.len());
        }
    }

    /// Returns how many patterns there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let ancestors = match self.ancestors.get() {
            Some(ancestors) => ancestors.memory(),
            None => 0,
        };
        self.table.memory() + self.arena.capacity() + self.origins.capacity() * size_of::<(u32, Origin)>() + ancestors
    }

    /// Returns the patterns in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = Match<'_>> {
        self.arena
            .nodes()
            .flat_map(move |(at, node)| node.kinds.into_iter().flatten().map(move |kind| Match { set: self, at, kind }))
    }

    /// Returns the most specific pattern that matches `qname`.
    #[must_use]
    pub fn lookup(&self, qname: &LowerName) -> Option<Match<'_>> {
        let labels = qname.suffixes().count();
        qname.suffixes().enumerate().find_map(|(above, suffix)| {
            let kind = if above == 0 { Kind::Exact } else { Kind::Below };
            if !self.has_depth(kind, labels - above) {
                return None;
            }
            self.find_match(kind, suffix, self.hash(suffix))
        })
    }

    /// Returns the entry that is exactly this pattern.
    #[must_use]
    pub fn get(&self, pattern: &Pattern) -> Option<Match<'_>> {
        let (kind, wire) = Kind::of(pattern);
        self.find_match(kind, wire, self.hash(wire))
    }

    /// Returns the most specific wildcard that covers everything a pattern of this name matches, and is another one.
    pub(crate) fn wider(&self, wire: &[u8]) -> Option<Match<'_>> {
        let labels = Suffixes::of(wire).count();
        Suffixes::of(wire).enumerate().skip(1).find_map(|(above, suffix)| {
            let may_be = self.has_depth(Kind::Below, labels - above);
            may_be.then(|| self.find_match(Kind::Below, suffix, self.hash(suffix))).flatten()
        })
    }

    /// Returns the names above the patterns, which are all in: they are found once.
    pub(crate) fn ancestors(&self) -> &Ancestors {
        self.ancestors.get_or_init(|| Ancestors::of(self))
    }

    /// Returns which label counts occur, a bit each: exact patterns, then wildcards.
    pub(crate) const fn depths(&self) -> [u128; 2] {
        self.depths
    }

    /// Returns whether a pattern of this kind has so many labels.
    #[inline]
    pub(crate) const fn has_depth(&self, kind: Kind, labels: usize) -> bool {
        self.depths[kind.index()] >> (labels & 127) & 1 == 1
    }

    /// Returns whether one of the names can be above another one, so that [`NameSet::wider`] is worth asking.
    pub(crate) fn has_wider(&self) -> bool {
        let all = self.depths[0] | self.depths[1];
        self.depths[Kind::Below.index()].trailing_zeros() < u128::BITS - 1 - all.leading_zeros().min(u128::BITS - 1)
    }

    /// Returns whether one of the patterns is a wildcard.
    pub(crate) const fn has_wildcards(&self) -> bool {
        self.depths[Kind::Below.index()] != 0
    }

    /// Returns the hash of a wire name, good for every set with the same key.
    #[inline]
    pub(crate) fn hash(&self, wire: &[u8]) -> u64 {
        hash_of(&self.hasher, wire)
    }

    /// Returns the pattern of this kind and wire name, whose hash is `hash`.
    #[inline]
    pub(crate) fn find_match(&self, kind: Kind, wire: &[u8], hash: u64) -> Option<Match<'_>> {
        self.find(kind, wire, hash).map(|at| Match { set: self, at, kind })
    }

    /// Returns where the pattern of this kind and wire name stands.
    #[inline]
    fn find(&self, kind: Kind, wire: &[u8], hash: u64) -> Option<u32> {
        self.table.find(hash, |at| self.arena.is(at, kind, wire))
    }

    /// Counts a pattern that was added.
    fn note(&mut self, kind: Kind, wire: &[u8]) {
        self.len += 1;
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
    }

    /// Makes the table anew, with room for `count` names.
    fn rebuild_table(&mut self, count: usize) {
        self.table = Table::with_room(count);
        for (at, node) in self.arena.nodes().filter(|(_, node)| node.kinds != [None; 2]) {
            self.table.insert(hash_of(&self.hasher, node.wire), at);
        }
    }
}

/// Returns the hash of a wire name under this key. A name says itself where it ends, so its length is not hashed, as it would
/// be with a slice: that is a tenth of a look-up.
#[inline]
fn hash_of(key: &RandomState, wire: &[u8]) -> u64 {
    let mut hasher = key.build_hasher();
    hasher.write(wire);
    hasher.finish()
}

impl Kind {
    /// Returns kind and wire name of a pattern.
    pub(crate) fn of(pattern: &Pattern) -> (Self, &[u8]) {
        match pattern {
            Pattern::Exact(name) => (Self::Exact, name.as_wire()),
            Pattern::Below(name) => (Self::Below, name.as_wire()),
        }
    }

    /// Returns its index in an array of both.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Exact => 0,
            Self::Below => 1,
        }
    }

    /// Returns the other one.
    const fn other(self) -> Self {
        match self {
            Self::Exact => Self::Below,
            Self::Below => Self::Exact,
        }
    }
}

/// A pattern of a set.
#[derive(Clone, Copy)]
pub struct Match<'s> {
    /// The set.
    set: &'s NameSet,
    /// Where its name stands in the arena.
    at: u32,
    /// Its kind.
    kind: Kind,
}

impl<'s> Match<'s> {
    /// Returns the kind of the pattern.
    pub(crate) const fn kind(self) -> Kind {
        self.kind
    }

    /// Returns the wire name of the pattern, without the `*`.
    #[must_use]
    pub fn wire(self) -> &'s [u8] {
        self.set.arena.wire(self.at)
    }

    /// Returns the file the pattern is from.
    ///
    /// # Panics
    /// If patterns were added to the set before the first origin.
    #[must_use]
    pub fn origin(self) -> &'s Origin {
        let origins = &self.set.origins;
        let behind = origins.partition_point(|(start, _)| *start <= self.at);
        &origins[behind.saturating_sub(1)].1
    }

    /// Returns the file, the line and the column of [`Match::place`].
    #[must_use]
    pub fn position(self) -> (&'s Path, u32, u32) {
        let (line, column) = self.line_and_column();
        (&self.origin().path, line, column)
    }

    /// Returns the place the pattern is written at.
    #[must_use]
    pub fn place(self) -> Place {
        let (line, column) = self.line_and_column();
        Place { path: Arc::clone(&self.origin().path), line, column }
    }

    /// Returns the line and the column the pattern is written at.
    pub(crate) fn line_and_column(self) -> (u32, u32) {
        self.set.arena.node(self.at).place(self.kind)
    }
}

/// Writes the pattern in canonical form.
impl std::fmt::Display for Match<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::Exact => write!(f, "{}", DisplayWire(self.wire())),
            Kind::Below => write!(f, "*.{}", DisplayWire(self.wire())),
        }
    }
}

impl std::fmt::Debug for Match<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self} ({})", self.place())
    }
}

#[cfg(test)]
mod tests;
