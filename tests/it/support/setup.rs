//! A server to be started: its configuration and policies in a temporary directory.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::api::{TOKEN, VIEWER};
use super::command::{self, Finished};
use super::{FakeUpstream, Server, until};

/// A server to be started: a temporary directory with hostgate.toml and `policies/`.
pub(crate) struct Setup {
    /// The directory.
    directory: TempDir,
    /// Lines before the first table of hostgate.toml.
    top: String,
    /// The listeners: address and policy.
    listeners: Vec<(String, Option<String>)>,
    /// The upstream servers; none: the key is left out.
    servers: Option<Vec<String>>,
    /// More lines of `[upstream]`.
    upstream: String,
    /// More tables.
    tables: String,
    /// Environment variables.
    environment: Vec<(String, String)>,
    /// The arguments; none: `serve --config` and the absolute path.
    arguments: Option<Vec<String>>,
    /// What a shell does first to limit the process; none: the limits of the tests.
    limits: Option<String>,
    /// Whether that is in a network namespace of its own.
    isolated: bool,
    /// Whether it runs in user and mount namespaces of its own.
    is_apart: bool,
}

impl Setup {
    /// Starts with no policy, one listener on 127.0.0.1 and these upstreams.
    pub(crate) fn new(upstreams: &[&FakeUpstream]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        Self {
            directory,
            top: String::new(),
            listeners: vec![("127.0.0.1:0".to_owned(), None)],
            servers: Some(upstreams.iter().map(|upstream| upstream.address.to_string()).collect()),
            upstream: String::new(),
            tables: String::new(),
            environment: Vec::new(),
            arguments: None,
            limits: None,
            isolated: false,
            is_apart: false,
        }
    }

    /// Starts with one policy, `test`, that holds for every source; `body` is its keys.
    pub(crate) fn policy(upstream: &FakeUpstream, body: &str) -> Self {
        Self::new(&[upstream]).file("test.toml", format!("[policy.test]\n{body}\n")).top("default_policy = \"test\"")
    }

    /// Writes a file below `policies/`.
    pub(crate) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.policies().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Adds a line before the first table of hostgate.toml.
    pub(crate) fn top(mut self, line: &str) -> Self {
        self.top += line;
        self.top.push('\n');
        self
    }

    /// Adds a listener.
    pub(crate) fn listen(mut self, address: &str, policy: Option<&str>) -> Self {
        self.listeners.push((address.to_owned(), policy.map(str::to_owned)));
        self
    }

    /// Sets the listeners.
    pub(crate) fn listen_only(mut self, address: &str) -> Self {
        self.listeners = vec![(address.to_owned(), None)];
        self
    }

    /// Sets the upstream servers as text.
    pub(crate) fn servers(mut self, servers: &[&str]) -> Self {
        self.servers = Some(servers.iter().map(|&server| server.to_owned()).collect());
        self
    }

    /// Takes the upstreams from `resolv.conf` in the directory, which the test writes or does not.
    pub(crate) fn resolv_conf(mut self) -> Self {
        self.servers = None;
        self.upstream_line("resolv_conf = \"resolv.conf\"")
    }

    /// Adds a line to `[upstream]`.
    pub(crate) fn upstream_line(mut self, line: &str) -> Self {
        self.upstream += line;
        self.upstream.push('\n');
        self
    }

    /// Adds a table.
    pub(crate) fn table(mut self, text: &str) -> Self {
        self.tables += text;
        self.tables.push('\n');
        self
    }

    /// Turns the API on, with [`TOKEN`] and [`VIEWER`]; `lines` are further keys of `[control]`.
    pub(crate) fn control(self, lines: &str) -> Self {
        self.write_secret("token", &format!("# tokens\n{TOKEN}\nviewer {VIEWER}\n"));
        let listen = if lines.contains("listen =") { "" } else { "listen = \"127.0.0.1:0\"\n" };
        self.table(&format!("[control]\n{listen}token_file = \"token\"\n{lines}"))
    }

    /// Writes a file beside hostgate.toml that only its owner may read.
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Sets an environment variable.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the limit on open files.
    pub(crate) fn open_files(mut self, limit: u32) -> Self {
        self.limits = Some(format!("ulimit -n {limit}"));
        self
    }

    /// Sets the limit on the size of files, in blocks of 512 octets: a write beyond it takes a part and then fails, as on a
    /// full disk.
    pub(crate) fn file_blocks(mut self, limit: u32) -> Self {
        self.limits = Some(format!("trap '' XFSZ && ulimit -f {limit}"));
        self
    }

    /// Sets what a shell does before it becomes the server, as root in a network namespace of its own if `isolated`.
    pub(crate) fn prepared(mut self, script: &str, isolated: bool) -> Self {
        self.limits = Some(script.to_owned());
        self.isolated = isolated;
        self
    }

    /// Gives it a user and a mount namespace of its own, in which file systems can be mounted.
    pub(crate) fn in_namespace(mut self) -> Self {
        (self.limits, self.is_apart) = (Some("true".to_owned()), true);
        self
    }

    /// Runs it in user and mount namespaces of its own, where `script` is run first; `None` where there are none.
    pub(crate) fn apart(mut self, script: &str) -> Option<Self> {
        let tried = Command::new("unshare").args(["-rm", "true"]).output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            super::skip("it needs user and mount namespaces");
            return None;
        }
        self = self.in_namespace();
        self.limits = Some(script.to_owned());
        Some(self)
    }

    /// Sets the arguments; the working directory is the one that holds hostgate.toml.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = Some(arguments.iter().map(|&argument| argument.to_owned()).collect());
        self
    }

    /// Returns the directory that holds hostgate.toml.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the policies directory.
    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// Writes hostgate.toml and returns its path.
    pub(crate) fn write_configuration(&self) -> PathBuf {
        let mut text = format!("policies = \"policies\"\n{}", self.top);
        for (address, policy) in &self.listeners {
            write!(text, "[[listen]]\naddress = \"{address}\"\n").unwrap();
            if let Some(policy) = policy {
                writeln!(text, "policy = \"{policy}\"").unwrap();
            }
        }
        text += "[upstream]\n";
        if let Some(servers) = &self.servers {
            writeln!(text, "servers = {servers:?}").unwrap();
        }
        text += &self.upstream;
        text += &self.tables;
        if !self.tables.contains("[admin]") {
            text += "[admin]\nlisten = \"127.0.0.1:0\"\n";
        }
        // Policies that are all made over the API need its folder.
        if self.tables.contains("[control]")
            && fs::read_dir(self.policies()).is_ok_and(|mut found| found.next().is_none())
        {
            fs::create_dir(self.policies().join("api")).unwrap();
        }
        let path = self.directory.path().join("hostgate.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts the server and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        self.start_with(|_| ())
    }

    /// Starts the server after `prepare` did something to the configuration file, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start_with(self, prepare: impl FnOnce(&Path)) -> Server {
        let mut command = self.command();
        prepare(&self.directory.path().join("hostgate.toml"));
        let server = Server::launch(&mut command, Arc::new(self.directory));
        until("ready", || server.is_ready().then_some(()));
        server
    }

    /// Runs `serve`, which is expected to refuse, to its end.
    pub(crate) fn refused(self) -> Finished {
        command::finish(&mut self.command())
    }

    /// Returns the command that serves this.
    fn command(&self) -> Command {
        let configuration = self.write_configuration();
        let mut command = match &self.limits {
            None => Command::new(env!("CARGO_BIN_EXE_hostgate")),
            Some(limits) => {
                // As root there may be namespaces where there are no user namespaces.
                let is_root = rustix::process::geteuid().is_root();
                let namespaces = match (self.isolated, self.is_apart) {
                    (true, _) if is_root => Some("-n"),
                    (true, _) => Some("-rn"),
                    (_, true) => Some("-rm"),
                    _ => None,
                };
                let mut shell = Command::new(if namespaces.is_some() { "unshare" } else { "sh" });
                if let Some(namespaces) = namespaces {
                    shell.args([namespaces, "sh"]);
                }
                let limited = format!("{limits} && exec \"$0\" \"$@\"");
                shell.args(["-c", &limited, env!("CARGO_BIN_EXE_hostgate")]);
                shell
            }
        };
        match &self.arguments {
            Some(arguments) => command.args(arguments),
            None => command.arg("serve").arg("--config").arg(configuration),
        };
        command.current_dir(self.directory.path());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}
