//! A second hostgate takes over: no query is lost, and a bad one changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::support::load::Load;
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// A server that can be taken over from.
fn server(upstream: &FakeUpstream) -> Server {
    let server = Setup::policy(upstream, POLICY).top("takeover = \"takeover\"").start();
    server.keep_addresses();
    server
}

#[test]
fn no_query_is_lost_while_two_take_over_one_after_the_other() {
    const QUERIES: [(&str, ResponseCode); 4] = [
        ("a.test", ResponseCode::NoError),
        ("denied.example", ResponseCode::NXDomain),
        ("b.test", ResponseCode::NoError),
        ("slow.test", ResponseCode::NoError),
    ];
    let upstream = FakeUpstream::start();
    // Never cached, so that at any time some queries wait for the upstream.
    upstream.on("slow.test", Reply::late(Duration::from_millis(20), Answer::new().ttl(0).a("slow.test", GLOBAL)));
    let mut first = server(&upstream);
    let (address, admin) = (first.address(), first.admin());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = Load::start(scope, address, &QUERIES, &stop);
        // Let it flow, before, between and after.
        let flow = |server: &Server| {
            let before = server.metric("hostgate_queries_total", &[]);
            server.wait_metric("hostgate_queries_total", &[], before + 1000);
        };
        flow(&first);
        let mut second = first.successor();
        assert_eq!((second.address(), second.admin()), (address, admin), "the same sockets");
        assert_eq!(first.wait_exit().code(), Some(0));
        flow(&second);
        let third = second.successor();
        assert_eq!(second.wait_exit().code(), Some(0));
        flow(&third);
        let sent = load.stop();
        assert!(sent.iter().all(|sent| *sent > 100), "{sent:?}");
        assert!(third.log_lines(&["unanswered"]).is_empty() && second.log_lines(&["unanswered"]).is_empty());
    });
    assert_eq!(first.wait_log(&["stopping"]).matches("taken over").count(), 1);
}

#[test]
fn what_is_in_flight_is_answered_by_the_one_that_was_asked() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let mut first =
        Setup::policy(&upstream, POLICY).top("takeover = \"takeover\"").upstream_line("timeout_ms = 10000").start();
    first.keep_addresses();
    let address = first.address();
    thread::scope(|scope| {
        let udp = scope.spawn(move || ask("held.test", RecordType::A).udp_to(address).unwrap());
        let tcp = scope.spawn(move || ask("held.test", RecordType::A).tcp_to(address).unwrap());
        first.until("both wait", || (first.metric("hostgate_queries_in_flight", &[]) == 2).then_some(()));
        let second = first.successor();
        first.wait_log(&["stopping"]);
        ask("new.test", RecordType::A).udp(&second).expect_addresses(&[GLOBAL.into()]);
        gate.open();
        udp.join().unwrap().expect_addresses(&[GLOBAL.into()]);
        tcp.join().unwrap().expect_addresses(&[GLOBAL.into()]);
        assert_eq!(first.wait_exit().code(), Some(0));
    });
}

#[test]
fn successor_with_a_bad_file_takes_nothing_over() {
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    server.write("bad.toml", "[policy.bad]\nallowed_hostnames = [\"*\"]\n");
    server.refused_successor().expect_code(78).expect_text(&["bad.toml:2:"]);
    server.remove("bad.toml");
    // One that gets the sockets and then fails: a listener that cannot be bound.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    server.reconfigure("[upstream]", &format!("[[listen]]\naddress = \"{address}\"\n[upstream]"));
    server.refused_successor().expect_code(1).expect_text(&[&address]);
    server.wait_log(&["WARN", "not taken over; serving on"]);
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn successor_that_is_late_hears_that_the_old_one_serves_on() {
    use std::io::{Read, Write};
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    let mut stream = std::os::unix::net::UnixStream::connect(server.directory().join("takeover")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[1]).unwrap();
    // The descriptors that come with it are closed at once.
    assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    until_within(2 * DEADLINE, || (!server.log_lines(&["not taken over; serving on"]).is_empty()).then_some(()))
        .unwrap();
    // What it says now is not heard, and it knows.
    assert!(stream.write_all(b"S").is_err() || stream.read(&mut [0]).is_err());
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    let mut server = server;
    let next = server.successor();
    assert_eq!(server.wait_exit().code(), Some(0));
    ask("a.test", RecordType::A).both(&next).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn taking_over_is_asked_for_and_the_path_is_the_owners() {
    let upstream = FakeUpstream::start();
    let mut server = server(&upstream);
    let path = server.directory().join("takeover");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = server.directory().join("hostgate.toml");
    let plain = run(["serve", "--config", config.to_str().unwrap()]);
    plain.expect_code(1).expect_text(&["another hostgate"]);
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(!path.exists(), "nothing is left behind");
    // With nobody there it starts as ever.
    let next = server.successor();
    ask("a.test", RecordType::A).both(&next).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn one_that_hangs_is_named_when_it_does_not_hand_over() {
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    server.signal("STOP");
    let config = server.directory().join("hostgate.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hostgate"));
    let mut child = command
        .args(["serve", "--takeover", "--config"])
        .arg(config)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = until_within(3 * DEADLINE, || child.try_wait().unwrap()).expect("it ends");
    let told = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    server.signal("CONT");
    assert_eq!(status.code(), Some(1), "{told}");
    for part in
        [format!("process {} there did not answer within 10 s", server.id()), format!("kill -9 {}", server.id())]
    {
        assert!(told.contains(&part), "no `{part}` in {told}");
    }
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn taking_over_needs_a_path() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY).arguments(&["serve", "--takeover"]);
    setup.refused().expect_code(78).expect_text(&["takeover"]);
}

#[test]
fn successor_serves_although_its_predecessor_dies_while_it_hands_over() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY).top("takeover = \"takeover\"");
    let config = setup.directory().join("hostgate.toml");
    let setup = setup.arguments(&["serve", "--takeover", "--config", config.to_str().unwrap()]);
    let path = setup.directory().join("takeover");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let dying = thread::spawn(move || drop((listener.accept().unwrap(), listener)));
    let server = setup.start();
    dying.join().unwrap();
    assert!(!ask("a.test", RecordType::A).udp(&server).addresses().is_empty());
    server.wait_log(&["WARN", "the predecessor ended while it was asked"]);
    // It offers its own sockets.
    let mut server = server;
    let next = server.successor();
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(!ask("a.test", RecordType::A).udp(&next).addresses().is_empty());
}
