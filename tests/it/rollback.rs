//! A bad file of one author brings no old text of another one back: not at a start, and not by a take-over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::starts::{next_start, stop};
use crate::support::*;

/// Returns whether a name is allowed to a client.
fn allows(server: &Server, source: &str, name: &str) -> bool {
    !ask(name, RecordType::A).from(source).udp(server).addresses().is_empty()
}

/// Two authors' files of which each has a policy and a client.
const OF_A: &str =
    "[policy.a]\nallowed_hostnames = [\"a.test\"]\n[client.a]\nsources = [\"127.0.0.12\"]\npolicy = \"a\"\n";
const OF_B: &str =
    "[policy.b]\nallowed_hostnames = [\"b.test\"]\n[client.b]\nsources = [\"127.0.0.13\"]\npolicy = \"b\"\n";

/// Texts of `a.toml` that are bad, or claim what `b.toml` has.
fn bad_texts() -> [(&'static str, String); 5] {
    [
        ("broken", "[policy.a".to_owned()),
        ("a policy of another file", format!("{OF_A}[policy.b]\nallow_all = true\n")),
        ("a client of another file", format!("{OF_A}[client.b]\nsources = [\"127.0.0.14\"]\n")),
        ("a source of another file", format!("{OF_A}[client.a2]\nsources = [\"127.0.0.13\"]\npolicy = \"a\"\n")),
        ("a test", format!("{OF_A}[[test]]\nclient = \"b\"\nname = \"bad.test\"\nexpect = \"allow\"\n")),
    ]
}

/// Starts a server that keeps its last good state, in which the file of `b` allows more than it later does.
fn two_authors(upstream: &FakeUpstream) -> Server {
    let lax = OF_B.replace("b.test", "*.test");
    let setup = Setup::new(&[upstream]).top("start_from_last_good = true\ntakeover = \"takeover\"");
    let server = setup.file("a.toml", OF_A).file("b.toml", &lax).start();
    server.keep_addresses();
    let state = server.directory().join(".hostgate-last-good/state");
    server.until("kept", || state.exists().then_some(()));
    server
}

/// Waits until the last good state has the stricter text of `b`.
fn wait_kept(server: &Server) {
    let state = server.directory().join(".hostgate-last-good/state");
    server.until("kept", || fs::read_to_string(&state).is_ok_and(|text| text.contains("b.test")).then_some(()));
}

/// Makes the file of `a` bad for a while, in which that of `b` becomes stricter, and then gives it the text `bad`.
#[track_caller]
fn tighten_while_bad(server: &Server, case: &str, bad: &str) {
    server.write("a.toml", "[policy.a");
    server.wait_out_of_date("held-back");
    server.write("b.toml", OF_B);
    server.until(case, || (!allows(server, "127.0.0.13", "bad.test")).then_some(()));
    wait_kept(server);
    server.replace("a.toml", bad);
}

#[test]
fn bad_file_of_one_author_brings_no_old_text_of_another_back_at_a_start() {
    let upstream = FakeUpstream::start();
    for (case, bad) in bad_texts() {
        let mut server = two_authors(&upstream);
        assert!(allows(&server, "127.0.0.13", "bad.test"));
        tighten_while_bad(&server, case, &bad);
        server.signal("KILL");
        server.wait_exit();
        // A text whose test of another file fails is in force and reported.
        let (start, kind) = match case {
            "a test" => ("without-what-is-bad", "failed-test"),
            _ => ("from-last-good", "held-back"),
        };
        assert_eq!(next_start(&server, 1)["start"], start, "{case}");
        let next = server.restarted();
        assert!(!allows(&next, "127.0.0.13", "bad.test") && allows(&next, "127.0.0.13", "b.test"), "{case}");
        assert!(allows(&next, "127.0.0.12", "a.test"), "{case}");
        let told = next.wait_out_of_date(kind);
        assert!(told["path"].as_str().unwrap().ends_with("a.toml"), "{case}: {told}");
        assert_eq!(next.metric("hostgate_out_of_date", &[("kind", kind)]), 1, "{case}");
    }
}

#[test]
fn file_that_claims_what_another_one_has_does_not_keep_that_one_from_being_changed() {
    let upstream = FakeUpstream::start();
    let server = two_authors(&upstream);
    for (case, bad) in bad_texts() {
        server.write("b.toml", OF_B.replace("b.test", "*.test"));
        server.until(case, || allows(&server, "127.0.0.13", "bad.test").then_some(()));
        server.write("a.toml", bad);
        if case != "a test" {
            server.wait_out_of_date("held-back");
            server.write("b.toml", OF_B);
            server.until(case, || (!allows(&server, "127.0.0.13", "bad.test")).then_some(()));
        }
        server.write("a.toml", OF_A);
        server.wait_not_out_of_date("held-back");
    }
}

#[test]
fn first_state_is_written_at_once() {
    let upstream = FakeUpstream::start();
    let server = two_authors(&upstream);
    let directory = server.directory().join(".hostgate-last-good");
    let server = stop(server);
    fs::remove_dir_all(&directory).unwrap();
    let mut next = server.restarted();
    next.write("a.toml", "[policy.a");
    next.until("kept", || directory.join("state").exists().then_some(()));
    next.signal("KILL");
    next.wait_exit();
    let again = next.restarted();
    assert!(allows(&again, "127.0.0.12", "a.test"));
}

#[test]
fn last_good_state_that_others_may_write_is_not_used() {
    let upstream = FakeUpstream::start();
    let server = stop(two_authors(&upstream));
    server.write("a.toml", "[policy.a");
    let directory = server.directory().join(".hostgate-last-good");
    let state = directory.join("state");
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, wrong, right) in [(&directory, 0o770, 0o700), (&directory, 0o703, 0o700), (&state, 0o622, 0o600)] {
        mode(path, wrong);
        server.refused_plainly().expect_code(78).expect_text(&["may be written by others", "chmod go-w"]);
        let told = next_start(&server, 78);
        assert!(told.to_string().contains("may be written by others"), "{told}");
        mode(path, right);
        assert_eq!(next_start(&server, 1)["start"], "from-last-good");
    }
    if rustix::process::geteuid().is_root() {
        for path in [&directory, &state] {
            std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
            server.refused_plainly().expect_code(78).expect_text(&["belongs to user 65534"]);
            next_start(&server, 78);
            std::os::unix::fs::chown(path, Some(0), None).unwrap();
        }
    }
    // While it runs, it is not written to where others may change it, which is told.
    server.write("a.toml", OF_A);
    mode(&directory, 0o770);
    let next = server.restarted();
    let entry = next.wait_out_of_date("not-kept");
    assert!(entry["why"].as_str().unwrap().contains("may be written by others"), "{entry}");
    mode(&directory, 0o700);
    next.wait_not_out_of_date("not-kept");
}

#[test]
fn successor_serves_what_its_predecessor_serves_whatever_is_bad_on_disk() {
    let upstream = FakeUpstream::start();
    for (case, bad) in bad_texts() {
        let mut server = two_authors(&upstream);
        tighten_while_bad(&server, case, &bad);
        let next = server.successor();
        assert_eq!(server.wait_exit().code(), Some(0), "{case}");
        assert!(!allows(&next, "127.0.0.13", "bad.test") && allows(&next, "127.0.0.13", "b.test"), "{case}");
        assert!(allows(&next, "127.0.0.12", "a.test"), "{case}");
    }
}

#[test]
fn successor_with_older_texts_than_its_predecessor_is_refused() {
    let upstream = FakeUpstream::start();
    let server = two_authors(&upstream);
    // A last good state that is older than what is in force, as one that could not be written.
    let directory = server.directory();
    let old = directory.join("old/last-good");
    fs::create_dir_all(&old).unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o700)).unwrap();
    fs::copy(directory.join(".hostgate-last-good/state"), old.join("state")).unwrap();
    server.write("b.toml", OF_B);
    server.until("stricter", || (!allows(&server, "127.0.0.13", "bad.test")).then_some(()));
    let config = directory.join("hostgate.toml");
    let successor = |code, parts: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(["serve", "--takeover", "--config"]).arg(&config).current_dir(directory);
        let ended = command.env("STATE_DIRECTORY", directory.join("old")).output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        server.wait_log(&["not taken over; serving on"]);
        assert!(!allows(&server, "127.0.0.13", "bad.test") && allows(&server, "127.0.0.13", "b.test"));
    };
    let older = "that is older than the one that the running hostgate serves";
    server.write("b.toml", "[policy.b");
    server.wait_out_of_date("held-back");
    successor(78, &["a text of b.toml", older, "serves on"]);
    // A file of which the old state has nothing.
    server.write("c.toml", "[client.c]\nsources = [\"127.0.0.14\"]\npolicy = \"a\"\n");
    server.write("b.toml", OF_B);
    server.wait_not_out_of_date("held-back");
    server.until("c", || allows(&server, "127.0.0.14", "a.test").then_some(()));
    server.write("c.toml", "[client.c");
    server.wait_out_of_date("held-back");
    successor(78, &["a text of c.toml", older]);
    // The configuration.
    server.remove("c.toml");
    server.wait_not_out_of_date("held-back");
    server.reconfigure("start_from_last_good = true", "start_from_last_good = true\ndenied_ttl = 7");
    server.until("the configuration", || {
        fs::read_to_string(directory.join(".hostgate-last-good/state")).unwrap().contains("denied_ttl").then_some(())
    });
    server.reconfigure("denied_ttl = 7", "denied_ttl = ");
    server.wait_out_of_date("held-back");
    successor(78, &["a text of the configuration", older]);
}
