//! Nobody is unrestricted unless the operator said so.

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// A policy to be the default, and a blueprint that names none.
const FILE: &str = "[policy.fallback]\nallowed_hostnames = ['fallback.test']\n[blueprint.bare]\n\
                    [client.hand]\nsources = ['127.0.0.9']\nblueprint = 'bare'\n";

/// Starts with these lines at the top of hostgate.toml.
fn start(upstream: &FakeUpstream, top: &str) -> Server {
    Setup::new(&[upstream]).top(top).file("hand.toml", FILE).control("devbox_pool = '127.88.0.0/16'").start()
}

/// Creates a devbox without any field that names a policy; returns its view.
fn devbox(server: &Server, address: &str) -> Value {
    server.api_post("/v1/devboxes", &json!({ "metadata": { "hostgate.address": address } })).done()
}

/// Runs a command of the command line against the server's files.
fn command(server: &Server, arguments: &[&str]) -> Finished {
    let configuration = server.directory().join("hostgate.toml").display().to_string();
    run(arguments.iter().copied().chain(["--config", &configuration]))
}

#[test]
fn without_a_policy_everything_is_denied_and_said_so() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "# nothing");
    let view = devbox(&server, "127.0.0.12");
    for source in ["127.0.0.9", "127.0.0.12"] {
        let heard = ask("any.test", RecordType::A).from(source).udp(&server);
        assert!(heard.addresses().is_empty(), "{source}");
        let why = command(&server, &["explain", "any.test", "--client", source]).expect_code(1);
        why.expect_text(&["neither the client nor its blueprint names a policy", "`without_policy` of hostgate.toml"]);
    }
    assert!(upstream.seen().is_empty(), "nothing of it leaves");
    assert_eq!(view["hostgate_policy"]["id"], Value::Null);
    assert!(view["hostgate_policy"]["reason"].as_str().unwrap().contains("without_policy"), "{view}");
    let without = server.until("the devbox in the status", || {
        Some(server.status()["without_policy"].clone()).filter(|without| without["count"] == 2)
    });
    assert_eq!((&without["policy"], &without["clients"]), (&json!("none"), &json!([id(&view), "hand"])));
    server
        .wait_log(&["WARN", "blueprint `bare` has no `runtime_policy`, so its runtime clients are denied everything"]);
    let listed = run(["devbox", "list", "--url", &format!("http://{}", server.control()), "--token-file"]
        .map(str::to_owned)
        .into_iter()
        .chain([server.directory().join("token").display().to_string()]));
    listed.expect_code(0).expect_text(&[&id(&view), "denied everything (it has no policy and no blueprint"]);
    let admin = server.admin().to_string();
    run(["status", "--admin", &admin]).expect_text(&["clients without a policy 2, denied everything: "]);
}

#[test]
fn default_policy_applies_where_none_is_named_and_follows_its_changes() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "default_policy = 'fallback'\nwithout_policy = 'unrestricted'");
    let view = devbox(&server, "127.0.0.12");
    assert_eq!(view["hostgate_policy"]["id"], "fallback");
    for source in ["127.0.0.9", "127.0.0.12"] {
        assert!(server.allows(source, "fallback.test") && !server.allows(source, "any.test"), "{source}");
    }
    let told = "blueprint `bare` has no `runtime_policy`, so its runtime clients are under default_policy `fallback`";
    server.wait_log(&["INFO", told, "without_policy"]);
    assert_eq!(server.log_lines(&["under default_policy"]).len(), 1, "{}", server.log());
    let policies = server.policies("").display().to_string();
    command(&server, &["check", "--strict", &policies]).expect_code(0).expect_text(&[
        "note: ",
        told,
        "`default_policy`",
    ]);
    server.write("hand.toml", FILE.replace("fallback.test", "changed.test"));
    server.until("the change", || server.allows("127.0.0.12", "changed.test").then_some(()));
    assert!(!server.allows("127.0.0.9", "fallback.test"));
}

#[test]
fn without_policy_is_taken_by_a_reload_in_both_directions() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "# nothing");
    devbox(&server, "127.0.0.12");
    let allowed = |expected: bool| {
        for source in ["127.0.0.9", "127.0.0.12"] {
            server.until(&format!("{source} {expected}"), || {
                (server.allows(source, "any.test") == expected).then_some(())
            });
        }
    };
    allowed(false);
    server.reconfigure("# nothing", "without_policy = 'unrestricted'");
    allowed(true);
    assert_eq!(server.status()["without_policy"]["policy"], "unrestricted");
    server.reconfigure("without_policy = 'unrestricted'", "default_policy = 'fallback'");
    allowed(false);
    assert!(server.allows("127.0.0.12", "fallback.test"));
    server.reconfigure("default_policy = 'fallback'", "without_policy = 'deny'");
    server.until("denied", || (!server.allows("127.0.0.12", "fallback.test")).then_some(()));
    server.reconfigure("'deny'", "'open'");
    assert!(server.wait_error().contains("`without_policy` cannot be `open`"));
    assert!(server.log_lines(&["takes a restart"]).is_empty(), "{}", server.log());
}

#[test]
fn slips_of_fields_that_restrict_are_refused_and_other_unknown_fields_kept() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "# nothing");
    let policy = server.new_policy(&["a.test"]);
    let blueprint = server.new_blueprint(None, Some(&policy));
    let box_path =
        format!("/v1/devboxes/{}", id(&server.api_post("/v1/devboxes", &json!({ "blueprint_id": blueprint })).done()));
    for (key, meant) in [
        ("networkPolicyId", "launch_parameters.network_policy_id"),
        ("network_policy", "launch_parameters.network_policy_id"),
        ("NetworkPolicyID", "launch_parameters.network_policy_id"),
        ("network-policy-id", "launch_parameters.network_policy_id"),
        ("netwrok_policy_id", "launch_parameters.network_policy_id"),
        ("networkpolicyid", "launch_parameters.network_policy_id"),
        ("policyId", "launch_parameters.network_policy_id"),
        ("launchParameters", "launch_parameters"),
        ("launch_parameter", "launch_parameters"),
        ("LAUNCH_PARAMETERS", "launch_parameters"),
        ("lauch_paramters", "launch_parameters"),
        ("blueprint", "blueprint_id"),
        ("blueprintId", "blueprint_id"),
        ("bluprint_id", "blueprint_id"),
        ("blueprintName", "blueprint_name"),
    ] {
        for path in ["/v1/devboxes", "/v1/devboxes/create_and_await_running", &box_path] {
            let expected = format!("write `{meant}`");
            server.api_post(path, &json!({ key: policy })).refused(400, &[key, &expected]);
        }
    }
    for key in ["networkPolicyId", "network_policy", "networkPolicy", "policy_id"] {
        let body = json!({ "name": "x", "launch_parameters": { key: policy } });
        for path in ["/v1/devboxes", "/v1/blueprints"] {
            let expected = format!("launch_parameters.{key}: it is not known");
            server.api_post(path, &body).refused(400, &[&expected, "`launch_parameters.network_policy_id`"]);
        }
    }
    for key in ["networkPolicyId", "build_policy", "runtimePolicy", "launchParameters"] {
        let path = format!("/v1/blueprints/{blueprint}");
        server.api_post("/v1/blueprints", &json!({ "name": "x", key: policy })).refused(400, &[key]);
        server.api_post(&path, &json!({ key: policy })).refused(400, &[key]);
    }
    for key in ["allowedHostnames", "allowed_hosts", "allow_hostnames", "deniedHostnames", "allowedCidrs", "allowAll"] {
        let path = format!("/v1/network-policies/{policy}");
        server.api_post("/v1/network-policies", &json!({ "name": "x", key: [] })).refused(400, &[key]);
        server.api_post(&path, &json!({ key: [] })).refused(400, &[key]);
    }
    // What Runloop's SDKs send besides is no slip.
    let fields = json!({
        "blueprint_id": blueprint, "code_mounts": [], "entrypoint": "x", "environment_variables": {}, "file_mounts": {},
        "mounts": [], "name": "x", "repo_connection_id": "r", "secrets": {}, "snapshot_id": "s", "tunnel": {}, "mcp": {},
        "gateways": {}, "prebuilt": "p", "launch_parameters": {
            "after_idle": {}, "architecture": "arm64", "available_ports": [1], "custom_cpu_cores": 1, "custom_disk_size": 2,
            "custom_gb_memory": 2, "keep_alive_time_seconds": 60, "launch_commands": [], "required_services": [],
            "resource_size_request": "SMALL", "user_parameters": {}, "lifecycle": {},
        },
    });
    server.api_post("/v1/devboxes", &fields).done();
    let fields = json!({
        "name": "x", "base_blueprint_id": null, "base_blueprint_name": "b", "build_args": {}, "build_context": {},
        "code_mounts": [], "dockerfile": "FROM x", "file_mounts": {}, "metadata": {}, "secrets": {}, "services": [],
        "system_setup_commands": [],
    });
    server.api_post("/v1/blueprints", &fields).done();
}
