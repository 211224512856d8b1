//! An upstream with a link-local address whose interface comes late, goes, and is made again: in a network namespace of the
//! test's own.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::*;

/// Set for the process that runs in the namespace.
const INSIDE: &str = "HOSTGATE_TEST_LINK_LOCAL";

/// Runs a test of this file again in a namespace of its own, or returns true in it.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-rn" };
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script]).env("PATH", &search).stdin(Stdio::null());
        command
    };
    let probe = inside("ip link set lo up && ip link add vx type veth peer name vy").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("it needs network namespaces, ip and veth");
        return false;
    }
    let mut command = inside("ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture");
    let output = command.arg(std::env::current_exe().unwrap()).arg(test).env(INSIDE, "yes").output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "in the namespace:\n{told}");
    false
}

/// Runs commands of `ip`, one a line.
fn ip(commands: &str) {
    for command in commands.lines().map(str::trim).filter(|command| !command.is_empty()) {
        let output = Command::new("ip").args(command.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Makes the link to the upstream and starts it at its end.
fn link() -> FakeUpstream {
    ip("link add vx type veth peer name vy
        link set vx up
        link set vy up
        -6 addr add fe80::1/64 dev vx nodad
        -6 addr add fe80::53/64 dev vy nodad");
    let index = fs::read_to_string("/proc/net/if_inet6").unwrap();
    let line = index.lines().find(|line| line.ends_with(" vy")).expect("it has an address");
    let index = u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    FakeUpstream::at(&format!("[fe80::53%{index}]:5391"))
}

#[test]
fn interface_of_a_link_local_upstream_is_looked_for_when_it_is_asked() {
    if !is_inside("link_local::interface_of_a_link_local_upstream_is_looked_for_when_it_is_asked") {
        return;
    }
    let policy = "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n";
    for scheme in ["", "tcp://"] {
        let setup = Setup::new(&[]).file("test.toml", policy).top("default_policy = \"test\"");
        let server = setup.servers(&[&format!("{scheme}[fe80::53%vx]:5391")]).start();
        // Nothing is there yet: the question waits for it.
        let (mut held, address) = (None, server.address());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || ask("first.test", RecordType::A).udp_to(address));
            server.until("it is asked", || (server.metric("hostgate_queries_in_flight", &[]) > 0).then_some(()));
            held = Some(link());
            waiting.join().unwrap().unwrap().expect_addresses(&[GLOBAL.into()]);
        });
        for round in 0..3 {
            // The one that is made again has another index.
            drop(held.take());
            ip("link del vx\nlink add va type veth peer name vb\nlink del va");
            let upstream = held.insert(link());
            let name = format!("n{round}.test");
            ask(&name, RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
            assert!(upstream.count(&name) > 0);
        }
        drop(held);
        ip("link del vx");
        let told = server.status()["upstreams"][0]["server"].as_str().unwrap().to_owned();
        assert_eq!(told, format!("{scheme}[fe80::53%vx]:5391"));
        assert_eq!(server.metric("hostgate_failed_answers_total", &[]), 0);
        // Without it, what is told names it.
        let error = server.until("gone", || {
            let _ = ask("gone.test", RecordType::A).udp_to(address);
            server.status()["upstream_error"].as_str().map(str::to_owned)
        });
        assert!(error.contains("unreachable: there is no interface `vx`"), "{error}");
        server.wait_log(&["upstream gone", "there is no interface `vx`"]);
    }
}

#[test]
fn resolv_conf_may_name_an_interface_that_is_not_there() {
    let setup = Setup::new(&[]).file("test.toml", "[policy.test]\n").top("default_policy = \"test\"").resolv_conf();
    fs::write(setup.directory().join("resolv.conf"), "nameserver fe80::53%hg-none0\n").unwrap();
    let server = setup.start();
    assert_eq!(server.status()["upstreams"][0]["server"], "[fe80::53%hg-none0]:53");
    assert!(server.status()["upstream_error"].is_null());
    assert_eq!(ask("denied.test", RecordType::A).udp(&server).rcode(), ResponseCode::NXDomain);
}
