//! What an upstream is asked and what it said, normalised once so that a cache hit is a copy.
//!
//! [`Response::parse`] keeps of a reply what belongs to the question, [`judge`] decides per client what of that the
//! client may see.

mod judge;

use std::hash::{Hash, Hasher};

pub use judge::{Judgement, ResponseRules, judge};

use super::name::LowerName;
use super::rcode::Rcode;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, OPT_DO, PAYLOAD, flag, u16_at};

/// What is asked upstream, and the key of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The QNAME.
    pub qname: LowerName,
    /// The QTYPE.
    pub qtype: RecordType,
    /// The DO bit: the answer holds DNSSEC records.
    pub dnssec_ok: bool,
    /// The CD bit: the answer may be bogus.
    pub checking_disabled: bool,
    /// The RD bit.
    pub recursion_desired: bool,
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.qname.hash(state);
        let bits =
            u32::from(self.dnssec_ok) | u32::from(self.checking_disabled) << 1 | u32::from(self.recursion_desired) << 2;
        state.write_u32(u32::from(self.qtype.0) << 16 | bits);
    }
}

/// Writes the query that is sent upstream: lower-case QNAME, RD, CD and DO as asked, one OPT record, nothing else.
pub fn query_upstream(question: &Question, id: u16, out: &mut Vec<u8>) {
    out.clear();
    let mut flags = 0;
    if question.recursion_desired {
        flags |= flag::RD;
    }
    if question.checking_disabled {
        flags |= flag::CD;
    }
    Header { id, flags, counts: [1, 0, 0, 1] }.write(out);
    out.extend_from_slice(question.qname.as_wire());
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
    /// They are.
    Ours {
        /// The TC bit: ask again over TCP.
        truncated: bool,
        /// The response code as the header has it, without the bits EDNS adds.
        rcode: Rcode,
    },
}

/// Tells whether `message` is the reply to `question` asked with `id`.
///
/// Cheap, and all that the checks against forged replies need (RFC 5452 §9.1): reads the header and the question.
#[must_use]
pub fn is_reply_to(message: &[u8], id: u16, question: &Question) -> ReplyCheck {
    match Header::read(message) {
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
    /// The whole message without an OPT record; ID 0, question in lower case.
    pub(super) message: Box<[u8]>,
    /// Where the TTL fields are in `message`.
    pub(super) ttl_offsets: Box<[u16]>,
    /// The upstream's EDE options, encoded one after the other.
    pub(super) ede_options: Box<[u8]>,
    /// The targets of the CNAME chain, as wire names one after the other.
    targets: Box<[u8]>,
    /// The target names of SVCB and HTTPS records, as wire names one after the other.
    service_targets: Box<[u8]>,
    /// How long it may be cached, in seconds.
    ttl: u32,
    /// The response code, twelve bits.
    rcode: Rcode,
    /// The type that was asked for.
    qtype: RecordType,
    /// Whether any address in it is not globally reachable.
    private_address: bool,
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
    /// Reads the reply to `question` and keeps what belongs to it.
    ///
    /// # Errors
    /// A reply to something else, a truncated or a malformed one, one with too many records.
    pub fn parse(message: &[u8], question: &Question) -> Result<Self, ResponseError> {
        let header = Header::read(message).ok_or(ResponseError::Malformed)?;
        if !echoes(message, &header, question) {
            return Err(ResponseError::NotOurs);
        }
        Err(ResponseError::Malformed)
    }

    /// Returns the response code, with the bits EDNS adds.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Returns for how many seconds it may be cached; 0 is not at all.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Returns the targets of the CNAME chain, in order.
    pub fn targets(&self) -> impl Iterator<Item = LowerName> {
        names(&self.targets)
    }

    /// Returns the target names of the SVCB and HTTPS records.
    pub fn service_targets(&self) -> impl Iterator<Item = LowerName> {
        names(&self.service_targets)
    }

    /// Returns how many octets it takes, on the heap and in itself.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.message.len()
            + size_of_val(&*self.ttl_offsets)
            + self.ede_options.len()
            + self.targets.len()
            + self.service_targets.len()
    }
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
