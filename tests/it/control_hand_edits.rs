//! What people do to the files of the API by hand: what is in force is what is shown, and what is theirs stays.

use std::fs;

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where devboxes are.
const DEVBOXES: &str = "/v1/devboxes";
/// Where policies are.
const POLICIES: &str = "/v1/network-policies";

/// A server with the API; and its upstream.
fn server() -> (Server, FakeUpstream) {
    let upstream = FakeUpstream::start();
    (Setup::new(&[&upstream]).control("").start(), upstream)
}

/// Makes a devbox that is unrestricted; returns its id.
fn devbox(server: &Server, address: &str) -> String {
    id(&server.api_post(DEVBOXES, &json!({
        "metadata": { "hostgate.address": address }, "launch_parameters": { "network_policy_id": "unrestricted" },
    })).done())
}

#[test]
fn a_devbox_whose_file_was_moved_is_a_client_that_a_person_wrote() {
    let (server, _upstream) = server();
    let (moved, split) = (devbox(&server, "127.0.1.1"), devbox(&server, "127.0.1.2"));
    fs::rename(server.policies(&format!("api/{moved}.toml")), server.policies("mine.toml")).unwrap();
    server.write("noted.toml", "[api.dbx_noted]\nstatus = \"running\"\n");
    // Of this one only what binds it is moved.
    let file = format!("api/{split}.toml");
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    let client = text.find("[client.").unwrap();
    let kept = text.find("[api.").unwrap();
    server.replace(&file, format!("{}{}", &text[..client], &text[kept..]));
    server.write("split.toml", &text[client..kept]);
    server.until("all are by hand", || {
        let names = [&moved, &split].map(|id| server.api_get(&format!("{DEVBOXES}/{id}")).body["name"].clone());
        (names == [json!(moved), json!(split)]).then_some(())
    });
    for (id, address) in [(&moved, "127.0.1.1"), (&split, "127.0.1.2")] {
        let view = server.api_get(&format!("{DEVBOXES}/{id}")).done();
        assert_eq!((&view["status"], server.allows(address, "any.test")), (&json!("running"), true), "{view}");
    }
    let list = server.api_get(DEVBOXES).done();
    assert_eq!(list["total_count"], 2, "{list}");
    server.api_get(&format!("{DEVBOXES}/dbx_noted")).refused(404, &["dbx_noted"]);
    for (id, place) in [(&*moved, "mine.toml:2:9"), (&split, "split.toml:1:9"), ("dbx_noted", "noted.toml:1:6")] {
        let parts = [id, "is written by hand in", place];
        server.api_post(&format!("{DEVBOXES}/{id}"), &json!({ "name": "x" })).refused(400, &parts);
        server.api_post(&format!("{DEVBOXES}/{id}/shutdown"), &Value::Null).refused(400, &parts);
    }
}

#[test]
fn what_is_in_force_is_shown_whatever_the_file_was_before() {
    let (server, _upstream) = server();
    let (policy, devbox) = (server.new_policy(&["A.test", "b.test"]), devbox(&server, "127.0.1.1"));
    let (policy, devbox) = (format!("{POLICIES}/{policy}"), format!("{DEVBOXES}/{devbox}"));
    let edit = |path: &str, from: &str, to: &str| {
        let file = format!("api/{}.toml", path.rsplit('/').next().unwrap());
        let text = fs::read_to_string(server.policies(&file)).unwrap();
        server.replace(&file, text.replacen(from, to, 1));
    };
    let added =
        "include = [\"preset:npm\"]\ndenied_hostnames = [\"b.test\"]\nmode = \"audit\"\nbudget = \"off\"\nname =";
    edit(&policy, "name =", added);
    edit(&devbox, "127.0.1.1", "127.0.1.7");
    let view = server.until("both are in force", || {
        let view = server.api_get(&policy).done();
        (view["mode"] == "audit" && server.allows("127.0.1.7", "any.test")).then_some(view)
    });
    assert_eq!(view["budget"], "off", "{view}");
    assert_eq!((&view["denied_hostnames"], &view["include"]), (&json!(["b.test"]), &json!(["preset:npm"])), "{view}");
    let names = view["egress"]["allowed_hostnames"].as_array().unwrap();
    assert_eq!(names[..2], [json!("A.test"), json!("b.test")], "as they were written");
    assert!(names.contains(&json!("*.npmjs.org")) && !names.contains(&json!("a.test")), "{view}");

    let at = |address: &str| json!({ "metadata": { "hostgate.address": address } });
    assert_eq!(server.api_get(&devbox).done()["metadata"], at("127.0.1.7")["metadata"]);
    server.api_post(&devbox, &at("127.0.1.1")).refused(400, &["a devbox keeps its address"]);
    server.api_post(&devbox, &at("127.0.1.7")).done();
    edit(&devbox, "\"127.0.1.7\"", "\"127.0.1.8\", \"127.0.2.0/30\"");
    server.until("there are two", || server.allows("127.0.2.1", "any.test").then_some(()));
    assert_eq!(server.api_get(&devbox).done()["metadata"], at("127.0.1.8, 127.0.2.0/30")["metadata"]);
    let down = server.api_post(&format!("{devbox}/shutdown"), &Value::Null).done();
    assert_eq!(down["metadata"], at("127.0.1.8, 127.0.2.0/30")["metadata"], "as it was");

    for key in ["denied_hostnames", "mode", "include", "message"] {
        let parts = [key, "it cannot be set here: write it into the policy's file, api/ID.toml"];
        server.api_post(&policy, &json!({ key: ["x.test"] })).refused(400, &parts);
        server.api_post(POLICIES, &json!({ "name": "x", key: "audit" })).refused(400, &parts);
    }
}

#[test]
fn what_a_person_wrote_beside_an_object_stays_when_it_is_deleted() {
    let (server, _upstream) = server();
    let (policy, blueprint) = (server.new_policy(&["a.test"]), server.new_blueprint(None, None));
    let mine = |id: &str| format!("# Mine.\n[policy.of-{id}]\nallow_all = true\n");
    for id in [&policy, &blueprint] {
        let file = format!("api/{id}.toml");
        let text = fs::read_to_string(server.policies(&file)).unwrap();
        server.replace(&file, text + "\n" + &mine(id));
        server.until("it is in force", || (server.api_get(&format!("{POLICIES}/of-{id}")).status == 200).then_some(()));
    }
    for (path, id) in [(POLICIES, &policy), ("/v1/blueprints", &blueprint)] {
        server.api_post(&format!("{path}/{id}/delete"), &Value::Null).done();
        server.api_get(&format!("{path}/{id}")).refused(404, &[id]);
        assert_eq!(fs::read_to_string(server.policies(&format!("api/{id}.toml"))).unwrap(), mine(id));
        server.api_get(&format!("{POLICIES}/of-{id}")).done();
    }
}
