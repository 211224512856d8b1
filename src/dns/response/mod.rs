//! Upstream queries and responses: a reply is reduced to what belongs to its question once, so that a cache hit is a
//! copy.
//!
//! [`Response::parse`] selects, orders and rewrites the records of a reply. Everyday replies take the fast path in
//! `one_pass`; all others are parsed name by name (`parse`, `names`), selected (`chain`), ordered (`order`) and rebuilt
//! (`rebuild`). [`filter_response`] then applies the policy of one client. Both paths must give the same result, which
//! property tests compare.

mod bare;
mod casing;
mod chain;
mod cut;
mod edns;
mod filter;
mod inspection_cache;
mod lame;
mod names;
mod one_pass;
mod order;
mod packed;
mod parse;
mod payload;
mod rebuild;
mod svcb;

use std::hash::{Hash, Hasher};

pub use bare::{bare_rcode, header_rcode};
pub use casing::Casing;
pub(super) use cut::Cut;
pub use edns::Edns;
pub use filter::{Filtered, ResponseRules, filter_response};
pub use payload::{Payload, PayloadPart, content_of_addresses};

use chain::Selection;
use filter::{Reachable, holds_private_address};
use inspection_cache::InspectionCache;
use packed::{Packed, Parts};
use parse::{Message, Record, Section};
use payload::Withheld;
use svcb::Hints;

use super::name::LowerName;
use super::rcode::Rcode;
use super::rebinding::Reach;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, OPT_DO, OPTION_EDE, Options, PAYLOAD, flag, u16_at, u32_at};

/// A question as it is asked upstream; also the key of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit on the wire, and they come in nearly any combination")]
pub struct Question {
    /// The QNAME in lower case.
    pub qname: LowerName,
    /// The record type that is asked for.
    pub qtype: RecordType,
    /// The DO bit: the answer contains DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The AD bit: the answer says whether it is authentic. Always set together with DO (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// The CD bit: the answer may fail validation (RFC 4035 §3.2.2).
    pub checking_disabled: bool,
    /// The RD bit (recursion desired).
    pub recursion_desired: bool,
    /// The cache partition: clients share an answer only within a partition, and all clients without one are in
    /// partition 0. The number is not sent upstream.
    pub partition: u32,
}

/// Hashes all fields but the name as a single word: each write to the hasher costs time in every look-up of the cache.
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

/// Writes the query for an upstream: QNAME in the given case, the flags RD, CD, AD and DO of the question, one OPT
/// record without options.
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

/// The result of matching a message from an upstream with an outstanding query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCheck {
    /// Not the reply: not a response, or the ID or question differs.
    NotOurs,
    /// The reply in all but the case of the QNAME: a forgery, or an upstream that does not preserve case.
    OtherCase,
    /// The reply.
    Ours {
        /// The TC bit: the query must be retried over TCP.
        truncated: bool,
        /// The four RCODE bits of the header; those of an OPT record are not read yet.
        rcode: Rcode,
    },
}

/// Matches `message` with the query for `question` that was sent in this case with `id`.
///
/// Reads only the header and the question, so a flood of forged replies is cheap to reject. These are the checks of RFC
/// 5452 §9.1 that do not concern addresses and ports.
#[must_use]
pub fn is_reply_to(message: &[u8], id: u16, question: &Question, casing: Casing) -> ReplyCheck {
    let qname = question.qname.as_wire();
    // The reply to a query in lower case may have any case (RFC 4343): there is no random case to verify.
    let is_cased = || message.get(HEADER..HEADER + qname.len()).is_some_and(|echo| casing.matches_case_of(echo, qname));
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

/// Returns whether `message` is a response with opcode QUERY that contains exactly this question, in any case.
fn echoes(message: &[u8], header: &Header, question: &Question) -> bool {
    let qname = question.qname.as_wire();
    let end = HEADER + qname.len();
    header.flags & (flag::QR | flag::OPCODE) == flag::QR
        && header.counts[0] == 1
        && message.get(HEADER..end).is_some_and(|echo| echo.eq_ignore_ascii_case(qname))
        && u16_at(message, end) == Some(question.qtype.0)
        && u16_at(message, end + 2) == Some(CLASS_IN)
}

/// An upstream's response, reduced to what belongs to its question. It can be sent to any client once the ID, the
/// flags, the case of the question and the TTLs are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The message without an OPT record (ID 0, question in lower case), and the other [`Parts`].
    packed: Packed,
    /// The time that it may be cached, in seconds.
    ttl: u32,
    /// The response code, with the upper bits of the OPT record.
    rcode: Rcode,
    /// The question's type.
    qtype: RecordType,
    /// The number of leading records that a client cannot do without.
    required: u16,
    /// The response without the addresses that are not globally reachable; `None` if it has no such address.
    reachable: Option<Box<Reachable>>,
    /// Cached results of target inspection, by policy; `None` if there are so few targets that each hit inspects them.
    inspections: Option<Box<InspectionCache>>,
    /// The amount of data that the sender chose, for budgets.
    payload: Payload,
    /// True if a budget withheld the response from a client.
    withheld: Withheld,
}

/// The reasons to discard a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A message that is not a response, or one with another question.
    #[error("the reply is to another question")]
    NotOurs,
    /// A reply with the TC bit set; the query must be retried over TCP.
    #[error("the reply is truncated")]
    Truncated,
    /// A reply whose names, lengths or counts are not well-formed.
    #[error("the reply is malformed")]
    Malformed,
    /// A reply with more records than `parse::MAX_RECORDS`.
    #[error("the reply holds too many records")]
    TooManyRecords,
}

impl Response {
    /// Parses the reply to `question` with [`Response::parse_in`] for a network without NAT64 prefixes of its own.
    ///
    /// # Errors
    /// Fails as [`Response::parse_in`] does.
    pub fn parse(message: &[u8], question: &Question) -> Result<Self, ResponseError> {
        Self::parse_in(message, question, &Reach::default())
    }

    /// Parses the reply to `question` and keeps the records that belong to it; `reach` defines which addresses are
    /// globally reachable.
    ///
    /// # Errors
    /// Fails for a reply to something else, a truncated or malformed reply, or one with too many records.
    pub fn parse_in(message: &[u8], question: &Question, reach: &Reach) -> Result<Self, ResponseError> {
        let header = Header::read(message).ok_or(ResponseError::Malformed)?;
        if !echoes(message, &header, question) {
            return Err(ResponseError::NotOurs);
        }
        if header.flags & flag::TC != 0 {
            return Err(ResponseError::Truncated);
        }
        // Both parsers get names without the random case of our query, which some upstreams copy into records.
        let message = casing::lower_random_case(message, &header, question.qname.as_wire());
        match one_pass::parse(&message, &header, question, reach) {
            Some(response) => Ok(response),
            None => Self::parse_any(&message, &header, question, reach),
        }
    }

    /// Parses a reply of any form. The caller has checked its header and question.
    fn parse_any(message: &[u8], header: &Header, question: &Question, reach: &Reach) -> Result<Self, ResponseError> {
        // A rebuilt message has each name in the case of its first occurrence, which is the question for most; it must
        // not keep the random case of our query.
        let mut lowered = message.to_vec();
        if let Some(echo) = lowered.get_mut(HEADER..HEADER + question.qname.as_wire().len()) {
            echo.copy_from_slice(question.qname.as_wire());
        }
        let mut message = Message::read(&lowered)?;
        let mut selection = chain::select(&message, question.qtype)?;
        // A record that loses its `ech` parameter no longer matches its signature.
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
        // Compression pointers must lead backwards, so moved records cannot keep them.
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
        let KeptMessage { message, ttl_offsets } = if contents.rebuild {
            rebuild::rebuild(&mut message, &selection.keep, Hints::Keep, flags, question.qtype)?
        } else {
            copy(&message, flags)
        };
        let packed = Packed::new(Parts {
            message,
            ttl_offsets: &ttl_offsets,
            ede_options: &ede_options,
            targets: &targets,
            service_targets: &service_targets,
        });
        let private = contents.private_address.then_some(reach);
        Ok(Self::new(packed, ttl, rcode, question.qtype, private))
    }

    /// Assembles a response and computes everything that depends on the response alone, so that the cost of a cache hit
    /// does not depend on its records.
    ///
    /// `private` is `None` if all addresses of the response are globally reachable; otherwise it defines which are.
    fn new(packed: Packed, ttl: u32, rcode: Rcode, qtype: RecordType, private: Option<&Reach>) -> Self {
        let inspections =
            InspectionCache::for_targets(names(packed.targets()).chain(names(packed.service_targets())).count());
        let payload = Payload::of(packed.message(), packed.ede_options());
        let required = Self::count_required(packed.message(), qtype, packed.ttl_offsets());
        let withheld = Withheld::default();
        let mut response =
            Self { packed, ttl, rcode, qtype, required, reachable: None, inspections, payload, withheld };
        response.reachable = private.map(|reach| Box::new(Reachable::of(&response, reach)));
        response
    }

    /// Lowers each TTL to at most `most` seconds: a resolver may impose an upper bound (RFC 2181 §8).
    pub fn bound_ttls(&mut self, most: u32) {
        self.ttl = self.ttl.min(most);
        self.packed.change_ttls(|ttl| ttl.min(most));
        if let Some(Reachable::Rest(rest)) = self.reachable.as_deref_mut() {
            rest.bound_ttls(most);
        }
    }

    /// Returns the message without its OPT record; ID 0, question in lower case.
    pub(super) fn message(&self) -> &[u8] {
        self.packed.message()
    }

    /// Returns the offsets of the TTL fields in the message.
    pub(super) fn ttl_offsets(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.packed.ttl_offsets()
    }

    /// Returns the upstream's EDE options in wire format, one after the other.
    pub(super) fn ede_options(&self) -> &[u8] {
        self.packed.ede_options()
    }

    /// Returns the response code, with the upper bits of the OPT record.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Returns whether the response answers a question for this name and type.
    #[must_use]
    pub fn is_to(&self, qname: &LowerName, qtype: RecordType) -> bool {
        let (message, end) = (self.message(), HEADER + qname.as_wire().len());
        self.qtype == qtype && message.get(HEADER..end) == Some(qname.as_wire())
    }

    /// Returns the time that the response may be cached, in seconds; 0 means not at all.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Returns the amount of data in the response that its sender chose.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Records that a budget withheld the response from a client.
    pub fn note_withheld(&self) {
        self.withheld.note();
    }

    /// Returns whether a budget withheld the response from a client.
    #[must_use]
    pub fn was_withheld(&self) -> bool {
        self.withheld.is_noted()
    }

    /// Returns the addresses of the answer section in order: 4 or 16 octets each.
    pub fn addresses(&self) -> impl Iterator<Item = &[u8]> + Clone {
        payload::addresses(self.message())
    }

    /// Returns the targets of the CNAME chain in order.
    pub fn targets(&self) -> impl Iterator<Item = LowerName> {
        names(self.packed.targets())
    }

    /// Returns the names that MX, NAPTR, SRV, SVCB and HTTPS records lead to.
    pub fn service_targets(&self) -> impl Iterator<Item = LowerName> {
        names(self.packed.service_targets())
    }

    /// Returns the memory that the response takes, heap included, in octets.
    #[must_use]
    pub fn size(&self) -> usize {
        let reachable = match self.reachable.as_deref() {
            Some(Reachable::Rest(rest)) => rest.size(),
            Some(Reachable::Nothing) | None => 0,
        };
        let inspections = self.inspections.as_ref().map_or(0, |_| size_of::<InspectionCache>());
        size_of::<Self>() + self.packed.size() + reachable + inspections
    }
}

/// A message that is kept, with the offsets of its TTL fields.
struct KeptMessage {
    message: Vec<u8>,
    ttl_offsets: Vec<u16>,
}

/// The properties of a response's records that decide how it is kept.
struct Contents {
    /// True if the message must be rebuilt instead of copied.
    rebuild: bool,
    /// True if a record that the AD bit covers (answer and authority, RFC 4035 §3.1.6) is removed or changed.
    changes_validated: bool,
    /// True if a kept record has an address that is not globally reachable.
    private_address: bool,
}

impl Contents {
    /// Examines each record once.
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

/// Returns whether a record has an `ech` parameter. hostgate removes these, because Encrypted Client Hello hides the
/// name that a connection is for.
fn has_ech(message: &Message<'_>, record: &Record) -> bool {
    matches!(record.rtype, RecordType::SVCB | RecordType::HTTPS)
        && svcb::summarise(svcb::params(message.rdata(record)), &Reach::default())
            .is_some_and(|summary| summary.has_ech)
}

/// Copies a message of which everything is kept except an OPT record at its end.
fn copy(message: &Message<'_>, flags: u16) -> KeptMessage {
    let end = message.opt.as_ref().map_or(message.end, |opt| opt.start);
    let [questions, answers, authorities, additionals] = message.header.counts;
    let additionals = additionals - u16::from(message.opt.is_some());
    let mut out = Vec::with_capacity(end);
    Header { id: 0, flags, counts: [questions, answers, authorities, additionals] }.write(&mut out);
    message.names.write_lower(message.qname, &mut out);
    // QTYPE and QCLASS precede the first record.
    out.extend_from_slice(&message.bytes[message.body - 4..end]);
    for record in &message.records {
        out[record.ttl_at..record.ttl_at + 4].copy_from_slice(&record.ttl.to_be_bytes());
    }
    // No offset is lost in the conversion: a message has at most 65,535 octets.
    let offsets = message.records.iter().filter_map(|record| u16::try_from(record.ttl_at).ok());
    KeptMessage { message: out, ttl_offsets: offsets.collect() }
}

/// Returns the time that the response may be cached in seconds, and lowers the SOA's TTL to it.
///
/// That is the lowest TTL of the answer section. For a negative response, the SOA's TTL and MINIMUM count too, and it
/// is not cached without a SOA record (RFC 2308 §5). RCODEs other than NOERROR and NXDOMAIN give 0.
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
            // MINIMUM is the last field of the RDATA (RFC 1035 §3.3.13).
            let minimum = u32_at(message.bytes, soa.rdata.end - 4).unwrap_or(0);
            let negative_ttl = soa.ttl.min(minimum);
            message.records[index].ttl = negative_ttl;
            answer_ttl.map_or(negative_ttl, |ttl| ttl.min(negative_ttl))
        }
        _ => 0,
    }
}

/// Returns the header flags of an upstream that are kept: AD only if the question asked for it (RFC 6840 §5.8), and AA
/// never, as forwarded data is not hostgate's own (RFC 1035 §4.1.1).
fn kept_flags(header: &Header, question: &Question) -> u16 {
    let authentic = if question.authentic_data { flag::AD } else { 0 };
    header.flags & (flag::QR | flag::RD | flag::RA | flag::CD | flag::RCODE | authentic)
}

/// The limit of an upstream's EDE options that are passed on.
const MAX_EDES: usize = 4;

/// The limit of one EXTRA-TEXT that is passed on, in octets.
const MAX_EDE_TEXT: usize = 160;

/// Returns the EDE options among those of an OPT record, encoded again: long texts are cut, texts that are not UTF-8
/// removed (RFC 8914 §2).
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
        // The text is written by whoever operates the zone and ends up on terminals and in logs, so control characters
        // must go.
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

/// Returns the names in `bytes`, which are in wire format, one after the other.
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
