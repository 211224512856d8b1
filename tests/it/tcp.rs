//! Queries over TCP: several on a connection, answered as they are ready.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::client::{self, framed};
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows `allowed.test` and what is below `wild.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\", \"*.wild.test\"]";

/// Opens a connection to the server.
fn connect(server: &Server) -> TcpStream {
    client::tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap()
}

#[test]
fn several_queries_share_a_tcp_connection() {
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

#[test]
fn hundreds_of_pipelined_queries_are_all_answered() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut stream = client::tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
    let queries: Vec<u8> = (0..400_u16)
        .flat_map(|id| {
            let name = if id % 2 == 0 { format!("n{id}.wild.test") } else { format!("n{id}.denied.example") };
            framed(&ask(&name, RecordType::A).id(id).bytes())
        })
        .collect();
    stream.write_all(&queries).unwrap();
    let mut ids: Vec<u16> = (0..400)
        .map(|_| Heard::read(client::tcp_read(&mut stream).expect("each query is answered")).expect_by_id())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..400).collect::<Vec<_>>());
}

#[test]
fn slow_question_does_not_hold_up_the_next_on_its_connection() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 8000").start();
    let mut stream = connect(&server);
    for (id, name) in [(1, "held.wild.test"), (2, "denied.example"), (3, "allowed.test")] {
        stream.write_all(&framed(&ask(name, RecordType::A).id(id).bytes())).unwrap();
    }
    let mut next = || Heard::read(client::tcp_read(&mut stream).unwrap()).message.metadata.id;
    let mut first = [next(), next()];
    first.sort_unstable();
    assert_eq!(first, [2, 3], "RFC 7766 §6.2.1.1: answers as they are ready");
    gate.open();
    assert_eq!(next(), 1);
}

#[test]
fn client_that_is_done_sending_still_gets_its_answers() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for name in ["allowed.test", "slow.wild.test", "denied.example"] {
        upstream.on("slow.wild.test", Reply::late(std::time::Duration::from_millis(300), Answer::new()));
        let mut stream = connect(&server);
        stream.write_all(&framed(&ask(name, RecordType::A).bytes())).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        client::tcp_read(&mut stream).unwrap_or_else(|error| panic!("{name}: {error}"));
        let end = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{name}: then it is closed: {end:?}");
    }
}

#[test]
fn question_in_flight_is_answered_when_the_server_ends() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let mut server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 8000").start();
    let mut stream = connect(&server);
    stream.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    udp.send_to(&ask("held.wild.test", RecordType::A).bytes(), server.address()).unwrap();
    server.until("in flight", || (upstream.total() > 0).then_some(()));
    // A later answer says that the UDP question has been read as well.
    ask("denied.example", RecordType::A).udp(&server);
    server.signal("TERM");
    server.until("it is going", || {
        (server.log_lines(&[]).iter().any(|line| line.contains("stop") || line.contains("end"))).then_some(())
    });
    gate.open();
    Heard::read(client::tcp_read(&mut stream).expect("the TCP question is answered"))
        .expect_addresses(&[GLOBAL.into()]);
    udp.recv(&mut [0; 2048]).expect("the UDP question is answered");
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn full_house_makes_room_by_closing_the_longest_idle() {
    const SEATS: u16 = 1024;
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 8000").start();
    let from =
        |client: u16| client::tcp_connect([127, 0, 3, u8::try_from(client / 64).unwrap()].into(), server.address());
    // The oldest has a query in flight; all others are idle.
    let mut busy = from(0).unwrap();
    busy.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
    server.wait_metric("hostgate_queries_in_flight", &[], 1);
    let mut idle: Vec<TcpStream> = (1..SEATS)
        .map(|client| {
            let mut stream = from(client).unwrap();
            if client <= 3 {
                // In this order they begin to be idle.
                stream.write_all(&framed(&ask("denied.example", RecordType::A).bytes())).unwrap();
                client::tcp_read(&mut stream).unwrap();
            }
            stream
        })
        .collect();
    server.wait_metric("hostgate_tcp_connections", &[], SEATS.into());
    for round in 0..2 {
        // Each comes from a client of its own, and goes again only after it was served.
        let query = ask("denied.example", RecordType::A).from(&format!("127.0.4.{round}"));
        query.tcp(&server).expect_denied();
    }
    let closed = server.metric("hostgate_tcp_closed_total", &[("reason", "idle")]);
    assert!((1..=2).contains(&closed), "one for each that found no place: {closed}");
    for stream in &mut idle {
        stream.set_nonblocking(true).unwrap();
    }
    let is_open = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    let open: Vec<bool> = idle.iter_mut().map(is_open).collect();
    let first_open = open.iter().position(|open| *open).unwrap();
    assert_eq!(u64::try_from(first_open).unwrap(), closed, "those that had been idle the longest");
    assert!(open[first_open..].iter().all(|open| *open), "and nobody else");
    gate.open();
    Heard::read(client::tcp_read(&mut busy).expect("a busy one is never closed")).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn client_with_too_many_connections_closes_none_of_another() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut other = client::tcp_connect([127, 0, 0, 9].into(), server.address()).unwrap();
    let held: Vec<TcpStream> = (0..70).map(|_| connect(&server)).collect();
    server.wait_metric("hostgate_tcp_closed_total", &[("reason", "client")], 6);
    assert_eq!(server.metric("hostgate_tcp_connections", &[]), 65, "64 of the one and the other's");
    other.write_all(&framed(&ask("denied.example", RecordType::A).bytes())).unwrap();
    Heard::read(client::tcp_read(&mut other).unwrap()).expect_denied();
    drop(held);
}

#[test]
fn want_of_descriptors_neither_spins_nor_lasts() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let setup = Setup::policy(&upstream, POLICY).top("threads = 1").upstream_line("timeout_ms = 9000");
    let server = setup.open_files(64).start();
    // Busy ones, so that none can be closed for another.
    let busy = |number: u8| {
        let mut stream = client::tcp_connect([127, 0, 3, number].into(), server.address()).unwrap();
        stream.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
        stream
    };
    // What goes upstream needs a descriptor, too: it has one before there is none left.
    let mut held = vec![busy(0)];
    server.until("it is asked upstream", || (upstream.count("held.wild.test") > 0).then_some(()));
    held.extend((1..100).map(busy));
    // The admin endpoint has no descriptor to spare either, so the process is looked at from outside.
    let before = server.cpu_time();
    pause(std::time::Duration::from_secs(1));
    let spent = server.cpu_time().saturating_sub(before);
    assert!(spent < std::time::Duration::from_millis(300), "it spins: {spent:?} of CPU in a second");
    ask("denied.example", RecordType::A).udp(&server).expect_denied();
    gate.open();
    for stream in &mut held[..20] {
        Heard::read(client::tcp_read(stream).unwrap()).expect_addresses(&[GLOBAL.into()]);
    }
    held.drain(..20);
    let last = held.last_mut().unwrap();
    Heard::read(client::tcp_read(last).expect("it gets its turn")).expect_addresses(&[GLOBAL.into()]);
    drop(held);
    ask("denied.example", RecordType::A).tcp(&server).expect_denied();
    assert!(server.metric("hostgate_tcp_accepts_failed_total", &[]) > 0);
}

#[test]
fn connection_that_has_just_come_is_served_when_the_server_ends() {
    let upstream = FakeUpstream::start();
    let mut server = Setup::policy(&upstream, POLICY).start();
    let mut kept = connect(&server);
    kept.write_all(&framed(&ask("denied.example", RecordType::A).bytes())).unwrap();
    client::tcp_read(&mut kept).unwrap();
    // While it stands still, queries come on old and new connections, and the signal.
    server.signal("STOP");
    let mut streams = vec![kept];
    streams.extend((0..20).map(|_| connect(&server)));
    for stream in &mut streams {
        for id in 0..3 {
            stream.write_all(&framed(&ask("allowed.test", RecordType::A).id(id).bytes())).unwrap();
        }
    }
    server.signal("TERM");
    server.signal("CONT");
    for (number, stream) in streams.iter_mut().enumerate() {
        for _ in 0..3 {
            let answer = client::tcp_read(stream).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            Heard::read(answer).expect_addresses(&[GLOBAL.into()]);
        }
    }
    assert_eq!(server.wait_exit().code(), Some(0));
}
