//! Replies are read alike whatever carried them: the size of an answer does not decide what passes.

use std::time::{Duration, Instant};

use crate::support::{client, upstream, *};

/// A policy for types of which upstreams say what is unusual.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n\
                      query_types = [\"A\", \"TXT\", \"CAA\", \"HINFO\", \"MX\", \"LOC\", \"TYPE65400\"]";

/// A policy for the usual types.
const USUAL: &str = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Answers that a strict reader refuses: a name, a type, and the RDATA of its records.
fn unusual() -> Vec<(&'static str, u16, Vec<Vec<u8>>)> {
    let text = |count: usize| (0..count).flat_map(|_| [&[200][..], &[b'x'; 200]].concat()).collect::<Vec<u8>>();
    vec![
        ("empty.test", 65_400, vec![vec![]]),
        ("tag.test", 257, vec![[&[0, 18][..], b"averyverylongtag18", b"value.example"].concat()]),
        ("reserved.test", 257, vec![[&[0x80, 0][..], b"value.example"].concat()]),
        ("hinfo.test", 13, vec![b"\x05PDP11".to_vec()]),
        ("nothing.test", 16, vec![vec![]]),
        ("overrun.test", 16, vec![b"\x09short".to_vec()]),
        ("loc.test", 29, vec![vec![1, 2, 3]]),
        ("six.test", 16, vec![text(6)]),
        ("seven.test", 16, vec![[&text(6)[..], &[0]].concat()]),
        ("mixed.test", 16, vec![text(2), vec![], b"\x02ok".to_vec()]),
    ]
}

/// Returns an upstream that gives those answers, over UDP truncated if `is_long`.
fn upstream(is_long: bool) -> FakeUpstream {
    let upstream = FakeUpstream::start();
    for (qname, rtype, rdata) in unusual() {
        let answer = rdata.iter().fold(Answer::new(), |answer, data| answer.raw(qname, rtype, data));
        if is_long {
            upstream.on(qname, Reply::by_transport(Answer::new().truncated(), answer));
        } else {
            upstream.on(qname, answer);
        }
    }
    upstream
}

/// Returns the RDATA of an answer section whose owners are compressed.
fn rdata(heard: &Heard) -> Vec<Vec<u8>> {
    let bytes = &heard.bytes;
    let mut at = 12 + bytes[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let count = u16::from_be_bytes([bytes[6], bytes[7]]);
    let records = (0..count).map(|_| {
        // A pointer, or a name spelled out.
        while bytes[at] != 0 && bytes[at] < 0xc0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += if bytes[at] == 0 { 1 } else { 2 };
        let length = usize::from(u16::from_be_bytes([bytes[at + 8], bytes[at + 9]]));
        at += 10 + length;
        bytes[at - length..at].to_vec()
    });
    records.collect()
}

#[test]
fn unusual_records_pass_alike_over_udp_over_tcp_and_after_truncation() {
    for (case, is_long, scheme) in [("UDP", false, ""), ("TCP", false, "tcp://"), ("TCP after TC", true, "")] {
        let upstream = upstream(is_long);
        let server = Setup::new(&[])
            .servers(&[&format!("{scheme}{}", upstream.address)])
            .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
            .top("default_policy = \"test\"")
            .start();
        for (qname, rtype, expected) in unusual() {
            let start = Instant::now();
            // Read without hickory, whose decoder refuses some of them.
            let query = ask(qname, RecordType::from(rtype)).bytes();
            let bytes = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &query).unwrap();
            assert_eq!(bytes[3] & 0x0f, 0, "{case}: {qname}: RCODE {}", bytes[3] & 0x0f);
            let heard = Heard { bytes, message: hickory_proto::op::Message::query() };
            assert_eq!(rdata(&heard), expected, "{case}: {qname}");
            assert!(start.elapsed() < Duration::from_secs(1), "{case}: {qname}: {:?}", start.elapsed());
        }
        assert!(upstream.seen().iter().any(|seen| seen.tcp) == (is_long || !scheme.is_empty()), "{case}");
        assert_eq!(server.status()["upstreams"][0]["state"], "up", "{case}");
        assert_eq!(server.metric("hostgate_upstream_failures_total", &[]), 0, "{case}");
    }
}

#[test]
fn connection_that_is_gone_without_a_word_is_left_within_the_time_of_the_question() {
    let upstream = FakeUpstream::start();
    // The first connection takes all further queries and answers none, as when our own address has changed.
    let first = std::sync::Mutex::new(None);
    upstream.otherwise(Reply::by(move |seen| {
        let mut first = first.lock().unwrap();
        let is_dead = *first.get_or_insert(seen.source) == seen.source && !seen.qname.starts_with("warm");
        if is_dead { Vec::new() } else { vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)] }
    }));
    let server = Setup::new(&[])
        .servers(&[&format!("tcp://{}", upstream.address)])
        .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
        .top("default_policy = \"test\"")
        .start();
    for number in 0..3 {
        ask(&format!("warm{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    for number in 0..3 {
        let start = Instant::now();
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(start.elapsed() < Duration::from_secs(1), "{number}: {:?}", start.elapsed());
    }
    let mut sources: Vec<_> = upstream.seen().iter().map(|seen| seen.source).collect();
    sources.dedup();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), 2, "one new connection: {sources:?}");
}

/// Returns the reply of a server that does not recurse and has nothing to say, with these octets for an authority section.
fn lame(seen: &upstream::Seen, authorities: u8, records: &[u8]) -> Vec<u8> {
    let question = 12 + client::wire_name(&seen.qname).len() + 4;
    let mut reply = seen.bytes[..question].to_vec();
    (reply[2], reply[3]) = ((reply[2] | 0x80) & !0x04, 0);
    reply[6..12].copy_from_slice(&[0, 0, 0, authorities, 0, 0]);
    reply.extend(records);
    reply
}

/// An NS record of the root.
const ROOT: &[u8] = b"\0\0\x02\0\x01\0\0\0\x3c\0\x0a\x01a\x06server\0";

#[test]
fn lame_reply_is_no_answer_and_the_next_server_is_asked() {
    for (case, authorities, records) in [("empty", 0, &b""[..]), ("a referral upward", 1, ROOT)] {
        let (bad, good) = (FakeUpstream::start(), FakeUpstream::start());
        bad.otherwise(Reply::by(move |seen| vec![lame(seen, authorities, records)]));
        let addresses = [bad.address.to_string(), good.address.to_string()];
        let policy = format!("[policy.test]\n{POLICY}\n");
        for scheme in ["", "tcp://"] {
            let servers: Vec<String> = addresses.iter().map(|address| format!("{scheme}{address}")).collect();
            let server = Setup::new(&[])
                .servers(&servers.iter().map(String::as_str).collect::<Vec<_>>())
                .file("test.toml", &policy)
                .top("default_policy = \"test\"")
                .start();
            for number in 0..4 {
                let name = format!("n{number}.test");
                ask(&name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
                ask(&name, RecordType::A).tcp(&server).expect_addresses(&[GLOBAL.into()]);
            }
            let told = server.status()["upstreams"][0].clone();
            assert_eq!((&told["state"], &told["answered"]), (&"down".into(), &0.into()), "{case}: {scheme}: {told}");
            assert_eq!(server.metric("hostgate_upstream_failures_total", &[("kind", "lame")]), 3, "{case}");
        }
        // Alone it is a failure, and not that there is no such data.
        let server = Setup::new(&[&bad]).file("test.toml", &policy).top("default_policy = \"test\"").start();
        let heard = ask("alone.test", RecordType::A).udp(&server);
        assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![22]), "{case}");
        assert_eq!(heard.edes()[0].1, "upstream does not resolve names for us", "{case}");
    }
}

#[test]
fn server_that_does_not_recurse_and_has_an_answer_or_says_that_there_is_none_is_not_lame() {
    let upstream = FakeUpstream::start();
    let without_ra = |bytes: &mut Vec<u8>| bytes[3] &= 0x7f;
    upstream.on("there.test", Reply::changed(Answer::new().a("there.test", GLOBAL), without_ra));
    upstream.on("nodata.test", Reply::changed(Answer::new().soa("test", 300, 300), without_ra));
    upstream.on("nxdomain.test", Reply::changed(Answer::nxdomain("test"), without_ra));
    upstream
        .on("own.test", Reply::changed(Answer::new(), |bytes| (bytes[2], bytes[3]) = (bytes[2] | 4, bytes[3] & 0x7f)));
    let server = Setup::policy(&upstream, POLICY).start();
    ask("there.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    for (name, rcode) in [
        ("nodata.test", ResponseCode::NoError),
        ("nxdomain.test", ResponseCode::NXDomain),
        ("own.test", ResponseCode::NoError),
    ] {
        let heard = ask(name, RecordType::A).both(&server);
        assert_eq!((heard.rcode(), heard.ede_codes()), (rcode, vec![]), "{name}");
    }
    // Without RD no more is asked for than is known: a referral is an answer.
    upstream.on("referral.test", Reply::by(|seen| vec![lame(seen, 1, ROOT)]));
    assert_eq!(ask("referral.test", RecordType::A).flags(0).udp(&server).rcode(), ResponseCode::NoError);
}

#[test]
fn alias_alone_of_a_server_that_does_not_recurse_is_no_answer() {
    let (bad, good) = (FakeUpstream::start(), FakeUpstream::start());
    let without_ra = |bytes: &mut Vec<u8>| bytes[3] &= 0x7f;
    for name in ["www.test", "other.test"] {
        bad.on(name, Reply::changed(Answer::new().cname(name, "elsewhere.example"), without_ra));
        good.on(name, Answer::new().cname(name, "elsewhere.example").a("elsewhere.example", GLOBAL));
    }
    let server = Setup::new(&[&bad, &good]).file("test.toml", format!("[policy.test]\n{POLICY}\n"));
    let server = server.top("default_policy = \"test\"").start();
    ask("www.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("other.test", RecordType::A).tcp(&server).expect_addresses(&[GLOBAL.into()]);
    assert!(bad.total() > 0);
    // The alias itself is what is asked for here.
    bad.on("cname.test", Reply::changed(Answer::new().cname("cname.test", "elsewhere.example"), without_ra));
    let server = Setup::policy(&bad, USUAL).start();
    assert_eq!(ask("cname.test", RecordType::CNAME).both(&server).message.answers.len(), 1);
}

#[test]
fn response_code_that_is_no_answer_sends_the_question_to_the_next_server() {
    for code in [7, 8, 9, 10, 11, 15, 17, 23] {
        let (bad, good) = (FakeUpstream::start(), FakeUpstream::start());
        bad.otherwise(Reply::by(move |seen| vec![Answer::rcode(ResponseCode::from(code >> 4, code & 15)).to(seen)]));
        let setup = |servers: &[&FakeUpstream]| {
            let setup = Setup::new(servers).file("test.toml", format!("[policy.test]\n{POLICY}\n"));
            setup.top("default_policy = \"test\"").start()
        };
        let server = setup(&[&bad, &good]);
        ask("udp.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        ask("tcp.test", RecordType::A).tcp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(bad.total() > 0, "{code}");
        // Alone it is a failure that stub resolvers know.
        let heard = ask("alone.test", RecordType::A).udp(&setup(&[&bad]));
        assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![22]), "{code}");
    }
    // The target of a DNAME record is too long: that is what there is to say.
    let upstream = FakeUpstream::start();
    upstream.otherwise(Answer::rcode(ResponseCode::YXDomain));
    let server = Setup::policy(&upstream, POLICY).start();
    assert_eq!(ask("long.test", RecordType::A).both(&server).rcode(), ResponseCode::YXDomain);
}

#[test]
fn names_that_services_lead_to_may_be_hundreds() {
    let upstream = FakeUpstream::start();
    let answer = (0..300).fold(Answer::new(), |answer, number| {
        let target = client::wire_name(&format!("h{number}.pods.test"));
        answer.raw("_grpc._tcp.test", 33, &[&[0, 0, 0, 0, 1, 187][..], &target].concat())
    });
    upstream.on("_grpc._tcp.test", answer);
    for lines in ["", "cname = \"inspect\""] {
        let server = Setup::policy(&upstream, &format!("{USUAL}{lines}")).start();
        let query = ask("_grpc._tcp.test", RecordType::SRV);
        assert_eq!(query.tcp(&server).message.answers.len(), 300);
        let heard = query.udp(&server);
        assert!(heard.message.metadata.truncation && heard.message.answers.len() > 5, "{heard:#?}");
    }
    let policy = format!("{USUAL}denied_hostnames = [\"h299.pods.test\"]\ncname = \"inspect\"");
    let server = Setup::policy(&upstream, &policy).start();
    for _ in 0..2 {
        ask("_grpc._tcp.test", RecordType::SRV).both(&server).expect_denied();
    }
}

#[test]
fn datagram_that_is_too_long_is_asked_for_over_tcp() {
    let upstream = FakeUpstream::start();
    // As an upstream that does not mind the size it was told: 5,000 octets in one datagram, and just within the bound.
    let long = |count: u8| {
        (0..count).fold(Answer::new(), |answer, last| answer.raw("long.test", 16, &[&[99][..], &[last; 99]].concat()))
    };
    upstream.on("long.test", long(45));
    let server = Setup::policy(&upstream, POLICY).start();
    let query = ask("long.test", RecordType::TXT);
    assert_eq!(query.tcp(&server).message.answers.len(), 45);
    assert_eq!(upstream.seen_for("long.test").iter().map(|seen| seen.tcp).collect::<Vec<_>>(), [false, true]);
    assert_eq!(server.metric("hostgate_upstream_failures_total", &[]), 0);
    // The receiving thread asks in another way than a task for a client over TCP.
    upstream.on(
        "again.test",
        Reply::by({
            let answer = (0..45)
                .fold(Answer::new(), |answer, last| answer.raw("again.test", 16, &[&[99][..], &[last; 99]].concat()));
            move |seen| vec![answer.to(seen)]
        }),
    );
    assert!(ask("again.test", RecordType::TXT).udp(&server).message.metadata.truncation);
    assert_eq!(ask("again.test", RecordType::TXT).tcp(&server).message.answers.len(), 45);
    assert_eq!(upstream.seen_for("again.test").iter().map(|seen| seen.tcp).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn random_case_shows_in_no_text_of_an_upstream() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let spelled = |from: usize| {
            let qname = &seen.bytes[from..12 + client::wire_name(&seen.qname).len() - 1];
            String::from_utf8_lossy(qname).replace(['\x07', '\x04'], ".")
        };
        let text = format!("no DS for {}. in zone {}; label {}", spelled(13), spelled(21), &spelled(13)[..7]);
        let answer = if seen.qname.starts_with("failing") {
            Answer::rcode(ResponseCode::ServFail)
        } else {
            Answer::new().ttl(0).a(&seen.qname, GLOBAL)
        };
        vec![answer.ede(9, &text).to(seen)]
    }));
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..8 {
        let heard = ask("allowed.test", RecordType::A).udp(&server);
        assert_eq!(heard.edes()[0].1, "no DS for allowed.test. in zone test; label allowed");
    }
    for number in 0..8 {
        let heard = ask("failing.test", RecordType::from([1, 16][number % 2])).udp(&server);
        let text = heard.edes().pop().unwrap().1;
        assert_eq!(text, "no DS for failing.test. in zone test; label failing");
    }
}

#[test]
fn server_whose_replies_cannot_be_used_is_told_apart_from_a_silent_one() {
    let upstream = FakeUpstream::start();
    upstream.on("cut.test", Reply::by(|seen| vec![[&seen.bytes[..2], &[0x81, 0x80], &seen.bytes[4..16]].concat()]));
    upstream.on("other.test", Reply::changed(Answer::new().a("other.test", GLOBAL), |bytes| bytes[13] ^= 3));
    upstream.on("echo.test", Reply::by(|seen| vec![seen.bytes.clone()]));
    let server = Setup::policy(&upstream, POLICY).start();
    for number in 0..5 {
        ask(&format!("warm{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    for name in ["cut.test", "other.test", "echo.test"] {
        // The receiving thread asks for the one, a task of its own for the other.
        for (query, is_tcp) in [(ask(name, RecordType::A), false), (ask(name, RecordType::TXT), true)] {
            let begin = Instant::now();
            let heard = if is_tcp { query.tcp(&server) } else { query.udp(&server) };
            let told = (22, "upstream reply malformed".to_owned());
            assert_eq!((heard.rcode(), heard.edes()), (ResponseCode::ServFail, vec![told]), "{name} {is_tcp}");
            assert!(begin.elapsed() < Duration::from_secs(3), "{name}: {:?}", begin.elapsed());
        }
    }
    assert!(server.metric("hostgate_upstream_failures_total", &[("kind", "malformed")]) >= 6);
}
