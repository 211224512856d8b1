//! Sets of patterns that are searched once for each suffix of a name, without an allocation.
//!
//! [`NameSet`] is an open-addressing hash table of offsets ([`Table`]) into one block of octets with the names
//! ([`Arena`]). [`Builder`] makes a large set on several threads.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::dns::name::{DisplayWire, LowerName, Suffixes};
use crate::document::Place;

use self::ancestors::Ancestors;
use self::arena::Arena;
use self::table::Table;
use super::pattern::Pattern;
use super::pattern_kind::PatternKind;

mod ancestors;
mod arena;
mod builder;
mod table;

pub(crate) use self::builder::{Builder, Duplicate};

/// A set of patterns, each with the place it was written at.
///
/// A name costs its wire form, 4 to 6 octets beside it and 8 in the hash table: about 40 for a usual hostname, and 2
/// more if both `x` and `*.x` are listed next to each other. A look-up reads two places in memory: a cache line of the
/// table and the name. The hash is keyed (`SipHash`), so that a client or a list author who chooses names cannot make
/// them collide.
#[derive(Debug)]
pub struct NameSet {
    hasher: RandomState,
    /// The offsets of names in the arena, by the hash of the wire name.
    table: Table,
    /// The names and their patterns, in the order they were added.
    arena: Arena,
    /// The number of patterns.
    len: usize,
    /// A bit for each label count that occurs (a name has at most 127 labels): exact patterns, then wildcards.
    depths: [u128; 2],
    /// The start of each file's names in the arena, in rising order.
    origins: Vec<(u32, Origin)>,
    /// The names above the patterns, built on first use after all patterns were added.
    ancestors: OnceLock<Ancestors>,
}

/// The ids of the policies and presets through which something was included, outermost first; empty for a policy's own
/// entries.
pub type IncludePath = Arc<[Arc<str>]>;

/// The file that patterns are from, and the includes that brought it into the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The path of the file.
    pub path: Arc<Path>,
    /// The ids of the policies and presets through which the file was included, outermost first; empty for a policy's
    /// own.
    pub via: IncludePath,
    /// Whether the file is a list. Logs and the status quote no entry of a list, as lists may be confidential.
    pub is_list: bool,
}

impl NameSet {
    /// Returns an empty set with room for `capacity` names.
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

    /// Starts a file: patterns that are added from now on belong to `origin`.
    pub fn add_origin(&mut self, origin: Origin) {
        self.origins.push((self.arena.end(), origin));
    }

    /// Adds a pattern, which belongs to the origin added last.
    ///
    /// # Errors
    /// The entry that the set has already for the same pattern; the set is unchanged.
    ///
    /// # Panics
    /// If the names take more than 4 GiB, which texts of at most [`crate::document::Source::MAX_LEN`] cannot.
    pub fn insert(&mut self, pattern: &Pattern, line: u32, column: u32) -> Result<(), Match<'_>> {
        let (kind, wire) = pattern.kind_and_wire();
        self.insert_wire(kind, wire, line, column).map_err(|at| Match { set: self, at, kind })
    }

    /// Adds a pattern by its wire name. If a node has the pattern already, returns its offset as an error.
    fn insert_wire(&mut self, kind: PatternKind, wire: &[u8], line: u32, column: u32) -> Result<(), u32> {
        let hash = self.hash(wire);
        if let Some(at) = self.find(kind, wire, hash) {
            return Err(at);
        }
        // `x` and `*.x` become one node only if both are from the same file.
        let origin = self.origins.last().map_or(0, |(start, _)| *start);
        if !self.arena.extend_last(origin, kind, wire, line, column) {
            if self.table.is_full() {
                // Doubling keeps the cost of all insertions together linear.
                self.rebuild_table((self.table.len() + 1) * 2);
            }
            let at = self.arena.push(kind, wire, line, column);
            self.table.insert(hash, at);
        }
        self.count_pattern(kind, wire);
        Ok(())
    }

    /// Adds all patterns of `other` that this set lacks; their origins get `via` put before their own includes.
    pub(crate) fn absorb(&mut self, other: &Self, via: &[Arc<str>]) {
        let mut origins = other.origins.iter().peekable();
        for found in other.iter() {
            while let Some((_, origin)) = origins.next_if(|(start, _)| *start <= found.at) {
                let via = via.iter().chain(origin.via.iter()).cloned().collect();
                self.add_origin(Origin { path: Arc::clone(&origin.path), via, is_list: origin.is_list });
            }
            let (line, column) = found.line_and_column();
            // A pattern that is there already keeps its place: explanations show the first entry in reading order.
            let _ = self.insert_wire(found.kind, found.wire(), line, column);
        }
    }

    /// Releases the memory that is reserved and not used; to be called after the last pattern was added.
    pub fn shrink(&mut self) {
        self.arena.shrink();
        self.origins.shrink_to_fit();
        if self.table.is_oversized() {
            self.rebuild_table(self.table.len());
        }
    }

    /// Returns the number of patterns.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the set has no patterns.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory of the set in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let ancestors = match self.ancestors.get() {
            Some(ancestors) => ancestors.memory(),
            None => 0,
        };
        self.table.memory() + self.arena.capacity() + self.origins.capacity() * size_of::<(u32, Origin)>() + ancestors
    }

    /// Returns the patterns in the order they were added.
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
            let kind = if above == 0 { PatternKind::Exact } else { PatternKind::Below };
            if !self.has_depth(kind, labels - above) {
                return None;
            }
            self.find_match(kind, suffix, self.hash(suffix))
        })
    }

    /// Returns the entry that equals this pattern.
    #[must_use]
    pub fn get(&self, pattern: &Pattern) -> Option<Match<'_>> {
        let (kind, wire) = pattern.kind_and_wire();
        self.find_match(kind, wire, self.hash(wire))
    }

    /// Returns the most specific wildcard above `wire` that covers everything a pattern of this name matches.
    pub(crate) fn wider(&self, wire: &[u8]) -> Option<Match<'_>> {
        let labels = Suffixes::of(wire).count();
        // `*.x` is skipped: it does not match `x`, and it covers the wildcard `*.x` only as that entry itself.
        Suffixes::of(wire).enumerate().skip(1).find_map(|(above, suffix)| {
            let may_be = self.has_depth(PatternKind::Below, labels - above);
            may_be.then(|| self.find_match(PatternKind::Below, suffix, self.hash(suffix))).flatten()
        })
    }

    /// Returns the names above the patterns. They are collected on the first call, so all patterns must have been
    /// added.
    pub(crate) fn ancestors(&self) -> &Ancestors {
        self.ancestors.get_or_init(|| Ancestors::of(self))
    }

    /// Returns a bit for each label count that occurs: exact patterns, then wildcards.
    pub(crate) const fn depths(&self) -> [u128; 2] {
        self.depths
    }

    /// Returns whether a pattern of this kind has `labels` labels.
    #[inline]
    pub(crate) const fn has_depth(&self, kind: PatternKind, labels: usize) -> bool {
        // A name has at most 127 labels; the mask tells the compiler that the shift cannot overflow.
        self.depths[kind.index()] >> (labels & 127) & 1 == 1
    }

    /// Returns whether a wildcard of the set has fewer labels than another pattern. If not, [`NameSet::wider`] finds
    /// nothing for the set's own patterns and need not be called.
    pub(crate) fn has_wider(&self) -> bool {
        // The lowest label count of a wildcard is compared with the highest of all patterns.
        let all = self.depths[0] | self.depths[1];
        self.depths[PatternKind::Below.index()].trailing_zeros()
            < u128::BITS - 1 - all.leading_zeros().min(u128::BITS - 1)
    }

    /// Returns whether one of the patterns is a wildcard.
    pub(crate) const fn has_wildcards(&self) -> bool {
        self.depths[PatternKind::Below.index()] != 0
    }

    /// Returns the hash of a wire name, which is valid for every set with the same key.
    #[inline]
    pub(crate) fn hash(&self, wire: &[u8]) -> u64 {
        hash_of(&self.hasher, wire)
    }

    /// Returns the pattern of this kind and wire name, whose hash is `hash`.
    #[inline]
    pub(crate) fn find_match(&self, kind: PatternKind, wire: &[u8], hash: u64) -> Option<Match<'_>> {
        self.find(kind, wire, hash).map(|at| Match { set: self, at, kind })
    }

    /// Returns the pattern at a position of this set.
    pub(crate) const fn at(&self, MatchId { at, kind }: MatchId) -> Match<'_> {
        Match { set: self, at, kind }
    }

    /// Returns the arena's offset of the node that has the pattern of this kind and wire name.
    #[inline]
    fn find(&self, kind: PatternKind, wire: &[u8], hash: u64) -> Option<u32> {
        self.table.find(hash, |at| self.arena.is(at, kind, wire))
    }

    /// Counts a pattern that was added, and its labels.
    fn count_pattern(&mut self, kind: PatternKind, wire: &[u8]) {
        self.len += 1;
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
    }

    /// Builds the table again, with room for `count` names.
    fn rebuild_table(&mut self, count: usize) {
        self.table = Table::with_room(count);
        // Nodes whose patterns were all removed need no slot.
        for (at, node) in self.arena.nodes().filter(|(_, node)| node.kinds != [None; 2]) {
            self.table.insert(hash_of(&self.hasher, node.wire), at);
        }
    }
}

/// Returns the hash of a wire name under this key.
///
/// A wire name ends in the root label, so no name is a prefix of another and its length need not be hashed, as it would
/// be for a slice: that saves a tenth of a look-up.
#[inline]
fn hash_of(key: &RandomState, wire: &[u8]) -> u64 {
    let mut hasher = key.build_hasher();
    hasher.write(wire);
    hasher.finish()
}

/// A pattern of a set.
#[derive(Clone, Copy)]
pub struct Match<'s> {
    set: &'s NameSet,
    /// The arena's offset of the pattern's node.
    at: u32,
    kind: PatternKind,
}

/// The position of a pattern in its set: a [`Match`] without the borrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatchId {
    /// The arena's offset of the pattern's node.
    at: u32,
    kind: PatternKind,
}

impl<'s> Match<'s> {
    /// Returns the position of this pattern, for [`NameSet::at`].
    pub(crate) const fn id(self) -> MatchId {
        MatchId { at: self.at, kind: self.kind }
    }

    /// Returns the kind of the pattern.
    pub(crate) const fn kind(self) -> PatternKind {
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

    /// Returns the line and the column the pattern is written at, both counted from 1.
    pub(crate) fn line_and_column(self) -> (u32, u32) {
        self.set.arena.node(self.at).place(self.kind)
    }
}

/// Writes the pattern in canonical form.
impl std::fmt::Display for Match<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            PatternKind::Exact => write!(f, "{}", DisplayWire(self.wire())),
            PatternKind::Below => write!(f, "*.{}", DisplayWire(self.wire())),
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
