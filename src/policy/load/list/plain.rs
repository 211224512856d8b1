//! The usual line of a list: one hostname or wildcard in ASCII and nothing else. A list of a million of them is read
//! this way in a single walk over its octets; what is anything else is left to [`crate::policy::matching::pattern::Pattern::parse`].

use crate::dns::name::{MAX_LABEL, MAX_NAME};

use crate::policy::matching::name_set::Kind;

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    /// Whether it is a hostname or a wildcard.
    pub(crate) kind: Kind,
    /// Octets of its wire name.
    pub(crate) length: usize,
    /// Octets of the line with its end.
    pub(crate) end: usize,
}

/// Reads the first line of `text` and leaves its wire name, lower case, in `wire`, if it is a usual one.
///
/// A pattern it takes is the one that `Pattern::parse` takes, but for wildcards on public suffixes, which are not looked
/// for here. It leaves alone: other characters, spaces, a trailing dot, A-labels, and what has a last label that begins with
/// no letter, as that of an IPv4 address does, or ends with a hyphen.
#[inline]
pub(crate) fn read_line(text: &[u8], wire: &mut [u8; MAX_NAME]) -> Option<Plain> {
    let (kind, mut at, longest) =
        if text.starts_with(b"*.") { (Kind::Below, 2, MAX_NAME - 2) } else { (Kind::Exact, 0, MAX_NAME) };
    let (mut label, mut end) = (0, 1);
    loop {
        let octet = text.get(at).copied().unwrap_or(b'\n');
        let lower = LOWER[usize::from(octet)];
        if lower != 0 {
            *wire.get_mut(end)? = lower;
            (at, end) = (at + 1, end + 1);
            continue;
        }
        let length = end - label - 1;
        if length == 0 || length > MAX_LABEL || wire[label + 1..end].starts_with(b"xn--") {
            return None;
        }
        wire[label] = u8::try_from(length).ok()?;
        if octet == b'.' {
            (label, at, end) = (end, at + 1, end + 1);
            continue;
        }
        if octet == b'\r' && text.get(at + 1).is_none_or(|&next| next == b'\n') {
            at += 1;
        } else if octet != b'\n' {
            return None;
        }
        // Numbers, addresses and options begin or end otherwise.
        let is_host = wire[label + 1].is_ascii_lowercase() && wire[end - 1] != b'-';
        if !is_host || end >= longest {
            return None;
        }
        wire[end] = 0;
        return Some(Plain { kind, length: end + 1, end: (at + 1).min(text.len()) });
    }
}

/// The octets of hostnames in lower case; 0 for every other octet.
const LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut octet = 0_u8;
    while octet.is_ascii() {
        if octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_' {
            table[octet as usize] = octet.to_ascii_lowercase();
        }
        octet += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::matching::pattern::Pattern;

    /// Kind, wire name and octets of a line.
    type Read = Option<(Kind, Vec<u8>, usize)>;

    /// Reads a line.
    fn read(line: &[u8]) -> Read {
        let mut wire = [0xff; MAX_NAME];
        let Plain { kind, length, end } = read_line(line, &mut wire)?;
        Some((kind, wire[..length].to_vec(), end))
    }

    #[test]
    fn usual_lines_are_read_and_all_others_left_alone() {
        let name = |kind, wire: &[u8], end| Some((kind, wire.to_vec(), end));
        let cases: &[(&str, Read)] = &[
            ("a.test\nb", name(Kind::Exact, b"\x01a\x04test\0", 7)),
            ("*.A.teST\r\nb", name(Kind::Below, b"\x01a\x04test\0", 10)),
            ("_x.a-b.test", name(Kind::Exact, b"\x02_x\x03a-b\x04test\0", 11)),
            ("-a-.b2", name(Kind::Exact, b"\x03-a-\x02b2\0", 6)),
            ("test\r", name(Kind::Exact, b"\x04test\0", 5)),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line.as_bytes()), *expected, "{line:?}");
        }
        for line in [
            "", "\n", "*.", "*", ".", "a.", "a..b", ".a", "a b", "a #", "xn--a.b", "a.Xn--b", "1.2.3.4", "a\rb", "é",
            "*.*.a", "-", "---", "_.-", "*.-", "-n", "443", "a.443", "a.b-", "a.-b", "127.1", "*.0x1f",
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn lengths_end_where_those_of_patterns_do() {
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &"d".repeat(61)].join(".");
        for (text, is_good) in [
            (longest.clone(), true),
            (format!("{longest}d"), false),
            (format!("*.{longest}"), false),
            (format!("*.{}", &longest[2..]), true),
            (format!("a{label}.test"), false),
        ] {
            assert_eq!(read(text.as_bytes()).is_some(), is_good, "{text}");
            assert_eq!(Pattern::parse(&text).is_ok(), is_good, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_read_is_what_the_pattern_is(line in "(\\*\\.)?([aZ0_*-]{0,3}\\.){0,3}([a-z0-9.]{0,4}|xn--a|ü)") {
            if let Some((kind, wire, end)) = read(line.as_bytes()) {
                prop_assert_eq!(end, line.len());
                match Pattern::parse(&line) {
                    Ok(pattern) => prop_assert_eq!((kind, &wire[..]), Kind::of(&pattern)),
                    // Wildcards on public suffixes are refused later.
                    Err(error) => prop_assert!(kind == Kind::Below && error.to_string().contains("public suffix")),
                }
            }
        }
    }
}
