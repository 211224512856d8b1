//! The system's upstreams: a resolv.conf that is there, empty, gone, or changes.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::*;

/// Starts with a policy that allows everything below `test` and the upstreams of `resolv.conf`.
fn setup() -> Setup {
    let policy = "[policy.test]\nallowed_hostnames = [\"*.test\"]\n";
    Setup::new(&[]).file("test.toml", policy).top("default_policy = \"test\"").resolv_conf()
}

#[test]
fn without_upstreams_denied_names_are_denied_and_the_rest_is_servfail() {
    for (case, text) in
        [("gone", None), ("empty", Some("")), ("no nameserver", Some("search corp.test\noptions ndots:2\n"))]
    {
        let setup = setup();
        if let Some(text) = text {
            fs::write(setup.directory().join("resolv.conf"), text).unwrap();
        }
        let server = setup.start();
        ask("denied.example", RecordType::A).both(&server).expect_denied();
        let start = Instant::now();
        let heard = ask("name.test", RecordType::A).both(&server);
        assert_eq!(heard.rcode(), ResponseCode::ServFail, "{case}");
        assert!(heard.ede_codes().iter().any(|code| [22, 23].contains(code)), "{case}: {:?}", heard.edes());
        assert!(start.elapsed() < Duration::from_secs(1), "{case}: at once, not after {:?}", start.elapsed());
        assert!(server.status()["upstream_error"].is_string(), "{case}: {}", server.status());
        let is_told = |level| !server.log_lines(&[level, "resolv.conf"]).is_empty();
        server.until(&format!("{case}: told"), || (is_told("WARN") || is_told("ERROR")).then_some(()));
    }
}

#[test]
fn resolv_conf_is_watched() {
    // A resolv.conf names no ports, so its servers are on port 53, which a test cannot listen on; what the
    // status says about them is enough.
    let setup = setup();
    let path = setup.directory().join("resolv.conf");
    fs::write(&path, "nameserver 127.99.99.1\n").unwrap();
    let server = setup.start();
    let servers = |server: &Server| server.status()["upstreams"].to_string();
    assert!(servers(&server).contains("127.99.99.1"), "{}", servers(&server));

    fs::write(&path, "# changed\nnameserver 127.99.99.2\nnameserver 127.99.99.3\n").unwrap();
    server.until("the new servers", || {
        let now = servers(&server);
        (now.contains("127.99.99.2") && now.contains("127.99.99.3") && !now.contains("127.99.99.1")).then_some(())
    });
    assert!(server.status()["upstream_error"].is_null());

    assert!(server.out_of_date("next-start").is_none());
    fs::remove_file(&path).unwrap();
    server.until("no servers", || server.status()["upstream_error"].is_string().then_some(()));
    let entry = server.wait_out_of_date("next-start");
    assert!(entry["path"].as_str().unwrap().ends_with("resolv.conf"), "{entry}");
    assert!(entry["why"].as_str().unwrap().contains("the next start would have no upstream"), "{entry}");
    let config = server.directory().join("hostgate.toml");
    let told = run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(1);
    told.expect_text(&["allowed names would be answered SERVFAIL", "resolv.conf"]);
    ask("denied.example", RecordType::A).udp(&server).expect_denied();

    let beside = server.directory().join("resolv.conf.new");
    fs::write(&beside, "nameserver 127.99.99.4\n").unwrap();
    fs::rename(beside, &path).unwrap();
    server.until("the server of the renamed file", || servers(&server).contains("127.99.99.4").then_some(()));
    server.until("no error", || server.status()["upstream_error"].is_null().then_some(()));
}

#[test]
fn last_servers_are_asked_on_while_resolv_conf_names_none() {
    let setup = setup();
    let path = setup.directory().join("resolv.conf");
    fs::write(&path, "nameserver 127.99.99.1\nnameserver 127.99.99.2\n").unwrap();
    let server = setup.start();
    let error = |server: &Server| server.status()["upstream_error"].as_str().map(str::to_owned);
    for (case, text) in [
        ("emptied", Some("")),
        ("without a nameserver", Some("search example\n")),
        ("half written", Some("nameser")),
        ("gone", None),
        ("not an address", Some("nameserver dns.example\n")),
    ] {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let told = server.until(case, || error(&server));
        assert!(
            told.contains("the last ones stay in use until then: 127.99.99.1:53, 127.99.99.2:53"),
            "{case}: {told}"
        );
        assert_eq!(server.status()["upstreams"].as_array().map(Vec::len), Some(2), "{case}");
        server.until(case, || server.log_lines(&["ERROR", "keeping the last ones"]).pop());
        fs::write(&path, "nameserver 127.99.99.1\nnameserver 127.99.99.2\n").unwrap();
        server.until(case, || error(&server).is_none().then_some(()));
    }
    server.wait_log(&["INFO", "upstreams are named again"]);
    assert_eq!(server.log_lines(&["upstreams changed"]), [""; 0], "they are the same");
}

#[test]
fn resolv_conf_that_is_a_symlink_is_watched_where_it_leads() {
    // As systemd-resolved and NetworkManager have it: /etc/resolv.conf leads to a file below /run that is renamed over.
    let setup = setup();
    let run = setup.directory().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("stub.conf"), "nameserver 127.99.99.1\n").unwrap();
    std::os::unix::fs::symlink("run/stub.conf", setup.directory().join("resolv.conf")).unwrap();
    let server = setup.start();
    for last in 2..5 {
        fs::write(run.join("new"), format!("nameserver 127.99.99.{last}\n")).unwrap();
        fs::rename(run.join("new"), run.join("stub.conf")).unwrap();
        let wanted = format!("127.99.99.{last}");
        server.until(&wanted, || server.status()["upstreams"].to_string().contains(&wanted).then_some(()));
    }
}

#[test]
fn bad_line_is_told_once_and_with_its_place() {
    let setup = setup();
    let text = "# one\nnameserver dns.example\nnameserver 127.99.99.1\nnameserver 192.0.2.300\noptions bogus\n";
    fs::write(setup.directory().join("resolv.conf"), text).unwrap();
    let server = setup.start();
    ask("denied.example", RecordType::A).udp(&server).expect_denied();
    for (place, value) in [("resolv.conf:2:", "dns.example"), ("resolv.conf:4:", "192.0.2.300")] {
        server.until("told", || (!server.log_lines(&["WARN", place, value]).is_empty()).then_some(()));
        assert_eq!(server.log_lines(&[value]).len(), 1, "{}", server.log());
    }
    assert!(server.log_lines(&["hickory"]).is_empty() && server.log_lines(&["line 0"]).is_empty(), "{}", server.log());
}
