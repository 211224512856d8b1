//! The query parser: the bytes of a client become a [`Query`], a [`Refusal`] (an error that must be answered) or a
//! drop.
//!
//! Parsing is one pass without allocation, and its work is linear in the bytes whatever they are. The checks come in
//! the order of other servers: opcode, form, EDNS version, class, transfer. The policy is consulted only after all of
//! them.

use std::sync::Arc;

use super::name::{LowerName, uncompressed_length};
use super::rcode::Rcode;
use super::response::Question;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, OPT_DO, Options, PAYLOAD, flag, u16_at, u32_at};

/// The result of parsing the bytes of a client.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a query lives on the stack: parsing allocates nothing")]
pub enum Parsed<'a> {
    /// A well-formed query, which the policy decides.
    Query(Query<'a>),
    /// A message that is answered with an error, whatever the policy.
    Refuse(Refusal<'a>),
    /// A message that must not be answered: answering a response could start a loop between two servers.
    Drop(DropReason),
}

/// A well-formed query: one question of class IN.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The message ID, which the answer echoes.
    pub id: u16,
    /// The RD bit (recursion desired).
    pub recursion_desired: bool,
    /// The CD bit (checking disabled, RFC 4035 §3.2.2).
    pub checking_disabled: bool,
    /// The AD bit: the client wants to know whether the answer is authentic (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// The bytes of the question as received: QNAME in the client's case, QTYPE, QCLASS.
    pub question: &'a [u8],
    /// The QNAME in lower case.
    pub qname: LowerName,
    /// The QTYPE, never AXFR or IXFR.
    pub qtype: RecordType,
    /// The content of the OPT record; `None` if the query has none.
    pub edns: Option<ClientEdns>,
    /// The partition of the cache that the answer belongs to; 0 until the policy assigns another.
    pub partition: u32,
}

impl Query<'_> {
    /// Returns the size limit of the answer in octets.
    ///
    /// Over UDP, 512 octets without an OPT record (RFC 1035 §2.3.4), else the advertised payload size, at least 512 and
    /// at most 1232.
    #[must_use]
    pub fn payload_limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => MAX_MESSAGE,
            (Transport::Udp, None) => 512,
            // Values below 512 are treated as 512 (RFC 6891 §6.2.3).
            (Transport::Udp, Some(edns)) => usize::from(edns.payload_size.clamp(512, PAYLOAD)),
        }
    }

    /// Returns whether the client set the DO bit, that is, accepts DNSSEC records (RFC 3225).
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Returns whether the client wants to know if the answer is authentic: it set AD or DO (RFC 6840 §5.7).
    #[must_use]
    pub fn wants_authentic(&self) -> bool {
        self.authentic_data || self.dnssec_ok()
    }

    /// Returns the question to ask upstream, which is also the cache key.
    #[must_use]
    pub fn to_question(&self) -> Question {
        Question {
            qname: self.qname.clone(),
            qtype: self.qtype,
            dnssec_ok: self.dnssec_ok(),
            authentic_data: self.wants_authentic(),
            checking_disabled: self.checking_disabled,
            recursion_desired: self.recursion_desired,
            partition: self.partition,
        }
    }
}

/// A query without its message, to keep while an upstream is asked: EDNS options and records other than OPT are left out.
#[derive(Clone, Debug)]
pub struct OwnedQuery {
    /// The question that is asked upstream.
    asked: Arc<Question>,
    /// The message ID.
    id: u16,
    /// The AD bit of the client's header.
    authentic_data: bool,
    /// The content of the OPT record; `None` if the query has none.
    edns: Option<ClientEdns>,
    /// The question section's bytes in the client's case.
    question: Box<[u8]>,
}

impl OwnedQuery {
    /// Copies a query out of its message, with `asked`, which is its [`Query::to_question`].
    #[must_use]
    pub fn new(query: &Query<'_>, asked: Question) -> Self {
        let Query { id, authentic_data, question, edns, .. } = *query;
        Self { asked: Arc::new(asked), id, authentic_data, edns, question: question.into() }
    }

    /// Returns the question that is asked upstream.
    #[must_use]
    pub const fn asked(&self) -> &Arc<Question> {
        &self.asked
    }

    /// Returns the query as it was parsed.
    #[must_use]
    pub fn as_query(&self) -> Query<'_> {
        let Self { asked, id, authentic_data, edns, question } = self;
        // AD is not taken from the question: DO sets it there.
        let Question { qname, qtype, checking_disabled, recursion_desired, partition, .. } = &**asked;
        Query {
            id: *id,
            recursion_desired: *recursion_desired,
            checking_disabled: *checking_disabled,
            authentic_data: *authentic_data,
            question,
            qname: qname.clone(),
            qtype: *qtype,
            edns: *edns,
            partition: *partition,
        }
    }
}

/// The transport of a query, on which the size limit of its answer depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP: the message is a datagram.
    Udp,
    /// TCP: each message has a two-octet length prefix (RFC 1035 §4.2.2).
    Tcp,
}

impl Transport {
    /// All transports, in the order of [`Self::index`].
    pub(crate) const ALL: &'static [Self] = &[Self::Udp, Self::Tcp];

    /// Returns the label of the transport in metrics and decision records.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The content of a client's OPT record (RFC 6891 §6.1.3). Its options are checked to be well-formed, then ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// The advertised UDP payload size, before any clamping.
    pub payload_size: u16,
    /// The DO bit: DNSSEC records are welcome (RFC 3225).
    pub dnssec_ok: bool,
}

/// A message that is answered with an error: the parts that the answer echoes, and the reason.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The message ID, which the answer echoes.
    pub id: u16,
    /// The opcode, 0 to 15.
    pub opcode: u8,
    /// The RD bit (recursion desired).
    pub recursion_desired: bool,
    /// The CD bit (checking disabled).
    pub checking_disabled: bool,
    /// The bytes of the question as received; `None` unless there is exactly one and it is well-formed.
    pub question: Option<&'a [u8]>,
    /// The content of the OPT record; `None` if there is none or it is malformed.
    pub edns: Option<ClientEdns>,
    /// The first check that failed, which decides the RCODE.
    pub reason: RefusalReason,
}

impl Refusal<'_> {
    /// Returns the name and type asked for if the question is well-formed. Decision records use it; no decision does.
    #[must_use]
    pub fn asked(&self) -> Option<(LowerName, RecordType)> {
        let (qname, length) = LowerName::from_uncompressed(self.question?).ok()?;
        Some((qname, RecordType(u16_at(self.question?, length)?)))
    }
}

/// The reasons to refuse a message before any policy is consulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The opcode is not QUERY.
    Opcode,
    /// The number of questions is not one.
    QuestionCount,
    /// The question is malformed or cut off.
    Question,
    /// The answer or the authority section is not empty.
    Records,
    /// An additional record is malformed, or octets follow the last one.
    Additional,
    /// A second OPT record, an OPT record whose owner is not the root, or malformed EDNS options (RFC 6891 §6.1.1).
    Edns,
    /// An EDNS version other than 0.
    EdnsVersion,
    /// A class other than IN.
    Class,
    /// A zone transfer: AXFR or IXFR.
    Transfer,
}

impl RefusalReason {
    /// Returns the response code for the reason.
    #[must_use]
    pub const fn rcode(self) -> Rcode {
        match self {
            Self::Opcode => Rcode::NOTIMP,
            Self::QuestionCount | Self::Question | Self::Records | Self::Additional | Self::Edns => Rcode::FORMERR,
            Self::EdnsVersion => Rcode::BADVERS,
            Self::Class | Self::Transfer => Rcode::REFUSED,
        }
    }

    /// Returns the label of the reason in metrics and decision records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opcode => "opcode",
            Self::QuestionCount => "question-count",
            Self::Question => "question",
            Self::Records => "records",
            Self::Additional => "additional",
            Self::Edns => "edns",
            Self::EdnsVersion => "edns-version",
            Self::Class => "class",
            Self::Transfer => "transfer",
        }
    }
}

/// The reasons to drop a message without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The QR bit is set: the message is a response.
    Response,
    /// The message is shorter than a header.
    Short,
}

impl DropReason {
    /// Returns the label of the reason in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Short => "short",
        }
    }
}

/// Parses a message from a client.
///
/// Never panics and never allocates, and reads each octet a bounded number of times.
#[must_use]
pub fn parse(message: &[u8]) -> Parsed<'_> {
    let Some(header) = Header::read(message) else {
        return Parsed::Drop(DropReason::Short);
    };
    if header.flags & flag::QR != 0 {
        return Parsed::Drop(DropReason::Response);
    }
    let body = Body::read(message, &header);
    match body.check(&header) {
        Ok(asked) => Parsed::Query(Query {
            id: header.id,
            recursion_desired: header.flags & flag::RD != 0,
            checking_disabled: header.flags & flag::CD != 0,
            authentic_data: header.flags & flag::AD != 0,
            question: asked.bytes,
            qtype: asked.qtype,
            edns: body.edns,
            qname: LowerName::lowered(asked.qname),
            partition: 0,
        }),
        Err(reason) => Parsed::Refuse(Refusal {
            id: header.id,
            opcode: u8::try_from((header.flags & flag::OPCODE) >> 11).unwrap_or_default(),
            recursion_desired: header.flags & flag::RD != 0,
            checking_disabled: header.flags & flag::CD != 0,
            question: body.asked.as_ref().map(|asked| asked.bytes),
            edns: body.edns,
            reason,
        }),
    }
}

/// The message after the header, as far as it is well-formed.
struct Body<'a> {
    /// The question; `None` unless there is exactly one and it is well-formed.
    asked: Option<Asked<'a>>,
    /// The content of the first OPT record.
    edns: Option<ClientEdns>,
    /// The EDNS version, or 0 without an OPT record.
    version: u8,
    /// The first fault in the form. Parsing stops there.
    fault: Option<RefusalReason>,
}

/// A question as it is on the wire.
struct Asked<'a> {
    bytes: &'a [u8],
    /// The QNAME in the client's case.
    qname: &'a [u8],
    qtype: RecordType,
    qclass: u16,
}

impl<'a> Body<'a> {
    /// Reads the sections, up to the first fault.
    fn read(message: &'a [u8], header: &Header) -> Self {
        let mut body = Self { asked: None, edns: None, version: 0, fault: None };
        let read = body.read_sections(message, header);
        body.fault = if header.counts[0] == 1 { read.err() } else { Some(RefusalReason::QuestionCount) };
        body
    }

    /// Reads the question and the additional section. The other two sections must be empty in a query.
    fn read_sections(&mut self, message: &'a [u8], header: &Header) -> Result<(), RefusalReason> {
        let [questions, answers, authorities, additionals] = header.counts;
        let mut at = HEADER;
        match questions {
            // Without a question the OPT record is still read: a query with EDNS must get an OPT record, even with
            // FORMERR (RFC 6891 §7).
            0 => {}
            1 => {
                let asked = Asked::read(message.get(at..).unwrap_or_default()).ok_or(RefusalReason::Question)?;
                at += asked.bytes.len();
                self.asked = Some(asked);
            }
            _ => return Err(RefusalReason::QuestionCount),
        }
        if answers != 0 || authorities != 0 {
            return Err(RefusalReason::Records);
        }
        for _ in 0..additionals {
            at = self.read_additional(message, at)?;
        }
        if at != message.len() {
            return Err(RefusalReason::Additional);
        }
        Ok(())
    }

    /// Reads the additional record at `at`. Returns the offset after it.
    fn read_additional(&mut self, message: &'a [u8], at: usize) -> Result<usize, RefusalReason> {
        // The owner is never used except to see that an OPT record has the root, so pointers are not followed.
        let fixed = skip_name(message, at).ok_or(RefusalReason::Additional)?;
        let read = |offset| u16_at(message, fixed + offset).ok_or(RefusalReason::Additional);
        let (rtype, class, length) = (RecordType(read(0)?), read(2)?, usize::from(read(8)?));
        let ttl = u32_at(message, fixed + 4).ok_or(RefusalReason::Additional)?;
        let end = fixed + 10 + length;
        let rdata = message.get(fixed + 10..end).ok_or(RefusalReason::Additional)?;
        if rtype == RecordType::OPT {
            // RFC 6891 §6.1.1: at most one OPT record, and its owner is the root.
            if self.edns.is_some() || fixed != at + 1 {
                return Err(RefusalReason::Edns);
            }
            let [_, version, flags @ ..] = ttl.to_be_bytes();
            self.version = version;
            self.edns = Some(ClientEdns { payload_size: class, dnssec_ok: u16::from_be_bytes(flags) & OPT_DO != 0 });
            // Another EDNS version may encode options differently, so only those of version 0 are checked.
            if version == 0 && Options(rdata).any(|option| option.is_err()) {
                return Err(RefusalReason::Edns);
            }
        }
        Ok(end)
    }

    /// Returns the question, or the reason to refuse that other servers would give first.
    fn check(&self, header: &Header) -> Result<&Asked<'a>, RefusalReason> {
        // With another opcode, such as UPDATE (RFC 2136), the sections mean something else, so their faults do not
        // count.
        if header.flags & flag::OPCODE != 0 {
            return Err(RefusalReason::Opcode);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.version != 0 {
            return Err(RefusalReason::EdnsVersion);
        }
        let asked = self.asked.as_ref().ok_or(RefusalReason::QuestionCount)?;
        if asked.qclass != CLASS_IN {
            return Err(RefusalReason::Class);
        }
        if matches!(asked.qtype, RecordType::AXFR | RecordType::IXFR) {
            return Err(RefusalReason::Transfer);
        }
        Ok(asked)
    }
}

impl<'a> Asked<'a> {
    /// Reads the question at the start of `bytes`. A compression pointer is rejected: no name precedes the question.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = uncompressed_length(bytes).ok()?;
        Some(Self {
            bytes: bytes.get(..length + 4)?,
            qname: &bytes[..length],
            qtype: RecordType(u16_at(bytes, length)?),
            qclass: u16_at(bytes, length + 2)?,
        })
    }
}

/// Returns the offset after the name at `at`. A compression pointer ends the name and is not followed.
fn skip_name(message: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        match usize::from(*message.get(end)?) {
            0 => return Some(end + 1),
            length @ 1..=63 if end - at + length < 255 => end += 1 + length,
            0xc0.. if u16_at(message, end).is_some_and(|word| usize::from(word & 0x3fff) < at) => return Some(end + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query as HickoryQuery};
    use hickory_proto::rr::{Name, RecordType as HickoryType};
    use proptest::prelude::*;

    use super::*;
    use crate::dns::sample::{Sample, parsed, wire};

    /// Asserts that `bytes` are refused for `reason`.
    fn assert_refused(bytes: &[u8], reason: RefusalReason) {
        match parse(bytes) {
            Parsed::Refuse(refusal) => assert_eq!(refusal.reason, reason, "{bytes:02x?}"),
            other => panic!("{reason:?}: {other:?}"),
        }
    }

    /// Returns a query for www.example A with some of its bytes changed.
    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Sample::query("www.example", RecordType::A).bytes();
        change(&mut bytes);
        bytes
    }

    #[test]
    fn parsed_query_keeps_question_bytes_and_flags() {
        let bytes = changed(|bytes| bytes[2..4].copy_from_slice(&(flag::RD | flag::CD).to_be_bytes()));
        let bytes: Vec<u8> = bytes.iter().map(|&octet| if octet == b'w' { b'W' } else { octet }).collect();
        let query = parsed(&bytes);
        assert_eq!((query.id, query.recursion_desired, query.checking_disabled), (0x1234, true, true));
        assert_eq!(query.question, &bytes[HEADER..]);
        assert_eq!(query.qname.to_string(), "www.example");
        assert_eq!((query.qtype, query.edns), (RecordType::A, None));
        let question = query.to_question();
        assert!(question.checking_disabled && question.recursion_desired && !question.dnssec_ok);
    }

    #[test]
    fn opt_record_gives_payload_size_and_do_and_unknown_options_are_ignored() {
        let options = [0, 10, 0, 2, 1, 2, 0xff, 0xff, 0, 0];
        let bytes = Sample::query("www.example", RecordType::A).opt(4096, 0x8000, &options).bytes();
        assert_eq!(parsed(&bytes).edns, Some(ClientEdns { payload_size: 4096, dnssec_ok: true }));
    }

    #[test]
    fn payload_limit_is_512_without_opt_and_at_most_1232_with_it() {
        const CASES: &[(Option<u16>, usize)] = &[
            (None, 512),
            (Some(0), 512),
            (Some(511), 512),
            (Some(1000), 1000),
            (Some(1232), 1232),
            (Some(4096), 1232),
        ];
        for (payload, limit) in CASES {
            let sample = Sample::query("www.example", RecordType::A);
            let bytes = payload.map_or_else(|| changed(|_| {}), |payload| sample.opt(payload, 0, &[]).bytes());
            assert_eq!(parsed(&bytes).payload_limit(Transport::Udp), *limit, "{payload:?}");
            assert_eq!(parsed(&bytes).payload_limit(Transport::Tcp), 65_535, "{payload:?}");
        }
    }

    #[test]
    fn responses_and_messages_shorter_than_a_header_are_dropped() {
        for length in 0..HEADER {
            assert!(matches!(parse(&changed(|_| {})[..length]), Parsed::Drop(DropReason::Short)), "{length}");
        }
        let response = changed(|bytes| bytes[2] |= 0x80);
        assert!(matches!(parse(&response), Parsed::Drop(DropReason::Response)));
    }

    #[test]
    fn malformed_and_unsupported_queries_are_refused_for_the_first_fault() {
        use RefusalReason as Why;
        let query = || Sample::query("www.example", RecordType::A);
        let typed = |qtype| Sample::query("www.example", qtype).bytes();
        let cases = [
            (changed(|bytes| bytes[2] |= 0x20), Why::Opcode),
            // The opcode is checked before the form.
            (changed(|bytes| bytes.splice(2..6, [0x28, 0, 0, 9]).for_each(drop)), Why::Opcode),
            (changed(|bytes| bytes[5] = 0), Why::QuestionCount),
            (vec![0; HEADER], Why::QuestionCount),
            (changed(|bytes| bytes[5] = 2), Why::QuestionCount),
            (changed(|bytes| bytes.truncate(HEADER + 3)), Why::Question),
            (changed(|bytes| bytes.truncate(HEADER)), Why::Question),
            (changed(|bytes| bytes[HEADER] = 0xc0), Why::Question),
            (changed(|bytes| bytes[HEADER] = 0x40), Why::Question),
            (changed(|bytes| bytes[7] = 1), Why::Records),
            (changed(|bytes| bytes[9] = 1), Why::Records),
            (changed(|bytes| bytes[11] = 1), Why::Additional),
            (changed(|bytes| bytes.push(0)), Why::Additional),
            (query().raw(3, b"\xc0\xff", RecordType::A, 1, 0, &[]).bytes(), Why::Additional),
            (query().opt(512, 0, &[]).opt(512, 0, &[]).bytes(), Why::Edns),
            (query().record(3, "x", RecordType::OPT, 0, &[]).bytes(), Why::Edns),
            (query().opt(512, 0, &[0, 10, 0]).bytes(), Why::Edns),
            (query().opt(512, 0, &[0, 10, 0, 3, 1, 2]).bytes(), Why::Edns),
            (query().opt(512, 0x0001_0000, &[1]).bytes(), Why::EdnsVersion),
            (changed(|bytes| *bytes.last_mut().unwrap() = 3), Why::Class),
            (typed(RecordType::AXFR), Why::Transfer),
            (typed(RecordType::IXFR), Why::Transfer),
        ];
        for (bytes, reason) in cases {
            assert_refused(&bytes, reason);
        }
    }

    #[test]
    fn additional_records_other_than_opt_are_skipped() {
        let bytes = Sample::query("www.example", RecordType::A)
            .raw(3, b"\xc0\x0c", RecordType::TSIG, 255, 0, &[1, 2, 3])
            .opt(1232, 0, &[])
            .bytes();
        assert!(parsed(&bytes).edns.is_some());
    }

    #[test]
    fn refusal_has_the_parts_that_could_be_parsed() {
        let bytes = Sample::query("www.example", RecordType::AXFR).opt(1232, 0x8000, &[]).bytes();
        let Parsed::Refuse(refusal) = parse(&bytes) else { panic!("a transfer is refused") };
        let (qname, qtype) = refusal.asked().unwrap();
        assert_eq!((qname.to_string().as_str(), qtype), ("www.example", RecordType::AXFR));
        assert!(refusal.edns.unwrap().dnssec_ok);
    }

    proptest! {
        #[test]
        fn parser_accepts_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn parser_accepts_a_query_with_any_byte_changed(at in 0usize..80, octet in any::<u8>(), cut in 0usize..80) {
            let mut bytes = Sample::query("www.example", RecordType::A).opt(1232, 0x8000, &[0, 10, 0, 2, 1, 2]).bytes();
            let at = at % bytes.len();
            bytes[at] = octet;
            bytes.truncate(bytes.len().max(cut));
            let Parsed::Query(query) = parse(&bytes) else { return Ok(()) };
            let owned = OwnedQuery::new(&query, query.to_question());
            prop_assert_eq!(format!("{:?}", owned.as_query()), format!("{query:?}"));
        }

        #[test]
        fn parsed_queries_equal_those_of_hickory(
            id in any::<u16>(),
            labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}", 0..8),
            qtype in (1u16..=65535).prop_filter("a question type", |&qtype| !RecordType(qtype).is_meta()),
            payload in prop::option::of(any::<u16>()),
            dnssec_ok in any::<bool>(),
        ) {
            let name = Name::from_labels(labels.iter().map(String::as_bytes)).unwrap();
            let mut message = Message::query();
            message.metadata.id = id;
            message.metadata.recursion_desired = true;
            message.add_query(HickoryQuery::query(name, HickoryType::from(qtype)));
            if let Some(payload) = payload {
                let mut edns = hickory_proto::op::Edns::new();
                edns.set_max_payload(payload);
                edns.set_dnssec_ok(dnssec_ok);
                message.set_edns(edns);
            }
            let bytes = message.to_vec().unwrap();
            let query = parsed(&bytes);
            prop_assert_eq!(query.id, id);
            prop_assert_eq!(query.qname.as_wire(), wire(&labels.join(".")).to_ascii_lowercase());
            prop_assert_eq!(query.qtype.0, qtype);
            // hickory raises a payload size below 512.
            prop_assert_eq!(query.edns.map(|edns| edns.payload_size), payload.map(|payload| payload.max(512)));
            prop_assert_eq!(query.edns.is_some_and(|edns| edns.dnssec_ok), dnssec_ok && payload.is_some());
        }
    }
}
