//! The admin endpoint and signals.

use std::io::Write;
use std::net::TcpStream;

use crate::support::{client, http, *};

/// A policy that allows `allowed.test`.
const POLICY: &str = "allowed_hostnames = [\"allowed.test\"]";

#[test]
fn status_says_what_is_in_force() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY)
        .file(
            "more.toml",
            "[blueprint.b]\nruntime_policy = \"test\"\n[client.c]\nsources = [\"192.0.2.1\"]\nblueprint = \"b\"\n",
        )
        .start();
    let response = server.get("/status");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: application/json"), "{}", response.head);
    let status = server.status();
    assert_eq!(status["generation"], 1, "{status}");
    assert!(status["hash"].as_str().is_some_and(|hash| hash.len() >= 8), "{status}");
    assert!(status["loaded_at"].as_str().is_some_and(|time| time.contains('T') && time.ends_with('Z')), "{status}");
    assert!(status["error"].is_null() && status["upstream_error"].is_null(), "{status}");
    assert_eq!(status["held_back"].as_array().map(Vec::len), Some(0), "{status}");
    assert_eq!((&status["blueprints"], &status["clients"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["policies"], 1, "{status}");
    assert!(status["uptime_seconds"].is_number(), "{status}");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    let servers = &status["upstreams"];
    assert!(servers[0]["server"].as_str().is_some_and(|text| text.contains(&upstream.address.to_string())), "{status}");
    assert!(servers[0]["state"].is_string(), "{status}");
    server.wait_log(&["ready", "generation=1", "hash=", "policies=1", "blueprints=1", "clients=1"]);
}

#[test]
fn probes_and_unknown_paths() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for (method, path, status) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/status", 200),
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/status", 405),
        ("DELETE", "/livez", 405),
    ] {
        let response = http::request(server.admin(), method, path).unwrap();
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
    }
}

#[test]
fn metrics_count_by_action_reason_and_transport() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for _ in 0..3 {
        ask("allowed.test", RecordType::A).udp(&server);
        ask("denied.example", RecordType::A).udp(&server);
    }
    ask("denied.example", RecordType::A).tcp(&server);
    ask("allowed.test", RecordType::NULL).udp(&server);
    ask("allowed.test", RecordType::A).class(3).udp(&server);
    let queries = "hostgate_queries_total";
    server.wait_metric(queries, &[("action", "refuse"), ("transport", "udp")], 1);
    assert_eq!(server.metric(queries, &[("action", "allow"), ("transport", "udp")]), 3);
    assert_eq!(server.metric(queries, &[("action", "deny"), ("transport", "udp")]), 3);
    assert_eq!(server.metric(queries, &[("action", "deny"), ("transport", "tcp")]), 1);
    assert_eq!(server.metric(queries, &[("action", "nodata")]), 1);
    assert_eq!(server.metric(queries, &[("action", "refuse")]), 1);
    assert_eq!(server.metric(queries, &[]), 9);
    assert_eq!(server.metric("hostgate_cache_misses_total", &[]), 1);
    assert_eq!(server.metric("hostgate_cache_hits_total", &[]), 2);
    assert_eq!(server.metric("hostgate_upstream_latency_seconds_count", &[]), 1);
    assert_eq!(server.metric("hostgate_panics_total", &[]), 0);
    let response = server.get("/metrics");
    assert!(
        response.head.contains("content-type: application/openmetrics-text")
            || response.head.contains("content-type: text/plain"),
        "{}",
        response.head
    );
    let sample = |line: &&str| !line.starts_with('#') && !line.is_empty();
    for line in response.body.lines().filter(sample) {
        assert!(line.starts_with("hostgate_") || line.starts_with("process_"), "{line}");
        assert!(!line.contains("allowed.test") && !line.contains("127.0.0.1\""), "no names or sources: {line}");
        let family = line.split(['{', ' ']).next().unwrap();
        let family =
            ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
        let help = format!("# HELP {family}");
        assert!(response.body.contains(&help), "{family} is documented");
    }
}

#[test]
fn idle_connections_do_not_block_the_endpoint() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(server.admin()).unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /status HT").unwrap();
        }
        held.push(stream);
    }
    assert_eq!(server.get("/livez").status, 200);
    ask("allowed.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn half_open_connections_from_one_or_many_addresses_keep_no_probe_out() {
    use socket2::{Domain, Socket, Type};
    raise_open_files();
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).start();
    for addresses in [1, 200] {
        let held: Vec<TcpStream> = (0..1000_u16)
            .map(|number| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let last = u8::try_from(number % addresses + 1).unwrap();
                socket.bind(&std::net::SocketAddr::from(([127, 0, 9, last], 0)).into()).unwrap();
                socket.connect(&server.admin().into()).unwrap();
                let mut stream = TcpStream::from(socket);
                match number % 3 {
                    0 => {}
                    1 => stream.write_all(b"GET /status HT").unwrap(),
                    // An answer that is not taken.
                    _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap(),
                }
                stream
            })
            .collect();
        for path in ["/livez", "/readyz", "/metrics", "/livez"] {
            let start = std::time::Instant::now();
            assert_eq!(server.get(path).status, 200);
            assert!(start.elapsed() < std::time::Duration::from_secs(1), "{path}: {:?}", start.elapsed());
        }
        drop(held);
    }
}

#[test]
fn admin_can_be_off() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, POLICY).table("[admin]\nlisten = \"off\"").start();
    assert!(server.log_lines(&["listening", "admin"]).is_empty(), "{}", server.log());
    ask("allowed.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn terminate_and_interrupt_end_with_zero() {
    for signal in ["TERM", "INT"] {
        let upstream = FakeUpstream::start();
        upstream.on("slow.test", Reply::silence());
        let mut server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]").start();
        let address = server.address();
        // A question in flight and an idle connection do not hold up the end.
        let _idle = TcpStream::connect(address).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&ask("slow.test", RecordType::A).bytes(), address).unwrap();
        server.until("in flight", || (upstream.total() > 0).then_some(()));
        server.signal(signal);
        assert_eq!(server.wait_exit().code(), Some(0), "{signal}: {}", server.log());
        assert!(TcpStream::connect(address).is_err(), "{signal}: the port is free again");
    }
}

#[test]
fn clients_raise_no_log_line_above_debug() {
    let upstream = FakeUpstream::start();
    upstream.otherwise(Reply::by(|seen| match seen.qname.get(..6) {
        Some("broken") => vec![seen.bytes[..20].to_vec()],
        Some("refuse") => vec![Answer::rcode(ResponseCode::Refused).to(seen)],
        _ => vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)],
    }));
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]").upstream_line("timeout_ms = 100").start();
    let before = server.log_lines(&[]).len();
    for name in ["allowed.test", "denied.example", "broken.test"] {
        ask(name, RecordType::A).both(&server);
    }
    ask("x.test", RecordType::A).class(3).udp(&server);
    ask("x.test", RecordType::A).flags(0x7900).udp(&server);
    client::udp_exchange([127, 0, 0, 1].into(), server.address(), &[0; 13], DEADLINE).unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(&[0xff; 100]).unwrap();
    drop(stream);
    for number in 0..30 {
        ask(&format!("broken{number}.test"), RecordType::A).udp(&server);
        ask(&format!("refused{number}.test"), RecordType::A).udp(&server);
    }
    let lines = server.log_lines(&[]);
    let loud: Vec<_> = lines[before..].iter().filter(|line| !line.contains("DEBUG")).collect();
    // That an upstream went down or came back may be told; that is not one line a query.
    let (upstream_lines, client_lines): (Vec<&String>, Vec<&String>) =
        loud.into_iter().partition(|line| line.contains("upstream"));
    assert!(client_lines.is_empty(), "{client_lines:#?}");
    assert!(upstream_lines.len() < 5, "{upstream_lines:#?}");
}
