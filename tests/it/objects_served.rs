//! `hostgate policy` and its like against the running server: what is done is in force when the command ends.

use std::path::Path;
use std::process::Command;

use crate::support::api::{TOKEN, VIEWER};
use crate::support::*;

/// Starts a server with the API, a policy for everybody else, and these keys of `[control]`.
fn start(upstream: &FakeUpstream, lines: &str) -> Server {
    Setup::policy(upstream, "allowed_hostnames = [\"a.test\"]").control(lines).start()
}

/// Runs a command at the server's API.
fn at(server: &Server, arguments: &[&str]) -> Finished {
    let url = format!("http://{}", server.control());
    command::run_with(arguments.iter().copied().chain(["--url", &url]), &[("HOSTGATE_TOKEN", TOKEN)])
}

#[test]
fn a_policy_goes_through_its_life_and_each_change_is_in_force_at_once() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "");
    let created = at(&server, &["policy", "create", "--name", "first", "--allow", "one.test", "--cidr", "10.0.0.0/8"]);
    let id = created.expect_code(0).stdout.trim_end().to_owned();
    assert!(id.starts_with("npol_") && !id.contains(char::is_whitespace), "{id:?}");
    server.write("client.toml", format!("[client.c]\nsources = [\"127.0.0.7\"]\npolicy = \"{id}\"\n"));
    let allows = |name: &str| !ask(name, RecordType::A).from("127.0.0.7").udp(&server).addresses().is_empty();
    server.until("the client", || allows("one.test").then_some(()));

    let shown = at(&server, &["policy", "show", &id]).expect_code(0).stdout;
    let expected =
        format!("{id}  \"first\"  allows 1 hostname\n  allow one.test\n  cidr 10.0.0.0/8 (not enforced by DNS)\n");
    assert_eq!(shown, expected);
    at(&server, &["policy", "update", &id, "--set", "two.test", "--name", "second"]).expect_code(0);
    assert!(allows("two.test") && !allows("one.test"));
    at(&server, &["policy", "update", &id, "--allow-all"]).expect_code(0).expect_text(&["allows everything"]);
    assert!(allows("one.test"));
    at(&server, &["policy", "update", &id, "--allow-all=false", "--allow-none"])
        .expect_code(0)
        .expect_text(&["denies everything"]);
    assert!(!allows("two.test"));

    let listed = at(&server, &["policy", "list", "--search", "secon"]).expect_code(0).stdout;
    assert!(listed.lines().count() == 1 && listed.starts_with(&format!("{id}  \"second\"")), "{listed}");
    let all = at(&server, &["policy", "list", "--json"]).expect_code(0).json();
    assert!(all["network_policies"].as_array().unwrap().len() >= 2, "the hand-written one too: {all}");
    at(&server, &["policy", "delete", &id]).expect_code(1).expect_text(&["in use", "client"]);
    server.remove("client.toml");
    server.until("gone", || (at(&server, &["policy", "delete", &id]).code == Some(0)).then_some(()));
    at(&server, &["policy", "show", &id]).expect_code(1).expect_text(&[&id]);
    at(&server, &["policy", "update", "test", "--allow-all"]).expect_code(1).expect_text(&["test.toml"]);
}

#[test]
fn what_the_api_refuses_is_told_with_its_reason() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "");
    at(&server, &["policy", "create", "--name", "n", "--allow", "*"])
        .expect_code(1)
        .expect_text(&["allowed_hostnames"]);
    let viewer = [("HOSTGATE_TOKEN", VIEWER)];
    let url = format!("http://{}", server.control());
    command::run_with(["policy", "list", "--url", &url], &viewer).expect_code(0);
    command::run_with(["policy", "create", "--name", "n", "--url", &url], &viewer)
        .expect_code(1)
        .expect_text(&["viewer"]);
    command::run_with(["policy", "list", "--url", &url], &[("HOSTGATE_TOKEN", "none-of-them-0123456789")])
        .expect_code(1)
        .expect_text(&["token", "--token-file FILE"]);
}

#[test]
fn place_and_token_are_the_configurations_and_a_unix_socket_will_do() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "listen = \"unix:control.sock\"");
    let config = server.directory().join("hostgate.toml");
    let config = config.to_str().unwrap();
    let made = command::run_with(["--config", config, "policy", "create", "--name", "n"], &[]).expect_code(0);
    assert!(made.stdout.starts_with("npol_"), "{made:#?}");
    let socket = format!("unix:{}", server.directory().join("control.sock").display());
    let token = server.directory().join("token");
    let list = ["policy", "list", "--name", "n", "--url", &socket, "--token-file", token.to_str().unwrap()];
    assert_eq!(command::run_with(list, &[]).expect_code(0).stdout.split(' ').next(), made.stdout.lines().next());
}

/// Runs openssl in a directory.
fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn over_tls_the_servers_certificate_must_be_the_one_or_signed_by_the_one_that_is_named() {
    const MAKE: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let setup = Setup::policy(&FakeUpstream::start(), "allow_all = true")
        .control("listen = \"0.0.0.0:0\"\ntls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"");
    let directory = setup.directory().to_owned();
    openssl(
        &directory,
        &format!("{MAKE} -subj /CN=one -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"),
    );
    openssl(
        &directory,
        &format!("{MAKE} -subj /CN=one -addext subjectAltName=IP:127.0.0.1 -keyout k.pem -out other.pem"),
    );
    let server = setup.start();
    let port = server.control().port();
    let list = |host: &str, ca: &str| {
        let (url, ca) = (format!("https://{host}:{port}"), directory.join(ca));
        let arguments = ["policy", "list", "--url", &url, "--ca", ca.to_str().unwrap()];
        command::run_with(arguments, &[("HOSTGATE_TOKEN", TOKEN)])
    };
    list("127.0.0.1", "cert.pem").expect_code(0);
    list("127.0.0.1", "other.pem").expect_code(1).expect_text(&["TLS: invalid peer certificate"]);
    list("localhost", "cert.pem").expect_code(1).expect_text(&["TLS: invalid peer certificate", "localhost"]);
    list("127.0.0.1", "hostgate.toml").expect_code(64).expect_text(&["hostgate.toml: it holds no certificate"]);
}

#[test]
fn devboxes_made_from_the_shell_inherit_override_find_one_another_and_are_shut_down() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream, "devbox_pool = \"127.88.0.0/24\"");
    let create = |arguments: &[&str]| at(&server, arguments).expect_code(0).stdout.trim_end().to_owned();
    let build = create(&["policy", "create", "--name", "build", "--allow", "build.test"]);
    let run = create(&["policy", "create", "--name", "run", "--allow", "run.test", "--devbox-to-devbox"]);
    let own = create(&["policy", "create", "--name", "own", "--allow", "own.test"]);
    let blueprint =
        create(&["blueprint", "create", "--name", "agent", "--build-policy", &build, "--runtime-policy", &run]);
    let one = create(&["devbox", "create", "--name", "one", "--blueprint", &blueprint, "--metadata", "team=web"]);
    let two = create(&["devbox", "create", "--blueprint", &blueprint, "--address", "127.88.0.77"]);
    let three = create(&["devbox", "create", "--blueprint", &blueprint, "--policy", &own]);
    let address = |id: &str| {
        let shown = at(&server, &["devbox", "show", id, "--json"]).expect_code(0).json();
        shown["metadata"]["hostgate.address"].as_str().unwrap().to_owned()
    };
    let [from_one, from_two, from_three] = [&one, &two, &three].map(|id| address(id));
    assert_eq!(from_two, "127.88.0.77");
    let allows = |name: &str, source: &str| !ask(name, RecordType::A).from(source).udp(&server).addresses().is_empty();
    assert!(allows("run.test", &from_one) && !allows("build.test", &from_one) && allows("run.test", &from_two));
    assert!(allows("own.test", &from_three) && !allows("run.test", &from_three));
    let name = format!("{two}.devbox.internal");
    ask(&name, RecordType::A).from(&from_one).both(&server).expect_addresses(&[from_two.parse().unwrap()]);
    ask(&name, RecordType::A).from(&from_three).both(&server).expect_denied();

    let shown = at(&server, &["devbox", "show", &one]).expect_code(0).stdout;
    let line = format!("{one}  \"one\"  status running  address {from_one}  policy {run}  blueprint {blueprint}\n");
    assert_eq!(shown, format!("{line}  metadata team=web\n"));
    let renamed = ["devbox", "update", &one, "--name", "first", "--metadata", "tier=2"];
    at(&server, &renamed).expect_code(0).expect_text(&["\"first\"", "metadata team=web", "metadata tier=2", &from_one]);
    at(&server, &["policy", "delete", &run]).expect_code(1).expect_text(&["in use"]);
    at(&server, &["blueprint", "update", &blueprint, "--runtime-policy", &own]).expect_code(0).expect_text(&[&own]);
    assert!(allows("own.test", &from_one) && !allows("run.test", &from_one));

    at(&server, &["devbox", "delete", &two]).expect_code(0).expect_text(&["shut down"]);
    assert!(!allows("own.test", &from_two));
    let listed = at(&server, &["devbox", "list"]).expect_code(0).stdout;
    assert!(listed.contains(&format!("{two}  status shutdown")) && listed.contains(&one), "{listed}");
    for id in [&one, &three] {
        at(&server, &["devbox", "delete", id]).expect_code(0);
    }
    at(&server, &["blueprint", "delete", &blueprint]).expect_code(0);
    for id in [&build, &run, &own] {
        at(&server, &["policy", "delete", id]).expect_code(0);
    }
    let kept = files(&server.policies("api"));
    let of = |kind: &str| kept.iter().filter(|name| name.starts_with(kind)).count();
    assert_eq!((of("npol_"), of("bpt_"), of("dbx_")), (0, 0, 3), "{kept:?}");
}

/// Returns the names of the files in a directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
