//! Replies are read alike whatever carried them: the size of an answer does not decide what passes.

use std::time::{Duration, Instant};

use crate::support::{client, *};

/// A policy for types of which upstreams say what is unusual.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n\
                      query_types = [\"A\", \"TXT\", \"CAA\", \"HINFO\", \"MX\", \"LOC\", \"TYPE65400\"]";

/// Answers that a strict reader refuses: a name, a type, and the RDATA of its records.
fn unusual() -> Vec<(&'static str, u16, Vec<Vec<u8>>)> {
    let text = |count: usize| (0..count).flat_map(|_| [&[200][..], &[b'x'; 200]].concat()).collect::<Vec<u8>>();
    vec![
        ("empty.test", 65_400, vec![vec![]]),
        ("tag.test", 257, vec![[&[0, 18][..], b"averyverylongtag18", b"value.example"].concat()]),
        ("reserved.test", 257, vec![[&[0x80, 0][..], b"value.example"].concat()]),
        ("hinfo.test", 13, vec![b"\x05PDP11".to_vec()]),
        ("nothing.test", 16, vec![vec![]]),
        ("overrun.test", 16, vec![b"\x09short".to_vec()]),
        ("loc.test", 29, vec![vec![1, 2, 3]]),
        ("six.test", 16, vec![text(6)]),
        ("seven.test", 16, vec![[&text(6)[..], &[0]].concat()]),
        ("mixed.test", 16, vec![text(2), vec![], b"\x02ok".to_vec()]),
    ]
}

/// Returns an upstream that gives those answers, over UDP truncated if `is_long`.
fn upstream(is_long: bool) -> FakeUpstream {
    let upstream = FakeUpstream::start();
    for (qname, rtype, rdata) in unusual() {
        let answer = rdata.iter().fold(Answer::new(), |answer, data| answer.raw(qname, rtype, data));
        if is_long {
            upstream.on(qname, Reply::by_transport(Answer::new().truncated(), answer));
        } else {
            upstream.on(qname, answer);
        }
    }
    upstream
}

/// Returns the RDATA of an answer section whose owners are compressed.
fn rdata(heard: &Heard) -> Vec<Vec<u8>> {
    let bytes = &heard.bytes;
    let mut at = 12 + bytes[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let count = u16::from_be_bytes([bytes[6], bytes[7]]);
    let records = (0..count).map(|_| {
        // A pointer, or a name spelled out.
        while bytes[at] != 0 && bytes[at] < 0xc0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += if bytes[at] == 0 { 1 } else { 2 };
        let length = usize::from(u16::from_be_bytes([bytes[at + 8], bytes[at + 9]]));
        at += 10 + length;
        bytes[at - length..at].to_vec()
    });
    records.collect()
}

#[test]
fn unusual_records_pass_alike_over_udp_over_tcp_and_after_truncation() {
    for (case, is_long, scheme) in [("UDP", false, ""), ("TCP", false, "tcp://"), ("TCP after TC", true, "")] {
        let upstream = upstream(is_long);
        let server = Setup::new(&[])
            .servers(&[&format!("{scheme}{}", upstream.address)])
            .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
            .top("default_policy = \"test\"")
            .start();
        for (qname, rtype, expected) in unusual() {
            let start = Instant::now();
            // Read without hickory, whose decoder refuses some of them.
            let query = ask(qname, RecordType::from(rtype)).bytes();
            let bytes = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &query).unwrap();
            assert_eq!(bytes[3] & 0x0f, 0, "{case}: {qname}: RCODE {}", bytes[3] & 0x0f);
            let heard = Heard { bytes, message: hickory_proto::op::Message::query() };
            assert_eq!(rdata(&heard), expected, "{case}: {qname}");
            assert!(start.elapsed() < Duration::from_secs(1), "{case}: {qname}: {:?}", start.elapsed());
        }
        assert!(upstream.seen().iter().any(|seen| seen.tcp) == (is_long || !scheme.is_empty()), "{case}");
        assert_eq!(server.status()["upstreams"][0]["state"], "up", "{case}");
        assert_eq!(server.metric("hostgate_upstream_failures_total", &[]), 0, "{case}");
    }
}

#[test]
fn connection_that_is_gone_without_a_word_is_left_within_the_time_of_the_question() {
    let upstream = FakeUpstream::start();
    // The first connection takes all further queries and answers none, as when our own address has changed.
    let first = std::sync::Mutex::new(None);
    upstream.otherwise(Reply::by(move |seen| {
        let mut first = first.lock().unwrap();
        let is_dead = *first.get_or_insert(seen.source) == seen.source && !seen.qname.starts_with("warm");
        if is_dead { Vec::new() } else { vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)] }
    }));
    let server = Setup::new(&[])
        .servers(&[&format!("tcp://{}", upstream.address)])
        .file("test.toml", format!("[policy.test]\n{POLICY}\n"))
        .top("default_policy = \"test\"")
        .start();
    for number in 0..3 {
        ask(&format!("warm{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    }
    for number in 0..3 {
        let start = Instant::now();
        ask(&format!("n{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        assert!(start.elapsed() < Duration::from_secs(1), "{number}: {:?}", start.elapsed());
    }
    let mut sources: Vec<_> = upstream.seen().iter().map(|seen| seen.source).collect();
    sources.dedup();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), 2, "one new connection: {sources:?}");
}
