//! Comparison of the one-pass parser with the general parser: if it returns a response, both must be equal.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::dns::response::ResponseError;
use crate::dns::sample::{Sample, question, rrsig, soa, svcb, wire};

/// The type most cases ask for.
const A: RecordType = RecordType::A;

/// An address that is globally reachable.
const PUBLIC: [u8; 4] = [8, 8, 8, 8];

/// An address that is not globally reachable.
const PRIVATE: [u8; 4] = [10, 0, 0, 1];

/// A pointer to the question's name.
const QNAME: &[u8] = b"\xc0\x0c";

/// A pointer to `example` in the question `www.example`.
const ZONE: &[u8] = b"\xc0\x10";

/// Parses `bytes` with both parsers and compares the results. Returns whether the one-pass parser accepted them.
fn is_read_in_one_pass(bytes: &[u8], question: &Question) -> bool {
    let Some(header) = Header::read(bytes) else { return false };
    let parsed = Response::parse(bytes, question);
    if matches!(parsed, Err(ResponseError::NotOurs | ResponseError::Truncated)) {
        return false;
    }
    let general = Response::parse_any(bytes, &header, question, &Reach::default());
    assert_eq!(parsed, general, "{bytes:02x?}");
    let one_pass = parse(bytes, &header, question, &Reach::default());
    assert!(one_pass.is_none() || one_pass == general.ok(), "{bytes:02x?}");
    one_pass.is_some()
}

/// Starts a response to www.example of type `qtype`.
fn answer(qtype: RecordType) -> Sample {
    Sample::response("www.example", qtype, 0)
}

/// Adds a record to the answer.
fn an(sample: Sample, owner: &[u8], rtype: RecordType, rdata: &[u8]) -> Sample {
    sample.raw(1, owner, rtype, 1, 60, rdata)
}

/// Returns the RDATA of a SOA record of the zone, compressed.
fn compressed_soa() -> Vec<u8> {
    [b"\x02ns", ZONE, b"\x05admin", ZONE, &[0; 19], &[60]].concat()
}

#[test]
fn everyday_responses_are_parsed_in_one_pass() {
    let cname = |sample: Sample, owner: &[u8], target: &[u8]| an(sample, owner, RecordType::CNAME, target);
    let chain = |qtype| cname(answer(qtype), QNAME, b"\x01a\xc0\x10");
    let https = RecordType::HTTPS;
    let params: &[(u16, &[u8])] = &[(1, b"\x02h2"), (4, &PUBLIC)];
    let cases: Vec<(&str, RecordType, Sample)> = vec![
        ("addresses", A, an(an(answer(A), QNAME, A, &PUBLIC), QNAME, A, &PRIVATE)),
        ("with an OPT record", A, an(answer(A), QNAME, A, &PUBLIC).opt(1232, 0x8000, &[0, 10, 0, 1, 1])),
        ("an EDE", A, answer(A).opt(1232, 0, &[0, 15, 0, 3, 0, 1, b'x'])),
        ("an extended RCODE", A, answer(A).opt(1232, 0x0100_0000, &[])),
        ("names in full, in another case", A, an(answer(A), &wire("WWW.Example"), A, &PUBLIC)),
        ("a chain", A, an(chain(A), b"\xc0\x29", A, &PUBLIC)),
        ("a chain of two", A, an(cname(chain(A), b"\xc0\x29", &wire("B.test")), &wire("b.Test"), A, &PUBLIC)),
        ("a chain without its end", A, chain(A)),
        ("a chain to the root", A, an(cname(answer(A), QNAME, b"\0"), b"\0", A, &PUBLIC)),
        ("the alias asked for", RecordType::CNAME, chain(RecordType::CNAME)),
        ("IPv6", RecordType::AAAA, an(answer(RecordType::AAAA), QNAME, RecordType::AAAA, &[0x20; 16])),
        ("a text", RecordType::TXT, an(answer(RecordType::TXT), QNAME, RecordType::TXT, b"\x01x")),
        ("an unknown type", RecordType(65400), an(answer(RecordType(65400)), QNAME, RecordType(65400), b"?")),
        ("a signed answer", A, an(an(answer(A), QNAME, A, &PUBLIC), QNAME, RecordType::RRSIG, &rrsig(A, "example"))),
        (
            "who says so, and where that is",
            A,
            an(answer(A), QNAME, A, &PUBLIC)
                .raw(2, ZONE, RecordType::NS, 1, 60, b"\x02ns\xc0\x10")
                .raw(3, &wire("NS.example"), A, 1, 60, &PRIVATE)
                .opt(1232, 0, &[]),
        ),
        (
            "mail, and where that is",
            RecordType::MX,
            an(answer(RecordType::MX), QNAME, RecordType::MX, b"\x00\x0a\x04mail\xc0\x10").raw(
                3,
                b"\xc0\x2b",
                A,
                1,
                60,
                &PUBLIC,
            ),
        ),
        ("a service", https, an(answer(https), QNAME, https, &svcb(1, "", params))),
        (
            "services elsewhere",
            https,
            an(
                an(answer(https), QNAME, https, &svcb(1, "svc.test", params)),
                QNAME,
                https,
                &svcb(2, "SVC.test", &[(4, &PRIVATE)]),
            ),
        ),
        (
            "where the service itself is",
            https,
            an(answer(https), QNAME, https, &svcb(1, "", &[])).raw(3, QNAME, A, 1, 60, &PUBLIC),
        ),
        ("NODATA", A, answer(A).raw(2, ZONE, RecordType::SOA, 1, 900, &compressed_soa()).opt(1232, 0, &[])),
        ("NXDOMAIN", A, Sample::response("www.example", A, 3).record(2, "", RecordType::SOA, 30, &soa(300))),
        ("NXDOMAIN behind a chain", A, chain(A).raw(2, ZONE, RecordType::SOA, 1, 900, &compressed_soa())),
        ("an empty answer", A, answer(A)),
        ("SERVFAIL", A, Sample::response("www.example", A, 2)),
    ];
    for (name, qtype, sample) in cases {
        assert!(is_read_in_one_pass(&sample.bytes(), &question("www.example", qtype)), "{name}");
    }
    let mut behind = an(answer(A), QNAME, A, &PUBLIC).bytes();
    behind.extend([1, 2, 3]);
    assert!(is_read_in_one_pass(&behind, &question("www.example", A)), "octets behind the last record");
}

#[test]
fn unusual_responses_are_left_to_the_general_parser() {
    let a = |sample, owner: &[u8]| an(sample, owner, A, &PUBLIC);
    let alias = |sample, owner: &[u8], target: &str| an(sample, owner, RecordType::CNAME, &wire(target));
    let www = wire("www.example");
    let cases: Vec<(&str, Sample)> = vec![
        ("a foreign owner", a(answer(A), &wire("bank.test"))),
        (
            "a chain out of order",
            a(alias(alias(answer(A), &wire("b.test"), "c.test"), QNAME, "b.test"), &wire("c.test")),
        ),
        ("an address before its alias", alias(a(answer(A), &wire("b.test")), QNAME, "b.test")),
        ("two aliases", alias(alias(answer(A), QNAME, "b.test"), QNAME, "c.test")),
        ("a loop", alias(alias(answer(A), QNAME, "b.test"), &wire("b.test"), "WWW.example")),
        ("a stray pointer", a(an(answer(A), QNAME, RecordType::TXT, b"\x01x"), b"\xc0\x28")),
        ("a pointer to a pointer", a(a(answer(A), QNAME), b"\xc0\x1d")),
        ("a class other than IN", answer(A).raw(1, QNAME, A, 3, 60, &PUBLIC)),
        ("a TTL over 2^31-1", answer(A).raw(1, QNAME, A, 1, 0x8000_0000, &PUBLIC)),
        ("an address of five octets", an(answer(A), QNAME, A, &[1; 5])),
        ("a foreign authority", answer(A).record(2, "test", RecordType::SOA, 60, &soa(60))),
        ("a name below as authority", answer(A).record(2, "a.www.example", RecordType::NS, 60, &www)),
        ("a text as authority", answer(A).raw(2, QNAME, RecordType::TXT, 1, 60, b"\x01x")),
        ("an address nobody named", a(answer(A), QNAME).record(3, "ns.example", A, 60, &PUBLIC)),
        ("a text in addition", a(answer(A), QNAME).raw(3, QNAME, RecordType::TXT, 1, 60, b"\x01x")),
        ("OPT before others", a(answer(A), QNAME).opt(512, 0, &[]).raw(3, QNAME, A, 1, 60, &PUBLIC)),
        ("OPT twice", answer(A).opt(512, 0, &[]).opt(512, 0, &[])),
        ("OPT in the answer", answer(A).raw(1, &[0], RecordType::OPT, 512, 0, &[])),
        ("an owner of OPT", answer(A).raw(3, QNAME, RecordType::OPT, 512, 0, &[])),
        ("broken options", answer(A).opt(512, 0, &[0, 15, 0])),
        ("ech", an(answer(A), QNAME, RecordType::HTTPS, &svcb(1, "", &[(5, b"x")]))),
        ("malformed parameters", an(answer(A), QNAME, RecordType::HTTPS, &svcb(1, "", &[(4, b"x")]))),
        ("many records", (0..65).fold(answer(A), |sample, _| a(sample, QNAME))),
        ("a long message", an(answer(A), QNAME, RecordType::TXT, &[0; 1400])),
    ];
    for (name, sample) in cases {
        assert!(!is_read_in_one_pass(&sample.bytes(), &question("www.example", A)), "{name}");
    }
}

/// The names of generated responses; so few that owners and targets often coincide.
const NAMES: &[&str] = &[
    "www.example",
    "WWW.EXAMPLE",
    "example",
    "a.test",
    "A.Test",
    "b.a.test",
    "ns.example",
    "test",
    "",
    "x.www.example",
];

/// The spelling of a generated name.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Uncompressed.
    Full,
    /// Compressed: with a pointer wherever the rest was written before.
    Compressed,
    /// A pointer to an arbitrary offset.
    Pointer(u8),
}

/// The fields of a record to be generated.
#[derive(Clone, Debug)]
struct Plan {
    section: usize,
    owner: (usize, Form),
    rtype: RecordType,
    /// The name in the RDATA, for types that have one.
    target: (usize, Form),
    ttl: u32,
    /// A random octet for the rest of the RDATA.
    detail: u8,
}

/// Writes generated messages.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// The offset of each name, for compression.
    written: HashMap<String, usize>,
}

impl Writer {
    fn name(&mut self, (index, form): (usize, Form)) {
        if let Form::Pointer(at) = form {
            return self.bytes.extend([0xc0, at]);
        }
        let mut rest = NAMES[index];
        while !rest.is_empty() {
            match self.written.get(&rest.to_lowercase()) {
                Some(&at) if matches!(form, Form::Compressed) => {
                    return self.bytes.extend((0xc000 | u16::try_from(at).unwrap()).to_be_bytes());
                }
                _ => drop(self.written.insert(rest.to_lowercase(), self.bytes.len())),
            }
            let (label, above) = rest.split_once('.').unwrap_or((rest, ""));
            self.bytes.push(u8::try_from(label.len()).unwrap());
            self.bytes.extend(label.bytes());
            rest = above;
        }
        self.bytes.push(0);
    }

    fn record(&mut self, plan: &Plan) {
        self.name(plan.owner);
        self.bytes.extend(plan.rtype.0.to_be_bytes());
        self.bytes.extend([0, 1]);
        self.bytes.extend(plan.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend([0, 0]);
        match plan.rtype {
            RecordType::A => self.bytes.extend([plan.detail, 8, 8, 8]),
            RecordType::AAAA => self.bytes.extend([plan.detail; 16]),
            RecordType::CNAME | RecordType::NS => self.name(plan.target),
            RecordType::MX => {
                self.bytes.extend([0, 1]);
                self.name(plan.target);
            }
            RecordType::SOA => {
                self.name(plan.target);
                self.name(plan.owner);
                self.bytes.extend([plan.detail; 20]);
            }
            RecordType::RRSIG => {
                self.bytes.extend([0, plan.detail]);
                self.bytes.extend([0; 16]);
                self.name(plan.target);
            }
            RecordType::HTTPS => {
                self.bytes.extend([0, 1]);
                self.name(plan.target);
                self.bytes.extend([0, 1 + plan.detail % 6, 0, 4, 8, 8, 8, 8]);
            }
            RecordType::OPT => self.bytes.extend([0, 15, 0, 3, 0, plan.detail, plan.detail]),
            _ => self.bytes.extend([1, plan.detail]),
        }
        let length = u16::try_from(self.bytes.len() - length_at - 2).unwrap();
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// Writes a response to the first of [`NAMES`].
fn written(qtype: RecordType, flags: u16, plans: &[Plan]) -> Vec<u8> {
    let mut writer = Writer { bytes: vec![0x12, 0x34], written: HashMap::new() };
    writer.bytes.extend((0x8000 | flags).to_be_bytes());
    let count = |section| u16::try_from(plans.iter().filter(|plan| plan.section == section).count()).unwrap();
    for number in [1, count(1), count(2), count(3)] {
        writer.bytes.extend(number.to_be_bytes());
    }
    writer.name((0, Form::Full));
    writer.bytes.extend(qtype.0.to_be_bytes());
    writer.bytes.extend([0, 1]);
    for section in 1..=3 {
        plans.iter().filter(|plan| plan.section == section).for_each(|plan| writer.record(plan));
    }
    writer.bytes
}

/// Returns a generator of names.
fn names() -> impl Strategy<Value = (usize, Form)> {
    let form =
        prop_oneof![8 => Just(Form::Compressed), 4 => Just(Form::Full), 1 => any::<u8>().prop_map(Form::Pointer)];
    // The first names are more likely.
    (prop_oneof![2 => 0..NAMES.len(), 3 => 0usize..4], form)
}

/// Returns a generator of records of one section.
fn plans(section: usize, types: &'static [RecordType]) -> impl Strategy<Value = Plan> {
    let ttl = prop_oneof![8 => 0u32..1000, 1 => any::<u32>()];
    (names(), prop::sample::select(types), names(), ttl, any::<u8>())
        .prop_map(move |(owner, rtype, target, ttl, detail)| Plan { section, owner, rtype, target, ttl, detail })
}

/// Returns a generator of responses: requested type and message.
fn responses() -> impl Strategy<Value = (RecordType, Vec<u8>)> {
    use RecordType as Type;
    let answers = plans(
        1,
        &[A, A, A, Type::CNAME, Type::CNAME, Type::AAAA, Type::TXT, Type::MX, Type::HTTPS, Type::RRSIG, Type::NS],
    );
    let authorities = plans(2, &[Type::SOA, Type::SOA, Type::NS, Type::RRSIG, Type::TXT]);
    let additionals = plans(3, &[Type::A, Type::AAAA, Type::TXT]);
    let opt = plans(3, &[Type::OPT]).prop_map(|plan| Plan { owner: (8, Form::Full), ..plan });
    let qtype =
        prop::sample::select(&[A, A, A, Type::AAAA, Type::CNAME, Type::HTTPS, Type::MX, Type::ANY, Type::RRSIG]);
    let sections = (
        prop::collection::vec(answers, 0..5),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(authorities, 0..3)],
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(additionals, 0..3)],
        prop::option::of(opt),
    );
    (qtype, prop_oneof![4 => Just(0u16), 1 => Just(3), 1 => any::<u16>()], sections).prop_map(
        |(qtype, flags, (mut plans, authorities, additionals, opt))| {
            plans.extend(authorities);
            plans.extend(additionals);
            plans.extend(opt);
            // Cleared bits: TC, and the opcode, which must be QUERY.
            (qtype, written(qtype, flags & 0x05ff, &plans))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn one_pass_and_general_parser_agree_on_generated_responses((qtype, bytes) in responses()) {
        is_read_in_one_pass(&bytes, &question(NAMES[0], qtype));
    }

    #[test]
    fn one_pass_and_general_parser_agree_on_damaged_responses(
        (qtype, mut bytes) in responses(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (at, octet) in damage {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        is_read_in_one_pass(&bytes, &question(NAMES[0], qtype));
    }
}
