//! A response read record by record, every name in it and every length checked.

use std::ops::Range;

use super::ResponseError;
use super::names::{NameId, Names};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, u16_at, u32_at};

/// How many records a response may have: as many address records as a message has room for.
const MAX_RECORDS: usize = 4096;

/// The highest TTL (RFC 2181 §8); a higher number means 0.
pub(super) const MAX_TTL: u32 = u32::MAX >> 1;

/// A response whose form has been checked.
pub(super) struct Message<'a> {
    /// Its bytes.
    pub(super) bytes: &'a [u8],
    /// Its header.
    pub(super) header: Header,
    /// Every name in it.
    pub(super) names: Names<'a>,
    /// The QNAME.
    pub(super) qname: NameId,
    /// Where the first record starts.
    pub(super) body: usize,
    /// Its records in order, the OPT record excluded.
    pub(super) records: Vec<Record>,
    /// Its OPT record.
    pub(super) opt: Option<OptRecord>,
    /// Where the last record ends, the OPT record included.
    pub(super) end: usize,
}

/// A section with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// What was asked for, and the chain that leads there.
    Answer,
    /// Who says so, or why there is nothing.
    Authority,
    /// What may help.
    Additional,
}

impl Section {
    /// The sections in order.
    pub(super) const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];

    /// Returns the place of the section's count in the header.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Answer => 1,
            Self::Authority => 2,
            Self::Additional => 3,
        }
    }
}

/// A record, OPT excepted.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Where it stands.
    pub(super) section: Section,
    /// Its owner.
    pub(super) owner: NameId,
    /// Its type.
    pub(super) rtype: RecordType,
    /// Its class.
    pub(super) class: u16,
    /// Its TTL; 0 if it was over 2³¹−1 (RFC 2181 §8).
    pub(super) ttl: u32,
    /// Where its TTL field is.
    pub(super) ttl_at: usize,
    /// Its RDATA.
    pub(super) rdata: Range<usize>,
    /// The last name in its RDATA: the target of a CNAME, NS, MX, SRV, SVCB, the signer of an RRSIG. The root where
    /// there is none.
    pub(super) target: NameId,
}

/// What is needed of an OPT record.
pub(super) struct OptRecord {
    /// Where it starts.
    pub(super) start: usize,
    /// Its options.
    pub(super) options: Range<usize>,
    /// The upper eight bits of the response code.
    pub(super) rcode_high: u8,
    /// Whether it is the last record.
    pub(super) last: bool,
}

impl<'a> Message<'a> {
    /// Reads a message whose header and question have been checked: one question, QNAME without a pointer.
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

    /// Reads the record at `end`, and moves that behind it.
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
            if self.opt.is_some() || section != Section::Additional || owner != NameId::ROOT {
                return Err(ResponseError::Malformed);
            }
            let [rcode_high, ..] = ttl.to_be_bytes();
            self.opt = Some(OptRecord { start, options: rdata, rcode_high, last: true });
            return Ok(());
        }
        let mut target = NameId::ROOT;
        // What RDATA means outside class IN is not ours to know: such records go anyway.
        if class == CLASS_IN {
            walk_rdata(&mut self.names, self.bytes, rtype, rdata.clone(), |_, part| {
                if let Part::Name { name, .. } = part {
                    target = name;
                }
            })?;
        }
        let ttl = if ttl > MAX_TTL { 0 } else { ttl };
        self.records.push(Record { section, owner, rtype, class, ttl, ttl_at, rdata, target });
        Ok(())
    }

    /// Returns the RDATA of a record.
    pub(super) fn rdata(&self, record: &Record) -> &'a [u8] {
        &self.bytes[record.rdata.clone()]
    }
}

/// A part of a record's RDATA.
pub(super) enum Part<'a> {
    /// Bytes that are copied as they are.
    Bytes(&'a [u8]),
    /// A name.
    Name {
        /// Which.
        name: NameId,
        /// Whether it may be compressed.
        compress: bool,
        /// Its octets as they came.
        octets: &'a [u8],
    },
}

/// Visits the parts of the RDATA at `rdata` in order.
///
/// # Errors
/// RDATA that is shorter or longer than its type says, or a name in it that is none.
pub(super) fn walk_rdata<'a>(
    names: &mut Names<'a>,
    bytes: &'a [u8],
    rtype: RecordType,
    rdata: Range<usize>,
    mut visit: impl FnMut(&Names<'a>, Part<'a>),
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
                visit(names, Part::Name { name, compress, octets: &bytes[at..end] });
                at = end;
                continue;
            }
        };
        if end > rdata.end {
            return Err(ResponseError::Malformed);
        }
        visit(names, Part::Bytes(&bytes[at..end]));
        at = end;
    }
    if at == rdata.end { Ok(()) } else { Err(ResponseError::Malformed) }
}

/// A field of RDATA.
pub(super) enum Field {
    /// So many octets.
    Fixed(usize),
    /// A length octet and so many octets.
    Text,
    /// A name that may be compressed: those of RFC 1035 only (RFC 3597 §4).
    Compressible,
    /// A name that is written in full, though a pointer in it is understood (RFC 3597 §4).
    Uncompressed,
    /// Whatever is left.
    Rest,
}

/// Returns the fields of the types whose RDATA holds names (RFC 3597 §4 and the later ones), or an address.
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
