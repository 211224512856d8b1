//! What is no question for us: dropped, or refused with the RCODE that says why.

use std::net::UdpSocket;
use std::time::Duration;

use crate::support::{client, *};

/// A policy that allows `allowed.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\"]";

#[test]
fn responses_and_fragments_are_dropped_and_counted() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let response = ask("allowed.test", RecordType::A).flags(0x8180).bytes();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send(&response).unwrap();
    for length in 0..12 {
        socket.send(&response[..length]).unwrap();
    }
    server.wait_metric("hostgate_dropped_total", &[("reason", "response")], 1);
    server.wait_metric("hostgate_dropped_total", &[("reason", "short")], 12);
    assert!(socket.recv(&mut [0; 512]).is_err(), "nothing came back");
    assert_eq!(upstream.total(), 0);
}

#[test]
fn refusals_of_the_table() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let plain = ask("allowed.test", RecordType::A).no_edns();
    let cases = [
        ("AXFR", ask("allowed.test", RecordType::AXFR), ResponseCode::Refused),
        ("IXFR", ask("allowed.test", RecordType::IXFR), ResponseCode::Refused),
        ("class CH", ask("version.bind", RecordType::TXT).class(3), ResponseCode::Refused),
        ("class ANY", ask("allowed.test", RecordType::A).class(255), ResponseCode::Refused),
        ("class 0", ask("allowed.test", RecordType::A).class(0), ResponseCode::Refused),
        ("opcode IQUERY", plain.clone().flags(0x0900), ResponseCode::NotImp),
        ("opcode STATUS", plain.clone().flags(0x1100), ResponseCode::NotImp),
        ("opcode NOTIFY", plain.clone().flags(0x2100), ResponseCode::NotImp),
        ("opcode UPDATE", plain.clone().flags(0x2800), ResponseCode::NotImp),
        ("opcode 15", plain.flags(0x7900), ResponseCode::NotImp),
        ("EDNS version 1", ask("allowed.test", RecordType::A).version(1), ResponseCode::BADVERS),
        ("EDNS version 255", ask("denied.example", RecordType::A).version(255), ResponseCode::BADVERS),
    ];
    for (case, query, rcode) in cases {
        let bytes = query.bytes();
        let udp = client::udp_exchange([127, 0, 0, 1].into(), server.address(), &bytes, DEADLINE).expect(case);
        let tcp = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &bytes).expect(case);
        assert_eq!(udp, tcp, "{case}");
        assert_eq!(udp[..2], query.id.to_be_bytes(), "{case}: the ID");
        assert_eq!(udp[2] & 0x80, 0x80, "{case}: QR");
        assert_eq!(udp[2] & 0x78, bytes[2] & 0x78, "{case}: the opcode");
        // hickory-proto gives 16 its other name, BADSIG.
        let is_badvers = rcode == ResponseCode::BADVERS;
        let heard = if is_badvers { Heard::read(udp.clone()).rcode() } else { low_rcode(&udp) };
        assert_eq!(u16::from(heard), u16::from(rcode), "{case}");
        if let Some(edns) = is_badvers.then(|| Heard::read(udp).message.edns) {
            assert_eq!(edns.expect("an OPT record").version(), 0, "{case}: the highest version we know");
        }
    }
    assert_eq!(upstream.total(), 0);
}

#[test]
fn malformed_queries_get_formerr() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let plain = ask("allowed.test", RecordType::A).no_edns().bytes();
    let with_opt = ask("allowed.test", RecordType::A).bytes();
    let edit = |bytes: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        bytes
    };
    let opt = with_opt[plain.len()..].to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no question", edit(&plain[..12], &|bytes| bytes[5] = 0)),
        ("no question, bytes behind", edit(&plain, &|bytes| bytes[5] = 0)),
        ("two questions announced", edit(&plain, &|bytes| bytes[5] = 2)),
        ("two questions", edit(&[&plain[..], &plain[12..]].concat(), &|bytes| bytes[5] = 2)),
        ("65,535 questions", edit(&plain, &|bytes| bytes[4..6].fill(0xff))),
        ("the header alone", plain[..12].to_vec()),
        ("cut in the name", plain[..16].to_vec()),
        ("cut in the class", plain[..plain.len() - 1].to_vec()),
        ("an answer announced", edit(&plain, &|bytes| bytes[7] = 1)),
        ("an authority announced", edit(&plain, &|bytes| bytes[9] = 1)),
        ("an additional announced", edit(&plain, &|bytes| bytes[11] = 1)),
        ("trailing bytes", [&plain[..], b"\0"].concat()),
        ("trailing bytes behind OPT", [&with_opt[..], b"xyz"].concat()),
        ("a pointer as name", [&plain[..12], &[0xc0, 12, 0, 1, 0, 1]].concat()),
        ("a pointer in the name", [&plain[..12], &[1, b'a', 0xc0, 0, 0, 1, 0, 1]].concat()),
        ("label type 01", [&plain[..12], &[0x41, b'a', 0, 0, 1, 0, 1]].concat()),
        ("label type 10", [&plain[..12], &[0x81, b'a', 0, 0, 1, 0, 1]].concat()),
        ("a name of 256 octets", [&plain[..12], &[1, b'a'].repeat(128)[..], &[0, 0, 1, 0, 1]].concat()),
        ("two OPT", edit(&[&with_opt[..], &opt].concat(), &|bytes| bytes[11] = 2)),
        ("OPT with an owner", edit(&[&plain[..], &[1, b'a'], &opt].concat(), &|bytes| bytes[11] = 1)),
        ("OPT whose RDATA runs past the end", edit(&with_opt, &|bytes| *bytes.last_mut().unwrap() = 9)),
        (
            "an option that runs past the RDATA",
            edit(&[&with_opt[..], &[0, 10, 0, 9, 1]].concat(), &|bytes| bytes[with_opt.len() - 1] = 5),
        ),
        ("half an option header", edit(&[&with_opt[..], &[0, 10, 0]].concat(), &|bytes| bytes[with_opt.len() - 1] = 3)),
    ];
    for (case, bytes) in cases {
        let udp = client::udp_exchange([127, 0, 0, 1].into(), server.address(), &bytes, Duration::from_secs(2));
        let udp = udp.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(low_rcode(&udp), ResponseCode::FormErr, "{case}: {udp:02x?}");
        assert_eq!(udp[..2], bytes[..2], "{case}: the ID");
        assert_eq!(udp[2] & 0x81, 0x81, "{case}: QR and RD");
        let tcp = client::tcp_exchange([127, 0, 0, 1].into(), server.address(), &bytes).expect(case);
        assert_eq!(udp, tcp, "{case}");
    }
    assert_eq!(upstream.total(), 0);
}

/// Returns the RCODE of the header.
fn low_rcode(bytes: &[u8]) -> ResponseCode {
    ResponseCode::from_low(bytes[3] & 0x0f)
}
