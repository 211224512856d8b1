//! Questions in flight: each is asked once, answers are taken from whom was asked alone, and too much is told at once.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// Returns a socket that talks to the server from this address.
fn socket(server: &Server, source: &str) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Receives one answer.
fn receive(socket: &UdpSocket) -> Heard {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("an answer");
    Heard::read(buffer[..length].to_vec())
}

#[test]
fn one_question_is_asked_once_whatever_thread_and_transport_it_comes_by() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).top("threads = 4").upstream_line("timeout_ms = 8000").start();
    // The kernel spreads the ports over the threads.
    let sockets: Vec<UdpSocket> = (0..40).map(|_| socket(&server, "127.0.0.1")).collect();
    let query = ask("held.test", RecordType::A);
    std::thread::scope(|scope| {
        let tcp: Vec<_> = (0..4).map(|_| scope.spawn(|| query.tcp(&server))).collect();
        for socket in &sockets {
            socket.send(&query.bytes()).unwrap();
        }
        server.wait_metric("hostgate_queries_in_flight", &[], 44);
        gate.open();
        for client in tcp {
            client.join().unwrap().expect_addresses(&[GLOBAL.into()]);
        }
    });
    for socket in &sockets {
        receive(socket).expect_addresses(&[GLOBAL.into()]);
    }
    let again = server.metric("hostgate_upstream_retransmissions_total", &[]);
    assert_eq!(u64::try_from(upstream.count("held.test")).unwrap(), 1 + again, "once, but for what took long");
    assert!(upstream.seen().iter().all(|seen| !seen.tcp));
}

#[test]
fn who_comes_when_too_many_wait_for_a_question_is_told_at_once() {
    // 1,000 wait on the thread that asks and 1,000 elsewhere.
    const WAITING: u64 = 2_000;
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).top("threads = 1").upstream_line("timeout_ms = 20000").start();
    // No client may have so many alone.
    let sockets = [socket(&server, "127.0.0.2"), socket(&server, "127.0.0.3")];
    let query = ask("held.test", RecordType::A).bytes();
    for round in 1..=WAITING / 100 {
        for number in 0..100 {
            sockets[number % 2].send(&query).unwrap();
        }
        server.wait_metric("hostgate_queries_in_flight", &[], round * 100);
    }
    for socket in &sockets {
        let start = Instant::now();
        socket.send(&query).unwrap();
        let heard = receive(socket);
        assert_eq!(heard.rcode(), ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    gate.open();
    receive(&sockets[0]).expect_addresses(&[GLOBAL.into()]);
    // That was our own lack: it is not kept.
    server.until("all are answered", || (server.metric("hostgate_queries_in_flight", &[]) == 0).then_some(()));
    ask("held.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn reply_from_elsewhere_never_arrives() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let evil = Answer::new().a(&seen.qname, GLOBAL_2).to(seen);
        for source in ["127.0.0.1:0", "127.0.0.9:0"] {
            UdpSocket::bind(source).unwrap().send_to(&evil, seen.source).unwrap();
        }
        pause(Duration::from_millis(20));
        vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
    }));
    let server = Setup::policy(&upstream, POLICY).start();
    for number in 0..5 {
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    assert_eq!(server.metric("hostgate_upstream_ignored_total", &[]), 0, "the kernel has dropped them");
}

#[test]
fn refusal_of_the_network_ends_a_question_at_once() {
    let gone = FakeUpstream::start();
    let server = Setup::policy(&gone, POLICY).upstream_line("timeout_ms = 20000").start();
    ask("first.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let address = gone.address;
    drop(gone);
    server.until("its port is free", || UdpSocket::bind(address).ok().map(drop));
    let before = server.metric("hostgate_upstream_retransmissions_total", &[]);
    let start = Instant::now();
    // The socket is connected, so the kernel tells of ICMP.
    assert_eq!(ask("second.test", RecordType::A).udp(&server).ede_codes(), [23]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(server.metric("hostgate_upstream_failures_total", &[("kind", "network")]), 1);
    assert_eq!(server.metric("hostgate_upstream_retransmissions_total", &[]), before);
    assert_eq!(server.status()["upstreams"][0]["state"], "down", "at once");
}
