//! Upstreams that are slow are waited for, those known to be dead are not, and an outage that is over leaves nothing behind.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Starts with this policy for all and these servers in order.
fn start(servers: &[&str]) -> Server {
    Setup::new(&[]).servers(servers).file("test.toml", POLICY).top("default_policy = \"test\"").start()
}

/// Asks for a name and returns the answer and how long it took.
fn timed(server: &Server, name: &str) -> (Heard, Duration) {
    let start = Instant::now();
    let heard = ask(name, RecordType::A).udp(server);
    (heard, start.elapsed())
}

#[test]
fn upstream_that_takes_three_seconds_is_waited_for_over_every_transport() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        pause(Duration::from_secs(3));
        vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
    }));
    let address = upstream.address.to_string();
    // Four at once: their silence must not make the upstream dead to one another. Over TCP this upstream takes one by one.
    for (scheme, count) in [("", 4), ("tcp://", 1)] {
        let server = start(&[&format!("{scheme}{address}")]);
        std::thread::scope(|scope| {
            for number in 0..count {
                let server = &server;
                scope.spawn(move || {
                    let query = ask(&format!("n{number}.test"), RecordType::A);
                    let start = Instant::now();
                    let heard = if number % 2 == 0 { query.udp(server) } else { query.tcp(server) };
                    heard.expect_addresses(&[GLOBAL.into()]);
                    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
                });
            }
        });
        // Once more, now that it is known how slow it is.
        timed(&server, "later.test").0.expect_addresses(&[GLOBAL.into()]);
        assert_eq!(server.status()["upstreams"][0]["state"], "up");
    }
}

#[test]
fn client_that_asks_again_joins_its_question_and_both_are_answered() {
    let upstream = FakeUpstream::start();
    upstream.on("slow.test", Reply::late(Duration::from_secs(3), Answer::new().a("slow.test", GLOBAL)));
    let server = start(&[&upstream.address.to_string()]);
    timed(&server, "warm.test").0.expect_addresses(&[GLOBAL.into()]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| timed(&server, "slow.test"));
        server.until("it is asked", || (upstream.count("slow.test") > 0).then_some(()));
        // As glibc with `timeout:1`: the same query again, before the answer is there.
        pause(Duration::from_millis(1500));
        let (heard, taken) = timed(&server, "slow.test");
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(taken < Duration::from_millis(1800), "with the first one's answer: {taken:?}");
        first.join().unwrap().0.expect_addresses(&[GLOBAL.into()]);
    });
    assert!(start.elapsed() < Duration::from_millis(3800), "{:?}", start.elapsed());
    assert!(upstream.count("slow.test") <= 4, "four tries, the last of them for who asks again");
}

#[test]
fn question_whose_tries_were_all_lost_is_asked_once_more_for_a_client_that_asks_again() {
    let (upstream, is_silent) = FakeUpstream::switched();
    // A stub asks again from the same port, so the same thread gets it; here one thread gets all.
    let server =
        Setup::new(&[&upstream]).file("test.toml", POLICY).top("default_policy = \"test\"\nthreads = 1").start();
    timed(&server, "warm.test").0.expect_addresses(&[GLOBAL.into()]);
    is_silent.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| timed(&server, "lost.test"));
        server.until("all tries are made", || (upstream.count("lost.test") == 3).then_some(()));
        pause(Duration::from_millis(1200));
        is_silent.store(false, Ordering::SeqCst);
        let (heard, taken) = timed(&server, "lost.test");
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(taken < Duration::from_millis(500), "{taken:?}");
        first.join().unwrap().0.expect_addresses(&[GLOBAL.into()]);
    });
}

#[test]
fn silent_upstream_is_given_five_seconds_and_one_known_to_be_dead_none() {
    for scheme in ["", "tcp://"] {
        let (upstream, is_silent) = FakeUpstream::switched();
        is_silent.store(true, Ordering::SeqCst);
        let server = start(&[&format!("{scheme}{}", upstream.address)]);
        let (heard, taken) = timed(&server, "first.test");
        assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![22]));
        assert!(taken >= Duration::from_millis(4900) && taken < Duration::from_millis(6500), "{taken:?}");
        // Three names in all, so that it is not one name that takes long.
        std::thread::scope(|scope| {
            for number in 0..2 {
                let server = &server;
                scope.spawn(move || timed(server, &format!("more{number}.test")));
            }
        });
        for number in 0..5 {
            let (heard, taken) = timed(&server, &format!("n{number}.test"));
            assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![22]), "{scheme}{number}");
            assert!(taken < Duration::from_secs(1), "{scheme}{number}: {taken:?}");
            assert!((1..=3).contains(&upstream.count(&format!("n{number}.test"))), "and yet it is asked");
        }
        // It is back with the first answer.
        is_silent.store(false, Ordering::SeqCst);
        let (heard, taken) = timed(&server, "back.test");
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(taken < Duration::from_secs(1), "{taken:?}");
    }
}

#[test]
fn several_dead_upstreams_are_all_tried_and_the_one_that_is_back_answers() {
    let upstreams: Vec<_> = (0..3).map(|_| FakeUpstream::switched()).collect();
    for (_, is_silent) in &upstreams {
        is_silent.store(true, Ordering::SeqCst);
    }
    let addresses: Vec<String> = upstreams.iter().map(|(upstream, _)| upstream.address.to_string()).collect();
    let server = start(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let server = &server;
            scope.spawn(move || timed(server, &format!("n{number}.test")));
        }
    });
    let (heard, taken) = timed(&server, "dead.test");
    assert_eq!(heard.rcode(), ResponseCode::ServFail);
    assert!(taken < Duration::from_secs(1), "{taken:?}");
    for (index, (_, is_silent)) in upstreams.iter().enumerate().rev() {
        is_silent.store(false, Ordering::SeqCst);
        let (heard, taken) = timed(&server, &format!("back{index}.test"));
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(taken < Duration::from_secs(2), "{index}: {taken:?}");
    }
}

#[test]
fn names_that_take_long_do_not_make_an_upstream_dead() {
    let upstream = FakeUpstream::start();
    for number in 0..6 {
        upstream.on(&format!("never{number}.test"), Reply::silence());
    }
    upstream.on("slow.test", Reply::late(Duration::from_secs(1), Answer::new().a("slow.test", GLOBAL)));
    let server = start(&[&upstream.address.to_string()]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..6 {
        socket.send_to(&ask(&format!("never{number}.test"), RecordType::A).bytes(), server.address()).unwrap();
    }
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_millis(2500) {
        // Others are answered meanwhile.
        timed(&server, &format!("n{number}.test")).0.expect_addresses(&[GLOBAL.into()]);
        pause(Duration::from_millis(50));
        number += 1;
    }
    timed(&server, "slow.test").0.expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn failures_of_an_outage_are_forgotten_when_the_upstream_answers_again() {
    for scheme in ["", "tcp://"] {
        let (upstream, is_silent) = FakeUpstream::switched();
        upstream.on("broken.test", Answer::rcode(ResponseCode::ServFail));
        let server = start(&[&format!("{scheme}{}", upstream.address)]);
        timed(&server, "warm.test").0.expect_addresses(&[GLOBAL.into()]);
        is_silent.store(true, Ordering::SeqCst);
        // Asked for again and again: each failure is remembered for longer than the one before.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(12) {
            std::thread::scope(|scope| {
                for number in 0..4 {
                    let server = &server;
                    scope.spawn(move || timed(server, &format!("asked{number}.test")));
                }
            });
            pause(Duration::from_millis(50));
        }
        timed(&server, "broken.test");
        is_silent.store(false, Ordering::SeqCst);
        // Any answer shows that it is back.
        timed(&server, "other.test").0.expect_addresses(&[GLOBAL.into()]);
        for number in 0..4 {
            let (heard, taken) = timed(&server, &format!("asked{number}.test"));
            heard.expect_addresses(&[GLOBAL.into()]);
            assert!(taken < Duration::from_millis(500), "{taken:?}");
        }
    }
}

#[test]
fn name_that_alone_is_asked_for_finds_out_that_the_upstream_is_back() {
    for scheme in ["", "tcp://"] {
        let (upstream, is_silent) = FakeUpstream::switched();
        let server = start(&[&format!("{scheme}{}", upstream.address)]);
        timed(&server, "warm.test").0.expect_addresses(&[GLOBAL.into()]);
        is_silent.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let server = &server;
                scope.spawn(move || timed(server, &format!("other{number}.test")));
            }
        });
        // Every failure in a row is remembered for twice as long: for a second, for two, for four from now on.
        let (begin, asked) = (Instant::now(), || upstream.count("alone.test"));
        while begin.elapsed() < Duration::from_millis(4500) {
            assert_eq!(timed(&server, "alone.test").0.rcode(), ResponseCode::ServFail);
            pause(Duration::from_millis(50));
        }
        // Once a second it is asked for all the same, by one client of them all.
        assert!((4..=15).contains(&asked()), "{scheme}{}", asked());
        is_silent.store(false, Ordering::SeqCst);
        let back = Instant::now();
        while timed(&server, "alone.test").0.rcode() != ResponseCode::NoError {
            assert!(back.elapsed() < Duration::from_secs(2), "{scheme}");
            pause(Duration::from_millis(50));
        }
    }
}

#[test]
fn dead_upstream_that_comes_back_slow_is_waited_for_again() {
    for (scheme, tcp) in [("", false), ("", true), ("tcp://", false)] {
        let (upstream, is_silent) = FakeUpstream::switched();
        let server = start(&[&format!("{scheme}{}", upstream.address)]);
        is_silent.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let server = &server;
                scope.spawn(move || timed(server, &format!("lost{number}.test")));
            }
        });
        let (_, taken) = timed(&server, "dead.test");
        assert!(taken < Duration::from_secs(1), "it is known to be dead: {taken:?}");
        // Longer than a dead upstream is given, so each reply comes when nobody waits for it.
        upstream.otherwise(Reply::late(
            Duration::from_millis(2500),
            Reply::by(|seen| vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]),
        ));
        let mut number = 0;
        let heard = server.until("an answer", || {
            number += 1;
            let query = ask(&format!("back{number}.test"), RecordType::A);
            let heard = if tcp { query.tcp(&server) } else { query.udp(&server) };
            pause(Duration::from_millis(100));
            (heard.rcode() == ResponseCode::NoError).then_some(heard)
        });
        heard.expect_addresses(&[GLOBAL.into()]);
    }
}
