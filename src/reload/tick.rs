//! The tasks of the reload thread that need no event: comparisons, retries, and the list of what is out of date.
//!
//! [`Reloader::next_tick`] says when the thread has to wake without an event; [`Reloader::tick`] then runs what is due.
//! A file that could not be read because of a temporary error is retried with exponential backoff, up to 5 s.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::apply::Trigger;
use super::disk_comparison::Compared;
use super::files::ObservedState;
use super::object_record::ObjectRecord;
use super::out_of_date::{Kind, Mismatch};
use super::{Reloader, State, load};
use crate::config::Servers;
use crate::upstream::local_address::is_local;

/// The first pause before a file that could not be read is tried again; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The next try at files that could not be read because of a temporary error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    due: Instant,
    /// The pause before that try.
    pause: Duration,
}

/// Returns whether no interface has the address of a listener; `false` for a link-local address, which would need its
/// interface to be looked up.
pub(crate) fn is_absent(address: SocketAddr) -> bool {
    let is_link_local = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    !address.ip().is_unspecified() && !is_link_local && is_local(address.ip()) == Some(false)
}

impl Reloader {
    /// Returns the time of the next retry, write of the last good state, or comparison.
    pub(super) fn next_tick(&self) -> Instant {
        let retry = self.retry.map(|retry| retry.due);
        [retry, self.last_good_writer.due()].into_iter().flatten().fold(self.disk_comparison.due(), Instant::min)
    }

    /// Runs the tasks that are due.
    pub(super) fn tick(&mut self) {
        if self.retry.is_some_and(|retry| retry.due <= Instant::now()) {
            return self.reload(Trigger::Comparison);
        }
        self.write_last_good_when_due();
        let status = Arc::clone(&self.status);
        let (busy, disk) = (status.begin(), status.disk());
        let is_polling = self.watch.unwatched().is_some();
        let compared = self.disk_comparison.compare(&mut self.directory, &self.files, is_polling);
        if compared != Compared::Same {
            // An open lock file in a folder that is gone keeps its file system from being unmounted.
            self.object_writer.release();
        }
        drop((busy, disk));
        match compared {
            Compared::Same => {}
            Compared::Differs => self.reload(Trigger::Comparison),
            Compared::Cycle => {
                if is_polling {
                    // The limit of the kernel may have been raised since.
                    self.follow(self.followed.clone());
                }
                self.find_absent_addresses();
                if self.object_record.as_ref().is_some_and(|record| record.fault().is_some()) {
                    self.record_objects();
                }
                self.report_out_of_date();
            }
        }
    }

    /// Updates the list of listeners whose address no interface has.
    pub(super) fn find_absent_addresses(&mut self) {
        self.absent = self.listeners.iter().filter(|address| is_absent(**address)).copied().collect();
    }

    /// Plans the next try, if a file could not be read because of a temporary error.
    pub(super) fn plan_retry(&mut self) {
        let is_temporary = self.faults.is_temporary
            || !self.directory.temporary().is_empty()
            || self.files.observed().any(|(_, observed)| observed.is_temporary());
        self.retry = is_temporary.then(|| {
            let pause = self.retry.map_or(FIRST_PAUSE, |retry| (2 * retry.pause).min(LONGEST_PAUSE));
            Retry { due: Instant::now() + pause, pause }
        });
    }

    /// Updates the list of what is out of date, for status, metrics and log.
    pub(super) fn report_out_of_date(&mut self) {
        let found = self.find_mismatches();
        let list = self.since.update(found);
        let old = self.status.state();
        if list != old.out_of_date {
            let state = State::clone(&old);
            self.status.set(State { out_of_date_total: list.len(), out_of_date: list, ..state });
        }
    }

    /// Returns what the next start would do about an error that it refuses: begin with the last good state, if the
    /// configuration allows that and a usable state exists, or fail.
    fn start_instead(&mut self) -> String {
        let path = self.config_path.clone().filter(|_| self.config.start_from_last_good);
        let Some(path) = path else { return "the next start refuses this".to_owned() };
        let status = Arc::clone(&self.status);
        let _disk = status.disk();
        match self.last_good_writer.time_written(&path) {
            Ok(written) => format!("the next start begins with the last good state, of {written}, instead"),
            Err(why) => format!("the next start refuses this, as the last good state is of no use: {why}"),
        }
    }

    /// Returns the directory of the last good state and a reason, if a start would begin with it now and it is older than
    /// what is in force, as it cannot be written.
    fn older_start(&mut self) -> Option<(Option<PathBuf>, String)> {
        let path = self.config_path.clone().filter(|_| self.config.start_from_last_good)?;
        let (directory, why) = self.last_good_writer.failed()?;
        let status = Arc::clone(&self.status);
        let _disk = status.disk();
        let written = self.last_good_writer.time_written(&path).ok()?;
        let told = format!(
            "a start now would begin with the last good state, of {written}, which is older than what is in force"
        );
        Some((directory, format!("{told}: {why}")))
    }

    /// Returns each way in which what is in force is not what is on disk.
    fn find_mismatches(&mut self) -> Vec<Mismatch> {
        let mut all = Vec::new();
        let is_empty = load::no_policy_file(&self.config, &self.directory.tree);
        let is_refused = is_empty.is_some() || !self.library.refused_at_start().is_empty();
        let instead = if is_refused { self.start_instead() } else { String::new() };
        let older = (is_refused || !self.reasons.is_empty()).then(|| self.older_start()).flatten();
        let lost = self.directory.lost_objects().map(|(folder, _)| folder);
        let mut add = |kind, path: Option<PathBuf>, why: String| all.push(Mismatch { kind, path, why });
        for (path, why) in &self.reasons {
            let is_unreadable = lost.as_ref() == Some(path)
                || self.directory.observed_at(path).is_some_and(ObservedState::is_failed)
                || self.directory.tree.unreadable.contains_key(path)
                || self.files.observed_at(path).is_some_and(ObservedState::is_failed)
                || *path == self.config.policies;
            let kind = if is_unreadable { Kind::Unreadable } else { Kind::HeldBack };
            // An unreadable list is an error of the policy that names it; the entry gives the reason for the list.
            let fault = self.files.list_fault(path).map(|why| format!("the list file cannot be read: {why}"));
            add(kind, Some(path.clone()), fault.unwrap_or_else(|| why.clone()));
        }
        let temporary = self.files.observed().filter(|(_, observed)| observed.is_temporary()).map(|(path, _)| path);
        for path in self.directory.temporary().iter().map(PathBuf::as_path).chain(temporary) {
            add(Kind::Unreadable, Some(path.to_owned()), "it cannot be read for now: it is tried again".to_owned());
        }
        for error in self.library.refused_at_start() {
            add(Kind::NextStart, Some(error.place.path.to_path_buf()), format!("{error}: {instead}"));
        }
        for error in self.library.failing_tests() {
            add(Kind::FailedTest, Some(error.place.path.to_path_buf()), error.to_string());
        }
        if let Some(error) = is_empty {
            add(Kind::NextStart, Some(self.config.policies.clone()), format!("{}: {instead}", error.message));
        }
        if let Some((directory, why)) = older {
            add(Kind::NextStart, directory, why);
        }
        if let (Servers::System(path), true) = (&self.config.upstream.servers, self.chosen.are_last()) {
            let why = "it names no nameserver: the last ones stay in use, and the next start would have no upstream: \
                       allowed names would be answered SERVFAIL";
            add(Kind::NextStart, Some(path.clone()), why.to_owned());
        }
        if let (Some(written), Some(path)) = (&self.last_good, &self.config_path) {
            let why = format!("started from the last good state, of {written}: what is bad on disk is not in force");
            add(Kind::LastGood, Some(path.clone()), why);
        }
        if let Some((directory, why)) = self.last_good_writer.failed() {
            add(Kind::NotKept, directory, why);
        }
        if let Some((directory, why)) = self.object_record.as_ref().and_then(ObjectRecord::fault) {
            add(Kind::NotKept, Some(directory.to_owned()), why.to_owned());
        }
        if !self.warned.is_empty() {
            let why = format!("changed, and takes a restart: {}", self.warned.join(", "));
            add(Kind::Restart, self.config_path.clone(), why);
        }
        for address in &self.unlisted {
            let why =
                format!("the next start would not serve {address}, which is served now: no [[listen]] has it any more");
            // One entry for each kind and path, so this one is known by its text.
            add(Kind::NextStart, None, why);
        }
        for address in &self.absent {
            let why = format!("no interface has the address of the listener {address}: it serves once one has");
            add(Kind::Address, None, why);
        }
        if let Some((path, why)) = self.watch.unwatched() {
            add(Kind::Polling, path.clone(), why.clone());
        }
        all
    }
}
