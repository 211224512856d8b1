//! Devboxes by name: whom hostgate tells where another one is, and that nobody else is ever asked.

use std::fs;

use hickory_proto::rr::RData;
use serde_json::Value;

use crate::support::*;

/// Three devboxes that may look one another up, one that may not, and a build container.
const POLICIES: &str = r#"
[policy.team]
allow_devbox_to_devbox = true
allowed_hostnames = ["allowed.test"]
denied_hostnames = ["secret.devbox.internal"]
[policy.alone]
allowed_hostnames = ["*.devbox.internal", "devbox.internal", "*.1.10.in-addr.arpa", "9.0.0.127.in-addr.arpa"]
[policy.audited]
mode = "audit"
[blueprint.agent]
runtime_policy = "team"
build_policy = "team"

[client.dbx_one]
sources = ["127.0.0.11", "10.1.0.11", "2001:db8::11", "10.9.0.0/24"]
blueprint = "agent"
[client.Web]
sources = ["127.0.0.12"]
blueprint = "agent"
[client.secret]
sources = ["127.0.0.13"]
policy = "alone"
[client.recorded]
sources = ["127.0.0.14"]
policy = "audited"
[client.builder]
sources = ["127.0.0.15"]
blueprint = "agent"
phase = "build"
[client.free]
sources = ["127.0.0.16"]
policy = "unrestricted"
"#;

/// Starts with these policies, a decision log, and more lines at the top of hostgate.toml.
fn start(upstream: &FakeUpstream, top: &str) -> Server {
    let decisions = "[decisions]\npath = \"decisions.jsonl\"";
    Setup::new(&[upstream]).file("p.toml", POLICIES).top(top).table(decisions).start()
}

/// Returns the names of the answer's PTR records.
fn pointers(heard: &Heard) -> Vec<String> {
    let name = |data: &RData| if let RData::PTR(name) = data { Some(name.0.to_ascii()) } else { None };
    heard.message.answers.iter().filter_map(|record| name(&record.data)).collect()
}

#[test]
fn devboxes_of_a_policy_that_allows_it_find_one_another_and_nobody_else_is_asked() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "denied_ttl = 7");
    let from = |source: &str, name: &str, qtype| ask(name, qtype).from(source).both(&server);

    let heard = from("127.0.0.12", "Dbx_One.DEVBOX.internal", RecordType::A);
    heard.expect_addresses(&["127.0.0.11".parse().unwrap(), "10.1.0.11".parse().unwrap()]);
    assert_eq!(heard.flags() & 0x0780, 0x0580, "AA, RD, RA, and not TC: {heard:#?}");
    assert_eq!(heard.ttl(), 7);
    assert_eq!(heard.message.queries[0].name().to_string(), "Dbx_One.DEVBOX.internal.", "the case is kept");
    assert!(heard.edes().is_empty(), "{heard:#?}");
    from("127.0.0.12", "dbx_one.devbox.internal", RecordType::AAAA)
        .expect_addresses(&["2001:db8::11".parse().unwrap()]);
    // Its own name too, in any case; builders and the unrestricted may ask, and builders are no devboxes.
    for source in ["127.0.0.12", "127.0.0.15", "127.0.0.16"] {
        from(source, "web.devbox.internal", RecordType::A).expect_addresses(&["127.0.0.12".parse().unwrap()]);
    }
    from("127.0.0.12", "builder.devbox.internal", RecordType::A).expect_denied();
    for (name, qtype) in [
        ("web.devbox.internal", RecordType::AAAA),
        ("web.devbox.internal", RecordType::TXT),
        ("web.devbox.internal", RecordType::PTR),
        ("devbox.internal", RecordType::NS),
    ] {
        let heard = from("127.0.0.11", name, qtype);
        assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NoError, 0), "{name} {qtype}");
        assert!(heard.message.metadata.authoritative && heard.soa().is_some_and(|(_, ttl, _)| ttl == 7), "{heard:#?}");
    }
    for name in ["nobody.devbox.internal", "a.web.devbox.internal", "secret.devbox.internal"] {
        let heard = from("127.0.0.11", name, RecordType::A);
        heard.expect_denied();
        assert!(heard.soa().is_some_and(|(_, ttl, _)| ttl == 7), "{heard:#?}");
    }
    assert_eq!(pointers(&from("127.0.0.12", "11.0.0.127.in-addr.arpa", RecordType::PTR)), ["dbx_one.devbox.internal."]);
    let six = "1.1.".to_owned() + &"0.".repeat(22) + "8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(pointers(&from("127.0.0.16", &six, RecordType::PTR)), ["dbx_one.devbox.internal."]);
    assert_eq!(upstream.total(), 0, "{:?}", upstream.seen());
}

#[test]
fn for_all_others_no_devbox_exists_whatever_their_lists_say() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "");
    for source in ["127.0.0.13", "127.0.0.14"] {
        for name in ["web.devbox.internal", "nobody.devbox.internal", "devbox.internal"] {
            let heard = ask(name, RecordType::A).from(source).both(&server);
            heard.expect_denied();
            let edes = heard.edes();
            assert!(edes.len() == 1 && edes[0].0 == 15 && edes[0].1.contains("allow_devbox_to_devbox"), "{edes:?}");
        }
        for name in ["12.0.0.127.in-addr.arpa", "11.0.1.10.in-addr.arpa"] {
            ask(name, RecordType::PTR).from(source).both(&server).expect_denied();
        }
    }
    let nobody = ask("web.devbox.internal", RecordType::A).from("127.0.0.99").both(&server);
    nobody.expect_denied();
    assert_eq!(nobody.ede_codes(), [18]);
    assert_eq!(upstream.total(), 0, "{:?}", upstream.seen());
    // An address that is no devbox's goes the ordinary way.
    ask("9.0.0.127.in-addr.arpa", RecordType::PTR).from("127.0.0.13").both(&server);
    assert!(upstream.count("9.0.0.127.in-addr.arpa") > 0);
}

#[test]
fn answers_keep_to_the_clients_size_and_flags() {
    let upstream = FakeUpstream::start();
    let sources: Vec<_> = (0..100).map(|last| format!("\"10.1.1.{last}\"")).collect();
    let many = format!("[client.many]\nsources = [{}]\nblueprint = \"agent\"\n", sources.join(", "));
    let server = Setup::new(&[&upstream]).file("p.toml", POLICIES).file("many.toml", many).start();
    let query = || ask("many.devbox.internal", RecordType::A).from("127.0.0.11");
    let heard = query().udp(&server);
    // Behind the header and a question of 26 octets; each address takes 16.
    let fit = |octets: usize| (octets - 12 - 26) / 16;
    assert!(heard.message.metadata.truncation, "{heard:#?}");
    assert_eq!(heard.addresses().len(), fit(1232 - 11), "as many as fit");
    assert!(heard.bytes.len() <= 1232 && heard.message.edns.is_some(), "{heard:#?}");
    assert_eq!(query().tcp(&server).addresses().len(), 100);
    let heard = query().no_edns().udp(&server);
    assert!(heard.message.metadata.truncation && heard.bytes.len() <= 512 && heard.message.edns.is_none());
    assert_eq!(heard.addresses().len(), fit(512));
    let few = || ask("web.devbox.internal", RecordType::A).from("127.0.0.11");
    let heard = few().dnssec_ok().checking_disabled().both(&server);
    assert!(heard.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok), "{heard:#?}");
    assert_eq!(heard.flags() & 0x0030, 0x0010, "CD, and no AD");
    assert!(few().no_edns().both(&server).message.edns.is_none());
    let heard = ask("web.devbox.internal", RecordType::ANY).from("127.0.0.11").both(&server);
    assert_eq!(heard.message.answers[0].record_type(), RecordType::HINFO, "RFC 8482");
}

#[test]
fn devboxes_come_and_go_and_the_suffix_changes_with_a_reload() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "devbox_suffix = \"devbox.internal\"");
    let heard = |name: &str| ask(name, RecordType::A).from("127.0.0.11").udp(&server);
    heard("new.devbox.internal").expect_denied();
    server.write("new.toml", "[client.new]\nsources = [\"127.0.0.21\"]\nblueprint = \"agent\"\n");
    server.until("the new one", || {
        (heard("new.devbox.internal").addresses() == ["127.0.0.21".parse::<std::net::IpAddr>().unwrap()]).then_some(())
    });
    server.remove("new.toml");
    server.until("gone", || (heard("new.devbox.internal").rcode() == ResponseCode::NXDomain).then_some(()));
    server.reconfigure("devbox_suffix = \"devbox.internal\"", "devbox_suffix = \"Box.\"");
    server.until("the suffix", || (!heard("web.box").addresses().is_empty()).then_some(()));
    heard("web.devbox.internal").expect_denied();
    assert_eq!(upstream.total(), 0, "{:?}", upstream.seen());
    server.reconfigure("devbox_suffix = \"Box.\"", "devbox_suffix = \"*.box\"");
    assert!(server.wait_error().contains("hostgate.toml:2:17"));
    assert!(!heard("web.box").addresses().is_empty(), "an error keeps what was");
}

#[test]
fn records_metrics_and_explain_say_the_same() {
    const CASES: &[(&str, &str, &str, &str, &str)] = &[
        ("127.0.0.11", "web.devbox.internal", "A", "allow", "devbox"),
        ("127.0.0.11", "web.devbox.internal", "MX", "nodata", "devbox"),
        ("127.0.0.11", "12.0.0.127.in-addr.arpa", "PTR", "allow", "devbox"),
        ("127.0.0.11", "nobody.devbox.internal", "A", "deny", "no-devbox"),
        ("127.0.0.11", "secret.devbox.internal", "A", "deny", "denied-rule"),
        ("127.0.0.13", "dbx_one.devbox.internal", "A", "deny", "devbox-to-devbox"),
        ("127.0.0.14", "recorded.devbox.internal", "A", "deny", "devbox-to-devbox"),
    ];
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "");
    let path = server.directory().join("decisions.jsonl");
    for (source, name, qtype, action, reason) in CASES {
        ask(name, qtype.parse().unwrap()).from(source).udp(&server);
        let record = server.until("the record", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            records.find(|record| record["qname"] == *name && record["qtype"] == *qtype)
        });
        assert_eq!((&record["action"], &record["reason"]), (&(*action).into(), &(*reason).into()), "{record}");
        assert_eq!((&record["audited"], &record["cache"]), (&false.into(), &"none".into()), "{record}");
        let metric = server.metric("hostgate_queries_total", &[("action", action), ("reason", reason)]);
        assert!(metric > 0, "{name}");

        let policies = server.policies("");
        let policies = policies.to_str().unwrap();
        let arguments = ["explain", name, "--client", source, "--type", qtype, "--policies", policies, "--json"];
        let explained = run(arguments).expect_code(i32::from(*action != "allow")).json();
        assert_eq!((&explained["action"], &explained["reason"]), (&record["action"], &record["reason"]), "{explained}");
    }
    let policies = server.policies("");
    let arguments = ["--policies", policies.to_str().unwrap()];
    let explain =
        |name: &str, source: &str| run(["explain", name, "--client", source].into_iter().chain(arguments)).stdout;
    let found = explain("web.devbox.internal", "127.0.0.11");
    assert!(found.contains("devbox  Web (") && found.contains("answer  127.0.0.12"), "{found}");
    let missing = explain("web.devbox.internal", "127.0.0.13");
    assert!(missing.contains("need allow_devbox_to_devbox, whatever allowed_hostnames says"), "{missing}");
}
