//! A bounded map that evicts by SIEVE.
//!
//! SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024): one queue in the order of
//! arrival and a hand that walks it from the oldest to the newest, sparing once what was used since it last passed.
//! A hit only sets a mark and moves nothing; what is asked once is soon gone, so a scan of names never asked again
//! does not push out the ones in use.

use hashbrown::HashTable;

/// No slot.
const NIL: u32 = u32::MAX;

/// A value that knows its key: a table of its own for keys would be one more place in memory for every hit to read.
pub(super) trait Keyed<K: ?Sized> {
    /// Returns whether `key` is its key.
    fn is_of(&self, key: &K) -> bool;
}

/// A bounded map to values that know their keys, each of which costs a part of the budget.
#[derive(Debug)]
pub(super) struct Queue<V> {
    /// The values by index; a free slot is `None`.
    slots: Vec<Option<Slot<V>>>,
    /// The indices of the free slots.
    free: Vec<u32>,
    /// The index of each key.
    table: HashTable<u32>,
    /// The slot that arrived last.
    newest: u32,
    /// The slot that arrived first.
    oldest: u32,
    /// The slot that is looked at first when room is needed; [`NIL`]: the oldest.
    hand: u32,
    /// The sum of the costs.
    cost: usize,
    /// What the sum may be.
    budget: usize,
    /// Slots emptied to make room.
    evictions: u64,
}

/// A value and its place in the queue.
#[derive(Debug)]
pub(super) struct Slot<V> {
    /// The value.
    value: V,
    /// The key's hash.
    hash: u64,
    /// What it takes of the budget.
    cost: u32,
    /// The slot that arrived next.
    newer: u32,
    /// The slot that arrived before.
    older: u32,
    /// Whether it was used since the hand last passed.
    visited: bool,
}

impl<V> Queue<V> {
    /// Returns an empty map with a budget.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            newest: NIL,
            oldest: NIL,
            hand: NIL,
            cost: 0,
            budget,
            evictions: 0,
        }
    }

    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the sum of the values' costs; at most the budget.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Returns how many values went to make room.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Returns the value of `key` and marks it as used.
    pub(super) fn get_used<K: ?Sized>(&mut self, hash: u64, key: &K) -> Option<&mut V>
    where
        V: Keyed<K>,
    {
        let index = self.find(hash, key)?;
        let slot = self.slot_mut(index);
        slot.visited = true;
        Some(&mut slot.value)
    }

    /// Returns the value of `key` to change it; that does not count as use.
    pub(super) fn get_mut<K: ?Sized>(&mut self, hash: u64, key: &K) -> Option<&mut V>
    where
        V: Keyed<K>,
    {
        let index = self.find(hash, key)?;
        Some(&mut self.slot_mut(index).value)
    }

    /// Puts `value` at `key`, which is its own, and makes room for it. What costs more than the whole budget is not put.
    pub(super) fn insert<K: ?Sized>(&mut self, hash: u64, key: &K, value: V, cost: usize)
    where
        V: Keyed<K>,
    {
        // A value that is replaced keeps its mark, but not its place: it is as new as any.
        let visited = self.find(hash, key).is_some_and(|index| self.slot(index).visited);
        self.remove(hash, key);
        let Ok(own_cost) = u32::try_from(cost) else { return };
        if cost > self.budget {
            return;
        }
        while self.cost + cost > self.budget {
            self.evict();
        }
        let older = self.newest;
        let slot = Slot { value, hash, cost: own_cost, newer: NIL, older, visited };
        let index = self.place(slot);
        match older {
            NIL => self.oldest = index,
            older => self.slot_mut(older).newer = index,
        }
        self.newest = index;
        self.cost += cost;
        let Self { table, slots, .. } = self;
        table.insert_unique(hash, index, |&other| hash_of(slots, other));
    }

    /// Takes `key` out, if it is in.
    pub(super) fn remove<K: ?Sized>(&mut self, hash: u64, key: &K)
    where
        V: Keyed<K>,
    {
        if let Some(index) = self.find(hash, key) {
            self.take(index);
        }
    }

    /// Takes out the first slot from the hand on that was not used since the hand last passed.
    fn evict(&mut self) {
        let mut index = if self.hand == NIL { self.oldest } else { self.hand };
        // Every step clears a mark, so the second round finds one at the latest.
        while self.slot(index).visited {
            let slot = self.slot_mut(index);
            slot.visited = false;
            index = if slot.newer == NIL { self.oldest } else { slot.newer };
        }
        self.hand = self.slot(index).newer;
        self.take(index);
        self.evictions += 1;
    }

    /// Takes a slot out of the table and the queue.
    fn take(&mut self, index: u32) {
        let slot = self.slots[at(index)].take().expect("a linked slot is in use");
        if let Ok(entry) = self.table.find_entry(slot.hash, |&other| other == index) {
            entry.remove();
        }
        match slot.newer {
            NIL => self.newest = slot.older,
            newer => self.slot_mut(newer).older = slot.older,
        }
        match slot.older {
            NIL => self.oldest = slot.newer,
            older => self.slot_mut(older).newer = slot.newer,
        }
        if self.hand == index {
            self.hand = slot.newer;
        }
        self.cost -= at(slot.cost);
        self.free.push(index);
    }

    /// Puts `slot` where there is room and returns its index.
    fn place(&mut self, slot: Slot<V>) -> u32 {
        if let Some(index) = self.free.pop() {
            self.slots[at(index)] = Some(slot);
            return index;
        }
        self.slots.push(Some(slot));
        u32::try_from(self.slots.len() - 1).expect("the budget holds fewer than 2^32 slots")
    }

    /// Returns the index of `key`.
    fn find<K: ?Sized>(&self, hash: u64, key: &K) -> Option<u32>
    where
        V: Keyed<K>,
    {
        let is_it = |&index: &u32| {
            let slot = self.slot(index);
            slot.hash == hash && slot.value.is_of(key)
        };
        self.table.find(hash, is_it).copied()
    }

    /// Returns a slot in use.
    fn slot(&self, index: u32) -> &Slot<V> {
        self.slots[at(index)].as_ref().expect("a linked slot is in use")
    }

    /// Returns a slot in use, to change it.
    fn slot_mut(&mut self, index: u32) -> &mut Slot<V> {
        self.slots[at(index)].as_mut().expect("a linked slot is in use")
    }
}

/// Returns the hash of the key in a slot in use.
fn hash_of<V>(slots: &[Option<Slot<V>>], index: u32) -> u64 {
    slots[at(index)].as_ref().expect("a slot in the table is in use").hash
}

/// Returns an index, or a cost, as a `usize`.
fn at(index: u32) -> usize {
    usize::try_from(index).expect("a usize holds 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a hash that is the same for many keys, so that the table has to compare.
    fn hash(key: &str) -> u64 {
        key.bytes().map(u64::from).sum::<u64>() % 3
    }

    impl Keyed<str> for String {
        fn is_of(&self, key: &str) -> bool {
            self == key
        }
    }

    impl Keyed<u8> for (u8, char) {
        fn is_of(&self, key: &u8) -> bool {
            self.0 == *key
        }
    }

    /// A map of a budget of `budget` values, for short.
    struct Map(Queue<String>);

    impl Map {
        /// Puts a key at a cost of 1.
        fn put(&mut self, key: &str) {
            self.0.insert(hash(key), key, key.to_owned(), 1);
        }

        /// Returns whether a key is in, and uses it.
        fn is_in(&mut self, key: &str) -> bool {
            self.0.get_used(hash(key), key).is_some()
        }

        /// Returns the keys from the oldest to the newest.
        fn keys(&self) -> String {
            let mut keys = Vec::new();
            let mut index = self.0.oldest;
            while index != NIL {
                let slot = self.0.slot(index);
                keys.push(slot.value.clone());
                index = slot.newer;
            }
            assert_eq!(keys.len(), self.0.len());
            keys.join(" ")
        }
    }

    #[test]
    fn the_hand_spares_what_was_used_and_goes_on_from_there() {
        let mut map = Map(Queue::new(3));
        for key in ["a", "b", "c"] {
            map.put(key);
        }
        assert!(map.is_in("a"));
        map.put("d");
        assert_eq!(map.keys(), "a c d", "a was used, so b went");
        map.put("e");
        assert_eq!(map.keys(), "a d e", "the hand went on to c");
        assert!(map.is_in("a") && map.is_in("d") && map.is_in("e"));
        map.put("f");
        assert_eq!(map.keys(), "a e f", "all used: the first one the hand meets again goes");
        assert_eq!(map.0.evictions(), 3);
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_in_use() {
        let mut map = Map(Queue::new(100));
        let hot: Vec<String> = (0..50).map(|number| format!("hot{number}")).collect();
        for key in &hot {
            map.put(key);
        }
        for number in 0..10_000 {
            map.put(&format!("once{number}"));
            if number % 20 == 0 {
                assert!(hot.iter().all(|key| map.is_in(key)), "at {number}");
            }
        }
    }

    #[test]
    fn links_hold_when_anything_is_removed() {
        for gone in ["a", "b", "c"] {
            let mut map = Map(Queue::new(3));
            for key in ["a", "b", "c"] {
                map.put(key);
            }
            map.0.hand = map.0.find(hash(gone), gone).unwrap();
            map.0.remove(hash(gone), gone);
            map.0.remove(hash(gone), gone);
            let left: Vec<_> = ["a", "b", "c"].into_iter().filter(|key| *key != gone).collect();
            assert_eq!(map.keys(), left.join(" "), "{gone}");
            map.put("d");
            map.put("e");
            assert_eq!((map.0.len(), map.0.cost()), (3, 3), "{gone}");
        }
    }

    #[test]
    fn costs_stay_within_the_budget_and_the_too_large_is_not_put() {
        let mut map = Queue::new(10);
        for (key, cost) in [(1, 4), (2, 4), (3, 9)] {
            map.insert(key.into(), &key, (key, 'a'), cost);
        }
        assert_eq!((map.len(), map.cost(), map.evictions()), (1, 9, 2));
        map.insert(4, &4, (4, 'd'), 11);
        assert_eq!((map.len(), map.cost()), (1, 9));
        map.insert(3, &3, (3, 'C'), 2);
        assert_eq!((map.len(), map.cost(), map.get_used(3, &3).copied()), (1, 2, Some((3, 'C'))));
        map.insert(3, &3, (3, 'x'), 11);
        assert_eq!((map.len(), map.cost()), (0, 0), "what it would have replaced is out of date");
    }

    /// SIEVE as the paper writes it, on a vector: the oldest first.
    #[derive(Default)]
    struct Naive {
        /// The keys and their marks.
        queue: Vec<(u8, bool)>,
        /// The index the hand points at.
        hand: usize,
    }

    impl Naive {
        /// Puts a key, at a cost of 1 of `budget`.
        fn put(&mut self, key: u8, budget: usize) {
            let visited = self.remove(key).unwrap_or(false);
            if self.queue.len() == budget {
                self.hand %= self.queue.len();
                while self.queue[self.hand].1 {
                    self.queue[self.hand].1 = false;
                    self.hand = (self.hand + 1) % self.queue.len();
                }
                self.queue.remove(self.hand);
                if self.hand == self.queue.len() {
                    self.hand = 0;
                }
            }
            self.queue.push((key, visited));
        }

        /// Takes a key out and returns its mark.
        fn remove(&mut self, key: u8) -> Option<bool> {
            let index = self.queue.iter().position(|(other, _)| *other == key)?;
            if index < self.hand {
                self.hand -= 1;
            } else if index == self.hand && index + 1 == self.queue.len() {
                self.hand = 0;
            }
            Some(self.queue.remove(index).1)
        }
    }

    proptest::proptest! {
        #[test]
        fn it_does_what_the_naive_one_does(steps in proptest::collection::vec((0_u8..3, 0_u8..12), 0..200)) {
            let (mut queue, mut naive) = (Queue::new(5), Naive::default());
            for (step, key) in steps {
                match step {
                    0 => {
                        queue.insert(u64::from(key % 4), &key, (key, ' '), 1);
                        naive.put(key, 5);
                    }
                    1 => {
                        let found = queue.get_used(u64::from(key % 4), &key).is_some();
                        let known = naive.queue.iter_mut().find(|(other, _)| *other == key);
                        proptest::prop_assert_eq!(found, known.map(|known| known.1 = true).is_some());
                    }
                    _ => {
                        queue.remove(u64::from(key % 4), &key);
                        naive.remove(key);
                    }
                }
                let mut keys = Vec::new();
                let mut index = queue.oldest;
                while index != NIL {
                    let slot = queue.slot(index);
                    keys.push((slot.value.0, slot.visited));
                    index = slot.newer;
                }
                proptest::prop_assert_eq!(&keys, &naive.queue);
            }
        }
    }
}
