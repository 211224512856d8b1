//! The case of the letters in a QNAME that is sent: chance, so that whoever forges a reply has more to guess
//! (draft-vixie-dnsext-dns0x20). No client ever sees it.

use std::borrow::Cow;

use super::parse::{Field, layout};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, OPTION_EDE, u16_at};

/// The longest message in which names are looked through, in octets: the longest that is read over UDP. Over TCP every
/// query is in lower case.
const MAX_MIXED: usize = 4096;

/// The case of a QNAME's letters: a bit for each of 64 octets, upper case where it is set; of a longer name the next 64
/// are as the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Casing(u64);

impl Casing {
    /// All lower case. Then a reply may have any case (RFC 4343).
    pub const LOWER: Self = Self(0);

    /// Returns the casing that these bits say.
    #[must_use]
    pub const fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Appends `qname`, which is lower case, in this case.
    pub(super) fn write(self, qname: &[u8], out: &mut Vec<u8>) {
        out.extend(self.cased(qname));
    }

    /// Returns whether `echo` is `qname`, which is lower case, in exactly this case.
    pub(super) fn is_of(self, echo: &[u8], qname: &[u8]) -> bool {
        echo.len() == qname.len() && self.cased(qname).eq(echo.iter().copied())
    }

    /// Returns the octets of `qname` in this case. A length octet is at most 63, which is no letter.
    fn cased(self, qname: &[u8]) -> impl Iterator<Item = u8> {
        let mut bits = self.0;
        qname.iter().map(move |&octet| {
            let upper = u8::from(octet.is_ascii_lowercase() && bits & 1 == 1);
            bits = bits.rotate_right(1);
            octet ^ upper << 5
        })
    }
}

/// Returns a response whose question has been checked with the labels in lower case that it spells out as we sent them, in
/// names and in the texts of Extended DNS Errors.
///
/// Names that point to the question need nothing: the client's own question will stand there. But an upstream may as
/// well write them out, in the case it was asked in. Labels that it has in a case of its own keep that (RFC 4343 §4.1).
pub(super) fn without_ours<'a>(message: &'a [u8], header: &Header, qname: &[u8]) -> Cow<'a, [u8]> {
    let sent = message.get(HEADER..HEADER + qname.len()).unwrap_or_default();
    if sent == qname || message.len() > MAX_MIXED {
        return Cow::Borrowed(message);
    }
    let mut walk = Walk { message, sent, at: HEADER + qname.len() + 4, ours: Vec::new() };
    let records: usize = header.counts[1..].iter().map(|&count| usize::from(count)).sum();
    // What ends in the middle of a record is for the parser to refuse.
    for _ in 0..records {
        if walk.record().is_none() {
            break;
        }
    }
    if walk.ours.is_empty() {
        return Cow::Borrowed(message);
    }
    let mut lowered = message.to_vec();
    for (start, end) in walk.ours {
        lowered[start..end].make_ascii_lowercase();
    }
    Cow::Owned(lowered)
}

/// Returns whether the case of the names in RDATA of this type is signed, being left as it is in the canonical form (RFC 6840 §5.1;
/// RFC 3597 §7): no upstream makes them up of the question.
const fn is_case_signed(rtype: RecordType) -> bool {
    matches!(rtype, RecordType::NSEC | RecordType::SVCB | RecordType::HTTPS)
}

/// A walk over the names of a message.
struct Walk<'a> {
    /// The message.
    message: &'a [u8],
    /// The QNAME as we sent it.
    sent: &'a [u8],
    /// Where the next record starts.
    at: usize,
    /// The labels that are ours.
    ours: Vec<(usize, usize)>,
}

impl Walk<'_> {
    /// Looks at the names of the next record.
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

    /// Looks at the texts of the Extended DNS Errors between `at` and `end` (RFC 8914 §2): they often hold the name that was
    /// asked for.
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

    /// Looks at the words of a text: of names in it the labels that are ours, and of words alone those of two letters or
    /// more, as a single letter is more likely a record type.
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
            let is_ours = word.iter().any(u8::is_ascii_uppercase) && labels(self.sent).any(|sent| sent[1..] == *word);
            if is_ours && (is_in_name || word.len() > 1) {
                self.ours.push((start + from, start + to));
            }
        }
        Some(())
    }

    /// Looks at the name at `at`; returns where it ends.
    fn name(&mut self, mut at: usize) -> Option<usize> {
        loop {
            match usize::from(*self.message.get(at)?) {
                0 => return Some(at + 1),
                length @ ..=63 => {
                    let label = self.message.get(at..=at + length)?;
                    if label.iter().any(u8::is_ascii_uppercase) && labels(self.sent).any(|sent| sent == label) {
                        self.ours.push((at, at + label.len()));
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
    fn letters_get_their_case_by_bit_and_nothing_else_changes() {
        let qname = LowerName::from_text("a-b.0z.example").unwrap();
        for (bits, expected) in [
            (0, "\x03a-b\x020z\x07example\0"),
            (u64::MAX, "\x03A-B\x020Z\x07EXAMPLE\0"),
            (2, "\x03A-b\x020z\x07example\0"),
        ] {
            let (casing, mut out) = (Casing::of_bits(bits), Vec::new());
            casing.write(qname.as_wire(), &mut out);
            assert_eq!(out, expected.as_bytes(), "{bits:x}");
            assert!(casing.is_of(&out, qname.as_wire()), "{bits:x}");
        }
        assert!(!Casing::of_bits(2).is_of(qname.as_wire(), qname.as_wire()));
        assert!(!Casing::LOWER.is_of(&[], qname.as_wire()));
    }

    #[test]
    fn our_case_goes_out_of_texts_and_other_words_stay() {
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
            // An option of another kind that holds the name stays as it is; it reaches nobody.
            message.extend([0, 3, 0, 4, b'T', b'e', b's', b'T', 0, 15]);
            message.extend((length + 2).to_be_bytes());
            message.extend([0, 22]);
            message.extend(text.as_bytes());
            let found = without_ours(&message, &header, qname.as_wire());
            assert_eq!(String::from_utf8_lossy(&found[found.len() - text.len()..]), *expected);
        }
    }

    #[test]
    fn the_bits_go_on_from_the_start_in_a_long_name() {
        let qname = LowerName::from_text(&["a".repeat(63), "b".repeat(63)].join(".")).unwrap();
        let mut out = Vec::new();
        Casing::of_bits(2).write(qname.as_wire(), &mut out);
        let upper: Vec<usize> = (0..out.len()).filter(|&at| out[at].is_ascii_uppercase()).collect();
        assert_eq!(upper, [1, 65]);
    }
}
