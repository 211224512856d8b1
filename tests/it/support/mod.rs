//! What the tests stand on: the binary, scripted upstreams, clients, and waiting for facts with a deadline.

pub(crate) mod answer;
pub(crate) mod api;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod fake_api;
pub(crate) mod faults;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod objects;
pub(crate) mod server;
pub(crate) mod setup;
pub(crate) mod upstream;

pub(crate) use answer::Answer;
pub(crate) use client::{Heard, ask};
pub(crate) use command::{Finished, run};
pub(crate) use server::Server;
pub(crate) use setup::Setup;
pub(crate) use upstream::{FakeUpstream, Reply, is_name_probe};

pub(crate) use hickory_proto::op::ResponseCode;
pub(crate) use hickory_proto::rr::RecordType;

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long a test waits for a fact before it fails; a slow, busy machine needs far less.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A globally reachable address, as scripted upstreams answer; nothing is ever sent to it. The documentation
/// ranges (RFC 5737, RFC 3849) are not globally reachable and would be filtered.
pub(crate) const GLOBAL: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);

/// Another globally reachable address.
pub(crate) const GLOBAL_2: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 15);

/// A globally reachable IPv6 address.
pub(crate) const GLOBAL_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0xcb07, 0x6820, 0x80da, 0xaf6b, 0x8b2c);

/// Looks until `look` returns something, and returns it; panics with `what` after [`DEADLINE`].
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(DEADLINE, look).unwrap_or_else(|| panic!("waited {DEADLINE:?} in vain: {what}"))
}

/// Looks until `look` returns something or `limit` is over.
pub(crate) fn until_within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        pause(Duration::from_millis(5));
    }
}

/// Says that this test is skipped, and why. Under CI=true, where nothing may be skipped, it fails instead.
///
/// The line is written past the test runner, which shows nothing that a passing test prints.
#[track_caller]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI skips nothing: {why}");
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
}

/// Returns whether this process has a network of its own; else runs this test, named `test`, in one that has, to its end, or
/// skips it where there can be none.
#[track_caller]
pub(crate) fn has_own_network(test: &str) -> bool {
    const INSIDE: &str = "HOSTGATE_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = std::process::Command::new("unshare");
    command.env("PATH", &search).args(["-rn", "ip", "link"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        skip("it needs a user namespace, a network namespace and ip");
        return false;
    }
    let mut command = std::process::Command::new("unshare");
    command.args(["-rn", "sh", "-c", "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).arg(test).env(INSIDE, "yes").env("PATH", search);
    let output = command.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "in the namespace:\n{told}");
    false
}

/// Lets `time` pass between two looks; never a substitute for looking.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Raises the limit on open files as far as it goes: some tests open more than a thousand connections.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).unwrap();
}
