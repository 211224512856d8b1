//! The answers to clients, written as whole messages.
//!
//! Every answer echoes the ID, RD, CD and question of the query and holds an OPT record when the query did
//! (RFC 6891 §7). None is longer than the limit given.

use std::net::IpAddr;

use super::name::LowerName;
use super::query::{Edns, Query, Refusal, Transport};
use super::rcode::Rcode;
use super::response::{Cut, Response};
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, OPT_DO, OPTION_EDE, Options, PAYLOAD, flag, u16_at, u32_at};

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
    /// The failure is one of a moment ago.
    pub const CACHED_ERROR: u16 = 13;
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

/// The data of a record of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// An A or AAAA record.
    Address(IpAddr),
    /// A PTR record.
    Name(Box<LowerName>),
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

/// Writes a negative answer of our own: authoritative, with a SOA record so that stubs may cache it for `ttl` seconds. Its
/// MNAME says that a policy is the reason where an EDE is given: `drill` and `nslookup -debug` show that and no EDE.
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
    write_soa(query, if ede.is_some() { &BLOCKED_SOA } else { &SOA }, ttl, out);
    close(query, rcode, ede.as_slice(), &[], limit, out);
}

/// Writes records of our own about QNAME: authoritative, to be kept for `ttl` seconds.
///
/// Those that do not fit in `limit` are left out, with TC=1.
pub fn own(query: &Query<'_>, records: impl Iterator<Item = Own>, ttl: u32, limit: usize, out: &mut Vec<u8>) {
    open(query, flag::AA, Rcode::NOERROR, [0, 0], out);
    let room = limit.saturating_sub(if query.edns.is_some() { OPT_LENGTH } else { 0 });
    let mut count: u16 = 0;
    for record in records {
        let start = out.len();
        write_pointer(HEADER, out);
        match &record {
            Own::Address(IpAddr::V4(address)) => write_data(RecordType::A, ttl, &address.octets(), out),
            Own::Address(IpAddr::V6(address)) => write_data(RecordType::AAAA, ttl, &address.octets(), out),
            Own::Name(name) => write_data(RecordType::PTR, ttl, name.as_wire(), out),
        }
        if out.len() > room {
            out.truncate(start);
            set_truncated(out);
            break;
        }
        count = count.saturating_add(1);
    }
    // ANCOUNT.
    out[6..8].copy_from_slice(&count.to_be_bytes());
    close(query, Rcode::NOERROR, &[], &[], limit, out);
}

/// Writes addresses of what the upstream said as if they were QNAME's own, without the aliases that lead there, and with them
/// nothing else that the sender chose; `seconds` is their TTL.
pub fn addresses_alone(query: &Query<'_>, addresses: &[&[u8]], seconds: u32, limit: usize, out: &mut Vec<u8>) {
    open(query, 0, Rcode::NOERROR, [0, 0], out);
    let mut count: u16 = 0;
    let room = limit.saturating_sub(OPT_LENGTH);
    for data in addresses {
        if out.len() + 12 + data.len() > room {
            break;
        }
        write_pointer(HEADER, out);
        write_data(query.qtype, seconds, data, out);
        count += 1;
    }
    // ANCOUNT.
    out[6..8].copy_from_slice(&count.to_be_bytes());
    close(query, Rcode::NOERROR, &[], &[], limit, out);
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

/// Writes SERVFAIL with the reasons given and those of an upstream; of its records none, as nothing judges them.
pub fn servfail_as(query: &Query<'_>, response: &Response, errors: &[Ede<'_>], texts: Texts, out: &mut Vec<u8>) {
    let options = response.ede_options();
    if texts == Texts::Keep {
        open(query, 0, Rcode::SERVFAIL, [0, 0], out);
        return close(query, Rcode::SERVFAIL, errors, options, query.payload_limit(Transport::Udp), out);
    }
    let codes = Options(options).flatten().filter_map(|(_, data)| data.first_chunk().copied().map(u16::from_be_bytes));
    let codes = codes.map(|code| Ede { code, text: "" });
    servfail(query, &errors.iter().copied().chain(codes).collect::<Vec<_>>(), out);
}

/// What becomes of the texts of an upstream's Extended DNS Errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// They are passed on.
    Keep,
    /// They are left out: whoever runs the zone may have written them.
    Leave,
}

/// Writes an empty answer with TC=1: the client asks again over TCP.
pub fn truncated(query: &Query<'_>, out: &mut Vec<u8>) {
    open(query, flag::TC, Rcode::NOERROR, [0, 0], out);
    close(query, Rcode::NOERROR, &[], &[], MAX_MESSAGE, out);
}

/// Writes what the upstream said, for this client: its ID, question and OPT record, the TTLs by `ttl`, AD and RCODE as the
/// upstream had them, the upstream's EDE options behind `extra_ede`.
///
/// Of what does not fit in `limit`, that goes first which the client can do without; else TC=1 is set beside as many records
/// of the answer as fit (RFC 2181 §9).
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
    let message = response.message();
    let Some(header) = Header::read(message) else {
        return servfail(query, &[], out);
    };
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

/// Writes as much of a response that is too long as fits in `room`, without an OPT record.
fn write_part(query: &Query<'_>, response: &Response, rcode: Rcode, ttl: TtlMode, room: usize, out: &mut Vec<u8>) {
    let Cut { counts: [answers, authorities, additionals], end, is_truncated } = response.cut(room);
    let body = HEADER + query.question.len();
    let message = response.message();
    // Whether what is left is authentic is for the whole answer to say.
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

/// Makes the TTLs in a message say what is to become of them.
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

/// Sets TC in a message.
fn set_truncated(out: &mut [u8]) {
    let [high, _] = flag::TC.to_be_bytes();
    if let Some(flags) = out.get_mut(2) {
        *flags |= high;
    }
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
fn write_soa(query: &Query<'_>, soa: &Soa, ttl: u32, out: &mut Vec<u8>) {
    let (qname, parent) = (query.qname.as_wire(), query.qname.parent_wire());
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

/// A SOA record of our own behind its owner; TTL and MINIMUM are patched in. All are of one length, as copying so many octets
/// takes no call.
///
/// SERIAL (1), REFRESH, RETRY and EXPIRE mean nothing here: nobody transfers this zone.
type Soa = [u8; 67];

/// The record of names that are ours: MNAME `hostgate.invalid`, RNAME `anonymous.invalid`.
const SOA: Soa = *b"\0\x06\0\x01\0\0\0\0\0\x39\x08hostgate\x07invalid\0\x09anonymous\x07invalid\0\
    \0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\0";

/// The record of what a policy denies: MNAME is `blocked-by-policy.hostgate.invalid`, which exists nowhere (RFC 6761 §6.4), and
/// RNAME the root, nobody.
const BLOCKED_SOA: Soa = *b"\0\x06\0\x01\0\0\0\0\0\x39\x11blocked-by-policy\x08hostgate\x07invalid\0\0\
    \0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\0";

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

/// Writes a record of class IN behind its owner.
fn write_data(rtype: RecordType, ttl: u32, data: &[u8], out: &mut Vec<u8>) {
    write_fixed(rtype, ttl, data.len(), out);
    out.extend_from_slice(data);
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
        let ([type_high, type_low], [payload_high, payload_low]) =
            (RecordType::OPT.0.to_be_bytes(), PAYLOAD.to_be_bytes());
        let [flags_high, flags_low] = flags.to_be_bytes();
        let record: [u8; OPT_LENGTH] =
            [0, type_high, type_low, payload_high, payload_low, extended, 0, flags_high, flags_low, 0, 0];
        out.extend_from_slice(&record);
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

    /// Returns the response www.example CNAME a.example, A 192.0.2.1, with these header flags and OPT.
    fn said(flags: u16, rcode_high: u32, options: &[u8]) -> Response {
        let bytes = Sample::response("www.example", RecordType::A, flags)
            .record(1, "www.example", RecordType::CNAME, 300, &wire("a.example"))
            .record(1, "a.example", RecordType::A, 60, &[192, 0, 2, 1])
            .opt(1232, rcode_high << 24, options)
            .bytes();
        Response::parse(&bytes, &question("www.example", RecordType::A)).unwrap()
    }

    #[test]
    fn a_denial_is_authoritative_nxdomain_with_a_soa_of_the_parent() {
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
    fn the_soa_of_a_denial_by_policy_says_so() {
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
    fn ede_is_written_only_to_a_client_with_opt_and_cut_at_a_character() {
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
    fn the_longest_question_leaves_room_for_a_denial_in_512_octets() {
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        let bytes = Sample::query(&name, RecordType::A).opt(0, 0, &[]).bytes();
        let mut out = Vec::new();
        negative(&parsed(&bytes), Negative::NxDomain, 5, Some(Ede { code: 15, text: &"x".repeat(600) }), 512, &mut out);
        assert_eq!(out.len(), 512);
        assert_eq!(edes(&out).len(), 1);
    }

    #[test]
    fn our_opt_says_1232_version_0_and_the_clients_do() {
        let bytes = asked(true);
        let mut out = Vec::new();
        servfail(&parsed(&bytes), &[Ede { code: 22, text: "" }, Ede { code: 23, text: "timeout" }], &mut out);
        let edns = read(&out).edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true));
        assert_eq!(edes(&out), [(22, String::new()), (23, "timeout".to_owned())]);
        assert_eq!(u32_at(&out, 0).unwrap() & 0xffff, 0x8182);
    }

    #[test]
    fn refusals_echo_the_header_and_say_badvers_in_the_opt_record() {
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
    fn any_is_answered_with_one_hinfo_record() {
        let bytes = Sample::query("www.example", RecordType::ANY).bytes();
        let mut out = Vec::new();
        any(&parsed(&bytes), &mut out);
        assert_eq!(records(&out), ["an www.example. 3600 HINFO"]);
        assert_eq!(u32_at(&out, 0).unwrap() & 0xffff, 0x8180);
    }

    #[test]
    fn a_response_is_given_the_clients_id_question_and_opt_and_older_ttls() {
        let response = said(flag::AA | flag::AD, 0, &[0, 15, 0, 4, 0, 4, b'h', b'i']);
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
    fn what_does_not_fit_is_left_out_with_tc_and_opt_is_kept() {
        let response = said(0, 0, &[]);
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
    fn of_too_many_records_of_our_own_those_that_fit_are_written() {
        let addresses = || (0..250).map(|last| Own::Address([192, 0, 2, last].into()));
        for (opt, limit, expected) in [(false, 512, 30), (true, 512, 29), (true, 1232, 74), (true, 65_535, 250)] {
            let bytes = asked(opt);
            let mut out = Vec::new();
            own(&parsed(&bytes), addresses(), 5, limit, &mut out);
            assert_eq!((counts(&out)[1], read(&out).metadata.truncation), (expected, expected < 250));
            assert!(out.len() <= limit && read(&out).edns.is_some() == opt);
        }
    }

    #[test]
    fn an_extended_rcode_needs_an_opt_record() {
        let response = said(7, 1, &[]);
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
    fn a_negative_response_keeps_its_soa() {
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
