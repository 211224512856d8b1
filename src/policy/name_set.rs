//! Sets of patterns that answer in a label walk, without an allocation.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::dns::name::{DisplayWire, LowerName, Suffixes};
use crate::document::Place;

use super::pattern::Pattern;

/// A set of patterns, each with the place it was written at.
///
/// A pattern costs its wire name, 17 octets beside it and 5 to 11 in the hash table: about 45 for a usual hostname.
/// The hash is keyed (`SipHash`), so that nobody who can choose names can make them collide.
#[derive(Debug)]
pub struct NameSet {
    /// The key of the hash, shared by all sets of a library so that a suffix is hashed once for all of them.
    hasher: RandomState,
    /// Indices into `entries`, by the hash of the wire name.
    table: HashTable<u32>,
    /// The patterns in the order they came.
    entries: Vec<Entry>,
    /// For each entry its [`Kind`] and then its wire name, which ends itself.
    arena: Vec<u8>,
    /// Which label counts occur, a bit each (a name has at most 127 labels): exact patterns, then wildcards.
    depths: [u128; 2],
    /// Where the entries are from.
    origins: Vec<Origin>,
}

/// One pattern of a set.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its kind and name stand in the arena.
    at: u32,
    /// Its line.
    line: u32,
    /// Its column.
    column: u32,
    /// Its origin, an index.
    origin: u32,
}

/// The two kinds of pattern, as they stand in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The name itself.
    Exact = 0,
    /// Every name below it.
    Below = 1,
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
}

impl NameSet {
    /// Makes an empty set with room for `capacity` patterns.
    #[must_use]
    pub fn with_capacity(hasher: &RandomState, capacity: usize) -> Self {
        Self {
            hasher: hasher.clone(),
            table: HashTable::with_capacity(capacity),
            entries: Vec::with_capacity(capacity),
            arena: Vec::new(),
            depths: [0; 2],
            origins: Vec::new(),
        }
    }

    /// Adds a file that the next patterns are from.
    pub fn add_origin(&mut self, origin: Origin) {
        self.origins.push(origin);
    }

    /// Adds a pattern of the origin added last, unless the set has it already: then returns the one it has.
    ///
    /// # Errors
    /// The entry that was there before.
    ///
    /// # Panics
    /// If the names take more than 4 GiB, which texts of at most [`crate::document::Source::MAX_LEN`] cannot.
    pub fn insert(&mut self, pattern: &Pattern, line: u32, column: u32) -> Result<(), Match<'_>> {
        let (kind, wire) = match pattern {
            Pattern::Exact(name) => (Kind::Exact, name.as_wire()),
            Pattern::Below(name) => (Kind::Below, name.as_wire()),
        };
        self.insert_wire(kind, wire, line, column).map_err(|index| Match { set: self, index })
    }

    /// Adds a pattern by its wire name; if it is there already, returns its index.
    fn insert_wire(&mut self, kind: Kind, wire: &[u8], line: u32, column: u32) -> Result<(), u32> {
        let hash = self.hasher.hash_one(wire);
        if let Some(index) = self.find(kind, wire, hash) {
            return Err(index);
        }
        let index = u32::try_from(self.entries.len()).expect("a set has fewer than 2^32 patterns");
        let at = u32::try_from(self.arena.len()).expect("the names of a set fit 4 GiB");
        let origin = u32::try_from(self.origins.len().saturating_sub(1)).expect("a set has few origins");
        self.arena.push(kind.octet());
        self.arena.extend_from_slice(wire);
        self.entries.push(Entry { at, line, column, origin });
        let (hasher, entries, arena) = (&self.hasher, &self.entries, &self.arena);
        self.table.insert_unique(hash, index, |&index| hasher.hash_one(wire_at(entries, arena, index)));
        self.depths[kind.index()] |= 1 << Suffixes::of(wire).count().min(127);
        Ok(())
    }

    /// Adds all patterns of another set that are not in this one, their origins reached through `via`.
    pub(super) fn absorb(&mut self, other: &Self, via: &[Arc<str>]) {
        let base = self.origins.len();
        for origin in &other.origins {
            let via = via.iter().chain(origin.via.iter()).cloned().collect();
            self.origins.push(Origin { path: Arc::clone(&origin.path), via });
        }
        for found in other.iter() {
            let entry = found.entry();
            // What is there already keeps its place: the first to say it is the one that is shown.
            if self.insert_wire(found.kind(), found.wire(), entry.line, entry.column).is_ok()
                && let Some(added) = self.entries.last_mut()
            {
                added.origin = u32::try_from(base).expect("a set has few origins") + entry.origin;
            }
        }
    }

    /// Gives back the room that is not needed, once all patterns are in.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        self.arena.shrink_to_fit();
        let (hasher, entries, arena) = (&self.hasher, &self.entries, &self.arena);
        self.table.shrink_to_fit(|&index| hasher.hash_one(wire_at(entries, arena, index)));
    }

    /// Returns how many patterns there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the memory it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.table.allocation_size() + self.entries.capacity() * size_of::<Entry>() + self.arena.capacity()
    }

    /// Returns the patterns in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = Match<'_>> {
        (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).map(|index| Match { set: self, index })
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
        let (kind, wire) = match pattern {
            Pattern::Exact(name) => (Kind::Exact, name.as_wire()),
            Pattern::Below(name) => (Kind::Below, name.as_wire()),
        };
        self.find_match(kind, wire, self.hash(wire))
    }

    /// Returns the most specific wildcard that covers everything a pattern of this name matches, and is another one.
    pub(super) fn wider(&self, wire: &[u8]) -> Option<Match<'_>> {
        let labels = Suffixes::of(wire).count();
        Suffixes::of(wire).enumerate().skip(1).find_map(|(above, suffix)| {
            let may_be = self.has_depth(Kind::Below, labels - above);
            may_be.then(|| self.find_match(Kind::Below, suffix, self.hash(suffix))).flatten()
        })
    }

    /// Returns which label counts occur, a bit each: exact patterns, then wildcards.
    pub(super) const fn depths(&self) -> [u128; 2] {
        self.depths
    }

    /// Returns whether a pattern of this kind has so many labels.
    #[inline]
    pub(super) const fn has_depth(&self, kind: Kind, labels: usize) -> bool {
        self.depths[kind.index()] >> (labels & 127) & 1 == 1
    }

    /// Returns the hash of a wire name, good for every set with the same key.
    #[inline]
    pub(super) fn hash(&self, wire: &[u8]) -> u64 {
        self.hasher.hash_one(wire)
    }

    /// Returns the pattern of this kind and wire name, whose hash is `hash`.
    #[inline]
    pub(super) fn find_match(&self, kind: Kind, wire: &[u8], hash: u64) -> Option<Match<'_>> {
        self.find(kind, wire, hash).map(|index| Match { set: self, index })
    }

    /// Returns the index of the pattern of this kind and wire name.
    #[inline]
    fn find(&self, kind: Kind, wire: &[u8], hash: u64) -> Option<u32> {
        let is_it = |&index: &u32| {
            self.at(index).split_first().is_some_and(|(octet, rest)| {
                // A wire name ends in the root label, so one that another begins with is equal to it.
                *octet == kind.octet() && rest.starts_with(wire)
            })
        };
        self.table.find(hash, is_it).copied()
    }

    /// Returns the arena from an entry on.
    #[inline]
    fn at(&self, index: u32) -> &[u8] {
        &self.arena[to_usize(self.entries[to_usize(index)].at)..]
    }
}

impl Kind {
    /// Returns the octet that stands for it.
    const fn octet(self) -> u8 {
        match self {
            Self::Exact => 0,
            Self::Below => 1,
        }
    }

    /// Returns its index in an array of both.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Exact => 0,
            Self::Below => 1,
        }
    }
}

/// A pattern of a set.
#[derive(Clone, Copy)]
pub struct Match<'s> {
    /// The set.
    set: &'s NameSet,
    /// The entry.
    index: u32,
}

impl<'s> Match<'s> {
    /// Returns the entry.
    fn entry(self) -> &'s Entry {
        &self.set.entries[to_usize(self.index)]
    }

    /// Returns the kind of the pattern.
    pub(super) fn kind(self) -> Kind {
        if self.set.at(self.index).first() == Some(&Kind::Below.octet()) { Kind::Below } else { Kind::Exact }
    }

    /// Returns the wire name of the pattern, without the `*`.
    #[must_use]
    pub fn wire(self) -> &'s [u8] {
        wire_at(&self.set.entries, &self.set.arena, self.index)
    }

    /// Returns the file the pattern is from.
    #[must_use]
    pub fn origin(self) -> &'s Origin {
        &self.set.origins[to_usize(self.entry().origin)]
    }

    /// Returns the place the pattern is written at.
    #[must_use]
    pub fn place(self) -> Place {
        let entry = self.entry();
        Place { path: Arc::clone(&self.origin().path), line: entry.line, column: entry.column }
    }
}

/// Writes the pattern in canonical form.
impl std::fmt::Display for Match<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
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

/// Returns the wire name of an entry.
fn wire_at<'s>(entries: &[Entry], arena: &'s [u8], index: u32) -> &'s [u8] {
    let start = to_usize(entries[to_usize(index)].at) + 1;
    let mut end = start;
    while arena[end] != 0 {
        end += 1 + usize::from(arena[end]);
    }
    &arena[start..=end]
}

/// Converts an index.
#[inline]
fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds a set of `patterns`, each on its own line of `list.txt`.
    fn set(patterns: &[impl AsRef<str>]) -> NameSet {
        let mut set = NameSet::with_capacity(&RandomState::new(), 0);
        set.add_origin(Origin { path: Path::new("list.txt").into(), via: Arc::new([]) });
        for (line, pattern) in (1..).zip(patterns) {
            let _ = set.insert(&Pattern::parse(pattern.as_ref()).unwrap(), line, 1);
        }
        set.shrink();
        set
    }

    /// Parses a name.
    fn name(text: &str) -> LowerName {
        LowerName::from_text(text).unwrap()
    }

    #[test]
    fn the_most_specific_pattern_is_found_with_its_place() {
        let set = set(&["*.example.com", "*.a.example.com", "b.a.example.com", "*.b.a.example.com"]);
        let cases = [
            ("b.a.example.com", Some("b.a.example.com (list.txt:3:1)")),
            ("c.a.example.com", Some("*.a.example.com (list.txt:2:1)")),
            ("c.b.a.example.com", Some("*.b.a.example.com (list.txt:4:1)")),
            ("a.example.com", Some("*.example.com (list.txt:1:1)")),
            ("example.com", None),
            ("com", None),
            (".", None),
            ("notexample.com", None),
        ];
        for (query, expected) in &cases {
            let found = set.lookup(&name(query)).map(|found| format!("{found:?}"));
            assert_eq!(found.as_deref(), *expected, "{query}");
        }
    }

    #[test]
    fn a_duplicate_is_told_with_the_first_place() {
        let mut set = set(&["example.com", "*.example.com"]);
        let first = set.insert(&Pattern::parse("EXAMPLE.com.").unwrap(), 9, 1).unwrap_err();
        assert_eq!(first.place().line, 1);
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn names_of_127_labels_and_of_255_octets_are_looked_up() {
        let deep = "a.".repeat(126) + "b";
        let set = set(&["*.b", &deep]);
        assert_eq!(set.lookup(&name(&deep)).unwrap().place().line, 2);
        assert_eq!(set.lookup(&name(&("c.".repeat(126) + "b"))).unwrap().place().line, 1);
    }

    #[test]
    fn absorbed_patterns_keep_their_origin_and_the_first_place_wins() {
        let (one, two) = (set(&["a.test", "b.test"]), set(&["b.test", "c.test"]));
        let mut all = NameSet::with_capacity(&RandomState::new(), 0);
        all.absorb(&one, &["one".into()]);
        all.absorb(&two, &["two".into(), "deep".into()]);
        let found: Vec<_> = all.iter().map(|found| format!("{found} {:?}", found.origin().via)).collect();
        assert_eq!(found, [r#"a.test ["one"]"#, r#"b.test ["one"]"#, r#"c.test ["two", "deep"]"#]);
    }

    #[test]
    fn a_hostname_takes_at_most_64_bytes() {
        let hostnames: Vec<_> = (0..100_000).map(|index| format!("host-{index}.some-domain.example")).collect();
        let set = set(&hostnames);
        assert!(set.memory() <= 64 * hostnames.len(), "{} bytes each", set.memory() / hostnames.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn sets_agree_with_a_naive_matcher(
            patterns in prop::collection::vec("(\\*\\.)?([ab]{1,2}\\.){0,3}(test|lan)", 0..30),
            queries in prop::collection::vec("([ab*_]{1,2}\\.){0,5}(test|lan|est)", 1..30),
        ) {
            let set = set(&patterns);
            let parsed: Vec<_> = patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect();
            for query in &queries {
                let query = name(query);
                let naive = parsed.iter().filter(|pattern| pattern.matches(&query));
                let best = naive.max_by_key(|pattern| pattern.name().as_wire().len()).map(ToString::to_string);
                let found = set.lookup(&query).map(|found| found.to_string());
                prop_assert_eq!(found, best, "{}", query);
            }
        }
    }
}
