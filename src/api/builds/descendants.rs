//! The processes that a build starts, all of which end before its address is free.
//!
//! A process whose parent ends becomes a child of this one (`PR_SET_CHILD_SUBREAPER`), whatever group or session it is in.
//! So what a builder leaves behind is found among our children: by its process group, by the build's id in its environment,
//! or, where it has neither any more, once no other build runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::util::lock;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// The variables of our environment that a builder gets; others may hold secrets.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// The variable that names the build.
const MARK: &str = "HOSTGATE_BUILD";
/// The path where our environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The time that killed processes have to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two looks at them.
const LOOK: Duration = Duration::from_millis(5);

/// The builders that run, by process id; each leads a process group.
#[derive(Debug, Default)]
pub(in crate::api) struct Builders(Mutex<BTreeMap<i32, Arc<str>>>);

/// A child of this process, as `/proc/PID/stat` has it.
struct Process {
    /// Its id.
    pid: Pid,
    /// Whether it has ended and was not waited for.
    is_zombie: bool,
    /// Its process group.
    group: i32,
}

impl Builders {
    /// Starts the builder of a build in a process group of its own, with a chosen environment.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::api) fn start(&self, words: &[String], id: &str) -> io::Result<Child> {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", DEFAULT_PATH).env(MARK, id);
        command.envs(INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.process_group(0).kill_on_drop(true);
        // An old kernel has no such thing: then the process group is what is killed.
        let _ = set_child_subreaper(Some(getpid()));
        // Locked, so that nobody takes it for something left behind.
        let mut builders = self.lock();
        let child = command.spawn()?;
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            builders.insert(pid, id.into());
        }
        Ok(child)
    }

    /// Kills all that a builder, which has ended, left behind; returns how many processes are still there after some
    /// seconds.
    pub(in crate::api) async fn end(self: &Arc<Self>, builder: Pid) -> usize {
        let end = Instant::now() + PATIENCE;
        // Those in its group whose parents still live are no children of ours yet. Once: the number may be another's later.
        let _ = kill_process_group(builder, Signal::KILL);
        loop {
            let builders = Arc::clone(self);
            // Among many processes it takes a while to look.
            let left = tokio::task::spawn_blocking(move || builders.kill_left(builder)).await.unwrap_or_default();
            if left == 0 || Instant::now() >= end {
                self.lock().remove(&builder.as_raw_nonzero().get());
                return left;
            }
            sleep(LOOK).await;
        }
    }

    /// Kills what a builder left behind as far as it is a child of ours by now; returns how many processes that are.
    fn kill_left(&self, builder: Pid) -> usize {
        let (builders, group) = (self.lock(), builder.as_raw_nonzero().get());
        let id = builders.get(&group).cloned().unwrap_or_default();
        let is_alone = builders.len() <= 1;
        let is_left = |child: &Process| {
            if child.is_zombie {
                // Nobody else waits for it.
                return waitpid(Some(child.pid), WaitOptions::NOHANG).is_err();
            }
            let is_its = child.group == group || is_marked(child.pid, &id).unwrap_or(is_alone);
            if is_its {
                // It may have ended meanwhile; the next look sees it.
                let _ = kill_process(child.pid, Signal::KILL);
            }
            is_its
        };
        let is_builder = |child: &Process| builders.contains_key(&child.pid.as_raw_nonzero().get());
        children().iter().filter(|child| !is_builder(child) && is_left(child)).count()
    }

    /// Locks the table, whose every state is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<str>>> {
        lock(&self.0)
    }
}

/// Returns whether the environment of a process names a build as its own; `None` where it names none.
fn is_marked(pid: Pid, id: &str) -> Option<bool> {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    let prefix = format!("{MARK}=");
    let mark = environment.split(|octet| *octet == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    Some(mark == id.as_bytes())
}

/// Returns the children of this process.
fn children() -> Vec<Process> {
    let own = getpid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may hold anything (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent, group) =
            (fields.next()?, fields.next()?.parse::<i32>().ok()?, fields.next()?.parse().ok()?);
        (parent == own).then_some(Process { pid: Pid::from_raw(pid)?, is_zombie: state == "Z", group })
    };
    pids.filter_map(child).collect()
}
