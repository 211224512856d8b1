//! Runs the binary to its end, with a deadline.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::{DEADLINE, until_within};

/// What a command that ended left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; none after a signal.
    pub(crate) code: Option<i32>,
    /// All of standard output.
    pub(crate) stdout: String,
    /// All of standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// Returns standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {self:#?}"))
    }

    /// Panics unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Panics unless standard output or standard error holds each of `parts`.
    #[track_caller]
    pub(crate) fn expect_text(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part) || self.stderr.contains(part), "no `{part}` in {self:#?}");
        }
        self
    }
}

/// Runs `hostgate` with `arguments` in a directory of its own and waits for its end.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Finished {
    run_with(arguments, &[])
}

/// Runs `hostgate` so with variables in its environment.
pub(crate) fn run_with<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    environment: &[(&str, &str)],
) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
    command.args(arguments).current_dir(directory.path());
    command.env_remove("HOSTGATE_TOKEN").envs(environment.iter().copied());
    finish(&mut command)
}

/// Runs `command` and waits for its end; kills it and panics after [`DEADLINE`].
pub(crate) fn finish(command: &mut Command) -> Finished {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let status = wait(&mut child);
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else { panic!("{command:?} did not end:\n{stdout}{stderr}") };
    Finished { code: status.code(), stdout, stderr }
}

/// Waits for the end of `child`; none after [`DEADLINE`].
pub(crate) fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    until_within(DEADLINE, || child.try_wait().unwrap())
}

/// Reads `from` to its end on a thread.
fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
