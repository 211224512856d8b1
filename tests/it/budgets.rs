//! What is left of the channel through an allowed wildcard: tunnels of all shapes get next to nothing through, and what
//! real work asks for is never hit.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{AAAA, MX, SRV, TXT};

use crate::support::answer::name;
use crate::support::client::{framed, tcp_connect, tcp_read};
use crate::support::*;

/// The octets that may get through in the first minute, in either direction.
const MOST: usize = 4096;

/// Returns the octets that these names carry when their labels below `t.test` are base32: five bits a letter.
fn carried(names: &HashSet<String>) -> usize {
    names.iter().map(|name| name.trim_end_matches(".t.test").replace('.', "").len() * 5 / 8).sum()
}

/// Returns text that does not repeat, of so many letters of base32.
fn data(number: usize, length: usize) -> String {
    let mut state = u64::try_from(number).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::try_from(state >> 59).unwrap()])
    });
    letters.take(length).collect()
}

/// Returns a name of labels of so many letters each, with data.
fn labels(number: usize, lengths: &[usize]) -> String {
    let labels = lengths.iter().enumerate().map(|(index, length)| data(number * 16 + index, *length));
    labels.collect::<Vec<_>>().join(".") + ".t.test"
}

/// Asks for each name over one kept TCP connection and returns the answers.
fn over_tcp(address: SocketAddr, names: impl Iterator<Item = String>, qtype: RecordType) -> Vec<Heard> {
    let mut stream = tcp_connect("127.0.0.1".parse().unwrap(), address).unwrap();
    let mut heard = Vec::new();
    for name in names {
        use std::io::Write as _;
        stream.write_all(&framed(&ask(&name, qtype).bytes())).unwrap();
        heard.push(Heard::read(tcp_read(&mut stream).unwrap()));
    }
    heard
}

#[test]
fn names_below_a_wildcard_carry_next_to_nothing_out() {
    // The shapes of labels that encoders use: long ones, one, short ones, many.
    for (lengths, over_udp) in [(&[60, 60][..], true), (&[63], true), (&[8], true), (&[4; 9], true), (&[62, 50], false)]
    {
        let upstream = FakeUpstream::start();
        let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]").start();
        let names = (0..2000).map(|number| labels(number, lengths));
        let denied = if over_udp {
            names.filter(|name| ask(name, RecordType::A).udp(&server).rcode() == ResponseCode::NXDomain).count()
        } else {
            let heard = over_tcp(server.address(), names, RecordType::A);
            heard.iter().filter(|heard| heard.rcode() == ResponseCode::NXDomain).count()
        };
        let seen: HashSet<String> = upstream.seen().into_iter().map(|seen| seen.qname).collect();
        let octets = carried(&seen);
        assert!(octets <= MOST, "{lengths:?}: {octets} octets in {} names", seen.len());
        assert!(octets >= 100, "{lengths:?}: some names are everyday use: {octets}");
        assert!(denied >= 1600, "{lengths:?}: {denied}");
        assert!(server.metric("hostgate_queries_total", &[("reason", "budget")]) >= 1600);
        assert_eq!(server.log_lines(&["budget spent"]).len(), 1, "{}", server.log());
    }
}

#[test]
fn names_that_are_too_long_or_too_deep_are_never_asked_for() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]").start();
    for lengths in [&[63, 63, 63][..], &[1; 11]] {
        let heard = ask(&labels(1, lengths), RecordType::A).both(&server);
        heard.expect_denied();
        let edes = heard.edes();
        assert!(edes[0].0 == 15 && edes[0].1.contains("of policy test"), "{edes:?}");
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn answers_carry_next_to_nothing_in() {
    let text = |size: usize| {
        Reply::by(move |seen| {
            let strings = (0..size / 200).map(|part| data(seen.qname.len() * 31 + part, 199)).collect();
            vec![Answer::new().ttl(0).answer(&seen.qname, RData::TXT(TXT::new(strings))).to(seen)]
        })
    };
    let to = |build: fn(&str, usize) -> RData| {
        Reply::by(move |seen| {
            let target = format!("{}.{}.t.test", data(seen.qname.len(), 60), data(seen.qname.len() + 7, 60));
            vec![Answer::new().ttl(0).answer(&seen.qname, build(&target, 1)).to(seen)]
        })
    };
    let addresses = Reply::by(|seen| {
        let many = (0..2000_u16).fold(Answer::new().ttl(0), |answer, last| {
            answer.answer(&seen.qname, RData::AAAA(AAAA(std::net::Ipv6Addr::new(0x2606, 1, 2, 3, 4, 5, 6, last))))
        });
        vec![many.to(seen)]
    });
    // Other addresses each time, all of whose bits are data.
    let count = AtomicUsize::new(0);
    let set = Reply::by(move |seen| {
        let set = (0..8).fold(Answer::new().ttl(0), |answer, _| {
            let bits = data(count.fetch_add(1, Relaxed) * 7, 16).into_bytes();
            let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bits).unwrap());
            answer.answer(&seen.qname, RData::AAAA(AAAA(address)))
        });
        vec![set.to(seen)]
    });
    let mx = to(|target, _| RData::MX(MX::new(1, name(target))));
    let srv = to(|target, _| RData::SRV(SRV::new(1, 1, 1, name(target))));
    let cname = Reply::by(|seen| {
        let target = format!("{}.{}.t.test", data(seen.qname.len(), 60), data(seen.qname.len() + 7, 60));
        vec![Answer::new().ttl(0).cname(&seen.qname, &target).a(&target, GLOBAL).to(seen)]
    });
    // A negative answer's SOA record says what its sender likes, too.
    let soa = Reply::by(|seen| {
        let zone = seen.qname.split_once('.').unwrap().1.to_owned();
        vec![Answer::rcode(ResponseCode::NXDomain).soa(&zone, 0, 0).to(seen)]
    });
    for (what, qtype, reply) in [
        ("60 KB of text", RecordType::TXT, text(60_000)),
        ("1 KB of text", RecordType::TXT, text(1000)),
        ("200 octets of text", RecordType::TXT, text(200)),
        ("MX", RecordType::MX, mx),
        ("SRV", RecordType::SRV, srv),
        ("CNAME", RecordType::A, cname),
        ("2,000 addresses", RecordType::AAAA, addresses),
        ("eight addresses", RecordType::AAAA, set),
        ("SOA", RecordType::A, soa),
    ] {
        let upstream = FakeUpstream::start();
        upstream.otherwise(Reply::by_transport(Answer::new().truncated(), reply.clone()));
        let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]").start();
        // Names of many lengths: each has an answer of its own, and is asked for again and again.
        let names = (0..300).map(|number| format!("{}.t.test", "a".repeat(1 + number % 60)));
        // The same answer twice says nothing new.
        let mut seen = HashSet::new();
        for heard in over_tcp(server.address(), names, qtype) {
            let message = &heard.message;
            let records = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
            let records = records.filter(|record| !record.data.to_string().contains("nobody.invalid"));
            seen.extend(records.map(|record| record.data.to_string()));
        }
        let octets: usize = seen.iter().map(|data| if qtype == RecordType::AAAA { 16 } else { data.len() }).sum();
        assert!(octets <= MOST, "{what}: {octets} octets");
    }
}

#[test]
fn what_is_known_or_cached_goes_on_when_the_budget_is_spent() {
    let upstream = FakeUpstream::start();
    upstream.on("short.t.test", Answer::new().ttl(1).a("short.t.test", GLOBAL));
    let budget = "allowed_hostnames = [\"*.t.test\", \"exact.test\"]\nbudget = { names = 2 }\nmessage = \"Ask us.\"";
    let server = Setup::policy(&upstream, budget)
        .file("other.toml", "[client.other]\nsources = [\"127.0.0.9\"]\npolicy = \"test\"")
        .start();
    let known: Vec<String> = (0..9).map(|number| format!("known{number}.t.test")).collect();
    for name in known.iter().map(String::as_str).chain(["short.t.test"]) {
        ask(name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    let heard = ask("new.t.test", RecordType::A).udp(&server);
    heard.expect_denied();
    let expected = "denied by budget.names of policy test: 2 new names a minute at *.t.test; known names go on, new ones when it is released. Ask us.";
    assert_eq!(heard.edes(), [(15, expected.to_owned())]);
    for name in &known {
        ask(name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        // Another type of it is a question that nobody asked yet.
        ask(name, RecordType::AAAA).udp(&server).expect_addresses(&[GLOBAL_V6.into()]);
    }
    ask("exact.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("new.t.test", RecordType::A).from("127.0.0.9").udp(&server).expect_addresses(&[GLOBAL.into()]);
    ask("new.t.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.until("a known name is asked for again", || {
        ask("short.t.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        (upstream.count("short.t.test") >= 2).then_some(())
    });
}

#[test]
fn a_spent_budget_is_released_as_time_goes_by() {
    let upstream = FakeUpstream::start();
    let server =
        Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]\nbudget = { names = 60, octets = 100000 }")
            .start();
    let spent = (0..1000)
        .find(|number| ask(&format!("n{number}.t.test"), RecordType::A).udp(&server).rcode() == ResponseCode::NXDomain);
    let spent = spent.expect("a thousand names in a few seconds are too many");
    server.until("one name a second", || {
        (ask(&format!("n{spent}.t.test"), RecordType::A).udp(&server).rcode() == ResponseCode::NoError).then_some(())
    });
}

#[test]
fn a_budget_that_is_off_or_only_audited_denies_nothing() {
    for (lines, audited) in [
        ("allowed_hostnames = [\"*.t.test\"]\nbudget = \"off\"", false),
        ("allowed_hostnames = [\"*.t.test\"]\nmode = \"audit\"\nbudget = { names = 1 }", true),
    ] {
        let upstream = FakeUpstream::start();
        let server = Setup::policy(&upstream, lines).start();
        for number in 0..500 {
            ask(&labels(number, &[63, 63, 30]), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        }
        assert_eq!(upstream.total(), 500);
        let counted = server.metric("hostgate_queries_total", &[("reason", "budget")]);
        assert_eq!(counted > 0, audited, "{counted}");
    }
}

#[test]
fn everyday_work_is_never_hit() {
    // Names under `allow_all`: ten sites with shards and what these share, as a browser asks for them.
    let mut browser = Vec::new();
    for site in 0..10 {
        let hosts = ["www", "static", "img", "api", "fonts", "cdn", "consent", "login", "search", "video"];
        browser.extend(hosts.map(|host| format!("{host}.site{site}.example")));
        browser.extend((0..24).map(|shard| format!("shard-{shard:02}.images.site{site}.example")));
    }
    browser.extend((0..60).map(|number| format!("px{number}.ads{}.example", number % 12)));
    // A job with a hundred buckets, a cluster's names through its search list, registries and mirrors.
    let buckets: Vec<String> =
        (0..100).map(|number| format!("ci-artifacts-{number:03}-eu-west-1.s3.objects.example")).collect();
    let mut cluster = Vec::new();
    for service in 0..30 {
        let search = ["jobs.svc.cluster.example", "svc.cluster.example", "cluster.example"];
        cluster.extend(search.map(|suffix| format!("api{service}.partner.{suffix}")));
        cluster.push(format!("service-{service}.jobs.svc.cluster.example"));
    }
    let registries =
        ["registry", "binaries", "fsevents", "index", "static", "crates", "deb", "security", "github", "codeload"];
    let registries: Vec<String> = registries.iter().map(|host| format!("{host}.packages.example")).collect();
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let cdn = format!("d{}.cdn.example", seen.qname.len());
        let answer = match seen.qtype {
            // Eight addresses out of two networks, others for each name, as object stores and networks for content delivery
            // have them.
            RecordType::A => (0..if seen.qname.contains(".cluster.") { 1 } else { 8 }).fold(
                Answer::new().ttl(5).cname(&seen.qname, &cdn),
                |answer, index| {
                    let host = data(seen.qname.bytes().map(usize::from).sum::<usize>() * 8 + index, 2).into_bytes();
                    answer.a(&cdn, std::net::Ipv4Addr::new(52, 216 + u8::from(index % 2 == 0), host[0], host[1]))
                },
            ),
            RecordType::AAAA if ![".s3.", ".cluster."].iter().any(|part| seen.qname.contains(part)) => {
                (0..4_u16).fold(Answer::new().ttl(5).cname(&seen.qname, &cdn), |answer, last| {
                    let site = u16::try_from(seen.qname.len()).unwrap();
                    answer.aaaa(&cdn, std::net::Ipv6Addr::new(0x2606, 1, 2, 3, 4, 5, site, last))
                })
            }
            _ => Answer::new().soa(seen.qname.rsplit_once('.').unwrap().1, 5, 5),
        };
        vec![answer.to(seen)]
    }));
    let lists = "allowed_hostnames = [\"*.s3.objects.example\", \"*.cluster.example\", \"*.packages.example\"]";
    let server = Setup::policy(&upstream, "allow_all = true")
        .file(
            "listed.toml",
            format!("[policy.listed]\n{lists}\n[client.listed]\nsources = [\"127.0.0.9\"]\npolicy = \"listed\"\n"),
        )
        .start();
    let work = [("127.0.0.1", browser), ("127.0.0.9", buckets), ("127.0.0.9", cluster), ("127.0.0.9", registries)];
    for round in 0..2 {
        for (source, names) in &work {
            for name in names {
                for qtype in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
                    let heard = ask(name, qtype).from(source).udp(&server);
                    assert_eq!(
                        (heard.rcode(), heard.edes()),
                        (ResponseCode::NoError, vec![]),
                        "{round}: {name} {qtype}"
                    );
                }
            }
        }
        // A package manager asks for its registry again and again.
        for _ in 0..1500 {
            let heard = ask("registry.packages.example", RecordType::A).from("127.0.0.9").udp(&server);
            assert_eq!((heard.rcode(), heard.edes()), (ResponseCode::NoError, vec![]));
        }
    }
    assert_eq!(server.metric("hostgate_queries_total", &[("reason", "budget")]), 0);
}

#[test]
fn an_address_is_given_even_when_data_beside_it_is_not() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let target = format!("{}.t.test", data(seen.qname.len(), 50));
        vec![Answer::new().cname(&seen.qname, &target).a(&target, GLOBAL).a(&target, GLOBAL_2).to(seen)]
    }));
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]\nbudget = { answers = 0 }").start();
    let heard = ask("x.t.test", RecordType::A).both(&server);
    heard.expect_addresses(&[GLOBAL.into(), GLOBAL_2.into()]);
    assert!(
        heard.message.answers.iter().all(|record| record.name.to_string() == "x.t.test." && record.ttl == 5),
        "{heard:#?}"
    );
    assert_eq!((heard.message.answers.len(), heard.edes()), (2, vec![]));
    let heard = ask("x.t.test", RecordType::AAAA).udp(&server);
    assert_eq!((heard.rcode(), heard.ede_codes(), heard.message.answers.len()), (ResponseCode::NoError, vec![15], 0));
}

#[test]
fn a_known_name_is_never_denied_for_being_asked_for_again() {
    let upstream = FakeUpstream::start();
    let brief = Reply::by(|seen| {
        let answer = match seen.qtype {
            RecordType::A => Answer::new().ttl(0).a(&seen.qname, GLOBAL),
            _ => Answer::new().soa("t.test", 0, 0),
        };
        vec![answer.to(seen)]
    });
    upstream.on("brief.t.test", brief);
    upstream.on("second.t.test", Answer::new().ttl(1).a("second.t.test", GLOBAL));
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]\nbudget = { repeats = 0 }").start();
    for name in ["brief.t.test", "second.t.test"] {
        for _ in 0..20 {
            ask(name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        }
    }
    for _ in 0..20 {
        let heard = ask("brief.t.test", RecordType::AAAA).both(&server);
        assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NoError, 0));
    }
    server.until("an old answer serves", || {
        let heard = ask("second.t.test", RecordType::A).udp(&server);
        heard.expect_addresses(&[GLOBAL.into()]);
        heard.ede_codes().contains(&3).then_some(())
    });
    // What no client asks for of itself is a question of its own, and was never answered.
    let heard = ask("second.t.test", RecordType::TXT).udp(&server);
    assert_eq!((heard.rcode(), heard.ede_codes()), (ResponseCode::NoError, vec![15]));
    assert_eq!((upstream.count("brief.t.test"), upstream.count("second.t.test")), (2, 1));
}
