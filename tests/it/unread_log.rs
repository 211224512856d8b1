//! Standard error is a pipe whose reader has stopped: nothing waits for it, and lost lines are counted and told.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";
/// Where policies are created.
const LIST: &str = "/v1/network-policies";

/// A server that can be changed by the API and be taken over from.
fn server(upstream: &FakeUpstream) -> Server {
    let server =
        Setup::policy(upstream, POLICY).top("takeover = \"takeover\"").control("audit = \"audit.jsonl\"").start();
    server.keep_addresses();
    server.stop_reading_log();
    server
}

/// Edits the policy until this name is denied, and returns how long that took.
fn edit(server: &Server, allowed: &str) -> Duration {
    let start = Instant::now();
    server.replace("test.toml", format!("[policy.test]\nallowed_hostnames = [\"{allowed}\"]\n"));
    server.until(allowed, || {
        let heard = [allowed, "other.test"].map(|name| ask(name, RecordType::A).udp(server).rcode());
        (heard == [ResponseCode::NoError, ResponseCode::NXDomain]).then_some(())
    });
    start.elapsed()
}

#[test]
fn edits_and_changes_go_into_force_and_lost_lines_are_told() {
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    for round in 0..5 {
        edit(&server, &format!("edit{round}.test"));
        let start = Instant::now();
        server.api_post(LIST, &json!({ "name": format!("p{round}") })).done();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(server.get("/readyz").status, 200);
    }
    let dropped = || server.metric("hostgate_log_lines_dropped_total", &[]);
    // A line as long as lines get, each time, and another error each time: the same one is told a few times a minute.
    let mut number = 0;
    server.until("lines are lost", || {
        number += 1;
        let wrong = format!("\"a{number}.*.test\", ").repeat(200);
        server.write("bad.toml", format!("[policy.bad]\nallowed_hostnames = [{wrong}]\n"));
        server.until("it is told", || {
            let status = server.status();
            status["error"].as_str().is_some_and(|error| error.contains(&format!("`a{number}."))).then_some(())
        });
        (dropped() > 0).then_some(())
    });
    edit(&server, "late.test");
    server.until("the status says so", || {
        server.status()["log_error"].as_str().is_some_and(|error| error.contains("nobody has read")).then_some(())
    });
    assert_eq!((server.get("/readyz").status, server.get("/livez").status), (200, 200));
    server.read_log_again();
    let told = server.wait_log(&["hostgate: ", " log lines lost: "]);
    let lost: u64 = told.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(lost > 0 && lost <= dropped(), "{told}");
    server.until("it is read", || server.status()["log_error"].is_null().then_some(()));
}

#[test]
fn log_that_cannot_be_written_is_told_until_it_can_be() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let log = || server.metric("hostgate_log_ok", &[("log", "lines")]);
    assert!(server.status()["log_error"].is_null() && log() == 1);
    server.close_log_after_next_line();
    let told = server.until("told", || {
        server.signal("HUP");
        server.status()["log_error"].as_str().map(str::to_owned)
    });
    assert!(told.starts_with("standard error cannot be written: Broken pipe"), "{told}");
    assert_eq!((log(), server.get("/readyz").status), (0, 200));
    let lost = || server.metric("hostgate_log_lines_dropped_total", &[]);
    let before = lost();
    assert!(before > 0);
    // It is no loss that the number of lost lines is tried to be written.
    pause(Duration::from_millis(2500));
    assert_eq!(lost(), before);
    assert!(!server.status()["log_error"].is_null());
    // A new reader of the same pipe; nothing is logged.
    let pipe = std::fs::File::open(format!("/proc/{}/fd/2", server.id())).unwrap();
    server.until("it is written", || server.status()["log_error"].is_null().then_some(()));
    assert_eq!(log(), 1);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(pipe), &mut line).unwrap();
    assert_eq!(
        line,
        format!("hostgate: {before} log lines lost: nobody read standard error, or it could not be written\n")
    );
}

#[test]
fn sigterm_ends_it_at_once_and_a_take_over_leaves_one_process() {
    let upstream = FakeUpstream::start();
    let mut first = server(&upstream);
    edit(&first, "first.test");
    let start = Instant::now();
    let second = first.successor();
    first.wait_exit();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for _ in 0..50 {
        ask("first.test", RecordType::A).both(&second).expect_addresses(&[GLOBAL.into()]);
    }
    edit(&second, "second.test");
    second.stop_reading_log();
    let mut second = second;
    let start = Instant::now();
    second.signal("TERM");
    second.wait_exit();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn start_that_fails_ends_although_nobody_reads_why() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*\"]");
    let config = setup.write_configuration();
    // A pipe that is full and whose reader does not read.
    let script = "import os, sys\nr, w = os.pipe()\nos.set_blocking(w, False)\n\
                  try:\n  while True: os.write(w, b'x' * 4096)\nexcept BlockingIOError: pass\n\
                  os.set_blocking(w, True)\nos.dup2(w, 2)\nos.set_inheritable(r, True)\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let mut child = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_hostgate"), "serve", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn()
        .expect("python3 is there");
    let ended = command::wait(&mut child);
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(ended.expect("it ends").code(), Some(78));
    // With a reader, it says why, whole.
    setup.refused().expect_code(78).expect_text(&["test.toml:2:", "hostgate: not started: "]);
}
