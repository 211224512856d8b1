//! A directory of policies that another one without any covers or replaces: its files stay in force, and that is told.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::support::*;

/// Returns a policy file that allows a name to the client with an address.
fn policy(id: &str, source: &str, name: &str) -> String {
    format!(
        "[policy.{id}]\nallowed_hostnames = [\"{name}\"]\n[client.{id}]\nsources = [\"{source}\"]\npolicy = \"{id}\"\n"
    )
}

/// The addresses of the clients in the policies directory itself and in its folder `team`.
const CLIENTS: [&str; 2] = ["127.0.0.7", "127.0.0.8"];

/// Prepares a server of which `policies` is a link to `v1`, with a file and a folder.
fn setup(upstream: &FakeUpstream) -> Setup {
    let setup = Setup::new(&[upstream])
        .file("own.toml", policy("own", CLIENTS[0], "v1.test"))
        .file("team/team.toml", policy("team", CLIENTS[1], "v1.test"));
    let at = setup.directory();
    fs::rename(at.join("policies"), at.join("v1")).unwrap();
    symlink("v1", at.join("policies")).unwrap();
    setup
}

/// Makes a link lead elsewhere, in one operation.
fn retarget(link: &Path, target: &str) {
    let next = link.with_file_name(".next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

/// Waits until one of the clients may look up a name, or may not.
#[track_caller]
fn wait_allows(server: &Server, client: usize, name: &str, is_allowed: bool) {
    server
        .until(&format!("{name}: {is_allowed}"), || (server.allows(CLIENTS[client], name) == is_allowed).then_some(()));
}

/// Waits until a path is `unreadable` because of another directory there, and checks what is said of it, and that
/// everything stays in force.
#[track_caller]
fn expect_kept(server: &Server, case: &str, path: &str, files: usize) {
    let entry = server.wait_out_of_date("unreadable");
    let why = entry["why"].as_str().unwrap();
    let files = if files == 1 { "the policy file".to_owned() } else { format!("the {files} policy files") };
    let told = format!("it is another directory than before, without {files} in force");
    assert!(why.contains(&told) && why.contains("bring the directory back"), "{case}: {entry}");
    assert!(entry["path"].as_str().unwrap().ends_with(path), "{case}: {entry}");
    assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "unreadable")]), 1, "{case}");
    assert!(server.status()["error"].as_str().unwrap().contains(&told), "{case}");
    server.wait_log(&["ERROR", "it is another directory than before"]);
    // An operator who asks for a reload does not mean to delete everything.
    let failures = server.metric("hostgate_reload_failures_total", &[]);
    server.signal("HUP");
    server.wait_metric("hostgate_reload_failures_total", &[], failures + 1);
    for client in CLIENTS {
        assert!(server.allows(client, "v1.test"), "{case}: {client}");
    }
}

/// A way to put an empty directory in place of one with files, and the way back.
type Change = fn(&Path);

const COVERED: [(&str, &str, usize, Change, Change); 3] = [
    (
        "the link leads to an empty directory",
        "policies",
        2,
        |at| {
            fs::create_dir(at.join("empty")).unwrap();
            retarget(&at.join("policies"), "empty");
        },
        |at| {
            retarget(&at.join("policies"), "v1");
            fs::remove_dir(at.join("empty")).unwrap();
        },
    ),
    (
        "the directory was renamed, and there is one with no policy file in its place",
        "policies",
        2,
        |at| {
            fs::rename(at.join("v1"), at.join("away")).unwrap();
            fs::create_dir_all(at.join("v1/lost+found")).unwrap();
            fs::write(at.join("v1/README"), "").unwrap();
        },
        |at| {
            fs::remove_dir_all(at.join("v1")).unwrap();
            fs::rename(at.join("away"), at.join("v1")).unwrap();
        },
    ),
    (
        "the directory was renamed, and there is one with links to directories without policy files in its place",
        "policies",
        2,
        |at| {
            fs::rename(at.join("v1"), at.join("away")).unwrap();
            fs::create_dir_all(at.join("v1")).unwrap();
            fs::create_dir_all(at.join("empty/below")).unwrap();
            fs::create_dir_all(at.join("objects")).unwrap();
            fs::write(at.join("objects/stray.toml"), "").unwrap();
            symlink("../empty", at.join("v1/team")).unwrap();
            // The API's folder has a rule of its own.
            symlink("../objects", at.join("v1/api")).unwrap();
        },
        |at| {
            fs::remove_dir_all(at.join("v1")).unwrap();
            fs::remove_dir_all(at.join("empty")).unwrap();
            fs::remove_dir_all(at.join("objects")).unwrap();
            fs::rename(at.join("away"), at.join("v1")).unwrap();
        },
    ),
];

#[test]
fn files_stay_in_force_while_an_empty_directory_is_in_place_of_theirs() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    for (case, path, files, cover, uncover) in COVERED {
        cover(server.directory());
        expect_kept(&server, case, path, files);
        uncover(server.directory());
        server.wait_not_out_of_date("unreadable");
        server.wait_no_error();
    }
    // A directory that has files is read, whether they were there before or not.
    let (case, path, files, cover, _) = COVERED[0];
    cover(server.directory());
    expect_kept(&server, case, path, files);
    fs::write(server.directory().join("empty/own.toml"), policy("own", CLIENTS[0], "v2.test")).unwrap();
    wait_allows(&server, 0, "v2.test", true);
    wait_allows(&server, 1, "v1.test", false);
    server.wait_not_out_of_date("unreadable");
    server.wait_log(&["WARN", "another directory is in place of this one", "removed=1"]);
}

#[test]
fn files_stay_in_force_while_an_empty_file_system_is_mounted_over_theirs() {
    let upstream = FakeUpstream::start();
    let Some(setup) = setup(&upstream).apart("true") else { return };
    let server = setup.start();
    for (path, files) in [("policies", 2), ("policies/team", 1)] {
        let at = server.directory().join(path);
        server.inside(&format!("mount -t tmpfs none {}", at.display()));
        expect_kept(&server, path, path, files);
        if path == "policies/team" {
            // The other files are read as usual.
            server.write("own.toml", policy("own", CLIENTS[0], "v3.test"));
            wait_allows(&server, 0, "v3.test", true);
            assert!(server.allows(CLIENTS[1], "v1.test"));
        }
        server.inside(&format!("umount -l {}", at.display()));
        server.wait_not_out_of_date("unreadable");
        server.wait_no_error();
        assert!(server.allows(CLIENTS[1], "v1.test"), "{path}");
    }
}

#[test]
fn directory_with_policy_files_replaces_the_one_before_at_once() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    let at = server.directory();
    // As a whole: its empty folder is one without files.
    fs::create_dir_all(at.join("v2/team")).unwrap();
    fs::write(at.join("v2/own.toml"), policy("own", CLIENTS[0], "v2.test")).unwrap();
    retarget(&at.join("policies"), "v2");
    wait_allows(&server, 0, "v2.test", true);
    wait_allows(&server, 1, "v1.test", false);
    assert_eq!(server.out_of_date("unreadable"), None);
    retarget(&at.join("policies"), "v1");
    wait_allows(&server, 1, "v1.test", true);
    // A directory of which the files are behind links only, as in a mounted ConfigMap, or in a release.
    fs::create_dir_all(at.join("v3/..one")).unwrap();
    fs::write(at.join("v3/..one/own.toml"), policy("own", CLIENTS[0], "v3.test")).unwrap();
    symlink("..one", at.join("v3/..data")).unwrap();
    symlink("..data/own.toml", at.join("v3/own.toml")).unwrap();
    retarget(&at.join("policies"), "v3");
    wait_allows(&server, 0, "v3.test", true);
    fs::create_dir(at.join("v3/..two")).unwrap();
    fs::write(at.join("v3/..two/own.toml"), policy("own", CLIENTS[0], "v4.test")).unwrap();
    retarget(&at.join("v3/..data"), "..two");
    wait_allows(&server, 0, "v4.test", true);
    fs::create_dir(at.join("v5")).unwrap();
    symlink("../v2", at.join("v5/current")).unwrap();
    retarget(&at.join("policies"), "v5");
    wait_allows(&server, 0, "v2.test", true);
    assert_eq!(server.out_of_date("unreadable"), None);
}

/// Ways to delete the files of a folder by making it anew, as `git checkout` does.
const EMPTIED: [(&str, Change); 3] = [
    ("an empty one", |at| {
        fs::create_dir(at.join("v1/team")).unwrap();
    }),
    ("one with a README", |at| {
        fs::create_dir(at.join("v1/team")).unwrap();
        fs::write(at.join("v1/team/README"), "").unwrap();
    }),
    ("a link to an empty one", |at| {
        fs::create_dir_all(at.join("empty")).unwrap();
        symlink("../empty", at.join("v1/team")).unwrap();
    }),
];

#[test]
fn folder_that_was_made_anew_on_the_same_file_system_has_lost_its_files() {
    let upstream = FakeUpstream::start();
    for (case, empty) in EMPTIED {
        let server = setup(&upstream).start();
        let at = server.directory();
        // The inode of the folder stays in use, so that the new one has another.
        fs::rename(at.join("v1/team"), at.join("away")).unwrap();
        empty(at);
        wait_allows(&server, 1, "v1.test", false);
        assert_eq!(server.out_of_date("unreadable"), None, "{case}");
        assert!(server.allows(CLIENTS[0], "v1.test"), "{case}");
    }
}

#[test]
fn files_deleted_in_their_directory_are_removed() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    fs::remove_dir_all(server.policies("team")).unwrap();
    wait_allows(&server, 1, "v1.test", false);
    server.write("team.toml", policy("team", CLIENTS[1], "v1.test"));
    wait_allows(&server, 1, "v1.test", true);
    server.remove("team.toml");
    wait_allows(&server, 1, "v1.test", false);
    server.remove("own.toml");
    wait_allows(&server, 0, "v1.test", false);
    assert_eq!(server.out_of_date("unreadable"), None);
    // A start would refuse that.
    server.wait_out_of_date("next-start");
}

#[test]
fn api_writes_nothing_into_a_directory_that_covers_the_policies() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).control("allow_clients = true").start();
    let (_, _, _, cover, uncover) = COVERED[0];
    cover(server.directory());
    // At once, not only when the next comparison has found it.
    let create = || server.api_post("/v1/network-policies", &json!({ "name": "new" }));
    create().refused(503, &["the policies directory", "it is another directory than before"]);
    assert_eq!(fs::read_dir(server.directory().join("empty")).unwrap().count(), 0);
    uncover(server.directory());
    server.wait_not_out_of_date("unreadable");
    create().done();
    // A deployment needs no reload before the API writes into it.
    let at = server.directory();
    fs::create_dir(at.join("v2")).unwrap();
    fs::write(at.join("v2/own.toml"), policy("own", CLIENTS[0], "v2.test")).unwrap();
    fs::rename(at.join("v1/api"), at.join("v2/api")).unwrap();
    retarget(&at.join("policies"), "v2");
    create().done();
    let made = fs::read_dir(at.join("v2/api")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(made.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).count(), 2);
}

#[test]
fn start_with_an_empty_policies_directory_is_refused_or_takes_the_last_good_state() {
    let upstream = FakeUpstream::start();
    for with_api in [false, true] {
        let prepare = |top: &str| {
            let setup = setup(&upstream).top(top);
            if with_api { setup.control("allow_clients = true") } else { setup }
        };
        let (_, _, _, cover, uncover) = COVERED[0];
        let check = |server: &Server, code: i32, parts: &[&str]| {
            let config = server.directory().join("hostgate.toml");
            run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(code).expect_text(parts);
        };
        let mut server = prepare("").start();
        cover(server.directory());
        server.wait_out_of_date("unreadable");
        let entry = server.wait_out_of_date("next-start");
        assert!(entry["why"].as_str().unwrap().contains("the next start refuses this"), "{entry}");
        check(&server, 78, &["there is no policy file (*.toml) in this directory"]);
        server.signal("TERM");
        assert_eq!(server.wait_exit().code(), Some(0));
        server.refused_plainly().expect_code(78).expect_text(&["there is no policy file (*.toml) in this directory"]);

        let mut server = prepare("start_from_last_good = true").start();
        let state = server.directory().join(".hostgate-last-good/state");
        server.until("the last good state", || state.exists().then_some(()));
        cover(server.directory());
        server.wait_out_of_date("unreadable");
        check(&server, 1, &["begins with the last good state"]);
        server.signal("TERM");
        assert_eq!(server.wait_exit().code(), Some(0));
        let server = server.restarted();
        server.wait_out_of_date("last-good");
        expect_kept(&server, "started", "policies", 2);
        uncover(server.directory());
        server.wait_not_out_of_date("unreadable");
        server.wait_not_out_of_date("last-good");
        wait_allows(&server, 1, "v1.test", true);
    }
}
