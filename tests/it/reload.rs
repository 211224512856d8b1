//! What a reload does: a bad file holds back only itself, what is gone is gone, and nobody sees half a policy.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::*;

/// Returns a policy file that allows one name to one client.
fn one_policy(id: &str, source: &str, name: &str) -> String {
    format!(
        "[policy.{id}]\nallowed_hostnames = [\"{name}\"]\n[client.{id}]\nsources = [\"{source}\"]\npolicy = \"{id}\"\n"
    )
}

/// Three files, a policy and a client in each.
fn three_files(upstream: &FakeUpstream) -> Server {
    Setup::new(&[upstream])
        .file("a.toml", one_policy("a", "127.0.0.11", "a.test"))
        .file("b.toml", one_policy("b", "127.0.0.12", "b.test"))
        .file("c.toml", one_policy("c", "127.0.0.13", "c.test"))
        .start()
}

/// Returns whether this source may ask for this name.
fn allows(server: &Server, source: &str, name: &str) -> bool {
    !ask(name, RecordType::A).from(source).udp(server).addresses().is_empty()
}

#[test]
fn bad_file_holds_back_only_itself() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    assert!(server.status()["error"].is_null());
    assert_eq!(server.metric("hostgate_reload_failures_total", &[]), 0);

    server.replace("b.toml", "[policy.b]\nallowed_hostnames = [\"b2.test\", \"*\"]\nmode = 7\n");
    let error = server.wait_error();
    assert!(error.contains("b.toml:2:33") && error.contains("b.toml:3:8"), "all errors, each with its place: {error}");
    let held_back = server.status()["held_back"].to_string();
    assert!(held_back.contains("b.toml") && !held_back.contains("a.toml"), "{held_back}");
    assert!(allows(&server, "127.0.0.12", "b.test"), "its last good version stays in force");
    assert!(!allows(&server, "127.0.0.12", "b2.test"));
    server.wait_metric("hostgate_reload_failures_total", &[], 1);
    server.wait_log(&["ERROR", "policy not reloaded"]);
    let lines = server.log_lines(&["ERROR", "policy not reloaded"]);
    assert!(lines.len() == 1 && lines[0].contains("b.toml"), "one line: {lines:#?}");

    server.replace("c.toml", one_policy("c", "127.0.0.13", "c2.test"));
    server.until("the good file goes into force", || allows(&server, "127.0.0.13", "c2.test").then_some(()));
    assert!(allows(&server, "127.0.0.12", "b.test"));
    assert!(server.status()["error"].is_string(), "the bad file is still bad");

    server.replace("b.toml", one_policy("b", "127.0.0.12", "b3.test"));
    server.until("the mended file goes into force", || allows(&server, "127.0.0.12", "b3.test").then_some(()));
    server.wait_no_error();
    assert_eq!(server.status()["held_back"].as_array().map(Vec::len), Some(0));
}

#[test]
fn bad_and_good_change_at_once() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    server.write("b.toml", "[policy.b\n");
    server.write("a.toml", one_policy("a", "127.0.0.11", "a2.test"));
    server.until("the good one goes into force", || allows(&server, "127.0.0.11", "a2.test").then_some(()));
    let error = server.wait_error();
    assert!(error.contains("b.toml:1:"), "{error}");
    assert!(allows(&server, "127.0.0.12", "b.test"));
}

#[test]
fn empty_or_half_written_file_is_an_error() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    for text in ["", "\n# soon\n", "[policy.b]\nallowed_hostnames = [\"b.te", "[policy.b]\nallowed_host"] {
        server.replace("b.toml", text);
        let error = server.wait_error();
        assert!(error.contains("b.toml"), "{text:?}: {error}");
        assert!(allows(&server, "127.0.0.12", "b.test"), "{text:?}");
        server.replace("b.toml", one_policy("b", "127.0.0.12", "b.test"));
        server.wait_no_error();
    }
    assert_eq!(server.status()["generation"], 1, "what came back is what was in force");
}

#[test]
fn file_that_is_gone_denies_its_clients() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("policy.toml", "[policy.p]\nallowed_hostnames = [\"p.test\"]\n")
        .file("other.toml", "[policy.o]\ninclude = [\"p\"]\nallowed_hostnames = [\"o.test\"]\n[policy.free]\nallow_all = true\n")
        .file(
            "clients.toml",
            "[client.p]\nsources = [\"127.0.0.11\"]\npolicy = \"p\"\n[client.o]\nsources = [\"127.0.0.12\"]\npolicy = \"o\"\n\
             [client.free]\nsources = [\"127.0.0.13\"]\npolicy = \"free\"\n",
        )
        .start();
    assert!(allows(&server, "127.0.0.11", "p.test") && allows(&server, "127.0.0.12", "o.test"));
    let text = fs::read_to_string(server.policies("policy.toml")).unwrap();
    server.remove("policy.toml");
    server.until("denied", || (!allows(&server, "127.0.0.11", "p.test")).then_some(()));
    let heard = ask("p.test", RecordType::A).from("127.0.0.11").both(&server);
    heard.expect_denied();
    assert!(!allows(&server, "127.0.0.12", "o.test"), "a policy that includes a gone one denies everything");
    assert!(allows(&server, "127.0.0.13", "anything.test"), "the others go on");
    assert!(server.status()["error"].is_null(), "gone is gone, not an error: {}", server.status());
    server.write("policy.toml", text);
    server.until("back", || allows(&server, "127.0.0.11", "p.test").then_some(()));
    assert!(allows(&server, "127.0.0.12", "o.test"));
}

#[test]
fn everything_gone_denies_everything() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    for path in ["a.toml", "b.toml", "c.toml"] {
        server.remove(path);
    }
    server.until("all denied", || {
        let sources = [("127.0.0.11", "a.test"), ("127.0.0.12", "b.test"), ("127.0.0.13", "c.test")];
        sources.iter().all(|(source, name)| !allows(&server, source, name)).then_some(())
    });
    assert_eq!(ask("a.test", RecordType::A).from("127.0.0.11").udp(&server).ede_codes(), [18]);
}

#[test]
fn double_id_holds_back_the_file_that_changed() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    server.write("d.toml", "[policy.a]\nallowed_hostnames = [\"evil.test\"]\n");
    let error = server.wait_error();
    assert!(error.contains("a.toml:1:") && error.contains("d.toml:1:"), "names both places: {error}");
    assert!(server.status()["held_back"].to_string().contains("d.toml"));
    assert!(allows(&server, "127.0.0.11", "a.test") && !allows(&server, "127.0.0.11", "evil.test"));
    // An id may move from one file to another in one go.
    server.write("d.toml", one_policy("a", "127.0.0.11", "moved.test"));
    server.remove("a.toml");
    server.until("moved", || allows(&server, "127.0.0.11", "moved.test").then_some(()));
    server.wait_no_error();
}

#[test]
fn new_reference_to_nothing_is_never_an_allow() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    server.write("a.toml", "[policy.a]\nallowed_hostnames = [\"a.test\"]\ninclude = [\"nope\"]\n");
    assert!(server.wait_error().contains("a.toml:3:12"));
    assert!(allows(&server, "127.0.0.11", "a.test") && !allows(&server, "127.0.0.11", "x.test"));
    server.write("a.toml", "[client.a]\nsources = [\"127.0.0.11\"]\npolicy = \"nope\"\n");
    server.until("the other error", || {
        server.status()["error"].as_str().is_some_and(|error| error.contains("a.toml:3:10")).then_some(())
    });
    assert!(allows(&server, "127.0.0.11", "a.test") && !allows(&server, "127.0.0.11", "x.test"));
}

#[test]
fn test_that_another_file_breaks_is_reported_and_holds_back_nothing() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("a.toml", one_policy("a", "127.0.0.11", "a.test"))
        .file("b.toml", one_policy("b", "127.0.0.12", "b.test"))
        .file("tests.toml", "[[test]]\nclient = \"a\"\nname = \"a.test\"\nexpect = \"allow\"\n[[test]]\nclient = \"a\"\nname = \"x.test\"\nexpect = \"deny\"\n")
        .start();
    server.replace("b.toml", one_policy("b", "127.0.0.12", "b2.test"));
    server.wait_generation(2);
    server.replace("a.toml", one_policy("a", "127.0.0.11", "other.test"));
    let entry = server.wait_out_of_date("failed-test");
    assert!(entry["path"].as_str().unwrap().ends_with("tests.toml"), "{entry}");
    let why = entry["why"].as_str().unwrap();
    assert!(why.contains("tests.toml:4:10: test failed: `a.test` A for client `a`"), "{why}");
    server.wait_log(&["ERROR", "out of date", "failed-test", "tests.toml:4:10"]);
    assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "failed-test")]), 1);
    assert!(!allows(&server, "127.0.0.11", "a.test") && allows(&server, "127.0.0.11", "other.test"));
    server.wait_no_error();
    server.replace("b.toml", one_policy("b", "127.0.0.12", "b3.test"));
    server.until("other changes go into force", || allows(&server, "127.0.0.12", "b3.test").then_some(()));
    // The start of another process serves the same, and reports the test as well.
    let other = server.restarted();
    other.wait_out_of_date("failed-test");
    assert!(!allows(&other, "127.0.0.11", "a.test"));
    drop(other);
    server.replace("a.toml", one_policy("a", "127.0.0.11", "a.test"));
    server.wait_not_out_of_date("failed-test");
    // A test guards the file that it is in.
    let guarded = |name: &str| {
        let test = "[[test]]\nclient = \"b\"\nname = \"b3.test\"\nexpect = \"allow\"\n";
        format!("{}{test}", one_policy("b", "127.0.0.12", name))
    };
    let generation = server.status()["generation"].as_u64().unwrap();
    server.replace("b.toml", guarded("b3.test"));
    server.wait_generation(generation + 1);
    server.replace("b.toml", guarded("b4.test"));
    let error = server.wait_error();
    assert!(error.contains("b.toml:") && error.contains("test failed"), "{error}");
    assert!(allows(&server, "127.0.0.12", "b3.test") && !allows(&server, "127.0.0.12", "b4.test"));
    // Of two files that change together, the one with the test is held back.
    server.replace("b.toml", guarded("b3.test"));
    server.wait_no_error();
}

#[test]
fn generation_and_hash_tell_the_content() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    let first = server.status();
    assert_eq!(first["generation"], 1);
    server.write("a.toml", one_policy("a", "127.0.0.11", "a2.test"));
    server.wait_generation(2);
    let second = server.status();
    assert_ne!(first["hash"], second["hash"]);
    assert_eq!(server.metric("hostgate_generation", &[]), 2);
    // The same content again is no swap; what follows is the next generation.
    server.write("a.toml", one_policy("a", "127.0.0.11", "a2.test"));
    server.signal("HUP");
    server.write("a.toml", one_policy("a", "127.0.0.11", "a.test"));
    server.wait_generation(3);
    assert_eq!(server.status()["hash"], first["hash"], "the same content has the same hash");
    server.wait_log(&["policies swapped", "generation=3"]);
}

#[test]
fn blueprint_that_is_gone_denies_its_clients() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("b.toml", "[blueprint.b]\nruntime_policy = \"p\"\n")
        .file(
            "p.toml",
            "[policy.p]\nallowed_hostnames = [\"p.test\"]\n[client.c]\nsources = [\"127.0.0.11\"]\nblueprint = \"b\"\n",
        )
        .start();
    assert!(allows(&server, "127.0.0.11", "p.test"));
    server.remove("b.toml");
    server.until("denied", || (!allows(&server, "127.0.0.11", "p.test")).then_some(()));
    assert!(!allows(&server, "127.0.0.11", "other.test"), "never unrestricted");
}

#[test]
fn equal_prefixes_hold_back_the_file_that_changed() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    server.write("d.toml", "[client.d]\nsources = [\"127.0.0.11/32\"]\npolicy = \"unrestricted\"\n");
    let error = server.wait_error();
    assert!(error.contains("a.toml:") && error.contains("d.toml:"), "{error}");
    assert!(!allows(&server, "127.0.0.11", "x.test"));
}

#[test]
fn last_of_many_quick_changes_is_in_force() {
    let upstream = FakeUpstream::start();
    let server = three_files(&upstream);
    for round in 0..200 {
        let text = one_policy("a", "127.0.0.11", &format!("a{round}.test"));
        if round % 2 == 0 { server.write("a.toml", text) } else { server.replace("a.toml", text) }
    }
    server.until("the last", || allows(&server, "127.0.0.11", "a199.test").then_some(()));
    assert!(!allows(&server, "127.0.0.11", "a198.test"));
    server.wait_no_error();
    let generation = server.status()["generation"].as_u64().unwrap();
    assert!(generation < 50, "gathered, not one by one: {generation}");
}

#[test]
fn under_load_no_query_is_lost_or_answered_by_half_a_policy() {
    const SWAPS: u64 = 8;
    // In both states `always.test` is allowed and `never.test` denied, but the client's policy changes and what the
    // two policies allow is exchanged: any mix of the two states answers one of the names the other way.
    let state = |odd: bool| {
        let (mine, other) = if odd { ("p1", "p2") } else { ("p2", "p1") };
        format!(
            "[policy.{mine}]\nallowed_hostnames = [\"always.test\"]\n[policy.{other}]\nallowed_hostnames = [\"never.test\"]\n\
             [client.c]\nsources = [\"127.0.0.0/8\"]\npolicy = \"{mine}\"\n"
        )
    };
    let upstream = FakeUpstream::start();
    let server =
        Setup::new(&[&upstream]).file("p.toml", state(true)).table("[decisions]\npath = \"decisions.jsonl\"").start();
    let done = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (server, done, asked) = (&server, &done, &asked);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    for (name, allowed) in [("always.test", true), ("never.test", false)] {
                        let query = ask(name, RecordType::A).from(&format!("127.0.1.{worker}"));
                        let heard = if worker == 0 { query.tcp(server) } else { query.udp(server) };
                        if heard.addresses().is_empty() == allowed {
                            done.store(true, Ordering::SeqCst);
                            panic!("{name}: {heard:#?}");
                        }
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for swap in 1..=SWAPS {
            if done.load(Ordering::SeqCst) {
                break;
            }
            server.replace("p.toml", state(swap % 2 == 0));
            server.wait_generation(swap + 1);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(upstream.count("never.test"), 0);
    let written = |server: &Server| {
        let text = fs::read_to_string(server.directory().join("decisions.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let asked = asked.load(Ordering::SeqCst);
    let dropped = server.metric("hostgate_decision_records_dropped_total", &[]);
    let records = server.until("all records", || {
        // A record that is being written shows as half a line: look again.
        let text = fs::read_to_string(server.directory().join("decisions.jsonl")).unwrap();
        let whole = text.ends_with('\n') && u64::try_from(text.lines().count()).unwrap() + dropped >= asked;
        whole.then(|| written(&server))
    });
    for record in &records {
        let odd = record["generation"].as_u64().unwrap() % 2 == 1;
        assert_eq!(record["policy"], if odd { "p1" } else { "p2" }, "{record}");
    }
}
