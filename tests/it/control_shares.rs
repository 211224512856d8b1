//! Callers of the API share its capacities by token: whatever the others do, an admin is answered.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::{PREFACE, TOKEN, VIEWER, Wire, head, http2_get};
use crate::support::*;

/// A path that can be posted to.
const LIST: &str = "/v1/network-policies";
/// How long an answer may take: without optimisation and on a busy machine all is many times slower than in earnest, where it
/// takes less than a second.
const LATEST: Duration = Duration::from_secs(5);
/// A second token that may do everything.
const OTHER: &str = "other-admin-token-0123456789";

/// A server with two admins, a viewer, a devbox, and policies whose list takes more than a megabyte; and the id of one.
fn server() -> (Server, String) {
    raise_open_files();
    let setup = Setup::policy(&FakeUpstream::start(), "allowed_hostnames = [\"*.test\"]");
    let setup = setup.file("box.toml", "[client.box]\nsources = [\"192.0.2.1\"]\npolicy = \"test\"\n").control("");
    setup.write_secret("token", &format!("{TOKEN}\n{OTHER}\nviewer {VIEWER}\n"));
    let server = setup.start();
    let names: Vec<_> = (0..2_000).map(|number| format!("host-{number}.with-a-long-name.example.test")).collect();
    let make = |name: &str| {
        let body = json!({ "name": name, "allowed_hostnames": names });
        server.api_post(LIST, &body).done()["id"].as_str().unwrap().to_owned()
    };
    let ids: Vec<_> = (0..20).map(|number| make(&number.to_string())).collect();
    let small = json!({ "name": "small" });
    let id = server.api_post(LIST, &small).done()["id"].as_str().unwrap().to_owned();
    assert_eq!(ids.len(), 20);
    (server, id)
}

/// Writes a request with a body.
fn post(path: &str, token: &str, body: &str) -> String {
    head("POST", path, token, &format!("content-length: {}\r\n", body.len())) + body
}

/// Opens a connection over which a viewer does one of the worst things it can, by number.
fn worst(server: &Server, number: usize) -> Wire<TcpStream> {
    let list = format!("{LIST}?limit=100");
    let mut wire = if number % 6 == 3 { Wire::narrow(server) } else { Wire::open(server) };
    match number % 6 {
        0 => {
            // SETTINGS_INITIAL_WINDOW_SIZE is 1: an answer may be sent octet by octet.
            wire.send(&PREFACE[..PREFACE.len() - 9]).send(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x01");
            let frames: Vec<u8> = (1..200).step_by(2).flat_map(|stream| http2_get(stream, &list, VIEWER)).collect();
            wire.send(frames)
        }
        1 => wire.send("GET / HT"),
        2 => wire.send(head("GET", LIST, VIEWER, "content-length: 4000\r\n")).send("{"),
        3 => wire.send(head("GET", &list, VIEWER, "")),
        4 => wire.send(post(
            "/v1/devboxes/box/wait_for_status",
            VIEWER,
            r#"{"statuses":["shutdown"],"timeout_seconds":30}"#,
        )),
        _ => wire.send(head("GET", "/", "none", "").repeat(100)),
    };
    wire
}

/// Sends a request over a new connection until it is done; returns how long the quickest of five tries took. The tests run
/// without optimisation on busy machines, where a single one may meet a moment at which nothing runs.
fn quickest(server: &Server, request: &str) -> Duration {
    let tries = (0..5).map(|_| {
        let start = Instant::now();
        let response = Wire::open(server).send(request).response();
        assert_eq!(response.status, 200, "{response:?}");
        start.elapsed()
    });
    tries.min().unwrap()
}

#[test]
fn viewers_at_their_worst_keep_no_admin_out() {
    let (server, id) = server();
    let list = head("GET", &format!("{LIST}?limit=1"), TOKEN, "");
    let update = post(&format!("{LIST}/{id}"), TOKEN, "{\"allowed_hostnames\":[\"a.test\"]}");
    let before = server.resident_kib();
    // What was reported: three connections with a window of one octet.
    let three: Vec<_> = [0, 0, 0].map(|number| worst(&server, number)).into_iter().collect();
    assert!(quickest(&server, &list) < LATEST && quickest(&server, &update) < LATEST);
    drop(three);
    let mut held: Vec<_> = (0..1_200).map(|number| worst(&server, number)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whoever is closed comes again.
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Relaxed) {
                    break;
                }
                let place = number % held.len();
                held[place] = worst(&server, number);
                pause(Duration::from_millis(10));
            }
        });
        let took = [quickest(&server, &list), quickest(&server, &update)];
        stop.store(true, Relaxed);
        assert!(took.iter().all(|took| *took < LATEST), "{took:?}");
    });
    let more = server.resident_kib().saturating_sub(before) >> 10;
    assert!(more < 300, "{before} KiB and {more} MiB more");
    assert!(server.metric("hostgate_control_connections", &[]) <= 1024);
}

#[test]
fn one_admin_at_its_worst_keeps_no_other_out() {
    let (server, id) = server();
    let names: Vec<_> = (0..8_000).map(|number| format!("host-{number}.example.test")).collect();
    let large = post(LIST, OTHER, &json!({ "name": "large", "allowed_hostnames": names }).to_string());
    // Each takes a while to be made, and all wait for one another.
    let flood: Vec<_> = (0..60)
        .map(|_| {
            let mut wire = Wire::open(&server);
            wire.send(&large);
            wire
        })
        .collect();
    let update = post(&format!("{LIST}/{id}"), TOKEN, "{\"allowed_hostnames\":[\"a.test\"]}");
    let took = quickest(&server, &update);
    let done = flood.iter().filter(|wire| wire.is_answered()).count();
    assert!(took < LATEST && done < flood.len(), "{took:?}, {done} of the others done");
    drop(flood);
}
