//! The real thing: a network namespace as the devbox, and a container build, each with Debian's own programs as the user.
//!
//! The scripts are in `tests/rig` and can be run by hand: `HOSTGATE=target/debug/hostgate tests/rig/devbox.sh`.

use std::process::{Command, Stdio};

/// The exit code by which a script says that it cannot run here.
const CANNOT_RUN: i32 = 77;

/// Runs a script of the rig against the real binary; it has deadlines of its own for each step.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a script saw, and that it was skipped, is the result"
)]
fn rig(script: &str) {
    let path = format!("{}/tests/rig/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("sh");
    // The servers of Debian's packages live in sbin.
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.arg(path).env("HOSTGATE", env!("CARGO_BIN_EXE_hostgate")).env("PATH", search).stdin(Stdio::null());
    let output = command.output().expect("sh is there");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    match output.status.code() {
        Some(0) if is_ci && told.lines().any(|line| line.starts_with("skip ")) => {
            panic!("a part of {script} was skipped, and CI skips nothing:\n{told}")
        }
        Some(0) => println!("{told}"),
        Some(CANNOT_RUN) if !is_ci => eprintln!("SKIPPED {script}: {told}"),
        code => panic!("{script} failed ({code:?}):\n{told}"),
    }
}

#[test]
fn a_devbox_sees_allowed_and_denied_names_as_its_user_would() {
    rig("devbox.sh");
}

#[test]
fn a_container_build_resolves_what_its_policy_allows_and_nothing_else() {
    rig("build.sh");
}
