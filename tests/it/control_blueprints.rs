//! Blueprints over the API: two policies, of the build and of the devboxes.

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
