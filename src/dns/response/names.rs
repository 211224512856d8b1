//! The names of one message, each held once: work and memory are linear in the message whatever its pointers do.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use super::ResponseError;
use crate::dns::name::{MAX_LABEL, MAX_LABELS, MAX_NAME};
use crate::dns::wire::HEADER;

/// A name of the message: the same number for the same name in any case, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(u16);

impl NameId {
    /// The root.
    pub(super) const ROOT: Self = Self(0);

    /// Returns the number as an index into tables with [`Names::len`] places.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names of a message as a tree: a name is its first label and the name above it.
pub(super) struct Names<'a> {
    /// The message.
    message: &'a [u8],
    /// The names by number, the root first.
    nodes: Vec<Node>,
    /// The numbers by first label and name above.
    children: HashTable<NameId>,
    /// What starts at each offset that a pointer can reach, as far as it has been read.
    seen: Vec<Option<NameId>>,
    /// The keys of the hash, so that a message cannot be made to collide.
    hasher: RandomState,
    /// Whether a pointer led to something that was not read as a name before.
    stray_pointer: bool,
}

/// A name below the root.
struct Node {
    /// The hash of the first label and the name above.
    hash: u64,
    /// The name one label up.
    parent: NameId,
    /// Where the first label stands in the message.
    at: usize,
    /// The length on the wire, root label included.
    length: usize,
}

impl<'a> Names<'a> {
    /// Starts with the root alone.
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self {
            message,
            nodes: vec![Node { hash: 0, parent: NameId::ROOT, at: 0, length: 1 }],
            children: HashTable::new(),
            seen: vec![None; message.len().min(POINTER_REACH)],
            hasher: RandomState::new(),
            stray_pointer: false,
        }
    }

    /// Returns how many names there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether a pointer led to bytes that are no name of a record that was read. They may be bytes that are
    /// patched later (an ID, a TTL), so such a message must not be kept as it is.
    pub(super) fn has_stray_pointer(&self) -> bool {
        self.stray_pointer
    }

    /// Reads the name at `at`; returns it with the offset behind its first, uncompressed part.
    ///
    /// A pointer to what has been read before costs one step. One that leads elsewhere is followed backwards for at
    /// most as many hops as a name has labels.
    pub(super) fn read(&mut self, at: usize) -> Result<(NameId, usize), ResponseError> {
        let mut labels = [0; MAX_LABELS];
        let (mut depth, mut length, mut hops) = (0, 1, 0);
        let (mut at, mut lowest) = (at, at);
        let mut after = None;
        let base = loop {
            // Only behind a pointer: what stands in line is read for the first time.
            if let Some(known) = after.and_then(|_| *self.seen.get(at)?) {
                break known;
            }
            let octet = *self.message.get(at).ok_or(ResponseError::Malformed)?;
            match usize::from(octet) {
                0 => {
                    self.remember(at, NameId::ROOT);
                    after.get_or_insert(at + 1);
                    break NameId::ROOT;
                }
                label @ 1..=MAX_LABEL => {
                    length += 1 + label;
                    if length > MAX_NAME {
                        return Err(ResponseError::Malformed);
                    }
                    labels[depth] = at;
                    depth += 1;
                    at += 1 + label;
                }
                0xc0.. => {
                    let low = *self.message.get(at + 1).ok_or(ResponseError::Malformed)?;
                    after.get_or_insert(at + 2);
                    let target = usize::from(u16::from_be_bytes([octet & 0x3f, low]));
                    if target >= lowest || target < HEADER || hops == MAX_LABELS {
                        return Err(ResponseError::Malformed);
                    }
                    self.stray_pointer |= self.seen.get(target).is_none_or(Option::is_none);
                    hops += 1;
                    lowest = target;
                    at = target;
                }
                _ => return Err(ResponseError::Malformed),
            }
        };
        let mut name = base;
        for &at in labels[..depth].iter().rev() {
            name = self.child(name, at)?;
            self.remember(at, name);
        }
        Ok((name, after.unwrap_or(at)))
    }

    /// Notes what starts at `at`, if a pointer can reach it.
    fn remember(&mut self, at: usize, name: NameId) {
        if let Some(place) = self.seen.get_mut(at) {
            *place = Some(name);
        }
    }

    /// Returns the name made of the label at `at` and `parent`.
    fn child(&mut self, parent: NameId, at: usize) -> Result<NameId, ResponseError> {
        let Self { message, nodes, children, hasher, .. } = self;
        let label = label_at(message, at);
        let length = nodes[parent.index()].length + label.len();
        if length > MAX_NAME {
            return Err(ResponseError::Malformed);
        }
        let mut lower = [0; 1 + MAX_LABEL];
        for (to, from) in lower.iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        let mut state = hasher.build_hasher();
        state.write_u16(parent.0);
        state.write(&lower[..label.len()]);
        let hash = state.finish();
        let found = children.find(hash, |id| {
            let node = &nodes[id.index()];
            node.parent == parent && label_at(message, node.at).eq_ignore_ascii_case(label)
        });
        if let Some(found) = found {
            return Ok(*found);
        }
        let id = NameId(u16::try_from(nodes.len()).map_err(|_| ResponseError::Malformed)?);
        nodes.push(Node { hash, parent, at, length });
        children.insert_unique(hash, id, |id| nodes[id.index()].hash);
        Ok(id)
    }

    /// Returns the first label of `name` with its length octet, in the case it was first seen in; a single zero for
    /// the root.
    pub(super) fn label(&self, name: NameId) -> &'a [u8] {
        if name == NameId::ROOT { &[0] } else { label_at(self.message, self.nodes[name.index()].at) }
    }

    /// Returns the name one label up; the root's is the root.
    pub(super) fn parent(&self, name: NameId) -> NameId {
        self.nodes[name.index()].parent
    }

    /// Returns `name` and what is above it, the root last.
    pub(super) fn at_and_above(&self, name: NameId) -> impl Iterator<Item = NameId> {
        std::iter::successors(Some(name), |&name| (name != NameId::ROOT).then(|| self.parent(name)))
    }

    /// Appends the wire form of `name`, lower case.
    pub(super) fn write_lower(&self, name: NameId, out: &mut Vec<u8>) {
        for name in self.at_and_above(name) {
            out.extend(self.label(name).iter().map(u8::to_ascii_lowercase));
        }
    }
}

/// Returns the label at `at` with its length octet; the caller has checked that it is one.
fn label_at(message: &[u8], at: usize) -> &[u8] {
    &message[at..=at + usize::from(message[at])]
}

/// The offsets a compression pointer can hold (RFC 1035 §4.1.4).
pub(super) const POINTER_REACH: usize = 0x4000;
