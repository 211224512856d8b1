//! What a command works on: which files it finds, that it says so, and clients and policies by their names.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{command, *};

/// Two policies of which one has a name, and clients of which two are devboxes of the API with names.
const POLICIES: &str = "[policy.build]\nname = \"build tools\"\nallowed_hostnames = [\"a.test\"]\n\
                        [policy.other]\nname = \"twice\"\n[policy.third]\nname = \"twice\"\n[policy.fourth]\nname = \"build\"\n\
                        [client.ci]\nsources = [\"127.30.0.0/16\", \"127.31.0.1\"]\npolicy = \"build\"\n\
                        [client.dbx_1]\nsources = [\"127.30.0.7\"]\npolicy = \"other\"\n[api.dbx_1]\nname = \"web\"\n\
                        [client.dbx_2]\nsources = [\"127.30.0.8\"]\npolicy = \"build\"\n[api.dbx_2]\nname = \"cli\"\n\
                        [client.dbx_3]\nsources = [\"127.30.0.9\"]\npolicy = \"third\"\n[api.dbx_3]\nname = \"web\"\n";

/// Returns a directory with a policies directory and nothing else.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("policies")).unwrap();
    fs::write(directory.path().join("policies/p.toml"), POLICIES).unwrap();
    directory
}

/// Runs a command in a directory.
fn at(directory: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
    command::finish(command.args(arguments).current_dir(directory).env_remove("HOSTGATE_TOKEN"))
}

/// Runs a command in a directory on a machine whose `/etc/hostgate` is `system`; `None` where no namespace can be had.
fn on_machine(system: &Path, directory: &Path, arguments: &str) -> Option<Finished> {
    // As root there may be namespaces where there are no user namespaces.
    let flags = ["-m", "-rm"].into_iter().find(|flags| {
        let tried = Command::new("unshare").args([flags, "true"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    })?;
    let (etc, here) = (system.display(), directory.display());
    let script = format!(
        "mount -t tmpfs none /etc && mkdir /etc/hostgate && mount --bind {etc} /etc/hostgate && cd {here} && exec \"$0\" {arguments}"
    );
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-c", &script, env!("CARGO_BIN_EXE_hostgate")]).env_remove("HOSTGATE_TOKEN");
    Some(command::finish(&mut command))
}

#[test]
fn commands_say_which_files_or_server_they_speak_of_but_not_to_programs() {
    let here = directory();
    let said = |arguments: &[&str]| {
        let finished = at(here.path(), arguments);
        let first = finished.stderr.lines().next().unwrap_or_default().to_owned();
        assert!(!finished.stdout.contains("reading"), "{finished:#?}");
        let json = at(here.path(), &[arguments, &["--json"]].concat());
        assert!(!json.stderr.contains("hostgate: reading") && !json.stderr.contains("asking"), "{json:#?}");
        first
    };
    let commands: [&[&str]; 4] = [&["check"], &["show"], &["show", "build"], &["explain", "a.test", "--client", "ci"]];
    for command in commands {
        let expected = "hostgate: reading the policies in policies; no hostgate.toml here: defaults";
        assert_eq!(said(command), expected, "{command:?}");
    }
    assert_eq!(
        said(&["show", "--policies", "./policies"]).split(';').next(),
        Some("hostgate: reading the policies in ./policies")
    );
    fs::write(
        here.path().join("hostgate.toml"),
        "[admin]\nlisten = \"127.0.0.1:1\"\n[control]\ntoken_file = \"token\"\n",
    )
    .unwrap();
    fs::write(here.path().join("token"), "secret\n").unwrap();
    for command in commands {
        assert_eq!(said(command), "hostgate: reading hostgate.toml and the policies in policies", "{command:?}");
    }
    assert_eq!(said(&["status"]), "hostgate: asking http://127.0.0.1:1/status (hostgate.toml)");
    assert_eq!(said(&["status", "--admin", "127.0.0.1:2"]), "hostgate: asking http://127.0.0.1:2/status (--admin)");
    let url = ["policy", "list", "--url", "http://127.0.0.1:1"];
    assert_eq!(said(&url), "hostgate: policy: http://127.0.0.1:1, with the token of token (hostgate.toml)");
    let own = [&url[..], &["--token-file", "./token"]].concat();
    assert_eq!(said(&own), "hostgate: policy: http://127.0.0.1:1, with the token of ./token");
}

#[test]
fn commands_but_serve_find_the_configuration_of_the_system() {
    let (system, empty, clone) = (directory(), tempfile::tempdir().unwrap(), directory());
    let control = "[admin]\nlisten = \"127.0.0.1:1\"\n[control]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"token\"\n";
    fs::write(system.path().join("hostgate.toml"), control).unwrap();
    fs::write(system.path().join("token"), "secret\n").unwrap();
    let (of_system, of_clone) = (
        "reading /etc/hostgate/hostgate.toml and the policies in /etc/hostgate/policies",
        "reading the policies in policies;",
    );
    let cases = [
        (&empty, "check", of_system, 0),
        (&empty, "show build", of_system, 0),
        (&empty, "explain a.test --client ci", of_system, 0),
        (&empty, "status", "asking http://127.0.0.1:1/status (/etc/hostgate/hostgate.toml)", 1),
        (&empty, "policy list", "with the token of /etc/hostgate/token (/etc/hostgate/hostgate.toml)", 1),
        (&clone, "check", of_clone, 0),
        (&clone, "policy list", "with the token of /etc/hostgate/token (/etc/hostgate/hostgate.toml)", 1),
        (&empty, "serve", "policies", 78),
        // The system's token goes to the system's API alone.
        (&empty, "policy list --url http://127.0.0.1:1", "no token", 64),
    ];
    for (directory, arguments, said, code) in cases {
        let Some(finished) = on_machine(system.path(), directory.path(), arguments) else { return };
        assert!(finished.stderr.contains(said), "{arguments}: {finished:#?}");
        assert_eq!(finished.code, Some(code), "{arguments}: {finished:#?}");
    }
}

#[test]
fn clients_and_policies_are_found_by_their_names() {
    let here = directory();
    let explain = |client: &str| at(here.path(), &["explain", "a.test", "--client", client]);
    for (client, code, line) in [
        ("ci", 0, "a.test A from 127.30.0.0/16: allowed"),
        ("dbx_1", 1, "a.test A from 127.30.0.7: denied"),
        ("cli", 0, "a.test A from 127.30.0.8: allowed"),
        ("127.30.0.1", 0, "a.test A from 127.30.0.1: allowed"),
    ] {
        let finished = explain(client).expect_code(code);
        assert_eq!(finished.stdout.lines().next(), Some(line), "{client}: {finished:#?}");
    }
    explain("web")
        .expect_code(64)
        .expect_text(&["`web` is the name of more than one client: dbx_1, dbx_3: write the id"]);
    explain("CI").expect_code(64).expect_text(&["`CI` is not an address, and not the id or name of a client"]);
    explain("127.30.0.300").expect_code(64).expect_text(&["ci, dbx_1"]);
    let json = at(here.path(), &["explain", "a.test", "--client", "cli", "--json"]).expect_code(0).json();
    assert_eq!((&json["client"], &json["source"]), (&"dbx_2".into(), &"127.30.0.8".into()));

    let show = |arguments: &[&str]| at(here.path(), &[&["show"], arguments].concat());
    show(&["--client", "cli"]).expect_code(0).expect_text(&["client dbx_2", "policy build"]);
    show(&["--client", "web"]).expect_code(1).expect_text(&["dbx_1, dbx_3"]);
    show(&["build tools"]).expect_code(0).expect_text(&["policy build ("]);
    show(&["build"]).expect_code(0).expect_text(&["policy build ("]);
    show(&["twice"]).expect_code(1).expect_text(&["`twice` is the name of more than one policy: other, third"]);
    for near in ["npm", "preset:nmp", "preset:npmm", "nmp"] {
        show(&[near]).expect_code(1).expect_text(&["(did you mean `preset:npm`?)"]);
    }
    show(&["biuld"]).expect_code(1).expect_text(&["(did you mean `build`?)"]);
    show(&["none"]).expect_code(1).expect_text(&["policy `none` does not exist", "preset:npm"]);
}

#[test]
fn presets_are_shown_without_any_policy() {
    let here = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let listed = at(here.path(), &["show", "presets"]).expect_code(0);
        listed.expect_text(&["hostgate: no policies in policies: the presets that are built in", "preset:npm  "]);
        at(here.path(), &["show", "preset:npm"]).expect_code(0).expect_text(&["*.npmjs.org", "Every install"]);
        assert!(at(here.path(), &["show", "presets", "--json"]).expect_code(0).stderr.is_empty());
        at(here.path(), &["show", "preset:nmp"]).expect_code(1).expect_text(&["did you mean `preset:npm`?"]);
        at(here.path(), &["show"]).expect_code(78);
        // An empty directory is as good as none.
        let _ = fs::create_dir(here.path().join("policies"));
    }
    // One of the own presets may be what is broken, so that nothing is shown in its place.
    fs::write(here.path().join("policies/p.toml"), "[policy.p").unwrap();
    at(here.path(), &["show", "presets"]).expect_code(78);
}

#[test]
fn check_says_how_many_tests_ran() {
    let here = directory();
    let check = |more: &[&str]| at(here.path(), &[&["check"], more].concat());
    assert!(check(&[]).expect_code(0).stdout.contains("4 clients, no test, hash"));
    let test =
        |name: &str, expect: &str| format!("[[test]]\nclient = \"ci\"\nname = \"{name}\"\nexpect = \"{expect}\"\n");
    let write = |text: String| fs::write(here.path().join("policies/t.toml"), text).unwrap();
    write(test("a.test", "allow"));
    assert!(check(&[]).expect_code(0).stdout.contains(", 1 test passed, hash"));
    write(test("a.test", "allow") + &test("b.test", "deny"));
    assert!(check(&[]).expect_code(0).stdout.contains(", 2 tests passed, hash"));
    assert_eq!(check(&["--json"]).expect_code(0).json()["tests"], 2);
    write(test("a.test", "allow") + &test("b.test", "allow"));
    assert!(check(&[]).expect_code(78).stdout.contains("; 1 test failed\n"));
    assert!(check(&["--json"]).expect_code(78).json()["tests"].is_null());
    write(test("a.test", "allow") + "[policy.x]\nno_such_key = 1\n");
    assert!(check(&[]).expect_code(78).stdout.contains("; no test ran\n"));
}

#[test]
fn an_api_that_is_shut_to_its_own_machine_is_warned_of() {
    let here = directory();
    let check = |control: &str, source: &str| {
        fs::write(here.path().join("hostgate.toml"), format!("[control]\ntoken_file = \"token\"\n{control}\n"))
            .unwrap();
        let client = format!("[client.devbox]\nsources = [\"{source}\"]\npolicy = \"build\"\n");
        fs::write(here.path().join("policies/c.toml"), client).unwrap();
        let finished = at(here.path(), &["check"]).expect_code(0);
        finished.stderr.contains("c.toml:1:9") && finished.stderr.contains("is shut to all programs of this machine")
    };
    for (control, source, expected) in [
        ("", "127.0.0.1", true),
        ("", "127.0.0.0/24", true),
        ("listen = \"127.0.0.5:8080\"", "127.0.0.1", true),
        ("listen = \"[::1]:8080\"", "::1", true),
        ("listen = \"[::1]:8080\"", "127.0.0.1", false),
        ("", "127.0.0.2", false),
        ("", "10.1.0.1", false),
        ("allow_clients = true", "127.0.0.1", false),
        ("listen = \"unix:api.sock\"", "127.0.0.1", false),
    ] {
        assert_eq!(check(control, source), expected, "{control} {source}");
    }
    // Where that is meant, it can be accepted as any other warning.
    let strict = |client: &str| {
        fs::write(here.path().join("policies/c.toml"), client).unwrap();
        at(here.path(), &["check", "--strict"])
    };
    fs::write(here.path().join("hostgate.toml"), "[control]\ntoken_file = \"token\"\n").unwrap();
    let client = "[client.devbox]\nsources = [\"127.0.0.1\"]\npolicy = \"build\"\n";
    let accepted = |code: &str| format!("# hostgate: accept {code}: only from elsewhere, by a proxy\n{client}");
    assert!(strict(client).expect_code(1).stderr.contains("warning[shut-api]"));
    strict(&accepted("shut-api")).expect_code(1).expect_text(&["1 warning accepted"]);
    strict(&accepted("unused")).expect_code(1).expect_text(&["warning[shut-api]", "warning[accept]"]);
}
