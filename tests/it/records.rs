//! Audit records and decision records whose disk is full, whose directory is gone or whose reader does not read.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::Fault;
use crate::support::*;

/// Where policies are created and listed.
const LIST: &str = "/v1/network-policies";

/// A server to be started whose records are in a folder `log` of their own; `required` is what `audit_required` says.
fn setup(upstream: &FakeUpstream, required: bool) -> Setup {
    Setup::policy(upstream, "allowed_hostnames = [\"*.test\"]")
        .table("[decisions]\npath = \"log/decisions\"")
        .control(&format!("audit = \"log/audit\"\naudit_required = {required}"))
        .in_namespace()
}

/// A server whose records are in a folder `log` of their own.
fn server(required: bool) -> Server {
    let setup = setup(&FakeUpstream::start(), required);
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
    server.wait_log(&["audit file opened again", "dropped=1"]);
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
    server.wait_log(&["audit file written again", "dropped="]);
    for line in ["decision log written again", "audit file written again"] {
        assert_eq!(server.log_lines(&[line]).len(), 1, "{line}");
    }
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

/// Returns whether the metric says that the decision log and the audit file are written.
fn are_ok(server: &Server) -> [u64; 2] {
    ["decisions", "audit"].map(|log| server.metric("hostgate_log_ok", &[("log", log)]))
}

/// Checks that a server that began without its files of records serves, says so, and writes them once `mend` has run.
/// `part` is a part of the reason.
fn check_begun_without(server: &Server, part: &str, mend: impl FnOnce()) {
    query(server);
    assert_eq!(ask("a.test", RecordType::A).udp(server).rcode(), ResponseCode::NoError);
    wait_told(server, part);
    assert_eq!(are_ok(server), [0, 0], "{part}");
    assert_eq!((server.get("/readyz").status, server.get("/livez").status), (200, 200));
    make(server, "unrecorded");
    assert_eq!(failures(server), 1);
    server.until("they are counted", || (dropped(server) >= 2).then_some(()));
    for line in ["decision log not written; dropping records", "audit file not written"] {
        assert_eq!(server.log_lines(&[line, part]).len(), 1, "{line}: {part}: {}", server.log());
    }
    mend();
    for line in ["decision log opened path", "audit file opened path"] {
        server.wait_log(&[line]);
    }
    wait_well(server);
    let before = (server.metric("hostgate_decision_records_total", &[]), failures(server));
    make(server, "recorded");
    query(server);
    server.wait_metric("hostgate_decision_records_total", &[], before.0 + 1);
    assert_eq!((failures(server), are_ok(server)), (before.1, [1, 1]));
}

#[test]
fn start_goes_on_without_records_that_cannot_be_written_and_writes_them_later() {
    /// What is done in the folder before the start, a part of the reason, and what ends that.
    const CASES: &[(&str, &str, &str)] = &[
        ("rmdir log", "No such file or directory", "mkdir log"),
        ("rmdir log; echo > log", "Not a directory", "rm log; mkdir log"),
        ("mkdir log/audit log/decisions", "Is a directory", "rmdir log/audit log/decisions"),
        ("mkfifo log/audit log/decisions", "FIFO that nobody reads", "rm log/audit log/decisions"),
        ("ln -s decisions log/decisions; ln -s audit log/audit", "symbolic links", "rm log/audit log/decisions"),
        (
            "ln -s ../other log/decisions; ln -s ../other log/audit; chown -h 61725 log/decisions log/audit",
            "and not followed: remove it, or let root or the user hostgate runs as own it",
            "test ! -e other; rm log/audit log/decisions",
        ),
    ];
    let upstream = FakeUpstream::start();
    for (fault, part, mend) in CASES {
        if fault.contains("chown") && !rustix::process::geteuid().is_root() {
            skip("only root can give a link to another user");
            continue;
        }
        let setup = setup(&upstream, false);
        let directory = setup.directory().to_owned();
        let shell = |script: &str| {
            let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(&directory).status();
            assert!(status.unwrap().success(), "{script}");
        };
        shell(&format!("mkdir log; {fault}"));
        let config = setup.write_configuration();
        let told = run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(0);
        let told = told.expect_text(&["the next start serves what is on disk"]);
        for name in ["decision log", "audit file"] {
            // Opening a FIFO to see whether it has a reader would end that reader.
            let parts = if part.contains("FIFO") {
                [format!("the {name} is a FIFO"), "log/".to_owned()]
            } else {
                [format!("the {name} would not be written"), (*part).to_owned()]
            };
            let is_told = |line: &str| parts.iter().all(|part| line.contains(part));
            assert!(told.stdout.lines().any(is_told), "{told:#?}");
        }
        let server = setup.start();
        check_begun_without(&server, part, || shell(mend));
    }
}

#[test]
fn start_goes_on_without_records_whose_file_system_is_full_or_read_only() {
    let upstream = FakeUpstream::start();
    for (options, part) in [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")] {
        let setup = setup(&upstream, false);
        let log = setup.directory().join("log");
        fs::create_dir(&log).unwrap();
        let Some(setup) = setup.apart(&format!("mount -t tmpfs -o {options} none {}", log.display())) else { return };
        let server = setup.start();
        let mend = format!("mount -o remount,rw,nr_inodes=100 {}", log.display());
        check_begun_without(&server, part, || server.inside(&mend));
    }
}

#[test]
fn changes_are_refused_after_a_start_without_records_that_are_required() {
    let server = setup(&FakeUpstream::start(), true).start();
    let post = || server.api_post(LIST, &json!({ "name": "refused" }));
    let before = server.api_get(LIST).done();
    post().refused(503, &["the audit record cannot be written", "log/audit", "nothing is changed"]);
    assert_eq!((server.api_get(LIST).done(), failures(&server)), (before, 1));
    query(&server);
    fs::create_dir(server.directory().join("log")).unwrap();
    make(&server, "after");
    assert_eq!(records(&server.directory().join("log/audit")).len(), 2);
    wait_well(&server);
}

#[test]
fn start_does_not_wait_for_a_file_system_of_records_that_does_not_answer() {
    /// Mounts a file system that does not answer, until a file is gone or the server is.
    const HANG: &str = r#"
import ctypes, os, sys, time
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None).mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit("no mount")
parent = os.getppid()
open(sys.argv[2], "w").close()
while os.path.exists(sys.argv[2]) and os.getppid() == parent:
    time.sleep(0.05)
"#;
    let setup = setup(&FakeUpstream::start(), true);
    let [log, hung, script] = ["log", "hung", "hang.py"].map(|name| setup.directory().join(name));
    fs::create_dir(&log).unwrap();
    fs::write(&script, HANG).unwrap();
    let [log, flag, script] = [log, hung.clone(), script].map(|path| path.display().to_string());
    let hang = format!("{{ python3 {script} {log} {flag} & while ! test -e {flag}; do sleep 0.05; done; }}");
    let Some(setup) = setup.apart(&hang) else { return };
    let start = Instant::now();
    let server = setup.start();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    query(&server);
    server.wait_log(&["ERROR", "decision log not opened yet"]);
    server.wait_log(&["ERROR", "audit file not opened yet"]);
    let post = || server.api_post(LIST, &json!({ "name": "refused" }));
    post().refused(503, &["does not answer"]);
    wait_told(&server, "it has not answered for ");
    assert_eq!((server.get("/readyz").status, server.get("/livez").status), (200, 200));
    fs::remove_file(hung).unwrap();
    server.inside(&format!("umount -l {log}"));
    wait_well(&server);
    make(&server, "after");
}

#[test]
fn path_that_names_no_file_is_no_start() {
    let table = |text: &str| Setup::policy(&FakeUpstream::start(), "").table(text).refused().expect_code(78);
    table("[decisions]\npath = \"\"").expect_text(&["hostgate.toml:", "`path`: `` names no file"]);
    table("[decisions]\npaht = \"x\"").expect_text(&["hostgate.toml:", "`paht`"]);
}

#[test]
fn file_that_is_still_written_is_told_by_what_became_of_its_place() {
    let server = server(false);
    let log = server.directory().join("log");
    let shown = log.display();
    make(&server, "before");
    // Mounted over.
    server.inside(&format!("mount -t tmpfs -o ro none {shown}"));
    wait_told(&server, "over which something is mounted");
    make(&server, "old");
    server.inside(&format!("umount {shown}"));
    server.wait_log(&["audit file at its path again"]);
    server.wait_log(&["decision log at its path again"]);
    wait_well(&server);
    assert_eq!((records(&log.join("audit")).len(), failures(&server)), (2, 0));
    // Moved.
    let moved = server.directory().join("moved");
    fs::rename(&log, &moved).unwrap();
    wait_told(&server, "the old file, which was moved");
    make(&server, "moved");
    assert_eq!((records(&moved.join("audit")).len(), failures(&server)), (3, 0));
    fs::create_dir(&log).unwrap();
    server.wait_log(&["audit file opened again"]);
    wait_well(&server);
    // Unmounted, and no file can be made in what is there then.
    server.inside(&format!("rm {shown}/*; mkdir {shown}/audit {shown}/decisions; mount -t tmpfs none {shown}"));
    let inside = format!("/proc/{}/root{shown}", server.id());
    let is_file = |name| Path::new(&inside).join(name).is_file();
    server.until("files on it", || (is_file("audit") && is_file("decisions")).then_some(()));
    server.inside(&format!("umount -l {shown}"));
    wait_told(&server, "whose file system was unmounted");
    assert_eq!(failures(&server), 0);
}
