//! The names of a short message by where they stand, and few of them at a time.

use crate::dns::wire::{PAYLOAD, u16_at};

/// The longest message that is read this way, in octets: what we tell upstreams to send at most over UDP.
const MAX_PLAIN: usize = PAYLOAD as usize;

/// How many names of each kind are kept in mind: of the chain, as service targets, as named by records.
const MAX_NAMES: usize = 16;

/// The names of a message by where they stand: at the offset of a label, or of the root's zero.
pub(super) struct Names<'a> {
    /// The message.
    pub(super) bytes: &'a [u8],
    /// The length on the wire of the name that starts at each offset; 0 where none was read.
    lengths: [u8; MAX_PLAIN],
}

impl<'a> Names<'a> {
    /// Starts with none; nothing if the message is too long.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() <= MAX_PLAIN).then_some(Self { bytes, lengths: [0; MAX_PLAIN] })
    }

    /// Reads the name at `at`; returns where it stands (elsewhere if it is but a pointer), and the offset behind it.
    ///
    /// Every pointer must lead to what was read as a name before: no walk is longer than a name.
    pub(super) fn read(&mut self, at: usize) -> Option<(usize, usize)> {
        let mut end = at;
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
        let mut left = u8::try_from(end - at + above).ok()?;
        let mut here = at;
        while here < end {
            *self.lengths.get_mut(here)? = left;
            let label = *self.bytes.get(here)?;
            left -= 1 + label;
            here += 1 + usize::from(label);
        }
        if after == end + 1 {
            *self.lengths.get_mut(end)? = 1;
        }
        Some((at, after))
    }

    /// Returns whether the root stands at `at`.
    pub(super) fn is_root(&self, at: usize) -> bool {
        self.length(at) == 1
    }

    /// Returns the length of the name at `at`.
    fn length(&self, at: usize) -> u8 {
        self.lengths.get(at).copied().unwrap_or(0)
    }

    /// Returns the first label of the name at `at`, with its length octet.
    fn label(&self, at: usize) -> &[u8] {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.first().and_then(|&length| rest.get(..=usize::from(length))).unwrap_or_default()
    }

    /// Returns where the name one label up stands.
    fn parent(&self, at: usize) -> usize {
        let next = at + self.label(at).len();
        match self.bytes.get(next) {
            Some(0xc0..) => pointer(self.bytes, next).unwrap_or(next),
            _ => next,
        }
    }

    /// Returns the name at `at` and those above it, the root last.
    fn at_and_above(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(at), |&at| (self.length(at) > 1).then(|| self.parent(at)))
    }

    /// Returns whether two names are the same but for case.
    pub(super) fn are_same(&self, one: usize, other: usize) -> bool {
        one == other
            || self.length(one) == self.length(other)
                && self
                    .at_and_above(one)
                    .zip(self.at_and_above(other))
                    .all(|(one, other)| one == other || self.label(one).eq_ignore_ascii_case(self.label(other)))
    }

    /// Returns whether `upper` is `name` or above it.
    pub(super) fn is_at_or_above(&self, upper: usize, name: usize) -> bool {
        let length = self.length(upper);
        self.at_and_above(name)
            .find(|&above| above == upper || self.length(above) <= length)
            .is_some_and(|above| self.are_same(above, upper))
    }

    /// Returns the lower-case wire forms of names, one after the other.
    pub(super) fn list(&self, list: impl Iterator<Item = usize> + Clone) -> Box<[u8]> {
        let mut wire = Vec::with_capacity(list.clone().map(|name| usize::from(self.length(name))).sum());
        for at in list.flat_map(|name| self.at_and_above(name)) {
            wire.extend_from_slice(self.label(at));
        }
        // A length octet is no letter.
        wire.make_ascii_lowercase();
        wire.into()
    }
}

/// A few names.
pub(super) struct Places {
    /// Where they stand.
    at: [u16; MAX_NAMES],
    /// How many there are.
    count: usize,
}

impl Places {
    /// Returns none.
    pub(super) const fn new() -> Self {
        Self { at: [0; MAX_NAMES], count: 0 }
    }

    /// Adds a name, if there is room for it.
    pub(super) fn push(&mut self, name: usize) -> Option<()> {
        *self.at.get_mut(self.count)? = u16::try_from(name).ok()?;
        self.count += 1;
        Some(())
    }

    /// Returns the names in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = usize> + Clone {
        self.at.iter().take(self.count).map(|&at| usize::from(at))
    }

    /// Returns the name added last.
    pub(super) fn last(&self) -> Option<usize> {
        self.iter().next_back()
    }

    /// Returns whether `name` is one of them.
    pub(super) fn hold(&self, names: &Names<'_>, name: usize) -> bool {
        self.iter().any(|place| names.are_same(place, name))
    }
}

/// Returns where the compression pointer at `at` leads.
fn pointer(bytes: &[u8], at: usize) -> Option<usize> {
    u16_at(bytes, at).map(|word| usize::from(word & 0x3fff))
}
