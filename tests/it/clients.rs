//! Which policy applies: the client by longest prefix, then the listener, then the default, then none.

use std::fs;
use std::net::UdpSocket;

use crate::support::*;

/// Policies that each allow the one name that tells them.
const POLICIES: &str = r#"
[policy.build]
allowed_hostnames = ["build.test"]
[policy.runtime]
allowed_hostnames = ["runtime.test"]
[policy.lockdown]
[policy.wide]
allowed_hostnames = ["wide.test"]
[policy.listener]
allowed_hostnames = ["listener.test"]
[policy.fallback]
allowed_hostnames = ["fallback.test"]

[blueprint.agent]
build_policy = "build"
runtime_policy = "runtime"

[blueprint.half]
build_policy = "build"
"#;

/// The names that tell which policy was in force.
const NAMES: &[&str] =
    &["build.test", "runtime.test", "wide.test", "listener.test", "fallback.test", "unrestricted.test"];

/// Returns which of [`NAMES`] this source may ask for.
fn allowed(server: &Server, to: &str, source: &str) -> Vec<&'static str> {
    let address = server.address_on(to);
    let allows = |name: &&&str| {
        let query = ask(name, RecordType::A).from(source);
        let (udp, tcp) = (query.udp_to(address).unwrap(), query.tcp_to(address).unwrap());
        assert_eq!(udp.addresses(), tcp.addresses(), "{source} {name}");
        !udp.addresses().is_empty()
    };
    NAMES.iter().filter(allows).copied().collect()
}

#[test]
fn longest_prefix_phase_override_listener_and_default() {
    const CASES: &[(&str, &str, &[&str])] = &[
        ("127.30.9.9", "the builders' prefix", &["build.test"]),
        ("127.31.0.1", "their other prefix", &["build.test"]),
        ("127.30.1.7", "an address in a prefix, runtime by default", &["runtime.test"]),
        ("127.30.1.8", "the client's own policy", &[]),
        ("127.30.1.9", "runtime spelled out", &["runtime.test"]),
        ("127.30.1.10", "a blueprint without a policy for the phase: the default", &["fallback.test"]),
        ("127.30.1.11", "unrestricted by name", NAMES),
        ("127.16.0.1", "the wide prefix", &["wide.test"]),
        ("127.29.255.255", "the wide prefix again", &["wide.test"]),
        ("127.31.255.255", "its end, held by the longer one", &["build.test"]),
        ("127.32.0.0", "just outside: the default", &["fallback.test"]),
        ("127.15.255.255", "just before: the default", &["fallback.test"]),
    ];
    let upstream = FakeUpstream::start();
    let clients = r#"
[client.everyone]
sources = ["127.16.0.0/12"]
policy = "wide"
[client.ci-builders]
sources = ["127.30.0.0/16", "127.31.0.0/16"]
blueprint = "agent"
phase = "build"
[client.devbox-7]
sources = ["127.30.1.7"]
blueprint = "agent"
[client.devbox-8]
sources = ["127.30.1.8/32"]
blueprint = "agent"
policy = "lockdown"
[client.devbox-9]
sources = ["127.30.1.9"]
blueprint = "agent"
phase = "runtime"
[client.half]
sources = ["127.30.1.10"]
blueprint = "half"
[client.free]
sources = ["127.30.1.11"]
policy = "unrestricted"
"#;
    let server = Setup::new(&[&upstream])
        .file("policies.toml", POLICIES)
        .file("deep/er/clients.toml", clients)
        .top("default_policy = \"fallback\"")
        .listen("127.0.0.2:0", Some("listener"))
        .start();
    // Where its blueprint names no policy for the phase, a client has the default one; there is nothing to warn of.
    assert!(server.log_lines(&["WARN", "half"]).is_empty(), "{}", server.log());
    for (source, case, expected) in CASES {
        assert_eq!(allowed(&server, "127.0.0.1", source), *expected, "{source}: {case}");
    }
    assert_eq!(allowed(&server, "127.0.0.2", "127.32.0.1"), ["listener.test"], "the listener's policy");
    assert_eq!(allowed(&server, "127.0.0.2", "127.30.1.7"), ["runtime.test"], "a client goes before the listener");
}

#[test]
fn no_client_no_listener_policy_no_default_is_denied() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("p.toml", format!("{POLICIES}[client.one]\nsources = [\"127.0.0.7\"]\npolicy = \"wide\"\n"))
        .start();
    assert_eq!(allowed(&server, "127.0.0.1", "127.0.0.7"), ["wide.test"]);
    assert!(allowed(&server, "127.0.0.1", "127.0.0.8").is_empty());
    let heard = ask("wide.test", RecordType::A).from("127.0.0.8").both(&server);
    heard.expect_denied();
    assert_eq!(heard.ede_codes(), [18]);
    assert!(ask("wide.test", RecordType::A).from("127.0.0.8").no_edns().both(&server).edes().is_empty());
}

#[test]
fn ipv4_clients_match_on_an_ipv6_wildcard_listener() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("p.toml", format!("{POLICIES}[client.one]\nsources = [\"127.0.0.7\"]\npolicy = \"wide\"\n"))
        .listen_only("[::]:0")
        .start();
    let address = format!("127.0.0.1:{}", server.address().port()).parse().unwrap();
    let query = ask("wide.test", RecordType::A).from("127.0.0.7");
    // Whether `[::]` takes IPv4 too is the listener's to say; if it does, an IPv4-mapped source is an IPv4 source.
    if let Ok(heard) = query.tcp_to(address) {
        heard.expect_addresses(&[GLOBAL.into()]);
        query.udp_to(address).unwrap().expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn ipv6_clients_match_by_longest_prefix() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return skip("this machine has no IPv6 loopback address");
    }
    let clients = "[client.all4]\nsources = [\"0.0.0.0/0\"]\npolicy = \"build\"\n\
                   [client.all6]\nsources = [\"::/0\"]\npolicy = \"lockdown\"\n\
                   [client.low]\nsources = [\"::/64\"]\npolicy = \"runtime\"\n\
                   [client.one]\nsources = [\"::1\"]\npolicy = \"wide\"\n";
    let upstream = FakeUpstream::start();
    let server =
        Setup::new(&[&upstream]).file("p.toml", POLICIES).file("clients.toml", clients).listen("[::1]:0", None).start();
    assert_eq!(allowed(&server, "::1", "::1"), ["wide.test"]);
    assert_eq!(allowed(&server, "127.0.0.1", "127.0.0.1"), ["build.test"], "no IPv6 prefix holds an IPv4 source");
    fs::write(server.policies("clients.toml"), clients.replace("\"::1\"", "\"2001:db8::/32\"")).unwrap();
    server.wait_generation(2);
    assert_eq!(allowed(&server, "::1", "::1"), ["runtime.test"]);
}

#[test]
fn what_cannot_be_meant_stops_the_start() {
    const CASES: &[(&str, &str, &[&str])] = &[
        ("unknown policy", "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"nope\"\n", &["bad.toml:3:10", "nope"]),
        (
            "unknown blueprint",
            "[client.c]\nsources = [\"192.0.2.1\"]\nblueprint = \"nope\"\n",
            &["bad.toml:3:13", "nope"],
        ),
        ("unknown include", "[policy.p]\ninclude = [\"nope\"]\n", &["bad.toml:2:12", "nope"]),
        ("unknown preset", "[policy.p]\ninclude = [\"preset:nope\"]\n", &["bad.toml:2:12", "preset:nope", "npm"]),
        ("unknown build policy", "[blueprint.b]\nbuild_policy = \"nope\"\n", &["bad.toml:2:16", "nope"]),
        ("no policy, no blueprint", "[client.c]\nsources = [\"192.0.2.1\"]\n", &["bad.toml:1:", "policy"]),
        ("no source", "[client.c]\npolicy = \"unrestricted\"\n", &["bad.toml:1:", "sources"]),
        (
            "equal prefixes",
            "[client.c]\nsources = [\"192.0.2.0/24\"]\npolicy = \"unrestricted\"\n\
             [client.d]\nsources = [\"192.0.2.0/24\"]\npolicy = \"unrestricted\"\n",
            &["bad.toml:2:12", "bad.toml:5:12", "192.0.2.0/24"],
        ),
        (
            "a cycle",
            "[policy.a]\ninclude = [\"b\"]\n[policy.b]\ninclude = [\"a\"]\n",
            &["bad.toml:2:12", "bad.toml:4:12", "b > a > b"],
        ),
        ("unknown key", "[policy.p]\nallowed_hostname = [\"a.test\"]\n", &["bad.toml:2:1", "allowed_hostnames"]),
        ("wrong type", "[policy.p]\nallow_all = \"yes\"\n", &["bad.toml:2:13", "`true` or `false`"]),
        (
            "bad phase",
            "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"unrestricted\"\nphase = \"boot\"\n",
            &["bad.toml:4:9"],
        ),
        ("bad source", "[client.c]\nsources = [\"192.0.2.300\"]\npolicy = \"unrestricted\"\n", &["bad.toml:2:12"]),
        ("bad mode", "[policy.p]\nmode = \"log\"\n", &["bad.toml:2:8", "audit"]),
        ("bad query type", "[policy.p]\nquery_types = [\"A\", \"AAA\"]\n", &["bad.toml:2:21", "AAA"]),
        ("meta query type", "[policy.p]\nquery_types = [\"ANY\"]\n", &["bad.toml:2:16", "ANY"]),
        ("defining unrestricted", "[policy.unrestricted]\nallow_all = true\n", &["bad.toml:1:", "unrestricted"]),
        ("TOML syntax", "[policy.p]\nallow_all = \n", &["bad.toml:2:"]),
        ("empty file", "", &["bad.toml", "half written"]),
        ("only comments", "# nothing\n\n", &["bad.toml", "half written"]),
    ];
    for (case, text, parts) in CASES {
        let upstream = FakeUpstream::start();
        let finished = Setup::new(&[&upstream])
            .file("bad.toml", text)
            .file("good.toml", "[policy.good]\nallowed_hostnames = [\"a.test\"]\n")
            .refused();
        assert_eq!(finished.code, Some(78), "{case}: {finished:#?}");
        for part in *parts {
            assert!(finished.stderr.contains(part), "{case}: no `{part}` in\n{}", finished.stderr);
        }
    }
}

#[test]
fn double_id_names_both_places_and_all_errors_are_shown() {
    let upstream = FakeUpstream::start();
    let finished = Setup::new(&[&upstream])
        .file("a.toml", "[policy.same]\nallowed_hostnames = [\"*\"]\n")
        .file("b.toml", "[policy.other]\n[policy.same]\nallowed_hostnames = [\"x:1\"]\n")
        .file("c.toml", "[policy.c]\nmode = 3\n")
        .refused()
        .expect_code(78);
    for place in ["a.toml:1:", "b.toml:2:", "a.toml:2:22", "b.toml:3:22", "c.toml:2:8"] {
        assert!(finished.stderr.contains(place), "no {place} in\n{}", finished.stderr);
    }
}

#[test]
fn unknown_default_or_listener_policy_stops_the_start() {
    for (setup, place) in [
        (Setup::new(&[]).top("default_policy = \"nope\""), "hostgate.toml:2:18"),
        (Setup::new(&[]).listen("127.0.0.2:0", Some("nope")), "hostgate.toml:6:10"),
    ] {
        setup
            .servers(&["192.0.2.1"])
            .file("p.toml", "[policy.p]\n")
            .refused()
            .expect_code(78)
            .expect_text(&[place, "nope"]);
    }
}
