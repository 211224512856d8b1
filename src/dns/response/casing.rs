//! DNS 0x20: random case for the letters of a QNAME sent upstream, which makes replies harder to forge
//! (draft-vixie-dnsext-dns0x20). Clients never see this case.

use std::borrow::Cow;

use super::parse::{Field, layout};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, OPTION_EDE, u16_at};

/// The size limit of messages in which names are lowered, in octets: the longest message read over UDP. Queries over
/// TCP are always in lower case.
const MAX_LOWERED: usize = 4096;

/// The case of a QNAME's letters as bits: a set bit means upper case. The 64 bits repeat for longer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Casing(u64);

impl Casing {
    /// All lower case. Replies to it are accepted in any case (RFC 4343).
    pub const LOWER: Self = Self(0);

    /// Returns the casing with the given bits.
    #[must_use]
    pub const fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Appends `qname`, given in lower case, in this case.
    pub(super) fn write(self, qname: &[u8], out: &mut Vec<u8>) {
        out.extend(self.cased(qname));
    }

    /// Returns whether `echo` is `qname`, given in lower case, in exactly this case.
    pub(super) fn matches_case_of(self, echo: &[u8], qname: &[u8]) -> bool {
        echo.len() == qname.len() && self.cased(qname).eq(echo.iter().copied())
    }

    /// Returns the octets of `qname` in this case. Length octets are unaffected: at most 63, they are not letters.
    fn cased(self, qname: &[u8]) -> impl Iterator<Item = u8> {
        let mut bits = self.0;
        qname.iter().map(move |&octet| {
            let upper = u8::from(octet.is_ascii_lowercase() && bits & 1 == 1);
            bits = bits.rotate_right(1);
            octet ^ upper << 5
        })
    }
}

/// Lowers the labels of a response that are in the random case of our query, in names and in the texts of Extended DNS
/// Errors. The question has been checked.
///
/// Names that point to the question need no change, as the client's own question replaces it. But an upstream may also
/// write names in full, in the case of our query. Labels in another case keep it (RFC 4343 §4.1).
pub(super) fn lower_random_case<'a>(message: &'a [u8], header: &Header, qname: &[u8]) -> Cow<'a, [u8]> {
    let sent = message.get(HEADER..HEADER + qname.len()).unwrap_or_default();
    if sent == qname || message.len() > MAX_LOWERED {
        return Cow::Borrowed(message);
    }
    let mut walk = Walk { message, sent, at: HEADER + qname.len() + 4, labels_to_lower: Vec::new() };
    let records: usize = header.counts[1..].iter().map(|&count| usize::from(count)).sum();
    // A record that is cut off is left to the parser to reject.
    for _ in 0..records {
        if walk.record().is_none() {
            break;
        }
    }
    if walk.labels_to_lower.is_empty() {
        return Cow::Borrowed(message);
    }
    let mut lowered = message.to_vec();
    for (start, end) in walk.labels_to_lower {
        lowered[start..end].make_ascii_lowercase();
    }
    Cow::Owned(lowered)
}

/// Returns whether the case of names in the RDATA of this type is signed, because the canonical form preserves it (RFC
/// 6840 §5.1; RFC 3597 §7). Upstreams do not synthesise such names from the question.
const fn is_case_signed(rtype: RecordType) -> bool {
    matches!(rtype, RecordType::NSEC | RecordType::SVCB | RecordType::HTTPS)
}

/// A cursor over the names of a message.
struct Walk<'a> {
    message: &'a [u8],
    /// The QNAME in the case that was sent.
    sent: &'a [u8],
    /// The offset of the next record.
    at: usize,
    /// The offsets of labels to lower: start and end.
    labels_to_lower: Vec<(usize, usize)>,
}

impl Walk<'_> {
    /// Examines the names of the next record.
    fn record(&mut self) -> Option<()> {
        let fixed = self.name(self.at)?;
        let (rtype, class) = (RecordType(u16_at(self.message, fixed)?), u16_at(self.message, fixed + 2)?);
        let mut at = fixed + 10;
        let end = at + usize::from(u16_at(self.message, fixed + 8)?);
        self.at = end;
        if rtype == RecordType::OPT {
            return self.options(at, end);
        }
        for field in layout(rtype).iter().filter(|_| class == CLASS_IN && !is_case_signed(rtype)) {
            at = match field {
                Field::Fixed(length) => at + length,
                Field::Text => at + 1 + usize::from(*self.message.get(at)?),
                Field::Rest => end,
                Field::Compressible | Field::Uncompressed => self.name(at)?,
            };
        }
        Some(())
    }

    /// Examines the EXTRA-TEXT of Extended DNS Errors between `at` and `end` (RFC 8914 §2), which often quotes the
    /// QNAME.
    fn options(&mut self, mut at: usize, end: usize) -> Option<()> {
        while at < end {
            let (code, data) = (u16_at(self.message, at)?, at + 4);
            at = data + usize::from(u16_at(self.message, at + 2)?);
            if code == OPTION_EDE && data + 2 <= at {
                self.text(data + 2, at)?;
            }
        }
        Some(())
    }

    /// Examines the words of a text. A word within a name is lowered if it equals a label as sent; a word by itself
    /// only from two letters on, as a single letter is more likely a record type.
    fn text(&mut self, start: usize, end: usize) -> Option<()> {
        let text = self.message.get(start..end)?;
        let is_of_label = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        let mut at = 0;
        for word in text.split_inclusive(|octet| !is_of_label(octet)) {
            let (from, next) = (at, at + word.len());
            at = next;
            let word = word.strip_suffix(&[text[next - 1]]).filter(|_| !is_of_label(&text[next - 1])).unwrap_or(word);
            let to = from + word.len();
            let is_in_name = text.get(to) == Some(&b'.') || from.checked_sub(1).is_some_and(|at| text[at] == b'.');
            let is_random_case =
                word.iter().any(u8::is_ascii_uppercase) && labels(self.sent).any(|sent| sent[1..] == *word);
            if is_random_case && (is_in_name || word.len() > 1) {
                self.labels_to_lower.push((start + from, start + to));
            }
        }
        Some(())
    }

    /// Examines the name at `at`. Returns the offset after it.
    fn name(&mut self, mut at: usize) -> Option<usize> {
        loop {
            match usize::from(*self.message.get(at)?) {
                0 => return Some(at + 1),
                length @ ..=63 => {
                    let label = self.message.get(at..=at + length)?;
                    if label.iter().any(u8::is_ascii_uppercase) && labels(self.sent).any(|sent| sent == label) {
                        self.labels_to_lower.push((at, at + label.len()));
                    }
                    at += label.len();
                }
                _ => return Some(at + 2),
            }
        }
    }
}

/// Returns the labels of an uncompressed name, each with its length octet.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (label, behind) = rest.split_at_checked(1 + usize::from(*rest.first()?))?;
        rest = behind;
        (label.len() > 1).then_some(label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::name::LowerName;

    #[test]
    fn casing_changes_letters_by_bit_and_nothing_else() {
        let qname = LowerName::from_text("a-b.0z.example").unwrap();
        for (bits, expected) in [
            (0, "\x03a-b\x020z\x07example\0"),
            (u64::MAX, "\x03A-B\x020Z\x07EXAMPLE\0"),
            (2, "\x03A-b\x020z\x07example\0"),
        ] {
            let (casing, mut out) = (Casing::of_bits(bits), Vec::new());
            casing.write(qname.as_wire(), &mut out);
            assert_eq!(out, expected.as_bytes(), "{bits:x}");
            assert!(casing.matches_case_of(&out, qname.as_wire()), "{bits:x}");
        }
        assert!(!Casing::of_bits(2).matches_case_of(qname.as_wire(), qname.as_wire()));
        assert!(!Casing::LOWER.matches_case_of(&[], qname.as_wire()));
    }

    #[test]
    fn random_case_is_removed_from_ede_texts_and_other_words_stay() {
        const CASES: &[(&str, &str)] = &[
            ("no DS for A.wWw.ExAMPle.TesT.", "no DS for a.www.example.test."),
            ("(wWw.ExAMPle.TesT A) bogus", "(www.example.test A) bogus"),
            ("zone \"ExAMPle.TesT\"", "zone \"example.test\""),
            ("label ExAMPle", "label example"),
            ("TesT.", "test."),
            ("Www.EXAMPLE.Test is of its own", "Www.EXAMPLE.Test is of its own"),
            ("ExAMPles are none", "ExAMPles are none"),
            ("an A record, A. B", "an A record, a. B"),
            ("", ""),
            ("é ExAMPle.TesT é", "é example.test é"),
        ];
        let sent = b"\x01A\x03wWw\x07ExAMPle\x04TesT\0";
        let qname = LowerName::from_text("a.www.example.test").unwrap();
        for (text, expected) in CASES {
            let header = Header { id: 1, flags: 0x8180, counts: [1, 0, 0, 1] };
            let mut message = header.to_bytes().to_vec();
            message.extend(sent);
            message.extend([0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0]);
            let length = u16::try_from(text.len()).unwrap();
            message.extend((length + 14).to_be_bytes());
            // Options of another kind stay as they are: they are never sent to a client.
            message.extend([0, 3, 0, 4, b'T', b'e', b's', b'T', 0, 15]);
            message.extend((length + 2).to_be_bytes());
            message.extend([0, 22]);
            message.extend(text.as_bytes());
            let found = lower_random_case(&message, &header, qname.as_wire());
            assert_eq!(String::from_utf8_lossy(&found[found.len() - text.len()..]), *expected);
        }
    }

    #[test]
    fn casing_bits_repeat_in_a_long_name() {
        let qname = LowerName::from_text(&["a".repeat(63), "b".repeat(63)].join(".")).unwrap();
        let mut out = Vec::new();
        Casing::of_bits(2).write(qname.as_wire(), &mut out);
        let upper: Vec<usize> = (0..out.len()).filter(|&at| out[at].is_ascii_uppercase()).collect();
        assert_eq!(upper, [1, 65]);
    }
}
