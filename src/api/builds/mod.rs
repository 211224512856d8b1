//! Builds: the builder's command, its processes and its output. Their number is bounded, and a queue of them too.

pub(super) mod descendants;
pub(super) mod log;
pub(super) mod process;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::descendants::Builders;
use self::log::BuildLog;
use crate::bounds::{MAX_BUILD_LOGS, MAX_BUILD_QUEUE, MAX_BUILDS};
use crate::util::lock;

/// The builds that run or wait.
pub(super) struct Builds {
    running: Arc<Semaphore>,
    /// One permit for each build that runs or waits.
    queued: Arc<Semaphore>,
    builders: Arc<Builders>,
    /// Becomes true when builds have to end.
    stop: watch::Sender<bool>,
    /// The output of the last builds, oldest first.
    logs: Mutex<VecDeque<(Arc<str>, Arc<BuildLog>)>>,
}

/// The permit of a build to run, or to wait for that.
pub(super) struct BuildPermit {
    running: Option<OwnedSemaphorePermit>,
    _queued: OwnedSemaphorePermit,
}

impl BuildPermit {
    /// Returns whether the build may run.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

impl Default for Builds {
    fn default() -> Self {
        Self {
            running: Arc::new(Semaphore::new(MAX_BUILDS)),
            queued: Arc::new(Semaphore::new(MAX_BUILDS + MAX_BUILD_QUEUE)),
            builders: Arc::default(),
            stop: watch::Sender::new(false),
            logs: Mutex::default(),
        }
    }
}

impl Builds {
    /// Returns a permit for one more build; `None` if the queue is full.
    pub(super) fn permit(&self) -> Option<BuildPermit> {
        let queued = Arc::clone(&self.queued).try_acquire_owned().ok()?;
        Some(BuildPermit { running: Arc::clone(&self.running).try_acquire_owned().ok(), _queued: queued })
    }

    /// Waits until a build may run.
    pub(super) async fn wait(&self, permit: &mut BuildPermit) {
        permit.running = Arc::clone(&self.running).acquire_owned().await.ok();
    }

    pub(super) fn builders(&self) -> &Arc<Builders> {
        &self.builders
    }

    /// Returns the output of a build as the API shows it; empty if it is not kept any more.
    pub(super) fn lines(&self, id: &str) -> Vec<Value> {
        let logs = lock(&self.logs);
        // The lines are formatted without the lock: a build that writes a lot must not wait for a reader.
        let found = logs.iter().find(|(known, _)| **known == *id).map(|(_, log)| Arc::clone(log));
        drop(logs);
        found.map(|log| log.lines()).unwrap_or_default()
    }

    /// Adds a log for a build.
    pub(super) fn log(&self, id: &Arc<str>) -> Arc<BuildLog> {
        let log = Arc::new(BuildLog::default());
        let mut logs = lock(&self.logs);
        if logs.len() >= MAX_BUILD_LOGS {
            logs.pop_front();
        }
        logs.push_back((Arc::clone(id), Arc::clone(&log)));
        log
    }

    /// Returns a channel that becomes true when builds have to end.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends all builds, and lets none begin.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until no command runs.
    pub(super) async fn stopped(&self) {
        let all = u32::try_from(MAX_BUILDS).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.running.acquire_many(all).await;
    }
}
