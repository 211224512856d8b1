//! `hostgate policy`, `blueprint` and `devbox`: what is asked of the API, and what people and programs are told.

use std::fs;

use serde_json::{Value, json};

use crate::support::fake_api::{FakeApi, Requested, Said};
use crate::support::*;

/// The token that is sent.
const TOKEN: &str = "token-of-an-admin";

/// Runs a command against a scripted API with the token in the environment.
fn with(api: &FakeApi, arguments: &[&str]) -> Finished {
    let url = api.url();
    command::run_with(arguments.iter().copied().chain(["--url", &url]), &[("HOSTGATE_TOKEN", TOKEN)])
}

/// Runs a command against an API that says `answer` to everything; returns what it was asked, too.
fn asked(answer: Value, arguments: &[&str]) -> (Finished, Vec<Requested>) {
    let api = FakeApi::start(move |_, _| Said::yes(&answer));
    let finished = with(&api, arguments);
    (finished, api.requests())
}

#[test]
fn each_command_is_the_request_that_the_api_documents() {
    let cases: &[(&[&str], &str, Value)] = &[
        (
            &[
                "policy",
                "create",
                "--name",
                "n",
                "--description",
                "d",
                "--allow",
                "a.test",
                "--allow",
                "*.b.test",
                "--cidr",
                "10.0.0.0/8",
                "--devbox-to-devbox",
            ],
            "POST /v1/network-policies",
            json!({
                "name": "n", "description": "d", "allowed_hostnames": ["a.test", "*.b.test"],
                "allowed_cidrs": [{ "cidr": "10.0.0.0/8" }], "allow_devbox_to_devbox": true,
            }),
        ),
        (
            &["policy", "create", "--name", "n", "--allow-all"],
            "POST /v1/network-policies",
            json!({ "name": "n", "allow_all": true }),
        ),
        (&["policy", "show", "npol_1"], "GET /v1/network-policies/npol_1", Value::Null),
        (&["policy", "show", "../x"], "GET /v1/network-policies/..%2Fx", Value::Null),
        (&["policy", "delete", "npol_1"], "POST /v1/network-policies/npol_1/delete", json!({})),
        (
            &["blueprint", "create", "--name", "b", "--build-policy", "npol_1", "--runtime-policy", "npol_2"],
            "POST /v1/blueprints",
            json!({ "name": "b", "network_policy_id": "npol_1", "launch_parameters": { "network_policy_id": "npol_2" } }),
        ),
        (&["blueprint", "update", "bpt_1", "--name", "c"], "POST /v1/blueprints/bpt_1", json!({ "name": "c" })),
        (&["blueprint", "delete", "bpt_1"], "POST /v1/blueprints/bpt_1/delete", json!({})),
        (
            &[
                "devbox",
                "create",
                "--blueprint",
                "bpt_1",
                "--policy",
                "npol_3",
                "--address",
                "10.88.0.9",
                "--metadata",
                "a=b=c",
            ],
            "POST /v1/devboxes",
            json!({
                "blueprint_id": "bpt_1", "launch_parameters": { "network_policy_id": "npol_3" },
                "metadata": { "a": "b=c", "hostgate.address": "10.88.0.9" },
            }),
        ),
        (&["devbox", "create"], "POST /v1/devboxes", json!({})),
        (&["devbox", "delete", "dbx_1"], "POST /v1/devboxes/dbx_1/shutdown", json!({})),
    ];
    for (arguments, line, body) in cases {
        let (finished, requests) = asked(json!({ "id": "x_1" }), arguments);
        let finished = finished.expect_code(0);
        assert_eq!(requests.len(), 1, "{arguments:?}: {finished:#?}");
        assert_eq!((requests[0].line.as_str(), &requests[0].body), (*line, body), "{arguments:?}");
        assert_eq!(requests[0].header("authorization"), Some("Bearer token-of-an-admin"), "{arguments:?}");
        assert!(requests[0].header("x-request-id").is_some_and(|id| id.len() > 16), "{:?}", requests[0]);
    }
}

#[test]
fn create_prints_the_id_alone_and_json_the_whole_object() {
    let made = json!({ "id": "dbx_1", "status": "running", "metadata": { "hostgate.address": "10.88.0.2" } });
    let (finished, _) = asked(made.clone(), &["devbox", "create"]);
    assert_eq!(finished.stdout, "dbx_1\n");
    assert!(finished.stderr.contains("address 10.88.0.2"), "{finished:#?}");
    let (finished, _) = asked(made.clone(), &["devbox", "create", "--json"]);
    assert_eq!(finished.json(), made);
    let (finished, _) = asked(made, &["devbox", "show", "dbx_1"]);
    assert_eq!(finished.stdout, "dbx_1  status running  address 10.88.0.2\n");
    let (finished, _) = asked(json!({}), &["blueprint", "delete", "bpt_1"]);
    assert_eq!(finished.expect_code(0).stdout, "bpt_1 deleted\n");
}

#[test]
fn an_update_keeps_what_the_api_would_replace() {
    let api = FakeApi::start(|number, _| {
        let current = json!({
            "id": "bpt_1", "name": "b",
            "parameters": { "launch_parameters": { "launch_commands": ["npm install"], "network_policy_id": "npol_1" } },
        });
        if number == 0 { Said::yes(&current) } else { Said::yes(&json!({ "id": "bpt_1" })) }
    });
    with(&api, &["blueprint", "update", "bpt_1", "--runtime-policy", "npol_2"]).expect_code(0);
    let requests = api.requests();
    assert_eq!(requests[0].line, "GET /v1/blueprints/bpt_1");
    let launch = json!({ "launch_commands": ["npm install"], "network_policy_id": "npol_2" });
    assert_eq!(requests[1].body, json!({ "launch_parameters": launch }));
    with(&api, &["policy", "update", "npol_1"]).expect_code(64).expect_text(&["nothing to change"]);
    // One option takes several names, so the id goes first.
    run(["policy", "update", "--help"])
        .expect_code(0)
        .expect_text(&["policy update <ID|NAME> [OPTIONS]", "There is no --allow"]);
    with(&api, &["policy", "update", "npol_1", "--dry-run"]).expect_code(64).expect_text(&["nothing to change"]);
    for (former, instead) in [("--allow", ["--add HOST", "--set HOST"]), ("--cidr", ["--add-cidr", "--set-cidr"])] {
        let refused = with(&api, &["policy", "update", "npol_1", former, "a.test", "b.test"]);
        refused.expect_code(64).expect_text(&instead);
    }
    assert_eq!(api.requests().len(), 2);
}

#[test]
fn an_update_of_a_policy_names_the_revision_that_it_read() {
    let changed = || Said::Answer(412, "{\"message\":\"x\"}".to_owned());
    let api = FakeApi::start(move |number, request| match &*request.line {
        "POST /v1/network-policies/npol_1" if number < 9 => changed(),
        line if line.starts_with("GET /v1/devboxes") => Said::yes(&json!({ "devboxes": [], "total_count": 10 })),
        _ => Said::yes(&json!({
            "id": "npol_1", "hostgate_revision": format!("r{number}"), "name": "n",
            "egress": { "allowed_hostnames": ["a.test", format!("others-{number}.test")] },
        })),
    });
    let update = ["policy", "update", "npol_1", "--add", "b.test", "--allow-all=false", "--cidr-none"];
    with(&api, &update).expect_code(0).expect_text(&["reaches 10 running devboxes"]);
    let requests = api.requests();
    let lines: Vec<&str> = requests.iter().map(|request| &*request.line).collect();
    let reach = "GET /v1/devboxes?status=running&network_policy_id=npol_1&limit=1";
    let once = ["GET /v1/network-policies/npol_1", reach, "POST /v1/network-policies/npol_1"];
    assert_eq!(lines, once.repeat(4), "three times somebody else is faster");
    let names = json!(["a.test", "others-9.test", "b.test"]);
    let body = json!({ "allowed_hostnames": names, "allow_all": false, "hostgate_revision": "r9" });
    assert_eq!(requests[11].body, body);
    assert_ne!(requests[8].header("x-request-id"), requests[11].header("x-request-id"), "each is another change");

    let busy = FakeApi::start(move |_, request| {
        let policy = json!({ "id": "npol_1", "hostgate_revision": "r", "egress": {} });
        if request.line.starts_with("POST") { changed() } else { Said::yes(&policy) }
    });
    with(&busy, &update).expect_code(1).expect_text(&["`npol_1` was changed by others 64 times", "try again"]);
    assert_eq!(busy.requests().len(), 192);
}

#[test]
fn list_follows_pages_up_to_its_limit() {
    let policies: Vec<Value> =
        (0..1203).map(|n| json!({ "id": format!("npol_{n:04}"), "name": "n", "egress": {} })).collect();
    let api = FakeApi::start(move |_, request| {
        let parameter =
            |key: &str| request.line.split(['?', '&']).find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        let start = parameter("starting_after").map_or(0, |id| id["npol_".len()..].parse::<usize>().unwrap() + 1);
        let end = (start + parameter("limit").unwrap().parse::<usize>().unwrap()).min(policies.len());
        Said::yes(&json!({ "network_policies": policies[start..end], "has_more": end < policies.len() }))
    });
    let finished = with(&api, &["policy", "list", "--limit", "5000", "--name", "n x"]).expect_code(0);
    assert_eq!(finished.stdout.lines().count(), 1203);
    assert_eq!(finished.stdout.lines().last(), Some("npol_1202  \"n\"  denies everything"));
    assert_eq!(finished.stderr.lines().count(), 1, "whose list it is, and no more: {}", finished.stderr);
    let requests = api.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.line.contains("&name=n%20x")), "{requests:?}");
    let finished = with(&api, &["policy", "list", "--limit", "7", "--json"]).expect_code(0).json();
    assert_eq!((finished["network_policies"].as_array().unwrap().len(), &finished["has_more"]), (7, &true.into()));
    let finished = with(&api, &["policy", "list", "--limit", "7"]).expect_code(0);
    assert!(finished.stderr.contains("--limit 7"), "{}", finished.stderr);
}

#[test]
fn a_broken_connection_is_tried_once_more_with_the_same_id() {
    let api =
        FakeApi::start(|number, _| if number == 1 { Said::yes(&json!({ "id": "npol_1" })) } else { Said::Nothing });
    assert_eq!(with(&api, &["policy", "create", "--name", "n"]).expect_code(0).stdout, "npol_1\n");
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("x-request-id"), requests[1].header("x-request-id"));
    assert_eq!(requests[0].body, requests[1].body);

    let api = FakeApi::start(|_, _| Said::Nothing);
    with(&api, &["policy", "create", "--name", "n"])
        .expect_code(1)
        .expect_text(&["the connection broke", "whether it is done"]);
    let finished = with(&api, &["policy", "show", "npol_1"]).expect_code(1);
    assert!(!finished.stderr.contains("whether it is done"), "{finished:#?}");
    with(&api, &["policy", "create", "--name", "n"]).expect_code(1);
    let requests = api.requests();
    assert_eq!(requests.len(), 6, "twice each");
    assert_ne!(requests[0].header("x-request-id"), requests[4].header("x-request-id"), "two calls are two");
}

#[test]
fn refusals_say_what_the_api_says_and_what_to_do() {
    const CASES: &[(u16, &str, &[&str])] = &[
        (400, "{\"message\":\"network policy `npol_1` is in use by dbx_1\"}", &["is in use by dbx_1"]),
        (401, "{\"message\":\"no such token\"}", &["no such token", "--token-file"]),
        (404, "{\"message\":\"not \\u001b[2Jfound\"}", &["not \\u{1b}[2Jfound"]),
        (503, "{\"message\":\"busy\"}", &["busy (try again)"]),
        (200, "<html>", &["status 200", "not one of hostgate's API"]),
        (502, "{}", &["status 502", "not one of hostgate's API"]),
    ];
    for (status, body, parts) in CASES {
        let api = FakeApi::start(|_, _| Said::Answer(*status, (*body).to_owned()));
        let finished = with(&api, &["policy", "delete", "npol_1"]).expect_code(1).expect_text(parts);
        assert!(finished.stdout.is_empty() && finished.stderr.starts_with("hostgate: policy: http://127.0.0.1:"));
    }
    let long = FakeApi::start(|_, _| Said::Answer(200, " ".repeat((16 << 20) + 1)));
    with(&long, &["policy", "list"]).expect_code(1).expect_text(&["longer than 16777216 octets"]);
    let token = [("HOSTGATE_TOKEN", TOKEN)];
    command::run_with(["policy", "list", "--url", "http://127.0.0.1:1"], &token)
        .expect_code(1)
        .expect_text(&["is hostgate running", "[control]"]);
    command::run_with(["policy", "list", "--url", "127.0.0.1:1"], &token).expect_code(64).expect_text(&["unix:PATH"]);
    command::run_with(["policy", "list", "--url", "https://127.0.0.1:1"], &token)
        .expect_code(64)
        .expect_text(&["--ca FILE"]);
}

#[test]
fn place_and_token_come_from_the_line_else_the_environment_else_the_configuration() {
    let api = FakeApi::start(|_, _| Said::yes(&json!({ "network_policies": [], "has_more": false })));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("tokens"), "viewer only-reads-things\nadmin from-the-configuration\n").unwrap();
    fs::write(path("own"), "from-the-line\n").unwrap();
    fs::write(path("hashed"), "sha256:00\n").unwrap();
    let control = format!("[control]\nlisten = \"{}\"\ntoken_file = \"tokens\"\n", api.address);
    fs::write(path("with.toml"), control).unwrap();
    fs::write(path("without.toml"), "denied_ttl = 5\n").unwrap();
    let (with, without, own, hashed) = (path("with.toml"), path("without.toml"), path("own"), path("hashed"));
    let environment = [("HOSTGATE_TOKEN", "from-the-environment")];
    let last = || api.requests().last().and_then(|request| request.header("authorization").map(str::to_owned));
    let list = ["policy", "list", "--config"];

    command::run_with(list.into_iter().chain([&*with]), &[]).expect_code(0);
    assert_eq!(last().as_deref(), Some("Bearer from-the-configuration"));
    command::run_with(["--config", &with, "policy", "list"], &environment).expect_code(0);
    assert_eq!(last().as_deref(), Some("Bearer from-the-environment"));
    command::run_with(list.into_iter().chain([&*with, "--token-file", &own]), &environment).expect_code(0);
    assert_eq!(last().as_deref(), Some("Bearer from-the-line"));
    command::run_with(["policy", "list", "--token-file", &own, "--url", &api.url()], &[]).expect_code(0);

    let count = api.requests().len();
    let refused = |more: &[&str], code: i32, parts: &[&str]| {
        command::run_with(["policy", "list"].iter().chain(more), &[]).expect_code(code).expect_text(parts);
    };
    refused(&["--config", &without], 78, &["without.toml: the table [control] is missing"]);
    refused(&[], 78, &["there is no configuration file here", "--config FILE"]);
    refused(&["--url", &api.url()], 64, &["no token", "--token-file FILE", "HOSTGATE_TOKEN"]);
    refused(&["--config", &with, "--token-file", &hashed], 78, &["hashed: it has only hashes of tokens"]);
    refused(&["--config", &with, "--token-file", "/no/such/file"], 78, &["/no/such/file: "]);
    refused(&["--config", "/no/such/file"], 78, &["/no/such/file"]);
    refused(&["--limit", "0"], 64, &["--limit"]);
    assert_eq!(api.requests().len(), count);
}
