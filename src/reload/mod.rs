//! Keeping what is in force the same as what is on disk.
//!
//! One thread looks whenever something below the policies directory, a list file, the configuration or the system's
//! resolv.conf changed, and on SIGHUP. A look reads everything, builds aside, compares and swaps once; what is wrong
//! is held back and told. Nothing here is on the path of a query.

mod api_change;
mod atomic_write;
mod files;
mod keep;
pub(crate) mod last_good;
mod log_pace;
mod object_folder;
pub(crate) mod out_of_date;
mod scan;
mod status;
pub(crate) mod summary;
mod sweep;
mod tick;
mod trusted;
pub(crate) mod upstreams;
mod watch;
mod weight;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing_subscriber::filter::Targets;

use self::api_change::Inbox;
pub(crate) use self::api_change::{Change, Changer, Refused};
use self::atomic_write::Store;
pub(crate) use self::files::Stamp;
use self::files::{Files, Followed, Observed, Unfinished};
use self::keep::Keeper;
use self::last_good::Kept;
use self::log_pace::Pace;
use self::out_of_date::{OutOfDate, Since};
use self::scan::Directory;
use self::status::Without;
pub(crate) use self::status::{Progress, State, Work};
use self::sweep::Sweep;
use self::tick::Retry;
pub(crate) use self::tick::is_absent;
use self::trusted::Trusted;
use self::upstreams::Chosen;
pub(crate) use self::watch::Waker;
use self::watch::{Changes, Wake, Watch};
use crate::bounds::{MAX_LOGGED, MAX_TOLD_ERRORS, MAX_TOLD_LINE};
use crate::config::{self, Config};
use crate::document::{Diagnostic, escaped, shortened};
use crate::engine::{Engine, View};
use crate::policy::{Bindings, Diagnostics, Library, Reloaded};
use crate::upstream::Upstreams;

/// Policies that loaded, before anything is bound or served.
pub(crate) struct Loaded {
    /// The policies directory.
    directory: Directory,
    /// What is known of single files.
    files: Files,
    /// The last good version of each file, and the snapshot in force.
    library: Library,
    /// What to watch.
    followed: Followed,
    /// Warnings.
    pub(crate) warnings: Vec<Diagnostic>,
    /// What is wrong with files that are held back.
    pub(crate) errors: Vec<Diagnostic>,
    /// Files that are on disk and not in force.
    held_back: Vec<PathBuf>,
    /// When the last good state was written that was started from.
    pub(crate) last_good: Option<String>,
    /// The directory that it is in.
    pub(crate) last_good_in: Option<PathBuf>,
    /// What is wrong on disk, so that it was not started from.
    pub(crate) refused: Vec<Diagnostic>,
}

/// What a load of everything does about an object of the API that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is an error.
    Refuse,
    /// It is left out, and what refers to it denies.
    LeaveOut,
}

/// Sets the log's filter; the subscriber belongs to the command line.
pub(crate) type SetLogFilter = Box<dyn Fn(&Targets) + Send>;

/// The looking thread's state.
pub(crate) struct Reloader {
    /// The configuration file, if there is one.
    config_path: Option<PathBuf>,
    /// The configuration the process started with: what needs a restart is compared with it.
    started_with: Config,
    /// The configuration in force.
    config: Config,
    /// Our own addresses, which are no upstreams.
    listeners: Vec<SocketAddr>,
    /// The policies directory.
    directory: Directory,
    /// What is known of single files.
    files: Files,
    /// Policies.
    library: Library,
    /// Upstreams as last chosen.
    upstreams: Arc<Upstreams>,
    /// What they were chosen from.
    chosen: Chosen,
    /// Where views go.
    engine: Arc<Engine>,
    /// What is told.
    progress: Arc<Progress>,
    /// Changes.
    watch: Watch,
    /// Changes that the API asks for.
    inbox: Arc<Inbox>,
    /// Sets the log's filter.
    set_log_filter: SetLogFilter,
    /// Writes them.
    store: Store,
    /// What the last look found wrong besides the policies.
    apart: Apart,
    /// The policy files whose last good version is in force instead of what is on disk.
    held_back: Vec<PathBuf>,
    /// What is followed.
    followed: Followed,
    /// Compares it with what was read.
    sweep: Sweep,
    /// When what cannot be read for now is tried again.
    retry: Option<Retry>,
    /// Since when what is out of date is so.
    since: Since,
    /// The first reason of each file that is held back, empty if there is none.
    reasons: BTreeMap<PathBuf, String>,
    /// Listeners whose address no interface has.
    absent: Vec<SocketAddr>,
    /// When the last good state was written that was started from, until everything on disk is in force.
    last_good: Option<String>,
    /// Keeps the last good state.
    keeper: Keeper,
    /// Restart-only keys already warned about.
    warned: Vec<&'static str>,
    /// The pace of lines about looks that came to nothing new.
    pace: Pace,
}

/// Why there may be something to tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Something changed on disk.
    Look,
    /// What is on disk was found to differ, or something could not be read: it is not known where the change is.
    Differs,
    /// Somebody asked for a look, and wants to know what came of it.
    Asked,
    /// The API changed something, which its audit record says.
    Change,
}

/// What is wrong with the configuration, the upstreams, or the policies directory as a whole.
#[derive(Default)]
struct Apart {
    /// What is wrong.
    errors: Vec<Diagnostic>,
    /// The files, or the directory, that say something else than what is in force.
    held_back: Vec<PathBuf>,
    /// What is to be warned of in the configuration.
    warnings: Vec<Diagnostic>,
    /// Whether the policies directory could not be read for a reason that passes.
    is_passing: bool,
}

impl Loaded {
    /// Reads and compiles everything the configuration names; at the start, any error is final, but for those of objects of
    /// the API where `broken` says so.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn start(config: &Config, broken: Broken) -> Result<Self, Vec<Diagnostic>> {
        let circular = upstreams::circular_in(config);
        if !circular.is_empty() {
            return Err(circular);
        }
        let (mut directory, mut files) = (Directory::default(), Files::default());
        let root = &config.policies;
        let trusted = Trusted::of(config);
        let read = directory.read(root, &Changes::Anything, &Unfinished::default(), &trusted);
        files.trust(trusted);
        read.map_err(|error| vec![unreadable(root, &error)])?;
        let is_empty = directory.tree.files.is_empty();
        if is_empty && config.control.is_none() {
            let message = "there is no policy file (*.toml) in this directory";
            let help = "write one, as policies/example.toml of the sources shows; without a policy all would be denied";
            return Err(vec![Diagnostic::about_file(root, message).help(help)]);
        }
        let mut read_list = |path: &Path, held| files.read_list(path, held);
        let (tree, lists, bindings) = (&directory.tree, &mut read_list, bindings(config));
        let reloaded = if broken == Broken::LeaveOut {
            Library::serve(tree, lists, &bindings, is_empty)?
        } else {
            let start = if is_empty { Library::start_empty } else { Library::start };
            let (library, warnings) = start(tree, lists, &bindings)?;
            Reloaded { library, swapped: true, diagnostics: warnings.into(), held_back: Vec::new() }
        };
        let Reloaded { library, diagnostics, held_back, .. } = reloaded;
        let (errors, mut warnings): (Vec<_>, Vec<_>) = diagnostics.iter().cloned().partition(Diagnostic::is_error);
        warnings.extend(Trusted::warnings(config));
        let complaints = config.complaints(warnings.iter());
        warnings.extend(complaints);
        let mut followed = directory.followed.clone();
        library.list_paths().for_each(|path| followed.add_file(path));
        Ok(Self {
            directory,
            files,
            library,
            followed,
            warnings,
            errors,
            held_back,
            last_good: None,
            last_good_in: None,
            refused: Vec::new(),
        })
    }

    /// Begins with the last good state, and goes from there to what is on disk as a reload does: what is bad is held back.
    /// `config` is that in force, and `on_disk` what the configuration file at `path` says now.
    ///
    /// # Errors
    /// The last good state does not load: why.
    pub(crate) fn from_last_good(
        kept: &Kept,
        config: &Config,
        (path, on_disk): (&Path, Result<&Config, Vec<Diagnostic>>),
    ) -> Result<Self, Vec<Diagnostic>> {
        let (mut directory, mut files) = (Directory::default(), Files::default());
        let (root, trusted) = (&config.policies, Trusted::of(config));
        let read = directory.read(root, &Changes::Anything, &Unfinished::default(), &trusted);
        files.trust(trusted);
        let base = kept.tree(root, &directory.tree);
        let mut read_kept = |path: &Path, _| kept.read_list(root, path);
        let Reloaded { mut library, .. } = Library::serve(&base, &mut read_kept, &bindings(config), false)?;
        let (mut errors, mut warnings, mut held_back) = (Vec::new(), Vec::new(), Vec::new());
        let wanted = match on_disk {
            Ok(config) => config,
            Err(wrong) => {
                errors.extend(wrong);
                held_back.push(path.to_owned());
                config
            }
        };
        if let Err(error) = read {
            errors.push(unreadable(root, &error));
            held_back.push(root.clone());
        } else {
            let mut read_list = |path: &Path, held| files.read_list(path, held);
            let reloaded = library.reload(&directory.tree, &mut read_list, &bindings(wanted));
            held_back.extend(reloaded.held_back);
            let all = reloaded.diagnostics.iter().cloned();
            let (wrong, others): (Vec<_>, Vec<_>) = all.partition(Diagnostic::is_error);
            errors.extend(wrong);
            warnings.extend(others);
            library = reloaded.library;
        }
        warnings.extend(Trusted::warnings(wanted));
        let mut followed = directory.followed.clone();
        library.list_paths().for_each(|path| followed.add_file(path));
        let last_good = Some(kept.written());
        let last_good_in = Some(kept.directory().to_owned());
        Ok(Self {
            directory,
            files,
            library,
            followed,
            warnings,
            errors,
            held_back,
            last_good,
            last_good_in,
            refused: Vec::new(),
        })
    }

    /// Returns what is wrong on disk: with what is held back, and with what was not started from.
    pub(crate) fn wrong(&self) -> Vec<Diagnostic> {
        let known: BTreeSet<String> = self.errors.iter().map(ToString::to_string).collect();
        let refused = self.refused.iter().filter(|error| !known.contains(&error.to_string()));
        self.errors.iter().chain(refused).cloned().collect()
    }

    /// Returns whether a file is held back.
    pub(crate) fn holds_back(&self, path: &Path) -> bool {
        self.held_back.iter().any(|held| held == path)
    }

    /// Returns the files that are held back.
    pub(crate) fn held_back(&self) -> &[PathBuf] {
        &self.held_back
    }

    /// Reads a file that the configuration names besides the policies.
    pub(crate) fn read(&mut self, path: &Path) -> files::Text {
        self.files.read(path)
    }

    /// Returns the policies.
    pub(crate) fn library(&self) -> &Library {
        &self.library
    }
}

impl Reloader {
    /// Takes over what was loaded.
    pub(crate) fn new(
        loaded: Loaded,
        (config_path, config): (Option<PathBuf>, Config),
        listeners: Vec<SocketAddr>,
        (upstreams, chosen): (Arc<Upstreams>, Chosen),
        engine: Arc<Engine>,
        set_log_filter: SetLogFilter,
    ) -> Self {
        let mut state = state(&loaded.library, loaded.warnings.into(), &chosen);
        let errors = summary::lines(loaded.errors.iter(), MAX_TOLD_ERRORS, "errors").join("\n");
        state.error = (!errors.is_empty()).then_some(errors);
        state.held_back = summary::paths(loaded.held_back.iter());
        let reasons = reasons(loaded.held_back.iter(), loaded.errors.iter());
        let progress = Arc::new(Progress::new(state));
        let watch = Watch::new(progress.heartbeat().clone());
        let mut reloader = Self {
            config_path,
            started_with: config.clone(),
            config,
            listeners,
            directory: loaded.directory,
            files: loaded.files,
            library: loaded.library,
            upstreams,
            chosen,
            engine,
            progress,
            watch,
            inbox: Arc::default(),
            set_log_filter,
            store: Store::default(),
            apart: Apart::default(),
            held_back: loaded.held_back,
            followed: Followed::default(),
            sweep: Sweep::new(),
            retry: None,
            since: Since::default(),
            reasons,
            absent: Vec::new(),
            last_good: loaded.last_good,
            keeper: Keeper::new(),
            warned: Vec::new(),
            pace: Pace::new(),
        };
        reloader.follow(loaded.followed);
        reloader.look_for_addresses();
        reloader.tell_what_is_out_of_date();
        reloader
    }

    /// Returns what is in force and what is held back.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Returns a handle that asks for a look.
    pub(crate) fn waker(&self) -> Waker {
        self.watch.waker()
    }

    /// Returns a handle that makes changes.
    pub(crate) fn changer(&self) -> Changer {
        Changer::new(Arc::clone(&self.inbox), self.watch.waker(), Arc::clone(&self.progress))
    }

    /// Looks whenever woken, and makes the changes that are asked for, until told to stop.
    pub(crate) fn run(mut self) {
        yield_to_queries();
        // What happened between the first reading and the first watch went unnoticed.
        self.watch.look_again();
        loop {
            match self.watch.wait(self.next_tick()) {
                Wake::Stop => {
                    self.keep_last();
                    break;
                }
                Wake::Wanted => self.make_changes(),
                Wake::Tick => self.tick(),
                Wake::Changed => self.look_and_follow(Occasion::Look),
                Wake::Asked => self.look_and_follow(Occasion::Asked),
            }
        }
        self.inbox.close();
    }

    /// Looks, and watches what was read.
    fn look_and_follow(&mut self, occasion: Occasion) {
        let _busy = self.progress.begin();
        let followed = self.look(occasion);
        self.follow(followed);
        self.plan_retry();
        self.tell_what_is_out_of_date();
    }

    /// Watches what was read, and what configuration and upstreams are read from.
    fn follow(&mut self, mut followed: Followed) {
        // The directory itself may be replaced by another one under its name.
        followed.add_file(&self.config.policies);
        followed.add_directory(&self.config.policies);
        if let Some(path) = &self.config_path {
            followed.add_file(path);
        }
        if let config::Servers::System(path) = &self.config.upstream.servers {
            followed.add_file(path);
        }
        self.followed.clone_from(&followed);
        // A directory watched only now may have changed since it was read.
        let progress = Arc::clone(&self.progress);
        let _disk = progress.disk();
        if self.watch.follow(followed) {
            self.watch.look_again();
        }
    }

    /// Reads what may have changed, swaps what is good and tells what is not; returns what to watch.
    fn look(&mut self, occasion: Occasion) -> Followed {
        let mut apart = Apart::default();
        let progress = Arc::clone(&self.progress);
        let changes = self.watch.changes();
        let changes = if occasion == Occasion::Look { changes } else { Changes::Anything };
        self.files.unfinished = Unfinished::of(self.watch.unfinished());
        let disk = progress.disk();
        let new_config = self.read_config(&mut apart);
        let mut followed = Followed::default();
        let (mut diagnostics, mut held_back) = (Diagnostics::default(), Vec::new());
        let before = Arc::clone(self.library.snapshot());
        let mut replaced = None;
        let trusted = Trusted::of(&new_config);
        let read = self.directory.read(&self.config.policies, &changes, &self.files.unfinished, &trusted);
        self.files.trust(trusted);
        drop(disk);
        if let Err(error) = read {
            apart.held_back.push(self.config.policies.clone());
            apart.errors.push(unreadable(&self.config.policies, &error));
            apart.is_passing = files::is_passing(&error);
            if apart.is_passing {
                // What is known of it stays, and so does what is watched.
                followed = self.followed.clone();
            }
        } else {
            followed = self.directory.followed.clone();
            let files = &mut self.files;
            let mut read_list = |path: &Path, held| {
                let _disk = progress.disk();
                files.read_list(path, held)
            };
            let reloaded = self.library.reload(&self.directory.tree, &mut read_list, &bindings(&new_config));
            // A policy that does not exist, named in the configuration, holds back the whole of it.
            if !self.config_path.as_ref().is_some_and(|path| reloaded.held_back.contains(path)) {
                self.take_config(new_config);
            }
            (diagnostics, held_back) = (reloaded.diagnostics, reloaded.held_back);
            replaced = Some(std::mem::replace(&mut self.library, reloaded.library));
            self.files.forget_unused();
        }
        {
            let _disk = progress.disk();
            self.choose_upstreams(&mut apart);
        }
        apart.warnings = Trusted::warnings(&self.config);
        self.apart = apart;
        self.publish(&before);
        // Freeing what was kept of many files takes its time, so it comes after what everybody waits for.
        drop(replaced);
        self.tell(&before, held_back, diagnostics, occasion);
        self.library.list_paths().for_each(|path| followed.add_file(path));
        followed
    }

    /// Reads the configuration file; keeps the one in force when it is bad.
    fn read_config(&mut self, apart: &mut Apart) -> Config {
        let Some(path) = &self.config_path else { return self.config.clone() };
        let read = self.files.read(path).map_err(|reason| vec![Diagnostic::about_file(path, reason)]);
        match read.and_then(|text| Config::parse(path, text)) {
            // Who had another one is more likely writing it than wants the defaults.
            Ok(config) if config.is_blank && !self.config.is_blank => {
                let error = Diagnostic::about_file(path, "the file is empty, as if half written");
                let help = "what it said before stays in force; for the defaults, write a comment into it";
                apart.errors.push(error.help(help));
                apart.held_back.push(path.clone());
                self.config.clone()
            }
            Ok(config) => {
                let changed = config::changed_keys(&self.started_with, &config);
                for key in changed.iter().filter(|key| !self.warned.contains(key)) {
                    tracing::warn!(key, "changed in the configuration file; takes a restart to go into force");
                }
                self.warned = changed;
                config::in_place_of(&self.config, &config)
            }
            Err(wrong) => {
                apart.errors.extend(wrong);
                apart.held_back.push(path.clone());
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

    /// Chooses upstreams anew where their list changed.
    fn choose_upstreams(&mut self, apart: &mut Apart) {
        if let config::Servers::System(path) = &self.config.upstream.servers
            && self.files.is_unfinished(path)
        {
            // It is looked at again when it is closed.
            return;
        }
        let read = &mut |path: &Path| self.files.read(path);
        let chosen = upstreams::choose(&self.config.upstream, &self.listeners, read);
        if let config::Servers::System(path) = &self.config.upstream.servers
            && self.files.observed_at(path).is_some_and(Observed::is_passing)
        {
            // That it cannot be read for now says nothing of whom it names.
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
                            tracing::error!(%error, "no upstream is named any more; asking the last ones on");
                        }
                        None if self.chosen.error.is_some() => tracing::info!("upstreams are named again"),
                        None => {}
                    }
                    self.chosen = chosen;
                }
            }
            Err(wrong) => {
                apart.errors.extend(wrong);
                apart.held_back.extend(self.config_path.clone());
            }
        }
    }

    /// Puts a new view into force if anything in it differs from the one that is.
    fn publish(&self, before: &Arc<crate::policy::Snapshot>) {
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

    /// Tells log, status and metrics what the look came to.
    fn tell(
        &mut self,
        before: &Arc<crate::policy::Snapshot>,
        held_back: Vec<PathBuf>,
        mut diagnostics: Diagnostics,
        occasion: Occasion,
    ) {
        diagnostics.add(self.apart.warnings.clone());
        let complaints = self.config.complaints(diagnostics.iter());
        diagnostics.add(complaints);
        let swapped = !Arc::ptr_eq(before, self.library.snapshot());
        let errors = self.apart.errors.iter().chain(diagnostics.errors());
        let errors = summary::lines(errors, MAX_TOLD_ERRORS, "errors").join("\n");
        let paths = self.apart.held_back.iter().chain(&held_back);
        self.reasons = reasons(paths, self.apart.errors.iter().chain(diagnostics.errors()));
        let mut state = state(&self.library, diagnostics, &self.chosen);
        let old = self.progress.state();
        self.held_back = held_back;
        let held_back = self.apart.held_back.iter().chain(&self.held_back);
        let held_back: BTreeSet<&PathBuf> = held_back.collect();
        state.held_back = summary::paths(held_back.into_iter());
        state.error = (!errors.is_empty()).then_some(errors);
        if state.error.is_none() {
            self.last_good = None;
        }
        if !swapped {
            state.loaded_at.clone_from(&old.loaded_at);
        }
        let asked = occasion == Occasion::Asked;
        if occasion != Occasion::Change {
            self.keeper.note();
        }
        if swapped {
            let State { generation, hash, policies, blueprints, clients, .. } = &state;
            if occasion == Occasion::Change {
                tracing::debug!(generation, hash, policies, blueprints, clients, "policies swapped");
            } else {
                tracing::info!(generation, hash, policies, blueprints, clients, "policies swapped");
            }
            self.progress.count_swap();
        }
        log_warnings(state.warnings.new_warnings(&old.warnings));
        // Said once, not for each client that comes or goes.
        let (new, known) = (&state.without_policy, &old.without_policy);
        if (&new.policy, new.count == 0) != (&known.policy, known.count == 0) {
            log_without(self.library.snapshot());
        }
        // Said once: events that have nothing to do with a bad file make us look at it again.
        match &state.error {
            Some(error) if asked || state.error != old.error || state.held_back != old.held_back => {
                let is_new = state.error != old.error || state.held_back != old.held_back;
                if let Some(untold) = if is_new { Some(0) } else { self.pace.line(Instant::now()) } {
                    let untold = (untold > 0).then_some(untold);
                    let path = state.held_back.join(" ");
                    let generation = state.generation;
                    let error = error.replace('\n', "; ");
                    tracing::error!(path, generation, error, untold, "policy not reloaded; keeping the one in force");
                }
                self.progress.count_failure();
            }
            None if old.error.is_some() => {
                tracing::info!(generation = state.generation, "everything on disk is in force again");
            }
            None if asked && !swapped => {
                if let Some(untold) = self.pace.line(Instant::now()) {
                    let untold = (untold > 0).then_some(untold);
                    tracing::info!(generation = state.generation, untold, "nothing changed");
                }
            }
            _ => {}
        }
        (state.out_of_date, state.out_of_date_total) = (old.out_of_date.clone(), old.out_of_date_total);
        if state != *old {
            self.progress.set(state);
        }
        self.tell_what_is_out_of_date();
    }
}

/// Returns the first error of each of some files: one at a place in it, else one that names the file, else the first of all,
/// which holds back what goes into force together with it.
fn reasons<'d>(
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

/// Lowers the priority of this thread, and of those it starts, so that reading a million names delays no query; a sandbox
/// may forbid that.
fn yield_to_queries() {
    /// About a quarter of the weight of a receiving thread (sched(7)).
    const NICE: i32 = 5;
    // Of the calling thread: the kernel has priorities by thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "priority not lowered");
    }
}

/// How many clients without a policy the status names.
const MOST_NAMED: usize = 10;

/// Returns what `/status` says of a library.
fn state(library: &Library, warnings: Diagnostics, chosen: &Chosen) -> State {
    let snapshot = library.snapshot();
    let (clients, more) = snapshot.clients_without_policy(MOST_NAMED);
    let without_policy = Without {
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

/// Returns what the configuration says that goes into force with the policies.
pub(crate) fn bindings(config: &Config) -> Bindings {
    Bindings {
        default_policy: config.default_policy.clone(),
        listeners: config.listen.iter().map(|listen| listen.policy.clone()).collect(),
        devbox_suffix: config.devbox_suffix.clone(),
        without_policy: config.without_policy,
    }
}

/// Says that the policies directory cannot be read.
fn unreadable(root: &Path, error: &std::io::Error) -> Diagnostic {
    let help = match error.kind() {
        std::io::ErrorKind::NotFound => "make it and put a policy file in it, or set `policies` in hostgate.toml",
        std::io::ErrorKind::PermissionDenied => "make it readable for the user hostgate runs as",
        std::io::ErrorKind::NotADirectory => "`policies` names a directory of *.toml files, not a file",
        _ => "the policies in force, if any, stay so until it can be read",
    };
    Diagnostic::about_file(root, format!("the policies directory cannot be read: {error}")).help(help)
}

/// Writes to the log what applies where no policy is named, if that is so for a client.
pub(crate) fn log_without(snapshot: &crate::policy::Snapshot) {
    if let Some(told) = snapshot.told_without() {
        tracing::info!("{}", escaped(&told));
    }
}

/// Writes warnings to the log: the first ones, and how many more there are.
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
