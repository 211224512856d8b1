//! Devboxes over the API: bound to their policy when the answer comes, and to nothing once shut down.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where devboxes are.
const DEVBOXES: &str = "/v1/devboxes";
/// A client that a person wrote.
const HAND: &str = "[client.hand]\nsources = [\"127.0.0.9\"]\npolicy = \"unrestricted\"\n[client.net]\nsources = [\"127.0.3.0/24\"]\n\
                    policy = \"unrestricted\"\nphase = \"build\"\n";

/// A server with the API; `lines` are further keys of `[control]`. And its upstream.
fn server(lines: &str) -> (Server, FakeUpstream) {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).top("without_policy = \"unrestricted\"").file("hand.toml", HAND);
    (setup.control(lines).start(), upstream)
}

/// Makes a devbox with these fields.
fn create(server: &Server, body: &Value) -> Value {
    server.api_post(&format!("{DEVBOXES}/create_and_await_running"), body).done()
}

#[test]
fn a_devbox_inherits_the_runtime_policy_and_never_the_build_policy() {
    let (server, _upstream) = server("");
    let (build, runtime) = (server.new_policy(&["registry.test"]), server.new_policy(&["api.test"]));
    let body = json!({
        "name": "dual", "network_policy_id": build,
        "launch_parameters": { "network_policy_id": runtime, "launch_commands": ["npm install"], "keep_alive_time_seconds": 60 },
    });
    let blueprint = id(&server.api_post("/v1/blueprints", &body).done());
    let body = json!({
        "blueprint_id": blueprint, "name": "box", "metadata": { "team": "x", "hostgate.address": "127.0.0.11" },
        "launch_parameters": { "keep_alive_time_seconds": 90, "network_policy_id": null }, "environment_variables": { "A": "b" },
        "code_mounts": null,
    });
    let view = create(&server, &body);
    let devbox = id(&view);
    assert!(server.allows("127.0.0.11", "api.test") && !server.allows("127.0.0.11", "registry.test"));
    let launch =
        json!({ "network_policy_id": runtime, "launch_commands": ["npm install"], "keep_alive_time_seconds": 90 });
    assert_eq!(view["launch_parameters"], launch);
    assert_eq!(view["metadata"], body["metadata"]);
    let text = fs::read_to_string(server.policies(&format!("api/{devbox}.toml"))).unwrap();
    assert_eq!(text.matches("127.0.0.11").count(), 1, "said once: {text}");
    assert_eq!(view["environment_variables"], body["environment_variables"]);
    assert_eq!(
        (&view["status"], &view["capabilities"], &view["end_time_ms"]),
        (&json!("running"), &json!([]), &Value::Null)
    );
    assert_eq!(
        view["state_transitions"],
        json!([{ "status": "running", "transition_time_ms": view["create_time_ms"] }])
    );
    assert_eq!(server.api_get(&format!("{DEVBOXES}/{devbox}")).done(), view);

    // The policy, and then the blueprint, is changed under it.
    server.api_post(&format!("/v1/network-policies/{runtime}"), &json!({ "allowed_hostnames": ["other.test"] })).done();
    assert!(server.allows("127.0.0.11", "other.test") && !server.allows("127.0.0.11", "api.test"));
    let path = format!("/v1/blueprints/{blueprint}");
    server.api_post(&path, &json!({ "launch_parameters": { "network_policy_id": build } })).done();
    assert!(server.allows("127.0.0.11", "registry.test") && !server.allows("127.0.0.11", "other.test"));
    let view = server.api_get(&format!("{DEVBOXES}/{devbox}")).done();
    assert_eq!(view["launch_parameters"]["network_policy_id"], json!(build));

    server.api_post(&format!("{path}/delete"), &Value::Null).refused(400, &["in use by devbox", &devbox]);
    let delete = format!("/v1/network-policies/{build}/delete");
    server.api_post(&delete, &Value::Null).refused(400, &["in use by blueprint", &blueprint]);
    assert_eq!(
        server.api_get(&format!("/v1/blueprints/{blueprint}")).done()["parameters"]["launch_parameters"]["launch_commands"],
        json!(["npm install"])
    );
}

#[test]
fn a_devbox_may_have_another_policy_than_its_blueprint_or_none() {
    let (server, _upstream) = server("");
    let (runtime, own) = (server.new_policy(&["api.test"]), server.new_policy(&["own.test"]));
    let blueprint = server.new_blueprint(None, Some(&runtime));
    let body = json!({
        "blueprint_id": blueprint, "metadata": { "hostgate.address": "127.0.0.11" }, "launch_parameters": { "network_policy_id": own },
    });
    let view = create(&server, &body);
    assert_eq!(view["launch_parameters"]["network_policy_id"], json!(own));
    assert!(server.allows("127.0.0.11", "own.test") && !server.allows("127.0.0.11", "api.test"));
    let delete = format!("/v1/network-policies/{own}/delete");
    server.api_post(&delete, &Value::Null).refused(400, &["in use by devbox", &id(&view)]);
    let free = create(&server, &json!({ "metadata": { "hostgate.address": "127.0.0.12" } }));
    assert!(server.allows("127.0.0.12", "any.test"), "{free}");
    assert_eq!(free["launch_parameters"], json!({}), "it has no policy");
    let open = server.new_blueprint(Some(&own), None);
    let none = create(&server, &json!({ "blueprint_id": open, "metadata": { "hostgate.address": "127.0.0.13" } }));
    assert_eq!(none["launch_parameters"], json!({}), "nor has it one");
    assert!(server.allows("127.0.0.13", "any.test"), "the build policy is not inherited");
    let by_name =
        create(&server, &json!({ "blueprint_name": "a blueprint", "metadata": { "hostgate.address": "127.0.0.14" } }));
    assert_eq!(by_name["blueprint_id"], json!(open), "the newest of that name");
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_bound() {
    let (server, _upstream) = server("");
    let refused = |body: Value, parts: &[&str]| server.api_post(DEVBOXES, &body).refused(400, parts);
    let at = |address: &str| json!({ "metadata": { "hostgate.address": address } });
    refused(json!({}), &["metadata[\"hostgate.address\"]: a devbox needs an address", "`devbox_pool` under [control]"]);
    refused(at("10.0.0.0/8"), &["`10.0.0.0/8` is no address"]);
    refused(at("127.0.0.1"), &["`127.0.0.1` is the address this request comes from", "could not use the API any more"]);
    refused(at("127.0.0.9"), &["`127.0.0.9` is the address of client `hand`", "hand.toml:1:9"]);
    refused(json!({ "blueprint_id": "bpt_1" }), &["blueprint_id: there is no blueprint `bpt_1`"]);
    refused(json!({ "blueprint_name": "x" }), &["blueprint_name: no blueprint `x` is build_complete"]);
    refused(
        json!({ "launch_parameters": { "network_policy_id": "npol_1" } }),
        &["there is no network policy `npol_1`"],
    );
    refused(json!({ "network_policy_id": "npol_1" }), &["network_policy_id: it would have no effect here"]);
    refused(
        json!({ "metadata": { "x": 1 }, "name": 7 }),
        &["name: it must be a string", "metadata.x: it must be a string"],
    );
    let devbox = id(&create(&server, &at("127.0.0.11")));
    refused(at("127.0.0.11"), &["`127.0.0.11` is the address of devbox", &devbox, "shut it down first"]);
    let path = format!("{DEVBOXES}/{devbox}");
    server.api_post(&path, &at("127.0.0.12")).refused(400, &["a devbox keeps its address"]);
    server.api_post(&path, &json!({ "launch_parameters": {} })).refused(400, &["launch_parameters: a devbox keeps it"]);
    server
        .api_post(&format!("{path}/suspend"), &Value::Null)
        .refused(404, &["`suspend` is not served: hostgate starts no containers"]);
    server.api_get(&format!("{DEVBOXES}/dbx_1")).refused(404, &["there is no devbox `dbx_1`"]);
    server
        .api_post(&format!("{DEVBOXES}/hand/shutdown"), &Value::Null)
        .refused(400, &["is written by hand in", "hand.toml:1:9"]);
    assert_eq!(server.api_get(DEVBOXES).done()["total_count"], 2);
}

#[test]
fn a_devbox_that_is_shut_down_is_denied_and_still_shown() {
    let (server, _upstream) = server("");
    let policy = server.new_policy(&["api.test"]);
    let blueprint = server.new_blueprint(None, Some(&policy));
    let devbox = server.new_devbox(&blueprint, "127.0.1.11");
    let path = format!("{DEVBOXES}/{devbox}");
    let changed = server.api_post(&path, &json!({ "name": "new", "metadata": { "x": "y" } })).done();
    assert_eq!(
        (&changed["name"], &changed["metadata"]),
        (&json!("new"), &json!({ "x": "y", "hostgate.address": "127.0.1.11" }))
    );
    assert_eq!(server.api_post(&path, &Value::Null).done(), changed, "nothing is to change");
    assert!(server.allows("127.0.1.11", "api.test"));
    assert_eq!(server.api_post(&path, &json!({ "name": "" })).done()["name"], Value::Null, "it is cleared");
    server.api_post(&path, &json!({ "name": "new" })).done();

    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let body = json!({ "statuses": ["shutdown", "failure"], "timeout_seconds": 25.5 });
            (server.api_post(&format!("{path}/wait_for_status"), &body).done(), Instant::now())
        });
        server.api_post(&format!("{path}/wait_for_status"), &json!({ "statuses": ["running"] })).done();
        let down = server.api_post(&format!("{path}/shutdown"), &Value::Null).done();
        let told = Instant::now();
        assert!(!server.allows("127.0.1.11", "api.test"), "{down}");
        let (view, woken) = waiting.join().unwrap();
        assert_eq!(view, down);
        woken.saturating_duration_since(told)
    });
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    let down = server.api_post(&format!("{path}/shutdown"), &json!({})).done();
    assert_eq!((&down["status"], &down["shutdown_reason"]), (&json!("shutdown"), &json!("api_shutdown")));
    assert_eq!((&down["blueprint_id"], &down["name"]), (&json!(blueprint), &json!("new")));
    assert_eq!(down["launch_parameters"]["network_policy_id"], json!(policy), "as it was");
    assert_eq!(down["state_transitions"][1]["status"], "shutdown");
    let noted = server.api_post(&path, &json!({ "metadata": { "x": "z" } })).done();
    assert_eq!(noted["metadata"], json!({ "x": "z", "hostgate.address": "127.0.1.11" }), "it had this address");
    let other = json!({ "metadata": { "hostgate.address": "127.0.1.12" } });
    server.api_post(&path, &other).refused(400, &["a devbox keeps its address"]);
    ask("api.test", RecordType::A).from("127.0.1.11").udp(&server).expect_denied();

    let begun = Instant::now();
    let body = json!({ "statuses": ["running"], "timeout_seconds": 0.3 });
    server.api_post(&format!("{path}/wait_for_status"), &body).refused(408, &["is shutdown after 0.3 s"]);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    server
        .api_post(&format!("{path}/wait_for_status"), &json!({ "statuses": ["dead"] }))
        .refused(400, &["statuses[0]"]);
    server.api_post(&format!("{DEVBOXES}/dbx_1/wait_for_status"), &body).refused(404, &["dbx_1"]);
    // What was used is free again.
    server.new_devbox(&blueprint, "127.0.1.11");
    assert!(server.allows("127.0.1.11", "api.test"));
    let list = |query: &str| server.api_get(&format!("{DEVBOXES}?{query}")).done()["total_count"].clone();
    assert_eq!((list("status=shutdown"), list("status=running"), list("name=NEW")), (json!(1), json!(2), json!(1)));
    let text = fs::read_to_string(server.policies(&format!("api/{devbox}.toml"))).unwrap();
    assert!(text.starts_with("# A devbox") && !text.contains("\n[client."), "{text}");
}

#[test]
fn a_person_may_take_a_devbox_away() {
    let (server, _upstream) = server("");
    let devbox = id(&create(&server, &json!({ "metadata": { "hostgate.address": "127.0.1.11" } })));
    let path = format!("{DEVBOXES}/{devbox}");
    thread::scope(|scope| {
        let body = json!({ "statuses": ["shutdown"], "timeout_seconds": 25 });
        let waiting = scope.spawn(|| server.api_post(&format!("{path}/wait_for_status"), &{ body }).done());
        let file = format!("api/{devbox}.toml");
        let text = fs::read_to_string(server.policies(&file)).unwrap();
        let (before, rest) = text.split_once("\n[client.").unwrap();
        let (_, after) = rest.split_once("\n[api.").unwrap();
        server.replace(&file, format!("{before}\n[api.{after}"));
        assert_eq!(waiting.join().unwrap()["status"], "shutdown");
    });
    assert!(!server.allows("127.0.1.11", "any.test"));
}

#[test]
fn a_pool_gives_each_devbox_an_address_of_its_own() {
    let (server, _upstream) = server("devbox_pool = \"127.0.2.0/29\"");
    let policy = server.new_policy(&["api.test"]);
    let body = json!({ "launch_parameters": { "network_policy_id": policy } });
    let address = |view: &Value| view["metadata"]["hostgate.address"].as_str().unwrap().to_owned();
    let mut made: Vec<(String, String)> = thread::scope(|scope| {
        let making: Vec<_> = (0..4).map(|_| scope.spawn(|| create(&server, &body))).collect();
        making.into_iter().map(|made| made.join().unwrap()).map(|view| (address(&view), id(&view))).collect()
    });
    made.sort();
    let addresses: Vec<_> = made.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(addresses, ["127.0.2.2", "127.0.2.3", "127.0.2.4", "127.0.2.5"]);
    server.api_post(&format!("{DEVBOXES}/{}/shutdown", made[0].1), &Value::Null).done();
    assert_eq!(address(&create(&server, &body)), "127.0.2.6", "a released one is not used again soon");
    assert_eq!(address(&create(&server, &body)), "127.0.2.2");
    server.api_post(DEVBOXES, &body).refused(400, &["devbox_pool: all addresses of 127.0.2.0/29 are in use"]);
    assert!(server.allows("127.0.2.6", "api.test") && !server.allows("127.0.2.6", "other.test"));
    assert!(!server.allows("127.0.2.7", "api.test"));
}

#[test]
fn one_request_that_comes_many_times_makes_one_devbox() {
    let (server, _upstream) = server("devbox_pool = \"127.0.2.0/24\"");
    let body = json!({ "name": "once" }).to_string();
    let create = || server.api("POST", DEVBOXES, "x-request-id: stainless-python-retry-1\r\n", &body).done();
    let views: Vec<Value> = thread::scope(|scope| {
        let making: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        making.into_iter().map(|made| made.join().unwrap()).collect()
    });
    assert!(views.iter().all(|view| view == &views[0]), "{views:?}");
    assert_eq!(server.api_get(&format!("{DEVBOXES}?name=once")).done()["total_count"], 1);
}

#[test]
fn no_devbox_gets_an_address_that_hostgate_is_served_at_nor_an_end_of_a_pool() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).file("hand.toml", "[policy.hand]\n");
    let server = setup.control("devbox_pool = \"127.0.0.0/29\"\nbuild_pool = \"127.0.6.0/29\"").start();
    let create = |address: &str| {
        server
            .api_post("/v1/devboxes", &serde_json::json!({ "name": "x", "metadata": { "hostgate.address": address } }))
    };
    for (address, why) in [
        ("::1", "an address that hostgate itself is served at"),
        ("127.0.0.0", "the network address of a pool"),
        ("127.0.6.0", "the network address of a pool"),
        ("127.0.6.1", "the gateway's address of a pool"),
        ("127.0.0.7", "the broadcast address of a pool"),
        ("127.0.6.7", "the broadcast address of a pool"),
    ] {
        create(address).refused(400, &["metadata[\"hostgate.address\"]: `", why, "use another"]);
    }
    let taken: Vec<_> = (0..5)
        .map(|_| {
            let devbox = server.api_post("/v1/devboxes", &serde_json::json!({ "name": "x" })).done();
            devbox["metadata"]["hostgate.address"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(taken, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]);
    server
        .api_post("/v1/devboxes", &serde_json::json!({ "name": "x" }))
        .refused(400, &["all addresses of 127.0.0.0/29"]);
    assert_eq!(server.api_get("/v1/devboxes").status, 200, "the API is not locked out");
}

#[test]
fn devbox_that_was_shut_down_is_forgotten_after_a_time_and_its_audit_record_stays() {
    let (server, _upstream) = server("audit = \"audit.jsonl\"\nforget_after = 1\n");
    let make = |address: &str| {
        let body = json!({ "name": "box", "metadata": { "hostgate.address": address } });
        id(&create(&server, &body))
    };
    let boxes: Vec<String> = (1..=5).map(|last| make(&format!("127.0.0.2{last}"))).collect();
    for devbox in &boxes[..4] {
        let view = server.api_post(&format!("{DEVBOXES}/{devbox}/shutdown"), &json!({})).done();
        assert_eq!(view["status"], "shutdown", "it can be shown for a while");
    }
    for devbox in &boxes[..4] {
        let file = server.policies(&format!("api/{devbox}.toml"));
        server.until("it is forgotten", || (!file.exists()).then_some(()));
        let is_gone = || server.api_get(&format!("{DEVBOXES}/{devbox}")).status == 404;
        server.until("it cannot be shown any more", || is_gone().then_some(()));
    }
    assert!(server.policies(&format!("api/{}.toml", boxes[4])).exists(), "one that runs is not");
    assert_eq!(server.api_get(&format!("{DEVBOXES}/{}", boxes[4])).done()["status"], "running");
    let audit = fs::read_to_string(server.directory().join("audit.jsonl")).unwrap();
    for devbox in &boxes[..4] {
        for change in ["devbox.create", "devbox.shutdown", "devbox.forget"] {
            let is_told = audit.lines().any(|line| line.contains(change) && line.contains(devbox.as_str()));
            assert!(is_told, "{change} of {devbox}: {audit}");
        }
    }
}
