//! README and book as a newcomer follows them: each console block of a page is run, in order, and shows what it says; each
//! `toml` block loads; each link leads somewhere.
//!
//! The blocks use fixed ports and the system's resolver, so they run in a network namespace of their own, with a scripted
//! upstream at the address that `resolv.conf` has there. A block without a command shows what the running hostgate logs.

mod links;
mod session;
mod transcript;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use self::session::Session;
use self::transcript::{Block, blocks};
use crate::support::*;

/// Set for the process that runs in the namespace.
const INSIDE: &str = "HOSTGATE_TEST_README";

/// Names that the pages ask for, and their addresses there.
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

/// Returns the README and the pages of the book: their paths in the repository, and their texts.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = fs::read_dir(root.join("docs/src")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut paths: Vec<_> = book.map(|name| format!("docs/src/{}", name.to_str().unwrap())).collect();
    paths.retain(|path| Path::new(path).extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.insert(0, "README.md".to_owned());
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(root.join(path)).unwrap())).collect()
}

/// Returns whether a `toml` block is a configuration; others are policy files.
fn is_configuration(block: &Block) -> bool {
    block.lines[0].starts_with("# hostgate.toml")
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
    let mut ran = 0;
    for (path, text) in pages() {
        let blocks = blocks(&path, &text);
        if blocks.iter().all(|block| block.kind != "console") {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        clone_policies(directory.path());
        let mut session = Session::new(&path, directory.path());
        // A page that does not start hostgate presumes the one of the quick start.
        if !text.contains("\n$ cargo run --release") {
            session.serve("cargo run --release");
        }
        for block in blocks {
            match &*block.kind {
                "console" => {
                    session.follow(block.line, &block.lines);
                    ran += 1;
                }
                "toml" if is_configuration(&block) => {
                    fs::write(directory.path().join("hostgate.toml"), block.lines.join("\n")).unwrap();
                }
                _ => {}
            }
        }
    }
    assert!(ran >= 16, "only {ran} blocks ran");
}

#[test]
fn every_toml_block_loads() {
    let (mut policies, mut configurations) = (0, 0);
    for (path, text) in pages() {
        for block in blocks(&path, &text) {
            let place = format!("{path}:{}", block.line);
            match &*block.kind {
                "toml" => {}
                // A fragment, or another program's file.
                "toml,ignore" => continue,
                kind => {
                    assert!(!kind.starts_with("toml"), "{place}: `{kind}`: use `toml` or `toml,ignore`");
                    continue;
                }
            }
            let directory = tempfile::tempdir().unwrap();
            let text = block.lines.join("\n");
            let mut check = Command::new(env!("CARGO_BIN_EXE_hostgate"));
            check.current_dir(directory.path()).arg("check");
            if is_configuration(&block) {
                clone_policies(directory.path());
                fs::write(directory.path().join("hostgate.toml"), text).unwrap();
                let token = directory.path().join("token");
                fs::write(&token, "a".repeat(64)).unwrap();
                fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
                check.args(["--config", "hostgate.toml"]);
                configurations += 1;
            } else {
                fs::create_dir(directory.path().join("policies")).unwrap();
                fs::write(directory.path().join("policies/page.toml"), text).unwrap();
                check.args(["policies", "--strict"]);
                policies += 1;
            }
            let output = check.output().unwrap();
            assert!(output.status.success(), "{place}:\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    assert!(policies >= 2 && configurations >= 2, "only {policies} policies, {configurations} configurations");
}
