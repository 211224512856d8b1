//! What holds between clients, and between a client and the upstreams, on random input.

use std::collections::HashSet;

use crate::support::client::wire_name;
use crate::support::upstream::Gate;
use crate::support::*;

/// A generator of numbers below a bound: the same ones for the same seed.
struct Dice(u64);

impl Dice {
    /// Returns a number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// Returns one of these.
    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// The types that are asked for.
const TYPES: [RecordType; 6] =
    [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::MX, RecordType::HTTPS, RecordType::PTR];

/// Returns a name in random case.
fn cased(name: &str, dice: &mut Dice) -> String {
    name.chars().map(|letter| if dice.below(2) == 0 { letter.to_ascii_uppercase() } else { letter }).collect()
}

#[test]
fn what_an_upstream_sees_is_a_function_of_name_type_and_four_flags() {
    let upstream = FakeUpstream::start();
    let policies = "[policy.one]\nallow_all = true\nbudget = \"off\"\nmessage = \"one\"\n[policy.two]\nallowed_hostnames = [\"*.test\"]\n\
                    budget = \"off\"\nmode = \"audit\"\ncname = \"inspect\"\n[client.one]\nsources = [\"127.0.0.2\"]\npolicy = \"one\"\n";
    let server = Setup::new(&[&upstream])
        .file("p.toml", policies)
        .top("default_policy = \"two\"")
        .upstream_line("case_randomisation = false")
        .start();
    let mut dice = Dice(10);
    let mut expected = HashSet::new();
    for number in 0..400 {
        let name = format!("n{number}.x{}.test", dice.below(1000));
        let qtype = dice.one(&TYPES);
        let (recursion, checking, dnssec, authentic) = (dice.below(2), dice.below(2), dice.below(2), dice.below(2));
        // Everything else that a client can say: its ID, Z, its payload size, options, transport, address, case.
        let flags = u16::try_from(recursion << 8 | checking << 4 | authentic << 5 | dice.below(2) << 6).unwrap();
        let mut query = ask(&cased(&name, &mut dice), qtype)
            .id(u16::try_from(dice.below(65_536)).unwrap())
            .flags(flags)
            .from(dice.one(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]));
        if dnssec == 0 && dice.below(3) == 0 {
            query = query.no_edns();
        } else {
            query = query.payload(dice.one(&[0, 512, 1232, 4096, 65_535]));
            if dnssec == 1 {
                query = query.dnssec_ok();
            }
            query = query.edns_flags(u16::try_from(dice.below(0x8000)).unwrap());
            for _ in 0..dice.below(4) {
                // Subnet, cookie, padding, expire, an unknown one.
                let data: Vec<u8> = (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
                query = match dice.one(&[8, 10, 12, 9, 65_001]) {
                    8 => query.option(8, &[&[0, 1, 24, 0][..], &[192, 0, 2]].concat()),
                    10 => query.option(10, &[data.as_slice(), &[0; 8]].concat()[..8]),
                    code => query.option(code, &data),
                };
            }
        }
        if dice.below(2) == 0 {
            query.udp(&server)
        } else {
            query.tcp(&server)
        };
        // DO says what AD does (RFC 6840 §5.7).
        let low = u8::try_from(checking << 4 | (authentic | dnssec) << 5).unwrap();
        let mut bytes = vec![u8::try_from(recursion).unwrap(), low, 0, 1, 0, 0, 0, 0, 0, 1];
        bytes.extend(wire_name(&name));
        bytes.extend(u16::from(qtype).to_be_bytes());
        bytes.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, u8::try_from(dnssec << 7).unwrap(), 0, 0, 0]);
        expected.insert(bytes);
    }
    for seen in upstream.seen() {
        assert!(expected.contains(&seen.bytes[2..]), "{}: {:02x?}", seen.qname, seen.bytes);
    }
    assert_eq!(upstream.total(), 400);
}

/// Returns an upstream with answers of all sorts, each a function of the question.
fn world() -> FakeUpstream {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let number: usize = seen.qname.bytes().map(usize::from).sum();
        let answer = match number % 6 {
            0 => Answer::nxdomain("test"),
            1 => Answer::new().soa("test", 300, 300),
            2 => Answer::new().cname(&seen.qname, "end.test").a("end.test", GLOBAL),
            3 => Answer::new().a(&seen.qname, GLOBAL).a(&seen.qname, [10, 0, 0, 1].into()),
            4 => Answer::new().a(&seen.qname, [192, 168, 0, 1].into()),
            _ => Answer::new().a(&seen.qname, GLOBAL).aaaa(&seen.qname, GLOBAL_V6).authentic(),
        };
        vec![answer.to(seen)]
    }));
    upstream
}

/// Returns an answer as it is compared: without its ID, and with every TTL zero, as that tells the age of what is cached.
fn compared(heard: &Heard) -> String {
    let mut message = heard.message.clone();
    message.metadata.id = 0;
    for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
        record.ttl = 0;
    }
    format!("{message:?}")
}

#[test]
fn what_a_client_sees_does_not_depend_on_what_others_do() {
    let policies = "[policy.one]\nallowed_hostnames = [\"*.one.test\", \"end.test\"]\ncname = \"inspect\"\nbudget = \"off\"\n\
                    [policy.two]\nallow_all = true\nprivate_answers = [\"*\"]\nbudget = \"off\"\n[policy.three]\n\
                    allowed_hostnames = [\"*.test\"]\nmode = \"audit\"\nquery_types = [\"A\"]\nbudget = \"off\"\n\
                    [client.one]\nsources = [\"127.0.0.2\"]\npolicy = \"one\"\n[client.two]\nsources = [\"127.0.0.3\"]\npolicy = \"two\"\n\
                    [client.three]\nsources = [\"127.0.0.4\"]\npolicy = \"three\"\n";
    let (upstream, beside) = (world(), world());
    let alone = Setup::new(&[&upstream]).file("p.toml", policies).start();
    let among = Setup::new(&[&beside]).file("p.toml", policies).start();
    for seed in 0..4 {
        let mut dice = Dice(seed);
        for _ in 0..150 {
            let query = |dice: &mut Dice| {
                let name = format!("n{}.{}.test", dice.below(40), dice.one(&["one", "two"]));
                let query = ask(&name, dice.one(&TYPES)).flags(dice.one(&[0x0100, 0x0110, 0]));
                if dice.below(2) == 0 { query.dnssec_ok() } else { query }
            };
            // Others ask for the same names and more, before and in between.
            for _ in 0..dice.below(4) {
                let other = query(&mut dice).from(dice.one(&["127.0.0.3", "127.0.0.4", "127.0.0.9"]));
                if dice.below(2) == 0 {
                    other.udp(&among)
                } else {
                    other.tcp(&among)
                };
            }
            let own = query(&mut dice).from("127.0.0.2");
            let heard = if dice.below(2) == 0 {
                (own.udp(&alone), own.udp(&among))
            } else {
                (own.tcp(&alone), own.tcp(&among))
            };
            assert_eq!(compared(&heard.0), compared(&heard.1), "{seed}: {own:?}");
        }
    }
}

#[test]
fn a_cache_of_its_own_tells_nothing_of_what_others_asked() {
    let upstream = FakeUpstream::start();
    let client = |id: &str, policy: &str, last: u8| {
        format!("[client.{id}]\nsources = [\"127.0.0.{last}\"]\npolicy = \"{policy}\"\n")
    };
    let policy = |id: &str, cache: &str| {
        format!("[policy.{id}]\nallowed_hostnames = [\"*.test\"]\ncache = \"{cache}\"\nbudget = \"off\"\n")
    };
    let clients =
        [("a", "all", 2), ("b", "other", 3), ("c", "own", 4), ("d", "own", 5), ("e", "each", 6), ("f", "each", 7)];
    let policies = [("all", "shared"), ("other", "shared"), ("own", "policy"), ("each", "client")];
    let text = policies.map(|(id, cache)| policy(id, cache)).concat()
        + &clients.map(|(id, policy, last)| client(id, policy, last)).concat();
    let server = Setup::new(&[&upstream]).file("p.toml", text).start();
    // How often it is asked upstream by then, over UDP and then from the cache over TCP.
    for ((_, _, last), asked) in clients.into_iter().zip([1, 1, 2, 2, 3, 4]) {
        ask("x.test", RecordType::A).from(&format!("127.0.0.{last}")).both(&server).expect_addresses(&[GLOBAL.into()]);
        assert_eq!(upstream.count("x.test"), asked, "127.0.0.{last}");
    }
    // Nor does a question on its way: it is not joined by who has another part of the cache.
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    std::thread::scope(|scope| {
        for (_, _, last) in clients {
            let server = &server;
            scope.spawn(move || {
                let heard = ask("held.test", RecordType::A).from(&format!("127.0.0.{last}")).udp(server);
                heard.expect_addresses(&[GLOBAL.into()]);
            });
        }
        server.until("all parts have asked", || (upstream.count("held.test") >= 4).then_some(()));
        gate.open();
    });
}
