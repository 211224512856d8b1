//! Addresses of the API's objects whose files are bad or gone at a start: denied, and given to nobody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::starts::{next_start, stop};
use crate::support::objects::id;
use crate::support::*;

/// The devbox's address, the first one of the pool.
const DEVBOX: &str = "127.88.0.2";

/// Prepares a server under which a client of the whole network may look up more than the devbox.
fn setup(upstream: &FakeUpstream) -> Setup {
    let wide =
        "[policy.lax]\nallowed_hostnames = [\"*.test\"]\n[client.net]\nsources = [\"127.0.0.0/8\"]\npolicy = \"lax\"\n";
    let setup = Setup::new(&[upstream]).top("default_policy = \"lax\"").file("wide.toml", wide);
    setup.control("allow_clients = true\ndevbox_pool = \"127.88.0.0/16\"")
}

/// Makes a policy and a devbox of it; returns the path of the devbox's file, and its id.
fn devbox(server: &Server) -> (PathBuf, String) {
    let policy = server.new_policy(&["own.test"]);
    let devbox =
        server.api_post("/v1/devboxes", &json!({ "launch_parameters": { "network_policy_id": policy } })).done();
    assert_eq!(devbox["metadata"]["hostgate.address"], DEVBOX);
    let devbox = id(&devbox);
    (server.policies(&format!("api/{devbox}.toml")), devbox)
}

/// Ends a server at once, as a crash does.
fn kill(mut server: Server) -> Server {
    server.signal("KILL");
    server.wait_exit();
    server
}

/// Asserts that the devbox's address is denied everything and given to nobody.
#[track_caller]
fn is_held(case: &str, server: &Server, devbox: &str) {
    assert!(!server.allows(DEVBOX, "own.test") && !server.allows(DEVBOX, "other.test"), "{case}");
    let view = server.api_get(&format!("/v1/devboxes/{devbox}")).done();
    assert_eq!((&view["status"], &view["metadata"]["hostgate.address"]), (&json!("failure"), &json!(DEVBOX)), "{case}");
    let list = server.api_get("/v1/devboxes?status=failure").done();
    assert_eq!(list["devboxes"][0]["id"], devbox, "{case}: {list}");
    let named = json!({ "metadata": { "hostgate.address": DEVBOX } });
    server.api_post("/v1/devboxes", &named).refused(400, &["whose file is bad or gone", devbox]);
    let other = server.api_post("/v1/devboxes", &json!({})).done();
    assert_ne!(other["metadata"]["hostgate.address"], DEVBOX, "{case}");
    server.api_post(&format!("/v1/devboxes/{}/shutdown", id(&other)), &Value::Null).done();
}

#[test]
fn address_of_a_bad_object_is_denied_and_not_given_out_until_the_file_is_good() {
    type Spoil = fn(&Path, &[u8]);
    let spoils: [(&str, Spoil); 8] = [
        ("empty", |path, _| fs::write(path, "").unwrap()),
        ("zeros", |path, text| fs::write(path, vec![0; text.len()]).unwrap()),
        ("half", |path, text| fs::write(path, &text[..text.len() / 2]).unwrap()),
        ("its end is missing", |path, text| fs::write(path, &text[..text.len() - 4]).unwrap()),
        ("not UTF-8", |path, _| fs::write(path, [0xff, 0xfe, b'\n']).unwrap()),
        ("gone", |path, _| fs::remove_file(path).unwrap()),
        ("a link to nothing", |path, _| {
            fs::remove_file(path).unwrap();
            symlink("nothing", path).unwrap();
        }),
        ("a directory", |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    let (path, devbox) = devbox(&server);
    assert!(server.allows(DEVBOX, "own.test") && !server.allows(DEVBOX, "other.test"));
    let text = fs::read(&path).unwrap();
    let mut server = kill(server);
    for (case, spoil) in spoils {
        spoil(&path, &text);
        let told = next_start(&server, 1);
        assert!(told["held_back"].as_array().unwrap().contains(&json!(path)), "{case}: {told}");
        let next = server.restarted();
        is_held(case, &next, &devbox);
        next.wait_log(&["ERROR", "started without what is bad on disk", &devbox]);
        // Reloads and another start change nothing.
        next.write("more.toml", "[policy.more]\nallowed_hostnames = [\"more.test\"]\n");
        next.until("the reload", || (next.status()["policies"] == 3).then_some(()));
        is_held(case, &next, &devbox);
        next.remove("more.toml");
        let next = kill(next).restarted();
        is_held(case, &next, &devbox);
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            let _ = fs::remove_file(&path);
        }
        fs::write(&path, &text).unwrap();
        next.until(case, || next.allows(DEVBOX, "own.test").then_some(()));
        assert!(!next.allows(DEVBOX, "other.test"), "{case}");
        assert_eq!(next.api_get(&format!("/v1/devboxes/{devbox}")).done()["status"], "running", "{case}");
        next.wait_no_error();
        server = kill(next);
    }
}

#[test]
fn held_devbox_is_shut_down_over_the_api() {
    let upstream = FakeUpstream::start();
    for case in ["broken", "gone", "binary", "folder"] {
        let server = setup(&upstream).start();
        let (path, devbox) = devbox(&server);
        let server = kill(server);
        match case {
            "broken" => fs::write(&path, "[client").unwrap(),
            "gone" => fs::remove_file(&path).unwrap(),
            "binary" => fs::write(&path, [0xff; 100]).unwrap(),
            _ => fs::remove_dir_all(path.parent().unwrap()).unwrap(),
        }
        let next = server.restarted();
        is_held(case, &next, &devbox);
        let view = next.api_post(&format!("/v1/devboxes/{devbox}/shutdown"), &Value::Null).done();
        assert_eq!((&view["status"], &view["metadata"]["hostgate.address"]), (&json!("shutdown"), &json!(DEVBOX)));
        assert!(next.allows(DEVBOX, "other.test"), "{case}: its address is the network's");
        next.wait_no_error();
        let next = kill(next);
        assert_eq!(next_start(&next, 0)["start"], "as-on-disk", "{case}");
        let next = next.restarted();
        assert!(next.allows(DEVBOX, "other.test"), "{case}");
        assert_eq!(next.api_get(&format!("/v1/devboxes/{devbox}")).done()["status"], "shutdown", "{case}");
    }
}

#[test]
fn file_that_is_removed_while_hostgate_runs_deletes_the_object() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    let (path, devbox) = devbox(&server);
    fs::remove_file(&path).unwrap();
    server.until("deleted", || server.allows(DEVBOX, "other.test").then_some(()));
    let next = kill(server);
    assert_eq!(next_start(&next, 0)["start"], "as-on-disk");
    // So does the file of an object that was bad at the start.
    let text = format!("[client.{devbox}]\nsources = [\"{DEVBOX}\"]\n");
    fs::write(&path, format!("{text}policy = ")).unwrap();
    let next = next.restarted();
    // Its address is read from what is left of the file, as no record has it.
    assert!(!next.allows(DEVBOX, "other.test"));
    fs::remove_file(&path).unwrap();
    next.until("deleted", || next.allows(DEVBOX, "other.test").then_some(()));
    next.wait_no_error();
}

#[test]
fn folder_that_had_objects_at_the_last_run_and_has_none_is_told() {
    let upstream = FakeUpstream::start();
    let server = stop({
        let server = setup(&upstream).start();
        devbox(&server);
        server
    });
    let (folder, aside) = (server.policies("api"), server.directory().join("aside"));
    fs::rename(&folder, &aside).unwrap();
    for is_empty in [false, true] {
        if is_empty {
            fs::create_dir(&folder).unwrap();
        }
        let told = next_start(&server, 1);
        assert!(told["held_back"].as_array().unwrap().contains(&json!(folder)), "{told}");
        assert!(
            told.to_string().contains("none of the 2 objects of the API that were in force at the last run"),
            "{told}"
        );
        for _ in 0..2 {
            let next = server.restarted();
            let entry = next.wait_out_of_date("unreadable");
            assert_eq!(entry["path"], json!(folder), "{entry}");
            assert!(entry["why"].as_str().unwrap().contains("bring the folder back"), "{entry}");
            next.wait_log(&["ERROR", "none of the 2 objects of the API"]);
            assert!(!next.allows(DEVBOX, "own.test") && !next.allows(DEVBOX, "other.test"));
            kill(next);
        }
    }
    let next = server.restarted();
    fs::remove_dir(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    next.until("back", || next.allows(DEVBOX, "own.test").then_some(()));
    next.wait_not_out_of_date("unreadable");
    next.wait_no_error();
}

#[test]
fn record_that_others_may_write_is_not_used() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    devbox(&server);
    let directory = server.directory().join(".hostgate-last-good");
    let server = kill(server);
    let open = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    open(0o777);
    assert!(next_start(&server, 0).to_string().contains("the record of the API's objects is not used"));
    let next = server.restarted();
    let entry = next.wait_out_of_date("not-kept");
    assert!(entry["why"].as_str().unwrap().contains("may be written by others"), "{entry}");
    open(0o700);
    next.wait_not_out_of_date("not-kept");
}

#[test]
fn file_that_claims_what_an_object_has_does_not_get_it_at_a_start() {
    type Claim = fn(&str, &str) -> String;
    let claims: [(&str, Claim); 3] = [
        ("the policy", |policy, _| format!("[policy.{policy}]\nallow_all = true\n")),
        ("the client", |_, devbox| format!("[client.{devbox}]\nsources = [\"127.0.0.99\"]\npolicy = \"lax\"\n")),
        ("the address", |_, _| format!("[client.mine]\nsources = [\"{DEVBOX}\"]\npolicy = \"lax\"\n")),
    ];
    let upstream = FakeUpstream::start();
    for (case, claim) in claims {
        for keeps in [false, true] {
            let server = setup(&upstream).start();
            let policy = server.new_policy(&["own.test"]);
            let launch = json!({ "launch_parameters": { "network_policy_id": policy } });
            let devbox = id(&server.api_post("/v1/devboxes", &launch).done());
            if keeps {
                server.reconfigure("default_policy", "start_from_last_good = true\ndefault_policy");
                let state = server.directory().join(".hostgate-last-good/state");
                server.until("kept", || state.exists().then_some(()));
            }
            let is_strict = |server: &Server| server.allows(DEVBOX, "own.test") && !server.allows(DEVBOX, "other.test");
            assert!(is_strict(&server), "{case}");
            server.write("a.toml", claim(&policy, &devbox));
            let held = server.wait_out_of_date("held-back");
            assert!(held["path"].as_str().unwrap().ends_with("a.toml") && is_strict(&server), "{case}: {held}");
            let server = kill(server);
            let told = next_start(&server, if keeps { 1 } else { 78 });
            assert_eq!(told["start"], if keeps { "from-last-good" } else { "refused" }, "{case}: {told}");
            assert!(told["diagnostics"][0]["path"].as_str().unwrap().ends_with("a.toml"), "{case}: {told}");
            if !keeps {
                server.remove("a.toml");
            }
            assert!(is_strict(&server.restarted()), "{case}, {keeps}");
        }
    }
}
