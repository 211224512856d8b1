//! The decision log: its fields, its rotation, and that it never holds up an answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::*;

/// Two policies: one for the client `devbox-7`, one for all else.
const POLICIES: &str = r#"[policy.test]
allowed_hostnames = ["allowed.test", "*.wild.test"]
denied_hostnames = ["bad.wild.test"]
[policy.audited]
mode = "audit"
[client.devbox-7]
sources = ["127.0.0.7"]
policy = "audited"
"#;

/// Starts with the decision log at `path`.
fn start(upstream: &FakeUpstream, path: &str) -> Server {
    Setup::new(&[upstream])
        .file("p.toml", POLICIES)
        .top("default_policy = \"test\"")
        .table(&format!("[decisions]\npath = \"{path}\""))
        .start()
}

/// Returns the records in the file so far.
fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for the first record about `qname`.
fn wait_record(server: &Server, path: &Path, qname: &str) -> Value {
    server.until(&format!("a record of {qname}"), || records(path).into_iter().find(|record| record["qname"] == qname))
}

#[test]
fn a_record_names_the_limit_that_is_spent() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.t.test\"]\nbudget = { names = 0 }")
        .table("[decisions]\npath = \"decisions.jsonl\"")
        .start();
    ask("new.t.test", RecordType::A).udp(&server).expect_denied();
    let record = wait_record(&server, &server.directory().join("decisions.jsonl"), "new.t.test");
    assert_eq!((&record["reason"], &record["limit"]), (&"budget".into(), &"names".into()), "{record}");
}

#[test]
fn record_has_every_field() {
    let upstream = FakeUpstream::start();
    upstream.on("chain.wild.test", Answer::new().cname("chain.wild.test", "hop.example").a("hop.example", GLOBAL));
    let server = start(&upstream, "decisions.jsonl");
    let path = server.directory().join("decisions.jsonl");

    ask("Chain.Wild.TEST", RecordType::A).udp(&server);
    let record = wait_record(&server, &path, "chain.wild.test");
    assert!(record["time"].as_str().is_some_and(|time| time.contains('T') && time.ends_with('Z')), "{record}");
    assert!(record["client"].is_null(), "no client: {record}");
    assert!(record.get("limit").is_none(), "only where one is spent: {record}");
    assert!(record["source"].as_str().is_some_and(|source| source.starts_with("127.0.0.1")), "{record}");
    for (field, value) in [
        ("transport", "udp"),
        ("qtype", "A"),
        ("policy", "test"),
        ("action", "allow"),
        ("rule", "*.wild.test"),
        ("rcode", "NOERROR"),
        ("cache", "miss"),
    ] {
        assert_eq!(record[field], value, "{field}: {record}");
    }
    assert_eq!(record["generation"], 1, "{record}");
    assert_eq!(record["audited"], false, "{record}");
    assert!(record["place"].as_str().is_some_and(|place| place.contains("p.toml:2")), "{record}");
    assert_eq!(record["upstream"], upstream.address.to_string(), "{record}");
    assert!(record["elapsed_us"].as_u64().is_some_and(|elapsed| elapsed > 0 && elapsed < 5_000_000), "{record}");
    assert_eq!(record["chain"], serde_json::json!(["hop.example"]), "{record}");
    assert!(record["reason"].is_string(), "{record}");

    ask("bad.wild.test", RecordType::AAAA).tcp(&server);
    let record = wait_record(&server, &path, "bad.wild.test");
    for (field, value) in [
        ("transport", "tcp"),
        ("qtype", "AAAA"),
        ("action", "deny"),
        ("rule", "bad.wild.test"),
        ("rcode", "NXDOMAIN"),
        ("cache", "none"),
    ] {
        assert_eq!(record[field], value, "{field}: {record}");
    }
    assert!(record["place"].as_str().is_some_and(|place| place.contains("p.toml:3")), "{record}");
    assert!(record["upstream"].is_null(), "{record}");
    assert_eq!(record["chain"], serde_json::json!([]), "{record}");

    ask("unlisted.test", RecordType::A).udp(&server);
    let record = wait_record(&server, &path, "unlisted.test");
    assert_eq!((&record["action"], &record["rule"], &record["place"]), (&"deny".into(), &Value::Null, &Value::Null));

    ask("allowed.test", RecordType::from(65_400)).udp(&server);
    let record = wait_record(&server, &path, "allowed.test");
    assert_eq!(
        (&record["action"], &record["qtype"], &record["rcode"]),
        (&"nodata".into(), &"TYPE65400".into(), &"NOERROR".into())
    );

    ask("free.test", RecordType::A).from("127.0.0.7").udp(&server);
    let record = wait_record(&server, &path, "free.test");
    assert_eq!(
        (&record["client"], &record["audited"], &record["action"]),
        (&"devbox-7".into(), &true.into(), &"allow".into())
    );

    ask("chain.wild.test", RecordType::A).udp(&server);
    server.until("a hit", || {
        let hit = records(&path).into_iter().find(|record| record["cache"] == "hit")?;
        assert_eq!((&hit["chain"], &hit["upstream"]), (&serde_json::json!(["hop.example"]), &Value::Null), "{hit}");
        Some(())
    });
}

#[test]
fn names_with_any_bytes_are_one_json_line() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "decisions.jsonl");
    let path = server.directory().join("decisions.jsonl");
    let labels: [&[u8]; 4] = [b"a\n{\"action\":\"allow\"}", b"\xff\xfe\0\"\\", b"\x1b[31m", b"test"];
    for label in labels {
        ask("", RecordType::A).labels(&[label, b"example"]).udp(&server);
    }
    ask("last.example", RecordType::A).udp(&server);
    wait_record(&server, &path, "last.example");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{text:?}");
    assert_eq!(records(&path).len(), 5);
}

#[test]
fn renamed_file_is_noticed() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "decisions.jsonl");
    let path = server.directory().join("decisions.jsonl");
    ask("one.example", RecordType::A).udp(&server);
    wait_record(&server, &path, "one.example");
    let rotated = server.directory().join("decisions.jsonl.1");
    fs::rename(&path, &rotated).unwrap();
    let mut number = 0;
    server.until("the new file", || {
        ask(&format!("more{number}.example"), RecordType::A).udp(&server);
        number += 1;
        (!records(&path).is_empty()).then_some(())
    });
    // Nothing is lost between the two.
    let all = server.until("all records", || {
        let all = [records(&rotated), records(&path)].concat();
        (all.len() > number).then_some(all)
    });
    for wanted in 0..number {
        let qname = format!("more{wanted}.example");
        assert_eq!(all.iter().filter(|record| record["qname"] == qname.as_str()).count(), 1, "{qname}");
    }
}

#[test]
fn sigusr1_opens_the_file_anew() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "decisions.jsonl");
    let path = server.directory().join("decisions.jsonl");
    for round in 0..3 {
        let qname = format!("round{round}.example");
        ask(&qname, RecordType::A).udp(&server);
        wait_record(&server, &path, &qname);
        fs::rename(&path, server.directory().join(format!("decisions.{round}"))).unwrap();
        server.signal("USR1");
        server.until("the file is there again", || path.exists().then_some(()));
    }
    ask("after.example", RecordType::A).udp(&server);
    wait_record(&server, &path, "after.example");
    assert_eq!(records(&path).len(), 1);
}

#[test]
fn existing_file_is_appended_to() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("decisions.jsonl");
    for round in 0..2 {
        let server = start(&upstream, path.to_str().unwrap());
        ask(&format!("round{round}.example"), RecordType::A).udp(&server);
        wait_record(&server, &path, &format!("round{round}.example"));
    }
    assert_eq!(records(&path).len(), 2);
}

#[test]
fn end_of_the_server_loses_no_record() {
    let upstream = FakeUpstream::start();
    let mut server = start(&upstream, "decisions.jsonl");
    for number in 0..50 {
        ask(&format!("n{number}.example"), RecordType::A).udp(&server);
    }
    server.signal("TERM");
    server.wait_exit();
    assert_eq!(records(&server.directory().join("decisions.jsonl")).len(), 50);
}

#[test]
fn full_disk_drops_records_and_answers() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "/dev/full");
    for _ in 0..500 {
        ask("denied.example", RecordType::A).udp(&server).expect_denied();
    }
    ask("allowed.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    server.wait_metric("hostgate_decision_records_dropped_total", &[], 500);
    assert!(server.log_lines(&["/dev/full"]).len() < 20, "told, but not for each record:\n{}", server.log());
}

#[test]
fn pipe_that_nobody_reads_does_not_hold_up_an_answer() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Opened for reading and writing, a FIFO does not wait for the other side (Linux); nothing is ever read.
    let _held = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let mut server = start(&upstream, pipe.to_str().unwrap());
    let long = ["a".repeat(60).as_str(), "b".repeat(60).as_str(), "c".repeat(60).as_str(), "example"].join(".");
    for _ in 0..3_000 {
        ask(&long, RecordType::A).udp(&server).expect_denied();
    }
    ask("allowed.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    assert!(server.resident_kib() < 300_000, "{} KiB", server.resident_kib());
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0), "and it ends");
}
