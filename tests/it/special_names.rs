//! Names that no policy has to list: those of the host itself, those for local use, and those that validators ask about.

use crate::support::*;

#[test]
fn a_name_for_local_use_never_leaves() {
    let upstream = FakeUpstream::start();
    let policies = [
        "allow_all = true",
        "mode = \"audit\"",
        "mode = \"audit\"\ndenied_hostnames = [\"*.local\"]",
        "allow_all = true\nbudget = \"off\"",
    ];
    for policy in policies {
        let server = Setup::policy(&upstream, policy).start();
        for (name, qtype) in [
            ("x.onion", RecordType::A),
            ("a.invalid", RecordType::AAAA),
            ("printer.local", RecordType::A),
            ("_http._tcp.local", RecordType::SRV),
            ("x.alt", RecordType::HTTPS),
            ("home.arpa", RecordType::SOA),
            ("nas.Home.Arpa", RecordType::A),
            ("1.0.0.10.in-addr.arpa", RecordType::PTR),
            ("1.1.20.172.in-addr.arpa", RecordType::PTR),
            ("d.f.ip6.arpa", RecordType::NS),
        ] {
            let heard = ask(name, qtype).both(&server);
            heard.expect_denied();
            assert!(heard.soa().is_some() && heard.message.metadata.authoritative, "{policy}: {name}: {heard:#?}");
        }
        for name in ["localhost", "a.b.LocalHost"] {
            let loopback: [std::net::IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
            let heard = ask(name, RecordType::A).both(&server);
            assert!(heard.message.metadata.authoritative, "{heard:#?}");
            heard.expect_addresses(&loopback[..1]);
            ask(name, RecordType::AAAA).both(&server).expect_addresses(&loopback[1..]);
            let heard = ask(name, RecordType::MX).both(&server);
            assert_eq!((heard.rcode(), heard.message.answers.len()), (ResponseCode::NoError, 0), "{heard:#?}");
            assert!(heard.soa().is_some(), "{heard:#?}");
        }
        assert_eq!(upstream.total(), 0, "{policy}");
        assert!(
            server.metric(
                "hostgate_queries_total",
                &[("reason", "special-use"), ("action", "deny"), ("transport", "udp")]
            ) > 0
        );
    }
    // Localhost is answered where nothing is listed, too, and what is listed is asked for.
    let lists = "allowed_hostnames = [\"*.local\", \"localhost\", \"1.0.0.10.in-addr.arpa\", \"*.home.arpa\"]\nbudget = \"off\"";
    let server = Setup::policy(&upstream, lists).start();
    let heard = ask("localhost", RecordType::A).both(&server);
    heard.expect_addresses(&["127.0.0.1".parse().unwrap()]);
    ask("printer.local", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    ask("1.0.0.10.in-addr.arpa", RecordType::PTR).udp(&server);
    ask("nas.home.arpa", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(upstream.total(), 3);
    ask("x.onion", RecordType::A).both(&server).expect_denied();
}

#[test]
fn what_a_validator_asks_about_a_listed_name_is_forwarded() {
    let upstream = FakeUpstream::start();
    let lists = "allowed_hostnames = [\"www.a.test\", \"*.b.test\"]\ndenied_hostnames = [\"secret.a.test\"]";
    let server = Setup::policy(&upstream, lists).start();
    let mut asked = 0;
    for qtype in [RecordType::DS, RecordType::DNSKEY] {
        for name in [".", "test", "a.test", "b.test", "www.a.test", "x.b.test"] {
            ask(name, qtype).dnssec_ok().udp(&server);
            asked += 1;
            assert_eq!(upstream.total(), asked, "{name} {qtype}");
        }
        for name in ["secret.a.test", "c.test", "example", "x.www.a.test"] {
            ask(name, qtype).dnssec_ok().udp(&server).expect_denied();
        }
    }
    for qtype in [RecordType::A, RecordType::NS, RecordType::SOA, RecordType::TXT, RecordType::NSEC, RecordType::RRSIG]
    {
        for name in [".", "test", "a.test", "b.test"] {
            ask(name, qtype).udp(&server).expect_denied();
        }
    }
    assert_eq!(upstream.total(), asked);
    let labels = [("reason", "dnssec-chain"), ("action", "allow"), ("transport", "udp")];
    assert_eq!(server.metric("hostgate_queries_total", &labels), 8);
}
