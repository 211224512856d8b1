//! Being a service: what systemd is told, sockets it passes in, and an end without a lost query.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::api::Wire;
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// Binds both sockets as systemd does, writes their port into the configuration and becomes the server.
const ACTIVATE: &str = r#"
import os, socket, sys
binary, config = sys.argv[1:]
while True:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.bind(udp.getsockname())
        break
    except OSError:
        pass
tcp.listen()
text = open(config).read().replace("PORT", str(udp.getsockname()[1]))
open(config, "w").write(text)
# Out of the way of 3 and 4 first.
fds = [os.dup2(s.fileno(), 20 + i) for i, s in enumerate((tcp, udp))]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
    os.set_inheritable(3 + i, True)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(binary, [binary, "serve", "--config", config])
"#;

#[test]
fn systemd_is_told_when_it_is_ready_alive_reloaded_and_stopping() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = |part: &str| {
        let mut buffer = [0; 4096];
        until("a notification", || {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {part}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            text.contains(part).then_some(text)
        })
    };
    let mut server = Setup::policy(&upstream, POLICY)
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "1000000")
        .start();
    assert!(heard("READY=1").contains("STATUS=generation 1, 1 policies"));
    heard("WATCHDOG=1");
    server.replace("test.toml", "[policy.test]\nallowed_hostnames = [\"a.test\"]\n");
    heard("STATUS=generation 2");
    server.replace("test.toml", "[policy.test");
    assert!(heard("not reloaded").contains("test.toml:1:"));
    server.signal("TERM");
    heard("STOPPING=1");
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn sockets_passed_in_are_served() {
    let upstream = FakeUpstream::start();
    upstream.on("name.test", Answer::new().a("name.test", GLOBAL));
    let setup = Setup::policy(&upstream, POLICY).listen_only("127.0.0.1:PORT");
    let config = setup.write_configuration();
    let mut child = Command::new("python3")
        .args(["-c", ACTIVATE, env!("CARGO_BIN_EXE_hostgate")])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut address = None;
    for line in lines.map_while(Result::ok) {
        if line.contains("transport=\"udp\"") {
            address = line.rsplit("address=").next().and_then(|text| text.trim().parse().ok());
        }
        if line.contains(" ready ") {
            break;
        }
    }
    let address = address.expect("it says where it listens");
    ask("name.test", RecordType::A).udp_to(address).unwrap().expect_addresses(&[GLOBAL.into()]);
    ask("name.test", RecordType::A).tcp_to(address).unwrap().expect_addresses(&[GLOBAL.into()]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_apis_unix_socket_may_come_from_systemd_and_stays_its_own() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY).control("listen = \"unix:control.sock\"");
    let config = setup.write_configuration();
    let path = setup.directory().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" serve --config \"$1\" </dev/null"])
        .arg(env!("CARGO_BIN_EXE_hostgate"))
        .arg(config)
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It waits in the socket until hostgate serves.
    assert_eq!(Wire::at(&path).get("/nothing").status, 404);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "systemd listens there still");
}

#[test]
fn a_query_in_flight_is_answered_before_the_end() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("slow.test", Reply::held(&gate, Answer::new().a("slow.test", GLOBAL)));
    let mut server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 10000").start();
    let (udp, tcp) = std::thread::scope(|scope| {
        let udp = scope.spawn(|| ask("slow.test", RecordType::A).udp(&server));
        let tcp = scope.spawn(|| ask("slow.test", RecordType::A).tcp(&server));
        until("both wait", || (server.metric("hostgate_queries_in_flight", &[]) == 2).then_some(()));
        server.signal("TERM");
        server.wait_log(&["stopping"]);
        gate.open();
        (udp.join().unwrap(), tcp.join().unwrap())
    });
    udp.expect_addresses(&[GLOBAL.into()]);
    tcp.expect_addresses(&[GLOBAL.into()]);
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn queries_that_lie_in_the_sockets_queue_are_answered_before_the_end() {
    let upstream = FakeUpstream::start();
    // One thread, one queue: several batches of it.
    let mut server = Setup::policy(&upstream, POLICY).top("threads = 1").start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    server.signal("STOP");
    for id in 0..500 {
        let name = if id % 2 == 0 { format!("n{id}.test") } else { format!("n{id}.denied.example") };
        socket.send_to(&ask(&name, RecordType::A).id(id).bytes(), server.address()).unwrap();
    }
    server.signal("TERM");
    server.signal("CONT");
    let mut buffer = [0; 4096];
    let mut heard: Vec<u16> = (0..500)
        .map(|count| {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("after {count} answers: {error}"));
            Heard::read(buffer[..length].to_vec()).expect_by_id()
        })
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..500).collect::<Vec<_>>());
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn the_end_comes_within_five_seconds_even_when_an_upstream_never_answers() {
    let upstream = FakeUpstream::start();
    upstream.on("never.test", Reply::silence());
    let mut server = Setup::policy(&upstream, POLICY).upstream_line("timeout_ms = 60000").start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&ask("never.test", RecordType::A).bytes(), server.address()).unwrap();
    until("it waits", || (server.metric("hostgate_queries_in_flight", &[]) == 1).then_some(()));
    let start = std::time::Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn the_unit_is_hardened() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/hostgate.service");
    // The threshold is in tenths: an exposure above 1.5 is an error.
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15", "--no-pager", unit])
        .output()
        .expect("systemd-analyze is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_shipped_example_and_template_load() {
    let root = env!("CARGO_MANIFEST_DIR");
    run(["check", &format!("{root}/policies"), "--strict"]).expect_code(0);
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{root}/systemd/hostgate.toml"), directory.path().join("hostgate.toml")).unwrap();
    std::fs::create_dir(directory.path().join("policies")).unwrap();
    std::fs::copy(format!("{root}/policies/example.toml"), directory.path().join("policies/example.toml")).unwrap();
    let config = directory.path().join("hostgate.toml");
    run(["check", "--config", config.to_str().unwrap()]).expect_code(0);
}
