//! The real thing: a network namespace as the devbox, a container build and NSD as upstream, with Debian's own programs.
//!
//! The scripts are in `tests/rig` and can be run by hand: `HOSTGATE=target/debug/hostgate tests/rig/devbox.sh`.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::*;

/// The exit code by which a script says that it cannot run here.
const CANNOT_RUN: i32 = 77;

/// Runs a script of the rig against the real binary; it has deadlines of its own for each step.
#[expect(clippy::print_stdout, reason = "what a script saw is the result")]
fn rig(script: &str) {
    let path = format!("{}/tests/rig/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("sh");
    // The servers of Debian's packages live in sbin.
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.arg(path).env("HOSTGATE", env!("CARGO_BIN_EXE_hostgate")).env("PATH", search).stdin(Stdio::null());
    let output = command.output().expect("sh is there");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {
            println!("{told}");
            told.lines().filter(|line| line.starts_with("skip ")).for_each(|part| skip(&format!("{script}: {part}")));
        }
        Some(CANNOT_RUN) => skip(&format!("{script}: {told}")),
        code => panic!("{script} failed ({code:?}):\n{told}"),
    }
}

#[test]
fn a_devbox_sees_allowed_and_denied_names_as_its_user_would() {
    rig("devbox.sh");
}

#[test]
fn the_steps_of_the_guide_for_a_service_do_what_it_says() {
    rig("steps.sh");
}

#[test]
fn a_container_build_resolves_what_its_policy_allows_and_nothing_else() {
    rig("build.sh");
}

#[test]
fn tunnels_get_next_to_nothing_through_an_allowed_wildcard() {
    rig("tunnels.sh");
}

#[test]
fn validators_validate_what_an_allow_list_names() {
    rig("validators.sh");
}

#[test]
fn clients_of_every_kind_say_what_is_so_and_in_time() {
    rig("clients.sh");
}

#[test]
fn a_reply_comes_from_the_address_asked_whatever_the_listener() {
    rig("addresses.sh");
}

/// A zone with what upstreams really answer: aliases, a wildcard, several addresses, a long answer, services.
const ZONE: &str = "$ORIGIN example.\n$TTL 300\n@ SOA ns.example. admin.example. 1 3600 600 86400 60\n NS ns.example.\n\
    ns A 93.184.215.1\nwww CNAME web\nweb CNAME front.cdn\nfront.cdn A 93.184.215.14\n A 93.184.215.15\n AAAA 2606:2800::1\n\
    *.wild A 93.184.215.16\nhome A 10.0.0.1\nlong TXT ( STRINGS )\nsvc HTTPS 1 . alpn=h2 ipv4hint=93.184.215.14,10.0.0.1 ech=AAAA\n\
    _sip._tcp SRV 1 2 5060 web\nodd TYPE65400 \\# 3 010203\n";

#[test]
fn nsd_answers_come_through_whole() {
    let strings: Vec<String> = (0..20).map(|number| format!("\"{number:0>200}\"")).collect();
    let directory = tempfile::tempdir().unwrap();
    let nsd = Nsd::start(directory.path(), &ZONE.replace("STRINGS", &strings.join(" ")));
    let upstream = format!("127.0.0.1:{}", nsd.port);
    let server = Setup::new(&[])
        .file(
            "p.toml",
            "[policy.p]\nallowed_hostnames = [\"example\", \"*.example\"]\ndenied_hostnames = [\"ns.example\"]\n\
             budget = { answers = 10000 }\n",
        )
        .top("default_policy = \"p\"")
        .servers(&[&upstream])
        .start();
    let dig = |arguments: &[&str]| {
        let (ip, port) = (server.address().ip().to_string(), server.address().port().to_string());
        let mut command = Command::new("dig");
        command.args([&format!("@{ip}"), "-p", &port, "+time=5", "+tries=1", "+noall", "+comments", "+answer"]);
        let output = command.args(arguments).env("HOME", "/nonexistent").output().expect("dig is there");
        String::from_utf8_lossy(&output.stdout).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    let all = |text: &str, parts: &[&str]| {
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    };
    all(
        &dig(&["www.example"]),
        &["NOERROR", "CNAME web.example.", "CNAME front.cdn.example.", "A 93.184.215.14", "A 93.184.215.15"],
    );
    all(&dig(&["front.cdn.example", "AAAA"]), &["AAAA 2606:2800::1"]);
    all(&dig(&["a.b.wild.example"]), &["a.b.wild.example. 300 IN A 93.184.215.16"]);
    all(&dig(&["none.example"]), &["status: NXDOMAIN"]);
    all(&dig(&["web.example", "MX"]), &["status: NOERROR", "CNAME front.cdn.example."]);
    all(&dig(&["ns.example"]), &["status: NXDOMAIN", "EDE: 15 (Blocked)"]);
    all(&dig(&["home.example"]), &["status: NOERROR", "EDE: 17 (Filtered)", "ANSWER: 0"]);
    all(&dig(&["_sip._tcp.example", "SRV"]), &["SRV 1 2 5060 web.example."]);
    all(&dig(&["long.example", "TXT", "+ignore"]), &["flags: qr tc", "ANSWER: 0"]);
    all(&dig(&["long.example", "TXT"]), &["ANSWER: 1", "019\""]);
    let service = dig(&["svc.example", "HTTPS"]);
    all(&service, &["HTTPS 1 . alpn=\"h2\"", "ipv4hint=93.184.215.14"]);
    assert!(!service.contains("ech") && !service.contains("10.0.0.1"), "{service}");
    // Of a type that the policy does not let through, nothing comes.
    all(&dig(&["odd.example", "TYPE65400"]), &["status: NOERROR", "EDE: 15 (Blocked)", "ANSWER: 0"]);
}

/// A real authoritative server on a free loopback port; killed when dropped.
struct Nsd {
    /// The process.
    child: Child,
    /// Its port.
    port: u16,
}

impl Nsd {
    /// Serves `zone` as `example`, from files in `directory`, and waits until it answers.
    fn start(directory: &Path, zone: &str) -> Self {
        let root = directory.display();
        std::fs::write(directory.join("zone"), zone).unwrap();
        // The port has to be named before the start, so somebody may take it meanwhile.
        for _ in 0..5 {
            let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "server:\n ip-address: 127.0.0.1@{port}\n zonesdir: \"{root}\"\n username: \"\"\n database: \"\"\n \
                 pidfile: \"{root}/pid\"\n xfrdfile: \"{root}/x\"\n zonelistfile: \"{root}/zl\"\n xfrdir: \"{root}\"\n \
                 server-count: 1\nremote-control:\n control-enable: no\nzone:\n name: example\n zonefile: zone\n"
            );
            std::fs::write(directory.join("nsd.conf"), config).unwrap();
            let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
            let mut command = Command::new("nsd");
            command.args(["-d", "-c"]).arg(directory.join("nsd.conf")).env("PATH", search).stderr(Stdio::null());
            let mut nsd = Self { child: command.spawn().expect("nsd is there"), port };
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let answers = until_within(DEADLINE, || {
                let ended = nsd.child.try_wait().unwrap().is_some();
                let answered = ask("www.example", RecordType::A).udp_to(address).is_ok();
                (ended || answered).then_some(answered && !ended)
            });
            if answers == Some(true) {
                return nsd;
            }
        }
        panic!("nsd does not answer");
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // It forks; the children end with the parent when told to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
