//! What clients of the API can make grow or wait, and that it ends.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::api::{PREFACE, TOKEN, VIEWER, Wire, curl, head, http2_get};
use crate::support::*;

/// Connections to the API at once.
const SEATS: usize = 1024;
/// A path that can be posted to.
const LIST: &str = "/v1/network-policies";
/// The longest body.
const MAX_BODY: usize = 1 << 20;

/// A server with the API.
fn server() -> Server {
    Setup::policy(&FakeUpstream::start(), "allowed_hostnames = [\"*.test\"]").control("").start()
}

/// Returns how often the API did this.
fn count(server: &Server, outcome: &str) -> u64 {
    server.metric("hostgate_control_requests_total", &[("outcome", outcome)])
}

/// Returns how many connections were closed for this.
fn closed(server: &Server, reason: &str) -> u64 {
    server.metric("hostgate_control_closed_total", &[("reason", reason)])
}

/// Opens a connection whose request is let in and waits for the rest of its body.
fn busy(server: &Server) -> Wire<TcpStream> {
    let mut wire = Wire::open(server);
    let fields = "content-length: 2\r\nexpect: 100-continue\r\n";
    assert_eq!(wire.send(head("POST", LIST, TOKEN, fields)).response().status, 100);
    wire
}

#[test]
fn a_body_over_one_mebibyte_is_refused_however_it_comes() {
    let server = server();
    let over = vec![b' '; MAX_BODY + 1];
    let mut wire = Wire::open(&server);
    let length = |length: usize| head("POST", LIST, TOKEN, &format!("content-length: {length}\r\n"));
    assert_ne!(wire.send(length(MAX_BODY)).send(&over[1..]).response().status, 413, "the longest is taken");
    let refused = wire.send(length(over.len())).send(&over).response();
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.body.contains("longer than 1024 KiB") && refused.head.contains("connection: close"), "{refused:?}");
    assert!(wire.closed().is_empty());
    // Not sent at all, and by far too long.
    let mut wire = Wire::open(&server);
    let fields = "content-length: 1099511627776\r\nexpect: 100-continue\r\n";
    assert_eq!(wire.send(head("POST", LIST, TOKEN, fields)).response().status, 413);
    let mut wire = Wire::open(&server);
    wire.send(head("POST", LIST, TOKEN, "transfer-encoding: chunked\r\n"));
    for _ in 0..=MAX_BODY / 1024 {
        wire.send("400\r\n").send(&over[..1024]).send("\r\n");
    }
    assert_eq!(wire.send("0\r\n\r\n").response().status, 413);
    let file = server.directory().join("body");
    std::fs::write(&file, vec![b' '; 2 * MAX_BODY]).unwrap();
    let (file, bearer) = (format!("@{}", file.display()), format!("authorization: Bearer {TOKEN}"));
    let url = format!("http://{}{LIST}", server.control());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, ..) = curl(&[version, "-H", &bearer, "--data-binary", &file, &url]);
        assert_eq!(status, 413, "{version}");
    }
    // What changes nothing has little to say.
    let long = [&over[..4096], b"{"].concat();
    for (body, expected) in [(&long[1..], 400), (&long[..], 413)] {
        let fields = format!("content-length: {}\r\n", body.len());
        assert_eq!(Wire::open(&server).send(head("GET", LIST, TOKEN, &fields)).send(body).response().status, expected);
    }
    assert_eq!(count(&server, "too-large"), 6);
    // Nobody without a token has a body read.
    let mut stranger = Wire::open(&server);
    let fields = "content-length: 1048576\r\nexpect: 100-continue\r\n";
    assert_eq!(stranger.send(head("POST", LIST, "none", fields)).response().status, 401);
}

#[test]
fn what_is_no_http_harms_nobody() {
    let server = server();
    let huge = "x".repeat(20 << 10);
    let many = "x: y\r\n".repeat(100);
    // A PING acknowledged that was never sent, and streams that are reset at once.
    let acknowledged = [PREFACE, b"\0\0\x08\x06\x01\0\0\0\0\0\0\0\0\0\0\0\0"].concat();
    let resets = (1..100).step_by(2).flat_map(|stream| {
        [http2_get(stream, "/nothing", TOKEN), vec![0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8]].concat()
    });
    let resets: Vec<u8> = PREFACE.iter().copied().chain(resets).collect();
    let before = server.log_lines(&[]).len();
    for octets in [
        head("GET", "/", TOKEN, &format!("x: {huge}\r\n")),
        head("GET", "/", TOKEN, &many),
        format!("GET /{huge} HTTP/1.1\r\nhost: api.test\r\n\r\n"),
        head("POST", LIST, TOKEN, "content-length: 9\r\n") + "{}",
        head("POST", LIST, TOKEN, "content-length: -1\r\n"),
        head("POST", LIST, TOKEN, "content-length: 1\r\ncontent-length: 2\r\n"),
        head("POST", LIST, TOKEN, "content-length: 2\r\ntransfer-encoding: chunked\r\n") + "zz\r\n",
        head("POST", LIST, TOKEN, "transfer-encoding: chunked\r\n") + "ffffffffffffffffff\r\n",
        head("CONNECT", "api.test:1", TOKEN, ""),
        head("GET", "/", TOKEN, "upgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"),
        "GET /\r\n\r\n".to_owned(),
        "\0\u{1}\u{2}".repeat(100),
        String::from_utf8_lossy(PREFACE).into_owned() + &"\u{0}\u{0}\u{0}\u{ff}\u{0}\u{0}\u{0}\u{0}\u{0}".repeat(10),
    ]
    .into_iter()
    .map(String::into_bytes)
    .chain([acknowledged, resets])
    {
        let stream = TcpStream::connect(server.control()).unwrap();
        let mut wire = Wire::over(stream.try_clone().unwrap());
        wire.send(&octets);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let heard = String::from_utf8_lossy(&wire.closed()).into_owned();
        let sent = String::from_utf8_lossy(&octets);
        assert!(!heard.contains(" 500 ") && !heard.contains(" 200 "), "{sent:?}: {heard}");
    }
    assert_eq!(Wire::open(&server).get("/nothing").status, 404);
    assert_eq!(server.log_lines(&[]).len(), before, "no client raises a line: {}", server.log());
    server.until("all are gone", || (server.metric("hostgate_control_connections", &[]) <= 1).then_some(()));
}

/// How long it took until a connection was closed, and what came before.
fn time_until_closed(mut wire: Wire<TcpStream>) -> (Duration, String) {
    let start = Instant::now();
    let heard = wire.closed();
    (start.elapsed(), String::from_utf8_lossy(&heard).into_owned())
}

#[test]
fn who_is_too_slow_is_cut_off() {
    let server = server();
    let seconds = Duration::from_secs;
    thread::scope(|scope| {
        let silent = scope.spawn(|| time_until_closed(Wire::open(&server)));
        let head_octet_by_octet = scope.spawn(|| {
            let start = Instant::now();
            let stream = TcpStream::connect(server.control()).unwrap();
            let text = head("GET", "/nothing", TOKEN, &"x: y\r\n".repeat(100));
            for octet in text.as_bytes() {
                if (&stream).write_all(&[*octet]).is_err() {
                    break;
                }
                pause(Duration::from_millis(100));
            }
            (start.elapsed(), String::from_utf8_lossy(&Wire::over(stream).closed()).into_owned())
        });
        let second_head = scope.spawn(|| {
            let mut wire = Wire::open(&server);
            wire.get("/nothing");
            wire.send("GET /no");
            time_until_closed(wire)
        });
        let body = scope.spawn(|| {
            let mut wire = Wire::open(&server);
            wire.send(head("POST", LIST, TOKEN, "content-length: 100\r\n")).send("{");
            time_until_closed(wire)
        });
        let http2_silent = scope.spawn(|| {
            let mut wire = Wire::open(&server);
            wire.send(PREFACE);
            time_until_closed(wire)
        });
        let http2_no_window = scope.spawn(|| {
            let mut wire = Wire::open(&server);
            // SETTINGS_INITIAL_WINDOW_SIZE is 0: nothing of an answer may be sent.
            wire.send(&PREFACE[..PREFACE.len() - 9]).send(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0");
            wire.send(http2_get(1, "/nothing", TOKEN));
            time_until_closed(wire)
        });
        let unread = scope.spawn(|| {
            let mut wire = Wire::narrow(&server);
            wire.send_until_full(&head("GET", "/nothing", TOKEN, ""));
            let start = Instant::now();
            until_within(seconds(25), || (closed(&server, "slow") >= 6).then_some(()));
            (start.elapsed(), String::new())
        });
        for (name, thread, earliest, latest) in [
            ("silent", silent, 4, 7),
            ("head", head_octet_by_octet, 4, 8),
            ("second head", second_head, 4, 7),
            ("body", body, 9, 13),
            ("silent HTTP/2", http2_silent, 4, 7),
            ("no window", http2_no_window, 9, 13),
            ("unread", unread, 0, 20),
        ] {
            let (took, heard) = thread.join().unwrap();
            assert!(seconds(earliest) < took + seconds(1) && took < seconds(latest), "{name}: {took:?}: {heard}");
            assert_eq!(heard.contains("408 Request Timeout") && heard.contains("took more"), name == "body", "{heard}");
        }
    });
    assert_eq!(count(&server, "slow"), 1);
    assert_eq!(closed(&server, "slow"), 6, "all but the body, which is answered");
}

#[test]
fn a_full_house_keeps_nobody_out() {
    raise_open_files();
    let server = server();
    let mut kept = Wire::open(&server);
    assert_eq!(kept.get("/nothing").status, 404);
    let mut busy = busy(&server);
    // Strangers of all sorts: silent, with a part of a head, refused, with answers they do not take, HTTP/2.
    let strangers: Vec<_> = (0..SEATS + 100)
        .map(|number| {
            let mut wire = Wire::open(&server);
            match number % 6 {
                0 => {}
                1 => drop(wire.send("GET / HT")),
                2 => drop(wire.send(head("GET", "/", "none", ""))),
                3 => drop(wire.send(head("GET", "/", "none", "").repeat(200))),
                4 => drop(wire.send(PREFACE)),
                // The description needs no token, and its readers get no place by it either.
                _ => drop(wire.send(head("GET", "/openapi.json", "none", "content-length: 9\r\n"))),
            }
            wire
        })
        .collect();
    server.until("room was made", || (closed(&server, "room") > 0).then_some(()));
    for _ in 0..10 {
        assert_eq!(Wire::open(&server).get("/nothing").status, 404);
    }
    assert_eq!(kept.get("/nothing").status, 404, "strangers go before those with a token");
    assert!(busy.send("{}").response().status < 500, "who runs a request stays");
    assert!(server.metric("hostgate_control_connections", &[]) <= SEATS.try_into().unwrap());
    drop(strangers);
    server.until("places are free again", || (server.metric("hostgate_control_connections", &[]) <= 2).then_some(()));
}

#[test]
fn who_comes_with_many_others_is_answered_before_it_makes_room() {
    raise_open_files();
    let server = server();
    let wires = (0..SEATS + 150).map(|_| {
        let mut wire = Wire::open(&server);
        wire.send(head("GET", "/nothing", TOKEN, ""));
        wire
    });
    let mut wires: Vec<_> = wires.collect();
    for wire in &mut wires {
        assert_eq!(wire.response().status, 404);
    }
    assert!(closed(&server, "room") >= 150);
}

#[test]
fn connections_do_not_hold_up_the_end_and_requests_do_for_five_seconds() {
    let mut server = server();
    let mut idle = Wire::open(&server);
    idle.get("/nothing");
    let mut begun = Wire::open(&server);
    begun.send("GET / HT");
    let mut http2 = Wire::open(&server);
    http2.send(PREFACE).send(http2_get(1, "/nothing", TOKEN));
    let silent = Wire::open(&server);
    server.until("all are there", || (server.metric("hostgate_control_connections", &[]) == 4).then_some(()));
    let mut quick = busy(&server);
    let start = Instant::now();
    server.signal("TERM");
    server.wait_log(&["stopping"]);
    assert!(idle.closed().is_empty() && begun.closed().is_empty());
    drop(silent);
    assert!(quick.send("{}").response().status < 500, "what is under way is answered");
    http2.closed();
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());

    let mut server = self::server();
    let mut never = busy(&server);
    server.signal("TERM");
    let start = Instant::now();
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    never.closed();
}

#[test]
fn who_waits_for_a_status_keeps_nobody_out() {
    raise_open_files();
    let setup = Setup::policy(&FakeUpstream::start(), "allowed_hostnames = [\"*.test\"]");
    let server =
        setup.file("box.toml", "[client.box]\nsources = [\"192.0.2.1\"]\npolicy = \"test\"\n").control("").start();
    let body = r#"{"statuses":["shutdown"],"timeout_seconds":30}"#;
    let fields = format!("content-length: {}\r\n", body.len());
    let request = head("POST", "/v1/devboxes/box/wait_for_status", VIEWER, &fields) + body;
    let open = || {
        let mut wire = Wire::open(&server);
        wire.send(&request);
        wire
    };
    let mut waiting: Vec<_> = (0..SEATS + 100).map(|_| open()).collect();
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(Wire::open(&server).get("/nothing").status, 404);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    // Those who have waited for a while make room for those who come; who comes with many is told to come again.
    let mut answered = |status| {
        until("it is answered so", || {
            waiting.push(open());
            let answered = waiting.iter().position(Wire::is_answered)?;
            Some(waiting.swap_remove(answered).response()).filter(|response| response.status == status)
        })
    };
    let refused = answered(503);
    assert!(refused.head.contains("retry-after: 1") && refused.head.contains("connection: close"), "{refused:?}");
    let early = answered(408);
    assert!(early.body.contains("ask again"), "{early:?}");
}

#[test]
fn many_readers_of_a_large_object_take_the_room_of_a_few() {
    let server = server();
    let objects = vec![serde_json::json!({ "a": 1 }); 20_000];
    let made = server.api_post(LIST, &serde_json::json!({ "name": "n", "z": objects })).done();
    let path = format!("{LIST}/{}", made["id"].as_str().unwrap());
    let before = server.resident_kib();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(Wire::open(&server).get(&path).status, 200));
        }
    });
    // Each takes about 30 MiB, which stay with the thread that read it.
    let more = server.resident_kib().saturating_sub(before) >> 10;
    assert!(more < 160, "{before} KiB and {more} MiB more");
    // Two fields that each fit, and together do not.
    let [large, huge] = ["x", "y"].map(|key| serde_json::json!({ key: vec![100; 250_000] }));
    assert_eq!(server.api_post(&path, &large).status, 200);
    server.api_post(&path, &huge).refused(400, &["would take", "2048 KiB is the most"]);
}
