//! The terminals of somebody who follows a page: one in which hostgate runs, and one for all else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::transcript::Ids;
use crate::support::{DEADLINE, command, until_within};

/// Commands that only look, so that they may be asked again until what they show is in force.
const LOOKING: [&str; 6] = ["dig ", "cat ", "hostgate ", "target/release/hostgate ", "ls ", "grep "];

/// What of them changes something all the same.
const CHANGING: [&str; 4] = [" update ", " delete ", " create ", ">"];

/// What is not run: it needs the Internet, or is a test or a build itself.
const LEFT_OUT: [&str; 5] = ["tests/", "python3 -m venv ", "venv/bin/pip ", "git clone ", "rustup "];

/// What the SDK's example does, by the command line: it makes the same three objects.
const SAMPLE: &str = r#"
    policy=$(target/release/hostgate policy create --name runtime-policy --allow github.com --allow api.openai.com 2>/dev/null)
    blueprint=$(target/release/hostgate blueprint create --name secure-agent-blueprint --runtime-policy "$policy" 2>/dev/null)
    devbox=$(target/release/hostgate devbox create --blueprint "$blueprint" 2>/dev/null)
    address=$(target/release/hostgate devbox show "$devbox" 2>/dev/null | sed -n 's/.*address \([^ ]*\).*/\1/p')
    echo "$policy $devbox $address"
"#;

/// The two terminals.
pub(super) struct Session {
    /// The page, as failures name it.
    page: String,
    /// The clone.
    directory: PathBuf,
    /// The hostgate that runs.
    server: Option<Child>,
    /// How many lines of its log were shown.
    shown: usize,
    /// Aliases so far.
    aliases: String,
    /// The ids that the API gave.
    ids: Ids,
}

impl Session {
    /// Opens the terminals in a directory that has policies.
    pub(super) fn new(page: &str, directory: &Path) -> Self {
        let release = directory.join("target/release");
        fs::create_dir_all(&release).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hostgate"), release.join("hostgate")).unwrap();
        Self {
            page: page.to_owned(),
            directory: directory.to_owned(),
            server: None,
            shown: 0,
            aliases: String::new(),
            ids: Ids::default(),
        }
    }

    /// Follows a console block, whose first line is at `place`.
    pub(super) fn follow(&mut self, place: usize, lines: &[String]) {
        let mut parts: Vec<(Option<String>, Vec<String>)> = vec![(None, Vec::new())];
        for line in lines {
            match (line.strip_prefix("$ "), parts.last_mut().unwrap()) {
                (Some(command), _) => parts.push((Some(command.to_owned()), Vec::new())),
                // A command goes on where a line of it ends in a backslash.
                (None, (Some(command), _)) if command.ends_with('\\') => *command = format!("{command}\n{line}"),
                (None, (_, expected)) => expected.push(line.clone()),
            }
        }
        for (command, expected) in parts {
            match command.as_deref() {
                None if expected.is_empty() => {}
                None => self.logs(place, &expected),
                Some(command) if LEFT_OUT.iter().any(|start| command.starts_with(start)) => {
                    assert!(
                        expected.is_empty(),
                        "{}:{place}: `{command}` is not run, so what it shows is not known",
                        self.page
                    );
                }
                Some(command) if command.starts_with("cargo run --release") => {
                    self.serve(command);
                    self.logs(place, &expected);
                }
                Some(command) if command.starts_with("alias ") => self.aliases.extend([command, "\n"]),
                Some(command) => self.shows(place, command, &expected),
            }
        }
    }

    /// Starts hostgate, in the place of the one that runs.
    pub(super) fn serve(&mut self, command: &str) {
        self.stop();
        let log = fs::File::create(self.log_path()).unwrap();
        let arguments = command.split('#').next().unwrap().split(" -- ").nth(1).unwrap_or_default();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(arguments.split_whitespace()).current_dir(&self.directory);
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
        self.server = Some(command.stderr(log).spawn().unwrap());
        self.shown = 0;
    }

    /// Returns the path of the log.
    fn log_path(&self) -> PathBuf {
        self.directory.join("target/log")
    }

    /// Waits until the log goes on with these lines.
    fn logs(&mut self, place: usize, expected: &[String]) {
        let mut log = Vec::new();
        let found = until_within(DEADLINE, || {
            let text = fs::read_to_string(self.log_path()).unwrap_or_default();
            log = text.lines().skip(self.shown).map(str::to_owned).collect();
            (0..=log.len()).rev().find(|end| self.ids.matches(expected, &log[..*end]))
        });
        let Some(end) = found else { self.fail(place, "the running hostgate logs", expected, &log) };
        self.shown += end;
    }

    /// Runs a command and looks that it shows these lines.
    fn shows(&mut self, place: usize, command: &str, expected: &[String]) {
        let only_looks = LOOKING.iter().any(|start| command.starts_with(start))
            && !CHANGING.iter().any(|part| command.contains(part));
        let run = match command {
            "venv/bin/python sample.py" => SAMPLE.to_owned(),
            command => self.ids.in_place(command),
        };
        let script = format!("exec 2>&1\n{}{run}\n", self.aliases);
        let mut shown = Vec::new();
        let mut look = || {
            let mut command = Command::new("sh");
            command
                .args(["-c", &script])
                .current_dir(&self.directory)
                .env("HOME", "/nonexistent")
                .env_remove("HOSTGATE_TOKEN");
            let output = command::finish(&mut command).stdout;
            shown = output.lines().map(str::to_owned).collect();
            self.ids.matches(expected, &shown).then_some(())
        };
        let is_shown = if only_looks { until_within(DEADLINE, look) } else { look() };
        if is_shown.is_none() {
            self.fail(place, &format!("`{command}` shows"), expected, &shown);
        }
    }

    /// Says what should have come and what came, for the page to be set right.
    fn fail(&self, place: usize, what: &str, expected: &[String], actual: &[String]) -> ! {
        panic!(
            "{}, block at line {place}: {what} not what stands there\n--- stands there\n{}\n--- came\n{}\n---",
            self.page,
            expected.join("\n"),
            actual.join("\n")
        )
    }

    /// Ends the hostgate that runs, as Ctrl-C does.
    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}
