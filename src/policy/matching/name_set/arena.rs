//! The names of a set in one block of octets, each with the kinds of its patterns and the places these are written at.

use super::PatternKind;
use crate::dns::name::Suffixes;

/// A sequence of nodes: an octet of flags, a wire name (which marks its own end), and for each pattern its place.
///
/// `x` and `*.x` are one node if they were added one after the other. A place is a line and a column in LEB128 (seven
/// bits in an octet, low ones first); the line of a node's second pattern is the difference from its first. Places come
/// after the name, as only messages read them: a look-up reads the flags and the name, which lie in one cache line or
/// two.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// The encoded nodes.
    bytes: Vec<u8>,
    /// The offset of the last node, `None` in an empty arena.
    last: Option<u32>,
}

/// A decoded node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    /// The kinds of the node's patterns in the order they were added; removed ones are `None`.
    pub(super) kinds: [Option<PatternKind>; 2],
    /// The wire name.
    pub(super) wire: &'a [u8],
    /// The line and the column of the first and the second pattern; `(0, 0)` if there is no second one.
    places: [(u32, u32); 2],
    /// Whether the wildcard was added before the exact pattern.
    is_below_first: bool,
    /// The offset of the next node.
    pub(super) next: u32,
}

/// Flag of a node that has the exact pattern; shifted left by one, the wildcard.
const HAS: u8 = 1;
/// Flag of a node with both patterns whose wildcard was added first.
const BELOW_FIRST: u8 = 1 << 2;
/// Flag of a node whose exact pattern was removed; shifted left by one, the wildcard.
const REMOVED: u8 = 1 << 3;

impl Arena {
    /// Returns an empty arena with room for `octets` octets.
    pub(super) fn with_capacity(octets: usize) -> Self {
        Self { bytes: Vec::with_capacity(octets), last: None }
    }

    /// Returns the size of the allocation in octets.
    pub(super) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns the offset that the next node will have.
    ///
    /// # Panics
    /// If the names take more than 4 GiB, which texts of at most [`crate::document::Source::MAX_LEN`] cannot.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("the names of a set fit 4 GiB")
    }

    /// Releases the memory that is reserved and not used.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Adds a node with one pattern, and returns its offset.
    pub(super) fn push(&mut self, kind: PatternKind, wire: &[u8], line: u32, column: u32) -> u32 {
        let at = self.end();
        self.bytes.push(HAS << kind.index());
        self.bytes.extend_from_slice(wire);
        self.push_number(line);
        self.push_number(column);
        self.last = Some(at);
        at
    }

    /// Adds a pattern to the last node if that is at `since` or later, has this name and lacks the pattern. Returns
    /// whether the pattern was added.
    pub(super) fn extend_last(&mut self, since: u32, kind: PatternKind, wire: &[u8], line: u32, column: u32) -> bool {
        let Some(last) = self.last.filter(|&last| last >= since) else { return false };
        let flags = self.bytes[to_usize(last)];
        if flags != HAS << kind.other().index() || !self.bytes[to_usize(last) + 1..].starts_with(wire) {
            return false;
        }
        let before = self.node(last).places[0].0;
        self.bytes[to_usize(last)] |= HAS << kind.index() | if kind == PatternKind::Exact { BELOW_FIRST } else { 0 };
        // Wrapping arithmetic, so that no order of lines is a special case. The difference is mostly 0 or 1: one octet.
        self.push_number(line.wrapping_sub(before));
        self.push_number(column);
        true
    }

    /// Adds all nodes of another arena, and returns how far their offsets moved.
    pub(super) fn append(&mut self, other: &Self) -> u32 {
        let moved = self.end();
        self.bytes.extend_from_slice(&other.bytes);
        self.last = other.last.map(|last| moved + last).or(self.last);
        moved
    }

    /// Removes a pattern from a node. A flag marks it, as the octets of a node stay where they are: the table holds
    /// offsets.
    pub(super) fn remove(&mut self, at: u32, kind: PatternKind) {
        // The `HAS` flag stays, as the node still has the octets of the pattern's place.
        self.bytes[to_usize(at)] |= REMOVED << kind.index();
    }

    /// Returns whether the node at offset `at` has this name and a pattern of this kind.
    #[inline]
    pub(super) fn is(&self, at: u32, kind: PatternKind, wire: &[u8]) -> bool {
        self.bytes[to_usize(at)..].split_first().is_some_and(|(flags, rest)| {
            // A wire name ends in the root label, so a name that starts with `wire` is `wire`.
            flags & ((HAS | REMOVED) << kind.index()) == HAS << kind.index() && rest.starts_with(wire)
        })
    }

    /// Decodes the node at offset `at`.
    pub(super) fn node(&self, at: u32) -> Node<'_> {
        let start = to_usize(at);
        let flags = self.bytes[start];
        let wire = wire_at(&self.bytes[start + 1..]);
        let mut next = start + 1 + wire.len();
        let mut number = || {
            let (mut number, mut shift) = (0, 0);
            loop {
                let octet = self.bytes[next];
                next += 1;
                number |= u32::from(octet & 0x7f) << shift;
                shift += 7;
                if octet < 0x80 {
                    return number;
                }
            }
        };
        let first = (number(), number());
        let has_both = flags & (HAS | HAS << 1) == HAS | HAS << 1;
        let second = if has_both { (number().wrapping_add(first.0), number()) } else { (0, 0) };
        let is_below_first = flags & BELOW_FIRST != 0;
        let has = |kind: PatternKind| flags & ((HAS | REMOVED) << kind.index()) == HAS << kind.index();
        let order = if is_below_first {
            [PatternKind::Below, PatternKind::Exact]
        } else {
            [PatternKind::Exact, PatternKind::Below]
        };
        let kinds = order.map(|kind| has(kind).then_some(kind));
        let places = [first, second];
        Node { kinds, wire, places, is_below_first, next: u32::try_from(next).unwrap_or(u32::MAX) }
    }

    /// Returns the wire name of the node at offset `at`.
    pub(super) fn wire(&self, at: u32) -> &[u8] {
        wire_at(&self.bytes[to_usize(at) + 1..])
    }

    /// Returns all nodes with their offsets, in the order they were added.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (u32, Node<'_>)> {
        let (mut at, end) = (0, self.end());
        std::iter::from_fn(move || {
            let here = (at < end).then(|| (at, self.node(at)))?;
            at = here.1.next;
            Some(here)
        })
    }

    /// Appends a number in LEB128.
    fn push_number(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }
}

impl Node<'_> {
    /// Returns the line and the column of the pattern of this kind.
    pub(super) fn place(&self, kind: PatternKind) -> (u32, u32) {
        let is_only = self.places[1] == (0, 0);
        let is_first = is_only || self.is_below_first == (kind == PatternKind::Below);
        self.places[usize::from(!is_first)]
    }
}

/// Returns the wire name that `bytes` starts with.
fn wire_at(bytes: &[u8]) -> &[u8] {
    let labels: usize = Suffixes::of(bytes).map(|suffix| 1 + usize::from(suffix[0])).sum();
    &bytes[..=labels]
}

/// Converts an offset to an index.
#[inline]
fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
