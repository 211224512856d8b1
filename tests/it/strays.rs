//! Datagrams at upstream ports that answer nothing in flight: forged ones, and honest ones that come too late.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::upstream::Seen;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"";

/// Asks for so many names below `victim.test` at a steady rate and returns how many had no address for an answer.
fn lost_answers(server: &Server, count: u16, pause_between: Duration) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let receiver = socket.try_clone().unwrap();
    let answered = thread::spawn(move || {
        let mut buffer = [0; 2048];
        let answers = (0..count).map_while(|_| receiver.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        answers.filter(|bytes| Heard::read(bytes.clone()).addresses() == [std::net::IpAddr::from(GLOBAL)]).count()
    });
    for number in 0..count {
        socket.send(&ask(&format!("n{number}.victim.test"), RecordType::A).bytes()).unwrap();
        pause(pause_between);
    }
    usize::from(count) - answered.join().unwrap()
}

/// Asks for names of a client of its own, one after the other and without waiting for answers, until told to stop.
fn attack(server: &Server, limit: usize, pause_between: Duration, stop: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    for number in (0..limit).take_while(|_| !stop.load(Ordering::Relaxed)) {
        let query = ask(&format!("n{number}.evil.test"), RecordType::A).bytes();
        // Nobody reads the answers.
        let _ = socket.send_to(&query, server.address());
        pause(pause_between);
    }
}

/// Starts a server with one thread, so that all questions share its ports.
fn start(upstream: &FakeUpstream) -> Server {
    Setup::policy(upstream, POLICY).top("threads = 1").start()
}

/// Returns a reply with an address after 100 ms: the time that a question is in flight.
fn usual(seen: &Seen) -> Vec<Vec<u8>> {
    pause(Duration::from_millis(100));
    vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
}

#[test]
fn forged_replies_fail_no_question_that_shares_their_port() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        if !seen.qname.ends_with("evil.test") {
            return usual(seen);
        }
        let answer = Answer::new().a(&seen.qname, GLOBAL_2).to(seen);
        let forge = |guess: u8| {
            let mut reply = answer.clone();
            (reply[0], reply[1]) = (reply[0].wrapping_add(guess | 1), guess);
            reply
        };
        if seen.tcp { Vec::new() } else { (0..100).map(forge).collect() }
    }));
    let server = start(&upstream);
    let stop = AtomicBool::new(false);
    let lost = thread::scope(|scope| {
        scope.spawn(|| attack(&server, 1000, Duration::from_millis(20), &stop));
        let lost = lost_answers(&server, 300, Duration::from_millis(10));
        stop.store(true, Ordering::Relaxed);
        lost
    });
    assert!(server.metric("hostgate_upstream_ignored_total", &[]) > 64 * 20, "there were floods");
    assert_eq!(lost, 0, "of 300");
    let asked_again = (0..300).filter(|number| upstream.seen_for(&format!("n{number}.victim.test")).len() > 1).count();
    assert!(asked_again <= 30, "a flood met {asked_again} of another client's questions");
    assert_eq!(server.status()["upstreams"][0]["state"], "up");
}

#[test]
fn question_whose_every_port_is_flooded_is_answered_over_tcp() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let answer = Answer::new().a(&seen.qname, GLOBAL).to(seen);
        if seen.tcp {
            return vec![answer];
        }
        let forged = |guess: u8| [&[answer[0] ^ 0x80, guess], &answer[2..]].concat();
        (0..100).map(forged).collect()
    }));
    let server = start(&upstream);
    for number in 0..20 {
        let name = format!("n{number}.test");
        ask(&name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        let seen = upstream.seen_for(&name);
        assert_eq!(seen.iter().map(|seen| seen.tcp).collect::<Vec<_>>(), [false, false, true], "{seen:?}");
        assert_ne!(seen[0].source.port(), seen[1].source.port(), "a fresh port");
        assert_ne!(seen[0].bytes[..2], seen[1].bytes[..2], "a fresh ID");
        ask(&format!("tcp.{name}"), RecordType::A).tcp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    assert_eq!(server.metric("hostgate_upstream_failures_total", &[]), 0);
    assert_eq!(server.status()["upstreams"][0]["state"], "up");
    assert_eq!(lost_answers(&server, 150, Duration::ZERO), 0, "of 150 at once");
}

#[test]
fn upstream_that_is_clogged_by_the_flood_it_sends_is_asked_over_udp_no_more() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let answer = Answer::new().a(&seen.qname, GLOBAL).to(seen);
        if seen.tcp {
            pause(Duration::from_millis(1200));
            return vec![answer];
        }
        let forged = |guess: u8| [&[answer[0] ^ 0x80, guess], &answer[2..]].concat();
        (0..100).map(forged).collect()
    }));
    let server = start(&upstream);
    for number in 0..3 {
        let name = format!("n{number}.test");
        ask(&name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        let (tcp, udp): (Vec<_>, Vec<_>) = upstream.seen_for(&name).into_iter().partition(|seen| seen.tcp);
        assert!(udp.len() == 2 && (1..=3).contains(&tcp.len()), "{} and {}", udp.len(), tcp.len());
    }
}

#[test]
fn upstream_without_tcp_is_asked_over_udp_again_after_floods() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let serving = serve(socket, &stop, {
        let mut queries = 0;
        move |query, source, socket| {
            queries += 1;
            let reply = address_reply(query);
            if queries > 2 {
                let _ = socket.send_to(&reply, source);
            }
            for guess in 0..100 {
                let _ = socket.send_to(&[&[reply[0] ^ 0x80, guess], &reply[2..]].concat(), source);
            }
            None
        }
    });
    let server = Setup::new(&[])
        .servers(&[&address.to_string()])
        .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
        .top("default_policy = \"test\"")
        .start();
    ask("name.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    stop.store(true, Ordering::Relaxed);
    serving.join().unwrap();
}

#[test]
fn answers_that_come_six_seconds_late_fail_no_question_that_shares_their_port() {
    const LATE: Duration = Duration::from_secs(6);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let serving = serve(socket, &stop, |query, _, _| {
        let is_late = query.windows(4).any(|part| part.eq_ignore_ascii_case(b"evil"));
        Some((if is_late { LATE } else { Duration::from_millis(100) }, address_reply(query)))
    });
    let server = Setup::new(&[])
        .servers(&[&address.to_string()])
        .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
        .top("default_policy = \"test\"\nthreads = 1")
        .start();
    let begin = Instant::now();
    attack(&server, 1900, Duration::from_micros(500), &AtomicBool::new(false));
    pause(LATE.saturating_sub(Duration::from_millis(200)).saturating_sub(begin.elapsed()));
    let lost = lost_answers(&server, 300, Duration::from_millis(10));
    let retransmitted = server.metric("hostgate_upstream_retransmissions_total", &[]);
    assert!(retransmitted > 3000, "the questions were given up: {retransmitted}");
    assert_eq!(lost, 0, "of 300");
    assert_eq!(server.metric("hostgate_upstream_ignored_total", &[]), 0, "none of them is a guess");
    stop.store(true, Ordering::Relaxed);
    serving.join().unwrap();
}

/// A reply, when to send it and where to.
type Due = (Instant, SocketAddr, Vec<u8>);

/// Starts a thread that hands queries to `answer` and sends the replies it returns once their time has come, in order of
/// their times, until told to stop.
fn serve(
    socket: UdpSocket,
    stop: &Arc<AtomicBool>,
    mut answer: impl FnMut(&[u8], SocketAddr, &UdpSocket) -> Option<(Duration, Vec<u8>)> + Send + 'static,
) -> thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    // Of each delay the replies are in order; there are few different ones.
    let mut queues: Vec<(Duration, VecDeque<Due>)> = Vec::new();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, source)) = socket.recv_from(&mut buffer)
                && let Some((delay, reply)) = answer(&buffer[..length], source, &socket)
            {
                let due = (Instant::now() + delay, source, reply);
                match queues.iter_mut().find(|(other, _)| *other == delay) {
                    Some((_, queue)) => queue.push_back(due),
                    None => queues.push((delay, VecDeque::from([due]))),
                }
            }
            for (_, queue) in &mut queues {
                while let Some((_, source, reply)) = queue.pop_front_if(|(due, ..)| *due <= Instant::now()) {
                    let _ = socket.send_to(&reply, source);
                }
            }
        }
    })
}

/// Returns the reply to a query for an address.
fn address_reply(query: &[u8]) -> Vec<u8> {
    let question = query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut reply = query[..12 + question].to_vec();
    (reply[2], reply[3]) = (reply[2] | 0x80, 0x80);
    reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    reply.extend(GLOBAL.octets());
    reply
}
