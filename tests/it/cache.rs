//! The cache, seen by what the upstream is asked.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::support::client;
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"";

/// Returns how many questions for a name went upstream: on a busy machine a gate may open late enough for one to be sent
/// again, which is none.
fn questions(upstream: &FakeUpstream, server: &Server, name: &str) -> u64 {
    upstream.count(name) as u64 - server.metric("hostgate_upstream_retransmissions_total", &[])
}

#[test]
fn ttl_counts_down_and_the_record_is_asked_for_again_when_it_ends() {
    let upstream = FakeUpstream::start();
    upstream.on("short.test", Answer::new().ttl(2).a("short.test", GLOBAL));
    upstream.on("long.test", Answer::new().ttl(300).a("long.test", GLOBAL));
    let server = Setup::policy(&upstream, POLICY).start();
    assert_eq!(ask("long.test", RecordType::A).udp(&server).ttl(), 300);
    assert_eq!(ask("short.test", RecordType::A).udp(&server).ttl(), 2);
    server.until("the TTL counts down", || (ask("long.test", RecordType::A).udp(&server).ttl() < 300).then_some(()));
    assert!(ask("long.test", RecordType::A).tcp(&server).ttl() >= 295);
    assert_eq!(upstream.count("long.test"), 1, "all from the cache");
    server.until("the short one is asked for again", || {
        let ttl = ask("short.test", RecordType::A).udp(&server).ttl();
        assert!(ttl <= 2, "{ttl}");
        (upstream.count("short.test") == 2).then_some(())
    });
    assert!(server.metric("hostgate_cache_hits_total", &[]) >= 2);
    assert!(server.metric("hostgate_cache_misses_total", &[]) >= 3);
}

#[test]
fn ttl_zero_is_not_cached_and_max_ttl_bounds_the_rest() {
    let upstream = FakeUpstream::start();
    upstream.on("zero.test", Answer::new().ttl(0).a("zero.test", GLOBAL));
    upstream.on("high.test", Answer::new().ttl(0x8000_0000).a("high.test", GLOBAL));
    upstream.on("year.test", Answer::new().ttl(31_536_000).a("year.test", GLOBAL));
    let server = Setup::policy(&upstream, POLICY).table("[cache]\nmax_ttl = 1").start();
    for round in 1..=3 {
        assert_eq!(ask("zero.test", RecordType::A).udp(&server).ttl(), 0);
        assert_eq!(upstream.count("zero.test"), round);
    }
    // A TTL with the high bit set is 0 (RFC 2181 §8).
    for round in 1..=2 {
        assert_eq!(ask("high.test", RecordType::A).udp(&server).ttl(), 0);
        assert_eq!(upstream.count("high.test"), round);
    }
    // Clients are not to keep it for longer either: neither what comes fresh nor what was kept.
    for _ in 0..2 {
        assert!(ask("year.test", RecordType::A).udp(&server).ttl() <= 1);
    }
    server.until("max_ttl is over", || {
        ask("year.test", RecordType::A).udp(&server);
        (upstream.count("year.test") == 2).then_some(())
    });
}

#[test]
fn smallest_ttl_of_the_chain_bounds_the_answer() {
    let upstream = FakeUpstream::start();
    let answer = Answer::new().ttl(300).cname("chain.test", "end.test").ttl(1).a("end.test", GLOBAL);
    upstream.on("chain.test", answer);
    let server = Setup::policy(&upstream, POLICY).start();
    ask("chain.test", RecordType::A).udp(&server);
    server.until("asked again", || {
        ask("chain.test", RecordType::A).udp(&server);
        (upstream.count("chain.test") == 2).then_some(())
    });
}

#[test]
fn negative_answers_live_as_the_soa_says() {
    let upstream = FakeUpstream::start();
    // RFC 2308 §5: the smaller of the SOA's TTL and its MINIMUM.
    upstream.on("long.test", Answer::rcode(ResponseCode::NXDomain).soa("test", 300, 300));
    upstream.on("minimum.test", Answer::rcode(ResponseCode::NXDomain).soa("test", 300, 1));
    upstream.on("ttl.test", Answer::new().soa("test", 1, 300));
    upstream.on("none.test", Answer::rcode(ResponseCode::NXDomain));
    upstream.on("chain.test", Answer::new().cname("chain.test", "end.test").soa("test", 300, 300));
    let server = Setup::policy(&upstream, POLICY).start();
    for qname in ["long.test", "minimum.test", "ttl.test", "none.test", "chain.test"] {
        ask(qname, RecordType::A).udp(&server);
        ask(qname, RecordType::A).tcp(&server);
    }
    assert_eq!(upstream.count("none.test"), 2, "without a SOA record nothing says how long");
    for qname in ["minimum.test", "ttl.test"] {
        server.until("asked again", || {
            ask(qname, RecordType::A).udp(&server);
            (upstream.count(qname) >= 2).then_some(())
        });
    }
    ask("long.test", RecordType::A).udp(&server);
    ask("chain.test", RecordType::A).udp(&server);
    assert_eq!((upstream.count("long.test"), upstream.count("chain.test")), (1, 1));
}

#[test]
fn servfail_is_cached_for_a_moment_and_says_so() {
    let upstream = FakeUpstream::start();
    upstream.on("flaky.test", Answer::rcode(ResponseCode::ServFail).ede(9, "no key"));
    let server = Setup::policy(&upstream, POLICY).start();
    let query = ask("flaky.test", RecordType::A);
    let heard = query.udp(&server);
    assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![9]));
    for heard in [query.udp(&server), query.tcp(&server)] {
        // RFC 9520 §3.1, RFC 8914 §4.14.
        assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![13, 9]));
    }
    assert_eq!(upstream.count("flaky.test"), 1);
    assert_eq!(server.metric("hostgate_cached_failures_total", &[]), 2);
    assert_eq!(server.metric("hostgate_failed_answers_total", &[]), 3);
    assert_eq!(server.status()["upstreams"][0]["state"], "new", "the name's doing, not the upstream's");
    // Another question is another matter.
    ask("flaky.test", RecordType::AAAA).udp(&server);
    assert_eq!(upstream.count("flaky.test"), 2);
}

#[test]
fn silence_is_cached_for_a_second() {
    let upstream = FakeUpstream::start();
    upstream.on("flaky.test", Reply::silence());
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 200").start();
    let query = ask("flaky.test", RecordType::A);
    assert_eq!(query.udp(&server).ede_codes(), [22]);
    let asked = upstream.count("flaky.test");
    upstream.on("flaky.test", Answer::new().a("flaky.test", GLOBAL));
    assert_eq!(query.udp(&server).ede_codes(), [22, 13]);
    assert_eq!(upstream.count("flaky.test"), asked);
    server.until("asked again", || (query.udp(&server).addresses() == [std::net::IpAddr::from(GLOBAL)]).then_some(()));
}

#[test]
fn do_and_cd_are_cached_apart_and_case_is_not() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let plain = ask("name.test", RecordType::A);
    let variants = [
        plain.clone(),
        plain.clone().dnssec_ok(),
        plain.clone().checking_disabled(),
        plain.clone().checking_disabled().dnssec_ok(),
    ];
    for _ in 0..2 {
        for query in &variants {
            query.udp(&server);
        }
    }
    assert_eq!(upstream.total(), 4);
    ask("NAME.Test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    plain.clone().no_edns().udp(&server).expect_addresses(&[GLOBAL.into()]);
    plain.payload(512).option(10, &[1; 8]).tcp(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(upstream.total(), 4, "case, payload size, options and transport do not matter");
}

#[test]
fn identical_questions_in_flight_are_asked_once() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 8000").start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let names = ["held.test", "HELD.test", "Held.Test"];
    for id in 0..30_u16 {
        let query = ask(names[usize::from(id) % 3], RecordType::A).id(id);
        let query = if id % 2 == 0 { query.no_edns() } else { query };
        socket.send(&query.bytes()).unwrap();
    }
    let tcp = std::thread::scope(|scope| {
        let tcp = scope.spawn(|| ask("held.test", RecordType::A).tcp(&server));
        server.until("the question reaches the upstream", || (upstream.count("held.test") > 0).then_some(()));
        // The server has read all 31 when it has answered a later question, or soon after.
        ask("other.test", RecordType::A).udp(&server);
        gate.open();
        tcp.join().unwrap()
    });
    tcp.expect_addresses(&[GLOBAL.into()]);
    let mut ids: Vec<u16> = (0..30)
        .map(|_| {
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer).expect("every asker gets its answer");
            let heard = Heard::read(buffer[..length].to_vec());
            heard.expect_addresses(&[GLOBAL.into()]);
            let id = heard.message.metadata.id;
            assert_eq!(heard.message.edns.is_some(), id % 2 == 1, "each by its own EDNS");
            let qname = heard.message.queries[0].name().to_ascii();
            assert_eq!(qname.trim_end_matches('.'), names[usize::from(id) % 3], "each with its own case");
            id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..30).collect::<Vec<_>>());
    assert_eq!(questions(&upstream, &server, "held.test"), 1);
}

#[test]
fn client_that_leaves_does_not_take_the_others_answer_along() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 8000").start();
    // The first asker comes over TCP and goes away at once.
    let mut stream = client::tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
    std::io::Write::write_all(&mut stream, &client::framed(&ask("held.test", RecordType::A).bytes())).unwrap();
    server.until("the question reaches the upstream", || (upstream.count("held.test") > 0).then_some(()));
    drop(stream);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| ask("held.test", RecordType::A).udp(&server));
        ask("other.test", RecordType::A).udp(&server);
        gate.open();
        other.join().unwrap().expect_addresses(&[GLOBAL.into()]);
    });
    assert_eq!(questions(&upstream, &server, "held.test"), 1);
}

#[test]
fn stale_data_is_served_only_while_the_upstream_fails() {
    let upstream = FakeUpstream::start();
    upstream.on("stale.test", Reply::first_then(Answer::new().ttl(1).a("stale.test", GLOBAL), Reply::silence()));
    let server =
        Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 300").table("[cache]\nserve_stale = 3600").start();
    ask("stale.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let heard = server.until("stale data", || {
        let heard = ask("stale.test", RecordType::A).udp(&server);
        heard.expect_addresses(&[GLOBAL.into()]);
        (!heard.edes().is_empty()).then_some(heard)
    });
    assert_eq!((heard.ttl(), heard.ede_codes()), (30, vec![3]), "RFC 8767 §4, RFC 8914 §4.4");
    assert!(server.metric("hostgate_cache_stale_total", &[]) >= 1);
    // A failed refresh keeps the next one away for a while (RFC 8767 §5): stale data comes at once.
    let asked = upstream.count("stale.test");
    for _ in 0..20 {
        assert_eq!(ask("stale.test", RecordType::A).udp(&server).ede_codes(), [3]);
    }
    assert_eq!(upstream.count("stale.test"), asked);
}

#[test]
fn stale_data_comes_before_clients_give_up_and_the_question_goes_on() {
    for tcp in [false, true] {
        let upstream = FakeUpstream::start();
        let second = Answer::new().a("slow.test", GLOBAL_2);
        let later = Reply::late(Duration::from_secs(3), second);
        upstream.on("slow.test", Reply::first_then(Answer::new().ttl(1).a("slow.test", GLOBAL), later));
        let server = Setup::policy(&upstream, POLICY).start();
        let get = || {
            let query = ask("slow.test", RecordType::A);
            let begin = Instant::now();
            let heard = if tcp { query.tcp(&server) } else { query.udp(&server) };
            (heard, begin.elapsed())
        };
        get().0.expect_addresses(&[GLOBAL.into()]);
        let (heard, waited) = server.until("stale data", || {
            let (heard, waited) = get();
            (heard.ede_codes() == [3]).then_some((heard, waited))
        });
        heard.expect_addresses(&[GLOBAL.into()]);
        // RFC 8767 §5; a stub gives up after five seconds.
        assert!((Duration::from_millis(1500)..Duration::from_millis(2900)).contains(&waited), "{waited:?}");
        // The answer that came meanwhile is kept, though nobody waited for it any more.
        server.until("the new answer", || (get().0.addresses() == [std::net::IpAddr::from(GLOBAL_2)]).then_some(()));
        // Tries of one question: three, and two for clients that asked again.
        assert!(upstream.count("slow.test") <= 6, "{}", upstream.count("slow.test"));
    }
}

#[test]
fn stale_data_is_not_served_when_off() {
    let upstream = FakeUpstream::start();
    upstream.on(
        "stale.test",
        Reply::first_then(Answer::new().ttl(1).a("stale.test", GLOBAL), Answer::rcode(ResponseCode::ServFail)),
    );
    let server = Setup::policy(&upstream, POLICY).table("[cache]\nserve_stale = 0").start();
    ask("stale.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.until("SERVFAIL once the record has ended", || {
        let heard = ask("stale.test", RecordType::A).udp(&server);
        assert!(!heard.ede_codes().contains(&3), "{heard:#?}");
        (heard.rcode() == ResponseCode::ServFail).then_some(())
    });
}

#[test]
fn answer_in_use_is_renewed_before_it_expires_and_one_that_is_not_is_left() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    let short = || Answer::new().ttl(10).a("used.test", GLOBAL);
    upstream.on("used.test", Reply::first_then(short(), Reply::held(&gate, short())));
    upstream.on("once.test", Answer::new().ttl(10).a("once.test", GLOBAL));
    let server = Setup::policy(&upstream, POLICY).start();
    let used = ask("used.test", RecordType::A);
    used.udp(&server);
    ask("once.test", RecordType::A).udp(&server);
    used.udp(&server);
    // In the last second: the answer comes at once, though the upstream holds back the next one.
    server.until("renewed", || {
        used.udp(&server).expect_addresses(&[GLOBAL.into()]);
        (upstream.count("used.test") == 2).then_some(())
    });
    gate.open();
    server.until("the new answer", || (used.udp(&server).ttl() > 5).then_some(()));
    assert_eq!(server.metric("hostgate_cache_renewals_total", &[]), 1);
    let upstream_tries = upstream.seen_for("used.test").len();
    assert!(upstream_tries <= 4, "once, but for tries again while it was held: {upstream_tries}");
    assert_eq!(upstream.count("once.test"), 1);
}

#[test]
fn reload_flushes_nothing_and_denies_what_is_cached() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"one.test\", \"two.test\"]").start();
    ask("one.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("two.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.write("test.toml", "[policy.test]\nallowed_hostnames = [\"one.test\"]\n");
    server.wait_generation(2);
    ask("one.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("two.test", RecordType::A).udp(&server).expect_denied();
    assert_eq!(upstream.total(), 2);
}

#[test]
fn cache_keeps_to_its_size() {
    let upstream = FakeUpstream::start();
    let data = [&[255][..], &[b'x'; 255], &[255], &[b'y'; 255], &[255], &[b'z'; 255]].concat();
    upstream.otherwise(Reply::by(move |seen| vec![Answer::new().raw(&seen.qname, 16, &data).to(seen)]));
    let server = Setup::policy(&upstream, POLICY).table("[cache]\nsize_mib = 1").start();
    for number in 0..2_000 {
        ask(&format!("n{number}.test"), RecordType::TXT).udp(&server);
    }
    let before = upstream.total();
    for number in 0..200 {
        ask(&format!("n{number}.test"), RecordType::TXT).udp(&server);
    }
    assert!(upstream.total() > before, "1 MiB does not hold 2,000 answers of 800 octets");
}
