//! Who is let in to the API, over which protocol and socket.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::api::{TOKEN, VIEWER, Wire, curl, head};
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";
/// A path that is there.
const LIST: &str = "/v1/network-policies";

/// A server with the API.
fn server(lines: &str) -> Server {
    Setup::policy(&FakeUpstream::start(), POLICY).control(lines).start()
}

/// Replaces a file, mode 0600, in one step.
fn replace(server: &Server, name: &str, text: &str) {
    let (path, beside) = (server.directory().join(name), server.directory().join("beside.tmp"));
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Returns the status of a request with this `Authorization`.
fn status(wire: &mut Wire<std::net::TcpStream>, authorization: &str) -> u16 {
    let request = format!("GET /nothing HTTP/1.1\r\nhost: api.test\r\n{authorization}\r\n");
    wire.send(request).response().status
}

#[test]
fn both_versions_of_http_are_served_over_tcp_and_unix_sockets() {
    let tcp = server("");
    let unix = server("listen = \"unix:control.sock\"");
    let socket = unix.directory().join("control.sock");
    let found = fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o600, "{found:?}");
    unix.wait_log(&["listening", "transport=\"control\"", "address=unix:"]);
    let (url, bearer) = (format!("http://{}/nothing", tcp.control()), format!("authorization: Bearer {TOKEN}"));
    for (version, name) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        for place in
            [&["--url", &url] as &[_], &["--unix-socket", socket.to_str().unwrap(), "http://localhost/nothing"]]
        {
            let (status, spoken, body) = curl(&[place, &[version, "-H", &bearer]].concat());
            assert_eq!((status, spoken.as_str()), (404, name), "{place:?}: {body}");
            assert!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["message"].is_string(), "{body}");
            let (status, spoken, body) = curl(&[place, &[version]].concat());
            assert_eq!((status, spoken.as_str()), (401, name), "{place:?}: {body}");
        }
    }
}

#[test]
fn nothing_but_the_description_is_there_without_a_token_of_the_file() {
    let server = server("");
    let cases = [
        ("", 401),
        ("authorization: Bearer\r\n", 401),
        ("authorization: Bearer wrong-token-0123456789\r\n", 401),
        (&format!("authorization: Basic {TOKEN}\r\n"), 401),
        (&format!("authorization: Bearer {TOKEN}x\r\n"), 401),
        (&format!("authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]), 401),
        (&format!("authorization: Bearer {TOKEN}\r\nauthorization: Bearer {TOKEN}\r\n"), 401),
        (&format!("authorization: Bearer viewer {VIEWER}\r\n"), 401),
        (&format!("authorization: Bearer {TOKEN}\r\n"), 404),
        (&format!("Authorization:bearer  {TOKEN} \r\n"), 404),
        (&format!("authorization: BEARER {VIEWER}\r\n"), 404),
    ];
    let before = server.log_lines(&[]).len();
    let mut wire = Wire::open(&server);
    for (authorization, expected) in &cases {
        assert_eq!(status(&mut wire, authorization), *expected, "{authorization}");
    }
    let refused = wire.send("DELETE / HTTP/1.1\r\nhost: api.test\r\n\r\n").response();
    assert!(refused.head.contains("www-authenticate: bearer") && refused.body.contains("Bearer TOKEN"), "{refused:?}");
    for path in ["/", LIST, "/openapi.json/", "//openapi.json", "/v1/../openapi.json", "/openapi%2ejson", "*"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: api.test\r\n\r\n");
        assert_eq!(Wire::open(&server).send(request).response().status, 401, "{path}");
    }
    let described = Wire::open(&server).send("GET /openapi.json HTTP/1.1\r\nhost: api.test\r\n\r\n").response();
    assert_ne!(described.status, 401);
    assert_eq!(server.metric("hostgate_control_requests_total", &[("outcome", "no-token")]), 8 + 1 + 7);
    assert_eq!(server.log_lines(&[]).len(), before, "clients raise no line: {}", server.log());
}

#[test]
fn a_viewer_only_reads_and_waits() {
    let server = server("");
    let mut wire = Wire::open(&server);
    for (method, path, expected) in [
        ("GET", "/nothing", 404),
        ("POST", "/v1/devboxes/dbx_none/wait_for_status", 404),
        ("POST", "/v1/devboxes/dbx_none/shutdown", 403),
        ("POST", LIST, 403),
        ("PUT", "/nothing", 403),
        ("DELETE", "/nothing", 403),
        ("PATCH", "/nothing", 403),
        ("POST", "/v1/network-policies/x/wait_for_status", 403),
    ] {
        let response = wire.send(head(method, path, VIEWER, "")).response();
        assert_eq!(response.status, expected, "{method} {path}: {response:?}");
    }
}

#[test]
fn a_change_of_the_token_file_is_in_force_at_once() {
    let server = server("");
    let mut wire = Wire::open(&server);
    let with = |token: &str| format!("authorization: Bearer {token}\r\n");
    assert_eq!(status(&mut wire, &with(TOKEN)), 404);
    for round in 0..20 {
        let next = format!("next-token-{round:010}");
        replace(&server, "token", &format!("{next}\n"));
        assert_eq!((status(&mut wire, &with(&next)), status(&mut wire, &with(TOKEN))), (404, 401), "{round}");
        // In place, of the same length, within the same tick of the clock.
        fs::write(server.directory().join("token"), format!("{TOKEN}\n")).unwrap();
        assert_eq!((status(&mut wire, &with(TOKEN)), status(&mut wire, &with(&next))), (404, 401), "{round}");
    }
    let hashed = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    replace(&server, "token", &format!("viewer {hashed}\n"));
    assert_eq!(status(&mut wire, &with("test")), 404);
    assert_eq!(status(&mut wire, &with(hashed)), 401, "the hash is no token");
    let path = server.directory().join("token");
    for (number, break_it) in [
        (|path| fs::remove_file(path)) as fn(&Path) -> std::io::Result<()>,
        |path| fs::write(path, "short"),
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o604)),
    ]
    .into_iter()
    .enumerate()
    {
        break_it(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(status(&mut wire, &with(TOKEN)), 503, "case {number}: nobody comes in by what was good once");
        }
        server.until("told", || (server.log_lines(&["ERROR", "token file is bad"]).len() == number + 1).then_some(()));
        replace(&server, "token", &format!("{TOKEN}\n"));
        assert_eq!(status(&mut wire, &with(TOKEN)), 404);
    }
    assert!(!server.log().contains(TOKEN), "no token is logged");
}

/// Starts a server whose token file is bad: the resolver answers, and the API says `told` until the file is good.
#[track_caller]
fn closed(setup: Setup, told: &str) {
    let server = setup.start();
    assert_eq!(ask("any.example", RecordType::A).udp(&server).rcode(), ResponseCode::NXDomain);
    let with = format!("authorization: Bearer {TOKEN}\r\n");
    let answer = Wire::open(&server).send(format!("GET /nothing HTTP/1.1\r\nhost: api.test\r\n{with}\r\n")).response();
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains(told), "{answer:?}");
    let entry = server.wait_out_of_date("tokens");
    assert!(entry["why"].as_str().unwrap().contains(told), "{entry}");
    assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "tokens")]), 1);
    run(["status", "--admin", &server.admin().to_string()])
        .expect_code(1)
        .expect_text(&["API: nobody is let in", told]);
    server.wait_log(&["ERROR", "token file is bad", told]);
    assert!(!server.log().contains("0123456789abcdef"), "no token is shown: {}", server.log());
    replace(&server, "token", &format!("{TOKEN}\n"));
    assert_eq!(status(&mut Wire::open(&server), &with), 404);
    server.wait_not_out_of_date("tokens");
}

#[test]
fn a_token_file_that_is_bad_or_open_to_others_closes_the_api_until_it_is_good() {
    let upstream = FakeUpstream::start();
    let long = "0123456789abcdef";
    for (mode, text, told) in [
        (0o644, long, "group or others have access to it (mode 644)"),
        (0o640, long, "chmod 600"),
        (0o606, long, "mode 606"),
        (0o600, "", "it has no token"),
        (0o600, "short\nroot 0123456789abcdef", "token:2:1"),
        (0o600, "short", "openssl rand -hex 32"),
        (0o600, "0123456789abcdef\nviewer 0123456789abcdef", "line 1 has the same token"),
    ] {
        let setup = Setup::policy(&upstream, POLICY).control("");
        let path = setup.directory().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        closed(setup, told);
    }
    let setup = Setup::policy(&upstream, POLICY).control("");
    let path = setup.directory().join("token");
    fs::rename(&path, setup.directory().join("real")).unwrap();
    std::os::unix::fs::symlink("real", &path).unwrap();
    fs::set_permissions(setup.directory().join("real"), fs::Permissions::from_mode(0o644)).unwrap();
    closed(setup, "mode 644");
    let setup = Setup::policy(&upstream, POLICY).control("");
    fs::remove_file(setup.directory().join("token")).unwrap();
    closed(setup, "there is no such file");
}

#[test]
fn a_credential_of_systemd_is_the_services_own() {
    let start = |place: &str| {
        let setup = Setup::policy(&FakeUpstream::start(), POLICY).control("");
        fs::set_permissions(setup.directory().join("token"), fs::Permissions::from_mode(0o440)).unwrap();
        let directory = setup.directory().join(place);
        fs::create_dir_all(&directory).unwrap();
        setup.environment("CREDENTIALS_DIRECTORY", directory.to_str().unwrap())
    };
    // Its group is root's, and its bits are those of an access list; only root can make it so.
    if rustix::process::geteuid().is_root() {
        assert_eq!(Wire::open(&start(".").start()).get("/nothing").status, 404);
    }
    closed(start("other"), "mode 440");
}

#[test]
fn a_policys_own_address_is_refused_before_its_token_is_looked_at() {
    let clients = "[client.box]\nsources = [\"127.0.0.2\"]\npolicy = \"test\"\n";
    let setup = || Setup::policy(&FakeUpstream::start(), POLICY).file("clients.toml", clients);
    let server = setup().control("").start();
    let mut other = Wire::from([127, 0, 0, 3], &server);
    for request in
        [head("GET", LIST, TOKEN, ""), head("GET", LIST, "none", ""), head("GET", "/openapi.json", TOKEN, "")]
    {
        let refused = Wire::from([127, 0, 0, 2], &server).send(&request).response();
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.body.contains("`box`") && refused.body.contains("allow_clients"), "{refused:?}");
        assert_ne!(other.send(&request).response().status, 403);
    }
    server.write("more.toml", "[client.net]\nsources = [\"127.0.0.0/8\"]\npolicy = \"test\"\n");
    server.wait_generation(2);
    assert_eq!(other.get("/nothing").status, 403, "on a connection that was open before, too");
    assert_eq!(server.metric("hostgate_control_requests_total", &[("outcome", "client-address")]), 4);
    let open = setup().control("allow_clients = true").start();
    assert_eq!(Wire::from([127, 0, 0, 2], &open).get("/nothing").status, 404);
    let unix = setup().control("listen = \"unix:c.sock\"").start();
    assert_eq!(Wire::at(&unix.directory().join("c.sock")).get("/nothing").status, 404, "it has no address");
}

#[test]
fn a_unix_socket_that_was_left_behind_is_replaced_and_a_served_one_is_not() {
    let mut first = Setup::policy(&FakeUpstream::start(), POLICY)
        .top("takeover = \"takeover\"")
        .control("listen = \"unix:control.sock\"")
        .start();
    let socket = first.directory().join("control.sock");
    let config = first.directory().join("hostgate.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("takeover = \"takeover\"", "")).unwrap();
    let beside = first.restarted();
    let entry = beside.wait_out_of_date("socket");
    for part in ["bind control unix:", "control.sock", "set another `listen` under [control]"] {
        assert!(entry["why"].as_str().unwrap().contains(part), "no `{part}` in {entry}");
    }
    assert_eq!(Wire::at(&socket).get("/nothing").status, 404);
    drop(beside);
    assert!(socket.exists());
    first.signal("KILL");
    first.wait_exit();
    fs::write(&config, text).unwrap();
    let mut second = first.successor();
    assert_eq!(Wire::at(&socket).get("/nothing").status, 404);
    let mut third = second.successor();
    assert_eq!(second.wait_exit().code(), Some(0));
    assert_eq!(Wire::at(&socket).get("/nothing").status, 404, "a successor has the same socket");
    third.signal("TERM");
    assert_eq!(third.wait_exit().code(), Some(0));
    assert!(!socket.exists(), "nothing is left behind");
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).control("listen = \"unix:none/control.sock\"").start();
    let entry = server.wait_out_of_date("socket");
    assert!(entry["why"].as_str().unwrap().contains("none/control.sock") && entry["path"].is_string(), "{entry}");
    fs::create_dir(server.directory().join("none")).unwrap();
    server.wait_not_out_of_date("socket");
    assert_eq!(Wire::at(&server.directory().join("none/control.sock")).get("/nothing").status, 404);
}

#[test]
fn no_request_is_refused_while_another_takes_over() {
    let mut first = Setup::policy(&FakeUpstream::start(), POLICY).top("takeover = \"takeover\"").control("").start();
    first.keep_addresses();
    let address = first.control();
    let mut kept = Wire::to(address);
    assert_eq!(kept.get("/nothing").status, 404);
    let mut under_way = Wire::to(address);
    let fields = "content-length: 2\r\nexpect: 100-continue\r\n";
    assert_eq!(under_way.send(head("POST", LIST, TOKEN, fields)).response().status, 100, "its body is waited for");
    let is_over = AtomicBool::new(false);
    let second = thread::scope(|scope| {
        let newcomers = scope.spawn(|| {
            let end = Instant::now() + Duration::from_secs(30);
            while !is_over.load(Ordering::Relaxed) && Instant::now() < end {
                assert_eq!(Wire::to(address).get("/nothing").status, 404);
            }
        });
        let second = first.successor();
        first.wait_log(&["stopping"]);
        is_over.store(true, Ordering::Relaxed);
        newcomers.join().unwrap();
        second
    });
    assert_eq!(second.control(), address);
    under_way.send("{}");
    assert!(under_way.response().status < 500);
    kept.closed();
    assert_eq!(first.wait_exit().code(), Some(0));
    assert_eq!(Wire::to(address).get("/nothing").status, 404);
}

#[test]
fn the_status_says_when_nobody_is_let_in() {
    let server = server("");
    let (admin, token) = (server.admin().to_string(), server.directory().join("token"));
    assert_eq!(server.status()["control"], serde_json::json!({ "error": null }));
    run(["status", "--admin", &admin]).expect_code(0);
    let text = fs::read_to_string(&token).unwrap();
    fs::remove_file(&token).unwrap();
    run(["status", "--admin", &admin]).expect_code(1).expect_text(&["API: nobody is let in", "there is no such file"]);
    replace(&server, "token", &text);
    run(["status", "--admin", &admin]).expect_code(0);
}
