//! The fast path for the usual line of a list: one hostname or wildcard in ASCII and nothing else. It takes a single
//! walk over the octets; all other lines are left to [`crate::policy::matching::pattern::Pattern::parse`].

use crate::dns::name::{MAX_LABEL, MAX_NAME};

use crate::policy::matching::pattern_kind::PatternKind;

/// The result of parsing a usual line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastLine {
    pub(crate) kind: PatternKind,
    /// The length of the wire name in octets.
    pub(crate) length: usize,
    /// The length of the line in octets, line end included.
    pub(crate) end: usize,
}

/// Parses the first line of `text` if it is a usual one, and writes its wire name, in lower case, to `wire`.
///
/// A pattern that is accepted here is the one that `Pattern::parse` returns, except that wildcards on public suffixes
/// are not refused here. Returns `None` for lines with other characters, spaces, a trailing dot or A-labels, and if the
/// last label does not begin with a letter, as in an IPv4 address, or ends with a hyphen.
#[inline]
pub(crate) fn read_line(text: &[u8], wire: &mut [u8; MAX_NAME]) -> Option<FastLine> {
    let (kind, mut at, longest) =
        if text.starts_with(b"*.") { (PatternKind::Below, 2, MAX_NAME - 2) } else { (PatternKind::Exact, 0, MAX_NAME) };
    let (mut label, mut end) = (0, 1);
    loop {
        // The last line may lack its line end.
        let octet = text.get(at).copied().unwrap_or(b'\n');
        let lower = LOWER[usize::from(octet)];
        if lower != 0 {
            *wire.get_mut(end)? = lower;
            (at, end) = (at + 1, end + 1);
            continue;
        }
        let length = end - label - 1;
        // A-labels have to be valid UTS-46, which only the slow path checks.
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
        // The last label of a number, an address or a command's option fails this test.
        let is_host = wire[label + 1].is_ascii_lowercase() && wire[end - 1] != b'-';
        if !is_host || end >= longest {
            return None;
        }
        wire[end] = 0;
        return Some(FastLine { kind, length: end + 1, end: (at + 1).min(text.len()) });
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

    /// The pattern kind, wire name and octets of a line.
    type Read = Option<(PatternKind, Vec<u8>, usize)>;

    /// Parses a line.
    fn read(line: &[u8]) -> Read {
        let mut wire = [0xff; MAX_NAME];
        let FastLine { kind, length, end } = read_line(line, &mut wire)?;
        Some((kind, wire[..length].to_vec(), end))
    }

    #[test]
    fn the_fast_path_takes_usual_lines_and_no_others() {
        let name = |kind, wire: &[u8], end| Some((kind, wire.to_vec(), end));
        let cases: &[(&str, Read)] = &[
            ("a.test\nb", name(PatternKind::Exact, b"\x01a\x04test\0", 7)),
            ("*.A.teST\r\nb", name(PatternKind::Below, b"\x01a\x04test\0", 10)),
            ("_x.a-b.test", name(PatternKind::Exact, b"\x02_x\x03a-b\x04test\0", 11)),
            ("-a-.b2", name(PatternKind::Exact, b"\x03-a-\x02b2\0", 6)),
            ("test\r", name(PatternKind::Exact, b"\x04test\0", 5)),
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
    fn length_limits_equal_those_of_patterns() {
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
        fn the_fast_path_agrees_with_pattern_parse(line in "(\\*\\.)?([aZ0_*-]{0,3}\\.){0,3}([a-z0-9.]{0,4}|xn--a|ü)") {
            if let Some((kind, wire, end)) = read(line.as_bytes()) {
                prop_assert_eq!(end, line.len());
                match Pattern::parse(&line) {
                    Ok(pattern) => prop_assert_eq!((kind, &wire[..]), pattern.kind_and_wire()),
                    // Wildcards on public suffixes are refused later.
                    Err(error) => prop_assert!(kind == PatternKind::Below && error.to_string().contains("public suffix")),
                }
            }
        }
    }
}
