//! The everyday form of a response, read in one pass: a chain in order and what its end has, then who says so.
//!
//! [`parse`] gives exactly what the general way gives, or nothing: then the general way decides. It accepts only
//! responses of which everything is kept as it came, but an OPT record at the end. What is in any way unusual (records
//! out of order or of foreign names, pointers to what was not read as a name, names nobody asked for) is not for it.
//!
//! It costs a quarter of the general way, which numbers every name by a keyed hash; here names are told apart by where
//! they stand, and compared only where that differs.

mod names;

use names::{Names, Places};

use super::chain::answers;
use super::order::is_proof;
use super::parse::{Field, MAX_TTL, Section, layout};
use super::stored::{Parts, Stored};
use super::{Question, Response, encode_edes, kept_flags, svcb};
use crate::dns::rcode::Rcode;
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, HEADER, Header, u16_at, u32_at};

/// How many records a message may have to be read here, OPT excluded.
const MAX_RECORDS: usize = 64;

/// Reads a response whose header and question have been checked, if it has the everyday form.
pub(super) fn parse(bytes: &[u8], header: &Header, question: &Question, reach: &Reach) -> Option<Response> {
    let mut reader = Reader {
        names: Names::new(bytes)?,
        qtype: question.qtype,
        at: HEADER,
        kept_end: HEADER,
        chain: Places::new(),
        target: None,
        services: Places::new(),
        named: Places::new(),
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

/// A response, as far as it has been read.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that was seen or not, in any combination")]
struct Reader<'a> {
    /// The names so far.
    names: Names<'a>,
    /// The type that was asked for.
    qtype: RecordType,
    /// Where the next record starts.
    at: usize,
    /// Where the last record that is kept ends.
    kept_end: usize,
    /// The names of the chain, QNAME first.
    chain: Places,
    /// The target of the CNAME record that was itself asked for.
    target: Option<usize>,
    /// The names that MX, NAPTR, SRV, SVCB and HTTPS records lead to, each once.
    services: Places,
    /// The names that records say where to go on; there may be more.
    named: Places,
    /// Where the TTL fields are.
    ttl_offsets: [u16; MAX_RECORDS],
    /// How many records there are.
    records: usize,
    /// The least TTL of the answer.
    answer_ttl: Option<u32>,
    /// Whether the chain's end has a record of the type that was asked for.
    is_answered: bool,
    /// Whether there was a record that is no alias: an alias behind it has to move.
    has_data: bool,
    /// Whether there was an authority record that is no proof: a proof behind it has to move.
    has_other_authority: bool,
    /// The first SOA record of the authority section.
    soa: Option<Soa>,
    /// The OPT record.
    opt: Option<Opt>,
    /// An address is not globally reachable.
    private_address: bool,
    /// Which addresses are.
    reach: &'a Reach,
}

/// What a SOA record says about the time to cache.
#[derive(Clone, Copy)]
struct Soa {
    /// Where its TTL is.
    ttl_at: usize,
    /// Its TTL, or its MINIMUM if that is less.
    negative_ttl: u32,
}

/// What is needed of an OPT record.
#[derive(Clone, Copy)]
struct Opt {
    /// Where its options start; they end with the record.
    options_at: usize,
    /// The upper eight bits of the response code.
    rcode_high: u8,
}

/// A record, OPT excepted.
struct Record {
    /// Where its owner stands.
    owner: usize,
    /// Its type.
    rtype: RecordType,
    /// Its TTL.
    ttl: u32,
    /// Where its TTL field is.
    ttl_at: usize,
    /// Where its RDATA starts; it ends with the record.
    rdata_at: usize,
    /// The last name in its RDATA, if there is one.
    target: Option<usize>,
}

impl Reader<'_> {
    /// Reads the question: the chain begins at its name.
    fn read_question(&mut self) -> Option<()> {
        let (qname, after) = self.names.read(HEADER)?;
        self.at = after + 4;
        self.kept_end = self.at;
        self.chain.push(qname)
    }

    /// Reads the next record; nothing if the response is not of the everyday form.
    fn read_record(&mut self, section: Section) -> Option<()> {
        // An OPT record is the last one.
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
        if u16::from_be_bytes([class_high, class_low]) != CLASS_IN || ttl > MAX_TTL {
            return None;
        }
        self.kept_end = end;
        let ttl_at = fixed + 4;
        *self.ttl_offsets.get_mut(self.records)? = u16::try_from(ttl_at).ok()?;
        self.records += 1;
        let mut record = Record { owner, rtype, ttl, ttl_at, rdata_at, target: None };
        self.read_rdata(&mut record)?;
        match section {
            Section::Answer if rtype == RecordType::CNAME => self.follow(&record),
            Section::Answer => self.take_answer(&record),
            Section::Authority => self.take_authority(&record),
            Section::Additional => {
                let is_address = matches!(rtype, RecordType::A | RecordType::AAAA);
                (is_address && self.named.hold(&self.names, owner)).then_some(())
            }
        }
    }

    /// Reads the RDATA of a record, which ends with it, and notes the last name in it.
    fn read_rdata(&mut self, record: &mut Record) -> Option<()> {
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
            // Also between the fields: a name must not be read from what stands behind the record.
            if at > end {
                return None;
            }
        }
        (at == end).then_some(())
    }

    /// Follows a CNAME record, which must be the next of the chain.
    fn follow(&mut self, record: &Record) -> Option<()> {
        let target = record.target?;
        if self.target.is_some() || self.has_data || !self.names.are_same(record.owner, self.chain.last()?) {
            return None;
        }
        self.note_answer_ttl(record.ttl);
        if self.qtype == RecordType::CNAME {
            // The record itself was asked for: it is the answer, not a way to it (RFC 1034 §3.6.2).
            self.target = Some(target);
            self.is_answered = true;
            return Some(());
        }
        if self.chain.hold(&self.names, target) {
            return None;
        }
        self.is_answered = false;
        self.chain.push(target)
    }

    /// Takes a record of the answer section, whose owner must be on the chain.
    fn take_answer(&mut self, record: &Record) -> Option<()> {
        let is_at_end = self.names.are_same(record.owner, self.chain.last()?);
        if !is_at_end && !self.chain.hold(&self.names, record.owner) {
            return None;
        }
        let covers = match record.rtype {
            RecordType::RRSIG if self.qtype != RecordType::RRSIG => {
                RecordType(u16_at(self.names.bytes, record.rdata_at)?)
            }
            rtype => rtype,
        };
        // A DNAME record has a place in the chain, which the general way finds.
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
                    self.name(record.owner);
                } else {
                    self.name(target);
                    self.note_service(target)?;
                }
            }
            RecordType::MX | RecordType::SRV => {
                self.name(record.target?);
                self.note_service(record.target?)?;
            }
            RecordType::NAPTR => self.note_service(record.target?)?,
            RecordType::NS => self.name(record.target?),
            _ => {}
        }
        Some(())
    }

    /// Notes a name that a record of the answer leads to.
    fn note_service(&mut self, target: usize) -> Option<()> {
        if self.names.is_root(target) || self.services.hold(&self.names, target) {
            return Some(());
        }
        self.services.push(target)
    }

    /// Takes a record of the authority section, whose owner must be at or above a name of the chain.
    fn take_authority(&mut self, record: &Record) -> Option<()> {
        let covers = match record.rtype {
            RecordType::RRSIG => RecordType(u16_at(self.names.bytes, record.rdata_at)?),
            rtype => rtype,
        };
        if is_proof(covers) && self.has_other_authority {
            return None;
        }
        self.has_other_authority |= !is_proof(covers);
        match record.rtype {
            RecordType::NS => self.name(record.target?),
            RecordType::SOA if self.soa.is_none() => {
                let negative_ttl = record.ttl.min(u32_at(self.names.bytes, self.at - 4)?);
                self.soa = Some(Soa { ttl_at: record.ttl_at, negative_ttl });
            }
            RecordType::SOA | RecordType::DS | RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG => {}
            _ => return None,
        }
        self.chain.iter().any(|name| self.names.is_at_or_above(record.owner, name)).then_some(())
    }

    /// Notes that a record says to go on at `name`; if there is no room for it, its addresses are unexpected.
    fn name(&mut self, name: usize) {
        self.named.push(name);
    }

    /// Notes the TTL of a record of the answer.
    fn note_answer_ttl(&mut self, ttl: u32) {
        self.answer_ttl = Some(self.answer_ttl.map_or(ttl, |least| least.min(ttl)));
    }

    /// Puts the response together.
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
        let mut message = Vec::with_capacity(self.kept_end + parts.room());
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
        Some(Response::new(Stored::new(parts), ttl, rcode, self.qtype, private))
    }

    /// Returns the targets of the chain.
    fn hops(&self) -> impl Iterator<Item = usize> + Clone {
        self.chain.iter().skip(1).chain(self.target)
    }
}

#[cfg(test)]
mod tests;
