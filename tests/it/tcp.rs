//! Queries over TCP: several on a connection, answered as they are ready.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::client::{self, framed};
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows `allowed.test` and what is below `wild.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\", \"*.wild.test\"]\nbudget = \"off\"";

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

/// Returns the policy and clients `a` to `x`, one to each address 127.0.5.1 to 127.0.5.24.
fn clients(upstream: &FakeUpstream) -> Setup {
    let mut clients = String::new();
    for (id, last) in (b'a'..=b'x').map(char::from).zip(1..) {
        writeln!(clients, "[client.{id}]\npolicy = \"test\"\nsources = [\"127.0.5.{last}\"]").unwrap();
    }
    Setup::policy(upstream, POLICY).file("clients.toml", clients)
}

/// Opens a connection from one of the addresses 127.0.5.1 and so on.
fn connect_as(server: &Server, client: u8) -> TcpStream {
    client::tcp_connect([127, 0, 5, client].into(), server.address()).unwrap()
}

/// Asks over a connection for a denied name and reads the answer.
fn exchange(stream: &mut TcpStream) -> io::Result<Heard> {
    stream.write_all(&framed(&ask("denied.example", RecordType::A).bytes()))?;
    client::tcp_read(stream).map(Heard::read)
}

/// Returns whether the server has not closed a connection on which it sends nothing.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The connections that a client gets alone: of 1,024, 128 are for others, and as many as it has are left free.
const SHARE: usize = (1024 - 128) / 2;

#[test]
fn client_at_its_share_loses_its_own_longest_idle_connection() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let server = clients(&upstream).upstream_line("timeout_ms = 8000").start();
    // The oldest connection of all is another client's and idle.
    let mut other = connect_as(&server, 2);
    exchange(&mut other).unwrap().expect_denied();
    // The client's oldest has a query in flight; its other ones are idle.
    let mut busy = connect_as(&server, 1);
    busy.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
    server.wait_metric("hostgate_queries_in_flight", &[], 1);
    let mut idle: Vec<TcpStream> = (1..SHARE).map(|_| connect_as(&server, 1)).collect();
    for stream in &mut idle[..3] {
        // In this order they begin to be idle.
        exchange(stream).unwrap().expect_denied();
    }
    server.wait_metric("hostgate_tcp_connections", &[], (SHARE + 1).try_into().unwrap());
    let closed = server.metric("hostgate_tcp_closed_total", &[("reason", "idle")]);
    let mut more: Vec<TcpStream> = (0..4).map(|_| connect_as(&server, 1)).collect();
    for stream in &mut more {
        exchange(stream).unwrap().expect_denied();
    }
    assert_eq!(server.metric("hostgate_tcp_closed_total", &[("reason", "idle")]), closed + 4);
    assert_eq!(server.metric("hostgate_tcp_closed_total", &[("reason", "client")]), 0);
    let open = idle.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
    assert_eq!(open, idle.len() - 4 - usize::try_from(closed).unwrap());
    exchange(&mut other).expect("another client's is never closed").expect_denied();
    gate.open();
    Heard::read(client::tcp_read(&mut busy).expect("a busy one is never closed")).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn client_whose_share_is_busy_gets_no_more_and_others_do() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let server = clients(&upstream).upstream_line("timeout_ms = 20000").start();
    let mut busy: Vec<TcpStream> = (0..SHARE).map(|_| connect_as(&server, 1)).collect();
    for stream in &mut busy {
        stream.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
    }
    server.wait_metric("hostgate_queries_in_flight", &[], SHARE.try_into().unwrap());
    let mut refused = connect_as(&server, 1);
    assert!(client::is_closed_within(&mut refused, DEADLINE));
    assert_eq!(server.metric("hostgate_tcp_closed_total", &[("reason", "client")]), 1);
    let start = std::time::Instant::now();
    for victim in 2..10 {
        exchange(&mut connect_as(&server, victim)).unwrap().expect_denied();
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "nobody waits for it: {:?}", start.elapsed());
    gate.open();
    for stream in &mut busy {
        Heard::read(client::tcp_read(stream).unwrap()).expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn greedy_clients_with_busy_connections_shut_out_nobody() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    let server = clients(&upstream).upstream_line("timeout_ms = 20000").start();
    let mut held = Vec::new();
    for attacker in 1..=23 {
        let name = format!("held{attacker}.wild.test");
        upstream.on(&name, Reply::held(&gate, Answer::new().a(&name, GLOBAL)));
        for _ in 0..64 {
            // Those that are refused are closed at once, perhaps before this arrives.
            let mut stream = connect_as(&server, attacker);
            let _ = stream.write_all(&framed(&ask(&name, RecordType::A).bytes()));
            held.push(stream);
        }
    }
    let mut at_once: Vec<TcpStream> = (0..4).map(|_| connect_as(&server, 24)).collect();
    let lost = at_once.iter_mut().filter_map(|stream| exchange(stream).err()).count();
    assert_eq!(lost, 0, "of 4 at once");
    assert!(server.metric("hostgate_tcp_closed_total", &[("reason", "client")]) > 0);
    gate.open();
}

#[test]
fn half_sent_queries_starve_nobody_and_end_after_five_seconds() {
    let upstream = FakeUpstream::start();
    let server = clients(&upstream).start();
    let query = framed(&ask("denied.example", RecordType::A).bytes());
    let parts = [&query[..1], &query[..2], &query[..query.len() / 2]];
    let start = std::time::Instant::now();
    let mut held = Vec::new();
    for attacker in 1..=23 {
        for number in 0..64 {
            // Those that are refused are closed at once, perhaps before this arrives.
            let mut stream = connect_as(&server, attacker);
            let _ = stream.write_all(parts[number % 3]);
            held.push(stream);
        }
    }
    let filled = start.elapsed();
    let lost = (0..6).filter(|_| exchange(&mut connect_as(&server, 24)).is_err()).count();
    assert_eq!(lost, 0, "of 6");
    let mut at_once: Vec<TcpStream> = (0..4).map(|_| connect_as(&server, 24)).collect();
    let lost = at_once.iter_mut().filter_map(|stream| exchange(stream).err()).count();
    assert_eq!(lost, 0, "of 4 at once");
    // One of the attackers asks as well.
    exchange(&mut connect_as(&server, 1)).unwrap().expect_denied();
    assert!(start.elapsed() < filled + std::time::Duration::from_secs(2), "nobody waited: {:?}", start.elapsed());
    // However slowly it goes on.
    let mut slow = connect_as(&server, 24);
    let begun = std::time::Instant::now();
    let mut octets = query.iter();
    while begun.elapsed() < DEADLINE && octets.next().is_some_and(|octet| slow.write_all(&[*octet]).is_ok()) {
        if client::is_closed_within(&mut slow, std::time::Duration::from_secs(1)) {
            break;
        }
    }
    let taken = begun.elapsed();
    assert!((4..8).contains(&taken.as_secs()), "five seconds from the first octet: {taken:?}");
    server.until("all are closed", || (server.metric("hostgate_tcp_connections", &[]) == 0).then_some(()));
    drop(held);
}

#[test]
fn connection_whose_answers_are_not_read_gives_way_and_is_closed() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let text = [vec![250], vec![b'x'; 250]].concat().repeat(60);
    let long = (0..4).fold(Answer::new(), |answer, _| answer.raw("long.wild.test", 16, &text));
    upstream.on("long.wild.test", Reply::by_transport(Answer::new().truncated(), long));
    let server = clients(&upstream).upstream_line("timeout_ms = 20000").start();
    ask("long.wild.test", RecordType::TXT).tcp(&server);
    let mut busy: Vec<TcpStream> = (0..SHARE - 20).map(|_| connect_as(&server, 1)).collect();
    for stream in &mut busy {
        stream.write_all(&framed(&ask("held.wild.test", RecordType::A).bytes())).unwrap();
    }
    server.wait_metric("hostgate_queries_in_flight", &[], busy.len().try_into().unwrap());
    let query = framed(&ask("long.wild.test", RecordType::TXT).bytes()).repeat(400);
    let start = std::time::Instant::now();
    let mut unread: Vec<TcpStream> = (0..20).map(|_| connect_as(&server, 1)).collect();
    for stream in &mut unread {
        stream.set_nonblocking(true).unwrap();
        // As much as it takes, until nothing is read from it any more.
        let _ = stream.write(&query);
    }
    exchange(&mut connect_as(&server, 24)).unwrap().expect_denied();
    server.until("one of its own gives way", || exchange(&mut connect_as(&server, 1)).ok());
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "before its time is over: {:?}", start.elapsed());
    server.until("all are closed", || {
        (server.metric("hostgate_tcp_connections", &[]) <= busy.len().try_into().unwrap()).then_some(())
    });
    gate.open();
    for stream in &mut busy {
        Heard::read(client::tcp_read(stream).unwrap()).expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn host_of_a_network_takes_no_idle_connection_of_its_neighbour() {
    let upstream = FakeUpstream::start();
    let network = "[client.network]\npolicy = \"test\"\nsources = [\"127.9.0.0/16\"]\n";
    let server = Setup::policy(&upstream, POLICY).file("clients.toml", network).start();
    let from = |last: u8| client::tcp_connect([127, 9, last, 1].into(), server.address()).unwrap();
    let mut neighbour = from(1);
    exchange(&mut neighbour).unwrap().expect_denied();
    // More than 64 of a client and of a host.
    let mut held: Vec<TcpStream> = (0..SHARE + 50).map(|_| from(2)).collect();
    exchange(held.last_mut().unwrap()).unwrap().expect_denied();
    for last in 3..20 {
        exchange(&mut from(last)).unwrap().expect_denied();
    }
    exchange(&mut neighbour).unwrap().expect_denied();
    assert_eq!(server.metric("hostgate_tcp_closed_total", &[("reason", "client")]), 0);
}

#[test]
fn want_of_descriptors_neither_spins_nor_lasts() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.wild.test", Reply::held(&gate, Answer::new().a("held.wild.test", GLOBAL)));
    let setup = Setup::policy(&upstream, POLICY).top("threads = 1").upstream_line("timeout_ms = 9000");
    let server = setup.start();
    // The bounds follow the limit that there is at start; this one comes later.
    server.limit("--nofile=80");
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
