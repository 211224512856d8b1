//! Threads that hang are told, and a stop ends at its deadline whatever hangs.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::faults::Fault;
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";
/// How long a thread may be silent, and a little more.
const HANG: Duration = Duration::from_secs(20);
/// When a stop is over whatever hangs: five seconds, the decision log's one and the log's one, and a little more.
const END: Duration = Duration::from_secs(8);
/// The exit code of a stop that left something unfinished.
const UNFINISHED: Option<i32> = Some(75);

/// Waits for a fact for longer than others take.
#[track_caller]
fn soon<T>(server: &Server, what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(HANG, look).unwrap_or_else(|| panic!("{what}: {:#}\n{}", server.status(), server.log()))
}

/// Sends SIGTERM and returns how long the end took, and the exit code.
fn stop(server: &mut Server) -> (Duration, Option<i32>) {
    let start = Instant::now();
    server.signal("TERM");
    let code = server.wait_exit().code();
    (start.elapsed(), code)
}

/// What systemd hears.
struct Systemd(UnixDatagram);

impl Systemd {
    /// Listens at a path.
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self(socket)
    }

    /// Returns the next notification; `None` when there is none for three seconds.
    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Returns whether the next notification comes within three seconds, and is a sign of life.
    fn is_petted(&self) -> bool {
        // What lies there from before says nothing.
        self.0.set_nonblocking(true).unwrap();
        while self.next().is_some() {}
        self.0.set_nonblocking(false).unwrap();
        self.next().is_some_and(|text| text.contains("WATCHDOG=1"))
    }
}

/// Starts a server that systemd watches.
fn watched(upstream: &FakeUpstream) -> (Server, Systemd, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = Systemd::at(&path);
    let server = Setup::policy(upstream, POLICY)
        .control("")
        .top("threads = 1")
        .in_namespace()
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "1000000")
        .start();
    assert!(systemd.is_petted());
    (server, systemd, directory)
}

#[test]
fn thread_that_hangs_is_told_with_its_name_until_it_goes_on() {
    let upstream = FakeUpstream::start();
    std::thread::scope(|scope| {
        for (name, kind) in [("udp-0-0", "udp"), ("tcp", "tcp"), ("reload", "reload"), ("runtime", "runtime")] {
            let upstream = &upstream;
            scope.spawn(move || {
                let (server, systemd, _directory) = watched(upstream);
                assert_eq!((server.get("/livez").status, server.get("/readyz").status), (200, 200));
                let fault = Fault::freeze(&server, &[name]);
                let told = soon(&server, "/livez", || Some(server.get("/livez")).filter(|live| live.status == 503));
                assert!(told.body.starts_with(&format!("thread {name} has been hanging since 20")), "{told:?}");
                assert_eq!(server.get("/readyz").status, 503);
                assert_eq!(server.metric("hostgate_thread_stalled", &[]), 1);
                assert_eq!(server.metric("hostgate_thread_stalled", &[("thread", kind)]), 1);
                assert_eq!(server.status()["stalled"][0]["thread"], name);
                server.wait_log(&["ERROR", "thread hangs", name]);
                assert!(!systemd.is_petted(), "systemd would not restart it");
                drop(fault);
                soon(&server, "it goes on", || (server.get("/livez").status == 200).then_some(()));
                assert_eq!((server.metric("hostgate_thread_stalled", &[]), server.get("/readyz").status), (0, 200));
                server.wait_log(&["WARN", "thread goes on", name]);
                assert!(systemd.is_petted());
            });
        }
        // Those who tell of it.
        for name in ["hostgate", "admin"] {
            let upstream = &upstream;
            scope.spawn(move || {
                let (server, systemd, _directory) = watched(upstream);
                let _fault = Fault::freeze(&server, &[name]);
                soon(&server, "silence", || (!systemd.is_petted()).then_some(()));
                if name == "hostgate" {
                    soon(&server, "/livez", || (server.get("/livez").status == 503).then_some(()));
                    assert_eq!(server.metric("hostgate_thread_stalled", &[("thread", "main")]), 1);
                }
                ask("a.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
            });
        }
    });
}

#[test]
fn stopped_process_that_goes_on_has_no_thread_that_hangs() {
    let upstream = FakeUpstream::start();
    let (server, systemd, _directory) = watched(&upstream);
    server.signal("STOP");
    pause(Duration::from_secs(12));
    server.signal("CONT");
    for _ in 0..20 {
        assert_eq!(server.get("/livez").status, 200);
        pause(Duration::from_millis(50));
    }
    assert!(systemd.is_petted());
    assert!(server.log_lines(&["thread hangs"]).is_empty());
}

#[test]
fn file_system_that_does_not_answer_is_told_and_is_no_reason_for_a_restart() {
    let upstream = FakeUpstream::start();
    let (mut server, systemd, _directory) = watched(&upstream);
    let directory = server.policies("team");
    fs::create_dir(&directory).unwrap();
    server.wait_generation(1);
    let fault = Fault::hang(&server, &directory);
    server.signal("HUP");
    soon(&server, "/readyz", || (server.get("/readyz").status == 503).then_some(()));
    soon(&server, "the metric", || {
        (server.metric("hostgate_thread_stalled", &[("thread", "reload")]) == 1).then_some(())
    });
    assert_eq!(server.status()["stalled"][0]["on_disk"], true, "{:#}", server.status());
    assert_eq!(server.get("/livez").status, 200);
    assert!(systemd.is_petted());
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    server.api_post("/v1/network-policies", &json!({ "name": "p" })).refused(503, &["a reload has been running"]);
    drop(fault);
    soon(&server, "it goes on", || (server.get("/readyz").status == 200).then_some(()));
    assert_eq!(server.metric("hostgate_thread_stalled", &[]), 0);
    // At the end, too.
    let _fault = Fault::hang(&server, &directory);
    server.signal("HUP");
    server.until("it hangs", || (server.metric("hostgate_reload_running_seconds", &[]) > 0).then_some(()));
    let (taken, code) = stop(&mut server);
    assert!(taken < END && code == UNFINISHED, "{taken:?} {code:?}");
    server.wait_log(&["ERROR", "stopped at the deadline", "a reload"]);
}

#[test]
fn token_file_that_does_not_answer_costs_the_api_alone() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY)
        .table("[control]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"secret/token\"")
        .in_namespace();
    let directory = setup.directory().join("secret");
    fs::create_dir(&directory).unwrap();
    setup.write_secret("secret/token", &format!("{}\n", api::TOKEN));
    let server = setup.start();
    let list = || server.api_get("/v1/network-policies");
    list().done();
    let fault = Fault::hang(&server, &directory);
    let error = || server.status()["control"]["error"].as_str().unwrap_or_default().to_owned();
    server.until("it is noticed", || error().contains("does not answer").then_some(()));
    for _ in 0..20 {
        let start = Instant::now();
        list().refused(503, &["the token file does not answer"]);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    let start = Instant::now();
    list().refused(503, &["the token file does not answer"]);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    ask("a.test", RecordType::A).both(&server).expect_addresses(&[GLOBAL.into()]);
    let status = server.status();
    assert!(status["control"]["error"].as_str().is_some_and(|error| error.contains("does not answer")), "{status:#}");
    assert_eq!((server.get("/livez").status, server.get("/readyz").status), (200, 200));
    drop(fault);
    server.inside(&format!("umount -l {}", directory.display()));
    soon(&server, "the API", || server.status()["control"]["error"].is_null().then_some(()));
    list().done();
}

#[test]
fn all_listeners_stop_at_once() {
    for count in [20, 60] {
        let upstream = FakeUpstream::start();
        let mut setup = Setup::policy(&upstream, POLICY);
        for _ in 1..count {
            setup = setup.listen("127.0.0.1:0", None);
        }
        let mut server = setup.start();
        let first = server.address();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let start = Instant::now();
        server.signal("TERM");
        let mut answered = start;
        let exit = until_within(DEADLINE, || {
            socket.send_to(&ask("nope.example", RecordType::A).bytes(), first).unwrap();
            if socket.recv(&mut [0; 512]).is_ok() {
                answered = Instant::now();
            }
            server.has_exited().then(Instant::now)
        });
        let (taken, dark) = (exit.unwrap() - start, exit.unwrap() - answered);
        assert!(taken < Duration::from_millis(1500), "{count} listeners: {taken:?}");
        assert!(dark < Duration::from_secs(1), "{count} listeners: dark for {dark:?}");
        assert_eq!(server.wait_exit().code(), Some(0));
    }
}

#[test]
fn requests_before_a_hung_token_file_is_known_hold_up_no_query() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY)
        .table("[control]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"secret/token\"")
        .in_namespace();
    fs::create_dir(setup.directory().join("secret")).unwrap();
    setup.write_secret("secret/token", &format!("{}\n", api::TOKEN));
    let server = setup.start();
    server.api_get("/v1/network-policies").done();
    let _fault = Fault::hang(&server, &server.directory().join("secret"));
    // More at once than there are threads for them.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let start = Instant::now();
                server.api_get("/v1/network-policies").refused(503, &["does not answer"]);
                assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            });
        }
        for _ in 0..20 {
            let start = Instant::now();
            ask("nope.example", RecordType::A).tcp(&server).expect_denied();
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
    });
}

#[test]
fn stop_ends_at_its_deadline_whatever_hangs() {
    let upstream = FakeUpstream::start();
    upstream.on("never.test", Reply::silence());
    let setup = Setup::policy(&upstream, POLICY)
        .control("audit = \"audit\"")
        .table("[decisions]\npath = \"decisions\"")
        .upstream_line("timeout_ms = 60000");
    let mut readers = Vec::new();
    for name in ["audit", "decisions"] {
        let path = setup.directory().join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // A reader that does not read.
        readers.push(fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
    }
    let mut server = setup.start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2_000 {
        ask("nope.example", RecordType::A).udp(&server);
    }
    socket.send_to(&ask("never.test", RecordType::A).bytes(), server.address()).unwrap();
    server.stop_reading_log();
    let _frozen = Fault::freeze(&server, &["runtime", "reload", "udp-0-1"]);
    let (taken, code) = stop(&mut server);
    assert!(taken < END && code == UNFINISHED, "{taken:?} {code:?}");
}

#[test]
fn after_a_take_over_the_old_one_ends_whatever_hangs() {
    let upstream = FakeUpstream::start();
    let mut first = Setup::policy(&upstream, POLICY).top("takeover = \"takeover\"\nthreads = 2").start();
    first.keep_addresses();
    first.stop_reading_log();
    let _frozen = Fault::freeze(&first, &["runtime", "reload", "admin", "udp-0-0"]);
    let start = Instant::now();
    let second = first.successor();
    second.replace("test.toml", "[policy.test]\nallowed_hostnames = [\"new.test\"]\n");
    second.wait_generation(2);
    assert_eq!(first.wait_exit().code(), UNFINISHED);
    assert!(start.elapsed() < END + Duration::from_secs(2), "{:?}", start.elapsed());
    for _ in 0..50 {
        ask("new.test", RecordType::A).both(&second).expect_addresses(&[GLOBAL.into()]);
    }
}

#[test]
fn systemd_that_does_not_read_holds_up_nothing_and_hears_of_it_later() {
    let upstream = FakeUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = Systemd::at(&path);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"FILLER=1", &path).is_ok() {}
    let mut server = Setup::policy(&upstream, POLICY)
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "1000000")
        .start();
    for generation in 2..5 {
        server.replace("test.toml", format!("[policy.test]\nallowed_hostnames = [\"n{generation}.test\"]\n"));
        server.wait_generation(generation);
    }
    assert_eq!(server.get("/livez").status, 200);
    let told = until("ready", || systemd.next().filter(|text| text.contains("READY=1")));
    assert!(told.contains("STATUS=generation 4, ") && told.contains("WATCHDOG=1"), "{told}");
    while filler.send_to(b"FILLER=1", &path).is_ok() {}
    let (taken, code) = stop(&mut server);
    assert!(taken < Duration::from_secs(2) && code == Some(0), "{taken:?} {code:?}");
}
