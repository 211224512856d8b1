//! What the machine lets hostgate have: addresses, threads, descriptors, memory.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::api::TOKEN;
use crate::support::client::{self, framed};
use crate::support::upstream::Gate;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Returns a setup with this policy for all and an upstream that nobody asks.
fn setup() -> Setup {
    Setup::new(&[]).servers(&["127.77.8.1:5391"]).file("test.toml", POLICY).top("default_policy = \"test\"")
}

/// Returns whether network namespaces can be had here.
fn has_namespaces() -> bool {
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-rn" };
    let has = Command::new("unshare").args([flags, "ip", "link"]).output().is_ok_and(|output| output.status.success());
    if !has {
        skip("it needs network namespaces and ip");
    }
    has
}

#[test]
fn machine_without_the_default_admin_address_has_it_on_ipv6_or_goes_without() {
    if !has_namespaces() {
        return;
    }
    let lone = "ip link set lo up && ip addr del 127.0.0.1/8 dev lo";
    let six = setup().listen_only("[::1]:0").table("[admin]").prepared(lone, true).start();
    six.wait_log(&["WARN", "127.0.0.1:9153", "instead=[::1]:9153"]);
    six.wait_log(&["listening", "admin", "[::1]:9153"]);
    // No loopback address at all: what is answered matters more.
    let none = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && \
                ip addr del 127.0.0.1/8 dev lo && ip addr del ::1/128 dev lo";
    let none = setup().listen_only("192.0.2.7:0").table("[admin]").prepared(none, true).start();
    none.wait_log(&["ERROR", "no admin endpoint"]);
    assert_eq!(none.log_lines(&["listening", "transport=\"udp\"", "192.0.2.7"]).len(), 1);
    // Another address is meant.
    let written = setup().listen_only("[::1]:0").table("[admin]\nlisten = \"127.0.0.1:9154\"").prepared(lone, true);
    let written = written.start();
    written.wait_log(&["ERROR", "no admin endpoint", "bind admin 127.0.0.1:9154"]);
}

#[test]
fn thousands_of_sighups_write_a_bounded_number_of_lines() {
    let mut server = setup().start();
    let hangup = |count: usize| {
        for _ in 0..count {
            server.signal("HUP");
        }
    };
    hangup(300);
    server.wait_log(&["nothing changed"]);
    server.write("test.toml", "[policy.test]\nallowed = 1\n");
    server.wait_error();
    hangup(300);
    let count = server.log_lines(&["nothing changed"]).len() + server.log_lines(&["policy not reloaded"]).len();
    assert!(count <= 50, "{count} lines");
    server.write("test.toml", POLICY);
    server.wait_no_error();
    server.signal("TERM");
    server.wait_exit();
}

#[test]
fn too_few_open_files_refuse_the_start_with_the_numbers() {
    for limit in [8, 20, 32, 40] {
        let finished = setup().top("threads = 1").open_files(limit).refused();
        if limit >= 32 {
            let told = format!("RLIMIT_NOFILE) is {limit}, and at least ");
            finished.expect_code(78).expect_text(&["open files", &told, "LimitNOFILE="]);
        } else {
            // Not even the libraries may be had.
            assert!(finished.code != Some(0) && !finished.stderr.contains("panicked"), "{limit}: {finished:#?}");
        }
    }
    // One more and it serves.
    let server = setup().top("threads = 1").open_files(64).start();
    server.wait_log(&["WARN", "sized by the limits", "open_files=64", "LimitNOFILE="]);
    let plenty = setup().start();
    plenty.wait_log(&["INFO", "sized by the limits", "open_files="]);
    assert!(plenty.threads() < 100, "{}", plenty.threads());
}

#[test]
fn full_house_of_connections_leaves_descriptors_for_everything_else() {
    let (upstream, gate) = (FakeUpstream::start(), Gate::default());
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    for limit in [64, 80, 128] {
        let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"")
            .control("allow_clients = true");
        let server = setup.top("threads = 1").upstream_line("timeout_ms = 9000").open_files(limit).start();
        let held: Vec<TcpStream> = (0..200)
            .filter_map(|number| {
                let mut stream = client::tcp_connect([127, 0, 4, number].into(), server.address()).ok()?;
                stream.write_all(&framed(&ask("held.test", RecordType::A).bytes())).ok()?;
                Some(stream)
            })
            .collect();
        server.until("as many as there may be", || {
            (server.metric("hostgate_tcp_closed_total", &[("reason", "client")]) > 100).then_some(())
        });
        assert!(server.metric("hostgate_tcp_connections", &[]) >= 4, "{limit}");
        // Misses, a reload, the API and its files.
        for number in 0..20 {
            ask(&format!("n{limit}-{number}.test"), RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
        }
        server.write("more.toml", "[policy.more]\n");
        server.until("the reload", || (server.status()["policies"] == 2).then_some(()));
        assert_eq!(request(&server, TOKEN).0, 200, "{limit}: {}", server.log());
        assert_eq!(server.metric("hostgate_descriptors_lacking_total", &[]), 0, "{limit}");
        assert!(server.descriptors() < usize::try_from(limit).unwrap(), "{limit}");
        drop(held);
    }
    gate.open();
}

/// Sets the soft limit on open files to the lowest number that no descriptor has, so that no file can be opened.
fn use_up_descriptors(server: &Server) {
    let open: Vec<u32> = fs::read_dir(format!("/proc/{}/fd", server.id()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let lowest = (0..1 << 20).find(|number| !open.contains(number)).unwrap();
    server.limit_open_files(lowest);
}

#[test]
fn status_and_api_answer_although_no_file_can_be_opened() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"").control("").start();
    ask("cached.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    // The token file is read again until its last change is old enough for any clock to tell a further one.
    pause(Duration::from_millis(3100));
    assert_eq!(request(&server, TOKEN).0, 200);
    let before = server.descriptors();
    let check = |what: &str| {
        // Clients that say nothing keep nobody out.
        let idle = |address| (0..20).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
        let silent = (idle(server.admin()), idle(server.control()));
        for _ in 0..10 {
            for path in ["/livez", "/readyz", "/metrics", "/status"] {
                let begin = Instant::now();
                assert_eq!(server.get(path).status, 200, "{what}: {path}");
                assert!(begin.elapsed() < Duration::from_secs(3), "{what}: {path}: {:?}", begin.elapsed());
            }
            let begin = Instant::now();
            assert_eq!(request(&server, TOKEN).0, 200, "{what}");
            assert!(begin.elapsed() < Duration::from_secs(3), "{what}: {:?}", begin.elapsed());
            ask("cached.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
            // It has no socket to ask an upstream with, or takes the one that was just closed.
            ask("other.example", RecordType::A).udp(&server).expect_denied();
        }
        drop(silent);
    };
    use_up_descriptors(&server);
    check("all are used up");
    server.limit_open_files(4096);
    check("there are more again");
    server.until("the reserve is as it was", || {
        let open = server.descriptors();
        (open.abs_diff(before) <= 4).then_some(())
    });
    use_up_descriptors(&server);
    check("all are used up again");
}

/// Asks the API for the policies over a connection of its own; returns the status and the whole answer.
fn request(server: &Server, token: &str) -> (u16, String) {
    exchange(&mut TcpStream::connect(server.control()).unwrap(), token)
}

/// Asks the API for the policies over a connection that stays open.
fn exchange(stream: &mut TcpStream, token: &str) -> (u16, String) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("GET /v1/network-policies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = vec![0; 64 << 10];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    (answer[9..12].parse().unwrap(), answer)
}

#[test]
fn want_of_descriptors_at_the_api_is_not_told_as_a_bad_token_file() {
    let server = setup().control("allow_clients = true").start();
    let mut stream = TcpStream::connect(server.control()).unwrap();
    assert_eq!(exchange(&mut stream, TOKEN).0, 200);
    // Another file in its place, which has to be read.
    let path = server.directory().join("token");
    fs::write(path.with_extension("new"), format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    server.limit("--nofile=3:20000");
    let (status, answer) = exchange(&mut stream, TOKEN);
    assert!(status == 503 && answer.contains("cannot be read just now"), "{answer}");
    server.wait_log(&["ERROR", "token file cannot be read now", "oo many open files"]);
    server.limit("--nofile=1024:20000");
    assert_eq!(exchange(&mut stream, TOKEN).0, 200, "and it is over with the want");
}

#[test]
fn misses_that_fail_for_want_of_descriptors_are_counted_and_told() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"").start();
    server.limit("--nofile=3:20000");
    for number in 0..10 {
        assert_eq!(ask(&format!("n{number}.test"), RecordType::A).udp(&server).rcode(), ResponseCode::ServFail);
    }
    let line = server.wait_log(&["WARN", "no file descriptors left for queries", "failed="]);
    assert!(line.contains("LimitNOFILE="), "{line}");
    server.limit("--nofile=1024:20000");
    assert!(server.metric("hostgate_descriptors_lacking_total", &[]) >= 10);
    assert_eq!(server.status()["upstreams"][0]["outages"], 0, "that is not the upstream's doing");
    ask("later.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn too_few_threads_refuse_the_start_with_the_numbers() {
    let is_root = rustix::process::geteuid().is_root();
    let setup = setup();
    let configuration = setup.write_configuration();
    // Root may have as many as it likes.
    for path in [setup.directory(), &setup.policies()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("prlimit");
    command.arg("--nproc=1");
    if is_root {
        command.args(["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]);
    }
    command.arg(env!("CARGO_BIN_EXE_hostgate")).args(["serve", "--config"]).arg(configuration);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("panicked"), "{told}");
    assert_eq!(output.status.code(), Some(78), "{told}");
    for part in ["threads: 0 could be started, and ", "RLIMIT_NPROC", "is 1", "LimitNPROC="] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// Returns so many different names, one a line.
fn names(count: usize) -> String {
    (0..count).fold(String::new(), |names, number| names + &format!("host{number}.x{}.example\n", number % 997))
}

#[test]
fn list_that_does_not_fit_into_memory_is_an_error_of_the_file_and_the_old_version_stays() {
    let body = "allowed_hostnames = [\"*.test\"]\ndenied_hostnames_files = [\"list.txt\"]\nbudget = \"off\"";
    let setup = || setup().file("test.toml", format!("[policy.test]\n{body}\n")).file("list.txt", "old.test\n");
    let large = names(1_000_000);
    for (limit, at_start) in [("ulimit -S -v 700000", "ulimit -v 250000"), ("ulimit -S -d 300000", "ulimit -d 200000")]
    {
        let server = setup().prepared(limit, false).start();
        for round in 0..3 {
            server.replace("list.txt", format!("# {round}\n{large}"));
            let told = server.wait_error();
            for part in ["list.txt", "octets take about", "MiB of memory", "are left of RLIMIT_", "shorter"] {
                assert!(told.contains(part), "{limit}: {part}: {told}");
            }
            ask("old.test", RecordType::A).udp(&server).expect_denied();
            server.replace("list.txt", "old.test\nmore.test\n");
            server.wait_no_error();
            ask("more.test", RecordType::A).udp(&server).expect_denied();
        }
        // More memory is enough: nobody has to touch the file again.
        server.replace("list.txt", format!("new.test\n{large}"));
        server.wait_error();
        server.limit(if limit.contains("-v") { "--as=unlimited:" } else { "--data=unlimited:" });
        until_within(2 * DEADLINE, || server.status()["error"].is_null().then_some(())).unwrap();
        ask("new.test", RecordType::A).udp(&server).expect_denied();
        // The same at start is a refusal, and no abort.
        let setup = setup().file("list.txt", &large).prepared(at_start, false);
        setup.refused().expect_code(78).expect_text(&["list.txt", "octets take about", "are left of RLIMIT_"]);
    }
    // Several count together: each fits alone.
    let part = names(150_000);
    let many: Vec<String> = (0..12).map(|number| format!("\"{number}.txt\"")).collect();
    let policy = format!("[policy.test]\ndenied_hostnames_files = [{}]\n", many.join(", "));
    let mut several = setup().file("test.toml", policy);
    for number in 0..12 {
        several = several.file(&format!("{number}.txt"), format!("# {number}\n{part}"));
    }
    let finished = several.prepared("ulimit -d 320000", false).refused();
    assert!(!finished.stderr.contains("memory allocation"), "{finished:#?}");
    finished.expect_code(78).expect_text(&["octets take about", "are left of RLIMIT_DATA"]);
}

#[test]
fn threads_go_by_cpus_and_not_by_listeners() {
    let upstream = FakeUpstream::start();
    let gate = Gate::default();
    upstream.on("held.test", Reply::held(&gate, Answer::new().a("held.test", GLOBAL)));
    let body = "allowed_hostnames = [\"*.test\"]\nbudget = \"off\"";
    let few = Setup::policy(&upstream, body).start();
    let mut many = Setup::policy(&upstream, body).listen_only("127.0.5.1:0");
    let addresses: Vec<String> = (1..=60).map(|last| format!("127.0.5.{last}")).collect();
    for address in &addresses[1..] {
        many = many.listen(&format!("{address}:0"), None);
    }
    let mut many = many.start();
    assert!(many.threads() <= few.threads() + 2, "{} with 60 listeners, {} with one", many.threads(), few.threads());
    for (number, address) in addresses.iter().enumerate() {
        let server = many.address_on(address);
        ask("denied.example", RecordType::A).udp_to(server).unwrap().expect_denied();
        // A miss, a hit, and TCP.
        for _ in 0..2 {
            let name = format!("n{number}.test");
            ask(&name, RecordType::A).udp_to(server).unwrap().expect_addresses(&[GLOBAL.into()]);
        }
        ask("denied.example", RecordType::A).tcp_to(server).unwrap().expect_denied();
    }
    // What waits for an upstream at one listener holds up no other one; all are answered when it ends.
    let waiting: Vec<_> = addresses.iter().map(|address| many.address_on(address)).collect();
    std::thread::scope(|scope| {
        let held: Vec<_> = waiting
            .iter()
            .map(|address| scope.spawn(|| ask("held.test", RecordType::A).udp_to(*address).unwrap()))
            .collect();
        many.wait_metric("hostgate_queries_in_flight", &[], waiting.len().try_into().unwrap());
        let begin = Instant::now();
        ask("denied.example", RecordType::A).udp_to(waiting[7]).unwrap().expect_denied();
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
        many.signal("TERM");
        many.wait_log(&["stopping"]);
        gate.open();
        for client in held {
            client.join().unwrap().expect_addresses(&[GLOBAL.into()]);
        }
    });
    assert_eq!(many.wait_exit().code(), Some(0));
}
