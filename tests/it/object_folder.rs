//! The folder of the API's objects: they stay in force while it is gone, is something else, or is another folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where policies are.
const POLICIES: &str = "/v1/network-policies";
/// The address of the devbox.
const DEVBOX: &str = "127.0.1.1";

/// Prepares a server whose `api` is a link to `state`, as the guide for systemd has it, with a client by hand too.
fn setup(upstream: &FakeUpstream) -> Setup {
    let hand = "[policy.h]\nallowed_hostnames = [\"h.test\"]\n[client.h]\nsources = [\"127.0.0.9\"]\npolicy = \"h\"\n";
    let setup = Setup::new(&[upstream]).file("hand.toml", hand).control("allow_clients = true");
    fs::create_dir(setup.directory().join("state")).unwrap();
    symlink("../state", setup.policies().join("api")).unwrap();
    setup
}

/// Makes a policy, a blueprint and a devbox.
fn make_objects(server: &Server) {
    let policy = server.new_policy(&["a.test"]);
    let blueprint = server.new_blueprint(None, Some(&policy));
    server.new_devbox(&blueprint, DEVBOX);
    assert!(server.allows(DEVBOX, "a.test"));
}

/// Asks the API for another policy; it has to refuse that with these words.
#[track_caller]
fn refuses_changes(server: &Server, parts: &[&str]) {
    server.api_post(POLICIES, &json!({ "name": "more" })).refused(503, parts);
}

/// Takes the folder away in some way.
type Spoil = fn(&Path);

/// The ways in which the folder goes, and the words about each.
const SPOILS: [(&str, Spoil, &str); 7] = [
    ("the target is gone", |_| (), "it is a link to ../state, which is not there"),
    ("a file", |at| fs::write(at.join("state"), "").unwrap(), "it is a link to ../state, which is no folder"),
    (
        "an empty folder",
        |at| fs::create_dir(at.join("state")).unwrap(),
        "it is another folder than before, without 3 of",
    ),
    (
        "another folder",
        |at| {
            fs::create_dir(at.join("state")).unwrap();
            fs::write(at.join("state/npol_0.toml"), "[policy.npol_0]\nallowed_hostnames = [\"b.test\"]\n").unwrap();
        },
        "it is another folder than before, without 3 of",
    ),
    ("no link", |at| fs::remove_file(at.join("policies/api")).unwrap(), "it is not there any more"),
    (
        "a file in place of the link",
        |at| {
            fs::remove_file(at.join("policies/api")).unwrap();
            fs::write(at.join("policies/api"), "").unwrap();
        },
        "what is in its place is no folder",
    ),
    (
        "a folder in place of the link",
        |at| {
            fs::remove_file(at.join("policies/api")).unwrap();
            fs::create_dir(at.join("policies/api")).unwrap();
        },
        "it is another folder than before",
    ),
];

/// Brings the folder back, whatever is in its place.
fn bring_back(at: &Path) {
    for path in [at.join("state"), at.join("policies/api")] {
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    fs::rename(at.join("kept"), at.join("state")).unwrap();
    symlink("../state", at.join("policies/api")).unwrap();
}

#[test]
fn objects_stay_in_force_while_their_folder_is_gone() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    make_objects(&server);
    let at = server.directory();
    for (case, spoil, told) in SPOILS {
        fs::rename(at.join("state"), at.join("kept")).unwrap();
        spoil(at);
        let entry = server.wait_out_of_date("unreadable");
        let why = entry["why"].as_str().unwrap();
        assert!(why.contains(told) && why.contains("bring"), "{case}: {entry}");
        assert!(entry["path"].as_str().unwrap().ends_with("policies/api"), "{case}: {entry}");
        refuses_changes(&server, &["policies/api", told, "bring"]);
        // An operator who asks for a reload does not mean to delete everything.
        let failures = server.metric("hostgate_reload_failures_total", &[]);
        server.signal("HUP");
        server.wait_metric("hostgate_reload_failures_total", &[], failures + 1);
        assert!(server.allows(DEVBOX, "a.test") && server.allows("127.0.0.9", "h.test"), "{case}");
        assert_eq!(server.status()["policies"], 2, "{case}");
        bring_back(at);
        server.wait_not_out_of_date("unreadable");
        server.wait_no_error();
        assert!(server.allows(DEVBOX, "a.test"), "{case}");
        let more = id(&server.api_post(POLICIES, &json!({ "name": case })).done());
        server.api_post(&format!("{POLICIES}/{more}/delete"), &Value::Null).done();
    }
}

#[test]
fn folder_of_the_api_that_is_gone_at_a_start_is_told_and_the_rest_runs() {
    let upstream = FakeUpstream::start();
    let mut server = setup(&upstream).start();
    make_objects(&server);
    let policy = server.api_get(POLICIES).done()["network_policies"][0]["id"].as_str().unwrap().to_owned();
    // A person's client may name an object of the API, whichever there are.
    server.write("uses.toml", format!("[client.u]\nsources = [\"127.0.0.8\"]\npolicy = \"{policy}\"\n"));
    let config = server.directory().join("hostgate.toml");
    for (case, spoil, told) in [&SPOILS[0], &SPOILS[1], &SPOILS[5]] {
        server.signal("TERM");
        assert_eq!(server.wait_exit().code(), Some(0));
        let at = server.directory();
        fs::rename(at.join("state"), at.join("kept")).unwrap();
        spoil(at);
        let checked = run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(1);
        assert!(
            checked.stdout.contains("would not be in force") && checked.stdout.contains("policies/api"),
            "{checked:?}"
        );
        server = server.restarted();
        let entry = server.wait_out_of_date("unreadable");
        assert!(entry["why"].as_str().unwrap().contains(told), "{case}: {entry}");
        assert!(server.allows("127.0.0.9", "h.test") && !server.allows(DEVBOX, "a.test"), "{case}");
        refuses_changes(&server, &["policies/api", told, "bring"]);
        bring_back(server.directory());
        server.until("the objects", || server.allows(DEVBOX, "a.test").then_some(()));
        server.wait_not_out_of_date("unreadable");
        server.until("the client by hand", || server.allows("127.0.0.8", "a.test").then_some(()));
    }
}

#[test]
fn objects_deleted_by_hand_are_gone_and_a_restart_takes_what_is_there() {
    let upstream = FakeUpstream::start();
    let mut server = setup(&upstream).start();
    make_objects(&server);
    for entry in fs::read_dir(server.directory().join("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            fs::remove_file(path).unwrap();
        }
    }
    server.until("all are gone", || (server.status()["clients"] == 1).then_some(()));
    assert!(!server.allows(DEVBOX, "a.test") && server.out_of_date("unreadable").is_none());
    make_objects(&server);
    let at = server.directory();
    fs::rename(at.join("state"), at.join("kept")).unwrap();
    fs::create_dir(at.join("state")).unwrap();
    server.wait_out_of_date("unreadable");
    assert!(server.allows(DEVBOX, "a.test"));
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    let server = server.restarted();
    // The address of the devbox is held, and the loss of the folder is told, until somebody decides.
    let entry = server.wait_out_of_date("unreadable");
    assert!(entry["why"].as_str().unwrap().contains("none of the 3 objects of the API"), "{entry}");
    assert!(!server.allows(DEVBOX, "a.test"));
    let held = server.api_get("/v1/devboxes?status=failure").done();
    let held = id(&held["devboxes"][0]);
    server.api_post(&format!("/v1/devboxes/{held}/shutdown"), &Value::Null).done();
    make_objects(&server);
    server.wait_not_out_of_date("unreadable");
    server.wait_no_error();
}

#[test]
fn empty_mount_over_the_folder_takes_no_object_and_can_be_unmounted() {
    let upstream = FakeUpstream::start();
    let setup = setup(&upstream);
    let state = setup.directory().join("state");
    let Some(setup) = setup.apart(&format!("mount -t tmpfs none {}", state.display())) else { return };
    let server = setup.start();
    // The lock is on a file of that mount.
    make_objects(&server);
    server.inside(&format!("mount -t tmpfs none {}", state.display()));
    server.wait_out_of_date("unreadable");
    assert!(server.allows(DEVBOX, "a.test"));
    refuses_changes(&server, &["it is another folder than before"]);
    // It may be looked at just now.
    let unmount = || {
        let unmounted = server.entering().arg("umount").arg(&state).output().unwrap();
        unmounted.status.success().then_some(())
    };
    server.until("it is not in use", unmount);
    server.wait_not_out_of_date("unreadable");
    let policy = server.new_policy(&["b.test"]);
    server.api_post(&format!("{POLICIES}/{policy}/delete"), &Value::Null).done();
    // Where the folder is no longer at its path, nothing of it stays open.
    fs::rename(server.policies("api"), server.directory().join("link")).unwrap();
    server.wait_out_of_date("unreadable");
    server.until("the lock is not held", unmount);
    fs::rename(server.directory().join("link"), server.policies("api")).unwrap();
    // The mount point that is bare now is not the folder.
    server.until("it is told", || {
        let entry = server.out_of_date("unreadable")?;
        entry["why"].as_str().unwrap().contains("another folder than before").then_some(())
    });
    assert!(server.allows(DEVBOX, "a.test"));
}

#[test]
fn persons_files_stay_in_force_while_the_target_of_their_link_is_gone() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).file("hand.toml", "[policy.h]\nallowed_hostnames = [\"h.test\"]\n");
    let team = setup.directory().join("team");
    fs::create_dir(&team).unwrap();
    fs::write(team.join("c.toml"), "[client.c]\nsources = [\"127.0.0.9\"]\npolicy = \"h\"\n").unwrap();
    symlink("../team", setup.policies().join("team")).unwrap();
    let server = setup.start();
    for in_place in [false, true] {
        fs::rename(&team, server.directory().join("kept")).unwrap();
        if in_place {
            fs::write(&team, "").unwrap();
        }
        let entry = server.wait_out_of_date("unreadable");
        assert!(entry["why"].as_str().unwrap().contains("not there any more"), "{entry}");
        assert!(server.allows("127.0.0.9", "h.test"));
        let _ = fs::remove_file(&team);
        fs::rename(server.directory().join("kept"), &team).unwrap();
        server.wait_not_out_of_date("unreadable");
        assert!(server.allows("127.0.0.9", "h.test"));
    }
    fs::rename(&team, server.directory().join("kept")).unwrap();
    server.wait_out_of_date("unreadable");
    server.remove("team");
    server.wait_not_out_of_date("unreadable");
    assert!(!server.allows("127.0.0.9", "h.test"));
}
