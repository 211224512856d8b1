//! Tests of [`Response::parse`] and [`filter_response()`], over messages built by hand.

use std::collections::HashSet;

use hickory_proto::rr::{Record, RecordType as HickoryType};
use proptest::prelude::*;

use super::*;
use crate::dns::answer::{TtlMode, from_response};
use crate::dns::name::LowerName;
use crate::dns::sample::{Sample, counts, parsed, question, read, records, rrsig, soa, svcb, wire};

/// The type most cases ask for.
const A: RecordType = RecordType::A;

/// An address that is globally reachable.
const PUBLIC: [u8; 4] = [8, 8, 8, 8];

/// An address that is not globally reachable.
const PRIVATE: [u8; 4] = [10, 0, 0, 1];

/// The rules of a client in a test.
struct Rules {
    /// True if private addresses are allowed.
    private: bool,
    /// The allowed targets; `None` if targets are not inspected.
    targets: Option<HashSet<String>>,
}

impl ResponseRules for Rules {
    fn allows_private(&self) -> bool {
        self.private
    }

    fn inspects_by(&self) -> Option<u64> {
        // Each rule set must count as another policy: results are cached by serial number.
        self.targets.as_ref().map(|targets| targets.len() as u64 + 1)
    }

    fn allows_target(&self, target: &LowerName) -> bool {
        self.targets.as_ref().is_none_or(|targets| targets.contains(&target.to_string()))
    }
}

/// Rules that allow no private address and inspect no target.
const STRICT: Rules = Rules { private: false, targets: None };

/// Parses the message in `sample` as the response to www.example of type `qtype`.
fn respond(sample: Sample, qtype: RecordType) -> Result<Response, ResponseError> {
    Response::parse(&sample.bytes(), &question("www.example", qtype))
}

/// Starts a response to www.example A with the given flags.
fn answer(flags: u16) -> Sample {
    Sample::response("www.example", A, flags)
}

/// Returns the names an iterator yields, as text.
fn texts(names: impl Iterator<Item = LowerName>) -> Vec<String> {
    names.map(|name| name.to_string()).collect()
}

#[test]
fn upstream_query_has_the_question_and_one_empty_opt() {
    let mut asked = question("www.example", RecordType::HTTPS);
    asked.dnssec_ok = true;
    asked.checking_disabled = true;
    let mut out = vec![9; 3];
    query_upstream(&asked, Casing::LOWER, 0xabcd, &mut out);
    let expected = Sample::query("www.example", RecordType::HTTPS).opt(1232, 0x8000, &[]).bytes();
    assert_eq!(out[..4], [0xab, 0xcd, 0x01, 0x30]);
    assert_eq!(out[4..], expected[4..]);
    assert_eq!(parsed(&out).to_question(), asked);
}

#[test]
fn reply_must_echo_id_and_question() {
    let asked = question("www.example", A);
    let ours = |truncated, rcode| ReplyCheck::Ours { truncated, rcode: Rcode(rcode) };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = answer(0).bytes();
        change(&mut bytes);
        bytes
    };
    let cases = [
        (answer(0).bytes(), ours(false, 0)),
        (answer(flag::TC | 3).bytes(), ours(true, 3)),
        (Sample::response("WWW.eXample", A, 0).bytes(), ours(false, 0)),
        (changed(&|bytes| bytes[0] = 0), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes[2] = 0), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes[2] |= 0x10), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes[5] = 0), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes[5] = 2), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes[13] = b'v'), ReplyCheck::NotOurs),
        (changed(&|bytes| *bytes.last_mut().unwrap() = 3), ReplyCheck::NotOurs),
        (changed(&|bytes| bytes.truncate(20)), ReplyCheck::NotOurs),
        (Sample::response("www.example", RecordType::AAAA, 0).bytes(), ReplyCheck::NotOurs),
        (Vec::new(), ReplyCheck::NotOurs),
    ];
    for (bytes, expected) in cases {
        assert_eq!(is_reply_to(&bytes, 0x1234, &asked, Casing::LOWER), expected, "{bytes:02x?}");
    }
}

#[test]
fn reply_in_another_case_is_reported_as_such() {
    let asked = question("www.example", A);
    let mixed = Casing::of_bits(0b10_0010);
    let mut sent = Vec::new();
    query_upstream(&asked, mixed, 0x1234, &mut sent);
    assert_eq!(sent[HEADER..HEADER + 13], *b"\x03Www\x07Example\0");
    for (name, expected) in [
        ("Www.Example", ReplyCheck::Ours { truncated: false, rcode: Rcode(0) }),
        ("www.example", ReplyCheck::OtherCase),
        ("wWw.Example", ReplyCheck::OtherCase),
        ("Www.Examplf", ReplyCheck::NotOurs),
    ] {
        let bytes = Sample::response(name, A, 0).bytes();
        assert_eq!(is_reply_to(&bytes, 0x1234, &asked, mixed), expected, "{name}");
        assert_eq!(is_reply_to(&bytes, 0x4321, &asked, mixed), ReplyCheck::NotOurs, "{name}");
    }
}

#[test]
fn random_case_of_the_query_is_removed_from_every_name() {
    // An everyday response, and one that must be rebuilt because a foreign record is removed.
    for foreign in [false, true] {
        let mut sample = Sample::response("wWw.eXAMPLe", A, 0)
            .record(1, "wWw.eXAMPLe", RecordType::CNAME, 300, &wire("Alias.eXAMPLe"))
            .record(1, "Alias.eXAMPLe", A, 60, &PUBLIC)
            .record(2, "eXAMPLe", RecordType::NS, 60, &wire("NS.eXAMPLe"));
        if foreign {
            sample = sample.record(3, "other.test", A, 60, &PUBLIC);
        }
        let response = respond(sample, A).unwrap();
        let text = String::from_utf8_lossy(response.message()).into_owned();
        for ours in ["wWw", "eXAMPLe"] {
            assert!(!text.contains(ours), "{foreign}: {text:?}");
        }
        assert!(text.contains("Alias") && text.contains("NS"), "{foreign}: what is the upstream's own stays: {text:?}");
    }
}

#[test]
fn everyday_response_is_kept_unchanged_without_its_opt() {
    let plain = || {
        answer(flag::AD).record(1, "www.example", RecordType::CNAME, 300, &wire("A.example")).record(
            1,
            "A.example",
            A,
            60,
            &PUBLIC,
        )
    };
    let response = respond(plain().opt(4096, 0x8000, &[0, 10, 0, 1, 1]), A).unwrap();
    let mut expected = plain().bytes();
    expected[..2].fill(0);
    assert_eq!(*response.message(), *expected);
    assert_eq!(response.ttl_offsets().len(), 2);
    assert_eq!((response.ttl(), response.rcode()), (60, Rcode::NOERROR));
    assert_eq!(texts(response.targets()), ["a.example"]);
    assert!(response.size() > expected.len());
}

#[test]
fn only_records_that_belong_to_the_question_are_kept() {
    let cname = |sample: Sample, from, to| sample.record(1, from, RecordType::CNAME, 300, &wire(to));
    let a = |sample: Sample, section, owner| sample.record(section, owner, A, 60, &PUBLIC);
    let ns = |sample: Sample, owner, target| sample.record(2, owner, RecordType::NS, 60, &wire(target));
    // Case name, response, records that are kept ("section owner type").
    let cases: Vec<(&str, Sample, &[&str])> = vec![
        ("other owners in the answer go", a(a(answer(0), 1, "www.example"), 1, "bank.test"), &["an www.example. A"]),
        (
            "the chain may come in any order and is written in its own",
            cname(a(cname(answer(0), "b.test", "c.test"), 1, "c.test"), "www.example", "b.test"),
            &["an www.example. CNAME", "an b.test. CNAME", "an c.test. A"],
        ),
        (
            "of two CNAMEs at one name the first is followed",
            a(a(cname(cname(answer(0), "www.example", "a.test"), "www.example", "b.test"), 1, "a.test"), 1, "b.test"),
            &["an www.example. CNAME", "an a.test. A"],
        ),
        (
            "a loop ends the chain",
            cname(cname(answer(0), "www.example", "b.test"), "b.test", "www.example"),
            &["an www.example. CNAME", "an b.test. CNAME"],
        ),
        (
            "a DNAME above the chain stays with its signature",
            cname(
                answer(0)
                    .record(1, "example", RecordType::DNAME, 60, &wire("example.test"))
                    .record(1, "example", RecordType::RRSIG, 60, &rrsig(RecordType::DNAME, "example"))
                    .record(1, "example", RecordType::RRSIG, 60, &rrsig(A, "example"))
                    .record(1, "other", RecordType::DNAME, 60, &wire("example.test")),
                "www.example",
                "www.example.test",
            ),
            &["an example. DNAME", "an example. RRSIG", "an www.example. CNAME"],
        ),
        (
            "authority at or above the chain stays, other types and names go",
            ns(ns(a(answer(0), 1, "www.example"), "example", "ns.example"), "test", "ns.test")
                .record(2, "example", RecordType::TXT, 60, b"\x01x")
                .record(2, "example", RecordType::DS, 60, b"1234"),
            &["an www.example. A", "ns example. NS", "ns example. DS"],
        ),
        (
            "proofs stay in the zone of the SOA, wherever they stand",
            answer(3)
                .record(2, "vvv.example", RecordType::NSEC, 60, &wire("xxx.example"))
                .record(2, "vvv.example", RecordType::RRSIG, 60, &rrsig(RecordType::NSEC, "example"))
                .record(2, "vvv.example", RecordType::RRSIG, 60, &rrsig(A, "example"))
                .record(2, "vvv.test", RecordType::NSEC, 60, &wire("xxx.test"))
                .record(2, "example", RecordType::SOA, 60, &soa(60))
                .record(2, "0abc.example", RecordType::NSEC3, 60, b"123456"),
            &["ns vvv.example. NSEC", "ns vvv.example. RRSIG", "ns example. SOA", "ns 0abc.example. NSEC3"],
        ),
        (
            "proofs stay in the zone of the answer's signer",
            a(answer(0), 1, "www.example")
                .record(1, "www.example", RecordType::RRSIG, 60, &rrsig(A, "example"))
                .record(2, "vvv.example", RecordType::NSEC, 60, &wire("xxx.example")),
            &["an www.example. A", "an www.example. RRSIG", "ns vvv.example. NSEC"],
        ),
        (
            "a signer beside the chain opens no zone",
            a(answer(0), 1, "www.example").record(1, "www.example", RecordType::RRSIG, 60, &rrsig(A, "test")).record(
                2,
                "vvv.test",
                RecordType::NSEC,
                60,
                &wire("xxx.test"),
            ),
            &["an www.example. A", "an www.example. RRSIG"],
        ),
        (
            "additional records are those of names that kept records name",
            a(
                a(a(ns(a(answer(0), 1, "www.example"), "example", "ns.example"), 3, "ns.example"), 3, "bank.test"),
                3,
                "www.example",
            )
            .record(3, "ns.example", RecordType::RRSIG, 60, &rrsig(A, "example"))
            .record(3, "ns.example", RecordType::RRSIG, 60, &rrsig(RecordType::TXT, "example"))
            .record(3, "ns.example", RecordType::TXT, 60, b"\x01x"),
            &["an www.example. A", "ns example. NS", "ar ns.example. A", "ar ns.example. RRSIG"],
        ),
        (
            "classes other than IN go, whatever they hold",
            a(answer(0), 1, "www.example").raw(1, &wire("www.example"), RecordType::SOA, 3, 60, b"x"),
            &["an www.example. A"],
        ),
    ];
    for (name, sample, expected) in cases {
        let response = respond(sample, A).unwrap_or_else(|error| panic!("{name}: {error}"));
        let kept: Vec<String> = records(response.message())
            .iter()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                format!("{} {} {}", words[0], words[1], words[3])
            })
            .collect();
        assert_eq!(kept, expected, "{name}");
    }
}

#[test]
fn ad_is_cleared_only_if_answer_or_authority_lose_a_record() {
    let plain = || answer(flag::AD).record(1, "www.example", A, 60, &PUBLIC);
    let cases = [
        (plain(), true),
        (plain().record(1, "bank.test", A, 60, &PUBLIC), false),
        (plain().record(2, "bank.test", RecordType::NS, 60, &wire("ns.test")), false),
        (plain().record(3, "bank.test", A, 60, &PUBLIC), true),
    ];
    for (index, (sample, kept)) in cases.into_iter().enumerate() {
        assert_eq!(respond(sample, A).unwrap().message()[3] & 0x20 != 0, kept, "case {index}");
    }
}

#[test]
fn ad_is_kept_if_it_was_asked_for_and_aa_never() {
    let plain = || answer(flag::AA | flag::AD).record(1, "www.example", A, 60, &PUBLIC);
    // The second response takes the general path, as a record is removed.
    let general = || plain().record(3, "bank.test", A, 60, &PUBLIC);
    for authentic_data in [false, true] {
        let asked = Question { authentic_data, ..question("www.example", A) };
        for sample in [plain(), general()] {
            let response = Response::parse(&sample.bytes(), &asked).unwrap();
            let flags = u16_at(response.message(), 2).unwrap();
            assert_eq!((flags & flag::AD != 0, flags & flag::AA), (authentic_data, 0));
        }
    }
}

#[test]
fn cache_ttl_is_the_lowest_of_the_answer_or_the_negative_ttl() {
    let record = |ttl| answer(0).record(1, "www.example", A, ttl, &PUBLIC);
    let cname = |flags| answer(flags).record(1, "www.example", RecordType::CNAME, 40, &wire("a.test"));
    let cases: Vec<(&str, Sample, u32)> = vec![
        ("the least", record(300).record(1, "www.example", A, 60, &PUBLIC), 60),
        ("of the answer only", record(300).record(2, "example", RecordType::NS, 5, &wire("ns.example")), 300),
        ("dropped records do not count", record(300).record(1, "bank.test", A, 5, &PUBLIC), 300),
        ("the high bit means 0", record(0x8000_0001), 0),
        ("SOA MINIMUM", answer(3).record(2, "example", RecordType::SOA, 900, &soa(300)), 300),
        ("SOA TTL", answer(3).record(2, "example", RecordType::SOA, 30, &soa(300)), 30),
        ("NODATA", answer(0).record(2, "example", RecordType::SOA, 900, &soa(300)), 300),
        ("no SOA", answer(3), 0),
        ("a foreign SOA", answer(3).record(2, "test", RecordType::SOA, 900, &soa(300)), 0),
        ("CNAME to NODATA", cname(0).record(2, "test", RecordType::SOA, 900, &soa(300)), 40),
        ("CNAME to NXDOMAIN", cname(3).record(2, "test", RecordType::SOA, 900, &soa(20)), 20),
        ("a chain without its end", cname(0), 0),
        ("SERVFAIL", answer(2).record(2, "example", RecordType::SOA, 900, &soa(300)), 0),
    ];
    for (name, sample, ttl) in cases {
        assert_eq!(respond(sample, A).unwrap().ttl(), ttl, "{name}");
    }
}

#[test]
fn ttl_over_31_bits_is_sent_as_0() {
    let response = respond(answer(0).record(1, "www.example", A, u32::MAX, &PUBLIC), A).unwrap();
    assert_eq!(records(response.message()), ["an www.example. 0 A"]);
}

#[test]
fn ttls_are_bounded_and_nothing_else_changes() {
    let sample = |ttls: [u32; 3]| {
        answer(0)
            .record(1, "www.example", RecordType::CNAME, ttls[0], &wire("a.example"))
            .record(1, "a.example", A, ttls[1], &PUBLIC)
            .record(2, "example", RecordType::NS, ttls[2], &wire("ns.example"))
            .opt(1232, 0, &[0, 15, 0, 3, 0, 1, b'x'])
    };
    let mut bounded = respond(sample([900, 60, 61]), A).unwrap();
    bounded.bound_ttls(60);
    assert_eq!(bounded, respond(sample([60, 60, 60]), A).unwrap());
    bounded.bound_ttls(10);
    assert_eq!(bounded.ttl(), 10);
}

#[test]
fn cname_that_was_asked_for_is_the_answer_and_a_target() {
    let sample = Sample::response("www.example", RecordType::CNAME, 0)
        .record(1, "www.example", RecordType::CNAME, 60, &wire("a.test"))
        .record(1, "a.test", A, 60, &PUBLIC);
    let response = respond(sample, RecordType::CNAME).unwrap();
    assert_eq!(records(response.message()), ["an www.example. 60 CNAME"]);
    assert_eq!((response.ttl(), texts(response.targets())), (60, vec!["a.test".to_owned()]));
}

#[test]
fn chains_are_followed_for_32_hops() {
    for (hops, targets, ttl) in [(32, 32, 60), (33, 32, 0)] {
        let name = |hop| if hop == 0 { "www.example".to_owned() } else { format!("h{hop}.test") };
        let chain = (0..hops)
            .fold(answer(0), |sample, hop| sample.record(1, &name(hop), RecordType::CNAME, 60, &wire(&name(hop + 1))));
        let response = respond(chain.record(1, &name(hops), A, 60, &PUBLIC), A).unwrap();
        assert_eq!((response.targets().count(), response.ttl()), (targets, ttl), "{hops}");
    }
}

#[test]
fn malformed_responses_are_rejected() {
    let record = |rtype, rdata: &[u8]| answer(0).record(1, "www.example", rtype, 60, rdata);
    let raw = |owner: &[u8]| answer(0).raw(1, owner, A, 1, 60, &PUBLIC);
    let mut claims = answer(0).bytes();
    claims[7] = 1;
    let mut short = record(A, &PUBLIC).bytes();
    short.pop();
    let cases = [
        ("A of 3 octets", record(A, &[1, 2, 3]).bytes()),
        ("A of 5 octets", record(A, &[1, 2, 3, 4, 5]).bytes()),
        ("AAAA of 4 octets", record(RecordType::AAAA, &PUBLIC).bytes()),
        ("CNAME without a name", record(RecordType::CNAME, &[]).bytes()),
        ("CNAME with octets behind the name", record(RecordType::CNAME, b"\x00\x00").bytes()),
        ("SOA without its numbers", record(RecordType::SOA, b"\x00\x00").bytes()),
        ("RRSIG without a signer", record(RecordType::RRSIG, &[0; 18]).bytes()),
        ("NAPTR with a text over the end", record(RecordType::NAPTR, &[0, 0, 0, 0, 9]).bytes()),
        ("a name in RDATA that runs out of it", record(RecordType::CNAME, b"\x05ab").bytes()),
        ("a pointer into the header", raw(b"\xc0\x04").bytes()),
        ("a pointer forwards", raw(b"\xc0\xff").bytes()),
        ("a pointer to itself", raw(b"\xc0\x1d").bytes()),
        ("a reserved label type", raw(b"\x80\x00").bytes()),
        ("two OPT records", answer(0).opt(1232, 0, &[]).opt(1232, 0, &[]).bytes()),
        ("an OPT record in the answer", record(RecordType::OPT, &[]).bytes()),
        ("an OPT record with an owner", answer(0).record(3, "x", RecordType::OPT, 0, &[]).bytes()),
        ("OPT options that run out", answer(0).opt(1232, 0, &[0, 15, 0]).bytes()),
        ("an EDE of one octet", answer(0).opt(1232, 0, &[0, 15, 0, 1, 0]).bytes()),
        ("fewer records than claimed", claims),
        ("a record cut short", short),
    ];
    for (name, bytes) in cases {
        assert_eq!(Response::parse(&bytes, &question("www.example", A)), Err(ResponseError::Malformed), "{name}");
    }
    assert_eq!(respond(answer(flag::TC), A), Err(ResponseError::Truncated));
    assert_eq!(respond(answer(0), RecordType::AAAA), Err(ResponseError::NotOurs));
    assert_eq!(Response::parse(&[], &question("www.example", A)), Err(ResponseError::Malformed));
}

#[test]
fn octets_after_the_last_record_are_removed() {
    let mut bytes = answer(0).record(1, "www.example", A, 60, &PUBLIC).bytes();
    let length = bytes.len();
    bytes.extend([1, 2, 3]);
    assert_eq!(Response::parse(&bytes, &question("www.example", A)).unwrap().message().len(), length);
}

#[test]
fn compressed_names_survive_the_removal_of_the_record_they_point_into() {
    // www.example A, then records whose owners and RDATA point into a removed record.
    let any = Sample::response("www.example", RecordType::ANY, 0);
    let sample = any.record(1, "mail.bank.test", RecordType::TXT, 60, b"\x01x");
    // After the header and question (29 octets) comes 4mail4bank4test0.
    let sample = sample
        .record(1, "www.example", RecordType::CNAME, 60, b"\xc0\x22")
        .raw(1, b"\xc0\x22", RecordType::MX, 1, 60, b"\x00\x0a\xc0\x1d")
        .raw(1, b"\x04Bank\xc0\x27", RecordType::SRV, 1, 60, b"\x00\x00\x00\x00\x00\x19\xc0\x1d")
        .raw(3, b"\xc0\x1d", A, 1, 60, &PUBLIC);
    let response = respond(sample, RecordType::ANY).unwrap();
    let message = read(response.message());
    let lines: Vec<String> =
        message.answers.iter().map(|record| format!("{} {}", record.name, record.data).to_lowercase()).collect();
    assert_eq!(
        lines,
        ["www.example. bank.test.", "bank.test. 10 mail.bank.test.", "bank.test. 0 0 25 mail.bank.test."]
    );
    assert_eq!(message.additionals[0].name.to_string(), "mail.bank.test.");
    // When rebuilt, the SRV target is uncompressed (RFC 2782), so the name occurs twice.
    let found = response.message().windows(5).filter(|octets| octets.eq_ignore_ascii_case(b"\x04mail")).count();
    assert_eq!(found, 2);
}

#[test]
fn pointer_to_bytes_that_are_not_a_name_is_followed_and_rewritten() {
    // The TTL field of the first record, 0x01610000, reads as the name `a`. Kept as it is, it would change with age.
    let ttl_at = 29 + 13 + 4;
    let any = Sample::response("www.example", RecordType::ANY, 0);
    let sample = any.record(1, "www.example", RecordType::TXT, 0x0161_0000, b"\x01x").record(
        1,
        "www.example",
        RecordType::CNAME,
        60,
        &[0xc0, ttl_at],
    );
    let response = respond(sample, RecordType::ANY).unwrap();
    assert_eq!(texts(response.targets()), ["a"]);
    let query = Sample::query("www.example", A).bytes();
    let mut out = Vec::new();
    from_response(&parsed(&query), &response, TtlMode::Fixed(5), None, 1232, &mut out);
    assert_eq!(read(&out).answers[0].data.to_string(), "a.", "aliases come first");
}

#[test]
fn opt_record_before_other_records_is_removed() {
    let sample = answer(0).record(2, "example", RecordType::NS, 60, &wire("ns.example")).opt(1232, 0, &[]).record(
        3,
        "ns.example",
        A,
        60,
        &PUBLIC,
    );
    let response = respond(sample, A).unwrap();
    assert_eq!(records(response.message()), ["ns example. 60 NS", "ar ns.example. 60 A"]);
    assert_eq!(counts(response.message()), [1, 0, 1, 1]);
}

#[test]
fn upstream_edes_are_bounded() {
    let long = [&[0, 15, 0, 202, 0, 6][..], &[b'x'; 200]].concat();
    let bad = [0, 15, 0, 3, 0, 7, 0xff];
    let other = [0, 3, 0, 1, 1];
    let options = [&other[..], &long, &bad, &long, &long, &long].concat();
    let response = respond(answer(2).opt(1232, 0, &options), A).unwrap();
    let edes: Vec<(u16, usize)> = Options(response.ede_options())
        .map(|option| option.ok().map(|(code, data)| (code, data.len())).unwrap())
        .collect();
    assert_eq!(edes, [(15, 162), (15, 2), (15, 162), (15, 162)]);
}

#[test]
fn ech_is_removed_from_every_https_record() {
    let https = RecordType::HTTPS;
    let sample = Sample::response("www.example", https, flag::AD)
        .record(1, "www.example", https, 60, &svcb(1, "", &[(0, &[0, 1, 0, 5]), (1, b"\x02h2"), (5, b"secret")]))
        .record(1, "www.example", https, 60, &svcb(2, "svc.test", &[(0, &[0, 5]), (5, b"secret"), (9, b"?")]))
        .record(3, "svc.test", https, 60, &svcb(1, "", &[(5, b"secret")]))
        .record(3, "www.example", A, 60, &PUBLIC);
    let response = respond(sample, https).unwrap();
    assert!(!response.message().windows(6).any(|octets| octets == b"secret"));
    assert_eq!(response.message()[3] & 0x20, 0, "AD is cleared");
    let lines = records(response.message());
    assert_eq!(lines.len(), 4, "{lines:?}");
    let expected = Sample::response("www.example", https, 0)
        .raw(1, b"\xc0\x0c", https, 1, 60, &svcb(1, "", &[(0, &[0, 1]), (1, b"\x02h2")]))
        .raw(1, b"\xc0\x0c", https, 1, 60, &svcb(2, "svc.test", &[(9, b"?")]))
        .raw(3, &wire("svc.test"), https, 1, 60, &svcb(1, "", &[]))
        .raw(3, b"\xc0\x0c", A, 1, 60, &PUBLIC)
        .bytes();
    assert_eq!(response.message()[4..], expected[4..]);
    assert_eq!(texts(response.service_targets()), ["svc.test"]);
}

#[test]
fn record_with_malformed_svc_params_is_removed() {
    let https = RecordType::HTTPS;
    let bad: &[&[(u16, &[u8])]] = &[
        &[(4, &[1, 2, 3])],
        &[(4, &[])],
        &[(6, &[0; 15])],
        &[(0, &[0])],
        &[(5, b"x"), (5, b"x")],
        &[(3, b"x"), (1, b"x")],
    ];
    for params in bad {
        let sample = Sample::response("www.example", https, 0)
            .record(1, "www.example", https, 60, &svcb(1, "", params))
            .record(1, "www.example", https, 60, &svcb(2, "", &[]));
        assert_eq!(counts(respond(sample, https).unwrap().message()), [1, 1, 0, 0], "{params:?}");
    }
    let cut = [&svcb(1, "", &[])[..], &[0, 1, 0]].concat();
    let sample = Sample::response("www.example", https, 0).record(1, "www.example", https, 60, &cut);
    assert_eq!(counts(respond(sample, https).unwrap().message()), [1, 0, 0, 0]);
}

#[test]
fn private_addresses_are_removed_unless_allowed() {
    let mixed = || {
        answer(flag::AD)
            .record(1, "www.example", A, 60, &PRIVATE)
            .record(1, "www.example", A, 70, &PUBLIC)
            .record(2, "example", RecordType::NS, 60, &wire("ns.example"))
            .record(3, "ns.example", RecordType::AAAA, 60, &[0; 16])
            .record(3, "ns.example", A, 80, &PUBLIC)
    };
    let response = respond(mixed(), A).unwrap();
    assert_eq!(filter_response(&response, &Rules { private: true, targets: None }), Filtered::Unchanged);
    let Filtered::Rewritten(rewritten) = filter_response(&response, &STRICT) else {
        panic!("two addresses are private")
    };
    let expected = ["an www.example. 70 A", "ns example. 60 NS", "ar ns.example. 80 A"];
    assert_eq!(records(rewritten.message()), expected);
    assert_eq!(rewritten.message()[3] & 0x20, 0, "AD is cleared");
    assert_eq!(filter_response(rewritten, &STRICT), Filtered::Unchanged);
    let query = Sample::query("www.example", A).bytes();
    let mut out = Vec::new();
    from_response(&parsed(&query), rewritten, TtlMode::Aged(10), None, 1232, &mut out);
    assert_eq!(records(&out), ["an www.example. 60 A", "ns example. 50 NS", "ar ns.example. 70 A"]);
}

#[test]
fn answer_of_only_private_addresses_becomes_nodata() {
    let cname = || answer(0).record(1, "www.example", RecordType::CNAME, 60, &wire("a.test"));
    let response = respond(cname().record(1, "a.test", A, 60, &PRIVATE), A).unwrap();
    assert_eq!(filter_response(&response, &STRICT), Filtered::NoData);
    // Addresses that were not asked for are removed before filtering.
    let response = respond(cname().record(1, "www.example", RecordType::AAAA, 60, &[0; 16]), A).unwrap();
    assert_eq!(filter_response(&response, &STRICT), Filtered::Unchanged);
    assert_eq!(records(response.message()).len(), 1);
}

#[test]
fn private_hints_are_removed_and_so_is_an_empty_hint_parameter() {
    let https = RecordType::HTTPS;
    let both = [PUBLIC, PRIVATE].concat();
    let mandatory: &[u8] = &[0, 1, 0, 6];
    let params: &[(u16, &[u8])] = &[(0, mandatory), (1, b"\x02h2"), (4, &both), (6, &[0; 16])];
    let sample = Sample::response("www.example", https, 0).record(1, "www.example", https, 60, &svcb(1, "", params));
    let response = respond(sample, https).unwrap();
    let Filtered::Rewritten(rewritten) = filter_response(&response, &STRICT) else { panic!("two hints are private") };
    let kept: &[(u16, &[u8])] = &[(0, &[0, 1]), (1, b"\x02h2"), (4, &PUBLIC)];
    let expected =
        Sample::response("www.example", https, 0).raw(1, b"\xc0\x0c", https, 1, 60, &svcb(1, "", kept)).bytes();
    assert_eq!(rewritten.message()[2..], expected[2..]);
}

#[test]
fn inspection_denies_the_first_target_that_is_not_allowed() {
    let chain = answer(0)
        .record(1, "www.example", RecordType::CNAME, 60, &wire("a.test"))
        .record(1, "a.test", RecordType::CNAME, 60, &wire("b.test"))
        .record(1, "b.test", A, 60, &PRIVATE);
    let chain = respond(chain, A).unwrap();
    let https = RecordType::HTTPS;
    let service =
        Sample::response("www.example", https, 0).record(1, "www.example", https, 60, &svcb(0, "c.test", &[]));
    let service = respond(service, https).unwrap();
    let denied = |text: &str| Filtered::Denied { target: LowerName::from_text(text).unwrap() };
    let cases: [(&Response, &[&str], Filtered<'_>); 5] = [
        (&chain, &[], denied("a.test")),
        (&chain, &["a.test"], denied("b.test")),
        (&chain, &["a.test", "b.test"], Filtered::NoData),
        (&service, &[], denied("c.test")),
        (&service, &["c.test"], Filtered::Unchanged),
    ];
    for (response, allowed, expected) in cases {
        let targets = Some(allowed.iter().map(ToString::to_string).collect());
        assert_eq!(filter_response(response, &Rules { private: false, targets }), expected, "{allowed:?}");
    }
}

#[test]
fn records_of_types_that_were_not_asked_for_are_removed() {
    // A6 (38), WKS (11), APL (42), a text, and an address of the other family.
    let others = [RecordType(38), RecordType(11), RecordType(42), RecordType::TXT, RecordType::AAAA];
    let all = others.into_iter().fold(
        answer(0).record(1, "www.example", RecordType::CNAME, 60, &wire("a.test")).record(1, "a.test", A, 60, &PUBLIC),
        |sample, other| sample.record(1, "a.test", other, 60, &[1; 16]).record(1, "www.example", other, 60, &[1; 16]),
    );
    let signed = all.record(1, "a.test", RecordType::RRSIG, 60, &rrsig(A, "test")).record(
        1,
        "a.test",
        RecordType::RRSIG,
        60,
        &rrsig(RecordType(42), "test"),
    );
    let response = respond(signed, A).unwrap();
    assert_eq!(
        records(response.message()),
        ["an www.example. 60 CNAME", "an a.test. 60 A", "an a.test. 60 RRSIG"],
        "the answer, what leads there and the signature of it"
    );
}

#[test]
fn targets_of_mx_srv_and_naptr_records_are_inspected() {
    let naptr = [&[0, 1, 0, 1, 0, 0, 0][..], &wire("leak.test")].concat();
    for (rtype, rdata) in [
        (RecordType::MX, [&[0, 10][..], &wire("leak.test")].concat()),
        (RecordType::SRV, [&[0, 0, 0, 0, 0, 25][..], &wire("leak.test")].concat()),
        (RecordType::NAPTR, naptr),
    ] {
        let response = Sample::response("www.example", rtype, 0).record(1, "www.example", rtype, 60, &rdata);
        let response = respond(response, rtype).unwrap();
        let rules =
            |names: &[&str]| Rules { private: false, targets: Some(names.iter().map(ToString::to_string).collect()) };
        let target = LowerName::from_text("leak.test").unwrap();
        assert_eq!(filter_response(&response, &rules(&[])), Filtered::Denied { target }, "{rtype}");
        assert_eq!(filter_response(&response, &rules(&["leak.test"])), Filtered::Unchanged, "{rtype}");
    }
}

#[test]
fn many_targets_are_inspected_once_per_policy() {
    use std::cell::Cell;

    /// Rules that count how often a target is looked up.
    struct Counting(Cell<usize>, Option<usize>);

    impl ResponseRules for Counting {
        fn allows_private(&self) -> bool {
            false
        }

        fn inspects_by(&self) -> Option<u64> {
            Some(9)
        }

        fn allows_target(&self, _: &LowerName) -> bool {
            self.0.set(self.0.get() + 1);
            self.1 != Some(self.0.get() - 1)
        }
    }
    let name = |hop| if hop == 0 { "www.example".to_owned() } else { format!("h{hop}.test") };
    for (denied, looked) in [(None, 30), (Some(20), 21)] {
        let chain = (0..30)
            .fold(answer(0), |sample, hop| sample.record(1, &name(hop), RecordType::CNAME, 60, &wire(&name(hop + 1))));
        let response = respond(chain.record(1, &name(30), A, 60, &PUBLIC), A).unwrap();
        let rules = Counting(Cell::new(0), denied);
        let first = filter_response(&response, &rules);
        assert_eq!(filter_response(&response, &rules), first);
        assert_eq!(rules.0.get(), looked);
        let target = denied.map(|denied| LowerName::from_text(&name(denied + 1)).unwrap());
        assert_eq!(first, target.map_or(Filtered::Unchanged, |target| Filtered::Denied { target }));
    }
}

#[test]
fn cache_keys_differ_by_every_flag() {
    let plain = question("www.example", A);
    let keys = [
        plain.clone(),
        Question { dnssec_ok: true, ..plain.clone() },
        Question { authentic_data: false, ..plain.clone() },
        Question { checking_disabled: true, ..plain.clone() },
        Question { recursion_desired: false, ..plain.clone() },
        Question { qtype: RecordType::AAAA, ..plain.clone() },
    ];
    assert_eq!(keys.iter().cloned().collect::<HashSet<_>>().len(), keys.len());
}

#[test]
fn many_records_with_long_pointer_chains_take_linear_work() {
    // 4,096 unrelated records, whose owners are 120 labels behind a chain of pointers.
    let mut owner = Vec::new();
    for _ in 0..120 {
        owner.extend(b"\x01a");
    }
    owner.push(0);
    let mut sample = answer(0).raw(1, &owner, A, 1, 60, &PUBLIC);
    for index in 1..4096u16 {
        sample = sample.raw(1, &[1, u8::try_from(index % 251).unwrap(), 0xc0, 29], RecordType::NULL, 1, 60, &[]);
    }
    let bytes = sample.bytes();
    assert!(bytes.len() < MAX_LENGTH);
    let response = Response::parse(&bytes, &question("www.example", A)).unwrap();
    assert_eq!(counts(response.message()), [1, 0, 0, 0]);
    let too_many = (0..4097).fold(answer(0), |sample, _| sample.raw(1, &[0xc0, 12], RecordType::NULL, 1, 60, &[]));
    assert_eq!(respond(too_many, A), Err(ResponseError::TooManyRecords));
}

#[test]
fn names_whose_case_is_signed_keep_their_case() {
    const NAME: &[u8] = b"\x03WWW\x07EXAmple\0";
    let https = RecordType::HTTPS;
    let cases = [
        (A, 3, 2, "a.example", RecordType::NSEC, [NAME, &[0, 1, 0x40]].concat()),
        (https, 0, 1, "www.example", https, [&[0, 1][..], NAME, &[0, 1, 0, 3, 2, b'h', b'2']].concat()),
    ];
    for (qtype, rcode, section, owner, rtype, data) in cases {
        // As if all random bits were upper case. The second message is rebuilt, because a record is removed.
        for others in 0..2 {
            let mut sample = Sample::response("WWW.EXAMPLE", qtype, rcode);
            if section == 2 {
                sample = sample.record(2, "example", RecordType::SOA, 60, &soa(60));
            }
            let sample = sample.record(section, owner, rtype, 60, &data);
            let sample = (0..others).fold(sample, |sample, _| sample.record(3, "other.test", A, 60, &PUBLIC));
            let response = Response::parse(&sample.bytes(), &question("www.example", qtype)).unwrap();
            let message = response.message();
            assert!(message.windows(data.len()).any(|window| window == data), "{rtype} {others}: {message:?}");
        }
    }
}

/// The size limit of generated messages, in octets.
const MAX_LENGTH: usize = 65_535;

/// Runs the parsed response through everything that a query of a client would do.
fn exercise(bytes: &[u8], question: &Question) {
    let query = Sample::query("www.example", A).opt(1232, 0, &[]).bytes();
    let query = parsed(&query);
    let Ok(response) = Response::parse(bytes, question) else { return };
    let mut out = Vec::new();
    for limit in [512, MAX_LENGTH] {
        from_response(&query, &response, TtlMode::Aged(7), None, limit, &mut out);
        assert!(out.len() <= limit);
    }
    // A kept message is well-formed: it parses to itself.
    let mut kept = response.message().to_vec();
    let again = Response::parse(&kept, question).expect("what is kept can be read");
    assert_eq!(again.message().len(), response.message().len());
    kept.clear();
    if let Filtered::Rewritten(rewritten) = filter_response(&response, &STRICT) {
        let again = Response::parse(rewritten.message(), question).expect("what is rewritten can be read");
        assert!(again.reachable.is_none(), "no private address is left");
        from_response(&query, rewritten, TtlMode::Fixed(30), None, MAX_LENGTH, &mut out);
    }
}

/// Returns a response with many kinds of records, to be damaged.
fn rich() -> Vec<u8> {
    answer(flag::AD)
        .record(1, "www.example", RecordType::CNAME, 300, b"\x01a\xc0\x10")
        .raw(1, b"\xc0\x29", A, 1, 60, &PUBLIC)
        .raw(1, b"\xc0\x29", A, 1, 60, &PRIVATE)
        .raw(1, b"\xc0\x29", RecordType::RRSIG, 1, 60, &rrsig(A, "example"))
        .raw(1, b"\xc0\x0c", RecordType::HTTPS, 1, 60, &svcb(1, "b.example", &[(4, &PRIVATE), (5, b"x")]))
        .raw(2, b"\xc0\x10", RecordType::SOA, 1, 60, &soa(60))
        .raw(2, b"\xc0\x10", RecordType::NS, 1, 60, b"\x02ns\xc0\x10")
        .record(3, "ns.example", A, 60, &PRIVATE)
        .opt(1232, 0x8000, &[0, 15, 0, 3, 0, 1, b'x'])
        .bytes()
}

proptest! {
    #[test]
    fn parser_accepts_any_bytes_after_the_question_without_panic(
        tail in prop::collection::vec(any::<u8>(), 0..400),
        answers in 0u8..6,
        additionals in 0u8..6,
    ) {
        let mut bytes = answer(0).bytes();
        bytes[7] = answers;
        bytes[11] = additionals;
        bytes.extend(tail);
        exercise(&bytes, &question("www.example", A));
    }

    #[test]
    fn parser_accepts_a_damaged_response_without_panic(
        damage in prop::collection::vec((29usize..400, any::<u8>()), 0..4),
        cut in prop::option::of(29usize..400),
    ) {
        let mut bytes = rich();
        for (at, octet) in damage {
            let length = bytes.len();
            bytes[29 + at % (length - 29)] = octet;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        exercise(&bytes, &question("www.example", A));
    }

    #[test]
    fn kept_message_equals_the_one_hickory_reads(ttl in any::<u32>(), order in Just([0usize, 1, 2, 3]).prop_shuffle()) {
        let mut sample = answer(0);
        for index in order {
            sample = match index {
                0 => sample.record(1, "www.example", RecordType::CNAME, ttl, &wire("a.b.test")),
                1 => sample.record(1, "a.b.test", A, ttl, &PUBLIC),
                2 => sample.record(1, "other.test", A, ttl, &PUBLIC),
                _ => sample.record(1, "a.b.test", RecordType::MX, ttl, &[&[0, 1][..], &wire("mx.b.test")].concat()),
            };
        }
        let before = sample.bytes();
        let response = Response::parse(&before, &question("www.example", A)).unwrap();
        let lines = |bytes: &[u8]| -> Vec<String> {
            let is_kept = |record: &Record| {
                record.name.to_string() != "other.test." && record.record_type() != HickoryType::MX
            };
            let records = read(bytes).answers.into_iter().filter(is_kept);
            records.map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect()
        };
        // Aliases are moved to the start.
        let mut expected = lines(&before);
        expected.sort_by_key(|line| !line.contains(" CNAME "));
        prop_assert_eq!(lines(response.message()), expected);
        exercise(&before, &question("www.example", A));
    }
}
