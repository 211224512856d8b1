//! The command of a build: its input, its output, its time limit and its end.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::builds::descendants::Builders;
use crate::api::builds::log::BuildLog;
use crate::config;

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// The time for which the output of an ended command is read. A process outside may hold the pipe open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The end of a command.
pub(in crate::api) enum BuildEnd {
    Exited(ExitStatus),
    /// The command took too long and was killed.
    TimedOut,
    /// The command was killed because the process stops.
    Stopped,
    NotRun(io::Error),
}

/// Runs the command of a build with `input` on its standard input and its output in `log`. On return all processes that
/// it started have ended.
pub(in crate::api) async fn run(
    (builder, builders): (&config::control::Builder, &Arc<Builders>),
    id: &str,
    input: Vec<u8>,
    log: &Arc<BuildLog>,
    stop: &mut watch::Receiver<bool>,
) -> BuildEnd {
    let mut child = match builders.start(&builder.command, id) {
        Ok(child) => child,
        Err(error) => return BuildEnd::NotRun(error),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut pipes = JoinSet::new();
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read its input.
        pipes.spawn(async move { drop(stdin.write_all(&input).await) });
    }
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        let [out, err] = [Arc::clone(log), Arc::clone(log)];
        pipes.spawn(async move { out.read("info", stdout).await });
        pipes.spawn(async move { err.read("warn", stderr).await });
    }
    // A builder that reads nothing and closes its output still runs: only its exit counts.
    let exited = tokio::select! {
        status = child.wait() => Some(status.map_or_else(BuildEnd::NotRun, BuildEnd::Exited)),
        () = tokio::time::sleep(builder.timeout) => None,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let end = if let Some(end) = exited {
        end
    } else {
        kill(&mut child, group).await;
        if *stop.borrow() { BuildEnd::Stopped } else { BuildEnd::TimedOut }
    };
    if let Some(group) = group {
        let left = builders.end(group).await;
        if left > 0 {
            tracing::error!(id, left, "processes of a build do not end although they were killed");
        }
    }
    let _ = timeout(LAST_OUTPUT, async { while pipes.join_next().await.is_some() {} }).await;
    end
}

/// Asks a command's process group to end, and kills it if it does not.
async fn kill(child: &mut Child, group: Option<Pid>) {
    let signal = |signal| {
        if let Some(group) = group {
            // An empty group is no error: all of it has ended.
            let _ = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    let _ = timeout(GRACE, child.wait()).await;
    signal(Signal::KILL);
    let _ = child.wait().await;
}
