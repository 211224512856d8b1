//! Each change by the API is a record: who, what, before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::support::api::{TOKEN, VIEWER, Wire, head};
use crate::support::*;

/// Where policies are created and listed.
const LIST: &str = "/v1/network-policies";

/// A server with the API and an audit file.
fn server() -> Server {
    let upstream = FakeUpstream::start();
    Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]").control("audit = \"audit.jsonl\"").start()
}

/// Returns the records of a file.
fn records(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes a request with a body.
fn post(path: &str, token: &str, body: &str) -> String {
    head("POST", path, token, &format!("content-length: {}\r\n", body.len())) + body
}

/// Returns the SHA-256 of what a file holds, in hexadecimal.
fn hash(path: &Path) -> Value {
    hash_of(&fs::read(path).unwrap()).into()
}

/// Returns a SHA-256 in hexadecimal.
fn hash_of(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn a_change_is_recorded_with_who_and_the_hashes_of_its_file() {
    let server = server();
    let path = server.directory().join("audit.jsonl");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut wire = Wire::open(&server);
    let created = wire.send(post(LIST, TOKEN, "{\"name\":\"one\"}")).response();
    let created: Value = serde_json::from_str(&created.body).unwrap();
    let id = created["id"].as_str().unwrap();
    let file = server.policies(&format!("api/{id}.toml"));
    let first = hash(&file);
    // Refused, and without an effect: no record.
    for request in [
        post(LIST, VIEWER, "{\"name\":\"two\"}"),
        post(LIST, "none", "{\"name\":\"two\"}"),
        post(LIST, TOKEN, "{\"name\":\"two\",\"allowed_hostnames\":[\"*\"]}"),
        post(&format!("{LIST}/none"), TOKEN, "{}"),
    ] {
        let refused = wire.send(request).response();
        assert!((400..500).contains(&refused.status), "{refused:?}");
    }
    wire.send(post(&format!("{LIST}/{id}"), TOKEN, "{\"allowed_hostnames\":[\"a.test\"]}")).response();
    let second = hash(&file);
    // Moved away, as logrotate does.
    let moved = server.directory().join("audit.jsonl.1");
    fs::rename(&path, &moved).unwrap();
    assert_eq!(wire.send(post(&format!("{LIST}/{id}/delete"), TOKEN, "")).response().status, 200);
    let told = [records(&moved), records(&path)].concat();
    assert_eq!((records(&moved).len(), told.len()), (2, 3), "{told:#?}");
    let who = format!("admin:{}", &hash_of(TOKEN.as_bytes())[..8]);
    for (generation, (record, (before, after))) in
        (2_u64..).zip(told.iter().zip([(&Value::Null, &first), (&first, &second), (&second, &Value::Null)]))
    {
        assert_eq!((&record["before"], &record["after"]), (before, after), "{record}");
        assert_eq!((&record["who"], &record["source"]), (&who.as_str().into(), &"127.0.0.1".into()), "{record}");
        assert_eq!((&record["id"], record["generation"].as_u64()), (&id.into(), Some(generation)), "{record}");
    }
    let told = || server.log_lines(&["changed by the API", &who, id]).len();
    server.until("the log has them, too", || (told() >= 3).then_some(()));
    assert_eq!(told(), 3);
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn a_client_that_goes_at_once_leaves_a_record_of_what_it_did() {
    let server = server();
    let come_and_go = |number: usize| {
        Wire::open(&server).send(post(LIST, TOKEN, &format!("{{\"name\":\"{number}\"}}")));
    };
    (0..50).for_each(come_and_go);
    let path = server.directory().join("audit.jsonl");
    let files = || {
        fs::read_dir(server.policies("api")).map_or(0, |entries| {
            entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "toml")).count()
        })
    };
    // On a busy machine the first may not even be accepted when the last has gone.
    let mut more = 50..;
    server.until("some were made", || {
        more.next().map(come_and_go);
        (files() > 0).then_some(())
    });
    server.until("none runs any more", || (server.metric("hostgate_control_connections", &[]) == 0).then_some(()));
    server.until("each file has its record", || (files() == records(&path).len()).then_some(()));
    assert_eq!(server.metric("hostgate_audit_failures_total", &[]), 0);
}

#[test]
fn an_audit_file_that_is_full_is_told() {
    let server = Setup::policy(&FakeUpstream::start(), "").control("audit = \"/dev/full\"").start();
    assert_eq!(Wire::open(&server).send(post(LIST, TOKEN, "{\"name\":\"one\"}")).response().status, 200);
    assert_eq!(server.metric("hostgate_audit_failures_total", &[]), 1);
    server.wait_log(&["ERROR", "audit record not written", "/dev/full"]);
}
