//! What an upstream is asked and what it said, normalised once so that a cache hit is a copy.
//!
//! [`Response::parse`] keeps of a reply what belongs to the question, [`judge()`] decides per client what of that the
//! client may see.

mod bare;
mod casing;
mod chain;
mod cut;
mod edns;
mod inspected;
mod judge;
mod lame;
mod names;
mod order;
mod parse;
mod payload;
mod plain;
mod rebuild;
mod stored;
mod svcb;

use std::hash::{Hash, Hasher};

pub use bare::{bare_rcode, header_rcode};
pub use casing::Casing;
pub(super) use cut::Cut;
pub use edns::Edns;
pub use judge::{Judgement, ResponseRules, judge};
pub use payload::{Part, Payload, content_of_addresses};

use chain::Selection;
use inspected::Inspected;
use judge::{Reachable, holds_private_address};
use parse::{Message, Record, Section};
use payload::Withheld;
use stored::{Parts, Stored};
use svcb::Hints;

use super::name::LowerName;
use super::rcode::Rcode;
use super::rebinding::Reach;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, OPT_DO, OPTION_EDE, Options, PAYLOAD, flag, u16_at, u32_at};

/// What is asked upstream, and the key of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit on the wire, and they come in nearly any combination")]
pub struct Question {
    /// The QNAME.
    pub qname: LowerName,
    /// The QTYPE.
    pub qtype: RecordType,
    /// The DO bit: the answer holds DNSSEC records.
    pub dnssec_ok: bool,
    /// The AD bit: the answer says whether it is authentic. Set wherever DO is (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// The CD bit: the answer may be bogus.
    pub checking_disabled: bool,
    /// The RD bit.
    pub recursion_desired: bool,
    /// Who shares its answer: those who ask in the same partition of the cache, of which 0 is everybody's. Nothing of it goes
    /// upstream.
    pub partition: u32,
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.qname.hash(state);
        let bits = u64::from(self.dnssec_ok)
            | u64::from(self.checking_disabled) << 1
            | u64::from(self.recursion_desired) << 2
            | u64::from(self.authentic_data) << 3;
        state.write_u64(u64::from(self.partition) << 32 | u64::from(self.qtype.0) << 16 | bits);
    }
}

/// Writes the query that is sent upstream: QNAME in this case, RD, CD, AD and DO as asked, one OPT record, nothing else.
pub fn query_upstream(question: &Question, casing: Casing, id: u16, out: &mut Vec<u8>) {
    out.clear();
    let mut flags = 0;
    if question.recursion_desired {
        flags |= flag::RD;
    }
    if question.checking_disabled {
        flags |= flag::CD;
    }
    if question.authentic_data {
        flags |= flag::AD;
    }
    Header { id, flags, counts: [1, 0, 0, 1] }.write(out);
    casing.write(question.qname.as_wire(), out);
    for word in [question.qtype.0, CLASS_IN] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.push(0);
    let flags = if question.dnssec_ok { OPT_DO } else { 0 };
    for word in [RecordType::OPT.0, PAYLOAD, 0, flags, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Whether bytes from an upstream are the reply to what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCheck {
    /// They are something else: not a response, another ID, another question.
    NotOurs,
    /// They are but for the case of the QNAME: forged, or of an upstream that does not keep it.
    OtherCase,
    /// They are.
    Ours {
        /// The TC bit: ask again over TCP.
        truncated: bool,
        /// The response code as the header has it, without the bits EDNS adds.
        rcode: Rcode,
    },
}

/// Tells whether `message` is the reply to `question` asked in this case with `id`.
///
/// Cheap, and all that the checks against forged replies need (RFC 5452 §9.1): reads the header and the question.
#[must_use]
pub fn is_reply_to(message: &[u8], id: u16, question: &Question, casing: Casing) -> ReplyCheck {
    let qname = question.qname.as_wire();
    let is_cased = || message.get(HEADER..HEADER + qname.len()).is_some_and(|echo| casing.is_of(echo, qname));
    match Header::read(message) {
        Some(header)
            if header.id == id && echoes(message, &header, question) && casing != Casing::LOWER && !is_cased() =>
        {
            ReplyCheck::OtherCase
        }
        Some(header) if header.id == id && echoes(message, &header, question) => {
            ReplyCheck::Ours { truncated: header.flags & flag::TC != 0, rcode: Rcode(header.flags & flag::RCODE) }
        }
        _ => ReplyCheck::NotOurs,
    }
}

/// Returns whether `message` is a response (opcode QUERY) that holds exactly this question, in any case.
fn echoes(message: &[u8], header: &Header, question: &Question) -> bool {
    let qname = question.qname.as_wire();
    let end = HEADER + qname.len();
    header.flags & (flag::QR | flag::OPCODE) == flag::QR
        && header.counts[0] == 1
        && message.get(HEADER..end).is_some_and(|echo| echo.eq_ignore_ascii_case(qname))
        && u16_at(message, end) == Some(question.qtype.0)
        && u16_at(message, end + 2) == Some(CLASS_IN)
}

/// What an upstream said, ready to be sent to any client after patching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The message without an OPT record (ID 0, question in lower case), and what else of the reply is needed.
    stored: Stored,
    /// How long it may be cached, in seconds.
    ttl: u32,
    /// The response code, twelve bits.
    rcode: Rcode,
    /// The type that was asked for.
    qtype: RecordType,
    /// How many of its first records a client cannot do without.
    required: u16,
    /// What is left of it without the addresses that are not globally reachable; `None` if it has no such address.
    reachable: Option<Box<Reachable>>,
    /// What policies that inspect targets say of these; `None` where the targets are so few that each hit looks at them.
    inspected: Option<Box<Inspected>>,
    /// What it carries.
    payload: Payload,
    /// Whether it was kept from a client.
    withheld: Withheld,
}

/// Why a reply is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is no response, or one to another question.
    #[error("the reply is to another question")]
    NotOurs,
    /// It is truncated.
    #[error("the reply is truncated")]
    Truncated,
    /// Its form is broken.
    #[error("the reply is malformed")]
    Malformed,
    /// It holds more records than we look at.
    #[error("the reply holds too many records")]
    TooManyRecords,
}

impl Response {
    /// Reads the reply to `question` as [`Response::parse_in`] does, in a network without translators of its own.
    ///
    /// # Errors
    /// As there.
    pub fn parse(message: &[u8], question: &Question) -> Result<Self, ResponseError> {
        Self::parse_in(message, question, &Reach::default())
    }

    /// Reads the reply to `question` and keeps what belongs to it; `reach` tells which addresses are globally reachable.
    ///
    /// # Errors
    /// A reply to something else, a truncated or a malformed one, one with too many records.
    pub fn parse_in(message: &[u8], question: &Question, reach: &Reach) -> Result<Self, ResponseError> {
        let header = Header::read(message).ok_or(ResponseError::Malformed)?;
        if !echoes(message, &header, question) {
            return Err(ResponseError::NotOurs);
        }
        if header.flags & flag::TC != 0 {
            return Err(ResponseError::Truncated);
        }
        let message = casing::without_ours(message, &header, question.qname.as_wire());
        match plain::parse(&message, &header, question, reach) {
            Some(response) => Ok(response),
            None => Self::parse_any(&message, &header, question, reach),
        }
    }

    /// Reads a reply of any form, its header and question checked.
    fn parse_any(message: &[u8], header: &Header, question: &Question, reach: &Reach) -> Result<Self, ResponseError> {
        // A name is written anew as it stands where it came first, which is the question for many.
        let mut lowered = message.to_vec();
        if let Some(echo) = lowered.get_mut(HEADER..HEADER + question.qname.as_wire().len()) {
            echo.copy_from_slice(question.qname.as_wire());
        }
        let mut message = Message::read(&lowered)?;
        let mut selection = chain::select(&message, question.qtype)?;
        order::drop_signatures(&message, &mut selection.keep, |record| has_ech(&message, record));
        let is_moved = order::arrange(&mut message, &mut selection);
        let rcode_high = message.opt.as_ref().map_or(0, |opt| u16::from(opt.rcode_high));
        let rcode = Rcode(rcode_high << 4 | header.flags & flag::RCODE);
        let ttl = limit_ttls(&mut message, &selection, rcode, question.qtype);
        let ede_options = match &message.opt {
            Some(opt) => encode_edes(&message.bytes[opt.options.clone()])?,
            None => Vec::new(),
        };
        let mut contents = Contents::of(&message, &selection, reach);
        contents.rebuild |= is_moved;
        let list = |names: &[names::NameId]| {
            let mut wire = Vec::new();
            for &name in names {
                message.names.write_lower(name, &mut wire);
            }
            wire
        };
        let (targets, service_targets) = (list(&selection.targets), list(&selection.service_targets));
        let mut flags = kept_flags(header, question);
        if contents.changes_validated {
            flags &= !flag::AD;
        }
        let Body { message, ttl_offsets } = if contents.rebuild {
            rebuild::rebuild(&mut message, &selection.keep, Hints::Keep, flags, question.qtype)?
        } else {
            copy(&message, flags)
        };
        let stored = Stored::new(Parts {
            message,
            ttl_offsets: &ttl_offsets,
            ede_options: &ede_options,
            targets: &targets,
            service_targets: &service_targets,
        });
        let private = contents.private_address.then_some(reach);
        Ok(Self::new(stored, ttl, rcode, question.qtype, private))
    }

    /// Puts a response together, and does once what would else be done for every client that gets it: what a hit costs
    /// does not depend on what the answer holds.
    ///
    /// `private` tells which addresses are to go, where there is any.
    fn new(stored: Stored, ttl: u32, rcode: Rcode, qtype: RecordType, private: Option<&Reach>) -> Self {
        let inspected = Inspected::for_targets(names(stored.targets()).chain(names(stored.service_targets())).count());
        let payload = Payload::of(stored.message(), stored.ede_options());
        let required = Self::count_required(stored.message(), qtype, stored.ttl_offsets());
        let withheld = Withheld::default();
        let mut response = Self { stored, ttl, rcode, qtype, required, reachable: None, inspected, payload, withheld };
        response.reachable = private.map(|reach| Box::new(Reachable::of(&response, reach)));
        response
    }

    /// Makes no TTL longer than `most` seconds: a resolver may place an upper bound on any (RFC 2181 §8).
    pub fn bound_ttls(&mut self, most: u32) {
        self.ttl = self.ttl.min(most);
        self.stored.change_ttls(|ttl| ttl.min(most));
        if let Some(Reachable::Rest(rest)) = self.reachable.as_deref_mut() {
            rest.bound_ttls(most);
        }
    }

    /// Returns the whole message without an OPT record; ID 0, question in lower case.
    pub(super) fn message(&self) -> &[u8] {
        self.stored.message()
    }

    /// Returns where the TTL fields are in the message.
    pub(super) fn ttl_offsets(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.stored.ttl_offsets()
    }

    /// Returns the upstream's EDE options, encoded one after the other.
    pub(super) fn ede_options(&self) -> &[u8] {
        self.stored.ede_options()
    }

    /// Returns the response code, with the bits EDNS adds.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Returns whether it answers a question for this name and type, as its own question says.
    #[must_use]
    pub fn is_to(&self, qname: &LowerName, qtype: RecordType) -> bool {
        let (message, end) = (self.message(), HEADER + qname.as_wire().len());
        self.qtype == qtype && message.get(HEADER..end) == Some(qname.as_wire())
    }

    /// Returns for how many seconds it may be cached; 0 is not at all.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Returns how much data it carries that its sender chose.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Notes that a budget kept it from a client.
    pub fn note_withheld(&self) {
        self.withheld.note();
    }

    /// Returns whether a budget kept it from a client.
    #[must_use]
    pub fn was_withheld(&self) -> bool {
        self.withheld.is_noted()
    }

    /// Returns the addresses of the answer section, in its order: 4 or 16 octets each.
    pub fn addresses(&self) -> impl Iterator<Item = &[u8]> + Clone {
        payload::addresses(self.message())
    }

    /// Returns the targets of the CNAME chain, in order.
    pub fn targets(&self) -> impl Iterator<Item = LowerName> {
        names(self.stored.targets())
    }

    /// Returns the target names of the SVCB and HTTPS records.
    pub fn service_targets(&self) -> impl Iterator<Item = LowerName> {
        names(self.stored.service_targets())
    }

    /// Returns how many octets it takes, on the heap and in itself.
    #[must_use]
    pub fn size(&self) -> usize {
        let reachable = match self.reachable.as_deref() {
            Some(Reachable::Rest(rest)) => rest.size(),
            Some(Reachable::Nothing) | None => 0,
        };
        let inspected = self.inspected.as_ref().map_or(0, |_| size_of::<Inspected>());
        size_of::<Self>() + self.stored.size() + reachable + inspected
    }
}

/// A message that is kept, and where its TTL fields are.
struct Body {
    /// The message.
    message: Vec<u8>,
    /// The offsets of the TTL fields.
    ttl_offsets: Vec<u16>,
}

/// What the records of a response make necessary.
struct Contents {
    /// The message cannot be kept as it came.
    rebuild: bool,
    /// Something that the AD bit speaks about (answer and authority, RFC 4035 §3.1.6) goes.
    changes_validated: bool,
    /// An address in it is not globally reachable.
    private_address: bool,
}

impl Contents {
    /// Looks through the records.
    fn of(message: &Message<'_>, selection: &Selection, reach: &Reach) -> Self {
        let mut contents = Self {
            rebuild: message.names.has_stray_pointer() || message.opt.as_ref().is_some_and(|opt| !opt.last),
            changes_validated: false,
            private_address: false,
        };
        for (record, &keep) in message.records.iter().zip(&selection.keep) {
            let mut changes = !keep;
            if keep && matches!(record.rtype, RecordType::SVCB | RecordType::HTTPS) {
                let summary = svcb::summarise(svcb::params(message.rdata(record)), reach).unwrap_or_default();
                changes |= summary.has_ech;
                contents.private_address |= summary.has_private_hint;
            }
            contents.private_address |= keep && holds_private_address(message, record, reach);
            contents.rebuild |= changes;
            contents.changes_validated |= changes && record.section != Section::Additional;
        }
        contents
    }
}

/// Returns whether a record has the keys of Encrypted Client Hello, which are taken out.
fn has_ech(message: &Message<'_>, record: &Record) -> bool {
    matches!(record.rtype, RecordType::SVCB | RecordType::HTTPS)
        && svcb::summarise(svcb::params(message.rdata(record)), &Reach::default())
            .is_some_and(|summary| summary.has_ech)
}

/// Copies a message of which everything but a last OPT record stays.
fn copy(message: &Message<'_>, flags: u16) -> Body {
    let end = message.opt.as_ref().map_or(message.end, |opt| opt.start);
    let [questions, answers, authorities, additionals] = message.header.counts;
    let additionals = additionals - u16::from(message.opt.is_some());
    let mut out = Vec::with_capacity(end);
    Header { id: 0, flags, counts: [questions, answers, authorities, additionals] }.write(&mut out);
    message.names.write_lower(message.qname, &mut out);
    out.extend_from_slice(&message.bytes[message.body - 4..end]);
    for record in &message.records {
        out[record.ttl_at..record.ttl_at + 4].copy_from_slice(&record.ttl.to_be_bytes());
    }
    // None is left out: a message has at most 65,535 octets.
    let offsets = message.records.iter().filter_map(|record| u16::try_from(record.ttl_at).ok());
    Body { message: out, ttl_offsets: offsets.collect() }
}

/// Returns for how many seconds the response may be cached, and makes no TTL say more.
///
/// The least TTL of the answer; of a negative response also the SOA's TTL and its MINIMUM, whichever is less, and 0 if
/// there is none (RFC 2308 §5). Any RCODE but NOERROR and NXDOMAIN is not for caching here.
fn limit_ttls(message: &mut Message<'_>, selection: &Selection, rcode: Rcode, qtype: RecordType) -> u32 {
    let kept = |section| {
        let records = message.records.iter().zip(&selection.keep).enumerate();
        records
            .filter_map(move |(index, (record, keep))| (*keep && record.section == section).then_some((index, record)))
    };
    let answer_ttl = kept(Section::Answer).map(|(_, record)| record.ttl).min();
    let is_final = |record: &Record| record.rtype == qtype && record.owner == selection.final_name;
    match rcode {
        Rcode::NOERROR if kept(Section::Answer).any(|(_, record)| is_final(record)) => answer_ttl.unwrap_or(0),
        Rcode::NOERROR | Rcode::NXDOMAIN => {
            let soa = kept(Section::Authority).find(|(_, record)| record.rtype == RecordType::SOA);
            let Some((index, soa)) = soa else { return 0 };
            let minimum = u32_at(message.bytes, soa.rdata.end - 4).unwrap_or(0);
            let negative_ttl = soa.ttl.min(minimum);
            message.records[index].ttl = negative_ttl;
            answer_ttl.map_or(negative_ttl, |ttl| ttl.min(negative_ttl))
        }
        _ => 0,
    }
}

/// Returns the flags of an upstream that are kept: AD for those alone who asked for it (RFC 6840 §5.8), and AA never, as
/// what is forwarded is not ours (RFC 1035 §4.1.1).
fn kept_flags(header: &Header, question: &Question) -> u16 {
    let authentic = if question.authentic_data { flag::AD } else { 0 };
    header.flags & (flag::QR | flag::RD | flag::RA | flag::CD | flag::RCODE | authentic)
}

/// How many EDE options of an upstream are passed on.
const MAX_EDES: usize = 4;

/// How long the text of each may be, in octets.
const MAX_EDE_TEXT: usize = 160;

/// Returns the EDE options among those of an OPT record, encoded again: texts cut, or left out when they are not UTF-8
/// (RFC 8914 §2).
fn encode_edes(options: &[u8]) -> Result<Vec<u8>, ResponseError> {
    let mut encoded = Vec::new();
    let mut left = MAX_EDES;
    for option in Options(options) {
        let (code, data) = option.map_err(|_| ResponseError::Malformed)?;
        if code != OPTION_EDE || left == 0 {
            continue;
        }
        let (info, text) = data.split_at_checked(2).ok_or(ResponseError::Malformed)?;
        let text = str::from_utf8(text).unwrap_or_default();
        // It ends up on terminals and in logs, and whoever runs the zone wrote it.
        let text = text[..text.floor_char_boundary(MAX_EDE_TEXT)].replace(|c: char| c.is_ascii_control(), " ");
        let length = u16::try_from(info.len() + text.len()).map_err(|_| ResponseError::Malformed)?;
        encoded.extend_from_slice(&OPTION_EDE.to_be_bytes());
        encoded.extend_from_slice(&length.to_be_bytes());
        encoded.extend_from_slice(info);
        encoded.extend_from_slice(text.as_bytes());
        left -= 1;
    }
    Ok(encoded)
}

/// Returns the wire names that stand one after the other in `bytes`.
fn names(bytes: &[u8]) -> impl Iterator<Item = LowerName> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (name, length) = LowerName::from_uncompressed(rest).ok()?;
        rest = &rest[length..];
        Some(name)
    })
}

#[cfg(test)]
mod tests;
