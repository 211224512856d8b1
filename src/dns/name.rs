//! Domain names in the one form that all code here compares: lower-case wire format.
//!
//! [`LowerName::from_uncompressed`], [`LowerName::from_message`] and [`LowerName::from_text`] are the only ways to make
//! a name, so a [`LowerName`] is always valid: labels of 1 to 63 octets, 255 octets in all (RFC 1035 §2.3.4), ASCII
//! letters in lower case (RFC 4343).

use std::fmt;
use std::hash::{Hash, Hasher};

/// The length limit of a name on the wire, root label included (RFC 1035 §2.3.4), in octets.
pub const MAX_NAME: usize = 255;

/// The length limit of a label (RFC 1035 §2.3.4), in octets.
pub const MAX_LABEL: usize = 63;

/// The number of labels below the root that fit in a name of [`MAX_NAME`] octets.
pub const MAX_LABELS: usize = 127;

/// An absolute domain name: length-prefixed labels, ASCII letters in lower case (RFC 4343), the root label last.
///
/// The octets are inline (256 with the length), so a query is parsed without an allocation. Long-lived tables copy
/// [`LowerName::as_wire`] into a buffer of their own instead.
#[derive(Clone)]
pub struct LowerName {
    /// The number of octets used in `wire`: 1 (the root) to 255.
    len: u8,
    /// The name; octets from `len` on are meaningless.
    wire: [u8; MAX_NAME],
}

impl LowerName {
    /// Returns the root name.
    #[must_use]
    pub const fn root() -> Self {
        Self { len: 1, wire: [0; MAX_NAME] }
    }

    /// Reads an uncompressed name at the start of `bytes`. Returns it with the number of octets read.
    ///
    /// # Errors
    /// Fails at a compression pointer, a reserved label type, after 255 octets, or at the end of `bytes`.
    pub fn from_uncompressed(bytes: &[u8]) -> Result<(Self, usize), NameError> {
        let length = uncompressed_length(bytes)?;
        Ok((Self::lowered(&bytes[..length]), length))
    }

    /// Returns the name in `wire` in lower case. The caller guarantees that `wire` is one well-formed name, as
    /// [`uncompressed_length`] found it.
    pub(super) fn lowered(wire: &[u8]) -> Self {
        let mut name =
            Self { len: u8::try_from(wire.len()).expect("a name has at most 255 octets"), wire: [0; MAX_NAME] };
        let copy = &mut name.wire[..wire.len()];
        copy.copy_from_slice(wire);
        // Length octets are lowered along with the labels: a length is at most 63, which is not a letter.
        copy.make_ascii_lowercase();
        name
    }

    /// Reads the name at `at` of a whole `message`, following compression pointers (RFC 1035 §4.1.4). Returns it with
    /// the offset after its first, uncompressed part.
    ///
    /// A pointer must point before everything read so far, and at most as many are followed as a name has labels, so
    /// the walk is short and cannot loop.
    ///
    /// # Errors
    /// Fails at a pointer forwards or to itself, a reserved label type, after 255 octets, or at the end of the message.
    pub fn from_message(message: &[u8], at: usize) -> Result<(Self, usize), NameError> {
        let mut name = Self::root();
        let mut length = 0;
        let mut at = at;
        let mut lowest = at;
        let mut after = None;
        let mut hops = 0;
        loop {
            let octet = usize::from(*message.get(at).ok_or(NameError::Short)?);
            match octet {
                0 => {
                    name.wire[length] = 0;
                    name.len = u8::try_from(length + 1).map_err(|_| NameError::TooLong)?;
                    return Ok((name, after.unwrap_or(at + 1)));
                }
                1..=MAX_LABEL => {
                    let label = message.get(at + 1..at + 1 + octet).ok_or(NameError::Short)?;
                    if length + 1 + octet >= MAX_NAME {
                        return Err(NameError::TooLong);
                    }
                    name.wire[length] = message[at];
                    for (to, from) in name.wire[length + 1..].iter_mut().zip(label) {
                        *to = from.to_ascii_lowercase();
                    }
                    length += 1 + octet;
                    at += 1 + octet;
                }
                0xc0.. => {
                    let low = usize::from(*message.get(at + 1).ok_or(NameError::Short)?);
                    after.get_or_insert(at + 2);
                    let target = (octet & 0x3f) << 8 | low;
                    // Each pointer must lead below all that was read, so the walk ends; the limit keeps it short.
                    if target >= lowest || hops == MAX_LABELS {
                        return Err(NameError::Pointer);
                    }
                    hops += 1;
                    lowest = target;
                    at = target;
                }
                _ => return Err(NameError::LabelType),
            }
        }
    }

    /// Reads a name in presentation format: labels between dots, an optional trailing dot, `\.` and `\DDD` escapes (RFC
    /// 1035 §5.1). ASCII only; internationalised names are converted by [`crate::policy`]'s patterns.
    ///
    /// # Errors
    /// Fails at an empty label, a label over 63 or a name over 255 octets, a bad escape, or a character outside ASCII.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        let mut name = Self::root();
        if text == "." {
            return Ok(name);
        }
        let bytes = text.as_bytes();
        let mut start = 0;
        let mut end = 1;
        let mut at = 0;
        while at < bytes.len() {
            let octet = match bytes[at] {
                b'.' => {
                    start = name.close_label(start, end)?;
                    end = start + 1;
                    at += 1;
                    continue;
                }
                b'\\' => {
                    let (octet, took) = escaped(&bytes[at + 1..])?;
                    at += took;
                    octet
                }
                octet if !octet.is_ascii() => return Err(NameError::NotAscii),
                octet => octet,
            };
            if end >= MAX_NAME - 1 {
                return Err(NameError::TooLong);
            }
            name.wire[end] = octet.to_ascii_lowercase();
            end += 1;
            at += 1;
        }
        if end > start + 1 {
            start = name.close_label(start, end)?;
        } else if start == 0 {
            return Err(NameError::EmptyLabel);
        }
        name.wire[start] = 0;
        name.len = u8::try_from(start + 1).map_err(|_| NameError::TooLong)?;
        Ok(name)
    }

    /// Writes the length octet of the label between `start` and `end`. Returns the offset of the next label's length
    /// octet.
    fn close_label(&mut self, start: usize, end: usize) -> Result<usize, NameError> {
        match end - start - 1 {
            0 => Err(NameError::EmptyLabel),
            length if length > MAX_LABEL => Err(NameError::LabelTooLong),
            length => {
                self.wire[start] = u8::try_from(length).map_err(|_| NameError::LabelTooLong)?;
                Ok(end)
            }
        }
    }

    /// Returns the name in wire format: lower case, root label included.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.wire[..usize::from(self.len)]
    }

    /// Returns the name and its ancestors without the root, each in wire format: `a.b`, then `b`.
    #[must_use]
    pub fn suffixes(&self) -> Suffixes<'_> {
        Suffixes { rest: self.as_wire() }
    }

    /// Returns the labels from left to right, without the root label.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes().map(|suffix| &suffix[1..=usize::from(suffix[0])])
    }

    /// Returns whether the name is `ancestor` or below it.
    #[must_use]
    pub fn is_at_or_below(&self, ancestor: &Self) -> bool {
        ancestor.len == 1 || self.suffixes().any(|suffix| suffix == ancestor.as_wire())
    }

    /// Returns the parent's wire format; the parent of the root is the root.
    #[must_use]
    pub fn parent_wire(&self) -> &[u8] {
        let wire = self.as_wire();
        match wire[0] {
            0 => wire,
            length => &wire[1 + usize::from(length)..],
        }
    }
}

impl PartialEq for LowerName {
    fn eq(&self, other: &Self) -> bool {
        self.as_wire() == other.as_wire()
    }
}

impl Eq for LowerName {}

/// Hashes the wire format without the length prefix that a slice adds: the root label already ends a name.
impl Hash for LowerName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // `write` of the octets alone saves the hasher a call for the length.
        state.write(self.as_wire());
    }
}

impl fmt::Debug for LowerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LowerName({self})")
    }
}

/// Writes the name in presentation format: no trailing dot (but `.` for the root), and octets that could break a line
/// or be read as syntax escaped as `\DDD` (RFC 1035 §5.1).
impl fmt::Display for LowerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_wire(f, self.as_wire())
    }
}

/// A name in wire format, kept in a buffer elsewhere, that is displayed as a [`LowerName`].
#[derive(Clone, Copy)]
pub struct DisplayWire<'a>(pub &'a [u8]);

impl fmt::Display for DisplayWire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_wire(f, self.0)
    }
}

/// Returns the length of the uncompressed name at the start of `bytes`, root label included.
///
/// # Errors
/// Fails as [`LowerName::from_uncompressed`] does.
pub(super) fn uncompressed_length(bytes: &[u8]) -> Result<usize, NameError> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at).ok_or(NameError::Short)?) {
            0 => return Ok(at + 1),
            length @ 1..=MAX_LABEL => at += 1 + length,
            0xc0.. => return Err(NameError::Pointer),
            _ => return Err(NameError::LabelType),
        }
        // The root label has not been read yet, so 255 octets already are one too many.
        if at >= MAX_NAME {
            return Err(NameError::TooLong);
        }
    }
}

/// Returns whether an octet of a label is written as it is in presentation format, without an escape.
#[inline]
pub(crate) const fn needs_no_escape(octet: u8) -> bool {
    /// A lookup table, as this is asked for each octet of each name that is logged.
    const UNESCAPED: [bool; 256] = {
        let mut unescaped = [false; 256];
        let mut octet = 0_u8;
        while octet < 128 {
            unescaped[octet as usize] =
                octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'*' | b'/' | b'+' | b'=' | b':');
            octet += 1;
        }
        unescaped
    };
    UNESCAPED[octet as usize]
}

/// Writes the presentation format of a valid wire name.
fn write_wire(f: &mut fmt::Formatter<'_>, wire: &[u8]) -> fmt::Result {
    use fmt::Write as _;
    if wire.first().is_none_or(|&length| length == 0) {
        return f.write_str(".");
    }
    for (index, suffix) in (Suffixes { rest: wire }).enumerate() {
        if index > 0 {
            f.write_char('.')?;
        }
        for &octet in &suffix[1..=usize::from(suffix[0])] {
            if needs_no_escape(octet) {
                f.write_char(char::from(octet))?;
            } else {
                write!(f, "\\{octet:03}")?;
            }
        }
    }
    Ok(())
}

/// An iterator over a name and its ancestors below the root, longest first; see [`LowerName::suffixes`].
#[derive(Clone)]
pub struct Suffixes<'a> {
    /// The rest of the wire format; empty or the root label at the end.
    rest: &'a [u8],
}

impl<'a> Suffixes<'a> {
    /// Iterates over a wire name in a buffer elsewhere; `wire` must be a valid, uncompressed name.
    #[must_use]
    pub fn of(wire: &'a [u8]) -> Self {
        Self { rest: wire }
    }
}

impl<'a> Iterator for Suffixes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.rest.first()?);
        if length == 0 {
            return None;
        }
        let here = self.rest;
        self.rest = here.get(1 + length..)?;
        Some(here)
    }
}

/// The reasons why bytes or text are not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bytes end before the name does.
    #[error("the name runs past the end")]
    Short,
    /// A compression pointer where none is allowed, or one that does not point backwards.
    #[error("bad compression pointer")]
    Pointer,
    /// A label whose two high bits are 01 or 10, which no standard label type has (RFC 6891 §5).
    #[error("unknown label type")]
    LabelType,
    /// A name over 255 octets on the wire, which is 253 characters of text.
    #[error("the name is longer than 253 characters")]
    TooLong,
    /// A label over 63 octets (RFC 1035 §2.3.4).
    #[error("a label is longer than 63 octets")]
    LabelTooLong,
    /// Two dots in a row, a leading dot, or an empty string.
    #[error("a label is empty")]
    EmptyLabel,
    /// A backslash without a character or three digits up to 255 after it.
    #[error("bad escape")]
    Escape,
    /// A character outside ASCII.
    #[error("not ASCII")]
    NotAscii,
}

/// Decodes the escape after a backslash. Returns the octet and the number of characters read.
fn escaped(rest: &[u8]) -> Result<(u8, usize), NameError> {
    let first = *rest.first().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return if first.is_ascii() { Ok((first, 1)) } else { Err(NameError::NotAscii) };
    }
    let digits = rest.get(..3).and_then(|three| std::str::from_utf8(three).ok()).ok_or(NameError::Escape)?;
    digits.parse().map(|octet| (octet, 3)).map_err(|_| NameError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_canonical_form() {
        const CASES: &[(&str, &str)] = &[
            ("GitHub.com.", "github.com"),
            ("a.b", "a.b"),
            (".", "."),
            (r"evil\000.test", r"evil\000.test"),
            (r"dot\.in.test", r"dot\046in.test"),
            ("_acme-challenge.example", "_acme-challenge.example"),
        ];
        for (text, canonical) in CASES {
            assert_eq!(LowerName::from_text(text).unwrap().to_string(), *canonical, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_a_name_is_rejected() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        let cases = [
            ("", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            (&long_label, NameError::LabelTooLong),
            (&long_name, NameError::TooLong),
            (r"a\25", NameError::Escape),
            (r"a\256", NameError::Escape),
            ("bücher", NameError::NotAscii),
        ];
        for (text, error) in cases {
            assert_eq!(LowerName::from_text(text).unwrap_err(), error, "{text}");
        }
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(LowerName::from_text(&longest).unwrap().as_wire().len(), MAX_NAME);
    }

    #[test]
    fn letters_are_lowered_in_names_of_any_length() {
        for length in 1..=MAX_NAME - 2 {
            let mut wire = Vec::new();
            for label in vec![b'X'; length].chunks(MAX_LABEL) {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend(label);
            }
            wire.push(0);
            match LowerName::from_uncompressed(&wire) {
                Ok((name, _)) => assert_eq!(name.as_wire(), wire.to_ascii_lowercase(), "{length}"),
                Err(error) => assert!(wire.len() > MAX_NAME, "{length}: {error}"),
            }
        }
    }

    #[test]
    fn uncompressed_names_reject_pointers_and_more_than_255_octets() {
        assert_eq!(LowerName::from_uncompressed(b"\xc0\x0c").unwrap_err(), NameError::Pointer);
        assert_eq!(LowerName::from_uncompressed(b"\x41a").unwrap_err(), NameError::LabelType);
        assert_eq!(LowerName::from_uncompressed(b"\x05abc").unwrap_err(), NameError::Short);
        let (name, took) = LowerName::from_uncompressed(b"\x03WwW\x04Test\x00rest").unwrap();
        assert_eq!((name.to_string().as_str(), took), ("www.test", 10));
        let longest: Vec<u8> = [&[1, b'a'][..]; 127].concat().into_iter().chain([0]).collect();
        assert_eq!(LowerName::from_uncompressed(&longest).unwrap().1, MAX_NAME);
        let over: Vec<u8> = [&[1, b'a'][..]; 128].concat().into_iter().chain([0]).collect();
        assert_eq!(LowerName::from_uncompressed(&over).unwrap_err(), NameError::TooLong);
    }

    #[test]
    fn compression_pointers_must_point_backwards() {
        let message = b"\x04test\x00\x03www\xc0\x00\xc0\x0c";
        let (name, after) = LowerName::from_message(message, 6).unwrap();
        assert_eq!((name.to_string().as_str(), after), ("www.test", 12));
        assert_eq!(LowerName::from_message(message, 12).unwrap_err(), NameError::Pointer);
        assert_eq!(LowerName::from_message(b"\x01a\xc0\x00", 0).unwrap_err(), NameError::Pointer);
    }

    #[test]
    fn subdomains_are_matched_on_label_boundaries() {
        let name = |text| LowerName::from_text(text).unwrap();
        assert!(name("a.github.com").is_at_or_below(&name("github.com")));
        assert!(name("github.com").is_at_or_below(&name("github.com")));
        assert!(!name("evilgithub.com").is_at_or_below(&name("github.com")));
        assert!(name("x").is_at_or_below(&LowerName::root()));
    }
}
