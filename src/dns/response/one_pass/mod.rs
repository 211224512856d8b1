//! The fast path of response parsing: one pass over everyday responses, that is, a chain in order with its data, then
//! authority records.
//!
//! [`parse`] returns exactly what the general parser returns, or `None`, and then the general parser decides. It
//! accepts only responses from which nothing is removed or moved except an OPT record at the end. Anything unusual
//! (records out of order, foreign owners, pointers to bytes that were not read as a name) yields `None`.

mod names;

use names::{NameList, OffsetNames};

use super::chain::answers;
use super::order::is_proof;
use super::packed::{Packed, Parts};
use super::parse::{Field, MAX_TTL, Section, layout};
use super::{Question, Response, encode_edes, kept_flags, svcb};
use crate::dns::rcode::Rcode;
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, u16_at, u32_at};

/// The limit of records, OPT excluded; longer responses take the general path.
const MAX_RECORDS: usize = 64;

/// Parses a response whose header and question have been checked. Returns `None` if it is not of the everyday form.
pub(super) fn parse(bytes: &[u8], header: &Header, question: &Question, reach: &Reach) -> Option<Response> {
    let mut reader = Reader {
        names: OffsetNames::new(bytes)?,
        qtype: question.qtype,
        at: HEADER,
        kept_end: HEADER,
        chain: NameList::new(),
        target: None,
        services: NameList::new(),
        expected: NameList::new(),
        ttl_offsets: [0; MAX_RECORDS],
        records: 0,
        answer_ttl: None,
        is_answered: false,
        has_data: false,
        has_other_authority: false,
        soa: None,
        opt: None,
        private_address: false,
        reach,
    };
    reader.read_question()?;
    for section in Section::ALL {
        for _ in 0..header.counts[section.index()] {
            reader.read_record(section)?;
        }
    }
    reader.finish(header, question)
}

/// The state of the pass over a response.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that was seen or not, in any combination")]
struct Reader<'a> {
    /// The names read so far.
    names: OffsetNames<'a>,
    qtype: RecordType,
    /// The offset of the next record.
    at: usize,
    /// The offset after the last record that is kept.
    kept_end: usize,
    /// The names of the CNAME chain, QNAME first.
    chain: NameList,
    /// The target of a CNAME record that was itself asked for.
    target: Option<usize>,
    /// The names that MX, NAPTR, SRV, SVCB and HTTPS records lead to, each once.
    services: NameList,
    /// The names whose addresses are expected in the additional section. Names beyond its capacity are forgotten.
    expected: NameList,
    /// The offsets of the TTL fields.
    ttl_offsets: [u16; MAX_RECORDS],
    /// The number of records, OPT excluded.
    records: usize,
    /// The lowest TTL of the answer section.
    answer_ttl: Option<u32>,
    /// True if the end of the chain has a record of the requested type.
    is_answered: bool,
    /// True if a record other than an alias was read. An alias after it would have to be moved.
    has_data: bool,
    /// True if an authority record other than a proof was read. A proof after it would have to be moved.
    has_other_authority: bool,
    /// The first SOA record of the authority section.
    soa: Option<Soa>,
    opt: Option<Opt>,
    /// True if an address or hint is not globally reachable.
    private_address: bool,
    /// The definition of globally reachable addresses.
    reach: &'a Reach,
}

/// The fields of a SOA record that limit negative caching (RFC 2308 §5).
#[derive(Clone, Copy)]
struct Soa {
    /// The offset of the TTL field.
    ttl_at: usize,
    /// The lesser of its TTL and its MINIMUM, in seconds.
    negative_ttl: u32,
}

/// The fields of an OPT record that are used.
#[derive(Clone, Copy)]
struct Opt {
    /// The offset of its options, which end with the record.
    options_at: usize,
    /// The upper eight bits of the response code (RFC 6891 §6.1.3).
    rcode_high: u8,
}

/// A record other than OPT; names are offsets.
struct RecordFields {
    owner: usize,
    rtype: RecordType,
    ttl: u32,
    /// The offset of the TTL field.
    ttl_at: usize,
    /// The offset of the RDATA, which ends with the record.
    rdata_at: usize,
    /// The last name in the RDATA; `None` if it contains no name.
    target: Option<usize>,
}

impl Reader<'_> {
    /// Reads the question and starts the chain at its name.
    fn read_question(&mut self) -> Option<()> {
        let (qname, after) = self.names.read(HEADER)?;
        self.at = after + 4;
        self.kept_end = self.at;
        self.chain.push(qname)
    }

    /// Reads the next record. Returns `None` if the response is not of the everyday form.
    fn read_record(&mut self, section: Section) -> Option<()> {
        // The OPT record must be the last one, so that it can be cut off.
        if self.opt.is_some() {
            return None;
        }
        let (owner, fixed) = self.names.read(self.at)?;
        let rdata_at = fixed + 10;
        let &[type_high, type_low, class_high, class_low, t0, t1, t2, t3, length_high, length_low] =
            self.names.bytes.get(fixed..rdata_at)?.first_chunk()?;
        let rtype = RecordType(u16::from_be_bytes([type_high, type_low]));
        let ttl = u32::from_be_bytes([t0, t1, t2, t3]);
        let end = rdata_at + usize::from(u16::from_be_bytes([length_high, length_low]));
        if end > self.names.bytes.len() {
            return None;
        }
        self.at = end;
        if rtype == RecordType::OPT {
            if section != Section::Additional || !self.names.is_root(owner) {
                return None;
            }
            self.opt = Some(Opt { options_at: rdata_at, rcode_high: t0 });
            return Some(());
        }
        // The general parser removes records of other classes and rewrites TTLs over 31 bits.
        if u16::from_be_bytes([class_high, class_low]) != CLASS_IN || ttl > MAX_TTL {
            return None;
        }
        self.kept_end = end;
        let ttl_at = fixed + 4;
        *self.ttl_offsets.get_mut(self.records)? = u16::try_from(ttl_at).ok()?;
        self.records += 1;
        let mut record = RecordFields { owner, rtype, ttl, ttl_at, rdata_at, target: None };
        self.read_rdata(&mut record)?;
        match section {
            Section::Answer if rtype == RecordType::CNAME => self.follow(&record),
            Section::Answer => self.accept_answer(&record),
            Section::Authority => self.accept_authority(&record),
            Section::Additional => {
                let is_address = matches!(rtype, RecordType::A | RecordType::AAAA);
                (is_address && self.expected.contains(&self.names, owner)).then_some(())
            }
        }
    }

    /// Checks the RDATA of a record, which ends at the current offset, and notes the last name in it.
    fn read_rdata(&mut self, record: &mut RecordFields) -> Option<()> {
        let end = self.at;
        let rdata = self.names.bytes.get(record.rdata_at..end)?;
        match (record.rtype, rdata.len()) {
            (RecordType::A, 4) | (RecordType::AAAA, 16) => {
                self.private_address |= !self.reach.is_global(svcb::address(rdata)?);
                return Some(());
            }
            (RecordType::A | RecordType::AAAA, _) => return None,
            _ => {}
        }
        let mut at = record.rdata_at;
        for field in layout(record.rtype) {
            at = match field {
                Field::Fixed(length) => at + length,
                Field::Text => at + 1 + usize::from(*self.names.bytes.get(at)?),
                Field::Rest => end,
                Field::Compressible | Field::Uncompressed => {
                    let (name, after) = self.names.read(at)?;
                    record.target = Some(name);
                    after
                }
            };
            // Checked after every field: a name must not be read from bytes after the record.
            if at > end {
                return None;
            }
        }
        (at == end).then_some(())
    }

    /// Follows a CNAME record, which must continue the chain.
    fn follow(&mut self, record: &RecordFields) -> Option<()> {
        let target = record.target?;
        if self.target.is_some() || self.has_data || !self.names.are_same(record.owner, self.chain.last()?) {
            return None;
        }
        self.note_answer_ttl(record.ttl);
        if self.qtype == RecordType::CNAME {
            // Asked for itself, a CNAME record is the answer and is not followed (RFC 1034 §3.6.2).
            self.target = Some(target);
            self.is_answered = true;
            return Some(());
        }
        // A loop; the general parser decides where the chain ends.
        if self.chain.contains(&self.names, target) {
            return None;
        }
        self.is_answered = false;
        self.chain.push(target)
    }

    /// Accepts a record of the answer section, whose owner must be on the chain.
    fn accept_answer(&mut self, record: &RecordFields) -> Option<()> {
        let is_at_end = self.names.are_same(record.owner, self.chain.last()?);
        if !is_at_end && !self.chain.contains(&self.names, record.owner) {
            return None;
        }
        let covers = match record.rtype {
            RecordType::RRSIG if self.qtype != RecordType::RRSIG => {
                RecordType(u16_at(self.names.bytes, record.rdata_at)?)
            }
            rtype => rtype,
        };
        // The position of a DNAME record within the chain is determined by the general parser.
        if covers == RecordType::DNAME || !answers(covers, self.qtype) {
            return None;
        }
        self.has_data |= record.rtype != RecordType::RRSIG;
        self.is_answered |= is_at_end && record.rtype == self.qtype;
        self.note_answer_ttl(record.ttl);
        match record.rtype {
            RecordType::SVCB | RecordType::HTTPS => {
                let summary =
                    svcb::summarise(svcb::params(self.names.bytes.get(record.rdata_at..self.at)?), self.reach)?;
                if summary.has_ech {
                    return None;
                }
                self.private_address |= summary.has_private_hint;
                let target = record.target?;
                if self.names.is_root(target) {
                    self.expect_addresses_of(record.owner);
                } else {
                    self.expect_addresses_of(target);
                    self.note_service(target)?;
                }
            }
            RecordType::MX | RecordType::SRV => {
                self.expect_addresses_of(record.target?);
                self.note_service(record.target?)?;
            }
            RecordType::NAPTR => self.note_service(record.target?)?,
            RecordType::NS => self.expect_addresses_of(record.target?),
            _ => {}
        }
        Some(())
    }

    /// Notes a name that a record of the answer leads to.
    fn note_service(&mut self, target: usize) -> Option<()> {
        if self.names.is_root(target) || self.services.contains(&self.names, target) {
            return Some(());
        }
        self.services.push(target)
    }

    /// Accepts a record of the authority section, whose owner must be at or above a name of the chain.
    fn accept_authority(&mut self, record: &RecordFields) -> Option<()> {
        let covers = match record.rtype {
            RecordType::RRSIG => RecordType(u16_at(self.names.bytes, record.rdata_at)?),
            rtype => rtype,
        };
        if is_proof(covers) && self.has_other_authority {
            return None;
        }
        self.has_other_authority |= !is_proof(covers);
        match record.rtype {
            RecordType::NS => self.expect_addresses_of(record.target?),
            RecordType::SOA if self.soa.is_none() => {
                let negative_ttl = record.ttl.min(u32_at(self.names.bytes, self.at - 4)?);
                self.soa = Some(Soa { ttl_at: record.ttl_at, negative_ttl });
            }
            RecordType::SOA | RecordType::DS | RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG => {}
            _ => return None,
        }
        self.chain.iter().any(|name| self.names.is_at_or_above(record.owner, name)).then_some(())
    }

    /// Notes that the addresses of `name` are expected. If the list is full they count as unexpected, which only costs
    /// the fast path.
    fn expect_addresses_of(&mut self, name: usize) {
        self.expected.push(name);
    }

    /// Notes the TTL of a record of the answer section.
    fn note_answer_ttl(&mut self, ttl: u32) {
        self.answer_ttl = Some(self.answer_ttl.map_or(ttl, |least| least.min(ttl)));
    }

    /// Assembles the response.
    fn finish(&self, header: &Header, question: &Question) -> Option<Response> {
        let bytes = self.names.bytes;
        let (rcode_high, ede_options) = match self.opt {
            Some(opt) => (opt.rcode_high, encode_edes(bytes.get(opt.options_at..self.at)?).ok()?),
            None => (0, Vec::new()),
        };
        let rcode = Rcode(u16::from(rcode_high) << 4 | header.flags & super::flag::RCODE);
        let (targets, service_targets) = (self.names.list(self.hops()), self.names.list(self.services.iter()));
        let mut parts = Parts {
            message: Vec::new(),
            ttl_offsets: self.ttl_offsets.get(..self.records)?,
            ede_options: &ede_options,
            targets: &targets,
            service_targets: &service_targets,
        };
        let mut message = Vec::with_capacity(self.kept_end + parts.octets_after_message());
        message.extend_from_slice(bytes.get(..self.kept_end)?);
        let ttl = match (rcode, self.soa) {
            (Rcode::NOERROR, _) if self.is_answered => self.answer_ttl?,
            (Rcode::NOERROR | Rcode::NXDOMAIN, Some(Soa { ttl_at, negative_ttl })) => {
                message.get_mut(ttl_at..ttl_at + 4)?.copy_from_slice(&negative_ttl.to_be_bytes());
                self.answer_ttl.map_or(negative_ttl, |ttl| ttl.min(negative_ttl))
            }
            _ => 0,
        };
        let [questions, answers, authorities, additionals] = header.counts;
        let counts = [questions, answers, authorities, additionals - u16::from(self.opt.is_some())];
        let (start, rest) = message.split_first_chunk_mut()?;
        *start = Header { id: 0, flags: kept_flags(header, question), counts }.to_bytes();
        let qname = question.qname.as_wire();
        rest.get_mut(..qname.len())?.copy_from_slice(qname);
        parts.message = message;
        let private = self.private_address.then_some(self.reach);
        Some(Response::new(Packed::new(parts), ttl, rcode, self.qtype, private))
    }

    /// Returns the targets of the CNAME chain.
    fn hops(&self) -> impl Iterator<Item = usize> + Clone {
        self.chain.iter().skip(1).chain(self.target)
    }
}

#[cfg(test)]
mod tests;
