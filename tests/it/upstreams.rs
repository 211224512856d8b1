//! Several upstreams: failover, health, truncation, the system's resolv.conf, none at all.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::client::{udp_exchange, wire_name};
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Starts with this policy for all and these upstreams in order.
fn setup(upstreams: &[&FakeUpstream]) -> Setup {
    Setup::new(upstreams).file("test.toml", POLICY).top("default_policy = \"test\"")
}

/// Returns an address where nothing listens: a loopback address that no test binds.
fn dead() -> &'static str {
    "127.99.99.99:5399"
}

#[test]
fn failing_server_hands_over_to_the_next() {
    let cases: [(&str, Reply); 8] = [
        ("silence", Reply::silence()),
        ("SERVFAIL", Answer::rcode(ResponseCode::ServFail).into()),
        ("REFUSED", Answer::rcode(ResponseCode::Refused).into()),
        ("NOTIMP", Answer::rcode(ResponseCode::NotImp).into()),
        ("FORMERR", Answer::rcode(ResponseCode::FormErr).into()),
        ("the wrong ID", Reply::changed(Answer::new().a("x.test", GLOBAL), |bytes| bytes[0] ^= 0x55)),
        ("cut in the middle", Reply::changed(Answer::new().a("x.test", GLOBAL), |bytes| bytes.truncate(40))),
        ("bytes that are no DNS", Reply::by(|_| vec![b"hello".to_vec()])),
    ];
    for (case, reply) in cases {
        let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
        first.otherwise(reply);
        let server = setup(&[&first, &second]).start();
        for number in 0..4 {
            let start = Instant::now();
            let heard = ask(&format!("n{number}.test"), RecordType::A).udp(&server);
            assert_eq!(heard.addresses(), [IpAddr::from(GLOBAL)], "{case}: {heard:#?}\n{}", server.log());
            assert!(start.elapsed() < Duration::from_secs(2), "{case}: {:?}", start.elapsed());
        }
        assert!(first.total() > 0, "{case}: the first in order is asked first");
        assert!(second.total() >= 4, "{case}");
    }
}

#[test]
fn dead_port_fails_over_at_once() {
    let upstream = FakeUpstream::start();
    let server = setup(&[]).servers(&[dead(), &upstream.address.to_string()]).start();
    let start = Instant::now();
    ask("name.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn failing_server_is_asked_less_and_comes_back() {
    let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
    first.otherwise(Answer::rcode(ResponseCode::ServFail));
    let server = setup(&[&first, &second]).start();
    for number in 0..40 {
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    assert!(first.total() <= 20, "a failing server backs off: asked {} times of 40", first.total());
    let servers = server.status()["upstreams"].clone();
    assert_eq!(servers.as_array().map(Vec::len), Some(2), "{servers}");
}

#[test]
fn nxdomain_and_nodata_are_health() {
    let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
    first.otherwise(Reply::by(|seen| {
        let nodata = seen.qname.starts_with("nodata");
        let answer = if nodata { Answer::new().soa("test", 300, 300) } else { Answer::nxdomain("test") };
        vec![answer.to(seen)]
    }));
    let server = setup(&[&first, &second]).start();
    // On a busy machine the first may take long enough for the other to be asked as well, whose answer has an address.
    let mut by_other = 0;
    for number in 0..20 {
        for (name, rcode) in [("no", ResponseCode::NXDomain), ("nodata", ResponseCode::NoError)] {
            let heard = ask(&format!("{name}{number}.test"), RecordType::A).udp(&server);
            if heard.message.answers.is_empty() {
                assert_eq!(heard.rcode(), rcode);
            } else {
                by_other += 1;
            }
        }
    }
    let told = server.status()["upstreams"][0].clone();
    assert_eq!((&told["failed"], &told["state"]), (&0.into(), &"up".into()), "{told}");
    assert!(by_other <= second.total() && second.total() < 10, "no reason to ask the other");
}

#[test]
fn wrong_replies_are_ignored_and_the_right_one_counts() {
    let upstream = FakeUpstream::start();
    let evil = || Answer::new().a("name.test", GLOBAL_2);
    // TTL 0: nothing is cached between the cases.
    let right = || Answer::new().ttl(0).a("name.test", GLOBAL);
    let other_question = Reply::changed(evil(), |bytes| {
        let from = wire_name("name.test");
        let at = bytes.windows(from.len()).position(|window| window.eq_ignore_ascii_case(&from)).unwrap();
        bytes[at + 1] ^= 1;
    });
    let cases: [(&str, Reply); 6] = [
        ("the wrong ID", Reply::changed(evil(), |bytes| bytes[1] ^= 0xff)),
        ("another question", other_question),
        ("another type", Reply::changed(evil(), |bytes| bytes[12 + 11 + 1] ^= 4)),
        (
            "no question",
            Reply::changed(Answer::new(), |bytes| {
                bytes.truncate(12);
                bytes[4..12].fill(0);
            }),
        ),
        ("QR clear", Reply::changed(evil(), |bytes| bytes[2] &= 0x7f)),
        ("a fragment", Reply::by(|seen| vec![seen.bytes[..5].to_vec()])),
    ];
    let server = setup(&[&upstream]).start();
    for (case, wrong) in cases {
        upstream.on("name.test", Reply::both(wrong, right()));
        let heard = ask("name.test", RecordType::A).udp(&server);
        assert_eq!(heard.addresses(), [IpAddr::from(GLOBAL)], "{case}: {heard:#?}");
    }
}

#[test]
fn truncated_reply_is_asked_for_again_over_tcp() {
    let upstream = FakeUpstream::start();
    let many = (1..=200).fold(Answer::new(), |answer, last| answer.a("big.test", [93, 184, 215, last].into()));
    upstream.on("big.test", Reply::by_transport(Answer::new().truncated(), many));
    upstream.on("small.test", Reply::by_transport(Answer::new().truncated(), Answer::new().a("small.test", GLOBAL)));
    let server = setup(&[&upstream]).start();
    assert_eq!(ask("big.test", RecordType::A).tcp(&server).addresses().len(), 200);
    assert!(ask("big.test", RecordType::A).udp(&server).message.metadata.truncation);
    let seen: Vec<bool> = upstream.seen_for("big.test").iter().map(|seen| seen.tcp).collect();
    assert_eq!(seen, [false, true], "UDP, then TCP, then the cache");
    ask("small.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn tcp_upstream_is_asked_over_tcp_alone() {
    let upstream = FakeUpstream::start();
    let server = setup(&[]).servers(&[&format!("tcp://{}", upstream.address)]).start();
    for number in 0..5 {
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    assert!(upstream.seen().iter().all(|seen| seen.tcp));
    let udp = FakeUpstream::start();
    let server = setup(&[]).servers(&[&format!("udp://{}", udp.address)]).start();
    ask("name.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert!(!udp.seen()[0].tcp);
}

#[test]
fn bad_upstreams_stop_the_start() {
    for (server, word) in [
        ("nonsense", "nonsense"),
        ("1.1.1.1:99999", "1.1.1.1:99999"),
        ("tls://192.0.2.1#dns.example", "tls"),
        ("https://dns.example/dns-query", "https"),
        ("192.0.2.1:0", "0"),
        ("", "address"),
    ] {
        let finished = setup(&[]).servers(&[server]).refused();
        assert_eq!(finished.code, Some(78), "{server}: {finished:#?}");
        assert!(
            finished.stderr.contains("hostgate.toml:") && finished.stderr.contains(word),
            "{server}: {finished:#?}"
        );
    }
}

#[test]
fn own_listener_as_upstream_is_refused() {
    for listener in ["127.0.0.1", "0.0.0.0"] {
        // The port has to be known before the start: it is free a moment before, so a few are tried.
        let refused = (0..10).find_map(|_| {
            let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let setup = setup(&[]).listen_only(&format!("{listener}:{port}")).servers(&[&format!("127.0.0.1:{port}")]);
            let finished = setup.refused();
            (!finished.stderr.contains("in use")).then_some(finished)
        });
        refused.expect("a port is free").expect_code(78).expect_text(&["hostgate.toml:", "listen"]);
    }
}

#[test]
fn upstream_latency_and_failures_are_measured() {
    let upstream = FakeUpstream::start();
    upstream.on("broken.test", Answer::rcode(ResponseCode::ServFail));
    let server = setup(&[&upstream]).start();
    ask("name.test", RecordType::A).udp(&server);
    ask("broken.test", RecordType::A).udp(&server);
    server.wait_metric("hostgate_upstream_latency_seconds_count", &[], 1);
    server.wait_metric("hostgate_upstream_failures_total", &[], 1);
}

#[test]
fn changed_servers_are_taken_on_reload() {
    let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
    second.otherwise(Reply::by(|seen| vec![Answer::new().a(&seen.qname, GLOBAL_2).to(seen)]));
    let server = setup(&[&first]).start();
    ask("one.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.reconfigure(&first.address.to_string(), &second.address.to_string());
    server.until("the new server", || {
        server.status()["upstreams"].to_string().contains(&second.address.to_string()).then_some(())
    });
    ask("two.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL_2.into()]);
    assert_eq!(first.count("two.test"), 0);
}

#[test]
fn slow_server_does_not_hold_up_the_others_questions() {
    let upstream = FakeUpstream::start();
    upstream.on("slow.test", Reply::late(Duration::from_millis(1500), Answer::new().a("slow.test", GLOBAL)));
    let server = setup(&[&upstream]).start();
    let address: SocketAddr = server.address();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| ask("slow.test", RecordType::A).udp(&server));
        server.until("the slow question is out", || (upstream.count("slow.test") > 0).then_some(()));
        for number in 0..20 {
            let query = ask(&format!("n{number}.test"), RecordType::A).bytes();
            udp_exchange([127, 0, 0, 1].into(), address, &query, Duration::from_secs(1)).expect("not held up");
        }
        slow.join().unwrap().expect_addresses(&[GLOBAL.into()]);
    });
}

#[test]
fn silent_upstream_stops_no_denial_and_no_other_answer() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let is_silent = seen.qname.starts_with("silent");
        if is_silent { Vec::new() } else { vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)] }
    }));
    let server = setup(&[&upstream]).start();
    ask("cached.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let before = server.resident_kib();
    let flood = UdpSocket::bind("127.0.0.8:0").unwrap();
    for number in 0..5_000 {
        flood.send_to(&ask(&format!("silent{number}.test"), RecordType::A).bytes(), server.address()).unwrap();
    }
    for _ in 0..50 {
        let start = Instant::now();
        ask("denied.example", RecordType::A).udp(&server).expect_denied();
        ask("cached.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 100_000, "grew by {grown} KiB");
    server.until("recovered", || {
        (ask("later.test", RecordType::A).udp(&server).addresses() == [IpAddr::from(GLOBAL)]).then_some(())
    });
}

#[test]
fn broken_tcp_hands_over_to_the_next() {
    let cases: [(&str, Reply); 3] = [
        ("TCP is silent", Reply::by_transport(Answer::new().truncated(), Reply::silence())),
        ("TCP fails", Reply::by_transport(Answer::new().truncated(), Answer::rcode(ResponseCode::ServFail))),
        ("TCP truncates too", Answer::new().truncated().into()),
    ];
    for (case, reply) in cases {
        let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
        first.otherwise(reply);
        let server = setup(&[&first, &second]).start();
        let heard = ask("name.test", RecordType::A).udp(&server);
        assert_eq!(heard.addresses(), [IpAddr::from(GLOBAL)], "{case}: {heard:#?}");
    }
    // A server that takes connections and says nothing, one that closes them, one that sends half a message.
    let good = FakeUpstream::start();
    for bytes in [None, Some(&b""[..]), Some(&b"\xff\xff\0"[..])] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().take(8) {
                let mut stream = stream.unwrap();
                if let Some(bytes) = bytes {
                    let _ = stream.write_all(bytes);
                } else {
                    held.push(stream);
                }
            }
        });
        let server = setup(&[]).servers(&[&format!("tcp://{address}"), &good.address.to_string()]).start();
        let heard = ask("name.test", RecordType::A).udp(&server);
        assert_eq!(heard.addresses(), [IpAddr::from(GLOBAL)], "{bytes:?}: {heard:#?}");
    }
}

#[test]
fn late_answer_of_the_first_server_still_counts() {
    let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
    first.otherwise(Reply::late(Duration::from_secs(1), Answer::new().a("name.test", GLOBAL)));
    second.otherwise(Reply::silence());
    let server = setup(&[&first, &second]).start();
    ask("name.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert!(second.total() > 0, "the second was asked meanwhile");
}

#[test]
fn any_bytes_from_an_upstream_are_an_answer_or_a_failure() {
    let upstream = FakeUpstream::start();
    let svcb =
        [&[0, 1][..], &wire_name("svc.test"), &[0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 4, 10, 0, 0, 1, 0, 5, 0, 2, 1, 1]]
            .concat();
    let whole = Answer::new()
        .cname("name.test", "alias.test")
        .a("alias.test", GLOBAL)
        .raw("alias.test", 65, &svcb)
        .raw("alias.test", 15, &[&[0, 10][..], &wire_name("mail.test")].concat())
        .soa("test", 300, 300)
        .additional("mail.test", hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A(GLOBAL)))
        .ede(3, "text");
    let state = Mutex::new(0x9e37_79b9_7f4a_7c15_u64);
    upstream.otherwise(Reply::by(move |seen| {
        if seen.qname == "alive.test" {
            return vec![Answer::new().a("alive.test", GLOBAL).to(seen)];
        }
        let mut bytes = whole.to(seen);
        let mut state = state.lock().unwrap();
        let mut random = |below: usize| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*state >> 33).unwrap() % below
        };
        // Behind the question, so that it is taken for the reply; now and then the counts as well.
        let start = 12 + wire_name(&seen.qname).len() + 4;
        for _ in 0..=random(3) {
            let at = if random(4) == 0 { 6 + random(6) } else { start + random(bytes.len() - start) };
            bytes[at] = u8::try_from(random(256)).unwrap();
        }
        if random(8) == 0 {
            bytes.truncate(start + random(bytes.len() - start));
        }
        vec![bytes]
    }));
    let server = setup(&[&upstream]).upstream_line("timeout_ms = 100").start();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..60 {
                    let name = format!("n{worker}-{number}.test");
                    for qtype in [RecordType::A, RecordType::HTTPS, RecordType::MX] {
                        // Reading the answer is the test: it is well-formed whatever came in.
                        let heard = ask(&name, qtype).udp(server);
                        assert!(heard.bytes.len() <= 1232);
                    }
                }
            });
        }
    });
    ask("alive.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(server.metric("hostgate_panics_total", &[]), 0);
}

#[test]
fn client_with_too_many_waiting_queries_is_answered_at_once_and_counted() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::silence());
    let server = Setup::policy(&upstream, "allow_all = true").upstream_line("timeout_ms = 20000").start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut names = 0..;
    server.until("a query is turned away", || {
        for number in names.by_ref().take(1000) {
            socket.send_to(&ask(&format!("n{number}.test"), RecordType::A).bytes(), server.address()).unwrap();
        }
        (server.metric("hostgate_queries_turned_away_total", &[]) > 0).then_some(())
    });
    // One that is being turned away is counted for that moment.
    assert!(server.metric("hostgate_queries_in_flight", &[]) < 2100);
    assert!(server.metric("hostgate_failed_answers_total", &[]) > 0);
    // What needs no upstream is answered, and another client's queries are asked.
    let other = ask("use-application-dns.net", RecordType::A).from("127.0.0.5");
    other.udp(&server).expect_denied();
}
