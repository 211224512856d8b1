//! The README as a newcomer follows it: each of its console blocks is run, in order, and shows what it says.
//!
//! The blocks use fixed ports and the system's resolver, so they run in a network namespace of their own, with a scripted
//! upstream at the address that `resolv.conf` has there. A block without a command shows what the running hostgate logs.

mod session;
mod transcript;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use self::session::Session;
use self::transcript::{Block, blocks};
use crate::support::*;

/// Set for the process that runs in the namespace.
const INSIDE: &str = "HOSTGATE_TEST_README";

/// Names that the README asks for, and their addresses there.
const ZONE: [(&str, [u8; 4]); 4] = [
    ("github.com", [140, 82, 121, 3]),
    ("api.openai.com", [162, 159, 140, 245]),
    ("example.com", [93, 184, 215, 14]),
    ("registry.npmjs.org", [104, 16, 1, 34]),
];

/// Runs a test of this file again in namespaces of its own, or returns true in these.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = "ip link set lo up && printf 'nameserver 127.0.0.53\\n' >\"$1\" && \
                  mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\" && exec \"$0\" --exact \"$2\" --nocapture";
    let directory = tempfile::tempdir().unwrap();
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let has = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", &search).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // As root there may be namespaces where there are no user namespaces.
    let flags = ["-mn", "-rmn"].into_iter().find(|flags| has("unshare", &[flags, "ip", "link"]));
    let (Some(flags), true, true) = (flags, has("dig", &["-v"]), has("openssl", &["version"])) else {
        skip("it needs namespaces, ip, dig and openssl");
        return false;
    };
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    command.arg(directory.path().join("resolv.conf")).arg(test);
    let output = command.env(INSIDE, "yes").env("PATH", search).stdin(Stdio::null()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "in the namespace:\n{told}");
    false
}

/// Copies what a clone has of policies.
fn clone_policies(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    for folder in ["", "presets"] {
        fs::create_dir_all(to.join("policies").join(folder)).unwrap();
        for entry in fs::read_dir(from.join(folder)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
        {
            fs::copy(entry.path(), to.join("policies").join(folder).join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn every_console_block_shows_what_comes_out() {
    if !is_inside("readme::every_console_block_shows_what_comes_out") {
        return;
    }
    let upstream = FakeUpstream::at("127.0.0.53:53");
    for (name, address) in ZONE {
        upstream.on(name, Answer::new().ttl(5).a(name, Ipv4Addr::from(address)));
    }
    let directory = tempfile::tempdir().unwrap();
    clone_policies(directory.path());
    let mut session = Session::new(directory.path());
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut ran = 0;
    for Block { line, kind, lines } in blocks(&text) {
        let is_configuration = kind == "toml" && lines[0].starts_with("[control]");
        match &*kind {
            "console" => {
                session.follow(line, &lines);
                ran += 1;
            }
            "toml" if is_configuration => fs::write(directory.path().join("hostgate.toml"), lines.join("\n")).unwrap(),
            _ => {}
        }
    }
    assert!(ran >= 8, "only {ran} blocks ran");
}
