//! The effective patterns of a policy, allowed or denied: its own, and those from its includes and list files.
//!
//! They are stored as a few immutable [`NameSet`]s. Policies that include the same preset or list file share the set
//! through an [`Arc`], so that a reload which changes one policy copies no patterns. All sets of a library have the
//! same hash key: the hash of a suffix is computed once and used for each of them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::dns::name::Suffixes;
use crate::document::Place;

use super::name_set::{IncludePath, Match, MatchId, NameSet};
use super::pattern_kind::PatternKind;

/// A list of patterns, made of sets that other policies may share.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The sets, all with the same hash key.
    sets: Vec<IncludedSet>,
    /// The label counts that occur in any of the sets, as a set of bits for each kind of pattern, indexed by
    /// [`PatternKind::index`]. The last bit stands for 63 labels and more.
    depths: [u64; 2],
}

/// One set of a list, with the includes that brought it into the policy.
#[derive(Clone, Debug)]
struct IncludedSet {
    set: Arc<NameSet>,
    /// The ids of the policies and presets through which the whole set was included.
    via: IncludePath,
}

impl Rules {
    /// Adds a set; an empty set is left out, so that [`Rules::is_empty`] needs to look at no set.
    pub(crate) fn add(&mut self, set: Arc<NameSet>, via: IncludePath) {
        if !set.is_empty() {
            self.add_depths(set.depths().map(folded));
            self.sets.push(IncludedSet { set, via });
        }
    }

    /// Adds all sets of `other`, which stay shared with it.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.add_depths(other.depths);
        self.sets.extend(other.sets.iter().cloned());
    }

    /// Adds the label counts of a set.
    fn add_depths(&mut self, depths: [u64; 2]) {
        for (own, more) in self.depths.iter_mut().zip(depths) {
            *own |= more;
        }
    }

    /// Returns whether a pattern of this kind may have `labels` labels. This rejects most suffixes without a look-up.
    /// The answer is exact below 63 labels.
    #[inline]
    pub(crate) fn has_depth(&self, kind: PatternKind, labels: usize) -> bool {
        self.depths[kind.index()] >> labels.min(LAST_BIT) & 1 == 1
    }

    /// Returns whether the list has no patterns.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Returns whether one of the patterns is a wildcard.
    pub(crate) fn has_wildcards(&self) -> bool {
        self.sets.iter().any(|included| included.set.has_wildcards())
    }

    /// Returns the number of patterns.
    pub(crate) fn len(&self) -> usize {
        self.sets.iter().map(|included| included.set.len()).sum()
    }

    /// Returns all patterns, the policy's own first.
    pub fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        self.sets.iter().flat_map(|included| included.set.iter().map(|found| Rule { included, found }))
    }

    /// Returns the position of a pattern in this list, for [`Rules::get`]; `None` if it is of another list.
    pub(crate) fn id(&self, rule: Rule<'_>) -> Option<RuleId> {
        let set = self.sets.iter().position(|included| std::ptr::eq(included, rule.included))?;
        Some(RuleId { set, found: rule.found.id() })
    }

    /// Returns the pattern at a position of this list.
    pub(crate) fn get(&self, id: RuleId) -> Option<Rule<'_>> {
        let included = self.sets.get(id.set)?;
        Some(Rule { included, found: included.set.at(id.found) })
    }

    /// Builds the index of ancestors of every set during the load, so that the first DS query does not have to.
    pub(crate) fn index_ancestors(&self) {
        for included in &self.sets {
            included.set.ancestors();
        }
    }

    /// Returns the kind of the patterns that are below `name`, which is in wire format: [`PatternKind::Exact`] if there
    /// are both kinds, `None` if there are no patterns below it.
    pub(crate) fn kind_below(&self, name: &[u8]) -> Option<PatternKind> {
        let hash = self.sets.first()?.set.hash(name);
        let is_above = |kind: &PatternKind| match name {
            // The root is above every pattern, so the index of ancestors leaves it out.
            [0] => self.depths[kind.index()] != 0,
            _ => self.sets.iter().any(|included| included.set.ancestors().has(*kind, hash)),
        };
        [PatternKind::Exact, PatternKind::Below].into_iter().find(is_above)
    }

    /// Returns whether a pattern is at or below `name`, which is in wire format.
    pub(crate) fn reach_below(&self, name: &[u8]) -> bool {
        let labels = Suffixes::of(name).count();
        self.kind_below(name).is_some() || self.find(PatternKind::Exact, name, labels, &mut None).is_some()
    }

    /// Returns the rule for a suffix of a name that has `labels` labels: the name itself (`Exact`) or a name above it
    /// (`Below`).
    ///
    /// `hash` caches the suffix's hash: it is computed for the first set that may hold the suffix and reused for all
    /// others.
    #[inline]
    pub(crate) fn find(
        &self,
        kind: PatternKind,
        suffix: &[u8],
        labels: usize,
        hash: &mut Option<u64>,
    ) -> Option<Rule<'_>> {
        if !self.has_depth(kind, labels) {
            return None;
        }
        self.sets.iter().find_map(|included| {
            // `depths` is the union over all sets: this one may have no pattern of so many labels.
            if !included.set.has_depth(kind, labels) {
                return None;
            }
            let hash = *hash.get_or_insert_with(|| included.set.hash(suffix));
            included.set.find_match(kind, suffix, hash).map(|found| Rule { included, found })
        })
    }
}

/// The last bit of the label counts, for 63 labels and more: such names are rare, and one word is tested faster than
/// two.
const LAST_BIT: usize = 63;

/// Folds the 128 bits of label counts of a set into 64: the counts above [`LAST_BIT`] set the last bit.
fn folded(depths: u128) -> u64 {
    let low = u64::try_from(depths & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    if depths >> LAST_BIT == 0 { low } else { low | 1 << LAST_BIT }
}

/// A pattern of a policy, with the place it is written at and the includes that brought it into the policy.
#[derive(Clone, Copy)]
pub struct Rule<'p> {
    included: &'p IncludedSet,
    found: Match<'p>,
}

/// The position of a pattern in its list: a [`Rule`] without the borrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleId {
    /// The index of the set in the list.
    set: usize,
    /// The pattern's position in that set.
    found: MatchId,
}

impl<'p> Rule<'p> {
    /// Returns the place the pattern is written at.
    #[must_use]
    pub fn place(&self) -> Place {
        self.found.place()
    }

    /// Returns the wire name of the pattern, without the `*`.
    #[must_use]
    pub fn wire(&self) -> &'p [u8] {
        self.found.wire()
    }

    /// Returns whether the pattern is a wildcard, which matches names below its own name and not that name itself.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.found.kind() == PatternKind::Below
    }

    /// Returns the file, the line and the column of [`Rule::place`] without a copy of the path.
    #[must_use]
    pub fn position(&self) -> (&'p Path, u32, u32) {
        self.found.position()
    }

    /// Returns whether the pattern is written in a list file.
    pub(crate) fn is_of_list(&self) -> bool {
        self.found.origin().is_list
    }

    /// Returns the ids of the policies and presets that the pattern was included through, outermost first; none for a
    /// policy's own.
    pub fn via(&self) -> impl Iterator<Item = &'p str> + use<'p> {
        self.included.via.iter().chain(self.found.origin().via.iter()).map(|id| &**id)
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
