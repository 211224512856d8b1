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
        .map(|_| {
            let heard = Heard::read(client::tcp_read(&mut stream).expect("each query is answered"));
            let id = heard.message.metadata.id;
            if id.is_multiple_of(2) {
                heard.expect_addresses(&[GLOBAL.into()]);
            } else {
                heard.expect_denied();
            }
            id
        })
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
