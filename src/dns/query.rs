//! What a client asks: its bytes become a [`Query`], a [`Refusal`] or nothing at all.
//!
//! One pass, no allocation, and work linear in the bytes whatever they are. The order of the checks is that of the
//! usual servers: opcode, form, EDNS version, class, transfer; policy comes after all of them.

use super::name::{LowerName, uncompressed_length};
use super::rcode::Rcode;
use super::response::Question;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, Header, MAX_MESSAGE, OPT_DO, Options, PAYLOAD, flag, u16_at, u32_at};

/// What the bytes of a client are.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a query lives on the stack: parsing allocates nothing")]
pub enum Parsed<'a> {
    /// A question that policy decides.
    Query(Query<'a>),
    /// A message that is answered with an error, whatever the policy.
    Refuse(Refusal<'a>),
    /// Nothing that may be answered: an answer could go round in circles.
    Drop(DropReason),
}

/// A well-formed query: one question of class IN.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The message ID.
    pub id: u16,
    /// The RD bit.
    pub recursion_desired: bool,
    /// The CD bit.
    pub checking_disabled: bool,
    /// The AD bit.
    pub authentic_data: bool,
    /// The bytes of the question as they came: QNAME in its case, QTYPE, QCLASS.
    pub question: &'a [u8],
    /// The QNAME, lower case.
    pub qname: LowerName,
    /// The QTYPE.
    pub qtype: RecordType,
    /// What the OPT record said, if there was one.
    pub edns: Option<Edns>,
    /// The partition of the cache that its answer is in; 0 until the policy says otherwise.
    pub partition: u32,
}

impl Query<'_> {
    /// Returns the longest answer that may be sent, in octets.
    ///
    /// UDP: 512 without an OPT record (RFC 1035 §2.3.4), else what it asks for between 512 and 1232.
    #[must_use]
    pub fn payload_limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => MAX_MESSAGE,
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => usize::from(edns.payload_size.clamp(512, PAYLOAD)),
        }
    }

    /// Returns a query that parses to the same, without what does not matter: options and other records.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(HEADER + self.question.len() + 11);
        let rd = if self.recursion_desired { flag::RD } else { 0 };
        let cd = if self.checking_disabled { flag::CD } else { 0 };
        let ad = if self.authentic_data { flag::AD } else { 0 };
        let counts = [1, 0, 0, u16::from(self.edns.is_some())];
        Header { id: self.id, flags: rd | cd | ad, counts }.write(&mut bytes);
        bytes.extend_from_slice(self.question);
        if let Some(edns) = self.edns {
            // The root, OPT, payload size, extended RCODE and version 0, flags, no options (RFC 6891 §6.1.2).
            bytes.push(0);
            for field in [RecordType::OPT.0, edns.payload_size, 0, if edns.dnssec_ok { OPT_DO } else { 0 }, 0] {
                bytes.extend_from_slice(&field.to_be_bytes());
            }
        }
        bytes.into()
    }

    /// Returns whether the client understands DNSSEC records.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Returns whether the client wants to know if the answer is authentic: it set AD or DO (RFC 6840 §5.7).
    #[must_use]
    pub fn wants_authentic(&self) -> bool {
        self.authentic_data || self.dnssec_ok()
    }

    /// Returns what of this is asked upstream, which is also the key of the cache.
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

/// How a query came, as far as the size of its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream with length-prefixed messages.
    Tcp,
}

impl Transport {
    /// Both, by index.
    pub(crate) const ALL: &'static [Self] = &[Self::Udp, Self::Tcp];

    /// Returns the label, as it stands in metrics and records.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// Returns the position in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// What the OPT record of a client said (RFC 6891 §6.1.3). Its options are checked for their form, then ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The UDP payload size, as sent.
    pub payload_size: u16,
    /// The DO bit (RFC 3225).
    pub dnssec_ok: bool,
}

/// A message that is answered with an error: what of it is echoed, and why.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The message ID.
    pub id: u16,
    /// The opcode, 0 to 15.
    pub opcode: u8,
    /// The RD bit.
    pub recursion_desired: bool,
    /// The CD bit.
    pub checking_disabled: bool,
    /// The bytes of the question as they came, when there is exactly one and it could be read.
    pub question: Option<&'a [u8]>,
    /// What the OPT record said, when one could be read.
    pub edns: Option<Edns>,
    /// Why it is refused.
    pub reason: RefusalReason,
}

impl Refusal<'_> {
    /// Returns what was asked, when the question could be read; for records of the decision, not for deciding.
    #[must_use]
    pub fn asked(&self) -> Option<(LowerName, RecordType)> {
        let (qname, length) = LowerName::from_uncompressed(self.question?).ok()?;
        Some((qname, RecordType(u16_at(self.question?, length)?)))
    }
}

/// Why a message is refused before any policy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The opcode is not QUERY.
    Opcode,
    /// There is not exactly one question.
    QuestionCount,
    /// The question could not be read.
    Question,
    /// The answer or the authority section of the query holds something.
    Records,
    /// A record of the additional section could not be read, or something stands behind the last one.
    Additional,
    /// There is more than one OPT record, or its owner is not the root, or its options are malformed.
    Edns,
    /// The EDNS version is not 0.
    EdnsVersion,
    /// The class is not IN.
    Class,
    /// A zone transfer: AXFR or IXFR.
    Transfer,
}

impl RefusalReason {
    /// Returns the response code that says so.
    #[must_use]
    pub const fn rcode(self) -> Rcode {
        match self {
            Self::Opcode => Rcode::NOTIMP,
            Self::QuestionCount | Self::Question | Self::Records | Self::Additional | Self::Edns => Rcode::FORMERR,
            Self::EdnsVersion => Rcode::BADVERS,
            Self::Class | Self::Transfer => Rcode::REFUSED,
        }
    }

    /// Returns the reason as the decision log and the metrics name it.
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

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// It is a response (QR=1).
    Response,
    /// It is shorter than a header.
    Short,
}

impl DropReason {
    /// Returns the reason as the metrics name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Short => "short",
        }
    }
}

/// Reads what a client sent.
///
/// Never panics and never allocates; reads each byte a bounded number of times.
#[must_use]
pub fn parse(message: &[u8]) -> Parsed<'_> {
    let Some(header) = Header::read(message) else {
        return Parsed::Drop(DropReason::Short);
    };
    if header.flags & flag::QR != 0 {
        return Parsed::Drop(DropReason::Response);
    }
    let body = Body::read(message, &header);
    match body.judge(&header) {
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

/// What stands behind the header, as far as it could be read.
struct Body<'a> {
    /// The question, when there is exactly one.
    asked: Option<Asked<'a>>,
    /// The first OPT record.
    edns: Option<Edns>,
    /// The EDNS version, 0 when there is no OPT record.
    version: u8,
    /// Where the form breaks; nothing behind it was read.
    fault: Option<RefusalReason>,
}

/// A question, read.
struct Asked<'a> {
    /// Its bytes.
    bytes: &'a [u8],
    /// QNAME, as it came.
    qname: &'a [u8],
    /// QTYPE.
    qtype: RecordType,
    /// QCLASS.
    qclass: u16,
}

impl<'a> Body<'a> {
    /// Reads the sections up to the first fault.
    fn read(message: &'a [u8], header: &Header) -> Self {
        let mut body = Self { asked: None, edns: None, version: 0, fault: None };
        let read = body.read_sections(message, header);
        body.fault = if header.counts[0] == 1 { read.err() } else { Some(RefusalReason::QuestionCount) };
        body
    }

    /// Reads the question and the additional section; the others must be empty in a query.
    fn read_sections(&mut self, message: &'a [u8], header: &Header) -> Result<(), RefusalReason> {
        let [questions, answers, authorities, additionals] = header.counts;
        let mut at = HEADER;
        match questions {
            // Read on for the OPT record: the answer to a query with EDNS must hold one, also when it says FORMERR.
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

    /// Reads the additional record at `at`; returns where it ends.
    fn read_additional(&mut self, message: &'a [u8], at: usize) -> Result<usize, RefusalReason> {
        let fixed = skip_name(message, at).ok_or(RefusalReason::Additional)?;
        let read = |offset| u16_at(message, fixed + offset).ok_or(RefusalReason::Additional);
        let (rtype, class, length) = (RecordType(read(0)?), read(2)?, usize::from(read(8)?));
        let ttl = u32_at(message, fixed + 4).ok_or(RefusalReason::Additional)?;
        let end = fixed + 10 + length;
        let rdata = message.get(fixed + 10..end).ok_or(RefusalReason::Additional)?;
        if rtype == RecordType::OPT {
            // RFC 6891 §6.1.1: at most one, and its owner is the root.
            if self.edns.is_some() || fixed != at + 1 {
                return Err(RefusalReason::Edns);
            }
            let [_, version, flags @ ..] = ttl.to_be_bytes();
            self.version = version;
            self.edns = Some(Edns { payload_size: class, dnssec_ok: u16::from_be_bytes(flags) & OPT_DO != 0 });
            // What options look like in a later version is unknown, so version 0 alone is checked.
            if version == 0 && Options(rdata).any(|option| option.is_err()) {
                return Err(RefusalReason::Edns);
            }
        }
        Ok(end)
    }

    /// Returns the question, or the first reason to refuse in the order servers check.
    fn judge(&self, header: &Header) -> Result<&Asked<'a>, RefusalReason> {
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
    /// Reads the question at the start of `bytes`. A compression pointer has nothing to point to there.
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

/// Returns where the name at `at` ends, without following a compression pointer.
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
    fn a_query_keeps_its_question_bytes_and_its_flags() {
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
    fn an_opt_record_says_payload_size_and_dnssec_ok_and_unknown_options_are_ignored() {
        let options = [0, 10, 0, 2, 1, 2, 0xff, 0xff, 0, 0];
        let bytes = Sample::query("www.example", RecordType::A).opt(4096, 0x8000, &options).bytes();
        assert_eq!(parsed(&bytes).edns, Some(Edns { payload_size: 4096, dnssec_ok: true }));
    }

    #[test]
    fn the_payload_limit_is_512_without_opt_and_at_most_1232_with_it() {
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
    fn responses_and_fragments_of_a_header_are_dropped() {
        for length in 0..HEADER {
            assert!(matches!(parse(&changed(|_| {})[..length]), Parsed::Drop(DropReason::Short)), "{length}");
        }
        let response = changed(|bytes| bytes[2] |= 0x80);
        assert!(matches!(parse(&response), Parsed::Drop(DropReason::Response)));
    }

    #[test]
    fn what_is_no_plain_question_is_refused_for_the_first_reason() {
        use RefusalReason as Why;
        let query = || Sample::query("www.example", RecordType::A);
        let typed = |qtype| Sample::query("www.example", qtype).bytes();
        let cases = [
            (changed(|bytes| bytes[2] |= 0x20), Why::Opcode),
            // The opcode comes before the form.
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
    fn records_that_mean_nothing_here_are_skipped() {
        let bytes = Sample::query("www.example", RecordType::A)
            .raw(3, b"\xc0\x0c", RecordType::TSIG, 255, 0, &[1, 2, 3])
            .opt(1232, 0, &[])
            .bytes();
        assert!(parsed(&bytes).edns.is_some());
    }

    #[test]
    fn a_refusal_echoes_what_could_be_read() {
        let bytes = Sample::query("www.example", RecordType::AXFR).opt(1232, 0x8000, &[]).bytes();
        let Parsed::Refuse(refusal) = parse(&bytes) else { panic!("a transfer is refused") };
        let (qname, qtype) = refusal.asked().unwrap();
        assert_eq!((qname.to_string().as_str(), qtype), ("www.example", RecordType::AXFR));
        assert!(refusal.edns.unwrap().dnssec_ok);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_query_with_any_byte_changed_is_parsed(at in 0usize..80, octet in any::<u8>(), cut in 0usize..80) {
            let mut bytes = Sample::query("www.example", RecordType::A).opt(1232, 0x8000, &[0, 10, 0, 2, 1, 2]).bytes();
            let at = at % bytes.len();
            bytes[at] = octet;
            bytes.truncate(bytes.len().max(cut));
            let Parsed::Query(query) = parse(&bytes) else { return Ok(()) };
            let compact = query.to_bytes();
            let Parsed::Query(again) = parse(&compact) else { panic!("{compact:?}") };
            prop_assert_eq!(again.id, query.id);
            prop_assert_eq!(again.recursion_desired, query.recursion_desired);
            prop_assert_eq!(again.checking_disabled, query.checking_disabled);
            prop_assert_eq!(again.question, query.question);
            prop_assert_eq!(again.qname, query.qname);
            prop_assert_eq!(again.edns, query.edns);
        }

        #[test]
        fn queries_are_read_as_hickory_reads_them(
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
