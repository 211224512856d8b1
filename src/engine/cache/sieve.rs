//! A bounded map that evicts by SIEVE, from whoever holds the most.
//!
//! SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024): one queue in the order of
//! arrival and a hand that walks it from the oldest to the newest, sparing once what was used since it last passed.
//! A hit only sets a mark and moves nothing; what is asked once is soon gone, so a scan of names never asked again
//! does not push out the ones in use.
//!
//! Each holder has a queue of its own, of what it brought in, and room is made in the heaviest one: whoever brings in
//! something never pushes out what a holder of less has. A value that another holder used since the hand last passed goes
//! over to that one instead, and counts as its own from then on; so a holder pays for what it uses, whoever was first to
//! ask for it.

use hashbrown::HashTable;

use crate::fair_share::{ByHolder, Holder};

/// The index that stands for no slot.
const NIL: u32 = u32::MAX;

/// A value that knows its key: a table of its own for keys would be one more place in memory for every hit to read.
pub(super) trait Keyed<K: ?Sized> {
    /// Returns whether `key` is its key.
    fn is_of(&self, key: &K) -> bool;
}

/// A bounded map to values that know their keys, each of which costs a part of the budget.
#[derive(Debug)]
pub(super) struct Queues<V> {
    /// The values by index; a free slot is `None`.
    slots: Vec<Option<Slot<V>>>,
    /// The indices of the free slots.
    free: Vec<u32>,
    /// The index of each key.
    table: HashTable<u32>,
    /// The queue of each holder of anything.
    by_holder: ByHolder<Queue>,
    /// The holder that room is made from: nobody who brings something in holds more, and it holds at least half of the
    /// average.
    heaviest: Option<Holder>,
    /// The sum of the costs.
    cost: usize,
    /// The limit of the sum.
    budget: usize,
    /// Slots emptied to make room.
    evictions: u64,
}

/// The values that one holder inserted, in the order of arrival.
#[derive(Clone, Copy, Debug)]
struct Queue {
    /// The slot that arrived last.
    newest: u32,
    /// The slot that arrived first.
    oldest: u32,
    /// The slot that is looked at first when room is needed; [`NIL`]: the oldest.
    hand: u32,
    /// The sum of the costs.
    cost: usize,
}

/// A value and its place in its holder's queue.
#[derive(Debug)]
pub(super) struct Slot<V> {
    value: V,
    /// The hash of the key.
    hash: u64,
    /// The part of the budget that it takes.
    cost: u32,
    /// The slot that arrived next.
    newer: u32,
    /// The slot that arrived before.
    older: u32,
    /// The holder whose queue it is in.
    holder: Holder,
    /// The holder that used it last.
    user: Holder,
    /// `true` if it was used since the hand last passed.
    visited: bool,
}

impl<V> Queues<V> {
    /// Returns an empty map with a budget.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            by_holder: ByHolder::default(),
            heaviest: None,
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

    /// Returns the value of `key` and marks it as used by `user`.
    pub(super) fn get_used<K: ?Sized>(&mut self, hash: u64, key: &K, user: Holder) -> Option<&mut V>
    where
        V: Keyed<K>,
    {
        let index = self.find(hash, key)?;
        let slot = self.slot_mut(index);
        slot.visited = true;
        slot.user = user;
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

    /// Puts `value` at `key`, which is its own, for `holder`, and makes room for it. What costs more than the whole budget
    /// is not put.
    pub(super) fn insert<K: ?Sized>(&mut self, hash: u64, key: &K, value: V, cost: usize, holder: Holder)
    where
        V: Keyed<K>,
    {
        // A value that is replaced keeps its mark and its user, but not its place: it is as new as any.
        let known = self.find(hash, key).map(|index| self.slot(index));
        let (visited, user) = known.map_or((false, holder), |slot| (slot.visited, slot.user));
        self.remove(hash, key);
        let Ok(own_cost) = u32::try_from(cost) else { return };
        if cost > self.budget {
            return;
        }
        while self.cost + cost > self.budget {
            self.evict(holder);
        }
        let slot = Slot { value, hash, cost: own_cost, newer: NIL, older: NIL, holder, user, visited };
        let index = self.place(slot);
        self.link(index, holder);
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

    /// Makes some room for something that `newcomer` brings in, in the heaviest holder's queue: takes out the first slot
    /// from the hand on that was not used since the hand last passed.
    fn evict(&mut self, newcomer: Holder) {
        let victim = self.heaviest(newcomer);
        let Some(queue) = self.by_holder.get(&victim) else { return };
        let mut index = if queue.hand == NIL { queue.oldest } else { queue.hand };
        // Every step clears a mark, so the second round finds one at the latest.
        while self.slot(index).visited {
            let slot = self.slot_mut(index);
            slot.visited = false;
            let (newer, user) = (slot.newer, slot.user);
            if user != victim {
                self.unlink(index);
                self.link(index, user);
            }
            // With all of them gone to others, some other queue has to make room.
            let Some(queue) = self.by_holder.get_mut(&victim) else { return };
            index = if newer == NIL { queue.oldest } else { newer };
            queue.hand = index;
        }
        let newer = self.slot(index).newer;
        if let Some(queue) = self.by_holder.get_mut(&victim) {
            queue.hand = newer;
        }
        self.take(index);
        self.evictions += 1;
    }

    /// Returns the holder that makes room for something that `newcomer` brings in: one that holds no less than it.
    fn heaviest(&mut self, newcomer: Holder) -> Holder {
        let held = |holder: &Holder| self.by_holder.get(holder).map_or(0, |queue| queue.cost);
        let least = self.cost / self.by_holder.len().max(1) / 2;
        let heaviest = self.heaviest.filter(|heaviest| held(heaviest) > least).or_else(|| {
            // Seldom: it has lost half of what it had, or others have left since.
            self.by_holder.iter().max_by_key(|(_, queue)| queue.cost).map(|(holder, _)| *holder)
        });
        let heaviest = heaviest.filter(|heaviest| held(heaviest) > held(&newcomer)).unwrap_or(newcomer);
        self.heaviest = Some(heaviest);
        heaviest
    }

    /// Takes a slot out of the table and its queue.
    fn take(&mut self, index: u32) {
        self.unlink(index);
        let slot = self.slots[at(index)].take().expect("a linked slot is in use");
        if let Ok(entry) = self.table.find_entry(slot.hash, |&other| other == index) {
            entry.remove();
        }
        self.free.push(index);
    }

    /// Puts a slot at the newest end of a holder's queue.
    fn link(&mut self, index: u32, holder: Holder) {
        let Self { slots, by_holder: queues, heaviest, cost, .. } = self;
        let queue = queues.entry(holder).or_insert(Queue { newest: NIL, oldest: NIL, hand: NIL, cost: 0 });
        let older = std::mem::replace(&mut queue.newest, index);
        let slot = in_use(slots, index);
        (slot.older, slot.newer, slot.holder) = (older, NIL, holder);
        queue.cost += at(slot.cost);
        *cost += at(slot.cost);
        match older {
            NIL => queue.oldest = index,
            older => in_use(slots, older).newer = index,
        }
        let own = queue.cost;
        if heaviest.and_then(|heaviest| queues.get(&heaviest)).is_none_or(|queue| queue.cost < own) {
            *heaviest = Some(holder);
        }
    }

    /// Takes a slot out of its holder's queue, and the queue away when it was the last.
    fn unlink(&mut self, index: u32) {
        let Self { slots, by_holder: queues, cost, .. } = self;
        let &mut Slot { newer, older, holder, cost: own_cost, .. } = in_use(slots, index);
        let queue = queues.get_mut(&holder).expect("a linked slot's holder has a queue");
        match newer {
            NIL => queue.newest = older,
            newer => in_use(slots, newer).older = older,
        }
        match older {
            NIL => queue.oldest = newer,
            older => in_use(slots, older).newer = newer,
        }
        if queue.hand == index {
            queue.hand = newer;
        }
        queue.cost -= at(own_cost);
        *cost -= at(own_cost);
        if queue.oldest == NIL {
            queues.remove(&holder);
        }
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
        in_use(&mut self.slots, index)
    }
}

/// Returns a slot in use, to change it.
fn in_use<V>(slots: &mut [Option<Slot<V>>], index: u32) -> &mut Slot<V> {
    slots[at(index)].as_mut().expect("a linked slot is in use")
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
    use std::sync::LazyLock;

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

    /// The holder of what the tests with one of them put.
    static ONE: LazyLock<Holder> = LazyLock::new(|| Holder::named("one"));

    /// A map of a budget of `budget` values, for short.
    struct Map(Queues<String>);

    impl Map {
        /// Puts a key at a cost of 1.
        fn put(&mut self, key: &str) {
            self.put_of(key, "one", 1);
        }

        /// Puts a key of a holder at a cost.
        fn put_of(&mut self, key: &str, holder: &str, cost: usize) {
            self.0.insert(hash(key), key, key.to_owned(), cost, Holder::named(holder));
        }

        /// Returns whether a key is in, and uses it.
        fn is_in(&mut self, key: &str) -> bool {
            self.is_in_for(key, "one")
        }

        /// Returns whether a key is in, and uses it for a holder.
        fn is_in_for(&mut self, key: &str, holder: &str) -> bool {
            self.0.get_used(hash(key), key, Holder::named(holder)).is_some()
        }

        /// Returns the keys from the oldest to the newest.
        fn keys(&self) -> String {
            let keys = self.keys_of("one");
            assert_eq!(keys.split(' ').count(), self.0.len());
            keys
        }

        /// Returns a holder's keys from the oldest to the newest.
        fn keys_of(&self, holder: &str) -> String {
            let slots: Vec<_> = slots(&self.0, Holder::named(holder)).map(|slot| slot.value.clone()).collect();
            slots.join(" ")
        }
    }

    /// Returns a holder's slots from the oldest to the newest.
    fn slots<V>(queues: &Queues<V>, holder: Holder) -> impl Iterator<Item = &Slot<V>> {
        let first = queues.by_holder.get(&holder).map_or(NIL, |queue| queue.oldest);
        let next = move |index: u32| (index != NIL).then(|| queues.slot(index));
        std::iter::successors(next(first), move |slot| next(slot.newer))
    }

    #[test]
    fn the_hand_spares_what_was_used_and_goes_on_from_there() {
        let mut map = Map(Queues::new(3));
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
        let mut map = Map(Queues::new(100));
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
            let mut map = Map(Queues::new(3));
            for key in ["a", "b", "c"] {
                map.put(key);
            }
            let hand = map.0.find(hash(gone), gone).unwrap();
            map.0.by_holder.get_mut(&ONE).unwrap().hand = hand;
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
        let mut map = Queues::new(10);
        for (key, cost) in [(1, 4), (2, 4), (3, 9)] {
            map.insert(key.into(), &key, (key, 'a'), cost, *ONE);
        }
        assert_eq!((map.len(), map.cost(), map.evictions()), (1, 9, 2));
        map.insert(4, &4, (4, 'd'), 11, *ONE);
        assert_eq!((map.len(), map.cost()), (1, 9));
        map.insert(3, &3, (3, 'C'), 2, *ONE);
        assert_eq!((map.len(), map.cost(), map.get_used(3, &3, *ONE).copied()), (1, 2, Some((3, 'C'))));
        map.insert(3, &3, (3, 'x'), 11, *ONE);
        assert_eq!((map.len(), map.cost()), (0, 0), "what it would have replaced is out of date");
    }

    #[test]
    fn room_is_made_by_the_heaviest_and_never_by_one_that_holds_less() {
        let mut map = Map(Queues::new(100));
        for number in 0..10 {
            map.put_of(&format!("small{number}"), "small", 1);
        }
        // A flood, each of it used twice at once.
        for number in 0..1000 {
            let key = format!("flood{number}");
            map.put_of(&key, "greedy", 5);
            assert!(map.is_in_for(&key, "greedy") && map.is_in_for(&key, "greedy"));
        }
        assert!((0..10).all(|number| map.is_in_for(&format!("small{number}"), "small")), "{}", map.keys_of("small"));
        // Whoever comes gets room from the greedy one, up to as much as that one has left.
        for number in 0..1000 {
            map.put_of(&format!("other{number}"), "other", 5);
        }
        let held = |holder: &str| map.0.by_holder[&Holder::named(holder)].cost;
        assert_eq!((held("small"), held("greedy"), held("other"), map.0.cost()), (10, 45, 45, 100));
    }

    #[test]
    fn a_lone_holder_has_it_all_and_the_next_one_gets_half() {
        let mut map = Map(Queues::new(100));
        for number in 0..500 {
            map.put_of(&format!("a{number}"), "a", 1);
        }
        assert_eq!(map.0.cost(), 100);
        for number in 0..500 {
            map.put_of(&format!("b{number}"), "b", 1);
        }
        let held = |holder: &str| map.0.by_holder[&Holder::named(holder)].cost;
        assert_eq!((held("a"), held("b")), (50, 50));
    }

    #[test]
    fn a_value_goes_over_to_the_holder_that_uses_it() {
        let mut map = Map(Queues::new(10));
        map.put_of("shared", "greedy", 1);
        assert!(map.is_in_for("shared", "modest"));
        for number in 0..100 {
            map.put_of(&format!("flood{number}"), "greedy", 1);
        }
        assert_eq!(map.keys_of("modest"), "shared", "it pays for it now");
        for number in 0..100 {
            map.put_of(&format!("more{number}"), "greedy", 1);
        }
        assert!(map.is_in_for("shared", "modest"), "and nobody who holds more takes it away");
    }

    #[test]
    fn holders_that_use_everything_of_one_another_end() {
        let mut map = Map(Queues::new(10));
        for number in 0..200 {
            map.put_of(&format!("a{number}"), "a", 1);
            map.put_of(&format!("b{number}"), "b", 1);
            for other in 0..=number {
                map.is_in_for(&format!("a{other}"), "b");
                map.is_in_for(&format!("b{other}"), "a");
            }
        }
        let sum: usize = map.0.by_holder.values().map(|queue| queue.cost).sum();
        assert_eq!((map.0.len(), map.0.cost(), sum), (10, 10, 10));
        assert_eq!(slots(&map.0, Holder::named("a")).count() + slots(&map.0, Holder::named("b")).count(), 10);
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
            let (mut queue, mut naive) = (Queues::new(5), Naive::default());
            for (step, key) in steps {
                match step {
                    0 => {
                        queue.insert(u64::from(key % 4), &key, (key, ' '), 1, *ONE);
                        naive.put(key, 5);
                    }
                    1 => {
                        let found = queue.get_used(u64::from(key % 4), &key, *ONE).is_some();
                        let known = naive.queue.iter_mut().find(|(other, _)| *other == key);
                        proptest::prop_assert_eq!(found, known.map(|known| known.1 = true).is_some());
                    }
                    _ => {
                        queue.remove(u64::from(key % 4), &key);
                        naive.remove(key);
                    }
                }
                let keys: Vec<_> = slots(&queue, *ONE).map(|slot| (slot.value.0, slot.visited)).collect();
                proptest::prop_assert_eq!(&keys, &naive.queue);
            }
        }
    }
}
