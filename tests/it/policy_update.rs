//! `hostgate policy update` on a running server: its difference, whom it reaches, and that nobody's change is lost.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::api::TOKEN;
use crate::support::objects::id;
use crate::support::*;

/// Where policies are.
const POLICIES: &str = "/v1/network-policies";

/// A server with the API, and its upstream.
fn server() -> (Server, FakeUpstream) {
    let upstream = FakeUpstream::start();
    (Setup::new(&[&upstream]).control("").start(), upstream)
}

/// Runs a command of objects against a server.
fn with(server: &Server, arguments: &[&str]) -> Finished {
    let url = format!("http://{}", server.control());
    command::run_with(arguments.iter().copied().chain(["--url", &url]), &[("HOSTGATE_TOKEN", TOKEN)])
}

/// Returns the names that a policy's own file lists.
fn listed(server: &Server, id: &str) -> Vec<String> {
    let text = fs::read_to_string(server.policies(&format!("api/{id}.toml"))).unwrap();
    let (_, list) = text.split_once("allowed_hostnames = [").unwrap_or(("", "]"));
    list.split(']').next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn an_update_prints_its_difference_and_how_many_running_devboxes_it_reaches() {
    let (server, _upstream) = server();
    let policy = server.new_policy(&["github.test", "api.test"]);
    let blueprint = server.new_blueprint(None, Some(&policy));
    for number in 1..=3 {
        server.new_devbox(&blueprint, &format!("127.0.1.{number}"));
    }
    let other = server.new_policy(&["other.test"]);
    let other = server.new_blueprint(None, Some(&other));
    server.new_devbox(&other, "127.0.1.9");
    let update = |more: &[&str]| with(&server, &[&["policy", "update", &policy], more].concat());

    let head = |names: &str, end: &str| format!("{policy}  \"a policy\"  {names}  reaches 3 running devboxes{end}\n");
    let dry = update(&["--add", "npm.test", "*.pypi.test", "--remove", "GITHUB.test.", "--dry-run"]).expect_code(0);
    let difference = "  - github.test\n  + npm.test\n  + *.pypi.test\n";
    let expected = head("allows 3 hostnames", "  (dry run: nothing is changed)");
    assert_eq!(dry.stdout, format!("{expected}{difference}"));
    assert_eq!(listed(&server, &policy), ["github.test", "api.test"], "nothing is changed");
    assert!(server.allows("127.0.1.1", "github.test"));

    let done = update(&["--add", "npm.test", "*.pypi.test", "--remove", "GITHUB.test."]).expect_code(0);
    assert_eq!(done.stdout, format!("{}{difference}", head("allows 3 hostnames", "")));
    assert_eq!(listed(&server, &policy), ["api.test", "npm.test", "*.pypi.test"]);
    assert!(server.allows("127.0.1.3", "npm.test") && !server.allows("127.0.1.3", "github.test"));

    let again = update(&["--add", "npm.test"]).expect_code(0).expect_text(&["`npm.test` is in its list already"]);
    assert_eq!(again.stdout, format!("{}  no difference\n", head("allows 3 hostnames", "")));
    let missing = update(&["--add", "new.test", "--remove", "npn.test"]).expect_code(1);
    missing.expect_text(&["is not changed", "`npn.test` is not in its list (did you mean `npm.test`?)"]);
    assert_eq!(listed(&server, &policy), ["api.test", "npm.test", "*.pypi.test"], "all or nothing");
    update(&["--add", "*.com", "--dry-run"]).expect_code(1).expect_text(&["`com` is a public suffix"]);
    update(&["--add", "a.test", "--set", "b.test"]).expect_code(64);
    update(&["--add", "a.test", "--allow-none"]).expect_code(64);

    let set = update(&["--set", "api.test", "b.test", "--name", "new", "--add-cidr", "192.0.2.0/24"]).expect_code(0);
    for line in ["  - npm.test\n", "  - *.pypi.test\n", "  + b.test\n", "  + name \"new\"\n", "  + cidr 192.0.2.0/24\n"]
    {
        assert!(set.stdout.contains(line), "{set:#?}");
    }
    let json = update(&["--allow-all", "--json", "--dry-run"]).expect_code(0).json();
    let added = json!(["allow_all", "allow_devbox_to_devbox"]);
    let difference = json!({ "added": added, "removed": [], "running_devboxes": 3, "dry_run": true });
    assert_eq!((&json["hostgate_difference"], &json["id"]), (&difference, &json!(policy)));
    let none = update(&["--allow-none", "--cidr-none"]).expect_code(0);
    assert!(none.stdout.contains("denies everything") && none.stdout.contains("  - b.test\n"), "{none:#?}");
    assert!(listed(&server, &policy).is_empty());
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let (server, _upstream) = server();
    let policy = server.new_policy(&["kept.test"]);
    let url = format!("http://{}", server.control());
    let mut expected = vec!["kept.test".to_owned()];
    let updates: Vec<Child> = (0..24)
        .map(|number| {
            let name = format!("host-{number}.test");
            let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
            command.args(["policy", "update", &policy, "--add", &name, "--url", &url]).env("HOSTGATE_TOKEN", TOKEN);
            expected.push(name);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut update in updates {
        assert_eq!(command::wait(&mut update).and_then(|status| status.code()), Some(0));
    }
    let mut names = listed(&server, &policy);
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn a_policy_that_is_built_in_or_has_no_id_is_said_to_be() {
    let (server, _upstream) = server();
    for arguments in [&["update", "preset:npm", "--add", "a.test"][..], &["delete", "preset:npm"]] {
        let refused = with(&server, &[&["policy"], arguments].concat()).expect_code(1);
        refused.expect_text(&["`preset:npm` is built in: a file `presets/npm.toml` in the policies directory"]);
    }
    for arguments in
        [&["policy", "show", ""][..], &["policy", "update", "", "--add", "a.test"], &["devbox", "delete", ""]]
    {
        let refused = with(&server, arguments).expect_code(1);
        refused.expect_text(&[&format!("an empty text names no {}", arguments[0])]);
    }
}

#[test]
fn metadata_that_is_added_at_the_same_time_is_all_there() {
    let (server, _upstream) = server();
    let devbox = server.new_devbox(&server.new_blueprint(None, None), "127.0.1.1");
    let url = format!("http://{}", server.control());
    let pairs: Vec<String> = (0..6).map(|number| format!("key-{number}=value")).collect();
    let updates = pairs.iter().map(|pair| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(["devbox", "update", &devbox, "--metadata", pair, "--url", &url]).env("HOSTGATE_TOKEN", TOKEN);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    });
    for mut update in updates.collect::<Vec<Child>>() {
        assert_eq!(command::wait(&mut update).and_then(|status| status.code()), Some(0));
    }
    let metadata = server.api_get(&format!("/v1/devboxes/{devbox}")).done()["metadata"].clone();
    assert_eq!(metadata.as_object().unwrap().len(), 7, "and its address: {metadata}");
}

#[test]
fn blueprints_and_devboxes_have_revisions_as_well() {
    let (server, _upstream) = server();
    let blueprint = server.new_blueprint(None, None);
    let devbox = server.new_devbox(&blueprint, "127.0.1.1");
    for path in [format!("/v1/blueprints/{blueprint}"), format!("/v1/devboxes/{devbox}")] {
        let revision = server.api_get(&path).done()["hostgate_revision"].clone();
        let body = |name: &str| json!({ "name": name, "hostgate_revision": revision });
        let changed = server.api_post(&path, &body("first")).done();
        server.api_post(&path, &body("second")).refused(412, &["was changed meanwhile"]);
        assert_eq!(server.api_get(&path).done(), changed);
        assert!(!changed.to_string().contains("second") && changed["name"] == "first", "{changed}");
    }
}

#[test]
fn a_request_with_another_revision_changes_nothing() {
    let (server, _upstream) = server();
    let path = format!("{POLICIES}/{}", server.new_policy(&["a.test"]));
    let revision = server.api_get(&path).done()["hostgate_revision"].clone();
    let body = |name: &str, revision: &Value| json!({ "allowed_hostnames": [name], "hostgate_revision": revision });
    let changed = server.api_post(&path, &body("b.test", &revision)).done();
    assert_ne!(changed["hostgate_revision"], revision);
    for stale in [&revision, &json!(""), &json!("0")] {
        server.api_post(&path, &body("c.test", stale)).refused(412, &["was changed meanwhile"]);
    }
    server.api_post(&path, &body("c.test", &json!(7))).refused(400, &["hostgate_revision: it must be a string"]);
    assert_eq!(server.api_get(&path).done(), changed);
    // A person's edit is another revision as well.
    let file = format!("api/{}.toml", path.rsplit('/').next().unwrap());
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    server.replace(&file, text.replace("b.test", "d.test"));
    server.until("the edit is in force", || {
        (server.api_get(&path).done()["egress"]["allowed_hostnames"] == json!(["d.test"])).then_some(())
    });
    server.api_post(&path, &body("c.test", &changed["hostgate_revision"])).refused(412, &["was changed meanwhile"]);
}

#[test]
fn names_from_elsewhere_do_not_become_the_policys_own() {
    let (server, _upstream) = server();
    let policy = server.new_policy(&["A.test"]);
    let (path, file) = (format!("{POLICIES}/{policy}"), format!("api/{policy}.toml"));
    fs::write(server.policies("more.txt"), "listed.test\n").unwrap();
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    let added = "include = [\"preset:npm\"]\nallowed_hostnames_files = [\"../more.txt\"]\nname =";
    server.replace(&file, text.replacen("name =", added, 1));
    let view = server.until("the includes are in force", || {
        let view = server.api_get(&path).done();
        view["include"].is_array().then_some(view)
    });
    assert_eq!(view["hostgate_own_hostnames"], json!(["A.test"]));

    // As an SDK does it: all that is shown, and one more.
    let mut names = view["egress"]["allowed_hostnames"].as_array().unwrap().clone();
    assert!(names.len() > 3 && names.contains(&json!("listed.test")), "{view}");
    names.push("b.test".into());
    let after = server.api_post(&path, &json!({ "allowed_hostnames": names })).done();
    assert_eq!(listed(&server, &policy), ["A.test", "b.test"]);
    let shown = after["egress"]["allowed_hostnames"].as_array().unwrap();
    assert!(names.iter().all(|name| shown.contains(name)), "{after}");

    let update = |more: &[&str]| with(&server, &[&["policy", "update", &policy], more].concat());
    let done = update(&["--add", "c.test", "registry.npmjs.org", "listed.test", "--remove", "b.test"]).expect_code(0);
    done.expect_text(&["  + c.test\n", "  - b.test\n"]);
    assert!(["A.test", "c.test"].iter().all(|name| listed(&server, &policy).contains(&(*name).to_owned())));
    assert!(!listed(&server, &policy).contains(&"listed.test".to_owned()));
    update(&["--remove", "listed.test"]).expect_code(1).expect_text(&["is allowed by what it includes (preset:npm)"]);
    update(&["--set", "A.test", "c.test", "listed.test"]).expect_code(0);
    assert_eq!(listed(&server, &policy), ["A.test", "c.test"]);
}

#[test]
fn a_policy_reaches_devboxes_through_those_that_include_it() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).control("").start();
    let policy = server.new_policy(&["a.test"]);
    server.write(
        "mine.toml",
        format!(
            "[policy.middle]\ninclude = [\"{policy}\"]\n[policy.outer]\ninclude = [\"middle\"]\n[policy.apart]\n\
             [client.one]\nsources = [\"127.0.2.1\"]\npolicy = \"outer\"\n[client.two]\nsources = [\"127.0.2.2\"]\npolicy = \"middle\"\n\
             [client.apart]\nsources = [\"127.0.2.3\"]\npolicy = \"apart\"\n[blueprint.b]\nbuild_policy = \"outer\"\n\
             [client.build]\nsources = [\"127.0.2.4\"]\nblueprint = \"b\"\nphase = \"build\"\n"
        ),
    );
    server.until("it is in force", || (server.status()["clients"] == 4).then_some(()));
    let (blueprint, direct) = (server.new_blueprint(None, Some(&policy)), "127.0.2.9");
    let devbox = server.new_devbox(&blueprint, direct);
    let update = |number: &str| {
        with(&server, &["policy", "update", &policy, "--add", "b.test", "--dry-run"])
            .expect_code(0)
            .expect_text(&[number]);
    };
    update("reaches 3 running devboxes");
    with(&server, &["devbox", "delete", &devbox]).expect_code(0);
    update("reaches 2 running devboxes");
    let list = server.api_get(&format!("/v1/devboxes?network_policy_id={policy}")).done();
    let ids: Vec<&str> =
        list["devboxes"].as_array().unwrap().iter().filter_map(|devbox| devbox["id"].as_str()).collect();
    assert_eq!(ids, ["two", "one"], "{list}");
    assert_eq!(server.api_get("/v1/devboxes?network_policy_id=none").done()["total_count"], 0);
    for dry in [&[][..], &["--dry-run"]] {
        let refused = with(&server, &[&["policy", "update", "middle", "--add", "b.test"], dry].concat()).expect_code(1);
        refused.expect_text(&["`middle`", "written by hand"]);
    }
}

#[test]
fn names_are_taken_wherever_ids_are() {
    let (server, _upstream) = server();
    let named = |kind: &str, name: &str, more: Value| {
        let mut body = json!({ "name": name });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        id(&server.api_post(&format!("/v1/{kind}"), &body).done())
    };
    let policy = named("network-policies", "build tools", json!({ "allowed_hostnames": ["a.test"] }));
    let longer = named("network-policies", "build tools 2", json!({}));
    with(&server, &["policy", "show", "build tools"]).expect_code(0).expect_text(&[&policy]);
    with(&server, &["policy", "update", "build tools", "--add", "b.test"]).expect_code(0).expect_text(&["  + b.test"]);
    assert_eq!(listed(&server, &policy), ["a.test", "b.test"]);
    for absent in ["build", "BUILD TOOLS", "npol_0"] {
        with(&server, &["policy", "show", absent]).expect_code(1).expect_text(&["there is no network policy", absent]);
    }
    let arguments = ["blueprint", "create", "--name", "agent", "--build-policy", "build tools 2", "--runtime-policy"];
    let blueprint = with(&server, &[&arguments[..], &["build tools"]].concat()).expect_code(0).stdout;
    let blueprint = blueprint.trim();
    let view = server.api_get(&format!("/v1/blueprints/{blueprint}")).done();
    assert_eq!(view["parameters"]["network_policy_id"], longer);
    assert_eq!(view["parameters"]["launch_parameters"]["network_policy_id"], policy);
    with(&server, &["blueprint", "update", "agent", "--build-policy", "build tools"])
        .expect_code(0)
        .expect_text(&[&policy]);

    let create = ["devbox", "create", "--name", "web", "--blueprint", "agent", "--address"];
    let made =
        |address: &str| with(&server, &[&create[..], &[address]].concat()).expect_code(0).stdout.trim().to_owned();
    let first = made("127.0.3.1");
    with(&server, &["devbox", "delete", "web"]).expect_code(0).expect_text(&[&first, "shut down"]);
    let second = made("127.0.3.1");
    with(&server, &["devbox", "show", "web"]).expect_code(0).expect_text(&[&second]);
    let third = made("127.0.3.2");
    let ambiguous = with(&server, &["devbox", "delete", "web"]).expect_code(1);
    ambiguous.expect_text(&["`web` is the name of more than one devbox", &second, &third, "write the id"]);
    with(&server, &["devbox", "delete", &third]).expect_code(0);

    named("network-policies", "build tools", json!({}));
    let refused =
        with(&server, &["devbox", "create", "--policy", "build tools", "--address", "127.0.3.5"]).expect_code(1);
    refused.expect_text(&["`build tools` is the name of more than one policy", &policy]);
    with(&server, &["devbox", "create", "--policy", "unknown", "--address", "127.0.3.5"])
        .expect_code(1)
        .expect_text(&["unknown"]);
    // An id is never taken for the name of another object.
    let decoy = named("network-policies", &policy, json!({}));
    with(&server, &["policy", "show", &policy]).expect_code(0).expect_text(&["\"build tools\""]);
    with(&server, &["blueprint", "delete", blueprint]).expect_code(1);
    with(&server, &["policy", "delete", &decoy]).expect_code(0);
    with(&server, &["policy", "delete", &decoy]).expect_code(1);
}

#[test]
fn what_is_wrong_whatever_the_revision_is_told_before_that_it_is_old() {
    let (server, _upstream) = server();
    let blueprint = id(&server.api_post("/v1/blueprints", &json!({ "name": "b" })).done());
    let path = format!("/v1/blueprints/{blueprint}");
    let body = |policy: &Value| json!({ "network_policy_id": policy, "hostgate_revision": "old" });
    server.api_post(&path, &body(&json!("none"))).refused(400, &["there is no network policy `none`"]);
    server.api_post(&path, &body(&Value::Null)).refused(412, &["was changed meanwhile"]);
}
