//! The DNS rebinding filter's view of addresses: whether an address is globally reachable, so that a public name may
//! resolve to it.
//!
//! The tables follow the IANA special-purpose address registries (RFC 6890 and its updates) as of 2025, plus multicast
//! and a few ranges that lead to the host, its network or its cloud provider. An IPv6 address that embeds an IPv4
//! address is as reachable as the embedded one, because a translator or tunnel on the path would deliver to that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Global reachability as seen from one network: the registries' ranges plus the NAT64 prefixes of the operator, which
/// embed IPv4 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Network-specific NAT64 prefixes (RFC 6052 §2.2).
    nat64: [Option<Nat64>; Self::MOST],
}

/// A NAT64 prefix (RFC 6052 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Nat64 {
    /// The prefix; bits after its length are zero.
    bits: u128,
    /// The prefix length: 32, 40, 48, 56, 64 or 96.
    length: u8,
}

impl Reach {
    /// The limit of NAT64 prefixes; a network normally has one.
    pub const MOST: usize = 4;

    /// Adds a NAT64 prefix. Returns `None` if RFC 6052 §2.2 does not define the length, if a bit after the length is
    /// set, or if there are [`Reach::MOST`] prefixes already.
    #[must_use]
    pub fn with_nat64(mut self, prefix: Ipv6Addr, length: u8) -> Option<Self> {
        let bits = prefix.to_bits();
        if places(length).is_none() || bits << length != 0 {
            return None;
        }
        *self.nat64.iter_mut().find(|one| one.is_none())? = Some(Nat64 { bits, length });
        Some(self)
    }

    /// Returns whether `address` is globally reachable, and so is the IPv4 address it embeds, if any.
    #[must_use]
    pub fn is_global(&self, address: IpAddr) -> bool {
        let IpAddr::V6(v6) = address else { return is_globally_reachable(address) };
        let mut carried = self.nat64.iter().flatten().filter_map(|one| one.carried(v6));
        carried.all(is_global_v4) && is_globally_reachable(address)
    }
}

impl Nat64 {
    /// Returns the IPv4 address that `address` embeds if it is below the prefix.
    fn carried(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let is_below = (address.to_bits() ^ self.bits) >> (128 - u32::from(self.length)) == 0;
        let octets = address.octets();
        places(self.length).filter(|_| is_below).map(|places| Ipv4Addr::from(places.map(|place| octets[place])))
    }
}

/// Returns the positions of the embedded IPv4 address's octets below a NAT64 prefix of this length (RFC 6052 §2.2).
/// Bits 64 to 71 are reserved, so octet 8 is skipped.
const fn places(length: u8) -> Option<[usize; 4]> {
    match length {
        32 => Some([4, 5, 6, 7]),
        40 => Some([5, 6, 7, 9]),
        48 => Some([6, 7, 9, 10]),
        56 => Some([7, 9, 10, 11]),
        64 => Some([9, 10, 11, 12]),
        96 => Some([12, 13, 14, 15]),
        _ => None,
    }
}

/// Returns whether `address` is globally reachable, without knowledge of any network-specific prefix.
#[must_use]
pub fn is_globally_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    if !PRIVATE_FIRST_OCTET[usize::from(address.octets()[0])] {
        return true;
    }
    // 192.0.0.9 (PCP anycast, RFC 7723) and 192.0.0.10 (TURN anycast, RFC 8155) are global inside 192.0.0.0/24.
    matches!(address.octets(), [192, 0, 0, 9 | 10])
        || !PRIVATE_V4.iter().any(|(first, length)| (first.to_bits() ^ bits) >> (32 - length) == 0)
}

/// Returns whether an IPv6 address is globally reachable, and so is the IPv4 address it embeds, if any.
fn is_global_v6(address: Ipv6Addr) -> bool {
    let v4 = |high: u16, low: u16| is_global_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    // ISATAP (RFC 5214 §6.1): an interface identifier below any prefix, its universal bit set or not.
    if let [_, _, _, _, 0 | 0x200, 0x5efe, high, low] = address.segments()
        && !v4(high, low)
    {
        return false;
    }
    match address.segments() {
        // ::/96 is IPv4-compatible (RFC 4291 §2.5.5.1), ::ffff:0:0/96 IPv4-mapped (§2.5.5.2), ::ffff:0:0:0/96
        // IPv4-translated (RFC 2765 §2.1), 64:ff9b::/96 NAT64's well-known prefix (RFC 6052 §2.1). The unspecified and
        // the loopback address read as 0.0.0.0 and 0.0.0.1, which are not global either.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056 §2).
        | [0x2002, high, low, ..] => v4(high, low),
        [0x64, 0xff9b, 1, ..] => is_global_local_nat64(address),
        // Teredo (RFC 4380 §4): the server, and the client with its bits inverted.
        [0x2001, 0, high, low, _, _, client_high, client_low] => v4(high, low) && v4(!client_high, !client_low),
        _ => is_global_native_v6(address),
    }
}

/// Returns whether an address of NAT64's local-use prefix `64:ff9b:1::/48` (RFC 8215) embeds only globally reachable
/// addresses.
///
/// The position of the embedded address depends on the prefix length that the network chose (RFC 6052 §2.2: 48, 56, 64
/// or 96), which is unknown here, and a translator ignores the remaining bits. So every possible position must hold a
/// reachable address, or one of 0.0.0.0/8, as unused positions do and which no translator forwards.
fn is_global_local_nat64(address: Ipv6Addr) -> bool {
    let octets = address.octets();
    let mut any = false;
    for places in [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]] {
        let carried = Ipv4Addr::from(places.map(|place: usize| octets[place]));
        if carried.octets()[0] != 0 {
            if !is_global_v4(carried) {
                return false;
            }
            any = true;
        }
    }
    any
}

/// Returns whether an IPv6 address that embeds no IPv4 address is globally reachable.
fn is_global_native_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let holds = |(first, length): &(Ipv6Addr, u32)| (first.to_bits() ^ bits) >> (128 - length) == 0;
    // Unicast addresses are assigned from 2000::/3 alone (RFC 4291 §2.4 and IANA's registry); the rest is loopback,
    // link-local, site-local, unique local, multicast, discard-only, segment routing, or reserved.
    bits >> 125 == 1 && (GLOBAL_V6.iter().any(holds) || !PRIVATE_V6.iter().any(holds))
}

/// The IPv4 prefixes that are not globally reachable.
const PRIVATE_V4: &[(Ipv4Addr, u32)] = &[
    // "This network" (RFC 791 §3.2); many systems take 0.0.0.0 for themselves.
    (Ipv4Addr::UNSPECIFIED, 8),
    // Private use (RFC 1918).
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Shared address space behind carrier NAT (RFC 6598).
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    // Loopback (RFC 1122 §3.2.1.3).
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Link-local (RFC 3927); clouds keep their metadata and credentials there.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Azure's platform services, reachable from every machine there.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // IETF protocol assignments (RFC 6890 §2.1).
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    // Documentation (RFC 5737).
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Anycast of 6to4 relays, deprecated (RFC 7526).
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    // Benchmarking (RFC 2544).
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast (RFC 5771).
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    // Reserved (RFC 1112 §4), limited broadcast (RFC 919) included.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// A table of the first octets that a prefix of [`PRIVATE_V4`] covers, so that most addresses skip the search.
const PRIVATE_FIRST_OCTET: [bool; 256] = {
    let mut first_octets = [false; 256];
    let mut index = 0;
    while index < PRIVATE_V4.len() {
        let (first, length) = PRIVATE_V4[index];
        let first = first.octets()[0] as usize;
        // A prefix shorter than eight bits covers several octets.
        let count = if length < 8 { 1 << (8 - length) } else { 1 };
        let mut octet = first;
        while octet < first + count {
            first_octets[octet] = true;
            octet += 1;
        }
        index += 1;
    }
    first_octets
};

/// The prefixes within `2000::/3` that are not globally reachable.
const PRIVATE_V6: &[(Ipv6Addr, u32)] = &[
    // IETF protocol assignments (RFC 2928): benchmarking (RFC 5180) and ORCHID (RFC 4843) among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation (RFC 3849, RFC 9637).
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// The prefixes of [`PRIVATE_V6`] that are globally reachable after all.
const GLOBAL_V6: &[(Ipv6Addr, u32)] = &[
    // Anycast of PCP (RFC 7723), TURN (RFC 8155) and the DNS-SD registration protocol (RFC 9665).
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1), 128),
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 2), 128),
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 3), 128),
    // AMT (RFC 7450).
    (Ipv6Addr::new(0x2001, 3, 0, 0, 0, 0, 0, 0), 32),
    // AS112 (RFC 7535).
    (Ipv6Addr::new(0x2001, 4, 0x112, 0, 0, 0, 0, 0), 48),
    // ORCHIDv2 (RFC 7343) and drone remote IDs (RFC 9374).
    (Ipv6Addr::new(0x2001, 0x20, 0, 0, 0, 0, 0, 0), 28),
    (Ipv6Addr::new(0x2001, 0x30, 0, 0, 0, 0, 0, 0), 28),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_purpose_addresses_are_not_globally_reachable() {
        const CASES: &[(&str, bool)] = &[
            ("0.0.0.0", false),
            ("0.255.255.255", false),
            ("1.0.0.0", true),
            ("9.255.255.255", true),
            ("10.0.0.0", false),
            ("10.255.255.255", false),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("126.255.255.255", true),
            ("127.0.0.1", false),
            ("128.0.0.0", true),
            ("168.63.129.15", true),
            ("168.63.129.16", false),
            ("168.63.129.17", true),
            ("169.253.255.255", true),
            ("169.254.169.254", false),
            ("169.255.0.0", true),
            ("172.15.255.255", true),
            ("172.16.0.0", false),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("192.0.0.8", false),
            ("192.0.0.9", true),
            ("192.0.0.10", true),
            ("192.0.0.170", false),
            ("192.0.1.0", true),
            ("192.0.2.1", false),
            ("192.31.196.1", true),
            ("192.52.193.1", true),
            ("192.88.99.1", false),
            ("192.167.255.255", true),
            ("192.168.0.1", false),
            ("192.169.0.0", true),
            ("192.175.48.1", true),
            ("198.17.255.255", true),
            ("198.18.0.0", false),
            ("198.19.255.255", false),
            ("198.20.0.0", true),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("239.255.255.255", false),
            ("240.0.0.0", false),
            ("255.255.255.255", false),
            ("8.8.8.8", true),
            ("::", false),
            ("::1", false),
            ("::2", false),
            ("100::1", false),
            ("100:0:0:1::1", false),
            ("1fff::1", false),
            ("2000::1", true),
            ("2001:1::1", true),
            ("2001:1::2", true),
            ("2001:1::3", true),
            ("2001:1::4", false),
            ("2001:2::1", false),
            ("2001:3::1", true),
            ("2001:4:112::1", true),
            ("2001:4:113::1", false),
            ("2001:10::1", false),
            ("2001:20::1", true),
            ("2001:2f::1", true),
            ("2001:30::1", true),
            ("2001:40::1", false),
            ("2001:1ff::1", false),
            ("2001:200::1", true),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            ("2001:4860:4860::8888", true),
            ("2606:4700::1111", true),
            ("2620:4f:8000::1", true),
            ("3fff::1", false),
            ("3fff:fff::1", false),
            ("3fff:1000::1", true),
            ("4000::1", false),
            ("5f00::1", false),
            ("fc00::1", false),
            ("fd12:3456::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ];
        check(CASES);
    }

    #[test]
    fn ipv6_address_is_as_reachable_as_the_ipv4_address_it_embeds() {
        const CASES: &[(&str, bool)] = &[
            ("::ffff:8.8.8.8", true),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::8.8.8.8", true),
            ("::10.0.0.1", false),
            ("::ffff:0:8.8.8.8", true),
            ("::ffff:0:10.0.0.1", false),
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::192.0.2.33", false),
            // Neither the well-known prefix nor the local one.
            ("64:ff9b:0:1::8.8.8.8", false),
            ("64:ff9b:2::8.8.8.8", false),
            ("2002:808:808::1", true),
            ("2002:a00:1::1", false),
            ("2002:7f00:1::", false),
            // Teredo: server 65.54.227.120, client 192.0.2.45 (RFC 4380 §5.1.1's shape) and a global one.
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", false),
            ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", true),
            ("2001:0:a00:1:8000:63bf:f7f7:f7f7", false),
            ("2001:0:4136:e378:8000:63bf:f5ff:fffe", false),
            // Local-use NAT64 by prefix length 96, 64, 56 and 48.
            ("64:ff9b:1::8.8.8.8", true),
            ("64:ff9b:1::10.0.0.1", false),
            ("64:ff9b:1:0:8:808:800:0", true),
            ("64:ff9b:1:0:a:0:100:0", false),
            ("64:ff9b:1:8:8:808::", true),
            ("64:ff9b:1:a:0:1::", false),
            ("64:ff9b:1:808:8:800::", true),
            ("64:ff9b:1:a00:0:100::", false),
            // ISATAP below a global prefix, and below 6to4's.
            ("2001:db9::5efe:10.0.0.1", false),
            ("2001:db9::200:5efe:169.254.169.254", false),
            ("2001:db9::5efe:8.8.8.8", true),
            ("2001:db8::5efe:8.8.8.8", false),
            ("2001:db9::100:5efe:10.0.0.1", true),
            ("2002:808:808::5efe:10.0.0.1", false),
            ("64:ff9b:1:808:8:800:5efe:808", true),
            // A reachable address where another prefix length has it hides nothing.
            ("64:ff9b:1:a00:0:100:808:808", false),
            ("64:ff9b:1::", false),
        ];
        check(CASES);
    }

    #[test]
    fn ipv4_addresses_below_network_specific_nat64_prefixes_are_checked() {
        // RFC 6052 §2.4's table: 192.0.2.33 below 2001:db8::/32 and the longer ones; here with private and public addresses.
        const CASES: &[(&str, u8, &str, bool)] = &[
            ("2001:dc8::", 32, "2001:dc8:a00:1::", false),
            ("2001:dc8::", 32, "2001:dc8:808:808::", true),
            ("2001:dc8:100::", 40, "2001:dc8:10a:0:1::", false),
            ("2001:dc8:122::", 48, "2001:dc8:122:a00:0:100::", false),
            ("2001:dc8:122:300::", 56, "2001:dc8:122:30a:0:1::", false),
            ("2001:dc8:122:344::", 64, "2001:dc8:122:344:a:0:100::", false),
            ("2001:dc8:122:344::", 96, "2001:dc8:122:344::10.0.0.1", false),
            ("2001:dc8:122:344::", 96, "2001:dc8:122:344::8.8.8.8", true),
            ("2001:dc8:122:344::", 96, "2001:dc8:122:345::10.0.0.1", true),
        ];
        for (prefix, length, address, expected) in CASES {
            let reach = Reach::default().with_nat64(prefix.parse().unwrap(), *length).unwrap();
            assert_eq!(reach.is_global(address.parse().unwrap()), *expected, "{prefix}/{length} {address}");
        }
        let none = Reach::default();
        assert!(none.with_nat64("2001:dc8::1".parse().unwrap(), 96).is_none(), "bits behind the prefix");
        assert!(none.with_nat64("2001:dc8::".parse().unwrap(), 33).is_none(), "no such length");
    }

    /// Asserts that each address is globally reachable or not, as its case says.
    fn check(cases: &[(&str, bool)]) {
        for (text, expected) in cases {
            assert_eq!(is_globally_reachable(text.parse().unwrap()), *expected, "{text}");
        }
    }
}
