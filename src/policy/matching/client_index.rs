//! An index of address prefixes that finds the longest prefix which holds an address: it tells which client a query is
//! from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::util::{HASH_MULTIPLIER, folded_multiply};

/// Values by address prefix, in one hash table for each prefix length that occurs, longest first.
///
/// A look-up costs one hash for each such length, however many prefixes there are. IPv4-mapped IPv6 addresses are
/// indexed as IPv4 (a socket on `[::]` shows its IPv4 clients that way, RFC 4038 §4.2).
#[derive(Clone, Debug)]
pub struct ClientIndex<T> {
    /// The tables of IPv4 prefixes, longest prefix first.
    v4: Vec<PrefixTable<u32, T>>,
    /// The tables of IPv6 prefixes, longest prefix first.
    v6: Vec<PrefixTable<u128, T>>,
}

/// The prefixes of one length.
#[derive(Clone, Debug)]
struct PrefixTable<A, T> {
    /// The prefix length in bits.
    length: u8,
    /// The network mask of this length.
    mask: A,
    /// The values by masked address.
    values: HashMap<A, T, BuildHasherDefault<FoldedMultiply>>,
}

/// A folded-multiply hasher for addresses: two multiplications, where `SipHash` would cost a tenth of a denial.
///
/// The hasher has no key. It needs none: only prefixes of policy files are inserted, and a client that chooses its
/// source address cannot lengthen a chain by looking one up.
#[derive(Clone, Copy, Debug, Default)]
struct FoldedMultiply(u64);

impl Hasher for FoldedMultiply {
    fn write(&mut self, bytes: &[u8]) {
        // The keys are `u32` and `u128`, whose hashes go through the methods below: this one is never on the hot path.
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u32(&mut self, bits: u32) {
        self.write_u64(bits.into());
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = folded_multiply(self.0 ^ bits, HASH_MULTIPLIER);
    }

    fn write_u128(&mut self, bits: u128) {
        let [low, high] = [bits, bits >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
        // Prefixes of one network differ in the low half, those of several networks in the high one.
        self.write_u64(high);
        self.write_u64(low);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<T: Copy> Default for ClientIndex<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> ClientIndex<T> {
    /// Returns an index without prefixes.
    #[must_use]
    pub const fn new() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }

    /// Adds a prefix; its host bits are cleared.
    ///
    /// # Errors
    /// The value that the same prefix has already. The index keeps that value.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Result<(), T> {
        match canonical(prefix) {
            IpNet::V4(net) => {
                insert(&mut self.v4, net.prefix_len(), net.netmask().to_bits(), net.addr().to_bits(), value)
            }
            IpNet::V6(net) => {
                insert(&mut self.v6, net.prefix_len(), net.netmask().to_bits(), net.addr().to_bits(), value)
            }
        }
    }

    /// Returns the value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: IpNet) -> Option<T> {
        match canonical(prefix) {
            IpNet::V4(net) => get(&self.v4, net.prefix_len(), &net.addr().to_bits()),
            IpNet::V6(net) => get(&self.v6, net.prefix_len(), &net.addr().to_bits()),
        }
    }

    /// Removes exactly this prefix.
    pub fn remove(&mut self, prefix: IpNet) {
        match canonical(prefix) {
            IpNet::V4(net) => remove(&mut self.v4, net.prefix_len(), &net.addr().to_bits()),
            IpNet::V6(net) => remove(&mut self.v6, net.prefix_len(), &net.addr().to_bits()),
        }
    }

    /// Returns the value of the longest prefix that holds `address`.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        // A socket on `[::]` shows its IPv4 clients as IPv4-mapped addresses.
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                self.v4.iter().find_map(|table| table.values.get(&(bits & table.mask)).copied())
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.v6.iter().find_map(|table| table.values.get(&(bits & table.mask)).copied())
            }
        }
    }
}

/// Returns the prefix as it is indexed: host bits cleared, prefixes of IPv4-mapped addresses as IPv4.
#[must_use]
pub fn canonical(prefix: IpNet) -> IpNet {
    if let IpNet::V6(net) = prefix
        && let Some(address) = net.addr().to_ipv4_mapped()
        && let Some(length) = net.prefix_len().checked_sub(96)
        && let Ok(mapped) = IpNet::new(IpAddr::V4(address), length)
    {
        return mapped.trunc();
    }
    prefix.trunc()
}

/// Adds a prefix to the table of its length.
fn insert<A, T: Copy>(tables: &mut Vec<PrefixTable<A, T>>, length: u8, mask: A, address: A, value: T) -> Result<(), T>
where
    A: Copy + Eq + Hash + std::ops::BitAnd<Output = A>,
{
    // In descending order, so that the first table with a value has the longest prefix.
    let at = tables.binary_search_by(|table| length.cmp(&table.length)).unwrap_or_else(|at| {
        tables.insert(at, PrefixTable { length, mask, values: HashMap::default() });
        at
    });
    match tables[at].values.entry(address & mask) {
        Entry::Occupied(occupied) => Err(*occupied.get()),
        Entry::Vacant(vacant) => {
            vacant.insert(value);
            Ok(())
        }
    }
}

/// Returns the value of an address in the table of a length.
fn get<A: Eq + Hash, T: Copy>(tables: &[PrefixTable<A, T>], length: u8, address: &A) -> Option<T> {
    let at = tables.binary_search_by(|table| length.cmp(&table.length)).ok()?;
    tables[at].values.get(address).copied()
}

/// Removes an address from the table of a length, and the table if that was its last address: a look-up pays for each
/// table.
fn remove<A: Eq + Hash, T>(tables: &mut Vec<PrefixTable<A, T>>, length: u8, address: &A) {
    let Ok(at) = tables.binary_search_by(|table| length.cmp(&table.length)) else { return };
    tables[at].values.remove(address);
    if tables[at].values.is_empty() {
        tables.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_mapped_addresses_are_ipv4() {
        let mut index = ClientIndex::new();
        for (value, prefix) in ["192.0.2.0/24", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "::ffff:198.51.100.0/120"]
            .into_iter()
            .enumerate()
        {
            assert_eq!(index.insert(prefix.parse().unwrap(), value), Ok(()), "{prefix}");
        }
        assert_eq!(index.insert("192.0.2.9/24".parse().unwrap(), 9), Err(0));
        let cases = [
            ("192.0.2.7", Some(1)),
            ("192.0.2.8", Some(0)),
            ("::ffff:192.0.2.7", Some(1)),
            ("198.51.100.1", Some(4)),
            ("203.0.113.1", Some(2)),
            ("2001:db8::1", Some(3)),
            ("2001:db9::1", None),
            ("::1", None),
        ];
        for (address, expected) in &cases {
            assert_eq!(index.lookup(address.parse().unwrap()), *expected, "{address}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_index_agrees_with_a_naive_loop(
            prefixes in prop::collection::vec((any::<bool>(), 0_u128..1 << 12, 0_u8..=128), 0..40),
            addresses in prop::collection::vec((any::<bool>(), 0_u128..1 << 12), 1..40),
            removed in 0..20_usize,
        ) {
            // Few bits at both ends of the address, so that prefixes hold one another.
            let spread = |bits: u128| bits << 116 | bits & 0xff;
            let address = |v4: bool, bits: u128| if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(spread(bits) >> 96).unwrap() | u32::try_from(bits & 0xff).unwrap()))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(spread(bits)))
            };
            let mut index = ClientIndex::new();
            let mut naive: Vec<(IpNet, usize)> = Vec::new();
            for (value, (v4, bits, length)) in prefixes.into_iter().enumerate() {
                let net = IpNet::new(address(v4, bits), if v4 { length / 4 } else { length }).unwrap().trunc();
                let before = naive.iter().find(|(other, _)| *other == net).map(|(_, value)| *value);
                prop_assert_eq!(index.insert(net, value), before.map_or(Ok(()), Err));
                if before.is_none() {
                    naive.push((net, value));
                }
            }
            for (net, value) in naive.drain(..removed.min(naive.len())) {
                prop_assert_eq!(index.get(net), Some(value));
                index.remove(net);
                prop_assert_eq!(index.get(net), None);
            }
            for (v4, bits) in addresses {
                let address = address(v4, bits);
                let best = naive.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
                prop_assert_eq!(index.lookup(address), best.map(|(_, value)| *value));
            }
        }
    }
}
