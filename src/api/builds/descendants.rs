//! The processes that a build starts, all of which have to end before its address is released.
//!
//! A process whose parent ends becomes a child of this one (`PR_SET_CHILD_SUBREAPER`), whatever group or session it is in.
//! So the descendants of a builder are found among our children: by their process group, by the build's id in their
//! environment or, if they have dropped both, once no other build runs.

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

/// The environment variables that a builder inherits; others may hold secrets.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// The variable that names the build.
const MARK: &str = "HOSTGATE_BUILD";
/// The `PATH` of a builder if we have none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The time for which the end of killed processes is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval of looking for them.
const LOOK: Duration = Duration::from_millis(5);

/// The builders that run, by process id; each leads a process group.
#[derive(Debug, Default)]
pub(in crate::api) struct Builders(Mutex<BTreeMap<i32, Arc<str>>>);

/// A child of this process, as `/proc/PID/stat` has it.
struct Process {
    pid: Pid,
    is_zombie: bool,
    group: i32,
}

impl Builders {
    /// Starts the builder of a build in a process group of its own, with a chosen environment.
    pub(in crate::api) fn start(&self, words: &[String], id: &str) -> io::Result<Child> {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", DEFAULT_PATH).env(MARK, id);
        command.envs(INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.process_group(0).kill_on_drop(true);
        // Linux before 3.4 has no subreapers: then only the process group is killed.
        let _ = set_child_subreaper(Some(getpid()));
        // Locked, so that `kill_left` of another build does not take the child for a descendant without a group.
        let mut builders = self.lock();
        let child = command.spawn()?;
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            builders.insert(pid, id.into());
        }
        Ok(child)
    }

    /// Kills the descendants of a builder that has ended. Returns the number of those that are left after [`PATIENCE`].
    pub(in crate::api) async fn end(self: &Arc<Self>, builder: Pid) -> usize {
        let end = Instant::now() + PATIENCE;
        // Descendants whose parent still runs are not our children yet. Only once, as the number of the group may be reused.
        let _ = kill_process_group(builder, Signal::KILL);
        loop {
            let builders = Arc::clone(self);
            // Reading /proc of many processes takes a while.
            let left = tokio::task::spawn_blocking(move || builders.kill_left(builder)).await.unwrap_or_default();
            if left == 0 || Instant::now() >= end {
                self.lock().remove(&builder.as_raw_nonzero().get());
                return left;
            }
            sleep(LOOK).await;
        }
    }

    /// Kills the descendants of a builder that are our children by now, and returns their number.
    fn kill_left(&self, builder: Pid) -> usize {
        let (builders, group) = (self.lock(), builder.as_raw_nonzero().get());
        let id = builders.get(&group).cloned().unwrap_or_default();
        let is_alone = builders.len() <= 1;
        let is_left = |child: &Process| {
            if child.is_zombie {
                // Only we can reap it.
                return waitpid(Some(child.pid), WaitOptions::NOHANG).is_err();
            }
            let is_its = child.group == group || is_marked(child.pid, &id).unwrap_or(is_alone);
            if is_its {
                let _ = kill_process(child.pid, Signal::KILL);
            }
            is_its
        };
        let is_builder = |child: &Process| builders.contains_key(&child.pid.as_raw_nonzero().get());
        children().iter().filter(|child| !is_builder(child) && is_left(child)).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<str>>> {
        lock(&self.0)
    }
}

/// Returns whether a process has the id of this build in its environment; `None` if it has no id of a build.
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
        // The name of the command may contain any character (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent, group) =
            (fields.next()?, fields.next()?.parse::<i32>().ok()?, fields.next()?.parse().ok()?);
        (parent == own).then_some(Process { pid: Pid::from_raw(pid)?, is_zombie: state == "Z", group })
    };
    pids.filter_map(child).collect()
}
