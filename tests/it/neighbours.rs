//! What a client notices of a neighbour that does its worst: nothing lost, and answers about as soon as without it.
//!
//! `cargo test --release --test it neighbours -- --nocapture` prints the table.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{A, MX};

use crate::support::answer::name;
use crate::support::client::{framed, tcp_connect, wire_name};
use crate::support::*;

/// The address of the client that does its worst.
const GREEDY: &str = "127.0.0.66";
/// The address of the client next to it.
const VICTIM: &str = "127.0.0.7";
/// The pause between two of the victim's queries: 300 a second.
const PACE: Duration = Duration::from_micros(3333);
/// The victim's queries in each phase.
const QUERIES: usize = 450;

/// What became of the victim's queries.
#[derive(Debug)]
struct Seen {
    /// Queries that were not answered, or not as they should be.
    lost: usize,
    /// The time within which 99 of 100 were answered.
    p99: Duration,
}

/// Asks as a modest client does, a third each of what is denied, cached and missed; `round` makes the misses new.
fn victim(server: &Server, round: usize) -> Seen {
    let socket = UdpSocket::bind((VICTIM, 0)).unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let receiver = socket.try_clone().unwrap();
    let heard = thread::spawn(move || {
        let mut buffer = [0; 2048];
        let mut times = vec![None; QUERIES];
        for _ in 0..QUERIES {
            let Ok(length) = receiver.recv(&mut buffer) else { break };
            let now = Instant::now();
            let heard = Heard::read(buffer[..length].to_vec());
            let number = usize::from(heard.message.metadata.id);
            let expected = if number.is_multiple_of(3) { ResponseCode::NXDomain } else { ResponseCode::NoError };
            if heard.rcode() == expected && number < QUERIES {
                times[number] = Some(now);
            }
        }
        times
    });
    let (start, mut sent) = (Instant::now(), Vec::with_capacity(QUERIES));
    for number in 0..QUERIES {
        let qname = match number % 3 {
            0 => "denied.example".to_owned(),
            1 => format!("hot{}.victim.test", number % 50),
            _ => format!("miss{round}-{number}.victim.test"),
        };
        sent.push(Instant::now());
        socket.send(&ask(&qname, RecordType::A).id(u16::try_from(number).unwrap()).bytes()).unwrap();
        pause((start + PACE * u32::try_from(number + 1).unwrap()).saturating_duration_since(Instant::now()));
    }
    let heard = heard.join().unwrap();
    let mut taken: Vec<_> =
        sent.iter().zip(heard).filter_map(|(sent, heard)| Some(heard?.duration_since(*sent))).collect();
    taken.sort_unstable();
    Seen { lost: QUERIES - taken.len(), p99: taken.get(taken.len() * 99 / 100).copied().unwrap_or(Duration::MAX) }
}

/// Sends these messages in turn at a rate, whatever comes back, until told to stop.
fn flood(server: &Server, messages: &[Vec<u8>], per_second: u32, stop: &AtomicBool) {
    let socket = UdpSocket::bind((GREEDY, 0)).unwrap();
    socket.connect(server.address()).unwrap();
    let start = Instant::now();
    for (number, message) in (0..5_000_000_u32).zip(messages.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = socket.send(message);
        if number % 64 == 0 {
            pause((start + Duration::from_secs(1) * number / per_second).saturating_duration_since(Instant::now()));
        }
    }
}

/// Returns the upstream of all cases: what the greedy client owns has large answers, one address of them private.
fn upstream() -> FakeUpstream {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let private = RData::A(A([10, 0, 0, 1].into()));
        let answer = match (seen.qname.ends_with("greedy.test"), seen.qtype) {
            (true, RecordType::MX) => {
                let exchange = |number: u16| format!("{}.mx{number}.greedy.test", "x".repeat(60));
                let all = (0..if seen.tcp { 500_u16 } else { 10 }).fold(Answer::new(), |answer, number| {
                    answer.answer(&seen.qname, RData::MX(MX::new(number, name(&exchange(number)))))
                });
                all.additional(&exchange(0), private)
            }
            (true, _) => {
                let public =
                    |number: u16| RData::A(A([93, 184, number.to_be_bytes()[0], number.to_be_bytes()[1]].into()));
                let count = if seen.tcp { 3000 } else { 60 };
                let all = (0..count).fold(Answer::new(), |answer, number| answer.answer(&seen.qname, public(number)));
                all.answer(&seen.qname, private)
            }
            (false, _) => Answer::new().a(&seen.qname, GLOBAL),
        };
        vec![if seen.tcp || !seen.qname.starts_with("large") {
            answer.to(seen)
        } else {
            Answer::new().truncated().to(seen)
        }]
    }));
    upstream
}

/// Lets a client do `attack` beside the victim and looks at what that one notices.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn compare(what: &str, upstream: &FakeUpstream, attack: impl Fn(&Server, &AtomicBool) + Sync) {
    let policy = "[policy.test]\nallowed_hostnames = [\"*.victim.test\", \"*.greedy.test\"]\nbudget = \"off\"\n";
    let clients = format!(
        "[client.greedy]\nsources = [\"{GREEDY}\"]\npolicy = \"test\"\n[client.victim]\nsources = [\"{VICTIM}\"]\npolicy = \"test\"\n"
    );
    let server = Setup::new(&[upstream]).file("test.toml", policy).file("clients.toml", clients).start();
    victim(&server, 0);
    // Where the machine itself has no time for either of them, as beside other tests, it is tried again.
    let mut told = String::new();
    for round in 0..5 {
        let quiet = victim(&server, 3 * round + 1);
        let stop = AtomicBool::new(false);
        let (first, second) = thread::scope(|scope| {
            scope.spawn(|| attack(&server, &stop));
            // The first phase has the moment in which the load is noticed.
            let seen = (victim(&server, 3 * round + 2), victim(&server, 3 * round + 3));
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let shed = server.metric("hostgate_queries_shed_total", &[]);
        let lost = [quiet.lost, first.lost, second.lost];
        let p99 = [quiet.p99, first.p99, second.p99];
        told = format!("{what}: quiet, attacked, attacked: lost {lost:?} of {QUERIES}, p99 {p99:?}; {shed} shed");
        println!("{told}");
        // Some may be lost until it is noticed.
        if first.lost <= QUERIES / 20 && second.lost == 0 && second.p99 < quiet.p99 * 4 + Duration::from_millis(100) {
            return;
        }
    }
    panic!("{told}");
}

#[test]
fn large_answers_cost_their_owner() {
    compare("large answers", &upstream(), |server, stop| {
        let mut messages = Vec::new();
        for number in 0..50 {
            for (kind, qtype) in [("small", RecordType::A), ("large", RecordType::A), ("large", RecordType::MX)] {
                let query = ask(&format!("{kind}{number}.greedy.test"), qtype).from(GREEDY);
                let _ = query.udp_to(server.address());
                messages.push(query.bytes());
            }
        }
        flood(server, &messages, 20_000, stop);
    });
}

#[test]
fn a_flood_of_queries_costs_its_sender() {
    compare("a flood", &upstream(), |server, stop| {
        let queries = ["denied.example", "hot1.victim.test", "small1.greedy.test"];
        let messages: Vec<_> = queries.iter().map(|name| ask(name, RecordType::A).bytes()).collect();
        flood(server, &messages, 300_000, stop);
    });
}

#[test]
fn misses_without_end_cost_their_sender() {
    compare("misses", &upstream(), |server, stop| {
        let messages: Vec<_> =
            (0..60_000).map(|number| ask(&format!("n{number}.greedy.test"), RecordType::A).bytes()).collect();
        // As many as the scripted upstream, which is slow, takes beside the others.
        flood(server, &messages, 500, stop);
    });
}

#[test]
fn answers_that_fill_the_cache_push_out_their_owners_own() {
    let upstream = upstream();
    compare("a full cache", &upstream, |server, stop| {
        let mut stream = tcp_connect(GREEDY.parse().unwrap(), server.address()).unwrap();
        for number in 0..2500 {
            use std::io::{Read as _, Write as _};
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let query = framed(&ask(&format!("large{number}.greedy.test"), RecordType::A).bytes());
            for _ in 0..2 {
                let mut length = [0; 2];
                if stream.write_all(&query).and_then(|()| stream.read_exact(&mut length)).is_err() {
                    return;
                }
                let mut rest = vec![0; usize::from(u16::from_be_bytes(length))];
                let _ = stream.read_exact(&mut rest);
            }
        }
    });
    for number in 0..50 {
        let asked = upstream.count(&format!("hot{number}.victim.test"));
        assert!(asked <= 1, "hot{number} was asked for {asked} times");
    }
}

#[test]
fn half_sent_queries_hold_nobody_up() {
    compare("half-sent queries", &upstream(), |server, stop| {
        let half = &framed(&wire_name("half.greedy.test"))[..3];
        while !stop.load(Ordering::Relaxed) {
            let streams: Vec<_> =
                (0..600).filter_map(|_| tcp_connect(GREEDY.parse().unwrap(), server.address()).ok()).collect();
            for mut stream in streams {
                use std::io::Write as _;
                let _ = stream.write_all(half);
            }
        }
    });
}

#[test]
fn questions_that_nobody_answers_leave_room_for_others() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let is_silent = seen.qname.ends_with("silent.test");
        if is_silent { vec![] } else { vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)] }
    }));
    // One thread has them all in flight.
    let server = Setup::policy(&upstream, "allow_all = true\nbudget = \"off\"")
        .file("victim.toml", format!("[client.victim]\nsources = [\"{VICTIM}\"]\npolicy = \"test\"\n"))
        .top("threads = 1")
        .start();
    for client in 0..20 {
        let socket = UdpSocket::bind((format!("127.0.1.{client}"), 0)).unwrap();
        socket.connect(server.address()).unwrap();
        for number in 0..300 {
            let query = ask(&format!("n{number}c{client}.silent.test"), RecordType::A);
            socket.send(&query.bytes()).unwrap();
            // No faster than one thread takes them.
            if number % 50 == 49 {
                ask(&format!("alive{number}c{client}.test"), RecordType::A)
                    .from(VICTIM)
                    .udp(&server)
                    .expect_addresses(&[GLOBAL.into()]);
            }
        }
    }
    server.until("more are in flight than a thread once had room for", || {
        let asked: HashSet<String> = upstream.seen().into_iter().map(|seen| seen.qname).collect();
        (asked.len() > 5000).then_some(())
    });
    for number in 0..50 {
        let heard = ask(&format!("v{number}.test"), RecordType::A).from(VICTIM).udp(&server);
        assert_eq!((heard.rcode(), heard.edes()), (ResponseCode::NoError, vec![]), "{number}");
    }
}
