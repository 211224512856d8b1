//! A full disk: nothing half-written stays, and records begin on lines of their own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

/// The longest file, in blocks of 512 octets.
const BLOCKS: u32 = 21;

/// Returns the records of a file, each of which has to be a line of its own.
fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {:?}", text.lines().last());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn nothing_half_written_stays_and_the_next_record_has_a_line_of_its_own() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]")
        .table("[decisions]\npath = \"decisions.jsonl\"")
        .control("audit = \"audit.jsonl\"")
        .file_blocks(BLOCKS);
    // A process before this one was killed within a line.
    let [decisions, audit] = ["decisions.jsonl", "audit.jsonl"].map(|name| setup.directory().join(name));
    fs::write(&decisions, "{\"torn\":").unwrap();
    fs::write(&audit, "{\"torn\":").unwrap();
    let server = setup.start();
    let drop_first_line = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "{\"torn\":");
        fs::write(path, rest).unwrap();
    };

    let list = "/v1/network-policies";
    let id = server.api_post(list, &json!({ "name": "0" })).done()["id"].as_str().unwrap().to_owned();
    ask("denied.example", RecordType::A).udp(&server);
    server.wait_metric("hostgate_decision_records_total", &[], 1);
    drop_first_line(&audit);
    drop_first_line(&decisions);

    // The API's own files.
    let names: Vec<_> = (0..1_000).map(|number| format!("host-{number}.example.test")).collect();
    let large = json!({ "name": "large", "allowed_hostnames": names });
    for path in [list.to_owned(), format!("{list}/{id}")] {
        server.api_post(&path, &large).refused(503, &["write ", ".toml"]);
    }
    let left = || fs::read_dir(server.policies("api/.new")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left().collect::<Vec<_>>(), ["lock"]);

    for round in 0..2 {
        let failed = || server.metric("hostgate_audit_failures_total", &[]);
        let before = failed();
        for number in 0.. {
            server.api_post(&format!("{list}/{id}"), &json!({ "name": format!("{round}-{number}") })).done();
            if failed() > before {
                break;
            }
            assert!(number < 100, "the audit file never gets full");
        }
        assert!(records(&audit).len() > 10);
        let dropped = || server.metric("hostgate_decision_records_dropped_total", &[]);
        let before = dropped();
        server.until("decision log full", || {
            ask("denied.example", RecordType::A).udp(&server);
            (dropped() > before).then_some(())
        });
        assert!(records(&decisions).len() > 10);
        // Room again.
        fs::write(&audit, "").unwrap();
        fs::write(&decisions, "").unwrap();
    }
    server.api_post(&format!("{list}/{id}"), &json!({ "name": "last" })).done();
    assert_eq!(records(&audit).len(), 1);
    ask("denied.example", RecordType::A).udp(&server);
    server.until("a record", || (!records(&decisions).is_empty()).then_some(()));
}
