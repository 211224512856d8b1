//! A command in a process group of its own: its input, its output, its time and its end.

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
use crate::api::builds::log::Log;
use crate::config;

/// How a command ended.
pub(in crate::api) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It took too long and was killed.
    Late,
    /// The process stops, and it was killed.
    Stopped,
    /// It did not begin.
    NotRun(io::Error),
}

/// Runs the command of a build with `input` on its standard input; what it says goes into `log`. When this returns, all that
/// it started has ended.
pub(in crate::api) async fn run(
    (builder, builders): (&config::control::Builder, &Arc<Builders>),
    id: &str,
    input: Vec<u8>,
    log: &Arc<Log>,
    stop: &mut watch::Receiver<bool>,
) -> Ended {
    let mut child = match builders.start(&builder.command, id) {
        Ok(child) => child,
        Err(error) => return Ended::NotRun(error),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut output = JoinSet::new();
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it need not.
        output.spawn(async move { drop(stdin.write_all(&input).await) });
    }
    for (level, stream) in
        [("info", child.stdout.take().map(Output::Out)), ("warn", child.stderr.take().map(Output::Err))]
    {
        let log = Arc::clone(log);
        output.spawn(async move {
            match stream {
                Some(Output::Out(stream)) => log.listen(level, stream).await,
                Some(Output::Err(stream)) => log.listen(level, stream).await,
                None => {}
            }
        });
    }
    let ended = tokio::select! {
        status = child.wait() => Some(status.map_or_else(Ended::NotRun, Ended::Exited)),
        () = tokio::time::sleep(builder.timeout) => None,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        kill(&mut child, group).await;
        if *stop.borrow() { Ended::Stopped } else { Ended::Late }
    };
    if let Some(group) = group {
        let left = builders.end(group).await;
        if left > 0 {
            tracing::error!(id, left, "processes of a build do not end although they were killed");
        }
    }
    // Somebody else may have been handed its output: that is not waited for.
    let all = async { while output.join_next().await.is_some() {} };
    let _ = timeout(LAST_WORDS, all).await;
    ended
}

/// One of a command's two outputs.
enum Output {
    /// What it says.
    Out(tokio::process::ChildStdout),
    /// What it complains of.
    Err(tokio::process::ChildStderr),
}

/// Asks a command's process group to end, and kills what does not.
async fn kill(child: &mut Child, group: Option<Pid>) {
    let signal = |signal| {
        if let Some(group) = group {
            // Nobody is left in it then.
            let _ = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    let _ = timeout(GRACE, child.wait()).await;
    signal(Signal::KILL);
    let _ = child.wait().await;
}

/// How long a command has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// How long its output is waited for when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
