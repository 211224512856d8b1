//! The report of a reload: one line of the log, the status and the metrics say what is in force and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::apply::Trigger;
use super::out_of_date::OutOfDate;
use super::served::InForce;
use super::status::{ClientsWithoutPolicy, State};
use super::upstreams::Chosen;
use super::{Reloader, summary};
use crate::bounds::{MAX_LOGGED, MAX_TOLD_ERRORS, MAX_TOLD_LINE};
use crate::document::{Diagnostic, escaped, shortened};
use crate::policy::{Diagnostics, Library, Snapshot, object_of};

impl Reloader {
    /// Reports the outcome of a reload to status, metrics and log.
    pub(super) fn report(
        &mut self,
        before: &Arc<Snapshot>,
        held_back: Vec<PathBuf>,
        mut diagnostics: Diagnostics,
        trigger: Trigger,
    ) {
        diagnostics.add(self.faults.warnings.clone());
        let complaints = self.config.complaints(diagnostics.iter());
        diagnostics.add(complaints);
        let swapped = !Arc::ptr_eq(before, self.library.snapshot());
        let errors = self.faults.errors.iter().chain(diagnostics.errors());
        let errors = summary::lines(errors, MAX_TOLD_ERRORS, "errors").join("\n");
        let paths = self.faults.held_back.iter().chain(&held_back);
        self.reasons = reasons(paths, self.faults.errors.iter().chain(diagnostics.errors()));
        let mut state = state(&self.library, diagnostics, &self.chosen);
        let old = self.status.state();
        self.held_back = held_back;
        let held_back = self.faults.held_back.iter().chain(&self.held_back);
        let held_back: BTreeSet<&PathBuf> = held_back.collect();
        state.held_back = summary::paths(held_back.into_iter());
        state.error = (!errors.is_empty()).then_some(errors);
        if state.error.is_none() {
            self.last_good = None;
        }
        if !swapped {
            state.loaded_at.clone_from(&old.loaded_at);
        }
        let asked = trigger == Trigger::Request;
        if trigger != Trigger::ApiChange {
            self.last_good_writer.note_change();
        }
        self.share_in_force();
        if swapped && trigger != Trigger::ApiChange {
            self.record_objects();
        }
        if swapped {
            let State { generation, hash, policies, blueprints, clients, .. } = &state;
            if trigger == Trigger::ApiChange {
                tracing::debug!(generation, hash, policies, blueprints, clients, "policies swapped");
            } else {
                tracing::info!(generation, hash, policies, blueprints, clients, "policies swapped");
            }
            self.status.count_swap();
        }
        log_warnings(state.warnings.new_warnings(&old.warnings));
        // Logged once, not for each client that comes or goes.
        let (new, known) = (&state.without_policy, &old.without_policy);
        if (&new.policy, new.count == 0) != (&known.policy, known.count == 0) {
            log_without(self.library.snapshot());
        }
        // Logged once: events about other files cause reloads that find the same errors again.
        match &state.error {
            Some(error) if asked || state.error != old.error || state.held_back != old.held_back => {
                let is_new = state.error != old.error || state.held_back != old.held_back;
                if let Some(untold) = if is_new { Some(0) } else { self.log_rate_limit.admit(Instant::now()) } {
                    let untold = (untold > 0).then_some(untold);
                    let path = state.held_back.join(" ");
                    let generation = state.generation;
                    let error = error.replace('\n', "; ");
                    tracing::error!(path, generation, error, untold, "policy not reloaded; keeping the one in force");
                }
                self.status.count_failure();
            }
            None if old.error.is_some() => {
                tracing::info!(generation = state.generation, "everything on disk is in force again");
            }
            None if asked && !swapped => {
                if let Some(untold) = self.log_rate_limit.admit(Instant::now()) {
                    let untold = (untold > 0).then_some(untold);
                    tracing::info!(generation = state.generation, untold, "nothing changed");
                }
            }
            _ => {}
        }
        (state.out_of_date, state.out_of_date_total) = (old.out_of_date.clone(), old.out_of_date_total);
        if state != *old {
            self.status.set(state);
        }
        self.report_out_of_date();
    }
}

impl Reloader {
    /// Shares what is in force with the thread that hands over to a successor.
    pub(super) fn share_in_force(&self) {
        let root = self.config.policies.as_path().into();
        self.status.share(InForce { library: self.library.clone(), root, config: self.config_text.clone() });
    }

    /// Records the API's objects in force on disk.
    pub(super) fn record_objects(&mut self) {
        let status = Arc::clone(&self.status);
        let _disk = status.disk();
        if let Some(record) = &mut self.object_record {
            record.update(&self.library, &self.config.policies, self.directory.lost_objects().is_some());
        }
    }

    /// Records the object at a path that an API change wrote.
    pub(super) fn record_object(&mut self, path: &Path, library: &Library) {
        let Some(record) = &mut self.object_record else { return };
        let root = &self.config.policies;
        if let Some(id) = object_of(root, path) {
            record.update_one(id, library.object_in_force(root, path).map(|(_, addresses, _)| addresses));
        }
    }
}

/// Returns the first error of each of some files: an error at a place in the file, else one that names the file, else
/// the first of all, as an error holds back all files that go into force together.
pub(super) fn reasons<'d>(
    paths: impl Iterator<Item = &'d PathBuf>,
    errors: impl Iterator<Item = &'d Diagnostic>,
) -> BTreeMap<PathBuf, String> {
    let mut reasons: BTreeMap<PathBuf, String> = paths.map(|path| (path.clone(), String::new())).collect();
    let told = |error: &Diagnostic| shortened(&error.to_string(), MAX_TOLD_LINE).into_owned();
    let mut first = None;
    let mut related: BTreeMap<&Path, &Diagnostic> = BTreeMap::new();
    for error in errors {
        first = first.or(Some(error));
        if let Some(reason) = reasons.get_mut(&*error.place.path).filter(|reason| reason.is_empty()) {
            *reason = told(error);
        }
        for other in &error.related {
            related.entry(&other.place.path).or_insert(error);
        }
    }
    for (path, reason) in reasons.iter_mut().filter(|(_, reason)| reason.is_empty()) {
        if let Some(error) = related.get(path.as_path()) {
            *reason = told(error);
        } else if let Some(error) = first {
            *reason = format!("held back with others: {}", told(error));
        }
    }
    reasons
}

/// The number of clients without a policy that the status names.
const MOST_NAMED: usize = 10;

/// Returns the state that `/status` shows, without errors.
pub(super) fn state(library: &Library, warnings: Diagnostics, chosen: &Chosen) -> State {
    let snapshot = library.snapshot();
    let (clients, more) = snapshot.clients_without_policy(MOST_NAMED);
    let without_policy = ClientsWithoutPolicy {
        policy: snapshot.without().to_owned(),
        count: clients.len() + more,
        clients: clients.into_iter().map(str::to_owned).collect(),
    };
    State {
        without_policy,
        generation: snapshot.generation,
        hash: snapshot.hash.clone(),
        loaded_at: jiff::Timestamp::now().to_string(),
        error: None,
        held_back: Vec::new(),
        out_of_date: OutOfDate::default(),
        out_of_date_total: 0,
        warnings,
        policies: snapshot.policies().len(),
        blueprints: snapshot.blueprints().len(),
        clients: snapshot.clients().len(),
        upstream_error: chosen.error.as_deref().map(|error| shortened(&escaped(error), MAX_TOLD_LINE).into_owned()),
    }
}

/// Logs what applies to clients for which no policy is named, if there are any.
pub(crate) fn log_without(snapshot: &Snapshot) {
    if let Some(told) = snapshot.note_on_clients_without_policy() {
        tracing::info!("{}", escaped(&told));
    }
}

/// Logs warnings: the first ones, and the number of the rest.
pub(crate) fn log_warnings<'d>(warnings: impl Iterator<Item = &'d Diagnostic>) {
    let mut warnings = warnings.fuse();
    for warning in warnings.by_ref().take(MAX_LOGGED) {
        let warning = warning.to_string();
        let warning = shortened(&warning, MAX_TOLD_LINE);
        tracing::warn!(%warning, "policy warning");
    }
    let more = warnings.count();
    if more > 0 {
        tracing::warn!(more, "more policy warnings, not logged; `hostgate check` shows them");
    }
}
