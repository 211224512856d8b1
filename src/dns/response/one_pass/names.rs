//! Names of a short message identified by offset, and short fixed-size lists of them; no allocation.

use crate::dns::wire::{PAYLOAD, u16_at};

/// The size limit of messages that are parsed in one pass, in octets: the UDP payload size announced to upstreams.
const MAX_MESSAGE_LENGTH: usize = PAYLOAD as usize;

/// The capacity of each list of names: the CNAME chain, the service targets, the names whose addresses may follow in
/// the additional section. A response with more takes the general path.
const MAX_NAMES: usize = 16;

/// The names of a message, identified by the offset of their first label, or of the root's zero.
pub(super) struct OffsetNames<'a> {
    pub(super) bytes: &'a [u8],
    /// The length on the wire of the name at each offset; 0 if no name was read there.
    lengths: [u8; MAX_MESSAGE_LENGTH],
}

impl<'a> OffsetNames<'a> {
    /// Creates a table without names. Returns `None` if the message is too long.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() <= MAX_MESSAGE_LENGTH).then_some(Self { bytes, lengths: [0; MAX_MESSAGE_LENGTH] })
    }

    /// Reads the name at `at`. Returns its offset (the target's, if the name is only a pointer) and the offset after
    /// it.
    ///
    /// Every pointer must lead to a name that was read before, so no walk is longer than a name.
    pub(super) fn read(&mut self, at: usize) -> Option<(usize, usize)> {
        let mut end = at;
        // The length of the name that follows the labels at `at`: the root, or the target of a pointer.
        let (above, after) = loop {
            match usize::from(*self.bytes.get(end)?) {
                0 => break (1, end + 1),
                label @ ..=63 => end += 1 + label,
                0xc0.. => {
                    let target = pointer(self.bytes, end)?;
                    let above = usize::from(*self.lengths.get(target)?);
                    if above == 0 {
                        return None;
                    }
                    if end == at {
                        return Some((target, at + 2));
                    }
                    break (above, end + 2);
                }
                _ => return None,
            }
        };
        // A name over 255 octets fails this conversion, so it needs no check of its own.
        let mut left = u8::try_from(end - at + above).ok()?;
        let mut here = at;
        while here < end {
            *self.lengths.get_mut(here)? = left;
            let label = *self.bytes.get(here)?;
            left -= 1 + label;
            here += 1 + usize::from(label);
        }
        // The name ends with a root label of its own, not with a pointer.
        if after == end + 1 {
            *self.lengths.get_mut(end)? = 1;
        }
        Some((at, after))
    }

    /// Returns whether the name at `at` is the root.
    pub(super) fn is_root(&self, at: usize) -> bool {
        self.length(at) == 1
    }

    /// Returns the wire length of the name at `at`; 0 if no name was read there.
    fn length(&self, at: usize) -> u8 {
        self.lengths.get(at).copied().unwrap_or(0)
    }

    /// Returns the first label of the name at `at`, with its length octet.
    fn label(&self, at: usize) -> &[u8] {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.first().and_then(|&length| rest.get(..=usize::from(length))).unwrap_or_default()
    }

    /// Returns the offset of the parent of the name at `at`.
    fn parent(&self, at: usize) -> usize {
        let next = at + self.label(at).len();
        match self.bytes.get(next) {
            Some(0xc0..) => pointer(self.bytes, next).unwrap_or(next),
            _ => next,
        }
    }

    /// Returns the name at `at` and its ancestors, the root last.
    fn at_and_above(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(at), |&at| (self.length(at) > 1).then(|| self.parent(at)))
    }

    /// Returns whether two names are equal, ignoring case.
    pub(super) fn are_same(&self, one: usize, other: usize) -> bool {
        one == other
            || self.length(one) == self.length(other)
                && self
                    .at_and_above(one)
                    .zip(self.at_and_above(other))
                    .all(|(one, other)| one == other || self.label(one).eq_ignore_ascii_case(self.label(other)))
    }

    /// Returns whether `upper` is `name` or an ancestor of it.
    pub(super) fn is_at_or_above(&self, upper: usize, name: usize) -> bool {
        let length = self.length(upper);
        self.at_and_above(name)
            .find(|&above| above == upper || self.length(above) <= length)
            .is_some_and(|above| self.are_same(above, upper))
    }

    /// Returns the lower-case wire format of the names, one after the other.
    pub(super) fn list(&self, list: impl Iterator<Item = usize> + Clone) -> Box<[u8]> {
        let mut wire = Vec::with_capacity(list.clone().map(|name| usize::from(self.length(name))).sum());
        for at in list.flat_map(|name| self.at_and_above(name)) {
            wire.extend_from_slice(self.label(at));
        }
        // Length octets are at most 63, which is not a letter.
        wire.make_ascii_lowercase();
        wire.into()
    }
}

/// A list of names with a fixed capacity.
pub(super) struct NameList {
    /// The offsets of the names; meaningless from `count` on.
    at: [u16; MAX_NAMES],
    count: usize,
}

impl NameList {
    /// Creates an empty list.
    pub(super) const fn new() -> Self {
        Self { at: [0; MAX_NAMES], count: 0 }
    }

    /// Appends a name. Returns `None` if the list is full.
    pub(super) fn push(&mut self, name: usize) -> Option<()> {
        *self.at.get_mut(self.count)? = u16::try_from(name).ok()?;
        self.count += 1;
        Some(())
    }

    /// Returns the names in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = usize> + Clone {
        self.at.iter().take(self.count).map(|&at| usize::from(at))
    }

    /// Returns the name that was appended last.
    pub(super) fn last(&self) -> Option<usize> {
        self.iter().next_back()
    }

    /// Returns whether the list contains `name`.
    pub(super) fn contains(&self, names: &OffsetNames<'_>, name: usize) -> bool {
        self.iter().any(|name_at| names.are_same(name_at, name))
    }
}

/// Returns the offset that the compression pointer at `at` leads to.
fn pointer(bytes: &[u8], at: usize) -> Option<usize> {
    u16_at(bytes, at).map(|word| usize::from(word & 0x3fff))
}
