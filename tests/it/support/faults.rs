//! Faults of the kind that wake operators: threads that hang, file systems that do not answer.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Server;

/// Stops single threads by ptrace(2), until its standard input ends.
const FREEZE: &str = r#"
import ctypes, os, select, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
tasks, names = f"/proc/{sys.argv[1]}/task", sys.argv[2:]
for task in os.listdir(tasks):
    if open(f"{tasks}/{task}/comm").read().strip() in names:
        for request in SEIZE, INTERRUPT:
            if ptrace(request, int(task), None, None):
                sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
        os.waitpid(int(task), WALL)
        print("frozen", task)
print("done", flush=True)
# A thread that was killed has ended once its tracer knows.
while not select.select([sys.stdin], [], [], 0.02)[0]:
    try:
        os.waitpid(-1, WALL | os.WNOHANG)
    except ChildProcessError:
        pass
"#;

/// Mounts a file system on a directory that never answers, until its standard input ends.
const HANG: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
print("done", flush=True)
sys.stdin.read()
"#;

/// A fault that lasts until this is dropped.
pub(crate) struct Fault(Child);

impl Fault {
    /// Starts a program that causes it, and waits until it says that it has.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<String> = lines.map_while(Result::ok).take_while(|line| line != "done").collect();
        let fault = Self(child);
        assert!(fault.has_begun(&lines), "{command:?}: {lines:?}");
        fault
    }

    /// Stops all threads of a server that have one of these names.
    pub(crate) fn freeze(server: &Server, names: &[&str]) -> Self {
        Self::start(Command::new("python3").args(["-c", FREEZE, &server.id().to_string()]).args(names))
    }

    /// Mounts a file system that never answers on a directory, as a server in a namespace of its own sees it.
    pub(crate) fn hang(server: &Server, directory: &Path) -> Self {
        Self::start(server.entering().args(["python3", "-c", HANG]).arg(directory))
    }

    /// Returns whether the program runs.
    fn has_begun(&self, lines: &[String]) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let is_running = stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']));
        is_running && lines.iter().all(|line| line.starts_with("frozen"))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
