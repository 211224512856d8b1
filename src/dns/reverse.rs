//! Addresses as names: the two trees that PTR records stand in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::LowerName;

/// Returns the address that a name of `in-addr.arpa` (RFC 1035 §3.5) or `ip6.arpa` (RFC 3596 §2.5) stands for, if it
/// stands for exactly one.
#[must_use]
pub fn address(name: &LowerName) -> Option<IpAddr> {
    let mut octets = [0; 4];
    if fill(&mut octets, name, b"\x07in-addr\x04arpa\0", octet) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let mut nibbles = [0; 32];
    if fill(&mut nibbles, name, b"\x03ip6\x04arpa\0", nibble) {
        let bits = nibbles.iter().fold(0, |bits, &nibble| bits << 4 | u128::from(nibble));
        return Some(Ipv6Addr::from_bits(bits).into());
    }
    None
}

/// Reads a label of `name` into each of `parts`, the first one into the last; returns whether they can be read and `tree` is
/// what stands behind them.
fn fill(parts: &mut [u8], name: &LowerName, tree: &[u8], read: fn(&[u8]) -> Option<u8>) -> bool {
    // The cheap look first; the end of the wire form may also lie within one longer label.
    if !name.as_wire().ends_with(tree) || name.suffixes().nth(parts.len()) != Some(tree) {
        return false;
    }
    parts.iter_mut().rev().zip(name.labels()).all(|(part, label)| read(label).map(|value| *part = value).is_some())
}

/// Reads a decimal number up to 255, without leading zeros: there is one name for each address.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// Reads one hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    let &[digit] = label else { return None };
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_an_address_only_when_it_is_that_ones_only_name() {
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
        fn every_address_comes_back(v4 in any::<u32>(), v6 in any::<u128>()) {
            let address_of = |text: String| address(&LowerName::from_text(&text).unwrap());
            let [a, b, c, d] = v4.to_be_bytes();
            prop_assert_eq!(address_of(format!("{d}.{c}.{b}.{a}.in-addr.arpa")), Some(Ipv4Addr::from(v4).into()));
            let digits: Vec<_> = format!("{v6:032x}").chars().rev().map(String::from).collect();
            prop_assert_eq!(address_of(digits.join(".") + ".ip6.arpa"), Some(Ipv6Addr::from(v6).into()));
        }
    }
}
