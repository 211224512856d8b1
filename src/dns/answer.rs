//! The answers to clients, written as whole messages.
//!
//! Every answer echoes the ID, RD, CD and question of the query and holds an OPT record when the query did
//! (RFC 6891 §7). None is longer than the limit given.

use super::query::{Edns, Query, Refusal, Transport};
use super::rcode::Rcode;
use super::response::Response;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, OPT_DO, OPTION_EDE, Options, PAYLOAD, flag, u32_at};

/// An Extended DNS Error (RFC 8914): written only when the query had an OPT record, its text cut so that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ede<'a> {
    /// The INFO-CODE.
    pub code: u16,
    /// The EXTRA-TEXT; may be empty.
    pub text: &'a str,
}

impl Ede<'_> {
    /// The data is stale.
    pub const STALE_ANSWER: u16 = 3;
    /// The name is on a list of the operator.
    pub const BLOCKED: u16 = 15;
    /// The answer was removed by the operator's rule.
    pub const FILTERED: u16 = 17;
    /// The client is not allowed to ask.
    pub const PROHIBITED: u16 = 18;
    /// No upstream could be reached.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// An upstream could not be talked to.
    pub const NETWORK_ERROR: u16 = 23;
}

/// A negative answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negative {
    /// The name does not exist.
    NxDomain,
    /// The name has no records of that type.
    NoData,
}

/// What becomes of the TTLs of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlMode {
    /// The response is so many seconds old; no TTL goes below 0.
    Aged(u32),
    /// The response is stale: every TTL is this (RFC 8767 §4 recommends 30).
    Fixed(u32),
}

/// Writes the answer to a message that is refused before any policy.
pub fn refuse(refusal: &Refusal<'_>, out: &mut Vec<u8>) {
    out.clear();
    let rcode = refusal.reason.rcode();
    let mut flags = flag::QR | flag::RA | u16::from(refusal.opcode) << 11 & flag::OPCODE | rcode.0 & flag::RCODE;
    if refusal.recursion_desired {
        flags |= flag::RD;
    }
    if refusal.checking_disabled {
        flags |= flag::CD;
    }
    let counts = [u16::from(refusal.question.is_some()), 0, 0, u16::from(refusal.edns.is_some())];
    Header { id: refusal.id, flags, counts }.write(out);
    out.extend_from_slice(refusal.question.unwrap_or_default());
    if let Some(edns) = refusal.edns {
        Opt::open(edns, rcode, MAX_MESSAGE, out).close();
    }
}

/// Writes a negative answer of our own: authoritative, with a SOA record so that stubs may cache it for `ttl` seconds.
///
/// The SOA's owner is QNAME's parent, never an unrelated name (RFC 2308 §5 lets a cache take it only for names at or
/// below the owner).
pub fn negative(
    query: &Query<'_>,
    negative: Negative,
    ttl: u32,
    ede: Option<Ede<'_>>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    let rcode = match negative {
        Negative::NxDomain => Rcode::NXDOMAIN,
        Negative::NoData => Rcode::NOERROR,
    };
    open(query, flag::AA, rcode, [0, 1], out);
    write_soa(query, ttl, out);
    close(query, rcode, ede.as_slice(), &[], limit, out);
}

/// Writes the answer to a query of type ANY: one HINFO record that says why there is no more (RFC 8482 §4.2).
pub fn any(query: &Query<'_>, out: &mut Vec<u8>) {
    open(query, 0, Rcode::NOERROR, [1, 0], out);
    write_pointer(HEADER, out);
    let hinfo = b"\x07RFC8482\x00";
    write_fixed(RecordType::HINFO, 3600, hinfo.len(), out);
    out.extend_from_slice(hinfo);
    close(query, Rcode::NOERROR, &[], &[], query.payload_limit(Transport::Udp), out);
}

/// Writes SERVFAIL with the reasons given.
pub fn servfail(query: &Query<'_>, errors: &[Ede<'_>], out: &mut Vec<u8>) {
    open(query, 0, Rcode::SERVFAIL, [0, 0], out);
    close(query, Rcode::SERVFAIL, errors, &[], query.payload_limit(Transport::Udp), out);
}

/// Writes an empty answer with TC=1: the client asks again over TCP.
pub fn truncated(query: &Query<'_>, out: &mut Vec<u8>) {
    truncated_with(query, 0, Rcode::NOERROR, out);
}

/// Writes what the upstream said, for this client: its ID, question and OPT record, the TTLs by `ttl`, AA, AD and
/// RCODE as the upstream had them, the upstream's EDE options behind `extra_ede`.
///
/// What does not fit in `limit` is truncated as a whole: no partial set of records is ever sent (RFC 2181 §9).
pub fn from_response(
    query: &Query<'_>,
    response: &Response,
    ttl: TtlMode,
    extra_ede: Option<Ede<'_>>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    // Without an OPT record the upper bits of an extended RCODE cannot be said, and the lower ones mean another.
    let rcode = match response.rcode() {
        rcode if rcode.0 > flag::RCODE && query.edns.is_none() => Rcode::SERVFAIL,
        rcode => rcode,
    };
    let Some(header) = Header::read(&response.message) else {
        return servfail(query, &[], out);
    };
    let kept = header.flags & (flag::AA | flag::AD);
    let opt = if query.edns.is_some() { OPT_LENGTH } else { 0 };
    let body = HEADER + query.question.len();
    if response.message.len() < body || response.message.len() + opt > limit {
        return truncated_with(query, kept & flag::AA, rcode, out);
    }
    out.clear();
    let [_, answers, authorities, additionals] = header.counts;
    let counts = [1, answers, authorities, additionals.saturating_add(u16::from(query.edns.is_some()))];
    Header { id: query.id, flags: flags(query, kept, rcode), counts }.write(out);
    out.extend_from_slice(query.question);
    out.extend_from_slice(&response.message[body..]);
    for &offset in &response.ttl_offsets {
        let at = usize::from(offset);
        if let Some(field) = out.get_mut(at..at + 4) {
            let patched = match ttl {
                TtlMode::Aged(seconds) => u32_at(field, 0).unwrap_or(0).saturating_sub(seconds),
                TtlMode::Fixed(seconds) => seconds,
            };
            field.copy_from_slice(&patched.to_be_bytes());
        }
    }
    close(query, rcode, extra_ede.as_slice(), &response.ede_options, limit, out);
}

/// Writes an empty answer with TC=1 and the flags and RCODE of the answer it stands for.
fn truncated_with(query: &Query<'_>, kept: u16, rcode: Rcode, out: &mut Vec<u8>) {
    open(query, flag::TC | kept, rcode, [0, 0], out);
    close(query, rcode, &[], &[], MAX_MESSAGE, out);
}

/// Returns the flags word of an answer: `extra`, what the query has echoed, the RCODE.
fn flags(query: &Query<'_>, extra: u16, rcode: Rcode) -> u16 {
    let mut flags = flag::QR | flag::RA | extra | rcode.0 & flag::RCODE;
    if query.recursion_desired {
        flags |= flag::RD;
    }
    if query.checking_disabled {
        flags |= flag::CD;
    }
    flags
}

/// Starts a new message: the header, with so many answer and authority records to follow, and the question.
fn open(query: &Query<'_>, extra: u16, rcode: Rcode, [answers, authorities]: [u16; 2], out: &mut Vec<u8>) {
    out.clear();
    let counts = [1, answers, authorities, u16::from(query.edns.is_some())];
    Header { id: query.id, flags: flags(query, extra, rcode), counts }.write(out);
    out.extend_from_slice(query.question);
}

/// Ends a message with the OPT record, when the query had one: our EDEs first, then the encoded `options`.
fn close(query: &Query<'_>, rcode: Rcode, errors: &[Ede<'_>], options: &[u8], limit: usize, out: &mut Vec<u8>) {
    let Some(edns) = query.edns else { return };
    let mut opt = Opt::open(edns, rcode, limit, out);
    for ede in errors {
        opt.push_ede(*ede);
    }
    opt.push_options(options);
    opt.close();
}

/// Writes a SOA record of our own that makes `ttl` the time to cache.
fn write_soa(query: &Query<'_>, ttl: u32, out: &mut Vec<u8>) {
    let (qname, parent) = (query.qname.as_wire(), query.qname.parent_wire());
    if parent == [0] {
        out.push(0);
    } else {
        write_pointer(HEADER + qname.len() - parent.len(), out);
    }
    let mname = b"\x08hostgate\x07invalid\x00";
    let rname = b"\x06nobody\x07invalid\x00";
    write_fixed(RecordType::SOA, ttl, mname.len() + rname.len() + 20, out);
    out.extend_from_slice(mname);
    out.extend_from_slice(rname);
    // SERIAL, REFRESH, RETRY and EXPIRE mean nothing here: nobody transfers this zone.
    for number in [1, 3600, 600, 86_400, ttl] {
        out.extend_from_slice(&u32::to_be_bytes(number));
    }
}

/// Writes a compression pointer to `offset` (RFC 1035 §4.1.4).
fn write_pointer(offset: usize, out: &mut Vec<u8>) {
    let offset = u16::try_from(offset & 0x3fff).unwrap_or_default();
    out.extend_from_slice(&(0xc000 | offset).to_be_bytes());
}

/// Writes what stands between the owner and the RDATA of a record of class IN.
fn write_fixed(rtype: RecordType, ttl: u32, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&rtype.0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

/// The length of an OPT record without options.
const OPT_LENGTH: usize = 11;

/// An OPT record at the end of a message, under construction.
struct Opt<'a> {
    /// The message.
    out: &'a mut Vec<u8>,
    /// Where the options start.
    start: usize,
    /// How long the message may become.
    limit: usize,
}

impl<'a> Opt<'a> {
    /// Starts the record: our payload size, version 0, the client's DO, the upper bits of the RCODE.
    fn open(edns: Edns, rcode: Rcode, limit: usize, out: &'a mut Vec<u8>) -> Self {
        let [extended, _] = (rcode.0 << 4).to_be_bytes();
        let flags = if edns.dnssec_ok { OPT_DO } else { 0 };
        out.push(0);
        for word in [RecordType::OPT.0, PAYLOAD, u16::from_be_bytes([extended, 0]), flags, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        Self { start: out.len(), limit, out }
    }

    /// Adds an EDE with as much of its text as fits, or leaves it out.
    fn push_ede(&mut self, ede: Ede<'_>) {
        let Some(room) = self.limit.min(MAX_MESSAGE).checked_sub(self.out.len() + 6) else { return };
        let text = &ede.text[..ede.text.floor_char_boundary(room)];
        let length = u16::try_from(2 + text.len()).unwrap_or(u16::MAX);
        for word in [OPTION_EDE, length, ede.code] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Adds those of the encoded `options` that fit whole.
    fn push_options(&mut self, options: &[u8]) {
        let mut rest = options;
        let mut walk = Options(options);
        while let Some(Ok((_, data))) = walk.next() {
            let (option, behind) = rest.split_at(4 + data.len());
            if self.out.len() + option.len() <= self.limit.min(MAX_MESSAGE) {
                self.out.extend_from_slice(option);
            }
            rest = behind;
        }
    }

    /// Ends the record: writes how long its options are.
    fn close(self) {
        let length = u16::try_from(self.out.len() - self.start).unwrap_or(u16::MAX);
        if let Some(field) = self.out.get_mut(self.start - 2..self.start) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}
