//! A table of the names in one message, each stored once, so that names compare as integers.
//!
//! Memory and work are linear in the message, whatever its compression pointers do: each offset is read as a name at
//! most once. The hash is keyed, as the sender of a message chooses its names.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use super::ResponseError;
use crate::dns::name::{MAX_LABEL, MAX_LABELS, MAX_NAME};
use crate::dns::wire::HEADER;

/// The identity of a name within its message: equal for equal names, in any case and wherever they occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(u16);

impl NameId {
    /// The root.
    pub(super) const ROOT: Self = Self(0);

    /// Returns the identity as an index into tables of [`Names::len`] entries.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names of a message as a tree: each node is a first label and a parent.
pub(super) struct Names<'a> {
    message: &'a [u8],
    /// The nodes by [`NameId`], the root first.
    nodes: Vec<Node>,
    /// A hash table from first label and parent to the node.
    children: HashTable<NameId>,
    /// The name that starts at each offset below [`POINTER_REACH`], as far as read.
    seen: Vec<Option<NameId>>,
    /// The hash keys; random, so that a message cannot be crafted to collide.
    hasher: RandomState,
    /// True if a pointer led to an offset at which no name had been read.
    stray_pointer: bool,
}

/// A name as its first label and its parent. The root's node has no label.
struct Node {
    /// The hash of first label and parent.
    hash: u64,
    parent: NameId,
    /// The offset of the first label in the message.
    at: usize,
    /// The length on the wire, root label included.
    length: usize,
}

impl<'a> Names<'a> {
    /// Creates a table with only the root.
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

    /// Returns the number of different names.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether a pointer led to bytes that are not a name of a record read before. Such bytes may be patched
    /// later (an ID, a TTL), so the message must be rebuilt.
    pub(super) fn has_stray_pointer(&self) -> bool {
        self.stray_pointer
    }

    /// Reads the name at `at`. Returns it with the offset after its first, uncompressed part.
    ///
    /// A pointer to a name that was read before costs one step. Another pointer is followed backwards, for at most as
    /// many hops as a name has labels.
    pub(super) fn read(&mut self, at: usize) -> Result<(NameId, usize), ResponseError> {
        let mut labels = [0; MAX_LABELS];
        let (mut depth, mut length, mut hops) = (0, 1, 0);
        let (mut at, mut lowest) = (at, at);
        let mut after = None;
        let base = loop {
            // Before the first pointer there is nothing to find: those bytes are read for the first time.
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

    /// Records the name at offset `at`, if a pointer can reach it.
    fn remember(&mut self, at: usize, name: NameId) {
        if let Some(place) = self.seen.get_mut(at) {
            *place = Some(name);
        }
    }

    /// Returns the name of the label at `at` and `parent`; creates it if it is new.
    fn child(&mut self, parent: NameId, at: usize) -> Result<NameId, ResponseError> {
        let Self { message, nodes, children, hasher, .. } = self;
        let label = label_at(message, at);
        let length = nodes[parent.index()].length + label.len();
        // `read` has checked the labels before the first known name, but not their sum with that name.
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

    /// Returns the first label of `name` with its length octet, in the case of its first occurrence. For the root, a
    /// single zero.
    pub(super) fn label(&self, name: NameId) -> &'a [u8] {
        if name == NameId::ROOT { &[0] } else { label_at(self.message, self.nodes[name.index()].at) }
    }

    /// Returns the parent of `name`; the parent of the root is the root.
    pub(super) fn parent(&self, name: NameId) -> NameId {
        self.nodes[name.index()].parent
    }

    /// Returns `name` and its ancestors, the root last.
    pub(super) fn at_and_above(&self, name: NameId) -> impl Iterator<Item = NameId> {
        std::iter::successors(Some(name), |&name| (name != NameId::ROOT).then(|| self.parent(name)))
    }

    /// Appends the wire format of `name` in lower case.
    pub(super) fn write_lower(&self, name: NameId, out: &mut Vec<u8>) {
        for name in self.at_and_above(name) {
            out.extend(self.label(name).iter().map(u8::to_ascii_lowercase));
        }
    }
}

/// Returns the label at `at` with its length octet. The caller has checked that it is within the message.
fn label_at(message: &[u8], at: usize) -> &[u8] {
    &message[at..=at + usize::from(message[at])]
}

/// The number of offsets that a compression pointer can express (RFC 1035 §4.1.4).
pub(super) const POINTER_REACH: usize = 0x4000;
