//! Every row of the table of answers, over UDP and TCP.

use hickory_proto::rr::RData;
use std::net::UdpSocket;

use crate::support::answer::{name, raw_rdata};
use crate::support::client::wire_name;
use crate::support::*;

/// A policy that allows `allowed.test` and what is below `wild.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\", \"*.wild.test\", \"big.test\"]";

#[test]
fn denied_name_gets_nxdomain_with_soa_and_a_reason() {
    const CASES: &[(&str, &[&str])] = &[
        ("a.denied.example", &["denied.example.", "example.", "."]),
        ("denied.example", &["example.", "."]),
        ("denied", &["."]),
        (".", &["."]),
    ];
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for (name, owners) in CASES {
        let heard = ask(name, RecordType::A).both(&server);
        heard.expect_denied();
        assert_eq!(heard.flags() & 0xfff0, 0x8580, "{name}: QR, AA, RD and RA alone are set: {heard:#?}");
        let (owner, ttl, soa) = heard.soa().expect("a SOA record");
        assert!(owners.contains(&owner.as_str()), "{name}: the SOA record is at {owner}");
        assert_eq!((ttl, soa.minimum), (5, 5), "{name}");
        assert_eq!(heard.message.authorities.len(), 1, "{name}");
        assert_eq!(soa.mname.to_ascii(), "blocked-by-policy.hostgate.invalid.", "{name}: what drill shows");
        let edes = heard.edes();
        assert_eq!(edes.len(), 1, "{name}: {edes:?}");
        assert_eq!(edes[0].0, 15, "{name}: {edes:?}");
        assert!(edes[0].1.contains("test"), "{name}: the text names the policy: {edes:?}");
        assert!(edes[0].1.len() <= 255, "{name}: the text is short: {edes:?}");
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn denied_ttl_and_message_are_configurable() {
    let upstream = FakeUpstream::start();
    let body = "allowed_hostnames = []\nmessage = \"ask platform@corp.example\"";
    let server = Setup::policy(&upstream, body).top("denied_ttl = 30").start();
    let heard = ask("denied.example", RecordType::A).both(&server);
    let (_, ttl, soa) = heard.soa().unwrap();
    assert_eq!((ttl, soa.minimum), (30, 30));
    assert!(heard.edes()[0].1.contains("ask platform@corp.example"), "{:?}", heard.edes());
}

#[test]
fn query_without_opt_gets_an_answer_without_opt() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for name in ["denied.example", "allowed.test"] {
        let heard = ask(name, RecordType::A).no_edns().both(&server);
        assert!(heard.message.edns.is_none(), "{name}: {heard:#?}");
    }
}

#[test]
fn id_flags_question_and_do_are_echoed() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for name in ["AlLoWeD.tEsT", "dEnIeD.ExAmPlE"] {
        let query = ask(name, RecordType::A).id(0xbeef).flags(0x0110).dnssec_ok();
        let heard = query.both(&server);
        assert_eq!(heard.message.metadata.id, 0xbeef, "{name}");
        assert_eq!(heard.flags() & 0x0110, 0x0110, "{name}: RD and CD");
        assert_eq!(heard.bytes[12..12 + query.question().len()], query.question(), "{name}: the question's bytes");
        let edns = heard.message.edns.as_ref().unwrap();
        assert!(edns.flags().dnssec_ok, "{name}: DO");
        assert_eq!((edns.version(), edns.max_payload()), (0, 1232), "{name}");

        let query = ask(name, RecordType::A).id(0).flags(0);
        let heard = query.both(&server);
        assert_eq!((heard.message.metadata.id, heard.flags() & 0x0110), (0, 0), "{name}");
        assert!(!heard.message.edns.as_ref().unwrap().flags().dnssec_ok, "{name}: no DO");
    }
}

#[test]
fn bits_that_mean_nothing_in_a_query_are_not_echoed() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for name in ["allowed.test", "denied.example"] {
        // TC, RA, Z, AD and AA in the header, the 15 bits beside DO in OPT.
        let heard = ask(name, RecordType::A).flags(0x07e0 & !0x0010).edns_flags(0x7fff).both(&server);
        let aa = if name == "allowed.test" { 0 } else { 0x0400 };
        assert_eq!(heard.flags() & 0x7ff0, 0x0180 | aa, "{name}: {heard:#?}");
        let edns = heard.message.edns.as_ref().unwrap();
        assert_eq!((edns.flags().dnssec_ok, edns.flags().z), (false, 0), "{name}");
    }
}

#[test]
fn long_message_is_cut_to_fit() {
    let upstream = FakeUpstream::start();
    let message = "é".repeat(400);
    let server = Setup::policy(&upstream, &format!("message = \"{message}\"")).start();
    let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join(".");
    for name in ["short.example", &long] {
        for payload in [512, 1232] {
            // Reading the text as UTF-8 is part of the test. Over TCP there is room for more of it.
            let heard = ask(name, RecordType::A).payload(payload).udp(&server);
            heard.expect_denied();
            assert!(heard.bytes.len() <= usize::from(payload), "{}", heard.bytes.len());
            assert_eq!(heard.ede_codes(), [15]);
            assert!(!heard.message.metadata.truncation);
        }
    }
}

#[test]
fn allow_all_allows_the_root_and_single_labels() {
    let upstream = FakeUpstream::start();
    upstream.on("", Answer::new().raw(".", 2, &wire_name("a.root-servers.test")));
    let server = Setup::policy(&upstream, "allow_all = true").start();
    let heard = ask(".", RecordType::NS).both(&server);
    assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NoError, 1), "{heard:#?}");
    ask("localhost-of-mine", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn allowed_name_gets_what_the_upstream_said() {
    let upstream = FakeUpstream::start();
    let signature = [&[0, 1, 13, 2, 0, 0, 1, 44], &[0x70; 8][..], &[0, 7], &wire_name("test"), &[1; 64]].concat();
    let answer = Answer::new()
        .cname("allowed.test", "one.test")
        .cname("one.test", "two.test")
        .a("two.test", GLOBAL)
        .a("two.test", GLOBAL_2)
        .raw("two.test", 46, &signature)
        .authority("test", RData::NS(hickory_proto::rr::rdata::NS(name("ns.test"))))
        .additional("ns.test", RData::A(hickory_proto::rr::rdata::A(GLOBAL_2)))
        .authentic();
    upstream.on("allowed.test", answer);
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("allowed.test", RecordType::A).dnssec_ok().both(&server);
    heard.expect_addresses(&[GLOBAL.into(), GLOBAL_2.into()]);
    let owners: Vec<_> = heard.message.answers.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["allowed.test.", "one.test.", "two.test.", "two.test.", "two.test."], "order is kept");
    let RData::Unknown { rdata, .. } = &heard.message.answers[4].data else { panic!("{heard:#?}") };
    assert_eq!(rdata.anything, signature, "the signature as it came");
    assert_eq!(heard.message.authorities.len(), 1, "{heard:#?}");
    assert_eq!(heard.message.additionals.len(), 1, "{heard:#?}");
    assert!(heard.message.metadata.authentic_data, "AD: {heard:#?}");
    assert!(!heard.message.metadata.authoritative, "AA: {heard:#?}");
    assert!(heard.message.metadata.recursion_available, "RA: {heard:#?}");
}

#[test]
fn ad_is_asked_for_and_given_as_the_client_does() {
    let upstream = FakeUpstream::start();
    // It says AD whoever asks, and claims to be an authority.
    upstream.otherwise(Answer::new().a("allowed.test", GLOBAL).authentic().authoritative());
    let server = Setup::policy(&upstream, POLICY).start();
    let query = |flags| ask("allowed.test", RecordType::A).flags(flags);
    // Twice, so that the second one comes from the cache: each question has an answer of its own.
    for _ in 0..2 {
        for (case, query, authentic) in [
            ("neither", query(0x0100), false),
            ("neither, without OPT", query(0x0100).no_edns(), false),
            ("AD", query(0x0120), true),
            ("AD without OPT", query(0x0120).no_edns(), true),
            ("DO", query(0x0100).dnssec_ok(), true),
            ("AD and DO", query(0x0120).dnssec_ok(), true),
        ] {
            let heard = query.both(&server);
            assert_eq!(heard.message.metadata.authentic_data, authentic, "{case}: {heard:#?}");
            assert!(!heard.message.metadata.authoritative, "{case}: {heard:#?}");
        }
    }
    let asked: Vec<bool> = upstream.seen().iter().map(|seen| seen.message.metadata.authentic_data).collect();
    assert_eq!(asked, [false, true, true], "asked three times: with neither, with AD, with DO");
}

#[test]
fn unknown_types_pass_as_they_came() {
    let upstream = FakeUpstream::start();
    upstream.on("allowed.test", Answer::new().raw("allowed.test", 65_400, b"\x01\x00\xffany bytes"));
    let body = format!("{POLICY}\nquery_types = [\"A\", \"TYPE65400\"]");
    let server = Setup::policy(&upstream, &body).start();
    let heard = ask("allowed.test", RecordType::from(65_400)).both(&server);
    assert_eq!(heard.message.answers.len(), 1, "{heard:#?}");
    assert_eq!(heard.message.answers[0].data, raw_rdata(65_400, b"\x01\x00\xffany bytes"));
}

#[test]
fn upstream_negatives_pass_with_their_soa() {
    let upstream = FakeUpstream::start();
    upstream.on("no.wild.test", Answer::nxdomain("wild.test").ede(29, "synthesised"));
    upstream.on("empty.wild.test", Answer::new().soa("wild.test", 300, 300));
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("no.wild.test", RecordType::A).both(&server);
    assert_eq!(heard.rcode(), ResponseCode::NXDomain);
    assert!(!heard.message.metadata.authoritative, "not our denial: {heard:#?}");
    assert_eq!(heard.soa().unwrap().0, "wild.test.");
    assert_eq!(heard.edes(), [(29, "synthesised".to_owned())]);
    let heard = ask("empty.wild.test", RecordType::A).both(&server);
    assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(heard.soa().unwrap().0, "wild.test.");
}

#[test]
fn upstream_ede_passes_and_is_left_out_without_opt() {
    let upstream = FakeUpstream::start();
    upstream.on("allowed.test", Answer::new().a("allowed.test", GLOBAL).ede(3, "stale at the upstream"));
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("allowed.test", RecordType::A).both(&server);
    assert_eq!(heard.edes(), [(3, "stale at the upstream".to_owned())]);
    assert!(ask("allowed.test", RecordType::A).no_edns().both(&server).message.edns.is_none());
}

#[test]
fn failed_upstream_is_servfail_with_ede() {
    let upstream = FakeUpstream::start();
    upstream.on("silent.wild.test", Reply::silence());
    upstream.on("broken.wild.test", Answer::rcode(ResponseCode::ServFail).ede(6, "bogus"));
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 300").start();
    let heard = ask("silent.wild.test", RecordType::A).both(&server);
    assert_eq!(heard.rcode(), ResponseCode::ServFail);
    assert!(heard.ede_codes().iter().any(|code| [22, 23].contains(code)), "{:?}", heard.edes());
    assert_eq!(heard.message.all_sections().count(), 0, "{heard:#?}");
    let heard = ask("broken.wild.test", RecordType::A).both(&server);
    assert_eq!(heard.rcode(), ResponseCode::ServFail);
    assert!(heard.edes().contains(&(6, "bogus".to_owned())), "{:?}", heard.edes());
}

#[test]
fn source_without_client_is_prohibited() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("p.toml", format!("[policy.unused]\n{POLICY}\n")).start();
    let heard = ask("allowed.test", RecordType::A).both(&server);
    heard.expect_denied();
    assert_eq!(heard.ede_codes(), [18]);
    assert_eq!(heard.soa().unwrap().1, 5);
    assert_eq!(upstream.total(), 0);
}

#[test]
fn type_that_is_not_allowed_gets_nodata() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for qtype in [10, 99, 249, 65_400] {
        let heard = ask("allowed.test", RecordType::from(qtype)).both(&server);
        assert_eq!(heard.rcode(), ResponseCode::NoError, "type {qtype}: {heard:#?}");
        assert!(heard.message.answers.is_empty(), "type {qtype}: {heard:#?}");
        assert_eq!(heard.soa().unwrap().1, 5, "type {qtype}");
        assert_eq!(heard.ede_codes(), [15], "type {qtype}");
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn any_is_answered_as_rfc_8482_says() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("allowed.test", RecordType::ANY).both(&server);
    assert_eq!(heard.rcode(), ResponseCode::NoError);
    let [record] = &heard.message.answers[..] else { panic!("one record: {heard:#?}") };
    let RData::HINFO(hinfo) = &record.data else { panic!("HINFO: {heard:#?}") };
    assert_eq!((&*hinfo.cpu, &*hinfo.os), (&b"RFC8482"[..], &b""[..]));
    assert_eq!(record.name.to_ascii(), "allowed.test.");
    let heard = ask("denied.example", RecordType::ANY).both(&server);
    assert!(heard.addresses().is_empty());
    assert_eq!(upstream.total(), 0);
}

#[test]
fn client_edns_options_are_no_error() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let query = ask("allowed.test", RecordType::A)
        .option(8, &[0, 1, 24, 0, 192, 0, 2])
        .option(10, &[1; 8])
        .option(12, &[0; 40])
        .option(65_001, b"private");
    let heard = query.both(&server);
    heard.expect_addresses(&[GLOBAL.into()]);
    let options = &heard.message.edns.as_ref().unwrap().options().options;
    assert!(options.is_empty(), "nothing is made up: {options:?}");
}

#[test]
fn longest_name_is_denied_like_any_other() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = []\nmessage = \"m\"").start();
    let longest = [63, 63, 63, 61].map(|length| vec![b'a'; length]);
    let labels: Vec<&[u8]> = longest.iter().map(Vec::as_slice).collect();
    for query in [ask("", RecordType::A).labels(&labels), ask("", RecordType::A).labels(&[&b"a"[..]; 127])] {
        let heard = query.clone().payload(512).both(&server);
        heard.expect_denied();
        assert!(heard.bytes.len() <= 512);
        query.no_edns().both(&server).expect_denied();
    }
}

#[test]
fn reply_comes_from_the_address_asked_on_a_wildcard_listener() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).listen_only("0.0.0.0:0").start();
    let port = server.address().port();
    for address in ["127.0.0.1", "127.0.0.9", "127.200.3.4"] {
        let to = format!("{address}:{port}").parse().unwrap();
        // The socket is connected: a reply from another address would not arrive.
        ask("allowed.test", RecordType::A).udp_to(to).expect(address).expect_addresses(&[GLOBAL.into()]);
        ask("denied.example", RecordType::A).udp_to(to).expect(address).expect_denied();
        ask("allowed.test", RecordType::A).tcp_to(to).expect(address).expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn ipv6_listener_answers_alike() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return skip("this machine has no IPv6 loopback address");
    }
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).listen_only("[::]:0").start();
    let port = server.address().port();
    let to = format!("[::1]:{port}").parse().unwrap();
    let query = ask("allowed.test", RecordType::AAAA).from("::1");
    query.udp_to(to).unwrap().expect_addresses(&[GLOBAL_V6.into()]);
    query.tcp_to(to).unwrap().expect_addresses(&[GLOBAL_V6.into()]);
    ask("denied.example", RecordType::A).from("::1").udp_to(to).unwrap().expect_denied();
}

#[test]
fn upstream_rcodes_and_odd_answers_pass() {
    let upstream = FakeUpstream::start();
    upstream.on("yx.wild.test", Answer::rcode(ResponseCode::YXDomain));
    upstream.on("empty.wild.test", Answer::new());
    let chained = Answer::rcode(ResponseCode::NXDomain).cname("chain.wild.test", "gone.test").soa("test", 300, 300);
    upstream.on("chain.wild.test", chained);
    let dname = Answer::new()
        .raw("up.wild.test", 39, &wire_name("down.test"))
        .cname("x.up.wild.test", "x.down.test")
        .a("x.down.test", GLOBAL);
    upstream.on("x.up.wild.test", dname);
    let server = Setup::policy(&upstream, POLICY).start();
    assert_eq!(ask("yx.wild.test", RecordType::A).both(&server).rcode(), ResponseCode::YXDomain);
    let heard = ask("empty.wild.test", RecordType::A).both(&server);
    assert_eq!((heard.rcode(), heard.message.all_sections().count()), (ResponseCode::NoError, 0));
    let heard = ask("chain.wild.test", RecordType::A).both(&server);
    assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NXDomain, 1), "{heard:#?}");
    assert_eq!(heard.soa().unwrap().0, "test.");
    let heard = ask("x.up.wild.test", RecordType::A).both(&server);
    assert_eq!((heard.message.answers.len(), heard.addresses()), (3, vec![GLOBAL.into()]), "{heard:#?}");
}
