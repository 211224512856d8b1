//! Builds: a command makes a blueprint while its container's address is bound to the build policy, and no longer.
//!
//! The address is bound before the command begins, and is free before the status says how it ended: both are one change
//! of the blueprint's file. What was being built when the process ended has failed, which the next start writes down.

pub(super) mod descendants;
pub(super) mod log;
pub(super) mod process;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{collections::VecDeque, net::IpAddr};

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::descendants::Builders;
use self::log::Log;
use self::process::Ended;
use crate::api::auth::Principal;
use crate::api::objects::blueprints::{self, COMPLETE, build_client};
use crate::api::objects::id::now_ms;
use crate::api::objects::object_file::File;
use crate::api::request::error::ApiError;
use crate::api::{Control, Edit};
use crate::bounds::{MAX_BUILD_LOGS, MAX_BUILD_QUEUE, MAX_BUILDS};
use crate::policy::Snapshot;
use crate::util::lock;

/// The builds under way.
pub(super) struct Builds {
    /// Those that run.
    running: Arc<Semaphore>,
    /// The commands that run.
    builders: Arc<Builders>,
    /// How many there are, those that wait included.
    all: Arc<AtomicUsize>,
    /// Becomes true when they have to end.
    stop: watch::Sender<bool>,
    /// What the last ones said, oldest first.
    logs: Mutex<VecDeque<(Arc<str>, Arc<Log>)>>,
}

/// The place of a build among those under way.
pub(super) struct Place {
    /// The right to run, if it has it.
    turn: Option<OwnedSemaphorePermit>,
    /// Counts it.
    _counted: Counted,
}

/// Counts a build while it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Builds {
    fn default() -> Self {
        let running = Arc::new(Semaphore::new(MAX_BUILDS));
        Self {
            running,
            builders: Arc::default(),
            all: Arc::default(),
            stop: watch::Sender::new(false),
            logs: Mutex::default(),
        }
    }
}

impl Builds {
    /// Takes a place for a build.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn place(&self) -> Result<Place, ApiError> {
        let counted = Counted(Arc::clone(&self.all));
        if self.all.fetch_add(1, Ordering::Relaxed) >= MAX_BUILDS + MAX_BUILD_QUEUE {
            return Err(ApiError::unavailable(format!("{MAX_BUILD_QUEUE} builds wait already: try again later")));
        }
        Ok(Place { turn: Arc::clone(&self.running).try_acquire_owned().ok(), _counted: counted })
    }

    /// Returns what a build said, if that is still known.
    pub(super) fn lines(&self, id: &str) -> Vec<Value> {
        let logs = lock(&self.logs);
        let found = logs.iter().find(|(known, _)| **known == *id).map(|(_, log)| Arc::clone(log));
        drop(logs);
        found.map(|log| log.lines()).unwrap_or_default()
    }

    /// Begins to keep what a build says.
    fn log(&self, id: &Arc<str>) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let mut logs = lock(&self.logs);
        if logs.len() >= MAX_BUILD_LOGS {
            logs.pop_front();
        }
        logs.push_back((Arc::clone(id), Arc::clone(&log)));
        log
    }

    /// Ends all builds, and lets none begin.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until no command runs.
    pub(super) async fn stopped(&self) {
        let all = u32::try_from(MAX_BUILDS).unwrap_or(u32::MAX);
        // It is never closed.
        let _ = self.running.acquire_many(all).await;
    }
}

impl Place {
    /// Returns the status of a blueprint whose build has this place.
    pub(super) fn status(&self) -> &'static str {
        if self.turn.is_some() { BUILDING } else { QUEUED }
    }
}

/// Binds the address of a build container in a blueprint's file.
pub(super) fn bind(file: &mut File, id: &str, address: IpAddr) {
    let client = build_client(id);
    for (key, value) in [("sources", json!([address.to_string()])), ("blueprint", id.into()), ("phase", "build".into())]
    {
        file.set("client", &client, key, &value);
    }
}

impl Control {
    /// Builds a blueprint whose address is bound.
    pub(super) async fn build(self: Arc<Self>, id: Arc<str>, principal: Principal, mut place: Place) {
        let mut stop = self.builds.stop.subscribe();
        if place.turn.is_none() {
            let turn = tokio::select! {
                turn = Arc::clone(&self.builds.running).acquire_owned() => turn,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            place.turn = turn.ok();
            self.persist(&id, &principal, &[("status", BUILDING.into())], &mut stop).await;
        }
        let Some(builder) = &self.settings.builder else { return };
        let Some(view) = blueprints::view(&self.snapshot(), &id) else { return };
        let log = self.builds.log(&id);
        tracing::info!(id = &*id, command = builder.command.join(" "), "build begins");
        let ended =
            process::run((builder, &self.builds.builders), &id, view.to_string().into_bytes(), &log, &mut stop).await;
        let (is_complete, why) = match ended {
            // What the file says is settled at the next start.
            Ended::Stopped => return,
            Ended::Exited(status) if status.success() => (true, String::new()),
            Ended::Exited(status) => (false, format!("the builder ended with {status}")),
            Ended::Late => {
                (false, format!("the builder took longer than {} s and was killed", builder.timeout.as_secs()))
            }
            Ended::NotRun(error) => (false, format!("the builder cannot be run: {}: {error}", builder.command[0])),
        };
        if !is_complete {
            log.add("error", &why);
        }
        tracing::info!(id = &*id, is_complete, why, "build ended");
        self.persist(&id, &principal, &ended_as(is_complete), &mut stop).await;
    }

    /// Writes down that what was being built when the last process ended has failed.
    pub(super) async fn recover(self: Arc<Self>) {
        let principal = Principal::own();
        let unfinished = std::mem::take(&mut self.writer.lock().await.unfinished);
        let mut stop = self.builds.stop.subscribe();
        for id in unfinished {
            tracing::warn!(id = &*id, "build failed: it was under way when hostgate ended");
            self.persist(&id, &principal, &ended_as(false), &mut stop).await;
        }
    }

    /// Sets what is kept of a blueprint; where it has ended, its address is free. What cannot be written now is tried
    /// again, until the process stops.
    async fn persist(
        &self,
        id: &Arc<str>,
        principal: &Principal,
        fields: &[(&str, Value)],
        stop: &mut watch::Receiver<bool>,
    ) {
        let has_ended = fields.iter().any(|(key, _)| *key == "build_finish_time_ms");
        let edit = |snapshot: &Snapshot| {
            let text = blueprints::made(snapshot, id)?.source().text();
            Edit::of(id, text, |file| {
                if has_ended {
                    file.remove("client", &build_client(id));
                }
                for (key, value) in fields {
                    file.set("api", id, key, value);
                }
            })
        };
        let mut pause = PAUSE;
        loop {
            let changed = match self.write(principal).await {
                Ok(_writing) => self.change(principal, "blueprint.build", edit).await,
                Err(error) => Err(error),
            };
            let Err(error) = changed else { return };
            if blueprints::made(&self.snapshot(), id).is_err() {
                // Somebody took it away or over.
                return;
            }
            let path = crate::api::path_of(id);
            tracing::error!(path = %path.display(), error = error.message, "state of a build not written; tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

/// Returns what is kept of a build that ended.
fn ended_as(is_complete: bool) -> [(&'static str, Value); 3] {
    let (status, reason) = if is_complete { (COMPLETE, Value::Null) } else { (FAILED, Value::from("build_failed")) };
    [("status", status.into()), ("build_finish_time_ms", now_ms().into()), ("failure_reason", reason)]
}

/// The status of a blueprint whose build waits.
pub(super) const QUEUED: &str = "queued";

/// The status of a blueprint whose build runs.
pub(super) const BUILDING: &str = "building";

/// The status of a blueprint that cannot be used.
pub(super) const FAILED: &str = "failed";

/// How long is waited before a state is written again; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
