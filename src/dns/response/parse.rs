//! The general response parser: reads every record and checks every name and length.
//!
//! Its memory and work are linear in the message (see [`Names`]). It keeps unknown types as opaque bytes (RFC 3597) and
//! reads the RDATA of those types that contain names, as these may be compressed and must be rewritten.

use std::ops::Range;

use super::ResponseError;
use super::names::{NameId, Names};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, u16_at, u32_at};

/// The limit of records in a response: about as many address records as fit in a message of 64 KiB.
const MAX_RECORDS: usize = 4096;

/// The highest TTL (RFC 2181 §8); a higher number on the wire means 0.
pub(super) const MAX_TTL: u32 = u32::MAX >> 1;

/// A response that has been checked to be well-formed.
pub(super) struct Message<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) header: Header,
    /// The names in the message, each once.
    pub(super) names: Names<'a>,
    pub(super) qname: NameId,
    /// The offset of the first record.
    pub(super) body: usize,
    /// The records in order, without the OPT record.
    pub(super) records: Vec<Record>,
    /// The OPT record, if the message has one.
    pub(super) opt: Option<OptRecord>,
    /// The offset after the last record, the OPT record included.
    pub(super) end: usize,
}

/// A section that holds records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// The records asked for, and the aliases that lead to them.
    Answer,
    /// The name servers, or the SOA record and the proofs of a negative answer.
    Authority,
    /// Records that save the client a query, such as addresses of name servers.
    Additional,
}

impl Section {
    /// The sections in the order of the message.
    pub(super) const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];

    /// Returns the index of the section's count in the header.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Answer => 1,
            Self::Authority => 2,
            Self::Additional => 3,
        }
    }
}

/// A record other than OPT.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) section: Section,
    pub(super) owner: NameId,
    pub(super) rtype: RecordType,
    pub(super) class: u16,
    /// The TTL in seconds; 0 if the wire has more than 2³¹−1 (RFC 2181 §8).
    pub(super) ttl: u32,
    /// The offset of the TTL field.
    pub(super) ttl_at: usize,
    /// The offsets of the RDATA in the message.
    pub(super) rdata: Range<usize>,
    /// The last name in the RDATA: the target of a CNAME, NS, MX, SRV or SVCB record, the signer of an RRSIG record.
    /// The root if the RDATA has no name.
    pub(super) target: NameId,
}

/// The fields of an OPT record that are used.
pub(super) struct OptRecord {
    /// The offset of the record.
    pub(super) start: usize,
    /// The offsets of its options in the message.
    pub(super) options: Range<usize>,
    /// The upper eight bits of the response code (RFC 6891 §6.1.3).
    pub(super) rcode_high: u8,
    /// True if the OPT record is the last record, so that it can be cut off.
    pub(super) last: bool,
}

impl<'a> Message<'a> {
    /// Returns the type covered by an RRSIG record (RFC 4034 §3.1.1).
    pub(super) fn covered(&self, record: &Record) -> RecordType {
        RecordType(u16_at(self.rdata(record), 0).unwrap_or_default())
    }

    /// Parses a message whose header and question have been checked: one question, QNAME without a pointer.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ResponseError> {
        let header = Header::read(bytes).ok_or(ResponseError::Malformed)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ResponseError::Malformed);
        }
        let count: usize = header.counts[1..].iter().map(|&count| usize::from(count)).sum();
        if count > MAX_RECORDS {
            return Err(ResponseError::TooManyRecords);
        }
        let mut names = Names::new(bytes);
        let (qname, after) = names.read(HEADER)?;
        let body = after + 4;
        if body > bytes.len() {
            return Err(ResponseError::Malformed);
        }
        let mut message =
            Self { bytes, header, names, qname, body, records: Vec::with_capacity(count), opt: None, end: body };
        for section in Section::ALL {
            for _ in 0..header.counts[section.index()] {
                message.read_record(section)?;
            }
        }
        Ok(message)
    }

    /// Reads the record at `self.end` and advances past it.
    fn read_record(&mut self, section: Section) -> Result<(), ResponseError> {
        let start = self.end;
        let (owner, fixed) = self.names.read(start)?;
        let word = |offset| u16_at(self.bytes, fixed + offset).ok_or(ResponseError::Malformed);
        let (rtype, class, length) = (RecordType(word(0)?), word(2)?, usize::from(word(8)?));
        let ttl_at = fixed + 4;
        let ttl = u32_at(self.bytes, ttl_at).ok_or(ResponseError::Malformed)?;
        let rdata = fixed + 10..fixed + 10 + length;
        if rdata.end > self.bytes.len() {
            return Err(ResponseError::Malformed);
        }
        self.end = rdata.end;
        if let Some(opt) = &mut self.opt {
            opt.last = false;
        }
        if rtype == RecordType::OPT {
            // RFC 6891 §6.1.1: at most one OPT record, in the additional section, owned by the root.
            if self.opt.is_some() || section != Section::Additional || owner != NameId::ROOT {
                return Err(ResponseError::Malformed);
            }
            let [rcode_high, ..] = ttl.to_be_bytes();
            self.opt = Some(OptRecord { start, options: rdata, rcode_high, last: true });
            return Ok(());
        }
        let mut target = NameId::ROOT;
        // The format of RDATA depends on the class. Records of classes other than IN are removed later.
        if class == CLASS_IN {
            walk_rdata(&mut self.names, self.bytes, rtype, rdata.clone(), |_, part| {
                if let RdataPart::Name { name, .. } = part {
                    target = name;
                }
            })?;
        }
        // RFC 2181 §8: a TTL with the most significant bit set is treated as 0.
        let ttl = if ttl > MAX_TTL { 0 } else { ttl };
        self.records.push(Record { section, owner, rtype, class, ttl, ttl_at, rdata, target });
        Ok(())
    }

    pub(super) fn rdata(&self, record: &Record) -> &'a [u8] {
        &self.bytes[record.rdata.clone()]
    }
}

/// A piece of a record's RDATA, as [`walk_rdata`] finds it.
pub(super) enum RdataPart<'a> {
    /// Octets without names, which are copied unchanged.
    Bytes(&'a [u8]),
    /// A domain name within the RDATA.
    Name {
        name: NameId,
        /// True if it may be written compressed (RFC 3597 §4).
        compress: bool,
        /// The octets of the name as received.
        octets: &'a [u8],
    },
}

/// Calls a function for each piece of the RDATA at `rdata`, in order.
///
/// # Errors
/// Fails if the RDATA is shorter or longer than its type requires, or a name in it is malformed.
pub(super) fn walk_rdata<'a>(
    names: &mut Names<'a>,
    bytes: &'a [u8],
    rtype: RecordType,
    rdata: Range<usize>,
    mut visit: impl FnMut(&Names<'a>, RdataPart<'a>),
) -> Result<(), ResponseError> {
    let mut at = rdata.start;
    for field in layout(rtype) {
        let end = match field {
            Field::Fixed(length) => at + length,
            Field::Text => at + 1 + usize::from(*bytes.get(at).ok_or(ResponseError::Malformed)?),
            Field::Rest => rdata.end,
            Field::Compressible | Field::Uncompressed => {
                let (name, end) = names.read(at)?;
                if end > rdata.end {
                    return Err(ResponseError::Malformed);
                }
                let compress = matches!(field, Field::Compressible);
                visit(names, RdataPart::Name { name, compress, octets: &bytes[at..end] });
                at = end;
                continue;
            }
        };
        if end > rdata.end {
            return Err(ResponseError::Malformed);
        }
        visit(names, RdataPart::Bytes(&bytes[at..end]));
        at = end;
    }
    if at == rdata.end { Ok(()) } else { Err(ResponseError::Malformed) }
}

/// A field in the RDATA layout of a type.
pub(super) enum Field {
    /// A fixed number of octets.
    Fixed(usize),
    /// A character string: a length octet and as many octets (RFC 1035 §3.3).
    Text,
    /// A name that may be compressed: only types of RFC 1035 have such names (RFC 3597 §4).
    Compressible,
    /// A name that is written in full, although a compressed one is understood (RFC 3597 §4).
    Uncompressed,
    /// All octets up to the end of the RDATA.
    Rest,
}

/// Returns the RDATA layout of types that contain names (RFC 3597 §4 and later ones) or an address.
pub(super) fn layout(rtype: RecordType) -> &'static [Field] {
    use Field::{Compressible, Fixed, Rest, Text, Uncompressed};
    match rtype {
        RecordType::A => &[Fixed(4)],
        RecordType::AAAA => &[Fixed(16)],
        RecordType::NS
        | RecordType::MD
        | RecordType::MF
        | RecordType::CNAME
        | RecordType::MB
        | RecordType::MG
        | RecordType::MR
        | RecordType::PTR => &[Compressible],
        RecordType::SOA => &[Compressible, Compressible, Fixed(20)],
        RecordType::MINFO => &[Compressible, Compressible],
        RecordType::MX => &[Fixed(2), Compressible],
        RecordType::RP => &[Uncompressed, Uncompressed],
        RecordType::AFSDB | RecordType::RT | RecordType::KX => &[Fixed(2), Uncompressed],
        RecordType::PX => &[Fixed(2), Uncompressed, Uncompressed],
        RecordType::SRV => &[Fixed(6), Uncompressed],
        RecordType::NAPTR => &[Fixed(4), Text, Text, Text, Uncompressed],
        RecordType::DNAME => &[Uncompressed],
        RecordType::SIG | RecordType::RRSIG => &[Fixed(18), Uncompressed, Rest],
        RecordType::NXT | RecordType::NSEC => &[Uncompressed, Rest],
        RecordType::SVCB | RecordType::HTTPS => &[Fixed(2), Uncompressed, Rest],
        _ => &[Rest],
    }
}
