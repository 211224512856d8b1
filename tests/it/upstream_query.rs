//! What goes upstream: nothing of a denied query, and of an allowed one only what is needed.

use std::time::Duration;

use crate::support::client::wire_name;
use crate::support::upstream::Seen;
use crate::support::*;

/// A policy that allows `allowed.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\"]";

#[test]
fn denied_name_never_reaches_the_upstream_whatever_is_asked() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for qtype in (0..=300).chain([32_768, 32_769, 65_280, 65_400, 65_535]) {
        for name in ["denied.example", "x.allowed.test", "notallowed.test", "allowed.test.evil.example"] {
            let query = ask(name, RecordType::from(qtype));
            let heard = query.udp(&server);
            let addresses = heard.addresses();
            assert!(addresses.is_empty(), "{name} type {qtype}: {addresses:?}");
        }
    }
    for query in [
        ask("denied.example", RecordType::A).dnssec_ok(),
        ask("denied.example", RecordType::A).checking_disabled(),
        ask("denied.example", RecordType::A).flags(0),
        ask("denied.example", RecordType::A).no_edns(),
        ask("denied.example", RecordType::A).option(10, &[1; 8]),
        ask("denied.example", RecordType::A).class(3),
        ask("denied.example", RecordType::A).version(1),
    ] {
        query.udp(&server);
        query.tcp(&server);
    }
    assert_eq!(upstream.total(), 0, "{:?}", upstream.seen());
    // The same upstream does see what is allowed: the count above means something.
    ask("allowed.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(upstream.total(), 1);
}

#[test]
fn types_that_are_not_allowed_never_reach_the_upstream() {
    // A, NS, CNAME, SOA, HINFO, MX, TXT, PTR, AAAA, LOC, SRV, NAPTR, DS, SSHFP, DNSKEY, TLSA, SVCB, HTTPS, CAA.
    const DEFAULT: &[u16] = &[1, 2, 5, 6, 12, 13, 15, 16, 28, 29, 33, 35, 43, 44, 48, 52, 64, 65, 257];
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for qtype in (0..=300).chain([65_400]) {
        let heard = ask("allowed.test", RecordType::from(qtype)).udp(&server);
        let rcode = heard.rcode();
        let seen = upstream.seen_for("allowed.test").iter().any(|seen| u16::from(seen.qtype) == qtype);
        assert_eq!(seen, DEFAULT.contains(&qtype), "type {qtype}: {rcode}");
    }
    assert_eq!(upstream.total(), DEFAULT.len());
}

#[test]
fn query_types_of_the_policy_count() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, &format!("{POLICY}\nquery_types = [\"AAAA\"]")).start();
    assert_eq!(ask("allowed.test", RecordType::A).udp(&server).ede_codes(), [15]);
    assert_eq!(upstream.total(), 0);
    ask("allowed.test", RecordType::AAAA).udp(&server).expect_addresses(&[GLOBAL_V6.into()]);
    assert_eq!(upstream.total(), 1);
}

#[test]
fn query_is_rebuilt_from_what_is_needed() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let query = ask("aLLoWeD.TeSt", RecordType::A)
        .id(0x1234)
        .option(8, &[0, 1, 24, 0, 192, 0, 2])
        .option(10, &[7; 8])
        .option(3, b"")
        .option(12, &[0; 64])
        .option(65_001, b"exfiltrated data");
    query.udp(&server).expect_addresses(&[GLOBAL.into()]);
    let seen = &upstream.seen()[0];
    let mut expected = ask("allowed.test", RecordType::A).bytes();
    // The ID is its own, the case may be random (0x20); all else is settled, octet by octet.
    expected[..2].copy_from_slice(&seen.bytes[..2]);
    assert_eq!(seen.bytes.to_ascii_lowercase(), expected.to_ascii_lowercase());
    assert!(!seen.tcp);
}

/// Returns the QNAME of a query as it came, as text.
fn spelled(seen: &Seen) -> String {
    String::from_utf8_lossy(&seen.bytes[13..12 + wire_name(&seen.qname).len() - 1]).into_owned()
}

#[test]
fn name_is_asked_for_in_random_case_over_udp() {
    let upstream = FakeUpstream::start();
    upstream.on("allowed.test", Answer::new().ttl(0).a("allowed.test", GLOBAL));
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..8 {
        let heard = ask("allowed.test", RecordType::A).udp(&server);
        heard.expect_addresses(&[GLOBAL.into()]);
        assert_eq!(heard.message.answers[0].name.to_ascii(), "allowed.test.", "the client sees its own");
    }
    let mut spellings: Vec<String> = upstream.seen().iter().map(spelled).collect();
    assert!(spellings.iter().all(|spelling| spelling.eq_ignore_ascii_case("allowed\x04test")), "{spellings:?}");
    spellings.sort_unstable();
    spellings.dedup();
    assert!(spellings.len() > 5, "{spellings:?}");
    let server = Setup::policy(&upstream, POLICY).upstream_line("case_randomisation = false").start();
    ask("Allowed.Test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(spelled(&upstream.seen()[8]), "allowed\x04test", "turned off");
}

#[test]
fn upstream_that_does_not_keep_the_case_is_asked_in_lower_case_from_then_on() {
    let upstream = FakeUpstream::start();
    let lower = |bytes: &mut Vec<u8>| bytes[12..26].make_ascii_lowercase();
    upstream.otherwise(Reply::changed(Answer::new().ttl(0).a("allowed.test", GLOBAL), lower));
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..5 {
        ask("allowed.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    let spellings: Vec<String> = upstream.seen().iter().map(spelled).collect();
    assert_eq!(spellings.len(), 6, "twice once: {spellings:?}");
    assert!(spellings[1..].iter().all(|spelling| spelling == "allowed\x04test"), "{spellings:?}");
    assert_eq!(server.metric("hostgate_upstream_other_case_total", &[]), 1);
    assert_eq!(server.metric("hostgate_upstream_ignored_total", &[]), 0);
}

#[test]
fn reply_forged_in_another_case_is_not_taken_and_turns_nothing_off() {
    let upstream = FakeUpstream::start();
    let is_mixed = |seen: &Seen| spelled(seen).bytes().any(|octet| octet.is_ascii_uppercase());
    upstream.otherwise(Reply::by(move |seen| {
        let truth = Answer::new().ttl(0).a("allowed.test", GLOBAL).to(seen);
        let mut evil = Answer::new().a("allowed.test", GLOBAL_2).to(seen);
        evil[12..26].iter_mut().filter(|octet| octet.is_ascii_alphabetic()).for_each(|octet| *octet ^= 0x20);
        if is_mixed(seen) {
            return vec![evil, truth];
        }
        // As from afar: what was asked first is answered first, and well before.
        pause(Duration::from_millis(50));
        vec![truth]
    }));
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..6 {
        ask("allowed.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    let mixed = upstream.seen().iter().filter(|seen| is_mixed(seen)).count();
    assert!(mixed >= 3, "still in random case: {mixed}");
    assert!(server.metric("hostgate_upstream_other_case_total", &[]) >= 3);
}

#[test]
fn random_case_reaches_no_client() {
    let upstream = FakeUpstream::start();
    // Every name spelled out as it was asked, none compressed.
    upstream.on(
        "allowed.test",
        Reply::by(|seen| {
            let qname = &seen.bytes[12..12 + wire_name("allowed.test").len()];
            let parent = &qname[8..];
            let record = |owner: &[u8], rtype: u8, data: &[u8]| {
                let length = u8::try_from(data.len()).unwrap();
                [owner, &[0, rtype, 0, 1, 0, 0, 1, 44, 0, length], data].concat()
            };
            let mut head = seen.bytes[..12 + qname.len() + 4].to_vec();
            (head[2], head[3]) = (0x81, 0x80);
            head[6..12].copy_from_slice(&[0, 2, 0, 1, 0, 0]);
            let alias = [b"\x05Alias", parent].concat();
            let server = [b"\x02NS", parent].concat();
            vec![
                [head, record(qname, 5, &alias), record(&alias, 1, &GLOBAL.octets()), record(parent, 2, &server)]
                    .concat(),
            ]
        }),
    );
    let server = Setup::policy(&upstream, POLICY).start();
    for name in ["allowed.test", "ALLOWED.test"] {
        let heard = ask(name, RecordType::A).udp(&server);
        heard.expect_addresses(&[GLOBAL.into()]);
        let names: Vec<String> =
            heard.message.answers.iter().chain(&heard.message.authorities).map(ToString::to_string).collect();
        assert!(names[0].starts_with("allowed.test.") && names[0].ends_with("Alias.test."), "{names:?}");
        assert!(names[1].starts_with("Alias.test."), "{names:?}");
        assert!(names[2].starts_with("test.") && names[2].ends_with("NS.test."), "{names:?}");
    }
}

#[test]
fn rd_cd_ad_and_do_are_passed_on() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let cases = [
        ("plain", ask("allowed.test", RecordType::A), (true, false, false, false)),
        ("CD", ask("allowed.test", RecordType::A).checking_disabled(), (true, true, false, false)),
        ("DO", ask("allowed.test", RecordType::A).dnssec_ok(), (true, false, true, true)),
        ("CD and DO", ask("allowed.test", RecordType::A).checking_disabled().dnssec_ok(), (true, true, true, true)),
        ("no RD", ask("allowed.test", RecordType::A).flags(0), (false, false, false, false)),
        ("AD and Z", ask("allowed.test", RecordType::MX).flags(0x0160), (true, false, false, true)),
    ];
    for (number, (case, query, expected)) in (1..).zip(cases) {
        query.udp(&server);
        assert_eq!(upstream.total(), number, "{case}: asked once");
        let seen = upstream.seen().pop().unwrap();
        let edns = seen.message.edns.as_ref().expect("an OPT record");
        let metadata = &seen.message.metadata;
        let authentic = metadata.authentic_data;
        let got = (metadata.recursion_desired, metadata.checking_disabled, edns.flags().dnssec_ok, authentic);
        assert_eq!(got, expected, "{case}");
        assert_eq!(edns.max_payload(), 1232, "{case}");
        assert_eq!(seen.bytes[3] & 0x40, 0, "{case}: Z stays here");
    }
}

#[test]
fn ids_and_ports_are_not_the_clients_and_not_a_sequence() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.wild.test\"]").start();
    for number in 0..24 {
        ask(&format!("n{number}.wild.test"), RecordType::A).id(number).udp(&server);
    }
    let seen = upstream.seen();
    let ids: Vec<u16> = seen.iter().map(|seen| seen.message.metadata.id).collect();
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 20, "random IDs: {ids:?}");
    let steps = ids.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 1).count();
    assert!(steps < 4, "no sequence: {ids:?}");
    let mut ports: Vec<u16> = seen.iter().map(|seen| seen.source.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 4, "ports vary: {ports:?}");
}

#[test]
fn audit_mode_records_and_forwards() {
    let upstream = FakeUpstream::start();
    let body = "mode = \"audit\"\nallowed_hostnames = [\"allowed.test\"]";
    let server = Setup::policy(&upstream, body).table("[decisions]\npath = \"decisions.jsonl\"").start();
    ask("denied.example", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(upstream.count("denied.example"), 1);
    let log = server.directory().join("decisions.jsonl");
    server.until("an audited decision", || {
        let text = std::fs::read_to_string(&log).ok()?;
        let line = text.lines().find(|line| line.contains("denied.example"))?;
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        assert_eq!(record["audited"], true, "{record}");
        Some(())
    });
}

#[test]
fn bypass_names_stay_denied_under_every_policy() {
    const BYPASSES: &[&str] =
        &["use-application-dns.net", "resolver.arpa", "_dns.resolver.arpa", "mask.icloud.com", "mask-h2.icloud.com"];
    for body in [
        "allow_all = true",
        "allow_all = true\nmode = \"audit\"",
        "allowed_hostnames = [\"*.icloud.com\", \"*.resolver.arpa\"]",
    ] {
        let upstream = FakeUpstream::start();
        let server = Setup::policy(&upstream, body).start();
        for name in BYPASSES {
            for qtype in [RecordType::A, RecordType::SVCB, RecordType::HTTPS] {
                let heard = ask(name, qtype).both(&server);
                assert_eq!(heard.rcode(), ResponseCode::NXDomain, "{body}: {name} {qtype}");
            }
        }
        assert_eq!(upstream.total(), 0, "{body}: {:?}", upstream.seen());
    }
    let upstream = FakeUpstream::start();
    let server =
        Setup::new(&[&upstream]).top("default_policy = \"unrestricted\"").file("p.toml", "[policy.x]\n").start();
    for name in BYPASSES {
        ask(name, RecordType::A).udp(&server).expect_denied();
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn bypass_name_that_is_listed_exactly_is_allowed() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"mask.icloud.com\"]").start();
    ask("mask.icloud.com", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("mask-h2.icloud.com", RecordType::A).udp(&server).expect_denied();
}
