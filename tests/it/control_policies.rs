//! Network policies over the API: in force when the answer comes, one file each, and what people wrote stays theirs.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where policies are.
const POLICIES: &str = "/v1/network-policies";

/// A server with the API and one policy that a person wrote, which a client uses; and its upstream.
fn server() -> (Server, FakeUpstream) {
    let text = "# Ours.\n[policy.hand]\nname = \"by hand\"\nallowed_hostnames = [\"a.test\"]\ninclude = [\"preset:npm\"]\n\
                allowed_cidrs = [\"192.0.2.0/24\"]\n[client.hand]\nsources = [\"127.0.0.9\"]\npolicy = \"hand\"\n";
    let upstream = FakeUpstream::start();
    (Setup::new(&[&upstream]).file("hand.toml", text).control("").start(), upstream)
}

/// Lets a client of the files use a policy of the API.
fn use_policy(server: &Server, source: &str, policy: &str) {
    let generation = server.status()["generation"].as_u64().unwrap();
    server.write("user.toml", format!("[client.user]\nsources = [\"{source}\"]\npolicy = \"{policy}\"\n"));
    server.until("the client is in force", || {
        (server.status()["generation"].as_u64().unwrap() > generation).then_some(())
    });
}

#[test]
fn a_policy_is_created_shown_changed_and_deleted() {
    let (server, _upstream) = server();
    let body = json!({
        "name": "build-policy", "description": null, "allow_all": false, "allowed_hostnames": ["github.test", "*.npmjs.test"],
        "allowed_cidrs": [{ "cidr": "10.12.0.0/16", "ports": [{ "port": 443, "end_port": 444, "protocol": "TCP" }] }],
        "allow_mcp_gateway": true, "team": { "x": [1, null, 2.5] },
    });
    let view = server.api_post(POLICIES, &body).done();
    let id = id(&view);
    assert!(id.starts_with("npol_") && id.len() == 23, "{id}");
    let egress = json!({
        "allow_all": false, "allow_devbox_to_devbox": false, "allow_agent_gateway": false, "allow_mcp_gateway": true,
        "allow_runloop_mirrors": false, "allowed_hostnames": body["allowed_hostnames"], "allowed_cidrs": body["allowed_cidrs"],
    });
    assert_eq!(view["egress"], egress);
    assert_eq!((&view["name"], &view["description"], &view["team"]), (&body["name"], &Value::Null, &body["team"]));
    assert!(view["create_time_ms"].is_u64() && view["create_time_ms"] == view["update_time_ms"], "{view}");
    let path = format!("{POLICIES}/{id}");
    assert_eq!(server.api_get(&path).done(), view);

    use_policy(&server, "127.0.0.11", &id);
    assert!(server.allows("127.0.0.11", "github.test") && server.allows("127.0.0.11", "a.npmjs.test"));
    assert!(!server.allows("127.0.0.11", "other.test"));
    let changed =
        server.api_post(&path, &json!({ "allowed_hostnames": ["other.test"], "name": null, "team": 7 })).done();
    assert!(server.allows("127.0.0.11", "other.test") && !server.allows("127.0.0.11", "github.test"));
    assert_eq!(
        (&changed["name"], &changed["team"], &changed["egress"]["allow_mcp_gateway"]),
        (&body["name"], &json!(7), &json!(true))
    );
    assert!(changed["update_time_ms"].as_u64() >= view["update_time_ms"].as_u64());
    server.api_post(&path, &json!({ "allowed_hostnames": [] })).done();
    assert!(!server.allows("127.0.0.11", "other.test"), "an empty list empties it");
    let all = server.api_post(&path, &json!({ "allow_all": true })).done();
    assert!(all["egress"]["allow_devbox_to_devbox"] == true && server.allows("127.0.0.11", "any.test"), "{all}");
    assert_eq!(server.api_post(&path, &Value::Null).done()["egress"], all["egress"], "nothing is to change");

    server
        .api_post(&format!("{path}/delete"), &Value::Null)
        .refused(400, &["is in use by client `user`", "user.toml:1:9"]);
    server.remove("user.toml");
    server.until("the client is gone", || (server.status()["clients"] == 1).then_some(()));
    let deleted = server.api_post(&format!("{path}/delete"), &json!({})).done();
    assert_eq!((&deleted["id"], &deleted["egress"]), (&json!(id), &all["egress"]));
    server.api_get(&path).refused(404, &["there is no network policy", &id]);
    server.api_post(&format!("{path}/delete"), &Value::Null).refused(404, &[&id]);
    server.api_post(&path, &json!({ "name": 7 })).refused(404, &[&id]);
    assert!(!server.policies(&format!("api/{id}.toml")).exists());
}

#[test]
fn everything_that_is_wrong_is_told_and_nothing_is_made() {
    let (server, _upstream) = server();
    let body = json!({ "allowed_hostnames": ["a.test", "*.com"], "allowed_cidrs": [{ "cidr": "10.0.0.1/8" }] });
    let parts = [
        "name: it is missing",
        "allowed_hostnames[1]: pattern `*.com`: `com` is a public suffix",
        "write `10.0.0.0/8`",
    ];
    server.api_post(POLICIES, &body).refused(400, &parts);
    server.api("POST", POLICIES, "", "{\"name\":").refused(400, &["body: it is no JSON"]);
    server.api("POST", POLICIES, "", "[1]").refused(400, &["body: it is no JSON object"]);
    server.api("POST", POLICIES, "", "").refused(400, &["name: it is missing"]);
    server.api("PUT", POLICIES, "", "").refused(405, &["no such method"]);
    server.api_get("/v1/snapshots").refused(404, &["no such route"]);
    server.api_get(&format!("{POLICIES}?limit=5001")).refused(400, &["limit: `5001`"]);
    server.api_get(&format!("{POLICIES}/%ff")).refused(400, &["path: "]);
    assert!(!server.policies("api").exists());
    assert_eq!(server.api_get("/openapi.json").done()["openapi"], "3.1.0");
}

#[test]
fn lists_have_pages_filters_and_what_people_wrote() {
    let (server, _upstream) = server();
    let made: Vec<String> = (0..5).map(|_| server.new_policy(&["a.test"])).collect();
    let list = |query: &str| {
        let list = server.api_get(&format!("{POLICIES}?{query}")).done();
        let ids = list["network_policies"].as_array().unwrap().iter().map(id).collect::<Vec<_>>();
        (ids, list["has_more"].as_bool().unwrap(), list["total_count"].as_u64())
    };
    let newest: Vec<String> = made.iter().rev().cloned().chain(["hand".to_owned()]).collect();
    assert_eq!(list(""), (newest.clone(), false, Some(6)));
    assert_eq!(list("limit=2"), (newest[..2].to_vec(), true, Some(6)));
    let rest = format!("limit=5&starting_after={}", newest[1]);
    assert_eq!(list(&rest), (newest[2..].to_vec(), false, Some(6)));
    assert_eq!(list("name=BY%20hand&include_total_count=false"), (vec!["hand".to_owned()], false, None));
    assert_eq!(list(&format!("search={}", made[3])), (vec![made[3].clone()], false, Some(1)));
    let hand = server.api_get(&format!("{POLICIES}/hand")).done();
    let names: Vec<_> =
        hand["egress"]["allowed_hostnames"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"a.test") && names.contains(&"*.npmjs.org"), "what it includes is shown: {names:?}");
    assert_eq!(hand["egress"]["allowed_cidrs"], json!([{ "cidr": "192.0.2.0/24" }]));
}

#[test]
fn what_a_person_wrote_is_refused_with_its_place() {
    let (server, _upstream) = server();
    let parts = ["network policy `hand` is written by hand in", "policies/hand.toml:2:9: edit it there"];
    server.api_post(&format!("{POLICIES}/hand"), &json!({ "name": "x" })).refused(400, &parts);
    server.api_post(&format!("{POLICIES}/hand/delete"), &Value::Null).refused(400, &parts);
}

#[test]
fn what_people_add_to_a_file_of_the_api_stays() {
    let (server, _upstream) = server();
    let policy = server.new_policy(&["a.test", "b.test"]);
    use_policy(&server, "127.0.0.11", &policy);
    let file = format!("api/{policy}.toml");
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    assert!(text.starts_with("# A network policy of the API."), "{text}");
    let edited = text.replace("name = ", "# No b.\ndenied_hostnames = [\"b.test\"]\nname = ");
    server.replace(&file, &edited);
    server.until("the edit is in force", || (!server.allows("127.0.0.11", "b.test")).then_some(()));
    let path = format!("{POLICIES}/{policy}");
    server.api_post(&path, &json!({ "name": "other", "allowed_hostnames": ["b.test", "c.test"] })).done();
    assert!(server.allows("127.0.0.11", "c.test") && !server.allows("127.0.0.11", "b.test"));
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    assert!(text.contains("# No b.\ndenied_hostnames = [\"b.test\"]\nname = \"other\"\n"), "{text}");

    // Half edited: what is in force is shown, and a change is refused.
    server.replace(&file, text.replace("c.test", "*.com"));
    server.wait_error();
    assert_eq!(server.api_get(&path).done()["egress"]["allowed_hostnames"], json!(["b.test", "c.test"]));
    let parts = [file.as_str(), "on disk is not what is in force", "pattern `*.com`", "mend the file"];
    server.api_post(&path, &json!({ "name": "x" })).refused(400, &parts);
    // Mended just now.
    server.replace(&file, &text);
    server.api_post(&path, &json!({ "name": "x" })).done();
    server.wait_no_error();
    // Once this is in force, what the kernel told of the file before has been looked at.
    let generation = server.status()["generation"].as_u64().unwrap();
    server.write("later.toml", "[policy.later]\n");
    server.wait_generation(generation + 1);
    // Half written: as long as it is open, what is in it is nobody's business.
    let mut half = fs::File::options().append(true).open(server.policies(&file)).unwrap();
    half.write_all(b"# More.\n").unwrap();
    let parts = [file.as_str(), "somebody is writing to it: try again"];
    server.api_post(&path, &json!({ "name": "x" })).refused(503, &parts);
    drop(half);
    server.api_post(&path, &json!({ "name": "x" })).done();
    server.replace(&file, &text);
    // An edit that nobody has looked at yet is no obstacle, and is not lost.
    server.write(&file, text.replace("# No b.", "# Never b."));
    server.api_post(&path, &json!({ "name": "y" })).done();
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    assert!(text.contains("# Never b.") && text.contains("name = \"y\""), "{text}");
}

#[test]
fn a_restart_finds_everything() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let policies = directory.path().to_str().unwrap().to_owned();
    fs::write(directory.path().join("hand.toml"), "[policy.hand]\n").unwrap();
    let start = || {
        let setup = Setup::new(&[&upstream]).control("");
        setup.start_with(|path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("\"policies\"", &format!("{policies:?}"), 1)).unwrap();
        })
    };
    let server = start();
    let body = json!({ "name": "p", "allow_agent_gateway": true, "x": { "y": [null, 1.0, u64::MAX] } }).to_string();
    let create = |server: &Server| server.api("POST", POLICIES, "x-request-id: try-1\r\n", &body);
    let view = create(&server).done();
    assert_eq!(create(&server).done(), view, "the same request again");
    server.api("POST", POLICIES, "x-request-id: try-1\r\n", "{\"name\":\"q\"}").refused(400, &["x-request-id"]);
    server.api("POST", POLICIES, "x-request-id: try-2\r\n", "{\"nam\":\"q\"}").refused(400, &["name: it is missing"]);
    server.api("POST", POLICIES, "x-request-id: try-2\r\n", "{\"name\":\"q\"}").done();
    assert_eq!(server.api_get(POLICIES).done()["total_count"], 3);
    drop(server);
    let server = start();
    assert_eq!(server.api_get(&format!("{POLICIES}/{}", id(&view))).done(), view);
    assert_eq!(server.api_get(POLICIES).done()["total_count"], 3);
}

#[test]
fn a_folder_that_cannot_be_written_refuses_changes_for_now() {
    let (server, _upstream) = server();
    // Not even root can make a folder of this name.
    server.write("api", "a file");
    let told = server.api_post(POLICIES, &json!({ "name": "p" }));
    told.refused(503, &["policies/api"]);
    assert_eq!(server.api_get(POLICIES).done()["total_count"], 1);
}

#[test]
fn a_policy_in_use_names_its_users_ten_at_most() {
    let (server, _upstream) = server();
    let policy = server.new_policy(&["a.test"]);
    let delete = || server.api_post(&format!("{POLICIES}/{policy}/delete"), &Value::Null);
    let blueprint = server.new_blueprint(Some(&policy), None);
    server.new_devbox(&blueprint, "127.0.1.1");
    let own = json!({ "launch_parameters": { "network_policy_id": policy }, "metadata": { "hostgate.address": "127.0.1.2" } });
    let devbox = id(&server.api_post("/v1/devboxes", &own).done());
    server.write("including.toml", format!("[policy.including]\ninclude = [\"{policy}\"]\n"));
    server.until("it is included", || {
        server.api_get(&format!("{POLICIES}/including")).body["egress"].is_object().then_some(())
    });
    server
        .reconfigure("policies = \"policies\"\n", &format!("policies = \"policies\"\ndefault_policy = \"{policy}\"\n"));
    server.until("it is the default", || server.allows("127.0.1.3", "a.test").then_some(()));
    let parts = [
        &format!("in use by blueprint `{blueprint}`, devbox `{devbox}`, network policy `including` (") as &str,
        "including.toml:1:9), `default_policy` of hostgate.toml: give them another policy",
    ];
    delete().refused(400, &parts);
    let clients =
        (0..9).map(|number| format!("[client.c{number}]\nsources = [\"127.0.2.{number}\"]\npolicy = \"{policy}\"\n"));
    server.write("clients.toml", clients.collect::<String>());
    server.until("nine more use it", || (server.status()["clients"] == 12).then_some(()));
    delete().refused(400, &["client `c7` (", " and 3 more: give them"]);
}
