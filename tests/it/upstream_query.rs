//! What goes upstream: nothing of a denied query, and of an allowed one only what is needed.

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

#[test]
fn rd_cd_and_do_are_passed_on() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let cases = [
        ("plain", ask("allowed.test", RecordType::A), (true, false, false)),
        ("CD", ask("allowed.test", RecordType::A).checking_disabled(), (true, true, false)),
        ("DO", ask("allowed.test", RecordType::A).dnssec_ok(), (true, false, true)),
        ("CD and DO", ask("allowed.test", RecordType::A).checking_disabled().dnssec_ok(), (true, true, true)),
        ("no RD", ask("allowed.test", RecordType::A).flags(0), (false, false, false)),
        ("AD and Z", ask("allowed.test", RecordType::MX).flags(0x0160), (true, false, false)),
    ];
    for (number, (case, query, expected)) in (1..).zip(cases) {
        query.udp(&server);
        assert_eq!(upstream.total(), number, "{case}: asked once");
        let seen = upstream.seen().pop().unwrap();
        let edns = seen.message.edns.as_ref().expect("an OPT record");
        let metadata = &seen.message.metadata;
        let got = (metadata.recursion_desired, metadata.checking_disabled, edns.flags().dnssec_ok);
        assert_eq!(got, expected, "{case}");
        assert_eq!(edns.max_payload(), 1232, "{case}");
        assert_eq!(seen.bytes[3] & 0x60, 0, "{case}: AD and Z stay here");
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
