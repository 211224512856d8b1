//! Upstreams that go and come back: questions wait for one that is started again, and operators are told.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Returns a setup with this policy for all and these servers in order.
fn setup(servers: &[&str]) -> Setup {
    Setup::new(&[]).servers(servers).file("test.toml", POLICY).top("default_policy = \"test\"")
}

/// Starts an upstream at an address of this module's own, once what was there before is gone.
fn upstream_at(address: &str) -> FakeUpstream {
    until("the address is free", || std::net::UdpSocket::bind(address).is_ok().then_some(()));
    FakeUpstream::at(address)
}

/// Ends an upstream and waits until its port is closed.
fn end(upstream: FakeUpstream) {
    let address = upstream.address;
    drop(upstream);
    until("the port is closed", || {
        (std::net::UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok()).then_some(())
    });
}

#[test]
fn questions_wait_for_an_upstream_whose_port_is_closed_for_a_moment() {
    // The servers, which of them are closed, and for how long.
    let cases: [(&str, &[&str], u64); 5] = [
        ("127.77.1.1:5391", &[""], 300),
        ("127.77.1.2:5391", &[""], 2500),
        ("127.77.1.3:5391", &["tcp://"], 300),
        ("127.77.1.4:5391", &["", "127.77.99.1:5391"], 300),
        ("127.77.1.5:5391", &["", "127.77.99.2:5391", "tcp://127.77.99.3:5391", "127.77.99.4:5391"], 1000),
    ];
    thread::scope(|scope| {
        for (address, others, closed_for) in cases {
            scope.spawn(move || {
                let upstream = upstream_at(address);
                let mut servers = vec![format!("{}{address}", others[0])];
                servers.extend(others[1..].iter().map(|&other| other.to_owned()));
                let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
                let server = setup(&servers).start();
                ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
                end(upstream);
                thread::scope(|clients| {
                    for number in 0..30 {
                        let server = &server;
                        clients.spawn(move || {
                            let query = ask(&format!("n{number}.test"), RecordType::A);
                            let begin = Instant::now();
                            let heard = if number % 3 == 0 { query.tcp(server) } else { query.udp(server) };
                            assert_eq!(heard.rcode(), ResponseCode::NoError, "{address}: {number}: {heard:#?}");
                            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
                        });
                    }
                    pause(Duration::from_millis(closed_for));
                    clients.spawn(|| {
                        let _upstream = upstream_at(address);
                        server.until("all are answered", || {
                            (server.metric("hostgate_queries_in_flight", &[]) == 0).then_some(())
                        });
                    });
                });
                assert_eq!(server.metric("hostgate_failed_answers_total", &[]), 0, "{address}");
                assert_eq!(server.log_lines(&["upstream gone"]), [""; 0], "{address}: that is no outage");
            });
        }
    });
}

#[test]
fn other_upstream_is_asked_at_once_when_a_port_is_closed() {
    let (first, second) = (upstream_at("127.77.2.1:5391"), FakeUpstream::start());
    let server = setup(&["127.77.2.1:5391", &second.address.to_string()]).start();
    ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    end(first);
    for number in 0..20 {
        let begin = Instant::now();
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
    }
}

#[test]
fn outage_of_the_only_upstream_is_told_when_it_begins_and_when_it_ends() {
    let address = "127.77.3.1:5391";
    let upstream = upstream_at(address);
    let server = setup(&[address]).start();
    ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let up = server.status();
    assert!(up["upstream_error"].is_null() && up["upstreams"][0]["trouble"].is_null(), "{up}");
    end(upstream);
    let begin = Instant::now();
    assert_eq!(ask("one.test", RecordType::A).udp(&server).ede_codes(), [23]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    server.wait_log(&["ERROR", "no upstream answers", address]);
    server.wait_log(&["WARN", "upstream gone", address, "unreachable"]);
    let told = server.status();
    let error = told["upstream_error"].as_str().unwrap();
    assert!(error.contains(address) && error.contains("unreachable"), "{error}");
    let first = &told["upstreams"][0];
    assert_eq!((&first["state"], &first["gone"], &first["outages"]), (&"down".into(), &true.into(), &1.into()));
    assert!(first["since"].as_str().is_some_and(|since| since >= up["loaded_at"].as_str().unwrap()), "{first}");
    assert_eq!(server.metric("hostgate_upstream_ok", &[]), 0);
    assert_eq!(server.metric("hostgate_upstream_gone", &[("server", address)]), 1);
    // Known to be dead: what fails now fails at once.
    for number in 0..5 {
        let begin = Instant::now();
        assert_eq!(ask(&format!("n{number}.test"), RecordType::A).udp(&server).rcode(), ResponseCode::ServFail);
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    let _upstream = upstream_at(address);
    ask("back.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let line = server.wait_log(&["INFO", "upstream answers again", address, "seconds="]);
    assert!(line.contains("unanswered=6"), "{line}");
    server.wait_log(&["WARN", "upstreams answer again", "unanswered=6"]);
    let told = server.status();
    assert!(told["upstream_error"].is_null() && told["upstreams"][0]["trouble"].is_null(), "{told}");
    assert_eq!((server.metric("hostgate_upstream_ok", &[]), server.log_lines(&["upstream gone"]).len()), (1, 1));
    assert_eq!(server.metric("hostgate_upstream_outages_total", &[("server", address)]), 1);
}

#[test]
fn outage_by_silence_of_one_of_two_upstreams_is_told_and_costs_nobody_an_answer() {
    let (first, is_silent) = FakeUpstream::switched();
    let second = FakeUpstream::start();
    let server = setup(&[&first.address.to_string(), &second.address.to_string()]).start();
    ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    is_silent.store(true, Ordering::SeqCst);
    let mut number = 0;
    let mut some = || {
        number += 1;
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    };
    let address = first.address.to_string();
    until_within(Duration::from_secs(30), || {
        some();
        server.log_lines(&["WARN", "upstream gone", &address, "silent", "others=1"]).pop()
    })
    .expect("the outage is told");
    assert!(server.status()["upstream_error"].is_null(), "the other one answers");
    is_silent.store(false, Ordering::SeqCst);
    until_within(Duration::from_secs(40), || {
        some();
        server.log_lines(&["INFO", "upstream answers again", &address, "unanswered=0"]).pop()
    })
    .expect("the return is told");
    assert_eq!(server.log_lines(&["no upstream answers"]), [""; 0]);
}

#[test]
fn one_that_answers_is_found_among_many_that_do_not() {
    // Sockets that are there and never read: silence, over TCP too.
    let silent: Vec<_> = (0..49).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let silent_tcp: Vec<_> = (0..9).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let living = FakeUpstream::start();
    for scheme in ["", "tcp://"] {
        let mut servers: Vec<String> = if scheme.is_empty() {
            silent.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect()
        } else {
            silent_tcp.iter().map(|socket| format!("tcp://{}", socket.local_addr().unwrap())).collect()
        };
        servers.push(format!("{scheme}{}", living.address));
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        let server = setup(&servers).start();
        for number in 0..8 {
            let begin = Instant::now();
            ask(&format!("{}{number}.test", scheme.trim_end_matches("://")), RecordType::A)
                .udp(&server)
                .expect_addresses(&[GLOBAL.into()]);
            assert!(begin.elapsed() < Duration::from_millis(1200), "{scheme}{number}: {:?}", begin.elapsed());
        }
        let begin = Instant::now();
        ask(&format!("last{}.test", servers.len()), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(begin.elapsed() < Duration::from_millis(250), "{scheme}: {:?}", begin.elapsed());
    }
}

#[test]
fn upstream_that_flaps_does_not_flood_the_log() {
    let address = "127.77.4.1:5391";
    let server = setup(&[address]).start();
    let begin = Instant::now();
    let mut number = 0;
    // Closed and open every few hundred milliseconds: nothing of that is an outage.
    while begin.elapsed() < Duration::from_secs(8) {
        let upstream = upstream_at(address);
        for _ in 0..3 {
            number += 1;
            ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        }
        end(upstream);
        pause(Duration::from_millis(100));
    }
    assert!(number > 20, "{number}");
    assert_eq!(server.log_lines(&["upstream gone"]), [""; 0]);
}
