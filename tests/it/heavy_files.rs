//! Policy files that would take more memory than there is, or more time than a reload may have.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use crate::support::*;

/// Repeats a line that is made of a number.
fn repeated(lines: usize, make: impl Fn(usize) -> String) -> String {
    (0..lines).map(make).collect()
}

/// Returns a file with so many policies, in ten octets each.
fn dense(tables: usize) -> String {
    format!("[policy]\n{}", repeated(tables, |number| format!("{number:x}={{}}\n")))
}

/// Returns a value of `/proc/PID/status`, in KiB.
fn kib(server: &Server, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lets the process allocate so many MiB more than it has.
fn leave(server: &Server, mib: u64) {
    server.limit(&format!("--data={}:", (kib(server, "VmData") + (mib << 10)) << 10));
}

/// Waits until the entry about a file that cannot be read says this, and returns it.
#[track_caller]
fn wait_unreadable(server: &Server, part: &str) -> String {
    server.until(part, || {
        let entry = server.out_of_date("unreadable")?;
        let why = entry["why"].as_str().unwrap().to_owned();
        why.contains(part).then_some(why)
    })
}

/// Starts a server with one policy.
fn start(upstream: &FakeUpstream) -> Server {
    Setup::policy(upstream, "allowed_hostnames = ['first.test']").control("").start()
}

/// Changes the policy, and waits until that is in force.
#[track_caller]
fn edit(server: &Server, name: &str) {
    server.replace("test.toml", format!("[policy.test]\nallowed_hostnames = ['{name}']\n"));
    server.until(name, || (!ask(name, RecordType::A).udp(server).addresses().is_empty()).then_some(()));
}

#[test]
fn policy_file_that_does_not_fit_into_memory_is_held_back_alone() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    leave(&server, 48);
    // A policy of ten octets takes 1,600 in memory.
    server.replace("heavy.toml", dense(20_000));
    let why = wait_unreadable(&server, "octets take about");
    assert!(why.contains("heavy.toml: ") && why.contains("are left of RLIMIT_DATA: make the file shorter"), "{why}");
    edit(&server, "second.test");
    // An old version stays.
    server.replace("heavy.toml", "[policy.test2]\n[client.x]\nsources = ['127.0.0.9']\npolicy = 'test2'\n");
    server.wait_no_error();
    server.replace("heavy.toml", dense(20_000));
    wait_unreadable(&server, "octets take about");
    assert_eq!(server.status()["clients"], 1);
    edit(&server, "third.test");
    // With more memory it goes into force, and nobody has to touch it.
    server.limit("--data=unlimited:");
    until_within(4 * DEADLINE, || (server.status()["policies"] == 20_001).then_some(())).unwrap();
    server.wait_no_error();
}

#[test]
fn small_policy_files_are_weighed_together() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    leave(&server, 40);
    for number in 0..16 {
        server.write(
            &format!("f{number}.toml"),
            format!("[policy]\n{}", repeated(1_500, |table| format!("{number}_{table:x}={{}}\n"))),
        );
    }
    // All of them would take 60 MiB.
    server.signal("HUP");
    wait_unreadable(&server, "octets take about");
    edit(&server, "second.test");
    server.limit("--data=unlimited:");
    until_within(4 * DEADLINE, || (server.status()["policies"] == 24_001).then_some(())).unwrap();
    server.wait_no_error();
}

#[test]
fn start_with_a_policy_file_that_does_not_fit_is_refused_with_the_numbers() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = ['first.test']").file("heavy.toml", dense(90_000));
    let finished = setup.prepared("ulimit -d 150000", false).refused();
    finished.expect_code(78).expect_text(&["heavy.toml", "octets take about", "are left of RLIMIT_DATA"]);
}

#[test]
fn policy_file_with_too_many_tables_is_held_back() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    server.replace("many.toml", dense(100_000));
    let error = server.wait_error();
    assert!(error.contains("many.toml: ") && error.contains("100001 tables are too many"), "{error}");
    edit(&server, "second.test");
}

#[test]
fn weight_of_a_policy_file_is_an_upper_bound() {
    type Make = fn(usize) -> String;
    const KINDS: &[(&str, usize, &str, Make, &str)] = &[
        ("policies", 15_000, "", |n| format!("[policy.p{n}]\n"), ""),
        ("inline policies", 15_000, "[policy]\n", |n| format!("p{n}={{}}\n"), ""),
        ("dotted policies", 12_000, "", |n| format!("policy.p{n}.allow_all=true\n"), ""),
        (
            "policies with names",
            6_000,
            "",
            |n| format!("[policy.p{n}]\nallowed_hostnames=['a{n}.example']\ndenied_hostnames=['b.example']\n"),
            "",
        ),
        (
            "clients",
            12_000,
            "",
            |n| format!("[client.c{n}]\nsources=['10.7.{}.{}']\npolicy='test'\n", n >> 8, n & 255),
            "",
        ),
        ("hostnames", 150_000, "[policy.x]\nallowed_hostnames=[", |n| format!("'a{n:x}.io',\n"), "]\n"),
        ("empty lines", 600_000, "[policy.x]\n", |_| "\n".to_owned(), ""),
        ("headers of many parts", 250, "", |n| format!("[policy.p{n}{}]\n", ".a".repeat(70)), ""),
        ("numbers", 200_000, "[policy.x]\ny=[", |_| "1,".to_owned(), "]\n"),
        ("tables of unknown keys", 20_000, "[policy.x]\n", |n| format!("k{n}={{a=1}}\n"), ""),
        ("syntax errors", 300_000, "[policy.x]\n", |_| "=\n".to_owned(), ""),
    ];
    let upstream = FakeUpstream::start();
    for (kind, lines, before, make, after) in KINDS {
        let server = start(&upstream);
        let mut text = format!("{before}{}{after}", repeated(*lines, make));
        // Address space is reserved to read a larger file: for each thread, and once more.
        let threads = std::thread::available_parallelism().unwrap().get() as u64;
        leave(&server, 26 + if text.len() > 256 << 10 { 80 * (threads + 1) } else { 0 });
        server.replace("heavy.toml", &text);
        let why = wait_unreadable(&server, "octets take about");
        let estimated: u64 = why.split("take about ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        server.limit("--data=unlimited:");
        let resident = kib(&server, "VmRSS");
        // Another text, which is read at once.
        text.push_str("# x\n");
        server.replace("heavy.toml", &text);
        until_within(4 * DEADLINE, || server.out_of_date("unreadable").is_none().then_some(())).unwrap();
        edit(&server, "next.test");
        let taken = (kib(&server, "VmHWM") - resident) >> 10;
        assert!(
            taken <= estimated && estimated <= 6 * taken.max(8),
            "{kind}: {taken} MiB taken, {estimated} estimated"
        );
    }
}

#[test]
fn start_that_takes_long_asks_systemd_for_more_time() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let setup = Setup::policy(&upstream, "allowed_hostnames = ['first.test']").file("long.toml", dense(90_000));
    let mut child = Command::new(env!("CARGO_BIN_EXE_hostgate"))
        .args(["serve", "--config"])
        .arg(setup.write_configuration())
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let first = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(first.contains("EXTEND_TIMEOUT_USEC=30000000") && first.contains("STATUS=loading the policies"), "{first}");
    let ready = until_within(6 * DEADLINE, || {
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).contains("READY=1").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    ready.unwrap();
}
