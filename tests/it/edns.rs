//! Upstreams that do not understand EDNS, in all the ways they say so (RFC 6891 §6.2.2, §7).

use std::time::{Duration, Instant};

use hickory_proto::op::Edns;

use crate::support::upstream::Seen;
use crate::support::{client, *};

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Starts with this policy for all and one server, over UDP or TCP.
fn start(upstream: &FakeUpstream, scheme: &str) -> Server {
    let server = format!("{scheme}{}", upstream.address);
    Setup::new(&[]).servers(&[&server]).file("test.toml", POLICY).top("default_policy = \"test\"").start()
}

/// Returns an address for whatever was asked; never with an OPT record if there was none.
fn address(seen: &Seen) -> Vec<Vec<u8>> {
    vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]
}

/// Returns a reply with this RCODE and the question, without an OPT record.
fn rcode(seen: &Seen, rcode: u8) -> Vec<u8> {
    let question = 12 + client::wire_name(&seen.qname).len() + 4;
    let mut reply = seen.bytes[..question].to_vec();
    (reply[2], reply[3]) = (reply[2] | 0x80, 0x80 | rcode);
    reply[6..12].fill(0);
    reply
}

/// Returns the header of such a reply and nothing else.
fn bare(seen: &Seen, code: u8) -> Vec<u8> {
    let mut reply = rcode(seen, code);
    reply.truncate(12);
    reply[4..].fill(0);
    reply
}

/// Returns such a reply with an OPT record and without the question.
fn without_question(seen: &Seen, code: u8, high: u8) -> Vec<u8> {
    let mut reply = bare(seen, code);
    reply[11] = 1;
    reply.extend([0, 0, 41, 4, 208, high, 0, 0, 0, 0, 0]);
    reply
}

/// Returns the first octets of the query, made into a reply with this RCODE; its counts stay.
fn echo(seen: &Seen, length: usize, code: u8) -> Vec<u8> {
    let mut reply = seen.bytes[..length].to_vec();
    (reply[2], reply[3]) = (reply[2] | 0x80, 0x80 | code);
    reply
}

/// A way to say that EDNS is not understood.
type Complaint = fn(&Seen) -> Vec<u8>;

/// The ways to say it.
const COMPLAINTS: &[(&str, Complaint)] = &[
    ("FORMERR", |seen| rcode(seen, 1)),
    ("NOTIMP", |seen| rcode(seen, 4)),
    ("a bare FORMERR", |seen| bare(seen, 1)),
    ("a bare NOTIMP", |seen| bare(seen, 4)),
    ("FORMERR with an OPT record", |seen| Answer::rcode(ResponseCode::FormErr).to(seen)),
    ("BADVERS", |seen| Answer::rcode(ResponseCode::BADVERS).to(seen)),
    ("FORMERR with an OPT record and no question", |seen| without_question(seen, 1, 0)),
    ("NOTIMP with an OPT record and no question", |seen| without_question(seen, 4, 0)),
    ("BADVERS without a question", |seen| without_question(seen, 0, 1)),
    ("a bare FORMERR with the query's counts", |seen| echo(seen, 12, 1)),
    ("FORMERR that counts an OPT record and has none", |seen| echo(seen, rcode(seen, 1).len(), 1)),
    ("FORMERR and the whole query", |seen| echo(seen, seen.bytes.len(), 1)),
];

/// Returns an upstream that complains where `complains` says so, and answers else.
fn upstream(complaint: Complaint, complains: fn(&Edns) -> bool) -> FakeUpstream {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(move |seen| match &seen.message.edns {
        Some(edns) if complains(edns) => vec![complaint(seen)],
        _ => address(seen),
    }));
    upstream
}

#[test]
fn upstream_without_edns_is_asked_without_it_at_once_and_from_then_on() {
    for (case, complaint) in COMPLAINTS {
        for scheme in ["", "tcp://"] {
            let upstream = upstream(*complaint, |_| true);
            let server = start(&upstream, scheme);
            let begin = Instant::now();
            let heard = ask("first.test", RecordType::A).udp(&server);
            assert_eq!(heard.rcode(), ResponseCode::NoError, "{case}: {scheme}: {heard:#?}");
            heard.expect_addresses(&[GLOBAL.into()]);
            assert!(begin.elapsed() < Duration::from_secs(1), "{case}: {:?}", begin.elapsed());
            assert!(heard.message.edns.is_some(), "{case}: the client's EDNS is not the upstream's");
            let with: Vec<bool> = upstream.seen().iter().map(|seen| seen.message.edns.is_some()).collect();
            assert_eq!(with, [true, false], "{case}: {scheme}");
            for number in 0..3 {
                let name = format!("n{number}.test");
                let query = ask(&name, RecordType::A).dnssec_ok();
                let heard = if number == 1 { query.tcp(&server) } else { query.udp(&server) };
                heard.expect_addresses(&[GLOBAL.into()]);
                assert!(heard.message.edns.is_some(), "{case}");
                assert_eq!(upstream.count(&name), 1, "{case}: it is remembered");
            }
            let told = server.status()["upstreams"][0].clone();
            assert_eq!((&told["failed"], &told["state"]), (&0.into(), &"up".into()), "{case}: {told}");
        }
    }
}

#[test]
fn upstream_that_does_not_understand_do_is_asked_without_it_alone() {
    for (case, complaint) in COMPLAINTS {
        let upstream = upstream(*complaint, |edns| edns.flags().dnssec_ok);
        let server = start(&upstream, "");
        ask("plain.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert_eq!(upstream.count("plain.test"), 1, "{case}");
        for (name, expected) in [("first.test", &[Some(true), Some(false)][..]), ("second.test", &[Some(false)])] {
            let heard = ask(name, RecordType::A).dnssec_ok().udp(&server);
            heard.expect_addresses(&[GLOBAL.into()]);
            let edns = heard.message.edns.as_ref().expect("an OPT record");
            assert!(edns.flags().dnssec_ok, "{case}: DO is echoed (RFC 3225 §3)");
            let seen = upstream.seen_for(name);
            let with: Vec<_> =
                seen.iter().map(|seen| seen.message.edns.as_ref().map(|edns| edns.flags().dnssec_ok)).collect();
            assert_eq!(with, expected, "{case}");
        }
    }
}

#[test]
fn complaint_about_the_question_itself_says_nothing_of_edns() {
    let upstream = FakeUpstream::start();
    upstream.on("bad.test", Reply::by(|seen| vec![rcode(seen, 1)]));
    let server = start(&upstream, "");
    let begin = Instant::now();
    let heard = ask("bad.test", RecordType::A).udp(&server);
    assert_eq!(heard.rcode(), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(upstream.count("bad.test"), 2, "once more without EDNS");
    ask("good.test", RecordType::A).dnssec_ok().udp(&server).expect_addresses(&[GLOBAL.into()]);
    let seen = &upstream.seen_for("good.test")[0];
    assert!(seen.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok), "still with EDNS");
}

#[test]
fn bare_header_that_comes_before_the_true_reply_turns_nothing_off() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| {
        let truth = address(seen).remove(0);
        if seen.message.edns.is_some() {
            return vec![bare(seen, 1), truth];
        }
        // As from afar: what was asked first is answered first.
        pause(Duration::from_millis(50));
        vec![truth]
    }));
    let server = start(&upstream, "");
    for number in 0..8 {
        let name = format!("n{number}.test");
        // A task asks for a client over TCP, and not the thread.
        let query = ask(&name, RecordType::A);
        let heard = if number % 2 == 0 { query.udp(&server) } else { query.tcp(&server) };
        heard.expect_addresses(&[GLOBAL.into()]);
        assert!(upstream.seen_for(&name)[0].message.edns.is_some(), "{name}");
    }
}
