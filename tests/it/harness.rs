//! The scripted upstream and the client, tried on each other: a failure here is the tests' own.

use crate::support::*;

#[test]
fn scripted_upstream_answers_over_both_transports_and_records() {
    let upstream = FakeUpstream::start();
    upstream.on("big.test", Reply::by_transport(Answer::new().truncated(), Answer::new().a("big.test", GLOBAL_2)));
    upstream.on("twice.test", Reply::first_then(Answer::nxdomain("test").ede(15, "why"), Answer::new()));
    let query = ask("Name.Test", RecordType::A).dnssec_ok();
    query.udp_to(upstream.address).unwrap().expect_addresses(&[GLOBAL.into()]);
    query.tcp_to(upstream.address).unwrap().expect_addresses(&[GLOBAL.into()]);
    assert!(ask("big.test", RecordType::A).udp_to(upstream.address).unwrap().message.metadata.truncation);
    ask("big.test", RecordType::A).tcp_to(upstream.address).unwrap().expect_addresses(&[GLOBAL_2.into()]);
    let heard = ask("twice.test", RecordType::A).udp_to(upstream.address).unwrap();
    assert_eq!((heard.rcode(), heard.edes()), (ResponseCode::NXDomain, vec![(15, "why".to_owned())]));
    assert_eq!(ask("twice.test", RecordType::A).udp_to(upstream.address).unwrap().rcode(), ResponseCode::NoError);
    assert_eq!((upstream.count("name.test"), upstream.count("big.test"), upstream.total()), (2, 2, 6));
    let seen = upstream.seen_for("name.test");
    assert_eq!((seen[0].bytes.clone(), seen[0].tcp, seen[1].tcp), (query.bytes(), false, true));
}
