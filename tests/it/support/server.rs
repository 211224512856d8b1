//! The running binary: its log, its admin endpoint, its files; killed when dropped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{command, http};

/// A running server.
pub(crate) struct Server {
    /// The process.
    child: Child,
    /// The lines of its log so far.
    log: Arc<Mutex<Vec<String>>>,
    /// Whether nobody reads its log for now.
    unread: Arc<AtomicBool>,
    /// Whether the reader of its log goes away after the next line.
    closed: Arc<AtomicBool>,
    /// Its directory, shared with a successor.
    directory: Arc<TempDir>,
}

impl Server {
    /// Starts the process without waiting for it.
    pub(super) fn launch(command: &mut Command, directory: Arc<TempDir>) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        let unread = Arc::new(AtomicBool::new(false));
        let is_unread = Arc::clone(&unread);
        let closed = Arc::new(AtomicBool::new(false));
        let is_closed = Arc::clone(&closed);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
                if is_closed.load(Ordering::SeqCst) {
                    return;
                }
                while is_unread.load(Ordering::SeqCst) {
                    super::pause(Duration::from_millis(5));
                }
            }
        });
        Self { child, log, unread, closed, directory }
    }

    /// Has nobody read the log from now on, and fills the pipe that it goes into, as if its reader had stopped long ago.
    pub(crate) fn stop_reading_log(&self) {
        self.unread.store(true, Ordering::SeqCst);
        let pipe = format!("/proc/{}/fd/2", self.child.id());
        let mut pipe = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(pipe).unwrap();
        let filler = format!("{}\n", "filler ".repeat(100));
        // The reader takes a buffer more.
        let mut full = 0;
        while full < 10 {
            match pipe.write(filler.as_bytes()) {
                Ok(_) => full = 0,
                Err(_) => full += 1,
            }
            super::pause(Duration::from_millis(if full > 0 { 10 } else { 0 }));
        }
    }

    /// Closes the reading end of the pipe that the log goes into, once a line has been read.
    pub(crate) fn close_log_after_next_line(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Returns the process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has the log read again.
    pub(crate) fn read_log_again(&self) {
        self.unread.store(false, Ordering::SeqCst);
    }

    /// Writes the addresses that the server really has into hostgate.toml, for a successor.
    pub(crate) fn keep_addresses(&self) {
        let path = self.directory.path().join("hostgate.toml");
        let mut text = fs::read_to_string(&path).unwrap();
        // In the order of the file.
        for address in [self.address()].into_iter().chain(self.listening("control")).chain([self.admin()]) {
            text = text.replacen("\"127.0.0.1:0\"", &format!("\"{address}\""), 1);
        }
        // In one step: it may be looked at just now.
        let beside = self.directory.path().join("beside.tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    /// Starts a hostgate that takes over from this one, and waits until it is ready.
    #[track_caller]
    pub(crate) fn successor(&self) -> Self {
        let successor = Self::launch(&mut self.takeover(), Arc::clone(&self.directory));
        super::until("ready", || successor.is_ready().then_some(()));
        successor
    }

    /// Starts a hostgate with the same files once this one has ended, and waits until it is ready.
    #[track_caller]
    pub(crate) fn restarted(&self) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(["serve", "--config"]).arg(self.directory.path().join("hostgate.toml"));
        command.current_dir(self.directory.path()).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        let restarted = Self::launch(&mut command, Arc::clone(&self.directory));
        super::until("ready", || restarted.is_ready().then_some(()));
        restarted
    }

    /// Runs a take-over that is expected to be refused to its end.
    pub(crate) fn refused_successor(&self) -> command::Finished {
        command::finish(&mut self.takeover())
    }

    /// Runs another one with the same configuration, which is expected to be refused, to its end.
    pub(crate) fn refused_plainly(&self) -> command::Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(["serve", "--config"]).arg(self.directory.path().join("hostgate.toml"));
        command::finish(command.current_dir(self.directory.path()))
    }

    /// Returns the command that takes over from this server.
    fn takeover(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        command.args(["serve", "--takeover", "--config"]).arg(self.directory.path().join("hostgate.toml"));
        command.current_dir(self.directory.path());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Returns the time the process has been on a CPU, in all its threads.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // utime and stime (proc(5)), in ticks of a hundredth of a second.
        let ticks = |field: &str| field.parse::<u64>().unwrap();
        Duration::from_millis((ticks(fields[11]) + ticks(fields[12])) * 10)
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Returns the log lines so far that hold all of `parts`.
    pub(crate) fn log_lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
    }

    /// Waits for a log line that holds all of `parts` and returns it.
    #[track_caller]
    pub(crate) fn wait_log(&self, parts: &[&str]) -> String {
        self.until(&format!("a log line with {parts:?}"), || self.log_lines(parts).pop())
    }

    /// Waits for a fact as [`until`] does, and shows the log when it does not come.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        super::until_within(super::DEADLINE, look)
            .unwrap_or_else(|| panic!("waited in vain: {what}\nstatus: {:#?}\n{}", self.try_status(), self.log()))
    }

    /// Returns whether the server says that it is ready; panics when it has ended.
    pub(super) fn is_ready(&self) -> bool {
        let ready = !self.log_lines(&[" ready "]).is_empty();
        assert!(ready || !self.has_exited(), "the server ended:\n{}", self.log());
        ready
    }

    /// Returns whether the process is a zombie or gone.
    pub(crate) fn has_exited(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
    }

    /// Returns the addresses of a transport's listeners, in the log's order.
    fn listening(&self, transport: &str) -> Vec<SocketAddr> {
        let transport_is = |line: &&String| field(line, "transport").as_deref() == Some(transport);
        let lines = self.log_lines(&[" listening "]);
        let address = |line: &String| field(line, "address").unwrap().parse().ok();
        lines.iter().filter(transport_is).filter_map(address).collect()
    }

    /// Returns the address of the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listening("udp")[0]
    }

    /// Returns the address of the listener on this IP address.
    pub(crate) fn address_on(&self, ip: &str) -> SocketAddr {
        let ip: IpAddr = ip.parse().unwrap();
        *self.listening("udp").iter().find(|address| address.ip() == ip).expect("there is such a listener")
    }

    /// Returns the address of the admin endpoint.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.listening("admin")[0]
    }

    /// Returns the address of the API.
    pub(crate) fn control(&self) -> SocketAddr {
        self.listening("control")[0]
    }

    /// Returns the directory that holds hostgate.toml.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a path below the policies directory.
    pub(crate) fn policies(&self, path: &str) -> PathBuf {
        self.directory.path().join("policies").join(path)
    }

    /// Writes a file below `policies/` in place.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.policies(path), text).unwrap();
    }

    /// Replaces a file below `policies/` by renaming a new one over it.
    pub(crate) fn replace(&self, path: &str, text: impl AsRef<[u8]>) {
        let beside = self.directory.path().join("beside.tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.policies(path)).unwrap();
    }

    /// Removes a file below `policies/`.
    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.policies(path)).unwrap();
    }

    /// Changes hostgate.toml: `from` becomes `to`.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let path = self.directory.path().join("hostgate.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "no `{from}` in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Runs a script in the namespaces of the process.
    #[track_caller]
    pub(crate) fn inside(&self, script: &str) {
        let status = self.entering().args(["sh", "-ec", script]).status();
        assert!(status.unwrap().success(), "{script}");
    }

    /// Returns the command that runs what its further arguments say in the namespaces of the process.
    pub(crate) fn entering(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-m", "-t", &self.child.id().to_string()]);
        command
    }

    /// Sets the soft limit on open files of the running process.
    #[track_caller]
    pub(crate) fn limit_open_files(&self, limit: u32) {
        self.limit(&format!("--nofile={limit}:"));
    }

    /// Returns the entry of this kind of what is out of date.
    #[track_caller]
    pub(crate) fn out_of_date(&self, kind: &str) -> Option<Value> {
        let status = self.status();
        let entries = status["out_of_date"].as_array().unwrap().clone();
        let mut entries = entries.into_iter().filter(|entry| entry["kind"] == kind);
        entries.next()
    }

    /// Waits until the status says that something is out of date in this way, and returns the entry.
    #[track_caller]
    pub(crate) fn wait_out_of_date(&self, kind: &str) -> Value {
        self.until(&format!("out of date: {kind}"), || self.out_of_date(kind))
    }

    /// Waits until the status says that nothing is out of date in this way.
    #[track_caller]
    pub(crate) fn wait_not_out_of_date(&self, kind: &str) {
        self.until(&format!("no longer out of date: {kind}"), || self.out_of_date(kind).is_none().then_some(()));
    }

    /// Sends a signal, as `HUP`.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Sets a limit of the running process, as prlimit(1) does.
    pub(crate) fn limit(&self, limit: &str) {
        let status = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), limit]).status();
        assert!(status.is_ok_and(|status| status.success()), "prlimit {limit}");
    }

    /// Returns how many threads the process has.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Returns how many file descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Waits for the process to end.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = command::wait(&mut self.child);
        status.unwrap_or_else(|| panic!("the server did not end:\n{}", self.log()))
    }

    /// Returns the process's resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Gets a path from the admin endpoint.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> http::Response {
        http::get(self.admin(), path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    /// Returns `/status`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    /// Returns `/status` if it can be had.
    pub(crate) fn try_status(&self) -> Option<Value> {
        let admin = *self.listening("admin").first()?;
        serde_json::from_str(&http::get(admin, "/status").ok()?.body).ok()
    }

    /// Waits until this generation is in force.
    #[track_caller]
    pub(crate) fn wait_generation(&self, generation: u64) {
        self.until(&format!("generation {generation}"), || {
            let now = self.status()["generation"].as_u64().unwrap();
            assert!(now <= generation, "generation {now} is past {generation}\n{}", self.log());
            (now == generation).then_some(())
        });
    }

    /// Waits until `/status` has an error and returns its text.
    #[track_caller]
    pub(crate) fn wait_error(&self) -> String {
        self.until("an error in the status", || self.status()["error"].as_str().map(str::to_owned))
    }

    /// Waits until `/status` has no error.
    #[track_caller]
    pub(crate) fn wait_no_error(&self) {
        self.until("no error in the status", || self.status()["error"].is_null().then_some(()));
    }

    /// Returns the sum of the metric's samples that have these labels, in whole numbers.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let metrics = self.get("/metrics").body;
        let samples = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            let has = |(key, value): &(&str, &str)| series_labels.contains(&format!("{key}=\"{value}\""));
            (series_name == name && labels.iter().all(has)).then(|| whole(value))
        });
        samples.sum()
    }

    /// Waits until a metric has at least this value.
    #[track_caller]
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], least: u64) {
        self.until(&format!("{name}{labels:?} >= {least}"), || (self.metric(name, labels) >= least).then_some(()));
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}

/// Returns a field of a log line, without quotes.
fn field(line: &str, name: &str) -> Option<String> {
    let start = line.find(&format!(" {name}="))? + name.len() + 2;
    Some(line[start..].split(' ').next()?.trim_matches('"').to_owned())
}

/// Returns the whole part of a sample's value.
fn whole(value: &str) -> u64 {
    value.split('.').next().unwrap().parse().unwrap_or_else(|_| panic!("no number: {value}"))
}
