//! The shape of forwarded answers: what of them fits, and in which order it comes.

use hickory_proto::rr::RData;

use crate::support::answer::name;
use crate::support::*;

/// A policy that allows `allowed.test` and `big.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\", \"big.test\"]";

#[test]
fn large_answer_is_truncated_for_the_payload_size() {
    let upstream = FakeUpstream::start();
    let texts = (0..8)
        .fold(Answer::new(), |answer, index| answer.raw("big.test", 16, &[&[200][..], &[b'a' + index; 200]].concat()));
    upstream.on("big.test", Reply::by_transport(Answer::new().truncated(), texts));
    let server = Setup::policy(&upstream, POLICY).start();
    let full = ask("big.test", RecordType::TXT).tcp(&server);
    assert_eq!(full.message.answers.len(), 8);
    assert!(!full.message.metadata.truncation);
    let cases = [
        ("no OPT", ask("big.test", RecordType::TXT).no_edns(), 512, false),
        ("512", ask("big.test", RecordType::TXT).payload(512), 512, true),
        ("0, which means 512", ask("big.test", RecordType::TXT).payload(0), 512, true),
        ("1232", ask("big.test", RecordType::TXT).payload(1232), 1232, true),
        ("65535, of which 1232 count", ask("big.test", RecordType::TXT).payload(65_535), 1232, true),
    ];
    for (case, query, limit, has_opt) in cases {
        let heard = query.udp(&server);
        assert!(heard.message.metadata.truncation, "{case}: TC");
        assert!(heard.bytes.len() <= limit, "{case}: {} octets", heard.bytes.len());
        let (most, each) = (limit - 12 - 14 - if has_opt { 11 } else { 0 }, 2 + 10 + 201);
        assert_eq!(heard.message.answers.len(), most / each, "{case}: as much as fits");
        assert_eq!(heard.message.all_sections().count(), most / each, "{case}: and nothing else");
        assert_eq!(heard.message.edns.is_some(), has_opt, "{case}: OPT is kept");
        assert_eq!(heard.rcode(), ResponseCode::NoError, "{case}");
        assert_eq!(query.tcp(&server).message.answers.len(), 8, "{case}: all of it over TCP");
    }
}

#[test]
fn what_a_client_can_do_without_goes_before_the_answer() {
    let upstream = FakeUpstream::start();
    let servers: Vec<String> = (0..13).map(|number| format!("ns{number}.test")).collect();
    let answer = |mut answer: Answer| {
        for server in &servers {
            answer = answer.authority("test", RData::NS(hickory_proto::rr::rdata::NS(name(server))));
        }
        for server in &servers {
            answer = answer
                .additional(server, RData::A(hickory_proto::rr::rdata::A(GLOBAL_2)))
                .additional(server, RData::AAAA(hickory_proto::rr::rdata::AAAA(GLOBAL_V6)));
        }
        answer
    };
    upstream.on("big.test", answer(Answer::new().a("big.test", GLOBAL).ttl(60)));
    let server = Setup::policy(&upstream, POLICY).start();
    // From the upstream, then from the cache.
    for _ in 0..2 {
        for query in [ask("big.test", RecordType::A).no_edns(), ask("big.test", RecordType::A).payload(512)] {
            let heard = query.udp(&server);
            heard.expect_addresses(&[GLOBAL.into()]);
            assert!(!heard.message.metadata.truncation, "{heard:#?}");
            assert!(heard.bytes.len() <= 512);
            assert_eq!(heard.message.authorities.len(), 13, "{heard:#?}");
            assert!(heard.message.additionals.len() < 26, "{heard:#?}");
        }
        assert_eq!(ask("big.test", RecordType::A).no_edns().tcp(&server).message.additionals.len(), 26);
    }
}

#[test]
fn many_addresses_are_given_as_far_as_they_fit() {
    let upstream = FakeUpstream::start();
    let many = (0..120).fold(Answer::new(), |answer, last| answer.a("big.test", [93, 184, 215, last].into()));
    upstream.on("big.test", Reply::by_transport(Answer::new().truncated(), many));
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..2 {
        for (query, count) in [
            (ask("big.test", RecordType::A).no_edns(), 30),
            (ask("big.test", RecordType::A).payload(512), 29),
            (ask("big.test", RecordType::A).payload(4096), 74),
        ] {
            let heard = query.udp(&server);
            assert_eq!((heard.addresses().len(), heard.message.metadata.truncation), (count, true), "{query:?}");
            assert_eq!(query.tcp(&server).addresses().len(), 120);
        }
    }
}

#[test]
fn aliases_come_in_the_order_of_the_chain() {
    let upstream = FakeUpstream::start();
    let answer = Answer::new()
        .a("three.test", GLOBAL)
        .cname("two.test", "three.test")
        .a("three.test", GLOBAL_2)
        .cname("allowed.test", "one.test")
        .cname("one.test", "two.test");
    upstream.on("allowed.test", answer);
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..2 {
        let heard = ask("allowed.test", RecordType::A).both(&server);
        let owners: Vec<_> = heard.message.answers.iter().map(|record| record.name.to_ascii()).collect();
        assert_eq!(owners, ["allowed.test.", "one.test.", "two.test.", "three.test.", "three.test."]);
        heard.expect_addresses(&[GLOBAL.into(), GLOBAL_2.into()]);
    }
}

#[test]
fn answer_that_just_fits_is_whole() {
    let upstream = FakeUpstream::start();
    // Header 12, question 14, one TXT record by compression 2 + 10 + data: 512 octets in all.
    let data = [&[255][..], &[b'x'; 255], &[217], &[b'y'; 217]].concat();
    upstream.on("big.test", Answer::new().raw("big.test", 16, &data));
    // hickory compresses a name only in the case it has.
    let server = Setup::policy(&upstream, POLICY).upstream_line("case_randomisation = false").start();
    let heard = ask("big.test", RecordType::TXT).no_edns().both(&server);
    assert_eq!(heard.bytes.len(), 512);
    assert!(!heard.message.metadata.truncation);
    let heard = ask("big.test", RecordType::TXT).payload(512).udp(&server);
    assert!(heard.message.metadata.truncation, "with OPT it no longer fits");
}
