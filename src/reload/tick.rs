//! What is done now and then, whatever events tell: comparing, trying again, and telling what is out of date.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::apply::Trigger;
use super::files::Observed;
use super::out_of_date::{Found, Kind};
use super::sweep::Compared;
use super::{Reloader, State};
use crate::config::Servers;
use crate::upstream::system::is_local;

/// The first pause before something that could not be read is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A further try at what could not be read for a reason that passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// When.
    due: Instant,
    /// The pause before it.
    pause: Duration,
}

/// Returns whether no interface has the address of a listener. One that is only valid on a link cannot be looked for by itself.
pub(crate) fn is_absent(address: SocketAddr) -> bool {
    let is_link_local = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    !address.ip().is_unspecified() && !is_link_local && !is_local(address.ip())
}

impl Reloader {
    /// Returns when there is something to do although nothing happened.
    pub(super) fn next_tick(&self) -> Instant {
        let retry = self.retry.map(|retry| retry.due);
        [retry, self.keeper.due()].into_iter().flatten().fold(self.sweep.due(), Instant::min)
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        if self.retry.is_some_and(|retry| retry.due <= Instant::now()) {
            return self.reload(Trigger::Comparison);
        }
        self.keep();
        let progress = Arc::clone(&self.progress);
        let (busy, disk) = (progress.begin(), progress.disk());
        let is_polling = self.watch.unwatched().is_some();
        let compared = self.sweep.compare(&mut self.directory, &self.files, is_polling);
        if compared != Compared::Same {
            self.store.release();
        }
        drop((busy, disk));
        match compared {
            Compared::Same => {}
            Compared::Differs => self.reload(Trigger::Comparison),
            Compared::Cycle => {
                if is_polling {
                    self.follow(self.followed.clone());
                }
                self.look_for_addresses();
                self.report_out_of_date();
            }
        }
    }

    /// Finds the listeners whose address no interface has.
    pub(super) fn look_for_addresses(&mut self) {
        self.absent = self.listeners.iter().filter(|address| is_absent(**address)).copied().collect();
    }

    /// Plans the next try, if something could not be read for a reason that passes.
    pub(super) fn plan_retry(&mut self) {
        let is_passing = self.faults.is_passing
            || !self.directory.passing().is_empty()
            || self.files.observed().any(|(_, observed)| observed.is_passing());
        self.retry = is_passing.then(|| {
            let pause = self.retry.map_or(FIRST_PAUSE, |retry| (2 * retry.pause).min(LONGEST_PAUSE));
            Retry { due: Instant::now() + pause, pause }
        });
    }

    /// Tells status, metrics and log what is out of date now.
    pub(super) fn report_out_of_date(&mut self) {
        let found = self.found_out_of_date();
        let list = self.since.update(found);
        let old = self.progress.state();
        if list != old.out_of_date {
            let state = State::clone(&old);
            self.progress.set(State { out_of_date_total: list.len(), out_of_date: list, ..state });
        }
    }

    /// Says what the next start does about something that it refuses: it begins with the last good state, where that was
    /// chosen and there is one.
    fn start_instead(&mut self) -> String {
        let path = self.config_path.clone().filter(|_| self.config.start_from_last_good);
        let Some(path) = path else { return "the next start refuses this".to_owned() };
        let progress = Arc::clone(&self.progress);
        let _disk = progress.disk();
        match self.keeper.kept(&path) {
            Ok(written) => format!("the next start begins with the last good state, of {written}, instead"),
            Err(why) => format!("the next start refuses this, as the last good state is of no use: {why}"),
        }
    }

    /// Finds what is out of date.
    fn found_out_of_date(&mut self) -> Vec<Found> {
        let mut all = Vec::new();
        let is_empty = self.config.control.is_none() && self.directory.tree.files.is_empty();
        let is_refused = is_empty || !self.library.refused_at_start().is_empty();
        let instead = if is_refused { self.start_instead() } else { String::new() };
        let mut add = |kind, path: Option<PathBuf>, why: String| all.push(Found { kind, path, why });
        for (path, why) in &self.reasons {
            let is_unreadable = self.directory.observed_at(path).is_some_and(Observed::is_failed)
                || self.directory.tree.unreadable.contains_key(path)
                || self.files.observed_at(path).is_some_and(Observed::is_failed)
                || self.faults.is_passing && *path == self.config.policies;
            let kind = if is_unreadable { Kind::Unreadable } else { Kind::HeldBack };
            // That a list cannot be read is told of the policy that names it.
            let fault = self.files.list_fault(path).map(|why| format!("the list file cannot be read: {why}"));
            add(kind, Some(path.clone()), fault.unwrap_or_else(|| why.clone()));
        }
        let passing = self.files.observed().filter(|(_, observed)| observed.is_passing()).map(|(path, _)| path);
        for path in self.directory.passing().iter().map(PathBuf::as_path).chain(passing) {
            add(Kind::Unreadable, Some(path.to_owned()), "it cannot be read for now: it is tried again".to_owned());
        }
        for error in self.library.refused_at_start() {
            add(Kind::NextStart, Some(error.place.path.to_path_buf()), format!("{error}: {instead}"));
        }
        if is_empty {
            let why = format!("there is no policy file (*.toml) in this directory: {instead}");
            add(Kind::NextStart, Some(self.config.policies.clone()), why);
        }
        if let (Servers::System(path), true) = (&self.config.upstream.servers, self.chosen.are_last()) {
            let why = "it names no nameserver: the last ones are asked on, and the next start has nobody to ask: \
                       allowed names would be answered SERVFAIL";
            add(Kind::NextStart, Some(path.clone()), why.to_owned());
        }
        if let (Some(written), Some(path)) = (&self.last_good, &self.config_path) {
            let why = format!("started from the last good state, of {written}: what is bad on disk is not in force");
            add(Kind::LastGood, Some(path.clone()), why);
        }
        if let Some((directory, why)) = self.keeper.failed() {
            add(Kind::NotKept, directory, why);
        }
        if !self.warned.is_empty() {
            let why = format!("changed, and takes a restart: {}", self.warned.join(", "));
            add(Kind::Restart, self.config_path.clone(), why);
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
