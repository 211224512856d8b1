//! The command line: what a person or a program reads.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{api, command, *};

/// A policy directory with a bit of everything.
const POLICIES: &str = r#"[policy.build]
name = "build-policy"
description = "what npm builds need"
allowed_hostnames = ["github.com", "*.npmjs.org", "npmjs.org"]
include = ["base"]
message = "ask the platform team"

[policy.base]
allowed_hostnames = ["base.test"]
denied_hostnames = ["bad.npmjs.org"]
private_answers = ["base.test"]

[policy.audited]
mode = "audit"
allowed_hostnames = ["seen.test"]

[blueprint.agent]
build_policy = "build"
runtime_policy = "audited"

[client.ci]
sources = ["127.30.0.0/16"]
blueprint = "agent"
phase = "build"

[client.devbox]
sources = ["127.30.0.7"]
blueprint = "agent"

[client.free]
sources = ["127.31.0.1"]
policy = "unrestricted"
"#;

/// Returns a directory that holds these policies as `p.toml`.
fn policies(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.toml"), text).unwrap();
    directory
}

/// Runs a command with the directory put in for `@`.
fn with(directory: &Path, arguments: &[&str]) -> Finished {
    run(arguments.iter().map(|&argument| if argument == "@" { directory.to_str().unwrap() } else { argument }))
}

#[test]
fn check_is_silent_about_errors_when_there_are_none() {
    let directory = policies(POLICIES);
    with(directory.path(), &["check", "@"]).expect_code(0);
    let json = with(directory.path(), &["check", "@", "--json"]).expect_code(0).json();
    assert!(json.is_object() || json.is_array(), "{json}");
}

#[test]
fn check_shows_all_errors_like_rustc() {
    let directory =
        policies("[policy.p]\nallowed_hostnames = [\n  \"*\",\n  \"ok.test\",\n  \"a b\",\n]\nmod = \"audit\"\n");
    let finished = with(directory.path(), &["check", "@"]).expect_code(78);
    let text = format!("{}{}", finished.stdout, finished.stderr);
    for part in ["p.toml:3:3", "p.toml:5:3", "p.toml:7:1", "^", "\"a b\"", "help", "mode", "allow_all"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colour off a terminal");

    let finished = with(directory.path(), &["check", "@", "--json"]);
    let json = finished.expect_code(78).json();
    let diagnostics = json.as_array().or_else(|| json["diagnostics"].as_array()).expect("a list of diagnostics");
    assert_eq!(diagnostics.len(), 3, "{json}");
    assert!(diagnostics[0]["path"].as_str().unwrap().ends_with("p.toml"), "{json}");
    assert_eq!((&diagnostics[0]["line"], &diagnostics[0]["column"]), (&3.into(), &3.into()), "{json}");
    assert_eq!(diagnostics[0]["severity"], "error", "{json}");
    assert!(diagnostics[0]["message"].is_string() && diagnostics[0]["help"].is_string(), "{json}");
}

#[test]
fn check_warns_and_strict_refuses() {
    let directory = policies(
        "[policy.unused]\nallowed_hostnames = [\"*.a.test\", \"a.test\", \"A.test\", \"x.a.test\", \"*.b.test\"]\ndenied_hostnames = [\"*.c.test\"]\n",
    );
    let finished = with(directory.path(), &["check", "@"]).expect_code(0);
    let text = format!("{}{}", finished.stdout, finished.stderr);
    // A duplicate, a covered entry, a denied `*.x` without `x`, a policy nothing refers to; nothing of an allowed `*.x`.
    for part in ["p.toml:2:44", "p.toml:2:54", "p.toml:3:21", "unused", "warning"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains("p.toml:2:66"), "{text}");
    with(directory.path(), &["check", "@", "--strict"]).expect_code(1);
}

#[test]
fn check_runs_the_tests_of_the_files() {
    let good = "[[test]]\nclient = \"ci\"\nname = \"www.npmjs.org\"\nexpect = \"allow\"\n[[test]]\nclient = \"ci\"\nname = \"bad.npmjs.org\"\nexpect = \"deny\"\n";
    let directory = policies(&format!("{POLICIES}{good}"));
    with(directory.path(), &["check", "@"]).expect_code(0);
    let bad = "[[test]]\nclient = \"ci\"\nname = \"evil.test\"\nexpect = \"allow\"\n";
    let directory = policies(&format!("{POLICIES}{bad}"));
    with(directory.path(), &["check", "@"]).expect_code(78).expect_text(&["p.toml:3", "evil.test"]);
    for (test, place) in [
        ("[[test]]\nclient = \"nope\"\nname = \"a.test\"\nexpect = \"deny\"\n", "p.toml:34:10"),
        ("[[test]]\nclient = \"ci\"\nname = \"a.test\"\nexpect = \"maybe\"\n", "p.toml:36:10"),
        ("[[test]]\nclient = \"ci\"\nname = \"a..test\"\nexpect = \"deny\"\n", "p.toml:35:8"),
    ] {
        let directory = policies(&format!("{POLICIES}{test}"));
        with(directory.path(), &["check", "@"]).expect_code(78).expect_text(&[place]);
    }
}

#[test]
fn check_of_a_missing_directory_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    with(&missing, &["check", "@"]).expect_code(78).expect_text(&["missing"]);
}

#[test]
fn explain_says_why() {
    let directory = policies(POLICIES);
    let explain =
        |name: &str, client: &str| with(directory.path(), &["explain", name, "--client", client, "--policies", "@"]);
    explain("www.npmjs.org", "127.30.0.1").expect_code(0).expect_text(&["*.npmjs.org", "p.toml:4", "build", "ci"]);
    explain("bad.npmjs.org", "127.30.0.1").expect_code(1).expect_text(&["bad.npmjs.org", "p.toml:10", "build"]);
    explain("other.test", "127.30.0.1").expect_code(1).expect_text(&["build", "ask the platform team"]);
    explain("other.test", "127.30.0.7").expect_code(0).expect_text(&["audit"]);
    explain("other.test", "127.31.0.1").expect_code(0).expect_text(&["unrestricted"]);
    explain("other.test", "192.0.2.1").expect_code(1).expect_text(&["192.0.2.1"]);
    explain("mask.icloud.com", "127.31.0.1").expect_code(1);
    explain("GitHub.com.", "::ffff:127.30.0.1").expect_code(0);

    let json = |name: &str, client: &str, qtype: &str| {
        let arguments = ["explain", name, "--client", client, "--type", qtype, "--policies", "@", "--json"];
        with(directory.path(), &arguments).json()
    };
    let allowed = json("www.npmjs.org", "127.30.0.1", "AAAA");
    for (field, value) in [("action", "allow"), ("policy", "build"), ("client", "ci"), ("rule", "*.npmjs.org")] {
        assert_eq!(allowed[field], value, "{field}: {allowed}");
    }
    assert!(allowed["place"].as_str().unwrap().contains("p.toml:4"), "{allowed}");
    assert!(allowed["reason"].is_string(), "{allowed}");
    assert_eq!(json("bad.npmjs.org", "127.30.0.1", "A")["action"], "deny");
    assert_eq!(json("github.com", "127.30.0.1", "NULL")["action"], "nodata");
    assert_eq!(json("x.test", "127.30.0.7", "A")["audited"], true);

    // What needs no entry: what validators ask about, and names of the host itself; and what takes one.
    for (name, client, qtype, action, reason) in [
        ("org", "127.30.0.1", "DS", "allow", "dnssec-chain"),
        (".", "127.30.0.1", "DNSKEY", "allow", "dnssec-chain"),
        ("org", "127.30.0.1", "A", "deny", "not-listed"),
        ("example", "127.30.0.1", "DS", "deny", "not-listed"),
        ("localhost", "127.30.0.1", "A", "allow", "special-use"),
        ("localhost", "127.30.0.1", "MX", "nodata", "special-use"),
        ("x.onion", "127.31.0.1", "A", "deny", "special-use"),
        ("1.0.0.10.in-addr.arpa", "127.30.0.7", "PTR", "deny", "special-use"),
    ] {
        let said = json(name, client, qtype);
        assert_eq!((said["action"].as_str(), said["reason"].as_str()), (Some(action), Some(reason)), "{said}");
    }
    assert_eq!(json("a.localhost", "127.31.0.1", "AAAA")["answer"][0], "::1");
    explain("localhost", "127.30.0.1").expect_code(0).expect_text(&["answer  127.0.0.1", "the host itself"]);
    explain("x.local", "127.31.0.1").expect_code(1).expect_text(&["for local use", "unless an entry names it"]);
}

#[test]
fn explain_agrees_with_the_server() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("p.toml", POLICIES).top("default_policy = \"base\"").start();
    let configuration = server.directory().join("hostgate.toml");
    let deep = format!("{}npmjs.org", "d.".repeat(11));
    for name in [
        "github.com",
        "x.npmjs.org",
        "bad.npmjs.org",
        "base.test",
        "evil.test",
        "mask.icloud.com",
        "localhost",
        "x.local",
        "home.arpa",
        &deep,
    ] {
        for client in ["127.30.0.1", "127.30.0.7", "127.31.0.1", "127.77.0.1"] {
            let arguments = ["explain", name, "--client", client, "--config", "@"];
            let said = with(&configuration, &arguments).code == Some(0);
            let heard = ask(name, RecordType::A).from(client).udp(&server);
            assert_eq!(said, heard.rcode() == ResponseCode::NoError, "{name} for {client}: {heard:#?}");
        }
    }
    let arguments = ["explain", &deep, "--client", "127.30.0.1", "--config", "@"];
    with(&configuration, &arguments).expect_text(&["denied", "budget  *.npmjs.org: { names = 64", "budget.deepest"]);
    let json = with(&configuration, &[&arguments[..], &["--json"]].concat()).json();
    assert_eq!((&json["reason"], &json["budget"]["exceeded"]), (&"budget".into(), &"deepest".into()), "{json}");
    let why = with(&configuration, &["explain", "evil.test", "--client", "127.30.0.1", "--config", "@"]).stdout;
    let ede = ask("evil.test", RecordType::A).from("127.30.0.1").udp(&server).edes();
    assert!(ede[0].1.contains("build") && why.contains("build"), "{ede:?}: {why}");
}

#[test]
fn show_expands_includes_with_their_origin() {
    let directory = policies(POLICIES);
    with(directory.path(), &["show", "--policies", "@"]).expect_code(0).expect_text(&["build", "base", "audited"]);
    with(directory.path(), &["show", "build", "--policies", "@"]).expect_code(0).expect_text(&[
        "*.npmjs.org",
        "base.test",
        "bad.npmjs.org",
        "p.toml:4",
        "p.toml:9",
        "p.toml:10",
        "base",
        "ask the platform team",
    ]);
    with(directory.path(), &["show", "--client", "127.30.0.1", "--policies", "@"]).expect_code(0).expect_text(&[
        "ci",
        "build",
        "*.npmjs.org",
    ]);
    let json = with(directory.path(), &["show", "build", "--policies", "@", "--json"]).expect_code(0).json();
    assert!(json.to_string().contains("*.npmjs.org") && json.to_string().contains("base.test"), "{json}");
    let unknown = with(directory.path(), &["show", "bild", "--policies", "@"]);
    assert!(unknown.code.is_some_and(|code| code != 0), "{unknown:#?}");
    unknown.expect_text(&["bild", "build"]);
}

#[test]
fn show_knows_presets() {
    let directory =
        policies("[policy.p]\ninclude = [\"preset:npm\"]\n[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n");
    with(directory.path(), &["show", "p", "--policies", "@"]).expect_code(0).expect_text(&["npmjs.org", "preset:npm"]);
}

#[test]
fn status_asks_the_running_server() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("p.toml", POLICIES).start();
    let admin = server.admin().to_string();
    run(["status", "--admin", &admin]).expect_code(0).expect_text(&["generation", "1"]);
    let json = run(["status", "--admin", &admin, "--json"]).expect_code(0).json();
    assert_eq!(json["generation"], 1, "{json}");
    assert_eq!(json["policies"], 3, "{json}");
    server.write("p.toml", "[policy.p]\nmode = 1\n");
    server.wait_error();
    run(["status", "--admin", &admin]).expect_text(&["p.toml:2:8"]);
    drop(server);
    let finished = run(["status", "--admin", &admin]).expect_code(1);
    assert!(finished.stderr.contains(&admin), "{finished:#?}");
}

#[test]
fn help_has_an_example_each() {
    let finished = run(["--help"]).expect_code(0);
    for command in ["serve", "check", "explain", "show", "status", "completions"] {
        assert!(finished.stdout.contains(command), "{command}: {finished:#?}");
        let help = run([command, "--help"]).expect_code(0);
        assert!(help.stdout.contains(&format!("hostgate {command}")), "{command}: an example: {help:#?}");
        assert!(help.stdout.to_lowercase().contains("example"), "{command}: {help:#?}");
    }
    run(["--version"]).expect_code(0).expect_text(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn completions_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = run(["completions", shell]).expect_code(0);
        assert!(finished.stdout.contains("explain"), "{shell}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]").control("allow_clients = true").start();
    server.keep_addresses();
    // The exit code of `status` says it, too.
    server.wait_out_of_date("restart");
    let [directory, admin] = [server.directory().display().to_string(), server.admin().to_string()];
    let list = server.directory().join("names.txt");
    fs::write(&list, "a.example\n").unwrap();
    let config = format!("--config {directory}/hostgate.toml");
    for arguments in [
        format!("status --admin {admin}"),
        format!("status --json --admin {admin}"),
        format!("check {config}"),
        format!("check --json {config}"),
        format!("check --start {config}"),
        format!("check --start --json {config}"),
        format!("explain a.test --client 192.0.2.7 {config}"),
        format!("show {config}"),
        "show presets".to_owned(),
        format!("import --deny --to toml {}", list.display()),
        format!("policy list {config}"),
        "completions bash".to_owned(),
        "--help".to_owned(),
        "--version".to_owned(),
    ] {
        let shell = |script: String| {
            let mut shell = std::process::Command::new("bash");
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_hostgate")]).current_dir(server.directory());
            command::finish(shell.env("HOSTGATE_TOKEN", api::TOKEN))
        };
        let finished = shell(format!("exec \"$0\" {arguments} >/dev/full")).expect_code(1);
        assert!(finished.stderr.contains("the output cannot be written: "), "{arguments}: {finished:#?}");
        // A reader that has enough is none.
        let plain = shell(format!("exec \"$0\" {arguments}")).code.unwrap();
        let finished = shell(format!("(\"$0\" {arguments}; echo $? >code) | head -c 1 >/dev/null; cat code"));
        assert!(
            finished.stdout == format!("{plain}\n") && !finished.stderr.contains("cannot be written"),
            "{arguments}: {finished:#?}, and {plain} without head; {}",
            server.status()
        );
    }
    // What is wrong is an answer, too.
    let bad = policies("[policy.bad");
    let script = format!("exec \"$0\" check {} 2>/dev/full", bad.path().display());
    let mut shell = std::process::Command::new("bash");
    command::finish(shell.args(["-c", &script, env!("CARGO_BIN_EXE_hostgate")])).expect_code(78);
}

#[test]
fn closed_pipe_is_no_panic() {
    let directory = policies(POLICIES);
    let binary = env!("CARGO_BIN_EXE_hostgate");
    let script =
        format!("'{binary}' show build --policies '{}' | true; '{binary}' --help | true", directory.path().display());
    let finished = command::finish(std::process::Command::new("bash").args(["-c", &script]));
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
}
