//! Every row of the table of answers, over UDP and TCP.

use std::net::UdpSocket;
use std::time::Duration;

use hickory_proto::rr::RData;

use crate::support::client::{self, framed, wire_name};
use crate::support::upstream::raw_rdata;
use crate::support::*;

/// A policy that allows `allowed.test` and what is below `wild.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\", \"*.wild.test\", \"big.test\"]";

#[test]
fn denied_name_gets_nxdomain_with_soa_and_a_reason() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    const CASES: &[(&str, &[&str])] = &[
        ("a.denied.example", &["denied.example.", "example.", "."]),
        ("denied.example", &["example.", "."]),
        ("denied", &["."]),
        (".", &["."]),
    ];
    for (name, owners) in CASES {
        let heard = ask(name, RecordType::A).both(&server);
        heard.expect_denied();
        assert_eq!(heard.flags() & 0xfff0, 0x8580, "{name}: QR, AA, RD and RA alone are set: {heard:#?}");
        let (owner, ttl, soa) = heard.soa().expect("a SOA record");
        assert!(owners.contains(&owner.as_str()), "{name}: the SOA record is at {owner}");
        assert_eq!((ttl, soa.minimum), (5, 5), "{name}");
        assert_eq!(heard.message.authorities.len(), 1, "{name}");
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
fn allowed_name_gets_what_the_upstream_said() {
    let upstream = FakeUpstream::start();
    let signature = [&[0, 1, 13, 2, 0, 0, 1, 44], &[0x70; 8][..], &[0, 7], &wire_name("test"), &[1; 64]].concat();
    let answer = Answer::new()
        .cname("allowed.test", "one.test")
        .cname("one.test", "two.test")
        .a("two.test", GLOBAL)
        .a("two.test", GLOBAL_2)
        .raw("two.test", 46, &signature)
        .authority("test", RData::NS(hickory_proto::rr::rdata::NS(support_name("ns.test"))))
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
fn responses_and_fragments_are_dropped_and_counted() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let response = ask("allowed.test", RecordType::A).flags(0x8180).bytes();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send(&response).unwrap();
    for length in 0..12 {
        socket.send(&response[..length]).unwrap();
    }
    server.wait_metric("hostgate_dropped_total", &[("reason", "response")], 1.0);
    server.wait_metric("hostgate_dropped_total", &[("reason", "short")], 12.0);
    assert!(socket.recv(&mut [0; 512]).is_err(), "nothing came back");
    assert_eq!(upstream.total(), 0);
}

#[test]
fn refusals_of_the_table() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let plain = ask("allowed.test", RecordType::A).no_edns();
    let cases = [
        ("AXFR", ask("allowed.test", RecordType::AXFR), ResponseCode::Refused),
        ("IXFR", ask("allowed.test", RecordType::IXFR), ResponseCode::Refused),
        ("class CH", ask("version.bind", RecordType::TXT).class(3), ResponseCode::Refused),
        ("class ANY", ask("allowed.test", RecordType::A).class(255), ResponseCode::Refused),
        ("class 0", ask("allowed.test", RecordType::A).class(0), ResponseCode::Refused),
        ("opcode IQUERY", plain.clone().flags(0x0900), ResponseCode::NotImp),
        ("opcode STATUS", plain.clone().flags(0x1100), ResponseCode::NotImp),
        ("opcode NOTIFY", plain.clone().flags(0x2100), ResponseCode::NotImp),
        ("opcode UPDATE", plain.clone().flags(0x2800), ResponseCode::NotImp),
        ("opcode 15", plain.flags(0x7900), ResponseCode::NotImp),
        ("EDNS version 1", ask("allowed.test", RecordType::A).version(1), ResponseCode::BADVERS),
        ("EDNS version 255", ask("denied.example", RecordType::A).version(255), ResponseCode::BADVERS),
    ];
    for (case, query, rcode) in cases {
        let bytes = query.bytes();
        let udp = client::udp_exchange([127, 0, 0, 1].into(), server.address(), &bytes, DEADLINE).expect(case);
        let tcp = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &bytes).expect(case);
        assert_eq!(udp, tcp, "{case}");
        assert_eq!(udp[..2], query.id.to_be_bytes(), "{case}: the ID");
        assert_eq!(udp[2] & 0x80, 0x80, "{case}: QR");
        assert_eq!(udp[2] & 0x78, bytes[2] & 0x78, "{case}: the opcode");
        let extended = if rcode == ResponseCode::BADVERS { Heard::read(udp.clone()).rcode() } else { low_rcode(&udp) };
        assert_eq!(extended, rcode, "{case}");
        if let Some(edns) = (rcode == ResponseCode::BADVERS).then(|| Heard::read(udp).message.edns) {
            assert_eq!(edns.expect("an OPT record").version(), 0, "{case}: the highest version we know");
        }
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn malformed_queries_get_formerr() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let plain = ask("allowed.test", RecordType::A).no_edns().bytes();
    let with_opt = ask("allowed.test", RecordType::A).bytes();
    let edit = |bytes: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        bytes
    };
    let opt = with_opt[plain.len()..].to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no question", edit(&plain[..12], &|bytes| bytes[5] = 0)),
        ("no question, bytes behind", edit(&plain, &|bytes| bytes[5] = 0)),
        ("two questions announced", edit(&plain, &|bytes| bytes[5] = 2)),
        ("two questions", edit(&[&plain[..], &plain[12..]].concat(), &|bytes| bytes[5] = 2)),
        ("65,535 questions", edit(&plain, &|bytes| bytes[4..6].fill(0xff))),
        ("the header alone", plain[..12].to_vec()),
        ("cut in the name", plain[..16].to_vec()),
        ("cut in the class", plain[..plain.len() - 1].to_vec()),
        ("an answer announced", edit(&plain, &|bytes| bytes[7] = 1)),
        ("an authority announced", edit(&plain, &|bytes| bytes[9] = 1)),
        ("an additional announced", edit(&plain, &|bytes| bytes[11] = 1)),
        ("trailing bytes", [&plain[..], b"\0"].concat()),
        ("trailing bytes behind OPT", [&with_opt[..], b"xyz"].concat()),
        ("a pointer as name", [&plain[..12], &[0xc0, 12, 0, 1, 0, 1]].concat()),
        ("a pointer in the name", [&plain[..12], &[1, b'a', 0xc0, 0, 0, 1, 0, 1]].concat()),
        ("label type 01", [&plain[..12], &[0x41, b'a', 0, 0, 1, 0, 1]].concat()),
        ("label type 10", [&plain[..12], &[0x81, b'a', 0, 0, 1, 0, 1]].concat()),
        ("a name of 256 octets", [&plain[..12], &[1, b'a'].repeat(128)[..], &[0, 0, 1, 0, 1]].concat()),
        ("two OPT", edit(&[&with_opt[..], &opt].concat(), &|bytes| bytes[11] = 2)),
        ("OPT with an owner", edit(&[&plain[..], &[1, b'a'], &opt].concat(), &|bytes| bytes[11] = 1)),
        ("OPT whose RDATA runs past the end", edit(&with_opt, &|bytes| *bytes.last_mut().unwrap() = 9)),
        (
            "an option that runs past the RDATA",
            edit(&[&with_opt[..], &[0, 10, 0, 9, 1]].concat(), &|bytes| bytes[with_opt.len() - 1] = 5),
        ),
        ("half an option header", edit(&[&with_opt[..], &[0, 10, 0]].concat(), &|bytes| bytes[with_opt.len() - 1] = 3)),
    ];
    for (case, bytes) in cases {
        let udp = client::udp_exchange([127, 0, 0, 1].into(), server.address(), &bytes, Duration::from_secs(2));
        let udp = udp.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(low_rcode(&udp), ResponseCode::FormErr, "{case}: {udp:02x?}");
        assert_eq!(udp[..2], bytes[..2], "{case}: the ID");
        assert_eq!(udp[2] & 0x81, 0x81, "{case}: QR and RD");
        let tcp = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &bytes).expect(case);
        assert_eq!(udp, tcp, "{case}");
    }
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
        assert_eq!(heard.message.all_sections().count(), 0, "{case}: no part of an RRset");
        assert_eq!(heard.message.edns.is_some(), has_opt, "{case}: OPT is kept");
        assert_eq!(heard.rcode(), ResponseCode::NoError, "{case}");
        assert_eq!(query.tcp(&server).message.answers.len(), 8, "{case}: all of it over TCP");
    }
}

#[test]
fn answer_that_just_fits_is_whole() {
    let upstream = FakeUpstream::start();
    // Header 12, question 14, one TXT record by compression 2 + 10 + data: 512 octets in all.
    let data = [&[255][..], &[b'x'; 255], &[217], &[b'y'; 217]].concat();
    upstream.on("big.test", Answer::new().raw("big.test", 16, &data));
    let server = Setup::policy(&upstream, POLICY).start();
    let heard = ask("big.test", RecordType::TXT).no_edns().both(&server);
    assert_eq!(heard.bytes.len(), 512);
    assert!(!heard.message.metadata.truncation);
    let heard = ask("big.test", RecordType::TXT).payload(512).udp(&server);
    assert!(heard.message.metadata.truncation, "with OPT it no longer fits");
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
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        assert!(std::env::var("CI").is_err(), "this machine has no IPv6 loopback address");
        return;
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
fn several_queries_share_a_tcp_connection() {
    use std::io::Write;
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut stream = client::tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
    let names = ["allowed.test", "denied.example", "a.wild.test", "wild.test"];
    let mut pipelined = Vec::new();
    for (id, name) in (100..).zip(names) {
        pipelined.extend(framed(&ask(name, RecordType::A).id(id).bytes()));
    }
    stream.write_all(&pipelined).unwrap();
    let mut heard: Vec<_> = (0..4).map(|_| Heard::read(client::tcp_read(&mut stream).unwrap())).collect();
    heard.sort_by_key(|heard| heard.message.metadata.id);
    for (heard, (id, allowed)) in heard.iter().zip([(100, true), (101, false), (102, true), (103, false)]) {
        assert_eq!(heard.message.metadata.id, id);
        if allowed { heard.expect_addresses(&[GLOBAL.into()]) } else { heard.expect_denied() }
    }
}

/// Returns the RCODE of the header.
fn low_rcode(bytes: &[u8]) -> ResponseCode {
    ResponseCode::from_low(bytes[3] & 0x0f)
}

/// Returns a name as hickory-proto has it.
fn support_name(text: &str) -> hickory_proto::rr::Name {
    crate::support::upstream::name(text)
}
