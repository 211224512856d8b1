//! A reader of messages as plain as can be: slow, strict about form, and written apart from the one it checks.

use std::ops::Range;

/// A message, taken apart.
#[derive(Debug)]
pub struct Message {
    /// The ID.
    pub id: u16,
    /// The second word of the header.
    pub flags: u16,
    /// The octets of the question section.
    pub question: Vec<u8>,
    /// All records but the OPT record.
    pub records: Vec<Record>,
    /// The OPT records.
    pub opts: Vec<Record>,
    /// Where the last record ends.
    pub end: usize,
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it starts.
    pub start: usize,
    /// The section: 1 answer, 2 authority, 3 additional.
    pub section: usize,
    /// The owner: labels with their lengths, lower case, no pointer.
    pub owner: Vec<u8>,
    /// The type.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// The TTL.
    pub ttl: u32,
    /// Where the TTL stands.
    pub ttl_at: usize,
    /// Where the RDATA stands.
    pub rdata: Range<usize>,
}

impl Message {
    /// Reads a message with exactly one question; nothing if any of it is malformed or something stands behind it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_start(bytes).filter(|message| message.end == bytes.len())
    }

    /// Reads the message at the start of `bytes`.
    #[must_use]
    pub fn read_start(bytes: &[u8]) -> Option<Self> {
        if word(bytes, 4)? != 1 {
            return None;
        }
        let (_, name_end) = name(bytes, 12)?;
        let mut at = name_end + 4;
        let question = bytes.get(12..at)?.to_vec();
        let (mut records, mut opts) = (Vec::new(), Vec::new());
        for section in 1..=3 {
            for _ in 0..word(bytes, 4 + 2 * section)? {
                let start = at;
                let (owner, fixed) = name(bytes, start)?;
                let rdata = fixed + 10..fixed + 10 + usize::from(word(bytes, fixed + 8)?);
                bytes.get(rdata.clone())?;
                at = rdata.end;
                let ttl = u32::from(word(bytes, fixed + 4)?) << 16 | u32::from(word(bytes, fixed + 6)?);
                let (rtype, class) = (word(bytes, fixed)?, word(bytes, fixed + 2)?);
                let record = Record { start, section, owner, rtype, class, ttl, ttl_at: fixed + 4, rdata };
                if rtype == OPT { opts.push(record) } else { records.push(record) }
            }
        }
        let (id, flags) = (word(bytes, 0)?, word(bytes, 2)?);
        Some(Self { id, flags, question, records, opts, end: at })
    }

    /// Returns the EDNS options of the first OPT record, code and data; nothing if they are malformed.
    #[must_use]
    pub fn options<'b>(&self, bytes: &'b [u8]) -> Option<Vec<(u16, &'b [u8])>> {
        let mut options = Vec::new();
        let mut rest = self.opts.first().map_or(&[][..], |opt| &bytes[opt.rdata.clone()]);
        while !rest.is_empty() {
            let end = 4 + usize::from(word(rest, 2)?);
            options.push((word(rest, 0)?, rest.get(4..end)?));
            rest = &rest[end..];
        }
        Some(options)
    }
}

/// Reads the name at `at`, pointers followed; returns it in lower case and where it ends.
#[must_use]
pub fn name(bytes: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut end, mut read) = (at, None, Vec::new());
    // A pointer leads before itself: in a circle there would be a label, and a name has only so many.
    while read.len() < 255 {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => {
                read.push(0);
                return (read.len() <= 255).then_some((read, end.unwrap_or(at + 1)));
            }
            1..=63 => {
                read.extend(bytes.get(at..=at + length)?.iter().map(u8::to_ascii_lowercase));
                at += 1 + length;
            }
            0xc0.. => {
                end.get_or_insert(at + 2);
                let target = usize::from(word(bytes, at)? & 0x3fff);
                // No name stands in the header.
                if target >= at || target < 12 {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
    None
}

/// Reads the 16-bit number at `at`.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from(*bytes.get(at)?) << 8 | u16::from(*bytes.get(at + 1)?))
}

/// The type of the OPT record.
pub const OPT: u16 = 41;
