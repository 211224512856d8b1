//! What new addresses count: as much as whoever chose them can say by them.
//!
//! Networks for content delivery answer with other addresses each time, out of few prefixes and in changing order; a tunnel
//! uses every bit. So an address that the client knows counts one octet, one with a known prefix what comes behind that and one
//! more, and a set of addresses that the client was given for the same name what its order can say.

use std::hash::{BuildHasher, RandomState};
use std::iter::Copied;
use std::slice::Iter;

use super::known::Known;
use crate::dns::response::address_content;

/// The octets of addresses that an answer has at most when data beside them is left out: four of IPv4, one of IPv6.
const LEAST: usize = 16;

/// The addresses of an answer that are entered, with their prefixes, among what the client knows: more would make it forget
/// the rest.
const ENTERED: usize = 64;

/// The addresses of an answer: 4 or 16 octets each.
#[derive(Clone, Copy)]
pub(super) struct Set<'a, I> {
    /// Hashes what is entered.
    pub(super) key: &'a RandomState,
    /// The hash of the name that has them.
    pub(super) name: u64,
    /// The addresses, in the sender's order.
    pub(super) addresses: I,
    /// What they are in any order: the sum of their [`address_content`].
    pub(super) content: u64,
}

/// What a set of addresses counts, and what the client knows once it was given it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Octets.
    pub(super) octets: u32,
    /// Hashes of the set, its addresses and their prefixes.
    pub(super) entries: Vec<u64>,
}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Set<'_, I> {
    /// Returns whether the client was given the set for this name before.
    pub(super) fn is_known(&self, known: &mut Known) -> bool {
        known.holds(self.entry())
    }

    /// Returns what the set counts for a client that knows this; its order with it if the set is fresh from an upstream.
    pub(super) fn cost(&self, known: &mut Known, is_fresh: bool) -> Cost {
        if self.is_known(known) {
            let octets = if is_fresh { order(self.addresses.clone().count()) } else { 0 };
            return Cost { octets, entries: Vec::new() };
        }
        let mut cost = Cost { octets: 0, entries: vec![self.entry()] };
        for (index, address) in self.addresses.clone().enumerate() {
            let is_entered = index < ENTERED;
            let unknown = self.unknown(address, known, is_entered.then_some(&mut cost.entries));
            cost.octets = cost.octets.saturating_add(unknown);
        }
        cost
    }

    /// Returns the addresses to give where there is no room for the whole set, which `pays` tells of a cost and whether it may
    /// use the reserve: those of a known set, else a few, else one, known ones first; in an order that says nothing.
    pub(super) fn least(
        &self,
        known: &mut Known,
        mut pays: impl FnMut(&mut Known, Cost, bool) -> bool,
    ) -> Vec<&'a [u8]> {
        let mut least: Vec<&[u8]> = self.addresses.clone().take(ENTERED).collect();
        least.sort_unstable();
        let count = least.first().map_or(0, |first| LEAST / first.len().max(1));
        if self.is_known(known) {
            least.truncate(count);
            return least;
        }
        let given = least.chunks(1).find(|one| self.of(one).is_known(known));
        if let Some(given) = given {
            return given.to_vec();
        }
        let few = &least[..count.min(least.len())];
        let cost = self.of(few).cost(known, false);
        if !few.is_empty() && pays(known, cost, false) {
            return few.to_vec();
        }
        let mut ones = least.chunks(1);
        let Some(one) = ones.clone().find(|one| known.holds(self.key.hash_one(one[0]))).or_else(|| ones.next()) else {
            return Vec::new();
        };
        let cost = self.of(one).cost(known, false);
        if pays(known, cost, true) { one.to_vec() } else { Vec::new() }
    }

    /// Returns some of the addresses as a set of the same name.
    fn of<'s>(&self, some: &'s [&'a [u8]]) -> Set<'_, Copied<Iter<'s, &'a [u8]>>> {
        let content = some.iter().fold(0_u64, |sum, address| sum.wrapping_add(address_content(address)));
        Set { key: self.key, name: self.name, addresses: some.iter().copied(), content }
    }

    /// Returns the hash of the set and its name.
    fn entry(&self) -> u64 {
        self.key.hash_one((self.name, self.content))
    }

    /// Returns the octets of an address that the client does not know, and one; what is new is added to `entries`, if given.
    fn unknown(&self, address: &[u8], known: &mut Known, entries: Option<&mut Vec<u64>>) -> u32 {
        /// The octets of prefixes that networks answer out of, the longest first, by the family's octets.
        const PREFIXES: [(usize, &[usize]); 2] = [(4, &[2]), (16, &[8, 4])];
        let none: &mut Vec<u64> = &mut Vec::new();
        let entries = entries.unwrap_or(none);
        let prefixes = PREFIXES.iter().find(|(length, _)| *length == address.len()).map_or(&[][..], |(_, at)| at);
        let mut octets = address.len();
        for length in std::iter::once(address.len()).chain(prefixes.iter().copied()) {
            let entry = self.key.hash_one(&address[..length]);
            if entries.contains(&entry) || known.holds(entry) {
                octets = address.len() - length;
                break;
            }
            entries.push(entry);
        }
        u32::try_from(octets + 1).unwrap_or(u32::MAX)
    }
}

/// Returns the octets that the order of so many addresses can say: at least log₂(count!) bits, rounded up.
fn order(count: usize) -> u32 {
    let bits: u32 = (1..count).map(|before| before.ilog2() + 1).sum();
    bits.div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a client that knows `known` pays for these addresses of the name number `name`, and enters what it pays for.
    fn paid(known: &mut Known, key: &RandomState, name: u64, addresses: &[&[u8]]) -> u32 {
        let content = addresses.iter().fold(0_u64, |sum, address| sum.wrapping_add(address_content(address)));
        let cost = Set { key, name, addresses: addresses.iter().copied(), content }.cost(known, true);
        cost.entries.into_iter().for_each(|entry| known.insert(entry));
        cost.octets
    }

    #[test]
    fn addresses_count_what_is_new_in_them() {
        let (mut known, key) = (Known::default(), RandomState::new());
        let mut paid = |name, addresses: &[&[u8]]| paid(&mut known, &key, name, addresses);
        // All of the first, of the second what follows its prefix of 16 bits.
        assert_eq!(paid(1, &[&[192, 0, 2, 1], &[192, 0, 2, 2]]), 5 + 3);
        // The set is known: one bit for the order.
        assert_eq!(paid(1, &[&[192, 0, 2, 2], &[192, 0, 2, 1]]), 1);
        assert_eq!(paid(1, &[&[192, 0, 2, 1]]), 1, "part of it, which is known");
        assert_eq!(paid(1, &[&[192, 0, 2, 1]]), 0, "the same again, and no order");
        assert_eq!(paid(2, &[&[192, 0, 2, 1]]), 1, "another name");
        let six = |last: u8, host: u8| {
            let mut address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0];
            address[15] = host;
            address
        };
        assert_eq!(paid(3, &[&six(1, 1)]), 17);
        assert_eq!(paid(3, &[&six(1, 2)]), 9, "the same network");
        assert_eq!(paid(3, &[&six(2, 1)]), 13, "the same provider");
    }

    #[test]
    fn an_order_says_no_more_than_it_counts() {
        let mut bits = 0.0_f64;
        for count in 1..300_u32 {
            bits += f64::from(count).log2();
            let octets = order(usize::try_from(count).unwrap());
            assert!(f64::from(octets) * 8.0 >= bits, "{count}");
            assert!(f64::from(octets) * 8.0 <= bits * 1.3 + 8.0, "{count}");
        }
    }
}
