//! A persistent ordered map: a copy shares every leaf that neither side has changed since.
//!
//! A snapshot in force is immutable, so each reload builds the next one from a copy. Changing one of 10,000 objects
//! costs a copy of one leaf and one pointer for each other leaf (copy on write). Two levels suffice for any number of
//! objects that fits into memory.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::slice;
use std::sync::Arc;

/// The most entries of a leaf. At 10,000 entries, copying one leaf and copying the pointers to the others cost
/// about the same.
const LEAF_CAPACITY: usize = 64;

/// A leaf: at least one entry, sorted by key.
type Leaf<K, V> = Arc<[(K, V)]>;

/// A persistent map from keys to values, iterated in key order.
#[derive(Clone, Debug)]
pub(crate) struct OrderedMap<K, V> {
    /// The leaves, sorted by key; none is empty.
    leaves: Vec<Leaf<K, V>>,
    len: usize,
}

impl<K, V> OrderedMap<K, V> {
    pub(crate) const fn new() -> Self {
        Self { leaves: Vec::new(), len: 0 }
    }

    /// Returns the entries in the order of their keys.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        Iter { leaves: self.leaves.iter(), leaf: [].iter(), left: self.len }
    }

    /// Returns the values in the order of their keys.
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Returns the entries from the first key on for which `before` is false. `before` must be true for a prefix of
    /// the keys, as with `partition_point`.
    pub(crate) fn iter_from(&self, before: impl Fn(&K) -> bool) -> impl Iterator<Item = (&K, &V)> {
        let at = self.leaves.partition_point(|leaf| leaf.last().is_some_and(|(key, _)| before(key)));
        let leaves = self.leaves.get(at..).unwrap_or_default();
        let first = leaves.first().map_or(0, |leaf| leaf.partition_point(|(key, _)| before(key)));
        leaves.iter().flat_map(|leaf| &**leaf).skip(first).map(|(key, value)| (key, value))
    }

    /// Returns the entries in leaves that `other` does not share: every entry that differs, and those next to it in
    /// its leaf.
    pub(crate) fn not_shared_with<'m>(&'m self, other: &Self) -> impl Iterator<Item = (&'m K, &'m V)> {
        let shared: HashSet<_> = other.leaves.iter().map(Arc::as_ptr).collect();
        let own = self.leaves.iter().filter(move |leaf| !shared.contains(&Arc::as_ptr(leaf)));
        own.flat_map(|leaf| leaf.iter()).map(|(key, value)| (key, value))
    }
}

impl<K: Ord, V> OrderedMap<K, V> {
    /// Returns the value of a key.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Returns the stored key and the value of a key.
    pub(crate) fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = leaf.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        leaf.get(at).map(|(key, value)| (key, value))
    }

    /// Returns whether the map has an entry with this key.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Returns the index of the only leaf that can hold the key: the first whose last key is not less.
    fn leaf_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.leaves.partition_point(|leaf| leaf.last().is_some_and(|(last, _)| last.borrow() < key))
    }
}

impl<K: Ord + Clone, V: Clone> OrderedMap<K, V> {
    /// Inserts an entry, replacing one with the same key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        // A key above all others goes into the last leaf, which is not split when full: ids that sort by time leave
        // full leaves.
        let at = self.leaf_of(&key).min(self.leaves.len().saturating_sub(1));
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.leaves.push([(key, value)].into());
            self.len = 1;
            return;
        };
        match leaf.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(place) => {
                let (before, behind) = (&leaf[..place], &leaf[place + 1..]);
                *leaf = before.iter().cloned().chain([(key, value)]).chain(behind.iter().cloned()).collect();
            }
            Err(place) => {
                self.len += 1;
                if leaf.len() < LEAF_CAPACITY {
                    let (before, behind) = leaf.split_at(place);
                    *leaf = before.iter().cloned().chain([(key, value)]).chain(behind.iter().cloned()).collect();
                } else if place == leaf.len() {
                    self.leaves.insert(at + 1, [(key, value)].into());
                } else {
                    let mut entries = leaf.to_vec();
                    entries.insert(place, (key, value));
                    let behind = entries.split_off(entries.len() / 2);
                    *leaf = entries.into();
                    self.leaves.insert(at + 1, behind.into());
                }
            }
        }
    }

    /// Removes the entry with this key, if the map has one.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let at = self.leaf_of(key);
        let Some(leaf) = self.leaves.get(at) else { return };
        let Ok(place) = leaf.binary_search_by(|(other, _)| other.borrow().cmp(key)) else { return };
        self.len -= 1;
        let (before, behind) = (&leaf[..place], &leaf[place + 1..]);
        // Small neighbours are merged, or many removals would leave one leaf for each entry.
        let next = self.leaves.get(at + 1).filter(|next| leaf.len() + next.len() <= LEAF_CAPACITY / 2);
        let merges = next.is_some();
        let next = next.map_or(&[][..], |next| next);
        let rest: Leaf<K, V> = before.iter().chain(behind).chain(next).cloned().collect();
        if merges {
            self.leaves.remove(at + 1);
        }
        if rest.is_empty() {
            self.leaves.remove(at);
        } else {
            self.leaves[at] = rest;
        }
    }
}

impl<K, V> Default for OrderedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects entries; the last of several with the same key wins.
impl<K: Ord, V> FromIterator<(K, V)> for OrderedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (two, _)| one.cmp(two));
        entries.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let len = entries.len();
        // `take` of an exact-size iterator is exact-size too, so each leaf is allocated once, at its final length.
        let mut entries = entries.into_iter();
        let mut leaves = Vec::with_capacity(len.div_ceil(LEAF_CAPACITY));
        while entries.len() > 0 {
            leaves.push(entries.by_ref().take(LEAF_CAPACITY).collect());
        }
        Self { leaves, len }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for OrderedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        // Copies of one map mostly share all leaves, which then need no comparison of entries.
        let is_shared = self.leaves.len() == other.leaves.len()
            && self.leaves.iter().zip(&other.leaves).all(|(one, two)| Arc::ptr_eq(one, two));
        is_shared || self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for OrderedMap<K, V> {}

impl<'m, K, V> IntoIterator for &'m OrderedMap<K, V> {
    type IntoIter = Iter<'m, K, V>;
    type Item = (&'m K, &'m V);

    fn into_iter(self) -> Iter<'m, K, V> {
        self.iter()
    }
}

/// An iterator over the entries of an [`OrderedMap`] in key order.
#[derive(Debug)]
pub(crate) struct Iter<'m, K, V> {
    /// The leaves after the current one.
    leaves: slice::Iter<'m, Leaf<K, V>>,
    /// The entries of the current leaf that are still to come.
    leaf: slice::Iter<'m, (K, V)>,
    /// The number of entries still to come, in all leaves.
    left: usize,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { leaves: self.leaves.clone(), leaf: self.leaf.clone(), left: self.left }
    }
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                self.left -= 1;
                return Some((key, value));
            }
            self.leaf = self.leaves.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Asserts that a map equals `model`, that its leaves are within bounds, and that few of them are small.
    fn assert_same(map: &OrderedMap<u16, u8>, model: &BTreeMap<u16, u8>) {
        assert!(map.iter().eq(model));
        assert_eq!(map.iter().len(), model.len());
        assert!(map.leaves.iter().all(|leaf| !leaf.is_empty() && leaf.len() <= LEAF_CAPACITY));
        let pairs = map.leaves.windows(2);
        let small = pairs.filter(|pair| pair[0].len() + pair[1].len() <= LEAF_CAPACITY / 4).count();
        assert!(small <= 1 + map.leaves.len() / 2, "{small} of {}", map.leaves.len());
    }

    #[test]
    fn ascending_keys_fill_every_leaf() {
        let mut map = OrderedMap::new();
        (0..1000_u16).for_each(|key| map.insert(key, 0_u8));
        assert_eq!(map.leaves.len(), 1000_usize.div_ceil(LEAF_CAPACITY));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn map_behaves_as_a_btree_map_and_changes_leave_copies_unchanged(
            first in prop::collection::vec((0..600_u16, any::<u8>()), 0..400),
            steps in prop::collection::vec((any::<bool>(), 0..600_u16, any::<u8>()), 0..600),
            probes in prop::collection::vec(0..600_u16, 0..20),
        ) {
            let mut model: BTreeMap<u16, u8> = first.iter().copied().collect();
            let mut map: OrderedMap<u16, u8> = first.into_iter().collect();
            assert_same(&map, &model);
            let (copy, before) = (map.clone(), model.clone());
            for (inserts, key, value) in steps {
                if inserts {
                    map.insert(key, value);
                    model.insert(key, value);
                } else {
                    map.remove(&key);
                    model.remove(&key);
                }
            }
            assert_same(&map, &model);
            assert_same(&copy, &before);
            for probe in probes {
                prop_assert_eq!(map.get(&probe), model.get(&probe));
                prop_assert!(map.iter_from(|key| *key < probe).eq(model.range(probe..)));
            }
            prop_assert_eq!(map == copy, model == before);
            // Every new or changed entry is in a leaf that is not shared.
            let own: BTreeMap<_, _> = map.not_shared_with(&copy).collect();
            for (key, value) in &model {
                prop_assert!(before.get(key) == Some(value) || own.contains_key(key));
            }
        }
    }
}
