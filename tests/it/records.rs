//! Audit records and decision records whose disk is full, whose directory is gone or whose reader does not read.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::Fault;
use crate::support::*;

/// Where policies are created and listed.
const LIST: &str = "/v1/network-policies";

/// A server whose records are in a folder `log` of their own; `required` is what `audit_required` says.
fn server(required: bool) -> Server {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]")
        .table("[decisions]\npath = \"log/decisions\"")
        .control(&format!("audit = \"log/audit\"\naudit_required = {required}"))
        .in_namespace();
    fs::create_dir(setup.directory().join("log")).unwrap();
    setup.start()
}

/// Returns the records of a file.
fn records(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap_or_default().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks a denied query.
fn query(server: &Server) {
    assert_eq!(ask("nope.example", RecordType::A).udp(server).rcode(), ResponseCode::NXDomain);
}

/// Returns the number of changes without a record.
fn failures(server: &Server) -> u64 {
    server.metric("hostgate_audit_failures_total", &[])
}

/// Returns the number of decision records lost.
fn dropped(server: &Server) -> u64 {
    server.metric("hostgate_decision_records_dropped_total", &[])
}

/// Makes a policy; returns how long that took.
fn make(server: &Server, name: &str) -> Duration {
    let start = Instant::now();
    server.api_post(LIST, &json!({ "name": name })).done();
    start.elapsed()
}

/// Waits until both say in the status what is wrong, with this in it.
fn wait_told(server: &Server, part: &str) {
    server.until(part, || {
        let status = server.status();
        let told = [&status["decision_log_error"], &status["control"]["error"]];
        told.into_iter().all(|told| told.as_str().is_some_and(|told| told.contains(part))).then_some(())
    });
}

/// Waits until neither says that anything is wrong.
fn wait_well(server: &Server) {
    server.until("all is well", || {
        // There is room for a few records.
        query(server);
        pause(Duration::from_millis(200));
        let status = server.status();
        (status["decision_log_error"].is_null() && status["control"]["error"].is_null()).then_some(())
    });
}

#[test]
fn removed_directory_is_told_counted_and_followed_when_it_is_back() {
    let server = server(false);
    let [log, audit, decisions] = ["log", "log/audit", "log/decisions"].map(|name| server.directory().join(name));
    make(&server, "before");
    query(&server);
    server.wait_metric("hostgate_decision_records_total", &[], 1);
    fs::remove_dir_all(&log).unwrap();
    wait_told(&server, "No such file or directory");
    make(&server, "lost");
    assert_eq!(failures(&server), 1);
    server.wait_log(&["ERROR", "audit record not written", "log/audit"]);
    // For some looks.
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_secs(4) {
        query(&server);
        asked += 1;
        pause(Duration::from_millis(50));
    }
    server.until("they are counted", || (dropped(&server) == asked).then_some(()));
    assert_eq!(server.log_lines(&["decision log not written; dropping records"]).len(), 1, "{}", server.log());
    assert!(server.log_lines(&["again"]).is_empty(), "{}", server.log());
    fs::create_dir(&log).unwrap();
    make(&server, "after");
    assert_eq!((records(&audit).len(), failures(&server)), (1, 1));
    wait_well(&server);
    server.until("the decisions", || {
        query(&server);
        (!records(&decisions).is_empty()).then_some(())
    });
    server.wait_log(&["decision log opened again", "dropped="]);
}

#[test]
fn full_disk_is_told_counted_and_written_to_again_when_there_is_room() {
    let server = server(false);
    let log = server.directory().join("log");
    let log = log.display();
    server.inside(&format!("mount -t tmpfs -o size=64k none {log}"));
    let inside = format!("/proc/{}/root{log}", server.id());
    let [audit, decisions] = ["audit", "decisions"].map(|name| Path::new(&inside).join(name));
    server.until("files on it", || (audit.exists() && decisions.exists()).then_some(()));
    make(&server, "before");
    server.inside(&format!("cat /dev/zero > {log}/filler 2> /dev/null || true"));
    // What is left of the last page.
    server.until("the audit file is full", || {
        make(&server, "lost");
        (failures(&server) > 0).then_some(())
    });
    server.until("the decision log is full", || {
        query(&server);
        (dropped(&server) > 0).then_some(())
    });
    wait_told(&server, "No space left on device");
    server.inside(&format!("rm {log}/filler"));
    let before = failures(&server);
    make(&server, "after");
    assert_eq!(failures(&server), before);
    wait_well(&server);
    server.wait_log(&["decision log written again", "dropped="]);
    assert_eq!(server.log_lines(&["decision log written again"]).len(), 1);
    let last = records(&audit).pop().unwrap();
    assert_eq!(last["generation"].as_u64(), server.status()["generation"].as_u64());
    records(&decisions);
}

#[test]
fn change_that_cannot_be_recorded_is_refused_where_that_is_required() {
    let server = server(true);
    let [log, audit] = ["log", "log/audit"].map(|name| server.directory().join(name));
    make(&server, "before");
    let told = records(&audit);
    assert_eq!((told.len(), &told[0]["generation"], &told[1]["generation"]), (2, &Value::Null, &json!(2)), "{told:?}");
    assert_eq!((&told[0]["id"], &told[0]["after"]), (&told[1]["id"], &told[1]["after"]));
    fs::remove_dir_all(&log).unwrap();
    let list = || server.api_get(LIST).done()["network_policies"].as_array().unwrap().len();
    let before = (list(), server.status()["generation"].clone());
    let post = || server.api_post(LIST, &json!({ "name": "refused" }));
    post().refused(503, &["the audit record cannot be written", "log/audit", "nothing is changed"]);
    assert_eq!((list(), server.status()["generation"].clone()), before);
    assert_eq!(failures(&server), 1);
    fs::create_dir(&log).unwrap();
    make(&server, "after");
    assert_eq!(records(&audit).len(), 2);
    // A file system that does not answer.
    let fault = Fault::hang(&server, &log);
    let start = Instant::now();
    post().refused(503, &["does not answer"]);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(fault);
    server.inside(&format!("umount -l {}", log.display()));
    wait_well(&server);
    make(&server, "last");
    // What was refused is not in it.
    assert_eq!(records(&audit).len(), 4, "{:#?}", records(&audit));
}

#[test]
fn file_system_that_does_not_answer_holds_up_one_change_for_two_seconds_and_no_query() {
    let server = server(false);
    let log = server.directory().join("log");
    make(&server, "before");
    let fault = Fault::hang(&server, &log);
    let first = make(&server, "first");
    assert!(first < Duration::from_secs(4), "{first:?}");
    server.until("it is known to hang", || (make(&server, "next") < Duration::from_millis(500)).then_some(()));
    let begin = Instant::now();
    for number in 0..10 {
        make(&server, &format!("n{number}"));
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(failures(&server) >= 12);
    query(&server);
    wait_told(&server, "it has not answered for ");
    assert_eq!((server.get("/readyz").status, server.get("/livez").status), (200, 200));
    drop(fault);
    server.inside(&format!("umount -l {}", log.display()));
    wait_well(&server);
    let before = failures(&server);
    make(&server, "after");
    assert_eq!(failures(&server), before);
}

#[test]
fn pipe_that_is_not_read_costs_records_and_nobody_waits_for_its_reader() {
    use std::io::Read as _;
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "").table("[decisions]\npath = \"decisions\"").control("audit = \"audit\"");
    let mut readers = Vec::new();
    for name in ["audit", "decisions"] {
        let path = setup.directory().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        readers.push(fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
    }
    let server = setup.start();
    let mut slowest = Duration::ZERO;
    server.until("the audit pipe is full", || {
        slowest = slowest.max(make(&server, "p"));
        (failures(&server) > 0).then_some(())
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    server.until("the decision pipe is full", || {
        (0..100).for_each(|_| query(&server));
        (dropped(&server) > 0).then_some(())
    });
    wait_told(&server, "does not read");
    // The readers read again, to the end of the tests.
    for mut reader in readers {
        std::thread::spawn(move || while reader.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
    }
    let before = failures(&server);
    make(&server, "after");
    assert_eq!(failures(&server), before);
    wait_well(&server);
    assert_eq!(server.log_lines(&["decision log not written; dropping records"]).len(), 1, "{}", server.log());
}
