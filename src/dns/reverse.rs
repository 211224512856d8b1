//! Reverse names: addresses as names of `in-addr.arpa` and `ip6.arpa`, and the reverse zones that each network serves
//! itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::LowerName;

/// Returns the address of a name of `in-addr.arpa` (RFC 1035 §3.5) or `ip6.arpa` (RFC 3596 §2.5). Returns `None` if the
/// name is not the reverse name of exactly one address.
#[must_use]
pub fn address(name: &LowerName) -> Option<IpAddr> {
    let mut octets = [0; 4];
    if fill(&mut octets, name, IPV4_TREE, octet) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let mut nibbles = [0; 32];
    if fill(&mut nibbles, name, IPV6_TREE, nibble) {
        let bits = nibbles.iter().fold(0, |bits, &nibble| bits << 4 | u128::from(nibble));
        return Some(Ipv6Addr::from_bits(bits).into());
    }
    None
}

/// Returns the locally served reverse zone, in wire format, that a name is at or below: those of RFC 6303 §4 and, as
/// IANA's registry lists them too, of RFC 7793 §3. Their addresses are private or special, so queries must not leak to
/// the Internet.
#[must_use]
pub fn local_zone(name: &LowerName) -> Option<&[u8]> {
    let labels = name.suffixes().count();
    // Decodes the labels before the tree, topmost first, up to the first one that is not a number.
    let parts = |tree: &[u8], of_tree: usize, read: fn(&[u8]) -> Option<u8>, most: usize| {
        if !name.as_wire().ends_with(tree) || name.suffixes().nth(labels.checked_sub(of_tree)?) != Some(tree) {
            return None;
        }
        let mut parts = [0; 32];
        let (mut count, below) = (0, labels - of_tree);
        for (part, depth) in parts.iter_mut().zip(1..=below.min(most)) {
            let Some(value) = name.labels().nth(below - depth).and_then(read) else { break };
            *part = value;
            count += 1;
        }
        Some((parts, count))
    };
    let depth = if let Some((octets, count)) = parts(IPV4_TREE, 2, octet, 4) {
        // Private, shared and loopback addresses, link-local, documentation, broadcast (RFC 6303 §4.1 and §4.2, RFC
        // 7793).
        match octets[..count] {
            [0 | 10 | 127, ..] => 1,
            [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => 2,
            [192, 0, 2, ..] | [198, 51, 100, ..] | [203, 0, 113, ..] => 3,
            [255, 255, 255, 255] => 4,
            _ => return None,
        }
    } else {
        let (nibbles, count) = parts(IPV6_TREE, 2, nibble, 32)?;
        // Unique local, link-local and documentation addresses, then `::` and `::1` (RFC 6303 §4.3 to §4.6).
        match nibbles[..count] {
            [0xf, 0xd, ..] => 2,
            [0xf, 0xe, 0x8..=0xb, ..] => 3,
            [2, 0, 0, 1, 0, 0xd, 0xb, 8, ..] => 8,
            [.., 0 | 1] if count == 32 && nibbles[..31] == [0; 31] => 32,
            _ => return None,
        }
    };
    name.suffixes().nth(labels - 2 - depth)
}

/// The tree of IPv4 addresses (RFC 1035 §3.5), in wire format.
const IPV4_TREE: &[u8] = b"\x07in-addr\x04arpa\0";
/// The tree of IPv6 addresses (RFC 3596 §2.5), in wire format.
const IPV6_TREE: &[u8] = b"\x03ip6\x04arpa\0";

/// Decodes the labels of `name` into `parts`, the leftmost label last. Returns whether all could be decoded and are
/// followed by exactly `tree`.
fn fill(parts: &mut [u8], name: &LowerName, tree: &[u8], read: fn(&[u8]) -> Option<u8>) -> bool {
    // Comparing octets is cheap and decides nearly always; the second check is for a longer label that ends in the same
    // octets.
    if !name.as_wire().ends_with(tree) || name.suffixes().nth(parts.len()) != Some(tree) {
        return false;
    }
    parts.iter_mut().rev().zip(name.labels()).all(|(part, label)| read(label).map(|value| *part = value).is_some())
}

/// Decodes a decimal number up to 255. Leading zeros are rejected, so that each address has one name.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// Decodes a label of one hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    let &[digit] = label else { return None };
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_reverse_name_is_read_as_an_address() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("7.0.1.10.in-addr.arpa", Some("10.1.0.7")),
            ("255.2.0.192.IN-ADDR.ARPA", Some("192.0.2.255")),
            ("0.1.10.in-addr.arpa", None),
            ("1.7.0.1.10.in-addr.arpa", None),
            ("07.0.1.10.in-addr.arpa", None),
            ("+7.0.1.10.in-addr.arpa", None),
            ("256.0.1.10.in-addr.arpa", None),
            ("7.0.1.10.in-addr.arpa.test", None),
            (r"7.0.1.10.x\007in-addr.arpa", None),
            ("7.0.1.x.in-addr.arpa", None),
            ("in-addr.arpa", None),
            ("8.b.d.0.1.0.0.2.ip6.arpa", None),
            ("arpa", None),
            (".", None),
        ];
        for (name, expected) in CASES {
            let read = address(&LowerName::from_text(name).unwrap());
            assert_eq!(read, expected.map(|text| text.parse().unwrap()), "{name}");
        }
        let reverse = "7.".to_owned() + &"0.".repeat(23) + "8.B.d.0.1.0.0.2.ip6.arpa";
        let read = |text: &str| address(&LowerName::from_text(text).unwrap());
        assert_eq!(read(&reverse), Some("2001:db8::7".parse().unwrap()));
        assert_eq!(read(&reverse.replacen('7', "g", 1)), None);
        assert_eq!(read(&reverse.replacen('7', "07", 1)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn reverse_names_round_trip_for_every_address(v4 in any::<u32>(), v6 in any::<u128>()) {
            let address_of = |text: String| address(&LowerName::from_text(&text).unwrap());
            let [a, b, c, d] = v4.to_be_bytes();
            prop_assert_eq!(address_of(format!("{d}.{c}.{b}.{a}.in-addr.arpa")), Some(Ipv4Addr::from(v4).into()));
            let digits: Vec<_> = format!("{v6:032x}").chars().rev().map(String::from).collect();
            prop_assert_eq!(address_of(digits.join(".") + ".ip6.arpa"), Some(Ipv6Addr::from(v6).into()));
        }
    }
}
