//! The check whether an address belongs to this machine, so that packets to it arrive here.
//!
//! Binding a socket to the address tells. The source address that the kernel would choose for a packet to it does not: for
//! a second address of an interface in the same network, it chooses the first one.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// An address of the last network of IPv4, which is reserved and no interface has (RFC 1112 §4).
const NOBODYS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(255, 255, 255, 254));
/// An address of the discard-only prefix, which no interface has (RFC 6666).
const NOBODYS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));

/// Returns whether packets to `ip` arrive at this machine; `None` if the system does not say, as without a free file
/// descriptor, or for a link-local address, which needs an interface.
pub(crate) fn is_local(ip: IpAddr) -> Option<bool> {
    if ip.is_loopback() {
        return Some(true);
    }
    let nobodys = if ip.is_ipv4() { NOBODYS_V4 } else { NOBODYS_V6 };
    match can_bind(ip) {
        // With net.ipv4.ip_nonlocal_bind any address can be bound, so that this says nothing.
        Some(true) if can_bind(nobodys) != Some(false) => has_route(ip),
        known => known,
    }
}

/// Returns whether a socket can be bound to an address. No packet is sent.
fn can_bind(ip: IpAddr) -> Option<bool> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Some(true),
        Err(error) => match error.kind() {
            ErrorKind::AddrNotAvailable => Some(false),
            // The address is looked at first, then the port.
            ErrorKind::AddrInUse => Some(true),
            _ => None,
        },
    }
}

/// Returns whether the kernel has a route by which packets to an address arrive here. The tables of routes are read below
/// `/proc/self`, which is visible even if the rest of `/proc` is hidden, as in a unit with `ProcSubset=pid`.
fn has_route(ip: IpAddr) -> Option<bool> {
    match ip {
        IpAddr::V4(v4) => fs::read_to_string("/proc/self/net/fib_trie").ok().map(|routes| is_among_v4(v4, &routes)),
        IpAddr::V6(v6) => fs::read_to_string("/proc/self/net/ipv6_route").ok().map(|routes| is_among_v6(v6, &routes)),
    }
}

/// Returns whether the text of `fib_trie` has a local route for an address: a line `|-- ADDRESS`, and below it, for each of its
/// routes, a line `/LENGTH SCOPE TYPE`.
fn is_among_v4(ip: Ipv4Addr, routes: &str) -> bool {
    let mut network = None;
    routes.lines().any(|line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            network = address.parse::<Ipv4Addr>().ok();
        }
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let ([length, _, "LOCAL", ..], Some(network)) = (words.as_slice(), network) else { return false };
        let length = length.strip_prefix('/').and_then(|length| length.parse::<u32>().ok());
        length.is_some_and(|length| {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            u32::from(ip) & mask == u32::from(network) & mask
        })
    })
}

/// Returns whether the text of `ipv6_route` has a local route for an address: in hexadecimal, the first column is the network,
/// the second its length, the ninth the flags.
fn is_among_v6(ip: Ipv6Addr, routes: &str) -> bool {
    /// The flag of routes to this machine (`RTF_LOCAL` of `linux/ipv6_route.h`).
    const LOCAL: u32 = 0x8000_0000;
    routes.lines().any(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [network, length, _, _, _, _, _, _, flags, ..] = words.as_slice() else { return false };
        let network = u128::from_str_radix(network, 16).ok();
        let length = u32::from_str_radix(length, 16).ok();
        let is_here = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LOCAL != 0);
        let (Some(network), Some(length), true) = (network, length, is_here) else { return false };
        let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
        u128::from(ip) & mask == network & mask
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_known() {
        for (ip, is_here) in [
            ("127.0.0.1", Some(true)),
            ("127.0.0.53", Some(true)),
            ("192.0.2.1", Some(false)),
            ("2001:db8::1", Some(false)),
            ("fe80::1", None),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let is_known = is_local(ip);
            // Without IPv6 nothing can be said about its addresses.
            assert!(is_known == is_here || ip.is_ipv6() && is_known.is_none(), "{ip}: {is_known:?}");
        }
        assert_eq!(has_route("127.0.0.53".parse().unwrap()), Some(true));
        assert_eq!(has_route("192.0.2.1".parse().unwrap()), Some(false));
    }

    #[test]
    fn local_routes_are_found_in_the_tables_of_the_kernel() {
        let v4 = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                  Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 10.60.0.0/24 2 0 2\n        |-- 10.60.0.0\n           /24 link UNICAST\n\
                  \u{20}       |-- 10.60.0.3\n           /32 host LOCAL\n        |-- 10.60.0.255\n           /32 link BROADCAST\n\
                  \u{20}    |-- 198.51.100.0\n        /24 host LOCAL\n        /32 link UNICAST\n";
        for (ip, is_here) in [
            ("10.60.0.3", true),
            ("10.60.0.1", false),
            ("10.60.0.255", false),
            ("198.51.100.7", true),
            ("198.51.101.7", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_among_v4(ip.parse().unwrap(), v4), is_here, "{ip}");
        }
        let route = |network: &str, length: &str, flags: &str, device: &str| {
            let zero = "00000000000000000000000000000000";
            format!("{network} {length} {zero} 00 {zero} 00000000 00000001 00000000 {flags} {device}\n")
        };
        let v6 = [
            route("20010db8000000000000000000000003", "80", "80200001", "v0"),
            route("20010db8000000000000000000000000", "40", "00000001", "v0"),
            route("20010db8000100000000000000000000", "30", "80200001", "lo"),
            route("00000000000000000000000000000000", "00", "00200200", "lo"),
        ]
        .concat();
        for (ip, is_here) in
            [("2001:db8::3", true), ("2001:db8::4", false), ("2001:db8:1::9", true), ("2001:db8:2::9", false)]
        {
            assert_eq!(is_among_v6(ip.parse().unwrap(), &v6), is_here, "{ip}");
        }
    }
}
