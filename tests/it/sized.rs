//! What the machine lets hostgate have: addresses, threads, descriptors, memory.

use std::process::Command;

use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";

/// Returns a setup with this policy for all and an upstream that nobody asks.
fn setup() -> Setup {
    Setup::new(&[]).servers(&["127.77.8.1:5391"]).file("test.toml", POLICY).top("default_policy = \"test\"")
}

/// Returns whether network namespaces can be had here.
#[expect(clippy::print_stderr, reason = "that a test was skipped is its result")]
fn has_namespaces(test: &str) -> bool {
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-rn" };
    let has = Command::new("unshare").args([flags, "ip", "link"]).output().is_ok_and(|output| output.status.success());
    if !has {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI skips nothing");
        eprintln!("SKIPPED {test}: it takes network namespaces and ip");
    }
    has
}

#[test]
fn machine_without_the_default_admin_address_has_it_on_ipv6_or_goes_without() {
    if !has_namespaces("machine_without_the_default_admin_address_has_it_on_ipv6_or_goes_without") {
        return;
    }
    let lone = "ip link set lo up && ip addr del 127.0.0.1/8 dev lo";
    let six = setup().listen_only("[::1]:0").table("[admin]").prepared(lone, true).start();
    six.wait_log(&["WARN", "127.0.0.1:9153", "instead=[::1]:9153"]);
    six.wait_log(&["listening", "admin", "[::1]:9153"]);
    // No loopback address at all: what is answered matters more.
    let none = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && \
                ip addr del 127.0.0.1/8 dev lo && ip addr del ::1/128 dev lo";
    let none = setup().listen_only("192.0.2.7:0").table("[admin]").prepared(none, true).start();
    none.wait_log(&["ERROR", "no admin endpoint"]);
    assert_eq!(none.log_lines(&["listening", "transport=\"udp\"", "192.0.2.7"]).len(), 1);
    // Another address is meant.
    let written = setup().listen_only("[::1]:0").table("[admin]\nlisten = \"127.0.0.1:9154\"").prepared(lone, true);
    written.refused().expect_code(1).expect_text(&["bind admin 127.0.0.1:9154"]);
}

#[test]
fn thousands_of_sighups_write_a_bounded_number_of_lines() {
    let mut server = setup().start();
    let hangup = |count: usize| {
        for _ in 0..count {
            server.signal("HUP");
        }
    };
    hangup(300);
    server.wait_log(&["nothing changed"]);
    server.write("test.toml", "[policy.test]\nallowed = 1\n");
    server.wait_error();
    hangup(300);
    let count = server.log_lines(&["nothing changed"]).len() + server.log_lines(&["policy not reloaded"]).len();
    assert!(count <= 50, "{count} lines");
    server.write("test.toml", POLICY);
    server.wait_no_error();
    server.signal("TERM");
    server.wait_exit();
}
