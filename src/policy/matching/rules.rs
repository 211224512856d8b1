//! The effective list of a policy: its own patterns and those that came by `include` and from list files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::dns::name::Suffixes;
use crate::document::Place;

use super::name_set::{Kind, Match, NameSet, Via};

/// A list of patterns in a few sets, which other policies may share.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The sets; all have the same hash key.
    parts: Vec<Part>,
    /// Which label counts occur in any of them, a bit each, the last one for all above: exact patterns, then wildcards.
    depths: [u64; 2],
}

/// One set of a list.
#[derive(Clone, Debug)]
struct Part {
    /// The patterns.
    set: Arc<NameSet>,
    /// The includes by which the whole set came.
    via: Via,
}

impl Rules {
    /// Adds a set, unless it is empty.
    pub(crate) fn add(&mut self, set: Arc<NameSet>, via: Via) {
        if !set.is_empty() {
            self.add_depths(set.depths().map(folded));
            self.parts.push(Part { set, via });
        }
    }

    /// Adds all sets of other rules.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.add_depths(other.depths);
        self.parts.extend(other.parts.iter().cloned());
    }

    /// Adds label counts that occur.
    fn add_depths(&mut self, depths: [u64; 2]) {
        for (own, more) in self.depths.iter_mut().zip(depths) {
            *own |= more;
        }
    }

    /// Returns whether a pattern of this kind has so many labels: most suffixes of most names need no look-up at all.
    #[inline]
    pub(crate) fn has_depth(&self, kind: Kind, labels: usize) -> bool {
        self.depths[kind.index()] >> labels.min(LAST_BIT) & 1 == 1
    }

    /// Returns whether nothing is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns whether one of the rules is a wildcard.
    pub(crate) fn has_wildcards(&self) -> bool {
        self.parts.iter().any(|part| part.set.has_wildcards())
    }

    /// Returns how many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.set.len()).sum()
    }

    /// Returns all rules, the policy's own first.
    pub fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        self.parts.iter().flat_map(|part| part.set.iter().map(|found| Rule { part, found }))
    }

    /// Finds the names above all patterns now, so that no query has to wait for that.
    pub(crate) fn index_ancestors(&self) {
        for part in &self.parts {
            part.set.ancestors();
        }
    }

    /// Returns what kind of pattern a name, in wire format, is above: an exact one where it is above both.
    pub(crate) fn kind_below(&self, name: &[u8]) -> Option<Kind> {
        let hash = self.parts.first()?.set.hash(name);
        let is_above = |kind: &Kind| match name {
            [0] => self.depths[kind.index()] != 0,
            _ => self.parts.iter().any(|part| part.set.ancestors().has(*kind, hash)),
        };
        [Kind::Exact, Kind::Below].into_iter().find(is_above)
    }

    /// Returns whether a pattern is, or is written on, this name or one below it, in wire format.
    pub(crate) fn reach_below(&self, name: &[u8]) -> bool {
        let labels = Suffixes::of(name).count();
        self.kind_below(name).is_some() || self.find(Kind::Exact, name, labels, &mut None).is_some()
    }

    /// Returns the rule for a suffix of a name: the name itself (`Exact`) or one above it (`Below`), which has `labels`
    /// labels. `hash` keeps the suffix's hash for the next rules that are asked.
    #[inline]
    pub(crate) fn find(&self, kind: Kind, suffix: &[u8], labels: usize, hash: &mut Option<u64>) -> Option<Rule<'_>> {
        if !self.has_depth(kind, labels) {
            return None;
        }
        self.parts.iter().find_map(|part| {
            if !part.set.has_depth(kind, labels) {
                return None;
            }
            let hash = *hash.get_or_insert_with(|| part.set.hash(suffix));
            part.set.find_match(kind, suffix, hash).map(|found| Rule { part, found })
        })
    }
}

/// The last bit of label counts: 63 labels and more, which hardly any name has. A word is tested faster than two.
const LAST_BIT: usize = 63;

/// Returns label counts with those above the last bit in it.
fn folded(depths: u128) -> u64 {
    let low = u64::try_from(depths & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    if depths >> LAST_BIT == 0 { low } else { low | 1 << LAST_BIT }
}

/// A pattern of a policy, and how it came there.
#[derive(Clone, Copy)]
pub struct Rule<'p> {
    /// The set it is in.
    part: &'p Part,
    /// The pattern.
    found: Match<'p>,
}

impl<'p> Rule<'p> {
    /// Returns the place it is written at.
    #[must_use]
    pub fn place(&self) -> Place {
        self.found.place()
    }

    /// Returns the wire name of the pattern, without the `*`.
    #[must_use]
    pub fn wire(&self) -> &'p [u8] {
        self.found.wire()
    }

    /// Returns whether the pattern matches what is below its name, and not the name.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.found.kind() == Kind::Below
    }

    /// Returns the file, the line and the column of [`Rule::place`], without a copy.
    #[must_use]
    pub fn position(&self) -> (&'p Path, u32, u32) {
        self.found.position()
    }

    /// Returns whether it is written in a list file.
    pub(crate) fn is_of_list(&self) -> bool {
        self.found.origin().is_list
    }

    /// Returns the policies and presets by whose `include` it came, from the outermost; none for a policy's own.
    pub fn via(&self) -> impl Iterator<Item = &'p str> + use<'p> {
        self.part.via.iter().chain(self.found.origin().via.iter()).map(|id| &**id)
    }
}

/// Writes the pattern in canonical form.
impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt(f)
    }
}

impl fmt::Debug for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.place())
    }
}
