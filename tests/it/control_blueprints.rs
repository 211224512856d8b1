//! Blueprints over the API: two policies, of the build and of the devboxes.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where blueprints are.
const BLUEPRINTS: &str = "/v1/blueprints";

/// A server with the API; `lines` are further keys of `[control]`. And its upstream.
fn server(lines: &str) -> (Server, FakeUpstream) {
    let text = "[policy.hand]\nallowed_hostnames = [\"a.test\"]\n[blueprint.hand]\nruntime_policy = \"hand\"\n\
                [client.user]\nsources = [\"127.0.0.9\"]\nblueprint = \"hand\"\n";
    let upstream = FakeUpstream::start();
    (Setup::new(&[&upstream]).file("hand.toml", text).control(lines).start(), upstream)
}

#[test]
fn a_blueprint_is_created_shown_changed_and_deleted() {
    let (server, _upstream) = server("");
    let (build, runtime) = (server.new_policy(&["b.test"]), server.new_policy(&["r.test"]));
    let body = json!({
        "name": "dual", "network_policy_id": build, "dockerfile": "FROM scratch", "metadata": { "team": "x" },
        "launch_parameters": { "network_policy_id": runtime, "launch_commands": ["npm install"] },
        "system_setup_commands": null,
    });
    let view = server.api_post(BLUEPRINTS, &body).done();
    let blueprint = id(&view);
    assert_eq!(
        (&view["status"], &view["state"], &view["failure_reason"]),
        (&json!("build_complete"), &json!("created"), &Value::Null)
    );
    assert_eq!(view["build_finish_time_ms"], view["create_time_ms"]);
    let mut parameters = body.clone();
    parameters.as_object_mut().unwrap().remove("system_setup_commands");
    assert_eq!((&view["parameters"], &view["metadata"]), (&parameters, &body["metadata"]));
    let path = format!("{BLUEPRINTS}/{blueprint}");
    assert_eq!(server.api_get(&path).done(), view);
    assert_eq!(server.api_get(&format!("{path}/logs")).done(), json!({ "blueprint_id": blueprint, "logs": [] }));
    let changed = server
        .api_post(&path, &json!({ "name": "other", "network_policy_id": runtime, "launch_parameters": null }))
        .done();
    assert_eq!((&changed["name"], &changed["parameters"]["network_policy_id"]), (&json!("other"), &json!(runtime)));
    assert_eq!(changed["parameters"]["launch_parameters"], body["launch_parameters"]);
    assert_eq!(server.api_post(&path, &Value::Null).done(), changed, "nothing is to change");

    let hand = server.api_get(&format!("{BLUEPRINTS}/hand")).done();
    assert_eq!(hand["parameters"], json!({ "name": "hand", "launch_parameters": { "network_policy_id": "hand" } }));
    server
        .api_post(&format!("{BLUEPRINTS}/hand"), &json!({}))
        .refused(400, &["is written by hand in", "hand.toml:3:12"]);
    let list = server.api_get(&format!("{BLUEPRINTS}?status=build_complete")).done();
    assert_eq!(list["blueprints"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [blueprint.as_str(), "hand"]);
    assert_eq!(server.api_post(&format!("{path}/delete"), &Value::Null).done(), json!({}));
    server.api_get(&path).refused(404, &[&blueprint]);
}

#[test]
fn a_blueprint_refers_to_policies_that_are_there() {
    let (server, _upstream) = server("");
    let body = json!({ "name": "x", "network_policy_id": "npol_1" });
    server.api_post(BLUEPRINTS, &body).refused(400, &["network_policy_id: there is no network policy `npol_1`"]);
    let body = json!({ "name": "x", "launch_parameters": { "network_policy_id": "build-policy" } });
    server
        .api_post(BLUEPRINTS, &body)
        .refused(400, &["launch_parameters.network_policy_id: there is no", "`build-policy`"]);
    server
        .api_post(BLUEPRINTS, &json!({ "launch_parameters": [] }))
        .refused(400, &["name: it is missing", "must be an object"]);
    assert_eq!(server.api_get(BLUEPRINTS).done()["total_count"], 1);
}

/// A builder: it writes down what it reads and who it is, says something, and ends as the file `go` says when that is
/// there.
const BUILDER: &str = "cat > part.$$ && mv part.$$ input.$$\necho \"FROM scratch\"\necho oops >&2\n\
                       sleep 60 & echo $! > child.$$\nwhile [ ! -e go ]; do sleep 0.02; done\nkill $!\nexit $(cat go)\n";

/// A server whose blueprints are built by [`BUILDER`]; `lines` are further keys of `[control]`. And its upstream.
fn building(lines: &str) -> (Server, FakeUpstream) {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).file("hand.toml", "[policy.hand]\n");
    fs::write(setup.directory().join("build.sh"), BUILDER).unwrap();
    let lines = format!("builder = [\"sh\", \"build.sh\"]\nbuild_pool = \"127.0.4.0/28\"\n{lines}");
    (setup.control(&lines).start(), upstream)
}

/// Returns the files in the server's directory whose name begins so.
fn files(server: &Server, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.directory()).unwrap().map(|entry| entry.unwrap().path());
    let begins = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(beginning);
    entries.filter(begins).collect()
}

/// Creates a blueprint and waits for its builder; returns its id and the view that the builder got.
fn begin(server: &Server, body: &Value) -> (String, Value) {
    let before = files(server, "input.").len();
    let view = server.api_post(BLUEPRINTS, body).done();
    assert_eq!(view["status"], "building");
    server.until("the builder runs", || (files(server, "input.").len() > before).then_some(()));
    let inputs = files(server, "input.");
    let read = |path: &PathBuf| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let input = inputs.iter().map(read).find(|input| input["id"] == view["id"]).unwrap();
    (id(&view), input)
}

/// Waits until a blueprint has a status; returns its view.
fn wait(server: &Server, blueprint: &str, status: &str) -> Value {
    let path = format!("{BLUEPRINTS}/{blueprint}");
    server.until(status, || Some(server.api_get(&path).done()).filter(|view| view["status"] == status))
}

/// Returns whether a process is there.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn a_build_has_its_policy_as_long_as_it_lasts_and_devboxes_have_theirs() {
    let (server, _upstream) = building("devbox_pool = \"127.0.5.0/28\"");
    let (build, runtime) = (server.new_policy(&["registry.test"]), server.new_policy(&["api.test"]));
    let body = json!({
        "name": "dual", "network_policy_id": build, "launch_parameters": { "network_policy_id": runtime }, "metadata": { "team": "x" },
    });
    let (blueprint, input) = begin(&server, &body);
    let address = input["metadata"]["hostgate.address"].as_str().unwrap();
    assert_eq!((address, &input["metadata"]["team"], &input["status"]), ("127.0.4.2", &json!("x"), &json!("building")));
    assert!(server.allows(address, "registry.test") && !server.allows(address, "api.test"));
    let path = format!("{BLUEPRINTS}/{blueprint}");
    assert_eq!(server.api_get(&path).done()["build_finish_time_ms"], Value::Null);
    server.api_post("/v1/devboxes", &json!({ "blueprint_id": blueprint })).refused(400, &["is building"]);
    server.api_post(&format!("{path}/delete"), &Value::Null).refused(400, &["in use by its build"]);
    server.api_post(&format!("/v1/network-policies/{build}/delete"), &Value::Null).refused(400, &[&blueprint]);

    fs::write(server.directory().join("go"), "0").unwrap();
    let view = wait(&server, &blueprint, "build_complete");
    assert!(view["build_finish_time_ms"].is_u64() && view["metadata"] == json!({ "team": "x" }), "{view}");
    ask("registry.test", RecordType::A).from(address).udp(&server).expect_denied();
    let logs = server.api_get(&format!("{path}/logs")).done()["logs"].clone();
    let said: Vec<_> = logs.as_array().unwrap().iter().map(|line| (&line["level"], &line["message"])).collect();
    assert!(
        said.contains(&(&json!("info"), &json!("FROM scratch"))) && said.contains(&(&json!("warn"), &json!("oops"))),
        "{logs}"
    );
    let devbox = server.api_post("/v1/devboxes", &json!({ "blueprint_id": blueprint })).done();
    let address = devbox["metadata"]["hostgate.address"].as_str().unwrap();
    assert!(server.allows(address, "api.test") && !server.allows(address, "registry.test"));
}

#[test]
fn a_build_that_fails_or_takes_too_long_leaves_nothing_behind() {
    let (server, _upstream) = building("builder_timeout = 2");
    let build = server.new_policy(&["registry.test"]);
    let body = json!({ "name": "x", "network_policy_id": build, "metadata": { "hostgate.address": "127.0.0.40" } });
    let (late, _) = begin(&server, &body);
    assert!(server.allows("127.0.0.40", "registry.test"));
    server.api_post(BLUEPRINTS, &body).refused(400, &["`127.0.0.40` is the address of"]);
    let view = wait(&server, &late, "failed");
    assert_eq!(view["failure_reason"], "build_failed");
    ask("registry.test", RecordType::A).from("127.0.0.40").udp(&server).expect_denied();
    for file in files(&server, "child.") {
        assert!(!lives(&fs::read_to_string(file).unwrap()), "what it started is killed too");
    }
    let logs = server.api_get(&format!("{BLUEPRINTS}/{late}/logs")).done().to_string();
    assert!(logs.contains("took longer than 2 s and was killed"), "{logs}");

    fs::write(server.directory().join("go"), "3").unwrap();
    let failed = id(&server.api_post(BLUEPRINTS, &body).done());
    wait(&server, &failed, "failed");
    let logs = server.api_get(&format!("{BLUEPRINTS}/{failed}/logs")).done().to_string();
    assert!(logs.contains("the builder ended with exit status: 3"), "{logs}");
    server.api_post("/v1/devboxes", &json!({ "blueprint_id": failed })).refused(400, &["is failed"]);
    server.api_post(&format!("{BLUEPRINTS}/{failed}/delete"), &Value::Null).done();
}

#[test]
fn four_builds_run_at_once_and_the_others_wait() {
    let (server, _upstream) = building("");
    let made: Vec<Value> = (0..6).map(|_| server.api_post(BLUEPRINTS, &json!({ "name": "x" })).done()).collect();
    let statuses: Vec<_> = made.iter().map(|view| view["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["building", "building", "building", "building", "queued", "queued"]);
    server.until("four builders", || (files(&server, "input.").len() == 4).then_some(()));
    fs::write(server.directory().join("go"), "0").unwrap();
    for view in &made {
        wait(&server, &id(view), "build_complete");
    }
    assert_eq!(files(&server, "input.").len(), 6);
}

#[test]
fn what_is_being_built_when_the_process_ends_has_failed() {
    let (mut server, _upstream) = building("");
    let (blueprint, _) = begin(&server, &json!({ "name": "x", "network_policy_id": "hand" }));
    let file = format!("api/{blueprint}.toml");
    let child = server.until("the builder's child", || {
        let child = fs::read_to_string(files(&server, "child.").first()?).ok()?;
        child.ends_with('\n').then_some(child)
    });
    server.signal("TERM");
    server.wait_exit();
    until("the builder is killed", || (!lives(&child)).then_some(()));
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    assert!(text.contains("status = \"building\"") && text.contains("-build]"), "{text}");
    let next = server.restarted();
    let view = wait(&next, &blueprint, "failed");
    assert_eq!(view["failure_reason"], "build_failed");
    next.wait_log(&["build failed: it was under way when hostgate ended", &blueprint]);
    assert!(!fs::read_to_string(next.policies(&file)).unwrap().contains("-build]"));
}

#[test]
fn a_builder_that_cannot_be_run_fails_the_build() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).file("hand.toml", "[policy.hand]\n");
    let server = setup.control("builder = [\"/no/such/builder\"]\nbuild_pool = \"127.0.4.0/28\"\n").start();
    let blueprint = id(&server.api_post(BLUEPRINTS, &json!({ "name": "x" })).done());
    wait(&server, &blueprint, "failed");
    let logs = server.api_get(&format!("{BLUEPRINTS}/{blueprint}/logs")).done().to_string();
    assert!(logs.contains("the builder cannot be run: /no/such/builder: No such file"), "{logs}");
}

#[test]
fn a_builder_gets_a_chosen_environment_and_leaves_no_process_behind() {
    /// Leaves a child in its group, one in a session of its own, and one that also forgot whose it is; then it succeeds.
    const DAEMONS: &str = "env > environment\nsleep 61 & echo $! > child.1\n\
        setsid sh -c 'echo $$ > child.2; exec sleep 62' >/dev/null 2>&1 &\n\
        setsid env -i sh -c 'echo $$ > child.3; exec sleep 63' >/dev/null 2>&1 &\n\
        while [ ! -s child.3 ] || [ ! -s child.2 ]; do sleep 0.02; done\n";
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).file("hand.toml", "[policy.hand]\nallowed_hostnames = [\"registry.test\"]\n");
    fs::write(setup.directory().join("build.sh"), DAEMONS).unwrap();
    let setup = setup.environment("SECRET_OF_THE_OPERATOR", "s3cret").environment("NOTIFY_SOCKET", "/nowhere");
    let server = setup.control("builder = [\"sh\", \"build.sh\"]\nbuild_pool = \"127.0.4.0/28\"\n").start();
    let blueprint = id(&server.api_post(BLUEPRINTS, &json!({ "name": "x", "network_policy_id": "hand" })).done());
    wait(&server, &blueprint, "build_complete");
    for number in 1..=3 {
        let pid = fs::read_to_string(server.directory().join(format!("child.{number}"))).unwrap();
        assert!(!lives(&pid), "child {number} is dead before the status says that the build has ended");
    }
    ask("registry.test", RecordType::A).from("127.0.4.2").udp(&server).expect_denied();
    let environment = fs::read_to_string(server.directory().join("environment")).unwrap();
    let names: Vec<_> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(environment.contains(&format!("HOSTGATE_BUILD={blueprint}\n")) && names.contains(&"PATH"), "{environment}");
    // The shell adds some of its own.
    let known = ["PATH", "HOME", "LANG", "HOSTGATE_BUILD", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(names.iter().all(|name| known.contains(name)), "{environment}");
}
