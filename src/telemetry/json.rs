//! A JSON writer for lines that are written for every query: the output of serde at a fraction of its cost. When
//! records were queued one by one and written with serde, a query cost 1.6 to 1.7 times as much with the decision log
//! on as without (2026-11-24).
//!
//! Each function appends one value to a buffer. Tests compare the output with that of serde and `Display`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dns::name::{self, Suffixes};

/// Appends a string with its quotation marks.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Appends a string with its quotation marks, or `null`.
pub(crate) fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends the content of a string, escaped (RFC 8259 §7).
pub(crate) fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    if is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    for &octet in bytes {
        match octet {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..0x20 => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let [high, low] = [octet >> 4, octet & 0xf].map(|digit| DIGITS[usize::from(digit)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            octet => out.push(octet),
        }
    }
}

/// Appends the presentation form of a wire name as [`name::DisplayWire`] writes it, escaped for a JSON string.
pub(crate) fn wire_name(out: &mut Vec<u8>, wire: &[u8]) {
    let start = out.len();
    let inside = wire.get(1..wire.len().saturating_sub(1)).unwrap_or_default();
    if inside.is_empty() {
        return out.push(b'.');
    }
    // All labels are copied at once, and the length octets are overwritten by dots. That is the result, unless an octet
    // needs an escape, as in few names.
    out.extend_from_slice(inside);
    let mut is_plain = true;
    let mut at = start;
    for suffix in Suffixes::of(wire) {
        let label = &suffix[1..=usize::from(suffix[0])];
        is_plain &= label.iter().fold(true, |plain, &octet| plain & name::needs_no_escape(octet));
        at += label.len();
        if let Some(octet) = out.get_mut(at) {
            *octet = b'.';
        }
        at += 1;
    }
    if is_plain {
        return;
    }
    out.truncate(start);
    for (index, suffix) in Suffixes::of(wire).enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        for &octet in &suffix[1..=usize::from(suffix[0])] {
            if name::needs_no_escape(octet) {
                out.push(octet);
            } else {
                let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
                // The backslash of the presentation form has to be escaped in JSON.
                out.extend_from_slice(&[b'\\', b'\\', digits[0], digits[1], digits[2]]);
            }
        }
    }
}

/// Appends a number in decimal.
pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    /// The number of digits of `u64::MAX`.
    const MOST: usize = 20;
    let mut digits = [0; MOST];
    let mut at = MOST;
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = digit(rest % 10);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address as [`IpAddr`] displays it (RFC 5952), without quotation marks.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => address_v4(out, address),
        IpAddr::V6(address) => address_v6(out, address),
    }
}

/// Appends an address and port as [`SocketAddr`] displays it, without quotation marks.
pub(crate) fn socket(out: &mut Vec<u8>, socket: SocketAddr) {
    match socket {
        SocketAddr::V4(socket) => address_v4(out, *socket.ip()),
        SocketAddr::V6(socket) => {
            out.push(b'[');
            address_v6(out, *socket.ip());
            if socket.scope_id() != 0 {
                out.push(b'%');
                number(out, socket.scope_id().into());
            }
            out.push(b']');
        }
    }
    out.push(b':');
    number(out, socket.port().into());
}

/// Appends four decimal octets separated by dots.
fn address_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    // The longest text is `255.255.255.255`.
    let mut text = [b'.'; 15];
    let mut at = 0;
    for octet in address.octets() {
        if octet >= 100 {
            text[at] = b'0' + octet / 100;
            at += 1;
        }
        if octet >= 10 {
            text[at] = b'0' + octet / 10 % 10;
            at += 1;
        }
        text[at] = b'0' + octet % 10;
        // The octet after the digits is a dot already.
        at += 2;
    }
    out.extend_from_slice(&text[..at - 1]);
}

/// Appends an IPv6 address with its longest run of zero groups left out (RFC 5952 §4.2).
fn address_v6(out: &mut Vec<u8>, address: Ipv6Addr) {
    // IPv4-mapped addresses end in dotted decimal (RFC 5952 §5).
    if let Some(mapped) = address.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return address_v4(out, mapped);
    }
    let groups = address.segments();
    let mut longest = 0..0;
    let mut start = 0;
    for (index, group) in groups.iter().enumerate() {
        if *group != 0 {
            start = index + 1;
        } else if index + 1 - start > longest.len() {
            longest = start..index + 1;
        }
    }
    // A single zero group is not left out (RFC 5952 §4.2.2).
    if longest.len() < 2 {
        return colons(out, &groups);
    }
    colons(out, &groups[..longest.start]);
    out.extend_from_slice(b"::");
    colons(out, &groups[longest.end..]);
}

/// Appends groups in hexadecimal, separated by colons.
fn colons(out: &mut Vec<u8>, groups: &[u16]) {
    for (index, group) in groups.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        let zeros = (group.leading_zeros() / 4).min(3);
        for place in (0..4 - zeros).rev() {
            let digit = u8::try_from(group >> (4 * place) & 0xf).unwrap_or_default();
            out.push(if digit < 10 { b'0' + digit } else { b'a' - 10 + digit });
        }
    }
}

/// Returns the character of a decimal digit.
fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value).unwrap_or_default()
}

/// Returns whether a text needs no escape. It checks eight octets at a time, as texts are short and rarely need one.
fn is_plain(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let tail = match bytes.last_chunk::<8>() {
        // The last chunk overlaps the one before, which is cheaper than a loop over the rest.
        Some(last) => has_escape(u64::from_ne_bytes(*last)),
        None => rest.iter().any(|&octet| octet < 0x20 || octet == b'"' || octet == b'\\'),
    };
    !tail && !chunks.iter().any(|chunk| has_escape(u64::from_ne_bytes(*chunk)))
}

/// Returns whether one of eight octets is a control character, a quotation mark or a backslash.
const fn has_escape(octets: u64) -> bool {
    /// The value with 1 in each octet.
    const ONES: u64 = u64::MAX / 0xff;
    // Subtracting 0x20 from each octet sets the high bit of those that are smaller; `& !octets` leaves out octets whose
    // high bit was set before. The same with 1 finds zero octets, to which XOR turns the other two characters. A borrow
    // from the next octet starts at an octet that is found itself, so the result is never wrong.
    let control = octets.wrapping_sub(ONES * 0x20) & !octets;
    let quote = octets ^ (ONES * b'"' as u64);
    let backslash = octets ^ (ONES * b'\\' as u64);
    let special = control | quote.wrapping_sub(ONES) & !quote | backslash.wrapping_sub(ONES) & !backslash;
    special & (ONES * 0x80) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::name::DisplayWire;

    /// Returns what a function appends.
    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_equal_those_of_serde_for_every_octet_and_position() {
        for octet in 0..=0x7f_u8 {
            for length in 0..20 {
                let text = format!("{}{}{}", "a".repeat(length), char::from(octet), "b".repeat(length % 9));
                let expected = serde_json::to_string(&text).unwrap();
                assert_eq!(written(|out| string(out, &text)), expected);
            }
        }
    }

    #[test]
    fn names_are_escaped_as_displayed_for_every_octet() {
        for octet in 0..=0xff {
            let wire = [3, b'a', octet, b'b', 2, b'c', b'd', 0];
            let expected = serde_json::to_string(&DisplayWire(&wire).to_string()).unwrap();
            assert_eq!(written(|out| wire_name(out, &wire)), expected.trim_matches('"'));
        }
        assert_eq!(written(|out| wire_name(out, &[0])), ".");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn strings_and_numbers_are_what_serde_writes(text in ".{0,40}", value in any::<u64>(), bits in 0..64_u32) {
            prop_assert_eq!(written(|out| string(out, &text)), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(written(|out| optional(out, Some(&text))), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(written(|out| number(out, value >> bits)), (value >> bits).to_string());
        }

        #[test]
        fn addresses_are_what_display_writes(
            groups in prop::array::uniform8(prop_oneof![Just(0), 0..0x20_u16, any::<u16>()]),
            low in any::<u32>(), port in any::<u16>(), scope in 0..3_u32,
        ) {
            let v6 = Ipv6Addr::from(groups);
            let v4 = Ipv4Addr::from(low >> (low % 32));
            for ip in [v4.into(), v6.into(), v4.to_ipv6_mapped().into()] {
                prop_assert_eq!(written(|out| address(out, ip)), ip.to_string());
                let mut both = SocketAddr::new(ip, port);
                if let SocketAddr::V6(both) = &mut both {
                    both.set_scope_id(scope);
                }
                prop_assert_eq!(written(|out| socket(out, both)), both.to_string());
            }
        }
    }
}
