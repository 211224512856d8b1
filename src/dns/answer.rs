//! Answers to clients, written as whole messages into a reused buffer.
//!
//! Every answer echoes the ID, RD, CD and question of its query, and has an OPT record if and only if the query had one
//! (RFC 6891 §7). None is longer than the `limit` given. Denials and names of hostgate's own are authoritative (AA=1);
//! forwarded data is not.

use std::net::IpAddr;

use super::name::LowerName;
use super::query::{ClientEdns, Query, Refusal, Transport};
use super::rcode::Rcode;
use super::response::{Cut, Response};
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, OPT_DO, OPTION_EDE, Options, PAYLOAD, flag, u16_at, u32_at};

/// An Extended DNS Error (RFC 8914). It is written only if the query had an OPT record, with its text cut to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ede<'a> {
    /// The INFO-CODE (RFC 8914 §4).
    pub code: u16,
    /// The EXTRA-TEXT; empty for none.
    pub text: &'a str,
}

impl Ede<'_> {
    /// Stale Answer: the data is past its TTL (RFC 8914 §4.4).
    pub const STALE_ANSWER: u16 = 3;
    /// Cached Error: the failure was found by an earlier query (RFC 8914 §4.14).
    pub const CACHED_ERROR: u16 = 13;
    /// Blocked: the server's operator denies the name (RFC 8914 §4.16).
    pub const BLOCKED: u16 = 15;
    /// Filtered: data was withheld by a filter rule (RFC 8914 §4.18).
    pub const FILTERED: u16 = 17;
    /// Prohibited: the client is not authorised to ask (RFC 8914 §4.19).
    pub const PROHIBITED: u16 = 18;
    /// No Reachable Authority: no upstream answered (RFC 8914 §4.23).
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network Error: communication with an upstream failed (RFC 8914 §4.24).
    pub const NETWORK_ERROR: u16 = 23;
}

/// The two kinds of negative answer that hostgate gives itself (RFC 2308).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negative {
    /// The name does not exist (RFC 2308 §2.1).
    NxDomain,
    /// The name exists but has no records of the type (RFC 2308 §2.2).
    NoData,
}

/// The RDATA of a record that hostgate is authoritative for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalData {
    /// The address of an A or AAAA record.
    Address(IpAddr),
    /// The target of a PTR record.
    Name(Box<LowerName>),
}

/// The rewriting of TTLs when a response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlMode {
    /// Subtracts the age of the response in seconds; no TTL goes below 0.
    Aged(u32),
    /// Sets every TTL to a number of seconds: the response is stale (RFC 8767 §4 recommends 30).
    Fixed(u32),
}

/// Writes the error for a message that is refused before any policy.
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

/// Writes a negative answer with AA=1 and a SOA record, which lets stub resolvers cache it for `ttl` seconds. If `ede`
/// is given, the SOA's MNAME names the policy as the reason, because `drill` and `nslookup -debug` show the SOA but no
/// EDE.
///
/// The owner of the SOA is QNAME's parent and never an unrelated name: a cache may use a SOA only for names at or below
/// its owner (RFC 2308 §5).
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
    write_soa(query, if ede.is_some() { &BLOCKED_SOA } else { &SOA }, ttl, out);
    close(query, rcode, ede.as_slice(), &[], limit, out);
}

/// Writes an answer with AA=1 from records about QNAME that may be cached for `ttl` seconds.
///
/// Records beyond `limit` are left out, and TC is set.
pub fn local_data(
    query: &Query<'_>,
    records: impl Iterator<Item = LocalData>,
    ttl: u32,
    limit: usize,
    out: &mut Vec<u8>,
) {
    open(query, flag::AA, Rcode::NOERROR, [0, 0], out);
    // The OPT record is written last but is never left out, so its octets are set aside.
    let room = limit.saturating_sub(if query.edns.is_some() { OPT_LENGTH } else { 0 });
    let mut count: u16 = 0;
    for record in records {
        let start = out.len();
        write_pointer(HEADER, out);
        match &record {
            LocalData::Address(IpAddr::V4(address)) => write_data(RecordType::A, ttl, &address.octets(), out),
            LocalData::Address(IpAddr::V6(address)) => write_data(RecordType::AAAA, ttl, &address.octets(), out),
            LocalData::Name(name) => write_data(RecordType::PTR, ttl, name.as_wire(), out),
        }
        if out.len() > room {
            out.truncate(start);
            set_truncated(out);
            break;
        }
        count = count.saturating_add(1);
    }
    // The number of records is known only now.
    out[6..8].copy_from_slice(&count.to_be_bytes());
    close(query, Rcode::NOERROR, &[], &[], limit, out);
}

/// Writes addresses from an upstream's response as if QNAME had them itself, with a TTL of `seconds`. Aliases and all
/// other data that the sender could choose are left out.
pub fn addresses_only(query: &Query<'_>, addresses: &[&[u8]], seconds: u32, limit: usize, out: &mut Vec<u8>) {
    open(query, 0, Rcode::NOERROR, [0, 0], out);
    let mut count: u16 = 0;
    // The OPT record is written last but is never left out, so its octets are set aside.
    let room = limit.saturating_sub(OPT_LENGTH);
    for data in addresses {
        if out.len() + 12 + data.len() > room {
            break;
        }
        write_pointer(HEADER, out);
        write_data(query.qtype, seconds, data, out);
        count += 1;
    }
    // The number of records is known only now.
    out[6..8].copy_from_slice(&count.to_be_bytes());
    close(query, Rcode::NOERROR, &[], &[], limit, out);
}

/// Writes the answer to a query of type ANY: one HINFO record that refers to RFC 8482 (§4.2 there).
pub fn any(query: &Query<'_>, out: &mut Vec<u8>) {
    open(query, 0, Rcode::NOERROR, [1, 0], out);
    write_pointer(HEADER, out);
    // The CPU field names the RFC, and the OS field is empty (RFC 8482 §4.2).
    let hinfo = b"\x07RFC8482\x00";
    write_fixed(RecordType::HINFO, 3600, hinfo.len(), out);
    out.extend_from_slice(hinfo);
    close(query, Rcode::NOERROR, &[], &[], query.payload_limit(Transport::Udp), out);
}

/// Writes SERVFAIL with the given Extended DNS Errors.
pub fn servfail(query: &Query<'_>, errors: &[Ede<'_>], out: &mut Vec<u8>) {
    open(query, 0, Rcode::SERVFAIL, [0, 0], out);
    close(query, Rcode::SERVFAIL, errors, &[], query.payload_limit(Transport::Udp), out);
}

/// Writes SERVFAIL with the given Extended DNS Errors and those of an upstream. The upstream's records are left out, as
/// no filter has seen them.
pub fn servfail_as(query: &Query<'_>, response: &Response, errors: &[Ede<'_>], texts: EdeTexts, out: &mut Vec<u8>) {
    let options = response.ede_options();
    if texts == EdeTexts::Keep {
        open(query, 0, Rcode::SERVFAIL, [0, 0], out);
        return close(query, Rcode::SERVFAIL, errors, options, query.payload_limit(Transport::Udp), out);
    }
    let codes = Options(options).flatten().filter_map(|(_, data)| data.first_chunk().copied().map(u16::from_be_bytes));
    let codes = codes.map(|code| Ede { code, text: "" });
    servfail(query, &errors.iter().copied().chain(codes).collect::<Vec<_>>(), out);
}

/// The treatment of the EXTRA-TEXT in an upstream's Extended DNS Errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdeTexts {
    /// Passes the texts on to the client.
    Keep,
    /// Removes the texts, because the operator of the queried zone may have written them.
    Remove,
}

/// Writes an empty answer with TC=1, so that the client retries over TCP.
pub fn truncated(query: &Query<'_>, out: &mut Vec<u8>) {
    open(query, flag::TC, Rcode::NOERROR, [0, 0], out);
    close(query, Rcode::NOERROR, &[], &[], MAX_MESSAGE, out);
}

/// Writes an upstream's response for one client: with the client's ID, question and OPT record, the TTLs by `ttl`, the
/// upstream's AD and RCODE, and the upstream's EDE options after `extra_ede`.
///
/// If the message exceeds `limit`, records that the client can do without are left out first. If that is not enough, TC
/// is set and as many answer records are written as fit (RFC 2181 §9).
pub fn from_response(
    query: &Query<'_>,
    response: &Response,
    ttl: TtlMode,
    extra_ede: Option<Ede<'_>>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    // An extended RCODE cannot be expressed without an OPT record, and its lower four bits alone are another code.
    let rcode = match response.rcode() {
        rcode if rcode.0 > flag::RCODE && query.edns.is_none() => Rcode::SERVFAIL,
        rcode => rcode,
    };
    let message = response.message();
    let Some(header) = Header::read(message) else {
        return servfail(query, &[], out);
    };
    // AD is the only flag of an upstream that speaks about the data; all others are those of this exchange.
    let kept = header.flags & flag::AD;
    let opt = if query.edns.is_some() { OPT_LENGTH } else { 0 };
    let body = HEADER + query.question.len();
    if message.len() + opt > limit {
        write_part(query, response, rcode, ttl, limit.saturating_sub(opt), out);
        return close(query, rcode, extra_ede.as_slice(), response.ede_options(), limit, out);
    }
    let Some(records) = message.get(body..) else {
        return servfail(query, &[], out);
    };
    out.clear();
    let [_, answers, authorities, additionals] = header.counts;
    let counts = [1, answers, authorities, additionals.saturating_add(u16::from(query.edns.is_some()))];
    Header { id: query.id, flags: flags(query, kept, rcode), counts }.write(out);
    out.extend_from_slice(query.question);
    out.extend_from_slice(records);
    patch_ttls(response.ttl_offsets(), ttl, out);
    close(query, rcode, extra_ede.as_slice(), response.ede_options(), limit, out);
}

/// Writes the part of an overlong response that fits in `room` octets, without an OPT record.
fn write_part(query: &Query<'_>, response: &Response, rcode: Rcode, ttl: TtlMode, room: usize, out: &mut Vec<u8>) {
    let Cut { counts: [answers, authorities, additionals], end, is_truncated } = response.cut(room);
    let body = HEADER + query.question.len();
    let message = response.message();
    // AD speaks about whole sections, so a truncated answer must not claim it.
    let authentic = u16_at(message, 2).unwrap_or_default() & flag::AD;
    let kept = if is_truncated { flag::TC } else { authentic };
    out.clear();
    let counts = [1, answers, authorities, additionals + u16::from(query.edns.is_some())];
    Header { id: query.id, flags: flags(query, kept, rcode), counts }.write(out);
    out.extend_from_slice(query.question);
    out.extend_from_slice(message.get(body..end).unwrap_or_default());
    let records = usize::from(answers) + usize::from(authorities) + usize::from(additionals);
    patch_ttls(response.ttl_offsets().take(records), ttl, out);
}

/// Rewrites the TTL fields at `offsets`.
#[inline]
fn patch_ttls(offsets: impl Iterator<Item = u16>, ttl: TtlMode, out: &mut [u8]) {
    for offset in offsets {
        let at = usize::from(offset);
        if let Some(field) = out.get_mut(at..at + 4) {
            let patched = match ttl {
                TtlMode::Aged(seconds) => u32_at(field, 0).unwrap_or(0).saturating_sub(seconds),
                TtlMode::Fixed(seconds) => seconds,
            };
            field.copy_from_slice(&patched.to_be_bytes());
        }
    }
}

/// Sets the TC bit of a message.
fn set_truncated(out: &mut [u8]) {
    let [high, _] = flag::TC.to_be_bytes();
    if let Some(flags) = out.get_mut(2) {
        *flags |= high;
    }
}

/// Returns the flags word of an answer: `extra`, the bits echoed from the query, and the RCODE.
fn flags(query: &Query<'_>, extra: u16, rcode: Rcode) -> u16 {
    // RA is set on every answer: recursion is available to every client, within its policy.
    let mut flags = flag::QR | flag::RA | extra | rcode.0 & flag::RCODE;
    if query.recursion_desired {
        flags |= flag::RD;
    }
    if query.checking_disabled {
        flags |= flag::CD;
    }
    flags
}

/// Starts a new message: the header with the given counts of answer and authority records, and the question.
fn open(query: &Query<'_>, extra: u16, rcode: Rcode, [answers, authorities]: [u16; 2], out: &mut Vec<u8>) {
    out.clear();
    let counts = [1, answers, authorities, u16::from(query.edns.is_some())];
    Header { id: query.id, flags: flags(query, extra, rcode), counts }.write(out);
    out.extend_from_slice(query.question);
}

/// Ends a message. If the query had an OPT record, appends one with `errors` first, then the encoded `options`.
fn close(query: &Query<'_>, rcode: Rcode, errors: &[Ede<'_>], options: &[u8], limit: usize, out: &mut Vec<u8>) {
    let Some(edns) = query.edns else { return };
    let mut opt = Opt::open(edns, rcode, limit, out);
    for ede in errors {
        opt.push_ede(*ede);
    }
    opt.push_options(options);
    opt.close();
}

/// Writes a SOA record that makes `ttl` the negative caching time (RFC 2308 §5).
fn write_soa(query: &Query<'_>, soa: &Soa, ttl: u32, out: &mut Vec<u8>) {
    let (qname, parent) = (query.qname.as_wire(), query.qname.parent_wire());
    // The parent is a suffix of the name in the question, so a pointer suffices; the root is even shorter by itself.
    if parent == [0] {
        out.push(0);
    } else {
        write_pointer(HEADER + qname.len() - parent.len(), out);
    }
    let start = out.len();
    out.extend_from_slice(soa);
    let [ttl_at, minimum_at] = [start + 4, start + soa.len() - 4];
    for at in [ttl_at, minimum_at] {
        out[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
    }
}

/// A SOA record without its owner name; the TTL and MINIMUM are patched in. All constants have one length, as a copy of
/// known length compiles to moves instead of a call.
///
/// SERIAL (1), REFRESH, RETRY and EXPIRE have no effect, as nobody transfers this zone.
type Soa = [u8; 67];

/// The SOA record of names that hostgate answers itself: MNAME `hostgate.invalid`, RNAME `anonymous.invalid`.
const SOA: Soa = *b"\0\x06\0\x01\0\0\0\0\0\x39\x08hostgate\x07invalid\0\x09anonymous\x07invalid\0\
    \0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\0";

/// The SOA record of names that a policy denies: MNAME `blocked-by-policy.hostgate.invalid`, which cannot exist (RFC
/// 6761 §6.4), and the root as RNAME.
const BLOCKED_SOA: Soa = *b"\0\x06\0\x01\0\0\0\0\0\x39\x11blocked-by-policy\x08hostgate\x07invalid\0\0\
    \0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\0";

/// Writes a compression pointer to `offset` (RFC 1035 §4.1.4).
fn write_pointer(offset: usize, out: &mut Vec<u8>) {
    let offset = u16::try_from(offset & 0x3fff).unwrap_or_default();
    out.extend_from_slice(&(0xc000 | offset).to_be_bytes());
}

/// Writes the fields of a class IN record between its owner and its RDATA.
fn write_fixed(rtype: RecordType, ttl: u32, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&rtype.0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

/// Writes a class IN record without its owner.
fn write_data(rtype: RecordType, ttl: u32, data: &[u8], out: &mut Vec<u8>) {
    write_fixed(rtype, ttl, data.len(), out);
    out.extend_from_slice(data);
}

/// The length of an OPT record without options, in octets.
const OPT_LENGTH: usize = 11;

/// An OPT record under construction at the end of a message.
struct Opt<'a> {
    out: &'a mut Vec<u8>,
    /// The offset of the first option in `out`.
    start: usize,
    /// The size limit of the whole message.
    limit: usize,
}

impl<'a> Opt<'a> {
    /// Starts the record: hostgate's payload size, version 0, the client's DO bit, the upper bits of the RCODE.
    fn open(edns: ClientEdns, rcode: Rcode, limit: usize, out: &'a mut Vec<u8>) -> Self {
        // The upper eight of the twelve RCODE bits are the first octet of the TTL field (RFC 6891 §6.1.3).
        let [extended, _] = (rcode.0 << 4).to_be_bytes();
        let flags = if edns.dnssec_ok { OPT_DO } else { 0 };
        let ([type_high, type_low], [payload_high, payload_low]) =
            (RecordType::OPT.0.to_be_bytes(), PAYLOAD.to_be_bytes());
        let [flags_high, flags_low] = flags.to_be_bytes();
        let record: [u8; OPT_LENGTH] =
            [0, type_high, type_low, payload_high, payload_low, extended, 0, flags_high, flags_low, 0, 0];
        out.extend_from_slice(&record);
        Self { start: out.len(), limit, out }
    }

    /// Appends an Extended DNS Error with as much of its text as fits. Appends nothing if not even the code fits.
    fn push_ede(&mut self, ede: Ede<'_>) {
        // Six octets precede the text: option code, length and INFO-CODE.
        let Some(room) = self.limit.min(MAX_MESSAGE).checked_sub(self.out.len() + 6) else { return };
        let text = &ede.text[..ede.text.floor_char_boundary(room)];
        let length = u16::try_from(2 + text.len()).unwrap_or(u16::MAX);
        for word in [OPTION_EDE, length, ede.code] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Appends each of the encoded `options` that fits as a whole.
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

    /// Ends the record by writing its RDLENGTH.
    fn close(self) {
        let length = u16::try_from(self.out.len() - self.start).unwrap_or(u16::MAX);
        if let Some(field) = self.out.get_mut(self.start - 2..self.start) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;

    use super::*;
    use crate::dns::query::{Parsed, parse};
    use crate::dns::sample::{Sample, counts, parsed, question, read, records, soa, wire};

    /// Returns the bytes of a query for WWW.example A, with an OPT record (DO) or without.
    fn asked(opt: bool) -> Vec<u8> {
        let sample = Sample::query("WWW.example", RecordType::A);
        if opt { sample.opt(4096, 0x8000, &[0, 10, 0, 1, 9]).bytes() } else { sample.bytes() }
    }

    /// Returns the EDE options of a message: code and text.
    fn edes(bytes: &[u8]) -> Vec<(u16, String)> {
        let Message { edns: Some(edns), .. } = read(bytes) else { return Vec::new() };
        let options = edns.options().as_ref().iter().map(|(_, option)| Vec::<u8>::try_from(option).unwrap());
        options
            .map(|data| (u16::from_be_bytes([data[0], data[1]]), String::from_utf8(data[2..].to_vec()).unwrap()))
            .collect()
    }

    /// Returns the response www.example CNAME a.example, A 192.0.2.1, with these header flags and OPT record.
    fn sample_response(flags: u16, rcode_high: u32, options: &[u8]) -> Response {
        let bytes = Sample::response("www.example", RecordType::A, flags)
            .record(1, "www.example", RecordType::CNAME, 300, &wire("a.example"))
            .record(1, "a.example", RecordType::A, 60, &[192, 0, 2, 1])
            .opt(1232, rcode_high << 24, options)
            .bytes();
        Response::parse(&bytes, &question("www.example", RecordType::A)).unwrap()
    }

    #[test]
    fn denial_is_authoritative_nxdomain_with_a_soa_of_the_parent() {
        const CASES: &[(&str, &str)] =
            &[("WWW.example", "example."), ("a.b.www.example", "b.www.example."), ("example", "."), ("", ".")];
        for (qname, owner) in CASES {
            let bytes = Sample::query(qname, RecordType::A).bytes();
            let mut out = vec![1, 2, 3];
            negative(&parsed(&bytes), Negative::NxDomain, 5, None, 512, &mut out);
            assert_eq!(&out[..2], &bytes[..2], "{qname}");
            assert_eq!(u32_at(&out, 0).unwrap() & 0xffff, 0x8583, "{qname}: QR AA RD RA NXDOMAIN");
            assert_eq!(records(&out), [format!("ns {} 5 SOA", owner.to_lowercase())], "{qname}");
            assert_eq!(&out[HEADER..bytes.len()], &bytes[HEADER..], "{qname}: the question keeps its case");
            assert_eq!(out[out.len() - 4..], 5u32.to_be_bytes(), "{qname}: MINIMUM");
        }
    }

    #[test]
    fn soa_of_a_denial_by_policy_names_the_policy_as_reason() {
        let bytes = Sample::query("www.example", RecordType::A).bytes();
        let ede = Ede { code: Ede::BLOCKED, text: "" };
        for (ede, expected) in [(Some(ede), "blocked-by-policy.hostgate.invalid."), (None, "hostgate.invalid.")] {
            let mut out = Vec::new();
            negative(&parsed(&bytes), Negative::NxDomain, 7, ede, 512, &mut out);
            let hickory_proto::rr::RData::SOA(soa) = &read(&out).authorities[0].data else { panic!("a SOA record") };
            assert_eq!((soa.mname.to_ascii().as_str(), soa.serial, soa.minimum), (expected, 1, 7));
        }
    }

    #[test]
    fn ede_needs_an_opt_record_and_is_cut_at_a_character_boundary() {
        let ede = Ede { code: Ede::BLOCKED, text: "policy `build`" };
        for (opt, expected) in [(false, vec![]), (true, vec![(15, ede.text.to_owned())])] {
            let bytes = asked(opt);
            let mut out = Vec::new();
            negative(&parsed(&bytes), Negative::NoData, 5, Some(ede), 512, &mut out);
            assert_eq!(edes(&out), expected, "{opt}");
            assert_eq!(read(&out).edns.is_some(), opt);
        }
        let (bytes, long) = (asked(true), "ü".repeat(400));
        for limit in 512..520 {
            let mut out = Vec::new();
            negative(&parsed(&bytes), Negative::NxDomain, 5, Some(Ede { code: 15, text: &long }), limit, &mut out);
            assert!(out.len() <= limit && out.len() > limit - 2, "{limit}: {}", out.len());
            assert!(edes(&out)[0].1.chars().all(|character| character == 'ü'), "{limit}");
        }
    }

    #[test]
    fn denial_of_the_longest_name_fits_in_512_octets() {
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        let bytes = Sample::query(&name, RecordType::A).opt(0, 0, &[]).bytes();
        let mut out = Vec::new();
        negative(&parsed(&bytes), Negative::NxDomain, 5, Some(Ede { code: 15, text: &"x".repeat(600) }), 512, &mut out);
        assert_eq!(out.len(), 512);
        assert_eq!(edes(&out).len(), 1);
    }

    #[test]
    fn opt_of_an_answer_has_1232_octets_version_0_and_the_clients_do_bit() {
        let bytes = asked(true);
        let mut out = Vec::new();
        servfail(&parsed(&bytes), &[Ede { code: 22, text: "" }, Ede { code: 23, text: "timeout" }], &mut out);
        let edns = read(&out).edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true));
        assert_eq!(edes(&out), [(22, String::new()), (23, "timeout".to_owned())]);
        assert_eq!(u32_at(&out, 0).unwrap() & 0xffff, 0x8182);
    }

    #[test]
    fn refusals_echo_the_header_and_give_badvers_in_the_opt_record() {
        let opt = |ttl| Sample::query("www.example", RecordType::A).opt(1232, ttl, &[]).bytes();
        let mut update = opt(0);
        update[2] |= 5 << 3;
        let mut bare = asked(false);
        bare.truncate(HEADER + 2);
        // Bytes, flags of the answer, RCODE with the upper bits, questions and additional records.
        let cases = [
            (opt(0x0001_0000), 0x8180, 16, [1, 1]),
            (update, 0xa984, 4, [1, 1]),
            (bare, 0x8181, 1, [0, 0]),
            (Sample::query("www.example", RecordType::AXFR).bytes(), 0x8185, 5, [1, 0]),
        ];
        for (bytes, flags, rcode, [questions, additionals]) in cases {
            let Parsed::Refuse(refusal) = parse(&bytes) else { panic!("{bytes:02x?}") };
            let mut out = Vec::new();
            refuse(&refusal, &mut out);
            assert_eq!(u32_at(&out, 0).unwrap(), 0x1234_0000 | flags, "{bytes:02x?}");
            assert_eq!(counts(&out), [questions, 0, 0, additionals], "{bytes:02x?}");
            let high = read(&out).edns.map_or(0, |edns| u32::from(edns.rcode_high()));
            assert_eq!(high << 4 | flags & 15, rcode, "{bytes:02x?}");
        }
    }

    #[test]
    fn query_of_type_any_is_answered_with_one_hinfo_record() {
        let bytes = Sample::query("www.example", RecordType::ANY).bytes();
        let mut out = Vec::new();
        any(&parsed(&bytes), &mut out);
        assert_eq!(records(&out), ["an www.example. 3600 HINFO"]);
        assert_eq!(u32_at(&out, 0).unwrap() & 0xffff, 0x8180);
    }

    #[test]
    fn response_gets_the_clients_id_question_and_opt_and_aged_ttls() {
        let response = sample_response(flag::AA | flag::AD, 0, &[0, 15, 0, 4, 0, 4, b'h', b'i']);
        for (opt, ttl, ttls) in [
            (true, TtlMode::Aged(100), [200, 0]),
            (false, TtlMode::Aged(0), [300, 60]),
            (true, TtlMode::Fixed(30), [30, 30]),
        ] {
            let bytes = asked(opt);
            let mut out = Vec::new();
            from_response(&parsed(&bytes), &response, ttl, Some(Ede { code: 3, text: "" }), 1232, &mut out);
            assert_eq!(u32_at(&out, 0), Some(0x1234_81a0), "QR RD RA AD, and no AA");
            assert_eq!(out[HEADER..HEADER + 17], bytes[HEADER..HEADER + 17]);
            let lines = [format!("an WWW.example. {} CNAME", ttls[0]), format!("an a.example. {} A", ttls[1])];
            let (read_lines, expected) = (records(&out).join("\n"), lines.join("\n"));
            assert_eq!(read_lines.to_lowercase(), expected.to_lowercase(), "{ttl:?}");
            let expected = if opt { vec![(3, String::new()), (4, "hi".to_owned())] } else { vec![] };
            assert_eq!(edes(&out), expected, "ours first, then the upstream's");
        }
    }

    #[test]
    fn response_that_does_not_fit_is_truncated_but_keeps_its_opt() {
        let response = sample_response(0, 0, &[]);
        let bytes = asked(true);
        let mut out = Vec::new();
        from_response(&parsed(&bytes), &response, TtlMode::Aged(0), None, 40, &mut out);
        assert_eq!(counts(&out), [1, 0, 0, 1]);
        assert!(read(&out).metadata.truncation);
        let full = {
            from_response(&parsed(&bytes), &response, TtlMode::Aged(0), None, 512, &mut out);
            out.len()
        };
        // The message fits to the octet, an EDE behind it does not.
        from_response(&parsed(&bytes), &response, TtlMode::Aged(0), Some(Ede { code: 3, text: "" }), full, &mut out);
        assert_eq!((out.len(), edes(&out)), (full, vec![]));
        from_response(&parsed(&bytes), &response, TtlMode::Aged(0), None, full - 1, &mut out);
        assert!(read(&out).metadata.truncation);
        assert_eq!(counts(&out), [1, 1, 0, 1], "the alias fits, its target's address does not");
    }

    #[test]
    fn local_records_that_do_not_fit_are_left_out_with_tc() {
        let addresses = || (0..250).map(|last| LocalData::Address([192, 0, 2, last].into()));
        for (opt, limit, expected) in [(false, 512, 30), (true, 512, 29), (true, 1232, 74), (true, 65_535, 250)] {
            let bytes = asked(opt);
            let mut out = Vec::new();
            local_data(&parsed(&bytes), addresses(), 5, limit, &mut out);
            assert_eq!((counts(&out)[1], read(&out).metadata.truncation), (expected, expected < 250));
            assert!(out.len() <= limit && read(&out).edns.is_some() == opt);
        }
    }

    #[test]
    fn extended_rcode_becomes_servfail_without_an_opt_record() {
        let response = sample_response(7, 1, &[]);
        assert_eq!(response.rcode(), Rcode(23));
        for (opt, low, high) in [(true, 7, 1), (false, 2, 0)] {
            let bytes = asked(opt);
            let mut out = Vec::new();
            from_response(&parsed(&bytes), &response, TtlMode::Aged(0), None, 1232, &mut out);
            assert_eq!(out[3] & 15, low, "{opt}");
            assert_eq!(read(&out).edns.map_or(0, |edns| edns.rcode_high()), high, "{opt}");
        }
    }

    #[test]
    fn negative_response_keeps_its_soa() {
        let bytes = Sample::response("www.example", RecordType::A, 3)
            .record(2, "example", RecordType::SOA, 900, &soa(300))
            .bytes();
        let response = Response::parse(&bytes, &question("www.example", RecordType::A)).unwrap();
        let bytes = asked(false);
        let mut out = Vec::new();
        from_response(&parsed(&bytes), &response, TtlMode::Aged(10), None, 512, &mut out);
        assert_eq!(records(&out), ["ns example. 290 SOA"]);
    }
}
