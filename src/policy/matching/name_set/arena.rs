//! The names of a set one behind the other, each with what it stands for and where that was written.

use super::Kind;
use crate::dns::name::Suffixes;

/// Nodes: an octet of flags, a wire name, which ends itself, and for each pattern its place.
///
/// `x` and `*.x` are one node when they come one after the other. A place is the line and the column, seven bits an
/// octet, low ones first; the second line of a node is counted from its first. It stands behind the name because only
/// people ask for it: a look-up reads the flags and the name, which lie in one cache line or two.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// The nodes.
    bytes: Vec<u8>,
    /// Where the last node starts.
    last: Option<u32>,
}

/// A node that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    /// The kinds of its patterns in the order they came, those taken out left off.
    pub(super) kinds: [Option<Kind>; 2],
    /// Its name.
    pub(super) wire: &'a [u8],
    /// Line and column of its first pattern and of its second one.
    places: [(u32, u32); 2],
    /// Whether the first of two patterns is the wildcard.
    is_below_first: bool,
    /// Where the next node starts.
    pub(super) next: u32,
}

/// Flags of a node: it has the exact pattern; shifted by one, the wildcard.
const HAS: u8 = 1;
/// It has the wildcard, and that came first.
const BELOW_FIRST: u8 = 1 << 2;
/// Its exact pattern was taken out again; shifted by one, its wildcard.
const TAKEN_OUT: u8 = 1 << 3;

impl Arena {
    /// Makes an arena with room for so many octets.
    pub(super) fn with_capacity(octets: usize) -> Self {
        Self { bytes: Vec::with_capacity(octets), last: None }
    }

    /// Returns the octets it has room for.
    pub(super) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns where the next node will start.
    ///
    /// # Panics
    /// If the names take more than 4 GiB, which texts of at most [`crate::document::Source::MAX_LEN`] cannot.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("the names of a set fit 4 GiB")
    }

    /// Gives back the room that is not needed.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Adds a node with one pattern; returns where it starts.
    pub(super) fn push(&mut self, kind: Kind, wire: &[u8], line: u32, column: u32) -> u32 {
        let at = self.end();
        self.bytes.push(HAS << kind.index());
        self.bytes.extend_from_slice(wire);
        self.push_number(line);
        self.push_number(column);
        self.last = Some(at);
        at
    }

    /// Adds a pattern to the last node, if that starts at or behind `since`, is of this name and lacks it; returns
    /// whether it was.
    pub(super) fn extend_last(&mut self, since: u32, kind: Kind, wire: &[u8], line: u32, column: u32) -> bool {
        let Some(last) = self.last.filter(|&last| last >= since) else { return false };
        let flags = self.bytes[to_usize(last)];
        if flags != HAS << kind.other().index() || !self.bytes[to_usize(last) + 1..].starts_with(wire) {
            return false;
        }
        let before = self.node(last).places[0].0;
        self.bytes[to_usize(last)] |= HAS << kind.index() | if kind == Kind::Exact { BELOW_FIRST } else { 0 };
        self.push_number(line.wrapping_sub(before));
        self.push_number(column);
        true
    }

    /// Adds all nodes of another arena; returns how far they moved.
    pub(super) fn append(&mut self, other: &Self) -> u32 {
        let moved = self.end();
        self.bytes.extend_from_slice(&other.bytes);
        self.last = other.last.map(|last| moved + last).or(self.last);
        moved
    }

    /// Takes a pattern out of a node: it is there as if it had never come.
    pub(super) fn take_out(&mut self, at: u32, kind: Kind) {
        self.bytes[to_usize(at)] |= TAKEN_OUT << kind.index();
    }

    /// Returns whether the node at `at` is of this name and has a pattern of this kind.
    #[inline]
    pub(super) fn is(&self, at: u32, kind: Kind, wire: &[u8]) -> bool {
        self.bytes[to_usize(at)..].split_first().is_some_and(|(flags, rest)| {
            // A wire name ends in the root label, so one that another begins with is equal to it.
            flags & ((HAS | TAKEN_OUT) << kind.index()) == HAS << kind.index() && rest.starts_with(wire)
        })
    }

    /// Reads the node at `at`.
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
        let has = |kind: Kind| flags & ((HAS | TAKEN_OUT) << kind.index()) == HAS << kind.index();
        let order = if is_below_first { [Kind::Below, Kind::Exact] } else { [Kind::Exact, Kind::Below] };
        let kinds = order.map(|kind| has(kind).then_some(kind));
        let places = [first, second];
        Node { kinds, wire, places, is_below_first, next: u32::try_from(next).unwrap_or(u32::MAX) }
    }

    /// Returns the name of the node at `at`.
    pub(super) fn wire(&self, at: u32) -> &[u8] {
        wire_at(&self.bytes[to_usize(at) + 1..])
    }

    /// Returns all nodes with where they start, in the order they came.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (u32, Node<'_>)> {
        let (mut at, end) = (0, self.end());
        std::iter::from_fn(move || {
            let here = (at < end).then(|| (at, self.node(at)))?;
            at = here.1.next;
            Some(here)
        })
    }

    /// Adds a number.
    fn push_number(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }
}

impl Node<'_> {
    /// Returns line and column of its pattern of this kind.
    pub(super) fn place(&self, kind: Kind) -> (u32, u32) {
        let is_only = self.places[1] == (0, 0);
        let is_first = is_only || self.is_below_first == (kind == Kind::Below);
        self.places[usize::from(!is_first)]
    }
}

/// Returns the wire name at the start of `bytes`.
fn wire_at(bytes: &[u8]) -> &[u8] {
    let labels: usize = Suffixes::of(bytes).map(|suffix| 1 + usize::from(suffix[0])).sum();
    &bytes[..=labels]
}

/// Converts an offset.
#[inline]
fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
