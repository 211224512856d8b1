//! One reload, from the notice that something changed to the report of what is in force.
//!
//! [`Reloader::reload`] calls the steps in order: notice, read, compile and test, swap, report, watch. A file that is
//! bad, alone or together with others, is held back, and its last good version stays in force; so a step never stops
//! the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FollowedPaths, ObservedState, UnfinishedFiles};
use super::load::{bindings, unreadable};
use super::trusted::Trusted;
use super::watch::Changes;
use super::{Reloader, upstreams};
use crate::bounds::MAX_TOLD_LINE;
use crate::config::{self, Config};
use crate::document::{Diagnostic, shortened};
use crate::engine::View;
use crate::policy::{Diagnostics, Library, Snapshot};

/// The cause of a reload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// An event of the file system.
    Event,
    /// A comparison found a difference, or a temporary error is retried: any file may have changed.
    Comparison,
    /// SIGHUP: the outcome is logged even if nothing changed.
    Request,
    /// A change over the API, which has an audit record of its own.
    ApiChange,
}

/// The faults outside of policy files: of the configuration, the upstreams, or the policies directory as a whole.
#[derive(Default)]
pub(super) struct Faults {
    /// The errors.
    pub(super) errors: Vec<Diagnostic>,
    /// The files, or the directory, whose version on disk is not in force.
    pub(super) held_back: Vec<PathBuf>,
    /// The warnings about the configuration.
    pub(super) warnings: Vec<Diagnostic>,
    /// Whether the policies directory could not be read because of a temporary error.
    pub(super) is_temporary: bool,
}

/// The outcome of compiling the policy files.
#[derive(Default)]
struct Compiled {
    /// The errors and warnings of policy files.
    diagnostics: Diagnostics,
    /// The policy files whose last good version is in force.
    held_back: Vec<PathBuf>,
    /// The library in force before.
    replaced: Option<Library>,
}

impl Reloader {
    /// Reads what may have changed, puts what is good into force, reports the rest, and watches what was read.
    pub(super) fn reload(&mut self, trigger: Trigger) {
        let status = Arc::clone(&self.status);
        let _busy = status.begin();
        let before = Arc::clone(self.library.snapshot());
        let mut faults = Faults::default();
        let changes = self.notice(trigger);
        self.files.budget.restart(before.objects());
        let disk = status.disk();
        let config = self.read_config(&mut faults);
        let is_read = self.read_policies(&config, &changes, &mut faults);
        drop(disk);
        if let Some((folder, error)) = self.directory.lost_objects() {
            faults.held_back.push(folder);
            faults.errors.push(error);
        }
        status.heartbeat().beat();
        let compiled = if is_read { self.compile(config) } else { Compiled::default() };
        status.heartbeat().beat();
        let disk = status.disk();
        self.choose_upstreams(&mut faults);
        drop(disk);
        faults.warnings = Trusted::warnings(&self.config);
        let mut followed = match (is_read, faults.is_temporary) {
            (true, _) => self.directory.followed.clone(),
            // The files of the last reload are still followed after a temporary error.
            (false, true) => self.followed.clone(),
            (false, false) => FollowedPaths::default(),
        };
        if let Some(path) = &self.config_path
            && !faults.held_back.contains(path)
            && !compiled.held_back.contains(path)
        {
            self.config_text = self.files.text(path).or(self.config_text.take());
        }
        self.faults = faults;
        self.swap(&before);
        // Freeing the last versions of many files takes its time, so it comes after the swap.
        drop(compiled.replaced);
        status.heartbeat().beat();
        self.report(&before, compiled.held_back, compiled.diagnostics, trigger);
        self.library.list_paths().for_each(|path| followed.add_file(path));
        self.follow(followed);
        self.plan_retry();
        self.report_out_of_date();
    }

    /// Returns the files that may have changed, as far as events say.
    fn notice(&mut self, trigger: Trigger) -> Changes {
        let changes = self.watch.changes();
        self.files.unfinished = UnfinishedFiles::of(self.watch.unfinished());
        if trigger == Trigger::Event { changes } else { Changes::Anything }
    }

    /// Reads the policies directory, as far as it changed; returns whether it could be read.
    fn read_policies(&mut self, config: &Config, changes: &Changes, faults: &mut Faults) -> bool {
        let trusted = Trusted::of(config);
        let beside = (&self.files.unfinished, &self.files.budget);
        let read = self.directory.read(&self.config.policies, changes, beside, &trusted);
        self.files.trust(trusted);
        if let Err(error) = &read {
            faults.held_back.push(self.config.policies.clone());
            faults.errors.push(unreadable(&self.config.policies, error));
            faults.is_temporary = files::is_temporary(error);
        }
        read.is_ok()
    }

    /// Compiles the policy files as they were read, runs their tests, and takes over what is good, and with it the
    /// configuration.
    fn compile(&mut self, config: Config) -> Compiled {
        let (files, status) = (&mut self.files, &self.status);
        let mut read_list = |path: &Path, held| {
            let _disk = status.disk();
            files.read_list(path, held)
        };
        let reloaded = self.library.reload(&self.directory.tree, &mut read_list, &bindings(&config));
        // A policy that does not exist, named in the configuration, holds back all of the configuration.
        if !self.config_path.as_ref().is_some_and(|path| reloaded.held_back.contains(path)) {
            self.take_config(config);
        }
        let replaced = Some(std::mem::replace(&mut self.library, reloaded.library));
        self.files.forget_unused();
        Compiled { diagnostics: reloaded.diagnostics, held_back: reloaded.held_back, replaced }
    }

    /// Reads the configuration file; returns the one in force if it is bad.
    fn read_config(&mut self, faults: &mut Faults) -> Config {
        let Some(path) = &self.config_path else { return self.config.clone() };
        let read = self.files.read(path).map_err(|reason| vec![Diagnostic::about_file(path, reason)]);
        match read.and_then(|text| Config::parse(path, text)) {
            Ok(config) => {
                let changed = config::changed_keys(&self.started_with, &config);
                for key in changed.iter().filter(|key| !self.warned.contains(key)) {
                    tracing::warn!(key, "changed in the configuration file; takes a restart to go into force");
                }
                self.warned = changed;
                self.unlisted = config::unlisted(&self.listeners, &config);
                config::with_restart_keys_of(&self.config, &config)
            }
            Err(wrong) => {
                faults.errors.extend(wrong);
                faults.held_back.push(path.clone());
                self.config.clone()
            }
        }
    }

    /// Puts a configuration into force.
    fn take_config(&mut self, new: Config) {
        if new.log != self.config.log {
            (self.set_log_filter)(&new.log);
        }
        self.config = new;
    }

    /// Chooses the upstreams again, as their list may have changed.
    fn choose_upstreams(&mut self, faults: &mut Faults) {
        if let config::Servers::System(path) = &self.config.upstream.servers
            && self.files.is_unfinished(path)
        {
            // Its writer has not closed it yet; closing it causes the next reload.
            return;
        }
        let read = &mut |path: &Path| self.files.read(path);
        let chosen = upstreams::choose(&self.config.upstream, &self.listeners, read);
        if let config::Servers::System(path) = &self.config.upstream.servers
            && self.files.observed_at(path).is_some_and(ObservedState::is_temporary)
        {
            // A temporary error says nothing about the nameservers.
            return;
        }
        match chosen {
            Ok(chosen) => {
                let chosen = chosen.or_last(&self.chosen);
                if chosen != self.chosen {
                    self.upstreams = Arc::new(self.upstreams.replaced_by(&chosen.servers, chosen.settings()));
                    if chosen.servers != self.chosen.servers {
                        tracing::info!(upstream = &*shortened(&chosen.describe(), MAX_TOLD_LINE), "upstreams changed");
                    }
                    match &chosen.error {
                        Some(error) if chosen.servers.is_empty() => {
                            let error = shortened(error, MAX_TOLD_LINE);
                            tracing::error!(%error, "no upstream; allowed names are answered SERVFAIL");
                        }
                        Some(error) => {
                            let error = shortened(error, MAX_TOLD_LINE);
                            tracing::error!(%error, "no upstream is named any more; keeping the last ones");
                        }
                        None if self.chosen.error.is_some() => tracing::info!("upstreams are named again"),
                        None => {}
                    }
                    self.chosen = chosen;
                }
            }
            Err(wrong) => {
                faults.errors.extend(wrong);
                faults.held_back.extend(self.config_path.clone());
            }
        }
    }

    /// Swaps the view that queries are answered from, if policies, upstreams or the TTL of denials changed.
    pub(super) fn swap(&self, before: &Arc<Snapshot>) {
        let now = self.engine.view();
        let same = Arc::ptr_eq(before, self.library.snapshot())
            && Arc::ptr_eq(&now.upstreams, &self.upstreams)
            && now.denied_ttl == self.config.denied_ttl;
        if !same {
            self.engine.publish(View {
                snapshot: Arc::clone(self.library.snapshot()),
                upstreams: Arc::clone(&self.upstreams),
                denied_ttl: self.config.denied_ttl,
            });
        }
    }
}
