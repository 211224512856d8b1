//! Faults of the kind that wake operators: threads that hang, file systems that do not answer.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
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

/// A small disk with a journal, mounted at a directory, that can be frozen as for a snapshot: reads are answered, and writes wait.
pub(crate) struct Disk {
    /// The directory.
    at: PathBuf,
    /// The file that it is in.
    _image: tempfile::NamedTempFile,
}

impl Disk {
    /// Makes the disk and mounts it; `None` where that is not allowed.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(24 << 20).unwrap();
        std::fs::create_dir(at).unwrap();
        let made = run("mkfs.ext4", &[OsStr::new("-q"), image.path().as_os_str()]);
        let options = [OsStr::new("-o"), OsStr::new("loop"), image.path().as_os_str(), at.as_os_str()];
        if !made || !run("mount", &options) {
            // Few machines that run tests allow it, also where nothing else is skipped.
            let _ = writeln!(std::io::stderr(), "SKIPPED: it needs root, mkfs.ext4 and a loop device");
            return None;
        }
        Some(Self { at: at.to_owned(), _image: image })
    }

    /// Lets writes wait.
    pub(crate) fn freeze(&self) {
        assert!(run("fsfreeze", &[OsStr::new("-f"), self.at.as_os_str()]));
    }

    /// Lets writes go on.
    pub(crate) fn thaw(&self) {
        assert!(run("fsfreeze", &[OsStr::new("-u"), self.at.as_os_str()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("fsfreeze", &[OsStr::new("-u"), self.at.as_os_str()]);
        run("umount", &[OsStr::new("-l"), self.at.as_os_str()]);
    }
}

/// Runs a program in silence; returns whether it succeeded.
fn run(program: &str, arguments: &[&OsStr]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    output.is_ok_and(|output| output.status.success())
}
