//! What one bad file, folder or link costs: itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::api::{TOKEN, head};
use crate::support::*;

/// How long an edit may take beside the worst megabyte, in a build without optimisation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);
/// The most octets of `/status`, whatever is wrong.
const STATUS: usize = 64 << 10;
/// The most octets of a line of the log.
const LINE: usize = 40 << 10;

/// Repeats a text that is made of a number until it has so many octets.
fn repeated(octets: usize, make: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= octets {
            break;
        }
        text += &make(number);
    }
    text
}

/// Returns an address.
fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 100 + (number >> 16), number >> 8 & 255, number & 255)
}

/// Makes a FIFO that nobody writes to.
fn make_fifo(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Edits `test.toml` and waits until that is in force; returns how long that took.
#[track_caller]
fn edit(server: &Server, name: &str) -> Duration {
    let start = Instant::now();
    server.replace("test.toml", format!("[policy.test]\nallowed_hostnames = ['{name}']\n"));
    let in_force = until_within(PATIENCE * 4, || {
        (!ask(name, RecordType::A).udp(server).addresses().is_empty()).then(|| start.elapsed())
    });
    in_force.unwrap_or_else(|| panic!("{name} is not in force\n{:.2000}", server.log()))
}

#[test]
fn worst_megabyte_of_each_kind_delays_the_next_edit_little() {
    type Make = fn(usize) -> String;
    const KINDS: &[(&str, &str, Make, &str)] = &[
        ("unknown includes", "[policy.x]\ninclude = [", |n| format!("'no{n}', "), "]\n"),
        ("unknown policies", "", |n| format!("[client.c{n}]\nsources = ['{}']\npolicy = 'no{n}'\n", address(n)), ""),
        ("one source", "", |n| format!("[client.c{n}]\nsources = ['10.1.0.1']\npolicy = 'test'\n"), ""),
        (
            "failing tests",
            "[client.t]\nsources = ['10.1.0.2']\npolicy = 'test'\n",
            |n| format!("[[test]]\nclient = 't'\nname = 'n{n}.example'\nexpect = 'allow'\n"),
            "",
        ),
        ("ids defined twice", "", |n| format!("[policy.p{}]\n[client.p{0}]\n[blueprint.p{0}]\n", n / 2), ""),
        ("cycles of includes", "", |n| format!("[policy.p{n}]\ninclude = ['p{}', 'p0']\n", n + 1), "[policy.q]\n"),
        ("unused policies", "", |n| format!("[policy.p{n}]\n"), ""),
        ("unknown keys", "[policy.x]\n", |n| format!("allowed_hostname{n} = 1\n"), ""),
        ("records", "", |n| format!("[api.a{n}]\n[policy.a{n}]\n"), ""),
        ("missing lists", "[policy.x]\nallowed_hostnames_files = [", |n| format!("'l{n}.txt', "), "]\n"),
        ("sources", "[client.x]\npolicy = 'test'\nsources = [", |n| format!("'{}', ", address(n)), "]\n"),
    ];
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "").control("devbox_pool = '10.99.0.0/16'").start();
    edit(&server, "first.test");
    for (number, (kind, before, make, after)) in KINDS.iter().enumerate() {
        // In a build without optimisation everything takes ten times as long.
        let text = repeated(200_000, make);
        server.replace("x.toml", format!("{before}{text}{after}"));
        let with = edit(&server, &format!("with{number}.test"));
        let next = edit(&server, &format!("next{number}.test"));
        assert!(with < PATIENCE && next < PATIENCE, "{kind}: {with:?}, {next:?}");
        let start = Instant::now();
        let body = r#"{"launch_parameters": {"network_policy_id": "test"}}"#;
        let mut wire = api::Wire::open(&server);
        let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        wire.send(head("POST", "/v1/devboxes", TOKEN, &fields) + body);
        assert_eq!(wire.response().status, 200, "{kind}");
        assert!(start.elapsed() < PATIENCE, "{kind}: {:?}", start.elapsed());
        let status = server.get("/status").body;
        assert!(status.len() <= STATUS, "{kind}: {} octets", status.len());
        let longest = server.log().lines().map(str::len).max().unwrap_or(0);
        assert!(longest <= LINE, "{kind}: {longest} octets");
        server.remove("x.toml");
        server.wait_no_error();
    }
    assert!(server.log().len() < 1 << 20, "{} octets of log", server.log().len());
}

#[test]
fn chain_of_files_that_use_one_another_holds_back_itself_alone() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "").start();
    for number in 0..300 {
        let included = if number == 0 { "nobody".to_owned() } else { format!("f{}", number - 1) };
        server.write(&format!("f{number:03}.toml"), format!("[policy.f{number}]\ninclude = ['{included}']\n"));
    }
    server.wait_error();
    edit(&server, "beside.test");
    // What does not hang together with it goes into force, also where it comes at the same time.
    server.write("other.toml", "[policy.other]\n[client.other]\nsources = ['127.0.0.7']\npolicy = 'other'\n");
    server.until("the other file", || (server.status()["clients"] == 1).then_some(()));
    // Mended, all of it is in force.
    server.write("f000.toml", "[policy.f0]\nallowed_hostnames = ['base.test']\n");
    for number in 16..300 {
        server.remove(&format!("f{number:03}.toml"));
    }
    server.wait_no_error();
    server.until("the chain", || (server.status()["policies"] == 18).then_some(()));
}

#[test]
fn link_to_everything_a_cycle_and_a_fifo_cost_themselves_alone() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "").start();
    fs::create_dir(server.policies("team")).unwrap();
    server.write("team/t.toml", "[policy.t]\n");
    symlink("/", server.policies("all")).unwrap();
    symlink("..", server.policies("team/up")).unwrap();
    symlink("team", server.policies("twin")).unwrap();
    make_fifo(&server.policies("pipe.toml"));
    for link in ["policies/all: ", "policies/team/up: ", "policies/twin: ", "policies/pipe.toml: "] {
        server.until(link, || server.wait_error().contains(link).then_some(()));
    }
    edit(&server, "beside.test");
    assert!(!server.status()["held_back"].to_string().contains("t.toml"), "{:#}", server.status());
    for link in ["all", "team/up", "twin", "pipe.toml"] {
        server.remove(link);
    }
    server.wait_no_error();
}

#[test]
fn fifo_in_the_place_of_an_object_of_the_api_is_an_answer_and_no_wait() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "").control("devbox_pool = '10.99.0.0/16'").start();
    let post = |path: &str, body: &str| {
        let mut wire = api::Wire::open(&server);
        let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        wire.send(head("POST", path, TOKEN, &fields) + body);
        wire.response()
    };
    let made = post("/v1/network-policies", r#"{"name": "p"}"#);
    let id = serde_json::from_str::<serde_json::Value>(&made.body).unwrap()["id"].as_str().unwrap().to_owned();
    let path = server.policies(&format!("api/{id}.toml"));
    fs::remove_file(&path).unwrap();
    make_fifo(&path);
    let refused = post(&format!("/v1/network-policies/{id}"), r#"{"allowed_hostnames": ["a.test"]}"#);
    assert!(refused.status >= 400, "{} {}", refused.status, refused.body);
    edit(&server, "beside.test");
    // The lock, too, is opened to write to it.
    fs::remove_file(&path).unwrap();
    fs::remove_dir_all(server.policies("api/.new")).unwrap();
    fs::create_dir(server.policies("api/.new")).unwrap();
    make_fifo(&server.policies("api/.new/lock"));
    assert!(post("/v1/network-policies", r#"{"name": "q"}"#).status >= 200);
    edit(&server, "still.test");
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.metric("hostgate_reload_stuck", &[]), 0);
}

#[test]
fn warnings_of_many_files_are_counted_in_status_and_log() {
    let upstream = FakeUpstream::start();
    let mut setup = Setup::policy(&upstream, "");
    for number in 0..2_000 {
        setup = setup.file(&format!("u{number}.toml"), format!("[policy.unused{number}]\n"));
    }
    let server = setup.start();
    assert_eq!(server.log_lines(&["policy warning "]).len(), 100, "{}", server.log());
    server.wait_log(&["more policy warnings", "more=1900"]);
    let status = server.get("/status").body;
    assert!(status.len() <= STATUS && status.contains("more warnings"), "{} octets", status.len());
}
