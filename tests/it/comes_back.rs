//! What comes back for allowed names is judged too: rebinding, hints, chains, `ech`, stray records.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};

use crate::support::answer::name;
use crate::support::client::wire_name;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// Returns HTTPS RDATA: priority 1, target, and the parameters given in order of their keys.
fn https(target: &str, parameters: &[(u16, &[u8])]) -> Vec<u8> {
    let mut data = vec![0, 1];
    data.extend(wire_name(target));
    for (key, value) in parameters {
        data.extend(key.to_be_bytes());
        data.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        data.extend(*value);
    }
    data
}

/// Returns the RDATA of the answers of type HTTPS or SVCB as bytes.
///
/// The messages here hold no compression below the answer's owner, so RDATA is found by walking.
fn rdata(heard: &Heard, rtype: u16) -> Vec<Vec<u8>> {
    let bytes = &heard.bytes;
    let mut at = 12;
    while bytes[at] != 0 {
        at += 1 + usize::from(bytes[at]);
    }
    at += 5;
    let mut found = Vec::new();
    for _ in 0..heard.message.answers.len() {
        while bytes[at] != 0 && bytes[at] < 0xc0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += if bytes[at] == 0 { 1 } else { 2 };
        let length = usize::from(u16::from_be_bytes([bytes[at + 8], bytes[at + 9]]));
        if bytes[at..at + 2] == rtype.to_be_bytes() {
            found.push(bytes[at + 10..at + 10 + length].to_vec());
        }
        at += 10 + length;
    }
    found
}

#[test]
fn addresses_that_are_not_globally_reachable_are_filtered() {
    const FILTERED: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "100.100.100.200",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        // IPv4 inside IPv6: mapped, compatible, NAT64 by both prefixes, 6to4, Teredo (server, and client XORed).
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:a00:0:100::",
        "64:ff9b:1:a:0:1::",
        "64:ff9b:1:0:a:0:100:0",
        "2002:a00:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:5db8:d70e:0:0:f5ff:fffe",
        "2001:0:a00:1::1",
    ];
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for (index, address) in FILTERED.iter().enumerate() {
        let (qname, address) = (format!("n{index}.test"), address.parse::<IpAddr>().unwrap());
        let (answer, qtype) = match address {
            IpAddr::V4(v4) => (Answer::new().a(&qname, v4), RecordType::A),
            IpAddr::V6(v6) => (Answer::new().aaaa(&qname, v6), RecordType::AAAA),
        };
        upstream.on(&qname, answer);
        let heard = ask(&qname, qtype).both(&server);
        assert!(heard.addresses().is_empty(), "{address}: {heard:#?}");
        assert_eq!(heard.rcode(), ResponseCode::NoError, "{address}");
        assert_eq!(heard.ede_codes(), [17], "{address}");
    }
}

#[test]
fn globally_reachable_addresses_pass() {
    const PASS: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "126.255.255.255",
        "172.15.255.255",
        "172.32.0.1",
        "192.167.255.255",
        "192.169.0.1",
        "198.17.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "2400:cb00::1",
        "64:ff9b::8.8.8.8",
        "2001:4860:4860::8888",
    ];
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for (index, address) in PASS.iter().enumerate() {
        let (qname, address) = (format!("n{index}.test"), address.parse::<IpAddr>().unwrap());
        let (answer, qtype) = match address {
            IpAddr::V4(v4) => (Answer::new().a(&qname, v4), RecordType::A),
            IpAddr::V6(v6) => (Answer::new().aaaa(&qname, v6), RecordType::AAAA),
        };
        upstream.on(&qname, answer);
        ask(&qname, qtype).udp(&server).expect_addresses(&[address]);
    }
}

#[test]
fn private_address_beside_a_global_one_goes_alone() {
    let upstream = FakeUpstream::start();
    let answer = Answer::new()
        .cname("mixed.test", "real.test")
        .a("real.test", [10, 0, 0, 1].into())
        .a("real.test", GLOBAL)
        .a("real.test", [192, 168, 0, 1].into())
        .authentic();
    upstream.on("mixed.test", answer);
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("mixed.test", RecordType::A).both(&server);
    heard.expect_addresses(&[GLOBAL.into()]);
    assert_eq!(heard.message.answers.len(), 2, "the chain stays: {heard:#?}");
    assert!(!heard.message.metadata.authentic_data, "what was changed is not authentic: {heard:#?}");
}

#[test]
fn private_answers_lets_private_addresses_through() {
    let upstream = FakeUpstream::start();
    for qname in ["inside.test", "a.corp.test", "corp.test", "other.test"] {
        upstream.on(qname, Answer::new().a(qname, [10, 0, 0, 1].into()));
    }
    let body = format!("{POLICY}\nprivate_answers = [\"inside.test\", \"*.corp.test\"]");
    let server = Setup::policy(&upstream, &body)
        .file("more.toml", "[policy.all]\nallow_all = true\nprivate_answers = [\"*\"]\n[client.all]\nsources = [\"127.0.0.9\"]\npolicy = \"all\"\n")
        .start();
    for (qname, passes) in [("inside.test", true), ("a.corp.test", true), ("corp.test", false), ("other.test", false)] {
        let heard = ask(qname, RecordType::A).both(&server);
        assert_eq!(!heard.addresses().is_empty(), passes, "{qname}");
        let heard = ask(qname, RecordType::A).from("127.0.0.9").both(&server);
        assert!(!heard.addresses().is_empty(), "{qname}: judged per client, though cached for another");
    }
    assert_eq!(upstream.total(), 4, "one cache for all clients");
}

#[test]
fn hints_are_filtered_like_addresses() {
    let upstream = FakeUpstream::start();
    let public = GLOBAL.octets();
    let mixed = [&[10, 0, 0, 1][..], &public].concat();
    let private6 = "fd00::1".parse::<Ipv6Addr>().unwrap().octets();
    let cases: &[(&str, Vec<u8>, Vec<u8>)] = &[
        (
            "mixed.test",
            https(".", &[(1, b"\x02h2"), (4, &mixed), (6, &GLOBAL_V6.octets())]),
            https(".", &[(1, b"\x02h2"), (4, &public), (6, &GLOBAL_V6.octets())]),
        ),
        (
            "private.test",
            https(".", &[(1, b"\x02h2"), (4, &[10, 0, 0, 1]), (6, &private6)]),
            https(".", &[(1, b"\x02h2")]),
        ),
        (
            "mandatory.test",
            https(".", &[(0, &[0, 1, 0, 4]), (1, b"\x02h2"), (4, &[10, 0, 0, 1])]),
            https(".", &[(0, &[0, 1]), (1, b"\x02h2")]),
        ),
        (
            "mandatory-alone.test",
            https(".", &[(0, &[0, 4]), (1, b"\x02h2"), (4, &[10, 0, 0, 1])]),
            https(".", &[(1, b"\x02h2")]),
        ),
        (
            "mapped.test",
            https(".", &[(6, &"::ffff:169.254.169.254".parse::<Ipv6Addr>().unwrap().octets())]),
            https(".", &[]),
        ),
    ];
    let server = Setup::policy(&upstream, POLICY).start();
    for (qname, said, expected) in cases {
        for rtype in [64, 65] {
            upstream.on(qname, Answer::new().raw(qname, rtype, said));
            let heard = ask(qname, RecordType::from(rtype)).both(&server);
            assert_eq!(rdata(&heard, rtype), std::slice::from_ref(expected), "{qname} type {rtype}: {heard:#?}");
        }
    }
}

#[test]
fn ech_is_removed() {
    let upstream = FakeUpstream::start();
    let with = https(".", &[(0, &[0, 1, 0, 5]), (1, b"\x02h2"), (4, &GLOBAL.octets()), (5, b"ech config")]);
    let without = https(".", &[(0, &[0, 1]), (1, b"\x02h2"), (4, &GLOBAL.octets())]);
    upstream.on("ech.test", Answer::new().raw("ech.test", 65, &with).authentic());
    let body = format!("{POLICY}\nprivate_answers = [\"*\"]");
    let server = Setup::policy(&upstream, &body).start();
    let heard = ask("ech.test", RecordType::HTTPS).both(&server);
    assert_eq!(rdata(&heard, 65), [without], "{heard:#?}");
    assert!(!heard.message.metadata.authentic_data);
}

#[test]
fn addresses_behind_the_networks_own_translator_are_filtered() {
    let upstream = FakeUpstream::start();
    let below = |prefix: &str, v4: &str| format!("{prefix}{v4}").parse().unwrap();
    upstream.on("inside.test", Answer::new().aaaa("inside.test", below("2606:64::", "10.0.0.1")));
    upstream.on("outside.test", Answer::new().aaaa("outside.test", below("2606:64::", "8.8.8.8")));
    upstream.on("isatap.test", Answer::new().aaaa("isatap.test", below("2606:65::5efe:", "169.254.169.254")));
    let server = Setup::policy(&upstream, POLICY).upstream_line("nat64_prefixes = [\"2606:64::/96\"]").start();
    for (name, code) in [("inside.test", vec![17]), ("isatap.test", vec![17]), ("outside.test", vec![])] {
        let heard = ask(name, RecordType::AAAA).both(&server);
        assert_eq!((heard.ede_codes(), heard.message.answers.len()), (code.clone(), 1 - code.len()), "{name}");
    }
}

#[test]
fn private_addresses_are_filtered_in_every_section() {
    let upstream = FakeUpstream::start();
    let mx = [&[0, 10][..], &wire_name("mail.test")].concat();
    let answer = Answer::new()
        .raw("mx.test", 15, &mx)
        .additional("mail.test", RData::A(A([10, 0, 0, 1].into())))
        .additional("mail.test", RData::A(A(GLOBAL)))
        .additional("mail.test", RData::AAAA(AAAA("::1".parse().unwrap())));
    upstream.on("mx.test", answer);
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("mx.test", RecordType::MX).both(&server);
    assert_eq!(heard.rcode(), ResponseCode::NoError);
    assert_eq!(heard.message.answers.len(), 1);
    let [kept] = &heard.message.additionals[..] else { panic!("one address: {heard:#?}") };
    assert_eq!(kept.data, RData::A(A(GLOBAL)));
}

#[test]
fn trusted_chain_is_followed_and_inspected_chain_is_judged() {
    let upstream = FakeUpstream::start();
    upstream.on(
        "start.test",
        Answer::new()
            .cname("start.test", "cdn.example")
            .cname("cdn.example", "edge.evil.example")
            .a("edge.evil.example", GLOBAL),
    );
    upstream.on("good.test", Answer::new().cname("good.test", "other.test").a("other.test", GLOBAL));
    upstream.on("svc.test", Answer::new().raw("svc.test", 65, &https("edge.evil.example", &[(1, b"\x02h2")])));
    let clients = "[policy.inspect]\nallowed_hostnames = [\"*.test\", \"cdn.example\"]\ncname = \"inspect\"\n\
                   [client.inspect]\nsources = [\"127.0.0.9\"]\npolicy = \"inspect\"\n";
    let server = Setup::policy(&upstream, POLICY).file("clients.toml", clients).start();
    ask("start.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(ask("svc.test", RecordType::HTTPS).both(&server).message.answers.len(), 1);

    let heard = ask("start.test", RecordType::A).from("127.0.0.9").both(&server);
    heard.expect_denied();
    let edes = heard.edes();
    assert!(edes.len() == 1 && edes[0].0 == 15 && edes[0].1.contains("edge.evil.example"), "names the hop: {edes:?}");
    ask("good.test", RecordType::A).from("127.0.0.9").both(&server).expect_addresses(&[GLOBAL.into()]);
    let heard = ask("svc.test", RecordType::HTTPS).from("127.0.0.9").both(&server);
    assert!(heard.message.answers.is_empty(), "a service's target is a hop: {heard:#?}");
}

#[test]
fn denied_names_in_the_chain_count_under_inspect() {
    let upstream = FakeUpstream::start();
    upstream.on("start.test", Answer::new().cname("start.test", "bad.test").a("bad.test", GLOBAL));
    let body = format!("{POLICY}\ndenied_hostnames = [\"bad.test\"]\ncname = \"inspect\"");
    let server = Setup::policy(&upstream, &body).start();
    ask("start.test", RecordType::A).both(&server).expect_denied();
}

#[test]
fn records_outside_the_chain_are_dropped() {
    let upstream = FakeUpstream::start();
    let address = |last| RData::A(A([93, 184, 215, last].into()));
    let answer = Answer::new()
        .a("victim.example", [93, 184, 215, 66].into())
        .cname("start.test", "end.test")
        .a("end.test", GLOBAL)
        .answer("elsewhere.example", RData::CNAME(CNAME(name("end.test"))))
        .authority("victim.example", RData::NS(hickory_proto::rr::rdata::NS(name("ns.evil.example"))))
        .authority("test", RData::NS(hickory_proto::rr::rdata::NS(name("ns.test"))))
        .additional("ns.test", address(67))
        .additional("victim.example", address(68));
    upstream.on("start.test", answer);
    upstream.on("victim.example", Answer::new().a("victim.example", GLOBAL_2));
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\", \"victim.example\"]").start();
    let heard = ask("start.test", RecordType::A).both(&server);
    let owners: Vec<_> = heard.message.all_sections().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["start.test.", "end.test.", "test.", "ns.test."], "{heard:#?}");
    ask("victim.example", RecordType::A).both(&server).expect_addresses(&[GLOBAL_2.into()]);
}

#[test]
fn chain_that_loops_ends() {
    let upstream = FakeUpstream::start();
    upstream.on("a.test", Answer::new().cname("a.test", "b.test").cname("b.test", "a.test"));
    let long = (0..200)
        .fold(Answer::new(), |answer, hop| answer.cname(&format!("h{hop}.test"), &format!("h{}.test", hop + 1)));
    upstream.on("h0.test", Reply::by_transport(Answer::new().truncated(), long));
    let server = Setup::policy(&upstream, &format!("{POLICY}\ncname = \"inspect\"")).start();
    for qname in ["a.test", "h0.test"] {
        let heard = ask(qname, RecordType::A).tcp(&server);
        assert!(heard.addresses().is_empty(), "{qname}");
    }
    ask("fine.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn chain_to_a_private_address_is_filtered() {
    let upstream = FakeUpstream::start();
    let answer = Answer::new().cname("alias.test", "inner.test").a("inner.test", [192, 168, 1, 1].into());
    upstream.on("alias.test", answer);
    // The target's own entry does not help: the name asked for counts.
    let body = format!("{POLICY}\nprivate_answers = [\"inner.test\"]");
    let server = Setup::policy(&upstream, &body).start();
    let heard = ask("alias.test", RecordType::A).both(&server);
    assert_eq!((heard.rcode(), heard.addresses(), heard.ede_codes()), (ResponseCode::NoError, vec![], vec![17]));
    assert!(ask("alias.test", RecordType::A).no_edns().both(&server).addresses().is_empty());
}

#[test]
fn what_is_taken_out_names_the_policy_and_its_message() {
    let upstream = FakeUpstream::start();
    upstream.on("private.test", Answer::new().a("private.test", [10, 0, 0, 1].into()));
    upstream.on("leads.test", Answer::new().cname("leads.test", "away.example").a("away.example", GLOBAL));
    let body = "allowed_hostnames = [\"private.test\", \"leads.test\"]\ncname = \"inspect\"\nmessage = \"ask platform@corp.example\"";
    let server = Setup::policy(&upstream, body).start();
    for (name, code) in [("private.test", 17), ("leads.test", 15), ("denied.example", 15)] {
        // From the upstream, then from the cache.
        for _ in 0..2 {
            let edes = ask(name, RecordType::A).both(&server).edes();
            let [(found, text)] = &edes[..] else { panic!("{name}: one EDE: {edes:?}") };
            assert_eq!(*found, code, "{name}: {text}");
            assert!(
                text.contains("by policy test: ") && text.ends_with(". ask platform@corp.example"),
                "{name}: {text}"
            );
        }
    }
}
