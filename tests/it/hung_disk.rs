//! A disk below the API's objects that does not answer: changes over the API are refused in time, and people's files go on.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::{Disk, Fault};
use crate::support::*;

/// The path of the policies of the API.
const LIST: &str = "/v1/network-policies";
/// The time in which a change is answered whatever hangs, and a little more.
const ANSWERED: Duration = Duration::from_secs(8);

/// Returns the names of all policies that the API made.
fn names(server: &Server) -> Vec<String> {
    let list = server.api_get(LIST).done();
    let mut names: Vec<String> = list["network_policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|policy| policy["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "test")
        .collect();
    names.sort();
    names
}

/// Makes a policy of this name and asserts that it is refused because of the disk; returns how long that took.
fn refused(server: &Server, name: &str) -> Duration {
    let begin = Instant::now();
    server
        .api_post(LIST, &json!({ "name": name }))
        .refused(503, &["the disk of ", "api has not answered for ", " s: nothing"]);
    begin.elapsed()
}

/// Asserts what holds while a write hangs: others are refused at once, and a file of a person goes into force.
fn assert_hangs(server: &Server, label: &str) {
    assert!(refused(server, "late") < Duration::from_secs(1));
    server.replace("test.toml", format!("[policy.test]\nallowed_hostnames = [\"{label}.test\"]\n"));
    let begin = Instant::now();
    server.until("the edit is in force", || {
        let heard = ask(&format!("{label}.test"), RecordType::A).udp(server);
        (heard.rcode() == ResponseCode::NoError && !heard.addresses().is_empty()).then_some(())
    });
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let entry = server.wait_out_of_date("stuck");
    assert!(entry["path"].as_str().unwrap().ends_with("policies/api"), "{entry}");
    assert_eq!((server.get("/readyz").status, server.get("/livez").status), (200, 200));
    assert_eq!(server.status()["reload_stuck"], Value::Null);
    server.wait_log(&["ERROR", "a disk does not answer", "policies/api"]);
}

#[test]
fn write_that_hangs_is_refused_in_time_and_keeps_no_file_of_a_person() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"old.test\"]").control("").in_namespace().start();
    server.api_post(LIST, &json!({ "name": "first" })).done();
    let fault = Fault::hang(&server, &server.policies("api/.new"));
    thread::scope(|scope| {
        for number in 0..20 {
            let server = &server;
            scope.spawn(move || {
                let taken = refused(server, &format!("n{number}"));
                assert!(taken < ANSWERED, "{number}: {taken:?}");
            });
        }
    });
    assert_hangs(&server, "new");
    assert_eq!(names(&server), ["first"], "what is in force is shown");
    drop(fault);
    server.inside(&format!("umount -l {}", server.policies("api/.new").display()));
    server.wait_not_out_of_date("stuck");
    server.api_post(LIST, &json!({ "name": "second" })).done();
    assert_eq!(names(&server), ["first", "second"], "none that was refused is made");
}

#[test]
fn change_that_waits_for_a_reload_that_hangs_is_refused_and_never_made() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"old.test\"]").control("").in_namespace().start();
    server.api_post(LIST, &json!({ "name": "first" })).done();
    let team = server.policies("team");
    fs::create_dir(&team).unwrap();
    let fault = Fault::hang(&server, &team);
    server.signal("HUP");
    server.until("it hangs", || (server.metric("hostgate_reload_running_seconds", &[]) > 0).then_some(()));
    thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let begin = Instant::now();
                let told = server.api_post(LIST, &json!({ "name": format!("n{number}") }));
                told.refused(503, &["a reload has been running"]);
                assert!(begin.elapsed() < Duration::from_secs(12), "{number}: {:?}", begin.elapsed());
            });
        }
    });
    assert_eq!(server.get("/readyz").status, 503);
    drop(fault);
    server.inside(&format!("umount -l {}", team.display()));
    server.until("it goes on", || (server.get("/readyz").status == 200).then_some(()));
    server.api_post(LIST, &json!({ "name": "second" })).done();
    assert_eq!(names(&server), ["first", "second"]);
}

#[test]
fn change_that_a_frozen_disk_kept_is_not_made_when_it_thaws() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"old.test\"]").control("");
    let Some(disk) = Disk::mount(&setup.policies().join("api")) else { return };
    let server = setup.start();
    let first = server.api_post(LIST, &json!({ "name": "first" })).done()["id"].as_str().unwrap().to_owned();
    let files = || {
        let all = fs::read_dir(server.policies("api")).unwrap().map(|entry| entry.unwrap().file_name());
        all.filter(|name| name.to_string_lossy().ends_with(".toml")).count()
    };
    let change = |kind: &str| match kind {
        "create" => server.api_post(LIST, &json!({ "name": "new" })),
        "update" => server.api_post(&format!("{LIST}/{first}"), &json!({ "name": "changed" })),
        _ => server.api_post(&format!("{LIST}/{first}/delete"), &json!({})),
    };
    for kind in ["create", "update", "delete"] {
        disk.freeze();
        let begin = Instant::now();
        change(kind).refused(503, &["the disk of ", "has not answered for ", "nothing was changed"]);
        assert!(begin.elapsed() < ANSWERED, "{kind}: {:?}", begin.elapsed());
        assert_hangs(&server, kind);
        disk.thaw();
        server.wait_not_out_of_date("stuck");
        server.wait_log(&["WARN", "the disk answers again", "seconds="]);
        assert_eq!((names(&server), files()), (vec!["first".to_owned()], 1), "{kind}");
    }
    // A moment is no reason to refuse.
    disk.freeze();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| change("update").done());
        pause(Duration::from_secs(2));
        disk.thaw();
        waiting.join().unwrap();
    });
    assert_eq!((names(&server), files()), (vec!["changed".to_owned()], 1));
    change("delete").done();
    assert_eq!(files(), 0);
}
