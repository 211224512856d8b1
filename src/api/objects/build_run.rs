//! The build of a blueprint: its container's address is bound to the build policy until the build ends.
//!
//! The address is bound before the command starts and released with the final status: each is one change of the
//! blueprint's file. A build that was running when a process ended has failed; the next process writes that down.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::api::audit::AuditAction;
use crate::api::auth::Principal;
use crate::api::builds::BuildPermit;
use crate::api::builds::process::{BuildEnd, run};
use crate::api::objects::blueprints::{BlueprintKind, build_client};
use crate::api::objects::object_file::ObjectFile;
use crate::api::objects::writer::FileEdit;
use crate::api::objects::{ApiKind, ApiObject as _, BUILDING, COMPLETE, FAILED, path_of, view};
use crate::api::{ApiState, now_ms};
use crate::policy::Snapshot;

/// The first pause before a status is written again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

impl ApiState {
    /// Builds a blueprint whose address is bound.
    pub(in crate::api) async fn build(self: Arc<Self>, id: Arc<str>, principal: Principal, mut permit: BuildPermit) {
        let mut stop = self.builds.stopping();
        if !permit.is_running() {
            tokio::select! {
                () = self.builds.wait(&mut permit) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.set_status(&id, &principal, &[("status", BUILDING.into())], &mut stop).await;
        }
        let Some(builder) = &self.settings.builder else { return };
        // The builder gets the view, so that it sees what clients see: metadata, and the address among it.
        let Ok(view) = view(&self.snapshot(), ApiKind::Blueprint, &id) else { return };
        let log = self.builds.log(&id);
        tracing::info!(id = &*id, command = builder.command.join(" "), "build begins");
        let input = view.to_string().into_bytes();
        let failure = match run((builder, self.builds.builders()), &id, input, &log, &mut stop).await {
            // The next process writes down that it failed.
            BuildEnd::Stopped => return,
            BuildEnd::Exited(status) if status.success() => None,
            BuildEnd::Exited(status) => Some(format!("the builder ended with {status}")),
            BuildEnd::TimedOut => {
                Some(format!("the builder took longer than {} s and was killed", builder.timeout.as_secs()))
            }
            BuildEnd::NotRun(error) => Some(format!("the builder cannot be run: {}: {error}", builder.command[0])),
        };
        if let Some(failure) = &failure {
            log.add("error", failure);
        }
        let (is_complete, why) = (failure.is_none(), failure.unwrap_or_default());
        tracing::info!(id = &*id, is_complete, why, "build ended");
        self.set_status(&id, &principal, &ended(is_complete), &mut stop).await;
    }

    /// Writes down that the builds which were running when the last process ended have failed.
    pub(in crate::api) async fn fail_unfinished_builds(self: Arc<Self>) {
        let principal = Principal::own();
        let unfinished = std::mem::take(&mut self.writer.lock().await.unfinished);
        let mut stop = self.builds.stopping();
        for id in unfinished {
            tracing::warn!(id = &*id, "build failed: it was under way when hostgate ended");
            self.set_status(&id, &principal, &ended(false), &mut stop).await;
        }
    }

    /// Sets keys of a blueprint's API table, and releases the address of a build that has ended. A write that fails is
    /// repeated until the process stops.
    async fn set_status(
        &self,
        id: &Arc<str>,
        principal: &Principal,
        keys: &[(&str, Value)],
        stop: &mut watch::Receiver<bool>,
    ) {
        let has_ended = keys.iter().any(|(key, _)| *key == "build_finish_time_ms");
        let edit = |snapshot: &Snapshot| {
            let text = BlueprintKind::source(snapshot, id)?.text();
            let mut file = ObjectFile::parse(text)?;
            if has_ended {
                file.remove("client", &build_client(id));
            }
            for (key, value) in keys {
                file.set("api", id, key, value);
            }
            Ok(FileEdit::update(id, text, &file))
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let written = match self.write(principal).await {
                Ok(_writing) => self.apply(principal, AuditAction::Build, edit).await,
                Err(error) => Err(error),
            };
            let Err(error) = written else { return };
            // A person may have removed the blueprint or made it their own.
            if BlueprintKind::source(&self.snapshot(), id).is_err() {
                return;
            }
            tracing::error!(path = %path_of(id).display(), error = error.message, "state of a build not written; tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

/// Returns the keys of a build that has ended.
fn ended(is_complete: bool) -> [(&'static str, Value); 3] {
    // Runloop's other reasons are out_of_memory and out_of_disk, which an exit status does not tell apart.
    let (status, reason) = if is_complete { (COMPLETE, Value::Null) } else { (FAILED, Value::from("build_failed")) };
    [("status", status.into()), ("build_finish_time_ms", now_ms().into()), ("failure_reason", reason)]
}
