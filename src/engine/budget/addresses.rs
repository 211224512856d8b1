//! The cost of new addresses in octets: the amount of information that their sender can encode in them.
//!
//! Networks for content delivery answer with other addresses each time, out of few prefixes and in changing order; a tunnel
//! uses every bit. So an address that the client knows counts one octet, one with a known prefix what comes behind that and one
//! more, and a set of addresses that the client was given for the same name what its order can say. Beyond the first
//! [`LOOKED_UP`] of a set all count in full: what an answer from the cache costs must not depend on what it holds.

use std::hash::{BuildHasher, RandomState};
use std::iter::Copied;
use std::slice::Iter;

use super::known::Known;
use crate::dns::response::{PayloadPart, content_of_addresses};

/// The octets of addresses that an answer has at most when data beside them is left out: four of IPv4, one of IPv6.
const LEAST: usize = 16;

/// The addresses of an answer that are looked up, with their prefixes, among what the client knows, and entered there.
/// Everyday answers have eight or so.
const LOOKED_UP: usize = 16;

/// The addresses of an answer: 4 or 16 octets each.
#[derive(Clone, Copy)]
pub(super) struct Set<'a, I> {
    /// Hashes what is entered.
    pub(super) key: &'a RandomState,
    /// The hash of the name that has them.
    pub(super) name: u64,
    /// The addresses, in the sender's order.
    pub(super) addresses: I,
    /// Their octets, and what they are in any order.
    pub(super) part: PayloadPart,
}

/// The cost of a set of addresses, and the hashes that the client knows after receiving it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
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
        let mut entries = vec![self.entry()];
        let (mut octets, mut left, mut length) = (0_u32, self.part.octets, 4);
        for address in self.addresses.clone().take(LOOKED_UP) {
            length = octets_of(address);
            left = left.saturating_sub(length);
            octets += self.unknown(address, known, &mut entries);
        }
        // All addresses of an answer are of the type that was asked for.
        Cost { octets: octets.saturating_add(left).saturating_add(left / length.max(1)), entries }
    }

    /// Returns the addresses to give where there is no room for the whole set, which `pays` tells of a cost and whether it may
    /// use the reserve: those of a known set, else a few, else one, known ones first; in an order that says nothing.
    pub(super) fn least(
        &self,
        known: &mut Known,
        mut pays: impl FnMut(&mut Known, Cost, bool) -> bool,
    ) -> Vec<&'a [u8]> {
        let mut least: Vec<&[u8]> = self.addresses.clone().take(LOOKED_UP).collect();
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
        let addresses = some.iter().copied();
        Set { key: self.key, name: self.name, part: content_of_addresses(addresses.clone()), addresses }
    }

    /// Returns the hash of the set and its name.
    fn entry(&self) -> u64 {
        self.key.hash_one((self.name, self.part.content))
    }

    /// Returns the octets of an address that the client does not know, and one; what is new is added to `entries`.
    fn unknown(&self, address: &[u8], known: &mut Known, entries: &mut Vec<u64>) -> u32 {
        /// The octets of prefixes that networks answer out of, the longest first, by the family's octets.
        const PREFIXES: [(usize, &[usize]); 2] = [(4, &[2]), (16, &[8, 4])];
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

/// Returns the length of an address in octets.
fn octets_of(address: &[u8]) -> u32 {
    u32::try_from(address.len()).unwrap_or(u32::MAX)
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
        let part = content_of_addresses(addresses.iter().copied());
        let cost = Set { key, name, addresses: addresses.iter().copied(), part }.cost(known, true);
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
    fn an_answer_of_thousands_is_counted_without_looking_at_all_of_it() {
        let (mut known, key) = (Known::default(), RandomState::new());
        let all: Vec<[u8; 4]> = (0..4000_u32).map(u32::to_be_bytes).collect();
        let looked_at = std::cell::Cell::new(0);
        let addresses = all.iter().map(<[u8; 4]>::as_slice).inspect(|_| looked_at.set(looked_at.get() + 1));
        let part = content_of_addresses(all.iter().map(<[u8; 4]>::as_slice));
        let set = Set { key: &key, name: 1, addresses, part };
        let cost = set.cost(&mut known, false);
        // The first one in full, fifteen of its network, and the rest in full.
        assert_eq!(cost.octets, 5 + 15 * 3 + 3984 * 5);
        assert!(set.least(&mut known, |_, _, _| false).is_empty());
        assert!(looked_at.get() <= 2 * LOOKED_UP, "{}", looked_at.get());
        assert!(cost.entries.len() <= 3 * LOOKED_UP + 1, "{}", cost.entries.len());
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
