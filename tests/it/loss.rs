//! Lost datagrams: when a question is asked again, whom, and what a late answer is good for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Starts with this policy for all and these upstreams in order.
fn start(upstreams: &[&FakeUpstream]) -> Server {
    Setup::new(upstreams).file("test.toml", POLICY).top("default_policy = \"test\"").start()
}

/// Asks for a name and returns how long its address took.
fn time(server: &Server, name: &str) -> Duration {
    let start = Instant::now();
    ask(name, RecordType::A).udp(server).expect_addresses(&[GLOBAL.into()]);
    start.elapsed()
}

/// Lets an upstream's round trip be known.
fn warm_up(server: &Server) {
    for number in 0..10 {
        time(server, &format!("warm{number}.test"));
    }
}

/// Answers as a script says that is told how often the name was asked before: none is silence.
fn by_count(script: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static) -> Reply {
    let counts = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    Reply::by(move |seen| {
        let before = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(seen.qname.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let is_warm_up = seen.qname.starts_with("warm");
        let Some(delay) = (if is_warm_up { Some(Duration::ZERO) } else { script(before) }) else { return Vec::new() };
        pause(delay);
        vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
    })
}

#[test]
fn lost_datagram_is_sent_again_soon_with_another_id() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(by_count(|before| (before > 0).then_some(Duration::ZERO)));
    let server = start(&[&upstream]);
    warm_up(&server);
    let mut times: Vec<Duration> = (0..12).map(|number| time(&server, &format!("n{number}.test"))).collect();
    times.sort_unstable();
    // The least patience is 50 ms; it was 250 ms.
    assert!(times[0] >= Duration::from_millis(50), "not before the patience is over: {times:?}");
    assert!(times[6] < Duration::from_millis(150), "{times:?}");
    let mut ports = 0;
    for number in 0..12 {
        let seen = upstream.seen_for(&format!("n{number}.test"));
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_ne!(seen[0].message.metadata.id, seen[1].message.metadata.id, "a fresh ID");
        ports += usize::from(seen[0].source.port() != seen[1].source.port());
    }
    assert!(ports >= 6, "by chance another port: {ports} of 12");
    assert_eq!(server.metric("hostgate_upstream_retransmissions_total", &[]), 12);
    assert_eq!(server.status()["upstreams"][0]["state"], "up");
}

#[test]
fn patience_for_a_name_grows_and_ends_when_stubs_give_up() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(by_count(|_| None));
    let server = start(&[&upstream]);
    warm_up(&server);
    let start = Instant::now();
    let heard = ask("silent.test", RecordType::A).udp(&server);
    assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::ServFail, vec![22]));
    let taken = start.elapsed();
    assert!(taken >= Duration::from_secs(5) && taken < Duration::from_millis(6500), "{taken:?}");
    // After 0, 50, 550 and 3,500 ms.
    assert_eq!(upstream.count("silent.test"), 4);
}

#[test]
fn unanswered_question_costs_four_datagrams_and_one_more_for_each_further_server() {
    for servers in 1..=4 {
        let upstreams: Vec<FakeUpstream> = (0..servers).map(|_| FakeUpstream::start()).collect();
        for upstream in &upstreams {
            upstream.otherwise(Reply::silence());
        }
        let server = start(&upstreams.iter().collect::<Vec<_>>());
        // The receiving thread asks for the one, a task of its own for the other.
        ask("udp.test", RecordType::A).udp(&server);
        let by_udp: Vec<usize> = upstreams.iter().map(|upstream| upstream.count("udp.test")).collect();
        // Three and more of which nothing is known are asked all at once besides: with a try, once a second at most.
        let searched = if servers >= 3 { servers } else { 0 };
        let (least, most) = (3 + servers + searched, 3 + servers + 2 * searched);
        assert!((least..=most).contains(&by_udp.iter().sum::<usize>()), "{by_udp:?}");
        assert!(by_udp.iter().all(|count| (1..=4).contains(count)), "{by_udp:?}");
        let server = start(&upstreams.iter().collect::<Vec<_>>());
        ask("tcp.test", RecordType::A).tcp(&server);
        let by_tcp: Vec<usize> = upstreams.iter().map(|upstream| upstream.count("tcp.test")).collect();
        assert!((least..=most).contains(&by_tcp.iter().sum::<usize>()), "{by_tcp:?}");
        assert!(by_tcp.iter().all(|count| (1..=4).contains(count)), "{by_tcp:?}");
    }
}

#[test]
fn upstream_that_is_gone_for_a_moment_is_asked_once_more_after_it() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(by_count(|_| Some(Duration::ZERO)));
    let server = start(&[&upstream]);
    warm_up(&server);
    let back = Instant::now() + Duration::from_millis(400);
    upstream.otherwise(Reply::by(move |seen| {
        let answer = || Answer::new().a(&seen.qname, GLOBAL).to(seen);
        (Instant::now() >= back).then(answer).into_iter().collect()
    }));
    let taken = time(&server, "name.test");
    assert!(taken >= Duration::from_millis(300) && taken < Duration::from_millis(1500), "{taken:?}");
}

#[test]
fn upstream_that_is_gone_for_two_seconds_answers_before_stubs_give_up() {
    let upstream = FakeUpstream::start();
    let server = start(&[&upstream]);
    for transport in ["udp", "tcp"] {
        upstream.otherwise(by_count(|_| Some(Duration::ZERO)));
        warm_up(&server);
        let back = Instant::now() + Duration::from_secs(2);
        upstream.otherwise(Reply::by(move |seen| {
            let answer = || Answer::new().a(&seen.qname, GLOBAL).to(seen);
            (Instant::now() >= back).then(answer).into_iter().collect()
        }));
        // Not a word from the client meanwhile, as glibc and dig wait five seconds.
        let begun = Instant::now();
        let query = ask(&format!("{transport}.test"), RecordType::A);
        let heard = if transport == "udp" { query.udp(&server) } else { query.tcp(&server) };
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(begun.elapsed() < Duration::from_secs(4), "{transport}: {:?}", begun.elapsed());
    }
}

#[test]
fn upstream_that_is_silent_every_other_second_leaves_no_question_unanswered() {
    const CYCLE: u128 = 2000;
    let upstream = FakeUpstream::start();
    upstream.otherwise(by_count(|_| Some(Duration::ZERO)));
    let server = start(&[&upstream]);
    warm_up(&server);
    let begun = Instant::now();
    upstream.otherwise(Reply::by(move |seen| {
        let answer = || Answer::new().a(&seen.qname, GLOBAL).to(seen);
        (begun.elapsed().as_millis() % CYCLE >= CYCLE / 2).then(answer).into_iter().collect()
    }));
    std::thread::scope(|scope| {
        for number in 0..80 {
            let server = &server;
            scope.spawn(move || time(server, &format!("name{number}.test")));
            pause(Duration::from_millis(50));
        }
    });
    let most = (0..80).map(|number| upstream.count(&format!("name{number}.test"))).max();
    assert!(most <= Some(4), "{most:?}");
}

#[test]
fn loss_of_one_datagram_in_twenty_costs_one_patience_and_no_answer() {
    let upstream = FakeUpstream::start();
    let count = std::sync::atomic::AtomicUsize::new(0);
    upstream.otherwise(Reply::by(move |seen| {
        // Of 20 queries one is lost, each time at another place.
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let is_lost = number % 20 == number / 20 * 7 % 20;
        (!is_lost).then(|| Answer::new().a(&seen.qname, GLOBAL).to(seen)).into_iter().collect()
    }));
    let server = start(&[&upstream]);
    let mut times: Vec<Duration> = (0..400).map(|number| time(&server, &format!("n{number}.test"))).collect();
    times.sort_unstable();
    assert!(server.metric("hostgate_upstream_retransmissions_total", &[]) >= 15);
    assert!(times[395] < Duration::from_millis(400), "p99: {:?}", &times[380..]);
}

#[test]
fn late_answer_of_any_try_is_welcome() {
    for late in [0, 1, 2] {
        let upstream = FakeUpstream::start();
        upstream.otherwise(by_count(move |before| (before == late).then_some(Duration::from_millis(300))));
        let server = start(&[&upstream]);
        warm_up(&server);
        let taken = time(&server, "name.test");
        assert!(taken >= Duration::from_millis(300) && taken < Duration::from_millis(1500), "{late}: {taken:?}");
        assert!(upstream.count("name.test") > late, "{late}");
    }
}

#[test]
fn silence_of_the_best_server_costs_one_short_patience_and_then_it_goes_last() {
    let (first, second) = (FakeUpstream::start(), FakeUpstream::start());
    first.otherwise(by_count(|_| None));
    // Slower, so that it is the second also when the machine is busy.
    second.otherwise(Reply::by(|seen| {
        pause(Duration::from_millis(40));
        vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
    }));
    let server = start(&[&first, &second]);
    warm_up(&server);
    let before = server.metric("hostgate_upstream_retransmissions_total", &[]);
    let times: Vec<Duration> = (0..20).map(|number| time(&server, &format!("n{number}.test"))).collect();
    let again = server.metric("hostgate_upstream_retransmissions_total", &[]) - before;
    assert!((1..=6).contains(&again), "the others go to the second at once: {again}, {times:?}");
    let asked: HashSet<String> = first.seen().into_iter().map(|seen| seen.qname).collect();
    assert!(asked.iter().filter(|name| !name.starts_with("warm")).count() <= 4, "{asked:?}");
}

#[test]
fn replies_that_come_after_all_do_not_count_as_forged() {
    let upstream = FakeUpstream::start();
    // Every try is answered, after the next one was sent.
    upstream.otherwise(by_count(|before| Some(Duration::from_millis(if before == 0 { 160 } else { 1 }))));
    let server = start(&[&upstream]);
    warm_up(&server);
    for number in 0..10 {
        time(&server, &format!("n{number}.test"));
    }
    assert!(server.metric("hostgate_upstream_retransmissions_total", &[]) >= 5);
    assert_eq!(server.metric("hostgate_upstream_ignored_total", &[]), 0);
}
