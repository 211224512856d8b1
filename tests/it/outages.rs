//! Upstreams that go and come back: questions wait for one that is started again, and operators are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Returns what upstreams that resolve names say of the root's name servers, by a word for each: not all answer that.
fn replies_for_the_root() -> [(&'static str, Reply); 5] {
    // Neither recursion nor records.
    let empty = Reply::changed(Answer::new(), |bytes| bytes[3] &= 0x7f);
    [
        ("answer", Answer::new().soa("", 300, 300).into()),
        ("refusal", Answer::rcode(ResponseCode::Refused).into()),
        ("failure", Answer::rcode(ResponseCode::ServFail).into()),
        ("empty", empty),
        ("silence", Reply::silence()),
    ]
}

/// Asks for a name and returns how long its answer took.
fn time_answer(server: &Server, name: &str) -> Duration {
    let begin = Instant::now();
    ask(name, RecordType::A).udp(server).expect_addresses(&[GLOBAL.into()]);
    begin.elapsed()
}

#[test]
fn one_that_answers_is_found_among_many_that_do_not_whatever_it_says_of_the_root() {
    let silent: Vec<_> = (0..40).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (root, reply) in replies_for_the_root() {
        let living = FakeUpstream::start();
        living.on("", reply);
        let mut servers: Vec<_> = silent.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
        servers.push(living.address.to_string());
        let server = setup(&servers.iter().map(String::as_str).collect::<Vec<_>>()).start();
        let first = time_answer(&server, "first.test");
        assert!(first < Duration::from_millis(1200), "{root}: {first:?}");
        for number in 0..4 {
            let later = time_answer(&server, &format!("n{number}.test"));
            assert!(later < Duration::from_millis(600), "{root}: {number}: {later:?}");
        }
    }
}

#[test]
fn the_one_that_still_answers_is_found_when_all_others_go_silent() {
    for (root, reply) in replies_for_the_root() {
        let upstreams: Vec<_> = (0..10).map(|_| FakeUpstream::switched()).collect();
        upstreams[9].0.on("", reply);
        let addresses: Vec<_> = upstreams.iter().map(|(one, _)| one.address.to_string()).collect();
        let server = setup(&addresses.iter().map(String::as_str).collect::<Vec<_>>()).start();
        time_answer(&server, "warm.test");
        switch(&upstreams[..9], true);
        for number in 0..4 {
            let taken = time_answer(&server, &format!("n{number}.test"));
            assert!(taken < Duration::from_millis(if number == 0 { 1200 } else { 600 }), "{root}: {number}: {taken:?}");
        }
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

/// Asks for several names at once, so that what is silent is known to be dead when all have failed.
fn ask_some(server: &Server, name: &str) {
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || ask(&format!("{name}{number}.test"), RecordType::A).udp(server));
        }
    });
}

/// Sets the switch of each of these upstreams.
fn switch(upstreams: &[(FakeUpstream, Arc<AtomicBool>)], to: bool) {
    for (_, switch) in upstreams {
        switch.store(to, Ordering::SeqCst);
    }
}

/// Waits until each of these upstreams is told to be gone, and that all are.
fn wait_gone(server: &Server, addresses: &[&str], reason: &str) {
    for address in addresses {
        let line = until_within(Duration::from_secs(20), || {
            server.log_lines(&["WARN", "upstream gone", address, reason]).pop()
        });
        assert!(line.is_some(), "{address} {reason}: {}", server.log());
    }
    server.wait_log(&["ERROR", "no upstream answers"]);
    assert_eq!(server.metric("hostgate_upstream_ok", &[]), 0);
}

/// Waits until each of these upstreams is told to be back, as which it counts two seconds after its return at the latest.
fn wait_back(server: &Server, addresses: &[&str]) {
    let begin = Instant::now();
    for address in addresses {
        server.wait_log(&["INFO", "upstream answers again", address]);
    }
    // Two seconds, and half of one until it is written.
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let told = server.status();
    assert!(told["upstream_error"].is_null(), "{told}");
    for upstream in told["upstreams"].as_array().unwrap() {
        assert_eq!((&upstream["gone"], &upstream["state"]), (&false.into(), &"up".into()), "{told}");
    }
    assert_eq!(server.metric("hostgate_upstream_ok", &[]), 1);
    assert_eq!(server.log_lines(&["upstream answers again"]).len(), addresses.len());
}

#[test]
fn silent_upstreams_that_are_back_together_are_all_told_though_nobody_asks() {
    thread::scope(|scope| {
        for scheme in ["", "tcp://"] {
            scope.spawn(move || {
                let upstreams: Vec<_> = (0..3).map(|_| FakeUpstream::switched()).collect();
                let addresses: Vec<_> = upstreams.iter().map(|(one, _)| one.address.to_string()).collect();
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                let servers: Vec<_> = addresses.iter().map(|address| format!("{scheme}{address}")).collect();
                let server = setup(&servers.iter().map(String::as_str).collect::<Vec<_>>()).start();
                ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
                switch(&upstreams, true);
                ask_some(&server, "lost");
                wait_gone(&server, &addresses, "silent");
                let probes = || upstreams[0].0.count("");
                let (before, begin) = (probes(), Instant::now());
                let sent = until("four probes", || Some(probes() - before).filter(|sent| *sent >= 4));
                assert!(begin.elapsed() > Duration::from_millis(1000 * (u64::try_from(sent).unwrap() - 2)), "{sent}");
                switch(&upstreams, false);
                wait_back(&server, &addresses);
                // What worked before is not probed.
                let before = probes();
                pause(Duration::from_millis(2500));
                assert_eq!(probes(), before);
            });
        }
    });
}

#[test]
fn upstreams_whose_ports_were_closed_are_told_to_be_back_though_nobody_asks() {
    for scheme in ["", "tcp://"] {
        let addresses = ["127.77.5.1:5391", "127.77.5.2:5391"];
        let upstreams = addresses.map(upstream_at);
        let servers = addresses.map(|address| format!("{scheme}{address}"));
        let server = setup(&servers.each_ref().map(String::as_str)).start();
        upstreams.into_iter().for_each(end);
        ask("lost.test", RecordType::A).udp(&server);
        wait_gone(&server, &addresses, "unreachable");
        let _upstreams = addresses.map(upstream_at);
        wait_back(&server, &addresses);
    }
}

#[test]
fn forged_reply_to_a_probe_ends_no_outage() {
    let (upstream, is_silent) = FakeUpstream::switched();
    let address = upstream.address.to_string();
    let server = setup(&[&address]).start();
    ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    is_silent.store(true, Ordering::SeqCst);
    ask_some(&server, "lost");
    wait_gone(&server, &[&address], "silent");
    let root = || Answer::new().soa("", 300, 300);
    // Another ID; and with the ID, another name, another type.
    let changes: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes[1] ^= 1,
        |bytes| {
            bytes.splice(12..12, [1, b'x']);
        },
        |bytes| bytes[14] ^= 1,
    ];
    for change in changes {
        let before = upstream.count("");
        upstream.on("", Reply::changed(root(), change));
        until("they are sent", || (upstream.count("") >= before + 4).then_some(()));
        assert_eq!(server.status()["upstreams"][0]["gone"], true);
    }
    upstream.on("", root());
    wait_back(&server, &[&address]);
}

#[test]
fn probes_of_many_dead_upstreams_are_as_many_as_of_ten() {
    let silent: Vec<_> = (0..49).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut servers: Vec<_> = silent.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
    let living = FakeUpstream::start();
    servers.push(living.address.to_string());
    let server = setup(&servers.iter().map(String::as_str).collect::<Vec<_>>()).start();
    ask("name.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    let tries = || -> u64 {
        let each = servers.iter().map(|one| server.metric("hostgate_upstream_tries_total", &[("server", one)]));
        each.sum()
    };
    // Those of the first search are over, and all are known to be silent.
    until_within(Duration::from_secs(15), || (tries() > 120).then_some(())).expect("they are probed again");
    let (before, begin) = (tries(), Instant::now());
    for number in 0..60 {
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        pause(Duration::from_millis(100));
    }
    let (sent, seconds) = (tries() - before - 60, begin.elapsed().as_secs());
    assert!(sent <= 10 * seconds + 60, "{sent} in {seconds} s");
}

/// Starts an upstream that answers SERVFAIL to questions of this kind while it is told to.
fn failing(fails: fn(&str) -> bool) -> (FakeUpstream, Arc<AtomicBool>) {
    let (upstream, is_failing) = (FakeUpstream::start(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&is_failing);
    upstream.otherwise(Reply::by(move |seen| {
        let fails = flag.load(Ordering::SeqCst) && fails(&seen.qname);
        let answer = if fails { Answer::rcode(ResponseCode::ServFail) } else { Answer::new().a(&seen.qname, GLOBAL) };
        vec![answer.to(seen)]
    }));
    (upstream, is_failing)
}

/// Two clients that may look up everything without a budget, as 127.0.0.1 and 127.0.0.2.
const TWO_CLIENTS: &str = "[policy.all]\nallow_all = true\nbudget = \"off\"\n\
     [client.one]\nsources = [\"127.0.0.1\"]\npolicy = \"all\"\n[client.two]\nsources = [\"127.0.0.2\"]\npolicy = \"all\"\n";

/// Starts a server for [`TWO_CLIENTS`].
fn two_clients(upstreams: &[&FakeUpstream]) -> Server {
    Setup::new(upstreams).file("two.toml", TWO_CLIENTS).start()
}

/// Asks for names of eight zones from these addresses in turn, ten a second, until `is_over`; none is answered.
fn ask_in_vain(server: &Server, sources: &[&str], is_over: impl Fn(Duration) -> bool) {
    let begin = Instant::now();
    for number in 0.. {
        let name = format!("n{number}.zone{}-broken.test", number % 8);
        let heard = ask(&name, RecordType::A).from(sources[number % sources.len()]).udp(server);
        assert_eq!(heard.rcode(), ResponseCode::ServFail);
        pause(Duration::from_millis(100));
        if is_over(begin.elapsed()) {
            return;
        }
    }
}

/// Returns whether the zone of a name is broken.
fn is_broken(qname: &str) -> bool {
    qname.ends_with("-broken.test")
}

/// Asserts that no outage was told, and returns whether names are told to fail.
fn names_fail(server: &Server) -> bool {
    let told = server.status();
    let upstream = &told["upstreams"][0];
    assert!(told["upstream_error"].is_null() && upstream["gone"] == false && upstream["state"] != "down", "{told}");
    assert_eq!(server.metric("hostgate_upstream_ok", &[]), 1);
    assert_eq!(server.log_lines(&["upstream"]).iter().filter(|line| line.contains("gone")).count(), 0);
    assert_eq!(server.log_lines(&["no upstream answers"]), [""; 0]);
    let server_name = upstream["server"].as_str().unwrap();
    let metric = server.metric("hostgate_upstream_names_fail", &[("server", server_name)]);
    assert_eq!(upstream["names_fail"], metric == 1, "{told}");
    metric == 1
}

#[test]
fn zones_of_one_client_that_fail_are_no_outage_for_the_others() {
    // SERVFAIL, a refusal, no answer without recursion, and a reply that cannot be read.
    let replies = || {
        [
            Reply::from(Answer::rcode(ResponseCode::ServFail)),
            Answer::rcode(ResponseCode::Refused).into(),
            Reply::changed(Answer::new(), |bytes| bytes[3] &= 0x7f),
            Reply::changed(Answer::new(), |bytes| bytes.truncate(13)),
        ]
    };
    thread::scope(|scope| {
        for (number, reply) in replies().into_iter().enumerate() {
            scope.spawn(move || {
                let upstream = FakeUpstream::start();
                (0..8).for_each(|zone| {
                    (0..200).for_each(|name| {
                        upstream.on(&format!("n{name}.zone{zone}-broken.test"), reply.clone());
                    });
                });
                let server = two_clients(&[&upstream]);
                // Nobody else asks anything: not before it, nor while it lasts.
                ask_in_vain(&server, &["127.0.0.2"], |taken| taken > Duration::from_secs(10));
                assert!(names_fail(&server), "{number}");
                assert!((1..=6).contains(&upstream.name_probes()), "{number}: {}", upstream.name_probes());
                ask("fine.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
                assert!(!names_fail(&server), "{number}");
            });
        }
    });
}

#[test]
fn outage_that_begins_while_zones_of_a_client_fail_is_told_within_ten_seconds() {
    let upstream = FakeUpstream::start();
    upstream.on("", Answer::new().soa("", 300, 300));
    let flag = Arc::new(AtomicBool::new(false));
    let outage = Arc::clone(&flag);
    upstream.otherwise(Reply::by(move |seen| {
        let fails = is_broken(&seen.qname) || outage.load(Ordering::SeqCst);
        let answer = if fails { Answer::rcode(ResponseCode::ServFail) } else { Answer::new().a(&seen.qname, GLOBAL) };
        vec![answer.to(seen)]
    }));
    let server = two_clients(&[&upstream]);
    ask_in_vain(&server, &["127.0.0.2"], |taken| taken > Duration::from_secs(8));
    assert!(names_fail(&server));
    flag.store(true, Ordering::SeqCst);
    let is_told = || !server.log_lines(&["ERROR", "no upstream answers"]).is_empty();
    ask_in_vain(&server, &["127.0.0.2"], |taken| {
        assert!(taken < Duration::from_secs(10), "it is not told");
        is_told()
    });
}

#[test]
fn outage_that_a_copy_of_the_root_hides_from_probes_is_told_where_two_clients_meet_it() {
    for sources in [&["127.0.0.2"][..], &["127.0.0.1", "127.0.0.2"]] {
        let (upstream, is_failing) = failing(|qname| !qname.is_empty() && !is_name_probe(qname));
        is_failing.store(true, Ordering::SeqCst);
        let server = two_clients(&[&upstream]);
        let is_told = || !server.log_lines(&["ERROR", "no upstream answers"]).is_empty();
        ask_in_vain(&server, sources, |taken| is_told() || taken > Duration::from_secs(10));
        assert_eq!(is_told(), sources.len() == 2, "{sources:?}");
    }
}

#[test]
fn upstream_that_fails_at_every_probe_is_not_gone_because_of_one_client() {
    for rcode in [ResponseCode::Refused, ResponseCode::ServFail] {
        let upstream = FakeUpstream::start();
        upstream.on("", Answer::rcode(rcode));
        upstream.otherwise(Reply::by(move |seen| {
            let fails = is_broken(&seen.qname) || is_name_probe(&seen.qname);
            let answer = if fails { Answer::rcode(rcode) } else { Answer::new().a(&seen.qname, GLOBAL) };
            vec![answer.to(seen)]
        }));
        let server = two_clients(&[&upstream]);
        ask("fine.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        until("a probe shows what one is worth", || (upstream.name_probes() > 0).then_some(()));
        ask_in_vain(&server, &["127.0.0.2"], |taken| taken > Duration::from_secs(9));
        assert!(names_fail(&server), "{rcode}");
    }
}

#[test]
fn upstreams_that_answer_servfail_to_everything_are_told_like_any_outage() {
    for scheme in ["", "tcp://"] {
        let upstreams: Vec<_> = (0..2).map(|_| failing(|_| true)).collect();
        let addresses: Vec<_> = upstreams.iter().map(|(one, _)| one.address.to_string()).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let servers: Vec<_> = addresses.iter().map(|address| format!("{scheme}{address}")).collect();
        let server = setup(&servers.iter().map(String::as_str).collect::<Vec<_>>()).start();
        ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        switch(&upstreams, true);
        let mut number = 0;
        let mut fail = || {
            number += 1;
            let heard = ask(&format!("n{number}.zone.test"), RecordType::A).udp(&server);
            assert_eq!(heard.rcode(), ResponseCode::ServFail);
            pause(Duration::from_millis(100));
        };
        until_within(Duration::from_secs(15), || {
            fail();
            server.log_lines(&["ERROR", "no upstream answers"]).pop()
        })
        .expect("the outage is told");
        wait_gone(&server, &addresses, "failing");
        let told = server.status()["upstream_error"].as_str().unwrap().to_owned();
        assert!(told.contains(&format!("{} is failing", servers[0])), "{told}");
        (0..10).for_each(|_| fail());
        switch(&upstreams, false);
        wait_back(&server, &addresses);
        // What failed because of it is asked again.
        ask(&format!("n{number}.zone.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn zone_that_fails_is_no_outage() {
    let roots = [Reply::from(Answer::new().soa("", 300, 300)), Answer::rcode(ResponseCode::Refused).into()];
    for root in roots {
        let (upstream, is_failing) = failing(|qname| qname.ends_with("broken.test"));
        upstream.on("", root);
        is_failing.store(true, Ordering::SeqCst);
        let server = setup(&[&upstream.address.to_string()]).start();
        let begin = Instant::now();
        for number in 0.. {
            let heard = ask(&format!("n{number}.broken.test"), RecordType::A).udp(&server);
            assert_eq!(heard.rcode(), ResponseCode::ServFail);
            pause(Duration::from_millis(50));
            if begin.elapsed() > Duration::from_secs(9) {
                break;
            }
        }
        let told = server.status();
        assert!(told["upstream_error"].is_null() && told["upstreams"][0]["state"] != "down", "{told}");
        assert_eq!(server.log_lines(&["upstream gone"]), [""; 0]);
        let probes = upstream.name_probes();
        assert!((1..=5).contains(&probes), "{probes}");
    }
}

#[test]
fn upstream_that_answers_for_the_root_and_fails_at_all_names_is_gone_until_it_answers_one() {
    let (upstream, is_failing) = failing(|qname| !qname.is_empty());
    let address = upstream.address.to_string();
    let server = setup(&[&address]).start();
    ask("warm.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    is_failing.store(true, Ordering::SeqCst);
    let mut number = 0;
    until_within(Duration::from_secs(15), || {
        number += 1;
        ask(&format!("n{number}.test"), RecordType::A).udp(&server);
        pause(Duration::from_millis(100));
        server.log_lines(&["ERROR", "no upstream answers"]).pop()
    })
    .expect("the outage is told");
    pause(Duration::from_secs(2));
    assert_eq!(server.status()["upstreams"][0]["gone"], true, "the root may come from its cache");
    is_failing.store(false, Ordering::SeqCst);
    ask("back.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    wait_back(&server, &[&address]);
}
