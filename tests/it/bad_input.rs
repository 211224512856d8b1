//! Input that nobody means: any bytes from the network, any nonsense in the configuration.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{self, framed, is_closed_within, tcp_connect, tcp_exchange};
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// Returns pseudo-random bytes: xorshift64*, the same ones each time.
fn random_bytes(seed: u64) -> impl FnMut(usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()[0]
    };
    move |length| (0..length).map(|_| next()).collect()
}

/// Makes a FIFO that nobody writes to.
fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Panics unless the server still answers.
#[track_caller]
fn expect_alive(server: &Server) {
    ask("alive.test", RecordType::A).both(server).expect_addresses(&[GLOBAL.into()]);
    assert_eq!(server.metric("hostgate_panics_total", &[]), 0, "{}", server.log());
}

#[test]
fn any_bytes_over_udp_are_answered_or_dropped() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    expect_alive(&server);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut random = random_bytes(42);
    let query = ask("fuzz.test", RecordType::A).option(10, &[1; 8]).bytes();
    let mut heard = vec![0; 65_535];
    for round in 0..3_000 {
        let bytes = if round % 3 == 0 {
            let length = usize::from(random(1)[0]) * if round % 9 == 0 { 16 } else { 1 };
            random(length)
        } else {
            let mut bytes = query.clone();
            for _ in 0..=round % 4 {
                let [at, value] = random(2)[..] else { unreachable!("two were asked for") };
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(if round % 5 == 0 { usize::from(random(1)[0]) % query.len() } else { query.len() });
            bytes
        };
        // A query gets an answer with its ID; a response or a fragment gets none.
        let answered = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
        socket.send(&bytes).unwrap();
        if answered {
            let length =
                socket.recv(&mut heard).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}\n{}", server.log()));
            assert_eq!(heard[..2], bytes[..2], "{bytes:02x?}: {:02x?}", &heard[..length]);
            assert_eq!(heard[2] & 0x80, 0x80, "{bytes:02x?}");
            assert!(length <= 1232, "{bytes:02x?}");
            let _ = Heard::read(heard[..length].to_vec());
        }
    }
    expect_alive(&server);
    for seen in upstream.seen() {
        assert!(seen.qname.ends_with("test"), "{}", seen.qname);
    }
}

#[test]
fn any_bytes_over_tcp_are_answered_or_the_connection_ends() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut random = random_bytes(7);
    for round in 0..150 {
        // From several sources: how many connections one may have is another matter.
        let source = [127, 0, 3, u8::try_from(round / 20).unwrap()];
        let mut stream = tcp_connect(source.into(), server.address()).unwrap();
        let bytes = random(1 + round * 7 % 900);
        let sent = if round % 2 == 0 { bytes } else { framed(&bytes) };
        // The server may close before all is written.
        let _ = stream.write_all(&sent);
    }
    expect_alive(&server);
    // Zero-length, short and largest messages.
    for message in [vec![], vec![0; 11], random(65_535)] {
        let mut stream = tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
        let _ = stream.write_all(&framed(&message));
    }
    expect_alive(&server);
}

#[test]
fn half_messages_over_tcp_hold_up_nobody_and_end() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let whole = framed(&ask("alive.test", RecordType::A).bytes());
    let mut held = Vec::new();
    for number in 0..200 {
        // From several sources: how many connections one may have is another matter.
        let source = [127, 0, 2, u8::try_from(number / 20).unwrap()];
        let mut stream = tcp_connect(source.into(), server.address()).unwrap();
        stream.write_all(&whole[..number % (whole.len() - 1)]).unwrap();
        held.push(stream);
    }
    expect_alive(&server);
    // Octet by octet is slow, not wrong.
    let mut stream = tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
    for octet in &whole {
        stream.write_all(&[*octet]).unwrap();
    }
    Heard::read(client::tcp_read(&mut stream).unwrap()).expect_addresses(&[GLOBAL.into()]);
    let mut first = held.swap_remove(0);
    assert!(is_closed_within(&mut first, Duration::from_secs(30)), "an idle connection is closed");
}

#[test]
fn client_that_does_not_read_its_answers_grows_nothing() {
    let upstream = FakeUpstream::start();
    let texts = (0..100)
        .fold(Answer::new(), |answer, index: u8| answer.raw("big.test", 16, &[&[250][..], &[index; 250]].concat()));
    upstream.on("big.test", Reply::by_transport(Answer::new().truncated(), texts));
    let server = Setup::policy(&upstream, POLICY).start();
    ask("big.test", RecordType::TXT).tcp(&server);
    let before = server.resident_kib();
    let mut stream = tcp_connect([127, 0, 0, 1].into(), server.address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let query = framed(&ask("big.test", RecordType::TXT).bytes());
    // 26 KiB of answer for 40 octets of question: without bounds this would be hundreds of megabytes.
    for _ in 0..20_000 {
        if stream.write_all(&query).is_err() {
            break;
        }
    }
    expect_alive(&server);
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "grew by {grown} KiB");
}

#[test]
fn many_names_grow_no_memory_without_bound() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).table("[cache]\nsize_mib = 1").start();
    expect_alive(&server);
    let before = server.resident_kib();
    for number in 0..3_000 {
        ask(&format!("n{number}.test"), RecordType::A)
            .from(&format!("127.9.{}.{}", number / 250, number % 250))
            .udp(&server);
        ask(&format!("n{number}.denied.example"), RecordType::A).udp(&server);
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "grew by {grown} KiB");
}

#[test]
fn policies_that_cannot_be_read_stop_the_start() {
    type Prepare<'a> = &'a dyn Fn(&Setup);
    let upstream = FakeUpstream::start();
    let start = |prepare: &dyn Fn(&Setup)| {
        let setup = Setup::new(&[&upstream]);
        prepare(&setup);
        let start = Instant::now();
        let finished = setup.refused();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        finished
    };
    let huge: Prepare<'_> = &|setup| {
        let file = fs::File::create(setup.policies().join("huge.toml")).unwrap();
        file.set_len(1 << 30).unwrap();
    };
    let fifo: Prepare<'_> = &|setup| make_fifo(&setup.policies().join("pipe.toml"));
    let cases: [(&str, Prepare<'_>, &[&str]); 9] = [
        ("a FIFO, which would never end", fifo, &["pipe.toml"]),
        ("missing", &|setup| fs::remove_dir(setup.policies()).unwrap(), &["policies"]),
        (
            "a file",
            &|setup| {
                fs::remove_dir(setup.policies()).unwrap();
                fs::write(setup.policies(), "x").unwrap();
            },
            &["policies", "directory"],
        ),
        ("empty", &|_| (), &["policies"]),
        (
            "unreadable",
            &|setup| {
                fs::remove_dir(setup.policies()).unwrap();
                symlink("policies", setup.policies()).unwrap();
            },
            &["policies"],
        ),
        (
            "an unreadable file",
            &|setup| symlink("loop.toml", setup.policies().join("loop.toml")).unwrap(),
            &["loop.toml"],
        ),
        ("a directory as file", &|setup| fs::create_dir(setup.policies().join("x.toml")).unwrap(), &["x.toml"]),
        (
            "not UTF-8",
            &|setup| fs::write(setup.policies().join("latin.toml"), b"# \xfc\n[policy.p]\n").unwrap(),
            &["latin.toml", "UTF-8"],
        ),
        ("1 GiB", huge, &["huge.toml"]),
    ];
    for (case, prepare, parts) in cases {
        let finished = start(prepare);
        assert_eq!(finished.code, Some(78), "{case}: {finished:#?}");
        for part in parts {
            assert!(finished.stderr.contains(part), "{case}: no `{part}` in {finished:#?}");
        }
        assert!(finished.stderr.lines().count() <= 12, "{case}: clear and short: {finished:#?}");
        assert!(
            !finished.stderr.contains("panicked") && !finished.stderr.contains("listening"),
            "{case}: {finished:#?}"
        );
    }
}

#[test]
fn bad_files_that_come_later_are_held_back() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    fs::File::create(server.policies("huge.toml")).unwrap().set_len(1 << 30).unwrap();
    assert!(server.wait_error().contains("huge.toml"));
    expect_alive(&server);
    assert!(server.resident_kib() < 200_000, "{} KiB", server.resident_kib());
    server.remove("huge.toml");
    server.wait_no_error();
    server.write("latin.toml", b"[policy.x]\nname = \"\xfc\"\n");
    assert!(server.wait_error().contains("latin.toml"));
    server.remove("latin.toml");
    server.wait_no_error();
    symlink("loop.toml", server.policies("loop.toml")).unwrap();
    assert!(server.wait_error().contains("loop.toml"));
    server.remove("loop.toml");
    server.wait_no_error();
    make_fifo(&server.policies("pipe.toml"));
    assert!(server.wait_error().contains("pipe.toml"));
    server.remove("pipe.toml");
    server.wait_no_error();
    // A directory that holds itself.
    symlink(".", server.policies("self")).unwrap();
    server.write("test.toml", "[policy.test]\nallowed_hostnames = [\"alive.test\"]\n");
    server
        .until("the walk ends", || ask("other.test", RecordType::A).udp(&server).addresses().is_empty().then_some(()));
    expect_alive(&server);
}

#[test]
fn odd_file_names_and_thousands_of_errors_are_told_in_bounds() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let odd = server.policies("").join(OsStr::from_bytes(b"a\xff\n\x1b[31m.toml"));
    fs::write(&odd, "[policy.odd]\nmode = 1\n").unwrap();
    assert!(server.wait_error().contains(":2:8"));
    let line = server.wait_log(&["policy not reloaded"]);
    assert!(!line.contains('\u{1b}'), "{line:?}");
    fs::remove_file(&odd).unwrap();
    server.wait_no_error();
    // Neither the log nor `check` gives a terminal what it acts on.
    server.write("c\u{9b}2J\u{202e}.toml", "[policy.'x\u{9b}2J\u{feff}\u{202e}']\nmode\u{85} = 'y\u{9b}'\n");
    server.wait_error();
    let checked = run(["check".as_ref(), server.policies("").as_os_str()]).expect_code(78);
    for shown in [server.log(), checked.stdout + &checked.stderr] {
        assert!(shown.contains(r"\u{9b}2J"), "{shown:?}");
        let acts =
            |character: char| (character.is_control() && character != '\n') || "\u{202e}\u{feff}".contains(character);
        assert!(!shown.contains(acts), "{shown:?}");
    }
    server.remove("c\u{9b}2J\u{202e}.toml");
    server.wait_no_error();
    let many = format!("[policy.many]\nallowed_hostnames = [{}]\n", "\"a b\", ".repeat(20_000));
    server.write("many.toml", many);
    let error = server.wait_error();
    assert!(error.contains("many.toml:2:22") && error.len() < 100_000, "{} octets", error.len());
    assert!(server.log().len() < 200_000, "{} octets of log", server.log().len());
    expect_alive(&server);
}

#[test]
fn port_in_use_says_so_and_starts_nothing() {
    let upstream = FakeUpstream::start();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    for (case, setup, address) in [
        (
            "UDP",
            Setup::policy(&upstream, POLICY).listen_only(&udp.local_addr().unwrap().to_string()),
            udp.local_addr().unwrap(),
        ),
        (
            "TCP",
            Setup::policy(&upstream, POLICY).listen_only(&tcp.local_addr().unwrap().to_string()),
            tcp.local_addr().unwrap(),
        ),
    ] {
        let finished = setup.refused();
        assert_eq!(finished.code, Some(1), "{case}: {finished:#?}");
        assert!(finished.stderr.contains(&address.to_string()), "{case}: {finished:#?}");
        assert!(finished.stderr.to_lowercase().contains("in use"), "{case}: {finished:#?}");
        assert!(!finished.stderr.contains(" ready "), "{case}: {finished:#?}");
    }
}

#[test]
fn two_servers_do_not_share_a_port() {
    let upstream = FakeUpstream::start();
    let first = Setup::policy(&upstream, POLICY).start();
    let finished = Setup::policy(&upstream, POLICY).listen_only(&first.address().to_string()).refused();
    assert_eq!(finished.code, Some(1), "a second server would take half of the queries: {finished:#?}");
    expect_alive(&first);
}

#[test]
fn bad_configuration_has_its_place() {
    const CASES: &[(&str, &str, &[&str])] = &[
        ("unknown key", "polices = \"policies\"\n", &["hostgate.toml:1:1", "policies"]),
        ("unknown table", "[listener]\naddress = \"127.0.0.1:0\"\n", &["hostgate.toml:1:2", "listen"]),
        ("wrong type", "denied_ttl = \"5\"\n", &["hostgate.toml:1:14"]),
        ("negative", "denied_ttl = -1\n", &["hostgate.toml:1:14"]),
        ("bad address", "[[listen]]\naddress = \"localhost\"\n", &["hostgate.toml:2:11"]),
        ("no address", "[[listen]]\npolicy = \"x\"\n", &["hostgate.toml:1:", "address"]),
        ("later transport", "[[listen]]\naddress = \"tls://127.0.0.1:853\"\n", &["hostgate.toml:2:11", "tls"]),
        ("syntax", "denied_ttl = \n", &["hostgate.toml:1:"]),
        ("two errors", "denied_ttl = true\nlog = 5\n", &["hostgate.toml:1:14", "hostgate.toml:2:7"]),
        ("bad log filter", "log = \"info,=[\"\n", &["hostgate.toml:1:7"]),
    ];
    for (case, text, parts) in CASES {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        fs::write(directory.path().join("policies/p.toml"), "[policy.p]\n").unwrap();
        let path = directory.path().join("hostgate.toml");
        fs::write(&path, text).unwrap();
        let finished = run(["serve".as_ref(), "--config".as_ref(), path.as_os_str()]);
        assert_eq!(finished.code, Some(78), "{case}: {finished:#?}");
        for part in *parts {
            assert!(finished.stderr.contains(part), "{case}: no `{part}` in\n{}", finished.stderr);
        }
    }
}

#[test]
fn configuration_that_cannot_be_read_is_78_and_bad_usage_is_64() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let finished = run(["serve", "--config", missing.to_str().unwrap()]).expect_code(78);
    assert!(finished.stderr.contains("missing.toml"), "{finished:#?}");
    let finished = run(["serve", "--config", directory.path().to_str().unwrap()]).expect_code(78);
    assert!(finished.stderr.contains(directory.path().to_str().unwrap()), "{finished:#?}");
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["serve", "--config"],
        &["serve", "surplus"],
        &["explain"],
        &["explain", "a.test"],
        &["explain", "a.test", "--client", ""],
        &["show", "--client", ""],
        &["explain", "a..test", "--client", "192.0.2.1"],
        &["explain", "a.test", "--client", "192.0.2.1", "--type", "NOPE"],
        &["completions", "no-such-shell"],
    ] {
        let finished = run(arguments);
        assert_eq!(finished.code, Some(64), "{arguments:?}: {finished:#?}");
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty(), "{arguments:?}: {finished:#?}");
    }
}

#[test]
fn tcp_connections_from_one_source_are_bounded_or_harmless() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..600 {
        match TcpStream::connect_timeout(&server.address(), Duration::from_secs(1)) {
            Ok(stream) => held.push(stream),
            Err(_) => break,
        }
    }
    // Another source is still served, over UDP and over TCP.
    let query = ask("alive.test", RecordType::A).from("127.0.0.44");
    query.udp(&server).expect_addresses(&[GLOBAL.into()]);
    tcp_exchange([127, 0, 0, 44].into(), server.address(), &query.bytes()).expect("served over TCP");
}
